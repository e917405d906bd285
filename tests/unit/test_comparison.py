"""Comparisons: hand-computed cases, how often intervals cover, another optimiser, bad input."""

from __future__ import annotations

import math
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rlhf_lib.mathematics.intervals import wilson
from rlhf_lib.models.tokens import completion_logits, encode
from rlhf_lib.running.comparison import (
    across_seeds,
    answer_probabilities,
    compare,
    length_controlled,
    power_of,
    prompts_needed,
    sign_test,
    smallest_difference,
    student,
    tally,
    verdicts,
    win_rate,
)
from rlhf_lib.running.evaluation import evaluate
from rlhf_lib.worlds.reward_sources import JudgeReward, PairwiseJudge
from tests.unit.small import RAGGED, count_words, hasty, policy, tokenizer


def result(values, prompts=None, name="gold") -> dict:
    """What `evaluate` returns, as far as a comparison reads it."""
    prompts = prompts or [f"prompt {i}" for i in range(len(values))]
    return {"prompts": list(prompts), "values": {name: list(values)}}


# Prompt by prompt --------------------------------------------------------------------------------


def test_a_paired_difference_by_hand():
    """Differences 1, 0, 2, 1: mean 1, variance 2/3; the rewards' own variances are 5/3 and 11/3."""
    found = compare(result([1, 2, 3, 4]), result([2, 2, 5, 5]), "gold")
    assert (found.difference, found.prompts, found.rows) == (1.0, 4, 4)
    assert found.se == pytest.approx(math.sqrt(2 / 3 / 4))
    assert found.half == pytest.approx(3.182 * found.se)
    assert found.sd == pytest.approx(math.sqrt(2 / 3))
    assert found.unpaired_half == pytest.approx(3.182 * math.sqrt((5 / 3 + 3) / 4))
    assert found.correlation == pytest.approx(np.corrcoef([1, 2, 3, 4], [2, 2, 5, 5])[0, 1])


def test_pairing_narrows_by_the_correlation():
    """Var(b − a) = Var a + Var b − 2 corr √(Var a Var b), so an opposite pair is even wider."""
    values = [1.0, 4.0, 2.0, 8.0, 5.0]
    for other, sign in (([x + 1 for x in values], 1), ([-x for x in values], -1)):
        found = compare(result(values), result(other), "gold")
        assert found.correlation == pytest.approx(sign)
        assert found.half == pytest.approx(0 if sign > 0 else math.sqrt(2) * found.unpaired_half)


def test_several_replies_to_a_prompt_are_one_cluster():
    """Differences 1, 3 on x and 5, 7 on y: only two prompts, whose sums are off by −4 and 4."""
    prompts = ["x", "y", "x", "y"]
    found = compare(result([0, 0, 0, 0], prompts), result([1, 5, 3, 7], prompts), "gold")
    assert (found.difference, found.prompts, found.rows) == (4.0, 2, 4)
    assert found.se == pytest.approx(math.sqrt(2 / 1 * (4**2 + 4**2)) / 4)
    assert found.half == pytest.approx(12.706 * found.se)
    twice = [f"{x}, once more" for x in prompts[2:]]
    apart = compare(
        result([0, 0, 0, 0], prompts[:2] + twice), result([1, 5, 3, 7], prompts[:2] + twice), "gold"
    )
    assert apart.prompts == 4 and apart.half < found.half / 4


def test_rows_that_a_reward_does_not_apply_to_are_left_out():
    a, b = result([1, None, 3, 5]), result([2, 4, None, 8])
    found = compare(a, b, "gold")
    assert (found.difference, found.rows) == (2.0, 2)
    assert math.isnan(compare(result([1, 1]), result([1, 2]), "gold").correlation)


def test_two_evaluations_of_the_same_prompts_compare():
    prompts = [f"{prompt} {i}" for i in range(3) for prompt in RAGGED]
    a, b = (
        evaluate(model, tokenizer(), prompts, {"words": count_words}, policy(2), 8)
        for model in (hasty(), policy(1))
    )
    for name in ("words", "length", "kl"):
        found = compare(a, b, name)
        assert found.difference == pytest.approx(b[name] - a[name], abs=1e-4)
        apart = math.hypot(a[f"{name}_se"], b[f"{name}_se"])
        assert found.unpaired_half == pytest.approx(student(11) * apart, rel=1e-4)


