"""The speed benchmark: both sides do the same work, and its arithmetic is right."""

from __future__ import annotations

import copy
import gc
import importlib.metadata
import json
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import AutoTokenizer, GPT2Config

import rlhf_lib.algorithms.loop
from benchmarks import against_trl, against_trl_worker
from benchmarks.against_trl import (
    ALGORITHMS,
    CENTRE,
    FLOOR_THREADS,
    FLOORS,
    GPT2,
    GPT2_PARTS,
    GROUP,
    NAMES,
    RESULTS,
    SIZES,
    VERSIONS,
    Worker,
    assert_floors,
    centre,
    compare,
    decode,
    environment,
    environment_mark,
    growth,
    plan,
    prepare,
    quartiles,
    ratios,
    summary,
)
from benchmarks.against_trl import PROMPT_LENGTH as PROMPT_LENGTHS
from benchmarks.against_trl_worker import (
    CollectionClock,
    RolloutClock,
    ShareOfA,
    ours,
    share_of_a,
    trl,
)
from benchmarks.bandwidth import decode_bytes
from benchmarks.gpt2_live import SETTINGS
from benchmarks.recording import check, recorded
from rlhf_lib.machinery.memory import parameter_count

BATCH, LENGTH, PROMPT_LENGTH = 16, 5, 6
PARTS, UPDATES = dict(minibatch=8, microbatch=4), 4  # of two passes over a batch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    prepare(folder, "mini", PROMPT_LENGTH, seed=0)
    return folder


def spec(folder, side: str, algorithm: str, epochs: int = 1, **parts) -> dict:
    return {
        "minibatch": BATCH,
        "microbatch": BATCH,
        **parts,
        "side": side,
        "algorithm": algorithm,
        "folder": str(folder),
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
        "seed": 0,
        "batch": BATCH,
        "length": LENGTH,
        "epochs": epochs,
        "group": GROUP,
        "prompt_length": PROMPT_LENGTH,
        "words": 256,
    }


def worker(
    folder, side: str, algorithm: str, python=sys.executable, epochs: int = 1, **parts
) -> Worker:
    return Worker(python, spec(folder, side, algorithm, epochs, **parts))


def steps(made: Worker, updates: int | None = None) -> list[dict]:
    """Two steps that sampled and updated as often as they should, else `Worker.step` raises."""
    try:
        assert made.answer()["threads"] == 1
        found = [made.step(BATCH * LENGTH, updates) for _ in range(2)]
        assert made.ask("peak")["peak_bytes"] > 1e8
        return found
    finally:
        made.close()


# ---------------------------------------------------------------------------------- the same work


def test_prompts_have_one_length_and_no_completion_can_end_early(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    prompts = json.loads((folder / "prompts.json").read_text())
    assert {len(row) for row in tokenizer(prompts)["input_ids"]} == {PROMPT_LENGTH}
    rows = json.loads((folder / "policy" / "config.json").read_text())["vocab_size"]
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id} - set(range(rows))) == 2


