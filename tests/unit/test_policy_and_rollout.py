"""Encoding, scoring and sampling: the sampler and the scorer must be one function."""

import copy
import gc
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_lib.algorithms.best_of_n import best_of_n
from rlhf_lib.machinery.decoding import SMALL_VOCABULARY, FixedDecoder, GPT2Decoder
from rlhf_lib.machinery.decoding import draw as chosen
from rlhf_lib.machinery.precision import BFloat16Products
from rlhf_lib.models.policy import SCALES, choose_scale, count_parameters, load_policy, new_policy
from rlhf_lib.models.rollout import sample
from rlhf_lib.models.tokens import (
    completion_logits,
    encode,
    encode_prompts,
    entropy,
    token_logprobs,
)
from tests.unit.small import RAGGED, count_words, hasty, policy, tokenizer


def llama(seed: int = 0):
    config = LlamaConfig(
        vocab_size=len(tokenizer()),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.4,
        pad_token_id=PAD,
        eos_token_id=EOS,
    )
    torch.manual_seed(seed)
    return LlamaForCausalLM(config).eval()


PAD, EOS = tokenizer().pad_token_id, tokenizer().eos_token_id


def draw(model, temperature=1.0, seed=0, prompts=RAGGED, n=20):
    return sample(
        model, tokenizer(), list(prompts), n, temperature, torch.Generator().manual_seed(seed)
    )


@pytest.mark.parametrize("greedy", [False, True], ids=["sampled", "greedy"])
@pytest.mark.parametrize("make", [policy, llama])
def test_in_bfloat16_a_token_is_drawn_from_what_scores_it(make, greedy):
    """The products of both are rounded alike; against float32 they are off."""
    model, generator = make(), torch.Generator().manual_seed(0)
    how = dict(generator=generator, greedy=greedy, dtype=torch.bfloat16)
    rollout = sample(model, tokenizer(), RAGGED, 20, **how)
    with BFloat16Products(), torch.no_grad():
        same = token_logprobs(model, rollout)
    with torch.no_grad():
        exact = token_logprobs(model, rollout)
    assert (same - rollout.logprobs).abs().mean() < 1e-4 < (exact - rollout.logprobs).abs().mean()


def test_rounded_weights_are_kept_as_long_as_their_place():
    """Until then a weight that moves is not seen to move; without a place it is rounded anew."""
    model, batch, kept = policy(), draw(policy()), {}
    logprobs = []
    for products in (BFloat16Products(kept), BFloat16Products(kept), BFloat16Products({})):
        with torch.no_grad(), products:
            logprobs.append(token_logprobs(model, batch))
            for block in model.transformer.h:
                block.mlp.c_fc.weight.mul_(1.1)
    assert torch.equal(*logprobs[:2]) and not torch.equal(*logprobs[1:])
    of_layers = 4 * len(model.transformer.h)
    assert len(kept) == of_layers + 1  # the tied table, once


def test_samples_in_bfloat16_come_from_the_weights_of_their_time():
    model, seen = policy(), []
    for factor in (1.0, 1.3):
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(factor)
            rollout = sample(
                model,
                tokenizer(),
                RAGGED,
                8,
                generator=torch.Generator().manual_seed(0),
                dtype=torch.bfloat16,
            )
            with BFloat16Products():
                seen.append((token_logprobs(model, rollout) - rollout.logprobs).abs().mean())
    assert max(seen) < 1e-4


