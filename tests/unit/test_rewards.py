"""Reward models and reward functions."""

import asyncio
import logging
import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rlhf_lib.algorithms.ppo import PPO
from rlhf_lib.algorithms.reward_training import (
    RewardConfig,
    RewardTraining,
    pair_accuracy,
    standardise,
)
from rlhf_lib.models.reward_model import (
    load_reward_model,
    reward_scores,
    state_values,
    token_values,
)
from rlhf_lib.models.rewards import LearnedReward, as_reward, call_reward, ensemble, weighted_sum
from rlhf_lib.models.tokens import completion_logits, encode
from rlhf_lib.seeing.word_scores import word_scores
from rlhf_lib.worlds import letters
from rlhf_lib.worlds.reward_sources import (
    JudgeReward,
    PairwiseJudge,
    ProcessReward,
    VerifiableReward,
    length_penalty,
    rule_reward,
    soft_overlong_punishment,
)
from tests.unit.small import RAGGED, count_words, in_a_running_loop, policy, reward_model, tokenizer

REPLIES = ["ok.", "hello ben, thank you.", "no.", "hello ben, thank you for your help."]


def test_the_score_is_read_at_the_last_real_token():
    model, batch = reward_model(), encode(tokenizer(), RAGGED, REPLIES)
    every_token, scores = token_values(model, batch), reward_scores(model, batch)
    for i in range(len(RAGGED)):
        last = batch.prompt_ids.shape[1] + int(batch.completion_mask[i].sum()) - 1
        assert scores[i] == every_token[i, last]
        alone = reward_scores(model, encode(tokenizer(), RAGGED[i : i + 1], REPLIES[i : i + 1]))
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

    pairs = Dataset.from_dict(
        {"prompt": RAGGED * 8, "chosen": ["hello ben, thank you."] * 32, "rejected": ["no."] * 32}
    )
    model = reward_model()
    records = list(
        RewardTraining(
            model, tokenizer(), pairs, RewardConfig(max_steps=60, batch_size=16, learning_rate=3e-3)
        )
    )
    assert records[0]["loss"] == pytest.approx(math.log(2), abs=0.4)
    assert records[-1]["loss"] < 0.1 and pair_accuracy(model, tokenizer(), pairs) == 1.0


def test_a_batch_in_parts_gives_the_same_step():
    """Gradient accumulation: mean over 12 pairs, in one part, in three, and in unequal ones.

    In float64: Adam turns a gradient that is zero but for rounding into a step of its own.
    """
    from datasets import Dataset

    pairs = Dataset.from_dict(
        {"prompt": RAGGED * 3, "chosen": REPLIES * 3, "rejected": REPLIES[::-1] * 3}
    )

    def after_two_steps(parts):
        model = reward_model().double()
        records = list(
            RewardTraining(
                model,
                tokenizer(),
                pairs,
                RewardConfig(max_steps=2, batch_size=12, gradient_accumulation_steps=parts),
            )
        )
        return records, torch.cat([p.detach().flatten() for p in model.parameters()])

    whole_records, whole = after_two_steps(1)
    for parts in (3, 5):
        records, weights = after_two_steps(parts)
        assert torch.allclose(weights, whole, rtol=0, atol=1e-9)
        assert [r["loss"] for r in records] == pytest.approx(
            [r["loss"] for r in whole_records], abs=1e-6
        )
        assert records[0]["accuracy"] == pytest.approx(whole_records[0]["accuracy"], abs=1e-15)


def test_standardise_sets_the_spread_to_one():
    model = reward_model()
    mean, std = standardise(model, tokenizer(), RAGGED * 2, REPLIES + REPLIES[::-1])
    scores = torch.tensor(LearnedReward(model, tokenizer())(RAGGED * 2, REPLIES + REPLIES[::-1]))
    assert scores.std().item() == pytest.approx(1.0, abs=1e-4)
    assert scores.mean().item() == pytest.approx(mean / std, abs=1e-4)


def test_pair_accuracy_counts_a_tie_as_half():
    from datasets import Dataset

    ties = Dataset.from_dict({"prompt": RAGGED, "chosen": REPLIES, "rejected": REPLIES})
    assert pair_accuracy(reward_model(), tokenizer(), ties) == 0.5


def test_a_reward_model_survives_a_round_trip(tmp_path):
    model = reward_model()
    model.save_pretrained(tmp_path)
    batch = encode(tokenizer(), RAGGED, REPLIES)
    assert torch.equal(
        reward_scores(load_reward_model(tmp_path), batch), reward_scores(model, batch)
    )


def test_a_classifier_with_more_labels_is_refused(tmp_path):
    from transformers import AutoModelForSequenceClassification

    config = policy().config
    config.num_labels = 3
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="3 labels; expected one"):
        load_reward_model(tmp_path)
    model = AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(ValueError, match="model has 3 labels; expected one"):
        LearnedReward(model, tokenizer())
    with pytest.raises(ValueError, match="critic has 3 labels; expected one"):
        PPO(policy(), policy(1), model, tokenizer(), failing, letters.prompts(4, seed=0))


def failing(prompts, completions, **columns):
    raise KeyError("price")


def noted(function):
    """A partial that another does not take apart, as it has an attribute."""
    found = partial(function)
    found.note = "of two"
    return found


async def failing_later(prompts, completions, **columns):
    await asyncio.sleep(0)
    raise KeyError("price")


def failing_midway(prompts, completions, **columns):
    yield 1.0
    raise KeyError("price")


