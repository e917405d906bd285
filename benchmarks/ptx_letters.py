"""What PPO forgets on letters, and what keeps it: a higher beta, a ptx mix, averaged weights.

    python -m benchmarks.ptx_letters --seeds 1 2 3 4 5     # about 10 minutes a seed on one core
    python -m benchmarks.ptx_letters --check               # assert the floors on what is recorded

Every run starts from the shipped SFT model of the letters world, as those of `dpo_letters` do, and
shares its material: a seed stands for its own pool of annotators, its own 3,500 comparisons and the
reward model of these, its own held-out prompts and order of the data. A run is measured on its way:
gold utility, learned reward and the KL to SFT in both directions on 400 held-out prompts, and the
loss on 800 fresh texts of the corpus that the base model was trained on, which stands for what the
model could do before. A ptx mix adds the loss on that corpus to the policy's. In the end of the run
"ppo" its weights are averaged with those of SFT, and each average is measured too. One line a run
goes to `results/ptx_letters.jsonl`, with settings, hardware and versions; a run that is there is
not made again. Chapter: evaluation.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from functools import lru_cache
from pathlib import Path

import torch

from benchmarks.dpo_letters import Material
from benchmarks.provenance import provenance
from benchmarks.recording import record_runs
from rlhf_lib.algorithms import PPO, PPOConfig
from rlhf_lib.mathematics.losses import sequence_logprobs
from rlhf_lib.models.tokens import encode, token_logprobs
from rlhf_lib.running import artifacts
from rlhf_lib.running.evaluation import evaluate
from rlhf_lib.worlds import letters

RESULTS = Path(__file__).parent / "results" / "ptx_letters.jsonl"
TEXTS = 800  # of the corpus, fresh
MEASURED_AT = (3, 6, 10, 20, 32, 45)  # steps
AVERAGED = (0.1, 0.2, 0.3, 0.5)  # shares of SFT's weights in the averages
RUNS = {
    "ppo": PPOConfig(),
    "beta 0.3": PPOConfig(beta=0.3),
    "beta 1": PPOConfig(beta=1.0),
    "ptx 0.1": PPOConfig(ptx_coefficient=0.1),
    "ptx 0.5": PPOConfig(ptx_coefficient=0.5),
}


@lru_cache(maxsize=1)
def material(seed: int) -> Material:
    return Material(seed)


@lru_cache(maxsize=1)
def corpus():
    """What the shipped base model was trained on, and what a ptx mix repeats."""
    return letters.corpus(seed=artifacts.SEED)


def averaged(policy, sft, share: float):
    """A model whose weights are those of the policy, and to a share those of SFT."""
    model = copy.deepcopy(policy)
    with torch.no_grad():
        for own, other in zip(model.parameters(), sft.parameters(), strict=True):
            own.lerp_(other, share)
    return model


@torch.no_grad()
def web_loss(model, tokenizer, texts) -> dict:
    """The loss on texts of the corpus in nats a token: of all, and by the style of their author."""
    nats, tokens = dict.fromkeys(letters.STYLES, 0.0), dict.fromkeys(letters.STYLES, 0)
    for i in range(0, len(texts), 200):
        rows = texts[i : i + 200]
        batch = encode(tokenizer, list(rows["prompt"]), list(rows["completion"]))
        logprobs = sequence_logprobs(token_logprobs(model, batch), batch.completion_mask)
        counted = batch.completion_mask.sum(dim=1)
        for style, nat, token in zip(rows["style"], logprobs.tolist(), counted.tolist()):
            nats[style] -= nat
            tokens[style] += token
    return {
        "web": sum(nats.values()) / sum(tokens.values()),
        "web_by_style": {style: nats[style] / tokens[style] for style in nats if tokens[style]},
    }


def measured(given: Material, policy) -> dict:
    """Everything that is recorded of a policy; `kl_from_sft` is KL(SFT‖policy) on SFT's replies."""
    rewards = {"gold": letters.gold_reward, "reward": given.reward}
    how = (given.tokenizer, given.held_out)
    found = evaluate(policy, *how, rewards, given.sft, seed=given.seed)
    back = evaluate(given.sft, *how, {}, policy, seed=given.seed)
    texts = letters.corpus(TEXTS, seed=given.seed + 5_000)
    return {
        **{name: round(x, 4) for name, x in found.items() if isinstance(x, float)},
        "kl_from_sft": round(back["kl"], 4),
        **web_loss(policy, given.tokenizer, texts),
        "gold_values": found["values"]["gold"],
        "lengths": found["values"]["length"],
        "shown": found["completions"][:4],
    }


def on_the_way(line: dict) -> dict:
    """A measurement without what each prompt and reply had."""
    return {k: v for k, v in line.items() if k not in ("gold_values", "lengths", "shown")}


def run(seed: int, name: str) -> dict:
    """One run, measured at its start, on its way and at its end, and the averages of its end."""
    given = material(seed)
    config = dataclasses.replace(RUNS[name], seed=seed)
    policy, critic = copy.deepcopy(given.sft), copy.deepcopy(given.reward_model)
    how = (given.tokenizer, given.reward, given.asked, config)
    ptx = corpus() if config.ptx_coefficient else None
    loop = PPO(policy, given.sft, critic, *how, ptx=ptx)
    begun, learning = time.perf_counter(), 0.0
    sft, curve, end = measured(given, given.sft), [], {}
    for line in loop:
        learning += line["seconds"]
        if line["step"] in MEASURED_AT:
            end = measured(given, policy)
            curve.append({"step": line["step"], **on_the_way(end)})
    averages = [
        {"share": share, **measured(given, averaged(policy, given.sft, share))}
        for share in (AVERAGED if name == "ppo" else ())
    ]
    return {
        "seed": seed,
        "run": name,
        "settings": dataclasses.asdict(config),
        "reward_accuracy": given.accuracy,
        "sft": sft,
        "curve": [{"step": 0, **on_the_way(sft)}, *curve],
        "end": end,
        "averages": averages,
        "learning_seconds": learning,
        "seconds": time.perf_counter() - begun,
        "threads": torch.get_num_threads(),
        "provenance": provenance(),
    }


def assert_floors(line: dict) -> None:
    """What the chapter says of every run."""
    where, sft, end = f"{line['run']}, seed {line['seed']}", line["sft"], line["end"]
    assert end["gold"] > sft["gold"], f"{where}: gold {sft['gold']:.2f} to {end['gold']:.2f}"
    lost = end["web"] - sft["web"]
    if line["run"] == "ppo":
        assert lost > 0.15, f"{where}: the loss on the web rises by {lost:.2f} nats a token"
        for average in line["averages"]:
            told = f"{where}: averaged, {average['share']} of SFT"
            assert average["web"] < end["web"] and average["gold"] > end["gold"], told
    elif line["run"] == "ptx 0.5":
        assert lost < 0.15, f"{where}: the loss on the web rises by {lost:.2f} nats a token"


def main() -> None:
    record_runs(__doc__, RESULTS, "run", RUNS, run, assert_floors)


if __name__ == "__main__":
    main()
