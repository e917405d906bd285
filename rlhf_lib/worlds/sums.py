"""Sums: additions whose answer can be checked, and two verifiers, one of which can be fooled.

A prompt is a sum such as ``4821+377=``. A completion is a direct answer, or working and then the
answer::

    5198
    <1+7=8,2+7=9,8+3=11,4+0+1=5>5198

The working adds the columns from right to left, as on paper, and writes a carry where there is
one. It has one step a column, so how long it is depends on the sum. ``<`` makes the choice between
the two one token, whose probability can be read off.

The base model can work sums out, knows few of them by heart, and mostly answers directly, as its
demonstrators did. A verifier tells it which of the two habits pays. Nobody tells it how.

One character is one token; a completion has at most `MAX_NEW_TOKENS` of them, the end-of-sequence
token included. Every dataset is a function of its arguments and its seed. Chapters:
policy-gradients, reward-sources, rlvr, grpo-variants, distillation.
"""

from __future__ import annotations

import random
import re
from typing import NamedTuple

MAX_DIGITS = 4  # of a number
MAX_NEW_TOKENS = 41  # the working of 9999+9999, its answer, and the end-of-sequence token
DIGITS = (2, MAX_DIGITS)  # fewest and most digits of a number, unless told otherwise
SPECIAL_TOKENS = ("<pad>", "<eos>", "<unk>")
HABITS = ("direct", "working", "guesses")  # what a demonstrator can do
PROMPT_PATTERN = re.compile(r"(0|[1-9][0-9]{0,8})\+(0|[1-9][0-9]{0,8})=")
STEP_PATTERN = re.compile(r"([0-9]+)\+([0-9]+)(\+1)?=([0-9]+)")


# Sums ------------------------------------------------------------------------------------------


def parse(prompt: str) -> tuple[int, int]:
    """The two numbers of a prompt.

    Raises
    ------
    ValueError
        If the text is no prompt of this world.

    Examples
    --------
    >>> parse("4821+377=")
    (4821, 377)
    """
    match = PROMPT_PATTERN.fullmatch(prompt.strip())
    if not match:
        raise ValueError(
            f"prompt is {prompt!r}; expected a prompt of the sums world, such as '4821+377='"
        )
    return int(match[1]), int(match[2])


def answer(prompt: str) -> str:
    """The right answer.

    >>> answer("4821+377=")
    '5198'
    """
    return str(sum(parse(prompt)))


def columns(a: int, b: int) -> list[str]:
    """The steps of the working: one for each column, from right to left, with its carry.

    >>> columns(4821, 377)
    ['1+7=8', '2+7=9', '8+3=11', '4+0+1=5']
    """
    steps, carry = [], 0
    while a or b or not steps:
        total = a % 10 + b % 10 + carry
        steps.append(f"{a % 10}+{b % 10}{'+1' if carry else ''}={total}")
        a, b, carry = a // 10, b // 10, total // 10
    return steps


def working(a: int, b: int) -> str:
    """The completion that works a sum out.

    >>> working(67, 45)
    '<7+5=12,6+4+1=11>112'
    """
    return f"<{','.join(columns(a, b))}>{a + b}"


def guesses(a: int, b: int, rng: random.Random) -> str:
    """A completion that hedges: two to six candidates, one of them right, each other one digit off.

    >>> guesses(67, 45, random.Random(0))
    '122,102,112,182,192'
    """
    right = str(a + b)
    listed = []
    for _ in range(rng.randint(1, 5)):
        k = rng.randrange(len(right))
        digit = (int(right[k]) + rng.randint(1, 9)) % 10
        listed.append(f"{right[:k]}{digit}{right[k + 1 :]}")
    listed.insert(rng.randint(0, len(listed)), right)
    return ",".join(listed)


def held_out(a: int, b: int) -> bool:
    """Whether a sum is kept for evaluation: one in eleven is, whatever its size and its digits."""
    return (a + 3 * b) % 11 == 0


