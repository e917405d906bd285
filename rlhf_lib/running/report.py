"""The report of a run, made from the files in its folder: learning curves, tables, samples.

A run of `python -m rlhf_lib` leaves `settings.json`, `log.jsonl` and `evaluation.json`; the report
reads nothing else, so it can be made again at any time, and for several runs side by side.
Chapter: ppo-live.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from .log import read_json, read_steps, write_whole

HIGHER_IS_BETTER = {"reward", "gold", "accuracy", "explained_variance", "reward_margin"}
LOWER_IS_BETTER = {"loss", "value_loss"}
NOT_MEASURED = ("step", "seconds")  # of a record
REWARD = {"reward": "reward"}  # learned, checked or the user's own: a log does not say
WINDOW = 5  # steps: a single batch is mostly luck, so the tables average over these


def read_run(folder: str | os.PathLike) -> dict:
    """What a run left behind: `settings`, `records`, and `evaluation` by `before` and `after`.

    Raises
    ------
    FileNotFoundError
        If there is no run in the folder.
    ValueError
        If one of its files is damaged.
    """
    folder = Path(folder)
    run = {}
    for name, needed in (("settings", True), ("evaluation", False)):
        path = folder / f"{name}.json"
        if needed and not path.exists():
            raise FileNotFoundError(
                f"folder is {str(folder)!r}; expected a run with {path.name}, and found none there"
            )
        run[name] = read_json(path) if path.exists() else {}
        for part in ("settings", "versions") if needed else ("before", "after"):
            if not isinstance(run[name].get(part, {}), dict):
                raise ValueError(
                    f"{path} is damaged; expected an object for {part!r}, as a run writes it, "
                    f"got {str(run[name][part])[:60]!r}"
                )
    log = folder / "log.jsonl"
    run["evaluation"] = with_nans(run["evaluation"])
    run["records"] = read_steps(log) if log.exists() else []
    return run


def without_nans(value):
    """What was measured, with None in place of what is not finite, as JSON has no NaN."""
    if isinstance(value, dict):
        return {name: without_nans(x) for name, x in value.items()}
    if isinstance(value, list):
        return [without_nans(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def with_nans(value):
    """The inverse, as far as there is one: NaN in place of None."""
    if isinstance(value, dict):
        return {name: with_nans(x) for name, x in value.items()}
    if isinstance(value, list):
        return [with_nans(x) for x in value]
    return math.nan if value is None else value


def write_report(folders: list[str | os.PathLike], out: str | os.PathLike) -> Path:
    """Write `report.md` and `report.png` about one run, or about several side by side.

    Parameters
    ----------
    folders : list of path
        Folders of runs. A run is called by its folder's name, or by the whole path where two
        folders have the same name.
    out : path
        Folder for the two files, which are replaced; created if missing.

    Returns
    -------
    Path
        Of `report.md`.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read_run`.
    """
    folders = [Path(folder) for folder in dict.fromkeys(map(str, folders))]
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    names = [name.encode("utf-8", "backslashreplace").decode() for name in names]
    runs = {name: read_run(folder) for name, folder in zip(names, folders)}
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    parts = [
        f"# {', '.join(runs)}",
        *(provenance(name, run) for name, run in runs.items()),
        differences(runs),
        measurements(runs),
        figure(runs, out / "report.png"),
        learning_curves(runs),
        samples(runs),
    ]
    path = out / "report.md"
    write_whole(path, "\n\n".join(filter(None, parts)) + "\n")
    return path


# ------------------------------------------------------------------ the parts, in their order


def provenance(name: str, run: dict) -> str:
    """What was run, on what, and for how long."""
    settings, records = run["settings"], run["records"]
    seconds = sum(record.get("seconds", 0.0) for record in records)
    versions = ", ".join(f"{k} {v}" for k, v in settings.get("versions", {}).items())
    return (
        f"**{name}**: `{settings.get('command_line', '?')}`. {len(records)} steps in "
        f"{seconds:.0f} s on {settings.get('hardware', 'unknown hardware')}; {versions}."
    )


def differences(runs: dict[str, dict]) -> str:
    """The settings that all runs have and in which they differ."""
    given = [
        {"command": run["settings"].get("command"), **run["settings"].get("settings", {})}
        for run in runs.values()
    ]
    rows = [
        [key, *(str(settings[key]) for settings in given)]
        for key in given[0]
        if all(key in settings for settings in given)
        and any(settings[key] != given[0][key] for settings in given)
    ]
    return "## Where the settings differ\n\n" + table(["setting", *runs], rows) if rows else ""


def measurements(runs: dict[str, dict]) -> str:
    """What was measured on held-out data: before and after training, and of the best of n."""
    rows, points = [], []
    for name, run in runs.items():
        before, after = (run["evaluation"].get(when, {}) for when in ("before", "after"))
        for metric, value in {**before, **after}.items():
            if isinstance(value, float) and not metric.endswith("_se"):
                rows.append([name, metric, with_error(before, metric), with_error(after, metric)])
        for point in after.get("curve", []):
            points += [
                [
                    name,
                    str(point["n"]),
                    metric,
                    with_error(point, metric),
                    f"{point['kl_bound']:.3f}",
                ]
                for metric in curve_metrics([point])
            ]
    parts = []
    if rows:
        parts += [
            "## Held out",
            narrow(runs, ["run", "metric", "before", "after"], rows),
            "Mean ± standard error, on data that the run does not train on; kl in nats per "
            "completion, length in tokens.",
        ]
    if points:
        header = ["run", "n", "metric", "best of n", "KL at most, nats"]
        parts += [
            "## Best of n",
            narrow(runs, header, points),
            "Mean ± standard error over prompts; the best is chosen by `reward`.",
        ]
    return "\n\n".join(parts)


def figure(runs: dict[str, dict], path: Path) -> str:
    """Learning curves, or curves of the best of n where there is nothing else, in a file."""
    from ..seeing import plots

    logs = {label(name): run["records"] for name, run in runs.items() if learns(run)}
    curves = {
        label(name): run["evaluation"]["after"]["curve"]
        for name, run in runs.items()
        if run["evaluation"].get("after", {}).get("curve")
    }
    shown = [
        metric
        for metric in plots.LABELS
        if any(
            len({record[metric] for record in log if metric in record}) > 1 for log in logs.values()
        )
    ]
    if shown:
        drawn, over = (
            plots.learning_curves(logs, shown[:8], window=WINDOW, labels=REWARD),
            "the step",
        )
    elif curves:
        shown, over = curve_metrics([p for curve in curves.values() for p in curve]), "n"
        drawn = plots.best_of_n_curves(curves, shown, labels=REWARD)
    else:
        return ""
    drawn.savefig(path, dpi=150)
    return f"![{', '.join(shown[:8])} against {over}]({path.name})"


def label(name: str) -> str:
    """A name for a legend, in which no dollar opens a formula and no underscore hides a curve."""
    return name.replace("$", r"\$") if not name.startswith("_") else label(f" {name}")


def learning_curves(runs: dict[str, dict]) -> str:
    """The table of every metric in the logs: where it began, where it ended, and its best."""
    rows = []
    for name, run in runs.items():
        for metric in (
            dict.fromkeys(key for r in run["records"] for key in r) if learns(run) else ()
        ):
            steps, values = zip(*((r["step"], r[metric]) for r in run["records"] if metric in r))
            if metric not in NOT_MEASURED:
                window = min(WINDOW, -(-len(values) // 2))
                means = [
                    sum(values[i : i + window]) / window for i in range(len(values) - window + 1)
                ]
                rows.append(
                    [
                        name,
                        metric,
                        f"{means[0]:.4g}",
                        f"{means[-1]:.4g}",
                        best(metric, steps[window - 1 :], means),
                    ]
                )
    if not rows:
        return ""
    header = ["run", "metric", "first", "last", "best (at step)"]
    return "\n\n".join(
        [
            "## Training batches",
            narrow(runs, header, rows),
            f"Each entry is a mean over {WINDOW} steps, or half of a shorter run.",
        ]
    )


def learns(run: dict) -> bool:
    return bool(run["records"]) and run["settings"].get("command") != "best-of-n"


def curve_metrics(points: list[dict]) -> list[str]:
    return list(
        dict.fromkeys(
            name.removesuffix("_se") for point in points for name in point if name.endswith("_se")
        )
    )


def best(metric: str, steps, means) -> str:
    """The best mean and the last step in it, where the metric has a better direction."""
    if metric not in HIGHER_IS_BETTER | LOWER_IS_BETTER:
        return ""
    at = means.index((max if metric in HIGHER_IS_BETTER else min)(means))
    return f"{means[at]:.4g} ({steps[at]})"


def samples(runs: dict[str, dict], count: int = 3) -> str:
    """The first held-out prompts and what was written for them."""
    parts = []
    for name, run in runs.items():
        texts = {"Prompt" if len(runs) == 1 else f"Prompt, {name}": []}
        for when in ("before", "after"):
            found = run["evaluation"].get(when, {})
            if "completions" in found:
                texts[next(iter(texts))] = found["prompts"]
                texts |= (
                    {"First sample": found["first"], "Best of n": found["completions"]}
                    if "first" in found
                    else {when.capitalize(): found["completions"]}
                )
        for row in list(zip(*texts.values()))[:count]:
            parts += [f"{title}:\n\n{quoted(text)}" for title, text in zip(texts, row)]
    return "\n\n".join(["## Samples", *parts]) if parts else ""


# ------------------------------------------------------------------ Markdown


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose columns line up as plain text too.

    Examples
    --------
    >>> print(table(["metric", "last"], [["kl", "3.2"]]))
    | metric | last |
    |--------|------|
    | kl     | 3.2  |
    """
    cells = [
        [cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in [header, *rows]
    ]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def narrow(runs: dict, header: list[str], rows: list[list[str]]) -> str:
    """`table`, without its first column where that would name the only run in every row."""
    return table(header, rows) if len(runs) > 1 else table(header[1:], [row[1:] for row in rows])


def with_error(measured: dict, metric: str) -> str:
    if metric not in measured:
        return ""
    error = measured.get(f"{metric}_se")
    return f"{measured[metric]:.3f}" + (f" ± {error:.3f}" if error is not None else "")


def quoted(text: str) -> str:
    """Text as an indented block, in which nothing is read as Markdown."""
    return "\n".join("    " + line for line in (text or " ").splitlines())
