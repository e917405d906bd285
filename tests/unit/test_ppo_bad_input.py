"""What a reader may do to a running loop, and what may befall it: nothing is trained by accident.

β turned to 0, below it, to NaN or to text; a stop at any moment; a reward that becomes constant;
NaN in a step, in Python and on the command line.
"""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from rlhf_lib.algorithms.loop import check_beta
from rlhf_lib.algorithms.ppo import PPOConfig
from rlhf_lib.machinery.checkpoints import save_checkpoint
from rlhf_lib.machinery.optimization import optimizer_step
from rlhf_lib.running import command_line as cli
from rlhf_lib.running.log import read_log
from tests.unit import loops
from tests.unit.loops import RAGGED_PROMPTS, with_settings
from tests.unit.small import early_letters, policy, tokenizer, weights

ppo, grpo = (
    with_settings(make, reward=early_letters, dataset=RAGGED_PROMPTS, seed=1)
    for make in (loops.ppo, loops.grpo)
)


LOOPS = pytest.mark.parametrize("make", [ppo, grpo])
NO_PRICE = [-1, -0.001, math.nan, math.inf, "0.1", "much", None, torch.tensor(0.1), [0.1]]


def constant(prompts, completions, **columns):
    return [1.5] * len(completions)


# --- β --------------------------------------------------------------------------------------------


@LOOPS
@pytest.mark.parametrize("beta", NO_PRICE, ids=str)
def test_beta_turned_to_what_is_no_price_is_refused_and_the_run_goes_on(make, beta):
    loop = make(beta=0.3)
    loop.step()
    with pytest.raises(ValueError, match=r"beta is .*; expected 0 or more, and finite"):
        loop.beta = beta
    assert loop.beta == 0.3 and loop.step()["beta"] == 0.3


@LOOPS
@pytest.mark.parametrize("beta", [0, 0.0, 0.02, np.float32(0.5), 7])
def test_beta_may_be_turned_to_zero_and_to_any_price(make, beta):
    loop = make()
    loop.beta = beta
    record = loop.step()
    assert record["beta"] == float(beta) and type(loop.beta) is float
    assert all(math.isfinite(record[name]) for name in ("reward", "kl", "policy_loss"))


@LOOPS
@pytest.mark.parametrize("beta", [-0.1, math.nan, math.inf, "0.1"])
def test_beta_of_the_settings_is_checked_the_same_way(make, beta):
    with pytest.raises(ValueError, match="beta is .*; expected 0 or more, and finite"):
        make(beta=beta)


def test_beta_without_a_reference_is_refused_at_the_next_step():
    loop = grpo(reference=lambda model: None, beta=0.0)
    loop.beta = 0.1
    with pytest.raises(ValueError, match="beta is 0.1 without a reference"):
        loop.step()
    loop.beta = 0
    assert loop.step()["step"] == 1


def test_one_loops_beta_is_not_anothers():
    one, other = ppo(beta=0.1), ppo(beta=0.2)
    one.beta = 0.3
    assert (one.beta, other.beta) == (0.3, 0.2)


def test_at_zero_the_distance_costs_nothing(monkeypatch):
    """The same step with a far reference and with a near one, once the price is 0."""
    moved = []
    for far in (False, True):
        loop = ppo(beta=0.5)
        if far:
            with torch.no_grad():
                for p in loop.reference.parameters():
                    p.mul_(1.5)
        loop.beta = 0
        record = loop.step()
        moved.append((weights(loop.policy), record["kl"]))
    (near, near_kl), (far, far_kl) = moved
    assert torch.equal(near, far) and abs(far_kl - near_kl) > 0.1


# --- stopping -------------------------------------------------------------------------------------


