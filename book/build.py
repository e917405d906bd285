"""Everything that is done to the book: build, execute chapters, refresh demos, set the address.

    python book/build.py build [--repository URL] [--output DIR]
    python book/build.py execute NOTEBOOK [NOTEBOOK ...]
    python book/build.py refresh
    python book/build.py address [URL]

`make` calls these; the tests import the few functions that they share with it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIG, TOC = ROOT / "_config.yml", ROOT / "_toc.yml"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
FOLDS = {"hide-input", "hide-cell"}  # tags of cells whose code the book folds
ADDRESS = re.compile(r'^(REPOSITORY = ")[^"]*(")', re.MULTILINE)  # in a setup cell
CONFIG_ADDRESS = re.compile(r'^(repository:\n  url: *")[^"]*(")', re.MULTILINE)


def pages() -> list[Path]:
    """Return the files that the table of contents names, in its order."""
    import yaml

    found: list[Path] = []

    def walk(node: object) -> None:
        if isinstance(node, list):
            for item in node:
                walk(item)
        elif isinstance(node, dict):
            for key in ("root", "file"):
                if key in node:
                    found.extend(
                        path
                        for suffix in (".ipynb", ".md")
                        if (path := (ROOT / node[key]).with_suffix(suffix)).exists()
                    )
            for key in ("parts", "chapters", "sections"):
                walk(node.get(key))

    walk(yaml.safe_load(TOC.read_text(encoding="utf-8")))
    return found


def notebooks() -> list[Path]:
    """Return the notebooks among the pages of the book."""
    return [page for page in pages() if page.suffix == ".ipynb"]


# How glibc deals with freed tensors. By itself it keeps them, and gigabytes become unused holes.
SMALL = {  # all of a megabyte go back at once; Binder, with 1 GB, does the same (binder/start)
    "MALLOC_MMAP_THRESHOLD_": "1048576",
    "MALLOC_TRIM_THRESHOLD_": "33554432",
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": "",
}
LARGE = {  # for models of GPT-2's size: the large ones go back, and come in pages of 2 MB
    "MALLOC_MMAP_THRESHOLD_": "4194304",
    "MALLOC_TRIM_THRESHOLD_": "134217728",
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


def allocator_of(notebook) -> dict[str, str]:
    """Return how a chapter's kernel deals with freed tensors: by whether it has a budget."""
    return LARGE if "budget" in notebook.metadata else SMALL


def kernel_environment(allocator: dict[str, str] = SMALL) -> dict[str, str]:
    """Return the environment in which a chapter runs: this library, and nothing from a network."""
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
    offline = {
        name: "1" for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
    }
    kept = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"}
    return {**kept, **offline, **allocator, "PYTHONPATH": path}


# --- build ---------------------------------------------------------------------------------------


def checked_address(url: str) -> str:
    """Return a repository's address in the one form that is stored, or stop with what is wrong."""
    url = url.strip().rstrip("/").removesuffix(".git")
    if url and not re.fullmatch(r"https://[\w.-]+(/[\w.~-]+){2,}", url):
        sys.exit(f"REPOSITORY is {url!r}; expected an address such as https://HOST/OWNER/NAME")
    return url


def with_buttons(config: dict, repository: str) -> dict:
    """Return the configuration of a book that has a public address: source and launch buttons.

    The theme has buttons for GitHub and GitLab; Colab opens notebooks from GitHub only.
    """
    buttons = {"notebook_interface": "jupyterlab", "binderhub_url": "https://mybinder.org"}
    if repository.startswith("https://github.com/"):
        buttons["colab_url"] = "https://colab.research.google.com"
    elif not repository.startswith("https://gitlab.com/"):
        print("no launch buttons: the address is on neither GitHub nor GitLab")
        return config
    return {
        **config,
        "repository": {**config["repository"], "url": repository},
        "launch_buttons": buttons,
        "html": {**config["html"], "use_repository_button": True},
    }


