"""TRL's GRPO trainer runs with our reward functions as they are, and logs what they return."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer
from trl.rewards import get_soft_overlong_punishment

from rlhf_lib.models.rewards import (
    LearnedReward,
    VerifiableReward,
    call_reward,
    length_penalty,
    soft_overlong_punishment,
    weighted_sum,
)
from rlhf_lib.worlds import letters
from tests.unit.small import policy, reward_model, tokenizer

NAMES = ["ben", "anna", "emma", "jack"]  # prompts of one length: TRL gives GPT-2 no position_ids
PROMPTS = [f"write to {name}. confirm: the lamp, friday. reply:" for name in NAMES]


class Recorder:
    """What TRL hands to a reward function, call by call; its own reward is 0."""

    __name__ = "recorder"

    def __init__(self):
        self.calls = []

    def __call__(self, prompts, completions, **columns):
        self.calls.append({"prompts": prompts, "completions": completions, **columns})
        return [0.0] * len(completions)


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
        args=GRPOConfig(
            output_dir=str(tmp_path),
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
        ),
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


@pytest.mark.parametrize("max_length, cache", [(20, 8), (16, 5), (12, 12), (7, 0), (100, 3)])
def test_soft_overlong_punishment(max_length, cache):
    completions = [" ".join(["thanks"] * n) for n in range(30)]
    theirs = get_soft_overlong_punishment(max_length, cache)(
        completion_ids=[tokenizer()(text)["input_ids"] for text in completions]
    )
    ours = soft_overlong_punishment(max_length, cache, tokenizer())([""] * 30, completions)
    assert ours == pytest.approx(theirs, abs=1e-9)
