"""Learning sums from better samples, or from a better model: accuracy at equal tokens.

    python -m benchmarks.distillation_sums --seeds 1 2 3 4 5   # about 3 minutes a seed on one core
    python -m benchmarks.distillation_sums --check             # assert the floors on the record

A seed stands for its own teacher, its own prompts and its own 400 held-out sums. The teacher is the
shipped base model after 20 steps of GRPO with 256 completions, paid by the strict verifier; its run
is recorded as `teacher`, with the base model's pass@n. Every student starts from the same base
model and takes one update for each 64 completions, all at one constant learning rate, until
`TOKENS` tokens have been written, whoever wrote them. `WRITTEN_BY` says who did, and `Student` what
is learnt; the runs whose name ends in "16" take an update for each 16 completions. One line a run
goes to `results/distillation_sums.jsonl`, with settings, hardware and versions; a run that is there
is not made again. Chapter: distillation.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.provenance import provenance
from benchmarks.recording import record_runs
from benchmarks.sums_seeds import STRICT, greedy_accuracy, pass_at_k
from rlhf_lib.algorithms import GRPO
from rlhf_lib.algorithms.loop import Config, Loop
from rlhf_lib.machinery.preparation import freeze
from rlhf_lib.mathematics.kl import exact_kl
from rlhf_lib.mathematics.losses import aggregate, reinforce_loss
from rlhf_lib.models.rollout import Rollout, sample
from rlhf_lib.models.tokens import TokenBatch, completion_logits, token_logprobs
from rlhf_lib.running import artifacts
from rlhf_lib.running.evaluation import evaluate
from rlhf_lib.worlds import sums
from rlhf_lib.worlds.tables import rows_of_step

RESULTS = Path(__file__).parent / "results" / "distillation_sums.jsonl"
HELD_OUT = 400  # sums
TOKENS = 30_000  # written in a run
MARKS = (2_000, 5_000, 10_000, 15_000, 20_000, TOKENS)  # measured after the step that gets there
TEACHER = dataclasses.replace(STRICT, max_steps=20)
TEACHER_AT = (5, 10, 20)  # steps at which the teacher's own run is measured
SMALL = dataclasses.replace(TEACHER, batch_size=64, warmup_steps=0)  # one update a step, as below
TO_GO = dict(num_generations=1, advantage="return_to_go", kl_in="reward", beta=1.0)
STUDENT = Config(batch_size=64, learning_rate=TEACHER.learning_rate, warmup_steps=0)
WRITTEN_BY = {  # and what is learnt from it
    "grpo": "student",
    "rejection": "student",  # SFT on the completions that the verifier accepts
    "sft": "teacher",
    "opd": "student",  # on-policy distillation: each token's own log-ratio to the teacher
    "grpo, 16": "student",  # an update for each 16 completions, as in the next three
    "rejection, 16": "student",
    "sft, 16": "teacher",
    "opd, 16": "student",
    "rejection, groups": "student",  # eight completions of each of eight sums, as GRPO has them
    "sft, right": "teacher",  # only what the verifier accepts
    "opd, to go": "student",  # log-ratios from each token to the end, whitened: k1 in GRPO's reward
    "opd, whole": "student",  # the KL to the teacher over the whole vocabulary, prefixes held
}
RUNS = ("teacher", *WRITTEN_BY)


@dataclass
class Lesson(TokenBatch):
    """Completions to learn from, and what each token counts."""

    advantages: Tensor  # (B, T)


class Student(Loop):
    """A student that takes one update from each batch that it or its teacher writes.

    But for "opd, whole" the loss is −A log π, averaged over tokens. A is 1 on the teacher's tokens
    and on what the verifier accepts, and log π_teacher − log π in on-policy distillation.
    """

    SAMPLES = True

    def __init__(self, name: str, policy, teacher, tokenizer, prompts: list[str], config: Config):
        super().__init__(config, tokenizer, {"policy": policy}, {"teacher": teacher})
        self.name, self.policy, self.teacher, self.asked = name, policy, teacher, prompts
        self.rollout: Rollout | None = None

    def collect(self) -> tuple[Rollout]:
        c, each = self.config, SMALL.num_generations if self.name.endswith("groups") else 1
        rows = rows_of_step(len(self.asked), c.batch_size // each, self.step_number, c.seed)
        writer = self.policy if WRITTEN_BY[self.name] == "student" else self.teacher
        prompts = [self.asked[row] for row in rows for _ in range(each)]
        how = dict(max_new_tokens=sums.MAX_NEW_TOKENS, generator=self.sampler)
        return (sample(writer, self.tokenizer, prompts, **how),)

    def learn(self, rollout: Rollout) -> dict:
        self.rollout, loss = rollout, self.whole if self.name == "opd, whole" else self.weighted
        lesson, found = self.lesson(rollout), {}
        if len(lesson):
            losses = {"loss": (loss, lesson)}
            found = self.machine.descend(self.policy, self.optimizers["policy"], losses)
        return {**found, "kept": len(lesson)}

    def lesson(self, rollout: Rollout) -> Lesson:
        """The completions that are learnt from, and the advantage of each token."""
        if self.name in ("opd", "opd, 16"):
            advantages = token_logprobs(self.teacher, rollout) - rollout.logprobs
        else:
            advantages = torch.ones_like(rollout.logprobs)
        lesson = Lesson(*rollout.tokens, advantages)
        if self.name.startswith("rejection") or self.name == "sft, right":
            right = sums.strict_verifier(rollout.prompts, rollout.completions)
            return lesson[torch.tensor(right).nonzero()[:, 0]]
        return lesson

    def weighted(self, lesson: Lesson) -> tuple[Tensor, dict]:
        loss = reinforce_loss(token_logprobs(self.policy, lesson), lesson.advantages)
        return aggregate(loss, lesson.completion_mask), {}

    def whole(self, lesson: Lesson) -> tuple[Tensor, dict]:
        logits, teachers = (completion_logits(x, lesson) for x in (self.policy, self.teacher))
        return aggregate(exact_kl(logits, teachers), lesson.completion_mask), {}


def nothing(prompts, completions, **columns) -> list[float]:
    """No reward at all."""
    return [0.0] * len(prompts)


class Material:
    """What the runs of a seed share: the base model, the sums, and the teacher with its run."""

    def __init__(self, seed: int):
        self.seed = seed
        self.base, self.tokenizer = artifacts.load("sums", "base")
        self.held_out = list(sums.prompts(HELD_OUT, seed + 9, held_out=True)["prompt"])
        self.asked = sums.prompts(8_000, seed + 100)
        self.teacher = copy.deepcopy(self.base)
        config = dataclasses.replace(TEACHER, seed=seed)
        asked = sums.prompts(8_000, seed + 200)  # the teacher met other sums
        how = (self.tokenizer, sums.strict_verifier, asked, config)
        self.curve = self.watched(GRPO(self.teacher, None, *how), TEACHER_AT, by_tokens=False)
        freeze(self.teacher)
        for row in self.curve:  # it had no teacher
            del row["kl"]
        self.at_start = {"step": 0, "tokens": 0, **self.measured(self.base)}

    def loop(self, name: str):
        """A student with its way of learning, on a fresh copy of the base model."""
        policy, seed = copy.deepcopy(self.base), self.seed
        size = 16 if name.endswith("16") else STUDENT.batch_size
        if name.startswith("grpo"):
            config = dataclasses.replace(SMALL, batch_size=size, mini_batch_size=size, seed=seed)
            return GRPO(policy, None, self.tokenizer, sums.strict_verifier, self.asked, config)
        if name == "opd, to go":
            config = dataclasses.replace(SMALL, seed=seed, **TO_GO)
            return GRPO(policy, self.teacher, self.tokenizer, nothing, self.asked, config)
        config = dataclasses.replace(STUDENT, batch_size=size, seed=seed)
        asked = list(self.asked["prompt"])
        return Student(name, policy, self.teacher, self.tokenizer, asked, config)

    def watched(self, loop, marks: tuple[int, ...], by_tokens: bool = True) -> list[dict]:
        """Step until the last mark is reached, measuring after each step that reaches one."""
        tokens, learning, marks, curve = 0, 0.0, list(marks), []
        while marks:
            record = loop.step()
            tokens += int(loop.rollout.lengths.sum())
            learning += record["seconds"]
            reached = tokens if by_tokens else record["step"]
            if reached >= marks[0]:
                marks = [mark for mark in marks if mark > reached]
                at = {"step": record["step"], "tokens": tokens, "seconds": round(learning, 2)}
                curve.append({**at, **self.measured(loop.policy)})
        return curve

    def measured(self, policy) -> dict:
        """Accuracy on held-out sums, sampled and greedy; KL(π‖π_teacher) in nats a completion."""
        rewards = {"sampled": sums.strict_verifier}
        how = dict(max_new_tokens=sums.MAX_NEW_TOKENS, seed=self.seed)
        found = evaluate(policy, self.tokenizer, self.held_out, rewards, self.teacher, **how)
        working = sum(text.startswith("<") for text in found["completions"])
        return {
            "sampled": found["sampled"],
            "greedy": greedy_accuracy(policy, self.tokenizer, self.held_out),
            "working": working / len(self.held_out),
            "length": round(found["length"], 2),
            "kl": round(found["kl"], 4),
        }


@lru_cache(maxsize=1)
def material(seed: int) -> Material:
    return Material(seed)


def run(seed: int, name: str) -> dict:
    """One run, measured on its way."""
    given, begun = material(seed), time.perf_counter()
    start = dict(given.at_start)
    if name == "teacher":
        settings, curve = dataclasses.replace(TEACHER, seed=seed), given.curve
        more = {"base_pass_at": pass_at_k(given.base, given.tokenizer, given.held_out, seed)}
    else:
        loop = given.loop(name)
        settings, curve = loop.config, given.watched(loop, MARKS)
        more = {"written_by": WRITTEN_BY[name]}
    return {
        "seed": seed,
        "run": name,
        "settings": dataclasses.asdict(settings),
        **more,
        "curve": [start, *curve],
        "seconds": time.perf_counter() - begun,
        "provenance": provenance(),
    }


LEAST = {"teacher": 0.85, "grpo": 0.7, "grpo, 16": 0.6}  # sampled accuracy at the end; others .75


def assert_floors(line: dict) -> None:
    """What the chapter says of every run."""
    name, (start, *_, end) = line["run"], line["curve"]
    where, least = f"{name}, seed {line['seed']}", LEAST.get(name, 0.75)
    assert end["sampled"] >= least, f"{where}: {end['sampled']:.3f}, expected {least} or more"
    assert start["sampled"] <= 0.3, f"{where}: the base model has {start['sampled']:.3f}"
    if name != "teacher":
        assert end["tokens"] >= TOKENS, f"{where}: {end['tokens']} tokens"
    if name.startswith(("sft", "opd")):  # all that learn from the teacher come nearer to it
        assert end["kl"] < start["kl"] / 4, f"{where}: a KL of {end['kl']:.2f} to the teacher"


def main() -> None:
    record_runs(__doc__, RESULTS, "run", RUNS, run, assert_floors, threads=1)


if __name__ == "__main__":
    main()
