"""The checklist of a PPO implementation: what leaving one item out does to a run.

    python -m benchmarks.ppo_checklist --seeds 0 1 2     # 18 runs a seed, 45 s each on one core
    python -m benchmarks.ppo_checklist --items nothing --seeds 3 4 5 6 7 8 9 10 11  # full runs
    python -m benchmarks.ppo_checklist --table           # what is recorded, as a table
    python -m benchmarks.ppo_checklist --check           # assert what is recorded

Every run starts from the shipped letters SFT and reward models and trains for 30 steps with the
default settings, one item of the checklist left out: a setting, a starting point, or one function
of the loop replaced by the one that a hurried author would have written. The library has no
switches for these; `left_out` replaces a name of it for as long as a step runs. All runs of a seed
see the same prompts and start from the same state of the sampler; all are measured on the same 200
held-out prompts. One line a run goes to `results/ppo_checklist.jsonl`; a run that is there is not
run again. Chapter: ppo-live. The items are those of Huang et al. 2024, arXiv:2403.17031, and of
Huang, Liu and von Werra 2023, "The N implementation details of RLHF with PPO", as far as they
touch this loop, and what published loops get wrong.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from benchmarks.provenance import provenance
from benchmarks.recording import command_line, record, recorded
from rlhf_lib.algorithms.ppo import PPO, PPOConfig
from rlhf_lib.machinery.optimization import adam
from rlhf_lib.mathematics.advantages import masked_whiten, token_rewards
from rlhf_lib.models.reward_model import new_reward_model, token_values
from rlhf_lib.models.rewards import LearnedReward
from rlhf_lib.models.rollout import sample
from rlhf_lib.models.tokens import token_logprobs
from rlhf_lib.running import artifacts
from rlhf_lib.running.evaluation import evaluate
from rlhf_lib.worlds import letters

RESULTS = Path(__file__).parent / "results" / "ppo_checklist.jsonl"
CONFIG = PPOConfig(max_steps=30)
PROMPTS = 200
SHIFT = 3.0  # of a reward that nobody centred; Bradley–Terry leaves it free
KEPT = (
    "kl",
    "entropy",
    "length",
    "finished",
    "clip_fraction",
    "ratio_gap",
    "value_loss",
    "explained_variance",
    "gradient_norm",
)


# -------------------------------------------------------- what a hurried author would have written


def positions_with_padding(attention_mask: Tensor) -> Tensor:
    """The columns of the batch: a prompt padded on the left is scored at shifted positions."""
    return torch.arange(attention_mask.shape[1]).expand(attention_mask.shape)


def believe(*tables, **settings) -> None:
    """In place of what would stop or mend a loop whose sampler is not its scorer."""


def train_with_dropout(role: str, model) -> None:
    """Training mode, with GPT-2's default dropout: sampler and scorer are two random functions."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
    model.train().requires_grad_(True)


def sample_cooler(policy, tokenizer, prompts, max_new_tokens, temperature, generator, dtype=None):
    """Samples at 0.7, scored as if they were samples at 1."""
    rollout = sample(policy, tokenizer, prompts, max_new_tokens, 0.7, generator, dtype=dtype)
    with torch.no_grad():
        rollout.logprobs = token_logprobs(policy, rollout)
    return rollout


def sample_without_end(*arguments, **settings):
    """The mask ends before the end token, as where pad and end are one token."""
    rollout = sample(*arguments, **settings)
    last = rollout.lengths - 1
    cut = rollout.finished & (last > 0)
    keep = rollout.completion_mask.clone()
    keep[torch.arange(len(keep))[cut], last[cut]] = 0
    rollout.completion_mask = keep
    rollout.logprobs, rollout.entropies = rollout.logprobs * keep, rollout.entropies * keep
    return rollout


def scores_at_the_last_column(model, batch) -> Tensor:
    """The reward model's output at the end of the padded row: for most replies at a pad."""
    return token_values(model, batch)[:, -1]


