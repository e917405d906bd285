"""Any decoder that transformers trains is trained as it is, or refused by name."""

from __future__ import annotations

import copy
import json
import re
import warnings
from pathlib import Path

import pytest
import torch
import transformers
from datasets import Dataset
from safetensors.torch import load_file, save_file

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
from rlhf_lib.families import loading
from rlhf_lib.families.support import FAMILIES, check_sampler, check_supported, context_of
from rlhf_lib.models.policy import load_policy
from rlhf_lib.models.reward_model import (
    load_reward_model,
    new_reward_model,
    reward_scores,
    state_values,
)
from rlhf_lib.models.rollout import sample
from rlhf_lib.models.tokens import encode, token_logprobs
from tests.unit import families
from tests.unit.families import DATA, PROMPTS, length

ROOT = Path(__file__).resolve().parents[2]
ALL = sorted(families.CONFIGS)
DROPOUT = {  # what each family calls the dropouts of its layers
    "gpt2": ("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    "opt": ("dropout", "attention_dropout"),
    "falcon": ("hidden_dropout", "attention_dropout"),
    "bloom": ("hidden_dropout", "attention_dropout"),
    "gpt_neox": ("hidden_dropout", "attention_dropout"),
    "phi": ("resid_pdrop", "embd_pdrop", "attention_dropout"),
    "llama": ("attention_dropout",),
}


def settings(**changed) -> dict:
    small = dict(max_steps=3, batch_size=8, mini_batch_size=8, max_new_tokens=6)
    return {**small, "learning_rate": 1e-3, "warmup_steps": 0, **changed}


def grpo(policy, reference=None, tokenizer=families.PLAIN, **changed) -> GRPO:
    config = GRPOConfig(**settings(num_generations=4, num_iterations=1, **changed))
    return GRPO(policy, reference or copy.deepcopy(policy), tokenizer, length, DATA, config)


def drawn(model, new: int = 9, tokenizer=families.PLAIN):
    generator = torch.Generator().manual_seed(0)
    return sample(model, tokenizer, PROMPTS * 3, new, generator=generator)


# ---------------------------------------------------------------------------------- every family


@pytest.mark.parametrize("family", ALL)
def test_sampler_and_scorer_are_one_function(family):
    """With prompts of several lengths, sampled for three times each, and rows that end early."""
    model = families.frozen(family)
    rollout = drawn(model)
    ended = set(rollout.lengths[rollout.finished].tolist())
    assert len(ended) > 1
    with torch.no_grad():
        scored = token_logprobs(model, rollout)
    mask = rollout.completion_mask
    assert ((scored - rollout.logprobs) * mask).abs().max() < 1e-3


@pytest.mark.parametrize("family", ALL)
def test_a_row_scores_the_same_alone_and_in_a_padded_batch(family):
    model = families.frozen(family)
    rollout = drawn(model, 6)
    with torch.no_grad():
        together = token_logprobs(model, rollout)
        for row in range(4):
            alone = rollout[[row]].trimmed
            apart = token_logprobs(model, alone)
            T = alone.completion_ids.shape[1]
            assert (together[row, :T] - apart[0]).abs().max() < 1e-3


@pytest.mark.parametrize("family", ALL)
def test_greedy_samples_are_those_of_transformers(family):
    model = families.frozen(family)
    rollout = sample(model, families.PLAIN, PROMPTS, 8, greedy=True)
    for row, prompt in enumerate(PROMPTS):
        asked = families.PLAIN(prompt, return_tensors="pt")
        theirs = model.generate(
            input_ids=asked["input_ids"],
            attention_mask=asked["attention_mask"],
            do_sample=False,
            max_new_tokens=8,
        )[0, asked["input_ids"].shape[1] :]
        ours = rollout.completion_ids[row][rollout.completion_mask[row].bool()]
        assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize("family", ALL)
def test_a_run_moves_the_weights_and_goes_on_from_an_ordinary_checkpoint(family, tmp_path):
    policy = families.model(family)
    loop = grpo(policy)
    before = {name: p.clone() for name, p in policy.named_parameters()}
    assert loop.step()["ratio_gap"] < 1e-3
    with_gradient = [name for name, p in policy.named_parameters() if p.grad is not None]
    assert all(not torch.equal(before[name], policy.get_parameter(name)) for name in with_gradient)
    assert len(with_gradient) > 0.8 * len(before)
    loop.save(tmp_path / "checkpoint")

    read = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint" / "policy")
    inputs = drawn(policy, 4).model_inputs
    with torch.no_grad():
        assert torch.equal(read.eval()(**inputs).logits, policy(**inputs).logits)

    again = grpo(families.model(family, seed=1), families.model(family))
    again.resume(tmp_path / "checkpoint")
    expected, found = loop.step(), again.step()
    del expected["seconds"], found["seconds"]
    assert found == expected


@pytest.mark.parametrize("family", ALL)
def test_one_trunk_gives_the_logits_of_the_model_itself(family):
    """Soft caps and scales of the head included: before an update every ratio is 1."""
    policy = families.model(family)
    config = PPOConfig(**settings(num_ppo_epochs=1))
    loop = SharedTrunkPPO(policy, copy.deepcopy(policy), families.PLAIN, length, DATA, config)
    assert loop.step()["ratio_gap"] < 1e-3
    rollout = drawn(policy, 4)
    with torch.no_grad():
        logprobs, values = loop.critic.logprobs_and_values(rollout, 0.7)
        assert torch.equal(logprobs, token_logprobs(policy, rollout, 0.7))
        assert torch.allclose(values, state_values(loop.critic, rollout), atol=1e-6)
    assert loop.critic.score.weight.abs().max() > 0


@pytest.mark.parametrize("family", ALL)
def test_a_reward_model_is_made_of_its_trunk_or_refused(family, tmp_path):
    policy = families.frozen(family)
    try:
        model = new_reward_model(policy)
    except ValueError as error:
        assert "transformers has no sequence classifier; expected another" in str(error)
        name = type(policy).__name__.replace("CausalLM", "SequenceClassification")
        assert not hasattr(transformers, name)
        return
    rollout = drawn(policy, 6)
    with torch.no_grad():
        together = reward_scores(model, rollout)
        alone = torch.cat([reward_scores(model, rollout[[row]].trimmed) for row in range(4)])
    assert together.std() > 0 and (together[:4] - alone).abs().max() < 1e-4
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(reward_scores(load_reward_model(tmp_path), rollout), together)


@pytest.mark.parametrize("family", sorted(DROPOUT))
def test_recomputed_layers_leave_dropout_asleep(family):
    gradients = []
    for recomputed in (False, True):
        policy = families.model(family, **dict.fromkeys(DROPOUT[family], 0.5))
        loop = grpo(policy, gradient_checkpointing=recomputed)
        assert loop.step()["ratio_gap"] < 1e-3
        gradients.append([p.grad.clone() for p in policy.parameters() if p.grad is not None])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*gradients, strict=True))


