"""Adapters of peft as policies: the adapter is trained, saved, resumed and merged, and no more."""

from __future__ import annotations

import copy
import warnings

import peft
import pytest
import torch
import transformers
from datasets import Dataset

from rlhf_lib.algorithms import (
    DPO,
    GRPO,
    PPO,
    SFT,
    DPOConfig,
    GRPOConfig,
    PPOConfig,
    RejectionSampling,
    RejectionSamplingConfig,
    RewardConfig,
    RewardTraining,
    SFTConfig,
    SharedTrunkPPO,
)
from rlhf_lib.algorithms.reward_training import standardise
from rlhf_lib.families.adapters import AdapterOff, is_adapted, merged, new_adapter
from rlhf_lib.models.policy import load_policy
from rlhf_lib.models.reward_model import load_reward_model, new_reward_model, reward_scores
from rlhf_lib.models.rewards import LearnedReward
from rlhf_lib.models.rollout import sample
from rlhf_lib.models.tokens import token_logprobs
from tests.unit import families
from tests.unit.families import DATA, PROMPTS, length

N = 8
PAIRS = Dataset.from_dict(
    {
        "prompt": PROMPTS * 2,
        "chosen": ["sat .", "yes", "hi", "cup"] * 2,
        "rejected": ["ran", "no", "bad", "rain rain"] * 2,
        "completion": ["sat .", "yes", "hi", "cup"] * 2,
    }
)
TARGETS = {"llama": ["q_proj", "v_proj"], "qwen3": ["q_proj", "down_proj"], "gpt2": ["c_attn"]}
EVERY = ["sft", "grpo", "ppo", "shared", "dpo", "kto", "rejection"]


def adapter(family: str = "llama", seed: int = 0, fresh: bool = True, **changed):
    """A policy with an adapter, new (it changes nothing yet) or random."""
    with torch.random.fork_rng():
        torch.manual_seed(seed + 7)
        config = peft.LoraConfig(
            **{
                "r": 4,
                "target_modules": TARGETS[family],
                "task_type": "CAUSAL_LM",
                "init_lora_weights": fresh,
                "fan_in_fan_out": family == "gpt2",
                **changed,
            }
        )
        return peft.get_peft_model(families.model(family, seed), config)


def loop_of(kind: str, policy, reference=None, **changed):
    tokenizer, small = families.PLAIN, dict(max_steps=4, learning_rate=1e-2, warmup_steps=0)
    online = dict(small, batch_size=8, mini_batch_size=4, max_new_tokens=5, **changed)
    if kind == "sft":
        return SFT(policy, tokenizer, PAIRS, SFTConfig(batch_size=4, **small, **changed))
    if kind == "grpo":
        config = GRPOConfig(num_generations=4, **online)
        return GRPO(policy, reference, tokenizer, length, DATA, config)
    if kind == "ppo":
        critic = new_reward_model(families.model("llama"))
        return PPO(policy, reference, critic, tokenizer, length, DATA, PPOConfig(**online))
    if kind == "shared":
        return SharedTrunkPPO(policy, reference, tokenizer, length, DATA, PPOConfig(**online))
    if kind in ("dpo", "kto"):
        config = DPOConfig(batch_size=4, loss_type=kind, **small, **changed)
        return DPO(policy, reference, tokenizer, PAIRS, config)
    config = RejectionSamplingConfig(
        batch_size=4, num_generations=4, mini_batch_size=4, max_new_tokens=5, **small, **changed
    )
    return RejectionSampling(policy, tokenizer, length, DATA, config)


def of_adapter(model) -> dict:
    return {name: p.detach().clone() for name, p in model.named_parameters() if "lora_" in name}


def of_base(model) -> dict:
    return {name: p.detach().clone() for name, p in model.named_parameters() if "lora_" not in name}


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([[3, 4, 5, 6, 7]])).logits


# ---------------------------------------------------------------------------------- what is trained


@pytest.mark.parametrize("family", sorted(TARGETS))
@pytest.mark.parametrize("kind", EVERY)
def test_the_adapter_moves_and_the_model_under_it_stays_bit_for_bit(kind, family):
    policy = adapter(family)
    wanted = {name for name, p in policy.named_parameters() if p.requires_grad}
    before, base = of_adapter(policy), of_base(policy)
    loop = loop_of(kind, policy)
    for _ in range(2):
        loop.step()
    assert {name for name, p in policy.named_parameters() if p.requires_grad} == wanted
    assert wanted == set(before)
    moved = [name for name, p in of_adapter(policy).items() if not torch.equal(p, before[name])]
    assert len(moved) == len(before)
    assert all(torch.equal(p, base[name]) for name, p in of_base(policy).items())


