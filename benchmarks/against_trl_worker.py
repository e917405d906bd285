"""One side of `against_trl.py`: a process that makes a step whenever it is asked for one.

    python -m benchmarks.against_trl_worker '{"side": "trl", "algorithm": "grpo", ...}'

Reads a JSON object a line (`{"do": "step"}`) and answers each with one; the first line it writes
tells that it is ready. It ends when its input does. `against_trl.py` starts it from the project's
root with the Python of the environment that the side needs, and says what a step contains.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.bandwidth import copy_bandwidth, synchronize

FOREVER = 1_000_000  # steps; the worker ends when nobody asks for more
LEARNING_RATE, EPSILON, PPO_BETA = 1e-5, 0.2, 0.05


def share_of_a(completions: list[str], **columns) -> list[float]:
    """The reward: the share of words that begin with a. Nearly free, and no constant."""
    return [text.count("a") / (text.count(" ") + 1) for text in completions]


class ShareOfA(torch.nn.Module):
    """The same reward as a model, for TRL's PPO, which takes nothing else; it reads the ids."""

    base_model_prefix = "trunk"

    def __init__(self, prompt_length: int, words: int):
        super().__init__()
        self.trunk, self.score = SharesOfA(prompt_length, words), torch.nn.Identity()


class SharesOfA(torch.nn.Module):
    def __init__(self, prompt_length: int, words: int):
        super().__init__()
        self.prompt_length, self.words = prompt_length, words

    def forward(self, input_ids, **inputs):
        begins_with_a = input_ids[:, self.prompt_length :] < self.words // 2
        share = begins_with_a.float().mean(dim=1)
        return SimpleNamespace(hidden_states=[share[:, None, None].expand(*input_ids.shape, 1)])


# ---------------------------------------------------------------------------------- measuring


class RolloutClock:
    """Wraps what samples, and keeps how long the last call took and how many tokens it made."""

    def __init__(self, function: Callable, tokens: Callable, device: str):
        self.function, self.tokens, self.device = function, tokens, device
        self.seconds = self.made = 0

    def __call__(self, *args, **kwargs):
        synchronize(self.device)
        begun = time.perf_counter()
        result = self.function(*args, **kwargs)
        synchronize(self.device)
        self.seconds = time.perf_counter() - begun
        self.made = int(self.tokens(result))
        return result


class CollectionClock:
    """Keeps how long Python's garbage collector has been at work since the last `reset`."""

    def __init__(self):
        self.reset()
        gc.callbacks.append(self)

    def reset(self) -> None:
        self.seconds = 0.0

    def __call__(self, phase: str, info: dict) -> None:
        if phase == "start":
            self.begun = time.perf_counter()
        else:
            self.seconds += time.perf_counter() - self.begun


def resident(name: str) -> int:
    """Memory of this process, in bytes: "VmRSS" now, "VmHWM" the most since the last `reset`."""
    if Path("/proc/self/status").exists():
        return next(
            int(line.split()[1]) * 1024
            for line in open("/proc/self/status")
            if line.startswith(name + ":")
        )
    import resource  # no current value there, and no reset

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def memory_now(device: str) -> int:
    return torch.cuda.memory_allocated() if device == "cuda" else resident("VmRSS")


