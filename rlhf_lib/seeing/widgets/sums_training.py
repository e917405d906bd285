"""GRPO on sums in the reader's browser: no kernel, no network, the book's own model.

The browser side is sums_training.js, after page_training.js.

Chapter: rlvr.
"""

from __future__ import annotations

from collections.abc import Sequence

import traitlets

from ...worlds import sums
from .page_training import PageTraining, one_of, page_code

RATES = (1e-4, 3e-4, 1e-3)  # learning rates to choose from
GROUPS = (2, 4, 8, 16)  # G, samples of each sum
MODELS = {"policy": "sums-base"}
BATCH = {  # the settings of grpo.js that stay; those of the chapter, in smaller batches
    "batchSize": 64,
    "miniBatchSize": 64,
    "numIterations": 1,
    "maxNewTokens": sums.MAX_NEW_TOKENS,
    "missingEosPenalty": 0.0,
    "beta": 0.0,
    "aggregateOver": "tokens",
}


class SumsTraining(PageTraining):
    """Train the sums model by GRPO, where this figure is shown.

    Parameters
    ----------
    prompts : sequence of str
        Held-out sums whose completions are shown on the way.
    recorded : sequence of dict
        Runs to show where nothing can be trained; see `as_run`.
    rate : float
        Learning rate, one of `RATES`.
    samples : int
        G, one of `GROUPS`.
    seed : int
        Of the sums, the samples and the order of the updates.
    total, every : int
        Steps of a run, and from one measurement on held-out sums to the next.
    compact : bool
        Nothing to set: one button.

    Raises
    ------
    ValueError
        If a setting is none of those, or a prompt is no sum of this world.

    Chapter
    -------
    rlvr

    Examples
    --------
    >>> SumsTraining(["12+34="])
    SumsTraining(GRPO on sums, 64 completions a step, 8 of each sum, rate 0.0003)
    """

    _esm = page_code("training_view", "page_training", "sums_training")

    rate = traitlets.Float(3e-4).tag(sync=True)
    samples = traitlets.Int(8).tag(sync=True)
    compact = traitlets.Bool(False).tag(sync=True)

    def __init__(
        self,
        prompts: Sequence[str],
        recorded: Sequence[dict] = (),
        *,
        rate: float = 3e-4,
        samples: int = 8,
        seed: int = 0,
        total: int = 60,
        every: int = 5,
        compact: bool = False,
    ) -> None:
        for prompt in prompts:
            sums.parse(prompt)
        run = dict(rate=rate, samples=samples, seed=seed, total=total, every=every, compact=compact)
        super().__init__(prompts, recorded, MODELS, batch=BATCH, **run)

    @traitlets.validate("rate")
    def _check_rate(self, proposal) -> float:
        return one_of("rate", proposal["value"], RATES)

    @traitlets.validate("samples")
    def _check_samples(self, proposal) -> int:
        return one_of("samples", proposal["value"], GROUPS)

    @property
    def result(self) -> dict[str, float]:
        """The settings of the run, as grpo.js takes them; its numbers are the browser's."""
        return {**self.batch, "learningRate": self.rate, "numGenerations": self.samples}

    def summary(self) -> str:
        """The state in a few words."""
        return (
            f"GRPO on sums, {self.batch['batchSize']} completions a step, {self.samples} of each "
            f"sum, rate {self.rate:g}"
        )
