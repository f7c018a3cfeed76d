"""Records of the reward bench: one immutable JSON file per reward model and file of preferences."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict, cast

from harness.records import Status, file_name_of, read_typed, write_typed

SCHEMA = 1
FOLDER = "reward_bench"
"""Where the records are, below ``output_dir``."""


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
    report: dict[str, Any]
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
