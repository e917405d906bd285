"""The staleness explorer without a browser: its mathematics against ways that share no code with
it, its numbers in Python and in its own JavaScript, what it refuses, what it saves.

How it behaves in a page is tested in tests/site.
"""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch

from rlhf_lib.seeing.widgets import StalenessExplorer
from rlhf_lib.seeing.widgets import staleness_explorer as module
from rlhf_lib.seeing.widgets.staleness_explorer import (
    REPLIES,
    REWARDS,
    SAMPLER,
    TREATMENTS,
    estimate,
    expected_gradient,
    learner,
    policy_gradient,
)
from tests.unit import javascript

WORDS = ["".join(letters) for letters in itertools.product("abc", repeat=4)]
PREFIXES = ["".join(letters) for t in range(4) for letters in itertools.product("abc", repeat=t)]


def expected_reward(table: torch.Tensor) -> torch.Tensor:
    """E[r] by the definition: a product of probabilities for each reply, letter by letter."""
    logprobs = table.log_softmax(1)
    total = torch.zeros((), dtype=table.dtype)
    for word in WORDS:
        chance = sum(
            logprobs[PREFIXES.index(word[:t]), "abc".index(word[t])] for t in range(4)
        ).exp()
        total = total + chance * word.count("ab")
    return total


def test_replies_and_rewards():
    assert ["".join("abc"[token] for token in reply) for reply in REPLIES] == WORDS
    assert REWARDS.tolist() == [word.count("ab") for word in WORDS]
    assert (REWARDS.max(), WORDS[REWARDS.argmax()]) == (2, "abab")


@pytest.mark.parametrize("updates", [0, 7, 40])
def test_the_gradient_is_that_of_autograd_and_of_finite_differences(updates):
    table = learner(SAMPLER, updates)
    weights = torch.tensor(table, requires_grad=True)
    (slopes,) = torch.autograd.grad(expected_reward(weights), weights)
    found = policy_gradient(table)
    np.testing.assert_allclose(found, slopes.numpy(), rtol=0, atol=1e-14)
    assert abs(found).max() > 0.04
    h = 1e-5
    for place in [(0, 0), (1, 1), (4, 0), (17, 1), (39, 2)]:
        step = torch.zeros_like(weights)
        step[place] = h
        ends = [expected_reward(weights.detach() + sign * step).item() for sign in (1, -1)]
        assert found[place] == pytest.approx((ends[0] - ends[1]) / (2 * h), abs=1e-9)


def test_the_learner_climbs_by_exact_steps():
    one = learner(SAMPLER, 1)
    np.testing.assert_array_equal(one, SAMPLER + 0.5 * policy_gradient(SAMPLER))
    np.testing.assert_array_equal(learner(SAMPLER, 3), learner(learner(one, 1), 1))
    earned = [expected_reward(torch.tensor(learner(SAMPLER, k))).item() for k in range(0, 41, 5)]
    assert all(before < after for before, after in itertools.pairwise(earned))
    assert earned[0] < 0.3 and earned[-1] > 1.1
    assert 1.5 < StalenessExplorer(updates=40).result.kl < 2


@pytest.mark.parametrize("updates", range(41))
def test_whole_replies_without_a_bound_are_unbiased(updates):
    for treatment in ("sequence_truncate", "sequence_mask"):
        numbers = StalenessExplorer(updates, treatment, bound=None).result
        assert numbers.bias == pytest.approx(0, abs=1e-12)
        assert numbers.error == numbers.noise and numbers.cosine == pytest.approx(1)


@pytest.mark.parametrize("bound", [1.1, 3.0, None])
def test_fresh_samples_need_no_treatment(bound):
    table = StalenessExplorer(updates=0, bound=bound).table
    first = table["ignored"]
    assert first.bias == pytest.approx(0, abs=1e-12) and first.kl == pytest.approx(0, abs=1e-15)
    for numbers in table.values():
        assert numbers == pytest.approx(first, abs=1e-12)
        assert (numbers.effective, numbers.largest_ratio) == pytest.approx((1, 1))


def test_tokens_alone_stay_biased_without_a_bound():
    """They leave out how likely the prefix was; but less than with no ratio at all."""
    for updates in (1, 5, 20, 40):
        table = StalenessExplorer(updates, bound=None).table
        assert 0.01 < table["token_mask"].bias < table["ignored"].bias
        assert table["token_mask"] == table["token_truncate"]