def test_layers_are_really_computed_again():
    policy = families.model("opt", dropout=0.5)
    loop, calls = grpo(policy, gradient_checkpointing=True), 0
    attention = policy.model.decoder.layers[0].self_attn
    rollout = loop.collect()[0]

    def count(*_):
        nonlocal calls
        calls += 1

    attention.register_forward_hook(count)
    token_logprobs(policy, rollout).sum().backward()
    assert calls == 2


# ---------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3_5_text", "mixtral"])
@pytest.mark.parametrize("saved", [torch.bfloat16, torch.float16, torch.float64])
def test_a_checkpoint_is_read_in_float32(family, saved, tmp_path):
    families.model(family).to(saved).save_pretrained(tmp_path)
    families.PLAIN.save_pretrained(tmp_path)
    policy, _ = load_policy(tmp_path)
    assert {p.dtype for p in policy.parameters()} == {torch.float32}
    assert policy.config.dtype == torch.float32  # it is saved as it was trained


def test_a_reward_model_is_read_in_float32(tmp_path):
    new_reward_model(families.frozen("llama")).to(torch.bfloat16).save_pretrained(tmp_path)
    assert {p.dtype for p in load_reward_model(tmp_path).parameters()} == {torch.float32}


@pytest.mark.parametrize("saved, share", [(torch.float32, 1), (torch.bfloat16, 2)])
def test_weights_that_do_not_fit_into_the_memory_are_not_begun_with(
    saved, share, tmp_path, monkeypatch
):
    families.model("llama").to(saved).save_pretrained(tmp_path)
    families.PLAIN.save_pretrained(tmp_path)
    needed = share * (tmp_path / "model.safetensors").stat().st_size
    monkeypatch.setattr(loading, "free_bytes", lambda: needed - 1)
    with pytest.raises(ValueError, match="whose weights take 0 MB in float32; expected as much fr"):
        load_policy(tmp_path)
    for free in (needed, None):
        monkeypatch.setattr(loading, "free_bytes", lambda free=free: free)
        load_policy(tmp_path)


