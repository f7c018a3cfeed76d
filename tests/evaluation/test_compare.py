"""Before and after in one table, ready for JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.evaluation import statistics
from harness.evaluation.compare import compare
from harness.evaluation.registry import metrics_for
from harness.evaluation.statistics import bootstrap, paired_bootstrap
from harness.types import Outputs

REFERENCES = [["the cat sat"], ["a dog ran"], ["birds fly"], ["fish swim", "fish swim well"]]
COLUMNS = ["exact_match", "f1", "chrf", "distinct1"]


def outputs(*responses: str) -> Outputs:
    return Outputs(list(responses), [[1]] * len(responses), [True] * len(responses))


BEFORE = outputs("", "a cat ran", "birds", "fish")
AFTER = outputs("the cat sat", "a dog ran", "birds", "stones")


BOTH_INTERVALS = pytest.mark.parametrize("fewest", [2, 5], ids=["bootstrap", "jackknife"])
"""Of these four prompts."""


def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_values_by_hand_and_json() -> None:
    found = compare(
        BEFORE,
        AFTER,
        REFERENCES,
        metrics=metrics_for(COLUMNS),
        extra={"gold": ([0.0, 1.0, 2.0, 3.0], np.array([1.0, 2.0, 3.0, 4.0]))},
        resamples=50,
        generator=rng(),
    )
    assert list(found.metrics) == [*COLUMNS, "gold"]
    assert found.metrics["exact_match"]["before"] == 0
    assert found.metrics["exact_match"]["after"] == 50
    # f1: 0, 1/2, 2/3, 2/3 before; 1, 1, 2/3, 0 after
    assert found.metrics["f1"]["before"] == pytest.approx(100 * (1 / 2 + 2 / 3 + 2 / 3) / 4)
    assert found.metrics["f1"]["delta"] == pytest.approx(100 * (1 + 1 / 2 + 0 - 2 / 3) / 4)
    assert found.metrics["distinct1"]["before"] == 100
    gold = found.metrics["gold"]
    assert [gold[key] for key in ("before", "after", "delta", "low", "high")] == pytest.approx([1.5, 2.5, 1, 1, 1])
    assert gold["signature"] == "agg:mean"
    assert found.per_example["exact_match"] == {"before": [0, 0, 0, 0], "after": [100, 100, 0, 0]}
    assert found.per_example["gold"] == {"before": [0, 1, 2, 3], "after": [1, 2, 3, 4]}
    assert json.loads(json.dumps(found._asdict(), allow_nan=False)) == found._asdict()


@BOTH_INTERVALS
def test_intervals_are_those_alone_whatever_else_is_asked(monkeypatch: pytest.MonkeyPatch, fewest: int) -> None:
    monkeypatch.setattr(statistics, "FEWEST_TO_RESAMPLE", fewest)
    found = compare(BEFORE, AFTER, REFERENCES, metrics=metrics_for(COLUMNS), resamples=40, generator=rng())
    alone = compare(BEFORE, AFTER, REFERENCES, metrics=metrics_for(["chrf"]), resamples=40, generator=rng())
    assert found.metrics["chrf"] == alone.metrics["chrf"]
    (metric,) = metrics_for(["chrf"])
    before = metric.scored(BEFORE.responses, REFERENCES)["chrf"]
    after = metric.scored(AFTER.responses, REFERENCES)["chrf"]
    seed = int(rng().integers(2**63))
    delta = paired_bootstrap(before, after, resamples=40, generator=np.random.default_rng(seed))
    level = bootstrap(after, resamples=40, generator=np.random.default_rng(seed))
    row = found.metrics["chrf"]
    assert (row["delta"], row["low"], row["high"]) == pytest.approx(delta)
    assert (row["after"], row["after_low"], row["after_high"]) == pytest.approx(level)


def test_identical_before_and_after_change_nothing() -> None:
    found = compare(AFTER, AFTER, REFERENCES, metrics=metrics_for(COLUMNS), resamples=40, generator=rng())
    for row in found.metrics.values():
        assert (row["delta"], row["low"], row["high"]) == (0, 0, 0)
        assert row["before"] == row["after"]


def test_a_fixed_row_has_nothing_before_it() -> None:
    found = compare(
        None, AFTER, REFERENCES, metrics=metrics_for(["f1"]), extra={"gold": (None, [1.0] * 4)}, generator=rng()
    )
    for name in ("f1", "gold"):
        row = found.metrics[name]
        assert [row[key] for key in ("before", "delta", "low", "high")] == [None] * 4
        assert row["after_low"] <= row["after"] <= row["after_high"]
        assert found.per_example[name]["before"] is None


def test_a_single_prompt_has_values_but_no_interval() -> None:
    found = compare(outputs("cat"), outputs("dog"), [["dog"]], metrics=metrics_for(["f1"]), generator=rng())
    row = found.metrics["f1"]
    assert row["delta"] == 100
    assert [row[key] for key in ("low", "high", "after_low", "after_high")] == [None] * 4


def test_what_does_not_pair_up_is_refused() -> None:
    with pytest.raises(ValueError, match="gold: 2 values for 4 prompts"):
        compare(None, AFTER, REFERENCES, metrics=[], extra={"gold": (None, [1.0, 2.0])}, generator=rng())
    with pytest.raises(ValueError, match="two metrics are called f1"):
        compare(None, AFTER, REFERENCES, metrics=metrics_for(["f1"]), extra={"f1": (None, [1.0] * 4)}, generator=rng())


@BOTH_INTERVALS
def test_a_prompt_that_comes_twice_is_drawn_with_both_and_narrows_nothing(
    monkeypatch: pytest.MonkeyPatch, fewest: int
) -> None:
    monkeypatch.setattr(statistics, "FEWEST_TO_RESAMPLE", fewest)

    def twice(once: Outputs) -> Outputs:
        return Outputs(once.responses * 2, once.tokens * 2, once.ended * 2)

    metrics, names = metrics_for(["exact_match", "chrf", "bleu"]), list("abcd")
    once = compare(BEFORE, AFTER, REFERENCES, metrics=metrics, resamples=40, generator=rng())
    found = compare(
        *(twice(BEFORE), twice(AFTER), REFERENCES * 2),
        metrics=metrics,
        clusters=names * 2,
        resamples=40,
        generator=rng(),
    )
    for name, row in once.metrics.items():
        for key in ("before", "after", "delta", "low", "high", "after_low", "after_high"):
            assert found.metrics[name][key] == pytest.approx(row[key], abs=1e-9), (name, key)  # type: ignore[literal-required]
    apart = compare(twice(BEFORE), twice(AFTER), REFERENCES * 2, metrics=metrics, resamples=40, generator=rng())
    assert apart.metrics["chrf"]["high"] < once.metrics["chrf"]["high"]  # type: ignore[operator]


def test_clusters_that_all_differ_change_nothing_and_one_alone_has_no_interval() -> None:
    metrics = metrics_for(COLUMNS)
    plain = compare(BEFORE, AFTER, REFERENCES, metrics=metrics, resamples=40, generator=rng())
    apart = compare(BEFORE, AFTER, REFERENCES, metrics=metrics, clusters=list("abcd"), resamples=40, generator=rng())
    assert apart == plain
    one = compare(BEFORE, AFTER, REFERENCES, metrics=metrics, clusters=["a"] * 4, resamples=40, generator=rng())
    assert one.metrics["f1"]["low"] is None
    assert one.metrics["f1"]["delta"] == plain.metrics["f1"]["delta"]


def test_the_jackknife_leaves_out_a_whole_cluster() -> None:
    """distinct-1 by hand: a b | a a | c c, the first two of one prompt: 3/6; without them 1/2, without c c 2/4."""
    (metric,) = metrics_for(["distinct1"])
    scored = metric.scored(["a b", "a a", "c c"], [["x"]] * 3)["distinct1"]
    found = bootstrap(scored, clusters=["p", "p", "q"], generator=rng())
    assert found.estimate == pytest.approx(50)
    assert (found.low, found.high) == pytest.approx((50, 50))
