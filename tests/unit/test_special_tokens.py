"""What stands before, between and behind prompt and completion is the model's own."""

from __future__ import annotations

import copy

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from rlhf_lib.algorithms import GRPO, SFT, GRPOConfig, SFTConfig
from rlhf_lib.families.special_tokens import (
    add_pad_token,
    begin_tokens,
    completion_rows,
    end_tokens,
    name_special_tokens,
    spare_token,
    turn_end,
)
from rlhf_lib.machinery.decoding import FixedDecoder
from rlhf_lib.models.reward_model import new_reward_model
from rlhf_lib.models.rewards import LearnedReward
from rlhf_lib.models.rollout import sample
from rlhf_lib.models.tokens import encode, encode_prompts
from rlhf_lib.worlds import letters, sums
from tests.unit import families

# Templates in the manner of three families of chat models; the answer comes last.
TURNS = (
    "{{ bos_token }}{% for m in messages %}<turn> {{ m['role'] }} : {{ m['content'] }} <end> "
    "{% endfor %}{% if add_generation_prompt %}<turn> assistant : {% endif %}"
)
CLOSED = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token }} user : {{ m['content'] }} "
    "assistant :{% else %} {{ m['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)
PLAIN = "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% endfor %}assistant :"
QUESTION = [{"role": "user", "content": "hello"}]
DIALOGUE = [*QUESTION, {"role": "assistant", "content": "hi cat"}]


def chat(template: str = TURNS, begin: str | None = "<bos>"):
    return families.tokenizer(begin, ("<turn>", "<end>"), template)


def whole(tokenizer, messages, **how) -> list[int]:
    return tokenizer.apply_chat_template(messages, return_dict=False, **how)


def asked(tokenizer, prompt: str) -> list[int]:
    return encode_prompts(tokenizer, [prompt])[0][0].tolist()


def taught(tokenizer, prompt: str, completion: str) -> list[int]:
    batch = encode(tokenizer, [prompt], [completion])
    assert batch.attention_mask.all()
    return batch.input_ids[0].tolist()


# ---------------------------------------------------------------------------------- before


def test_a_prompt_begins_as_its_tokenizer_begins_a_text():
    tokenizer = families.tokenizer("<bos>")
    assert begin_tokens(tokenizer) == [tokenizer.bos_token_id]
    assert asked(tokenizer, "the cat sat") == tokenizer("the cat sat")["input_ids"]


def test_a_beginning_that_is_there_is_not_repeated():
    tokenizer = families.tokenizer("<bos>")
    once = tokenizer("the cat")["input_ids"]
    assert asked(tokenizer, "<bos> the cat") == once
    assert taught(tokenizer, "<bos> the cat", "sat") == taught(tokenizer, "the cat", "sat")


@pytest.mark.parametrize("template", [TURNS, CLOSED])
@pytest.mark.parametrize("begin", ["<bos>", None])
def test_a_templates_prompt_has_the_ids_of_the_template(template, begin):
    if template is CLOSED and begin is None:
        template = template.replace("{{ bos_token }} ", "")
    tokenizer = chat(template.replace("{{ bos_token }}", "" if begin is None else begin), begin)
    text = tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    expected = whole(tokenizer, QUESTION, add_generation_prompt=True)
    assert asked(tokenizer, text) == expected


def test_a_template_that_leaves_the_beginning_out_is_followed():
    tokenizer = chat(TURNS.replace("{{ bos_token }}", ""))
    assert begin_tokens(tokenizer) == [tokenizer.bos_token_id]
    text = tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    assert asked(tokenizer, text) == whole(tokenizer, QUESTION, add_generation_prompt=True)


def test_a_tokenizer_that_begins_with_several_tokens_is_followed():
    tokenizer = families.tokenizer("<bos>", ("<task>",))
    ids = tokenizer.convert_tokens_to_ids(["<bos>", "<task>"])
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> <task> $A", special_tokens=[("<bos>", ids[0]), ("<task>", ids[1])]
    )
    assert begin_tokens(tokenizer) == ids
    assert asked(tokenizer, "the cat") == tokenizer("the cat")["input_ids"]


def test_an_end_that_the_tokenizer_adds_is_not_put_behind_a_prompt():
    tokenizer = families.tokenizer("<bos>")
    ids = tokenizer.convert_tokens_to_ids(["<bos>", "<eos>"])
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", ids[0]), ("<eos>", ids[1])]
    )
    assert asked(tokenizer, "the cat") == tokenizer("the cat")["input_ids"][:-1]
    expected = tokenizer("the cat sat")["input_ids"]
    assert taught(tokenizer, "the cat", " sat") == expected


