"""Human pairs: no dialogue on both sides of a split, baselines with known answers, and a rehearsal.

The rehearsal makes every kind of run with a tiny model, on the written-out sample.
"""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import real_preferences
from benchmarks.human_pairs import (
    HumanPair,
    counted,
    difference,
    digest,
    fit,
    fitted,
    length_margins,
    measured,
    parted,
    read_pairs,
    shared_dialogues,
    table,
    turns_of,
    words_margins,
)
from benchmarks.real_preferences import KINDS, Place, Setup, assert_floors, plan, run
from rlhf_lib.algorithms import GRPOConfig
from rlhf_lib.algorithms.reward_training import RewardConfig
from rlhf_lib.families.special_tokens import add_pad_token
from rlhf_lib.models.reward_model import new_reward_model
from rlhf_lib.models.rewards import LearnedReward
from rlhf_lib.worlds.dialogues import Writer
from rlhf_lib.worlds.lengths import row_lengths
from tests.unit import ggufs

SAMPLE = Path(__file__).resolve().parents[1] / "data" / "hh-rlhf"
SMALL = Setup(
    max_length=250,
    held_out=3,
    reward=RewardConfig(batch_size=2, warmup_steps=0, microbatch_tokens=600, bf16=True),
    prompt_length=200,
    prompts=2,
    measured_every=1,
    over=GRPOConfig(
        batch_size=4,
        mini_batch_size=4,
        num_generations=2,
        num_iterations=1,
        max_steps=2,
        max_new_tokens=4,
        missing_eos_penalty=0.0,
        beta=0.02,
        kl_in="reward",
        learning_rate=1e-3,
        warmup_steps=0,
        bf16=True,
    ),
    n=2,
    batch_size=4,
)


def pair(dialogue: str, chosen: str, rejected: str, turns: int = 1) -> HumanPair:
    said = tuple((("user", "assistant")[k % 2], f"{dialogue} {k}") for k in range(turns))
    return HumanPair(dialogue, said, chosen, rejected)


@pytest.fixture(scope="module")
def start():
    model, tokenizer = copy.deepcopy(ggufs.source())
    add_pad_token(model, tokenizer)
    return model, tokenizer


# ---------------------------------------------------------------------------------- the data


def test_the_sample_is_read():
    pairs = read_pairs(SAMPLE)
    assert len(pairs) == 8  # and one that has an empty reply
    assert pairs[0].turns == (("user", "When does the library open?"),)
    assert pairs[0].rejected == "No idea." and pairs[0].dialogue == "when does the library open ?"
    assert [len(p.turns) for p in pairs] == [1, 3, 1, 1, 3, 1, 1, 1]
    assert digest(pairs) != digest(pairs[::-1])


@pytest.mark.parametrize("folder", [None, "", "/no/such/folder"])
def test_a_missing_folder_is_told_with_where_to_get_it(folder):
    with pytest.raises(FileNotFoundError, match="HH-RLHF with a test split.*--data.*HH_RLHF_DIR"):
        read_pairs(folder)


def test_a_folder_without_the_data_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="has none; expected a folder of Anthropic's"):
        read_pairs(tmp_path)


def test_the_command_says_what_is_missing(monkeypatch, capsys):
    monkeypatch.delenv("HH_RLHF_DIR", raising=False)
    monkeypatch.setattr("sys.argv", ["real_preferences"])
    with pytest.raises(SystemExit):
        real_preferences.main()
    assert "the folder of preferences is 'None'; expected a folder" in capsys.readouterr().err


def test_turns_are_told_apart():
    prompt = "\n\nHuman: a\n\nb\n\nAssistant: c\n\nHuman: d\n\nAssistant:"
    assert turns_of(prompt) == (("user", "a\n\nb"), ("assistant", "c"), ("user", "d"))


def test_long_pairs_lose_their_oldest_turns_and_then_their_place(start):
    _, tokenizer = start
    pairs = [pair("hello", "yes", "no", turns=5), pair("bye", "y" * 300, "no")]
    whole, shorter = (
        row_lengths(tokenizer, *([text] for text in p.texts(Writer(tokenizer))))[0]
        for p in (pairs[0], HumanPair("hello", pairs[0].turns[2:], "yes", "no"))
    )
    assert fitted(pairs, tokenizer, whole)[0] == pairs[0]
    (kept,) = fitted(pairs, tokenizer, whole - 1)  # the other has no turn to lose
    assert (kept.turns, kept.cut) == (pairs[0].turns[2:], 2) and shorter < whole
    assert kept.turns[0][0] == "user" and kept.dialogue == "hello"
    assert fitted(pairs, tokenizer, 5) == []


