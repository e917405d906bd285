"""PPO and GRPO at GPT-2's size, 124,439,808 parameters, on two cores: letters, a run a seed.

    python -m benchmarks.gpt2_live              # about 6 minutes a run on two idle cores, 5 GB
    python -m benchmarks.gpt2_live --check      # assert the floors on what is recorded

A run grows the shipped SFT model to GPT-2's shape, trains it against the shipped reward model, and
measures it on 400 held-out prompts by a gold reward that no run was paid by. The reference is the
SFT model itself, which says what the grown one says; reward model and critic stay small too, but
where a run is to show what they cost when they are grown. Three kinds of runs:

- seeds: both methods, a run for each seed, by `SETTINGS`;
- cost: three steps of PPO with reference, reward model and critic small, and with all of them
  grown;
- rates: PPO, seed 1, at other learning rates.

Each run has a process of its own, so that its peak memory is its own. Beside the seconds of a clock
stand those that the processor worked, which other work on it does not change much. One line a run
goes to `results/gpt2_live.jsonl`, with settings, hardware and versions; what is there is not run
again. Chapter: gpt2-live.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from functools import partial
from pathlib import Path

import torch

from benchmarks.against_trl_worker import peak_memory
from benchmarks.provenance import provenance
from benchmarks.recording import alone, check, command_line, record
from rlhf_lib.algorithms import GRPO, PPO, GRPOConfig, PPOConfig
from rlhf_lib.families.growth import grow
from rlhf_lib.models.policy import SCALES, count_parameters
from rlhf_lib.models.rewards import LearnedReward
from rlhf_lib.models.rollout import sample
from rlhf_lib.models.tokens import completion_logits
from rlhf_lib.running import artifacts
from rlhf_lib.running.evaluation import evaluate
from rlhf_lib.worlds import letters

RESULTS = Path(__file__).parent / "results" / "gpt2_live.jsonl"
PROMPTS, SHOWN, METHODS = 400, 12, ("ppo", "grpo")
TIMES = 4  # samples of each prompt before training, where they cost little
RATES = (1e-5, 1e-4)  # beside that of `SETTINGS`
RATE = artifacts.RATES["gpt2"]["policy"]
SHARED = dict(
    batch_size=64,
    mini_batch_size=16,
    max_steps=18,
    beta=0.08,
    learning_rate=RATE,
    bf16=True,
    microbatch_tokens=512,
)
SETTINGS = {
    "ppo": PPOConfig(**SHARED, num_ppo_epochs=1),
    "grpo": GRPOConfig(
        **SHARED, num_iterations=1, kl_in="reward", scale_rewards="none", aggregate_over="tokens"
    ),
}
NAMES = ("kind", "method", "seed", "learning_rate", "small")
KEPT = (
    *("step", "reward", "kl", "entropy", "length", "gradient_norm", "ratio_gap", "seconds"),
    *("explained_variance", "zero_variance_groups"),
)
MEASURED = ("gold", "gold_se", "reward", "reward_se", "kl", "kl_se", "length")


def plan(seeds: list[int]) -> list[tuple]:
    """The runs, by `NAMES`."""
    runs = [("seeds", method, seed, RATE, True) for seed in seeds for method in METHODS]
    runs += [("cost", "ppo", 1, RATE, small) for small in (True, False)]
    return runs + [("rates", "ppo", 1, rate, True) for rate in RATES]


@torch.no_grad()
def largest_gap(large, small, tokenizer, prompts: list[str]) -> float:
    """How far the two next-token distributions are apart at most, in nats, on the small one's own
    replies."""
    rollout = sample(small, tokenizer, prompts, letters.MAX_NEW_TOKENS)
    rows = small.config.vocab_size
    one, other = (
        completion_logits(model, rollout)[..., :rows].log_softmax(-1) for model in (large, small)
    )
    return ((one - other).abs().amax(-1) * rollout.completion_mask).max().item()


def measured(policy, sft, tokenizer, rewards: dict, seed: int, times: int = 1) -> dict:
    """Held-out gold reward, learned reward and KL, and a few replies to read."""
    held_out = times * list(letters.prompts(PROMPTS, seed=9, held_out=True)["prompt"])
    how = dict(seed=seed, batch_size=50, dtype=torch.bfloat16)  # as it was trained
    found = evaluate(policy, tokenizer, held_out, rewards, sft, **how)
    shown = zip(held_out, found["completions"], found["values"]["gold"])
    return {name: found[name] for name in MEASURED} | {"shown": list(shown)[:SHOWN]}


def run(kind: str, method: str, seed: int, learning_rate: float, small: bool, threads: int) -> dict:
    """Train once, and measure before and after. In a process of its own."""
    torch.set_num_threads(threads)
    sft, tokenizer = artifacts.load("letters", "sft")
    reward_model, _ = artifacts.load("letters", "reward")
    larger = partial(grow, seed=seed, **SCALES["gpt2"])
    policy, critic, reference, paying = larger(sft), copy.deepcopy(reward_model), sft, reward_model
    if not small:
        critic, reference, paying = larger(reward_model), larger(sft), larger(reward_model)
    reward = LearnedReward(paying, tokenizer)
    config = dataclasses.replace(SETTINGS[method], seed=seed, learning_rate=learning_rate)
    if kind == "cost":
        config = dataclasses.replace(config, max_steps=3)
    data = letters.prompts(4_000, seed=seed + 100)
    if method == "ppo":
        loop = PPO(policy, reference, critic, tokenizer, reward, data, config)
    else:
        loop = GRPO(policy, reference, tokenizer, reward, data, config)
    line = {
        **dict(zip(NAMES, (kind, method, seed, learning_rate, small))),
        "parameters": count_parameters(policy),
        "settings": dataclasses.asdict(config),
    }
    begun, worked = time.perf_counter(), time.process_time()
    line["history"] = [{name: r[name] for name in KEPT if name in r} for r in loop]
    line["seconds"] = time.perf_counter() - begun
    line["cpu_seconds"] = time.process_time() - worked
    line["peak_bytes"] = peak_memory("cpu")
    if kind != "cost":
        rewards = {"gold": letters.gold_reward, "reward": reward}
        line["start_gap"] = largest_gap(larger(sft), sft, tokenizer, data["prompt"][:64])
        line["before"] = measured(sft, sft, tokenizer, rewards, seed, TIMES)
        line["after"] = measured(policy, sft, tokenizer, rewards, seed)
        line["evaluated_peak_bytes"] = peak_memory("cpu")
    return line | {"threads": threads, "provenance": provenance()}


def assert_floors(line: dict) -> None:
    """What the chapter says of every seed."""
    where = f"{line['kind']}, {line['method']}, seed {line['seed']}"
    assert line["parameters"] == 124_439_808, where
    if line["kind"] != "seeds":
        return
    gain = line["after"]["gold"] - line["before"]["gold"]
    assert gain >= 0.6, f"{where}: gold is {gain:.2f} above SFT; expected 0.6"
    assert 1.5 <= line["after"]["kl"] <= 6, f"{where}: the KL is {line['after']['kl']:.2f}"
    assert line["start_gap"] < 1e-4, f"{where}: it starts {line['start_gap']} from SFT"
    assert line["cpu_seconds"] <= 600, f"{where}: {line['cpu_seconds']:.0f} s; two cores' 5 minutes"


def main() -> None:
    options = command_line(__doc__).parse_args()
    if not options.check:
        record(RESULTS, NAMES, plan(options.seeds), alone(run, options.threads))
    check(RESULTS, assert_floors)


if __name__ == "__main__":
    main()
