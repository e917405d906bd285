"""The over-optimisation explorer in Python: its numbers, which run it shows, and what it refuses.

How it behaves in a page is tested in tests/site.
"""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

from rlhf_lib.mathematics import overoptimization
from rlhf_lib.mathematics.intervals import STUDENT, Z
from rlhf_lib.seeing.widgets import OveroptimizationExplorer
from rlhf_lib.seeing.widgets.base import browser_code


def run(method="PPO", form="rl", pairs=1_000, seed=1, alpha=1.0, beta=1.0, **changes) -> dict:
    """A run that follows its form exactly."""
    d = [0.0, 0.5, 1.0, 2.0, 3.0]
    return {
        "method": method,
        "form": form,
        "pairs": pairs,
        "seed": seed,
        "where": [f"step {2 * i}" for i in range(5)],
        "d": d,
        "gold": overoptimization.gain(form, d, alpha, beta).tolist(),
        "gold_se": [0.0, 0.1, 0.1, 0.2, 0.2],
        "proxy": [0.0, 0.4, 0.8, 1.0, 1.2],
        "replies": [[("to ben", f"seed {seed}, point {i}", 1.0, 2.0)] for i in range(5)],
        **changes,
    }


def runs() -> list[dict]:
    """Two methods; the first with two sizes, of three seeds and of one."""
    return [run(seed=seed, alpha=1 + 0.1 * seed, beta=0.5 * seed) for seed in (1, 2, 3)] + [
        run(pairs=250, seed=2, alpha=0.4),
        run("best-of-n", "best_of_n", pairs=250, seed=5, alpha=2.0),
    ]


def test_result_by_hand():
    numbers = OveroptimizationExplorer(runs(), point=3).result
    assert (numbers.where, numbers.d, numbers.proxy) == ("step 6", 2.0, 1.0)
    assert numbers.gold == pytest.approx(2 * (1.1 - 0.5 * math.log(2)), abs=1e-4)
    assert numbers.gold_margin == pytest.approx(Z * 0.2)
    # α is 1.1, 1.2, 1.3 and β .5, 1, 1.5: standard errors .1/√3 and .5/√3, t = 4.303
    assert numbers.alpha == pytest.approx((1.2, 4.303 * 0.1 / math.sqrt(3)), abs=1e-3)
    assert numbers.beta == pytest.approx((1.0, 4.303 * 0.5 / math.sqrt(3)), abs=1e-3)
    assert numbers.fitted[0] == pytest.approx(2 * (1.2 - math.log(2)), abs=1e-3)
    assert numbers.peak == pytest.approx(math.exp(0.2), abs=1e-3)
    assert numbers.completions == [("to ben", "seed 1, point 3", 1.0, 2.0)]


def test_one_run_has_no_interval():
    numbers = OveroptimizationExplorer(runs(), pairs=250).result
    assert numbers.alpha == (pytest.approx(0.4, abs=1e-3), None) and numbers.fitted[1] is None


def test_a_form_that_never_falls_has_no_peak():
    assert OveroptimizationExplorer([run(beta=-0.5)]).result.peak == math.inf


@pytest.mark.parametrize(
    "asked, shown",
    [
        (dict(), ("PPO", 1_000, 1)),
        (dict(seed=3), ("PPO", 1_000, 3)),
        (dict(pairs=250), ("PPO", 250, 2)),  # seed 1 was not run with 250 pairs
        (dict(pairs=700, seed=9), ("PPO", 1_000, 3)),
        (dict(pairs=625), ("PPO", 250, 2)),  # as near to 250 as to 1,000: the smaller
        (dict(method="best-of-n", pairs=9_999), ("best-of-n", 250, 5)),
    ],
)
def test_what_was_not_run_gives_way_to_the_nearest(asked, shown):
    _, chosen, _ = OveroptimizationExplorer(runs(), **asked).chosen
    assert (chosen["method"], chosen["pairs"], chosen["seed"]) == shown


