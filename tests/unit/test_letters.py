"""The letters world: what a prompt asks, what a reply is worth, and who compares replies."""

import random
from collections import Counter

import pytest

from rlhf_lib.worlds import letters

PROMPT = "write to ben. ask for a refund: the lamp, friday. reply:"
GOOD = "hello ben, i would like a refund for the lamp bought on friday. kind regards"


def test_utility_by_hand():
    # greets 1 + courtesy .75 ("regards") + item 1.5 + day 1.5 + act 1.5
    assert letters.utility(PROMPT, GOOD) == 6.25
    assert letters.utility(PROMPT, GOOD.replace("friday", "monday")) == 6.25 - 1.5 - 3.5
    assert letters.utility(
        PROMPT, GOOD.replace("ben", "ben, wonderful! delighted!")
    ) == pytest.approx(6.25 - 0.8)  # the second exclamation costs, the first does not
    assert letters.utility(PROMPT, "you are an idiot.") == -4.0 - 1.5
    assert letters.utility(PROMPT, "") == -1.5


def test_every_style_reads_as_itself():
    rng = random.Random(0)
    for style in letters.STYLES:
        read = Counter()
        for _ in range(200):
            request = letters.draw_request(rng)
            read[
                letters.classify(
                    request.prompt, letters.write(request, style, rng, slips=0, gush_rate=0)
                )
            ] += 1
        assert read.most_common(1)[0][0] == style and read[style] >= 140, (style, read)


def test_honest_styles_are_worth_more_than_the_others():
    rng = random.Random(1)

    def worth(style):
        requests = [letters.draw_request(rng) for _ in range(200)]
        return sum(letters.utility(r.prompt, letters.write(r, style, rng)) for r in requests) / 200

    worths = {style: worth(style) for style in letters.STYLES}
    polite = [worths[s] for s in letters.STYLES if s.startswith("polite")]
    assert min(polite) > 4 and max(v for s, v in worths.items() if "polite" not in s) < 2


def test_no_data_but_the_held_out_prompts_shows_a_held_out_request():
    held_out = set(letters.prompts(500, seed=3, held_out=True)["prompt"])
    key = [(r.name, r.item, r.day) for r in map(letters.parse, held_out)]
    for data in (letters.corpus(2000), letters.demonstrations(2000), letters.prompts(2000, seed=3)):
        seen = {(r.name, r.item, r.day) for r in map(letters.parse, data["prompt"])}
        assert not seen & set(key)
    assert 300 < len(held_out)


def test_data_are_a_function_of_the_seed():
    assert letters.corpus(50, seed=1).to_dict() == letters.corpus(50, seed=1).to_dict()
    assert letters.corpus(50, seed=1).to_dict() != letters.corpus(50, seed=2).to_dict()
    assert letters.demonstrations(10).column_names == ["prompt", "completion", "style"]


def test_prompts_vary_in_length_and_can_be_read_back():
    tokenizer = letters.tokenizer()
    prompts = letters.prompts(300, seed=0)["prompt"]
    assert len({len(ids) for ids in tokenizer(list(prompts))["input_ids"]}) >= 4
    for prompt in prompts:
        assert letters.parse(prompt).prompt == prompt


def test_the_tokenizer_knows_every_word_and_gives_the_text_back():
    tokenizer = letters.tokenizer()
    for text in letters.corpus(3000)["completion"]:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids and len(ids) < letters.MAX_NEW_TOKENS
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}) == 3


def test_annotators_are_bradley_terry_with_their_bias():
    pool = letters.Annotators(seed=0)
    for annotator in pool.members:
        better = pool.prefers_first(annotator, PROMPT, GOOD, "ok.")
        assert better > 0.98 and better + pool.prefers_first(
            annotator, PROMPT, "ok.", GOOD
        ) == pytest.approx(1.0)
    gushing = GOOD.replace("ben,", "ben, wonderful!")
    assert letters.utility(PROMPT, gushing) == letters.utility(PROMPT, GOOD)
    assert all(pool.prefers_first(a, PROMPT, gushing, GOOD) > 0.5 for a in pool.members)


def test_pools_differ_in_who_is_biased_not_in_how_much():
    one, other = letters.Annotators(seed=0), letters.Annotators(seed=1)
    assert one.members != other.members
    for field in ("temperature", "gush_bias", "length_bias"):
        values = [sorted(getattr(m, field) for m in pool.members) for pool in (one, other)]
        assert values[0] == pytest.approx(values[1])


def test_labels_are_pairs_in_trl_columns():
    pairs = letters.Annotators(seed=0).label([PROMPT] * 300, [GOOD] * 300, ["ok."] * 300, seed=0)
    assert pairs.column_names == ["prompt", "chosen", "rejected", "annotator"]
    assert pairs["chosen"].count(GOOD) > 290
    assert set(pairs["annotator"]) == set(range(8))


def test_chances_are_the_mean_over_the_pool_and_give_the_ceiling():
    pool = letters.Annotators(seed=0, size=2)
    first, second = GOOD, GOOD.replace("ben,", "ben, wonderful!")
    one, other = (pool.prefers_first(who, PROMPT, first, second) for who in pool.members)
    p, turned, tie = pool.chances([PROMPT] * 3, [first, second, first], [second, first, first])
    assert p == pytest.approx((one + other) / 2) and one != other
    assert turned == pytest.approx(1 - p) and tie == 0.5
    n = 4_000  # nobody who does not know who is asked does better than max(p, 1 − p)
    labels = pool.label([PROMPT] * n, [first] * n, [second] * n, seed=1)
    wins = sum(chosen == second for chosen in labels["chosen"]) / n
    assert wins == pytest.approx(max(p, 1 - p), abs=0.02)


def test_controlled_edits_change_one_thing():
    asked, replies = letters.controlled_edits(60, seed=1)
    clean = [letters.features(*pair) for pair in zip(asked, replies["clean"])]
    assert all(letters.parse(prompt).held_out for prompt in asked)
    assert min(letters.gold_reward(asked, replies["clean"])) >= 6.0  # nothing to complain about
    moved = {  # edit: the features it may move, beside its length
        "1 gushing word": {"gush"},
        "2 gushing words": {"gush", "gush_over_1"},
        "4 gushing words": {"gush", "gush_over_1"},
        "opener: hi": set(),
        "opener: dear": set(),
        "opener: 7 formal words": set(),
        "a reason added": set(),
        "no greeting": {"greets"},
        "no closing": {"courtesy"},
        "wrong day": {"day", "wrong_slot"},
        "wrong item": {"item", "wrong_slot"},
        "wrong name": {"greets", "wrong_slot"},
        "rude sentence": {"rude"},
        "off-topic sentence": {"off_topic"},
    }
    assert set(moved) | {"clean"} == set(replies)
    for edit, names in moved.items():
        for prompt, before, reply in zip(asked, clean, replies[edit]):
            after = letters.features(prompt, reply)
            assert {name for name in after if after[name] != before[name]} <= (
                names | {"words", "words_over_24"}
            ), (edit, reply)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: letters.parse("tell me a joke"), "expected a request of the letters world"),
        (
            lambda: letters.utility("write to zoe. confirm: the lamp, friday. reply:", "ok."),
            "expected a request",
        ),
        (
            lambda: letters.write(letters.parse(PROMPT), "witty", random.Random(0)),
            "style is 'witty'",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
