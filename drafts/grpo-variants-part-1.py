md(r"""
# GRPO's relatives: one line at a time

**Afterwards you can** write Dr. GRPO, the four parts of DAPO, GSPO, CISPO, RLOO and REINFORCE++ as changes of a line or two to [GRPO](grpo.ipynb), say for each which bias it removes or adds and what it does to the noise, compare methods at an equal budget with intervals, and recognise a difference that is no difference.

- **Time:** 60 minutes to read, about a minute to run on two CPU cores; the exercises take two hours.
- **Builds on:** [GRPO](grpo.ipynb) for the group, its baseline and its standard deviation, and [policy gradients](../ppo/policy-gradients.ipynb) for baselines, scores and the *sums* world.
""")
md(r"""
## One loss, eight names

Every method of this chapter samples completions, compares their rewards, and descends

$$
L(\theta) = \sum_{i,t} w_{i,t}\;\ell\big(\rho_{i,t},\,A_i\big) .
$$

There are four places to change it: the **advantage** $A_i$ (baseline and scale), the **loss** $\ell$ of a token (ratio and clip), the **weight** $w_{i,t}$ of a token (what is averaged), and the **sample** (which groups, which reward). In the library each name is a handful of settings, and this is the whole table:
""")
code(r"""
import copy
import dataclasses
import logging
import math
import textwrap
import time
from itertools import combinations_with_replacement
from pathlib import Path

import torch

from rlhf_lib import artifacts, plots
from rlhf_lib.advantages import all_equal, group_advantages, returns_to_go, token_rewards
from rlhf_lib.grpo import GRPO, VARIANTS, GRPOConfig
from rlhf_lib.losses import aggregate, clipped_policy_loss
from rlhf_lib.policy import token_logprobs
from rlhf_lib.rewards import VerifiableReward, soft_overlong_punishment
from rlhf_lib.rollout import sample
from rlhf_lib.worlds import sums

torch.set_num_threads(1)  # a small model: one core is enough
for name, changes in VARIANTS.items():
    shown = ", ".join(f"{key}={value!r}" for key, value in changes.items())
    print(textwrap.fill(f"{name:12s} {shown or '(as published)'}", 84,
                        subsequent_indent=" " * 13))
""")
md(r"""
> **Predict.** (1) Dr. GRPO takes two divisions out, by the spread of the group and by the length of the completion. Is what remains less biased, less noisy, or both? (2) GSPO's clip is hundreds of times narrower than GRPO's. What share of tokens will it silence? (3) DAPO throws groups away and samples again. At an equal number of *sampled* tokens, is it ahead? (4) Twelve runs with the same budget on sums: how many of the eleven relatives will beat GRPO by more than five seeds can blur? Write your answers down; they are settled one by one.

## Intuition: who gets how much of a voice

At the first update the ratio is 1, and a method is nothing but a number for each token: how hard its log-probability is pulled, up or down. Here is a group of eight: three right, five wrong, and one of the wrong ones very long. The bars are as wide as a completion is long, and as high as each of its tokens is pulled.
""")
code(r"""
from rlhf_lib.widgets import GroupExplorer

RIGHT = [1, 1, 1, 0, 0, 0, 0, 0]
LONG = [24, 22, 5, 5, 6, 5, 6, 32]
explorer = GroupExplorer(rewards=RIGHT, lengths=LONG)
explorer
""")
md(r"""
Three things to try. Switch from `grpo` to `dr_grpo` and watch the long wrong completion. Press *nearly all right*, and compare the one wrong completion under both. Press *all equal*. The next cell asks the same object for its numbers.
""")
code(r"""
print("pull on each token, in thousandths   right, 24   right, 5   wrong, 5   wrong, 32")
pulls = {}
for name in VARIANTS:
    seen = GroupExplorer(rewards=RIGHT, lengths=LONG, method=name).result
    pulls[name] = 1000 * seen.token_weights
    print(f"  {name:34s} " + "".join(f"{pulls[name][i] + 0:10.2f} " for i in (0, 2, 3, 7)))
silent = GroupExplorer(rewards=[1] * 8, lengths=LONG)
assert not silent.result.teaches and abs(silent.result.token_weights).max() == 0
assert abs(pulls["grpo"][3] / pulls["grpo"][7] - 32 / 5) < 1e-6  # wrong: 5 tokens against 32
assert abs(pulls["dr_grpo"][3] / pulls["dr_grpo"][7] - 1) < 1e-6
assert (pulls["grpo"] == pulls["gspo"]).all()  # the same until the policy has moved
""")
md(r"""
In GRPO a token of the wrong completion with 5 tokens is pushed down 6.4 times as hard as one of the wrong completion with 32. A policy that must be wrong does better to be wrong at length. This is the **length bias** of [Liu et al. 2025](https://arxiv.org/abs/2503.20783). In Dr. GRPO, DAPO, CISPO and RLOO all wrong tokens are pushed alike. (REINFORCE++ has no groups. As the demo sees one group only, it takes it for the whole batch.)

The scales of the columns differ by a factor of forty, and that matters little: Adam divides a gradient by its own size. What matters are the proportions within a row.

## Mathematics and code, variant by variant

### Dr. GRPO: two divisions less

$$
A_i = r_i - \operatorname{mean}(r), \qquad w_{i,t} = \frac{1}{B\,L_{\max}} .
$$

No division by the group's standard deviation, none by $|y_i|$ ([Liu et al. 2025](https://arxiv.org/abs/2503.20783)). $L_{\max}$ is a constant, the longest completion allowed. In code, two words:

```python
advantages = group_advantages(rewards, G, "mean", "none")   # was "std"
loss = aggregate(per_token, mask, "budget", L_max)          # was "sequences"
```

What is left is the policy gradient with the group's mean as baseline, times a constant.

### DAPO, part by part

[Yu et al. 2025](https://arxiv.org/abs/2503.14476) change GRPO in four places, each for a fault that they saw.

**Clip-higher.** A token of probability 0.01 with a good advantage may rise to 0.012 before $\rho\le 1+\varepsilon$ with $\varepsilon = 0.2$ silences it; one of 0.9 never meets the clip. Exploration is held back more than exploitation. So the upper clip becomes 0.28 and the lower one stays: `clipped_policy_loss(..., epsilon=.2, epsilon_high=.28)`.

**Token-level loss.** $w_{i,t} = 1/\sum_j |y_j|$: one mean over all tokens of the batch. All tokens weigh the same, though how much depends on the others: `aggregate(per_token, mask, "tokens")`.

**Dynamic sampling.** Groups whose rewards are all equal have advantage 0. They are drawn again until the batch is full of groups that teach. It takes one line to find them:
""")
code(r"""
def all_equal(groups):
    '''Whether a group's rewards are all the same, (N, G) to (N,).'''
    return (groups == groups[:, :1]).all(dim=1)


def draw_until_full(draw, wanted):
    '''Groups that teach, and how many were drawn for them; draw(n) gives rewards (n, G).'''
    kept, drawn = torch.empty(0, 8), 0
    while len(kept) < wanted:
        groups = draw(wanted)
        drawn += len(groups)
        kept = torch.cat([kept, groups[~all_equal(groups)]])
    return kept[:wanted], drawn


rng = torch.Generator().manual_seed(0)
print("   p    batches drawn for one batch    1 / (1 - p^8 - (1 - p)^8)")
for p in (0.5, 0.9, 0.97):
    _, drawn = draw_until_full(lambda n: (torch.rand(n, 8, generator=rng) < p).float(), 4_000)
    print(f"{p:5.2f} {drawn / 4_000:20.2f} {1 / (1 - p**8 - (1 - p)**8):28.2f}")
""", "same-as:rlhf_lib.advantages.all_equal")
md(r"""
The better the policy, the more is thrown away. At $p = 0.97$ one batch costs nearly five. (The library stops after `max_draws` batches and fills up with silent groups: a policy that is always right would draw for ever.)

**Overlong shaping.** A completion that runs into the limit is cut off and counts as wrong, however good it was. A soft penalty on length, added to the *reward*, says so earlier: 0 up to $L_{\max} - L_{\mathrm{cache}}$ tokens, then down in a straight line to $-1$ at $L_{\max}$. It is a reward function like any other.
""")
code(r"""
shaping = soft_overlong_punishment(48, 8)
for length in (40, 41, 44, 48, 60):
    print(f"{length} tokens: {shaping(['x'], ['one ' * length])[0]:+.3f}")
""")
md(r"""
### GSPO: one ratio for a completion

The reward belongs to the completion, so the ratio should too, argue [Zheng et al. 2025](https://arxiv.org/abs/2507.18071). They take the geometric mean of the token ratios, and clip that:

$$
s_i = \Big(\frac{\pi_\theta(y_i|x)}{\pi_{\mathrm{old}}(y_i|x)}\Big)^{1/|y_i|} ,
\qquad \ell = -\min\big(s_iA_i,\ \operatorname{clip}(s_i, 1-\varepsilon, 1+\varepsilon_{\mathrm{high}})A_i\big) .
$$

A mean of many log-ratios of both signs hardly leaves 0, hence their clip of about $3\cdot10^{-4}$ and $4\cdot10^{-4}$. A completion is silenced whole, or not at all.
""")
code(r"""
def sequence_logprobs(logprobs, mask, mean=False):
    '''log pi(y | x) of whole completions, (B,); with mean, per token.'''
    total = torch.where(mask.bool(), logprobs, 0.0).sum(dim=1)
    return total / mask.sum(dim=1) if mean else total


def gspo_loss(logprobs, old_logprobs, advantages, mask, epsilon=3e-4, epsilon_high=4e-4):
    '''(B, T): each token carries the loss of its completion.'''
    per_sequence = clipped_policy_loss(
        sequence_logprobs(logprobs, mask, mean=True)[:, None],
        sequence_logprobs(old_logprobs, mask, mean=True)[:, None],
        advantages, epsilon, epsilon_high)
    return per_sequence.expand_as(logprobs)
""", "same-as:rlhf_lib.losses.sequence_logprobs", "same-as:rlhf_lib.losses.gspo_loss")
md(r"""
### RLOO: a completion is one action

[Ahmadian et al. 2024](https://arxiv.org/abs/2402.14740) go back to REINFORCE with the mean of the *others* as baseline. The action is the whole completion, and so is the ratio, without a root:

$$
A_i = r_i - \operatorname{mean}_{j\ne i}(r_j), \qquad
\rho_i = \frac{\pi_\theta(y_i|x)}{\pi_{\mathrm{old}}(y_i|x)} .
$$
""")
code(r"""
def rloo_loss(logprobs, old_logprobs, advantages, mask, epsilon=0.2):
    '''(B, T): each token carries the loss of its completion.'''
    per_sequence = clipped_policy_loss(
        sequence_logprobs(logprobs, mask)[:, None],  # the sum, where GSPO takes the mean
        sequence_logprobs(old_logprobs, mask)[:, None], advantages, epsilon)
    return per_sequence.expand_as(logprobs)
""", "same-as:rlhf_lib.losses.rloo_loss")
md(r"""
### CISPO: a bounded voice for every token

PPO's clip takes a token out of the loss. The tokens that move fast are often the rare ones that turn an argument round, and [MiniMax 2025](https://arxiv.org/abs/2506.13585) did not want to lose them. CISPO is REINFORCE with an importance weight that is capped and held constant; no token ever falls silent:

$$
\ell = -\operatorname{sg}\big[\min(\rho_{i,t},\,c)\big]\;A_i\,\log\pi_\theta(y_{i,t}|s_{i,t}) .
$$
""")
code(r"""
def cispo_loss(logprobs, old_logprobs, advantages, cap=5.0):
    '''-min(rho, cap) A log pi, the weight held constant; (B, T).'''
    weight = torch.exp(logprobs - old_logprobs).clamp(max=cap).detach()
    return -weight * advantages * logprobs
""", "same-as:rlhf_lib.losses.cispo_loss")
md(r"""
### REINFORCE++: the batch as the group

[Hu 2025](https://arxiv.org/abs/2501.03262) gives up the group: one completion for each prompt, the KL in the reward of each token, the reward to go as return, and the mean and spread of the *whole batch* in place of those of a group:

$$
A_{i,t} = \frac{G_{i,t} - \operatorname{mean}(G)}{\operatorname{std}(G)} ,\qquad
G_{i,t} = r_i - \beta\sum_{s\ge t}\log\frac{\pi_{\mathrm{old}}}{\pi_{\mathrm{ref}}}(y_{i,s}) .
$$

Nothing is paid for twice, and no group can be silent. But the baseline no longer knows how hard the prompt was.
""")
code(r"""
def masked_whiten(values, mask, eps=1e-8):
    '''Mean 0 and variance 1 over all tokens that count, (B, T).'''
    mean = values[mask.bool()].mean()
    variance = ((values - mean)[mask.bool()] ** 2).mean()
    return torch.where(mask.bool(), (values - mean) / (variance + eps).sqrt(), 0.0)


keep = (torch.arange(3) < torch.tensor([[3], [1]])).double()  # completions of 3 tokens and of 1
drift = torch.tensor([[0.5, -0.2, 0.1], [0.4, 0.0, 0.0]]).double()  # log pi_old - log pi_ref
to_go = returns_to_go(token_rewards(torch.tensor([1.0, 0.0]), drift, keep, beta=0.1), keep)
print("returns to go", to_go.tolist())
print("advantages   ", [[round(x, 2) for x in row] for row in masked_whiten(to_go, keep).tolist()])
""", "same-as:rlhf_lib.advantages.masked_whiten")
