"""The sources of reward of chapter reward-sources, over fresh seeds of data, models and samples.

    python -m benchmarks.reward_sources_seeds --seeds 1 2 3 4 5   # 2 minutes a seed on one core
    python -m benchmarks.reward_sources_seeds --check             # assert the floors on the record

Every seed starts from the shipped SFT and sums models. It draws its own pairs, trains its own
judge and its own two reward models (human labels, and the same pairs relabelled by principles),
samples its own eight replies to each of 150 held-out prompts, and trains two policies on sums, one
against each verifier. One line a seed goes to `results/reward_sources_seeds.jsonl`; a seed that is
there is not run again. Chapter reward-sources reads that file, and explains what is measured.
"""

from __future__ import annotations

import copy
import logging
import random
import re
import time
from pathlib import Path

import torch
from datasets import Dataset

from benchmarks.provenance import provenance
from benchmarks.recording import check, command_line, record
from rlhf_lib.algorithms.grpo import GRPO, GRPOConfig
from rlhf_lib.algorithms.reward_training import RewardConfig, RewardTraining
from rlhf_lib.algorithms.sft import SFT, SFTConfig
from rlhf_lib.models.reward_model import new_reward_model
from rlhf_lib.models.rewards import LearnedReward, weighted_sum
from rlhf_lib.models.rollout import sample
from rlhf_lib.running import artifacts
from rlhf_lib.running.evaluation import evaluate
from rlhf_lib.worlds import letters, sums
from rlhf_lib.worlds.reward_sources import (
    PairwiseJudge,
    ProcessReward,
    VerifiableReward,
    length_penalty,
    rule_reward,
)

RESULTS = Path(__file__).parent / "results" / "reward_sources_seeds.jsonl"
TEMPLATE = "{prompt} 1: {first} 2: {second} better:"
REWARD = dict(max_steps=100, batch_size=32, learning_rate=5e-4)
JUDGE = dict(max_steps=110, batch_size=32, learning_rate=1e-3)
VERIFIED = dict(
    max_steps=18,
    batch_size=256,
    mini_batch_size=64,
    num_iterations=1,
    max_new_tokens=sums.MAX_NEW_TOKENS,
    beta=0.0,
)
SLOT_WORDS = {*letters.NAMES, *letters.ITEMS, *letters.DAYS}


# The sources, as in the chapter ----------------------------------------------------------------


def wrong_slots(prompt: str, reply: str) -> set[str]:
    """Names, items and days that stand in a reply and not in its prompt."""
    return set(letters.words(reply)) & (SLOT_WORDS - set(letters.words(prompt)))


def greets(prompt: str, reply: str) -> bool:
    words = letters.words(reply)
    return bool({*words[:1]} & {"hello", "hi", "dear"}) and letters.parse(prompt).name in words[:4]


RULES = {
    "greets": (1.0, greets),
    "item": (1.0, lambda prompt, reply: letters.parse(prompt).item in letters.words(reply)),
    "day": (1.0, lambda prompt, reply: letters.parse(prompt).day in letters.words(reply)),
    "length": (1.0, lambda prompt, reply: 7 <= len(letters.words(reply)) <= 24),
}


def slots_filled(prompt: str, reply: str) -> bool:
    request = letters.parse(prompt)
    return {request.name, request.item, request.day} <= set(
        letters.words(reply)
    ) and not wrong_slots(prompt, reply)


def sentences(reply: str) -> list[str]:
    return [part for part in re.split(r"(?<=[.!?])\s+", reply) if part]


def sound(prompt: str, parts: list[str]) -> list[float]:
    scores = []
    for part in parts:
        words = letters.words(part)
        faults = set(words) & {*letters.RUDE, *letters.OFF_TOPIC, *letters.EVASIVE}
        stutters = any(a == b for a, b in zip(words, words[1:]))
        scores.append(float(not (faults or stutters or wrong_slots(prompt, part))))
    return scores


PRINCIPLES = {
    "say nothing that the request does not say": lambda p, r: bool(wrong_slots(p, r)),
    "do not insult": lambda p, r: bool(set(letters.words(r)) & set(letters.RUDE)),
    "stay with the subject": lambda p, r: bool(set(letters.words(r)) & set(letters.OFF_TOPIC)),
    "do not evade": lambda p, r: bool(set(letters.words(r)) & set(letters.EVASIVE)),
    "do not gush": lambda p, r: sum(word in letters.GUSH for word in letters.words(r)) > 1,
}


def broken(prompt: str, reply: str) -> int:
    """How many principles a reply breaks."""
    return sum(breaks(prompt, reply) for breaks in PRINCIPLES.values())


def relabel(pairs) -> Dataset:
    rows = []
    for row in pairs:
        chosen, rejected = (broken(row["prompt"], row[side]) for side in ("chosen", "rejected"))
        rows.append(
            {**row, "chosen": row["rejected"], "rejected": row["chosen"]}
            if chosen > rejected
            else row
        )
    return Dataset.from_list(rows)


