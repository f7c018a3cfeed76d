"""vLLM as the engine of rollouts: it is asked for the same, and gives the same kind of answer, as ``sampler.sample``.

It gets the policy's weights through a folder before it answers, since they may have changed, in the precision that it
computes in. Logprobs are our own model's, by a scoring pass over what was sampled: vLLM's kernels round otherwise, and
PPO's ratio must be 1 before the first update.
"""

from __future__ import annotations

import atexit
import copy
import math
import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.errors import RunFailed
from harness.hardware import Hardware
from harness.models.positions import positions
from harness.rollouts.scored import response_logprobs

if TYPE_CHECKING:
    import torch

    from harness.rollouts.sampler import Sampling

IN_MEMORY = Path("/dev/shm")
"""A folder without a disk, where the system has one."""
COMPARED_ROWS = 8
"""Responses of each call whose logprobs are compared with vLLM's own."""
LOGPROB_TOLERANCE = {"fp32": 0.01, "bf16": 0.2}
"""Nats per token, on average, that those may differ by."""
LENGTH_STEP = 128
"""An engine's longest text is a multiple of so many tokens: starting anew takes most of a minute."""
WRITTEN_BY_SAVING = ("_name_or_path", "architectures", "dtype", "transformers_version")
"""What two configurations of one architecture may differ in."""
ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork would take CUDA and torch's threads with it
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
}
"""How vLLM behaves unless the user's environment says otherwise: quiet, and without a word to anybody."""


class Answer(NamedTuple):
    """Response tokens, EOS included, and vLLM's logprobs of them at temperature 1, where these were asked for."""

    tokens: list[int]
    logprobs: list[float] | None


class Engine:
    """A running vLLM for models of one architecture.

    Args:
        model: a causal language model of transformers, whole or with an adapter.
        max_tokens: of the longest prompt and its response.
        memory: share of a GPU's memory that it takes.
        precision: ``fp32`` or ``bf16``.

    Raises:
        RunFailed: it does not start.
    """

    def __init__(self, model: Any, *, max_tokens: int, memory: float, precision: str) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self.shape, self.max_tokens, self.memory, self.precision = _shape(model), max_tokens, memory, precision
        self._folder = TemporaryDirectory(prefix="harness-vllm-", dir=_roomy_folder(model))
        try:
            self.llm = self._start(model)
        except Exception as error:  # its own classes are many, and change
            self._folder.cleanup()
            asked = "" if model.device.type == "cpu" else f" and rollout.engine_memory={memory}"
            raise RunFailed(f"vLLM does not start with a {type(model).__name__}{asked}: {error}") from error

    def _start(self, model: Any) -> Any:
        import torch
        from vllm import LLM
        from vllm.platforms import current_platform

        kind = model.device.type
        if current_platform.device_type != kind:
            raise RuntimeError(f"it is built for {current_platform.device_type}, and the policy is on {kind}")
        if kind == "cuda":
            torch.cuda.empty_cache()  # what torch only keeps for later would count as taken
        self._write(model)
        return LLM(
            model=self._folder.name,
            skip_tokenizer_init=True,
            dtype="float32" if self.precision == "fp32" else "bfloat16",
            max_model_len=self.max_tokens,
            gpu_memory_utilization=self.memory,
            enable_prefix_caching=True,  # whole blocks of a prompt are computed once for all its samples
            disable_log_stats=True,
            use_tqdm_on_load=False,
            **(_on_cpu(self.max_tokens) if kind == "cpu" else {}),
        )

    def load(self, model: Any) -> None:
        """Take this model's weights."""
        self._write(model)
        self.llm.collective_rpc("reload_weights", kwargs={"weights_path": self._folder.name})
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("it keeps keys and values of other weights")
        self._weights.unlink()

    def answer(
        self, prompts: Sequence[Sequence[int]], settings: Sampling, stop_ids: Sequence[int], *, seed: int
    ) -> list[Answer]:
        """N answers; each row draws from a random stream of its own, the first few tell their logprobs.

        Args:
            prompts: N lists of token ids.
            settings: how to choose tokens; temperature 0 is greedy.
            stop_ids: the tokens that end a response.
            seed: of the rows' streams.
        """
        from vllm import SamplingParams

        asked = [
            SamplingParams(
                temperature=settings.temperature,
                top_k=settings.top_k,
                top_p=settings.top_p,
                max_tokens=settings.max_new_tokens,
                stop_token_ids=list(stop_ids),
                ignore_eos=True,  # what the model's own configuration calls so
                detokenize=False,
                logprobs=0 if row < COMPARED_ROWS else None,  # of the chosen token alone
                seed=Random(f"{seed}/{row}").getrandbits(62),
            )
            for row in range(len(prompts))
        ]
        given = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        return [_answer(found.outputs[0]) for found in self.llm.generate(given, asked, use_tqdm=False)]

    def close(self) -> None:
        """End its processes, which give their memory back, and remove its folder."""
        try:
            self.llm.llm_engine.engine_core.shutdown()
        finally:
            self._folder.cleanup()

    @property
    def _weights(self) -> Path:
        return Path(self._folder.name) / "model.safetensors"

    def _write(self, model: Any) -> None:
        """Configuration and weights; an adapter is added to its base's matrices.

        On a CPU vLLM keeps a copy of the output layer, which it does not make anew where that layer is the embedding:
        so the two are written as two.
        """
        import torch
        from safetensors.torch import save_file

        from harness.models.adapters import is_adapted, merged

        model = merged(model) if is_adapted(model) else model
        dtype = torch.float32 if self.precision == "fp32" else torch.bfloat16
        config, on_cpu = copy.deepcopy(model.config), model.device.type == "cpu"
        config.architectures, config.dtype = [type(model).__name__], dtype
        if on_cpu:
            config.tie_word_embeddings = False
        config.save_pretrained(self._folder.name)
        weights, seen = {}, set()
        for name, tensor in model.state_dict().items():
            if on_cpu or tensor.data_ptr() not in seen:
                kind = dtype if tensor.is_floating_point() else tensor.dtype
                weights[name] = tensor.to("cpu", kind, copy=True).contiguous()
            seen.add(tensor.data_ptr())
        save_file(weights, self._weights, metadata={"format": "pt"})


