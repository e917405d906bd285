"""LoRA against full weights on letters: GRPO at equal steps, ranks 1 to 16, each at its own rate.

    python -m benchmarks.lora_letters            # the rates first, then the seeds
    python -m benchmarks.lora_letters --check    # assert the floors on what is recorded

Every run starts from the shipped SFT model of the letters world, is paid by the shipped reward
model, and takes `STEPS` steps of GRPO with the KL charged in the reward, as the runs of
`grpo_letters` do. In a run called "rank R" an adapter of that rank is trained, on all linear layers
but the head, and the model under it stays; in "full" all weights are. The learning rate of each is
chosen on seed `TUNED_ON`, which is none of those that are compared: every arm is tried at each of
its `rates`, and takes the one that ends with the most reward less β times the KL, which is what the
loop maximises. A run of the other seeds is measured on its way on the same 400 held-out prompts,
with the gold utility that no run is paid by; what it holds and what it saves is counted in bytes.
One line a run goes to `results/lora_letters.jsonl`, with settings, hardware and versions; a run
that is there is not made again. A run takes one to two minutes on one core: there are 23 of them
for the rates, and then six a seed. Chapter: scaling-out.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import tempfile
import time
from itertools import product
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from benchmarks.provenance import provenance
from benchmarks.recording import check, command_line, record, recorded
from rlhf_lib.algorithms import GRPO, GRPOConfig
from rlhf_lib.families.adapters import new_adapter
from rlhf_lib.models.rewards import LearnedReward
from rlhf_lib.running import artifacts
from rlhf_lib.running.evaluation import evaluate
from rlhf_lib.worlds import letters

RESULTS = Path(__file__).parent / "results" / "lora_letters.jsonl"
STEPS, BETA, PROMPTS = 45, 0.1, 400
MEASURED_AT = (5, 10, 20, 32, 45)  # steps
RANKS = {"rank 1": 1, "rank 2": 2, "rank 4": 4, "rank 8": 8, "rank 16": 16, "full": None}
TUNED_ON = 0  # the seed that the rates are chosen on


def rates(arm: str) -> tuple[float, ...]:
    """The learning rates that are tried: those of an adapter begin where full weights are."""
    return (1e-4, 3e-4, 1e-3) if arm == "full" else (3e-4, 1e-3, 3e-3, 1e-2)


def settings(rate: float, seed: int) -> GRPOConfig:
    return GRPOConfig(learning_rate=rate, kl_in="reward", beta=BETA, max_steps=STEPS, seed=seed)


def start(sft, arm: str, seed: int):
    """A fresh policy, and its reference: of an adapter none, as the model under it is one."""
    policy = copy.deepcopy(sft)
    rank = RANKS[arm]
    return (policy, sft) if rank is None else (new_adapter(policy, rank, seed), None)


def bytes_of(loop: GRPO) -> dict:
    """What the loop's policy takes beside its weights, and what a checkpoint keeps of it."""
    trained = [p for p in loop.policy.parameters() if p.requires_grad]
    moments = loop.optimizers["policy"].state.values()
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        loop.policy.save_pretrained(folder)
        saved = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
    return {
        "parameters": sum(p.numel() for p in loop.policy.parameters()),
        "trained": sum(p.numel() for p in trained),
        "gradient_bytes": sum(p.numel() * p.element_size() for p in trained),
        "optimizer_bytes": sum(
            x.numel() * x.element_size() for state in moments for x in state.values() if x.dim()
        ),
        "checkpoint_bytes": saved,
    }


def objective(found: dict) -> float:
    """What the loop maximises: the reward, less the price of the KL."""
    return found["reward"] - BETA * found["kl"]


