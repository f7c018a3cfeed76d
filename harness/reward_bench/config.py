"""The reward bench's configuration, and the ranges that types cannot express."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from omegaconf import MISSING

from harness.api.checks import validate_api
from harness.config import APIConfig, HardwareConfig, TaskConfig, TrackerConfig
from harness.data.checks import check_speakers
from harness.errors import UserError
from harness.validation import require_finite


@dataclass
class PreferenceFileConfig:
    """Which preferences the reward model is asked about; the mapping is the one of ``data.pairs_columns`` in training.

    ``pairs_columns.subset`` may name a column whose values part the pairs into subsets.
    """

    name: str | None = None
    pairs_path: str | None = None
    pairs_columns: dict[str, str] = field(default_factory=dict)
    max_bad_rows: int = 0
    transcript_speakers: list[str] = field(default_factory=lambda: ["Human", "Assistant"])
    limit: int | None = None


@dataclass
class ScorerConfig:
    """Who is examined.

    ``classifier``: a sequence classifier with one label, in Hugging Face format, at ``path``. ``judge``: a generative
    model behind an endpoint that speaks OpenAI's protocol, which sees two answers and names the better one.
    """

    kind: str = "classifier"
    path: str | None = None
    revision: str | None = None
    format: str = "auto"
    max_tokens: int | None = None
    batch_size: int = 32
    name: str | None = None
    base_url: str | None = None
    criterion: str = "The better answer is the one that a careful person would rather be given."
    answer_tokens: int = 16
    api: APIConfig = field(default_factory=APIConfig)


@dataclass
class RewardBenchConfig:
    """One reward model on one file of preferences."""

    task: TaskConfig = MISSING
    data: PreferenceFileConfig = field(default_factory=PreferenceFileConfig)
    scorer: ScorerConfig = field(default_factory=ScorerConfig)
    hardware: HardwareConfig = MISSING
    tracker: TrackerConfig = MISSING
    candidate: str | None = None
    output_dir: str = "runs"
    resamples: int = 1000
    best_of_n: list[int] = field(default_factory=lambda: [2, 4, 8])
    leaderboard: str = "harness.leaderboard.build.build"


SCHEMAS: dict[str, type] = {
    "root": RewardBenchConfig,
    "task": TaskConfig,
    "hardware": HardwareConfig,
    "tracker": TrackerConfig,
}

KINDS = ("classifier", "judge")
FORMATS = ("auto", "task", "chat")


def validate(config: RewardBenchConfig) -> None:
    """Raise UserError for the first value that breaks a rule."""
    require_finite(asdict(config))
    _choice("scorer.kind", config.scorer.kind, KINDS)
    _choice("scorer.format", config.scorer.format, FORMATS)
    _choice("tracker.mode", config.tracker.mode, ("rich", "plain", "quiet"))
    _choice("hardware.precision", config.hardware.precision, ("auto", "fp32", "bf16"))
    for key, value, least in (
        ("data.limit", config.data.limit, 2),
        ("data.max_bad_rows", config.data.max_bad_rows, 0),
        ("scorer.max_tokens", config.scorer.max_tokens, 8),
        ("scorer.batch_size", config.scorer.batch_size, 1),
        ("scorer.answer_tokens", config.scorer.answer_tokens, 1),
        ("resamples", config.resamples, 100),
        *(("best_of_n", n, 2) for n in config.best_of_n),
    ):
        if value is not None and value < least:
            raise UserError(key, value, f"must be at least {least}", f"give {least} or more")
    if not config.data.pairs_path:
        raise UserError("data.pairs_path", None, "is missing", "name the file of preferences: data.pairs_path=FILE")
    if not Path(config.data.pairs_path).expanduser().is_file():
        raise UserError("data.pairs_path", config.data.pairs_path, "is no file", "give the file of preferences")
    check_speakers(config.data.transcript_speakers)
    if config.scorer.kind == "judge":
        _check_judge(config.scorer)
    else:
        _check_path(config.scorer)


def _check_judge(scorer: ScorerConfig) -> None:
    if scorer.path:
        raise UserError(
            "scorer.path", scorer.path, "is not read by scorer.kind=judge", "give scorer.name, or leave it out"
        )
    validate_api("scorer", scorer.base_url, scorer.name, scorer.api)
    if not scorer.criterion.strip():
        raise UserError("scorer.criterion", None, "is empty", "say what makes an answer the better one")


def _check_path(scorer: ScorerConfig) -> None:
    for name in ("name", "base_url"):
        if value := getattr(scorer, name):
            rule = "is not read by scorer.kind=classifier"
            raise UserError(f"scorer.{name}", value, rule, "set scorer.kind=judge, or leave it out")
    if not scorer.path:
        raise UserError("scorer.path", None, "is missing", "give a reward model: scorer.path=DIR_OR_HUB_ID")
    path = Path(scorer.path).expanduser()
    if scorer.path.startswith((".", "/", "~")) and not path.is_dir():
        raise UserError("scorer.path", scorer.path, "is no folder", "give the folder of the reward model")


def _choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(key, value, "is not a choice", f"choose {', '.join(choices)}")
