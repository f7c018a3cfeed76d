"""Rows shared out to splits on disk, duplicates and overlap with held-out prompts removed, one row in memory at a time.

Each row is written to its split's file as it is read. What is held in memory for each is a hash of 16 bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.data.examples import Reader
from harness.data.files import FileSplit
from harness.data.overlap import HeldOut, Overlap
from harness.data.prepared import file_name, row_line
from harness.data.splits import content, fraction, normalise, split_of
from harness.types import SPLITS, TRAIN_SPLITS, Example, PairExample, Split

PAIRS_SHARES: Mapping[Split, float] = {"preference": 0.6, "judge": 0.3, "validation": 0.1}
"""Where the pairs of a file of their own go, by the hash of their prompt."""
_CHUNK = 4096

TextOf = Callable[[Mapping[str, Any]], str]


class SharedOut(NamedTuple):
    """What was found and dropped on the way; see `sources.prepare` for what is reported."""

    duplicates: dict[str, int]
    pair_duplicates: dict[str, int]
    overlap: Overlap
    pairs_overlap: Overlap
    limited: dict[str, int]


def share_out(
    readers: Mapping[FileSplit, Reader],
    own_pairs: Reader | None,
    folder: Path,
    *,
    fields: Sequence[str],
    shares: Mapping[Split, float],
    limits: Mapping[Split, int],
    seed: int,
    deduplicate: str,
) -> SharedOut:
    """Read all rows and write ``<split>.jsonl`` and ``pairs-<split>.jsonl`` into a folder.

    Train rows go by the hash of their prompt, the others as their files say. A train row that repeats prompt and
    response (a pair that repeats prompt and both responses) is dropped; in validation and test such rows are counted.

    Args:
        readers: the rows of each split's files.
        own_pairs: pairs of a file of their own, shared out by `PAIRS_SHARES`.
        fields: the fields of a prompt that its content is made of.
        deduplicate: ``rows``, ``prompts`` (a train row whose prompt came before is dropped) or ``none``.
    """
    parts = folder / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    first = _FirstPass(parts, fields, shares, seed, deduplicate)
    with first:
        for split, reader in readers.items():
            first.read(reader, split)
        if own_pairs is not None:
            first.read(own_pairs, None)
    second = _SecondPass(parts, folder, lambda values: content(values, fields), limits, seed)
    overlap, pairs_overlap = second.run(
        validation_drawn="validation" not in readers,
        validation_pairs_drawn="validation" not in readers or own_pairs is not None,
    )
    parts.rmdir()
    return SharedOut(first.duplicates, first.pair_duplicates, overlap, pairs_overlap, second.limited)


class _FirstPass:
    """Rows to one part per split, in the order of the files."""

    def __init__(
        self, parts: Path, fields: Sequence[str], shares: Mapping[Split, float], seed: int, deduplicate: str
    ) -> None:
        self.parts, self.fields, self.shares = parts, fields, shares
        self.seed, self.deduplicate = seed, deduplicate
        self.duplicates: dict[str, int] = {}
        self.pair_duplicates: dict[str, int] = {}
        self._open: dict[str, IO[bytes]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> _FirstPass:
        for name in _names():
            self._open[name] = self._stack.enter_context((self.parts / name).open("wb"))
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def read(self, reader: Reader, split: FileSplit | None) -> None:
        """Share out one file split's rows; None: pairs of a file of their own."""
        seen, seen_pairs = _Seen(), _Seen()
        label = split or "pairs"
        for made in reader:
            for example in made.examples:
                prompt = normalise(content(example.fields, self.fields))
                again = self._repeats(seen, [prompt, *([example.response] if self.deduplicate != "prompts" else [])])
                if not (again and split == "train"):
                    self._write(example, self._split(prompt, split))
            if (pair := made.pair) is not None:
                prompt = normalise(content(pair.fields, self.fields))
                again = self._repeats(seen_pairs, [prompt, pair.chosen, pair.rejected])
                if not (again and split in ("train", None)):
                    self._write(pair, self._split(prompt, split))
        if not reader.columns.pairs_only:
            self.duplicates[label] = seen.repeated
        if seen_pairs.count:
            self.pair_duplicates[label] = seen_pairs.repeated

    def _repeats(self, seen: _Seen, texts: Sequence[str]) -> bool:
        return self.deduplicate != "none" and seen.again(texts)

    def _split(self, prompt: str, split: FileSplit | None) -> Split:
        if split is None or split == "train":
            return split_of(prompt, PAIRS_SHARES if split is None else self.shares, seed=self.seed)
        return split

    def _write(self, row: Example | PairExample, split: Split) -> None:
        self._open[file_name(split, pairs=isinstance(row, PairExample))].write(row_line(row))


