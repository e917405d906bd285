"""Run logs, checkpoints, interruptions, the order of the data, artifacts, evaluation."""

import errno
import itertools
import json
import math
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import GPT2Config, GPT2LMHeadModel

from rlhf_lib.algorithms.dpo import DPO, DPOConfig
from rlhf_lib.algorithms.sft import SFT, SFTConfig
from rlhf_lib.machinery.checkpoints import check_writable, load_checkpoint, save_checkpoint
from rlhf_lib.models.rollout import sample
from rlhf_lib.running import artifacts
from rlhf_lib.running.evaluation import evaluate
from rlhf_lib.running.log import RunLog, read_json, read_log, read_steps, recorded, write_whole
from rlhf_lib.worlds import letters
from rlhf_lib.worlds.tables import rows_of_step
from tests.unit.loops import RAGGED_PROMPTS, grpo, ppo, with_settings
from tests.unit.small import RAGGED, count_words, policy, reward_model, tokenizer


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


def test_a_record_of_the_book_is_found_from_below_it_and_nowhere_else(tmp_path, monkeypatch):
    lines = [{"seed": 1}, {"seed": 2}]
    place = tmp_path / "benchmarks" / "results" / "some.jsonl"
    place.parent.mkdir(parents=True)
    place.write_text("".join(json.dumps(line) + "\n" for line in lines))
    below = tmp_path / "book" / "practice"
    below.mkdir(parents=True)
    for folder in (tmp_path, below):
        monkeypatch.chdir(folder)
        assert recorded("some") == lines
        with pytest.warns(RuntimeWarning, match="no record 'other' here"):
            assert recorded("other") == []
    monkeypatch.chdir(tmp_path.parent)
    with pytest.warns(RuntimeWarning, match="no record 'some' here"):
        assert recorded("some") == []


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


def test_a_line_that_is_written_in_pieces_is_whole(tmp_path):
    """A system call may take fewer bytes than it is given."""
    with RunLog(tmp_path / "log.jsonl") as log:
        file, log.file = log.file, type("Slow", (), {})()
        log.file.write, log.file.fileno = lambda line: file.write(line[:3]), file.fileno
        log.write({"step": 1, "reward": 0.5})
        log.file = file
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 1, "reward": 0.5}\n'


def test_a_line_that_a_full_disk_cuts_is_not_left_behind(tmp_path, monkeypatch):
    """Nor does closing the log raise once more, as a line in a buffer would make it."""
    with RunLog(tmp_path / "log.jsonl") as log:
        log.write({"step": 1})
        file, log.file = log.file, type("Full", (), {})()
        written = []

        def write(line):
            if written:
                raise OSError(errno.ENOSPC, "No space left on device")
            written.append(file.write(line[:4]))
            return 4

        log.file.write, log.file.fileno, log.file.truncate = write, file.fileno, file.truncate
        with pytest.raises(OSError, match="log.jsonl' could not be written: .*No space.*whole"):
            log.write({"step": 2})
        log.file = file
        log.write({"step": 3})
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 1}\n{"step": 3}\n'


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "ü.json"
    write_whole(path, "one: ä\n")
    assert path.read_bytes() == "one: ä\n".encode()

    def full(path, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="ü.json' could not be written: .*No space left"):
            write_whole(path, "two\n")
    assert [each.name for each in tmp_path.iterdir()] == ["ü.json"]
    assert path.read_bytes() == "one: ä\n".encode()
    write_whole(path, json.dumps({"a": "\udce4"}, ensure_ascii=False))  # no UTF-8 has it
    assert path.read_bytes() == b'{"a": "\\udce4"}'
    assert read_json(path) == {"a": "\udce4"}


def test_what_is_not_finite_is_left_out_as_json_has_no_nan(tmp_path):
    with RunLog(tmp_path / "log.jsonl") as log:
        log.write({"step": 1, "reward": 0.5, "kl": math.nan, "explained_variance": -math.inf})
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 1, "reward": 0.5}\n'


