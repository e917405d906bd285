"""Which rows fit the context of the models that read them, and that loops say so before step 1."""

from __future__ import annotations

import copy
import json
import logging

import pytest
import torch
from datasets import Dataset

from rlhf_lib.algorithms import (
    DPO,
    SFT,
    DPOConfig,
    RejectionSampling,
    RejectionSamplingConfig,
    RewardConfig,
    RewardTraining,
    SFTConfig,
)
from rlhf_lib.families.support import context_of
from rlhf_lib.models.rewards import LearnedReward, weighted_sum
from rlhf_lib.models.rollout import sample
from rlhf_lib.models.tokens import encode, encode_prompts, token_logprobs
from rlhf_lib.worlds import lengths
from rlhf_lib.worlds.data import load_prompts
from rlhf_lib.worlds.lengths import check_lengths, fitting, misfits, row_lengths, told, without
from rlhf_lib.worlds.reward_sources import length_penalty
from tests.unit import families
from tests.unit.loops import grpo, ppo
from tests.unit.small import RAGGED, count_words, policy, reward_model, tokenizer

WORDS = "no. " * 60  # two tokens each


def words(n: int) -> str:
    """A text of n tokens."""
    text = " ".join(["no"] * n)
    assert len(tokenizer()(text)["input_ids"]) == n
    return text


def short_context(model, context: int):
    """The same model, with a context of its own."""
    model.config.n_positions = context
    return model


# ------------------------------------------------------------------ contexts


def test_the_context_is_read_under_any_name_and_from_the_part_that_reads_text():
    from transformers import BloomConfig, FalconConfig, LlamaConfig, Qwen2VLConfig

    class Model:
        def __init__(self, config):
            self.config = config

    assert context_of(policy()) == 64  # GPT-2 calls it n_positions
    assert context_of(reward_model()) == 64
    assert context_of(Model(LlamaConfig(max_position_embeddings=48))) == 48
    composed = Qwen2VLConfig(text_config={"max_position_embeddings": 77})
    assert not hasattr(composed, "max_position_embeddings")
    assert context_of(Model(composed)) == 77
    assert context_of(Model(BloomConfig())) is None
    assert context_of(Model(FalconConfig(alibi=True, max_position_embeddings=8))) is None
    assert context_of(Model(FalconConfig(alibi=False, max_position_embeddings=8))) == 8
    assert context_of(Model(LlamaConfig(max_position_embeddings=-1))) is None  # as XLNet says it
    assert context_of(Model(object())) is None


def test_the_tokenizers_own_idea_of_a_length_is_no_bound():
    """Many tokenizers say 512 for a model of 131,072 tokens, and many say 10^30."""
    limited = copy.deepcopy(tokenizer())
    limited.model_max_length = 3
    assert misfits({"policy": policy()}, limited, [[words(60)]], max_new_tokens=4) == []


# ------------------------------------------------------------------ counting


def test_a_row_fits_up_to_the_last_token_and_no_further():
    model = {"policy": policy()}
    for size, fits in ((56, True), (57, False)):
        assert (misfits(model, tokenizer(), [[words(size)]], max_new_tokens=8) == []) is fits
        texts = [[words(size)], [words(7)]]  # and the end token
        assert (misfits(model, tokenizer(), texts) == []) is fits
        texts = [[words(size)], [words(2)], [words(7)]]
        assert (misfits(model, tokenizer(), texts) == []) is fits
        texts = [[words(size)], [words(7)], [words(2)]]
        assert (misfits(model, tokenizer(), texts) == []) is fits


def test_what_is_counted_is_what_is_encoded():
    prompts, completions = RAGGED, ["no.", "yes, no.", "", "hello ben"]
    counted = row_lengths(tokenizer(), prompts, completions)
    batch = encode(tokenizer(), prompts, completions)
    assert counted == batch.attention_mask.sum(dim=1).tolist()
    mask = encode_prompts(tokenizer(), prompts)[1]
    assert row_lengths(tokenizer(), prompts) == mask.sum(dim=1).tolist()


