"""The benchmark of notes, rehearsed with a model of a few thousand weights; an interval by hand."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks import real_notes
from rlhf_lib.families.smollm2 import Unpacked
from rlhf_lib.models.reward_model import token_values
from rlhf_lib.running.model_folder import write_folder
from rlhf_lib.worlds import letters, notes


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A folder with a small model in place of the real one, and settings as small."""
    tokenizer = letters.tokenizer()
    ids = dict(pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id)
    size = dict(n_embd=16, n_layer=2, n_head=2, n_positions=192)
    config = GPT2Config(vocab_size=len(tokenizer), **size, **ids, bos_token_id=None)
    torch.manual_seed(0)
    small = GPT2LMHeadModel(config).eval()
    write_folder(tmp_path / "smollm2", Unpacked(small, tokenizer, "nothing"))
    few = dict(batch_size=8, max_steps=1, microbatch_tokens=None)
    online = few | dict(mini_batch_size=8, max_new_tokens=6)
    settings = {
        kind: dataclasses.replace(config, **(few if kind == "sft" else online))
        for kind, config in real_notes.SETTINGS.items()
    }
    monkeypatch.setattr(real_notes, "SETTINGS", settings)
    monkeypatch.setattr(real_notes, "PROMPTS", 8)
    monkeypatch.setattr(real_notes, "CRITIC_LAYERS", 1)
    monkeypatch.setattr(real_notes, "MAX_NEW_TOKENS", 6)
    return tmp_path


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # nothing that it writes is worth anything
def test_every_kind_of_run_gives_a_line_that_json_can_hold(models):
    lines = [real_notes.run(kind, 1, 1, models) for kind in ("sft", "grpo", "ppo")]
    for line in lines:
        json.dumps(line, allow_nan=False)
        assert line["origin"] == "nothing" and len(line["history"]) == 1
        assert line["rubric"].keys() == {"gain", "low", "high"}
        before, after = line["before"], line["after"]
        assert {*notes.CHECKS, "rubric", "length"} <= before.keys() and "kl" in after
        assert len(before["rubrics"]) == len(after["rubrics"]) == 8
        asked = [[x["asked"] for x in side["shown"]] for side in (before, after)]
        assert asked[0] == asked[1] and all(notes.parse(text).held_out for text in asked[0])
    sft, *online = lines
    assert sft["loss_before"] != sft["loss_after"]
    told = (models / "notes-sft" / "README.md").read_text(encoding="utf-8")
    assert "nothing" in told and "max_steps=1" in told
    for line in online:  # from the SFT model, and not from the untouched one
        assert {"ratio_gap", "kl", "entropy", "length", "seconds"} <= line["history"][0].keys()
        assert line["before"]["shown"] == sft["after"]["shown"]
        assert line["estimators"].keys() == {"k1", "k2", "k3", "exact", "tokens"}


def test_the_estimators_are_of_the_policys_own_tokens(models, monkeypatch):
    """0 for two models that are one; else k1 and k3 are near the exact KL, and none is below 0."""
    policy, tokenizer = real_notes.tuned(models)
    same = real_notes.estimated(policy, policy, tokenizer, 1)
    assert all(same[name] == (0.0, 0.0) for name in ("k1", "k3"))
    monkeypatch.setattr(real_notes, "PROMPTS", 200)
    other = copy.deepcopy(policy)
    with torch.no_grad():
        noise = torch.Generator().manual_seed(0)
        weight = other.transformer.h[0].mlp.c_proj.weight
        weight += 0.3 * torch.randn(weight.shape, generator=noise)
    found = real_notes.estimated(policy, other, tokenizer, 1)
    exact = found["exact"][0]
    for name in ("k1", "k3"):
        mean, spread = found[name]
        assert abs(mean - exact) < 5 * spread / found["tokens"] ** 0.5
    assert exact > 0.001 and found["k3"][1] < found["k1"][1] and found["tokens"] > 800


def test_the_critic_has_the_lowest_layers_and_computes_by_them_alone(models):
    policy, tokenizer = real_notes.tuned(models)
    critic = real_notes.small_critic(policy, 1)
    batch = real_notes.encode(tokenizer, ["ab"], ["cd"])
    values = token_values(critic, batch)
    with torch.no_grad():
        policy.transformer.h[0].mlp.c_proj.weight.mul_(3)  # it is a copy
        critic.transformer.h[0].mlp.c_proj.weight.mul_(3)
    assert not torch.equal(values, token_values(critic, batch))
    assert len(critic.transformer.h) == critic.config.num_hidden_layers == 1


def test_other_settings_of_sft_train_it_anew(models, monkeypatch):
    real_notes.tuned(models)
    folder = models / "notes-sft"
    made = (folder / "README.md").stat().st_mtime_ns
    real_notes.tuned(models)
    assert (folder / "README.md").stat().st_mtime_ns == made
    slower = dataclasses.replace(real_notes.SETTINGS["sft"], learning_rate=1e-6)
    monkeypatch.setitem(real_notes.SETTINGS, "sft", slower)
    real_notes.tuned(models)
    assert (folder / "README.md").stat().st_mtime_ns > made
    assert "learning_rate=1e-06" in (folder / "README.md").read_text(encoding="utf-8")


def test_demonstrations_are_left_out_whole():
    seen, left_out = real_notes.demonstrations(None)
    assert len(left_out) == real_notes.LEFT_OUT
    assert len(seen) + len(left_out) == len(notes.written())
    assert not {*seen["completion"]} & {*left_out["completion"]}


def test_a_paired_interval_by_hand():
    """Differences .2, 0 and .4: mean .2, deviation .2, and 1.96 × .2 / √3 = .226 each side."""
    found = real_notes.paired([0.2, 0.4, 0.6], [0.4, 0.4, 1.0])
    assert found["gain"] == pytest.approx(0.2)
    assert found["low"] == pytest.approx(-0.0263, abs=1e-4)
    assert found["high"] == pytest.approx(0.4263, abs=1e-4)
    with pytest.raises(ValueError):
        real_notes.paired([0.2, 0.4], [0.2])


def test_the_floors_refuse_what_is_no_gain():
    line = {"kind": "sft", "seed": 1, "parameters": real_notes.PARAMETERS}
    line |= {"rubric": {"gain": 0.1, "low": 0.01, "high": 0.2}}
    line |= {"loss_before": 3.0, "loss_after": 2.0}
    real_notes.assert_floors(line)
    real_notes.assert_floors({**line, "kind": "ppo"})
    for worse in (
        {"rubric": {"gain": 0.1, "low": 0.0, "high": 0.2}},
        {"loss_after": 3.0},
        {"parameters": 1},
    ):
        with pytest.raises(AssertionError, match="sft, seed 1"):
            real_notes.assert_floors(line | worse)


def test_the_plan_has_sft_first_and_each_method_with_each_seed():
    first, *others = real_notes.plan([1, 2])
    assert first[0] == "sft"
    assert others == [("grpo", 1), ("grpo", 2), ("ppo", 1), ("ppo", 2)]


def test_the_longest_demonstration_is_not_cut_off():
    """In words and marks, of which the model's tokenizer makes one token each, and a line's end."""
    longest = max(len(letters.words(note)) + note.count("\n") for _, note in notes.written())
    assert longest < real_notes.MAX_NEW_TOKENS
