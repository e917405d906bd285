"""A change of a function that does not depend on how the function is laid out.

`apply(text, function, old, new)` finds the code `old` in one function of a file and puts `new` in
its place. Both are compared token by token: line breaks inside brackets, comments, spaces, quotes,
trailing commas and the spelling of numbers do not count, so a formatter may move all of them.
"""

from __future__ import annotations

import ast
import functools
import io
import textwrap
import tokenize
from contextlib import suppress
from typing import NamedTuple

LAYOUT = {tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


WHOLE = {"return", "=", "+=", "-=", "*=", "&=", "|=", "yield", "if", "elif", "while", "in"}


class Token(NamedTuple):
    text: str  # the same for two spellings of one thing
    start: tuple[int, int]
    end: tuple[int, int]


def apply(text: str, function: str, old: str, new: str) -> str:
    """The file with `old` replaced in one function, such as "gae" or "Decoder.step".

    Raises
    ------
    ValueError
        If there is no such function, or `old` does not stand in it exactly once.
    """
    first, last = lines_of(text, function)
    code, pairs = bare([t for t in tokens(text) if first <= t.start[0] <= last])
    piece = list(tokens(textwrap.dedent(old)))
    while piece and piece[-1].text == "\n":
        piece.pop()
    wanted = [token.text for token in bare(piece)[0]]
    found = [i for i in range(len(code)) if [t.text for t in code[i : i + len(wanted)]] == wanted]
    if len(found) != 1 or not wanted:
        raise ValueError(f"{old!r} stands {len(found)} times in {function}; expected once")
    i, j = found[0], found[0] + len(wanted) - 1
    start, end = code[i].start, code[j].end
    for inside, opened, closed in pairs:
        if i <= inside[0] and inside[1] <= j:
            start, end = min(start, opened.start), max(end, closed.end)
        elif i < inside[0] <= j:
            raise ValueError(f"{old!r} ends inside a bracket that a formatter may set; take less")
    new = textwrap.indent(textwrap.dedent(new).strip("\n"), " " * start[1]).strip()
    return text[: place(text, start)] + new + text[place(text, end) :]


def place(text: str, position: tuple[int, int]) -> int:
    """The index of a line and column."""
    return sum(map(len, text.splitlines(keepends=True)[: position[0] - 1])) + position[1]


def bare(code: list[Token]) -> tuple[list[Token], list]:
    """Without the brackets around all that is returned, assigned or asked, and where these stood.

    A formatter adds them where it breaks such a line.
    """
    stack, drop = [], {}
    for at, token in enumerate(code):
        if token.text in ("(", "[", "{"):
            stack.append(at)
        elif token.text in (")", "]", "}") and stack:
            opened = stack.pop()
            before = code[opened - 1].text if opened else ""
            after = code[at + 1].text if at + 1 < len(code) else ""
            if (
                before in WHOLE
                and after in ("\n", ":", "")
                and token.text == ")"
                and at > opened + 1
            ):
                drop[opened] = at
    gone = set(drop) | set(drop.values())
    index, kept = {}, []
    for at, token in enumerate(code):
        if at not in gone:
            index[at] = len(kept)
            kept.append(token)
    pairs = []
    for opened, closed in drop.items():
        within = [index[at] for at in range(opened, closed) if at in index]
        pairs.append(((within[0], within[-1]), code[opened], code[closed]))
    return kept, pairs


parsed = functools.cache(ast.parse)  # one file takes many changes, and is read once


def lines_of(text: str, function: str) -> tuple[int, int]:
    """First and last line of a function, a method or a class; of the whole file for ""."""
    body: list = [parsed(text)]
    for name in filter(None, function.split(".")):
        body = [n for parent in body for n in parent.body if getattr(n, "name", None) == name]
    if len(body) != 1:
        raise ValueError(f"{function} is defined {len(body)} times; expected once")
    return getattr(body[0], "lineno", 1), getattr(body[0], "end_lineno", len(text))


@functools.cache
def tokens(text: str) -> tuple[Token, ...]:
    """What a piece of code says, without how it is laid out; it need not be complete."""
    found: list[Token] = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type in LAYOUT:
                continue
            if token.string in (")", "]", "}") and found and found[-1].text == ",":
                found.pop()
            spelled = "\n" if token.type == tokenize.NEWLINE else token.string
            if token.type in (tokenize.NUMBER, tokenize.STRING):
                with suppress(ValueError):  # an f-string is no literal
                    spelled = repr(ast.literal_eval(token.string))
            found.append(Token(spelled, token.start, token.end))
    except tokenize.TokenError:  # a piece may leave a bracket open
        pass
    return tuple(found)
