"""What was asked of one job, and the name that tells its candidate from others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from harness.config import Config
from harness.overrides import value_text


@dataclass(frozen=True)
class Request:
    """What was asked for: the configuration, the overrides that made it, and the command that repeats it."""

    config: Config
    overrides: list[str]
    command: str
    sweep: bool = False

    @property
    def candidate(self) -> str:
        """``candidate``, else the sorted overrides that tell candidates apart, else ``default``."""
        if self.config.candidate:
            return self.config.candidate
        return ",".join(sorted(told for override in self.overrides if (told := _telling(override)))) or "default"


_SAME_CANDIDATE = ("seed", "output_dir", "hardware", "tracker", "hub", "hydra", "plan", "candidate")
"""Keys and groups, with all below them, whose overrides make no other candidate."""
_PATHS = (
    "data.path",
    "data.pairs_path",
    "model.name",
    "judge.model.name",
    "sft.path",
    "algorithm.path",
    "reward_model.path",
    "judge.path",
)


_SAME_ANSWERS = tuple(
    f"model.api.{name}"
    for name in (
        *("key_variable", "concurrency", "requests_per_minute", "timeout_seconds", "max_attempts"),
        *("backoff_seconds", "max_wait_seconds", "prompt_price", "response_price"),
    )
)
"""Keys that decide how answers are fetched, and not what they say."""
QUOTES = "'\""


def _telling(override: str) -> str | None:
    """What an override adds to a candidate's name; of a path its last part alone, so that moved files rename none.

    A sweep hands values over escaped and its numbers written anew: the name is the same as where one is run alone.
    """
    key, equals, _ = override.partition("=")
    name = key.lstrip("+~")
    if name == "task" or name.split(".")[0].split("/")[0] in _SAME_CANDIDATE:
        return None
    if name in _SAME_ANSWERS:
        return None
    value = value_text(override)
    if name == "model.base_url":
        return f"{key}{equals}{urlsplit(value.strip(QUOTES)).netloc}"
    if name in _PATHS or name.startswith("data.files."):
        return key + equals + folder_label(value.strip(QUOTES))
    return key + equals + value


def folder_label(name: str) -> str:
    """What a folder is called: every stage of ours keeps its model in ``model``, and the folder above says which."""
    path = Path(name)
    return path.parent.name if path.name == "model" and path.parent.name else path.name
