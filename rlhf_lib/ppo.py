"""Proximal policy optimisation against a learned reward, held near a reference by a KL penalty.

One step, in the order of the chapter's algorithm box:

1. sample completions of a batch of prompts from the policy
2. score them with the reward function
3. price the distance from the reference: per token −β (log π − log π_ref), score on the last token
4. estimate advantages with the critic (GAE), whiten them
5. a few epochs of minibatches: clipped policy loss, clipped value loss

It leaves out, against the larger implementations: reward scaling by a running deviation (the
reward is standardised once, before), early stopping inside a step, and a shared trunk for policy
and critic. Axes: B batch, T completion tokens. Source: Schulman et al. 2017, arXiv:1707.06347;
for language models Ziegler et al. 2019, arXiv:1909.08593, and Ouyang et al. 2022,
arXiv:2203.02155. Chapter: ppo-live.
"""
from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Iterator

import torch
from torch import Tensor

from .advantages import gae, masked_variance, masked_whiten
from .kl import AdaptiveKL, k1
from .losses import aggregate, clip_fraction, clipped_policy_loss, clipped_value_loss
from .policy import token_logprobs
from .reward_model import state_values
from .rewards import RewardFunction
from .rollout import Rollout, sample
from .runlog import load_checkpoint, save_checkpoint
from .training import (adam, check_apart, check_settings, descend, freeze, rollout_record,
                       rows_of_step, score, set_learning_rate, train_without_dropout)


@dataclass(frozen=True)
class PPOConfig:
    """Settings, named as TRL names them where TRL has them."""

    max_steps: int = 45
    batch_size: int = 64  # completions a step
    mini_batch_size: int = 32
    num_ppo_epochs: int = 2  # passes over each batch
    max_new_tokens: int = 32
    temperature: float = 1.
    beta: float = .1  # reward per nat of KL
    target_kl: float | None = None  # nats per completion; given one, beta adapts to it
    kl_horizon: int = 640  # completions over which an adaptive beta moves by its error
    epsilon: float = .2  # clip of the policy ratio
    epsilon_value: float | None = .2  # clip of the critic's move; None for no clip
    gamma: float = 1.
    lam: float = .95
    missing_eos_penalty: float = 1.  # taken off the score of a completion that was cut off
    learning_rate: float = 3e-4
    critic_learning_rate: float = 5e-4
    warmup_steps: int = 3  # a cold Adam takes its largest steps first; this keeps them small
    max_grad_norm: float = 1.
    seed: int = 0  # prompts, samples and minibatches