def test_no_dialogue_is_in_two_parts():
    pairs = [pair(f"dialogue {i % 40}", "yes", f"no {i}") for i in range(100)]
    parts = parted(pairs, 30)
    assert sorted(map(str, sum(parts.values(), []))) == sorted(map(str, pairs))
    assert 30 <= len(parts["held_out"]) <= 32  # dialogues have two or three pairs
    assert abs(len(parts["proxy"]) - len(parts["gold"])) <= 5
    names = [{p.dialogue for p in part} for part in parts.values()]
    assert not names[0] & names[1] and not names[0] & names[2] and not names[1] & names[2]
    assert parted(pairs, 30) == parts != parted(pairs, 30, seed=1)
    assert shared_dialogues(pairs[:40], pairs[40:50]) == 10
    with pytest.raises(ValueError, match="held_out is 100 of 100 pairs; expected some for each"):
        parted(pairs, 100)


# ---------------------------------------------------------------------------------- baselines


def test_a_word_gets_the_log_odds_with_which_it_is_chosen():
    pairs = 3 * [pair("a", "please wait", "wait")] + [pair("a", "wait", "please wait")]
    counts = counted(pairs)
    assert counts == 3 * [{"please": 1}] + [{"please": -1}]
    x = table(counts, ["please", "wait"])
    assert x.tolist() == 3 * [[1, 0]] + [[-1, 0]]
    assert fit(x, 0.0).tolist() == pytest.approx([math.log(3), 0], abs=1e-5)
    weight = fit(x[:, :1], 0.5).item()  # at the least: strength · w = mean of (y − σ)
    assert 0.5 * weight == pytest.approx(0.75 - torch.tensor(weight).sigmoid().item(), abs=1e-5)
    assert fit(x[:, :0], 0.5).shape == (0,)


def test_the_words_find_what_the_people_like():
    generator = np.random.default_rng(0)

    def written(kind: str) -> str:
        return " ".join([kind, *generator.choice(["one", "two", "three"], 4)])

    pairs = [pair(f"d{i}", written("sure"), written("never")) for i in range(60)]
    margins, told = words_margins(pairs[:40], pairs[40:])
    assert (margins > 0).all() and told["words"] == 5 and told["validation_pairs"] == 8
    swapped = [HumanPair(p.dialogue, p.turns, p.rejected, p.chosen) for p in pairs[40:]]
    assert np.allclose(words_margins(pairs[:40], swapped)[0], -margins)


def test_length_alone_may_be_liked_or_disliked():
    short = [pair(f"d{i}", "no", "no" * 50) for i in range(3)] + [pair("d", "no" * 50, "no")]
    margins, told = length_margins(short, [pair("e", "no", "no" * 50)])
    assert margins[0] == pytest.approx(math.log(3), abs=1e-5)  # 98 characters, three times of four
    assert told["log_odds_per_100_characters"] == pytest.approx(-math.log(3) / 0.98, abs=1e-5)


# ---------------------------------------------------------------------------------- measures


def test_the_measures_of_four_margins():
    odds = math.log(3)  # ¾, and right three times of four
    found = measured([odds, odds, odds, -odds], [5, 5, -5, -5])
    assert (found["pairs"], found["accuracy"], found["confidence"]) == (4, 0.75, 0.75)
    assert found["interval"][0] < 0.75 < found["interval"][1]
    assert found["ece"] == pytest.approx(0) and found["temperature"] == pytest.approx(1)
    assert 0.1 < found["ece_by_chance"] < 0.3
    assert found["bins"] == [pytest.approx([0.75, 0.75, 4])]
    assert found["log_loss"] == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert found["where_chosen_is_longer"]["accuracy"] == 1
    assert found["where_chosen_is_shorter"]["accuracy"] == 0.5
    assert found["length_correlation"] == pytest.approx(1 / math.sqrt(3))


def test_where_nothing_can_be_said_nothing_is():
    found = measured([0.0, 0.0], [1, 0])
    assert found["accuracy"] == 0.5 and found["temperature"] is None
    assert found["length_correlation"] is None
    assert found["where_chosen_is_shorter"] == {"pairs": 0, "accuracy": None, "interval": None}


