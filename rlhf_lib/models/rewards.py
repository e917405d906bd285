"""Rewards: one kind of callable for all of them.

A reward function takes `prompts`, `completions` and any further columns as keywords, and returns
a number for each completion, or None where it does not apply. It may be `async`. What it gets are
lists of its own, which it may change.

That is TRL's signature: those here work there, and those from there work here, but for this. Loops,
`best_of_n` and `evaluate` give `completion_ids` too, the tokens with the end token and without
padding, to a function that names it or takes `**columns`; `score_all` and `word_scores` have texts
alone. TRL alone gives `trainer_state`, `log_extra`, `log_metric` and, where it has some,
`environments`. Prompts and completions are text here; of a conversation TRL gives lists of
messages. A column `completion` of the dataset reaches a function here, and there it does not. NaN
counts as None there, and is an error here. A list of functions is their sum; a model or the name of
one has to be made a `LearnedReward`::

    learned       LearnedReward             a reward model
    several       ensemble, weighted_sum    mean, minimum, disagreement; a combination
    checked       VerifiableReward          a verifier that may fail on odd text
                  rule_reward               weighted rules
                  ProcessReward             a score for each step of the completion
    judged        JudgeReward               a language model asked about one completion
                  PairwiseJudge             a language model asked which of two is better
    shaped        length_penalty, soft_overlong_punishment

Chapters: reward-model, reward-sources, rlvr.
"""

from __future__ import annotations

import logging
import math
import string
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..families.support import check_context, check_one_output
from ..machinery.calling import as_list, call, outcomes, results
from .reward_model import reward_scores
from .tokens import encode, encode_prompts, position_ids

Rewards = Sequence[float | None]
RewardFunction = Callable[..., Any]  # gives Rewards, at once or when awaited

LARGEST = torch.finfo(torch.float32).max
log = logging.getLogger(__name__)
VERIFIER_FAILED = (
    "verifier %r failed (%s: %s) on %.80r; failures count as wrong, and `errors` counts them"
)


# ---------------------------------------------------------------------------------- learned


class LearnedReward:
    """A reward model as a reward function.

    Chapter: reward-model.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        From `new_reward_model` or `load_reward_model`.
    tokenizer : PreTrainedTokenizerBase
    batch_size : int
        Completions scored at once.
    """

    def __init__(self, model, tokenizer, batch_size: int = 64):
        check_one_output("model", model)
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.__name__ = "learned_reward"  # TRL logs rewards under this name

    @torch.no_grad()
    def __call__(self, /, prompts: list[str], completions: list[str], **columns) -> list[float]:
        scores = []
        for i in range(0, len(prompts), self.batch_size):
            rows = slice(i, i + self.batch_size)
            batch = encode(self.tokenizer, prompts[rows], completions[rows], self.model.device)
            scores += reward_scores(self.model, batch).tolist()
        return scores


# ---------------------------------------------------------------------------------- several


class CombinedReward:
    """Several reward functions as one; made by `ensemble`, `weighted_sum` and `rule_reward`.

    Chapter: reward-sources.

    Attributes
    ----------
    table : Tensor, shape (R, B), or None
        What each of the R parts gave each completion of the last call; NaN where a part does not
        apply. `combine` makes (B,) of it, and leaves out the NaN. A completion that no part
        applies to gets None.
    parts : dict of str to float
        The mean of each part over what it applied to in the last call, by its name, for logging.
    disagreement : float
        Standard deviation across the parts (unbiased), averaged over the completions of the last
        call that two or more apply to.
    """

    def __init__(self, rewards: Sequence[RewardFunction], combine: Callable, name: str):
        self.rewards, self.combine, self.__name__ = list(map(as_reward, rewards)), combine, name
        if not self.rewards:
            raise ValueError("rewards is empty; expected at least one reward function")
        names = [name_of(reward) for reward in self.rewards]
        self.names = [f"{x}_{i + 1}" if names.count(x) > 1 else x for i, x in enumerate(names)]
        self.table: Tensor | None = None

    def __call__(self, /, prompts: list[str], completions: list[str], **columns) -> Rewards:
        self.table = reward_table(self.rewards, prompts, completions, columns).double()
        left_out = self.table.isnan().all(dim=0).tolist()
        values = self.combine(self.table).tolist()
        return [None if out else value for value, out in zip(values, left_out, strict=True)]

    @property
    def parts(self) -> dict[str, float]:
        return {} if self.table is None else dict(zip(self.names, self.table.nanmean(1).tolist()))

    @property
    def disagreement(self) -> float:
        return math.nan if self.table is None else _spread(self.table).nanmean().item()


