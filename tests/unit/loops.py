"""Small PPO and GRPO loops, made in one way for every test of them."""

from __future__ import annotations

import copy
from functools import wraps

import torch
from datasets import Dataset

from rlhf_lib.algorithms import GRPO, PPO, VARIANTS, GRPOConfig, PPOConfig, SharedTrunkPPO
from rlhf_lib.worlds import letters
from tests.unit.small import RAGGED, count_words, policy, reward_model, tokenizer, weights

SMALL = dict(max_steps=4, batch_size=8, mini_batch_size=4, max_new_tokens=8)
PROMPTS = letters.prompts(50, seed=0)
RAGGED_PROMPTS = Dataset.from_dict({"prompt": RAGGED})


def ppo(
    *,
    model=policy,
    reference=copy.deepcopy,
    shared=False,
    reward=count_words,
    dataset=PROMPTS,
    ptx=None,
    model_seed=0,
    **settings,
):
    """PPO of `model(model_seed)` near `reference` of it; `shared`: with the critic in its trunk."""
    start = model(model_seed)
    rest = (tokenizer(), reward, dataset, PPOConfig(**{**SMALL, **settings}), ptx)
    if shared:
        return SharedTrunkPPO(start, reference(start), *rest)
    return PPO(start, reference(start), reward_model(model_seed).to(start.dtype), *rest)


def grpo(
    variant="grpo",
    *,
    model=policy,
    reference=copy.deepcopy,
    reward=count_words,
    dataset=PROMPTS,
    model_seed=0,
    **settings,
):
    """GRPO, or a variant of it, of `model(model_seed)` near `reference` of it; in groups of 4."""
    start = model(model_seed)
    settings = {**SMALL, "num_generations": 4, **VARIANTS[variant], **settings}
    return GRPO(start, reference(start), tokenizer(), reward, dataset, GRPOConfig(**settings))


def with_settings(make, **preset):
    """The same factory, of the same name, with other settings where a test gives none."""

    @wraps(make)
    def preset_make(*arguments, **settings):
        return make(*arguments, **{**preset, **settings})

    return preset_make


def all_weights(loop):
    """The parameters of all that a loop trains, in one row."""
    models = [getattr(loop, name) for name in ("policy", "critic", "model") if hasattr(loop, name)]
    return torch.cat([weights(model) for model in models])
