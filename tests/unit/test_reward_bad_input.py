"""Pairs that nothing, or the wrong thing, can be learned from: what the loader and the loop say."""

from __future__ import annotations

import json
import logging
import math

import pytest
from datasets import Dataset

from rlhf_lib.algorithms.reward_training import RewardConfig, RewardTraining, pair_accuracy
from rlhf_lib.worlds.data import load_preferences
from rlhf_lib.worlds.lengths import row_lengths
from tests.unit.small import reward_model, tokenizer

ASK = "write to ben. confirm: the car, friday. reply:"
GOOD, BAD = "hi ben, your car is booked for friday. thanks", "no."


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def rows(*pairs) -> list[dict]:
    return [dict(zip(("prompt", "chosen", "rejected"), pair)) for pair in pairs]


def load(tmp_path, pairs, **options):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in pairs))
    return load_preferences(path, **options)


def said(caplog) -> list[str]:
    return [
        r.getMessage().partition(": ")[2]
        for r in caplog.records
        if r.name == "rlhf_lib.worlds.data"
    ]


def loop(pairs, **settings):
    dataset = Dataset.from_dict(
        {name: [row[name] for row in pairs] for name in ("prompt", "chosen", "rejected")}
    )
    settings = {"max_steps": 40, "batch_size": 2, "learning_rate": 3e-3, "seed": 0} | settings
    return RewardTraining(reward_model(), tokenizer(), dataset, RewardConfig(**settings))


# empty ------------------------------------------------------------------------------------------


def test_empty_replies_and_prompts_are_dropped_and_counted(tmp_path, caplog):
    pairs = rows((ASK, GOOD, BAD), (ASK, "", BAD), (ASK, GOOD, "  "), ("", GOOD, BAD))
    assert len(load(tmp_path, pairs)) == 1
    assert said(caplog) == [
        "dropped 3 of 4 rows: 2 with an empty reply (rows 1, 2), "
        "1 without a (shared) prompt (row 3)"
    ]


def test_a_file_without_a_pair_to_learn_from_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected rows to learn from, and had to drop 1 of 1"):
        load(tmp_path, rows((ASK, "", BAD)))
    with pytest.raises(ValueError, match="which has no rows"):
        load(tmp_path, [])


def test_training_and_measuring_refuse_no_pairs():
    with pytest.raises(ValueError, match="0 (pairs|rows); expected at least 1"):
        loop([])
    with pytest.raises(ValueError, match="0 (pairs|rows); expected at least 1"):
        pair_accuracy(
            reward_model(),
            tokenizer(),
            Dataset.from_dict({"prompt": [], "chosen": [], "rejected": []}),
        )


def test_a_missing_reply_is_refused_by_its_row():
    with pytest.raises(ValueError, match=r"rejected\[1\] of the dataset is None"):
        loop(rows((ASK, GOOD, BAD), (ASK, GOOD, None)))


# twice, and both ways round ---------------------------------------------------------------------


def test_repeats_and_contradictions_are_kept_and_counted(tmp_path, caplog):
    pairs = rows(
        (ASK, GOOD, BAD), (ASK, GOOD, BAD), (ASK, GOOD, BAD), (ASK, BAD, GOOD), (ASK, "yes.", BAD)
    )
    assert len(load(tmp_path, pairs)) == 5
    assert said(caplog) == ["kept 2 repeats of a pair, and 1 pairs that are there both ways round"]


def test_a_clean_file_is_loaded_in_silence(tmp_path, caplog):
    with caplog.at_level(logging.DEBUG, "rlhf_lib.worlds.data"):
        assert len(load(tmp_path, rows((ASK, GOOD, BAD), (ASK, "yes.", BAD)))) == 2
    assert said(caplog) == []


def test_a_repeated_pair_weighs_as_often_as_it_stands():
    """Three against one, told as four rows: the fitted gap is log 3, odds of 3 to 1."""
    run = loop(
        rows(*[(ASK, GOOD, BAD)] * 3, (ASK, BAD, GOOD)),
        batch_size=4,
        max_steps=150,
        weight_decay=0.0,
        center_rewards_coefficient=0.0,
    )
    record = list(run)[-1]
    assert record["loss"] == pytest.approx(math.log(4) - 0.75 * math.log(3), abs=0.002)


def test_a_contradiction_teaches_a_tie():
    run = loop(rows((ASK, GOOD, BAD), (ASK, BAD, GOOD)))
    record = list(run)[-1]
    assert record["loss"] == pytest.approx(math.log(2), abs=0.002)


# identical --------------------------------------------------------------------------------------


def test_equal_replies_are_dropped_and_counted(tmp_path, caplog):
    assert len(load(tmp_path, rows((ASK, GOOD, GOOD), (ASK, GOOD, BAD)))) == 1
    assert said(caplog) == ["dropped 1 of 2 rows: 1 with two equal replies (row 0)"]


def test_equal_replies_teach_nothing():
    """A dataset that was not loaded from a file may hold them: log 2, and no gradient."""
    run = loop(rows((ASK, GOOD, GOOD)), center_rewards_coefficient=0.0)
    loss, _ = run.loss(*run.collect())
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    assert max(p.grad.abs().max() for p in run.model.parameters() if p.grad is not None) < 1e-6
    assert pair_accuracy(run.model, tokenizer(), Dataset.from_list(rows((ASK, GOOD, GOOD)))) == 0.5


# longer than the context ------------------------------------------------------------------------


def test_lengths_count_prompt_longer_reply_and_end():
    words = len(tokenizer()(ASK)["input_ids"])
    assert row_lengths(tokenizer(), [ASK], ["no."], ["no. no."]) == [words + 4 + 1]


def test_a_pair_over_the_context_stops_the_run_before_its_first_step():
    pairs = rows((ASK, GOOD, BAD), (ASK, GOOD, "no. " * 30))
    length = row_lengths(tokenizer(), [ASK], [GOOD], ["no. " * 30])[0]
    told = rf"1 of 2 rows do not fit: 1\. Row 1 takes {length} tokens; expected at most 64, the"
    with pytest.raises(
        ValueError, match=rf"{told} context of the model\. It begins .*fitting\(model, "
    ):
        loop(pairs)


def test_pairs_over_the_context_can_be_left_out(tmp_path, caplog):
    least = row_lengths(tokenizer(), [ASK], [GOOD], [BAD])[0]
    pairs = rows((ASK, GOOD, BAD), (ASK, GOOD, "no. " * 30))
    assert len(load(tmp_path, pairs, tokenizer=tokenizer(), max_length=least)) == 1
    assert said(caplog) == [f"dropped 1 of 2 rows: 1 longer than {least} tokens (row 1)"]
    with pytest.raises(ValueError, match="had to drop 2 of 2"):
        load(tmp_path, pairs, tokenizer=tokenizer(), max_length=least - 1)


def test_max_length_needs_a_tokenizer(tmp_path):
    with pytest.raises(ValueError, match="max_length is 64 and tokenizer is None"):
        load(tmp_path, rows((ASK, GOOD, BAD)), max_length=64)
