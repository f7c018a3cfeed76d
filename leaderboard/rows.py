"""Records into rows: one per task and candidate, the training seeds aggregated."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal, NamedTuple

from harness.evaluation.statistics import t_interval
from harness.leaderboard.ranking import League
from harness.records import Record
from harness.types import Interval

TASK_METRICS = (
    *("bleu", "rouge1", "rouge2", "rougeL", "rougeLsum"),
    *("chrf", "exact_match", "f1", "distinct1", "distinct2"),
)
METRIC_CELLS = ("before", "after", "delta", "delta_low", "delta_high")
SCALARS = (
    *("proxy_before", "proxy_after", "kl", "length_before", "length_after", "repetition_before", "repetition_after"),
    *("eos_before", "eos_after", "rm_accuracy", "judge_accuracy"),
)
LABELS = ("model", "algorithm", "feedback", "judge", "data")

# What makes two records of one name the same set-up. A fixed row depends on less than a candidate does.
_SETUP = ("task", "data", "model", "sft", "feedback", "reward_model", "judge", "algorithm", "rollout", "evaluation")
_FIXED_SETUP = {
    "base": ("model",),
    "sft": ("model", "sft"),
    "sft-more": ("model", "sft"),
    "best-of-n": ("model", "sft", "feedback", "reward_model"),
}
# The settings outside those groups that a fixed row depends on: every one on what is asked, and how long it may be.
_TASK_SETTINGS = ("task.template", "task.options", "task.max_prompt_tokens", "task.max_response_tokens")
_POLICY_SETTINGS = ("evaluation.temperature",)
_FIXED_SETTINGS = {
    "base": _POLICY_SETTINGS,
    "sft": _POLICY_SETTINGS,
    "sft-more": (*_POLICY_SETTINGS, "algorithm.episodes", "algorithm.epochs"),
    "best-of-n": ("evaluation.best_of_n", "rollout.temperature", "rollout.top_k", "rollout.top_p"),  # its samples'
}
_CONFIDENCE = 0.95
_FLAG_LENGTH = 40

Level = Literal["prompts", "seeds"]


@dataclass(slots=True)
class Row:
    """One row of the table, and the records behind it.

    Args:
        records: the successful ones, one per seed, by seed.
        failed: the failed ones, of seeds that have no success here.
        cells: column -> value; a column that is not here is an empty cell.
        levels: quantity -> what its interval is over, for the quantities that have one.
        after: metric -> the interval of its value after, for rows that have one.
        league: 0 for the rows that are ranked together, other numbers for rows that cannot be compared with those.
        apart: what sets the row's league apart from league 0, in words.
    """

    records: list[Record]
    failed: list[Record]
    cells: dict[str, Any] = field(default_factory=dict)
    levels: dict[str, Level] = field(default_factory=dict)
    after: dict[str, Interval] = field(default_factory=dict)
    league: int = 0
    apart: list[str] = field(default_factory=list)

    @property
    def first(self) -> Record:
        return (self.records or self.failed)[0]

    @property
    def fixed(self) -> bool:
        return self.first["fixed"]

    @property
    def metrics(self) -> list[str]:
        """The metrics that have columns; the parts of gold (``gold_<part>``) stay in the record."""
        return [name for name in metric_names(self.records) if not name.startswith("gold_")]


def metric_names(records: Iterable[Record]) -> list[str]:
    """The metrics of some records: the task's in the table's order, then extra ones, then gold and its parts."""
    found = dict.fromkeys(name for record in records for name in record["metrics"])
    extra = [name for name in found if name not in TASK_METRICS and name != "gold" and not name.startswith("gold_")]
    gold = [name for name in found if name == "gold"] + [name for name in found if name.startswith("gold_")]
    return [name for name in TASK_METRICS if name in found] + extra + gold


def league_of(record: Record) -> League:
    names = [name for name in record["metrics"] if name in TASK_METRICS or name == "gold"]
    signatures = {name: record["metrics"][name]["signature"] for name in names}
    return League(record["data_hash"], record["task_version"], record["judge_fingerprint"], signatures)


def rows_of(records: Sequence[Record]) -> list[Row]:
    """All rows of some records, unranked, in the order in which their set-ups first appear.

    Records of one name and set-up that were scored differently (another judge, data, task version or signature) give
    several rows. Of two records for one seed of a row the later one stands, and the row's flags say so; a success
    stands before a failure.
    """
    setups: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for record in records:
        setups[(record["task"], str(record["fixed"]), record["candidate"], _setup(record))].append(record)
    rows = []
    for group in setups.values():
        group.sort(key=lambda record: (record["created"], record["run_id"]))
        buckets = _buckets(group)
        buckets.sort(key=_newest)
        made = [_row(bucket.succeeded, bucket.standing) for bucket in buckets]
        _flag_other_extra_metrics(made)
        rows += made
    _tell_controls_apart(rows)
    return rows


class _Bucket(NamedTuple):
    """Records of one set-up that were scored alike, by age: those of one row."""

    succeeded: list[Record]
    failed: list[Record]

    @property
    def standing(self) -> list[Record]:
        """The failures of seeds that did not succeed here."""
        done = {record["seed"] for record in self.succeeded}
        return [record for record in self.failed if record["seed"] not in done]

    def takes(self, record: Record) -> bool:
        """Whether a record was scored, or would have been, as those in here were."""
        own = _scored_as(record)
        return not any(
            _scored_as(other).differences(_as_far_as_known(record, own, other))
            for other in self.succeeded or self.failed
        )


def _buckets(group: Sequence[Record]) -> list[_Bucket]:
    """One set-up's records parted by how they were scored.

    A failure goes by its data and its judge as far as it knows them. One that knows neither counts in the newest row.
    """
    buckets: list[_Bucket] = []
    for record in (record for record in group if record["status"] != "failed"):
        bucket = next((bucket for bucket in buckets if bucket.takes(record)), None)
        if bucket is None:
            buckets.append(_Bucket([record], []))
        else:
            bucket.succeeded.append(record)
    failures = [record for record in group if record["status"] == "failed"]
    for record in sorted(failures, key=lambda record: not _knows_its_place(record)):
        newest_first = sorted(buckets, key=_newest, reverse=True)
        known = _knows_its_place(record)
        bucket = next((bucket for bucket in newest_first if not known or bucket.takes(record)), None)
        if bucket is None:
            buckets.append(_Bucket([], [record]))
        else:
            bucket.failed.append(record)
    for bucket in buckets:
        bucket.failed.sort(key=lambda record: (record["created"], record["run_id"]))
    return buckets


def _newest(bucket: _Bucket) -> tuple[bool, str]:
    """Rows with a success come before those without, the newer ones before the older."""
    return bool(bucket.succeeded), (bucket.succeeded or bucket.failed)[-1]["created"]


def _knows_its_place(failure: Record) -> bool:
    return failure["data_hash"] is not None or failure["judge_fingerprint"] is not None


def _as_far_as_known(record: Record, own: League, other: Record) -> League:
    """A failure before there was data knows its judge, which depends on the data, and nothing else."""
    unknown = "failed" in (record["status"], other["status"]) and None in (record["data_hash"], other["data_hash"])
    return own if not unknown else _scored_as(other)._replace(judge_fingerprint=own.judge_fingerprint)


def _scored_as(record: Record) -> League:
    """What seeds of one row must share: more than what is ranked together, the extra metrics too."""
    signatures = {name: metric["signature"] for name, metric in record["metrics"].items()}
    return league_of(record)._replace(signatures=signatures)


def _flag_other_extra_metrics(rows: Sequence[Row]) -> None:
    """Say of rows of one set-up which extra metric is another one in each."""
    for name in metric_names(record for row in rows for record in row.records):
        if name in TASK_METRICS or name == "gold" or name.startswith("gold_"):
            continue
        having = [row for row in rows if name in row.metrics]
        if len({_signature(row, name) for row in having}) > 1:
            for row in having:
                row.cells["flags"].append(f"another {name} than in its namesake")


def _tell_controls_apart(rows: Sequence[Row]) -> None:
    """Flag fixed rows of one name with those of their settings in which they differ."""
    namesakes: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.fixed:
            namesakes[(row.first["task"], row.first["candidate"])].append(row)
    for group in namesakes.values():
        settings = [_fixed_settings(row.first) for row in group]
        for key in settings[0]:
            if len({json.dumps(found[key]) for found in settings}) > 1:
                for row, found in zip(group, settings, strict=True):
                    row.cells["flags"].append(f"{key}={brief(found[key])}")


def brief(value: object) -> str:
    """A setting as a flag can hold it: on one line, a long one cut, with a part of its hash."""
    text = " ".join(str(value).split())
    if len(text) <= _FLAG_LENGTH:
        return text
    return f"{text[:_FLAG_LENGTH]}…~{hashlib.sha256(str(value).encode('utf-8', 'surrogatepass')).hexdigest()[:6]}"


def _fixed_settings(record: Record) -> dict[str, Any]:
    """The single settings that a fixed row depends on, by key; None for a key that its configuration lacks."""
    config: Mapping[str, Any] = record["config"]
    found: dict[str, Any] = {}
    for key in (*_TASK_SETTINGS, *_FIXED_SETTINGS.get(record["candidate"], ())):
        group, name = key.split(".")
        found[key] = (config.get(group) or {}).get(name)
    return found


def _setup(record: Record) -> str:
    groups = _SETUP if not record["fixed"] else _FIXED_SETUP.get(record["candidate"], ())
    config = {name: record["config"].get(name) for name in groups}
    data = config.get("data")
    if isinstance(data, dict):
        # Where the data lies does not matter: their content hash is compared elsewhere.
        config["data"] = {key: value for key, value in data.items() if key != "path"}
    if record["fixed"]:
        config |= _fixed_settings(record)
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


def _latest(records: Sequence[Record]) -> list[Record]:
    by_seed = {record["seed"]: record for record in records}
    return [by_seed[seed] for seed in sorted(by_seed)]


def _row(succeeded: list[Record], failed: list[Record]) -> Row:
    row = Row(_latest(succeeded), _latest(failed))
    newest = (succeeded or failed)[-1]
    everything = row.records + row.failed
    seeds = len(everything)
    labels: Mapping[str, Any] = newest
    row.cells |= {name: labels[name] for name in ("task", "candidate", *LABELS)}
    row.cells |= {"seeds": f"{len(row.records)}/{seeds}", "status": _status(row.records, row.failed)}
    if row.records:
        row.cells["n_examples"] = newest["n_examples"]
        partial = _fill_metrics(row) + _fill_win_rates(row) + _fill_scalars(row)
        row.cells["signatures"] = "; ".join(f"{name}={_signature(row, name)}" for name in row.metrics)
    else:
        partial = []
    peaks = [record["peak_memory_mb"] for record in everything if record["peak_memory_mb"] is not None]
    row.cells |= {
        "wall_seconds": fmean(record["wall_seconds"] for record in row.records or row.failed),
        "device": _joined(record["device"] for record in everything),
        "peak_memory_mb": max(peaks, default=None),
        "fingerprint": _joined(record["fingerprint"] for record in everything),
        "git_commit": _joined(record["git_commit"] for record in everything),
        "run_ids": _joined(record["run_id"] for record in everything),
    }
    older = len(succeeded) + len(failed) - seeds
    row.cells["flags"] = [*_flags(row), *partial, *([f"{older} older left out"] if older else [])]
    return row


def _joined(values: Iterable[str | None]) -> str:
    return " ".join(dict.fromkeys(value for value in values if value))


def _signature(row: Row, name: str) -> str:
    return _joined(record["metrics"][name]["signature"] for record in row.records if name in record["metrics"])


def _status(succeeded: Sequence[Record], failed: Sequence[Record]) -> str:
    """The gravest status first, then the others that some seeds have: ``failed 1/3: oom; collapsed 2/3``."""
    seeds = len(succeeded) + len(failed)
    counts = Counter(record["status"] for record in succeeded)
    found = []
    if failed:
        reason = "; ".join(dict.fromkeys(record["reason"] or "no reason given" for record in failed))
        found.append(f"failed: {reason}" if seeds == 1 else f"failed {len(failed)}/{seeds}: {reason}")
    for status in ("collapsed", "unchanged"):
        if counts[status]:
            found.append(status if counts[status] == seeds else f"{status} {counts[status]}/{seeds}")
    return "; ".join(found) or "ok"


def _flags(row: Row) -> list[str]:
    """The row's own flags, then those of its records: ``flag (1/3)`` where only some seeds have it."""
    flags = []
    gold_high, win_low = row.cells.get("gold_delta_high"), row.cells.get("win_rate_low")
    if gold_high is not None and win_low is not None and gold_high < 0 and win_low > 50:
        flags.append("over-optimised")
    everything = row.records + row.failed
    if row.records and all(record["judge_fingerprint"] is None for record in row.records):
        flags.append("no judge")
    by_prompts = sorted(name for name, level in row.levels.items() if level == "prompts")
    if by_prompts and len(by_prompts) == len(row.levels):
        flags.append("prompt-level intervals")
    elif by_prompts:
        flags.append(f"prompt-level intervals: {', '.join(by_prompts)}")
    # `over-optimised` is a statement about the aggregated row, so a single record's word for it does not count.
    counts = Counter(
        flag for record in everything for flag in dict.fromkeys(record["flags"]) if flag != "over-optimised"
    )
    for flag, count in counts.items():
        if flag not in flags:
            flags.append(flag if count == len(everything) else f"{flag} ({count}/{len(everything)})")
    return flags


