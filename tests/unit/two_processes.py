"""What each of two processes does in test_processes.py: train, save, resume, and write it down."""

import copy
import sys
from pathlib import Path

import accelerate
import torch

from rlhf_lib.algorithms.grpo import GRPO, GRPOConfig
from rlhf_lib.algorithms.ppo import PPO, PPOConfig
from rlhf_lib.algorithms.reward_training import RewardConfig, RewardTraining
from rlhf_lib.algorithms.sft import SFT, SFTConfig
from rlhf_lib.algorithms.shared_trunk import SharedTrunkPPO
from rlhf_lib.worlds import letters
from tests.unit.small import count_words, policy, reward_model, tokenizer

SMALL = dict(max_steps=3, batch_size=12, mini_batch_size=6, max_new_tokens=8)
PROMPTS = letters.prompts(50, seed=0)


def ppo(**settings):
    model = policy().double()
    return PPO(
        model,
        copy.deepcopy(model),
        reward_model().double(),
        tokenizer(),
        count_words,
        PROMPTS,
        PPOConfig(**SMALL, **settings),
    )


def shared(**settings):
    model = policy().double()
    return SharedTrunkPPO(
        model,
        copy.deepcopy(model),
        tokenizer(),
        count_words,
        PROMPTS,
        PPOConfig(**SMALL, ptx_coefficient=0.5, microbatch_tokens=70, **settings),
        ptx=letters.demonstrations(30, seed=0),
    )


def grpo(**settings):
    model = policy().double()
    return GRPO(
        model,
        copy.deepcopy(model),
        tokenizer(),
        count_words,
        PROMPTS,
        GRPOConfig(**SMALL, num_generations=4, dynamic_sampling=True, **settings),
    )


def sft():
    return SFT(
        policy().double(),
        tokenizer(),
        letters.demonstrations(30, seed=0),
        SFTConfig(max_steps=2, batch_size=7),
    )


def reward():
    from datasets import Dataset

    pairs = Dataset.from_dict(
        {
            "prompt": PROMPTS["prompt"][:9],
            "rejected": ["no."] * 9,
            "chosen": [f"{word} thank you." for word in "abcdefghi"],
        }
    )
    return RewardTraining(
        reward_model().double(), tokenizer(), pairs, RewardConfig(max_steps=2, batch_size=9)
    )


def weights(loop):
    models = [getattr(loop, name) for name in ("policy", "critic", "model") if hasattr(loop, name)]
    return torch.cat([p.detach().flatten() for m in models for p in m.parameters()])


def learned_batches(loop) -> list:
    """The list that every batch a loop learns from will be added to."""
    batches, learn = [], loop.learn
    loop.learn = lambda *batch: batches.append(batch) or learn(*batch)
    return batches


def main(folder: Path) -> None:
    state = accelerate.PartialState(cpu=True)
    torch.set_num_threads(1)
    found = {}
    for make in (ppo, shared, grpo):
        loop = make()
        batches = learned_batches(loop)
        records = [loop.step(), loop.step()]
        loop.save(folder / make.__name__)
        last = loop.step()
        again = make()
        again.resume(folder / make.__name__)
        resumed = again.step()
        found[make.__name__] = dict(
            batches=batches,
            records=[*records, last],
            resumed=resumed,
            weights=weights(loop),
            resumed_weights=weights(again),
        )
    for make in (sft, reward):
        loop = make()
        found[make.__name__] = dict(records=list(loop), weights=weights(loop))
    torch.save(found, folder / f"{state.process_index}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
