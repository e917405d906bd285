"""What one GPU shows in under eight minutes, in order of worth. Chapter: what-a-step-costs.

    make gpu                                            # on a machine with a GPU; installs nothing
    python -m benchmarks.on_a_gpu --parts letters       # a part of it
    python -m benchmarks.on_a_gpu --rehearse            # the same in small, on a processor

For a bare machine with one GPU and no network, whose Python has torch and transformers. What else a
part needs (pytest, TRL) is used where it is there; where it is not, the part is left out and says
so. Six parts, the functions of `on_a_gpu_parts.py`:

- tests: `tests/gpu`, test by test.
- letters: 124,439,808 parameters, grown from the shipped SFT model, learn by GRPO, as many seeds of
  `gpt2_live` as 60 s of training have room for.
- decode: a decode step against the bound that its bytes set, at the bandwidth of the same run.
- rollouts: tokens a second, in turn with `generate` of transformers.
- trl: a GRPO step, in turn with TRL's.
- memory: the peak of each part of a step, beside what `machinery.memory` says of it.

Each part runs in a process of its own, so that one which fails, runs out of memory or hangs harms
none of the others. It has a share of the time and is ended when that is up; none is begun that
cannot end in the time that is left. What a part finds is written to `on_a_gpu.notes.jsonl` at once,
and the part as one line to `on_a_gpu.jsonl` as soon as it ends: done, failed with its error, or
left out with the reason, and with hardware and versions. A second call takes up what the first left
open: what is done on this hardware is not run again, and what failed or was left out is. In the end
a report is printed, and written to `on_a_gpu.txt`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benchmarks.parts import Part, run_parts
from rlhf_lib.running.log import write_whole

RESULTS = Path(__file__).parent / "results"
MODULE = "benchmarks.on_a_gpu_parts"
SECONDS = 470  # of everything together
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
PARTS = {  # in order of worth
    "tests": Part(40, 150),
    "letters": Part(45, 120),
    "decode": Part(20, 60),
    "rollouts": Part(15, 45),
    "trl": Part(30, 75),
    "memory": Part(15, 50),
}


# ---------------------------------------------------------------------------------- the report


def report(lines: dict[str, dict]) -> str:
    """Where it ran, and what was found, in plain text."""
    if not lines:
        return "nothing is recorded\n"
    at = next(iter(lines.values()))["provenance"]
    versions = ("cuda", "driver", "torch", "transformers", "python")
    where = [f"{name} {at[name]}" for name in versions if at.get(name)]
    commit = f"commit {at['commit'][:10]}" if at["commit"] else "commit unknown"
    head = ", ".join([at["hardware"], *where, at["date"], commit])
    return "\n\n".join([head, *map(told, lines.values())]) + "\n"


def told(line: dict) -> str:
    """A part in a few rows: how it ended, why if not well, and what it found."""
    rows = [f"{line['part']}: {line['status']} in {line['seconds']:.0f} s"]
    rows += line.get("why", "").splitlines()
    try:
        rows += SAID[line["part"]](line["found"])
    except (KeyError, IndexError, TypeError):  # it ended before it had found that much
        rows += [f"{name}: {found}" for name, found in list(line["found"].items())[-3:]]
    return "\n  ".join(rows)


def said_of_tests(found: dict) -> list[str]:
    outcomes = [test["outcome"] for test in found.values()]
    counts = [f"{outcomes.count(x)} {x}" for x in dict.fromkeys(outcomes)]
    bad = [name for name, test in found.items() if test["outcome"] in ("failed", "error")]
    return [", ".join(counts), *bad]


def said_of_letters(found: dict) -> list[str]:
    rows = [
        f"{found['parameters']:,} parameters, {found['largest_gap']:.0e} nats from the small SFT"
    ]
    for name, made in found.items():
        if name.startswith("seed "):
            gold, reward = (
                " to ".join(
                    f"{made[when][what]:.2f} ± {made[when][f'{what}_se']:.2f}"
                    for when in ("before", "after")
                )
                for what in ("gold", "reward")
            )
            rows.append(
                f"{name}: gold {gold}, reward {reward}, KL {made['after']['kl']:.2f}; "
                f"{len(made['curve'])} steps in {made['seconds']:.1f} s, "
                f"{made['median_seconds']:.3f} s a step, peak {made['peak_bytes'] / 1e9:.2f} GB"
            )
    return rows


def said_of_decode(found: dict) -> list[str]:
    rows = [f"bandwidth of a copy: {found['bandwidth'] / 1e9:,.0f} GB/s"]
    for name, made in found.items():
        if name.startswith("batch "):
            rows.append(
                f"{name}: {made['ours_seconds'][1] * 1e3:.3f} ms a step, bound "
                f"{made['bound_seconds'] * 1e3:.3f}, {made['ours_over_bound']:.2f} times the bound"
            )
        elif name.startswith("kernels ") and made:
            first = ", ".join(f"{k['name'][:40]} {k['share']:.0%}" for k in made[:3])
            rows.append(f"{name}: {first}")
    return rows


def said_of_rollouts(found: dict) -> list[str]:
    return [
        f"{name}: ours {made['ours_tokens_a_second']:,.0f} tokens/s, generate "
        f"{made['generate_tokens_a_second']:,.0f}; generate over ours {made['ratio'][1]:.2f} "
        f"({made['ratio'][0]:.2f} to {made['ratio'][2]:.2f})"
        for name, made in found.items()
        if name.startswith("batch ")
    ]


def said_of_trl(found: dict) -> list[str]:
    return found["summary"].splitlines()


def said_of_memory(found: dict) -> list[str]:
    rows = []
    for name, made in found.items():
        parts = ", ".join(
            f"{part} {made[part]['peak_bytes'] / 1e9:.3f} (estimate "
            f"{made[part]['estimate_bytes'] / 1e9:.3f})"
            for part in ("between", "sample", "score", "update")
        )
        rows.append(f"{name}, GB: {parts}")
    return rows


SAID = {name: globals()[f"said_of_{name}"] for name in PARTS}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of all (%(default)s)")
    parser.add_argument("--out", type=Path, help="folder (benchmarks/results)")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="cuda; of a rehearsal cpu")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, nothing to be kept")
    options = parser.parse_args(arguments)
    device = options.device or ("cpu" if options.rehearse else "cuda")
    if options.out is None and options.rehearse:
        parser.error("--rehearse is given without --out; expected a folder for what is not kept")
    out = options.out or RESULTS
    os.environ |= dict.fromkeys(OFFLINE, "1")
    longer = max(1.0, options.seconds / SECONDS)
    parts = {name: Part(part.least, part.most * longer) for name, part in PARTS.items()}
    parts = {name: part for name, part in parts.items() if name in options.parts}

    def watch(lines: dict[str, dict]) -> None:
        write_whole(out / "on_a_gpu.txt", report(lines))
        print(told(list(lines.values())[-1]), flush=True)

    try:
        lines = run_parts(
            parts, MODULE, out / "on_a_gpu.jsonl", device, options.rehearse, options.seconds, watch
        )
    except RuntimeError as error:
        sys.exit(f"error: {error}")
    write_whole(out / "on_a_gpu.txt", report(lines))
    print(f"\n{report(lines)}", flush=True)
    if failed := [name for name, line in lines.items() if line["status"] == "failed"]:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
