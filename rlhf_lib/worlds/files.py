"""Tables as people have them: a name on the hub, a folder laid out like one, or one file.

`datasets` reads them. Around it stands what it leaves to its caller: a name with brackets in it is
a name and no pattern, a text cell of a CSV file stays the text it is (`007`, `null`), JSON is read
once more where a column of text was taken for something else, and what cannot be read is told by
its line. Chapter: reward-model.
"""

from __future__ import annotations

import codecs
import csv
import glob
import gzip
import io
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..families.hub import hub_absence, without_hub

KINDS = {
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".parquet": "parquet",
    ".tsv": "tsv",
    ".ndjson": "json",
}
SEPARATORS = {"csv": ",", "tsv": "\t"}
TEXTS = ("prompt", "completion", "chosen", "rejected", "messages", "conversations", "text")
# the cells that pandas takes for missing ones: so they are in every column but those of TEXTS
MISSING = ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND"]
MISSING += ["1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"]

UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
EMPTY = ("StopIteration", "SchemaInferenceError", "EmptyDataError")  # as readers tell it
SPACE = re.compile(r"\s*")

log = logging.getLogger(__name__)


class Unreadable(ValueError):
    """What is wrong with a file, and where."""


class NoRows(ValueError):
    """There is nothing in a file."""


@dataclass
class Found:
    """A table as `datasets` reads it, and its JSON as it was written, if that lies here."""

    table: object
    rows: Callable[[], list[dict]] | None = None

    def columns(self, names: Sequence[str]) -> dict[str, list]:
        """Columns as Python's values.

        Those of TEXTS come from the JSON itself where `datasets` found more in them than text: it
        takes `"2024-05-06"` for a time, and `"12"` for a number if other rows hold messages. A
        `ClassLabel` is read by its name: which number a name has is for its author to choose.
        """
        from datasets import ClassLabel

        values = self.table.select_columns(list(names))[:]
        for name in names:
            kind = self.table.features[name]
            if isinstance(kind, ClassLabel) and kind.names:  # None, or -1, where there is none
                values[name] = [
                    None if i is None or i < 0 else kind.int2str(i) for i in values[name]
                ]
        schema = self.table.features.arrow_schema
        odd = [name for name in names if name in TEXTS and not _only_text(schema.field(name).type)]
        rows = self.rows() if odd and self.rows else []
        if len(rows) == len(self.table):
            values |= {name: [row.get(name) for row in rows] for name in odd}
        return {name: values[name] for name in names}


def load_table(source: str | os.PathLike, split: str = "train", data_dir: str | None = None):
    """The rows of `source` as they are, with an error that says what is wrong with it.

    Chapter: reward-model.

    Parameters
    ----------
    source : str or path
        A name on the hub such as `"Anthropic/hh-rlhf"`, a folder laid out like one, or a file
        (json, jsonl, ndjson, csv or tsv, each also as .gz; parquet). JSON is an object on each
        line, a list of them, or one object that holds the list.
    split : str
        As in `datasets.load_dataset`, such as `"test"` or `"train[:1000]"`. A single file is
        whichever split is asked for.
    data_dir : str, optional
        A folder inside `source`, such as `"harmless-base"`.

    Raises
    ------
    FileNotFoundError, ConnectionError, ValueError
        If there is no such source, the hub cannot be reached, or the data cannot be read.
    """
    return find(source, split, data_dir).table


def find(source: str | os.PathLike, split: str = "train", data_dir: str | None = None) -> Found:
    """The same, as a table whose text can be had as it was written. Chapter: your-own."""
    import datasets

    here = f"source is {str(source)!r}"
    path = _place(source, here)
    if data_dir and path is not None and path.is_file():
        raise ValueError(
            f"{here}, a file, and data_dir is {data_dir!r}; expected the folder that holds this "
            "one as the source, or no data_dir"
        )
    quiet = path is not None and not datasets.are_progress_bars_disabled()
    if quiet:  # local files load in a blink; a bar would stay in the notebook
        datasets.disable_progress_bars()
    absence = hub_absence() if path is None else None
    try:
        with without_hub() if path is not None or absence else nullcontext():
            if path is None:
                return Found(_again({"path": str(source), "data_dir": data_dir}, split))
            return _local(path, split, data_dir)
    except ConnectionError as error:
        raise ConnectionError(
            f"{here}: there is no such file or folder here, and the hub could not be reached "
            f"({absence or error}). Without a network, give the path of a local copy: a folder "
            "laid out like the one on the hub, or one of its files"
        ) from error
    except Exception as error:  # datasets, pyarrow and gzip raise many kinds; all mean this
        while error.__cause__ is not None:  # older versions of datasets wrap what went wrong
            if isinstance(error, Unreadable | NoRows):
                break
            error = error.__cause__
        if isinstance(error, NoRows) or type(error).__name__ in EMPTY:
            raise ValueError(f"{here}, which has no rows; expected at least 1") from None
        kind = "" if isinstance(error, Unreadable) else f"{type(error).__name__}: "
        raise ValueError(
            f"{here}; expected readable data with a split {split!r}, and reading it "
            f"failed: {kind}{error}"
        ) from error
    finally:
        if quiet:
            datasets.enable_progress_bars()


