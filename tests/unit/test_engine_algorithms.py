"""The engine's losses, advantages and whole steps against the library's; what they learn."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import GPT2LMHeadModel

from rlhf_lib.algorithms import GRPO, PPO, GRPOConfig, PPOConfig
from rlhf_lib.algorithms.reward_training import RewardConfig, RewardTraining, standardise
from rlhf_lib.mathematics.advantages import (
    explained_variance,
    gae,
    group_advantages,
    masked_whiten,
    token_rewards,
)
from rlhf_lib.mathematics.kl import k3
from rlhf_lib.mathematics.losses import bradley_terry_loss, clipped_policy_loss, clipped_value_loss
from rlhf_lib.models.reward_model import new_reward_model
from rlhf_lib.models.rewards import LearnedReward
from rlhf_lib.running import artifacts
from rlhf_lib.seeing import engine
from rlhf_lib.worlds import letters, sums
from tests.unit.engine import ARTIFACTS, PAGE, ask, described, flat, relative, unpacked

ORDERS = [  # rows of the four updates of a step
    [*range(8)],
    [*range(8, 16)],
    [3, 12, 5, 9, 0, 1, 15, 8],
    [2, 4, 6, 7, 10, 11, 13, 14],
]


def test_losses_and_their_gradients():
    draws = torch.Generator().manual_seed(0)
    lengths = [1, 7, 3, 4]
    K = sum(lengths)
    old, logprobs, reference = -3 * torch.rand(3, K, generator=draws, dtype=torch.float64)
    logprobs = (old + 0.5 * torch.randn(K, generator=draws)).requires_grad_()
    A = torch.randn(K, generator=draws, dtype=torch.float64)
    A[0] = 0.0
    found = ask(
        "losses",
        logprobs=logprobs.tolist(),
        old=old.tolist(),
        advantages=A.tolist(),
        reference=reference.tolist(),
        epsilon=0.2,
        lengths=lengths,
    )
    losses = {
        "policy": clipped_policy_loss(logprobs, old, A, 0.2),
        "kl": k3(logprobs - reference),
        "value": clipped_value_loss(logprobs, old, reference, 0.2),  # any numbers may be values
    }
    for name, expected in losses.items():
        torch.testing.assert_close(torch.tensor(found[name]).double(), expected.detach())
        (slope,) = torch.autograd.grad(expected.sum(), logprobs)
        mine = torch.tensor(found[f"{name}Slope"], dtype=torch.float64)
        assert mine == pytest.approx(slope, abs=1e-12), name
    for name in ("policy", "value"):
        clipped = torch.tensor(found[f"{name}Slope"]) == 0
        assert 1 < clipped.sum() < K - 2, name  # both kinds occur
    tokens, sequences = found["weights"]
    assert tokens == pytest.approx([1 / K] * K)
    assert sequences == pytest.approx([1 / (n * len(lengths)) for n in lengths for _ in range(n)])


def test_advantages_of_groups():
    rewards = [1, 0, 0, 3, 2, 2, 2, 2, -1, 5, 5, 5]
    expected = group_advantages(torch.tensor(rewards, dtype=torch.float64), 4)
    assert ask("groups", rewards=rewards, groupSize=4) == pytest.approx(expected.tolist())


@pytest.mark.parametrize("gamma, lam", [(1.0, 0.95), (0.9, 0.5), (1.0, 0.0)])
def test_advantages_of_tokens(gamma, lam):
    lengths, draws = [5, 1, 3], torch.Generator().manual_seed(3)
    mask = (torch.arange(5) < torch.tensor(lengths)[:, None]).float()
    log_ratio, values = torch.randn(2, 3, 5, generator=draws, dtype=torch.float64)
    scores = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    rewards = token_rewards(scores, log_ratio, mask, 0.3)
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    ragged = lambda table: [row[:n].tolist() for row, n in zip(table, lengths)]
    how = dict(beta=0.3, gamma=gamma, lam=lam)
    given = dict(scores=scores.tolist(), logRatio=ragged(log_ratio), values=ragged(values))
    found = ask("advantages", **given, **how)
    tables = {"rewards": rewards, "advantages": advantages, "returns": returns}
    tables["whitened"] = masked_whiten(advantages, mask)
    for name, expected in tables.items():
        for mine, theirs in zip(found[name], ragged(expected), strict=True):
            assert mine == pytest.approx(theirs, abs=1e-12), name
    assert found["explained"] == pytest.approx(explained_variance(values, returns, mask))


def test_the_bradley_terry_loss_and_its_gradients():
    draws = torch.Generator().manual_seed(0)
    scores = 3 * torch.randn(2, 9, generator=draws, dtype=torch.float64)
    scores[:, 0] = torch.tensor([900.0, -900.0])  # e^1800 is no number
    chosen, rejected = (row.clone().requires_grad_() for row in scores)
    loss = bradley_terry_loss(chosen, rejected, centering=0.01)
    loss.backward()
    sides = {"chosen": chosen, "rejected": rejected}
    given = {name: side.tolist() for name, side in sides.items()}
    found = ask("bradleyTerry", **given, centering=0.01)
    assert found["loss"] == pytest.approx(loss.item())
    for name, side in sides.items():
        assert found[name] == pytest.approx(side.grad.tolist(), abs=1e-12)


def given_to_both(rollout, scores) -> dict:
    """A rollout of the library as the engine has it."""
    rows = zip(rollout.prompt_ids, rollout.prompt_mask, rollout.completion_ids, rollout.lengths)
    read = [(p[m.bool()].tolist(), c[:n].tolist()) for p, m, c, n in rows]
    lengths = rollout.lengths.tolist()
    return {
        "texts": [prompt + completion for prompt, completion in read],
        "starts": [len(prompt) for prompt, _ in read],
        "logprobs": [row[:n].tolist() for row, n in zip(rollout.logprobs, lengths)],
        "scores": scores.tolist(),
    }


def disturbed(model, size: float = 0.02, seed: int = 1):
    """The model, a little away from where it was."""
    noisy = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(size * torch.randn(p.shape, generator=noisy))
    return model


@pytest.mark.parametrize("beta", [0.0, 0.2])
@pytest.mark.parametrize("over", ["tokens", "sequences"])
@pytest.mark.parametrize("shared", [False, True])
def test_two_whole_steps_of_grpo(beta, over, shared):
    """On the same samples, in the same minibatches, the weights end where PyTorch's do.

    By one machine, and by two that share the rows.
    """
    base, tokenizer = artifacts.load("sums", "base")
    policy, reference = (GPT2LMHeadModel.from_pretrained(ARTIFACTS / "sums/base") for _ in "ab")
    settings = dict(batch_size=16, mini_batch_size=8, num_generations=4, num_iterations=2)
    config = GRPOConfig(
        max_steps=2, max_new_tokens=41, beta=beta, aggregate_over=over, seed=2, **settings, **PAGE
    )
    disturbed(policy)  # so that it is not its reference, and the KL counts
    start = described(policy)
    data = sums.prompts(200, seed=4)
    loop = GRPO(policy, reference if beta else None, tokenizer, sums.strict_verifier, data, config)
    rollout, scores, drawn = loop.collect()
    scores = torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 0, 0])
    loop.minibatches = lambda passes: map(torch.tensor, ORDERS)
    loop.collect = lambda: (replace(rollout), scores, scores)
    records = [loop.step() for _ in range(2)]

    found = ask(
        "grpo",
        model=start,
        reference=described(reference) if beta else None,
        settings={
            "batchSize": 16,
            "miniBatchSize": 8,
            "numGenerations": 4,
            "numIterations": 2,
            "maxNewTokens": 41,
            "missingEosPenalty": 0,
            "beta": beta,
            "aggregateOver": over,
        },
        rollout=given_to_both(rollout, scores),
        orders=ORDERS,
        steps=2,
        shared=shared,
    )
    after, before = flat(policy), unpacked(start["weights"])
    weights = unpacked(found["policy"])[: len(after)]
    assert (after - before).abs().max() > 5e-4  # they have moved
    assert (weights - after).abs().max() < 1e-5
    names = {"policyLoss": "policy_loss", "gradientNorm": "gradient_norm", "length": "length"}
    names |= {"zeroVarianceGroups": "zero_variance_groups", "reward": "reward"}
    names |= {"kl": "kl"} if beta else {}
    for mine, record in zip(found["records"], records):
        for theirs, ours in names.items():
            assert mine[theirs] == pytest.approx(record[ours], rel=1e-3, abs=1e-5), theirs


@pytest.mark.parametrize(
    "sizes",
    [
        {"batchSize": 64, "miniBatchSize": 32, "numGenerations": 8},
        {"batchSize": 24, "miniBatchSize": 1, "numGenerations": 8},  # none for one of two
    ],
)
def test_two_machines_learn_what_one_does(sizes):
    """From the same seed: the same completions, and weights that differ by rounding alone."""
    start = described(GPT2LMHeadModel.from_pretrained(ARTIFACTS / "sums/base"))
    settings = {"numIterations": 2, "maxNewTokens": 41, "beta": 0.1, **sizes}
    given = dict(model=start, reference=start, seed=1, steps=2, settings=settings)
    one, two = (ask("train", **given, shared=shared) for shared in (False, True))
    before, weights = unpacked(start["weights"]), unpacked(one["weights"])
    assert (weights[: len(before)] - before).abs().max() > 1e-4  # they have moved
    assert (weights - unpacked(two["weights"])).abs().max() < 1e-6
    assert one["written"] == two["written"]
    for mine, theirs in zip(one["records"], two["records"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-6)


def test_what_is_elsewhere_says_why_it_fails():
    """At every question: where it could not be made, and where its worker is gone."""
    found = ask("elsewhere")
    assert found == {"unmade": ["no room"] * 3, "gone": ["boom"] * 3}


def test_two_whole_steps_of_ppo():
    """With a price turned between them: policy and critic end where PyTorch's do."""
    sft, tokenizer = artifacts.load("letters", "sft")
    judge, _ = artifacts.load("letters", "reward")
    policy, critic = disturbed(copy.deepcopy(sft)), disturbed(copy.deepcopy(judge), seed=2)
    starts = {"model": described(policy), "critic": described(critic)}
    config = PPOConfig(max_steps=2, batch_size=16, mini_batch_size=8, seed=2)
    data = letters.prompts(200, seed=4)
    reward = LearnedReward(judge, tokenizer)
    loop = PPO(policy, sft, critic, tokenizer, reward, data, config)
    rollout, scores = loop.collect()
    loop.minibatches = lambda passes: map(torch.tensor, ORDERS)
    loop.collect = lambda: (replace(rollout), scores)
    records, descend, norms = [], loop.machine.descend, []

    def noted(*given) -> dict:
        found = descend(*given)
        norms.append(found["gradient_norm"])  # of the policy, then of the critic
        return found

    loop.machine.descend = noted
    for beta in (0.1, 0.4):
        loop.beta = beta
        norms.clear()
        records.append(loop.step() | {"value_gradient_norm": np.mean(norms[1::2])})

    found = ask(
        "ppo",
        **starts,
        reference=described(sft),
        settings={"batchSize": 16, "miniBatchSize": 8},
        rollout=given_to_both(rollout, scores),
        orders=ORDERS,
        steps=2,
        betas=[0.1, 0.4],
    )
    for name, start, model in (("policy", "model", policy), ("critic", "critic", critic)):
        after, before = flat(model), unpacked(starts[start]["weights"])[: len(flat(model))]
        weights = unpacked(found[name])
        assert (after - before).abs().max() > 5e-4, name  # they have moved
        assert (weights[: len(after)] - after).abs().max() < 1e-5, name
    assert (weights[len(after) :] - critic.score.weight.detach()[0]).abs().max() < 1e-5
    names = {"policyLoss": "policy_loss", "valueLoss": "value_loss", "length": "length"}
    names |= {"explainedVariance": "explained_variance", "gradientNorm": "gradient_norm"}
    names |= {"valueGradientNorm": "value_gradient_norm"}
    names |= {name: name for name in ("reward", "kl", "beta")}
    for mine, record in zip(found["records"], records):
        for theirs, ours in names.items():
            assert mine[theirs] == pytest.approx(record[ours], rel=1e-3, abs=1e-5), theirs


