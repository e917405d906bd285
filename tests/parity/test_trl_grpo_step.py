"""A whole step of the GRPO loop against TRL 1.16 on the same samples: advantages, loss, gradient.

TRL's `_generate_and_score_completions` and `_compute_loss` run unchanged with the same models;
only its sampler is replaced by the completions that our loop drew. The prompts have one length,
as TRL gives the model no `position_ids` (test_trl_scoring.py).
"""

from __future__ import annotations

import copy
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from rlhf_lib.algorithms.grpo import GRPO, GRPOConfig
from rlhf_lib.mathematics.losses import IMPORTANCE_SAMPLING
from rlhf_lib.models.rollout import Rollout
from rlhf_lib.worlds import letters
from tests.parity.oracles import bare
from tests.unit.small import count_words, policy, tokenizer

G, B, LONGEST = 4, 16, 10


def prompts_of_one_length():
    by_length = defaultdict(list)
    for prompt in letters.prompts(200, seed=0)["prompt"]:
        by_length[len(tokenizer()(prompt, add_special_tokens=False)["input_ids"])].append(prompt)
    return Dataset.from_dict({"prompt": max(by_length.values(), key=len)[:8]})


class Stale(GRPO):
    """Its samples come from a sampler whose weights are others."""

    sampled: Rollout

    def sample(self, policy, prompts):
        sampler = copy.deepcopy(policy)
        with torch.no_grad():
            sampler.transformer.wte.weight.mul_(0.8)
        self.sampled = super().sample(sampler, prompts)
        return self.sampled


def our_step(kind=GRPO, **settings):
    model = policy()
    with torch.no_grad():  # the end token as likely as a common word, so that lengths differ
        embedding, eos = model.transformer.wte.weight, tokenizer().eos_token_id
        embedding[eos] = 1.5 * model.transformer.ln_f(embedding.mean(dim=0))
    reference = copy.deepcopy(model)
    with torch.no_grad():  # a reference that differs, so that its term counts
        reference.transformer.wte.weight.mul_(1.1)
    before = copy.deepcopy(model), copy.deepcopy(reference)
    loop = kind(
        model,
        reference,
        tokenizer(),
        count_words,
        prompts_of_one_length(),
        GRPOConfig(
            max_steps=1,
            batch_size=B,
            mini_batch_size=B,
            num_generations=G,
            num_iterations=1,
            max_new_tokens=LONGEST,
            missing_eos_penalty=0.0,
            warmup_steps=0,
            max_grad_norm=1e9,
            **settings,
        ),
    )
    return loop.step(), loop, *before