def test_over_a_large_vocabulary_a_row_takes_one_random_number():
    """Tokens come as often as they are likely (chi-square at one in a thousand), and others do not
    depend on which rows have ended."""
    V, n = 5000, 200_000
    assert V > SMALL_VOCABULARY
    probabilities = torch.zeros(V).double()
    probabilities[torch.tensor([0, 17, 2500, V - 1])] = torch.tensor(
        [0.5, 0.3, 0.15, 0.05]
    ).double()
    generator, counts = torch.Generator().manual_seed(0), torch.zeros(V)
    rows = probabilities.float().expand(1000, V)
    for _ in range(n // 1000):
        drawn = chosen(rows, torch.arange(1000), 1000, generator)
        counts += drawn.bincount(minlength=V)
    known = probabilities > 0
    expected = probabilities[known] * n
    assert counts[known].sum() == n and ((counts[known] - expected) ** 2 / expected).sum() < 16.3

    def third(running):
        return chosen(rows[: len(running)], running, 5, torch.Generator().manual_seed(1))[-1]

    assert third(torch.tensor([0, 1, 2])) == third(torch.tensor([2]))


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.6])
def test_sampler_and_scorer_agree_on_ragged_prompts(temperature):
    """Through the cache while sampling, in one pass while scoring: 1e-5 in fp32."""
    rollout = draw(policy(), temperature)
    assert len(set(rollout.prompt_mask.sum(dim=1).tolist())) > 1  # ragged indeed
    scored = token_logprobs(policy(), rollout, temperature)
    assert (scored - rollout.logprobs).abs().max().item() < 1e-5
    entropies = entropy(completion_logits(policy(), rollout, temperature)) * rollout.completion_mask
    assert (entropies - rollout.entropies).abs().max().item() < 1e-5


def test_a_prompt_scores_the_same_alone_and_in_a_padded_batch():
    rollout = draw(policy())
    together = token_logprobs(policy(), rollout)
    for i, prompt in enumerate(RAGGED):
        ids = tokenizer()(prompt, add_special_tokens=False)["input_ids"]
        length = int(rollout.lengths[i])
        row = torch.tensor([ids + rollout.completion_ids[i, :length].tolist()])
        logits = policy()(row).logits[0, len(ids) - 1 : -1].log_softmax(-1)  # no mask, no padding
        alone = logits.gather(1, rollout.completion_ids[i, :length, None])[:, 0]
        assert torch.allclose(together[i, :length], alone, atol=1e-5)


def test_without_position_ids_the_test_above_would_fail():
    rollout = draw(policy())
    shifted = policy()(
        input_ids=rollout.input_ids,
        attention_mask=rollout.attention_mask,
        position_ids=torch.arange(rollout.input_ids.shape[1])[None],
    ).logits
    P = rollout.prompt_ids.shape[1]
    wrong = (
        shifted[:, P - 1 : -1].log_softmax(-1).gather(-1, rollout.completion_ids[..., None])[..., 0]
        * rollout.completion_mask
    )
    assert (wrong - rollout.logprobs).abs().max().item() > 0.01


def test_a_rollout_ends_at_the_first_end_token_and_masks_the_rest():
    model = policy(3)
    with torch.no_grad():  # make the end token likely, so that lengths differ
        model.lm_head.weight[EOS] = model.lm_head.weight.mean(0) + model.transformer.ln_f(
            model.transformer.wte.weight[247]
        )
    rollout = draw(model, seed=1, prompts=RAGGED * 8)
    assert rollout.finished.any() and not rollout.finished.all()
    for ids, mask, finished in zip(
        rollout.completion_ids, rollout.completion_mask, rollout.finished
    ):
        length = int(mask.sum())
        assert torch.equal(mask, (torch.arange(len(mask)) < length).long())
        assert (ids[: length - 1] != EOS).all() and (ids[length:] == PAD).all()
        assert (ids[length - 1] == EOS) == finished
    assert not rollout.logprobs[rollout.completion_mask == 0].any()


def test_the_same_generator_state_gives_the_same_samples():
    assert draw(policy(), seed=4).completions == draw(policy(), seed=4).completions
    assert draw(policy(), seed=4).completions != draw(policy(), seed=5).completions


def test_samples_follow_the_policy():
    """The first token's frequencies against its probabilities, over 4,000 draws."""
    model = policy()
    ids, mask = encode_prompts(tokenizer(), RAGGED[:1])
    probabilities = model(ids).logits[0, -1].softmax(-1)
    rollout = draw(model, prompts=RAGGED[:1] * 4000, n=1)
    frequencies = torch.bincount(rollout.completion_ids[:, 0], minlength=len(probabilities)) / 4000
    error = (frequencies - probabilities).abs()
    assert (error < 4.5 * (probabilities * (1 - probabilities) / 4000).sqrt() + 1e-3).all()


