"""What types cannot express of the ``data`` group: checked before any work and without heavy imports."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.config import Config, ControlledDataConfig, DataConfig, HubDataConfig, LocalDataConfig
from harness.data.columns import Columns
from harness.data.files import is_glob
from harness.errors import UserError
from harness.hub import NAME
from harness.needs import needs_feedback, takes_finished_policy, trains
from harness.types import SPLITS, Task, World


def check_data(config: Config) -> None:
    """Raise UserError for what of the data's configuration does not fit, alone or with feedback and judge."""
    data = config.data
    if data.source == "controlled":
        _check_controlled(config)
        return
    if isinstance(data, HubDataConfig):
        _check_hub(data)
    else:
        _check_local(data)
    if isinstance(data, LocalDataConfig):
        check_speakers(data.transcript_speakers)
    for name, limit in data.limits.items():
        if name not in SPLITS:
            raise UserError(f"data.limits.{name}", limit, "is not a split", f"use {', '.join(SPLITS)}")
        if limit < 1:
            raise UserError(f"data.limits.{name}", limit, "must be above 0", "give a larger number, or leave it out")
    if config.feedback.kind == "gold" and needs_feedback(config):
        raise UserError(
            "feedback.kind",
            "gold",
            "needs a controlled world, whose gold reward is known",
            "use feedback=metric or feedback=pairs",
        )
    pairs_needed = config.feedback.kind == "pairs" and needs_feedback(config)
    if pairs_needed and not data.pairs_path and "rejected" not in data.columns:
        remedy = "name the file with preference pairs, map data.columns.rejected, or use feedback=metric"
        raise UserError("data.pairs_path", None, "is missing", remedy)
    _check_shares(config)
    if config.judge.source == "train" and config.judge.responses == "mixture":
        raise UserError(
            "judge.responses", "mixture", "needs a controlled world", "use judge.responses=samples or pairs"
        )


def check_columns(data: DataConfig, task: Task) -> None:
    """Raise UserError where ``data.columns`` or ``data.pairs_columns`` do not map what the task's rows need."""
    if data.source == "controlled":
        return
    Columns(data.columns, task.required_fields)
    if data.pairs_path:
        Columns(data.pairs_columns, task.required_fields, key="data.pairs_columns", pairs_only=True)


def _check_controlled(config: Config) -> None:
    data = config.data
    if config.task.world is None:
        raise UserError("task.world", None, "is missing", "name a controlled world, or use data=local")
    for split in SPLITS:
        if data.sizes.get(split, 0) < 1:
            raise UserError(f"data.sizes.{split}", data.sizes.get(split), "must be above 0", "every split is needed")
    unknown = sorted(set(data.sizes) - set(SPLITS))
    if unknown:
        raise UserError(
            f"data.sizes.{unknown[0]}", data.sizes[unknown[0]], "is not a split", f"use {', '.join(SPLITS)}"
        )
    if config.feedback.kind == "pairs" and needs_feedback(config):
        raise UserError(
            "feedback.kind", "pairs", "needs a data set with pairs of its own", "use feedback=gold with data=controlled"
        )
    mixture = data.mixture if isinstance(data, ControlledDataConfig) else {}
    world = _world(config.task.world, mixture)
    if world is not None:
        check_references(world, data.references)


def _world(name: str, mixture: Mapping[str, float]) -> World | None:
    """The world, which is light, and knows its styles; None where it cannot be made."""
    from hydra.utils import get_class

    try:
        made: World = get_class(name)(**({"mixture": mixture} if mixture else {}))
    except UserError:
        raise
    except TypeError as error:
        if not mixture:
            return None
        raise UserError("data.mixture", mixture, f"is not taken by {name} ({error})", "leave it out") from error
    except Exception:
        return None  # a world that cannot be imported is the complaint of task.world, which comes later
    return made


def check_references(world: World, references: int) -> None:
    """Raise UserError where the world has not as many different references for every prompt, if it says how many."""
    most: int | None = getattr(world, "max_references", None)
    if most is not None and references > most:
        rule = f"is more than the world {world.name!r} has for every prompt, which is {most}"
        raise UserError("data.references", references, rule, f"lower it to at most {most}")


def _check_local(data: DataConfig) -> None:
    if not data.path:
        raise UserError("data.path", None, "is missing", "give a file or folder: data.path=PATH")
    if not is_glob(data.path):
        require_path("data.path", data.path)
    if data.pairs_path:
        require_path("data.pairs_path", data.pairs_path)


def _check_hub(data: HubDataConfig) -> None:
    if not data.path:
        raise UserError("data.path", None, "is missing", "give a repository: data.path=ORGANISATION/NAME")
    if not NAME.fullmatch(data.path):
        remedy = "give ORGANISATION/NAME, or use data=local for files"
        raise UserError("data.path", data.path, "is no repository on the hub", remedy)
    if data.pairs_path and data.pairs_path.startswith((".", "/", "~")):
        require_path("data.pairs_path", data.pairs_path)


def check_speakers(speakers: Sequence[str]) -> None:
    """Raise UserError where ``data.transcript_speakers`` is not two names."""
    if len(speakers) != 2 or not all(name.strip() for name in speakers) or speakers[0] == speakers[1]:
        rule, remedy = "is not two names", "give two, the answering side second: [Human,Assistant]"
        raise UserError("data.transcript_speakers", list(speakers), rule, remedy)


def _check_shares(config: Config) -> None:
    """Every split that some stage reads needs rows."""
    finished = takes_finished_policy(config)
    needed = list(config.algorithm.prompt_splits) if trains(config) and not finished else []
    if trains(config) and (not finished or config.sft.source == "train"):
        needed.append("sft")
    if needs_feedback(config) and config.feedback.kind != "pairs":
        needed.append("preference")
    if config.judge.source == "train":
        needed.append("judge")
    for split, share in config.data.shares.items():
        if not 0 <= share < math.inf:
            raise UserError(f"data.shares.{split}", share, "is no share", "give a number of at least 0, such as 0.2")
    for split in needed:
        if not config.data.shares.get(split):
            raise UserError(
                f"data.shares.{split}", config.data.shares.get(split), "must be above 0", "give a share such as 0.2"
            )


def require_path(key: str, value: str) -> None:
    """Raise UserError where there is no such file or folder."""
    path = Path(value).expanduser()
    try:
        path.stat()
        readable = os.access(path, os.R_OK | os.X_OK if path.is_dir() else os.R_OK)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(key, value, "does not exist", "give an existing file or folder") from None
    except OSError as error:
        raise UserError(key, value, f"cannot be read ({error.strerror})", "give another, or correct it") from None
    if not readable:
        raise UserError(key, value, "cannot be read (Permission denied)", "correct its permissions")
