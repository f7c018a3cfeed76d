"""The reward models' table: records of the reward bench into rows, ranked by accuracy on the same preferences."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.leaderboard.ranking import ranks
from harness.leaderboard.rows import brief
from harness.reward_bench.records import BenchRecord
from harness.types import Interval

if TYPE_CHECKING:
    import pandas as pd

FIRST = ("rank", "data", "candidate", "model", "kind", "task", "status", "flags", "pairs", "prompts")
MEASURED = (
    *("accuracy", "accuracy_low", "accuracy_high", "ece", "margin", "length_correlation"),
    *("longer_preferred", "longer_labelled", "flip_rate", "flip_rate_low", "flip_rate_high", "first_preferred"),
    *("batch_max_difference", "batch_verdicts_changed", "prompt_cut_share", "response_cut_share"),
)
LAST = (
    "prompt_tokens",
    "response_tokens",
    "cost",
    "wall_seconds",
    "device",
    "peak_memory_mb",
    "data_hash",
    "fingerprint",
    "git_commit",
    "run_id",
)

ABOUT = {
    "rank": "By accuracy on the same pairs. Reward models that their intervals do not separate share a rank.",
    "data": "The preferences.",
    "candidate": "The reward model's name, or what the run called it.",
    "model": "Folder, hub id, or the name that the endpoint knows.",
    "kind": "classifier: scores one answer at a time. judge: sees both answers and names the better one.",
    "task": "Whose wording the prompts have.",
    "status": "ok or failed.",
    "flags": "What to know before reading the row.",
    "pairs": "Preferences that were judged.",
    "prompts": "Prompts that they are of. Intervals draw whole prompts, so these decide their width, not the pairs.",
    "accuracy": "Share of pairs whose chosen response is preferred (0-100); ties count one half. 50 is chance.",
    "ece": "Expected calibration error of σ(margin), 0 to 1. Empty for a judge, which states no probability.",
    "margin": "Mean score of chosen minus rejected, on the reward model's own scale; a judge's: votes, from -1 to 1.",
    "length_correlation": "Spearman's correlation of score with length in words.",
    "longer_preferred": "How often the longer response is preferred (0-100), where lengths differ.",
    "longer_labelled": "How often the labels prefer the longer response (0-100): what a fair reward model would do.",
    "flip_rate": "Share of pairs whose winner changed with the order of the answers (0-100). Judges alone.",
    "first_preferred": "How often the answer in the first place is preferred (0-100). A fair judge: 50.",
    "batch_max_difference": "Largest difference between a score in a batch and alone.",
    "batch_verdicts_changed": "Pairs whose winner changed between batch and alone, of at most 32.",
    "prompt_cut_share": "Share of texts whose prompt was cut, 0 to 1.",
    "response_cut_share": "Share of texts whose response was cut, 0 to 1.",
    "prompt_tokens": "Tokens of all requests, as the endpoint counts them.",
    "response_tokens": "Tokens of all its answers.",
    "cost": "Of all answers at the stated prices.",
    "wall_seconds": "Time it took when first run.",
    "device": "Where it ran.",
    "peak_memory_mb": "Peak memory.",
    "data_hash": "Of the pairs as they were read, subsets aside. Rows of one hash are ranked together.",
    "fingerprint": "Of the examination.",
    "git_commit": "The code's commit.",
    "run_id": "The record behind the row.",
}


# What of a configuration tells reward models, and ways to ask them, apart; the rest decides how fast they answer.
_SETTINGS = (
    *("scorer.kind", "scorer.path", "scorer.revision", "scorer.name", "scorer.base_url"),
    *("scorer.format", "scorer.max_tokens", "scorer.criterion", "scorer.answer_tokens"),
    *("scorer.api.protocol", "scorer.api.system", "scorer.api.options"),
    *("task.name", "task.template", "task.options"),
)


@dataclass(slots=True)
class BenchRow:
    """One row: its record, and column -> value; a column that is not here is an empty cell.

    Args:
        record: what was measured.
        cells: column -> value.
        flags: the record's, and what tells the row from others of its name.
    """

    record: BenchRecord
    cells: dict[str, Any] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)

    @property
    def league(self) -> str | None:
        """What rows must share to be ranked together: the pairs, whatever their file is called."""
        return self.record["data_hash"]


def bench_rows(records: Sequence[BenchRecord]) -> list[BenchRow]:
    """All rows, data by data: the ranked ones best first, then the failed ones that no success replaced.

    A success replaces the failures of the same reward model, asked in the same way about the same pairs.
    """
    done = {_examined(record) for record in records if record["status"] != "failed"}
    kept = [record for record in records if record["status"] != "failed" or _examined(record) not in done]
    rows = [BenchRow(record, _cells(record), list(record["flags"])) for record in kept]
    leagues: dict[str | None, list[BenchRow]] = {}
    for row in sorted(rows, key=lambda row: (row.record["data"], str(row.league))):
        leagues.setdefault(row.league, []).append(row)
    for members in leagues.values():
        members.sort(key=_order)
        names = ("accuracy", "accuracy_low", "accuracy_high")
        ranked = [row for row in members if all(name in row.cells for name in names)]
        for row, rank in zip(ranked, ranks([Interval(*(row.cells[n] for n in names)) for row in ranked]), strict=True):
            row.cells["rank"] = rank
        _tell_apart(members)
    for row in rows:
        row.cells["flags"] = ", ".join(row.flags)
    return [row for members in leagues.values() for row in members]


def league_label(members: Sequence[BenchRow]) -> str:
    """What the pairs of a league are called: each name that they have."""
    return ", ".join(sorted({row.record["data"] for row in members}))


def _examined(record: BenchRecord) -> tuple[str | None, str, str]:
    return record["data_hash"], record["candidate"], json.dumps(_settings(record), sort_keys=True)


def _settings(record: BenchRecord) -> dict[str, Any]:
    """What decides the verdicts, by key; None for a key that the configuration lacks."""
    found: dict[str, Any] = {}
    for key in _SETTINGS:
        value: Any = record["config"]
        for name in key.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        found[key] = value
    return found


def _tell_apart(members: Sequence[BenchRow]) -> None:
    """Flag rows of one name with those of their settings in which they differ, else with their fingerprint."""
    namesakes: dict[str, list[BenchRow]] = defaultdict(list)
    for row in members:
        namesakes[row.record["candidate"]].append(row)
    for group in (group for group in namesakes.values() if len(group) > 1):
        facts = [{**_settings(row.record), "data": row.record["data"], "device": row.record["device"]} for row in group]
        differing = [key for key in facts[0] if len({json.dumps(found[key]) for found in facts}) > 1]
        told = [", ".join(f"{key}={brief(found[key])}" for key in differing) for found in facts]
        for row, words in zip(group, told, strict=True):
            row.flags += [words] if words else []
            if told.count(words) > 1:
                row.flags.append(f"fingerprint={row.record['fingerprint']}")


def _order(row: BenchRow) -> tuple[object, ...]:
    return (-row.cells.get("accuracy", -1.0), row.record["candidate"], row.record["data"], row.record["run_id"])


def _cells(record: BenchRecord) -> dict[str, Any]:
    report = record["report"]
    words: Mapping[str, Any] = record
    status = record["status"] if record["reason"] is None else f"{record['status']}: {record['reason']}"
    cells: dict[str, Any] = {name: words[name] for name in (*FIRST[1:6], *LAST) if name in words} | {"status": status}
    batch, longer = report.get("batch_invariance") or {}, report.get("longer") or {}
    cells |= {name: report.get(name) for name in ("pairs", "prompts", "ece", "margin", "length_correlation")}
    cells |= {name: report.get(name) for name in ("prompt_cut_share", "response_cut_share", "first_preferred")}
    usage = report.get("usage") or {}
    cells |= {name: usage.get(name) for name in ("prompt_tokens", "response_tokens", "cost")}
    cells |= {"longer_preferred": longer.get("preferred"), "longer_labelled": longer.get("labelled")}
    cells |= {
        "batch_max_difference": batch.get("max_difference"),
        "batch_verdicts_changed": batch.get("verdicts_changed"),
    }
    cells |= _interval("accuracy", report.get("accuracy")) | _interval("flip_rate", report.get("flip_rate"))
    for gain in report.get("best_of_n") or []:
        cells |= _interval(f"best_of_{gain['n']}_gain", gain["gain"])
    for name, subset in (report.get("subsets") or {}).items():
        cells[f"accuracy[{name}]"] = subset["accuracy"]["estimate"]
    return {name: value for name, value in cells.items() if value is not None}


def _interval(name: str, found: Mapping[str, Any] | None) -> dict[str, Any]:
    return (
        {} if found is None else {name: found["estimate"], f"{name}_low": found["low"], f"{name}_high": found["high"]}
    )


def bench_columns(rows: Sequence[BenchRow]) -> list[str]:
    """The table's columns in its order; gains and subsets where some row has them."""
    there = dict.fromkeys(name for row in rows for name in row.cells)
    gains = sorted((name for name in there if name.startswith("best_of_")), key=_gain_order)
    subsets = sorted(name for name in there if name.startswith("accuracy["))
    return [*FIRST, *MEASURED, *gains, *subsets, *LAST]