@pytest.mark.parametrize(
    "prompts",
    [RAGGED * 3, RAGGED[:1] * 12, RAGGED[1:2]],
    ids=["ragged groups", "one group", "one prompt"],
)
def test_the_written_out_decoder_is_the_models_own(monkeypatch, prompts):
    """GPT-2 as this library writes it out, against transformers' forward pass and cache."""
    ours = draw(hasty(), prompts=prompts, n=30)
    assert len(prompts) == 1 or len(set(ours.lengths.tolist())) > 3  # rows left at several times
    monkeypatch.setattr(GPT2Decoder, "reads", lambda model: False)
    theirs = draw(hasty(), prompts=prompts, n=30)
    assert ours.completions == theirs.completions
    for name in ("logprobs", "entropies"):
        assert (getattr(ours, name) - getattr(theirs, name)).abs().max().item() < 1e-5


def test_a_reply_does_not_depend_on_when_the_others_end():
    """With the same noise, a row alone among finished ones goes on as it would among all."""
    full = draw(hasty(), prompts=RAGGED * 8, n=30)
    token = full.completion_ids
    decoder = GPT2Decoder(hasty(), 30)
    decoder.start(*encode_prompts(tokenizer(), list(RAGGED * 8)))
    running = torch.arange(len(token))
    with torch.no_grad():
        for t in range(full.completion_ids.shape[1] - 1):
            going = token[running, t] != EOS
            running = running[going]
            logprobs = decoder.step(token[running, t], going).log_softmax(-1)
            chosen = logprobs.gather(1, token[running, t + 1, None])[:, 0]
            assert torch.allclose(chosen, full.logprobs[running, t + 1], atol=1e-5)
    assert len(running) <= len(decoder.mask) < 32  # the cache left the dead rows behind


def test_samples_are_those_of_a_loop_without_any_cleverness():
    """No cache, every row to the end, `torch.multinomial`: the same tokens from the same seed."""
    model, prompts, T = hasty(), RAGGED * 3, 20
    ids, mask = encode_prompts(tokenizer(), prompts)
    generator, running = torch.Generator().manual_seed(3), torch.ones(len(prompts), dtype=bool)
    for _ in range(T):
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[:, -1]
        token = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
        token = torch.where(running, token, PAD)
        ids, mask = (
            torch.cat([x, y[:, None]], dim=1) for x, y in ((ids, token), (mask, running.long()))
        )
        running = running & (token != EOS)
    rollout = draw(hasty(), seed=3, prompts=prompts, n=T)
    width = rollout.completion_ids.shape[1]
    assert len(set(rollout.lengths.tolist())) > 3
    assert torch.equal(rollout.completion_ids, ids[:, -T:][:, :width])


@pytest.fixture
def fixed(monkeypatch):
    """Sample by the program that a GPU records; here it runs as it stands."""
    monkeypatch.setattr(FixedDecoder, "suits", lambda model: True)
    runs = []
    run = FixedDecoder.run
    monkeypatch.setattr(FixedDecoder, "run", lambda self, *a: runs.append(self) or run(self, *a))
    return runs


