"""Which architectures can be trained here, and how that is known.

The library asks three things of a causal language model. It takes a key-value cache, so that tokens
are sampled one at a time. It is told the positions of its tokens, or has none, so that padding on
the left shifts nothing. And both give the same log-probabilities. The first two are read off the
model before anything is computed; the third is shown by the first batch of a run
(`prove_sampler`). Chapter: your-own.
"""

from __future__ import annotations

import inspect
import tempfile
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from ..machinery.precision import computing_in
from ..machinery.settings import check_choices
from .adapters import base_of, check_adapter
from .special_tokens import lacks_row, name_special_tokens

# Families that the tests train, by their `model_type`: a small random model of each is sampled
# from, scored alone and in a padded batch, trained, saved, read by transformers, and resumed.
FAMILIES: dict[str, str] = {
    "gpt2": "GPT-2",
    "llama": "Llama, SmolLM, TinyLlama",
    "mistral": "Mistral",
    "mixtral": "Mixtral",
    "qwen2": "Qwen 2, Qwen 2.5",
    "qwen3": "Qwen 3",
    "qwen3_moe": "Qwen 3, mixtures of experts",
    "qwen3_5_text": "Qwen 3.5",
    "qwen3_next": "Qwen 3 Next",
    "gemma": "Gemma",
    "gemma2": "Gemma 2",
    "gemma3_text": "Gemma 3",
    "phi": "Phi 1, Phi 2",
    "phi3": "Phi 3, Phi 4",
    "olmo": "OLMo",
    "olmo2": "OLMo 2",
    "olmoe": "OLMoE",
    "gpt_neox": "Pythia, GPT-NeoX",
    "granite": "Granite",
    "granitemoehybrid": "Granite 4, hybrids",
    "cohere": "Cohere Command",
    "cohere2": "Cohere Command A, R7B",
    "opt": "OPT",
    "falcon": "Falcon",
    "falcon_h1": "Falcon H1",
    "smollm3": "SmolLM 3",
    "bloom": "BLOOM",
    "deepseek_v3": "DeepSeek V3",
    "gpt_oss": "gpt-oss",
    "lfm2": "LFM 2",
}

WITHOUT_POSITIONS = ("bloom", "mpt")  # a bias on the distance is all they have: padding is no harm
OWN_STATE = ("recurrent_gemma", "minimax")  # take a cache, and another than they are given

GAP = 0.01  # nats: the largest difference of sampler and scorer in float32, of any token
GAP_16_BITS = 0.05  # nats: the largest in the mean over tokens, where either computes in bfloat16


def check_supported(name: str, model) -> None:
    """Refuse a model that cannot be sampled from as it is scored, before anything is computed.

    Chapter: your-own.

    Parameters
    ----------
    name : str
        The argument, for the message.
    model : transformers causal language model
        As it is, or in the wrapper of peft.

    Raises
    ------
    ValueError
        If its next token cannot be had through a key-value cache, as of Mamba and RWKV; if
        padding on the left would move its positions, as of BART's decoder; if an encoder reads
        the prompt, as of T5; or if it is no transformers model, or one in a wrapper that would be
        saved with it.
    """
    model = base_of(model)
    kind, config = type(model).__name__, getattr(model, "config", None)
    if config is None or hasattr(model, "_orig_mod"):
        said = f"{model!r}, a name" if isinstance(model, str) else f"a {kind}"
        raise ValueError(
            f"{name} is {said}; expected a transformers model itself, such as load_policy gives "
            "(torch_compile=True compiles it; accelerate launch shares it out)"
        )
    _name_outputs(config)
    takes = inspect.signature(model.forward).parameters
    if any(p.kind is p.VAR_KEYWORD for p in takes.values()) and "input_ids" not in takes:
        return  # a wrapper, which passes on what it is given: the first batch has to show it
    if getattr(config, "is_encoder_decoder", False):
        flaw = "reads the prompt with an encoder"
    elif "past_key_values" not in takes or config.model_type in OWN_STATE:
        flaw = "keeps its state outside the cache that tokens are sampled through"
    elif "position_ids" not in takes and config.model_type not in WITHOUT_POSITIONS:
        flaw = "counts positions over padding too, so that padded prompts would be read wrongly"
    else:
        return
    raise ValueError(
        f"{name} is a {kind}, which {flaw}; expected a decoder such as Llama, Qwen, Gemma, GPT-2 "
        "or another of rlhf_lib.families.support.FAMILIES"
    )


def check_trainable(name: str, model, tokenizer) -> None:
    """Refuse a model that cannot be trained as it is, or not be saved after it.

    On the way its configs come to name the tokens that its tokenizer pads and ends with.

    Chapter: your-own.
    """
    check_supported(name, model)
    check_adapter(name, model)
    name_special_tokens(model, tokenizer)
    check_saving(name, model)


