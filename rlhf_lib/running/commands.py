"""What each training command makes of its settings: models, data and reward, joined to a loop.

A command reads like the first cell of a chapter: load a policy, load data, load a reward, make the
loop. Chapters: ppo-live, grpo.
"""

from __future__ import annotations

import atexit
import copy
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial, reduce
from importlib import import_module, util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch

from ..algorithms.best_of_n import best_of_n as choose
from ..algorithms.dpo import DPO, DPOConfig
from ..algorithms.grpo import GRPO, GRPOConfig
from ..algorithms.ppo import PPO, PPOConfig
from ..algorithms.reward_training import RewardConfig, RewardTraining, pair_accuracy, standardise
from ..algorithms.sft import SFT, SFTConfig
from ..algorithms.shared_trunk import SharedTrunkPPO
from ..families.adapters import AdapterOff, base_of, new_adapter
from ..families.special_tokens import end_tokens
from ..machinery.calling import call
from ..machinery.settings import check_positive
from ..mathematics.overoptimization import best_of_n_curve
from ..mathematics.tilt import best_of_n_kl_bound
from ..models.policy import (
    add_pad_token,
    count_parameters,
    load_policy,
    load_pretrained,
    new_policy,
)
from ..models.reward_model import load_reward_model, new_reward_model
from ..models.rewards import LearnedReward, RewardFunction, weighted_sum
from ..worlds import data, letters, sums
from ..worlds.lengths import misfits, told, without
from ..worlds.tables import column, prompt_table, take
from . import artifacts
from .command_line import say, watched
from .evaluation import evaluate
from .log import read_steps, write_whole

WORLDS = {"letters": letters, "sums": sums}
TRUE_REWARD = {"letters": "gold", "sums": "strict"}
REWARDS = {"gold": "gold_reward", "strict": "strict_verifier", "lenient": "lenient_verifier"}
FUNCTION = re.compile(r"(.+\.py|[^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*(?:\.[^\W\d]\w*)*)")
COLUMNS = {  # what a loop reads of each kind of data
    "prompts": ("prompt",),
    "demonstrations": ("prompt", "completion"),
    "preferences": ("prompt", "chosen", "rejected"),
    "labelled": ("prompt", "completion"),
}


# ------------------------------------------------------------------ where a run starts


def start_model(s: SimpleNamespace, source: str | None, name: str, flag: str = "policy"):
    """(model, tokenizer) from the source given, or else the world's model of that name."""
    from transformers import AutoTokenizer

    shipped = "base" if (s.world, name) == ("sums", "sft") else name  # that one has seen them too
    if source is not None:
        with told_as(flag):
            if name == "reward":
                model, tokenizer = load_reward_model(source), load_pretrained(AutoTokenizer, source)
                add_pad_token(model, tokenizer)
            else:
                model, tokenizer = load_policy(source)
            if tokenizer.eos_token_id is None:
                raise ValueError(
                    f"source is {source!r}, whose tokenizer has no end token; expected one (set "
                    "eos_token in its tokenizer_config.json)"
                )
        say(f"--{flag} is {described(source, model, tokenizer)}", sys.stdout)
    elif s.world == "letters" and s.scale == "gpt2" and name != "reward":
        note(f"the {name} model that the package ships is grown to GPT-2's size")
        model, tokenizer = artifacts.grown("letters", name, s.seed)
    elif shipped in artifacts.ARTIFACTS.get(s.world, ()) and (
        s.scale == "tiny" or name == "reward"
    ):
        model, tokenizer = artifacts.load(s.world, shipped)
    elif s.world and name == "base":
        tokenizer = WORLDS[s.world].tokenizer()
        model = new_policy(tokenizer, s.scale, s.seed)
    else:
        command = "reward-model" if name == "reward" else "sft"
        where = f"--world {s.world} --scale {s.scale}" if s.world else f"--data {s.data}"
        made_of = where if s.world else "--data PAIRS --policy MODEL"
        if s.data and name != "reward":
            made_of = "--data DIALOGUES --policy MODEL"
        raise ValueError(
            f"{flag} is not given, and none is shipped for {where}; expected a folder or hub name"
            + (
                ""
                if s.data and name == "base"
                else f", such as the model/ that `python -m rlhf_lib {command} {made_of} --out "
                "FOLDER` leaves"
            )
        )
    return model.to(s.device), tokenizer


