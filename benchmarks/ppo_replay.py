"""PPO runs to look back on: curves, and replies to the same held-out prompts as training goes on.

    python -m benchmarks.ppo_replay                 # about 2 minutes a run on one core
    python -m benchmarks.ppo_replay --check         # assert what is recorded, and run nothing

Four ways to set β, from the shipped SFT and reward models: fixed at 0.1; fixed at a fifth of that;
the same start with a controller that holds the KL at 3 nats; and turned by hand as the run goes
on. Every fourth step the policy answers the same 100 held-out prompts, of which five are kept in
full. Other seeds repeat the middle two, without replies. One line a run goes to
`results/ppo_replay.jsonl`; a run that is there is not run again. Chapter: ppo-live.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from pathlib import Path

import torch

from benchmarks.provenance import provenance
from benchmarks.recording import command_line, record, recorded
from rlhf_lib.algorithms.ppo import PPO, PPOConfig
from rlhf_lib.models.rewards import LearnedReward
from rlhf_lib.running import artifacts
from rlhf_lib.running.evaluation import evaluate
from rlhf_lib.worlds import letters

RESULTS = Path(__file__).parent / "results" / "ppo_replay.jsonl"
STEPS, EVERY, PROMPTS, SHOWN = 60, 4, 100, 5
TARGET = 3.0  # nats
RUNS = {
    "fixed": PPOConfig(max_steps=STEPS),
    "fixed-low": PPOConfig(max_steps=STEPS, beta=0.02),
    "adaptive": PPOConfig(max_steps=STEPS, beta=0.02, target_kl=TARGET, kl_horizon=320),
    "by-hand": PPOConfig(max_steps=STEPS),
}
BY_HAND = {16: 0.005, 36: 0.3}  # step -> β from that step on
REPEATED = ("fixed-low", "adaptive")  # on the other seeds
KEPT = ("reward", "gold", "kl", "entropy", "length", "beta", "clip_fraction", "explained_variance")


def run(name: str, seed: int) -> dict:
    """Train one run, and keep its curves and what it wrote."""
    start = time.perf_counter()
    sft, tokenizer = artifacts.load("letters", "sft")
    reward_model, _ = artifacts.load("letters", "reward")
    reward = LearnedReward(reward_model, tokenizer)
    held_out = list(letters.prompts(PROMPTS, seed=9, held_out=True)["prompt"])
    config = dataclasses.replace(RUNS[name], seed=seed)
    loop = PPO(
        copy.deepcopy(sft),
        sft,
        copy.deepcopy(reward_model),
        tokenizer,
        reward,
        letters.prompts(4_000, seed=seed + 100),
        config,
    )
    records, measured = [], []

    def measure() -> None:
        found = evaluate(
            loop.policy,
            tokenizer,
            held_out,
            {"gold": letters.gold_reward, "reward": reward},
            sft,
            seed=seed,
            batch_size=50,
        )
        row = {
            "step": loop.step_number,
            **{
                k: round(found[k], 4)
                for k in ("gold", "gold_se", "reward", "reward_se", "kl", "kl_se", "length")
            },
        }
        if seed == 0:
            row["replies"] = [
                [reply, gold]
                for reply, gold in zip(found["completions"][:SHOWN], found["values"]["gold"])
            ]
        measured.append(row)

    measure()
    while loop.step_number < STEPS:
        if name == "by-hand":
            loop.beta = BY_HAND.get(loop.step_number + 1, loop.beta)
        record = loop.step()
        gold = letters.gold_reward(loop.rollout.prompts, loop.rollout.completions)
        record["gold"] = sum(gold) / len(gold)
        records.append({"step": record["step"], **{k: round(record[k], 4) for k in KEPT}})
        if loop.step_number % EVERY == 0:
            measure()
            print(
                f"{name}, seed {seed}, step {loop.step_number}: "
                f"gold {measured[-1]['gold']:.2f}, KL {measured[-1]['kl']:.2f}, "
                f"beta {record['beta']:.3f}",
                flush=True,
            )
    return {
        "run": name,
        "seed": seed,
        "settings": dataclasses.asdict(config),
        "by_hand": BY_HAND if name == "by-hand" else {},
        "prompts": held_out[:SHOWN],
        "records": records,
        "measured": measured,
        "seconds": time.perf_counter() - start,
        "provenance": provenance(),
    }


def assert_floors(recorded: list[dict]) -> None:
    """What the chapter says of these runs."""
    last = {(row["run"], row["seed"]): row["measured"][-1] for row in recorded}
    seeds = {seed for _, seed in last}
    sft_gold = recorded[0]["measured"][0]["gold"]
    good = last["fixed", 0]
    assert good["gold"] >= sft_gold + 0.9 and 2 <= good["kl"] <= 6, good
    for seed in seeds:
        held, loose = last["adaptive", seed], last["fixed-low", seed]
        assert abs(held["kl"] - TARGET) <= 1.5, (seed, held)
        assert loose["kl"] >= held["kl"] + 1, (seed, held, loose)


def main() -> None:
    options = command_line(__doc__, seeds=(0, 1, 2), threads=1).parse_args()
    torch.set_num_threads(options.threads)
    if not options.check:
        plan = [(name, seed) for seed in options.seeds for name in (REPEATED if seed else RUNS)]
        record(RESULTS, ("run", "seed"), plan, run)
    lines = recorded(RESULTS)
    assert_floors(lines)
    print(f"{len(lines)} runs, every floor cleared")


if __name__ == "__main__":
    main()
