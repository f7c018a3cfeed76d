"""vLLM as the engine of rollouts: another program samples, what is asked and what is answered stay.

It gets the policy's weights through a folder before it answers, since they may have changed, in the precision that it
computes in. Logprobs are our own model's, by a scoring pass over what was sampled: vLLM's kernels round otherwise, and
PPO's ratio must be 1 before the first update.
"""

from __future__ import annotations

import atexit
import copy
import math
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.config import Config
from harness.errors import RunFailed, UserError, require_package
from harness.hardware import Hardware, batches
from harness.models.positions import positions
from harness.provenance import WHERE_INSTALLED

if TYPE_CHECKING:
    import torch

    from harness.rollouts.sampler import Sampling

IN_MEMORY = Path("/dev/shm")
"""A folder without a disk, where the system has one."""
COMPARED = 8
"""Responses of each call whose logprobs are compared with vLLM's own."""
APART = {"fp32": 0.01, "bf16": 0.2}
"""Nats per token, on average, that those may differ by: rounding stays far below, other weights do not."""
ROOM = 128
"""An engine's longest text is a multiple of so many tokens: starting anew takes most of a minute."""
LOGITS_AT_ONCE = 2**28
"""Numbers of a scoring pass's logits: 1 GiB in fp32."""
ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork would take CUDA and torch's threads with it
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
}
"""How vLLM behaves unless the user's environment says otherwise: quiet, and without a word to anybody."""

WRITTEN = ("_name_or_path", "architectures", "dtype", "transformers_version")


def chosen_in(config: Config) -> list[str]:
    """The keys that name vLLM."""
    return [f"{group}.engine" for group in ("rollout", "evaluation") if getattr(config, group).engine == "vllm"]


def engine_identity(engine: str) -> dict[str, str]:
    """What a stage's fingerprint says of who samples: nothing of our own loop, vLLM's version of the other."""
    return {} if engine == "native" else {"engine": engine, "engine_version": _version()}


def _version() -> str:
    """Of the vLLM that is installed; its builds have several names."""
    for package in WHERE_INSTALLED:
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
    return "unknown"


def require_engine(config: Config) -> None:
    """What vLLM needs, where it is chosen, found out before any work.

    Raises:
        UserError: it is not installed, or the policy is none that can be handed to it.
    """
    chosen = chosen_in(config)
    if not chosen or config.model.kind == "api":
        return
    if config.model.quantization is not None:
        rule = f"cannot be handed to the engine that {chosen[0]}=vllm names"
        raise UserError("model.quantization", config.model.quantization, rule, f"leave it or {chosen[0]} out")
    require_package("vllm", chosen[0], "vllm", "pip install vllm")


class Answer(NamedTuple):
    """Response tokens, EOS included, and vLLM's logprobs of them at temperature 1, where these were asked for."""

    tokens: list[int]
    logprobs: list[float] | None


class Engine:
    """A running vLLM for models of one architecture.

    Args:
        model: a causal language model of transformers, whole or with an adapter.
        most: tokens of the longest prompt and its response.
        memory: share of a GPU's memory that it takes.
        precision: ``fp32`` or ``bf16``.

    Raises:
        RunFailed: it does not start.
    """

    def __init__(self, model: Any, *, most: int, memory: float, precision: str) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from vllm import LLM

        self.shape, self.most, self.precision = _shape(model), most, precision
        self._folder = TemporaryDirectory(prefix="harness-vllm-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None)
        self._write(model)
        try:
            self.llm = LLM(
                model=self._folder.name,
                skip_tokenizer_init=True,
                dtype="float32" if precision == "fp32" else "bfloat16",
                max_model_len=most,
                gpu_memory_utilization=memory,
                enable_prefix_caching=True,  # the samples of one prompt compute it once
                disable_log_stats=True,
                use_tqdm_on_load=False,
                **(_on_cpu(most) if model.device.type == "cpu" else {}),
            )
        except Exception as error:  # its own classes are many, and change
            self._folder.cleanup()
            raise RunFailed(f"vLLM does not start with a {type(model).__name__}: {error}") from error

    def load(self, model: Any) -> None:
        """Take this model's weights."""
        self._write(model)
        self.llm.collective_rpc("reload_weights", kwargs={"weights_path": self._folder.name})
        self.llm.reset_prefix_cache()  # keys and values of other weights

    def answer(self, prompts: Sequence[Sequence[int]], settings: Sampling, *, eos_id: int, seed: int) -> list[Answer]:
        """N answers; each row draws from a random stream of its own, the first few tell their logprobs."""
        from vllm import SamplingParams

        asked = [
            SamplingParams(
                temperature=settings.temperature,
                top_k=settings.top_k,
                top_p=settings.top_p,
                max_tokens=settings.max_new_tokens,
                stop_token_ids=[eos_id],
                ignore_eos=True,  # what the model's own configuration calls so
                detokenize=False,
                logprobs=0 if row < COMPARED else None,  # of the chosen token alone
                seed=Random(f"{seed}/{row}").getrandbits(62),
            )
            for row in range(len(prompts))
        ]
        given = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        return [_answer(found.outputs[0]) for found in self.llm.generate(given, asked, use_tqdm=False)]

    def close(self) -> None:
        """End its processes and give its memory back."""
        self.llm.llm_engine.engine_core.shutdown()  # without a word of its own it ends when it is collected
        self._folder.cleanup()

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
        save_file(weights, Path(self._folder.name) / "model.safetensors", metadata={"format": "pt"})


def _on_cpu(most: int) -> dict[str, Any]:
    """What vLLM does otherwise on a CPU: compiling takes longer than it saves, and rows with a random stream of their
    own cannot be read in chunks, since such a stream cannot be wound back there."""
    return {"enforce_eager": True, "enable_chunked_prefill": False, "max_num_batched_tokens": max(most, 4096)}


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
    *,
    eos_id: int,
    pad_id: int,
    seed: int,
    hardware: Hardware | None,
    advance: Callable[[int], None] | None,
) -> tuple[list[list[int]], torch.Tensor]:
    """Responses by vLLM with this model's weights: N lists of tokens, (N, R) logprobs; see ``sampler.sample``.

    One vLLM serves all that a process asks; it starts anew for another architecture or longer texts.

    Raises:
        RunFailed: it does not start, cannot run such a model, or did not answer with these weights.
    """
    if model.config.is_encoder_decoder:
        raise RunFailed(f"engine=vllm takes causal models; a {type(model).__name__} needs engine=native")
    most = max((len(prompt) for prompt in prompts), default=0) + settings.max_new_tokens
    precision = "fp32" if hardware is None else hardware.precision
    engine = _serving(model, most, settings.engine_memory, precision)
    engine.load(model)
    answers = engine.answer(prompts, settings, eos_id=eos_id, seed=seed)
    tokens = [answer.tokens for answer in answers]
    if advance is not None:
        advance(len(prompts))
    score = partial(scored, model, pad_id=pad_id, hardware=hardware)
    some = [answer for answer in answers if answer.logprobs is not None]
    _require_same(some, score(prompts[: len(some)], tokens[: len(some)], replace(settings, temperature=1.0)), precision)
    return tokens, score(prompts, tokens, settings)


