"""The command line: every command from start to report, stopped, resumed, and refused."""

from __future__ import annotations

import copy
import errno
import io
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import peft
import pytest
import torch

from rlhf_lib.models.policy import load_policy
from rlhf_lib.models.reward_model import load_reward_model
from rlhf_lib.running import artifacts, commands, report
from rlhf_lib.running import command_line as cli
from rlhf_lib.running import log as runlog
from rlhf_lib.running.command_line import Stop, main, make_parser, settle
from rlhf_lib.running.log import read_log
from rlhf_lib.running.report import read_run, table, write_report
from tests.unit.small import RAGGED, policy, reward_model, tokenizer

TRAINING = ["sft", "reward-model", "ppo", "grpo", "dpo"]
SETTINGS = {  # small enough for half a second
    "sft": "--rows 20 --batch-size 4 --max-steps 5 --eval-rows 6",
    "reward-model": "--rows 12 --batch-size 4 --max-steps 5 --eval-rows 6",
    "ppo": "--rows 40 --batch-size 4 --mini-batch-size 2 --max-steps 5 --eval-rows 6 "
    "--max-new-tokens 6",
    "grpo": "--rows 40 --batch-size 4 --num-generations 2 --mini-batch-size 2 --max-steps 5 "
    "--eval-rows 6 --max-new-tokens 6",
    "dpo": "--rows 12 --batch-size 4 --max-steps 5 --eval-rows 6",
    "best-of-n": "--rows 18 --batch-size 4 --num-generations 3 --max-new-tokens 6",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    """A policy and a reward model in folders, a thousandth of the shipped ones in size."""
    folder = tmp_path_factory.mktemp("models")
    for name, model in (("policy", policy(0)), ("reward", reward_model(0))):
        model.save_pretrained(folder / name)
        tokenizer().save_pretrained(folder / name)
    return {name: str(folder / name) for name in ("policy", "reward")}


@pytest.fixture(autouse=True)
def no_pictures(request, monkeypatch) -> None:
    """Only the runs of `unbroken` draw their report: drawing takes as long as the run."""
    if "unbroken" not in request.fixturenames:
        monkeypatch.setattr(report, "figure", lambda runs, path: "")


def line(command: str, models: dict, out, *more) -> list[str]:
    """The arguments of a small run."""
    flags = [
        f
        for name in cli.COMMANDS[command].models
        if name in models
        for f in (f"--{name}", models[name])
    ]
    return [command, "--out", str(out), *SETTINGS[command].split(), *flags, *map(str, more)]


@pytest.fixture(scope="module")
def unbroken(models, tmp_path_factory) -> dict[str, Path]:
    """One finished run of every command."""
    root = tmp_path_factory.mktemp("unbroken")
    for command in cli.COMMANDS:
        assert main(line(command, models, root / command)) == 0
    return {command: root / command for command in cli.COMMANDS}


def without_seconds(folder: Path) -> list[dict]:
    return [
        {k: v for k, v in record.items() if k != "seconds"}
        for record in read_log(folder / "log.jsonl")
    ]


def said(capsys) -> str:
    """The one line that an unsuccessful command leaves on stderr."""
    text = capsys.readouterr().err
    assert "Traceback" not in text and text.count("\n") == 1, text
    return text


# ------------------------------------------------------------------ what a run leaves


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_a_run_leaves_its_settings_its_log_and_its_report(unbroken, command):
    folder = unbroken[command]
    written = json.loads((folder / "settings.json").read_text())
    assert written["command"] == command and "torch" in written["versions"]
    assert shlex.split(written["command_line"])[:4] == ["python", "-m", "rlhf_lib", command]
    assert {f.name for f in fields(commands.COMMANDS[command][1])} < set(written["settings"])
    assert [record["step"] for record in read_log(folder / "log.jsonl")] == [1, 2, 3, 4, 5]
    report = (folder / "report.md").read_text()
    assert (
        "(report.png)" in report
        and "| metric " in report
        and "## Samples" in report
        or command == "reward-model"
    )
    assert (folder / "report.png").stat().st_size > 10_000
    assert not list(folder.rglob("*.new"))


@pytest.mark.parametrize("command", TRAINING)
def test_the_trained_model_is_a_folder_that_transformers_loads(unbroken, models, command):
    folder = unbroken[command] / "model"
    if command == "reward-model":
        model, start = load_reward_model(folder), load_reward_model(models["reward"])
    else:
        (model, words), (start, _) = load_policy(folder), load_policy(models["policy"])
        assert words.get_vocab() == tokenizer().get_vocab()
    assert not torch.equal(model.transformer.wte.weight, start.transformer.wte.weight)


@pytest.mark.parametrize("command", ["sft", "ppo", "grpo", "dpo"])
def test_held_out_measurements_come_with_their_errors(unbroken, command):
    evaluation = read_run(unbroken[command])["evaluation"]
    expected = (
        {"gold", "length"}
        | ({"kl"} if command != "sft" else set())
        | ({"reward"} if command in ("ppo", "grpo") else set())
    )
    for when in ("before", "after"):
        assert expected | {f"{name}_se" for name in expected} == {
            name for name, value in evaluation[when].items() if isinstance(value, float)
        }
        assert len(evaluation[when]["prompts"]) == len(evaluation[when]["completions"]) == 6
    if command != "sft":
        assert abs(evaluation["before"]["kl"]) < 1e-6 < evaluation["after"]["kl"]


def test_a_reward_model_is_standardised_on_samples_of_the_policy(unbroken, models):
    from rlhf_lib.models.rewards import LearnedReward
    from rlhf_lib.running.evaluation import evaluate

    start, words = load_policy(models["policy"])
    prompts = artifacts.compare(start, words, 12, 0)["prompt"][:]  # what it was trained on
    texts = evaluate(start, words, prompts, {}, seed=0, batch_size=50)["completions"]
    scores = LearnedReward(load_reward_model(unbroken["reward-model"] / "model"), words)(
        prompts, texts
    )
    assert torch.tensor(scores).std().item() == pytest.approx(1, abs=1e-4)
    evaluation = read_run(unbroken["reward-model"])["evaluation"]
    for found in evaluation.values():
        assert found["accuracy_se"] == pytest.approx(
            (found["accuracy"] * (1 - found["accuracy"]) / 6) ** 0.5
        )
    assert evaluation["before"]["accuracy_se"] > 0


def test_the_scale_of_a_reward_model_is_told(models, tmp_path, capsys):
    assert main(line("reward-model", models, tmp_path / "run")) == 0
    said = capsys.readouterr().out
    assert re.search(r"scores divided by \S+, their standard deviation on samples", said)


def test_a_model_that_is_missing_is_asked_for_by_a_command_that_can_work(files, tmp_path, capsys):
    """Prompts have no pairs, and the command that was refused is no advice."""
    said = {}
    for command, kind in (("sft", "demonstrations"), ("grpo", "prompts")):
        source = files.get(kind) or next(iter(files.values()))
        assert main([command, "--data", source, "--out", str(tmp_path / "run")]) == 2
        said[command] = capsys.readouterr().err
        assert "is not given, and none is shipped" in said[command]
    assert "python -m" not in said["sft"]
    assert "rlhf_lib sft --data DIALOGUES --policy MODEL --out FOLDER" in said["grpo"]


def test_best_of_n_writes_every_sample_and_the_best(unbroken):
    rows = read_log(unbroken["best-of-n"] / "completions.jsonl")
    assert len(rows) == 18 and all(len(row["samples"]) == len(row["gold"]) == 3 for row in rows)
    for row in rows:
        best = row["scores"].index(max(row["scores"]))
        assert row["score"] == row["scores"][best] and row["completion"] == row["samples"][best]
    curve = read_run(unbroken["best-of-n"])["evaluation"]["after"]["curve"]
    assert [point["n"] for point in curve] == [1, 2, 3]
    assert curve[0]["kl_bound"] == 0 and curve[2]["kl_bound"] == pytest.approx(0.4319, abs=1e-4)
    means = [sum(row["scores"]) / 3 for row in rows]
    assert curve[0]["reward"] == pytest.approx(sum(means) / 18, abs=1e-6)
    assert curve[2]["reward"] == pytest.approx(sum(row["score"] for row in rows) / 18, abs=1e-6)
    assert "KL at most" in (unbroken["best-of-n"] / "report.md").read_text()
    assert not (unbroken["best-of-n"] / "model").exists()


def sampling(prompts, **settings) -> commands.Sampling:
    model = load_policy(artifacts.path("letters", "sft"))[0]
    reward = lambda prompts, completions: [float(len(c)) for c in completions]  # noqa: E731
    config = commands.SamplingConfig(num_generations=2, max_new_tokens=6, **settings)
    others = {"gold": commands.letters.gold_reward}
    return commands.Sampling(model, tokenizer(), reward, prompts, {}, others, config)


def test_every_step_of_best_of_n_draws_samples_of_its_own(tmp_path):
    """The same prompts again get others; a run that is taken up again, the same."""
    loop = sampling(RAGGED[:2] * 2 + RAGGED[:1], batch_size=2)
    for _ in range(2):
        loop.step()
    samples = [row["samples"] for row in loop.rows]
    assert samples[:2] != samples[2:]
    loop.save(tmp_path / "checkpoint")
    loop.step()
    again = sampling(RAGGED[:2] * 2 + RAGGED[:1], batch_size=2)
    again.resume(tmp_path / "checkpoint")
    assert again.step_number == 2
    again.step()
    assert again.rows == loop.rows and len(loop.rows) == 5
    again.save(tmp_path / "checkpoint")
    done = sampling(RAGGED[:2] * 2 + RAGGED[:1], batch_size=2)
    done.resume(tmp_path / "checkpoint")
    assert done.step_number == done.config.max_steps == 3  # the last step had one prompt


def test_the_curve_of_the_best_of_n_by_hand():
    """Chosen by score: of two, gold 1 and 2, mean 1.5 ± .5; of one, any: mean 4."""
    loop = sampling(RAGGED[:2])
    loop.rows = [
        {"scores": [1.0, 2.0], "gold": [5.0, 1.0], "prompt": "p", "samples": ["a", "b"]},
        {"scores": [3.0, 0.0], "gold": [2.0, 8.0], "prompt": "q", "samples": ["c", "d"]},
    ]
    loop.rows = [{**row, "completion": row["samples"][i]} for row, i in zip(loop.rows, (1, 0))]
    found = loop.measure()
    one, two = found["curve"]
    assert (one["n"], two["n"]) == (1, 2)
    assert (one["reward"], one["gold"]) == (1.5, 4.0)
    assert (two["reward"], two["gold"]) == (2.5, 1.5)
    assert two["gold_se"] == pytest.approx(0.5) and two["reward_se"] == pytest.approx(0.5)
    assert found["first"] == ["a", "c"] and found["completions"] == ["b", "c"]


def test_without_flags_a_run_starts_from_the_shipped_models(tmp_path):
    assert (
        main(
            [
                "ppo",
                "--out",
                str(tmp_path / "run"),
                "--max-steps",
                "1",
                "--batch-size",
                "2",
                "--mini-batch-size",
                "2",
                "--eval-rows",
                "2",
            ]
        )
        == 0
    )
    trained, _ = load_policy(tmp_path / "run" / "model")
    shipped, _ = artifacts.load("letters", "sft")
    move = (trained.transformer.wte.weight - shipped.transformer.wte.weight).abs().max()
    assert 0 < move < 0.01


def test_the_table_that_a_run_prints_is_that_of_its_report(models, tmp_path, capsys):
    assert main(line("sft", models, tmp_path / "run")) == 0
    printed, noise = capsys.readouterr()
    about, _, printed = printed.partition("\n")
    assert about.startswith(f"--policy is {models['policy']}: a GPT2LMHeadModel of 12,112 param")
    assert printed.partition("\n\nreport:")[0] in (tmp_path / "run" / "report.md").read_text()
    assert noise == ""  # no bar where nobody watches


def test_a_bar_shows_reward_and_kl_on_a_terminal_unless_it_is_to_be_quiet(
    models, tmp_path, monkeypatch
):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    seen = {}
    for quiet in ([], ["--quiet"]):
        monkeypatch.setattr(sys, "stderr", Terminal())
        assert main(line("ppo", models, tmp_path / f"run{len(quiet)}", *quiet)) == 0
        seen[len(quiet)] = sys.stderr.getvalue()
    assert re.search(r"ppo: 100%.* 5/5 .*reward=-?\d.*kl=", seen[0]) and "%" not in seen[1]


# ------------------------------------------------------------------ stopping and going on


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_a_resumed_run_equals_an_unbroken_one(
    unbroken, models, tmp_path, monkeypatch, capsys, command
):
    out, write = tmp_path / "run", runlog.RunLog.write

    def interrupted(log, record):
        write(log, record)
        if record["step"] == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(runlog.RunLog, "write", interrupted)
    assert main(line(command, models, out, "--save-every", 2)) == 130
    assert f"--out {out} --resume" in said(capsys)
    assert [record["step"] for record in read_log(out / "log.jsonl")] == [1, 2, 3]
    assert not (out / "report.md").exists()

    done = []
    monkeypatch.setattr(
        runlog.RunLog,
        "write",
        lambda log, record: done.append(record["step"]) or write(log, record),
    )
    assert main([command, "--out", str(out), "--resume"]) == 0  # its settings are in its folder
    assert done == [3, 4, 5]  # what came after the checkpoint, and nothing again
    whole = unbroken[command]
    assert without_seconds(out) == without_seconds(whole)
    assert (out / "evaluation.json").read_bytes() == (whole / "evaluation.json").read_bytes()
    for name in ("model/model.safetensors", "completions.jsonl"):
        if (whole / name).exists():
            assert (out / name).read_bytes() == (whole / name).read_bytes()


@pytest.fixture
def stubborn(tmp_path, monkeypatch):
    """A module of the user's with a reward that can be told when to be interrupted."""
    (tmp_path / "my_rewards.py").write_text(
        "calls, stop_at = 0, None\n"
        "def brevity(prompts, completions, **columns):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    if calls == stop_at:\n"
        "        raise KeyboardInterrupt\n"
        "    return [-float(len(c)) for c in completions]\n"
        "def broken(prompts, completions, **columns):\n"
        "    return [1 / 0]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("my_rewards", None)
    import my_rewards

    return my_rewards


def test_ctrl_c_inside_a_step_keeps_the_last_checkpoint(models, tmp_path, stubborn, capsys):
    arguments = line(
        "ppo",
        {"policy": models["policy"]},
        tmp_path / "whole",
        "--reward",
        "my_rewards:brevity",
        "--save-every",
        1,
    )
    assert main(arguments) == 0
    stubborn.calls, stubborn.stop_at = 0, 4  # once to measure, then two steps, then this
    arguments[2] = str(tmp_path / "run")
    capsys.readouterr()
    assert main(arguments) == 130
    assert len(read_log(tmp_path / "run" / "log.jsonl")) == 2
    message = said(capsys)
    assert message.startswith("stopped; continue with: python -m rlhf_lib ppo --out ")
    assert main(shlex.split(message.partition("rlhf_lib ")[2])) == 0
    assert without_seconds(tmp_path / "run") == without_seconds(tmp_path / "whole")


def test_ctrl_c_before_the_first_checkpoint_costs_nothing_but_the_steps(
    models, tmp_path, stubborn, capsys
):
    stubborn.stop_at = 3
    arguments = line(
        "grpo",
        {"policy": models["policy"]},
        tmp_path / "run",
        "--reward",
        "my_rewards:brevity",
        "--max-steps",
        2,
    )
    assert main(arguments) == 130 and len(read_log(tmp_path / "run" / "log.jsonl")) == 1
    assert main(["grpo", "--out", str(tmp_path / "run"), "--resume"]) == 0
    assert [record["step"] for record in read_log(tmp_path / "run" / "log.jsonl")] == [1, 2]


def test_the_first_ctrl_c_waits_for_the_step_and_the_second_does_not(capsys):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.asked
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert "Ctrl-C again" in capsys.readouterr().err


def test_a_real_ctrl_c_ends_a_real_run(models, tmp_path):
    (tmp_path / "slow.py").write_text(
        "import time\n"
        "def reward(prompts, completions, **columns):\n"
        "    time.sleep(.3)\n"
        "    return [0. for c in completions]\n"
    )
    out = tmp_path / "run"
    arguments = line(
        "grpo", {"policy": models["policy"]}, out, "--reward", "slow:reward", "--max-steps", 1000
    )
    root = Path(cli.__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-m", "rlhf_lib", *arguments],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(tmp_path)])},
    )
    try:
        until = time.monotonic() + 60
        while not ((out / "log.jsonl").exists() and read_log(out / "log.jsonl")):
            assert process.poll() is None and time.monotonic() < until, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "Traceback" not in errors, errors
    assert (
        errors.strip().splitlines()[-1]
        == f"stopped; continue with: python -m rlhf_lib grpo --out {out} --resume"
    )
    state = torch.load(out / "checkpoint" / "state.pt", weights_only=True)
    assert state["step_number"] == read_log(out / "log.jsonl")[-1]["step"]  # the step was finished


def test_only_what_does_not_change_the_numbers_may_change_on_resume(unbroken, tmp_path, capsys):
    shutil.copytree(unbroken["sft"], tmp_path / "run")
    before = (tmp_path / "run" / "log.jsonl").read_bytes()
    evaluation = read_run(tmp_path / "run")["evaluation"]
    evaluation["before"]["gold"] = 123.0  # measured once, when the run began
    (tmp_path / "run" / "evaluation.json").write_text(json.dumps(evaluation))
    again = ["sft", "--out", str(tmp_path / "run"), "--resume"]
    assert main([*again, "--learning-rate", "1e-3"]) == 2
    assert "--learning-rate is 0.001; expected 0.0005, as in the run" in said(capsys)
    assert main([*again, "--policy", "elsewhere"]) == 2
    assert "error: --policy is 'elsewhere'; expected '" in said(capsys)
    assert main(["dpo", *again[1:]]) == 2
    assert "command is 'dpo'; expected 'sft'" in said(capsys)
    assert main([*again, "--save-every", "3", "--learning-rate", "5e-4"]) == 0
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == before
    assert read_run(tmp_path / "run")["evaluation"] == evaluation


def test_a_run_is_resumed_from_any_folder(models, tmp_path, monkeypatch, capsys):
    """Paths are those of the files, however they are typed, and wherever."""
    home, away = tmp_path / "home", tmp_path / "away"
    (home / "p").mkdir(parents=True)
    away.mkdir()
    for name in ("policy", "reward"):
        shutil.copytree(models[name], home / name)
    (home / "mine.py").write_text(
        "def brevity(prompts, completions): return [-float(len(c)) for c in completions]\n"
    )
    (home / "gold").mkdir()  # is not the reward of that name
    rows = [{"prompt": RAGGED[i % 4]} for i in range(20)]
    (home / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(home)
    flags = ["--reward", "mine.py:brevity", "reward/", "--data", "p.jsonl", "--max-steps", "2"]
    assert main(line("grpo", {"policy": "policy"}, "run", *flags)) == 0
    settings = json.loads((home / "run" / "settings.json").read_text())["settings"]
    assert settings["policy"] == str(home / "policy") and settings["data"] == str(home / "p.jsonl")
    assert settings["reward"] == [f"{home / 'mine.py'}:brevity", str(home / "reward")]
    monkeypatch.chdir(away)
    again = ["grpo", "--out", "../home/run", "--resume"]
    assert main(again) == 0
    rewards = ["--reward", "../home/mine.py:brevity", "../home/reward"]
    assert main([*again, *rewards, "--policy", "../home/policy/", "--data", "../home/p.jsonl"]) == 0
    capsys.readouterr()
    assert main([*again, "--policy", "../home/reward"]) == 2
    assert "--policy is '../home/reward'; expected" in said(capsys)
    assert main([*again, "--reward", "../home/mine.py:other", "../home/reward"]) == 2
    assert "--reward is ['../home/mine.py:other'" in said(capsys)
    monkeypatch.chdir(home)
    assert cli.located("reward", "gold") == "gold" and cli.located("world", "p") == "p"
    assert cli.located("reward", "json:dumps") == "json:dumps"


def test_data_that_have_changed_are_refused_on_resume(models, tmp_path, capsys):
    file = tmp_path / "p.jsonl"
    rows = [{"prompt": RAGGED[i % 4]} for i in range(20)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = file.read_text()
    assert main(line("grpo", models, tmp_path / "run", "--data", file, "--max-steps", 2)) == 0
    again = ["grpo", "--out", str(tmp_path / "run"), "--resume"]
    capsys.readouterr()
    for changed, told in (
        (text + text, f"{len(text)} bytes then, {2 * len(text)} bytes now"),
        (text.replace("r", "t", 1), f"{len(text)} bytes then, as many now, which differ"),
    ):
        assert changed != text
        file.write_text(changed)
        assert main(again) == 2
        message = said(capsys)
        assert f"--data is '{file}', which has changed since the run began: {told};" in message
    file.write_text(text)
    assert main(again) == 0


def test_a_folder_of_data_that_has_changed_is_refused_on_resume(models, tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    rows = [json.dumps({"prompt": RAGGED[i % 4]}) + "\n" for i in range(20)]
    (data / "train.jsonl").write_text("".join(rows))
    assert main(line("best-of-n", models, tmp_path / "run", "--data", data)) == 0
    again = ["best-of-n", "--out", str(tmp_path / "run"), "--resume"]
    assert main(again) == 0
    (data / "train.jsonl").write_text("".join(rows[1:]))
    capsys.readouterr()
    assert main(again) == 2
    assert "has changed since the run began: 20 rows then, 19 rows now" in capsys.readouterr().err


# ------------------------------------------------------------------ refusals


def test_a_folder_with_anything_in_it_is_refused_and_left_alone(models, tmp_path, capsys):
    (tmp_path / "log.jsonl").write_text("precious")
    assert main(line("sft", models, tmp_path)) == 2
    assert "there already; expected a new folder, or --resume" in said(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
    assert (tmp_path / "log.jsonl").read_text() == "precious"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("ppo", "--out"),
        ("ppo --out {out} --beta much", "argument --beta: invalid"),
        ("ppo --out {out} --bet 1", "unrecognized arguments: --bet 1"),
        ("ppo --out {out} --batch-size 0", "error: --batch-size is 0; expected at least 1"),
        (
            "ppo --out {out} --batch-size 7 --mini-batch-size 2",
            "--batch-size is 7; expected a multiple of --mini-batch-size=2",
        ),
        ("best-of-n --out {out} --max-steps -1", "--max-steps is -1"),
        ("ppo --out {out} --policy {out}/none", "expected a checkpoint folder"),
        ("ppo --out {out} --eval-rows 1", "--eval-rows is 1; expected at least 2"),
        ("ppo --out {out} --save-every 0", "--save-every is 0; expected at least 1"),
        ("ppo --out {out} --reward strict", "--reward is 'strict'; expected a function of letters"),
        ("ppo --out {out} --reward no_such_module:f", "No module named 'no_such_module'"),
        ("ppo --out {out} --reward json:no_such_name", "no attribute 'no_such_name'"),
        ("ppo --out {out} --resume", "expected the folder of a run to resume"),
        ("grpo --out {out} --world sums --scale gpt2", "policy is not given"),
        ("dpo --out {out} --world sums --scale gpt2", "such as the model/ that"),
        ("ppo --out {out} --data x.jsonl --world sums", "--world and --data are both given"),
        ("dpo --out {out} --data x.jsonl", "policy is not given"),
        ("sft --out {out} --data {out}/none.jsonl --policy {policy}", "none.jsonl"),
        ("reward-model --out {out} --world sums --policy {policy}", "no annotators"),
        ("report {out}", "expected a run with settings.json"),
        ("report {out} {policy}", "out is not given"),
        ("train", "invalid choice: 'train'"),
        ("train --out {out}", "(see python -m rlhf_lib --help)"),
        ("grpo --out {out} --bet 1", "--bet 1 (see python -m rlhf_lib grpo --help)"),
        ("report {policy} --bet 1", "--bet 1 (see python -m rlhf_lib report --help)"),
        ("ppo --out {out} --reward rewards.py", "'rewards.py'; expected FILE.py:FUNCTION, such as"),
        ("ppo --out {out} --reward my-rewards:f", "(a function is given as MODULE:FUNCTION, with"),
        ("ppo --out {out} --reward {policy}", "(`python -m rlhf_lib reward-model` makes one of"),
        ("ppo --out {out} --ptx x.jsonl", "--ptx is 'x.jsonl' and --ptx-coefficient is 0"),
        ("ppo --out {out} --missing-eos-penalty nan", "--missing-eos-penalty is nan; expected a"),
        ("best-of-n --out {out} --missing-eos-penalty inf", "--missing-eos-penalty is inf; exp"),
        ("sft --out {out} --learning-rate inf", "--learning-rate is inf; expected a finite"),
        ("ppo --out {out} --epsilon nan", "--epsilon is nan; expected a"),
        ("report {policy} --out {policy}/config.json", "config.json', which is a file; expected a"),
        ("report {policy} --out=", "--out is ''; expected a folder"),
        ("ppo --out=", "--out is ''; expected the name of a folder"),
    ],
)
def test_an_error_of_the_user_is_one_line(models, tmp_path, capsys, arguments, message):
    out = tmp_path / "run"
    assert main(arguments.format(out=out, **models).split()) == 2
    text = said(capsys)
    assert text.startswith("error: ") and message in text
    assert not out.exists()  # nothing stands in the way of the next try


def test_of_one_pair_it_is_said_that_scores_are_not_standardised(models, tmp_path, capsys):
    assert main(line("reward-model", models, tmp_path / "run", "--rows", "1")) == 0
    told = capsys.readouterr().err
    assert "the scores will not be standardised: that takes 2 prompts, and there is 1" in told


def test_a_longest_gradient_may_be_none(models, tmp_path):
    assert main(line("sft", models, tmp_path / "run", "--max-grad-norm", "inf")) == 0


def test_labels_or_pairs_are_expected_for_kto(models, tmp_path, capsys):
    (tmp_path / "d.jsonl").write_text('{"prompt": "a", "completion": "b", "good": true}\n' * 20)
    more = ["--loss-type", "kto", "--data", tmp_path / "d.jsonl"]
    assert main(line("dpo", models, tmp_path / "run", *more)) == 2
    assert "chosen, rejected, or prompt, completion, label" in said(capsys)


def test_an_empty_folder_that_was_there_stays_there(models, tmp_path, stubborn, capsys):
    (tmp_path / "run").mkdir()
    assert main(line("sft", models, tmp_path / "run", "--batch-size", "0")) == 2
    assert (tmp_path / "run").is_dir()
    broken = ["--reward", "my_rewards:broken"]
    for command in ("ppo", "best-of-n"):
        assert main(line(command, {"policy": models["policy"]}, tmp_path / "run", *broken)) == 2
        assert list((tmp_path / "run").iterdir()) == []


def test_one_process_at_a_time_works_in_a_folder(models, unbroken, tmp_path, capsys):
    """Whether it begins a run or goes on with one; and what ended, however, is in nobody's way."""
    fcntl = pytest.importorskip("fcntl")
    for out, again in ((tmp_path / "new", []), (tmp_path / "old", ["--resume"])):
        if again:
            shutil.copytree(unbroken["sft"], out)
        out.mkdir(exist_ok=True)
        names = sorted(out.iterdir())
        holder = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys; from pathlib import Path\n"
                "from rlhf_lib.running.command_line import alone\n"
                f"with alone(Path({str(out)!r})): print(1, flush=True); sys.stdin.read()",
            ],
            cwd=Path(cli.__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert holder.stdout.readline() == b"1\n"
            arguments = ["sft", "--out", str(out), *again] if again else line("sft", models, out)
            assert main(arguments) == 2
            assert "another process is at work in --out" in said(capsys)
            assert sorted(out.iterdir()) == names
        finally:
            holder.kill()
            holder.communicate()
        assert main(arguments) == 0
        capsys.readouterr()
        descriptor = os.open(out, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it was given back
        os.close(descriptor)


def test_a_folder_without_locks_is_no_reason_to_stop(models, tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def none(*given):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    assert main(line("sft", models, tmp_path / "run")) == 0


def test_several_processes_are_not_let_loose_on_one_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["ppo", "--out", str(tmp_path / "run")]) == 2
    assert said(capsys).startswith("error: the command line runs in one process; expected a script")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_named(models, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        assert main(line("sft", models, out)) == 2
        assert str(out) in said(capsys)


def test_a_reward_that_fails_is_named_and_its_traceback_can_be_had(
    models, tmp_path, stubborn, capsys
):
    arguments = line(
        "ppo", {"policy": models["policy"]}, tmp_path / "run", "--reward", "my_rewards:broken"
    )
    assert main(arguments) == 2
    assert "error: reward function 'broken' raised ZeroDivisionError" in said(capsys)
    assert not (tmp_path / "run").exists()  # nothing had been trained
    arguments[2] = str(tmp_path / "again")
    assert main([*arguments, "--traceback"]) == 2
    assert "return [1 / 0]" in capsys.readouterr().err


# ------------------------------------------------------------------ data from files


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    rows = [
        {
            "prompt": RAGGED[i % 4],
            "completion": f"hello ben, {i}.",
            "chosen": f"dear ben, {i}.",
            "rejected": "no.",
            "words": i,
        }
        for i in range(12)
    ]
    paths = {}
    for name, columns in (
        ("sft", ("prompt", "completion")),
        ("prompts", ("prompt", "words")),
        ("pairs", ("prompt", "chosen", "rejected")),
    ):
        paths[name] = str(tmp_path / f"{name}.jsonl")
        Path(paths[name]).write_text(
            "".join(json.dumps({c: row[c] for c in columns}) + "\n" for row in rows)
        )
    return paths


@pytest.mark.parametrize(
    "command, name",
    [
        ("sft", "sft"),
        ("reward-model", "pairs"),
        ("dpo", "pairs"),
        ("ppo", "prompts"),
        ("grpo", "prompts"),
        ("best-of-n", "prompts"),
    ],
)
def test_data_of_the_user_in_place_of_a_world(models, files, tmp_path, command, name):
    arguments = line(command, models, tmp_path / "run", "--data", files[name])
    assert main(arguments) == 0
    evaluation = read_run(tmp_path / "run")["evaluation"]
    assert "gold" not in evaluation["after"]  # which nobody knows of these prompts
    if command == "ppo":  # the first rows are held out
        assert evaluation["after"]["prompts"] == [RAGGED[i % 4] for i in range(6)]


def test_a_column_that_is_missing_is_named(models, files, tmp_path, capsys):
    assert main(line("dpo", models, tmp_path / "run", "--data", files["sft"])) == 2
    assert "expected chosen, rejected" in said(capsys)


def test_rows_that_would_all_be_held_out_are_refused(models, files, tmp_path, capsys):
    assert (
        main(line("sft", models, tmp_path / "run", "--data", files["sft"], "--eval-rows", 12)) == 2
    )
    assert "--data has 12 rows; expected more than --eval-rows=12" in said(capsys)


def test_a_reward_gets_the_columns_of_the_data(models, files, tmp_path, monkeypatch):
    (tmp_path / "column_reward.py").write_text(
        "def words(prompts, completions, words, **columns):\n"
        "    assert len(words) == len(completions)\n"
        "    return [float(w) for w in words]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert (
        main(
            line(
                "grpo",
                {"policy": models["policy"]},
                tmp_path / "run",
                "--data",
                files["prompts"],
                "--reward",
                "column_reward:words",
            )
        )
        == 0
    )
    assert read_run(tmp_path / "run")["evaluation"]["after"]["reward"] == 2.5  # of rows 0 to 5


def test_best_of_n_hands_the_columns_of_the_data_to_the_reward(
    models, files, tmp_path, monkeypatch
):
    (tmp_path / "column_reward.py").write_text(
        "def words(prompts, completions, answer):\n    return [float(a) for a in answer]\n"
    )
    rows = [{"prompt": RAGGED[i % 4], "answer": i} for i in range(6)]
    (tmp_path / "known.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "column_reward", raising=False)
    assert (
        main(
            [
                "best-of-n",
                "--out",
                str(tmp_path / "run"),
                "--policy",
                models["policy"],
                "--data",
                str(tmp_path / "known.jsonl"),
                "--reward",
                "column_reward:words",
                "--batch-size",
                "4",
                "--num-generations",
                "3",
                "--max-new-tokens",
                "6",
                "--missing-eos-penalty",
                "0",
            ]
        )
        == 0
    )
    written = read_log(tmp_path / "run" / "completions.jsonl")
    assert [row["scores"] for row in written] == [[float(i)] * 3 for i in range(6)]


def test_a_reward_model_without_a_pad_token_gets_one(models, tmp_path):
    from transformers import AutoTokenizer

    shutil.copytree(models["reward"], tmp_path / "reward")
    words = AutoTokenizer.from_pretrained(tmp_path / "reward")
    words.pad_token = None
    words.save_pretrained(tmp_path / "reward")
    assert AutoTokenizer.from_pretrained(tmp_path / "reward").pad_token is None
    assert (
        main(
            line(
                "ppo",
                {**models, "reward": str(tmp_path / "reward")},
                tmp_path / "run",
                "--max-steps",
                "1",
            )
        )
        == 0
    )


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_there_is_named(models, tmp_path, capsys, device):
    assert main(line("sft", models, tmp_path / "run", "--device", device)) == 2
    assert f"device is '{device}'; expected one that PyTorch finds" in said(capsys)
    assert not (tmp_path / "run").exists()


def test_a_run_whose_checkpoint_is_gone_is_not_trained_over(models, unbroken, tmp_path, capsys):
    shutil.copytree(unbroken["sft"], tmp_path / "run")
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    settings["settings"]["save_every"] = 2
    (tmp_path / "run" / "settings.json").write_text(json.dumps(settings))
    shutil.rmtree(tmp_path / "run" / "checkpoint")
    log = (tmp_path / "run" / "log.jsonl").read_bytes()
    assert main(["sft", "--out", str(tmp_path / "run"), "--resume"]) == 2
    assert "whose log goes to step 5; expected its checkpoint, and it is gone" in said(capsys)
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == log


@pytest.mark.parametrize(
    "name, damage, told",
    [
        ("log.jsonl", b"[1]\n", "log.jsonl, line 1: expected a JSON object"),
        ("log.jsonl", b'{"loss": 1}\n', "log.jsonl, line 1: expected step"),
        ("log.jsonl", b"\xff\n", "log.jsonl, line 1: expected a JSON object"),
        ("settings.json", b"[]", "settings.json is damaged"),
        ("settings.json", b'{"command": "sft", "settings": []}', "settings.json is damaged"),
        ("evaluation.json", b"[]", "evaluation.json is damaged"),
        ("evaluation.json", b'{"before": []}', "evaluation.json is damaged"),
        ("evaluation.json", b"\xff", "evaluation.json is damaged"),
    ],
)
def test_a_damaged_run_is_named_by_a_report_and_on_resume(
    unbroken, tmp_path, capsys, name, damage, told
):
    shutil.copytree(unbroken["sft"], tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(damage)
    for arguments in (["report", str(tmp_path / "run")], ["sft", "--out", str(tmp_path / "run")]):
        assert main([*arguments, *["--resume"] * (arguments[0] == "sft")]) == 2
        assert told in said(capsys)


def test_completions_that_are_damaged_are_named_on_resume(unbroken, tmp_path, capsys):
    shutil.copytree(unbroken["best-of-n"], tmp_path / "run")
    (tmp_path / "run" / "completions.jsonl").write_text('{"prompt": "a"}\n')
    assert main(["best-of-n", "--out", str(tmp_path / "run"), "--resume"]) == 2
    assert "completions.jsonl, line 1: expected prompt, completion, scores, samples" in said(capsys)


def test_a_damaged_checkpoint_is_named_by_the_flag_of_its_run(unbroken, tmp_path, capsys):
    shutil.copytree(unbroken["sft"], tmp_path / "run")
    (tmp_path / "run" / "checkpoint" / "state.pt").write_bytes(b"torn")
    assert main(["sft", "--out", str(tmp_path / "run"), "--resume"]) == 2
    assert said(capsys).startswith(f"error: --out is '{tmp_path / 'run'}', where the run cannot be")


def test_what_was_measured_is_json_for_every_reader(models, tmp_path, capsys):
    """Of one prompt there is no standard error; of a reward that never applies no mean."""
    (tmp_path / "r.py").write_text(
        "def never(prompts, completions): return [None] * len(completions)\n"
    )

    def refused(name):
        raise AssertionError(name)

    reward = ["--reward", f"{tmp_path / 'r.py'}:never"]
    assert main(line("best-of-n", models, tmp_path / "best", "--rows", "1")) == 0
    with pytest.warns(RuntimeWarning):
        assert main(line("grpo", {"policy": models["policy"]}, tmp_path / "run", *reward)) == 0
    for name in ("best", "run"):
        text = (tmp_path / name / "evaluation.json").read_text()
        json.loads(text, parse_constant=refused)
    assert json.loads(text)["after"]["reward"] is None
    assert "nan" in capsys.readouterr().out and main(["report", str(tmp_path / "best")]) == 0


@pytest.mark.parametrize("name", ["settings.json", "evaluation.json"])
def test_a_damaged_file_is_named_on_resume(unbroken, tmp_path, capsys, name):
    shutil.copytree(unbroken["sft"], tmp_path / "run")
    (tmp_path / "run" / name).write_text('{"before": ')
    assert main(["sft", "--out", str(tmp_path / "run"), "--resume"]) == 2
    assert f"{name} is damaged; expected JSON" in said(capsys)


def test_completions_that_do_not_fit_leave_no_folder_in_the_way(models, tmp_path, capsys):
    assert main(line("ppo", models, tmp_path / "run", "--max-new-tokens", "500")) == 2
    text = said(capsys)
    assert "517 tokens with 500 new ones; expected at most 64, the context of the policy" in text
    assert "a smaller --max-new-tokens" in text and "drop" not in text  # there would be no row left
    assert not (tmp_path / "run").exists()


def test_every_run_is_in_the_legend(unbroken):
    from rlhf_lib.seeing.plots import learning_curves

    logs = {name: read_log(unbroken[name] / "log.jsonl") for name in ("grpo", "dpo")}
    assert "kl" in logs["grpo"][0] and "kl" not in logs["dpo"][0]
    drawn = learning_curves(logs, ["kl", "loss"])
    assert [text.get_text() for text in drawn.axes[0].get_legend().get_texts()] == ["grpo", "dpo"]


def test_sums_start_from_their_own_model_and_are_verified(tmp_path, monkeypatch):
    from transformers import GPT2Config, GPT2LMHeadModel

    from rlhf_lib.worlds import sums

    words = sums.tokenizer()
    small = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(words),
            n_embd=16,
            n_layer=1,
            n_head=2,
            n_positions=64,
            bos_token_id=None,
            pad_token_id=words.pad_token_id,
            eos_token_id=words.eos_token_id,
        )
    ).eval()
    asked = []
    monkeypatch.setattr(artifacts, "ARTIFACTS", {"sums": ("base",)})
    monkeypatch.setattr(artifacts, "load", lambda *names: asked.append(names) or (small, words))
    for command, reward in (("sft", []), ("grpo", ["--reward", "lenient"]), ("best-of-n", [])):
        assert (
            main(
                [
                    command,
                    "--out",
                    str(tmp_path / command),
                    "--world",
                    "sums",
                    *SETTINGS[command].split(),
                    "--max-steps",
                    "1",
                    *reward,
                ]
            )
            == 0
        )
    assert asked == [("sums", "base")] * 3
    evaluation = {
        command: read_run(tmp_path / command)["evaluation"]["after"]
        for command in ("sft", "grpo", "best-of-n")
    }
    assert "strict" in evaluation["sft"] and {"strict", "reward"} <= set(evaluation["grpo"])
    assert "strict" in evaluation["best-of-n"]["curve"][0]


# ------------------------------------------------------------------ rows that do not fit


@pytest.fixture
def ragged(tmp_path) -> dict[str, str]:
    """Files of 20 rows for every kind of data, of which rows 9 and 17 are too long."""
    rows = [
        {
            "prompt": RAGGED[i % 4],
            "completion": "no. " * 30 if i in (9, 17) else f"hello ben, {i}.",
            "chosen": f"dear ben, {i}.",
            "rejected": "no. " * 30 if i in (9, 17) else "no.",
            "label": i % 3 > 0,
        }
        for i in range(20)
    ]
    prompts = [{"prompt": RAGGED[0] * 4 if i in (9, 17) else RAGGED[i % 4]} for i in range(20)]
    paths = {}
    for name, columns in (
        ("sft", ("prompt", "completion")),
        ("pairs", ("prompt", "chosen", "rejected")),
        ("labels", ("prompt", "completion", "label")),
        ("prompts", None),
    ):
        table = prompts if columns is None else [{c: row[c] for c in columns} for row in rows]
        paths[name] = str(tmp_path / f"{name}.jsonl")
        Path(paths[name]).write_text("".join(json.dumps(row) + "\n" for row in table))
    return paths


KINDS = [
    ("sft", "sft", []),
    ("reward-model", "pairs", []),
    ("dpo", "pairs", []),
    ("dpo", "pairs", ["--loss-type", "kto"]),
    ("dpo", "labels", ["--loss-type", "kto"]),
    ("ppo", "prompts", []),
    ("grpo", "prompts", []),
    ("best-of-n", "prompts", []),
]


@pytest.mark.parametrize("command, kind, more", KINDS)
def test_long_rows_are_left_out_and_named(models, ragged, tmp_path, capsys, command, kind, more):
    data = ["--data", ragged[kind], "--max-steps", 1, "--rows", 20, *more]
    assert main(line(command, models, tmp_path / "run", *data)) == 0
    told = capsys.readouterr().err
    assert told.startswith("--data, left out: 2 of 20 rows do not fit: 9 and 17. Row 9 takes ")
    assert "expected at most 64, the context of the policy. It begins " in told
    assert told.count("\n") == 1
    evaluation = read_run(tmp_path / "run")["evaluation"]["after"]
    assert "prompts" in evaluation or command == "reward-model"


@pytest.mark.parametrize("command, kind, more", KINDS)
def test_long_rows_may_stop_a_run_before_it_begins(
    models, ragged, tmp_path, capsys, command, kind, more
):
    data = ["--data", ragged[kind], "--long-rows", "stop", "--rows", 20, *more]
    assert main(line(command, models, tmp_path / "run", *data)) == 2
    text = said(capsys)
    assert "2 of 20 rows do not fit: 9 and 17" in text and "--long-rows drop" in text
    assert not (tmp_path / "run").exists()


def test_the_limit_may_be_lower_than_the_context(models, ragged, tmp_path, capsys):
    flags = ["--data", ragged["sft"], "--max-length", 21, "--max-steps", 1, "--eval-rows", 2]
    assert main(line("sft", models, tmp_path / "run", *flags)) == 0
    told = capsys.readouterr().err
    assert re.match(
        r"--data, left out: \d+ of 20 rows do not fit: .*; expected at most 21, --max-l", told
    )
    assert told.count("\n") == 1 and read_run(tmp_path / "run")["evaluation"]["after"]["prompts"]
    tokens = [len(tokenizer()(RAGGED[i % 4])["input_ids"]) + 6 for i in range(20)]
    long = [i for i, n in enumerate(tokens) if n > 21 or i in (9, 17)]
    assert f": {long[0]}, {long[1]}" in told and f"{len(long)} of 20" in told
    assert main(line("sft", models, tmp_path / "none", *flags, "--max-length", 5)) == 2
    assert "20 of 20 rows do not fit" in (text := said(capsys))
    assert "a larger --max-length" in text and "drop" not in text
    assert main(line("sft", models, tmp_path / "none", "--max-length", 0)) == 2
    assert "--max-length is 0; expected at least 1" in said(capsys)


def test_long_demonstrations_of_the_mix_are_left_out(models, ragged, tmp_path, capsys):
    flags = ["--ptx", ragged["sft"], "--ptx-coefficient", ".1", "--max-steps", 1]
    assert main(line("ppo", models, tmp_path / "run", *flags)) == 0
    assert capsys.readouterr().err.startswith("--ptx, left out: 2 of 20 rows do not fit: 9 and 17.")
    assert main(line("ppo", models, tmp_path / "stop", *flags, "--long-rows", "stop")) == 2
    assert "--ptx: 2 of 20 rows do not fit" in said(capsys)


def test_rows_are_left_out_of_as_many_as_were_asked_for(models, ragged, tmp_path, capsys):
    flags = ["--data", ragged["sft"], "--rows", 5, "--eval-rows", 8, "--max-steps", 1]
    assert main(line("sft", models, tmp_path / "run", *flags)) == 0
    assert "1 of 13 rows do not fit: 9." in capsys.readouterr().err
    flags[3] = 1
    assert main(line("sft", models, tmp_path / "none", *flags, "--eval-rows", 9)) == 2
    text = capsys.readouterr().err
    assert "error: --data has 9 rows that fit, of 10; expected more than --eval-rows=9" in text


def test_the_reference_and_the_reward_model_count_with_their_own_contexts(
    models, ragged, tmp_path, capsys
):
    for name, load in (("policy", load_policy), ("reward", load_reward_model)):
        model = load(models[name])
        model = model[0] if name == "policy" else model
        model.config.n_positions = 26
        model.transformer.wpe.weight = torch.nn.Parameter(model.transformer.wpe.weight[:26])
        model.save_pretrained(tmp_path / name)
        tokenizer().save_pretrained(tmp_path / name)
    flags = ["--data", ragged["prompts"], "--max-steps", 1, "--reference", tmp_path / "policy"]
    assert main(line("grpo", models, tmp_path / "a", *flags)) == 0
    assert "at most 26, the context of the reference" in capsys.readouterr().err
    flags[-2:] = ["--reward", tmp_path / "reward"]
    assert main(line("grpo", {"policy": models["policy"]}, tmp_path / "b", *flags)) == 0
    assert "6 new ones and an end token; expected at most 26, its" in capsys.readouterr().err


def test_prompts_without_room_to_sample_are_neither_measured_nor_standardised_on(
    models, tmp_path, capsys
):
    """A prompt of 34 tokens leaves room for a reply, and none for the 32 that are sampled."""
    rows = [
        {
            "prompt": RAGGED[0] * 2 + " now now" if i in (1, 7) else RAGGED[i % 4],
            "chosen": "yes.",
            "rejected": "no.",
        }
        for i in range(12)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--data", tmp_path / "pairs.jsonl", "--max-steps", 1, "--eval-rows", 4]
    for command in ("reward-model", "dpo"):
        assert main(line(command, models, tmp_path / command, *flags)) == 0
        told = capsys.readouterr().err
        whose = "to standardise on" if command == "reward-model" else "to measure"
        of = 8 if command == "reward-model" else 4
        assert f"\n{whose}, left out: 1 of {of} prompts, of which one takes " in f"\n{told}"
        assert (tmp_path / command / "model").exists()
    assert len(read_run(tmp_path / "dpo")["evaluation"]["after"]["prompts"]) == 3

    rows = [{**row, "prompt": RAGGED[0] * 2 + " now now"} for row in rows]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for command, what in (
        ("reward-model", "the scores will not be standardised: no prompt leaves room"),
        ("dpo", "nothing will be measured: no held-out prompt leaves room"),
    ):
        assert main(line(command, models, tmp_path / f"{command} none", *flags)) == 0
        assert what in capsys.readouterr().err
        assert (tmp_path / f"{command} none" / "model").exists()
    assert read_run(tmp_path / "dpo none")["evaluation"] == {"before": {}, "after": {}}

    rows[0]["prompt"] = RAGGED[0]  # of one sample there is no standard error
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(line("dpo", models, tmp_path / "one", *flags)) == 0
    assert read_run(tmp_path / "one")["evaluation"] == {"before": {}, "after": {}}


def test_single_completions_with_labels_and_pairs_are_told_apart_by_their_columns(
    models, ragged, tmp_path, capsys, monkeypatch
):
    asked = []
    for name in ("load_labelled", "load_preferences"):
        load = getattr(commands.data, name)
        monkeypatch.setattr(
            commands.data,
            name,
            lambda *a, name=name, load=load, **k: asked.append(name) or load(*a, **k),
        )
    kto = ["--loss-type", "kto", "--max-steps", 1]
    for kind in ("labels", "pairs"):
        flags = ["--data", ragged[kind], *kto]
        assert main(line("dpo", models, tmp_path / kind, *flags)) == 0
    both = [json.loads(row) | {"label": True} for row in open(ragged["pairs"], encoding="utf-8")]
    (tmp_path / "both.jsonl").write_text("".join(json.dumps(row) + "\n" for row in both))
    assert (
        main(line("dpo", models, tmp_path / "both", "--data", tmp_path / "both.jsonl", *kto)) == 0
    )
    assert asked == ["load_labelled", "load_preferences", "load_preferences"]
    first = read_log(tmp_path / "labels" / "log.jsonl")[0]
    assert abs(first["chosen_reward"]) < 1e-5  # before any update
    capsys.readouterr()
    assert main(line("dpo", models, tmp_path / "no", "--data", ragged["labels"])) == 2
    assert "expected pairs for --loss-type dpo (--loss-type kto takes both)" in said(capsys)
    with pytest.raises(SystemExit):
        main(["dpo", "--help"])
    assert "(for kto also prompt, completion, label)" in " ".join(capsys.readouterr().out.split())


# ------------------------------------------------------------------ no work is lost


def fails(*arguments, **options):
    raise ValueError("the scores are all equal")


def test_what_fails_after_training_fails_after_saving(
    models, unbroken, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "run"
    monkeypatch.setattr(commands, "standardise", fails)
    assert main(line("reward-model", models, out)) == 2
    text = said(capsys)
    assert "standardising the scores failed: the scores are all equal. All 5 steps are done" in text
    assert "model/ is written, with scores as trained; --resume does the rest" in text
    raw = load_reward_model(out / "model")
    monkeypatch.undo()
    log = (out / "log.jsonl").read_bytes()
    assert main(["reward-model", "--out", str(out), "--resume"]) == 0
    assert (out / "log.jsonl").read_bytes() == log
    whole = unbroken["reward-model"]
    for name in ("model/model.safetensors", "evaluation.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    done = load_reward_model(out / "model")
    ratio = done.score.weight / raw.score.weight
    assert ratio.std() < 1e-5 and abs(ratio.mean() - 1) > 1e-3  # what was missing is a scale
    assert torch.equal(raw.transformer.wte.weight, done.transformer.wte.weight)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_a_run_that_could_not_be_measured_does_the_rest_when_resumed(
    models, unbroken, tmp_path, monkeypatch, capsys, command
):
    out = tmp_path / "run"
    name = {"reward-model": "pair_accuracy", "best-of-n": "best_of_n_curve"}.get(
        command, "evaluate"
    )
    measure, calls = getattr(commands, name), []

    def second(*arguments, **options):
        calls.append(1)
        if len(calls) > (command != "best-of-n"):  # which has nothing to measure before
            raise RuntimeError("reward function 'judge' raised ConnectionError: no answer")
        return measure(*arguments, **options)

    monkeypatch.setattr(commands, name, second)
    assert main(line(command, models, out)) == 2
    text = said(capsys)
    assert "error: measuring failed: reward function 'judge' raised" in text
    assert (
        f"All 5 steps are done and saved{', and model/ is written' * (command in TRAINING)}; "
        in text
    )
    assert "after" not in json.loads((out / "evaluation.json").read_text())
    assert not list(out.rglob("*.new"))
    stamps = {path: path.stat().st_mtime_ns for path in (out / "model").glob("*")}
    monkeypatch.setattr(commands, name, measure)
    assert main([command, "--out", str(out), "--resume"]) == 0
    for written in ("evaluation.json", "model/model.safetensors", "completions.jsonl"):
        if (unbroken[command] / written).exists():
            assert (out / written).read_bytes() == (unbroken[command] / written).read_bytes()
    if command != "reward-model":  # whose scores are scaled again
        assert stamps == {path: path.stat().st_mtime_ns for path in (out / "model").glob("*")}


def test_a_finished_run_is_not_measured_again(unbroken, tmp_path, monkeypatch):
    shutil.copytree(unbroken["ppo"], tmp_path / "run")
    (tmp_path / "run" / "report.md").unlink()
    monkeypatch.setattr(commands, "evaluate", fails)
    assert main(["ppo", "--out", str(tmp_path / "run"), "--resume"]) == 0
    assert (tmp_path / "run" / "report.md").exists()


def test_a_report_that_fails_comes_after_all_else(models, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "figure", lambda *a: {}["Agg"])
    assert main(line("sft", models, tmp_path / "run")) == 2
    text = said(capsys)
    assert (
        "the report failed: KeyError: 'Agg'. All 5 steps are done and saved, and model/ is" in text
    )
    assert "after" in read_run(tmp_path / "run")["evaluation"]
    monkeypatch.undo()
    assert main(["sft", "--out", str(tmp_path / "run"), "--resume"]) == 0


@pytest.fixture
def moody(tmp_path, monkeypatch):
    """A module with a reward that raises at its call number `stop_at`."""
    (tmp_path / "moods.py").write_text(
        "calls, stop_at = 0, None\n"
        "def brevity(prompts, completions, **columns):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    if calls == stop_at:\n"
        "        raise KeyError('no such word')\n"
        "    return [-float(len(c)) for c in completions]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "moods", raising=False)
    import moods

    return moods


@pytest.mark.parametrize(
    "command, more",
    [
        ("ppo", []),
        ("ppo", ["--critic", "shared"]),
        ("grpo", []),
        ("grpo", ["--dynamic-sampling"]),
        ("best-of-n", []),
    ],
)
def test_a_reward_that_raises_in_a_step_costs_nothing_but_the_step(
    models, tmp_path, moody, capsys, command, more
):
    """Not even the random numbers that were drawn for it: what follows is as without the error."""
    reward = ["--reward", "moods:brevity", "--save-every", 50, *more]
    arguments = line(command, {"policy": models["policy"]}, tmp_path / "whole", *reward)
    assert main(arguments) == 0
    arguments[2] = str(tmp_path / "run")
    before = 0 if command == "best-of-n" else 1
    moody.calls, moody.stop_at = 0, before + 4
    capsys.readouterr()
    assert main(arguments) == 2
    done = len(read_log(tmp_path / "run" / "log.jsonl"))
    text = said(capsys)
    assert f"error: step {done + 1}: reward function 'brevity' raised KeyError: 'no such" in text
    assert "The run has stopped, saved; --resume takes the step again" in text
    if command == "best-of-n":
        assert len(read_log(tmp_path / "run" / "completions.jsonl")) == 4 * done == 12
    else:
        state = torch.load(tmp_path / "run" / "checkpoint" / "state.pt", weights_only=True)
        assert state["step_number"] == done > 0
    moody.stop_at = None
    assert main([command, "--out", str(tmp_path / "run"), "--resume"]) == 0
    assert without_seconds(tmp_path / "run") == without_seconds(tmp_path / "whole")
    for name in ("model/model.safetensors", "evaluation.json", "completions.jsonl"):
        if (tmp_path / "whole" / name).exists():
            assert (tmp_path / "run" / name).read_bytes() == (
                tmp_path / "whole" / name
            ).read_bytes()


def test_a_reward_that_raises_when_a_batch_is_drawn_again_costs_nothing_but_the_step(
    models, tmp_path, moody, capsys
):
    """Dynamic sampling counts the batches that it draws: those of the lost step are drawn again."""
    (tmp_path / "half.py").write_text(
        "import moods\n"
        "def flat(prompts, completions, **columns):\n"
        "    scores = moods.brevity(prompts, completions)\n"
        "    return [s if len(p) % 3 else 0. for s, p in zip(scores, prompts)]\n"
    )
    rows = [{"prompt": RAGGED[i % 4] + " now" * (i % 5)} for i in range(30)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--reward", "half:flat", "--dynamic-sampling", "--data", tmp_path / "p.jsonl"]
    arguments = line("grpo", {"policy": models["policy"]}, tmp_path / "whole", *flags)
    arguments += ["--missing-eos-penalty", "0"]
    assert main(arguments) == 0
    draws = [record["drawn"] // 4 for record in read_log(tmp_path / "whole" / "log.jsonl")]
    lost = next(i for i, n in enumerate(draws) if i and n > 1)
    moody.calls, moody.stop_at = 0, 1 + sum(draws[:lost]) + 2  # one to measure; the second draw
    arguments[2] = str(tmp_path / "run")
    assert main(arguments) == 2
    assert f"error: step {lost + 1}: reward function 'flat' raised" in capsys.readouterr().err
    moody.stop_at = None
    assert main(["grpo", "--out", str(tmp_path / "run"), "--resume"]) == 0
    assert without_seconds(tmp_path / "run") == without_seconds(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["SystemExit", "GeneratorExit", "asyncio.CancelledError"])
@pytest.mark.parametrize("command", ["grpo", "best-of-n"])
def test_a_reward_that_ends_python_ends_no_run_unsaid(models, tmp_path, capsys, kind, command):
    (tmp_path / "r.py").write_text(
        "import asyncio, json, pathlib\n"
        f"state = pathlib.Path({str(tmp_path / 'state')!r})\n"
        "def quits(prompts, completions):\n"
        "    calls, at = json.loads(state.read_text())\n"
        "    state.write_text(json.dumps([calls + 1, at]))\n"
        "    if calls == at:\n"
        f"        raise {kind}(0)\n"
        "    return [-float(len(c)) for c in completions]\n"
    )
    reward, policy = ["--reward", f"{tmp_path / 'r.py'}:quits"], {"policy": models["policy"]}
    (tmp_path / "state").write_text("[0, 0]")  # before step 1, or in it
    assert main(line(command, policy, tmp_path / "run", *reward)) == 2
    name = kind.rpartition(".")[2]
    text = said(capsys)
    assert f"reward function 'quits' raised RuntimeError: {name}" in text and "--resume" not in text
    assert not (tmp_path / "run").exists()
    (tmp_path / "state").write_text("[0, 3]")
    assert main(line(command, policy, tmp_path / "run", *reward)) == 2
    done = len(read_log(tmp_path / "run" / "log.jsonl"))
    text = said(capsys)
    assert f"error: step {done + 1}: reward function 'quits' raised RuntimeError: {name}" in text
    assert done > 1 and "The run has stopped, saved; --resume takes the step again" in text
    assert main([command, "--out", str(tmp_path / "run"), "--resume"]) == 0


def test_a_reward_may_change_the_columns_that_it_is_given(models, tmp_path):
    """Before training, and after: both are measured on what the data have."""
    (tmp_path / "r.py").write_text(
        "def eats(prompts, completions, answer, more):\n"
        "    found = [answer.pop(0) + more[i].pop() for i in range(len(completions))]\n"
        "    return list(map(float, found))\n"
    )
    rows = [{"prompt": RAGGED[i % 4], "answer": i, "more": [1, 2]} for i in range(20)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = ["--reward", f"{tmp_path / 'r.py'}:eats", "--data", tmp_path / "p.jsonl"]
    assert main(line("grpo", {"policy": models["policy"]}, tmp_path / "run", *more)) == 0
    evaluation = read_run(tmp_path / "run")["evaluation"]
    assert evaluation["before"]["reward"] == evaluation["after"]["reward"] == 4.5  # rows 0 to 5


@pytest.mark.parametrize("command", ["grpo", "ppo", "sft"])
def test_an_error_before_the_first_weight_moves_costs_nothing_but_the_step(
    models, tmp_path, monkeypatch, capsys, command
):
    """And what it advises can be done: with less at a time the run goes on."""
    from rlhf_lib.machinery import machine

    assert main(line(command, models, tmp_path / "whole", "--save-every", 50)) == 0
    backward, calls = machine.backward, []

    def out_of_memory(*given):
        calls.append(1)
        if len(calls) >= at:
            raise RuntimeError("out of memory in step 4")
        return backward(*given)

    monkeypatch.setattr(machine, "backward", out_of_memory)
    at, max_steps = math.inf, ["--save-every", 50, "--max-steps", 1]
    assert main(line(command, models, tmp_path / "one", *max_steps)) == 0
    at = 3 * len(calls) + 1  # the first of the fourth step
    calls.clear()
    capsys.readouterr()
    assert main(line(command, models, tmp_path / "run", "--save-every", 50)) == 2
    text = said(capsys)
    assert "error: step 4: out of memory in step 4. The run has stopped, saved; --resume" in text
    state = torch.load(tmp_path / "run" / "checkpoint" / "state.pt", weights_only=True)
    assert state["step_number"] == 3
    monkeypatch.setattr(machine, "backward", backward)
    again = [command, "--out", str(tmp_path / "run"), "--resume"]
    shutil.copytree(tmp_path / "run", tmp_path / "less")
    assert main(again) == 0
    assert without_seconds(tmp_path / "run") == without_seconds(tmp_path / "whole")
    again[2] = str(tmp_path / "less")
    assert main([*again, "--microbatch-tokens", "60", "--gradient-checkpointing"]) == 0
    for one, other in zip(without_seconds(tmp_path / "less"), without_seconds(tmp_path / "whole")):
        assert one == pytest.approx(other, rel=1e-2, abs=1e-4)


def test_an_error_inside_an_update_leaves_the_last_checkpoint(
    models, tmp_path, monkeypatch, capsys
):
    """The weights have moved by then, some of them: they are no checkpoint."""
    from rlhf_lib.algorithms.grpo import GRPO

    update, calls = GRPO.update, []

    def out_of_memory(loop, batch):
        calls.append(1)
        if len(calls) == 4 * 3 + 2:
            raise RuntimeError(
                "out of memory in step 4; expected room for batch_size=4. Set bf16=True"
            )
        return update(loop, batch)

    monkeypatch.setattr(GRPO, "update", out_of_memory)
    assert main(line("grpo", models, tmp_path / "run", "--save-every", 2)) == 2
    text = said(capsys)
    assert (
        "error: step 4: out of memory in step 4; expected room for --batch-size=4. Set --bf16. "
        in text
    )
    assert "inside an update; --resume goes on from the last checkpoint" in text
    state = torch.load(tmp_path / "run" / "checkpoint" / "state.pt", weights_only=True)
    assert state["step_number"] == 2


def test_a_gradient_that_is_not_finite_saves_the_weights_before(
    models, tmp_path, monkeypatch, capsys
):
    from rlhf_lib.algorithms.sft import SFT

    learn = SFT.learn

    def explode(loop, batch):
        if loop.step_number == 3:
            raise FloatingPointError("the gradient is nan")
        return learn(loop, batch)

    monkeypatch.setattr(SFT, "learn", explode)
    assert main(line("sft", models, tmp_path / "run", "--save-every", 50)) == 2
    assert "step 4: the gradient is nan. The run has stopped, saved; --resume" in said(capsys)
    state = torch.load(tmp_path / "run" / "checkpoint" / "state.pt", weights_only=True)
    assert state["step_number"] == 3


@pytest.mark.parametrize("fails_at", ["checkpoint", "log", "model", "evaluation", "completions"])
def test_a_disk_that_fills_up_leaves_what_was_whole(
    models, unbroken, tmp_path, monkeypatch, capsys, fails_at
):
    command = "best-of-n" if fails_at == "completions" else "sft"
    out, full = tmp_path / "run", OSError(28, "No space left on device")
    with monkeypatch.context() as patch:
        if fails_at == "checkpoint":
            save = torch.save
            patch.setattr(
                torch,
                "save",
                lambda state, path: fill() if state["step_number"] > 2 else save(state, path),
            )
        elif fails_at == "model":
            patch.setattr(cli, "write_model", lambda *a: fill())
        elif fails_at == "log":
            sync, calls = os.fsync, []
            patch.setattr(
                runlog.os,
                "fsync",
                lambda f: fill() if calls.append(f) or len(calls) > 2 else sync(f),
            )
            patch.setattr("rlhf_lib.machinery.checkpoints._force_to_disk", lambda path: None)
        else:
            replace, name = Path.replace, f"{fails_at}.json" + "l" * (fails_at == "completions")

            def move(path, target):
                if Path(target).name == name:
                    several = fails_at == "completions" and len(runlog.read_log(path)) > 8
                    if several or "after" in path.read_text():
                        fill()
                return replace(path, target)

            patch.setattr(Path, "replace", move)

        def fill():
            raise full

        assert main(line(command, models, out, "--save-every", 2)) == 2
    text = said(capsys)
    assert "No space left on device" in text and "--resume" in text
    assert not list(out.rglob("*.new"))
    if fails_at == "log":
        assert [record["step"] for record in read_log(out / "log.jsonl")] == [1, 2]
    assert main([command, "--out", str(out), "--resume"]) == 0
    assert without_seconds(out) == without_seconds(unbroken[command])
    for name in ("model/model.safetensors", "evaluation.json", "completions.jsonl"):
        if (unbroken[command] / name).exists():
            assert (out / name).read_bytes() == (unbroken[command] / name).read_bytes()


def test_a_model_is_replaced_when_the_new_one_is_whole(tmp_path):
    class Saves:
        def __init__(self, text):
            self.text = text

        def save_pretrained(self, folder):
            folder.mkdir(exist_ok=True)
            (folder / self.text[:3]).write_text(self.text)
            if self.text.endswith("!"):
                raise OSError("No space left on device")

    folder = tmp_path / "model"
    make = lambda model, words: commands.Task(None, dict, Saves(model), Saves(words))
    cli.write_model(make("one", "wor"), folder)
    for model, words in (("two!", "wor"), ("two", "wor!")):
        with pytest.raises(OSError, match="No space"):
            cli.write_model(make(model, words), folder)
        assert sorted(path.name for path in folder.iterdir()) == ["one", "wor"]
        assert [path.name for path in tmp_path.iterdir()] == ["model"]
    cli.write_model(make("two", "wor"), folder)
    assert sorted(path.name for path in folder.iterdir()) == ["two", "wor"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_disk_without_room_is_known_before_the_first_step(models, tmp_path, monkeypatch, capsys):
    """Of n parameters a checkpoint has 12 n bytes, and two stand for a moment side by side."""
    weights = sum(p.numel() for p in policy(0).parameters()) * 4
    for saves, every in ((2, 1), (1, 50)):
        needed = weights * (3 * saves + 1)
        for free, code in ((needed - 1, 2), (needed, 0)):
            usage = type(shutil.disk_usage(tmp_path))(10**9, 0, free)
            monkeypatch.setattr(cli.shutil, "disk_usage", lambda path, usage=usage: usage)
            out = tmp_path / f"{saves}-{code}"
            assert main(line("sft", models, out, "--max-steps", 2, "--save-every", every)) == code
            assert out.exists() is (code == 0)
        text = capsys.readouterr().err
        assert f"MB, for {saves} checkpoint{'s' * (saves > 1)} and model/" in text
    usage = type(usage)(0, 0, 0)  # a file system that does not say
    monkeypatch.setattr(cli.shutil, "disk_usage", lambda path: usage)
    assert main(line("sft", models, tmp_path / "unknown", "--max-steps", 1)) == 0


def test_a_folder_that_is_read_only_is_named_by_its_flag(models, tmp_path, monkeypatch, capsys):
    from rlhf_lib.machinery import checkpoints

    def read_only(**options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(checkpoints.tempfile, "TemporaryFile", read_only)
    assert main(line("sft", models, tmp_path / "run")) == 2
    assert re.search(r"error: --out is '.*run'; expected one to write to.*Read-only", said(capsys))


@pytest.mark.parametrize("name", ["a b/", "ü/ß", "no/such/parent", "trailing/", "a$b$_c"])
def test_a_run_may_stand_in_a_folder_of_any_name(models, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    assert main(line("sft", models, name, "--max-steps", 1)) == 0
    assert f"report: {Path(name) / 'report.md'}" in capsys.readouterr().out
    assert main(["sft", "--out", name, "--resume"]) == 0


def test_a_tilde_is_the_home_folder_where_no_shell_has_read_it(
    models, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    shutil.copytree(models["policy"], tmp_path / "policy")
    flags = ["--max-steps", "1", "--policy", "~/policy"]
    assert main([*line("sft", {}, "~/run"), *flags]) == 0
    assert (tmp_path / "run" / "model").exists()
    assert main(["sft", "--out", "~/run", "--resume", "--policy", "~/policy"]) == 0
    assert main(["report", "~/run", "--out", "~/report"]) == 0
    assert (tmp_path / "report" / "report.md").exists()
    assert cli.at_home("~x") == os.path.expanduser("~x") and cli.at_home("a~/b") == "a~/b"


def test_a_cache_that_cannot_be_written_is_no_reason_to_stop(models, files, tmp_path, monkeypatch):
    from datasets import config

    (tmp_path / "file").write_text("")
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "file" / "datasets")
    flags = ["--data", files["sft"], "--max-steps", 1]
    assert main(line("sft", models, tmp_path / "run", *flags)) == 0
    assert config.HF_DATASETS_CACHE.exists() and config.HF_DATASETS_CACHE != tmp_path
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    assert main(line("sft", models, tmp_path / "again", *flags)) == 0
    assert config.HF_DATASETS_CACHE == tmp_path / "cache"


# ------------------------------------------------------------------ rewards


@pytest.fixture
def shelf(tmp_path, monkeypatch) -> Path:
    """A folder with modules of the user's, from which the command is called."""
    (tmp_path / "shelf" / "deep").mkdir(parents=True)
    (tmp_path / "shelf" / "beside.py").write_text("scale = 2.\n")
    code = (
        "import beside\n"
        "number = 3.\n"
        "def length(prompts, completions, **columns):\n"
        "    return [beside.scale * len(c) for c in completions]\n"
        "class Rewards:\n"
        "    @staticmethod\n"
        "    def length(prompts, completions, **columns):\n"
        "        return [float(len(c)) for c in completions]\n"
        "    def __call__(self, prompts, completions, **columns):\n"
        "        return [1. for c in completions]\n"
        "one = Rewards()\n"
    )
    (tmp_path / "shelf" / "my_shelf.py").write_text(code)
    (tmp_path / "shelf" / "deep" / "__init__.py").write_text("")
    (tmp_path / "shelf" / "deep" / "inner.py").write_text(code)
    (tmp_path / "shelf" / "broken_shelf.py").write_text("import json\njson.no_such_thing\n")
    (tmp_path / "shelf" / "leaving_shelf.py").write_text("raise SystemExit('usage: ...')\n")
    (tmp_path / "shelf" / "odd_shelf.py").write_text("def f(:\n")
    (tmp_path / "shelf" / "needy_shelf.py").write_text("import not_installed_here\n")
    monkeypatch.chdir(tmp_path / "shelf")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])  # as with python -P
    for name in ("beside", "my_shelf", "deep", "deep.inner", "broken_shelf", "odd_shelf"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path / "shelf"


def reward_for(source, world: str | None = "letters", weights=None):
    s = SimpleNamespace(
        reward=source, reward_weights=weights, world=world, scale="tiny", device="cpu", data="x"
    )
    return commands.start_reward(s)


def test_a_function_is_found_in_a_module_a_package_a_class_and_a_file(shelf):
    asked = {"prompts": ["a"], "completions": ["four"]}
    assert reward_for("my_shelf:length")(**asked) == [8.0]
    assert reward_for("my_shelf:Rewards.length")(**asked) == [4.0]
    assert reward_for("my_shelf:one")(**asked) == [1.0]
    assert reward_for("deep.inner:length")(**asked) == [8.0]
    assert reward_for("deep.inner:Rewards.length")(**asked) == [4.0]
    for path in ("my_shelf.py", "deep/inner.py", str(shelf / "deep" / "inner.py"), "./my_shelf.py"):
        assert reward_for(f"{path}:length")(**asked) == [8.0]
    assert reward_for("gold") is commands.letters.gold_reward


@pytest.mark.parametrize(
    "source, message",
    [
        ("my_shelf:number", "expected a function of my_shelf to call .*, and it is a float"),
        ("my_shelf:Rewards", "and it is a class"),
        ("my_shelf:widths", "finding it failed: module 'my_shelf' has no attribute 'widths'"),
        ("my_shelf:Rewards.width", "finding it failed: .*'Rewards' has no attribute 'width'"),
        ("no_shelf:length", "importing it failed: No module named 'no_shelf'"),
        ("needy_shelf:length", "importing it failed: No module named 'not_installed_here'"),
        ("broken_shelf:length", "AttributeError: module 'json' has no attribute 'no_such_thing'"),
        ("leaving_shelf:length", "importing it failed: SystemExit: usage"),
        ("odd_shelf:f", r"SyntaxError: invalid syntax .*odd_shelf.py, line 1"),
        ("broken_shelf.py:length", "AttributeError: module 'json' has no attribute"),
        ("no_shelf.py:length", "importing it failed: there is no file '.*no_shelf.py'"),
        ("gone/my_shelf.py:length", "importing it failed: there is no file"),
        (r"C:\runs\reward", r"--reward is 'C:\\\\runs\\\\reward'; expected a checkpoint folder"),
        ("C:/runs/reward", "--reward is 'C:/runs/reward'; expected a checkpoint folder"),
        (r"\\server\share", "expected a checkpoint folder with config.json"),
        ("runs/a:b/model", "expected a checkpoint folder with config.json"),
        ("~no/such", "expected a checkpoint folder with config.json"),
        ("my_shelf.length", r"\(a function is given as MODULE:FUNCTION, with"),
    ],
)
def test_a_reward_that_is_not_there_is_told_as_what_it_was_taken_for(
    shelf, monkeypatch, source, message
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises((ValueError, OSError), match=message) as refused:
        reward_for(source)
    assert str(refused.value).startswith("--reward is ")
    assert Path(source.partition(".py:")[0]).stem not in sys.modules or "my_shelf" in source


def test_a_reward_of_a_world_needs_the_world():
    with pytest.raises(
        ValueError, match="--reward is 'gold', which belongs to a world; expected a f"
    ):
        reward_for("gold", world=None)


@pytest.mark.parametrize("name", [r"C:\runs\reward", "2026-01-01T10:20", "reward:v2"])
def test_a_folder_may_have_a_colon_in_its_name(models, shelf, name):
    shutil.copytree(models["reward"], name)
    assert reward_for(name).model.config.num_labels == 1
    shutil.rmtree(name)


def test_several_rewards_are_added_up_with_their_weights(models, shelf, tmp_path, capsys):
    asked = {"prompts": ["a"], "completions": ["four"]}
    both = ["my_shelf:length", "my_shelf:one"]
    assert reward_for(both)(**asked) == [9.0]
    assert reward_for(both, weights=[0.5, -3.0])(**asked) == [1.0]
    assert reward_for("my_shelf:one", weights=[4.0])(**asked) == [4.0]
    for weights in ([1.0], [1.0, 1.0, 1.0], [1.0, float("nan")]):
        with pytest.raises(
            ValueError, match="--reward-weights is .*; expected a finite number for each of the 2"
        ):
            reward_for(both, weights=weights)

    out = tmp_path / "run"
    flags = ["--reward", *both, "--reward", models["reward"], "--reward-weights", "1", "-.5", "2"]
    small = line("ppo", {"policy": models["policy"]}, out, *flags, "--max-steps", 2)
    assert main(small) == 0
    settings = json.loads((out / "settings.json").read_text())["settings"]
    assert settings["reward"] == [*both, models["reward"]]
    assert settings["reward_weights"] == [1.0, -0.5, 2.0]
    assert main(["ppo", "--out", str(out), "--resume"]) == 0
    assert main(["ppo", "--out", str(out), "--resume", *flags]) == 0
    capsys.readouterr()
    assert main(["ppo", "--out", str(out), "--resume", "--reward", both[0]]) == 2
    assert "--reward is 'my_shelf:length'; expected ['my_shelf:length', 'my_shelf:one', " in said(
        capsys
    )


def test_the_critic_starts_from_the_learned_one_of_several_rewards(models, shelf):
    start, words = load_policy(models["policy"])
    both = reward_for(["my_shelf:one", models["reward"]])
    critic = commands.start_critic(SimpleNamespace(critic=None, seed=5), start, words, both)
    assert torch.equal(critic.score.weight, both.rewards[1].model.score.weight)
    assert critic is not both.rewards[1].model

    from transformers import AutoModelForSequenceClassification

    from rlhf_lib.worlds import sums

    config = copy.deepcopy(both.rewards[1].model.config)
    config.vocab_size = len(sums.tokenizer())
    foreign = commands.LearnedReward(
        AutoModelForSequenceClassification.from_config(config), sums.tokenizer()
    )
    critic = commands.start_critic(SimpleNamespace(critic=None, seed=5), start, words, foreign)
    assert torch.equal(critic.transformer.wte.weight, start.transformer.wte.weight)


# ------------------------------------------------------------------ consoles


def shown(encoding: str, errors: str = "strict") -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors)


@pytest.mark.parametrize(
    "encoding, pi",
    [("cp1252", "?"), ("cp437", "π"), ("cp850", "?"), ("ascii", "?"), ("utf-8", "π")],
)
def test_help_is_shown_on_any_console(monkeypatch, encoding, pi):
    """Those of Windows, as a pipe or a file there has them, and one without any letters of ours."""
    for errors in ("strict", "surrogateescape"):
        for command in ("ppo", "grpo", "dpo", "sft", "report"):
            monkeypatch.setattr(sys, "stdout", shown(encoding, errors))
            with pytest.raises(SystemExit) as done:
                main([command, "--help"])
            text = sys.stdout.buffer.getvalue().decode(encoding)
            assert done.value.code == 0 and f"usage: python -m rlhf_lib {command}" in text
            if command == "ppo":
                assert f"folder or hub name of {pi}_ref" in " ".join(text.split())
            assert sys.stdout.errors == errors  # it is somebody else's when the command is done


@pytest.mark.parametrize("columns", ["1", "20", "0", "many", "-3"])
def test_help_is_shown_in_any_width(monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as done:
        main(["ppo", "--help"])
    assert done.value.code == 0
    assert "--reward-weights" in capsys.readouterr().out


def test_a_finished_run_ends_well_wherever_its_output_goes(unbroken, tmp_path, monkeypatch):
    """± is no character of ASCII; and who looks at the first line only may close the rest."""
    shutil.copytree(unbroken["sft"], tmp_path / "run")
    again = ["sft", "--out", str(tmp_path / "run"), "--resume"]
    monkeypatch.setattr(sys, "stdout", shown("ascii"))
    assert main(again) == 0
    assert re.search(rb"\| gold +\| -?[\d.]+ \? [\d.]+ \|", sys.stdout.buffer.getvalue())

    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    closed = shown("utf-8")
    closed.close()
    for gone in (None, closed, Full()):
        for name in ("stdout", "stderr"):
            with monkeypatch.context() as patch:
                patch.setattr(sys, name, gone)
                assert main(again) == 0
                assert main(["sft", "--out", str(tmp_path / "none"), "--resume"]) == 2


ROOT = Path(cli.__file__).parents[2]
OLD = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "OMP_NUM_THREADS": "1"}


@pytest.mark.skipif(os.name != "posix", reason="locales and pipes of POSIX")
def test_a_run_ends_well_in_a_locale_without_letters(models, tmp_path):
    arguments = line("sft", models, tmp_path / "run", "--max-steps", "1")
    done = subprocess.run(
        [sys.executable, "-m", "rlhf_lib", *arguments],
        cwd=ROOT,
        env={**{k: v for k, v in os.environ.items() if k != "LANG"}, **OLD},
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert re.search(rb"\| gold +\| -?[\d.]+ \? [\d.]+ \|", done.stdout)
    assert "±" in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")


@pytest.mark.skipif(os.name != "posix", reason="locales and pipes of POSIX")
def test_a_pipe_that_closes_its_end_gets_no_traceback():
    """Neither from the command nor from Python, which flushes once more when it ends."""
    calls = [(a, u) for a in (["--help"], ["report", "no/such/run"]) for u in ("", "1")]
    for arguments, unbuffered in calls:
        ends, begins = os.pipe()
        os.close(ends)  # before anything is written
        done = subprocess.run(
            [sys.executable, "-m", "rlhf_lib", *arguments],
            cwd=ROOT,
            stdout=begins,
            stderr=subprocess.PIPE if arguments == ["--help"] else begins,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
        os.close(begins)
        assert done.returncode == (0 if arguments == ["--help"] else 2) and not done.stderr


def test_output_that_is_somebody_elses_object_is_left_as_it_is(models, tmp_path, monkeypatch):
    """A notebook's has no encoding to set; it may still be one that has not every character."""

    class Ascii(io.StringIO):
        def write(self, text):
            text.encode("ascii")
            return super().write(text)

    monkeypatch.setattr(sys, "stdout", Ascii())
    assert main(line("sft", models, tmp_path / "run", "--max-steps", 1)) == 0
    assert r"\xb1" in sys.stdout.getvalue()


@pytest.mark.skipif(sys.platform != "linux", reason="file names that are no text")
def test_a_file_name_that_is_no_text_can_be_used_and_recorded(models, files, tmp_path, capsys):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/d\xe4ta.jsonl")
    shutil.copy(files["sft"], odd)
    assert main(line("sft", models, tmp_path / "run", "--data", odd, "--max-steps", 1)) == 0
    settings = json.loads((tmp_path / "run" / "settings.json").read_text(encoding="utf-8"))
    assert settings["settings"]["data"] == odd
    assert r"d\udce4ta.jsonl" in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert main(["sft", "--out", str(tmp_path / "run"), "--resume"]) == 0
    capsys.readouterr()
    out = os.fsdecode(os.fsencode(tmp_path) + b"/r\xfcn")
    assert main(line("sft", models, out)) == 2  # no model file can be written there
    assert "--out is " in (text := said(capsys)) and "which is not UTF-8" in text
    assert not os.path.exists(out)
    rows = ["--data", files["prompts"], "--rows", "4"]
    assert main(line("best-of-n", models, out, *rows)) == 0  # which writes none


# ------------------------------------------------------------------ advice


@pytest.mark.parametrize(
    "text, told",
    [
        (
            "batch_size is 3; expected a multiple of mini_batch_size=2",
            "--batch-size is 3; expected a multiple of --mini-batch-size=2",
        ),
        ("beta is -1; expected 0 or more", "--beta is -1; expected 0 or more"),
        ("reference is None at beta=0.1", "--reference is None at --beta=0.1"),
        ("set bf16=True or bf16=False", "set --bf16 or --no-bf16"),
        (
            "microbatch_tokens and max_steps are given",
            "--microbatch-tokens and --max-steps are given",
        ),
        ("lower max_steps, or batch_size.", "lower --max-steps, or --batch-size."),
        # what is no setting there stays
        ("the reward is 4 for each", "the reward is 4 for each"),
        ("reward function 'batch_size' raised", "reward function 'batch_size' raised"),
        (
            "my.max_steps:batch_size in runs/max_steps/x",
            "my.max_steps:batch_size in runs/max_steps/x",
        ),
        ("max_steps.jsonl and runs/beta=1/x", "max_steps.jsonl and runs/beta=1/x"),
        ("no beta here, the loss is high", "no beta here, the loss is high"),
        ("--batch-size is 3; --beta=2", "--batch-size is 3; --beta=2"),
    ],
)
def test_settings_are_called_as_on_the_command_line(text, told):
    names = [
        "batch_size",
        "mini_batch_size",
        "beta",
        "bf16",
        "microbatch_tokens",
        "max_steps",
        "reward",
        "reference",
        "loss",
    ]
    assert cli.in_flags(text, names) == told


@pytest.mark.parametrize(
    "arguments",
    [
        "ppo --out {out} --target-kl 3 --beta 0",
        "ppo --out {out} --dual-clip 1",
        "ppo --out {out} --gamma 2",
        "ppo --out {out} --epsilon-value 0",
        "ppo --out {out} --ptx-coefficient .1 --data {prompts} --policy {policy} --reward {reward}"
        " --eval-rows 2",
        "ppo --out {out} --warmup-steps -1",
        "ppo --out {out} --max-grad-norm 0",
        "grpo --out {out} --num-generations 3",
        "grpo --out {out} --loss cispo",
        "grpo --out {out} --loss rloo --epsilon-high .3",
        "grpo --out {out} --dynamic-sampling --advantage return_to_go --num-generations 1",
        "grpo --out {out} --kl-in nowhere",
        "grpo --out {out} --temperature 0",
        "dpo --out {out} --loss-type sigmoid",
        "dpo --out {out} --loss-type kto --batch-size 1",
        "dpo --out {out} --label-smoothing .7",
        "sft --out {out} --gradient-accumulation-steps 2 --microbatch-tokens 9",
        "sft --out {out} --gradient-accumulation-steps 0",
        "sft --out {out} --rows 0",
        "best-of-n --out {out} --num-generations 0",
        "sft --out {out} --device nonsense",
        "sft --out {out} --policy {out}/none",
        "ppo --out {out} --reference {out}/none",
        "ppo --out {out} --critic {out}/none",
        "ppo --out {out} --critic {policy}",
        "ppo --out {out} --data {out}/none.jsonl --policy {policy} --reward {reward}",
        "ppo --out {out} --data {pairs} --split nowhere --policy {policy} --reward {reward}",
        "grpo --out {out} --reward {policy}",
    ],
)
def test_what_an_error_names_is_a_flag(models, files, tmp_path, capsys, arguments):
    """No setting by its name in Python, and no call: what is advised can be typed."""
    out = tmp_path / "run"
    filled = arguments.format(out=out, **models, **files)
    assert main(filled.split()) == 2
    text = said(capsys)
    known = {flag.lstrip("-") for flag in re.findall(r"--[a-z-]+", text)}
    _, defaults = make_parser(filled.split()[0])
    assert known and known <= {cli.dashed(name) for name in defaults} | {"out"}, text
    bare = text.replace(str(tmp_path), "")
    for name in defaults:
        if "_" in name:
            assert not re.search(rf"(?<!['/-]){name}\b", bare), text
    assert not re.search(r"\w\(\w*=|load_\w+|True|False", bare), text
    assert not out.exists()


# ------------------------------------------------------------------ settings


def settled(text: str, tmp_path) -> dict:
    arguments = text.split()
    parser, defaults = make_parser(arguments[0])
    given = vars(parser.parse_args([*arguments, "--out", str(tmp_path / "run")]))
    return settle(
        given.pop("command"),
        {k: v for k, v in given.items() if k != "out"},
        defaults,
        tmp_path / "run",
        resume=False,
    )


def made_ready(text: str, tmp_path):
    """The task of a command line, before its first step."""
    settings = {**settled(text, tmp_path), "device": "cpu"}
    make, config = commands.COMMANDS[text.split()[0]]
    known = {field.name: settings[field.name] for field in fields(config)}
    return make(SimpleNamespace(**settings), config(**known))


def test_what_is_held_out_is_not_trained_on(models, tmp_path, monkeypatch):
    """Of a file the first rows; of a world, prompts that no seed of it trains on."""
    monkeypatch.setattr(commands, "evaluate", lambda *a, **k: {"values": {}, "prompts": a[2]})
    rows = [{"prompt": f"write to ben {i}", "completion": "hello"} for i in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    start = f"--data {tmp_path / 'rows.jsonl'} --policy {models['policy']} --eval-rows 4"
    for command, prompts in (
        ("sft", lambda loop: loop.data.prompts),
        (f"ppo --reward {models['reward']} --max-new-tokens 6", lambda loop: loop.data["prompt"]),
    ):
        task = made_ready(f"{command} {start}", tmp_path)
        assert prompts(task.loop) == [row["prompt"] for row in rows[4:]]
        assert task.measure()["prompts"] == [row["prompt"] for row in rows[:4]]

    world, seeded = commands.letters, f"--policy {models['policy']} --eval-rows 5 --seed 3"
    held_out = world.prompts(5, seed=12, held_out=True)["prompt"][:]
    for command, prompts, expected in (
        (
            "sft --rows 7",
            lambda loop: loop.data.prompts,
            world.demonstrations(7, seed=3)["prompt"][:],
        ),
        (
            f"grpo --rows 9 --reward {models['reward']}",
            lambda loop: loop.data["prompt"],
            world.prompts(9, seed=103)["prompt"][:],
        ),
    ):
        task = made_ready(f"{command} {seeded}", tmp_path)
        assert prompts(task.loop) == expected
        assert task.measure()["prompts"] == held_out and not set(held_out) & set(expected)
    pairs = artifacts.compare(load_policy(models["policy"])[0], tokenizer(), 6, 3)
    task = made_ready(f"reward-model --rows 6 {seeded}", tmp_path)
    assert task.loop.chosen == pairs["chosen"][:]
    seen = []
    monkeypatch.setattr(commands, "pair_accuracy", lambda m, t, held: seen.append(held) or 0.5)
    task.measure()
    assert seen[0]["prompt"][:] == world.prompts(5, seed=1_003)["prompt"][:]


def test_simpo_is_measured_by_a_reference_that_it_does_not_read(models, tmp_path):
    """So that one with a short context is no limit to what it trains on."""
    model = load_policy(models["policy"])[0]
    model.config.n_positions = 40
    model.transformer.wpe.weight = torch.nn.Parameter(model.transformer.wpe.weight[:40])
    model.save_pretrained(tmp_path / "short")
    tokenizer().save_pretrained(tmp_path / "short")
    row = {"prompt": RAGGED[0], "chosen": "no. " * 20, "rejected": "no."}
    (tmp_path / "pairs.jsonl").write_text((json.dumps(row) + "\n") * 9)
    flags = f"--policy {models['policy']} --data {tmp_path / 'pairs.jsonl'} --eval-rows 2"
    task = made_ready(f"dpo --loss-type simpo {flags}", tmp_path)
    assert task.loop.reference is None and task.measure()["kl"] == pytest.approx(0, abs=1e-6)
    flags += f" --reference {tmp_path / 'short'}"
    assert made_ready(f"dpo --loss-type simpo {flags}", tmp_path).loop.reference is None
    with pytest.raises(
        ValueError, match="9 of 9 rows do not fit.*at most 40, the context of the ref"
    ):
        made_ready(f"dpo {flags}", tmp_path)


def test_measuring_samples_as_the_loop_does_and_repeatably(models, tmp_path, monkeypatch):
    """At its temperature and length, from the run's seed, against its reference and reward."""
    seen = []
    monkeypatch.setattr(commands, "evaluate", lambda *a, **k: seen.append((a, k)) or {"values": 0})
    flags = f"--policy {models['policy']} --eval-rows 5 --rows 9 --seed 4"
    sampling = f"--reward {models['reward']} --temperature 0.5 --max-new-tokens 7"
    for command, expected in (
        (f"grpo {flags} {sampling}", (7, 0.5, 4)),
        (f"ppo {flags} {sampling}", (7, 0.5, 4)),
        (f"sft {flags}", (commands.letters.MAX_NEW_TOKENS, 1.0, 4)),
    ):
        task = made_ready(command, tmp_path)
        task.measure()
        (policy, _, _, rewards, reference, *how), _ = seen[-1]
        assert tuple(how) == expected and policy is task.model
        assert list(rewards) == (["gold"] if command.startswith("sft") else ["reward", "gold"])
        if not command.startswith("sft"):
            assert reference is task.loop.reference is not policy
            assert rewards["reward"] is task.loop.reward


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_the_defaults_are_those_of_the_algorithm(command, tmp_path):
    config = commands.COMMANDS[command][1]
    found = settled(command, tmp_path)
    assert config(**{field.name: found[field.name] for field in fields(config)}) == config()


def test_settings_are_read_as_what_they_are(tmp_path):
    found = settled("ppo --epsilon-value none --target-kl 6 --max-steps 7 --beta 1e-2", tmp_path)
    assert found["epsilon_value"] is None and found["target_kl"] == 6.0 and found["beta"] == 0.01
    assert found["max_steps"] == 7 and isinstance(found["max_steps"], int)
    found = settled("dpo --no-precompute-ref-log-probs", tmp_path)
    assert found["precompute_ref_log_probs"] is False


def test_a_flag_counts_more_than_the_variant_the_scale_and_the_world(tmp_path):
    from rlhf_lib.algorithms.variants import VARIANTS

    for name, changes in VARIANTS.items():
        assert settled(f"grpo --variant {name}", tmp_path).items() >= changes.items()
    found = settled("grpo --variant dapo --beta 0.2", tmp_path)
    assert found["beta"] == 0.2 and found["epsilon_high"] == VARIANTS["dapo"]["epsilon_high"]
    assert (
        settled("ppo --scale gpt2", tmp_path)["critic_learning_rate"]
        == artifacts.RATES["gpt2"]["critic"]
    )
    assert settled("ppo --scale gpt2 --learning-rate 1", tmp_path)["learning_rate"] == 1
    assert (
        settled("grpo --world sums", tmp_path)["max_new_tokens"]
        == commands.WORLDS["sums"].MAX_NEW_TOKENS
    )
    assert settled("grpo --data x", tmp_path)["world"] is None


@pytest.mark.parametrize("name", ["base", "sft"])
def test_at_the_scale_of_gpt2_the_shipped_models_are_grown(name, monkeypatch):
    """And the reward model stays as it is: it judges the same text."""
    monkeypatch.setitem(artifacts.SCALES, "gpt2", dict(n_embd=256, n_layer=5, vocab_size=900))
    run = SimpleNamespace(world="letters", scale="gpt2", seed=0, device="cpu", data=None)
    large, words = commands.start_model(run, None, name)
    small, _ = artifacts.load("letters", name)
    assert (large.config.n_embd, large.config.vocab_size) == (256, 900)
    ids = torch.tensor(words(RAGGED[0])["input_ids"])[None]
    with torch.no_grad():
        old, new = (model(ids).logits.log_softmax(-1) for model in (small, large))
    assert (old - new[..., : len(words)]).abs().max() < 1e-4
    reward, _ = commands.start_model(run, None, "reward")
    assert reward.config.n_embd == small.config.n_embd


def test_the_critic_and_the_pretraining_mix_can_be_chosen(models, tmp_path):
    for critic in ("shared", models["reward"]):
        assert (
            main(
                line(
                    "ppo",
                    models,
                    tmp_path / Path(critic).name,
                    "--critic",
                    critic,
                    "--max-steps",
                    1,
                    "--ptx-coefficient",
                    ".1",
                )
            )
            == 0
        )
    records = [read_log(tmp_path / name / "log.jsonl")[0] for name in ("shared", "reward")]
    assert records[0]["value_loss"] != records[1]["value_loss"]
    assert "ptx_loss" in records[0]


# ------------------------------------------------------------------ help


def test_help_loads_no_library_and_little_of_python():
    code = (
        "import sys\nbefore = set(sys.modules)\nfrom rlhf_lib.running.command_line import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as done:\n    assert done.code == 0\n"
        "loaded = set(sys.modules) - before\n"
        "others = {m.partition('.')[0] for m in loaded} - sys.stdlib_module_names\n"
        "assert others == {'rlhf_lib'} and len(loaded) < 120, (len(loaded), others)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(cli.__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    for command in [*cli.COMMANDS, "report", "artifacts"]:
        assert re.search(rf"^    {command}\b", done.stdout, re.M), command


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_the_help_of_a_command_explains_every_setting_and_gives_an_example(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert f"examples:\n  python -m rlhf_lib {command} " in text
    unwrapped = " ".join(text.split())
    for field in fields(commands.COMMANDS[command][1]):
        flag = "--" + field.name.replace("_", "-")
        explained = re.search(rf"{flag}(?: [A-Z]+| {{.*?}}|, --no\S+)? (\S.*?)(?= --|$)", unwrapped)
        assert explained and len(explained[1]) > 8 and not explained[1].startswith("(default"), flag
    for flag in (
        "--world",
        "--data",
        "--scale",
        "--device",
        "--threads",
        "--resume",
        "--save-every",
        *(f"--{name}" for name in cli.COMMANDS[command].models),
    ):
        assert f"  {flag} " in text


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_the_examples_of_the_help_are_valid(command):
    parser, _ = make_parser(command)
    for example in cli.COMMANDS[command].examples:
        parser.parse_args(shlex.split(example))


def test_transformers_is_not_loaded_for_the_help_of_a_command():
    code = (
        "import sys\nfrom rlhf_lib.running.command_line import make_parser\nmake_parser('ppo')\n"
        "assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(cli.__file__).parents[2])


def test_artifacts_has_its_own_command_line(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(artifacts, "main", seen.append)
    assert main(["artifacts", "letters", "--check"]) == 0
    assert seen == [["letters", "--check"]]

    def poor(arguments):
        raise AssertionError("reward_std is 3; expected .8 to 1.2")

    monkeypatch.setattr(artifacts, "main", poor)
    assert main(["artifacts", "letters", "--check"]) == 2
    assert said(capsys) == "error: reward_std is 3; expected .8 to 1.2\n"


# ------------------------------------------------------------------ reports


def made_run(folder: Path, rewards: list[float], **settings) -> Path:
    folder.mkdir()
    (folder / "settings.json").write_text(
        json.dumps({"command": "ppo", "command_line": "x", "settings": {"beta": 0.1, **settings}})
    )
    (folder / "log.jsonl").write_text(
        "".join(
            json.dumps({"step": i + 1, "reward": reward, "kl": 0.0, "seconds": 1.0}) + "\n"
            for i, reward in enumerate(rewards)
        )
    )
    return folder


def test_the_table_says_where_a_metric_began_ended_and_was_best(tmp_path):
    rewards = [0.0, 0, 0, 0, 5, 5, 5, 5, 5, 0, 0, 0, 0, 0]
    text = write_report([made_run(tmp_path / "a", rewards)], tmp_path / "a").read_text()
    assert "| reward | 1     | 0    | 5 (9)          |" in text  # means over five steps
    assert "| kl     | 0     | 0    |                |" in text  # neither end of it is better
    assert "14 steps in 14 s" in text and "| run" not in text


def test_several_runs_in_one_figure_and_one_table(unbroken, tmp_path, capsys):
    folders = [str(unbroken[name]) for name in ("ppo", "grpo")]
    assert main(["report", *folders, "--out", str(tmp_path / "both")]) == 0
    text = (tmp_path / "both" / "report.md").read_text()
    for name in ("ppo", "grpo"):
        assert re.search(rf"^\| {name} +\| gold ", text, re.M)
        assert re.search(rf"^\| {name} +\| entropy ", text, re.M)
    assert re.search(r"^\| command +\| ppo +\| grpo +\|$", text, re.M)
    assert not re.search(r"^\| seed ", text, re.M)  # the same in both
    assert (tmp_path / "both" / "report.png").exists()


def test_two_runs_of_the_same_name_are_told_apart(tmp_path):
    for parent in ("a", "b"):
        (tmp_path / parent).mkdir()
        made_run(tmp_path / parent / "run", [1.0, 2.0], beta=0.1 if parent == "a" else 0.2)
    text = write_report([tmp_path / "a/run", tmp_path / "b/run"], tmp_path / "c").read_text()
    assert f"| {tmp_path / 'a/run'} | reward" in text and f"| {tmp_path / 'b/run'} | reward" in text
    assert re.search(r"^\| beta +\| 0\.1 +\| 0\.2 +\|$", text, re.M)


def test_the_report_of_a_run_that_has_only_begun(unbroken, tmp_path):
    shutil.copytree(unbroken["ppo"], tmp_path / "run")
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    del evaluation["after"]
    (tmp_path / "run" / "evaluation.json").write_text(json.dumps(evaluation))
    (tmp_path / "run" / "log.jsonl").unlink()
    text = write_report([tmp_path / "run"], tmp_path / "run").read_text()
    assert "0 steps" in text and "| gold " in text and "Training batches" not in text


def test_a_damaged_run_is_named(tmp_path, capsys):
    made_run(tmp_path / "run", [1.0])
    (tmp_path / "run" / "settings.json").write_text("{")
    assert main(["report", str(tmp_path / "run")]) == 2
    assert "settings.json is damaged" in said(capsys)


def test_text_cannot_break_a_table_or_a_sample():
    assert "a\\|b c" in table(["x"], [["a|b\nc"]])


# ------------------------------------------------------------------ adapters


@pytest.mark.parametrize("command", TRAINING)
def test_an_adapter_is_trained_by_a_flag_and_merged_in_the_model(command, models, tmp_path):
    assert main([*line(command, models, tmp_path / "run"), "--lora", "2"]) == 0
    names = {path.name for path in (tmp_path / "run" / "model").iterdir()}
    assert "model.safetensors" in names and not any(name.startswith("adapter") for name in names)
    trained = "model" if command in ("sft", "reward-model") else "policy"
    kept = tmp_path / "run" / "checkpoint" / trained / "adapter_config.json"
    assert json.loads(kept.read_text())["r"] == 2
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())["settings"]
    assert settings["lora"] == 2


def test_what_is_merged_is_what_was_trained(models, tmp_path):
    assert main([*line("sft", models, tmp_path / "run"), "--lora", "2"]) == 0
    whole, _ = load_policy(tmp_path / "run" / "model")
    start, _ = load_policy(models["policy"])
    adapter = peft.PeftModel.from_pretrained(start, tmp_path / "run" / "checkpoint" / "model")
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        expected = adapter.eval()(ids).logits
        assert torch.allclose(whole(ids).logits, expected, atol=1e-5)
        assert not torch.allclose(load_policy(models["policy"])[0](ids).logits, expected, atol=1e-4)


def test_a_run_with_an_adapter_is_resumed_to_the_same_numbers(models, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    flags = ["--lora", "2", "--save-every", "1", "--max-steps", "3"]
    assert main(line("grpo", models, whole, *flags)) == 0
    with pytest.MonkeyPatch.context() as patch:
        step, count = commands.GRPO.step, 0

        def stops(self):
            nonlocal count
            count += 1
            if count == 3:
                raise FloatingPointError("stopped here")
            return step(self)

        patch.setattr(commands.GRPO, "step", stops)
        assert main(line("grpo", models, parts, *flags)) == 2
    assert main(["grpo", "--out", str(parts), "--resume", "--quiet"]) == 0
    assert without_seconds(parts) == without_seconds(whole)


def test_a_folder_with_an_adapter_is_a_policy_and_takes_no_second_adapter(models, tmp_path, capsys):
    assert main([*line("sft", models, tmp_path / "run"), "--lora", "2"]) == 0
    folder = str(tmp_path / "run" / "checkpoint" / "model")
    given = {**models, "policy": folder}  # its tokenizer is that of the model under it
    assert main(line("grpo", given, tmp_path / "on")) == 0
    capsys.readouterr()
    assert main([*line("grpo", given, tmp_path / "twice"), "--lora", "2"]) == 2
    assert "--lora is 2: model has an adapter already" in capsys.readouterr().err


@pytest.mark.parametrize("rank", ["0", "-1", "many"])
def test_a_rank_that_is_none_is_refused(rank, models, tmp_path, capsys):
    assert main([*line("sft", models, tmp_path / "run"), f"--lora={rank}"]) == 2
    assert "lora" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_without_peft_the_flag_says_what_is_missing(models, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    assert main([*line("sft", models, tmp_path / "run"), "--lora", "2"]) == 2
    assert "peft is not installed" in capsys.readouterr().err