async def awaited_four_times(prompts, completions):
    return [1.0] * 3


class Asked:
    """A judge over a network, as it were: the length of each completion, some time later."""

    def __init__(self, failing=False):
        self.failing = failing

    async def __call__(self, prompts, completions, **columns):
        await asyncio.sleep(0)
        if self.failing:
            raise KeyError("price")
        return [len(completion) for completion in completions]

    async def verdict(self, prompt, completion, answer=None):
        await asyncio.sleep(0)
        if completion == "no.":
            raise ConnectionError("no answer")
        return completion == answer if answer else len(completion) > 4


@pytest.mark.parametrize(
    "reward, error, message",
    [
        (
            lambda prompts, completions: [1.0] * 30,
            ValueError,
            "30 rewards; expected 4, one for each",
        ),
        (
            lambda prompts, completions: [1.0, [1.0], 1.0, 1.0],
            ValueError,
            r"returned \[1.0\] for completion 1 \('hello .*'\); expected a finite number",
        ),
        (lambda prompts, completions: torch.ones(4, 1), ValueError, r"\[1.0\] for completion 0"),
        (lambda prompts, completions: torch.tensor(1.0), ValueError, "Tensor, no list of rewards"),
        (lambda prompts, completions: None, ValueError, "NoneType, no list of rewards; expected 4"),
        (lambda prompts, completions: 1.0, ValueError, "float, no list of rewards"),
        (lambda prompts, completions: "1234", ValueError, "str, no list of rewards"),
        (
            lambda prompts, completions: dict.fromkeys(range(4), 1.0),
            ValueError,
            "dict, no list of rewards",
        ),
        (
            lambda prompts, completions: [1.0, float("nan"), 1.0, 1.0],
            ValueError,
            "returned nan for completion 1",
        ),
        (
            lambda prompts, completions: np.array([1.0, 1.0, np.nan, 1.0]),
            ValueError,
            "returned nan for completion 2",
        ),
        (
            lambda prompts, completions: [1.0, 1e39, 1.0, 1.0],
            ValueError,
            r"1e\+39 for completion 1",
        ),
        (lambda prompts, completions: [1.0, 10**400, 1.0, 1.0], ValueError, "00 for completion 1"),
        (lambda prompts, completions: [1.0, 1j, 1.0, 1.0], ValueError, "1j for completion 1"),
        (
            lambda prompts, completions: [1.0, 1.0, 1.0, float("inf")],
            ValueError,
            "returned inf for completion 3",
        ),
        (lambda prompts, completions: [1, 1, 1, -math.inf], ValueError, "-inf for completion 3"),
        (lambda prompts, completions: ["1"] * 4, ValueError, "returned '1' for completion 0"),
        (
            lambda prompts, completions: [0.0, "", 1.0, 1.0],
            ValueError,
            "returned '' for completion 1",
        ),
        (failing, RuntimeError, "'failing' raised KeyError: 'price'"),
        (partial(failing), RuntimeError, "'failing' raised KeyError: 'price'"),
        (partial(noted(failing)), RuntimeError, "'failing' raised KeyError: 'price'"),
        (failing_later, RuntimeError, "'failing_later' raised KeyError: 'price'"),
        (failing_midway, RuntimeError, "'failing_midway' raised KeyError: 'price'"),
        (Asked(failing=True), RuntimeError, "'Asked' raised KeyError: 'price'"),
        (lambda texts: [1.0] * 4, RuntimeError, "raised TypeError: .*unexpected keyword"),
        (lambda prompts, completions, /: [1.0] * 4, RuntimeError, "raised TypeError: .*positional"),
        (awaited_four_times, ValueError, "'awaited_four_times' returned 3 rewards; expected 4"),
    ],
)
def test_a_bad_reward_function_is_named(reward, error, message):
    with pytest.raises(error, match=message):
        call_reward(reward, RAGGED, REPLIES)


LENGTHS = [len(reply) for reply in REPLIES]


@pytest.mark.parametrize(
    "reward",
    [
        Asked(),
        Asked().__call__,
        partial(Asked(), extra=1),
        lambda prompts, completions, **columns: Asked()(prompts, completions),
        lambda completions, **columns: (len(c) for c in completions),
        lambda completions, **columns: np.array([len(c) for c in completions]),
        lambda completions, **columns: torch.tensor([float(len(c)) for c in completions]),
        lambda completions, **columns: tuple(np.float16(len(c)) for c in completions),
        lambda completions, **columns: [torch.tensor(len(c)) for c in completions],
    ],
)
def test_every_kind_of_function_and_of_number_is_a_reward(reward):
    rewards = call_reward(reward, RAGGED, REPLIES)
    assert rewards.tolist() == LENGTHS and rewards.dtype == torch.float32


def test_verdicts_are_rewards():
    right = call_reward(
        lambda completions, **columns: [c == "no." for c in completions], RAGGED, REPLIES
    )
    assert right.tolist() == [0.0, 0.0, 1.0, 0.0]


def test_none_means_that_a_reward_does_not_apply():
    """To some completions or to all; NaN is what a tensor has for it."""
    some = call_reward(constant(None, 2.0, None, True), RAGGED, REPLIES)
    assert some.isnan().tolist() == [True, False, True, False] and some[[1, 3]].tolist() == [2, 1]
    assert call_reward(constant(None, None, None, None), RAGGED, REPLIES).isnan().all()


