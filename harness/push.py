"""Finished models to the Hugging Face hub, with the hub's own client and its own login."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness.config import Config
from harness.context import model_directory
from harness.errors import UserError
from harness.graph import Graph
from harness.progress import Progress
from harness.request import Request
from harness.stages import StageRunner


def require_account(request: Request) -> None:
    """Ask the hub who we are before any work, and whether the repository can be ours.

    Raises:
        UserError: no token, one that the hub does not know, another's namespace, no way to the hub, or a sweep whose
            jobs would all be pushed into one repository.
    """
    from huggingface_hub import HfApi

    repo = str(request.config.hub.repo)
    named = [override for override in request.overrides if override.startswith("hub.repo=")]
    if request.sweep and not any("${" in override or "{" in override for override in named):
        rule = "would take the models of every job of the sweep, one over the other"
        raise UserError("hub.repo", repo, rule, "name the job in it, such as hub.repo=me/${task.name}-${seed}")
    with _in_our_words(repo):
        account = HfApi().whoami()
    owners = [account["name"], *(organisation["name"] for organisation in account.get("orgs", []))]
    if repo.split("/")[0] not in owners:
        rule = f"is in nobody's namespace that {account['name']} may write to"
        raise UserError("hub.repo", repo, rule, f"choose one of {', '.join(owners)}")


def push_models(request: Request, graph: Graph, runner: StageRunner, progress: Progress) -> None:
    """Push the folders of ``hub.parts``, card included; a repository that exists gets a new commit.

    A part whose stage left no model is a warning, and the others are pushed.

    Args:
        request: with the configuration; the commit's message names its candidate.
        graph: the stages.
        runner: finds their folders.
        progress: told of each repository.

    Raises:
        UserError: naming ``hub.push`` or ``hub.repo``: the hub does not answer, or does not take the token or the
            folder. What was pushed before that stays there.
    """
    from huggingface_hub import HfApi

    api, config = HfApi(), request.config
    for part in config.hub.parts:
        finished = runner.cached(graph.parts[part])
        folder = None if finished is None else model_directory(finished.directory)
        if folder is None or not folder.is_dir():
            progress.warning(f"hub.parts={part}: there is no such model, and nothing was pushed")
            continue
        repo = repository(config, part)
        with _in_our_words(repo):
            url = api.create_repo(repo, private=config.hub.private, exist_ok=True)
            label = graph.parts[part].label
            api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"{request.candidate}: {label}")
        progress.message(f"pushed {label} to {url}")


def repository(config: Config, part: str) -> str:
    """``hub.repo`` for the final policy; for other parts with their name behind it."""
    repo = str(config.hub.repo)
    return repo if part == "algorithm" else f"{repo}-{part.replace('_', '-')}"


@contextmanager
def _in_our_words(repo: str) -> Iterator[None]:
    """The client's errors as a user's: which key, what is wrong, what to do."""
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # whichever the client is built on

    try:
        yield
    except errors.LocalTokenNotFoundError as error:
        rule, remedy = "needs a token and finds none", "log in with `hf auth login`, or set HF_TOKEN"
        raise UserError("hub.push", "true", rule, remedy) from error
    except errors.OfflineModeIsEnabled as error:
        rule, remedy = "needs the hub, and HF_HUB_OFFLINE is set", "unset it, or leave hub=push out"
        raise UserError("hub.push", "true", rule, remedy) from error
    except errors.HfHubHTTPError as error:
        raise _refused(repo, error) from error
    except (httpx.HTTPError, OSError, ValueError) as error:
        rule = f"could not be pushed ({_first_line(error)})"
        raise UserError("hub.repo", repo, rule, "try again: what is finished is kept") from error


def _refused(repo: str, error: Any) -> UserError:
    status = error.response.status_code
    if status == 401:
        rule, remedy = "has a token that the hub does not accept", "log in with `hf auth login`, or set HF_TOKEN anew"
        return UserError("hub.push", "true", rule, remedy)
    if status == 403:
        rule, remedy = "is not ours to write to (403)", "use a token with the right to write, or another repository"
        return UserError("hub.repo", repo, rule, remedy)
    return UserError(
        "hub.repo", repo, f"could not be pushed ({_first_line(error)})", "try again: what is finished is kept"
    )


def _first_line(error: BaseException) -> str:
    text = re.sub(r"hf_\w+", "hf_…", str(error)).strip()
    return text.splitlines()[0] if text else type(error).__name__
