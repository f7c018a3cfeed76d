"""What identifies a model that a user names: its files' contents, or the hub id with its revision."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.config import ModelConfig
from harness.models.card import CARD


def model_identity(config: ModelConfig) -> dict[str, Any]:
    """What of a model's configuration decides numbers, without paths."""
    if config.kind == "nano":
        return {
            "kind": "nano",
            "architecture": config.architecture,
            "layers": config.layers,
            "width": config.width,
            "heads": config.heads,
            "vocab_size": config.vocab_size,
            "context": config.context,
        }
    return {"kind": config.kind, "content": content_identity(str(config.name), config.revision)}


def content_identity(name: str, revision: str | None = None) -> str:
    """A hash of a file's or of a folder's files, its card aside, or ``name@revision`` of a hub id."""
    path = Path(name).expanduser()
    if path.is_file():
        return files_identity([path])
    if path.is_dir():
        return files_identity(sorted(entry for entry in path.iterdir() if entry.is_file() and entry.name != CARD))
    return f"{name}@{revision or 'main'}"


def files_identity(paths: Sequence[Path]) -> str:
    """16 hex digits over the names and contents of these files, in this order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())  # so that no boundary can shift unseen
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]