@pytest.mark.parametrize("clusters, replies", [(6, 1), (40, 1), (12, 4)])
def test_the_interval_of_a_difference_covers(clusters, replies):
    """Prompts differ in how hard they are for both, and in how much better b does on them."""
    rng, covered, narrower = np.random.default_rng(clusters), [], []
    for _ in range(1_500):
        hard, extra = rng.normal(size=(2, clusters, 1))
        a = hard + rng.normal(size=(clusters, replies))
        b = hard + 0.5 * extra + rng.normal(size=(clusters, replies)) + 0.3
        prompts = [f"{i}" for i in range(clusters) for _ in range(replies)]
        found = compare(result(a.ravel(), prompts), result(b.ravel(), prompts), "gold")
        covered.append(abs(found.difference - 0.3) <= found.half)
        narrower.append(found.half < found.unpaired_half)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)
    assert np.mean(narrower) > 0.75


@pytest.mark.parametrize(
    "freedom, table",
    [(1, 12.706), (10, 2.228), (11, 2.201), (15, 2.131), (30, 2.042), (60, 2.0), (10**6, 1.96)],
)
def test_students_reach_is_that_of_the_tables(freedom, table):
    assert student(freedom) == pytest.approx(table, abs=0.003)


# Wins, ties and losses ---------------------------------------------------------------------------


def test_a_win_rate_by_hand():
    """Six won, two tied, two lost; with one win and one loss more: 7/12, 3/12 of 12."""
    found = win_rate(6, 2, 2)
    assert found.rate == 0.7 and found.unanswered == 0
    half = 1.96 / 2 * math.sqrt((10 / 12 - (4 / 12) ** 2) / 12)
    assert (found.low, found.high) == pytest.approx((2 / 3 - half, 2 / 3 + half))
    assert found.p == pytest.approx(2 * (1 + 8 + 28) / 2**8)


def test_an_interval_stays_inside_and_has_a_width():
    for counts in ((5, 0, 0), (0, 5, 0), (0, 0, 5), (1, 0, 0), (300, 0, 0)):
        found = win_rate(*counts)
        assert 0 <= found.low < found.high <= 1 and found.low <= found.rate <= found.high


def covered(n: int, won: float, tied: float, interval) -> float:
    """How often an interval has the true rate, exactly: over all counts that there can be."""
    total, truth = 0.0, won + tied / 2
    for wins, ties in product(range(n + 1), repeat=2):
        if (losses := n - wins - ties) >= 0:
            ways = math.comb(n, wins) * math.comb(n - wins, ties)
            low, high = interval(wins, ties, losses)
            chance = ways * won**wins * tied**ties * (1 - won - tied) ** losses
            total += chance * (low <= truth <= high)
    return total


def ours(wins: int, ties: int, losses: int) -> tuple[float, float]:
    found = win_rate(wins, ties, losses)
    return found.low, found.high


@pytest.mark.parametrize(
    "n, won, tied",
    [(20, 0.5, 0), (20, 0.4, 0.2), (40, 0.3, 0.4), (40, 0.47, 0.4), (40, 0.7, 0.1), (40, 0.95, 0)],
)
def test_the_interval_of_a_win_rate_covers(n, won, tied):
    assert 0.93 <= covered(n, won, tied, ours) <= 0.99


def test_with_many_ties_wilson_would_be_too_wide():
    def halves(wins, ties, losses):
        return wilson(wins + ties / 2, wins + ties + losses)

    assert covered(40, 0.3, 0.4, halves) > 0.98 > covered(40, 0.3, 0.4, ours)
    assert np.diff(ours(30, 40, 30)) < 0.8 * np.diff(halves(30, 40, 30))