# ---------------------------------------------------------------------------------- where it is


def _place(source: str | os.PathLike, here: str) -> Path | None:
    """The path of a file or folder, or None where `source` names one on the hub."""
    name = os.fspath(source)
    if name and not os.path.lexists(name):
        name = os.path.expanduser(name)
    path = Path(name)
    if name and os.path.exists(name):
        if path.is_file() and _kind(path) is None:
            raise ValueError(
                f"{here}; expected a file that ends in {', '.join(KINDS)}, or one of these but "
                ".parquet with .gz behind it"
            )
        return path
    if os.path.islink(name):
        raise FileNotFoundError(
            f"{here}, a link to {os.readlink(path)!r}, and nothing is there; expected a file, a "
            "folder or a name on the hub"
        )
    # NAME or OWNER/NAME; datasets would take "json" for one of its readers, and read what is here
    if (
        re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name)
        and _kind(path) is None
        and name not in {*KINDS.values(), "text", "arrow"}
    ):
        return None
    raise FileNotFoundError(
        f"{here}; expected a file, a folder or a name on the hub, and found none there"
    )


def _kind(path: Path) -> str | None:
    name = path.name.lower()
    kind = KINDS.get(Path(name.removesuffix(".gz")).suffix)
    return None if kind == "parquet" and name.endswith(".gz") else kind


def _listed(folder: Path) -> tuple[str, dict[str, list[Path]]] | None:
    """What kind of files a folder holds, by split, as `datasets` would share them out.

    None where that is for `datasets` alone to say: a card describes them, or they are none of ours.
    """
    from datasets.data_files import DataFilesDict, get_data_patterns

    card = folder / "README.md"
    if card.is_file() and card.read_bytes().startswith(b"---"):
        return None
    base = glob.escape(folder.resolve().as_posix())
    try:
        found = DataFilesDict.from_patterns(get_data_patterns(base), base)
    except FileNotFoundError:
        return None
    files = {split: [Path(path) for path in paths] for split, paths in found.items()}
    kinds = Counter(kind for paths in files.values() for path in paths if (kind := _kind(path)))
    if not kinds:
        return None
    ((kind, count),) = kinds.most_common(1)
    if len(kinds) > 1:
        log.warning(
            "%s: read the %d files of the kind %s, and left out %s",
            folder,
            count,
            kind,
            ", ".join(f"{n} of the kind {other}" for other, n in kinds.items() if other != kind),
        )
    kept = {split: [p for p in paths if _kind(p) == kind] for split, paths in files.items()}
    return kind, {split: paths for split, paths in kept.items() if paths}


# ---------------------------------------------------------------------------------- reading


def _local(path: Path, split: str, data_dir: str | None) -> Found:
    import datasets

    if "::" in str(path) and _kind(path) != "json":
        raise Unreadable("datasets takes '::' in a path for a link in a chain; rename it")
    if path.is_file():
        listed = _kind(path), {split.partition("[")[0]: [path]}
    else:
        if data_dir and Path(data_dir).is_absolute():
            raise Unreadable(f"data_dir is {data_dir!r}; expected a folder inside the source")
        folder = path / (data_dir or "")
        if any((folder / name).exists() for name in ("state.json", "dataset_dict.json")):
            saved = datasets.load_from_disk(str(folder))
            if not isinstance(saved, dict):
                saved = {split.partition("[")[0]: saved}
            return Found(_joined(saved, split))
        listed = _listed(folder)
    if listed is None:
        return Found(_again({"path": str(path.resolve()), "data_dir": data_dir}, split))
    kind, files = listed
    for file in (file for paths in files.values() for file in paths if kind != "parquet"):
        _check_text(file)
    names = {name: [glob.escape(str(path)) for path in paths] for name, paths in files.items()}
    if kind == "json":
        return _json_table(names, files, split)
    cells, wider = {}, None
    if kind in SEPARATORS:
        every = [file for paths in files.values() for file in paths]
        header = [name for file in every for name in _header(file, kind)]
        wider = partial(_wider, every, SEPARATORS[kind])
        kind, cells = "csv", {"sep": SEPARATORS[kind], **_cells(header)}
    table = datasets.load_dataset(kind, data_files=names, split=split, **cells)
    return Found(_checked(table, wider))


