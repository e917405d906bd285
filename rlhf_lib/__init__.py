"""Reinforcement learning from human feedback, small enough to read in one sitting.

Lower layers never import upper ones. Read from the top::

    mathematics   tilt              the exact optimum on finite sets
                  kl                divergence, exact and estimated; adaptive beta
                  advantages        masked statistics, GAE, group baselines
                  bradley_terry     comparisons: scores that fit them, Borda, agreement
                  calibration       whether probabilities mean what they say
                  overoptimization  gold reward against distance: Gao's forms, fitted
                  losses            every loss, a function of tensors and a mask
    models        policy            a causal LM at a scale; encoding and scoring
                  reward_model      trunk + scalar head; critic
                  rollout           batched sampling with log-probabilities
                  rewards           learned, verified, ruled or judged: one callable
                  memory            bytes of weights, gradients, optimiser and activations
    worlds        worlds.letters    prompts, authors, annotators, and a gold utility
                  worlds.sums       additions with a verifier, strict or hackable
                  data              real preferences and prompts, from the hub or from files
                  labels            comparisons made by hand, in a file that is only added to
    algorithms    sft, reward_training, ppo, grpo, dpo, best_of_n
                                    one file each; training has what they share
                  microbatches      a minibatch in parts that fit into memory
                  precision         products in bfloat16 over float32 weights
                  processes         a batch shared out under accelerate launch
    running       evaluation        held-out measurements with their errors
                  runlog            logs in JSON lines, checkpoints that are whole
                  artifacts         shipped checkpoints, and how each is rebuilt
                  __main__, commands, report
                                    the command line: python -m rlhf_lib --help
    seeing        plots, widgets    figures and interactive demos

`import rlhf_lib` loads none of these; import what you use, such as `from rlhf_lib.ppo import PPO`.
The folder works as a bare copy, without being installed.
"""

__version__ = "0.1.0"