def test_a_pair_needs_room_for_the_longer_of_its_replies():
    asked = [words(3), words(5)]
    assert row_lengths(tokenizer(), asked, [words(2), words(9)], [words(4), words(1)]) == [8, 15]


def test_texts_are_tokenized_in_parts_and_none_is_lost(monkeypatch):
    asked = []

    class Counting:
        def __getattr__(self, name):
            return getattr(tokenizer(), name)

        def __len__(self):
            return len(tokenizer())

        def __call__(self, texts, **options):
            asked.extend([len(texts)] if isinstance(texts, list) else [])
            return tokenizer()(texts, **options)

    monkeypatch.setattr(lengths, "AT_ONCE", 3)
    rows = [words(40 + i) for i in range(8)]
    assert row_lengths(Counting(), rows) == [40 + i for i in range(8)]
    assert asked == [3, 3, 2]
    asked.clear()
    found = misfits({"policy": policy()}, Counting(), [[*rows, "no", "yes"]], max_new_tokens=20)
    assert [misfit.row for misfit in found] == [5, 6, 7]
    assert sum(asked) <= 9  # what is short is told by its bytes; and the blank ones, none


def test_a_text_has_no_more_tokens_than_is_estimated():
    """Of any text; a normal form of Unicode may write one character as eighteen."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    spreading = Tokenizer.from_str(plain.to_str())
    spreading.normalizer = normalizers.NFKC()
    texts = ["", "a", "ä €", "\ufdfa" * 9, "🙂 \U0001d160", "e\u0301" * 5]
    for backend in (plain, spreading):
        counter = PreTrainedTokenizerFast(tokenizer_object=backend)
        estimated = list(lengths._at_most(counter, [texts, texts[::-1]], 1))
        needed = row_lengths(counter, texts, texts[::-1])
        assert all(most >= exact for most, exact in zip(estimated, needed))
    assert needed[3] > 9 * 18  # more than it has bytes


# ------------------------------------------------------------------ who reads


def test_the_shortest_context_counts_and_its_model_is_named():
    models = {"policy": policy(), "reference": short_context(policy(), 40), "critic": None}
    (found,) = misfits(models, tokenizer(), [["no", words(33)]], max_new_tokens=8)
    assert found[:2] == (1, "takes 41 tokens with 8 new ones; expected at most 40, the context of "
                        "the reference")  # fmt: skip
    assert misfits({"policy": policy()}, tokenizer(), [[words(33)]], max_new_tokens=8) == []


def test_a_limit_of_the_users_counts_beside_the_contexts():
    model = {"policy": policy()}
    (found,) = misfits(model, tokenizer(), [[words(3)], [words(4)]], max_length=7)
    assert found.why == "takes 8 tokens; expected at most 7, max_length"
    assert misfits(model, tokenizer(), [[words(3)], [words(4)]], max_length=8) == []
    assert len(misfits(model, tokenizer(), [[words(60)], [words(4)]], max_length=500)) == 1


def test_a_learned_reward_reads_prompt_completion_and_an_end_token_in_its_own_context():
    """A completion that was cut off has no end token; the reward model's reading of it has."""
    model, judge = {"policy": policy()}, LearnedReward(reward_model(), tokenizer())
    fits = [[words(56)]]
    assert misfits(model, tokenizer(), fits, max_new_tokens=8) == []
    (found,) = misfits(model, tokenizer(), fits, max_new_tokens=8, reward=judge)
    assert found.why == (
        "takes 65 tokens of the reward model with 8 new ones and an end token; expected at most "
        "64, its context"
    )
    assert misfits(model, tokenizer(), [[words(60)], [words(3)]], reward=judge) == []  # no samples
    both = weighted_sum([weighted_sum([length_penalty(1.0), judge], [1.0, 1.0])], [1.0])
    assert len(misfits(model, tokenizer(), fits, max_new_tokens=8, reward=both)) == 1
    assert misfits(model, tokenizer(), fits, max_new_tokens=7, reward=both) == []
    assert misfits(model, tokenizer(), fits, max_new_tokens=8, reward=count_words) == []


