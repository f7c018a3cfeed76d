from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from harness.records import read_records, run_id, write_record


def _record(**given: Any) -> Any:
    scalars = "proxy_before proxy_after kl length_before length_after repetition_before repetition_after eos_before"
    made = {
        "schema": 1,
        "run_id": "r",
        "task": "qa",
        "candidate": "default",
        "fixed": False,
        "seed": 1,
        "status": "ok",
        "reason": None,
        "flags": [],
        "model": "nano",
        "algorithm": "ppo",
        "feedback": "gold",
        "judge": "nano",
        "data": "controlled",
        "judge_fingerprint": None,
        "data_hash": "d",
        "task_version": 1,
        "config": {},
        "overrides": [],
        "fingerprints": {},
        "fingerprint": "ff",
        "versions": {},
        "git_commit": None,
        "command": "",
        "created": "2026-01-01",
        "hardware": {},
        "device": "cpu",
        "wall_seconds": 1.0,
        "peak_memory_mb": None,
        "n_examples": 3,
        "metrics": {},
        "win_rates": dict.fromkeys(("judge", "reference", "lc", "proxy", "gold")),
        "scalars": dict.fromkeys((*scalars.split(), "eos_after", "rm_accuracy", "judge_accuracy")),
        "report_card": {},
        "data_report": {},
        "curves": [],
        "samples": [],
    }
    return {**made, **given}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    record = _record(task="Übersetzung", report_card={"accuracy": 81.25, "by_gap": [1, 2]})
    assert write_record(tmp_path / "records" / "r.json", record)
    assert read_records(tmp_path / "records") == [record]
    assert not list((tmp_path / "records").glob("*.tmp"))


@pytest.mark.parametrize(
    ("first", "second", "stays"),
    [
        ("ok", "ok", "first"),
        ("collapsed", "ok", "first"),
        ("unchanged", "failed", "first"),
        ("ok", "failed", "first"),
        ("failed", "ok", "second"),
        ("failed", "failed", "second"),
    ],
)
def test_a_success_stays_and_a_failure_gives_way(tmp_path: Path, first: str, second: str, stays: str) -> None:
    path = tmp_path / "r.json"
    assert write_record(path, _record(status=first, command="first"))
    before = path.read_bytes()
    assert write_record(path, _record(status=second, command="second")) == (stays == "second")
    assert read_records(tmp_path)[0]["command"] == stays
    assert (path.read_bytes() == before) == (stays == "first")


def test_a_broken_file_gives_way(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{"schema": 1, "status": "ok"')
    assert write_record(tmp_path / "r.json", _record())
    assert len(read_records(tmp_path)) == 1


def test_numbers_that_json_does_not_know_become_null(tmp_path: Path) -> None:
    scalars = {**_record()["scalars"], "kl": float("nan")}
    write_record(tmp_path / "r.json", _record(scalars=scalars, report_card={"gaps": [float("inf"), 1.5]}))
    content = json.loads((tmp_path / "r.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert content["scalars"]["kl"] is None
    assert content["report_card"]["gaps"] == [None, 1.5]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": "1"}, "seed is str, not int"),
        ({"fixed": 1}, "fixed is int, not bool"),
        ({"n_examples": True}, "n_examples is bool, not int"),
        ({"status": "fine"}, "status is 'fine', not one of ok, unchanged, collapsed, failed"),
        ({"metrics": {"bleu": {"before": 1.0}}}, "metrics.bleu lacks after, after_high, after_low"),
        ({"curves": [{"series": "gold", "sqrt_kl": 0.0, "value": "x"}]}, "curves[0].value is str, not float"),
        ({"scalars": {}}, "scalars lacks eos_after"),
        ({"config": {"evaluation": "x"}}, "config.evaluation is str, not dict"),
        ({"wall_seconds": 10**400}, "wall_seconds has more than 63 bits"),
        ({"n_examples": 2**63}, "n_examples has more than 63 bits"),
    ],
)
def test_a_record_that_breaks_the_schema(tmp_path: Path, caplog: Any, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        write_record(tmp_path / "r.json", _record(**change))
    assert not (tmp_path / "r.json").exists()
    (tmp_path / "r.json").write_text(json.dumps(_record(**change)))
    with caplog.at_level(logging.WARNING):
        assert read_records(tmp_path) == []
    assert words in caplog.text


def test_unreadable_files_are_one_warning_each(tmp_path: Path, caplog: Any) -> None:
    write_record(tmp_path / "good.json", _record())
    (tmp_path / "cut.json").write_text('{"schema": 1,')
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "later.json").write_text('{"schema": 2}')
    (tmp_path / "missing.json").write_text(json.dumps({k: v for k, v in _record().items() if k != "device"}))
    (tmp_path / "notes.txt").write_text("not a record")
    with caplog.at_level(logging.WARNING):
        assert len(read_records(tmp_path)) == 1
    assert len(caplog.records) == 5
    for name in ("cut", "bytes", "list", "later", "missing"):
        assert sum(f"{name}.json" in message for message in caplog.messages) == 1
    assert "lacks device" in caplog.text
    assert "schema 2" in caplog.text


def test_what_python_cannot_walk_or_turn_into_numbers_is_left_out(tmp_path: Path, caplog: Any) -> None:
    deep: Any = 1
    for _ in range(600):
        deep = {"a": deep}
    write_record(tmp_path / "good.json", _record(config={"a": {"b": [{"c": 1}]}}))
    (tmp_path / "deep.json").write_text(json.dumps(_record(config=deep)))
    (tmp_path / "digits.json").write_text(json.dumps(_record()).replace('"seed": 1', f'"seed": {"9" * 5000}'))
    with caplog.at_level(logging.WARNING):
        assert len(read_records(tmp_path)) == 1
    assert len(caplog.records) == 2
    assert "deep.json is left out: is nested more than 100 levels deep" in caplog.text
    assert "digits.json is left out: cannot be read" in caplog.text


def test_run_ids_are_file_names(tmp_path: Path) -> None:
    assert run_id("qa", "default", 3, "0123456789abcdef") == "qa-default-s3-01234567"
    names = ["model.name=/a/b,x='ä b'", "model.name=_a_b_x=_b_", "../../etc", "a" * 500, "a" * 501, "new\nline", "*?"]
    found = [run_id("qa", name, 1, "f" * 64) for name in names]
    assert len(set(found)) == len(names)
    for name in found:
        (tmp_path / f"{name}.json").write_text("x")
        assert len(name.encode()) < 200
    assert len(list(tmp_path.iterdir())) == len(names)
