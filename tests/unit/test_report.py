"""The report of runs whose files are written by hand: every part of it, in full."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rlhf_lib.running import report
from rlhf_lib.running.report import read_run, write_report
from rlhf_lib.seeing import plots


def made(folder: Path, records=(), evaluation=None, command="ppo", **settings) -> Path:
    """A run's folder, with the files that a report reads."""
    folder.mkdir(parents=True)
    about = {
        "command": command,
        "command_line": f"python -m rlhf_lib {command}",
        "settings": settings,
        "hardware": "an abacus, 1 threads",
        "versions": {"rlhf_lib": "0.1.0", "torch": "2"},
    }
    (folder / "settings.json").write_text(json.dumps(about))
    if records:
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / "log.jsonl").write_text(lines)
    if evaluation is not None:
        (folder / "evaluation.json").write_text(json.dumps(evaluation))
    return folder


RECORDS = [
    {"step": step, "reward": reward, "loss": loss, "kl": 0.5, "seconds": 2.0}
    for step, reward, loss in ((1, 1.0, 9.0), (2, 3.0, 1.0), (3, 2.0, 2.0), (4, 2.0, 6.0))
]
EVALUATION = {
    "before": {
        "gold": 0.25,
        "gold_se": 0.125,
        "length": 8.0,
        "length_se": 0.5,
        "prompts": ["ask", "a\nb", "third", "fourth"],
        "completions": ["old 1", "old 2", "old 3", "old 4"],
    },
    "after": {
        "gold": 0.75,
        "gold_se": 0.25,
        "kl": 1.5,
        "length": 4.0,
        "length_se": 1.0,
        "prompts": ["ask", "a\nb", "third", "fourth"],
        "completions": ["new 1", "# new 2", "", "new 4"],
    },
}
WHOLE = """# run

**run**: `python -m rlhf_lib ppo`. 4 steps in 8 s on an abacus, 1 threads; rlhf_lib 0.1.0, torch 2.

## Held out

| metric | before        | after         |
|--------|---------------|---------------|
| gold   | 0.250 ± 0.125 | 0.750 ± 0.250 |
| length | 8.000 ± 0.500 | 4.000 ± 1.000 |
| kl     |               | 1.500         |

Mean ± standard error, on data that the run does not train on; kl in nats per completion, \
length in tokens.

![reward, loss against the step](report.png)

## Training batches

| metric | first | last | best (at step) |
|--------|-------|------|----------------|
| reward | 2     | 2    | 2.5 (3)        |
| loss   | 5     | 4    | 1.5 (3)        |
| kl     | 0.5   | 0.5  |                |

Each entry is a mean over 5 steps, or half of a shorter run.

## Samples

Prompt:

    ask

Before:

    old 1

After:

    new 1

Prompt:

    a
    b

Before:

    old 2

After:

    # new 2

Prompt:

    third

Before:

    old 3

After:

\x20\x20\x20\x20\x20
"""


def test_the_report_of_one_run_in_full(tmp_path):
    """Means over 2 of 4 steps: rewards 2, 2.5, 2 and losses 5, 1.5, 4; a best is at its last."""
    folder = made(tmp_path / "run", RECORDS, EVALUATION)
    assert write_report([folder], folder).read_text(encoding="utf-8") == WHOLE
    assert (folder / "report.png").stat().st_size > 10_000


def test_a_folder_that_is_named_twice_is_one_run(tmp_path):
    folder = made(tmp_path / "run", RECORDS, EVALUATION)
    twice = write_report([folder, str(folder)], tmp_path / "out")
    assert twice.read_text(encoding="utf-8") == WHOLE


def test_windows_of_the_tables_are_five_steps_or_half_of_a_run(tmp_path):
    for count, first in ((1, 1.0), (2, 1.0), (3, 1.5), (9, 3.0), (10, 3.0), (20, 3.0)):
        records = [{"step": i, "loss": float(i)} for i in range(1, count + 1)]
        folder = made(tmp_path / str(count), records)
        text = write_report([folder], folder).read_text()
        assert re.search(rf"^\| loss +\| {first:g} +\| ", text, re.M), count


