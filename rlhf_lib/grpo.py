"""Group relative policy optimisation: PPO whose critic is the group.

One step, in the order of the chapter's algorithm box:

1. sample G completions of each prompt from the policy
2. score them with the reward function
3. compare each score with its group: the advantage of every token of the completion
4. minibatches: clipped policy loss, plus β k3 against the reference in the loss

With `kl_in="reward"` the distance is priced before the comparison instead, as PPO does.

There is no critic, and no reward per token. It leaves out, against the larger implementations:
a replaced reference, and sampling on other processes. Axes: B completions (a multiple of G), T
completion tokens. Source: Shao et al. 2024, arXiv:2402.03300. Chapter: grpo.
"""
from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Iterator

import torch
from torch import Tensor

from .advantages import group_advantages
from .kl import k1, k3
from .losses import aggregate, clip_fraction, clipped_policy_loss
from .policy import token_logprobs
from .rewards import RewardFunction
from .rollout import Rollout, sample
from .runlog import load_checkpoint, save_checkpoint
from .training import (adam, check_apart, check_settings, descend, freeze, rollout_record,
                       rows_of_step, score, set_learning_rate, train_without_dropout)


@dataclass(frozen=True)
class GRPOConfig:
    """Settings, named as TRL names them."""

    max_steps: int = 45
    batch_size: int = 64  # completions a step, a multiple of num_generations
    mini_batch_size: int = 32
    num_generations: int = 8  # G, completions of each prompt
    num_iterations: int = 2  # passes over each batch, μ in the paper
    max_new_tokens: int = 32
    temperature: float = 1.
    beta: float = .1  # weight of the KL: per nat and completion in the reward, per token in the loss
    kl_in: str = "loss"  # k3 in the loss, as published; or "reward": k1, before the comparison
    epsilon: float = .2  # clip of the policy ratio
    baseline: str = "mean"  # or "leave_one_out"
    scale_rewards: str = "std"  # or "none"
    aggregate_over: str = "sequences"  # or "tokens"
    missing_eos_penalty: float = 1.  # taken off the score of a completion that was cut off
    learning_rate: float = 3e-4
    warmup_steps: int = 3
    max_grad_norm: float = 1.
    seed: int = 0  # prompts, samples and minibatches


