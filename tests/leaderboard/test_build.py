from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from harness.leaderboard.__main__ import main
from harness.leaderboard.build import build
from harness.leaderboard.markdown import markdown
from harness.leaderboard.page import page
from harness.leaderboard.rows import rows_of
from harness.leaderboard.table import ranked_rows
from harness.records import write_record

NASTY = """</script><script>alert("x")</script> <img src=x onerror='alert(1)'> & \u2028 `a|b` $task ${prompt}"""


class Seen(HTMLParser):
    """What a browser would find: elements, their attributes, and the text outside of scripts."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self._in: str = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._in = tag

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        (self.scripts if self._in == "script" else self.text).append(data)


def _nasty(record: Any, metric: Any) -> Any:
    sample = {"id": NASTY, "prompt": NASTY, "references": [NASTY], "base": None, "before": NASTY, "after": NASTY}
    point = {"series": NASTY, "sqrt_kl": 1.0, "value": 2.0}
    made = record(
        candidate=NASTY,
        run_id="r",
        task=NASTY,
        command=NASTY,
        overrides=[NASTY],
        device=NASTY,
        model=NASTY,
        flags=[NASTY],
        config={NASTY: {NASTY: [NASTY]}},
        report_card={NASTY: NASTY},
        samples=[{**sample, "scores": {"gold_after": 2.0, NASTY: 1.0}}],
        curves=[point],
        git_commit=NASTY,
    )
    made["metrics"][NASTY] = metric(1.0, 2.0, 0.5, NASTY)
    return made


def test_every_text_is_escaped(record: Any, metric: Any) -> None:
    failed = record("other", status="failed", reason=NASTY, task=NASTY)
    seen = Seen(page(ranked_rows([_nasty(record, metric), failed])))
    assert [attributes.get("type") for tag, attributes in seen.elements if tag == "script"] == [
        "application/json",
        None,
    ]
    assert not any(tag == "img" for tag, _ in seen.elements)
    assert not any(name.startswith("on") for _, attributes in seen.elements for name in attributes)
    assert any(NASTY in text for text in seen.text)
    (embedded,) = [script for script in seen.scripts if script.lstrip().startswith("[")]
    assert json.loads(embedded)[0][0]["samples"][0]["texts"][1]["text"] == NASTY


def test_texts_break_no_line_of_the_csv_and_are_no_formulas(tmp_path: Path, record: Any, metric: Any) -> None:
    names = ['=HYPERLINK("http://x","y")', "+1", "-x", "@x", " =1", "a\rb", "a\r\nb", "plain"]
    for number, name in enumerate(names):
        made = record(name, run_id=f"r{number}", after=29.0)
        made["metrics"]["=len\r"] = metric(1.0, 2.0, 0.5, "s")
        write_record(tmp_path / "records" / f"r{number}.json", made)
    build(tmp_path, tmp_path / "site")
    with (tmp_path / "site" / "leaderboard.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["candidate"] for row in rows) == sorted(
        ['\'=HYPERLINK("http://x","y")', "'+1", "'-x", "'@x", "' =1", "a b", "a\nb", "plain"]
    )
    assert {row["rouge1_delta"] for row in rows} == {"-1"}  # a number stays one
    assert {row["'=len _after"] for row in rows} == {"2"}


def test_metric_names_are_escaped_in_markdown(record: Any, metric: Any) -> None:
    made = record(main_metric="a|b <i>")
    made["metrics"]["a|b <i>"] = metric(1.0, 2.0, 0.5, "s")
    lines = markdown(ranked_rows([made])).splitlines()
    (head,) = [line for line in lines if line.startswith("| rank |")]
    assert "| a\\|b &lt;i&gt; |" in head
    columns = [len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")]
    assert len(set(columns)) == 1


def test_no_external_request(record: Any, metric: Any) -> None:
    html = page(ranked_rows([record("plain"), record("references", fixed=True)]))
    assert not re.search(r"https?:|//[a-z]|@import|url\(", html)
    for tag, attributes in Seen(html).elements:
        assert "src" not in attributes
        assert attributes.get("href", "data:,") == "data:,"
        assert tag not in ("iframe", "object", "embed")


def test_ids_are_unique_and_point_somewhere(record: Any) -> None:
    seen = Seen(page(ranked_rows([record(task="qa"), record(task="translate")])))
    ids = [attributes["id"] for _, attributes in seen.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in seen.elements:
        for name in ("aria-controls", "aria-labelledby"):
            assert attributes.get(name, ids[0]) in ids


def test_the_page_shows_controls_flags_intervals_and_curves(record: Any) -> None:
    curves = [
        {"series": name, "sqrt_kl": x, "value": x * x} for name in ("proxy", "bon_proxy", "gold") for x in (0.0, 1.0)
    ]
    rows = ranked_rows(
        [record(gold=(3.0, 2.0), curves=curves), record("sft", fixed=True, after=30.0), record("c", data_hash="other")]
    )
    html = page(rows)
    seen = Seen(html)
    classes = [attributes.get("class") or "" for _, attributes in seen.elements]
    assert classes.count("badge control") >= 1
    assert "over-optimised" in html
    assert "Not comparable with the rows above: other data." in html
    assert sum(name == "bar" for name in classes) >= 6
    assert sum(name == "panel" for name in classes) == 2
    assert "line bon proxy" in classes
    assert all(attributes.get("aria-label") for tag, attributes in seen.elements if tag == "svg")
    assert sum("aria-sort" in attributes for tag, attributes in seen.elements if tag == "th") > 10


def test_the_samples_carry_their_scores(record: Any) -> None:
    scores = {"gold_before": 1.0, "before": {"judge": 0.5}, "rouge1_after": 71.43, "win": 1.0, "lost": None}
    sample = {
        "id": "t1",
        "prompt": "p",
        "references": ["r"],
        "base": None,
        "before": "b",
        "after": "",
        "scores": scores,
    }
    html = page(rows_of([record(samples=[sample])]))
    (embedded,) = [script for script in Seen(html).scripts if script.lstrip().startswith("[")]
    (found,) = json.loads(embedded)[0][0]["samples"]
    assert found["texts"] == [
        {"name": "before", "text": "b", "scores": [["gold", "1.00"], ["judge", "0.50"]]},
        {"name": "after", "text": "", "scores": [["rouge1", "71.4"]]},
    ]
    assert found["scores"] == [["win", "1.00"]]


def test_build_writes_the_same_files_from_the_same_records(record: Any, tmp_path: Path) -> None:
    for index, made in enumerate(
        (record("b", reference=40.0), record("a"), record("references", fixed=True, reference=50.0))
    ):
        write_record(tmp_path / "runs" / "records" / f"{index}.json", made)
    table = build(tmp_path / "runs", tmp_path / "one")
    build(tmp_path / "runs", tmp_path / "two")
    names = ["index.html", "leaderboard.csv", "leaderboard.md"]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    with (tmp_path / "one" / "leaderboard.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["candidate"] for row in rows] == ["references", "b", "a"] == list(table["candidate"])
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert (rows[0]["rouge1_before"], rows[0]["rouge1_delta"], rows[0]["win_rate"]) == ("", "", "")
    assert (rows[1]["rouge1_delta_low"], rows[1]["n_examples"], rows[1]["kl"]) == ("9", "1000", "")


def test_markdown_survives_any_text(record: Any, metric: Any, tmp_path: Path) -> None:
    write_record(tmp_path / "records" / "r.json", _nasty(record, metric))
    build(tmp_path, tmp_path / "to")
    lines = (tmp_path / "to" / "leaderboard.md").read_text(encoding="utf-8").split("\n")
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 3
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert "<script" not in "".join(table)


def test_the_command(record: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write_record(tmp_path / "runs" / "records" / "r.json", record())
    (tmp_path / "runs" / "records" / "broken.json").write_text("{")
    assert main(["build", f"runs={tmp_path / 'runs'}", f"to={tmp_path / 'site'}"]) == 0
    assert (tmp_path / "site" / "index.html").exists()
    monkeypatch.chdir(tmp_path)
    assert main(["build"]) == 0
    assert (tmp_path / "runs" / "leaderboard" / "leaderboard.csv").exists()
    assert main(["--help"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["build", "form=x"], "form=x is not a setting; use runs=DIR or to=DIR"),
        (["build", "runs"], "runs is not a setting"),
        (["build", "runs="], "runs is empty"),
        (["build", "runs=a", "runs=b"], "was given before as a"),
        (["build", "runs=no/such/folder"], "holds no readable records/*.json"),
        (["make"], "command=make is not known; say: build"),
        ([], "command is not known"),
    ],
)
def test_a_wrong_command_is_one_message_and_status_2(
    arguments: list[str], words: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_a_folder_that_cannot_be_written(record: Any, tmp_path: Path, capsys: Any) -> None:
    write_record(tmp_path / "records" / "r.json", record())
    (tmp_path / "file").write_text("")
    assert main(["build", f"runs={tmp_path}", f"to={tmp_path / 'file'}"]) == 2
    assert "cannot be written" in capsys.readouterr().err
