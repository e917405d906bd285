"""What stepping, stopping and going on are for every loop. What a step is, each algorithm says.

A step has two halves. `collect` gathers a batch: it draws rows of the data, or samples and scores.
`learn` moves the models by it and returns the record of the step. All around these, the pace of
the learning rate, saving and going on, stands here once. Chapters: sft, ppo-live.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ..families.support import check_mode, check_rows, check_trainable, prove_sampler, warn_of_gap
from ..machinery.checkpoints import load_checkpoint, save_checkpoint
from ..machinery.machine import Machine
from ..machinery.optimization import adam
from ..machinery.processes import check_shares, gather, local_rows, on_main_process, resume_sampler
from ..machinery.settings import MachineConfig, check_counts, check_parts, check_positive
from ..mathematics.advantages import all_equal, masked_mean
from ..mathematics.losses import IMPORTANCE_SAMPLING, importance_weights
from ..models.rewards import RewardFunction, as_reward, reward_table
from ..models.rollout import Rollout, gather_rollout, sample
from ..models.tokens import token_logprobs
from ..worlds.lengths import check_lengths
from ..worlds.tables import prompt_table, take

UNSCORED = "no reward applies to some completions, all gave None; they count as average ones"
CONSTANT = (
    "the reward is {} for each of the {} completions of this step; expected some to be better than "
    "others. Only the KL, if it has a price, and what a critic does not know are left to learn from"
)


@dataclass(frozen=True)
class Config(MachineConfig):
    """Settings that every loop has beside those of its machine; TRL's names where TRL has them.

    Chapter: sft.
    """

    max_steps: int = 45  # steps of the whole run
    batch_size: int = 64  # completions a step
    learning_rate: float = 3e-4  # of the policy
    warmup_steps: int = 3  # steps at less than the learning rate, which rises to it

    def __post_init__(self):
        super().__post_init__()
        check_counts(self, "max_steps", "batch_size")
        check_positive(self, "learning_rate")
        if not self.warmup_steps >= 0:
            raise ValueError(f"warmup_steps is {self.warmup_steps}; expected 0 or more")


@dataclass(frozen=True)
class SupervisedConfig(Config):
    """Settings of a loop that learns from data alone, by AdamW. Chapters: sft, reward-model."""

    gradient_accumulation_steps: int = 1  # parts it is computed in: less memory, same gradient
    weight_decay: float = 0.01  # of AdamW

    def __post_init__(self):
        super().__post_init__()
        check_parts(self)


@dataclass(frozen=True)
class OnlineConfig(Config):
    """Settings of a loop that samples, scores and stays near a reference.

    `importance_sampling` is TRL's `vllm_importance_sampling_mode`, and off by default; its bounds
    are those of TRL without the `vllm_`. Chapters: ppo-live, stale-samples.
    """

    mini_batch_size: int = 32  # completions of one update
    max_new_tokens: int = 32  # longest completion, its end token included
    temperature: float = 1.0  # divides the logits that are sampled from and learnt from
    missing_eos_penalty: float = 1.0  # taken off the score of a completion that was cut off
    beta: float = 0.1  # reward per nat of KL
    epsilon: float = 0.2  # clip of the policy ratio
    importance_sampling: str | None = None  # for samples of another policy: `importance_weights`
    importance_sampling_clip_min: float = 0.0  # least weight; both 1: such samples count as own
    importance_sampling_clip_max: float = 3.0  # largest weight

    def __post_init__(self):
        super().__post_init__()
        check_counts(self, "mini_batch_size", "max_new_tokens")
        check_mode(self, IMPORTANCE_SAMPLING)
        if self.batch_size % self.mini_batch_size:
            many, few = self.batch_size, self.mini_batch_size
            raise ValueError(f"batch_size is {many}; expected a multiple of mini_batch_size={few}")
        check_positive(self, "temperature", "epsilon")
        check_beta(self.beta)


class Loop:
    """Step through an algorithm; `for record in loop` trains to the end, and can stop anywhere.

    A subclass has `collect` and `learn`. Chapter: sft.

    Parameters
    ----------
    config : Config
    tokenizer : PreTrainedTokenizerBase
    trained : dict of str to model
        By their names; each gets an optimiser, and a folder in a checkpoint.
    frozen : dict of str to model or None
    """

    STATE: tuple[str, ...] = ("step_number",)  # attributes that a checkpoint holds
    SAMPLES = False  # whether it does, and a checkpoint holds the samplers too
    collect: Callable[[], tuple]  # what is learnt from in this step: the arguments of `learn`
    learn: Callable[..., dict]  # moves the models; the record, but for its number and the time

    def __init__(self, config: Config, tokenizer, trained: dict, frozen: dict):
        for role, model in trained.items():
            check_trainable(role, model, tokenizer)
        for role, model in frozen.items():
            check_rows(role, model, tokenizer)
        self.config: Any = config
        self.tokenizer, self.trained = tokenizer, trained
        self.machine = Machine(config, trained, frozen)
        self.sampler = self.machine.sampler
        self.optimizers = {name: self.optimizer(model) for name, model in trained.items()}
        self.shuffler = torch.Generator().manual_seed(config.seed)
        self.step_number = 0

    def optimizer(self, model) -> torch.optim.Optimizer:
        return adam(model, self.config.learning_rate)

    def decay(self) -> float:
        """What the learning rate is multiplied by in this step, beside the warm-up."""
        return 1.0

    @property
    def learning_rate(self) -> float:
        """Of the last step; of the policy, where others learn too."""
        return next(iter(self.optimizers.values())).param_groups[0]["lr"]

    @property
    def microbatch_tokens(self) -> int | None:
        return self.machine.microbatch_tokens

    def step(self) -> dict:
        """Take one step and return its record."""
        start, c = time.perf_counter(), self.config
        pace = min(1, (self.step_number + 1) / (c.warmup_steps + 1))
        for name, optimizer in self.optimizers.items():
            rate = getattr(c, f"{name}_learning_rate", c.learning_rate)  # the critic has its own
            for group in optimizer.param_groups:
                group["lr"] = rate * pace * self.decay()
        self.machine.settle()
        with self.machine.advice(self.step_number + 1):
            record = self.learn(*self.collect())
        self.step_number += 1
        return {"step": self.step_number, **record, "seconds": time.perf_counter() - start}

    def __iter__(self) -> Iterator[dict]:
        while self.step_number < self.config.max_steps:
            yield self.step()

    def prove(self, policy, rollout: Rollout) -> None:
        """Refuse to learn from what the policy does not score as it drew it: of the first batch."""
        T = self.config.temperature
        prove_sampler(self.machine, policy, rollout, lambda x: token_logprobs(policy, x, T))

    def stateful(self) -> dict:
        """What a checkpoint holds beside models and counters: all that has a `state_dict`."""
        return dict(self.optimizers)

    def save(self, folder: str | os.PathLike) -> None:
        """Write a checkpoint: each model as a `save_pretrained` folder, and the loop's state."""
        state = {name: getattr(self, name) for name in self.STATE} | {
            "shuffler": self.shuffler.get_state(),
            "stateful": {name: x.state_dict() for name, x in self.stateful().items()},
        }
        if self.SAMPLES:
            state["samplers"] = gather(self.sampler.get_state())
        models = {**self.trained, "tokenizer": self.tokenizer}
        on_main_process(lambda: save_checkpoint(folder, models, state))

    def resume(self, folder: str | os.PathLike) -> None:
        """Continue from a checkpoint as if the run had not stopped: the same numbers follow."""
        needed = {*self.STATE, "shuffler", "stateful"} | ({"samplers"} if self.SAMPLES else set())
        state = load_checkpoint(folder, self.trained, needed)
        for name in self.STATE:
            value = state[name]
            setattr(self, name, value.to(self.machine.device) if torch.is_tensor(value) else value)
        if self.SAMPLES:
            resume_sampler(self.sampler, state["samplers"])
        self.shuffler.set_state(state["shuffler"])
        for name, x in self.stateful().items():
            x.load_state_dict(state["stateful"][name])