def test_the_optimiser_holds_moments_of_the_adapter_alone():
    loop = loop_of("sft", adapter())
    loop.step()
    held = [p for group in loop.optimizers["model"].param_groups for p in group["params"]]
    assert all(p.requires_grad for p in held)
    assert sum(p.numel() for p in held) == sum(p.numel() for p in of_adapter(loop.model).values())


def test_dropout_of_the_adapter_is_off_in_training():
    record = loop_of("grpo", adapter(fresh=False, lora_dropout=0.5)).step()
    assert record["ratio_gap"] < 1e-3


@pytest.mark.parametrize("recomputed", [False, True])
def test_sampler_and_scorer_are_one_function_with_an_adapter(recomputed):
    policy = adapter("qwen3", fresh=False)
    loop = loop_of("grpo", policy, gradient_checkpointing=recomputed)
    assert loop.step()["ratio_gap"] < 1e-3
    assert loop.step()["gradient_norm"] > 0


def test_layers_that_are_trained_whole_beside_the_adapter_are_trained():
    policy = adapter(modules_to_save=["lm_head"])
    head = policy.get_output_embeddings().weight.detach().clone()
    loop_of("sft", policy).step()
    assert not torch.equal(policy.get_output_embeddings().weight, head)


def test_layers_that_a_user_froze_stay_frozen():
    model = families.model("llama")
    model.get_input_embeddings().requires_grad_(False)
    before = model.get_input_embeddings().weight.clone()
    loop_of("sft", model).step()
    assert torch.equal(model.get_input_embeddings().weight, before)
    assert not model.get_input_embeddings().weight.requires_grad


def test_a_model_that_has_been_a_reference_is_trained_whole():
    model = families.model("llama")
    model.requires_grad_(False)
    loop_of("sft", model).step()
    assert all(p.requires_grad for p in model.parameters())


def test_an_adapter_over_weights_in_16_bits_is_trained_in_32():
    low = families.model("llama", initializer_range=0.1).to(torch.bfloat16)
    policy = peft.get_peft_model(low, peft.LoraConfig(r=4, target_modules=TARGETS["llama"]))
    assert {p.dtype for p in of_adapter(policy).values()} == {torch.float32}
    record = loop_of("grpo", policy).step()
    assert record["ratio_gap"] < 0.5


# ---------------------------------------------------------------------------------- the reference


def test_without_a_reference_the_adapter_is_turned_off_for_one():
    policy = adapter(fresh=False)
    expected, adapted = logits(families.model("llama")), logits(policy)
    reference = AdapterOff(policy)
    assert torch.equal(reference(torch.tensor([[3, 4, 5, 6, 7]])).logits, expected)
    assert torch.equal(logits(policy), adapted) and not torch.equal(adapted, expected)


@pytest.mark.parametrize("kind", ["grpo", "ppo", "shared", "dpo", "kto"])
def test_the_adapter_off_is_as_good_as_a_copy(kind):
    """Three steps, to the last digit; and no second model is held."""
    records = []
    for reference in (None, families.model("llama")):
        loop = loop_of(kind, adapter(), reference)
        records.append([loop.step() for _ in range(3)])
        for record in records[-1]:
            del record["seconds"]
    assert records[0] == records[1]
    assert "kl" not in records[0][-1] or records[0][-1]["kl"] != 0


def test_a_frozen_part_of_the_adapter_is_frozen_after_the_reference_was_asked():
    policy = adapter()
    frozen = next(p for name, p in policy.named_parameters() if "lora_A" in name)
    frozen.requires_grad_(False)
    before = frozen.detach().clone()
    loop = loop_of("grpo", policy)
    loop.step()
    assert not frozen.requires_grad and torch.equal(frozen, before)


def test_without_a_price_no_reference_is_made():
    loop = loop_of("grpo", adapter(), beta=0.0)
    assert loop.reference is None and "kl" not in loop.step()


def test_a_model_without_an_adapter_still_needs_a_reference():
    for kind in ("grpo", "ppo", "shared", "dpo"):
        with pytest.raises(ValueError, match="reference is None; expected a model to stay near"):
            loop_of(kind, families.model("llama"))


def test_a_reference_into_which_the_adapter_was_put_is_refused():
    base = families.model("llama")
    policy = peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="reference and policy share weights; expected a copy"):
        loop_of("grpo", policy, base)


# ---------------------------------------------------------------------------------- refusals


