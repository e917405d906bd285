"""A calculator in the replies: GRPO with its tokens masked, with them learnt from, and without it.

    python -m benchmarks.calculator --seeds 1 2 3 4 5     # about 40 seconds a run on two cores
    python -m benchmarks.calculator --check               # assert the floors on what is recorded

The sums have numbers of five digits, one more than the base model ever added. A few
demonstrations, of which a share calls the calculator, are imitated first, without what the
calculator wrote in them; all three treatments of a seed start from that model. `masked` learns from
the policy's own tokens. `unmasked` takes the calculator's for chosen ones, with the probability
that the policy gave them. In `no tool` nobody answers a call. Everything else is the same.

`gradient` compares, on the first batch, the gradient of the policy's tokens with that of the
calculator's. `measured` is of held-out sums, sampled: how many answers are right, how many replies
call, in how many the policy begins a result itself (`forged`), and how many nats a token of the
calculator has under the policy, beside one of its own. One line a run goes to
`results/calculator.jsonl`, with settings, hardware and versions; what is there is not run again.
Chapter: real-model.
"""

from __future__ import annotations

import copy
import dataclasses
from functools import lru_cache
from pathlib import Path

import torch

from benchmarks.provenance import provenance
from benchmarks.recording import record_runs
from rlhf_lib.algorithms.grpo import GRPO, GRPOConfig
from rlhf_lib.algorithms.sft import SFT, SFTConfig
from rlhf_lib.mathematics.advantages import group_advantages
from rlhf_lib.models.rollout import Rollout
from rlhf_lib.models.rollout import sample as sample_alone
from rlhf_lib.models.tokens import token_logprobs
from rlhf_lib.running import artifacts
from rlhf_lib.worlds import calculator, sums

RESULTS = Path(__file__).parent / "results" / "calculator.jsonl"
STEPS, MEASURED_AT = 20, (5, 10, 15, 20)
TREATMENTS = ("masked", "unmasked", "no tool")
SHARE_CALLS = 0.45  # of the demonstrations
LESSON = SFTConfig(max_steps=230, batch_size=64, learning_rate=2e-3)
SETTINGS = GRPOConfig(
    max_steps=STEPS,
    batch_size=128,
    mini_batch_size=32,
    num_generations=8,
    num_iterations=1,
    max_new_tokens=calculator.MAX_NEW_TOKENS,
    beta=0.0,
    aggregate_over="tokens",
    missing_eos_penalty=0.0,
    learning_rate=2e-4,
)


class Imitation(SFT):
    """SFT that reads what the calculator wrote, and does not imitate it."""

    def collect(self):
        (batch,) = super().collect()
        return (calculator.masked(batch, self.tokenizer),)


class WithCalculator(GRPO):
    """GRPO whose policy may call the calculator; its tokens are masked."""

    def sample(self, policy, prompts: list[str]) -> Rollout:
        c = self.config
        how = (c.max_new_tokens, c.temperature, self.sampler)
        return calculator.sample(policy, self.tokenizer, prompts, *how)


class Unmasked(WithCalculator):
    """The mistake: the calculator's tokens are taken for the policy's."""

    def sample(self, policy, prompts: list[str]) -> Rollout:
        return taken_for_chosen(super().sample(policy, prompts), policy, self.config.temperature)


@torch.no_grad()
def taken_for_chosen(rollout: Rollout, policy, temperature: float = 1.0) -> Rollout:
    """The rollout as if the policy had drawn every token that it read."""
    taken = dataclasses.replace(rollout, completion_mask=rollout.read_mask)
    return dataclasses.replace(taken, logprobs=token_logprobs(policy, taken, temperature))


@lru_cache(maxsize=1)
def started(seed: int):
    """The policy that all treatments of a seed start from, and its tokenizer."""
    policy, tokenizer = artifacts.load("sums", "base")
    data = calculator.demonstrations(LESSON.max_steps * LESSON.batch_size, seed, SHARE_CALLS)
    for _ in Imitation(policy, tokenizer, data, dataclasses.replace(LESSON, seed=seed)):
        pass
    return policy, tokenizer


