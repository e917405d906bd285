"""Reward models and reward functions."""
import math

import pytest
import torch
from tests.unit.small import RAGGED, count_words, policy, reward_model, tokenizer

from rlhf_lib.policy import encode
from rlhf_lib.reward_model import load_reward_model, reward_scores, state_values, token_values
from rlhf_lib.reward_training import RewardConfig, RewardTraining, pair_accuracy, standardise
from rlhf_lib.rewards import LearnedReward, call_reward

REPLIES = ["ok.", "hello ben, thank you.", "no.", "hello ben, thank you for your help."]


def test_the_score_is_read_at_the_last_real_token():
    model, batch = reward_model(), encode(tokenizer(), RAGGED, REPLIES)
    every_token, scores = token_values(model, batch), reward_scores(model, batch)
    for i in range(len(RAGGED)):
        last = batch.prompt_ids.shape[1] + int(batch.completion_mask[i].sum()) - 1
        assert scores[i] == every_token[i, last]
        alone = reward_scores(model, encode(tokenizer(), RAGGED[i:i + 1], REPLIES[i:i + 1]))
        assert alone.item() == pytest.approx(scores[i].item(), abs=1e-5)  # padding plays no part


def test_the_score_equals_the_transformers_classifier():
    """`forward` of the sequence classifier gives our score: a checkpoint moves either way."""
    model, batch = reward_model(), encode(tokenizer(), RAGGED, REPLIES)
    theirs = model(**batch.model_inputs).logits[:, 0]
    assert torch.allclose(theirs, reward_scores(model, batch), atol=1e-5)


def test_a_value_cannot_see_the_action_it_is_the_baseline_of():
    model, batch = reward_model(), encode(tokenizer(), RAGGED, REPLIES)
    before = state_values(model, batch)
    batch.completion_ids[:, 2] = 9
    after = state_values(model, batch)
    assert torch.equal(before[:, :3], after[:, :3])  # states before token 2 and token 2 itself
    assert not torch.equal(before[:, 3:], after[:, 3:])


def test_a_reward_model_starts_from_the_policys_trunk():
    trunk, model = policy(), reward_model()
    assert torch.equal(model.base_model.wte.weight, trunk.transformer.wte.weight)
    assert model.score.weight.shape == (1, 16)


def test_learned_reward_is_a_reward_function_and_batches_do_not_change_it():
    whole = LearnedReward(reward_model(), tokenizer())(RAGGED, REPLIES)
    pieces = LearnedReward(reward_model(), tokenizer(), batch_size=1)(RAGGED, REPLIES)
    assert len(whole) == 4 and all(isinstance(value, float) for value in whole)
    assert whole == pytest.approx(pieces, abs=1e-5)


def test_training_learns_a_preference_it_can_see():
    from datasets import Dataset
    pairs = Dataset.from_dict({"prompt": RAGGED * 8, "chosen": ["hello ben, thank you."] * 32,
                               "rejected": ["no."] * 32})
    model = reward_model()
    records = list(RewardTraining(model, tokenizer(), pairs,
                                  RewardConfig(max_steps=60, batch_size=16, learning_rate=3e-3)))
    assert records[0]["loss"] == pytest.approx(math.log(2), abs=.4)
    assert records[-1]["loss"] < .1 and pair_accuracy(model, tokenizer(), pairs) == 1.


def test_a_batch_in_parts_gives_the_same_step():
    """Gradient accumulation: mean over 12 pairs, in one part, in three, and in unequal ones."""
    from datasets import Dataset
    pairs = Dataset.from_dict({"prompt": RAGGED * 3, "chosen": REPLIES * 3,
                               "rejected": REPLIES[::-1] * 3})

    def after_two_steps(parts):
        model = reward_model()
        records = list(RewardTraining(model, tokenizer(), pairs, RewardConfig(
            max_steps=2, batch_size=12, gradient_accumulation_steps=parts)))
        return records, torch.cat([p.detach().flatten() for p in model.parameters()])
    whole_records, whole = after_two_steps(1)
    for parts in (3, 5):
        records, weights = after_two_steps(parts)
        assert torch.allclose(weights, whole, atol=1e-5)
        assert [r["loss"] for r in records] == pytest.approx([r["loss"] for r in whole_records],
                                                             abs=1e-5)
        assert records[0]["accuracy"] == whole_records[0]["accuracy"]


def test_standardise_sets_the_spread_to_one():
    model = reward_model()
    mean, std = standardise(model, tokenizer(), RAGGED * 2, REPLIES + REPLIES[::-1])
    scores = torch.tensor(LearnedReward(model, tokenizer())(RAGGED * 2, REPLIES + REPLIES[::-1]))
    assert scores.std().item() == pytest.approx(1., abs=1e-4)
    assert scores.mean().item() == pytest.approx(mean / std, abs=1e-4)


def test_pair_accuracy_counts_a_tie_as_half():
    from datasets import Dataset
    ties = Dataset.from_dict({"prompt": RAGGED, "chosen": REPLIES, "rejected": REPLIES})
    assert pair_accuracy(reward_model(), tokenizer(), ties) == .5


def test_a_reward_model_survives_a_round_trip(tmp_path):
    model = reward_model()
    model.save_pretrained(tmp_path)
    batch = encode(tokenizer(), RAGGED, REPLIES)
    assert torch.equal(reward_scores(load_reward_model(tmp_path), batch),
                       reward_scores(model, batch))


def test_a_classifier_with_more_labels_is_refused(tmp_path):
    from transformers import AutoModelForSequenceClassification
    config = policy().config
    config.num_labels = 3
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="3 labels; expected one"):
        load_reward_model(tmp_path)


def failing(prompts, completions, **columns):
    raise KeyError("price")


@pytest.mark.parametrize("reward, error, message", [
    (lambda prompts, completions: [1.] * 30, ValueError, "30 rewards; expected 4, one for each"),
    (lambda prompts, completions: [[1.]] * 4, ValueError, r"shape \(4, 1\); expected 4"),
    (lambda prompts, completions: [1., float("nan"), 1., 1.], ValueError,
     "returned nan for completion 1"),
    (lambda prompts, completions: [1., 1., 1., float("inf")], ValueError,
     "returned inf for completion 3"),
    (lambda prompts, completions: ["good"] * 4, ValueError, "no list of floats"),
    (lambda prompts, completions: [None] * 4, ValueError, "no list of floats"),
    (failing, RuntimeError, "'failing' raised KeyError: 'price'"),
])
def test_a_bad_reward_function_is_named(reward, error, message):
    with pytest.raises(error, match=message):
        call_reward(reward, RAGGED, REPLIES)


def test_a_reward_function_gets_the_columns():
    seen = {}

    def reward(prompts, completions, answer):
        seen.update(prompts=prompts, answer=answer)
        return [0.] * len(prompts)
    call_reward(reward, RAGGED, REPLIES, answer=[1, 2, 3, 4])
    assert seen == {"prompts": RAGGED, "answer": [1, 2, 3, 4]}


def test_standardise_refuses_a_constant_reward():
    model = reward_model()
    torch.nn.init.zeros_(model.score.weight)
    with pytest.raises(ValueError, match="the scores are all equal"):
        standardise(model, tokenizer(), RAGGED, REPLIES)


def test_count_words_is_a_reward_function():
    assert call_reward(count_words, RAGGED, REPLIES).tolist() == [1., 4., 1., 7.]