def test_the_sign_test_by_hand():
    assert sign_test(4, 1) == sign_test(1, 4) == pytest.approx(2 * (1 + 5) / 32)
    assert sign_test(3, 3) == 1.0 and sign_test(0, 0) == 1.0
    assert sign_test(0, 10) == pytest.approx(2 / 1024)
    z = (540 - 500 - 0.5) / math.sqrt(250)  # normal, with half a verdict for the steps
    assert sign_test(540, 460) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.02)


def test_a_fair_coin_is_called_unfair_as_seldom_as_it_says():
    """Exactly, over all outcomes of 30 flips."""
    chances = [math.comb(30, k) / 2**30 for k in range(31)]
    for level in (0.01, 0.05, 0.2):
        called = sum(p for k, p in enumerate(chances) if sign_test(k, 30 - k) <= level)
        assert level / 4 < called <= level


def test_verdicts_are_counted_and_missing_ones_bound_the_rate():
    counts = tally([1, 1.0, 0.5, 0, None, math.nan, True])
    assert counts == {"wins": 3, "ties": 1, "losses": 1, "unanswered": 2}
    found = win_rate(**counts)
    assert found.rate == 3.5 / 5 and found.bounds == (3.5 / 7, 5.5 / 7)
    assert win_rate(3, 1, 1).bounds == (0.7, 0.7)


def test_counts_may_be_numpys():
    """Whose whole numbers overflow where Python's do not."""
    found = win_rate(np.int64(540), np.int64(0), np.int64(460))
    assert found == win_rate(540, 0, 460) and type(found.wins) is int
    assert sign_test(np.int64(540), np.int64(460)) == found.p


# How many prompts --------------------------------------------------------------------------------


def test_the_number_of_prompts_by_hand():
    z = 1.959964 + 0.841621
    assert prompts_needed(0.5, 4.0) == math.ceil((z * 8) ** 2)
    assert prompts_needed(-0.5, 4.0) == prompts_needed(0.5, 4.0)
    assert prompts_needed(0.5, 4.0, power=0.9, level=0.01) == math.ceil(
        ((2.575829 + 1.281552) * 8) ** 2
    )
    assert smallest_difference(400, 4.0) == pytest.approx(z * 4 / 20, rel=1e-6)
    assert power_of(smallest_difference(400, 4.0), 4.0, 400) == pytest.approx(0.8, abs=1e-4)
    assert power_of(0.0, 4.0, 400, level=0.1) == pytest.approx(0.1)


def test_the_power_is_how_often_an_interval_excludes_nothing():
    rng = np.random.default_rng(0)
    n = prompts_needed(0.4, 2.0)
    seen = []
    for _ in range(1_500):
        zero, gain = np.zeros(n), rng.normal(0.4, 2.0, n)
        found = compare(result(zero), result(gain), "gold")
        seen.append(found.difference > found.half)
    assert np.mean(seen) == pytest.approx(0.8, abs=0.03)


# At equal length ---------------------------------------------------------------------------------


def drawn(n: int, log_odds: float, slope: float, shift: float, seed: int, tied: float = 0.2):
    """Verdicts of a judge that likes length, on replies that are `shift` longer on average."""
    rng = np.random.default_rng(seed)
    against = rng.integers(5, 30, n).astype(float)
    lengths = against + np.round(rng.normal(shift, 6.0, n))
    gap = lengths - against
    chance = 1 / (1 + np.exp(-log_odds - slope * np.tanh(gap / gap.std())))
    won = (rng.random(n) < chance).astype(float)
    # a tie on both sides of a coin leaves the mean of a verdict what it was
    return np.where(rng.random(n) < tied * 4 * chance * (1 - chance), 0.5, won), lengths, against


