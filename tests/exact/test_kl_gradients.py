"""What k1, k2 and k3 teach, by enumeration: as a loss, in the reward, per sequence, per token."""

from __future__ import annotations

import pytest
import torch

from rlhf_lib.mathematics.advantages import token_rewards
from rlhf_lib.mathematics.kl import exact_kl, k1, k2, k3
from rlhf_lib.mathematics.losses import SURROGATES, aggregate, clipped_policy_loss, policy_ratio
from tests.exact.tabular import Language, gradient

LANGUAGES = pytest.mark.parametrize(
    "language",
    [Language(2, 3), Language(3, 2), Language(3, 3, end=0)],
    ids=["V=2,T=3", "V=3,T=2", "V=3,T=3 with an end token"],
)


def two_policies(language):
    return language.table(seed=1, scale=1.5).requires_grad_(), language.table(seed=2, scale=1.5)


def log_ratio(language, table, reference):
    return language.logprobs(table) - language.logprobs(reference)


def reverse_kl(language, table, reference):
    """KL(π‖π_ref) over whole replies, with its gradient."""
    logprobs = language.logprobs(table).sum(dim=1)
    return (logprobs.exp() * (logprobs - language.logprobs(reference).sum(dim=1))).sum()


def forward_kl(language, table, reference):
    return reverse_kl(language, reference, table)


def held_kl(language, table, reference, forward=False, sampler=None):
    """Sum over tokens of the KL between next-token distributions, prefixes as the sampler left
    them: the states' probabilities carry no gradient."""
    states = language.reach(table if sampler is None else sampler).sum(dim=1)
    a, b = (reference, table) if forward else (table, reference)
    p, q = a.log_softmax(-1), b.log_softmax(-1)
    return (states * (p.exp() * (p - q)).sum(dim=-1)).sum()


@LANGUAGES
def test_the_language_is_a_distribution_and_its_chain_rule_holds(language):
    table, reference = two_policies(language)
    assert language.probabilities(table).sum().item() == pytest.approx(1.0, abs=1e-12)
    assert language.reach(table).sum(dim=1)[0].item() == pytest.approx(1.0, abs=1e-12)
    by_state = (language.reach(table).sum(dim=1) * exact_kl(table, reference)).sum()
    assert by_state.item() == pytest.approx(reverse_kl(language, table, reference).item())
    assert by_state.dtype == torch.float64


@LANGUAGES
def test_values_on_whole_replies(language):
    """k1 and k3 are unbiased for the KL, k2 is not."""
    table, reference = two_policies(language)
    p, x = language.probabilities(table), log_ratio(language, table, reference).sum(dim=1)
    kl = reverse_kl(language, table, reference).item()
    assert (p * k1(x)).sum().item() == pytest.approx(kl, abs=1e-12)
    assert (p * k3(x)).sum().item() == pytest.approx(kl, abs=1e-12)
    assert abs((p * k2(x)).sum().item() - kl) > 0.05


@LANGUAGES
def test_gradients_as_a_loss_on_whole_replies(language):
    """k1: nothing in expectation. k2: the reverse KL's gradient. k3: the forward KL's."""
    table, reference = two_policies(language)
    p = language.probabilities(table)
    reverse = gradient(reverse_kl(language, table, reference), table)
    forward = gradient(forward_kl(language, table, reference), table)
    assert (reverse - forward).abs().max() > 0.05  # or the lines below could not tell them apart
    for estimator, expected in ((k1, torch.zeros_like(reverse)), (k2, reverse), (k3, forward)):
        x = log_ratio(language, table, reference).sum(dim=1)
        assert torch.allclose(gradient((p * estimator(x)).sum(), table), expected, atol=1e-12)


