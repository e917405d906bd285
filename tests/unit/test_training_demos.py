"""The training replay and the live dashboard, without a browser.

The dashboard runs a small model in its thread, and everything is done to it that a reader can do:
controls at any moment, a page that is gone, bad values of β, NaN in a step, the interpreter's end.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rlhf_lib.running.log import read_log
from rlhf_lib.seeing.widgets import TrainingDashboard, TrainingReplay, training_dashboard
from rlhf_lib.seeing.widgets.training_replay import as_run
from tests.unit import loops
from tests.unit.loops import RAGGED_PROMPTS, all_weights, with_settings
from tests.unit.small import RAGGED, early_letters

ROOT = Path(__file__).resolve().parents[2]
ppo, grpo = (
    with_settings(
        make, reward=early_letters, dataset=RAGGED_PROMPTS, max_new_tokens=6, max_steps=6, seed=1
    )
    for make in (loops.ppo, loops.grpo)
)
LONG = 100_000  # steps that nobody waits for


LOOPS = pytest.mark.parametrize("make", [ppo, grpo])


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


def numbers(records):
    return [{k: v for k, v in record.items() if k not in ("seconds", "gold")} for record in records]


@pytest.fixture
def dashboard():
    """Make dashboards; whatever still runs at the end is stopped."""
    made = []

    def make(loop, *arguments, **options):
        made.append(TrainingDashboard(loop, *arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.stop()
        one._join(20)
        assert not one.running


def heard(demo, **message):
    """What the browser is answered."""
    answers = []
    demo.send = answers.append
    demo._heard(demo, message, [])
    return answers


# --- a run in a thread ----------------------------------------------------------------------------


@LOOPS
def test_the_thread_takes_the_same_steps(make, dashboard):
    expected = make()
    records = list(expected)
    loop = make()
    demo = dashboard(loop, RAGGED[:2], early_letters, every=2)
    assert demo.status == "ready" and demo.records == []
    demo.start()
    found = demo.wait()
    assert numbers(found) == numbers(records)
    assert torch.equal(all_weights(loop), all_weights(expected))
    assert demo.status == "done" and demo.live["steps"] == [1, 2, 3, 4, 5, 6]
    assert demo.live["at"] == [0, 2, 4, 6] and all(len(r) == 2 for r in demo.live["replies"])
    gold = early_letters(None, loop.rollout.completions)
    assert found[-1]["gold"] == pytest.approx(sum(gold) / len(gold))


def test_the_controls_answer_while_a_step_goes_on(dashboard):
    loop = ppo()
    inside, let_go, order = threading.Event(), threading.Event(), []
    step = loop.step

    def slow():
        inside.set()
        let_go.wait(20)  # only a control that waits for the step makes it as long as that
        order.append("the step goes on")
        return step()

    loop.step = slow
    demo = dashboard(loop)
    demo.start()
    assert inside.wait(20)
    demo.turn(0.5)
    demo.pause()
    demo.start()
    demo.stop()
    order.append("the controls have answered")
    let_go.set()
    demo.wait(20)
    assert order == ["the controls have answered", "the step goes on"]
    assert demo.status == "stopped" and [r["step"] for r in demo.records] == [1]
    assert demo.records[0]["beta"] == 0.1  # the step had begun: β counts from the next one on
    assert demo.beta == demo.loop.beta == 0.5


def test_beta_turned_while_it_runs_counts_from_the_next_step(dashboard):
    loop = ppo(max_steps=LONG)
    demo = dashboard(loop)
    demo.start()
    until(lambda: len(demo.records) >= 2)
    demo.turn(0)
    until(lambda: demo.records[-1]["beta"] == 0)
    demo.turn(0.7)
    until(lambda: demo.records[-1]["beta"] == 0.7)
    demo.stop()
    betas = [record["beta"] for record in demo.wait(20)]
    assert sorted(set(betas), key=betas.index) == [0.1, 0, 0.7] and demo.beta == 0.7


def test_an_adaptive_beta_goes_on_from_where_it_was_turned(dashboard):
    demo = dashboard(ppo(target_kl=1e-6, kl_horizon=16))
    demo.turn(2.0)
    demo.start()
    demo.wait(20)
    betas = [record["beta"] for record in demo.records]
    assert betas[0] == 2.0 and betas[1] != betas[0] and demo.beta == demo.loop.beta != 2.0


@pytest.mark.parametrize("beta", [-1, -0.001, math.nan, math.inf, "much", None, [1]], ids=str)
def test_a_bad_beta_is_refused_and_the_run_goes_on(dashboard, beta):
    demo = dashboard(ppo(max_steps=LONG))
    demo.start()
    until(lambda: demo.records)
    with pytest.raises(ValueError, match="beta is .*; expected 0 or more, and finite"):
        demo.turn(beta)
    seen = len(demo.records)
    until(lambda: len(demo.records) > seen + 1)
    assert demo.status == "running" and demo.beta == 0.1 and demo.records[-1]["beta"] == 0.1


@pytest.mark.parametrize("typed, beta", [("0.02", 0.02), ("0", 0.0), (" 1e-3 ", 0.001), (0.5, 0.5)])
def test_what_is_typed_in_the_page_is_read(dashboard, typed, beta):
    demo = dashboard(ppo())
    assert heard(demo, kind="beta", value=typed) == [{"kind": "done", "of": "beta"}]
    assert demo.beta == beta and demo.loop.beta == beta


@pytest.mark.parametrize(
    "message, says",
    [
        (dict(kind="beta", value="-1"), "beta is -1.0; expected 0 or more, and finite"),
        (dict(kind="beta", value="much"), "beta is 'much'; expected 0 or more, and finite"),
        (dict(kind="beta", value="nan"), "beta is nan; expected 0 or more"),
        (dict(kind="beta"), "beta is None; expected 0 or more"),
        (dict(kind="explode"), "kind is 'explode'; expected hello, start, pause, stop, beta"),
        ({}, "kind is None; expected hello"),
    ],
)
def test_a_bad_message_is_answered(dashboard, message, says):
    demo = dashboard(ppo())
    (answer,) = heard(demo, **message)
    assert answer["kind"] == "failed" and says in answer["text"]
    assert demo.beta == demo.loop.beta == 0.1 and not demo.running


# --- stop, pause, save, resume --------------------------------------------------------------------


def test_paused_it_holds_still_and_goes_on(dashboard):
    demo = dashboard(ppo(max_steps=LONG))
    demo.start()
    until(lambda: demo.records)
    demo.pause()
    until(lambda: demo.status == "paused")
    held = len(demo.records)
    time.sleep(0.1)
    assert len(demo.records) == held and demo.running
    demo.start()
    until(lambda: len(demo.records) > held + 1)
    assert demo.status == "running"
    demo.pause()
    until(lambda: demo.status == "paused")
    demo.stop()  # also out of a pause
    demo.wait(20)
    assert demo.status == "stopped" and not demo.running


@LOOPS
@pytest.mark.parametrize("moment", [0.0, 0.01, 0.03, 0.06, 0.1])
def test_stopped_at_any_moment_it_leaves_a_whole_state(make, dashboard, tmp_path, moment):
    """What was saved goes on to the weights of a run that was never stopped."""
    demo = dashboard(make(), folder=tmp_path / "run")
    demo.start()
    time.sleep(moment)
    demo.stop()
    demo.wait(20)
    assert demo.status in ("stopped", "done") and "saved in run" in demo.message
    other = make()
    other.resume(tmp_path / "run")
    assert other.step_number == len(demo.records)
    whole = make()
    records = list(whole)
    assert numbers([*demo.records, *other]) == numbers(records)
    assert torch.equal(all_weights(other), all_weights(whole))


def test_started_again_after_a_stop_it_goes_on(dashboard):
    demo = dashboard(ppo())
    demo.start()
    demo.stop()
    demo.start()  # perhaps while the last step still runs
    demo.wait(20)
    assert numbers(demo.records) == numbers(list(ppo())) and demo.status == "done"
    with pytest.raises(ValueError, match="the run is at step 6 of 6; expected steps to be left"):
        demo.start()


def test_saved_while_it_runs_a_checkpoint_is_whole(dashboard, tmp_path):
    demo = dashboard(ppo(max_steps=LONG))
    demo.start()
    for name in ("one", "two"):
        demo.save(tmp_path / name)
        saved_at = len(demo.records)
        until(lambda earlier=saved_at: len(demo.records) > earlier)
    demo.stop()
    demo.wait(20)
    other = ppo(max_steps=LONG)
    other.resume(tmp_path / "two")
    step = other.step_number
    assert numbers([other.step()]) == numbers([demo.records[step]])


def test_a_folder_that_cannot_be_written_is_named_before_training(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="expected one to write to"):
        TrainingDashboard(ppo(), folder=tmp_path / "file" / "run")


def test_a_save_that_fails_is_shown_and_raised(dashboard, tmp_path):
    demo = dashboard(ppo(max_steps=1), folder=tmp_path / "run")
    demo.loop.save = lambda folder: (_ for _ in ()).throw(OSError("No space left on device"))
    demo.start()
    with pytest.raises(OSError, match="No space left"):
        demo.wait(20)
    assert demo.status == "failed" and "could not be saved: No space left" in demo.message


# --- a page that is gone --------------------------------------------------------------------------


class DeadComm:
    """What a kernel may have in hand when the browser tab is gone."""

    comm_id, kernel, sent = "gone", object(), 0

    def send(self, *arguments, **named):
        type(self).sent += 1
        raise RuntimeError("Socket closed")

    def close(self, *arguments, **named):
        pass

    def on_msg(self, callback):
        pass


def test_a_closed_tab_changes_nothing(dashboard):
    demo = dashboard(ppo(), RAGGED[:2], every=2)
    demo.comm = DeadComm()
    demo.start()
    demo.wait(20)
    assert DeadComm.sent > 3
    assert numbers(demo.records) == numbers(list(ppo())) and demo.status == "done"
    state = demo.get_state()  # what a page asks for when the demo is displayed again
    assert state["live"]["steps"] == [1, 2, 3, 4, 5, 6] and state["status"] == "done"


def test_a_closed_widget_trains_on(dashboard):
    demo = dashboard(ppo())
    demo.start()
    demo.close()
    demo.wait(20)
    assert len(demo.records) == 6


# --- in a real kernel -----------------------------------------------------------------------------


MAKE = """
from tests.unit.test_training_demos import LONG, RAGGED, TrainingDashboard, ppo, until
demo = TrainingDashboard(ppo(max_steps=LONG), RAGGED[:1], every=50)
print(demo.model_id)
"""


def said(client, code: str) -> str:
    """Run a line in the kernel and return what it printed."""
    output = []
    reply = client.execute_interactive(
        code, timeout=120, output_hook=lambda m: output.append(m["content"].get("text", ""))
    )
    assert reply["content"]["status"] == "ok", reply["content"]
    return "".join(output).strip()


def page_hears(client, wanted, seconds: float = 30.0):
    """The first message of the demo to its page that is wanted."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        message = client.get_iopub_msg(timeout=seconds)
        data = message["content"].get("data", {})
        if message["msg_type"] == "comm_msg" and wanted(data):
            return data
    raise AssertionError("the page did not hear of it")


