"""The tables of benchmarks/README.md are those of the records, and its sentences hold of them."""

from __future__ import annotations

import re
import statistics

import pytest

from benchmarks import readme
from benchmarks.recording import recorded

TEXT = readme.README.read_text(encoding="utf-8")
LINES = recorded(readme.HERE / "results" / "against_trl.jsonl")


def test_the_tables_are_those_of_the_records():
    """`python -m benchmarks.readme` puts them anew."""
    assert readme.renewed(TEXT) == TEXT


def test_every_record_is_in_the_overview():
    listed = re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)
    assert listed == sorted(path.stem for path in (readme.HERE / "results").glob("*.jsonl"))


def test_a_file_without_a_place_for_a_table_is_refused():
    with pytest.raises(ValueError, match="README.md has no place for against_trl"):
        readme.renewed(TEXT.replace("<!-- end of against_trl -->", ""))


def plain(algorithm):
    """The comparisons in fp32 with one pass, in which size and length are swept, on a CPU."""
    return [
        line
        for line in LINES
        if (line["algorithm"], line["device"], line["precision"], line["epochs"])
        == (algorithm, "cpu", "fp32", 1)
    ]


def median(line, side, name="seconds"):
    return statistics.median(line["sides"][side][name])


def gained(line, name="seconds"):
    return median(line, "trl", name) - median(line, "ours", name)


def test_what_ppo_gains_is_a_constant_and_the_garbage_collectors():
    more = [gained(line) for line in plain("ppo")]
    ours = [median(line, "ours") for line in plain("ppo")]
    assert max(ours) > 10 * min(ours) and max(more) < 1.5 * min(more)
    assert 0.4 < min(more) and max(more) < 0.6  # "about half a second"
    assert all(
        median(line, "trl", "collecting_seconds") > 0.7 * gained(line) for line in plain("ppo")
    )


def test_what_grpo_gains_in_sampling():
    shares = [gained(line, "rollout_seconds") / gained(line) for line in plain("grpo")]
    assert 0.3 < min(shares) and max(shares) < 0.76  # "a third to three quarters"
    assert all(median(line, "trl", "collecting_seconds") < 0.01 for line in plain("grpo"))


def test_bfloat16_widens_the_distance():
    for algorithm in ("grpo", "ppo"):
        found = [line for line in LINES if line["algorithm"] == algorithm]
        centre, mixed = found[0], next(x for x in found if x["precision"] == "mixed")
        assert mixed["ratios"]["step"][1] > centre["ratios"]["step"][1]
        assert median(mixed, "ours") < median(centre, "ours")
        assert median(mixed, "trl") > 0.95 * median(centre, "trl")


def test_the_ratios_are_those_of_the_seconds():
    for line in LINES:
        for name, key in (("step", "seconds"), ("rollout", "rollout_seconds")):
            pairs = [b / a for a, b in zip(*(line["sides"][s][key] for s in ("ours", "trl")))]
            assert line["ratios"][name] == statistics.quantiles(pairs, n=4, method="inclusive")
        assert line["ratios"]["step"][1] >= 1  # slower nowhere in the sweep
