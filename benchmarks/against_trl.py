"""How fast the loops are, measured side by side with TRL's: GRPO 1.16, and PPO 1.12, its last.

    python -m benchmarks.against_trl                  # on a CPU with two threads: about 10 minutes
    python -m benchmarks.against_trl --gpt2           # one point alone, at GPT-2's size, on a CPU
    python -m benchmarks.against_trl --device cuda    # GPT-2 124M in bf16
    python -m benchmarks.against_trl --check          # assert the floors on what is recorded

Two processes, each in an environment that the command makes (`benchmarks/.trl-VERSION/`: that
TRL, and for all else the packages of the Python that runs this, so torch and transformers are the
same), make one step in turn: ours, TRL's, ours, TRL's. A ratio is TRL's over ours of one such
pair; medians and quartiles of the pairs are reported, and every second is kept. The first pairs
are not counted. One line a comparison goes to `results/against_trl.jsonl`; what is there is not
run again. Run it on an idle machine. Chapter: what-a-step-costs.

Both sides have the same saved weights (random: speed does not depend on what they say), threads,
precision, prompts of `PROMPT_LENGTH` tokens, completions of exactly `length`
tokens (the end token is no row of the model, so it is watched for and never drawn), temperature
1, groups of `GROUP`, one minibatch that is the whole batch (but for `--gpt2`), `epochs` passes
over it, AdamW with one learning rate, and a reward that costs nothing. A step contains, on both
sides:

- grpo: sample, decode, reward, compare within groups, `epochs` clipped updates with β = 0. One
  minibatch and one epoch are TRL's defaults, and its cheapest: it then needs no second scoring
  of the old policy, which ours never needs.
- ppo: sample, reward, score with the reference, value, GAE, `epochs` updates of policy and critic.
  TRL's default is 4 epochs, which leaves both sides mostly matrix products; 1 is the issue here.
- rollout: sample one batch, in groups, as the trainer would.

`--gpt2` is the step of `gpt2_live.py` where TRL can be set to the same: GRPO at 124,439,808
parameters, its batch, minibatches, passes and lengths, in bf16 over weights in fp32, β = 0 without
a reference. A minibatch goes through the model in `microbatch` rows at a time on both sides, as
many of `gpt2_live.py`'s tokens as divide it evenly; TRL calls that its batch of a device and
gradient accumulation. TRL scores the old policy here, as it does with more than one update a step.
Both sides count their updates, and a step that has too few or too many is refused.

TRL's logging, saving, evaluation, progress bars, gradient checkpointing (its default) and sample
completions are off. What is left, as it has no switch: its metrics, in PPO the log of each step
and two garbage collections, whose seconds are also kept apart. Its PPO clips no gradients and takes
its reward from the token ids, ours clips, and decodes text. TRL's rollout is the time in `generate`
alone; ours is `sample`, which also tokenizes, decodes, and keeps log-probabilities and entropies.

Precisions are "fp32"; "mixed", matrix products in bf16 over weights in fp32 (`bf16=True`, on both
sides); and "bf16", weights too. Plain rollouts on CUDA are "bf16", in which `generate` is fastest.

Memory on a CPU is the kernel's high-water mark of the process since before the first step, and
`idle_bytes` is what it held then; on CUDA, what torch allocated. `rollout` also divides what a
rollout takes beyond its first token by the remaining tokens, and holds that against the bound of
`bandwidth.py`, with the bandwidth measured in the same run. On a CPU a step of 64 rows waits for
arithmetic, so there the bound is a rehearsal and no goal.
"""

from __future__ import annotations

import contextlib
import json
import os
import site
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import torch

