"""Data of a run from its two sources: a controlled world, or files on disk with hashed splits and overlap removed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeVar

from harness.data.controlled import generate
from harness.data.files import FileSplit, find_files
from harness.data.local import Columns, LocalRows, read_examples, read_pairs
from harness.data.overlap import HeldOut, Overlap, remove_overlap
from harness.data.prepared import PreparedData
from harness.data.splits import check_shares, content, fraction, normalise, train_split
from harness.errors import UserError
from harness.types import SPLITS, TRAIN_SPLITS, Example, PairExample, Split, Task, World

PAIRS_SHARES: Mapping[Split, float] = {"preference": 0.6, "judge": 0.3, "validation": 0.1}
"""Where the pairs of a file of their own go, by the hash of their prompt."""
_SHOWN = 20

AnyRow = TypeVar("AnyRow", Example, PairExample)
TextOf = Callable[[Example | PairExample], str]


def prepare_controlled(
    task: Task, world: World, *, seed: int, sizes: Mapping[Split, int], references: int, workers: int
) -> PreparedData:
    """The data of a controlled world; see `prepared.prepare` for the report."""
    for name, size in sizes.items():
        if name not in SPLITS or size < 0:
            rule = "is not a split" if name not in SPLITS else "is less than 0"
            raise UserError(f"data.sizes.{name}", size, rule, f"give examples to make of {', '.join(SPLITS)}")
    splits = generate(world, task, seed=seed, sizes=sizes, references=references, workers=workers)
    text = _text_of(task)
    _check_disjoint(splits, text)
    train = [row for split in TRAIN_SPLITS for row in splits[split]]
    # Counted but not removed: a grammar repeats its phrases, and no prompt is in two splits.
    held_out = HeldOut.of(text(row) for row in [*splits["validation"], *splits["test"]])
    _, found = held_out.compare([text(row) for row in train])
    styles = Counter(row.facts["_style"] for row in train if row.facts is not None)
    report = {
        "overlap": {**found._asdict(), "removed": 0},
        "styles": {style: count / max(len(train), 1) for style, count in sorted(styles.items())},
    }
    return PreparedData(splits, report=report)


def prepare_local(
    task: Task,
    *,
    path: str,
    files: Mapping[str, str] | None,
    columns: Mapping[str, str],
    pairs_path: str | None,
    pairs_columns: Mapping[str, str],
    shares: Mapping[Split, float],
    limits: Mapping[Split, int],
    max_bad_rows: int,
    max_turns: int,
    seed: int,
) -> PreparedData:
    """The data of files on disk; see `prepared.prepare` for the arguments and the report."""
    if max_turns < 1:
        raise UserError("data.max_turns", max_turns, "leaves no turn to answer", "set it to at least 1")
    mapping = Columns(columns, task.required_fields)
    found_files = find_files(path, files)
    _check_request(found_files, shares, limits, own_pairs="rejected" in columns, pairs_path=pairs_path)
    rows = {
        split: read_examples(paths, columns=mapping, label=split, max_bad_rows=max_bad_rows, max_turns=max_turns)
        for split, paths in found_files.items()
    }
    bad_rows = [problem for split in rows for problem in rows[split].bad_rows]
    text = _text_of(task)
    splits, pairs, duplicates = _split_rows(rows, shares, seed, text)
    if pairs_path is not None:
        own, bad_pairs = read_pairs(
            pairs_path, columns=pairs_columns, required_fields=task.required_fields, max_bad_rows=max_bad_rows
        )
        bad_rows += bad_pairs
        for pair in own:
            pairs[train_split(text(pair), PAIRS_SHARES, seed=seed)].append(pair)
    overlap, pairs_overlap = _remove_overlaps(splits, pairs, text, validation_from_train="validation" not in rows)
    _check_disjoint({split: splits[split] for split in TRAIN_SPLITS}, text)
    limited = {split: _limit(splits, limits, split, seed) + _limit(pairs, limits, split, seed) for split in limits}
    _check_filled(splits, shares, rows)
    report = {
        "bad_rows": {"count": len(bad_rows), "shown": bad_rows[:_SHOWN]},
        "duplicates": duplicates,
        "overlap": {**overlap._asdict(), "removed": overlap.exact + overlap.ngram8},
        "pairs_overlap": {**pairs_overlap._asdict(), "removed": pairs_overlap.exact + pairs_overlap.ngram8},
        "limited": limited,
    }
    return PreparedData(splits, pairs, report)


def _text_of(task: Task) -> TextOf:
    names = task.required_fields
    return lambda row: content(row.fields, names)


def _check_request(
    files: Mapping[FileSplit, object],
    shares: Mapping[Split, float],
    limits: Mapping[Split, int],
    *,
    own_pairs: bool,
    pairs_path: str | None,
) -> None:
    check_shares(shares)
    held_out: tuple[Literal["validation", "test"], ...] = ("validation", "test")
    for split in held_out:
        share = shares.get(split, 0)
        if split in files and share:
            rule = f"asks for {split} rows from the train file, but {split} has a file of its own"
            raise UserError(f"data.shares.{split}", share, rule, "set it to 0, or leave the file out with data.files")
        if split not in files and not share:
            rule = f"is needed: no file holds {split} rows"
            raise UserError(f"data.files.{split}", None, rule, f"name the file, or set data.shares.{split}=0.1")
    for name, limit in limits.items():
        if name not in SPLITS or limit < 1:
            rule = "is not a split" if name not in SPLITS else "is not at least 1"
            raise UserError(f"data.limits.{name}", limit, rule, f"give rows to keep of {', '.join(SPLITS)}")
    if own_pairs and pairs_path is not None:
        rule = "names pairs while data.columns.rejected takes them from the rows"
        raise UserError("data.pairs_path", pairs_path, rule, "use one of the two")


def _split_rows(
    rows: Mapping[FileSplit, LocalRows], shares: Mapping[Split, float], seed: int, text: TextOf
) -> tuple[dict[Split, list[Example]], dict[Split, list[PairExample]], dict[str, int]]:
    """Train rows by the hash of their prompt, the others as their files say; and the duplicates per file.

    A train row that repeats both prompt and response is dropped; in validation and test such rows are only counted.
    """
    splits: dict[Split, list[Example]] = {split: [] for split in SPLITS}
    pairs: dict[Split, list[PairExample]] = {split: [] for split in SPLITS}
    duplicates = {}
    for file_split in rows:
        first: dict[tuple[str, str], Example] = {}
        for row in rows[file_split].examples:
            first.setdefault((normalise(text(row)), row.response), row)
        duplicates[str(file_split)] = len(rows[file_split].examples) - len(first)
        if file_split == "train":
            for row in first.values():
                splits[train_split(text(row), shares, seed=seed)].append(row)
            for pair in rows[file_split].pairs:
                pairs[train_split(text(pair), shares, seed=seed)].append(pair)
        else:
            splits[file_split] = list(rows[file_split].examples)
            pairs[file_split] = list(rows[file_split].pairs)
    return splits, pairs, duplicates


def _remove_overlaps(
    splits: dict[Split, list[Example]],
    pairs: dict[Split, list[PairExample]],
    text: TextOf,
    *,
    validation_from_train: bool,
) -> tuple[Overlap, Overlap]:
    """Remove, in place, what overlaps with validation or test; returns the counts of examples and of pairs.

    Validation rows that were taken from the train file give way to test as train rows do.
    """
    counted = pairs_counted = Overlap(0, 0, 0)

    def rows_of(split: Split) -> list[str]:
        return [text(row) for row in splits[split]] + [text(pair) for pair in pairs[split]]

    if validation_from_train:
        test = HeldOut.of(rows_of("test"))
        splits["validation"], counted = remove_overlap(splits["validation"], test, text)
        pairs["validation"], pairs_counted = remove_overlap(pairs["validation"], test, text)
    held_out = HeldOut.of([*rows_of("validation"), *rows_of("test")])
    for split in TRAIN_SPLITS:
        splits[split], found = remove_overlap(splits[split], held_out, text)
        pairs[split], pairs_found = remove_overlap(pairs[split], held_out, text)
        counted, pairs_counted = counted.plus(found), pairs_counted.plus(pairs_found)
    return counted, pairs_counted


def _limit(rows: dict[Split, list[AnyRow]], limits: Mapping[Split, int], split: Split, seed: int) -> int:
    """Keep, in place, at most the split's limit of rows: those whose ids have the smallest hashes, in file order.

    So a smaller limit gives a subset of a larger one, and an order in the file does not bias it.
    """
    there = rows[split]
    excess = len(there) - limits[split]
    if excess <= 0:
        return 0
    ranked = sorted(range(len(there)), key=lambda i: fraction(there[i].id, purpose="limit", seed=seed))
    rows[split] = [there[i] for i in sorted(ranked[: limits[split]])]
    return excess


def _check_filled(
    splits: Mapping[Split, Sequence[Example]], shares: Mapping[Split, float], rows: Mapping[FileSplit, LocalRows]
) -> None:
    for split in SPLITS:
        wanted = shares.get(split, 0) > 0 or split in ("validation", "test")
        if wanted and not splits[split]:
            train = len(rows["train"].examples)
            key = f"data.files.{split}" if split in rows else f"data.shares.{split}"
            rule = f"gives no {split} rows ({train} train rows, overlap with validation and test removed)"
            raise UserError(key, shares.get(split), rule, "raise the share, set it to 0, or give more rows")


def _check_disjoint(splits: Mapping[Split, Sequence[Example]], text: TextOf) -> None:
    """Fail loudly should one normalised prompt stand in two splits: later numbers would not mean what they say."""
    owner: dict[str, Split] = {}
    for split, examples in splits.items():
        for row in examples:
            if owner.setdefault(normalise(text(row)), split) != split:
                raise RuntimeError(f"the prompt of {row.id} stands in both {owner[normalise(text(row))]} and {split}")