def fitted_by_descent(outcomes, lengths, against):
    """The same fit by another optimiser: L-BFGS on the cross-entropy with soft targets."""
    gap = torch.tensor(lengths - against)
    x = torch.tanh(gap / gap.std(correction=0))
    weights = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights],
        max_iter=500,
        tolerance_grad=1e-12,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            weights[0] + weights[1] * x, torch.tensor(outcomes)
        )
        loss.backward()
        return loss

    optimizer.step(closure)
    return weights.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_the_fit_is_that_of_another_optimiser(seed):
    data = drawn(300, 0.2, 1.0, 3.0, seed)
    found = length_controlled(*data)
    assert (found.log_odds, found.slope) == pytest.approx(fitted_by_descent(*data), abs=1e-5)
    assert found.rate == pytest.approx(1 / (1 + math.exp(-found.log_odds)))
    assert found.raw == pytest.approx(np.mean(data[0]))
    assert found.longer == pytest.approx((data[1] > data[2]).mean())


def test_equally_good_replies_are_even_at_equal_length():
    """Longer ones win two times of three with this judge; the interval at equal length has ½."""
    holds, raw = [], []
    for seed in range(300):
        found = length_controlled(*drawn(400, 0.0, 1.5, 4.0, seed))
        holds.append(found.low <= 0.5 <= found.high)
        raw.append(found.raw)
    assert np.mean(raw) > 0.6 and np.mean(holds) == pytest.approx(0.95, abs=0.035)


def test_its_error_is_the_spread_over_data_sets():
    fits = [length_controlled(*drawn(400, 0.4, 0.8, 2.0, seed, tied=0.6)) for seed in range(300)]
    for name in ("log_odds", "slope"):
        spread = np.std([getattr(x, name) for x in fits])
        claimed = np.mean([getattr(x, f"{name}_se") for x in fits])
        assert claimed == pytest.approx(spread, rel=0.12)


def test_swapping_the_sides_turns_the_rate():
    outcomes, lengths, against = drawn(200, 0.3, 0.7, 2.0, 5)
    one = length_controlled(outcomes, lengths, against)
    other = length_controlled(1 - outcomes, against, lengths)
    assert other.rate == pytest.approx(1 - one.rate)
    assert (other.low, other.high) == pytest.approx((1 - one.high, 1 - one.low))
    missing = [*outcomes, None, None]
    more = length_controlled(missing, [*lengths, 3, 99], [*against, 4, 1])
    assert more == one  # pairs without a verdict are left out


# Seeds -------------------------------------------------------------------------------------------


def test_the_parts_of_a_spread_by_hand():
    found = across_seeds([1.0, 2.0, 3.0, 4.0], [0.5, 0.7, 0.1, 0.3])
    within = (0.25 + 0.49 + 0.01 + 0.09) / 4
    assert found.difference == 2.5 and found.seeds == 4
    assert found.half == pytest.approx(3.182 * math.sqrt(5 / 3 / 4))
    assert found.seed_sd == pytest.approx(math.sqrt(5 / 3 - within))
    assert found.prompt_se == pytest.approx(math.sqrt(within))
    assert found.one_seed_half == pytest.approx(1.96 * found.prompt_se)
    assert across_seeds([1.0, 1.1], [0.5, 0.5]).seed_sd == 0.0


def test_one_seed_claims_too_much_where_seeds_differ():
    """Of a true mean of 1, five seeds' intervals miss one time in twenty, and one seed's often."""
    rng, several, one, parts = np.random.default_rng(2), [], [], []
    for _ in range(2_000):
        differences = rng.normal(1.0, 0.5, 5) + rng.normal(0, 0.2, 5)
        found = across_seeds(differences.tolist(), [0.2] * 5)
        several.append(abs(found.difference - 1) <= found.half)
        one.append(abs(differences[0] - 1) <= found.one_seed_half)
        parts.append(found.seed_sd**2)
    assert np.mean(several) == pytest.approx(0.95, abs=0.015)
    assert np.mean(one) < 0.6
    assert np.mean(parts) == pytest.approx(0.25, rel=0.06)


# Judges ------------------------------------------------------------------------------------------

COMPARE = "{prompt} {first} ! {second} ! is the first fine ?"
ASK = "{prompt} {completion} . is the reply fine ?"
REPLIES = ["hello ben, thank you", "fine", "thanks", "ok. no."]