class SupervisedLoop(Loop):
    """A loop that learns from data alone. Chapters: sft, reward-model."""

    def optimizer(self, model) -> torch.optim.Optimizer:
        c = self.config
        return adam(model, c.learning_rate, (0.9, 0.98), eps=1e-8, weight_decay=c.weight_decay)


class Price:
    """The attribute `beta` of a loop: it may be turned at any time, but to nothing but a price.

    Chapter: ppo-live.
    """

    def __get__(self, loop, owner=None) -> Any:
        return self if loop is None else loop.__dict__["beta"]

    def __set__(self, loop, beta) -> None:
        loop.__dict__["beta"] = check_beta(beta)


class OnlineLoop(Loop):
    """A loop that samples from its policy and scores what it sampled.

    `beta` is an attribute: turn it while the loop runs, to 0 or more. `rollout` holds the last
    batch that was learnt from. Chapter: ppo-live.
    """

    STATE = (*Loop.STATE, "beta")
    SAMPLES = True
    config: Any  # an OnlineConfig
    beta = Price()

    def __init__(
        self, config: OnlineConfig, tokenizer, reward, dataset, trained: dict, frozen: dict
    ):
        check_shares(config, config.batch_size // getattr(config, "num_generations", 1))
        self.reward, self.data, self.beta = as_reward(reward), prompt_table(dataset), config.beta
        texts, new = [self.data["prompt"]], config.max_new_tokens
        check_lengths(trained | frozen, tokenizer, texts, new, self.reward)
        super().__init__(config, tokenizer, trained, frozen)
        self.rollout: Rollout | None = None

    def sample(self, policy, prompts: list[str]) -> Rollout:
        """A completion of each prompt; a loop whose policy has a tool replaces this."""
        c, dtype = self.config, self.machine.sampling_dtype
        how = (c.max_new_tokens, c.temperature, self.sampler)
        return sample(policy, self.tokenizer, prompts, *how, dtype=dtype)

    def sample_and_score(self, policy, rows: list[int], each: int = 1) -> tuple[Rollout, Tensor]:
        """Completions of the prompts in some rows of the data, and their scores.

        Of several processes each samples whole groups of `each` rows, and all get the whole batch.
        `each` is 1 where completions are not compared within groups.
        """
        prompts, columns = take(self.data, local_rows(rows, each))
        rollout = self.sample(policy, prompts)
        scores = score(self.reward, rollout, self.config.missing_eos_penalty, columns)
        rollout, scores = gather_rollout(rollout, scores, self.tokenizer.pad_token_id)
        if self.rollout is None:
            self.prove(policy, rollout)
        scores = fill_unscored(scores.view(-1, each if each > 1 else len(scores)))
        warn_if_constant(scores)
        return rollout, scores.flatten()

    def corrected(self, policy, rollout: Rollout) -> tuple[Rollout, Tensor | float, dict]:
        """Samples as the policy that learns sees them, what each is worth, and what to watch.

        With `importance_sampling` they may be another policy's: then their log-probabilities are
        computed anew, and the weight is the ratio of the two.
        """
        c, drawn, mask = self.config, rollout.logprobs, rollout.completion_mask
        if c.importance_sampling is None:
            return rollout, 1.0, {}
        old = self.logprobs(policy, rollout)
        bounds = c.importance_sampling_clip_min, c.importance_sampling_clip_max
        weights = importance_weights(old, drawn, mask, c.importance_sampling, bounds)
        means = {"sampler_kl": drawn - old, "importance_weight": weights.expand_as(old)}
        seen = {name: masked_mean(x, mask).item() for name, x in means.items()}
        return replace(rollout, logprobs=old), weights, seen

    def logprobs(self, model, rollout: Rollout) -> Tensor:
        """log π of each token that was sampled, (B, T), by a model that is not learning from it."""
        T = self.config.temperature
        return self.machine.table(lambda batch: token_logprobs(model, batch, T), rollout)

    def minibatches(self, passes: int) -> Iterator[Tensor]:
        """Row numbers of each update, reshuffled in every pass."""
        for _ in range(passes):
            order = torch.randperm(self.config.batch_size, generator=self.shuffler)
            yield from order.split(self.config.mini_batch_size)

    def watch(self, rollout: Rollout, updates: list[dict]) -> dict:
        """What to watch about the samples, and the means over the updates."""
        self.rollout = rollout
        warn_of_gap(updates[0]["ratio_gap"], self.machine.exact(self.trained["policy"]))
        return {
            "beta": self.beta,
            "entropy": masked_mean(rollout.entropies, rollout.completion_mask).item(),
            "length": rollout.lengths.float().mean().item(),
            "finished": rollout.finished.float().mean().item(),
            "distinct": len(set(rollout.completions)) / len(rollout.completions),
            **{name: sum(u[name] for u in updates) / len(updates) for name in updates[0]},
            "ratio_gap": updates[0]["ratio_gap"],  # before any update: numerical error alone
        }


def score(
    reward: RewardFunction, rollout: Rollout, missing_eos_penalty: float, columns: dict[str, list]
) -> Tensor:
    """The reward of each completion, shape (B,), less the penalty where it was cut off.

    NaN where no reward applies. `columns` are what else the dataset knows of each prompt, such as
    the right answer.

    Chapter: ppo-live.
    """
    given = {**columns, "completion_ids": ids_of(rollout)}
    rewards = reward_table([as_reward(reward)], rollout.prompts, rollout.completions, given)[0]
    return rewards.to(rollout.completion_ids.device) - missing_eos_penalty * (~rollout.finished)


def ids_of(rollout: Rollout) -> list[list[int]]:
    """The tokens of each completion, with the end token and without padding, as TRL gives them.

    Those that a tool wrote between them are there too.

    Chapter: reward-sources.
    """
    rows = zip(rollout.completion_ids.tolist(), rollout.read_mask.sum(dim=1).tolist())
    return [ids[:length] for ids, length in rows]


def fill_unscored(groups: Tensor) -> Tensor:
    """Scores of N groups, (N, G), where a completion that no reward applies to has their mean.

    Compared with its group it then has no advantage, as in TRL; but it counts as one of the G,
    where TRL takes the standard deviation of the others alone. Where a whole group has no score, it
    has the mean of the batch.

    Chapter: reward-sources.

    Examples
    --------
    >>> fill_unscored(torch.tensor([[1., torch.nan, 3.], 3 * [torch.nan]])).tolist()
    [[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]]
    """
    if not groups.isnan().any():
        return groups
    warnings.warn(UNSCORED, RuntimeWarning, stacklevel=5)
    exact = groups.cpu().double()  # so that the mean of equal scores is equal to them
    means = exact.nanmean(dim=1, keepdim=True)
    means = means.where(~means.isnan(), exact.nanmean().nan_to_num()).to(groups)
    return groups.where(~groups.isnan(), means)


def warn_if_constant(groups: Tensor) -> None:
    """Say so if all scores of each of N groups, (N, G), are equal: little is left to learn from.

    Chapters: ppo-live, grpo.
    """
    if groups.shape[1] > 1 and all_equal(groups).all():
        value = f"{groups[0, 0]:g}" if all_equal(groups.view(1, -1)) else "that of its whole group"
        told = CONSTANT.format(value, groups.numel())
        on_main_process(lambda: warnings.warn(told, RuntimeWarning, stacklevel=6))


def check_beta(beta) -> float:
    """β as a float; refuses what is no price of a nat.

    Chapter: ppo-live.

    Examples
    --------
    >>> check_beta(0)
    0.0
    >>> check_beta(-1)
    Traceback (most recent call last):
    ...
    ValueError: beta is -1; expected 0 or more, and finite
    """
    if not (isinstance(beta, Real) and 0 <= float(beta) < math.inf):
        raise ValueError(f"beta is {beta!r}; expected 0 or more, and finite")
    return float(beta)
