"""A sequence classifier with one label as the examined reward model, whatever its architecture and tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from harness.data.messages import chat_messages
from harness.errors import UserError
from harness.evaluation.wins import WIN_MARGIN
from harness.hardware import Hardware
from harness.models.cast_once import cast_once
from harness.models.codec import Codec
from harness.models.loading import load_pooled_classifier, load_scorer, reads_at_the_last_token
from harness.models.positions import positions, room_for_response
from harness.models.scorer import Scorer
from harness.reward_bench.config import ScorerConfig
from harness.reward_bench.verdicts import Examined, Verdicts
from harness.types import Example, PairExample, Task

KEY = "scorer.path"
ALONE_PAIRS = 32
"""Pairs that are scored once more, each text alone, for batch invariance."""


class Tokens(NamedTuple):
    """A text as a classifier reads it, and whether a part of it had to be left out.

    ``encoded``: what a tokenizer made of a text pair, with its special tokens, where the classifier reads pairs.
    """

    prompt: list[int]
    response: list[int]
    prompt_cut: bool
    response_cut: bool
    encoded: Any = None


def load_classifier(config: ScorerConfig, task: Task, hardware: Hardware) -> Examined:
    """The reward model that ``scorer.path`` names.

    Raises:
        UserError: it cannot be loaded, is no classifier with one label, or has no chat template where one is asked for.
    """
    path = str(config.path)
    if reads_at_the_last_token(path, key=KEY, revision=config.revision):
        loaded = load_scorer(path, device=hardware.device, key=KEY, revision=config.revision)
        scorer = Scorer(*loaded, hardware)
        chat = _wants_chat(config, scorer.codec.tokenizer)
        limit = _limit(config, room_for_response(scorer.model, 0))
        reader = ChatReader(task, scorer.codec.tokenizer, limit) if chat else TaskReader(task, scorer.codec, limit)

        def score(texts: Sequence[Tokens], batch_size: int) -> np.ndarray:
            return scorer.scores([t.prompt for t in texts], [t.response for t in texts], batch_size=batch_size)

        return Classifier(reader, score, config.batch_size, "chat" if chat else "task", limit)
    model, tokenizer = load_pooled_classifier(path, device=hardware.device, key=KEY, revision=config.revision)
    if config.format == "chat":
        raise UserError("scorer.format", "chat", "does not fit a classifier that reads text pairs", "set it to task")
    limit = _limit(config, readable_tokens(model), int(tokenizer.model_max_length))
    pooled = PooledScores(model, tokenizer, hardware)
    return Classifier(PairReader(task, tokenizer, limit), pooled, config.batch_size, "task", limit)


def _wants_chat(config: ScorerConfig, tokenizer: Any) -> bool:
    has = bool(getattr(tokenizer, "chat_template", None))
    if config.format == "chat" and not has:
        raise UserError("scorer.format", "chat", "needs a tokenizer with a chat template", "set it to task")
    return has if config.format == "auto" else config.format == "chat"


def _limit(config: ScorerConfig, readable: int | None, stated: int | None = None) -> int | None:
    """Most tokens of a text: the user's word, else as far as the model reads and its tokenizer says that it should.

    Args:
        config: with the user's word.
        readable: what the model can read at most; None where it states no limit.
        stated: by the tokenizer, which holds a huge number where nobody said.

    Raises:
        UserError: ``scorer.max_tokens`` is more than the model can read.
    """
    if config.max_tokens is None:
        return min((n for n in (readable, stated) if n is not None and n < 10**9), default=None)
    if readable is not None and config.max_tokens > readable:
        rule = f"is more than the {readable} tokens that {config.path} can read"
        raise UserError("scorer.max_tokens", config.max_tokens, rule, f"give at most {readable}, or leave it out")
    return config.max_tokens


def readable_tokens(model: Any) -> int | None:
    """How many tokens the model can tell the places of; RoBERTa's positions begin after that of its pads."""
    known = positions(model)
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return int(module.num_embeddings) - int(module.padding_idx) - 1
    return known