def test_an_adapter_that_was_loaded_for_use_is_refused(tmp_path):
    adapter().save_pretrained(tmp_path)
    policy = peft.PeftModel.from_pretrained(families.model("llama"), tmp_path)
    with pytest.raises(ValueError, match=r"policy has an adapter without a gradient.*is_trainable"):
        loop_of("grpo", policy)


def test_an_adapter_that_writes_tokens_of_its_own_is_refused():
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    policy = peft.get_peft_model(families.model("llama"), config)
    with pytest.raises(ValueError, match="of the kind PROMPT_TUNING, which adds tokens"):
        loop_of("grpo", policy)


def test_an_adapter_without_its_wrapper_is_refused():
    model = families.model("llama")
    model.add_adapter(peft.LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="model has an adapter by add_adapter; expected peft.get_"):
        loop_of("sft", model)


def test_an_adapter_on_a_model_that_is_not_supported_is_refused_by_its_name():
    config = peft.LoraConfig(target_modules=["in_proj"])
    policy = peft.get_peft_model(families.model("mamba"), config)
    with pytest.raises(ValueError, match="policy is a MambaForCausalLM, which keeps its state"):
        loop_of("grpo", policy)


def test_what_is_trained_beside_the_adapter_is_refused_because_it_is_not_saved():
    policy = adapter()
    for name, p in policy.named_parameters():
        if "norm" in name:
            p.requires_grad_(True)
    with pytest.raises(ValueError, match=r"policy has \S*norm\S* to be trained, which is not part"):
        loop_of("grpo", policy)


@pytest.mark.parametrize(
    "changed, said",
    [
        (dict(bias="all"), "bias='all'"),
        (dict(bias="lora_only"), "bias='lora_only'"),
        (dict(init_lora_weights="pissa"), "init_lora_weights='pissa'"),
        (dict(init_lora_weights="olora"), "init_lora_weights='olora'"),
    ],
)
def test_an_adapter_that_is_not_off_when_it_is_off_is_no_reference(changed, said):
    policy = adapter(**({"fresh": changed.get("init_lora_weights", True)} | changed))
    with pytest.raises(ValueError, match=f"{said}, so that with it off .* not what it was"):
        loop_of("grpo", policy)
    loop = loop_of("grpo", policy, copy.deepcopy(policy))
    assert abs(loop.step()["kl"]) < 1e-4


def test_a_gaussian_start_changes_nothing_and_is_a_reference():
    assert abs(loop_of("grpo", adapter(fresh="gaussian")).step()["kl"]) < 1e-4


def test_adapters_of_another_name_or_number_are_refused():
    config = peft.LoraConfig(target_modules=["q_proj"])
    mine = peft.get_peft_model(families.model("llama"), config, adapter_name="mine")
    with pytest.raises(ValueError, match="policy has the adapters mine; expected one, by the name"):
        loop_of("grpo", mine)
    two = adapter()
    two.add_adapter("second", config)
    with pytest.raises(ValueError, match="policy has the adapters default, second; expected one"):
        loop_of("grpo", two)
    with pytest.raises(ValueError, match="policy has an adapter in an adapter; expected one"):
        loop_of("grpo", peft.get_peft_model(adapter(), config))


def test_a_head_that_stays_as_it_was_drawn_is_refused():
    config = peft.LoraConfig(target_modules=["q_proj"])
    model = peft.get_peft_model(new_reward_model(families.model("llama")), config)
    with pytest.raises(ValueError, match="model has a head that is frozen.*task_type='SEQ_CLS'"):
        RewardTraining(model, families.PLAIN, PAIRS, RewardConfig(max_steps=1, batch_size=4))


# ---------------------------------------------------------------------------------- files


@pytest.mark.parametrize("kind", EVERY)
def test_a_run_goes_on_from_its_checkpoint_to_the_same_numbers(kind, tmp_path):
    loop = loop_of(kind, adapter())
    loop.step()
    loop.step()
    loop.save(tmp_path / "c")
    again = loop_of(kind, adapter(seed=0, fresh=False))
    again.resume(tmp_path / "c")
    expected, found = loop.step(), again.step()
    del expected["seconds"], found["seconds"]
    assert found == expected


def test_the_saved_adapter_on_its_base_is_the_trained_model(tmp_path):
    loop = loop_of("sft", adapter())
    loop.step()
    loop.save(tmp_path / "c")
    read = peft.PeftModel.from_pretrained(families.model("llama"), tmp_path / "c" / "model").eval()
    assert torch.equal(logits(read), logits(loop.model))
    names = {path.name for path in (tmp_path / "c" / "model").iterdir()}
    assert "adapter_model.safetensors" in names and "model.safetensors" not in names


