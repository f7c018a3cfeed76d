"""Records of the reward bench: one immutable JSON file per reward model and file of preferences."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict, cast

from harness.records import Status, file_name_of, read_typed, write_typed

SCHEMA = 1
FOLDER = "reward_bench"
"""Where the records are, below ``output_dir``."""


class Bounded(TypedDict):
    """An estimate with its 95 % interval."""

    estimate: float
    low: float
    high: float


class SubsetAccuracy(TypedDict):
    """Without an interval where all its pairs are of one prompt."""

    estimate: float
    low: float | None
    high: float | None


class Subset(TypedDict):
    """Of a subset's pairs."""

    accuracy: SubsetAccuracy


class Gain(TypedDict):
    """By how much the best of n answers beats a random one."""

    n: int
    gain: Bounded


class BenchReport(TypedDict, total=False):
    """What the leaderboard reads of `harness.reward_bench.report.report`; there is more."""

    pairs: int
    prompts: int
    accuracy: Bounded
    ece: float | None
    margin: float | None
    length_correlation: float | None
    prompt_cut_share: float | None
    response_cut_share: float | None
    first_preferred: float | None
    subsets: dict[str, Subset] | None
    longer: dict[str, float | None] | None
    flip_rate: Bounded | None
    best_of_n: list[Gain] | None
    batch_invariance: dict[str, float | None] | None
    usage: dict[str, Any] | None


class BenchRecord(TypedDict):
    """One reward model on one file of preferences.

    ``report`` is what `harness.reward_bench.report.report` measured, empty where the job failed. ``data_hash`` covers
    the pairs as they were read; rows of one hash are ranked together.
    """

    schema: int
    run_id: str
    candidate: str
    kind: str
    model: str
    task: str
    data: str
    data_hash: str | None
    status: Status
    reason: str | None
    flags: list[str]
    report: BenchReport
    data_report: dict[str, Any]
    config: dict[str, Any]
    overrides: list[str]
    command: str
    fingerprint: str
    versions: dict[str, str]
    git_commit: str | None
    created: str
    hardware: dict[str, Any]
    device: str
    wall_seconds: float
    peak_memory_mb: float | None


def run_id(data: str, candidate: str, fingerprint: str) -> str:
    """A record's name, safe as a file name."""
    return f"{file_name_of(data)}-{file_name_of(candidate)}-{fingerprint[:8]}"


def write_bench_record(output_dir: Path, record: BenchRecord) -> bool:
    """Write it, as `harness.records.write_record` does."""
    return write_typed(output_dir / FOLDER / f"{record['run_id']}.json", record, BenchRecord, SCHEMA)


def read_bench_records(output_dir: Path) -> list[BenchRecord]:
    """All of an output folder, by name; what cannot be read is one logged warning each."""
    folder = output_dir / FOLDER
    return cast("list[BenchRecord]", read_typed(folder, BenchRecord, SCHEMA) if folder.is_dir() else [])