@LANGUAGES
def test_per_token_losses_hold_the_visited_states_fixed(language):
    """Summed over tokens, k2 and k3 as losses teach each next-token distribution and miss the
    part of the gradient that goes through which states come later."""
    table, reference = two_policies(language)
    p = language.probabilities(table)[:, None]
    for estimator, forward, whole in ((k2, False, reverse_kl), (k3, True, forward_kl)):
        x = log_ratio(language, table, reference)
        taught = gradient((p * estimator(x) * language.mask).sum(), table)
        held = gradient(held_kl(language, table, reference, forward), table)
        assert torch.allclose(taught, held, atol=1e-12)
        full = gradient(whole(language, table, reference), table)
        assert (taught - full).abs().max() > 0.02
    last = torch.tensor([len(prefix) == language.T - 1 for prefix in language.prefixes])
    x = log_ratio(language, table, reference)
    taught = gradient((p * k2(x) * language.mask).sum(), table)
    full = gradient(reverse_kl(language, table, reference), table)
    assert torch.allclose(taught[last], full[last], atol=1e-12)  # no state comes after the last


def test_on_a_single_token_there_is_nothing_to_miss():
    language = Language(3, 1)
    table, reference = two_policies(language)
    p = language.probabilities(table)[:, None]
    x = log_ratio(language, table, reference)
    assert torch.allclose(
        gradient((p * k2(x)).sum(), table),
        gradient(reverse_kl(language, table, reference), table),
        atol=1e-12,
    )


@LANGUAGES
def test_k1_in_the_reward_gives_the_reverse_kl_gradient(language):
    """The penalty as `token_rewards` lays it out, through the policy loss, without any score."""
    table, reference = two_policies(language)
    beta, p = 0.7, language.probabilities(table)[:, None]
    logprobs = language.logprobs(table)
    penalties = token_rewards(
        torch.zeros(len(p), dtype=torch.float64),
        log_ratio(language, table, reference),
        language.mask,
        beta,
    )
    to_go = penalties.flip(1).cumsum(1).flip(1)  # what a token can still change
    for advantages in (to_go, penalties.sum(dim=1, keepdim=True)):
        loss = clipped_policy_loss(logprobs, logprobs.detach(), advantages)
        taught = gradient((p * loss * language.mask).sum(), table)
        expected = beta * gradient(reverse_kl(language, table, reference), table)
        assert torch.allclose(taught, expected, atol=1e-12)
        logprobs = language.logprobs(table)  # a fresh graph


def test_k1_in_the_reward_and_k1_in_the_loss_are_not_the_same():
    """The penalty has to be detached: as a loss its expected gradient is zero."""
    language = Language(3, 2)
    table, reference = two_policies(language)
    x = log_ratio(language, table, reference)
    assert not token_rewards(torch.zeros(9), x, language.mask, 1.0).requires_grad
    p = language.probabilities(table)[:, None]
    as_a_loss = gradient((p * k1(x) * language.mask).sum(), table)
    assert as_a_loss.abs().max() < 1e-12


@LANGUAGES
def test_off_policy_a_kl_loss_needs_the_ratio(language):
    """Samples of an older policy: k2 alone no longer follows the reverse KL; weighted by the
    ratio of the whole reply, with the ratio held fixed, it does again."""
    table, reference = two_policies(language)
    old = table.detach() + language.table(seed=3, scale=0.5)
    p_old = language.probabilities(old)
    reverse = gradient(reverse_kl(language, table, reference), table)
    x = log_ratio(language, table, reference).sum(dim=1)
    bare = gradient((p_old * k2(x)).sum(), table)
    x = log_ratio(language, table, reference).sum(dim=1)
    ratio = (language.logprobs(table) - language.logprobs(old)).sum(dim=1).exp().detach()
    weighted = gradient((p_old * ratio * k2(x)).sum(), table)
    assert torch.allclose(weighted, reverse, atol=1e-12)
    assert (bare - reverse).abs().max() > 0.02


def an_older(language, table, away=0.5):
    return table.detach() + language.table(seed=3, scale=away)


