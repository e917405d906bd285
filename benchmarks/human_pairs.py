"""Human preferences for `real_preferences`: pairs, their split, two baselines, and measures.

The text of the pairs offends; it is read for numbers, and nothing here prints or stores any of it.
Axes: M pairs, W words.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import tempfile
from collections import Counter
from dataclasses import dataclass, replace

import datasets
import numpy as np
import torch
from torch import Tensor

from rlhf_lib.mathematics import calibration
from rlhf_lib.mathematics.intervals import wilson
from rlhf_lib.worlds.data import load_preferences
from rlhf_lib.worlds.dialogues import Writer
from rlhf_lib.worlds.lengths import row_lengths

SPEAKERS = {"Human": "user", "Assistant": "assistant"}
TURN = re.compile(r"\n\n(Human|Assistant):")
WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|[0-9]+|[?!]")
STRENGTHS = tuple(10.0**k for k in (-3, -2.5, -2, -1.5, -1, -0.5))  # of L2
SEEN = 5  # pairs that a word has to part, to be counted
RESAMPLES = 2_000  # of a bootstrap
WANTED = (
    "expected a folder of Anthropic's HH-RLHF with a test split, such as "
    "harmless-base/test.jsonl.gz (https://huggingface.co/datasets/Anthropic/hh-rlhf); name it by "
    "--data, or in the environment variable HH_RLHF_DIR"
)


# ---------------------------------------------------------------------------------- pairs


@dataclass(frozen=True)
class HumanPair:
    """Two replies to one dialogue, of which a person chose one."""

    dialogue: str  # how it begins, by which pairs are told to be of one dialogue
    turns: tuple[tuple[str, str], ...]  # (role, text) of what stands before the replies
    chosen: str
    rejected: str
    cut: int = 0  # turns at its beginning that were left out

    def texts(self, writer: Writer) -> tuple[str, ...]:
        """Prompt, chosen and rejected completion, as a writer writes messages."""
        said = [{"role": role, "content": text} for role, text in self.turns]
        replies = ([{"role": "assistant", "content": x}] for x in (self.chosen, self.rejected))
        return writer(said, *replies)


def turns_of(text: str) -> tuple[tuple[str, str], ...]:
    r"""The turns of a prompt in the format of hh-rlhf; the last, which is to be written, left out.

    >>> turns_of("\n\nHuman: hello\n\nAssistant: yes?\n\nHuman: bye\n\nAssistant:")
    (('user', 'hello'), ('assistant', 'yes?'), ('user', 'bye'))
    """
    _, *found = TURN.split(text)
    said = [(SPEAKERS[who], what.strip()) for who, what in zip(found[::2], found[1::2])]
    return tuple(said[:-1])


def read_pairs(folder: str | os.PathLike | None) -> list[HumanPair]:
    """All pairs of the test split; a FileNotFoundError says what is missing."""
    if not folder or not os.path.isdir(folder):
        raise FileNotFoundError(f"the folder of preferences is {str(folder)!r}; {WANTED}")
    kept = datasets.config.HF_DATASETS_CACHE
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:  # no copy of it stays
        datasets.config.HF_DATASETS_CACHE = cache
        try:
            table = load_preferences(folder, split="test")
            columns = [list(table[name]) for name in ("prompt", "chosen", "rejected")]
        except ValueError as error:
            raise FileNotFoundError(f"{str(folder)!r} has none; {WANTED}") from error
        finally:
            datasets.config.HF_DATASETS_CACHE = kept
    pairs = []
    for prompt, chosen, rejected in zip(*columns):
        if (turns := turns_of(prompt)) and chosen.strip() != rejected.strip():
            begins = " ".join(WORD.findall(turns[0][1].lower()))
            pairs.append(HumanPair(begins, turns, chosen.strip(), rejected.strip()))
    return pairs


def digest(pairs: list[HumanPair]) -> str:
    """By which a record says what it was made from, without a word of it."""
    said = "\0".join(repr((p.turns, p.chosen, p.rejected)) for p in pairs)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def fitted(pairs: list[HumanPair], tokenizer, max_length: int) -> list[HumanPair]:
    """The pairs in at most `max_length` tokens: old turns are left out, then pairs that do not fit.

    Tokens are those of the chat template. A dialogue always begins with what the person says.
    """
    writer, open_pairs = Writer(tokenizer), dict(enumerate(pairs))
    done: dict[int, HumanPair] = {}
    while open_pairs:
        texts = [pair.texts(writer) for pair in open_pairs.values()]
        lengths = row_lengths(tokenizer, *map(list, zip(*texts)))
        longer = {}
        for (i, pair), length in zip(open_pairs.items(), lengths):
            if length <= max_length:
                done[i] = pair
                continue
            asked = [k for k, (role, _) in enumerate(pair.turns) if role == "user" and k]
            if asked:
                first = asked[0]
                longer[i] = replace(pair, turns=pair.turns[first:], cut=pair.cut + first)
        open_pairs = longer
    return [done[i] for i in sorted(done)]


def parted(pairs: list[HumanPair], held_out: int, seed: int = 0) -> dict[str, list[HumanPair]]:
    """Pairs in three parts that share no dialogue: `held_out`, and two halves of the others.

    Parameters
    ----------
    held_out : int
        Pairs held out at least; the last dialogue taken may have a few more.
    seed : int
        Of the order in which dialogues are taken.

    Raises
    ------
    ValueError
        If that leaves no pair for one of the parts.
    """
    by_dialogue: dict[str, list[HumanPair]] = {}
    for pair in pairs:
        by_dialogue.setdefault(pair.dialogue, []).append(pair)
    order = sorted(by_dialogue)
    random.Random(seed).shuffle(order)
    parts: dict[str, list[HumanPair]] = {"held_out": [], "proxy": [], "gold": []}
    for name in order:
        full = len(parts["held_out"]) >= held_out
        half = (len(pairs) - len(parts["held_out"])) / 2
        to = "held_out" if not full else "proxy" if len(parts["proxy"]) < half else "gold"
        parts[to] += by_dialogue[name]
    if not all(parts.values()):
        sizes = ", ".join(f"{len(part)} for {name}" for name, part in parts.items())
        raise ValueError(
            f"held_out is {held_out} of {len(pairs)} pairs; expected some for each part, and got "
            f"{sizes}"
        )
    return parts


def shared_dialogues(one: list[HumanPair], other: list[HumanPair]) -> int:
    """How many dialogues two parts have in common, by how these began before any turn was cut."""
    return len({pair.dialogue for pair in one} & {pair.dialogue for pair in other})


# ---------------------------------------------------------------------------------- baselines


def counted(pairs: list[HumanPair]) -> list[Counter]:
    """By how much oftener each word stands in the chosen reply."""
    found = []
    for pair in pairs:
        counts = Counter(WORD.findall(pair.chosen.lower()))
        counts.subtract(WORD.findall(pair.rejected.lower()))
        found.append(Counter({word: n for word, n in counts.items() if n}))
    return found


def table(counts: list[Counter], words: list[str]) -> Tensor:
    """The counts of some words, (M, W)."""
    places = {word: i for i, word in enumerate(words)}
    found = torch.zeros(len(counts), len(words), dtype=torch.float64)
    for row, count in enumerate(counts):
        for word, n in count.items():
            if word in places:
                found[row, places[word]] = n
    return found


def fit(differences: Tensor, strength: float) -> Tensor:
    """Weights (W,) with the least Bradley–Terry loss on differences (M, W), chosen less rejected.

    The loss is the mean of softplus(−difference · w), plus strength/2 · |w|². It is convex.
    """
    if not differences.shape[1]:  # no word was seen often enough
        return torch.zeros(0, dtype=torch.float64)
    weights = torch.zeros(differences.shape[1], dtype=torch.float64, requires_grad=True)
    how = dict(max_iter=200, tolerance_grad=1e-7, line_search_fn="strong_wolfe")
    optimizer = torch.optim.LBFGS([weights], **how)

    def closure():
        optimizer.zero_grad()
        misses = torch.nn.functional.softplus(-differences @ weights).mean()
        loss = misses + strength / 2 * weights.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weights.detach()


def words_margins(train: list[HumanPair], held_out: list[HumanPair]) -> tuple[np.ndarray, dict]:
    """Log-odds (M,) of each held-out choice by a bag of words, and what it was fitted with.

    The strength of L2 is that which a fifth of the training dialogues liked best.
    """
    names = sorted({pair.dialogue for pair in train})
    random.Random(0).shuffle(names)
    apart = set(names[: max(1, len(names) // 5)])
    rest, validation = ([p for p in train if (p.dialogue in apart) == x] for x in (False, True))

    def weighed(some: list[HumanPair], others: list[HumanPair], strength: float):
        counts = counted(some)
        seen = Counter(word for count in counts for word in count)
        words = sorted(word for word, n in seen.items() if n >= min(SEEN, len(some)))
        weights = fit(table(counts, words), strength)
        return (table(counted(others), words) @ weights).numpy(), len(words)

    losses = {}
    for strength in STRENGTHS:
        margins, _ = weighed(rest, validation, strength)
        losses[strength] = calibration.log_loss(margins, np.ones(len(margins)))
    best = min(losses, key=losses.__getitem__)
    margins, words = weighed(train, held_out, best)
    return margins, {
        "words": words,
        "strength": best,
        "validation_pairs": len(validation),
        "validation_log_loss": losses[best],
    }


def length_margins(train: list[HumanPair], held_out: list[HumanPair]) -> tuple[np.ndarray, dict]:
    """The same by the difference of lengths alone, in hundreds of characters."""

    def longer(pairs: list[HumanPair]) -> Tensor:
        gaps = [[(len(p.chosen) - len(p.rejected)) / 100] for p in pairs]
        return torch.tensor(gaps, dtype=torch.float64)

    weight = fit(longer(train), 0.0)
    return (longer(held_out) @ weight).numpy(), {"log_odds_per_100_characters": weight.item()}


# ---------------------------------------------------------------------------------- measuring


def rank(margins) -> np.ndarray:
    """1 where the chosen reply has the higher score, 0 where the lower; a tie counts half."""
    return 0.5 + 0.5 * np.sign(np.asarray(margins, dtype=float))


def share(right: np.ndarray) -> dict:
    """A share of pairs, with Wilson's interval."""
    if not len(right):
        return {"pairs": 0, "accuracy": None, "interval": None}
    low, high = wilson(float(right.sum()), len(right))
    return {"pairs": len(right), "accuracy": float(right.mean()), "interval": [low, high]}


