"""A calculator that the policy may call, in the world of sums, whose numbers are too long here.

A reply may hold a call, ``<48213+37795>``. The calculator writes the sum behind it, ``=86008>``,
and the policy goes on::

    <48213+37795>=86008>86008

What the calculator writes is in the context: it is read, and it takes positions. But the policy did
not choose it. So `completion_mask` is 1 on the policy's own tokens alone, with a gap where the
calculator wrote, and whatever is averaged under that mask (loss, KL, entropy, length) leaves the
gap out. The answer counts, as for `sums.split`, when it stands behind the last ``>``: the policy
has to write it itself. What is no call, such as ``<12+>``, gets no answer, and nothing is said.

Source: tools in a reply, with the calls in the text, are those of Schick et al. 2023,
arXiv:2302.04761; the mask is TRL's `tool_mask`. Chapter: real-model.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..families.special_tokens import decoded, end_tokens
from ..families.support import check_context, check_supported
from ..machinery.decoding import Decoder, GPT2Decoder, draw, log_probabilities, plain_layers
from ..machinery.precision import products_are_rounded
from ..models.rollout import Rollout
from ..models.tokens import TokenBatch, encode_prompts, texts
from . import sums

DIGITS = (5, 5)  # fewest and most digits of a number: more than the base model ever added
MAX_NEW_TOKENS = 28  # a call of two numbers of five digits, its result, the answer, and the end
HABITS = ("call", "direct")  # what a demonstrator can do
CALL = re.compile(r"<([0-9]{1,9})\+([0-9]{1,9})>")
FORGED = re.compile(
    r"<[0-9]+\+[0-9]+="
)  # a result begun by the policy, where `>` would have called
Tool = Callable[[str], str]


def call(a: int, b: int) -> str:
    """The text that asks for a sum.

    >>> call(48213, 37795)
    '<48213+37795>'
    """
    return f"<{a}+{b}>"


def result(text: str) -> str:
    """What the calculator writes behind a text: a sum if the text ends in a call, else nothing.

    >>> result("<48213+37795>"), result("<48213+>"), result("<48213+37795>=86008>")
    ('=86008>', '', '')
    """
    found = CALL.search(text, text.rfind("<")) if text.endswith(">") and "<" in text else None
    return f"={int(found[1]) + int(found[2])}>" if found and found.end() == len(text) else ""


def reply(a: int, b: int) -> str:
    """The completion that calls, as it reads when the calculator has written its part.

    >>> reply(48213, 37795)
    '<48213+37795>=86008>86008'
    """
    return f"{call(a, b)}{result(call(a, b))}{a + b}"


# Sampling ----------------------------------------------------------------------------------------


@torch.no_grad()
def sample(
    policy,
    tokenizer,
    prompts: list[str],
    max_new_tokens: int = MAX_NEW_TOKENS,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    greedy: bool = False,
    dtype: torch.dtype | None = None,
    tool: Tool = result,
) -> Rollout:
    """`models.rollout.sample` for a policy with a tool.

    Parameters
    ----------
    policy, tokenizer, prompts, temperature, generator, greedy, dtype
        As in `models.rollout.sample`.
    max_new_tokens : int
        Longest completion, the tool's tokens and the end token included.
    tool : callable
        `tool(text)` is asked behind every token of the policy what it writes there; `text` is the
        completion so far. "" is nothing.

    Returns
    -------
    Rollout
        `completion_mask` is 1 on the policy's tokens; on the tool's it is 0, and so are `logprobs`
        and `entropies`. `completions` hold both. What a tool wrote last, with no token of the
        policy behind it as the reply was at its longest, is left out: nobody read it.

    Raises
    ------
    ValueError
        As `models.rollout.sample`.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; expected a positive number")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; expected at least 1")
    check_supported("policy", policy)
    prompts, T = texts("prompts", prompts), max_new_tokens
    prompt_ids, prompt_mask = encode_prompts(tokenizer, prompts, policy.device)
    check_context(policy, prompt_ids.shape[1] + T)
    kind = GPT2Decoder if GPT2Decoder.reads(policy) else Decoder
    rounded = products_are_rounded(dtype, policy.device)
    decoder = kind(policy, T, None if rounded else dtype)
    ends = tuple(end_tokens(tokenizer, policy))
    with plain_layers(policy, rounded):
        logits = decoder.start(prompt_ids, prompt_mask)
        tables = take_turns(
            decoder, logits, T, temperature, greedy, ends, tokenizer, generator, tool
        )
    made = Rollout(prompt_ids, prompt_mask, *tables, prompts, [])
    read = made.read_mask.sum(dim=1) - made.finished.long()
    written = [ids[:length] for ids, length in zip(made.completion_ids.tolist(), read.tolist())]
    completions = decoded(tokenizer, prompt_ids.tolist(), written)
    return replace(made, completions=completions).trimmed


