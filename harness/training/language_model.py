"""Supervised training on (prompt, response) pairs: the loss of SFT, and of the judge's backbone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from harness.config import OptimizerConfig
from harness.hardware import Hardware
from harness.models.cast_once import cast_once
from harness.models.forward import make_batch, response_logits
from harness.models.loading import LanguageModel
from harness.models.packed_forward import make_packed, packed_logits
from harness.training.masks import position_ids
from harness.training.updates import Updates, accumulate, length_batches, micro_batches

if TYPE_CHECKING:
    import torch

Log = Callable[[Mapping[str, Any]], None]
Item = TypeVar("Item")


class TokenExample(NamedTuple):
    """A prompt and the response to imitate (EOS included), as token ids."""

    prompt: list[int]
    response: list[int]


@dataclass(frozen=True)
class Imitation:
    """How to train on demonstrations.

    Args:
        epochs: passes over the examples; may be a fraction.
        max_steps: upper bound on updates; None: none.
        batch_size: examples per update.
        micro_batch_size: examples per forward pass; the sum of gradients does not depend on it. None: all, on
            a CPU fewer where their graphs are large, and two passes at a time.
        train_on_prompt: count the prompt's tokens in the loss too.
        packed_tokens: the examples of a forward pass are laid end to end in rows of at most so many tokens; None: each
            is a row. An update has the same examples either way.
        shared: every so many consecutive examples have one prompt; they stay together (a batch holds as many whole
            groups as fit, one at least), and it is computed once.
        optimizer: learning rate and schedule.
    """

    epochs: float
    batch_size: int
    optimizer: OptimizerConfig
    max_steps: int | None = None
    micro_batch_size: int | None = None
    train_on_prompt: bool = False
    packed_tokens: int | None = None
    shared: int = 1

    @property
    def in_pieces(self) -> bool:
        """Whether a batch goes in pieces, two at a time, where the hardware has use for that."""
        return self.micro_batch_size is None and self.packed_tokens is None

    @property
    def groups(self) -> int:
        """Runs of ``shared`` examples in a batch."""
        return max(self.batch_size // self.shared, 1)


def imitate(
    lm: LanguageModel,
    examples: Sequence[TokenExample],
    settings: Imitation,
    *,
    hardware: Hardware,
    seed: int,
    log: Log,
    advance: Callable[..., None],
    log_every: int = 25,
) -> dict[str, float]:
    """Train ``lm`` in place; returns ``steps``, ``tokens`` (of responses seen) and the mean ``loss`` of the last tenth.

    Args:
        lm: the model that learns, and its codec.
        examples: what to imitate.
        settings: how long and how fast.
        hardware: where.
        seed: of the order of batches.
        log: takes one row of metrics.
        advance: moves a progress bar by one step and shows metrics.
        log_every: updates between rows of metrics.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    total = total_steps(len(examples), settings)
    updates = Updates(lm.model, config=settings.optimizer, total=total, hardware=hardware)
    shared = settings.shared
    lengths = [len(example.prompt) + len(example.response) for example in examples[::shared]]
    upcoming: list[list[int]] = []
    losses: list[float] = []
    tokens, started = 0, time.perf_counter()
    with hardware.piece_by_piece() if settings.in_pieces else nullcontext():
        for step in range(total):
            if not upcoming:
                upcoming = length_batches(lengths, settings.groups, generator)
            rows = [group * shared + member for group in upcoming.pop() for member in range(shared)]
            lr = updates.lr
            loss = _add_gradients(lm, [examples[row] for row in rows], settings, hardware)
            norm = updates.step()
            losses.append(loss)
            tokens += sum(len(examples[row].response) for row in rows)
            if step % log_every == 0 or step == total - 1:
                speed = tokens / (time.perf_counter() - started)
                log(
                    {
                        "step": step,
                        "loss": loss,
                        "lr": lr,
                        "grad_norm": norm,
                        "tokens": tokens,
                        "tokens_per_second": speed,
                    }
                )
                advance(0, loss=loss, tokens_per_second=speed)
            advance(1)
    tail = losses[-max(total // 10, 1) :]
    return {"steps": total, "tokens": tokens, "loss": sum(tail) / len(tail) if tail else math.nan}


def total_steps(count: int, settings: Imitation) -> int:
    """Updates that ``epochs`` passes over ``count`` examples make, at most ``max_steps``."""
    steps = max(1, round(settings.epochs * math.ceil(count / (settings.groups * settings.shared))))
    return steps if settings.max_steps is None else min(steps, settings.max_steps)


def some_of(examples: Sequence[Item], settings: Imitation, seed: int) -> tuple[Sequence[Item], Imitation]:
    """What training goes over, a random part of the examples where it makes less than one pass, and its settings then.

    Args:
        examples: one for each group of ``settings.shared``.
        settings: how long, among others.
        seed: of the choice.
    """
    used = total_steps(len(examples) * settings.shared, settings) * settings.groups
    if used >= len(examples):
        return examples, settings
    chosen = sorted(Random(seed).sample(range(len(examples)), used))
    return [examples[row] for row in chosen], replace(settings, epochs=1.0)


def _add_gradients(
    lm: LanguageModel, examples: Sequence[TokenExample], settings: Imitation, hardware: Hardware
) -> float:
    """Add the gradients of one batch; returns its mean loss per token."""
    denominator = sum(_counted_tokens(example, settings.train_on_prompt) for example in examples)

    def learn(rows: Sequence[int]) -> float:
        with hardware.autocast():
            loss = imitation_loss(
                lm,
                [examples[row] for row in rows],
                hardware,
                train_on_prompt=settings.train_on_prompt,
                denominator=denominator,
                packed_tokens=settings.packed_tokens,
                shared=settings.shared,
            )
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    # Packed, a batch has few rows, and its output layer is hooked for one pass at a time.
    size = settings.micro_batch_size if settings.packed_tokens is None else settings.micro_batch_size or len(examples)
    every = range(len(examples))
    tokens = max(len(example.prompt) for example in examples)
    tokens += settings.shared * max(len(example.response) for example in examples)
    given: dict[str, Any] = {"model": lm.model, "hardware": hardware, "tokens": tokens, "group": settings.shared}
    return sum(accumulate(every, size, learn, **given))


def _counted_tokens(example: TokenExample, train_on_prompt: bool) -> int:
    return len(example.response) + (max(len(example.prompt) - 1, 0) if train_on_prompt else 0)


def imitation_loss(
    lm: LanguageModel,
    examples: Sequence[TokenExample],
    hardware: Hardware,
    *,
    train_on_prompt: bool = False,
    denominator: int | None = None,
    packed_tokens: int | None = None,
    shared: int = 1,
) -> torch.Tensor:
    """Cross entropy of the responses (and prompts, where asked), summed over tokens and divided by ``denominator``.

    Args:
        lm: the model that learns, and its codec.
        examples: what to imitate, in one forward pass.
        hardware: whose device the batch goes to; autocast is the caller's.
        train_on_prompt: count the prompt's tokens after its first one too.
        denominator: tokens; None: those that are counted here. Under gradient accumulation pass the whole batch's.
        packed_tokens, shared: those of ``Imitation``.
    Returns: a scalar, nats per token, which carries the gradient.
    """
    from harness.training.losses import sft_loss

    prompts, responses = [e.prompt for e in examples], [e.response for e in examples]
    if packed_tokens is not None:
        layout: dict[str, Any] = {"most": packed_tokens, "with_prompts": train_on_prompt, "device": hardware.device}
        packed = make_packed(prompts, responses, lm.codec.pad_id, **layout)
        return sft_loss(packed_logits(lm.model, packed), packed.labels, denominator=denominator)
    batch = make_batch(prompts, responses, lm.codec.pad_id, device=hardware.device, shared=shared)
    if not train_on_prompt:
        return sft_loss(response_logits(lm.model, batch), batch.response, batch.response_mask, denominator=denominator)
    out = lm.model(
        input_ids=batch.ids, attention_mask=batch.mask.long(), position_ids=position_ids(batch.mask), use_cache=False
    )
    return sft_loss(
        out.logits[:, :-1], batch.ids[:, 1:], batch.mask[:, 1:] & batch.mask[:, :-1], denominator=denominator
    )


def validation_loss(
    lm: LanguageModel, examples: Sequence[TokenExample], hardware: Hardware, *, batch_size: int = 256
) -> float:
    """Mean cross entropy per response token.

    Args:
        lm: the model, and its codec.
        examples: held out, at least one.
        hardware: where, and in which precision.
        batch_size: examples per forward pass; the result does not depend on it.
    Returns: nats.
    """
    import torch

    total, count = 0.0, sum(len(example.response) for example in examples)
    with cast_once(lm.model, hardware.precision), torch.inference_mode():
        for rows in micro_batches(range(len(examples)), batch_size):
            with hardware.autocast():
                total += float(imitation_loss(lm, [examples[row] for row in rows], hardware, denominator=count))
    return total