class _Seen:
    """Which texts came before, and how many came again."""

    def __init__(self) -> None:
        self._keys: set[bytes] = set()
        self.repeated = self.count = 0

    def again(self, texts: Sequence[str]) -> bool:
        self.count += 1
        key = blake2b("\0".join(texts).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if key in self._keys:
            self.repeated += 1
            return True
        self._keys.add(key)
        return False


class _SecondPass:
    """Parts to files: without what overlaps with validation or test, and cut down to the limits."""

    def __init__(self, parts: Path, folder: Path, text: TextOf, limits: Mapping[Split, int], seed: int) -> None:
        self.parts, self.folder, self.text = parts, folder, text
        self.limits, self.seed = limits, seed
        self.limited: dict[str, int] = dict.fromkeys(limits, 0)

    def run(self, *, validation_drawn: bool, validation_pairs_drawn: bool) -> tuple[Overlap, Overlap]:
        """Finish every split; returns the overlap of examples and that of pairs.

        Validation rows that were drawn by the hash, from the train file or from one of pairs, give way to test as train
        rows do.
        """
        test = HeldOut.of(self._texts("test")) if validation_drawn or validation_pairs_drawn else None
        drawn = {file_name("validation"): validation_drawn, file_name("validation", pairs=True): validation_pairs_drawn}
        kept = {name: self._kept(name, test if was_drawn else None) for name, was_drawn in drawn.items()}
        counted, pairs_counted = (found for _, found in kept.values())
        held_out = HeldOut.of(self._held_out({name: mask for name, (mask, _) in kept.items()}))
        for split in TRAIN_SPLITS:
            for pairs in (False, True):
                name = file_name(split, pairs=pairs)
                kept[name] = self._kept(name, held_out)
                if pairs:
                    pairs_counted = pairs_counted.plus(kept[name][1])
                else:
                    counted = counted.plus(kept[name][1])
        for split in SPLITS:
            for pairs in (False, True):
                name = file_name(split, pairs=pairs)
                self._finish(name, split, kept[name][0] if name in kept else None)
        return counted, pairs_counted

    def _texts(self, split: Split) -> Iterator[str]:
        for pairs in (False, True):
            for line in _lines(self.parts / file_name(split, pairs=pairs)):
                yield self.text(_fields_of(line))

    def _held_out(self, validation: Mapping[str, NDArray[np.bool_]]) -> Iterator[str]:
        """The prompts of test, and of validation without the rows that gave way."""
        yield from self._texts("test")
        for name, mask in validation.items():
            for line, keep in zip(_lines(self.parts / name), mask, strict=True):
                if keep:
                    yield self.text(_fields_of(line))

    def _kept(self, name: str, held_out: HeldOut | None) -> tuple[NDArray[np.bool_], Overlap]:
        """Which rows of a part stay, and the overlap that was found; all where there is nothing to compare with."""
        masks, counted = [np.zeros(0, dtype=bool)], Overlap(0, 0, 0)
        lines = _lines(self.parts / name)
        while chunk := list(islice(lines, _CHUNK)):
            out = np.zeros(len(chunk), dtype=bool)
            if held_out is not None:
                out, found = held_out.compare([self.text(_fields_of(line)) for line in chunk])
                counted = counted.plus(found)
            masks.append(~out)
        return np.concatenate(masks), counted

    def _finish(self, name: str, split: Split, mask: NDArray[np.bool_] | None) -> None:
        """Write a part's rows that stay: by the mask, then by the split's limit; the part is removed."""
        part, there = self.parts / name, self.folder / name
        if split in self.limits:
            mask = self._limited(part, mask, split)
        if mask is None or bool(mask.all()):
            part.replace(there)
            return
        with there.open("wb") as out:
            out.writelines(line for line, keep in zip(_lines(part), mask, strict=True) if keep)
        part.unlink()

    def _limited(self, part: Path, mask: NDArray[np.bool_] | None, split: Split) -> NDArray[np.bool_]:
        """The mask with at most the split's limit of rows: those whose ids have the smallest hashes, in file order.

        So a smaller limit gives a subset of a larger one, and an order in the file does not bias it.
        """
        ranks = np.array(
            [fraction(json.loads(line)["id"], purpose="limit", seed=self.seed) for line in _lines(part)], dtype=float
        )
        kept = np.flatnonzero(mask) if mask is not None else np.arange(len(ranks))
        chosen = kept[np.argsort(ranks[kept], kind="stable")[: self.limits[split]]]
        self.limited[split] += len(kept) - len(chosen)
        limited = np.zeros(len(ranks), dtype=bool)
        limited[chosen] = True
        return limited


def _names() -> list[str]:
    return [file_name(split, pairs=pairs) for split in SPLITS for pairs in (False, True)]


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        yield from stream


def _fields_of(line: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(line)["fields"]
    return fields