@pytest.mark.parametrize("greedy", [False, True], ids=["sampled", "greedy"])
@pytest.mark.parametrize(
    "prompts",
    [RAGGED * 3, RAGGED[:1] * 12, RAGGED[1:2]],
    ids=["ragged groups", "one group", "one prompt"],
)
def test_the_fixed_program_draws_the_same_samples(monkeypatch, fixed, prompts, greedy):
    def drawn():
        return sample(
            hasty(), tokenizer(), prompts, 30, 0.8, torch.Generator().manual_seed(2), greedy
        )

    ours = drawn()
    assert len(fixed) == 1
    monkeypatch.setattr(FixedDecoder, "suits", lambda model: False)
    theirs = drawn()
    assert len(fixed) == 1
    for name in ("completion_ids", "completion_mask", "finished"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    for name in ("logprobs", "entropies"):
        assert (getattr(ours, name) - getattr(theirs, name)).abs().max().item() < 1e-5, name
    assert ours.completions == theirs.completions


def test_the_fixed_program_is_kept_and_reads_the_weights_of_now(fixed):
    model = hasty()
    before = draw(model, prompts=RAGGED * 2)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.3)
    after = draw(model, prompts=RAGGED * 2)
    assert fixed[0] is fixed[1] and before.completions != after.completions
    scored = token_logprobs(model, after)
    assert (scored - after.logprobs).abs().max().item() < 1e-5
    model.load_state_dict(hasty(5).state_dict())
    again = draw(model, prompts=RAGGED * 2)
    assert (token_logprobs(model, again) - again.logprobs).abs().max().item() < 1e-5


def test_a_copy_in_bfloat16_follows_the_weights(fixed):
    model = hasty()
    for factor in (1.0, 1.5, 0.5):
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(factor)
        rollout = sample(
            model,
            tokenizer(),
            list(RAGGED),
            10,
            dtype=torch.bfloat16,
            generator=torch.Generator().manual_seed(1),
        )
        assert (token_logprobs(model, rollout) - rollout.logprobs).abs().max().item() < 0.1
    assert len(set(map(id, fixed))) == 1


def test_no_more_than_two_fixed_programs_are_kept_and_none_outlives_its_model(fixed):
    model = hasty()
    for n in (5, 6, 7, 6):
        draw(model, n=n)
    assert fixed[1] is fixed[3]
    assert [d.max_new_tokens for d in FixedDecoder.made[model].values()] == [7, 6]
    before = len(FixedDecoder.made)
    fixed.clear()
    del model
    gc.collect()
    assert len(FixedDecoder.made) == before - 1


@pytest.mark.parametrize("T", [1, 16, 17, 30, 300])
def test_the_fixed_program_attends_to_the_slots_so_far_and_little_more(monkeypatch, fixed, T):
    model, widths = policy(), []
    model.config.n_positions = model.config.max_position_embeddings = 512
    model.transformer.wpe = torch.nn.Embedding(512, 16)
    with torch.no_grad():  # nobody ends
        model.transformer.ln_f.bias -= 50 * model.transformer.wte.weight[EOS]
    attention = torch.nn.functional.scaled_dot_product_attention

    def watched(q, k, v, mask):
        if q.shape[2] == 1:
            assert mask.shape[-1] == k.shape[2] == v.shape[2]
            widths.append(k.shape[2])
        return attention(q, k, v, mask)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    draw(model, n=T)
    widths, (decoder,) = widths[::2], fixed  # of two layers
    assert len(widths) == T and len(set(widths)) <= 8
    for t, width in enumerate(widths):
        used = decoder.P + t + 1
        assert used <= width < used + max(16, T / 8 + 16) and width == decoder.width(t)
    assert decoder.mask.shape[1] == decoder.cache[0].shape[3] == widths[-1]


class Recording:
    """What takes the place of `torch.cuda` in a recording: a graph holds the step's arguments."""

    def __init__(self, monkeypatch):
        self.made, self.pools, self.now = [], set(), None
        advance, stream = FixedDecoder.advance, SimpleNamespace(wait_stream=lambda other: None)

        class Graph:
            def replay(graph):
                advance(graph.decoder, graph.width)

        @contextmanager
        def capturing(graph, pool, aside, capture_error_mode):
            assert aside is stream and capture_error_mode == "thread_local"
            self.pools.add(pool)
            self.now = graph
            yield self.made.append(graph)
            self.now = None

        def captured(decoder, width=None):
            if self.now is None:
                return advance(decoder, width)
            self.now.decoder, self.now.width = decoder, width  # nothing is computed meanwhile

        monkeypatch.setattr(FixedDecoder, "advance", captured)
        for name, value in dict(
            CUDAGraph=Graph,
            graph=capturing,
            graph_pool_handle=lambda: "a pool",
            Stream=lambda: stream,
            current_stream=lambda: stream,
            stream=lambda stream: nullcontext(),
            device=lambda device: nullcontext(),
        ).items():
            monkeypatch.setattr(torch.cuda, name, value)


