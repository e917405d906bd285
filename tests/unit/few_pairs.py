"""The material of the benchmarks on letters, so small that a test can make it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks import dpo_letters
from rlhf_lib.models.reward_model import new_reward_model
from rlhf_lib.running import artifacts


def few_pairs() -> Iterator[dpo_letters.Material]:
    """Material of a few pairs, whose reward model has learnt nothing; for a fixture to yield."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifacts, "PAIRS", 40)
        patch.setattr(dpo_letters, "PAIRS", 12)
        patch.setattr(dpo_letters, "PROMPTS", 6)
        patch.setattr(
            dpo_letters.Material, "trained_reward", lambda self: new_reward_model(self.sft)
        )
        yield dpo_letters.Material(1)
