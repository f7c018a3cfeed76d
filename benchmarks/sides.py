"""The two sides of a comparison as processes: each has its own Python, its own imports and its own peak memory."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

from harness.errors import RunFailed, UserError

ROOT = Path(__file__).resolve().parent.parent
_NOTHING: Mapping[str, str] = MappingProxyType({})


class Side:
    """A worker process that waits for its turn.

    Args:
        python: its interpreter.
        module: what it runs; see ``benchmarks.worker``.
        threads: that it may compute on.
        log: where its messages go.
        requires: versions that it must have, by package.

    Attributes:
        versions: of what it runs on, by package.
        imported: what importing took.

    Raises:
        UserError: there is no such interpreter, or it has another version.
        RunFailed: the process ended.
    """

    def __init__(
        self, python: str | Path, module: str, *, threads: int, log: Path, requires: Mapping[str, str] = _NOTHING
    ) -> None:
        self.module, self.log = module, log
        count = str(threads)
        environment = {
            **os.environ,
            **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "HARNESS_BENCHMARK_THREADS"), count),
            **dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRL_EXPERIMENTAL_SILENCE"), "1"),
            "TOKENIZERS_PARALLELISM": "false",
            "CUDA_VISIBLE_DEVICES": "",
        }
        with log.open("ab") as messages:
            try:
                self.process = subprocess.Popen(
                    [str(python), "-m", module],
                    cwd=ROOT,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=messages,
                    text=True,
                )
            except OSError as error:
                raise UserError(
                    "--trl-python", python, f"cannot be started: {error.strerror}", "name a Python"
                ) from error
        try:
            self.versions: dict[str, str] = self._reply()["versions"]
            for package, wanted in requires.items():
                if (found := self.versions.get(package)) != wanted:
                    has = f"has {package} {found}" if found else f"has no {package}"
                    raise UserError(
                        "--trl-python",
                        python,
                        f"{has}; the comparison is with {wanted}",
                        f"install {package}=={wanted} there, or leave the option out",
                    )
            self.imported = self._reply()
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> Side:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def ask(self, stage: str, *, save: Path | None = None, **details: Any) -> dict[str, Any]:
        """Have a stage run; returns what was measured and counted, with the memory that the imports alone take."""
        assert self.process.stdin is not None
        request: Mapping[str, Any] = {"stage": stage, "save": None if save is None else str(save), **details}
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the reply that does not come tells why
        return {**self.imported, **self._reply()}

    def _reply(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            tail = "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:])
            raise RunFailed(f"{self.module} ended with status {self.process.wait()}; the end of {self.log}:\n{tail}")
        reply: dict[str, Any] = json.loads(line)
        return reply