def test_each_width_is_recorded_once_and_replayed(monkeypatch, fixed):
    model = hasty()
    expected = draw(model, n=40)
    (decoder,) = fixed
    recording = Recording(monkeypatch)
    decoder.record()
    widths = [decoder.P + 16, decoder.P + 32, decoder.P + 48]
    assert [graph.width for graph in recording.made] == widths == list(decoder.graphs)
    assert recording.pools == {"a pool"}
    monkeypatch.setattr(FixedDecoder, "advance", None)  # from here on graphs alone
    again = draw(model, n=40)
    assert torch.equal(again.completion_ids, expected.completion_ids)
    assert torch.equal(again.logprobs, expected.logprobs)


def test_a_recording_that_breaks_off_is_not_kept(monkeypatch, fixed):
    model = hasty()
    expected = draw(model, n=40)
    (decoder,) = fixed
    recording = Recording(monkeypatch)
    rehearse = FixedDecoder.rehearse

    def out_of_memory(decoder, width):
        if recording.made:
            raise torch.OutOfMemoryError("no room")
        rehearse(decoder, width)

    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(FixedDecoder, "rehearse", out_of_memory)
        decoder.record()
    assert len(recording.made) == 1 and not decoder.graphs
    assert torch.equal(draw(model, n=40).completion_ids, expected.completion_ids)


@pytest.mark.parametrize("program", ["fixed", "step by step", "transformers"])
def test_nothing_is_sampled_through_the_attention_of_cudnn(monkeypatch, program):
    """On some GPUs it is torch's first choice, and it plans anew for every length of a cache."""
    if program == "fixed":
        monkeypatch.setattr(FixedDecoder, "suits", lambda model: True)
    if program == "transformers":
        monkeypatch.setattr(GPT2Decoder, "reads", lambda model: False)
    attention, allowed = torch.nn.functional.scaled_dot_product_attention, []

    def watched(*given, **settings):
        allowed.append(torch.backends.cuda.cudnn_sdp_enabled())
        return attention(*given, **settings)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    draw(policy(), n=3)
    assert allowed and not any(allowed) and torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize("T", [1, 2, 20])
def test_the_rehearsal_of_a_recording_leaves_no_trace(fixed, T):
    model = hasty()
    before = draw(model, n=T)
    fixed[0].rehearse()
    after = draw(model, n=T)
    assert fixed[0] is fixed[1] and torch.equal(before.completion_ids, after.completion_ids)
    assert torch.equal(before.logprobs, after.logprobs)


def test_the_rehearsal_needs_no_padding_token_of_the_model():
    model = hasty()
    rows = len(model.transformer.wte.weight)
    decoder = FixedDecoder(model, 2, 3, 4, 1.0, False, ends=(rows,), pad=rows + 1)
    decoder.rehearse()
    assert decoder.tokens.max() < rows


def test_the_fixed_program_looks_every_few_steps_whether_to_stop(monkeypatch, fixed):
    model = policy()
    with torch.no_grad():  # the end comes at once, always
        model.transformer.ln_f.bias += 50 * model.transformer.wte.weight[EOS]
    steps = []
    advance = FixedDecoder.advance
    monkeypatch.setattr(
        FixedDecoder, "advance", lambda self, width: steps.append(1) or advance(self, width)
    )
    rollout = draw(model, n=40)
    assert rollout.completion_ids.shape[1] == 1 and rollout.finished.all()
    assert len(steps) == FixedDecoder.CHECK


