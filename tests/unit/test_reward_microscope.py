"""The reward microscope in Python: its scores, what it refuses, what it saves for the browser.

How it behaves in a page is tested in tests/site.
"""

from __future__ import annotations

import json

import pytest

from rlhf_lib.seeing.widgets import RewardMicroscope
from rlhf_lib.seeing.widgets.reward_microscope import letters_edits
from rlhf_lib.seeing.word_scores import word_scores
from rlhf_lib.worlds import letters

PROMPT = "write to ben. ask for a refund: the lamp, friday. reply:"
REPLY = (
    "hello ben, i would like a refund for the lamp bought on friday because it arrived "
    "broken. kind regards"
)
SHORT = "maybe someone will look at it. perhaps another time."
WORTH = {"hello": 1.0, "ben": -0.5, "thanks": 0.25}


def additive(prompts, completions):
    return [sum(WORTH.get(word, 0.125) for word in letters.words(c)) for c in completions]


def small(reward=additive, gold=None) -> RewardMicroscope:
    return RewardMicroscope(reward, [(PROMPT, REPLY), (PROMPT, SHORT)], gold=gold)


def test_edits_do_what_their_names_say():
    edits = letters_edits(PROMPT, REPLY)
    assert len(edits) == 11 and REPLY not in edits.values()
    before = letters.features(PROMPT, REPLY)
    changed = {
        name: {
            key: value - before[key]
            for key, value in letters.features(PROMPT, text).items()
            if value != before[key]
        }
        for name, text in edits.items()
    }
    assert changed["no greeting"]["greets"] == -1 and changed["no closing"]["courtesy"] == -1
    assert changed["without the day"] == {"day": -1, "words": -1}
    assert changed["another day"] == {"day": -1, "wrong_slot": 1}
    assert changed["another item"] == {"item": -1, "wrong_slot": 1}
    assert changed["another name"] == {"greets": -1, "wrong_slot": 1}
    assert (changed["one gushing word"]["gush"], changed["three gushing words"]["gush"]) == (1, 3)
    assert changed["a rude sentence"]["rude"] == changed["small talk"]["off_topic"] == 1
    assert changed["the end twice"]["words"] == 2
    assert "another day" not in letters_edits(PROMPT, SHORT)
    assert all(edits.values()) and all(letters_edits(PROMPT, "ok.").values())


def test_result_is_what_was_scored():
    demo = small(gold=letters.gold_reward)
    demo.edit = "another day"
    text = letters_edits(PROMPT, REPLY)["another day"]
    shown, scores = demo.result, word_scores(additive, PROMPT, text)
    assert shown.completion == text and shown.scores == scores and shown.change == 0.0
    assert shown.gold == letters.utility(PROMPT, text)
    assert shown.gold_change == shown.gold - letters.utility(PROMPT, REPLY) == -5.0
    demo.case = 1  # which has no such edit
    assert (demo.result.completion, demo.result.change) == (SHORT, 0.0)


def test_without_gold_there_is_none():
    assert (small().result.gold, small().result.gold_change) == (None, None)


def test_edits_can_be_given():
    demo = RewardMicroscope(additive, [("p", "hello")], [{"politer": "hello thanks"}])
    demo.edit = "politer"
    assert (demo.result.scores.score, demo.result.change) == (1.25, 0.25)


@pytest.mark.parametrize(
    "replies, edits, message",
    [
        ([], letters_edits, "completions is empty"),
        ([(PROMPT, "")], [{}], "the completion is empty"),
        ([("p", "a")], [{"none": ""}], "the completion is empty"),
        ([("p", "a")], [], "edits has 0 entries; expected 1"),
        ([("p", "a")], letters_edits, "prompt"),
    ],
)
def test_constructor_refuses(replies, edits, message):
    with pytest.raises(ValueError, match=message):
        RewardMicroscope(additive, replies, edits)


@pytest.mark.parametrize("trait, value", [("case", 2), ("case", -1), ("edit", "nonsense")])
def test_a_bad_choice_is_refused_and_the_old_one_stays(trait, value):
    demo = small()
    before = getattr(demo, trait)
    with pytest.raises(ValueError, match=f"{trait} is"):
        setattr(demo, trait, value)
    assert getattr(demo, trait) == before


class Words:
    """A reward with a tokenizer that knows the words of `WORTH` alone."""

    class tokenizer:
        unk_token_id = 0

        def __new__(cls, word, add_special_tokens):
            return {"input_ids": [int(word in WORTH)]}

    def __call__(self, prompts, completions):
        return additive(prompts, completions)


def test_a_reply_of_your_own():
    demo = small(Words(), gold=letters.gold_reward)
    demo.try_completion("hello ben, wrzl thanks")
    assert demo.edit == "your own" and demo.result.scores.score == 1.0
    assert demo.result.change == 1.0 - additive([PROMPT], [REPLY])[0]
    assert demo.typed["unknown"] == [",", "wrzl"]
    with pytest.raises(ValueError, match="the completion is empty"):
        demo.try_completion(" ")
    assert demo.result.completion == "hello ben, wrzl thanks"
    demo.case = 1  # the reply was to the other prompt
    assert demo.result.completion == SHORT


def test_messages_are_answered():
    demo, sent = small(), []
    demo.send = lambda content, buffers=None: sent.append(content)
    demo._heard(demo, {"kind": "hello"}, [])
    demo._heard(demo, {"kind": "score", "id": 3, "case": 1, "reply": "thanks"}, [])
    assert demo.typed["score"] == 0.25 and demo.typed["case"] == 1
    assert demo.edit == "as written"  # the browser decides whether it still wants the answer
    demo._heard(demo, {"kind": "score", "id": 4, "case": 0, "reply": ""}, [])
    demo._heard(demo, {"kind": "score", "id": 5, "case": 9, "reply": "a"}, [])
    assert [(m["kind"], m["id"]) for m in sent] == [
        ("done", 0),
        ("done", 3),
        ("failed", 4),
        ("failed", 5),
    ]
    assert "empty" in sent[2]["text"] and demo.typed["score"] == 0.25


def test_saved_state_is_small_and_plain_json():
    demo = RewardMicroscope(
        lambda prompts, completions: [len(c) / 7 for c in completions],
        [(PROMPT, REPLY)] * 4,
        gold=letters.gold_reward,
    )
    state = {key: value for key, value in demo.get_state().items() if key != "layout"}
    data = {key: value for key, value in state.items() if not key.startswith("_")}
    assert len(json.dumps(data, allow_nan=False)) < 40_000
    assert "function slider" in state["_esm"] and "export default" in state["_esm"]


def test_repr_is_stable():
    assert repr(small(gold=letters.gold_reward)) == (
        "RewardMicroscope(2 replies, 15 edits; as written: score 2.875, gold 6.25)"
    )
