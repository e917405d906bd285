"""The notes world: tasks and prompts, each check of the rubric, and what was written by hand."""

from __future__ import annotations

import json
import random
import re
from dataclasses import asdict, replace

import pytest

from rlhf_lib.models.rewards import call_reward
from rlhf_lib.worlds import notes
from rlhf_lib.worlds.data import load_demonstrations

ASKED = (
    "Write a short note to Nadia. Tell her that the lamp is ready on Thursday, ask whether she can "
    "bring the receipt, and sign it as Tom."
)
TASK = notes.parse(ASKED)
GOOD = "Hi Nadia,\nyour lamp is ready on Thursday. Could you bring the receipt?\nThanks,\nTom"
ALL = set(notes.CHECKS)


def passed(note: str, asked=ASKED) -> set[str]:
    return {name for name, right in notes.checks(asked, note).items() if right}


def task(**facts) -> notes.Task:
    return replace(TASK, **facts)


# ---------------------------------------------------------------------------------- checks


def test_a_good_note_passes_everything():
    assert passed(GOOD) == ALL
    assert notes.rubric_reward(prompts=[ASKED], completions=[GOOD]) == [1.0]


@pytest.mark.parametrize(
    "first, right",
    [
        ("Dear Nadia,", True),
        ("nadia,", True),
        ("Nadia", True),
        ("Good morning, Nadia!", True),
        ("Hi there Nadia -", True),
        ("Hello Nadia, Tom here.", True),
        ("Dear Anna,", False),
        ("Hello,", False),
        ("Note to Nadia:", False),
        ("Subject: Nadia", False),
        ("Nadia needs to know this.", False),
        ("Nadia's note:", False),
        ("Nadias,", False),
        ("Dear Nadia, dear Leo,", False),  # whoever it may be for
        ("Dear Mr. Nadia,", False),
    ],
)
def test_it_greets(first, right):
    assert passed(GOOD.replace("Hi Nadia,", first)) == ALL - ({"greets"} if not right else set())


def test_a_name_below_the_first_line_is_no_greeting_and_a_third_one_spoils_it():
    assert passed("Hello!\n" + GOOD) == ALL - {"greets"}
    assert passed("\n \n" + GOOD) == ALL  # empty lines are none
    assert passed(GOOD.replace("Thanks", "Greet Priya")) == ALL - {"greets"}


@pytest.mark.parametrize(
    "news, right",
    [
        ("the old green lamp is ready on Thursday.", True),
        ("my grandmother's lamp is ready on Thursday.", True),
        ("The Lamp is ready on Thursday.", True),
        ("both of the lamps are ready on Thursday.", True),
        ("it is ready for you on Thursday.", False),
        ("lamp will be ready on Thursday.", False),  # a word in a row, not a thing
        ("your lampshade is ready on Thursday.", False),
        ("the lamp. It is ready on Thursday.", False),  # said of nothing
        ("your lamp and your coat are ready on Thursday.", False),  # whichever it was
        ("your lamp is ready on Thursday at nine o'clock.", True),
        ("your lamp is ready for the picnic on Thursday.", True),  # of another kind
    ],
)
def test_it_names_the_item(news, right):
    note = f"Hi Nadia,\n{news} Could you bring the receipt?\nTom"
    assert passed(note) == ALL - ({"item"} if not right else set())


@pytest.mark.parametrize(
    "news, right",
    [
        ("your lamp is ready this thursday.", True),
        ("your lamp is ready. Thursday suits them best!", True),
        ("your lamp is ready soon.", False),
        ("your lamp is ready on Friday.", False),
        ("your lamp is ready on Thursday or Friday.", False),
        ("your lamp is ready on Thursday. They close on Sundays.", False),
        ("your lamp is ready now. Thursday!", False),  # a word by itself
    ],
)
def test_it_names_the_day(news, right):
    note = f"Hi Nadia,\n{news} Could you bring the receipt?\nTom"
    assert passed(note) == ALL - ({"day"} if not right else set())