def test_a_page_is_not_told_more_often_than_it_can_draw(dashboard, monkeypatch):
    """Four times a second, by a clock on which a step takes a 64th."""
    loop = counting(2_000)
    clock = SimpleNamespace(monotonic=lambda: loop.step_number / 64)
    monkeypatch.setattr(training_dashboard, "time", clock)
    demo = dashboard(loop)
    told = []
    demo.observe(lambda change: told.append(len(change["new"]["steps"])), "live")
    demo.start()
    demo.wait(60)
    assert told[-1] == 2_000  # all of it at the end
    assert {later - earlier for earlier, later in zip(told[:-2], told[1:-1])} == {17}


def test_in_a_kernel_controls_answer_and_a_closed_tab_does_not_matter():
    from jupyter_client.manager import start_new_kernel

    manager, page = start_new_kernel(
        kernel_name="python3",
        startup_timeout=120,
        cwd=str(ROOT),
        extra_arguments=["--IPKernelApp.log_level=40"],
    )
    try:
        comm = said(page, MAKE)

        def press(**content):
            page.shell_channel.send(
                page.session.msg(
                    "comm_msg", {"comm_id": comm, "data": {"method": "custom", "content": content}}
                )
            )

        press(kind="start")
        page_hears(page, lambda d: d.get("state", {}).get("live", {}).get("steps"), 60)
        press(kind="beta", value="0.02")
        answer = page_hears(page, lambda d: d.get("content", {}).get("of") == "beta")
        assert answer["content"] == {"kind": "done", "of": "beta"}
        page_hears(
            page,
            lambda d: (
                0.02 in (d.get("state", {}).get("live", {}).get("curves", {}).get("beta") or [])
            ),
        )
        press(kind="beta", value="-3")
        answer = page_hears(page, lambda d: d.get("content", {}).get("kind") == "failed")
        assert "beta is -3.0; expected 0 or more" in answer["content"]["text"]

        page.stop_channels()  # the tab is closed
        page = manager.client()
        page.start_channels()
        page.wait_for_ready(timeout=60)
        said(page, "until(lambda n=len(demo.records): len(demo.records) > n)")
        assert said(page, "print(demo.status, demo.beta)") == "running 0.02"  # and not at its end
        press(kind="stop")
        assert said(page, "demo.wait(30); print(demo.status)") == "stopped"
    finally:
        page.stop_channels()
        manager.shutdown_kernel(now=True)