def pairs(n: int = 8) -> Dataset:
    rows = {"prompt": ["the cat"] * n, "chosen": ["sat ."] * n, "rejected": ["ran"] * n}
    return Dataset.from_dict({**rows, "completion": ["sat ."] * n})


def low_loops():
    """Every loop, given weights in 16 bits to train."""
    policy, tokenizer = families.model("llama").to(torch.bfloat16), families.PLAIN
    reference, reward = copy.deepcopy(policy), new_reward_model(policy)
    small = dict(max_steps=1, batch_size=4)
    ppo = PPOConfig(**settings())
    return {
        "sft": lambda: SFT(policy, tokenizer, pairs(), SFTConfig(**small)),
        "dpo": lambda: DPO(policy, reference, tokenizer, pairs(), DPOConfig(**small)),
        "reward": lambda: RewardTraining(reward, tokenizer, pairs(), RewardConfig(**small)),
        "grpo": lambda: grpo(policy, reference),
        "ppo": lambda: PPO(policy, reference, reward, tokenizer, length, DATA, ppo),
        "critic": lambda: PPO(
            families.model("llama"), families.frozen("llama"), reward, tokenizer, length, DATA, ppo
        ),
        "shared": lambda: SharedTrunkPPO(policy, reference, tokenizer, length, DATA, ppo),
        "rejection": lambda: RejectionSampling(
            policy, tokenizer, length, DATA, RejectionSamplingConfig(**small)
        ),
    }


@pytest.mark.parametrize("name", sorted(low_loops()))
def test_weights_in_16_bits_are_not_trained(name):
    role = {"reward": "model", "sft": "model", "critic": "critic"}.get(name, "policy")
    message = rf"{role} has \S+ in torch.bfloat16, and it is to be trained; expected torch.float32"
    with pytest.raises(ValueError, match=message):
        low_loops()[name]()


def test_a_reference_in_16_bits_is_no_harm():
    policy = families.model("llama")
    loop = grpo(policy, copy.deepcopy(policy).to(torch.bfloat16))
    assert 0 < abs(loop.step()["kl"]) < 0.1


# ---------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("family", sorted(families.REFUSED))
def test_what_cannot_be_sampled_right_is_refused_before_it_is_computed(family):
    model = families.model(family)

    def forbidden(*_, **__):
        raise AssertionError("nothing is computed")

    model.register_forward_pre_hook(forbidden)
    for make in (
        lambda: sample(model, families.PLAIN, PROMPTS, 4),
        lambda: grpo(model),
        lambda: SFT(model, families.PLAIN, pairs(), SFTConfig(max_steps=1, batch_size=4)),
        lambda: check_supported("policy", model),
    ):
        with pytest.raises(ValueError, match=rf"is a {type(model).__name__}, which .*; expected a"):
            make()


