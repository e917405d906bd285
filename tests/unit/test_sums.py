"""The sums world: the working of a sum, what a verifier pays, and the model that is shipped."""

import random
from collections import Counter

import pytest
import torch

from rlhf_lib.models.rollout import sample
from rlhf_lib.running import artifacts
from rlhf_lib.worlds import sums

PROMPT = "4821+377="
WORKED = "<1+7=8,2+7=9,8+3=11,4+0+1=5>5198"


def test_working_by_hand():
    assert sums.working(4821, 377) == WORKED
    assert sums.working(0, 0) == "<0+0=0>0"
    assert sums.working(9, 9) == "<9+9=18>18"  # the last carry is written by its column
    assert sums.working(5, 995) == "<5+5=10,0+9+1=10,0+9+1=10>1000"
    assert sums.working(100, 23) == "<0+3=3,0+2=2,1+0=1>123"


def test_working_by_python():
    """The units of the steps, read backwards, are the answer; the last step may have two digits."""
    rng = random.Random(0)
    for _ in range(500):
        a, b = sums.draw(rng)
        columns = sums.columns(a, b)
        totals = [step.rpartition("=")[2] for step in columns]
        assert int(totals[-1] + "".join(total[-1] for total in totals[-2::-1])) == a + b
        assert all(
            eval(left) == int(total)
            for left, _, total in (step.rpartition("=") for step in columns)
        )
        assert len(columns) == max(len(str(a)), len(str(b)))


def test_the_longest_completion_fits():
    longest = sums.working(9999, 9999)
    assert len(longest) + 1 == sums.MAX_NEW_TOKENS
    rng = random.Random(0)
    assert all(len(sums.guesses(9999, 9999, rng)) < sums.MAX_NEW_TOKENS for _ in range(200))


@pytest.mark.parametrize(
    "completion, strict, lenient",
    [
        ("5198", 1, 1),
        (WORKED, 1, 1),
        ("<wrong>5198", 1, 1),  # the working is not looked at
        (">>5198", 1, 1),
        ("5199", 0, 0),
        ("5197,5198,5199", 0, 1),  # guessing
        ("15198", 0, 1),  # the digits are in there
        (WORKED + ">", 0, 1),
        (WORKED + ">5199", 0, 1),
        (WORKED[:-4], 0, 0),
        ("05198", 0, 1),
        (" 5198", 0, 1),
        ("5198\n", 0, 1),
        ("+5198", 0, 1),
        ("5_198", 0, 0),
        ("٥١٩٨", 0, 0),  # int() would read it
        ("", 0, 0),
        (">", 0, 0),
        ("<", 0, 0),
        ("\x00💥", 0, 0),
        ("9" * 10_000, 0, 0),
    ],
)
def test_verifiers_by_hand(completion, strict, lenient):
    assert sums.strict_verifier(prompts=[PROMPT], completions=[completion]) == [strict]
    assert sums.lenient_verifier(prompts=[PROMPT], completions=[completion]) == [lenient]
    assert sums.features(PROMPT, completion)["right"] == strict
    assert all(isinstance(step, bool) for step in sums.steps(PROMPT, completion))


@pytest.mark.parametrize(
    "completion, right",
    [
        (WORKED, [True] * 4),
        (WORKED.replace("4+0+1=5", "4+0=4"), [True, True, True, False]),  # a forgotten carry
        (
            WORKED.replace("8+3=11", "3+8=11"),
            [True, True, False, True],
        ),  # not as it is written down
        (WORKED.replace(",4+0+1=5", ""), [True] * 3),
        (WORKED.replace("1+7=8,2+7=9", "2+7=9,1+7=8"), [False, False, True, True]),  # out of place
        (WORKED.replace(">", ",0+0=0>"), [True] * 4 + [False]),
        ("<1+7=8,2+7", [True, False]),  # cut off
        ("<", [False]),
        ("5198", []),
        ("5197,5198", []),
        ("", []),
    ],
)
def test_each_step_is_checked(completion, right):
    assert sums.steps(PROMPT, completion) == right
    found = sums.features(PROMPT, completion)
    assert (found["steps"], found["steps_right"]) == (len(right), sum(right))
    assert found["columns"] == 4 and found["length"] == len(completion)
    assert found["working"] == completion.startswith("<")