def test_the_reward_model_of_trl_gives_our_reward(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    ids = torch.randint(256, (4, PROMPT_LENGTH + LENGTH))
    model = ShareOfA(PROMPT_LENGTH, 256)
    scores = model.score(model.trunk(ids).hidden_states[-1])[:, -1, 0]
    assert scores.tolist() == pytest.approx(
        share_of_a(tokenizer.batch_decode(ids[:, PROMPT_LENGTH:]))
    )
    assert scores.unique().numel() > 1


@pytest.mark.parametrize("algorithm", ["ppo", "rollout"])
def test_our_steps(folder, algorithm, monkeypatch):
    monkeypatch.setattr(
        rlhf_lib.algorithms.loop, "sample", rlhf_lib.algorithms.loop.sample
    )  # which a worker wraps
    step, clock = ours(spec(folder, "ours", algorithm))
    step(*[3] * (algorithm == "rollout"))
    assert clock.made == BATCH * (3 if algorithm == "rollout" else LENGTH)


def test_our_worker_makes_steps(folder):
    for step in steps(worker(folder, "ours", "grpo", epochs=2, **PARTS), UPDATES):
        assert 0 < step["rollout_seconds"] < step["seconds"]


def has_trl() -> bool:
    try:
        return importlib.metadata.version("trl") == VERSIONS["grpo"]
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.mark.skipif(not has_trl(), reason=f"needs TRL {VERSIONS['grpo']}")
def test_the_worker_of_trl_makes_steps(folder):
    for step in steps(worker(folder, "trl", "grpo", epochs=2, **PARTS), UPDATES):
        assert 0 < step["rollout_seconds"] < step["seconds"]


def learnt_from(model, spec: dict, train) -> list[list[int]]:
    """How many rows went through the model at once, with gradients, before each update."""
    found: list[list[int]] = [[]]

    def watch(module, args, kwargs):
        if torch.is_grad_enabled():
            ids = kwargs.get("input_ids", args[0] if args else None)
            assert ids.shape[1] == spec["prompt_length"] + spec["length"]
            found[-1].append(len(ids))

    hooks = (
        model.register_forward_pre_hook(watch, with_kwargs=True),
        register_optimizer_step_post_hook(lambda *of_the_hook: found.append([])),
    )
    try:
        train()
    finally:
        for hook in hooks:
            hook.remove()
    assert found.pop() == []  # nothing is computed after the last update
    return found


@pytest.mark.parametrize("side", ["ours", "trl"])
def test_both_sides_cut_a_batch_alike(folder, side, monkeypatch):
    if side == "trl" and not has_trl():
        pytest.skip(f"needs TRL {VERSIONS['grpo']}")
    monkeypatch.setattr(rlhf_lib.algorithms.loop, "sample", rlhf_lib.algorithms.loop.sample)
    s = spec(folder, side, "grpo", epochs=2, **PARTS)
    work, clock = {"ours": ours, "trl": trl}[side](s)
    if side == "ours":
        model, train = work.__self__.policy, work
    else:
        work.args.max_steps = UPDATES  # one step of ours
        model, train = work.model, work.train
    assert learnt_from(model, s, train) == [[4, 4]] * UPDATES
    assert clock.made == BATCH * LENGTH  # sampled in one go


@pytest.mark.skipif(not has_trl(), reason=f"needs TRL {VERSIONS['rollout']}")
def test_the_rollout_of_trl_draws_from_the_policy_itself(folder):
    step, clock = trl(spec(folder, "trl", "rollout"))
    generate, given = clock.function, []
    clock.function = lambda **inputs: given.append(inputs) or generate(**inputs)
    for tokens in (3, 1):
        step(tokens)
        assert clock.made == BATCH * tokens
    config = given[-1]["generation_config"]
    assert (config.temperature, config.top_p, config.top_k, config.min_p) == (1.0, 1.0, 0, None)


def test_the_worker_of_the_last_ppo_of_trl_makes_steps(folder):
    if not environment_mark(VERSIONS["ppo"]).exists():
        pytest.skip(
            "python -m benchmarks.against_trl has not made the environment of TRL "
            f"{VERSIONS['ppo']} here"
        )
    for step in steps(worker(folder, "trl", "ppo", environment(VERSIONS["ppo"]))):
        assert 0 < step["rollout_seconds"] < step["seconds"]
        assert 0 < step["collecting_seconds"] < step["seconds"]


def test_a_worker_that_ends_says_why(tmp_path):
    made = worker(tmp_path / "nothing", "ours", "grpo")
    for ask in (made.answer, lambda: made.ask("peak")):  # at once, and when its pipe is broken
        with pytest.raises(RuntimeError, match="(?s)of ours, grpo ended with status 1.*nothing"):
            ask()
    made.close()


def test_a_step_that_sampled_less_is_refused():
    made = Worker.__new__(Worker)
    made.name, made.ask = "ours, grpo", lambda do: {"tokens": 79}
    with pytest.raises(RuntimeError, match="ours, grpo sampled 79 tokens in a step; expected 80"):
        made.step(80)


def test_a_step_with_other_updates_is_refused():
    made = Worker.__new__(Worker)
    made.name, made.ask = "trl, grpo", lambda do: {"tokens": 80, "updates": 2}
    assert made.step(80)["updates"] == made.step(80, 2)["updates"] == 2
    with pytest.raises(RuntimeError, match="trl, grpo made 2 updates in a step; expected 4"):
        made.step(80, 4)


@pytest.mark.parametrize(
    "algorithm, parts, told",
    [
        ("grpo", dict(minibatch=10), "minibatch 10 and batch 64; expected each to divide"),
        ("grpo", dict(minibatch=32, microbatch=10), "microbatch is 10, minibatch 32 and batch 64"),
        ("ppo", dict(minibatch=32), "microbatch is 32 in ppo; expected a whole batch"),
    ],
)
def test_a_batch_that_cannot_be_cut_so_is_refused(algorithm, parts, told):
    with pytest.raises(ValueError, match=told):
        compare("cpu", 1, algorithm, "mini", 64, 5, 1, "fp32", pairs=2, warmup=0, **parts)


@pytest.fixture
def watch(monkeypatch):
    """The watch that the worker looks at; it stands still unless a test moves it."""
    watch = SimpleNamespace(now=100.0, perf_counter=lambda: watch.now)
    monkeypatch.setattr(against_trl_worker, "time", watch)
    return watch


def test_the_clock_times_the_last_call_and_counts_its_tokens(watch):
    def sample(seconds):
        watch.now += seconds
        return [seconds] * 2

    clock = RolloutClock(sample, len, "cpu")
    for seconds in (3.0, 2.0):
        assert clock(seconds) == [seconds, seconds]
        watch.now += 50.0
        assert clock.made == 2 and clock.seconds == seconds


def test_the_time_of_garbage_collections_since_the_last_reset(watch):
    def collect(phase, info):
        watch.now += 3.0 if phase == "stop" else 0.0

    gc.callbacks.append(collect)  # called before the clock is
    clock = CollectionClock()
    gc.disable()  # none but those that the test asks for
    try:
        for seconds in (3.0, 6.0):
            gc.collect()
            watch.now += 50.0
            assert clock.seconds == seconds
        clock.reset()
        assert clock.seconds == 0.0
    finally:
        gc.enable()
        gc.callbacks.remove(clock)
        gc.callbacks.remove(collect)


# ---------------------------------------------------------------------------------- arithmetic


def test_the_plan_changes_one_thing_at_a_time():
    for device in CENTRE:
        for algorithm in ALGORITHMS:
            first, *others = plan(device, 2, algorithm)
            assert first == (device, 2, algorithm, *centre(device, algorithm))
            assert len({first, *others}) == len(others) + 1
            for point in others:
                assert sum(a != b for a, b in zip(point, first, strict=True)) == 1
                assert algorithm != "rollout" or point[-2:] == first[-2:]


def test_the_point_at_the_size_of_gpt2_is_the_setting_of_the_live_run():
    point, c = dict(zip((NAMES[0], *NAMES[2:]), GPT2, strict=True)), SETTINGS["grpo"]
    assert (point["batch"], point["length"]) == (c.batch_size, c.max_new_tokens)
    assert (point["epochs"], GPT2_PARTS["minibatch"]) == (c.num_iterations, c.mini_batch_size)
    assert (point["precision"] == "mixed") == c.bf16 and c.num_generations == GROUP
    width = PROMPT_LENGTHS["cpu"] + point["length"]
    fit = [n for n in range(1, 1 + c.mini_batch_size) if n * width <= c.microbatch_tokens]
    assert GPT2_PARTS["microbatch"] == max(n for n in fit if c.mini_batch_size % n == 0)
    assert parameter_count(GPT2Config(**SIZES[point["model"]])) == 124_439_808


def test_one_flag_makes_the_point_at_the_size_of_gpt2_alone(tmp_path, monkeypatch, capsys):
    made = []

    def compared(*point, **parts):
        made.append((point, parts))
        return line("cpu", "grpo", 1.0, GPT2[2:]) | GPT2_PARTS

    results = tmp_path / "results.jsonl"
    monkeypatch.setattr(against_trl, "compare", compared)
    monkeypatch.setattr(sys, "argv", ["", "--gpt2", "--threads", "2", "--results", str(results)])
    threads = torch.get_num_threads()
    try:
        for _ in range(2):  # the second time it is there
            against_trl.main()
    finally:
        torch.set_num_threads(threads)
    assert made == [(("cpu", 2, *GPT2[1:], 4, 1), GPT2_PARTS)]
    assert "1 comparisons, every floor cleared" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["", "--gpt2", "--device", "cuda"])
    with pytest.raises(SystemExit):
        against_trl.main()
    assert "--gpt2 is a point on a CPU" in capsys.readouterr().err


