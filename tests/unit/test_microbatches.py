"""A minibatch cut for memory: the same numbers, whatever fits, and what happens if it does not."""

import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_lib.algorithms.grpo import GRPOConfig
from rlhf_lib.algorithms.sft import SFT, SFTConfig
from rlhf_lib.algorithms.variants import VARIANTS
from rlhf_lib.machinery import precision
from rlhf_lib.machinery.decoding import GPT2Decoder
from rlhf_lib.machinery.machine import Machine
from rlhf_lib.machinery.microbatches import microbatches, share
from rlhf_lib.machinery.precision import BFloat16Products, check_precision
from rlhf_lib.machinery.preparation import recompute_activations
from rlhf_lib.mathematics.losses import aggregate
from rlhf_lib.models.tokens import encode, selected_logprobs, token_logprobs
from rlhf_lib.worlds import letters
from tests.unit import loops
from tests.unit.loops import all_weights, with_settings
from tests.unit.small import RAGGED, hasty, policy, tokenizer

PTX = letters.demonstrations(30, seed=0)
ppo, grpo = (  # in float64, with completions that differ in length
    with_settings(
        make,
        model=lambda seed: hasty(seed, push=2.2).double(),
        mini_batch_size=8,
        max_new_tokens=12,
    )
    for make in (loops.ppo, loops.grpo)
)
TEXTS = [
    "no.",
    "hello ben, thank you.",
    "write to me, friday.",
    "the lamp, the lamp, the lamp.",
] * 2


def batch():
    return encode(tokenizer(), list(RAGGED) * 2, TEXTS)


# ---------------------------------------------------------------------------------- cutting


@pytest.mark.parametrize("tokens", [1, 30, 70, 200, 10_000])
def test_microbatches_hold_every_row_once_and_no_more_tokens_than_asked(tokens):
    whole, rows = batch(), torch.tensor([6, 0, 3, 1, 7])
    cut = microbatches(whole, rows, tokens)
    assert sorted(torch.cat(cut).tolist()) == sorted(rows.tolist())
    for part in cut:
        assert len(part) == 1 or whole[part].trimmed.attention_mask.numel() <= tokens
    lengths = whole.attention_mask.sum(1)[torch.cat(cut)].tolist()
    assert lengths == sorted(lengths, reverse=True)
    assert len(cut) == (5 if tokens == 1 else 1 if tokens == 10_000 else len(cut))


def test_trimming_changes_no_log_probability():
    whole = batch()
    for rows in ([0, 4], [1], [2, 3, 5]):
        some = whole[torch.tensor(rows)]
        short = some.trimmed
        T = short.completion_ids.shape[1]
        assert short.completion_mask.any(0).all() and short.prompt_mask.any(0).all()
        assert torch.allclose(
            token_logprobs(policy(), some)[:, :T], token_logprobs(policy(), short), atol=1e-5
        )
    assert whole[torch.tensor([0])].trimmed.attention_mask.numel() < whole.attention_mask.shape[1]


@pytest.mark.parametrize("tokens", [None, 40, 90])
def test_scoring_in_parts_gives_the_same_table(tokens):
    def scored(some):
        return token_logprobs(policy(), some)

    machine = Machine(GRPOConfig(microbatch_tokens=tokens), {"policy": policy()}, {})
    found = machine.table(scored, batch())
    assert torch.allclose(found, scored(batch()), atol=1e-5) and not found.requires_grad


@pytest.mark.parametrize("over", ["tokens", "sequences", "budget"])
def test_shares_add_up_to_the_aggregate_of_the_whole(over):
    whole, rows = batch(), torch.tensor([1, 0, 3, 2, 6])
    table = torch.randn(whole.completion_mask.shape, generator=torch.Generator().manual_seed(0))
    mask, cut = whole.completion_mask, microbatches(whole, rows, 60)
    of_parts = [aggregate(table[part], mask[part], over, 40) for part in cut]
    expected = aggregate(table[rows], mask[rows], over, 40)
    assert len(cut) > 2
    weighted = sum(share(mask[part], mask[rows], over) * x for part, x in zip(cut, of_parts))
    assert weighted.item() == pytest.approx(expected.item(), abs=1e-6)
    unweighted = sum(of_parts) / len(of_parts)
    assert abs(unweighted.item() - expected.item()) > 1e-3  # what a plain mean would give


