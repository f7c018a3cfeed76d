"""``lm_eval --model hf`` on a local task: it generates what was scored here.

lm_eval's dependencies do not agree with ours, so it lives in an environment of its own: see ``.ci/elsewhere``.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from harness.records import read_records

TASK = """task: ours
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: generate_until
test_split: test
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
generation_kwargs: {{until: [], max_gen_toks: 40, do_sample: false}}
filter_list:
  - name: stripped
    filter: [{{function: remove_whitespace}}, {{function: take_first}}]
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""


@pytest.mark.elsewhere
def test_lm_eval_generates_the_texts_that_were_scored(
    our_run: Path, our_models: dict[str, Path], tmp_path: Path
) -> None:
    python = os.environ.get("HARNESS_LM_EVAL")
    if not python:
        pytest.skip("HARNESS_LM_EVAL names no python with lm_eval; bash .ci/elsewhere makes one")
    (record,) = (r for r in read_records(our_run / "records") if r["candidate"] == "ours")
    rows = [{"prompt": sample["prompt"], "answer": sample["after"]} for sample in record["samples"]]
    wrong = {**rows[0], "answer": "what no policy says"}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, wrong]))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "ours.yaml").write_text(TASK.format(data=tmp_path / "rows.jsonl"))
    arguments = ["--model", "hf", "--model_args", f"pretrained={our_models['ppo']},dtype=float32", "--tasks", "ours"]
    arguments += ["--include_path", str(tmp_path / "tasks"), "--device", "cpu", "--batch_size", "4"]
    done = subprocess.run(
        [python, "-m", "lm_eval", "run", *arguments, "--output_path", str(tmp_path / "out")],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (found,) = (tmp_path / "out").rglob("results_*.json")
    accuracy = json.loads(found.read_text())["results"]["ours"]["exact_match,stripped"]
    assert accuracy == pytest.approx(len(rows) / (len(rows) + 1))
