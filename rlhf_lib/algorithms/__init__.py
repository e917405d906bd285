"""The algorithms, one file each.

It may import mathematics, models, worlds and machinery.
"""

from .best_of_n import RejectionSampling, RejectionSamplingConfig
from .dpo import DPO, DPOConfig
from .grpo import GRPO, VARIANTS, GRPOConfig
from .ppo import PPO, PPOConfig
from .reward_training import RewardConfig, RewardTraining
from .sft import SFT, SFTConfig

__all__ = [
    "DPO",
    "DPOConfig",
    "GRPO",
    "GRPOConfig",
    "PPO",
    "PPOConfig",
    "RejectionSampling",
    "RejectionSamplingConfig",
    "RewardConfig",
    "RewardTraining",
    "SFT",
    "SFTConfig",
    "VARIANTS",
]
