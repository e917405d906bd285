"""A prompt of the reader's own, answered in the page by the models of the letters world.

The base model, the SFT model and the aligned one write where the figure is shown; each is fetched
when it is first asked to. Beside each reply stand its gold utility, if the prompt is a request of
this world, and log π − log π_SFT; below, their mean over 64 replies, which estimates the KL. The
browser side is prompt_lab.js, after in_page.js.

Chapters: alignment-problem, kl-tilt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import traitlets

from ...worlds import letters
from .. import engine
from .base import styles
from .page_training import InPage, one_of, page_code

MODELS = {"sft": "letters-sft", "base": "letters-base", "aligned": "letters-aligned"}


class PromptLab(InPage):
    """Write with the models of the letters world.

    Parameters
    ----------
    prompt : str
        Where the reader begins: a request of this world.
    recorded : mapping of str to sequence of str
        Some replies to it by "base", "sft" and "aligned", to show until the reader asks, and where
        no model can run.
    shown : {"base", "sft", "aligned"}
        Who writes at first.

    Raises
    ------
    ValueError
        If there are no recorded replies of a model, or it is none of those.

    Chapter
    -------
    alignment-problem, kl-tilt

    Examples
    --------
    >>> asked = "write to ben. ask for a refund: the lamp, friday. reply:"
    >>> PromptLab(asked, {name: ["hello ben"] for name in ("base", "sft", "aligned")})
    PromptLab(by sft, to 'write to ben. ask for a refund: the lamp, friday. reply:')
    """

    _esm = page_code("prompt_lab")
    _css = styles("training_view", "prompt_lab")

    prompt = traitlets.Unicode().tag(sync=True)
    asked = traitlets.Unicode().tag(sync=True)  # the prompt of the recorded replies
    shown = traitlets.Unicode().tag(sync=True)
    recorded = traitlets.Dict().tag(sync=True)
    lists = traitlets.Dict().tag(sync=True)  # of words, as letters.js takes them

    def __init__(
        self, prompt: str, recorded: Mapping[str, Sequence[str]], shown: str = "sft"
    ) -> None:
        if missing := [name for name in MODELS if not recorded.get(name)]:
            raise ValueError(f"recorded has no replies of {', '.join(missing)}; expected some")
        written = {
            name: [{"text": text, "gold": letters.utility(prompt, text)} for text in recorded[name]]
            for name in MODELS
        }
        state = dict(prompt=prompt, asked=prompt, shown=shown, recorded=written)
        super().__init__(MODELS, lists=engine.letters_lists(), **state)

    @traitlets.validate("shown")
    def _check_shown(self, proposal) -> str:
        return one_of("shown", proposal["value"], ("base", "sft", "aligned"))

    @property
    def result(self) -> dict[str, list[dict]]:
        """The recorded replies with their gold utility; what the page writes is the browser's."""
        return self.recorded

    def summary(self) -> str:
        """The state in a few words."""
        return f"by {self.shown}, to {self.prompt!r}"
