"""The data stage: from a controlled world, files or the hub to splits on disk."""

from __future__ import annotations

from typing import Any

from harness.config import HubDataConfig, LocalDataConfig
from harness.context import Job
from harness.data.prepared import prepare
from harness.stages import Workspace

VERSION = 1
ROWS_VERSION = 4
"""Bumped when what is made of rows (of files, of the hub) changes, while the controlled worlds stay."""


def run_data(workspace: Workspace, job: Job) -> dict[str, Any]:
    """Write the splits as jsonl and the report; the summary holds the report, content hash included.

    Data that no evaluation could be made of end the job here, before anything is trained.
    """
    config = job.config.data
    sizes: Any = dict(config.sizes)
    shares: Any = dict(config.shares)
    limits: Any = dict(config.limits)
    rows: dict[str, Any] = {}
    if isinstance(config, LocalDataConfig):
        user, assistant = config.transcript_speakers
        rows = {"max_rows": config.max_rows, "cleaning": config.cleaning, "speakers": (user, assistant)}
    with workspace.progress.stage(workspace.name, 1, "data set") as bar:
        data = prepare(
            job.task,
            source=config.source,
            seed=config.seed,
            world=job.world if config.source == "controlled" else None,
            sizes=sizes,
            references=config.references,
            workers=config.workers,
            path=config.path,
            files=config.files,
            columns=config.columns,
            pairs_path=config.pairs_path,
            pairs_columns=config.pairs_columns,
            shares=shares,
            limits=limits,
            max_bad_rows=config.max_bad_rows,
            max_turns=config.max_turns,
            hub=config if isinstance(config, HubDataConfig) else None,
            folder=workspace.directory,
            **rows,
        )
        job.require_test_prompts(data.splits["test"])
        data.write(workspace.directory)
        bar.update(1)
    counts = ", ".join(f"{split} {count}" for split, count in data.report["counts"].items())
    return {"report": data.report, "line": counts}