def test_a_reward_may_change_the_lists_that_it_gets():
    def spoil(prompts, completions, answer):
        prompts.clear()
        completions.sort()
        answer[0].append("another")
        return [float(len(completions[0])), *[0.0] * 3]

    prompts, replies, answers = list(RAGGED), list(REPLIES), [["a"], ["b"], ["c"], ["d"]]
    both = weighted_sum([spoil, lambda completions, answer, **columns: map(len, answer)], [1, 1])
    assert both(prompts, replies, answer=answers) == [len(min(REPLIES)) + 1, 1, 1, 1]
    assert (prompts, replies, answers) == (RAGGED, REPLIES, [["a"], ["b"], ["c"], ["d"]])


@pytest.mark.parametrize("name", ["reward", "function", "optional", "rewards", "columns", "given"])
def test_a_column_may_have_any_other_name(name):
    assert call_reward(
        lambda prompts, completions, **columns: columns[name],
        RAGGED,
        REPLIES,
        **{name: [1, 2, 3, 4]},
    ).tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "make",
    [
        lambda: LearnedReward(reward_model(), tokenizer()),
        lambda: weighted_sum([count_words, LearnedReward(reward_model(), tokenizer())], [1, 1]),
        lambda: VerifiableReward(lambda prompt, completion, self: self < 3, columns=("self",)),
        lambda: ProcessReward(str.split, lambda prompt, steps: [0.5] * len(steps)),
        lambda: JudgeReward(policy(), tokenizer(), "{prompt} {completion}", ("ok", "no")),
        lambda: PairwiseJudge(
            policy(), tokenizer(), "{prompt}{first}{second}", answers=("ok", "no"), against="r"
        ),
    ],
    ids=["learned", "several", "verified", "process", "judge", "pairwise"],
)
def test_a_column_may_be_called_self(make):
    columns = {"self": [1, 2, 3, 4], "r": REPLIES[::-1]}
    if isinstance(make(), VerifiableReward):
        assert make()(RAGGED, REPLIES, **columns) == [1.0, 1.0, 0.0, 0.0]
    assert call_reward(make(), RAGGED, REPLIES, **columns).shape == (4,)


def test_tokens_go_to_those_that_ask_for_them():
    def without(prompts, completions):
        return [0.0] * 4

    def named(completions, prompts, completion_ids):
        return [len(ids) for ids in completion_ids]

    def among_others(**columns):
        return [len(ids) for ids in columns["completion_ids"]]

    ids = [[1], [1, 2], [1, 2, 3], []]
    both = weighted_sum([without, named, among_others], [1.0, 10.0, 100.0])
    assert both(RAGGED, REPLIES, completion_ids=ids) == [110, 220, 330, 0]
    assert call_reward(without, RAGGED, REPLIES, completion_ids=ids).tolist() == [0.0] * 4
    with pytest.raises(RuntimeError, match="unexpected keyword argument 'price'"):
        call_reward(without, RAGGED, REPLIES, price=[1, 2, 3, 4])


@pytest.mark.parametrize(
    "reward, kind",
    [
        ("./reward", "str"),
        (None, "NoneType"),
        (3.0, "float"),
        ({"a": len}, "dict"),
        ([3.0], "float"),
    ],
)
def test_what_is_no_reward_is_refused(reward, kind):
    with pytest.raises(ValueError, match=f"reward is a {kind}; expected a function, or several"):
        as_reward(reward)
    with pytest.raises(ValueError, match=f"reward is a {kind}; expected a function, or several"):
        call_reward(reward, RAGGED, REPLIES)


def test_a_model_is_refused_as_a_reward_where_it_is_given():
    """TRL takes one; here its tokenizer is to be named, too."""
    message = r"GPT2ForSequenceClassification; .*LearnedReward\(model, tokenizer\)"
    for make in (
        as_reward,
        lambda model: ensemble([model, model]),
        lambda model: [as_reward([model])],
    ):
        with pytest.raises(ValueError, match=message):
            make(reward_model())
    learned = LearnedReward(reward_model(), tokenizer())
    assert as_reward(learned) is learned


def test_a_module_of_ones_own_may_be_a_reward():
    class Longer(torch.nn.Module):
        def forward(self, prompts, completions):
            return torch.tensor([float(len(c)) for c in completions])

    assert call_reward(Longer(), RAGGED, REPLIES).tolist() == LENGTHS


def test_several_rewards_in_a_list_are_their_sum():
    reward = as_reward([count_words, constant(None, 1.0, None, None), Asked()])
    words = count_words(RAGGED, REPLIES)
    expected = [w + a + b for w, a, b in zip(words, [0, 1, 0, 0], LENGTHS)]
    assert reward(RAGGED, REPLIES) == expected
    assert call_reward((count_words, Asked()), RAGGED, REPLIES)[0] == words[0] + LENGTHS[0]
    assert reward.parts == {"count_words": 3.25, "<lambda>": 1.0, "Asked": sum(LENGTHS) / 4}
    with pytest.raises(ValueError, match="rewards is empty"):
        as_reward([])


def test_a_reward_function_gets_the_columns():
    seen = {}

    def reward(prompts, completions, answer):
        seen.update(prompts=prompts, answer=answer)
        return [0.0] * len(prompts)

    call_reward(reward, RAGGED, REPLIES, answer=[1, 2, 3, 4])
    assert seen == {"prompts": RAGGED, "answer": [1, 2, 3, 4]}