def test_a_refused_model_is_refused_when_it_is_loaded(tmp_path):
    families.model("mamba").save_pretrained(tmp_path)
    families.PLAIN.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="source is a MambaForCausalLM, which keeps its state"):
        load_policy(tmp_path)


def test_an_encoder_is_refused():
    with pytest.raises(ValueError, match="T5ForConditionalGeneration, which reads the prompt with"):
        grpo(families.encoder_decoder())


def test_a_model_that_passes_on_whatever_it_is_given_is_left_to_the_first_batch():
    class Wrapper(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model, self.config = model, model.config

        def forward(self, **inputs):
            return self.model(**inputs)

    check_supported("policy", Wrapper(families.frozen("llama")))


@pytest.mark.parametrize(
    "policy, said",
    [
        ("gpt2", "policy is 'gpt2', a name; expected a transformers model itself"),
        (torch.nn.Linear(2, 2), "policy is a Linear; expected a transformers model itself"),
    ],
)
def test_what_is_no_model_is_named(policy, said):
    with pytest.raises(ValueError, match=said):
        grpo(policy, families.model("llama"))


def test_a_model_that_was_compiled_outside_is_refused():
    """Its checkpoint would have other names, and could not be taken up."""
    policy = torch.compile(families.model("llama"))
    with pytest.raises(ValueError, match=r"policy is a OptimizedModule.*torch_compile=True"):
        grpo(policy, families.model("llama"))


def test_weights_that_are_not_there_are_not_made_up(tmp_path):
    policy = families.model("llama")
    policy.save_pretrained(tmp_path / "policy")
    families.PLAIN.save_pretrained(tmp_path / "policy")
    with pytest.raises(ValueError, match=r"no weights for score.weight \(new_reward_model makes"):
        load_reward_model(tmp_path / "policy")
    new_reward_model(policy).save_pretrained(tmp_path / "reward")
    families.PLAIN.save_pretrained(tmp_path / "reward")
    for tied in (False, True):  # tied, no weight is missing
        policy = families.model("llama", tie_word_embeddings=tied)
        new_reward_model(policy).save_pretrained(tmp_path / "reward")
        with pytest.raises(ValueError, match="LlamaForSequenceClassification: a reward model; exp"):
            load_policy(tmp_path / "reward")
    with pytest.raises(ValueError, match="model is a LlamaForCausalLM; expected a sequence clas"):
        RewardTraining(policy, families.PLAIN, pairs(), RewardConfig(max_steps=1, batch_size=4))


def test_a_model_without_a_row_for_a_token_of_its_tokenizer_is_refused():
    tokenizer = families.tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<new>"})
    with pytest.raises(ValueError, match=r"has '<new>' as token 45, and the model has rows for 45"):
        grpo(families.model("llama"), tokenizer=tokenizer)


def test_a_pad_token_takes_a_spare_row_before_a_new_one(tmp_path):
    bare = families.tokenizer(pad=None)
    assert len(bare) == 44
    for rows, expected in ((44, 45), (64, 64)):
        folder = tmp_path / str(rows)
        families.model("llama", vocab_size=rows, pad_token_id=None).save_pretrained(folder)
        bare.save_pretrained(folder)
        policy, tokenizer = load_policy(folder)
        assert policy.get_input_embeddings().weight.shape[0] == expected
        assert policy.config.pad_token_id == tokenizer.pad_token_id == 44


def test_what_is_saved_can_be_batched_in_transformers_alone(tmp_path):
    """A classifier reads its score at the last token that is no padding, as its config names it."""
    model = new_reward_model(families.model("llama", pad_token_id=None))
    config = RewardConfig(max_steps=1, batch_size=4)
    RewardTraining(model, families.PLAIN, pairs(), config).save(tmp_path / "c")
    read = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "c" / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "c" / "tokenizer")
    texts = ["the cat sat . <eos>", "hello ran <eos>"]
    tokenizer.padding_side = "right"
    with torch.no_grad():
        theirs = read(**tokenizer(texts, padding=True, return_tensors="pt")).logits[:, 0]
        batch = encode(families.PLAIN, ["the cat", "hello"], ["sat .", "ran"])
        assert torch.allclose(theirs, reward_scores(model, batch), atol=1e-6)


