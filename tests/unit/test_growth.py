"""A small GPT-2 grown into a larger one says the same, and its copies part when it learns."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_lib.algorithms.sft import imitation_loss
from rlhf_lib.families.growth import UNUSED, grow
from rlhf_lib.machinery.optimization import adam, descend
from rlhf_lib.models.policy import SCALES, count_parameters
from rlhf_lib.models.reward_model import new_reward_model, token_values
from rlhf_lib.models.rollout import sample
from rlhf_lib.models.tokens import encode, token_logprobs
from rlhf_lib.running import artifacts
from tests.unit.small import RAGGED, policy, tokenizer

SIZES = {  # of a model 16 wide with 2 layers and 2 heads; what each lets grow
    "width": dict(n_embd=48),
    "heads": dict(n_embd=32, n_head=4),
    "heads and what is inside": dict(n_embd=96, n_head=6),
    "depth": dict(n_layer=5),
    "positions": dict(n_positions=100),
    "all": dict(n_embd=64, n_head=4, n_layer=4, n_positions=128, vocab_size=700),
}
EXACT = {torch.float32: 1e-4, torch.float64: 1e-12}


def lived_in(seed: int = 0, dtype: torch.dtype = torch.float64, kind=lambda model: model):
    """A model none of whose parameters is 0 or 1 any more."""
    model = kind(policy(seed)).to(dtype)
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    return model


def logprobs(model, ids):
    with torch.no_grad():
        return model(ids).logits.log_softmax(-1)


IDS = torch.randint(2, 200, (3, 40), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_it_says_the_same(sizes, dtype, noise):
    small = lived_in(dtype=dtype)
    before = copy.deepcopy(small.state_dict())
    large = grow(small, noise, **sizes)
    assert all(getattr(large.config, name) == size for name, size in sizes.items())
    assert large.dtype == dtype and not large.training
    old, new = logprobs(small, IDS), logprobs(large, IDS)
    assert (old - new[..., : old.shape[-1]]).abs().max() < EXACT[dtype]
    assert all(torch.equal(before[name], x) for name, x in small.state_dict().items())


def test_a_model_that_has_learnt_nothing_grows_too():
    """Its norms are ones and zeros: a row along 1/w alone would have a logit of 0."""
    small = policy()
    large = grow(small, **SIZES["all"])
    old, new = logprobs(small, IDS), logprobs(large, IDS)
    assert (old - new[..., : old.shape[-1]]).abs().max() < EXACT[torch.float32]


def test_new_rows_have_one_constant_logit():
    small = lived_in()
    large = grow(small, **SIZES["all"])
    with torch.no_grad():
        logits = large(IDS).logits[..., small.config.vocab_size :]
    assert (logits - UNUSED).abs().max() < 1e-9


def test_a_row_stays_out_of_use_while_the_model_learns():
    """LayerNorm's mean is 0 whatever stands before it."""
    large = grow(lived_in(dtype=torch.float32), **SIZES["all"])
    known, batch = policy().config.vocab_size, encode(tokenizer(), RAGGED, ["yes, ben."] * 4)
    optimizer = adam(large, 1e-3)
    losses = []
    for _ in range(20):
        losses.append(imitation_loss(large)(batch)[0])
        descend(large, optimizer, losses[-1], 1.0)
    assert losses[-1] < losses[0] - 1
    assert logprobs(large, IDS)[..., known:].exp().sum(-1).max() < 1e-8


@pytest.mark.parametrize("noise, apart", [(0.0, False), (0.5, True)])
def test_copies_part_if_there_is_noise(noise, apart):
    large = grow(lived_in(dtype=torch.float32), noise, n_embd=64, n_head=4)
    batch = encode(tokenizer(), RAGGED, ["yes, ben."] * 4)
    optimizer = adam(large, 1e-3)
    for _ in range(5):
        descend(large, optimizer, imitation_loss(large)(batch)[0], 1.0)
    table = large.transformer.h[0].mlp.c_fc.bias.view(-1, 4)  # of units, four copies each
    parted = (table - table.mean(dim=1, keepdim=True)).abs().max()
    assert (parted > 1e-4) == apart and (apart or parted < 1e-6)


def test_a_reward_model_scores_the_same():
    small = lived_in(kind=new_reward_model)
    large = grow(small, **SIZES["all"])
    batch = encode(tokenizer(), RAGGED, ["dear ben,", "no.", "yes, of course", "ben"])
    assert type(large) is type(small)
    with torch.no_grad():
        assert (token_values(large, batch) - token_values(small, batch)).abs().max() < 1e-12


def test_it_is_drawn_from_and_scored_as_the_small_one():
    small = lived_in(dtype=torch.float32)
    large = grow(small, **SIZES["all"])
    drawn = sample(large, tokenizer(), RAGGED, 12, generator=torch.Generator().manual_seed(0))
    assert drawn.completion_ids.max() < small.config.vocab_size
    assert (token_logprobs(small, drawn) - drawn.logprobs).abs().max() < 1e-4


def test_the_same_seed_gives_the_same_model_and_leaves_others_draws_alone():
    small = policy()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = (grow(small, seed=seed, **SIZES["all"]) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    one, same, other = (m.transformer.h[1].mlp.c_fc.weight for m in (one, same, other))
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.slow
def test_the_shipped_model_grows_to_the_shape_of_gpt2():
    small, words = artifacts.load("letters", "sft")
    large = grow(small, **SCALES["gpt2"])
    assert count_parameters(large) == 124_439_808
    ids = torch.randint(2, len(words), (4, 64), generator=torch.Generator().manual_seed(0))
    old, new = logprobs(small, ids), logprobs(large, ids)
    assert (old - new[..., : len(words)]).abs().max() < 1e-4
    assert new[..., len(words) :].exp().sum(-1).max() < 1e-9


@pytest.mark.parametrize(
    "sizes, message",
    [
        (dict(n_embd=40), "n_embd is 40; expected a multiple of 16"),
        (dict(n_embd=48, n_head=3), "n_head is 3; expected a multiple of 2"),
        (dict(n_embd=32, n_head=8), "n_embd / n_head is 4; expected a multiple of 8"),
        (dict(n_layer=1), "n_layer is 1; expected at least 2"),
        (dict(vocab_size=100), "vocab_size is 100; expected at least"),
        (dict(n_inner=100), "sizes name n_inner; expected some of n_embd, n_layer"),
        (dict(noise=-1.0), "noise is -1.0; expected 0 or more, and finite"),
        (dict(noise=float("nan")), "noise is nan; expected 0 or more"),
        (dict(vocab_size=900), "vocab_size is 900, and no row of moderate length"),
    ],
)
def test_what_cannot_be_grown_into_is_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        grow(policy(), **sizes)


def test_another_architecture_is_refused():
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    with pytest.raises(ValueError, match="model is a LlamaForCausalLM; expected a GPT-2"):
        grow(LlamaForCausalLM(config), n_layer=2)