def build(repository: str | None = None, output: Path = ROOT / "book") -> Path:
    """Build the HTML from the stored outputs, from nothing, with warnings as errors.

    Parameters
    ----------
    repository : the book's public address; None takes the one in `_config.yml`
    output : the folder that gets `_build`

    Returns
    -------
    The first page of the book.
    """
    import yaml

    from book.without_scripts import put_in

    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    address = checked_address(config["repository"]["url"] if repository is None else repository)
    # A page that was fine last time would not warn again, so every build is a full one.
    shutil.rmtree(output / "_build", ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        file = CONFIG
        if address:
            file = Path(folder, "_config.yml")
            file.write_text(yaml.safe_dump(with_buttons(config, address)), encoding="utf-8")
        subprocess.run(
            [
                sys.executable,
                "-c",
                "from jupyter_book.cli.main import main; main()",
                "build",
                str(ROOT),
                "-W",
                "--keep-going",
                "--quiet",
                "--config",
                str(file),
                "--path-output",
                str(output),
            ],
            check=True,
            cwd=ROOT,
            env=kernel_environment(),
        )
    first = output / "_build" / "html" / "index.html"
    if not first.exists():
        sys.exit(f"the build reported no error, but {first} is missing")
    write_weights(first.parent / "_static" / "weights")
    put_in(first.parent, ROOT, notebooks())
    return first


def write_weights(folder: Path) -> None:
    """Write the weights of the models that pages train; a page loads them when it is asked to."""
    from rlhf_lib.seeing import engine

    folder.mkdir(parents=True)
    for name in engine.MODELS:
        (folder / f"{name}.js").write_text(engine.weights_script(name), encoding="utf-8")


# --- execute -------------------------------------------------------------------------------------


def execute(path: Path) -> None:
    """Run a notebook from top to bottom and store its outputs, the same way each time.

    Nothing is written if a cell fails, or if this is interrupted.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
    } | {name: kept for name, kept in notebook.metadata.items() if name == "budget"}
    started = time.monotonic()
    client = NotebookClient(
        notebook,
        timeout=max(600, 2.5 * notebook.metadata.get("budget", {}).get("seconds", 0)),
        record_timing=False,
        store_widget_state=True,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    with tempfile.TemporaryDirectory() as profile:  # nobody's own IPython settings
        env = kernel_environment(allocator_of(notebook))
        client.execute(env={**env, "IPYTHONDIR": profile})
    notebook.metadata.language_info.pop("version", None)  # differs from machine to machine
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    save(notebook, path)
    print(f"{path.relative_to(ROOT)}: executed in {time.monotonic() - started:.0f} s")


def save(notebook: object, path: Path) -> None:
    """Write a notebook, widgets named after their place in it, folds folded everywhere."""
    import nbformat

    for cell in notebook.cells:
        fold(cell)
    write(stable_widget_ids(nbformat.writes(notebook), str(path.relative_to(ROOT))), path)


def fold(cell: object) -> None:
    """Fold a cell in JupyterLab and on Colab as well, if the book folds it, and open it if not."""
    if cell.cell_type != "code":
        return
    shown = cell.metadata.get("jupyter", {})
    if FOLDS & set(cell.metadata.get("tags", [])):
        cell.metadata["jupyter"] = {**shown, "source_hidden": True}
        cell.metadata["cellView"] = "form"  # so Colab calls it
    else:
        shown.pop("source_hidden", None)
        cell.metadata.pop("cellView", None)


def write(text: str, path: Path) -> None:
    """Write a notebook's JSON in one go."""
    draft = path.with_suffix(".ipynb.draft")
    draft.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    os.replace(draft, path)


def stable_widget_ids(text: str, name: str) -> str:
    """Replace the random ids of the widget models in a notebook's JSON.

    A model's new id follows from the notebook's name and from where the model is first met, going
    through the cells and into the models that a model refers to, so that a second execution gives
    the same file. Models that nothing shown refers to are left out.
    """
    notebook = json.loads(text)
    holder = notebook["metadata"].get("widgets", {}).get(WIDGET_STATE)
    if not holder:
        return text
    state = holder["state"]
    some_id = re.compile("|".join(map(re.escape, state)) or "(?!)")
    order: dict[str, str] = {}

    def visit(place: object) -> None:
        for old in some_id.findall(json.dumps(place, sort_keys=True)):
            if old not in order:
                order[old] = hashlib.md5(f"{name}#{len(order)}".encode()).hexdigest()
                visit(state[old])

    visit(notebook["cells"])
    holder["state"] = {old: state[old] for old in order}
    return stored_form(json.loads(some_id.sub(lambda match: order[match[0]], json.dumps(notebook))))


def stored_form(notebook: dict) -> str:
    """Return a notebook's JSON as it is stored."""
    return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False)


