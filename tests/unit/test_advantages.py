"""Masked statistics, GAE and group baselines: by hand, at their limits, and on bad input."""

import pytest
import torch

from rlhf_lib.mathematics.advantages import (
    explained_variance,
    gae,
    group_advantages,
    masked_mean,
    masked_sum,
    masked_variance,
    masked_whiten,
    optimal_baseline,
    returns_to_go,
    token_rewards,
)


def test_masked_statistics_ignore_what_stands_in_the_padding():
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, float("inf"), -1e9]])
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    assert masked_mean(values, mask).item() == 2.5
    assert masked_variance(values[:1], mask[:1]).item() == pytest.approx(2 / 3)  # biased


TABLE = torch.tensor([[1.0, 2.0, 3.0, 90.0], [4.0, float("nan"), -6.0, 5.0]])
COUNTS = torch.tensor([[1, 1, 1, 0], [1, 0, 1, 0]])


def test_masked_statistics_along_a_dimension_by_hand():
    nan = float("nan")
    for dim in (1, -1):
        assert masked_sum(TABLE, COUNTS, dim).tolist() == [6.0, -2.0]
        assert masked_mean(TABLE, COUNTS, dim).tolist() == [2.0, -1.0]
        assert masked_variance(TABLE, COUNTS, dim).tolist() == pytest.approx([2 / 3, 25.0])
    assert masked_sum(TABLE, COUNTS, 0).tolist() == [5.0, 2.0, -3.0, 0.0]
    assert masked_mean(TABLE, COUNTS, 0).tolist() == pytest.approx(
        [2.5, 2.0, -1.5, nan], nan_ok=True
    )
    assert masked_variance(TABLE, COUNTS, 0).tolist() == pytest.approx(
        [2.25, 0.0, 20.25, nan], nan_ok=True
    )
    assert masked_sum(TABLE, COUNTS).item() == 4.0 and masked_sum(TABLE, COUNTS).shape == ()
    assert masked_mean(TABLE, COUNTS).item() == pytest.approx(4 / 5)


def test_a_masked_sum_over_a_constant():
    """What CS336 calls masked_normalize, and `aggregate` over a budget."""
    assert masked_sum(TABLE, COUNTS, constant=8.0).item() == 0.5
    assert masked_sum(TABLE, COUNTS, 1, 4).tolist() == [1.5, -0.5]
    assert masked_sum(TABLE, 0 * COUNTS, 1, 4).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dim", [None, 0, 1, 2, -1])
@pytest.mark.parametrize("kind", [torch.bool, torch.long, torch.double])
def test_masked_statistics_are_those_of_torch(dim, kind):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    mask = torch.rand(3, 4, 5, generator=generator) < 0.3
    assert dim is None or not mask.any(dim).all()  # some mean is of nothing
    for ours, theirs in (
        (masked_sum, torch.masked.sum),
        (masked_mean, torch.masked.mean),
        (masked_variance, lambda x, dim, mask: torch.masked.var(x, dim, unbiased=False, mask=mask)),
    ):
        expected, found = theirs(values, dim, mask=mask), ours(values, mask.to(kind), dim)
        assert found.dtype == torch.float64 and found.shape == expected.shape
        empty = torch.zeros(()).bool() if dim is None else ~mask.any(dim)
        assert torch.allclose(found[~empty], expected[~empty], rtol=0.0, atol=1e-12)
        assert (found[empty] == 0).all() if ours is masked_sum else found[empty].isnan().all()


def test_a_mean_of_nothing_beside_others_gives_no_gradient():
    values = TABLE.clone().requires_grad_()
    means = masked_mean(values, torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0]]), dim=1)
    (slope,) = torch.autograd.grad(means[0], values)
    assert slope.tolist() == [[0.5, 0.0, 0.5, 0.0], [0.0] * 4]


@pytest.mark.parametrize("function", [masked_sum, masked_mean, masked_variance])
@pytest.mark.parametrize("shape", [(4,), (1, 4), (2, 1), (4, 2), (2, 4, 1)])
@pytest.mark.parametrize("dim", [None, 0])
def test_a_mask_is_not_broadcast(function, shape, dim):
    with pytest.raises(ValueError, match=r"mask has shape .*; expected \(2, 4\)"):
        function(torch.ones(2, 4), torch.ones(shape), dim)


