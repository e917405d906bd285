"""The reasoning replay in Python: its numbers, what it refuses, what it saves.

How it behaves in a page, and that the browser reads every reply as `sums.read` does, is tested in
tests/site.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from rlhf_lib.seeing.widgets import ReasoningReplay
from rlhf_lib.seeing.widgets.reasoning_replay import MEASURES
from rlhf_lib.worlds import sums

RECORD = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "grpo_replay.jsonl"


def recorded() -> dict:
    return json.loads(RECORD.read_text(encoding="utf-8").splitlines()[0])


def row(step: int, replies: list[str], **changes) -> dict:
    return {
        "step": step,
        "greedy": 0.5,
        "sampled": 0.4,
        "working": 0.3,
        "length": 9.0,
        "replies": replies,
        **changes,
    }


TWO = ["67+45=", "9+8="]
ROWS = [
    row(0, ["102", "17"]),
    row(3, ["<7+5=12,6+4=10>102", "17"], working=0.6),
    row(4, ["112", "<9+8=17>17"]),
    row(9, ["<7+5=12,6+4+1=11>112", "<9+8=17>17"]),
]


def test_the_recorded_run():
    run = recorded()
    demo = ReasoningReplay(run["prompts"], run["measured"])
    assert demo.step == next(m["step"] for m in run["measured"] if m["working"] > 0.5)
    for measured in run["measured"]:
        demo.step = measured["step"]
        shown = demo.result
        assert shown.measures == {
            name: pytest.approx(measured[name], abs=1e-4) for name in MEASURES
        }
        for i, prompt in enumerate(run["prompts"]):
            demo.sum = i
            assert demo.result.readings == [
                sums.read(prompt, at["replies"][i])
                for at in (run["measured"][0], measured, run["measured"][-1])
            ]


def test_when_a_reply_turns_and_when_it_settles():
    demo = ReasoningReplay(TWO, ROWS)
    assert demo.step == 3  # the first at which most sampled replies have working
    assert (demo.result.working_from, demo.result.settled_from) == (9, 9)  # it went back at 4
    demo.sum = 1
    assert (demo.result.working_from, demo.result.settled_from) == (4, 4)
    for replies, expected in (
        (["12", "13", "12"], (None, 5)),  # the last is no working
        (["<a", "<b", "<b"], (0, 2)),
        (["1", "<a", "<b"], (2, 5)),
        (["1", "1", "1"], (None, 0)),
        (["<a", "1", "<a"], (5, 5)),
    ):
        rows = [row(step, [reply]) for step, reply in zip((0, 2, 5), replies)]
        shown = ReasoningReplay(["6+7="], rows).result
        assert (shown.working_from, shown.settled_from) == expected, replies
        assert shown.step == 5  # working is .3 throughout: the last


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((["hello"], ROWS), r"prompts\[0\] is 'hello'; expected a sum such as '4821\+377='"),
        (([7], ROWS), r"prompts\[0\] is 7; expected a sum"),
        (([], ROWS), "prompts is empty"),
        ((TWO, []), "measured has 0 entries; expected at least two"),
        ((TWO, ROWS[:1]), "measured has 1 entries; expected at least two"),
        ((TWO, [ROWS[1], ROWS[3]]), r"measured\[0\] has step=3; expected 0, before training"),
        ((TWO, [ROWS[0], ROWS[3], ROWS[1]]), r"measured\[2\] has step=3; expected one after 9"),
        ((TWO, [ROWS[0], ROWS[0]]), r"measured\[1\] has step=0; expected one after 0"),
        ((TWO, [ROWS[0], row(2.5, ["1", "2"])]), r"measured\[1\] has step=2.5; expected a whole"),
        ((TWO, [ROWS[0], row(-1, ["1", "2"])]), r"measured\[1\] has step=-1"),
        (
            (TWO, [ROWS[0], {"step": 1}]),
            r"measured\[1\] has greedy=None; expected a share from 0 to 1",
        ),
        ((TWO, [ROWS[0], row(1, ["1", "2"], greedy=1.7)]), r"measured\[1\] has greedy=1.7"),
        ((TWO, [ROWS[0], row(1, ["1", "2"], working=-0.1)]), r"measured\[1\] has working=-0.1"),
        ((TWO, [ROWS[0], row(1, ["1", "2"], sampled=math.nan)]), r"measured\[1\] has sampled=nan"),
        (
            (TWO, [ROWS[0], row(1, ["1", "2"], length=math.inf)]),
            r"length=inf; expected a mean of tok",
        ),
        ((TWO, [ROWS[0], row(1, ["1"])]), r"measured\[1\] has replies=\['1'\]; expected 2 texts"),
        ((TWO, [ROWS[0], row(1, "12")]), r"measured\[1\] has replies='12'; expected 2 texts"),
        ((TWO, [ROWS[0], row(1, ["1", None])]), r"measured\[1\] has replies=\['1', None\]"),
        ((TWO, ROWS, 5), "step is 5; expected one that was measured: 0, 3, 4, 9"),
        ((TWO, [*ROWS[:1], row(4, ["1", "2"])], -1), "step is -1; expected one that was measured"),
    ],
)
def test_constructor_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        ReasoningReplay(*arguments)


def test_a_bad_value_is_refused_and_the_old_one_stays():
    demo = ReasoningReplay(TWO, ROWS, step=0)
    for name, value, message in (
        ("step", 2, "step is 2; expected one that was measured: 0, 3"),
        ("sum", 2, "sum is 2; expected 0 to 1"),
        ("sum", -1, "sum is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            setattr(demo, name, value)
    assert (demo.step, demo.sum) == (0, 0)
    assert repr(demo) == (
        "ReasoningReplay(2 sums, steps 0 to 9; step 0: greedy 0.500, 67+45= wrong, wrong, right)"
    )


def test_saved_state_is_plain_json_and_small():
    run = recorded()
    demo = ReasoningReplay(run["prompts"], run["measured"])
    state = {k: v for k, v in demo.get_state().items() if k != "layout"}
    assert len(json.dumps(state, allow_nan=False)) < 50_000
    assert set(state["measured"][0]) == {"step", "replies", *MEASURES}
    assert "function slider" in state["_esm"] and ".rlhf-reason" in state["_css"]
