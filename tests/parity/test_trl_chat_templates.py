"""Messages as text, against TRL's: the same prompt, the same answer, the same end."""

from __future__ import annotations

import pytest
from trl.data_utils import apply_chat_template

from tests.unit.test_dialogues import CALLING, CLOCK, DIALOGUES, STYLES, TOOLS, load, speaking
from tests.unit.test_dialogues import no_cache as no_cache  # a fixture

SYSTEM = [{"role": "system", "content": "be kind"}, *DIALOGUES["thoughts"]]
# without the style whose prompt TRL cuts between letters, and the one that refuses a system
CASES = [(s, d) for s in STYLES if s != "asking for thoughts" for d in DIALOGUES.values()]
CASES += [(s, SYSTEM) for s in ("chatml", "llama", "thinking")]


def bare(text: str, eos: str) -> str:
    """Without white space behind the last answer, and without the end token: `encode` adds it."""
    return text.rstrip().removesuffix(eos)


@pytest.mark.parametrize("style, dialogue", CASES)
def test_demonstrations_are_trls(tmp_path, style, dialogue):
    tokenizer = speaking(*STYLES[style])
    row = {"prompt": dialogue[:-1], "completion": dialogue[-1:]}
    (ours,) = load(tmp_path, [row], tokenizer)
    theirs = apply_chat_template(row, tokenizer)
    assert ours["prompt"] == theirs["prompt"]
    assert ours["completion"] == bare(theirs["completion"], tokenizer.eos_token)


def test_a_call_of_a_tool_is_trls(tmp_path):
    said, tokenizer = CALLING["messages"], speaking(TOOLS)
    (ours,) = load(tmp_path, [CALLING], tokenizer)
    row = {"prompt": said[:-1], "completion": said[-1:]}
    theirs = apply_chat_template(row, tokenizer, tools=[CLOCK])
    assert ours["prompt"] == theirs["prompt"]
    assert ours["completion"] == bare(theirs["completion"], tokenizer.eos_token)
