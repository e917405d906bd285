"""The calculator in a reply: whose tokens are whose, and that only the policy's are learnt from."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from datasets import Dataset
from transformers import GPT2Config, GPT2LMHeadModel

from rlhf_lib.algorithms.grpo import GRPO, GRPOConfig
from rlhf_lib.algorithms.loop import ids_of
from rlhf_lib.machinery.microbatches import microbatches
from rlhf_lib.mathematics.losses import aggregate, clipped_policy_loss
from rlhf_lib.models.rollout import join
from rlhf_lib.models.rollout import sample as plain_sample
from rlhf_lib.models.tokens import completion_logits, encode, selected_logprobs, token_logprobs
from rlhf_lib.worlds import calculator, sums

TOKENIZER = sums.tokenizer()
PROMPTS = ["7+5=", "48213+37795=", "12+9=", "100+100="]


def policy(seed: int = 0):
    """A random one, which writes every character now and then."""
    config = GPT2Config(
        vocab_size=len(TOKENIZER),
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=64,
        initializer_range=0.3,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        pad_token_id=TOKENIZER.pad_token_id,
        eos_token_id=TOKENIZER.eos_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(seed)
    return GPT2LMHeadModel(config).eval()


def eager(text: str) -> str:
    """A tool that answers a random policy too: behind every 3 or 4."""
    return "=12>" if text[-1:] in ("3", "4") else ""


def sampled(seed: int = 0, T: int = 20, **settings):
    generator = torch.Generator().manual_seed(seed)
    return calculator.sample(
        policy(), TOKENIZER, PROMPTS * 4, T, generator=generator, tool=eager, **settings
    )


class Script:
    """In place of a decoder: row i writes `lines[i]`; `|` is the end, `?` the tool's turn."""

    def __init__(self, lines):
        self.ids = [
            [TOKENIZER.convert_tokens_to_ids({"|": "<eos>", "?": "9"}.get(x, x)) for x in line]
            for line in lines
        ]
        self.rows, self.t, self.read = torch.arange(len(lines)), 0, []

    def logits(self):
        table = torch.zeros(len(self.rows), len(TOKENIZER))
        for k, i in enumerate(self.rows.tolist()):
            table[k, self.ids[i][self.t]] = 3.0
        return table

    def step(self, token, going):
        self.rows, self.t = self.rows[going], self.t + 1
        self.read.append(dict(zip(self.rows.tolist(), token.tolist())))
        return self.logits()


def scripted(*lines, T=None):
    decoder, T = Script(lines), T or max(map(len, lines))
    tables = calculator.take_turns(
        decoder, decoder.logits(), T, 1.0, True, (1,), TOKENIZER, None, calculator.result
    )
    return decoder, *tables


def text(ids) -> str:
    return "".join(TOKENIZER.convert_ids_to_tokens(ids.tolist()))


def test_whose_tokens_are_whose():
    lines = "<7+5>????12|", "12|", "<7+5=12>12|", "<1+2>???<3+4>???,|"
    decoder, tokens, mask, logprobs, entropies, finished = scripted(*lines)
    assert [text(row).replace("<pad>", "") for row in tokens] == [
        "<7+5>=12>12<eos>",
        "12<eos>",
        "<7+5=12>12<eos>",
        "<1+2>=3><3+4>=7>,<eos>",
    ]
    own = ["111110000111", "111", "11111111111", "111110001111100011"]
    assert ["".join(map(str, row.tolist())).rstrip("0") for row in mask] == own
    assert finished.all()
    drawn = torch.full(tokens.shape, 3.0 - torch.tensor([3.0] + [0.0] * 17).logsumexp(0))
    assert torch.allclose(logprobs, drawn * mask) and ((entropies > 0) == mask.bool()).all()
    behind = [step[0] for step in decoder.read if 0 in step]  # what row 0 was given to read
    assert text(torch.tensor(behind)) == "<7+5>=12>12"


@pytest.mark.parametrize("line", ["<12+>,|", "<+5>,|", "<1+2+3>|", "12+3>|", "<>|", "<<1+2|"])
def test_what_is_no_call_gets_no_answer(line):
    _, tokens, mask, *_ = scripted(line)
    assert text(tokens[0]) == line.split("|")[0] + "<eos>"
    assert mask[0].sum() == line.index("|") + 1


@pytest.mark.parametrize(
    "written, answer", [("<1+2>", "=3>"), ("<9<1+2>", "=3>"), ("<1+2>=3>", ""), ("1+2>", "")]
)
def test_the_calculator_answers_the_last_call_alone(written, answer):
    assert calculator.result(written) == answer


