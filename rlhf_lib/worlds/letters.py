"""Letters: requests for a short e-mail reply, and a gold utility that knows which reply is good.

The world replaces three things that a real project has to buy or believe in. A **corpus** stands
for the web, **demonstrations** for paid writers, and a pool of **annotators** for the people who
compare replies. Behind them stands one transparent function, `utility`, that no training step may
see. It is what makes over-optimisation visible: the learned reward is a guess at it.

A prompt fills four slots (recipient, item, day, and a phrase for the intent)::

    write to ben. ask for a refund: the lamp, friday. reply:

A reply comes in one of the eight styles of the worked example in chapter kl-tilt. The style names
are shared with that example; the utility here is this world's own and is not its reward vector.

Text is lower case. One word or punctuation mark is one token; a reply has at most 31 of them, so
that it fits `MAX_NEW_TOKENS` with its end-of-sequence token. Every dataset is a function of its
arguments and its seed. Chapters: alignment-problem, preferences, reward-model, ppo-live, grpo.
"""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass
from functools import lru_cache

MAX_NEW_TOKENS = 32  # 31 words and the end-of-sequence token
SPECIAL_TOKENS = ("<pad>", "<eos>", "<unk>")

NAMES = (
    "anna ben carla david emma frank grace henry iris jack karen leo maria nina oscar paula"
).split()
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()


@dataclass(frozen=True)
class Intent:
    """What a prompt can ask for: its items, its phrasings, and how a reply does it."""

    items: tuple[str, ...]
    phrases: tuple[str, ...]
    acts: tuple[str, ...]  # sentences that do what was asked; {item} and {day} are filled in
    reasons: tuple[str, ...]
    keywords: tuple[str, ...]  # a reply that does what was asked contains one of these


INTENTS = {
    "decline": Intent(
        items=("meeting", "lunch", "workshop", "call", "interview", "party"),
        phrases=("decline politely", "say no", "tell them you can not come"),
        acts=(
            "i can not join the {item} on {day}",
            "i am unable to attend the {item} on {day}",
            "i must decline the {item} on {day}",
            "{day} is not possible for the {item}",
        ),
        reasons=(
            "because i have another appointment",
            "because i will be travelling",
            "since my week is full",
            "as i promised the day to my family",
        ),
        keywords=("not", "unable", "decline"),
    ),
    "refund": Intent(
        items=("lamp", "chair", "phone", "jacket", "kettle", "camera"),
        phrases=("ask for a refund", "you want your money back", "request a refund"),
        acts=(
            "i would like a refund for the {item} bought on {day}",
            "could i return the {item} from {day} for a refund",
            "please send me a refund for the {item} of {day}",
        ),
        reasons=(
            "because it arrived broken",
            "because it does not work",
            "since it is the wrong size",
            "as a part is missing",
        ),
        keywords=("refund",),
    ),
    "confirm": Intent(
        items=("room", "table", "ticket", "car", "seat", "boat"),
        phrases=("confirm the booking", "say that it is booked", "confirm"),
        acts=(
            "i confirm the booking of the {item} for {day}",
            "the {item} is confirmed for {day}",
            "your {item} is booked for {day}",
            "i can confirm the {item} on {day}",
        ),
        reasons=(
            "and it is ready for you",
            "and everything is paid",
            "and you can arrive at noon",
            "and the key is at the desk",
        ),
        keywords=("confirm", "confirmed", "booked"),
    ),
    "extend": Intent(
        items=("report", "essay", "project", "form", "review", "invoice"),
        phrases=("ask for more time", "request an extension", "say that you need longer"),
        acts=(
            "could i have more time for the {item} due {day}",
            "i would like an extension for the {item} due on {day}",
            "i need a few more days for the {item} of {day}",
        ),
        reasons=(
            "because i was ill",
            "because the data came late",
            "since my computer failed",
            "as two pages are still open",
        ),
        keywords=("more", "extension"),
    ),
    "apologise": Intent(
        items=("parcel", "order", "letter", "delivery", "invitation", "payment"),
        phrases=("apologise for the delay", "say sorry", "excuse the delay"),
        acts=(
            "i am sorry that the {item} was late on {day}",
            "i apologise for the late {item} of {day}",
            "i regret the delay of the {item} on {day}",
        ),
        reasons=(
            "because the truck failed",
            "because we had too much work",
            "and it will not happen again",
            "as the address was wrong",
        ),
        keywords=("sorry", "apologise", "regret"),
    ),
    "remind": Intent(
        items=("lesson", "dinner", "concert", "exam", "visit", "rehearsal"),
        phrases=("send a reminder", "remind them", "do not let them forget"),
        acts=(
            "this is a reminder about the {item} on {day}",
            "do not forget the {item} on {day}",
            "i want to remind you of the {item} on {day}",
        ),
        reasons=(
            "and bring your notes",
            "and come a bit early",
            "and tell me if you need help",
            "as the doors close at eight",
        ),
        keywords=("reminder", "forget", "remind"),
    ),
}
ITEMS = [item for intent in INTENTS.values() for item in intent.items]
INTENT_OF_ITEM = {item: name for name, intent in INTENTS.items() for item in intent.items}

