"""Be the annotator: compare two completions by keyboard, and see what the labels teach a fit.

With a kernel each choice is appended to a file (`rlhf_lib.worlds.labels`) before it counts.
Without one the demo replays a recorded session; the reader may label there too, and nothing is
saved. The browser side is annotator.js, after bradley_terry.js. Both sides fit the same linear
model.

Chapter: preferences.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import traitlets

from ...mathematics import bradley_terry
from ...worlds import letters
from ...worlds.labels import append_label, check_pairs, load_pairs, pair_key, read_labels, retract
from .base import Demo, browser_code, styles

LETTERS_FEATURES = (
    "greets",
    "courtesy",
    "item",
    "day",
    "act",
    "wrong_slot",
    "rude",
    "off_topic",
    "evasive",
    "short",
    "gush",
    "ten_words",
)


def letters_features(prompt: str, completion: str) -> dict[str, float]:
    """Twelve features of a letter; `ten_words` is its length over 10."""
    counted = letters.features(prompt, completion)
    counted["ten_words"] = counted["words"] / 10
    return {name: counted[name] for name in LETTERS_FEATURES}


def plain_features(prompt: str, completion: str) -> dict[str, float]:
    """Features of any text, for pairs that are not of the letters world.

    Examples
    --------
    >>> plain_features("why?", "Because it is. Really!")["sentences"]
    2.0
    """
    words = completion.split()
    asked = {word.lower().strip(".,!?") for word in prompt.split()}
    return {
        "ten_words": len(words) / 10,
        "sentences": float(sum(word[-1] in ".!?" for word in words)),
        "exclamations": float(completion.count("!")),
        "questions": float(completion.count("?")),
        "digits": float(any(c.isdigit() for c in completion)),
        "lines": float(completion.strip().count("\n")),
        "echo": float(np.mean([w.lower().strip(".,!?") in asked for w in words] or [0.0])),
    }


class AnnotatorNumbers(NamedTuple):
    """What the demo shows, computed by `rlhf_lib.mathematics.bradley_terry`.

    Attributes
    ----------
    weights : dict of str to float
        The fitted weight of each feature, in log-odds.
    labelled : int
        Labels that the fit has seen.
    foreseen, judged : int
        Of `judged` choices, so many were the likelier ones by the fit to the choices before. A
        choice at even odds is not judged.
    """

    weights: dict[str, float]
    labelled: int
    foreseen: int
    judged: int


class Annotator(Demo):
    """Two completions side by side, ← or → for the better one, and the fit after every choice.

    Parameters
    ----------
    pairs : sequence of dict, or path
        With `prompt`, and `first` and `second` (or `chosen` and `rejected`): the letters pairs of
        the chapter, or your own, also as a file of JSON lines. Pairs that cannot be labelled are
        dropped, and the demo says so.
    path : path, optional
        The file that labels are appended to. It is never overwritten; what it already holds is
        resumed. None keeps labels in memory alone.
    recorded : sequence of (pair index, "first" or "second")
        A session to replay where there is no kernel.
    recorded_by : str
        Who labelled it. Say so if it was a program.
    reference : dict of str to float, optional
        Weights to show beside the fitted ones.
    reference_name : str
    features : callable, optional
        Of a prompt and a completion, returns a dict of numbers. By default `letters_features` if
        every prompt is one of the letters world, else `plain_features`.
    ridge : float
        Strength of the prior on the weights; positive, so that one label already has a fit.
    max_words : int, optional
        Pairs with a longer completion are dropped.
    annotator : str
        Name in the file.

    Raises
    ------
    ValueError
        If no pair is left, a pair or a recorded choice is not of the form above, or ridge is not
        positive.

    Chapter
    -------
    preferences

    Examples
    --------
    >>> Annotator([dict(prompt="say hello", first="hello!", second="no")])
    Annotator(1 pairs, 0 labelled, recorded session of 0)
    """

    _esm = browser_code("bradley_terry", "comparing", "annotator")
    _css = styles("annotator")

    pairs = traitlets.List(traitlets.List(traitlets.Unicode())).tag(sync=True)
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)  # of the features
    differences = traitlets.List().tag(sync=True)  # first less second, one row a pair
    labels = traitlets.List().tag(sync=True)  # [pair, "first" or "second"], in order
    recorded = traitlets.List().tag(sync=True)
    recorded_by = traitlets.Unicode().tag(sync=True)
    reference = traitlets.List(traitlets.Float()).tag(sync=True)
    reference_name = traitlets.Unicode().tag(sync=True)
    ridge = traitlets.Float(0.5).tag(sync=True)
    dropped = traitlets.Unicode().tag(sync=True)
    file_name = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        pairs,
        path: str | os.PathLike | None = None,
        *,
        recorded: Sequence = (),
        recorded_by: str = "",
        reference: dict | None = None,
        reference_name: str = "",
        features: Callable | None = None,
        ridge: float = 0.5,
        max_words: int | None = None,
        annotator: str = "me",
    ) -> None:
        rows = load_pairs(pairs) if isinstance(pairs, (str, os.PathLike)) else list(pairs)
        kept, flaws = check_pairs(rows, max_words)
        if not kept:
            raise ValueError(
                f"pairs has none that can be labelled, of {len(rows)}"
                f"{_told(flaws)}; expected at least 1"
            )
        if not (ridge > 0 and math.isfinite(ridge)):
            raise ValueError(f"ridge is {ridge}; expected a positive number")
        if features is None:
            features = letters_features if all(map(_is_letter, kept)) else plain_features
        counted = [
            [features(pair["prompt"], pair[side]) for side in ("first", "second")] for pair in kept
        ]
        names = list(counted[0][0])
        differences = [[round(float(a[name] - b[name]), 6) for name in names] for a, b in counted]
        self.path = None if path is None else Path(path)
        self.annotator = annotator
        self._place = {pair_key(*pair.values()): i for i, pair in enumerate(kept)}
        super().__init__(
            pairs=[list(pair.values()) for pair in kept],
            names=names,
            differences=differences,
            recorded=[list(choice) for choice in recorded],
            recorded_by=recorded_by,
            reference=[] if reference is None else [float(reference[n]) for n in names],
            reference_name=reference_name,
            ridge=float(ridge),
            dropped=_told(flaws).strip(": "),
            file_name="" if path is None else self.path.name,
        )
        self._identities: list[str] = []  # of the labels in the file, in the order of `labels`
        self.reload()
        self.on_msg(self._heard)

    @traitlets.validate("labels", "recorded")
    def _check_choices(self, proposal) -> list:
        for i, choice in enumerate(proposal["value"]):
            if not (
                len(choice) == 2
                and choice[0] in range(len(self.pairs))
                and choice[1] in ("first", "second")
            ):
                raise ValueError(
                    f"{proposal['trait'].name}[{i}] is {choice}; expected a pair from "
                    f"0 to {len(self.pairs) - 1}, and 'first' or 'second'"
                )
        return proposal["value"]

    def reload(self) -> None:
        """Read the file again: what another tab or program appended counts from now on."""
        if self.path is None:
            return
        labels, identities = [], []
        for row in read_labels(self.path).rows:
            place = self._place.get(pair_key(row["prompt"], row["chosen"], row["rejected"]))
            if place is not None and row["annotator"] == self.annotator:
                side = "first" if row["chosen"] == self.pairs[place][1] else "second"
                labels.append([place, side])
                identities.append(row["id"])
        self.labels, self._identities = labels, identities

    def choose(self, pair: int, side: str) -> None:
        """Label a pair: append it to the file, then count it.

        Raises
        ------
        ValueError
            If there is no such pair or side.
        OSError
            If the file cannot be written; the label does not count then.
        """
        self._check_choices({"value": [[pair, side]], "trait": type(self).labels})
        prompt, first, second = self.pairs[pair]
        if self.path is None:
            self.labels = [c for c in self.labels if c[0] != pair] + [[pair, side]]
            return
        chosen, rejected = (first, second) if side == "first" else (second, first)
        append_label(self.path, prompt, chosen, rejected, self.annotator)
        self.reload()

    def undo(self) -> None:
        """Take the last label back, by a retraction in the file."""
        if self.path is None:
            self.labels = self.labels[:-1]
        elif self._identities:
            retract(self.path, self._identities[-1])
            self.reload()

    def _heard(self, _, message: dict, buffers) -> None:
        """Answer the browser: `hello`, `label` or `undo`."""
        try:
            kind = message.get("kind")
            if kind == "hello":
                self.reload()
            elif kind == "label":
                self.choose(message["pair"], message["side"])
            elif kind == "undo":
                self.undo()
            self.send({"kind": "done", "saves": self.path is not None})
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.send({"kind": "failed", "text": f"{type(error).__name__}: {error}"})

    def fit(self, choices) -> np.ndarray:
        """The weights that the given choices teach, shape (D,)."""
        signs = np.array([1.0 if side == "first" else -1.0 for _, side in choices])
        rows = np.array([self.differences[pair] for pair, _ in choices]).reshape(
            len(choices), len(self.names)
        )
        return bradley_terry.fit_weights(signs[:, None] * rows, self.ridge)

    def numbers(self, choices) -> AnnotatorNumbers:
        """What is on display after the given choices."""
        foreseen = judged = 0
        for i, (pair, side) in enumerate(choices):
            log_odds = float(self.fit(choices[:i]) @ self.differences[pair])
            if abs(log_odds) > 1e-9:
                judged += 1
                foreseen += (log_odds > 0) == (side == "first")
        return AnnotatorNumbers(
            dict(zip(self.names, self.fit(choices).tolist())), len(choices), foreseen, judged
        )

    @property
    def result(self) -> AnnotatorNumbers:
        """The numbers of the labels made so far."""
        return self.numbers(self.labels)

    def summary(self) -> str:
        """The state in a few words."""
        return (
            f"{len(self.pairs)} pairs, {len(self.labels)} labelled, "
            f"recorded session of {len(self.recorded)}"
        )


def _told(flaws: Counter) -> str:
    return ": " + ", ".join(f"{count} {flaw}" for flaw, count in flaws.items()) if flaws else ""


def _is_letter(pair: dict) -> bool:
    try:
        letters.parse(pair["prompt"])
    except ValueError:
        return False
    return True