class Classifier:
    """Scores both responses of each pair, and some of them once more alone.

    Args:
        read: a pair as the tokens of its two texts.
        score: (texts, batch size) -> (N,) scores.
        batch_size: texts at a time.
        template: how prompts are worded, for the record.
        limit: most tokens of a text; None where there is no limit.
    """

    def __init__(
        self,
        read: Callable[[PairExample], tuple[Tokens, Tokens]],
        score: Callable[[Sequence[Tokens], int], np.ndarray],
        batch_size: int,
        template: str,
        limit: int | None,
    ) -> None:
        self.read, self.score, self.batch_size, self.template, self.limit = read, score, batch_size, template, limit

    def judge(self, pairs: Sequence[PairExample], advance: Callable[[int], None]) -> Verdicts:
        """Every pair's margin and both scores, with how the texts were read and whether scores depend on the batch."""
        read = [self.read(pair) for pair in pairs]
        texts = [chosen for chosen, _ in read] + [rejected for _, rejected in read]
        # Those of similar length side by side, so that a batch is not padded to one long text.
        order = sorted(range(len(texts)), key=lambda row: len(texts[row].prompt) + len(texts[row].response))
        scores = np.zeros(len(texts))
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            scores[rows] = self.score([texts[row] for row in rows], self.batch_size)
            done = min(start + self.batch_size, len(order))
            advance(done // 2 - start // 2)
        margins = scores[: len(pairs)] - scores[len(pairs) :]
        facts = {
            "format": self.template,
            "max_tokens": self.limit,
            "prompt_cut_share": float(np.mean([text.prompt_cut for text in texts])),
            "response_cut_share": float(np.mean([text.response_cut for text in texts])),
            "batch_invariance": self._invariance(texts, scores, len(pairs)),
        }
        return Verdicts(margins, scores, facts=facts)

    def _invariance(self, texts: Sequence[Tokens], scores: np.ndarray, count: int) -> dict[str, Any]:
        """Some pairs scored one text at a time: the largest difference, and how many verdicts it turned."""
        rows = np.unique(np.linspace(0, count - 1, min(ALONE_PAIRS, count)).round().astype(int))
        both = np.concatenate([rows, rows + count])
        alone = self.score([texts[row] for row in both], 1)
        together, half = scores[both], len(rows)
        margins, margins_alone = together[:half] - together[half:], alone[:half] - alone[half:]
        verdicts = [np.sign(np.where(np.abs(m) <= WIN_MARGIN, 0, m)) for m in (margins, margins_alone)]
        return {
            "pairs": half,
            "max_difference": float(np.abs(alone - together).max()),
            "verdicts_changed": int((verdicts[0] != verdicts[1]).sum()),
        }


class TaskReader:
    """A pair in the task's wording, as this project trains reward models: the prompt cut by the task's rule."""

    def __init__(self, task: Task, codec: Codec, limit: int | None) -> None:
        self.task, self.codec, self.limit = task, codec, limit

    def __call__(self, pair: PairExample) -> tuple[Tokens, Tokens]:
        responses = self.codec.encode_responses([pair.chosen, pair.rejected])
        pair = replace(pair, fields=dict(self.codec.guard([pair.fields])[0]))
        prompt, was_cut = _fitting_prompt(self.task, pair, self.codec.count, max(map(len, responses)), self.limit)
        ids = self.codec.encode_prompts([prompt])[0]
        room = None if self.limit is None else self.limit - len(ids)
        first, second = (Tokens(ids, response[:room], was_cut, _over(response, room)) for response in responses)
        return first, second


def _over(ids: Sequence[int], room: int | None) -> bool:
    return room is not None and len(ids) > room


def _fitting_prompt(
    task: Task, pair: PairExample, count: Callable[[str], int], longest: int, limit: int | None
) -> tuple[str, bool]:
    """The prompt cut so that the longer response fits behind it; half of the limit is the prompt's in any case."""
    if limit is None:
        return task.prompt(pair.fields), False
    room = max(limit - longest, limit // 2)
    try:
        cut = task.cut(Example(pair.id, pair.fields, pair.chosen, [pair.chosen]), lambda text: count(text) <= room)
    except UserError as error:
        if error.key != "task.max_prompt_tokens":
            raise
        rule = f"leaves no room for the shortest prompt of pair {pair.id!r}"
        raise UserError("scorer.max_tokens", limit, rule, "raise it, or shorten task.template") from None
    return cut.prompt, cut.was_cut


class ChatReader:
    """A pair as a conversation in the tokenizer's own chat template; one that is too long loses its beginning.

    That is of the prompt, and where no prompt is left, of the response too.
    """

    def __init__(self, task: Task, tokenizer: Any, limit: int | None) -> None:
        self.task, self.tokenizer, self.limit = task, tokenizer, limit

    def __call__(self, pair: PairExample) -> tuple[Tokens, Tokens]:
        messages = chat_messages(self.task, pair.fields)
        first, second = (self._read([*messages, _said(text)]) for text in (pair.chosen, pair.rejected))
        return first, second

    def _read(self, messages: list[dict[str, str]]) -> Tokens:
        text = self.tokenizer.apply_chat_template(messages, tokenize=False)
        ids = self._ids(text)
        kept = ids if self.limit is None else ids[-self.limit :]
        cut = len(ids) - len(kept)
        return Tokens([], kept, cut > 0, cut > 0 and cut > self._before_response(text, messages[-1]["content"], ids))

    def _before_response(self, text: str, response: str, ids: Sequence[int]) -> int:
        """How many tokens of a conversation come before its last message, whose ends a template may strip."""
        start = text.rfind(response.strip())
        if start < 0 or not self.tokenizer.is_fast:
            return len(ids) - len(self._ids(response))
        encoded = self.tokenizer(text, add_special_tokens=False, verbose=False, return_offsets_mapping=True)
        return sum(end <= start for _, end in encoded["offset_mapping"])

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids


def _said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


class PairReader:
    """A pair for a classifier that reads two texts, as DeBERTa reward models do: the prompt, then the response."""

    def __init__(self, task: Task, tokenizer: Any, limit: int | None) -> None:
        self.task, self.tokenizer, self.limit = task, tokenizer, limit
        self.specials = int(tokenizer.num_special_tokens_to_add(pair=True))

    def __call__(self, pair: PairExample) -> tuple[Tokens, Tokens]:
        longest = max(self._count(text) for text in (pair.chosen, pair.rejected))
        limit = None if self.limit is None else self.limit - self.specials
        prompt, was_cut = _fitting_prompt(self.task, pair, self._count, longest, limit)
        room = None if limit is None else limit - self._count(prompt)
        first, second = (self._read(prompt, text, was_cut, room) for text in (pair.chosen, pair.rejected))
        return first, second

    def _read(self, prompt: str, response: str, was_cut: bool, room: int | None) -> Tokens:
        too_long = room is not None and self._count(response) > room
        cut: dict[str, Any] = {"truncation": "only_second", "max_length": self.limit} if too_long else {}
        encoded = self.tokenizer(prompt, response, verbose=False, **cut)
        return Tokens(encoded["input_ids"], [], was_cut, too_long, dict(encoded))

    def _count(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


class PooledScores:
    """Scores of text pairs by the classifier's own forward pass."""

    def __init__(self, model: Any, tokenizer: Any, hardware: Hardware) -> None:
        self.model, self.tokenizer, self.hardware = model, tokenizer, hardware

    def __call__(self, texts: Sequence[Tokens], batch_size: int) -> np.ndarray:
        import torch

        found = []
        with cast_once(self.model, self.hardware.precision):
            for start in range(0, len(texts), batch_size):
                encoded = [text.encoded for text in texts[start : start + batch_size]]
                batch = self.tokenizer.pad(encoded, padding=True, return_tensors="pt").to(self.hardware.device)
                with torch.inference_mode(), self.hardware.autocast():
                    found.append(self.model(**batch).logits[:, 0].double().cpu().numpy())
        return np.concatenate(found)
