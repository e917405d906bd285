"""Proximal policy optimisation against a learned reward, held near a reference by a KL penalty.

One step, in the order of the chapter's algorithm box:

1. sample completions of a batch of prompts from the policy
2. score them with the reward function
3. price the distance from the reference: per token −β (log π − log π_ref), score on the last token
4. estimate advantages with the critic (GAE), whiten them
5. a few epochs of minibatches: clipped policy loss, clipped value loss

The critic is a model of its own, or, with `critic=None`, a value head on the policy's trunk. It
leaves out, against the larger implementations: reward scaling by a running deviation (the reward
is standardised once, before), and early stopping inside a step. Axes: B batch, T completion
tokens. Source: Schulman et al. 2017, arXiv:1707.06347; for language models Ziegler et al. 2019,
arXiv:1909.08593, and Ouyang et al. 2022, arXiv:2203.02155. Chapters: ppo-mechanics, ppo-live.
"""
from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Iterator

import torch
from torch import Tensor

from .advantages import explained_variance, gae, masked_mean, masked_whiten, token_rewards
from .kl import AdaptiveKL, k1
from .losses import (aggregate, clip_fraction, clipped_policy_loss, clipped_value_loss, sft_loss)
from .policy import encode, token_logprobs
from .reward_model import SharedCritic, check_one_output, state_values
from .rewards import RewardFunction
from .rollout import Rollout, sample
from .runlog import load_checkpoint, save_checkpoint
from .training import (Price, adam, check_apart, check_positive, check_settings, column, descend,
                       freeze, prompt_table, rollout_record, rows_of_step, score,
                       set_learning_rate, take, train_without_dropout, warn_if_constant)


@dataclass(frozen=True)
class PPOConfig:
    """Settings, named as TRL names them where TRL has them.

    Chapter: ppo-live.
    """

    max_steps: int = 45  # steps of the whole run
    batch_size: int = 64  # completions a step
    mini_batch_size: int = 32  # completions of one update
    num_ppo_epochs: int = 2  # passes over each batch
    max_new_tokens: int = 32  # longest completion, its end token included
    temperature: float = 1.  # of sampling and scoring; at 1 the policy itself
    beta: float = .1  # reward per nat of KL
    target_kl: float | None = None  # nats per completion; given one, beta adapts to it
    kl_horizon: int = 640  # completions over which an adaptive beta moves by its error
    epsilon: float = .2  # clip of the policy ratio
    dual_clip: float | None = None  # bound of the ratio where the advantage is negative
    epsilon_value: float | None = .2  # clip of the critic's move; None for no clip
    value_coefficient: float = .1  # weight of the value loss; for a shared trunk only
    gamma: float = 1.  # discount of a token
    lam: float = .95  # λ of generalised advantage estimation
    missing_eos_penalty: float = 1.  # taken off the score of a completion that was cut off
    ptx_coefficient: float = 0.  # weight of the SFT loss on `ptx`, against lost ability
    learning_rate: float = 3e-4  # of the policy
    critic_learning_rate: float = 5e-4  # of the critic
    warmup_steps: int = 3  # a cold Adam takes its largest steps first; this keeps them small
    max_grad_norm: float = 1.  # longer gradients are clipped to it
    seed: int = 0  # prompts, samples and minibatches


