"""Learned verifiers on sums: an outcome and a process reward model, on the same completions.

    python -m benchmarks.verifiers_sums --seeds 1 2 3 4 5   # about 12 minutes a seed on one core
    python -m benchmarks.verifiers_sums --check             # assert the floors on the record

The shipped base model is made to work every sum out, at a temperature at which about half of its
answers are right. A program labels its completions. Two copies of the model's trunk with a scalar
head learn from the labels: `outcome` predicts after every token whether the answer will be right
(Cobbe et al. 2021, without their second loss on language), `process` predicts at the end of every
step whether that step is right, up to the first mistake (Lightman et al. 2023); the answer counts
as the last step. The run `selection` learns from as many completions as `LABELLED` says, and
measures on 16 completions of each of 400 held-out sums: who tells right from wrong, how soon after
a mistake, and whose pick among n is right. In the runs `paid: ...` GRPO is paid by the verifier, or
by the probability that a learned one gives. One line a run goes to `results/verifiers_sums.jsonl`,
with settings, hardware and versions; a run that is there is not made again. Chapter:
reward-sources.
"""

from __future__ import annotations

import copy
import dataclasses
import random
import time
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor

from benchmarks.provenance import provenance
from benchmarks.recording import record_runs
from benchmarks.sums_seeds import STRICT
from rlhf_lib.algorithms import GRPO
from rlhf_lib.models.reward_model import new_reward_model, token_values
from rlhf_lib.models.rollout import sample
from rlhf_lib.models.tokens import encode
from rlhf_lib.running import artifacts
from rlhf_lib.worlds import sums

RESULTS = Path(__file__).parent / "results" / "verifiers_sums.jsonl"
TEMPERATURE = 1.5
HELD_OUT, EACH = 400, 16  # sums, and completions of each
LABELLED = {"1000": 250, "4000": 1_000}  # completions, and updates: eight passes over them
PAID_BY = "4000"  # the labels of the learned verifiers that pay
BATCH, RATE = 32, 1e-3
KINDS = ("outcome", "process")
SIZES = (1, 2, 4, 8, 16)  # of which the best is picked
PAID = dataclasses.replace(
    STRICT, max_steps=20, temperature=TEMPERATURE, max_new_tokens=sums.MAX_NEW_TOKENS - 1
)
RUNS = ("selection", "paid: verifier", "paid: outcome", "paid: process")


# What a completion is labelled with -------------------------------------------------------------


def step_ends(completion: str) -> list[int]:
    """The token that ends each step, the answer being the last one: commas, ``>``, and the end.

    >>> step_ends("<7+5=12,6+4+1=11>112")
    [7, 16, 20]
    """
    before, closed, _ = completion.rpartition(">")
    cut = len(before) if closed else len(completion)
    commas = [i for i, character in enumerate(completion[:cut]) if character == ","]
    return [*commas, *([cut] if closed else []), len(completion)]


def step_labels(prompt: str, completion: str) -> list[bool]:
    """Whether each of these steps is right, the answer too.

    >>> step_labels("67+45=", "<7+5=12,6+4=10>102")
    [True, False, False]
    """
    reading = sums.read(prompt, completion)
    right = [not fault for fault in reading.faults]
    return [*(right if reading.closed else right[:-1]), reading.right]


def first_mistake(labels: list[bool]) -> int | None:
    """The number of the first step that is wrong, from 0; None if there is none."""
    return labels.index(False) if False in labels else None


def targets(kind: str, prompt: str, completion: str) -> dict[int, float]:
    """What a learned verifier is to predict after which tokens of a completion.

    >>> targets("process", "67+45=", "<7+5=12,6+4=10>102")
    {7: 1.0, 14: 0.0}
    """
    labels = step_labels(prompt, completion)
    if kind == "outcome":
        return dict.fromkeys(range(len(completion) + 1), float(labels[-1]))
    mistake = first_mistake(labels)
    known = labels if mistake is None else labels[: mistake + 1]
    return dict(zip(step_ends(completion), map(float, known)))


# The two models ----------------------------------------------------------------------------------


def verdicts(model, tokenizer, prompts: list[str], completions: list[str]) -> Tensor:
    """The head's output after each token of the completions, (B, T): log-odds of being right."""
    batch = encode(tokenizer, prompts, completions)
    return token_values(model, batch)[:, batch.prompt_ids.shape[1] :]


