"""Reinforcement learning from human feedback, small enough to read.

Seven rooms; lower ones never import upper ones. Read from the top::

    mathematics   tilt              the exact optimum on finite sets
                  kl                divergence, exact and estimated; adaptive beta
                  advantages        masked statistics, GAE, group baselines
                  losses            every loss, a function of tensors and a mask
                  bradley_terry     comparisons: scores that fit them, Borda, agreement
                  calibration       whether probabilities mean what they say
                  intervals         of a share of trials, and of a mean of few values
                  overoptimization  gold reward against distance: Gao's forms, fitted
                  checks            of arguments, with errors that name them
    models        tokens            text as tokens; the log-probability of each
                  policy            a causal language model at a scale
                  reward_model      trunk and scalar head; critic
                  rollout           a batch of completions, with log-probabilities
                  decoding          one token a row at a time, through a cache
                  rewards           learned, verified, ruled or judged: one callable
    worlds        letters           prompts, authors, annotators, and a gold utility
                  sums              additions with a verifier, strict or hackable
                  data              real preferences and prompts, from the hub or from files
                  labels            comparisons made by hand, in a file that is only added to
    machinery     training          what the loops share
                  microbatches      a minibatch in parts that fit into memory
                  precision         products in bfloat16 over float32 weights
                  processes         a batch shared out under accelerate launch
                  checkpoints       whole, or not there
                  memory            bytes of weights, gradients, optimiser and activations
    algorithms    sft, reward_training, ppo, grpo, dpo, best_of_n
                                    one file each
    seeing        plots, widgets    figures and interactive demos
    running       artifacts         shipped checkpoints, and how each is rebuilt
                  evaluation        held-out measurements with their errors
                  log               what a run leaves behind, in JSON lines
                  command_line, commands, report
                                    python -m rlhf_lib --help

`import rlhf_lib` loads none of these; import what you use, such as
`from rlhf_lib.algorithms import PPO, PPOConfig`. The folder works as a bare copy, without being
installed.
"""

__version__ = "0.1.0"