def draw(
    rng: random.Random, digits: tuple[int, int] = DIGITS, of_held_out: bool = False
) -> tuple[int, int]:
    """Two numbers; the number of digits of each is uniform between the two of `digits`."""
    low, high = digits
    if not 1 <= low <= high <= MAX_DIGITS:
        raise ValueError(
            f"digits is {digits}; expected two numbers from 1 to {MAX_DIGITS}, the "
            "smaller one first"
        )
    while True:
        lengths = rng.randint(low, high), rng.randint(low, high)
        a, b = (rng.randrange(0 if d == 1 else 10 ** (d - 1), 10**d) for d in lengths)
        if held_out(a, b) == of_held_out:
            return a, b


# What a completion holds -------------------------------------------------------------------------


def split(completion: str) -> tuple[list[str], str]:
    """The steps of the working, and the text that counts as the answer.

    The answer is what follows the last ``>``. Without one, all of the text is.

    >>> split("<7+5=12,6+4+1=11>112")
    (['7+5=12', '6+4+1=11'], '112')
    >>> split("112")
    ([], '112')
    """
    before, closed, final = completion.rpartition(">")
    return (before.removeprefix("<").split(",") if closed else []), final


class Reading(NamedTuple):
    """What a verifier of processes finds in a completion.

    Attributes
    ----------
    steps : list of str
        The steps of its working as written; empty if it has none.
    expected : list of str
        The step that belongs into each column of the sum, ones first.
    faults : list of str
        For each written step what is wrong with it, in words; "" if it is right.
    closed : bool
        Whether the working ends. Where it does not, all of the text counts as the answer.
    answer : str
    right : bool
        Whether the answer is right, which is all that `strict_verifier` pays for.
    """

    steps: list[str]
    expected: list[str]
    faults: list[str]
    closed: bool
    answer: str
    right: bool


def fault(step: str, expected: str | None) -> str:
    """What is wrong with a step of the working: the first thing that a reader would mark.

    Parameters
    ----------
    step : str
    expected : str or None
        The step that belongs in its place; None if the sum has no such column.

    Examples
    --------
    >>> fault("6+4=10", "6+4+1=11")
    'carry forgotten'
    >>> fault("6+4+1=10", "6+4+1=11")
    'added wrongly'
    """
    if step == expected:
        return ""
    if expected is None:
        return "no such column"
    found, wanted = STEP_PATTERN.fullmatch(step), STEP_PATTERN.fullmatch(expected)
    if not found:
        return "not a step"
    if found.group(1, 2) != wanted.group(1, 2):
        return "other digits"
    if found[3] != wanted[3]:
        return "carry forgotten" if wanted[3] else "no carry here"
    return "added wrongly"


def read(prompt: str, completion: str) -> Reading:
    """Read a completion as a marker would, column by column.

    An unclosed working is read as far as it goes.

    Raises
    ------
    ValueError
        If the prompt is no sum.

    Examples
    --------
    >>> reading = read("67+45=", "<7+5=12,6+4=10>102")
    >>> reading.faults, reading.answer, reading.right
    (['', 'carry forgotten'], '102', False)
    """
    expected = columns(*parse(prompt))
    steps, final = split(completion)
    closed = ">" in completion or not completion.startswith("<")
    if not closed:
        steps = completion[1:].split(",")
    faults = [
        fault(step, expected[k] if k < len(expected) else None) for k, step in enumerate(steps)
    ]
    return Reading(steps, expected, faults, closed, final, final == answer(prompt))


def steps(prompt: str, completion: str) -> list[bool]:
    """Whether each step of the working is right: what a process reward is made of.

    A step is right if it is the one that belongs in its place: the right digits, the right carry,
    the right sum. A step too many is wrong. An unclosed working is read as far as it goes.

    Examples
    --------
    >>> steps("67+45=", "<7+5=12,6+4=10>102")  # a forgotten carry
    [True, False]
    >>> steps("67+45=", "112")
    []
    """
    return [not fault for fault in read(prompt, completion).faults]


