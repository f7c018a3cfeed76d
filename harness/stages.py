"""Stages: pieces of work named by a fingerprint of all that decides their outcome, run once and kept.

A stage's outputs live in ``<output_dir>/stages/<name>-<fingerprint>/``. ``manifest.json``, written last by rename,
makes them valid; a folder without one is what an interrupted run left, and is made anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.errors import RunFailed, UserError
from harness.fellows import at_work
from harness.memory import peak_memory_mb, reset_peak_memory
from harness.progress import Progress

if TYPE_CHECKING:
    from filelock import FileLock

MANIFEST = "manifest.json"
KEPT = ("wall_seconds", "peak_memory_mb", "summary")
"""What later stages keep of those before them, for the records of a row whose models were deleted meanwhile."""
UNREAD = ("metrics.jsonl", "backbone")
"""Files and folders of a stage that no other reads."""


@dataclass(frozen=True)
class Stage:
    """One node of the graph.

    Args:
        name: the stage's name, which its folder starts with.
        version: bumped when the meaning of the stage's code changes.
        config: what of the configuration decides the outcome; JSON-serialisable, no paths, no device index.
        inputs: the stages before it, by the name under which ``run`` looks them up.
        seed: of this stage's random streams; None where it has none of its own.
        environment: what else changes numbers: precision, device type, torch's version, threads.
        run: does the work in the given workspace and returns the summary that the manifest keeps.
    """

    name: str
    version: int
    config: Mapping[str, Any]
    inputs: Mapping[str, Stage]
    seed: int | None
    environment: Mapping[str, Any]
    run: Callable[[Workspace], dict[str, Any]] = field(compare=False)

    @property
    def fingerprint(self) -> str:
        """8 hex digits over name, version, config, seed, environment and the fingerprints before it."""
        parts = {
            "name": self.name,
            "version": self.version,
            "config": self.config,
            "seed": self.seed,
            "environment": self.environment,
            "inputs": {key: stage.fingerprint for key, stage in self.inputs.items()},
        }
        canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:8]

    @property
    def label(self) -> str:
        return f"{self.name}-{self.fingerprint}"


class Finished(NamedTuple):
    """A stage's valid outputs."""

    directory: Path
    manifest: dict[str, Any]

    @property
    def summary(self) -> dict[str, Any]:
        return dict(self.manifest["summary"])


class Workspace:
    """What a running stage sees: its folder, its finished inputs, its seed, and where to report.

    Args:
        directory: where the outputs go; exists and is empty.
        inputs: the finished stages before it.
        seed: the stage's seed.
        progress: where progress is shown.
    """

    def __init__(
        self, directory: Path, inputs: Mapping[str, Finished], seed: int, progress: Progress, name: str
    ) -> None:
        self.directory, self.inputs, self.seed, self.progress, self.name = directory, inputs, seed, progress, name

    def seed_for(self, purpose: str) -> int:
        """A seed of its own for each random stream: from the stage's seed and the stream's purpose."""
        digest = hashlib.sha256(f"{self.name}/{purpose}/{self.seed}".encode()).digest()
        return int.from_bytes(digest[:7], "big")

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one line to the stage's ``metrics.jsonl``."""
        with (self.directory / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(row)) + "\n")


