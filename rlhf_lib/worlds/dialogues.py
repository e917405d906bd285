"""Messages as text: by a tokenizer's own chat template, or in a plain format without one.

A dialogue becomes a prompt, which ends where an answer begins, and a completion, the answer;
`prompt + completion` is what the template makes of the whole. The plain format is that of
Anthropic/hh-rlhf::

    \\n\\nHuman: when does the library open?\\n\\nAssistant: at nine.

Messages have `role` and `content`, or `from` and `value`, as ShareGPT writes them. Their text may
stand in parts; pictures and sound are refused. A call of a tool needs a template that writes it.
Chapters: sft, reward-model, real-model.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from functools import cached_property

ASSISTANT = "\n\nAssistant:"
SPEAKERS = {"user": "Human", "assistant": "Assistant"}
SHAREGPT = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "observation": "tool"}
PARTS = ("text", "input_text", "output_text")  # the last two are OpenAI's
USUAL = {"role", "content"}
ANSWER = "THE-ANSWER-STANDS-HERE"  # asks a template what it writes around an answer


# ---------------------------------------------------------------------------------- splitting


def split_dialogue(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Two dialogues in the format of hh-rlhf as prompt, chosen and rejected completion.

    The prompt is the longest common beginning that ends at an assistant's turn, and is empty
    where there is none.

    Chapter: reward-model.

    Examples
    --------
    >>> ask = "\\n\\nHuman: hello\\n\\nAssistant:"
    >>> split_dialogue(ask + " hello, you", ask + " hello")
    ('\\n\\nHuman: hello\\n\\nAssistant:', ' hello, you', ' hello')
    """
    shared = os.path.commonprefix([chosen, rejected])
    turn = shared.rfind(ASSISTANT)
    end = turn + len(ASSISTANT) if turn >= 0 else 0
    return shared[:end], chosen[end:], rejected[end:]


def split_messages(chosen: list[dict], rejected: list[dict]) -> tuple[list, list, list]:
    """Two dialogues in messages as prompt, chosen and rejected completion.

    The prompt is the longest common beginning that an assistant's message follows in both, and
    is empty where there is none.

    Chapter: reward-model.
    """
    end = next(
        (i for i, (a, b) in enumerate(zip(chosen, rejected)) if a != b),
        min(len(chosen), len(rejected)) - 1,
    )
    while end > 0 and not chosen[end].get("role") == rejected[end].get("role") == "assistant":
        end -= 1
    return chosen[:end], chosen[end:], rejected[end:]


# ---------------------------------------------------------------------------------- messages


def messages(value):
    """Messages with `role` and `content`, and no key that is null; what is no list stays as it is.

    `datasets` gives every message the keys of all, null where it had none. Chapter: your-own.
    """
    if isinstance(value, dict):  # one reply, as a message of its own
        value = [value]
    return [_message(entry) for entry in value] if isinstance(value, list) else value


def _message(entry) -> dict:
    if not isinstance(entry, dict):
        raise ValueError(f"has {entry!r:.60} for a message; expected 'role' and 'content'")
    if entry.keys() == USUAL and all(isinstance(x, str) for x in entry.values()):
        return entry
    found = without_nulls(entry)
    if {"from", "value"} <= set(entry):
        role = found.pop("from", None)
        found = {"role": SHAREGPT.get(role, role), "content": found.pop("value", None), **found}
    says = entry.keys() & {"content", "value", "tool_calls"}
    if not says or not isinstance(found.get("role"), str):
        raise ValueError(
            f"has a message with the keys {sorted(map(str, entry))}; expected 'role' and 'content'"
        )
    content = found.get("content")
    if isinstance(content, list):
        found["content"] = "".join(map(_part, content))
    elif content is None and not found.get("tool_calls"):
        found["content"] = ""
    elif not isinstance(content, str | None):
        raise ValueError(f"has {content!r:.60} as the content of a message; expected text")
    return found


def _part(part) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, dict) else type(part).__name__
    text = part.get("text") if isinstance(part, dict) else None
    if kind not in PARTS or not isinstance(text, str):
        raise ValueError(f"has a message with a part of the kind {kind!r}; expected text alone")
    return text


def without_nulls(value):
    """Without the keys that are null, at any depth. Chapter: your-own."""
    if isinstance(value, dict):
        return {key: without_nulls(x) for key, x in value.items() if x is not None}
    return [without_nulls(x) for x in value] if isinstance(value, list) else value


def is_blank(value) -> bool:
    """Whether there is nothing in a text, or in what messages say. Chapter: your-own."""
    if isinstance(value, list):
        return all(is_blank(m.get("content")) and not m.get("tool_calls") for m in value)
    return value is None or isinstance(value, str) and not value.strip()


# ---------------------------------------------------------------------------------- as text


