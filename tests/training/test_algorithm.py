"""The seam of algorithms: one that learns from the pairs themselves is a class and a YAML too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from smoke_run import smoke_run

from harness.records import read_records


@pytest.mark.extended
def test_an_algorithm_that_learns_from_pairs_is_one_class_and_one_yaml(tmp_path: Path) -> None:
    added = tmp_path / "conf/algorithm/dpo.yaml"
    added.parent.mkdir(parents=True)
    added.write_text("_target_: tiny_dpo.DPO\nname: dpo\n")
    rows = "evaluation.fixed_rows=[references,sft]"
    assert smoke_run("algorithm=dpo", f"output_dir={tmp_path}", rows, "--config-dir", str(added.parents[1])) == 0
    (record,) = (found for found in read_records(tmp_path / "records") if not found["fixed"])
    assert record["status"] == "ok"
    (feedback,) = tmp_path.glob("stages/feedback-*")
    (trained,) = tmp_path.glob("stages/dpo-*")
    passes = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert {row["pairs"] for row in passes} == {len((feedback / "pairs.jsonl").read_text().splitlines())}
    assert passes[-1]["accuracy"] > 0.75 > passes[0]["accuracy"], "the policy came to prefer what was preferred"
