"""Which files of a folder hold the rows of which split."""

from __future__ import annotations

import re
from collections.abc import Mapping
from glob import glob
from pathlib import Path
from typing import Literal

from harness.errors import UserError

FileSplit = Literal["train", "validation", "test"]
SPLIT_NAMES: Mapping[FileSplit, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
FORMATS = ("jsonl.gz", "json.gz", "csv.gz", "jsonl", "json", "csv", "parquet", "arrow")


def find_files(path: str, files: Mapping[str, str] | None = None) -> dict[FileSplit, list[Path]]:
    """The files of each split.

    Args:
        path: a file (all of it train rows), a glob (``data/*.jsonl``: all train rows, unless each file is named after a
            split), or a folder with ``train.*``, ``validation.*`` (or valid, val, dev) and ``test.*``, such as
            ``test.jsonl.gz``, shards such as ``train-00000-of-00002.parquet``, or folders ``train/`` with such shards
            or the arrow files that ``datasets`` saves.
        files: split -> file, folder or glob, relative to ``path``; where given, it says all and nothing is looked for.

    Raises:
        UserError: where path or file is missing, or no or several formats of a split are there (data.path, data.files).
    """
    root = Path(path).expanduser()
    if not root.exists() and is_glob(path):
        if files:
            raise UserError("data.path", path, "is a glob, while data.files names files in a folder", "give the folder")
        return _by_name(path, _matching("data.path", path, root))
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
    if is_glob(file) and not path.exists():
        return _matching(f"data.files.{split}", file, path)
    if path.is_dir():
        shards = _data_files(path)
        if shards:
            return shards
        raise UserError(f"data.files.{split}", file, f"is a folder without data files ({path})", "name a data file")
    if not path.is_file():
        raise UserError(f"data.files.{split}", file, f"does not exist ({path})", "give a path relative to data.path")
    return [_known(path)]


def is_glob(path: str) -> bool:
    """Whether a path has a wildcard in it."""
    return any(sign in path for sign in "*?[")


def _matching(key: str, value: str, pattern: Path) -> list[Path]:
    """The data files that match, in the order of their names."""
    found = sorted(Path(name) for name in glob(str(pattern), recursive=True))
    files = [entry for entry in found if entry.is_file() and format_of(entry) is not None]
    if files:
        return files
    there = f"; it matches {', '.join(entry.name for entry in found[:5])}" if found else ""
    raise UserError(key, value, f"matches no data file{there}", f"match files that end in {', '.join(FORMATS)}")


def _by_name(path: str, found: list[Path]) -> dict[FileSplit, list[Path]]:
    """The files of a glob: each to the split that it is named after; all train rows where none is."""
    named: dict[FileSplit, list[Path]] = {}
    for split, names in SPLIT_NAMES.items():
        pattern = re.compile(rf"(?:{'|'.join(names)})(?:[-_.].*)?")
        if files := [entry for entry in found if pattern.fullmatch(entry.name)]:
            named[split] = files
    told = {entry for files in named.values() for entry in files}
    if not told:
        return {"train": found}
    if rest := [entry.name for entry in found if entry not in told]:
        rule = f"matches files named after splits ({min(entry.name for entry in told)}) and others ({rest[0]})"
        raise UserError("data.path", path, rule, "name the files of each split: data.files.train=GLOB")
    if "train" not in named:
        raise UserError("data.path", path, "matches no train file", "match one, or name it: data.files.train=GLOB")
    return named


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
        entry for entry in folder.iterdir() if entry.is_file() and format_of(entry) not in (None, "json", "json.gz")
    )


def format_of(path: Path) -> str | None:
    """The format that a file's name says; None where it is not read."""
    return next((ending for ending in FORMATS if path.name.endswith(f".{ending}")), None)


def _known(path: Path) -> Path:
    if format_of(path) is None:
        raise UserError("data.path", str(path), "has a format that is not read", f"give one of {', '.join(FORMATS)}")
    return path
