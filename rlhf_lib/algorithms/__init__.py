"""The algorithms, one file each, and the loop that they share.

It may import mathematics, machinery, models and worlds.
"""

from .best_of_n import RejectionSampling, RejectionSamplingConfig
from .dpo import DPO, DPOConfig
from .grpo import GRPO, GRPOConfig
from .ppo import PPO, PPOConfig
from .reward_training import RewardConfig, RewardTraining
from .sft import SFT, SFTConfig
from .shared_trunk import SharedTrunkPPO
from .variants import VARIANTS