def test_what_could_not_be_saved_is_refused_before_it_is_trained(tmp_path):
    policy = families.model("llama")
    policy.generation_config.temperature = 0.6
    with pytest.raises(ValueError, match=r"policy has a generation_config .*do_sample = True"):
        grpo(policy)
    policy.generation_config.do_sample = True
    loop = grpo(policy)
    loop.save(tmp_path / "c")


def test_a_generation_config_that_was_published_at_odds_with_itself_is_kept(tmp_path):
    families.model("llama").save_pretrained(tmp_path / "hub")
    families.PLAIN.save_pretrained(tmp_path / "hub")
    path = tmp_path / "hub" / "generation_config.json"
    content = {**json.loads(path.read_text()), "temperature": 0.6, "do_sample": False}
    path.write_text(json.dumps(content))
    policy, tokenizer = load_policy(tmp_path / "hub")
    grpo(policy, tokenizer=tokenizer).save(tmp_path / "c")
    kept = json.loads((tmp_path / "c" / "policy" / "generation_config.json").read_text())
    assert kept["temperature"] == 0.6


# ---------------------------------------------------------------------------------- the guard


class Noisy(torch.nn.Module):
    """A head that adds noise to its logits: no two passes are the same function."""

    def __init__(self, head, size: float):
        super().__init__()
        self.head, self.size, self.weight = head, size, head.weight

    def forward(self, hidden):
        logits = self.head(hidden)
        return logits + self.size * torch.randn(logits.shape)


def noisy(size: float):
    policy = families.model("llama")
    policy.set_output_embeddings(Noisy(policy.get_output_embeddings(), size))
    return policy


@pytest.mark.parametrize("kind", ["grpo", "ppo", "shared", "dynamic", "rejection"])
def test_the_first_batch_stops_a_run_whose_sampler_is_not_its_scorer(kind):
    torch.manual_seed(0)
    policy, reference = noisy(0.3), families.frozen("llama")
    before = copy.deepcopy(policy.state_dict())
    critic, config = new_reward_model(reference), PPOConfig(**settings())
    make = {
        "grpo": lambda: grpo(policy, reference),
        "dynamic": lambda: grpo(policy, reference, dynamic_sampling=True),
        "ppo": lambda: PPO(policy, reference, critic, families.PLAIN, length, DATA, config),
        "shared": lambda: SharedTrunkPPO(policy, reference, families.PLAIN, length, DATA, config),
        "rejection": lambda: RejectionSampling(
            policy, families.PLAIN, length, DATA, RejectionSamplingConfig(max_steps=1, batch_size=4)
        ),
    }
    loop = make[kind]()
    message = r"policy scores its own samples \d\.\d+ nats off .*expected at most 0.01 at every"
    with pytest.raises(ValueError, match=message):
        loop.step()
    assert all(torch.equal(x, before[name]) for name, x in policy.state_dict().items())
    assert loop.step_number == 0


def test_the_bound_is_a_hundredth_of_a_nat_at_any_one_token():
    sampled, mask = torch.zeros(2, 3), torch.tensor([[1, 1, 1], [1, 1, 0]])
    scored = sampled.clone()
    scored[1, 1], scored[1, 2] = 0.0099, 9.0  # the last is padding
    check_sampler(scored, sampled, mask, exact=True)
    scored[1, 1] = -0.0101
    with pytest.raises(ValueError, match=r"0.002 nats .* 0.01 at token 1 of completion 1"):
        check_sampler(scored, sampled, mask, exact=True)


