"""Data as the later stages read them: splits, pairs, and a report of what was found, dropped and counted on the way.

`prepare` makes them from a controlled world or from files on disk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.types import SPLITS, Example, PairExample, Split, Task, World


@dataclass
class PreparedData:
    """All examples and pairs of a run.

    Args:
        splits: split -> examples; every split is a key.
        pairs: split -> the data set's own preference pairs; empty lists where it has none.
        report: counts and findings, JSON-serialisable; see `prepare`.
    """

    splits: dict[Split, list[Example]]
    pairs: dict[Split, list[PairExample]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    report: dict[str, Any] = field(default_factory=dict)

    def content_hash(self) -> str:
        """sha256 of every row in order: the same on every machine, different with any change in the data."""
        digest = hashlib.sha256()
        for name, lines in self._files():
            digest.update(f"{name}\n".encode())
            for line in lines:
                digest.update(line)
        return digest.hexdigest()

    def write(self, folder: Path) -> None:
        """Write ``<split>.jsonl``, ``pairs-<split>.jsonl`` and ``report.json`` into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, lines in self._files():
            with (folder / name).open("wb") as stream:
                stream.writelines(lines)
        report = json.dumps(self.report, ensure_ascii=False, indent=1, sort_keys=True)
        (folder / "report.json").write_text(report + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> PreparedData:
        """What `write` wrote."""
        splits = {split: [Example(**row) for row in _rows(folder / f"{split}.jsonl")] for split in SPLITS}
        pairs = {split: [PairExample(**row) for row in _rows(folder / f"pairs-{split}.jsonl")] for split in SPLITS}
        return cls(splits, pairs, json.loads((folder / "report.json").read_text(encoding="utf-8")))

    def _files(self) -> Iterator[tuple[str, Iterator[bytes]]]:
        for split in SPLITS:
            yield f"{split}.jsonl", map(_line, self.splits[split])
        for split in SPLITS:
            yield f"pairs-{split}.jsonl", map(_line, self.pairs[split])


def _line(row: Example | PairExample) -> bytes:
    values = {name: getattr(row, name) for name in row.__slots__}
    return (json.dumps(values, ensure_ascii=False, sort_keys=True) + "\n").encode("utf-8", "surrogatepass")


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as stream:
        for line in stream:
            yield json.loads(line.decode("utf-8", "surrogatepass"))


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
) -> PreparedData:
    """Make the data of a run.

    Args:
        source: ``controlled`` (uses world, sizes, references, workers) or ``local`` (uses all that follow).
        path: file or folder, see `files.find_files`; likewise ``files``.
        columns: see `local.Columns`; likewise ``pairs_columns``.
        pairs_path: a file with preference pairs; their prompts' hashes share them out by `sources.PAIRS_SHARES`.
        shares: split -> relative weight of the train rows. Where no file holds validation or test, a share for it takes
            that part of the train rows.
        limits: split -> most examples (and most pairs), chosen by a hash of their ids, in the order of the file.
        max_bad_rows: unusable rows that each split's files may have.
        max_turns: most turns of context where whole dialogues are taken apart.

    Returns:
        The data, with the report: ``source``, ``counts`` and ``pair_counts`` per split, ``bad_rows`` (count, shown),
        ``duplicates`` per file, ``overlap`` and ``pairs_overlap`` (exact, ngram8, ngram8_any, removed), ``limited``
        (rows left out per split), ``styles`` (shares of the demonstrations' styles; controlled) and ``content_hash``.

    Raises:
        UserError: where a key is missing or wrong, or a split would be empty.
    """
    from harness.data.sources import prepare_controlled, prepare_local

    if source == "controlled":
        if world is None:
            raise UserError("task.world", None, "is missing", "name the controlled world, or use data=local")
        data = prepare_controlled(task, world, seed=seed, sizes=sizes or {}, references=references, workers=workers)
    elif source == "local":
        if path is None:
            raise UserError("data.path", None, "is missing", "give a file or folder: data.path=PATH")
        data = prepare_local(
            task,
            path=path,
            files=files,
            columns=columns or {},
            pairs_path=pairs_path,
            pairs_columns=pairs_columns or {},
            shares=shares or {},
            limits=limits or {},
            max_bad_rows=max_bad_rows,
            max_turns=max_turns,
            seed=seed,
        )
    else:
        raise UserError("data.source", source, "is not a source of data", "use controlled or local")
    data.report |= {
        "source": source,
        "counts": {split: len(data.splits[split]) for split in SPLITS},
        "pair_counts": {split: len(data.pairs[split]) for split in SPLITS},
        "content_hash": data.content_hash(),
    }
    return data