def _again(arguments: dict, split: str):
    """What `datasets` finds by itself; CSV is read a second time, when its columns are known."""
    import datasets

    table = datasets.load_dataset(**arguments, split=split)
    if table.info.builder_name != "csv":
        return table
    cells = _cells(_checked(table).column_names)
    return datasets.load_dataset(**arguments, split=split, **cells)


def _parts(sizes: dict[str, int], split: str) -> list[tuple[str, slice]]:
    """The rows that `split`, such as "train[:10]+test", takes of each split."""
    from datasets import ReadInstruction

    spans = ReadInstruction.from_spec(split).to_absolute(sizes)
    return [(span.splitname, slice(span.from_, span.to)) for span in spans]


def _joined(tables: dict, split: str):
    from datasets import concatenate_datasets

    parts = _parts({name: len(table) for name, table in tables.items()}, split)
    return concatenate_datasets(
        [tables[name].select(range(rows.start, rows.stop)) for name, rows in parts]
    )


def _check_text(path: Path) -> None:
    """Refuse what is not UTF-8, which readers name without a line, and nulls in place of objects.

    At a null before the first object pyarrow ends the whole program, up to version 26 at least.
    """
    begins = ""
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if number == 1 and (line.startswith(UTF_16) or 0 in line[:2]):  # a Latin letter is two
                raise Unreadable(f"{path.name} is UTF-16; expected UTF-8, so save it in that")
            if 0 in line:  # where pandas would end the cell
                raise Unreadable(
                    f"line {number} of {path.name} has a NUL byte in it; expected text, which has "
                    "none"
                )
            try:
                bare = line.decode().strip("\ufeff \t\r\n")
            except UnicodeDecodeError as error:
                raise Unreadable(
                    f"line {number} of {path.name} is not UTF-8 (byte {line[error.start]:#x}); "
                    "expected UTF-8, so save it in that (in Excel: CSV UTF-8)"
                ) from None
            begins = begins or bare[:1]
            if bare == "null" and _kind(path) == "json":
                raise Unreadable(f"line {number} of {path.name} is null; expected an object")
    if begins == "[" and _kind(path) == "json":
        _json_rows(path)


def _opened(path: Path) -> io.BufferedIOBase:
    with open(path, "rb") as file:
        packed = path.name.lower().endswith(".gz") or file.read(2) == b"\x1f\x8b"
    return (gzip.open if packed else open)(path, "rb")


# ---------------------------------------------------------------------------------- CSV


def _header(path: Path, kind: str) -> list[str]:
    with io.TextIOWrapper(_opened(path), encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file, delimiter=SEPARATORS[kind]), [])
    if len(header) == 1 and set(";,|\t") & set(header[0]):
        raise Unreadable(
            f"{path.name} has one column, {header[0]!r}, as it stands; expected "
            f"{SEPARATORS[kind]!r} between columns, so save it with that (a .csv has commas, a "
            ".tsv tabs)"
        )
    return header


def _wider(paths: list[Path], separator: str) -> str:
    """Where the first row stands that has more cells than its header."""
    for path in paths:
        width = None
        with io.TextIOWrapper(_opened(path), encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter=separator)
            for row in filter(None, rows):
                width = len(row) if width is None else width
                if len(row) > width:
                    return f" (the first of them ends in line {rows.line_num} of {path.name})"
    return ""


def _cells(header: list[str]) -> dict:
    """What `datasets` hands on to pandas: the columns of TEXTS are text, whatever stands there."""
    names = [name or f"Unnamed: {i}" for i, name in enumerate(header)]
    names += [f"{name}.{i}" for name, n in Counter(header).items() for i in range(1, n)]
    return {
        "converters": dict.fromkeys(TEXTS, str),
        "keep_default_na": False,
        "na_values": {name: [""] if name in TEXTS else MISSING for name in names},
    }


def _checked(table, wider: Callable[[], str] | None = None):
    """A table of pandas' whose rows are as wide as the header; a wider one moves every cell."""
    if table.info.builder_name == "csv" and "__index_level_0__" in table.column_names:
        where = wider() if wider else ""
        raise Unreadable(
            f"its rows have more cells than its header, {', '.join(table.column_names[:-1])}{where}"
            "; expected a name for each column, and quotes around text with the separator in it"
        )
    return table


# ---------------------------------------------------------------------------------- JSON


