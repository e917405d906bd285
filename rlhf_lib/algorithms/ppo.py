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
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..machinery.checkpoints import load_checkpoint, save_checkpoint
from ..machinery.microbatches import Part, descend_in_parts, in_parts, memory_advice, share
from ..machinery.precision import check_precision, computing_in, sampling_dtype
from ..machinery.processes import (
    first_only,
    gather,
    own_generator,
    own_share,
    resume_sampler,
    same_weights,
)
from ..machinery.training import (
    Price,
    adam,
    check_apart,
    check_positive,
    check_settings,
    check_shares,
    column,
    compile_layers,
    freeze,
    prompt_table,
    recompute_activations,
    rollout_record,
    rows_of_step,
    score,
    set_learning_rate,
    take,
    together,
    train_without_dropout,
    warn_if_constant,
)
from ..mathematics.advantages import (
    explained_variance,
    gae,
    masked_mean,
    masked_whiten,
    token_rewards,
)
from ..mathematics.kl import AdaptiveKL, k1
from ..mathematics.losses import (
    aggregate,
    clip_fraction,
    clipped_policy_loss,
    clipped_value_loss,
    sft_loss,
)
from ..models.reward_model import SharedCritic, check_one_output, state_values
from ..models.rewards import RewardFunction
from ..models.rollout import Rollout, sample
from ..models.tokens import TokenBatch, encode, token_logprobs


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
    temperature: float = 1.0  # of sampling and scoring; at 1 the policy itself
    beta: float = 0.1  # reward per nat of KL
    target_kl: float | None = None  # nats per completion; given one, beta adapts to it
    kl_horizon: int = 640  # completions over which an adaptive beta moves by its error
    epsilon: float = 0.2  # clip of the policy ratio
    dual_clip: float | None = None  # bound of the ratio where the advantage is negative
    epsilon_value: float | None = 0.2  # clip of the critic's move; None for no clip
    value_coefficient: float = 0.1  # weight of the value loss; for a shared trunk only
    gamma: float = 1.0  # discount of a token
    lam: float = 0.95  # λ of generalised advantage estimation
    missing_eos_penalty: float = 1.0  # taken off the score of a completion that was cut off
    ptx_coefficient: float = 0.0  # weight of the SFT loss on `ptx`, against lost ability
    learning_rate: float = 3e-4  # of the policy
    critic_learning_rate: float = 5e-4  # of the critic
    warmup_steps: int = 3  # a cold Adam takes its largest steps first; this keeps them small
    max_grad_norm: float = 1.0  # longer gradients are clipped to it
    microbatch_tokens: int | None = None  # with padding, through a model at once; None: no limit
    gradient_checkpointing: bool = False  # compute activations twice instead of keeping them
    torch_compile: bool = False  # fuse the layers of all models; the first step takes longer
    bf16: bool = False  # compute in bfloat16, over weights in float32
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

    def __init__(
        self,
        policy,
        reference,
        critic,
        tokenizer,
        reward: RewardFunction,
        dataset,
        config: PPOConfig = PPOConfig(),
        ptx=None,
    ):
        check_settings(config)
        check_positive(config, "num_ppo_epochs", "critic_learning_rate")
        if config.ptx_coefficient and ptx is None:
            raise ValueError(
                f"ptx is None at ptx_coefficient={config.ptx_coefficient}; expected a "
                "dataset with the columns prompt and completion"
            )
        if critic is not None:
            check_one_output("critic", critic)
        self.shared = critic is None
        critic = SharedCritic(policy) if self.shared else critic
        check_apart(policy=policy, reference=reference, critic=critic)
        self.policy, self.reference, self.critic = policy, reference, critic
        self.tokenizer, self.reward, self.config = tokenizer, reward, config
        check_precision(config, policy.device)
        check_shares(config, config.batch_size)
        self.data = prompt_table(dataset)
        self.microbatch_tokens = config.microbatch_tokens
        self.ptx = [column(ptx, name) for name in ("prompt", "completion")] if ptx else None
        self.beta = config.beta
        self.controller = (
            AdaptiveKL(config.target_kl, config.kl_horizon)
            if config.target_kl is not None
            else None
        )
        freeze(reference)
        for model in (policy, critic):
            train_without_dropout(model)
            if config.gradient_checkpointing and not isinstance(model, SharedCritic):
                recompute_activations(model, config)
            same_weights(model)
        if config.torch_compile:
            compile_layers(policy, reference, critic)
        self.optimizers = {"policy": adam(critic if self.shared else policy, config.learning_rate)}
        if not self.shared:
            self.optimizers["critic"] = adam(critic, config.critic_learning_rate)
        self.sampler = own_generator(policy.device, config.seed)
        self.shuffler = torch.Generator().manual_seed(config.seed)
        self.step_number = self.updates = 0
        self.rollout: Rollout | None = None

    def step(self) -> dict:
        """Sample, score, estimate advantages, update; return the record of the step."""
        start = time.perf_counter()
        with memory_advice(self):
            record = self.learn(*self.collect())
        self.step_number += 1
        return record | {"seconds": time.perf_counter() - start}

    def collect(self) -> tuple[Rollout, Tensor]:
        """A batch of completions, and their scores."""
        c = self.config
        rows = rows_of_step(len(self.data["prompt"]), c.batch_size, self.step_number, c.seed)
        prompts, columns = take(self.data, own_share(rows))
        rollout = sample(
            self.policy,
            self.tokenizer,
            prompts,
            c.max_new_tokens,
            c.temperature,
            self.sampler,
            dtype=sampling_dtype(c, self.policy.device),
        )
        scores = score(self.reward, rollout, c.missing_eos_penalty, columns)
        return together(rollout, scores, self.tokenizer.pad_token_id)

    def learn(self, rollout: Rollout, scores: Tensor) -> dict:
        """Price, estimate advantages, update; the record of the step, but for the time."""
        c = self.config
        warn_if_constant(scores)
        ref_logprobs = in_parts(
            lambda batch: self.logprobs(self.reference, batch), rollout, self.microbatch_tokens
        )
        old_values = (
            in_parts(self.values, rollout, self.microbatch_tokens) * rollout.completion_mask
        )
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
            "step": self.step_number + 1,
            "reward": scores.mean().item(),
            "reward_std": scores.std(correction=0).item(),
            "kl": kl,
            "beta": self.beta,
            **rollout_record(rollout),
            **{name: sum(u[name] for u in updates) / len(updates) for name in updates[0]},
            "ratio_gap": updates[0]["ratio_gap"],  # before any update: numerical error alone
            "explained_variance": explained_variance(old_values, returns, rollout.completion_mask),
        }
        if self.controller:
            self.beta = self.controller(self.beta, kl, c.batch_size)
        self.rollout = rollout
        return record

    def update(
        self,
        rollout: Rollout,
        rows: Tensor,
        advantages: Tensor,
        old_values: Tensor,
        returns: Tensor,
    ) -> dict:
        """One gradient step of policy and critic on some rows of the batch."""
        c = self.config
        ptx = self.ptx_batch() if c.ptx_coefficient else None

        def value_loss(part: Part, values: Tensor) -> tuple[Tensor, dict]:
            loss = aggregate(
                clipped_value_loss(
                    values, part.cut(old_values), part.cut(returns), c.epsilon_value
                ),
                part.mask,
            )
            loss = loss * part.share()
            return loss, {"value_loss": loss.item()}

        def policy_losses(part: Part) -> Iterator[tuple[Tensor, dict]]:
            old_logprobs, worth, mask = part.cut(rollout.logprobs), part.cut(advantages), part.mask
            if self.shared:
                with computing_in(c, self.policy.device):
                    logprobs, values = self.critic.logprobs_and_values(part.batch, c.temperature)
            else:
                logprobs = self.logprobs(self.policy, part.batch)
            share_of_tokens = part.share()
            loss = share_of_tokens * aggregate(
                clipped_policy_loss(
                    logprobs, old_logprobs, worth, c.epsilon, dual_clip=c.dual_clip
                ),
                mask,
            )

            logprobs = logprobs.detach()
            ratio = torch.exp(logprobs - old_logprobs)
            clipped = clip_fraction(logprobs, old_logprobs, worth, mask, c.epsilon)
            found = {
                "policy_loss": loss.item(),
                "clip_fraction": clipped * share_of_tokens,
                "ratio_gap": (ratio - 1).abs().max().item(),
            }
            if c.dual_clip is not None:
                bounded = ((ratio > c.dual_clip) & (worth < 0)).float()
                found["dual_clip_fraction"] = masked_mean(bounded, mask).item() * share_of_tokens
            if self.shared:
                second, also = value_loss(part, values)
                loss, found = loss + c.value_coefficient * second, found | also
            yield loss, found
            if ptx is not None:
                batch = ptx[part.places].trimmed
                logprobs = self.logprobs(self.policy, batch, temperature=1.0)
                loss = sft_loss(logprobs, batch.completion_mask) * share(
                    batch.completion_mask, ptx.completion_mask
                )
                yield c.ptx_coefficient * loss, {"ptx_loss": loss.item()}

        def value_losses(part: Part) -> Iterator[tuple[Tensor, dict]]:
            yield value_loss(part, self.values(part.batch))

        record = descend_in_parts(
            self,
            self.critic if self.shared else self.policy,
            self.optimizers["policy"],
            rollout,
            rows,
            policy_losses,
        )
        if not self.shared:
            record = (
                descend_in_parts(
                    self, self.critic, self.optimizers["critic"], rollout, rows, value_losses
                )
                | record
            )
        self.updates += 1
        return record

    def logprobs(self, model, batch: TokenBatch, temperature: float | None = None) -> Tensor:
        """`token_logprobs` in the precision of the loop, and at its temperature if none is given."""
        with computing_in(self.config, model.device):
            return token_logprobs(model, batch, temperature or self.config.temperature)

    def values(self, batch: TokenBatch) -> Tensor:
        """`state_values` of the critic, in the precision of the loop."""
        with computing_in(self.config, self.critic.device):
            return state_values(self.critic, batch)

    def ptx_batch(self) -> TokenBatch:
        """The next rows of `ptx`, as many as a minibatch has."""
        prompts, completions = self.ptx
        rows = rows_of_step(
            len(prompts), self.config.mini_batch_size, self.updates, self.config.seed
        )
        return encode(
            self.tokenizer,
            [prompts[i] for i in rows],
            [completions[i] for i in rows],
            self.policy.device,
        )

    def __iter__(self) -> Iterator[dict]:
        while self.step_number < self.config.max_steps:
            yield self.step()

    def save(self, folder: str | os.PathLike) -> None:
        """Write a checkpoint: the models as `save_pretrained` folders, and the loop state."""
        models = (
            {"policy": self.policy}
            if self.shared
            else {"policy": self.policy, "critic": self.critic}
        )
        models["tokenizer"] = self.tokenizer
        state = {
            "step_number": self.step_number,
            "updates": self.updates,
            "beta": self.beta,
            "samplers": gather(self.sampler.get_state()),
            "shuffler": self.shuffler.get_state(),
            "value_head": self.critic.score.state_dict(),
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
        }
        first_only(lambda: save_checkpoint(folder, models, state))

    def resume(self, folder: str | os.PathLike) -> None:
        """Continue from a checkpoint as if the run had not stopped: the same numbers follow."""
        models = (
            {"policy": self.policy}
            if self.shared
            else {"policy": self.policy, "critic": self.critic}
        )
        state = load_checkpoint(folder, models)
        self.step_number, self.updates, self.beta = (
            state[name] for name in ("step_number", "updates", "beta")
        )
        resume_sampler(self.sampler, state["samplers"])
        self.shuffler.set_state(state["shuffler"])
        self.critic.score.load_state_dict(state["value_head"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