@pytest.mark.parametrize(
    "judge",
    [
        PairwiseJudge(policy(), tokenizer(), COMPARE, answers=("yes", "no"), batch_size=3),
        JudgeReward(policy(), tokenizer(), ASK, answers=("no", "ok"), batch_size=3),
    ],
    ids=["pairwise", "of one reply"],
)
def test_the_probabilities_are_those_of_the_two_answers(judge):
    """As each text gives them alone, from the logits that training reads: padding plays no part."""
    texts = [f"{prompt} {reply} !" for prompt, reply in zip(RAGGED, REPLIES)]
    found = answer_probabilities(judge, texts)
    for row, text in enumerate(texts):
        with torch.no_grad():
            logits = completion_logits(policy(), encode(tokenizer(), [text], ["ok"]))[0, 0]
        assert found[row].tolist() == pytest.approx(
            logits.softmax(0)[judge.answers].tolist(), rel=1e-3
        )
    assert found.shape == (4, 2) and answer_probabilities(judge, []).shape == (0, 2)


class Likes:
    """A causal LM that likes replies with more words, adds `bias` nats for the first place, and
    where a reply says "later" would rather say something else."""

    device, config = "cpu", SimpleNamespace(max_position_embeddings=64)

    def __init__(self, bias: float):
        self.bias = bias
        words = tokenizer()("! : yes no later hello")["input_ids"]
        self.stop, self.colon, self.yes, self.no, self.later, self.other = words

    def __call__(self, input_ids, attention_mask, position_ids, use_cache, logits_to_keep):
        logits = torch.full((len(input_ids), 1, len(tokenizer())), -20.0)
        for row, ids in enumerate(input_ids):
            ids = ids[attention_mask[row].bool()].tolist()
            begin = len(ids) - ids[::-1].index(self.colon)
            first = ids.index(self.stop)
            second = ids.index(self.stop, first + 1)
            logits[row, 0, self.yes] = self.bias + (first - begin) - (second - first - 1)
            logits[row, 0, self.no] = 0.0
            if self.later in ids:
                logits[row, 0, self.other] = 9.0
        return SimpleNamespace(logits=logits)


def test_verdicts_hold_in_both_orders_or_are_ties_or_missing():
    a = ["hello ben , thank you", "thanks", "fine , thanks", "maybe later , thank you"]
    b = ["ok", "hello ben , thank you", "ok", "ok"]  # 5 to 1, 1 to 5, 3 to 1, 5 to 1 words
    asked = [RAGGED, a, b]
    for bias, expected in (
        (0.0, [1, 0, 1, None]),
        (3.0, [1, 0, 0.5, None]),
        (-9.0, [0.5, 0.5, 0.5, None]),
    ):
        judge = PairwiseJudge(Likes(bias), tokenizer(), COMPARE, answers=("yes", "no"))
        assert verdicts(judge, *asked) == expected
        other = [None if x is None else 1 - x for x in expected]
        assert verdicts(judge, RAGGED, b, a) == other
    assert verdicts(judge, *asked, least=0.0)[3] == 0.5
    found = win_rate(**tally(verdicts(judge, *asked)))
    assert (found.ties, found.unanswered) == (3, 1)


# Bad input ---------------------------------------------------------------------------------------

