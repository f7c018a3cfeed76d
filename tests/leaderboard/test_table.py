from __future__ import annotations

import math
from typing import Any

import pytest

from harness.leaderboard.rows import Row, rows_of
from harness.leaderboard.table import columns_of, frame, main_metric, ranked_rows

BEFORE_METRICS = [
    *("rank", "task", "candidate", "model", "algorithm", "feedback", "judge", "data", "seeds", "status", "flags"),
    "n_examples",
]
AFTER_METRICS = [
    *("win_rate", "win_rate_low", "win_rate_high"),
    *("win_rate_reference", "win_rate_reference_low", "win_rate_reference_high"),
    *("win_rate_lc", "win_rate_proxy", "win_rate_gold", "proxy_before", "proxy_after", "kl"),
    *("length_before", "length_after", "repetition_before", "repetition_after", "eos_before", "eos_after"),
    *("rm_accuracy", "judge_accuracy", "wall_seconds", "device", "peak_memory_mb", "signatures", "fingerprint"),
    *("git_commit", "run_ids"),
]


def only(records: list[Any]) -> Row:
    (row,) = rows_of(records)
    return row


def test_one_seed_keeps_its_bootstrap_interval_and_says_so(record: Any) -> None:
    row = only([record(before=30.0, after=41.0, half=1.5)])
    cells = [row.cells[f"rouge1_{cell}"] for cell in ("before", "after", "delta", "delta_low", "delta_high")]
    assert cells == [30.0, 41.0, 11.0, 9.5, 12.5]
    assert (row.cells["win_rate"], row.cells["win_rate_low"], row.cells["win_rate_high"]) == (70.0, 68.5, 71.5)
    assert row.cells["seeds"] == "1/1"
    assert row.cells["flags"] == ["prompt-level intervals"]


def test_seeds_are_aggregated_by_the_t_interval(record: Any) -> None:
    row = only([record(seed=seed, before=30.0, after=30.0 + seed, reference=30.0 + seed) for seed in (3, 1, 2)])
    # Deltas 1, 2, 3: mean 2, standard error 1/sqrt(3), t(0.975; 2) = 4.302653 (table of Student's t).
    half = 4.302653 / math.sqrt(3)
    assert row.cells["rouge1_after"] == pytest.approx(32.0)
    assert row.cells["rouge1_delta"] == pytest.approx(2.0)
    assert row.cells["rouge1_delta_low"] == pytest.approx(2.0 - half, abs=1e-5)
    assert row.cells["rouge1_delta_high"] == pytest.approx(2.0 + half, abs=1e-5)
    assert row.cells["win_rate_reference"] == pytest.approx(32.0)
    assert row.cells["win_rate_reference_low"] == pytest.approx(32.0 - half, abs=1e-5)
    assert row.cells["seeds"] == "3/3"
    assert row.cells["run_ids"].split() == ["default-1-01default", "default-2-02default", "default-3-03default"]


def test_two_seeds_have_one_degree_of_freedom_and_rates_stay_on_their_scale(record: Any) -> None:
    row = only([record(seed=1, reference=40.0, after=31.0), record(seed=2, reference=60.0, after=33.0)])
    # Deltas 1 and 3: mean 2, standard error 1, t(0.975; 1) = 12.7062.
    assert row.cells["rouge1_delta_low"] == pytest.approx(2.0 - 12.7062, abs=1e-4)
    assert (row.cells["win_rate_reference_low"], row.cells["win_rate_reference_high"]) == (0.0, 100.0)


def test_seeds_that_agree_exactly_keep_the_prompt_level_interval(record: Any) -> None:
    row = only([record("references", seed=seed, fixed=True, reference=50.0, after=100.0, half=0.5) for seed in (1, 2)])
    assert (row.cells["win_rate_reference_low"], row.cells["win_rate_reference_high"]) == (49.5, 50.5)
    assert row.cells["flags"] == ["prompt-level intervals"]


def test_failed_seeds_count_as_seeds(record: Any) -> None:
    failure = record(seed=3, status="failed", reason="too few informative pairs")
    row = only([record(seed=1), record(seed=2, after=42.0), failure])
    assert row.cells["seeds"] == "2/3"
    assert row.cells["status"] == "failed 1/3: too few informative pairs"
    assert row.cells["rouge1_after"] == 41.0
    assert "rouge1_delta_low" in row.cells


def test_a_row_of_failures_alone(record: Any) -> None:
    row = only([record(status="failed", reason="loss is not finite")])
    assert (row.cells["seeds"], row.cells["status"]) == ("0/1", "failed: loss is not finite")
    table = frame(ranked_rows([record(status="failed", reason="loss is not finite")]))
    assert table.loc[0, ["rank", "n_examples", "win_rate", "signatures"]].isna().all()
    both = [record(seed=seed, status="failed", reason=reason) for seed, reason in ((1, "a"), (2, "b"))]
    assert only(both).cells["status"] == "failed 2/2: a; b"


