"""vLLM itself as the engine of rollouts. HARNESS_VLLM names the Python of an environment with it and the harness."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.elsewhere,
    pytest.mark.skipif(not os.environ.get("HARNESS_VLLM"), reason="HARNESS_VLLM is not set; see .ci/elsewhere"),
]
ASK = Path(__file__).parents[1] / "reference" / "ask_vllm.py"


def run(*arguments: str, folder: Path) -> str:
    found = subprocess.run(
        [os.environ["HARNESS_VLLM"], *arguments], cwd=folder, capture_output=True, text=True, timeout=1500, check=False
    )
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-4000:]
    return found.stdout


def test_greedy_answers_are_ours_before_and_after_training_and_samples_follow_their_seed(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [
        json.loads(line) for line in run(str(ASK), folder=tmp_path).splitlines() if line.startswith("{")
    ]
    greedy, drawn = [line for line in lines if "equal" in line], [line for line in lines if "again" in line]
    assert [(line["architecture"], line["trained"]) for line in greedy] == [
        (name, trained) for name in ("gpt2", "llama") for trained in (False, True)
    ]
    for line in greedy:
        assert line["equal"] == line["rows"], line
        assert line["logprobs"] < 1e-4, line
        assert line["gap"] < 1e-4, line
    assert any(line["ended"] for line in greedy)
    for line in drawn:
        assert line["again"] == 24, line
        assert line["other_seed"] < 12, line
        assert line["likeliest"] == 24, line


def test_the_whole_loop_runs_on_it(tmp_path: Path) -> None:
    arguments = ("experiment=smoke", "task=qa", "rollout.engine=vllm", "evaluation.engine=vllm")
    rows = "evaluation.fixed_rows=[references,sft,best-of-n]"
    run("-m", "harness", *arguments, rows, f"output_dir={tmp_path}", folder=tmp_path)
    records = [json.loads(path.read_text()) for path in (tmp_path / "records").glob("*.json")]
    (record,) = (found for found in records if not found["fixed"])
    assert record["status"] == "ok"
    assert record["config"]["rollout"]["engine"] == "vllm"
