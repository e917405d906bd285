"""Best-of-n and rejection sampling: let the reward choose among samples, then perhaps imitate them.

`best_of_n` chooses and trains nothing; `overoptimization.best_of_n_curve` says what the best of
every k ≤ n would have scored. `RejectionSampling` fine-tunes the policy on what was chosen, and
starts again from the policy that results:

1. sample n completions for each prompt of a batch
2. score them; keep the best of each prompt, or all above a threshold
3. supervised fine-tuning on the kept ones

With few prompts a step this is RAFT; with all prompts in one step it is a round of Llama 2's
rejection sampling. It leaves out the pool of samples that Llama 2 keeps over its rounds. Nothing
holds the policy near where it started but how little it is trained; for the KL of best-of-n itself
see `tilt.best_of_n_kl_bound`. Axes: P prompts, n samples of each. Source: Nakano et al. 2021,
arXiv:2112.09332; RAFT, Dong et al. 2023, arXiv:2304.06767; Touvron et al. 2023, arXiv:2307.09288,
section 3.2.3. Chapters: sft, over-optimization, distillation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..machinery.processes import check_one_process
from ..machinery.settings import check_counts, check_positive
from ..models.rewards import RewardFunction, as_reward, call_reward
from ..models.rollout import sample
from ..models.tokens import encode, texts
from ..worlds.lengths import check_lengths
from ..worlds.tables import prompt_table, rows_of_step, take
from .loop import Config, Loop, fill_unscored, score
from .sft import imitation_loss

# ---------------------------------------------------------------------------------- choosing


@dataclass
class BestOfN:
    """For each of P prompts: the best of n completions, and all that it was chosen from.

    Chapter: over-optimization.
    """

    prompts: list[str]
    completions: list[str]  # the best of each prompt; of equal ones the first
    best: Tensor  # (P,) which of the n it is
    scores: Tensor  # (P, n), less the penalty where a completion was cut off
    finished: Tensor  # (P, n) whether a completion ended by itself
    samples: list[list[str]]  # all n of each prompt

    def score_all(self, reward: RewardFunction) -> Tensor:
        """Another reward of every sample, shape (P, n): gold for a curve chosen by a proxy.

        NaN where it does not apply.
        """
        prompts = [prompt for prompt in self.prompts for _ in self.samples[0]]
        completions = [text for row in self.samples for text in row]
        return call_reward(reward, prompts, completions).view_as(self.scores)


def best_of_n(
    policy,
    tokenizer,
    prompts: list[str],
    reward: RewardFunction,
    n: int,
    max_new_tokens: int = 32,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    missing_eos_penalty: float = 1.0,
    batch_size: int = 256,
    columns: dict[str, list] | None = None,
    dtype: torch.dtype | None = None,
) -> BestOfN:
    """Sample n completions for each prompt and choose the one with the highest reward.

    Source: Nakano et al. 2021, arXiv:2112.09332, section 3.2. Chapter: over-optimization.

    Parameters
    ----------
    policy, tokenizer, prompts, max_new_tokens, temperature, generator
        As for `rollout.sample`.
    reward : callable
        Scores the samples; ties go to the one sampled first. One to which no reward applies counts
        as an average one of its prompt.
    n : int
        Samples of each prompt.
    missing_eos_penalty : float
        Taken off the score of a completion that was cut off.
    batch_size : int
        Completions sampled and scored at once: memory is bounded by it, and the samples depend
        on it.
    columns : dict of str to list, optional
        What else is known of each prompt, such as the right answer; handed to the reward.
    """
    if n < 1 or batch_size < 1:
        raise ValueError(f"n is {n} and batch_size {batch_size}; expected at least 1 of each")
    prompts = texts("prompts", prompts)
    if not prompts:
        raise ValueError("prompts is empty; expected at least one prompt")
    known = {**(columns or {}), "prompt": prompts}
    for name, values in known.items():
        if len(values) != len(prompts):
            raise ValueError(f"column {name!r} has {len(values)} entries; expected {len(prompts)}")
    rows = [p for p in range(len(prompts)) for _ in range(n)]
    completions, scores, finished, how = [], [], [], (max_new_tokens, temperature, generator)
    for i in range(0, len(rows), batch_size):
        some, others = take(known, rows[i : i + batch_size])
        rollout = sample(policy, tokenizer, some, *how, dtype=dtype)
        completions += rollout.completions
        scores.append(score(reward, rollout, missing_eos_penalty, others).cpu())
        finished.append(rollout.finished.cpu())
    table = fill_unscored(torch.cat(scores).view(len(prompts), n))
    samples = [completions[i : i + n] for i in range(0, len(completions), n)]
    best = table.argsort(dim=1, descending=True, stable=True)[:, 0]
    chosen, ended = [row[j] for row, j in zip(samples, best.tolist())], torch.cat(finished)
    return BestOfN(prompts, chosen, best, table, ended.view_as(table), samples)


# ---------------------------------------------------------------------------------- imitating


@dataclass(frozen=True)
class RejectionSamplingConfig(Config):
    """Settings beside those of every loop, or with other defaults; TRL's names where it has them.

    Chapter: distillation.
    """

    max_steps: int = 2  # rounds of sampling and fine-tuning
    batch_size: int = 600  # prompts a round
    learning_rate: float = 1e-4  # of the policy
    warmup_steps: int = 0  # rounds at less than the learning rate; for many small ones
    num_generations: int = 8  # n, completions of each prompt
    threshold: float | None = None  # keep all that score above it; None: the best of each prompt
    num_train_epochs: int = 2  # passes over what was kept
    mini_batch_size: int = 32  # completions a gradient step
    max_new_tokens: int = 32  # longest completion, its end token included
    temperature: float = 1.0  # divides the logits that are sampled from and learnt from
    missing_eos_penalty: float = 1.0  # taken off the score of a completion that was cut off

    def __post_init__(self):
        super().__post_init__()
        counts = ("num_generations", "num_train_epochs", "mini_batch_size", "max_new_tokens")
        check_counts(self, *counts)
        check_positive(self, "temperature")


class RejectionSampling(Loop):
    """Step through rounds of rejection sampling; a `for` loop trains to the end.

    `chosen` holds the samples of the last round. A completion that was cut off is never kept:
    fine-tuning would teach the policy to stop there.

    Source: RAFT, Dong et al. 2023, arXiv:2304.06767. Chapter: distillation.

    Parameters
    ----------
    policy : transformers causal language model
        Trained in place.
    tokenizer : PreTrainedTokenizerBase
    reward : callable
        `reward(prompts=..., completions=..., **columns)` returns one float per completion; or a
        list of such functions, whose sum counts (`weighted_sum` gives them weights).
    dataset : datasets.Dataset
        Column `prompt`; other columns are handed to the reward.
    config : RejectionSamplingConfig

    Raises
    ------
    ValueError
        If a setting is out of range, a prompt leaves no room for `max_new_tokens`, or a reward is
        missing or not finite.
    RuntimeError
        If the reward function raises.
    FloatingPointError
        If a loss or gradient is not finite. The weights are those before the update.
    """

    SAMPLES = True
    config: RejectionSamplingConfig

    def __init__(
        self,
        policy,
        tokenizer,
        reward: RewardFunction,
        dataset,
        config: RejectionSamplingConfig = RejectionSamplingConfig(),
    ):
        check_one_process("RejectionSampling")
        self.policy, self.reward, self.data = policy, as_reward(reward), prompt_table(dataset)
        texts, new = [self.data["prompt"]], config.max_new_tokens
        check_lengths({"policy": policy}, tokenizer, texts, new, self.reward)
        super().__init__(config, tokenizer, {"policy": policy}, {})
        self.chosen: BestOfN | None = None

    def collect(self) -> tuple[BestOfN]:
        """1, and the scores of 2."""
        c = self.config
        rows = rows_of_step(len(self.data["prompt"]), c.batch_size, self.step_number, c.seed)
        prompts, columns = take(self.data, rows)
        how = (c.num_generations, c.max_new_tokens, c.temperature, self.sampler)
        dtype, penalty = self.machine.sampling_dtype, c.missing_eos_penalty
        if self.chosen is None:  # greedily, which takes nothing from the sampler
            some = (prompts[:8], c.max_new_tokens, c.temperature)
            greedy = sample(self.policy, self.tokenizer, *some, greedy=True, dtype=dtype)
            self.prove(self.policy, greedy)
        known = {"missing_eos_penalty": penalty, "columns": columns, "dtype": dtype}
        return (best_of_n(self.policy, self.tokenizer, prompts, self.reward, *how, **known),)

    def learn(self, chosen: BestOfN) -> dict:
        """2 and 3: keep the good ones and fine-tune on them; the record of the round."""
        c, losses = self.config, []
        places = self.keep(chosen).nonzero().tolist()
        kept = [(chosen.prompts[p], chosen.samples[p][j]) for p, j in places]
        for _ in range(c.num_train_epochs if kept else 0):
            order = torch.randperm(len(kept), generator=self.shuffler)
            for minibatch in order.split(c.mini_batch_size):
                losses.append(self.update([kept[i] for i in minibatch.tolist()]))
        self.chosen = chosen
        return {
            "reward": chosen.scores.mean().item(),
            "best_reward": chosen.scores.max(dim=1).values.mean().item(),
            "kept": len(kept),
            "loss": sum(losses) / max(1, len(losses)),
            "finished": chosen.finished.float().mean().item(),
            "distinct": len({text for row in chosen.samples for text in row})
            / chosen.scores.numel(),
        }

    def keep(self, chosen: BestOfN) -> Tensor:
        """Which samples to imitate, shape (P, n): the best of each prompt or all good ones."""
        scores = chosen.scores.masked_fill(~chosen.finished, -torch.inf)
        if self.config.threshold is not None:
            return scores > self.config.threshold
        best = scores.argsort(dim=1, descending=True, stable=True)[:, :1]
        return torch.zeros_like(chosen.finished).scatter(1, best, True) & chosen.finished

    def update(self, kept: list[tuple[str, str]]) -> float:
        """One gradient step on some of the kept completions; returns its loss."""
        prompts, completions = [prompt for prompt, _ in kept], [text for _, text in kept]
        batch = encode(self.tokenizer, prompts, completions, self.policy.device)
        losses = {"loss": (imitation_loss(self.policy), batch)}
        return self.machine.descend(self.policy, self.optimizers["policy"], losses)["loss"]
