"""Plausible wrong answers to the exercises of gpt2-on-a-gpu; the checks must refuse each."""

from __future__ import annotations

import torch

from rlhf_lib.machinery.memory import kv_cache_bytes, parameter_count


def moved(config, B, context, b):
    positions = config.n_positions * config.n_embd
    cache = kv_cache_bytes(config, B, 1, b) * (context + 1)
    return (parameter_count(config) - positions) * b + cache + 2 * B * config.vocab_size * b


def flops(config, context):
    d, layers = config.n_embd, config.n_layer
    return 2 * (layers * 12 * d * d + config.vocab_size * d) + 4 * layers * d * context


# --- decode_bound ---------------------------------------------------------------------------------


def one_after_the_other(config, B, context, b, bandwidth, rate):
    return moved(config, B, context, b) / bandwidth + B * flops(config, context) / rate


def bytes_alone(config, B, context, b, bandwidth, rate):
    return moved(config, B, context, b) / bandwidth


def flops_of_one_row(config, B, context, b, bandwidth, rate):
    return max(moved(config, B, context, b) / bandwidth, flops(config, context) / rate)


def weights_for_each_row(config, B, context, b, bandwidth, rate):
    return max(B * moved(config, 1, context, b) / bandwidth, B * flops(config, context) / rate)


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


# --- rows_through_the_model -----------------------------------------------------------------------


def only_those_going(lengths, keep):
    return sum(length - 1 for length in lengths)


def nobody_leaves(lengths, keep):
    return len(lengths) * (max(lengths) - 1)


def cut_below_and_not_at(lengths, keep):
    cached, total = len(lengths), 0
    for written in range(1, max(lengths)):
        going = sum(length > written for length in lengths)
        if going < keep * cached:
            cached = going
        total += cached
    return total


def cut_one_step_late(lengths, keep):
    cached, total = len(lengths), 0
    for written in range(1, max(lengths)):
        total += cached
        going = sum(length > written for length in lengths)
        if going <= keep * cached:
            cached = going
    return total


def share_of_the_first_batch(lengths, keep):
    cached, total = len(lengths), 0
    for written in range(1, max(lengths)):
        going = sum(length > written for length in lengths)
        if going <= keep * len(lengths):
            cached = going
        total += cached
    return total


WRONG = {
    "decode_bound": [one_after_the_other, bytes_alone, flops_of_one_row, weights_for_each_row],
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
    "rows_through_the_model": [
        only_those_going,
        nobody_leaves,
        cut_below_and_not_at,
        cut_one_step_late,
        share_of_the_first_batch,
    ],
}
