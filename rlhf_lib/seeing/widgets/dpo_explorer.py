"""The DPO explorer: one pair's loss over the log-ratios of both completions, and where it pulls.

The browser side is dpo_explorer.js, after bradley_terry.js. Both sides compute the same numbers;
`DPOExplorer.result` has Python's, by `dpo_loss`, `ipo_loss` and `kto_loss` of
`rlhf_lib.mathematics.losses` and autograd.

Chapter: dpo.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import traitlets

from .base import Demo, browser_code, clamp, styles

RANGES = {"chosen_log_ratio": (-8.0, 8.0), "rejected_log_ratio": (-8.0, 8.0), "beta": (0.01, 1.0)}
LOSSES = ("dpo", "ipo", "kto")  # as `DPOConfig.loss_type` calls them


class DPONumbers(NamedTuple):
    """What the DPO explorer shows of one pair.

    Attributes
    ----------
    chosen_reward, rejected_reward : float
        Implicit rewards β ℓ_c and β ℓ_r.
    margin : float
        The first less the second.
    probability : float
        σ(margin): what the implicit rewards give to the label.
    loss : float
        Of whole completions. KTO: the mean over the two, with weights 1 and the reference point 0.
    gradient : tuple of two floats
        Of the loss with respect to ℓ_c and ℓ_r. Descent goes the other way.
    pull : tuple of two floats
        The sizes of the two: the factors before the gradients of log π of the completions.
    """

    chosen_reward: float
    rejected_reward: float
    margin: float
    probability: float
    loss: float
    gradient: tuple[float, float]
    pull: tuple[float, float]


class DPOExplorer(Demo):
    """The plane of both log-ratios with lines of equal loss, the loss as a curve, its numbers.

    Parameters
    ----------
    chosen_log_ratio : float
        ℓ_c = log π/π_ref of the chosen completion, in nats; kept within −8 and 8.
    rejected_log_ratio : float
        ℓ_r, the same of the rejected one; kept within −8 and 8.
    beta : float
        Reward per nat; kept within 0.01 and 1.
    loss : str
        "dpo", "ipo" or "kto".

    Raises
    ------
    ValueError
        If a number is not finite, or the loss is unknown.

    Chapter
    -------
    dpo

    Examples
    --------
    Both completions have lost probability, and DPO's loss is what it is where neither has:

    >>> DPOExplorer(chosen_log_ratio=-4.0, rejected_log_ratio=-8.0)
    DPOExplorer(dpo, chosen=-4, rejected=-8, beta=0.1: loss 0.513, gradient -0.040, 0.040)
    >>> DPOExplorer(chosen_log_ratio=2.0, rejected_log_ratio=-2.0)
    DPOExplorer(dpo, chosen=2, rejected=-2, beta=0.1: loss 0.513, gradient -0.040, 0.040)
    """

    _esm = browser_code("bradley_terry", "dpo_explorer")
    _css = styles("dpo_explorer")

    chosen_log_ratio = traitlets.Float(-2.0).tag(sync=True)
    rejected_log_ratio = traitlets.Float(-4.0).tag(sync=True)
    beta = traitlets.Float(0.1).tag(sync=True)
    loss = traitlets.Unicode("dpo").tag(sync=True)

    def __init__(
        self,
        chosen_log_ratio: float = -2.0,
        rejected_log_ratio: float = -4.0,
        beta: float = 0.1,
        loss: str = "dpo",
    ) -> None:
        super().__init__(
            chosen_log_ratio=float(chosen_log_ratio),
            rejected_log_ratio=float(rejected_log_ratio),
            beta=float(beta),
            loss=loss,
        )

    @traitlets.validate(*RANGES)
    def _check_setting(self, proposal) -> float:
        name, value = proposal["trait"].name, proposal["value"]
        return clamp(name, value, RANGES[name])

    @traitlets.validate("loss")
    def _check_loss(self, proposal) -> str:
        if proposal["value"] not in LOSSES:
            raise ValueError(f"loss is {proposal['value']}; expected one of {', '.join(LOSSES)}")
        return proposal["value"]

    @property
    def result(self) -> DPONumbers:
        """The numbers on display, computed by the library from the present state."""
        import torch

        from ...mathematics.losses import dpo_loss, ipo_loss, kto_loss

        pair = [self.chosen_log_ratio, self.rejected_log_ratio]
        log_ratios = torch.tensor(pair, dtype=torch.float64, requires_grad=True)
        if self.loss == "kto":
            loss = kto_loss(log_ratios, torch.tensor([True, False]), kl=0.0, beta=self.beta)
        else:
            chosen, rejected = log_ratios[:1], log_ratios[1:]
            reference = torch.zeros_like(chosen)  # so that log-probabilities are log-ratios
            of_pairs = {"dpo": dpo_loss, "ipo": ipo_loss}[self.loss]
            loss = of_pairs(chosen, rejected, reference, reference, self.beta)
        chosen_slope, rejected_slope = torch.autograd.grad(loss, log_ratios)[0].tolist()
        chosen_reward, rejected_reward = (self.beta * ratio for ratio in pair)
        margin = chosen_reward - rejected_reward
        return DPONumbers(
            chosen_reward=chosen_reward,
            rejected_reward=rejected_reward,
            margin=margin,
            probability=1 / (1 + math.exp(-margin)),
            loss=loss.item(),
            gradient=(chosen_slope, rejected_slope),
            pull=(abs(chosen_slope), abs(rejected_slope)),
        )

    def summary(self) -> str:
        """The state in a few words."""
        numbers = self.result
        slopes = ", ".join(f"{round(slope, 3) + 0.0:.3f}" for slope in numbers.gradient)
        return (
            f"{self.loss}, chosen={self.chosen_log_ratio:g}, rejected={self.rejected_log_ratio:g}, "
            f"beta={self.beta:g}: loss {numbers.loss:.3f}, gradient {slopes}"
        )
