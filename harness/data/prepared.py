"""Data as the later stages read them: splits, pairs, and a report of what was found, dropped and counted on the way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from harness.types import SPLITS, Example, PairExample, Split

AnyRow = TypeVar("AnyRow", Example, PairExample)


class FileRows(Mapping[Split, list[AnyRow]], Generic[AnyRow]):
    """Split -> rows that lie in a folder, one file for each split, read when they are first asked for."""

    def __init__(self, folder: Path, kind: type[AnyRow]) -> None:
        self._folder = folder
        self._kind: type[AnyRow] = kind
        self._read: dict[Split, list[AnyRow]] = {}

    def __getitem__(self, split: Split) -> list[AnyRow]:
        if split not in SPLITS:
            raise KeyError(split)
        if split not in self._read:
            path = self._folder / file_name(split, pairs=self._kind is PairExample)
            with path.open("rb") as stream:
                rows = (json.loads(line.decode("utf-8", "surrogatepass")) for line in stream)
                self._read[split] = [self._kind(**row) for row in rows]
        return self._read[split]

    def __iter__(self) -> Iterator[Split]:
        return iter(SPLITS)

    def __len__(self) -> int:
        return len(SPLITS)


@dataclass
class PreparedData:
    """All examples and pairs of a run.

    Args:
        splits: split -> examples; every split is a key.
        pairs: split -> the data set's own preference pairs; empty lists where it has none.
        report: counts and findings, JSON-serialisable; see `sources.prepare`.
        folder: where the rows lie, if they do.
    """

    splits: Mapping[Split, list[Example]]
    pairs: Mapping[Split, list[PairExample]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    report: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = field(default=None, compare=False)

    def content_hash(self) -> str:
        """sha256 of every row in order: the same on every machine, different with any change in the data."""
        digest = hashlib.sha256()
        for name, lines in self._files():
            digest.update(f"{name}\n".encode())
            for line in lines:
                digest.update(line)
        return digest.hexdigest()

    def counts(self, *, pairs: bool = False) -> dict[Split, int]:
        """Split -> number of examples, or of pairs."""
        if self.folder is not None:
            return {split: sum(1 for _ in self._lines(split, pairs=pairs)) for split in SPLITS}
        return {split: len((self.pairs if pairs else self.splits)[split]) for split in SPLITS}

    def write(self, folder: Path) -> None:
        """Write ``<split>.jsonl``, ``pairs-<split>.jsonl`` and ``report.json`` into a folder; rows there stay."""
        folder.mkdir(parents=True, exist_ok=True)
        if folder != self.folder:
            for name, lines in self._files():
                with (folder / name).open("wb") as stream:
                    stream.writelines(lines)
        report = json.dumps(self.report, ensure_ascii=False, indent=1, sort_keys=True)
        (folder / "report.json").write_text(report + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> PreparedData:
        """What `write` wrote."""
        data = cls.lines(folder)
        data.report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        return data

    @classmethod
    def lines(cls, folder: Path) -> PreparedData:
        """The rows in a folder, without a report; a split is read when it is asked for."""
        return cls(FileRows(folder, Example), FileRows(folder, PairExample), folder=folder)

    def in_memory(self) -> PreparedData:
        """The same, independent of the folder."""
        return PreparedData(dict(self.splits), dict(self.pairs), self.report)

    def _files(self) -> Iterator[tuple[str, Iterator[bytes]]]:
        for pairs in (False, True):
            for split in SPLITS:
                yield file_name(split, pairs=pairs), self._lines(split, pairs=pairs)

    def _lines(self, split: Split, *, pairs: bool) -> Iterator[bytes]:
        if self.folder is not None:
            with (self.folder / file_name(split, pairs=pairs)).open("rb") as stream:
                yield from stream
        else:
            yield from map(row_line, self.pairs[split] if pairs else self.splits[split])


def file_name(split: Split, *, pairs: bool = False) -> str:
    """The file that holds a split's examples, or its pairs."""
    return f"pairs-{split}.jsonl" if pairs else f"{split}.jsonl"


def row_line(row: Example | PairExample) -> bytes:
    """A row as a line of its file."""
    values = {name: getattr(row, name) for name in row.__slots__}
    return (json.dumps(values, ensure_ascii=False, sort_keys=True) + "\n").encode("utf-8", "surrogatepass")