def test_a_point_beyond_a_shorter_run_is_its_last():
    long = run(
        seed=2,
        where=list("abcdef"),
        d=[0.0, 0.5, 1.0, 2.0, 3.0, 4.0],
        gold=[0.0] * 6,
        gold_se=[0.0] * 6,
        proxy=[0.0] * 6,
        replies=[[]] * 6,
    )
    demo = OveroptimizationExplorer([run(), long], seed=2, point=5)
    assert demo.result.where == "f"
    demo.seed = 1
    assert demo.result.where == "step 8"


@pytest.mark.parametrize(
    "given, settings, message",
    [
        ([], {}, "runs is empty; expected recorded runs"),
        ([{"method": "PPO"}], {}, r"runs\[0\] has no 'form'"),
        (
            [run(form="best_of_n"), {**run(seed=2), "form": "line"}],
            {},
            r"runs\[1\]\['form'\] is 'line'",
        ),
        ([run(proxy=[0.0, 1.0])], {}, r"runs\[0\]\['proxy'\] has 2 entries; expected 5"),
        ([run(gold=[0.0, 1.0, math.nan, 1.0, 1.0])], {}, r"runs\[0\]\['gold'\] has the entry nan"),
        ([run(d=[0.0, 1.0, 1.0, 2.0, 2.0])], {}, r"runs\[0\]\['d'\] has fewer than 3 distances"),
        ([run(), run()], {}, "twice; expected one run each"),
        ([run()], {"method": "GRPO"}, "method is 'GRPO'; expected one of 'PPO'"),
        ([run()], {"point": 5}, "point is 5; expected 0 to 4"),
    ],
)
def test_constructor_refuses(given, settings, message):
    with pytest.raises(ValueError, match=message):
        OveroptimizationExplorer(given, **settings)


@pytest.mark.parametrize("trait, value", [("method", "x"), ("point", -1)])
def test_a_bad_choice_is_refused_and_the_old_one_stays(trait, value):
    demo = OveroptimizationExplorer(runs())
    before = getattr(demo, trait)
    with pytest.raises(ValueError, match=f"{trait} is "):
        setattr(demo, trait, value)
    assert getattr(demo, trait) == before


def test_repr_is_stable():
    assert repr(OveroptimizationExplorer(runs(), point=2)) == (
        "OveroptimizationExplorer(5 runs, 2 methods; PPO, 1000 pairs, seed 1, step 4: gold 1.10)"
    )


def test_the_browser_has_pythons_table_of_t():
    code = browser_code("overoptimization_explorer")
    listed = re.search(r"const STUDENT = \[(.*)\]", code)[1]
    assert tuple(map(float, listed.split(","))) == STUDENT


def test_students_table_is_students():
    """Each t leaves .025 above it, by integrating the density."""
    for df, t in enumerate(STUDENT, 1):
        x = np.linspace(0, t, 200_001)
        density = (
            math.gamma((df + 1) / 2)
            / math.gamma(df / 2)
            / math.sqrt(df * math.pi)
            * (1 + x * x / df) ** (-(df + 1) / 2)
        )
        assert np.trapezoid(density, x) == pytest.approx(0.475, abs=2e-5)


def test_saved_state_is_plain_json_and_needs_no_other_file():
    state = OveroptimizationExplorer(runs()).get_state()
    json.dumps({key: value for key, value in state.items() if key != "layout"}, allow_nan=False)
    assert "function slider" in state["_esm"] and "export default" in state["_esm"]
    assert ".rlhf-demo" in state["_css"] and ".rlhf-overopt" in state["_css"]
    code = browser_code("overoptimization_explorer")
    assert not re.search(r"^\s*import\b|\bimport\(|https?://(?!www\.w3\.org)", code, re.MULTILINE)


def test_every_style_is_ours():
    rules = re.sub(r"/\*.*?\*/", "", OveroptimizationExplorer._css, flags=re.DOTALL)
    selectors = " ".join(re.findall(r"([^{}]*)\{", rules))
    found = set(re.findall(r"\.([a-zA-Z][\w-]*)", selectors))
    assert "rlhf-form" in found
    assert {name for name in found if not name.startswith("rlhf-")} <= {"vscode-dark"}
