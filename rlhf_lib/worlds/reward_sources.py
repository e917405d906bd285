"""Where a reward comes from, if nobody has trained a model for it: a world's word on a reply.

Each is a reward function as `models.rewards` describes it::

    checked       VerifiableReward          a verifier that may fail on odd text
                  rule_reward               weighted rules
                  ProcessReward             a score for each step of the completion
    judged        JudgeReward               a language model asked about one completion
                  PairwiseJudge             a language model asked which of two is better
    shaped        length_penalty, soft_overlong_punishment

Chapters: reward-sources, rlvr, grpo-variants, evaluation.
"""

from __future__ import annotations

import logging
import math
import string
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ..families.support import check_context
from ..machinery.calling import outcomes, results
from ..models.rewards import CombinedReward, RewardFunction, Rewards, name_of, weighted_sum
from ..models.tokens import encode_prompts, position_ids

log = logging.getLogger(__name__)
VERIFIER_FAILED = (
    "verifier %r failed (%s: %s) on %.80r; failures count as wrong, and `errors` counts them"
)


# ---------------------------------------------------------------------------------- checked


class VerifiableReward:
    """A verifier as a reward function: what it returns for each completion, and 0 where it fails.

    A policy writes odd text, and no verifier has been tried on all of it. An exception (or a
    verdict that is no finite number, None included) counts as a wrong answer, is counted in
    `errors`, and is logged the first time; a verifier that never returns is not handled here.

    Chapters: reward-sources, rlvr.

    Parameters
    ----------
    verifier : callable
        `verifier(prompt, completion)` returns a bool or a float. One that is `async` is asked about
        all completions at once: what it asks may need a semaphore.
    name : str, optional
        For logging; otherwise the verifier's own.
    columns : tuple of str
        Columns of the dataset that the verifier takes too, such as `("answer",)`: it is called
        with that row's entry as the keyword `answer`.

    Examples
    --------
    >>> reward = VerifiableReward(lambda prompt, completion, answer: int(completion) == answer,
    ...                           "right", columns=("answer",))
    >>> reward(["2+2=", "2+3="], ["4", "six"], answer=[4, 5]), reward.errors
    ([1.0, 0.0], 1)
    """

    def __init__(self, verifier: Callable, name: str | None = None, columns: Sequence[str] = ()):
        self.verifier, self.columns, self.errors = verifier, columns, 0
        self.__name__ = name or name_of(verifier)

    def __call__(self, /, prompts: list[str], completions: list[str], **columns) -> list[float]:
        taken = [_column(columns, name, len(completions)) for name in self.columns]
        found = outcomes(
            partial(self.verifier, prompt, completion, **dict(zip(self.columns, values)))
            for prompt, completion, *values in zip(prompts, completions, *taken, strict=True)
        )
        return [self.verdict(value, text) for value, text in zip(found, completions)]

    def verdict(self, value, completion: str) -> float:
        """A number, of what the verifier returned or the exception that it raised."""
        try:
            if isinstance(value, Exception):
                raise value
            value = float(value)
            if not math.isfinite(value):
                raise ValueError(f"the verdict is {value}; expected a finite number")
            return value
        except Exception as error:
            self.errors += 1
            if self.errors == 1:
                kind = type(error).__name__
                log.warning(VERIFIER_FAILED, self.__name__, kind, error, completion)
            return 0.0


def rule_reward(
    rules: dict[str, tuple[float, Callable[[str, str], bool | float]]], name: str = "rules"
) -> CombinedReward:
    """A weighted sum of rules; `parts` has the share of completions that each holds for.

    Chapter: reward-sources.

    Parameters
    ----------
    rules : dict of str to (weight, predicate)
        `predicate(prompt, completion)` returns a bool or a float; where it fails it does not
        hold, as in `VerifiableReward`.

    Examples
    --------
    >>> reward = rule_reward({"greets": (1., lambda prompt, completion: "hello" in completion),
    ...                       "shouts": (-.5, lambda prompt, completion: "!" in completion)})
    >>> reward(["write to ben."] * 3, ["hello ben", "hello ben !", "no !"])
    [1.0, 0.5, -0.5]
    """
    return weighted_sum(
        [VerifiableReward(check, rule) for rule, (_, check) in rules.items()],
        [weight for weight, _ in rules.values()],
        name,
    )