def test_bytes_of_a_decode_step_by_hand():
    config = GPT2Config(vocab_size=10, n_embd=4, n_layer=2, n_head=2, n_positions=32)
    layer = 12 * 4 * 4 + 13 * 4  # four matrices and their biases, two norms
    cache = 2 * 2 * 4 * 3 * 2  # keys and values, layers, width, rows, bytes
    assert decode_bytes(config, 3, 7, 2) == {
        "weights": 2 * (2 * layer + 10 * 4 + 2 * 4),
        "cache read": 7 * cache,
        "cache written": cache,
        "logits": 2 * 3 * 10 * 2,
    }


def test_quartiles_of_pairs_not_of_medians():
    a, b = [1.0, 2.0, 10.0], [2.0, 6.0, 10.0]  # medians 2 and 6, pairs 2, 3, 1
    found = ratios(
        {"seconds": a, "rollout_seconds": a, "peak_bytes": 4},
        {"seconds": b, "rollout_seconds": a, "peak_bytes": 6},
    )
    assert found == {"step": [1.5, 2.0, 2.5], "rollout": [1.0, 1.0, 1.0], "peak_memory": 1.5}
    with pytest.raises(ValueError):
        ratios(
            {"seconds": a, "rollout_seconds": a, "peak_bytes": 1},
            {"seconds": b[:2], "rollout_seconds": a, "peak_bytes": 1},
        )