FOUR = [1, 0.5, 0, 1]
JUDGE = PairwiseJudge(Likes(0.0), tokenizer(), COMPARE, answers=("yes", "no"))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: compare(result([1, 2]), result([1]), "gold"), "b has 1 prompts; expected 2, thos"),
        (
            lambda: compare(result([1, 2]), result([1, 2], ["prompt 0", "prompt 9"]), "gold"),
            "b has another prompt than a in 1 of 2 rows, the first in row 1: 'prompt 9'; expected ",
        ),
        (lambda: compare(result([1, 2]), result([1, 2]), "kl"), "name is 'kl'; expected one of go"),
        (lambda: compare(result([]), result([]), "gold"), "in 0 different prompts; expected at le"),
        (
            lambda: compare(result([1, 2], ["x", "x"]), result([1, 2], ["x", "x"]), "gold"),
            "'gold' has a value for both in 1 different prompts; expected at least 2",
        ),
        (
            lambda: compare(result([None, None, 1]), result([1, 2, 3]), "gold"),
            "in 1 different prompts",
        ),
        (lambda: student(0), "freedom is 0; expected at least 1"),
        (lambda: win_rate(0, 0, 0), "all are 0; expected at least one verdict"),
        (lambda: win_rate(**tally([])), "expected at least one verdict"),
        (lambda: win_rate(**tally([None] * 3)), "none of 3 comparisons was answered; expected at "),
        (lambda: win_rate(-1, 0, 3), "wins is -1; expected a whole number from 0 on"),
        (lambda: win_rate(1, 0.5, 3), "ties is 0.5; expected a whole number"),
        (lambda: win_rate(1, 0, 3, math.nan), "unanswered is nan; expected a whole number"),
        (lambda: win_rate(1, 0, math.inf), "losses is inf; expected a whole number"),
        (lambda: tally([1, 0.7]), r"outcomes\[1\] is 0.7; expected 1, 0.5, 0 or None"),
        (lambda: prompts_needed(0, 1), "difference is 0; expected another than 0"),
        (lambda: prompts_needed(math.nan, 1), "difference is nan; expected another than 0"),
        (lambda: prompts_needed(1, 0), "sd is 0; expected a finite number above 0"),
        (lambda: prompts_needed(1, 1, power=80), "power is 80; expected a number between 0 and 1"),
        (lambda: smallest_difference(0, 1), "prompts is 0; expected a finite number above 0"),
        (lambda: power_of(1, 1, 9, level=0), "level is 0; expected a number between 0 and 1"),
        (lambda: length_controlled(FOUR, [1, 2, 3], [1] * 4), "lengths has 3 entries; expected 4"),
        (lambda: length_controlled([0.3], [1], [2]), r"outcomes\[0\] is 0.3; expected 1, 0.5, 0"),
        (lambda: length_controlled([], [], []), "outcomes has 0 verdicts; expected at least 3"),
        (
            lambda: length_controlled(FOUR, [1, 2, math.inf, 4], [1] * 4),
            "outcomes has 4 verdicts; expected at least 3, all with finite lengths",
        ),
        (
            lambda: length_controlled(FOUR, [3] * 4, [1] * 4),
            r"every reply is \+2 from the other; expected differences that vary",
        ),
        (
            lambda: length_controlled(FOUR, [3, 4, 5, 6], [1] * 4),
            "the reply is longer than the other in all 4 pairs; expected some on both sides",
        ),
        (
            lambda: length_controlled([1, 1, 1], [1, 2, 3], [2] * 3),
            "outcomes are all wins; expected some of both",
        ),
        (
            lambda: length_controlled([0, 0, 0.5, 1], [1, 2, 3, 4], [2] * 4),
            "outcomes are parted by length: beyond some difference all are won",
        ),
        (
            lambda: length_controlled([1, 1, 0, 0], [1, 2, 3, 4], [2] * 4),
            "outcomes are parted by length",
        ),
        (lambda: across_seeds([1.0, 2.0], [0.1]), "errors has 1 entries; expected 2"),
        (lambda: across_seeds([1.0], [0.1]), "values has 1 entries; expected 2 to 11"),
        (lambda: across_seeds([1.0, 2.0], [0.1, -1.0]), "expected finite numbers from 0 on"),
        (
            lambda: verdicts(JUDGE, RAGGED, REPLIES, REPLIES[:3]),
            "prompts, a and b have 4, 4 and 3 entries; expected as many of each",
        ),
        (lambda: verdicts(JUDGE, [], [], []), "have 0, 0 and 0 entries; expected as many of each"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_lengths_that_nearly_part_the_outcomes_still_fit():
    """One win among the short and one loss among the long are enough for a finite slope."""
    found = length_controlled([1, 0, 0, 1, 1, 0], [1, 2, 3, 5, 6, 7], [4] * 6)
    assert math.isfinite(found.log_odds) and math.isfinite(found.slope_se)
