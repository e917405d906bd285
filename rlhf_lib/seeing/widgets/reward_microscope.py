"""The reward microscope: edit a completion, and see what each word is worth to a reward function.

Without a kernel the reader tries edits that were scored when the demo was made. With one, the
reader types, and Python scores. The browser side is reward_microscope.js.

Chapter: reward-model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import traitlets

from ...worlds import letters
from .base import Demo, browser_code, styles

if TYPE_CHECKING:  # the other demos need no PyTorch, so it is loaded by what uses it
    from ..word_scores import WordScores

DIGITS = 4  # what is kept of a score
UNCHANGED, TYPED = "as written", "your own"


def letters_edits(prompt: str, completion: str) -> dict[str, str]:
    """One-step edits of a letter: of each, its name and the edited text.

    An edit that changes nothing is left out.

    Raises
    ------
    ValueError
        If the prompt is none of the letters world.

    Chapter
    -------
    reward-model

    Examples
    --------
    >>> edits = letters_edits("write to ben. confirm: the boat, friday. reply:",
    ...                       "hello ben, your boat is booked for friday. thanks")
    >>> edits["another day"]
    'hello ben, your boat is booked for saturday. thanks'
    """
    request, words = letters.parse(prompt), letters.words(completion)

    def following(options: Sequence[str], one: str) -> str:
        return options[(options.index(one) + 1) % len(options)]

    def swapped(old: str, options: Sequence[str]) -> list[str]:
        return [following(options, old) if word == old else word for word in words]

    greeting = 1 + words.index(",") if "," in words[:4] else 0
    stops = [i for i, word in enumerate(words) if word == "."]
    closing = 1 + stops[-1] if stops else len(words)
    items = letters.INTENTS[request.intent].items
    edits = {
        "no greeting": words[greeting:],
        "no closing": words[:closing],
        "without the day": [word for word in words if word != request.day],
        "another day": swapped(request.day, letters.DAYS),
        "another item": swapped(request.item, items),
        "another name": swapped(request.name, letters.NAMES),
        "one gushing word": words[:greeting] + "wonderful !".split() + words[greeting:],
        "three gushing words": (
            words[:greeting] + "wonderful ! marvellous ! delighted !".split() + words[greeting:]
        ),
        "a rude sentence": words[:closing] + "this is nonsense .".split() + words[closing:],
        "small talk": words[:closing] + "the weather is nice today .".split() + words[closing:],
        "the end twice": words + words[closing:],
    }
    return {
        name: letters.join(edited) for name, edited in edits.items() if edited and edited != words
    }


class MicroscopeNumbers(NamedTuple):
    """What the reward microscope shows of one completion.

    Attributes
    ----------
    completion : str
    scores : WordScores
    change : float
        In score, against the completion as it was written.
    gold, gold_change : float or None
        The same of the gold function; None without one.
    """

    completion: str
    scores: WordScores
    change: float
    gold: float | None
    gold_change: float | None


class RewardMicroscope(Demo):
    """A completion with the contribution of each word below it, and a table of edits to try.

    All edits are scored when the demo is made, so that it works in a page without Python. With
    Python behind it there is a field as well, and each pause in typing scores what it holds.

    Parameters
    ----------
    reward : callable
        A reward function, such as `LearnedReward(model, tokenizer)`.
    completions : sequence of (prompt, completion)
        What the reader starts from; two to four of them.
    edits : callable or sequence of dict
        Of a prompt and a completion, returns a dict from the name of an edit to the edited text;
        or such a dict for each of the completions. By default `letters_edits`.
    gold : callable, optional
        A reward function too: the truth to show beside the score.

    Raises
    ------
    ValueError
        If there is no completion, one is empty, edits are not one dict a completion, or a score is
        not finite.
    RuntimeError
        If a reward function raises.

    Chapter
    -------
    reward-model

    Examples
    --------
    >>> length = lambda prompts, completions: [len(c) / 10 for c in completions]
    >>> RewardMicroscope(length, [("write to ben. confirm: the boat, friday. reply:",
    ...                            "the boat is booked. thanks")])
    RewardMicroscope(1 replies, 7 edits; as written: score 2.600)
    """

    _esm = browser_code("reward_microscope")
    _css = styles("reward_microscope")

    prompts = traitlets.List(traitlets.Unicode()).tag(sync=True)
    rows = traitlets.List().tag(sync=True)  # for each prompt, what can be read; as written first
    case = traitlets.Int(0).tag(sync=True)  # the prompt on display
    edit = traitlets.Unicode(UNCHANGED).tag(sync=True)  # name of the completion on display
    view = traitlets.Enum(["contributions", "running"], "contributions").tag(sync=True)
    typed = traitlets.Dict().tag(sync=True)  # the reader's own completion, as a row with its `case`

    def __init__(
        self,
        reward: Callable,
        completions: Sequence[tuple[str, str]],
        edits: Callable | Sequence[Mapping[str, str]] = letters_edits,
        *,
        gold: Callable | None = None,
    ) -> None:
        completions = [tuple(pair) for pair in completions]
        if not completions:
            raise ValueError(
                "completions is empty; expected at least one pair of prompt and completion"
            )
        edited = [edits(*pair) for pair in completions] if callable(edits) else list(edits)
        if len(edited) != len(completions):
            raise ValueError(
                f"edits has {len(edited)} entries; expected {len(completions)}, one for each "
                "completion"
            )
        self.reward, self.gold = reward, gold
        super().__init__(
            prompts=[prompt for prompt, _ in completions],
            rows=[
                [
                    self._row(prompt, name, text)
                    for name, text in {UNCHANGED: completion, **changes}.items()
                ]
                for (prompt, completion), changes in zip(completions, edited)
            ],
        )
        self.on_msg(self._heard)

    def _row(self, prompt: str, name: str, completion: str) -> dict:
        """A completion as it is stored: scores rounded, so that the page stays small."""
        from ...models.rewards import call_reward
        from ..word_scores import word_scores

        scores = word_scores(self.reward, prompt, completion)
        gold = None
        if self.gold is not None:
            gold = round(call_reward(self.gold, [prompt], ["".join(scores.pieces)]).item(), DIGITS)
        return {
            "name": name,
            "pieces": scores.pieces,
            "score": round(scores.score, DIGITS),
            "contributions": [round(x, DIGITS) for x in scores.contributions],
            "running": [round(x, DIGITS) for x in scores.running],
            "gold": gold,
        }

    def try_completion(self, completion: str) -> None:
        """Score a completion of your own to the prompt on display, and show it.

        Raises
        ------
        ValueError, RuntimeError
            As `word_scores`; the display stays as it was.
        """
        self._score_typed(self.case, completion)
        self.edit = TYPED

    def _score_typed(self, case: int, completion: str) -> None:
        row = self._row(self.prompts[case], TYPED, completion)
        self.typed = {**row, "case": case, "unknown": self._unknown(row["pieces"])}

    def _unknown(self, pieces: list[str]) -> list[str]:
        """The words that the reward's tokenizer does not know, where it says so."""
        tokenizer = getattr(self.reward, "tokenizer", None)
        unknown = getattr(tokenizer, "unk_token_id", None)
        words = list(dict.fromkeys(piece.strip() for piece in pieces))
        return (
            []
            if unknown is None
            else [
                word
                for word in words
                if unknown in tokenizer(word, add_special_tokens=False)["input_ids"]
            ]
        )

    def _heard(self, _, message: dict, buffers) -> None:
        """Answer the browser: `hello`, or `score` of a text, which it shows if it still asks."""
        answer = {"id": message.get("id", 0)}
        try:
            if message.get("kind") == "score":
                self._score_typed(message["case"], message["reply"])
            self.send({"kind": "done", **answer})
        except Exception as error:  # whatever a reader's reward raises belongs on the page
            self.send({"kind": "failed", "text": str(error), **answer})

    @traitlets.validate("case")
    def _check_case(self, proposal) -> int:
        if not 0 <= proposal["value"] < len(self.prompts):
            raise ValueError(f"case is {proposal['value']}; expected 0 to {len(self.prompts) - 1}")
        return proposal["value"]

    @traitlets.validate("edit")
    def _check_edit(self, proposal) -> str:
        names = {row["name"]: 0 for rows in self.rows for row in rows}
        if proposal["value"] not in [*names, TYPED]:
            raise ValueError(
                f"edit is {proposal['value']!r}; expected one of {', '.join(map(repr, names))}"
            )
        return proposal["value"]

    @property
    def result(self) -> MicroscopeNumbers:
        """The numbers on display; of the text as written where it has no edit of that name."""
        from ..word_scores import WordScores

        rows = self.rows[self.case]
        if self.typed.get("case") == self.case:
            rows = [*rows, self.typed]
        base = rows[0]
        row = next((row for row in rows if row["name"] == self.edit), base)
        gold = row["gold"]
        return MicroscopeNumbers(
            completion="".join(row["pieces"]),
            scores=WordScores(row["pieces"], row["score"], row["contributions"], row["running"]),
            change=row["score"] - base["score"],
            gold=gold,
            gold_change=None if gold is None else gold - base["gold"],
        )

    def summary(self) -> str:
        """The state in a few words."""
        edits = sum(len(rows) - 1 for rows in self.rows)
        numbers = self.result
        gold = "" if numbers.gold is None else f", gold {numbers.gold:.2f}"
        return (
            f"{len(self.prompts)} replies, {edits} edits; {self.edit}: "
            f"score {numbers.scores.score:.3f}{gold}"
        )
