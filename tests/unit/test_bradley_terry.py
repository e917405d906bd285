"""The fit of comparisons: hand-computed cases, exact limits, gradients, and bad input."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rlhf_lib.mathematics import bradley_terry as bt

THREE = np.array([[0, 3, 4], [1, 0, 3], [1, 1, 0]])


def random_wins(rng, n=5, low=1):
    return rng.integers(low, 7, size=(n, n)) * (1 - np.eye(n))


def test_two_items_by_hand():
    a, b = bt.fit_scores(np.array([[0, 3], [1, 0]]))
    assert a - b == pytest.approx(np.log(3), abs=1e-12) and a + b == pytest.approx(0, abs=1e-12)
    assert bt.win_probabilities(np.array([a, b]))[0, 1] == pytest.approx(0.75)


def test_a_chain_matches_each_pair_and_predicts_the_third():
    scores = bt.fit_scores(np.array([[0, 3, 0], [1, 0, 3], [0, 1, 0]]))
    assert np.diff(scores) == pytest.approx([-np.log(3)] * 2)
    assert bt.win_probabilities(scores)[0, 2] == pytest.approx(0.9)


def test_probabilities_do_not_overflow():
    p = bt.win_probabilities(np.array([1e4, -1e4]))
    assert p[0, 1] == 1 and p[1, 0] == 0 and p[0, 0] == 0.5


def test_gradient_by_finite_differences():
    rng = np.random.default_rng(0)
    wins, scores = random_wins(rng), rng.normal(size=5)
    for i, step in enumerate(1e-6 * np.eye(5)):
        slope = (bt.loss(scores - step, wins) - bt.loss(scores + step, wins)) / 2e-6
        assert bt.surplus(scores, wins)[i] == pytest.approx(slope, abs=1e-5)


def test_the_fit_is_a_minimum_and_has_mean_zero():
    rng = np.random.default_rng(1)
    for ridge in (0.0, 0.7):
        wins = random_wins(rng)
        fit = bt.fit_scores(wins, ridge)
        assert fit.mean() == pytest.approx(0, abs=1e-12)
        assert bt.surplus(fit, wins) == pytest.approx(ridge * fit, abs=1e-8)
        best = bt.loss(fit, wins, ridge)
        assert all(
            bt.loss(fit + rng.normal(scale=0.1, size=5), wins, ridge) >= best for _ in range(20)
        )


def test_shift_is_free_and_scale_is_not():
    fit = bt.fit_scores(THREE)
    assert bt.loss(fit + 100, THREE) == pytest.approx(bt.loss(fit, THREE))
    assert bt.loss(1.1 * fit, THREE) > bt.loss(fit, THREE) < bt.loss(0.9 * fit, THREE)


def test_gradient_ascent_ends_where_newton_does():
    steps = bt.fit_by_gradient(THREE, 5_000, rate=3.0)
    assert steps == pytest.approx(bt.fit_scores(THREE), abs=1e-8)
    steps = bt.fit_by_gradient(THREE, 5_000, rate=3.0, ridge=0.7)
    assert steps == pytest.approx(bt.fit_scores(THREE, ridge=0.7), abs=1e-8)
    start = bt.fit_by_gradient(THREE, 100, 1.0)
    again = bt.fit_by_gradient(THREE, 50, 1.0, scores=bt.fit_by_gradient(THREE, 50, 1.0))
    assert again == pytest.approx(start, abs=1e-12)


def test_scores_linear_in_one_hot_features_are_free_scores():
    rows = [
        np.eye(3)[i] - np.eye(3)[j] for i in range(3) for j in range(3) for _ in range(THREE[i, j])
    ]
    assert bt.fit_weights(np.array(rows), 0.4) == pytest.approx(bt.fit_scores(THREE, 0.4))
    assert bt.fit_weights(np.array(rows)) == pytest.approx(bt.fit_scores(THREE), abs=1e-8)


@pytest.mark.parametrize("unit", [1e-9, 0.01, 1.0, 1e6])
def test_the_unit_of_a_feature_is_no_matter(unit):
    """Weights of 110 are no run to infinity, if the feature is in hundredths."""
    w = bt.fit_weights(unit * np.array([[1.0], [1.0], [1.0], [-1.0]]))
    assert w * unit == pytest.approx([np.log(3)])
    rng = np.random.default_rng(5)
    rows, sizes = rng.normal(size=(30, 2)), np.array([1.0, unit])
    for ridge in (0.0, 0.7):
        alone = bt.fit_weights(rows, ridge)
        assert bt.fit_weights(rows * sizes)[1] * unit == pytest.approx(bt.fit_weights(rows)[1])
        z = rows * sizes @ (w := bt.fit_weights(rows * sizes, ridge))
        slope = (rows * sizes).T @ (1 / (1 + np.exp(z))) - ridge * w  # of the likelihood: 0
        assert slope == pytest.approx([0.0, 0.0], abs=1e-9 * max(1.0, unit))
        assert unit != 1.0 or w == pytest.approx(alone)


@pytest.mark.parametrize("items", [30, 100])
def test_a_long_chain_has_a_finite_fit(items):
    """Each beats the next nine times in ten: log 9 apart, and the ends by 64 and 218."""
    wins = np.diag([9.0] * (items - 1), 1) + np.diag([1.0] * (items - 1), -1)
    assert np.diff(bt.fit_scores(wins)) == pytest.approx([-np.log(9)] * (items - 1))


def test_with_any_ridge_there_is_a_fit():
    """Two of two choices for it: 2 f σ(−f w) = ridge · w."""
    for feature, ridge in ((0.01, 1e-8), (1.0, 1e-12), (100.0, 1e-3)):
        (w,) = bt.fit_weights(np.array([[feature], [feature]]), ridge)
        pull = 2 * feature / (1 + np.exp(feature * w))
        assert pull == pytest.approx(ridge * w, rel=1e-6)


def test_below_a_rate_of_4_no_step_lowers_the_likelihood():
    rng = np.random.default_rng(6)
    lowered = {}
    for rate in (3.9, 4.5):
        lowered[rate] = 0
        for n in (2, 2, 2, 3, 5):
            wins, s = random_wins(rng, n), 0.3 * rng.normal(size=n)
            for _ in range(30):
                following = bt.fit_by_gradient(wins, 1, rate, scores=s)
                lowered[rate] += bt.loss(following, wins) > bt.loss(s, wins) + 1e-12
                s = following
    assert lowered[3.9] == 0 < lowered[4.5]


def test_no_labels_give_no_weights():
    assert bt.fit_weights(np.zeros((0, 3)), 0.5).tolist() == [0, 0, 0]


def test_separable_data_have_no_fit_and_a_ridge_gives_one():
    wins = np.array([[0, 4], [0, 0]])
    with pytest.raises(ValueError, match=r"nothing in \[0\] ever lost"):
        bt.fit_scores(wins)
    a, b = bt.fit_scores(wins, ridge=0.1)
    assert 4 / (1 + np.exp(a - b)) == pytest.approx(0.05 * (a - b))
    with pytest.raises(ValueError, match="runs off to infinity"):
        bt.fit_weights(np.array([[1.0, 0.0], [2.0, 1.0]]))


def test_without_a_ridge_the_gap_grows_with_the_logarithm_of_time():
    a, b = bt.fit_by_gradient(np.array([[0, 1], [0, 0]]), 20_000, rate=0.05)
    assert (a - b) + np.exp(a - b) == pytest.approx(2_001, rel=0.01)


def test_groups_are_those_of_every_division():
    """Ford's condition, by trying all divisions into two camps."""
    rng = np.random.default_rng(2)
    for _ in range(60):
        wins = (rng.random((4, 4)) < 0.35) * (1 - np.eye(4))
        finite = all(
            wins[np.ix_(camp, [i for i in range(4) if i not in camp])].sum() > 0
            for size in (1, 2, 3)
            for camp in map(list, itertools.combinations(range(4), size))
        )
        groups = bt.beaten_groups(wins)
        assert (len(groups) == 1) == finite
        assert sorted(sum(groups, [])) == [0, 1, 2, 3]
        first, others = groups[0], sum(groups[1:], [])
        assert wins[np.ix_(others, first)].sum() == 0


