"""Held-out measurements: of which samples, at which temperature, in which rows."""

from __future__ import annotations

import math

import pytest
import torch

from rlhf_lib.families.growth import grow
from rlhf_lib.mathematics.kl import exact_kl
from rlhf_lib.models.rollout import sample
from rlhf_lib.models.tokens import completion_logits
from rlhf_lib.running import evaluation
from rlhf_lib.running.evaluation import evaluate
from tests.unit.small import RAGGED, count_words, hasty, policy, tokenizer

PROMPTS = [f"write to {name}. {rest}" for name in ("ben", "anna", "emma") for rest in RAGGED]


def sampled(prompts, batch_size, seed=0, **settings):
    """What `evaluate` is to sample: batch after batch, from one generator."""
    generator = torch.Generator().manual_seed(seed)
    return [
        sample(hasty(), tokenizer(), prompts[i : i + batch_size], generator=generator, **settings)
        for i in range(0, len(prompts), batch_size)
    ]


def prompt_length(prompts, completions, **columns):
    return [float(len(prompt)) + 1000 * len(text) for prompt, text in zip(prompts, completions)]


def test_a_sample_of_each_prompt_in_their_order_over_several_batches():
    rollouts = sampled(PROMPTS, 5, seed=3, max_new_tokens=7)
    texts = [text for rollout in rollouts for text in rollout.completions]
    found = evaluate(
        hasty(), tokenizer(), PROMPTS, {"a": prompt_length}, None, 7, seed=3, batch_size=5
    )
    assert found["completions"] == texts and found["prompts"] == PROMPTS
    assert found["values"]["a"] == prompt_length(PROMPTS, texts)
    lengths = [n for rollout in rollouts for n in rollout.lengths.tolist()]
    assert found["values"]["length"] == lengths and 1 < len(set(lengths)) and max(lengths) == 7
    assert found["length"] == pytest.approx(sum(lengths) / 12)
    assert "kl" not in found and "kl" not in found["values"]


def test_a_seed_gives_the_same_samples_and_another_seed_others():
    def run(seed):
        return evaluate(hasty(), tokenizer(), PROMPTS, {}, seed=seed, max_new_tokens=7)

    first, same, other = run(1), run(1), run(2)
    assert first == same and first["completions"] != other["completions"]


def test_standard_errors_by_hand():
    """Unbiased, and of the mean: √(Σ (x − x̄)² / (N − 1) / N)."""
    values = [1.0, 2.0, 4.0, 9.0]
    found = evaluate(
        policy(), tokenizer(), RAGGED, {"a": lambda **columns: values}, max_new_tokens=2
    )
    assert found["a"] == 4.0 and found["a_se"] == pytest.approx(math.sqrt((9 + 4 + 0 + 25) / 3 / 4))
    assert found["length_se"] == 0.0


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_both_models_are_read_at_the_temperature_of_the_samples(temperature):
    settings = dict(max_new_tokens=7, temperature=temperature)
    reference, expected = policy(1), []
    for rollout in sampled(PROMPTS, 5, **settings):
        for row in range(len(rollout)):
            n = int(rollout.lengths[row])
            per_token = exact_kl(
                completion_logits(hasty(), rollout, temperature)[row, :n],
                completion_logits(reference, rollout, temperature)[row, :n],
            )
            expected.append(per_token.sum().item())
    found = evaluate(hasty(), tokenizer(), PROMPTS, {}, reference, **settings, batch_size=5)
    assert found["values"]["kl"] == pytest.approx(expected, rel=1e-4)
    assert found["kl"] == pytest.approx(sum(expected) / 12, rel=1e-4)
    spread = torch.tensor(expected).std().item()
    assert found["kl_se"] == pytest.approx(spread / math.sqrt(12), rel=1e-3)


def test_each_reward_has_its_own_name():
    found = evaluate(
        hasty(),
        tokenizer(),
        PROMPTS,
        {"words": count_words, "twice": [count_words, count_words]},
        max_new_tokens=7,
    )
    words = count_words(PROMPTS, found["completions"])
    assert found["values"]["words"] == words
    assert found["values"]["twice"] == [2 * n for n in words]
    assert set(found) == {
        *("words", "words_se", "twice", "twice_se", "length", "length_se"),
        *("prompts", "completions", "values"),
    }


def test_a_reward_gets_the_tokens_of_its_rows():
    def tokens(prompts, completions, completion_ids):
        for text, ids in zip(completions, completion_ids):
            assert tokenizer().decode(ids, skip_special_tokens=True) == text
        return [len(ids) for ids in completion_ids]

    found = evaluate(
        hasty(), tokenizer(), PROMPTS, {"tokens": tokens}, max_new_tokens=7, batch_size=5
    )
    assert found["values"]["tokens"] == found["values"]["length"]


def test_a_reward_is_measured_where_it_applies():
    values = [1.0, None, 3.0, None]
    found = evaluate(
        policy(),
        tokenizer(),
        RAGGED,
        {"some": lambda **columns: values, "none": lambda **columns: [None] * 4},
        max_new_tokens=2,
    )
    assert found["some"] == 2.0 and found["values"]["some"] == values
    assert found["some_se"] == pytest.approx(math.sqrt(2 / 2))
    assert math.isnan(found["none"]) and math.isnan(found["none_se"])
    assert found["values"]["none"] == [None] * 4


def test_a_failing_reward_is_named():
    def failing(**columns):
        raise KeyError("price")

    with pytest.raises(RuntimeError, match="'failing' raised KeyError"):
        evaluate(policy(), tokenizer(), RAGGED, {"a": failing}, max_new_tokens=2)


@pytest.mark.parametrize("name", ["length", "kl", "prompts", "completions", "values", "kl_se"])
def test_a_reward_cannot_have_the_name_of_another_result(name):
    with pytest.raises(ValueError, match=f"rewards has the name '{name}', under which the result"):
        evaluate(policy(), tokenizer(), RAGGED, {"a": count_words, name: count_words})


def test_a_reward_cannot_have_the_name_of_the_error_of_another():
    rewards = {"a_se": count_words, "a": count_words}
    with pytest.raises(ValueError, match="rewards has the name 'a_se', under which"):
        evaluate(policy(), tokenizer(), RAGGED, rewards)
    alone = evaluate(policy(), tokenizer(), RAGGED, {"a_se": count_words}, max_new_tokens=2)
    assert {"a_se", "a_se_se"} <= set(alone) and "a" not in alone


def test_the_kl_in_small_parts_is_the_same(monkeypatch):
    def kl():
        return evaluate(hasty(), tokenizer(), PROMPTS, {}, policy(1), 9)["values"]["kl"]

    whole = kl()
    monkeypatch.setattr(evaluation, "MOST_LOGITS", 1)
    assert kl() == pytest.approx(whole, abs=1e-5)


def test_a_reference_may_have_a_smaller_vocabulary():
    """A model and what it has grown into say the same: their KL is 0, and that to others alike."""
    small, other = hasty(), policy(1)
    large = grow(small, n_embd=32, vocab_size=900)
    found = evaluate(large, tokenizer(), PROMPTS, {}, small, 9)
    assert found["kl"] == pytest.approx(0, abs=1e-5)
    (rollout,) = sampled(PROMPTS, 20, max_new_tokens=9)
    with torch.no_grad():
        large, small = (evaluation._kl(model, other, rollout, 1.0) for model in (large, small))
    assert small.min() > 0.1 and torch.allclose(large, small, atol=1e-4)
