"""Several processes, one batch: each samples, scores and differentiates its share of the rows.

Start a script with `accelerate launch`, and call `accelerate.PartialState()` before a loop is
made, of models on the `device` that it names. The loops find the process group by themselves. All
processes then hold the same weights and see the same batch; rows are shared out, gradients and
tables are added up, and the weights stay equal because every process takes the same optimiser
step. It is data parallelism, written down: what a larger engine adds is the hiding of these sums
behind the computation, and models that do not fit on one device. With one process every function
here returns what it was given.
Chapters: what-a-step-costs, scaling-out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
Rows = TypeVar("Rows", Tensor, list[int])


def rank_and_count() -> tuple[int, int]:
    """The number of this process, and how many there are.

    Chapter: what-a-step-costs.
    """
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def local_rows(rows: Rows, each: int = 1) -> Rows:
    """The rows of this process: a run of whole groups of `each`, as even as can be.

    Chapter: what-a-step-costs.
    """
    rank, count = rank_and_count()
    groups = len(rows) // each
    return rows[groups * rank // count * each : groups * (rank + 1) // count * each]


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of a tensor over all processes, in every one of them. Chapter: what-a-step-costs."""
    if rank_and_count()[1] > 1:
        dist.all_reduce(x)
    return x


def sum_gradients(model) -> None:
    """Add up the gradients of all processes; their losses must be shares of one loss.

    One message for the whole model: many small ones would wait for each other.
    Chapter: what-a-step-costs.
    """
    if rank_and_count()[1] == 1:
        return
    parameters = [p for p in model.parameters() if p.requires_grad]
    for p in parameters:  # a process may have had no rows
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    flat = sum_over_processes(torch.cat([p.grad.flatten() for p in parameters]))
    for p, gradient in zip(parameters, flat.split([p.numel() for p in parameters])):
        p.grad.copy_(gradient.view_as(p))


def gather(value: T) -> list[T]:
    """The values of all processes, in the order of their numbers. Chapter: what-a-step-costs."""
    count = rank_and_count()[1]
    if count == 1:
        return [value]
    values: list = [None] * count
    dist.all_gather_object(values, value)
    return values


def local_generator(device: torch.device, seed: int) -> torch.Generator:
    """Randomness for sampling, other in each process. Chapter: what-a-step-costs."""
    return torch.Generator(device).manual_seed(seed + 1_000_003 * rank_and_count()[0])


def resume_sampler(sampler: torch.Generator, states: list[Tensor]) -> None:
    """Give a sampler the state that this process put into a checkpoint.

    Chapter: what-a-step-costs.
    """
    rank, count = rank_and_count()
    if len(states) != count:
        raise ValueError(
            f"the checkpoint has samplers of {len(states)} processes; expected "
            f"{count}, as many as run now"
        )
    if len(states[rank]) != len(sampler.get_state()):
        raise ValueError(
            f"the checkpoint has a sampler of another kind of device; expected one of "
            f"{sampler.device}: random numbers do not go on elsewhere"
        )
    sampler.set_state(states[rank])


def broadcast(model) -> None:
    """Give every process the weights of the first. Chapter: what-a-step-costs."""
    if rank_and_count()[1] > 1:
        for p in model.parameters():
            dist.broadcast(p.data, 0)


def on_main_process(action: Callable[[], None]) -> None:
    """Let the first process act, and the others wait for it; if it fails, all raise.

    Chapter: what-a-step-costs.
    """
    failed = None
    if rank_and_count()[0] == 0:
        try:
            action()
        except Exception as error:
            failed = error
    failed = gather(failed)[0]
    if failed is not None:
        raise failed


def check_shares(config, prompts: int) -> None:
    """Refuse a batch that this number of processes cannot share. Chapter: what-a-step-costs."""
    processes = rank_and_count()[1]
    if prompts < processes:
        raise ValueError(
            f"batch_size={config.batch_size} has {prompts} prompts; expected one or more for each "
            f"of the {processes} processes"
        )


def check_one_process(name: str) -> None:
    """Refuse several processes where a loop does not share its rows. Chapter: what-a-step-costs."""
    processes = rank_and_count()[1]
    if processes > 1:
        raise ValueError(f"{name} runs in one process; expected 1, and {processes} were started")