def corrected(language, table, reference, old, kind="clip"):
    """`use_bias_correction_kl`: k3 of each token times the ratio of a kind, summed over a reply and
    averaged over the replies of the older policy, which is where samples come from."""
    logprobs = language.logprobs(table)
    ratio = policy_ratio(kind, logprobs, language.logprobs(old), language.mask)
    terms = ratio * k3(logprobs - language.logprobs(reference)) * language.mask
    return (language.probabilities(old)[:, None] * terms).sum()


def uncorrected(language, table, reference, old):
    terms = k3(language.logprobs(table) - language.logprobs(reference)) * language.mask
    return (language.probabilities(old)[:, None] * terms).sum()


@LANGUAGES
def test_with_its_tokens_ratio_k3_has_the_reverse_kls_gradient_whoever_sampled(language):
    """At the prefixes that the sampler visits, which are held. Without the ratio it has another,
    and its mean is not even the KL there."""
    table, reference = two_policies(language)
    old = an_older(language, table)
    wanted = held_kl(language, table, reference, sampler=old)
    loss, bare = (f(language, table, reference, old) for f in (corrected, uncorrected))
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-12)
    assert abs(bare.item() - wanted.item()) > 0.02
    wanted = gradient(wanted, table)
    assert torch.allclose(gradient(loss, table), wanted, atol=1e-12)
    assert (gradient(bare, table) - wanted).abs().max() > 0.02


@LANGUAGES
def test_at_the_first_update_the_ratio_changes_the_gradient_and_not_the_loss(language):
    table, reference = two_policies(language)
    old = table.detach()
    loss, bare = (f(language, table, reference, old) for f in (corrected, uncorrected))
    assert loss.item() == pytest.approx(bare.item(), abs=1e-12)
    reverse, forward = (
        gradient(held_kl(language, table, reference, forward), table) for forward in (False, True)
    )
    assert torch.allclose(gradient(loss, table), reverse, atol=1e-12)
    assert torch.allclose(gradient(bare, table), forward, atol=1e-12)
    assert (reverse - forward).abs().max() > 0.02


@LANGUAGES
def test_with_the_ratio_of_whole_replies_the_tokens_k3_have_the_whole_kls_gradient(language):
    """Prefixes included. The geometric mean of a reply's ratios does not have this property."""
    table, reference = two_policies(language)
    old = an_older(language, table)
    kl = reverse_kl(language, table, reference)
    loss = corrected(language, table, reference, old, "rloo")
    assert loss.item() == pytest.approx(kl.item(), abs=1e-12)
    whole = gradient(kl, table)
    assert torch.allclose(gradient(loss, table), whole, atol=1e-12)
    for kind in ("clip", "gspo"):
        other = gradient(corrected(language, table, reference, old, kind), table)
        assert (other - whole).abs().max() > 0.02


def test_on_a_single_token_every_ratio_gives_the_kls_gradient():
    language = Language(3, 1)
    table, reference = two_policies(language)
    old = an_older(language, table, away=2.0)
    whole = gradient(reverse_kl(language, table, reference), table)
    for kind in SURROGATES:
        taught = gradient(corrected(language, table, reference, old, kind), table)
        assert torch.allclose(taught, whole, atol=1e-12)
    bare = gradient(uncorrected(language, table, reference, old), table)
    assert (bare - whole).norm() > 0.1 * whole.norm()


def test_which_mean_a_kl_loss_takes_is_part_of_its_weight():
    """`aggregate` over tokens or sequences: the same k3, other weights where lengths differ."""
    language = Language(3, 3, end=0)
    table, reference = two_policies(language)
    per_token = k3(log_ratio(language, table, reference).detach())
    lengths = language.mask.sum(dim=1)
    by_hand = ((per_token * language.mask).sum(dim=1) / lengths).mean()
    assert aggregate(per_token, language.mask, "sequences").item() == pytest.approx(
        by_hand.item(), abs=1e-12
    )
    by_hand = (per_token * language.mask).sum() / lengths.sum()
    assert aggregate(per_token, language.mask, "tokens").item() == pytest.approx(
        by_hand.item(), abs=1e-12
    )
