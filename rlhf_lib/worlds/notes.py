"""Notes: a short English note, asked for in a chat, and a rubric that a program can check.

A world for a real chat model. The user tells in one or two sentences whom to write to, what happens
to which item on which day, what to ask for, and whose name to put under it::

    Write a short note to Nadia. Tell her that the lamp is ready on Thursday, ask whether she can
    bring the receipt, and sign it as Tom.

Five checks read what comes back: does it greet Nadia, name the lamp, name Thursday, ask for the
receipt, end with Tom? The rubric is the share of them that passes. The prompt is text, written by
the model's own chat template (`dialogues`), and the facts are read back from it, so that a reward
function needs nothing else.

Held-out tasks have other names, items, requests and wordings than all other data of this world;
they share the days, and what may be said of an item. The demonstrations were written one by one,
with no template behind them. Chapter: real-model.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from .dialogues import Writer

DEMONSTRATIONS = Path(__file__).with_name("notes.jsonl")
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
SHE = "Nadia Priya Elena Ruth Amina Clara Ingrid Hannah".split()
HE = "Tom Marcus Jonas Victor Peter Samuel Diego Leo".split()
HELD_OUT_SHE = "Olga Fatima Lucia Maya".split()
HELD_OUT_HE = "Kenji Robert Anton Felix".split()
NAMES = {False: (*SHE, *HE), True: (*HELD_OUT_SHE, *HELD_OUT_HE)}  # by whether they are held out
PRONOUNS = {
    **dict.fromkeys((*SHE, *HELD_OUT_SHE), ("she", "her")),
    **dict.fromkeys((*HE, *HELD_OUT_HE), ("he", "him")),
}
MAX_WORDS = 60  # a longer text is no short note


@dataclass(frozen=True)
class Kind:
    """What notes of one kind are about; items and requests by whether they are held out."""

    items: dict[bool, tuple[str, ...]]
    news: tuple[str, ...]  # what is said of an item, before the day
    asks: dict[bool, dict[str, str]]  # requests, each with the word that it cannot do without


KINDS = {
    "collect": Kind(
        items={
            False: tuple("lamp bicycle coat guitar sofa camera clock suitcase".split()),
            True: tuple("kettle violin carpet printer".split()),
        },
        news=("is ready on", "will be ready on", "can be picked up on", "is back in the shop on"),
        asks={
            False: {
                "bring the receipt": "receipt",
                "pay in cash": "cash",
                "call the shop first": "call",
                "come to the back door": "door",
                "bring a strong rope": "rope",
                "show the old ticket": "ticket",
            },
            True: {
                "show a passport": "passport",
                "come with a van": "van",
                "park behind the church": "park",
            },
        },
    ),
    "gather": Kind(
        items={
            False: tuple("picnic rehearsal dinner workshop meeting lesson parade quiz".split()),
            True: tuple("concert barbecue seminar bonfire".split()),
        },
        news=("is on", "takes place on", "is planned for", "has been moved to"),
        asks={
            False: {
                "bring a folding chair": "chair",
                "print the song sheets": "sheet",
                "bake a cake": "cake",
                "take some photos": "photo",
                "invite the new students": "student",
                "call the piano teacher": "teacher",
            },
            True: {"bring a torch": "torch", "make a salad": "salad", "borrow two tables": "table"},
        },
    ),
    "arrive": Kind(
        items={
            False: tuple(
                "plumber electrician parcel gardener painter fridge mattress inspector".split()
            ),
            True: tuple("carpenter wardrobe locksmith freezer".split()),
        },
        news=("is coming on", "will arrive on", "is due on", "will be here on"),
        asks={
            False: {
                "leave the gate open": "gate",
                "move the car": "car",
                "keep the dog inside": "dog",
                "clear the hallway": "hallway",
                "hand over the spare key": "key",
                "water the plants": "plant",
            },
            True: {
                "switch off the alarm": "alarm",
                "open the garage": "garage",
                "feed the cat": "cat",
            },
        },
    ),
}
KIND_OF_ITEM = {
    item: name for name, kind in KINDS.items() for items in kind.items.values() for item in items
}
KEYWORDS = {
    ask: word
    for kind in KINDS.values()
    for asks in kind.asks.values()
    for ask, word in asks.items()
}
WORDINGS = {
    False: (
        "Write a short note to {recipient}. Tell {her} that the {item} {news} {day}, ask whether "
        "{she} can {ask}, and sign it as {sender}.",
        "Please write a short note from {sender} to {recipient}: the {item} {news} {day}. It "
        "should also ask {her} to {ask}.",
        "I am {sender}. Help me write a few lines to {recipient} to say that the {item} {news} "
        "{day}, and to ask if {she} could {ask}.",
        "{recipient} needs to know that the {item} {news} {day}. Write {her} a short note from me, "
        "{sender}, and ask {her} to {ask}.",
        "Can you draft a brief note to {recipient}? The {item} {news} {day}, and I would like "
        "{her} to {ask}. My name is {sender}.",
    ),
    True: (
        "I need a short message for {recipient} saying that the {item} {news} {day}. Have it ask "
        "{her} to {ask}, and put my name, {sender}, at the end.",
        "In a brief note signed {sender}, let {recipient} know that the {item} {news} {day}, and "
        "request that {she} {ask}.",
        "A note for {recipient}, please, no more than a few sentences, from {sender}: the {item} "
        "{news} {day}. Could {she} {ask}?",
    ),
}


# Tasks -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """The facts of a note, and the wording in which it is asked for."""

    recipient: str
    sender: str
    item: str
    news: str
    day: str
    ask: str
    wording: str

    @property
    def message(self) -> str:
        """What the user says."""
        she, her = PRONOUNS[self.recipient]
        text = self.wording.format(**asdict(self), she=she, her=her)
        return text[0].upper() + text[1:]

    @property
    def keyword(self) -> str:
        """The word that the request cannot do without."""
        return KEYWORDS[self.ask]

    @property
    def held_out(self) -> bool:
        """Whether anything in it is kept for evaluation; of a drawn task all is, or nothing."""
        kind = KINDS[KIND_OF_ITEM[self.item]]
        return (
            bool({self.recipient, self.sender} & {*NAMES[True]})
            or self.item in kind.items[True]
            or self.ask in kind.asks[True]
            or self.wording in WORDINGS[True]
        )


def _pattern(wording: str) -> re.Pattern:
    """A wording with a group for each fact, and any pronoun where one belongs."""
    said = {
        "recipient": PRONOUNS,
        "sender": PRONOUNS,
        "item": KIND_OF_ITEM,
        "news": [news for kind in KINDS.values() for news in kind.news],
        "day": DAYS,
        "ask": KEYWORDS,
    }
    text = re.escape(wording)
    for name, values in said.items():
        text = text.replace(rf"\{{{name}\}}", f"(?P<{name}>{'|'.join(values)})", 1)
    text = text.replace(r"\{she\}", "(?:she|he)").replace(r"\{her\}", "(?:her|him)")
    return re.compile(text)


PATTERNS = {wording: _pattern(wording) for some in WORDINGS.values() for wording in some}


@lru_cache(maxsize=20_000)
def parse(prompt: str) -> Task:
    """The task in a prompt, whatever a chat template writes around it.

    Raises
    ------
    ValueError
        If there is none.

    Examples
    --------
    >>> task = parse("Please write a short note from Tom to Ruth: the coat is ready on Friday. "
    ...              "It should also ask her to pay in cash.")
    >>> task.recipient, task.sender, task.item, task.day, task.keyword
    ('Ruth', 'Tom', 'coat', 'Friday', 'cash')
    """
    if isinstance(prompt, str):
        for wording, pattern in PATTERNS.items():
            for match in pattern.finditer(prompt):
                task = Task(**match.groupdict(), wording=wording)
                if task.message == match[0] and task.recipient != task.sender:
                    return task
    raise ValueError(
        f"prompt is {prompt!r:.200}; expected a request of the notes world, such as "
        f"{draw(random.Random(0)).message!r}"
    )


def draw(rng: random.Random, held_out: bool = False) -> Task:
    """A random task, all of it held out or nothing of it."""
    kind = KINDS[rng.choice(list(KINDS))]
    recipient, sender = rng.sample(NAMES[held_out], 2)
    return Task(
        recipient,
        sender,
        rng.choice(kind.items[held_out]),
        rng.choice(kind.news),
        rng.choice(DAYS),
        rng.choice(list(kind.asks[held_out])),
        rng.choice(WORDINGS[held_out]),
    )


# Checks ------------------------------------------------------------------------------------------

CHECKS = ("greets", "item", "day", "asks", "signs")
GREETING = (
    r"(?:(?:(?:my )?dear|dearest|hi|hello|hey|hi there|hello there|greetings|"
    r"good (?:morning|afternoon|evening|day)),? )?"
)
DETERMINER = (
    r"(?:\b(?:the|an?|your|our|my|his|her|their|this|that|another)|['’]s)\s+(?:\w+\s+){0,2}"
)
REQUEST = re.compile(
    r"\b(?:please|kindly|(?:could|can|would|will) (?:you|i ask)|may i ask|(?:be|make) sure|"
    r"remember to|don['’]t forget|do not forget|(?:grateful|glad|great|nice|kind|lovely|helpful|"
    r"appreciate it|smile) if you|possible (?:for you )?to|you (?:need|have) to|"
    r"(?:like|want|need|ask) you to)\b",
    re.IGNORECASE,
)
REPORTED = re.compile(
    r"\bask(?:s|ing)? (?:her|him|them|(?:whether|if) (?:she|he|they))\b", re.IGNORECASE
)
NOT = re.compile(r"\b(?:not|never|no need|without|cannot|\w+n['’]t)\b", re.IGNORECASE)
NO_REFUSAL = re.compile(r"\b(?:do not|don['’]t) (?:forget|mind|hesitate)\b", re.IGNORECASE)


def lines(text: str) -> list[str]:
    """The lines of a text that hold anything."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def sentences(text: str) -> list[str]:
    """The sentences of a text; a line ends one too.

    >>> sentences("Hi Tom!\\nIt is ready. Can you come?")
    ['Hi Tom!', 'It is ready.', 'Can you come?']
    """
    return [part for line in lines(text) for part in re.split(r"(?<=[.!?])\s+", line)]