def _roomy_folder(model: Any) -> Path | None:
    """The folder in memory, where twice the weights fit into it; None: the usual one for temporary files."""
    needed = 2 * sum(parameter.numel() * 4 for parameter in model.parameters())
    return IN_MEMORY if IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > needed else None


def _on_cpu(max_tokens: int) -> dict[str, Any]:
    """What vLLM does otherwise on a CPU.

    Compiling takes longer than it saves; rows with a random stream of their own cannot be read in chunks, since such a
    stream cannot be wound back there; its usual blocks of 128 tokens are longer than most prompts.
    """
    chunks = {"enable_chunked_prefill": False, "max_num_batched_tokens": max(max_tokens, 4096)}
    return {"enforce_eager": True, "block_size": 32, **chunks}


def _answer(found: Any) -> Answer:
    tokens = list(found.token_ids)
    if found.logprobs is None:
        return Answer(tokens, None)
    return Answer(tokens, [each[token].logprob for token, each in zip(tokens, found.logprobs, strict=True)])


_engine: Engine | None = None


def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    settings: Sampling,
    stop_ids: Sequence[int],
    *,
    pad_id: int,
    seed: int,
    hardware: Hardware | None,
    advance: Callable[[int], None] | None,
) -> tuple[list[list[int]], torch.Tensor]:
    """Responses by vLLM with this model's weights: N lists of tokens, (N, R) logprobs.

    One vLLM serves all that a process asks; it starts anew for another architecture or longer texts.

    Args: those of ``sampler.sample``; ``stop_ids`` are its ``eos_id``.

    Raises:
        RunFailed: it does not start, cannot run such a model, fails, or did not answer with these weights.
    """
    if model.config.is_encoder_decoder:
        raise RunFailed(f"engine=vllm takes causal models; a {type(model).__name__} needs engine=native")
    tokens_needed = max((len(prompt) for prompt in prompts), default=0) + settings.max_new_tokens
    precision = "fp32" if hardware is None else hardware.precision
    engine = serving(model, max_tokens=tokens_needed, memory=settings.engine_memory, precision=precision)
    try:
        engine.load(model)
        answers = engine.answer(prompts, settings, stop_ids, seed=seed)
    except Exception as error:
        close()  # whatever it is in, nobody should be given it
        raise RunFailed(f"vLLM failed: {error}") from error
    tokens = [answer.tokens for answer in answers]
    if advance is not None:
        advance(len(prompts))
    score = partial(
        response_logprobs,
        model,
        width=settings.max_new_tokens,
        batch_size=settings.batch_size,
        pad_id=pad_id,
        hardware=hardware,
    )
    some = [answer for answer in answers if answer.logprobs is not None]
    apart = logprob_gap(some, score(prompts[: len(some)], tokens[: len(some)], temperature=1.0))
    if not apart <= LOGPROB_TOLERANCE[precision]:
        close()
        cause = "it holds other weights, or computes otherwise"
        raise RunFailed(f"vLLM's logprobs are {apart:.3f} nats per token off the policy's: {cause}")
    return tokens, score(prompts, tokens, temperature=settings.temperature)


def logprob_gap(answers: Sequence[Answer], logprobs: torch.Tensor) -> float:
    """How far vLLM's logprobs of these answers are from (N, R) others: the mean over tokens, nats."""
    pairs = [(answer.logprobs or [], row.tolist()) for answer, row in zip(answers, logprobs, strict=True)]
    gaps = [abs(theirs - ours) for found, row in pairs for theirs, ours in zip(found, row, strict=False)]
    return float(sum(gaps)) / max(len(gaps), 1)


def serving(model: Any, *, max_tokens: int, memory: float, precision: str) -> Engine:
    """The engine that runs, or a new one where it does not fit; with room for texts that are a little longer.

    Args:
        model: one of the architecture to serve.
        max_tokens: of the longest prompt and its response.
        memory: share of a GPU's memory that it takes.
        precision: ``fp32`` or ``bf16``.

    Raises:
        RunFailed: a new one does not start.
    """
    global _engine
    if _engine is not None:
        alike = (_engine.shape, _engine.precision, _engine.memory) == (_shape(model), precision, memory)
        if alike and _engine.max_tokens >= max_tokens:
            return _engine
        close()
    steps = math.ceil(max_tokens / LENGTH_STEP) * LENGTH_STEP
    _engine = Engine(model, max_tokens=min(steps, positions(model) or steps), memory=memory, precision=precision)
    return _engine


def _shape(model: Any) -> dict[str, Any]:
    """What models that take each other's weights agree in."""
    return {name: value for name, value in model.config.to_dict().items() if name not in WRITTEN_BY_SAVING}


@atexit.register
def close() -> None:
    """End the engine of this process, where there is one."""
    global _engine
    engine, _engine = _engine, None
    if engine is not None:
        engine.close()
