"""What a loop does with a reward: what it hands over, what it does without one, when it warns."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import warnings
from pathlib import Path

import datasets
import pytest
import torch
from datasets import Dataset

from rlhf_lib.algorithms.loop import fill_unscored, ids_of, score, warn_if_constant
from rlhf_lib.machinery import processes
from rlhf_lib.models.rewards import weighted_sum
from rlhf_lib.models.rollout import sample
from rlhf_lib.worlds.reward_sources import VerifiableReward
from tests.unit import loops
from tests.unit.loops import with_settings
from tests.unit.small import (
    RAGGED,
    count_words,
    hasty,
    in_a_running_loop,
    reward_model,
    tokenizer,
    weights,
)

ANSWERS = [["a"], ["b"], ["c"], ["d"]]
DATA = Dataset.from_dict({"prompt": RAGGED, "answer": ANSWERS, "reward": [1.0, 2.0, 3.0, 4.0]})
ppo, grpo = (
    with_settings(make, model=hasty, dataset=DATA, missing_eos_penalty=0.0)
    for make in (loops.ppo, loops.grpo)
)
LOOPS = pytest.mark.parametrize("make", [ppo, grpo])


def fixed(*values):
    return lambda prompts, completions, **columns: list(values)


def rollout(prompts=RAGGED):
    return sample(hasty(), tokenizer(), prompts, 7, generator=torch.Generator().manual_seed(1))


# --- what it hands over ---------------------------------------------------------------------------


def test_the_tokens_of_a_completion_end_with_its_end_token():
    found = rollout(RAGGED * 3)
    for ids, text, finished in zip(ids_of(found), found.completions, found.finished.tolist()):
        end = [tokenizer().eos_token_id] if finished else []
        plain = ids[:-1] if finished else ids
        assert ids == [*plain, *end] and tokenizer().eos_token_id not in plain
        assert tokenizer().decode(plain) == text
    lengths = list(map(len, ids_of(found)))
    assert lengths == found.lengths.tolist() and len(set(lengths)) > 1


def test_a_score_is_the_reward_less_the_penalty_of_what_was_cut_off():
    found = rollout(RAGGED * 3)
    values = [float(i) for i in range(12)]
    scores = score(fixed(*values), found, 0.75, {})
    expected = [v - 0.75 * (not end) for v, end in zip(values, found.finished.tolist())]
    assert scores.tolist() == expected and 0 < found.finished.sum() < 12
    assert score(fixed(*[None] * 12), found, 0.75, {}).isnan().all()
    assert score([fixed(*values)] * 2, found, 0.0, {}).tolist() == [2 * v for v in values]


def test_a_column_of_the_data_does_not_stand_in_for_what_was_sampled():
    found = rollout()

    def seen(prompts, completions, completion_ids, price):
        assert (prompts, completions) == (found.prompts, found.completions)
        assert completion_ids == ids_of(found) and price == [1, 2, 3, 4]
        return [1.0] * 4

    columns = {"prompts": ["x"] * 4, "completions": ["y"] * 4, "completion_ids": [[0]] * 4}
    score(seen, found, 0.0, {**columns, "price": [1, 2, 3, 4]})


@LOOPS
@pytest.mark.parametrize("name", ["prompts", "completions"])
def test_a_column_under_the_name_of_a_batch_is_refused_before_the_first_step(make, name):
    with pytest.raises(ValueError, match=f"has a column '{name}', and a reward gets the batch's"):
        make(dataset=DATA.add_column(name, RAGGED))


@LOOPS
def test_a_picture_is_decoded_when_its_row_is_taken(make):
    """The last one is none, and no step takes it."""
    from PIL import Image

    pictures = [Image.new("L", (size, 2)) for size in (1, 2, 3)]
    stored = [datasets.Image().encode_example(picture) for picture in pictures]
    rows = {"prompt": RAGGED, "picture": [*stored, {"bytes": b"none", "path": None}]}
    kinds = datasets.Features({"prompt": datasets.Value("string"), "picture": datasets.Image()})
    loop, seen = make(dataset=Dataset.from_dict(rows, features=kinds)), []

    def reward(prompts, completions, picture, **columns):
        seen.extend((RAGGED.index(p), image.width) for p, image in zip(prompts, picture))
        return count_words(prompts, completions)

    loop.reward = reward
    loop.sample_and_score(loop.policy, [2, 0, 2, 1])
    assert seen == [(2, 3), (0, 1), (2, 3), (1, 2)] and len(loop.data["picture"]) == 4
    with pytest.raises(OSError, match="cannot identify image"):
        loop.sample_and_score(loop.policy, [3])


@LOOPS
def test_a_column_that_cannot_be_decoded_is_named(make, monkeypatch):
    def without_library(*_, **__):
        raise ImportError("To support decoding images, please install 'Pillow'.")

    kinds = datasets.Features({"prompt": datasets.Value("string"), "face": datasets.Image()})
    rows = {"prompt": RAGGED, "face": [{"bytes": b"", "path": None}] * 4}
    data = Dataset.from_dict(rows, features=kinds)
    monkeypatch.setattr(datasets.Image, "decode_example", without_library)
    loop = make(dataset=data)
    with pytest.raises(ImportError, match="column 'face' of .* install 'Pillow'.*remove_columns"):
        loop.step()
    make(dataset=data.remove_columns("face")).step()


@LOOPS
def test_a_reward_that_changes_its_lists_changes_nothing_else(make):
    def spoil(prompts, completions, completion_ids, answer, **columns):
        found = [float(len(text.split())) for text in completions]
        prompts.sort(), completions.clear(), completion_ids[0].clear(), answer[0].append("x")
        return found

    records = [list(make(reward=reward)) for reward in (spoil, count_words)]
    for one, other in zip(*records, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    loop = make(reward=spoil)
    loop.step()
    assert loop.data["answer"] == ANSWERS and len(loop.rollout.completions) == 8


@LOOPS
def test_an_async_reward_trains_as_any_other_inside_a_loop_that_runs(make):
    async def counted(prompts, completions, **columns):
        await asyncio.sleep(0)
        return count_words(prompts, completions)

    async def verdict(prompt, completion, answer):
        return answer[0] in completion

    async def cell():
        right = VerifiableReward(verdict, columns=("answer",))
        loop = make(reward=weighted_sum([counted, right], [1.0, 0.0]))
        return list(loop), weights(loop.policy), right.errors

    records, after, errors = in_a_running_loop(cell)
    plain = make()
    assert [r["reward"] for r in records] == [r["reward"] for r in plain] and errors == 0
    assert torch.equal(after, weights(plain.policy))


@LOOPS
def test_several_rewards_are_added_up_and_no_model_is_one(make):
    loop = make(reward=[count_words, lambda completions, **columns: [3.0] * len(completions)])
    record = loop.step()
    assert record["reward"] == pytest.approx(make().step()["reward"] + 3)
    assert loop.reward.parts == {
        "count_words": pytest.approx(record["reward"] - 3),
        "<lambda>": 3.0,
    }
    with pytest.raises(ValueError, match=r"reward is a GPT2For.*LearnedReward\(model, tokenizer\)"):
        make(reward=reward_model())


# --- where no reward applies ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "groups, expected",
    [
        ([[1.0, None, 3.0], [4.0, 4.0, None]], [[1.0, 2.0, 3.0], [4.0] * 3]),
        ([[None] * 3, [1.0, 3.0, None]], [[2.0] * 3, [1.0, 3.0, 2.0]]),
        ([[None] * 3] * 2, [[0.0] * 3] * 2),
        ([[0.1] * 7 + [None], [1.3] * 7 + [None]], [[0.1] * 8, [1.3] * 8]),  # to the last bit
    ],
)
def test_what_has_no_score_counts_as_the_mean_of_its_group(groups, expected):
    table = torch.tensor([[math.nan if x is None else x for x in row] for row in groups])
    with pytest.warns(RuntimeWarning, match="no reward applies to some completions, all gave None"):
        found = fill_unscored(table)
    assert torch.equal(found, torch.tensor(expected))


def test_scores_without_gaps_stay_as_they_are():
    table = torch.tensor([[1.0, 2.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fill_unscored(table) is table


def test_in_grpo_an_unscored_completion_has_no_advantage_and_its_group_a_fair_one():
    """Groups of 4, two a batch: None in the first; the second has no score at all."""
    loop = grpo(reward=fixed(1.0, None, 2.0, 3.0, None, None, None, None), beta=0.0)
    seen, update = [], loop.update
    loop.update = lambda batch: seen.append(batch) or update(batch)
    with pytest.warns(RuntimeWarning, match="no reward applies"):
        rollout, scores, drawn = loop.collect()
    assert scores.tolist() == drawn.tolist() == [1.0, 2.0, 2.0, 3.0] + [2.0] * 4
    record = loop.learn(rollout, scores, drawn)
    assert record["zero_variance_groups"] == 0.5 and record["reward"] == 2.0
    advantages = torch.cat([batch.advantages for batch in seen])[:, 0].tolist()
    assert sorted(advantages)[2:-2] == pytest.approx([0.0] * 12, abs=1e-6)
    assert torch.isfinite(weights(loop.policy)).all()


def test_in_ppo_an_unscored_completion_is_an_average_one_of_the_batch():
    loop = ppo(reward=fixed(1.0, None, 2.0, 3.0, None, 6.0, None, None))
    with pytest.warns(RuntimeWarning, match="no reward applies"):
        record = loop.step()
    assert record["reward"] == 3.0 and torch.isfinite(weights(loop.policy)).all()


def test_rewards_that_apply_to_some_train_on_those():
    """Two rewards for two kinds of prompts, and no word about it: one applies to each."""

    def of(kind):
        def reward(prompts, completions, **columns):
            words = count_words(prompts, completions)
            return [w if kind(p) else None for w, p in zip(words, prompts, strict=True)]

        return reward

    refund = of(lambda prompt: "refund" in prompt)
    other = of(lambda prompt: "refund" not in prompt)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        both, plain = grpo(reward=[refund, other]), grpo()
        assert [r["reward"] for r in both] == [r["reward"] for r in plain]
    assert torch.equal(weights(both.policy), weights(plain.policy))


# --- a reward that is the same for all ------------------------------------------------------------


@pytest.mark.parametrize(
    "groups, said",
    [
        ([[1.5, 1.5], [1.5, 1.5]], "the reward is 1.5 for each of the 4 completions"),
        ([[0.0, 0.0, 0.0]], "the reward is 0 for each of the 3 completions"),
        ([[1.0, 1.0], [2.0, 2.0]], "the reward is that of its whole group for each of the 4"),
        ([[1.0, 1.0], [2.0, 2.5]], None),
        ([[1.0, 2.0], [2.0, 2.0]], None),
        ([[1.0], [1.0]], None),  # nothing to compare with
    ],
)
def test_equal_rewards_are_told(groups, said):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        warn_if_constant(torch.tensor(groups))
    assert len(found) == (said is not None)
    if said:
        assert said in str(found[0].message) and found[0].category is RuntimeWarning


@pytest.mark.parametrize(
    "settings", [{}, {"dynamic_sampling": True, "max_draws": 2}, {"beta": 0.0}]
)
def test_grpo_says_that_a_reward_is_constant(settings):
    loop = grpo(reward=fixed(*[0.5] * 8), **settings)
    with pytest.warns(RuntimeWarning, match=r"the reward is 0.5 for each of the 8 completions"):
        record = loop.step()
    assert record["zero_variance_groups"] == 1


def test_grpo_says_that_a_reward_knows_the_prompt_alone():
    loop = grpo(reward=fixed(*[0.5] * 4, *[2.0] * 4))
    with pytest.warns(
        RuntimeWarning, match="the reward is that of its whole group for each of the"
    ):
        loop.step()
    with warnings.catch_warnings():  # PPO compares over the batch
        warnings.simplefilter("error")
        ppo(reward=fixed(*[0.5] * 4, *[2.0] * 4)).step()


@pytest.mark.parametrize("rank", [0, 1])
def test_of_several_processes_the_first_says_it(rank, monkeypatch):
    monkeypatch.setattr(processes, "rank_and_count", lambda: (rank, 2))
    monkeypatch.setattr(processes, "gather", lambda value: [None, None])
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        warn_if_constant(torch.ones(2, 4))
    assert len(found) == (rank == 0)


ONCE = """
import torch; torch.set_num_threads(1)
from tests.unit import loops
constant = lambda prompts, completions, **columns: [0.0] * len(completions)
loop = loops.{make}(reward=constant, missing_eos_penalty=0.0, max_steps=3)
print(len(list(loop)))
"""


@pytest.mark.parametrize("make", ["ppo", "grpo"])
def test_with_pythons_own_filter_it_is_said_once_in_a_run(make):
    done = subprocess.run(
        [sys.executable, "-c", ONCE.format(make=make)],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["3"] and done.stderr.count("the reward is 0 for each") == 1
