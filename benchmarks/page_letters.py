"""What a page learns on letters: PPO against the book's reward model, and against a reader's taste.

    python -m benchmarks.page_letters          # about five minutes a seed on one core
    python -m benchmarks.page_letters --check  # assert the floors on what is recorded

A run is that of the figure in `ppo-live`, by the page's own worker, run by Node.js in place of a
browser. Of each seed: 45 steps of 32 completions at β = .1, and as many by the library with the
same settings and draws of its own (which goes first changes from seed to seed); the same at β = 0,
where the anchor is cut; and, for four scripted readers, a reward model fitted to 40 of their
comparisons and PPO against it at β = .05. Three readers like one thing each (few words,
exclamation marks, formal words) and say "can't tell" where two replies have as much of it; the
fourth throws a coin. Recorded are held-out gold, KL and what readers look for, on the way, and the
seconds of each step. The page's engine has one thread, and so has the library here. One line a
seed and run goes to `results/page_letters.jsonl`, with settings, hardware and versions; one that
is there is not run again. Chapter: ppo-live.
"""

from __future__ import annotations

import copy
import random
import statistics
from itertools import product
from pathlib import Path

import torch

from benchmarks.in_page import heard, of_kind
from benchmarks.provenance import provenance
from benchmarks.recording import check, command_line, record
from rlhf_lib.algorithms import PPO, PPOConfig
from rlhf_lib.models.rewards import LearnedReward
from rlhf_lib.models.rollout import sample
from rlhf_lib.running import artifacts
from rlhf_lib.seeing import engine
from rlhf_lib.seeing.widgets import letters_training
from rlhf_lib.worlds import letters

RESULTS = Path(__file__).parent / "results" / "page_letters.jsonl"
STEPS, EVERY, HELD_OUT = 45, 5, 128
BETA, TASTE_BETA, COMPARISONS = 0.1, 0.05, 40
READERS = {  # what each likes, as `counted` of letters.js names it
    "few words": lambda prompt, reply: -len(letters.words(reply)),
    "exclamation marks": lambda prompt, reply: letters.words(reply).count("!"),
    "formal words": lambda prompt, reply: sum(w in letters.FORMAL for w in letters.words(reply)),
    "a coin": None,
}
LIKED = {  # where a reader's taste shows in the held-out replies, and what it must become of that
    "few words": ("words", lambda first, last: last <= first / 2),
    "exclamation marks": ("exclamation_marks", lambda first, last: last >= 2 * first),
    "formal words": ("formal", lambda first, last: last >= 2 * first),
}
RUNS = ("ppo", "no anchor", *READERS)


def start(seed: int, beta: float, comparisons: list[dict] | None = None) -> dict:
    """What a page would tell its worker first."""
    return {
        "world": "letters",
        "settings": {**letters_training.BATCH, "beta": beta},
        "seed": seed,
        "total": STEPS,
        "every": EVERY,
        "asked": [],
        "lists": engine.letters_lists(),
        **({} if comparisons is None else {"comparisons": comparisons}),
    }


def run_page(seed: int, beta: float, comparisons: list[dict] | None = None) -> dict:
    """Held-out replies and batches on the way, and the seconds of each step."""
    models = dict(letters_training.MODELS)
    if comparisons is not None:
        del models["reward"]
    said = heard(models, start(seed, beta, comparisons))
    steps = of_kind(said, "step")
    found = {
        "curve": [
            {"step": one["step"], "gold": round(one["worth"], 4)}
            | {name: round(x, 4) for name, x in one["features"].items()}
            for one in of_kind(said, "measured")
        ],
        "reward": [round(one["record"]["reward"], 4) for one in steps],
        "kl": [round(one["record"]["kl"], 4) for one in steps],
        "seconds": [round(one["seconds"], 4) for one in steps],
    }
    if fitted := of_kind(said, "fitted"):
        found["accuracy"] = statistics.mean(one["record"]["accuracy"] for one in fitted[-5:])
    return found