def test_damage_in_the_middle_of_a_log_is_named(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(ValueError, match="log.jsonl, line 2: expected a JSON object"):
        read_log(path)
    with pytest.raises(ValueError, match="log.jsonl, line 2: expected a JSON object"):
        RunLog(path, resume_at=3)
    assert path.read_text().count("\n") == 3  # nothing is cut off


@pytest.mark.parametrize("damage", [b"[1]", b"3", b"null", b'{"step": 2', b'{"step": "\xff"}'])
def test_a_line_of_a_log_that_is_no_json_object_is_named(tmp_path, damage):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n' + damage + b'\n{"step": 3}\n')
    for read in (read_log, read_steps, lambda path: RunLog(path, resume_at=3)):
        with pytest.raises(ValueError, match="log.jsonl, line 2: expected a JSON object"):
            read(path)
    path.write_bytes(b'{"step": 1}\n' + damage)  # torn
    assert read_log(path) == read_steps(path) == [{"step": 1}]


@pytest.mark.parametrize("damage", ['{"reward": 1.0}', '{"step": null}', '{"step": "two"}'])
def test_a_record_without_its_step_is_named(tmp_path, damage):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n' + damage + "\n")
    assert len(read_log(path)) == 2
    with pytest.raises(ValueError, match="log.jsonl, line 2: expected step, as a run writes it"):
        read_steps(path)


@pytest.mark.parametrize("damage", [b"[]", b"null", b'"text"', b"{", b'{"a": "\xff"}'])
def test_a_file_that_is_no_json_object_is_named(tmp_path, damage):
    path = tmp_path / "settings.json"
    path.write_bytes(damage)
    with pytest.raises(ValueError, match="settings.json is damaged; expected"):
        read_json(path)


def test_sft_learns_to_write_what_was_demonstrated():
    data = Dataset.from_dict({"prompt": RAGGED, "completion": ["hello ben, thank you."] * 4})
    model = policy()
    records = list(
        SFT(
            model,
            tokenizer(),
            data,
            SFTConfig(max_steps=60, batch_size=4, learning_rate=1e-2, warmup_steps=4),
        )
    )
    assert records[0]["loss"] > 4 and records[-1]["loss"] < 0.1
    rollout = sample(model, tokenizer(), RAGGED, 8, greedy=True)
    assert rollout.completions == ["hello ben, thank you."] * 4 and rollout.finished.all()


def test_evaluation_measures_what_it_says():
    model, other = policy(0), policy(1)
    result = evaluate(
        model,
        tokenizer(),
        RAGGED * 50,
        {"words": count_words},
        reference=other,
        max_new_tokens=6,
        batch_size=64,
    )
    words = [float(len(text.split())) for text in result["completions"]]
    assert result["words"] == pytest.approx(sum(words) / 200)
    assert result["words_se"] == pytest.approx(torch.tensor(words).std().item() / math.sqrt(200))
    assert result["values"]["words"] == words and len(result["prompts"]) == 200
    assert result["kl"] > 10 * result["kl_se"] > 0
    same = evaluate(model, tokenizer(), RAGGED, {}, reference=policy(0), max_new_tokens=6)
    assert same["kl"] == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize(
    "world, name, message",
    [
        ("poems", "sft", "world is 'poems'; expected one of 'letters', 'sums'"),
        (
            "letters",
            "best",
            "artifact is 'best'; expected one of 'base', 'sft', 'reward', 'aligned'",
        ),
        ("sums", "sft", "artifact is 'sft'; expected one of 'base'"),
    ],
)
def test_an_unknown_artifact_is_named(world, name, message):
    with pytest.raises(ValueError, match=message):
        artifacts.load(world, name)


def test_a_missing_artifact_says_how_to_rebuild_it(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "ROOT", tmp_path)
    with pytest.raises(FileNotFoundError, match="python -m rlhf_lib artifacts letters"):
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
    """The floors that `python -m rlhf_lib artifacts letters --check` asserts too."""
    measured = artifacts.measure(
        *(artifacts.load("letters", name)[0] for name in artifacts.ARTIFACTS["letters"]),
        letters.tokenizer(),
        seed=artifacts.SEED,
    )
    artifacts.assert_quality(measured)


# ------------------------------------------------------------------ stopping and going on


class Part:
    """Stands for a model in a checkpoint: a folder with one file in it."""

    def __init__(self, text: str):
        self.text = text

    def save_pretrained(self, folder):
        folder.mkdir()
        (folder / "text").write_text(self.text)


def saved(folder) -> tuple[int, str]:
    """(step, text) of the checkpoint that is found in a folder; both must be of one save."""
    state = load_checkpoint(folder, {})
    where = folder if folder.exists() else folder.with_name(folder.name + ".old")
    return state["step_number"], (where / "part" / "text").read_text()


def dies_after(calls: int):
    """An audit hook that ends the process at the next call to the file system after so many."""
    remaining = iter(range(calls))

    def hook(event, arguments):
        if event.startswith(("os.", "shutil.")) or event == "open":
            if next(remaining, None) is None:
                os._exit(9)

    return hook


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_whenever_a_save_is_killed_a_whole_checkpoint_is_found(tmp_path):
    """A child process dies before its first call to the file system, its second, and so on."""
    found = []
    for calls in itertools.count():
        folder = tmp_path / str(calls) / "last"
        save_checkpoint(folder, {"part": Part("one")}, {"step_number": 1})
        child = os.fork()
        if child == 0:
            try:
                sys.addaudithook(dies_after(calls))
                save_checkpoint(folder, {"part": Part("two")}, {"step_number": 2})
            finally:
                os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        found.append(saved(folder))
        assert found[-1] in ((1, "one"), (2, "two")), f"after {calls} calls"
        save_checkpoint(folder, {"part": Part("three")}, {"step_number": 3})  # nothing in the way
        assert saved(folder) == (3, "three")
        assert [path.name for path in folder.parent.iterdir()] == ["last"]
        if status == 0:
            break
    assert found[0] == (1, "one") and found[-1] == (2, "two")
    assert found == sorted(found) and len(found) > 10


@pytest.mark.parametrize("fails", ["save_pretrained", "torch.save", "fsync"])
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch, fails):
    loop = small_ppo()
    loop.step()
    loop.save(tmp_path / "last")
    loop.step()

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if fails == "save_pretrained":  # the policy is written by then, the critic is not
            patch.setattr(loop.critic, "save_pretrained", full)
        elif fails == "torch.save":
            patch.setattr(torch, "save", full)
        else:
            patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="last.*No space left on device.*as it was"):
            loop.save(tmp_path / "last")
    assert [path.name for path in tmp_path.iterdir()] == ["last"]  # the disk is not left full
    again = small_ppo()
    again.resume(tmp_path / "last")
    assert again.step_number == 1
    loop.save(tmp_path / "last")
    again.resume(tmp_path / "last")
    assert again.step_number == 2


