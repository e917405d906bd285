"""The training replay: scrub through the steps of recorded runs, and read what the policy wrote.

A page cannot train. It can show what was recorded: the curves of each run with a cursor, and the
completions of the same held-out prompts at that step. The browser side is training_replay.js, after
training_view.js; `TrainingReplay.result` has Python's numbers.

Chapter: ppo-live.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import traitlets

from .base import Demo, browser_code, styles

#: What has a panel, as far as the records hold it.
METRICS = ("reward", "gold", "kl", "entropy", "length", "beta")


class ReplayNumbers(NamedTuple):
    """What is on display at a step.

    Attributes
    ----------
    record : dict of str to float
        The metrics of the batch of that step; empty before the first.
    completions_of : int or None
        The step after which those on display were sampled; None if there are none yet.
    completions : list of (prompt, completion, gold or None)
    """

    record: dict[str, float]
    completions_of: int | None
    completions: list[tuple[str, str, float | None]]


def rounded(value, digits: int = 3) -> float | None:
    """A number short enough for a saved state; None for what JSON has no form for."""
    if value is None or not math.isfinite(value):
        return None
    return round(float(value), digits)


def as_run(
    name: str,
    records: Sequence[dict],
    measured: Sequence[dict],
    prompts: Sequence[str],
    note: str = "",
) -> dict:
    """A run in the form that the browser draws.

    Parameters
    ----------
    name : str
    records : sequence of dict
        A record of each step, as a loop returns it: `step`, and what there is of `METRICS`.
    measured : sequence of dict
        What was measured on held-out prompts in between: `step`, `gold` (their mean, if known)
        and `replies`, a (text, gold or None) for each prompt, or none.
    prompts : sequence of str
    note : str
        A sentence on how the run was made.

    Raises
    ------
    ValueError
        If a step is missing or not after the one before, or completions do not fit the prompts.
    """
    for what, rows in (("records", records), ("measured", measured)):
        steps = [row.get("step") for row in rows]
        for i, step in enumerate(steps):
            if not isinstance(step, int) or i and step <= steps[i - 1]:
                raise ValueError(
                    f"{what}[{i}] of run {name!r} has step={step!r}; expected a whole "
                    "number above the one before"
                )
    completions = []
    for i, row in enumerate(measured):
        found = [[str(text), rounded(gold, 2)] for text, gold in row.get("replies") or ()]
        if found and len(found) != len(prompts):
            raise ValueError(
                f"measured[{i}] of run {name!r} has {len(found)} replies; expected "
                f"{len(prompts)}, one for each prompt, or none"
            )
        completions.append(found)
    return {
        "name": name,
        "note": note,
        "steps": [row["step"] for row in records],
        "curves": {
            metric: [rounded(row.get(metric)) for row in records]
            for metric in METRICS
            if any(metric in row for row in records)
        },
        "at": [row["step"] for row in measured],
        "held": [rounded(row.get("gold")) for row in measured],
        "replies": completions,
    }


class TrainingReplay(Demo):
    """Recorded runs: choose one, scrub through its steps, read what was written at each.

    Parameters
    ----------
    prompts : sequence of str
        The held-out prompts whose completions were kept.
    runs : sequence of dict
        Each with `name`, `records`, `measured`, and a `note` if there is something to say of it;
        see `as_run`. All are of the same prompts.
    run, step : int
        Where to start.

    Raises
    ------
    ValueError
        If there is no run, or one is not of that form.

    Chapter
    -------
    ppo-live

    Examples
    --------
    >>> TrainingReplay(["say hello"], [dict(name="fixed", records=[dict(step=1, reward=.5)],
    ...                measured=[dict(step=0, gold=1., replies=[("hello", 1.)])])])
    TrainingReplay(1 runs of 1 prompts; fixed, step 0)
    """

    _esm = browser_code("training_view", "training_replay")
    _css = styles("training_view")

    prompts = traitlets.List(traitlets.Unicode()).tag(sync=True)
    runs = traitlets.List(traitlets.Dict()).tag(sync=True)
    run = traitlets.Int(0).tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)

    def __init__(
        self, prompts: Sequence[str], runs: Sequence[dict], *, run: int = 0, step: int = 0
    ) -> None:
        if not runs:
            raise ValueError("runs is empty; expected at least one recorded run")
        prompts = list(prompts)
        super().__init__(
            prompts=prompts,
            run=run,
            step=step,
            runs=[
                as_run(r["name"], r["records"], r["measured"], prompts, r.get("note", ""))
                for r in runs
            ],
        )

    @traitlets.validate("run")
    def _check_run(self, proposal) -> int:
        if self.runs and not 0 <= proposal["value"] < len(self.runs):
            raise ValueError(f"run is {proposal['value']}; expected 0 to {len(self.runs) - 1}")
        return proposal["value"]

    @traitlets.validate("step")
    def _check_step(self, proposal) -> int:
        if proposal["value"] < 0:
            raise ValueError(f"step is {proposal['value']}; expected 0 or more")
        return proposal["value"]

    @property
    def result(self) -> ReplayNumbers:
        """The numbers and completions on display."""
        run = self.runs[self.run]
        before = [i for i, step in enumerate(run["steps"]) if step <= self.step]
        record = (
            {
                name: values[before[-1]]
                for name, values in run["curves"].items()
                if values[before[-1]] is not None
            }
            if before
            else {}
        )
        seen = [i for i, step in enumerate(run["at"]) if step <= self.step and run["replies"][i]]
        if not seen:
            return ReplayNumbers(record, None, [])
        return ReplayNumbers(
            record,
            run["at"][seen[-1]],
            [(prompt, *written) for prompt, written in zip(self.prompts, run["replies"][seen[-1]])],
        )

    def summary(self) -> str:
        """The state in a few words."""
        return (
            f"{len(self.runs)} runs of {len(self.prompts)} prompts; "
            f"{self.runs[self.run]['name']}, step {self.step}"
        )