class Writer:
    """Prompts and completions as text, by a tokenizer's chat template where it has one.

    What is text already stays as it is. `reopened` counts the rows whose answers the template
    opens in another way than it asks for them: some ask for thoughts, and take them out later.
    Chapter: real-model.
    """

    def __init__(self, tokenizer=None):
        self.tokenizer = tokenizer if getattr(tokenizer, "chat_template", None) else None
        self.reopened = 0

    def __call__(self, prompt, *completions, tools=None, options=None) -> tuple[str, ...]:
        """Prompt and completions, each as text; a ValueError says what a row has in their place.

        A completion ends with the template's own end marker, and without one where that is the
        tokenizer's end token: `encode` adds this to every completion.
        """
        kinds = [type(part).__name__ for part in (prompt, *completions)]
        if len(set(kinds)) > 1:
            raise ValueError(
                f"has {kinds[0]} as its prompt and {', '.join(kinds[1:])} as its replies; expected "
                "text, or messages, for prompt and replies alike"
            )
        if isinstance(prompt, str):
            return prompt, *completions
        if any(completion[0]["role"] != "assistant" for completion in completions):
            raise ValueError(
                "has a reply that does not begin with a message of the role 'assistant'"
            )
        options = {"tools": tools, **(options or {})}
        if self.tokenizer is None:
            opened = _plain(prompt, tools) + ASSISTANT
            whole = [_plain(prompt + completion, tools) for completion in completions]
            return opened, *(text[len(opened) :] for text in whole)
        opened = self._written(prompt, options, add_generation_prompt=True)
        whole = [self._written(prompt + completion, options) for completion in completions]
        if not all(text.startswith(opened) for text in whole):
            opened = self._shared(prompt, opened, whole, options)
            self.reopened += 1
        for said, text in zip([[], *completions], [opened, *whole]):
            for name in _called(prompt + said):
                if name not in text:
                    raise ValueError(
                        f"has a call of the tool {name!r}, which the chat template does not write; "
                        "expected a template for tools"
                    )
        return opened, *(self._ended(text[len(opened) :]) for text in whole)

    def _written(self, said: list[dict], options: dict, **more) -> str:
        if self._in_parts:
            said = [
                {**m, "content": _in_parts(m["content"])} if "content" in m else m for m in said
            ]
        try:
            return self.tokenizer.apply_chat_template(said, tokenize=False, **options, **more)
        except Exception as error:  # a template may raise anything
            roles = ", ".join(message["role"] for message in said)
            raise ValueError(
                f"has messages of the roles {roles}, and the tokenizer's chat template refuses "
                f"them: {error}"
            ) from error

    def _around(self, prompt: list[dict], options: dict) -> list[str] | None:
        """What the template writes before and behind an answer, or None if it is not to be seen."""
        try:
            text = self._written([*prompt, {"role": "assistant", "content": ANSWER}], options)
        except ValueError:
            return None
        return text.split(ANSWER) if text.count(ANSWER) == 1 else None

    def _shared(self, prompt: list[dict], opened: str, whole: list[str], options: dict) -> str:
        """The prompt where an answer that is there is opened otherwise than one that is asked for.

        No further than where that answer's text begins, which may begin alike by chance.
        """
        before = [text[0] for text in [self._around(prompt, options)] if text]
        closed = self._written(prompt, options)
        if before and not all(text.startswith(closed) for text in [opened, *whole]):
            opened = before[0]  # the prompt itself is written otherwise once it is answered
        return os.path.commonprefix([opened, *before, *whole])

    @cached_property
    def _in_parts(self) -> bool:
        """Whether the template writes text in parts alone, as those of models that see may do."""

        def writes(content) -> bool:
            said = [{"role": "user", "content": content}]
            try:
                return ANSWER in self.tokenizer.apply_chat_template(said, tokenize=False)
            except Exception:  # a template may raise anything
                return False

        return not writes(ANSWER) and writes(_in_parts(ANSWER))

    @cached_property
    def _marks(self) -> bool:
        """Whether the template writes more behind an answer than white space."""
        around = self._around([{"role": "user", "content": "?"}], {})
        return around is not None and not is_blank(around[1])

    def _ended(self, completion: str) -> str:
        bare, eos = completion.rstrip(), self.tokenizer.eos_token
        if eos and bare.endswith(eos):
            return bare.removesuffix(eos)
        return bare if self._marks else completion


def _in_parts(content: str) -> list[dict]:
    return [{"type": "text", "text": content}]


def _plain(said: list[dict], tools) -> str:
    if tools or _called(said):
        raise ValueError(
            "has tools, or calls of tools; expected a tokenizer whose chat template writes them"
        )
    return "".join(
        f"\n\n{SPEAKERS.get(m['role'], m['role'].capitalize())}: {m['content']}" for m in said
    )


def _called(said: list[dict]) -> list[str]:
    """The names of the tools that messages call."""
    calls = [call for message in said for call in message.get("tool_calls") or []]
    return [call.get("function", call).get("name", "") for call in calls]


def parsed(name: str, value, kind: type):
    """What a row has for a chat template, which may stand there as JSON. Chapter: your-own."""
    with suppress(ValueError):
        value = json.loads(value) if isinstance(value, str) else value
    if value is None or value == "":
        return None
    if not isinstance(value, kind):
        told = f"{value!r:.60} as its {name}"
        raise ValueError(f"has {told}; expected a {kind.__name__}, or JSON of one")
    return without_nulls(value) or None
