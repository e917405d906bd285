"""Plausible wrong answers to the exercises of gpt2-live; the checks must refuse each."""

from __future__ import annotations

import math

import torch


def share_out(weight, k, noise, draws):
    n, m = weight.shape
    drawn = noise * torch.randn(n, k, m, generator=draws)
    return (weight[:, None] / k + drawn - drawn.mean(dim=1, keepdim=True)).flatten(0, 1)


# --- share_out ------------------------------------------------------------------------------------


def noise_that_stays(weight, k, noise, draws):
    """Independent noise: the copies no longer add up to the weights."""
    n, m = weight.shape
    return (weight[:, None] / k + noise * torch.randn(n, k, m, generator=draws)).flatten(0, 1)


def other_sizes_only(weight, k, noise, draws):
    """Shares of other sizes that add up to 1: all copies point in one direction."""
    sizes = torch.randn(len(weight), k, 1, generator=draws)
    shares = 1 / k + noise * (sizes - sizes.mean(dim=1, keepdim=True))
    return (shares * weight[:, None]).flatten(0, 1)


def noise_over_outputs(weight, k, noise, draws):
    """The mean is taken over the outputs, and not over the copies."""
    n, m = weight.shape
    drawn = noise * torch.randn(n, k, m, generator=draws)
    drawn = drawn - drawn.mean(dim=2, keepdim=True)
    return (weight[:, None] / k + drawn).flatten(0, 1)


def whole_weights(weight, k, noise, draws):
    """Every copy carries all of the weight."""
    n, m = weight.shape
    drawn = noise * torch.randn(n, k, m, generator=draws)
    return (weight[:, None] + drawn - drawn.mean(dim=1, keepdim=True)).flatten(0, 1)


def copies_far_apart(weight, k, noise, draws):
    """The copies of all inputs one after the other, as `repeat` has them."""
    n, m = weight.shape
    drawn = noise * torch.randn(n, k, m, generator=draws)
    drawn = drawn - drawn.mean(dim=1, keepdim=True)
    return (weight[:, None] / k + drawn).transpose(0, 1).flatten(0, 1)


def not_flattened(weight, k, noise, draws):
    n, m = weight.shape
    drawn = noise * torch.randn(n, k, m, generator=draws)
    return weight[:, None] / k + drawn - drawn.mean(dim=1, keepdim=True)


def half_the_noise(weight, k, noise, draws):
    return share_out(weight, k, noise / 2, draws)


def noise_of_its_own(weight, k, noise, draws):
    """The generator is not used."""
    return share_out(weight, k, noise, None)


def two_copies_alone(weight, k, noise, draws):
    """Noise on the first copy, taken off the second."""
    n, m = weight.shape
    drawn = torch.zeros(n, k, m)
    drawn[:, 0] = noise * torch.randn(n, m, generator=draws)
    drawn[:, 1] = -drawn[:, 0]
    return (weight[:, None] / k + drawn).flatten(0, 1)


def one_noise_for_all(weight, k, noise, draws):
    """All inputs have the same noise."""
    n, m = weight.shape
    drawn = noise * torch.randn(1, k, m, generator=draws)
    drawn = drawn - drawn.mean(dim=1, keepdim=True)
    return (weight[:, None] / k + drawn).flatten(0, 1)


# --- constant_row ---------------------------------------------------------------------------------


def without_scale(w, b, logit):
    return logit / w


def without_bias(w, b, logit):
    return logit / w / len(w)


def along_w(w, b, logit):
    return logit * w / (w * b).sum()


# --- query_factor ---------------------------------------------------------------------------------


def by_the_sum(inside):
    return 1 / inside


def by_the_divisor(inside):
    return math.sqrt(inside)


def unchanged(inside):
    return 1.0


WRONG = {
    "share_out": [
        noise_that_stays,
        other_sizes_only,
        noise_over_outputs,
        whole_weights,
        copies_far_apart,
        not_flattened,
        half_the_noise,
        noise_of_its_own,
        two_copies_alone,
        one_noise_for_all,
    ],
    "constant_row": [without_scale, without_bias, along_w],
    "query_factor": [by_the_sum, by_the_divisor, unchanged],
}
