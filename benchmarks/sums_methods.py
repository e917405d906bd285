"""Two fair comparisons on sums: PPO against GRPO, and our GRPO against TRL's.

    python -m benchmarks.sums_methods --seeds 1 2 3 4 5     # about 3 minutes a seed on one core
    python -m benchmarks.sums_methods --check               # assert the floors on what is recorded

Every run starts from the shipped base model, is paid by the strict verifier, and takes `STEPS`
batches of 256 completions. `ppo` and `grpo` share prompts, learning rate, clip, minibatches and
passes; a step of PPO meets 256 prompts, one of GRPO 32 in groups of 8. PPO's critic starts as the
base model with a new head, as there is no reward model to copy. `grpo, 3 digits` and `trl` do one
job twice, on sums of two numbers of three digits: their prompts have one length, and TRL's trainer
hands the model no `position_ids`. One line a run goes to `results/sums_methods.jsonl`, with
settings, hardware and versions; what is there is not run again. Chapter: rlvr.
"""

from __future__ import annotations

import copy
import dataclasses
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.provenance import provenance
from benchmarks.recording import record_runs
from benchmarks.sums_seeds import STRICT, accuracies
from rlhf_lib.algorithms.grpo import GRPO, GRPOConfig
from rlhf_lib.algorithms.ppo import PPO, PPOConfig
from rlhf_lib.models.reward_model import new_reward_model
from rlhf_lib.running import artifacts
from rlhf_lib.worlds import sums

RESULTS = Path(__file__).parent / "results" / "sums_methods.jsonl"
STEPS, MEASURED_AT = 20, (5, 10, 15, 20)
OURS = dataclasses.replace(STRICT, max_steps=STEPS)
PPOS = PPOConfig(
    max_steps=STEPS,
    batch_size=256,
    mini_batch_size=64,
    num_ppo_epochs=1,
    max_new_tokens=sums.MAX_NEW_TOKENS,
    beta=0.0,
    missing_eos_penalty=0.0,
    learning_rate=2e-4,
)
THREE = (3, 3)  # digits
SAME_LENGTH = ("grpo, 3 digits", "trl")  # runs whose prompts all have one length
RUNS = ("grpo", "ppo", *SAME_LENGTH)


def trl_trainer(
    policy,
    tokenizer,
    prompts,
    reward,
    folder: str,
    seed: int,
    steps: int = STEPS,
    config: GRPOConfig = OURS,
):
    """TRL's GRPO trainer with the settings of `config`, under TRL's names."""
    from trl import GRPOConfig as Settings
    from trl import GRPOTrainer

    updates = config.batch_size // config.mini_batch_size  # TRL counts these as steps
    return GRPOTrainer(
        model=policy,
        reward_funcs=[reward],
        processing_class=tokenizer,
        train_dataset=prompts,
        args=Settings(
            output_dir=folder,
            max_steps=steps * updates,
            seed=seed,
            per_device_train_batch_size=config.mini_batch_size,
            steps_per_generation=updates,
            num_generations=config.num_generations,
            num_iterations=config.num_iterations,
            max_completion_length=config.max_new_tokens,
            temperature=config.temperature,
            beta=config.beta,
            epsilon=config.epsilon,
            loss_type="bnpo",
            scale_rewards="group",
            learning_rate=config.learning_rate,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=config.warmup_steps * updates,
            max_grad_norm=config.max_grad_norm,
            adam_beta1=0.9,
            adam_beta2=0.95,
            adam_epsilon=1e-5,
            weight_decay=0.0,
            bf16=False,
            use_cpu=True,
            logging_steps=updates,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        ),
    )


def run(seed: int, name: str) -> dict:
    base, tokenizer = artifacts.load("sums", "base")
    digits = THREE if name in SAME_LENGTH else sums.DIGITS
    held_out = list(sums.prompts(400, seed + 9, held_out=True, digits=digits)["prompt"])
    prompts = sums.prompts(8_000, seed + 100, digits=digits)
    policy = copy.deepcopy(base)
    config = dataclasses.replace(PPOS if name == "ppo" else OURS, seed=seed)

    measure = partial(accuracies, policy, tokenizer, held_out, seed)
    measured = [{"step": 0, **measure()}]
    if name == "trl":
        curve = train_with_trl(policy, tokenizer, prompts, config, measured, measure)
    else:
        loop = (
            GRPO(policy, None, tokenizer, sums.strict_verifier, prompts, config)
            if name != "ppo"
            else PPO(
                policy,
                copy.deepcopy(base),
                new_reward_model(base, seed),
                tokenizer,
                sums.strict_verifier,
                prompts,
                config,
            )
        )
        curve = []
        for row in loop:
            curve.append(
                {
                    "step": row["step"],
                    "reward": row["reward"],
                    "length": row["length"],
                    "tokens": int(loop.rollout.lengths.sum()),
                    "seconds": row["seconds"],
                }
            )
            if row["step"] in MEASURED_AT:
                measured.append({"step": row["step"], **measure()})
    print(
        f"seed {seed}, {name}: greedy "
        + " ".join(f"{m['greedy']:.2f}" for m in measured)
        + "; sampled "
        + " ".join(f"{m['sampled']:.2f}" for m in measured)
        + f"; {sum(row['tokens'] for row in curve):,} tokens in "
        f"{sum(row['seconds'] for row in curve):.0f} s",
        flush=True,
    )
    return {
        "seed": seed,
        "run": name,
        "settings": dataclasses.asdict(config),
        "measured": measured,
        "curve": curve,
        "provenance": provenance(),
    }


def train_with_trl(policy, tokenizer, prompts, config, measured: list[dict], measure) -> list[dict]:
    """Run TRL's trainer, measuring where our loops are measured; returns its curve by batches.

    A batch's seconds are from the start of its first update to the end of its last; what the
    measurements take is left out, as in our loops.
    """
    import transformers

    curve: list[dict] = []
    updates = config.batch_size // config.mini_batch_size

    class Watch(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step % updates == 0:
                self.begun = time.perf_counter()

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step % updates == 0:
                self.seconds = time.perf_counter() - self.begun

        def on_log(self, args, state, control, logs=None, **kwargs):
            if "reward" not in logs:
                return
            length = logs["completions/mean_length"]
            curve.append(
                {
                    "step": len(curve) + 1,
                    "reward": logs["reward"],
                    "length": length,
                    "tokens": round(length * config.batch_size),
                    "seconds": self.seconds,
                }
            )
            if len(curve) in MEASURED_AT:
                policy.eval()
                measured.append({"step": len(curve), **measure()})
                policy.train()

    with tempfile.TemporaryDirectory() as folder:
        trainer = trl_trainer(policy, tokenizer, prompts, sums.strict_verifier, folder, config.seed)
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.add_callback(Watch())
        trainer.train()
    return curve


def assert_floors(found: dict) -> None:
    """What the chapter says of every run."""
    first, last = found["measured"][0], found["measured"][-1]
    where = f"seed {found['seed']}, {found['run']}"
    assert len(found["curve"]) == STEPS and last["step"] == STEPS, f"{where}: cut short"
    if found["run"] not in SAME_LENGTH:  # a sum of three digits is an easier one
        assert first["greedy"] <= 0.15, f"{where}: base greedy {first['greedy']}"
    assert last["greedy"] >= 0.85, f"{where}: greedy {last['greedy']} after {STEPS} steps"
    assert last["length"] >= 2 * first["length"], f"{where}: length {last['length']}"


def main() -> None:
    record_runs(__doc__, RESULTS, "run", RUNS, run, assert_floors)


if __name__ == "__main__":
    main()
