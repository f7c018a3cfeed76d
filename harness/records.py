"""Records: one immutable JSON file per piece of work, the only truth that the leaderboard reads."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict, Union, cast, get_args, get_origin, get_type_hints, is_typeddict

log = logging.getLogger(__name__)

SCHEMA = 1
DEPTH = 100
"""Levels of lists and objects in a record: far more than any configuration has, and few enough for Python to walk."""
LARGEST_INTEGER = 2**63 - 1

Status = Literal["ok", "unchanged", "collapsed", "failed"]


class MetricResult(TypedDict):
    """One metric before (the SFT policy) and after (the final one); a fixed row has its value in ``after`` alone.

    ``low`` and ``high`` bound the paired difference, ``after_low`` and ``after_high`` the value after: 95 %, over
    prompts.
    """

    before: float | None
    after: float | None
    delta: float | None
    low: float | None
    high: float | None
    after_low: float | None
    after_high: float | None
    signature: str


class WinRate(TypedDict):
    """A win rate on the 0-100 scale (50: an even match) with its 95 % interval over prompts."""

    value: float
    low: float
    high: float


class WinRates(TypedDict):
    """``judge``: after against before. ``reference``: after against the references. The rest: after against before."""

    judge: WinRate | None
    reference: WinRate | None
    lc: float | None
    proxy: float | None
    gold: float | None


class Scalars(TypedDict):
    """Numbers without an interval: shares and accuracies 0-100, ``kl`` in nats per response, lengths in tokens."""

    proxy_before: float | None
    proxy_after: float | None
    kl: float | None
    length_before: float | None
    length_after: float | None
    repetition_before: float | None
    repetition_after: float | None
    eos_before: float | None
    eos_after: float | None
    rm_accuracy: float | None
    judge_accuracy: float | None


class CurvePoint(TypedDict):
    """A point of a curve against √KL. Series: ``proxy``, ``judge``, ``gold``; best-of-n's as ``bon_proxy`` etc."""

    series: str
    sqrt_kl: float
    value: float


class Sample(TypedDict):
    """What was answered to one test prompt. ``scores`` may nest; ``gold_before`` is the gold of ``before``."""

    id: str
    prompt: str
    references: list[str]
    base: str | None
    before: str | None
    after: str
    scores: dict[str, Any]


class Groups(TypedDict, total=False):
    """The groups of a configuration that the leaderboard looks into; there are others."""

    task: dict[str, Any] | None
    data: dict[str, Any] | None
    algorithm: dict[str, Any] | None
    rollout: dict[str, Any] | None
    evaluation: dict[str, Any] | None


class _Required(TypedDict):
    schema: int
    run_id: str
    task: str
    candidate: str
    fixed: bool
    seed: int
    status: Status
    reason: str | None
    flags: list[str]
    model: str
    algorithm: str
    feedback: str
    judge: str
    data: str
    judge_fingerprint: str | None
    data_hash: str | None
    task_version: int
    config: Groups
    overrides: list[str]
    fingerprints: dict[str, str]
    fingerprint: str
    versions: dict[str, str]
    git_commit: str | None
    command: str
    created: str
    hardware: dict[str, Any]
    device: str
    wall_seconds: float
    peak_memory_mb: float | None
    n_examples: int
    metrics: dict[str, MetricResult]
    win_rates: WinRates
    scalars: Scalars
    report_card: dict[str, Any]
    data_report: dict[str, Any]
    curves: list[CurvePoint]
    samples: list[Sample]


class Record(_Required, total=False):
    """One candidate (or fixed row) on one task with one seed.

    ``metrics`` holds the task's metrics, ``gold``, its parts as ``gold_<part>``, and extra metrics. ``main_metric``
    names the one that the page shows first; where it is absent, the first of ``metrics`` is meant.
    ``api`` is what the answers of a model behind an endpoint took: see `harness.api.client.Usage`.
    ``judge_fingerprint`` and ``data_hash`` are None where there is no judge, or the run failed before there was one.
    """

    main_metric: str
    api: dict[str, Any]


def run_id(task: str, candidate: str, seed: int, fingerprint: str) -> str:
    """A record's name, safe as a file name: task, candidate, seed and 8 digits of the evaluation's fingerprint.

    A candidate whose name has to be changed or cut for the file system gets 6 digits of its hash, so that two never
    share a name.

    Args:
        task: the task's name.
        candidate: the candidate's, or the fixed row's.
        seed: of training; a row whose stage has no seed has the job's.
        fingerprint: of the evaluation; 8 hex digits or more.

    >>> run_id("qa", "algorithm.kl_coef=0.02", 1, "0123456789abcdef")
    'qa-algorithm.kl_coef=0.02-s1-01234567'
    """
    return f"{file_name_of(task)}-{file_name_of(candidate)}-s{seed}-{fingerprint[:8]}"