from benchmarks.bandwidth import decode_bytes
from benchmarks.provenance import provenance
from benchmarks.recording import check, command_line, record, recorded
from rlhf_lib.models.policy import SCALES, count_parameters

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "against_trl.jsonl"
VERSIONS = {"grpo": "1.16.0", "ppo": "1.12.0", "rollout": "1.16.0"}
SIZES = {
    **SCALES,
    "6M": dict(n_embd=256, n_layer=8, n_head=8, n_positions=128, initializer_range=0.06),
}
WORDS, GROUP, PROMPT_LENGTH, PROMPTS = 256, 8, {"cpu": 16, "cuda": 64}, 4096
MADE_FOR = f"{sys.prefix} {sys.version}"  # the Python that environments are made for
PAIRS = dict(pairs=20, warmup=3)
ALGORITHMS = ("grpo", "ppo", "rollout")
NAMES = ("device", "threads", "algorithm", "model", "batch", "length", "epochs", "precision")
CENTRE = {"cpu": ("tiny", 64, 32, 1, "fp32"), "cuda": ("gpt2", 256, 64, 1, "mixed")}
SWEEP = {
    "cpu": (("mini", "6M"), (16, 128), (16, 64), (4,), ("mixed",)),  # as in the centre
    "cuda": ((), (64, 128), (32, 128), (4,), ("bf16",)),
}
# `--gpt2`: a point of its own, how a batch is cut there, in rows, and how many pairs are made
GPT2 = ("cpu", "grpo", "gpt2", 64, 32, 1, "mixed")
GPT2_PARTS, GPT2_PAIRS = dict(minibatch=16, microbatch=8), dict(pairs=4, warmup=1)
# (device, algorithm, what, precision) -> the ratio at the centre, at least. Everywhere a step is no
# slower. On a CPU a PPO step was to be 3 times as fast as TRL's. It is not, in fp32: over half of
# it are products near the processor's peak, which both sides have to make.
FLOORS = {
    ("cpu", "grpo", "step", "fp32"): 1.3,
    ("cpu", "ppo", "step", "fp32"): 2.0,
    ("cpu", "ppo", "step", "mixed"): 2.5,
    ("cuda", "grpo", "step", "mixed"): 4.0,
    ("cuda", "rollout", "rollout", "bf16"): 10.0,
}
FLOOR_THREADS, BOUND_FACTOR = 2, 2.0  # of the CPU's floors; of a decode step on CUDA


def centre(device: str, algorithm: str) -> tuple:
    """Model, batch, length, epochs and precision that the sweep leaves from."""
    *point, precision = CENTRE[device]
    return (*point, "bf16" if algorithm == "rollout" and precision == "mixed" else precision)


def plan(device: str, threads: int, algorithm: str) -> list[tuple]:
    """The comparisons: the centre, and one thing changed at a time. A rollout has no epochs."""
    middle = centre(device, algorithm)
    swept = SWEEP[device] if algorithm != "rollout" else SWEEP[device][:3]
    points = [middle] + [
        (*middle[:i], other, *middle[i + 1 :]) for i, others in enumerate(swept) for other in others
    ]
    return [(device, threads, algorithm, *point) for point in points]


# ---------------------------------------------------------------------------------- preparing


def environment_mark(version: str) -> Path:
    """A file in an environment's folder, there when all of it is; says what it was made for."""
    return ROOT / "benchmarks" / f".trl-{version}" / "made-for.txt"


def has_environment(version: str) -> bool:
    """Whether an environment with that TRL is there, made for this Python."""
    mark = environment_mark(version)
    return mark.exists() and mark.read_text() == MADE_FOR