@LOOPS
def test_a_run_may_stop_between_any_two_steps(make, tmp_path):
    """Stopped after each step, saved and taken up by a new loop: the same numbers follow."""
    whole = make()
    expected = [{**record, "seconds": 0} for record in whole]
    found = []
    for stop in range(whole.config.max_steps):
        loop = make()
        if stop:
            loop.resume(tmp_path / "checkpoint")
        loop.beta = loop.beta  # what a control that is let go at the same place does
        found.append({**loop.step(), "seconds": 0})
        loop.save(tmp_path / "checkpoint")
    assert found == expected
    assert torch.equal(weights(loop.policy), weights(whole.policy))


def test_a_beta_turned_by_hand_survives_the_stop(tmp_path):
    loop = ppo()
    loop.beta = 0.007
    loop.save(tmp_path / "checkpoint")
    other = ppo()
    other.resume(tmp_path / "checkpoint")
    assert other.beta == 0.007


# --- a reward that becomes constant ---------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, True])
def test_a_constant_reward_is_said_and_gives_numbers(shared):
    loop = ppo(shared=shared, missing_eos_penalty=0.0)
    assert loop.step()["reward_std"] > 0
    loop.reward = constant
    with pytest.warns(RuntimeWarning, match=r"the reward is 1.5 for each of the 8 completions"):
        record = loop.step()
    assert record["reward_std"] == 0 and record["reward"] == 1.5
    assert torch.isfinite(weights(loop.policy)).all()
    assert all(math.isfinite(v) for k, v in record.items() if k != "explained_variance")


@pytest.mark.parametrize("lam", [0.95, 1.0])
def test_where_nothing_differs_nothing_moves(lam):
    """Every advantage the same: whitened they are 0, not a division by nothing."""
    loop = ppo(reward=constant, beta=0.0, lam=lam, missing_eos_penalty=0.0)
    with torch.no_grad():
        loop.critic.score.weight.zero_()
    before = weights(loop.policy)
    with pytest.warns(RuntimeWarning):
        record = loop.step()
    moved = (weights(loop.policy) - before).abs().max().item()
    assert math.isfinite(record["policy_loss"]) and math.isfinite(moved)
    if lam == 1:  # the rewards to come are the same from every token on
        assert abs(record["policy_loss"]) < 1e-3 and record["gradient_norm"] < 1e-2


def test_no_word_about_rewards_that_differ():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ppo().step()


def test_in_grpo_a_constant_reward_is_a_share_of_groups_that_teach_nothing():
    record = grpo(reward=constant, beta=0.0).step()
    assert record["zero_variance_groups"] == 1 and record["gradient_norm"] == 0


# --- NaN in a step --------------------------------------------------------------------------------


def poison(loop, name):
    with torch.no_grad():
        getattr(loop, name).transformer.wte.weight.fill_(math.nan)


def test_a_nan_is_refused_and_what_can_be_used_is_still_there(tmp_path):
    loop = ppo()
    loop.step()
    good = weights(loop.policy)
    reference = loop.reference.transformer.wte.weight.clone()
    poison(loop, "reference")
    with pytest.raises(FloatingPointError, match="the update was refused"):
        loop.step()
    assert torch.equal(weights(loop.policy), good) and loop.step_number == 1
    loop.save(tmp_path / "checkpoint")

    mended = ppo()
    mended.resume(tmp_path / "checkpoint")
    assert mended.step_number == 1 and mended.step()["step"] == 2
    with torch.no_grad():
        loop.reference.transformer.wte.weight.copy_(reference)
    assert loop.step()["step"] == 2  # the loop itself goes on, too


@LOOPS
def test_a_nan_in_the_critic_or_the_policy_is_no_checkpoint(make, tmp_path):
    """A checkpoint before it is as it was: one with NaN in it would replace the last good one."""
    loop = make()
    loop.step()
    loop.save(tmp_path / "checkpoint")
    state = (tmp_path / "checkpoint" / "state.pt").read_bytes()
    poison(loop, "policy")
    with pytest.raises((FloatingPointError, RuntimeError)):
        loop.step()
    with pytest.raises(FloatingPointError, match=r"policy has transformer\.wte\.weight with entr"):
        loop.save(tmp_path / "checkpoint")
    assert (tmp_path / "checkpoint" / "state.pt").read_bytes() == state
    fresh = make()
    fresh.resume(tmp_path / "checkpoint")
    assert fresh.step()["step"] == 2


