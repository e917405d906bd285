"""Losses: by hand, by finite differences, and in all four sign cases of the clip."""
import math

import pytest
import torch
import torch.nn.functional as F

from rlhf_lib.losses import (aggregate, bradley_terry_loss, clip_fraction, clipped_policy_loss,
                             clipped_value_loss, sft_loss)


def test_sft_loss_is_cross_entropy_on_the_completion():
    torch.manual_seed(0)
    logits, ids = torch.randn(2, 3, 5), torch.randint(5, (2, 3))
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    logprobs = logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    expected = F.cross_entropy(logits[mask.bool()], ids[mask.bool()])
    assert sft_loss(logprobs, mask).item() == pytest.approx(expected.item(), abs=1e-6)


def test_bradley_terry_by_hand_and_its_invariance_to_a_shift():
    chosen, rejected = torch.tensor([1., 0.]), torch.tensor([0., 2.])
    by_hand = -(math.log(1 / (1 + math.exp(-1))) + math.log(1 / (1 + math.exp(2)))) / 2
    assert bradley_terry_loss(chosen, rejected).item() == pytest.approx(by_hand, abs=1e-6)
    assert torch.allclose(bradley_terry_loss(chosen + 7, rejected + 7),
                          bradley_terry_loss(chosen, rejected))
    centred = bradley_terry_loss(chosen, rejected, centering=.1)
    assert centred.item() == pytest.approx(by_hand + .1 * (1 + 4) / 2, abs=1e-6)


def test_bradley_terry_gradient_is_minus_the_probability_of_the_other_answer():
    chosen = torch.tensor([.3], requires_grad=True)
    bradley_terry_loss(chosen, torch.tensor([1.1]), margin=.5).backward()
    assert chosen.grad.item() == pytest.approx(-1 / (1 + math.exp(.3 - 1.1 - .5)), abs=1e-6)


@pytest.mark.parametrize("ratio, advantage, loss, active", [
    (1.3, 3., -3.6, False),  # good, already raised enough: flat
    (.7, 3., -2.1, True),  # good, but it fell: still pulled up
    (1.3, -3., 3.9, True),  # bad, but it rose: still pushed down
    (.7, -3., 2.4, False),  # bad, already lowered enough: flat
])
def test_the_clip_in_its_four_sign_cases(ratio, advantage, loss, active):
    logprobs = torch.tensor([[math.log(ratio)]], requires_grad=True)
    per_token = clipped_policy_loss(logprobs, torch.zeros(1, 1), torch.tensor([[advantage]]))
    assert per_token.item() == pytest.approx(loss, abs=1e-6)
    per_token.sum().backward()
    assert logprobs.grad.item() == pytest.approx(-ratio * advantage if active else 0., abs=1e-6)
    assert clip_fraction(logprobs.detach(), torch.zeros(1, 1), torch.tensor([[advantage]]),
                         torch.ones(1, 1)) == (0. if active else 1.)


def test_the_upper_clip_can_be_higher():
    ratio = torch.tensor([[math.log(1.25)]])
    wide = clipped_policy_loss(ratio, torch.zeros(1, 1), torch.ones(1, 1), .2, epsilon_high=.28)
    assert wide.item() == pytest.approx(-1.25) and \
        clipped_policy_loss(ratio, torch.zeros(1, 1), torch.ones(1, 1), .2).item() == \
        pytest.approx(-1.2)


def test_the_first_gradient_is_the_policy_gradient():
    """At ratio 1 the surrogate's gradient is −A ∇log π, whatever the clip."""
    logprobs = torch.tensor([[-1., -2.]], requires_grad=True)
    advantages = torch.tensor([[.5, -4.]])
    clipped_policy_loss(logprobs, logprobs.detach(), advantages).sum().backward()
    assert torch.allclose(logprobs.grad, -advantages)


def test_losses_agree_with_finite_differences():
    torch.manual_seed(3)
    old = torch.randn(2, 3, dtype=torch.float64) * .1
    advantages = torch.randn(2, 3, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    point = (old + .05 * torch.randn_like(old)).requires_grad_()
    for over in ("tokens", "sequences"):
        assert torch.autograd.gradcheck(
            lambda x: aggregate(clipped_policy_loss(x, old, advantages), mask, over), point)
    returns = torch.randn_like(old)
    assert torch.autograd.gradcheck(
        lambda x: aggregate(clipped_value_loss(x, old, returns), mask), point)


def test_aggregation_says_what_weighs_the_same():
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
    loss = torch.ones(2, 4, requires_grad=True)
    tokens, = torch.autograd.grad(aggregate(loss, mask, "tokens"), loss)
    sequences, = torch.autograd.grad(aggregate(loss, mask, "sequences"), loss)
    assert torch.allclose(tokens, mask / 5)
    assert torch.allclose(sequences, mask / torch.tensor([[8.], [2.]]))


def test_aggregation_ignores_what_stands_in_the_padding():
    mask = torch.tensor([[1, 0]])
    loss = torch.tensor([[2., float("nan")]])
    assert aggregate(loss, mask, "tokens").item() == 2.
    assert aggregate(loss, mask, "sequences").item() == 2.


def test_value_clip_takes_the_worse_of_two():
    old, target = torch.zeros(1, 1), torch.ones(1, 1)
    moved = torch.tensor([[.5]], requires_grad=True)  # moved .5, allowed .2
    loss = clipped_value_loss(moved, old, target, .2)
    assert loss.item() == pytest.approx((.2 - 1) ** 2 / 2)  # the clipped one is worse
    loss.sum().backward()
    assert moved.grad.item() == 0.
    assert clipped_value_loss(moved, old, target, None).item() == pytest.approx(.125)


@pytest.mark.parametrize("call, message", [
    (lambda: aggregate(torch.ones(1, 2), torch.ones(1, 2), "batch"), "over is 'batch'"),
    (lambda: aggregate(torch.ones(2, 2), torch.tensor([[1, 1], [0, 0]]), "sequences"),
     "a row of zeros"),
    (lambda: sft_loss(torch.ones(2, 3), torch.ones(2, 2)), "mask has shape"),
])
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
