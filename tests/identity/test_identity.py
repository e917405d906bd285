"""The code that a chapter shows is the library's: the same name, parameters, values and gradients.

A cell tagged `same-as:rlhf_lib.module.function` defines a function of that name. It may leave out
parameters that have a default in the library; the others have the same names in the same order.
Both are called on the random inputs of inputs.py.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import math

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from book.build import ROOT, notebooks
from tests.identity.inputs import INPUTS

TAG = "same-as:"
DRAWS = 25
TOLERANCE = 1e-6  # absolute and relative; inputs are in float64


def shown(notebook) -> dict[str, object]:
    """Return the functions of a notebook's tagged cells, by the full name of their twin.

    Of a tagged cell only the definitions run, and of other cells only the imports, so a function
    cannot lean on the state of the notebook.
    """
    namespace: dict[str, object] = {"np": np, "torch": torch, "math": math, "F": F}
    functions: dict[str, object] = {}
    for place, cell in enumerate(notebook.cells, 1):
        tags = cell.metadata.get("tags", [])
        if cell.cell_type != "code" or "setup" in tags:
            continue
        names = [tag.removeprefix(TAG) for tag in tags if tag.startswith(TAG)]
        kinds = (ast.Import, ast.ImportFrom) + ((ast.FunctionDef,) if names else ())
        body = [node for node in ast.parse(cell.source).body if isinstance(node, kinds)]
        exec(compile(ast.Module(body, []), f"cell {place}", "exec"), namespace)
        for name in names:
            function = namespace.get(name.rpartition(".")[2])
            # defined by this very cell, and not imported from the library
            here = getattr(getattr(function, "__code__", None), "co_filename", None)
            assert here == f"cell {place}", f"cell {place} is tagged {name} and does not define it"
            functions[name] = function
    return functions


def twin(name: str):
    module, _, function = name.rpartition(".")
    return getattr(importlib.import_module(module), function)


def parameters_differ(candidate, library) -> str | None:
    """Return what is wrong with the cell's parameters, if anything is."""
    own = inspect.signature(candidate).parameters
    full = inspect.signature(library).parameters
    if [name for name in full if name in own] != list(own):
        return f"parameters {list(own)}; expected {list(full)}, in this order"
    for name, parameter in full.items():
        if name not in own and parameter.default is parameter.empty:
            return f"has no parameter {name}, which the library requires"
        if name in own and own[name].default != parameter.default:
            return f"default of {name} is {own[name].default}; the library's is {parameter.default}"
    return None


def leaves(output) -> list:
    """Return the arrays and numbers in an output, in order."""
    if isinstance(output, dict):
        return [leaf for key in sorted(output) for leaf in leaves(output[key])]
    if isinstance(output, (tuple, list)):
        return [leaf for part in output for leaf in leaves(part)]
    return [output]


def call(function, arguments: dict) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Return a function's outputs and the gradients of a random sum of them, as arrays."""
    own = {
        name: value.detach().clone().requires_grad_(value.requires_grad)
        if isinstance(value, torch.Tensor)
        else value
        for name, value in arguments.items()
    }
    outputs = leaves(function(**own))
    weights = torch.Generator().manual_seed(0)
    total = sum(
        (out * torch.randn(out.shape, generator=weights, dtype=out.dtype)).sum()
        for out in outputs
        if isinstance(out, torch.Tensor) and out.requires_grad
    )
    if isinstance(total, torch.Tensor):
        total.backward()
    values = [
        out.detach().numpy() if isinstance(out, torch.Tensor) else np.asarray(out)
        for out in outputs
    ]
    return values, {
        name: value.grad.numpy()
        for name, value in own.items()
        if isinstance(value, torch.Tensor) and value.grad is not None
    }


