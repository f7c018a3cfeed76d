"""Errors that a user can cause. Each says key, value, rule and remedy, and ends the program with status 2."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in what the user gave.

    Args:
        key: the configuration key (``ppo.minibatch_size``) or the file that is wrong.
        value: what it holds; None where it is missing.
        rule: what holds for it, as the rest of a sentence that starts with key and value.
        remedy: what to do instead.
    """

    def __init__(self, key: str, value: object, rule: str, remedy: str) -> None:
        self.key, self.value, self.rule, self.remedy = key, value, rule, remedy
        shown = key if value is None else f"{key}={value}"
        super().__init__(f"{shown} {rule}; {remedy}")

    def __reduce__(self) -> tuple[type[UserError], tuple[str, object, str, str]]:
        return type(self), (self.key, self.value, self.rule, self.remedy)


class SecretGiven(UserError):
    """A mistake that puts what may be a secret where records would keep it; of such a job no record is written."""


class RunFailed(Exception):
    """A run that ended for a reason which belongs in the table (``failed: <reason>``): no bug and no user's typo."""


def require_package(name: str, key: str, value: object, install: str) -> None:
    """The package that ``key=value`` asks for is installed; it is looked for, not imported.

    Args:
        name: of the package, as it is imported.
        key: the configuration key that asks for it.
        value: what the key holds.
        install: the message's remedy: how to install it, or how to do without.

    Raises:
        UserError: naming ``key``: it is not.
    """
    from importlib.util import find_spec

    if find_spec(name) is None:
        raise UserError(key, value, f"needs the package {name}, which is not installed", install)
