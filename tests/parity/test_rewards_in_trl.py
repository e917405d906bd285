"""TRL's GRPO trainer runs with our reward functions as they are, and logs what they return."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer
from trl.rewards import get_soft_overlong_punishment

from rlhf_lib.algorithms.loop import fill_unscored
from rlhf_lib.mathematics.advantages import group_advantages
from rlhf_lib.models.rewards import LearnedReward, call_reward, weighted_sum
from rlhf_lib.worlds import letters
from rlhf_lib.worlds.reward_sources import (
    VerifiableReward,
    length_penalty,
    soft_overlong_punishment,
)
from tests.unit.small import hasty, policy, reward_model, tokenizer

NAMES = ["ben", "anna", "emma", "jack"]  # prompts of one length: TRL gives GPT-2 no position_ids
PROMPTS = [f"write to {name}. confirm: the lamp, friday. reply:" for name in NAMES]


class Recorder:
    """What TRL hands to a reward function, call by call; its own reward is 0, or another value."""

    __name__, value = "recorder", 0.0

    def __init__(self):
        self.calls = []

    def __call__(self, prompts, completions, **columns):
        self.calls.append({"prompts": prompts, "completions": completions, **columns})
        return [self.value] * len(completions)


def settings(folder):
    return dict(
        output_dir=str(folder),
        max_steps=2,
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=12,
        learning_rate=1e-3,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        seed=0,
    )


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of TRL about transformers
def test_the_grpo_trainer_runs_with_our_rewards(tmp_path):
    learned = LearnedReward(reward_model(), tokenizer())
    greets = VerifiableReward(
        lambda prompt, completion, name: name in completion.split()[:9], "greets", columns=("name",)
    )
    combination = weighted_sum([letters.gold_reward, greets, length_penalty(0.1)], [0.5, 2.0, 1.0])
    recorder = Recorder()
    model = policy()
    before = [p.detach().clone() for p in model.parameters()]
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=[learned, combination, recorder],
        processing_class=tokenizer(),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS, "name": NAMES}),
        args=GRPOConfig(**settings(tmp_path)),
    )
    trainer.train()

    logs = [log for log in trainer.state.log_history if "reward" in log]
    assert len(logs) == len(recorder.calls) == 2
    for log, call in zip(logs, recorder.calls):
        assert len(call["completions"]) == 8 and len(set(call["completions"])) > 1
        assert [
            f"write to {name}. " in prompt for name, prompt in zip(call["name"], call["prompts"])
        ] == [True] * 8
        ours = {reward.__name__: call_reward(reward, **call) for reward in (learned, combination)}
        for name, values in ours.items():
            assert log[f"rewards/{name}/mean"] == pytest.approx(values.mean().item(), abs=1e-5)
            assert log[f"rewards/{name}/std"] == pytest.approx(values.std().item(), abs=1e-5)
            assert values.std() > 0.01
        assert log["reward"] == pytest.approx(sum(ours.values()).mean().item(), abs=1e-5)
    assert any(not torch.equal(p, old) for p, old in zip(model.parameters(), before))
    assert list(combination.parts) == ["gold_reward", "greets", "length_penalty"]


class Asked:
    """An async reward that does not apply to the last of each four completions."""

    async def __call__(self, prompts, completions, **columns):
        await asyncio.sleep(0)
        words = [float(len(completion.split())) for completion in completions]
        return [None if i % 4 == 3 else n for i, n in enumerate(words)]


def tokens_used(completion_ids, **columns):
    return [None if i % 4 in (0, 3) else float(len(ids)) for i, ids in enumerate(completion_ids)]


def of_one_kind(completions, name, **columns):
    rows = zip(completions, name)
    return [
        float(len(c)) if who == "jack" and i % 4 < 3 else None for i, (c, who) in enumerate(rows)
    ]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of TRL about transformers
def test_functions_that_trl_takes_give_the_same_here(tmp_path):
    """Async, for some rows only, and of token ids: each alone, their weighted sum, and the
    advantage of all, of those too that no function applies to."""
    functions = [Asked(), tokens_used, of_one_kind, partial(tokens_used, extra=1)]
    weights, recorder = [0.5, -0.25, 0.125, 1.0], Recorder()
    recorder.value = None  # it applies to nothing
    trainer = GRPOTrainer(
        model=hasty(),
        reward_funcs=[*functions, recorder],
        processing_class=tokenizer(),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS, "name": NAMES}),
        args=GRPOConfig(**settings(tmp_path), reward_weights=[*weights, 0.0], scale_rewards="none"),
    )
    seen, calculate = [], trainer._calculate_rewards
    trainer._calculate_rewards = lambda *given: seen.append(calculate(*given)) or seen[-1]
    trainer.train()

    logs = [log for log in trainer.state.log_history if "reward" in log]
    combination = weighted_sum(functions, weights)
    for log, theirs, call in zip(logs, seen, recorder.calls, strict=True):
        for function, column in zip(functions, theirs.T):
            values = call_reward(function, **call)
            assert torch.equal(values.isnan(), column.isnan())
            assert torch.equal(values.nan_to_num(), column.nan_to_num())
        total = call_reward(combination, **call)
        assert total.isnan().tolist() == [False, False, False, True] * 2
        assert log["reward"] == pytest.approx(total.nanmean().item(), abs=1e-5)
        assert log["rewards/Asked/mean"] == pytest.approx(combination.parts["Asked"], abs=1e-5)
    with pytest.warns(RuntimeWarning, match="no reward applies"):
        filled = fill_unscored(total.view(2, 4)).flatten()
    ours, theirs = group_advantages(filled, 4, scale="none"), trainer._logs["advantages"]
    assert ours.tolist() == pytest.approx(list(theirs)[-8:], abs=1e-4) and ours.abs().max() > 1
    tokens = [ids for call in recorder.calls for ids in call["completion_ids"]]
    ends = [ids[-1] == tokenizer().eos_token_id for ids in tokens]
    assert any(ends) and not all(ends)  # with the end token, there as here


@pytest.mark.parametrize("max_length, cache", [(20, 8), (16, 5), (12, 12), (7, 0), (100, 3)])
def test_soft_overlong_punishment(max_length, cache):
    completions = [" ".join(["thanks"] * n) for n in range(30)]
    theirs = get_soft_overlong_punishment(max_length, cache)(
        completion_ids=[tokenizer()(text)["input_ids"] for text in completions]
    )
    ours = soft_overlong_punishment(max_length, cache, tokenizer())([""] * 30, completions)
    assert ours == pytest.approx(theirs, abs=1e-9)
