"""The worlds of the engine, sums and letters, and the weights that pages fetch."""

from __future__ import annotations

import base64
import random
import zlib
from collections import Counter

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from rlhf_lib.models.rewards import LearnedReward
from rlhf_lib.running import artifacts
from rlhf_lib.seeing import engine
from rlhf_lib.worlds import letters, sums
from tests.unit.engine import ARTIFACTS, WORLDS, ask, described, flat, unpacked


def test_sums_are_verified_as_in_python():
    prompts = ["67+45="] * 7 + ["0+0=", "9999+9999="]
    written = ["112", "<7+5=12,6+4+1=11>112", "111,112", "112>", ">112", "", "<112", "0", "19998"]
    found = ask("verify", prompts=prompts, completions=written)
    assert found["right"] == sums.strict_verifier(prompts, written)
    assert found["written"] == written
    tokenizer = sums.tokenizer()
    texts = ["".join(sums.vocabulary()[3:]), "x7"]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert ids[0] == [*range(3, 18)] and ids[1] == [2, 10]
    assert ask("verify", prompts=["1+1="], completions=["x7"])["written"] == ["7"]


@pytest.mark.parametrize("held_out", [False, True])
def test_sums_are_drawn_from_the_same_halves(held_out):
    found = ask("prompts", n=3_000, seed=5, heldOut=held_out, digits=[2, 4])
    pairs = [sums.parse(prompt) for prompt in found]
    assert all(sums.held_out(a, b) == held_out for a, b in pairs)
    digits = [len(str(x)) for pair in pairs for x in pair]
    assert [abs(digits.count(n) / len(digits) - 1 / 3) < 0.04 for n in (2, 3, 4)] == [True] * 3


@pytest.fixture(scope="module")
def lists():
    return engine.letters_lists()


def test_letters_have_the_tokens_of_the_library(lists):
    tokenizer = letters.tokenizer()
    draws = random.Random(0)
    marks = "aé7_ .,!?:;'\"-$+<=>^`|~€«»ß\t\n…"
    texts = list(letters.corpus(200, seed=1)["completion"]) + [
        "".join(draws.choice(marks) for _ in range(12)) for _ in range(200)
    ]
    rows = [[draws.randrange(len(tokenizer)) for _ in range(9)] for _ in range(200)]
    found = ask("tokens", lists=lists, texts=texts, rows=rows)
    assert found["ids"] == tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert found["texts"] == tokenizer.batch_decode(rows, skip_special_tokens=True)
    for ids, unknown in zip(found["ids"], found["unknown"]):
        assert ids.count(tokenizer.unk_token_id) == len(unknown)


def test_replies_have_the_utility_of_the_library(lists):
    """On replies of all styles, with every fault, some to another request than their own."""
    draws, prompts, replies = random.Random(1), [], []
    for i in range(600):
        request = letters.draw_request(draws, held_out=i % 2 == 0)
        style = letters.STYLES[i % len(letters.STYLES)]
        reply = letters.write(request, style, draws, slips=0.5, gush_rate=0.7)
        other = letters.draw_request(draws) if i % 5 == 0 else request
        prompts.append(other.prompt)
        replies.append(reply if i % 7 else " ".join([reply] * 3))
    replies[:3] = ["", "ok", "no no no no no no no no"]
    for prompt, reply, (features, utility) in zip(
        prompts, replies, ask("utility", lists=lists, prompts=prompts, completions=replies)
    ):
        expected = letters.features(prompt, reply)
        assert features == {name: expected[name] for name in letters.WEIGHTS}, reply
        assert utility == pytest.approx(letters.utility(prompt, reply)), reply


@pytest.mark.parametrize("held_out", [False, True])
def test_requests_are_drawn_from_the_same_triples(lists, held_out):
    found = [
        letters.parse(x) for x in ask("requests", lists=lists, n=4_000, seed=5, heldOut=held_out)
    ]
    assert all(request.held_out == held_out for request in found)
    assert all(r.phrase in letters.INTENTS[r.intent].phrases for r in found)
    for name, of in (("intent", letters.INTENTS), ("day", letters.DAYS), ("name", letters.NAMES)):
        counts = Counter(getattr(request, name) for request in found)
        assert set(counts) == set(of)
        assert max(counts.values()) < 1.5 * min(counts.values()), name