def score_on_the_last_column(scores, log_ratio, mask, beta) -> Tensor:
    """The score on the last token of the batch: for most replies on a pad, which GAE skips."""
    rewards = -beta * log_ratio.detach() * mask
    rewards[:, -1] += scores
    return rewards


def kl_at_the_end(scores, log_ratio, mask, beta) -> Tensor:
    """The KL of a completion as one sum, on its last token with the score."""
    total = (log_ratio.detach() * mask).sum(dim=1)
    return token_rewards(scores - beta * total, log_ratio, mask, beta=0.0)


def whiten_nothing(values: Tensor, mask: Tensor) -> Tensor:
    """Advantages in units of reward, as they come."""
    return values * mask


def whiten_with_padding(values: Tensor, mask: Tensor) -> Tensor:
    """Mean and deviation over the padding too."""
    return masked_whiten(values * mask, torch.ones_like(mask)) * mask


def default_adam(model, learning_rate: float):
    """Adam with PyTorch's ε of 1e-8."""
    optimizer = adam(model, learning_rate)
    for group in optimizer.param_groups:
        group["eps"] = 1e-8
    return optimizer


# ------------------------------------------------------------------------------------ the checklist


GUARD = "rlhf_lib.algorithms.loop.prove_sampler"


@dataclass(frozen=True)
class Item:
    """One item of the checklist, and how it is left out."""

    rule: str  # what the loop does
    without: str  # what it does with the item left out
    settings: dict = field(default_factory=dict)
    replaced: dict[str, Callable] = field(default_factory=dict)  # name in the library -> function
    fresh_critic: bool = False
    shift: float = 0.0  # of the reward


CHECKLIST = {
    "nothing": Item("all items as the library has them", "nothing is left out"),
    # sampler and scorer are one function
    "position_ids": Item(
        "positions are counted from the mask in every forward pass",
        "positions counted with the left padding when scoring",
        replaced={"rlhf_lib.models.tokens.position_ids": positions_with_padding, GUARD: believe},
    ),
    "dropout": Item(
        "dropout is off in sampling and in scoring",
        "dropout of 0.1 in policy and critic",
        replaced={
            "rlhf_lib.machinery.machine.train_without_dropout": train_with_dropout,
            "rlhf_lib.machinery.machine.Machine.settle": believe,
            GUARD: believe,
        },
    ),
    "temperature": Item(
        "samples are scored at the temperature they were drawn at",
        "drawn at 0.7, scored at 1",
        replaced={"rlhf_lib.algorithms.loop.sample": sample_cooler},
    ),
    # the end of a reply
    "score_read": Item(
        "the reward model is read at the last real token",
        "read at the last column, often a pad",
        replaced={"rlhf_lib.models.rewards.reward_scores": scores_at_the_last_column},
    ),
    "score_place": Item(
        "the score lands on the last real token",
        "lands on the last column, often a pad",
        replaced={"rlhf_lib.algorithms.ppo.token_rewards": score_on_the_last_column},
    ),
    "end_token": Item(
        "the end token counts as an action",
        "the mask stops before the end token",
        replaced={"rlhf_lib.algorithms.loop.sample": sample_without_end},
    ),
    "missing_end": Item(
        "a reply that was cut off pays a penalty",
        "no penalty",
        settings={"missing_eos_penalty": 0.0},
    ),
    # rewards and advantages
    "kl_per_token": Item(
        "the KL is charged token by token",
        "all of it on the last token",
        replaced={"rlhf_lib.algorithms.ppo.token_rewards": kl_at_the_end},
    ),
    "centring": Item(
        "the reward is centred on the SFT model's samples",
        f"every score {SHIFT:g} higher",
        shift=SHIFT,
    ),
    "whitening": Item(
        "advantages are whitened",
        "advantages as they come",
        replaced={"rlhf_lib.algorithms.ppo.masked_whiten": whiten_nothing},
    ),
    "whitening_mask": Item(
        "padding takes no part in whitening",
        "padded zeros in mean and deviation",
        replaced={"rlhf_lib.algorithms.ppo.masked_whiten": whiten_with_padding},
    ),
    # critic
    "critic_start": Item(
        "the critic starts as a copy of the reward model",
        "as the SFT model with a new random head",
        fresh_critic=True,
    ),
    "value_clip": Item(
        "the critic's move is clipped", "no value clip", settings={"epsilon_value": None}
    ),
    # optimiser
    "warmup": Item(
        "the learning rate warms up over 3 steps", "full rate at once", settings={"warmup_steps": 0}
    ),
    "adam_epsilon": Item(
        "Adam's ε is 1e-5", "1e-8", replaced={"rlhf_lib.algorithms.loop.adam": default_adam}
    ),
    "gradient_clip": Item(
        "gradients are clipped to norm 1", "never clipped", settings={"max_grad_norm": 1e9}
    ),
    "epochs": Item("two passes over each batch", "one pass", settings={"num_ppo_epochs": 1}),
}