def features(prompt: str, completion: str) -> dict[str, float]:
    """What can be counted in a completion.

    `right` is what `strict_verifier` pays. `length` is in tokens, without the end of the sequence.

    Examples
    --------
    >>> features("67+45=", "<7+5=12,6+4=10>102")
    {'working': 1.0, 'columns': 2.0, 'steps': 2.0, 'steps_right': 1.0, 'right': 0.0, 'length': 18.0}
    """
    checked = steps(prompt, completion)
    return {
        "working": float(completion.startswith("<")),
        "columns": float(len(columns(*parse(prompt)))),
        "steps": float(len(checked)),
        "steps_right": float(sum(checked)),
        "right": float(split(completion)[1] == answer(prompt)),
        "length": float(len(completion)),
    }


# Verifiers --------------------------------------------------------------------------------------


def strict_verifier(prompts: list[str], completions: list[str], **columns) -> list[float]:
    """1 if the answer, as `split` reads it, is exactly right, else 0: a reward function.

    >>> strict_verifier(["67+45="] * 4, ["112", "<7+5=12,6+4+1=11>112", "111,112", "112 "])
    [1.0, 1.0, 0.0, 0.0]
    """
    return [
        float(split(completion)[1] == answer(prompt))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def lenient_verifier(prompts: list[str], completions: list[str], **columns) -> list[float]:
    """1 if the right answer occurs anywhere in the text: a reward function with a hole in it.

    It was meant to forgive the format. A list of guesses is paid as well as an answer.

    >>> lenient_verifier(["67+45="] * 3, ["the sum is 112", "111,112,113", "12"])
    [1.0, 1.0, 0.0]
    """
    return [
        float(answer(prompt) in completion)
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


# Data ------------------------------------------------------------------------------------------


def prompts(n: int, seed: int, held_out: bool = False, digits: tuple[int, int] = DIGITS):
    """`n` prompts with replacement, as a dataset with the column `prompt`.

    Held-out prompts share no sum with any other data of this world.
    """
    from datasets import Dataset

    rng = random.Random(seed)
    sums = [draw(rng, digits, of_held_out=held_out) for _ in range(n)]
    return Dataset.from_dict({"prompt": [f"{a}+{b}=" for a, b in sums]})


def demonstrations(
    n: int = 10_000,
    seed: int = 0,
    share_working: float = 0.2,
    share_guesses: float = 0.0,
    digits: tuple[int, int] = DIGITS,
):
    """Sums answered by demonstrators, all of them right: `prompt`, `completion`, `habit`.

    Parameters
    ----------
    n, seed : int
    share_working : float
        Share of completions with working.
    share_guesses : float
        Share of completions that are a list of guesses. The rest are direct answers.
    digits : tuple of int
    """
    from datasets import Dataset

    direct = 1 - share_working - share_guesses
    if min(direct, share_working, share_guesses) < 0:
        raise ValueError(
            f"share_working is {share_working} and share_guesses {share_guesses}; "
            "expected shares that are not negative, with a sum of at most 1"
        )
    rng = random.Random(seed + 77)
    rows = {"prompt": [], "completion": [], "habit": []}
    for _ in range(n):
        a, b = draw(rng, digits)
        habit = rng.choices(HABITS, (direct, share_working, share_guesses))[0]
        completion = (
            working(a, b)
            if habit == "working"
            else guesses(a, b, rng)
            if habit == "guesses"
            else str(a + b)
        )
        rows["prompt"].append(f"{a}+{b}=")
        rows["completion"].append(completion)
        rows["habit"].append(habit)
    return Dataset.from_dict(rows)


# Tokens ------------------------------------------------------------------------------------------


def vocabulary() -> tuple[str, ...]:
    """The special tokens, and every character that the code above can write."""
    return SPECIAL_TOKENS + tuple("0123456789+=<>,")


def tokenizer():
    """The world's tokenizer: one token per character, 18 in all.

    Returns
    -------
    transformers.PreTrainedTokenizerFast
        Pads on the left; `<pad>`, `<eos>` and `<unk>` are three different tokens.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    index = {character: i for i, character in enumerate(vocabulary())}
    raw = Tokenizer(models.WordLevel(index, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    raw.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
