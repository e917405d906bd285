"""What each training command makes of its settings: models, data and reward, joined to a loop.

A command reads like the first cell of a chapter: load a policy, load data, load a reward, make the
loop. Chapters: ppo-live, grpo.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import torch

from ..algorithms.best_of_n import best_of_n as choose
from ..algorithms.dpo import DPO, DPOConfig
from ..algorithms.grpo import GRPO, GRPOConfig
from ..algorithms.ppo import PPO, PPOConfig
from ..algorithms.reward_training import RewardConfig, RewardTraining, pair_accuracy, standardise
from ..algorithms.sft import SFT, SFTConfig
from ..algorithms.shared_trunk import SharedTrunkPPO
from ..machinery.settings import check_positive
from ..mathematics.overoptimization import best_of_n_curve
from ..mathematics.tilt import best_of_n_kl_bound
from ..models.policy import add_pad_token, load_policy, load_pretrained, new_policy
from ..models.reward_model import load_reward_model, new_reward_model
from ..models.rewards import LearnedReward, RewardFunction
from ..worlds import data, letters, sums
from . import artifacts
from .evaluation import evaluate
from .log import read_log

WORLDS = {"letters": letters, "sums": sums}
TRUE_REWARD = {"letters": "gold", "sums": "strict"}
REWARDS = {"gold": "gold_reward", "strict": "strict_verifier", "lenient": "lenient_verifier"}


# ------------------------------------------------------------------ where a run starts


def start_model(s: SimpleNamespace, source: str | None, name: str):
    """(model, tokenizer) from the source given, or else the world's model of that name."""
    from transformers import AutoTokenizer

    shipped = "base" if (s.world, name) == ("sums", "sft") else name  # that one has seen them too
    if source is not None and name == "reward":
        model, tokenizer = load_reward_model(source), load_pretrained(AutoTokenizer, source)
        add_pad_token(model, tokenizer)
    elif source is not None:
        model, tokenizer = load_policy(source)
    elif s.scale == "tiny" and shipped in artifacts.ARTIFACTS.get(s.world, ()):
        model, tokenizer = artifacts.load(s.world, shipped)
    elif s.world == "letters" and name == "base":
        note("no base model of this scale is shipped: pretraining one first")
        model, tokenizer = artifacts.pretrain(s.seed, s.scale, s.device, hub=True)
    elif s.world and name == "base":
        tokenizer = WORLDS[s.world].tokenizer()
        model = new_policy(tokenizer, s.scale, s.seed)
    else:
        flag, command = ("reward", "reward-model") if name == "reward" else ("policy", "sft")
        where = f"--world {s.world} --scale {s.scale}" if s.world else f"--data {s.data}"
        raise ValueError(
            f"{flag} is not given, and none is shipped for {where}; expected a "
            "folder or hub name, such as the model/ that `python -m rlhf_lib "
            f"{command} {where} --out FOLDER` leaves"
        )
    return model.to(s.device), tokenizer


def start_reward(s: SimpleNamespace) -> RewardFunction:
    """The reward: a learned one, one of the world, or the user's own function."""
    source = "strict" if s.reward is None and s.world == "sums" else s.reward
    if source is None or source not in REWARDS and ":" not in source:
        model, tokenizer = start_model(s, source, "reward")
        return LearnedReward(model, tokenizer)
    module, name = source.split(":", 1) if ":" in source else (None, REWARDS[source])
    try:
        return getattr(import_module(module) if module else WORLDS.get(s.world), name)
    except (ImportError, AttributeError) as error:
        owner = module or s.world or "a world"
        raise ValueError(
            f"reward is {source!r}; expected a function of {owner}, and finding it failed: {error}"
        ) from error