def trained(kind: str, base, tokenizer, prompts: list[str], completions: list[str], updates, seed):
    """A learned verifier: binary cross-entropy over all tokens that have a target."""
    model = new_reward_model(base, seed).train()
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.01)
    wanted = [targets(kind, *row) for row in zip(prompts, completions)]
    rng, rows = random.Random(seed), []
    for step in range(updates):
        if len(rows) < BATCH:
            rows += rng.sample(range(len(prompts)), len(prompts))
        some, rows = rows[:BATCH], rows[BATCH:]
        odds = verdicts(
            model, tokenizer, [prompts[i] for i in some], [completions[i] for i in some]
        )
        row, token, right = zip(
            *((r, t, y) for r, i in enumerate(some) for t, y in wanted[i].items())
        )
        loss = F.binary_cross_entropy_with_logits(odds[list(row), list(token)], torch.tensor(right))
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 10) * (1 - step / updates)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


@torch.no_grad()
def readings(model, tokenizer, prompts: list[str], completions: list[str]) -> list[list[float]]:
    """For each completion its probabilities at the ends of steps: of a right answer, or step."""
    found = []
    for i in range(0, len(prompts), 256):
        some = completions[i : i + 256]
        right = verdicts(model, tokenizer, prompts[i : i + 256], some).sigmoid()
        found += [right[row, step_ends(text)].tolist() for row, text in enumerate(some)]
    return found


def so_far(kind: str, probabilities: list[float]) -> list[float]:
    """After each step, how probable it is that nothing has gone wrong: a product, for `process`."""
    if kind == "outcome":
        return probabilities
    return torch.tensor(probabilities, dtype=torch.float64).cumprod(0).tolist()


def paid_by(kind: str, model, tokenizer):
    """A learned verifier as a reward of what follows ``<``, with which the prompts end."""

    def learned(prompts, completions, **columns) -> list[float]:
        given = [prompt.removesuffix("<") for prompt in prompts]
        worked = ["<" + text for text in completions]
        return [so_far(kind, row)[-1] for row in readings(model, tokenizer, given, worked)]

    return learned


def verifier(prompts, completions, **columns) -> list[float]:
    """The strict verifier, likewise."""
    given = [prompt.removesuffix("<") for prompt in prompts]
    return sums.strict_verifier(given, ["<" + text for text in completions])


# Measuring ---------------------------------------------------------------------------------------


def auc(of_right, of_wrong) -> float:
    """The probability that a right one scores above a wrong one; a tie counts half.

    >>> auc([0.9, 0.5], [0.5, 0.1])
    0.875
    """
    right, wrong = (torch.tensor(list(x), dtype=torch.float64) for x in (of_right, of_wrong))
    ordered = wrong.sort().values
    below = torch.searchsorted(ordered, right) + torch.searchsorted(ordered, right, right=True)
    return (below.double().mean() / 2 / len(wrong)).item()


def soon(kind: str, rows: list[list[float]], labels: list[list[bool]]) -> dict:
    """How soon after the first wrong step a verifier tells: AUC, and where it first says wrong.

    Prefixes without a mistake are held against those whose first mistake lies 0, 1 or 2 steps
    back. A verifier says wrong where its probability falls below a half.
    """
    sound, after, said = [], {0: [], 1: [], 2: []}, {"before": 0, "at": 0, "after": 0, "never": 0}
    false_alarms, clean = 0, 0
    for row, label in zip(rows, labels):
        values, mistake = so_far(kind, row), first_mistake(label)
        alarm = next((k for k, p in enumerate(row) if p < 0.5), None)
        sound += values[:mistake]
        if mistake is None:
            clean += 1
            false_alarms += alarm is not None
        elif mistake < len(label) - 1:  # a step of the working, not the answer alone
            for back in after:
                after[back] += values[mistake + back : mistake + back + 1]
            place = (
                "never"
                if alarm is None
                else ("before", "at", "after")[1 + (alarm > mistake) - (alarm < mistake)]
            )
            said[place] += 1
    return {
        "auc_after": {str(back): auc(sound, values) for back, values in after.items() if values},
        "says_wrong": {place: count / max(sum(said.values()), 1) for place, count in said.items()},
        "false_alarms": false_alarms / max(clean, 1),
    }