def test_a_success_of_the_same_seed_outlives_a_later_failure(record: Any) -> None:
    later = record(status="failed", reason="x", created="2027-01-01", fingerprint="later")
    row = only([record(), later])
    assert (row.cells["seeds"], row.cells["status"]) == ("1/1", "ok")


def seeds_and_status(records: list[Any]) -> dict[str, tuple[str, str]]:
    """Data hash of the row's records -> its cells."""
    rows = rows_of(records)
    assert len({row.first["data_hash"] for row in rows}) == len(rows)
    return {str(row.first["data_hash"]): (row.cells["seeds"], row.cells["status"]) for row in rows}


def test_a_failure_counts_where_its_data_and_its_judge_are(record: Any) -> None:
    def on(data: str, seed: int, **given: Any) -> Any:
        return record(
            seed=seed, data_hash=data, judge_fingerprint=f"judge-{data}", fingerprint=f"{data}{seed}", **given
        )

    failure: dict[str, Any] = {"status": "failed", "reason": "x"}
    old, new = [on("a", seed) for seed in (1, 2, 3)], [on("b", seed, created=f"2027-01-0{seed}") for seed in (1, 2)]
    whole, two_of_three = ("3/3", "ok"), ("2/3", "failed 1/3: x")
    # What succeeded on other data does not hide a failure, nor does a failure there count here.
    failed_on_new = on("b", 3, created="2027-01-03", **failure)
    assert seeds_and_status([*old, *new, failed_on_new]) == {"a": whole, "b": two_of_three}
    assert seeds_and_status([*old[:2], on("a", 3, **failure), *new]) == {"a": two_of_three, "b": ("2/2", "ok")}
    # Before there are data the judge is known, and it depends on the data.
    before_data = on("b", 3, **failure) | {"data_hash": None}
    assert seeds_and_status([*old, *new, before_data]) == {"a": whole, "b": two_of_three}
    # One that knows neither counts in the newest row.
    refused = on("b", 3, **failure) | {"data_hash": None, "judge_fingerprint": None}
    assert seeds_and_status([*old, *new, refused]) == {"a": whole, "b": two_of_three}
    # Where nothing succeeded on its data it has a row of its own.
    assert seeds_and_status([*old, failed_on_new]) == {"a": whole, "b": ("0/1", "failed: x")}


def test_statuses_of_several_kinds_are_all_said(record: Any) -> None:
    made = [record(seed=seed, status="collapsed") for seed in (1, 2)]
    failure = record(seed=3, status="failed", reason="oom")
    assert only([*made, failure]).cells["status"] == "failed 1/3: oom; collapsed 2/3"
    mixed = [made[0], record(seed=2, status="unchanged"), record(seed=3)]
    assert only(mixed).cells["status"] == "collapsed 1/3; unchanged 1/3"
    assert only(made).cells["status"] == "collapsed"


def test_seeds_of_another_extra_metric_are_another_row(record: Any, metric: Any) -> None:
    made = [record(seed=seed, after=40.0 + seed) for seed in (1, 2, 3)]
    for each, signature, after in zip(made, ("len|v1", "len|v2", "len|v2"), (400.0, 4.0, 5.0), strict=True):
        each["metrics"]["len"] = metric(0.0, after, 1.0, signature)
    rows = ranked_rows(made)
    assert sorted((row.cells["len_after"], row.cells["seeds"]) for row in rows) == [(4.5, "2/2"), (400.0, "1/1")]
    assert all("another len than in its namesake" in row.cells["flags"] for row in rows)
    assert {row.league for row in rows} == {0}  # an extra metric does not rank


def test_collapsed_seeds_count_in_the_means(record: Any) -> None:
    row = only([record(seed=1, after=40.0), record(seed=2, after=10.0, status="collapsed")])
    assert row.cells["rouge1_after"] == 25.0
    assert row.cells["status"] == "collapsed 1/2"
    assert only([record(status="unchanged")]).cells["status"] == "unchanged"


def test_over_optimised_is_said_of_the_aggregated_row(record: Any) -> None:
    assert "over-optimised" in only([record(gold=(3.0, 2.0), judge=70.0)]).cells["flags"]
    # Gold's interval reaches 0, or the judge does not see a gain.
    assert "over-optimised" not in only([record(gold=(3.0, 2.95), judge=70.0)]).cells["flags"]
    assert "over-optimised" not in only([record(gold=(3.0, 2.0), judge=50.5)]).cells["flags"]
    # One seed's flag does not make the row's.
    mixed = [record(seed=1, gold=(3.0, 2.0), flags=["over-optimised"]), record(seed=2, gold=(2.0, 3.0))]
    assert not any("over-optimised" in flag for flag in only(mixed).cells["flags"])