def take_turns(
    decoder: Decoder,
    logits: Tensor,
    T: int,
    temperature: float,
    greedy: bool,
    ends: tuple[int, ...],
    tokenizer,
    generator: torch.Generator | None,
    tool: Tool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Token after token: a row with something from the tool to read takes that, another draws.

    Returns tokens, the mask of the policy's own, log-probabilities and entropies, each (B, T), and
    which rows ended, (B,).
    """
    B, device = len(logits), logits.device
    eos = torch.tensor(ends, device=device)
    tokens = torch.full((B, T), tokenizer.pad_token_id, device=device)
    mask = torch.zeros((B, T), dtype=torch.long, device=device)
    logprobs, entropies = (torch.zeros((B, T), device=device) for _ in range(2))
    written: list[list[int]] = [[] for _ in range(B)]  # of each row, by whomever
    waiting: list[list[int]] = [[] for _ in range(B)]  # what the tool has for a row to read
    running = torch.arange(B, device=device)
    for t in range(T):
        rows = running.tolist()
        own = torch.tensor([not waiting[i] for i in rows], device=device)
        given = torch.tensor([waiting[i].pop(0) if waiting[i] else 0 for i in rows], device=device)
        next_logprobs = log_probabilities(logits, temperature)
        probs = next_logprobs.exp()
        token = next_logprobs.argmax(dim=-1) if greedy else draw(probs, running, B, generator)
        token = torch.where(own, token, given)
        tokens[running, t], mask[running, t] = token, own.long()
        logprobs[running, t] = own * next_logprobs.gather(1, token[:, None])[:, 0]
        entropies[running, t] = own * -(probs * next_logprobs).sum(dim=-1)
        going = ~own | (token[:, None] != eos).all(dim=1)
        for i, x, asks in zip(rows, token.tolist(), (own & going).tolist()):
            written[i].append(x)
            if asks and (answer := tool(tokenizer.decode(written[i], skip_special_tokens=True))):
                waiting[i] = tokenizer(answer, add_special_tokens=False)["input_ids"]
        running, token = running[going], token[going]
        if not len(running) or t == T - 1:
            break
        logits = decoder.step(token, going)
    finished = torch.ones(B, dtype=torch.bool, device=device)
    finished[running] = False
    return tokens, mask, logprobs, entropies, finished


def masked(batch: TokenBatch, tokenizer) -> TokenBatch:
    """Demonstrations without what the calculator wrote in them: it is read, and not imitated.

    One token is one character, as `sums.tokenizer` has it.
    """
    mask = batch.completion_mask.clone()
    for row, ids in enumerate(batch.completion_ids):
        text = "".join(tokenizer.convert_ids_to_tokens(ids.tolist()[: int(mask[row].sum()) - 1]))
        for found in CALL.finditer(text):
            answer = result(found[0])
            if text.startswith(answer, found.end()):
                mask[row, found.end() : found.end() + len(answer)] = 0
    return replace(batch, completion_mask=mask)


# Data --------------------------------------------------------------------------------------------


def prompts(n: int, seed: int, held_out: bool = False, digits: tuple[int, int] = DIGITS):
    """`n` prompts with replacement, as a dataset with the column `prompt`.

    Held-out prompts share no sum with any other data of this world.
    """
    from datasets import Dataset

    rng = random.Random(seed)
    numbers = [pair(rng, digits, held_out) for _ in range(n)]
    return Dataset.from_dict({"prompt": [f"{a}+{b}=" for a, b in numbers]})


def demonstrations(
    n: int = 10_000, seed: int = 0, share_calls: float = 0.2, digits: tuple[int, int] = DIGITS
):
    """Sums answered by demonstrators, all of them right: `prompt`, `completion`, `habit`.

    A share of them calls the calculator; the others write the answer down.
    """
    from datasets import Dataset

    if not 0 <= share_calls <= 1:
        raise ValueError(f"share_calls is {share_calls}; expected a share from 0 to 1")
    rng = random.Random(seed + 77)
    rows = {"prompt": [], "completion": [], "habit": []}
    for _ in range(n):
        a, b = pair(rng, digits)
        calls = rng.random() < share_calls
        rows["prompt"].append(f"{a}+{b}=")
        rows["completion"].append(reply(a, b) if calls else str(a + b))
        rows["habit"].append(HABITS[0 if calls else 1])
    return Dataset.from_dict(rows)


def pair(
    rng: random.Random, digits: tuple[int, int] = DIGITS, of_held_out: bool = False
) -> tuple[int, int]:
    """Two numbers; the number of digits of each is uniform between the two of `digits`."""
    low, high = digits
    if not 1 <= low <= high <= 9:
        raise ValueError(
            f"digits is {digits}; expected two numbers from 1 to 9, the smaller one first"
        )
    while True:
        lengths = rng.randint(low, high), rng.randint(low, high)
        a, b = (rng.randrange(0 if d == 1 else 10 ** (d - 1), 10**d) for d in lengths)
        if sums.held_out(a, b) == of_held_out:
            return a, b


def features(prompt: str, completion: str) -> dict[str, float]:
    """What can be counted in a completion.

    `calls` is whether the calculator answered, `forged` whether the policy began a result itself.

    >>> features("12+34=", "<12+34>=46>46")
    {'calls': 1.0, 'forged': 0.0, 'right': 1.0}
    >>> features("12+34=", "<12+34=47>47")
    {'calls': 0.0, 'forged': 1.0, 'right': 0.0}
    """
    return {
        "calls": float(
            any(result(x[0]) in completion[x.end() :] for x in CALL.finditer(completion))
        ),
        "forged": float(bool(FORGED.search(completion))),
        "right": sums.strict_verifier([prompt], [completion])[0],
    }
