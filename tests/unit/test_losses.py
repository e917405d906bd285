"""Losses: by hand, by finite differences, and in all four sign cases of the clip."""

import math

import pytest
import torch
import torch.nn.functional as F

from rlhf_lib.mathematics.losses import (
    aggregate,
    bradley_terry_loss,
    cispo_loss,
    clip_fraction,
    clipped_policy_loss,
    clipped_value_loss,
    dpo_loss,
    gmpo_loss,
    gspo_loss,
    ipo_loss,
    kto_loss,
    policy_ratio,
    ratio_record,
    reinforce_loss,
    rloo_loss,
    sapo_loss,
    sequence_logprobs,
    sft_loss,
    simpo_loss,
)


def test_sft_loss_is_cross_entropy_on_the_completion():
    torch.manual_seed(0)
    logits, ids = torch.randn(2, 3, 5), torch.randint(5, (2, 3))
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    logprobs = logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    expected = F.cross_entropy(logits[mask.bool()], ids[mask.bool()])
    assert sft_loss(logprobs, mask).item() == pytest.approx(expected.item(), abs=1e-6)


def test_bradley_terry_by_hand_and_its_invariance_to_a_shift():
    chosen, rejected = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    by_hand = -(math.log(1 / (1 + math.exp(-1))) + math.log(1 / (1 + math.exp(2)))) / 2
    assert bradley_terry_loss(chosen, rejected).item() == pytest.approx(by_hand, abs=1e-6)
    assert torch.allclose(
        bradley_terry_loss(chosen + 7, rejected + 7), bradley_terry_loss(chosen, rejected)
    )
    centred = bradley_terry_loss(chosen, rejected, centering=0.1)
    assert centred.item() == pytest.approx(by_hand + 0.1 * (1 + 4) / 2, abs=1e-6)


def test_bradley_terry_gradient_is_minus_the_probability_of_the_other_answer():
    chosen = torch.tensor([0.3], requires_grad=True)
    bradley_terry_loss(chosen, torch.tensor([1.1]), margin=0.5).backward()
    assert chosen.grad.item() == pytest.approx(-1 / (1 + math.exp(0.3 - 1.1 - 0.5)), abs=1e-6)


@pytest.mark.parametrize(
    "ratio, advantage, loss, active",
    [
        (1.3, 3.0, -3.6, False),  # good, already raised enough: flat
        (0.7, 3.0, -2.1, True),  # good, but it fell: still pulled up
        (1.3, -3.0, 3.9, True),  # bad, but it rose: still pushed down
        (0.7, -3.0, 2.4, False),  # bad, already lowered enough: flat
    ],
)
def test_the_clip_in_its_four_sign_cases(ratio, advantage, loss, active):
    logprobs = torch.tensor([[math.log(ratio)]], requires_grad=True)
    per_token = clipped_policy_loss(logprobs, torch.zeros(1, 1), torch.tensor([[advantage]]))
    assert per_token.item() == pytest.approx(loss, abs=1e-6)
    per_token.sum().backward()
    assert logprobs.grad.item() == pytest.approx(-ratio * advantage if active else 0.0, abs=1e-6)
    assert clip_fraction(
        logprobs.detach(), torch.zeros(1, 1), torch.tensor([[advantage]]), torch.ones(1, 1)
    ) == (0.0 if active else 1.0)


def test_the_upper_clip_can_be_higher():
    ratio = torch.tensor([[math.log(1.25)]])
    wide = clipped_policy_loss(ratio, torch.zeros(1, 1), torch.ones(1, 1), 0.2, epsilon_high=0.28)
    assert wide.item() == pytest.approx(-1.25) and clipped_policy_loss(
        ratio, torch.zeros(1, 1), torch.ones(1, 1), 0.2
    ).item() == pytest.approx(-1.2)


def test_the_first_gradient_is_the_policy_gradient():
    """At ratio 1 the surrogate's gradient is −A ∇log π, whatever the clip."""
    logprobs = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    advantages = torch.tensor([[0.5, -4.0]])
    clipped_policy_loss(logprobs, logprobs.detach(), advantages).sum().backward()
    assert torch.allclose(logprobs.grad, -advantages)


