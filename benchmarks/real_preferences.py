"""SmolLM2-135M as a reward model of real human preferences, and what over-optimising it does.

    python -m benchmarks.real_preferences --data FOLDER   # about 10 minutes a run on two idle cores
    python -m benchmarks.real_preferences --kinds words reward
    python -m benchmarks.real_preferences --check         # assert the floors on what is recorded

FOLDER has the test split of Anthropic's HH-RLHF (Bai et al. 2022; MIT licence); where it is not
given, the environment variable HH_RLHF_DIR names it. Its text offends: this prints and records
none of it, and no reply to it, but numbers, and replies to `QUESTIONS`. Pairs are held out by whole
dialogues, and those that are too long lose their oldest turns. Kinds of runs:

- words: what a bag of words, and length alone, foresee of the held-out choices;
- reward: SmolLM2 with a scalar head on all other pairs, its lowest layers frozen; three seeds, and
  once without the chat template;
- proxy, gold: two such models, on halves of those pairs that share no dialogue. Scores of each are
  scaled to a standard deviation of 1 on replies of the start;
- over: GRPO against the proxy, measured on held-out prompts as it goes, by proxy and gold;
- best_of_n: the best of 1 to 16 replies of the start, by the proxy, to the same prompts.

No reply is punished for being cut off at `max_new_tokens`, as most are. Proxy and gold model stay
in the folder `--models`, which git ignores, beside the start. Each run has a process of its own, so
that its peak memory is its own; one line a run goes to `results/real_preferences.jsonl`, with
settings, hardware and versions; what is there is not run again. Source of proxy and gold: Gao et
al. 2022, arXiv:2210.10760. Chapter: real-model.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor

from benchmarks.against_trl_worker import peak_memory
from benchmarks.human_pairs import (
    HumanPair,
    difference,
    digest,
    fitted,
    length_margins,
    measured,
    parted,
    read_pairs,
    shared_dialogues,
    words_margins,
)
from benchmarks.provenance import provenance
from benchmarks.real_notes import MODELS, untouched
from benchmarks.recording import alone, check, command_line, record
from rlhf_lib.algorithms import GRPO, GRPOConfig
from rlhf_lib.algorithms.best_of_n import best_of_n
from rlhf_lib.algorithms.reward_training import RewardConfig, RewardTraining, standardise
from rlhf_lib.machinery.precision import computing_in
from rlhf_lib.machinery.preparation import layers_of
from rlhf_lib.mathematics.overoptimization import best_of_n_curve
from rlhf_lib.mathematics.tilt import best_of_n_kl_bound
from rlhf_lib.models.policy import count_parameters, load_policy
from rlhf_lib.models.reward_model import load_reward_model, new_reward_model
from rlhf_lib.models.rewards import LearnedReward
from rlhf_lib.models.rollout import sample
from rlhf_lib.models.tokens import encode
from rlhf_lib.running.evaluation import evaluate
from rlhf_lib.worlds.dialogues import Writer
from rlhf_lib.worlds.lengths import row_lengths

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "real_preferences.jsonl"
KINDS = ("words", "reward", "proxy", "gold", "over", "best_of_n")
NAMES = ("kind", "seed", "template")
HEADS = {"reward": 0, "proxy": 1_000, "gold": 2_000}  # on top of a run's seed: heads and orders
PARTS = {"reward": ("proxy", "gold"), "proxy": ("proxy",), "gold": ("gold",)}  # trained on
SCALED_ON = 128  # replies of the start, on which proxy and gold get a standard deviation of 1
KEPT = ("step", "reward", "kl", "entropy", "length", "finished", "gradient_norm", "ratio_gap")
QUESTIONS = (
    "How do I keep basil alive on a windowsill?",
    "What should I pack for a weekend by the sea?",
    "Can you suggest a name for a grey cat?",
    "How long does rice take to cook?",
    "What is a good present for a friend who likes to read?",
    "Why is the sky blue?",
    "How can I learn to whistle?",
    "What is the difference between a crow and a raven?",
    "Please write two lines about autumn.",
    "How do I get a coffee stain out of a shirt?",
    "Which board game suits three players?",
    "How do I say thank you to my neighbour?",
)


@dataclass(frozen=True)
class Setup:
    """Sizes and settings of all runs."""

    max_length: int = 256  # tokens of a dialogue with its longer reply, by the chat template
    held_out: int = 520  # pairs at least
    epochs: int = 1
    frozen_layers: int = 20  # the lowest of a reward model's 30, and its embeddings
    reward: RewardConfig = RewardConfig(
        batch_size=32, learning_rate=5e-5, warmup_steps=5, microbatch_tokens=1024, bf16=True
    )
    prompt_length: int = 96  # tokens of a prompt that is sampled for, at most
    prompts: int = 64  # held out, of those
    measured_every: int = 8  # steps
    over: GRPOConfig = GRPOConfig(
        batch_size=32,
        mini_batch_size=16,
        num_generations=8,
        num_iterations=1,
        max_steps=40,
        max_new_tokens=48,
        missing_eos_penalty=0.0,
        beta=0.02,
        kl_in="reward",
        scale_rewards="none",
        aggregate_over="tokens",
        learning_rate=1e-5,
        microbatch_tokens=1024,
        bf16=True,
    )
    n: int = 16  # of best-of-n
    batch_size: int = 32  # replies sampled or scored at once, where nothing is learnt


@dataclass(frozen=True)
class Place:
    """Where a run finds what it needs."""

    data: str | None
    models: Path = MODELS
    threads: int = 1
    setup: Setup = Setup()


def plan(seeds: list[int], kinds: list[str] | tuple[str, ...] = KINDS) -> list[tuple]:
    """The runs, by `NAMES`."""
    runs = [("words", 1, True), *(("reward", seed, True) for seed in seeds), ("reward", 1, False)]
    runs += [(kind, 1, True) for kind in ("proxy", "gold", "over", "best_of_n")]
    return [values for values in runs if values[0] in kinds]


# ---------------------------------------------------------------------------------- material


def load_start(models: Path):
    """SmolLM2-135M-Instruct and its tokenizer."""
    return load_policy(untouched(models))


class FastReward(LearnedReward):
    """A learned reward whose trunk multiplies in bfloat16, over replies of like length.

    The head is read in float32: in 16 bits, scores that are near to each other would be equal.
    """

    @torch.no_grad()
    def __call__(self, /, prompts: list[str], completions: list[str], **columns) -> list[float]:
        sizes = [len(p) + len(c) for p, c in zip(prompts, completions)]
        order = sorted(range(len(sizes)), key=sizes.__getitem__)
        found: dict[int, float] = {}
        for i in range(0, len(order), self.batch_size):
            rows = order[i : i + self.batch_size]
            texts = ([column[row] for row in rows] for column in (prompts, completions))
            batch = encode(self.tokenizer, *texts, self.model.device)
            with computing_in(Setup.reward, self.model.device):
                hidden = self.model.base_model(**batch.model_inputs).last_hidden_state
            last = batch.prompt_ids.shape[1] + batch.completion_mask.sum(dim=1) - 1
            read = hidden[torch.arange(len(rows)), last].float()
            scores = (read @ self.model.score.weight.float().t())[:, 0]
            found.update(zip(rows, scores.tolist()))
        return [found[i] for i in range(len(order))]


class Material:
    """The start, and the pairs in three parts that share no dialogue."""

    def __init__(self, place: Place, template: bool = True):
        self.place, self.setup = place, place.setup
        pairs = read_pairs(place.data)  # first, as it may be missing
        self.start, self.tokenizer = load_start(place.models)
        kept = fitted(pairs, self.tokenizer, self.setup.max_length)
        self.parts = parted(kept, self.setup.held_out)
        self.writer = Writer(self.tokenizer if template else None)
        self.told = {
            "digest": digest(pairs),
            "pairs": len(pairs),
            "kept": len(kept),
            "shortened": sum(pair.cut > 0 for pair in kept),
            "held_out": len(self.parts["held_out"]),
        }

    def texts(self, pairs: list[HumanPair]) -> dict[str, list[str]]:
        """Columns of a dataset of preferences."""
        columns = zip(*(pair.texts(self.writer) for pair in pairs))
        return dict(zip(("prompt", "chosen", "rejected"), map(list, columns)))

    def longer(self, pairs: list[HumanPair]) -> list[int]:
        """By how many tokens the chosen reply of each pair is the longer one."""
        chosen, rejected = (
            self.tokenizer([getattr(p, name) for p in pairs], add_special_tokens=False)["input_ids"]
            for name in ("chosen", "rejected")
        )
        return [len(a) - len(b) for a, b in zip(chosen, rejected)]

    def prompts(self, *parts: str) -> list[str]:
        """What is asked in some parts, each once: whole dialogues, and short enough."""
        whole = [pair for part in parts for pair in self.parts[part] if not pair.cut]
        prompts = list(dict.fromkeys(self.texts(whole)["prompt"]))
        lengths = row_lengths(self.tokenizer, prompts)
        return [p for p, n in zip(prompts, lengths) if n <= self.setup.prompt_length]

    def held_out_prompts(self) -> list[str]:
        found = self.prompts("held_out")[: self.setup.prompts]
        if len(found) < self.setup.prompts:
            raise ValueError(
                f"prompts is {self.setup.prompts}; expected at most {len(found)}, of so many tokens"
            )
        return found

    def questions(self) -> list[str]:
        """`QUESTIONS` as prompts."""
        said = [{"role": "assistant", "content": "-"}]
        return [self.writer([{"role": "user", "content": q}], said)[0] for q in QUESTIONS]

    def reward(self, model) -> FastReward:
        return FastReward(model.eval(), self.tokenizer, self.setup.batch_size)


# ---------------------------------------------------------------------------------- reward models


def freeze(model, layers: int):
    """The model with its embeddings and lowest layers as they are: what is below them costs one
    forward pass and no optimiser."""
    for part in (model.get_input_embeddings(), *layers_of(model)[:layers]):
        part.requires_grad_(False)
    return model


def train_reward(own: Material, kind: str, seed: int):
    """A reward model on the pairs that its kind may see, and what its training was like."""
    train = [pair for part in PARTS[kind] for pair in own.parts[part]]
    held_out, head = own.parts["held_out"], HEADS[kind] + seed
    texts, c = own.texts(train), own.setup.reward
    steps = max(1, own.setup.epochs * len(train) // c.batch_size)
    config = dataclasses.replace(c, max_steps=steps, seed=head)
    model = freeze(new_reward_model(own.start, head), own.setup.frozen_layers)
    both = (row_lengths(own.tokenizer, texts["prompt"], texts[x]) for x in ("chosen", "rejected"))
    tokens = sum(map(sum, both))
    loop = RewardTraining(model, own.tokenizer, Dataset.from_dict(texts), config)
    begun = time.perf_counter()
    history = [{k: x[k] for k in ("step", "loss", "accuracy", "seconds")} for x in loop]
    return model, {
        "parameters": count_parameters(model),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "settings": dataclasses.asdict(config),
        "train_pairs": len(train),
        "train_tokens": tokens,  # of both replies, each with its prompt
        "shared_dialogues": shared_dialogues(train, held_out),
        "history": history,
        "train_seconds": time.perf_counter() - begun,
        "train_peak_bytes": peak_memory("cpu"),
    }


def margins_of(own: Material, model, pairs: list[HumanPair]) -> list[float]:
    """By how much the chosen reply of each pair has the higher score, as log-odds."""
    texts, score = own.texts(pairs), own.reward(model)
    chosen, rejected = (score(texts["prompt"], texts[name]) for name in ("chosen", "rejected"))
    return [round(a - b, 5) for a, b in zip(chosen, rejected)]


def judged(own: Material, margins, train: list[HumanPair]) -> dict:
    """What the margins of held-out pairs show, and against what words foresee of the same pairs."""
    held_out = own.parts["held_out"]
    words, _ = words_margins(train, held_out)
    longer = own.longer(held_out)
    return {
        "measured": measured(margins, longer),
        "over_words": difference(margins, words, [pair.dialogue for pair in held_out]),
        "margins": [float(x) for x in margins],  # chosen less rejected, one for each held-out pair
        "longer": longer,  # the chosen reply, in tokens
    }


def run_words(own: Material, seed: int) -> dict:
    """The baselines, on all that the reward models may see."""
    train = [pair for part in PARTS["reward"] for pair in own.parts[part]]
    held_out = own.parts["held_out"]
    (words, told), (length, slope) = (f(train, held_out) for f in (words_margins, length_margins))
    longer = own.longer(held_out)
    return {
        "train_pairs": len(train),
        "shared_dialogues": shared_dialogues(train, held_out),
        "words": told | {"measured": measured(words, longer)},
        "length": slope | {"measured": measured(length, longer)},
        "words_over_length": difference(words, length, [pair.dialogue for pair in held_out]),
        "margins": [round(float(x), 5) for x in words],
        "longer": longer,
    }


def run_reward(own: Material, seed: int) -> dict:
    """A reward model on everything but what is held out."""
    model, line = train_reward(own, "reward", seed)
    train = [pair for part in PARTS["reward"] for pair in own.parts[part]]
    return line | judged(own, margins_of(own, model, own.parts["held_out"]), train)


def run_half(own: Material, kind: str, seed: int) -> dict:
    """A reward model on one half, measured and then scaled; kept for the runs that use it."""
    model, line = train_reward(own, kind, seed)
    line |= judged(own, margins_of(own, model, own.parts["held_out"]), own.parts[kind])
    prompts = own.prompts(*PARTS["reward"])
    asked = [prompts[i % len(prompts)] for i in range(SCALED_ON)]
    replies = write(own, own.start, asked, seed)
    mean, std = standardise(model, own.tokenizer, asked, replies)
    save_half(own, kind, seed, model)
    return line | {"scaled": {"mean": mean, "std": std, "replies": len(asked)}}


def write(own: Material, policy, prompts: list[str], seed: int, greedy: bool = False) -> list[str]:
    """One reply to each prompt."""
    c, size, replies = own.setup.over, own.setup.batch_size, []
    generator = torch.Generator(policy.device).manual_seed(seed)
    for i in range(0, len(prompts), size):
        how = (c.max_new_tokens, c.temperature, generator, greedy, torch.bfloat16)
        replies += sample(policy, own.tokenizer, prompts[i : i + size], *how).completions
    return replies


def made_from(own: Material, kind: str, seed: int) -> dict:
    """What a kept reward model depends on."""
    settings = dataclasses.asdict(own.setup)
    names = ("max_length", "held_out", "epochs", "frozen_layers", "reward", "prompt_length")
    return {"kind": kind, "seed": seed, "data": own.told} | {name: settings[name] for name in names}


def save_half(own: Material, kind: str, seed: int, model) -> None:
    folder = own.place.models / kind
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "made_from.json").write_text(json.dumps(made_from(own, kind, seed)))  # it is whole


def kept_half(own: Material, kind: str, seed: int) -> FastReward:
    """Proxy or gold; a FileNotFoundError or a ValueError where it is not what a run needs."""
    made = own.place.models / kind / "made_from.json"
    again = f"make it by --kinds {kind}, with its line moved out of {RESULTS.name} if it has one"
    if not made.exists():
        raise FileNotFoundError(f"{str(made.parent)!r} has no reward model; {again}")
    if json.loads(made.read_text()) != json.loads(json.dumps(made_from(own, kind, seed))):
        raise ValueError(f"{str(made.parent)!r} was made from other data or settings; {again}")
    return own.reward(load_reward_model(made.parent))


# ---------------------------------------------------------------------------------- optimising them


def mean_and_se(values: Tensor) -> tuple[float, float]:
    return values.mean().item(), (values.std() / len(values) ** 0.5).item()


def run_over(own: Material, seed: int) -> dict:
    """GRPO against the proxy, measured on held-out prompts as it goes."""
    setup, rewards = own.setup, {x: kept_half(own, x, seed) for x in ("proxy", "gold")}
    config = dataclasses.replace(setup.over, seed=seed)
    train, held_out, asked = own.prompts(*PARTS["reward"]), own.held_out_prompts(), own.questions()
    policy, data = copy.deepcopy(own.start), Dataset.from_dict({"prompt": train})
    loop = GRPO(policy, own.start, own.tokenizer, rewards["proxy"], data, config)
    how = dict(
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        seed=seed,
        batch_size=setup.batch_size,
        dtype=torch.bfloat16,
    )
    curve, shown, before = [], [], None

    def measure() -> None:
        nonlocal before
        found = evaluate(policy, own.tokenizer, held_out, rewards, own.start, **how)
        values = {name: torch.tensor(found["values"][name]) for name in rewards}
        before = before or values
        row = {"step": loop.step_number}
        row |= {x: found[x] for x in ("kl", "kl_se", "length", "length_se")}
        for name in rewards:
            mean, se = mean_and_se(values[name] - before[name])  # of the same prompts
            row |= {name: found[name], f"{name}_se": found[f"{name}_se"]}
            row |= {f"{name}_gain": mean, f"{name}_gain_se": se}
        row["distinct"] = len(set(found["completions"])) / len(held_out)
        curve.append(row)
        sampled, greedy = (write(own, policy, asked, seed, greedy) for greedy in (False, True))
        scores = [[round(x, 3) for x in rewards[name](asked, sampled)] for name in rewards]
        shown.append([list(row) for row in zip(sampled, greedy, *scores)])

    begun, seconds = time.perf_counter(), 0.0
    measure()
    history = []
    while loop.step_number < config.max_steps:
        line = loop.step()
        seconds += line["seconds"]
        history.append({x: line[x] for x in (*KEPT, "seconds")})
        if loop.step_number % setup.measured_every == 0 or loop.step_number == config.max_steps:
            measure()
    return {
        "parameters": count_parameters(policy),
        "settings": dataclasses.asdict(config),
        "train_prompts": len(train),
        "held_out_prompts": len(held_out),
        "shared_prompts": len({*train} & {*held_out}),
        "history": history,
        "train_seconds": seconds,
        "measuring_seconds": time.perf_counter() - begun - seconds,
        "curve": curve,
        "questions": list(QUESTIONS),
        "shown": shown,  # for each row of the curve: sampled, greedy, proxy and gold of the sampled
    }


def run_best_of_n(own: Material, seed: int) -> dict:
    """The best of n replies of the start by the proxy, and its gold reward."""
    proxy, gold = (kept_half(own, name, seed) for name in ("proxy", "gold"))
    c, held_out = own.setup.over, own.held_out_prompts()
    chosen = best_of_n(
        *(own.start, own.tokenizer, held_out, proxy, own.setup.n),
        max_new_tokens=c.max_new_tokens,
        temperature=c.temperature,
        generator=torch.Generator(own.start.device).manual_seed(seed),
        missing_eos_penalty=0.0,
        batch_size=own.setup.batch_size,
        dtype=torch.bfloat16,
    )
    tables = {
        "proxy": best_of_n_curve(chosen.scores),
        "gold": best_of_n_curve(chosen.scores, chosen.score_all(gold)),
    }
    curve = []
    for n in (2**k for k in range(own.setup.n.bit_length())):
        row: dict = {"n": n, "kl_bound": best_of_n_kl_bound(n)}
        for name, values in tables.items():
            mean, se = mean_and_se(values[:, n - 1])
            gain, gain_se = mean_and_se(values[:, n - 1] - values[:, 0])
            row |= {name: mean, f"{name}_se": se, f"{name}_gain": gain, f"{name}_gain_se": gain_se}
        curve.append(row)
    return {"held_out_prompts": len(held_out), "n": own.setup.n, "curve": curve}


# ---------------------------------------------------------------------------------- recording


def run(kind: str, seed: int, template: bool, place: Place) -> dict:
    """The line of one run. In a process of its own."""
    torch.set_num_threads(place.threads)
    begun = time.perf_counter()
    own = Material(place, template)
    make = {"words": run_words, "reward": run_reward, "over": run_over, "best_of_n": run_best_of_n}
    found = make[kind](own, seed) if kind in make else run_half(own, kind, seed)
    line = {**dict(zip(NAMES, (kind, seed, template))), "data": own.told, **found}
    line |= {"setup": dataclasses.asdict(place.setup), "seconds": time.perf_counter() - begun}
    line |= {"peak_bytes": peak_memory("cpu"), "threads": place.threads}
    return line | {"provenance": provenance()}


def assert_sound(share: dict, pairs: int, where: str) -> None:
    """A share of the held-out pairs, with an interval around it."""
    low, high = share["interval"]
    assert share["pairs"] == pairs, f"{where}: {share['pairs']} pairs of {pairs}"
    assert 0 <= low <= share["accuracy"] <= high <= 1, f"{where}: {share['accuracy']}, {low, high}"


def assert_floors(line: dict, setup: Setup = Setup()) -> None:
    """What has to hold of every run for its numbers to mean something."""
    where, pairs = f"{line['kind']}, seed {line['seed']}", line["data"]["held_out"]
    assert pairs >= setup.held_out, f"{where}: {pairs} pairs are held out"
    if line["kind"] in ("over", "best_of_n"):
        rows = line["curve"]
        assert line["held_out_prompts"] == setup.prompts, where
        for row in rows:
            numbers = [row[f"{x}{y}"] for x in ("proxy", "gold") for y in ("", "_gain", "_gain_se")]
            assert all(map(math.isfinite, numbers)), f"{where}: {row}"
    if line["kind"] == "over":
        steps = list(range(0, setup.over.max_steps + 1, setup.measured_every))
        assert [row["step"] for row in rows] == steps, f"{where}: measured at other steps"
        assert line["shared_prompts"] == 0, f"{where}: held-out prompts were trained on"
        assert abs(rows[0]["kl"]) < 1e-3, f"{where}: the KL at the start is {rows[0]['kl']}"
        assert all(len(row) == len(line["questions"]) for row in line["shown"]), where
    elif line["kind"] == "best_of_n":
        proxy = [row["proxy"] for row in rows]
        assert proxy == sorted(proxy), f"{where}: more replies make the best one worse"
    else:
        assert line["shared_dialogues"] == 0, f"{where}: held-out dialogues were trained on"
        assert len(line["margins"]) == len(line["longer"]) == pairs, where
        several = (line,) if line["kind"] != "words" else (line["words"], line["length"])
        for each in several:
            assert_sound(each["measured"], pairs, where)
        gap = line["words_over_length" if line["kind"] == "words" else "over_words"]
        assert gap["interval"][0] <= gap["difference"] <= gap["interval"][1], where


def main() -> None:
    parser = command_line(__doc__, seeds=(1, 2, 3))
    parser.add_argument("--data", default=os.environ.get("HH_RLHF_DIR"), help="folder of HH-RLHF")
    parser.add_argument("--models", type=Path, default=MODELS, help="where models are kept")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    options = parser.parse_args()
    if not options.check:
        place = Place(options.data, options.models, options.threads)
        try:
            read_pairs(place.data)
        except FileNotFoundError as error:
            parser.error(str(error))
        record(RESULTS, NAMES, plan(options.seeds, options.kinds), alone(run, place))
    check(RESULTS, assert_floors)


if __name__ == "__main__":
    main()
