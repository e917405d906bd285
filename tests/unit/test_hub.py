"""Where the hub does not answer, that is known after one short question, and nobody asks again."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import datasets
import pytest
from huggingface_hub import constants
from transformers import AutoTokenizer

from rlhf_lib.families import hub, loading
from rlhf_lib.families.hub import hub_absence, without_hub
from rlhf_lib.families.loading import load_pretrained
from rlhf_lib.models.policy import load_policy
from rlhf_lib.worlds import files
from rlhf_lib.worlds.data import load_prompts
from tests.unit import families


@pytest.fixture
def online(monkeypatch, tmp_path):
    """As for a user who has not said that there is no network; with an empty cache."""
    for owner in (constants, datasets.config):
        monkeypatch.setattr(owner, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "SECONDS", 60.0)  # for an answer that comes


@contextmanager
def server(status: int):
    """A hub that gives every question the same answer; yields its address, and what was asked."""
    asked = []

    class Answers(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *arguments):
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    Thread(target=made.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{made.server_port}", asked
    finally:
        made.shutdown()
        made.server_close()


@pytest.fixture
def silent():
    """The address of a hub that takes what it is sent and says nothing."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def refused():
    """An address at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    return address


# ---------------------------------------------------------------------------------- the question


@pytest.mark.parametrize("status", [200, 404])
def test_a_hub_that_answers_is_there(online, monkeypatch, status):
    with server(status) as (address, asked):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        assert hub_absence() is None and len(asked) == 1


def test_a_hub_that_says_it_is_ill_is_not_there(online, monkeypatch):
    with server(503) as (address, asked):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        assert hub_absence() == f"the hub at {address} does not answer (it says 503)"
        assert len(asked) == 1  # huggingface_hub asks six times


def test_a_hub_that_refuses_or_says_nothing_is_not_there(online, monkeypatch, silent, refused):
    monkeypatch.setattr(constants, "ENDPOINT", silent)
    with monkeypatch.context() as patched:
        patched.setattr(hub, "SECONDS", 0.2)
        assert hub_absence() == f"the hub at {silent} does not answer (no answer in 0.2 seconds)"
    monkeypatch.setattr(constants, "ENDPOINT", refused)
    assert "refused" in hub_absence()
    monkeypatch.setattr(constants, "ENDPOINT", "nonsense")
    assert "the hub at nonsense does not answer (Request URL" in hub_absence()


def test_nobody_is_asked_where_the_hub_is_switched_off(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "_problem", lambda endpoint: pytest.fail("it was asked"))
    assert hub_absence() == "the hub is switched off by HF_HUB_OFFLINE"


def test_the_hub_is_as_it_was_afterwards(online):
    with pytest.raises(KeyError), without_hub():
        assert constants.HF_HUB_OFFLINE and datasets.config.HF_HUB_OFFLINE
        raise KeyError
    assert not (constants.HF_HUB_OFFLINE or datasets.config.HF_HUB_OFFLINE)


# ---------------------------------------------------------------------------------- who asks


@pytest.fixture
def counted(online, monkeypatch):
    """The address of a hub that answers with 503, and what it was asked."""
    with server(503) as (address, asked):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", address)
        yield asked


def test_a_model_of_the_hub_is_given_up_after_one_question(counted):
    told = r"source is 'nobody/nothing'.*does not answer \(it says 503\), so only what it left in"
    with pytest.raises(ValueError, match=f"(?s){told}"):
        load_policy("nobody/nothing")
    with pytest.raises(ValueError, match=f"(?s){told}"):
        load_pretrained(AutoTokenizer, "nobody/nothing")
    assert counted == ["/", "/"]


def test_data_of_the_hub_are_given_up_after_one_question(counted, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(ConnectionError, match=r"'nobody/nothing': there is no such file or folder"):
        load_prompts("nobody/nothing")
    assert counted == ["/"]


def test_what_the_cache_has_is_used_where_the_hub_is_gone(counted, tmp_path):
    """As `huggingface_hub` lays it out."""
    kept = tmp_path / "hub" / "models--somebody--small"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("0" * 40)
    folder = kept / "snapshots" / ("0" * 40)
    families.model("llama").save_pretrained(folder)
    families.PLAIN.save_pretrained(folder)
    policy, tokenizer = load_policy("somebody/small")
    assert policy.config.model_type == "llama" and len(tokenizer) == len(families.PLAIN)


def test_what_lies_here_is_read_without_a_question(online, tmp_path, monkeypatch):
    """`datasets` would count each reading of a local file at a host far away."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: pytest.fail(f"{a} was looked up"))
    for module in (loading, files):
        monkeypatch.setattr(module, "hub_absence", lambda: pytest.fail("the hub was asked"))
    families.model("llama").save_pretrained(tmp_path / "model")
    families.PLAIN.save_pretrained(tmp_path / "model")
    load_policy(tmp_path / "model")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "the cat"}\n')
    assert load_prompts(tmp_path / "prompts.jsonl")["prompt"][:] == ["the cat"]
