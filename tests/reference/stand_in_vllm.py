"""What the harness uses of vLLM's interface, answered by transformers, token by token: for tests without vLLM."""

from __future__ import annotations

import importlib.machinery
import types
from dataclasses import dataclass
from typing import Any, ClassVar

import torch


@dataclass
class SamplingParams:
    temperature: float
    top_k: int
    top_p: float
    max_tokens: int
    stop_token_ids: list[int]
    ignore_eos: bool
    detokenize: bool
    logprobs: int | None
    seed: int


class LLM:
    """Reads a folder when it starts and when it is told to, and knows nothing else of the weights."""

    running: ClassVar[list[LLM]] = []
    asked: ClassVar[list[SamplingParams]] = []

    def __init__(self, model: str, **settings: Any) -> None:
        self.folder, self.settings, self.stale = model, settings, False
        self._read(model)
        self.running.append(self)
        self.ended = False
        self.llm_engine = types.SimpleNamespace(engine_core=types.SimpleNamespace(shutdown=self._end))

    def _end(self) -> None:
        self.ended = True

    def _read(self, folder: str) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, self.settings["dtype"])).eval()

    def collective_rpc(self, method: str, kwargs: dict[str, Any]) -> None:
        assert method == "reload_weights"
        self._read(kwargs["weights_path"])
        self.stale = True

    def reset_prefix_cache(self) -> bool:
        self.stale = False
        return True

    def generate(self, prompts: list[dict[str, Any]], params: list[SamplingParams], use_tqdm: bool) -> list[Any]:
        assert not self.stale, "keys and values of other weights are still there"
        self.asked[:] = params
        return [self._answer(each["prompt_token_ids"], given) for each, given in zip(prompts, params, strict=True)]

    def _answer(self, prompt: list[int], given: SamplingParams) -> Any:
        assert len(prompt) + given.max_tokens <= self.settings["max_model_len"]
        logprobs: list[dict[int, Any]] = []
        stream, tokens = torch.Generator().manual_seed(given.seed), list(prompt)
        for _ in range(given.max_tokens):
            with torch.inference_mode():
                logits = self.model(torch.tensor([tokens])).logits[0, -1].float()
            if given.temperature == 0:
                tokens.append(int(logits.argmax()))
            else:
                odds = (logits / given.temperature).softmax(-1)
                tokens.append(int(torch.multinomial(odds, 1, generator=stream)))
            logprob = float(logits.log_softmax(-1)[tokens[-1]])
            logprobs.append({tokens[-1]: types.SimpleNamespace(logprob=logprob)})
            if tokens[-1] in given.stop_token_ids:
                break
        told = None if given.logprobs is None else logprobs
        answer = types.SimpleNamespace(token_ids=tuple(tokens[len(prompt) :]), logprobs=told)
        return types.SimpleNamespace(outputs=[answer])


def stand_in() -> types.ModuleType:
    """A module ``vllm`` to be put into ``sys.modules``, with nothing running."""
    module = types.ModuleType("vllm")
    module.__spec__ = importlib.machinery.ModuleSpec("vllm", None)
    LLM.running.clear()
    module.LLM, module.SamplingParams = LLM, SamplingParams  # type: ignore[attr-defined]
    return module


def stand_in_platforms() -> types.ModuleType:
    """The module ``vllm.platforms`` of a build for processors."""
    module = types.ModuleType("vllm.platforms")
    module.current_platform = types.SimpleNamespace(device_type="cpu")  # type: ignore[attr-defined]
    return module