class PPO:
    """Step through PPO; `for record in PPO(...)` trains to the end, and can stop anywhere.

    `beta` is an attribute: turn it while the loop runs, to 0 or more. `rollout` holds the last
    batch.

    Source: as for this module; the ptx mix from Ouyang et al. 2022, eq. 2. Chapters:
    ppo-mechanics, ppo-live.

    Parameters
    ----------
    policy : transformers causal language model
        Trained in place.
    reference : transformers causal language model
        π_ref; frozen here.
    critic : transformers.PreTrainedModel or None
        A sequence classifier with one label, trained in place; usually a copy of the reward
        model, which is where it should start. None puts a value head on the policy's trunk: one
        model less to train, and two losses that pull at the same weights.
    tokenizer : PreTrainedTokenizerBase
    reward : callable
        `reward(prompts=..., completions=...)` returns one float per completion.
    dataset : datasets.Dataset
        Column `prompt`; other columns are handed to the reward.
    config : PPOConfig
    ptx : datasets.Dataset, optional
        Columns `prompt` and `completion`, such as the pretraining corpus: `ptx_coefficient` times
        its SFT loss is added to the policy loss of every minibatch.

    Raises
    ------
    ValueError
        If a setting is out of range, `beta` is set to what is no price, or a reward is missing or
        not finite.
    RuntimeError
        If the reward function raises.
    FloatingPointError
        If a loss or gradient is not finite. The weights are those before the update, and the step
        does not count: `save` what there is, mend the cause, and go on.
    """

    beta = Price()

    def __init__(self, policy, reference, critic, tokenizer, reward: RewardFunction, dataset,
                 config: PPOConfig = PPOConfig(), ptx=None):
        check_settings(config)
        check_positive(config, "num_ppo_epochs", "critic_learning_rate")
        if config.ptx_coefficient and ptx is None:
            raise ValueError(f"ptx is None at ptx_coefficient={config.ptx_coefficient}; expected a "
                             "dataset with the columns prompt and completion")
        if critic is not None:
            check_one_output("critic", critic)
        self.shared = critic is None
        critic = SharedCritic(policy) if self.shared else critic
        check_apart(policy=policy, reference=reference, critic=critic)
        self.policy, self.reference, self.critic = policy, reference, critic
        self.tokenizer, self.reward, self.config = tokenizer, reward, config
        self.data = prompt_table(dataset)
        self.ptx = [column(ptx, name) for name in ("prompt", "completion")] if ptx else None
        self.beta = config.beta
        self.controller = AdaptiveKL(config.target_kl, config.kl_horizon) \
            if config.target_kl is not None else None
        freeze(reference)
        for model in (policy, critic):
            train_without_dropout(model)
        self.optimizers = {"policy": adam(critic if self.shared else policy, config.learning_rate)}
        if not self.shared:
            self.optimizers["critic"] = adam(critic, config.critic_learning_rate)
        self.sampler = torch.Generator(policy.device).manual_seed(config.seed)
        self.shuffler = torch.Generator().manual_seed(config.seed)
        self.step_number = self.updates = 0
        self.rollout: Rollout | None = None

    def step(self) -> dict:
        """Sample, score, estimate advantages, update; return the record of the step."""
        start = time.perf_counter()
        c = self.config
        rows = rows_of_step(len(self.data["prompt"]), c.batch_size, self.step_number, c.seed)
        prompts, columns = take(self.data, rows)
        rollout = sample(self.policy, self.tokenizer, prompts, c.max_new_tokens, c.temperature,
                         self.sampler)
        scores = score(self.reward, rollout, c.missing_eos_penalty, columns)
        warn_if_constant(scores)
        with torch.no_grad():
            ref_logprobs = token_logprobs(self.reference, rollout, c.temperature)
            old_values = state_values(self.critic, rollout) * rollout.completion_mask
        log_ratio = rollout.logprobs - ref_logprobs
        rewards = token_rewards(scores, log_ratio, rollout.completion_mask, self.beta)
        advantages, returns = gae(rewards, old_values, rollout.completion_mask, c.gamma, c.lam)
        advantages = masked_whiten(advantages, rollout.completion_mask)

        warmth = min(1, (self.step_number + 1) / (c.warmup_steps + 1))
        for name, rate in (("policy", c.learning_rate), ("critic", c.critic_learning_rate)):
            if name in self.optimizers:
                set_learning_rate(self.optimizers[name], warmth * rate)
        updates = []
        for _ in range(c.num_ppo_epochs):
            order = torch.randperm(c.batch_size, generator=self.shuffler)
            for minibatch in order.split(c.mini_batch_size):
                updates.append(self.update(rollout, minibatch, advantages, old_values, returns))

        kl = k1(log_ratio).sum(dim=1).mean().item()
        record = {
            "step": self.step_number + 1, "reward": scores.mean().item(),
            "reward_std": scores.std(correction=0).item(), "kl": kl,
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
        advantages, old_values, returns = advantages[rows], old_values[rows], returns[rows]

        if self.shared:
            logprobs, values = self.critic.logprobs_and_values(batch, c.temperature)
        else:
            logprobs = token_logprobs(self.policy, batch, c.temperature)
        policy_loss = aggregate(clipped_policy_loss(logprobs, old_logprobs, advantages, c.epsilon,
                                                    dual_clip=c.dual_clip), mask)
        losses = [policy_loss]
        if self.shared:
            value_loss = aggregate(
                clipped_value_loss(values, old_values, returns, c.epsilon_value), mask)
            losses = [policy_loss + c.value_coefficient * value_loss]
        if c.ptx_coefficient:
            losses.append(c.ptx_coefficient * self.ptx_loss())
        gradient_norm = descend(self.critic if self.shared else self.policy,
                                self.optimizers["policy"], losses, c.max_grad_norm)
        if not self.shared:
            value_loss = aggregate(clipped_value_loss(
                state_values(self.critic, batch), old_values, returns, c.epsilon_value), mask)
            descend(self.critic, self.optimizers["critic"], value_loss, c.max_grad_norm)
        self.updates += 1

        logprobs = logprobs.detach()
        ratio = torch.exp(logprobs - old_logprobs)
        record = {"policy_loss": policy_loss.item(), "value_loss": value_loss.item(),
                  "clip_fraction": clip_fraction(logprobs, old_logprobs, advantages, mask,
                                                 c.epsilon),
                  "ratio_gap": (ratio - 1).abs().max().item(), "gradient_norm": gradient_norm}
        if c.ptx_coefficient:
            record["ptx_loss"] = losses[-1].item() / c.ptx_coefficient
        if c.dual_clip is not None:
            record["dual_clip_fraction"] = masked_mean(
                ((ratio > c.dual_clip) & (advantages < 0)).float(), mask).item()
        return record

    def ptx_loss(self) -> Tensor:
        """The SFT loss on the next rows of `ptx`, as many as a minibatch has."""
        prompts, completions = self.ptx
        rows = rows_of_step(len(prompts), self.config.mini_batch_size, self.updates,
                            self.config.seed)
        batch = encode(self.tokenizer, [prompts[i] for i in rows], [completions[i] for i in rows],
                       self.policy.device)
        return sft_loss(token_logprobs(self.policy, batch), batch.completion_mask)

    def __iter__(self) -> Iterator[dict]:
        while self.step_number < self.config.max_steps:
            yield self.step()

    def save(self, folder: str | os.PathLike) -> None:
        """Write a checkpoint: the models as `save_pretrained` folders, and the loop state."""
        models = {"policy": self.policy} if self.shared else \
            {"policy": self.policy, "critic": self.critic}
        save_checkpoint(folder, models | {"tokenizer": self.tokenizer}, {
            "step_number": self.step_number, "updates": self.updates, "beta": self.beta,
            "sampler": self.sampler.get_state(), "shuffler": self.shuffler.get_state(),
            "value_head": self.critic.score.state_dict(),
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()}})

    def resume(self, folder: str | os.PathLike) -> None:
        """Continue from a checkpoint as if the run had not stopped: the same numbers follow."""
        models = {"policy": self.policy} if self.shared else \
            {"policy": self.policy, "critic": self.critic}
        state = load_checkpoint(folder, models)
        self.step_number, self.updates, self.beta = (
            state[name] for name in ("step_number", "updates", "beta"))
        self.sampler.set_state(state["sampler"])
        self.shuffler.set_state(state["shuffler"])
        self.critic.score.load_state_dict(state["value_head"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
