"""Reinforcement learning from human feedback, small enough to read in one sitting.

Lower layers never import upper ones. Read from the top::

    mathematics   tilt              the exact optimum on finite sets
                  kl                divergence, exact and estimated; adaptive beta
                  advantages        masked statistics, GAE, group baselines
                  losses            every loss, a function of tensors and a mask
    models        policy            a causal LM at a scale; encoding and scoring
                  reward_model      trunk + scalar head; critic
                  rewards           one callable for every kind of reward
                  rollout           batched sampling with log-probabilities
    worlds        worlds.letters    prompts, authors, annotators, and a gold utility
    algorithms    sft, reward_training, ppo, grpo
                                    one file each; training has what they share
    running       evaluation        held-out measurements with their errors
                  runlog            logs in JSON lines, checkpoints that are whole
                  artifacts         shipped checkpoints, and how each is rebuilt
    seeing        plots, widgets    figures and interactive demos

`import rlhf_lib` loads none of these; import what you use, such as `from rlhf_lib.ppo import PPO`.
The folder works as a bare copy, without being installed.
"""

__version__ = "0.1.0"
