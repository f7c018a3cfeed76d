"""Data as the later stages read them: splits, pairs, and a report of what was found, dropped and counted on the way.

`prepare` makes them from a controlled world or from rows: of files on disk, or of the hub.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from harness.config import CleaningConfig, HubDataConfig
from harness.errors import UserError
from harness.types import SPLITS, Example, PairExample, Split, Task, World

if TYPE_CHECKING:
    from harness.data.sources import RowSettings, Source

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
        report: counts and findings, JSON-serialisable; see `prepare`.
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


def prepare(
    task: Task,
    *,
    source: str,
    seed: int = 0,
    world: World | None = None,
    sizes: Mapping[Split, int] | None = None,
    references: int = 3,
    workers: int = 1,
    path: str | None = None,
    files: Mapping[str, str] | None = None,
    columns: Mapping[str, str] | None = None,
    pairs_path: str | None = None,
    pairs_columns: Mapping[str, str] | None = None,
    shares: Mapping[Split, float] | None = None,
    limits: Mapping[Split, int] | None = None,
    max_bad_rows: int = 0,
    max_turns: int = 5,
    max_rows: Mapping[str, int] | None = None,
    cleaning: CleaningConfig | None = None,
    speakers: tuple[str, str] = ("Human", "Assistant"),
    hub: HubDataConfig | None = None,
    folder: Path | None = None,
) -> PreparedData:
    """Make the data of a run.

    Args:
        source: ``controlled`` (uses world, sizes, references, workers), ``local`` or ``hub`` (use all that follow).
        path: file, folder or glob, see `files.find_files`, likewise ``files``; or a repository on the hub.
        columns: see `columns.Columns`; likewise ``pairs_columns``.
        pairs_path: a file with preference pairs; their prompts' hashes share them out by `sharing.PAIRS_SHARES`.
        shares: split -> relative weight of the train rows. Where no file holds validation or test, a share for it takes
            that part of the train rows.
        limits: split -> most examples (and most pairs), chosen by a hash of their ids, in the order of the file.
        max_bad_rows: unusable rows that each split's files may have.
        max_turns: most turns of context where whole dialogues are taken apart.
        max_rows: file split -> rows that are read, from the start.
        cleaning: what is set right or dropped, and counted; by default all but texts that are too long.
        speakers: the names in transcripts, the answering side's second.
        hub: what names the repositories, their revisions and splits (``hub``).
        folder: where rows are written as they are read (``local``, ``hub``); where None, they end in memory.

    Returns:
        The data, with the report: ``source``, ``counts`` and ``pair_counts`` per split, ``rows`` read per file split,
        ``bad_rows`` (count, shown), ``cleaning`` (normalised, empty, too_long, shown), ``duplicates`` and
        ``pair_duplicates`` per file split, ``overlap`` and ``pairs_overlap`` (exact, ngram8, ngram8_any, removed),
        ``limited`` (rows left out per split), ``hub`` (repository, commit; from the hub), ``styles`` (shares of the
        demonstrations' styles; controlled) and ``content_hash``.

    Raises:
        UserError: where a key is missing or wrong, or a split would be empty.
    """
    from harness.data.sources import RowSettings

    if source == "controlled":
        data = _controlled(task, world, seed=seed, sizes=sizes or {}, references=references, workers=workers)
        _complete(data, source)
        return data
    if source not in ("local", "hub"):
        raise UserError("data.source", source, "is not a source of data", "use controlled, local or hub")
    rows, facts = _rows(source, path, files, pairs_path, max_rows or {}, hub)
    settings = RowSettings(
        columns=columns or {},
        pairs_columns=pairs_columns or {},
        shares=shares or {},
        limits=limits or {},
        max_bad_rows=max_bad_rows,
        max_turns=max_turns,
        cleaning=cleaning or CleaningConfig(),
        speakers=speakers,
        seed=seed,
    )
    return _from_rows(task, rows, settings, folder, source=source, facts=facts)


def _controlled(task: Task, world: World | None, **settings: Any) -> PreparedData:
    """What a controlled world draws."""
    from harness.data.sources import prepare_controlled

    if world is None:
        raise UserError("task.world", None, "is missing", "name the controlled world, or use data=local")
    return prepare_controlled(task, world, **settings)


def _rows(
    source: str,
    path: str | None,
    files: Mapping[str, str] | None,
    pairs_path: str | None,
    max_rows: Mapping[str, int],
    hub: HubDataConfig | None,
) -> tuple[Source, dict[str, Any]]:
    """Where rows are read from, files on disk or the hub, and what the report says of that."""
    if path is None:
        raise UserError("data.path", None, "is missing", "give a file or folder: data.path=PATH")
    if source == "local":
        from harness.data.local import local_source

        return local_source(path, files, pairs_path, max_rows), {}
    from harness.data.hub import hub_source

    return hub_source(hub or HubDataConfig(path=path))


def _from_rows(
    task: Task, rows: Source, settings: RowSettings, folder: Path | None, *, source: str, facts: Mapping[str, Any]
) -> PreparedData:
    """The data that rows make, written as they are read: into ``folder``, or for a while into a temporary one."""
    from harness.data.sources import prepare_rows

    with TemporaryDirectory(prefix="harness-data-") as temporary:
        data = prepare_rows(task, rows, settings, folder or Path(temporary))
        data.report |= facts
        _complete(data, source)
        return data if folder is not None else data.in_memory()


def _complete(data: PreparedData, source: str) -> None:
    """What the report of every source says."""
    data.report |= {
        "source": source,
        "counts": data.counts(),
        "pair_counts": data.counts(pairs=True),
        "content_hash": data.content_hash(),
    }