def test_a_reward_model_learns_as_in_python():
    """Scores, four steps on the same pairs, and the scale that they have afterwards."""
    sft, tokenizer = artifacts.load("letters", "sft")
    model = new_reward_model(sft, seed=5)
    prompts = list(letters.prompts(24, seed=8)["prompt"])
    replies = list(letters.demonstrations(48, seed=3)["completion"])
    pairs = [
        {"prompt": p, "chosen": a, "rejected": b}
        for p, a, b in zip(prompts, replies[:8], replies[8:16])
    ]
    start, learned = described(model), LearnedReward(model, tokenizer)
    scores = learned(prompts, replies[24:])
    config = RewardConfig(max_steps=4, batch_size=8, warmup_steps=1, weight_decay=0.0)
    training = RewardTraining(model, tokenizer, Dataset.from_list(pairs), config)
    records = list(training)
    after = torch.cat([flat(model), model.score.weight.detach()[0]])
    mean, deviation = standardise(model, tokenizer, prompts, replies[24:])

    found = ask(
        "reward",
        model=start,
        pairs=pairs,
        settings={"maxSteps": 4, "warmupSteps": 1},
        lists=engine.letters_lists(),
        longest=60,
        prompts=prompts,
        completions=replies[24:],
        steps=4,
    )
    assert found["before"] == pytest.approx(scores, abs=1e-5)
    for mine, record in zip(found["records"], records):
        assert mine["loss"] == pytest.approx(record["loss"], rel=1e-4)
        assert mine["accuracy"] == record["accuracy"]
    before, learnt = unpacked(start["weights"]), unpacked(found["after"])
    assert (after - before).abs().max() > 5e-4  # they have moved
    # with eps=1e-8 of this Adam, a gradient of nearly 0 moves its weight as rounding has it
    assert relative(learnt - before, after - before) < 1e-3
    assert found["standard"]["mean"] == pytest.approx(mean, abs=1e-4)
    assert found["standard"]["deviation"] == pytest.approx(deviation, rel=1e-3)
    assert found["scores"] == pytest.approx(learned(prompts, replies[24:]), abs=1e-3)