@pytest.mark.parametrize(
    "completion, faults, closed, answer, right",
    [
        ("112", [], True, "112", True),
        ("102", [], True, "102", False),
        ("", [], True, "", False),
        (" 112", [], True, " 112", False),
        ("<7+5=12,6+4+1=11>112", ["", ""], True, "112", True),
        ("<7+5=12,6+4=10>102", ["", "carry forgotten"], True, "102", False),
        ("<7+5+1=13,6+4+1=11>112", ["no carry here", ""], True, "112", True),
        ("<7+5=13,6+4+1=11>112", ["added wrongly", ""], True, "112", True),
        ("<7+4=11,6+4+1=11>112", ["other digits", ""], True, "112", True),
        ("<7+5=12>112", [""], True, "112", True),  # one step is missing
        ("<6+4=10,7+5=12>112", ["other digits", "other digits"], True, "112", True),
        ("<7+5=12,6+4+1=11,0+0+1=1>112", ["", "", "no such column"], True, "112", True),
        ("<>112", ["not a step"], True, "112", True),
        ("<7+5=12,>112", ["", "not a step"], True, "112", True),
        ("<7+5,6+4+2=11>112", ["not a step", "not a step"], True, "112", True),
        ("7+5=12>112", [""], True, "112", True),  # never opened: read as `sums.split` reads it
        ("<7+5=12,6+4+1=11", ["", ""], False, "<7+5=12,6+4+1=11", False),
        (
            "<7+5=12,7+5=12,7+5",
            ["", "other digits", "no such column"],
            False,
            "<7+5=12,7+5=12,7+5",
            False,
        ),
        ("<", ["not a step"], False, "<", False),
        (">", ["not a step"], True, "", False),
        ("<,>", ["not a step", "not a step"], True, "", False),
        ("<<7+5=12>112", ["not a step"], True, "112", True),
        ("<７+5=12>112", ["not a step"], True, "112", True),
        ("<7+5=12\n>112", ["not a step"], True, "112", True),
        (
            "<7+5=12>6+4+1=11>112",
            ["not a step"],
            True,
            "112",
            True,
        ),  # what follows the last ">" counts
        ("<7+5=12,6+4+1=11>", ["", ""], True, "", False),
    ],
)
def test_a_completion_is_read_as_a_marker_would(completion, faults, closed, answer, right):
    reading = sums.read("67+45=", completion)
    assert (reading.expected, reading.faults) == (["7+5=12", "6+4+1=11"], faults)
    assert (reading.closed, reading.answer, reading.right) == (closed, answer, right)
    working = completion.rpartition(">")[0] if ">" in completion else completion
    assert reading.steps == (working.removeprefix("<").split(",") if faults else [])
    assert sums.strict_verifier(["67+45="], [completion]) == [right]


def test_no_data_but_the_held_out_prompts_shows_a_held_out_sum():
    kept = sums.prompts(3_000, seed=3, held_out=True)["prompt"]
    assert all(sums.held_out(*sums.parse(prompt)) for prompt in kept)
    for data in (sums.prompts(5_000, seed=3), sums.demonstrations(5_000, seed=3)):
        assert not set(kept) & set(data["prompt"])
        assert not any(sums.held_out(*sums.parse(prompt)) for prompt in data["prompt"])
    # of every size, and with every pair of last digits
    assert {tuple(map(len, p[:-1].split("+"))) for p in kept} == {
        (i, j) for i in (2, 3, 4) for j in (2, 3, 4)
    }
    assert len({(a % 10, b % 10) for a, b in map(sums.parse, kept)}) == 100


def test_data_are_a_function_of_the_seed():
    assert sums.prompts(50, seed=1).to_dict() == sums.prompts(50, seed=1).to_dict()
    assert sums.prompts(50, seed=1).to_dict() != sums.prompts(50, seed=2).to_dict()
    assert sums.demonstrations(50, seed=1).to_dict() == sums.demonstrations(50, seed=1).to_dict()
    assert sums.demonstrations(50, seed=1).to_dict() != sums.demonstrations(50, seed=2).to_dict()
    assert sums.demonstrations(9).column_names == ["prompt", "completion", "habit"]


def test_numbers_have_the_digits_that_were_asked_for():
    for digits in ((1, 1), (2, 3), (4, 4)):
        sizes = {
            len(number)
            for prompt in sums.prompts(200, seed=0, digits=digits)["prompt"]
            for number in prompt[:-1].split("+")
        }
        assert sizes == set(range(digits[0], digits[1] + 1))