def check_saving(name: str, model) -> None:
    """Refuse, before it is trained, a model that transformers would not save afterwards.

    It refuses to write a generation config at odds with itself, such as a temperature without
    sampling, unless it was read so from a file; and of a head it reads the weight alone.
    Chapter: your-own.
    """
    if getattr(getattr(model, "score", None), "bias", None) is not None:
        raise ValueError(
            f"{name} has a head with a bias, which transformers does not read again; expected "
            "one without"
        )
    config = getattr(model, "generation_config", None)
    if config is None:
        return
    try:
        with tempfile.TemporaryDirectory() as folder:
            config.save_pretrained(folder)
    except ValueError as error:
        raise ValueError(
            f"{name} has a generation_config that transformers does not save; expected one that "
            f"agrees with itself ({name}.generation_config.do_sample = True mends most): {error}"
        ) from error


def context_of(model) -> int | None:
    """The most tokens that a model can read at once; None where its architecture has no bound.

    Of a composed model, such as one that sees images, the part that reads text counts.

    Chapter: reward-model.
    """
    config = getattr(model, "config", None)
    if config is not None and hasattr(config, "get_text_config"):
        config = config.get_text_config(decoder=True)
    if getattr(config, "alibi", False):  # distances in place of positions
        return None
    context = getattr(config, "max_position_embeddings", None)
    return context if context and context > 0 else None


def check_context(model, length: int, mask: Tensor | None = None) -> None:
    """Raise a ValueError if `length` tokens do not fit the model's context.

    Given the mask of a table of that width, its longest row counts: padding takes no position.

    Chapter: reward-model.
    """
    context = context_of(model)
    if context is not None and length > context and mask is not None:
        length = int(mask.sum(dim=-1).max())
    if context is not None and length > context:
        raise ValueError(
            f"the longest prompt and its completion take {length} tokens; expected "
            f"at most {context}, the context of this model"
        )


def prove_sampler(machine, policy, rollout, scored: Callable) -> None:
    """Hold the sampler's log-probabilities against the scorer's, before any weight has moved.

    They are held against those of the batch, and of the row with the most padding by itself, which
    a model that counts padding would score otherwise.

    Chapter: your-own.

    Parameters
    ----------
    machine : Machine
    policy : transformers causal language model
    rollout : Rollout
        The first batch that it sampled.
    scored : callable
        `scored(batch)` gives the log-probability of each token, (B, T), at the sampling
        temperature. Errors: see `check_sampler`; and `check_sampled`, which is all that is asked of
        samples whose weights are corrected.
    """
    weighed = getattr(machine.config, "importance_sampling", None) is not None
    check_sampled(rollout, missing=weighed)
    if weighed:
        return
    alone = rollout[[int(rollout.prompt_mask.sum(dim=1).argmin())]].trimmed
    with torch.compiler.set_stance("force_eager"):  # one pass is worth no program of its own
        together = machine.table(scored, rollout)
        with torch.no_grad(), computing_in(machine.config, machine.device):
            apart = scored(alone)
    exact = machine.exact(policy)
    check_sampler(together, rollout.logprobs, rollout.completion_mask, exact)
    check_sampler(apart, alone.logprobs, alone.completion_mask, exact)


def check_mode(config, modes: tuple[str, ...]) -> None:
    """Refuse a correction that is none of the modes, or bounds that bound nothing.

    Chapter: stale-samples.
    """
    check_choices(config, importance_sampling=(None, *modes))
    low, high = config.importance_sampling_clip_min, config.importance_sampling_clip_max
    if not (0 <= low <= high and high > 0):
        raise ValueError(
            f"importance_sampling_clip_min is {low} and importance_sampling_clip_max {high}; "
            "expected 0 or more, and the second above 0 and not below the first"
        )


def check_sampled(rollout, missing: bool = True) -> None:
    """Refuse samples whose sampler does not say how likely each of their tokens was.

    `missing`: also where single numbers are not finite. Those of the policy itself `check_sampler`
    tells apart, as there the policy is what is broken.

    Chapter: stale-samples.
    """
    found, mask = rollout.logprobs, rollout.completion_mask
    if found is None or found.shape != mask.shape:
        came = "None" if found is None else f"of shape {tuple(found.shape)}"
        raise ValueError(
            f"logprobs of the rollout is {came}; expected one number a token, {tuple(mask.shape)}: "
            "the sampler's own log-probabilities, in nats"
        )
    lost = int((~found.isfinite() & mask.bool()).sum())
    if missing and lost:
        raise ValueError(
            f"logprobs of the rollout has no finite number for {lost} of its {int(mask.sum())} "
            "tokens; expected the sampler's own log-probabilities, in nats"
        )