def test_a_dimension_that_is_not_there_is_refused():
    with pytest.raises(IndexError, match="Dimension out of range"):
        masked_mean(torch.ones(2, 4), torch.ones(2, 4), 2)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_a_count_is_not_rounded_to_the_type_of_the_mask(kind):
    """bfloat16 knows no 1001, float16 no 4097."""
    for n in (1001, 4097):
        values, mask = torch.ones(1, n), torch.ones(1, n, dtype=kind)
        assert masked_mean(values, mask).item() == 1.0
        assert masked_mean(values, mask, 1).item() == 1.0
        rewards = token_rewards(torch.tensor([2.0]), torch.zeros(1, n), mask, 1.0)
        assert rewards[0, -1].item() == 2.0


def test_whitening_does_not_depend_on_the_padding():
    values, mask = torch.tensor([[1.0, 3.0, 0.0]]), torch.tensor([[1, 1, 0]])
    wider = masked_whiten(
        torch.tensor([[1.0, 3.0, 0.0, 0.0, 0.0]]), torch.tensor([[1, 1, 0, 0, 0]])
    )
    narrow = masked_whiten(values, mask)
    assert torch.equal(narrow, torch.tensor([[-1.0, 1.0, 0.0]]))
    assert torch.equal(wider[:, :3], narrow)


def test_whitening_can_keep_the_mean():
    values, mask = torch.tensor([[2.0, 6.0, float("nan")]]), torch.tensor([[1, 1, 0]])
    assert torch.equal(masked_whiten(values, mask), torch.tensor([[-1.0, 1.0, 0.0]]))
    assert torch.equal(
        masked_whiten(values, mask, shift_mean=False), torch.tensor([[3.0, 5.0, 0.0]])
    )