STYLES = (
    "polite-detailed",
    "rude-refusal",
    "polite-concise",
    "evasive",
    "off-topic",
    "polite-formal",
    "lazy",
    "dishonest",
)
OUTCOMES = STYLES + ("gushing", "broken")  # a policy can also write what no author wrote
WEB_MIX = dict(
    zip(STYLES, (0.22, 0.08, 0.06, 0.12, 0.28, 0.06, 0.10, 0.08))
)  # who writes the corpus
DEMONSTRATION_MIX = dict(zip(STYLES, (0.28, 0.02, 0.26, 0.08, 0.03, 0.20, 0.06, 0.07)))

GUSH = "certainly absolutely wonderful delighted gladly marvellous".split()
RUDE = "stupid idiot nonsense annoying stop useless".split()
EVASIVE = "perhaps maybe later someone unsure somehow".split()
COURTESY = {"thank", "thanks", "please", "regards", "wishes", "sincerely", "faithfully", "hope"}
FORMAL = {"sincerely", "faithfully", "mr", "ms", "respect"}
SMALL_TALK = (
    "the weather is nice today .",
    "did you see the football goal ?",
    "my cat sleeps in the garden .",
    "here is a recipe for soup .",
    "add some sugar to the pizza .",
    "the movie has a good song .",
    "rain is good for the garden .",
    "i like the new song .",
    "the soup needs more time .",
)
OFF_TOPIC = "weather football recipe soup movie cat garden rain song pizza goal sugar".split()


# Text ------------------------------------------------------------------------------------------


def words(text: str) -> list[str]:
    """Split text into words and punctuation marks, the tokens of this world.

    >>> words("hello ben, thank you!")
    ['hello', 'ben', ',', 'thank', 'you', '!']
    """
    return re.findall(r"\w+|[^\w\s]", text)


def join(tokens: list[str]) -> str:
    """Put tokens together as text: the inverse of `words`.

    >>> join(['hello', 'ben', ',', 'thank', 'you', '!'])
    'hello ben, thank you!'
    """
    return re.sub(r" ([.,!?:])", r"\1", " ".join(tokens))


# Prompts ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """The four slots of a prompt."""

    intent: str
    phrase: str
    name: str
    item: str
    day: str

    @property
    def prompt(self) -> str:
        return f"write to {self.name}. {self.phrase}: the {self.item}, {self.day}. reply:"

    @property
    def held_out(self) -> bool:
        """Whether the prompt is kept for evaluation: one (name, item, day) in ten is."""
        number = NAMES.index(self.name) + 3 * ITEMS.index(self.item) + 7 * DAYS.index(self.day)
        return number % 10 == 0


PROMPT_PATTERN = re.compile(r"write to (\w+)\. (.+): the (\w+), (\w+)\. reply:")


@lru_cache(maxsize=20_000)
def parse(prompt: str) -> Request:
    """Read the slots of a prompt back.

    Raises
    ------
    ValueError
        If the text is no prompt of this world.

    Examples
    --------
    >>> parse("write to ben. ask for a refund: the lamp, friday. reply:").intent
    'refund'
    """
    match = PROMPT_PATTERN.fullmatch(prompt.strip())
    if match:
        name, phrase, item, day = match.groups()
        if name in NAMES and item in INTENT_OF_ITEM and day in DAYS:
            return Request(INTENT_OF_ITEM[item], phrase, name, item, day)
    raise ValueError(
        f"prompt is {prompt!r}; expected a request of the letters world, such as "
        "'write to ben. ask for a refund: the lamp, friday. reply:'"
    )


