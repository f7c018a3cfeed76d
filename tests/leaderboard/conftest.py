"""Records made by hand, with every key of the schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Make = Callable[..., dict[str, Any]]

_SCALARS = (
    *("proxy_before", "proxy_after", "kl", "length_before", "length_after", "repetition_before", "repetition_after"),
    *("eos_before", "eos_after", "rm_accuracy", "judge_accuracy"),
)


def _metric(before: float | None, after: float, half: float, signature: str) -> dict[str, Any]:
    delta = None if before is None else after - before
    low, high = (None, None) if delta is None else (delta - half, delta + half)
    ends = {"after_low": after - half, "after_high": after + half}
    return {"before": before, "after": after, "delta": delta, "low": low, "high": high, **ends, "signature": signature}


def _rate(value: float | None, half: float) -> dict[str, float] | None:
    return None if value is None else {"value": value, "low": value - half, "high": value + half}


def _record(candidate: str = "default", seed: int = 1, **given: Any) -> dict[str, Any]:
    """``before``, ``after``: of rouge1; ``gold``: (before, after) or None; ``judge`` and ``reference``: win rates."""
    fixed, failed = given.pop("fixed", False), given.get("status") == "failed"
    before, after = given.pop("before", None if fixed else 30.0), given.pop("after", 40.0)
    half = given.pop("half", 1.0)
    metrics = {"rouge1": _metric(before, after, half, "rouge1|stem:yes")}
    gold = given.pop("gold", None if fixed else (2.0, 3.0))
    if gold is not None:
        metrics["gold"] = _metric(*gold, 0.1, "gold|v1")
    win_rates = {
        "judge": _rate(given.pop("judge", None if fixed else 70.0), half),
        "reference": _rate(given.pop("reference", 30.0), half),
        "lc": None,
        "proxy": None,
        "gold": None,
    }
    if failed:
        metrics, win_rates = {}, dict.fromkeys(win_rates)
    fingerprint = given.pop("fingerprint", f"{seed:02d}{candidate}")
    made = {
        "schema": 1,
        "run_id": f"{candidate}-{seed}-{fingerprint}",
        "task": "summarize",
        "candidate": candidate,
        "fixed": fixed,
        "seed": seed,
        "status": "ok",
        "reason": None,
        "flags": [],
        "model": "nano",
        "algorithm": "ppo",
        "feedback": "gold",
        "judge": "nano",
        "data": "controlled",
        "judge_fingerprint": None if failed else "judge-1",
        "data_hash": None if failed else "data-1",
        "task_version": 1,
        "config": {"model": {"width": 128}},
        "overrides": [],
        "fingerprints": {"sft": "aa"},
        "fingerprint": fingerprint,
        "versions": {"torch": "2.0"},
        "git_commit": "c0ffee",
        "command": "python -m x",
        "created": f"2026-01-0{seed}T00:00:00",
        "hardware": {"cpu": "2 cores"},
        "device": "cpu",
        "wall_seconds": 10.0,
        "peak_memory_mb": 100.0,
        "n_examples": 1000,
        "metrics": metrics,
        "win_rates": win_rates,
        "scalars": dict.fromkeys(_SCALARS),
        "report_card": {},
        "data_report": {},
        "curves": [],
        "samples": [],
    }
    return {**made, **given}


@pytest.fixture
def record() -> Make:
    return _record


@pytest.fixture
def metric() -> Make:
    return _metric
