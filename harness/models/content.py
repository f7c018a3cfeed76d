"""What identifies a model that a user names: its files' contents, or the hub id with its revision."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.config import ModelConfig
from harness.errors import UserError
from harness.models.card import CARD


def model_identity(config: ModelConfig, *, key: str = "model") -> dict[str, Any]:
    """What of a model's configuration decides numbers, without paths.

    Raises:
        UserError: naming ``key``: a hub id that cannot be resolved to a commit.
    """
    chat = {"chat": {"system": config.system}} if config.chat else {}
    if config.kind == "nano":
        return (
            chat
            | adapted_identity(config)
            | {
                "kind": "nano",
                "architecture": config.architecture,
                "layers": config.layers,
                "width": config.width,
                "heads": config.heads,
                "vocab_size": config.vocab_size,
                "context": config.context,
            }
        )
    content = content_identity(str(config.name), config.revision, key=f"{key}.name")
    return chat | adapted_identity(config) | {"kind": config.kind, "content": content}


def adapted_identity(config: ModelConfig) -> dict[str, Any]:
    """What adapters and quantisation decide, and how they are saved; nothing where all weights are trained."""
    found: dict[str, Any] = {"lora": asdict(config.lora)} if config.lora.rank is not None else {}
    return found | ({"quantization": config.quantization} if config.quantization is not None else {})


def content_identity(name: str, revision: str | None = None, *, key: str = "model.name") -> str:
    """A hash of a file's or of a folder's files, its card aside, or ``name@commit`` of a hub id.

    Raises:
        UserError: naming ``key``: a hub id that cannot be resolved to a commit.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return files_identity([path])
    if path.is_dir():
        return files_identity(sorted(entry for entry in path.iterdir() if entry.is_file() and entry.name != CARD))
    return f"{name}@{resolve_model(name, revision, key=key)}"


def resolve_model(name: str, revision: str | None, *, key: str = "model.name") -> str:
    """The commit of a model on the hub.

    Raises:
        UserError: naming ``key`` or the key of the revision: as `hub.resolve_commit`.
    """
    from harness.hub import Keys, resolve_commit

    if name.startswith((".", "/", "~")):
        raise UserError(key, name, "does not exist", "give an existing folder, or a hub id")
    return resolve_commit(name, revision, "model", Keys(key, f"{key.rpartition('.')[0]}.revision"))


def files_identity(paths: Sequence[Path]) -> str:
    """16 hex digits over the names and contents of these files, in this order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())  # so that no boundary can shift unseen
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]
