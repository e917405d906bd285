"""The training dashboard: start, pause and stop a run, and turn β while it goes on.

Training runs in a thread of its own, so that the kernel stays free to answer the controls. A page
that is closed changes nothing: the run goes on, and the demo shows it again when it is displayed
again. Where there is no kernel, the demo shows recorded runs instead (`TrainingReplay`'s view).
The browser side is training_dashboard.js, after training_view.js.

Chapter: ppo-live.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import traitlets

from .base import Demo, browser_code, styles
from .training_replay import as_run

if TYPE_CHECKING:  # the other demos need no PyTorch, so it is loaded by what uses it
    from ...models.rewards import RewardFunction

log = logging.getLogger(__name__)

_RUNNING: weakref.WeakSet[TrainingDashboard] = weakref.WeakSet()
_AT_EXIT = 60.0  # seconds that the interpreter waits for a step to end
_BETWEEN = 0.25  # seconds between two drawings: a page cannot follow a loop that is much faster


class TrainingDashboard(Demo):
    """A run and its controls; the same methods as the buttons have.

    β is turned between two steps: `turn(.02)` counts from the next step on. The loop is at the
    end of a step whenever it is not stepping, so that what `save` writes can always be resumed.

    Parameters
    ----------
    loop : PPO, GRPO
        Anything with `step()`, `save(folder)`, `beta`, `step_number` and `config.max_steps`; with
        `policy` and `tokenizer` too, if there are prompts.
    prompts : sequence of str
        Held-out prompts, answered every few steps by a copy of the policy's samples.
    gold : callable, optional
        A reward function for what was wanted; measured, never trained on.
    recorded : sequence of dict
        Runs to show where there is no kernel; as for `TrainingReplay`, of the same prompts.
    every : int
        Steps between two answers to the prompts.
    folder : path, optional
        Where to save when the run stops, ends or fails.

    Raises
    ------
    ValueError
        If `every` is below 1, or a recorded run is not of the form above.
    OSError
        If nothing can be written in the folder.

    Chapter
    -------
    ppo-live

    Examples
    --------
    On a loop that only counts, as any other would be driven:

    >>> from types import SimpleNamespace
    >>> loop = SimpleNamespace(step_number=0, beta=.1, config=SimpleNamespace(max_steps=3))
    >>> def step():
    ...     loop.step_number += 1
    ...     return {"step": loop.step_number, "beta": loop.beta}
    >>> loop.step = step
    >>> dashboard = TrainingDashboard(loop)
    >>> dashboard.turn(.02)
    >>> dashboard.start()
    >>> [record["beta"] for record in dashboard.wait()]
    [0.02, 0.02, 0.02]
    """

    _esm = browser_code("training_view", "price", "training_dashboard")
    _css = styles("training_view")

    prompts = traitlets.List(traitlets.Unicode()).tag(sync=True)
    recorded = traitlets.List(traitlets.Dict()).tag(sync=True)
    live = traitlets.Dict().tag(sync=True)  # this run, in the form of the recorded ones
    total = traitlets.Int(0).tag(sync=True)  # steps of the whole run
    status = traitlets.Unicode("ready").tag(sync=True)  # running, paused, stopped, done, failed
    message = traitlets.Unicode().tag(sync=True)
    beta = traitlets.Float(0.0).tag(sync=True)  # of the next step

    def __init__(
        self,
        loop,
        prompts: Sequence[str] = (),
        gold: RewardFunction | None = None,
        *,
        recorded: Sequence[dict] = (),
        every: int = 5,
        folder: str | os.PathLike | None = None,
    ) -> None:
        if every < 1:
            raise ValueError(f"every is {every}; expected at least 1 step")
        if folder is not None:
            from ...machinery.checkpoints import check_writable

            folder = Path(folder)
            check_writable(folder.parent)
        prompts = list(prompts)
        self.loop, self.gold, self.every, self.folder = loop, gold, every, folder
        self.records: list[dict] = []
        self.measured: list[dict] = []
        self.error: Exception | None = None
        self._turned: float | None = None  # β of the next step, if it was turned
        self._thread: threading.Thread | None = None
        self._stop, self._go, self._free = (threading.Event() for _ in range(3))
        self._free.set()
        self._drawn_at = -math.inf
        self._stepping = threading.Lock()
        self._lock = threading.RLock()
        super().__init__(
            prompts=prompts,
            total=loop.config.max_steps,
            beta=loop.beta,
            live=as_run("this run", [], [], prompts),
            recorded=[
                as_run(r["name"], r["records"], r["measured"], prompts, r.get("note", ""))
                for r in recorded
            ],
        )
        self.on_msg(self._heard)

    # ------------------------------------------------------------------ the controls

    @property
    def running(self) -> bool:
        """Whether the thread is alive: it steps, or it is paused."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Train; also on, after a pause or a stop.

        Raises
        ------
        ValueError
            If the run is at its end.
        """
        if self.running and not self._stop.is_set():
            self._go.set()
            return
        import torch

        self._join()  # asked to stop, and still in its last step
        if self.loop.step_number >= self.total:
            raise ValueError(
                f"the run is at step {self.loop.step_number} of {self.total}; "
                "expected steps to be left (max_steps of its settings)"
            )
        self.error = None
        self._stop.clear()
        self._go.set()
        self._thread = threading.Thread(
            target=self._train, args=(torch.get_num_threads(),), name="training", daemon=True
        )
        _RUNNING.add(self)
        self._show(status="running", message="")
        self._thread.start()

    def pause(self) -> None:
        """Hold after the step that is going on."""
        self._go.clear()

    def stop(self) -> None:
        """End after the step that is going on, and save if there is a folder. Returns at once."""
        self._stop.set()
        self._go.set()

    def turn(self, beta: float) -> None:
        """Set β, from the next step on.

        Raises
        ------
        ValueError
            If it is negative or no number. The run goes on with the β it has.
        """
        from ...algorithms.loop import check_beta

        beta = check_beta(beta)
        with self._lock:
            self._turned = beta
        if not self.running:
            self._take_beta()
        self._show(beta=beta)

    def save(self, folder: str | os.PathLike) -> None:
        """Write a checkpoint that `loop.resume` continues from; waits for a step to end."""
        self._free.clear()  # a lock alone would let the thread take the next step first
        try:
            with self._stepping:
                self.loop.save(folder)
        finally:
            self._free.set()

    def wait(self, timeout: float | None = None) -> list[dict]:
        """Wait until the thread ends, or for `timeout` seconds; return the records so far.

        While it waits, the kernel answers no controls.

        Raises
        ------
        Exception
            What a step raised, if one did.
        """
        self._join(timeout)
        return self.result

    @property
    def result(self) -> list[dict]:
        """The records so far; raises what a step raised."""
        if self.error is not None:
            raise self.error
        return list(self.records)

    # ------------------------------------------------------------------ the thread

    def _train(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)  # of this thread; the setting is not inherited everywhere
        try:
            if not self.measured:
                self._answer()
            while not self._stop.is_set() and self.loop.step_number < self.total:
                if not self._go.is_set():
                    self._draw()
                    self._show(status="paused")
                    self._go.wait()
                    if not self._stop.is_set():
                        self._show(status="running")
                    continue
                self._free.wait()
                with self._stepping:
                    self._step()
            self._end("done" if self.loop.step_number >= self.total else "stopped")
        except Exception as error:  # kept for whoever waits; a thread's own would only be printed
            self.error, done = error, self.loop.step_number
            refused = f"Step {done + 1} was refused. " * isinstance(error, FloatingPointError)
            self._end(
                "failed",
                f"{refused}The run has stopped after step {done}. {type(error).__name__}: {error}.",
            )

    def _take_beta(self) -> None:
        with self._lock:
            if self._turned is not None:
                self.loop.beta, self._turned = self._turned, None

    def _step(self) -> None:
        from ...models.rewards import call_reward

        self._take_beta()
        record = dict(self.loop.step())
        rollout = getattr(self.loop, "rollout", None)
        if self.gold is not None and rollout is not None:
            record["gold"] = (
                call_reward(self.gold, rollout.prompts, rollout.completions).mean().item()
            )
        self.records.append(record)
        if self.loop.step_number % self.every == 0 or self.loop.step_number == self.total:
            self._answer()
        silent = record.get("reward_std") == 0 or record.get("zero_variance_groups") == 1
        self._show(
            message=f"At step {record['step']} every reply was given the same reward: there "
            "was nothing to prefer, so the reward taught nothing."
            if silent
            else ""
        )
        if time.monotonic() - self._drawn_at > _BETWEEN:
            self._draw()

    def _answer(self) -> None:
        """Answer the held-out prompts with the policy as it is."""
        if not self.prompts:
            return
        import torch

        from ...models.rewards import call_reward
        from ...models.rollout import sample

        loop, config = self.loop, self.loop.config
        generator = torch.Generator(loop.policy.device).manual_seed(config.seed)
        completions = sample(
            loop.policy,
            loop.tokenizer,
            self.prompts,
            config.max_new_tokens,
            config.temperature,
            generator,
        ).completions
        golds = (
            call_reward(self.gold, self.prompts, completions).tolist()
            if self.gold
            else [None] * len(completions)
        )
        self.measured.append({"step": loop.step_number, "replies": list(zip(completions, golds))})

    def _end(self, status: str, message: str = "") -> None:
        message = message or self.message
        self._take_beta()  # turned in the last step: it counts when the run goes on
        if self.folder is not None:
            try:
                self.loop.save(self.folder)
                message = f"{message} Its state is saved in {self.folder.name}.".strip()
            except Exception as error:
                message = f"{message} It could not be saved: {error}".strip()
                self.error = self.error or error
                status = "failed"
        self._draw()
        self._show(status=status, message=message)

    def _draw(self) -> None:
        self._drawn_at = time.monotonic()
        self._show(live=as_run("this run", self.records, self.measured, self.prompts))
        if self._turned is None:
            self._show(beta=self.loop.beta)

    def _join(self, timeout: float | None = None) -> None:
        if self._thread is not None:
            self._thread.join(timeout)

    # ------------------------------------------------------------------ the page

    def _show(self, **state) -> None:
        with self._lock:
            for name, value in state.items():
                setattr(self, name, value)

    def send_state(self, *args, **kwargs) -> None:
        """Tell the page, if there is one: the state is kept here, and a page may ask again."""
        try:
            super().send_state(*args, **kwargs)
        except Exception as error:  # whatever a dead connection raises must not end the run
            log.warning("the page could not be told: %s: %s", type(error).__name__, error)

    def _heard(self, _, message: dict, buffers) -> None:
        """Answer the browser: `hello`, `start`, `pause`, `stop` or `beta`."""
        acts = {
            "hello": lambda: None,
            "start": self.start,
            "pause": self.pause,
            "stop": self.stop,
            "beta": lambda: self.turn(_number(message.get("value"))),
        }
        kind = message.get("kind") if isinstance(message, dict) else None
        try:
            if kind not in acts:
                raise ValueError(f"kind is {kind!r}; expected {', '.join(acts)}")
            acts[kind]()
            self.send({"kind": "done", "of": kind})
        except ValueError as error:
            self.send({"kind": "failed", "of": kind, "text": str(error)})

    def summary(self) -> str:
        """The state in a few words."""
        return (
            f"{type(self.loop).__name__}, {self.status} at step {self.loop.step_number} of "
            f"{self.total}, {len(self.recorded)} recorded runs"
        )


def _number(value):
    """What was typed, as a number if it is one: the check of β says what is wrong with the rest."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


@atexit.register
def _stop_all() -> None:
    """A thread that is inside PyTorch when the interpreter is torn down can crash it."""
    for dashboard in list(_RUNNING):
        dashboard.stop()
    for dashboard in list(_RUNNING):
        dashboard._join(_AT_EXIT)