def test_a_reward_model_with_a_longer_context_takes_nothing_away():
    judge = LearnedReward(short_context(reward_model(), 100), tokenizer())
    found = misfits({"policy": policy()}, tokenizer(), [[words(57)]], 8, judge)
    assert [misfit.why for misfit in found] == [
        "takes 65 tokens with 8 new ones; expected at most 64, the context of the policy"
    ]


def test_the_reason_is_the_shortest_of_the_contexts_that_are_too_short():
    judge = LearnedReward(short_context(reward_model(), 36), tokenizer())
    (found,) = misfits({"policy": policy()}, tokenizer(), [[words(60)]], 8, judge)
    assert found.why.endswith("expected at most 36, its context")


def test_a_short_prompt_may_be_followed_by_too_many_samples():
    for size, rows in ((4, []), (5, [0])):
        found = misfits({"policy": policy()}, tokenizer(), [[words(size)]], max_new_tokens=60)
        assert [misfit.row for misfit in found] == rows


def test_a_model_without_a_bound_reads_all():
    model = policy()
    model.config.n_positions = -1  # as transformers says it of XLNet
    assert misfits({"policy": model}, tokenizer(), [[words(300)]], max_new_tokens=8) == []


def test_a_prompt_without_tokens_is_a_misfit_too():
    texts = [["no", "", " \n", words(60)]]
    found = misfits({"policy": policy()}, tokenizer(), texts, max_new_tokens=8)
    assert [misfit.row for misfit in found] == [1, 2, 3]
    assert found[0].why == "has the prompt ''; expected text with at least one token"


# ------------------------------------------------------------------ what is said, and left out


def test_rows_are_told_by_number_up_to_ten():
    found = [lengths.Misfit(row, "is long") for row in range(0, 36, 3)]
    assert "0, 3, 6, 9, 12, 15, 18, 21, 24 and 27. Row 0" in told(found[:10], 36)
    assert told(found[:1], 1).startswith("1 of 1 row does not fit: 0. Row 0 is long. Rows are")
    assert told(found, 2_000) == (
        "12 of 2,000 rows do not fit: 0, 3, 6, 9, 12, 15, 18, 21, 24, 27 and 2 more. Row 0 is long"
        ". Rows are counted from 0 among these 2,000"
    )


