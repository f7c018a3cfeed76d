"""The command line: Hydra composes the configuration, each job runs, and the exit status says how it went."""

from __future__ import annotations

import atexit
import logging
import os
import shlex
import signal
import sys
import tempfile
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from harness.api.checks import refuse_secrets_in
from harness.complaints import explain, unknown_key, unknown_keys
from harness.config import SCHEMAS, Config, register_schemas
from harness.errors import RunFailed, SecretGiven, UserError
from harness.output import FOLDERS, require_output, unusable
from harness.usage import asks_for_help, group_options, show_help

if TYPE_CHECKING:
    from harness.progress import Progress

AnyConfig = TypeVar("AnyConfig")
OK, FAILED, MISTAKE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
"""Exit statuses; the last two are those of shells: 128 and the number of SIGINT or SIGTERM."""
ONE_AFTER_ANOTHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
"""The launcher that runs a sweep's jobs in this process; with any other they run at the same time."""
WITH_VALUE = (
    *("--cfg", "-c", "--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--package", "-p"),
    "--experimental-rerun",
)
"""Flags of Hydra's that a value follows."""
INFO, INFOS = ("--info", "-i"), ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
"""Its flag that one of these may follow, and what may: without any it is the first."""
STATUS_FOLDER = "HARNESS_STATUS_FOLDER"
"""Environment variable: where each job, in whatever process, leaves its status for the launching one."""


class Terminated(KeyboardInterrupt):
    """SIGTERM has come, as from a batch system that takes a machine back: all ends as it does on Ctrl-C."""


def main() -> int:
    """Run ``python -m harness`` with the arguments of this process; returns the exit status."""
    register_schemas()
    return launch("config", run_job, SCHEMAS, show_help)


def launch(
    config_name: str,
    job: Callable[[Any], None],
    schemas: Mapping[str, type],
    show_help: Callable[[Sequence[str]], None],
) -> int:
    """Compose a configuration from the arguments of this process, run its jobs, and return the exit status.

    Args:
        config_name: the primary configuration in ``conf/``, whose schemas are registered.
        job: runs one job on the composed configuration, by `run_as`.
        schemas: of that configuration, for suggestions where a key does not exist.
        show_help: what ``--help`` does.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints its own message and exits with 1
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from harness.secrecy import Refused

    sys.argv[1:] = arguments = _flags_first(sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="harness-") as folder:
        os.environ[STATUS_FOLDER] = folder
        try:
            _refuse_early(arguments)
            if "--version" in arguments:
                print(f"rlhf-harness {metadata.version('rlhf-harness')}")
                return OK
            if asks_for_help(arguments):
                show_help(arguments)
                return OK
            with _ending_well():
                hydra.main(config_path="pkg://harness.conf", config_name=config_name, version_base="1.3")(job)()
        except UserError as error:
            print(error, file=sys.stderr)
            return MISTAKE
        except Refused as refused:
            print(refused.error, file=sys.stderr)
            return MISTAKE
        except (HydraException, OmegaConfBaseException, YAMLError) as error:
            print(explain(error, arguments, schemas), file=sys.stderr)
            return MISTAKE
        except UnicodeDecodeError as error:
            if not (wrong := _not_utf8(arguments)):
                raise
            print(f"{wrong} is not UTF-8 ({error.reason}); save it as UTF-8", file=sys.stderr)
            return MISTAKE
        except (AttributeError, RuntimeError, ValueError) as error:
            if not _raised_by_hydra(error):
                raise
            print(explain(error, arguments, schemas), file=sys.stderr)
            return MISTAKE
        except BrokenPipeError:  # as in `python -m harness --help | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the flush at exit complains too
            return FAILED
        except OSError as error:
            if (complaint := unusable(error, arguments)) is None:
                raise
            print(complaint, file=sys.stderr)
            return MISTAKE
        except KeyboardInterrupt as interrupt:
            print(
                "\nInterrupted. Finished stages and records are kept; the same command goes on from there.",
                file=sys.stderr,
            )
            return TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED
        statuses = [int(path.read_text()) for path in Path(folder).iterdir()]
    if not statuses and any(argument in ("-m", "--multirun") for argument in arguments):
        shown = next((argument for argument in arguments if "glob(" in argument), "the sweep")
        print(f"{shown} gives no job; write a value, or a pattern that some choice matches", file=sys.stderr)
        return MISTAKE
    return FAILED if FAILED in statuses else max(statuses, default=OK)


def _flags_first(arguments: Sequence[str]) -> list[str]:
    """The same arguments in an order that Hydra's parser takes, for which overrides stand on one side of its flags."""
    flags, overrides, left = list[str](), list[str](), deque(arguments)
    while left:
        argument = left.popleft()
        (flags if argument.startswith("-") else overrides).append(argument)
        if argument in INFO:
            flags.append(left.popleft() if left and left[0] in INFOS else INFOS[0])
        elif argument in WITH_VALUE:
            if not left:
                return list(arguments)  # the parser says what is missing
            flags.append(left.popleft())
    return flags + overrides