def test_a_bound_over_every_ratio_changes_nothing():
    for treatment in TREATMENTS:
        free, bounded = (StalenessExplorer(10, treatment, bound).result for bound in (None, 10))
        assert free == bounded and bounded.over_bound == 0


@pytest.mark.parametrize("treatment", TREATMENTS)
@pytest.mark.parametrize("bound", [1.5, 2.5, None])
def test_weights_one_by_one(treatment, bound):
    """By the words of the treatment, from log-probabilities of torch."""
    policy, sampler = (
        torch.tensor(table).log_softmax(1) for table in (learner(SAMPLER, 35), SAMPLER)
    )
    demo = StalenessExplorer(35, treatment, bound)
    cut = 0
    for word, shown in zip(WORDS, demo.estimate.weights):
        own = [
            (policy - sampler)[PREFIXES.index(word[:t]), "abc".index(word[t])].exp().item()
            for t in range(4)
        ]
        level = own if treatment.startswith("token") else [math.prod(own)] * 4
        for ratio, weight in zip(level, shown):
            over = bound is not None and ratio > bound
            expected = 1.0 if treatment == "ignored" else ratio
            if over and treatment != "ignored":
                cut += 1
                expected = bound if "truncate" in treatment else 0.0
            assert weight == pytest.approx(expected, rel=1e-12)
    assert (cut > 0) == (treatment != "ignored" and bound is not None)
    assert demo.result.largest_weight == demo.estimate.weights.max()


# --- against samples ------------------------------------------------------------------------------


@pytest.mark.parametrize("treatment, bound", [("ignored", None), ("token_truncate", 1.5)])
def test_mean_and_noise_against_samples_of_tokens(treatment, bound):
    _against_samples(treatment, bound)


@pytest.mark.parametrize("treatment, bound", [("sequence_mask", 3.0), ("sequence_truncate", None)])
def test_mean_and_noise_against_samples_of_replies(treatment, bound):
    _against_samples(treatment, bound)


def _against_samples(treatment: str, bound: float | None) -> None:
    """2,000 estimates from 64 drawn replies each, by autograd through a surrogate objective."""
    updates, size, runs = 15, 64, 2000
    demo = StalenessExplorer(updates, treatment, bound, size)
    rng = np.random.default_rng(5)
    written = np.exp(
        [
            sum(
                torch.tensor(SAMPLER).log_softmax(1)[PREFIXES.index(w[:t]), "abc".index(w[t])]
                for t in range(4)
            ).item()
            for w in WORDS
        ]
    )
    weights = torch.tensor(demo.learner, requires_grad=True)
    rows = torch.tensor([[PREFIXES.index(word[:t]) for t in range(4)] for word in WORDS])
    logprobs = weights.log_softmax(1)[rows, torch.tensor(REPLIES)]  # (81, 4)
    counted = torch.tensor(demo.estimate.weights) * logprobs
    baseline = written @ REWARDS
    each = np.stack(  # what each of the 81 replies contributes
        [
            torch.autograd.grad(
                (REWARDS[i] - baseline) * counted[i].sum(), weights, retain_graph=True
            )[0]
            .numpy()
            .ravel()
            for i in range(81)
        ]
    )
    counts = rng.multinomial(size, written / written.sum(), size=runs)  # (runs, 81)
    estimates = counts @ each / size
    truth = policy_gradient(demo.learner).ravel()
    scale = np.linalg.norm(truth)
    numbers, found = demo.result, demo.estimate
    # the mean of 2,000 estimates is itself off by noise/√2000
    off = np.linalg.norm(estimates.mean(0) - found.mean.ravel()) / scale
    assert off < 2 * numbers.noise / math.sqrt(runs)
    distances = ((estimates - estimates.mean(0)) ** 2).sum(1)
    assert math.sqrt(distances.mean()) / scale == pytest.approx(numbers.noise, rel=0.02)
    errors = ((estimates - truth) ** 2).sum(1)
    assert math.sqrt(errors.mean()) / scale == pytest.approx(numbers.error, rel=0.02)
    assert found.mean.ravel() == pytest.approx(written @ each, abs=1e-14)
    scatter = ((each - written @ each) ** 2).sum(1)
    assert found.variance == pytest.approx(written @ scatter, rel=1e-10)