def test_the_row_that_is_told_can_be_found_in_the_file(tmp_path, caplog):
    """Its number there is another: the loader dropped a row before it."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": x}) + "\n" for x in ("", "no", "yes " * 60)))
    loaded = load_prompts(path)
    caplog.clear()
    assert fitting(policy(), tokenizer(), loaded, max_new_tokens=8)["prompt"][:] == ["no"]
    (message,) = caplog.messages
    assert ": 1. Row 1 takes" in message and message.endswith(
        f". It begins {'yes ' * 10!r}. Rows are counted from 0 among these 2"
    )


def test_what_does_not_fit_is_left_out_and_said(caplog):
    data = Dataset.from_dict(
        {"prompt": ["no", words(60), "yes", words(58)], "answer": [1, 2, 3, 4]}
    )
    with caplog.at_level(logging.WARNING, "rlhf_lib.worlds.lengths"):
        kept = fitting(policy(), tokenizer(), data, max_new_tokens=8)
    assert kept["answer"][:] == [1, 3]
    assert caplog.messages == [
        "left out: 2 of 4 rows do not fit: 1 and 3. Row 1 takes 68 tokens with 8 new ones; "
        "expected at most 64, the context of the model. It begins 'no no no no no no no no no no "
        "no no no n'. Rows are counted from 0 among these 4"
    ]
    caplog.clear()
    assert fitting(policy(), tokenizer(), kept, max_new_tokens=8) is kept
    assert caplog.messages == []


def test_completions_count_where_nothing_is_sampled():
    data = Dataset.from_dict({"prompt": ["no", "no"], "completion": ["yes", words(70)]})
    assert len(fitting(policy(), tokenizer(), data)) == 1
    assert len(fitting(policy(), tokenizer(), data, max_new_tokens=8)) == 2
    pairs = Dataset.from_dict(
        {"prompt": ["no"] * 3, "chosen": ["a", words(70), "a"], "rejected": ["b", "b", words(70)]}
    )
    assert fitting([policy(), policy(1)], tokenizer(), pairs)["chosen"][:] == ["a"]


def test_all_rows_cannot_be_left_out():
    data = Dataset.from_dict({"prompt": [words(60)] * 2})
    with pytest.raises(ValueError, match="no row fits: 2 of 2 rows do not fit: 0 and 1. Row 0"):
        fitting(policy(), tokenizer(), data, max_new_tokens=8)
    assert len(without(data, [lengths.Misfit(0, "")])) == 1


def test_the_call_that_is_advised_can_be_made(caplog):
    """Copied from the message, with the names that it has."""
    data = Dataset.from_dict({"prompt": ["no", words(56), words(60)]})
    names = {"policy": policy(), "reference": policy(1), "tokenizer": tokenizer(), "dataset": data}
    for models, reward in (
        ({"policy": names["policy"]}, None),
        (
            {"policy": names["policy"], "reference": names["reference"], "critic": None},
            LearnedReward(reward_model(), tokenizer()),
        ),
    ):
        with pytest.raises(ValueError) as refused:
            check_lengths(models, tokenizer(), [data["prompt"][:]], 8, reward)
        call = str(refused.value).partition("rlhf_lib.worlds.lengths.")[2].rpartition(" leaves")[0]
        kept = eval(call, {"fitting": fitting, "reward": reward, **names})
        check_lengths(models, tokenizer(), [kept["prompt"][:]], 8, reward)
        assert kept["prompt"][:] == (["no"] if reward else ["no", words(56)])


# ------------------------------------------------------------------ every loop, before its step 1

MANY = 20
ONE_LONG = ["no"] * (MANY - 1) + [words(70)]


def sft(long: str):
    columns = {"prompt": ["no"] * MANY, "completion": ["yes"] * MANY}
    return SFT(policy(), tokenizer(), Dataset.from_dict({**columns, long: ONE_LONG}), SFTConfig())


def reward_training(long: str):
    columns = {"prompt": ["no"] * MANY, "chosen": ["yes"] * MANY, "rejected": ["no"] * MANY}
    data = Dataset.from_dict({**columns, long: ONE_LONG})
    return RewardTraining(reward_model(), tokenizer(), data, RewardConfig())


def dpo(long: str, loss_type="dpo"):
    columns = {"prompt": ["no"] * MANY, "chosen": ["yes"] * MANY, "rejected": ["no"] * MANY}
    data = Dataset.from_dict({**columns, long: ONE_LONG})
    return DPO(policy(), policy(), tokenizer(), data, DPOConfig(loss_type=loss_type))


def kto(long: str):
    columns = {"prompt": ["no"] * MANY, "completion": ["yes"] * MANY, "label": [True, False] * 10}
    data = Dataset.from_dict({**columns, long: ONE_LONG})
    return DPO(policy(), policy(), tokenizer(), data, DPOConfig(loss_type="kto"))


def rejection(long: str):
    data = Dataset.from_dict({long: ONE_LONG})
    config = RejectionSamplingConfig(max_new_tokens=8)
    return RejectionSampling(policy(), tokenizer(), count_words, data, config)


def ptx(long: str, shared=False):
    columns = {"prompt": ["no"] * MANY, "completion": ["yes"] * MANY}
    data = Dataset.from_dict({**columns, long: ONE_LONG})
    return ppo(ptx=data, shared=shared, ptx_coefficient=0.1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: sft("prompt"),
        lambda: sft("completion"),
        lambda: reward_training("prompt"),
        lambda: reward_training("chosen"),
        lambda: reward_training("rejected"),
        lambda: dpo("prompt"),
        lambda: dpo("chosen"),
        lambda: dpo("rejected"),
        lambda: dpo("rejected", "kto"),
        lambda: kto("completion"),
        lambda: ppo(dataset=Dataset.from_dict({"prompt": ONE_LONG})),
        lambda: ppo(dataset=Dataset.from_dict({"prompt": ONE_LONG}), shared=True),
        lambda: grpo(dataset=Dataset.from_dict({"prompt": ONE_LONG})),
        lambda: rejection("prompt"),
        lambda: ptx("completion"),
        lambda: ptx("completion", shared=True),
    ],
)
def test_a_loop_names_the_row_that_is_too_long_when_it_is_made(make):
    with pytest.raises(ValueError, match="1 of 20 rows do not fit: 19. Row 19 takes .* at most 64"):
        make()


def test_a_loop_that_samples_counts_what_it_will_sample():
    data = Dataset.from_dict({"prompt": ["no", words(50)]})
    grpo(dataset=data, max_new_tokens=14).step()
    with pytest.raises(ValueError, match="Row 1 takes 65 tokens with 15 new ones"):
        grpo(dataset=data, max_new_tokens=15)


def test_reference_critic_and_reward_model_are_asked_too():
    data = Dataset.from_dict({"prompt": ["no", words(30)]})
    with pytest.raises(ValueError, match="at most 36, the context of the reference"):
        grpo(dataset=data, reference=lambda model: short_context(copy.deepcopy(model), 36))
    judge = LearnedReward(short_context(reward_model(), 36), tokenizer())
    with pytest.raises(ValueError, match="39 tokens of the reward model.*at most 36, its context"):
        grpo(dataset=data, reward=judge)
    from rlhf_lib.algorithms import PPO, PPOConfig

    settings = PPOConfig(max_steps=1, batch_size=4, mini_batch_size=2, max_new_tokens=8)
    critic = short_context(reward_model(), 36)
    with pytest.raises(ValueError, match="at most 36, the context of the critic"):
        PPO(policy(), policy(), critic, tokenizer(), count_words, data, settings)
    with pytest.raises(ValueError, match="at most 36, the context of the reference"):
        pairs = Dataset.from_dict({"prompt": ["no"], "chosen": [words(40)], "rejected": ["no"]})
        DPO(policy(), short_context(policy(), 36), tokenizer(), pairs)


def test_an_empty_dataset_is_refused_when_the_loop_is_made():
    with pytest.raises(ValueError, match="0 rows; expected at least 1"):
        grpo(dataset=Dataset.from_dict({"prompt": []}))


def test_a_batch_fits_if_each_of_its_rows_does():
    """Padded, a long prompt beside a long completion is wider than the context; no row is."""
    texts = {"prompt": [words(60), words(2)], "chosen": [words(2), words(60)]}
    data = Dataset.from_dict({**texts, "completion": texts["chosen"], "rejected": ["yes"] * 2})
    one_by_one = [SFT(policy(), tokenizer(), data.select([i]), SFTConfig()) for i in range(2)]
    sums = [loop.step() for loop in one_by_one]
    together = SFT(policy(), tokenizer(), data, SFTConfig(batch_size=2)).step()
    tokens = [3, 61]
    expected = sum(n * record["loss"] for n, record in zip(tokens, sums)) / 64
    assert together["loss"] == pytest.approx(expected, rel=1e-5)
    RewardTraining(reward_model(), tokenizer(), data, RewardConfig(batch_size=2)).step()
    DPO(policy(), policy(), tokenizer(), data, DPOConfig(batch_size=2)).step()
    scores = LearnedReward(reward_model(), tokenizer())
    both = scores(texts["prompt"], texts["chosen"])
    alone = [scores([p], [c])[0] for p, c in zip(texts["prompt"], texts["chosen"])]
    assert both == pytest.approx(alone, abs=1e-5)
    with pytest.raises(ValueError, match="take 65 tokens; expected at most 64"):
        scores([words(60)], [words(4)])


def test_the_mismatched_pairs_of_kto_are_cut_at_the_context():
    """Row 0's completion stands behind row 1's prompt, where there is room for 3 of its 61."""
    data = Dataset.from_dict(
        {"prompt": [words(2), words(61)], "completion": [words(60), "no"], "label": [True, False]}
    )
    loop = DPO(policy(0), policy(1), tokenizer(), data, DPOConfig(loss_type="kto", batch_size=2))
    point = loop.reference_point([0, 1])

    def log_ratio(prompt: str, ids: list[int]) -> float:
        ahead = tokenizer()(prompt)["input_ids"]
        gap = 0.0
        for model, sign in ((policy(0), 1), (policy(1), -1)):
            logits = model(torch.tensor([ahead + ids])).logits[0, len(ahead) - 1 : -1]
            logprobs = logits.log_softmax(dim=-1)
            gap += sign * sum(logprobs[i, token].item() for i, token in enumerate(ids))
        return gap

    no, eos = tokenizer()("no")["input_ids"], tokenizer().eos_token_id
    expected = (log_ratio(words(61), no * 3) + log_ratio(words(2), [*no, eos])) / 2
    assert point.item() == pytest.approx(max(expected, 0.0), abs=1e-4)
    swapped = DPO(policy(1), policy(0), tokenizer(), data, DPOConfig(loss_type="kto", batch_size=2))
    assert swapped.reference_point([0, 1]).item() == pytest.approx(max(-expected, 0), abs=1e-4)
    assert expected != 0
    assert all(loop.step()["step"] for _ in range(3))


def test_lengths_in_order_stand_together_where_a_batch_is_taken_in_parts():
    """The pairs of a step, sorted by length: only then are they counted one by one."""
    columns = {"prompt": ["no"] * 4, "chosen": [words(n) for n in (9, 2, 7, 4)]}
    data = Dataset.from_dict({**columns, "rejected": ["no"] * 4})
    config = RewardConfig(batch_size=4, gradient_accumulation_steps=2)
    loop = RewardTraining(reward_model(), tokenizer(), data, config)
    (batch,) = loop.collect()
    assert batch.rows.completion_mask.sum(dim=1)[:4].tolist() == [3, 5, 8, 10]
    assert torch.equal(batch.prompt_mask, torch.ones_like(batch.prompt_mask))


# ------------------------------------------------------------------ rows of the tables


def test_a_token_that_a_model_has_no_row_for_is_known_before_the_first_step():
    """As where a tokenizer was given words and the table was not."""
    grown = families.tokenizer()
    grown.add_tokens(["llama", "alpaca"])
    model = families.model("llama", vocab_size=len(grown) - 1)
    rows = Dataset.from_dict(
        {"prompt": ["the llama", "the cat", "a dog"], "completion": ["sat", "an alpaca", "ran"]}
    )
    told = "1 of 3 rows do not fit: 1. Row 1 has 'alpaca', token 46 of the tokenizer; expected one "
    with pytest.raises(ValueError, match=told + "of the 46 that the model has rows for"):
        SFT(model, grown, rows, SFTConfig(max_steps=1, batch_size=2))
    assert fitting(model, grown, rows)["prompt"][:] == ["the llama", "a dog"]
    assert fitting(model, grown, rows, max_new_tokens=4) is rows  # it reads the prompts alone


def test_a_table_with_more_rows_than_the_tokenizer_is_sampled_and_read():
    """Rows are often padded to a round number; such a token has no text."""
    model = families.model("llama", vocab_size=families.V + 60)
    with torch.no_grad():
        model.lm_head.weight[families.V :] = model.lm_head.weight[families.V :].abs() * 3
    generator = torch.Generator().manual_seed(0)
    rollout = sample(model, families.PLAIN, ["the cat", "hello"] * 8, 9, generator=generator)
    assert (rollout.completion_ids >= families.V).any()
    assert all(isinstance(text, str) for text in rollout.completions)
    assert torch.allclose(token_logprobs(model, rollout), rollout.logprobs, atol=1e-4)