def _raised_by_hydra(error: BaseException) -> bool:
    """Whether an error comes from Hydra itself, which complains of its flags and functions so, and not from a job."""
    frames = [str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    return frames[-1].partition(".")[0] in ("hydra", "omegaconf") and not any(
        name.startswith("harness.") for name in frames[1:]
    )


def _not_utf8(arguments: Sequence[str]) -> Path | None:
    """The first YAML file of the user's own folder of configurations that is not UTF-8."""
    from hydra._internal.utils import get_args_parser

    folder = get_args_parser().parse_args(list(arguments)).config_dir
    for path in sorted(Path(folder).rglob("*.yaml")) if folder else ():
        try:
            path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            return path
    return None


def end(status: int) -> NoReturn:
    """End this process with an exit status, at once where nothing but this thread is left.

    Else Python would free all that the libraries hold piece by piece, for a second, before the system frees the rest.
    """
    if threading.active_count() > 1:
        raise SystemExit(status)
    atexit._run_exitfuncs()
    try:
        with suppress(BrokenPipeError):  # nobody reads it any more
            sys.stdout.flush()
    except OSError as error:
        print(f"what was to be shown could not be written ({error})", file=sys.stderr)
        status = status or FAILED
    with suppress(OSError):
        sys.stderr.flush()
    os._exit(status)


@contextmanager
def _ending_well() -> Iterator[None]:
    """SIGTERM raises ``Terminated`` inside, so that what was begun is given up in order; only a main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(_number: int, _frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough, and the end takes a moment
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _refuse_early(arguments: Sequence[str]) -> None:
    """What Hydra must not see: what it answers with a traceback, and secrets, which its sweeps write down."""
    for argument in arguments:
        key, equals, value = argument.lstrip("+~").partition("=")
        if equals:
            refuse_secrets_in(argument)
        if argument.lstrip("+~").startswith("="):
            raise UserError(argument, None, "has no key", "write KEY=VALUE")
        if key in FOLDERS and equals and not value.strip(" '\""):
            require_output(key, "")
        if "null" in (each.strip() for each in value.lower().split(",")):
            _refuse_no_choice(key, value)


def _refuse_no_choice(key: str, value: str) -> None:
    """``GROUP=null``: a group of which no option is chosen; any other key may be null."""
    groups = group_options() | group_options(bench=True)
    if key in groups or key.startswith("hydra/"):
        choose = f"choose {', '.join(groups[key])}, or leave" if key in groups else "leave"
        raise UserError(key, value, "is not a choice", f"{choose} {key} out")


def run_job(composed: Any) -> None:
    """One job of ``python -m harness``."""
    run_as(Config, composed, execute, SCHEMAS)


def run_as(kind: type[AnyConfig], composed: Any, execute: Callable[..., int], schemas: Mapping[str, type]) -> None:
    """One job. Never raises (that would stop a sweep): failures go to the table, the status to the launcher.

    Args:
        kind: the dataclass of the command's configuration.
        composed: what Hydra composed.
        execute: called with the configuration, the overrides as typed, and whether it is one job of a sweep; returns
            the exit status.
        schemas: of that configuration, for suggestions where a key does not exist.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    hydra_config = HydraConfig.get()
    sweep = hydra_config.mode is not None and hydra_config.mode.name == "MULTIRUN"
    # Unresolved: an interpolation in an override refers to our keys, not to Hydra's.
    given: Any = OmegaConf.to_container(hydra_config.overrides.task, resolve=False)
    overrides = [str(override) for override in given]
    config = _to_config(kind, composed, overrides, schemas)
    if isinstance(config, Config) and hydra_config.launcher["_target_"] != ONE_AFTER_ANOTHER:
        config.hardware.workers = config.hardware.workers or 1  # other jobs have the other cores
    status = MISTAKE if config is None else execute(config, overrides, sweep=sweep)
    folder = Path(os.environ[STATUS_FOLDER])
    name = f"{hydra_config.job.num if sweep else 0}-{os.getpid()}"
    (folder / name).write_text(str(status))


def _to_config(
    kind: type[AnyConfig], composed: Any, overrides: Sequence[str], schemas: Mapping[str, type]
) -> AnyConfig | None:
    """The composed configuration as objects; None, with a message, where it holds what ours has no place for."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        if unknown := unknown_keys(composed):
            print(unknown_key(unknown[0], overrides, schemas), file=sys.stderr)
            return None
        config = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        print(explain(error, overrides, schemas), file=sys.stderr)
        return None
    assert isinstance(config, kind)
    return config


def execute(config: Config, overrides: list[str], *, sweep: bool = False) -> int:
    """Validate, run, publish; returns the exit status of this job."""
    from harness.idle import refuse_idle
    from harness.progress import Progress
    from harness.validation import validate

    try:
        validate(config)
        refuse_idle(config, overrides)
        require_output("output_dir", config.output_dir, written=not config.plan)
        log_file = Path(config.tracker.log_file) if config.tracker.log_file else None
        progress = Progress(config.tracker.mode, log_file)  # type: ignore[arg-type]
    except UserError as error:
        print(error, file=sys.stderr)
        return _refuse(config, overrides, error) if sweep and not config.plan else MISTAKE
    try:
        return _execute(config, overrides, progress, sweep)
    finally:
        progress.close()


def _refuse(config: Config, overrides: list[str], error: UserError) -> int:
    """Leave a sweep's table the row of a job whose configuration is wrong; the message was given already."""
    if isinstance(error, SecretGiven) or error.key == "output_dir":  # there is no place for a record
        return MISTAKE
    from harness.progress import Progress
    from harness.recording import refuse
    from harness.request import Request

    progress = Progress("quiet")
    try:
        refuse(Request(config, overrides, _command(overrides), sweep=True), error)
    except OSError as problem:  # output_dir itself may be what is wrong
        progress.error(f"output_dir={config.output_dir}: no record could be written ({problem})")
        return MISTAKE
    return _publish(config, progress, MISTAKE)


def _command(overrides: list[str]) -> str:
    return shlex.join(["python", "-m", "harness", *overrides])


def _execute(config: Config, overrides: list[str], progress: Progress, sweep: bool) -> int:
    quieten_libraries()
    from harness.pipeline import prepare, run
    from harness.request import Request

    request = Request(config, overrides, _command(overrides), sweep)
    prepared: list[tuple[Any, Any]] = []
    status = attempt(lambda: prepared.append(prepare(request)), progress)
    if prepared:
        status = attempt(lambda: run(request, *prepared[0], progress), progress)
    if config.plan or not (prepared or sweep):  # a single run that is refused leaves nothing to be published
        return status
    return _publish(config, progress, status)


def attempt(run: Callable[[], None], progress: Progress) -> int:
    """Run one job; what ends it is said, and becomes its status."""
    from harness.recording import reason

    try:
        run()
    except UserError as error:
        progress.error(str(error))
        return MISTAKE
    except RunFailed as error:
        progress.warning(f"failed: {error}")
        return FAILED
    except PermissionError as error:
        progress.error(f"{error.filename or 'a file'} cannot be used ({error.strerror}); correct its permissions")
        return MISTAKE
    except Exception as error:
        progress.warning(f"failed: {reason(error)}\n{traceback.format_exc()}")
        return FAILED
    return OK


def _publish(config: Config, progress: Progress, status: int) -> int:
    """Rebuild the leaderboard; where that fails (it may be the user's own) a sweep goes on, and the status says so."""
    from harness.pipeline import publish
    from harness.recording import reason

    try:
        publish(config, progress)
    except UserError as error:
        if error.key == "evaluation.leaderboard":  # the job that names it has said so
            return status
        progress.error(str(error))
        return FAILED
    except Exception as error:
        progress.warning(f"the leaderboard could not be rebuilt: {reason(error)}\n{traceback.format_exc()}")
        return FAILED
    return status


def quieten_libraries() -> None:
    """Keep the libraries' progress bars and notices out of ours; offline they must not wait for a hub."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # what it logs of a name it cannot find, we say
