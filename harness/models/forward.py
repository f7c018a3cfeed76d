"""Forward passes over (prompt, response) batches: prompts left-padded, responses right-padded, positions from the mask.

So a response starts in the same column in every row. A causal model, whose part is here, and an encoder–decoder model,
whose part is in ``encoder_decoder``, are asked the same: who asks need not know which it holds. In a causal model the
prompt, most of the tokens, is run for its keys and values alone: no logits are computed for it, and no more of the last
layer than those.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.models import encoder_decoder
from harness.training.masks import left_pad, position_ids, right_pad

if TYPE_CHECKING:
    import torch


class Batch(NamedTuple):
    """Token ids and masks of B prompts with responses.

    Args:
        ids: (B, P + R) long.
        mask: (B, P + R) bool, True on real tokens.
        response_mask: (B, R) bool, True on tokens that the policy chose, EOS included.
        shared: every so many consecutive rows have one prompt, which is then computed once for all of them.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    response_mask: torch.Tensor
    shared: int = 1

    @property
    def response(self) -> torch.Tensor:
        return self.ids[:, -self.response_mask.shape[1] :]

    def rows(self, index: torch.Tensor) -> Batch:
        return Batch(self.ids[index], self.mask[index], self.response_mask[index])


def make_batch(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    pad_id: int,
    *,
    device: Any = "cpu",
    width: int | None = None,
    shared: int = 1,
) -> Batch:
    """Pad B prompts on the left and B responses on the right.

    Args:
        prompts, responses: B lists of token ids each.
        pad_id: fills up.
        device: where the tensors go.
        width: R, where shapes must not vary; None: the longest response.
        shared: of ``Batch``: the caller's word that each run of so many prompts is one prompt.
    """
    import torch

    prompt_ids, prompt_mask = left_pad(prompts, pad_id)
    if not prompt_ids.shape[1] and not any(responses):  # a pad stands for nothing at all
        prompt_ids, prompt_mask = (torch.nn.functional.pad(each, (0, 1)) for each in (prompt_ids, prompt_mask))
        prompt_ids += pad_id
    response_ids, response_mask = right_pad(responses, pad_id)
    if width is not None and response_ids.shape[1] < width:
        missing = width - response_ids.shape[1]
        response_ids = torch.nn.functional.pad(response_ids, (0, missing), value=pad_id)
        response_mask = torch.nn.functional.pad(response_mask, (0, missing), value=False)
    ids = torch.cat([prompt_ids, response_ids], dim=1).to(device)
    mask = torch.cat([prompt_mask, response_mask], dim=1).to(device)
    return Batch(ids, mask, response_mask.to(device), shared)


def response_logits(model: Any, batch: Batch) -> torch.Tensor:
    """(B, R, V) float32: the logits from which each response token is chosen."""
    if model.config.is_encoder_decoder:
        return encoder_decoder.response_logits(model, batch).float()
    size = batch.response_mask.shape[1]
    logits: torch.Tensor = _after_prompt(model, model, batch, stop=batch.ids.shape[1] - 1)[:, -size:].float()
    return logits


def logits_and_states(model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, R, V) float32 response logits, and (B, R, H) the hidden states that they come from, by one pass."""
    from harness.models.lean_pass import lean_family

    size = batch.response_mask.shape[1]
    if not model.config.is_encoder_decoder and lean_family(model) is not None:
        states = _after_prompt(model, model.base_model, batch, stop=batch.ids.shape[1] - 1)[:, -size:]
        return model.get_output_embeddings()(states).float(), states
    seen: list[torch.Tensor] = []
    # Not base_model: OPT's language model calls the decoder inside. Nor what the output layer is given: T5 scales it.
    handle = model.get_decoder().register_forward_hook(lambda _module, _given, out: seen.append(out[0]))
    try:
        logits = response_logits(model, batch)
    finally:
        handle.remove()
    if model.config.is_encoder_decoder:
        return logits, encoder_decoder.before_responses(seen[-1], batch)
    return logits, seen[-1][:, -size:]


def sequence_scores(model: Any, batch: Batch) -> torch.Tensor:
    """(B,) float32: the classifier's score at each row's last real token, its recorded shift subtracted.

    A classifier of transformers looks for the last token that is no pad by its id; here the mask decides, so that a row
    whose last token is a pad that the policy chose is read there too.
    """
    import torch

    from harness.models.heads import read_head, score_head

    if model.config.is_encoder_decoder:
        pooled = encoder_decoder.last_states(model, batch)
    else:
        mask = batch.mask[:, _start(batch) :]
        columns = torch.arange(mask.shape[1], device=mask.device)
        last = (columns * mask).argmax(-1)  # the prompt's last column where the response is empty
        pooled = _after_prompt(model, model.base_model, batch, at=last)
    return read_head(score_head(model), pooled) - float(getattr(model.config, "reward_shift", 0.0))


def token_values(model: Any, batch: Batch, head: Any = None) -> torch.Tensor:
    """(B, R) float32: V(s_t), read where each response token is about to be chosen.

    Args:
        model: a sequence classifier (``head`` None: its own head is used), or any model with a trunk.
        batch: prompts and responses.
        head: a linear layer from hidden states to one number, on ``model``'s trunk.
    """
    from harness.models.heads import read_head, score_head

    return read_head(head if head is not None else score_head(model), states_before(model, batch))


def states_before(model: Any, batch: Batch) -> torch.Tensor:
    """(B, R, H): the trunk's states from which each response token is chosen."""
    if model.config.is_encoder_decoder:
        return encoder_decoder.states_before(model, batch)
    size = batch.response_mask.shape[1]
    return _after_prompt(model, model.base_model, batch, stop=batch.ids.shape[1] - 1)[:, -size:]


