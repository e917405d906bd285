"""A reward model fitted to the reader's own comparisons, in the page.

It starts from the SFT model with a new head and learns by the Bradley–Terry loss, as
`RewardTraining` does. What it has learnt to like is read from letters that are changed in one way
each. The comparisons stay in the browser, and are those of the chapters on preferences and PPO too.
The browser side is reward_fit.js, after in_page.js, comparing.js and taste.js.

Chapter: reward-model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import traitlets

from .. import engine
from .base import styles
from .page_training import InPage, page_code, to_compare

MODELS = {"policy": "letters-sft"}


class RewardFit(InPage):
    """Compare letters, and see what a reward model learns from that.

    Parameters
    ----------
    pairs : sequence of dict
        With `prompt`, `first` and `second`: replies to compare.
    asked : sequence of str
    edits : mapping of str to sequence of str
        Prompts, and letters changed in one way each, by the names of the changes; those under
        "clean" are unchanged. `letters.controlled_edits` gives both.
    seed : int
        Of the head, and of the order of the comparisons.

    Raises
    ------
    ValueError
        If a pair cannot be compared, or the edits do not fit their prompts.

    Chapter
    -------
    reward-model

    Examples
    --------
    >>> asked = "write to ben. ask for a refund: the lamp, friday. reply:"
    >>> RewardFit([dict(prompt=asked, first="hello ben", second="no.")], [asked],
    ...           {"clean": ["hi ben, thanks"], "no closing": ["hi ben"]})
    RewardFit(1 pairs to compare, 1 changes of 1 letters)
    """

    _esm = page_code("comparing", "taste", "reward_fit")
    _css = styles("annotator")

    pairs = traitlets.List(traitlets.List(traitlets.Unicode())).tag(sync=True)
    asked = traitlets.List(traitlets.Unicode()).tag(sync=True)
    edits = traitlets.Dict().tag(sync=True)
    seed = traitlets.Int(0).tag(sync=True)
    lists = traitlets.Dict().tag(sync=True)  # of words, as letters.js takes them

    def __init__(
        self,
        pairs: Sequence[dict],
        asked: Sequence[str],
        edits: Mapping[str, Sequence[str]],
        seed: int = 0,
    ) -> None:
        if "clean" not in edits:
            raise ValueError(f"edits has {', '.join(edits) or 'nothing'}; expected 'clean' too")
        for name, texts in edits.items():
            if len(texts) != len(asked):
                raise ValueError(
                    f"edits[{name!r}] has {len(texts)} letters; expected {len(asked)}, one for "
                    "each prompt"
                )
        state = dict(asked=list(asked), edits={name: list(texts) for name, texts in edits.items()})
        state |= dict(pairs=to_compare(pairs), seed=seed, lists=engine.letters_lists())
        super().__init__(MODELS, **state)

    @property
    def result(self) -> list[list[str]]:
        """The pairs; what is learnt from them is the browser's."""
        return self.pairs

    def summary(self) -> str:
        """The state in a few words."""
        return (
            f"{len(self.pairs)} pairs to compare, {len(self.edits) - 1} changes of "
            f"{len(self.asked)} letters"
        )
