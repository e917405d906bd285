"""Supervised fine-tuning: raise the log-probability of demonstrated completions.

Pretraining on the world's corpus is the same loop with other data. It leaves out packing several
examples into one row: rows here are short, and a mask is easier to read. Chapter: sft.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..mathematics.losses import sft_loss
from ..models.tokens import TokenBatch, encode, token_logprobs
from ..worlds.lengths import check_lengths
from ..worlds.tables import column, rows_of_step
from .loop import SupervisedConfig, SupervisedLoop


@dataclass(frozen=True)
class SFTConfig(SupervisedConfig):
    """Settings beside those of every loop, or with other defaults, named as TRL names them.

    Chapter: sft.
    """

    max_steps: int = 60  # steps of the whole run
    batch_size: int = 64  # examples a step
    learning_rate: float = 5e-4  # times the warm-up, and a cosine that falls to a tenth
    warmup_steps: int = 19  # steps at less than the learning rate, which rises to it


class SFT(SupervisedLoop):
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
        If a setting is out of range, a column is missing or holds anything but text, or a row is
        longer than the model's context.
    FloatingPointError
        If a loss or gradient is not finite. The weights are those before the update.
    """

    config: SFTConfig

    def __init__(self, model, tokenizer, dataset, config: SFTConfig = SFTConfig()):
        self.model, self.data = model, Demonstrations(dataset, tokenizer, model)
        super().__init__(config, tokenizer, {"model": model}, {})

    def decay(self) -> float:
        return 0.1 + 0.45 * (1 + math.cos(math.pi * self.step_number / self.config.max_steps))

    def collect(self) -> tuple[TokenBatch]:
        """The next demonstrations."""
        c = self.config
        return (self.data.batch(c.batch_size, self.step_number, c.seed, self.model.device),)

    def learn(self, batch: TokenBatch) -> dict:
        """One gradient step on a batch of demonstrations; the record of the step."""
        losses = {"loss": (imitation_loss(self.model), batch)}
        record = self.machine.descend(self.model, self.optimizers["model"], losses)
        return {
            "loss": record["loss"],
            "learning_rate": self.learning_rate,
            "gradient_norm": record["gradient_norm"],
            "tokens": int(batch.completion_mask.sum()),
        }


class Demonstrations:
    """Prompts with the completions to imitate, as batches of tokens.

    Chapter: sft.

    Parameters
    ----------
    dataset : datasets.Dataset
        Columns `prompt` and `completion`.
    tokenizer : PreTrainedTokenizerBase
    model : transformers causal language model
        That will read them: a row that does not fit its context is refused.
    """

    def __init__(self, dataset, tokenizer, model):
        self.tokenizer = tokenizer
        self.prompts = column(dataset, "prompt")
        self.completions = column(dataset, "completion")
        check_lengths({"model": model}, tokenizer, (self.prompts, self.completions))

    def batch(self, size: int, step: int, seed: int, device) -> TokenBatch:
        """The rows of a step, in reshuffled epochs."""
        rows = rows_of_step(len(self.prompts), size, step, seed)
        prompts, completions = ([x[i] for i in rows] for x in (self.prompts, self.completions))
        return encode(self.tokenizer, prompts, completions, device)


def imitation_loss(model):
    """The SFT loss of a model, as a function of a batch of demonstrations. Chapter: sft."""

    def loss(batch: TokenBatch) -> tuple[Tensor, dict]:
        return sft_loss(token_logprobs(model, batch), batch.completion_mask), {}

    return loss
