"""IPO and GRPO's corrected KL through our loops against the losses of TRL 1.16, in float64.

A loop makes its own batch and takes its own step; TRL's `_compute_loss` runs unchanged on the same
log-probabilities, with their graph. So value and gradient are compared in every weight of a model.
"""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from trl.experimental.cpo import CPOTrainer
from trl.trainer.grpo_config import GRPOConfig as TRLConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from rlhf_lib.algorithms.dpo import DPO, DPOConfig
from rlhf_lib.algorithms.grpo import Experience
from rlhf_lib.mathematics.losses import ipo_loss, sequence_logprobs
from rlhf_lib.models.tokens import token_logprobs
from tests.exact.test_loops import start
from tests.parity.oracles import bare
from tests.parity.test_trl_preference_losses import trl_dpo
from tests.unit.loops import grpo
from tests.unit.small import RAGGED, policy, tokenizer

# chosen and rejected ones of unequal lengths, either one the longer
CHOSEN = ["hello ben, thank you for the lamp.", "yes.", "", "i can not join on friday."]
REJECTED = ["no.", "stupid nonsense, stop it now, ben.", "maybe later, thank you.", "thank you."]
PAIRS = Dataset.from_dict({"prompt": RAGGED, "chosen": CHOSEN, "rejected": REJECTED})
EQUAL = Dataset.from_dict(
    {
        "prompt": RAGGED,
        "chosen": ["yes.", "thank you ben.", "ok", "i can not join."],
        "rejected": ["no.", "stupid stop stop.", "no", "maybe later ben no."],
    }
)


def double(seed=0):
    return policy(seed).double()


def moved(model, seed, far):
    """The same model with all its weights a little elsewhere."""
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(far * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return model


def gradients(model):
    return [p.grad for p in model.parameters()]


def assert_a_step_is(record, name, loop_model, theirs, hand):
    """Loss, gradient norm and the gradient of every weight; `theirs` is a loss of `hand`."""
    theirs.backward()
    found, expected = gradients(loop_model), gradients(hand)
    norm = torch.stack([g.norm() for g in expected]).norm().item()
    assert record[name] == pytest.approx(theirs.item(), rel=1e-12)
    assert record["gradient_norm"] == pytest.approx(norm, rel=1e-10)
    assert norm > 1e-3
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=0.0, atol=1e-11 * max(1.0, norm))


# ---------------------------------------------------------------------------------- IPO


def ipo_loop(dataset=PAIRS, **settings):
    config = DPOConfig(
        loss_type="ipo", batch_size=4, warmup_steps=0, max_grad_norm=math.inf, **settings
    )
    return DPO(double(1), double(0), tokenizer(), dataset, config)


def their_batch(model, reference, rows):
    """What both sides know of a batch: chosen ones first, as TRL stacks them too."""
    return SimpleNamespace(
        logprobs=token_logprobs(model, rows),
        ref=token_logprobs(reference, rows).detach(),
        mask=rows.completion_mask,
    )


@pytest.mark.parametrize("beta", [0.1, 1.0])
@pytest.mark.parametrize("precompute", [True, False])
def test_with_means_over_tokens_a_step_of_ipo_is_trls(beta, precompute):
    settings = dict(beta=beta, average_log_prob=True, precompute_ref_log_probs=precompute)
    loop, hand = ipo_loop(**settings), double(1)
    (pairs,) = loop.collect()
    batch = their_batch(hand, loop.reference, pairs.rows)
    lengths = batch.mask.sum(dim=1).view(2, 4)
    assert (lengths[0] > lengths[1]).any() and (lengths[0] < lengths[1]).any()
    record = loop.step()
    assert_a_step_is(record, "loss", loop.policy, trl_dpo(batch, "ipo", beta), hand)
    ratio = sequence_logprobs(batch.logprobs - batch.ref, batch.mask, mean=True)
    chosen, rejected = beta * ratio.detach().view(2, 4).mean(dim=1)
    assert record["chosen_reward"] == pytest.approx(chosen.item(), abs=1e-12)
    assert record["rejected_reward"] == pytest.approx(rejected.item(), abs=1e-12)


