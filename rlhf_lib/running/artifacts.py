"""Shipped checkpoints of the small worlds, and how each of them is rebuilt.

Four models of the letters world at scale `tiny` come with the package: `base` (pretrained on the
corpus), `sft` (fine-tuned on demonstrations), `reward` (trained on compared pairs of SFT samples)
and `aligned` (the SFT model after PPO against that reward, with the default settings). The sums
world has one, `base`, at scale `mini`: it can work a sum out, and mostly does not. ::

    python -m rlhf_lib artifacts letters              # rebuild them, about 3 minutes on two cores
    python -m rlhf_lib artifacts sums                 # about 2 minutes
    python -m rlhf_lib artifacts sums --check         # measure the ones that are there

On one machine the same seed gives the same files. On another the floating-point sums differ in
their last digits, training amplifies that, and the files differ; `--check` then asserts the same
quality. Chapters: ppo-live, grpo, reward-sources.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from ..families.growth import grow
from ..models.policy import SCALES, choose_scale, load_policy, load_pretrained, new_policy
from ..models.reward_model import load_reward_model, new_reward_model

ROOT = Path(__file__).parents[1] / "artifacts"
ARTIFACTS = {"letters": ("base", "sft", "reward", "aligned"), "sums": ("base",)}
SEED = 0  # of the shipped files
PAIRS = 3_500


def path(world: str, name: str) -> Path:
    """The folder of a shipped checkpoint.

    Raises
    ------
    ValueError
        If there is no artifact of that name.
    FileNotFoundError
        If its files are missing; the message says how to rebuild them.
    """
    if world not in ARTIFACTS:
        raise ValueError(f"world is {world!r}; expected one of {', '.join(map(repr, ARTIFACTS))}")
    if name not in ARTIFACTS[world]:
        raise ValueError(
            f"artifact is {name!r}; expected one of {', '.join(map(repr, ARTIFACTS[world]))}"
        )
    folder = ROOT / world / name
    if not (folder / "model.safetensors").exists():
        raise FileNotFoundError(
            f"artifact {world}/{name} has no model.safetensors; expected the "
            f"shipped file, or run `python -m rlhf_lib artifacts {world}`"
        )
    return folder


def load(world: str, name: str):
    """Load a shipped checkpoint: (model, tokenizer).

    `reward` is a reward model; all others are causal language models.

    Raises
    ------
    ValueError, FileNotFoundError
        As `path`, or if the file cannot be read.
    """
    from transformers import AutoTokenizer

    folder = path(world, name)
    if name == "reward":
        return load_reward_model(folder), load_pretrained(AutoTokenizer, folder)
    return load_policy(folder)


def grown(world: str, name: str, seed: int = SEED):
    """A shipped checkpoint grown to GPT-2's shape: (model, tokenizer). It says the same.

    Chapter: gpt2-live.

    Raises
    ------
    ValueError, FileNotFoundError
        As `path`; and if its sizes do not fit into GPT-2's, as those of the sums world.
    """
    model, tokenizer = load(world, name)
    return grow(model, seed=seed, **SCALES["gpt2"]), tokenizer


def letters_models(
    scale: str | None = None,
    device: str = "cpu",
    seed: int = SEED,
    watch: Callable[[dict], None] = lambda record: None,
    hub: bool = False,
):
    """Where the chapters on letters start from: (base, sft, tokenizer), at any scale.

    At `tiny` these are the shipped files, and at `gpt2` the shipped files grown to that size. With
    `hub` they are trained here and now from the hub's weights, or from random ones where it does
    not answer: minutes on a GPU, hours without one.
    """
    scale = choose_scale(scale)
    if scale not in RATES:
        raise ValueError(
            f"scale is {scale!r}; expected one of {', '.join(map(repr, RATES))} for "
            "the letters world"
        )
    if scale == "gpt2" and hub:
        base, tokenizer = pretrain(seed, "gpt2", device, hub=True, watch=watch)
        return base, fine_tune(base, tokenizer, seed, "gpt2", watch), tokenizer
    models = {"tiny": load, "gpt2": partial(grown, seed=seed)}[scale]
    (base, tokenizer), (sft, _) = models("letters", "base"), models("letters", "sft")
    return base.to(device), sft.to(device), tokenizer


# ------------------------------------------------------------------ how the letters models are made

# Peak learning rates. Those of `tiny` are measured, and of `gpt2` the policy's
# (benchmarks.gpt2_live); the others follow from it: six times as wide takes a sixth, or less.
RATES = {
    "tiny": {"pretraining": 2e-3, "sft": 5e-4, "reward": 3e-4, "policy": 3e-4, "critic": 5e-4},
    "gpt2": {"pretraining": 4e-4, "sft": 1e-4, "reward": 5e-5, "policy": 2e-5, "critic": 5e-5},
}


def pretrain(
    seed: int,
    scale: str = "tiny",
    device: str = "cpu",
    hub: bool = False,
    watch: Callable[[dict], None] = lambda record: None,
):
    """The base model: a GPT-2 trained on the corpus. Returns (model, tokenizer).

    With `hub`, scale `gpt2` starts from the weights and the tokenizer that the hub has under that
    name, if it answers.
    """
    from ..algorithms.sft import SFT, SFTConfig
    from ..worlds import letters

    model = None
    if hub and scale == "gpt2":
        try:
            model, tokenizer = load_policy("gpt2")
        except ValueError:  # no network, or no such file in the cache
            pass
    if model is None:
        tokenizer = letters.tokenizer()
        model = new_policy(tokenizer, scale, seed)
    model.to(device)
    for record in SFT(
        model,
        tokenizer,
        letters.corpus(seed=seed),
        SFTConfig(max_steps=260, learning_rate=RATES[scale]["pretraining"], seed=seed),
    ):
        watch(record)
    return model, tokenizer


def fine_tune(
    base,
    tokenizer,
    seed: int,
    scale: str = "tiny",
    watch: Callable[[dict], None] = lambda record: None,
):
    """The SFT model: a copy of the base model trained on demonstrations."""
    from ..algorithms.sft import SFT, SFTConfig
    from ..worlds import letters

    model = copy.deepcopy(base)
    for record in SFT(
        model,
        tokenizer,
        letters.demonstrations(seed=seed),
        SFTConfig(learning_rate=RATES[scale]["sft"], seed=seed),
    ):
        watch(record)
    return model


def compare(sft, tokenizer, n: int, seed: int, annotators=None):
    """`n` pairs of SFT samples, each compared by a random annotator: a preference dataset."""
    from ..models.rollout import sample
    from ..worlds import letters

    prompts = letters.prompts(n, seed=seed)["prompt"]
    generator = torch.Generator(sft.device).manual_seed(seed)
    first, second = [], []
    for i in range(0, n, 250):
        for completions in (first, second):
            completions += sample(
                sft, tokenizer, prompts[i : i + 250], letters.MAX_NEW_TOKENS, generator=generator
            ).completions
    annotators = annotators or letters.Annotators(seed=seed)
    return annotators.label(list(prompts), first, second, seed=seed)


def train_reward(
    sft,
    tokenizer,
    pairs,
    seed: int,
    scale: str = "tiny",
    watch: Callable[[dict], None] = lambda record: None,
):
    """The reward model: the SFT trunk trained on the pairs, scores standardised on SFT samples."""
    from ..algorithms.reward_training import RewardConfig, RewardTraining, standardise
    from ..models.rollout import sample
    from ..worlds import letters

    model = new_reward_model(sft, seed)
    for record in RewardTraining(
        model, tokenizer, pairs, RewardConfig(learning_rate=RATES[scale]["reward"], seed=seed)
    ):
        watch(record)
    prompts = list(letters.prompts(500, seed=seed + 1)["prompt"])
    rollout = sample(
        sft,
        tokenizer,
        prompts,
        letters.MAX_NEW_TOKENS,
        generator=torch.Generator(sft.device).manual_seed(seed + 1),
    )
    standardise(model, tokenizer, prompts, rollout.completions)
    return model.eval()


def align(
    sft, reward_model, tokenizer, seed: int, watch: Callable[[dict], None] = lambda record: None
):
    """The aligned model: a copy of the SFT model after PPO with its default settings."""
    from ..algorithms.ppo import PPO, PPOConfig
    from ..models.rewards import LearnedReward
    from ..worlds import letters

    policy = copy.deepcopy(sft)
    for record in PPO(
        policy,
        copy.deepcopy(sft),
        copy.deepcopy(reward_model),
        tokenizer,
        LearnedReward(reward_model, tokenizer),
        letters.prompts(4_000, seed=seed + 100),
        PPOConfig(seed=seed),
    ):
        watch(record)
    return policy


# ------------------------------------------------------------------ how the sums model is made


def pretrain_sums(
    seed: int,
    share_working: float = 0.2,
    share_guesses: float = 0.0,
    digits: tuple[int, int] | None = None,
    watch: Callable[[dict], None] = lambda record: None,
):
    """The base model of the sums world. Returns (model, tokenizer).

    It learns to work sums out from a schoolbook in which every sum is worked, then the habits of
    demonstrators who mostly answer directly.

    Parameters
    ----------
    seed : int
    share_working, share_guesses : float
        Of the demonstrations. At share_working=0 the schoolbook has answers only, and the model no
        way to an answer but to know it or to guess.
    digits : tuple of int, optional
        Fewest and most digits of a number; the world's own if None.
    watch : callable
        Called with the record of each step.
    """
    from ..algorithms.sft import SFT, SFTConfig
    from ..worlds import sums

    digits = digits or sums.DIGITS
    tokenizer = sums.tokenizer()
    model = new_policy(tokenizer, "mini", seed)
    lessons = (
        (
            sums.demonstrations(51_200, seed + 1, 1.0 if share_working else 0.0, digits=digits),
            SFTConfig(max_steps=800, learning_rate=3e-3, seed=seed),
        ),
        (
            sums.demonstrations(12_800, seed, share_working, share_guesses, digits),
            SFTConfig(max_steps=200, learning_rate=1e-3, seed=seed),
        ),
    )
    for data, config in lessons:
        for record in SFT(model, tokenizer, data, config):
            watch(record)
    return model, tokenizer


# ------------------------------------------------------------------ measuring and writing them


def measure(base, sft, reward_model, aligned, tokenizer, seed: int) -> dict:
    """Gold utility of the policies on 400 held-out prompts, how good the reward model is, and how
    far the aligned policy is from the SFT model."""
    from ..algorithms.reward_training import pair_accuracy
    from ..models.rewards import LearnedReward
    from ..worlds import letters
    from .evaluation import evaluate

    prompts = list(letters.prompts(400, seed=seed + 9, held_out=True)["prompt"])
    rewards = {"gold": letters.gold_reward, "reward": LearnedReward(reward_model, tokenizer)}
    before, after = (
        evaluate(model, tokenizer, prompts, rewards, seed=seed) for model in (base, sft)
    )
    tuned = evaluate(aligned, tokenizer, prompts, rewards, sft, seed=seed)
    pairs = compare(sft, tokenizer, 500, seed + 1_000, letters.Annotators(seed=seed))
    both = torch.tensor([after["values"]["gold"], after["values"]["reward"]])
    return {
        "base_gold": before["gold"],
        "sft_gold": after["gold"],
        "sft_gold_se": after["gold_se"],
        "reward_accuracy": pair_accuracy(reward_model, tokenizer, pairs),
        "reward_gold_correlation": torch.corrcoef(both)[0, 1].item(),
        "reward_mean": after["reward"],
        "reward_std": both[1].std().item(),
        "aligned_gold": tuned["gold"],
        "aligned_gold_se": tuned["gold_se"],
        "aligned_reward": tuned["reward"],
        "aligned_kl": tuned["kl"],
    }


def measure_sums(base, tokenizer, seed: int) -> dict:
    """Accuracy of the base model on 400 held-out sums: sampled, greedy, and by habit."""
    from ..models.rollout import sample
    from ..worlds import sums
    from .evaluation import evaluate

    prompts = list(sums.prompts(400, seed=seed + 9, held_out=True)["prompt"])
    found = evaluate(
        base,
        tokenizer,
        prompts,
        {"right": sums.strict_verifier},
        max_new_tokens=sums.MAX_NEW_TOKENS,
        seed=seed,
    )
    greedy = sample(base, tokenizer, prompts, sums.MAX_NEW_TOKENS, greedy=True)
    right = {
        habit: [
            r
            for r, text in zip(found["values"]["right"], found["completions"])
            if text.startswith("<") == (habit == "working")
        ]
        for habit in ("working", "direct")
    }
    return {
        "sampled": found["right"],
        "sampled_se": found["right_se"],
        "greedy": sum(sums.strict_verifier(prompts, greedy.completions)) / len(prompts),
        "share_working": len(right["working"]) / len(prompts),
        **{
            f"right_if_{habit}": sum(values) / max(1, len(values))
            for habit, values in right.items()
        },
        "length": found["length"],
    }


RELIED_ON = {  # what the chapters rely on: least and most
    "letters": {
        "sft_gold - base_gold": (2.0, 8.0),
        "reward_accuracy": (0.65, 1.0),
        "reward_gold_correlation": (0.6, 1.0),
        "reward_mean": (-0.3, 0.3),
        "reward_std": (0.8, 1.2),
        "aligned_gold - sft_gold": (0.9, 8.0),
        "aligned_kl": (2.0, 6.0),
    },
    "sums": {
        "sampled": (0.12, 0.30),
        "greedy": (0.0, 0.15),
        "right_if_working": (0.7, 1.0),
        "right_if_direct": (0.0, 0.15),
    },
}


def assert_quality(measured: dict, world: str = "letters") -> None:
    """Raise an AssertionError if a world's models are not what the chapters rely on."""
    for name, (least, most) in RELIED_ON[world].items():
        first, _, second = name.partition(" - ")
        value = measured[first] - (measured[second] if second else 0)
        assert least <= value <= most, f"{name} is {value:.3f}; expected {least} to {most}"


