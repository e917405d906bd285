"""PPO on letters in the reader's browser, against the book's reward model or the reader's taste.

β is turned by hand while it goes on. The reader may compare replies, in this figure or in the
chapter on preferences; then a reward model is fitted to those comparisons, and the policy is
trained against it. The comparisons stay in the browser. The browser side is letters_training.js,
after page_training.js.

Chapter: ppo-live.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import traitlets

from ...worlds import letters
from .. import engine
from .base import styles
from .page_training import PageTraining, one_of, page_code, to_compare

REWARDS = ("annotators", "yours")
MODELS = {"policy": "letters-sft", "reward": "letters-reward"}
BATCH = {  # the settings of ppo.js that stay; those of the chapter, in batches half as large
    "batchSize": 32,
    "miniBatchSize": 16,
    "maxNewTokens": letters.MAX_NEW_TOKENS,
}


class LettersTraining(PageTraining):
    """Train the letters policy by PPO, where this figure is shown.

    Parameters
    ----------
    prompts : sequence of str
        Held-out prompts whose replies are shown on the way.
    recorded : sequence of dict
        Runs to show where nothing can be trained; see `as_run`.
    pairs : sequence of dict
        With `prompt`, `first` and `second`: replies that the reader may compare.
    beta : float
        Price of a nat at first, 0 or more.
    reward : {"annotators", "yours"}
        The reward model of the book, or one that is fitted to the reader's comparisons.
    seed : int
        Of the prompts, the samples and the order of the updates.
    total, every : int
        Steps of a run, and from one measurement on held-out prompts to the next.

    Raises
    ------
    ValueError
        If a setting is none of those, a prompt is none of this world, or a pair cannot be compared.

    Chapter
    -------
    ppo-live

    Examples
    --------
    >>> LettersTraining(["write to ben. ask for a refund: the lamp, friday. reply:"], beta=0.05)
    LettersTraining(PPO on letters, 32 completions a step, beta 0.05, reward: annotators)
    """

    _esm = page_code(
        "training_view", "page_training", "price", "comparing", "taste", "letters_training"
    )
    _css = styles("training_view", "annotator")

    beta = traitlets.Float(0.1).tag(sync=True)
    reward = traitlets.Unicode("annotators").tag(sync=True)
    pairs = traitlets.List(traitlets.List(traitlets.Unicode())).tag(sync=True)
    lists = traitlets.Dict().tag(sync=True)  # of words, as letters.js takes them

    def __init__(
        self,
        prompts: Sequence[str],
        recorded: Sequence[dict] = (),
        pairs: Sequence[dict] = (),
        *,
        beta: float = 0.1,
        reward: str = "annotators",
        seed: int = 0,
        total: int = 45,
        every: int = 5,
    ) -> None:
        for prompt in prompts:
            letters.parse(prompt)
        run = dict(beta=beta, reward=reward, seed=seed, total=total, every=every)
        super().__init__(
            prompts,
            recorded,
            MODELS,
            batch=BATCH,
            pairs=to_compare(pairs),
            lists=engine.letters_lists(),
            **run,
        )

    @traitlets.validate("beta")
    def _check_beta(self, proposal) -> float:
        beta = proposal["value"]
        if not 0 <= beta < math.inf:
            raise ValueError(f"beta is {beta}; expected 0 or more")
        return beta

    @traitlets.validate("reward")
    def _check_reward(self, proposal) -> str:
        return one_of("reward", proposal["value"], REWARDS)

    @property
    def result(self) -> dict[str, float]:
        """The settings of the run, as ppo.js takes them; its numbers are the browser's."""
        return {**self.batch, "beta": self.beta}

    def summary(self) -> str:
        """The state in a few words."""
        return (
            f"PPO on letters, {self.batch['batchSize']} completions a step, beta {self.beta:g}, "
            f"reward: {self.reward}"
        )
