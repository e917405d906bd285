"""A reward model is a trunk and a scalar head, read at the last token; a critic reads every token.

Both are `transformers` sequence classifiers with one label, so a checkpoint made here loads in any
tool that takes one, and the other way round. Scores are in units of reward, with no sigmoid: a
squashed score would shrink below the KL penalty it is weighed against.

Axes: B batch, P prompt tokens, T completion tokens. Chapters: reward-model, credit.
"""

from __future__ import annotations

import copy
import os

import torch
from torch import Tensor

from ..families.adapters import merged, trunk_of
from ..families.loading import load_model
from ..families.support import check_classifier, check_context, check_one_output
from .tokens import TokenBatch, full_precision, token_logprobs


def new_reward_model(policy, seed: int = 0):
    """A reward model that starts from a policy's trunk, with a small random head.

    Source: Ouyang et al. 2022, arXiv:2203.02155, section 3.5. Chapter: reward-model.

    Parameters
    ----------
    policy : transformers causal language model
        Usually the SFT policy. It is copied, not changed; an adapter is merged into the copy.
    seed : int
        Seeds the head.

    Returns
    -------
    transformers.PreTrainedModel
        A sequence classifier with `num_labels=1`.

    Raises
    ------
    ValueError
        If transformers has no sequence classifier of the policy's architecture.
    """
    from transformers import AutoModelForSequenceClassification

    policy = merged(policy)
    check_classifier("policy", policy)
    config = copy.deepcopy(policy.config)
    config.num_labels = 1
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(config)
        check_one_output("policy's classifier", model)
        torch.nn.init.normal_(model.score.weight, std=0.02)
    model.base_model.load_state_dict(policy.base_model.state_dict())
    return model.to(policy.device, policy.dtype).eval()


def load_reward_model(source: str | os.PathLike):
    """Load a reward model from a folder or, by name, from the hub; in float32.

    Chapter: reward-model.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no checkpoint, it cannot be read, or it has more than one label.
    """
    from transformers import AutoModelForSequenceClassification

    model = load_model(AutoModelForSequenceClassification, source)
    check_one_output(str(source), model)
    return model


def token_values(model, batch: TokenBatch) -> Tensor:
    """The head's output after every token of prompt and completion, shape (B, P + T).

    Chapter: reward-model.
    """
    check_context(model, batch.input_ids.shape[1], batch.attention_mask)
    hidden = trunk_of(model)(**batch.model_inputs).last_hidden_state
    return full_precision(model.score(hidden).squeeze(-1))


def reward_scores(model, batch: TokenBatch) -> Tensor:
    """The reward of each completion, shape (B,): the head's output at its last real token.

    Chapter: reward-model.
    """
    last = batch.prompt_ids.shape[1] + batch.completion_mask.sum(dim=1) - 1
    return token_values(model, batch).gather(1, last[:, None]).squeeze(1)


def state_values(critic, batch: TokenBatch) -> Tensor:
    """V of the state before each completion token, shape (B, T), in units of reward.

    Row t is the output one position earlier, so that the value of a state cannot see the action
    taken in it.

    Chapter: credit.
    """
    P = batch.prompt_ids.shape[1]
    return token_values(critic, batch)[:, P - 1 : -1]


class SharedCritic(torch.nn.Module):
    """A critic that is a value head on the policy's own trunk, initialised at zero.

    One trunk in place of two, and one forward pass for both outputs; the price is that the value
    loss moves the policy's weights too.

    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 9. Chapter: credit.

    Parameters
    ----------
    policy : transformers causal language model
        Shared, not copied.
    """

    def __init__(self, policy):
        super().__init__()
        self.policy, self.config = policy, policy.config
        size = policy.get_output_embeddings().weight.shape[1]
        dtype = torch.promote_types(policy.dtype, torch.float32)  # it is trained, whatever is not
        self.score = torch.nn.Linear(size, 1, bias=False, device=policy.device, dtype=dtype)
        torch.nn.init.zeros_(self.score.weight)

    @property
    def base_model(self) -> torch.nn.Module:
        return trunk_of(self.policy)

    @property
    def device(self) -> torch.device:
        return self.policy.device

    def logprobs_and_values(
        self, batch: TokenBatch, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """`token_logprobs` and `state_values` of one forward pass, each (B, T)."""
        read: list[Tensor] = []  # by the head of the policy, and by ours: the states before tokens
        hook = self.policy.get_output_embeddings().register_forward_pre_hook(
            lambda head, inputs: read.append(inputs[0][:, -batch.completion_ids.shape[1] - 1 : -1])
        )
        try:
            logprobs = token_logprobs(self.policy, batch, temperature)
        finally:
            hook.remove()
        values = self.score(read[0].to(self.score.weight.dtype)).squeeze(-1)
        return logprobs, full_precision(values)
