"""Whether the hub is there, asked once and briefly, before anything is loaded from it by name.

`huggingface_hub` asks for each file six times with growing pauses. Where a name does not resolve or
a connection is refused, a model is given up after 46 seconds; where a network swallows what it is
sent, after ten minutes. One question that may take five seconds comes first. Where it has no
answer, the copies that the hub's cache holds are used, and nothing else is tried.
Chapter: real-model.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

SECONDS = 5.0  # how long an answer may take


def hub_absence() -> str | None:
    """Why the hub cannot be used, in words; None where it answers. Takes `SECONDS` at most.

    `HF_HUB_OFFLINE` and `HF_ENDPOINT` count as they do in `huggingface_hub`, and so do proxies.
    Chapter: real-model.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "the hub is switched off by HF_HUB_OFFLINE"
    said: list[str | None] = []
    asking = Thread(target=lambda: said.append(_problem(constants.ENDPOINT)), daemon=True)
    asking.start()
    asking.join(SECONDS)  # names and connections have waits of their own, one after the other
    problem = said[0] if said else f"no answer in {SECONDS:g} seconds"
    return problem and f"the hub at {constants.ENDPOINT} does not answer ({problem})"


def _problem(endpoint: str) -> str | None:
    from huggingface_hub.utils import get_session

    try:
        status = get_session().head(endpoint, timeout=2 * SECONDS).status_code
    except Exception as error:  # of sockets, names, certificates and proxies; all mean the same
        return str(error) or type(error).__name__
    return None if status < 500 else f"it says {status}"


@contextmanager
def without_hub() -> Iterator[None]:
    """Let nobody be asked: for files that lie here, and where the hub does not answer.

    What the hub's cache holds is found all the same. Chapter: real-model.
    """
    from huggingface_hub import constants

    owners: list[Any] = [constants]
    if "datasets" in sys.modules:  # it has a setting of its own
        owners.append(sys.modules["datasets"].config)
    before = [owner.HF_HUB_OFFLINE for owner in owners]
    try:
        for owner in owners:
            owner.HF_HUB_OFFLINE = True
        yield
    finally:
        for owner, value in zip(owners, before):
            owner.HF_HUB_OFFLINE = value
