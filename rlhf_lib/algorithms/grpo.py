"""Group relative policy optimisation: PPO whose critic is the group. And its relatives.

One step, in the order of the chapter's algorithm box:

1. sample G completions of each prompt from the policy
2. score them with the reward function
3. compare each score with its group: the advantage of every token of the completion
4. minibatches: clipped policy loss, plus β k3 against the reference in the loss

The relatives change one or two of these lines, each by a setting; `VARIANTS` says which. With
`kl_in="reward"` the distance is priced before the comparison instead, as PPO does.

There is no critic, and no reward per token. It leaves out, against the larger implementations:
a replaced reference, and sampling on other processes. DAPO's overlong shaping is a reward
(`rewards.soft_overlong_punishment`), not a part of the loop. Axes: B completions (a multiple of
G), T completion tokens. Source: Shao et al. 2024, arXiv:2402.03300. Chapters: grpo,
grpo-variants.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..machinery.checkpoints import load_checkpoint, save_checkpoint
from ..machinery.microbatches import Part, descend_in_parts, in_parts, memory_advice
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
)
from ..mathematics.advantages import (
    all_equal,
    group_advantages,
    masked_whiten,
    returns_to_go,
    token_rewards,
)
from ..mathematics.kl import k1, k3
from ..mathematics.losses import (
    aggregate,
    cispo_loss,
    clip_fraction,
    clipped_policy_loss,
    gspo_loss,
    rloo_loss,
    sequence_logprobs,
)
from ..models.rewards import RewardFunction
from ..models.rollout import Rollout, join, sample
from ..models.tokens import TokenBatch, token_logprobs

# What each relative changes. `GRPOConfig(**VARIANTS["dr_grpo"])` is that algorithm.
VARIANTS: dict[str, dict] = {
    "grpo": {},  # Shao et al. 2024, arXiv:2402.03300
    "dr_grpo": dict(scale_rewards="none", aggregate_over="budget", beta=0.0),  # Liu et al. 2025,
    # arXiv:2503.20783: no division by the spread of a group, none by the length of a completion
    "dapo": dict(
        epsilon_high=0.28, aggregate_over="tokens", dynamic_sampling=True, beta=0.0
    ),  # Yu et al. 2025, arXiv:2503.14476
    "gspo": dict(
        loss="gspo", epsilon=3e-4, epsilon_high=4e-4, beta=0.0
    ),  # Zheng et al. 2025, arXiv:2507.18071
    "cispo": dict(
        loss="cispo", epsilon_high=5.0, aggregate_over="tokens", beta=0.0
    ),  # MiniMax 2025, arXiv:2506.13585
    "rloo": dict(
        loss="rloo", baseline="leave_one_out", scale_rewards="none", kl_in="reward"
    ),  # Ahmadian et al. 2024, arXiv:2402.14740
    "reinforce++": dict(
        advantage="return_to_go", num_generations=1, aggregate_over="tokens", kl_in="reward"
    ),  # Hu 2025, arXiv:2501.03262
}


@dataclass(frozen=True)
class GRPOConfig:
    """Settings, named as TRL names them where TRL has them.

    Chapters: grpo, grpo-variants.
    """

    max_steps: int = 45  # steps of the whole run
    batch_size: int = 64  # completions a step, a multiple of num_generations
    mini_batch_size: int = 32  # completions of one update
    num_generations: int = 8  # G, completions of each prompt
    num_iterations: int = 2  # passes over each batch, μ in the paper
    max_new_tokens: int = 32  # longest completion, its end token included
    temperature: float = 1.0  # of sampling and scoring; at 1 the policy itself
    beta: float = 0.1  # weight of the KL: per completion in the reward, per token in the loss
    kl_in: str = "loss"  # k3 in the loss, as published; or "reward": k1, before the comparison
    loss: str = "clip"  # or "cispo"; or with one ratio a completion "gspo" or "rloo"
    epsilon: float = 0.2  # clip of the ratio
    epsilon_high: float | None = None  # upper clip, if another; for "cispo" the largest ratio
    advantage: str = "group"  # or "return_to_go", per token and whitened over the batch
    baseline: str = "mean"  # or "leave_one_out" or "none"
    scale_rewards: str = "std"  # or "batch" or "none"
    aggregate_over: str = "sequences"  # or "tokens" or "budget" (batch_size × max_new_tokens)
    dynamic_sampling: bool = False  # draw again in place of groups whose rewards are all equal
    max_draws: int = 4  # batches drawn a step at most; then such groups are kept
    missing_eos_penalty: float = 1.0  # taken off the score of a completion that was cut off
    learning_rate: float = 3e-4  # of the policy
    warmup_steps: int = 3  # in which the learning rate rises to its value
    max_grad_norm: float = 1.0  # longer gradients are clipped to it
    microbatch_tokens: int | None = None  # with padding, through a model at once; None: no limit
    gradient_checkpointing: bool = False  # compute activations twice instead of keeping them
    torch_compile: bool = False  # fuse the layers of all models; the first step takes longer
    bf16: bool = False  # compute in bfloat16, over weights in float32
    seed: int = 0  # prompts, samples and minibatches


class GRPO:
    """Step through GRPO; `for record in GRPO(...)` trains to the end, and can stop anywhere.

    `beta` is an attribute: turn it while the loop runs, to 0 or more. `rollout` holds the last
    batch.

    Source: Shao et al. 2024, arXiv:2402.03300, algorithm 1. Chapters: grpo, grpo-variants.

    Parameters
    ----------
    policy : transformers causal language model
        Trained in place.
    reference : transformers causal language model or None
        π_ref; frozen here. None if beta is 0: one model less, and no KL in the records.
    tokenizer : PreTrainedTokenizerBase
    reward : callable
        `reward(prompts=..., completions=..., **columns)` returns one float per completion.
    dataset : datasets.Dataset
        Column `prompt`; other columns are handed to the reward.
    config : GRPOConfig

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
        tokenizer,
        reward: RewardFunction,
        dataset,
        config: GRPOConfig = GRPOConfig(),
    ):
        check_grpo_settings(config, reference)
        self.policy, self.reference = policy, reference
        self.tokenizer, self.reward, self.config = tokenizer, reward, config
        check_precision(config, policy.device)
        check_shares(config, config.batch_size // config.num_generations)
        self.data = prompt_table(dataset)
        self.beta = config.beta
        self.microbatch_tokens = config.microbatch_tokens
        if reference is not None:
            check_apart(policy=policy, reference=reference)
            freeze(reference)
        train_without_dropout(policy)
        if config.gradient_checkpointing:
            recompute_activations(policy, config)
        same_weights(policy)
        if config.torch_compile:
            compile_layers(policy, reference)
        self.optimizer = adam(policy, config.learning_rate)
        self.sampler = own_generator(policy.device, config.seed)
        self.shuffler = torch.Generator().manual_seed(config.seed)
        self.step_number = 0
        self.draws = 0  # batches of prompts drawn so far; more than steps if some were drawn again
        self.rollout: Rollout | None = None

    def step(self) -> dict:
        """Sample groups, score, compare, update; return the record of the step."""
        start = time.perf_counter()
        if self.reference is None and self.beta:
            raise ValueError(f"beta is {self.beta} without a reference; expected 0")
        with memory_advice(self):
            record = self.learn(*self.sample_groups())
        self.step_number += 1
        return record | {"seconds": time.perf_counter() - start}

    def learn(self, rollout: Rollout, scores: Tensor, drawn: Tensor) -> dict:
        """Compare the completions of each group, and update; the record, but for the time."""
        c, ref_logprobs = self.config, rollout.logprobs
        if self.reference is not None:
            ref_logprobs = in_parts(
                lambda batch: self.logprobs(self.reference, batch), rollout, self.microbatch_tokens
            )
        advantages = self.advantages(rollout, scores, rollout.logprobs - ref_logprobs)

        warmth = min(1, (self.step_number + 1) / (c.warmup_steps + 1))
        set_learning_rate(self.optimizer, warmth * c.learning_rate)
        updates = []
        for _ in range(c.num_iterations):
            order = torch.randperm(c.batch_size, generator=self.shuffler)
            for minibatch in order.split(c.mini_batch_size):
                updates.append(self.update(rollout, minibatch, advantages, ref_logprobs))

        record = {"step": self.step_number + 1, "reward": drawn.mean().item()}
        if self.reference is not None:
            record["kl"] = k1(rollout.logprobs - ref_logprobs).sum(dim=1).mean().item()
        groups = drawn.view(-1, c.num_generations)
        record |= {
            "beta": self.beta,
            **rollout_record(rollout),
            **{name: sum(u[name] for u in updates) / len(updates) for name in updates[0]},
            "ratio_gap": updates[0]["ratio_gap"],  # before any update: numerical error alone
            "zero_variance_groups": all_equal(groups).float().mean().item(),
            "drawn": len(drawn),
        }
        self.rollout = rollout
        return record

    def sample_groups(self) -> tuple[Rollout, Tensor, Tensor]:
        """A batch of completions in groups, their scores, and the scores of all that were drawn.

        With dynamic sampling, groups whose rewards are all equal are drawn again, as they teach
        nothing, until the batch is full or `max_draws` is reached.
        """
        c = self.config
        G, parts, kept, drawn = c.num_generations, [], 0, []
        while kept < c.batch_size:
            rows = rows_of_step(len(self.data["prompt"]), c.batch_size // G, self.draws, c.seed)
            rows = own_share([i for i in rows for _ in range(G)], each=G)
            prompts, columns = take(self.data, rows)
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
            rollout, scores = together(rollout, scores, self.tokenizer.pad_token_id)
            self.draws += 1
            drawn.append(scores)
            if not c.dynamic_sampling:
                return rollout, scores, scores
            silent = all_equal(scores.view(-1, G))
            groups = (~silent).nonzero()[:, 0].tolist()
            if len(drawn) == c.max_draws:  # no more: fill up with groups that teach nothing
                groups += silent.nonzero()[:, 0].tolist()
            rows = [G * g + i for g in groups for i in range(G)][: c.batch_size - kept]
            parts.append((rollout.select(rows), scores[rows]))
            kept += len(rows)
        rollout = join([rollout for rollout, _ in parts], self.tokenizer.pad_token_id)
        return rollout, torch.cat([scores for _, scores in parts]), torch.cat(drawn)

    def advantages(self, rollout: Rollout, scores: Tensor, log_ratio: Tensor) -> Tensor:
        """What each token is worth: (B, 1) if a completion's tokens share it, else (B, T)."""
        c, mask = self.config, rollout.completion_mask
        if c.advantage == "return_to_go":
            beta = self.beta if c.kl_in == "reward" else 0.0  # else it is in the loss
            rewards = token_rewards(scores, log_ratio, mask, beta)
            return masked_whiten(returns_to_go(rewards, mask), mask)
        if c.kl_in == "reward":
            scores = scores - self.beta * k1(log_ratio).sum(dim=1)
        return group_advantages(scores, c.num_generations, c.baseline, c.scale_rewards)[:, None]

    def update(
        self, rollout: Rollout, rows: Tensor, advantages: Tensor, ref_logprobs: Tensor
    ) -> dict:
        """One gradient step of the policy on some rows of the batch."""
        c = self.config

        def losses(part: Part) -> Iterator[tuple[Tensor, dict]]:
            old_logprobs, worth, mask = part.cut(rollout.logprobs), part.cut(advantages), part.mask
            logprobs = self.logprobs(self.policy, part.batch)
            loss = self.policy_loss(logprobs, old_logprobs, worth, mask)
            if c.kl_in == "loss" and self.beta:
                loss = loss + self.beta * k3(logprobs - part.cut(ref_logprobs))
            loss = aggregate(loss, mask, c.aggregate_over, c.max_new_tokens)
            loss = loss * part.share(c.aggregate_over)

            logprobs = logprobs.detach()
            clipped = self.clip_fraction(logprobs, old_logprobs, worth, mask)
            yield (
                loss,
                {
                    "policy_loss": loss.item(),
                    "clip_fraction": clipped * part.share(),
                    "ratio_gap": (torch.exp(logprobs - old_logprobs) - 1).abs().max().item(),
                },
            )

        return descend_in_parts(self, self.policy, self.optimizer, rollout, rows, losses)

    def logprobs(self, model, batch: TokenBatch) -> Tensor:
        """`token_logprobs` at the temperature and in the precision of the loop."""
        with computing_in(self.config, model.device):
            return token_logprobs(model, batch, self.config.temperature)

    def policy_loss(
        self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor
    ) -> Tensor:
        """The loss of each token, (B, T), in the variant that was asked for."""
        c = self.config
        if c.loss == "cispo":
            return cispo_loss(logprobs, old_logprobs, advantages, c.epsilon_high)
        if c.loss == "gspo":
            return gspo_loss(logprobs, old_logprobs, advantages, mask, c.epsilon, c.epsilon_high)
        if c.loss == "rloo":
            return rloo_loss(logprobs, old_logprobs, advantages, mask, c.epsilon)
        return clipped_policy_loss(logprobs, old_logprobs, advantages, c.epsilon, c.epsilon_high)

    def clip_fraction(
        self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor
    ) -> float:
        """Share of tokens that the clip silences, or for "cispo" that the cap holds."""
        c = self.config
        if c.loss == "cispo":
            return clip_fraction(
                logprobs, old_logprobs, torch.ones_like(logprobs), mask, 1.0, c.epsilon_high - 1
            )
        if c.loss in ("gspo", "rloo"):
            logprobs, old_logprobs = (
                sequence_logprobs(x, mask, mean=c.loss == "gspo")[:, None].expand_as(x)
                for x in (logprobs, old_logprobs)
            )
        return clip_fraction(
            logprobs, old_logprobs, advantages.expand_as(logprobs), mask, c.epsilon, c.epsilon_high
        )

    def __iter__(self) -> Iterator[dict]:
        while self.step_number < self.config.max_steps:
            yield self.step()

    def save(self, folder: str | os.PathLike) -> None:
        """Write a checkpoint: the policy as a `save_pretrained` folder, and the loop state."""
        models = {"policy": self.policy, "tokenizer": self.tokenizer}
        state = {
            "step_number": self.step_number,
            "draws": self.draws,
            "beta": self.beta,
            "samplers": gather(self.sampler.get_state()),
            "shuffler": self.shuffler.get_state(),
            "optimizer": self.optimizer.state_dict(),
        }
        first_only(lambda: save_checkpoint(folder, models, state))

    def resume(self, folder: str | os.PathLike) -> None:
        """Continue from a checkpoint as if the run had not stopped: the same numbers follow."""
        state = load_checkpoint(folder, {"policy": self.policy})
        self.step_number, self.draws, self.beta = (
            state[name] for name in ("step_number", "draws", "beta")
        )
        resume_sampler(self.sampler, state["samplers"])
        self.shuffler.set_state(state["shuffler"])
        self.optimizer.load_state_dict(state["optimizer"])


def check_grpo_settings(c: GRPOConfig, reference) -> None:
    """Refuse settings that would fail late or, worse, train something else.

    Chapter: grpo-variants.
    """
    check_settings(c)
    check_positive(c, "num_iterations")
    fewest = 1 if c.advantage == "return_to_go" else 2
    if c.num_generations < fewest or c.batch_size % c.num_generations:
        raise ValueError(
            f"num_generations is {c.num_generations}; expected at least {fewest}, "
            f"and a divisor of batch_size={c.batch_size}"
        )
    for name, choices in (
        ("kl_in", ("loss", "reward")),
        ("advantage", ("group", "return_to_go")),
        ("loss", ("clip", "cispo", "gspo", "rloo")),
        ("baseline", ("mean", "leave_one_out", "none")),
        ("scale_rewards", ("std", "batch", "none")),
        ("aggregate_over", ("sequences", "tokens", "budget")),
    ):
        if getattr(c, name) not in choices:
            raise ValueError(
                f"{name} is {getattr(c, name)!r}; expected {' or '.join(map(repr, choices))}"
            )
    if c.loss == "cispo" and not (c.epsilon_high or 0) > 1:
        raise ValueError(
            f"epsilon_high is {c.epsilon_high}; expected more than 1, as for "
            "loss='cispo' it is the largest ratio itself"
        )
    if c.loss == "rloo" and c.epsilon_high is not None:
        raise ValueError(
            f"epsilon_high is {c.epsilon_high}; expected None, as loss='rloo' has one "
            "clip for both sides"
        )
    if c.dynamic_sampling and (c.num_generations < 2 or c.max_draws < 1):
        raise ValueError(
            f"dynamic_sampling has num_generations={c.num_generations} and max_draws="
            f"{c.max_draws}; expected groups of 2 or more, and at least 1 draw"
        )
    if reference is None and c.beta:
        raise ValueError(
            f"reference is None at beta={c.beta}; expected a model to stay near, or beta=0"
        )
