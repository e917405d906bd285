"""Figures in one style, readable on light and dark pages and for readers who see few colours.

Every function returns the figure it drew; a notebook shows it by ending a cell with the call.
Chapters: ppo-live, grpo.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt

# Okabe and Ito's palette, which stays distinct under the common colour-vision deficiencies
COLOURS = {
    "blue": "#0072b2",
    "orange": "#d55e00",
    "green": "#009e73",
    "purple": "#cc79a7",
    "sky": "#56b4e9",
    "yellow": "#e69f00",
    "grey": "#7f7f7f",
    "black": "#222222",
}
STYLE = {
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 1.8,
    "axes.prop_cycle": plt.cycler(color=list(COLOURS.values())),
}
LABELS = {  # metric -> what an axis says
    "reward": "learned reward",
    "gold": "gold utility",
    "kl": "KL to the reference, nats",
    "entropy": "entropy, nats per token",
    "length": "length, tokens",
    "beta": "β",
    "clip_fraction": "share of tokens clipped",
    "value_loss": "value loss",
    "explained_variance": "explained variance",
    "loss": "loss, nats",
    "accuracy": "accuracy",
    "zero_variance_groups": "share of groups with equal rewards",
    "chosen_reward": "implicit reward of the chosen",
    "reward_margin": "implicit reward margin",
    "chosen_logprob": "log-probability of the chosen, nats",
    "gradient_norm": "gradient norm",
}


def figure(columns: int = 1, rows: int = 1, width: float = 7.5, height: float = 2.5, **options):
    """A figure and its axes, a flat list, in the house style."""
    with plt.rc_context(STYLE):
        fig, axes = plt.subplots(
            rows,
            columns,
            figsize=(width, height * rows),
            squeeze=False,
            layout="constrained",
            **options,
        )
    plt.close(fig)  # shown once, by the cell that returns it
    return fig, list(axes.flat)


def smooth(values: Sequence[float], window: int = 5) -> list[float]:
    """Trailing mean over up to `window` values: it never looks ahead.

    Examples
    --------
    >>> smooth([0., 2., 4.], window=2)
    [0.0, 1.0, 3.0]
    """
    return [
        sum(values[max(0, i - window + 1) : i + 1]) / len(values[max(0, i - window + 1) : i + 1])
        for i in range(len(values))
    ]


def learning_curves(
    runs: dict[str, list[dict]],
    metrics: Sequence[str],
    columns: int = 2,
    window: int = 5,
    labels: dict[str, str] | None = None,
):
    """One panel a metric, one line a run: the records thin, their trailing mean thick.

    Parameters
    ----------
    runs : dict of str to list of dict
        Records by the name that the legend gives the run; `step` is the horizontal axis.
    metrics : sequence of str
        Keys of the records. A run without a metric has no line in its panel.
    columns : int
    window : int
        Steps in the trailing mean.
    labels : dict of str to str, optional
        Titles of panels, in place of those in `LABELS`.
    """
    rows = -(-len(metrics) // columns)
    fig, axes = figure(columns, rows)
    for axis in axes[len(metrics) :]:
        axis.set_visible(False)
    for axis, metric in zip(axes, metrics):
        for (name, records), colour in zip(runs.items(), COLOURS.values()):
            points = [(r["step"], r[metric]) for r in records if metric in r]
            if points:
                steps, values = zip(*points)
                axis.plot(steps, values, color=colour, alpha=0.3, linewidth=1)
                axis.plot(steps, smooth(values, window), color=colour, label=name)
        axis.set_title({**LABELS, **(labels or {})}.get(metric, metric), loc="left")
        axis.set_xlabel("step")
        axis.xaxis.get_major_locator().set_params(integer=True)
    if len(runs) > 1:
        _legend(axes)
    return fig


def best_of_n_curves(
    curves: dict[str, list[dict]], metrics: Sequence[str], labels: dict[str, str] | None = None
):
    """One panel a metric, one line a run: the best of n samples against n, with standard errors.

    Parameters
    ----------
    curves : dict of str to list of dict
        Points by the name that the legend gives the run: `n`, `kl_bound` in nats, and for each
        metric its mean and `METRIC_se`.
    metrics : sequence of str
        A run without a metric has no line in its panel.
    labels : dict of str to str, optional
        Titles of panels, in place of those in `LABELS`.
    """
    fig, axes = figure(2, -(-len(metrics) // 2))
    for axis in axes[len(metrics) :]:
        axis.set_visible(False)
    for axis, metric in zip(axes, metrics):
        for (name, curve), colour in zip(curves.items(), COLOURS.values()):
            points = [(p["n"], p[metric], p[f"{metric}_se"]) for p in curve if metric in p]
            if points:
                n, means, errors = zip(*points)
                axis.errorbar(n, means, errors, color=colour, marker="o", markersize=4, label=name)
        axis.set_xscale("log", base=2)
        bounds = {p["n"]: p["kl_bound"] for curve in curves.values() for p in curve}
        axis.set_xticks(list(bounds), [f"{n}\n{bound:.1f}" for n, bound in bounds.items()])
        axis.minorticks_off()
        axis.set_title({**LABELS, **(labels or {})}.get(metric, metric), loc="left")
        axis.set_xlabel("best of n; below it, the KL at most, nats")
    if len(curves) > 1:
        _legend(axes)
    return fig


def _legend(axes) -> None:
    """In the first panel, of the runs in any panel: not every run has every metric."""
    found: dict = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels()):
            found.setdefault(label, handle)
    axes[0].legend(found.values(), found, frameon=False)


def stacked_shares(shares: dict[str, dict[str, float]], order: Sequence[str]):
    """Horizontal stacked bars: how each name's samples split over the categories of `order`."""
    fig, (axis,) = figure(height=0.55 * len(shares) + 1.7)
    colours = plt.get_cmap("tab10").colors
    names = list(shares)
    for row, name in enumerate(names):
        left = 0.0
        for k, category in enumerate(order):
            share = shares[name].get(category, 0.0)
            axis.barh(
                row,
                share,
                left=left,
                color=colours[k % 10],
                edgecolor="white",
                label=category if row == 0 else None,
            )
            if share >= 0.06:
                axis.text(
                    left + share / 2,
                    row,
                    f"{share:.0%}",
                    ha="center",
                    va="center",
                    fontsize=9,
                    color="white",
                )
            left += share
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.grid(False)
    axis.set_xlabel("share of samples")
    axis.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=9, frameon=False)
    return fig
