"""GRPO's relatives on the sums world at an equal budget of sampled tokens, over five seeds.

    python -m benchmarks.grpo_variants                         # about 30 s a run on one core
    python -m benchmarks.grpo_variants --rates 1e-4 4e-4 --seeds 11 --methods grpo gspo cispo
    python -m benchmarks.grpo_variants --check                 # assert the floors

Every run starts from the shipped base model and stops with the step that brings the completion
tokens it has sampled to `TOKENS`. Tokens are what sampling and training both pay for: they are
counted where the verifier sees them, so that those which dynamic sampling throws away count too.
A seed draws the same prompts for every method, and measures on the same 400 held-out sums: greedy,
and with two samples each. No method has a KL term, and all have one learning rate; the second
command is a check of that rate on a seed apart. One line a run goes to
`results/grpo_variants.jsonl`, with settings, hardware and versions; what is there is not run
again. `--methods gradients` trains nothing: it measures the gradient that a batch of the base
model's samples gives under five of the methods. Chapter grpo-variants reads that file.
"""

from __future__ import annotations

import dataclasses
import math
import time
from itertools import product
from pathlib import Path

import torch

from benchmarks.provenance import provenance
from benchmarks.recording import check, command_line, record
from rlhf_lib.algorithms.grpo import GRPO, GRPOConfig
from rlhf_lib.algorithms.variants import VARIANTS
from rlhf_lib.mathematics.advantages import group_advantages
from rlhf_lib.models.rollout import sample
from rlhf_lib.models.tokens import token_logprobs
from rlhf_lib.running import artifacts
from rlhf_lib.worlds import sums
from rlhf_lib.worlds.reward_sources import soft_overlong_punishment

RESULTS = Path(__file__).parent / "results" / "grpo_variants.jsonl"
TOKENS = 200_000  # sampled in a run, those thrown away included
MEASURED_AT = 20_000  # tokens after which a greedy accuracy is recorded
RATE = 2e-4
LONGEST = 48  # tokens; a right working ends by itself after at most 41
COMMON = GRPOConfig(
    max_steps=1_000,
    batch_size=256,
    mini_batch_size=64,
    num_generations=8,
    num_iterations=1,
    max_new_tokens=LONGEST,
    missing_eos_penalty=0.0,
    learning_rate=RATE,
)
PARTS = {
    "clip_higher": dict(epsilon_high=0.28),
    "token_loss": dict(aggregate_over="tokens"),
    "dynamic_sampling": dict(dynamic_sampling=True),
    "overlong_shaping": {},  # of DAPO
    "overlong_tight": {},
}
METHODS = {
    "grpo": {},
    "dr_grpo": VARIANTS["dr_grpo"],
    **PARTS,
    **{name: VARIANTS[name] for name in ("dapo", "gspo", "cispo", "rloo", "reinforce++")},
}
SHAPED = {  # L_max and L_cache: beyond every right working, and well within the longest of them
    "overlong_shaping": (48, 8),
    "dapo": (48, 8),
    "overlong_tight": (41, 8),
}
KEPT = (
    "step",
    "tokens",
    "seconds",
    "reward",
    "length",
    "finished",
    "entropy",
    "clip_fraction",
    "gradient_norm",
    "zero_variance_groups",
    "drawn",
)


def settings(method: str, seed: int, rate: float = RATE) -> GRPOConfig:
    """A method's settings, all without a KL term."""
    return dataclasses.replace(
        COMMON, **{**METHODS[method], "beta": 0.0}, seed=seed, learning_rate=rate
    )


class CountingVerifier:
    """The strict verifier, with overlong shaping if asked; it counts the tokens that it is shown.

    A character is a token, and a completion that ended by itself has one more.
    """

    def __init__(self, tokenizer, shaping: tuple[int, int] | None):
        self.tokens = 0
        self.shaping = shaping and soft_overlong_punishment(*shaping, tokenizer)

    def __call__(self, prompts: list[str], completions: list[str], **columns) -> list[float]:
        self.tokens += sum(min(len(text) + 1, LONGEST) for text in completions)
        right = sums.strict_verifier(prompts, completions)
        if self.shaping is None:
            return right
        return [r + s for r, s in zip(right, self.shaping(prompts, completions))]


def mean(values) -> float | None:
    values = list(values)
    return sum(values) / len(values) if values else None


def greedy_accuracy(policy, tokenizer, prompts: list[str]) -> float:
    rollout = sample(policy, tokenizer, prompts, LONGEST, greedy=True)
    return mean(sums.strict_verifier(prompts, rollout.completions))


