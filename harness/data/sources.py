"""Data of a run from its sources: a controlled world, or rows (of files on disk, of the hub) shared out to splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple, TypeVar

from harness.config import DataConfig, HubDataConfig, LocalDataConfig
from harness.data.checks import check_references
from harness.data.cleaning import SHOWN, Tally
from harness.data.columns import Columns
from harness.data.controlled import generate
from harness.data.examples import Reader
from harness.data.files import FileSplit
from harness.data.overlap import HeldOut
from harness.data.prepared import PreparedData
from harness.data.rows import Row
from harness.data.sharing import SharedOut, share_out
from harness.data.splits import check_shares, content, normalise
from harness.errors import UserError
from harness.types import SPLITS, TRAIN_SPLITS, Example, PairExample, Split, Task, World

TextOf = Callable[[Example | PairExample], str]
RowsConfig = TypeVar("RowsConfig", bound=LocalDataConfig)


class Source(NamedTuple):
    """Where rows come from.

    Args:
        rows: of each split that has some of its own; each is read once.
        names: what the rows of a split come from, for messages.
        pairs: preference pairs of their own; None where there are none.
        pairs_name: what these come from.
    """

    rows: Mapping[FileSplit, Iterable[Row]]
    names: Mapping[FileSplit, str]
    pairs: Iterable[Row] | None = None
    pairs_name: str = ""


def prepare(task: Task, config: DataConfig, *, world: World | None = None, folder: Path | None = None) -> PreparedData:
    """Make the data of a run.

    Args:
        task: whose prompts are made of them.
        config: ``data.*``.
        world: what a controlled source draws from.
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
    if config.source == "controlled":
        if world is None:
            raise UserError("task.world", None, "is missing", "name the controlled world, or use data=local")
        return _reported(prepare_controlled(task, world, config), config)
    rows, facts = _rows(config)
    with TemporaryDirectory(prefix="harness-data-") as temporary:
        data = prepare_rows(task, rows, _of_kind(LocalDataConfig, config), folder or Path(temporary))
        data.report |= facts
        _reported(data, config)
        return data if folder is not None else data.in_memory()


def _reported(data: PreparedData, config: DataConfig) -> PreparedData:
    """The data, whose report says now what that of every source says."""
    data.report |= {
        "source": config.source,
        "counts": data.counts(),
        "pair_counts": data.counts(pairs=True),
        "content_hash": data.content_hash(),
    }
    return data


def _rows(config: DataConfig) -> tuple[Source, dict[str, Any]]:
    """Where rows are read from, files on disk or the hub, and what the report says of that."""
    if config.source not in ("local", "hub"):
        raise UserError("data.source", config.source, "is not a source of data", "use controlled, local or hub")
    if config.path is None:
        raise UserError("data.path", None, "is missing", "give a file or folder: data.path=PATH")
    if config.source == "hub":
        from harness.data.hub import hub_source

        return hub_source(_of_kind(HubDataConfig, config))
    from harness.data.local import local_source

    max_rows = _of_kind(LocalDataConfig, config).max_rows
    return local_source(config.path, config.files, config.pairs_path, max_rows), {}


def _of_kind(kind: type[RowsConfig], config: DataConfig) -> RowsConfig:
    """The configuration as one of its source; of another's (``data=controlled data.source=local``) what both have."""
    if isinstance(config, kind):
        return config
    known = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in vars(config).items() if name in known})


def prepare_controlled(task: Task, world: World, config: DataConfig) -> PreparedData:
    """The data of a controlled world; see `prepare` for the report.

    Args:
        task: whose required fields make up a prompt.
        world: draws the examples.
        config: how many, with which seed, and how many references for each.

    Raises:
        UserError: naming ``data.sizes.NAME`` (no split, below 0, or more different prompts than the world has) or
            ``data.references`` (more than the world has for each).
    """
    for name, size in config.sizes.items():
        if name not in SPLITS or size < 0:
            rule = "is not a split" if name not in SPLITS else "is less than 0"
            raise UserError(f"data.sizes.{name}", size, rule, f"give examples to make of {', '.join(SPLITS)}")
    check_references(world, config.references)
    sizes: Any = config.sizes
    splits = generate(world, task, seed=config.seed, sizes=sizes, references=config.references, workers=config.workers)
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


