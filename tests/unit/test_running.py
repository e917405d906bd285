"""Run logs, the order of the data, supervised training, artifacts, evaluation."""
import json
import math

import pytest
import torch
from tests.unit.small import RAGGED, count_words, policy, tokenizer

from rlhf_lib import artifacts
from rlhf_lib.evaluation import evaluate
from rlhf_lib.rollout import sample
from rlhf_lib.runlog import RunLog, read_log
from rlhf_lib.sft import SFT, SFTConfig
from rlhf_lib.training import rows_of_step
from rlhf_lib.worlds import letters


def test_epochs_are_reshuffled_and_every_row_comes_once_an_epoch():
    rows = [row for step in range(10) for row in rows_of_step(20, 4, step, seed=0)]
    assert sorted(rows[:20]) == sorted(rows[20:]) == list(range(20))
    assert rows[:20] != rows[20:] and rows[:20] != list(range(20))
    assert rows_of_step(20, 4, 7, seed=0) == rows[28:32]  # a function of the step alone
    assert rows_of_step(20, 4, 7, seed=1) != rows[28:32]
    assert sorted(rows_of_step(3, 6, 0, seed=0)) == [0, 0, 1, 1, 2, 2]  # more than an epoch
    with pytest.raises(ValueError, match="0 rows"):
        rows_of_step(0, 4, 0, seed=0)


def test_a_log_is_continued_and_never_overwritten(tmp_path):
    path = tmp_path / "run" / "log.jsonl"
    for step in (1, 2):
        with RunLog(path) as log:
            log.write({"step": step})
    assert read_log(path) == [{"step": 1}, {"step": 2}]


def test_a_torn_last_line_is_cut_off_before_the_log_goes_on(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"st')
    assert read_log(path) == [{"step": 1}]
    with RunLog(path) as log:
        log.write({"step": 2})
    assert read_log(path) == [{"step": 1}, {"step": 2}]


def test_a_record_is_on_disk_when_write_returns(tmp_path):
    log = RunLog(tmp_path / "log.jsonl")
    log.write({"step": 1})
    assert json.loads((tmp_path / "log.jsonl").read_text()) == {"step": 1}
    log.close()


def test_damage_in_the_middle_of_a_log_is_named(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(ValueError, match="log.jsonl, line 2: expected a JSON object"):
        read_log(path)


def test_sft_learns_to_write_what_was_demonstrated():
    from datasets import Dataset
    data = Dataset.from_dict({"prompt": RAGGED, "completion": ["hello ben, thank you."] * 4})
    model = policy()
    records = list(SFT(model, tokenizer(), data,
                       SFTConfig(max_steps=60, batch_size=4, learning_rate=1e-2, warmup_steps=5)))
    assert records[0]["loss"] > 4 and records[-1]["loss"] < .1
    rollout = sample(model, tokenizer(), RAGGED, 8, greedy=True)
    assert rollout.completions == ["hello ben, thank you."] * 4 and rollout.finished.all()


def test_evaluation_measures_what_it_says():
    model, other = policy(0), policy(1)
    result = evaluate(model, tokenizer(), RAGGED * 50, {"words": count_words}, reference=other,
                      max_new_tokens=6, batch_size=64)
    words = [float(len(text.split())) for text in result["completions"]]
    assert result["words"] == pytest.approx(sum(words) / 200)
    assert result["words_se"] == pytest.approx(torch.tensor(words).std().item() / math.sqrt(200))
    assert result["values"]["words"] == words and len(result["prompts"]) == 200
    assert result["kl"] > 10 * result["kl_se"] > 0
    same = evaluate(model, tokenizer(), RAGGED, {}, reference=policy(0), max_new_tokens=6)
    assert same["kl"] == pytest.approx(0., abs=1e-5)


@pytest.mark.parametrize("world, name, message", [
    ("poems", "sft", "world is 'poems'; expected one of 'letters'"),
    ("letters", "best", "artifact is 'best'; expected one of 'base', 'sft', 'reward'"),
])
def test_an_unknown_artifact_is_named(world, name, message):
    with pytest.raises(ValueError, match=message):
        artifacts.load(world, name)


def test_a_missing_artifact_says_how_to_rebuild_it(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "ROOT", tmp_path)
    with pytest.raises(FileNotFoundError, match="python -m rlhf_lib.artifacts letters"):
        artifacts.load("letters", "sft")


def test_a_corrupt_artifact_is_named(tmp_path, monkeypatch):
    import shutil
    source = artifacts.path("letters", "sft")
    shutil.copytree(source, tmp_path / "letters" / "sft")
    weights = tmp_path / "letters" / "sft" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    monkeypatch.setattr(artifacts, "ROOT", tmp_path)
    with pytest.raises(ValueError, match="expected a readable checkpoint"):
        artifacts.load("letters", "sft")


def test_the_shipped_models_have_the_quality_they_were_shipped_for():
    """The floors that `python -m rlhf_lib.artifacts letters --check` asserts too."""
    measured = artifacts.measure(*(artifacts.load("letters", name)[0]
                                   for name in ("base", "sft", "reward")), letters.tokenizer(),
                                 seed=artifacts.SEED)
    artifacts.assert_quality(measured)