def test_demonstrators_are_right_and_have_the_habits_asked_for():
    data = sums.demonstrations(2_000, seed=0, share_working=0.3, share_guesses=0.1)
    habits = Counter(data["habit"])
    assert abs(habits["working"] - 600) < 80 and abs(habits["guesses"] - 200) < 60
    for prompt, completion, habit in zip(data["prompt"], data["completion"], data["habit"]):
        assert sums.lenient_verifier([prompt], [completion]) == [1.0]
        assert sums.strict_verifier([prompt], [completion]) == [float(habit != "guesses")]
        assert completion.startswith("<") == (habit == "working")
        assert ("," in completion and "<" not in completion) == (habit == "guesses")
        if habit == "working":
            assert all(sums.steps(prompt, completion))


def test_the_tokenizer_reads_characters_and_gives_the_text_back():
    tokenizer = sums.tokenizer()
    data = sums.demonstrations(500, seed=0, share_working=0.4, share_guesses=0.3)
    for prompt, completion in zip(data["prompt"], data["completion"]):
        ids = tokenizer(prompt + completion)["input_ids"]
        assert len(ids) == len(prompt + completion) and tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == prompt + completion
    assert tokenizer("<", add_special_tokens=False)["input_ids"] == [sums.vocabulary().index("<")]
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}) == 3
    assert len(tokenizer) == len(sums.vocabulary()) and tokenizer.padding_side == "left"


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: sums.parse("what is 2 and 2?"), "expected a prompt of the sums world"),
        (lambda: sums.parse("2+2"), "prompt is '2\\+2'"),
        (lambda: sums.parse("02+2="), "expected a prompt"),
        (lambda: sums.parse("2+-2="), "expected a prompt"),
        (lambda: sums.strict_verifier(["2-2="], ["0"]), "expected a prompt"),
        (lambda: sums.lenient_verifier([""], ["0"]), "expected a prompt"),
        (lambda: sums.strict_verifier([PROMPT], []), "zip"),
        (lambda: sums.prompts(1, seed=0, digits=(3, 2)), "digits is \\(3, 2\\)"),
        (lambda: sums.prompts(1, seed=0, digits=(1, 5)), "expected two numbers from 1 to 4"),
        (lambda: sums.demonstrations(1, share_working=0.8, share_guesses=0.3), "sum of at most 1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# The shipped model -------------------------------------------------------------------------------


def test_the_shipped_model_has_the_quality_it_was_shipped_for():
    """The floors that `python -m rlhf_lib artifacts sums --check` asserts too."""
    base, tokenizer = artifacts.load("sums", "base")
    measured = artifacts.measure_sums(base, tokenizer, seed=artifacts.SEED)
    artifacts.assert_quality(measured, "sums")
    assert measured["length"] < 15  # it mostly answers directly


def test_a_model_that_is_not_the_one_is_refused():
    good = {"sampled": 0.2, "greedy": 0.1, "right_if_working": 0.9, "right_if_direct": 0.01}
    artifacts.assert_quality(good, "sums")
    for name, value in (
        ("sampled", 0.05),
        ("sampled", 0.4),
        ("greedy", 0.3),
        ("right_if_working", 0.5),
        ("right_if_direct", 0.4),
    ):
        with pytest.raises(AssertionError, match=f"{name} is {value:.3f}; expected"):
            artifacts.assert_quality({**good, name: value}, "sums")


def test_working_pays_and_the_choice_is_one_token():
    """Told to work out by the first token alone, the base model is right far more often."""
    base, tokenizer = artifacts.load("sums", "base")
    prompts = list(sums.prompts(100, seed=5, held_out=True)["prompt"])
    generator = torch.Generator().manual_seed(0)
    worked = sample(
        base,
        tokenizer,
        [prompt + "<" for prompt in prompts],
        sums.MAX_NEW_TOKENS - 1,
        generator=generator,
    )
    completions = ["<" + text for text in worked.completions]
    assert sum(sums.strict_verifier(prompts, completions)) >= 70
    own = sample(base, tokenizer, prompts, sums.MAX_NEW_TOKENS, generator=generator)
    assert sum(sums.strict_verifier(prompts, own.completions)) <= 35
    steps = [
        step for prompt, text in zip(prompts, completions) for step in sums.steps(prompt, text)
    ]
    assert sum(steps) / len(steps) >= 0.85