def test_selected_logprobs_have_the_gradient_of_the_plain_formula():
    torch.manual_seed(0)
    ids = torch.randint(0, 11, (3, 5))
    logits = (4 * torch.randn(3, 5, 11, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(selected_logprobs, (logits, ids))
    plain = logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    assert torch.allclose(selected_logprobs(logits, ids), plain, atol=1e-12)
    half = logits.detach().bfloat16().requires_grad_()
    found = selected_logprobs(half, ids)
    found.sum().backward()
    assert found.dtype == torch.float32 and half.grad.dtype == torch.bfloat16
    exact = half.detach().float().log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    assert torch.allclose(found, exact, atol=1e-5)  # the sum over the vocabulary is in float32


def test_selected_logprobs_keep_no_table_of_all_log_probabilities():
    logits = torch.randn(4, 6, 500, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        selected_logprobs(logits, torch.zeros(4, 6, dtype=torch.long))
    assert [x.data_ptr() for x in kept if x.numel() >= logits.numel()] == [logits.data_ptr()]


# ---------------------------------------------------------------------------------- learning


@pytest.mark.parametrize(
    "make, settings",
    [
        (ppo, {}),
        (ppo, dict(shared=True)),
        (ppo, dict(ptx=PTX, ptx_coefficient=0.5, dual_clip=3.0)),
        *((grpo, dict(variant=name)) for name in VARIANTS),
    ],
    ids=["ppo", "shared critic", "ptx", *VARIANTS],
)
def test_the_fast_path_gives_the_numbers_of_the_slow_one(make, settings):
    """Microbatches of like length against one pass over the minibatch, in float64."""
    slow, fast = make(**settings), make(**settings, microbatch_tokens=80)
    for ours, theirs in zip([slow.step(), slow.step()], [fast.step(), fast.step()]):
        assert slow.rollout.completions == fast.rollout.completions
        for name in ours.keys() - {"seconds"}:
            assert theirs[name] == pytest.approx(ours[name], rel=1e-5, abs=1e-6), name
    assert len(set(fast.rollout.lengths.tolist())) > 2
    assert (all_weights(slow) - all_weights(fast)).abs().max().item() < 1e-9
    start = make(**settings)
    assert (all_weights(start) - all_weights(fast)).abs().max().item() > 1e-4


def losses_at(monkeypatch, full: int):
    """Count the forward passes, and let memory end in the one of that number."""
    calls = []

    def limited(model, batch, temperature=1.0):
        logprobs = token_logprobs(model, batch, temperature)
        if torch.is_grad_enabled():
            calls.append(batch.attention_mask.numel())
            if len(calls) == full:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return logprobs

    for module in ("ppo", "grpo"):
        monkeypatch.setattr(f"rlhf_lib.algorithms.{module}.token_logprobs", limited)
    return calls


@pytest.mark.parametrize("make", [ppo, grpo])
@pytest.mark.parametrize("before, full", [(None, 1), (120, 2)], ids=["the whole", "a part"])
def test_out_of_memory_halves_the_microbatch_and_changes_no_number(monkeypatch, make, before, full):
    plain, loop = make(), make(microbatch_tokens=before)
    expected = plain.step()
    calls = losses_at(monkeypatch, full)
    with pytest.warns(
        RuntimeWarning, match="out of memory in an update: from here on microbatch_tokens is"
    ):
        record = loop.step()
    for name in expected.keys() - {"seconds"}:
        assert record[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-6), name
    assert loop.microbatch_tokens == calls[0] // 2 <= (before or calls[0]) // 2
    assert max(calls[full:]) <= loop.microbatch_tokens and len(calls) > 3
    assert (all_weights(plain) - all_weights(loop)).abs().max().item() < 1e-9


def test_out_of_memory_halves_what_ran_and_not_the_whole_batch(monkeypatch):
    """Of a batch that is taken in four parts already, the largest part."""
    calls = []

    def limited(model, batch, temperature=1.0):
        calls.append(batch.attention_mask.numel())
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return token_logprobs(model, batch, temperature)

    monkeypatch.setattr("rlhf_lib.algorithms.sft.token_logprobs", limited)
    loop = SFT(hasty(), tokenizer(), PTX, SFTConfig(batch_size=24, gradient_accumulation_steps=4))
    with pytest.warns(RuntimeWarning, match="out of memory in an update"):
        loop.step()
    assert loop.microbatch_tokens == max(calls[:2]) // 2 and max(calls[2:]) <= max(calls[:2]) // 2


@pytest.mark.parametrize("make", [ppo, grpo])
def test_out_of_memory_again_says_what_can_be_turned_down(monkeypatch, make):
    loop = make()
    losses_at(monkeypatch, full=1)
    with pytest.warns(RuntimeWarning):
        loop.step()
    losses_at(monkeypatch, full=2)
    with pytest.raises(
        RuntimeError,
        match="out of memory in step 2; expected room for "
        "microbatch_tokens=.*batch_size=8 and max_new_tokens=12.*"
        "gradient_checkpointing=True.*bf16=True.*2.00 GiB",
    ):
        loop.step()
    assert loop.step_number == 1


@pytest.mark.parametrize("make", [ppo, grpo])
def test_out_of_memory_in_the_optimiser_is_not_tried_again(monkeypatch, make):
    """Some weights may have moved by then."""
    loop, steps = make(), []

    def full(*arguments, **settings):
        steps.append(1)
        raise torch.OutOfMemoryError("no room for the moments")

    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    with pytest.raises(RuntimeError, match="out of memory in step 1.*no room for the moments"):
        loop.step()
    assert len(steps) == 1 and loop.microbatch_tokens is None


def test_out_of_memory_while_sampling_says_so(monkeypatch):
    def full(*arguments, **settings):
        raise torch.OutOfMemoryError("no room for the cache")

    loop = grpo()
    monkeypatch.setattr("rlhf_lib.algorithms.loop.sample", full)
    with pytest.raises(RuntimeError, match="while sampling lower batch_size or max_new_tokens"):
        loop.step()


def kept_bytes(loop):
    """What the backward pass of one update holds on to, in bytes, counting each tensor once."""
    kept = {}

    def pack(x):
        kept[x.data_ptr()] = x.numel() * x.element_size()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loop.step()
    return sum(kept.values())


def llama_policy(seed):
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer()),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            initializer_range=0.5,
        )
    ).double()


