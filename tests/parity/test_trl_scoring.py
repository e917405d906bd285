"""Log-probabilities, entropies and padding against TRL's, through a real model where it has one."""

from __future__ import annotations

import pytest
import torch
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head, entropy_from_logits, pad, selective_log_softmax

from rlhf_lib.models.tokens import (
    completion_logits,
    encode,
    encode_prompts,
    entropy,
    selected_logprobs,
    token_logprobs,
)
from tests.parity.oracles import assert_same, bare
from tests.unit.small import RAGGED, policy, tokenizer

COMPLETIONS = ["ok.", "hello ben, thank you.", "no, thank you.", "yes."]
SAME_LENGTH = [RAGGED[2], RAGGED[2].replace("ben", "ana")]  # TRL gives no position_ids


@pytest.mark.parametrize("seed", range(3))
def test_selected_log_probabilities(seed):
    torch.manual_seed(seed)
    logits = (5 * torch.randn(3, 4, 17)).requires_grad_()
    ids = torch.randint(17, (3, 4))
    weights = torch.randn(3, 4)
    assert_same(
        (weights * selected_logprobs(logits, ids)).sum(),
        (weights * selective_log_softmax(logits, ids)).sum(),
        logits,
    )


@pytest.mark.parametrize("seed", range(3))
def test_entropies(seed):
    torch.manual_seed(seed)
    logits = (3 * torch.randn(3, 4, 17)).requires_grad_()
    weights = torch.randn(3, 4)
    assert_same(
        (weights * entropy(logits)).sum(), (weights * entropy_from_logits(logits)).sum(), logits
    )


def test_padding():
    """Prompts on the left, completions on the right, ids and masks."""
    batch = encode(tokenizer(), RAGGED, COMPLETIONS)
    prompts, completions = (
        [torch.tensor(row) for row in tokenizer()(texts, add_special_tokens=False)["input_ids"]]
        for texts in (RAGGED, COMPLETIONS)
    )
    completions = [
        torch.cat([row, torch.tensor([tokenizer().eos_token_id])]) for row in completions
    ]
    fill = tokenizer().pad_token_id
    for ours, theirs in [
        (batch.prompt_ids, pad(prompts, fill, "left")),
        (batch.prompt_mask, pad([torch.ones_like(p) for p in prompts], 0, "left")),
        (batch.completion_ids, pad(completions, fill)),
        (batch.completion_mask, pad([torch.ones_like(c) for c in completions])),
    ]:
        assert torch.equal(ours, theirs)
    assert torch.equal(encode_prompts(tokenizer(), RAGGED)[0], batch.prompt_ids)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_model_is_scored_alike_where_prompts_have_one_length(temperature):
    """Values, entropies and the gradient of every weight. On ragged prompts TRL differs, because
    it gives the model no `position_ids`; the next test shows by how much."""
    batch = encode(tokenizer(), SAME_LENGTH, COMPLETIONS[:2])
    assert batch.prompt_mask.all()
    ours, theirs = policy(), policy()
    logprobs, entropies = trl_scores(theirs, batch, temperature)
    assert_alike(token_logprobs(ours, batch, temperature), logprobs)
    assert_alike(
        entropy(completion_logits(ours, batch, temperature)) * batch.completion_mask, entropies
    )
    weights = torch.randn(batch.completion_mask.shape, generator=torch.Generator().manual_seed(1))
    (weights * token_logprobs(ours, batch, temperature)).sum().backward()
    (weights * logprobs).sum().backward()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_alike(a.grad, b.grad)


def test_on_ragged_prompts_trl_scores_at_other_positions():
    batch = encode(tokenizer(), RAGGED, COMPLETIONS)
    full = batch.prompt_mask.all(dim=1)
    assert full.any() and not full.all()
    with torch.no_grad():
        gap = (token_logprobs(policy(), batch) - trl_scores(policy(), batch)[0]).abs()
    assert gap[full].max() < 1e-5 and gap[~full].max() > 0.01


def trl_scores(model, batch, temperature=1.0):
    add_fused_lm_head(model, temperature=temperature, outputs=("log_probs", "entropy"))
    ids, mask = batch.input_ids, batch.attention_mask
    logprobs, entropies, _ = bare(GRPOTrainer)._get_per_token_logps_and_entropies(
        model, ids, mask, batch.completion_ids.shape[1], compute_entropy=True
    )
    return logprobs, entropies


def assert_alike(a, b):
    assert torch.allclose(a, b, rtol=0.0, atol=1e-5), (a - b).abs().max()