def start_data(s: SimpleNamespace, kind: str, policy, tokenizer):
    """Two datasets: to train on, and held out. Of the user's data the first rows are held out."""
    if s.data is not None:
        table = getattr(data, f"load_{kind}")(s.data, s.split, s.data_dir, tokenizer=tokenizer)
        if len(table) <= s.eval_rows:
            raise ValueError(
                f"data has {len(table)} rows; expected more than "
                f"eval_rows={s.eval_rows}, which are held out"
            )
        last = min(len(table), s.eval_rows + (s.rows or len(table)))
        return table.select(range(s.eval_rows, last)), table.select(range(s.eval_rows))
    world, rows = WORLDS[s.world], {} if s.rows is None else {"n": s.rows}
    held_out = world.prompts(s.eval_rows, seed=s.seed + 9, held_out=True)
    if kind == "prompts":
        return world.prompts(s.rows or 4_000, seed=s.seed + 100), held_out
    if kind == "demonstrations":
        return world.demonstrations(**rows, seed=s.seed), held_out
    if s.world != "letters":
        raise ValueError(
            f"world is {s.world!r}, which has no annotators; expected letters, or data with pairs"
        )
    note("sampling pairs from the policy, for the world's annotators to compare")
    return artifacts.compare(policy, tokenizer, s.rows or artifacts.PAIRS, s.seed), held_out


