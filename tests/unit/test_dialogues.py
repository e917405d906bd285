"""Messages as text: what a chat template makes of the whole dialogue is what is taught.

The templates are written for these tests, in the style of those that models ship.
"""

from __future__ import annotations

import json
import logging
from functools import cache

import pytest

from rlhf_lib.worlds.data import load_demonstrations, load_preferences, load_prompts

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<start_of_turn>"]
SPECIAL += ["<end_of_turn>", "<bos>", "<eos>", "<|eot_id|>", "<|end_of_text|>", "<pad>"]

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (  # another end marker than the end token, no system, and turns that must alternate
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('there is no system here') }}{% endif %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
    "{{ (m.content | trim) + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
LLAMA = (  # nothing behind the end marker
    "{{ bos_token }}{% for m in messages %}{{ '[' + m.role + ']\n\n' + m.content + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '[assistant]\n\n' }}{% endif %}"
)
MISTRAL = (  # an answer is opened by nothing but what ends the question
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ ' ' + m.content + eos_token }}"
    "{% endif %}{% endfor %}"
)
THINKING = (  # thoughts are kept behind the last question alone, and are there even if empty
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}"
    "{{ '<|im_start|>' + m.role + '\n' }}{% set parts = m.content.split('</think>') %}"
    "{% if m.role == 'assistant' and loop.index0 > ns.last %}{{ '<think>\n' }}"
    "{{ parts[0].replace('<think>', '').strip() if parts | length > 1 else '' }}"
    "{{ '\n</think>\n\n' }}{% endif %}{{ parts[-1].lstrip('\n') + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
