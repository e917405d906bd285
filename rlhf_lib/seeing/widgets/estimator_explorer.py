"""The estimator explorer: draw samples from a policy, and see what k1, k2 and k3 make of them.

Two policies lie on one path, pi_s proportional to reference^(1 - s) policy^s: at distance s = 0 it
is the reference, at s = 1 the policy. A run draws `samples` times from pi_s and averages each
estimator; the histograms are of many runs. What the runs should show is known exactly, and stands
beside them.

The browser side is estimator_explorer.js. Both sides draw the same samples from the same seed and
compute the same numbers; `EstimatorExplorer.result` has Python's.

Chapter: kl-estimators.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import traitlets

from ...mathematics import tilt
from ...mathematics.checks import check_same_length, distribution
from .base import Demo, browser_code, clamp, styles

RUNS = 1_000  # means in each histogram
BINS = 40
SAMPLES = [2**i for i in range(9)]  # a run's sizes: 1 to 256
SEEDS = 2**31  # a seed is below this
K2_SHOWN = 0.98  # the axis covers this share of the runs of k2
HAIR = 1e-9  # averages this near to a limit count as on it, so that rounding decides nothing


def bell_curves(shift: float = 1.0, step: float = 0.1) -> tuple[list[float], list[float]]:
    """Two bell curves of width 1 on a grid, at 0 and at `shift`: (reference, policy).

    Between them lies, at distance s, the bell curve at s * shift. Its KL is (s * shift)^2 / 2.

    Examples
    --------
    >>> reference, policy = bell_curves()
    >>> round(tilt.kl_divergence(policy, reference), 9)
    0.5
    """
    x = np.arange(-8.0, 11.0 + step / 2, step)
    return tuple(tilt.softmax(-((x - centre) ** 2) / 2).tolist() for centre in (0.0, shift))


def uniforms(seed: int, count: int) -> np.ndarray:
    """Draws from [0, 1) that a browser repeats bit by bit: the generator mulberry32.

    Parameters
    ----------
    seed : int
    count : int

    Returns
    -------
    array of shape (count,), float64

    Examples
    --------
    >>> uniforms(0, 2)
    array([0.26642921, 0.00032975])
    """
    with np.errstate(over="ignore"):  # it wraps at 32 bits on purpose
        state = np.arange(1, count + 1, dtype=np.uint32) * np.uint32(0x6D2B79F5) + np.uint32(seed)
        t = (state ^ (state >> np.uint32(15))) * (state | np.uint32(1))
        t ^= t + (t ^ (t >> np.uint32(7))) * (t | np.uint32(61))
        return (t ^ (t >> np.uint32(14))) / 2**32


class Estimator(NamedTuple):
    """One estimator: what is exact about it, and what the runs gave.

    Attributes
    ----------
    expected : float
        Its mean under the policy, nats.
    std : float
        The standard deviation of a single draw, nats.
    mean, spread : float
        Mean and standard deviation of the runs' averages, nats.
    below_zero, below_kl : float
        Share of the runs whose average is negative, and below the exact KL.
    counts : array of shape (BINS,)
        The histogram of the runs' averages.
    beyond : int
        Runs to the right of the histogram.
    """

    expected: float
    std: float
    mean: float
    spread: float
    below_zero: float
    below_kl: float
    counts: np.ndarray
    beyond: int


class EstimatorNumbers(NamedTuple):
    """What the explorer shows.

    Attributes
    ----------
    kl : float
        KL(pi_s || reference), exact, nats.
    low, high : float
        Ends of the histograms.
    k1, k2, k3 : Estimator
    """

    kl: float
    low: float
    high: float
    k1: Estimator
    k2: Estimator
    k3: Estimator


def _positive(name: str, values) -> list[float]:
    array = distribution(name, values)
    if (array == 0).any():
        raise ValueError(
            f"{name}[{int((array == 0).argmax())}] is 0; expected positive probabilities"
        )
    return array.tolist()


class EstimatorExplorer(Demo):
    """Histograms of k1, k2 and k3 over many runs, beside the exact KL.

    Parameters
    ----------
    reference, policy : arrays of shape (V,), optional
        Two distributions over the same tokens, all positive. Two bell curves where left out.
    distance : float
        How far along the path from reference (0) to policy (1); kept within `distance_range`.
    samples : int
        Draws in a run: a power of two from 1 to 256.
    seed : int
        Seeds the draws, from 0.
    distance_range : pair of floats
        Ends of the slider.
    presets : list of floats
        Distances that have a button.

    Raises
    ------
    ValueError
        If one is no distribution or has a zero, lengths differ, or a setting is out of place.

    Chapter
    -------
    kl-estimators

    Examples
    --------
    >>> EstimatorExplorer(distance=1.0, samples=16)
    EstimatorExplorer(191 tokens, distance=1, 16 samples a run, KL=0.500)
    """

    _esm = browser_code("estimator_explorer")
    _css = styles() + Path(__file__).with_suffix(".css").read_text(encoding="utf-8")

    reference = traitlets.List(traitlets.Float()).tag(sync=True)
    policy = traitlets.List(traitlets.Float()).tag(sync=True)
    distance_range = traitlets.List(traitlets.Float(), default_value=[0.05, 3.0]).tag(sync=True)
    presets = traitlets.List(traitlets.Float()).tag(sync=True)
    distance = traitlets.Float(1.0).tag(sync=True)
    samples = traitlets.Int(16).tag(sync=True)
    seed = traitlets.Int(0).tag(sync=True)

    def __init__(
        self,
        reference=None,
        policy=None,
        *,
        distance: float = 1.0,
        samples: int = 16,
        seed: int = 0,
        distance_range: Sequence[float] = (0.05, 3.0),
        presets: Sequence[float] = (0.1, 1.0, 2.0),
    ) -> None:
        if (reference is None) != (policy is None):
            missing = "reference" if reference is None else "policy"
            raise ValueError(f"{missing} is missing; expected reference and policy, or neither")
        if reference is None:
            reference, policy = bell_curves()
        reference, policy = _positive("reference", reference), _positive("policy", policy)
        check_same_length("reference", reference, "policy", policy)
        super().__init__(
            reference=reference,
            policy=policy,
            distance_range=[float(end) for end in distance_range],
            presets=[float(preset) for preset in presets],
            distance=float(distance),
            samples=samples,
            seed=seed,
        )

    @traitlets.validate("reference", "policy")
    def _check_distribution(self, proposal) -> list[float]:
        return _positive(proposal["trait"].name, proposal["value"])

    @traitlets.validate("distance_range")
    def _check_range(self, proposal) -> list[float]:
        ends = proposal["value"]
        if len(ends) != 2 or not 0 < ends[0] < ends[1] < math.inf:
            raise ValueError(
                f"distance_range is {ends}; expected two positive numbers, the smaller first"
            )
        return ends

    @traitlets.validate("distance")
    def _check_distance(self, proposal) -> float:
        return clamp("distance", proposal["value"], self.distance_range)

    @traitlets.validate("samples")
    def _check_samples(self, proposal) -> int:
        if proposal["value"] not in SAMPLES:
            raise ValueError(
                f"samples is {proposal['value']}; expected a power of two from 1 to {SAMPLES[-1]}"
            )
        return proposal["value"]

    @traitlets.validate("seed")
    def _check_seed(self, proposal) -> int:
        if not 0 <= proposal["value"] < SEEDS:
            raise ValueError(f"seed is {proposal['value']}; expected 0 to {SEEDS - 1}")
        return proposal["value"]

    @property
    def result(self) -> EstimatorNumbers:
        """The numbers on display, from the present state.

        Raises
        ------
        ValueError
            If the two lists were set to different lengths, or a deviation is beyond a float.
        """
        import torch

        from ...mathematics.kl import k1, k2, k3

        check_same_length("reference", self.reference, "policy", self.policy)
        log_reference = np.log(self.reference)
        step = self.distance * (np.log(self.policy) - log_reference)
        log_ratio = step - tilt.log_partition(self.reference, step, 1.0)
        p = np.exp(log_reference + log_ratio)  # pi_s
        cumulative = np.cumsum(p)
        draws = uniforms(self.seed, RUNS * self.samples) * cumulative[-1]
        tokens = np.searchsorted(cumulative, draws, side="right").clip(max=len(p) - 1)
        tokens = tokens.reshape(RUNS, self.samples)
        exact, means = {}, {}
        with np.errstate(over="ignore", invalid="ignore"):
            for name, estimate in (("k1", k1), ("k2", k2), ("k3", k3)):
                values = estimate(torch.from_numpy(log_ratio)).numpy()
                expected = float((p * values).sum())
                exact[name] = expected, math.sqrt((p * (values - expected) ** 2).sum())
                means[name] = values[tokens].mean(axis=1)
        if not all(math.isfinite(std) for _, std in exact.values()):
            raise ValueError(
                f"at distance={self.distance:g} the spread of k3 is beyond the largest float; "
                "expected policies nearer to each other"
            )
        low = min(float(values.min()) for values in means.values())
        high = max(float(means["k1"].max()), float(np.sort(means["k2"])[int(K2_SHOWN * RUNS) - 1]))
        high = high if high > low else low + 1.0
        shown = {}
        for name, (expected, std) in exact.items():
            at = (means[name] - low) / (high - low) * BINS
            inside = at <= BINS + HAIR  # the last bin has both its ends
            places = np.floor(at[inside] + HAIR).astype(int).clip(max=BINS - 1)
            shown[name] = Estimator(
                expected=expected,
                std=std,
                mean=float(means[name].mean()),
                spread=float(means[name].std()),
                below_zero=float((means[name] < -HAIR).mean()),
                below_kl=float((means[name] < exact["k1"][0] - HAIR).mean()),
                counts=np.bincount(places, minlength=BINS),
                beyond=int((~inside).sum()),
            )
        return EstimatorNumbers(kl=exact["k1"][0], low=low, high=high, **shown)

    def summary(self) -> str:
        """The state in a few words."""
        try:
            kl = self.result.kl
        except ValueError as error:
            return f"not valid: {error}"
        return (
            f"{len(self.reference)} tokens, distance={self.distance:g}, "
            f"{self.samples} samples a run, KL={kl:.3f}"
        )