def _require_same(answers: Sequence[Answer], logprobs: torch.Tensor, precision: str) -> None:
    """Raise RunFailed where vLLM's logprobs are not our model's: its weights are others then."""
    pairs = [(answer.logprobs or [], row.tolist()) for answer, row in zip(answers, logprobs, strict=True)]
    gaps = [abs(theirs - ours) for found, row in pairs for theirs, ours in zip(found, row, strict=False)]
    apart = sum(gaps) / max(len(gaps), 1)
    if not apart <= APART[precision]:
        raise RunFailed(f"vLLM's logprobs are {apart:.3f} nats per token off the policy's: it holds other weights")


def _serving(model: Any, most: float, memory: float, precision: str) -> Engine:
    """The engine that runs, or a new one where it does not fit; with room for texts that are a little longer."""
    global _engine
    most = min(math.ceil(most / ROOM) * ROOM, positions(model) or math.inf)
    if _engine is not None:
        if (_engine.shape, _engine.precision) == (_shape(model), precision) and _engine.most >= most:
            return _engine
        most = max(most, _engine.most)
        close()
    _engine = Engine(model, most=int(most), memory=memory, precision=precision)
    return _engine


def _shape(model: Any) -> dict[str, Any]:
    """What models that take each other's weights agree in: their configuration, but for what saving writes there."""
    return {name: value for name, value in model.config.to_dict().items() if name not in WRITTEN}


@atexit.register
def close() -> None:
    """End the engine of this process, where there is one."""
    global _engine
    if _engine is not None:
        _engine.close()
        _engine = None


def scored(
    model: Any,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    settings: Sampling,
    *,
    pad_id: int,
    hardware: Hardware | None,
) -> torch.Tensor:
    """(N, R) float32 logprobs of these responses at the sampling temperature (1 where greedy), 0 after the end."""
    import torch

    from harness.models.forward import make_batch, response_logits
    from harness.training.losses import sequence_logprobs

    logprobs = torch.zeros(len(prompts), settings.max_new_tokens)
    if not prompts:
        return logprobs
    pieces = 1 if hardware is None else hardware.pieces
    each = settings.max_new_tokens * int(model.config.vocab_size)
    at_once = min(settings.batch_size, max(LOGITS_AT_ONCE // each, 1))
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))

    def read(rows: Sequence[int]) -> None:
        batch = make_batch(
            [prompts[row] for row in rows], [responses[row] for row in rows], pad_id, device=model.device
        )
        with torch.inference_mode(), nullcontext() if hardware is None else hardware.autocast():
            found = sequence_logprobs(response_logits(model, batch), batch.response, settings.temperature or 1.0)
        found = found.masked_fill(~batch.response_mask, 0.0).cpu()
        logprobs[list(rows), : found.shape[1]] = found

    pending = batches(order, at_once, pieces=pieces)
    if hardware is not None:
        hardware.share_out(read, pending)
        return logprobs
    for rows in pending:
        read(rows)
    return logprobs