def test_standardise_scales_a_bias_of_the_head_too():
    """A score is the whole head's output: were the bias left, the mean would not be divided."""
    model = reward_model()
    model.score.bias = torch.nn.Parameter(torch.tensor([3.0]))
    mean, std = standardise(model, tokenizer(), RAGGED * 2, REPLIES + REPLIES[::-1])
    after = torch.tensor(LearnedReward(model, tokenizer())(RAGGED * 2, REPLIES + REPLIES[::-1]))
    assert after.std().item() == pytest.approx(1, abs=1e-4)
    assert after.mean().item() == pytest.approx(mean / std, abs=1e-4)


def test_standardise_refuses_a_constant_reward():
    model = reward_model()
    torch.nn.init.zeros_(model.score.weight)
    with pytest.raises(ValueError, match="the scores are all equal"):
        standardise(model, tokenizer(), RAGGED, REPLIES)


def test_count_words_is_a_reward_function():
    assert call_reward(count_words, RAGGED, REPLIES).tolist() == [1.0, 4.0, 1.0, 7.0]


# Several rewards as one ------------------------------------------------------------------------


def constant(*values):
    return lambda prompts, completions, **columns: list(values)


MEMBERS = [
    constant(1.0, 2.0, 3.0, 4.0),
    constant(3.0, 2.0, -3.0, 4.0),
    constant(2.0, 5.0, 0.0, 4.0),
]


@pytest.mark.parametrize(
    "combine, expected",
    [
        ("mean", [2.0, 3.0, 0.0, 4.0]),
        ("min", [1.0, 2.0, -3.0, 4.0]),
        (
            "mean_minus_std",
            [2.0 - 0.5 * 1.0, 3.0 - 0.5 * 3**0.5, 0.0 - 0.5 * 3.0, 4.0],
        ),  # worked out by hand
    ],
)
def test_an_ensemble_combines_its_members(combine, expected):
    reward = ensemble(MEMBERS, combine, k=0.5)
    assert reward(RAGGED, REPLIES) == pytest.approx(expected, abs=1e-12)
    assert reward.__name__ == f"ensemble_{combine}"
    assert reward.disagreement == pytest.approx((1 + 3**0.5 + 3 + 0) / 4)
    assert list(reward.parts.values()) == pytest.approx([2.5, 1.5, 2.75])


X = None  # does not apply


@pytest.mark.parametrize(
    "combine, expected",
    [
        ("mean", [2.0, 4.0, 1.0, X]),
        ("min", [1.0, 4.0, 0.0, X]),
        ("mean_minus_std", [2.0 - 0.5 * 1.0, 4.0, 1.0 - 0.5 * 2**0.5, X]),
    ],
)
def test_an_ensemble_asks_the_members_that_apply(combine, expected):
    members = [constant(1.0, X, 0.0, X), constant(3.0, X, 2.0, X), constant(2.0, 4.0, X, X)]
    reward = ensemble(members, combine, k=0.5)
    assert reward(RAGGED, REPLIES) == pytest.approx(expected)
    assert reward.disagreement == pytest.approx((1 + 2**0.5) / 2)  # of two completions
    assert list(reward.parts.values()) == [0.5, 2.5, 3.0]
    assert reward.table.isnan().sum(dim=1).tolist() == [2, 2, 2]


def test_a_sum_is_of_the_rewards_that_apply():
    reward = weighted_sum([constant(1.0, X, 3.0, X), constant(X, 5.0, 7.0, X)], [2.0, -1.0])
    assert reward(RAGGED, REPLIES) == [2.0, -5.0, -1.0, X]
    assert weighted_sum([reward, constant(X, X, 1, X)], [1, 1])(RAGGED, REPLIES) == [2, -5, 0, X]
    assert list(reward.parts.values()) == [2.0, 6.0]
    reward = weighted_sum([constant(1.0, X, 3.0, X), constant(X, X, X, X)], [2.0, -1.0])
    assert reward(RAGGED, REPLIES) == [2.0, X, 6.0, X]
    assert math.isnan(reward.parts["<lambda>_2"]) and math.isnan(reward.disagreement)


def test_nan_is_no_way_to_abstain():
    both = weighted_sum([count_words, constant(1.0, math.nan, 1.0, 1.0)], [1.0, 1.0])
    with pytest.raises(ValueError, match="returned nan for completion 1"):
        both(RAGGED, REPLIES)


def test_async_rewards_of_a_combination_wait_together():
    """Each waits for the other, inside a loop that runs already, as in Jupyter."""
    one, other = asyncio.Event(), asyncio.Event()

    def meets(mine, others):
        async def meet(prompts, completions, **columns):
            mine.set()
            await asyncio.wait_for(others.wait(), timeout=20)
            return [1.0] * len(completions)

        return meet

    async def cell():
        return weighted_sum([meets(one, other), count_words, meets(other, one)], [1, 10, 100])(
            RAGGED, REPLIES
        )

    assert in_a_running_loop(cell) == [101 + 10 * words for words in count_words(RAGGED, REPLIES)]


def test_an_ensemble_of_reward_models_is_a_reward_function():
    members = [LearnedReward(reward_model(seed), tokenizer()) for seed in range(3)]
    reward = ensemble(members, "min")
    each = [member(RAGGED, REPLIES) for member in members]
    assert reward(RAGGED, REPLIES) == pytest.approx([min(column) for column in zip(*each)])
    assert list(reward.parts) == ["learned_reward_1", "learned_reward_2", "learned_reward_3"]
    assert len(set(reward.parts.values())) == 3  # three different models