# --- what goes wrong in the thread ----------------------------------------------------------------


def test_nan_in_a_step_is_refused_shown_and_raised_and_the_state_is_saved(dashboard, tmp_path):
    loop = ppo()
    demo = dashboard(loop, folder=tmp_path / "run")
    step = loop.step

    def poisoned():
        if loop.step_number == 2:
            with torch.no_grad():
                loop.reference.transformer.wte.weight.fill_(math.nan)
        return step()

    loop.step = poisoned
    demo.start()
    with pytest.raises(FloatingPointError, match="the update was refused"):
        demo.wait(20)
    with pytest.raises(FloatingPointError):
        _ = demo.result
    assert demo.status == "failed" and len(demo.records) == 2
    assert demo.message.startswith("Step 3 was refused. The run has stopped after step 2. Floating")
    assert "saved in run" in demo.message
    other = ppo()
    other.resume(tmp_path / "run")
    assert other.step_number == 2 and other.step()["step"] == 3


def test_weights_that_are_not_numbers_are_not_saved(dashboard, tmp_path):
    loop = ppo()
    demo = dashboard(loop, folder=tmp_path / "run")
    with torch.no_grad():
        loop.policy.transformer.wte.weight.fill_(math.nan)
    demo.start()
    with pytest.raises((FloatingPointError, RuntimeError)):
        demo.wait(20)
    assert "could not be saved: policy has" in demo.message and not (tmp_path / "run").exists()