def peak_memory(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else resident("VmHWM")


def reset_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")  # the kernel's own high-water mark


class UpdateCount:
    """Counts the steps of every optimizer since the last `reset`."""

    def __init__(self):
        self.reset()
        register_optimizer_step_post_hook(self)

    def reset(self) -> None:
        self.made = 0

    def __call__(self, *of_the_hook) -> None:
        self.made += 1


# ---------------------------------------------------------------------------------- the sides


def load(spec: dict):
    """The models, tokenizer and prompts that `against_trl.prepare` saved: policy, critic, …"""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    folder = Path(spec["folder"])
    dtype = torch.bfloat16 if spec["precision"] == "bf16" else torch.float32
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    prompts = Dataset.from_dict({"prompt": json.loads((folder / "prompts.json").read_text())})

    def model(name: str = "policy", kind=AutoModelForCausalLM):
        return kind.from_pretrained(folder / name, dtype=dtype).to(spec["device"]).eval()

    critic = (
        model("critic", AutoModelForSequenceClassification) if spec["algorithm"] == "ppo" else None
    )
    return model, critic, tokenizer, prompts


def ours(spec: dict) -> tuple[Callable, RolloutClock]:
    """A step of this library, and the clock of its sampling."""
    from rlhf_lib.algorithms import GRPO, PPO, GRPOConfig, PPOConfig
    from rlhf_lib.algorithms import loop as loops
    from rlhf_lib.models import rollout

    batch, device = spec["batch"], spec["device"]
    model, critic, tokenizer, prompts = load(spec)
    rows, whole = spec["microbatch"], spec["microbatch"] == spec["minibatch"]
    shared = dict(
        max_steps=FOREVER,
        batch_size=batch,
        mini_batch_size=spec["minibatch"],
        microbatch_tokens=None if whole else rows * (spec["prompt_length"] + spec["length"]),
        max_new_tokens=spec["length"],
        epsilon=EPSILON,
        missing_eos_penalty=0.0,
        learning_rate=LEARNING_RATE,
        warmup_steps=0,
        seed=spec["seed"],
        bf16=spec["precision"] == "mixed",
    )
    clock = RolloutClock(rollout.sample, lambda made: made.lengths.sum(), device)
    if spec["algorithm"] == "rollout":
        policy, texts = model(), rollout_prompts(spec, prompts)
        return lambda new_tokens: clock(policy, tokenizer, texts, new_tokens), clock
    if spec["algorithm"] == "grpo":
        loop = GRPO(
            model(),
            None,
            tokenizer,
            share_of_a,
            prompts,
            GRPOConfig(
                **shared,
                num_generations=spec["group"],
                num_iterations=spec["epochs"],
                beta=0.0,
                aggregate_over="tokens",
            ),
        )
    else:
        loop = PPO(
            model(),
            model(),
            critic,
            tokenizer,
            share_of_a,
            prompts,
            PPOConfig(
                **shared,
                num_ppo_epochs=spec["epochs"],
                beta=PPO_BETA,
                critic_learning_rate=LEARNING_RATE,
            ),
        )
    loops.sample = clock
    return loop.step, clock


def rollout_prompts(spec: dict, prompts) -> list[str]:
    """One batch of prompts, each as often as a group has completions."""
    return [
        prompt
        for prompt in prompts["prompt"][: spec["batch"] // spec["group"]]
        for _ in range(spec["group"])
    ]


def trl(spec: dict):
    """TRL's trainer, or what makes it sample a batch, and the clock of its sampling."""
    model, critic, tokenizer, prompts = load(spec)
    policy, P = model(), spec["prompt_length"]

    def tokens(made):
        sequences = getattr(made, "sequences", made)
        return len(sequences) * (sequences.shape[1] - P)

    clock = policy.generate = RolloutClock(policy.generate, tokens, spec["device"])
    settings = dict(
        output_dir=f"{spec['folder']}/trl",
        seed=spec["seed"],
        per_device_train_batch_size=spec["microbatch"],
        learning_rate=LEARNING_RATE,
        warmup_steps=0,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        adam_beta1=0.9,
        adam_beta2=0.95,
        adam_epsilon=1e-5,
        max_grad_norm=1.0,
        temperature=1.0,
        bf16=spec["precision"] == "mixed",
        gradient_checkpointing=False,
        use_cpu=spec["device"] == "cpu",
        report_to="none",
        save_strategy="no",
        eval_strategy="no",
        disable_tqdm=True,
        logging_steps=FOREVER,
        logging_nan_inf_filter=False,
        dataloader_pin_memory=False,
    )
    if spec["algorithm"] == "ppo":
        if spec["precision"] == "mixed":  # its own Accelerator reads nothing else
            os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"
        trainer = ppo_trainer(spec, settings, policy, model(), critic, tokenizer, prompts)
    else:
        trainer = grpo_trainer(spec, settings, policy, tokenizer, prompts)
    if spec["algorithm"] == "rollout":
        texts = rollout_prompts(spec, prompts)

        def rollout(new_tokens):
            trainer.generation_config.max_new_tokens = new_tokens
            trainer.generation_kwargs["max_new_tokens"] = new_tokens
            trainer._generate(texts)

        policy.train()
        return rollout, clock
    return trainer, clock


def grpo_trainer(spec: dict, settings: dict, policy, tokenizer, prompts):
    from trl import GRPOConfig, GRPOTrainer

    return GRPOTrainer(
        model=policy,
        reward_funcs=[share_of_a],
        processing_class=tokenizer,
        train_dataset=prompts,
        args=GRPOConfig(
            **settings,
            max_steps=FOREVER,
            steps_per_generation=spec["batch"] // spec["microbatch"],
            gradient_accumulation_steps=spec["minibatch"] // spec["microbatch"],
            num_generations=spec["group"],
            num_iterations=spec["epochs"],
            max_completion_length=spec["length"],
            beta=0.0,
            epsilon=EPSILON,
            loss_type="bnpo",
            scale_rewards="group",
        ),
    )


def ppo_trainer(spec: dict, settings: dict, policy, reference, critic, tokenizer, prompts):
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    rows = prompts.map(
        lambda row: {"input_ids": tokenizer(row["prompt"])["input_ids"]}, remove_columns="prompt"
    )
    return PPOTrainer(
        model=policy,
        ref_model=reference,
        value_model=critic,
        processing_class=tokenizer,
        reward_model=ShareOfA(spec["prompt_length"], spec["words"]),
        train_dataset=rows,
        args=PPOConfig(
            **settings,
            total_episodes=spec["batch"] * FOREVER,
            num_mini_batches=1,
            num_ppo_epochs=spec["epochs"],
            local_rollout_forward_batch_size=spec["batch"],
            response_length=spec["length"],
            stop_token="eos",
            num_sample_generations=0,
            kl_coef=PPO_BETA,
            cliprange=EPSILON,
            cliprange_value=0.2,
            gamma=1.0,
            lam=0.95,
        ),
    )


# ---------------------------------------------------------------------------------- the protocol


class Answers:
    """Answers requests about one side; `step` is what makes it work."""

    def __init__(self, spec: dict, clock: RolloutClock, requests, replies):
        self.spec, self.clock, self.requests, self.replies = spec, clock, requests, replies
        self.device = spec["device"]
        self.collections, self.updates = CollectionClock(), UpdateCount()

    def ready(self) -> None:
        import transformers

        versions = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
        if self.spec["side"] == "trl":
            import accelerate
            import trl

            versions |= {"trl": trl.__version__, "accelerate": accelerate.__version__}
        reset_peak(self.device)
        self.write(
            {
                "versions": versions,
                "threads": torch.get_num_threads(),
                "idle_bytes": memory_now(self.device),
            }
        )

    def write(self, answer: dict) -> None:
        self.replies.write(json.dumps(answer) + "\n")
        self.replies.flush()

    def next_step(self) -> dict | None:
        """Answer until a step is asked for, start its clock and return the request."""
        for line in self.requests:
            request = json.loads(line)
            if request["do"] == "step":
                self.clock.made = 0
                self.collections.reset()
                self.updates.reset()
                synchronize(self.device)
                self.begun = time.perf_counter()
                return request
            self.write(
                {
                    "peak": lambda: {"peak_bytes": peak_memory(self.device)},
                    "bandwidth": lambda: {"bandwidth": copy_bandwidth(self.device)},
                }[request["do"]]()
            )
        return None

    def step_ended(self) -> None:
        synchronize(self.device)
        self.write(
            {
                "seconds": time.perf_counter() - self.begun,
                "tokens": self.clock.made,
                "updates": self.updates.made,
                "rollout_seconds": self.clock.seconds,
                "collecting_seconds": self.collections.seconds,
            }
        )


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a trainer prints must not look like an answer
    spec = json.loads(sys.argv[1])
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(spec["seed"])
    work, clock = {"ours": ours, "trl": trl}[spec["side"]](spec)
    answers = Answers(spec, clock, sys.stdin, replies)
    if callable(work):  # else it is a trainer, which makes its steps in a loop of its own
        answers.ready()
        while (request := answers.next_step()) is not None:
            work(**{name: value for name, value in request.items() if name != "do"})
            answers.step_ended()
    else:
        train_on_demand(work, answers)
    os._exit(0)  # a trainer in the middle of its run has nothing to tidy up


def train_on_demand(trainer, answers: Answers) -> None:
    """Run TRL's own `train()`, held at the end of each step until the next is asked for.

    Everything between the ends of two steps is in the time: fetching prompts, the scheduler,
    garbage collections. GRPO counts each update as a step of its own.
    """
    import transformers

    s = answers.spec
    updates = s["epochs"] * s["batch"] // s["minibatch"] if s["algorithm"] == "grpo" else 1

    class OnDemand(transformers.TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            answers.ready()
            self.wait()

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step % updates == 0:
                answers.step_ended()
                self.wait()

        def wait(self):
            if answers.next_step() is None:
                os._exit(0)

    trainer.remove_callback(transformers.PrinterCallback)
    trainer.add_callback(OnDemand())
    trainer.train()


if __name__ == "__main__":
    main()