def file_name_of(name: str) -> str:
    """A name as part of a file name; one that had to be changed or cut gets 6 digits of its hash."""
    safe = re.sub(r"[^A-Za-z0-9._=+-]+", "_", name)[:80]
    if safe == name:
        return safe
    return f"{safe}~{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:6]}"


def write_record(path: Path, record: Record) -> bool:
    """Write a record atomically, by rename; a record that succeeded is never replaced.

    A failed record gives way to any later one, so does a file that cannot be read. Numbers that JSON does not know
    (NaN, infinity) are written as null: they are missing values.

    Returns: True where the file was written, False where an earlier success was left alone.
    Raises: ValueError where the record breaks the schema.
    """
    return write_typed(path, record, Record, SCHEMA)


def write_typed(path: Path, record: Mapping[str, Any], kind: Any, schema: int) -> bool:
    """`write_record` for records of any kind.

    Args:
        path: the file; its folder is made.
        record: what to write.
        kind: a TypedDict that has ``schema``, ``run_id`` and ``status``; the record must have its keys and types.
        schema: the version that ``record["schema"]`` of an earlier file must be for that file to count as one.

    Returns:
        True where the file was written, False where an earlier success was left alone.

    Raises:
        ValueError: the record breaks the schema.
    """
    from filelock import FileLock

    clean = _finite(record)
    problem = _problem(clean, kind, "")
    if problem:
        raise ValueError(f"record {record.get('run_id')}: {problem}")
    text = json.dumps(clean, ensure_ascii=False, allow_nan=False, indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.parent / ".lock"):
        if path.exists():
            earlier = _read(path, kind, schema)
            if not isinstance(earlier, str) and earlier["status"] != "failed":
                return False
        scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with scratch.open("w", encoding="utf-8", errors="replace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    return True


def read_records(folder: Path) -> list[Record]:
    """All records of a folder, by name; each that cannot be read is one logged warning, and is left out."""
    return cast("list[Record]", read_typed(folder, Record, SCHEMA))


def read_typed(folder: Path, kind: Any, schema: int) -> list[Any]:
    """`read_records` for records of any kind."""
    records: list[Any] = []
    for path in sorted(folder.glob("*.json")):
        found = _read(path, kind, schema)
        if isinstance(found, str):
            log.warning("record %s is left out: %s", path, found)
        else:
            records.append(found)
    return records


def _read(path: Path, kind: Any, schema: int) -> dict[str, Any] | str:
    """The record in a file, or what is wrong with it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError) as error:  # no text, no JSON, or an integer of thousands of digits
        return f"cannot be read ({error})"
    if _deeper_than(content, DEPTH):
        return f"is nested more than {DEPTH} levels deep"
    if isinstance(content, dict) and content.get("schema") != schema:
        return f"has schema {content.get('schema')!r}, and this version reads schema {schema}"
    return _problem(_finite(content), kind, "") or cast("dict[str, Any]", _finite(content))


def _deeper_than(content: Any, levels: int) -> bool:
    level = [content]
    for _ in range(levels):
        level = [
            item
            for value in level
            if isinstance(value, dict | list)
            for item in (value.values() if isinstance(value, dict) else value)
        ]
    return any(isinstance(value, dict | list) for value in level)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _problem(value: Any, hint: Any, where: str) -> str | None:
    """What keeps a JSON value from being of a type; None where nothing does."""
    if hint is Any:
        return None
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        problems = [_problem(value, option, where) for option in arguments]
        return None if None in problems else problems[0]
    if origin is Literal:
        return None if value in arguments else f"{where} is {value!r}, not one of {', '.join(map(str, arguments))}"
    if is_typeddict(hint):
        return _typeddict_problem(value, hint, where)
    kind = origin or hint
    # JSON has one number type, and Python calls True an int.
    fits = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
    if not fits:
        return f"{where or 'the file'} is {type(value).__name__}, not {kind.__name__}"
    if kind in (int, float) and isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        return f"{where} has more than 63 bits"
    if kind is list:
        items = ((f"{where}[{index}]", item) for index, item in enumerate(value))
    elif kind is dict:
        items = ((f"{where}.{key}", item) for key, item in value.items())
    else:
        return None
    return next(filter(None, (_problem(item, arguments[-1], at) for at, item in items)), None)


def _typeddict_problem(value: Any, hint: Any, where: str) -> str | None:
    if not isinstance(value, dict):
        return f"{where or 'the file'} is {type(value).__name__}, not an object"
    missing = sorted(hint.__required_keys__ - value.keys())
    if missing:
        return f"{where or 'the file'} lacks {', '.join(missing)}"
    hints = get_type_hints(hint)
    checks = (_problem(value[key], hints[key], f"{where}.{key}".lstrip(".")) for key in hints if key in value)
    return next(filter(None, checks), None)