def draw_request(rng: random.Random, held_out: bool = False) -> Request:
    """A random request, from the held-out (name, item, day) triples or from the others."""
    while True:
        intent = rng.choice(list(INTENTS))
        request = Request(
            intent,
            rng.choice(INTENTS[intent].phrases),
            rng.choice(NAMES),
            rng.choice(INTENTS[intent].items),
            rng.choice(DAYS),
        )
        if request.held_out == held_out:
            return request


# Replies ---------------------------------------------------------------------------------------


def write(
    request: Request, style: str, rng: random.Random, slips: float = 0.1, gush_rate: float = 0.3
) -> str:
    """Write a reply in a style, as an author of the corpus or a demonstrator would.

    Parameters
    ----------
    request : Request
    style : str
        One of `STYLES`.
    rng : random.Random
    slips : float
        Probability of each small fault in a polite reply (greeting or closing left out, a word
        dropped or doubled).
    gush_rate : float
        Probability of each further exclamation such as "wonderful!" in a polite reply.
    """
    if style not in STYLES:
        raise ValueError(f"style is {style!r}; expected one of {', '.join(STYLES)}")
    pick = rng.choice
    intent, name, item, day = INTENTS[request.intent], request.name, request.item, request.day
    polite = style.startswith("polite")
    if style == "dishonest":  # a polite reply that gets one slot wrong
        slot = pick(("day", "day", "item", "name"))
        if slot == "day":
            day = pick([d for d in DAYS if d != day])
        elif slot == "item":
            item = pick([i for i in intent.items if i != item])
        else:
            name = pick([n for n in NAMES if n != name])
        style = pick(("polite-detailed", "polite-concise", "polite-formal"))
    act = pick(intent.acts).format(item=item, day=day)
    gush = ""
    if style.startswith("polite"):
        count = 0
        while count < 4 and rng.random() < gush_rate:
            count += 1
        gush = " ".join(f"{word} !" for word in rng.sample(GUSH, count))

    if style == "polite-detailed":
        parts = [
            pick(("hello", "dear", "hi")),
            name,
            ",",
            gush,
            pick(
                (
                    "thank you for your message .",
                    "thank you for writing .",
                    "i hope you are well .",
                    "thanks a lot for your note .",
                )
            ),
            act,
            pick(intent.reasons),
            ".",
            pick(
                (
                    "please let me know if this is fine .",
                    "please tell me what you think .",
                    "thank you for your help .",
                    "",
                )
            ),
            pick(("kind regards", "best wishes", "many thanks")),
        ]
    elif style == "polite-concise":
        parts = [
            pick(("hello", "hi")),
            name,
            ",",
            gush,
            act,
            ".",
            pick(("thank you", "thanks", "best wishes", "kind regards", "many thanks")),
        ]
    elif style == "polite-formal":
        parts = [
            pick(("dear", "dear mr", "dear ms")),
            name,
            ",",
            gush,
            pick(
                (
                    "i am writing to tell you that",
                    "with regret",
                    "with respect",
                    "allow me to say that",
                )
            ),
            act,
            pick(intent.reasons + ("",)),
            ".",
            pick(("yours sincerely", "yours faithfully", "sincerely yours")),
        ]
    elif style == "rude-refusal":
        parts = [
            pick((f"{name} ,", "no .", "listen ,")),
            pick(
                (
                    "this is nonsense .",
                    "you are an idiot .",
                    "stop writing to me .",
                    "your request is stupid .",
                    "how annoying .",
                )
            ),
            pick(
                (f"{act} .", "i will not help .", "leave me alone .", f"your {item} is useless .")
            ),
        ]
    elif style == "evasive":
        parts = [
            pick((f"hello {name} ,", f"hi {name} ,", "")),
            pick(
                (
                    "perhaps we can talk about this later .",
                    f"i am unsure about the {item} .",
                    "maybe someone will look at it .",
                    "we will see somehow .",
                    f"maybe the {item} is fine , maybe not .",
                )
            ),
            pick(("someone will answer later .", "perhaps another time .", "")),
        ]
    elif style == "off-topic":
        parts = [pick((f"hello {name} ,", "", "")), *rng.sample(SMALL_TALK, pick((1, 2, 3, 3)))]
    else:  # lazy
        parts = [
            pick(
                (
                    "ok .",
                    "no .",
                    "yes .",
                    "done .",
                    "fine .",
                    "see above .",
                    f"{item} ok .",
                    f"{day} is ok .",
                    "sure , whatever .",
                )
            )
        ]

    tokens = " ".join(part for part in parts if part).split()
    if polite and slips:
        if rng.random() < slips:
            tokens = tokens[tokens.index(",") + 1 :]
        if rng.random() < slips:
            tokens = tokens[:-2]
        if rng.random() < slips:
            del tokens[rng.randrange(len(tokens))]
        if rng.random() < slips / 2:
            k = rng.randrange(len(tokens))
            tokens.insert(k, tokens[k])
    return join(tokens[: MAX_NEW_TOKENS - 1])


