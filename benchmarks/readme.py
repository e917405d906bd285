"""The tables of `benchmarks/README.md`, made from the records.

    python -m benchmarks.readme            # puts them into the file, anew
    python -m benchmarks.readme --check    # asserts that they are those of the records

A table stands between `<!-- NAME -->` and `<!-- end of NAME -->`; what is around it is written by
hand and stays. A test makes the same check.
"""

from __future__ import annotations

import argparse
import ast
import re
import statistics
from collections.abc import Iterable
from pathlib import Path

from benchmarks.recording import recorded

HERE = Path(__file__).parent
README = HERE / "README.md"


def markdown(head: list[str], rows: Iterable[Iterable[object]], text: int) -> str:
    """A table, whose first columns are text; the others stand at the right.

    >>> print(markdown(["run", "n"], [["a", 1]], text=1))
    | run | n |
    |---|--:|
    | a | 1 |
    """
    rule = "|" + "---|" * text + "--:|" * (len(head) - text)
    first, *others = ("| " + " | ".join(map(str, line)) + " |" for line in (head, *rows))
    return "\n".join([first, rule, *others])


def places(lines: list[dict], *names: str) -> list[str]:
    """What the lines of a record say of where they were made, each value once."""
    return ["; ".join(sorted({str(x["provenance"][name]) for x in lines})) for name in names]


def overview() -> str:
    """Every benchmark: what it records, for which chapter, and on what."""
    rows = []
    for results in sorted((HERE / "results").glob("*.jsonl")):
        text = ast.get_docstring(ast.parse((HERE / f"{results.stem}.py").read_text())) or ""
        chapter = re.findall(r"Chapters?:?\s([a-z0-9-]+(?:\sand\s[a-z0-9-]+)*)", text)
        on = places(recorded(results), "processor", "torch")
        rows.append([f"`{results.stem}`", text.splitlines()[0].rstrip("."), chapter[-1], *on])
    return markdown(["benchmark", "what it records", "chapter", "on", "torch"], rows, text=5)


def against_trl() -> str:
    """Every comparison with TRL: medians of both sides, and the ratio with its quartiles."""
    lines, rows = recorded(HERE / "results" / "against_trl.jsonl"), []
    for line in lines:
        what = "rollout" if line["algorithm"] == "rollout" else "step"
        low, middle, high = line["ratios"][what]
        medians = (statistics.median(line["sides"][side]["seconds"]) for side in ("ours", "trl"))
        d = line.get("decode")
        rows.append(
            [
                f"{line['algorithm']}, {line['model']}, {line['precision']}",
                line["device"],
                line["trl"].removesuffix(".0"),
                f"{line['batch']} × {line['length']}",
                "–" if d else line["epochs"],
                *(f"{x:.3f}" for x in medians),
                f"{middle:.2f} ({low:.2f} to {high:.2f})",
                f"{line['ratios']['peak_memory']:.2f}",
                f"{d['ours_over_bound']:.1f}, {d['trl_over_bound']:.1f}" if d else "–",
            ]
        )
    head = (
        "what, device, TRL, rows × tokens, passes, ours (s), TRL (s), TRL over ours, peak memory, "
        "over the bound"
    )
    date, on, torch, transformers, python = places(
        lines, "date", "processor", "torch", "transformers", "python"
    )
    threads = "; ".join(sorted({str(line["threads"]) for line in lines}))
    return (
        f"Recorded {date} on {on}, {threads} threads, with torch {torch}, transformers "
        f"{transformers} and Python {python}.\n\n{markdown(head.split(', '), rows, text=3)}"
    )


TABLES = {"overview": overview, "against_trl": against_trl}


def renewed(text: str) -> str:
    """The file's text, with the tables that the records give now."""
    for name, make in TABLES.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"{README.name} has no place for {name}; expected its two comments")
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{make()}\n\n{end}{rest.partition(end)[2]}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    text = README.read_text(encoding="utf-8")
    if parser.parse_args().check:
        assert text == renewed(text), f"{README.name} is older than the records"
    else:
        README.write_text(renewed(text), encoding="utf-8")


if __name__ == "__main__":
    main()