def test_the_worlds_of_the_book_begin_with_nothing():
    for world in (letters, sums):
        assert begin_tokens(world.tokenizer()) == []
        assert end_tokens(world.tokenizer()) == [world.tokenizer().eos_token_id]


# ---------------------------------------------------------------------------------- between


CORPUS = ["the cat sat on the mat .", "a dog ran in the sun", "zebra zebra cat hello hi"] * 20


def pieces(kind: str):
    """A tokenizer in the manner of SentencePiece's, which mark the beginnings of words."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    backend.train_from_iterator(CORPUS, BpeTrainer(vocab_size=120, special_tokens=special))
    space = [decoders.Replace("▁", " "), decoders.Fuse()]
    if kind == "first":  # a mark before the first word of a text, and taken off when decoded
        backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first")
        backend.decoder = decoders.Metaspace("▁", prepend_scheme="first")
    elif kind == "prepended":  # the same, as older files have it
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        backend.pre_tokenizer = pre_tokenizers.Split("no such text", "isolated")
        backend.decoder = decoders.Sequence([*space, decoders.Strip(" ", 1, 0)])
    else:  # no mark before the first word
        backend.normalizer = normalizers.Replace(" ", "▁")
        backend.pre_tokenizer = pre_tokenizers.Split("no such text", "isolated")
        backend.decoder = decoders.Sequence(space)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    names = dict(unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    made = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    made.padding_side = "left"
    return made


KINDS = ["first", "prepended", "bare"]


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_and_completion_have_the_ids_of_the_whole_text(kind):
    tokenizer = pieces(kind)
    expected = tokenizer("the cat sat on the mat .")["input_ids"] + [tokenizer.eos_token_id]
    assert taught(tokenizer, "the cat", " sat on the mat .") == expected


def test_a_word_that_begins_in_the_prompt_goes_on_in_the_completion():
    """By itself the completion would be another word, with other tokens."""
    words = ["<unk>", "<eos>", "<pad>", "play", "ing", "##ing", "now"]
    backend = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    names = dict(unk_token="<unk>", eos_token="<eos>", pad_token="<pad>")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    expected = tokenizer.convert_tokens_to_ids(["##ing", "now", "<eos>"])
    assert completion_rows(tokenizer, ["play"], ["ing now"]) == [expected]


def test_where_the_join_grows_together_the_prompt_is_read_as_it_is_sampled_from():
    tokenizer = families.tokenizer()  # "catsat" would be one unknown word
    ids = tokenizer.convert_tokens_to_ids(["the", "cat", "sat", "<eos>"])
    assert taught(tokenizer, "the cat", "sat") == ids
    assert taught(tokenizer, "the cat", " sat") == ids


@pytest.mark.parametrize("kind", KINDS)
def test_a_sampled_completion_is_text_that_continues_its_prompt(kind):
    """Read again behind its prompt it has the ids that were sampled: so a reward model reads it."""
    tokenizer = pieces(kind)
    model = families.model(
        "llama",
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    words = [i for i, t in enumerate(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
             if t[0] == "▁" and len(t) > 3]  # fmt: skip
    push = torch.full((len(tokenizer),), -30.0)
    push[words] = 0.0
    model.lm_head.bias = torch.nn.Parameter(push)
    rollout = sample(
        model,
        tokenizer,
        ["the cat", "a dog ran in the sun"] * 4,
        5,
        generator=torch.Generator().manual_seed(0),
    )
    assert all(text.startswith(" ") for text in rollout.completions)
    rows = completion_rows(tokenizer, rollout.prompts, rollout.completions)
    sampled = rollout.completion_ids.tolist()
    assert rows == [row + [tokenizer.eos_token_id] for row in sampled]


def test_the_letters_of_the_book_are_written_as_before():
    tokenizer = letters.tokenizer()
    rows = letters.demonstrations(n=50, seed=0)
    bare = tokenizer(rows["completion"][:], add_special_tokens=False)["input_ids"]
    expected = [row + [tokenizer.eos_token_id] for row in bare]
    assert completion_rows(tokenizer, rows["prompt"][:], rows["completion"][:]) == expected


# ---------------------------------------------------------------------------------- behind


def test_a_completion_ends_with_one_end_token():
    tokenizer = families.tokenizer()
    for text in ("sat", "sat <eos>"):
        row = completion_rows(tokenizer, ["the cat"], [text])[0]
        assert row == tokenizer.convert_tokens_to_ids(["sat", "<eos>"])
    assert completion_rows(tokenizer, ["the cat"], [""]) == [[tokenizer.eos_token_id]]


@pytest.mark.parametrize(
    "template, end", [(TURNS, "<end>"), (CLOSED, "<eos>"), (PLAIN, None), (None, None)]
)
def test_the_end_of_a_turn_is_read_off_the_template(template, end):
    tokenizer = chat(template)
    assert turn_end(tokenizer) == (end and tokenizer.convert_tokens_to_ids(end))


IN_PARTS = (
    "{% for m in messages %}<turn> {{ m['role'] }} : {% for part in m['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }} {% endif %}{% endfor %}<end> {% endfor %}"
)
WITH_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ raise_exception('begin with a system message') }}"
    "{% endif %}" + TURNS
)


@pytest.mark.parametrize("template", [IN_PARTS, WITH_SYSTEM])
def test_templates_that_want_parts_or_a_system_message_are_asked_in_their_way(template):
    tokenizer = chat(template)
    assert turn_end(tokenizer) == tokenizer.convert_tokens_to_ids("<end>")


def test_a_template_that_leaves_the_answer_out_has_no_end_of_turn():
    assert turn_end(chat("<turn> {{ messages | length }} <end>")) is None


def test_an_unknown_word_at_the_start_is_a_word():
    tokenizer = families.tokenizer("<bos>")
    expected = tokenizer.convert_tokens_to_ids(["<bos>", "<unk>", "cat"])
    assert asked(tokenizer, "unheard cat") == expected


@pytest.mark.parametrize("kind", ["first", "prepended"])
@pytest.mark.parametrize("prompt, completion", [("the cat ", "sat on"), ("the ca", "t sat")])
def test_a_completion_that_is_read_by_itself_gets_no_space(kind, prompt, completion):
    tokenizer = pieces(kind)
    row = completion_rows(tokenizer, [prompt], [completion])[0][:-1]
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    text = "".join(tokenizer.convert_ids_to_tokens([*before, *row])).replace("▁", " ")
    assert text.strip() == prompt + completion


def test_a_template_that_refuses_the_question_has_no_end_of_turn():
    tokenizer = chat("{{ raise_exception('a system message comes first') }}")
    assert turn_end(tokenizer) is None
    assert end_tokens(tokenizer) == [tokenizer.eos_token_id]


@pytest.mark.parametrize("template", [TURNS, CLOSED])
def test_a_dialogue_is_taught_with_the_ids_of_its_template(template):
    tokenizer = chat(template)
    expected = whole(tokenizer, DIALOGUE)
    opened = tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    for written in ("hi cat", "hi cat <end>" if template is TURNS else "hi cat <eos>"):
        assert taught(tokenizer, opened, f" {written}") == expected


def test_plain_text_for_a_chat_model_ends_with_the_tokenizers_end():
    tokenizer = chat()
    row = completion_rows(tokenizer, ["the cat"], [" sat"])[0]
    assert row == tokenizer.convert_tokens_to_ids(["sat", "<eos>"])


def chatting(ends, tokenizer=None):
    tokenizer = tokenizer or chat()
    model = families.model("gemma3_text", vocab_size=len(tokenizer))
    model.generation_config.eos_token_id = ends
    return model, tokenizer


@pytest.mark.parametrize("ends", [[1, 5], 5, None])
def test_a_completion_ends_at_any_end_token_of_model_tokenizer_or_template(ends):
    """As transformers' `generate` does, given all of them."""
    model, tokenizer = chatting(ends)
    assert tokenizer.convert_tokens_to_ids(["<eos>", "<end>"]) == [1, 5]
    assert end_tokens(tokenizer, model) == [1, 5]
    generator = torch.Generator().manual_seed(0)
    rollout = sample(model, tokenizer, ["the cat", "hello"] * 40, 30, generator=generator)
    reached = set()
    for ids, mask, finished, text in zip(
        rollout.completion_ids, rollout.completion_mask, rollout.finished, rollout.completions
    ):
        row = ids[mask.bool()].tolist()
        assert not {1, 5} & set(row[:-1])
        assert finished == (row[-1] in (1, 5))
        assert "<end>" not in text and "<eos>" not in text
        reached.add(row[-1])
    assert {1, 5} <= reached