def described(source: str, model, tokenizer) -> str:
    """What a model of the user is, and what its tokenizer makes of messages and of ends."""
    inside = base_of(model)
    ends = tokenizer.convert_ids_to_tokens(end_tokens(tokenizer, model))
    template = "with a chat template" if tokenizer.chat_template else "without a chat template"
    return (
        f"{source}: a {type(inside).__name__} of {count_parameters(inside):,} parameters, "
        f"{template}; completions end with {' or '.join(map(str, ends))}, and rows are padded with "
        f"{tokenizer.pad_token}"
    )


@contextmanager
def told_as(flag: str) -> Iterator[None]:
    """Errors of a loader, which calls what it is given its source, say which flag gave it."""
    try:
        yield
    except (ValueError, OSError) as error:
        kind = OSError if isinstance(error, OSError) else ValueError
        text = re.sub(r"\bsource is\b", f"--{flag} is", str(error)).replace(
            "new_reward_model makes a reward model of a policy",
            "`python -m rlhf_lib reward-model` makes one of a policy and compared pairs",
        )
        raise kind(text if f"--{flag}" in text else f"--{flag}: {text}") from error


def start_reward(s: SimpleNamespace) -> RewardFunction:
    """The reward, or the weighted sum of several."""
    sources = s.reward if isinstance(s.reward, list) else [s.reward]
    rewards = [reward_of(s, source) for source in sources]
    if s.reward_weights is None and len(rewards) == 1:
        return rewards[0]
    weights = [1.0] * len(rewards) if s.reward_weights is None else s.reward_weights
    if len(weights) != len(rewards) or not all(map(torch.isfinite, torch.tensor(weights))):
        raise ValueError(
            f"--reward-weights is {' '.join(map(str, weights))}; expected a finite number for each "
            f"of the {len(rewards)} that --reward names"
        )
    return weighted_sum(rewards, weights)


def reward_of(s: SimpleNamespace, source: str | None) -> RewardFunction:
    """A learned reward, one of the world, or the user's own function."""
    source = "strict" if source is None and s.world == "sums" else source
    if source in REWARDS:
        if s.world is None:
            raise ValueError(
                f"--reward is {source!r}, which belongs to a world; expected a folder or hub name, "
                "or MODULE:FUNCTION, for --data"
            )
        return function_of(source, WORLDS[s.world], REWARDS[source], s.world)
    found = None if source is None else FUNCTION.fullmatch(source)
    if found and not Path(source).exists():  # a path may have a colon
        return function_of(source, found[1], found[2], found[1])
    if source is not None and source.endswith(".py") and not Path(source).is_dir():
        raise ValueError(
            f"--reward is {source!r}; expected FILE.py:FUNCTION, such as {source}:reward for the "
            "function reward in it"
        )
    try:
        model, tokenizer = start_model(s, source, "reward", "reward")
    except (ValueError, OSError) as error:
        if source is None or Path(source).exists() or not re.fullmatch(r"[\w.]+|.*:\w+", source):
            raise
        raise ValueError(
            f"{error} (a function is given as MODULE:FUNCTION, with the name of a module that "
            "Python can import, or as FILE.py:FUNCTION)"
        ) from error
    return LearnedReward(model, tokenizer)


