"""Best of n and rejection sampling: which sample belongs to which row, and which one is kept."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset

from rlhf_lib.algorithms.best_of_n import (
    BestOfN,
    RejectionSampling,
    RejectionSamplingConfig,
    best_of_n,
)
from rlhf_lib.mathematics.advantages import masked_mean
from rlhf_lib.models.rollout import sample
from rlhf_lib.models.tokens import encode, token_logprobs
from rlhf_lib.worlds.reward_sources import VerifiableReward
from rlhf_lib.worlds.tables import rows_of_step
from tests.unit.small import RAGGED, count_words, hasty, reward_model, tokenizer, weights

PROMPTS = [f"write to {name}. {rest}" for name in ("ben", "anna", "emma") for rest in RAGGED]
NUMBERS = list(range(12))


def number(prompts, completions, number):
    """Tells prompt, completion and column apart, all in one number."""
    return [
        PROMPTS.index(p) + 100 * k + 10_000 * len(c)
        for p, c, k in zip(prompts, completions, number, strict=True)
    ]


def choose(reward=count_words, prompts=PROMPTS, n=5, seed=0, **settings):
    settings = {"max_new_tokens": 7, "missing_eos_penalty": 0.25, **settings}
    generator = torch.Generator().manual_seed(seed)
    return best_of_n(hasty(), tokenizer(), prompts, reward, n, generator=generator, **settings)


@pytest.mark.parametrize("n, batch_size", [(5, 7), (3, 64), (1, 5), (8, 1), (2, 24)])
def test_each_sample_is_scored_with_its_own_row_in_whatever_batches(n, batch_size):
    found = choose(number, n=n, batch_size=batch_size, columns={"number": NUMBERS})
    assert found.scores.shape == found.finished.shape == (12, n)
    for p, row in enumerate(found.samples):
        raw = [p + 100 * p + 10_000 * len(text) for text in row]
        assert (found.scores[p] + 0.25 * ~found.finished[p]).tolist() == raw
    assert 0 < found.finished.float().mean() < 1 or batch_size == 1


def test_beyond_256_completions_a_verifier_gets_its_own_answers():
    asked = []

    def right(prompt, completion, answer):
        asked.append((prompt, answer))
        return prompt == answer

    prompts = [f"{PROMPTS[i % 12]} {'again ' * (i // 12)}".strip() for i in range(100)]
    found = choose(
        VerifiableReward(right, columns=("answer",)),
        prompts,
        n=3,
        max_new_tokens=1,
        missing_eos_penalty=0.0,
        columns={"answer": prompts},
    )
    assert asked == [(prompt, prompt) for prompt in prompts for _ in range(3)]
    assert found.scores.tolist() == [[1.0] * 3] * 100


def test_the_samples_are_those_of_the_settings():
    prompts = [prompt for prompt in PROMPTS for _ in range(2)]
    settings = dict(max_new_tokens=9, temperature=0.7)
    generator = torch.Generator().manual_seed(4)
    found = choose(n=2, seed=4, **settings)
    rollout = sample(hasty(), tokenizer(), prompts, generator=generator, **settings)
    assert [text for row in found.samples for text in row] == rollout.completions
    assert found.finished.flatten().tolist() == rollout.finished.tolist()
    assert choose(n=2, seed=4, **settings).samples == found.samples
    assert choose(n=2, seed=5, **settings).samples != found.samples
    assert choose(n=2, seed=4, max_new_tokens=9).samples != found.samples
    low = choose(n=2, seed=4, dtype=torch.bfloat16, max_new_tokens=9, temperature=0.7)
    expected = sample(
        hasty(),
        tokenizer(),
        prompts,
        generator=torch.Generator().manual_seed(4),
        dtype=torch.bfloat16,
        **settings,
    )
    assert [text for row in low.samples for text in row] == expected.completions


def test_the_best_is_the_first_of_the_highest():
    scores = [3, 5, 5, 1, 2, 2, -1, -1, -1]
    found = choose(lambda **columns: scores, PROMPTS[:3], n=3, missing_eos_penalty=0.0)
    assert found.best.tolist() == [1, 1, 0] and found.prompts == PROMPTS[:3]
    assert found.completions == [found.samples[0][1], found.samples[1][1], found.samples[2][0]]
    assert found.scores.tolist() == [[3, 5, 5], [1, 2, 2], [-1, -1, -1]]


def test_a_completion_that_was_cut_off_may_lose_by_the_penalty():
    plain = choose(lambda completions, **columns: [0.0] * len(completions), missing_eos_penalty=2.0)
    for p in range(12):
        ended = plain.finished[p].tolist()
        assert plain.best[p] == (ended.index(True) if any(ended) else 0)
        assert plain.scores[p].tolist() == [0.0 if end else -2.0 for end in ended]
    assert len(set(plain.best.tolist())) > 1


def test_another_reward_of_every_sample_meets_its_own_prompt():
    found = choose(n=3)

    def both(prompts, completions):
        return [PROMPTS.index(p) + 100 * len(c) for p, c in zip(prompts, completions, strict=True)]

    expected = [[p + 100 * len(text) for text in row] for p, row in enumerate(found.samples)]
    assert found.score_all(both).tolist() == expected
    assert found.score_all(lambda **columns: [None] * 36).isnan().all()


def test_a_sample_without_a_reward_is_an_average_one():
    scores = [None, 1.0, 3.0, 0.1, None, 0.1, None, None, None]
    with pytest.warns(RuntimeWarning, match="no reward applies to some completions"):
        found = choose(lambda **columns: scores, PROMPTS[:3], n=3, missing_eos_penalty=0.0)
    expected = [[2.0, 1.0, 3.0], [0.1] * 3, [4.2 / 4] * 3]
    assert torch.allclose(found.scores, torch.tensor(expected))
    assert found.scores[1].unique().numel() == 1 and found.best.tolist() == [2, 0, 0]


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(n=0), "n is 0 and batch_size 256; expected at least 1 of each"),
        (dict(batch_size=0), "n is 5 and batch_size 0; expected at least 1 of each"),
        (dict(prompts=[]), "prompts is empty; expected at least one prompt"),
        (dict(columns={"a": [1] * 12, "b": [1] * 11}), "column 'b' has 11 entries; expected 12"),
        (dict(columns={"b": [1] * 13}), "column 'b' has 13 entries; expected 12"),
        (dict(reward=reward_model()), "reward is a GPT2ForSequenceClassification; expected"),
    ],
)
def test_what_cannot_be_chosen_from_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        choose(**settings)


# ---------------------------------------------------------------------------------- imitating

DATA = Dataset.from_dict({"prompt": PROMPTS, "number": NUMBERS})
SMALL = dict(
    max_steps=3,
    batch_size=4,
    num_generations=5,
    mini_batch_size=3,
    max_new_tokens=7,
    learning_rate=1e-3,
)


def rejection(reward=count_words, dataset=DATA, **settings):
    config = RejectionSamplingConfig(**{**SMALL, **settings})
    return RejectionSampling(hasty(), tokenizer(), reward, dataset, config)


def chosen(scores, finished):
    scores, finished = torch.tensor(scores), torch.tensor(finished)
    samples = [[f"reply {p} {j}." for j in range(scores.shape[1])] for p in range(len(scores))]
    best = scores.argmax(dim=1)
    texts = [row[j] for row, j in zip(samples, best.tolist())]
    return BestOfN(PROMPTS[: len(scores)], texts, best, scores, finished, samples)


SCORES = [[1.0, 2.0, 2.0], [5.0, 4.0, 4.0], [9.0, 9.0, 9.0], [-3.0, -2.0, -1.0]]
FINISHED = [[True, True, True], [False, True, True], [False] * 3, [True, False, False]]


def test_the_best_that_ended_is_kept_and_nothing_where_none_did():
    kept = rejection().keep(chosen(SCORES, FINISHED))
    assert kept.int().tolist() == [[0, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    "threshold, expected",
    [
        (2.0, [[0, 0, 0], [0, 1, 1], [0, 0, 0], [0, 0, 0]]),  # above it, not at it
        (1.9, [[0, 1, 1], [0, 1, 1], [0, 0, 0], [0, 0, 0]]),
        (-4.0, [[1, 1, 1], [0, 1, 1], [0, 0, 0], [1, 0, 0]]),
        (0.0, [[1, 1, 1], [0, 1, 1], [0, 0, 0], [0, 0, 0]]),
    ],
)
def test_with_a_threshold_all_above_it_that_ended_are_kept(threshold, expected):
    kept = rejection(threshold=threshold).keep(chosen(SCORES, FINISHED))
    assert kept.int().tolist() == expected


@pytest.mark.parametrize("epochs", [1, 3])
def test_every_pass_sees_all_that_was_kept_once_in_another_order(epochs, monkeypatch):
    loop, seen = rejection(num_train_epochs=epochs, threshold=-4.0), []
    monkeypatch.setattr(loop, "update", lambda kept: seen.append(kept) or len(seen))
    record = loop.learn(chosen(SCORES, FINISHED))
    assert [len(batch) for batch in seen] == [3, 3] * epochs
    pairs = [(PROMPTS[p], f"reply {p} {j}.") for p in range(4) for j in range(3)]
    keep = [pairs[i] for i in (0, 1, 2, 4, 5, 9)]
    passes = [seen[i] + seen[i + 1] for i in range(0, len(seen), 2)]
    assert all(sorted(one) == sorted(keep) for one in passes)
    assert len({tuple(one) for one in passes}) == epochs
    assert record == {
        "reward": pytest.approx(sum(map(sum, SCORES)) / 12),
        "best_reward": pytest.approx((2 + 5 + 9 - 1) / 4),
        "kept": 6,
        "loss": sum(range(1, 2 * epochs + 1)) / (2 * epochs),
        "finished": pytest.approx(6 / 12),
        "distinct": 1.0,
    }
    assert loop.chosen.samples[3][2] == "reply 3 2."


def test_distinct_is_a_share_of_all_samples():
    found = chosen([[1.0, 1.0], [1.0, 1.0]], [[False] * 2] * 2)
    found.samples = [["a", "b"], ["b", "b"]]
    record = rejection().learn(found)
    assert record["distinct"] == 0.5 and record["loss"] == 0 and record["kept"] == 0


def test_a_round_takes_the_next_prompts_with_their_columns_and_its_settings(monkeypatch):
    loop = rejection(
        number, temperature=0.8, missing_eos_penalty=0.5, threshold=1e9, num_generations=2
    )
    for step in range(3):
        rows = rows_of_step(12, 4, step, seed=0)
        state = loop.sampler.get_state()
        loop.step()
        found = loop.chosen
        assert found.prompts == [PROMPTS[i] for i in rows]
        again = torch.Generator()
        again.set_state(state)
        rollout = sample(
            hasty(), tokenizer(), [p for p in found.prompts for _ in range(2)], 7, 0.8, again
        )
        assert [text for row in found.samples for text in row] == rollout.completions
        expected = [
            i + 100 * i + 10_000 * len(text) for i, row in zip(rows, found.samples) for text in row
        ]
        assert (found.scores + 0.5 * ~found.finished).flatten().tolist() == expected
    assert torch.equal(weights(loop.policy), weights(hasty()))  # nothing was kept


@pytest.mark.parametrize("dtype", [torch.bfloat16, None])
def test_a_round_samples_in_the_precision_of_its_machine(dtype, monkeypatch):
    loop, asked = rejection(), []
    loop.chosen = "an earlier round"  # so that this one is sampled, and not proven first
    monkeypatch.setattr(
        "rlhf_lib.algorithms.best_of_n.sample",
        lambda *given, dtype: asked.append(dtype) or sample(*given, dtype=dtype),
    )
    monkeypatch.setattr(loop.machine, "sampling_dtype", dtype)
    loop.collect()
    assert asked == [dtype]


def test_one_update_is_of_the_replies_to_their_own_prompts():
    """The loss is that of the pairs, whatever else is in the batch."""
    pairs = [(RAGGED[i], f"reply {i}." if i % 2 else "hello ben, thank you.") for i in range(4)]
    found = rejection().update(pairs)
    batch = encode(tokenizer(), [p for p, _ in pairs], [c for _, c in pairs])
    expected = masked_mean(-token_logprobs(hasty(), batch), batch.completion_mask)
    assert found == pytest.approx(expected.item(), abs=1e-5)


def test_several_rewards_and_no_model_as_one():
    loop = rejection([count_words, number])
    loop.step()
    assert list(loop.reward.parts) == ["count_words", "number"]
    with pytest.raises(ValueError, match="reward is a GPT2ForSequenceClassification"):
        rejection(reward_model())


@pytest.mark.parametrize(
    "setting",
    ["num_generations", "num_train_epochs", "mini_batch_size", "max_new_tokens", "temperature"],
)
def test_a_setting_that_is_no_count_is_refused(setting):
    with pytest.raises(ValueError, match=f"{setting} is 0"):
        RejectionSamplingConfig(**{setting: 0})