def test_the_program_of_a_gpu_ends_rows_at_the_same_tokens(monkeypatch):
    tokenizer = families.tokenizer()
    model = families.model("gpt2")
    assert len(end_tokens(tokenizer, model)) > 3
    rollouts = []
    for fixed in (False, True):
        monkeypatch.setattr(FixedDecoder, "suits", lambda model, fixed=fixed: fixed)
        generator = torch.Generator().manual_seed(0)
        prompts = ["the cat", "hello"] * 10
        rollouts.append(sample(model, tokenizer, prompts, 12, generator=generator, greedy=True))
    plain, recorded = rollouts
    last = plain.completion_ids.gather(1, plain.completion_mask.sum(dim=1)[:, None] - 1)
    assert plain.finished.any() and (last[plain.finished] != tokenizer.eos_token_id).any()
    assert torch.equal(plain.completion_ids, recorded.completion_ids)
    assert torch.equal(plain.finished, recorded.finished)


def test_a_word_that_the_generation_config_ends_at_is_no_part_of_the_text():
    tokenizer = families.tokenizer()
    model = families.model("llama")
    stop = tokenizer.convert_tokens_to_ids("sun")
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, stop]
    generator = torch.Generator().manual_seed(0)
    rollout = sample(model, tokenizer, ["the cat"] * 200, 20, generator=generator)
    ended = (rollout.completion_ids == stop).any(dim=1)
    assert ended.any() and rollout.finished[ended].all()
    assert not any("sun" in text for text in rollout.completions)


