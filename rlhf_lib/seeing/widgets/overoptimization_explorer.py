"""The over-optimisation explorer: gold and proxy against √KL, from recorded runs.

Training needs minutes, and a page has milliseconds. So the demo holds measurements of runs that
were made: a reader chooses a method and how many comparisons the proxy learnt from, then moves
along one run and reads what the policy wrote there. The fitted forms and their intervals are
computed from the measurements, in the browser by overoptimization_explorer.js, in Python by
`rlhf_lib.mathematics.overoptimization`.

Chapter: over-optimization.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import traitlets

from ...mathematics import overoptimization
from ...mathematics.intervals import Z, mean_interval
from .base import Demo, browser_code, styles

#: What each recorded run says.
KEYS = ("method", "form", "pairs", "seed", "where", "d", "gold", "gold_se", "proxy", "replies")


class OveroptimizationNumbers(NamedTuple):
    """What the explorer shows at its present point.

    Attributes
    ----------
    where : str
        The point on the run, such as "step 8" or "n = 16".
    d : float
        √KL there.
    gold, gold_margin, proxy : float
        Gains over the initial policy, and half the 95 % interval of the first.
    alpha, beta : (mean, half) or (mean, None)
        Coefficients of the form: mean over the method's seeds, and half the 95 % interval of it.
    fitted : (mean, half) or (mean, None)
        The gain that the form gives at d.
    peak : float
        √KL at which the form of the mean coefficients is highest; infinite if it never falls.
    completions : list of (prompt, text, gold, proxy)
        Recorded there.
    """

    where: str
    d: float
    gold: float
    gold_margin: float
    proxy: float
    alpha: tuple[float, float | None]
    beta: tuple[float, float | None]
    fitted: tuple[float, float | None]
    peak: float
    completions: list


def _run(i: int, run: dict) -> dict:
    missing = [key for key in KEYS if key not in run]
    if missing:
        raise ValueError(f"runs[{i}] has no {missing[0]!r}; expected the keys {', '.join(KEYS)}")
    if run["form"] not in overoptimization.FORMS:
        raise ValueError(
            f"runs[{i}]['form'] is {run['form']!r}; expected one of "
            f"{', '.join(map(repr, overoptimization.FORMS))}"
        )
    for key in ("where", "gold", "gold_se", "proxy", "replies"):
        if len(run[key]) != len(run["d"]):
            raise ValueError(
                f"runs[{i}][{key!r}] has {len(run[key])} entries; expected "
                f"{len(run['d'])}, one for each d"
            )
    for key in ("d", "gold", "gold_se", "proxy"):
        bad = [value for value in run[key] if not math.isfinite(value)]
        if bad:
            raise ValueError(f"runs[{i}][{key!r}] has the entry {bad[0]}; expected finite numbers")
    if len({d for d in run["d"] if d > 0}) < 3:
        raise ValueError(
            f"runs[{i}]['d'] has fewer than 3 distances above 0; expected enough to "
            "fit two coefficients"
        )
    numbers = {key: [round(float(v), 4) for v in run[key]] for key in KEYS[5:9]}
    return {**{key: run[key] for key in KEYS}, **numbers}


def _interval(values: list[float]) -> tuple[float, float | None]:
    if len(values) == 1:  # one run says nothing of how others would differ
        return values[0], None
    return mean_interval(values)


class OveroptimizationExplorer(Demo):
    """Gold and proxy along recorded runs, with Gao's form fitted to them.

    Parameters
    ----------
    runs : sequence of dict
        Keys: `method` (str), `form` ("best_of_n" or "rl"), `pairs` and `seed` (int), and lists
        with an entry for each measurement: `where` (str), `d` (√KL), `gold`, `gold_se` and `proxy`
        (gains over the initial policy), and `replies`, each a list of (prompt, text, gold, proxy).
    method, pairs, seed : optional
        Where to start; the first of those recorded.
    point : int
        Which measurement of the run to start at.

    Raises
    ------
    ValueError
        If there are no runs, a key is missing, or lists differ in length.

    Chapter
    -------
    over-optimization

    Examples
    --------
    >>> run = dict(method="best-of-n", form="best_of_n", pairs=100, seed=1,
    ...            where=["n = 1", "n = 2", "n = 4", "n = 8"], d=[0, 1, 2, 3],
    ...            gold=[0, 1, 1.5, 1.5], gold_se=[0, .1, .1, .1], proxy=[0, 1, 2, 3],
    ...            replies=[[], [], [], []])
    >>> OveroptimizationExplorer([run], point=1)
    OveroptimizationExplorer(1 runs, 1 methods; best-of-n, 100 pairs, seed 1, n = 2: gold 1.00)
    """

    _esm = browser_code("overoptimization_explorer")
    _css = styles("overoptimization_explorer")

    runs = traitlets.List(traitlets.Dict()).tag(sync=True)
    method = traitlets.Unicode().tag(sync=True)
    pairs = traitlets.Int().tag(sync=True)
    seed = traitlets.Int().tag(sync=True)
    point = traitlets.Int(0).tag(sync=True)

    def __init__(
        self,
        runs,
        *,
        method: str | None = None,
        pairs: int | None = None,
        seed: int | None = None,
        point: int = 0,
    ) -> None:
        runs = [_run(i, run) for i, run in enumerate(runs)]
        if not runs:
            raise ValueError("runs is empty; expected recorded runs")
        names = [(run["method"], run["pairs"], run["seed"]) for run in runs]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(
                f"runs has method, pairs and seed {twice} twice; expected one run each"
            )
        super().__init__(
            runs=runs,
            method=runs[0]["method"] if method is None else method,
            pairs=runs[0]["pairs"] if pairs is None else pairs,
            seed=runs[0]["seed"] if seed is None else seed,
            point=point,
        )

    @traitlets.validate("method")
    def _check_method(self, proposal) -> str:
        methods = list(dict.fromkeys(run["method"] for run in self.runs))
        if proposal["value"] not in methods:
            raise ValueError(
                f"method is {proposal['value']!r}; expected one of "
                f"{', '.join(map(repr, methods))}, which were recorded"
            )
        return proposal["value"]

    @traitlets.validate("point")
    def _check_point(self, proposal) -> int:
        longest = max(len(run["d"]) for run in self.runs)
        if not 0 <= proposal["value"] < longest:
            raise ValueError(f"point is {proposal['value']}; expected 0 to {longest - 1}")
        return proposal["value"]

    @property
    def chosen(self) -> tuple[list[dict], dict, int]:
        """The runs of the present method and pairs, the one of the present seed, and the point.

        Not every method was run with every number of pairs and every seed: then it is the one
        nearest to what was asked, the smaller of two as near.
        """

        def nearest(values, wanted):
            return min(sorted(values), key=lambda value: abs(value - wanted))

        runs = [run for run in self.runs if run["method"] == self.method]
        pairs = nearest({run["pairs"] for run in runs}, self.pairs)
        runs = [run for run in runs if run["pairs"] == pairs]
        seed = nearest({run["seed"] for run in runs}, self.seed)
        (run,) = [run for run in runs if run["seed"] == seed]
        return runs, run, min(self.point, len(run["d"]) - 1)

    @property
    def result(self) -> OveroptimizationNumbers:
        """The numbers and completions on display, computed from the present state."""
        runs, run, point = self.chosen
        form, d = run["form"], run["d"][point]
        fits = [overoptimization.fit(form, r["d"], r["gold"]) for r in runs]
        alpha, beta = _interval([f.alpha for f in fits]), _interval([f.beta for f in fits])
        fitted = [float(overoptimization.gain(form, d, f.alpha, f.beta)) for f in fits]
        return OveroptimizationNumbers(
            where=run["where"][point],
            d=d,
            gold=run["gold"][point],
            gold_margin=Z * run["gold_se"][point],
            proxy=run["proxy"][point],
            alpha=alpha,
            beta=beta,
            fitted=_interval(fitted),
            peak=overoptimization.peak(form, alpha[0], beta[0])[0],
            completions=run["replies"][point],
        )

    def summary(self) -> str:
        """The state in a few words."""
        _, run, point = self.chosen
        methods = len({run["method"] for run in self.runs})
        return (
            f"{len(self.runs)} runs, {methods} methods; {run['method']}, {run['pairs']} pairs, "
            f"seed {run['seed']}, {run['where'][point]}: gold {run['gold'][point]:.2f}"
        )