@pytest.mark.parametrize(
    "metric, best",
    [("reward", "3 (2)"), ("gold", "3 (2)"), ("accuracy", "3 (2)"), ("explained_variance", "3 (2)")]
    + [("reward_margin", "3 (2)"), ("loss", "1 (1)"), ("value_loss", "1 (1)")]
    + [(metric, "") for metric in ("kl", "entropy", "beta", "length", "learning_rate")],
)
def test_a_metric_has_a_best_where_it_has_a_better_direction(tmp_path, metric, best):
    folder = made(tmp_path / "run", [{"step": 1, metric: 1.0}, {"step": 2, metric: 3.0}])
    text = write_report([folder], folder).read_text()
    assert re.search(rf"^\| {metric} +\| 1 +\| 3 +\| {re.escape(best)} +\|$", text, re.M)


def test_a_metric_that_some_steps_lack_is_read_where_it_is(tmp_path):
    records = [{"step": 1}, {"step": 2, "loss": 4.0}, {"step": 5, "loss": 2.0}]
    folder = made(tmp_path / "run", records)
    assert "| loss   | 4     | 2    | 2 (5)" in write_report([folder], folder).read_text()


def test_settings_are_told_where_runs_differ_and_both_have_them(tmp_path):
    made(tmp_path / "a", seed=0, beta=0.1, clip=0.2, only_a=1)
    made(tmp_path / "b", seed=0, beta=0.1, clip=0.3)
    made(tmp_path / "c", "", None, "grpo", seed=0, beta=0.4, clip=0.2)
    text = write_report([tmp_path / name for name in "abc"], tmp_path / "out").read_text()
    table = (
        "## Where the settings differ\n\n"
        "| setting | a   | b   | c    |\n"
        "|---------|-----|-----|------|\n"
        "| command | ppo | ppo | grpo |\n"
        "| beta    | 0.1 | 0.1 | 0.4  |\n"
        "| clip    | 0.2 | 0.3 | 0.2  |\n"
    )
    assert table in text + "\n" and text.count("| seed") == text.count("only_a") == 0
    assert text.startswith("# a, b, c\n\n**a**: `python -m rlhf_lib ppo`. 0 steps in 0 s on an aba")


def test_two_runs_stand_in_the_rows_of_one_table(tmp_path):
    a = made(tmp_path / "a", RECORDS, EVALUATION)
    b = made(tmp_path / "b", RECORDS[:2], {"before": {"gold": 1.0, "gold_se": 0.5}})
    text = write_report([a, b], tmp_path / "out").read_text(encoding="utf-8")
    assert "| a   | gold   | 0.250 ± 0.125 | 0.750 ± 0.250 |" in text
    assert "| b   | gold   | 1.000 ± 0.500 |               |" in text
    assert "| a   | reward | 2     | 2    | 2.5 (3)" in text
    assert "| b   | reward | 1     | 3    | 3 (2)" in text
    assert "Prompt, a:\n\n    ask" in text and "Prompt, b" not in text


POINTS = [
    {"n": 1, "kl_bound": 0.0, "reward": 1.0, "reward_se": 0.5, "gold": 2.0, "gold_se": 0.25},
    {"n": 4, "kl_bound": 0.63629, "reward": 3.0, "reward_se": 0.125, "gold": 1.0, "gold_se": 1.5},
]
CHOSEN = {
    "before": {},
    "after": {"curve": POINTS, "prompts": ["ask"], "first": ["one"], "completions": ["best"]},
}


def test_the_report_of_the_best_of_n(tmp_path):
    """Its log is no training: no table of it."""
    folder = made(tmp_path / "run", RECORDS, CHOSEN, "best-of-n")
    text = write_report([folder], folder).read_text(encoding="utf-8")
    assert (
        "## Best of n\n\n"
        "| n | metric | best of n     | KL at most, nats |\n"
        "|---|--------|---------------|------------------|\n"
        "| 1 | reward | 1.000 ± 0.500 | 0.000            |\n"
        "| 1 | gold   | 2.000 ± 0.250 | 0.000            |\n"
        "| 4 | reward | 3.000 ± 0.125 | 0.636            |\n"
        "| 4 | gold   | 1.000 ± 1.500 | 0.636            |\n\n"
        "Mean ± standard error over prompts; the best is chosen by `reward`.\n\n"
        "![reward, gold against n](report.png)\n\n"
        "## Samples\n\n"
        "Prompt:\n\n    ask\n\nFirst sample:\n\n    one\n\nBest of n:\n\n    best\n"
    ) in text
    assert "Training batches" not in text and "Held out" not in text


