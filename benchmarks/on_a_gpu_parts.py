"""What `on_a_gpu.py` measures, a function for each part. Chapter: what-a-step-costs.

Each gets a `parts.Run`, hands over what it found by `run.note`, and comes to an end when
`run.left()` is used up. `hardware` comes before all of them: it says where it runs, or why not.
"""

from __future__ import annotations

import copy
import gc
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import torch
import transformers.models.gpt2.modeling_gpt2  # noqa: F401  slow to import: once for all parts

from benchmarks.against_trl import (
    GROUP,
    VERSIONS,
    centre,
    compare,
    environment,
    has_environment,
    make,
    quartiles,
    summary,
)
from benchmarks.against_trl import decode as over_bound
from benchmarks.against_trl_worker import (
    LEARNING_RATE,
    memory_now,
    peak_memory,
    reset_peak,
    rollout_prompts,
    share_of_a,
)
from benchmarks.bandwidth import copy_bandwidth, synchronize
from benchmarks.gpt2_live import KEPT, MEASURED, SETTINGS, largest_gap
from benchmarks.parts import LeftOut, Run
from benchmarks.provenance import provenance
from rlhf_lib.algorithms.grpo import GRPO, GRPOConfig
from rlhf_lib.families.growth import grow
from rlhf_lib.machinery.memory import activation_bytes, kv_cache_bytes, model_bytes
from rlhf_lib.models.policy import SCALES, count_parameters
from rlhf_lib.models.rewards import LearnedReward
from rlhf_lib.models.rollout import sample
from rlhf_lib.running import artifacts
from rlhf_lib.running.evaluation import evaluate
from rlhf_lib.worlds import letters as world

ROOT = Path(__file__).resolve().parents[1]
SMALL = dict(n_embd=256, n_layer=5, n_head=8, n_positions=128, vocab_size=300)
BRIEFLY = dict(max_steps=2, batch_size=16, mini_batch_size=16, learning_rate=1e-3)
# by part: on a GPU, and in a rehearsal
SIZES = {
    "letters": (
        dict(grown=SCALES["gpt2"], seeds=(1, 2, 3, 4, 5), seconds=60, held_out=200, settings={}),
        dict(grown=SMALL, seeds=(1, 2), seconds=60, held_out=8, settings=BRIEFLY),
    ),
    "decode": (
        dict(model="gpt2", batches=(64, 256, 8, 1), prompt=64, length=64, pairs=10, copied=2 << 30),
        dict(model="mini", batches=(8, 1), prompt=6, length=4, pairs=2, copied=16 << 20),
    ),
    "rollouts": (
        dict(model="gpt2", batches=(256, 64), prompt=64, length=64, pairs=8),
        dict(model="mini", batches=(8,), prompt=6, length=4, pairs=2),
    ),
    "trl": (
        dict(point=centre("cuda", "grpo"), prompt=64, pairs=6, warmup=2),
        dict(point=("mini", 16, 5, 1, "fp32"), prompt=6, pairs=2, warmup=1),
    ),
    "memory": (
        dict(model="gpt2", batch=64, prompt=64, length=64, microbatch=2048),
        dict(model="mini", batch=16, prompt=6, length=4, microbatch=40),
    ),
}
OUTCOME = re.compile(r"^\S+?::(.+?) (PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS)\b")


class Columns(dict):
    """A dataset as a loop reads it, for a Python that has no `datasets`: lists by their names."""

    @property
    def column_names(self) -> list[str]:
        return list(self)


def sizes(run: Run, part: str) -> dict:
    return SIZES[part][run.rehearsal]


# ---------------------------------------------------------------------------------- where


def hardware(run: Run) -> None:
    """The device, by a sum computed on it, and the versions of everything below."""
    found = provenance()
    if run.device == "cuda":
        if not torch.cuda.is_available():
            raise RuntimeError(
                f"torch {torch.__version__} finds no GPU (torch.cuda.is_available() is False; "
                f"it was built for CUDA {torch.version.cuda})"
            )
        device = torch.cuda.get_device_properties(0)
        found |= {
            "hardware": device.name,
            "memory": device.total_memory,
            "capability": f"{device.major}.{device.minor}",
            "cuda": torch.version.cuda,
            "driver": driver(),
        }
    else:
        found["hardware"] = found["processor"]
    assert torch.ones(3, device=run.device).sum().item() == 3
    run.note("provenance", found)


def driver() -> str:
    """The version of the GPU's driver; empty where nothing says it."""
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return said.split("\n")[0].strip()