def test_a_checkpoint_of_another_adapter_is_refused_and_nothing_is_touched(tmp_path):
    loop = loop_of("sft", adapter())
    loop.save(tmp_path / "c")
    other = loop_of("sft", adapter(r=2))
    before = of_adapter(other.model)
    with pytest.raises(ValueError, match="expected a readable checkpoint"):
        other.resume(tmp_path / "c")
    whole = loop_of("sft", families.model("llama"))
    with pytest.raises(ValueError, match="expected a readable checkpoint"):
        whole.resume(tmp_path / "c")
    assert all(torch.equal(p, before[name]) for name, p in of_adapter(other.model).items())


@pytest.mark.parametrize("changed", [dict(lora_alpha=64), dict(use_rslora=True)])
def test_a_checkpoint_of_an_adapter_on_another_scale_is_refused(changed, tmp_path):
    loop_of("sft", adapter()).save(tmp_path / "c")
    name = next(iter(changed))
    with pytest.raises(ValueError, match=f"the adapter was saved with {name}="):
        loop_of("sft", adapter(**changed)).resume(tmp_path / "c")


def test_a_checkpoint_of_an_adapter_over_another_model_is_refused(tmp_path):
    loop_of("sft", adapter()).save(tmp_path / "c")
    with pytest.raises(ValueError, match="model has an adapter over another model than it was"):
        loop_of("sft", adapter(seed=5)).resume(tmp_path / "c")


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_an_adapter_on_one_of_two_tied_tables_is_merged_right(target, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = peft.LoraConfig(
            target_modules=["q_proj", target], init_lora_weights=False, task_type="CAUSAL_LM"
        )
        policy = peft.get_peft_model(families.model("llama", tie_word_embeddings=True), config)
    before = logits(policy.eval())
    whole = merged(policy)
    assert torch.allclose(logits(whole), before, atol=1e-4)
    assert torch.equal(logits(policy), before)
    whole.save_pretrained(tmp_path)
    read = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(read), logits(whole))


def test_a_base_in_16_bits_is_merged_in_32():
    low = families.model("llama").to(torch.bfloat16)
    policy = peft.get_peft_model(low, peft.LoraConfig(target_modules=["q_proj"]))
    assert {p.dtype for p in merged(policy).parameters()} == {torch.float32}


def test_a_saved_adapter_brings_the_row_of_a_token_that_was_added(tmp_path):
    """And the tokenizer of its checkpoint, which has that token."""
    bare = families.tokenizer(pad=None)
    families.model("llama", vocab_size=44, pad_token_id=None).save_pretrained(tmp_path / "base")
    bare.save_pretrained(tmp_path / "base")
    start, tokenizer = load_policy(tmp_path / "base")
    assert start.get_input_embeddings().weight.shape[0] == 45
    policy = new_adapter(start, 2)
    config = SFTConfig(max_steps=1, batch_size=4, learning_rate=1e-2, warmup_steps=0)
    loop = SFT(policy, tokenizer, PAIRS, config)
    loop.step()
    loop.save(tmp_path / "c")
    read, own = load_policy(tmp_path / "c" / "model")
    assert own.get_vocab() == tokenizer.get_vocab() and own.pad_token_id == 44
    assert torch.equal(logits(read), logits(policy))


def test_an_adapter_whose_model_is_gone_says_which(tmp_path):
    families.model("llama").save_pretrained(tmp_path / "base")
    start = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    peft.get_peft_model(start, peft.LoraConfig(target_modules=["q_proj"])).save_pretrained(
        tmp_path / "adapter"
    )
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"an adapter of the model '.*base'; expected that model"):
        load_policy(tmp_path / "adapter")


@pytest.mark.parametrize("family", sorted(TARGETS))
def test_a_merged_copy_is_an_ordinary_model_that_says_the_same(family, tmp_path):
    policy = adapter(family, fresh=False)
    before = logits(policy)
    whole = merged(policy)
    assert type(whole) is type(families.frozen(family)) and not is_adapted(whole)
    assert torch.allclose(logits(whole), before, atol=1e-5)
    assert torch.equal(logits(policy), before) and is_adapted(policy)  # it was copied
    whole.save_pretrained(tmp_path)
    read = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(read), logits(whole))


def test_merging_a_model_without_an_adapter_gives_it_back():
    model = families.frozen("llama")
    assert merged(model) is model