# ------------------------------------------------------------------ the figure


def drawn(monkeypatch, kind="learning_curves") -> list:
    """What is handed to the room that draws."""
    seen, draw = [], getattr(plots, kind)

    def watch(*arguments, **options):
        figure = draw(*arguments, **options)
        seen.append((arguments, options, figure))
        return figure

    monkeypatch.setattr(plots, kind, watch)
    return seen


def test_a_figure_shows_what_changes_in_the_order_of_the_book(tmp_path, monkeypatch):
    """kl is .5 at every step: there is nothing to see of it. `reward` may be anybody's."""
    seen = drawn(monkeypatch)
    made(tmp_path / "a", RECORDS)
    write_report([tmp_path / "a"], tmp_path / "a")
    ((logs, shown), options, figure) = seen[0]
    assert list(logs) == ["a"] and shown == ["reward", "loss"]
    assert options == {"window": 5, "labels": {"reward": "reward"}}
    assert [axis.get_title(loc="left") for axis in figure.axes][:1] == ["reward"]


def test_a_figure_has_eight_panels_at_most(tmp_path, monkeypatch):
    seen = drawn(monkeypatch)
    records = [{"step": i, **{metric: float(i) for metric in plots.LABELS}} for i in (1, 2)]
    assert len(plots.LABELS) > 8
    folder = made(tmp_path / "run", records)
    text = write_report([folder], folder).read_text()
    assert seen[0][0][1] == list(plots.LABELS)[:8]
    assert f"![{', '.join(list(plots.LABELS)[:8])} against the step]" in text


def test_curves_of_the_best_of_n_are_drawn_where_nothing_is_learnt(tmp_path, monkeypatch):
    seen = drawn(monkeypatch, "best_of_n_curves")
    folder = made(tmp_path / "run", RECORDS, CHOSEN, "best-of-n")
    write_report([folder], folder)
    ((curves, metrics), options, _) = seen[0]
    assert curves == {"run": POINTS} and metrics == ["reward", "gold"]
    assert options == {"labels": {"reward": "reward"}}


def test_without_anything_to_draw_there_is_no_figure(tmp_path):
    folder = made(tmp_path / "run", [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 2.0}])
    assert "report.png" not in write_report([folder], folder).read_text()
    assert not (folder / "report.png").exists()


@pytest.mark.parametrize("kind", ["learning_curves", "best_of_n_curves"])
def test_any_folder_has_its_name_in_the_legend(tmp_path, monkeypatch, kind):
    """Matplotlib reads a formula between two dollars, and hides what begins with an underscore."""
    seen = drawn(monkeypatch, kind)
    names = ["cost $5$ and $^$", "_hidden", "a|b", "r\udcfcn", "plain"]
    about = ((), CHOSEN, "best-of-n") if kind == "best_of_n_curves" else (RECORDS,)
    folders = [made(tmp_path / name, *about, beta=i) for i, name in enumerate(names)]
    text = write_report(folders, tmp_path / "out").read_text(encoding="utf-8")
    assert (tmp_path / "out" / "report.png").exists()
    legend = [text.get_text() for text in seen[0][2].axes[0].get_legend().get_texts()]
    assert [label.strip() for label in legend] == [
        r"cost \$5\$ and \$^\$", "_hidden", "a|b", r"r\udcfcn", "plain"
    ]  # fmt: skip
    assert r"| setting | cost $5$ and $^$ | _hidden | a\|b | r\udcfcn | plain |" in text


# ------------------------------------------------------------------ reading


def test_a_run_is_read_with_what_it_has(tmp_path):
    folder = made(tmp_path / "run")
    assert read_run(folder)["evaluation"] == {} and read_run(folder)["records"] == []
    (folder / "evaluation.json").write_text("{")
    with pytest.raises(ValueError, match="evaluation.json is damaged"):
        read_run(folder)
    (folder / "settings.json").unlink()
    with pytest.raises(FileNotFoundError, match="expected a run with settings.json"):
        read_run(folder)


def test_text_in_a_table_and_in_a_sample_stays_text():
    assert report.table(["x", "yy"], [["a|b\nc", ""]]) == (
        "| x      | yy |\n|--------|----|\n| a\\|b c |    |"
    )
    assert report.quoted("# a\n\n- b") == "    # a\n    \n    - b"