def environment(version: str) -> Path:
    """The Python of an environment with that TRL and, for the rest, the packages of this one."""
    mark = environment_mark(version)
    folder = mark.parent
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not has_environment(version):
        print(f"making {folder.relative_to(ROOT)}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        own = subprocess.run(
            [python, "-c", "import site; print(site.getsitepackages()[0])"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        shared = dict.fromkeys(
            (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages())
        )
        Path(own, "shared.pth").write_text(
            "".join(  # searched after the environment's own
                f"import site; site.addsitedir({path!r})\n" for path in shared
            )
        )
        subprocess.run(
            [
                python,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                f"trl=={version}",
            ],
            check=True,
        )
        mark.write_text(MADE_FOR)
    return python


def make(model: str, prompt_length: int, seed: int):
    """A policy with random weights, its tokenizer, and the prompts: random words, as many each.

    The tokenizer's end and padding are ids beyond the model's rows: a completion cannot end early,
    and no drawn token looks like padding (TRL's PPO reads its mask off the ids).
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.set_verbosity_error()  # it warns of an end token beyond the rows: that is the point
    logging.disable_progress_bar()
    size = dict(SIZES[model])
    rows = size.pop("vocab_size", WORDS)
    words = [f"{'a' if i < rows // 2 else 'b'}{i}" for i in range(rows)]
    text = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="a0"))
    text.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=text, padding_side="left")
    tokenizer.add_special_tokens({"pad_token": "<pad>", "eos_token": "<end>"})
    assert min(tokenizer.pad_token_id, tokenizer.eos_token_id) >= rows

    torch.manual_seed(seed)
    policy = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=rows,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            activation_function="gelu_pytorch_tanh",
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **size,
        )
    )
    prompts = torch.randint(rows, (PROMPTS, prompt_length)).tolist()
    return policy.eval(), tokenizer, [" ".join(words[i] for i in row) for row in prompts]


def prepare(folder: Path, model: str, prompt_length: int, seed: int, critic: bool = True):
    """Save policy, tokenizer, prompts and if asked a critic, for both sides; returns the policy."""
    from rlhf_lib.models.reward_model import new_reward_model

    policy, tokenizer, prompts = make(model, prompt_length, seed)
    policy.save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    if critic:
        new_reward_model(policy, seed).save_pretrained(folder / "critic")
    (folder / "prompts.json").write_text(json.dumps(prompts))
    return policy


# ---------------------------------------------------------------------------------- measuring


class Worker:
    """A process that makes a step of one side when asked."""

    def __init__(self, python: Path | str, spec: dict):
        self.name, self.log = f"{spec['side']}, {spec['algorithm']}", tempfile.TemporaryFile("w+")
        environ = {
            **os.environ,
            "OMP_NUM_THREADS": str(spec["threads"]),
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "TRL_EXPERIMENTAL_SILENCE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # of several, a trainer would take all
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.against_trl_worker", json.dumps(spec)],
            cwd=ROOT,
            env=environ,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
        )

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.log.seek(0)
            raise RuntimeError(
                f"the worker of {self.name} ended with status "
                f"{self.process.returncode}; it wrote:\n{self.log.read()[-3000:]}"
            )
        return json.loads(line)

    def ask(self, do: str, **arguments) -> dict:
        with contextlib.suppress(BrokenPipeError):  # the answer says why it ended
            self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self.process.stdin.flush()
        return self.answer()

    def step(self, tokens: int, updates: int | None = None, **arguments) -> dict:
        """One timed step; it must have sampled so many tokens and, if given, made the updates."""
        made = self.ask("step", **arguments)
        same = "so that both sides do the same work"
        if made["tokens"] != tokens:
            raise RuntimeError(
                f"{self.name} sampled {made['tokens']} tokens in a step; expected {tokens}, {same}"
            )
        if updates is not None and made["updates"] != updates:
            raise RuntimeError(
                f"{self.name} made {made['updates']} updates in a step; expected {updates}, {same}"
            )
        return made

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()  # the end of its input is the end of the worker
        self.process.wait()
        self.process.stdout.close()
        self.log.close()


def compare(
    device: str,
    threads: int,
    algorithm: str,
    model: str,
    batch: int,
    length: int,
    epochs: int,
    precision: str,
    pairs: int,
    warmup: int,
    seed: int = 0,
    prompt_length: int | None = None,
    python: Path | str | None = None,
    minibatch: int | None = None,
    microbatch: int | None = None,
) -> dict:
    """Make steps in turn, ours and TRL's; one line of the results.

    `python` has a TRL; if it is not given, an environment is made for the one in `VERSIONS`. Of
    GRPO, `minibatch` rows of the batch are one update, computed `microbatch` rows at a time; if
    they are not given, all rows.
    """
    minibatch = minibatch or batch
    microbatch = microbatch or minibatch
    if batch % minibatch or minibatch % microbatch:
        raise ValueError(
            f"microbatch is {microbatch}, minibatch {minibatch} and batch {batch}; expected each "
            "to divide the next"
        )
    if algorithm != "grpo" and microbatch != batch:
        raise ValueError(f"microbatch is {microbatch} in {algorithm}; expected a whole batch")
    updates = epochs * batch // minibatch if algorithm == "grpo" else None  # ours of PPO are two
    point = dict(zip(NAMES, (device, threads, algorithm, model, batch, length, epochs, precision)))
    spec = {
        **point,
        "minibatch": minibatch,
        "microbatch": microbatch,
        "group": GROUP,
        "prompt_length": prompt_length or PROMPT_LENGTH[device],
        "seed": seed,
        "words": SIZES[model].get("vocab_size", WORDS),
    }
    pythons = {"ours": sys.executable, "trl": python or environment(VERSIONS[algorithm])}
    lengths = (length, 1) if algorithm == "rollout" else (length,)
    made = {side: {tokens: [] for tokens in lengths} for side in pythons}
    with tempfile.TemporaryDirectory() as folder:
        policy = prepare(Path(folder), model, spec["prompt_length"], seed, algorithm == "ppo")
        workers = {}
        try:
            for side, python in pythons.items():
                workers[side] = Worker(python, {**spec, "side": side, "folder": folder})
            sides = {side: worker.answer() for side, worker in workers.items()}
            for pair in range(-warmup, pairs):
                for tokens in lengths:
                    arguments = {"new_tokens": tokens} if algorithm == "rollout" else {}
                    for side, worker in workers.items():
                        step = worker.step(batch * tokens, updates, **arguments)
                        if pair >= 0:
                            made[side][tokens].append(step)
            for side, worker in workers.items():
                sides[side] |= worker.ask("peak")
            bandwidth = (
                workers["ours"].ask("bandwidth")["bandwidth"] if algorithm == "rollout" else None
            )
        finally:
            for worker in workers.values():
                worker.close()
    for side, found in sides.items():
        found |= {
            name: [step[name] for step in made[side][length]]
            for name in ("seconds", "rollout_seconds", "collecting_seconds")
        }
        if algorithm == "rollout":
            found["first_token_seconds"] = [step["rollout_seconds"] for step in made[side][1]]
    line = {
        **spec,
        "parameters": count_parameters(policy),
        "warmup": warmup,
        "trl": sides["trl"]["versions"]["trl"],
        "sides": sides,
        "ratios": ratios(sides["ours"], sides["trl"]),
    }
    if algorithm == "rollout":
        line["decode"] = decode(
            sides,
            policy.config,
            batch,
            length,
            spec["prompt_length"],
            4 if precision == "fp32" else 2,
            bandwidth,
        )
    line["provenance"] = provenance()
    if device == "cuda":
        line["provenance"] |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return line


def quartiles(values: list[float]) -> list[float]:
    """First quartile, median and third quartile; at least two values.

    >>> quartiles([1, 2, 3, 4, 5])
    [2.0, 3.0, 4.0]
    """
    return statistics.quantiles(values, n=4, method="inclusive")


def ratios(ours: dict, trl: dict) -> dict:
    """TRL's over ours: quartiles over the pairs of step and rollout, and once of peak memory."""
    return {
        name: quartiles([b / a for a, b in zip(ours[key], trl[key], strict=True)])
        for name, key in (("step", "seconds"), ("rollout", "rollout_seconds"))
    } | {"peak_memory": trl["peak_bytes"] / ours["peak_bytes"]}


def decode(
    sides: dict,
    config,
    batch: int,
    length: int,
    prompt_length: int,
    element_size: int,
    bandwidth: float,
) -> dict:
    """Seconds of a decode step, both sides, and the bound that its bytes set."""
    context = prompt_length + length / 2  # of the steps after the first token: P + 1 to P + T - 1
    moved = decode_bytes(config, batch, context, element_size)
    bound = sum(moved.values()) / bandwidth
    found = {
        "context": context,
        "bytes": moved,
        "copy_bandwidth": bandwidth,
        "bound_seconds": bound,
    }
    for side, made in sides.items():
        seconds = [
            (whole - first) / (length - 1)
            for whole, first in zip(
                made["rollout_seconds"], made["first_token_seconds"], strict=True
            )
        ]
        found |= {
            f"{side}_seconds": quartiles(seconds),
            f"{side}_over_bound": statistics.median(seconds) / bound,
        }
    return found


# ---------------------------------------------------------------------------------- reporting


def summary(line: dict) -> str:
    """A comparison in two lines or three."""

    def spread(values):
        return f"{values[1]:.2f} ({values[0]:.2f} to {values[2]:.2f})"

    def seconds(side, name):
        return statistics.median(line["sides"][side][name])

    tokens = line["batch"] * line["length"]
    peak, idle = (
        {side: found[name] / 1e6 for side, found in line["sides"].items()}
        for name in ("peak_bytes", "idle_bytes")
    )
    where = ", ".join(f"{name} {line[name]}" for name in NAMES[2:])
    text = (
        f"{where}\n  TRL {line['trl']} over ours: step {spread(line['ratios']['step'])}, "
        f"rollout {spread(line['ratios']['rollout'])}, "
        f"peak memory {line['ratios']['peak_memory']:.2f}\n"
        f"  ours, TRL: step {seconds('ours', 'seconds'):.4f}, {seconds('trl', 'seconds'):.4f}"
        f" s; rollout {tokens / seconds('ours', 'rollout_seconds'):,.0f}, "
        f"{tokens / seconds('trl', 'rollout_seconds'):,.0f} tokens/s; peak "
        f"{peak['ours']:,.0f}, {peak['trl']:,.0f} MB over idle {idle['ours']:,.0f}, "
        f"{idle['trl']:,.0f}"
    )
    if "decode" in line:
        d = line["decode"]
        text += (
            f"\n  decode step: ours {d['ours_seconds'][1] * 1e3:.3f} ms, TRL "
            f"{d['trl_seconds'][1] * 1e3:.3f} ms, bound {d['bound_seconds'] * 1e3:.3f} ms at "
            f"{d['copy_bandwidth'] / 1e9:,.1f} GB/s; over the bound: ours "
            f"{d['ours_over_bound']:.2f}, TRL {d['trl_over_bound']:.2f}"
        )
    return text


def growth(lines: list[dict]) -> str:
    """How the cost grows: seconds at each point of the sweep, over those at the centre."""
    rows = []
    for line in lines:
        point = tuple(line[name] for name in NAMES[3:])
        middle = centre(line["device"], line["algorithm"])
        start = next(
            (
                other
                for other in lines
                if all(other[name] == line[name] for name in NAMES[:3])
                and tuple(other[name] for name in NAMES[3:]) == middle
            ),
            None,
        )
        if start is None or point == middle:
            continue
        changed, *others = (
            f"{name} {new}" for name, new, old in zip(NAMES[3:], point, middle) if new != old
        )
        if others:  # of several things none can be said to cost that
            continue
        times = [
            statistics.median(line["sides"][side]["seconds"])
            / statistics.median(start["sides"][side]["seconds"])
            for side in ("ours", "trl")
        ]
        rows.append(
            f"{line['device']:5}{line['threads']:2} {line['algorithm']:8} {changed:16}"
            f"ours × {times[0]:5.2f}  TRL × {times[1]:5.2f}"
            f"  TRL over ours {line['ratios']['step'][1]:.2f}"
        )
    return "\n".join(rows)


def assert_floors(line: dict) -> None:
    """What is claimed of every comparison, and of those at the centre, in several precisions."""
    where = ", ".join(f"{name} {line[name]}" for name in NAMES)
    for side in ("ours", "trl"):
        assert min(line["sides"][side]["seconds"]) > 0, f"{where}: {side} has a step without time"
    assert line["ratios"] == ratios(line["sides"]["ours"], line["sides"]["trl"]), (
        f"{where}: the ratios are not those of the seconds"
    )
    assert line["ratios"]["step"][1] >= 1, f"{where}: TRL over ours {line['ratios']['step'][1]}"
    *point, _ = (line[name] for name in NAMES[3:])
    *middle, _ = centre(line["device"], line["algorithm"])
    if point != middle or line["device"] == "cpu" and line["threads"] != FLOOR_THREADS:
        return
    for what in ("step", "rollout"):
        floor = FLOORS.get((line["device"], line["algorithm"], what, line["precision"]), 0)
        assert line["ratios"][what][1] >= floor, (
            f"{where}: {what}, TRL over ours {line['ratios'][what][1]}; expected {floor}"
        )
    if line["device"] == "cuda" and line["algorithm"] == "rollout":
        assert line["decode"]["ours_over_bound"] <= BOUND_FACTOR, (
            f"{where}: a decode step is {line['decode']['ours_over_bound']} times its bound"
        )


def main() -> None:
    parser = command_line(__doc__, seeds=(0,))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS))
    parser.add_argument("--pairs", type=int, help="counted steps of each side: 20, or 4 at --gpt2")
    parser.add_argument("--warmup", type=int, help="steps before, not counted: 3, or 1 at --gpt2")
    parser.add_argument("--points", type=int, help="only the first of each algorithm's points")
    parser.add_argument(
        "--gpt2", action="store_true", help="only the GRPO step at GPT-2's size on a CPU"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.gpt2 and options.device != GPT2[0]:
        parser.error(f"--gpt2 is a point on a CPU; expected no --device {options.device}")
    for name, times in (GPT2_PAIRS if options.gpt2 else PAIRS).items():
        if getattr(options, name) is None:
            setattr(options, name, times)
    if options.pairs < 2:
        parser.error(f"--pairs is {options.pairs}; expected at least 2")
    torch.set_num_threads(options.threads)
    if not options.check:
        todo = [
            point
            for algorithm in options.algorithms
            for point in plan(options.device, options.threads, algorithm)[: options.points]
        ]
        if options.gpt2:
            todo = [(GPT2[0], options.threads, *GPT2[1:])]
        record(
            options.results,
            NAMES,
            todo,
            lambda *point: compare(
                *point, options.pairs, options.warmup, **(GPT2_PARTS if options.gpt2 else {})
            ),
        )
    for line in recorded(options.results):
        print(summary(line))
    print(growth(recorded(options.results)))
    check(options.results, assert_floors, "comparisons")


if __name__ == "__main__":
    main()
