"""GRPO on sums whose sampler is some updates old: ignored, clipped, or weighted in four ways.

    python -m benchmarks.stale_sums --seeds 1 2 3 4 5     # about 5 minutes a seed on one core
    python -m benchmarks.stale_sums --check               # assert the floors on what is recorded

Every run starts from the shipped base model, is paid by the strict verifier, and takes `STEPS`
steps of one update each on 128 completions, in groups of 8. The completions of a step are drawn by
the policy as it was `lag` updates before, as an engine that samples in another process would; the
first ones by the base model. What becomes of that is the run's name:

- on-policy: no lag;
- ignored: the samples count as the policy's own;
- clipped: PPO's ratio is taken against the sampler itself, and its clip is all there is;
- token and sequence, truncated and masked: `importance_sampling` of the loop.

In the runs whose name begins with "bf16" the sampler is not old, but computes in bfloat16, while
the learner computes in float32. One line a run goes to `results/stale_sums.jsonl`, with settings,
hardware and versions; a run that is there is not made again. Chapter: stale-samples.
"""

from __future__ import annotations

import copy
import dataclasses
import time
import warnings
from collections import deque
from functools import partial
from pathlib import Path

import torch

from benchmarks.provenance import provenance
from benchmarks.recording import record_runs
from benchmarks.sums_seeds import STRICT, accuracies
from rlhf_lib.algorithms import GRPO
from rlhf_lib.models.rollout import Rollout, sample
from rlhf_lib.running import artifacts
from rlhf_lib.worlds import sums

RESULTS = Path(__file__).parent / "results" / "stale_sums.jsonl"
STEPS, MEASURED_AT, PROMPTS = 32, (8, 16, 24, 32), 400
PLAIN = dataclasses.replace(
    STRICT, max_steps=STEPS, batch_size=128, mini_batch_size=128, learning_rate=3e-4
)
BOUND = 3.0
IGNORED = dict(importance_sampling="token_truncate", importance_sampling_clip_min=1.0)
TREATMENTS = {
    "ignored": dict(**IGNORED, importance_sampling_clip_max=1.0),
    "clipped": {},
    "token, truncated": dict(importance_sampling="token_truncate"),
    "token, masked": dict(importance_sampling="token_mask"),
    "sequence, truncated": dict(importance_sampling="sequence_truncate"),
    "sequence, masked": dict(importance_sampling="sequence_mask"),
}
LAGS = (2, 8)
RUNS = {
    "on-policy": (0, {}),
    **{f"{treatment}, {lag}": (lag, how) for lag in LAGS for treatment, how in TREATMENTS.items()},
    "bf16, ignored": (0, TREATMENTS["ignored"]),
    "bf16, token, truncated": (0, TREATMENTS["token, truncated"]),
}
KEPT = (
    *("step", "reward", "entropy", "length", "gradient_norm", "clip_fraction", "ratio_gap"),
    *("sampler_kl", "importance_weight", "zero_variance_groups"),
)


class Stale(GRPO):
    """GRPO whose completions come from the policy as it was `lag` updates before."""

    lag = 0
    dtype: torch.dtype | None = None  # what the sampler computes in, if in another precision

    def sample(self, policy, prompts: list[str]) -> Rollout:
        if self.step_number == 0:
            self.sampler_model = copy.deepcopy(policy)
            self.older = deque(maxlen=self.lag + 1)  # weights, the oldest first
        self.older.append({name: x.clone() for name, x in policy.state_dict().items()})
        self.sampler_model.load_state_dict(self.older[0])
        c = self.config
        how = (c.max_new_tokens, c.temperature, self.sampler)
        return sample(self.sampler_model, self.tokenizer, prompts, *how, dtype=self.dtype)


def run(seed: int, name: str) -> dict:
    """One run, measured at its start and on its way."""
    base, tokenizer = artifacts.load("sums", "base")
    held_out = list(sums.prompts(PROMPTS, seed + 9, held_out=True)["prompt"])
    lag, how = RUNS[name]
    config = dataclasses.replace(PLAIN, seed=seed, **how)
    policy = copy.deepcopy(base)
    data = sums.prompts(8_000, seed + 100)
    loop = Stale(policy, None, tokenizer, sums.strict_verifier, data, config)
    loop.lag, loop.dtype = lag, torch.bfloat16 if name.startswith("bf16") else None

    measure = partial(accuracies, policy, tokenizer, held_out, seed)
    begun, curve, measured = time.perf_counter(), [], [{"step": 0, **measure()}]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "a ratio was .* off before any update")  # on purpose
        for line in loop:
            curve.append({key: line[key] for key in KEPT if key in line})
            if line["step"] in MEASURED_AT:
                measured.append({"step": line["step"], **measure()})
    return {
        "seed": seed,
        "run": name,
        "lag": lag,
        "settings": dataclasses.asdict(config),
        "measured": measured,
        "curve": curve,
        "seconds": time.perf_counter() - begun,
        "threads": torch.get_num_threads(),
        "provenance": provenance(),
    }


FLOORS = {  # of what is solved at last, and ceilings; all others come to .8
    "ignored, 2": (0.35, 0.85),
    "ignored, 8": (0.0, 0.35),
    "token, truncated, 8": (0.4, 0.8),
    "token, masked, 8": (0.2, 0.7),
    "sequence, truncated, 8": (0.7, 1.0),
    "sequence, masked, 8": (0.7, 1.0),
}


def assert_floors(line: dict) -> None:
    """What the chapter says of every run."""
    where = f"seed {line['seed']}, {line['run']}"
    last = line["measured"][-1]
    assert len(line["curve"]) == STEPS and last["step"] == STEPS, f"{where}: cut short"
    low, high = FLOORS.get(line["run"], (0.8, 1.0))
    assert low <= last["sampled"] <= high, f"{where}: sampled {last['sampled']}"


def main() -> None:
    record_runs(__doc__, RESULTS, "run", RUNS, run, assert_floors)


if __name__ == "__main__":
    main()