def test_a_decode_step_is_what_comes_after_the_first_token():
    config = GPT2Config(vocab_size=10, n_embd=4, n_layer=2, n_head=2, n_positions=32)
    sides = {
        "ours": {"rollout_seconds": [5.0, 5.0], "first_token_seconds": [1.0, 1.0]},
        "trl": {"rollout_seconds": [9.0, 9.0], "first_token_seconds": [1.0, 1.0]},
    }
    moved = sum(decode_bytes(config, 3, 6 + 5 / 2, 4).values())  # contexts 7 to 10
    found = decode(sides, config, 3, 5, 6, 4, bandwidth=2 * moved)
    assert found["bound_seconds"] == 0.5 and found["context"] == 8.5
    assert (found["ours_over_bound"], found["trl_over_bound"]) == (2.0, 4.0)


# ---------------------------------------------------------------------------------- the record


def line(device: str, algorithm: str, times: float, point=None) -> dict:
    """A line in which TRL takes `times` as long as we do."""
    sides = {
        side: {"seconds": [x] * 3, "rollout_seconds": [x / 2] * 3, "peak_bytes": 5, "idle_bytes": 4}
        for side, x in (("ours", 1.0), ("trl", times))
    }
    return {
        **dict(zip(NAMES, (device, 2, algorithm, *(point or centre(device, algorithm))))),
        "trl": VERSIONS[algorithm],
        "sides": sides,
        "ratios": ratios(sides["ours"], sides["trl"]),
        "decode": {
            "ours_seconds": [0.1] * 3,
            "trl_seconds": [0.2] * 3,
            "bound_seconds": 0.05,
            "copy_bandwidth": 1e9,
            "ours_over_bound": 2.0,
            "trl_over_bound": 4.0,
        },
    }


@pytest.mark.parametrize("device, algorithm, what, precision", FLOORS)
def test_the_floors_at_the_centre(device, algorithm, what, precision):
    floor = FLOORS[device, algorithm, what, precision]
    point = (*centre(device, algorithm)[:-1], precision)
    assert_floors(line(device, algorithm, floor, point))
    with pytest.raises(AssertionError, match=f"{what}, TRL over ours"):
        assert_floors(line(device, algorithm, floor - 0.01, point))


def test_the_floor_everywhere_else_is_not_to_be_slower():
    point = ("tiny", 16, 32, 1, "fp32")
    assert_floors(line("cpu", "ppo", 1.0, point))
    with pytest.raises(AssertionError, match="TRL over ours 0.99"):
        assert_floors(line("cpu", "ppo", 0.99, point))


def test_the_floor_at_the_size_of_gpt2_is_not_to_be_slower():
    assert_floors(line("cpu", "grpo", 1.0, GPT2[2:]))
    with pytest.raises(AssertionError, match="model gpt2, .*TRL over ours 0.99"):
        assert_floors(line("cpu", "grpo", 0.99, GPT2[2:]))


def test_ratios_that_are_not_those_of_the_seconds_are_refused():
    found = line("cpu", "grpo", 1.5)
    found["ratios"]["step"][1] = 9.0
    with pytest.raises(AssertionError, match="not those of the seconds"):
        assert_floors(found)


def test_a_decode_step_on_a_gpu_has_a_bound():
    found = line("cuda", "rollout", 12.0)
    assert_floors(found)
    found["decode"]["ours_over_bound"] = 2.1
    with pytest.raises(AssertionError, match="2.1 times its bound"):
        assert_floors(found)


def test_what_is_printed():
    found = line("cpu", "rollout", 2.0)
    assert "step 2.00 (2.00 to 2.00)" in summary(found)
    assert "over the bound: ours 2.00, TRL 4.00" in summary(found)
    larger = copy.deepcopy(line("cpu", "rollout", 2.0, ("tiny", 128, 32, 1, "fp32")))
    for side in larger["sides"].values():
        side["seconds"] = [3 * x for x in side["seconds"]]
    assert growth([found, larger]).split()[2:7] == ["rollout", "batch", "128", "ours", "×"]
    assert growth([larger]) == ""
    several = [line("cpu", "grpo", 2.0), line("cpu", "grpo", 2.0, GPT2[2:])]
    assert growth(several) == ""  # it differs from the centre in more than its size


def test_quartiles():
    assert quartiles([4.0, 1.0, 3.0, 2.0, 5.0]) == [2.0, 3.0, 4.0]


@pytest.mark.skipif(not RESULTS.exists(), reason=f"no {RESULTS.name} is recorded here")
def test_what_is_recorded_clears_its_floors():
    check(RESULTS, assert_floors)
    found = recorded(RESULTS)
    points = [tuple(line[name] for name in NAMES) for line in found]
    assert len(set(points)) == len(points)
    for algorithm in ALGORITHMS:  # the floors of the centre were among them
        assert set(plan("cpu", FLOOR_THREADS, algorithm)) <= set(points)
