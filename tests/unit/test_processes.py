"""Two processes under `accelerate launch` learn what one does from the same batches."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate")  # it launches the processes; the library does not need it

from rlhf_lib.algorithms.dpo import DPO, DPOConfig
from rlhf_lib.machinery.processes import local_generator, local_rows, resume_sampler
from tests.unit import two_processes
from tests.unit.loops import all_weights
from tests.unit.two_processes import grpo, ppo, reward, sft, shared


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What both processes found; they talk over gloo."""
    folder = tmp_path_factory.mktemp("two")
    top = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            "--multi_gpu",
            "--num_processes",
            "2",
            "--num_machines",
            "1",
            "--mixed_precision",
            "no",
            "--dynamo_backend",
            "no",
            "--main_process_port",
            "0",
            two_processes.__file__,
            str(folder),
        ],
        cwd=top,
        env={**os.environ, "PYTHONPATH": top, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder, [torch.load(folder / f"{i}.pt", weights_only=False) for i in range(2)]


LOOPS = pytest.mark.parametrize("make", [ppo, shared, grpo])


@pytest.mark.parametrize("make", [ppo, shared, grpo, sft, reward])
def test_both_processes_end_with_the_same_weights(two, make):
    first, second = (found[make.__name__] for found in two[1])
    assert torch.equal(first["weights"], second["weights"])
    for a, b in zip(first["records"], second["records"]):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}


@LOOPS
def test_two_processes_learn_what_one_does_from_the_same_batches(two, make):
    """In float64, so that what is compared is the algorithm and not the order of a sum."""
    found = two[1][0][make.__name__]
    loop = make()
    for batch, theirs in zip(found["batches"], found["records"]):
        loop.collect = lambda batch=batch: batch
        ours = loop.step()
        for name, value in ours.items() - {("seconds", ours["seconds"])}:
            assert theirs[name] == pytest.approx(value, rel=1e-6, abs=1e-7), name
    assert (all_weights(loop) - found["weights"]).abs().max().item() < 1e-9
    assert (all_weights(loop) - all_weights(make())).abs().max().item() > 1e-4


@pytest.mark.parametrize("make", [sft, reward])
def test_two_processes_imitate_and_compare_as_one_does(two, make):
    found = two[1][0][make.__name__]
    loop = make()
    for ours, theirs in zip(loop, found["records"]):
        for name in ours.keys() - {"seconds"}:
            assert theirs[name] == pytest.approx(ours[name], rel=1e-6), name
    assert (all_weights(loop) - found["weights"]).abs().max().item() < 1e-9


@LOOPS
def test_the_processes_sample_different_halves_of_one_batch(two, make):
    rollout = two[1][0][make.__name__]["batches"][0][0]
    assert len(rollout) == 12 and len(set(rollout.completions)) > 6
    assert torch.equal(
        rollout.completion_ids, two[1][1][make.__name__]["batches"][0][0].completion_ids
    )
    if make is grpo:
        assert all(rollout.prompts[i] == rollout.prompts[i - i % 4] for i in range(12))


@LOOPS
def test_two_processes_go_on_from_a_checkpoint_to_the_same_numbers(two, make):
    for found in (found[make.__name__] for found in two[1]):
        assert {**found["resumed"], "seconds": 0} == {**found["records"][2], "seconds": 0}
        assert torch.equal(found["resumed_weights"], found["weights"])


@LOOPS
def test_a_checkpoint_of_two_processes_is_not_taken_up_by_one(two, make):
    with pytest.raises(ValueError, match="samplers of 2 processes; expected 1"):
        make().resume(two[0] / make.__name__)


def test_shares_are_whole_groups_and_leave_nothing_out(monkeypatch):
    rows = list(range(20))
    for count in (1, 2, 3, 5):
        shares = []
        for rank in range(count):
            monkeypatch.setattr(
                "rlhf_lib.machinery.processes.rank_and_count", lambda where=(rank, count): where
            )
            shares.append(local_rows(rows, each=4))
        assert sum(shares, []) == rows
        assert all(share and len(share) % 4 == 0 for share in shares)


def test_a_sampler_goes_on_in_its_own_process_and_on_its_own_kind_of_device(monkeypatch):
    monkeypatch.setattr("rlhf_lib.machinery.processes.rank_and_count", lambda: (2, 3))
    sampler = torch.Generator()
    states = [torch.Generator().manual_seed(i).get_state() for i in range(3)]
    resume_sampler(sampler, states)
    assert torch.equal(sampler.get_state(), states[2])
    with pytest.raises(ValueError, match="sampler of another kind of device; expected one of cpu"):
        resume_sampler(sampler, [states[0], states[1], torch.zeros(16, dtype=torch.uint8)])


def test_each_process_draws_its_own_noise_and_the_first_that_of_one_alone(monkeypatch):
    def noise(rank):
        monkeypatch.setattr("rlhf_lib.machinery.processes.rank_and_count", lambda: (rank, 3))
        return torch.rand(4, generator=local_generator(torch.device("cpu"), seed=7)).tolist()

    alone = torch.rand(4, generator=torch.Generator().manual_seed(7)).tolist()
    assert noise(0) == alone and len({*map(tuple, (noise(0), noise(1), noise(2)))}) == 3


def test_more_processes_than_prompts_are_refused(monkeypatch):
    monkeypatch.setattr("rlhf_lib.machinery.processes.rank_and_count", lambda: (0, 4))
    with pytest.raises(
        ValueError,
        match="batch_size=12 has 3 prompts; expected one or more for each of the 4 processes",
    ):
        grpo()


def test_what_runs_in_one_process_alone_says_so(monkeypatch):
    monkeypatch.setattr("rlhf_lib.machinery.processes.rank_and_count", lambda: (0, 2))
    from datasets import Dataset

    pairs = Dataset.from_dict({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]})
    model = two_processes.policy()
    with pytest.raises(ValueError, match="DPO runs in one process; expected 1, and 2 were started"):
        DPO(model, two_processes.policy(1), two_processes.tokenizer(), pairs, DPOConfig())