def test_no_penalty_is_taken_off_a_completion_that_ended_its_turn():
    model, tokenizer = chatting([1, 5])
    config = GRPOConfig(
        max_steps=1, batch_size=32, mini_batch_size=32, num_generations=8, max_new_tokens=20,
        missing_eos_penalty=100.0,
    )  # fmt: skip
    data = Dataset.from_dict({"prompt": ["the cat", "hello", "tea", "a dog"]})

    def zero(prompts, completions, **columns):
        return [0.0] * len(completions)

    loop = GRPO(model, copy.deepcopy(model), tokenizer, zero, data, config)
    rollout, scores, _ = loop.collect()
    ended = ((rollout.completion_ids == 5) & rollout.completion_mask.bool()).any(dim=1)
    assert ended.any() and (scores[ended] == 0).all()
    assert (scores == -100.0 * (~rollout.finished)).all()


def test_a_pad_token_that_is_an_end_token_too_is_told_from_padding_by_the_mask():
    tokenizer = chat()
    model = families.model("llama", vocab_size=len(tokenizer))
    model.generation_config.eos_token_id = [1, 2, 5]  # 2 is what rows are padded with
    assert tokenizer.pad_token_id == 2
    generator = torch.Generator().manual_seed(0)
    rollout = sample(model, tokenizer, ["the cat", "hello ."] * 60, 20, generator=generator)
    lengths = rollout.completion_mask.sum(dim=1)
    last = rollout.completion_ids.gather(1, lengths[:, None] - 1)[:, 0]
    assert (last == 2).any()
    assert torch.equal(rollout.finished, torch.isin(last, torch.tensor([1, 2, 5])))


def test_a_chat_model_is_trained_on_dialogues_to_end_its_turn():
    """After supervised fine-tuning on a template's text it samples the answer, and ends with it."""
    model, tokenizer = chatting([1])
    opened = tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    data = Dataset.from_dict({"prompt": [opened] * 4, "completion": [" hi cat <end>"] * 4})
    list(SFT(model, tokenizer, data, SFTConfig(max_steps=40, batch_size=4, learning_rate=1e-2)))
    rollout = sample(model, tokenizer, [opened], 8, greedy=True)
    assert rollout.completions == ["hi cat"] and rollout.finished.all()
    assert rollout.completion_ids[0, -1] == tokenizer.convert_tokens_to_ids("<end>")