def _start(batch: Batch) -> int:
    """The prompt's last column, from which the response's first token is chosen."""
    return max(batch.ids.shape[1] - batch.response_mask.shape[1] - 1, 0)


def _after_prompt(
    model: Any, run: Any, batch: Batch, *, stop: int | None = None, at: torch.Tensor | None = None
) -> torch.Tensor:
    """What ``run`` (the model, or its trunk) puts out from the prompt's last column on, (B, R + 1 or fewer, …).

    All that the response needs of the prompt is its keys and values. So the prompt runs first, into a cache that
    gradients flow through, and the last layer computes nothing else for it; models of ``lean_pass`` read both in one
    pass.

    Args:
        model: whose trunk fills the cache.
        run: what is asked for the response.
        batch: prompts and responses.
        stop: columns from here on are left out; None: none.
        at: (B,) long, the one column of each row that is wanted, counted from the first: (B, …) then.
    """
    from harness.models.lean_pass import lean_family, one_of_each, states_from

    start = _start(batch)
    if (family := lean_family(model)) is not None:
        states = states_from(model, family, batch, start, batch.ids[:, :stop].shape[1], at=at)
        return states if run is model.base_model else model.get_output_embeddings()(states)
    ids, mask = batch.ids[:, :stop], batch.mask[:, :stop]
    positions = position_ids(batch.mask)[:, :stop]
    cache = prompt_cache(model, ids[:, :start], mask[:, :start], positions[:, :start], shared=batch.shared)
    out: torch.Tensor = run(
        input_ids=ids[:, start:],
        attention_mask=mask.long(),
        position_ids=positions[:, start:],
        past_key_values=cache,
        use_cache=True,
    )[0]
    return out if at is None else one_of_each(out, at)


def prompt_cache(model: Any, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, *, shared: int = 1) -> Any:
    """The keys and values of a prompt, to go on from; nothing is computed that they do not need.

    Args:
        model: any model with a trunk.
        ids, mask, positions: (B, P) of the prompt's columns; P may be 0.
        shared: of ``Batch``: one row of so many is computed, and stands for all of them, where all layers have keys
            and values alone.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    cache = DynamicCache(config=model.config)
    if ids.shape[1] == 0:
        return cache
    if not all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
        shared = 1  # states of a layer without attention cannot be repeated
    with _until_last_keys(cache):
        model.base_model(
            input_ids=ids[::shared],
            attention_mask=mask[::shared].long(),
            position_ids=positions[::shared],
            past_key_values=cache,
            use_cache=True,
        )
    if shared > 1:
        cache.batch_repeat_interleave(shared)
    return cache


class _LastKeysKnown(Exception):
    """Ends a forward pass whose cache is complete."""


@contextmanager
def _until_last_keys(cache: Any) -> Iterator[None]:
    """End the forward pass inside as soon as the last layer has put its keys and values into ``cache``.

    That layer's attention and feed-forward block, and all that follows, would be computed for nothing. Where the last
    layer keeps no keys (a state space, say), the pass goes on to its end.
    """
    last = cache.layers[-1]

    def update_and_stop(*args: Any, **kwargs: Any) -> Any:
        type(last).update(last, *args, **kwargs)
        raise _LastKeysKnown

    last.update = update_and_stop
    try:
        with suppress(_LastKeysKnown):
            yield
    finally:
        del last.update