@contextmanager
def left_out(name: str) -> Iterator[None]:
    """The library with one item of the checklist left out, until the block ends."""
    with ExitStack() as stack:
        for target, function in CHECKLIST[name].replaced.items():
            stack.enter_context(mock.patch(target, function))
        yield


def loop_without(
    name: str, sft, reward_model, tokenizer, reward, prompts, config: PPOConfig = CONFIG
) -> PPO:
    """A PPO loop with one item left out; run its steps under `left_out` too."""
    item = CHECKLIST[name]
    critic = (
        new_reward_model(sft, config.seed) if item.fresh_critic else copy.deepcopy(reward_model)
    )
    shifted = lambda **batch: [r + item.shift for r in reward(**batch)]
    with left_out(name):
        return PPO(
            copy.deepcopy(sft),
            sft,
            critic,
            tokenizer,
            shifted,
            prompts,
            dataclasses.replace(config, **item.settings),
        )


# ------------------------------------------------------------------------------------------ running


def run(name: str, seed: int) -> dict:
    """Train with one item left out, and measure as if nothing were: reward and gold by the book."""
    start = time.perf_counter()
    sft, tokenizer = artifacts.load("letters", "sft")
    reward_model, _ = artifacts.load("letters", "reward")
    reward = LearnedReward(reward_model, tokenizer)
    loop = loop_without(
        name,
        sft,
        reward_model,
        tokenizer,
        reward,
        letters.prompts(4_000, seed=seed + 100),
        dataclasses.replace(CONFIG, seed=seed),
    )
    curve, stopped = [], None
    for step in range(1, CONFIG.max_steps + 1):
        try:
            with left_out(name):
                record = loop.step()
        except FloatingPointError as error:  # not finite: the run is over, and that is a result
            stopped = str(error)
            break
        texts = loop.rollout.prompts, loop.rollout.completions
        values = {"reward": reward(*texts), "gold": letters.gold_reward(*texts)}
        curve.append(
            {
                "step": step,
                **{k: round(sum(v) / len(v), 4) for k, v in values.items()},
                **{k: round(record[k], 6 if k == "ratio_gap" else 4) for k in KEPT},
            }
        )

    held_out = list(letters.prompts(PROMPTS, seed=9, held_out=True)["prompt"])
    found = evaluate(
        loop.policy.eval(),
        tokenizer,
        held_out,
        {"gold": letters.gold_reward, "reward": reward},
        sft,
        seed=seed,
    )
    return {
        "item": name,
        "seed": seed,
        "settings": dataclasses.asdict(loop.config),
        "curve": curve,
        "stopped": stopped,
        "held_out": {
            **{k: round(v, 4) for k, v in found.items() if isinstance(v, float)},
            "gold_values": found["values"]["gold"],
            "samples": list(zip(held_out, found["completions"]))[:3],
        },
        "seconds": time.perf_counter() - start,
        "provenance": provenance(),
    }


# ----------------------------------------------------------------------------------------- reading


