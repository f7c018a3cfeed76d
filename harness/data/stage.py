"""The data stage: from a controlled world, files or the hub to splits on disk."""

from __future__ import annotations

from typing import Any

from harness.context import Job
from harness.stages import Workspace

VERSION = 1
ROWS_VERSION = 4
"""Bumped when what is made of rows (of files, of the hub) changes, while the controlled worlds stay."""


def run_data(workspace: Workspace, job: Job) -> dict[str, Any]:
    """Write the splits as jsonl and the report; the summary holds the report, content hash included.

    Data that no evaluation could be made of end the job here, before anything is trained.
    """
    from harness.data.sources import prepare

    config = job.config.data
    world = job.world if config.source == "controlled" else None
    with workspace.progress.stage(workspace.name, 1, "data set") as bar:
        data = prepare(job.task, config, world=world, folder=workspace.directory)
        job.require_test_prompts(data.splits["test"])
        data.write(workspace.directory)
        bar.update(1)
    counts = ", ".join(f"{split} {count}" for split, count in data.report["counts"].items())
    return {"report": data.report, "line": counts}
