"""The Bradley–Terry explorer: set scores, add comparisons, and see which scores explain them.

The browser side is bradley_terry_explorer.js, after bradley_terry.js. Both sides compute the same
numbers; `BradleyTerryExplorer.result` has Python's.

Chapter: preferences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import traitlets

from ...mathematics import bradley_terry
from ...mathematics.checks import win_counts
from .base import Demo, browser_code, clamp, styles

SCORE_RANGE = (-6.0, 6.0)  # of the sliders; gradient steps may leave it
RIDGE_RANGE = (0.0, 2.0)
MOST_ITEMS = 6  # more would not fit on a phone

#: Three comparisons a pair and a finite fit: the start of the demo.
START = {"labels": ["A", "B", "C"], "wins": [[0, 3, 4], [1, 0, 3], [1, 1, 0]]}


class BradleyTerryNumbers(NamedTuple):
    """What the explorer shows, computed by `rlhf_lib.mathematics.bradley_terry`.

    Attributes
    ----------
    probabilities : array of shape (N, N)
        P(row is preferred to column) by the present scores.
    surplus : array of shape (N,)
        Wins less expected wins: the gradient of the log-likelihood.
    loss : float
        Of the present scores, in nats per comparison, without the ridge; 0 if there are none.
    groups : list of lists of int
        See `bradley_terry.beaten_groups`. One group: there is a finite fit.
    fit : array of shape (N,) or None
        The fitted scores, with mean 0; None where they are not finite.
    fit_loss : float or None
        Of the fitted scores, as `loss`.
    """

    probabilities: np.ndarray
    surplus: np.ndarray
    loss: float
    groups: list[list[int]]
    fit: np.ndarray | None
    fit_loss: float | None


class BradleyTerryExplorer(Demo):
    """A slider for each item's score, a table to add comparisons in, and the fit beside it.

    Parameters
    ----------
    wins : array of shape (N, N), optional
        `wins[i][j]` counts how often i was preferred to j; whole numbers. Three items if left out.
    labels : list of N strings, optional
    scores : array of shape (N,), optional
        Where the sliders start; zeros if left out.
    ridge : float
        Strength of the prior that holds the fit back; kept within 0 and 2.
    presets : dict of str to array of shape (N, N), optional
        Tables that a button each puts in place.

    Raises
    ------
    ValueError
        If wins is no table of counts of 2 to 6 items, or lengths differ.

    Chapter
    -------
    preferences

    Examples
    --------
    >>> BradleyTerryExplorer([[0, 3], [1, 0]])
    BradleyTerryExplorer(2 items, 4 comparisons, loss 0.693, fit 0.562)
    """

    _esm = browser_code("bradley_terry", "bradley_terry_explorer")
    _css = styles("bradley_terry_explorer")

    labels = traitlets.List(traitlets.Unicode()).tag(sync=True)
    wins = traitlets.List(traitlets.List(traitlets.Int())).tag(sync=True)
    scores = traitlets.List(traitlets.Float()).tag(sync=True)
    ridge = traitlets.Float(0.0).tag(sync=True)
    presets = traitlets.List().tag(sync=True)  # [name, wins] each, in the order of the buttons

    def __init__(
        self,
        wins=None,
        labels: Sequence[str] | None = None,
        *,
        scores=None,
        ridge: float = 0.0,
        presets: dict | None = None,
    ) -> None:
        if wins is None:
            wins, labels = START["wins"], START["labels"] if labels is None else labels
        wins = np.asarray(wins)
        count = len(wins)
        labels = [chr(65 + i) for i in range(count)] if labels is None else list(labels)
        super().__init__(
            labels=[str(label) for label in labels],
            wins=wins.tolist(),
            scores=[0.0] * count if scores is None else [float(s) for s in scores],
            ridge=float(ridge),
            presets=[[name, np.asarray(table).tolist()] for name, table in (presets or {}).items()],
        )
        for name, values in (("labels", self.labels), ("scores", self.scores), *self.presets):
            if len(values) != count:
                raise ValueError(f"{name} has {len(values)} entries; expected {count}, as wins has")

    @traitlets.validate("wins")
    def _check_wins(self, proposal) -> list[list[int]]:
        table = win_counts(proposal["value"])
        if len(table) > MOST_ITEMS:
            raise ValueError(f"wins has {len(table)} items; expected 2 to {MOST_ITEMS}")
        return table.astype(int).tolist()

    @traitlets.validate("scores")
    def _check_scores(self, proposal) -> list[float]:
        if not all(map(math.isfinite, proposal["value"])):
            raise ValueError(f"scores is {proposal['value']}; expected finite numbers")
        return proposal["value"]

    @traitlets.validate("ridge")
    def _check_ridge(self, proposal) -> float:
        return clamp("ridge", proposal["value"], RIDGE_RANGE)

    @property
    def result(self) -> BradleyTerryNumbers:
        """The numbers on display, computed by the library from the present state."""
        wins, scores = np.array(self.wins, dtype=float), np.array(self.scores)
        total, groups = wins.sum(), bradley_terry.beaten_groups(self.wins)
        finite = self.ridge > 0 or len(groups) == 1
        fit = bradley_terry.fit_scores(wins, self.ridge) if finite else None
        return BradleyTerryNumbers(
            probabilities=bradley_terry.win_probabilities(scores),
            surplus=bradley_terry.surplus(scores, wins),
            loss=bradley_terry.loss(scores, wins) / max(1.0, total),
            groups=groups,
            fit=fit,
            fit_loss=None if fit is None else bradley_terry.loss(fit, wins) / max(1.0, total),
        )

    def summary(self) -> str:
        """The state in a few words."""
        numbers = self.result
        fit = "none" if numbers.fit is None else f"{numbers.fit_loss:.3f}"
        return (
            f"{len(self.labels)} items, {sum(map(sum, self.wins))} comparisons, "
            f"loss {numbers.loss:.3f}, fit {fit}"
        )
