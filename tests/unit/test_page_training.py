"""The demos that train in the page, from the side of Python: what they store and hand over."""

from __future__ import annotations

import json
import math

import pytest

from rlhf_lib.seeing import engine
from rlhf_lib.seeing.widgets import LettersTraining, PromptLab, RewardFit, SumsTraining
from rlhf_lib.seeing.widgets.letters_training import MODELS
from rlhf_lib.worlds import letters

ASKED = "write to ben. ask for a refund: the lamp, friday. reply:"
PAIR = {"prompt": ASKED, "first": "hello ben", "second": "no."}
WRITTEN = {"base": ["no."], "sft": ["hello ben"], "aligned": ["dear ben"]}
EDITS = {"clean": ["hi ben, thanks"], "no closing": ["hi ben"]}


def test_what_is_stored_can_be_read_anywhere():
    for demo in (
        SumsTraining(["1+2="]),
        LettersTraining([ASKED], pairs=[PAIR]),
        PromptLab(ASKED, WRITTEN),
        RewardFit([PAIR], [ASKED], EDITS),
    ):
        state = {name: x for name, x in demo.get_state().items() if name != "layout"}
        json.dumps(state, allow_nan=False)
        assert len(state["_esm"]) < 150_000


def test_the_settings_are_those_of_the_engine():
    assert SumsTraining(["1+2="], rate=1e-3, samples=4).result["numGenerations"] == 4
    demo = LettersTraining([ASKED], beta=0.3)
    assert demo.result == {"batchSize": 32, "miniBatchSize": 16, "maxNewTokens": 32, "beta": 0.3}
    assert demo.shape == engine.shape("letters-sft") and demo.weights == MODELS
    assert demo.summary().endswith("beta 0.3, reward: annotators")


@pytest.mark.parametrize(
    "given, said",
    [
        ({"beta": -1}, "beta is -1.0; expected 0 or more"),
        ({"beta": math.nan}, "beta is nan; expected 0 or more"),
        ({"beta": math.inf}, "beta is inf; expected 0 or more"),
        ({"reward": "mine"}, "reward is mine; expected one of annotators, yours"),
        ({"total": 0}, "total is 0; expected 1 or more"),
        ({"every": -2}, "every is -2; expected 1 or more"),
        ({"prompts": ["hello"]}, "prompt is 'hello'; expected a request"),
        ({"pairs": [{**PAIR, "prompt": "hello"}]}, "prompt is 'hello'; expected a request"),
        ({"pairs": [{**PAIR, "second": "hello ben"}]}, "with two equal replies"),
        ({"pairs": [{**PAIR, "second": "so " * 40}]}, "pairs has some that cannot be compared"),
        ({"pairs": [{"prompt": ASKED}]}, "expected prompt, first and second"),
    ],
)
def test_what_cannot_be_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        LettersTraining(**{"prompts": [ASKED], **given})


@pytest.mark.parametrize(
    "given, said",
    [
        ({"rate": 1.0}, "rate is 1.0; expected one of 0.0001, 0.0003, 0.001"),
        ({"samples": 3}, "samples is 3; expected one of 2, 4, 8, 16"),
        ({"prompts": ["1+2"]}, "expected a prompt of the sums world"),
    ],
)
def test_what_is_no_run_on_sums_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        SumsTraining(**{"prompts": ["1+2="], **given})


def test_it_hands_over_its_own_models_and_nothing_else():
    demo, sent = LettersTraining([ASKED]), []
    demo.send = lambda content, buffers: sent.append((content["of"], len(buffers[0])))
    for name in ("letters-reward", "sums-base", "../../secret", None):
        demo._heard(None, {"kind": "weights", "name": name}, [])
    demo._heard(None, {"kind": "hello"}, [])
    assert sent == [("letters-reward", len(engine.packed("letters-reward")))]


def test_recorded_replies_have_their_gold_utility():
    demo = PromptLab(ASKED, {**WRITTEN, "sft": ["no.", "hello ben"]}, shown="aligned")
    assert demo.shown == "aligned" and demo.prompt == demo.asked == ASKED
    assert [one["gold"] for one in demo.result["sft"]] == [
        letters.utility(ASKED, text) for text in ("no.", "hello ben")
    ]


@pytest.mark.parametrize(
    "given, said",
    [
        ({"recorded": {"sft": ["a"]}}, "recorded has no replies of base, aligned; expected some"),
        ({"recorded": {**WRITTEN, "base": []}}, "recorded has no replies of base; expected some"),
        ({"shown": "SFT"}, "shown is SFT; expected one of base, sft, aligned"),
        ({"prompt": "hello"}, "prompt is 'hello'; expected a request"),
    ],
)
def test_what_is_no_lab_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        PromptLab(**{"prompt": ASKED, "recorded": WRITTEN, **given})


@pytest.mark.parametrize(
    "given, said",
    [
        ({"edits": {"no closing": ["hi"]}}, "edits has no closing; expected 'clean' too"),
        ({"edits": {}}, "edits has nothing; expected 'clean' too"),
        (
            {"asked": [ASKED] * 2},
            "edits\\['clean'\\] has 1 letters; expected 2, one for each prompt",
        ),
        ({"pairs": [{**PAIR, "second": "hello ben"}]}, "with two equal replies"),
    ],
)
def test_what_is_no_fit_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        RewardFit(**{"pairs": [PAIR], "asked": [ASKED], "edits": EDITS, **given})
