"""SFT, reward training, DPO and its relatives, best-of-n and rejection sampling: what a step is,
that it can be stopped, and what is refused."""

import copy
import dataclasses
import json
import math

import pytest
import torch
from datasets import Dataset
from torch.nn.functional import logsigmoid

from rlhf_lib.algorithms.best_of_n import RejectionSampling, RejectionSamplingConfig, best_of_n
from rlhf_lib.algorithms.dpo import DPO, DPOConfig
from rlhf_lib.algorithms.reward_training import (
    RewardConfig,
    RewardTraining,
    pair_accuracy,
    reward_ensemble,
)
from rlhf_lib.algorithms.sft import SFT, SFTConfig
from rlhf_lib.machinery.machine import Machine
from rlhf_lib.models.reward_model import new_reward_model, reward_scores
from rlhf_lib.models.rewards import LearnedReward
from rlhf_lib.models.rollout import sample
from rlhf_lib.models.tokens import encode, token_logprobs
from rlhf_lib.worlds.tables import rows_of_step
from tests.unit.small import (
    RAGGED,
    count_words,
    early_letters,
    policy,
    reward_model,
    tokenizer,
    weights,
)

GOOD = ["hello ben, thank you for the lamp.", "yes.", "", "i can not join on friday."]
BAD = ["no.", "stupid nonsense, stop.", "maybe later.", "thank you ben."]
DEMONSTRATIONS = Dataset.from_dict({"prompt": RAGGED * 2, "completion": GOOD + BAD})
PAIRS = Dataset.from_dict(
    {"prompt": RAGGED * 2, "chosen": GOOD + GOOD[::-1], "rejected": BAD + BAD[::-1]}
)
LABELLED = Dataset.from_dict(
    {
        "prompt": RAGGED * 2,
        "completion": GOOD + BAD,
        "label": [True, False, True, True, False, True, False, False],
    }
)
PROMPTS = Dataset.from_dict({"prompt": RAGGED * 2})
LOSSES = ("dpo", "ipo", "simpo", "kto")


def make_sft(model=None, dataset=DEMONSTRATIONS, **settings):
    return SFT(
        model or policy(),
        tokenizer(),
        dataset,
        SFTConfig(**{"max_steps": 4, "batch_size": 6, "warmup_steps": 1, **settings}),
    )


def make_reward_training(model=None, dataset=PAIRS, **settings):
    return RewardTraining(
        model or reward_model(),
        tokenizer(),
        dataset,
        RewardConfig(**{"max_steps": 4, "batch_size": 6, "warmup_steps": 1, **settings}),
    )


def make_dpo(model=None, dataset=PAIRS, reference="a copy", **settings):
    model = model or policy()
    if reference == "a copy":
        reference = None if settings.get("loss_type") == "simpo" else policy(0)
    return DPO(
        model,
        reference,
        tokenizer(),
        dataset,
        DPOConfig(
            **{
                "max_steps": 4,
                "batch_size": 6,
                "warmup_steps": 1,
                "learning_rate": 1e-2,
                **settings,
            }
        ),
    )


def make_rejection_sampling(model=None, dataset=PROMPTS, reward=early_letters, **settings):
    return RejectionSampling(
        model or can_end(),
        tokenizer(),
        reward,
        dataset,
        RejectionSamplingConfig(
            **{
                "max_steps": 4,
                "batch_size": 4,
                "num_generations": 6,
                "mini_batch_size": 3,
                "max_new_tokens": 10,
                "num_train_epochs": 1,
                "learning_rate": 1e-2,
                **settings,
            }
        ),
    )


def can_end(seed=0):
    """The small policy, a little trained: its replies end by themselves."""
    model = policy(seed)
    list(make_sft(model, max_steps=60, batch_size=8, learning_rate=1e-2, warmup_steps=4, seed=seed))
    return model


def logprob_sums(model, prompts, completions):
    """log π of each completion, one by one, so that no padding is involved."""
    return torch.stack(
        [
            token_logprobs(model, encode(tokenizer(), [p], [c])).sum()
            for p, c in zip(prompts, completions)
        ]
    )


def adam_step(model, loss, rate, **settings):
    model.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    torch.optim.AdamW(model.parameters(), lr=rate, **settings).step()