def test_a_weight_that_is_infinite_is_no_checkpoint_either(tmp_path):
    model = policy()
    with torch.no_grad():
        model.transformer.ln_f.bias[0] = math.inf
    with pytest.raises(FloatingPointError, match=r"policy has transformer\.ln_f\.bias"):
        save_checkpoint(tmp_path / "c", {"policy": model}, {"step": 1})
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_and_whole_numbers_are_finite(tmp_path):
    save_checkpoint(tmp_path / "c", {"policy": policy(), "tokenizer": tokenizer()}, {"step": 1})
    assert (tmp_path / "c" / "state.pt").exists()


def test_on_the_command_line_the_run_stops_saved_and_goes_on(tmp_path, monkeypatch, capsys):
    """NaN in the third step: one line says what happened, and --resume takes the step again."""

    def broken(*arguments):
        steps.append(1)
        if len(steps) == 9:  # four updates of policy and critic in each step of this size
            raise FloatingPointError(
                "the gradient norm is nan at a loss of nan; the update was "
                "refused and the weights are those before it"
            )
        return optimizer_step(*arguments)

    steps: list[int] = []
    monkeypatch.setattr("rlhf_lib.machinery.machine.optimizer_step", broken)
    out = tmp_path / "run"
    flags = [
        "ppo",
        "--max-steps",
        3,
        "--batch-size",
        4,
        "--mini-batch-size",
        2,
        "--rows",
        8,
        "--num-ppo-epochs",
        1,
        "--eval-rows",
        2,
        "--max-new-tokens",
        4,
        "--device",
        "cpu",
        "--quiet",
    ]
    assert cli.main([*flags, "--out", out]) == 2
    said = capsys.readouterr().err
    assert "the update was refused" in said and "--resume" in said and said.count("\n") == 1
    assert [row["step"] for row in read_log(out / "log.jsonl")] == [1, 2]
    assert (out / "checkpoint" / "state.pt").exists()  # --save-every is 10: only the stop saved it
    monkeypatch.undo()
    assert cli.main(["ppo", "--resume", "--out", out, "--quiet"]) == 0
    assert [row["step"] for row in read_log(out / "log.jsonl")] == [1, 2, 3]


@pytest.mark.parametrize(
    "beta, says",
    [
        ("-1", "beta is -1.0; expected 0 or more, and finite"),
        ("nan", "beta is nan; expected a finite number"),
        ("much", "invalid float value: 'much'"),
    ],
)
def test_on_the_command_line_beta_is_checked(tmp_path, capsys, beta, says):
    assert cli.main(["ppo", f"--beta={beta}", "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert says in said and said.startswith("error: ") and not (tmp_path / "run").exists()


def test_the_records_of_a_constant_reward_go_to_a_log(tmp_path):
    """Its explained variance is not finite; the log stays JSON that any reader can read."""
    from rlhf_lib.running.log import RunLog

    loop = ppo(reward=constant, beta=0.0, lam=1.0, missing_eos_penalty=0.0)
    with torch.no_grad():
        loop.critic.score.weight.zero_()
    with pytest.warns(RuntimeWarning), RunLog(tmp_path / "log.jsonl") as log:
        log.write(loop.step())
    row = json.loads(Path(tmp_path / "log.jsonl").read_text())
    assert row["reward_std"] == 0


def test_check_beta_returns_a_float():
    assert check_beta(np.int64(2)) == 2.0 and type(check_beta(1)) is float
    assert dataclasses.replace(PPOConfig(), beta=1).beta == 1