def bar(title: str, steps: int) -> Callable[[dict], None]:
    """A progress bar that is handed the record of each step."""
    from tqdm.auto import tqdm

    progress = tqdm(total=steps, desc=title, unit="step")

    def watch(record):
        name = "loss" if "loss" in record else "reward"
        progress.set_postfix({name: f"{record[name]:.3f}"}, refresh=False)
        progress.update()

    return watch


def build_letters(seed: int = SEED, folder: Path = ROOT / "letters") -> dict:
    """Train the four letters models, write them, and return what `measure` says of them."""
    base, tokenizer = pretrain(seed, watch=bar("base", 260))
    sft = fine_tune(base, tokenizer, seed, watch=bar("sft", 60))
    pairs = compare(sft, tokenizer, PAIRS, seed)
    reward_model = train_reward(sft, tokenizer, pairs, seed, watch=bar("reward", 130))
    aligned = align(sft, reward_model, tokenizer, seed, watch=bar("aligned", 45))
    measured = measure(base, sft, reward_model, aligned, tokenizer, seed)
    assert_quality(measured)
    for name, model in (
        ("base", base),
        ("sft", sft),
        ("reward", reward_model),
        ("aligned", aligned),
    ):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return measured


def build_sums(seed: int = SEED, folder: Path = ROOT / "sums") -> dict:
    """Train the base model of the sums world, write it, and return what `measure_sums` says."""
    base, tokenizer = pretrain_sums(seed, watch=bar("base", 1_000))
    measured = measure_sums(base, tokenizer, seed)
    assert_quality(measured, "sums")
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    return measured


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m rlhf_lib artifacts",
        description="Rebuild the checkpoints that the package ships, or measure those there.",
    )
    parser.add_argument("world", choices=list(ARTIFACTS))
    parser.add_argument(
        "--check", action="store_true", help="train nothing: measure the models that are there"
    )
    parser.add_argument("--seed", type=int, default=SEED, help="default: %(default)s")
    parser.add_argument(
        "--out", type=Path, default=None, help="folder to write to (default: the package's own)"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(2)  # sums are split by thread: the same count gives the same files
    build, check = {"letters": (build_letters, measure), "sums": (build_sums, measure_sums)}[
        options.world
    ]
    if options.check:
        loaded = [load(options.world, name) for name in ARTIFACTS[options.world]]
        measured = check(*(model for model, _ in loaded), loaded[0][1], options.seed)
        assert_quality(measured, options.world)
    else:
        measured = build(options.seed, options.out or ROOT / options.world)
    print(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