def test_noise_falls_with_the_root_of_the_sample_and_bias_does_not():
    small, large = (StalenessExplorer(20, replies=size).result for size in (16, 1024))
    assert small.bias == large.bias > 0.3
    assert small.noise == pytest.approx(8 * large.noise)
    assert small.error == pytest.approx(math.hypot(small.bias, small.noise))


def test_effective_sample_and_shares_by_hand():
    """Two kinds of replies: those over the bound and the others."""
    demo = StalenessExplorer(30, "sequence_mask", 2.0)
    weights = demo.estimate.weights[:, 0]
    written, meant = (
        np.exp(module.token_logprobs(table).sum(1)) for table in (SAMPLER, demo.learner)
    )
    over = meant / written > 2
    numbers = demo.result
    assert (weights[over] == 0).all() and 0 < over.sum() < 81
    kept = meant[~over].sum()
    assert numbers.effective == pytest.approx(kept**2 / (meant**2 / written)[~over].sum())
    assert numbers.over_bound == pytest.approx(written[over].sum())
    assert numbers.over_bound_learner == pytest.approx(meant[over].sum())
    assert numbers.kl == pytest.approx((meant * np.log(meant / written)).sum())
    assert numbers.largest_ratio == pytest.approx((meant / written).max())
    assert written.sum() == pytest.approx(1) and meant.sum() == pytest.approx(1)


def test_the_cosine_is_of_the_two_gradients():
    demo = StalenessExplorer(40, "sequence_truncate", 3.0)
    found = demo.estimate
    mean, truth = torch.tensor(found.mean).ravel(), torch.tensor(found.truth).ravel()
    cosine = torch.nn.functional.cosine_similarity(mean, truth, dim=0).item()
    assert demo.result.cosine == pytest.approx(cosine) and cosine < 0  # the wrong way, on average


def test_curves_are_the_numbers_along_the_slider():
    demo = StalenessExplorer(0, bound=2.0, replies=64)
    curves = demo.curves
    assert set(curves) == set(TREATMENTS)
    for updates in (0, 13, 40):
        table = StalenessExplorer(updates, bound=2.0, replies=64).table
        for treatment, along in curves.items():
            assert along.shape == (41, 3)
            assert tuple(along[updates]) == pytest.approx(table[treatment][:3], rel=1e-9, abs=1e-13)


def test_estimates_between_any_two_policies():
    """The function takes tables that the demo would not: a learner far from the sampler."""
    policy = SAMPLER[::-1].copy()
    found = estimate(policy, SAMPLER, "sequence_mask")
    assert found.mean == pytest.approx(found.truth, abs=1e-14) and found.variance > 0
    factors = np.ones((81, 1))
    assert expected_gradient(policy, factors).sum(1) == pytest.approx(0, abs=1e-12)


# --- the browser's half ---------------------------------------------------------------------------


def in_javascript(expression: str, states: list[dict]) -> list:
    """What the demo's own code makes of each state `s` with the usual sampler."""
    usual = {"logits": StalenessExplorer().logits}
    whole = [usual | state for state in states]
    return javascript.in_javascript(StalenessExplorer, expression, whole)


STATES = [
    {"updates": updates, "treatment": treatment, "bound": bound, "replies": replies}
    for updates, bound, replies in [(0, 3.0, 256), (1, 1.1, 16), (12, 2.0, 64), (23, None, 1024)]
    + [(40, 3.7, 256), (40, 10.0, 512)]
    for treatment in TREATMENTS
]
ALONG = "Object.entries(compute(s).curves)"


def test_javascript_and_python_agree():
    shown = in_javascript("(({ kl, here }) => ({ kl, ...here }))(compute(s))", STATES)
    for state, numbers in zip(STATES, shown, strict=True):
        demo = StalenessExplorer(**state)
        for name, value in demo.result._asdict().items():
            assert numbers[name] == pytest.approx(value, rel=1e-9, abs=1e-12), (name, state)
        for name in ("ratios", "weights"):
            found = np.reshape(numbers[name], (81, 4))
            expected = getattr(demo.estimate, name)
            np.testing.assert_allclose(found, expected, rtol=1e-9, err_msg=f"{name}, {state}")