@pytest.mark.parametrize(
    "request_, right",
    [
        ("Please bring the receipt.", True),
        ("Do you have the receipt?", True),
        ("Bring the receipt.", True),
        ("They are strict, so do bring the receipt.", True),
        ("They bring the receipt.", False),
        ("Don't forget the receipt!", True),
        ("I'd be grateful if you brought your receipts.", True),
        ("If you don't mind, please bring the receipt.", True),
        ("I can't come, so please bring the receipt.", True),
        ("I need you to bring the receipt.", True),
        ("May I ask whether you have the receipt?", True),
        ("She may ask if he has the receipt, please.", False),
        ("Could you bring the papers?", False),
        ("I have the receipt here.", False),
        ("Is the receipt with Ann?", False),  # nobody is asked for it
        ("Please do not bring the receipt.", False),
        ("You don't need the receipt, please.", False),
        ("There is no need for the receipt, thank you.", False),
        ("Ask her whether you can have the receipt?", False),  # the request of the user
        ("Please receipt.", False),
        ("The receipt?", False),
        ("Could you?\nThe receipt is here.", False),  # in two sentences
    ],
)
def test_it_asks(request_, right):
    note = f"Hi Nadia,\nyour lamp is ready on Thursday. {request_}\nTom"
    assert passed(note) == ALL - ({"asks"} if not right else set())


@pytest.mark.parametrize(
    "end, right",
    [
        ("\nTom", True),
        ("\n\nBest wishes,\n\n– tom.\n", True),
        ("", False),
        ("\nThanks, Tom", False),
        ("\nThanks", False),
        ("\nTom\nP.S. It is green.", False),
        ("\nTommy", False),
        ("\n[Your Name]", False),
        ("\nNadia", False),
        ("\nTom Baker", False),
    ],
)
def test_it_signs(end, right):
    note = "Hi Nadia,\nyour lamp is ready on Thursday. Could you bring the receipt?" + end
    assert passed(note) == ALL - ({"signs"} if not right else set())


@pytest.mark.parametrize(
    "note",
    [
        "",
        " \n\t",
        "!?",
        GOOD.replace("Tom", "Tom\nTom"),
        GOOD.replace("Thanks,", "Your lamp is ready on Thursday."),
        GOOD.replace("Thanks,", "word " * 60),
        "\n".join([GOOD, GOOD]),
    ],
)
def test_what_is_empty_long_or_says_a_thing_twice_passes_nothing(note):
    assert passed(note) == set()
    assert notes.rubric_reward([ASKED], [note]) == [0.0]


def test_lines_of_marks_alone_may_stand_twice():
    assert passed(GOOD.replace("Thanks", "---\nThanks") + "\n---") == ALL - {"signs"}
    assert passed(GOOD.replace("Thanks,", "***\n***")) == ALL


def test_the_longest_note_has_sixty_words():
    short = len(notes.words(GOOD))
    for more, right in ((60 - short, ALL), (61 - short, set())):
        filled = " ".join(f"w{i}" for i in range(more))
        assert passed(GOOD.replace("Thanks,", f"Thanks,\n{filled}")) == right


def test_the_request_of_the_user_is_no_note():
    """Handing back what was asked is no request to the reader, in any wording."""
    rng = random.Random(0)
    for held_out in (False, True):
        for _ in range(200):
            drawn = notes.draw(rng, held_out)
            found = passed(drawn.message, drawn)
            assert found == {"item", "day"}
            signed = f"{drawn.recipient},\n{drawn.message}\n{drawn.sender}"
            assert passed(signed, drawn) == ALL - {"asks"}


def test_what_the_docstring_says_that_the_checks_cannot_see():
    assert passed("Nadia,\nThe lamp red red Thursday.\nPlease receipt now.\nTom") == ALL


def test_a_list_of_words_passes_little():
    said = "Nadia, lamp, coat, Monday, Thursday, receipt, please, Tom"
    assert passed(said) <= {"greets", "asks"}
    assert passed(said.replace(", ", "\n")) == {"greets", "signs"}


# ---------------------------------------------------------------------------------- tasks