def words(text: str) -> list[str]:
    """The words of a text in lower case.

    >>> words("Don't forget: 2 tickets!")
    ["don't", 'forget', '2', 'tickets']
    """
    return re.findall(r"\w+(?:['’-]\w+)*", text.lower())


def checks(prompt, completion) -> dict[str, bool]:
    """Which of the five checks a note passes.

    - greets: the first line begins with the recipient's name, behind a word of greeting or none
      and before a mark or its end, and no name of this world but the two stands in the note;
    - item: a sentence of four words or more has the item behind an article or a possessive, and
      no other item of its kind stands behind one;
    - day: a sentence of four words or more names the day, and no other day is named;
    - asks: a sentence of three words or more with the key word of the request asks the reader for
      it: a question to "you", a phrase such as "please", or the bare verb of the request. Not if
      the key word is denied in its clause, or the sentence tells the writer to ask;
    - signs: the last line is the sender's name, alone but for a dash before or a dot behind.

    A text of more than 60 words, or with a line or a sentence of three words that stands in it
    twice, passes none of them.

    What they cannot see: whether the note is good English, kind, or true. What is said of the item
    is not read, nor what is asked about the key word, nor anything that was made up ("today" and
    dates are no days here). "Nadia,\\nThe lamp red red Thursday.\\nPlease receipt now.\\nTom" has
    all five. A policy that is paid by them alone for long enough may find such texts; a price on
    the distance from its reference is what keeps it to English.

    Parameters
    ----------
    prompt : Task, str or list of messages
        In messages, as TRL hands them over, the last one of the user is read.
    completion : str or list of messages

    Raises
    ------
    ValueError
        If there is no task in the prompt, or the completion is neither text nor messages.

    Examples
    --------
    >>> asked = ("Write a short note to Nadia. Tell her that the lamp is ready on Thursday, ask "
    ...          "whether she can bring the receipt, and sign it as Tom.")
    >>> checks(asked, "Hi Nadia,\\nYour lamp is ready on Friday. Please bring the receipt!\\nTom")
    {'greets': True, 'item': True, 'day': False, 'asks': True, 'signs': True}
    """
    task = prompt if isinstance(prompt, Task) else parse(_said("prompt", prompt, "user"))
    text = _said("completion", completion, "assistant")
    if not is_note(text):
        return dict.fromkeys(CHECKS, False)
    others = {*PRONOUNS} - {task.recipient, task.sender}
    alike = {item for item, kind in KIND_OF_ITEM.items() if kind == KIND_OF_ITEM[task.item]}
    found, parts = lines(text), sentences(text)
    return {
        "greets": re.match(rf"{GREETING}{task.recipient}\s*(?:[-–—,.:;!]|$)", found[0], re.I)
        is not None
        and not _names(text, others),
        "item": any(len(words(part)) >= 4 and _mentions(part, {task.item}) for part in parts)
        and not _mentions(text, alike - {task.item}),
        "day": any(len(words(part)) >= 4 and _names(part, {task.day}) for part in parts)
        and not _names(text, {*DAYS} - {task.day}),
        "asks": any(_asks(task, part) for part in parts),
        "signs": re.fullmatch(rf"[-–—~\s]*{task.sender}[.!]?", found[-1], re.I) is not None,
    }