def test_javascript_and_python_agree_along_the_slider():
    some = STATES[::5]
    each = in_javascript(
        f"{ALONG}.map(([kind, along]) => [kind, along.map((o) => [o.bias, o.noise, o.error])])",
        some,
    )
    for state, curves in zip(some, each, strict=True):
        expected = StalenessExplorer(**state).curves
        assert [kind for kind, _ in curves] == list(expected)
        for kind, along in curves:
            np.testing.assert_allclose(along, expected[kind], rtol=1e-9, atol=1e-12)


def test_dots_are_replies_or_tokens_after_their_prefixes():
    """The same ratio and weight wherever a token follows a prefix, so it has one dot."""
    states = [{**STATES[0], "updates": 30, "treatment": kind} for kind in TREATMENTS]
    for state, dots in zip(states, in_javascript("compute(s).dots", states), strict=True):
        demo = StalenessExplorer(**state)
        tokens = state["treatment"].startswith("token")
        assert len({dot["letters"] for dot in dots}) == len(dots) == (120 if tokens else 81)
        assert sum(dot["chance"] for dot in dots) == pytest.approx(4 if tokens else 1)
        written = np.exp(module.token_logprobs(SAMPLER))
        for dot in dots:
            place = len(dot["letters"]) - 1
            i = [word.startswith(dot["letters"]) for word in WORDS].index(True)
            assert dot["chance"] == pytest.approx(written[i, : place + 1].prod())
            assert dot["ratio"] == pytest.approx(demo.estimate.ratios[i, place])
            assert dot["weight"] == pytest.approx(demo.estimate.weights[i, place])
            earned = dot["letters"].endswith("ab") if tokens else dot["letters"].count("ab")
            assert dot["reward"] == earned


def test_settings_beyond_their_range_are_clamped_in_javascript_too():
    beyond = {"updates": 20, "treatment": "token_mask", "bound": 99, "replies": 64}
    assert in_javascript("compute(s).bound", [beyond, {**beyond, "bound": 0.5}]) == [10, 1.1]
    assert [StalenessExplorer(bound=bound).bound for bound in (99, 0.5)] == [10, 1.1]


# --- what it refuses and saves --------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad, says",
    [
        ({"updates": 41}, "updates is 41; expected 0 to 40"),
        ({"updates": -1}, "updates is -1; expected 0 to 40"),
        ({"treatment": "truncate"}, "treatment is truncate; expected one of ignored, token_trunc"),
        ({"bound": math.nan}, "bound is nan; expected a number from 1.1 to 10, or None for no"),
        ({"bound": math.inf}, "bound is inf; expected a number from 1.1 to 10, or None for no"),
        ({"replies": 100}, "replies is 100; expected a power of two from 16 to 1024"),
        ({"replies": 8}, "replies is 8; expected a power of two from 16 to 1024"),
        ({"replies": 2048}, "replies is 2048; expected a power of two from 16 to 1024"),
        ({"logits": [0.0]}, "logits has 1 entries; expected 120, three for each prefix"),
        ({"logits": [math.nan] * 120}, r"logits\[0\] is nan; expected a number from -4 to 4"),
        ({"logits": [0.0, 5.0] * 60}, r"logits\[1\] is 5.0; expected a number from -4 to 4"),
    ],
)
def test_a_bad_setting_is_refused_and_the_old_one_stays(bad, says):
    ((name, value),) = bad.items()
    if name != "logits":
        with pytest.raises(ValueError, match=says):
            StalenessExplorer(**bad)
    demo = StalenessExplorer(3, "token_mask", 2.0, 32)
    before = getattr(demo, name)
    with pytest.raises(ValueError, match=says):
        setattr(demo, name, value)
    assert getattr(demo, name) == before


def test_saved_state_is_plain_json():
    state = {k: v for k, v in StalenessExplorer().get_state().items() if k != "layout"}
    assert len(json.dumps(state, allow_nan=False)) < 60_000
    assert json.loads(json.dumps(StalenessExplorer(bound=None).get_state()["bound"])) is None
    assert "export default" in state["_esm"] and ".rlhf-demo" in state["_css"]


def test_repr_is_stable():
    assert repr(StalenessExplorer(5, "token_mask", None, 64)) == (
        "StalenessExplorer(token_mask, 5 updates, no bound, N=64: bias 0.142, noise 0.621)"
    )