def test_an_ensemble_without_a_call_has_nothing_to_log():
    reward = ensemble(MEMBERS)
    assert reward.parts == {} and math.isnan(reward.disagreement)


def test_a_combination_weighs_its_parts_and_reports_them():
    reward = weighted_sum([count_words, letters.gold_reward], [0.25, -2.0])
    words, gold = count_words(RAGGED, REPLIES), letters.gold_reward(RAGGED, REPLIES)
    assert reward(RAGGED, REPLIES) == pytest.approx([0.25 * w - 2 * g for w, g in zip(words, gold)])
    assert reward.parts == pytest.approx(
        {"count_words": sum(words) / 4, "gold_reward": sum(gold) / 4}
    )


def test_columns_reach_the_parts_of_a_combination():
    right = VerifiableReward(
        lambda prompt, completion, answer: completion == answer, "right", columns=("answer",)
    )
    reward = weighted_sum([right, ensemble([right])], [1.0, 1.0])
    assert reward(RAGGED, REPLIES, answer=REPLIES[:2] + ["x", "x"], price=[1, 2, 3, 4]) == [
        2.0,
        2.0,
        0.0,
        0.0,
    ]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: ensemble([]), "rewards is empty; expected at least one"),
        (lambda: weighted_sum([], []), "rewards is empty; expected at least one"),
        (lambda: ensemble(MEMBERS, "median"), "combine is 'median'; expected one of 'mean', 'min'"),
        (lambda: ensemble(MEMBERS[:1], "mean_minus_std"), "1 entry; expected at least 2"),
        (
            lambda: weighted_sum(MEMBERS, [1.0, 2.0]),
            r"weights is \[1.0, 2.0\]; expected 3 finite numbers",
        ),
        (lambda: weighted_sum(MEMBERS, [1.0] * 4), "weights is .*; expected 3 finite numbers"),
        (lambda: weighted_sum(MEMBERS, [1, math.nan, 1]), r"weights is \[1, nan, 1\]; expected 3"),
        (lambda: weighted_sum(MEMBERS, [1, math.inf, 1]), r"weights is \[1, inf, 1\]; expected 3"),
        (
            lambda: ProcessReward(str.split, count_words, "sum"),
            "aggregate is 'sum'; expected one of",
        ),
        (lambda: soft_overlong_punishment(4, 5), "cache is 5; expected 0 to max_length=4"),
    ],
)
def test_a_bad_combination_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "member, error, message",
    [
        (constant(1.0, 1.0, float("nan"), 1.0), ValueError, "returned nan for completion 2"),
        (constant(1.0), ValueError, "returned 1 rewards; expected 4"),
        (failing, RuntimeError, "'failing' raised KeyError"),
    ],
)
@pytest.mark.parametrize("combine", [ensemble, lambda rewards: weighted_sum(rewards, [1.0, 1.0])])
def test_a_bad_member_is_named_and_not_averaged_away(combine, member, error, message):
    with pytest.raises(error, match=message):
        combine([count_words, member])(RAGGED, REPLIES)


# Checked rewards -------------------------------------------------------------------------------


def odd_one_out(prompt, completion):
    return 1 / (len(completion.split()) - 4) > 0  # fails on four words


def test_a_verifier_that_fails_counts_as_wrong_and_is_counted(caplog):
    reward = VerifiableReward(odd_one_out)
    with caplog.at_level(logging.WARNING):
        assert call_reward(reward, RAGGED, REPLIES).tolist() == [0.0, 0.0, 0.0, 1.0]
        assert reward(RAGGED, REPLIES) == [0.0, 0.0, 0.0, 1.0]
    assert reward.errors == 2
    (record,) = caplog.records  # once, not once per failure
    assert "'odd_one_out' failed (ZeroDivisionError" in record.getMessage()


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, None, "yes", [1.0]])
def test_a_verdict_may_be_a_float_and_must_be_finite(odd, caplog):
    verdicts = {"no.": odd, "ok.": 0.5}
    reward = VerifiableReward(lambda prompt, completion: verdicts.get(completion, True))
    assert reward(RAGGED, REPLIES) == [0.5, 1.0, 0.0, 1.0] and reward.errors == 1
    assert "failed" in caplog.text and "on 'no.'" in caplog.text


def test_async_verdicts_are_awaited_together_and_each_counts_for_its_own_row(caplog):
    waiting = []

    async def patient(prompt, completion, answer):
        """Answers when all are asked."""
        waiting.append(prompt)
        while len(waiting) < 4:
            await asyncio.sleep(0)
        return await Asked().verdict(prompt, completion, answer)

    reward = VerifiableReward(patient, columns=("answer",))
    answers = ["ok.", "no.", "no.", REPLIES[3]]
    assert call_reward(reward, RAGGED, REPLIES, answer=answers).tolist() == [1.0, 0.0, 0.0, 1.0]
    assert waiting == RAGGED and reward.errors == 1 and "ConnectionError: no answer" in caplog.text
    rules = rule_reward({"long": (2.0, Asked().verdict), "always": (1.0, lambda p, c: True)})
    assert rules(RAGGED, REPLIES) == [1.0, 3.0, 1.0, 3.0]
    assert rules.parts == {"long": 0.5, "always": 1.0}