def test_a_task_is_read_back_from_any_prompt():
    rng = random.Random(1)
    wordings = set()
    for held_out in (False, True):
        for _ in range(300):
            drawn = notes.draw(rng, held_out)
            around = f"<|im_start|>user\n{drawn.message}<|im_end|>\n<|im_start|>assistant\n"
            assert notes.parse(drawn.message) == notes.parse(around) == drawn
            assert drawn.held_out == held_out and drawn.recipient != drawn.sender
            wordings.add(drawn.wording)
            facts = {**asdict(drawn)}
            del facts["wording"]
            assert all(fact in drawn.message for fact in facts.values())
    assert wordings == {*notes.WORDINGS[True], *notes.WORDINGS[False]}


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "Write me a poem.",
        ASKED.replace("her", "him"),  # another pronoun than Nadia's
        ASKED.replace("Tom", "Nadia"),  # to herself
        ASKED.replace("lamp", "planet"),
        ASKED.replace("Thursday", "Thurs"),
        ASKED.replace(" she can", " she"),
        None,
        7,
        [],
        [{"role": "assistant", "content": ASKED}],
    ],
)
def test_a_prompt_that_is_no_task_is_refused(prompt):
    with pytest.raises(ValueError, match="prompt is .*; expected "):
        notes.checks(prompt, GOOD)


@pytest.mark.parametrize("completion", [None, 3, [], [{"role": "user", "content": "x"}], b"x"])
def test_a_completion_that_is_no_text_is_refused(completion):
    with pytest.raises(ValueError, match="completion is .*; expected text, or messages"):
        notes.checks(ASKED, completion)


def test_as_many_prompts_as_completions():
    with pytest.raises(ValueError):
        notes.rubric_reward([ASKED], [GOOD, GOOD])


def test_held_out_tasks_share_nothing_but_days_and_news():
    for by in (notes.NAMES, notes.WORDINGS):
        assert not {*by[True]} & {*by[False]}
    for kind in notes.KINDS.values():
        assert not {*kind.items[True]} & {*kind.items[False]}
    asks = [{a for kind in notes.KINDS.values() for a in kind.asks[h]} for h in (True, False)]
    assert not asks[0] & asks[1]
    train = notes.prompts(400, seed=0)
    held_out = notes.prompts(400, seed=0, held_out=True)
    for name in ("recipient", "sender", "item", "ask", "wording"):
        assert not {*train[name], *notes.demonstrations()[name]} & {*held_out[name]}
    people = {*train["recipient"], *train["sender"]}
    assert not people & {*held_out["recipient"], *held_out["sender"]}


@pytest.mark.parametrize(
    "facts",
    [
        dict(recipient="Olga"),
        dict(sender="Kenji"),
        dict(item="kettle"),
        dict(ask="show a passport"),
        dict(wording=notes.WORDINGS[True][0]),
    ],
)
def test_a_task_with_one_held_out_fact_is_held_out(facts):
    assert task(**facts).held_out and not TASK.held_out


def test_key_words_are_in_their_requests_and_no_word_is_in_two_places():
    for ask, word in notes.KEYWORDS.items():
        assert word in ask
    items = set(notes.KIND_OF_ITEM)
    assert len(items) == 36 and not items & {*notes.KEYWORDS.values()}
    assert len({*notes.PRONOUNS}) == sum(map(len, notes.NAMES.values())) == 24


# ---------------------------------------------------------------------------------- data


def test_equal_seeds_give_equal_data_and_others_do_not():
    for held_out in (False, True):
        one, same, other = (notes.prompts(20, seed, held_out) for seed in (3, 3, 4))
        assert one.to_list() == same.to_list() != other.to_list()
    one, same, other = (notes.demonstrations(20, seed) for seed in (3, 3, 4))
    assert one.to_list() == same.to_list() != other.to_list()


