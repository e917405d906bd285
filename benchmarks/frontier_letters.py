"""Gold against KL on letters: where PPO and three forms of GRPO end, by what a nat costs them.

    python -m benchmarks.frontier_letters --seeds 1 2 3 4 5  # 12 runs a seed, 45 s each on one core
    python -m benchmarks.frontier_letters --check            # assert the floors on the record

Every run starts from the shipped SFT model of the letters world, is paid by the shipped reward
model, takes `STEPS` steps of 64 completions and is measured at its end on the same 400 held-out
prompts of its seed, with the gold utility that no run is paid by. The methods:

ppo                    the KL in the reward, a critic; 64 prompts a step
ppo, 8 prompts         the same on 8 prompts a step, 8 completions of each, as the GRPO runs have
                       it: what then differs from GRPO is not the prompts
grpo                   the KL in the reward, advantages divided by the deviation of their group
grpo, undivided        the same without that division: from PPO on 8 prompts it differs by the
                       critic, and by PPO's whitening
grpo, as published     k3 in the loss, divided, averaged over tokens within each completion

Each is run at the prices of a nat in `BETAS`; those of the published form weigh a loss beside
divided advantages and are another unit. The run "best of n" samples SFT and picks by the learned
reward. One line a run goes to `results/frontier_letters.jsonl`, with settings, hardware and
versions; a run that is there is not made again. Chapter: grpo.
"""

from __future__ import annotations

import copy
import dataclasses
from functools import partial
from pathlib import Path

import torch

from benchmarks.letters_seeds import best_of_n, held_out_of
from benchmarks.provenance import provenance
from benchmarks.recording import check, command_line, record
from rlhf_lib.algorithms import GRPO, PPO, GRPOConfig, PPOConfig
from rlhf_lib.models.rewards import LearnedReward
from rlhf_lib.running import artifacts
from rlhf_lib.worlds import letters
from rlhf_lib.worlds.tables import rows_of_step

RESULTS = Path(__file__).parent / "results" / "frontier_letters.jsonl"
STEPS, PROMPTS, EACH = 45, 400, 8
BEST_OF, OF_PROMPTS = 64, 100  # replies of a prompt, and prompts, for the best of n
METHODS = {
    "ppo": PPOConfig(),
    "ppo, 8 prompts": PPOConfig(),
    "grpo": GRPOConfig(kl_in="reward", aggregate_over="tokens"),
    "grpo, undivided": GRPOConfig(kl_in="reward", aggregate_over="tokens", scale_rewards="none"),
    "grpo, as published": GRPOConfig(),
}
PRICES = (0.05, 0.1, 0.3)  # reward per nat
BETAS = {
    "ppo": PRICES,
    "ppo, 8 prompts": (0.1,),
    "grpo": PRICES,
    "grpo, undivided": (0.1,),
    "grpo, as published": (0.2, 0.6, 1.8),
    "best of n": (None,),
}
USUAL = (0.1, 0.6, None)  # at which the chapter runs them: these are recorded first
KEPT = ("reward", "kl", "length", "gradient_norm")


class PPOOnGroups(PPO):
    """PPO whose batches are a few prompts with several completions each."""

    def collect(self):
        c, size = self.config, len(self.data["prompt"])
        rows = rows_of_step(size, c.batch_size // EACH, self.step_number, c.seed)
        return self.sample_and_score(self.policy, [row for row in rows for _ in range(EACH)])


def run(seed: int, method: str, beta: float | None) -> dict:
    """One run, measured where it starts and where it ends."""
    _, sft, tokenizer = artifacts.letters_models("tiny", "cpu")
    judge, _ = artifacts.load("letters", "reward")
    reward = LearnedReward(judge, tokenizer)
    held_out = list(letters.prompts(PROMPTS, seed=seed + 9, held_out=True)["prompt"])
    line = {"seed": seed, "method": method, "beta": beta, "provenance": provenance()}
    if method == "best of n":
        some = held_out[:OF_PROMPTS]
        return {**line, "best_of_n": best_of_n(sft, tokenizer, reward, some, seed, BEST_OF)}

    measured = partial(
        held_out_of, sft=sft, tokenizer=tokenizer, prompts=held_out, reward=reward, seed=seed
    )
    config = dataclasses.replace(METHODS[method], beta=beta, max_steps=STEPS, seed=seed)
    policy, asked = copy.deepcopy(sft), letters.prompts(4_000, seed=seed + 100)
    if isinstance(config, PPOConfig):
        loop_of = PPOOnGroups if method == "ppo, 8 prompts" else PPO
        loop = loop_of(policy, sft, copy.deepcopy(judge), tokenizer, reward, asked, config)
    else:
        loop = GRPO(policy, sft, tokenizer, reward, asked, config)
    curve = [{name: round(step[name], 4) for name in KEPT} for step in loop]
    return {
        **line,
        "before": measured(sft),
        "after": measured(policy),
        "curve": curve,
        "settings": dataclasses.asdict(config),
    }


def assert_floors(line: dict) -> None:
    """Every loop earns what it is paid for; the best of more replies has more of it."""
    where = f"seed {line['seed']}, {line['method']} at {line['beta']}"
    if line["method"] == "best of n":
        rewards = [row["reward"] for row in line["best_of_n"]]
        assert rewards == sorted(rewards), where
        return
    before, after = line["before"], line["after"]
    assert after["reward"] - before["reward"] > 0.1 and after["kl"] > 0.1, where


def main() -> None:
    parser = command_line(__doc__, threads=1)
    parser.add_argument("--methods", nargs="+", default=list(BETAS), choices=list(BETAS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.check:
        plan = [
            (seed, method, beta)
            for seed in options.seeds
            for method in options.methods
            for beta in BETAS[method]
        ]
        plan.sort(key=lambda run: run[2] not in USUAL)
        record(RESULTS, ("seed", "method", "beta"), plan, run)
    check(RESULTS, assert_floors)


if __name__ == "__main__":
    main()