@pytest.mark.parametrize("beta", [0.1, 1.0])
@pytest.mark.parametrize("precompute", [True, False])
def test_without_them_it_is_the_papers_equation_as_trl_has_it_for_what_it_is_handed(
    beta, precompute
):
    """TRL's CPO, too, has eq. 17, of two numbers a pair: here the log-ratios of whole
    completions."""
    loop = ipo_loop(beta=beta, precompute_ref_log_probs=precompute)
    hand = double(1)
    (pairs,) = loop.collect()
    batch = their_batch(hand, loop.reference, pairs.rows)
    whole = ((batch.logprobs - batch.ref) * batch.mask).sum(dim=1)
    trainer = bare(CPOTrainer, loss_type="ipo", beta=beta, alpha=0.0, label_smoothing=0.0)
    theirs = trainer.cpo_loss(*whole.chunk(2))[0].mean()
    means = trl_dpo(batch, "ipo", beta)
    assert abs(theirs.item() - means.item()) > 0.1 * means.item()
    assert_a_step_is(loop.step(), "loss", loop.policy, theirs, hand)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_on_pairs_of_equal_lengths_the_two_are_one_loss_at_two_betas(beta):
    """With n tokens each, the mean at nβ is the sum at β, over n²."""
    loop, hand = ipo_loop(EQUAL, beta=beta), double(1)
    (pairs,) = loop.collect()
    batch = their_batch(hand, loop.reference, pairs.rows)
    lengths = batch.mask.sum(dim=1).view(2, 4)
    assert torch.equal(*lengths) and len(set(lengths[0].tolist())) > 1
    losses = []
    for i, n in enumerate(lengths[0].tolist()):
        pair = SimpleNamespace(**{name: x[[i, i + 4]] for name, x in vars(batch).items()})
        losses.append(n**2 * trl_dpo(pair, "ipo", n * beta))
    assert_a_step_is(loop.step(), "loss", loop.policy, torch.stack(losses).mean(), hand)


def test_on_a_pair_of_unequal_lengths_no_beta_makes_the_two_agree():
    """Chosen 10 tokens, rejected 3. Of the sum, every token's slope is ±1 times one number; of the
    mean, ±1/10 and ±1/3. So the cosine is ±2/√(13 (1/10 + 1/3)) = ±.8427, whatever the two β's."""
    generator = torch.Generator().manual_seed(0)
    mask = (torch.arange(10) < torch.tensor([[10], [3]])).long()
    x = torch.randn(2, 10, generator=generator, dtype=torch.float64).requires_grad_()
    ref = torch.zeros(1, dtype=torch.float64)

    def slope(mean, beta):
        return torch.autograd.grad(
            ipo_loss(*sequence_logprobs(x, mask, mean).split(1), ref, ref, beta), x
        )[0]

    for beta in (0.01, 0.1, 1.0, 10.0):
        for other in (0.01, 0.1, 1.0, 10.0):
            cosine = torch.cosine_similarity(
                slope(False, beta).flatten(), slope(True, other).flatten(), dim=0
            )
            assert abs(cosine.item()) == pytest.approx(2 / math.sqrt(13 * (1 / 10 + 1 / 3)))
            assert abs(cosine.item()) < 0.85


# ---------------------------------------------------------------------------------- GRPO


KINDS = {
    "grpo": (dict(), dict(loss_type="grpo")),
    "tokens": (dict(aggregate_over="tokens"), dict(loss_type="bnpo")),
    "dr_grpo": (dict(aggregate_over="budget"), dict(loss_type="dr_grpo")),
    "dapo": (
        dict(aggregate_over="tokens", epsilon_high=0.28),
        dict(loss_type="dapo", epsilon_high=0.28),
    ),
    "cispo": (
        dict(loss="cispo", epsilon_high=1.1, aggregate_over="tokens"),
        dict(loss_type="cispo", epsilon_high=1.1),
    ),
    "sapo": (dict(loss="sapo"), dict(loss_type="sapo")),
    "gspo": (
        dict(loss="gspo", epsilon=0.05, epsilon_high=0.08),
        dict(
            loss_type="grpo",
            importance_sampling_level="sequence",
            epsilon_low=0.05,
            epsilon_high=0.08,
        ),
    ),
}