def test_a_reward_that_raises_stops_the_run_and_it_can_go_on(dashboard):
    loop = ppo()
    demo = dashboard(loop)
    calls = []

    def fails_once(prompts, completions, **columns):
        calls.append(1)
        if len(calls) == 2:
            raise KeyError("lamp")
        return early_letters(prompts, completions)

    loop.reward = fails_once
    demo.start()
    with pytest.raises(RuntimeError, match="raised KeyError"):
        demo.wait(20)
    assert demo.status == "failed" and "RuntimeError" in demo.message
    demo.start()
    assert len(demo.wait(20)) == 6 and demo.status == "done" and demo.message == ""


@pytest.mark.filterwarnings("ignore:the reward is 2")
def test_a_reward_that_becomes_constant_is_shown(dashboard):
    loop = ppo(missing_eos_penalty=0.0)
    loop.reward = lambda prompts, completions, **columns: [2.0] * len(completions)
    demo = dashboard(loop)
    demo.start()
    demo.wait(20)
    assert demo.status == "done" and "every reply was given the same reward" in demo.message
    json.dumps(demo.get_state()["live"], allow_nan=False)


# --- the interpreter ends -------------------------------------------------------------------------


@pytest.mark.parametrize("then", ["", "demo.pause(); time.sleep(.3)", "demo.stop()"])
def test_no_deadlock_and_no_crash_at_exit(then):
    code = f"""
import time
from tests.unit.test_training_demos import TrainingDashboard, ppo, LONG
demo = TrainingDashboard(ppo(max_steps=LONG))
demo.start()
while not demo.records: time.sleep(.01)
{then}
print("end", flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr


def test_threads_of_pytorch_are_those_of_the_caller(dashboard):
    before, seen = torch.get_num_threads(), []
    loop = ppo(max_steps=1)
    step = loop.step
    loop.step = lambda: seen.append(torch.get_num_threads()) or step()
    try:
        torch.set_num_threads(1)
        demo = dashboard(loop)
        demo.start()
        demo.wait(20)
    finally:
        torch.set_num_threads(before)
    assert seen == [1]


# --- settings and state ---------------------------------------------------------------------------


def test_every_is_checked():
    with pytest.raises(ValueError, match="every is 0; expected at least 1 step"):
        TrainingDashboard(ppo(), every=0)


def counting(steps=3):
    """A loop that only counts: the least that a dashboard asks for."""
    loop = SimpleNamespace(step_number=0, beta=0.1, config=SimpleNamespace(max_steps=steps))

    def step():
        loop.step_number += 1
        return {"step": loop.step_number, "kl": math.nan}

    loop.step = step
    return loop


def test_any_loop_with_a_step_and_a_beta_will_do(dashboard):
    demo = dashboard(counting())
    demo.start()
    assert len(demo.wait(20)) == 3
    assert demo.live["curves"] == {"kl": [None] * 3}  # JSON has no NaN
    assert repr(demo) == (
        "TrainingDashboard(SimpleNamespace, done at step 3 of 3, 0 recorded runs)"
    )


RECORDED = dict(
    name="fixed",
    note="by a program",
    records=[dict(step=s, reward=s / 3, kl=math.nan, other=1) for s in (1, 2, 3)],
    measured=[
        dict(step=0, gold=1.0, replies=[("a", 1.0), ("b", None)]),
        dict(step=2, gold=2.0, replies=[("c", 3.0), ("", -1.0)]),
        dict(step=3),
    ],
)


def test_the_replay_shows_what_was_recorded():
    demo = TrainingReplay(["p", "q"], [RECORDED], step=2)
    assert demo.result.record == {"reward": 0.667}
    assert demo.result.completions_of == 2
    assert demo.result.completions == [("p", "c", 3.0), ("q", "", -1.0)]
    demo.step = 1
    assert demo.result.completions == [("p", "a", 1.0), ("q", "b", None)]
    demo.step = 99
    assert demo.result.completions_of == 2 and demo.result.record == {"reward": 1.0}
    demo.step = 0
    assert demo.result.record == {} and demo.result.completions_of == 0
    assert repr(demo) == "TrainingReplay(1 runs of 2 prompts; fixed, step 0)"


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(records=[dict(reward=1.0)]), r"records\[0\] of run 'fixed' has step=None"),
        (
            dict(records=[dict(step=2), dict(step=2)]),
            r"records\[1\] of run 'fixed' has step=2; exp",
        ),
        (dict(measured=[dict(step=1.5)]), r"measured\[0\] of run 'fixed' has step=1.5"),
        (
            dict(measured=[dict(step=0, replies=[("a", 1.0)])]),
            "has 1 replies; expected 2, one for each",
        ),
    ],
)
def test_a_run_of_another_form_is_named(change, says):
    for make in (
        lambda runs: TrainingReplay(["p", "q"], runs),
        lambda runs: TrainingDashboard(counting(), ["p", "q"], recorded=runs),
    ):
        with pytest.raises(ValueError, match=says):
            make([{**RECORDED, **change}])


def test_a_replay_without_runs_or_beyond_them_is_refused():
    with pytest.raises(ValueError, match="runs is empty; expected at least one"):
        TrainingReplay(["p"], [])
    demo = TrainingReplay(["p", "q"], [RECORDED])
    for name, value in (("run", 1), ("run", -1), ("step", -1)):
        with pytest.raises(ValueError, match=f"{name} is {value}; expected 0"):
            setattr(demo, name, value)


def test_the_recorded_runs_make_a_small_state():
    rows = read_log(ROOT / "benchmarks" / "results" / "ppo_replay.jsonl")
    rows = [row for row in rows if row["seed"] == 0]
    demo = TrainingReplay(rows[0]["prompts"], [dict(name=row["run"], **row) for row in rows])
    state = {k: v for k, v in demo.get_state().items() if k != "layout"}
    assert (
        len(json.dumps({k: v for k, v in state.items() if k[0] != "_"}, allow_nan=False)) < 60_000
    )
    assert as_run("x", rows[0]["records"], [], [])["steps"][-1] == 60
