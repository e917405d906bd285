"""What each word of a completion does to its score.

Chapter: reward-model.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from ..models.rewards import RewardFunction, call_reward, name_of

WORD = re.compile(r"\s*(?:\w+(?:['’-]\w+)*|[^\w\s])")  # with the white space before it


class WordScores(NamedTuple):
    """What each word of a completion does to its score. Everything is in units of reward.

    Chapter: reward-model.

    Attributes
    ----------
    pieces : list of N strings
        The words and punctuation marks, each with the white space before it; together, the
        completion.
    score : float
        r(y) of the whole completion.
    contributions : list of N floats
        r(y) − r(y without word i). Exact for any reward function. The words act together, so these
        need not add up to anything.
    running : list of N + 1 floats
        The reward of the first 0, 1, …, N words, each as a whole completion. The steps add up to
        r(y) − r(empty). A reward model learns from whole completions, though.
    """

    pieces: list[str]
    score: float
    contributions: list[float]
    running: list[float]


def word_scores(reward: RewardFunction, prompt: str, completion: str) -> WordScores:
    """Score a completion, the completion without each of its words, and each of its beginnings.

    Every number is the reward of a complete text, with its end token: the head of a reward model
    is trained at the last token alone, so what it gives at an earlier one is not used.

    Definition: leave one out, r(y) − r(y without word i). Chapter: reward-model.

    Parameters
    ----------
    reward : callable
    prompt, completion : str
        The completion has at least one word.

    Raises
    ------
    ValueError
        If the completion has no word, or a score is not finite or None.
    RuntimeError
        If the reward function raises, as a completion over the model's context makes it.

    Examples
    --------
    >>> commas = lambda prompts, completions: [float(c.count(",")) for c in completions]
    >>> word_scores(commas, "say hello", "hello, you").contributions
    [0.0, 1.0, 0.0]
    """
    pieces = WORD.findall(completion.strip())
    if not pieces:
        raise ValueError("the completion is empty; expected at least one word")
    n = len(pieces)
    without = ["".join(pieces[:i] + pieces[i + 1 :]).strip() for i in range(n)]
    beginnings = ["".join(pieces[:i]) for i in range(n)]
    texts = ["".join(pieces), *without, *beginnings]
    score, *others = call_reward(reward, [prompt] * len(texts), texts).double().tolist()
    if any(map(math.isnan, [score, *others])):
        raise ValueError(f"reward function {name_of(reward)!r} returned None; expected a number")
    return WordScores(pieces, score, [score - other for other in others[:n]], [*others[n:], score])