def test_flags_of_some_seeds(record: Any) -> None:
    row = only([record(seed=1, flags=["gate skipped"]), record(seed=2, after=42.0)])
    assert "gate skipped (1/2)" in row.cells["flags"]
    no_judge = record(judge=None, reference=None, judge_fingerprint=None, flags=["no judge"])
    assert only([no_judge]).cells["flags"].count("no judge") == 1
    assert "rank" not in ranked_rows([no_judge])[0].cells


def test_a_mean_over_some_seeds_is_said(record: Any) -> None:
    partial = record(seed=2, after=42.0)
    first = record(seed=1)
    first["scalars"] = {**first["scalars"], "kl": 8.0}
    row = only([first, partial])
    assert row.cells["kl"] == 8.0
    assert "kl from 1/2 seeds" in row.cells["flags"]


def test_fixed_rows_have_a_value_after_and_no_delta(record: Any) -> None:
    row = only([record("copy-input", fixed=True, after=12.0)])
    assert row.cells["rouge1_after"] == 12.0
    assert not {"rouge1_before", "rouge1_delta", "rouge1_delta_low", "win_rate"} & row.cells.keys()
    table = frame(ranked_rows([record("copy-input", fixed=True, after=12.0)]))
    assert table.loc[0, ["rouge1_before", "rouge1_delta", "rouge1_delta_low", "win_rate"]].isna().all()


def test_fixed_rows_stand_once_whatever_the_algorithm(record: Any) -> None:
    config = {"model": {"width": 128}, "sft": {"lr": 1}, "reward_model": {"lr": 1}}
    for candidate, width_matters in (("references", False), ("sft", True), ("best-of-n", True)):
        made = [
            record(candidate, seed=seed, fixed=True, config={**config, "algorithm": {"kl_coef": seed}})
            for seed in (1, 2)
        ]
        assert len(rows_of(made)) == 1
        wide = record(candidate, seed=3, fixed=True, config={**config, "model": {"width": 256}})
        assert len(rows_of([*made, wide])) == 1 + width_matters


@pytest.mark.parametrize("candidate", ["references", "copy-input", "empty", "base", "sft", "sft-more", "best-of-n"])
@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("template", "A {x}", "B {x}"),
        ("options", {"ending": "x"}, {}),
        ("max_prompt_tokens", 32, 64),
        ("max_response_tokens", 32, 64),
    ],
)
def test_controls_of_another_wording_or_limit_are_other_rows(
    record: Any, candidate: str, name: str, first: Any, second: Any
) -> None:
    without_judge: dict[str, Any] = {"fixed": True, "judge_fingerprint": None, "reference": None}
    made = [
        record(candidate, seed=seed, config={"model": {}, "task": {name: value}}, **without_judge)
        for seed, value in ((1, first), (2, second))
    ]
    rows = rows_of(made)
    assert [row.cells["seeds"] for row in rows] == ["1/1", "1/1"]
    assert [flag for row in rows for flag in row.cells["flags"] if "=" in flag] == [
        f"task.{name}={first}",
        f"task.{name}={second}",
    ]


def test_a_long_wording_is_cut_in_the_flags(record: Any) -> None:
    templates = ["word " * 50 + end for end in "ab"]
    rows = rows_of([record("sft", fixed=True, config={"task": {"template": each}}) for each in templates])
    flags = [flag for row in rows for flag in row.cells["flags"] if "=" in flag]
    assert len(set(flags)) == 2
    assert all(len(flag) < 70 and flag.startswith("task.template=word word") for flag in flags)


@pytest.mark.parametrize(
    ("candidate", "group", "name", "parted"),
    [
        ("sft-more", "algorithm", "episodes", True),
        ("sft-more", "algorithm", "epochs", True),
        ("sft-more", "algorithm", "kl_coef", False),
        ("sft-more", "evaluation", "best_of_n", False),
        ("best-of-n", "evaluation", "best_of_n", True),
        ("best-of-n", "rollout", "temperature", True),
        ("best-of-n", "algorithm", "episodes", False),
        ("base", "evaluation", "temperature", True),
        ("sft", "evaluation", "temperature", True),
        ("sft-more", "evaluation", "temperature", True),
        ("copy-input", "evaluation", "temperature", False),
    ],
)
def test_controls_with_other_settings_are_other_rows(
    record: Any, candidate: str, group: str, name: str, parted: bool
) -> None:
    config = {"model": {"width": 128}, "algorithm": {"episodes": 2048, "epochs": 4}, "evaluation": {"best_of_n": 4}}
    made = [
        record(candidate, seed=seed, fixed=True, config={**config, group: {**config.get(group, {}), name: value}})
        for seed, value in ((1, 8), (2, 16), (3, 16))
    ]
    rows = rows_of(made)
    assert [len(row.records) for row in rows] == ([1, 2] if parted else [3])
    if parted:
        assert [flag for row in rows for flag in row.cells["flags"] if "=" in flag] == [
            f"{group}.{name}=8",
            f"{group}.{name}=16",
        ]