class StageRunner:
    """Runs stages once each, sharing finished ones between jobs and processes.

    Args:
        output_dir: holds ``stages/``.
        progress: where they show themselves.
        prepare: called before a stage whose numbers depend on where it runs (its ``environment``).
    """

    def __init__(self, output_dir: Path, progress: Progress, prepare: Callable[[], object] | None = None) -> None:
        self.root = output_dir / "stages"
        self.progress, self.prepare = progress, prepare
        self._finished: dict[str, Finished] = {}
        self._damaged: set[Path] = set()

    def directory(self, stage: Stage) -> Path:
        return self.root / stage.label

    def cached(self, stage: Stage) -> Finished | None:
        """The stage's outputs where they are valid, else None: a damaged manifest is none, and said once."""
        directory = self.directory(stage)
        path = directory / MANIFEST
        if not path.is_file():
            return None
        manifest = _read_manifest(path)
        if isinstance(manifest, str):
            if path not in self._damaged:
                self.progress.warning(f"{path} {manifest}; the stage counts as unfinished, and is made anew")
            self._damaged.add(path)
            return None
        return Finished(directory, manifest)

    def history(self, stage: Stage) -> dict[str, dict[str, Any]]:
        """What is known of the stages that led to this one, itself included, by fingerprint: the keys of `KEPT`.

        A stage whose folder is gone is known from those after it.
        """
        found = [finished for each in all_stages(stage) if (finished := self.cached(each)) is not None]
        known: dict[str, dict[str, Any]] = {}
        for finished in found:
            known |= finished.manifest.get("before", {})
        return known | {each.manifest["fingerprint"]: {name: each.manifest[name] for name in KEPT} for each in found}

    def run(self, stage: Stage, *, yielding_to: Stage | None = None) -> Finished:
        """The stage's outputs, from disk where they are finished, else made now (its inputs first).

        Args:
            stage: which.
            yielding_to: left the cores for as long as another process makes it, before this stage is made.

        Raises:
            RunFailed: the stage, or one before it, failed, just now or in another process of this job.
            UserError: likewise.
        """
        if stage.fingerprint in self._finished:
            return self._finished[stage.fingerprint]
        found = self.cached(stage)
        if found is not None:
            self.progress.finished(stage.label, found.manifest["wall_seconds"], found.manifest["line"], cached=True)
        else:
            inputs = {key: self.run(before) for key, before in stage.inputs.items()}
            if yielding_to is not None:
                with self._locked(yielding_to):
                    pass
            found = self._run_locked(stage, inputs)
        self._finished[stage.fingerprint] = found
        return found

    def missing(self, stage: Stage) -> list[Stage]:
        """What ``run`` would have to make for a stage, inputs first: nothing that only a cached one needs."""
        return all_stages(stage, without=lambda each: self.cached(each) is not None)

    def waits(self, stage: Stage) -> bool:
        """Whether another process is making the stage, or one that is needed for it."""
        return any(map(self._is_locked, self.missing(stage)))

    def _run_locked(self, stage: Stage, inputs: Mapping[str, Finished]) -> Finished:
        with self._locked(stage):
            found = self.cached(stage)  # another process may have finished it while this one waited
            if found is not None:
                return found
            if (failure := self.progress.failures.get(stage.fingerprint)) is not None:
                raise failure
            with at_work():
                return self._try(stage, inputs)

    def _try(self, stage: Stage, inputs: Mapping[str, Finished]) -> Finished:
        """Make a stage; a failure that no second try would change is noted before somebody else can begin one.

        What another process notes comes through a pipe: who asks at that moment may try once more, in vain.
        """
        try:
            return self._execute(stage, inputs)
        except (RunFailed, UserError) as error:
            self.progress.failed(stage.fingerprint, error)
            raise

    def _lock(self, stage: Stage) -> FileLock:
        from filelock import FileLock

        self.root.mkdir(parents=True, exist_ok=True)
        return FileLock(self.root / f".{stage.label}.lock")

    def _is_locked(self, stage: Stage) -> bool:
        from filelock import Timeout

        try:
            with self._lock(stage).acquire(timeout=0):
                return False
        except Timeout:
            return True

    @contextmanager
    def _locked(self, stage: Stage) -> Iterator[None]:
        """No other process makes the stage inside."""
        from filelock import Timeout

        lock = self._lock(stage)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self.progress.waiting(stage.label)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _execute(self, stage: Stage, inputs: Mapping[str, Finished]) -> Finished:
        for before in inputs.values():
            _require_whole(before)
        directory = self.directory(stage)
        if directory.exists():
            shutil.rmtree(directory)
        directory.mkdir(parents=True)
        if stage.environment and self.prepare is not None:
            self.prepare()
        reset_peak_memory()
        started = time.perf_counter()
        summary = stage.run(Workspace(directory, inputs, stage.seed or 0, self.progress, stage.name))
        line, wall_seconds = str(summary.pop("line", "")), round(time.perf_counter() - started, 3)
        manifest = {
            "stage": stage.name,
            "version": stage.version,
            "fingerprint": stage.fingerprint,
            "config": stage.config,
            "seed": stage.seed,
            "environment": stage.environment,
            "inputs": {key: before.label for key, before in stage.inputs.items()},
            "wall_seconds": wall_seconds,
            "peak_memory_mb": peak_memory_mb(),
            "line": line,
            "summary": summary,
            "files": _files(directory),
            "before": self.history(stage),
        }
        write_json(directory / MANIFEST, manifest)
        self.progress.finished(stage.label, wall_seconds, line, cached=False)
        return Finished(directory, json.loads(json.dumps(manifest)))


def _read_manifest(path: Path) -> dict[str, Any] | str:
    """A manifest, or what is wrong with it: the disk was full, or the machine went off while it was written."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (RecursionError, ValueError) as error:  # an OSError may pass: no reason to make hours of work anew
        return f"cannot be read ({error})"
    if not isinstance(manifest, dict):
        return "is no manifest"
    lacking = [name for name in (*KEPT, "fingerprint", "line") if name not in manifest]
    return f"lacks {', '.join(lacking)}" if lacking else manifest


def _files(directory: Path) -> list[str]:
    """What a stage leaves for others: its files, but for `UNREAD`."""
    files = (path.relative_to(directory) for path in directory.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in files if not set(path.parts) & set(UNREAD))


def _require_whole(finished: Finished) -> None:
    """Raise UserError where files of a stage are gone that another one is about to read."""
    lacking = [name for name in finished.manifest.get("files", ()) if not (finished.directory / name).exists()]
    if lacking:
        rule = f"lacks {lacking[0]}" + (f" and {len(lacking) - 1} more files" if len(lacking) > 1 else "")
        raise UserError(str(finished.directory), None, rule, "delete that folder, and the stage is made anew")


def write_json(path: Path, value: Any) -> None:
    """Write JSON under a temporary name and rename it: a reader sees all of it or nothing, after a power cut too."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def all_stages(last: Stage, *, without: Callable[[Stage], bool] = lambda _: False) -> list[Stage]:
    """The stages that lead to ``last``, itself included, inputs before what needs them, each once.

    Args:
        last: the last of them.
        without: whether to leave a stage out, and with it what it alone needs.
    """
    ordered: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.fingerprint not in ordered and not without(stage):
            for before in stage.inputs.values():
                visit(before)
            ordered[stage.fingerprint] = stage

    visit(last)
    return list(ordered.values())
