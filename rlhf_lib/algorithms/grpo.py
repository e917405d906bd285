"""Group relative policy optimisation: PPO whose critic is the group. And its relatives.

One step, in the order of the chapter's algorithm box:

1. sample G completions of each prompt from the policy
2. score them with the reward function
3. compare each score with its group: the advantage of every token of the completion
4. minibatches: clipped policy loss, plus β k3 against the reference in the loss
   (with `use_bias_correction_kl`, times the ratio)

The relatives change one or two of these lines, each by a setting; `variants` says which. With
`kl_in="reward"` the distance is priced before the comparison instead, as PPO does.

There is no critic, and no reward per token. It leaves out, against the larger implementations:
a replaced reference, and sampling on other processes. DAPO's overlong shaping is a reward
(`rewards.soft_overlong_punishment`), not a part of the loop. Axes: B completions (a multiple of
G), T completion tokens. Source: Shao et al. 2024, arXiv:2402.03300. Chapters: grpo,
grpo-variants.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..families.adapters import needed_reference
from ..machinery.settings import check_counts
from ..mathematics.advantages import (
    all_equal,
    group_advantages,
    masked_whiten,
    returns_to_go,
    token_rewards,
)
from ..mathematics.kl import k1, k3
from ..mathematics.losses import aggregate, policy_ratio, ratio_record, surrogate_loss
from ..models.rewards import RewardFunction
from ..models.rollout import Rollout, join
from ..models.tokens import TokenBatch, token_logprobs
from ..worlds.tables import rows_of_step
from .loop import OnlineConfig, OnlineLoop
from .variants import VARIANTS, check_variant


@dataclass(frozen=True)
class GRPOConfig(OnlineConfig):
    """Settings beside those of every loop that samples, most of them named as TRL names them.

    What its `loss_type` chooses is `loss` and `aggregate_over` here, and by `scale_rewards` its
    "group" is "std". `max_new_tokens` is its `max_completion_length`.

    `use_bias_correction_kl` multiplies the k3 of a token by the ratio π/π_old of `loss`; gradients
    flow through both. The expected gradient is then that of KL(π‖π_ref) between next-token
    distributions at the prefixes that were sampled, whoever sampled them; where the ratio is one of
    whole completions ("rloo"), of the whole KL, prefixes included. Without it, k3 follows the
    forward KL, and even that on samples of the policy itself alone. At the first update of a batch
    the ratio is 1: the loss is the same with it, and its gradient is another.
    Source: DeepSeek-V3.2, 2025, arXiv:2512.02556, section 3.1, eq. 7.

    Chapters: grpo, grpo-variants, kl-estimators.
    """

    VARIANTS: ClassVar[dict[str, dict]] = VARIANTS

    batch_size: int = 64  # completions a step, a multiple of num_generations
    beta: float = 0.1  # weight of the KL: per completion in the reward, per token in the loss
    num_generations: int = 8  # G, completions of each prompt
    num_iterations: int = 2  # passes over each batch, μ in the paper
    kl_in: str = "loss"  # k3 in the loss, as published; or "reward": k1, before the comparison
    use_bias_correction_kl: bool = False  # k3 times the policy's ratio; True is TRL's default
    loss: str = "clip"  # "cispo", "sapo"; with one ratio a completion "gspo", "gmpo", "rloo"
    epsilon_high: float | None = None  # upper clip, if another; for "cispo" the largest ratio
    advantage: str = "group"  # or "return_to_go", per token and whitened over the batch
    baseline: str = "mean"  # or "leave_one_out" or "none"
    scale_rewards: str = "std"  # or "batch" or "none"
    aggregate_over: str = "sequences"  # or "tokens" or "budget" (batch_size × max_new_tokens)
    dynamic_sampling: bool = False  # draw again in place of groups whose rewards are all equal
    max_draws: int = 4  # batches drawn a step at most; then such groups are kept

    def __post_init__(self):
        super().__post_init__()
        check_counts(self, "num_iterations")
        check_variant(self)


@dataclass
class Experience(TokenBatch):
    """A batch to learn from: what was known of each token before the first update.

    Chapter: grpo.
    """

    logprobs: Tensor  # (B, T) of the policy that sampled
    advantages: Tensor  # (B, 1), or (B, T) where each token has its own
    ref_logprobs: Tensor  # (B, T); those of the policy itself without a reference


class GRPO(OnlineLoop):
    """Step through GRPO; `for record in GRPO(...)` trains to the end, and can stop anywhere.

    `beta` is an attribute: turn it while the loop runs, to 0 or more. `rollout` holds the last
    batch that was learnt from.

    Source: Shao et al. 2024, arXiv:2402.03300, algorithm 1. Chapters: grpo, grpo-variants.

    Parameters
    ----------
    policy : transformers causal language model
        Trained in place.
    reference : transformers causal language model or None
        π_ref; frozen here. None if beta is 0: one model less, and no KL in the records. None for
        a policy with an adapter: the model with the adapter off.
    tokenizer : PreTrainedTokenizerBase
    reward : callable
        `reward(prompts=..., completions=..., **columns)` returns one float per completion; or a
        list of such functions, whose sum counts (`weighted_sum` gives them weights).
    dataset : datasets.Dataset
        Column `prompt`; other columns are handed to the reward.
    config : GRPOConfig

    Raises
    ------
    ValueError
        If a setting is out of range, `beta` is set to what is no price, a prompt leaves no room for
        `max_new_tokens`, or a reward is missing or not finite.
    RuntimeError
        If the reward function raises.
    FloatingPointError
        If a gradient is not finite. The weights are those before the update; updates made earlier
        in the step stay, and the step does not count: `save` what there is, mend the cause, go on.
    """

    STATE = (*OnlineLoop.STATE, "draws")  # batches of prompts; more than steps if drawn again
    config: GRPOConfig

    def __init__(
        self,
        policy,
        reference,
        tokenizer,
        reward: RewardFunction,
        dataset,
        config: GRPOConfig = GRPOConfig(),
    ):
        reference = needed_reference(policy, reference, config.beta > 0, ", or beta=0")
        trained = {"policy": policy}
        super().__init__(config, tokenizer, reward, dataset, trained, {"reference": reference})
        self.policy, self.reference = policy, reference
        self.draws = 0

    def collect(self) -> tuple[Rollout, Tensor, Tensor]:
        """1 and 2: completions in groups, their scores, and the scores of all that were drawn."""
        if self.beta and self.reference is None:
            raise ValueError(f"beta is {self.beta} without a reference; expected 0")
        if self.config.dynamic_sampling:
            return self.collect_what_teaches()
        rollout, scores = self.draw()
        return rollout, scores, scores

    def draw(self) -> tuple[Rollout, Tensor]:
        """A batch of completions, those of one prompt together, and their scores."""
        c, G = self.config, self.config.num_generations
        prompts = rows_of_step(len(self.data["prompt"]), c.batch_size // G, self.draws, c.seed)
        found = self.sample_and_score(self.policy, [i for i in prompts for _ in range(G)], each=G)
        self.draws += 1
        return found

    def learn(self, rollout: Rollout, scores: Tensor, drawn: Tensor) -> dict:
        """3 and 4: compare the completions of each group, and update; the record of the step."""
        rollout, weights, seen = self.corrected(self.policy, rollout)
        c, mask, ref_logprobs = self.config, rollout.completion_mask, rollout.logprobs
        if self.reference is not None:
            ref_logprobs = self.logprobs(self.reference, rollout)
        log_ratio = rollout.logprobs - ref_logprobs
        kl = {"kl": k1(log_ratio).sum(dim=1).mean().item()} if self.reference is not None else {}

        advantages = advantages_of(c, scores, log_ratio, mask, self.beta) * weights
        batch = Experience(*rollout.tokens, rollout.logprobs, advantages, ref_logprobs)
        updates = []
        for rows in self.minibatches(c.num_iterations):
            updates.append(self.update(batch[rows]))

        silent = all_equal(drawn.view(-1, c.num_generations))
        return {
            "reward": drawn.mean().item(),  # of all that were drawn; the rest is of what was kept
            **kl,
            **seen,
            **self.watch(rollout, updates),
            "zero_variance_groups": silent.float().mean().item(),
            "drawn": len(drawn),
        }

    def update(self, batch: Experience) -> dict:
        """One gradient step of the policy on a minibatch."""
        losses, over = {"policy_loss": (self.policy_loss, batch)}, self.config.aggregate_over
        return self.machine.descend(self.policy, self.optimizers["policy"], losses, over)

    def policy_loss(self, batch: Experience) -> tuple[Tensor, dict]:
        """The clipped surrogate, plus the KL, over a batch; and what to see of its ratios."""
        c, old, A, mask = self.config, batch.logprobs, batch.advantages, batch.completion_mask
        logprobs = token_logprobs(self.policy, batch, c.temperature)
        loss = surrogate_loss(c.loss, logprobs, old, A, mask, c.epsilon, c.epsilon_high)
        if c.kl_in == "loss" and self.beta:
            ratio = policy_ratio(c.loss, logprobs, old, mask) if c.use_bias_correction_kl else 1.0
            loss = loss + self.beta * ratio * k3(logprobs - batch.ref_logprobs)
        seen = ratio_record(logprobs, old, A, mask, c.epsilon, c.epsilon_high, c.loss)
        return aggregate(loss, mask, c.aggregate_over, c.max_new_tokens), seen

    def collect_what_teaches(self) -> tuple[Rollout, Tensor, Tensor]:
        """The same with dynamic sampling: groups whose rewards are all equal are drawn again.

        They teach nothing. It ends when the batch is full or `max_draws` is reached.
        """
        c = self.config
        G, parts, kept, drawn = c.num_generations, [], 0, []
        while kept < c.batch_size:
            rollout, scores = self.draw()
            drawn.append(scores)
            silent = all_equal(scores.view(-1, G))
            groups = (~silent).nonzero()[:, 0].tolist()
            if len(drawn) == c.max_draws:  # no more: fill up with groups that teach nothing
                groups += silent.nonzero()[:, 0].tolist()
            rows = [G * g + i for g in groups for i in range(G)][: c.batch_size - kept]
            parts.append((rollout[rows], scores[rows]))
            kept += len(rows)
        rollout = join([rollout for rollout, _ in parts], self.tokenizer.pad_token_id)
        return rollout, torch.cat([scores for _, scores in parts]), torch.cat(drawn)


def advantages_of(
    c: GRPOConfig, scores: Tensor, log_ratio: Tensor, mask: Tensor, beta: float
) -> Tensor:
    """The advantage of each token: (B, 1) if a completion's tokens share it, else (B, T).

    Chapters: grpo, grpo-variants.

    Parameters
    ----------
    c : GRPOConfig
    scores : Tensor, shape (B,)
        Of completions in groups: those of one prompt stand together.
    log_ratio, mask : Tensor, shape (B, T)
        log π_old − log π_ref of each token, in nats; 1 on the tokens of a completion.
    beta : float
        Reward per nat of KL, if `kl_in` is "reward".
    """
    if c.advantage == "return_to_go":
        beta = beta if c.kl_in == "reward" else 0.0  # else it is in the loss
        rewards = token_rewards(scores, log_ratio, mask, beta)
        return masked_whiten(returns_to_go(rewards, mask), mask)
    if c.kl_in == "reward":
        scores = scores - beta * k1(log_ratio).sum(dim=1)
    return group_advantages(scores, c.num_generations, c.baseline, c.scale_rewards)[:, None]
