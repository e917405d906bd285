"""Can a reader tell notes from before and after reinforcement learning apart, blind?

    python -m benchmarks.blind_reading --reader "me"                # read, and answer A or B
    python -m benchmarks.blind_reading --run ppo 2 --reader "me"    # another of the recorded runs
    python -m benchmarks.blind_reading --check                      # assert that records are whole

The notes are those that `real_notes` recorded of a run: of each held-out request one by the SFT
model, and one by what became of it. They are shown in an order, and on sides, that a number draws.
The reader says which of the two was written after. What was answered goes to
`results/blind_reading.jsonl`, a line a reading, and what is right is counted from there; a reader
who has answered in that order before is refused. Chapter: real-model.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.provenance import provenance
from benchmarks.real_notes import RESULTS as RUNS
from benchmarks.recording import check, recorded
from rlhf_lib.running.log import RunLog

RESULTS = Path(__file__).parent / "results" / "blind_reading.jsonl"
NAMES = ("kind", "seed", "order", "reader")
SIDES = ("A", "B")


def pairs(run: dict, order: int) -> list[dict]:
    """What a reader sees of a recorded run: `asked`, `A`, `B`; and `after`, the side to find."""
    rng = random.Random(order)
    shown = list(zip(run["before"]["shown"], run["after"]["shown"], strict=True))
    rng.shuffle(shown)
    found = []
    for before, after in shown:
        sides = (after, before) if rng.random() < 0.5 else (before, after)
        notes = {side: x["note"] for side, x in zip(SIDES, sides)}
        found.append({"asked": before["asked"], **notes, "after": SIDES[sides[1] is after]})
    return found


def read(seen: list[dict], ask: Callable[[str], str] | None = None) -> list[str]:
    """The answers of a reader, who is asked again until one is A or B."""
    ask, answers = ask or input, []
    for number, pair in enumerate(seen, 1):
        print(f"\n{number} of {len(seen)}. {pair['asked']}")
        for side in SIDES:
            print(f"\n[{side}]\n{pair[side]}")
        while (answer := ask("\nWritten after? A or B: ").strip().upper()) not in SIDES:
            pass
        answers.append(answer)
    return answers


def rightly(run: dict, order: int, answers: Iterable[str]) -> list[bool]:
    """Which of the answers, one a pair, name the side that was written after."""
    seen = pairs(run, order)
    return [answer == pair["after"] for answer, pair in zip(answers, seen, strict=True)]


def line(run: dict, order: int, reader: str, answers: list[str]) -> dict:
    """What is recorded of a reading."""
    right = rightly(run, order, answers)
    told = dict(zip(NAMES, (run["kind"], run["seed"], order, reader)))
    said = {"answers": "".join(answers), "right": sum(right), "pairs": len(right)}
    return told | said | {"provenance": provenance()}


def known(kind: str, seed: int) -> dict:
    """A run of `real_notes`; a ValueError says which there are."""
    runs = {(run["kind"], run["seed"]): run for run in recorded(RUNS) if run["kind"] != "sft"}
    if (kind, seed) not in runs:
        there = ", ".join(f"{a} {b}" for a, b in sorted(runs)) or "none"
        raise ValueError(f"run is {kind} {seed}; expected a recorded one: {there}")
    return runs[kind, seed]


def assert_floors(reading: dict) -> None:
    """The answers fit the notes of the run, and the count is theirs."""
    run = known(reading["kind"], reading["seed"])
    right = rightly(run, reading["order"], reading["answers"])
    where = f"{reading['reader']}, {reading['kind']} {reading['seed']}"
    assert reading["right"] == sum(right), f"{where}: {sum(right)} right, not {reading['right']}"
    assert reading["pairs"] == len(right), f"{where}: {len(right)} pairs"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", nargs=2, default=("grpo", "1"), metavar=("METHOD", "SEED"))
    parser.add_argument("--order", type=int, default=1, help="draws order and sides")
    parser.add_argument("--reader", help="who reads")
    parser.add_argument("--check", action="store_true", help="read nothing; assert the floors")
    options = parser.parse_args()
    if not options.check:
        if not options.reader:
            parser.error("reader is missing; expected who reads, such as --reader me")
        try:
            run = known(options.run[0], int(options.run[1]))
        except ValueError as error:
            parser.error(str(error))
        told = (run["kind"], run["seed"], options.order, options.reader)
        if told in [tuple(x[name] for name in NAMES) for x in recorded(RESULTS)]:
            parser.error(f"{options.reader} has read it in order {options.order}; take another")
        reading = line(run, options.order, options.reader, read(pairs(run, options.order)))
        with RunLog(RESULTS) as log:
            log.write(reading)
        print(f"\n{reading['right']} of {reading['pairs']} are right")
    check(RESULTS, assert_floors, "readings")


if __name__ == "__main__":
    main()
