"""The clip explorer: PPO's clipped objective of one token, and where its gradient goes.

The browser side is clip_explorer.js. Both sides compute the same numbers; `ClipExplorer.result` has
Python's, by `rlhf_lib.mathematics.losses.clipped_policy_loss` and autograd.

Chapter: ratio-and-clip.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import traitlets

from .base import Demo, browser_code, clamp, styles

RANGES = {
    "ratio": (0.05, 4.0),
    "epsilon": (0.01, 0.5),
    "advantage": (-3.0, 3.0),
    "dual_clip": (1.6, 4.0),
}  # a dual clip lies above every 1 + epsilon
EDGE = 1e-9  # a ratio this close to an edge of the clip counts as inside


class ClipNumbers(NamedTuple):
    """What the clip explorer shows of one token.

    Attributes
    ----------
    plain : float
        ρA, in units of reward.
    clipped : float
        clip(ρ, 1 − ε, 1 + ε) A.
    objective : float
        The smaller of the two; with the dual clip and A < 0, at least cA.
    gradient : float
        Of the objective with respect to log π: what ascent adds to the token's log-probability.
    zone : str
        Where the ratio is: "below", "inside" or "above" the clip, or "beyond" an acting dual clip.
    active : bool
        Whether the gradient passes.
    """

    plain: float
    clipped: float
    objective: float
    gradient: float
    zone: str
    active: bool


class ClipExplorer(Demo):
    """The clipped objective and its gradient against the ratio, for both signs of the advantage.

    Parameters
    ----------
    ratio : float
        ρ = π/π_old of the token; kept within 0.05 and 4.
    epsilon : float
        Half-width of the clip; kept within 0.01 and 0.5.
    advantage : float
        A, in units of reward; kept within −3 and 3.
    dual_clip : float, optional
        The bound c on the ratio where A < 0; kept within 1.6 and 4. None: off at first.

    Raises
    ------
    ValueError
        If a setting is not finite.

    Chapter
    -------
    ratio-and-clip

    Examples
    --------
    A bad token that has become likelier is still pushed down, at full strength:

    >>> ClipExplorer(ratio=1.3, advantage=-3.0)
    ClipExplorer(ratio=1.3, epsilon=0.2, A=-3: objective -3.900, gradient -3.900)
    """

    _esm = browser_code("clip_explorer")
    _css = styles("clip_explorer")

    ratio = traitlets.Float(1.3).tag(sync=True)
    epsilon = traitlets.Float(0.2).tag(sync=True)
    advantage = traitlets.Float(2.0).tag(sync=True)
    dual_clip = traitlets.Float(3.0).tag(sync=True)
    dual = traitlets.Bool(False).tag(sync=True)  # whether the dual clip acts

    def __init__(
        self,
        ratio: float = 1.3,
        epsilon: float = 0.2,
        advantage: float = 2.0,
        dual_clip: float | None = None,
    ) -> None:
        super().__init__(
            ratio=float(ratio),
            epsilon=float(epsilon),
            advantage=float(advantage),
            dual_clip=3.0 if dual_clip is None else float(dual_clip),
            dual=dual_clip is not None,
        )

    @traitlets.validate(*RANGES)
    def _check_setting(self, proposal) -> float:
        name, value = proposal["trait"].name, proposal["value"]
        return clamp(name, value, RANGES[name])

    @property
    def result(self) -> ClipNumbers:
        """The numbers on display, computed by the library from the present state."""
        import torch

        from ...mathematics.losses import clipped_policy_loss

        low, high = 1 - self.epsilon, 1 + self.epsilon
        bound = self.dual_clip if self.dual else None
        acts = bound is not None and self.advantage < 0
        ratio = self.ratio
        for edge in (low, high, self.dual_clip):
            if abs(ratio - edge) < EDGE:  # an edge belongs to the inside; exp(log ρ) may miss it
                ratio = edge + math.copysign(EDGE / 2, 1 - edge)
        logprobs = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
        advantages = torch.tensor([[self.advantage]], dtype=torch.float64)
        loss = clipped_policy_loss(
            logprobs, torch.zeros_like(logprobs), advantages, self.epsilon, dual_clip=bound
        )
        loss.sum().backward()
        zone = (
            "below"
            if ratio < low
            else "inside"
            if ratio <= high
            else "beyond"
            if acts and ratio > bound
            else "above"
        )
        gradient = -logprobs.grad.item() + 0.0
        return ClipNumbers(
            plain=self.ratio * self.advantage,
            clipped=min(max(self.ratio, low), high) * self.advantage,
            objective=-loss.item() + 0.0,
            gradient=gradient,
            zone=zone,
            active=gradient != 0,
        )

    def summary(self) -> str:
        """The state in a few words."""
        numbers = self.result
        dual = f", dual clip {self.dual_clip:g}" if self.dual else ""
        return (
            f"ratio={self.ratio:g}, epsilon={self.epsilon:g}, A={self.advantage:g}{dual}: "
            f"objective {numbers.objective:.3f}, gradient {numbers.gradient:.3f}"
        )
