"""Rows of files on disk: the source that ``data=local`` names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import cast

from harness.config import LocalDataConfig
from harness.data.files import FileSplit, find_files
from harness.data.rows import Row, no_rows, read_rows
from harness.data.sources import Source, check_request
from harness.errors import UserError
from harness.types import Split


def local_source(
    path: str, files: Mapping[str, str] | None, pairs_path: str | None, max_rows: Mapping[str, int]
) -> Source:
    """The rows of a file, a folder or a glob, and of a file with preference pairs.

    Args:
        path: see `files.find_files`; likewise ``files``.
        pairs_path: a file.
        max_rows: file split, or ``pairs`` -> rows that are read, from the start.

    Raises:
        UserError: where a file is missing (data.path, data.files, data.pairs_path), or max_rows names no such split.
    """
    found = find_files(path, files)
    rows: dict[FileSplit, Iterable[Row]] = {split: _all_rows(paths) for split, paths in found.items()}
    names: dict[FileSplit, str] = {split: str(paths[0]) for split, paths in found.items()}
    pairs: Iterable[Row] | None = None
    if pairs_path is not None:
        file = Path(pairs_path).expanduser()
        if not file.is_file():
            raise UserError("data.pairs_path", pairs_path, "does not exist or is not a file", "give a file of pairs")
        pairs = read_rows(file)
    return first_rows(Source(rows, names, pairs, str(pairs_path or "")), max_rows)


def require_rows(data: LocalDataConfig) -> None:
    """Raise UserError where files are missing, empty, or not those that the shares ask for, before any work."""
    source = local_source(str(data.path), data.files, data.pairs_path, data.max_rows)
    named = [(source.names[split], rows) for split, rows in source.rows.items()]
    named += [(source.pairs_name, source.pairs)] if source.pairs is not None else []
    for name, rows in named:
        if next(iter(rows), None) is None:
            raise no_rows(name)
    shares, limits = cast("Mapping[Split, float]", data.shares), cast("Mapping[Split, int]", data.limits)
    own_pairs = "rejected" in data.columns
    check_request(source.rows, shares, limits, own_pairs=own_pairs, has_pairs=source.pairs is not None)


def _all_rows(paths: Sequence[Path]) -> Iterator[Row]:
    for path in paths:
        yield from read_rows(path)


def first_rows(source: Source, max_rows: Mapping[str, int]) -> Source:
    """The same rows, but at most so many of each split, from the start; no more than those are ever read.

    Args:
        source: whose rows; it is used up by what is returned.
        max_rows: file split, or ``pairs`` -> rows.

    Raises:
        UserError: naming ``data.max_rows.NAME``: there are no rows of that name, or the number is below 1.
    """
    there = [*source.rows, *(["pairs"] if source.pairs is not None else [])]
    for name, count in max_rows.items():
        if name not in there or count < 1:
            rule = f"names no rows that are there ({', '.join(there)})" if name not in there else "is not at least 1"
            raise UserError(
                f"data.max_rows.{name}", count, rule, "give rows to read, such as data.max_rows.train=10000"
            )
    rows: dict[FileSplit, Iterable[Row]] = {
        split: islice(rows, max_rows[split]) if split in max_rows else rows for split, rows in source.rows.items()
    }
    pairs = source.pairs
    if pairs is not None and "pairs" in max_rows:
        pairs = islice(pairs, max_rows["pairs"])
    return source._replace(rows=rows, pairs=pairs)