def measured(policy, tokenizer, prompts: list[str], seed: int) -> dict:
    """Held-out accuracy, and how long right and wrong completions are."""
    rollout = sample(
        policy, tokenizer, 2 * prompts, LONGEST, generator=torch.Generator().manual_seed(seed)
    )
    rows = list(
        zip(sums.strict_verifier(rollout.prompts, rollout.completions), rollout.lengths.tolist())
    )
    return {
        "greedy": greedy_accuracy(policy, tokenizer, prompts),
        "sampled": mean(right for right, _ in rows),
        "length": mean(length for _, length in rows),
        "length_if_right": mean(length for right, length in rows if right),
        "length_if_wrong": mean(length for right, length in rows if not right),
        "finished": rollout.finished.float().mean().item(),
        "working": mean(text.startswith("<") for text in rollout.completions),
    }


def run(seed: int, method: str, rate: float = RATE) -> dict:
    if method == "gradients":
        return gradients(seed)
    start = time.perf_counter()
    policy, tokenizer = artifacts.load("sums", "base")
    config, verifier = settings(method, seed, rate), CountingVerifier(tokenizer, SHAPED.get(method))
    held_out = list(sums.prompts(400, seed + 9, held_out=True)["prompt"])
    found = {
        "seed": seed,
        "method": method,
        "learning_rate": rate,
        "settings": dataclasses.asdict(config),
        "base": measured(policy, tokenizer, held_out, seed),
        "curve": [],
    }
    loop = GRPO(policy, None, tokenizer, verifier, sums.prompts(20_000, seed + 100), config)
    seconds = 0.0  # of the loop, without the measurements
    for row in loop:
        seconds += row["seconds"]
        row["tokens"] = verifier.tokens
        # with one completion a prompt there are no groups; reward leaves the shaping out
        if config.num_generations == 1:
            row["zero_variance_groups"] = None
        row["right"] = mean(sums.strict_verifier(loop.rollout.prompts, loop.rollout.completions))
        found["curve"].append(
            {k: row[k] if row[k] is None else round(row[k], 4) for k in (*KEPT, "right")}
        )
        if verifier.tokens >= MEASURED_AT and "greedy_early" not in found:
            found["greedy_early"] = greedy_accuracy(policy, tokenizer, held_out)
        if verifier.tokens >= TOKENS:
            break
    found |= {
        "steps": loop.step_number,
        "tokens": verifier.tokens,
        "loop_seconds": seconds,
        "completions": sum(row["drawn"] for row in found["curve"]),
        "final": measured(policy, tokenizer, held_out, seed),
    }
    final = found["final"]
    print(
        f"seed {seed}, {method}, {rate:g}: greedy {found['base']['greedy']:.3f} → "
        f"{found['greedy_early']:.3f} → {final['greedy']:.3f}, sampled {final['sampled']:.3f}, "
        f"length {final['length']:.1f}, finished {final['finished']:.3f}, {found['steps']} "
        f"steps, {found['tokens']} tokens, {seconds:.0f} s",
        flush=True,
    )
    return {**found, "seconds": time.perf_counter() - start, "provenance": provenance()}


# ------------------------------------------------------------------------------- one gradient

PROMPTS = 128  # of the gradient measurement, with COMMON.num_generations completions each


def completion_weights(rewards: torch.Tensor, lengths: torch.Tensor) -> dict[str, torch.Tensor]:
    """What each method multiplies ∇ log π(y) of each completion by, at ratio 1, up to a constant.

    A completion's tokens share one advantage, so a method is one number for each completion. The
    first is the true gradient on average. GSPO begins as GRPO does, CISPO as GRPO over tokens.
    """
    G = COMMON.num_generations
    divided, centred = (group_advantages(rewards, G, "mean", scale) for scale in ("std", "none"))
    over_batch = rewards - (rewards * lengths).sum() / lengths.sum()  # the mean over its tokens
    return {
        "dr_grpo": centred,
        "grpo": divided / lengths,
        "grpo, no std": centred / lengths,
        "token_loss": divided,
        "reinforce++": over_batch,
    }


