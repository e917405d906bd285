"""Plant one mistake at a time and see that the tests mapped to it fail: `make mutants`.

    python -m tests.mutation.run [WORD ...]      only the mutants whose name has one of the words

Each mutant of mutants.py is written into a copy of the library, and its tests run there with
`pytest -x`. The tests must pass on the copy without a mistake first, and must notice the mutant:
it is killed by a failing test, or it hangs, which is noticed too. One that cannot be imported any
more proves nothing and counts as an error.

The imports that every test shares are paid once: a process per mutant is forked from this one,
which has loaded them and nothing of the library. Two run at a time.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from multiprocessing.connection import wait
from pathlib import Path

from tests.mutation.mutants import MUTANTS
from tests.mutation.mutate import apply

ROOT = Path(__file__).resolve().parents[2]
WORKERS = 2
TIME_LIMIT = 120  # seconds for a mutant; one that takes longer hangs
NOTICED = ("killed", "HANGS")


def copy_tree(target: Path) -> Path:
    """What the tests need, without the artifacts and without compiled files: a mutant can have
    the size and the second of the file before it, and Python would not compile it again."""
    skip = shutil.ignore_patterns("__pycache__", "_build", "*.ipynb")
    for name in ("rlhf_lib", "tests"):
        shutil.copytree(ROOT / name, target / name, ignore=skip)
    (target / "book").mkdir()
    shutil.copy(ROOT / "book/build.py", target / "book")
    shutil.copy(ROOT / "pyproject.toml", target)
    return target


def warm_up() -> None:
    """Import what is slow and not ours. No tensor is computed here: forks and threads mix badly."""
    for name in (
        "datasets",
        "pytest",
        "torchrl.objectives.value.functional",
        "transformers.models.gpt2.modeling_gpt2",
        "trl.trainer.grpo_trainer",
    ):
        importlib.import_module(name)


def run_tests(tree: Path, tests: list[str], output: Path) -> None:
    """In a child: pytest on a tree, its output in a file, its verdict as the exit code."""
    log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1), os.dup2(log, 2)
    os.chdir(tree)
    sys.dont_write_bytecode = True
    sys.path[:] = [str(tree)] + [p for p in sys.path if Path(p or ".").resolve() != ROOT]
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]  # this package was found in ROOT
    import pytest

    import rlhf_lib
    from tests.mutation import mutants

    for module in (rlhf_lib, mutants):
        assert Path(module.__file__).is_relative_to(tree), module.__file__
    code = pytest.main(
        [
            "-x",
            "-q",
            "--no-header",
            "-p",
            "no:cacheprovider",
            "-W",
            "ignore::pytest.PytestAssertRewriteWarning",
            "-o",
            "addopts=--import-mode=importlib --strict-markers",
            *tests,
        ]
    )
    sys.stdout.flush()
    os._exit(int(code))


def mutate(tree: Path, mutant) -> str:
    """Write the mutant into the tree; returns the file's text before."""
    path = tree / "rlhf_lib" / mutant.file
    text = path.read_text(encoding="utf-8")
    changed = apply(text, mutant.function, mutant.old, mutant.new)
    compile(changed, str(path), "exec")  # a mistake in meaning, not in spelling
    path.write_text(changed, encoding="utf-8")
    return text


def verdict(code: int | None, output: Path) -> tuple[str, str]:
    """What pytest's exit code says, None if it had to be stopped; and the test that said it."""
    text = output.read_text(errors="replace")
    failed = re.search(r"^FAILED (\S+)", text, re.MULTILINE)
    if code is None:
        return "HANGS", f"no end within {TIME_LIMIT} s"
    if code == 1 and failed:
        return "killed", failed[1]
    return ("SURVIVED", "") if code == 0 else ("ERROR", f"exit code {code}\n{text[-3000:]}")


def tally(results: Iterable[str]) -> str:
    """How many there are of each verdict.

    >>> tally(["killed", "HANGS", "killed", "SURVIVED"])
    '2 killed, 1 hang, 1 survived, of 4'
    """
    said = {"killed": "killed", "HANGS": "hang", "SURVIVED": "survived", "ERROR": "in error"}
    count = Counter(results)
    kinds = [f"{count[kind]} {said[kind]}" for kind in said if count[kind]]
    return ", ".join([*kinds, f"of {count.total()}"])


def main(words: list[str]) -> int:
    os.environ.update(
        OMP_NUM_THREADS="1",
        MKL_NUM_THREADS="1",
        TOKENIZERS_PARALLELISM="false",
        HF_HUB_OFFLINE="1",
        TRANSFORMERS_OFFLINE="1",
        HF_DATASETS_OFFLINE="1",
        PYTHONDONTWRITEBYTECODE="1",
    )
    mutants = [m for m in MUTANTS if not words or any(word in m.name for word in words)]
    warm_up()
    fork, start = multiprocessing.get_context("fork"), time.perf_counter()
    results: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        trees = [copy_tree(Path(folder).resolve() / str(i)) for i in range(WORKERS)]
        output = Path(folder) / "sound"
        tests = sorted({test for mutant in mutants for test in mutant.tests})
        process = fork.Process(target=run_tests, args=(trees[0], tests, output))
        process.start(), process.join()
        if process.exitcode != 0:
            print(output.read_text(errors="replace"))
            print("the tests fail without any mutant; nothing can be told")
            return 1
        print(f"the mapped tests pass without a mutant ({time.perf_counter() - start:.0f} s)")

        waiting, running = list(mutants), {}
        while waiting or running:
            while waiting and trees:
                mutant, tree = waiting.pop(0), trees.pop()
                try:
                    text = mutate(tree, mutant)
                except (ValueError, SyntaxError) as error:
                    results[mutant.name] = "ERROR"
                    print(f"ERROR     {mutant.name}: {error}")
                    trees.append(tree)
                    continue
                output = Path(folder) / f"output-{tree.name}"
                process = fork.Process(target=run_tests, args=(tree, mutant.tests, output))
                process.start()
                running[process.sentinel] = process, mutant, tree, text, output, time.time()
            wait(list(running), timeout=1.0)
            for sentinel, (process, mutant, tree, text, output, began) in list(running.items()):
                hangs = time.time() - began > TIME_LIMIT
                if process.is_alive() and not hangs:
                    continue
                if hangs:
                    process.kill()
                process.join()
                result, by = verdict(None if hangs else process.exitcode, output)
                results[mutant.name] = result
                print(f"{result:9} {time.time() - began:4.1f} s  {mutant.name}   {by}", flush=True)
                (tree / "rlhf_lib" / mutant.file).write_text(text, encoding="utf-8")
                trees.append(tree)
                del running[sentinel]

    print(f"{tally(results.values())} mutants, in {time.perf_counter() - start:.0f} s")
    for mutant in mutants:
        if results[mutant.name] != "killed":
            print(f"{results[mutant.name]}: {mutant.name} ({mutant.file}): {mutant.why}")
    return 0 if all(result in NOTICED for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