def test_rows_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="zip"):
        VerifiableReward(lambda prompt, completion: True)(RAGGED[:3], REPLIES)
    with pytest.raises(ValueError, match="zip"):
        ProcessReward(str.split, halves)(RAGGED, REPLIES[:3])


def test_an_async_verifier_that_is_interrupted_interrupts():
    async def interrupted(prompt, completion):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        VerifiableReward(interrupted)(RAGGED, REPLIES)


def test_an_interrupt_is_not_a_wrong_answer():
    def interrupted(prompt, completion):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        VerifiableReward(interrupted)(RAGGED, REPLIES)


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"price": [1, 2, 3, 4]}, r"column 'answer' is missing; .* got \['price'\]"),
        ({"answer": ["x"]}, "column 'answer' has 1 entries; expected 4"),
        ({"answer": ["x"] * 5}, "column 'answer' has 5 entries; expected 4"),
    ],
)
def test_a_missing_column_is_a_mistake_and_not_a_wrong_answer(columns, message):
    reward = VerifiableReward(lambda prompt, completion, answer: True, columns=("answer",))
    with pytest.raises(ValueError, match=message):
        reward(RAGGED, REPLIES, **columns)


def test_rules_of_the_letters_world_add_up_to_its_gold_utility():
    """`letters.WEIGHTS` as rules: a bool or a count each, and `parts` says how often it holds."""
    reward = rule_reward(
        {
            name: (
                weight,
                lambda prompt, completion, name=name: letters.features(prompt, completion)[name],
            )
            for name, weight in letters.WEIGHTS.items()
        }
    )
    assert reward(RAGGED, REPLIES) == pytest.approx(letters.gold_reward(RAGGED, REPLIES))
    assert reward.parts["greets"] == 0.5 and reward.parts["rude"] == 0.0


def test_a_rule_that_fails_does_not_hold(caplog):
    reward = rule_reward({"odd": (2.0, odd_one_out), "always": (1.0, lambda p, c: True)})
    assert reward(RAGGED, REPLIES) == [1.0, 1.0, 1.0, 3.0]
    assert reward.rewards[0].errors == 1


# Process rewards -------------------------------------------------------------------------------


def halves(prompt, steps):
    """A right step scores .9, one that mentions the prompt's last word .5, a repeated one .2."""
    return [
        0.2 if step in steps[:i] else 0.5 if prompt.split()[-1] in step else 0.9
        for i, step in enumerate(steps)
    ]


@pytest.mark.parametrize(
    "aggregate, expected",
    [("product", 0.9 * 0.5 * 0.9 * 0.2), ("min", 0.2), ("mean", 2.5 / 4), ("last", 0.2)],
)
def test_process_rewards_aggregate_the_steps(aggregate, expected):
    reward = ProcessReward(lambda completion: completion.split(";"), halves, aggregate)
    assert reward(["a b", "a b"], ["x;b;y;x", "x"]) == pytest.approx([expected, 0.9])
    assert reward.step_scores == [[0.9, 0.5, 0.9, 0.2], [0.9]]
    assert reward.__name__ == f"process_{aggregate}"


def test_a_reward_model_can_score_the_steps():
    """Each step in the context of those before it, as a learned process reward does."""
    learned = LearnedReward(reward_model(), tokenizer())

    def score(prompt, steps):
        return learned([prompt] * len(steps), [" ".join(steps[: i + 1]) for i in range(len(steps))])

    reward = ProcessReward(str.split, score, "last")
    replies = ["ok .", "hello ben , thank you .", "no .", "fine ."]
    assert reward(RAGGED, replies) == pytest.approx(learned(RAGGED, replies), abs=1e-5)
    assert [len(scores) for scores in reward.step_scores] == [2, 6, 2, 2]


def test_steps_may_be_scored_by_a_function_that_is_awaited():
    async def split(completion):
        return completion.split(";")

    async def score(prompt, steps):
        await asyncio.sleep(0)
        return halves(prompt, steps)

    reward = ProcessReward(split, score, "mean")
    assert reward(["a b", "a b"], ["x;b;y;x", "x"]) == pytest.approx([2.5 / 4, 0.9])
    with pytest.raises(KeyError, match="price"):
        ProcessReward(str.split, failing_later)(["a b"], ["x"])


def test_a_completion_without_steps_gets_what_was_said():
    def never(prompt, steps):
        raise AssertionError("scored nothing")

    assert ProcessReward(str.split, never, no_steps=-1.0)(["a"], ["  "]) == [-1.0]


def test_as_many_step_scores_as_steps():
    with pytest.raises(ValueError, match="score returned 1 scores; expected 3, one for each step"):
        ProcessReward(str.split, lambda prompt, steps: [1.0])(["a"], ["x y z"])


# Judges ----------------------------------------------------------------------------------------

ASK = "{prompt} {completion} . is the reply fine ?"
COMPARE = "{prompt} {first} ! {second} ! is the first fine ?"


def answered(model, text, answers):
    """P(first answer | either) after one text alone, from the logits that training reads."""
    ids = [tokenizer()(answer)["input_ids"][0] for answer in answers]
    logits = completion_logits(model, encode(tokenizer(), [text], ["ok"]))[0, 0]
    return torch.softmax(logits[ids], dim=0)[0].item()


def test_a_judge_is_the_probability_of_its_answer():
    """On ragged texts, in batches: padding plays no part."""
    judge = JudgeReward(policy(), tokenizer(), ASK, batch_size=3)
    rewards = judge(RAGGED, REPLIES)
    expected = [
        answered(policy(), ASK.format(prompt=p, completion=c), ("yes", "no"))
        for p, c in zip(RAGGED, REPLIES)
    ]
    assert rewards == pytest.approx(expected, abs=1e-5)
    assert max(rewards) - min(rewards) > 0.01