def effects(lines: list[dict]) -> dict[str, dict]:
    """What leaving an item out did to the held-out measures, against the run of the same seed
    with nothing left out.

    `gold` is the mean difference over seeds and `gold_by_seed` has them one by one. `gold_se` is
    the standard error of that mean: from how far seeds lie apart, pooled over all items, as two
    or three seeds of one item are too few to tell. So it holds the luck of training as well as
    that of 200 prompts. With a single seed recorded it is that of the prompts alone.
    """
    runs = {(row["item"], row["seed"]): row["held_out"] for row in lines}
    pairs = {
        name: {
            seed: (runs[name, seed], runs["nothing", seed])
            for item, seed in sorted(runs)
            if item == name and ("nothing", seed) in runs
        }
        for name in CHECKLIST
    }
    pairs = {name: by_seed for name, by_seed in pairs.items() if by_seed}
    found = {
        name: {
            "seeds": list(by_seed),
            "gold_by_seed": [a["gold"] - b["gold"] for a, b in by_seed.values()],
            **{
                k: sum(a[k] - b[k] for a, b in by_seed.values()) / len(by_seed)
                for k in ("gold", "reward", "kl", "length")
            },
        }
        for name, by_seed in pairs.items()
    }

    apart = [
        (g - e["gold"]) ** 2
        for name, e in found.items()
        for g in e["gold_by_seed"]
        if name != "nothing" and len(e["seeds"]) > 1
    ]
    freedom = sum(len(e["seeds"]) - 1 for name, e in found.items() if name != "nothing")
    for name, e in found.items():
        if freedom:
            e["gold_se"] = math.sqrt(sum(apart) / freedom / len(e["seeds"]))
        else:
            ((a, b),) = pairs[name].values()
            gold = torch.tensor(a["gold_values"]) - torch.tensor(b["gold_values"])
            e["gold_se"] = gold.std().item() / len(gold) ** 0.5
    found.get("nothing", {})["gold_se"] = 0.0  # the difference of a run to itself
    return found


def table(lines: list[dict]) -> str:
    """The effects as lines of text."""
    rows = [f"{'left out':15} {'gold':>6}   by seed{'':13} {'reward':>7} {'KL':>6} {'length':>6}"]
    for name, e in effects(lines).items():
        rows.append(
            f"{name:15} {e['gold']:6.2f} ± {e['gold_se']:.2f}  "
            + f"{' '.join(f'{g:5.2f}' for g in e['gold_by_seed']):18} "
            + f"{e['reward']:7.2f} {e['kl']:6.2f} {e['length']:6.1f}"
        )
    return "\n".join(rows)


def assert_recorded(lines: list[dict]) -> None:
    """What the chapter relies on."""
    seen = {(row["item"], row["seed"]) for row in lines}
    assert len(seen) == len(lines), "a run is recorded twice"
    for row in lines:
        where = f"{row['item']}, seed {row['seed']}"
        assert row["item"] in CHECKLIST, f"{where}: no such item"
        assert row["stopped"] or len(row["curve"]) == CONFIG.max_steps, f"{where}: cut short"
        gap = row["curve"][0]["ratio_gap"]
        apart = row["item"] in ("position_ids", "dropout")  # sampler and scorer are two functions
        assert gap > 0.1 if apart else gap < 1e-3, f"{where}: ratio gap {gap} at the first update"


def main() -> None:
    parser = command_line(__doc__, seeds=(0, 1, 2))
    parser.add_argument("--items", nargs="+", choices=list(CHECKLIST), default=list(CHECKLIST))
    parser.add_argument(
        "--limit", type=float, default=math.inf, help="start no run after so many seconds"
    )
    parser.add_argument("--table", action="store_true", help="run nothing; print the effects")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not (options.check or options.table):
        plan = [(name, seed) for seed in options.seeds for name in options.items]
        record(RESULTS, ("item", "seed"), plan, run, options.limit)
    lines = recorded(RESULTS)
    assert_recorded(lines)
    print(table(lines))


if __name__ == "__main__":
    main()