def test_time_is_that_of_the_seeds_that_succeeded(record: Any) -> None:
    failure = record(seed=3, status="failed", reason="r", wall_seconds=1.0)
    made = [record(seed=1, wall_seconds=10.0), record(seed=2, wall_seconds=20.0), failure]
    assert only(made).cells["wall_seconds"] == 15.0
    assert only([failure]).cells["wall_seconds"] == 1.0


def test_one_name_with_two_setups_gives_two_rows(record: Any) -> None:
    assert len(rows_of([record(seed=1), record(seed=2, config={"model": {"width": 256}})])) == 2
    # Where data lie, which device and which seed do not make another set-up.
    moved = [record(seed=seed, config={"seed": seed, "data": {"path": str(seed)}, "hardware": seed}) for seed in (1, 2)]
    assert len(rows_of(moved)) == 1


def test_the_later_of_two_records_for_a_seed_stands(record: Any) -> None:
    newer = record(after=44.0, created="2027-01-01", fingerprint="newer")
    row = only([newer, record(after=40.0)])
    assert row.cells["rouge1_after"] == 44.0
    assert "1 older left out" in row.cells["flags"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"judge_fingerprint": "judge-2"}, "another judge"),
        ({"data_hash": "data-2"}, "other data"),
        ({"task_version": 2}, "another task version"),
    ],
)
def test_rows_that_cannot_be_compared_are_ranked_apart(record: Any, change: dict[str, Any], words: str) -> None:
    records = [record("a", reference=30.0), record("b", reference=40.0), record("c", reference=90.0, **change)]
    rows = ranked_rows(records)
    assert [(row.cells["candidate"], row.cells["rank"], row.league) for row in rows] == [
        ("b", 1, 0),
        ("a", 2, 0),
        ("c", 1, 1),
    ]
    assert f"ranked apart: {words}" in rows[2].cells["flags"]


def test_another_signature_is_ranked_apart_but_an_extra_metric_is_not(record: Any, metric: Any) -> None:
    other = record("c", reference=90.0)
    other["metrics"]["rouge1"]["signature"] = "rouge1|stem:no"
    extra = record("b", reference=40.0)
    extra["metrics"]["meteor"] = metric(0.2, 0.3, 0.05, "meteor|1.0")
    rows = ranked_rows([record("a"), extra, other])
    assert [(row.cells["candidate"], row.league) for row in rows] == [("b", 0), ("a", 0), ("c", 1)]
    assert rows[2].apart == ["another metric signature"]


def test_order_ranked_then_unranked_then_failed(record: Any) -> None:
    records = [
        record("x", status="failed", reason="r"),
        record("b", reference=None),
        record("a", reference=30.0),
        record("c", reference=60.0),
    ]
    rows = ranked_rows(records)
    assert [(row.cells["candidate"], row.cells.get("rank")) for row in rows] == [
        ("c", 1),
        ("a", 2),
        ("b", None),
        ("x", None),
    ]


def test_columns_stand_in_the_order_of_the_design(record: Any, metric: Any) -> None:
    full = record()
    for name in ("gold_faithful", "meteor", "chrf"):
        full["metrics"][name] = metric(1.0, 2.0, 0.5, name)
    table = frame(ranked_rows([full]))
    metrics = [
        f"{name}_{cell}"
        for name in ("rouge1", "chrf", "meteor", "gold")
        for cell in ("before", "after", "delta", "delta_low", "delta_high")
    ]
    assert " ".join(table.columns) == " ".join([*BEFORE_METRICS, *metrics, *AFTER_METRICS])
    assert table.loc[0, "signatures"] == "rouge1=rouge1|stem:yes; chrf=chrf; meteor=meteor; gold=gold|v1"


def test_the_main_metric_is_the_records_word_or_its_first(record: Any, metric: Any) -> None:
    plain = record()
    named = record("b", main_metric="gold")
    assert main_metric(rows_of([plain])) == "rouge1"
    assert main_metric(rows_of([plain, named])) == "gold"
    assert main_metric(rows_of([record(status="failed", reason="r")])) is None
    assert frame(rows_of([named])).attrs["main_metrics"] == {"summarize": "gold"}


def test_columns_of_nothing_but_failures(record: Any) -> None:
    assert "gold_after" not in columns_of(rows_of([record(status="failed", reason="r")]))