ASKING = (  # asks for thoughts, which no answer keeps
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ 'U:' + m.content }}"
    "{% else %}{{ 'A:' + m.content.split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'A:<think>\n' }}{% endif %}"
)
TOOLS = (
    "{% if tools %}{{ 'tools: ' + (tools | tojson) + '\n' }}{% endif %}{% for m in messages %}"
    "{{ '<|im_start|>' + m.role + '\n' }}{% if m.content is defined %}{{ m.content }}{% endif %}"
    "{% if m.tool_calls is defined %}{% for call in m.tool_calls %}"
    "{{ 'call: ' + (call.function | tojson) }}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(autouse=True)
def no_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@cache
def speaking(template: str | None, eos: str = "<|im_end|>", bos: str | None = None):
    """A tokenizer of bytes, with the special tokens of several families."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(SPECIAL)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token=eos, bos_token=bos, pad_token="<pad>"
    )
    tokenizer.chat_template = template
    return tokenizer


def load(tmp_path, rows: list[dict], tokenizer=None, by=load_demonstrations, **options):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return by(path, tokenizer=tokenizer, **options).to_list()


def say(*turns: str) -> list[dict]:
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


# what is taught is what the template writes -------------------------------------------------------

STYLES = {
    "chatml": (CHATML, "<|im_end|>", None),
    "chatml, another end token": (CHATML, "<|endoftext|>", None),
    "gemma": (GEMMA, "<eos>", "<bos>"),
    "llama": (LLAMA, "<|end_of_text|>", "<s>"),
    "mistral": (MISTRAL, "</s>", "<s>"),
    "thinking": (THINKING, "<|im_end|>", None),
    "asking for thoughts": (ASKING, "</s>", "<s>"),
}
DIALOGUES = {
    "one turn": say("hi", "hello"),
    "three turns": say("hi", "<b>hello</b>", "and?", "so", "why?", "that is <so>."),
    "thoughts": say("hi", "<think>\nhm\n</think>\n\nhello", "and?", "<think>\nha\n</think>\n\nso"),
}


@pytest.mark.parametrize("dialogue", DIALOGUES.values(), ids=DIALOGUES)
@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_prompt_and_completion_are_the_templates_own_tokens(tmp_path, style, dialogue):
    """Up to the white space that a template may write behind the end of its last answer."""
    tokenizer = speaking(*style)
    (row,) = load(tmp_path, [{"messages": dialogue}], tokenizer)
    whole = tokenizer.apply_chat_template(dialogue, tokenize=False)
    ids = tokenizer.apply_chat_template(dialogue, tokenize=True)["input_ids"]
    end = "" if "<eos>" in style or "<|end" in style[1] else tokenizer.eos_token  # as `encode`
    assert row["prompt"] + row["completion"] + end == whole.rstrip()
    pieces = [
        tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in (row["prompt"], row["completion"], end)
    ]
    assert sum(pieces, []) == ids[: len(ids) - (len(whole) - len(whole.rstrip()))]


@pytest.mark.parametrize(
    "style, completion",
    [
        ("chatml", "so"),
        ("chatml, another end token", "so<|im_end|>"),
        ("gemma", "so<end_of_turn>"),
        ("llama", "so<|eot_id|>"),
        ("mistral", " so"),
        ("thinking", "<think>\n\n</think>\n\nso"),
    ],
)
def test_an_answer_ends_with_the_templates_marker_where_that_is_not_the_end_token(
    tmp_path, style, completion
):
    tokenizer = speaking(*STYLES[style])
    rows = [{"messages": say("hi", "hello", "and?", "so")}]
    (row,) = load(tmp_path, rows, tokenizer)
    assert row["completion"] == completion
    (asked,) = load(tmp_path, [{"prompt": say("hi", "hello", "and?")}], tokenizer, load_prompts)
    assert row["prompt"] == asked["prompt"]  # what is sampled from


def test_white_space_of_an_answer_stays_and_that_of_a_template_without_marker(tmp_path):
    (row,) = load(tmp_path, [{"messages": say("hi", "a \n")}], speaking(CHATML))
    assert row["completion"] == "a \n"
    bare = CHATML.replace("<|im_end|>\n", "\n")
    (row,) = load(tmp_path, [{"messages": say("hi", "a")}], speaking(bare))
    assert row["completion"] == "a\n"


def test_an_answer_that_begins_like_what_a_template_asks_for_is_whole(tmp_path, caplog):
    """`<b>` begins as `<think>` does; the prompt ends before it, and a warning says so."""
    rows = [{"messages": say("hi", "<b>")}, {"messages": say("ho", "a")}]
    found = load(tmp_path, rows, speaking(*STYLES["asking for thoughts"]))
    assert found == [
        {"prompt": "<s>U:hiA:", "completion": "<b>"},
        {"prompt": "<s>U:hoA:", "completion": "a"},
    ]
    (said,) = [r.getMessage() for r in caplog.records if r.name == "rlhf_lib.worlds.data"]
    assert "in 2 rows the prompt ends where the two part" in said


def test_a_prompt_that_is_written_otherwise_once_it_is_answered(tmp_path):
    """The prompt is then as it stands before the answer, and no turn is torn."""
    forgetful = (
        "{% for m in messages %}{% if loop.last or m.role == 'user' %}"
        "{{ '<' + m.role + '>' + m.content }}{% else %}{{ '<' + m.role + '>' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
    )
    rows = [{"prompt": say("hi", "long"), "completion": say("", "so")[1:]}]
    (row,) = load(tmp_path, rows, speaking(forgetful))
    assert row == {"prompt": "<user>hi<assistant><assistant>", "completion": "so"}


def test_a_template_is_told_of_the_rows_own_settings(tmp_path):
    rows = [
        {"prompt": say("hi"), "chat_template_kwargs": {"enable_thinking": False}},
        {"prompt": say("hi"), "chat_template_kwargs": {"enable_thinking": True}},
        {"prompt": say("hi"), "chat_template_kwargs": None},
    ]
    found = load(tmp_path, rows, speaking(THINKING), load_prompts)
    assert [row["prompt"].count("</think>") for row in found] == [1, 0, 0]
    assert found[0]["chat_template_kwargs"] == {"enable_thinking": False}  # kept, too
    with pytest.raises(
        ValueError, match="row 0 has 3 as its chat_template_kwargs; expected a dict"
    ):
        load(tmp_path, [{**rows[0], "chat_template_kwargs": 3}], speaking(THINKING), load_prompts)


def test_what_a_template_refuses_names_the_row_and_what_it_said(tmp_path):
    gemma = speaking(*STYLES["gemma"])
    good = {"messages": say("hi", "hello")}
    twice = {"messages": [*say("hi"), *say("ho", "hello")]}
    with pytest.raises(ValueError, match="row 1 has messages of the roles user, user, and .*alter"):
        load(tmp_path, [good, twice], gemma)
    system = {"messages": [{"role": "system", "content": "be kind"}, *say("hi", "hello")]}
    with pytest.raises(ValueError, match=r"rows.jsonl'; row 0 .* refuses them: there is no system"):
        load(tmp_path, [system], gemma)
    assert load(tmp_path, [system], speaking(CHATML))[0]["prompt"].startswith(
        "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhi"
    )


# parts --------------------------------------------------------------------------------------------


def parts(*texts: str, kind: str = "text") -> list[dict]:
    return [{"type": kind, "text": text} for text in texts]


@pytest.mark.parametrize("kind", ["text", "input_text"])
@pytest.mark.parametrize("tokenizer", [None, speaking(CHATML)], ids=["plain", "template"])
def test_text_in_parts_is_that_text(tmp_path, tokenizer, kind):
    said = [
        {**m, "content": parts(m["content"][:1], m["content"][1:], kind=kind)}
        for m in say("12", "hello")
    ]
    other = say("12", "no")
    (row,) = load(tmp_path, [{"chosen": said, "rejected": other}], tokenizer, load_preferences)
    (plain,) = load(
        tmp_path, [{"chosen": say("12", "hello"), "rejected": other}], tokenizer, load_preferences
    )
    assert row == plain and "hello" in row["chosen"]


@pytest.mark.parametrize(
    "part, kind",
    [
        ({"type": "image", "image": "a.png"}, "'image'"),
        ({"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}, "'image_url'"),
        ({"type": "audio", "text": "hm"}, "'audio'"),
        ({"type": "text"}, "'text'"),
        (3, "'int'"),
    ],
)
def test_a_part_that_is_no_text_is_refused_by_row_and_kind(tmp_path, part, kind):
    pytest.importorskip("datasets", minversion="4.7")  # older ones do not read such lists
    good = {"messages": [{**m, "content": parts(m["content"])} for m in say("hi", "hello")]}
    seen = {"messages": [{"role": "user", "content": [part, *parts("hi")]}, *say("", "x")[1:]]}
    with pytest.raises(ValueError, match=f"row 1 has a message with a part of the kind {kind}"):
        load(tmp_path, [good, seen])


def test_a_template_that_writes_parts_alone_is_given_parts(tmp_path):
    """As those of models that see: of a text that stands by itself they write nothing."""
    seeing = CHATML.replace(
        "m.content", "(m.content | selectattr('text', 'defined') | map(attribute='text') | join)"
    )
    for messages in DIALOGUES.values():
        assert load(tmp_path, [{"messages": messages}], speaking(seeing)) == load(
            tmp_path, [{"messages": messages}], speaking(CHATML)
        )


# nulls, roles and names ---------------------------------------------------------------------------


def test_keys_that_are_null_are_not_there(tmp_path):
    """As `datasets` fills them in where other messages have them."""
    naming = CHATML.replace("m.content", "m.content + (m.name if m.name is defined else '')")
    nulls = {"name": None, "tool_calls": None, "thinking": None}
    rows = [{"messages": [{**m, **nulls} for m in say("hi", "hello")]}]
    assert load(tmp_path, rows, speaking(naming)) == [
        {"prompt": "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", "completion": "hello"}
    ]


def test_nothing_said_is_an_empty_reply_and_never_the_word_none(tmp_path, caplog):
    nothing = [*say("hi"), {"role": "assistant", "content": None}]
    rows = [{"messages": nothing}, {"messages": say("hi", "hello")}, {"messages": say("hi")}]
    for tokenizer in (
        None,
        speaking(CHATML),
        speaking(CHATML, "<|endoftext|>"),
        speaking(THINKING),
    ):
        caplog.clear()
        found = load(tmp_path, rows, tokenizer)
        assert len(found) == 1 and "None" not in str(found)
        assert "2 with an empty reply (rows 0, 2)" in caplog.text
    (row,) = load(tmp_path, [{"messages": [*nothing, *say("well?", "hello")]}])
    assert row["prompt"] == "\n\nHuman: hi\n\nAssistant: \n\nHuman: well?\n\nAssistant:"
    (row,) = load(tmp_path, [{"messages": [*nothing, *say("well?", "hello")]}], speaking(CHATML))
    assert "<|im_start|>assistant\n<|im_end|>\n<|im_start|>user\nwell?" in row["prompt"]


def test_a_question_that_says_nothing_is_no_prompt(tmp_path, caplog):
    rows = [{"prompt": say("")}, {"prompt": say("hi")}, {"prompt": []}]
    assert len(load(tmp_path, rows, speaking(CHATML), load_prompts)) == 1
    assert "2 with an empty prompt (rows 0, 2)" in caplog.text


def test_sharegpt_is_read(tmp_path):
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    said = [{"role": "system", "content": "be kind"}, *say("hi", "hello", "and?", "so")]
    shared = [{"from": names[m["role"]], "value": m["content"], "weight": None} for m in said]
    for tokenizer in (None, speaking(CHATML)):
        assert load(tmp_path, [{"conversations": shared}], tokenizer) == load(
            tmp_path, [{"messages": said}], tokenizer
        )
    asked = {"conversations": shared[:2], "chosen": shared[2], "rejected": shared[4]}
    (row,) = load(tmp_path, [asked], by=load_preferences)
    assert (row["chosen"], row["rejected"]) == (" hello", " so")
    assert row["prompt"] == "\n\nSystem: be kind\n\nHuman: hi\n\nAssistant:"
    assert row["conversations"][1]["from"] == "human"  # a column besides: as it was


@pytest.mark.parametrize(
    "message, told",
    [
        ({"role": "user"}, r"a message with the keys \['role'\]"),
        ({"role": None, "content": "x"}, r"a message with the keys \['content', 'role'\]"),
        ({"content": "x"}, r"a message with the keys \['content'\]"),
        ({"role": "user", "content": 3}, "3 as the content of a message"),
        ("hi", "'hi' for a message"),
    ],
)
def test_a_message_of_another_shape_is_refused_by_its_row(tmp_path, message, told):
    row = {"messages": [message]}
    with pytest.raises(ValueError, match=rf"row 0 has {told}; expected .* \(in its messages\)"):
        load(tmp_path, [row])


def test_text_and_messages_do_not_mix(tmp_path):
    with pytest.raises(ValueError, match="row 0 has str as its prompt and list as its replies"):
        load(tmp_path, [{"prompt": "hi", "completion": say("", "hello")[1:]}])
    pair = {"prompt": "hi", "chosen": say("", "a")[1:], "rejected": say("", "b")[1:]}
    with pytest.raises(ValueError, match="row 0 has str as its prompt and list, list as its repl"):
        load(tmp_path, [pair], by=load_preferences)
    with pytest.raises(ValueError, match="row 0 has str and list as its replies; expected text or"):
        load(tmp_path, [{"chosen": "a", "rejected": say("hi", "b")}], by=load_preferences)
    with pytest.raises(ValueError, match="row 0 has 'hi' as its messages; expected a list of mess"):
        load(tmp_path, [{"messages": "hi"}])


@pytest.mark.parametrize("written", [json.dumps, str])
def test_messages_written_out_as_text_are_no_prompt(tmp_path, written):
    """As a table of pandas' leaves them in a CSV file."""
    for row in ({"messages": written(say("hi", "hello"))}, {"prompt": written(say("hi"))}):
        (name,) = row
        by = load_demonstrations if name == "messages" else load_prompts
        with pytest.raises(
            ValueError, match=f"row 1 has messages written out as text as its {name}"
        ):
            load(tmp_path, [{name: None}, row], by=by)
    asked = {"prompt": "[{'role' is a word"}
    assert load(tmp_path, [asked], by=load_prompts) == [asked]


# tools --------------------------------------------------------------------------------------------

CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"type": "function", "function": {"name": "clock", "arguments": {"in": "rome"}}}
    ],
}
CALLING = {"messages": [*say("what time is it?"), CALL], "tools": [CLOCK]}


