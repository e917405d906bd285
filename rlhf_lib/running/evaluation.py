"""Measure a policy on prompts it has not trained on, from fresh samples of its own.

A curve over training batches mixes learning with the luck of the prompts; a reward of the
reference's samples never moves. Held-out means new prompts and new samples. Chapters: ppo-live,
grpo.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..algorithms.loop import ids_of
from ..mathematics.kl import exact_kl
from ..models.rewards import RewardFunction, call_reward
from ..models.rollout import Rollout, sample
from ..models.tokens import completion_logits

MOST_LOGITS = 2**24  # at once: 64 MB in float32


@torch.no_grad()
def evaluate(
    policy,
    tokenizer,
    prompts: list[str],
    rewards: dict[str, RewardFunction],
    reference=None,
    max_new_tokens: int = 32,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 200,
    dtype: torch.dtype | None = None,
) -> dict:
    """Sample one completion a prompt and measure it.

    Chapters: ppo-live, grpo.

    Parameters
    ----------
    policy, tokenizer
    prompts : list of str
    rewards : dict of str to callable
        Each is called on all samples, and measured on those that it applies to.
    reference : transformers causal language model, optional
        Given one, KL(π‖π_ref) per completion is measured too: at every prefix of the samples the
        two next-token distributions are compared exactly, which has far less variance than the
        log-ratio of the samples alone.
    dtype : torch.dtype, optional
        What to sample in, as in `rollout.sample`: that of a policy's training, or its weights' own.

    Returns
    -------
    dict
        For each reward its mean and `NAME_se`, the standard error; `kl` and `kl_se` in nats per
        completion; `length` in tokens; `prompts`, `completions`, and `values`, the rewards of
        each sample by name, None where one does not apply.

    Raises
    ------
    ValueError
        If a reward has the name of something else in the result.
    """
    taken = {"kl", "length", "prompts", "completions", "values"}
    taken |= {f"{name}_se" for name in (*rewards, "kl", "length")}
    if clash := [name for name in rewards if name in taken]:
        raise ValueError(
            f"rewards has the name {clash[0]!r}, under which the result holds something else; "
            "expected another than kl, length, prompts, completions, values and the NAME_se of any"
        )
    generator = torch.Generator(policy.device).manual_seed(seed)
    completions, ids, lengths, kls = [], [], [], []
    for i in range(0, len(prompts), batch_size):
        how = dict(temperature=temperature, generator=generator, dtype=dtype)
        rollout = sample(policy, tokenizer, prompts[i : i + batch_size], max_new_tokens, **how)
        completions += rollout.completions
        ids += ids_of(rollout)
        lengths += rollout.lengths.tolist()
        if reference is not None:
            kls += _kl(policy, reference, rollout, temperature).tolist()
    measured = {
        name: call_reward(reward, prompts, completions, completion_ids=ids)
        for name, reward in rewards.items()
    }
    if kls:
        measured["kl"] = torch.tensor(kls)
    measured["length"] = torch.tensor(lengths, dtype=torch.float)
    result = {}
    for name, values in measured.items():
        applied = values[~values.isnan()]
        result[name] = applied.mean().item()
        result[f"{name}_se"] = (
            (applied.std() / len(applied) ** 0.5).item() if applied.numel() else math.nan
        )
    return {
        **result,
        "prompts": list(prompts),
        "completions": completions,
        "values": {
            name: [None if math.isnan(value) else value for value in values.tolist()]
            for name, values in measured.items()
        },
    }


def _kl(policy, reference, rollout: Rollout, temperature: float) -> Tensor:
    """KL(π‖π_ref) of each completion, (B,), in nats; of few at a time, where logits are many.

    Rows of the vocabulary that one of the two models lacks, and the other does not use, are left
    out, as those are that fill a table up to a round number.
    """
    T = rollout.completion_ids.shape[1]
    tables = [model.get_input_embeddings().weight.shape[0] for model in (policy, reference)]
    rows, found = min(tables), []
    for part in torch.arange(len(rollout)).split(max(1, MOST_LOGITS // (T * max(tables)))):
        batch = rollout[part]
        logits = completion_logits(policy, batch, temperature)[..., :rows]
        ref_logits = completion_logits(reference, batch, temperature)[..., :rows]
        found.append((exact_kl(logits, ref_logits) * batch.completion_mask).sum(dim=1))
    return torch.cat(found)