def written_pairs(n: int, seed: int) -> Dataset:
    """n requests, each answered by two demonstrators and compared by an annotator."""
    rng = random.Random(seed)
    styles, shares = zip(*letters.DEMONSTRATION_MIX.items())
    prompts, first, second = [], [], []
    for _ in range(n):
        request = letters.draw_request(rng)
        prompts.append(request.prompt)
        for side, style in zip((first, second), rng.choices(styles, shares, k=2)):
            side.append(letters.write(request, style, rng))
    return letters.Annotators(seed=0).label(prompts, first, second, seed=seed)


def questions(pairs, seed: int) -> Dataset:
    rng = random.Random(seed)
    rows = []
    for row in pairs:
        first = rng.random() < 0.5  # the preferred reply stands first in half of them
        one, other = (row["chosen"], row["rejected"])[:: 1 if first else -1]
        rows.append(
            {
                "prompt": TEMPLATE.format(prompt=row["prompt"], first=one, second=other),
                "completion": "1" if first else "2",
            }
        )
    return Dataset.from_list(rows)


def close_verifier(prompt: str, completion: str) -> bool:
    right = int(sums.answer(prompt))
    return abs(int(sums.split(completion)[1]) - right) <= 0.2 * right


# Measuring --------------------------------------------------------------------------------------


def measure(scores, gold: torch.Tensor) -> dict:
    """Agreement on pairs, correlation within prompts, and what the best of eight gains in gold."""
    scores = torch.as_tensor(scores, dtype=torch.float64).view_as(gold)
    verdicts = (scores[:, :, None] - scores[:, None, :]).sign()
    truth = (gold[:, :, None] - gold[:, None, :]).sign()
    centred, target = (x - x.mean(dim=1, keepdim=True) for x in (scores, gold))
    best = (scores == scores.amax(dim=1, keepdim=True)).double()  # ties: their average
    best /= best.sum(dim=1, keepdim=True)
    gain = (best * target).sum(dim=1)
    return {
        "agreement": ((verdicts * truth + 1) / 2)[truth != 0].mean().item(),
        "correlation": (
            (centred * target).sum() / (centred.norm() * target.norm()).clamp(min=1e-12)
        ).item(),
        "gain": gain.mean().item(),
        "gain_se": (gain.std() / len(gain) ** 0.5).item(),
        "best": best,
    }


def run_seed(seed: int) -> dict:
    start = time.perf_counter()
    _, sft, tokenizer = artifacts.letters_models("tiny")
    held_out = list(letters.prompts(150, seed=seed + 9, held_out=True)["prompt"])
    prompts = [prompt for prompt in held_out for _ in range(8)]
    generator = torch.Generator().manual_seed(seed)
    replies = []
    for i in range(0, len(prompts), 240):
        replies += sample(
            sft, tokenizer, prompts[i : i + 240], letters.MAX_NEW_TOKENS, generator=generator
        ).completions
    shape = (len(held_out), 8)
    gold = torch.tensor(letters.gold_reward(prompts, replies), dtype=torch.float64).view(shape)
    pairs = written_pairs(3_520, seed)

    trained = {}
    for name, data in (("human", pairs), ("constitution", relabel(pairs))):
        trained[name] = new_reward_model(sft, seed)
        list(RewardTraining(trained[name], tokenizer, data, RewardConfig(seed=seed, **REWARD)))
    words = copy.deepcopy(tokenizer)
    words.add_tokens(["1", "2", "better"])
    model = copy.deepcopy(sft)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.resize_token_embeddings(len(words), mean_resizing=False)
    list(SFT(model, words, questions(pairs, seed), SFTConfig(seed=seed, **JUDGE)))
    judge = PairwiseJudge(model, words, TEMPLATE)
    reference = sample(sft, tokenizer, held_out, letters.MAX_NEW_TOKENS, greedy=True).completions
    reference = [reply for reply in reference for _ in range(8)]
    first = judge.log_odds(prompts, replies, reference)
    second = -judge.log_odds(prompts, reference, replies)

    scores = {
        "learned": LearnedReward(artifacts.load("letters", "reward")[0], tokenizer)(
            prompts, replies
        ),
        "rules": rule_reward(RULES)(prompts, replies),
        "verifier": VerifiableReward(slots_filled)(prompts, replies),
        "process": ProcessReward(sentences, sound)(prompts, replies),
        "judge, shown first": first,
        "judge, shown second": second,
        "judge, both orders": (first + second) / 2,
        "principles": [-broken(p, r) for p, r in zip(prompts, replies)],
        **{
            name: LearnedReward(model, tokenizer)(prompts, replies)
            for name, model in trained.items()
        },
    }
    counts = {
        "dishonest": [float(bool(wrong_slots(p, r))) for p, r in zip(prompts, replies)],
        "gush": [letters.features(p, r)["gush"] for p, r in zip(prompts, replies)],
    }
    found = {
        "seed": seed,
        "gold_mean": gold.mean().item(),
        "relabelled": sum(
            broken(r["prompt"], r["chosen"]) > broken(r["prompt"], r["rejected"]) for r in pairs
        )
        / len(pairs),
        "sources": {},
    }
    for name, values in {"random": [0.0] * len(prompts), "gold": gold, **scores}.items():
        row = measure(values, gold)
        best = row.pop("best")
        found["sources"][name] = row | {
            what: (best * torch.tensor(count).view(shape)).sum(dim=1).mean().item()
            for what, count in counts.items()
        }

    some = [i for i in range(len(prompts)) if i % 2 == 0]  # replies 0 and 1, 2 and 3, ...
    a, b = [replies[i] for i in some], [replies[i + 1] for i in some]
    asked = [prompts[i] for i in some]
    forward, backward = judge.log_odds(asked, a, b), judge.log_odds(asked, b, a)
    gap = torch.tensor(letters.gold_reward(asked, a)) - torch.tensor(letters.gold_reward(asked, b))
    right = lambda odds: ((odds > 0) == (gap > 0))[gap != 0].float().mean().item()
    found["judge"] = judge.position_bias(asked, a, b) | {
        "spread": ((forward + backward) / 2).std().item(),
        "accuracy_one_order": (right(forward) + right(-backward)) / 2,
        "accuracy_both": right(forward - backward),
    }
    print(f"seed {seed}: letters after {time.perf_counter() - start:.0f} s", flush=True)

    found["verifiers"] = run_verifiers(seed)
    return {
        **found,
        "settings": {"reward": REWARD, "judge": JUDGE, "grpo": VERIFIED},
        "seconds": time.perf_counter() - start,
        "provenance": provenance(),
    }