# ---------------------------------------------------------------------------------- the parts


def tests(run: Run) -> None:
    """`tests/gpu`, each with its outcome and its seconds, as it ends."""
    if not find_spec("pytest"):
        raise LeftOut("pytest is not installed")
    command = [sys.executable, "-u", "-m", "pytest", "tests/gpu", "-v", "--tb=short", "--color=no"]
    process = subprocess.Popen(
        [*command, "-p", "no:cacheprovider"],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    begun, text, outcomes = time.perf_counter(), [], []
    for row in process.stdout:
        text.append(row)
        if found := OUTCOME.match(row):
            now = time.perf_counter()
            outcomes.append(found[2].lower())
            run.note(found[1], {"outcome": outcomes[-1], "seconds": now - begun})
            begun = now
    bad = len([x for x in outcomes if x in ("failed", "error")])
    if process.wait() or bad or not outcomes:
        said = "".join(text)[-3000:]
        raise RuntimeError(f"{bad} of {len(outcomes)} tests failed; pytest wrote:\n{said}")
    if run.device == "cuda" and "passed" not in outcomes:
        raise RuntimeError("no test ran, all were skipped; expected them to find the GPU")


def letters(run: Run) -> None:
    """The letters SFT model, grown, learns as in `gpt2_live`; gold before and after, seed by seed.

    A seed is begun as long as all before it have trained for less than the seconds that are given.
    """
    s, spent = sizes(run, "letters"), 0.0
    sft, tokenizer = artifacts.load("letters", "sft")
    sft.to(run.device)
    reward = LearnedReward(artifacts.load("letters", "reward")[0].to(run.device), tokenizer)
    rewards = {"gold": world.gold_reward, "reward": reward}
    held_out = prompts(s["held_out"], seed=9, held_out=True)["prompt"]
    for seed in s["seeds"]:
        policy = grow(sft, seed=seed, **s["grown"])
        config = replace(SETTINGS["grpo"], seed=seed, microbatch_tokens=None, **s["settings"])
        if seed == s["seeds"][0]:
            run.note("parameters", count_parameters(policy))
            run.note("largest_gap", largest_gap(policy, sft, tokenizer, held_out[:50]))
            run.note("settings", asdict(config))

        def measured(policy=policy, seed=seed) -> dict:
            how = dict(seed=seed, batch_size=50, dtype=torch.bfloat16)  # as it is trained
            found = evaluate(policy, tokenizer, held_out, rewards, sft, **how)
            return {name: found[name] for name in MEASURED}

        before = measured()
        reset_peak(run.device)
        loop = GRPO(policy, sft, tokenizer, reward, prompts(2_000, seed=100 + seed), config)
        curve = []
        for record in loop:
            curve.append({name: record[name] for name in KEPT if name in record})
            run.note("step", {"seed": seed, **curve[-1]})
        seconds = [step["seconds"] for step in curve]
        found = {
            "before": before,
            "after": measured(),
            "seconds": sum(seconds),
            "median_seconds": statistics.median(seconds),
            "peak_bytes": peak_memory(run.device),
            "curve": curve,
        }
        run.note(f"seed {seed}", found)
        del loop, policy
        gc.collect()
        spent += sum(seconds)
        if spent >= s["seconds"] or run.left() < 1.5 * spent / (seed - s["seeds"][0] + 1):
            break


def prompts(n: int, seed: int, held_out: bool = False) -> Columns:
    """The prompts of `letters.prompts`."""
    rng = random.Random(seed)
    return Columns(prompt=[world.draw_request(rng, held_out).prompt for _ in range(n)])


def decode(run: Run) -> None:
    """Seconds of a decode step at several batch sizes, and the kernels that they go to."""
    s = sizes(run, "decode")
    bandwidth = copy_bandwidth(run.device, s["copied"])
    run.note("bandwidth", bandwidth)
    policy, tokenizer, texts = in_16_bits(run, s)
    for batch in s["batches"]:
        rows, made = in_groups(texts, batch), {1: [], s["length"]: []}
        for counted in in_turn(run, s["pairs"]):
            for tokens, seconds in made.items():
                spent, rollout = timed(run, sample, policy, tokenizer, rows, tokens)
                check_count(int(rollout.lengths.sum()), batch * tokens)
                if counted:
                    seconds.append(spent)
        ours = {"rollout_seconds": made[s["length"]], "first_token_seconds": made[1]}
        given = (policy.config, batch, s["length"], s["prompt"], 2, bandwidth)
        found = over_bound({"ours": ours}, *given)
        run.note(f"batch {batch}", {**found, **ours, "length": s["length"]})
    for batch in s["batches"][:2]:
        rows = in_groups(texts, batch)
        spent = kernels(run, lambda rows=rows: sample(policy, tokenizer, rows, s["length"]))
        run.note(f"kernels of batch {batch}", spent)


def rollouts(run: Run) -> None:
    """Texts in, texts out: `sample`, and in turn `generate` of transformers as it comes."""
    s = sizes(run, "rollouts")
    policy, tokenizer, texts = in_16_bits(run, s)
    how = dict(do_sample=True, top_k=0, temperature=1.0, max_new_tokens=s["length"])

    def ours(rows):
        return int(sample(policy, tokenizer, rows, s["length"]).lengths.sum())

    @torch.no_grad()
    def generate(rows):
        inputs = tokenizer(rows, return_tensors="pt", padding=True).to(run.device)
        inputs.pop("token_type_ids", None)
        written = policy.generate(**inputs, **how)[:, inputs["input_ids"].shape[1] :]
        tokenizer.batch_decode(written, skip_special_tokens=True)
        return written.numel()

    for batch in s["batches"]:
        rows, made = in_groups(texts, batch), {ours: [], generate: []}
        for counted in in_turn(run, s["pairs"]):
            for side, seconds in made.items():
                spent, tokens = timed(run, side, rows)
                check_count(tokens, batch * s["length"])
                if counted:
                    seconds.append(spent)
        found = {
            f"{side.__name__}_{name}": value
            for side, seconds in made.items()
            for name, value in (
                ("seconds", seconds),
                ("quartiles", quartiles(seconds)),
                ("tokens_a_second", batch * s["length"] / statistics.median(seconds)),
            )
        }
        ratio = quartiles([b / a for a, b in zip(made[ours], made[generate], strict=True)])
        run.note(f"batch {batch}", {**found, "ratio": ratio, "tokens": batch * s["length"]})


def trl(run: Run) -> None:
    """A GRPO step of both libraries, as `against_trl` makes them."""
    s = sizes(run, "trl")
    if all(find_spec(name) for name in ("trl", "datasets", "accelerate")):
        python = sys.executable
    elif has_environment(VERSIONS["grpo"]):
        python = environment(VERSIONS["grpo"])
    else:
        raise LeftOut(
            "TRL is not installed, and `python -m benchmarks.against_trl` has made no environment "
            "for it here"
        )
    line = compare(
        run.device,
        torch.get_num_threads(),
        "grpo",
        *s["point"],
        pairs=s["pairs"],
        warmup=s["warmup"],
        prompt_length=s["prompt"],
        python=python,
    )
    run.note("line", {name: x for name, x in line.items() if name != "provenance"})
    run.note("summary", summary(line))


def memory(run: Run) -> None:
    """The peak of each part of a GRPO step, and what `machinery.memory` expects of it."""
    s = sizes(run, "memory")
    made, tokenizer, texts = make(s["model"], s["prompt"], seed=0)
    ways = ({}, {"microbatch_tokens": s["microbatch"]}, {"gradient_checkpointing": True})
    for way in ways:
        for bf16 in (False, True):
            if run.left() < 5:
                return
            reset_peak(run.device)
            loop = GRPO(
                copy.deepcopy(made).to(run.device),
                copy.deepcopy(made).to(run.device),
                tokenizer,
                share_of_a,
                Columns(prompt=texts),
                GRPOConfig(
                    batch_size=s["batch"],
                    mini_batch_size=s["batch"],
                    max_new_tokens=s["length"],
                    num_generations=GROUP,
                    num_iterations=1,
                    learning_rate=LEARNING_RATE,
                    warmup_steps=0,
                    missing_eos_penalty=0.0,
                    bf16=bf16,
                    **way,
                ),
            )
            found = peaks(loop, run.device)
            for part, expected in estimates(loop, s, run.device).items():
                found[part] |= {"estimate": expected, "estimate_bytes": sum(expected.values())}
            name = ", ".join(["bf16" if bf16 else "fp32", *(f"{k}={v}" for k, v in way.items())])
            run.note(name, found)
            del loop
            gc.collect()  # what watches its parts holds on to it, and it to that


# ---------------------------------------------------------------------------------- measuring


def in_16_bits(run: Run, s: dict):
    """Policy, tokenizer and prompts of `against_trl`, on the device and in bfloat16."""
    policy, tokenizer, texts = make(s["model"], s["prompt"], seed=0)
    return policy.to(run.device, torch.bfloat16), tokenizer, texts


def in_groups(texts: list[str], batch: int) -> list[str]:
    """One batch of prompts, each as often as a group has completions."""
    return rollout_prompts({"batch": batch, "group": min(GROUP, batch)}, {"prompt": texts})


def in_turn(run: Run, pairs: int, warmup: int = 2) -> Iterator[bool]:
    """Whether a pair is counted: at least two are, and more while there is time for them."""
    for pair in range(-warmup, pairs):
        if pair >= 2 and run.left() < 0:
            return
        yield pair >= 0


def timed(run: Run, work: Callable, *given) -> tuple[float, object]:
    """Seconds of a piece of work, and what it returned."""
    synchronize(run.device)
    begun = time.perf_counter()
    made = work(*given)
    synchronize(run.device)
    return time.perf_counter() - begun, made


def check_count(tokens: int, expected: int) -> None:
    if tokens != expected:
        raise RuntimeError(f"{tokens} tokens were sampled; expected {expected}, the same each time")


def kernels(run: Run, work: Callable, most: int = 12) -> list[dict]:
    """Where the time of a piece of work goes: the kernels of a GPU, the operators of a processor.

    Empty where the profiler finds none.
    """
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    on_gpu = run.device == "cuda"
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    watched = [ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    with profile(activities=watched) as seen:
        work()
        synchronize(run.device)
    clock = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events = [event for event in seen.key_averages() if event.device_type == kind]
    events.sort(key=lambda event: -getattr(event, clock))
    total = sum(getattr(event, clock) for event in events)
    return [
        {
            "name": event.key,
            "calls": event.count,
            "microseconds": getattr(event, clock),
            "share": getattr(event, clock) / total,
        }
        for event in events[:most]
    ]


def peaks(loop: GRPO, device: str) -> dict[str, dict]:
    """Peak memory of the parts of the second step, and what is held before it."""
    loop.step()
    synchronize(device)
    found = {"between": {"peak_bytes": memory_now(device)}}
    if device == "cuda":  # what recorded steps work in is reserved for them, and not counted above
        found["between"]["reserved_bytes"] = torch.cuda.memory_reserved()

    def watched(name: str, work: Callable) -> Callable:
        def wrapped(*given):
            reset_peak(device)
            made = work(*given)
            synchronize(device)
            found[name] = {"peak_bytes": peak_memory(device)}
            return made

        return wrapped

    loop.collect = watched("sample", loop.collect)
    loop.machine.table = watched("score", loop.machine.table)
    loop.update = watched("update", loop.update)
    record = loop.step()
    found["step"] = {"seconds": record["seconds"], "gradient_norm": record["gradient_norm"]}
    return found


def estimates(loop: GRPO, s: dict, device: str) -> dict[str, dict[str, int]]:
    """What `machinery.memory` says of each part, and the tables of logits, which it leaves out."""
    config, c = loop.policy.config, loop.config
    parameters, size = count_parameters(loop.policy), 2 if c.bf16 else 4
    low = parameters * size if c.bf16 and device == "cuda" else 0  # weights once more, in 16 bits
    width = s["prompt"] + s["length"]
    trained = model_bytes(parameters, "fp32")
    held = {
        "policy": sum(trained.values()),  # weights stay in 32 bits, whatever it computes in
        "reference": model_bytes(parameters, "fp32", trained=False)["weights"],
    }
    logits = config.vocab_size * size
    cache = kv_cache_bytes(config, s["batch"], width, size)
    if device == "cuda":  # the recorded step keeps its cache, logits, noise, and weights of its own
        held["sampler"] = cache + s["batch"] * config.vocab_size * (size + 4) + low
        held["sampler"] += config.vocab_size * config.n_embd * size if low else 0  # the tied table
    rows = s["batch"]
    if c.microbatch_tokens:
        rows = max(1, c.microbatch_tokens // width)
    kept = activation_bytes(config, rows, width, size)
    if c.gradient_checkpointing:  # the inputs of all layers, and all of one
        kept = kept // config.n_layer + config.n_layer * config.n_embd * rows * width * 4
    tables = rows * (s["length"] + 1) * logits
    return {
        "between": held,
        "sample": held | ({} if device == "cuda" else {"cache": cache}),
        "score": {**held, "weights in 16 bits": low, "logits": tables},
        "update": {
            **held,
            "weights in 16 bits": low,
            "activations": kept,
            "logits and their gradient": 2 * tables,
        },
    }