def gradients(seed: int) -> dict:
    """Direction and noise of each method's gradient at the base model, before any update.

    The product of the gradients of two different prompts is, on average, that of the expected
    gradients. So the sum over all pairs gives squared lengths and cosines without the bias that
    squaring a noisy mean would have. `noise` is that of 8 completions, in units of the signal:
    those of one prompt, or for `reinforce++` of eight.
    """
    start, G = time.perf_counter(), COMMON.num_generations
    policy, tokenizer = artifacts.load("sums", "base")
    policy.requires_grad_(True)
    prompts = [p for p in sums.prompts(PROMPTS, seed + 1_000)["prompt"] for _ in range(G)]
    rollout = sample(
        policy, tokenizer, prompts, LONGEST, generator=torch.Generator().manual_seed(seed)
    )
    rewards = torch.tensor(sums.strict_verifier(rollout.prompts, rollout.completions))
    weights = completion_weights(rewards, rollout.lengths)
    table = torch.stack(list(weights.values()))  # (methods, completions)
    size = sum(p.numel() for p in policy.parameters())
    total, alone = torch.zeros(len(table), size), torch.zeros(len(table))
    within = torch.zeros(len(table), len(table), dtype=torch.float64)
    for i in range(PROMPTS):
        group = torch.zeros(len(table), size)
        for j in range(i * G, (i + 1) * G):
            if not table[:, j].any():
                continue
            logprob = token_logprobs(policy, rollout[[j]]).sum()
            grads = torch.autograd.grad(logprob, list(policy.parameters()))
            score = torch.cat([g.flatten() for g in grads])
            group += table[:, j, None] * score
            alone += table[:, j] ** 2 * (score @ score)
        group /= G
        total += group
        within += (group @ group.T).double()
    products = ((total @ total.T).double() - within) / (PROMPTS * (PROMPTS - 1))
    signal = products.diagonal()
    noise = within.diagonal() / PROMPTS - signal
    last = list(weights).index("reinforce++")  # its batch of 8 has eight prompts
    noise[last] = ((alone[last].double() / (PROMPTS * G)) - signal[last]) / G
    found = {
        name: {
            "cosine": (products[0, k] / (signal[0] * signal[k]).sqrt()).item(),
            "noise": (noise[k] / signal[k]).sqrt().item(),
        }
        for k, name in enumerate(weights)
    }
    print(
        f"seed {seed}, gradients: "
        + ", ".join(f"{name} {v['cosine']:.3f} {v['noise']:.2f}" for name, v in found.items()),
        flush=True,
    )
    return {
        "seed": seed,
        "method": "gradients",
        "learning_rate": 0.0,
        "prompts": PROMPTS,
        "right": rewards.mean().item(),
        "gradients": found,
        "seconds": time.perf_counter() - start,
        "provenance": provenance(),
    }


# ------------------------------------------------------------------------------- intervals

# Student's t at 97.5 % for n − 1 degrees of freedom, n = 2 … 10
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def t_interval(values: list[float]) -> tuple[float, float]:
    """Mean and half-width of the 95 % t-interval of a few independent values, 2 to 10 of them.

    >>> [round(x, 3) for x in t_interval([1., 2., 3.])]
    [2.0, 2.484]
    """
    n, centre = len(values), mean(values)
    if not 2 <= n <= 10:
        raise ValueError(f"values has {n} entries; expected 2 to 10")
    variance = sum((v - centre) ** 2 for v in values) / (n - 1)
    return centre, T_975[n - 2] * math.sqrt(variance / n)


def assert_floors(found: dict) -> None:
    """What every run at the common rate has to clear."""
    if found["method"] == "gradients":
        assert all(abs(v["cosine"]) <= 1.1 and v["noise"] > 0 for v in found["gradients"].values())
        return
    base, final = found["base"], found["final"]
    checks = {
        "tokens reach the budget": found["tokens"] >= TOKENS,
        "base greedy ≤ .15": base["greedy"] <= 0.15,
        "finite curve": all(math.isfinite(row["gradient_norm"]) for row in found["curve"]),
    }
    if found["learning_rate"] == RATE:
        checks |= {
            "greedy rises by .5": final["greedy"] >= base["greedy"] + 0.5,
            "sampled rises by .3": final["sampled"] >= base["sampled"] + 0.3,
        }
    failed = [name for name, held in checks.items() if not held]
    assert not failed, f"seed {found['seed']}, {found['method']}: " + "; ".join(failed)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument(
        "--methods", nargs="+", default=list(METHODS), choices=[*METHODS, "gradients"]
    )
    parser.add_argument("--rates", type=float, nargs="+", default=[RATE])
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="start no run after that many"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.check:
        record(
            RESULTS,
            ("seed", "method", "learning_rate"),
            [
                (seed, method, 0.0 if method == "gradients" else rate)
                for seed, method, rate in product(options.seeds, options.methods, options.rates)
            ],
            run,
            options.seconds,
        )
    check(RESULTS, assert_floors)


if __name__ == "__main__":
    main()
