"""What each of two processes does in test_processes.py: train, save, resume, and write it down."""

import sys
from pathlib import Path

import accelerate
import torch

from rlhf_lib.algorithms.reward_training import RewardConfig, RewardTraining
from rlhf_lib.algorithms.sft import SFT, SFTConfig
from rlhf_lib.worlds import letters
from tests.unit import loops
from tests.unit.loops import PROMPTS, all_weights, with_settings
from tests.unit.small import policy, reward_model, tokenizer

SMALL = dict(
    model=lambda seed: policy(seed).double(), max_steps=3, batch_size=12, mini_batch_size=6
)
ppo = with_settings(loops.ppo, **SMALL)
grpo = with_settings(loops.grpo, **SMALL, dynamic_sampling=True)


def shared(**settings):
    return ppo(
        shared=True,
        ptx=letters.demonstrations(30, seed=0),
        ptx_coefficient=0.5,
        microbatch_tokens=70,
        **settings,
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
            weights=all_weights(loop),
            resumed_weights=all_weights(again),
        )
    for make in (sft, reward):
        loop = make()
        found[make.__name__] = dict(records=list(loop), weights=all_weights(loop))
    torch.save(found, folder / f"{state.process_index}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