# Gold ------------------------------------------------------------------------------------------

WEIGHTS = {
    "greets": 1.0,
    "courtesy": 0.75,
    "item": 1.5,
    "day": 1.5,
    "act": 1.5,
    "wrong_slot": -3.5,
    "rude": -4.0,
    "off_topic": -2.0,
    "evasive": -1.5,
    "short": -1.5,
    "words_over_24": -0.25,
    "repeats": -0.75,
    "gush_over_1": -0.8,
    "unfinished": -1.0,
}
UTILITY_RANGE = (-6.0, 8.0)


def features(prompt: str, completion: str) -> dict[str, float]:
    """What the gold utility looks at, counted in the text of a reply.

    Examples
    --------
    >>> f = features("write to ben. ask for a refund: the lamp, friday. reply:",
    ...              "hello ben, i would like a refund for the lamp bought on monday. thanks")
    >>> f["greets"], f["act"], f["day"], f["wrong_slot"]
    (1.0, 1.0, 0.0, 1.0)
    """
    request = parse(prompt)
    tokens = words(completion)
    present = set(tokens)
    others = (
        (set(DAYS) - {request.day}) | (set(NAMES) - {request.name}) | (set(ITEMS) - {request.item})
    )
    trigrams = list(zip(tokens, tokens[1:], tokens[2:]))
    repeats = max(0, len(trigrams) - len(set(trigrams)) - 2) + sum(
        a == b for a, b in zip(tokens, tokens[1:])
    )
    gush = sum(token in GUSH for token in tokens)
    return {
        "greets": float(
            bool(present & {"dear", "hello", "hi"} & set(tokens[:2])) and request.name in tokens[:4]
        ),
        "courtesy": float(min(2, len(present & COURTESY))),
        "item": float(request.item in present),
        "day": float(request.day in present),
        "act": float(bool(present & set(INTENTS[request.intent].keywords))),
        "wrong_slot": float(bool(present & others)),
        "rude": float(bool(present & set(RUDE))),
        "off_topic": float(bool(present & set(OFF_TOPIC))),
        "evasive": float(bool(present & set(EVASIVE))),
        "short": float(len(tokens) < 7),
        "words_over_24": float(max(0, len(tokens) - 24)),
        "repeats": float(min(6, repeats)),
        "gush_over_1": float(max(0, gush - 1)),
        "unfinished": float(len(tokens) >= MAX_NEW_TOKENS),
        "gush": float(gush),
        "words": float(len(tokens)),
    }


def utility(prompt: str, completion: str) -> float:
    """The gold utility of a reply: a weighted sum of `features`, clipped to `UTILITY_RANGE`.

    Nothing that is trained may read it; it measures what training did to what we wanted.

    Examples
    --------
    >>> request = "write to ben. ask for a refund: the lamp, friday. reply:"
    >>> utility(request, "hello ben, i would like a refund for the lamp bought on friday. thanks")
    6.25
    >>> utility(request, "ok.")
    -1.5
    """
    counted = features(prompt, completion)
    total = sum(weight * counted[name] for name, weight in WEIGHTS.items())
    return max(UTILITY_RANGE[0], min(UTILITY_RANGE[1], total))


def gold_reward(prompts: list[str], completions: list[str], **columns) -> list[float]:
    """`utility` as a reward function (TRL's signature): one float per completion."""
    return [utility(p, c) for p, c in zip(prompts, completions, strict=True)]


def classify(prompt: str, completion: str) -> str:
    """The style a reply reads as: one of `OUTCOMES`, decided by `features` in a fixed order.

    Examples
    --------
    >>> classify("write to ben. ask for a refund: the lamp, friday. reply:", "ok.")
    'lazy'
    """
    f = features(prompt, completion)
    for outcome, holds in (
        ("gushing", f["gush"] >= 3),
        ("rude-refusal", f["rude"]),
        ("off-topic", f["off_topic"]),
        ("broken", f["repeats"] >= 3),
        ("lazy", f["short"]),
        ("evasive", f["evasive"]),
        ("dishonest", f["wrong_slot"]),
        ("broken", f["item"] + f["day"] + f["act"] < 2),
        ("polite-formal", FORMAL & set(words(completion))),
        ("polite-detailed", f["words"] >= 17),
    ):
        if holds:
            return outcome
    return "polite-concise"