def test_token_rewards_price_real_tokens_and_score_the_last_of_them():
    log_ratio = torch.tensor([[1.0, 2.0, 9.0], [1.0, 1.0, 1.0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    rewards = token_rewards(torch.tensor([5.0, -1.0]), log_ratio, mask, beta=0.5)
    assert torch.equal(rewards, torch.tensor([[-0.5, 4.0, 0.0], [-0.5, -0.5, -1.5]]))


def test_token_rewards_keep_the_digits_of_both():
    """Of two types the wider one; and not one digit less of scores than they came with."""
    third = torch.tensor([1 / 3], dtype=torch.float64)
    for log_ratio in (torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bfloat16)):
        rewards = token_rewards(third, log_ratio, torch.ones(1, 2), 0.5)
        assert rewards.dtype == torch.float64 and rewards[0, 1].item() == 1 / 3
    rewards = token_rewards(third.float(), third[:, None], torch.ones(1, 1), 0.3)
    assert rewards.item() == pytest.approx(third.float().item() - 0.1, abs=1e-15)
    verdicts = token_rewards(torch.tensor([1]), torch.full((1, 1), 0.5), torch.ones(1, 1), 1.0)
    assert verdicts.item() == 0.5


def test_token_rewards_do_not_read_the_padding():
    log_ratio = torch.tensor([[1.0, float("nan")], [float("inf"), 2.0]])
    rewards = token_rewards(torch.zeros(2), log_ratio, torch.tensor([[1, 0], [1, 1]]), 0.5)
    assert rewards.tolist() == [[-0.5, 0.0], [-float("inf"), -1.0]]


def test_returns_to_go_by_hand():
    rewards, mask = torch.tensor([[1.0, 2.0, 4.0, 8.0]]), torch.tensor([[1, 1, 1, 0]])
    assert torch.equal(returns_to_go(rewards, mask), torch.tensor([[7.0, 6.0, 4.0, 0.0]]))
    assert torch.equal(
        returns_to_go(rewards, mask, gamma=0.5), torch.tensor([[3.0, 4.0, 4.0, 0.0]])
    )


def test_the_optimal_constant_minimises_the_weighted_square():
    rng = torch.Generator().manual_seed(0)
    rewards, norms = (torch.randn(9, generator=rng, dtype=torch.float64) for _ in range(2))
    best = optimal_baseline(rewards, norms**2)

    def second_moment(b):
        return ((rewards - b) ** 2 * norms**2).sum()

    for away in (-0.3, -1e-3, 1e-3, 0.3):  # V(b) = V(b*) + (b − b*)² Σ|s|²
        assert torch.isclose(
            second_moment(best + away), second_moment(best) + away**2 * (norms**2).sum()
        )
    assert torch.isclose(optimal_baseline(rewards, torch.ones(9)), rewards.mean())
    assert torch.isclose(optimal_baseline(rewards + 5, norms**2), best + 5)


@pytest.mark.parametrize(
    "norms", [torch.zeros(2), torch.tensor([1.0, -1.0]), torch.tensor([1.0, float("nan")])]
)
def test_squared_norms_that_are_none_are_named(norms):
    with pytest.raises(ValueError, match="squared_norms is 0 everywhere, or somewhere negative"):
        optimal_baseline(torch.ones(2), norms)
    with pytest.raises(ValueError, match="squared_norms has shape"):
        optimal_baseline(torch.ones(3), norms)


def test_explained_variance_is_one_for_a_perfect_critic_and_zero_for_a_constant():
    returns, mask = torch.tensor([[1.0, 2.0, 4.0, 99.0]]), torch.tensor([[1, 1, 1, 0]])
    assert explained_variance(returns, returns, mask) == pytest.approx(1.0)
    assert explained_variance(torch.full_like(returns, 3.0), returns, mask) == pytest.approx(0.0)
    assert explained_variance(-returns, returns, mask) == pytest.approx(-3.0)  # worse than none


def test_gae_by_hand():
    # gamma = .5, lam = .5, so gamma * lam = .25; values 1, 2, 4; rewards 0, 1, 2
    # delta_3 = 2 - 4 = -2;  delta_2 = 1 + .5 * 4 - 2 = 1;  delta_1 = 0 + .5 * 2 - 1 = 0
    # A_3 = -2;  A_2 = 1 - .25 * 2 = .5;  A_1 = 0 + .25 * .5 = .125
    advantages, returns = gae(
        torch.tensor([[0.0, 1.0, 2.0]]),
        torch.tensor([[1.0, 2.0, 4.0]]),
        torch.ones(1, 3),
        gamma=0.5,
        lam=0.5,
    )
    assert torch.equal(advantages, torch.tensor([[0.125, 0.5, -2.0]]))
    assert torch.equal(returns, torch.tensor([[1.125, 2.5, 2.0]]))


def test_gae_limits():
    torch.manual_seed(0)
    rewards, values = torch.randn(3, 5), torch.randn(3, 5)
    mask = torch.tensor([[1] * 5, [1] * 3 + [0] * 2, [1] + [0] * 4])
    masked = rewards * mask
    to_go = masked.flip(1).cumsum(1).flip(1)
    advantages, returns = gae(rewards, values, mask, gamma=1.0, lam=1.0)
    assert torch.allclose(advantages, (to_go - values) * mask, atol=1e-6)
    assert torch.allclose(returns, to_go * mask, atol=1e-6)  # lam = 1: the critic cancels
    one_step, _ = gae(rewards, values, mask, gamma=1.0, lam=0.0)
    next_values = torch.cat([(values * mask)[:, 1:], torch.zeros(3, 1)], 1)
    assert torch.allclose(one_step, (rewards + next_values - values) * mask, atol=1e-6)


def test_gae_does_not_read_the_padding():
    rewards, values = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[0.5, 0.5, 0.0]])
    mask = torch.tensor([[1, 1, 0]])
    dirty = gae(
        rewards + torch.tensor([[0.0, 0.0, 99.0]]), values + torch.tensor([[0.0, 0.0, 7.0]]), mask
    )
    for a, b in zip(gae(rewards, values, mask), dirty):
        assert torch.equal(a, b)


def test_group_mean_is_leave_one_out_shrunk():
    torch.manual_seed(1)
    rewards = torch.randn(12)
    with_self = group_advantages(rewards, 4, "mean", "none")
    without = group_advantages(rewards, 4, "leave_one_out", "none")
    assert torch.allclose(with_self, without * 3 / 4)
    others = (rewards[:4].sum() - rewards[0]) / 3
    assert without[0].item() == pytest.approx((rewards[0] - others).item(), abs=1e-6)


def test_group_std_is_unbiased_and_a_constant_group_teaches_nothing():
    rewards = torch.tensor([1.0, 2.0, 3.0, 5.0, 5.0, 5.0])
    advantages = group_advantages(rewards, 3, "mean", "std", eps=0.0)[:3]
    assert torch.allclose(advantages, torch.tensor([-1.0, 0.0, 1.0]))  # std of 1, 2, 3 is 1
    assert torch.equal(group_advantages(rewards, 3)[3:], torch.zeros(3))


