"""`make gpu`, rehearsed on a processor: what it records; and cut off, broken, and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import on_a_gpu
from benchmarks.on_a_gpu import PARTS, SECONDS, report
from benchmarks.parts import Part, in_a_process, last_lines, not_finite, run_parts
from rlhf_lib.running.log import read_log
from tests.unit import parts_of_a_recording
from tests.unit.test_against_trl import has_trl

ROOT = Path(__file__).resolve().parents[2]
FAKES = parts_of_a_recording.__name__
ABSENT = ("datasets", "trl", "matplotlib", "anywidget", "ipywidgets", "peft", "accelerate")


def rehearse(out: Path, *arguments: str, bare: bool = False) -> subprocess.CompletedProcess:
    """`python -m benchmarks.on_a_gpu --rehearse`; bare: without most of the packages."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if bare:
        (out / "bare").mkdir(parents=True)
        absent = f"import sys; sys.modules |= dict.fromkeys({ABSENT})"
        (out / "bare" / "sitecustomize.py").write_text(absent)
        environment["PYTHONPATH"] = str(out / "bare")
    return subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.on_a_gpu", "--rehearse", "--out", out, *arguments),
            *("--seconds", "3600"),  # however busy the machine is
        ],
        cwd=ROOT,
        env=environment,
        text=True,
        capture_output=True,
    )


