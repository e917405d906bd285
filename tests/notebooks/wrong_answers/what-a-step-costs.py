"""Plausible wrong answers to the exercises of what-a-step-costs; the checks must refuse each."""

from __future__ import annotations

import math

import torch

from rlhf_lib.machinery.memory import kv_cache_bytes, parameter_count


def moved(config, B, context, b):
    positions = config.n_positions * config.n_embd
    cache = kv_cache_bytes(config, B, 1, b) * (context + 1)
    return (parameter_count(config) - positions) * b + cache + 2 * B * config.vocab_size * b


def flops(config, context):
    d, layers = config.n_embd, config.n_layer
    return 2 * (layers * 12 * d * d + config.vocab_size * d) + 4 * layers * d * context


# --- rows_to_the_roof -----------------------------------------------------------------------------


def cache_forgotten(config, context, b, bandwidth, rate):
    weights = parameter_count(config) - config.n_positions * config.n_embd
    return math.ceil(weights * b / bandwidth / (flops(config, context) / rate))


def first_row(config, context, b, bandwidth, rate):
    by_bytes = moved(config, 1, context, b) / bandwidth
    return math.ceil(by_bytes / (flops(config, context) / rate))


def roof_without_end(config, context, b, bandwidth, rate):
    row = moved(config, 2, context, b) - moved(config, 1, context, b)
    weights = moved(config, 1, context, b) - row
    return math.ceil(weights / bandwidth / (flops(config, context) / rate - row / bandwidth))


def rounded_down(config, context, b, bandwidth, rate):
    row = moved(config, 2, context, b) - moved(config, 1, context, b)
    weights = moved(config, 1, context, b) - row
    steeper = flops(config, context) / rate - row / bandwidth
    return int(weights / bandwidth / steeper) if steeper > 0 else None


# --- largest_batch --------------------------------------------------------------------------------


def weights_forgotten(config, memory, tokens, b):
    return memory // (kv_cache_bytes(config, 1, tokens, b) + config.vocab_size * (b + 8))


def tables_in_16_bits(config, memory, tokens, b):
    row = kv_cache_bytes(config, 1, tokens, b) + 3 * config.vocab_size * b
    return max(0, (memory - parameter_count(config) * b) // row)


def less_than_no_rows(config, memory, tokens, b):
    row = kv_cache_bytes(config, 1, tokens, b) + config.vocab_size * (b + 8)
    return (memory - parameter_count(config) * b) // row


def one_table_forgotten(config, memory, tokens, b):
    row = kv_cache_bytes(config, 1, tokens, b) + config.vocab_size * (b + 4)
    return max(0, (memory - parameter_count(config) * b) // row)


def one_too_few(config, memory, tokens, b):
    row = kv_cache_bytes(config, 1, tokens, b) + config.vocab_size * (b + 8)
    return max(0, (memory - parameter_count(config) * b - 1) // row)


# --- repaired_accumulation ------------------------------------------------------------------------


def mean_of_means(losses, mask, size):
    pieces = list(zip(losses.split(size), mask.split(size)))
    for loss, real in pieces:
        ((loss * real).sum() / real.sum() / len(pieces)).backward(retain_graph=True)


def share_of_rows(losses, mask, size):
    for loss, real in zip(losses.split(size), mask.split(size)):
        part = (loss * real).sum() / real.sum() * len(loss) / len(losses)
        part.backward(retain_graph=True)


def padding_in_the_share(losses, mask, size):
    for loss, real in zip(losses.split(size), mask.split(size)):
        ((loss * real).sum() / mask.numel()).backward(retain_graph=True)


# --- repaired_descent -----------------------------------------------------------------------------


def rounded_every_step(start, gradient, rate, steps):
    weights = start
    for _ in range(steps):
        weights = (weights.float() - rate * gradient(weights).float()).bfloat16()
    return weights


def gradient_of_the_start(start, gradient, rate, steps):
    return (start.float() - rate * steps * gradient(start).float()).bfloat16()


def float32_returned(start, gradient, rate, steps):
    master = start.float()
    for _ in range(steps):
        master = master - rate * gradient(master.bfloat16()).float()
    return master


def sum_in_bfloat16(start, gradient, rate, steps):
    total = torch.zeros_like(start)
    for _ in range(steps):
        total = total - rate * gradient(start + total)
    return start + total


def rate_in_bfloat16(start, gradient, rate, steps):
    master = start.float()
    for _ in range(steps):
        master = master - rate * gradient(master.bfloat16())
    return master.bfloat16()


# --- run_bytes ------------------------------------------------------------------------------------


def four_times_the_weights(trained, frozen, adapters=None):
    return 2 * (sum(trained) + sum(frozen)) + 2 * (adapters or 0) * len(trained)


def no_32_bit_copy(trained, frozen, adapters=None):
    if adapters is None:
        return 12 * sum(trained) + 2 * sum(frozen)
    return 2 * (sum(trained) + sum(frozen)) + 12 * adapters * len(trained)


def one_adapter_for_all(trained, frozen, adapters=None):
    if adapters is None:
        return 16 * sum(trained) + 2 * sum(frozen)
    return 2 * (sum(trained) + sum(frozen)) + 16 * adapters


def base_weights_forgotten(trained, frozen, adapters=None):
    if adapters is None:
        return 16 * sum(trained) + 2 * sum(frozen)
    return 2 * sum(frozen) + 16 * adapters * len(trained)


WRONG = {
    "rows_to_the_roof": [cache_forgotten, first_row, roof_without_end, rounded_down],
    "largest_batch": [
        weights_forgotten,
        tables_in_16_bits,
        less_than_no_rows,
        one_too_few,
        one_table_forgotten,
    ],
    "repaired_accumulation": [mean_of_means, share_of_rows, padding_in_the_share],
    "repaired_descent": [
        rounded_every_step,
        gradient_of_the_start,
        float32_returned,
        sum_in_bfloat16,
        rate_in_bfloat16,
    ],
    "run_bytes": [
        four_times_the_weights,
        no_32_bit_copy,
        one_adapter_for_all,
        base_weights_forgotten,
    ],
}
