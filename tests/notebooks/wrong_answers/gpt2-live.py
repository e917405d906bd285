"""Plausible wrong answers to the exercises of gpt2-live; the checks must refuse each."""

from __future__ import annotations

# --- share_out ------------------------------------------------------------------------------------


def counted_k_times(weight, k, noise):
    per_input = noise.view(len(weight), k, -1)
    centred = per_input - per_input.mean(dim=1, keepdim=True)
    return weight.repeat_interleave(k, dim=0) + centred.view_as(noise)


def noise_that_stays(weight, k, noise):
    return weight.repeat_interleave(k, dim=0) / k + noise


def without_noise(weight, k, noise):
    return weight.repeat_interleave(k, dim=0) / k


def centred_over_everything(weight, k, noise):
    return weight.repeat_interleave(k, dim=0) / k + noise - noise.mean(dim=0)


def copies_in_another_order(weight, k, noise):
    per_copy = noise.view(k, len(weight), -1)
    centred = per_copy - per_copy.mean(dim=0, keepdim=True)
    return weight.repeat(k, 1) / k + centred.view_as(noise)


# --- constant_row ---------------------------------------------------------------------------------


def without_the_bias(w, b, logit):
    return logit / len(w) / w


def along_the_bias(w, b, logit):
    return logit * b / (b * b).sum()


def not_scaled(w, b, logit):
    return logit / w


def of_the_mean(w, b, logit):
    return logit / (b / w).mean() / w


WRONG = {
    "share_out": [
        counted_k_times,
        noise_that_stays,
        without_noise,
        centred_over_everything,
        copies_in_another_order,
    ],
    "constant_row": [without_the_bias, along_the_bias, not_scaled, of_the_mean],
}
