"""Adapters of peft as policies: a small part is trained, and the model under it stays as it is.

`get_peft_model(model, LoraConfig(...))` makes one; every loop takes it as its policy, every loop
that trains a reward model as its model. What has no gradient keeps none, a checkpoint holds the
adapter alone, and without a reference of its own a loop takes the model with the adapter off.

Source: LoRA, Hu et al. 2021, arXiv:2106.09685. Chapters: what-a-step-costs, scaling-out.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import torch


def peft():
    """The package, which is optional; an ImportError says how to get it. Chapter: scaling-out."""
    try:
        return import_module("peft")
    except ImportError as error:
        raise ImportError(
            "peft is not installed; expected it for a model with an adapter (pip install peft)"
        ) from error


def base_of(model):
    """The transformers model inside peft's wrapper, or the model itself. Chapter: scaling-out."""
    while hasattr(model, "get_base_model"):
        model = model.get_base_model()
    return model


@contextmanager
def without_warnings() -> Iterator[None]:
    """Of what a user can do nothing about, in peft's dealings with transformers.

    It asks for things by their older names, and sets ranks of layers that are not adapted.

    Chapter: scaling-out.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", r"The following \w+_pattern keys did not match")
        yield


def is_adapted(model) -> bool:
    """Whether a model is one of peft's: a transformers model with an adapter in it.

    Chapter: scaling-out.
    """
    return any(owner.__module__.partition(".")[0] == "peft" for owner in type(model).__mro__)


def check_adapter(name: str, model) -> None:
    """Refuse adapters that cannot be trained as they stand. Chapter: scaling-out.

    Raises
    ------
    ValueError
        If all of it is frozen, as peft loads it for use; if something beside it is trained, which
        would not be saved; if the head of a classifier is not; if there are several; if it works
        by tokens of its own before the prompt, which the sampler would not see; or if it was put
        into a transformers model without peft's wrapper.
    """
    if not is_adapted(model):
        if getattr(model, "_hf_peft_config_loaded", False):
            raise ValueError(
                f"{name} has an adapter by add_adapter; expected peft.get_peft_model(model, config)"
            )
        return
    if is_adapted(model.get_base_model()):
        raise ValueError(f"{name} has an adapter in an adapter; expected one")
    if list(model.peft_config) != ["default"]:
        raise ValueError(
            f"{name} has the adapters {', '.join(model.peft_config)}; expected one, by the name "
            "that peft gives it, 'default'"
        )
    config = model.peft_config[model.active_adapter]
    if config.is_prompt_learning:
        raise ValueError(
            f"{name} has an adapter of the kind {config.peft_type.value}, which adds tokens of its "
            "own; expected one that changes weights, such as LoraConfig"
        )
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(
            f"{name} has an adapter without a gradient; expected one to train "
            "(PeftModel.from_pretrained(..., is_trainable=True))"
        )
    kept = {x.data_ptr() for x in peft().get_peft_model_state_dict(model).values()}
    for key, p in model.named_parameters():
        if p.requires_grad and p.data_ptr() not in kept:
            raise ValueError(
                f"{name} has {key} to be trained, which is not part of its adapter and would not "
                "be saved; expected it frozen, or among modules_to_save"
            )
    head = getattr(model, "score", None)
    if head is not None and not any(p.requires_grad for p in head.parameters()):
        raise ValueError(
            f"{name} has a head that is frozen as it was drawn; expected one to train "
            "(LoraConfig(task_type='SEQ_CLS'), or modules_to_save=['score'])"
        )


def new_adapter(model, rank: int, seed: int = 0):
    """A model with a new adapter of low rank on all its linear layers but the head.

    Its scale is 2: `lora_alpha` is twice the rank. A policy gets the adapter of a causal language
    model, a reward model that of a classifier, whose head is trained whole. Experts that are kept
    in one tensor are no linear layers, and stay as they are. The model itself is wrapped, not
    copied.

    Source: Hu et al. 2021, arXiv:2106.09685, section 4.1; all linear layers: Dettmers et al. 2023,
    arXiv:2305.14314, section 4. Chapter: what-a-step-costs.

    Raises
    ------
    ValueError
        If the model has an adapter already, or the rank is below 1.
    """
    if is_adapted(model):
        raise ValueError("model has an adapter already; expected one without, to put one into")
    if rank < 1:
        raise ValueError(f"rank is {rank}; expected at least 1")
    from transformers.pytorch_utils import Conv1D

    config = peft().LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        task_type="SEQ_CLS" if hasattr(model, "score") else "CAUSAL_LM",
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),  # GPT-2's
    )
    with torch.random.fork_rng(), without_warnings():
        torch.manual_seed(seed)
        return peft().get_peft_model(model, config).eval()


class AdapterOff:
    """A policy with its adapter off, as a reference: where LoRA starts, in no memory of its own.

    A new adapter changes nothing, so that this is the policy as it starts. One that was trained
    before has moved it: then the reference is the model under the adapter, and not the start.

    Chapter: what-a-step-costs.

    Examples
    --------
    >>> import torch, peft
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=1)).eval()
    >>> ids = torch.tensor([[1, 2, 3]])
    >>> before = model(ids).logits
    >>> policy = peft.get_peft_model(model, peft.LoraConfig(init_lora_weights=False)).eval()
    >>> torch.equal(policy(ids).logits, before), torch.equal(AdapterOff(policy)(ids).logits, before)
    (False, True)
    """

    def __init__(self, policy):
        self.policy, self.config = policy, policy.config
        self.get_input_embeddings = policy.get_input_embeddings

    @property
    def device(self) -> torch.device:
        return self.policy.device

    def __call__(self, *arguments, **inputs):
        gradients = [(p, p.requires_grad) for p in self.policy.parameters()]
        with self.policy.disable_adapter():
            found = self.policy(*arguments, **inputs)
        for p, wanted in gradients:  # peft turns all of the adapter's on again
            p.requires_grad_(wanted)
        return found


def needed_reference(policy, reference, needed: bool = True, otherwise: str = ""):
    """π_ref: the model given; for a policy with an adapter and none given, that adapter off.

    Chapter: what-a-step-costs.

    Parameters
    ----------
    policy, reference
        As the loop is given them.
    needed : bool
        Whether anything is made of it. If not, None stays None.
    otherwise : str
        For the message: what would do without it.
    """
    if reference is not None or not needed:
        return reference
    if not is_adapted(policy):
        raise ValueError(
            "reference is None; expected a model to stay near, such as copy.deepcopy(policy)"
            + otherwise
        )
    check_adapter_off(policy)
    return AdapterOff(policy)


def check_adapter_off(policy) -> None:
    """Refuse, as a reference, a policy whose adapter off is not where it started.

    Chapter: scaling-out.

    Raises
    ------
    ValueError
        If the adapter trains biases of the model under it, or has taken something out of its
        weights to begin with, as PiSSA and OLoRA do.
    """
    config = policy.peft_config[policy.active_adapter]
    bias, start = getattr(config, "bias", "none"), getattr(config, "init_lora_weights", True)
    if bias != "none" or isinstance(start, str) and start != "gaussian":
        odd = f"bias={bias!r}" if bias != "none" else f"init_lora_weights={start!r}"
        raise ValueError(
            f"reference is None, and the adapter of policy has {odd}, so that with it off the "
            "model is not what it was; expected a copy made before (copy.deepcopy)"
        )


def merged(model):
    """A copy without an adapter, whose weights have taken it up: an ordinary transformers model.

    In float32 or better. A head tied to the embeddings is untied, if only one of the two has an
    adapter. A model without an adapter is returned as it is. Chapter: scaling-out.
    """
    if not is_adapted(model):
        return model
    whole = copy.deepcopy(model).to(torch.promote_types(model.dtype, torch.float32))
    base = whole.get_base_model()
    ends = base.get_input_embeddings(), base.get_output_embeddings()
    if None not in ends and any(type(end).__module__.startswith("peft") for end in ends):
        head = getattr(ends[1], "base_layer", ends[1])
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
        base.config.get_text_config().tie_word_embeddings = False
        base.config.tie_word_embeddings = False
    return whole.merge_and_unload()


def trunk_of(model):
    """The layers under the head, adapters among them: what gives the last hidden states.

    Chapter: scaling-out.
    """
    base = base_of(model)
    return base.model if base.base_model is base else base.base_model  # Llama 4 has no other