def run_library(seed: int) -> dict:
    """The same by PyTorch."""
    sft, tokenizer = artifacts.load("letters", "sft")
    judge, _ = artifacts.load("letters", "reward")
    policy, held = (
        copy.deepcopy(sft),
        list(letters.prompts(HELD_OUT, seed=seed + 9, held_out=True)["prompt"]),
    )

    def gold() -> float:
        draws = torch.Generator().manual_seed(seed)
        how = letters.MAX_NEW_TOKENS
        replies = sample(policy, tokenizer, held, how, generator=draws).completions
        return round(statistics.mean(letters.gold_reward(held, replies)), 4)

    config = PPOConfig(max_steps=STEPS, batch_size=32, mini_batch_size=16, beta=BETA, seed=seed)
    asked = letters.prompts(8_000, seed=seed + 100)
    loop = PPO(
        policy, sft, copy.deepcopy(judge), tokenizer, LearnedReward(judge, tokenizer), asked, config
    )
    found = {"curve": [{"step": 0, "gold": gold()}], "reward": [], "kl": [], "seconds": []}
    for line in loop:
        for name in ("reward", "kl", "seconds"):
            found[name].append(round(line[name], 4))
        if line["step"] % EVERY == 0:
            found["curve"].append({"step": line["step"], "gold": gold()})
    return found


def comparisons_by(reader: str, seed: int) -> list[dict]:
    """Pairs of the SFT policy's replies, as a reader with one taste compares them."""
    sft, tokenizer = artifacts.load("letters", "sft")
    prompts = list(letters.prompts(12 * COMPARISONS, seed=seed + 200)["prompt"])
    draws = torch.Generator().manual_seed(seed)
    first, second = (
        sample(sft, tokenizer, prompts, letters.MAX_NEW_TOKENS, generator=draws).completions
        for _ in range(2)
    )
    likes, coin, found = READERS[reader], random.Random(seed), []
    for prompt, *replies in zip(prompts, first, second):
        worth = [likes(prompt, reply) if likes else coin.random() for reply in replies]
        if worth[0] != worth[1] and len(found) < COMPARISONS:
            chosen, rejected = replies if worth[0] > worth[1] else replies[::-1]
            found.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return found


def run(seed: int, name: str) -> dict:
    """One run of a seed; the first is made on both sides."""
    if name == "ppo":
        sides = {"page": lambda: run_page(seed, BETA), "library": lambda: run_library(seed)}
        order = list(sides)[:: 1 if seed % 2 else -1]
        made = {side: sides[side]() for side in order}
        medians = {side: statistics.median(made[side]["seconds"]) for side in sides}
        made["ratio"] = round(medians["page"] / medians["library"], 3)
    elif name == "no anchor":
        made = {"page": run_page(seed, 0.0)}
    else:
        made = {"page": run_page(seed, TASTE_BETA, comparisons_by(name, seed))}
    return {"seed": seed, "run": name, **made, "provenance": provenance()}


def assert_floors(line: dict) -> None:
    """What the chapter says of the page: gold rises with the anchor, and falls without it."""
    name, curve = line["run"], line["page"]["curve"]
    first, last = curve[0], curve[-1]
    where = f"{name}, seed {line['seed']}: {first} at first, {last} at the end"
    if name == "ppo":
        late = statistics.mean(row["gold"] for row in curve[-3:])  # a single one has ± .4
        assert late >= first["gold"] + 0.5, where  # with batches twice as large it is .9
    elif name == "no anchor":
        assert last["gold"] <= max(row["gold"] for row in curve) - 2, where
    elif name != "a coin":
        feature, enough = LIKED[name]
        assert enough(first[feature], last[feature]), where


def main() -> None:
    parser = command_line(__doc__, threads=1)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=RUNS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.check:
        record(RESULTS, ("seed", "run"), product(options.seeds, options.runs), run)
    check(RESULTS, assert_floors)


if __name__ == "__main__":
    main()