def test_in_16_bits_the_mean_is_bounded_and_a_single_token_is_not():
    sampled, mask = torch.zeros(2, 3), torch.tensor([[1, 1, 1], [1, 1, 0]])
    scored = sampled.clone()
    scored[0, 0] = 0.24
    check_sampler(scored, sampled, mask, exact=False)
    scored[0, 1] = 0.02
    with pytest.raises(ValueError, match="expected at most 0.05 in the mean"):
        check_sampler(scored, sampled, mask, exact=False)


def test_a_score_that_is_not_finite_is_no_match():
    for value in (torch.nan, torch.inf, -torch.inf):
        scored = torch.tensor([[0.0, value]])
        for exact in (True, False):
            with pytest.raises(FloatingPointError, match="log-probabilities that are not finite"):
                check_sampler(scored, torch.zeros(1, 2), torch.ones(1, 2), exact)
            check_sampler(scored, torch.zeros(1, 2), torch.tensor([[1, 0]]), exact)  # padding


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3_5_text", "gemma2", "mixtral"])
def test_bfloat16_products_stay_within_their_bound_and_are_reported(family):
    record = grpo(families.model(family, initializer_range=0.1), bf16=True).step()
    assert 0 < record["ratio_gap"] < 0.5


def test_a_checkpoint_that_lacks_a_weight_is_refused_and_nothing_is_touched(tmp_path):
    loop = grpo(families.model("llama"))
    loop.save(tmp_path / "c")
    path = tmp_path / "c" / "policy" / "model.safetensors"
    weights = load_file(path)
    del weights["model.norm.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    before = copy.deepcopy(loop.policy.state_dict())
    with pytest.raises(ValueError, match=r"expected a readable checkpoint.*model.norm.weight"):
        loop.resume(tmp_path / "c")
    assert all(torch.equal(x, before[name]) for name, x in loop.policy.state_dict().items())


def test_the_proof_of_rejection_sampling_draws_nothing():
    """The same samples as without it: it is greedy."""
    drawn = []
    for proven in (True, False):
        config = RejectionSamplingConfig(max_steps=1, batch_size=4, max_new_tokens=5)
        policy = families.model("llama")
        loop = RejectionSampling(policy, families.PLAIN, length, DATA, config)
        loop.chosen = None if proven else "an earlier round"
        drawn.append(loop.collect()[0].samples)
    assert drawn[0] == drawn[1]


def test_a_resumed_run_is_proven_again(tmp_path):
    policy = families.model("llama")
    loop = grpo(policy)
    loop.step()
    loop.save(tmp_path / "c")
    again = grpo(families.model("llama"))
    again.resume(tmp_path / "c")
    again.policy.set_output_embeddings(Noisy(again.policy.get_output_embeddings(), 0.3))
    with pytest.raises(ValueError, match="policy scores its own samples"):
        again.step()


@pytest.mark.parametrize("recomputed", [False, True])
def test_dropout_that_a_user_wakes_is_put_to_sleep_again(recomputed):
    policy = families.model("opt", dropout=0.5)
    loop = grpo(policy, gradient_checkpointing=recomputed)
    loop.step()
    policy.train()
    assert loop.step()["ratio_gap"] < 1e-3
    policy.eval()
    calls = []
    policy.model.decoder.layers[0].self_attn.register_forward_hook(lambda *_: calls.append(1))
    rollout = loop.rollout
    loop.machine.settle()
    token_logprobs(policy, rollout).sum().backward()
    assert len(calls) == (2 if recomputed else 1)


def test_a_reference_that_a_user_wakes_is_put_to_sleep_again():
    found = []
    for woken in (False, True):
        policy = families.model("opt")
        reference = families.model("opt", seed=1, dropout=0.5)
        loop = grpo(policy, reference)
        reference.train(woken)
        found.append(loop.step()["kl"])
    assert found[0] == found[1] != 0


def test_a_sampler_that_parts_from_its_scorer_later_is_told():
    policy = families.model("llama")
    loop = grpo(policy)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loop.step()
    torch.manual_seed(0)
    policy.set_output_embeddings(Noisy(policy.get_output_embeddings(), 0.3))
    with pytest.warns(RuntimeWarning, match=r"a ratio was \d\S* off before any update"):
        loop.step()


class Slots(torch.nn.Module):
    """A head that looks at the slot of a token, padding and all, and not at its position."""

    def __init__(self, head):
        super().__init__()
        self.head, self.weight = head, head.weight
        self.width = 0

    def forward(self, hidden):
        return self.head(hidden) * (1 + 0.01 * self.width)


def test_a_model_that_padding_moves_is_stopped_by_the_first_batch(monkeypatch):
    """Sampler and scorer agree, since both are padded alike; a row by itself does not."""
    policy = families.model("llama")
    head = Slots(policy.get_output_embeddings())
    policy.set_output_embeddings(head)

    def note_padding(module, arguments, inputs):
        before = inputs["attention_mask"].cumsum(dim=1) == 0  # of each row, on the left
        head.width = before.sum(dim=1)[:, None, None]

    policy.register_forward_pre_hook(note_padding, with_kwargs=True)
    loop = grpo(policy, families.frozen("llama"))
    with pytest.raises(ValueError, match="positions that padding shifts. If another policy"):
        loop.step()


def test_weights_that_the_class_has_no_place_for_are_not_dropped(tmp_path):
    model = new_reward_model(families.model("llama"))
    model.score.bias = torch.nn.Parameter(torch.tensor([3.0]))
    model.save_pretrained(tmp_path / "reward")
    with pytest.raises(ValueError, match="weights that this has no place for: score.bias"):
        load_reward_model(tmp_path / "reward")
    with pytest.raises(ValueError, match="model has a head with a bias"):
        RewardTraining(model, families.PLAIN, pairs(), RewardConfig(max_steps=1, batch_size=4))
    families.model("llama", attention_bias=True).save_pretrained(tmp_path / "policy")
    families.PLAIN.save_pretrained(tmp_path / "policy")
    path = tmp_path / "policy" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "attention_bias": False}))
    with pytest.raises(ValueError, match=r"no place for: model.layers.0.self_attn.k_proj.bias"):
        load_policy(tmp_path / "policy")


