"""What is read from a file of preferences, and what the report says of verdicts made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import UserError
from harness.reward_bench import run
from harness.reward_bench.config import PreferenceFileConfig
from harness.reward_bench.preferences import read_preferences
from harness.reward_bench.report import report
from harness.reward_bench.verdicts import Verdicts


def read(folder: Path, task: Any, rows: list[dict[str, Any]], **options: Any) -> Any:
    path = folder / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"turns": "turns", "chosen": "good", "rejected": "bad"}
    return read_preferences(PreferenceFileConfig(pairs_path=str(path), pairs_columns=columns, **options), task)


def row(prompt: str, good: str, bad: str, turns: int = 1) -> dict[str, Any]:
    return {"turns": [prompt] * turns, "good": good, "bad": bad}


def test_subsets_by_column_length_and_turns(preferences: Any) -> None:
    assert preferences.report["pairs"] == 12
    assert {name: len(rows) for name, rows in preferences.subsets.items()} == {
        "easy": 6,
        "hard": 6,
        # chosen has 4, 8 or 12 words by row % 3, rejected 5 or 7 by row % 2
        "length: chosen longer": 8,
        "length: chosen shorter": 4,
        "turns: 2-3": 12,
    }
    assert len(set(preferences.prompts)) == 4


def test_subsets_are_no_part_of_the_hash_and_decide_the_examination(pairs_file: Path, dialogue: Any) -> None:
    def of(**columns: str) -> Any:
        mapping = {"turns": "context", "chosen": "chosen", "rejected": "rejected", "id": "id", **columns}
        return read_preferences(PreferenceFileConfig(pairs_path=str(pairs_file), pairs_columns=mapping), dialogue)

    plain, parted, by_id = of(), of(subset="kind"), of(subset="id")
    assert len({found.report["content_hash"] for found in (plain, parted, by_id)}) == 1
    assert len({run._digest(found.subsets) for found in (plain, parted, by_id)}) == 3
    assert run._digest({"a": [0], "b": [1]}) != run._digest({"a": [1], "b": [0]})


def test_a_limit_takes_a_part_of_a_larger_one(tmp_path: Path, dialogue: Any) -> None:
    rows = [row(f"q{i}", "yes indeed", "no") for i in range(30)]
    small, large = (read(tmp_path, dialogue, rows, limit=n) for n in (5, 12))
    assert (len(small.pairs), small.report["left_out"], large.report["left_out"]) == (5, 25, 18)
    assert {pair.id for pair in small.pairs} < {pair.id for pair in large.pairs}
    assert small.report["content_hash"] != large.report["content_hash"]


def test_pairs_of_one_prompt_are_refused(tmp_path: Path, dialogue: Any) -> None:
    with pytest.raises(UserError, match="pairs of one prompt alone"):
        read(tmp_path, dialogue, [row("q", "a", "b"), row("q", "c", "d")])


def test_the_report_of_verdicts_made_by_hand(tmp_path: Path, dialogue: Any) -> None:
    """Right on q0 and q1, a tie on q2, wrong on q3: 62.5 %; the longer answer is preferred in 1, 1, ½ and 0 of 4."""
    rows = [
        row("q0", "long long answer", "short"),
        row("q1", "a longer one", "one", turns=4),
        row("q2", "three words here", "two words"),
        row("q3", "three more words", "one"),
    ]
    found = read(tmp_path, dialogue, rows)
    scores = np.array([2.0, 1.0, 0.5, -1.0, 0.0, 0.5, 0.5, 1.0])
    made = report(found, Verdicts(scores[:4] - scores[4:], scores), counts=[2], resamples=100)
    assert made["accuracy"]["estimate"] == 62.5
    assert made["accuracy"]["low"] < 62.5 < made["accuracy"]["high"]
    assert made["longer"] == {"pairs": 4, "preferred": 62.5, "labelled": 100.0}
    assert made["subsets"]["turns: 1"]["accuracy"]["estimate"] == 50.0
    assert made["subsets"]["turns: 4-5"]["accuracy"] == {"estimate": 100.0, "low": None, "high": None}
    assert made["flip_rate"] is None
    assert made["best_of_n"] == []
    # probabilities σ(2), σ(½), ½ and σ(2), outcomes 1, 1, ½, 0: bins [.5,.6): 0, [.6,.7): .378, [.8,.9): |.881 − ½| × 2
    sigmoid = {margin: 1 / (1 + np.exp(-margin)) for margin in (0.5, 2.0)}
    assert made["ece"] == pytest.approx((abs(sigmoid[0.5] - 1) + 2 * abs(sigmoid[2.0] - 0.5)) / 4)


def test_a_judge_that_states_no_score_has_no_calibration(tmp_path: Path, dialogue: Any) -> None:
    found = read(tmp_path, dialogue, [row("q0", "a b", "c"), row("q1", "a", "c d")])
    flips = np.array([False, True])
    made = report(found, Verdicts(np.array([1.0, 0.0]), None, flips), counts=[2], resamples=100)
    assert (made["accuracy"]["estimate"], made["flip_rate"]["estimate"]) == (75.0, 50.0)
    assert made["ece"] is made["reliability"] is None
    assert made["best_of_n"] == []


def conversations(folder: Path, task: Any, rows: list[dict[str, str]], **columns: str) -> Any:
    path = folder / "c.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    mapping = {"chosen": "good", "rejected": "bad", **columns}
    return read_preferences(PreferenceFileConfig(pairs_path=str(path), pairs_columns=mapping, max_bad_rows=1), task)


def test_whole_conversations_are_taken_apart_and_keep_their_subset(tmp_path: Path, dialogue: Any) -> None:
    before = "\n\nHuman: May I?\n\nAssistant: What?\n\nHuman: Go."
    rows = [
        {"good": f"{before}\n\nAssistant: Yes, do.", "bad": f"{before}\n\nAssistant: No.", "kind": "leave"},
        {
            "good": "\n\nHuman: Hi\n\nAssistant: Hello",
            "bad": "\n\nHuman: Hi\n\nAssistant: What now?",
            "kind": "greeting",
        },
        {"good": "\n\nHuman: Hi\n\nAssistant:", "bad": "\n\nHuman: Hi\n\nAssistant: Go away", "kind": "greeting"},
    ]
    found = conversations(tmp_path, dialogue, rows, subset="kind")
    assert [(pair.fields["turns"], pair.chosen, pair.rejected) for pair in found.pairs] == [
        (["May I?", "What?", "Go."], "Yes, do.", "No."),
        (["Hi"], "Hello", "What now?"),
    ]
    assert (found.subsets["leave"], found.subsets["greeting"]) == ([0], [1])
    assert found.report["bad_rows"]["count"] == 1  # without a reply: here nothing is dropped without being one