class ProcessReward:
    """Score a completion step by step, and make one reward of its steps.

    Source: Lightman et al. 2023, arXiv:2305.20050, section 2.6 and appendix F (product and
    minimum). Chapter: reward-sources.

    Parameters
    ----------
    split : callable
        `split(completion)` returns its steps, in order.
    score : callable
        `score(prompt, steps)` returns one float for each step. Given all of them, it can judge a
        step by what went before, or score them in one pass of a model. It may be `async`.
    aggregate : {"product", "min", "mean", "last"}
        The product of the probabilities that each step is right is the probability that all are,
        where they are independent; the minimum is its weakest step. Both read one wrong step as
        a wrong completion; the mean forgives it, and "last" sees nothing else.
    no_steps : float
        The reward of a completion without steps.

    Attributes
    ----------
    step_scores : list of list of float
        The scores of the last call, before they were aggregated.

    Examples
    --------
    >>> def holds(prompt, steps):
    ...     sides = [step.split("=") for step in steps]
    ...     return [float(sum(map(int, left.split("+"))) == int(right)) for left, right in sides]
    >>> reward = ProcessReward(lambda completion: completion.split(","), holds, "mean")
    >>> reward(["2+2+3="], ["2+2=4,4+3=8"]), reward.step_scores
    ([0.5], [[1.0, 0.0]])
    """

    AGGREGATES = {
        "product": math.prod,
        "min": min,
        "last": lambda scores: scores[-1],
        "mean": lambda scores: sum(scores) / len(scores),
    }

    def __init__(
        self, split: Callable, score: Callable, aggregate: str = "product", no_steps: float = 0.0
    ):
        if aggregate not in self.AGGREGATES:
            known = ", ".join(map(repr, self.AGGREGATES))
            raise ValueError(f"aggregate is {aggregate!r}; expected one of {known}")
        self.split, self.score, self.aggregate, self.no_steps = split, score, aggregate, no_steps
        self.step_scores: list[list[float]] = []
        self.__name__ = f"process_{aggregate}"

    def __call__(self, /, prompts: list[str], completions: list[str], **columns) -> list[float]:
        split = results(partial(self.split, completion) for completion in completions)
        found = results(
            partial(self.score, prompt, steps) if steps else list
            for prompt, steps in zip(prompts, split, strict=True)
        )
        self.step_scores = list(map(list, found))
        for scores, steps in zip(self.step_scores, split):
            if len(scores) != len(steps):
                raise ValueError(
                    f"score returned {len(scores)} scores; expected {len(steps)}, one for each step"
                )
        return [
            float(self.AGGREGATES[self.aggregate](scores)) if scores else self.no_steps
            for scores in self.step_scores
        ]


# ---------------------------------------------------------------------------------- judged


