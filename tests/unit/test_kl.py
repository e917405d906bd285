"""KL: estimators against enumeration, the sign of k3, and the controller."""

import math

import pytest
import torch

from rlhf_lib.mathematics.kl import AdaptiveKL, exact_kl, k1, k2, k3


@pytest.fixture
def two_policies():
    torch.manual_seed(0)
    return 2 * torch.randn(7, dtype=torch.float64), 2 * torch.randn(7, dtype=torch.float64)


def test_k1_and_k3_are_unbiased_by_enumeration_and_k2_is_not(two_policies):
    p, q = (x.log_softmax(-1) for x in two_policies)
    kl = (p.exp() * (p - q)).sum()
    assert exact_kl(*two_policies).item() == pytest.approx(kl.item(), abs=1e-12)
    assert (p.exp() * k1(p - q)).sum().item() == pytest.approx(kl.item(), abs=1e-12)
    assert (p.exp() * k3(p - q)).sum().item() == pytest.approx(kl.item(), abs=1e-12)
    assert abs((p.exp() * k2(p - q)).sum().item() - kl.item()) > 0.05


def test_k3_with_its_sign_turned_estimates_another_quantity(two_policies):
    p, q = (x.log_softmax(-1) for x in two_policies)
    kl = (p.exp() * (p - q)).sum().item()
    chi2 = (p.exp() ** 2 / q.exp()).sum().item() - 1
    turned = (p.exp() * (torch.expm1(p - q) - (p - q))).sum().item()
    assert turned == pytest.approx(chi2 - kl) and abs(turned - kl) > 0.1


def test_k3_is_never_negative_and_precise_near_zero():
    log_ratio = torch.linspace(-3, 3, 101)
    assert (k3(log_ratio) >= 0).all()
    tiny = torch.tensor([1e-4])
    assert k3(tiny).item() == pytest.approx(5e-9, rel=0.02)  # exp(-x) - 1 would round this away


def test_gradients_of_the_estimators_as_losses(two_policies):
    """On-policy: k1 has no gradient in expectation, k2 the reverse KL's, k3 the forward KL's."""
    theta, q = two_policies[0].clone().requires_grad_(), two_policies[1].log_softmax(-1)
    probabilities = theta.log_softmax(-1).exp().detach()  # the sampler's, hence detached

    def gradient(estimator):
        loss = (probabilities * estimator(theta.log_softmax(-1) - q)).sum()
        return torch.autograd.grad(loss, theta)[0]

    p = theta.log_softmax(-1)
    (reverse,) = torch.autograd.grad((p.exp() * (p - q)).sum(), theta)
    p = theta.log_softmax(-1)
    (forward,) = torch.autograd.grad((q.exp() * (q - p)).sum(), theta)
    assert torch.allclose(gradient(k1), torch.zeros_like(reverse), atol=1e-12)
    assert torch.allclose(gradient(k2), reverse, atol=1e-12)
    assert torch.allclose(gradient(k3), forward, atol=1e-12)


def test_exact_kl_is_zero_only_for_equal_policies():
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    assert exact_kl(logits, logits + 5.0).item() == pytest.approx(0.0, abs=1e-7)  # shift invariant
    assert exact_kl(
        torch.tensor([0.0, 0.0]), torch.tensor([0.0, math.log(3.0)])
    ).item() == pytest.approx(0.5 * math.log(4 / 3))
    halves = exact_kl(logits.to(torch.bfloat16), torch.zeros(1, 3, dtype=torch.bfloat16))
    assert halves.dtype == torch.float32  # 16 bits are computed in 32


def test_exact_kl_in_float64_has_the_digits_of_float64():
    """Of two policies 1e-6 apart the KL is 1e-13: in 32 bits nothing would be left of it."""
    logits = torch.tensor([0.3, -0.4, 1.1, 0.0], dtype=torch.float64)
    nudge = 1e-6 * torch.tensor([1.0, -1.0, 0.5, 0.0], dtype=torch.float64)
    p = logits.softmax(-1)
    second_order = ((p * nudge**2).sum() - (p * nudge).sum() ** 2).item() / 2  # a variance
    assert exact_kl(logits, logits + nudge).item() == pytest.approx(second_order, rel=1e-2)
    mixed = exact_kl(logits, (logits + 1).float())
    assert mixed.dtype == torch.float64 and abs(mixed.item()) < 1e-7


def test_adaptive_kl_follows_the_papers_rule():
    control = AdaptiveKL(target=6.0, horizon=640)
    assert control(0.1, kl=6.0, completions=64) == 0.1
    assert control(0.1, kl=6.6, completions=64) == pytest.approx(0.1 * 1.01)
    assert control(0.1, kl=60.0, completions=64) == pytest.approx(0.1 * 1.02)  # error clipped at .2
    assert control(0.1, kl=0.0, completions=64) == pytest.approx(0.1 * 0.98)


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(target=0.0, horizon=640), "target is 0.0"),
        (dict(target=float("nan"), horizon=640), "target is nan"),
        (dict(target=6.0, horizon=-1), "horizon is -1"),
    ],
)
def test_bad_controller_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveKL(**settings)