@pytest.mark.parametrize("tools", [[CLOCK], json.dumps([CLOCK])], ids=["a list", "as JSON"])
def test_tools_and_their_calls_are_written_by_the_template(tmp_path, tools):
    tokenizer = speaking(TOOLS)
    (row,) = load(tmp_path, [{**CALLING, "tools": tools}], tokenizer)
    whole = tokenizer.apply_chat_template(CALLING["messages"], tools=[CLOCK], tokenize=False)
    assert row["prompt"] + row["completion"] + "<|im_end|>\n" == whole
    assert row["prompt"].startswith('tools: [{"type"') and row["tools"] == tools
    assert row["completion"] == 'call: {"name": "clock", "arguments": {"in": "rome"}}'


def test_arguments_that_other_calls_have_are_not_filled_in(tmp_path):
    """A parquet file gives every call the arguments of all, null where it had none."""
    import pyarrow as pa
    import pyarrow.parquet

    function = {"name": "weather", "arguments": {"days": "3"}}
    other = {"messages": [*say("rain?"), {**CALL, "tool_calls": [{"function": function}]}]}
    table = pa.Table.from_pylist([{"messages": CALLING["messages"]}, other])
    pyarrow.parquet.write_table(table, tmp_path / "calls.parquet")
    found = load_demonstrations(tmp_path / "calls.parquet", tokenizer=speaking(TOOLS))
    assert list(found["completion"]) == [
        'call: {"name": "clock", "arguments": {"in": "rome"}}',
        'call: {"name": "weather", "arguments": {"days": "3"}}',
    ]