def test_a_folder_that_cannot_be_written_is_named_before_training(tmp_path):
    check_writable(tmp_path / "new" / "run")
    assert list((tmp_path / "new" / "run").iterdir()) == []
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(OSError, match="folder is '.*file.*'; expected one to write to"):
            check_writable(folder)
    if os.geteuid():  # root may write anywhere
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
        with pytest.raises(PermissionError, match="closed"):
            check_writable(closed)


def test_a_checkpoint_does_not_replace_what_is_none(tmp_path):
    """`save("run")` with a log in it would delete the log."""
    with RunLog(tmp_path / "run" / "log.jsonl") as log:
        log.write({"step": 1})
    with pytest.raises(FileExistsError, match="it holds log.jsonl"):
        save_checkpoint(tmp_path / "run", {}, {})
    assert read_log(tmp_path / "run" / "log.jsonl") == [{"step": 1}]


def test_a_checkpoint_that_does_not_fit_leaves_the_model_alone(tmp_path):
    loop = small_ppo()
    loop.save(tmp_path / "c")
    small, wide = (
        policy(),
        GPT2LMHeadModel(
            GPT2Config(
                vocab_size=281,
                n_embd=32,
                n_layer=2,
                n_head=2,
                n_positions=64,
                bos_token_id=None,
                eos_token_id=None,
            )
        ),
    )
    before = [p.clone() for p in wide.parameters()]
    with pytest.raises(ValueError, match=r"policy has transformer.* of shape \(.*; expected \("):
        load_checkpoint(tmp_path / "c", {"policy": wide})
    assert all(torch.equal(p, q) for p, q in zip(before, wide.parameters()))
    (tmp_path / "c" / "critic" / "model.safetensors").unlink()
    before = [p.clone() for p in small.parameters()]
    with torch.no_grad():
        loop.policy.transformer.wte.weight.add_(1)  # what is on disk differs from `small`
    with pytest.raises(ValueError, match="expected a readable checkpoint"):
        load_checkpoint(tmp_path / "c", {"policy": small, "critic": reward_model()})
    assert all(torch.equal(p, q) for p, q in zip(before, small.parameters()))