def llama(**settings):
    """GRPO of a model that is no GPT-2, so that it samples through its own forward pass."""
    return grpo(model=llama_policy, **settings)


@pytest.mark.parametrize("make", [ppo, grpo, llama])
def test_a_policy_that_recomputes_samples_through_its_cache(make, caplog):
    """transformers takes the cache from layers that recompute: what they draw would be noise."""
    plain, saving = make(), make(gradient_checkpointing=True)
    expected, record = plain.step(), saving.step()
    assert saving.rollout.completions == plain.rollout.completions
    assert record["ratio_gap"] < 1e-5 and "Caching" not in caplog.text
    assert record["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-5)
    assert GPT2Decoder.reads(saving.policy) == (make is not llama)  # the short way is still open


@pytest.mark.parametrize(
    "make, settings",
    [
        (ppo, {}),
        (grpo, {"gradient_checkpointing": True}),
        (grpo, {"bf16": True}),  # tracing it takes longest; PPO's models have the same layers
        (llama, {}),
        (llama, {"gradient_checkpointing": True}),
    ],
)
def test_compiled_layers_share_a_program_and_change_no_number(monkeypatch, make, settings):
    """With the tracer and its guards, and, in place of generated code, what was traced."""
    programs, compile_layer = [], torch.nn.Module.compile

    def backend(program, inputs):
        programs.append(program)
        return program.forward

    monkeypatch.setattr(
        torch.nn.Module,
        "compile",
        lambda layer, **given: compile_layer(layer, backend=backend, **given),
    )
    torch._dynamo.reset()
    try:
        plain, fused = make(**settings), make(**settings, torch_compile=True)
        for _ in range(2):
            expected, record = plain.step(), fused.step()
            for name in expected.keys() - {"seconds"}:
                assert record[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-6), name
        assert plain.rollout.completions == fused.rollout.completions
        assert (all_weights(plain) - all_weights(fused)).abs().max().item() < 1e-9
        assert programs
        if "bf16" not in settings:  # whose products are rounded between two pieces of a layer
            for length in (7, 9, 5):
                fused.config = replace(fused.config, max_new_tokens=length)
                fused.step()
            # with and without gradients, with and without padding: for all layers and lengths
            assert len(programs) <= 4
    finally:
        torch._dynamo.reset()


@pytest.mark.parametrize("make", [ppo, grpo])
def test_checkpointed_activations_save_memory_and_change_no_number(make):
    plain, saving = make(), make(gradient_checkpointing=True)
    assert plain.step()["policy_loss"] == pytest.approx(saving.step()["policy_loss"], abs=1e-9)
    assert (all_weights(plain) - all_weights(saving)).abs().max().item() < 1e-9
    assert kept_bytes(saving) < 0.6 * kept_bytes(plain)


@pytest.mark.parametrize("make", [ppo, grpo])
def test_checkpointing_leaves_dropout_off(make):
    model = policy(dropout=0.5)
    loop = make(gradient_checkpointing=True)
    loop.policy.load_state_dict(model.double().state_dict())
    for m in loop.policy.modules():
        if isinstance(m, torch.nn.Dropout):
            m.p = 0.5
    assert loop.step()["ratio_gap"] < 1e-5


def test_products_in_bfloat16_are_those_of_autocast_with_float32_between():
    """Each product rounds its inputs and its output to bfloat16, and adds up in float32."""
    torch.manual_seed(0)
    x, weight, bias = torch.randn(5, 7), torch.randn(3, 7), torch.randn(3)
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    with BFloat16Products():
        y = torch.nn.functional.linear(*leaves)
        same = torch.addmm(bias, x, weight.t())
    expected = (x.bfloat16() @ weight.bfloat16().t()).float() + bias
    assert torch.equal(y, expected) and torch.equal(same, expected)
    g = torch.randn(5, 3)
    y.backward(g)
    low = g.bfloat16()
    for leaf, gradient in zip(
        leaves, ((low @ weight.bfloat16()).float(), (low.t() @ x.bfloat16()).float(), g.sum(0))
    ):
        assert leaf.grad.dtype == torch.float32
        assert torch.allclose(leaf.grad, gradient, rtol=0.02, atol=0.02)
    assert (torch.nn.functional.linear(x, weight, bias) - y).abs().max() > 1e-3  # outside: exact


def test_a_processor_without_such_products_multiplies_the_rounded_numbers(monkeypatch):
    """torch's own products in bfloat16 take several times as long there as those in float32."""
    torch.manual_seed(0)
    x, weight, g = torch.randn(40, 70), torch.randn(30, 70), torch.randn(40, 30)
    found = {}
    for has, kind in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(precision, "multiplies_in_bfloat16", lambda has=has: has)
        leaves, kept = [t.clone().requires_grad_() for t in (x, weight)], {}
        with BFloat16Products(kept):
            y = torch.nn.functional.linear(*leaves)
        y.backward(g)
        assert {low.dtype for _, low in kept.values()} == {kind}
        found[has] = [y.detach(), *(leaf.grad for leaf in leaves)]
    for one, other in zip(found[True], found[False]):
        assert torch.equal(other, other.bfloat16().float())  # what comes out is rounded too
        assert torch.allclose(one, other, rtol=0.01, atol=0.05)
    exact = torch.nn.functional.linear(x, weight)
    assert (found[False][0] - exact).abs().max() > 1e-3


def test_a_processor_is_asked_once_whether_it_has_such_products(monkeypatch):
    precision.multiplies_in_bfloat16.cache_clear()
    for avx, amx in ((False, False), (True, False), (False, True)):
        monkeypatch.setattr(precision.platform, "machine", lambda: "AMD64")
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda avx=avx: avx)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        assert precision.multiplies_in_bfloat16() is (avx or amx)
        monkeypatch.undo()
        assert precision.multiplies_in_bfloat16() is (avx or amx)
        precision.multiplies_in_bfloat16.cache_clear()