def chosen_rate(lines: list[dict], arm: str) -> float:
    """The rate with which an arm ends best on the seed that rates are chosen on.

    Raises
    ------
    ValueError
        If a rate was not tried yet.
    """
    tried = {
        line["rate"]: line["objective"]
        for line in lines
        if line["seed"] == TUNED_ON and line["arm"] == arm
    }
    if missing := [rate for rate in rates(arm) if rate not in tried]:
        raise ValueError(f"{arm} was not tried at {missing} on seed {TUNED_ON}; expected all rates")
    return max(rates(arm), key=lambda rate: -math.inf if tried[rate] is None else tried[rate])


def run(seed: int, arm: str, rate: float) -> dict:
    """One run, measured at its start, on its way and at its end; a trial at its end alone."""
    _, sft, tokenizer = artifacts.letters_models("tiny", "cpu")
    reward = LearnedReward(artifacts.load("letters", "reward")[0], tokenizer)
    held_out = list(letters.prompts(PROMPTS, seed=seed + 9, held_out=True)["prompt"])

    def measured(policy) -> dict:
        rewards = {"gold": letters.gold_reward, "reward": reward}
        found = evaluate(policy, tokenizer, held_out, rewards, sft, seed=seed)
        return {name: round(x, 4) for name, x in found.items() if isinstance(x, float)}

    policy, reference = start(sft, arm, seed)
    asked, config = letters.prompts(4_000, seed=seed + 100), settings(rate, seed)
    loop = GRPO(policy, reference, tokenizer, reward, asked, config)
    steps = (STEPS,) if seed == TUNED_ON else MEASURED_AT
    curve, begun, learning, failed = [], time.perf_counter(), 0.0, None
    if seed != TUNED_ON:
        curve.append({"step": 0, **measured(sft)})
    try:
        for line in loop:
            learning += line["seconds"]
            if line["step"] in steps:
                curve.append({"step": line["step"], **measured(policy)})
    except FloatingPointError as error:  # a rate that is too high
        failed = str(error)
    return {
        "seed": seed,
        "arm": arm,
        "rate": rate,
        "curve": curve,
        "objective": objective(curve[-1]) if failed is None else None,
        "failed": failed,
        **bytes_of(loop),
        "settings": dataclasses.asdict(config),
        "learning_seconds": learning,
        "seconds": time.perf_counter() - begun,
        "threads": torch.get_num_threads(),
        "provenance": provenance(),
    }


def run_at_its_rate(seed: int, arm: str) -> dict:
    return run(seed, arm, chosen_rate(recorded(RESULTS), arm))


def assert_floors(line: dict) -> None:
    """What the chapter says of every run: it learns, and an adapter takes and saves less."""
    where = f"{line['arm']}, seed {line['seed']}"
    share = line["trained"] / line["parameters"]
    assert (share == 1) == (line["arm"] == "full"), f"{where}: trains {share:.3f} of the weights"
    assert line["optimizer_bytes"] == 2 * line["gradient_bytes"], where
    if line["arm"] != "full":
        rank = RANKS[line["arm"]]
        assert line["trained"] == rank * 8_192, f"{where}: {line['trained']} numbers"
        assert line["checkpoint_bytes"] < 1.5 * line["gradient_bytes"] + 10_000, where
    if line["seed"] != TUNED_ON:
        assert line["failed"] is None, f"{where}: {line['failed']}"
        before, after = line["curve"][0], line["curve"][-1]
        assert after["reward"] > before["reward"], f"{where}: the reward does not rise"
        assert 0 < after["kl"] < 20, f"{where}: a KL of {after['kl']:.2f}"


def main() -> None:
    parser = command_line(__doc__, threads=1)
    parser.add_argument("--arms", nargs="+", default=list(RANKS), choices=list(RANKS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.check:
        tried = [(TUNED_ON, arm, rate) for arm in options.arms for rate in rates(arm)]
        record(RESULTS, ("seed", "arm", "rate"), tried, run)
        record(RESULTS, ("seed", "arm"), product(options.seeds, options.arms), run_at_its_rate)
    check(RESULTS, assert_floors)


if __name__ == "__main__":
    main()