def test_a_resumed_log_forgets_the_steps_after_the_checkpoint(tmp_path):
    path = tmp_path / "log.jsonl"
    with RunLog(path) as log:
        for step in (1, 2, 3):
            log.write({"step": step, "reward": 0.0})
    with open(path, "a") as file:
        file.write('{"step": 4, "rew')
    with RunLog(path, resume_at=2) as log:
        log.write({"step": 3, "reward": 1.0})
    assert [(r["step"], r["reward"]) for r in read_log(path)] == [(1, 0.0), (2, 0.0), (3, 1.0)]


# ------------------------------------------------------------------ interruptions

SMALL = dict(dataset=RAGGED_PROMPTS, max_steps=3, batch_size=4, mini_batch_size=2, max_new_tokens=5)
small_ppo = with_settings(ppo, **SMALL)
small_grpo = with_settings(grpo, **SMALL, num_generations=2)


def small_dpo():
    pairs = Dataset.from_dict({"prompt": RAGGED, "chosen": ["yes."] * 4, "rejected": ["no."] * 4})
    return DPO(
        policy(),
        policy(),
        tokenizer(),
        pairs,
        DPOConfig(loss_type="kto", max_steps=3, batch_size=2),
    )


def lines_of(loop, raise_at: int | None = None) -> int:
    """Take a step, counting the lines of the library and of Adam that run; Ctrl-C at one."""
    count = 0

    def watch(frame, event, argument):
        nonlocal count
        name = frame.f_code.co_filename
        if (
            "rlhf_lib" not in name
            and not name.endswith("adamw.py")
            and not name.endswith("adam.py")
        ):
            return None
        if event == "line":
            count += 1
            if count == raise_at:
                raise KeyboardInterrupt
        return watch

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        loop.step()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("make", [small_ppo, small_grpo, small_dpo])
def test_ctrl_c_at_any_line_of_a_step_and_the_numbers_after_it_are_the_same(make, tmp_path):
    """Stopped in the middle of sampling, of an optimiser step, between policy and critic."""
    whole = make()
    expected = [whole.step()]
    whole.save(tmp_path / "last")
    last = lines_of(whole)
    expected += [whole.step()]
    rng = random.Random(0)
    for moment in [1, last, *(rng.randint(2, last - 1) for _ in range(10))]:
        loop = make()
        loop.resume(tmp_path / "last")
        with pytest.raises(KeyboardInterrupt):
            lines_of(loop, moment)
        loop.resume(tmp_path / "last")  # in place: what the broken step changed is undone
        loop.step()
        assert {**loop.step(), "seconds": 0} == {**expected[-1], "seconds": 0}, f"line {moment}"


KILLED = """
import sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.unit.test_running import small_ppo
from rlhf_lib.running.log import RunLog
import dataclasses

def run(folder, resume):
    loop = small_ppo()
    loop.config = dataclasses.replace(loop.config, max_steps=30)
    if resume and ((folder / "last").exists() or (folder / "last.old").exists()):
        loop.resume(folder / "last")
    with RunLog(folder / "log.jsonl", resume_at=loop.step_number) as log:
        for record in loop:
            log.write(record)
            loop.save(folder / "last")

folder = Path({folder!r})
run(folder / "killed", resume=True)
if sys.argv[1] == "compare":
    run(folder / "whole", resume=False)
"""


def test_a_run_killed_at_any_moment_and_resumed_is_the_run_that_was_not(tmp_path):
    """A process of its own, SIGKILL after a random time, and again; then to the end."""
    root = str(Path(__file__).parents[2])
    script = tmp_path / "run.py"
    script.write_text(KILLED.format(root=root, folder=str(tmp_path)))
    log = tmp_path / "killed" / "log.jsonl"
    for _ in range(2):
        lines = len(log.read_bytes().splitlines()) if log.exists() else 0
        process = subprocess.Popen(
            [sys.executable, str(script), "go"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        deadline = time.monotonic() + 120
        while not log.exists() or len(log.read_bytes().splitlines()) < min(lines + 2, 28):
            assert process.poll() is None, process.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(random.random() * 0.3)  # in a step, in a save, between the two
        process.kill()
        process.wait()
        process.stderr.close()
    done = subprocess.run([sys.executable, str(script), "compare"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    killed, whole = (
        [{**record, "seconds": 0} for record in read_log(tmp_path / name / "log.jsonl")]
        for name in ("killed", "whole")
    )
    assert [record["step"] for record in whole] == list(range(1, 31))
    assert killed == whole