def note(text: str) -> None:
    """Tell someone who watches why nothing moves yet."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr)


# ------------------------------------------------------------------ the commands


@dataclass
class Task:
    """A command made ready: its loop, and what to do with its model before and after."""

    loop: object
    measure: Callable[[], dict]  # of the model as it is, on held-out data
    model: object = None  # what is trained, written at the end with its tokenizer
    tokenizer: object = None
    finish: Callable[[], object] = lambda: None  # what is done to the model before it is written


def sft(s: SimpleNamespace, config: SFTConfig) -> Task:
    policy, tokenizer = start_model(s, s.policy, "base")
    train, held_out = start_data(s, "demonstrations", policy, tokenizer)
    loop = SFT(policy, tokenizer, train, config)
    return Task(loop, measure_policy(s, policy, tokenizer, held_out), policy, tokenizer)


def reward_model(s: SimpleNamespace, config: RewardConfig) -> Task:
    policy, tokenizer = start_model(s, s.policy, "sft")
    train, held_out = start_data(s, "preferences", policy, tokenizer)
    if s.world:
        held_out = artifacts.compare(policy, tokenizer, s.eval_rows, s.seed + 1_000)
    model = new_reward_model(policy, s.seed)

    def measure() -> dict:
        share = pair_accuracy(model, tokenizer, held_out)
        return {"accuracy": share, "accuracy_se": (share * (1 - share) / len(held_out)) ** 0.5}

    def finish() -> None:  # so that β means the same from one reward model to the next
        prompts = train["prompt"][:500]
        found = evaluate(policy, tokenizer, prompts, {}, seed=s.seed, batch_size=50)
        standardise(model, tokenizer, prompts, found["completions"])

    return Task(RewardTraining(model, tokenizer, train, config), measure, model, tokenizer, finish)


def ppo(s: SimpleNamespace, config: PPOConfig) -> Task:
    policy, tokenizer = start_model(s, s.policy, "sft")
    train, held_out = start_data(s, "prompts", policy, tokenizer)
    reference, reward = start_reference(s, policy), start_reward(s)
    ptx = None
    if config.ptx_coefficient and s.ptx is not None:
        ptx = data.load_demonstrations(s.ptx, tokenizer=tokenizer)
    elif config.ptx_coefficient and s.world:
        ptx = WORLDS[s.world].demonstrations(seed=s.seed)
    rest = (tokenizer, reward, train, config, ptx)
    if s.critic == "shared":
        loop = SharedTrunkPPO(policy, reference, *rest)
    else:
        loop = PPO(policy, reference, start_critic(s, policy, tokenizer, reward), *rest)
    return Task(
        loop, measure_policy(s, policy, tokenizer, held_out, reward, reference), policy, tokenizer
    )


def grpo(s: SimpleNamespace, config: GRPOConfig) -> Task:
    policy, tokenizer = start_model(s, s.policy, "sft")
    train, held_out = start_data(s, "prompts", policy, tokenizer)
    reference, reward = start_reference(s, policy), start_reward(s)
    loop = GRPO(policy, reference, tokenizer, reward, train, config)
    return Task(
        loop, measure_policy(s, policy, tokenizer, held_out, reward, reference), policy, tokenizer
    )


def dpo(s: SimpleNamespace, config: DPOConfig) -> Task:
    policy, tokenizer = start_model(s, s.policy, "sft")
    train, held_out = start_data(s, "preferences", policy, tokenizer)
    reference = start_reference(s, policy)
    loop = DPO(policy, None if config.loss_type == "simpo" else reference, tokenizer, train, config)
    return Task(
        loop, measure_policy(s, policy, tokenizer, held_out, reference=reference), policy, tokenizer
    )


def best_of_n(s: SimpleNamespace, config: SamplingConfig) -> Task:
    policy, tokenizer = start_model(s, s.policy, "sft")
    reward = start_reward(s)
    if s.data is not None:
        table = data.load_prompts(s.data, s.split, s.data_dir, tokenizer)
    else:
        table = WORLDS[s.world].prompts(s.rows or 200, seed=s.seed + 9, held_out=True)
    columns = {name: table[name][: s.rows] for name in table.column_names}
    prompts = columns.pop("prompt")
    loop = Sampling(policy, tokenizer, reward, prompts, columns, true_reward(s), config)
    return Task(loop, loop.measure)


def start_reference(s: SimpleNamespace, policy):
    if s.reference is None:
        return copy.deepcopy(policy)
    return start_model(s, s.reference, "reference")[0]


def start_critic(s: SimpleNamespace, policy, tokenizer, reward: RewardFunction):
    if s.critic is not None:
        return start_model(s, s.critic, "reward")[0]
    if isinstance(reward, LearnedReward) and reward.tokenizer.get_vocab() == tokenizer.get_vocab():
        return copy.deepcopy(reward.model)
    return new_reward_model(policy, s.seed)  # a reward model that reads other tokens is no start


def true_reward(s: SimpleNamespace) -> dict[str, RewardFunction]:
    """The reward that nothing is trained on unless asked to, where the data have one."""
    name = TRUE_REWARD.get(s.world)
    return {name: getattr(WORLDS[s.world], REWARDS[name])} if name else {}


def measure_policy(
    s: SimpleNamespace, policy, tokenizer, held_out, reward=None, reference=None
) -> Callable[[], dict]:
    """A function that samples a completion of each held-out prompt and measures it."""
    rewards = true_reward(s)
    if reward is not None and reward not in rewards.values():
        columns = {name: held_out[name][:] for name in held_out.column_names if name != "prompt"}
        rewards = {"reward": partial(reward, **columns) if columns else reward, **rewards}
    longest = getattr(s, "max_new_tokens", getattr(WORLDS.get(s.world), "MAX_NEW_TOKENS", 32))

    def measure() -> dict:
        found = evaluate(
            policy,
            tokenizer,
            held_out["prompt"][:],
            rewards,
            reference,
            longest,
            getattr(s, "temperature", 1.0),
            s.seed,
            batch_size=50,
        )
        del found["values"]
        return found

    return measure


# ------------------------------------------------------------------ best-of-n as a loop


@dataclass(frozen=True)
class SamplingConfig:
    """Settings of `best-of-n`."""

    num_generations: int = 16  # n, completions of each prompt
    batch_size: int = 16  # prompts a step
    max_steps: int | None = None  # steps; none for all prompts
    max_new_tokens: int = 32  # longest completion, its end token included
    temperature: float = 1.0  # divides the logits that are sampled from and learnt from
    missing_eos_penalty: float = 1.0  # taken off the score of a completion that was cut off
    seed: int = 0  # prompts and samples


class Sampling:
    """Best-of-n over batches of prompts, as a loop that can stop and go on like any other.

    Parameters
    ----------
    policy, tokenizer
    reward : callable
        Chooses.
    prompts : list of str
        Each is sampled for once, in order.
    columns : dict of str to list
        What else the data know of each prompt; handed to `reward`.
    others : dict of str to callable
        Rewards that every sample is measured by besides, such as the world's true one.
    config : SamplingConfig
    """

    def __init__(
        self,
        policy,
        tokenizer,
        reward: RewardFunction,
        prompts: list[str],
        columns: dict[str, list],
        others: dict[str, RewardFunction],
        config: SamplingConfig = SamplingConfig(),
    ):
        check_positive(
            config,
            "num_generations",
            "batch_size",
            "max_new_tokens",
            "temperature",
            *["max_steps"] * (config.max_steps is not None),
        )
        self.policy, self.tokenizer, self.prompts = policy, tokenizer, prompts
        self.columns, self.reward, self.others = columns, reward, others
        steps = -(-len(prompts) // config.batch_size)
        self.config = replace(config, max_steps=min(config.max_steps or steps, steps))
        self.step_number = 0
        self.rows: list[dict] = []  # a line of completions.jsonl for each prompt

    def step(self) -> dict:
        """Sample for one batch of prompts, and return the record."""
        start = time.perf_counter()
        c = self.config
        at = self.step_number * c.batch_size
        generator = torch.Generator(self.policy.device).manual_seed(  # a function of the step:
            c.seed * 1_000_003 + self.step_number
        )  # a resumed run needs no state
        rows = slice(at, at + c.batch_size)
        found = choose(
            self.policy,
            self.tokenizer,
            self.prompts[rows],
            self.reward,
            c.num_generations,
            c.max_new_tokens,
            c.temperature,
            generator,
            c.missing_eos_penalty,
            columns={name: values[rows] for name, values in self.columns.items()},
        )
        others = {name: found.score_all(reward).tolist() for name, reward in self.others.items()}
        for i, prompt in enumerate(found.prompts):
            self.rows.append(
                {
                    "prompt": prompt,
                    "completion": found.completions[i],
                    "score": found.scores[i].max().item(),
                    "scores": found.scores[i].tolist(),
                    **{name: table[i] for name, table in others.items()},
                    "samples": found.samples[i],
                }
            )
        self.step_number += 1
        return {
            "step": self.step_number,
            "reward": found.scores.mean().item(),
            "best_reward": found.scores.max(dim=1).values.mean().item(),
            "finished": found.finished.float().mean().item(),
            "seconds": time.perf_counter() - start,
        }

    def save(self, folder: str | os.PathLike) -> None:
        """Write all lines so far, in one move, to `completions.jsonl` beside the folder."""
        path = Path(folder).parent / "completions.jsonl"
        fresh = path.with_name(path.name + ".new")
        fresh.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows),
            encoding="utf-8",
        )
        fresh.replace(path)

    def resume(self, folder: str | os.PathLike) -> None:
        """Continue after the lines that are there."""
        self.rows = read_log(Path(folder).parent / "completions.jsonl")
        self.step_number = -(-len(self.rows) // self.config.batch_size)

    def measure(self) -> dict:
        """Of the lines so far: the curve of the best of k, and samples."""
        if not self.rows:
            return {}
        scores = torch.tensor([row["scores"] for row in self.rows])
        tables = {
            "reward": scores,
            **{name: torch.tensor([row[name] for row in self.rows]) for name in self.others},
        }
        curves = {name: best_of_n_curve(scores, table) for name, table in tables.items()}
        n = scores.shape[1]
        curve = []
        for k in [2**i for i in range(n.bit_length()) if 2**i < n] + [n]:
            point = {"n": k, "kl_bound": best_of_n_kl_bound(k)}
            for name, values in curves.items():
                point[name] = values[:, k - 1].mean().item()
                point[f"{name}_se"] = (values[:, k - 1].std() / len(values) ** 0.5).item()
            curve.append(point)
        return {
            "curve": curve,
            "prompts": [row["prompt"] for row in self.rows[:20]],
            "first": [row["samples"][0] for row in self.rows[:20]],
            "completions": [row["completion"] for row in self.rows[:20]],
        }


COMMANDS = {
    "sft": (sft, SFTConfig),
    "reward-model": (reward_model, RewardConfig),
    "ppo": (ppo, PPOConfig),
    "grpo": (grpo, GRPOConfig),
    "dpo": (dpo, DPOConfig),
    "best-of-n": (best_of_n, SamplingConfig),
}