def test_a_folder_with_an_adapter_is_loaded_ready_to_train(tmp_path):
    base = tmp_path / "base"
    families.model("llama").to(torch.bfloat16).save_pretrained(base)
    families.PLAIN.save_pretrained(base)
    start = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    policy = peft.get_peft_model(start, config).eval()
    policy.save_pretrained(tmp_path / "adapter")
    families.PLAIN.save_pretrained(tmp_path / "adapter")
    read, tokenizer = load_policy(tmp_path / "adapter")
    assert {p.dtype for p in read.parameters()} == {torch.float32}
    assert torch.equal(logits(read), logits(policy)) and tokenizer.pad_token == "<pad>"
    wanted = {name for name, p in policy.named_parameters() if p.requires_grad}
    assert {name for name, p in read.named_parameters() if p.requires_grad} == wanted
    loop_of("sft", read).step()


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3_next", "mixtral", "opt"])
def test_a_new_adapter_changes_nothing_yet_and_can_be_learnt(family):
    before = logits(families.frozen(family))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy = new_adapter(families.model(family), 4, seed=3)
    assert torch.equal(logits(policy), before)
    names = [name for name, p in policy.named_parameters() if p.requires_grad]
    assert names and all("lora_" in name for name in names)
    loop_of("sft", policy).step()
    assert not torch.equal(logits(policy), before)
    again = new_adapter(families.model(family), 4, seed=3)
    other = new_adapter(families.model(family), 4, seed=4)
    first = next(name for name in names if "lora_A" in name)
    assert not torch.equal(again.get_parameter(first), other.get_parameter(first))


def test_a_second_adapter_and_a_rank_of_nothing_are_refused():
    with pytest.raises(ValueError, match="model has an adapter already; expected one without"):
        new_adapter(adapter(), 4)
    with pytest.raises(ValueError, match="rank is 0; expected at least 1"):
        new_adapter(families.model("llama"), 0)


# ---------------------------------------------------------------------------------- reward models


def test_a_reward_model_starts_from_the_trunk_with_the_adapter_in_it():
    policy = adapter(fresh=False)
    model = new_reward_model(policy)
    rollout = sample(policy, families.PLAIN, PROMPTS, 4)
    expected = new_reward_model(merged(policy))
    assert torch.equal(reward_scores(model, rollout), reward_scores(expected, rollout))
    assert all(p.requires_grad for p in model.parameters())


def scorer():
    config = peft.LoraConfig(target_modules=["q_proj"], task_type="SEQ_CLS")
    return peft.get_peft_model(new_reward_model(families.model("llama")), config)


def test_a_reward_model_with_an_adapter_is_trained_standardised_saved_and_read(tmp_path):
    model = scorer()
    base = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    loop = RewardTraining(
        model, families.PLAIN, PAIRS, RewardConfig(max_steps=3, batch_size=4, warmup_steps=0)
    )
    loop.step()
    loop.save(tmp_path / "c")
    again = RewardTraining(scorer(), families.PLAIN, PAIRS, loop.config)
    again.resume(tmp_path / "c")
    assert loop.step()["loss"] == again.step()["loss"]
    assert all(torch.equal(model.get_parameter(name), p) for name, p in base.items())

    standardise(model, families.PLAIN, PAIRS["prompt"][:], PAIRS["chosen"][:])
    scores = LearnedReward(model, families.PLAIN)(PAIRS["prompt"][:], PAIRS["chosen"][:])
    assert torch.tensor(scores).std().item() == pytest.approx(1, abs=1e-5)
    whole = merged(model)
    whole.save_pretrained(tmp_path / "whole")
    read = LearnedReward(load_reward_model(tmp_path / "whole"), families.PLAIN)
    assert read(PAIRS["prompt"][:], PAIRS["chosen"][:]) == pytest.approx(scores, abs=1e-5)


def test_a_policy_with_an_adapter_scores_and_samples_as_its_merged_copy():
    policy = adapter(fresh=False)
    whole = merged(policy)
    draws = [
        sample(model, families.PLAIN, PROMPTS, 6, generator=torch.Generator().manual_seed(0))
        for model in (policy, whole)
    ]
    assert draws[0].completions == draws[1].completions
    with torch.no_grad():
        assert torch.allclose(
            token_logprobs(policy, draws[0]), token_logprobs(whole, draws[0]), atol=1e-5
        )


def test_a_copy_of_a_policy_with_an_adapter_is_apart_from_it():
    policy = adapter(fresh=False)
    twin = copy.deepcopy(policy)
    loop = loop_of("grpo", policy, twin)
    loop.step()
    assert loop.step()["kl"] != 0 and not any(p.requires_grad for p in twin.parameters())