def is_note(text: str) -> bool:
    """Whether a text is short, not empty, and says nothing twice: else it passes no check.

    >>> is_note("Hi Tom,\\nit is ready."), is_note("Hi Tom,\\nit is ready. It is ready!")
    (True, False)
    """
    whole = [said for line in lines(text) if (said := tuple(words(line)))]
    parts = [said for part in sentences(text) if len(said := tuple(words(part))) >= 3]
    twice = len({*whole}) < len(whole) or len({*parts}) < len(parts)
    return 0 < len(words(text)) <= MAX_WORDS and not twice


def _names(text: str, those: set[str]) -> bool:
    """Whether any of those words stands in a text, also as a plural or with an 's."""
    return re.search(rf"\b(?:{'|'.join(sorted(those))})s?\b", text, re.IGNORECASE) is not None


def _mentions(text: str, items: set[str]) -> bool:
    """Whether any of those items stands in a text behind an article or a possessive."""
    pattern = rf"{DETERMINER}(?:{'|'.join(sorted(items))})s?\b"
    return re.search(pattern, text, re.IGNORECASE) is not None


def _asks(task: Task, sentence: str) -> bool:
    key = re.search(rf"\b{task.keyword}(?:s|es|ed|ing)?\b", sentence, re.IGNORECASE)
    if key is None or len(words(sentence)) < 3 or REPORTED.search(sentence):
        return False
    clause = re.split(r"[,;:–—]", NO_REFUSAL.sub("", sentence[: key.start()]))[-1]
    if NOT.search(clause):
        return False
    bare = rf"(?:^|[,;:–—]\s*)(?:(?:do|so|and|then|just)\s+)*{task.ask.split()[0]}\b"
    return (
        (sentence.endswith("?") and re.search(r"\byou\b", sentence, re.I) is not None)
        or REQUEST.search(sentence) is not None
        or re.search(bare, sentence, re.IGNORECASE) is not None
    )