# --- refresh -------------------------------------------------------------------------------------


def stored_demos(notebook: dict) -> list[dict]:
    """Return the states of the demos that are stored in a notebook."""
    stored = notebook["metadata"].get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    return [r["state"] for r in stored.values() if r["model_module"] == "anywidget"]


def demo_class(demo: dict) -> tuple[str, str]:
    """Return the module and the name of the class of a stored demo."""
    module, _, name = demo["_anywidget_id"].rpartition(".")
    return module, name


def is_of_the_library(demo: dict) -> bool:
    """Return whether the class of a stored demo is defined in the library."""
    return demo_class(demo)[0].partition(".")[0] == "rlhf_lib"


def changed_code(demo: dict) -> dict[str, str]:
    """Return, by trait, the library's browser code where a stored demo of it has other code.

    A class that the library does not have is an ImportError or an AttributeError.
    """
    module, name = demo_class(demo)
    now = getattr(importlib.import_module(module), name)
    code = {trait: str(getattr(now, trait, "")) for trait in ("_esm", "_css")}
    return {trait: text for trait, text in code.items() if demo.get(trait, "") != text}


def refresh(path: Path) -> tuple[int, int]:
    """Put the browser code that the library has now into the demos stored in a notebook.

    Nothing is run: the state of a demo, and everything else in the notebook, stays. So does a demo
    whose class is not the library's.

    Returns
    -------
    How many demos had other code, of how many that are the library's.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    demos = [demo for demo in stored_demos(notebook) if is_of_the_library(demo)]
    changed = 0
    for demo in demos:
        try:
            code = changed_code(demo)
        except (ImportError, AttributeError) as error:
            sys.exit(f"{path}: {demo['_anywidget_id']}: {error}; execute the notebook again")
        demo.update(code)
        changed += bool(code)
    if changed:
        write(stored_form(notebook), path)
    return changed, len(demos)


# --- address -------------------------------------------------------------------------------------


def set_address(url: str) -> None:
    """Write the book's public address (or none) into the setup cells and into `_config.yml`."""
    import nbformat

    url = checked_address(url)
    CONFIG.write_text(
        CONFIG_ADDRESS.sub(rf"\g<1>{url}\g<2>", CONFIG.read_text(encoding="utf-8")),
        encoding="utf-8",
    )
    for path in notebooks():
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if "setup" in cell.metadata.get("tags", []):
                cell.source = ADDRESS.sub(rf"\g<1>{url}\g<2>", cell.source)
        save(notebook, path)
    print(f"the book's address is now {url}" if url else "the book has no address now")


# --- command line --------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("build", help="build the HTML")
    verb.add_argument("--repository", help="the book's public address, for launch buttons")
    verb.add_argument("--output", type=Path, default=ROOT / "book", help="folder for _build")
    verb = verbs.add_parser("execute", help="run notebooks and store their outputs")
    verb.add_argument("notebook", type=Path, nargs="+")
    verbs.add_parser("refresh", help="put the library's browser code into the stored demos")
    verb = verbs.add_parser("address", help="set the book's public address, or none")
    verb.add_argument("url", nargs="?", default="")
    sys.path.insert(0, str(ROOT))  # this library, not an installed one
    args = parser.parse_args()

    if args.verb == "build":
        try:
            page = build(args.repository, args.output.resolve())
        except subprocess.CalledProcessError as error:
            sys.exit(error.returncode)
        print(f"\nThe book is built. Open this file in a browser:\n{page.as_uri()}")
    elif args.verb == "execute":
        for path in args.notebook:
            if path.suffix != ".ipynb" or not path.is_file():
                sys.exit(f"CHAPTER is {str(path)!r}; expected an existing .ipynb file")
            execute(path.resolve())
    elif args.verb == "refresh":
        for path in notebooks():
            changed, demos = refresh(path)
            if demos:
                print(f"{path.relative_to(ROOT)}: {changed} of {demos} demos refreshed")
    else:
        set_address(args.url)


if __name__ == "__main__":
    main()