def test_an_answer_cut_off_is_left_out():
    """Nobody reads it: it is in no text, no table and no mask."""
    _, tokens, mask, *_, finished = scripted("<7+5>????12|", "<7+5>????12|", T=7)
    assert mask.tolist() == 2 * [[1, 1, 1, 1, 1, 0, 0]] and not finished.any()
    assert text(tokens[0]) == "<7+5>=1"

    def always(text):
        return "=123456>"

    made = calculator.sample(policy(), TOKENIZER, PROMPTS, 6, tool=always, greedy=True)
    assert made.completion_ids.shape[1] == 1 and made.lengths.tolist() == [1] * 4
    assert [len(x) for x in made.completions] == [1] * 4


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_sampler_is_the_scorer(temperature):
    made, model = sampled(temperature=temperature), policy()
    gaps = made.attention_mask[:, made.prompt_ids.shape[1] :] - made.completion_mask
    assert gaps.any(dim=1).any() and not gaps.any(dim=1).all()  # with calls, and without
    with torch.no_grad():
        scored = token_logprobs(model, made, temperature)
        assert torch.allclose(scored, made.logprobs, atol=1e-5)
        for row in range(len(made)):  # one by one, unpadded, in one pass: no cache, no positions
            prompt = TOKENIZER(made.prompts[row])["input_ids"]
            ids = prompt + ids_of(made)[row]
            logits = model(torch.tensor([ids])).logits[0, len(prompt) - 1 : -1] / temperature
            table = torch.log_softmax(logits, -1)
            wanted = table[torch.arange(len(table)), torch.tensor(ids[len(prompt) :])]
            own = made.completion_mask[row, : len(table)].bool()
            assert torch.allclose(made.logprobs[row, : len(table)][own], wanted[own], atol=1e-5)
            assert not made.logprobs[row][~made.completion_mask[row].bool()].any()


def test_the_text_holds_both_and_the_length_counts_one():
    made = sampled()
    for row, ids in enumerate(ids_of(made)):
        whole = text(torch.tensor(ids)).replace("<pad>", "").replace("<unk>", "")
        assert whole == made.completions[row] + "<eos>" * bool(made.finished[row])
        assert made.lengths[row] == len(ids) - 4 * whole.count("=12>")


def test_without_a_tool_it_is_the_plain_sampler():
    ways = [torch.Generator().manual_seed(3) for _ in range(2)]
    ours = calculator.sample(
        policy(), TOKENIZER, PROMPTS, 20, generator=ways[0], tool=lambda text: ""
    )
    plain = plain_sample(policy(), TOKENIZER, PROMPTS, 20, generator=ways[1])
    for field in dataclasses.fields(plain):
        mine, its = getattr(ours, field.name), getattr(plain, field.name)
        same = (
            torch.allclose(mine.float(), its.float(), atol=1e-6)
            if torch.is_tensor(its)
            else (mine == its)
        )
        assert same, field.name


def test_rows_mean_the_same_in_parts():
    """Cut into microbatches, joined again, or trimmed: the same log-probabilities."""
    made, model = sampled(), policy()
    with torch.no_grad():
        whole = token_logprobs(model, made)
        parts = microbatches(made, torch.arange(len(made)), tokens=80)
        assert len(parts) > 2
        for rows in parts:
            part = made[rows].trimmed
            assert part.attention_mask.numel() <= 80 or len(rows) == 1
            T = part.completion_ids.shape[1]
            assert torch.allclose(token_logprobs(model, part), whole[rows][:, :T], atol=1e-5)
            assert not whole[rows][:, T:].any()
        again = join([made[parts[0]].trimmed, made[parts[1]].trimmed], TOKENIZER.pad_token_id)
        order = torch.cat(parts[:2])
        T = again.completion_ids.shape[1]
        assert torch.allclose(token_logprobs(model, again), whole[order][:, :T], atol=1e-5)


def unmasked(rollout, model):
    """The mistake: what the tool wrote counts as chosen."""
    read = rollout.attention_mask[:, rollout.prompt_ids.shape[1] :]
    taken = dataclasses.replace(rollout, completion_mask=read)
    with torch.no_grad():
        return dataclasses.replace(taken, logprobs=token_logprobs(model, taken))


def test_the_gradient_differs_on_the_tools_tokens_alone():
    made, model = sampled(), policy()
    found = []
    for batch in (made, unmasked(made, model)):
        logits = completion_logits(model, batch).detach().requires_grad_()
        logprobs = selected_logprobs(logits, batch.completion_ids) * batch.completion_mask
        loss = clipped_policy_loss(logprobs, batch.logprobs, torch.ones(len(batch), 1))
        aggregate(loss, batch.completion_mask, "budget", 20).backward()
        found.append(logits.grad)
    gap = made.attention_mask[:, made.prompt_ids.shape[1] :] > made.completion_mask
    assert gap.any() and torch.allclose(found[0][~gap], found[1][~gap], atol=1e-7)
    assert not found[0][gap].any() and found[1][gap].abs().sum(dim=-1).gt(0).all()


