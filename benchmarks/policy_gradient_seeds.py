"""Plain REINFORCE on the sums world over fresh seeds: gradient variance and training, by baseline.

    python -m benchmarks.policy_gradient_seeds --seeds 1 2 3 4 5    # a minute a seed, one core
    python -m benchmarks.policy_gradient_seeds --check              # assert the chapter's claims

Every run starts from the shipped base model; the seed draws the prompts and the samples. `train`
takes 30 steps of 64 completions with the strict verifier's reward of 0 or 1 and no baseline, with
the reward shifted by +1 and no baseline, and with the shifted reward and the leave-one-out mean.
`variance` measures the gradient of a fixed batch of 48 prompts with 8 completions each under five
baselines and both rewards, before training and after the run with the leave-one-out mean. One line
a seed goes to `results/policy_gradient_seeds.jsonl`, with settings, hardware and versions; what is
there is not run again. Chapter policy-gradients reads that file.
"""

from __future__ import annotations

import copy
import time
from pathlib import Path

import torch

from benchmarks.provenance import provenance
from benchmarks.recording import check, command_line, record
from rlhf_lib.machinery.optimization import adam, descend
from rlhf_lib.mathematics.advantages import group_advantages, optimal_baseline
from rlhf_lib.mathematics.losses import aggregate, reinforce_loss
from rlhf_lib.models.rollout import sample
from rlhf_lib.models.tokens import token_logprobs
from rlhf_lib.running import artifacts
from rlhf_lib.running.evaluation import evaluate
from rlhf_lib.worlds import sums

RESULTS = Path(__file__).parent / "results" / "policy_gradient_seeds.jsonl"
SETTINGS = {
    "steps": 30,
    "prompts": 8,
    "group_size": 8,
    "learning_rate": 5e-4,
    "max_grad_norm": 1.0,
    "variance_prompts": 48,
    "critic_prompts": 512,
    "ridge": 1.0,
    "evaluated": 400,
}
RUNS = {
    "0/1, none": (0.0, "none"),
    "+1, none": (1.0, "none"),
    "+1, leave-one-out": (1.0, "leave_one_out"),
}  # shift of the reward, baseline
G = SETTINGS["group_size"]


def draw(policy, tokenizer, prompts: list[str], seed: int):
    """Samples of some prompts, and their rewards of 0 or 1."""
    rollout = sample(
        policy,
        tokenizer,
        prompts,
        sums.MAX_NEW_TOKENS,
        generator=torch.Generator().manual_seed(seed),
    )
    return rollout, torch.tensor(sums.strict_verifier(rollout.prompts, rollout.completions))


# ------------------------------------------------------------------------------------ training


def train(base, tokenizer, seed: int, shift: float, baseline: str) -> tuple[object, dict]:
    c, policy = SETTINGS, copy.deepcopy(base).requires_grad_(True)
    optimizer = adam(policy, c["learning_rate"])
    data = list(sums.prompts(c["steps"] * c["prompts"], seed=seed + 200)["prompt"])
    curve, start = [], time.perf_counter()
    for step in range(c["steps"]):
        prompts = [p for p in data[step * c["prompts"] :][: c["prompts"]] for _ in range(G)]
        rollout, rewards = draw(policy, tokenizer, prompts, seed=1_000 * seed + step)
        advantages = group_advantages(rewards + shift, G, baseline, scale="none")
        loss = aggregate(
            reinforce_loss(token_logprobs(policy, rollout), advantages[:, None]),
            rollout.completion_mask,
            "budget",
            sums.MAX_NEW_TOKENS,
        )
        norm = descend(policy, optimizer, loss, c["max_grad_norm"])
        working = sum(text.startswith("<") for text in rollout.completions) / len(prompts)
        curve.append(
            {
                "step": step + 1,
                "reward": rewards.mean().item(),
                "loss": loss.item(),
                "gradient_norm": norm,
                "share_working": working,
            }
        )
    held_out = list(sums.prompts(c["evaluated"], seed=9, held_out=True)["prompt"])
    found = evaluate(
        policy,
        tokenizer,
        held_out,
        {"right": sums.strict_verifier},
        max_new_tokens=sums.MAX_NEW_TOKENS,
        seed=seed,
        batch_size=50,
    )
    return policy, {
        "shift": shift,
        "baseline": baseline,
        "right": found["right"],
        "right_se": found["right_se"],
        "seconds": time.perf_counter() - start,
        "curve": [{k: round(v, 4) for k, v in row.items()} for row in curve],
    }


# ------------------------------------------------------------------------------------ variance


def features(policy, rollout) -> torch.Tensor:
    """What the policy's trunk says of each state, before each token, and a 1: (B, T, D + 1)."""
    with torch.no_grad():
        hidden = policy.transformer(**rollout.model_inputs).last_hidden_state
    T = rollout.completion_ids.shape[1]
    return torch.nn.functional.pad(hidden[:, -T - 1 : -1], (0, 1), value=1.0)


def fit_value_head(policy, tokenizer, seed: int) -> torch.Tensor:
    """Least squares from those features to the reward, on samples of its own: (D + 1,)."""
    prompts = list(sums.prompts(SETTINGS["critic_prompts"], seed=seed + 2_000)["prompt"])
    rollout, rewards = draw(policy, tokenizer, prompts, seed=seed + 2_000)
    mask = rollout.completion_mask.bool()
    x, y = features(policy, rollout)[mask], rewards[:, None].expand(mask.shape)[mask]
    return torch.linalg.solve(x.T @ x + SETTINGS["ridge"] * torch.eye(x.shape[1]), x.T @ y)