def difference(candidate, name: str) -> str | None:
    """Return how a cell's function differs from the library's, or None if it does not."""
    library = twin(name)
    if problem := parameters_differ(candidate, library):
        return problem
    if name not in INPUTS:
        return "no inputs: add an entry to tests/identity/inputs.py"
    taken = inspect.signature(candidate).parameters
    for draw in range(DRAWS):
        arguments = INPUTS[name](np.random.default_rng(draw))
        arguments = {key: value for key, value in arguments.items() if key in taken}
        values, gradients = call(candidate, arguments)
        expected_values, expected_gradients = call(library, arguments)
        if len(values) != len(expected_values) or gradients.keys() != expected_gradients.keys():
            return (
                f"draw {draw}: {len(values)} outputs with gradients for {sorted(gradients)}; "
                f"expected {len(expected_values)} with {sorted(expected_gradients)}"
            )
        pairs = [("value", *pair) for pair in zip(values, expected_values)]
        pairs += [
            (f"gradient in {key}", gradients[key], expected_gradients[key]) for key in gradients
        ]
        for what, got, expected in pairs:
            if got.shape != expected.shape:
                return f"draw {draw}: {what} of shape {got.shape}; expected {expected.shape}"
            if not np.allclose(got, expected, rtol=TOLERANCE, atol=TOLERANCE):
                off = np.nanmax(np.abs(np.where(got == expected, 0, got - expected)))
                return f"draw {draw}: {what} differs by up to {off:.3g}"
    return None


CHAPTERS = {path: nbformat.read(path, as_version=4) for path in notebooks()}
TAGGED = [
    pytest.param(path, tag.removeprefix(TAG), id=f"{path.stem}-{tag.removeprefix(TAG)}")
    for path, notebook in CHAPTERS.items()
    for cell in notebook.cells
    for tag in cell.metadata.get("tags", [])
    if tag.startswith(TAG)
]


@pytest.mark.parametrize("path, name", TAGGED)
def test_cell_is_the_librarys_function(path, name):
    problem = difference(shown(CHAPTERS[path])[name], name)
    assert problem is None, f"{path.relative_to(ROOT)}: {name.rpartition('.')[2]}: {problem}"


# --- that this test can fail ----------------------------------------------------------------------

TILT = """
def tilt(reference, rewards, beta):
    scores = np.log(reference) + rewards / beta
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()
"""
WHITEN = """
def masked_whiten(values, mask, eps=1e-8):
    mean = (values * mask).sum() / mask.sum()
    variance = ((values - mean) ** 2 * mask).sum() / mask.sum()
    return (values - mean) * torch.rsqrt(variance + eps) * mask
"""


def verdict(source: str, name: str) -> str | None:
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": [TAG + name]})
    with np.errstate(divide="ignore"):
        return difference(shown(nbformat.v4.new_notebook(cells=[cell]))[name], name)


@pytest.mark.parametrize(
    "source, name, old, new, message",
    [
        (TILT, "rlhf_lib.mathematics.tilt.tilt", "", "", None),
        (TILT, "rlhf_lib.mathematics.tilt.tilt", "+ rewards", "- rewards", "value differs"),
        (TILT, "rlhf_lib.mathematics.tilt.tilt", "rewards, beta", "reward, beta", "parameters"),
        (
            TILT,
            "rlhf_lib.mathematics.tilt.tilt",
            "/ weights.sum()",
            "/ weights.sum(keepdims=True)[None]",
            "shape",
        ),
        (WHITEN, "rlhf_lib.mathematics.advantages.masked_whiten", "", "", None),
        (
            WHITEN,
            "rlhf_lib.mathematics.advantages.masked_whiten",
            "mask.sum()",
            "mask.numel()",
            "value differs",
        ),
        (WHITEN, "rlhf_lib.mathematics.advantages.masked_whiten", "1e-8", "1e-3", "default of eps"),
        (
            WHITEN,
            "rlhf_lib.mathematics.advantages.masked_whiten",
            "rsqrt(variance",
            "rsqrt(variance.detach()",
            "gradient in values differs",
        ),
        (
            TILT,
            "rlhf_lib.mathematics.tilt.frontier",
            "def tilt(reference, rewards, beta",
            "def frontier(reference, rewards, betas",
            "no inputs",
        ),
    ],
)
def test_a_broken_cell_is_seen(source, name, old, new, message):
    found = verdict(source.replace(old, new) if old else source, name)
    assert found is None if message is None else message in found, found


def test_a_tag_without_its_function_is_seen():
    with pytest.raises(AssertionError, match="does not define it"):
        verdict("from rlhf_lib.mathematics.tilt import tilt", "rlhf_lib.mathematics.tilt.tilt")
