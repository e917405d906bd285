"""Steps of `SFT` are those of TRL 1.16's `SFTTrainer`: losses, gradient norms, and the model after.

The layouts differ, and the numbers must not: TRL pads whole rows on the right and marks what does
not count with -100, we pad prompts on the left and completions on the right.
"""

from __future__ import annotations

import copy
import math

import pytest
import torch
import trl
from transformers import PrinterCallback

from rlhf_lib.algorithms import SFT, SFTConfig
from rlhf_lib.models.tokens import encode, token_logprobs
from rlhf_lib.worlds import letters
from rlhf_lib.worlds.tables import rows_of_step
from tests.unit.small import policy, tokenizer

STEPS = 4


@pytest.mark.parametrize("parts", [1, 4])
def test_the_steps_are_those_of_trls_trainer(parts, tmp_path):
    settings = SFTConfig(
        max_steps=STEPS,
        batch_size=16,
        warmup_steps=2,
        learning_rate=1e-2,
        gradient_accumulation_steps=parts,
        seed=0,
    )
    demos = letters.demonstrations(40, seed=1)
    ours, theirs = policy(0), copy.deepcopy(policy(0))
    records = list(SFT(ours, tokenizer(), demos, settings))

    def learning_rate(step):
        fall = 0.1 + 0.45 * (1 + math.cos(math.pi * step / STEPS))
        warm = min(1, (step + 1) / (settings.warmup_steps + 1))
        return settings.learning_rate * warm * fall

    order = [i for s in range(STEPS) for i in rows_of_step(len(demos), 16, s, 0)]
    optimiser = torch.optim.AdamW(
        theirs.parameters(), lr=1.0, betas=(0.9, 0.98), weight_decay=settings.weight_decay
    )
    trainer = trl.SFTTrainer(
        theirs,
        args=trl.SFTConfig(
            str(tmp_path),
            max_steps=STEPS,
            max_grad_norm=settings.max_grad_norm,
            per_device_train_batch_size=16 // parts,
            gradient_accumulation_steps=parts,
            train_sampling_strategy="sequential",  # our order; by default it shuffles
            bf16=False,  # on by default, as is the next
            gradient_checkpointing=False,
            use_cpu=True,
            logging_steps=1,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=demos.select(order).select_columns(["prompt", "completion"]),
        processing_class=tokenizer(),
        optimizers=(optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, learning_rate)),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    history = [row for row in trainer.state.log_history if "grad_norm" in row]
    assert len(history) == len(records) == STEPS
    for a, b in zip(records, history):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)
        assert a["gradient_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)
        assert a["learning_rate"] == pytest.approx(b["learning_rate"], abs=1e-9)
    assert records[0]["loss"] - records[-1]["loss"] > 0.05  # they have moved
    # weights whose gradient is 0 but for rounding are moved by Adam all the same, either way
    fresh = letters.demonstrations(20, seed=2)
    batch = encode(tokenizer(), list(fresh["prompt"]), list(fresh["completion"]))
    with torch.no_grad():
        a, b, start = (token_logprobs(m.eval(), batch) for m in (ours, theirs, policy(0)))
    assert torch.allclose(a, b, atol=1e-3) and (a - start).abs().max() > 0.5
