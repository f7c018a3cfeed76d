"""The command line: Hydra composes the configuration, each job runs, and the exit status says how it went."""

from __future__ import annotations

import os
import re
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config import Config, register_schemas
from harness.errors import RunFailed, UserError
from harness.validation import validate

if TYPE_CHECKING:
    from harness.progress import Progress

OK, FAILED, MISTAKE, INTERRUPTED = 0, 1, 2, 130
STATUS_FOLDER = "HARNESS_STATUS_FOLDER"
"""Environment variable: where each job, in whatever process, leaves its status for the launching one."""


def main() -> int:
    """Run ``python -m harness`` with the arguments of this process; returns the exit status."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints its own message and exits with 1
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    register_schemas()
    with tempfile.TemporaryDirectory(prefix="harness-") as folder:
        os.environ[STATUS_FOLDER] = folder
        try:
            hydra.main(config_path="pkg://harness.conf", config_name="config", version_base="1.3")(run_job)()
        except (HydraException, OmegaConfBaseException) as error:
            print(explain(error), file=sys.stderr)
            return MISTAKE
        except KeyboardInterrupt:
            print(
                "\nInterrupted. Finished stages and records are kept; the same command goes on from there.",
                file=sys.stderr,
            )
            return INTERRUPTED
        statuses = [int(path.read_text()) for path in Path(folder).iterdir()]
    return FAILED if FAILED in statuses else max(statuses, default=OK)


def run_job(composed: Any) -> None:
    """One job. Never raises (that would stop a sweep): failures go to the table, the status to the launching process."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    hydra_config = HydraConfig.get()
    sweep = hydra_config.mode is not None and hydra_config.mode.name == "MULTIRUN"
    overrides = list(hydra_config.overrides.task)
    if unknown := unknown_keys(composed):
        print(f"{unknown[0]} is not a configuration key; {_suggestion(unknown[0])}", file=sys.stderr)
        status = MISTAKE
    else:
        config = OmegaConf.to_object(composed)
        assert isinstance(config, Config)
        status = execute(config, overrides, sweep=sweep)
    folder = Path(os.environ[STATUS_FOLDER])
    name = f"{hydra_config.job.num if sweep else 0}-{os.getpid()}"
    (folder / name).write_text(str(status))


def unknown_keys(node: Any, prefix: str = "") -> list[str]:
    """Keys that ``+key=value`` added to a typed node: Hydra lets them in, no part of ours would ever read them."""
    from dataclasses import fields, is_dataclass

    from omegaconf import DictConfig, OmegaConf

    schema = OmegaConf.get_type(node)
    if not is_dataclass(schema):
        return []
    known = {field.name for field in fields(schema)}
    found = [prefix + str(name) for name in node if name not in known]
    for name in known:
        if isinstance(node[name], DictConfig):
            found += unknown_keys(node[name], f"{prefix}{name}.")
    return found


def execute(config: Config, overrides: list[str], *, sweep: bool) -> int:
    """Validate, run, publish; returns the exit status of this job."""
    from harness.progress import Progress

    try:
        validate(config)
        log_file = Path(config.tracker.log_file) if config.tracker.log_file else None
        progress = Progress(config.tracker.mode, log_file)  # type: ignore[arg-type]
    except UserError as error:
        print(error, file=sys.stderr)
        return MISTAKE
    try:
        return _execute(config, overrides, progress)
    finally:
        progress.close()


def _execute(config: Config, overrides: list[str], progress: Progress) -> int:
    import traceback

    _quieten_libraries()
    from harness.pipeline import Request, publish, reason, run

    request = Request(config, overrides, shlex.join(["python", "-m", "harness", *overrides]))
    status = OK
    try:
        run(request, progress)
        if config.plan:
            return OK
    except UserError as error:
        progress.warning(str(error))
        status = MISTAKE
    except RunFailed as error:
        progress.warning(f"failed: {error}")
        status = FAILED
    except Exception as error:
        progress.warning(f"failed: {reason(error)}\n{traceback.format_exc()}")
        status = FAILED
    publish(config, progress)
    return status


def _quieten_libraries() -> None:
    """Keep the libraries' progress bars and notices out of ours; offline they must not wait for a hub."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def explain(error: BaseException) -> str:
    """Hydra's and OmegaConf's complaints in our words: key, value, rule, remedy."""
    text = str(error)
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match.group(1)
        return f"{key} is not a configuration key; {_suggestion(key)}"
    if match := re.search(r"In '[^']*': Could not find '([^']+)'", text):
        group, _, option = match.group(1).rpartition("/")
        available = re.findall(r"^\t(.+)$", text, flags=re.MULTILINE)
        return f"{group}={option} is not a choice; choose {', '.join(available) or 'one that --help lists'}"
    if match := re.search(r"Could not find '([^']+)'", text):
        return f"{match.group(1)} is not a configuration; --help lists the choices"
    key = str(getattr(error, "full_key", "") or "") or _override_key(text)
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    if isinstance(error.__cause__, Exception) and not key:
        key = str(getattr(error.__cause__, "full_key", "") or "")
    return f"{key or 'the command line'}: {first}; python -m harness --help lists the keys and their types"


def _override_key(text: str) -> str:
    match = re.search(r"full_key: (\S+)", text) or re.search(r"Error merging override (\S+?)=", text)
    return match.group(1) if match else ""


def _suggestion(key: str) -> str:
    """The nearest existing key, else where to look."""
    import difflib

    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    known: list[str] = []
    for name, node in ConfigStore.instance().repo["schema"].items():
        prefix = "" if name == "root.yaml" else f"{name.removesuffix('.yaml').replace('ppo', 'algorithm')}."
        known += [prefix + leaf for leaf in _leaves(OmegaConf.structured(node.node))]
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {near[0]}?" if near else "python -m harness --help lists the keys"


def _leaves(node: Any, prefix: str = "") -> list[str]:
    from omegaconf import DictConfig, OmegaConf

    found: list[str] = []
    for name in node:
        found.append(prefix + str(name))
        if not OmegaConf.is_missing(node, name) and isinstance(node[name], DictConfig):
            found += _leaves(node[name], f"{prefix}{name}.")
    return found
