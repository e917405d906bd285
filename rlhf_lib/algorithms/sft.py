"""Supervised fine-tuning: raise the log-probability of demonstrated completions.

Pretraining on the world's corpus is the same loop with other data. It leaves out packing several
examples into one row: rows here are short, and a mask is easier to read. Chapter: sft.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..machinery.checkpoints import load_checkpoint, save_checkpoint
from ..machinery.microbatches import share
from ..machinery.processes import first_only, gather, own_share, same_weights
from ..machinery.training import (
    check_positive,
    column,
    descend,
    rows_of_step,
    set_learning_rate,
    train_without_dropout,
)
from ..mathematics.losses import sft_loss
from ..models.tokens import TokenBatch, encode, token_logprobs


@dataclass(frozen=True)
class SFTConfig:
    """Settings, named as TRL names them.

    Chapter: sft.
    """

    max_steps: int = 60  # steps of the whole run
    batch_size: int = 64  # examples a step
    gradient_accumulation_steps: int = 1  # parts it is computed in: less memory, same gradient
    learning_rate: float = 5e-4  # peak; after the warm-up it falls as a cosine to a tenth
    warmup_steps: int = 20  # in which the learning rate rises to its value
    weight_decay: float = 0.01  # of AdamW
    max_grad_norm: float = 1.0  # longer gradients are clipped to it
    seed: int = 0  # order of the data


class SFT:
    """Step through supervised fine-tuning; `for record in SFT(...)` trains to the end.

    Chapter: sft.

    Parameters
    ----------
    model : transformers causal language model
        Trained in place.
    tokenizer : PreTrainedTokenizerBase
    dataset : datasets.Dataset
        Columns `prompt` and `completion`.
    config : SFTConfig

    Raises
    ------
    ValueError
        If a setting is out of range, or a column is missing or holds anything but text.
    FloatingPointError
        If a loss or gradient is not finite. The weights are those before the update.
    """

    def __init__(self, model, tokenizer, dataset, config: SFTConfig = SFTConfig()):
        check_positive(
            config,
            "max_steps",
            "batch_size",
            "gradient_accumulation_steps",
            "learning_rate",
            "max_grad_norm",
        )
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.prompts = column(dataset, "prompt")
        self.completions = column(dataset, "completion")
        train_without_dropout(model)
        same_weights(model)
        self.optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            betas=(0.9, 0.98),
        )
        self.step_number = 0

    def step(self) -> dict:
        """Take one gradient step and return its record."""
        start = time.perf_counter()
        c = self.config
        rows = rows_of_step(len(self.prompts), c.batch_size, self.step_number, c.seed)
        batch = encode(
            self.tokenizer,
            [self.prompts[i] for i in rows],
            [self.completions[i] for i in rows],
            self.model.device,
        )
        progress = self.step_number / c.max_steps
        rate = (
            c.learning_rate
            * min(1, (self.step_number + 1) / max(1, c.warmup_steps))
            * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))
        )
        set_learning_rate(self.optimizer, rate)
        losses: list[float] = []
        gradient_norm = descend(
            self.model, self.optimizer, self.parts(batch, losses), c.max_grad_norm
        )
        self.step_number += 1
        return {
            "step": self.step_number,
            "loss": sum(map(sum, gather(losses))),
            "learning_rate": rate,
            "gradient_norm": gradient_norm,
            "tokens": int(batch.completion_mask.sum()),
            "seconds": time.perf_counter() - start,
        }

    def parts(self, batch: TokenBatch, losses: list[float]) -> Iterator[Tensor]:
        """The loss of a batch in `gradient_accumulation_steps` parts that add up to it.

        Each part weighs by its tokens. Were the parts' means averaged, a token would weigh more
        in a part with short completions.
        """
        rows = own_share(torch.arange(len(batch)))
        size = max(1, -(-len(rows) // self.config.gradient_accumulation_steps))
        for own in rows.split(size):
            part = batch[own]
            loss = sft_loss(token_logprobs(self.model, part), part.completion_mask) * share(
                part.completion_mask, batch.completion_mask
            )
            losses.append(loss.item())
            yield loss

    def __iter__(self) -> Iterator[dict]:
        while self.step_number < self.config.max_steps:
            yield self.step()

    def save(self, folder: str | os.PathLike) -> None:
        """Write a checkpoint: the model as a `save_pretrained` folder, and the loop state."""
        first_only(
            lambda: save_checkpoint(
                folder,
                {"model": self.model, "tokenizer": self.tokenizer},
                {"step_number": self.step_number, "optimizer": self.optimizer.state_dict()},
            )
        )

    def resume(self, folder: str | os.PathLike) -> None:
        """Continue from a checkpoint as if the run had not stopped: the same numbers follow."""
        state = load_checkpoint(folder, {"model": self.model})
        self.step_number = state["step_number"]
        self.optimizer.load_state_dict(state["optimizer"])
