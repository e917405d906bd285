"""PPO and GRPO at 124M parameters on an accelerator: they start, step, and agree with themselves."""
import copy

import pytest
import torch

from rlhf_lib.grpo import GRPO, GRPOConfig
from rlhf_lib.policy import choose_scale, new_policy
from rlhf_lib.ppo import PPO, PPOConfig
from rlhf_lib.reward_model import new_reward_model
from rlhf_lib.rewards import LearnedReward
from rlhf_lib.worlds import letters

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device on this machine")]


@pytest.fixture(scope="module")
def policy():
    return new_policy(letters.tokenizer(), "gpt2").to("cuda")


def test_the_scale_follows_the_hardware(monkeypatch):
    monkeypatch.delenv("RLHF_SCALE", raising=False)
    assert choose_scale() == "gpt2"


def test_ppo_steps(policy):
    tokenizer = letters.tokenizer()
    reward_model = new_reward_model(policy)
    loop = PPO(copy.deepcopy(policy), policy, copy.deepcopy(reward_model), tokenizer,
               LearnedReward(reward_model, tokenizer), letters.prompts(200, seed=0),
               PPOConfig(max_steps=3, learning_rate=1e-5, critic_learning_rate=1e-5))
    for record in loop:
        assert record["ratio_gap"] < 1e-3  # fp32, through the cache, on another device


def test_grpo_steps(policy):
    tokenizer = letters.tokenizer()
    reward = LearnedReward(new_reward_model(policy), tokenizer)
    loop = GRPO(copy.deepcopy(policy), policy, tokenizer, reward, letters.prompts(200, seed=0),
                GRPOConfig(max_steps=3, learning_rate=1e-5))
    for record in loop:
        assert record["ratio_gap"] < 1e-3