def run_verifiers(seed: int) -> dict:
    """GRPO on sums against the strict and the tolerant verifier, each with a price on tokens."""
    base, tokenizer = artifacts.load("sums", "base")
    held_out = list(sums.prompts(400, seed=seed + 9, held_out=True)["prompt"])
    close = VerifiableReward(close_verifier, "close")
    logging.getLogger("rlhf_lib.worlds.reward_sources").setLevel(
        logging.ERROR
    )  # base writes odd answers

    def measured(policy) -> dict:
        result = evaluate(
            policy,
            tokenizer,
            held_out,
            {"right": sums.strict_verifier, "close": close},
            max_new_tokens=sums.MAX_NEW_TOKENS,
            seed=seed,
            batch_size=100,
        )
        return {k: v for k, v in result.items() if isinstance(v, float)}

    found = {"before": measured(base)}
    for name, verifier in (("strict", sums.strict_verifier), ("tolerant", close)):
        policy = copy.deepcopy(base)
        reward = weighted_sum([verifier, length_penalty(0.01, tokenizer)], [1.0, 1.0])
        list(
            GRPO(
                policy,
                None,
                tokenizer,
                reward,
                sums.prompts(4_000, seed=seed + 100),
                GRPOConfig(seed=seed, **VERIFIED),
            )
        )
        found[name] = measured(policy)
    return found


def assert_floors(found: dict) -> None:
    """What the chapter claims, and has to hold on every seed."""
    s, judge, verifiers = found["sources"], found["judge"], found["verifiers"]
    paid = lambda measured: measured["close"] - 0.01 * measured["length"]
    checks = {
        "every source gains over a random choice": all(
            row["gain"] > 2 * row["gain_se"] for name, row in s.items() if name != "random"
        ),
        "no source beats gold": all(row["gain"] <= s["gold"]["gain"] for row in s.values()),
        "position changes a fifth of the verdicts": judge["flips"] >= 0.2,
        "both orders are no worse than one": judge["accuracy_both"]
        >= judge["accuracy_one_order"] - 0.01,
        "the constitution ends gushing": s["constitution"]["gush"] <= 0.6 * s["human"]["gush"],
        "it does not end dishonesty": s["constitution"]["dishonest"]
        >= s["random"]["dishonest"] - 0.08,
        "the check does": s["principles"]["dishonest"] <= 0.03,
        "tolerant: what is paid rises": paid(verifiers["tolerant"])
        >= paid(verifiers["before"]) + 0.03,
        "tolerant: the verdict hardly moves": abs(
            verifiers["tolerant"]["close"] - verifiers["before"]["close"]
        )
        <= 0.08,
        "tolerant: sums go wrong": verifiers["tolerant"]["right"] <= 0.06,
        "strict: sums go right": verifiers["strict"]["right"] >= 0.6,
    }
    failed = [name for name, held in checks.items() if not held]
    assert not failed, f"seed {found['seed']}: " + "; ".join(failed)


def main() -> None:
    options = command_line(__doc__).parse_args()
    torch.set_num_threads(options.threads)
    if not options.check:
        record(RESULTS, ("seed",), [(seed,) for seed in options.seeds], run_seed)
    check(RESULTS, assert_floors, "seeds")


if __name__ == "__main__":
    main()