def _spread(table: Tensor) -> Tensor:
    """The unbiased standard deviation of each column without its NaN; NaN for less than two."""
    squares = (table - table.nanmean(dim=0)).square()
    n = (~table.isnan()).sum(dim=0)
    return (squares.nansum(dim=0) / (n - 1).where(n > 1, math.nan)).sqrt()


def as_reward(reward: Any) -> RewardFunction:
    """A reward as loops call it: a function as it is, and several in a list as their sum.

    With a list, `loop.reward.parts` has the mean of each after a step (of several processes, over
    the completions of this one). `weighted_sum` gives them weights and has the same. Chapter:
    reward-sources.

    Raises
    ------
    ValueError
        If it is something else, such as the model or the name of one that TRL would take.

    Examples
    --------
    >>> reward = as_reward([length_penalty(1.), lambda completions, **columns: [3.]])
    >>> reward(prompts=["say hello"], completions=["hello ben"])
    [1.0]
    """
    if isinstance(reward, (list, tuple)):
        return weighted_sum(reward, [1.0] * len(reward))
    model = isinstance(reward, torch.nn.Module) and hasattr(reward, "config")
    if model or not callable(reward):
        raise ValueError(
            f"reward is a {type(reward).__name__}; expected a function, or several in a list "
            "(of a reward model, LearnedReward(model, tokenizer) makes one)"
        )
    return reward


def ensemble(
    rewards: Sequence[RewardFunction], combine: str = "mean", k: float = 1.0
) -> CombinedReward:
    """Several rewards for the same thing, such as reward models from different seeds, as one.

    Source: Coste et al. 2023, arXiv:2310.02743, section 3, who call the three mean, worst-case
    and uncertainty-weighted optimisation; their third subtracts the variance. The standard
    deviation, used here, is in units of reward, so that `k` keeps its meaning when rewards are
    rescaled. Chapter: reward-model.

    Parameters
    ----------
    rewards : list of callables
        They must be on one scale (`standardise` sets it): the minimum of two scales is the
        reward of one of them.
    combine : {"mean", "min", "mean_minus_std"}
        "min" believes the most pessimistic member. "mean_minus_std" takes `k` times the
        disagreement, the unbiased standard deviation across members, off their mean (0 times
        where only one applies).
    k : float

    Examples
    --------
    >>> short = lambda prompts, completions, **columns: [-float(len(c)) for c in completions]
    >>> vowels = lambda prompts, completions, **columns: [float(c.count("a")) for c in completions]
    >>> ensemble([short, vowels], "min")(["x", "x"], ["a", "banana"])
    [-1.0, -6.0]
    """
    combinations = {
        "mean": lambda table: table.nanmean(dim=0),
        "min": lambda table: table.nan_to_num(math.inf).amin(dim=0),
        "mean_minus_std": lambda table: table.nanmean(dim=0) - k * _spread(table).nan_to_num(),
    }
    if combine not in combinations:
        known = ", ".join(map(repr, combinations))
        raise ValueError(f"combine is {combine!r}; expected one of {known}")
    if combine == "mean_minus_std" and len(rewards) == 1:
        raise ValueError("rewards has 1 entry; expected at least 2, as one member cannot disagree")
    return CombinedReward(rewards, combinations[combine], f"ensemble_{combine}")