def function_of(source: str, owner, name: str, where: str) -> RewardFunction:
    """A function, method or callable object of a world, or of a module or file by its name."""
    wanted = f"--reward is {source!r}; expected a function of {where}"
    if isinstance(owner, str):
        try:
            owner = module_from(owner)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the user's code may raise anything, SystemExit too
            kind = "" if isinstance(error, ModuleNotFoundError) else f"{type(error).__name__}: "
            raise ValueError(f"{wanted}, and importing it failed: {kind}{error}") from error
    try:
        function = reduce(getattr, name.split("."), owner)
    except AttributeError as error:
        raise ValueError(f"{wanted}, and finding it failed: {error}") from error
    if isinstance(function, type) or not callable(function):
        kind = "a class" if isinstance(function, type) else f"a {type(function).__name__}"
        raise ValueError(f"{wanted} to call with prompts and completions, and it is {kind}")
    return function


def module_from(name: str) -> ModuleType:
    """A module by its name, also from the working folder, or a file by its path."""
    if not name.endswith(".py"):
        if os.getcwd() not in sys.path:  # python -m has it there already
            sys.path.append(os.getcwd())
        return import_module(name)
    path = Path(name).expanduser().resolve()
    if not path.is_file():
        raise ModuleNotFoundError(f"there is no file {str(path)!r}")
    if str(path.parent) not in sys.path:  # for what it imports from beside it
        sys.path.append(str(path.parent))
    spec = util.spec_from_file_location(path.stem, path)
    module = util.module_from_spec(spec)
    known = sys.modules.setdefault(path.stem, module)  # dataclasses look for their module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        if known is module:
            del sys.modules[path.stem]
        raise
    return module


def start_data(s: SimpleNamespace, kind: str, policy, tokenizer, models: dict, reward=None):
    """Two datasets: to train on, and held out. Of the user's data the first rows are held out.

    What does not fit the models, or the reward's, is left out of both, or stops the run.
    """
    need = (tokenizer, models, COLUMNS[kind], getattr(s, "max_new_tokens", None), reward)
    if s.data is not None:
        with told_as("data"):
            load = getattr(data, f"load_{kind}")
            table = load(s.data, s.split, s.data_dir, tokenizer=tokenizer)
        s.data_rows = len(table)  # by which a resumed run knows its data
        if s.rows is not None:
            table = table.select(range(min(len(table), s.eval_rows + s.rows)))
        fit = fitting(s, "--data", table, *need)
        if len(fit) <= s.eval_rows:
            those = "" if fit is table else f" that fit, of {len(table)}"
            raise ValueError(
                f"--data has {len(fit)} rows{those}; expected more than eval_rows={s.eval_rows}, "
                "which are held out"
            )
        return fit.select(range(s.eval_rows, len(fit))), fit.select(range(s.eval_rows))
    world, rows = WORLDS[s.world], {} if s.rows is None else {"n": s.rows}
    held_out = world.prompts(s.eval_rows, seed=s.seed + 9, held_out=True)
    if kind == "prompts":
        train = world.prompts(s.rows or 4_000, seed=s.seed + 100)
        held_out = fitting(s, "held out", held_out, *need)
    elif kind == "demonstrations":
        train = world.demonstrations(**rows, seed=s.seed)
    elif s.world == "letters":
        note("sampling pairs from the policy, for the world's annotators to compare")
        train = artifacts.compare(policy, tokenizer, s.rows or artifacts.PAIRS, s.seed)
    else:
        raise ValueError(
            f"--world is {s.world!r}, which has no annotators; expected letters, or --data with "
            "pairs"
        )
    return fitting(s, f"of {s.world}", train, *need), held_out