def picked(scores: list[float], right: list[bool], n: int) -> float:
    """How often the best of n is right, over disjoint sets of n; those tied count evenly."""
    score, truth = (torch.tensor(x, dtype=torch.float64).view(-1, n) for x in (scores, right))
    best = (score == score.amax(1, keepdim=True)).double()
    return ((best * truth).sum(1) / best.sum(1)).mean().item()


def votes(answers: list[str], weights: list[float], n: int) -> list[float]:
    """For each completion the votes that its answer has among its n, each with its weight."""
    found = []
    for i in range(0, len(answers), n):
        count: dict[str, float] = {}
        for text, weight in zip(answers[i : i + n], weights[i : i + n]):
            count[text] = count.get(text, 0.0) + weight
        found += [count[text] for text in answers[i : i + n]]
    return found


class Material:
    """What the runs of a seed share: completions with their labels, to learn from and held out."""

    def __init__(self, seed: int):
        self.seed = seed
        self.base, self.tokenizer = artifacts.load("sums", "base")
        most = max(map(int, LABELLED))
        self.asked = list(sums.prompts(most, seed + 100)["prompt"])
        self.completions = self.sampled(self.base, self.asked, seed)
        self.exam = list(sums.prompts(HELD_OUT, seed + 9, held_out=True)["prompt"])
        self.papers = [prompt for prompt in self.exam for _ in range(EACH)]
        self.answers = self.sampled(self.base, self.papers, seed + 1_000)
        self.models: dict[tuple[str, str], torch.nn.Module] = {}

    def sampled(self, policy, prompts: list[str], seed: int) -> list[str]:
        generator, found = torch.Generator().manual_seed(seed), []
        how = dict(temperature=TEMPERATURE, generator=generator)
        for i in range(0, len(prompts), 400):
            begun = [prompt + "<" for prompt in prompts[i : i + 400]]
            rollout = sample(policy, self.tokenizer, begun, sums.MAX_NEW_TOKENS - 1, **how)
            found += ["<" + text for text in rollout.completions]
        return found

    def model(self, kind: str, labelled: str):
        """The learned verifier of a kind from so many labelled completions; trained once."""
        if (kind, labelled) not in self.models:
            rows = slice(int(labelled))
            data = self.asked[rows], self.completions[rows], LABELLED[labelled], self.seed
            self.models[kind, labelled] = trained(kind, self.base, self.tokenizer, *data)
        return self.models[kind, labelled]


@lru_cache(maxsize=1)
def material(seed: int) -> Material:
    return Material(seed)


def best_of(scores: list[float], right: list[bool]) -> dict[str, float]:
    return {str(n): picked(scores, right, n) for n in SIZES}


def elected(answers: list[str], weights: list[float], right: list[bool]) -> dict[str, float]:
    return {str(n): picked(votes(answers, weights, n), right, n) for n in SIZES}


def selection(given: Material) -> dict:
    """Both verifiers at each number of labels, on the held-out completions."""
    papers, answers = given.papers, given.answers
    read = [sums.read(*row) for row in zip(papers, answers)]
    labels = [step_labels(*row) for row in zip(papers, answers)]
    right = [label[-1] for label in labels]
    unsound = [label[-1] and not all(label) for label in labels]
    short = [len(reading.steps) < len(reading.expected) for reading in read]
    finals = [reading.answer for reading in read]
    found: dict = {
        "right": sum(right) / len(right),
        "unsound": sum(unsound) / len(right),  # a right answer after a wrong step
        "short": sum(short) / len(right),  # a column of the sum is missing
        "best_of": {
            "verifier": best_of(list(map(float, right)), right),
            "vote": elected(finals, [1.0] * len(finals), right),
        },
        "verifiers": {},
    }
    for labelled in LABELLED:
        for kind in KINDS:
            begun = time.perf_counter()
            model = given.model(kind, labelled)
            learning = time.perf_counter() - begun
            rows = readings(model, given.tokenizer, papers, answers)
            whole = [so_far(kind, row)[-1] for row in rows]
            of = [[s for s, y in zip(whole, right) if y == truth] for truth in (True, False)]
            found["verifiers"].setdefault(labelled, {})[kind] = {
                "seconds": round(learning, 1),
                "auc": auc(*of),
                "accuracy": sum((s > 0.5) == y for s, y in zip(whole, right)) / len(right),
                **soon(kind, rows, labels),
                "best_of": best_of(whole, right),
                **(
                    {"best_of_min": best_of(list(map(min, rows)), right)}
                    if kind == "process"
                    else {}
                ),
                "weighted_vote": elected(finals, whole, right),
                "unsound_picks": picked(whole, unsound, EACH),
                "short_picks": picked(whole, short, EACH),
            }
    return found