def test_a_trained_judge_tells_polite_from_rude():
    """A language model of ours learns to answer, and is then a reward function."""
    from datasets import Dataset

    from rlhf_lib.algorithms.sft import SFT, SFTConfig

    rude, polite = (
        ["no.", "leave me alone.", "you are an idiot."],
        ["thank you.", "hello ben, thank you.", "dear ben, many thanks."],
    )
    rows = [
        (ASK.format(prompt=prompt, completion=reply), answer)
        for prompt in RAGGED
        for replies, answer in ((rude, "no"), (polite, "yes"))
        for reply in replies
    ]
    judge = policy()
    list(
        SFT(
            judge,
            tokenizer(),
            Dataset.from_dict(
                {"prompt": [text for text, _ in rows], "completion": [answer for _, answer in rows]}
            ),
            SFTConfig(max_steps=80, batch_size=12, learning_rate=1e-2),
        )
    )
    reward = JudgeReward(judge, tokenizer(), ASK)
    good, bad = reward(RAGGED, ["hello ben, many thanks."] * 4), reward(RAGGED, ["no."] * 4)
    assert min(good) > 0.8 and max(bad) < 0.2


class HandSet:
    """A causal LM whose log-odds are set by hand: words of the first reply less those of the
    second, and `bias` nats for being shown first."""

    device, config = "cpu", SimpleNamespace(max_position_embeddings=64)

    def __init__(self, bias):
        self.bias = bias
        self.stop, self.colon, self.yes = tokenizer()("! : yes")["input_ids"]

    def __call__(self, input_ids, attention_mask, position_ids, use_cache, logits_to_keep):
        logits = torch.zeros(len(input_ids), 1, len(tokenizer()))
        for row, ids in enumerate(input_ids):
            ids = ids[attention_mask[row].bool()].tolist()
            begin = len(ids) - ids[::-1].index(self.colon)
            first = ids.index(self.stop)
            second = ids.index(self.stop, first + 1)
            logits[row, 0, self.yes] = self.bias + (first - begin) - (second - first - 1)
        return SimpleNamespace(logits=logits)


LONG, SHORT = ["hello ben , thank you", "fine , thanks"] * 2, ["thanks", "ok"] * 2  # 5, 3; 1, 1


@pytest.mark.parametrize("bias", [0.0, 2.5, -7.0])
def test_comparing_in_both_orders_cancels_the_bias_of_position(bias):
    judge = PairwiseJudge(HandSet(bias), tokenizer(), COMPARE, answers=("yes", "no"))
    gaps = torch.tensor([4.0, 2.0, 4.0, 2.0])
    assert judge.log_odds(RAGGED, LONG, SHORT).tolist() == (gaps + bias).tolist()
    assert judge.compare(RAGGED, LONG, SHORT) == pytest.approx(torch.sigmoid(gaps).tolist())
    assert judge.compare(RAGGED, SHORT, LONG) == pytest.approx(torch.sigmoid(-gaps).tolist())


@pytest.mark.parametrize("bias, flips", [(0.0, 0.0), (2.5, 0.5), (-2.5, 0.5), (7.0, 1.0)])
def test_the_bias_of_position_is_measured_by_swapping(bias, flips):
    judge = PairwiseJudge(HandSet(bias), tokenizer(), COMPARE, answers=("yes", "no"))
    assert judge.position_bias(RAGGED, LONG, SHORT) == {"bias": bias, "flips": flips}


def test_a_pairwise_judge_is_a_reward_function():
    """A model with weights, whose position bias is whatever it is: the two orders sum to one."""
    judge = PairwiseJudge(policy(), tokenizer(), COMPARE, answers=("yes", "no"), batch_size=3)
    wins = judge(RAGGED, LONG, reference=SHORT)
    assert wins == judge.compare(RAGGED, LONG, SHORT) != judge.compare(RAGGED[::-1], LONG, SHORT)
    losses = call_reward(judge, RAGGED, SHORT, reference=LONG)
    assert (torch.tensor(wins) + losses).tolist() == pytest.approx([1.0] * 4)
    forward = [
        answered(policy(), COMPARE.format(prompt=p, first=a, second=b), ("yes", "no"))
        for p, a, b in zip(RAGGED, LONG, SHORT)
    ]
    assert torch.sigmoid(judge.log_odds(RAGGED, LONG, SHORT)).tolist() == pytest.approx(
        forward, abs=1e-5
    )
    assert judge.position_bias(RAGGED, LONG, SHORT)["bias"] != 0.0


def test_a_pairwise_judge_needs_something_to_compare_with():
    judge = PairwiseJudge(policy(), tokenizer(), COMPARE, answers=("yes", "no"))
    with pytest.raises(ValueError, match="column 'reference' is missing"):
        judge(RAGGED, LONG)


@pytest.mark.parametrize(
    "answers, message",
    [
        (
            ("yes please", "no"),
            r"'yes please', which .* as \['yes', 'please'\]; expected one token",
        ),
        (("yes", "nevermind"), r"'nevermind', which .* as \['<unk>'\]"),
        (("yes", ""), r"'', which this tokenizer reads as \[\]"),
        (("yes", "yes"), "expected two different tokens"),
        (("yes", "no", "ok"), "expected two different tokens"),
    ],
)
def test_an_answer_is_one_token(answers, message):
    with pytest.raises(ValueError, match=message):
        JudgeReward(policy(), tokenizer(), ASK, answers=answers)
    with pytest.raises(ValueError, match=message):
        PairwiseJudge(policy(), tokenizer(), COMPARE, answers=answers)