def test_order_is_bordas_when_pairs_are_compared_equally_often():
    rng = np.random.default_rng(3)
    for _ in range(30):
        upper = np.triu(rng.integers(1, 10, size=(5, 5)), 1)
        wins = upper + np.tril(10 - upper.T, -1)
        ahead = bt.borda(wins)[:, None] > bt.borda(wins) + 1e-9
        scores = bt.fit_scores(wins)
        assert (scores[:, None] > scores)[ahead].all()


def test_borda_by_hand():
    assert bt.borda(THREE) == pytest.approx([(0.75 + 0.8) / 2, (0.25 + 0.75) / 2, 0.225])
    with pytest.raises(ValueError, match="items 0 and 2 were never compared"):
        bt.borda(np.array([[0, 3, 0], [1, 0, 3], [0, 1, 0]]))


def test_fleiss_kappa_by_hand():
    """Fleiss's own worked example is reproduced in most textbooks: 14 raters, kappa .210."""
    table = [
        [0, 0, 0, 0, 14],
        [0, 2, 6, 4, 2],
        [0, 0, 3, 5, 6],
        [0, 3, 9, 2, 0],
        [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0],
        [2, 5, 3, 2, 2],
        [6, 5, 2, 1, 0],
        [0, 2, 2, 3, 7],
    ]
    assert bt.fleiss_kappa(table) == pytest.approx(0.210, abs=5e-4)
    assert bt.fleiss_kappa([[3, 0], [0, 3]]) == 1
    assert bt.fleiss_kappa([[1, 1], [1, 1]]) == -1
    rng = np.random.default_rng(4)
    coins = rng.binomial(8, 0.5, size=20_000)
    assert bt.fleiss_kappa(np.stack([coins, 8 - coins], 1)) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: bt.fit_scores([[0, 1, 2], [1, 0, 2]]), r"wins has shape \(2, 3\)"),
        (lambda: bt.fit_scores([[0]]), "N of at least 2"),
        (lambda: bt.fit_scores([[0, -1], [1, 0]]), "negative or not finite"),
        (lambda: bt.fit_scores([[0, np.nan], [1, 0]]), "negative or not finite"),
        (lambda: bt.fit_scores([[0, 1], [1, 2]]), r"wins\[1\] counts an item against itself"),
        (lambda: bt.fit_scores([[0, 1], [1, 0]], ridge=-1), "ridge is -1; expected at least 0"),
        (lambda: bt.fit_weights(np.ones(3)), r"differences has shape \(3,\)"),
        (lambda: bt.fit_weights(np.array([[np.inf]])), "all finite"),
        (lambda: bt.fit_weights(np.ones((2, 1)), ridge=-1), "ridge is -1"),
        (lambda: bt.fleiss_kappa([[8, 0], [8, 0]]), "one category only"),
        (lambda: bt.fleiss_kappa([[8, 0], [3, 4]]), "the same number of annotators"),
        (lambda: bt.fleiss_kappa([[1, 0], [0, 1]]), "at least 2"),
        (lambda: bt.fleiss_kappa([]), "the same number of annotators"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
