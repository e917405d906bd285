"""What the loops share: which rows a step sees, one optimiser step, and the checks before a run.

There is no base class. Each algorithm is a file that is read from top to bottom and calls these.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from contextlib import nullcontext
from numbers import Real

import torch
from torch import Tensor

from ..mathematics.advantages import masked_mean
from ..models.policy import layers_of
from ..models.rewards import RewardFunction, call_reward
from ..models.rollout import Rollout, join
from .precision import computing_in
from .processes import gather, rank_and_count, sum_gradients

# ---------------------------------------------------------------------------------- data


def rows_of_step(size: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Row numbers for one step, walking through reshuffled epochs of the data.

    Chapter: sft.

    Examples
    --------
    >>> a, b = rows_of_step(6, 3, step=0, seed=0), rows_of_step(6, 3, step=1, seed=0)
    >>> sorted(a + b)
    [0, 1, 2, 3, 4, 5]
    """
    if size < 1:
        raise ValueError(f"the dataset has {size} rows; expected at least 1")
    rows = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        epoch, offset = divmod(position, size)
        if not rows or offset == 0:
            shuffle = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            order = torch.randperm(size, generator=shuffle).tolist()
        rows.append(order[offset])
    return rows


# ---------------------------------------------------------------------------------- models


def freeze(model) -> None:
    """No gradient, no dropout: how a reference stays what it was.

    Chapter: ppo-mechanics.
    """
    model.eval()
    model.requires_grad_(False)


def train_without_dropout(model) -> None:
    """Gradients on, dropout off: the sampler and the scorer must be one function.

    Chapter: ppo-mechanics.
    """
    model.eval()
    model.requires_grad_(True)


def recompute_activations(model, config) -> None:
    """Activation checkpointing: keep the input of each layer alone, and compute the rest again.

    transformers does so in layers that are in training mode. Only they are put there: what is
    inside them, dropout above all, stays as it is in evaluation. While they sample they leave it,
    as otherwise they would take no cache (`rollout.plain_layers`).

    Source: Chen et al. 2016, arXiv:1604.06174. Chapter: gpt2-on-a-gpu.
    """
    how = {"use_reentrant": False}
    if config.bf16 and model.device.type == "cpu":  # autocast is restored, our own mode is not
        how["context_fn"] = lambda: (nullcontext(), computing_in(config, model.device))
    enable = getattr(model, "activation_checkpointing_enable", None)  # its name since 5.23
    (enable or model.gradient_checkpointing_enable)(how)
    model.disable_input_require_grads()  # a hook that only reentrant checkpoints need
    for layer in layers_of(model):
        layer.training = True


def compile_layers(*models) -> None:
    """Let `torch.compile` fuse what stands between the products of each layer.

    The layers share one compiled program, made at the first call, for any length. All around
    them, and sampling, stays as it is. Needs a C++ compiler on a CPU, Triton on a GPU.

    Source: Ansel et al. 2024, doi:10.1145/3620665.3640366. Chapter: gpt2-on-a-gpu.
    """
    for model in models:
        for layer in layers_of(model) if model is not None else ():
            layer.compile(dynamic=True)


def check_apart(**models) -> None:
    """Refuse one model in two roles, or on two devices.

    A reference that is the policy would move along with it.

    Chapter: ppo-mechanics.
    """
    names = list(models)
    for i, name in enumerate(names):
        for other in names[:i]:
            if models[name] is models[other]:
                raise ValueError(
                    f"{name} and {other} are the same model; expected a copy (copy.deepcopy)"
                )
            if models[name].device != models[other].device:
                raise ValueError(
                    f"{name} is on {models[name].device}; expected "
                    f"{models[other].device}, where {other} is"
                )


# ---------------------------------------------------------------------------------- optimising


def adam(model, learning_rate: float) -> torch.optim.Optimizer:
    """Adam for a policy or a critic; no weight decay, which would pull away from the reference.

    Source: Huang et al. 2024, arXiv:2403.17031, for eps 1e-5. Chapter: ppo-mechanics.
    """
    return torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.0
    )


def set_learning_rate(optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def descend(model, optimizer, loss: Tensor | Iterable[Tensor], max_grad_norm: float) -> float:
    """One optimiser step; returns the gradient norm before clipping.

    Given several losses, their gradients add up. Each is followed back as it comes, so that an
    iterator which computes them one by one holds the activations of one at a time. Of several
    processes each gives its own losses, shares of one.

    Chapter: ppo-mechanics.
    """
    return move(model, optimizer, follow_back(optimizer, loss), max_grad_norm)


def follow_back(optimizer, loss: Tensor | Iterable[Tensor]) -> float:
    """Put the gradients of one loss or several in place of the old; returns the sum of the losses.

    Chapter: ppo-mechanics.
    """
    optimizer.zero_grad()
    total = 0.0
    for part in [loss] if isinstance(loss, Tensor) else loss:
        part.backward()
        total += part.item()
    return total


def move(model, optimizer, loss: float, max_grad_norm: float) -> float:
    """Clip the gradients there are and step along them; returns their norm before clipping.

    `loss` is for the message alone, should a gradient not be finite: then no weight moves.

    Chapter: ppo-mechanics.
    """
    sum_gradients(model)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm).item()
    if not math.isfinite(norm):
        optimizer.zero_grad()
        raise FloatingPointError(
            f"the gradient norm is {norm} at a loss of {loss}; the "
            "update was refused and the weights are those before it"
        )
    optimizer.step()
    return norm


# ---------------------------------------------------------------------------------- sampling


