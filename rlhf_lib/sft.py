"""Supervised fine-tuning: raise the log-probability of demonstrated completions.

Pretraining on the world's corpus is the same loop with other data. It leaves out packing several
examples into one row: rows here are short, and a mask is easier to read. Chapter: ppo-live.
"""
from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Iterator

import torch

from .losses import sft_loss
from .policy import encode, token_logprobs
from .training import descend, rows_of_step, set_learning_rate, train_without_dropout


@dataclass(frozen=True)
class SFTConfig:
    """Settings, named as TRL names them."""

    max_steps: int = 60
    batch_size: int = 64  # examples a step
    learning_rate: float = 5e-4  # peak; after the warm-up it falls as a cosine to a tenth
    warmup_steps: int = 20
    weight_decay: float = .01
    max_grad_norm: float = 1.
    seed: int = 0  # order of the data


class SFT:
    """Step through supervised fine-tuning; `for record in SFT(...)` trains to the end.

    Parameters
    ----------
    model : transformers causal language model
        Trained in place.
    tokenizer : PreTrainedTokenizerBase
    dataset : datasets.Dataset
        Columns `prompt` and `completion`.
    config : SFTConfig

    Chapter: ppo-live.
    """

    def __init__(self, model, tokenizer, dataset, config: SFTConfig = SFTConfig()):
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.prompts, self.completions = list(dataset["prompt"]), list(dataset["completion"])
        train_without_dropout(model)
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay,
            betas=(.9, .98))
        self.step_number = 0

    def step(self) -> dict:
        """Take one gradient step and return its record."""
        start = time.perf_counter()
        c = self.config
        rows = rows_of_step(len(self.prompts), c.batch_size, self.step_number, c.seed)
        batch = encode(self.tokenizer, [self.prompts[i] for i in rows],
                       [self.completions[i] for i in rows], self.model.device)
        loss = sft_loss(token_logprobs(self.model, batch), batch.completion_mask)
        progress = self.step_number / c.max_steps
        rate = c.learning_rate * min(1, (self.step_number + 1) / c.warmup_steps) * \
            (.1 + .45 * (1 + math.cos(math.pi * progress)))
        set_learning_rate(self.optimizer, rate)
        descend(self.model, self.optimizer, loss, c.max_grad_norm)
        self.step_number += 1
        return {"step": self.step_number, "loss": loss.item(), "learning_rate": rate,
                "seconds": time.perf_counter() - start}

    def __iter__(self) -> Iterator[dict]:
        while self.step_number < self.config.max_steps:
            yield self.step()
