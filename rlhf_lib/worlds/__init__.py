"""Where prompts and preferences come from: small worlds with a known reward, and real data.

It may import mathematics, machinery and models.
"""
