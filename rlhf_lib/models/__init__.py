"""Language models: tokens, policies, reward models and critics, sampling, rewards.

It may import mathematics and machinery.
"""
