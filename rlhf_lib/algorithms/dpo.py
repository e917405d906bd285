"""Direct preference optimisation and its relatives: learn from comparisons, without a reward model
and without sampling.

One step:

1. take a batch of pairs from the data
2. log-probabilities of the chosen and of the rejected completions, under policy and reference
3. their log-ratios times β are the implicit rewards; descend a loss of them

`loss_type` chooses the loss. "dpo" is the Bradley–Terry loss of the implicit rewards; "ipo" pulls
their gap to a finite target; "simpo" takes log-probabilities per token and no reference; "kto"
takes single completions, each labelled desirable or not, and compares each with a reference point.

It leaves out, against the larger implementations: gradient accumulation, a reference that follows
the policy, and mixtures of losses. Axes: B completions of a step, T completion tokens. Source:
Rafailov et al. 2023, arXiv:2305.18290; IPO, Azar et al. 2023, arXiv:2310.12036; SimPO, Meng et al.
2024, arXiv:2405.14734; KTO, Ethayarajh et al. 2024, arXiv:2402.01306. Chapter: dpo.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..machinery.checkpoints import load_checkpoint, save_checkpoint
from ..machinery.training import (
    adam,
    check_apart,
    check_one_process,
    check_positive,
    column,
    descend,
    freeze,
    rows_of_step,
    set_learning_rate,
    train_without_dropout,
)
from ..mathematics.losses import dpo_loss, ipo_loss, kto_loss, sequence_logprobs, simpo_loss
from ..models.tokens import TokenBatch, encode, token_logprobs


@dataclass(frozen=True)
class DPOConfig:
    """Settings, named as TRL names them.

    Chapter: dpo.
    """

    loss_type: str = "dpo"  # or "ipo", "simpo", "kto"; TRL calls the first "sigmoid"
    max_steps: int = 100  # steps of the whole run
    batch_size: int = 32  # pairs a step; for "kto", completions
    beta: float | None = None  # None: 2 for "simpo", .1 for the others
    label_smoothing: float = 0.0  # "dpo": share of comparisons taken to be wrong
    simpo_gamma: float = 1.0  # "simpo": margin that the chosen completion must win by
    desirable_weight: float = 1.0  # "kto": weights for labels that are not equally frequent
    undesirable_weight: float = 1.0  # the same for the undesirable ones
    precompute_ref_log_probs: bool = True  # once, at the first step, instead of in every epoch
    learning_rate: float = 1e-4  # peak; after the warm-up it falls linearly to 0
    warmup_steps: int = 10  # in which the learning rate rises to its value
    max_grad_norm: float = 1.0  # longer gradients are clipped to it
    seed: int = 0  # order of the data


class DPO:
    """Step through DPO; `for record in DPO(...)` trains to the end, and can stop anywhere.

    `beta` is an attribute: turn it while the loop runs. In the records, `chosen_reward`,
    `rejected_reward` and `reward_margin` are implicit rewards, and `accuracy` is how often they
    agree with the data; `chosen_logprob` is the mean log-probability of the chosen completions,
    in nats per completion ("simpo": per token). Watch it: the margin can grow while it falls.

    Source: as for this module. Chapter: dpo.

    Parameters
    ----------
    policy : transformers causal language model
        Trained in place.
    reference : transformers causal language model or None
        π_ref, usually a copy of the policy; frozen here. None for "simpo", which has none.
    tokenizer : PreTrainedTokenizerBase
    dataset : datasets.Dataset
        Columns `prompt`, `chosen` and `rejected`. For "kto" also `prompt`, `completion` and
        `label` (True for desirable); pairs are taken apart into one row of each kind.
    config : DPOConfig

    Raises
    ------
    ValueError
        If a setting is out of range, or a column is missing or of the wrong kind.
    FloatingPointError
        If a loss or gradient is not finite. The weights are those before the update.
    """

    def __init__(self, policy, reference, tokenizer, dataset, config: DPOConfig = DPOConfig()):
        check_one_process("DPO")
        check_positive(config, "max_steps", "batch_size", "learning_rate", "max_grad_norm")
        if config.loss_type not in ("dpo", "ipo", "simpo", "kto"):
            raise ValueError(
                f"loss_type is {config.loss_type!r}; expected 'dpo', 'ipo', 'simpo' or 'kto'"
            )
        if (reference is None) != (config.loss_type == "simpo"):
            raise ValueError(
                f"reference is {'None' if reference is None else 'a model'} and "
                f"loss_type {config.loss_type!r}; expected a model, and None for "
                "'simpo' alone"
            )
        if not 0 <= config.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing is {config.label_smoothing}; expected 0 to .5")
        if config.loss_type == "kto" and config.batch_size < 2:
            raise ValueError(
                "batch_size is 1; expected at least 2 for 'kto', which compares "
                "each completion with the others of its batch"
            )
        self.beta = (
            config.beta if config.beta is not None else 2.0 if config.loss_type == "simpo" else 0.1
        )
        if not self.beta > 0:
            raise ValueError(f"beta is {self.beta}; expected a positive number")
        self.policy, self.reference = policy, reference
        self.tokenizer, self.config = tokenizer, config
        if reference is not None:
            check_apart(policy=policy, reference=reference)
            freeze(reference)
        train_without_dropout(policy)
        # completions in one list: row i is the chosen one of pair i, row N + i the rejected one
        self.prompts = column(dataset, "prompt")
        if config.loss_type == "kto" and "label" in dataset.column_names:
            self.completions = column(dataset, "completion")
            self.labels = column(dataset, "label", bool)
        else:
            self.completions = column(dataset, "chosen") + column(dataset, "rejected")
            self.labels = [True] * len(self.prompts) + [False] * len(self.prompts)
            self.prompts = self.prompts * 2
        self.optimizer = adam(policy, config.learning_rate)
        self.cached: Tensor | None = None  # reference log-probabilities of all completions
        self.step_number = 0

    def step(self) -> dict:
        """Take one gradient step and return its record."""
        start = time.perf_counter()
        c, total = self.config, len(self.completions)
        if c.loss_type == "kto":
            rows = rows_of_step(total, c.batch_size, self.step_number, c.seed)
        else:
            pairs = rows_of_step(total // 2, c.batch_size, self.step_number, c.seed)
            rows = pairs + [pair + total // 2 for pair in pairs]
        batch = self.encode(rows, rows)
        logprobs = self.logprobs(self.policy, batch)  # (B,)
        ref_logprobs = self.ref_logprobs(rows, batch)
        loss, measured = self.loss(rows, logprobs, ref_logprobs)

        rate = (
            c.learning_rate
            * min(1, (self.step_number + 1) / max(1, c.warmup_steps))
            * (1 - self.step_number / c.max_steps)
        )
        set_learning_rate(self.optimizer, rate)
        gradient_norm = descend(self.policy, self.optimizer, loss, c.max_grad_norm)
        self.step_number += 1
        return {
            "step": self.step_number,
            "loss": loss.item(),
            **measured,
            "beta": self.beta,
            "learning_rate": rate,
            "gradient_norm": gradient_norm,
            "seconds": time.perf_counter() - start,
        }

    def loss(self, rows: list[int], logprobs: Tensor, ref_logprobs: Tensor) -> tuple[Tensor, dict]:
        """The loss of some rows, and what to watch about them."""
        c = self.config
        desirable = torch.tensor([self.labels[row] for row in rows], device=logprobs.device)
        rewards = self.beta * (logprobs - ref_logprobs).detach()
        measured = {
            "chosen_reward": rewards[desirable].mean().item(),
            "rejected_reward": rewards[~desirable].mean().item(),
            "chosen_logprob": logprobs[desirable].mean().item(),
            "rejected_logprob": logprobs[~desirable].mean().item(),
        }
        measured["reward_margin"] = measured["chosen_reward"] - measured["rejected_reward"]
        if c.loss_type == "kto":
            kl = self.reference_point(rows)
            measured["accuracy"] = ((rewards > self.beta * kl) == desirable).float().mean().item()
            measured["reference_point"] = kl.item()
            return kto_loss(
                logprobs - ref_logprobs,
                desirable,
                kl,
                self.beta,
                c.desirable_weight,
                c.undesirable_weight,
            ), measured
        chosen, rejected = logprobs.chunk(2)
        gaps = rewards[desirable] - rewards[~desirable]
        measured["accuracy"] = (0.5 + 0.5 * gaps.sign()).mean().item()  # a tie counts half
        if c.loss_type == "simpo":
            return simpo_loss(chosen, rejected, self.beta, c.simpo_gamma), measured
        if c.loss_type == "ipo":
            return ipo_loss(chosen, rejected, *ref_logprobs.chunk(2), self.beta), measured
        return dpo_loss(
            chosen, rejected, *ref_logprobs.chunk(2), self.beta, c.label_smoothing
        ), measured

    def __iter__(self) -> Iterator[dict]:
        while self.step_number < self.config.max_steps:
            yield self.step()

    # ------------------------------------------------------------------ log-probabilities

    def encode(self, rows: list[int], completions: list[int]) -> TokenBatch:
        """Prompts of some rows with the completions of the same or of other rows."""
        return encode(
            self.tokenizer,
            [self.prompts[i] for i in rows],
            [self.completions[i] for i in completions],
            self.policy.device,
        )

    def logprobs(self, model, batch: TokenBatch) -> Tensor:
        """log π(y | x) of each completion, shape (B,), in nats; per token for "simpo"."""
        return sequence_logprobs(
            token_logprobs(model, batch),
            batch.completion_mask,
            mean=self.config.loss_type == "simpo",
        )

    @torch.no_grad()
    def ref_logprobs(self, rows: list[int], batch: TokenBatch) -> Tensor:
        """The same under the reference, from the cache if there is one; 0 without a reference."""
        if self.reference is None:
            return torch.zeros(len(rows), device=self.policy.device)
        if not self.config.precompute_ref_log_probs:
            return self.logprobs(self.reference, batch)
        if self.cached is None:
            parts = torch.arange(len(self.completions)).split(2 * self.config.batch_size)
            self.cached = torch.cat(
                [
                    self.logprobs(self.reference, self.encode(part.tolist(), part.tolist()))
                    for part in parts
                ]
            )
        return self.cached[rows]

    @torch.no_grad()
    def reference_point(self, rows: list[int]) -> Tensor:
        """KTO's z_0: the mean log-ratio over prompts with another row's completion, at least 0.

        It stands for KL(π‖π_ref), cheaply and with a bias; no gradient flows through it. The
        completions are those of the batch, each handed on to the next row's prompt.
        Source: Ethayarajh et al. 2024, arXiv:2402.01306, section 4.1.
        """
        batch = self.encode(rows, rows[-1:] + rows[:-1])
        log_ratio = self.logprobs(self.policy, batch) - self.logprobs(self.reference, batch)
        return log_ratio.mean().clamp(min=0)

    # ------------------------------------------------------------------ stopping and going on

    def save(self, folder: str | os.PathLike) -> None:
        """Write a checkpoint: the policy as a `save_pretrained` folder, and the loop state."""
        save_checkpoint(
            folder,
            {"policy": self.policy, "tokenizer": self.tokenizer},
            {
                "step_number": self.step_number,
                "beta": self.beta,
                "cached": self.cached,
                "optimizer": self.optimizer.state_dict(),
            },
        )

    def resume(self, folder: str | os.PathLike) -> None:
        """Continue from a checkpoint as if the run had not stopped: the same numbers follow."""
        state = load_checkpoint(folder, {"policy": self.policy})
        self.step_number, self.beta = state["step_number"], state["beta"]
        if state["cached"] is not None:
            self.cached = state["cached"].to(self.policy.device)
        self.optimizer.load_state_dict(state["optimizer"])
