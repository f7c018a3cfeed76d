"""Answers on disk: what an endpoint said to a request is paid for once, whatever happens to the run that asked."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.api.endpoint import Reply, sound_reply


class AnswerCache:
    """One JSON file per request, with the request beside the answer. The key that was used is in neither.

    Args:
        folder: where; made when the first answer comes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, url: str, body: Mapping[str, Any]) -> Path:
        """The file of a request: its name follows from address and body."""
        canonical = json.dumps([url, body], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        name = hashlib.sha256(canonical.encode()).hexdigest()[:32]
        return self.folder / name[:2] / f"{name}.json"

    def get(self, url: str, body: Mapping[str, Any]) -> Reply | None:
        """The answer, or None where there is none that can be read."""
        try:
            kept = json.loads(self.path(url, body).read_text(encoding="utf-8"))
            return sound_reply(**kept["reply"]) if kept["request"] == json.loads(json.dumps(body)) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, url: str, body: Mapping[str, Any], reply: Reply) -> None:
        """Keep an answer; written under a temporary name and renamed, so that no reader sees half of it."""
        path = self.path(url, body)
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        kept = {"url": url, "request": body, "reply": reply._asdict()}
        scratch.write_text(json.dumps(kept, ensure_ascii=False, indent=1), encoding="utf-8", errors="replace")
        scratch.replace(path)