def test_prompts_and_completions_are_written_by_the_chat_template(small_chat_tokenizer):
    (prompt,) = notes.prompts(1, seed=0, tokenizer=small_chat_tokenizer)["prompt"]
    assert prompt == f"<user>{notes.parse(prompt).message}</s><assistant>"
    row = notes.demonstrations(1, seed=0, tokenizer=small_chat_tokenizer)[0]
    assert row["prompt"].endswith("<assistant>")
    assert passed(row["completion"], row["prompt"]) == ALL  # its end is left to `encode`
    (plain,) = notes.prompts(1, seed=0)["prompt"]
    assert plain == f"\n\nHuman: {notes.parse(prompt).message}\n\nAssistant:"


@pytest.fixture
def small_chat_tokenizer():
    from rlhf_lib.worlds import letters

    tokenizer = letters.tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    tokenizer.eos_token = "</s>"
    return tokenizer


def test_the_reward_takes_text_messages_and_what_a_loop_hands_over():
    rows = notes.prompts(2, seed=0).to_list()
    columns = {name: [row[name] for row in rows] for name in rows[0] if name != "prompt"}
    texts = [row["prompt"] for row in rows]
    found = call_reward(
        notes.rubric_reward, texts, ["No."] * 2, completion_ids=[[1]] * 2, **columns
    )
    assert found.tolist() == [0.0, 0.0]
    asked = [{"role": "system", "content": "x"}, {"role": "user", "content": ASKED}]
    said = [{"role": "assistant", "content": GOOD}]
    assert notes.rubric_reward([asked], [said]) == [1.0]


def test_every_demonstration_passes_its_checks():
    found = notes.demonstrations()
    assert len(found) >= 100
    for row in found:
        assert passed(row["completion"], row["prompt"]) == ALL, row["completion"]


def test_demonstrations_are_written_and_not_filled_in():
    """No two are alike once the facts are taken out, and no opening or closing is everywhere."""
    bare, first, words = [], [], []
    for task, note in notes.written():
        words.append(len(notes.words(note)))
        facts = [task.recipient, task.sender, task.item, task.day, task.news]
        for fact in facts:
            note = note.replace(fact, "_")
        bare.append(note)
        first.append(re.split(r"\W", note)[0])
    assert len({*bare}) == len(bare)
    assert max(first.count(word) for word in {*first}) < len(first) / 3
    assert min(words) >= 20 and max(words) <= 45 and len({*words}) > 12


def test_the_file_has_tasks_and_messages_that_agree_and_nothing_held_out():
    rows = [json.loads(line) for line in notes.DEMONSTRATIONS.read_text("utf-8").splitlines()]
    assert len({json.dumps(row["task"]) for row in rows}) == len(rows)
    for row in rows:
        asked, note = row["messages"]
        found = notes.parse(asked["content"])
        assert asked == {"role": "user", "content": found.message} and not found.held_out
        assert row["task"].items() <= asdict(found).items() and len(row["task"]) == 6
        assert note["role"] == "assistant"
    for kind in notes.KINDS.values():  # everything that training tasks ask about is shown
        assert {*kind.items[False]} | {*kind.asks[False]} | {*kind.news} <= {
            value for row in rows for value in row["task"].values()
        }


def test_the_file_is_read_like_anybodys():
    loaded = load_demonstrations(notes.DEMONSTRATIONS)
    ours = notes.demonstrations()
    assert sorted(loaded["prompt"]) == sorted(ours["prompt"])
    assert sorted(loaded["completion"]) == sorted(ours["completion"])


@pytest.mark.parametrize("n", [0, -1, 1.5, True, "3", None])
def test_a_number_that_is_none_is_refused(n):
    with pytest.raises(ValueError, match="n is .*; expected a whole number of at least 1"):
        notes.prompts(n, seed=0)
    if n is not None:
        with pytest.raises(ValueError, match="n is .*; expected a whole number of at least 1"):
            notes.demonstrations(n)


def test_no_more_demonstrations_than_there_are():
    there = len(notes.written())
    assert len(notes.demonstrations(there)) == there
    with pytest.raises(ValueError, match=f"n is {there + 1}; expected at most {there}"):
        notes.demonstrations(there + 1)