def weighted_sum(
    rewards: Sequence[RewardFunction], weights: Sequence[float], name: str = "weighted_sum"
) -> CombinedReward:
    """Rewards for different things, added up with weights; `parts` has the unweighted means.

    Those that do not apply to a completion are left out of its sum, as in TRL, whose
    `reward_weights` the weights are. Async ones are awaited together. Chapter: reward-sources.

    Examples
    --------
    >>> right = VerifiableReward(lambda prompt, completion: "4" in completion, "right")
    >>> reward = weighted_sum([right, length_penalty(1.)], [1., .1])
    >>> reward(["2+2=", "2+2="], ["it is 4", "5"])
    [0.7, -0.1]
    >>> reward.parts
    {'right': 0.5, 'length_penalty': -2.0}
    """
    if len(weights) != len(rewards) or not all(map(math.isfinite, weights)):
        raise ValueError(
            f"weights is {weights}; expected {len(rewards)} finite numbers, as rewards"
        )
    column = torch.tensor(weights, dtype=torch.float64)[:, None]
    return CombinedReward(rewards, lambda table: (column * table).nansum(dim=0), name)


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
def _answer_log_odds(judge: JudgeReward | PairwiseJudge, texts: list[str]) -> Tensor:
    """log P(first answer) − log P(second answer) after each text, in nats, shape (B,)."""
    parts = []
    for i in range(0, len(texts), judge.batch_size):
        some = texts[i : i + judge.batch_size]
        ids, mask = encode_prompts(judge.tokenizer, some, judge.model.device)
        check_context(judge.model, ids.shape[1])
        inputs = dict(input_ids=ids, attention_mask=mask, position_ids=position_ids(mask))
        logits = judge.model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1].float()
        parts.append(logits[:, judge.answers[0]] - logits[:, judge.answers[1]])
    return torch.cat(parts)


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


# ---------------------------------------------------------------------------------- calling


def call_reward(
    reward: RewardFunction, /, prompts: list[str], completions: list[str], **columns
) -> Tensor:
    """Call a reward function and check what comes back: shape (B,), in fp32; NaN for None.

    A list of functions is their sum. `completion_ids`, if given among the columns, go to a function
    that takes them; there is no tokenizer here to make them.

    Chapter: reward-sources.

    Raises
    ------
    RuntimeError
        If the function raises; the message names it, and the cause is attached.
    ValueError
        If it is no function, or returns another number of rewards, or one that is neither a
        finite number nor None.

    Examples
    --------
    >>> call_reward(lambda prompts, completions: [float(len(c)) for c in completions],
    ...             ["a", "a"], ["four", "seven.."])
    tensor([4., 7.])
    """
    return reward_table([as_reward(reward)], prompts, completions, columns)[0]


def reward_table(
    rewards: Sequence[RewardFunction], prompts: list[str], completions: list[str], columns: dict
) -> Tensor:
    """What each of R functions gives each of B completions, shape (R, B), as `call_reward` has it.

    Chapter: reward-sources.
    """
    given = {**columns, "prompts": prompts, "completions": completions}
    found = outcomes(partial(call, reward, ["completion_ids"], **given) for reward in rewards)
    rows = zip(rewards, found, strict=True)
    return torch.tensor([_checked(reward, values, completions) for reward, values in rows])


def _checked(reward: RewardFunction, found, completions: list[str]) -> list[float]:
    who, n = f"reward function {name_of(reward)!r}", len(completions)
    try:
        if isinstance(found, Exception):
            raise found
        values = as_list(found)  # a generator begins here
    except Exception as error:
        raise RuntimeError(f"{who} raised {type(error).__name__}: {error}") from error
    if values is None or len(values) != n:
        came = f"{type(found).__name__}, no list of" if values is None else len(values)
        raise ValueError(f"{who} returned {came} rewards; expected {n}, one for each completion")
    for i, value in enumerate(values):
        if value is not None and not (isinstance(value, (int, float)) and abs(value) <= LARGEST):
            raise ValueError(
                f"{who} returned {value!r} for completion {i} ({completions[i]!r}); expected a "
                "finite number, or None where it does not apply"
            )
    return [math.nan if value is None else float(value) for value in values]


def name_of(reward: Callable) -> str:
    """What a reward is called in logs and errors.

    Chapter: reward-sources.
    """
    while isinstance(reward, partial):
        reward = reward.func
    return getattr(reward, "__name__", type(reward).__name__)


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
