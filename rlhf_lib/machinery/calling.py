"""Functions of the user's own, called: with copies, and awaited where they have to be.

A function that asks something over a network is often `async def`. Such functions run in an event
loop on a thread of its own. It starts with the first of them and is kept, so that a client or a
lock that one step has made still works in the next; TRL does the same. It does not mind a loop
that runs already, as one does in Jupyter. Chapter: reward-sources.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any


def call(function: Callable, optional: Iterable[str] = (), /, **given):
    """Call a function with lists and dicts of its own, which it may change.

    Of the keywords in `optional` it gets those that it names, or all if it takes any keyword.
    Chapter: reward-sources.

    Examples
    --------
    >>> call(lambda a: a.pop(), ["b"], a=[1, 2], b=[3])
    2
    """
    if set(optional) & set(given):
        try:
            taken = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):  # of what is not written in Python
            taken = ()
        if not any(x.kind is x.VAR_KEYWORD for x in taken):
            names = {x.name for x in taken}
            given = {k: v for k, v in given.items() if k in names or k not in optional}
    return function(**_own(given))


def _own(value):
    if type(value) is dict:
        return {key: _own(x) for key, x in value.items()}
    return [_own(x) for x in value] if type(value) is list else value


def as_list(values) -> list | None:
    """Values as a list, tensors and arrays as what Python makes of them; None if it is no list.

    Chapter: reward-sources.

    Examples
    --------
    >>> import torch
    >>> as_list(torch.tensor([1., 2.])), as_list(x for x in [torch.tensor(True)]), as_list("12")
    ([1.0, 2.0], [True], None)
    """
    values = _plain(values)
    if not isinstance(values, Iterable) or isinstance(values, (str, bytes, Mapping, Set)):
        return None
    try:
        return list(map(_plain, values))
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:  # of a generator, which runs only now
        raise _failure(error) from error


def _plain(value):
    return value.tolist() if hasattr(value, "tolist") else value


def outcomes(calls: Iterable[Callable[[], Any]]) -> list[Any]:
    """What each call returns, or the exception that it raises.

    A call may return something to await, or a list of such things: all are awaited at once, after
    the last call, and count as what they come to. An interrupt is raised. What else is no
    `Exception`, such as the SystemExit of `sys.exit`, becomes a RuntimeError that names it: a
    function of the user's own does not end the run it was called from. Chapter: reward-sources.

    Examples
    --------
    >>> async def doubled(x): return 2 * x
    >>> outcomes([lambda: 1, lambda: doubled(2), lambda: [doubled(3), doubled(4)], lambda: 1 / 0])
    [1, 4, [6, 8], ZeroDivisionError('division by zero')]
    """
    found = []
    for each in calls:
        try:
            found.append(each())
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            found.append(_failure(error))
    if any(map(_waits, found)):
        found = _run(_settle_all(found))
    for value in found:
        if isinstance(value, KeyboardInterrupt):
            raise value
    return found


def _failure(error: BaseException) -> BaseException:
    """An exception as an outcome: an interrupt or an `Exception` as it is, else a RuntimeError."""
    if isinstance(error, (Exception, KeyboardInterrupt)):
        return error
    failure = RuntimeError(f"{type(error).__name__}: {error}".removesuffix(": "))
    failure.__cause__ = error
    return failure


def results(calls: Iterable[Callable[[], Any]]) -> list[Any]:
    """The same, but for the first exception, which is raised. Chapter: reward-sources."""
    found = outcomes(calls)
    for value in found:
        if isinstance(value, Exception):
            raise value
    return found


class LoopThread(threading.Thread):
    """A daemon thread that runs an event loop. Chapter: reward-sources."""

    kept: LoopThread | None = None

    def __init__(self):
        super().__init__(name="rlhf_lib-calling", daemon=True)
        self.loop = asyncio.new_event_loop()
        self.start()

    def run(self):
        self.loop.run_forever()
        self.loop.close()


def _run(coroutine) -> list:
    if LoopThread.kept is None or not LoopThread.kept.is_alive():  # as after a fork
        LoopThread.kept = LoopThread()
    inside = isinstance(threading.current_thread(), LoopThread)  # its own loop cannot wait for it
    thread = LoopThread() if inside else LoopThread.kept
    future = asyncio.run_coroutine_threadsafe(coroutine, thread.loop)
    try:
        return future.result()
    finally:
        future.cancel()  # of an interrupt; what is done stays done
        if inside:
            thread.loop.call_soon_threadsafe(thread.loop.stop)


def _waits(value) -> bool:
    several = isinstance(value, (list, tuple))
    return any(map(inspect.isawaitable, value)) if several else inspect.isawaitable(value)


async def _settle_all(values: Iterable) -> list:
    return await asyncio.gather(*map(_settle, values))


async def _settle(value):
    """What a value comes to. No exception leaves: an interrupt would end the thread of the loop."""
    try:
        value = await value if inspect.isawaitable(value) else value
        if not _waits(value):
            return value
        found = await _settle_all(value)
        return next((x for x in found if isinstance(x, BaseException)), found)
    except asyncio.CancelledError:
        return RuntimeError("it was cancelled")
    except BaseException as error:
        return _failure(error)
