"""Plausible wrong answers to the exercises of distillation; the checks must refuse each."""

from __future__ import annotations

# --- share_of_a -----------------------------------------------------------------------------------


def mean_of_the_texts_shares(texts, probabilities):
    """Each text counts the same, whatever its length: the loss of aggregate(..., "sequences")."""
    return sum(w * text.count("a") / len(text) for text, w in zip(texts, probabilities))


def without_the_probabilities(texts, probabilities):
    return sum(text.count("a") for text in texts) / sum(map(len, texts))


def of_the_likeliest_text(texts, probabilities):
    text = texts[max(range(len(texts)), key=probabilities.__getitem__)]
    return text.count("a") / len(text)


def share_of_b(texts, probabilities):
    letters = sum(w * text.count("b") for text, w in zip(texts, probabilities))
    return letters / sum(w * len(text) for text, w in zip(texts, probabilities))


def of_the_first_letters(texts, probabilities):
    return sum(w for text, w in zip(texts, probabilities) if text[0] == "a")


def with_an_end_token(texts, probabilities):
    """As if the end had to be learnt by the same number."""
    letters = sum(w * text.count("a") for text, w in zip(texts, probabilities))
    return letters / sum(w * (len(text) + 1) for text, w in zip(texts, probabilities))


# --- pulls ----------------------------------------------------------------------------------------


def _both(logits, teacher_logits):
    return logits.log_softmax(0), teacher_logits.log_softmax(0)


def _right(logits, teacher_logits):
    p, q = _both(logits, teacher_logits)
    mean = (p.exp() * (q - p)).sum()
    return q.exp() - p.exp(), p.exp() * (q - p - mean)


def uphill(logits, teacher_logits):
    return tuple(-x for x in _right(logits, teacher_logits))


def the_wrong_way_round(logits, teacher_logits):
    return _right(logits, teacher_logits)[::-1]


def without_the_baseline(logits, teacher_logits):
    p, q = _both(logits, teacher_logits)
    return q.exp() - p.exp(), p.exp() * (q - p)


def a_gap_of_logits_for_the_first(logits, teacher_logits):
    return teacher_logits - logits, _right(logits, teacher_logits)[1]


def a_plain_mean_for_the_baseline(logits, teacher_logits):
    p, q = _both(logits, teacher_logits)
    return q.exp() - p.exp(), p.exp() * (q - p - (q - p).mean())


def weighed_by_the_teacher(logits, teacher_logits):
    p, q = _both(logits, teacher_logits)
    mean = (q.exp() * (q - p)).sum()
    return q.exp() - p.exp(), q.exp() * (q - p - mean)


def for_two_habits_only(logits, teacher_logits):
    p, q = _both(logits, teacher_logits)
    slope = p.exp() * (1 - p.exp()) * (teacher_logits - logits)
    return q.exp() - p.exp(), slope


WRONG = {
    "share_of_a": [
        mean_of_the_texts_shares,
        without_the_probabilities,
        of_the_likeliest_text,
        share_of_b,
        of_the_first_letters,
        with_an_end_token,
    ],
    "pulls": [
        uphill,
        the_wrong_way_round,
        without_the_baseline,
        a_gap_of_logits_for_the_first,
        a_plain_mean_for_the_baseline,
        weighed_by_the_teacher,
        for_two_habits_only,
    ],
}
