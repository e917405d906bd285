"""The same loops at GPT-2's size, and from a bare copy of the folder."""

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import rlhf_lib
from rlhf_lib.algorithms.grpo import GRPO, GRPOConfig
from rlhf_lib.algorithms.ppo import PPO, PPOConfig
from rlhf_lib.models.policy import count_parameters, new_policy
from rlhf_lib.models.reward_model import new_reward_model
from rlhf_lib.models.rewards import LearnedReward
from rlhf_lib.worlds import letters

TWO_TINY_STEPS = dict(max_steps=2, batch_size=2, mini_batch_size=2, max_new_tokens=4)


@pytest.mark.slow
def test_two_ppo_steps_with_four_models_of_124_million_parameters():
    tokenizer = letters.tokenizer()
    policy = new_policy(tokenizer, "gpt2")
    assert count_parameters(policy) == 124_439_808
    assert policy.lm_head.weight.shape[0] == 50_257  # GPT-2's cost, whatever the world's vocabulary
    reward_model = new_reward_model(policy)
    before = policy.transformer.h[0].mlp.c_fc.weight.detach().clone()
    loop = PPO(
        policy,
        copy.deepcopy(policy),
        copy.deepcopy(reward_model),
        tokenizer,
        LearnedReward(reward_model, tokenizer),
        letters.prompts(4, seed=0),
        PPOConfig(num_ppo_epochs=1, learning_rate=1e-5, **TWO_TINY_STEPS),
    )
    records = list(loop)
    assert [record["step"] for record in records] == [1, 2]
    assert all(record["ratio_gap"] < 1e-4 for record in records)
    assert not torch.equal(before, policy.transformer.h[0].mlp.c_fc.weight)


@pytest.mark.slow
def test_two_grpo_steps_at_124_million_parameters():
    tokenizer = letters.tokenizer()
    policy = new_policy(tokenizer, "gpt2")
    records = list(
        GRPO(
            policy,
            copy.deepcopy(policy),
            tokenizer,
            lambda prompts, completions: [float(len(c)) for c in completions],
            letters.prompts(4, seed=0),
            GRPOConfig(num_generations=2, num_iterations=1, **TWO_TINY_STEPS),
        )
    )
    assert [record["step"] for record in records] == [1, 2]


BARE = """
import copy, sys
import rlhf_lib
assert "transformers" not in sys.modules and "torch" not in sys.modules  # importing is light
from rlhf_lib.running import artifacts
from rlhf_lib.algorithms.ppo import PPO, PPOConfig
from rlhf_lib.models.rewards import LearnedReward
from rlhf_lib.worlds import letters
sft, tokenizer = artifacts.load("letters", "sft")
reward_model, _ = artifacts.load("letters", "reward")
loop = PPO(copy.deepcopy(sft), sft, copy.deepcopy(reward_model), tokenizer,
           LearnedReward(reward_model, tokenizer), letters.prompts(8, seed=0),
           PPOConfig(max_steps=2, batch_size=4, mini_batch_size=4))
print([round(record["reward"], 3) for record in loop], rlhf_lib.__file__)
"""


def test_a_bare_copy_of_the_folder_steps_ppo_twice(tmp_path):
    shutil.copytree(
        Path(rlhf_lib.__file__).parent,
        tmp_path / "rlhf_lib",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    run = subprocess.run(
        [sys.executable, "-c", BARE], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert str(tmp_path) in run.stdout  # the copy, and not an installed package
