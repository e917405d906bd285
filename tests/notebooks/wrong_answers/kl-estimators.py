"""Plausible wrong answers to the exercises of kl-estimators; the checks must refuse each."""

from __future__ import annotations

import math

import torch

# --- drift ----------------------------------------------------------------------------------------


def mean_per_token(logprobs, ref_logprobs, mask):
    per_reply = ((logprobs - ref_logprobs) * mask).sum(dim=1) / mask.sum(dim=1)
    return per_reply.mean(), per_reply.std() / math.sqrt(len(per_reply))


def padding_counted(logprobs, ref_logprobs, mask):
    per_reply = (logprobs - ref_logprobs).sum(dim=1)
    return per_reply.mean(), per_reply.std() / math.sqrt(len(per_reply))


def tokens_as_samples(logprobs, ref_logprobs, mask):
    per_token = (logprobs - ref_logprobs)[mask.bool()]
    count = len(per_token)
    return per_token.sum() / len(mask), per_token.std() * math.sqrt(count) / len(mask)


def deviation_not_error(logprobs, ref_logprobs, mask):
    per_reply = ((logprobs - ref_logprobs) * mask).sum(dim=1)
    return per_reply.mean(), per_reply.std()


def negative_cut_off(logprobs, ref_logprobs, mask):
    per_reply = ((logprobs - ref_logprobs) * mask).sum(dim=1).clamp(min=0)
    return per_reply.mean(), per_reply.std() / math.sqrt(len(per_reply))


# --- repaired_k3 ----------------------------------------------------------------------------------


def shortened_only(logprobs, ref_logprobs):
    log_ratio = logprobs - ref_logprobs
    return torch.expm1(log_ratio) - log_ratio


def exponent_turned_only(logprobs, ref_logprobs):
    log_ratio = logprobs - ref_logprobs
    return torch.expm1(-log_ratio) - log_ratio


def the_square(logprobs, ref_logprobs):
    return (logprobs - ref_logprobs) ** 2 / 2


def without_expm1(logprobs, ref_logprobs):
    log_ratio = logprobs - ref_logprobs
    return torch.exp(-log_ratio) - 1 + log_ratio


def log_of_exp(logprobs, ref_logprobs):
    ratio = torch.exp(ref_logprobs - logprobs)
    return ratio - 1 - torch.log(ratio)


def cut_at_zero(logprobs, ref_logprobs):
    return (logprobs - ref_logprobs).clamp(min=0)


# --- best_multiple --------------------------------------------------------------------------------


def always_once(policy, reference):
    return 1.0


def upside_down(policy, reference):
    lr = (policy / reference).log()
    return ((reference**2 / policy).sum() - 1) / ((policy * lr).sum() - (reference * lr).sum())


def one_kl_only(policy, reference):
    return (policy * (policy / reference).log()).sum() / ((reference**2 / policy).sum() - 1)


def other_chi_squared(policy, reference):
    lr = (policy / reference).log()
    return ((policy * lr).sum() - (reference * lr).sum()) / ((policy**2 / reference).sum() - 1)


# --- kl_surrogate ---------------------------------------------------------------------------------


def k1_in_the_loss(logprobs, old_logprobs, ref_logprobs):
    return logprobs - ref_logprobs


def k2_without_the_ratio(logprobs, old_logprobs, ref_logprobs):
    return (logprobs - ref_logprobs) ** 2 / 2


def k3_without_the_ratio(logprobs, old_logprobs, ref_logprobs):
    return torch.expm1(ref_logprobs - logprobs) + logprobs - ref_logprobs


def k2_with_its_ratio_differentiated(logprobs, old_logprobs, ref_logprobs):
    return torch.exp(logprobs - old_logprobs) * (logprobs - ref_logprobs) ** 2 / 2


def k3_with_its_ratio_detached(logprobs, old_logprobs, ref_logprobs):
    k3 = torch.expm1(ref_logprobs - logprobs) + logprobs - ref_logprobs
    return torch.exp(logprobs - old_logprobs).detach() * k3


def k1_with_its_ratio_detached(logprobs, old_logprobs, ref_logprobs):
    return torch.exp(logprobs - old_logprobs).detach() * (logprobs - ref_logprobs)


# --- charges --------------------------------------------------------------------------------------


def so_far(log_ratio, mask):
    return (log_ratio * mask).cumsum(dim=1)


def to_go_with_padding(log_ratio, mask):
    return log_ratio.flip(1).cumsum(dim=1).flip(1)


def mean_of_the_rest(log_ratio, mask):
    own, left = log_ratio * mask, mask.flip(1).cumsum(dim=1).flip(1)
    return own.flip(1).cumsum(dim=1).flip(1) / left.clamp(min=1)


def later_tokens_only(log_ratio, mask):
    own = log_ratio * mask
    return own.flip(1).cumsum(dim=1).flip(1) - own


WRONG = {
    "drift": [
        mean_per_token,
        padding_counted,
        tokens_as_samples,
        deviation_not_error,
        negative_cut_off,
    ],
    "repaired_k3": [
        shortened_only,
        exponent_turned_only,
        the_square,
        without_expm1,
        log_of_exp,
        cut_at_zero,
    ],
    "best_multiple": [always_once, upside_down, one_kl_only, other_chi_squared],
    "kl_surrogate": [
        k1_in_the_loss,
        k2_without_the_ratio,
        k3_without_the_ratio,
        k2_with_its_ratio_differentiated,
        k3_with_its_ratio_detached,
        k1_with_its_ratio_detached,
    ],
    "charges": [so_far, to_go_with_padding, mean_of_the_rest, later_tokens_only],
}