def _mean(row: Row, column: str, values: Sequence[float | None]) -> list[str]:
    """Set a cell to its mean over the seeds that have it; the answer says where not all do."""
    given = [value for value in values if value is not None]
    if not given:
        return []
    row.cells[column] = fmean(given)
    return [] if len(given) == len(values) else [f"{column} from {len(given)}/{len(values)} seeds"]


def _interval(intervals: Sequence[Interval]) -> tuple[Interval, Level]:
    """One seed: its own interval over prompts. Several: the t interval over their estimates.

    Seeds that agree exactly (a row that no training touched) say nothing about prompts, so the prompt-level one stays.
    """
    estimates = [interval.estimate for interval in intervals]
    if len(set(estimates)) == 1:
        return intervals[0], "prompts"
    return t_interval(estimates, confidence=_CONFIDENCE), "seeds"


def _fill_metrics(row: Row) -> list[str]:
    partial = []
    for name in row.metrics:
        results: list[Mapping[str, Any]] = [record["metrics"].get(name) or {} for record in row.records]
        for cell in ("before", "after", "delta"):
            partial += _mean(row, f"{name}_{cell}", [result.get(cell) for result in results])
        if deltas := _triples(results, "delta", "low", "high"):
            interval, row.levels[name] = _interval(deltas)
            row.cells[f"{name}_delta_low"], row.cells[f"{name}_delta_high"] = interval.low, interval.high
        if afters := _triples(results, "after", "after_low", "after_high"):
            row.after[name], level = _interval(afters)
            row.levels.setdefault(name, level)
    return partial