def by_part(out: Path) -> dict[str, dict]:
    lines = read_log(out / "on_a_gpu.jsonl")
    assert len({line["part"] for line in lines}) == len(lines)
    return {line["part"]: line for line in lines}


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    """All parts, in small: (folder, what was printed)."""
    out = tmp_path_factory.mktemp("rehearsal")
    done = rehearse(out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done.stdout


# ---------------------------------------------------------------------------------- the rehearsal


def test_every_part_is_recorded_in_order_of_worth(rehearsal):
    lines = by_part(rehearsal[0])
    assert list(lines) == list(PARTS)
    for name, line in lines.items():
        left_out = name == "trl" and not has_trl()
        assert line["status"] == ("left out" if left_out else "done"), line.get("why")
        assert line["seconds"] > 0 and line["rehearsal"]
        assert line["provenance"]["torch"] == torch.__version__
        assert line["provenance"]["hardware"] == line["hardware"]
        assert "--rehearse" in line["provenance"]["command"]


def test_the_tests_are_recorded_one_by_one(rehearsal):
    found = by_part(rehearsal[0])["tests"]["found"]
    assert "test_ppo_steps" in found and "test_grpo_steps_with[{'bf16': True}]" in found
    if not torch.cuda.is_available():
        assert {test["outcome"] for test in found.values()} == {"skipped"}


def test_the_letters_start_where_the_small_model_is_and_move(rehearsal):
    found = by_part(rehearsal[0])["letters"]["found"]
    assert found["parameters"] > 4e6
    assert 0 < found["largest_gap"] < 1e-3  # rounding alone
    assert found["settings"]["kl_in"] == "reward" and found["settings"]["bf16"]
    for seed in (1, 2):
        made = found[f"seed {seed}"]
        before, after = made["before"], made["after"]
        assert 0 < before["gold_se"] < 3 and 0 < after["gold_se"] < 3
        assert before["kl"] < 0.1 < after["kl"] and after["reward"] != before["reward"]
        steps = [step["seconds"] for step in made["curve"]]
        assert len(steps) == 2 and made["seconds"] == pytest.approx(sum(steps))
        assert min(steps) <= made["median_seconds"] <= max(steps)
        assert made["peak_bytes"] > 1e8
    assert found["seed 1"]["curve"][0]["reward"] != found["seed 2"]["curve"][0]["reward"]


def test_a_decode_step_is_held_against_the_bandwidth_of_the_same_run(rehearsal):
    found = by_part(rehearsal[0])["decode"]["found"]
    assert 1e9 < found["bandwidth"] < 1e12
    for batch in (8, 1):
        made = found[f"batch {batch}"]
        assert len(made["rollout_seconds"]) == len(made["first_token_seconds"]) == 2
        assert min(made["first_token_seconds"]) > 0
        moved = sum(made["bytes"].values())
        assert made["bound_seconds"] == pytest.approx(moved / found["bandwidth"])
        middle = made["ours_over_bound"] * made["bound_seconds"]
        assert made["ours_seconds"][1] == pytest.approx(middle)
        spent = found[f"kernels of batch {batch}"]
        assert any("mm" in kernel["name"] for kernel in spent)
        assert 0 < sum(kernel["share"] for kernel in spent) <= 1 + 1e-9
    assert found["batch 8"]["bytes"]["cache read"] == 8 * found["batch 1"]["bytes"]["cache read"]


def test_rollouts_of_both_sides_write_the_same_number_of_tokens(rehearsal):
    made = by_part(rehearsal[0])["rollouts"]["found"]["batch 8"]
    assert made["tokens"] == 8 * 4
    for side in ("ours", "generate"):
        low, middle, high = made[f"{side}_quartiles"]
        assert 0 < low <= middle <= high
        assert made[f"{side}_tokens_a_second"] == pytest.approx(made["tokens"] / middle)
    pairs = [b / a for a, b in zip(made["ours_seconds"], made["generate_seconds"], strict=True)]
    assert made["ratio"][1] == pytest.approx(sum(pairs) / 2)


@pytest.mark.skipif(not has_trl(), reason="needs TRL")
def test_a_step_of_trl_is_timed_in_turn(rehearsal):
    found = by_part(rehearsal[0])["trl"]["found"]
    for side in ("ours", "trl"):
        assert len(found["line"]["sides"][side]["seconds"]) == 2
    assert found["line"]["prompt_length"] == 6 and found["line"]["ratios"]["step"][1] > 0
    assert "TRL 1" in found["summary"]


def test_memory_is_measured_for_each_part_of_a_step_beside_its_estimate(rehearsal):
    found = by_part(rehearsal[0])["memory"]["found"]
    assert list(found) == [
        precision + way
        for way in ("", ", microbatch_tokens=40", ", gradient_checkpointing=True")
        for precision in ("fp32", "bf16")
    ]
    for made in found.values():
        assert made["step"]["gradient_norm"] > 0
        for part in ("between", "sample", "score", "update"):
            assert made[part]["peak_bytes"] > 1e8  # of the whole process, on a processor
            assert made[part]["estimate_bytes"] == sum(made[part]["estimate"].values()) > 0
    plain, cut, recomputed = (
        found[f"fp32{way}"]["update"]["estimate"]
        for way in ("", ", microbatch_tokens=40", ", gradient_checkpointing=True")
    )
    assert cut["activations"] * 4 == plain["activations"] > recomputed["activations"]
    assert found["bf16"]["update"]["estimate"]["activations"] * 2 == plain["activations"]


def test_what_is_found_is_on_disk_before_its_part_ends(rehearsal):
    notes = read_log(rehearsal[0] / "on_a_gpu.notes.jsonl")
    steps = [(note["step"]["seed"], note["step"]["step"]) for note in notes if "step" in note]
    assert steps == [(1, 1), (1, 2), (2, 1), (2, 2)]
    for part in PARTS:
        seconds = [note["seconds"] for note in notes if note["part"] == part]
        assert seconds == sorted(seconds)


def test_the_report_tells_of_every_part_and_is_written(rehearsal):
    out, printed = rehearsal
    text = (out / "on_a_gpu.txt").read_text()
    assert text == report(by_part(out)) and text in printed
    for name in PARTS:
        assert f"\n{name}: " in text
    for said in ("seed 2: gold ", "GB/s", "tokens/s", "estimate", "times the bound", "skipped"):
        assert said in text, said


def test_a_second_call_runs_nothing_again(rehearsal):
    out, _ = rehearsal
    before = {path: path.read_bytes() for path in out.iterdir()}
    names = [name for name, line in by_part(out).items() if line["status"] == "done"]
    done = rehearse(out, "--parts", *names)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("recorded, and not run again") == len(names)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_a_machine_with_torch_and_transformers_alone_is_enough(tmp_path):
    done = rehearse(tmp_path, "--parts", "tests", "letters", "trl", "memory", bare=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = by_part(tmp_path)
    assert [lines[name]["status"] for name in lines] == ["done", "done", "left out", "done"]
    assert "TRL is not installed" in lines["trl"]["why"]


# ---------------------------------------------------------------------------------- cut off, broken


def recorded(results: Path, parts=parts_of_a_recording.PARTS, device="b", seconds=60.0):
    """The last lines of the parts made for tests, and what was handed to `watch`."""
    seen = []
    lines = run_parts(parts, FAKES, results, device, False, seconds, seen.append)
    return lines, seen


def test_a_part_that_fails_says_so_and_the_next_goes_on(tmp_path):
    lines, seen = recorded(tmp_path / "made.jsonl")
    assert {name: line["status"] for name, line in lines.items()} == {
        "quick": "done",
        "raises": "failed",
        "dies": "failed",
        "says_nan": "failed",
        "has_no_place": "left out",
        "last": "done",
    }
    assert lines["raises"]["why"] == "ValueError: what went wrong"
    assert lines["raises"]["found"] == {"before": 1}
    assert lines["dies"]["why"] == "its process ended with status 3"
    assert lines["dies"]["found"] == {"before": 2}
    assert lines["says_nan"]["why"] == "point.ratios.1 is no finite number"
    assert lines["says_nan"]["found"] == {"point": {"ratios": [1.0, None]}}
    assert lines["has_no_place"]["why"] == "there is no such program here"
    processes = {lines[name]["found"]["process"] for name in ("quick", "last")} | {os.getpid()}
    assert len(processes) == 3  # each its own
    assert 0 < lines["quick"]["found"]["left"] < 30
    assert [len(lines) for lines in seen] == [1, 2, 3, 4, 5, 6]
    strict = [json.loads(row) for row in (tmp_path / "made.jsonl").read_text().splitlines()]
    assert [line["part"] for line in strict] == list(lines)


def test_a_second_call_takes_up_what_is_not_done(tmp_path):
    results = tmp_path / "made.jsonl"
    recorded(results)
    recorded(results)
    made = [line["part"] for line in read_log(results)]
    assert made[6:] == ["raises", "dies", "says_nan", "has_no_place"]
    recorded(results, {"last": Part(0.1, 30)}, device="c")  # other hardware, another record
    where = {"hardware": "a b", "rehearsal": False}
    assert list(last_lines(results, parts_of_a_recording.PARTS, where))[:2] == ["quick", "last"]
    assert read_log(results)[-1]["hardware"] == "a c"


def test_a_part_that_does_not_end_is_ended_and_what_it_started_with_it(tmp_path):
    parts = {"endless": Part(0.1, 1.0), "last": Part(0.1, 30)}
    lines, _ = recorded(tmp_path / "made.jsonl", parts)
    assert lines["endless"]["status"] == "failed" and lines["last"]["status"] == "done"
    assert lines["endless"]["why"] == "it took longer than its 1 s, and was ended"
    assert gone(lines["endless"]["found"]["started"])


def test_a_part_that_cannot_end_in_time_is_not_begun(tmp_path):
    parts = {"quick": Part(300, 400), "last": Part(0.1, 30)}
    lines, _ = recorded(tmp_path / "made.jsonl", parts, seconds=20.0)
    assert lines["quick"]["status"] == "left out" and lines["last"]["status"] == "done"
    assert lines["quick"]["why"].endswith(" s were left, and it needs 300")


def test_a_recording_that_was_cut_off_is_resumed(tmp_path):
    """Killed in its second part: the first stands, and nothing that it started goes on."""
    results = tmp_path / "made.jsonl"
    code = (
        "from pathlib import Path; from benchmarks.parts import Part, run_parts; "
        "parts = dict.fromkeys(('quick', 'endless'), Part(.1, 50)); "
        f"run_parts(parts, {FAKES!r}, Path({str(results)!r}), 'b', False, 60., print)"
    )
    cut = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL)
    notes = results.with_suffix(".notes.jsonl")
    until = time.monotonic() + 60
    while not (notes.exists() and "started" in notes.read_text()):
        assert cut.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    cut.send_signal(signal.SIGKILL)
    cut.wait()
    assert gone(next(note["started"] for note in read_log(notes) if "started" in note))
    assert [line["part"] for line in read_log(results)] == ["quick"]
    recorded(results, {"quick": Part(0.1, 30), "last": Part(0.1, 30)})
    assert [line["part"] for line in read_log(results)] == ["quick", "last"]


def gone(process: int) -> bool:
    """Whether a process has ended, within some seconds; one that nobody asks after is a zombie."""
    for _ in range(200):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        state = Path(f"/proc/{process}/stat")
        if state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_device_that_cannot_be_used_is_an_error(tmp_path):
    with pytest.raises(
        RuntimeError, match="device is 'none', and cannot be used: .*no such device"
    ):
        recorded(tmp_path / "made.jsonl", device="none")
    assert not (tmp_path / "made.jsonl").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_verb_says_so():
    status, why = in_a_process("benchmarks.on_a_gpu_parts", "hardware", "cuda", False, 60, print)
    assert status == "failed" and "finds no GPU" in why


def test_a_rehearsal_is_kept_apart_from_the_record(capsys):
    with pytest.raises(SystemExit):
        on_a_gpu.main(["--rehearse"])
    assert "--rehearse is given without --out" in capsys.readouterr().err


# ---------------------------------------------------------------------------------- arithmetic


def test_where_a_number_is_not_finite():
    assert not_finite({"a": [1.0, "b", None, True]}) is None
    assert not_finite({"a": [1.0, {"b": float("inf")}]}) == "a.1.b"


def test_the_parts_of_most_worth_fit_into_the_time():
    """Whatever the first parts take, up to four can be made; and each can be begun by itself."""
    assert sum(part.most for part in list(PARTS.values())[:4]) < SECONDS < 480
    assert all(0 < part.least < part.most for part in PARTS.values())


def test_a_part_that_found_too_little_is_told_all_the_same():
    line = {"part": "letters", "status": "failed", "why": "no\nroom", "seconds": 9.0}
    at = {"hardware": "a GPU", "date": "2000-01-01", "commit": "", "torch": "2"}
    text = report({"letters": {**line, "found": {"before": {"gold": 2}}, "provenance": at}})
    assert text.splitlines() == [
        "a GPU, torch 2, 2000-01-01, commit unknown",
        "",
        "letters: failed in 9 s",
        "  no",
        "  room",
        "  before: {'gold': 2}",
    ]