def test_a_new_head_is_small_and_random():
    first, second = (ask("head", width=2_000, seed=seed) for seed in (1, 2))
    assert first[:3] == [0, 0, 0] and first != second
    head = np.array(first[3:])
    assert abs(head.mean()) < 0.002 and abs(head.std() - 0.02) < 0.0015


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"batchSize": 40}, "batchSize is 40; expected a multiple of miniBatchSize=32"),
        ({"numGenerations": 7}, "batchSize is 64; expected a multiple of numGenerations=7"),
        ({"numGenerations": 0}, "numGenerations is 0; expected a whole number above 0"),
        ({"learningRate": 0}, "learningRate is 0; expected a number above 0"),
        ({"beta": -1}, "beta is -1; expected 0 or more"),
        ({"beta": 0.1}, "beta is 0.1 without a reference; expected 0"),
    ],
)
def test_settings_that_cannot_be_are_named(settings, said):
    model = described(GPT2LMHeadModel.from_pretrained(ARTIFACTS / "sums/base"))
    assert ask("settings", model=model, settings={"beta": 0, **settings}) == said


@pytest.mark.parametrize("seed", [1, 2])
def test_it_learns_to_add(seed):
    """As the notebook's twin does: most held-out sums, from a sixth of them."""
    model = described(GPT2LMHeadModel.from_pretrained(ARTIFACTS / "sums/base"))
    settings = {"miniBatchSize": 64, "numIterations": 1, "maxNewTokens": 41, "beta": 0}
    settings |= {"aggregateOver": "tokens", "learningRate": 3e-4}
    found = ask("train", model=model, seed=seed, steps=20, settings=settings)
    assert found["before"] < 0.35 and found["after"] > 0.55
    assert found["records"][-1]["length"] > 2 * found["records"][0]["length"]