def _json_table(names: dict[str, list[str]], files: dict[str, list[Path]], split: str) -> Found:
    """JSON as `datasets` reads it, and as Python reads it where that cannot, or not as rows."""
    import datasets

    def read() -> dict[str, list[dict]]:
        return {
            name: [row for p in paths for row in _json_rows(p)] for name, paths in files.items()
        }

    def lines() -> list[dict]:
        found = read()
        sizes = {name: len(rows) for name, rows in found.items()}
        return [row for name, rows in _parts(sizes, split) for row in found[name][rows]]

    def table():
        return _joined({name: _from_rows(rows) for name, rows in read().items()}, split)

    told = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(logging.CRITICAL)  # what it cannot read may be read below
    try:
        found = datasets.load_dataset("json", data_files=names, split=split)
    except Exception as error:
        if not any(read().values()):
            raise NoRows from error
        try:
            return Found(table(), lines)
        except Exception:
            raise error from error.__cause__  # what datasets said of it
    finally:
        datasets.logging.set_verbosity(told)
    if len(found) == 1 and not {*TEXTS} & {*found.column_names}:
        keys = {key for rows in read().values() for row in rows for key in row}
        if keys & {*TEXTS}:
            return Found(table(), lines)
    return Found(found, lines)


def _from_rows(rows: list[dict]):
    """Rows of any keys as a table; what is of several types becomes JSON, where there is such."""
    import inspect

    from datasets import Dataset

    columns = {
        key: [row.get(key) for row in rows] for key in dict.fromkeys(k for x in rows for k in x)
    }
    mixed = "on_mixed_types" in inspect.signature(Dataset.from_dict).parameters  # datasets 4.7
    return Dataset.from_dict(columns, **({"on_mixed_types": "use_json"} if mixed else {}))


def _json_rows(path: Path) -> list[dict]:
    """The objects of a file: one or more on each line, or a list of them, or one that holds it."""
    with _opened(path) as file:
        text = file.read().decode("utf-8-sig")
    lines = [(i, line) for i, line in enumerate(text.split("\n"), start=1) if line.strip()]
    try:
        whole = bool(lines) and not isinstance(json.loads(lines[0][1]), dict)
    except ValueError:  # no line makes sense alone
        whole = True
    found = []
    for number, piece in [(1, text)] if whole else lines:
        for at, value in _values(piece, number, path):
            found.append((f"line {number + piece.count(chr(10), 0, at)}", value))
    if len(found) == 1:
        found = _inside(*found[0])
    for place, value in found:
        if not isinstance(value, dict):
            raise Unreadable(f"{place} of {path.name} is {value!r:.60}; expected an object")
    return [value for _, value in found]


def _inside(place: str, value) -> list[tuple[str, object]]:
    """The rows of a list, or of an object that holds the one list of rows under some name."""
    if isinstance(value, dict) and not {*TEXTS} & {*value}:
        lists = [x for x in value.values() if isinstance(x, list) and x and isinstance(x[0], dict)]
        if len(lists) == 1 and {*TEXTS} & {*lists[0][0]}:
            (value,) = lists
    if isinstance(value, list):
        if all(isinstance(entry, str) for entry in value):
            value = [{"text": entry} for entry in value]  # as datasets does
        return [(f"entry {i}", entry) for i, entry in enumerate(value)]
    return [(place, value)]


def _values(text: str, number: int, path: Path):
    """Each value of JSON in a text that begins at a line, and where it ends."""
    decoder = json.JSONDecoder(object_pairs_hook=_once)
    at = SPACE.match(text).end()
    while at < len(text):
        try:
            value, end = decoder.raw_decode(text, at)
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise Unreadable(
                f"line {number} of {path.name} has half a character: {error}"
            ) from None
        except json.JSONDecodeError as error:
            torn = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
            raise Unreadable(
                f"line {number - 1 + error.lineno} of {path.name} is not JSON: {error.msg}"
                + " (is the file cut off there?)" * torn
            ) from None
        except ValueError as error:
            raise Unreadable(f"line {number} of {path.name}: {error}") from None
        yield at, value
        at = SPACE.match(text, end).end()


def _once(pairs: list[tuple[str, object]]) -> dict:
    """An object, refused if it names something twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"an object names {twice!r} twice")
    return found


# ---------------------------------------------------------------------------------- types


def _only_text(kind) -> bool:
    """Whether a type of Arrow's holds text, and nothing that was taken for something else."""
    from pyarrow import types

    if types.is_struct(kind):
        return all(_only_text(kind.field(i).type) for i in range(kind.num_fields))
    if types.is_list(kind) or types.is_large_list(kind):
        return _only_text(kind.value_type)
    return types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind)
