"""Functions of the user's own: what they are called with, and what is awaited for them."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import sys
import threading
from functools import partial

import numpy as np
import pytest
import torch

from rlhf_lib.machinery.calling import LoopThread, as_list, call, outcomes, results
from tests.unit.small import in_a_running_loop


async def doubled(x):
    await asyncio.sleep(0)
    return 2 * x


async def failing(x):
    await asyncio.sleep(0)
    raise KeyError(x)


class Doubles:
    async def __call__(self, x):
        return 2 * x

    async def method(self, x):
        return 2 * x


class Promise:
    """To be awaited, and no coroutine."""

    def __await__(self):
        yield
        return 4


# --- arguments ------------------------------------------------------------------------------------


def test_a_function_may_change_what_it_gets():
    def spoil(rows, deep):
        rows.sort()
        deep[0]["answers"].append("another")
        deep.pop()
        return rows, deep

    rows, deep = ["b", "a"], [{"answers": ["one"]}, {"answers": []}]
    assert call(spoil, rows=rows, deep=deep) == (["a", "b"], [{"answers": ["one", "another"]}])
    assert (rows, deep) == (["b", "a"], [{"answers": ["one"]}, {"answers": []}])


def test_what_is_no_list_and_no_dict_is_handed_on_as_it_is():
    class Rows(list):
        pass

    state, rows = object(), Rows([1])
    found = call(lambda **given: given, state=state, many=[state], rows=rows)
    assert found["state"] is state and found["many"][0] is state and found["rows"] is rows


@pytest.mark.parametrize(
    "function, expected",
    [
        (lambda a: {"a": a}, {"a": 1}),
        (lambda a, b: {"a": a, "b": b}, {"a": 1, "b": 2}),
        (lambda a, *, b=0: {"a": a, "b": b}, {"a": 1, "b": 2}),
        (lambda a, **others: {"a": a, **others}, {"a": 1, "b": 2, "c": 3}),
        (partial(lambda a, k: {"a": a, "k": k}, k=5), {"a": 1, "k": 5}),
        (partial(lambda a, b, k: {"a": a, "b": b}, k=5), {"a": 1, "b": 2}),
    ],
)
def test_optional_keywords_go_to_those_that_take_them(function, expected):
    assert call(function, ["b", "c"], a=1, b=2, c=3) == expected


def test_a_keyword_that_is_not_optional_is_never_left_out():
    with pytest.raises(TypeError, match="unexpected keyword argument 'price'"):
        call(lambda a: a, ["b"], a=1, b=2, price=3)


def test_keywords_may_have_any_name():
    assert call(lambda **given: given, function=1, optional=2) == {"function": 1, "optional": 2}


# --- lists ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values, expected",
    [
        ([1.0, None, True], [1.0, None, True]),
        ((1, 2), [1, 2]),
        ((x for x in (1.0, None)), [1.0, None]),
        (np.array([1.5, 2.0]), [1.5, 2.0]),
        (torch.tensor([1.5, 2.0], dtype=torch.float16, requires_grad=True), [1.5, 2.0]),
        (
            [np.float32(0.5), torch.tensor(2.0, requires_grad=True), np.bool_(True)],
            [0.5, 2.0, True],
        ),
        (np.array([None, 1.0]), [None, 1.0]),
        (np.array([[1.0], [2.0]]), [[1.0], [2.0]]),
        (torch.tensor(1.0), None),
        (1.0, None),
        (None, None),
        ("12", None),
        (b"12", None),
        ({0: 1.0}, None),
        ({1.0, 2.0}, None),
    ],
    ids=lambda value: repr(value).split(" at 0x")[0],  # the same in every process
)
def test_a_list_is_what_has_an_order(values, expected):
    found = as_list(values)
    assert found == expected
    assert [type(x) for x in found or []] == [type(x) for x in expected or []]


# --- awaiting -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        doubled,
        Doubles(),
        Doubles().method,
        partial(doubled),
        partial(Doubles()),
        lambda x: doubled(x),
        lambda x: Promise(),
        lambda x: 2 * x,
    ],
)
def test_whatever_is_awaitable_is_awaited(function):
    assert outcomes([partial(function, 2)]) == results([partial(function, 2)]) == [4]


def test_a_list_is_awaited_row_by_row():
    assert outcomes([lambda: [doubled(1), 5, Promise()], lambda: (doubled(2),), lambda: [7]]) == [
        [2, 5, 4],
        [4],
        [7],
    ]


def test_what_an_awaited_list_holds_is_awaited_too():
    async def several():
        return [doubled(1), doubled(2)]

    assert outcomes([several]) == [[2, 4]]


def test_all_wait_together():
    """Each waits for the other: one after the other they would wait for ever."""
    loops = []

    async def meet(mine, others):
        loops.append(asyncio.get_running_loop())
        mine.set()
        await asyncio.wait_for(others.wait(), timeout=20)
        return "met"

    one, other = asyncio.Event(), asyncio.Event()
    calls = [partial(meet, one, other), lambda: [meet(other, one)]]
    assert outcomes(calls) == ["met", ["met"]]
    assert loops[0] is loops[1]


def test_an_exception_is_the_outcome_of_its_call_alone():
    found = outcomes(
        [
            partial(failing, "a"),
            lambda: 1 / 0,
            partial(doubled, 2),
            lambda: [doubled(1), failing("b")],
        ]
    )
    assert [type(x) for x in found] == [KeyError, ZeroDivisionError, int, KeyError]
    assert found[0].args == ("a",) and found[3].args == ("b",)
    with pytest.raises(ZeroDivisionError):
        results([partial(doubled, 2), lambda: 1 / 0, partial(failing, "a")])


@pytest.mark.parametrize("inside_a_list", [False, True])
def test_an_interrupt_is_raised_and_the_loop_goes_on(inside_a_list):
    async def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        outcomes([(lambda: [stop()]) if inside_a_list else stop, partial(doubled, 1)])
    assert LoopThread.kept.is_alive() and outcomes([partial(doubled, 2)]) == [4]
    with pytest.raises(KeyboardInterrupt):
        outcomes([partial(raising, KeyboardInterrupt)])


def raising(kind, *of):
    raise kind(*of)


class Odd(BaseException):
    pass


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit, Odd])
def test_what_would_end_python_is_an_error_of_its_call_alone(kind):
    async def later():
        raise kind("why")

    plainly = partial(raising, kind, "why")
    found = outcomes([plainly, later, lambda: [later()], partial(doubled, 2)])
    assert found.pop() == 4 and LoopThread.kept.is_alive()
    for error in found:
        assert type(error) is RuntimeError and str(error) == f"{kind.__name__}: why"
        assert type(error.__cause__) is kind
    with pytest.raises(RuntimeError, match=kind.__name__):
        results([plainly])
    with pytest.raises(RuntimeError, match=kind.__name__):
        as_list(raising(kind) if x else x for x in range(2))


def test_a_generator_is_interrupted_as_anything_else_is():
    for kind in (KeyboardInterrupt, KeyError):
        with pytest.raises(kind):
            as_list(raising(kind) for _ in range(1))


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs POSIX signals")
def test_who_interrupts_the_wait_ends_what_is_awaited():
    ended = threading.Event()

    async def endless():
        main = threading.main_thread().ident
        while sys._current_frames()[main].f_code.co_name != "wait":
            await asyncio.sleep(0.001)
        signal.pthread_kill(main, signal.SIGINT)
        try:
            await asyncio.sleep(600)
        finally:
            ended.set()

    with pytest.raises(KeyboardInterrupt):
        outcomes([endless])
    assert ended.wait(timeout=20) and outcomes([partial(doubled, 2)]) == [4]


def test_what_was_cancelled_is_an_error():
    async def cancelled():
        raise asyncio.CancelledError

    (error,) = outcomes([cancelled])
    assert isinstance(error, RuntimeError) and "cancelled" in str(error)


def test_the_loop_is_kept_so_that_a_lock_of_one_call_works_in_the_next():
    lock = asyncio.Lock()

    async def hold():
        async with lock:  # contended: it then remembers the loop that it was used in
            await asyncio.sleep(0)
            return asyncio.get_running_loop()

    first, second = (outcomes([hold, hold]) for _ in range(2))
    assert len({*first, *second}) == 1


def test_it_works_where_a_loop_runs_already():
    """As in Jupyter."""

    async def cell():
        return outcomes([partial(doubled, 2)])

    assert in_a_running_loop(cell) == [4]


def test_it_works_from_the_inside_of_what_is_awaited(monkeypatch):
    """And leaves no thread behind but the one that is kept."""
    monkeypatch.setattr(LoopThread, "kept", None)  # another one, should this one wait for ever
    before, found = set(threading.enumerate()), []

    async def outer(depth):
        return outcomes([partial(outer, depth - 1) if depth else partial(doubled, 2)])

    caller = threading.Thread(
        target=lambda: found.extend(outcomes([partial(outer, 2)])), daemon=True
    )
    caller.start()
    caller.join(timeout=30)
    assert found == [[[[4]]]]
    new = [x for x in threading.enumerate() if isinstance(x, LoopThread) and x not in before]
    for thread in new:
        thread.join(timeout=30 if thread is not LoopThread.kept else 0)
    assert [thread for thread in new if thread.is_alive()] == [LoopThread.kept]


def test_it_works_after_a_fork():
    assert outcomes([partial(doubled, 2)]) == [4]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=lambda: queue.put(outcomes([partial(doubled, 3)])))
    child.start()
    assert queue.get(timeout=20) == [6]
    child.join()


def test_without_anything_to_await_no_thread_starts(monkeypatch):
    monkeypatch.setattr(LoopThread, "kept", None)
    assert outcomes([lambda: 1, lambda: [2], lambda: 1 / 0])[:2] == [1, [2]]
    assert LoopThread.kept is None
