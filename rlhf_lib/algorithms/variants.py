"""The relatives of GRPO: which settings make which algorithm, and which do not go together.

Chapter: grpo-variants.
"""

from __future__ import annotations

from ..machinery.settings import check_choices
from ..mathematics.losses import OF_COMPLETIONS, SURROGATES

# What each relative changes. `GRPOConfig(**VARIANTS["dr_grpo"])` is that algorithm.
VARIANTS: dict[str, dict] = {
    "grpo": {},  # Shao et al. 2024, arXiv:2402.03300
    "dr_grpo": dict(scale_rewards="none", aggregate_over="budget", beta=0.0),  # Liu et al. 2025,
    # arXiv:2503.20783: no division by the spread of a group, none by the length of a completion
    "dapo": dict(
        epsilon_high=0.28, aggregate_over="tokens", dynamic_sampling=True, beta=0.0
    ),  # Yu et al. 2025, arXiv:2503.14476
    "gspo": dict(
        loss="gspo", epsilon=3e-4, epsilon_high=4e-4, beta=0.0
    ),  # Zheng et al. 2025, arXiv:2507.18071
    "cispo": dict(
        loss="cispo", epsilon_high=5.0, aggregate_over="tokens", beta=0.0
    ),  # MiniMax 2025, arXiv:2506.13585
    "sapo": dict(loss="sapo", beta=0.0),  # Gao et al. 2025, arXiv:2511.20347
    "gmpo": dict(loss="gmpo", epsilon=0.4, beta=0.0),  # Zhao et al. 2025, arXiv:2507.20673
    "rloo": dict(
        loss="rloo", baseline="leave_one_out", scale_rewards="none", kl_in="reward"
    ),  # Ahmadian et al. 2024, arXiv:2402.14740
    "reinforce++": dict(
        advantage="return_to_go", num_generations=1, aggregate_over="tokens", kl_in="reward"
    ),  # Hu et al. 2025, arXiv:2501.03262
}


def check_variant(c) -> None:
    """Refuse settings of a `GRPOConfig` that would fail late or, worse, train something else.

    Chapter: grpo-variants.
    """
    fewest = 1 if c.advantage == "return_to_go" else 2
    if c.num_generations < fewest or c.batch_size % c.num_generations:
        raise ValueError(
            f"num_generations is {c.num_generations}; expected at least {fewest}, and a "
            f"divisor of batch_size={c.batch_size}"
        )
    check_choices(
        c,
        kl_in=("loss", "reward"),
        advantage=("group", "return_to_go"),
        loss=SURROGATES,
        baseline=("mean", "leave_one_out", "none"),
        scale_rewards=("std", "batch", "none"),
        aggregate_over=("sequences", "tokens", "budget"),
    )
    if c.use_bias_correction_kl and c.kl_in != "loss":
        raise ValueError(
            f"use_bias_correction_kl is True and kl_in {c.kl_in!r}; expected 'loss', as in the "
            "reward there is no k3 to correct"
        )
    if c.loss == "cispo" and not (c.epsilon_high or 0) > 1:
        raise ValueError(
            f"epsilon_high is {c.epsilon_high}; expected more than 1, as for loss='cispo' "
            "it is the largest ratio itself"
        )
    if c.loss in ("rloo", "sapo") and c.epsilon_high is not None:
        one = "one clip for both sides" if c.loss == "rloo" else "a gate in place of a clip"
        raise ValueError(
            f"epsilon_high is {c.epsilon_high}; expected None, as loss={c.loss!r} has {one}"
        )
    if c.loss in OF_COMPLETIONS and str(c.importance_sampling).startswith("token"):
        raise ValueError(
            f"importance_sampling is {c.importance_sampling!r}; expected one of sequences, as "
            f"loss={c.loss!r} has one ratio a completion"
        )
    if c.dynamic_sampling and (c.num_generations < 2 or c.max_draws < 1):
        raise ValueError(
            f"dynamic_sampling has num_generations={c.num_generations} and max_draws="
            f"{c.max_draws}; expected groups of 2 or more, and at least 1 draw"
        )