@pytest.mark.parametrize("make", [ppo, grpo])
def test_weights_rounded_once_an_update_are_those_of_that_update(make, monkeypatch):
    def run():
        loop = make(bf16=True, microbatch_tokens=40, max_steps=3, learning_rate=1e-2)
        return [r["gradient_norm"] for r in loop], loop.policy.state_dict()

    norms, weights = run()
    remembered = BFloat16Products.__init__
    monkeypatch.setattr(BFloat16Products, "__init__", lambda self, kept=None: remembered(self))
    again, anew = run()
    assert norms == again and all(torch.equal(x, anew[name]) for name, x in weights.items())


@pytest.mark.parametrize("make", [ppo, grpo])
def test_bfloat16_goes_with_checkpointed_activations(make):
    def run(**settings):
        loop = make(bf16=True, **settings)
        for name in ("policy", "reference", "critic"):
            if hasattr(loop, name):
                getattr(loop, name).float()
        return loop.step()

    record, again = run(), run(gradient_checkpointing=True)
    assert again["gradient_norm"] == pytest.approx(record["gradient_norm"], rel=1e-5)


def test_a_layer_on_a_gpu_is_computed_again_by_the_kernels_of_the_first_time():
    """Checkpoints restore autocast and not the choice of kernels, on which a layer must agree."""

    def options(**settings):
        given = []
        model = SimpleNamespace(
            device=torch.device("cuda"),
            activation_checkpointing_enable=given.append,
            disable_input_require_grads=lambda: None,
        )
        recompute_activations(model, GRPOConfig(**settings))
        return given[0]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is no GPU
        first, again = options(bf16=True)["context_fn"]()
        with first:
            assert torch.backends.cuda.cudnn_sdp_enabled()  # as it was: the loop chooses
        with again:
            assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.backends.cuda.cudnn_sdp_enabled()
    assert "context_fn" not in options()
    # a compiled layer takes no contexts, and traces its kernels once for both
    assert "context_fn" not in options(bf16=True, torch_compile=True)