def find_cache() -> None:
    """Let `datasets`, which copies what it reads, do so where that is possible: not in every home.

    A cache that cannot be written is replaced by a temporary one, for as long as Python runs.
    """
    from datasets import config

    try:
        Path(config.HF_DATASETS_CACHE).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=config.HF_DATASETS_CACHE).close()
    except OSError:
        folder = tempfile.mkdtemp(prefix="datasets-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        config.HF_DATASETS_CACHE = Path(folder)


def fitting(
    s: SimpleNamespace,
    whose: str,
    table,
    tokenizer,
    models: dict,
    columns: tuple[str, ...] = ("prompt",),
    max_new_tokens: int | None = None,
    reward=None,
    needed: bool = True,
):
    """The rows of a table that all models can read; what is left out is said on stderr.

    With --long-rows stop, and where no row is left, it is an error. Where the rows are not `needed`
    for training, the contexts alone decide, and it is never one.
    """
    texts = [column(table, name) for name in columns]
    limit = s.max_length if needed else None
    found = misfits(models, tokenizer, texts, max_new_tokens, reward, limit)
    if not found:
        return table
    which = re.sub(r"\bmax_length\b", "--max-length", told(found, len(table)))
    if needed and (s.long_rows == "stop" or len(found) == len(table)):
        ways = ["models with a longer context"]
        if max_new_tokens is not None and hasattr(s, "max_new_tokens"):
            ways.insert(0, "a smaller --max-new-tokens")
        if s.max_length is not None:
            ways.insert(0, "a larger --max-length")
        if len(found) < len(table):
            ways.insert(0, "--long-rows drop, which leaves such rows out")
        raise ValueError(f"{whose}: {which} (expected {', or '.join(ways)})")
    if not needed:  # of rows chosen among others, numbers would say nothing
        which = f"{len(found)} of {len(table)} prompts, of which one {found[0].why}"
    say(f"{whose}, left out: {which}", sys.stderr)
    if len(found) == len(table):
        return table.select([])
    return without(table, found)


def note(text: str) -> None:
    """Tell someone who watches why nothing moves yet."""
    if watched():
        say(text, sys.stderr)


# ------------------------------------------------------------------ the commands


@dataclass
class Task:
    """A command made ready: its loop, and what to do with its model before and after."""

    loop: object
    measure: Callable[[], dict]  # of the model as it is, on held-out data
    model: object = None  # what is trained, written at the end with its tokenizer
    tokenizer: object = None
    finish: Callable[[], object] | None = None  # what is done to the model once it is written


def sft(s: SimpleNamespace, config: SFTConfig) -> Task:
    policy, tokenizer = start_policy(s, "base")
    train, held_out = start_data(s, "demonstrations", policy, tokenizer, {"policy": policy})
    loop = SFT(policy, tokenizer, train, config)
    return Task(loop, measure_policy(s, policy, tokenizer, held_out), policy, tokenizer)


def reward_model(s: SimpleNamespace, config: RewardConfig) -> Task:
    policy, tokenizer = start_model(s, s.policy, "sft")
    need = tokenizer, {"policy": policy}
    train, held_out = start_data(s, "preferences", policy, *need)
    if s.world:
        held_out = artifacts.compare(policy, tokenizer, s.eval_rows, s.seed + 1_000)
        held_out = fitting(s, "held out", held_out, *need, COLUMNS["preferences"])
    model = new_reward_model(policy, s.seed)
    if s.lora is not None:
        model = with_adapter(s, model)

    def measure() -> dict:
        share = pair_accuracy(model, tokenizer, held_out)
        return {"accuracy": share, "accuracy_se": (share * (1 - share) / len(held_out)) ** 0.5}

    some, scorer = train.select(range(min(500, len(train)))), LearnedReward(model, tokenizer)
    some = fitting(s, "to standardise on", some, *need, ("prompt",), 32, scorer, needed=False)

    def finish() -> None:  # so that β means the same from one reward model to the next
        prompts = some["prompt"][:]
        found = evaluate(
            policy, tokenizer, prompts, {}, max_new_tokens=32, seed=s.seed, batch_size=50
        )
        mean, std = standardise(model, tokenizer, prompts, found["completions"])
        say(
            f"scores divided by {std:.3g}, their standard deviation on samples of the policy, so "
            f"that it is 1; their mean there is now {mean / std:.3g}\n",
            sys.stdout,
        )
        if abs(mean) > 10 * std:  # the centring keeps it near 0 otherwise
            say(
                "the policy's samples score nearly alike: such a scale is mostly noise. Samples of "
                "a policy that is less sure, or more pairs, would give another\n",
                sys.stdout,
            )

    if len(some) < 2:
        why = "no prompt leaves room to sample"
        if len(train) < 2:
            why = f"that takes 2 prompts, and there is {len(train)}"
        say(f"the scores will not be standardised: {why}", sys.stderr)
    loop = RewardTraining(model, tokenizer, train, config)
    return Task(loop, measure, model, tokenizer, finish if len(some) > 1 else None)


def ppo(s: SimpleNamespace, config: PPOConfig) -> Task:
    policy, tokenizer = start_policy(s, "sft")
    reference, reward = start_reference(s, policy), start_reward(s)
    models = {"policy": policy, "reference": reference}
    if s.critic != "shared":
        models["critic"] = start_critic(s, policy, tokenizer, reward)
    train, held_out = start_data(s, "prompts", policy, tokenizer, models, reward)
    ptx = None
    if config.ptx_coefficient and s.ptx is not None:
        with told_as("ptx"):
            ptx = data.load_demonstrations(s.ptx, tokenizer=tokenizer)
    elif config.ptx_coefficient and s.world:
        ptx = WORLDS[s.world].demonstrations(seed=s.seed)
    if ptx is not None:
        ptx = fitting(s, "--ptx", ptx, tokenizer, {"policy": policy}, COLUMNS["demonstrations"])
    rest = (tokenizer, reward, train, config, ptx)
    if s.critic == "shared":
        loop = SharedTrunkPPO(policy, reference, *rest)
    else:
        loop = PPO(policy, reference, models["critic"], *rest)
    return Task(
        loop, measure_policy(s, policy, tokenizer, held_out, reward, reference), policy, tokenizer
    )


def grpo(s: SimpleNamespace, config: GRPOConfig) -> Task:
    policy, tokenizer = start_policy(s, "sft")
    reference, reward = start_reference(s, policy), start_reward(s)
    models = {"policy": policy, "reference": reference}
    train, held_out = start_data(s, "prompts", policy, tokenizer, models, reward)
    loop = GRPO(policy, reference, tokenizer, reward, train, config)
    return Task(
        loop, measure_policy(s, policy, tokenizer, held_out, reward, reference), policy, tokenizer
    )


def dpo(s: SimpleNamespace, config: DPOConfig) -> Task:
    policy, tokenizer = start_policy(s, "sft")
    reference = start_reference(s, policy)  # simpo is measured by it, and does not read it
    read = None if config.loss_type == "simpo" else reference
    models, kind = {"policy": policy, "reference": read}, kind_of_comparisons(s, config)
    train, held_out = start_data(s, kind, policy, tokenizer, models)
    loop = DPO(policy, read, tokenizer, train, config)
    return Task(
        loop, measure_policy(s, policy, tokenizer, held_out, reference=reference), policy, tokenizer
    )


def kind_of_comparisons(s: SimpleNamespace, config: DPOConfig) -> str:
    """Pairs; or single completions with labels, by the columns, where the loss takes them."""
    if s.data is None:
        return "preferences"
    with told_as("data"):
        columns = set(data.load_table(s.data, s.split, s.data_dir).column_names)
    if columns >= {"chosen", "rejected"} or "label" not in columns and config.loss_type != "kto":
        return "preferences"
    if "label" not in columns:
        raise ValueError(
            f"--data is {s.data!r}, with columns {', '.join(sorted(columns))}; expected prompt, "
            "chosen, rejected, or prompt, completion, label"
        )
    if config.loss_type != "kto":
        raise ValueError(
            f"--data is {s.data!r}, with single completions and labels; expected pairs for "
            f"--loss-type {config.loss_type} (--loss-type kto takes both)"
        )
    return "labelled"


def best_of_n(s: SimpleNamespace, config: SamplingConfig) -> Task:
    policy, tokenizer = start_model(s, s.policy, "sft")
    reward = start_reward(s)
    if s.data is not None:
        with told_as("data"):
            table = data.load_prompts(s.data, s.split, s.data_dir, tokenizer)
        s.data_rows = len(table)
        table = table.select(range(min(len(table), s.rows or len(table))))
    else:
        table = WORLDS[s.world].prompts(s.rows or 200, seed=s.seed + 9, held_out=True)
    need = (tokenizer, {"policy": policy}, COLUMNS["prompts"], config.max_new_tokens, reward)
    table = fitting(s, "--data" if s.data else f"of {s.world}", table, *need)
    columns = {name: table[name][:] for name in table.column_names}
    prompts = columns.pop("prompt")
    loop = Sampling(policy, tokenizer, reward, prompts, columns, true_reward(s), config)
    return Task(loop, loop.measure)


def start_policy(s: SimpleNamespace, name: str):
    """The policy to train and its tokenizer; with a new adapter, if there is to be one."""
    policy, tokenizer = start_model(s, s.policy, name)
    return (policy if s.lora is None else with_adapter(s, policy)), tokenizer


def with_adapter(s: SimpleNamespace, model):
    """The model with a new adapter of the rank that --lora gives."""
    try:
        return new_adapter(model, s.lora, s.seed)
    except (ValueError, ImportError) as error:
        raise ValueError(f"--lora is {s.lora}: {error}") from error


def start_reference(s: SimpleNamespace, policy):
    """π_ref: the one given, or the policy as it starts, which a new adapter leaves in place."""
    if s.reference is None:
        return copy.deepcopy(policy) if s.lora is None else AdapterOff(policy)
    return start_model(s, s.reference, "reference", "reference")[0]


def start_critic(s: SimpleNamespace, policy, tokenizer, reward: RewardFunction):
    if s.critic is not None:
        return start_model(s, s.critic, "reward", "critic")[0]
    for part in getattr(reward, "rewards", [reward]):
        if isinstance(part, LearnedReward) and part.tokenizer.get_vocab() == tokenizer.get_vocab():
            return copy.deepcopy(part.model)
    return new_reward_model(policy, s.seed)  # a reward model that reads other tokens is no start


def true_reward(s: SimpleNamespace) -> dict[str, RewardFunction]:
    """The reward that nothing is trained on unless asked to, where the data have one."""
    name = TRUE_REWARD.get(s.world)
    return {name: getattr(WORLDS[s.world], REWARDS[name])} if name else {}


class Given(partial):
    """A reward that is given columns of the data: in each call lists of its own, to change."""

    def __call__(self, **given):
        return call(self.func, **self.keywords, **given)


def measure_policy(
    s: SimpleNamespace, policy, tokenizer, held_out, reward=None, reference=None
) -> Callable[[], dict]:
    """A function that samples a completion of each held-out prompt and measures it."""
    rewards = true_reward(s)
    longest = getattr(s, "max_new_tokens", getattr(WORLDS.get(s.world), "MAX_NEW_TOKENS", 32))
    models = {"policy": policy, "reference": reference}
    need = (tokenizer, models, ("prompt",), longest, reward)
    held_out = fitting(s, "to measure", held_out, *need, needed=False)
    if len(held_out) < 2:
        say("nothing will be measured: no held-out prompt leaves room to sample", sys.stderr)
        return dict
    if reward is not None and reward not in rewards.values():
        columns = take(prompt_table(held_out), list(range(len(held_out))))[1]
        rewards = {"reward": Given(reward, **columns) if columns else reward, **rewards}

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
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows)
        write_whole(Path(folder).parent / "completions.jsonl", "".join(lines))

    def resume(self, folder: str | os.PathLike) -> None:
        """Continue after the lines that are there."""
        needed = ("prompt", "completion", "scores", "samples", *self.others)
        self.rows = read_steps(Path(folder).parent / "completions.jsonl", needed)
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