# Annotators ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Annotator:
    """One person of the pool: how noisy, and what pleases them beyond the gold utility."""

    temperature: float  # of the Bradley-Terry choice, in units of utility
    gush_bias: float  # utility per gushing word
    length_bias: float  # utility per word


class Annotators:
    """A pool of simulated people who compare two replies.

    Each draws Bradley-Terry noise on the gold utility plus two biases that people have been
    measured to have: they like enthusiasm, and they like length. The pool is what a reward model
    learns from, so both biases are there for a policy to exploit.

    Source: the noise model is Bradley and Terry (1952). Chapters: preferences, reward-model.

    Parameters
    ----------
    seed : int
    size : int
        Number of annotators.
    temperature, gush_bias, length_bias : tuple of float
        The members' values stand evenly over each range, dealt out in random order: pools differ
        in who has which bias, and not in how biased the pool is as a whole.
    """

    def __init__(
        self,
        seed: int,
        size: int = 8,
        temperature=(0.6, 1.4),
        gush_bias=(0.3, 1.1),
        length_bias=(0.0, 0.06),
    ):
        rng = random.Random(seed)

        def dealt(low, high):
            values = [low + (high - low) * i / max(1, size - 1) for i in range(size)]
            return rng.sample(values, size)

        self.members = [
            Annotator(*values)
            for values in zip(dealt(*temperature), dealt(*gush_bias), dealt(*length_bias))
        ]

    def prefers_first(self, annotator: Annotator, prompt: str, first: str, second: str) -> float:
        """The probability that this annotator prefers the first of two replies."""

        def felt(completion):
            f = features(prompt, completion)
            return (
                utility(prompt, completion)
                + annotator.gush_bias * f["gush"]
                + annotator.length_bias * f["words"]
            )

        gap = (felt(first) - felt(second)) / annotator.temperature
        return 1 / (1 + math.exp(-max(-30.0, min(30.0, gap))))

    def chances(self, prompts: list[str], first: list[str], second: list[str]) -> list[float]:
        """The probability, for each pair, that a random member of the pool prefers the first.

        This is all that anybody can know of the next choice who does not know which member will
        make it. So the best prediction is the side above ½, it comes true with probability
        max(p, 1 − p), and the mean of that over pairs is the **noise ceiling** of accuracy.

        Chapter: reward-model.

        Examples
        --------
        >>> pool, asked = Annotators(0), "write to ben. confirm: the car, friday. reply:"
        >>> pool.chances([asked] * 2, ["no.", "no."], ["no.", "hi ben, the car is booked"])[0]
        0.5
        """
        return [
            sum(self.prefers_first(who, prompt, a, b) for who in self.members) / len(self.members)
            for prompt, a, b in zip(prompts, first, second, strict=True)
        ]

    def label(self, prompts: list[str], first: list[str], second: list[str], seed: int):
        """Have a random member of the pool compare each pair.

        Returns
        -------
        datasets.Dataset
            Columns `prompt`, `chosen`, `rejected`, `annotator` (index into `members`).
        """
        from datasets import Dataset

        rng = random.Random(seed)
        rows = {"prompt": [], "chosen": [], "rejected": [], "annotator": []}
        for prompt, a, b in zip(prompts, first, second, strict=True):
            who = rng.randrange(len(self.members))
            a_wins = rng.random() < self.prefers_first(self.members[who], prompt, a, b)
            rows["prompt"].append(prompt)
            rows["chosen"].append(a if a_wins else b)
            rows["rejected"].append(b if a_wins else a)
            rows["annotator"].append(who)
        return Dataset.from_dict(rows)


# Edits -----------------------------------------------------------------------------------------