def variance(policy, tokenizer, seed: int) -> dict:
    """Variance of the gradient of one prompt's group, and the squared length of the mean gradient.

    Every constant baseline b gives a − b c, with a the mean of r s and c the mean of s over the
    group, s the gradient of a completion's log-probability. So does the leave-one-out mean.
    """
    P = SETTINGS["variance_prompts"]
    policy.requires_grad_(True)
    prompts = [p for p in sums.prompts(P, seed=seed + 1_000)["prompt"] for _ in range(G)]
    rollout, rewards = draw(policy, tokenizer, prompts, seed=seed + 1_000)
    values = features(policy, rollout) @ fit_value_head(policy, tokenizer, seed)  # (B, T)
    left = rewards[:, None] - values
    size = sum(p.numel() for p in policy.parameters())
    a, c, v = (torch.zeros(P, size, dtype=torch.float16) for _ in range(3))
    norms = []
    for i in range(P):
        sums_of = torch.zeros(3, size)
        for j in range(i * G, (i + 1) * G):
            logprobs = token_logprobs(policy, rollout[[j]])
            score = gradient(policy, logprobs.sum(), keep=True)
            norms.append((score @ score).item())
            sums_of += torch.stack(
                [rewards[j] * score, score, gradient(policy, (logprobs * left[j]).sum())]
            )
        a[i], c[i], v[i] = sums_of / G
    norms = torch.tensor(norms)
    best = optimal_baseline(rewards, norms)
    means = rewards.view(P, G).mean(dim=1)
    right = rewards > 0
    found = {
        "reward": rewards.mean().item(),
        "best": best.item(),
        "norms_right": norms[right].mean().item(),
        "norms_wrong": norms[~right].mean().item(),
        "working": sum(t.startswith("<") for t in rollout.completions) / len(prompts),
    }
    for shift in (0.0, 1.0):
        for name, by in {
            "none": -shift,
            "batch mean": rewards.mean(),
            "leave-one-out": means,
            "optimal constant": best,
        }.items():
            factor = G / (G - 1) if name == "leave-one-out" else 1.0
            found[f"{shift:+g}, {name}"] = noise_and_signal(a, c, by, factor)
        found[f"{shift:+g}, learned value"] = noise_and_signal(v, c, 0.0)
    return found


def gradient(policy, scalar: torch.Tensor, keep: bool = False) -> torch.Tensor:
    parts = torch.autograd.grad(scalar, list(policy.parameters()), retain_graph=keep)
    return torch.cat([part.flatten() for part in parts])


def noise_and_signal(a, c, baseline, factor: float = 1.0) -> list[float]:
    """Σ of the variances of (a − b c)·factor over prompts, and the squared length of its mean."""
    P, gram = len(a), torch.zeros(len(a), len(a))
    b = torch.as_tensor(baseline, dtype=torch.float32).expand(P)[:, None]
    for x, y in zip(a.split(20_000, dim=1), c.split(20_000, dim=1)):
        g = factor * (x.float() - b * y.float())
        gram += g @ g.T
    noise = (gram.diagonal().mean() - gram.mean()) * P / (P - 1)
    return [noise.item(), (gram.mean() - noise / P).item()]


# ------------------------------------------------------------------------------------ recording


def run(seed: int) -> dict:
    start = time.perf_counter()
    base, tokenizer = artifacts.load("sums", "base")
    found = {
        "seed": seed,
        "settings": SETTINGS,
        "base": variance(base, tokenizer, seed),
        "runs": {},
    }
    for name, (shift, baseline) in RUNS.items():
        policy, found["runs"][name] = train(base, tokenizer, seed, shift, baseline)
    found["trained"] = variance(policy, tokenizer, seed)
    print(
        f"seed {seed}: right after training "
        + ", ".join(f"{name} {r['right']:.2f}" for name, r in found["runs"].items())
        + "; variance / signal, base: "
        + ratios(found["base"])
        + "; trained: "
        + ratios(found["trained"]),
        flush=True,
    )
    return {**found, "seconds": time.perf_counter() - start, "provenance": provenance()}


def ratios(measured: dict) -> str:
    return ", ".join(f"{k} {v[0] / v[1]:.1f}" for k, v in measured.items() if isinstance(v, list))


def assert_floors(found: dict) -> None:
    """What the chapter says of every seed."""
    right = {name: r["right"] for name, r in found["runs"].items()}
    base, trained = (
        {
            k: v[0] / found[when]["+0, optimal constant"][0]
            for k, v in found[when].items()
            if isinstance(v, list)
        }
        for when in ("base", "trained")
    )  # variance over that of the best constant
    checks = {
        "0/1 without a baseline learns": right["0/1, none"] >= 0.55,
        "+1 with leave-one-out learns": right["+1, leave-one-out"] >= 0.6,
        "+1 without a baseline is .2 below both": right["+1, none"]
        <= min(right["0/1, none"], right["+1, leave-one-out"]) - 0.2,
        "no baseline nearly optimal at 0/1": base["+0, none"] < 1.2 and trained["+0, none"] < 1.2,
        "the learned value is noisier": all(
            x["+0, learned value"] > x["+0, none"] for x in (base, trained)
        ),
        "the best constant is far below the mean": all(
            found[when]["best"] < 0.65 * found[when]["reward"] for when in ("base", "trained")
        ),
        "+1 multiplies the variance at the start": base["+1, none"] > 5,
        "the batch mean is worse than none after training": trained["+0, batch mean"]
        > 1.1 * trained["+0, none"],
    }
    failed = [name for name, held in checks.items() if not held]
    assert not failed, f"seed {found['seed']}: " + "; ".join(failed)


def main() -> None:
    options = command_line(__doc__).parse_args()
    torch.set_num_threads(options.threads)
    if not options.check:
        record(RESULTS, ("seed",), [(seed,) for seed in options.seeds], run)
    check(RESULTS, assert_floors)


if __name__ == "__main__":
    main()