@pytest.mark.parametrize("wrong", ["hello", "write to zoe. say no: the lunch, monday. reply:"])
def test_a_prompt_of_another_world_is_named(lists, wrong):
    assert ask("parse", lists=lists, prompt=wrong).startswith(f'prompt is "{wrong}"; expected')
    right = "write to ben. ask for a refund: the lamp, friday. reply:"
    found = ask("parse", lists=lists, prompt=right)
    assert (found["name"], found["intent"], found["day"]) == ("ben", "refund", "friday")


# ------------------------------------------------------------------------------------ weights


def fetched(name: str) -> str:
    """What stands in a model's script."""
    script = engine.weights_script(name)
    return script.partition(f'["{name}"] = "')[2].removesuffix('";\n')


@pytest.mark.parametrize("name, world", [("sums-base", "sums"), ("letters-sft", "letters")])
def test_a_page_has_the_weights_in_half_precision(name, world):
    folder = ARTIFACTS / WORLDS[world]
    model = GPT2LMHeadModel.from_pretrained(folder)
    exact = torch.from_numpy(np.frombuffer(engine.flat_weights(folder), "<f4").copy())
    assert torch.equal(exact, flat(model))
    assert engine.shape(name) == described(model)["shape"]
    found = unpacked(ask("unpacked", base=fetched(name)))
    assert torch.equal(found, exact.half().float())
    assert (found == 0).sum() == (exact.half() == 0).sum() and found.abs().min() < 6.1e-5


def test_a_reward_model_is_a_difference_from_its_policy():
    """The scores stay, to a hundredth of their deviation, and both together are 3 MB."""
    judge, tokenizer = artifacts.load("letters", "reward")
    scores = LearnedReward(judge, tokenizer)
    prompts = list(letters.prompts(200, seed=8)["prompt"])
    replies = list(letters.demonstrations(200, seed=3)["completion"])
    exact = torch.tensor(scores(prompts, replies))
    names = ("letters-sft", "letters-reward")
    base, difference = map(fetched, names)
    assert sum(len(engine.weights_script(name)) for name in names) < 3e6
    found = unpacked(ask("unpacked", base=base, difference=difference, width=128))
    parts = found.split([p.numel() for p in judge.parameters()])
    with torch.no_grad():
        for p, part in zip(judge.parameters(), parts, strict=True):
            p.copy_(part.view_as(p))
    assert (torch.tensor(scores(prompts, replies)) - exact).abs().max() < 0.02 * exact.std()


@pytest.mark.parametrize("name", ["base", "aligned"])
def test_other_policies_are_differences_too(name):
    """What they say stays, and each is a megabyte beside the first."""
    model, tokenizer = artifacts.load("letters", name)
    found = ask(
        "unpacked",
        base=fetched("letters-sft"),
        difference=fetched(f"letters-{name}"),
        width=model.config.n_embd,
    )
    assert len(engine.weights_script(f"letters-{name}")) < 1.1e6
    read = letters.demonstrations(60, seed=5)
    texts = [f"{p} {r}" for p, r in zip(read["prompt"], read["completion"])]
    ids = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    with torch.no_grad():
        exact = model(**ids).logits.log_softmax(-1)
        for p, part in zip(
            model.transformer.parameters(),
            unpacked(found).split([p.numel() for p in model.transformer.parameters()]),
            strict=True,
        ):
            p.copy_(part.view_as(p))
        close = model(**ids).logits.log_softmax(-1)
    kl = (exact.exp() * (exact - close)).sum(-1)[ids["attention_mask"].bool()]
    assert 0 < kl.mean() < 1e-3 and kl.max() < 0.05, (kl.mean(), kl.max())


@pytest.mark.parametrize("cut", [0, 4, 1000])
def test_damaged_weights_are_named(cut):
    base = base64.b64decode(fetched("letters-sft"))
    difference = base64.b64encode(zlib.compress(b"\0" * cut)).decode()
    said = ask("unpacked", base=base64.b64encode(base[:cut]).decode())["said"]
    assert said == "the weights are damaged: they cannot be unpacked"
    whole = base64.b64encode(base).decode()
    said = ask("unpacked", base=whole, difference=difference, width=128)["said"]
    assert said == f"the weights are damaged: {cut} bytes; expected 858910, or with a head more"
    odd = base64.b64encode(zlib.compress(b"123")).decode()
    assert ask("unpacked", base=odd)["said"] == "the weights are damaged: 3 bytes"
