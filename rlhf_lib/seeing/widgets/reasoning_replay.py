"""The reasoning replay: a GRPO run on sums to look back on, and its working read step by step.

A page cannot train. It can show what was recorded (accuracy, length, the share of completions with
working) with a cursor, and the completions of the same held-out sums before training, at a step,
and after it. The browser reads each completion itself: columns, carries, answer. Its side is
reasoning_replay.js; Python's is `rlhf_lib.worlds.sums.read`.

Chapter: rlvr.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import traitlets

from ...worlds import sums
from .base import Demo, browser_code, styles

#: What a measured step has, beside its completions, and the largest value of each.
MEASURES = {"greedy": 1.0, "sampled": 1.0, "working": 1.0, "length": math.inf}


class ReasoningNumbers(NamedTuple):
    """What is on display.

    Attributes
    ----------
    step : int
    measures : dict of str to float
        Those of `MEASURES` at that step.
    readings : list of sums.Reading
        Of the chosen sum before training, at that step, and after training.
    working_from : int or None
        The measured step from which on every greedy completion of the sum has working; None if
        the last has none.
    settled_from : int
        The measured step from which on the greedy completion of the sum is the last one.
    """

    step: int
    measures: dict[str, float]
    readings: list[sums.Reading]
    working_from: int | None
    settled_from: int


def _row(i: int, row: dict, prompts: Sequence[str]) -> dict:
    """A measured step in the form that the browser draws, or a ValueError."""
    found = {"step": row.get("step"), "replies": row.get("replies")}
    if not isinstance(found["step"], int) or found["step"] < 0:
        raise ValueError(
            f"measured[{i}] has step={found['step']!r}; expected a whole number, 0 or more"
        )
    for name, most in MEASURES.items():
        value = row.get(name)
        if not isinstance(value, (int, float)) or not 0 <= value <= most or math.isinf(value):
            raise ValueError(
                f"measured[{i}] has {name}={value!r}; expected "
                + ("a share from 0 to 1" if most == 1 else "a mean of tokens, 0 or more")
            )
        found[name] = round(float(value), 4)
    completions = found["replies"]
    if (
        not isinstance(completions, (list, tuple))
        or len(completions) != len(prompts)
        or not all(isinstance(completion, str) for completion in completions)
    ):
        raise ValueError(
            f"measured[{i}] has replies={completions!r}; expected {len(prompts)} texts, "
            "one for each prompt"
        )
    return {**found, "replies": list(completions)}


class ReasoningReplay(Demo):
    """Curves of a run on sums with a movable step, and a sum's working before, there and after.

    Parameters
    ----------
    prompts : sequence of str
        The held-out sums whose greedy completions were kept, such as "16+24=".
    measured : sequence of dict
        What was measured during a run that `sums.strict_verifier` paid, as in a line of
        benchmarks/results/grpo_replay.jsonl: `step`; the shares `greedy` and `sampled` of right
        answers, and `working` of sampled completions that begin with it; the mean `length` of
        sampled ones in tokens; `replies`, the greedy one of each prompt. At least two, from step 0
        on.
    step : int, optional
        One of the measured steps. The first at which most sampled completions have working, or
        else the last, if left out.

    Raises
    ------
    ValueError
        If a prompt is no sum, a measurement is not of that form, or the step was not measured.

    Chapter
    -------
    rlvr

    Examples
    --------
    >>> before = dict(step=0, greedy=.1, sampled=.2, working=.2, length=9., replies=["102"])
    >>> after = dict(step=9, greedy=.9, sampled=.8, working=.9, length=27.,
    ...              replies=["<7+5=12,6+4+1=11>112"])
    >>> ReasoningReplay(["67+45="], [before, after])
    ReasoningReplay(1 sums, steps 0 to 9; step 9: greedy 0.900, 67+45= wrong, right, right)
    """

    _esm = browser_code("reasoning_replay")
    _css = styles("reasoning_replay")

    prompts = traitlets.List(traitlets.Unicode()).tag(sync=True)
    measured = traitlets.List(traitlets.Dict()).tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)
    sum = traitlets.Int(0).tag(sync=True)  # which of the prompts is read

    def __init__(
        self, prompts: Sequence[str], measured: Sequence[dict], step: int | None = None
    ) -> None:
        prompts = list(prompts)
        if not prompts:
            raise ValueError("prompts is empty; expected at least one sum")
        for i, prompt in enumerate(prompts):
            if not isinstance(prompt, str) or not sums.PROMPT_PATTERN.fullmatch(prompt):
                raise ValueError(f"prompts[{i}] is {prompt!r}; expected a sum such as '4821+377='")
        if len(measured) < 2:
            raise ValueError(
                f"measured has {len(measured)} entries; expected at least two, before "
                "training and after it"
            )
        rows = [_row(i, row, prompts) for i, row in enumerate(measured)]
        if rows[0]["step"] != 0:
            raise ValueError(f"measured[0] has step={rows[0]['step']}; expected 0, before training")
        for i in range(1, len(rows)):
            if rows[i]["step"] <= rows[i - 1]["step"]:
                raise ValueError(
                    f"measured[{i}] has step={rows[i]['step']}; expected one after "
                    f"{rows[i - 1]['step']}, the one before it"
                )
        if step is None:
            step = next((row["step"] for row in rows if row["working"] > 0.5), rows[-1]["step"])
        super().__init__(prompts=prompts, measured=rows)
        self.step = step

    @traitlets.validate("step")
    def _check_step(self, proposal) -> int:
        steps = [row["step"] for row in self.measured]
        if proposal["value"] not in steps:
            raise ValueError(
                f"step is {proposal['value']}; expected one that was measured: "
                f"{', '.join(map(str, steps))}"
            )
        return proposal["value"]

    @traitlets.validate("sum")
    def _check_sum(self, proposal) -> int:
        if not 0 <= proposal["value"] < len(self.prompts):
            raise ValueError(f"sum is {proposal['value']}; expected 0 to {len(self.prompts) - 1}")
        return proposal["value"]

    @property
    def result(self) -> ReasoningNumbers:
        """The numbers on display and what is read from the completions."""
        here = next(row for row in self.measured if row["step"] == self.step)
        completions = [row["replies"][self.sum] for row in self.measured]
        working_from, settled_from = None, self.measured[-1]["step"]
        for row, completion in zip(reversed(self.measured), reversed(completions)):
            if not completion.startswith("<"):
                break
            working_from = row["step"]
        for row, completion in zip(reversed(self.measured), reversed(completions)):
            if completion != completions[-1]:
                break
            settled_from = row["step"]
        prompt = self.prompts[self.sum]
        return ReasoningNumbers(
            self.step,
            {name: here[name] for name in MEASURES},
            [
                sums.read(prompt, completion)
                for completion in (completions[0], here["replies"][self.sum], completions[-1])
            ],
            working_from,
            settled_from,
        )

    def summary(self) -> str:
        """The state in a few words."""
        shown = self.result
        verdicts = ", ".join("right" if reading.right else "wrong" for reading in shown.readings)
        return (
            f"{len(self.prompts)} sums, steps {self.measured[0]['step']} to "
            f"{self.measured[-1]['step']}; step {self.step}: greedy "
            f"{shown.measures['greedy']:.3f}, {self.prompts[self.sum]} {verdicts}"
        )
