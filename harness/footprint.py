"""What a stage is expected to hold in memory, by role: bytes from a model's sizes and a batch's, formula by formula.

``docs/memory.md`` holds the formulas against measured peaks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from harness.config import OptimizerConfig
from harness.models.shape import Shape

FULL, HALF = 4, 2
"""Bytes of fp32, in which weights, gradients and the optimiser are whatever the precision, and of bf16."""

ROLES = (
    *("base", "policy", "reference", "reward model", "value", "judge", "adapters", "best policy"),
    *("gradients", "optimiser", "bf16 copies", "activations", "logits", "cache", "compiled steps", "libraries"),
)
"""What memory is for, in the order in which it is shown; a role that no stage has is not."""

QUANTIZED = {"8bit": 1.0, "4bit": 0.516}
"""Bytes of a number in a quantised matrix; NF4 has 8 bits of scale for 64 numbers, and fp32 for 256 such scales."""

Phase = Mapping[str, float]
"""Role -> bytes that are held at the same time."""


class Batch(NamedTuple):
    """Rows of one forward pass, as long as the limits admit.

    Args:
        rows: responses.
        prompt: tokens of a prompt.
        response: tokens of a response.
        compute: bytes of a number in matrix products: 4, or 2 under bf16 autocast.
        shared: responses that share one prompt, which is computed once for them.
    """

    rows: int
    prompt: int
    response: int
    compute: int
    shared: int = 1

    @property
    def prompt_tokens(self) -> int:
        return self.rows * self.prompt // self.shared

    @property
    def response_tokens(self) -> int:
        return self.rows * self.response


def peak(phases: Iterable[Phase]) -> float:
    """Bytes at the fullest moment."""
    return max((sum(phase.values()) for phase in phases), default=0.0)


def by_role(phases: Iterable[Phase]) -> dict[str, float]:
    """The most that each role holds in any phase; not all of them do at the same moment."""
    most: dict[str, float] = {}
    for phase in phases:
        for role, size in phase.items():
            most[role] = max(most.get(role, 0.0), size)
    return {role: most[role] for role in ROLES if most.get(role)}


def together(*phases: Phase) -> Phase:
    """What they hold at the same time; a role that several have is the sum."""
    held: dict[str, float] = {}
    for phase in phases:
        for role, size in phase.items():
            held[role] = held.get(role, 0.0) + size
    return held


def weights(parameters: int) -> float:
    return float(FULL * parameters)


def base(shape: Shape, parameters: int) -> float:
    """A frozen base's weights, of which quantization makes the layers' matrices smaller."""
    matrices = shape.matrices if shape.quantization else 0
    return weights(parameters - matrices) + QUANTIZED.get(shape.quantization or "", 0.0) * matrices


def optimiser(shape: Shape, parameters: int, config: OptimizerConfig) -> float:
    """AdamW keeps two moments of each trained parameter, Muon one of each matrix inside the layers."""
    inside = shape.matrices if shape.adapters is None else shape.adapters.parameters
    matrices = inside if config.kind == "muon" else 0
    return float(2 * FULL * (parameters - matrices) + FULL * matrices)


def copies(parameters: int, compute: int) -> float:
    """Weights as autocast casts them, kept by the graph until the backward pass is over."""
    return float(parameters * compute) if compute < FULL else 0.0


def product_copies(shape: Shape, compute: int, *, output: bool = True) -> float:
    """The same where each product casts its weight anew: once in each pass over prompts or responses.

    What quantization made smaller is not cast.

    Args:
        output: whether there is an output layer, which a classifier has not.
    """
    matrices = 0 if shape.quantization else shape.matrices
    return copies(passes(shape) * matrices + output * shape.vocab_size * shape.width, compute)


def passes(shape: Shape) -> int:
    """Over prompts and responses for one gradient."""
    return 1 if shape.encoder_layers or shape.lean else 2


def read_copies(shape: Shape, compute: int) -> float:
    """Weights that are cast once for many passes without gradient."""
    adapters = 0 if shape.adapters is None else shape.adapters.parameters
    matrices = 0 if shape.quantization else shape.matrices
    return copies(matrices + adapters + shape.vocab_size * shape.width, compute)


def activations(shape: Shape, batch: Batch, *, scored: bool = False) -> float:
    """What a forward pass keeps for the gradient.

    A layer keeps, of each token, with width d and inner width f: with layer norms 3 d in fp32 (the residual stream
    before each norm) and 6 d (normed, queries, keys, values, attention's output) and 2 f in the precision of matrix
    products; with root-mean-square norms, whose steps are in fp32, 9 d and 2 d. A gated block keeps 4 f for 2 f. Keys
    and values that are copied out of one projection, as GPT-2's, are 2 d more. A decoder's token keeps 3.5 d for cross
    attention, whose keys and values are 2 d of each token of the prompt. A learned bias on attention scores keeps these
    too, in fp32.

    With adapters, a norm whose scale is frozen does not keep what it scaled, and each adapted layer keeps its rank.

    Args:
        scored: one token of each response is read, for which GPT-2 and Llama ask the last layer for nothing else: of
            all others it has a norm, keys and values.
    """
    d, c = shape.width, batch.compute
    layer = _layer(shape, c)
    if not shape.encoder_layers:
        layers = shape.layers * layer
        if scored and shape.lean:
            layers += FULL * (4 if shape.rms else 1) * d + c * (d + 2 * shape.keys * (2 if shape.copied else 1)) - layer
        kept = layers * (batch.prompt_tokens + batch.response_tokens)
        # A shared prompt's keys and values stand before each of its responses.
        again = 2 * shape.keys * batch.rows * batch.prompt * c * shape.layers if batch.shared > 1 else 0
        return float(kept + again + _adapted(shape, batch))
    encoder = shape.encoder_layers * layer * batch.prompt_tokens
    decoder = shape.layers * (layer + (FULL + 2.5 * c) * d) * batch.response_tokens
    cross = shape.layers * 2 * shape.queries * c * batch.prompt_tokens
    scores = 0.0
    if shape.biased:
        scores = FULL * shape.heads * shape.encoder_layers * batch.prompt_tokens * batch.prompt
        scores += FULL * shape.heads * shape.layers * batch.response_tokens * batch.response
    return encoder + decoder + cross + scores + _adapted(shape, batch)


def attended(shape: Shape, batch: Batch, *, apart: bool = True) -> float:
    """What a CPU keeps of attention in fp32, beside what it has in bf16: all that goes into it and what comes out.

    A response's keys and values are those of its prompt as well where that is run ``apart``, before it.
    """
    if batch.compute == FULL:
        return 0.0
    tokens, layers = batch.prompt_tokens + batch.response_tokens, shape.layers + shape.encoder_layers
    again = batch.rows * batch.prompt if apart and not shape.encoder_layers else 0
    return float(FULL * layers * (2 * (shape.queries + shape.keys) * tokens + 2 * shape.keys * again))


def _layer(shape: Shape, compute: int) -> float:
    """Bytes that one layer keeps of one token."""
    d, f = shape.width, shape.inner
    frozen = shape.adapters is not None
    full, half = ((7 if frozen else 9) * d, 2 * d) if shape.rms else (3 * d, 6 * d)
    between = f * (4 if shape.gated else 2)
    return FULL * full + compute * (half + (2 * d if shape.copied else 0) + between)


def _adapted(shape: Shape, batch: Batch) -> float:
    """What adapters keep besides: of each token between their two matrices. Encoder and decoder count as the longer."""
    if shape.adapters is None:
        return 0.0
    tokens = batch.prompt_tokens, batch.response_tokens
    return float(shape.adapters.ranks * batch.compute * (max(tokens) if shape.encoder_layers else sum(tokens)))


def dropped(shape: Shape, batch: Batch) -> float:
    """What dropout before adapters keeps besides: a mask for each input, and what is left of those that layers share.

    Queries, keys and values read one input, each drops its own part of it. Of a layer's inputs, 3 d + f are distinct,
    2 d more with cross attention, which all read one encoder.
    """
    if shape.adapters is None or not shape.drops:
        return 0.0
    tokens, inputs = (batch.prompt_tokens, batch.response_tokens), shape.adapters.inputs
    distinct = (shape.layers + shape.encoder_layers) * (3 * shape.width + shape.inner)
    distinct += 2 * shape.width * shape.layers if shape.encoder_layers else 0
    kept = 2 * inputs - min(distinct, inputs)
    return float(FULL * kept * (max(tokens) if shape.encoder_layers else sum(tokens)))


def packed_masks(shape: Shape, batch: Batch, most: int) -> float:
    """What each layer keeps of which token sees which, where examples are laid end to end in rows of ``most`` tokens.

    Attention takes it as numbers to add to its scores, in its own precision.
    """
    together = max(most // (batch.prompt + batch.response), 1)
    rows, width = -(-batch.rows // together), min(together, batch.rows) * (batch.prompt + batch.response)
    return float(shape.layers * rows * width**2 * batch.compute)


def passing(shape: Shape, batch: Batch) -> float:
    """What a forward pass without gradient holds at once: of the prompt or of the responses, one feed-forward block.

    Where both go in one pass it is of both. That is the residual stream, the normed and the attention's output, and
    what is between the block's matrices; an adapter's output is added to that.
    """
    each = batch.prompt_tokens, batch.response_tokens
    tokens = sum(each) if shape.lean else max(each)
    between = (3 if shape.gated else 2) + (shape.adapters is not None)
    return float(tokens * (FULL * 3 * shape.width + batch.compute * between * shape.inner))


def cache(shape: Shape, batch: Batch, *, grows: bool = False) -> float:
    """Keys and values of prompt and response in every layer.

    Where positions are rotations, these are fp32, and so are keys and values with them. A decoder has its own keys and
    values of the response and, in each layer, those of the prompt that it looks across to.

    Args:
        grows: a token is put behind them, which makes one layer's anew.
    """
    token = 2 * shape.keys * (FULL if shape.rotary else batch.compute)
    return float(token * batch.rows * (batch.prompt + batch.response) * (shape.layers + grows))


def logits(shape: Shape, batch: Batch, *, copies: float, prompts: bool = False) -> float:
    """Scores of the whole vocabulary, in fp32, of response tokens alone (with ``prompts``, of all).

    Args:
        copies: how many there are at once; the model's own output is one more where it is in half precision.
    """
    tokens = batch.response_tokens + (batch.prompt_tokens if prompts else 0)
    own = batch.compute if batch.compute < FULL else 0
    return tokens * shape.vocab_size * (FULL * copies + own)