def trl_step(
    rollout,
    model,
    reference,
    temperature,
    beta,
    loss_type,
    scale_rewards,
    epsilon_high=0.2,
    use_bias_correction_kl=False,
    sampled=None,
    mode="sequence_mask",
    clip_min=None,
    clip_max=3.0,
):
    """A step of TRL's trainer; `sampled`: what a sampler of its own, such as vLLM, drew."""
    drawn = None
    if sampled is not None:
        kept = zip(sampled.logprobs, sampled.completion_mask)
        drawn = [logprobs[mask.bool()].tolist() for logprobs, mask in kept]
    for one in (model, reference):
        add_fused_lm_head(one, temperature=temperature, outputs=("log_probs", "entropy"))
        one.train()  # dropout is 0 in this model
    rows = [
        [ids[mask.bool()].tolist() for ids, mask in zip(*pair)]
        for pair in (
            (rollout.prompt_ids, rollout.prompt_mask),
            (rollout.completion_ids, rollout.completion_mask),
        )
    ]
    rewards = torch.tensor(count_words(rollout.prompts, rollout.completions))[:, None]
    args = SimpleNamespace(
        per_device_train_batch_size=B,
        steps_per_generation=1,
        gradient_accumulation_steps=1,
        gradient_checkpointing_kwargs=None,
        delta=None,
        use_bias_correction_kl=use_bias_correction_kl,
    )
    trainer = bare(
        GRPOTrainer,
        model=model,
        ref_model=reference,
        args=args,
        _tokenizer=tokenizer(),
        environment_factories=None,
        environments=None,
        tools=None,
        pad_to_multiple_of=None,
        mask_truncated_completions=False,
        num_generations=G,
        num_iterations=2,
        use_vllm=drawn is not None,
        vllm_importance_sampling_correction=drawn is not None,
        vllm_importance_sampling_mode=mode,
        vllm_importance_sampling_clip_min=clip_min,
        vllm_importance_sampling_clip_max=clip_max,
        beta=beta,
        scale_rewards=scale_rewards,
        multi_objective_aggregation="sum_then_normalize",
        reward_weights=torch.ones(1),
        reward_func_names=["words"],
        _logs=defaultdict(lambda: defaultdict(list)),
        _pending_extra_logs={},
        _pending_metrics={},
        loss_type=loss_type,
        epsilon_low=0.2,
        epsilon_high=epsilon_high,
        importance_sampling_level="token",
        max_completion_length=LONGEST,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=1,
        _generate=lambda prompts: (*rows, None, rollout.completions, drawn, {}, None, None),
        _calculate_rewards=lambda *a: rewards,
    )
    trainer._logs.update({name: [] for name in ("prompt", "completion", "advantages")})
    inputs = trainer._generate_and_score_completions([{"prompt": p} for p in rollout.prompts])
    loss = trainer._compute_loss(model, inputs)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    return loss.item(), norm.item(), inputs


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize(
    "ours, theirs",
    [
        (dict(beta=0.3), dict(beta=0.3, loss_type="grpo", scale_rewards="group")),
        (
            dict(beta=0.3, temperature=0.7),
            dict(beta=0.3, temperature=0.7, loss_type="grpo", scale_rewards="group"),
        ),
        (
            dict(beta=0.0, aggregate_over="tokens"),
            dict(beta=0.0, loss_type="dapo", scale_rewards="group"),
        ),
        (
            dict(beta=0.1, scale_rewards="none", aggregate_over="tokens"),
            dict(beta=0.1, loss_type="bnpo", scale_rewards="none"),
        ),
        (
            dict(beta=0.3, use_bias_correction_kl=True),
            dict(beta=0.3, loss_type="grpo", scale_rewards="group", use_bias_correction_kl=True),
        ),
    ],
    ids=["GRPO", "GRPO at a temperature of .7", "DAPO's mean, no KL", "no std", "TRL's own KL"],
)
def test_a_step_of_grpo_is_trls(ours, theirs):
    record, loop, model, reference = our_step(**ours)
    loss, norm, inputs = trl_step(loop.rollout, model, reference, **{"temperature": 1.0, **theirs})
    assert torch.equal(inputs["completion_mask"], loop.rollout.completion_mask)
    assert len(set(loop.rollout.lengths.tolist())) > 1  # ragged completions
    assert (inputs["old_per_token_logps"] - loop.rollout.logprobs).abs().max() < 1e-5
    assert record["policy_loss"] == pytest.approx(loss, abs=1e-5)
    assert record["gradient_norm"] == pytest.approx(norm, rel=1e-4)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=loop.config.learning_rate,
        betas=(0.9, 0.95),
        eps=1e-5,
        weight_decay=0.0,
    )
    optimizer.step()
    for a, b in zip(loop.policy.parameters(), model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("mode", IMPORTANCE_SAMPLING)
@pytest.mark.parametrize("low, high", [(None, 3.0), (0.9, 1.2)])
def test_a_step_on_another_samplers_completions_is_trls(mode, low, high):
    """Its correction of vLLM's samples: weight, KL and price, loss, gradient, and what it logs."""
    record, loop, model, reference = our_step(
        Stale,
        beta=0.3,
        importance_sampling=mode,
        importance_sampling_clip_min=low or 0.0,
        importance_sampling_clip_max=high,
    )
    how = dict(sampled=loop.sampled, mode=mode, clip_min=low, clip_max=high)
    loss, norm, inputs = trl_step(loop.rollout, model, reference, 1.0, 0.3, "grpo", "group", **how)
    assert (inputs["old_per_token_logps"] - loop.rollout.logprobs).abs().max() < 1e-5
    weights, mask = inputs["importance_sampling_ratio"], loop.rollout.completion_mask
    assert not torch.allclose(weights, torch.ones(()), atol=0.1)
    assert record["importance_weight"] == pytest.approx(
        ((weights * mask).sum() / mask.sum()).item(), abs=1e-5
    )
    assert record["policy_loss"] == pytest.approx(loss, abs=1e-5)
    assert record["gradient_norm"] == pytest.approx(norm, rel=1e-4)