def prepare_rows(task: Task, source: Source, config: LocalDataConfig, folder: Path) -> PreparedData:
    """The data of rows, written into a folder; see `prepare` for the report.

    Args:
        task: whose required fields the rows must have.
        source: the rows; each is read once, so that data larger than memory will do.
        config: what is made of them.
        folder: where the splits are written as they are read; the data that are returned read them from there.

    Raises:
        UserError: naming the key: a setting that does not fit the rows, more unusable rows than ``data.max_bad_rows``,
            or a split that would be empty.
    """
    if config.max_turns < 1:
        raise UserError("data.max_turns", config.max_turns, "leaves no turn to answer", "set it to at least 1")
    shares: Any = config.shares
    limits: Any = config.limits
    mapping = Columns(config.columns, task.required_fields)
    own_pairs = "rejected" in config.columns
    check_request(source.rows, shares, limits, own_pairs=own_pairs, has_pairs=bool(source.pairs_name))
    readers = {
        split: _reader(rows, mapping, config, label=split, name=source.names[split])
        for split, rows in source.rows.items()
    }
    pairs = None
    if source.pairs is not None:
        columns = Columns(config.pairs_columns, task.required_fields, key="data.pairs_columns", pairs_only=True)
        pairs = _reader(source.pairs, columns, config, label="pairs", name=source.pairs_name)
    found = share_out(
        readers,
        pairs,
        folder,
        fields=task.required_fields,
        shares=shares,
        limits=limits,
        seed=config.seed,
        deduplicate=config.cleaning.deduplicate,
    )
    data = PreparedData.lines(folder)
    tallies = {str(split): reader.tally for split, reader in readers.items()}
    if pairs is not None:
        tallies["pairs"] = pairs.tally
    data.report = _report(found, tallies)
    _check_filled(data.counts(), shares, source.rows, tallies)
    return data


def _reader(rows: Iterable[Row], columns: Columns, config: LocalDataConfig, *, label: str, name: str) -> Reader:
    user, assistant = config.transcript_speakers
    return Reader(
        rows,
        columns,
        label=label,
        name=name,
        max_bad_rows=config.max_bad_rows,
        max_turns=config.max_turns,
        cleaning=config.cleaning,
        speakers=(user, assistant),
    )


def _report(found: SharedOut, tallies: Mapping[str, Tally]) -> dict[str, Any]:
    shown = [line for tally in tallies.values() for line in tally.shown]
    dropped = [line for tally in tallies.values() for line in tally.shown_dropped]
    counts = {label: asdict(tally) for label, tally in tallies.items()}
    return {
        "rows": {label: tally.rows for label, tally in tallies.items()},
        "bad_rows": {"count": sum(tally.bad for tally in tallies.values()), "shown": shown[:SHOWN]},
        "cleaning": {
            **{
                name: {label: count[name] for label, count in counts.items()}
                for name in ("normalised", "empty", "too_long")
            },
            "shown": dropped[:SHOWN],
        },
        "duplicates": found.duplicates,
        "pair_duplicates": found.pair_duplicates,
        "overlap": {**found.overlap._asdict(), "removed": found.overlap.exact + found.overlap.ngram8},
        "pairs_overlap": {
            **found.pairs_overlap._asdict(),
            "removed": found.pairs_overlap.exact + found.pairs_overlap.ngram8,
        },
        "limited": found.limited,
    }


def _text_of(task: Task) -> TextOf:
    names = task.required_fields
    return lambda row: content(row.fields, names)


def check_request(
    files: Mapping[FileSplit, object],
    shares: Mapping[Split, float],
    limits: Mapping[Split, int],
    *,
    own_pairs: bool,
    has_pairs: bool,
) -> None:
    """Raise UserError where files, shares, limits and pairs do not go together.

    Args:
        files: by the split whose rows they hold.
        shares: see `prepare`; likewise ``limits``.
        own_pairs: the rows hold preference pairs.
        has_pairs: a file of its own does.
    """
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
    if own_pairs and has_pairs:
        rule = "names pairs while data.columns.rejected takes them from the rows"
        raise UserError("data.pairs_path", None, rule, "use one of the two")


def _check_filled(
    counts: Mapping[Split, int],
    shares: Mapping[Split, float],
    rows: Mapping[FileSplit, object],
    tallies: Mapping[str, Tally],
) -> None:
    for split in SPLITS:
        wanted = shares.get(split, 0) > 0 or split in ("validation", "test")
        if wanted and not counts[split]:
            key = f"data.files.{split}" if split in rows else f"data.shares.{split}"
            rule = f"gives no {split} rows ({tallies['train'].rows} train rows, duplicates and overlap removed)"
            raise UserError(key, shares.get(split), rule, "raise the share, set it to 0, or give more rows")


def _check_disjoint(splits: Mapping[Split, Sequence[Example]], text: TextOf) -> None:
    """Fail loudly should one normalised prompt stand in two splits: later numbers would not mean what they say."""
    owner: dict[str, Split] = {}
    for split, examples in splits.items():
        for row in examples:
            if owner.setdefault(normalise(text(row)), split) != split:
                raise RuntimeError(f"the prompt of {row.id} stands in both {owner[normalise(text(row))]} and {split}")