def measured(margins, longer) -> dict:
    """Accuracy, log loss, calibration and length bias of margins (M,), chosen less rejected.

    Parameters
    ----------
    margins : array of shape (M,)
        Log-odds that the chosen reply is preferred.
    longer : array of shape (M,)
        By how many tokens the chosen reply is the longer one.
    """
    z, gaps = np.asarray(margins, dtype=float), np.asarray(longer, dtype=float)
    p, right = 1 / (1 + np.exp(-np.abs(z))), rank(z)  # by the model's own choice
    draws = np.random.default_rng(0).random((200, len(p))) < p
    expected = [calibration.expected_calibration_error(p, draw) for draw in draws]
    try:
        temperature = calibration.fit_temperature(z, np.ones(len(z)))
    except ValueError:  # there is none
        temperature = None
    flat = z.std() == 0 or gaps.std() == 0
    return {
        **share(right),
        "log_loss": calibration.log_loss(z, np.ones(len(z))),
        "brier": calibration.brier_score(p, right),
        "confidence": float(p.mean()),
        "ece": calibration.expected_calibration_error(p, right),
        "ece_by_chance": float(np.mean(expected)),  # if every p were true
        "bins": calibration.reliability(p, right).tolist(),  # said, happened, pairs
        "temperature": temperature,
        "where_chosen_is_longer": share(right[gaps > 0]),
        "where_chosen_is_shorter": share(right[gaps < 0]),
        "length_correlation": None if flat else float(np.corrcoef(z, gaps)[0, 1]),
    }


def difference(one, other, dialogues: list[str], seed: int = 0) -> dict:
    """By how much the first margins rank more of the same pairs right than the second.

    The interval is a bootstrap's, 95 %, over dialogues: pairs of one are not independent.
    """
    gaps = rank(one) - rank(other)
    names = {name: i for i, name in enumerate(dict.fromkeys(dialogues))}
    rows = np.array([names[name] for name in dialogues])
    sums, counts = np.bincount(rows, gaps), np.bincount(rows)
    drawn = np.random.default_rng(seed).integers(len(names), size=(RESAMPLES, len(names)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return {
        "difference": float(gaps.mean()),
        "interval": np.quantile(means, [0.025, 0.975]).tolist(),
    }