class JudgeReward:
    """A language model as judge of one completion: the probability that it says "yes", not "no".

    The reward lies in (0, 1): give it a weight (`weighted_sum`) before pricing it against a KL.

    Source: Zheng et al. 2023, arXiv:2306.05685, section 3.1 (grading one answer; there the judge
    writes a number). Chapter: reward-sources.

    Parameters
    ----------
    model : transformers causal language model
    tokenizer : PreTrainedTokenizerBase
    template : str
        What the judge reads, with the fields `{prompt}` and `{completion}`; it ends where the
        answer begins.
    answers : tuple of two str
        The answer that is rewarded and the one it is weighed against, each one token as it
        follows the template (for GPT-2's tokenizer with its leading space, `" yes"`).
    batch_size : int

    Raises
    ------
    ValueError
        If the template lacks a field, or an answer is not one token that the tokenizer knows.
    """

    def __init__(
        self, model, tokenizer, template: str, answers=("yes", "no"), batch_size: int = 64
    ):
        _check_template(template, {"prompt", "completion"})
        self.model, self.tokenizer, self.template = model, tokenizer, template
        self.answers, self.batch_size = _answer_ids(tokenizer, answers), batch_size
        self.__name__ = "judge"

    def __call__(self, /, prompts: list[str], completions: list[str], **columns) -> list[float]:
        rows = zip(prompts, completions, strict=True)
        texts = [self.template.format(prompt=p, completion=c) for p, c in rows]
        return torch.sigmoid(_answer_log_odds(self, texts)).tolist()


class PairwiseJudge:
    """A language model as judge of two completions, asked in both orders.

    As a reward function it gives the probability that a completion beats the one in the column
    `against` of the same row.

    Source: Zheng et al. 2023, arXiv:2306.05685, sections 3.1, 3.3 and 3.4 (pairwise comparison,
    position bias, swapping). Chapter: reward-sources.

    Parameters
    ----------
    model : transformers causal language model
    tokenizer : PreTrainedTokenizerBase
    template : str
        What the judge reads, with the fields `{prompt}`, `{first}` and `{second}`; it ends where
        the answer begins.
    answers : tuple of two str
        The answers for "the first is better" and "the second is", each one token.
    against : str
        Column with the completions to compare with.
    batch_size : int
    """

    def __init__(
        self,
        model,
        tokenizer,
        template: str,
        answers=("1", "2"),
        against: str = "reference",
        batch_size: int = 64,
    ):
        _check_template(template, {"prompt", "first", "second"})
        self.model, self.tokenizer, self.template = model, tokenizer, template
        self.answers, self.batch_size = _answer_ids(tokenizer, answers), batch_size
        self.against, self.__name__ = against, "pairwise_judge"

    def __call__(self, /, prompts: list[str], completions: list[str], **columns) -> list[float]:
        return self.compare(prompts, completions, _column(columns, self.against, len(completions)))

    def log_odds(self, prompts: list[str], first: list[str], second: list[str]) -> Tensor:
        """Log-odds that the one shown first is better, in nats, shape (B,): one order only."""
        rows = zip(prompts, first, second, strict=True)
        texts = [self.template.format(prompt=p, first=a, second=b) for p, a, b in rows]
        return _answer_log_odds(self, texts)

    def compare(self, prompts: list[str], a: list[str], b: list[str]) -> list[float]:
        """The probability that completion a is better than b, from both orders.

        The log-odds are averaged, not the probabilities: whatever the judge adds to them for a
        position then cancels exactly, and P(a better) + P(b better) = 1.
        """
        forward, backward = self.log_odds(prompts, a, b), self.log_odds(prompts, b, a)
        return torch.sigmoid((forward - backward) / 2).tolist()

    def position_bias(self, prompts: list[str], a: list[str], b: list[str]) -> dict[str, float]:
        """What the order does to the verdicts.

        Returns
        -------
        dict
            `bias`: what being shown first adds to its log-odds, in nats, on average;
            0 for a judge that does not care. `flips`: share of pairs whose winner changes with
            the order.
        """
        forward, backward = self.log_odds(prompts, a, b), self.log_odds(prompts, b, a)
        return {
            "bias": ((forward + backward) / 2).mean().item(),
            "flips": ((forward > 0) == (backward > 0)).float().mean().item(),
        }