def _gain_order(name: str) -> tuple[int, int]:
    kind = 1 if name.endswith("_low") else 2 if name.endswith("_high") else 0
    return int(name.split("_")[2]), kind


def bench_frame(rows: Sequence[BenchRow]) -> pd.DataFrame:
    """The table as in ``reward_bench.csv``."""
    import pandas as pd

    columns = bench_columns(rows)
    table = pd.DataFrame([[row.cells.get(column) for column in columns] for row in rows], columns=columns)
    whole = ("rank", "pairs", "prompts", "batch_verdicts_changed", "prompt_tokens", "response_tokens")
    return table.astype(dict.fromkeys(whole, "Int64"))


def about(column: str) -> str:
    """One sentence about a column."""
    for end, words in (("_low", "Lower"), ("_high", "Upper")):
        if column.endswith(end):
            return f"{words} end of the 95 % interval of {column.removesuffix(end)}."
    if column.startswith("best_of_"):
        n = column.split("_")[2]
        return (
            f"By how much the best of {n} answers by score beats a random one: share of chosen answers, in points. "
            f"Prompts with at least {max(int(n), 3) if n.isdigit() else f'{n}, and three,'} answers count."
        )
    if column.startswith("accuracy["):
        return f"Accuracy on the subset “{column[9:-1]}”."
    return ABOUT[column]


def shown(column: str, value: object) -> str:
    """A cell as text, with the decimals that its scale deserves."""
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    if column in ("batch_max_difference", "cost"):
        return f"{value:.1e}" if column != "cost" else f"{value:.4g}"
    two = ("ece", "margin", "length_correlation", "prompt_cut_share", "response_cut_share")
    return f"{value:.{2 if column in two else 0 if column in ('wall_seconds', 'peak_memory_mb') else 1}f}"
