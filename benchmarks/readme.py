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


def markdown(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table; the first column stands at the left, the others at the right.

    >>> print(markdown(["run", "n"], [["a", 1]]))
    | run | n |
    |---|--:|
    | a | 1 |
    """
    head = list(head)
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    shown = ["| " + " | ".join(map(str, line)) + " |" for line in lines]
    shown[1] = shown[1].replace(" ", "")
    return "\n".join(shown)


def overview() -> str:
    """Every benchmark: what it records, for which chapter, how many runs, when and on what."""
    rows = []
    for results in sorted((HERE / "results").glob("*.jsonl")):
        lines = recorded(results)
        text = ast.get_docstring(ast.parse((HERE / f"{results.stem}.py").read_text())) or ""
        chapters = re.findall(r"Chapters?:? ([a-z-]+(?:(?:,| and) [a-z-]+)*)", text)[-1]
        at = [line["provenance"] for line in lines]
        rows.append(
            [
                f"`{results.stem}`",
                text.splitlines()[0].rstrip("."),
                chapters.removesuffix(" reads").removesuffix(" read"),
                len(lines),
                max(p["date"] for p in at),
                *("; ".join(sorted({str(p[name]) for p in at})) for name in ("processor", "torch")),
            ]
        )
    return markdown(
        ["benchmark", "what it records", "chapter", "runs", "last", "on", "torch"], rows
    )


def against_trl() -> str:
    """Every comparison with TRL: medians of both sides, and the ratio with its quartiles."""
    rows = []
    for line in recorded(HERE / "results" / "against_trl.jsonl"):
        what = "rollout" if line["algorithm"] == "rollout" else "step"
        low, middle, high = line["ratios"][what]
        medians = (statistics.median(line["sides"][side]["seconds"]) for side in ("ours", "trl"))
        decode = line.get("decode")
        rows.append(
            [
                f"{line['algorithm']}, {line['model']}, {line['precision']}",
                line["device"],
                f"{line['batch']} × {line['length']}",
                "–" if decode else line["epochs"],
                *(f"{x:.3f}" for x in medians),
                f"{middle:.2f} ({low:.2f} to {high:.2f})",
                f"{line['ratios']['peak_memory']:.2f}",
                f"{decode['ours_over_bound']:.1f}, {decode['trl_over_bound']:.1f}"
                if decode
                else "–",
                line["trl"].removesuffix(".0"),
            ]
        )
    head = "what, device, rows × tokens, passes, ours (s), TRL (s), TRL over ours, peak memory"
    return markdown([*head.split(", "), "over the bound", "TRL"], rows)


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