@torch.no_grad()
def measure(policy, tokenizer, held_out: list[str], seed: int, tool: bool) -> dict:
    """Shares of sampled replies, lengths, and the mean −log π of whose tokens, in nats."""
    how = (calculator.MAX_NEW_TOKENS, 1.0, torch.Generator().manual_seed(seed))
    rollout = (calculator.sample if tool else sample_alone)(policy, tokenizer, held_out, *how)
    found = [calculator.features(*x) for x in zip(held_out, rollout.completions, strict=True)]
    own = rollout.completion_mask.bool()
    everything = taken_for_chosen(rollout, policy)
    theirs = everything.completion_mask.bool() & ~own
    return {
        **{name: sum(x[name] for x in found) / len(found) for name in found[0]},
        "length": rollout.lengths.float().mean().item(),
        "read": theirs.sum(dim=1).float().mean().item(),
        "nats_own": -rollout.logprobs[own].mean().item(),
        "nats_theirs": -everything.logprobs[theirs].mean().item() if theirs.any() else None,
    }


def gradient_parts(loop: GRPO) -> dict:
    """Of the first batch: norms of the gradient of the policy's tokens and of the calculator's.

    Both are divided by the number of the policy's tokens. The loop's masks its calculator.
    """
    rollout, scores, _ = loop.collect()
    advantages = group_advantages(scores, loop.config.num_generations)[:, None]
    own, batch = rollout.completion_mask, taken_for_chosen(rollout, loop.policy)
    everything = batch.completion_mask
    logprobs = token_logprobs(loop.policy, batch)  # at a ratio of 1 its gradient is the loss's
    flat = {}
    for name, part in (("own", own), ("theirs", everything - own)):
        loss = -(advantages * logprobs * part).sum() / own.sum()
        parts = torch.autograd.grad(loss, list(loop.policy.parameters()), retain_graph=True)
        flat[name] = torch.cat([x.flatten() for x in parts])
    return {
        **{name: x.norm().item() for name, x in flat.items()},
        "cosine": torch.cosine_similarity(flat["own"], flat["theirs"], dim=0).item(),
        "share_of_tokens": (everything - own).sum().item() / everything.sum().item(),
    }


def run(seed: int, treatment: str) -> dict:
    start, tokenizer = started(seed)
    policy = copy.deepcopy(start)
    held_out = list(calculator.prompts(400, seed + 9, held_out=True)["prompt"])
    data = calculator.prompts(4_000, seed + 100)
    config = dataclasses.replace(SETTINGS, seed=seed)
    kind = {"masked": WithCalculator, "unmasked": Unmasked, "no tool": GRPO}[treatment]
    rest = (None, tokenizer, sums.strict_verifier, data, config)
    tool = treatment != "no tool"
    measured = [{"step": 0, **measure(policy, tokenizer, held_out, seed, tool)}]
    gradient = None
    if treatment == "masked":  # by a copy: the run itself begins where the others do
        gradient = gradient_parts(kind(copy.deepcopy(policy), *rest))
    loop, curve = kind(policy, *rest), []
    for row in loop:
        names = ("step", "reward", "length", "entropy", "gradient_norm", "clip_fraction", "seconds")
        curve.append({name: row[name] for name in names})
        curve[-1]["tokens"] = int(loop.rollout.lengths.sum())
        if row["step"] in MEASURED_AT:
            at = measure(policy, tokenizer, held_out, seed, tool)
            measured.append({"step": row["step"], **at})
    for name in ("right", "calls", "forged", "nats_theirs"):
        print(f"seed {seed}, {treatment}: {name}", [m[name] for m in measured], flush=True)
    return {
        "seed": seed,
        "treatment": treatment,
        "settings": dataclasses.asdict(config),
        "gradient": gradient,
        "measured": measured,
        "curve": curve,
        "provenance": provenance(),
    }


def assert_floors(found: dict) -> None:
    """What the chapter says of every run."""
    first, last = found["measured"][0], found["measured"][-1]
    where = f"seed {found['seed']}, {found['treatment']}"
    assert len(found["curve"]) == STEPS and last["step"] == STEPS, f"{where}: cut short"
    if found["treatment"] == "no tool":
        assert last["right"] <= 0.05, f"{where}: {last['right']} right without a tool"
        return
    assert first["calls"] <= 0.7, f"{where}: {first['calls']} call before training"
    assert last["calls"] >= 0.85, f"{where}: {last['calls']} call after it"
    assert last["right"] >= first["right"] + 0.2, f"{where}: {last['right']} right after it"
    if found["treatment"] == "masked":
        parts = found["gradient"]
        assert parts["theirs"] >= 3 * parts["own"], f"{where}: gradients {parts}"
    else:  # it learns to expect what it will be told
        assert last["nats_theirs"] <= first["nats_theirs"] - 1, f"{where}: {last['nats_theirs']}"


def main() -> None:
    record_runs(__doc__, RESULTS, "treatment", TREATMENTS, run, assert_floors)


if __name__ == "__main__":
    main()
