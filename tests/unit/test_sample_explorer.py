"""The sample explorer in Python: its numbers, what it refuses, what it saves for the browser.

How it behaves in a page is tested in tests/site.
"""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

from rlhf_lib.mathematics.intervals import wilson
from rlhf_lib.seeing.widgets import SampleExplorer
from rlhf_lib.seeing.widgets.base import browser_code

STAGES, TEMPERATURES = ("base", "sft"), (0.5, 1.0)


def sample(
    stage="base",
    temperature=1.0,
    prompt="a",
    completion="ok.",
    style="lazy",
    gold=-1.5,
    asked=False,
) -> dict:
    return dict(
        stage=stage,
        temperature=temperature,
        prompt=prompt,
        completion=completion,
        style=style,
        gold=gold,
        asked=asked,
    )


def recorded() -> tuple[list[dict], list[dict]]:
    """Two prompts to read and four samples to count in each cell; gold tells the cells apart."""
    cells = [(s, t) for s in STAGES for t in TEMPERATURES]
    shown = [
        sample(s, t, prompt, f"{prompt} {s} {t}", gold=10 * i + t)
        for s, t in cells
        for i, prompt in enumerate(("a", "b"))
    ]
    measured = [
        sample(
            s,
            t,
            f"other {i}",
            style="lazy" if i else "polite",
            asked=i == 0,
            gold=i + 4 * (s == "sft") + 2 * (t == 0.5),
        )
        for s, t in cells
        for i in range(4)
    ]
    return shown, measured


def test_numbers_worked_out_by_hand():
    demo = SampleExplorer(*recorded(), stage="sft", temperature=0.5, prompt=1)
    shown = demo.result
    assert shown.completions == [("b sft 0.5", "lazy", 10.5)]
    assert shown.shares == {"polite": 0.25, "lazy": 0.75} and shown.asked == 0.25
    gold = np.array([6.0, 7.0, 8.0, 9.0])
    assert shown.gold == gold.mean()
    assert shown.gold_margin == pytest.approx(1.96 * gold.std(ddof=1) / 2)
    assert shown.intervals["polite"] == shown.asked_interval == wilson(1, 4)


def test_each_cell_has_its_own_numbers():
    demo = SampleExplorer(*recorded())
    means = {}
    for stage in STAGES:
        for temperature in TEMPERATURES:
            demo.stage, demo.temperature = stage, temperature
            means[stage, temperature] = demo.result.gold
            assert demo.result.completions[0][0] == f"a {stage} {temperature}"
    assert means == {("base", 0.5): 3.5, ("base", 1.0): 1.5, ("sft", 0.5): 7.5, ("sft", 1.0): 5.5}


@pytest.mark.parametrize(
    "shown, measured, settings, message",
    [
        ([], None, {}, "shown is empty"),
        (None, [], {}, "measured is empty"),
        ([{"stage": "base"}], None, {}, r"shown\[0\] has no 'temperature'"),
        (None, [sample(gold=math.nan)], {}, r"measured\[0\]\['gold'\] is nan"),
        (recorded()[0][:-1], None, {}, "shown has no reply to 'b' of stage 'sft' at temperature 1"),
        (None, recorded()[1][:-4], {}, "measured has no sample of stage 'sft' at temperature 1"),
        (None, None, {"styles": ["polite"]}, "styles lacks 'lazy'"),
        (None, None, {"stage": "ppo"}, "stage is 'ppo'; expected one of 'base', 'sft'"),
        (None, None, {"temperature": 0.7}, "temperature is 0.7; expected one of 0.5, 1.0"),
        (None, None, {"prompt": 2}, "prompt is 2; expected 0 to 1"),
    ],
)
def test_constructor_refuses(shown, measured, settings, message):
    given = [
        part if part is not None else default
        for part, default in zip((shown, measured), recorded())
    ]
    with pytest.raises(ValueError, match=message):
        SampleExplorer(*given, **settings)


@pytest.mark.parametrize("trait, value", [("stage", "x"), ("temperature", 3.0), ("prompt", -1)])
def test_a_bad_choice_is_refused_and_the_old_one_stays(trait, value):
    demo = SampleExplorer(*recorded())
    before = getattr(demo, trait)
    with pytest.raises(ValueError, match=f"{trait} is "):
        setattr(demo, trait, value)
    assert getattr(demo, trait) == before


def test_repr_is_stable():
    assert repr(SampleExplorer(*recorded())) == (
        "SampleExplorer(2 prompts, 2 stages, 2 temperatures; base at T=1: gold 1.50, asked 0.25)"
    )


def test_saved_state_is_plain_json_and_needs_no_other_file():
    state = SampleExplorer(*recorded()).get_state()
    json.dumps({key: value for key, value in state.items() if key != "layout"}, allow_nan=False)
    assert "function slider" in state["_esm"] and "export default" in state["_esm"]
    assert ".rlhf-demo" in state["_css"] and ".rlhf-reply" in state["_css"]
    code = browser_code("sample_explorer")
    assert not re.search(r"^\s*import\b|\bimport\(|https?://(?!www\.w3\.org)", code, re.MULTILINE)


def test_every_style_is_ours():
    rules = re.sub(r"/\*.*?\*/", "", SampleExplorer._css, flags=re.DOTALL)
    selectors = " ".join(re.findall(r"([^{}]*)\{", rules))
    found = {name for name in re.findall(r"\.([a-zA-Z][\w-]*)", selectors)}
    assert "rlhf-replies" in found
    assert {name for name in found if not name.startswith("rlhf-")} <= {"vscode-dark"}
