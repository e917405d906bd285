"""What each way of distilling descends, by enumeration: expected updates against gradients.

A student and a teacher are tables on a small language. `expected` is the update that a method takes
on average, as a gradient of −A log π with the completions of its writer; the objectives are
differentiated directly.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from benchmarks.distillation_sums import SMALL, TO_GO
from rlhf_lib.algorithms.grpo import advantages_of
from rlhf_lib.mathematics.advantages import masked_mean, masked_whiten, returns_to_go
from rlhf_lib.mathematics.kl import exact_kl
from rlhf_lib.mathematics.losses import reinforce_loss
from tests.exact.tabular import Language, gradient

LANGUAGES = pytest.mark.parametrize(
    "language",
    [Language(2, 3), Language(3, 3), Language(3, 3, end=0)],
    ids=["V=2,T=3", "V=3,T=3", "V=3,T=3 with an end token"],
)


def student_and_teacher(language):
    return language.table(seed=1, scale=1.5).requires_grad_(), language.table(seed=2, scale=1.5)


def expected(language, table, writer, advantages):
    """The gradient of −A log π, summed over a completion's tokens and averaged over the writer's
    completions."""
    loss = reinforce_loss(language.logprobs(table), advantages) * language.mask
    return gradient((language.probabilities(writer)[:, None] * loss).sum(), table)


def kl(language, one, other):
    """KL between whole completions."""
    p, q = (language.logprobs(table).sum(dim=1) for table in (one, other))
    return (p.exp() * (p - q)).sum()


def held_kl(language, table, teacher):
    """KL between next tokens at the prefixes that the student visits, how often held."""
    return (language.reach(table).sum(dim=1) * exact_kl(table, teacher)).sum()


def log_ratio_to_the_teacher(language, table, teacher):
    return (language.logprobs(teacher) - language.logprobs(table)).detach()


def tied(p: float, replies: torch.Tensor) -> torch.Tensor:
    """The probability of each reply from a student that ignores what it has written."""
    ones = replies.double()
    return (p**ones * (1 - p) ** (1 - ones)).prod(dim=1)


@LANGUAGES
def test_sft_on_the_teachers_samples_descends_the_forward_kl(language):
    table, teacher = student_and_teacher(language)
    taught = expected(language, table, teacher, torch.ones_like(language.mask.double()))
    forward, reverse = kl(language, teacher, table), kl(language, table, teacher)
    assert torch.allclose(taught, gradient(forward, table), atol=1e-12)
    assert (taught - gradient(reverse, table)).abs().max() > 0.05


@LANGUAGES
def test_with_what_is_still_to_come_on_policy_distillation_descends_the_reverse_kl(language):
    table, teacher = student_and_teacher(language)
    to_go = returns_to_go(log_ratio_to_the_teacher(language, table, teacher), language.mask)
    taught = expected(language, table, table, to_go)
    assert torch.allclose(taught, gradient(kl(language, table, teacher), table), atol=1e-12)


@LANGUAGES
def test_with_its_own_log_ratio_a_token_descends_the_reverse_kl_at_held_prefixes(language):
    table, teacher = student_and_teacher(language)
    own = log_ratio_to_the_teacher(language, table, teacher)
    taught = expected(language, table, table, own)
    assert torch.allclose(taught, gradient(held_kl(language, table, teacher), table), atol=1e-12)
    whole = gradient(kl(language, table, teacher), table)
    assert (taught - whole).abs().max() > 0.02
    last = torch.tensor([len(prefix) == language.T - 1 for prefix in language.prefixes])
    assert torch.allclose(taught[last], whole[last], atol=1e-12)  # nothing comes after them


@LANGUAGES
def test_a_constant_baseline_changes_neither_on_average(language):
    table, teacher = student_and_teacher(language)
    own = log_ratio_to_the_teacher(language, table, teacher)
    for advantages in (own, returns_to_go(own, language.mask)):
        taught = expected(language, table, table, advantages)
        shifted = expected(language, table, table, advantages + 1.7)
        assert torch.allclose(taught, shifted, atol=1e-12)


@LANGUAGES
def test_rejection_sampling_descends_minus_the_log_accuracy(language):
    table, _ = student_and_teacher(language)
    right = torch.tensor([float(sum(reply) % 2 == 0) for reply in language.replies]).double()
    accuracy = (language.logprobs(table).sum(dim=1).exp() * right).sum()
    assert 0.1 < accuracy < 0.9
    taught = expected(language, table, table, right[:, None] / accuracy.detach())
    assert torch.allclose(taught, gradient(-accuracy.log(), table), atol=1e-12)


def test_a_round_of_rejection_sampling_never_lowers_the_accuracy_of_the_smallest_student():
    """One probability p for all tokens. What fits the kept completions best is their share of ones:
    an M-step. It need not end at 1, as a table does that can hold any completion."""
    replies = Language(2, 3).ids
    right = (replies[:, 0] == replies[:, 2]) & (replies.sum(dim=1) > 0)

    def accuracy(p):
        return tied(p, replies)[right].sum().item()

    for p in (0.05, 0.3, 0.6, 0.9):
        for _ in range(5):
            kept = tied(p, replies) * right / accuracy(p)
            fitted = (kept @ replies.double().mean(dim=1)).item()
            assert accuracy(fitted) >= accuracy(p) - 1e-12
            p = fitted


def test_the_fixed_point_of_all_three_is_the_teacher_where_a_table_can_be_it():
    language = Language(3, 2)
    table, teacher = student_and_teacher(language)
    same = teacher.clone().requires_grad_()
    own = log_ratio_to_the_teacher(language, same, teacher)
    ones = torch.ones_like(language.mask.double())
    for writer, advantages in (
        (teacher, ones),
        (same, own),
        (same, returns_to_go(own, language.mask)),
    ):
        at_teacher = expected(language, same, writer, advantages)
        elsewhere = expected(language, table, teacher, ones)
        assert at_teacher.abs().max() < 1e-12 < elsewhere.abs().max()


def test_grpo_with_the_teacher_as_its_reference_has_these_advantages_whitened():
    """k1 in the reward, β = 1, and no reward: `TO_GO`, as the benchmark has it."""
    language = Language(3, 3, end=0)
    table, teacher = student_and_teacher(language)
    mask, scores = language.mask, torch.zeros(len(language.replies)).double()
    config = dataclasses.replace(SMALL, **TO_GO)
    to_teacher = log_ratio_to_the_teacher(language, table, teacher)
    found = advantages_of(config, scores, -to_teacher, mask, config.beta)
    to_go = returns_to_go(to_teacher, mask)
    assert torch.allclose(found, masked_whiten(to_go, mask), atol=1e-12)
    slope = (found[0, 0] - found[1, 0]) / (to_go[0, 0] - to_go[1, 0])
    shifted = to_go - masked_mean(to_go, mask)
    assert slope > 0 and torch.allclose(found, slope * shifted * mask, atol=1e-8)