def test_no_tools_are_no_tools(tmp_path):
    rows = [{"prompt": say("hi"), "tools": tools} for tools in ([], None)]
    for tokenizer, start in ((None, "\n\nHuman"), (speaking(TOOLS), "<|im_start|>user")):
        for row in load(tmp_path, rows, tokenizer, load_prompts):
            assert row["prompt"].startswith(start)


def test_calls_that_nothing_writes_are_refused_by_their_row(tmp_path):
    plain = {"messages": say("hi", "hello"), "tools": None}
    with pytest.raises(
        ValueError, match="row 1 has tools, or calls of tools; expected a tokenizer"
    ):
        load(tmp_path, [plain, CALLING])
    with pytest.raises(
        ValueError, match="row 0 has tools, or calls of tools; expected a tokenizer"
    ):
        load(tmp_path, [{"messages": CALLING["messages"]}])
    with pytest.raises(ValueError, match="row 0 has tools, or calls of tools"):
        load(tmp_path, [{"prompt": say("hi"), "tools": [CLOCK]}], by=load_prompts)
    silent = speaking(CHATML.replace("m.content", "(m.content or '-')"))
    with pytest.raises(ValueError, match="row 1 has a call of the tool 'clock', which the chat"):
        load(tmp_path, [plain, CALLING], silent)
    with pytest.raises(ValueError, match="row 0 has 'hammer' as its tools; expected a list"):
        load(tmp_path, [{"prompt": say("hi"), "tools": "hammer"}], by=load_prompts)


def test_tools_beside_text_are_a_column_like_any_other(tmp_path):
    row = {"prompt": "build a shelf", "tools": "hammer"}
    assert load(tmp_path, [row], by=load_prompts) == [row]


def test_a_warning_about_openings_is_given_for_no_other_template(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "rlhf_lib.worlds.data"):
        for name, style in STYLES.items():
            if name != "asking for thoughts":
                load(tmp_path, [{"messages": DIALOGUES["thoughts"]}], speaking(*style))
    assert caplog.text == ""