def test_a_template_shows_the_judge_everything():
    with pytest.raises(ValueError, match=r"fields \['prompt'\]; expected \['completion', "):
        JudgeReward(policy(), tokenizer(), "{prompt} fine ?")
    with pytest.raises(ValueError, match=r"fields \['completion', 'prompt'\]; expected \['first'"):
        PairwiseJudge(policy(), tokenizer(), ASK)


def test_a_judge_refuses_what_it_cannot_read_whole():
    with pytest.raises(ValueError, match="expected at most 64, the context of this model"):
        JudgeReward(policy(), tokenizer(), ASK)(RAGGED, ["ok " * 60] * 4)


# Length ----------------------------------------------------------------------------------------


def test_a_length_penalty_counts_words_or_tokens():
    assert length_penalty(0.5)(RAGGED, REPLIES) == [-0.5, -2.0, -0.5, -3.5]
    assert length_penalty(0.5, tokenizer())(RAGGED, REPLIES) == [-1.0, -3.0, -1.0, -4.5]
    assert length_penalty(0.5).__name__ == "length_penalty"


def test_soft_overlong_punishment_falls_from_0_to_minus_1():
    reward = soft_overlong_punishment(10, 4)
    completions = [" ".join(["x"] * n) for n in (0, 6, 7, 8, 9, 10, 11, 40)]
    assert reward([""] * 8, completions) == [0.0, 0.0, -0.25, -0.5, -0.75, -1.0, -1.0, -1.0]
    assert soft_overlong_punishment(3, 0)(["", ""], ["x x x", "x x x x"]) == [0.0, -1.0]


def test_an_encoder_is_refused_as_a_reward_model():
    from transformers import BertConfig, BertForSequenceClassification

    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(tokenizer()),
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=8,
            num_labels=1,
        )
    )
    with pytest.raises(ValueError, match="model is a BertForSequenceClassification; expected"):
        LearnedReward(model, tokenizer())


def test_rewards_that_carry_a_graph_are_cut_from_it():
    weight = torch.ones(2, requires_grad=True)
    assert not call_reward(lambda prompts, completions: weight, ["a"] * 2, ["b"] * 2).requires_grad


# ---------------------------------------------------------------------------------- word by word

PROMPT = "write to ben. ask for a refund: the lamp, friday. reply:"
LETTER = (
    "hello ben, i would like a refund for the lamp bought on friday because it arrived "
    "broken. kind regards"
)
WORTH = {"hello": 1.0, "ben": -0.5, "thanks": 0.25}


def additive(prompts, completions):
    return [sum(WORTH.get(word, 0.125) for word in letters.words(c)) for c in completions]


def after_a_longer_one(prompts, completions):
    """Words act together: 1 for every word after a longer one."""
    return [
        float(sum(len(a) > len(b) for a, b in zip(w, w[1:])))
        for w in (letters.words(c) for c in completions)
    ]


def test_word_scores_of_a_sum_are_its_parts():
    scores = word_scores(additive, "p", "hello ben, thanks")
    assert scores.pieces == ["hello", " ben", ",", " thanks"] and scores.score == 0.875
    assert scores.contributions == [1.0, -0.5, 0.125, 0.25]
    assert scores.running == [0.0, 1.0, 0.5, 0.625, 0.875]


def test_each_word_score_is_the_reward_of_a_whole_completion():
    def reward(text):
        return after_a_longer_one([PROMPT], [text])[0]

    words = letters.words(LETTER)
    scores = word_scores(after_a_longer_one, PROMPT, LETTER)
    for i, contribution in enumerate(scores.contributions):
        without = letters.join(words[:i] + words[i + 1 :])
        assert contribution == reward(LETTER) - reward(without)
    assert scores.running == [reward(letters.join(words[:n])) for n in range(len(words) + 1)]
    assert sum(scores.contributions) != scores.score - scores.running[0]


@pytest.mark.parametrize(
    "completion", ["I don't – know!  Ünïcode\nword-wise, 3.5%…", "?!", "  one "]
)
def test_its_pieces_are_the_completion(completion):
    assert "".join(word_scores(additive, "p", completion).pieces) == completion.strip()
    assert word_scores(additive, "p", "don't").pieces == ["don't"]


def too_long(prompts, completions):
    raise ValueError("217 tokens; expected at most 128, the context of this model")


@pytest.mark.parametrize(
    "reward, completion, error, message",
    [
        (additive, "", ValueError, "the completion is empty; expected at least one word"),
        (additive, " \n", ValueError, "the completion is empty"),
        (lambda prompts, completions: [math.nan] * len(prompts), "a", ValueError, "finite number"),
        (lambda prompts, completions: [1.0, None, 1.0], "a", ValueError, "returned None; expected"),
        (lambda prompts, completions: [1.0], "a b", ValueError, "1 rewards; expected 5"),
        (too_long, "a", RuntimeError, "217 tokens; expected at most 128"),
    ],
)
def test_what_has_no_word_scores_is_refused(reward, completion, error, message):
    with pytest.raises(error, match=message):
        word_scores(reward, "p", completion)