def paid(given: Material, by: str) -> dict:
    """GRPO paid by a verifier; what each of the three says of the policy on its way and after."""
    learned = {k: paid_by(k, given.model(k, PAID_BY), given.tokenizer) for k in KINDS}
    judges = {"verifier": verifier, **learned}
    asked = list(sums.prompts(8_000, given.seed + 300)["prompt"])
    data = Dataset.from_dict({"prompt": [prompt + "<" for prompt in asked]})
    policy, config = copy.deepcopy(given.base), dataclasses.replace(PAID, seed=given.seed)
    loop, curve = GRPO(policy, None, given.tokenizer, judges[by], data, config), []
    for record in loop:
        seen = loop.rollout.prompts, loop.rollout.completions
        said = {k: sum(judge(*seen)) / len(seen[0]) for k, judge in judges.items()}
        more = {k: round(record[k], 4) for k in ("length", "entropy", "seconds")}
        curve.append({"step": record["step"], **{k: round(x, 4) for k, x in said.items()}, **more})
    seen = given.sampled(policy, given.exam, given.seed + 2_000)
    begun = [prompt + "<" for prompt in given.exam], [text[1:] for text in seen]
    final = {k: sum(judge(*begun)) / len(seen) for k, judge in judges.items()}
    labels = [step_labels(*row) for row in zip(given.exam, seen)]
    final["sound"] = sum(map(all, labels)) / len(labels)
    return {
        "settings": dataclasses.asdict(config),
        "labelled": PAID_BY,
        "curve": curve,
        "final": final,
        "samples": list(zip(given.exam, seen))[:8],
    }


def run(seed: int, name: str) -> dict:
    """One run of a seed."""
    begun, given = time.perf_counter(), material(seed)
    found = selection(given) if name == "selection" else paid(given, name.removeprefix("paid: "))
    return {
        "seed": seed,
        "run": name,
        "temperature": TEMPERATURE,
        **found,
        "seconds": time.perf_counter() - begun,
        "provenance": provenance(),
    }


def assert_floors(line: dict) -> None:
    """What holds of every seed."""
    name = line["run"]
    if name == "selection":
        best, most = line["best_of"], list(line["verifiers"].values())[-1]
        checks = {
            "half of the answers are right": 0.4 <= line["right"] <= 0.65,
            "one of 16 is right": best["verifier"]["16"] >= 0.97,
            "the vote of 16 is right": best["vote"]["16"] >= 0.85,
            **{f"{kind} tells right from wrong": most[kind]["auc"] >= 0.65 for kind in KINDS},
            "a mistake shows one step later": most["process"]["auc_after"]["1"] >= 0.7,
            **{
                f"the best of 16 by {kind} is right less often than a blind pick": (
                    most[kind]["best_of"]["16"] < 0.6 * line["right"]
                )
                for kind in KINDS
            },
        }
    else:
        first, last, by = line["curve"][0], line["curve"][-1], name.removeprefix("paid: ")
        checks = {
            "half of the answers are right": 0.35 <= first["verifier"] <= 0.7,
            "what is paid rises": last[by] > first[by],
            "right answers rise by the program, and fall by a model": (
                line["final"]["verifier"] > 0.7
                if by == "verifier"
                else line["final"]["verifier"] < 0.5
            ),
        }
    failed = [check for check, held in checks.items() if not held]
    assert not failed, f"seed {line['seed']}, {name}: not so: " + "; ".join(failed)


def main() -> None:
    record_runs(__doc__, RESULTS, "run", RUNS, run, assert_floors, threads=1)


if __name__ == "__main__":
    main()