def off_policy_step(far, **settings):
    """A loop whose policy has moved since it sampled, an update of it on the whole batch, and what
    TRL makes of the same log-probabilities."""
    ours, theirs = settings.pop("kind")
    loop = grpo(
        model=lambda seed: start(seed).double(),
        reference=lambda model: moved(model, seed=7, far=0.05),
        mini_batch_size=8,
        max_grad_norm=math.inf,
        beta=0.7,
        **ours,
        **settings,
    )
    rollout, scores, _ = loop.collect()
    assert len(set(rollout.lengths.tolist())) > 2  # ragged
    old = token_logprobs(loop.policy, rollout).detach()
    mask = rollout.completion_mask
    A = torch.linspace(-2, 2, 8, dtype=torch.float64)
    ref = token_logprobs(loop.reference, rollout).detach()
    loop.policy.load_state_dict(moved(loop.policy, seed=3, far=far).state_dict())
    hand = copy.deepcopy(loop.policy)
    for p in hand.parameters():
        p.requires_grad_(True)
    logprobs = token_logprobs(hand, rollout)
    trainer = bare(
        GRPOTrainer,
        **{"importance_sampling_level": "token", "epsilon_low": 0.2, "epsilon_high": 0.2, **theirs},
        beta=0.7,
        max_completion_length=loop.config.max_new_tokens,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=1,
        args=SimpleNamespace(
            delta=None,
            use_bias_correction_kl=loop.config.use_bias_correction_kl,
            steps_per_generation=1,
            sapo_temperature_pos=1.0,
            sapo_temperature_neg=1.05,
        ),
        _get_per_token_logps_and_entropies=lambda *a, **k: (logprobs, 0 * old, None),
    )
    inputs = {name: getattr(rollout, name) for name in ("prompt_ids", "prompt_mask")} | {
        "completion_ids": rollout.completion_ids,
        "completion_mask": mask,
        "advantages": A,
        "old_per_token_logps": old,
        "ref_per_token_logps": ref,
        "num_items_in_batch": mask.sum(),
    }
    batch = Experience(*rollout.tokens, logprobs=old, advantages=A[:, None], ref_logprobs=ref)
    gap = ((logprobs - old).exp() - 1).abs()[mask.bool()]
    return loop, batch, hand, trainer._compute_loss(None, inputs), gap


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("corrected", [True, False])
def test_an_off_policy_update_of_grpo_is_trls(kind, corrected):
    assert TRLConfig.use_bias_correction_kl is True  # TRL's default is the first of the two
    loop, batch, hand, theirs, gap = off_policy_step(
        0.02, kind=KINDS[kind], use_bias_correction_kl=corrected
    )
    assert gap.max() > 0.2 and gap.median() > 0.01  # the ratios are away from 1
    assert_a_step_is(loop.update(batch), "policy_loss", loop.policy, theirs, hand)


@pytest.mark.parametrize("kind", KINDS)
def test_the_correction_counts_off_policy(kind):
    corrected, plain = (
        off_policy_step(0.02, kind=KINDS[kind], use_bias_correction_kl=on)[3].item()
        for on in (True, False)
    )
    assert abs(corrected - plain) > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_at_the_first_update_the_loss_is_the_same_and_the_gradient_is_not(kind):
    """Ours and TRL's alike: the ratio is 1, and it is differentiated."""
    losses, norms = [], []
    for corrected in (True, False):
        loop, batch, hand, theirs, gap = off_policy_step(
            0.0, kind=KINDS[kind], use_bias_correction_kl=corrected
        )
        assert gap.max() < 1e-12
        record = loop.update(batch)
        assert_a_step_is(record, "policy_loss", loop.policy, theirs, hand)
        losses.append(record["policy_loss"])
        norms.append(record["gradient_norm"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert abs(norms[0] - norms[1]) > 1e-3 * norms[1]
