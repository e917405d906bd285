"""PPO and GRPO at 124M parameters on an accelerator: they start, step and agree with themselves."""

import copy

import pytest
import torch

from benchmarks.on_a_gpu_parts import prompts  # without `datasets`, which a bare machine lacks
from rlhf_lib.algorithms.grpo import GRPO, GRPOConfig
from rlhf_lib.algorithms.ppo import PPO, PPOConfig
from rlhf_lib.machinery.decoding import FixedDecoder
from rlhf_lib.models.policy import choose_scale, new_policy
from rlhf_lib.models.reward_model import new_reward_model
from rlhf_lib.models.rewards import LearnedReward
from rlhf_lib.models.rollout import sample
from rlhf_lib.models.tokens import token_logprobs
from rlhf_lib.worlds import letters

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


@pytest.fixture(scope="module")
def policy():
    return new_policy(letters.tokenizer(), "gpt2").to("cuda")


def test_the_scale_follows_the_hardware(monkeypatch):
    monkeypatch.delenv("RLHF_SCALE", raising=False)
    assert choose_scale() == "gpt2"


def test_ppo_steps(policy):
    tokenizer = letters.tokenizer()
    reward_model = new_reward_model(policy)
    loop = PPO(
        copy.deepcopy(policy),
        policy,
        copy.deepcopy(reward_model),
        tokenizer,
        LearnedReward(reward_model, tokenizer),
        prompts(200, seed=0),
        PPOConfig(max_steps=3, learning_rate=1e-5, critic_learning_rate=1e-5),
    )
    for record in loop:
        assert record["ratio_gap"] < 1e-3  # fp32, through the cache, on another device


def test_grpo_steps(policy):
    tokenizer = letters.tokenizer()
    reward = LearnedReward(new_reward_model(policy), tokenizer)
    loop = GRPO(
        copy.deepcopy(policy),
        policy,
        tokenizer,
        reward,
        prompts(200, seed=0),
        GRPOConfig(max_steps=3, learning_rate=1e-5),
    )
    for record in loop:
        assert record["ratio_gap"] < 1e-3


@pytest.mark.parametrize("length", [1, 2, 24, 40])
def test_the_recorded_program_draws_what_step_by_step_draws(policy, monkeypatch, length):
    """The CUDA graphs against the same decoder without them: the same noise, the same tokens."""
    tokenizer = letters.tokenizer()
    asked = [p for p in prompts(8, seed=0)["prompt"] for _ in range(4)]

    def drawn():
        return sample(
            policy, tokenizer, asked, length, generator=torch.Generator("cuda").manual_seed(0)
        )

    FixedDecoder.made.pop(policy, None)
    ours, again = drawn(), drawn()  # recorded, then replayed
    (decoder,) = FixedDecoder.made[policy].values()
    assert len(decoder.graphs) == -(-length // 16)  # a width each
    assert torch.equal(ours.completion_ids, again.completion_ids)
    scored = token_logprobs(policy, ours)
    assert (scored - ours.logprobs).abs().max().item() < 1e-3  # TF32 is off; kernels differ
    monkeypatch.setattr(FixedDecoder, "suits", lambda model: False)
    theirs = drawn()
    same = (ours.completion_ids == theirs.completion_ids).all(dim=1).sum().item()
    assert same >= 30  # of 32: a draw may hang on the last bit of a product


def test_a_recording_that_broke_off_is_not_replayed(policy, monkeypatch):
    asked, seed = prompts(4, seed=0)["prompt"], torch.Generator("cuda").manual_seed
    whole = sample(policy, letters.tokenizer(), asked, 7, generator=seed(0))
    FixedDecoder.made.pop(policy)
    product, calls = torch.addmm, []

    def limited(*arguments):
        calls.append(1)
        if len(calls) > 200:  # of 48 a pass: prompts, three rehearsals, then the capture
            raise torch.OutOfMemoryError("no room")
        return product(*arguments)

    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(torch, "addmm", limited)
        sample(policy, letters.tokenizer(), asked, 7, generator=seed(0))
    again = sample(policy, letters.tokenizer(), asked, 7, generator=seed(0))
    assert torch.equal(whole.completion_ids, again.completion_ids)


def test_the_recorded_program_follows_the_weights(policy):
    tokenizer, model = letters.tokenizer(), copy.deepcopy(policy)
    asked = prompts(8, seed=0)["prompt"]
    for dtype, bound in ((None, 1e-3), (torch.bfloat16, 0.3)):
        for scale in (1.0, 1.2):
            with torch.no_grad():
                for p in model.parameters():
                    p.mul_(scale)
            rollout = sample(
                model,
                tokenizer,
                asked,
                24,
                dtype=dtype,
                generator=torch.Generator("cuda").manual_seed(0),
            )
            gap = (token_logprobs(model, rollout) - rollout.logprobs).abs().max().item()
            assert gap < bound, (dtype, scale)


@pytest.mark.parametrize(
    "settings",
    [
        dict(bf16=True),
        dict(gradient_checkpointing=True),
        dict(bf16=True, gradient_checkpointing=True),
        dict(microbatch_tokens=1_000),
        dict(torch_compile=True),
    ],
    ids=str,
)
def test_grpo_steps_with(policy, settings):
    reward = LearnedReward(new_reward_model(policy), letters.tokenizer())
    loop = GRPO(
        copy.deepcopy(policy),
        policy,
        letters.tokenizer(),
        reward,
        prompts(200, seed=0),
        GRPOConfig(max_steps=2, learning_rate=1e-5, **settings),
    )
    for record in loop:
        assert record["ratio_gap"] < (0.5 if "bf16" in settings else 1e-3)
        assert record["gradient_norm"] > 0