@pytest.mark.parametrize("program", ["fixed", "step by step", "transformers"])
def test_sampling_in_bfloat16_says_what_it_drew_from(monkeypatch, program):
    """Its log-probabilities are float32 and near the scorer's; the gap is what bf16 costs."""
    if program == "fixed":
        monkeypatch.setattr(FixedDecoder, "suits", lambda model: True)
    if program == "transformers":
        monkeypatch.setattr(GPT2Decoder, "reads", lambda model: False)
    model = hasty()
    rollout = sample(
        model,
        tokenizer(),
        list(RAGGED) * 3,
        20,
        dtype=torch.bfloat16,
        generator=torch.Generator().manual_seed(1),
    )
    assert rollout.logprobs.dtype == torch.float32
    gap = (token_logprobs(model, rollout) - rollout.logprobs).abs().max().item()
    assert 1e-6 < gap < 0.1
    assert model.dtype == torch.float32


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.transformer.h[0].register_forward_hook(lambda *_: None),
        lambda m: setattr(m.config, "scale_attn_by_inverse_layer_idx", True),
        lambda m: setattr(m.transformer.h[0].mlp, "c_fc", torch.nn.Linear(16, 64)),
        lambda m: setattr(m, "__class__", type("Changed", (type(m),), {})),
        lambda m: setattr(m.train().transformer.drop, "p", 0.1),
    ],
    ids=["hook", "setting", "layer", "subclass", "dropout"],
)
def test_a_model_that_is_not_quite_gpt2_is_asked_itself(change):
    model = policy()
    assert GPT2Decoder.reads(model)
    change(model)
    assert not GPT2Decoder.reads(model)


def test_greedy_takes_the_most_likely_token():
    rollout = sample(policy(), tokenizer(), RAGGED, 5, greedy=True)
    logits = completion_logits(policy(), rollout)
    real = rollout.completion_mask.bool()
    assert torch.equal(logits.argmax(-1)[real], rollout.completion_ids[real])


def test_pad_and_end_are_different_tokens_and_padding_is_never_scored():
    assert PAD != EOS
    batch = encode(tokenizer(), RAGGED[:2], ["ok.", "hello ben, thank you."])
    assert batch.completion_ids[0].tolist()[2:] == [EOS] + [PAD] * 4
    logprobs = token_logprobs(policy(), batch)
    assert torch.equal(logprobs == 0, batch.completion_mask == 0)
    clean = copy.deepcopy(batch)
    clean.completion_ids[0, 3:] = 7  # whatever stands in the padding
    assert torch.equal(token_logprobs(policy(), clean)[0, :3], logprobs[0, :3])


def test_scales_have_their_size():
    assert 0.7e6 < count_parameters(new_policy(tokenizer(), "tiny")) < 1.3e6
    with torch.device("meta"):
        from transformers import GPT2Config, GPT2LMHeadModel

        full = GPT2LMHeadModel(GPT2Config(**SCALES["gpt2"]))
    assert count_parameters(full) == 124_439_808  # GPT-2 small, tied embeddings counted once


def test_the_scale_can_be_asked_for(monkeypatch):
    monkeypatch.delenv("RLHF_SCALE", raising=False)
    assert choose_scale() == ("gpt2" if torch.cuda.is_available() else "tiny")
    monkeypatch.setenv("RLHF_SCALE", "gpt2")
    assert choose_scale() == "gpt2" and choose_scale("tiny") == "tiny"


def test_new_policies_differ_by_seed_only():
    one, same, other = (new_policy(tokenizer(), "tiny", seed) for seed in (0, 0, 1))
    torch.manual_seed(5)
    again = new_policy(tokenizer(), "tiny", 0)  # the global generator plays no part
    for model, equal in ((same, True), (again, True), (other, False)):
        assert torch.equal(one.transformer.wte.weight, model.transformer.wte.weight) == equal


