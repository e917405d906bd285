"""The sample explorer: what a policy writes, by training stage and sampling temperature.

Sampling needs a model, and a page has none. So the demo shows recorded samples: the completions of
a few prompts in full, and how many of a larger set fell into each style. The browser side is
sample_explorer.js; it computes shares and intervals from the counts, and `SampleExplorer.result`
has Python's.

Chapter: alignment-problem.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import traitlets

from ...mathematics.intervals import Z, wilson
from .base import Demo, browser_code, styles

#: What each recorded sample says.
KEYS = ("stage", "temperature", "prompt", "completion", "style", "gold", "asked")


class SampleNumbers(NamedTuple):
    """What the sample explorer shows for its present prompt, stage and temperature.

    Attributes
    ----------
    completions : list of (text, style, gold)
        Those recorded for the prompt.
    shares : dict of str to float
        Share of each style among the measured samples.
    intervals : dict of str to (low, high)
        Wilson's 95 % interval of each share.
    gold, gold_margin : float
        Mean gold utility of the measured samples, and half its normal 95 % interval.
    asked : float
        Share of the measured samples that did what was asked.
    asked_interval : (low, high)
        Wilson's 95 % interval of that share.
    """

    completions: list[tuple[str, str, float]]
    shares: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    gold: float
    gold_margin: float
    asked: float
    asked_interval: tuple[float, float]


def _in_order(values) -> list:
    return list(dict.fromkeys(values))


def _rows(name: str, rows) -> list[dict]:
    rows = list(rows)
    if not rows:
        raise ValueError(f"{name} is empty; expected recorded samples")
    for i, row in enumerate(rows):
        missing = [key for key in KEYS if key not in row]
        if missing:
            raise ValueError(
                f"{name}[{i}] has no {missing[0]!r}; expected the keys {', '.join(KEYS)}"
            )
        if not math.isfinite(row["gold"]):
            raise ValueError(f"{name}[{i}]['gold'] is {row['gold']}; expected a finite number")
    return rows


class SampleExplorer(Demo):
    """Replies to a chosen prompt, and the style mix, of each stage at each temperature.

    Parameters
    ----------
    shown : sequence of dict
        The samples that can be read: a few completions of each of a few prompts, at every stage and
        temperature. Keys: `stage` (str), `temperature` (float), `prompt`, `completion`, `style`
        (str), `gold` (float) and `asked` (bool: it does what was asked).
    measured : sequence of dict
        The samples that are counted, with the same keys: at every stage and temperature one
        completion of each of many prompts, drawn independently, as the intervals assume.
    styles : sequence of str, optional
        Order of the bars. By default that of first appearance in `measured`.
    stage : str, optional
        Where to start; the first stage if left out.
    temperature : float
        Where to start.
    prompt : int
        Which prompt to start with.

    Raises
    ------
    ValueError
        If there are no samples, a key is missing, some combination of prompt, stage and
        temperature has no sample, or the start is none of those recorded.

    Chapter
    -------
    alignment-problem

    Examples
    --------
    >>> row = dict(stage="base", temperature=1.0, prompt="say hello", completion="hello",
    ...            style="polite", gold=1.0, asked=True)
    >>> SampleExplorer([row], [row, {**row, "style": "rude", "gold": -1.0, "asked": False}])
    SampleExplorer(1 prompts, 1 stages, 1 temperatures; base at T=1: gold 0.00, asked 0.50)
    """

    _esm = browser_code("sample_explorer")
    _css = styles("sample_explorer")

    prompts = traitlets.List(traitlets.Unicode()).tag(sync=True)
    stages = traitlets.List(traitlets.Unicode()).tag(sync=True)
    temperatures = traitlets.List(traitlets.Float()).tag(sync=True)
    styles = traitlets.List(traitlets.Unicode()).tag(sync=True)
    # replies[prompt][stage][temperature] is a list of [text, style, gold]
    replies = traitlets.List().tag(sync=True)
    # counts[stage][temperature] has a count for each style, totals n, asked, mean gold and its sd
    counts = traitlets.List().tag(sync=True)
    totals = traitlets.List().tag(sync=True)
    prompt = traitlets.Int(0).tag(sync=True)
    stage = traitlets.Unicode().tag(sync=True)
    temperature = traitlets.Float(1.0).tag(sync=True)

    def __init__(
        self,
        shown,
        measured,
        styles: Sequence[str] | None = None,
        *,
        stage: str | None = None,
        temperature: float = 1.0,
        prompt: int = 0,
    ) -> None:
        shown, measured = _rows("shown", shown), _rows("measured", measured)
        prompts = _in_order(row["prompt"] for row in shown)
        stages = _in_order(row["stage"] for row in measured)
        temperatures = sorted({float(row["temperature"]) for row in measured})
        found = _in_order(row["style"] for row in measured + shown)
        styles = found if styles is None else list(styles)
        unknown = [style for style in found if style not in styles]
        if unknown:
            raise ValueError(f"styles lacks {unknown[0]!r}, which a sample has")

        completions: dict[tuple, list] = {}
        for row in shown:
            cell = row["prompt"], row["stage"], float(row["temperature"])
            completions.setdefault(cell, []).append(
                [row["completion"], styles.index(row["style"]), round(float(row["gold"]), 4)]
            )
        cells: dict[tuple, list[dict]] = {}
        for row in measured:
            cells.setdefault((row["stage"], float(row["temperature"])), []).append(row)
        for s in stages:
            for t in temperatures:
                if (s, t) not in cells:
                    raise ValueError(f"measured has no sample of stage {s!r} at temperature {t:g}")
                for p in prompts:
                    if (p, s, t) not in completions:
                        raise ValueError(
                            f"shown has no reply to {p!r} of stage {s!r} at temperature {t:g}"
                        )

        def total(rows: list[dict]) -> list:
            n, gold = len(rows), [float(row["gold"]) for row in rows]
            mean = sum(gold) / n
            variance = sum((g - mean) ** 2 for g in gold) / max(1, n - 1)
            return [n, sum(bool(row["asked"]) for row in rows), mean, math.sqrt(variance)]

        super().__init__(
            prompts=prompts,
            stages=stages,
            temperatures=temperatures,
            styles=styles,
            replies=[
                [[completions[p, s, t] for t in temperatures] for s in stages] for p in prompts
            ],
            counts=[
                [
                    [sum(row["style"] == style for row in cells[s, t]) for style in styles]
                    for t in temperatures
                ]
                for s in stages
            ],
            totals=[[total(cells[s, t]) for t in temperatures] for s in stages],
            prompt=prompt,
            stage=stages[0] if stage is None else stage,
            temperature=temperature,
        )

    @traitlets.validate("prompt")
    def _check_prompt(self, proposal) -> int:
        if not 0 <= proposal["value"] < len(self.prompts):
            raise ValueError(
                f"prompt is {proposal['value']}; expected 0 to {len(self.prompts) - 1}"
            )
        return proposal["value"]

    @traitlets.validate("stage", "temperature")
    def _check_recorded(self, proposal):
        name, value = proposal["trait"].name, proposal["value"]
        recorded = self.stages if name == "stage" else self.temperatures
        if value not in recorded:
            raise ValueError(
                f"{name} is {value!r}; expected one of "
                f"{', '.join(map(repr, recorded))}, which were recorded"
            )
        return value

    @property
    def result(self) -> SampleNumbers:
        """The numbers and completions on display, computed from the present state."""
        s, t = self.stages.index(self.stage), self.temperatures.index(self.temperature)
        n, asked, mean, deviation = self.totals[s][t]
        counts = dict(zip(self.styles, self.counts[s][t]))
        return SampleNumbers(
            completions=[
                (text, self.styles[style], gold)
                for text, style, gold in self.replies[self.prompt][s][t]
            ],
            shares={style: count / n for style, count in counts.items()},
            intervals={style: wilson(count, n) for style, count in counts.items()},
            gold=mean,
            gold_margin=Z * deviation / math.sqrt(n),
            asked=asked / n,
            asked_interval=wilson(asked, n),
        )

    def summary(self) -> str:
        """The state in a few words."""
        numbers = self.result
        return (
            f"{len(self.prompts)} prompts, {len(self.stages)} stages, "
            f"{len(self.temperatures)} temperatures; {self.stage} at T={self.temperature:g}: "
            f"gold {numbers.gold:.2f}, asked {numbers.asked:.2f}"
        )