@torch.no_grad()
def read_answers(judge: JudgeReward | PairwiseJudge, texts: list[str], read: Callable) -> Tensor:
    """`read` of a judge's logits after each text, (B, V) in fp32, a batch at a time.

    Chapters: reward-sources, evaluation.
    """
    parts = []
    for i in range(0, len(texts), judge.batch_size):
        some = texts[i : i + judge.batch_size]
        ids, mask = encode_prompts(judge.tokenizer, some, judge.model.device)
        check_context(judge.model, ids.shape[1])
        inputs = dict(input_ids=ids, attention_mask=mask, position_ids=position_ids(mask))
        logits = judge.model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1].float()
        parts.append(read(logits))
    return torch.cat(parts)


def _answer_log_odds(judge: JudgeReward | PairwiseJudge, texts: list[str]) -> Tensor:
    """log P(first answer) − log P(second answer) after each text, in nats, shape (B,)."""
    first, second = judge.answers
    return read_answers(judge, texts, lambda logits: logits[:, first] - logits[:, second])


def _answer_ids(tokenizer, answers) -> list[int]:
    rows = [tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]
    for answer, row in zip(answers, rows):
        if len(row) != 1 or row[0] == tokenizer.unk_token_id:
            read = tokenizer.convert_ids_to_tokens(row)
            raise ValueError(
                f"answers has {answer!r}, which this tokenizer reads as {read}; expected one token"
            )
    if len(rows) != 2 or rows[0] == rows[1]:
        raise ValueError(f"answers is {answers!r}; expected two different tokens")
    return [row[0] for row in rows]


def _check_template(template: str, expected: set[str]) -> None:
    fields = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
    if fields != expected:
        raise ValueError(
            f"template has the fields {sorted(fields)}; expected {sorted(expected)}, each in braces"
        )


# ---------------------------------------------------------------------------------- shaped


def length_penalty(per_unit: float, tokenizer=None) -> RewardFunction:
    """−`per_unit` for each token of the completion, or each word where there is no tokenizer.

    Token counts are of the text: the end token is not among them.

    Chapter: reward-sources.
    """

    def length_penalty(prompts: list[str], completions: list[str], **columns) -> list[float]:
        return [-per_unit * length for length in _lengths(completions, tokenizer)]

    return length_penalty


def soft_overlong_punishment(max_length: int, cache: int, tokenizer=None) -> RewardFunction:
    """0 up to `max_length − cache`, then linearly down to −1 at `max_length`, and −1 beyond.

    Source: DAPO, Yu et al. 2025, arXiv:2503.14476, eq. 13. Chapter: grpo-variants.

    Parameters
    ----------
    max_length : int
        L_max, in tokens, or in words where there is no tokenizer.
    cache : int
        L_cache, the length over which the punishment grows; 0 for a step at `max_length`.

    Examples
    --------
    >>> soft_overlong_punishment(10, 4)(["x"] * 4, ["one " * n for n in (6, 7, 10, 11)])
    [0.0, -0.25, -1.0, -1.0]
    """
    if not 0 <= cache <= max_length:
        raise ValueError(f"cache is {cache}; expected 0 to max_length={max_length}")

    def soft_overlong_punishment(prompts: list[str], completions: list[str], **columns) -> Rewards:
        over = [length - (max_length - cache) for length in _lengths(completions, tokenizer)]
        return [0.0 if n <= 0 else -1.0 if n > cache else -n / cache for n in over]

    return soft_overlong_punishment


def _lengths(completions: list[str], tokenizer) -> list[int]:
    if tokenizer is None:
        return [len(completion.split()) for completion in completions]
    return list(map(len, tokenizer(completions, add_special_tokens=False)["input_ids"]))


def _column(columns: dict, name: str, size: int) -> list:
    """One column of the dataset, checked: a missing one is a mistake in the set-up, not a 0."""
    if name not in columns:
        raise ValueError(
            f"column {name!r} is missing; expected it with the completions, got {sorted(columns)}"
        )
    if len(columns[name]) != size:
        found = len(columns[name])
        raise ValueError(f"column {name!r} has {found} entries; expected {size}, as completions")
    return columns[name]