def test_a_policy_survives_a_round_trip_through_its_folder(tmp_path):
    model = policy()
    model.save_pretrained(tmp_path / "p")
    tokenizer().save_pretrained(tmp_path / "p")
    loaded, loaded_tokenizer = load_policy(tmp_path / "p")
    assert (tmp_path / "p" / "model.safetensors").exists()
    batch = encode(loaded_tokenizer, RAGGED, ["ok."] * 4)
    assert torch.equal(token_logprobs(loaded, batch), token_logprobs(model, batch))


def test_a_checkpoint_without_a_pad_token_gets_one_of_its_own(tmp_path):
    """As GPT-2 on the hub: an end token, no pad token, and dropout in its configuration."""
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer().backend_tokenizer, eos_token="<eos>", unk_token="<unk>"
    )
    bare.save_pretrained(tmp_path)
    model = policy(dropout=0.1)
    model.config.pad_token_id = None
    model.save_pretrained(tmp_path)
    loaded, loaded_tokenizer = load_policy(tmp_path)
    assert loaded_tokenizer.pad_token_id not in (None, loaded_tokenizer.eos_token_id)
    assert loaded_tokenizer.pad_token_id < loaded.get_input_embeddings().num_embeddings
    rollout = sample(
        loaded, loaded_tokenizer, RAGGED, 6, generator=torch.Generator().manual_seed(0)
    )
    assert (token_logprobs(loaded, rollout) - rollout.logprobs).abs().max().item() < 1e-5


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: choose_scale("huge"), "scale is 'huge'; expected one of 'tiny', 'gpt2'"),
        (lambda: new_policy(tokenizer(), "large"), "scale is 'large'"),
        (lambda: draw(policy(), prompts=[]), "prompts is empty"),
        (lambda: draw(policy(), prompts=[RAGGED[0], ""]), r"prompts\[1\] is ''"),
        (lambda: draw(policy(), prompts=["write " * 50]), "70 tokens; expected at most 64"),
        (lambda: draw(policy(), temperature=0.0), "temperature is 0.0"),
        (lambda: draw(policy(), n=0), "max_new_tokens is 0"),
        (lambda: encode(tokenizer(), RAGGED, ["ok."]), "completions has 1 entries"),
        (
            lambda: token_logprobs(policy(), encode(tokenizer(), RAGGED[:1], ["ok. " * 30])),
            "expected at most 64",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_unknown_scale_in_the_environment_is_named(monkeypatch):
    monkeypatch.setenv("RLHF_SCALE", "huge")
    with pytest.raises(ValueError, match="RLHF_SCALE is 'huge'"):
        choose_scale()


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="source is .*nothing.*; expected a checkpoint"):
        load_policy(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="expected a checkpoint folder"):
        load_policy(tmp_path / "empty")


def test_a_corrupt_checkpoint_is_named(tmp_path):
    policy().save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="expected a readable checkpoint"):
        load_policy(tmp_path)


@pytest.mark.parametrize(
    "prompts, message",
    [
        ("write", "prompts is the text 'write'; expected a list of texts"),
        (["write", None], r"prompts\[1\] is None; expected text"),
    ],
)
def test_prompts_that_are_no_list_of_texts_are_named(prompts, message):
    with pytest.raises(ValueError, match=message):
        sample(policy(), tokenizer(), prompts, 2)
    with pytest.raises(ValueError, match=message):
        best_of_n(policy(), tokenizer(), prompts, count_words, 2)
    with pytest.raises(ValueError, match=message.replace("prompts", "completions")):
        encode(tokenizer(), ["write"], prompts)


def test_a_batch_is_taken_by_numbers_a_slice_or_a_mask():
    rollout = sample(policy(), tokenizer(), RAGGED, 4, generator=torch.Generator().manual_seed(0))
    third = rollout[[2]]
    for rows in (torch.tensor([2]), slice(2, 3), torch.tensor([False, False, True, False])):
        assert rollout[rows].completions == third.completions == [rollout.completions[2]]
        assert torch.equal(rollout[rows].logprobs, rollout.logprobs[2:3])
    assert len(rollout[[]]) == 0 and rollout[[]].prompts == []