def test_a_saved_chat_model_ends_its_turns_in_transformers_alone(tmp_path):
    model, tokenizer = chatting(1)
    model.config.pad_token_id = None
    opened = tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    data = Dataset.from_dict({"prompt": [opened] * 4, "completion": [" hi cat <end>"] * 4})
    loop = SFT(model, tokenizer, data, SFTConfig(max_steps=40, batch_size=4, learning_rate=1e-2))
    list(loop)
    loop.save(tmp_path / "c")
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "c" / "model").eval()
    own = AutoTokenizer.from_pretrained(tmp_path / "c" / "tokenizer")
    inputs = own.apply_chat_template(
        QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    written = read.generate(**inputs, max_new_tokens=20, do_sample=False)[0]
    assert own.decode(written[inputs["input_ids"].shape[1] :]).split() == ["hi", "cat", "<end>"]
    assert read.config.pad_token_id == own.pad_token_id


def test_configs_that_name_their_tokens_stay_as_they_are():
    model, tokenizer = chatting([1, 5])
    before = model.config.to_dict(), model.generation_config.to_dict()
    name_special_tokens(model, tokenizer)
    assert (model.config.to_dict(), model.generation_config.to_dict()) == before


def test_a_reward_model_reads_a_sampled_answer_as_it_read_those_of_its_data():
    """The end of the turn is not in the text that was sampled, and not missing where it is read."""
    model, tokenizer = chatting([1])
    opened = tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    reward = LearnedReward(new_reward_model(model), tokenizer)
    assert reward([opened], ["hi cat"]) == reward([opened], [" hi cat <end>"])


# ---------------------------------------------------------------------------------- beside


@pytest.mark.parametrize(
    "more, spare",
    [
        (("<a>", "<b>"), "<b>"),  # the last
        (("<|pad_left|>", "<|reserved_7|>", "<b>"), "<|pad_left|>"),  # its name says so
        (("<a>", "<|reserved_7|>", "<b>"), "<|reserved_7|>"),  # for nothing yet
        (("<a>", "<|image_pad|>"), "<a>"),  # stands for a picture
        (("<a>", "<end>"), "<a>"),  # ends a turn
        (("<a>", "<turn>"), "<a>"),  # the template writes it
        (("<a>", "<stop>"), "<a>"),  # the generation config ends there
        (("<end>",), None),
        ((), None),
    ],
)
def test_a_special_token_that_no_text_needs_is_spare(more, spare):
    tokenizer = families.tokenizer("<bos>", more, TURNS, pad=None)
    model = families.model("llama", vocab_size=len(tokenizer))
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(["<eos>", "<stop>"])
    assert spare_token(model, tokenizer) == spare


@pytest.mark.parametrize("pad", [None, "<eos>"])
def test_rows_are_padded_with_a_spare_token_and_the_tables_keep_their_size(pad):
    tokenizer = families.tokenizer("<bos>", ("<turn>", "<end>", "<a>"), TURNS, pad=None)
    tokenizer.pad_token = pad
    model = families.model("llama", vocab_size=len(tokenizer), pad_token_id=None)
    model.generation_config.eos_token_id = 1
    before = copy.deepcopy(model.state_dict())
    words = tokenizer("<a> the cat <a>")["input_ids"]
    add_pad_token(model, tokenizer)
    assert tokenizer.pad_token == "<a>" and tokenizer.padding_side == "left"
    assert model.config.pad_token_id == model.generation_config.pad_token_id
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    assert all(torch.equal(x, before[key]) for key, x in model.state_dict().items())
    assert tokenizer("<a> the cat <a>")["input_ids"] == words


def test_a_spare_token_needs_a_row():
    tokenizer = families.tokenizer("<bos>", (), None, pad=None)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image-soft>", "<late>"]})
    model = families.model("llama", vocab_size=len(tokenizer) - 2)
    assert spare_token(model, tokenizer) is None


@pytest.mark.parametrize("tied", [False, True])
def test_a_new_row_is_the_mean_of_the_others_each_time(tied):
    """Its logit is their mean: a row of zeros would have the largest, where all are below 0."""
    grown = []
    for seed in (1, 2):
        tokenizer = families.tokenizer(pad=None)
        model = families.model("llama", vocab_size=len(tokenizer), tie_word_embeddings=tied)
        before = model(torch.tensor([[5, 6, 7]])).logits
        torch.manual_seed(seed)
        add_pad_token(model, tokenizer)
        logits = model(torch.tensor([[5, 6, 7]])).logits
        assert tokenizer.pad_token_id == len(tokenizer) - 1 == before.shape[-1]
        assert torch.allclose(logits[..., :-1], before, atol=1e-6)
        assert torch.allclose(logits[..., -1], before.mean(dim=-1), atol=1e-5)
        grown.append(logits)
    assert torch.equal(*grown)


def test_a_pad_token_of_its_own_is_left_alone():
    tokenizer = families.tokenizer("<bos>", ("<a>",))
    model = families.model("llama", vocab_size=len(tokenizer))
    add_pad_token(model, tokenizer)
    assert tokenizer.pad_token == "<pad>"
