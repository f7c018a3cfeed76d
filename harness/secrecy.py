"""No secret of a user's own configuration files in what Hydra writes down before a job begins."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from harness.api.checks import SECRET_GROUPS, refuse_secrets, refuse_secrets_in, sounds_secret
from harness.errors import SecretGiven, UserError

WRITTEN = ("config.yaml", "hydra.yaml", "overrides.yaml")
"""What Hydra writes of each job where ``hydra.output_subdir`` is set."""


class Refused(BaseException):
    """Carries an error past Hydra, which makes a warning of any other exception of a callback's.

    Args:
        error: what is wrong.
    """

    def __init__(self, error: UserError) -> None:
        super().__init__(str(error))
        self.error = error


class RefuseSecrets(Callback):
    """Looks through the composed configuration before ``multirun.yaml``, or a folder of ``.hydra``, is written."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        _refuse(config, written=OmegaConf.select(config, "hydra.output_subdir") is not None)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        _refuse(config, written=True)

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """A sweep's job, whose own choices are composed only now: what Hydra wrote of it a moment ago is taken back."""
        if (subfolder := OmegaConf.select(config, "hydra.output_subdir")) is None:
            return
        try:
            _refuse(config, written=True)
        except Refused:
            for name in WRITTEN:
                (Path(config.hydra.runtime.output_dir) / subfolder / name).unlink(missing_ok=True)
            raise


def _refuse(config: DictConfig, *, written: bool) -> None:
    """Raise `Refused` where a secret is given to an endpoint, a hub, or a sweep; to a job, where it is ``written``."""
    given: Mapping[str, Any] = _plain(OmegaConf.to_container(config, resolve=False))
    try:
        for group in SECRET_GROUPS:
            refuse_secrets(group, given.get(group))
        for key, values in ((given["hydra"]["sweeper"] or {}).get("params") or {}).items():
            refuse_secrets_in(f"{key}={values}")
        for name, value in given["hydra"]["job"]["env_set"].items() if written else ():
            if value is not None and sounds_secret(name):
                rule = "would be kept in multirun.yaml or .hydra"
                raise SecretGiven(f"hydra.job.env_set.{name}", None, rule, "set it in the shell: export NAME=VALUE")
    except SecretGiven as error:
        raise Refused(error) from None


def _plain(value: Any) -> Any:
    """A value without its interpolations, which are written as they stand; a job looks at what they come to."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inside) for key, inside in value.items()}
    if isinstance(value, list):
        return [_plain(inside) for inside in value]
    return None if isinstance(value, str) and re.fullmatch(r"\$\{[^{}]*\}|\?{3}", value) else value
