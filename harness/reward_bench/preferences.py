"""Preferences to examine a reward model on: read through the column mapping, limited, with the subsets they are in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.config import CleaningConfig
from harness.data.columns import Columns
from harness.data.examples import Reader
from harness.data.rows import read_rows
from harness.data.splits import content, fraction
from harness.errors import UserError
from harness.reward_bench.config import PreferenceFileConfig
from harness.types import PairExample, Task

SUBSET = "subset"


class Preferences(NamedTuple):
    """Pairs in the file's order.

    Args:
        pairs: whose first response people (or a rule) preferred.
        prompts: (N,) each pair's uncut prompt fields as one text: equal for pairs of one prompt.
        subsets: name -> rows of the pairs in it; a pair may be in several.
        report: counts of pairs, of rows left out, bad, or with a text set right, and a hash of the pairs, whatever
            subsets they are in.
    """

    pairs: list[PairExample]
    prompts: list[str]
    subsets: dict[str, list[int]]
    report: dict[str, Any]


def read_preferences(config: PreferenceFileConfig, task: Task) -> Preferences:
    """Read ``data.pairs_path``.

    Raises:
        UserError: the mapping or the file is wrong, or the pairs are of one prompt alone.
    """
    named = (SUBSET,) if SUBSET in config.pairs_columns else ()
    file = Path(str(config.pairs_path)).expanduser()
    first, second = config.transcript_speakers
    rows = Reader(
        read_rows(file),
        Columns(config.pairs_columns, (*task.required_fields, *named), key="data.pairs_columns", pairs_only=True),
        label="pairs",
        name=str(file),
        max_bad_rows=config.max_bad_rows,
        cleaning=CleaningConfig(drop_empty=False),  # a row without a text is a bad row here: nothing is dropped
        speakers=(first, second),
    )
    found = [made.pair for made in rows if made.pair is not None]
    pairs = _limited(found, config.limit)
    prompts = [content(pair.fields, task.required_fields) for pair in pairs]
    if len(set(prompts)) < 2:
        rule = "holds pairs of one prompt alone, too few for an interval"
        raise UserError("data.pairs_path", config.pairs_path, rule, "give pairs of at least two prompts")
    report = {
        "pairs": len(pairs),
        "left_out": len(found) - len(pairs),
        "bad_rows": {"count": rows.tally.bad, "shown": rows.tally.shown},
        "normalised": rows.tally.normalised,
        "content_hash": _content_hash(pairs),
    }
    return Preferences(pairs, prompts, _subsets(pairs), report)


def _limited(pairs: list[PairExample], limit: int | None) -> list[PairExample]:
    """At most ``limit`` pairs, chosen by a hash of their ids, in the file's order: a smaller limit takes a part."""
    if limit is None or len(pairs) <= limit:
        return pairs
    ranked = sorted(range(len(pairs)), key=lambda row: fraction(pairs[row].id, purpose="limit", seed=0))
    return [pairs[row] for row in sorted(ranked[:limit])]


def _content_hash(pairs: Sequence[PairExample]) -> str:
    digest = hashlib.sha256()
    for pair in pairs:
        fields = {name: value for name, value in pair.fields.items() if name != SUBSET}
        line = json.dumps([fields, pair.chosen, pair.rejected], sort_keys=True, ensure_ascii=True)
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()[:16]


def _subsets(pairs: Sequence[PairExample]) -> dict[str, list[int]]:
    """By the mapped column, by which response is longer, and, in dialogues, by the number of turns."""
    found: dict[str, list[int]] = {}
    for row, pair in enumerate(pairs):
        names = [f"length: {_length_relation(pair)}"]
        if SUBSET in pair.fields:
            names.insert(0, str(pair.fields[SUBSET]))
        if "turns" in pair.fields:
            names.append(f"turns: {_turns(len(pair.fields['turns']))}")
        for name in names:
            found.setdefault(name, []).append(row)
    return dict(sorted(found.items()))


def _length_relation(pair: PairExample) -> str:
    chosen, rejected = words(pair.chosen), words(pair.rejected)
    return "chosen longer" if chosen > rejected else "chosen shorter" if chosen < rejected else "equal"


def _turns(count: int) -> str:
    return str(count) if count < 2 else "2-3" if count < 4 else "4-5" if count < 6 else "6+"


def words(text: str) -> int:
    """Length in words: the same for every reward model, whatever its tokens."""
    return len(text.split())