def same_step(model, hand, atol=2e-5):
    """Equal new weights, where the gradient is more than rounding: Adam makes a step of that too.

    (Attention is blind to the bias of its keys, whose gradient is such a rounding error.)
    """
    gradient = torch.cat([p.grad.flatten() for p in hand.parameters()])
    assert (gradient.abs() > 1e-5).float().mean() > 0.3
    moved = gradient.abs() > 1e-5
    return torch.allclose(weights(model)[moved], weights(hand)[moved], atol=atol)


def some(rows, *columns):
    return ([column[i] for i in rows] for column in columns)


# ---------------------------------------------------------------------------------- one step


def test_an_sft_step_by_hand():
    loop, hand = make_sft(), policy()
    record = loop.step()
    prompts, completions = some(
        rows_of_step(8, 6, 0, seed=0),
        *(list(DEMONSTRATIONS[name]) for name in ("prompt", "completion")),
    )
    lengths = [len(tokenizer()(text)["input_ids"]) + 1 for text in completions]
    loss = -logprob_sums(hand, prompts, completions).sum() / sum(lengths)
    adam_step(hand, loss, 5e-4 / 2, betas=(0.9, 0.98), weight_decay=0.01)
    assert record["loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert record["tokens"] == sum(lengths) and record["learning_rate"] == pytest.approx(2.5e-4)
    assert same_step(loop.model, hand)
    assert not torch.allclose(weights(loop.model), weights(policy()), atol=1e-5)


@pytest.mark.parametrize("parts", [2, 4, 6])
def test_a_token_weighs_the_same_in_whatever_part_of_the_batch_it_is(parts):
    """Completions of 1 to 10 tokens: a mean of the parts' means would be another gradient."""
    whole, pieces = make_sft(), make_sft(gradient_accumulation_steps=parts)
    for _ in range(3):
        one, other = whole.step(), pieces.step()
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-5)
        assert other["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-4)
    one, other = (logprob_sums(loop.model, RAGGED, GOOD) for loop in (whole, pieces))
    assert torch.allclose(one, other, atol=1e-3)
    assert not torch.allclose(one, logprob_sums(policy(), RAGGED, GOOD), atol=0.1)


@pytest.mark.parametrize("margins", [None, [0.5, 0.0, 2.0, 1, 0.1, 3.0, 0, 0.7]])
def test_a_reward_training_step_by_hand(margins):
    dataset = PAIRS if margins is None else PAIRS.add_column("margin", list(map(float, margins)))
    loop, hand = make_reward_training(dataset=dataset), reward_model()
    record = loop.step()
    rows = rows_of_step(8, 6, 0, seed=0)
    prompts, chosen, rejected = some(rows, *(list(PAIRS[name]) for name in PAIRS.column_names))
    scores = [
        torch.cat(
            [reward_scores(hand, encode(tokenizer(), [p], [c])) for p, c in zip(prompts, column)]
        )
        for column in (chosen, rejected)
    ]
    margin = torch.tensor([margins[i] for i in rows]) if margins else 0.0
    loss = (
        -logsigmoid(scores[0] - scores[1] - margin) + 0.01 * (scores[0] + scores[1]) ** 2
    ).mean()
    adam_step(hand, loss, 3e-4 / 2, betas=(0.9, 0.98), weight_decay=0.01)
    assert record["loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert same_step(loop.model, hand)


def dpo_by_hand(loss_type, model, reference, prompts, chosen, rejected, beta, smoothing=0.0):
    chosen, rejected = (
        (
            logprob_sums(model, prompts, c),
            logprob_sums(reference, prompts, c).detach(),
            torch.tensor([len(tokenizer()(t)["input_ids"]) + 1 for t in c]),
        )
        for c in (chosen, rejected)
    )
    gap = (chosen[0] - chosen[1]) - (rejected[0] - rejected[1])
    per_token = (chosen[0] - chosen[1]) / chosen[2] - (rejected[0] - rejected[1]) / rejected[2]
    return {
        "dpo": -(1 - smoothing) * logsigmoid(beta * gap) - smoothing * logsigmoid(-beta * gap),
        "ipo": (gap - 1 / (2 * beta)) ** 2,
        "ipo per token": (per_token - 1 / (2 * beta)) ** 2,
        "simpo": -logsigmoid(beta * chosen[0] / chosen[2] - beta * rejected[0] / rejected[2] - 0.7),
    }[loss_type].mean()


@pytest.mark.parametrize(
    "settings",
    [
        dict(loss_type="dpo"),
        dict(loss_type="dpo", beta=0.5, label_smoothing=0.2),
        dict(loss_type="ipo"),
        dict(loss_type="ipo", average_log_prob=True),
        dict(loss_type="simpo", simpo_gamma=0.7),
    ],
    ids=["dpo", "cdpo", "ipo", "ipo per token", "simpo"],
)
def test_a_dpo_step_by_hand(settings):
    """From a policy that is not its reference, so that every term counts."""
    loop, hand, reference = make_dpo(policy(1), **settings), policy(1), policy(0)
    record = loop.step()
    rows = rows_of_step(8, 6, 0, seed=0)
    prompts, chosen, rejected = some(rows, *(list(PAIRS[name]) for name in PAIRS.column_names))
    beta = settings.get("beta", 2.0 if settings["loss_type"] == "simpo" else 0.1)
    per_token = "average_log_prob" in settings
    loss = dpo_by_hand(
        settings["loss_type"] + " per token" * per_token,
        hand,
        reference,
        prompts,
        chosen,
        rejected,
        beta,
        settings.get("label_smoothing", 0.0),
    )
    adam_step(hand, loss, 1e-2 / 2, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.0)
    assert record["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert same_step(loop.policy, hand)
    if settings["loss_type"] != "simpo" and not per_token:
        before = policy(1)
        rewards = [
            beta * (logprob_sums(before, prompts, c) - logprob_sums(reference, prompts, c))
            for c in (chosen, rejected)
        ]
        assert record["chosen_reward"] == pytest.approx(rewards[0].mean().item(), abs=1e-4)
        assert record["rejected_reward"] == pytest.approx(rewards[1].mean().item(), abs=1e-4)
        assert record["reward_margin"] == pytest.approx(
            (rewards[0] - rewards[1]).mean().item(), abs=1e-4
        )
        assert record["accuracy"] == (rewards[0] > rewards[1]).float().mean().item()
        assert record["chosen_logprob"] == pytest.approx(
            logprob_sums(before, prompts, chosen).mean().item(), abs=1e-3
        )


@pytest.mark.parametrize("seed, positive", [(0, False), (1, True)])
def test_a_kto_step_by_hand(seed, positive):
    """With the reference point of mismatched pairs: each prompt with the row before's reply."""
    model, reference = (policy(1), policy(0)) if positive else (policy(0), policy(1))
    if positive:  # nearer to the text than its reference is
        list(make_sft(model, max_steps=20, learning_rate=5e-3, warmup_steps=0))
    hand = copy.deepcopy(model)
    loop = make_dpo(model, LABELLED, reference, loss_type="kto", desirable_weight=1.5)
    record = loop.step()
    rows = rows_of_step(8, 6, 0, seed=0)
    prompts, completions, labels = some(rows, *(list(LABELLED[c]) for c in LABELLED.column_names))
    shifted = completions[-1:] + completions[:-1]
    with torch.no_grad():
        mean = (
            logprob_sums(hand, prompts, shifted) - logprob_sums(reference, prompts, shifted)
        ).mean()
    assert (mean > 0) == positive
    point = mean.clamp(min=0)
    ratio = (
        logprob_sums(hand, prompts, completions)
        - logprob_sums(reference, prompts, completions).detach()
    )
    losses = [
        1.5 * (1 - torch.sigmoid(0.1 * (r - point)))
        if good
        else 1 - torch.sigmoid(0.1 * (point - r))
        for r, good in zip(ratio, labels)
    ]
    loss = torch.stack(losses).mean()
    adam_step(hand, loss, 1e-2 / 2, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.0)
    assert record["reference_point"] == pytest.approx(point.item(), abs=1e-4)
    assert record["loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert same_step(loop.policy, hand)


def test_pairs_are_taken_apart_for_kto():
    loop = make_dpo(loss_type="kto")
    rows = list(zip(loop.prompts, loop.completions, loop.labels))
    assert rows[:2] == [(RAGGED[0], GOOD[0], True), (RAGGED[1], GOOD[1], True)]
    assert rows[8] == (RAGGED[0], BAD[0], False) and len(rows) == 16


def test_a_round_of_rejection_sampling_by_hand():
    loop, hand = make_rejection_sampling(mini_batch_size=8, learning_rate=1e-3), can_end()
    record = loop.step()
    prompts = [RAGGED[i % 4] for i in rows_of_step(8, 4, 0, seed=0)]
    rollout = sample(
        hand,
        tokenizer(),
        [p for p in prompts for _ in range(6)],
        10,
        generator=torch.Generator().manual_seed(0),
    )
    scores = early_letters(rollout.prompts, rollout.completions)
    kept = []
    for p in range(4):
        finished = [i for i in range(6 * p, 6 * p + 6) if rollout.finished[i]]
        if finished:
            kept.append(max(finished, key=lambda i: scores[i]))  # the first of the best
    assert loop.chosen.samples == [rollout.completions[i : i + 6] for i in range(0, 24, 6)]
    assert record["kept"] == len(kept) >= 3
    assert record["reward"] == pytest.approx(
        sum(s - (not f) for s, f in zip(scores, rollout.finished)) / 24, abs=1e-5
    )
    prompts, completions = some(kept, rollout.prompts, rollout.completions)
    tokens = sum(len(tokenizer()(text)["input_ids"]) + 1 for text in completions)
    loss = -logprob_sums(hand, prompts, completions).sum() / tokens
    adam_step(hand, loss, 1e-3, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.0)
    assert record["loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert same_step(loop.policy, hand)


# ---------------------------------------------------------------------------------- best of n


def test_best_of_n_chooses_the_first_of_the_best():
    model = can_end()
    result = best_of_n(
        model,
        tokenizer(),
        RAGGED,
        early_letters,
        n=8,
        max_new_tokens=10,
        generator=torch.Generator().manual_seed(3),
    )
    for p, prompt in enumerate(RAGGED):
        assert len(result.samples[p]) == 8
        raw = early_letters([prompt] * 8, result.samples[p])
        expected = [r - (not f) for r, f in zip(raw, result.finished[p])]
        assert result.scores[p].tolist() == expected
        assert result.best[p] == expected.index(max(expected))
        assert result.completions[p] == result.samples[p][result.best[p]]
    words = result.score_all(count_words)
    with pytest.raises(ValueError, match="returned 3 rewards; expected"):
        result.score_all(lambda prompts, completions: [1.0] * 3)
    assert words[1, 2] == len(result.samples[1][2].split()) and words.shape == (4, 8)
    ties = best_of_n(
        model,
        tokenizer(),
        RAGGED,
        lambda prompts, completions: [0.0] * len(prompts),
        n=3,
        max_new_tokens=4,
        missing_eos_penalty=0.0,
    )
    assert ties.best.tolist() == [0] * 4


def test_best_of_n_is_reproducible_and_bounded_in_memory():
    largest = []

    def watching(prompts, completions):
        largest.append(len(prompts))
        return count_words(prompts, completions)

    def run():
        return best_of_n(
            policy(),
            tokenizer(),
            RAGGED,
            watching,
            5,
            6,
            batch_size=7,
            generator=torch.Generator().manual_seed(1),
        )

    first, second = run(), run()
    assert first.samples == second.samples and torch.equal(first.scores, second.scores)
    assert max(largest) == 7 and sum(largest) == 40


def test_rejection_sampling_keeps_what_it_says():
    loop = make_rejection_sampling(threshold=1.5)
    loop.step()
    kept = loop.keep(loop.chosen)
    assert torch.equal(kept, (loop.chosen.scores > 1.5) & loop.chosen.finished)
    assert 0 < kept.sum() < kept.numel()


def test_what_was_cut_off_is_never_imitated():
    """An untrained policy does not stop in 6 tokens; nothing is kept and nothing changes."""
    loop = make_rejection_sampling(policy(), max_new_tokens=6)
    record = loop.step()
    assert record["finished"] == 0.0 and record["kept"] == 0
    assert torch.equal(weights(loop.policy), weights(policy()))


# ---------------------------------------------------------------------------------- learning


@pytest.mark.parametrize("loss_type", LOSSES)
def test_dpo_learns_what_is_preferred(loss_type):
    records = list(make_dpo(max_steps=60, batch_size=8, loss_type=loss_type))
    assert sum(r["accuracy"] for r in records[-5:]) / 5 > 0.95
    assert records[-1]["reward_margin"] > records[0]["reward_margin"] + 0.3
    assert records[-1]["loss"] < 0.6 * records[0]["loss"]


def test_rejection_sampling_raises_the_reward():
    records = list(make_rejection_sampling(max_steps=12, batch_size=8))
    assert records[-1]["reward"] > records[0]["reward"] + 0.5


def test_members_of_an_ensemble_learn_the_same_and_differ():
    loops = reward_ensemble(
        policy(),
        tokenizer(),
        PAIRS,
        seeds=(0, 1, 2),
        config=RewardConfig(max_steps=40, batch_size=8, learning_rate=3e-3),
    )
    alone = RewardTraining(new_reward_model(policy(), 1), tokenizer(), PAIRS, loops[1].config)
    for loop in [*loops, alone]:
        list(loop)
        assert pair_accuracy(loop.model, tokenizer(), PAIRS) == 1.0
    scores = [LearnedReward(loop.model, tokenizer())(RAGGED, GOOD) for loop in loops]
    assert scores[0] != scores[1] and scores[1] != scores[2]
    assert torch.equal(weights(loops[1].model), weights(alone.model))  # a member is no special case
    with pytest.raises(ValueError, match=r"seeds is \[1, 1\]; expected different ones"):
        reward_ensemble(policy(), tokenizer(), PAIRS, seeds=(1, 1))


def test_precomputed_reference_logprobs_change_nothing():
    once, every_time = (
        make_dpo(policy(1), precompute_ref_log_probs=flag) for flag in (True, False)
    )
    for one, other in zip(once, every_time, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
    assert torch.allclose(weights(once.policy), weights(every_time.policy), atol=1e-4)
    expected = logprob_sums(policy(0), *some(range(16), once.prompts, once.completions))
    assert torch.allclose(once.cached, expected, atol=1e-4) and every_time.cached is None


@pytest.mark.parametrize("loss_type", ["dpo", "ipo", "kto"])
def test_the_reference_does_not_move_and_dropout_is_off(loss_type):
    model, reference = policy(0, dropout=0.1), policy(1, dropout=0.1)
    loop = make_dpo(model, reference=reference, loss_type=loss_type)
    first = weights(model)
    list(loop)
    assert torch.equal(weights(reference), weights(policy(1)))
    assert not torch.equal(weights(model), first)
    assert not model.training and not reference.training


# ---------------------------------------------------------------------------------- stopping

LOOPS = {
    "sft": make_sft,
    "reward": make_reward_training,
    "rejection": make_rejection_sampling,
    **{name: lambda *a, name=name, **k: make_dpo(*a, loss_type=name, **k) for name in LOSSES},
    "ipo per token": lambda *a, **k: make_dpo(*a, loss_type="ipo", average_log_prob=True, **k),
}


@pytest.mark.parametrize(
    "settings", [{"microbatch_tokens": 60}, {"gradient_checkpointing": True}], ids=str
)
@pytest.mark.parametrize("name", LOOPS)
def test_how_it_is_computed_changes_no_number(name, settings, monkeypatch):
    """Parts of like length, or activations computed twice, against the plain loop, in float64."""
    start = reward_model() if name == "reward" else can_end() if name == "rejection" else policy(1)
    reference = None if name == "simpo" else policy(0).double()
    given = {} if name in ("sft", "reward", "rejection") else {"reference": reference}
    parts, cut = [], Machine._cut

    def counted(machine, batch):
        found = list(cut(machine, batch))
        parts.append(len(found))
        return found

    monkeypatch.setattr(Machine, "_cut", counted)

    def run(**settings):
        model = copy.deepcopy(start).double()
        loop = LOOPS[name](model, **copy.deepcopy(given), **settings)
        return [loop.step(), loop.step()], weights(model)

    plain, before = run()
    assert set(parts) == {1}
    found, after = run(**settings)
    assert (max(parts) > 1) == ("microbatch_tokens" in settings)
    for ours, theirs in zip(plain, found):
        for key in ours.keys() - {"seconds"}:
            assert theirs[key] == pytest.approx(ours[key], rel=1e-6, abs=1e-7), key
    assert (before - after).abs().max().item() < 1e-9
    assert (before - weights(copy.deepcopy(start).double())).abs().max().item() > 1e-5


@pytest.mark.parametrize("name", LOOPS)
def test_every_loop_computes_in_bfloat16(name):
    start = reward_model() if name == "reward" else can_end() if name == "rejection" else policy(1)
    record, rough = (LOOPS[name](copy.deepcopy(start), bf16=bf16).step() for bf16 in (False, True))
    assert rough["loss"] != record["loss"]
    assert rough["loss"] == pytest.approx(record["loss"], rel=0.1)


def test_out_of_memory_is_said_by_every_loop(monkeypatch):
    def full(*arguments):
        raise torch.OutOfMemoryError("no room for the moments")

    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    message = (
        "out of memory in step 1; expected room for microbatch_tokens=None and batch_size=6. In"
    )
    with pytest.raises(RuntimeError, match=message):
        make_sft().step()


@pytest.mark.parametrize("name", LOOPS)
def test_a_resumed_run_gives_the_same_numbers(name, tmp_path):
    whole = LOOPS[name]()
    whole_records = list(whole)
    first = LOOPS[name]()
    records = [first.step(), first.step()]
    first.save(tmp_path / "checkpoint")
    first.save(tmp_path / "checkpoint")  # replacing the one before
    other = reward_model(1) if name == "reward" else policy(1)  # other weights, to be replaced
    second = LOOPS[name](other)
    second.step()  # and another optimiser state, generator state and step number
    second.resume(tmp_path / "checkpoint")
    records += list(second)
    for record, expected in zip(records, whole_records, strict=True):
        assert {**record, "seconds": 0} == {**expected, "seconds": 0}
    one, two = (loop.policy if hasattr(loop, "policy") else loop.model for loop in (whole, second))
    assert torch.equal(weights(one), weights(two))
    assert json.loads(json.dumps(whole_records)) == whole_records  # a log can hold them


@pytest.mark.parametrize("name, samples", [("sft", False), ("reward", False), ("rejection", True)])
def test_a_checkpoint_holds_a_sampler_if_the_loop_samples(name, samples, tmp_path):
    loop = LOOPS[name]()
    loop.save(tmp_path / "c")
    state = torch.load(tmp_path / "c" / "state.pt", weights_only=True)
    assert ("samplers" in state) == samples


def test_a_checkpoint_of_another_kind_is_refused_before_a_weight_is_touched(tmp_path):
    loop = make_sft()
    loop.step()
    loop.save(tmp_path / "c")
    state = torch.load(tmp_path / "c" / "state.pt", weights_only=True)
    del state["shuffler"]
    torch.save(state, tmp_path / "c" / "state.pt")
    other = make_sft()
    before = weights(other.model).clone()
    with pytest.raises(ValueError, match="expected a readable checkpoint.*state.pt lacks shuffler"):
        other.resume(tmp_path / "c")
    assert torch.equal(weights(other.model), before) and other.step_number == 0


@pytest.mark.parametrize("make", [make_sft, make_reward_training])
def test_a_batch_is_cut_in_one_way(make):
    with pytest.raises(ValueError, match="microbatch_tokens and gradient_accumulation_steps are"):
        make(microbatch_tokens=50, gradient_accumulation_steps=2)


def test_the_reference_of_dpo_is_computed_as_the_policy_is():
    """At the start they are one model: in bfloat16 too, the implicit rewards are 0."""
    for loss_type in ("dpo", "ipo", "kto"):
        record = make_dpo(loss_type=loss_type, bf16=True, precompute_ref_log_probs=False).step()
        assert record["chosen_reward"] == record["rejected_reward"] == 0


def test_a_mean_over_no_completion_is_not_a_number():
    labelled = LABELLED.remove_columns("label").add_column("label", [False] * len(LABELLED))
    record = make_dpo(dataset=labelled, loss_type="kto").step()
    assert math.isnan(record["chosen_reward"]) and not math.isnan(record["rejected_reward"])


def test_a_turned_beta_survives_a_checkpoint(tmp_path):
    loop = make_dpo()
    loop.step()
    loop.beta = 0.03
    loop.save(tmp_path / "c")
    again = make_dpo()
    again.resume(tmp_path / "c")
    assert again.beta == 0.03 and again.step()["beta"] == 0.03


# ---------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "name, missing",
    [
        ("sft", "completion"),
        ("reward", "rejected"),
        ("dpo", "chosen"),
        ("kto", "rejected"),
        ("rejection", "prompt"),
    ],
)
def test_a_missing_column_is_named(name, missing):
    data = {"sft": DEMONSTRATIONS, "rejection": PROMPTS.add_column("other", [1] * 8)}.get(
        name, PAIRS
    )
    with pytest.raises(ValueError, match=f"expected '{missing}' among them"):
        LOOPS[name](dataset=data.remove_columns(missing))


@pytest.mark.parametrize(
    "name, dataset, message",
    [
        (
            "sft",
            {"prompt": RAGGED, "completion": ["yes.", None, "", "no."]},
            r"completion\[1\] of the dataset is None; expected str",
        ),
        (
            "reward",
            {"prompt": RAGGED, "chosen": GOOD, "rejected": BAD, "margin": ["much"] * 4},
            r"margin\[0\] of the dataset is 'much'; expected int or float",
        ),
        (
            "dpo",
            {
                "prompt": RAGGED,
                "chosen": [[{"role": "user", "content": "hi"}]] * 4,
                "rejected": BAD,
            },
            r"chosen\[0\] of the dataset is \[\{.*; expected str",
        ),
        (
            "kto",
            {"prompt": RAGGED, "completion": GOOD, "label": [1, 0, 1, 0]},
            r"label\[0\] of the dataset is 1; expected bool",
        ),
    ],
)
def test_a_column_of_the_wrong_kind_is_named(name, dataset, message):
    with pytest.raises(ValueError, match=message):
        LOOPS[name](dataset=Dataset.from_dict(dataset))


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("sft", dict(batch_size=0), "batch_size is 0; expected at least 1"),
        ("sft", dict(gradient_accumulation_steps=0), "gradient_accumulation_steps is 0"),
        ("reward", dict(learning_rate=math.nan), "learning_rate is nan"),
        ("dpo", dict(beta=0.0), "beta is 0.0; expected a positive number"),
        ("dpo", dict(label_smoothing=0.5), "label_smoothing is 0.5; expected 0 to .5"),
        ("dpo", dict(reference=None), "reference is None; expected a model to stay near"),
        ("simpo", dict(reference=policy()), "reference is a model and loss_type 'simpo'"),
        ("kto", dict(batch_size=1), "batch_size is 1; expected at least 2 for 'kto'"),
        ("dpo", dict(average_log_prob=True), "average_log_prob is True and loss_type 'dpo'"),
        ("kto", dict(average_log_prob=True), "and loss_type 'kto'; expected 'ipo'"),
        ("simpo", dict(average_log_prob=True), "and loss_type 'simpo'; expected 'ipo'"),
        ("rejection", dict(temperature=0.0), "temperature is 0.0; expected a positive number"),
        ("rejection", dict(warmup_steps=-1), "warmup_steps is -1; expected 0 or more"),
    ],
)
def test_bad_settings_are_named(name, settings, message):
    with pytest.raises(ValueError, match=message):
        LOOPS[name](**settings)


def test_an_unknown_loss_and_one_model_in_two_roles_are_refused():
    with pytest.raises(ValueError, match="loss_type is 'sigmoid'; expected 'dpo', 'ipo'"):
        make_dpo(reference=policy(), loss_type="sigmoid")
    model = policy()
    with pytest.raises(ValueError, match="are the same model; expected a copy"):
        make_dpo(model, reference=model)


def test_a_reward_model_with_two_outputs_is_refused():
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(policy().config)
    config.num_labels = 2
    with pytest.raises(ValueError, match="model has 2 labels; expected one, the reward"):
        make_reward_training(AutoModelForSequenceClassification.from_config(config))


def test_no_samples_at_all_are_refused():
    with pytest.raises(ValueError, match="n is 0"):
        best_of_n(policy(), tokenizer(), RAGGED, count_words, n=0)


@pytest.mark.parametrize("name", [name for name in LOOPS if name != "rejection"])
def test_an_empty_reply_is_an_end_token_and_a_nan_is_refused(name):
    """GOOD holds an empty reply. Weights that are NaN make log-probabilities that are NaN."""
    loop = LOOPS[name]()
    assert math.isfinite(loop.step()["loss"])
    model = loop.policy if hasattr(loop, "policy") else loop.model
    with torch.no_grad():
        model.transformer.wte.weight[7] = float("nan")
        model.transformer.wpe.weight[0] = float("nan")
    before = weights(model)
    with pytest.raises(FloatingPointError, match="the update was refused"):
        loop.step()
    assert torch.equal(weights(model).nan_to_num(7.0), before.nan_to_num(7.0))
    assert loop.step_number == 1


def test_an_empty_dataset_is_refused():
    empty = Dataset.from_dict({"prompt": [], "chosen": [], "rejected": []})
    with pytest.raises(ValueError, match="the dataset has 0 rows"):
        make_dpo(dataset=empty).step()


def test_settings_are_frozen():
    for settings in (SFTConfig(), RewardConfig(), DPOConfig(), RejectionSamplingConfig()):
        with pytest.raises(dataclasses.FrozenInstanceError):
            settings.seed = 1
