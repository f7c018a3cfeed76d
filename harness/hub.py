"""The Hugging Face hub: which commit a revision is, and what is wrong where a repository cannot be read."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from harness.errors import UserError

Kind = Literal["model", "dataset"]
NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
"""``organisation/name``, or the bare name of an old repository."""

TIMEOUT_SECONDS = 5.0
_COMMIT = re.compile(r"[0-9a-f]{40}")
_OFFLINE = "set HF_HUB_OFFLINE=1 to use what is in the cache"


class Keys(NamedTuple):
    """The configuration keys that an error names."""

    name: str
    revision: str


@functools.cache
def resolve_commit(name: str, revision: str | None, kind: Kind, keys: Keys) -> str:
    """The commit that a revision stands for; asked once per process, so that all of a run reads the same.

    One request that is not repeated says whether the hub answers and the repository can be read: what downloads later
    tries again for half a minute. The answer is kept in the hub's cache, where offline mode finds it.

    Args:
        name: the repository.
        revision: branch, tag or commit; None: the main branch.
        kind: what the repository holds.
        keys: the configuration keys of name and revision.

    Raises:
        UserError: naming one of the keys: no such repository or revision, no access, or the hub does not answer.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    if not NAME.fullmatch(name) or ".." in name or "--" in name:
        raise UserError(keys.name, name, "is no repository on the hub", "give ORGANISATION/NAME")
    wanted = revision or constants.DEFAULT_REVISION
    cached = _cached_commit(name, wanted, kind)
    if is_offline():
        if cached is None:
            rule = f"is not in the cache at revision {wanted}, and HF_HUB_OFFLINE forbids to ask the hub"
            raise UserError(keys.name, name, rule, "run once without HF_HUB_OFFLINE")
        return cached
    if _COMMIT.fullmatch(wanted) and cached is not None:
        return wanted
    try:
        commit = HfApi().repo_info(name, repo_type=kind, revision=wanted, timeout=TIMEOUT_SECONDS).sha
        with suppress(EntryNotFoundError):
            # Fails where access is denied, and leaves in the cache which commit the revision is.
            hf_hub_download(name, "README.md", repo_type=kind, revision=wanted, etag_timeout=TIMEOUT_SECONDS)
    except Exception as error:
        raise explain(error, name, revision, keys) from error
    return str(commit)


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to ask the hub."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _cached_commit(name: str, revision: str, kind: Kind) -> str | None:
    """The commit of a revision by the hub's cache, whose layout is public: refs name commits, snapshots hold them."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind)
    if _COMMIT.fullmatch(revision):
        return revision if (folder / "snapshots" / revision).is_dir() else None
    ref = folder / "refs" / revision
    return ref.read_text(encoding="utf-8").strip() if ref.is_file() else None


def explain(error: BaseException, name: str, revision: str | None, keys: Keys) -> UserError:
    """What the hub's libraries raise, as the mistake that it stands for.

    They wrap one error in another: the first in the chain of causes that says something decides.

    Args:
        error: what was raised.
        name: the repository that was asked for.
        revision: its branch, tag or commit; None: the main branch.
        keys: the configuration keys of both.

    Returns:
        The error to raise, with the first line of theirs where nothing in the chain is known.
    """
    from huggingface_hub import constants
    from huggingface_hub import errors as hub

    causes = list(_causes(error))
    for cause in causes:
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(cause, UserError):
            return cause
        if isinstance(cause, hub.GatedRepoError):
            rule = (
                "is gated, and no login was sent" if status == 401 else "is gated, and this login has no access to it"
            )
            remedy = f"accept its terms at {constants.ENDPOINT} and give your token in HF_TOKEN"
            return UserError(keys.name, name, rule, remedy)
        if isinstance(cause, hub.RepositoryNotFoundError):
            rule = f"is no repository on {constants.ENDPOINT} that can be read"
            return UserError(keys.name, name, rule, "check the name; for a private one give your token in HF_TOKEN")
        if isinstance(cause, hub.RevisionNotFoundError):
            return UserError(keys.revision, revision, f"is no revision of {name}", "give a branch, a tag or a commit")
        if status in (401, 403):
            rule = f"cannot be read ({constants.ENDPOINT} answers with status {status})"
            return UserError(keys.name, name, rule, "give a token in HF_TOKEN that may read it")
        if status is not None and (status >= 500 or status == 429):
            rule = f"cannot be read now ({constants.ENDPOINT} answers with status {status})"
            return UserError(keys.name, name, rule, f"try again later, or {_OFFLINE}")
    if broken := next((cause for cause in causes if _is_connection(cause)), None):
        rule = f"cannot be read: {constants.ENDPOINT} does not answer ({first_line(broken)})"
        return UserError(keys.name, name, rule, f"check the connection and HF_ENDPOINT, or {_OFFLINE}")
    return UserError(keys.name, name, f"cannot be read ({first_line(error)})", "check the repository's files")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_connection(error: BaseException) -> bool:
    """Whether an error is one of the network's, whichever client raised it."""
    client = type(error).__module__.split(".")[0]
    return isinstance(error, ConnectionError | TimeoutError) or client in ("httpx", "httpx2", "httpcore", "httpcore2")


def first_line(error: BaseException) -> str:
    """The first line of an error's text, else its name."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
