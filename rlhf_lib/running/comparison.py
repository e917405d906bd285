"""Is one policy better than another, and how sure is that? Intervals of differences.

Before it is measured, how many prompts it takes (`prompts_needed`); then the difference prompt by
prompt (`compare`) or counted verdicts (`win_rate`), a judge's in both orders (`verdicts`) and at
equal length (`length_controlled`); and whether it is the method that is better, or one run of it
(`across_seeds`). All intervals are of 95 %.

Axes: N prompts or pairs, S seeds. Chapter: evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from ..mathematics.bradley_terry import fit_weights
from ..mathematics.intervals import STUDENT, Z, mean_interval
from ..worlds.reward_sources import JudgeReward, PairwiseJudge, read_answers

NORMAL = NormalDist()

# ------------------------------------------------------------------ prompt by prompt


@dataclass(frozen=True)
class Difference:
    """What `compare` found: b less a, in the unit of the reward. Chapter: evaluation.

    Attributes
    ----------
    difference, se, half : float
        Mean, standard error and half the width of the interval, from the paired differences.
    unpaired_half : float
        Half the width had the two been measured on prompts of their own.
    correlation : float
        Of the two rewards over rows; NaN where one of them never changes.
    sd : float
        Standard deviation of the difference on one prompt, which `prompts_needed` asks for.
    prompts, rows : int
        How many different prompts there are, and how many replies of each policy.
    """

    difference: float
    se: float
    half: float
    unpaired_half: float
    correlation: float
    sd: float
    prompts: int
    rows: int


def compare(a: Mapping, b: Mapping, name: str) -> Difference:
    """How much better b is than a by a reward, from two results of `evaluate`.

    The rows of both have to be the same prompts in the same order. Rows with the same prompt are
    one cluster: several replies to it are no further prompts, and the errors say so.

    Source: paired differences, Student 1908, doi:10.2307/2331554; clusters, Miller 2024,
    arXiv:2411.00640. Chapter: evaluation.

    Parameters
    ----------
    a, b : mappings with "prompts" and "values"
        As `evaluate` returns them.
    name : str
        Of a reward, or "length", or "kl". Rows on which it does not apply to both are left out.

    Raises
    ------
    ValueError
        If the prompts are not the same, nothing has that name, or fewer than two prompts are left.

    Examples
    --------
    >>> a = {"prompts": ["x", "y", "z"], "values": {"gold": [1., 2., 3.]}}
    >>> b = {"prompts": ["x", "y", "z"], "values": {"gold": [2., 2., 5.]}}
    >>> found = compare(a, b, "gold")
    >>> found.difference, round(found.se, 3), round(found.half, 2)  # 1/√3, and 4.303 of it
    (1.0, 0.577, 2.48)
    """
    prompts = _same_prompts(a["prompts"], b["prompts"])
    for side, found in (("a", a), ("b", b)):
        if name not in found["values"]:
            raise ValueError(
                f"name is {name!r}; expected one of {', '.join(found['values'])}, as {side} has"
            )
    values = np.array([a["values"][name], b["values"][name]], dtype=float)  # None becomes NaN
    kept = ~np.isnan(values).any(axis=0)
    values = values[:, kept]
    _, groups = np.unique(np.array(prompts)[kept], return_inverse=True)
    count = len(set(groups))
    if count < 2:
        raise ValueError(
            f"{name!r} has a value for both in {count} different prompts; expected at least 2"
        )
    difference = values[1] - values[0]
    se, *apart = (_clustered_error(column, groups) for column in (difference, *values))
    reach = student(count - 1)
    moving = values.std(axis=1).all()
    return Difference(
        difference.mean().item(),
        se,
        reach * se,
        reach * math.hypot(*apart),
        np.corrcoef(values)[0, 1].item() if moving else math.nan,
        se * math.sqrt(count),
        count,
        len(difference),
    )


def _same_prompts(a: Sequence[str], b: Sequence[str]) -> list[str]:
    if len(a) != len(b):
        raise ValueError(f"b has {len(b)} prompts; expected {len(a)}, those of a")
    other = [row for row, (one, two) in enumerate(zip(a, b)) if one != two]
    if other:
        row = other[0]
        raise ValueError(
            f"b has another prompt than a in {len(other)} of {len(a)} rows, the first in row {row}:"
            f" {b[row]!r}; expected {a[row]!r}"
        )
    return list(a)


def _clustered_error(values: np.ndarray, groups: np.ndarray) -> float:
    """Standard error of the mean, (N,), where rows of one group belong together."""
    sums = np.bincount(groups, values - values.mean())
    return math.sqrt(len(sums) / (len(sums) - 1) * np.square(sums).sum()) / len(values)


def student(freedom: int) -> float:
    """How many standard errors a 95 % interval reaches, with that many degrees of freedom.

    From a table up to 10, beyond it by an expansion whose error is below 0.003.

    Source: Abramowitz and Stegun 1964, eq. 26.7.5. Chapter: evaluation.

    Examples
    --------
    >>> student(4), round(student(20), 3), round(student(1_000), 3)
    (2.776, 2.086, 1.962)
    """
    if not freedom >= 1:
        raise ValueError(f"freedom is {freedom}; expected at least 1")
    if freedom <= len(STUDENT):
        return STUDENT[freedom - 1]
    z = NORMAL.inv_cdf(0.975)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


# ------------------------------------------------------------------ wins, ties and losses


@dataclass(frozen=True)
class WinRate:
    """What `win_rate` found. Chapter: evaluation.

    Attributes
    ----------
    wins, ties, losses, unanswered : int
    rate, low, high : float
        Wins and half the ties, as a share of what was answered, and the ends of its interval.
    p : float
        By the sign test: how often a coin would part wins and losses at least as unevenly.
    bounds : tuple of two floats
        The rate if every comparison without an answer had been lost, and if it had been won.
    """

    wins: int
    ties: int
    losses: int
    unanswered: int
    rate: float
    low: float
    high: float
    p: float

    @property
    def bounds(self) -> tuple[float, float]:
        least = self.wins + self.ties / 2
        total = self.wins + self.ties + self.losses + self.unanswered
        return least / total, (least + self.unanswered) / total


def win_rate(wins: int, ties: int, losses: int, unanswered: int = 0) -> WinRate:
    """The share of comparisons that were won, a tie being half a win, with its interval.

    A verdict is worth 1, ½ or 0, so with ties its variance is below that of a share, and Wilson's
    interval would be too wide. The rate is ½ + (share won − share lost)/2, and for a difference of
    two shares from the same pairs there is a simple interval: one win and one loss are added, and
    the normal interval is taken. It has a width where every verdict was the same.

    Source: Bonett and Price 2012, doi:10.3102/1076998611411915; the sign test, Dixon and Mood
    1946, doi:10.1080/01621459.1946.10501898. Chapter: evaluation.

    Parameters
    ----------
    wins, ties, losses : int
        Of independent pairs, such as one a prompt.
    unanswered : int
        Comparisons on which the judge gave no verdict. They count in `bounds` alone.

    Raises
    ------
    ValueError
        If a count is no whole number from 0 on, or there is no verdict at all.

    Examples
    --------
    >>> found = win_rate(6, 2, 2)
    >>> found.rate, round(found.low, 3), round(found.high, 3), round(found.p, 4)
    (0.7, 0.426, 0.907, 0.2891)
    """
    given = {"wins": wins, "ties": ties, "losses": losses, "unanswered": unanswered}
    for name, count in given.items():
        if not (0 <= count < math.inf and count == int(count)):
            raise ValueError(f"{name} is {count}; expected a whole number from 0 on")
    wins, ties, losses, unanswered = map(int, given.values())  # numpy's would overflow below
    n = wins + ties + losses
    if not n:
        told = f"none of {unanswered} comparisons was answered" if unanswered else "all are 0"
        raise ValueError(f"wins, ties, losses: {told}; expected at least one verdict")
    won, lost = (wins + 1) / (n + 2), (losses + 1) / (n + 2)
    centre = 0.5 + (won - lost) / 2
    half = Z / 2 * math.sqrt((won + lost - (won - lost) ** 2) / (n + 2))
    return WinRate(
        wins,
        ties,
        losses,
        unanswered,
        (wins + ties / 2) / n,
        max(0.0, centre - half),
        min(1.0, centre + half),
        sign_test(wins, losses),
    )


def sign_test(wins: int, losses: int) -> float:
    """The chance that a fair coin parts so many verdicts at least as unevenly; ties say nothing.

    Exact, and of both sides. For two-way verdicts this is McNemar's test in its exact form.

    Source: Dixon and Mood 1946, doi:10.1080/01621459.1946.10501898. Chapter: evaluation.

    Examples
    --------
    >>> sign_test(0, 5)  # 2/2⁵
    0.0625
    """
    n, fewer = int(wins + losses), int(min(wins, losses))
    ways = total = 1
    for k in range(fewer):
        ways = ways * (n - k) // (k + 1)
        total += ways
    return min(1.0, 2 * total / 2**n)


def tally(outcomes: Sequence[float | None]) -> dict[str, int]:
    """Count verdicts for `win_rate(**tally(outcomes))`.

    Chapter: evaluation.

    Parameters
    ----------
    outcomes : sequence of N
        1 for a win, ½ for a tie, 0 for a loss, None (or NaN) for no answer.

    Raises
    ------
    ValueError
        If one is anything else, such as a probability.

    Examples
    --------
    >>> tally([1, 0.5, None, 1])
    {'wins': 2, 'ties': 1, 'losses': 0, 'unanswered': 1}
    """
    names = {1.0: "wins", 0.5: "ties", 0.0: "losses"}
    counts = dict.fromkeys([*names.values(), "unanswered"], 0)
    for row, outcome in enumerate(outcomes):
        value = math.nan if outcome is None else float(outcome)
        if not math.isnan(value) and value not in names:
            raise ValueError(f"outcomes[{row}] is {outcome}; expected 1, 0.5, 0 or None")
        counts[names.get(value, "unanswered")] += 1
    return counts


# ------------------------------------------------------------------ how many prompts


def prompts_needed(difference: float, sd: float, power: float = 0.8, level: float = 0.05) -> int:
    """How many prompts it takes to see a difference: with that power, at that level.

    Source: n = ((z₁₋level/2 + z_power) · sd/difference)²; Miller 2024, arXiv:2411.00640, eq. 9.
    Chapter: evaluation.

    Parameters
    ----------
    difference : float
        The true one that one does not want to miss, in the unit of the reward; of win rates, the
        distance from ½.
    sd : float
        Standard deviation of the difference on one prompt, as `compare` gives it; of win rates
        that of a verdict, at most ½.
    power : float
        How often it is to be seen: how often the interval is to exclude 0.
    level : float
        How often an interval may exclude 0 where there is no difference: 5 % for 95 %.

    Examples
    --------
    >>> prompts_needed(0.05, 0.5)  # a win rate of 55 %
    785
    """
    if not abs(difference) > 0:
        raise ValueError(f"difference is {difference}; expected another than 0, which none can see")
    return math.ceil((_reach(power, level) * _positive("sd", sd) / difference) ** 2)


def smallest_difference(prompts: int, sd: float, power: float = 0.8, level: float = 0.05) -> float:
    """The difference that so many prompts show with that power; of a smaller one, do not hope.

    Source: as for `prompts_needed`, Miller 2024, arXiv:2411.00640, eq. 9. Chapter: evaluation.

    Examples
    --------
    >>> round(smallest_difference(785, 0.5), 3)
    0.05
    """
    return _reach(power, level) * _positive("sd", sd) / math.sqrt(_positive("prompts", prompts))


def power_of(difference: float, sd: float, prompts: float, level: float = 0.05) -> float:
    """How often an interval from so many prompts excludes 0.

    Source: as for `prompts_needed`, Miller 2024, arXiv:2411.00640, eq. 9. Chapter: evaluation.

    Examples
    --------
    >>> round(power_of(0.05, 0.5, 785), 2), round(power_of(0, 0.5, 785), 2)
    (0.8, 0.05)
    """
    z = -NORMAL.inv_cdf(_share("level", level) / 2)
    errors = difference * math.sqrt(_positive("prompts", prompts)) / _positive("sd", sd)
    return NORMAL.cdf(errors - z) + NORMAL.cdf(-errors - z)


def _reach(power: float, level: float) -> float:
    return NORMAL.inv_cdf(_share("power", power)) - NORMAL.inv_cdf(_share("level", level) / 2)


def _share(name: str, value: float) -> float:
    if not 0 < value < 1:
        raise ValueError(f"{name} is {value}; expected a number between 0 and 1")
    return value


def _positive(name: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} is {value}; expected a finite number above 0")
    return value


# ------------------------------------------------------------------ at equal length


@dataclass(frozen=True)
class LengthControl:
    """What `length_controlled` found. Chapter: evaluation.

    Attributes
    ----------
    rate, low, high : float
        The win rate at equal length, σ(log_odds), and the ends of its interval.
    raw : float
        The win rate as it was, ties a half.
    log_odds, log_odds_se : float
        Log-odds of a win at equal length, in nats, and their standard error.
    slope, slope_se : float
        What length adds to the log-odds as its tanh goes from 0 to 1, in nats.
    longer : float
        Share of pairs in which the first was the longer one.
    """

    rate: float
    low: float
    high: float
    raw: float
    log_odds: float
    log_odds_se: float
    slope: float
    slope_se: float
    longer: float


def length_controlled(
    outcomes: Sequence[float | None], lengths: Sequence[float], against: Sequence[float]
) -> LengthControl:
    """The win rate that is left when both replies of a pair are equally long.

    Logistic regression P(win) = σ(log_odds + slope · tanh(Δ/sd(Δ))) on the difference Δ of the
    lengths, read at Δ = 0. What belongs to length goes with it, whether it was padding or worth.
    The errors are robust ones, since a tie varies less than a coin does.

    Source: the idea of Dubois et al. 2024, arXiv:2404.04475, without their terms for
    instructions and without their penalty. Chapter: evaluation.

    Parameters
    ----------
    outcomes : sequence of N
        1, ½, 0, or None for a pair that is left out; of the policy that `lengths` belong to.
    lengths, against : sequences of N numbers
        How long its replies are, and those that they are compared with, in any one unit.

    Raises
    ------
    ValueError
        If the three do not belong together, one of the two replies is the longer one in every
        pair, all differences are equal, or length (nearly) parts wins from losses: then the best
        fit is not finite.

    Examples
    --------
    The longer reply wins three times of four, whosever it is:

    >>> found = length_controlled([1, 1, 1, 0, 0, 0, 0, 1], [9] * 4 + [5] * 4, [5] * 4 + [9] * 4)
    >>> round(found.rate, 3), found.longer, round(found.slope * math.tanh(1), 3)  # log 3
    (0.5, 0.5, 1.099)
    """
    for name, column in (("lengths", lengths), ("against", against)):
        if len(column) != len(outcomes):
            raise ValueError(f"{name} has {len(column)} entries; expected {len(outcomes)}")
    tally(outcomes)
    won = np.array(outcomes, dtype=float)
    kept = ~np.isnan(won)
    won, gap = won[kept], (np.asarray(lengths, float) - np.asarray(against, float))[kept]
    if len(won) < 3 or not np.isfinite(gap).all():
        raise ValueError(
            f"outcomes has {len(won)} verdicts; expected at least 3, all with finite lengths"
        )
    if gap.std() == 0:
        raise ValueError(
            f"lengths: every reply is {gap[0]:+g} from the other; expected differences that vary, "
            "as otherwise length and policy cannot be told apart"
        )
    if gap.min() > 0 or gap.max() < 0:
        side = "longer" if gap.min() > 0 else "shorter"
        raise ValueError(
            f"lengths: the reply is {side} than the other in all {len(gap)} pairs; expected some "
            "on both sides, as equal length is otherwise outside of what was seen"
        )
    x = np.tanh(gap / gap.std())
    _check_overlap(x[won > 0], x[won < 1])
    rows = np.stack([np.ones_like(x), x], axis=1)  # (N, 2)
    signed = np.concatenate([rows[won > 0], rows[won == 1], -rows[won < 1], -rows[won == 0]])
    weights = fit_weights(signed)  # each verdict twice, a tie once on each side
    p = 1 / (1 + np.exp(-rows @ weights))
    bread = np.linalg.inv((rows.T * (p * (1 - p))) @ rows)
    meat = (rows.T * np.square(won - p)) @ rows * len(rows) / (len(rows) - 2)
    log_odds_se, slope_se = np.sqrt(np.diag(bread @ meat @ bread)).tolist()
    log_odds, slope = weights.tolist()
    low, rate, high = (1 / (1 + math.exp(-log_odds - k * Z * log_odds_se)) for k in (-1, 0, 1))
    longer = float((gap > 0).mean())
    return LengthControl(
        rate, low, high, won.mean().item(), log_odds, log_odds_se, slope, slope_se, longer
    )


def _check_overlap(won: np.ndarray, lost: np.ndarray) -> None:
    """That no length parts wins from losses; a tie is among both."""
    if not len(won) or not len(lost):
        raise ValueError(
            f"outcomes are all {'wins' if len(won) else 'losses'}; expected some of both, as "
            "otherwise the log-odds are infinite"
        )
    if won.min() >= lost.max() or lost.min() >= won.max():
        raise ValueError(
            "outcomes are parted by length: beyond some difference all are won, and below it all "
            "lost, or the other way round; expected both on both sides, as otherwise the slope is "
            "infinite"
        )


# ------------------------------------------------------------------ seeds


@dataclass(frozen=True)
class OverSeeds:
    """What `across_seeds` found. Chapter: evaluation.

    Attributes
    ----------
    difference, half : float
        Mean over seeds, and half the width of its interval: Student's, from one value a seed.
    seed_sd : float
        Standard deviation of the true difference from seed to seed: what is left of the spread
        when the prompts' share is taken off; 0 where nothing is left.
    prompt_se : float
        Standard error within one seed: how much its own prompts and samples leave open.
    one_seed_half : float
        Half the width of the interval that one seed alone would report, 1.96 `prompt_se`.
    seeds : int
    """

    difference: float
    half: float
    seed_sd: float
    prompt_se: float
    one_seed_half: float
    seeds: int


def across_seeds(differences: Sequence[float], errors: Sequence[float]) -> OverSeeds:
    """Whether a method is better, of which there is one difference a seed.

    A seed stands for all that is drawn anew when training is repeated. The variance of the S
    values is that of the true differences plus that which prompts and samples add within a seed;
    more prompts lower the second alone.

    Definition: seed_sd² = max(0, Var(differences) − mean(errors²)), by the law of total variance.
    Where all seeds were measured on the same prompts, the luck of these prompts is in none of it.
    Chapter: evaluation.

    Parameters
    ----------
    differences : sequence of S floats
        From 2 to 11 seeds, one each, such as `compare(...).difference`.
    errors : sequence of S floats
        The standard error within each seed, such as `compare(...).se`.

    Examples
    --------
    >>> found = across_seeds([1., 2., 3.], [0.6, 0.6, 0.6])
    >>> round(found.difference, 3), round(found.half, 2), round(found.seed_sd, 3)  # √(1 − 0.36)
    (2.0, 2.48, 0.8)
    """
    if len(errors) != len(differences):
        raise ValueError(f"errors has {len(errors)} entries; expected {len(differences)}")
    if not all(0 <= error < math.inf for error in errors):
        raise ValueError(f"errors is {list(errors)}; expected finite numbers from 0 on")
    mean, half = mean_interval(differences)
    within = float(np.square(errors).mean())
    between = max(0.0, float(np.var(differences, ddof=1)) - within)
    prompt_se = math.sqrt(within)
    return OverSeeds(mean, half, math.sqrt(between), prompt_se, Z * prompt_se, len(differences))


# ------------------------------------------------------------------ judges


def answer_probabilities(judge: JudgeReward | PairwiseJudge, texts: list[str]) -> Tensor:
    """The probability of each of a judge's two answers after each text, shape (B, 2).

    `PairwiseJudge` and `JudgeReward` weigh the two against each other, which gives a number even
    where the model would have said something else altogether. Their sum tells.

    Chapter: evaluation.
    """
    if not texts:
        return torch.empty(0, 2)
    return read_answers(judge, texts, lambda logits: logits.softmax(dim=-1)[:, judge.answers])


def verdicts(
    judge: PairwiseJudge, prompts: list[str], a: list[str], b: list[str], least: float = 0.5
) -> list[float | None]:
    """A judge's verdicts on pairs, each asked in both orders.

    1 where a is the better one in both orders, 0 where b is, ½ where the verdict goes with the
    place, and None where the judge answers neither: in one of the orders, its two answers
    together have a probability below `least`.

    Source: a win in both orders or a tie, Zheng et al. 2023, arXiv:2306.05685, section 3.4.
    Chapter: evaluation.

    Raises
    ------
    ValueError
        If the three lists are of different lengths, or empty.
    """
    if not len(prompts) == len(a) == len(b) > 0:
        raise ValueError(
            f"prompts, a and b have {len(prompts)}, {len(a)} and {len(b)} entries; expected as "
            "many of each, and at least one"
        )
    asked = [
        [judge.template.format(prompt=p, first=x, second=y) for p, x, y in zip(prompts, *sides)]
        for sides in ((a, b), (b, a))
    ]
    forward, backward = (answer_probabilities(judge, texts) for texts in asked)  # (N, 2) each
    answered = torch.minimum(forward.sum(dim=1), backward.sum(dim=1)) >= least
    wins = (forward[:, 0] > forward[:, 1]).int() + (backward[:, 1] > backward[:, 0]).int()
    return [n / 2 if known else None for n, known in zip(wins.tolist(), answered.tolist())]