class GRPO:
    """Step through GRPO; `for record in GRPO(...)` trains to the end, and can stop anywhere.

    `beta` is an attribute: turn it while the loop runs. `rollout` holds the last batch.

    Parameters
    ----------
    policy : transformers causal language model
        Trained in place.
    reference : transformers causal language model
        π_ref; frozen here.
    tokenizer : PreTrainedTokenizerBase
    reward : callable
        `reward(prompts=..., completions=...)` returns one float per completion.
    dataset : datasets.Dataset
        Column `prompt`.
    config : GRPOConfig

    Raises
    ------
    ValueError
        If a setting is out of range, or a reward is missing or not finite.
    RuntimeError
        If the reward function raises.
    FloatingPointError
        If a loss or gradient is not finite. The weights are those before the update.
    """

    def __init__(self, policy, reference, tokenizer, reward: RewardFunction, dataset,
                 config: GRPOConfig = GRPOConfig()):
        check_settings(config)
        if config.num_generations < 2 or config.batch_size % config.num_generations:
            raise ValueError(f"num_generations is {config.num_generations}; expected at least 2, "
                             f"and a divisor of batch_size={config.batch_size}")
        check_apart(policy=policy, reference=reference)
        if config.kl_in not in ("loss", "reward"):
            raise ValueError(f"kl_in is {config.kl_in!r}; expected 'loss' or 'reward'")
        self.policy, self.reference = policy, reference
        self.tokenizer, self.reward, self.config = tokenizer, reward, config
        self.prompts = list(dataset["prompt"])
        self.beta = config.beta
        freeze(reference)
        train_without_dropout(policy)
        self.optimizer = adam(policy, config.learning_rate)
        self.sampler = torch.Generator(policy.device).manual_seed(config.seed)
        self.shuffler = torch.Generator().manual_seed(config.seed)
        self.step_number = 0
        self.rollout: Rollout | None = None

    def step(self) -> dict:
        """Sample groups, score, compare, update; return the record of the step."""
        start = time.perf_counter()
        c = self.config
        rows = rows_of_step(len(self.prompts), c.batch_size // c.num_generations,
                            self.step_number, c.seed)
        prompts = [self.prompts[i] for i in rows for _ in range(c.num_generations)]
        rollout = sample(self.policy, self.tokenizer, prompts, c.max_new_tokens, c.temperature,
                         self.sampler)
        scores = score(self.reward, rollout, c.missing_eos_penalty)
        with torch.no_grad():
            ref_logprobs = token_logprobs(self.reference, rollout, c.temperature)
        kl = k1(rollout.logprobs - ref_logprobs).sum(dim=1)
        compared = scores - self.beta * kl if c.kl_in == "reward" else scores
        advantages = group_advantages(compared, c.num_generations, c.baseline, c.scale_rewards)

        warmth = min(1, (self.step_number + 1) / (c.warmup_steps + 1))
        set_learning_rate(self.optimizer, warmth * c.learning_rate)
        updates = []
        for _ in range(c.num_iterations):
            order = torch.randperm(c.batch_size, generator=self.shuffler)
            for minibatch in order.split(c.mini_batch_size):
                updates.append(self.update(rollout, minibatch, advantages, ref_logprobs))

        groups = scores.view(-1, c.num_generations)
        record = {
            "step": self.step_number + 1, "reward": scores.mean().item(),
            "kl": kl.mean().item(), "beta": self.beta, **rollout_record(rollout),
            **{name: sum(u[name] for u in updates) / len(updates) for name in updates[0]},
            "ratio_gap": updates[0]["ratio_gap"],  # before any update: numerical error alone
            "zero_variance_groups": (groups.std(dim=1) == 0).float().mean().item(),
            "seconds": time.perf_counter() - start}
        self.rollout = rollout
        self.step_number += 1
        return record

    def update(self, rollout: Rollout, rows: Tensor, advantages: Tensor, ref_logprobs: Tensor
               ) -> dict:
        """One gradient step of the policy on some rows of the batch."""
        c, batch = self.config, rollout[rows]
        mask, old_logprobs = batch.completion_mask, rollout.logprobs[rows]
        advantages = advantages[rows, None]  # (B, 1): every token of a completion gets the same

        logprobs = token_logprobs(self.policy, batch, c.temperature)
        loss = clipped_policy_loss(logprobs, old_logprobs, advantages, c.epsilon)
        if c.kl_in == "loss":
            loss = loss + self.beta * k3(logprobs - ref_logprobs[rows])
        loss = aggregate(loss, mask, c.aggregate_over)
        gradient_norm = descend(self.policy, self.optimizer, loss, c.max_grad_norm)

        logprobs = logprobs.detach()
        return {"policy_loss": loss.item(),
                "clip_fraction": clip_fraction(logprobs, old_logprobs,
                                               advantages.expand_as(logprobs), mask, c.epsilon),
                "ratio_gap": (torch.exp(logprobs - old_logprobs) - 1).abs().max().item(),
                "gradient_norm": gradient_norm}

    def __iter__(self) -> Iterator[dict]:
        while self.step_number < self.config.max_steps:
            yield self.step()

    def save(self, folder: str | os.PathLike) -> None:
        """Write a checkpoint: the policy as a `save_pretrained` folder, and the loop state."""
        save_checkpoint(folder, {"policy": self.policy, "tokenizer": self.tokenizer}, {
            "step_number": self.step_number, "beta": self.beta,
            "sampler": self.sampler.get_state(), "shuffler": self.shuffler.get_state(),
            "optimizer": self.optimizer.state_dict()})

    def resume(self, folder: str | os.PathLike) -> None:
        """Continue from a checkpoint as if the run had not stopped: the same numbers follow."""
        state = load_checkpoint(folder, {"policy": self.policy})
        self.step_number, self.beta = state["step_number"], state["beta"]
        self.sampler.set_state(state["sampler"])
        self.shuffler.set_state(state["shuffler"])
        self.optimizer.load_state_dict(state["optimizer"])
