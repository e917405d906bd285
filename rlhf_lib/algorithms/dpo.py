"""Direct preference optimisation and its relatives: learn from comparisons, without a reward model
and without sampling.

One step:

1. take a batch of pairs from the data
2. log-probabilities of the chosen and of the rejected completions, under policy and reference
3. their log-ratios times β are the implicit rewards; descend a loss of them

`loss_type` chooses the loss. "dpo" is the Bradley–Terry loss of the implicit rewards; "ipo" pulls
their gap to a finite target; "simpo" takes log-probabilities per token and no reference; "kto"
takes single completions, each labelled desirable or not, and compares each with a reference point.

It leaves out, against the larger implementations: a reference that follows the policy, and
mixtures of losses. Axes: B completions of a step, T completion tokens. Source:
Rafailov et al. 2023, arXiv:2305.18290; IPO, Azar et al. 2023, arXiv:2310.12036; SimPO, Meng et al.
2024, arXiv:2405.14734; KTO, Ethayarajh et al. 2024, arXiv:2402.01306. Chapter: dpo.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..families.adapters import needed_reference
from ..families.support import context_of
from ..machinery.decoding import position_ids
from ..machinery.processes import check_one_process
from ..machinery.settings import check_choices
from ..mathematics.losses import dpo_loss, ipo_loss, kto_loss, sequence_logprobs, simpo_loss
from ..models.tokens import PairBatch, TokenBatch, encode, token_logprobs
from ..worlds.lengths import check_lengths
from ..worlds.tables import column, rows_of_step
from .loop import Config, Loop


@dataclass(frozen=True)
class DPOConfig(Config):
    """Settings beside those of every loop, or with other defaults, named as TRL names them.

    `average_log_prob` is a setting here alone: TRL 1.16 averages for "ipo", always, and so differs
    from eq. 17 of the paper, of whole completions, wherever those of a pair differ in length.

    Chapter: dpo.
    """

    loss_type: str = "dpo"  # or "ipo", "simpo", "kto"; TRL calls the first "sigmoid"
    max_steps: int = 100  # steps of the whole run
    batch_size: int = 32  # pairs a step; for "kto", completions
    learning_rate: float = 1e-4  # times the warm-up, and a line that falls to 0
    warmup_steps: int = 9  # steps at less than the learning rate, which rises to it
    beta: float | None = None  # None: 2 for "simpo", .1 for the others
    label_smoothing: float = 0.0  # "dpo": share of comparisons taken to be wrong
    simpo_gamma: float = 1.0  # "simpo": margin that the chosen completion must win by
    average_log_prob: bool = False  # "ipo": log-probabilities per token, as TRL takes them
    desirable_weight: float = 1.0  # "kto": weights for labels that are not equally frequent
    undesirable_weight: float = 1.0  # the same for the undesirable ones
    precompute_ref_log_probs: bool = True  # once, at the first step, instead of in every epoch

    def __post_init__(self):
        super().__post_init__()
        check_choices(self, loss_type=("dpo", "ipo", "simpo", "kto"))
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; expected 0 to .5")
        if self.loss_type == "kto" and self.batch_size < 2:
            raise ValueError(
                "batch_size is 1; expected at least 2 for 'kto', which compares each completion "
                "with the others of its batch"
            )
        if self.beta is not None and not self.beta > 0:
            raise ValueError(f"beta is {self.beta}; expected a positive number")
        if self.average_log_prob and self.loss_type != "ipo":
            raise ValueError(
                f"average_log_prob is True and loss_type {self.loss_type!r}; expected 'ipo' ("
                "'simpo' always takes them per token)"
            )


@dataclass
class Pairs(PairBatch):
    """Comparisons to learn from. Chapter: dpo."""

    ref_logprobs: Tensor  # (B, 2, 1) of the completions under the reference


@dataclass
class Labelled(TokenBatch):
    """Single completions to learn from, for "kto". Chapter: dpo."""

    ref_logprobs: Tensor  # (B,) under the reference
    desirable: Tensor  # (B,) whether a completion is
    reference_point: Tensor  # (B,) the same number for all


class DPO(Loop):
    """Step through DPO; `for record in DPO(...)` trains to the end, and can stop anywhere.

    `beta` is an attribute: turn it while the loop runs. In the records, `chosen_reward`,
    `rejected_reward` and `reward_margin` are implicit rewards, and `accuracy` is how often they
    agree with the data; `chosen_logprob` is the mean log-probability of the chosen completions,
    in nats per completion (per token for "simpo", and with `average_log_prob`). Watch it: the
    margin can grow while it falls.

    Source: as for this module. Chapter: dpo.

    Parameters
    ----------
    policy : transformers causal language model
        Trained in place.
    reference : transformers causal language model or None
        π_ref, usually a copy of the policy; frozen here. None for "simpo", which has none, and for
        a policy with an adapter: the model with the adapter off.
    tokenizer : PreTrainedTokenizerBase
    dataset : datasets.Dataset
        Columns `prompt`, `chosen` and `rejected`. For "kto" also `prompt`, `completion` and
        `label` (True for desirable); pairs are taken apart into one row of each kind.
    config : DPOConfig

    Raises
    ------
    ValueError
        If a setting is out of range, a column is missing or of the wrong kind, or a row is longer
        than the context of policy or reference.
    FloatingPointError
        If a loss or gradient is not finite. The weights are those before the update.
    """

    STATE = ("step_number", "beta", "cached")
    config: DPOConfig

    def __init__(self, policy, reference, tokenizer, dataset, config: DPOConfig = DPOConfig()):
        check_one_process("DPO")
        reference = needed_reference(policy, reference, config.loss_type != "simpo")
        if reference is not None and config.loss_type == "simpo":
            raise ValueError("reference is a model and loss_type 'simpo'; expected None")
        super().__init__(config, tokenizer, {"policy": policy}, {"reference": reference})
        self.policy, self.reference = policy, reference
        self.beta = config.beta or (2.0 if config.loss_type == "simpo" else 0.1)
        self.per_token = config.loss_type == "simpo" or config.average_log_prob
        labelled = config.loss_type == "kto" and "chosen" not in dataset.column_names
        columns = ("completion",) if labelled else ("chosen", "rejected")
        prompts, *texts = [column(dataset, name) for name in ("prompt", *columns)]
        check_lengths({"policy": policy, "reference": reference}, tokenizer, [prompts, *texts])
        # completions in one list: row i is the chosen one of pair i, row N + i the rejected one
        self.prompts, self.completions, N = prompts * len(texts), sum(texts, []), len(prompts)
        self.labels = column(dataset, "label", bool) if labelled else [True] * N + [False] * N
        self.cached: Tensor | None = None  # reference log-probabilities of all completions

    def decay(self) -> float:
        return 1 - self.step_number / self.config.max_steps

    def collect(self) -> tuple[Pairs | Labelled]:
        """1, and the reference's half of 2."""
        c, total = self.config, len(self.completions)
        if c.loss_type == "kto":
            rows = rows_of_step(total, c.batch_size, self.step_number, c.seed)
            batch = self.encode(rows, rows)
            labels = torch.tensor([self.labels[row] for row in rows], device=self.policy.device)
            point = self.reference_point(rows).expand(len(rows))
            return (Labelled(*batch.tokens, self.ref_logprobs(rows, batch), labels, point),)
        pairs = rows_of_step(total // 2, c.batch_size, self.step_number, c.seed)
        rows = pairs + [pair + total // 2 for pair in pairs]
        batch = self.encode(rows, rows)
        tables = (*batch.tokens, self.ref_logprobs(rows, batch)[:, None])
        return (Pairs(*(x.unflatten(0, (2, -1)).transpose(0, 1) for x in tables)),)

    def learn(self, batch: Pairs | Labelled) -> dict:
        """3: one gradient step; the record of the step."""
        loss = self.kto_loss if isinstance(batch, Labelled) else self.pair_loss
        losses, over = {"loss": (loss, batch)}, ("sequences", "sequences")
        record = self.machine.descend(self.policy, self.optimizers["policy"], losses, *over)
        rates = {"beta": self.beta, "learning_rate": self.learning_rate}
        margin = {"reward_margin": record["chosen_reward"] - record["rejected_reward"]}
        return record | margin | rates

    def pair_loss(self, batch: Pairs) -> tuple[Tensor, dict]:
        """The loss of a batch of pairs, and what to see of them."""
        c = self.config
        ref_logprobs = batch.ref_logprobs.transpose(0, 1).flatten()
        logprobs = self.logprobs(self.policy, batch.rows)
        rewards = self.beta * (logprobs - ref_logprobs).detach()
        gaps = rewards[: len(batch)] - rewards[len(batch) :]
        first = torch.arange(2 * len(batch), device=rewards.device) < len(batch)
        seen = implicit_rewards(logprobs, rewards, first)
        seen["accuracy"] = (0.5 + 0.5 * gaps.sign()).mean().item()  # a tie counts half
        (chosen, rejected), (ref_chosen, ref_rejected) = logprobs.chunk(2), ref_logprobs.chunk(2)
        if c.loss_type == "simpo":
            return simpo_loss(chosen, rejected, self.beta, c.simpo_gamma), seen
        if c.loss_type == "ipo":
            return ipo_loss(chosen, rejected, ref_chosen, ref_rejected, self.beta), seen
        smoothing = c.label_smoothing
        return dpo_loss(chosen, rejected, ref_chosen, ref_rejected, self.beta, smoothing), seen

    def kto_loss(self, batch: Labelled) -> tuple[Tensor, dict]:
        """The loss of a batch of labelled completions, and what to see of them."""
        weights = (self.config.desirable_weight, self.config.undesirable_weight)
        logprobs, point = self.logprobs(self.policy, batch), batch.reference_point
        log_ratio = logprobs - batch.ref_logprobs
        rewards = self.beta * log_ratio.detach()
        seen = implicit_rewards(logprobs, rewards, batch.desirable)
        right = (rewards > self.beta * point) == batch.desirable
        seen |= {"accuracy": right.float().mean().item(), "reference_point": point[0].item()}
        return kto_loss(log_ratio, batch.desirable, point[0], self.beta, *weights), seen

    # ------------------------------------------------------------------ log-probabilities

    def encode(self, rows: list[int], completions: list[int]) -> TokenBatch:
        """Prompts of some rows with the completions of the same or of other rows."""
        prompts = [self.prompts[i] for i in rows]
        texts = [self.completions[i] for i in completions]
        return encode(self.tokenizer, prompts, texts, self.policy.device)

    def logprobs(self, model, batch: TokenBatch) -> Tensor:
        """log π(y | x) of each completion, shape (B,), in nats; or per token, by the settings."""
        table = token_logprobs(model, batch)
        return sequence_logprobs(table, batch.completion_mask, self.per_token)

    def known_logprobs(self, model, batch: TokenBatch) -> Tensor:
        """The same without gradients, in the parts and the precision of the settings."""
        table = self.machine.table(lambda part: token_logprobs(model, part), batch)
        return sequence_logprobs(table, batch.completion_mask, self.per_token)

    def ref_logprobs(self, rows: list[int], batch: TokenBatch) -> Tensor:
        """The same under the reference, from the cache if there is one; 0 without a reference."""
        if self.reference is None:
            return torch.zeros(len(rows), device=self.policy.device)
        if not self.config.precompute_ref_log_probs:
            return self.known_logprobs(self.reference, batch)
        if self.cached is None:
            parts = torch.arange(len(self.completions)).split(2 * self.config.batch_size)
            some = (self.encode(part.tolist(), part.tolist()) for part in parts)
            self.cached = torch.cat([self.known_logprobs(self.reference, batch) for batch in some])
        return self.cached[rows]

    def reference_point(self, rows: list[int]) -> Tensor:
        """KTO's z_0: the mean log-ratio over prompts with another row's completion, at least 0.

        It stands for KL(π‖π_ref), cheaply and with a bias; no gradient flows through it. The
        completions are those of the batch, each handed on to the next row's prompt, and cut where
        the two together would go over the context.
        Source: Ethayarajh et al. 2024, arXiv:2402.01306, section 4.1.
        """
        batch = self.encode(rows, rows[-1:] + rows[:-1])
        contexts = filter(None, map(context_of, (self.policy, self.reference)))
        places = position_ids(batch.attention_mask)[:, batch.prompt_ids.shape[1] :]
        batch.completion_mask *= places < min(contexts, default=places.max() + 1)
        ours, theirs = (self.known_logprobs(m, batch) for m in (self.policy, self.reference))
        return (ours - theirs).mean().clamp(min=0)


def implicit_rewards(logprobs: Tensor, rewards: Tensor, chosen: Tensor) -> dict:
    """Means over the chosen (or desirable) completions and over the others, each with its count.

    Chapter: dpo.
    """
    found = {}
    for which, rows in (("chosen", chosen), ("rejected", ~chosen)):
        count = int(rows.sum())
        found[f"{which}_reward"] = rewards[rows].mean().item(), count
        found[f"{which}_logprob"] = logprobs[rows].mean().item(), count
    return found