@pytest.mark.parametrize("make", [ppo, grpo])
def test_bfloat16_learns_about_the_same_and_keeps_float32_weights(make):
    def run(**settings):
        loop = make(**settings)
        for name in ("policy", "reference", "critic"):
            if hasattr(loop, name):
                getattr(loop, name).float()
        return loop, loop.step()

    plain, record = run()
    loop, rough = run(bf16=True)
    assert all(p.dtype == torch.float32 for p in loop.policy.parameters())
    assert rough["ratio_gap"] < 0.01 and record["ratio_gap"] < 1e-5
    assert rough["gradient_norm"] == pytest.approx(record["gradient_norm"], rel=0.5)
    assert rough["gradient_norm"] != pytest.approx(record["gradient_norm"], rel=1e-5)


def test_a_gpu_without_bfloat16_is_named(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda emulated: False)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "Tesla T4")
    with pytest.raises(
        ValueError, match="bf16 is True on Tesla T4; expected a GPU that multiplies in bfloat16"
    ):
        check_precision(GRPOConfig(bf16=True), torch.device("cuda"))
    check_precision(GRPOConfig(bf16=True), torch.device("cpu"))


def test_a_compiled_layer_is_not_computed_again_in_another_precision():
    with pytest.raises(
        ValueError,
        match="bf16, torch_compile and gradient_checkpointing are all "
        "True on a CPU; expected at most two",
    ):
        grpo(bf16=True, torch_compile=True, gradient_checkpointing=True)
    check_precision(
        GRPOConfig(torch_compile=True, gradient_checkpointing=True), torch.device("cpu")
    )


@pytest.mark.parametrize("make", [ppo, grpo])
def test_a_microbatch_of_no_tokens_is_refused(make):
    with pytest.raises(ValueError, match="microbatch_tokens is 0; expected a positive number"):
        make(microbatch_tokens=0)


@pytest.mark.parametrize("make", [ppo, grpo])
def test_a_compiled_policy_gives_the_same_numbers(make):
    plain, compiled = make(), make()
    compiled.policy.compile(backend="aot_eager")  # traced as ever, but no C++ compiler is needed
    assert plain.step()["policy_loss"] == pytest.approx(compiled.step()["policy_loss"], abs=1e-7)
    assert (all_weights(plain) - all_weights(compiled)).abs().max().item() < 1e-6