class PPO:
    """Step through PPO; `for record in PPO(...)` trains to the end, and can stop anywhere.

    `beta` is an attribute: turn it while the loop runs. `rollout` holds the last batch.

    Parameters
    ----------
    policy : transformers causal language model
        Trained in place.
    reference : transformers causal language model
        π_ref; frozen here.
    critic : transformers.PreTrainedModel
        A sequence classifier with one label, trained in place; usually a copy of the reward
        model, which is where it should start.
    tokenizer : PreTrainedTokenizerBase
    reward : callable
        `reward(prompts=..., completions=...)` returns one float per completion.
    dataset : datasets.Dataset
        Column `prompt`.
    config : PPOConfig

    Raises
    ------
    ValueError
        If a setting is out of range, or a reward is missing or not finite.
    RuntimeError
        If the reward function raises.
    FloatingPointError
        If a loss or gradient is not finite. The weights are those before the update.
    """

    def __init__(self, policy, reference, critic, tokenizer, reward: RewardFunction, dataset,
                 config: PPOConfig = PPOConfig()):
        check_settings(config)
        check_apart(policy=policy, reference=reference, critic=critic)
        self.policy, self.reference, self.critic = policy, reference, critic
        self.tokenizer, self.reward, self.config = tokenizer, reward, config
        self.prompts = list(dataset["prompt"])
        self.beta = config.beta
        self.controller = AdaptiveKL(config.target_kl, config.kl_horizon) \
            if config.target_kl is not None else None
        freeze(reference)
        for model in (policy, critic):
            train_without_dropout(model)
        self.optimizers = {
            "policy": adam(policy, config.learning_rate),
            "critic": adam(critic, config.critic_learning_rate)}
        self.sampler = torch.Generator(policy.device).manual_seed(config.seed)
        self.shuffler = torch.Generator().manual_seed(config.seed)
        self.step_number = 0
        self.rollout: Rollout | None = None

    def step(self) -> dict:
        """Sample, score, estimate advantages, update; return the record of the step."""
        start = time.perf_counter()
        c = self.config
        rows = rows_of_step(len(self.prompts), c.batch_size, self.step_number, c.seed)
        rollout = sample(self.policy, self.tokenizer, [self.prompts[i] for i in rows],
                         c.max_new_tokens, c.temperature, self.sampler)
        scores = score(self.reward, rollout, c.missing_eos_penalty)
        with torch.no_grad():
            ref_logprobs = token_logprobs(self.reference, rollout, c.temperature)
            old_values = state_values(self.critic, rollout) * rollout.completion_mask
        log_ratio = rollout.logprobs - ref_logprobs
        rewards = token_rewards(scores, log_ratio, rollout.completion_mask, self.beta)
        advantages, returns = gae(rewards, old_values, rollout.completion_mask, c.gamma, c.lam)
        advantages = masked_whiten(advantages, rollout.completion_mask)

        warmth = min(1, (self.step_number + 1) / (c.warmup_steps + 1))
        set_learning_rate(self.optimizers["policy"], warmth * c.learning_rate)
        set_learning_rate(self.optimizers["critic"], warmth * c.critic_learning_rate)
        updates = []
        for _ in range(c.num_ppo_epochs):
            order = torch.randperm(c.batch_size, generator=self.shuffler)
            for minibatch in order.split(c.mini_batch_size):
                updates.append(self.update(rollout, minibatch, advantages, old_values, returns))

        kl = k1(log_ratio).sum(dim=1).mean().item()
        record = {
            "step": self.step_number + 1, "reward": scores.mean().item(), "kl": kl,
            "beta": self.beta, **rollout_record(rollout),
            **{name: sum(u[name] for u in updates) / len(updates) for name in updates[0]},
            "ratio_gap": updates[0]["ratio_gap"],  # before any update: numerical error alone
            "explained_variance": explained_variance(old_values, returns, rollout.completion_mask),
            "seconds": time.perf_counter() - start}
        if self.controller:
            self.beta = self.controller(self.beta, kl, c.batch_size)
        self.rollout = rollout
        self.step_number += 1
        return record

    def update(self, rollout: Rollout, rows: Tensor, advantages: Tensor, old_values: Tensor,
               returns: Tensor) -> dict:
        """One gradient step of policy and critic on some rows of the batch."""
        c, batch = self.config, rollout[rows]
        mask, old_logprobs = batch.completion_mask, rollout.logprobs[rows]

        logprobs = token_logprobs(self.policy, batch, c.temperature)
        policy_loss = aggregate(
            clipped_policy_loss(logprobs, old_logprobs, advantages[rows], c.epsilon), mask)
        gradient_norm = descend(self.policy, self.optimizers["policy"], policy_loss,
                                c.max_grad_norm)

        values = state_values(self.critic, batch)
        value_loss = aggregate(
            clipped_value_loss(values, old_values[rows], returns[rows], c.epsilon_value), mask)
        descend(self.critic, self.optimizers["critic"], value_loss, c.max_grad_norm)

        logprobs = logprobs.detach()
        return {"policy_loss": policy_loss.item(), "value_loss": value_loss.item(),
                "clip_fraction": clip_fraction(logprobs, old_logprobs, advantages[rows], mask,
                                               c.epsilon),
                "ratio_gap": (torch.exp(logprobs - old_logprobs) - 1).abs().max().item(),
                "gradient_norm": gradient_norm}

    def __iter__(self) -> Iterator[dict]:
        while self.step_number < self.config.max_steps:
            yield self.step()

    def save(self, folder: str | os.PathLike) -> None:
        """Write a checkpoint: policy and critic as `save_pretrained` folders, and the loop state."""
        save_checkpoint(folder, {"policy": self.policy, "critic": self.critic,
                                 "tokenizer": self.tokenizer}, {
            "step_number": self.step_number, "beta": self.beta,
            "sampler": self.sampler.get_state(), "shuffler": self.shuffler.get_state(),
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()}})

    def resume(self, folder: str | os.PathLike) -> None:
        """Continue from a checkpoint as if the run had not stopped: the same numbers follow."""
        state = load_checkpoint(folder, {"policy": self.policy, "critic": self.critic})
        self.step_number, self.beta = state["step_number"], state["beta"]
        self.sampler.set_state(state["sampler"])
        self.shuffler.set_state(state["shuffler"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])


# ------------------------------------------------------------------ the parts of a step, by name

def token_rewards(scores: Tensor, log_ratio: Tensor, mask: Tensor, beta: float) -> Tensor:
    """The reward of each token: the KL penalty everywhere, the score on the last real token.

    Parameters
    ----------
    scores : Tensor, shape (B,)
    log_ratio : Tensor, shape (B, T)
        log π − log π_ref of the sampled tokens; detached, as it is part of the reward.
    mask : Tensor, shape (B, T)
    beta : float
        Reward per nat.

    Returns
    -------
    Tensor, shape (B, T)

    Source: Ziegler et al. 2019, arXiv:1909.08593, section 2.2. Chapter: ppo-live.

    Examples
    --------
    >>> token_rewards(torch.tensor([2.]), torch.tensor([[1., -1., 7.]]),
    ...               torch.tensor([[1, 1, 0]]), beta=.5)
    tensor([[-0.5000,  2.5000,  0.0000]])
    """
    rewards = -beta * log_ratio.detach() * mask
    last = mask.sum(dim=1, keepdim=True) - 1
    return rewards.scatter_add(1, last, scores[:, None].to(rewards.dtype)) + 0.  # + 0. turns -0. into 0.


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 − Var(returns − values)/Var(returns) over real tokens: 1 is a perfect critic, 0 a constant.
    """
    return 1 - (masked_variance(returns - values, mask) / masked_variance(returns, mask)).item()