def _said(name: str, value, role: str) -> str:
    """A text, or the last message of a role in a conversation."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        texts = [m.get("content") for m in value if isinstance(m, dict) and m.get("role") == role]
        value = texts[-1] if texts else value
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r:.80}; expected text, or messages with a {role}'s")
    return value


def rubric_reward(prompts: list, completions: list, **columns) -> list[float]:
    """The share of `checks` that each note passes, 0 to 1: a reward function (TRL's signature).

    >>> asked = ("Write a short note to Nadia. Tell her that the lamp is ready on Thursday, ask "
    ...          "whether she can bring the receipt, and sign it as Tom.")
    >>> rubric_reward([asked] * 2, ["Dear Nadia,\\nyour lamp is ready on Thursday.\\nTom", "No."])
    [0.8, 0.0]
    """
    return [
        sum(checks(prompt, completion).values()) / len(CHECKS)
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


# Data --------------------------------------------------------------------------------------------


def prompts(n: int, seed: int, held_out: bool = False, tokenizer=None):
    """`n` prompts with replacement: column `prompt`, and the facts of each in columns of their own.

    Held-out prompts share no name, item, request or wording with any other data of this world.

    Parameters
    ----------
    n, seed : int
    held_out : bool
    tokenizer : PreTrainedTokenizerBase, optional
        Its chat template writes the prompt; without one it is in the plain format of `dialogues`.

    Returns
    -------
    datasets.Dataset
        Columns `prompt`, `recipient`, `sender`, `item`, `news`, `day`, `ask`, `wording`.
    """
    from datasets import Dataset

    rng, write = random.Random(seed), Writer(tokenizer)
    _check_number("n", n)
    tasks = [draw(rng, held_out) for _ in range(n)]
    rows = [{"prompt": write(_user(task))[0], **asdict(task)} for task in tasks]
    return Dataset.from_list(rows)


def demonstrations(n: int | None = None, seed: int = 0, tokenizer=None):
    """Notes that were written by hand, each passing all checks, in an order that the seed draws.

    Their tasks are not held out, and each note is there once. The file beside this module has
    them as messages.

    Parameters
    ----------
    n : int, optional
        How many of them; all, unless told otherwise.
    seed : int
    tokenizer : PreTrainedTokenizerBase, optional
        As for `prompts`.

    Returns
    -------
    datasets.Dataset
        Columns `prompt`, `completion`, and those of the task as in `prompts`.

    Raises
    ------
    ValueError
        If n is more than there are.
    """
    from datasets import Dataset

    found = written()
    n = len(found) if n is None else n
    _check_number("n", n)
    if n > len(found):
        raise ValueError(f"n is {n}; expected at most {len(found)}, the notes that there are")
    rows, write = [], Writer(tokenizer)
    for task, note in random.Random(seed).sample(found, n):
        prompt, completion = write(_user(task), [{"role": "assistant", "content": note}])
        rows.append({"prompt": prompt, "completion": completion, **asdict(task)})
    return Dataset.from_list(rows)


@lru_cache(maxsize=1)
def written() -> tuple[tuple[Task, str], ...]:
    """The tasks of the demonstrations and their notes, in the order of the file."""
    rows = [json.loads(line) for line in DEMONSTRATIONS.read_text(encoding="utf-8").splitlines()]
    return tuple(
        (parse(asked["content"]), note["content"])
        for asked, note in (row["messages"] for row in rows)
    )


def _user(task: Task) -> list[dict]:
    return [{"role": "user", "content": task.message}]


def _check_number(name: str, value) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}; expected a whole number of at least 1")
