"""Small random models of every family that is said to be supported, and a tokenizer for them."""

from __future__ import annotations

from functools import cache

import torch
import transformers
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = (
    "the a cat dog bird sat ran on mat to in and is not good bad day sun rain tea cup one two "
    "three four five yes no please write letter hello hi thanks sure user assistant : . , ! ?"
).split()


def tokenizer(
    begin: str | None = None,
    more: tuple[str, ...] = (),
    template: str | None = None,
    pad: str | None = "<pad>",
) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer of whole words; given `begin`, it puts that before every text, as Llama's does.

    `more` are further special tokens, and `template` is a chat template.
    """
    special = ["<unk>", "<eos>", *([pad] if pad else []), *([begin] if begin else []), *more]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if begin:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, vocabulary[begin])]
        )
    names = dict(unk_token="<unk>", eos_token="<eos>")
    names |= {"pad_token": pad} if pad else {}
    names |= {"bos_token": begin} if begin else {}
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, additional_special_tokens=list(more), **names
    )
    made.padding_side = "left"
    if template:
        made.chat_template = template
    return made


PLAIN = tokenizer()
V = len(PLAIN)
ENDS = [PLAIN.eos_token_id, *PLAIN.convert_tokens_to_ids("a cat . yes :".split())]
IDS = dict(
    vocab_size=V,
    pad_token_id=PLAIN.pad_token_id,
    eos_token_id=PLAIN.eos_token_id,
    bos_token_id=None,
)
STD = dict(initializer_range=0.3)
BARE = dict(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=128,
    **IDS,
    **STD,
)
LAYERS = dict(BARE, intermediate_size=64)
GROUPED = dict(LAYERS, num_key_value_heads=2)
HEADS = dict(GROUPED, head_dim=8)
NARROW = dict(sliding_window=4)
GPT2 = dict(n_embd=32, n_layer=2, n_head=4, n_positions=128, **IDS)
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
DELTA = dict(
    num_hidden_layers=4,
    linear_num_value_heads=4,
    linear_num_key_heads=2,
    linear_key_head_dim=8,
    linear_value_head_dim=8,
)
STATES = dict(mamba_n_heads=8, mamba_d_head=8, mamba_d_state=8)

# model_type -> configuration class of transformers, and its settings
CONFIGS: dict[str, tuple[str, dict]] = {
    "gpt2": ("GPT2Config", dict(GPT2, **STD)),
    "llama": ("LlamaConfig", HEADS),
    "mistral": ("MistralConfig", HEADS | NARROW),
    "mixtral": ("MixtralConfig", dict(GROUPED, num_local_experts=4)),
    "qwen2": ("Qwen2Config", GROUPED),
    "qwen3": ("Qwen3Config", HEADS),
    "qwen3_moe": ("Qwen3MoeConfig", HEADS | EXPERTS),
    "qwen3_5_text": ("Qwen3_5TextConfig", HEADS | DELTA),
    "qwen3_next": (
        "Qwen3NextConfig",
        HEADS | DELTA | EXPERTS | dict(shared_expert_intermediate_size=16),
    ),
    "gemma": ("GemmaConfig", HEADS),
    "gemma2": (
        "Gemma2Config",
        HEADS | NARROW | dict(query_pre_attn_scalar=8, final_logit_softcapping=5.0),
    ),
    "gemma3_text": ("Gemma3TextConfig", HEADS | NARROW | dict(query_pre_attn_scalar=8)),
    "phi": ("PhiConfig", GROUPED),
    "phi3": ("Phi3Config", GROUPED | NARROW),
    "olmo": ("OlmoConfig", GROUPED),
    "olmo2": ("Olmo2Config", GROUPED),
    "olmoe": ("OlmoeConfig", dict(GROUPED, num_experts=4, num_experts_per_tok=2)),
    "gpt_neox": ("GPTNeoXConfig", dict(LAYERS, tie_word_embeddings=False)),
    "granite": ("GraniteConfig", dict(GROUPED, logits_scaling=6.0)),
    "granitemoehybrid": (
        "GraniteMoeHybridConfig",
        GROUPED
        | STATES
        | dict(
            num_local_experts=4,
            num_experts_per_tok=2,
            shared_intermediate_size=32,
            layer_types=["mamba", "attention"],
        ),
    ),
    "cohere": ("CohereConfig", dict(GROUPED, logit_scale=0.0625)),
    "cohere2": ("Cohere2Config", HEADS | NARROW | dict(logit_scale=0.0625)),
    "opt": (
        "OPTConfig",
        dict(
            hidden_size=32,
            ffn_dim=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=128,
            word_embed_proj_dim=16,
            do_layer_norm_before=False,
            init_std=0.3,
            **IDS,
        ),
    ),
    "falcon": ("FalconConfig", dict(BARE, alibi=True)),
    "falcon_h1": (
        "FalconH1Config",
        HEADS | dict(STATES, mamba_n_heads=4, mamba_d_ssm=32, mamba_n_groups=1),
    ),
    "smollm3": ("SmolLM3Config", GROUPED),
    "bloom": ("BloomConfig", dict(hidden_size=32, n_layer=2, n_head=4, **IDS, **STD)),
    "deepseek_v3": (
        "DeepseekV3Config",
        dict(
            LAYERS,
            num_key_value_heads=4,
            n_routed_experts=4,
            num_experts_per_tok=2,
            n_group=1,
            topk_group=1,
            moe_intermediate_size=16,
            first_k_dense_replace=1,
            q_lora_rank=16,
            kv_lora_rank=8,
            qk_rope_head_dim=4,
            qk_nope_head_dim=8,
            v_head_dim=8,
        ),
    ),
    "gpt_oss": (
        "GptOssConfig",
        HEADS | NARROW | dict(num_local_experts=4, num_experts_per_tok=2, rope_parameters=None),
    ),
    "lfm2": (
        "Lfm2Config",
        dict(GROUPED, layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False),
    ),
}
REFUSED: dict[str, tuple[str, dict]] = {
    "mamba": ("MambaConfig", dict(hidden_size=32, state_size=8, num_hidden_layers=2, **IDS)),
    "mamba2": (
        "Mamba2Config",
        dict(
            hidden_size=32,
            state_size=8,
            num_hidden_layers=2,
            num_heads=8,
            head_dim=8,
            n_groups=2,
            **IDS,
        ),
    ),
    "falcon_mamba": (
        "FalconMambaConfig",
        dict(hidden_size=32, state_size=8, num_hidden_layers=2, **IDS),
    ),
    "rwkv": ("RwkvConfig", dict(hidden_size=32, num_hidden_layers=2, **IDS)),
    "recurrent_gemma": (
        "RecurrentGemmaConfig",
        dict(LAYERS, num_hidden_layers=3, lru_width=32, attention_window_size=8),
    ),
    "xlnet": ("XLNetConfig", dict(d_model=32, n_layer=2, n_head=4, d_inner=64, **IDS)),
    "bart": (
        "BartConfig",
        dict(
            d_model=32,
            decoder_layers=1,
            decoder_attention_heads=4,
            decoder_ffn_dim=64,
            max_position_embeddings=128,
            **IDS,
        ),
    ),
}


def model(family: str, seed: int = 0, **changed):
    """A random causal language model of a family, in evaluation mode.

    Its generation config has several end tokens, as chat models have, so that rows end early.
    """
    name, settings = (CONFIGS | REFUSED)[family]
    config = getattr(transformers, name)(**{**settings, **changed})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = transformers.AutoModelForCausalLM.from_config(config).eval()
    made.generation_config.eos_token_id = ENDS
    return made


def encoder_decoder():
    config = transformers.T5Config(
        vocab_size=V, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4
    )
    return transformers.AutoModelForSeq2SeqLM.from_config(config).eval()


@cache
def frozen(family: str):
    """The same model in every test that changes nothing in it."""
    return model(family)


PROMPTS = ["the cat", "the dog sat on the mat and the bird ran", "hello", "tea ."]
DATA = Dataset.from_dict({"prompt": PROMPTS})


def length(prompts, completions, **columns):
    """A reward of any text."""
    return [float(len(completion)) for completion in completions]
