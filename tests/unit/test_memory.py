"""Memory counted from sizes against memory counted in tensors, to the byte."""

import copy
import warnings

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
)

from rlhf_lib.algorithms.sft import SFT
from rlhf_lib.machinery import memory, optimization
from rlhf_lib.machinery.memory import (
    activation_bytes,
    free_bytes,
    held_bytes,
    kv_cache_bytes,
    model_bytes,
    parameter_count,
    ppo_bytes,
    short_of_memory,
)
from rlhf_lib.machinery.optimization import adam
from rlhf_lib.models.policy import count_parameters, new_policy
from rlhf_lib.models.reward_model import state_values
from rlhf_lib.models.tokens import encode, token_logprobs
from rlhf_lib.worlds import letters
from tests.unit.small import RAGGED, policy, reward_model, tokenizer

GROUPED = dict(
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=24,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=3,
    vocab_size=100,
)
CONFIGS = {  # the sizes of the chapter, and odd ones that a formula might get wrong
    "gpt2": GPT2Config(),
    "gpt2-odd": GPT2Config(
        n_embd=48, n_layer=3, n_head=4, n_inner=100, n_positions=77, vocab_size=101
    ),
    "llama-7b": LlamaConfig(),
    "llama-grouped": LlamaConfig(**GROUPED),
    "llama-tied": LlamaConfig(tie_word_embeddings=True, **GROUPED),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_as_transformers_builds_them(name):
    config = CONFIGS[name]
    language = GPT2LMHeadModel if config.model_type == "gpt2" else LlamaForCausalLM
    with torch.device("meta"):
        model = language(config)
        labelled = copy.deepcopy(config)
        labelled.num_labels = 1
        scalar = AutoModelForSequenceClassification.from_config(labelled)
    assert parameter_count(config) == count_parameters(model)
    assert parameter_count(config, "score") == count_parameters(scalar)


def test_the_published_counts():
    assert parameter_count(CONFIGS["gpt2"]) == 124_439_808
    assert parameter_count(CONFIGS["llama-7b"]) == 6_738_415_616


def counters(optimizer) -> int:
    """Adam's step counters: 4 bytes for each tensor, which the formula leaves out."""
    return 4 * len(optimizer.state)


def losses(models, batch):
    return [
        token_logprobs(models["policy"], batch).sum(),
        state_values(models["critic"], batch).square().sum(),
    ]


def test_four_models_in_fp32_after_a_step():
    models = {
        "policy": policy(),
        "critic": reward_model(),
        "reference": policy(1),
        "reward model": reward_model(1),
    }
    optimizers = {name: adam(models[name], 1e-3) for name in ("policy", "critic")}
    for name in ("reference", "reward model"):
        models[name].requires_grad_(False)
    batch = encode(tokenizer(), RAGGED, ["yes", "no thank you", "maybe", "of course"])
    expected = ppo_bytes(models["policy"].config, "fp32")
    before = held_bytes(*models.values())
    assert before == sum(parts["weights"] for parts in expected.values())
    for name, loss in zip(optimizers, losses(models, batch)):
        loss.backward()
        optimizers[name].step()
    for name, parts in expected.items():
        owners = [models[name]] + ([optimizers[name]] if name in optimizers else [])
        spare = counters(optimizers[name]) if name in optimizers else 0
        assert held_bytes(*owners) == sum(parts.values()) + spare, name
    assert held_bytes(*models.values(), *optimizers.values()) == sum(
        sum(parts.values()) for parts in expected.values()
    ) + sum(map(counters, optimizers.values()))


def test_a_model_in_mixed_precision_after_a_step():
    """bf16 weights and gradients, an fp32 copy for Adam: 16 bytes a parameter."""
    model = policy().to(torch.bfloat16)
    master = copy.deepcopy(model).float()
    optimizer = adam(master, 1e-3)
    batch = encode(tokenizer(), RAGGED, ["yes", "no", "maybe", "of course"])
    token_logprobs(model, batch).sum().backward()
    for p, q in zip(model.parameters(), master.parameters()):
        q.grad = p.grad.float()
    optimizer.step()
    optimizer.zero_grad()  # the 32-bit gradients are a buffer of the step
    parts = model_bytes(parameter_count(model.config))
    assert held_bytes(model, master, optimizer) == sum(parts.values()) + counters(optimizer)
    assert held_bytes(model) == parts["weights"] + parts["gradients"]
    assert held_bytes(master) == parts["master weights"]


def test_thirty_six_bytes_a_parameter_and_eighteen_times_inference():
    parts = ppo_bytes(CONFIGS["gpt2"])
    policy_size, scalar_size = (parameter_count(CONFIGS["gpt2"], head) for head in ("lm", "score"))
    total = sum(sum(part.values()) for part in parts.values())
    assert total == 18 * policy_size + 18 * scalar_size
    assert sum(model_bytes(1).values()) * 2 + sum(model_bytes(1, trained=False).values()) * 2 == 36


def test_a_tensor_held_twice_counts_once():
    model = policy()
    assert held_bytes(model, model) == held_bytes(model) == 4 * count_parameters(model)


@pytest.mark.parametrize("name", ["gpt2-odd", "llama-grouped"])
def test_the_cache_holds_these_bytes(name):
    config = CONFIGS[name]
    model = (GPT2LMHeadModel if config.model_type == "gpt2" else LlamaForCausalLM)(config)
    with torch.no_grad():
        cache = model(torch.zeros(3, 7, dtype=torch.long), use_cache=True).past_key_values
    held = sum(
        x.numel() * x.element_size() for layer in cache.layers for x in (layer.keys, layer.values)
    )
    assert held == kv_cache_bytes(config, sequences=3, tokens=7, element_size=4)


@pytest.mark.parametrize(
    "config",
    [
        new_policy(tokenizer(), "tiny").config,
        LlamaConfig(**GROUPED | dict(hidden_size=128, intermediate_size=344, head_dim=32)),
    ],
)
def test_the_estimate_of_activations_is_near(config):
    """Within a third of what autograd keeps for the layers alone."""
    model = (GPT2LMHeadModel if config.model_type == "gpt2" else LlamaForCausalLM)(config)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(x):
        if x.untyped_storage().data_ptr() not in own:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        hidden = model.base_model(
            torch.zeros(4, 48, dtype=torch.long), use_cache=False
        ).last_hidden_state
    del hidden
    estimate = activation_bytes(config, sequences=4, tokens=48, element_size=4)
    assert estimate / 1.33 < sum(kept.values()) < estimate * 1.33


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: parameter_count(GPT2Config(), "value"),
            "head is 'value'; expected 'lm' or 'score'",
        ),
        (lambda: parameter_count(OPTConfig()), "model_type 'opt'; expected 'gpt2', or 'llama'"),
        (lambda: parameter_count(LlamaConfig(attention_bias=True)), "without biases"),
        (lambda: model_bytes(1, "bf16"), "precision is 'bf16'; expected one of 'mixed', 'fp32'"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "limit, used, kept",
    [
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ],
    ids=["version 2", "version 1"],
)
def test_free_memory_is_what_a_container_has_left(limit, used, kept, tmp_path, monkeypatch):
    """What it has read from files may be given up, and is free."""
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    outside = free_bytes()  # of the machine; None where it does not tell
    for name, value in ((limit, "5000"), (used, "3000"), (limit, "5000")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{value}\n")
    (tmp_path / used).with_name("memory.stat").write_text(f"anon 7\n{kept} 400\nslab 1\n")
    assert free_bytes() == 2400
    (tmp_path / used).write_text("6000\n")
    assert free_bytes() == 0
    (tmp_path / limit).write_text("max\n")
    assert free_bytes() == pytest.approx(outside, rel=0.5) if outside else free_bytes() is None


@pytest.mark.parametrize("free, warns", [(10_000, True), (10**12, False), (None, False)])
def test_a_loop_says_what_it_takes_where_it_is_not_free(free, warns, monkeypatch):
    monkeypatch.setattr("rlhf_lib.machinery.machine.free_bytes", lambda: free)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        SFT(policy(), tokenizer(), letters.demonstrations(4, seed=0))
    told = [str(w.message) for w in found if "expected as much free memory" in str(w.message)]
    assert len(told) == warns
    for text in told:
        assert text.startswith("training model takes at least ") and "without a word" in text


def test_training_takes_three_numbers_for_each_weight_that_moves():
    models = {"policy": torch.nn.Linear(10, 100_000, bias=False), "critic": torch.nn.Linear(1, 1)}
    models["policy"].bias = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
    needed = 3 * 4 * (1_000_000 + 2)  # a gradient and two moments, of four bytes
    assert short_of_memory(models, needed) == short_of_memory(models, None) == ""
    assert short_of_memory(models, needed - 1) == (
        "training policy and critic takes at least 12 MB beside the weights, for gradients and the "
        "two moments of Adam; expected as much free memory, and 12 MB are free"
    )


def test_a_large_model_takes_one_pass_over_memory_and_the_same_step(monkeypatch):
    def moved(cached):
        monkeypatch.setattr(optimization, "CACHED", cached)
        model = policy()
        optimizer = adam(model, 1e-3, weight_decay=0.1)
        for factor in (1.0, 2.0, -1.0):
            for p in model.parameters():
                p.grad = factor * torch.ones_like(p) / (1 + p.detach().abs())
            optimizer.step()
        return optimizer.defaults["fused"], torch.nn.utils.parameters_to_vector(model.parameters())

    (plain, many), (fused, one) = moved(10**9), moved(0)
    assert (plain, fused) == (None, True)
    assert torch.allclose(one, many, rtol=0, atol=1e-6)
