"""Rows of data sets on the Hugging Face hub: the source that ``data=hub`` names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from harness.config import HubDataConfig
from harness.data.files import SPLIT_NAMES, FileSplit
from harness.data.local import first_rows
from harness.data.rows import Row, read_rows
from harness.data.sources import Source
from harness.errors import UserError
from harness.hub import Keys, explain, first_line, is_offline, resolve_commit

_BATCH = 1000
_TRIES = 2
"""Of `datasets` for each block that it streams; its own twenty, five seconds apart, hide that the hub is gone."""


class Repository(NamedTuple):
    """A data set's repository at one commit.

    Args:
        name: ``organisation/name``.
        config: which of its configurations; None where it has one alone.
        revision: what was asked for; None: the main branch.
        commit: what that stood for when it was asked for first.
        keys: the configuration keys that name all this.
    """

    name: str
    config: str | None
    revision: str | None
    commit: str
    keys: Keys


def repositories(config: HubDataConfig) -> dict[str, Repository]:
    """The repositories of the rows (``rows``) and of the preference pairs (``pairs``), where they are on the hub.

    Raises:
        UserError: as `hub.resolve_commit`.
    """
    keys = Keys("data.path", "data.revision")
    found = {"rows": _resolved(str(config.path), config.config, config.revision, keys)}
    if config.pairs_path and not is_file_path(config.pairs_path):
        same = config.pairs_path == config.path
        revision = config.pairs_revision or (config.revision if same else None)
        keys = Keys("data.pairs_path", "data.pairs_revision")
        found["pairs"] = _resolved(config.pairs_path, config.pairs_config, revision, keys)
    return found


def is_file_path(path: str) -> bool:
    """Whether a path is meant as one of this machine, and no repository."""
    return path.startswith((".", "/", "~"))


def _resolved(name: str, config: str | None, revision: str | None, keys: Keys) -> Repository:
    return Repository(name, config, revision, resolve_commit(name, revision, "dataset", keys), keys)


def hub_source(config: HubDataConfig) -> tuple[Source, dict[str, Any]]:
    """The rows of a repository's splits, and of the pairs' one; and what the report says of where they come from.

    Splits are taken by their names (train, validation or valid, val, dev, test) unless ``data.splits`` names them.

    Raises:
        UserError: where a repository, configuration or split is not there or cannot be read (data.path, data.config,
            data.revision, data.splits, data.files, and those of the pairs).
    """
    there = repositories(config)
    repository = there["rows"]
    opened = _open(repository, dict(config.files) or None, streaming=config.streaming)
    splits = _chosen_splits(opened, config.splits, repository)
    rows: dict[FileSplit, Iterable[Row]] = {
        split: _rows(opened, name, f"data.splits.{split}", repository) for split, name in splits.items()
    }
    names: dict[FileSplit, str] = {split: f"{repository.name} {name}" for split, name in splits.items()}
    pairs: Iterable[Row] | None = None
    if "pairs" in there:
        own = _open(there["pairs"], None, streaming=config.streaming)
        pairs = _rows(own, config.pairs_split, "data.pairs_split", there["pairs"])
    elif config.pairs_path:
        pairs = read_rows(Path(config.pairs_path).expanduser())
    facts = {name: {**found._asdict(), "keys": None} for name, found in there.items()}
    for fact in facts.values():
        del fact["keys"]
    facts["rows"]["splits"] = dict(splits)
    source = Source(rows, names, pairs, str(config.pairs_path or ""))
    return first_rows(source, config.max_rows), {"hub": facts}


class _Opened(NamedTuple):
    """A data set that can be read: its builder where it lies on disk, its splits where it is streamed."""

    builder: Any
    streams: Mapping[str, Any] | None

    @property
    def splits(self) -> list[str]:
        return list(self.builder.info.splits if self.streams is None else self.streams)


def _open(repository: Repository, files: dict[str, str] | None, *, streaming: bool) -> _Opened:
    import datasets

    for split, file in (files or {}).items():
        if is_file_path(file) or ".." in file.split("/"):
            raise UserError(f"data.files.{split}", file, f"is no path inside {repository.name}", "give a file of it")
    datasets.config.STREAMING_READ_MAX_RETRIES = datasets.config.STREAMING_OPEN_MAX_RETRIES = _TRIES
    with _our_words(repository), _quiet():
        builder = _builder(repository, files)
        if streaming:
            return _Opened(builder, builder.as_streaming_dataset())
        builder.download_and_prepare()
        return _Opened(builder, None)


def _builder(repository: Repository, files: dict[str, str] | None) -> Any:
    """The builder of `datasets` for the right commit.

    Offline, and wherever the hub fails, `datasets` takes the latest commit in its cache; the right one may be there.
    """
    import datasets

    def load(**options: Any) -> Any:
        return datasets.load_dataset_builder(
            repository.name, repository.config, revision=repository.commit, data_files=files, **options
        )

    try:
        builder = load()
    except ValueError as error:
        if "Couldn't find cache" in str(error):
            _raise_reason(load, repository)
        raise
    if builder.hash == repository.commit:
        return builder
    if not Path(builder.cache_dir).with_name(repository.commit).is_dir():
        _raise_reason(load, repository)
    return type(builder)(
        dataset_name=builder.dataset_name,
        repo_id=repository.name,
        config_name=builder.config.name,
        version=str(builder.config.version),
        hash=repository.commit,
    )


def _raise_reason(load: Callable[..., Any], repository: Repository) -> None:
    """Raise why the hub could not be used: with an empty cache there is nothing to fall back on."""
    if not is_offline():
        with TemporaryDirectory(prefix="harness-cache-") as empty:
            load(cache_dir=empty)
    rule = f"has nothing in the cache for this configuration at commit {repository.commit}"
    raise UserError(repository.keys.name, repository.name, rule, "run once without HF_HUB_OFFLINE, the hub in reach")


def _chosen_splits(opened: _Opened, asked: Mapping[str, str], repository: Repository) -> dict[FileSplit, str]:
    """Our split -> theirs."""
    there = opened.splits
    for name in asked:
        if name not in SPLIT_NAMES:
            rule = "is not a split that rows can have on the hub"
            raise UserError(f"data.splits.{name}", asked[name], rule, f"use {', '.join(SPLIT_NAMES)}")
    if asked:
        return {split: asked[split] for split in SPLIT_NAMES if split in asked}
    chosen = {split: [name for name in names if name in there] for split, names in SPLIT_NAMES.items()}
    if not chosen["train"]:
        rule = f"has no split named train; it has {', '.join(there) or 'none'}"
        raise UserError(repository.keys.name, repository.name, rule, "name them: data.splits.train=NAME")
    return {split: names[0] for split, names in chosen.items() if names}


def _rows(opened: _Opened, split: str, key: str, repository: Repository) -> Iterator[Row]:
    """The rows of one split; sliced (``train[:1000]``) where it is not streamed."""
    place = f"{repository.name}@{repository.commit[:8]} {split} row"
    bare = split.partition("[")[0].partition("+")[0]
    if bare not in opened.splits or (opened.streams is not None and split != bare):
        rule = f"is no split of {repository.name}" if split == bare else "cannot be sliced"
        raise UserError(key, split, rule, f"its splits are {', '.join(opened.splits)}")
    return _numbered(opened, split, place, repository)


def _numbered(opened: _Opened, split: str, place: str, repository: Repository) -> Iterator[Row]:
    number = 0
    with _our_words(repository), _quiet():
        table = opened.builder.as_dataset(split=split) if opened.streams is None else opened.streams[split]
        batches = table.iter(batch_size=_BATCH)
    while True:
        with _our_words(repository):
            batch = next(batches, None)
        if batch is None:
            return
        for values in zip(*batch.values(), strict=True):
            number += 1
            yield Row(f"{place} {number}", dict(zip(batch, values, strict=True)))


@contextmanager
def _our_words(repository: Repository) -> Iterator[None]:
    """What `datasets` raises over a repository, as the mistake that it stands for."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        text = " ".join(str(error).split())
        if "Config name is missing" in text or ("BuilderConfig" in text and "not found" in text):
            key = "data.config" if repository.keys.name == "data.path" else "data.pairs_config"
            rule = f"is no configuration of {repository.name}" if repository.config else "is missing"
            raise UserError(key, repository.config, rule, f"choose one ({text})") from error
        raise explain(error, repository.name, repository.revision, repository.keys) from error
    except Exception as error:
        if type(error).__name__ in ("EmptyDatasetError", "DataFilesNotFoundError") or (
            isinstance(error, FileNotFoundError) and "Unable to find" in str(error)
        ):
            rule = f"has no data files that can be read ({first_line(error)})"
            raise UserError(repository.keys.name, repository.name, rule, "name them with data.files.train") from error
        raise explain(error, repository.name, repository.revision, repository.keys) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars and notices of `datasets`, which would break into ours."""
    import datasets

    level = datasets.logging.get_verbosity()
    shown = datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if not shown:
            datasets.enable_progress_bars()