def test_losses_agree_with_finite_differences():
    torch.manual_seed(3)
    old = torch.randn(2, 3, dtype=torch.float64) * 0.1
    advantages = torch.randn(2, 3, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    point = (old + 0.05 * torch.randn_like(old)).requires_grad_()
    for over in ("tokens", "sequences"):
        assert torch.autograd.gradcheck(
            lambda x, over: aggregate(clipped_policy_loss(x, old, advantages), mask, over),
            (point, over),
        )
    returns = torch.randn_like(old)
    assert torch.autograd.gradcheck(
        lambda x: aggregate(clipped_value_loss(x, old, returns), mask), point
    )


def test_aggregation_says_what_weighs_the_same():
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
    loss = torch.ones(2, 4, requires_grad=True)
    (tokens,) = torch.autograd.grad(aggregate(loss, mask, "tokens"), loss)
    (sequences,) = torch.autograd.grad(aggregate(loss, mask, "sequences"), loss)
    assert torch.allclose(tokens, mask / 5)
    assert torch.allclose(sequences, mask / torch.tensor([[8.0], [2.0]]))


def test_aggregation_ignores_what_stands_in_the_padding():
    mask = torch.tensor([[1, 0]])
    loss = torch.tensor([[2.0, float("nan")]])
    assert aggregate(loss, mask, "tokens").item() == 2.0
    assert aggregate(loss, mask, "sequences").item() == 2.0


def test_value_clip_takes_the_worse_of_two():
    old, target = torch.zeros(1, 1), torch.ones(1, 1)
    moved = torch.tensor([[0.5]], requires_grad=True)  # moved .5, allowed .2
    loss = clipped_value_loss(moved, old, target, 0.2)
    assert loss.item() == pytest.approx((0.2 - 1) ** 2 / 2)  # the clipped one is worse
    loss.sum().backward()
    assert moved.grad.item() == 0.0
    assert clipped_value_loss(moved, old, target, None).item() == pytest.approx(0.125)


# ------------------------------------------------------------------- one ratio per completion


def test_the_first_gradients_of_the_group_losses():
    """At ratio 1: REINFORCE's for CISPO and RLOO; GSPO's is shared out over the tokens."""
    mask, A = torch.tensor([[1, 1, 0], [1, 1, 1]]), torch.tensor([[2.0], [-1.0]])
    x = torch.tensor([[-1.0, -2.0, 7.0], [-3.0, -1.0, -2.0]], requires_grad=True)
    old = x.detach()

    def slope(loss):
        return torch.autograd.grad(aggregate(loss, mask, "sequences"), x)[0] * 2

    per_token = torch.tensor([[-2.0, -2.0, 0.0], [1.0, 1.0, 1.0]])
    lengths = torch.tensor([[2.0], [3.0]])
    assert torch.allclose(slope(reinforce_loss(x, A)), per_token / lengths)
    assert torch.allclose(slope(cispo_loss(x, old, A, 5.0)), per_token / lengths)
    assert torch.allclose(slope(gspo_loss(x, old, A, mask)), per_token / lengths)
    assert torch.allclose(slope(gmpo_loss(x, old, A, mask)), per_token / lengths)
    assert torch.allclose(slope(sapo_loss(x, old, A)), per_token / lengths)
    assert torch.allclose(slope(rloo_loss(x, old, A, mask)), per_token)


def test_sequence_ratios_by_hand():
    """Log-ratios .1 and .3: the product is exp(.4), its geometric mean exp(.2)."""
    x, old = torch.tensor([[0.1, 0.3, 9.0]]), torch.zeros(1, 3)
    mask, A = torch.tensor([[1, 1, 0]]), torch.tensor([[-2.0]])
    assert sequence_logprobs(x, mask).item() == pytest.approx(0.4)
    assert sequence_logprobs(x, mask, mean=True).item() == pytest.approx(0.2)
    assert rloo_loss(x, old, A, mask)[0, 0].item() == pytest.approx(2 * math.exp(0.4))
    assert gspo_loss(x, old, A, mask)[0, 0].item() == pytest.approx(2 * math.exp(0.2))
    for loss in (rloo_loss, gspo_loss):  # good, and raised far enough: clipped
        assert loss(x, old, -A, mask)[0, 0].item() == pytest.approx(
            -2 * 1.2 if loss is rloo_loss else -2 * (1 + 4e-4)
        )


def test_gmpo_silences_a_token_where_gspo_silences_the_completion():
    """Log-ratios .1 and .9 of a good completion: GSPO's mean, .5, is beyond .4, and of GMPO's
    tokens the second alone. Of a bad one nothing is clipped on that side, and −.9 on the other."""
    x = torch.tensor([[0.1, 0.9, 7.0]], requires_grad=True)
    old, mask, good = torch.zeros(1, 3), torch.tensor([[1, 1, 0]]), torch.tensor([[2.0]])

    def slope(loss):
        return torch.autograd.grad(loss.sum() / 3, x)[0][0]

    assert slope(gspo_loss(x, old, good, mask, 0.4, math.expm1(0.4))).tolist() == [0, 0, 0]
    weight = 2 * math.exp((0.1 + 0.4) / 2) / 2  # A times the mean ratio, over the length
    assert slope(gmpo_loss(x, old, good, mask)).tolist() == pytest.approx([-weight, 0, 0])
    assert gmpo_loss(x, old, -good, mask)[0, 0].item() == pytest.approx(2 * math.exp(0.5))
    assert gmpo_loss(-x, old, -good, mask)[0, 0].item() == pytest.approx(2 * math.exp(-0.25))
    assert gmpo_loss(x, old, good, mask, 0.2)[0, 0].item() == pytest.approx(-2 * math.exp(0.15))
    high = gmpo_loss(x, old, good, mask, 0.2, 0.6)[0, 0].item()
    assert high == pytest.approx(-2 * math.exp(0.35))


def test_the_gate_of_sapo_by_hand():
    """At a ratio of 2 and τ = 1 it is σ(1), and 4σ(1 − σ) of the gradient is left; τ = 2 for a
    token that is pushed down. It acts on both sides of 1, whatever the sign of A."""
    x = torch.tensor([[2.0, 2.0], [0.5, 0.5]], dtype=torch.float64).log().requires_grad_()
    A = torch.tensor([[3.0, -3.0], [3.0, -3.0]], dtype=torch.float64)
    loss = sapo_loss(x, torch.zeros_like(x), A, (1.0, 2.0))
    slope = torch.autograd.grad(loss.sum(), x)[0]
    for i, ratio in enumerate((2.0, 0.5)):
        for j, tau in enumerate((1.0, 2.0)):
            gate = 1 / (1 + math.exp(-tau * (ratio - 1)))
            sign = 1 if j else -1
            assert loss[i, j].item() == pytest.approx(sign * 3 * 4 / tau * gate)
            assert slope[i, j].item() == pytest.approx(sign * 3 * 4 * gate * (1 - gate) * ratio)
    assert torch.equal(
        sapo_loss(x, torch.zeros_like(x), A), sapo_loss(x, torch.zeros_like(x), A, (1.0, 1.05))
    )


def test_the_ratio_of_each_kind_by_hand():
    """Of tokens 2, 3 and, in the padding, anything; and of one completion of a single token."""
    x = torch.tensor([[2.0, 4.5, 7.0], [0.5, 7.0, 7.0]], dtype=torch.float64).log()
    old = torch.tensor([[1.0, 0.5, 1.0], [2.0, 1.0, 1.0]], dtype=torch.float64).log()
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    for kind, first, second in (
        ("clip", [2.0, 9.0], 0.25),
        ("cispo", [2.0, 9.0], 0.25),
        ("rloo", [18.0, 18.0], 0.25),
        ("gspo", [18**0.5, 18**0.5], 0.25),
        ("gmpo", [18**0.5, 18**0.5], 0.25),
        ("sapo", [2.0, 9.0], 0.25),
    ):
        ratio = policy_ratio(kind, x, old, mask)
        assert ratio.shape == (2, 3)
        assert ratio[0, :2].tolist() == pytest.approx(first, abs=1e-12)
        assert ratio[1, 0].item() == pytest.approx(second, abs=1e-12)


def test_what_is_recorded_of_the_clip_is_of_the_ratio_that_the_kind_has():
    """Tokens at 1.5 and 1/1.5: the first is clipped; their product and mean are 1. With 1.5 twice
    the product, too, is clipped, and the mean."""
    x = torch.tensor([[1.5, 1 / 1.5], [1.5, 1.5]]).log()
    mask, A, old = torch.ones(2, 2), torch.ones(2, 1), torch.zeros(2, 2)
    for kind, expected in (("clip", 0.75), ("gspo", 0.5), ("rloo", 0.5)):
        seen = ratio_record(x, old, A, mask, 0.2, kind=kind)
        assert seen["clip_fraction"] == expected
        assert seen["ratio_gap"] == pytest.approx(0.5)  # of a token, in each kind
    assert ratio_record(x, old, A, mask, 0.2, 1.4, "cispo")["clip_fraction"] == 0.75
    assert ratio_record(x, old, A, mask, 0.2, 1.6, "cispo")["clip_fraction"] == 0.0
    for epsilon, high, expected in ((0.4, None, 0.75), (0.4, 0.42, 0), (0.42, None, 0)):
        seen = ratio_record(x, old, A, mask, epsilon, high, "gmpo")  # log 1.5 is .405
        assert seen["clip_fraction"] == expected
    assert ratio_record(x, old, -A, mask, 0.4, kind="gmpo")["clip_fraction"] == 0.25
    far = torch.tensor([[2.7, 2.8], [0.1, 1.0]]).log()  # half of the slope is gone at 2.763
    assert ratio_record(far, old, A, mask, kind="sapo")["clip_fraction"] == 0.25
    assert ratio_record(far, old, -A, mask, kind="sapo")["clip_fraction"] == 0.5


def test_what_the_dual_clip_bounds_is_counted():
    """Of four tokens one is beyond 3 against the advice, and one is with it."""
    x, mask = torch.tensor([[4.0, 2.0], [4.0, 1.0]]).log(), torch.ones(2, 2)
    A = torch.tensor([[-1.0], [1.0]])
    seen = ratio_record(x, torch.zeros(2, 2), A, mask, dual_clip=3.0)
    assert seen["dual_clip_fraction"] == 0.25 and seen["ratio_gap"] == pytest.approx(3.0)
    seen = ratio_record(x, torch.zeros(2, 2), torch.tensor([[-1.0], [-1.0]]), mask, dual_clip=3.0)
    assert seen["dual_clip_fraction"] == 0.5


def test_the_lower_clip_is_at_one_less_epsilon():
    """.82 stands between 1 − .2 and 1/1.2."""
    bad = -torch.ones(1, 1), torch.ones(1, 1)
    assert clip_fraction(torch.tensor([[math.log(0.82)]]), torch.zeros(1, 1), *bad) == 0.0
    assert clip_fraction(torch.tensor([[math.log(0.79)]]), torch.zeros(1, 1), *bad) == 1.0


def test_the_dual_clip_bounds_the_loss_of_a_bad_token():
    far = torch.tensor([[math.log(10.0)]])
    bad, good = torch.tensor([[-3.0]]), torch.tensor([[3.0]])
    assert clipped_policy_loss(far, far * 0, bad).item() == pytest.approx(30.0)
    assert clipped_policy_loss(far, far * 0, bad, dual_clip=4.0).item() == pytest.approx(12.0)
    assert clipped_policy_loss(far, far * 0, good, dual_clip=4.0).item() == pytest.approx(-3.6)


def test_a_budget_is_a_constant():
    loss, mask = torch.ones(2, 4), torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
    assert aggregate(loss, mask, "budget", budget=10).item() == pytest.approx(5 / 20)
    assert aggregate(loss, mask, "budget", budget=20).item() == pytest.approx(5 / 40)


# ---------------------------------------------------------------------------------- preferences


def test_preference_losses_by_hand():
    chosen, rejected = torch.tensor([-2.0]), torch.tensor([-5.0])
    ref_chosen, ref_rejected = torch.tensor([-3.0]), torch.tensor([-4.0])  # log-ratios 1 and −1
    log_sigmoid = lambda x: -math.log(1 + math.exp(-x))
    four = chosen, rejected, ref_chosen, ref_rejected
    for loss, expected in (
        (dpo_loss(*four, 0.5), -log_sigmoid(1.0)),
        (dpo_loss(*four, 0.5, 0.1), -0.9 * log_sigmoid(1.0) - 0.1 * log_sigmoid(-1.0)),
        (ipo_loss(*four, 0.5), (2.0 - 1.0) ** 2),
        (simpo_loss(chosen, rejected, 2.0, 1.0), -log_sigmoid(2 * 3 - 1.0)),
        (
            kto_loss(torch.tensor([1.0, -1.0]), torch.tensor([True, False]), 0.2, 0.5, 2.0, 3.0),
            (2 * (1 - math.exp(log_sigmoid(0.4))) + 3 * (1 - math.exp(log_sigmoid(0.6)))) / 2,
        ),
    ):
        assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_the_weights_of_kto_are_not_rounded():
    """1.1 and .7 have other neighbours in 32 bits, 2e-8 away."""
    ratio = torch.tensor([0.4, -0.9], dtype=torch.float64)
    loss = kto_loss(ratio, torch.tensor([True, False]), 0.2, 0.5, 1.1, 0.7)
    sigmoid = lambda x: 1 / (1 + math.exp(-x))
    by_hand = (1.1 * (1 - sigmoid(0.1)) + 0.7 * (1 - sigmoid(0.55))) / 2
    assert loss.item() == pytest.approx(by_hand, abs=1e-15)


def test_dpo_pulls_harder_on_a_pair_that_it_has_wrong():
    """−β σ(−gap) on the chosen, +β σ(−gap) on the rejected: the weight is the belief in error."""
    chosen = torch.tensor([0.0, 0.0], requires_grad=True)
    rejected = torch.tensor([-4.0, 4.0], requires_grad=True)
    slopes = torch.autograd.grad(
        dpo_loss(chosen, rejected, torch.zeros(2), torch.zeros(2), 0.5), (chosen, rejected)
    )
    wrong = torch.sigmoid(torch.tensor([-2.0, 2.0]))
    assert torch.allclose(slopes[0], -0.5 * wrong / 2) and torch.allclose(
        slopes[1], 0.5 * wrong / 2
    )


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: aggregate(torch.ones(1, 2), torch.ones(1, 2), "batch"), "over is 'batch'"),
        (lambda: aggregate(torch.ones(1, 2), torch.ones(1, 2), "budget"), "budget is None"),
        (
            lambda: aggregate(torch.ones(1, 2), torch.ones(1, 2), "budget", budget=1),
            "budget is 1; expected at least the longest completion, 2 tokens",
        ),
        (
            lambda: aggregate(torch.ones(2, 3), torch.tensor([[1, 1, 1], [1, 0, 0]]), "budget", 2),
            "budget is 2; expected at least the longest completion, 3 tokens",
        ),
        (
            lambda: clipped_policy_loss(
                torch.ones(1, 2), torch.ones(1, 2), torch.ones(1, 1), 0.2, 0.28, dual_clip=1.2
            ),
            "dual_clip is 1.2; expected more than",
        ),
        (lambda: sequence_logprobs(torch.ones(2, 3), torch.ones(2, 2)), "mask has shape"),
        (
            lambda: aggregate(torch.ones(2, 2), torch.tensor([[1, 1], [0, 0]]), "sequences"),
            "a row of zeros",
        ),
        (lambda: sft_loss(torch.ones(2, 3), torch.ones(2, 2)), "mask has shape"),
        (
            lambda: aggregate(torch.ones(2, 3), torch.ones(2, 1), "budget", budget=3),
            "mask has shape",
        ),
        (
            lambda: clipped_policy_loss(torch.ones(2, 3), torch.ones(1, 3), torch.ones(2, 1)),
            "old_logprobs has shape",
        ),
        (
            lambda: cispo_loss(torch.ones(2, 3), torch.ones(2, 1), torch.ones(2, 1)),
            "old_logprobs has shape",
        ),
        (
            lambda: sapo_loss(*[torch.ones(2, 3)] * 3, temperatures=(1.0, 0.0)),
            r"temperatures is \(1.0, 0.0\); expected two numbers above 0",
        ),
        (
            lambda: clipped_value_loss(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 1)),
            "returns has shape",
        ),
        (lambda: kto_loss(torch.ones(2), torch.tensor([1, 0]), 0.0), "desirable is of torch.int64"),
        (
            lambda: kto_loss(torch.ones(2), torch.ones(2, 1, dtype=torch.bool), 0.0),
            "desirable has shape",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "loss",
    [
        lambda a: reinforce_loss(torch.zeros(3, 3), a),
        lambda a: clipped_policy_loss(torch.zeros(3, 3), torch.zeros(3, 3), a),
        lambda a: cispo_loss(torch.zeros(3, 3), torch.zeros(3, 3), a),
        lambda a: gspo_loss(torch.zeros(3, 3), torch.zeros(3, 3), a, torch.ones(3, 3)),
        lambda a: rloo_loss(torch.zeros(3, 3), torch.zeros(3, 3), a, torch.ones(3, 3)),
        lambda a: gmpo_loss(torch.zeros(3, 3), torch.zeros(3, 3), a, torch.ones(3, 3)),
        lambda a: sapo_loss(torch.zeros(3, 3), torch.zeros(3, 3), a),
    ],
)
def test_advantages_along_the_wrong_axis_are_refused(loss):
    """With as many tokens as completions, (B,) would broadcast without a word."""
    assert loss(torch.ones(3, 1)).shape == (3, 3)
    with pytest.raises(ValueError, match=r"advantages has shape \(3,\).*expected \(B, T\), or"):
        loss(torch.ones(3))


@pytest.mark.parametrize(
    "loss",
    [
        bradley_terry_loss,
        simpo_loss,
        lambda chosen, rejected: dpo_loss(chosen, rejected, torch.zeros(3), torch.zeros(3)),
        lambda chosen, rejected: ipo_loss(chosen, rejected, torch.zeros(3), torch.zeros(3)),
    ],
)
def test_pairs_that_would_broadcast_to_all_pairs_are_refused(loss):
    """(B,) beside (B, 1), as a head gives it, would compare each chosen with every rejected one."""
    assert loss(torch.ones(3), torch.zeros(3)).shape == ()
    with pytest.raises(ValueError, match=r"rejected has shape \(3, 1\)"):
        loss(torch.ones(3), torch.zeros(3, 1))