def test_baselines_and_scales_by_hand():
    rewards = torch.tensor([1.0, 3.0, 10.0, 30.0])
    spread = rewards.std().item()
    for baseline, scale, expected in (
        ("none", "none", [1.0, 3.0, 10.0, 30.0]),
        ("mean", "none", [-1.0, 1.0, -10.0, 10.0]),
        ("leave_one_out", "none", [-2.0, 2.0, -20.0, 20.0]),
        ("mean", "std", [-(0.5**0.5), 0.5**0.5] * 2),
        ("mean", "batch", [-1 / spread, 1 / spread, -10 / spread, 10 / spread]),
    ):
        assert group_advantages(rewards, 2, baseline, scale, eps=0.0).tolist() == pytest.approx(
            expected
        )


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: masked_mean(torch.ones(2), torch.ones(3)), "mask has shape"),
        (lambda: masked_mean(torch.ones(2), torch.zeros(2)), "mask is 0 everywhere"),
        (lambda: gae(torch.ones(1, 2), torch.ones(1, 3), torch.ones(1, 2)), "values has shape"),
        (lambda: gae(torch.ones(1, 2), torch.ones(1, 2), torch.ones(1, 2), lam=1.5), "lam is 1.5"),
        (
            lambda: token_rewards(torch.ones(2, 1), torch.ones(2, 3), torch.ones(2, 3), 0.1),
            "scores has shape",
        ),
        (
            lambda: token_rewards(torch.ones(2), torch.ones(2, 3), torch.ones(2, 1), 0.1),
            "mask has shape",
        ),
        (
            lambda: token_rewards(
                torch.ones(2), torch.ones(2, 2), torch.tensor([[1, 1], [0, 0]]), 0.1
            ),
            "a row of zeros",
        ),
        (lambda: group_advantages(torch.ones(30), 8), "a multiple of group_size=8"),
        (lambda: group_advantages(torch.ones(4), 1), "group_size is 1; expected at least 2"),
        (lambda: group_advantages(torch.ones(4), 2, baseline="median"), "baseline is 'median'"),
        (lambda: group_advantages(torch.ones(4), 2, scale="yes"), "scale is 'yes'"),
        (
            lambda: group_advantages(torch.tensor([1.0, float("nan")]), 2),
            "rewards has an entry that is",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_whatever_stands_on_the_padding_stays_there():
    mask = torch.tensor([[1, 1, 0]])
    clean, dirty = (torch.tensor([[1.0, 2.0, x]]) for x in (0.0, float("nan")))
    for got, expected in zip(gae(dirty, dirty, mask), gae(clean, clean, mask), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
@pytest.mark.parametrize("scale", ["std", "batch", "none"])
@pytest.mark.parametrize("reward, size", [(1000.1, 3), (12.3, 8), (-7e5 / 3, 7)])
def test_equal_rewards_give_zeros_and_not_the_rounding_of_their_mean(baseline, scale, reward, size):
    assert torch.equal(
        group_advantages(torch.full((2 * size,), reward), size, baseline, scale),
        torch.zeros(2 * size),
    )


@pytest.mark.parametrize("kind", [torch.bool, torch.long, torch.double])
def test_verdicts_of_any_kind_are_rewards(kind):
    rewards = torch.tensor([1, 0, 0, 1, 1, 1])
    assert torch.allclose(
        group_advantages(rewards.to(kind), 3).float(), group_advantages(rewards.float(), 3)
    )


@pytest.mark.parametrize("kind", [torch.bool, torch.int, torch.float, torch.half])
def test_a_mask_may_be_of_any_kind(kind):
    log_ratio, mask = torch.tensor([[1.0, -1.0, 7.0]]), torch.tensor([[1, 1, 0]])
    for call in (
        lambda m: token_rewards(torch.tensor([2.0]), log_ratio, m, 0.5),
        lambda m: masked_whiten(log_ratio, m),
        lambda m: returns_to_go(log_ratio, m),
    ):
        assert torch.equal(call(mask.to(kind)), call(mask))


def test_rewards_in_whole_numbers_are_discounted():
    assert returns_to_go(torch.tensor([[0, 0, 1]]), torch.ones(1, 3), gamma=0.5).tolist() == [
        [0.25, 0.5, 1.0]
    ]
