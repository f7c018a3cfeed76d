"""The reward models' table, from records made by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from harness.leaderboard.__main__ import main
from harness.leaderboard.build import build
from harness.leaderboard.reward_models import ABOUT, about, bench_columns, bench_rows
from harness.records import write_record
from harness.reward_bench.records import read_bench_records, write_bench_record

NASTY = """</script><script>alert("x")</script> <img src=x onerror='alert(1)'> & `a|b`"""


def interval(estimate: float, half: float = 2.0) -> dict[str, float]:
    return {"estimate": estimate, "low": estimate - half, "high": estimate + half}


def bench(candidate: str, accuracy: float | None = 60.0, **given: Any) -> Any:
    """A record of a classifier that is as accurate as said; None: of a failed job."""
    report = {
        "pairs": 100,
        "accuracy": interval(accuracy or 0),
        "margin": 0.5,
        "ece": 0.1,
        "length_correlation": 0.25,
        "subsets": {"hard": {"pairs": 40, "accuracy": interval(55.0)}},
        "longer": {"pairs": 90, "preferred": 70.0, "labelled": 40.0},
        "flip_rate": None,
        "best_of_n": [{"n": n, "prompts": 9, "random": 50.0, "best": 60.0, "oracle": 90.0, "gain": interval(n)}
                      for n in (2, 4)],
        "batch_invariance": {"pairs": 32, "max_difference": 1e-6, "verdicts_changed": 0},
    }  # fmt: skip
    made = {
        "schema": 1,
        "run_id": f"set-{candidate}-{given.get('fingerprint', 'f')}",
        "candidate": candidate,
        "kind": "classifier",
        "model": candidate,
        "task": "dialogue",
        "data": "set",
        "data_hash": "aa",
        "status": "ok" if accuracy is not None else "failed",
        "reason": None if accuracy is not None else "broke",
        "flags": [],
        "report": report if accuracy is not None else {},
        "data_report": {"pairs": 100},
        "config": {"scorer": {"batch_size": 8}},
        "overrides": [],
        "command": "python -m harness.reward_bench",
        "fingerprint": "f",
        "versions": {"torch": "2.0"},
        "git_commit": "c0ffee",
        "created": "2026-01-01T00:00:00",
        "hardware": {"cpu": "2 cores"},
        "device": "cpu",
        "wall_seconds": 10.0,
        "peak_memory_mb": 100.0,
    }
    return {**made, **given}


def test_rows_are_ranked_on_the_same_preferences_alone() -> None:
    rows = bench_rows(
        [bench("low", 51.0), bench("best", 80.0), bench("near", 79.0), bench("other", 99.0, data="z", data_hash="bb")]
    )
    assert [(row.record["candidate"], row.cells["rank"]) for row in rows] == [
        ("best", 1),
        ("near", 1),
        ("low", 3),
        ("other", 1),
    ]


def test_a_failure_stands_until_a_success_replaces_it() -> None:
    broken = bench("a", None, fingerprint="old")
    (row,) = bench_rows([broken])
    assert (row.cells["status"], "accuracy" in row.cells, "rank" in row.cells) == ("failed: broke", False, False)
    (row,) = bench_rows([broken, bench("a")])
    assert row.cells["status"] == "ok"


def scorer(**settings: Any) -> dict[str, Any]:
    return {"scorer": {"batch_size": 8, **settings}}


def test_a_failure_of_another_model_of_the_same_name_stands() -> None:
    rows = bench_rows(
        [
            bench("rm", 80.0, fingerprint="1", config=scorer(path="/a/rm")),
            bench("rm", None, fingerprint="2", config=scorer(path="/b/rm")),
            bench("rm", None, fingerprint="3", config=scorer(path="/a/rm") | {"device": "x"}),  # replaced
        ]
    )
    assert [(row.cells["status"], row.cells["flags"]) for row in rows] == [
        ("ok", "scorer.path=/a/rm"),
        ("failed: broke", "scorer.path=/b/rm"),
    ]


def test_rows_of_one_name_say_in_what_they_differ() -> None:
    made = [
        bench("rm", 80.0, fingerprint="1", config=scorer(max_tokens=None)),
        bench("rm", 60.0, fingerprint="2", config=scorer(max_tokens=32), flags=["50.0 % of prompts cut"]),
        bench("other", 70.0),
    ]
    assert [(row.cells["candidate"], row.cells["flags"]) for row in bench_rows(made)] == [
        ("rm", "scorer.max_tokens=None"),
        ("other", ""),
        ("rm", "50.0 % of prompts cut, scorer.max_tokens=32"),
    ]
    retrained = bench_rows([bench("rm", 80.0, fingerprint="1"), bench("rm", 60.0, fingerprint="2")])
    assert [row.cells["flags"] for row in retrained] == ["fingerprint=1", "fingerprint=2"]


def test_the_same_pairs_in_another_file_are_one_league(tmp_path: Path) -> None:
    made = [bench("x", 90.0), bench("y", 60.0, data="copy", run_id="y"), bench("z", 70.0, data="b", data_hash="bb")]
    assert [(row.cells["candidate"], row.cells["rank"]) for row in bench_rows(made)] == [("z", 1), ("x", 1), ("y", 2)]
    for each in made:
        write_bench_record(tmp_path, each)
    build(tmp_path, tmp_path / "site")
    assert "### b\n" in (text := (tmp_path / "site" / "leaderboard.md").read_text())
    assert text.count("### ") == 2
    assert "### copy, set\n" in text
    assert "copy, set · data hash aa" in (tmp_path / "site" / "index.html").read_text()


def test_every_column_says_what_it_is() -> None:
    columns = bench_columns(bench_rows([bench("a")]))
    assert all(about(column) for column in columns)
    assert set(ABOUT) <= set(columns)
    assert [name for name in columns if name.startswith("best_of")] == [
        *("best_of_2_gain", "best_of_2_gain_low", "best_of_2_gain_high"),
        *("best_of_4_gain", "best_of_4_gain_low", "best_of_4_gain_high"),
    ]
    assert "accuracy[hard]" in columns
    # Two answers alone would be the accuracy again: best-of-two counts prompts with three.
    assert about("best_of_2_gain").endswith("Prompts with at least 3 answers count.")
    assert about("best_of_4_gain").endswith("Prompts with at least 4 answers count.")


def test_the_table_stands_alone_and_beside_the_other(tmp_path: Path, record: Any) -> None:
    for made in (bench("a", 61.0), bench("b", None)):
        assert write_bench_record(tmp_path, made)
    assert [made["candidate"] for made in read_bench_records(tmp_path)] == ["a", "b"]
    table = build(tmp_path, tmp_path / "site")
    assert (len(table), table.attrs["reward_models"]) == (0, 2)
    assert not (tmp_path / "site" / "leaderboard.csv").exists()
    with (tmp_path / "site" / "reward_bench.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["candidate"], row["accuracy"], row["accuracy_low"], row["rank"]) for row in rows] == [
        ("a", "61", "59", "1"),
        ("b", "", "", ""),
    ]
    html, text = (tmp_path / "site" / "index.html").read_text(), (tmp_path / "site" / "leaderboard.md").read_text()
    assert 'aria-selected="true">reward models</button>' in html
    assert "| 1 | a | classifier | ok | 100 | 61.0 \\[59.0, 63.0\\] |" in text
    made = record("plain")
    write_record(tmp_path / "records" / "plain.json", made)
    table = build(tmp_path, tmp_path / "site")
    assert len(table) == 1
    html = (tmp_path / "site" / "index.html").read_text()
    assert 'id="task-0"' in html
    assert 'id="task-1"' in html
    assert html.index(">summarize</button>") < html.index(">reward models</button>")


def test_the_command_names_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bench_record(tmp_path, bench("a"))
    assert main(["build", f"runs={tmp_path}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "0 rows, 0 tasks, 1 reward model"
    assert [Path(line).name for line in lines[1:]] == ["reward_bench.csv", "leaderboard.md", "index.html"]


def test_every_text_is_escaped(tmp_path: Path) -> None:
    given = dict.fromkeys(("model", "data", "device", "command", "git_commit"), NASTY)
    report = bench("x")["report"]
    report["subsets"] = {NASTY: {"pairs": 2, "accuracy": interval(50.0)}}
    nasty = bench(NASTY, run_id="r", flags=[NASTY], report=report, config={NASTY: NASTY}, **given)
    write_bench_record(tmp_path, nasty)
    build(tmp_path, tmp_path / "site")
    html, text = (tmp_path / "site" / "index.html").read_text(), (tmp_path / "site" / "leaderboard.md").read_text()
    assert "<img" not in html + text
    assert html.count("<script") == 2


def test_a_record_that_breaks_the_schema_is_refused_and_left_out(tmp_path: Path, caplog: Any) -> None:
    with pytest.raises(ValueError, match="lacks report"):
        write_bench_record(tmp_path, {k: v for k, v in bench("a").items() if k != "report"})  # type: ignore[typeddict-item]
    (tmp_path / "reward_bench").mkdir(exist_ok=True)
    (tmp_path / "reward_bench" / "broken.json").write_text("{")
    unbounded = bench("a", report={"accuracy": {"estimate": 1.0, "low": None, "high": None}})
    (tmp_path / "reward_bench" / "unbounded.json").write_text(json.dumps(unbounded))
    assert read_bench_records(tmp_path) == []
    assert "broken.json is left out" in caplog.text
    assert "unbounded.json is left out: report.accuracy.low is NoneType, not float" in caplog.text
