"""Random inputs for the functions that chapters show, by the function's full name.

An entry is a function of a NumPy generator that returns keyword arguments. Whatever stands at a
masked position is as random as the rest, so a cell that forgets the mask gives itself away.
Tensors with `requires_grad` have their gradients compared too.

A chapter that tags a cell `same-as:rlhf_lib.module.function` needs an entry here:

    @inputs("rlhf_lib.module.function")
    def _(rng):
        return {"first": ..., "second": ...}
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

INPUTS: dict[str, Callable[[np.random.Generator], dict]] = {}


def inputs(*names: str):
    """Register the inputs of one function, or of several that take the same ones."""

    def register(function):
        for name in names:
            assert name not in INPUTS, f"{name} has two entries"
            INPUTS[name] = function
        return function

    return register


# --- the pieces that inputs are made of -----------------------------------------------------------


def distribution(rng: np.random.Generator, size: int, zeros: bool = True) -> np.ndarray:
    """A random distribution; with `zeros`, about a quarter of the entries are 0."""
    weights = rng.dirichlet(np.ones(size))
    if zeros:
        weights *= rng.random(size) < 0.75
        weights[rng.integers(size)] += 0.1
    return weights / weights.sum()


def ragged_mask(rng: np.random.Generator, batch: int, tokens: int) -> torch.Tensor:
    """(B, T), 1 on the first tokens of each row, at least one; rows have different lengths."""
    lengths = torch.tensor(rng.integers(1, tokens + 1, size=batch))
    return (torch.arange(tokens) < lengths[:, None]).to(torch.float64)


def tensor(rng: np.random.Generator, *shape: int, scale: float = 1.0, grad: bool = False):
    """Normal numbers in float64."""
    return torch.tensor(rng.normal(scale=scale, size=shape), requires_grad=grad)


# --- kl-tilt --------------------------------------------------------------------------------------


@inputs("rlhf_lib.mathematics.tilt.softmax")
def _(rng):
    return {"logits": rng.normal(scale=5, size=(3, 7))}


@inputs("rlhf_lib.mathematics.tilt.tilt", "rlhf_lib.mathematics.tilt.log_partition")
def _(rng):
    size = int(rng.integers(2, 12))
    return {
        "reference": distribution(rng, size),
        "rewards": rng.normal(scale=4, size=size),
        "beta": float(10 ** rng.uniform(-2, 1)),
    }


@inputs("rlhf_lib.mathematics.tilt.kl_divergence")
def _(rng):
    size = int(rng.integers(2, 12))
    q = distribution(rng, size, zeros=bool(rng.integers(2)))
    return {"p": distribution(rng, size), "q": q}  # infinite where p has mass and q has none


@inputs("rlhf_lib.mathematics.tilt.best_of_n")
def _(rng):
    size = int(rng.integers(2, 12))
    return {
        "reference": distribution(rng, size),
        "n": int(rng.integers(1, 20)),
        "rewards": rng.integers(-3, 4, size=size).astype(float),
    }  # with ties


@inputs("rlhf_lib.mathematics.tilt.soft_bellman")
def _(rng):
    shape = (int(rng.integers(2, 4)),) * int(rng.integers(1, 5))
    return {
        "reference": distribution(rng, int(np.prod(shape)), zeros=False).reshape(shape),
        "rewards": rng.normal(scale=2, size=shape),
        "beta": float(10 ** rng.uniform(-1, 1)),
    }


# --- ppo-live, grpo -------------------------------------------------------------------------------


@inputs("rlhf_lib.mathematics.kl.k1", "rlhf_lib.mathematics.kl.k2", "rlhf_lib.mathematics.kl.k3")
def _(rng):
    return {"log_ratio": tensor(rng, 4, 6, grad=True)}


@inputs("rlhf_lib.mathematics.kl.exact_kl")
def _(rng):
    return {  # the cell computes in single precision
        "logits": tensor(rng, 4, 6, 9, scale=2, grad=True).float().detach().requires_grad_(),
        "ref_logits": tensor(rng, 4, 6, 9, scale=2).float(),
    }


@inputs(
    "rlhf_lib.mathematics.advantages.masked_mean",
    "rlhf_lib.mathematics.advantages.masked_variance",
    "rlhf_lib.mathematics.advantages.masked_whiten",
)
def _(rng):
    return {"values": tensor(rng, 4, 6, scale=3, grad=True), "mask": ragged_mask(rng, 4, 6)}


@inputs("rlhf_lib.mathematics.advantages.gae")
def _(rng):
    return {
        "rewards": tensor(rng, 4, 6),
        "values": tensor(rng, 4, 6, grad=True),
        "mask": ragged_mask(rng, 4, 6),
        "gamma": rng.uniform(0.5, 1),
        "lam": rng.uniform(),
    }


@inputs("rlhf_lib.mathematics.advantages.group_advantages")
def _(rng):
    groups, size = int(rng.integers(1, 4)), int(rng.integers(2, 6))
    rewards = tensor(rng, groups * size)
    rewards[:size] = 1.0  # a group that teaches nothing
    return {
        "rewards": rewards,
        "group_size": size,
        "scale": ["std", "none"][rng.integers(2)],
        "baseline": ["mean", "leave_one_out"][rng.integers(2)],
    }


@inputs("rlhf_lib.mathematics.losses.clipped_policy_loss")
def _(rng):
    advantages = tensor(rng, 4, 6 if rng.integers(2) else 1, scale=2)  # per token, or per reply
    return {
        "logprobs": tensor(rng, 4, 6, scale=0.4, grad=True),
        "advantages": advantages,
        "old_logprobs": tensor(rng, 4, 6, scale=0.4),
        "epsilon": 0.2,
        "epsilon_high": 0.28,
    }


@inputs("rlhf_lib.mathematics.losses.clip_fraction")
def _(rng):
    return {
        "logprobs": tensor(rng, 4, 6, scale=0.4),
        "old_logprobs": tensor(rng, 4, 6, scale=0.4),
        "advantages": tensor(rng, 4, 6),
        "mask": ragged_mask(rng, 4, 6),
        "epsilon": 0.2,
    }


@inputs("rlhf_lib.mathematics.losses.clipped_value_loss")
def _(rng):
    return {
        "values": tensor(rng, 4, 6, grad=True),
        "old_values": tensor(rng, 4, 6),
        "returns": tensor(rng, 4, 6),
        "epsilon": [0.2, None][rng.integers(2)],
    }


@inputs("rlhf_lib.mathematics.losses.aggregate")
def _(rng):
    return {
        "per_token_loss": tensor(rng, 4, 6, grad=True),
        "mask": ragged_mask(rng, 4, 6),
        "over": ["tokens", "sequences"][rng.integers(2)],
    }


@inputs("rlhf_lib.mathematics.losses.sft_loss")
def _(rng):
    return {"logprobs": tensor(rng, 4, 6, grad=True), "mask": ragged_mask(rng, 4, 6)}


@inputs("rlhf_lib.mathematics.losses.bradley_terry_loss")
def _(rng):
    return {
        "chosen": tensor(rng, 5, grad=True),
        "rejected": tensor(rng, 5, grad=True),
        "margin": tensor(rng, 5, scale=0.3),
        "centering": 0.01,
    }


# --- ppo-live -------------------------------------------------------------------------------------


@inputs("rlhf_lib.mathematics.advantages.token_rewards")
def _(rng):
    mask = ragged_mask(rng, 4, 6)
    return {
        "scores": tensor(rng, 4),
        "log_ratio": tensor(rng, 4, 6, grad=True),
        "mask": mask.long(),
        "beta": float(rng.uniform(0, 1)),
    }


# --- preferences ----------------------------------------------------------------------------------


def table_of_wins(rng: np.random.Generator) -> np.ndarray:
    """Everybody has beaten everybody, so that the fit is finite."""
    size = int(rng.integers(2, 6))
    return rng.integers(1, 7, size=(size, size)) * (1.0 - np.eye(size))


@inputs("rlhf_lib.mathematics.bradley_terry.win_probabilities")
def _(rng):
    return {"scores": rng.normal(scale=5, size=int(rng.integers(2, 6)))}


@inputs("rlhf_lib.mathematics.bradley_terry.surplus", "rlhf_lib.mathematics.bradley_terry.borda")
def _(rng):
    wins = table_of_wins(rng)
    return {"scores": rng.normal(size=len(wins)), "wins": wins}


@inputs("rlhf_lib.mathematics.bradley_terry.fit_scores")
def _(rng):
    return {"wins": table_of_wins(rng), "ridge": [0.0, 0.5][rng.integers(2)]}


@inputs("rlhf_lib.mathematics.bradley_terry.fit_weights")
def _(rng):
    return {"differences": rng.normal(size=(40, 3)), "ridge": float(rng.uniform(0.2, 2))}


@inputs("rlhf_lib.mathematics.bradley_terry.fleiss_kappa")
def _(rng):
    firsts = rng.integers(0, 6, size=12)
    firsts[:2] = 0, 5
    return {"counts": np.stack([firsts, 5 - firsts], axis=1)}


# --- sft ------------------------------------------------------------------------------------------


@inputs("rlhf_lib.models.tokens.selected_logprobs")
def _(rng):
    return {
        "logits": tensor(rng, 4, 6, 9, scale=3, grad=True).float().detach().requires_grad_(),
        "ids": torch.tensor(rng.integers(0, 9, size=(4, 6))),
    }


# --- policy-gradients -----------------------------------------------------------------------------


@inputs("rlhf_lib.mathematics.advantages.returns_to_go")
def _(rng):
    return {
        "rewards": tensor(rng, 4, 6),
        "mask": ragged_mask(rng, 4, 6),
        "gamma": rng.uniform(0.5, 1),
    }


@inputs("rlhf_lib.mathematics.advantages.optimal_baseline")
def _(rng):
    return {"rewards": tensor(rng, 7), "squared_norms": tensor(rng, 7) ** 2}


@inputs("rlhf_lib.mathematics.losses.reinforce_loss")
def _(rng):
    return {
        "logprobs": tensor(rng, 4, 6, grad=True),
        "advantages": tensor(rng, 4, 6 if rng.integers(2) else 1, grad=True),
    }


# --- credit ---------------------------------------------------------------------------------------


@inputs("rlhf_lib.mathematics.advantages.explained_variance")
def _(rng):
    return {
        "values": tensor(rng, 4, 6),
        "returns": tensor(rng, 4, 6, scale=2),
        "mask": ragged_mask(rng, 4, 6),
    }


# --- over-optimization ----------------------------------------------------------------------------


@inputs("rlhf_lib.mathematics.overoptimization.gain", "rlhf_lib.mathematics.overoptimization.peak")
def _(rng):
    return {
        "form": str(rng.choice(["best_of_n", "rl"])),
        "d": np.r_[0.0, rng.uniform(0, 5, 6)],
        "alpha": float(rng.normal(1)),
        "beta": float(rng.normal(0.5)),
    }


# --- reward-model ---------------------------------------------------------------------------------


@inputs(
    "rlhf_lib.mathematics.calibration.reliability",
    "rlhf_lib.mathematics.calibration.expected_calibration_error",
)
def _(rng):
    size = int(rng.integers(1, 60))
    probabilities = rng.choice([0.0, 1.0, 0.5, *rng.random(20)], size=size)
    return {
        "probabilities": probabilities,
        "outcomes": rng.integers(0, 2, size=size),
        "bins": int(rng.integers(1, 12)),
    }


# --- grpo-variants --------------------------------------------------------------------------------


@inputs("rlhf_lib.mathematics.advantages.all_equal")
def _(rng):
    return {"groups": tensor(rng, 6, 4).round().clamp(0, 1)}  # some of them all equal


# --- rlvr -----------------------------------------------------------------------------------------


@inputs("rlhf_lib.worlds.sums.strict_verifier", "rlhf_lib.worlds.sums.lenient_verifier")
def _(rng):
    pairs = [(int(a), int(b)) for a, b in rng.integers(0, 200, size=(30, 2))]
    forms = ("{0}", "<1+1=2>{0}", "<{0},2>7", "{0},{1}", "{1}", "{0} ", "<{0}", "{0}>", "", "a>{0}")
    return {
        "prompts": [f"{a}+{b}=" for a, b in pairs],
        "completions": [str(rng.choice(forms)).format(a + b, a + b + 1) for a, b in pairs],
    }


# --- what-a-step-costs ----------------------------------------------------------------------------


@inputs("rlhf_lib.machinery.microbatches.share")
def _(rng):
    whole = ragged_mask(rng, 7, 6)
    return {
        "part": whole[: rng.integers(1, 8)],
        "whole": whole,
        "over": str(rng.choice(["tokens", "sequences", "budget"])),
    }
