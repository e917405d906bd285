"""Training in the reader's browser: what the demos share that train a model in the page.

The page has the models' weights, and the engine of `seeing/engine` in a worker: it samples, scores
and learns there, and the curves and the replies to held-out prompts are drawn as it goes. The same
figure runs on the same engine in Jupyter, where Python hands over the weights. The browser side is
page_training.js, after training_view.js.

Chapters: rlvr, ppo-live.
"""

from __future__ import annotations

from collections.abc import Sequence

import traitlets

from ...worlds import letters
from ...worlds.labels import check_pairs
from .. import engine
from .base import Demo, browser_code, styles
from .training_replay import as_run


def page_code(*names: str) -> str:
    """The module of a demo that runs a model in the page: the engine, how it is run, its files."""
    return f"{engine.constants()}\n{browser_code('in_page', *names)}"


class InPage(Demo):
    """Base class of the demos that run a model in the page. A subclass names the models."""

    weights = traitlets.Dict().tag(sync=True)  # the models by their roles, of `engine.MODELS`
    shape = traitlets.Dict().tag(sync=True)

    def __init__(self, weights: dict[str, str], **state) -> None:
        shape = engine.shape(next(iter(weights.values())))
        super().__init__(weights=weights, shape=shape, **state)
        self.on_msg(self._heard)

    def _heard(self, _, content: dict, buffers: list) -> None:
        """Hand a model to a browser that asks for it; a page without Python has its own."""
        name = content.get("name")
        if content.get("kind") == "weights" and name in self.weights.values():
            self.send({"kind": "done", "of": name}, [engine.packed(name)])


class PageTraining(InPage):
    """Base class: the prompts, the recorded runs, and the settings of every such run."""

    _css = styles("training_view")

    prompts = traitlets.List(traitlets.Unicode()).tag(sync=True)
    recorded = traitlets.List(traitlets.Dict()).tag(sync=True)
    seed = traitlets.Int(0).tag(sync=True)
    total = traitlets.Int(60).tag(sync=True)
    every = traitlets.Int(5).tag(sync=True)
    batch = traitlets.Dict().tag(sync=True)  # the settings that stay, as the engine names them

    def __init__(
        self, prompts: Sequence[str], recorded: Sequence[dict], weights: dict[str, str], **state
    ) -> None:
        prompts = list(prompts)
        runs = [
            as_run(r["name"], r["records"], r["measured"], prompts, r.get("note", ""))
            for r in recorded
        ]
        super().__init__(weights, prompts=prompts, recorded=runs, **state)

    @traitlets.validate("total", "every")
    def _check_steps(self, proposal) -> int:
        if proposal["value"] < 1:
            raise ValueError(f"{proposal['trait'].name} is {proposal['value']}; expected 1 or more")
        return proposal["value"]


def one_of(name: str, value, choices: Sequence):
    """The value, if it is one of the choices."""
    if value not in choices:
        expected = ", ".join(x if isinstance(x, str) else f"{x:g}" for x in choices)
        raise ValueError(f"{name} is {value}; expected one of {expected}")
    return value


def to_compare(pairs: Sequence[dict]) -> list[list[str]]:
    """Pairs of letters with `prompt`, `first` and `second`, as a page has them.

    Raises
    ------
    ValueError
        If one cannot be compared, is too long for the model, or answers no request of that world.
    """
    kept, dropped = check_pairs(list(pairs), max_words=letters.MAX_NEW_TOKENS - 1)
    if dropped:
        raise ValueError(f"pairs has some that cannot be compared: {dict(dropped)}")
    for pair in kept:
        letters.parse(pair["prompt"])
    return [[pair["prompt"], pair["first"], pair["second"]] for pair in kept]