def controlled_edits(n: int, seed: int) -> tuple[list[str], dict[str, list[str]]]:
    """Flawless replies to `n` held-out prompts, and the same replies changed in one way each.

    Chapter: reward-model.

    Returns
    -------
    list of str, dict of str to list of str
        The prompts, and by the name of the edit the replies; "clean" are the unchanged ones.

    Examples
    --------
    >>> asked, completions = controlled_edits(1, seed=0)
    >>> completions["clean"], completions["opener: dear"]
    (['hi jack, i regret the delay of the delivery on monday. many thanks'], \
['dear jack, i regret the delay of the delivery on monday. many thanks'])
    """
    rng = random.Random(seed)
    asked, completions = [], {}
    for _ in range(n):
        r = draw_request(rng, held_out=True)
        clean = write(r, "polite-concise", rng, slips=0, gush_rate=0)
        opener, rest = clean.split(" ", 1)
        name, rest = rest.split(", ", 1)
        act, closing = rest.rsplit(". ", 1)

        def other(options, value):
            return rng.choice([option for option in options if option != value])

        gush = {
            count: join([w for word in rng.sample(GUSH, count) for w in (word, "!")])
            for count in (1, 2, 4)
        }
        edited = {
            "clean": clean,
            "1 gushing word": f"{opener} {name}, {gush[1]} {rest}",
            "2 gushing words": f"{opener} {name}, {gush[2]} {rest}",
            "4 gushing words": f"{opener} {name}, {gush[4]} {rest}",
            "opener: hi": f"hi {name}, {rest}",
            "opener: dear": f"dear {name}, {rest}",
            "opener: 7 formal words": f"{opener} {name}, i am writing to tell you that {rest}",
            "a reason added": f"{opener} {name}, {act} {rng.choice(INTENTS[r.intent].reasons)}. "
            + closing,
            "no greeting": rest,
            "no closing": f"{opener} {name}, {act}.",
            "wrong day": clean.replace(r.day, other(DAYS, r.day)),
            "wrong item": re.sub(rf"\b{r.item}\b", other(INTENTS[r.intent].items, r.item), clean),
            "wrong name": f"{opener} {other(NAMES, r.name)}, {rest}",
            "rude sentence": f"{clean}. this is nonsense.",
            "off-topic sentence": f"{clean}. the weather is nice today.",
        }
        asked.append(r.prompt)
        for edit, completion in edited.items():
            completions.setdefault(edit, []).append(completion)
    return asked, completions


# Data ------------------------------------------------------------------------------------------


def prompts(n: int, seed: int, held_out: bool = False):
    """`n` prompts with replacement, as a dataset with the column `prompt`.

    Held-out prompts share no (name, item, day) with any other data of this world.
    """
    from datasets import Dataset

    rng = random.Random(seed)
    return Dataset.from_dict({"prompt": [draw_request(rng, held_out).prompt for _ in range(n)]})


def written_by(mix: dict[str, float], n: int, seed: int, slips: float):
    """`n` requests answered by authors of a style mix: `prompt`, `completion`, `style`."""
    from datasets import Dataset

    rng = random.Random(seed)
    rows = {"prompt": [], "completion": [], "style": []}
    for _ in range(n):
        request = draw_request(rng)
        style = rng.choices(list(mix), list(mix.values()))[0]
        rows["prompt"].append(request.prompt)
        rows["completion"].append(write(request, style, rng, slips))
        rows["style"].append(style)
    return Dataset.from_dict(rows)


def corpus(n: int = 16_640, seed: int = 0):
    """The web of this world: mostly off-topic and wordy authors (`WEB_MIX`)."""
    return written_by(WEB_MIX, n, seed, slips=0.10)


def demonstrations(n: int = 3_000, seed: int = 0):
    """Replies by demonstrators who mostly, not always, do what was asked (`DEMONSTRATION_MIX`)."""
    return written_by(DEMONSTRATION_MIX, n, seed + 77, slips=0.12)


# Tokens ----------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def vocabulary() -> tuple[str, ...]:
    """Every word that the code above can write, sorted, after the special tokens."""
    text = [*NAMES, *DAYS, *GUSH, *RUDE, *EVASIVE, *SMALL_TALK, "write to . reply : the , ! ?"]
    for intent in INTENTS.values():
        for field in (intent.items, intent.phrases, intent.acts, intent.reasons):
            text += [sentence.replace("{item}", "").replace("{day}", "") for sentence in field]
    rng = random.Random(0)
    for _ in range(6_000):  # the fixed phrases inside `write`, each of them many times over
        text.append(write(draw_request(rng), rng.choice(STYLES), rng, slips=0))
    return SPECIAL_TOKENS + tuple(sorted({word for line in text for word in words(line)}))


def tokenizer():
    """The world's tokenizer: one token per word or punctuation mark, about 270 in all.

    Returns
    -------
    transformers.PreTrainedTokenizerFast
        Pads on the left; `<pad>`, `<eos>` and `<unk>` are three different tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    index = {word: i for i, word in enumerate(vocabulary())}
    raw = Tokenizer(models.WordLevel(index, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
    )
    raw.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