class WithTool(GRPO):
    def sample(self, policy, prompts):
        c = self.config
        return calculator.sample(
            policy,
            self.tokenizer,
            prompts,
            c.max_new_tokens,
            c.temperature,
            self.sampler,
            tool=eager,
        )


def loop(**settings):
    chosen = dict(batch_size=8, mini_batch_size=8, num_generations=4, max_new_tokens=20, beta=0.5)
    return WithTool(
        policy(),
        policy(1),
        TOKENIZER,
        lambda completions, **columns: [float(len(x)) for x in completions],
        Dataset.from_dict({"prompt": PROMPTS}),
        GRPOConfig(**{**chosen, "num_iterations": 1, **settings}),
    )


def test_grpo_counts_and_prices_the_policys_tokens_alone():
    run = loop()
    record = run.step()
    made, own = run.rollout, run.rollout.completion_mask.bool()
    assert (made.attention_mask.sum(dim=1) - made.prompt_mask.sum(dim=1) > own.sum(dim=1)).any()
    assert record["length"] == own.sum(dim=1).float().mean()
    assert record["entropy"] == pytest.approx(made.entropies[own].mean().item())
    with torch.no_grad():
        ratio = made.logprobs - token_logprobs(policy(1), made)
    assert record["kl"] == pytest.approx((ratio * own).sum(dim=1).mean().item(), abs=1e-4)
    assert record["ratio_gap"] < 1e-4


def test_grpo_learns_the_same_in_parts():
    whole, parts = loop(), loop(microbatch_tokens=60)
    whole.step(), parts.step()
    assert whole.rollout.completions == parts.rollout.completions
    for one, other in zip(whole.policy.parameters(), parts.policy.parameters()):
        assert torch.allclose(one, other, atol=1e-5)


def test_rewards_by_the_token_refuse_a_gap():
    """As PPO has them: the score would land on another token than the last."""
    with pytest.raises(ValueError, match="mask has a gap in a row"):
        loop(advantage="return_to_go", kl_in="reward").step()


def test_a_reward_is_given_what_was_read():
    made = sampled()
    for ids, row in zip(ids_of(made), made.attention_mask[:, made.prompt_ids.shape[1] :]):
        assert len(ids) == row.sum()


def test_demonstrations_are_imitated_without_the_calculators_part():
    data = calculator.demonstrations(40, 3, share_calls=0.5)
    assert set(data["habit"]) == set(calculator.HABITS)
    prompts, completions = list(data["prompt"]), list(data["completion"])
    assert sums.strict_verifier(prompts, completions) == [1.0] * 40
    assert len(calculator.reply(99_999, 99_999)) + 1 == calculator.MAX_NEW_TOKENS
    batch = encode(TOKENIZER, prompts, completions)
    masked = calculator.masked(batch, TOKENIZER)
    assert torch.equal(masked.attention_mask, batch.attention_mask)
    for row, completion in enumerate(completions):
        hidden = batch.completion_mask[row].bool() & ~masked.completion_mask[row].bool()
        answer = calculator.result(completion.split("=")[0]) if "<" in completion else ""
        assert text(batch.completion_ids[row][hidden]) == answer


def test_a_forged_result_stays_the_policys():
    batch = encode(TOKENIZER, ["1+2="] * 2, ["<1+2=3>3", "<1+2>=4>4"])
    assert torch.equal(calculator.masked(batch, TOKENIZER).completion_mask, batch.completion_mask)


def test_sums_are_long_and_the_held_out_ones_are_apart():
    seen, kept = (calculator.prompts(300, 1, held_out=x)["prompt"] for x in (False, True))
    assert not any(sums.held_out(*sums.parse(x)) for x in seen)
    assert all(sums.held_out(*sums.parse(x)) for x in kept)
    assert {len(str(n)) for x in seen for n in sums.parse(x)} == {5}


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: calculator.prompts(1, 0, digits=(3, 10)), r"digits is \(3, 10\); expected"),
        (lambda: calculator.demonstrations(1, share_calls=1.5), "share_calls is 1.5; expected"),
        (lambda: sampled(temperature=0.0), "temperature is 0.0; expected"),
        (lambda: sampled(T=0), "max_new_tokens is 0; expected"),
        (lambda: sampled(T=60), "expected at most 64"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
