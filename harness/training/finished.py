"""``algorithm=load``: a policy that another trainer finished takes the place of training."""

from __future__ import annotations

from typing import Any

from harness.config import FinishedPolicyConfig
from harness.context import Job, model_directory
from harness.errors import UserError
from harness.models.codec import Codec, same_tokens
from harness.models.loading import load_codec, load_language_model, parameter_count, save
from harness.models.positions import require_positions
from harness.models.soundness import require_sound
from harness.stages import Workspace

VERSION = 2


class FinishedPolicy:
    """A finished policy. It needs neither prompts nor a reward, so it brings a stage of its own."""

    def __init__(self, config: FinishedPolicyConfig) -> None:
        self.config = config

    def response_passes(self) -> int:
        """None that we know of: what the other trainer spent is its own affair."""
        return 0

    def adopt(self, workspace: Workspace, job: Job) -> dict[str, Any]:
        """Take the policy as it is into ``model/``."""
        policy = load_language_model(str(self.config.path), device=job.hardware.device, key="algorithm.path")
        require_positions(policy.model, job.config.task, key="algorithm.path")
        require_sound(policy, key="algorithm.path")
        sft = load_codec(model_directory(workspace.inputs["sft"].directory), key="sft.path")
        require_same_tokens(policy.codec, sft, str(self.config.path))
        policy.codec.follow(sft)
        save(policy, model_directory(workspace.directory))
        parameters = parameter_count(policy.model)
        line = f"loaded, {parameters / 1e6:.2f} M parameters"
        return {"status": "ok", "reason": None, "tokens": 0, "flags": [], "parameters": parameters, "line": line}


def require_same_tokens(codec: Codec, sft: Codec, path: str) -> None:
    """KL, lengths and the length limit are counted in tokens, so before and after need the same ones.

    Raises:
        UserError: the policy's tokenizer gives other tokens than the SFT policy's.
    """
    if not same_tokens(codec, sft):
        rule = "has another tokenizer than the SFT policy, with which it is compared token by token"
        alone = f"sft=load sft.path={path} algorithm=none"
        remedy = f"give the SFT policy that it was trained from, or score it by itself: {alone}"
        raise UserError("algorithm.path", path, rule, remedy)
