"""Rows of a data file on disk, whatever its format, each with the place that an error message can name."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, cast

from harness.errors import UserError

FileSplit = Literal["train", "validation", "test"]
SPLIT_NAMES: Mapping[FileSplit, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
FORMATS = ("jsonl.gz", "json.gz", "csv.gz", "jsonl", "json", "csv", "parquet", "arrow")


class Row(NamedTuple):
    """A row as the file has it, or the reason why it cannot be read.

    Args:
        place: file and line (or row, in files without lines), for messages.
        values: column -> value; None for a bad row.
        problem: why the row is bad; empty for a good one.
    """

    place: str
    values: dict[str, Any] | None
    problem: str = ""


def find_files(path: str, files: Mapping[str, str] | None = None) -> dict[FileSplit, list[Path]]:
    """The files of each split.

    Args:
        path: a file (all of it train rows), a folder with ``train.*``, ``validation.*`` (or valid, val, dev) and
            ``test.*``, such as ``test.jsonl.gz``, shards such as ``train-00000-of-00002.parquet``, or folders
            ``train/`` with such shards or the arrow files that ``datasets`` saves.
        files: split -> file or folder, relative to ``path``; where given, it says all and nothing is looked for.

    Raises:
        UserError: where path or file is missing, or no or several formats of a split are there (data.path, data.files).
    """
    root = Path(path).expanduser()
    if not root.exists():
        raise UserError("data.path", path, "does not exist", "give the folder or file with the data")
    if files:
        return {_split_of(name): _named(root, name, file) for name, file in files.items()}
    if root.is_file():
        return {"train": [_known(root)]}
    found: dict[FileSplit, list[Path]] = {}
    for split, names in SPLIT_NAMES.items():
        paths = _split_files(root, names)
        if paths:
            found[split] = paths
    if not found and (root / "state.json").exists():
        return {"train": sorted(root.glob("*.arrow"))}
    if "train" not in found:
        there = ", ".join(sorted(entry.name for entry in root.iterdir())) or "nothing"
        rule = f"has no train file (train.jsonl, train.csv, train.parquet, …); it holds {there}"
        raise UserError("data.path", path, rule, "name the files, e.g. data.files.train=NAME")
    return found


def _split_of(name: str) -> FileSplit:
    for split in SPLIT_NAMES:
        if name == split:
            return split
    raise UserError(f"data.files.{name}", None, "is not a split that a file can hold", "use train, validation, test")


def _named(root: Path, split: str, file: str) -> list[Path]:
    path = (root if root.is_dir() else root.parent) / Path(file).expanduser()
    if path.is_dir():
        shards = _data_files(path)
        if shards:
            return shards
        raise UserError(f"data.files.{split}", file, f"is a folder without data files ({path})", "name a data file")
    if not path.is_file():
        raise UserError(f"data.files.{split}", file, f"does not exist ({path})", "give a path relative to data.path")
    return [_known(path)]


def _split_files(root: Path, names: tuple[str, ...]) -> list[Path]:
    """Files and folders of one split in a folder: one file, or the shards of one format."""
    pattern = re.compile(rf"(?:{'|'.join(names)})(?:-\d+-of-\d+)?\.(?P<format>.+)")
    matches = [(entry, pattern.fullmatch(entry.name)) for entry in sorted(root.iterdir())]
    shards = [(entry, match["format"]) for entry, match in matches if match and match["format"] in FORMATS]
    folders = [root / name for name in names if (root / name).is_dir()]
    sharded = all("-of-" in entry.name for entry, _ in shards) and len({end for _, end in shards}) == 1
    if len(shards) + len(folders) > 1 and (folders or not sharded):
        several = ", ".join(entry.name for entry in [*(entry for entry, _ in shards), *folders])
        rule = f"holds several candidates for {names[0]}: {several}"
        raise UserError("data.path", str(root), rule, f"choose one with data.files.{names[0]}=NAME")
    return _data_files(folders[0]) if folders else [entry for entry, _ in shards]


def _data_files(folder: Path) -> list[Path]:
    """The shards in a folder; ``.json`` is left out, since there it is the description that ``datasets`` writes."""
    return sorted(
        entry for entry in folder.iterdir() if entry.is_file() and _format_of(entry) not in (None, "json", "json.gz")
    )


def _format_of(path: Path) -> str | None:
    return next((ending for ending in FORMATS if path.name.endswith(f".{ending}")), None)


def _known(path: Path) -> Path:
    if _format_of(path) is None:
        raise UserError("data.path", str(path), "has a format that is not read", f"give one of {', '.join(FORMATS)}")
    return path


def read_rows(path: Path) -> Iterator[Row]:
    """All rows of a file, bad ones included.

    json holds a list of objects or one object per line, jsonl one object per line, csv a header and UTF-8 text (a cell
    with a JSON list of strings is read as that list), arrow either of Arrow's two forms.

    Raises:
        UserError: where the file as a whole cannot be read.
    """
    ending = (_format_of(path) or "").removesuffix(".gz")
    try:
        if ending in ("parquet", "arrow"):
            yield from _table_rows(path, ending)
            return
        with _open(path) as stream:
            yield from _csv_rows(path, stream) if ending == "csv" else _json_rows(path, stream, ending)
    except (OSError, EOFError, csv.Error, UnicodeDecodeError) as error:
        rule = f"cannot be read: {type(error).__name__}: {error}"
        raise UserError(
            str(path), None, rule, "check that the file is whole and has the format that its name says"
        ) from None


def _open(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _json_rows(path: Path, stream: IO[bytes], ending: str) -> Iterator[Row]:
    first = b""
    for number, line in enumerate(stream, 1):
        if not first and ending == "json" and line.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
            yield from _json_list_rows(path, line + stream.read())
            return
        if not line.strip():
            continue
        first = first or line
        yield _checked(f"{path.name}:{number}", line)


def _checked(place: str, line: bytes) -> Row:
    try:
        value = json.loads(line)
    except ValueError as error:
        return Row(place, None, f"is not JSON ({error})")
    return Row(place, value) if isinstance(value, dict) else Row(place, None, "is not a JSON object")


def _json_list_rows(path: Path, text: bytes) -> Iterator[Row]:
    try:
        values = json.loads(text)
    except ValueError as error:
        rule = f"is not a JSON list ({error})"
        raise UserError(str(path), None, rule, "correct it, or write one object per line (jsonl)") from None
    for number, value in enumerate(values, 1):
        good = isinstance(value, dict)
        yield Row(f"{path.name} row {number}", value if good else None, "" if good else "is not a JSON object")


def _csv_rows(path: Path, stream: IO[bytes]) -> Iterator[Row]:
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        reader = csv.reader(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""))
        header = next(reader, [])
        for cells in reader:
            place = f"{path.name}:{reader.line_num}"
            if not cells:
                continue
            if len(cells) != len(header):
                yield Row(place, None, f"has {len(cells)} cells where the header has {len(header)}")
            else:
                yield Row(place, {name: _cell(cell) for name, cell in zip(header, cells, strict=True)})
    finally:
        csv.field_size_limit(before)


def _cell(text: str) -> str | list[str]:
    if text.startswith("[") and text.endswith("]"):
        try:
            value = json.loads(text)
        except ValueError:
            return text
        if value and all(isinstance(part, str) for part in value):
            return value  # type: ignore[no-any-return]
    return text


def _table_rows(path: Path, ending: str) -> Iterator[Row]:
    import pyarrow as pa  # type: ignore[import-untyped]

    number = 0
    try:
        for batch in _batches(path, ending):
            for values in batch.to_pylist():
                number += 1
                yield Row(f"{path.name} row {number}", values)
    except pa.ArrowException as error:
        raise OSError(error) from error


def _batches(path: Path, ending: str) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet  # type: ignore[import-untyped]

    if ending == "parquet":
        with pyarrow.parquet.ParquetFile(path) as table:
            yield from table.iter_batches(batch_size=1024)
        return
    with pa.memory_map(str(path)) as source:
        whole_file = source.read(6) == b"ARROW1"
        source.seek(0)
        if whole_file:
            reader = pa.ipc.open_file(source)
            yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            yield from pa.ipc.open_stream(source)