def _triples(results: Sequence[Mapping[str, Any]], *keys: str) -> list[Interval]:
    """An estimate and its ends per seed, of the seeds that have all three."""
    return [
        Interval(*(result[key] for key in keys))
        for result in results
        if all(result.get(key) is not None for key in keys)
    ]


def _fill_win_rates(row: Row) -> list[str]:
    partial = []
    for column, key in (("win_rate", "judge"), ("win_rate_reference", "reference")):
        rates: list[Mapping[str, Any]] = [record["win_rates"].get(key) or {} for record in row.records]  # type: ignore[misc]
        partial += _mean(row, column, [rate.get("value") for rate in rates])
        if found := _triples(rates, "value", "low", "high"):
            interval, row.levels[column] = _interval(found)
            # A t interval knows no bounds; cutting it at those of the scale loses no coverage.
            row.cells[f"{column}_low"], row.cells[f"{column}_high"] = max(interval.low, 0.0), min(interval.high, 100.0)
    for key in ("lc", "proxy", "gold"):
        rates_alone: list[Mapping[str, Any]] = [record["win_rates"] for record in row.records]
        partial += _mean(row, f"win_rate_{key}", [rates[key] for rates in rates_alone])
    return partial


def _fill_scalars(row: Row) -> list[str]:
    scalars: list[Mapping[str, Any]] = [record["scalars"] for record in row.records]
    return [flag for name in SCALARS for flag in _mean(row, name, [values[name] for values in scalars])]