def score(
    reward: RewardFunction,
    rollout: Rollout,
    missing_eos_penalty: float,
    columns: dict[str, list] | None = None,
) -> Tensor:
    """The reward of each completion, shape (B,), less the penalty where it was cut off.

    `columns` are what else the dataset knows of each prompt, such as the right answer.

    Chapter: ppo-live.
    """
    rewards = call_reward(reward, rollout.prompts, rollout.completions, **(columns or {}))
    return rewards.to(rollout.logprobs.device) - missing_eos_penalty * (~rollout.finished)


def together(rollout: Rollout, scores: Tensor, pad_token_id: int) -> tuple[Rollout, Tensor]:
    """What all processes sampled and scored, as one batch that every one of them holds.

    Chapter: scaling-out.
    """
    if rank_and_count()[1] == 1:
        return rollout, scores
    found = gather((rollout.to("cpu"), scores.cpu()))
    return (
        join([rollout for rollout, _ in found], pad_token_id).to(scores.device),
        torch.cat([scores for _, scores in found]).to(scores.device),
    )


def warn_if_constant(scores: Tensor) -> None:
    """Say so if every completion scored the same: with a critic that knows, nothing is learnt.

    Chapter: ppo-live.
    """
    if len(scores) > 1 and (scores == scores[0]).all():
        warnings.warn(
            f"the reward is {scores[0].item():g} for each of the {len(scores)} "
            "completions of this step; expected some to be better than others. Only "
            "the KL is left to learn from",
            RuntimeWarning,
            stacklevel=4,
        )


def rollout_record(rollout: Rollout) -> dict:
    """What to watch about the samples themselves.

    Chapter: ppo-live.
    """
    return {
        "entropy": masked_mean(rollout.entropies, rollout.completion_mask).item(),
        "length": rollout.lengths.float().mean().item(),
        "finished": rollout.finished.float().mean().item(),
        "distinct": len(set(rollout.completions)) / len(rollout.completions),
    }


# ---------------------------------------------------------------------------------- settings


def check_settings(config) -> None:
    """Refuse settings that would fail late or, worse, train something else."""
    for name in ("batch_size", "mini_batch_size", "max_new_tokens", "max_steps"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}; expected at least 1")
    if config.batch_size % config.mini_batch_size:
        raise ValueError(
            f"batch_size is {config.batch_size}; expected a multiple of "
            f"mini_batch_size={config.mini_batch_size}"
        )
    check_positive(config, "temperature", "learning_rate", "epsilon", "max_grad_norm")
    check_beta(config.beta)
    if config.microbatch_tokens is not None:
        check_positive(config, "microbatch_tokens")
    if not config.warmup_steps >= 0:
        raise ValueError(f"warmup_steps is {config.warmup_steps}; expected 0 or more")


def check_shares(config, prompts: int) -> None:
    """Refuse a batch that this number of processes cannot share. Chapter: scaling-out."""
    processes = rank_and_count()[1]
    if prompts < processes:
        raise ValueError(
            f"batch_size={config.batch_size} has {prompts} prompts; expected one or "
            f"more for each of the {processes} processes"
        )


def check_one_process(name: str) -> None:
    """Refuse several processes where a loop does not share its rows. Chapter: scaling-out."""
    processes = rank_and_count()[1]
    if processes > 1:
        raise ValueError(f"{name} runs in one process; expected 1, and {processes} were started")


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
    if not (isinstance(beta, Real) and 0 <= beta < math.inf):
        raise ValueError(f"beta is {beta!r}; expected 0 or more, and finite")
    return float(beta)


class Price:
    """The attribute `beta` of a loop: it may be turned at any time, and to nothing that is no price.

    Chapter: ppo-live.
    """

    def __get__(self, loop, owner=None):
        return self if loop is None else loop.__dict__["beta"]

    def __set__(self, loop, beta) -> None:
        loop.__dict__["beta"] = check_beta(beta)


def check_positive(config, *names: str) -> None:
    """Refuse settings that are not above 0."""
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} is {getattr(config, name)}; expected a positive number")


def column(dataset, name: str, kind: type | tuple[type, ...] = str) -> list:
    """A column of a dataset as a list, checked: it is there, and its entries are of one kind.

    Examples
    --------
    >>> from datasets import Dataset
    >>> column(Dataset.from_dict({"prompt": ["a", None]}), "prompt")
    Traceback (most recent call last):
    ...
    ValueError: prompt[1] of the dataset is None; expected str
    """
    if name not in dataset.column_names:
        raise ValueError(
            f"the dataset has the columns {', '.join(dataset.column_names)}; "
            f"expected {name!r} among them"
        )
    values = list(dataset[name])
    for i, value in enumerate(values):
        if not isinstance(value, kind):
            expected = " or ".join(
                k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,))
            )
            raise ValueError(f"{name}[{i}] of the dataset is {value!r}; expected {expected}")
    return values


def prompt_table(dataset) -> dict[str, list]:
    """A dataset as lists: the column `prompt`, checked, and whatever else it knows of a prompt.

    Chapter: ppo-live.
    """
    return {"prompt": column(dataset, "prompt")} | {
        name: list(dataset[name]) for name in dataset.column_names if name != "prompt"
    }


def take(table: dict[str, list], rows: list[int]) -> tuple[list[str], dict[str, list]]:
    """Some rows of a prompt table: the prompts, and the other columns, for the reward.

    Chapter: ppo-live.

    Examples
    --------
    >>> take({"prompt": ["a", "b"], "answer": [1, 2]}, [1, 1])
    (['b', 'b'], {'answer': [2, 2]})
    """
    columns = {name: [values[i] for i in rows] for name, values in table.items()}
    return columns.pop("prompt"), columns