def test_a_reference_without_a_row_for_padding_is_refused():
    tokenizer = families.tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<new>"})
    policy = families.model("llama", vocab_size=46, pad_token_id=45)
    with pytest.raises(ValueError, match="reference has rows for 45 tokens, and padding is token"):
        grpo(policy, families.model("llama"), tokenizer=tokenizer)


@pytest.mark.parametrize("family", ["llama", "bloom", "falcon_h1"])
def test_a_model_that_answers_in_tuples_is_asked_for_names(family):
    policy = families.model(family)
    policy.config.return_dict = False
    assert grpo(policy).step()["ratio_gap"] < 1e-3


# ---------------------------------------------------------------------------------- the table


def test_every_family_that_is_named_is_tested():
    assert set(families.CONFIGS) == set(FAMILIES)
    for family in FAMILIES:
        assert families.frozen(family).config.model_type == family


def test_the_page_of_the_library_says_what_is_tested():
    """Each row of the table: the family, its model type, its class, and whether it has a critic."""
    page = (ROOT / "book/appendices/your-own.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| `(\w+)` \| `(\w+)` \| (yes|no) \|$", page, re.M)
    assert {kind: name for name, kind, _, _ in rows} == FAMILIES and len(rows) == len(FAMILIES)
    for _, kind, owner, critic in rows:
        model = families.frozen(kind)
        assert owner == type(model).__name__
        classifiers = transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
        assert critic == ("yes" if type(model.config) in classifiers else "no")


def test_the_context_is_read_wherever_a_config_keeps_it():
    for family in FAMILIES:
        bound = None if family in ("bloom", "falcon") else 128
        assert context_of(families.frozen(family)) == bound