def test_a_difference_is_one_of_the_same_pairs():
    one, other = [1.0, 2.0, -1.0, 3.0], [1.0, -1.0, -2.0, 0.0]
    found = difference(one, other, ["a", "b", "c", "d"])
    assert found["difference"] == pytest.approx((1 + 0.5) / 4)
    assert 0 == found["interval"][0] < 0.375 < found["interval"][1]
    together = difference(one, other, ["a", "a", "a", "a"])  # nothing is left to vary
    assert together["interval"] == pytest.approx([0.375, 0.375])


def test_fast_scores_are_those_of_the_model_up_to_rounding(start):
    model, tokenizer = start
    reward_model = new_reward_model(model, seed=1)
    texts = [p.texts(Writer(tokenizer)) for p in read_pairs(SAMPLE)]
    prompts, chosen, _ = map(list, zip(*texts))
    exact = torch.tensor(LearnedReward(reward_model, tokenizer)(prompts, chosen))
    fast = torch.tensor(real_preferences.FastReward(reward_model, tokenizer, 3)(prompts, chosen))
    assert torch.allclose(fast, exact, atol=0.1 * exact.std().item())
    assert not torch.equal(fast, exact)


# ---------------------------------------------------------------------------------- all runs


def test_the_plan():
    assert plan([1, 2, 3]) == [
        ("words", 1, True),
        *(("reward", seed, True) for seed in (1, 2, 3)),
        ("reward", 1, False),
        *((kind, 1, True) for kind in ("proxy", "gold", "over", "best_of_n")),
    ]
    assert plan([2], ["reward", "over"])[1:] == [("reward", 1, False), ("over", 1, True)]


@pytest.fixture(scope="module")
def lines(start, tmp_path_factory):
    """Every kind of run, made with a tiny model."""
    place = Place(str(SAMPLE), tmp_path_factory.mktemp("models"), 1, SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(real_preferences, "load_start", lambda models: copy.deepcopy(start))
        with pytest.raises(FileNotFoundError, match="has no reward model; make it by --kinds"):
            run("over", 1, True, place)
        found = {values[0] + str(values[2]): run(*values, place) for values in plan([1])}
        other = replace(place, setup=replace(SMALL, epochs=2))
        with pytest.raises(ValueError, match="was made from other data or settings"):
            run("best_of_n", 1, True, other)
    return found


def test_every_kind_of_run_clears_the_floors(lines):
    assert {line["kind"] for line in lines.values()} == {*KINDS}
    for line in lines.values():
        assert_floors(line, SMALL)
        json.dumps(line, allow_nan=False)
        assert line["data"]["kept"] == 8 and line["peak_bytes"] > 0 and line["seconds"] > 0


def test_no_word_of_the_data_is_recorded(lines):
    text = json.dumps(list(lines.values()))
    for pair in read_pairs(SAMPLE):
        for said in (pair.chosen, pair.rejected, *(said for _, said in pair.turns)):
            assert len(said) < 8 or said not in text


def test_halves_are_trained_apart_and_one_model_on_both(lines):
    sizes = [lines[name]["train_pairs"] for name in ("rewardTrue", "proxyTrue", "goldTrue")]
    assert sizes[0] == sizes[1] + sizes[2] == 8 - lines["rewardTrue"]["data"]["held_out"]
    template, plain = lines["rewardTrue"], lines["rewardFalse"]
    assert template["train_tokens"] != plain["train_tokens"]
    assert template["margins"] != plain["margins"] and template["longer"] == plain["longer"]


def test_a_line_that_lacks_something_is_refused(lines):
    for name, damage in (
        ("wordsTrue", dict(shared_dialogues=1)),
        ("rewardTrue", dict(margins=[1.0])),
        ("overTrue", dict(shared_prompts=1)),
        ("overTrue", dict(curve=lines["overTrue"]["curve"][:1])),
        ("best_of_nTrue", dict(curve=lines["best_of_nTrue"]["curve"][::-1])),
    ):
        with pytest.raises(AssertionError):
            assert_floors({**lines[name], **damage}, SMALL)


def test_the_policy_moves_and_is_read(lines):
    over = lines["overTrue"]
    assert [row["step"] for row in over["curve"]] == [0, 1, 2]
    assert over["curve"][0]["proxy_gain"] == 0 and over["curve"][-1]["kl"] > 0
    assert all(len(reply) == 4 for rows in over["shown"] for reply in rows)
    assert [row["n"] for row in lines["best_of_nTrue"]["curve"]] == [1, 2]
