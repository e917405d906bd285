"""The command line: every command from start to report, stopped, resumed, and refused."""

from __future__ import annotations

import io
import json
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

import pytest
import torch

from rlhf_lib.models.policy import load_policy
from rlhf_lib.models.reward_model import load_reward_model
from rlhf_lib.running import artifacts, commands
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
    "ppo": "--batch-size 4 --mini-batch-size 2 --max-steps 5 --eval-rows 6 --max-new-tokens 6",
    "grpo": "--batch-size 4 --num-generations 2 --mini-batch-size 2 --max-steps 5 --eval-rows 6 "
    "--max-new-tokens 6",
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
    assert "learning_rate is 0.001; expected 0.0005, as in the run" in said(capsys)
    assert main([*again, "--policy", "elsewhere"]) == 2
    assert "policy is 'elsewhere'; expected '" in said(capsys)
    assert main(["dpo", *again[1:]]) == 2
    assert "command is 'dpo'; expected 'sft'" in said(capsys)
    assert main([*again, "--save-every", "3", "--learning-rate", "5e-4"]) == 0
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == before
    assert read_run(tmp_path / "run")["evaluation"] == evaluation


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
        ("ppo --out {out} --batch-size 0", "batch_size is 0"),
        (
            "ppo --out {out} --batch-size 7 --mini-batch-size 2",
            "batch_size is 7; expected a multiple",
        ),
        ("best-of-n --out {out} --max-steps -1", "max_steps is -1"),
        ("ppo --out {out} --policy {out}/none", "expected a checkpoint folder"),
        ("ppo --out {out} --eval-rows 1", "eval_rows is 1; expected at least 2"),
        ("ppo --out {out} --save-every 0", "save_every is 0; expected at least 1"),
        ("ppo --out {out} --reward strict", "reward is 'strict'; expected a function of letters"),
        ("ppo --out {out} --reward no_such_module:f", "No module named 'no_such_module'"),
        ("ppo --out {out} --reward json:no_such_name", "no attribute 'no_such_name'"),
        ("ppo --out {out} --resume", "expected the folder of a run to resume"),
        ("grpo --out {out} --world sums --scale gpt2", "policy is not given"),
        ("ppo --out {out} --scale gpt2", "expected a folder or hub name, such as the model/"),
        ("ppo --out {out} --data x.jsonl --world sums", "world and data are both given"),
        ("dpo --out {out} --data x.jsonl", "policy is not given"),
        ("sft --out {out} --data {out}/none.jsonl --policy {policy}", "none.jsonl"),
        ("reward-model --out {out} --world sums --policy {policy}", "no annotators"),
        ("report {out}", "expected a run with settings.json"),
        ("report {out} {policy}", "out is not given"),
        ("train", "invalid choice: 'train'"),
    ],
)
def test_an_error_of_the_user_is_one_line(models, tmp_path, capsys, arguments, message):
    out = tmp_path / "run"
    assert main(arguments.format(out=out, **models).split()) == 2
    text = said(capsys)
    assert text.startswith("error: ") and message in text
    assert not out.exists()  # nothing stands in the way of the next try


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
    assert "data has 12 rows; expected more than eval_rows=12" in said(capsys)


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


@pytest.mark.parametrize("name", ["settings.json", "evaluation.json"])
def test_a_damaged_file_is_named_on_resume(unbroken, tmp_path, capsys, name):
    shutil.copytree(unbroken["sft"], tmp_path / "run")
    (tmp_path / "run" / name).write_text('{"before": ')
    assert main(["sft", "--out", str(tmp_path / "run"), "--resume"]) == 2
    assert f"{name} is damaged; expected JSON" in said(capsys)


def test_completions_that_do_not_fit_leave_no_folder_in_the_way(models, tmp_path, capsys):
    assert main(line("ppo", models, tmp_path / "run", "--max-new-tokens", "500")) == 2
    assert "the context of this model" in said(capsys) and not (tmp_path / "run").exists()


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
