"""Proximal policy optimisation against a learned reward, held near a reference by a KL penalty.

One step, in the order of the chapter's algorithm box:

1. sample completions of a batch of prompts from the policy
2. score them with the reward function
3. price the distance from the reference: per token −β (log π − log π_ref), score on the last token
4. estimate advantages with the critic (GAE), whiten them
5. a few epochs of minibatches: clipped policy loss, clipped value loss

The critic is a model of its own; `shared_trunk` has the one that is a value head on the policy's
trunk. It leaves out, against the larger implementations: reward scaling by a running deviation
(the reward is standardised once, before, by `reward_training.standardise`), and early stopping
inside a step. Axes: B batch, T completion tokens. Source: Schulman et al. 2017, arXiv:1707.06347;
for language models Ziegler et al. 2019, arXiv:1909.08593, and Ouyang et al. 2022, arXiv:2203.02155.
Chapters: credit, ppo-live.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..families.adapters import needed_reference
from ..families.support import check_one_output
from ..machinery.settings import check_counts, check_positive
from ..mathematics.advantages import explained_variance, gae, masked_whiten, token_rewards
from ..mathematics.kl import AdaptiveKL, k1
from ..mathematics.losses import aggregate, clipped_policy_loss, clipped_value_loss, ratio_record
from ..models.reward_model import state_values
from ..models.rewards import RewardFunction
from ..models.rollout import Rollout
from ..models.tokens import TokenBatch, token_logprobs
from ..worlds.tables import rows_of_step
from .loop import OnlineConfig, OnlineLoop
from .sft import Demonstrations, imitation_loss


@dataclass(frozen=True)
class PPOConfig(OnlineConfig):
    """Settings beside those of every loop that samples.

    `beta` and `epsilon` have the names of TRL's GRPO; its PPO, which it has no more, called them
    `kl_coef` and `cliprange`, and `epsilon_value` `cliprange_value`.

    Chapter: ppo-live.
    """

    num_ppo_epochs: int = 2  # passes over each batch
    gamma: float = 1.0  # discount of a token
    lam: float = 0.95  # λ of generalised advantage estimation
    epsilon_value: float | None = 0.2  # clip of the critic's move; None for no clip
    critic_learning_rate: float = 5e-4  # of the critic
    value_coefficient: float = 0.1  # weight of the value loss; for a shared trunk only
    dual_clip: float | None = None  # bound of the ratio where the advantage is negative
    target_kl: float | None = None  # nats per completion; given one, beta adapts to it
    kl_horizon: int = 640  # completions over which an adaptive beta moves by a share of itself
    ptx_coefficient: float = 0.0  # weight of the SFT loss on `ptx`, against lost ability

    def __post_init__(self):
        super().__post_init__()
        check_counts(self, "num_ppo_epochs")
        check_positive(self, "critic_learning_rate")
        if self.epsilon_value is not None:
            check_positive(self, "epsilon_value")
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 to 1")
        edge = 1 + self.epsilon
        if self.dual_clip is not None and not self.dual_clip > edge:
            raise ValueError(f"dual_clip is {self.dual_clip}; expected more than {edge}")
        if self.target_kl is not None:
            AdaptiveKL(self.target_kl, self.kl_horizon)
            if not self.beta:
                raise ValueError("beta is 0, and target_kl would multiply it; expected more")


@dataclass
class Experience(TokenBatch):
    """A batch to learn from: what was known of each token before the first update, (B, T).

    Chapter: credit.
    """

    logprobs: Tensor  # of the policy that sampled
    advantages: Tensor  # whitened
    values: Tensor  # of the critic that the advantages were made with
    returns: Tensor  # its targets


class PPO(OnlineLoop):
    """Step through PPO; `for record in PPO(...)` trains to the end, and can stop anywhere.

    `beta` is an attribute: turn it while the loop runs, to 0 or more (with `target_kl` the loop
    does). `rollout` holds the last batch that was learnt from.

    Source: as for this module; the ptx mix from Ouyang et al. 2022, eq. 2. Chapters:
    credit, ppo-live.

    Parameters
    ----------
    policy : transformers causal language model
        Trained in place.
    reference : transformers causal language model
        π_ref; frozen here. None for a policy with an adapter: the model with the adapter off.
    critic : transformers.PreTrainedModel
        A sequence classifier with one label, trained in place; usually a copy of the reward
        model, which is where it should start.
    tokenizer : PreTrainedTokenizerBase
    reward : callable
        `reward(prompts=..., completions=..., **columns)` returns one float per completion; or a
        list of such functions, whose sum counts (`weighted_sum` gives them weights).
    dataset : datasets.Dataset
        Column `prompt`; other columns are handed to the reward.
    config : PPOConfig
    ptx : datasets.Dataset, optional
        Columns `prompt` and `completion`, such as the pretraining corpus: `ptx_coefficient` times
        its SFT loss is added to the policy loss of every minibatch.

    Raises
    ------
    ValueError
        If a setting is out of range, `beta` is set to what is no price, a prompt leaves no room for
        `max_new_tokens`, or a reward is missing or not finite.
    RuntimeError
        If the reward function raises.
    FloatingPointError
        If a gradient is not finite. The weights of that model are those before the update; what
        has moved earlier in the step stays, and the step does not count: `save` what there is, mend
        the cause, and go on.
    """

    STATE = (*OnlineLoop.STATE, "updates")
    config: PPOConfig

    def __init__(
        self,
        policy,
        reference,
        critic,
        tokenizer,
        reward: RewardFunction,
        dataset,
        config: PPOConfig = PPOConfig(),
        ptx=None,
    ):
        if critic is None:
            raise ValueError("critic is None; expected a second model (SharedTrunkPPO: one)")
        reference = needed_reference(policy, reference)
        check_one_output("critic", critic)
        self.updates, self.ptx = 0, demonstrations_of(ptx, tokenizer, config, policy)
        trained = {"policy": policy, "critic": critic}
        super().__init__(config, tokenizer, reward, dataset, trained, {"reference": reference})
        self.policy, self.reference, self.critic = policy, reference, critic

    def collect(self) -> tuple[Rollout, Tensor]:
        """1 and 2: a batch of completions, and their scores."""
        c = self.config
        rows = rows_of_step(len(self.data["prompt"]), c.batch_size, self.step_number, c.seed)
        return self.sample_and_score(self.policy, rows)

    def learn(self, rollout: Rollout, scores: Tensor) -> dict:
        """3 to 5: price, estimate advantages, update; the record of the step."""
        rollout, weights, seen = self.corrected(self.policy, rollout)
        c, mask = self.config, rollout.completion_mask
        ref_logprobs = self.logprobs(self.reference, rollout)
        values = mask * self.machine.table(lambda batch: state_values(self.critic, batch), rollout)
        log_ratio = rollout.logprobs - ref_logprobs
        kl = k1(log_ratio).sum(dim=1).mean().item()  # only for the record and an adaptive beta

        rewards = token_rewards(scores, log_ratio, mask, self.beta)  # −β k1, score on the last one
        advantages, returns = gae(rewards, values, mask, c.gamma, c.lam)
        batch = Experience(
            *rollout.tokens,
            logprobs=rollout.logprobs,
            advantages=masked_whiten(advantages, mask) * weights,
            values=values,
            returns=returns,
        )
        updates = []
        for rows in self.minibatches(c.num_ppo_epochs):
            updates.append(self.update(batch[rows]))

        record = {
            "reward": scores.mean().item(),
            "reward_std": scores.std(correction=0).item(),
            "kl": kl,
            **seen,
            **self.watch(rollout, updates),
            "explained_variance": explained_variance(values, returns, mask),
        }
        if c.target_kl is not None:
            self.beta = AdaptiveKL(c.target_kl, c.kl_horizon)(self.beta, kl, c.batch_size)
        return record

    def update(self, batch: Experience) -> dict:
        """One gradient step of critic and policy on a minibatch."""
        losses = {"policy_loss": (self.policy_loss, batch), **self.ptx_loss()}  # by their names
        policy = self.machine.descend(self.policy, self.optimizers["policy"], losses)
        losses = {"value_loss": (self.value_loss, batch)}
        critic = self.machine.descend(self.critic, self.optimizers["critic"], losses)
        self.updates += 1
        return critic | policy  # of the two gradient norms, the policy's

    def policy_loss(self, batch: Experience) -> tuple[Tensor, dict]:
        """The clipped surrogate over the tokens of a batch, and what to see of its ratios."""
        logprobs = token_logprobs(self.policy, batch, self.config.temperature)
        return self.surrogate(logprobs, batch)

    def surrogate(self, logprobs: Tensor, batch: Experience) -> tuple[Tensor, dict]:
        """The same from log-probabilities already computed, as with a shared trunk."""
        c, old, A, mask = self.config, batch.logprobs, batch.advantages, batch.completion_mask
        loss = clipped_policy_loss(logprobs, old, A, c.epsilon, dual_clip=c.dual_clip)
        seen = ratio_record(logprobs, old, A, mask, c.epsilon, dual_clip=c.dual_clip)
        return aggregate(loss, mask), seen

    def value_loss(self, batch: Experience) -> tuple[Tensor, dict]:
        """Half the squared error of the critic over the tokens of a batch, clipped."""
        values = state_values(self.critic, batch)
        loss = clipped_value_loss(values, batch.values, batch.returns, self.config.epsilon_value)
        return aggregate(loss, batch.completion_mask), {}

    def ptx_loss(self) -> dict:
        """If it has a weight: the SFT loss of as many demonstrations as a minibatch has rows."""
        c = self.config
        if not c.ptx_coefficient or self.ptx is None:
            return {}
        batch = self.ptx.batch(c.mini_batch_size, self.updates, c.seed, self.policy.device)
        return {"ptx_loss": (imitation_loss(self.policy), batch, c.ptx_coefficient)}


def demonstrations_of(ptx, tokenizer, config: PPOConfig, policy) -> Demonstrations | None:
    """The dataset whose SFT loss `ptx_coefficient` weighs, if there is one.

    Chapter: ppo-live.
    """
    if config.ptx_coefficient and not (ptx is not None and len(ptx)):
        raise ValueError(
            f"ptx is {'None' if ptx is None else 'empty'} at ptx_coefficient="
            f"{config.ptx_coefficient}; expected a dataset with the columns prompt and completion"
        )
    return None if ptx is None else Demonstrations(ptx, tokenizer, policy)