def warn_of_gap(gap: float, exact: bool) -> None:
    """Say so if the two part in a later batch: `gap` is of a ratio, before any update of a step.

    Chapter: your-own.
    """
    if exact and gap > 2 * GAP:
        warnings.warn(
            f"a ratio was {gap:.2g} off before any update of this step; expected {2 * GAP} at "
            "most. The policy does not score these samples as it drew them, which the first batch "
            "did not show",
            RuntimeWarning,
            stacklevel=5,
        )


def check_sampler(scored: Tensor, sampled: Tensor, mask: Tensor, exact: bool) -> None:
    """Refuse to learn from samples whose log-probabilities are not those of the model that learns.

    The two are computed in different ways, token by token through a cache and all at once, and
    every ratio of an update divides one by the other. This needs no list of architectures.

    Chapter: your-own.

    Parameters
    ----------
    scored, sampled : Tensor, shape (B, T)
        Log-probabilities of the sampled tokens at the sampling temperature, in nats: from
        `tokens.token_logprobs`, and from `rollout.sample`.
    mask : Tensor, shape (B, T)
        1 on the tokens of a completion.
    exact : bool
        Whether both were computed in float32 or better. Then no token may be off by more than
        `GAP`; in 16 bits, where single tokens may, the mean over tokens by no more than
        `GAP_16_BITS`.

    Raises
    ------
    ValueError
        If they differ by more: says by how much, at which token, and what to look at.
    FloatingPointError
        If one of them is not finite, as the weights may be.
    """
    off = torch.where(mask.bool(), (scored - sampled).abs(), 0.0)
    if not torch.isfinite(off).all():
        raise FloatingPointError(
            "policy gives log-probabilities that are not finite; expected numbers. No weight was "
            "moved in this step"
        )
    mean, worst = off.sum().item() / int(mask.sum()), off.max().item()
    if (worst <= GAP) if exact else (mean <= GAP_16_BITS):
        return
    row, t = divmod(int(off.argmax()), off.shape[1])
    bound = f"{GAP} at every token" if exact else f"{GAP_16_BITS} in the mean"
    raise ValueError(
        f"policy scores its own samples {mean:.2g} nats off in the mean over tokens, and "
        f"{worst:.2g} at token {t} of completion {row}; expected at most {bound}. Sampling reads "
        "a cache, scoring does not, and both must be one function: look for an architecture whose "
        "cache holds another state (rlhf_lib.families.support names those that are tested), "
        "dropout or noise that is awake, weights in 16 bits, logits that a processor changes, or "
        "positions that padding shifts. If another policy drew these samples on purpose, "
        "importance_sampling weighs them. No weight was moved"
    )


def check_one_output(name: str, model) -> None:
    """Refuse a classifier whose head has more than one output: none of them would be the reward.

    One without a head `score`, as an encoder is, cannot be read at the last token either.

    Chapter: reward-model.
    """
    if not hasattr(model, "score"):
        raise ValueError(
            f"{name} is a {type(model).__name__}; expected a sequence classifier on a decoder, "
            "with a head called score (new_reward_model makes one of a policy)"
        )
    if model.config.num_labels != 1:
        raise ValueError(f"{name} has {model.config.num_labels} labels; expected one, the reward")


def _name_outputs(config) -> None:
    if getattr(config, "return_dict", True) is False:
        config.return_dict = True  # a setting of no other effect than that outputs are tuples


def check_rows(name: str, model, tokenizer) -> None:
    """Refuse a frozen model that has no row for what rows are padded with. Chapter: your-own."""
    if not hasattr(model, "get_input_embeddings"):  # a view of another model
        return
    _name_outputs(model.config)
    pad = tokenizer.pad_token_id
    if lacks_row(model, pad):
        rows = model.get_input_embeddings().weight.shape[0]
        raise ValueError(
            f"{name} has rows for {rows} tokens, and padding is token {pad}; expected one for each "
            "(load_policy, or model.resize_token_embeddings(len(tokenizer)))"
        )


def check_classifier(name: str, model) -> None:
    """Refuse a policy of which transformers makes no classifier: it has no reward model or critic.

    Chapter: your-own.
    """
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING as CLASSIFIERS

    if type(model.config) not in CLASSIFIERS:
        raise ValueError(
            f"{name} is a {type(model).__name__}, of which transformers has no sequence "
            "classifier; expected another architecture for a reward model or a critic (PPO's "
            "critic may share the policy's trunk: SharedTrunkPPO)"
        )
