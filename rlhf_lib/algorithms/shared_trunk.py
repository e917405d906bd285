"""PPO with one trunk: the critic is a value head on the policy, and both losses pull at it.

One model less to train, and one forward pass for both outputs; the price is that the value loss
moves the policy's weights too. All else is PPO.

Source: Schulman et al. 2017, arXiv:1707.06347, eq. 9. Chapters: credit, ppo-live.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..families.adapters import needed_reference
from ..mathematics.losses import aggregate, clipped_value_loss
from ..models.reward_model import SharedCritic
from ..models.rewards import RewardFunction
from .loop import OnlineLoop
from .ppo import PPO, Experience, PPOConfig, demonstrations_of


class SharedTrunkPPO(PPO):
    """PPO whose critic is a value head on the policy's trunk, and starts at zero.

    `value_coefficient` of the settings is the weight of the value loss; `critic_learning_rate` has
    no effect. Parameters and errors are those of `PPO`, without its critic.

    Chapter: ppo-live.
    """

    def __init__(
        self,
        policy,
        reference,
        tokenizer,
        reward: RewardFunction,
        dataset,
        config: PPOConfig = PPOConfig(),
        ptx=None,
    ):
        reference = needed_reference(policy, reference)
        self.updates, self.ptx = 0, demonstrations_of(ptx, tokenizer, config, policy)
        self.policy, self.reference, self.critic = policy, reference, SharedCritic(policy)
        models = {"policy": policy}, {"reference": reference}
        OnlineLoop.__init__(self, config, tokenizer, reward, dataset, *models)

    def optimizer(self, model) -> torch.optim.Optimizer:
        """Of the trunk and both heads."""
        return super().optimizer(self.critic)

    def stateful(self) -> dict:
        return {**super().stateful(), "value_head": self.critic.score}

    def update(self, batch: Experience) -> dict:
        """One gradient step of the trunk and both heads on a minibatch."""
        losses = {"policy_loss": (self.shared_loss, batch), **self.ptx_loss()}
        record = self.machine.descend(self.critic, self.optimizers["policy"], losses)
        self.updates += 1
        return record

    def shared_loss(self, batch: Experience) -> tuple[Tensor, dict]:
        """Both losses of one forward pass, added up; seen is each by itself."""
        c = self.config
        logprobs, values = self.critic.logprobs_and_values(batch, c.temperature)
        policy_loss, seen = self.surrogate(logprobs, batch)
        error = clipped_value_loss(values, batch.values, batch.returns, c.epsilon_value)
        value_loss = aggregate(error, batch.completion_mask)
        seen |= {"policy_loss": policy_loss.item(), "value_loss": value_loss.item()}
        return policy_loss + c.value_coefficient * value_loss, seen
