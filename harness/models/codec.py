"""Text to tokens and back, by one rule for training, sampling and scoring."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.errors import UserError

APART = "harness_apart"
"""Under which the tokenizer's own configuration keeps that it belongs to an encoder–decoder model."""
CHAT = "harness_chat"
"""Under which the tokenizer's own configuration keeps that prompts are conversations, with the system message."""

STOPS = "harness_stops"
"""Under which the tokenizer's own configuration keeps which tokens end a response besides EOS."""

FOLLOWING = (("a", "b"), ("word", "Yes"), (":", "the"), (".", "I"))
"""Texts that stand one after the other, to see where a tokenizer puts a space of its own."""

GUARD = "\ufdd0"
"""Stands inside what only reads like a special token, until it is encoded: a noncharacter, which no text is to hold."""

REMEMBERED = 2**14
"""Prompts whose ids a codec keeps: they are counted, to see whether they fit, before they are encoded."""


class Codec:
    """A tokenizer with the conventions of this project.

    A prompt is encoded as the tokenizer does it (BOS where it adds one), less a trailing EOS. A response follows after
    a single space and ends in EOS. Pad is never EOS: a tokenizer without a pad token of its own gets one. For an
    encoder–decoder model the two are texts apart: the prompt keeps its EOS, and no space stands before the response,
    which is encoded as a target where the tokenizer makes a difference. Where prompts are conversations (``converse``)
    the chat template writes all marks of a prompt, and no space stands before the response.

    A response is text alone: ``</s>`` in one ends nothing. So is what data put into a prompt (``guard``). Elsewhere in
    a prompt it does become that token, since a task's wording, or a chat template, may ask for one.

    Args:
        tokenizer: a transformers tokenizer with an EOS token.
        name: what to call it in an error.
        apart: True for an encoder–decoder model.
    """

    def __init__(self, tokenizer: Any, name: str = "tokenizer", *, apart: bool = False) -> None:
        if tokenizer.eos_token_id is None:
            raise UserError(
                "model.name", name, "has a tokenizer without an EOS token", "set eos_token in its tokenizer_config.json"
            )
        self.tokenizer, self.apart = tokenizer, apart
        if apart:
            tokenizer.init_kwargs[APART] = True
        self.chat: Mapping[str, Any] | None = tokenizer.init_kwargs.get(CHAT)
        self.eos_id = int(tokenizer.eos_token_id)
        self.stop_ids: tuple[int, ...] = (self.eos_id, *tokenizer.init_kwargs.get(STOPS, ()))
        if tokenizer.pad_token_id is None or tokenizer.pad_token_id == self.eos_id:
            self._choose_pad()
        self.pad_id = int(tokenizer.pad_token_id)
        self._prompts: dict[bool, dict[str, list[int]]] = {True: {}, False: {}}
        self._guarded: dict[str, str] = {}
        self._space = "" if apart or self._adds_space() else " "

    def _choose_pad(self) -> None:
        """An unused special token where there is one (no weights change), else a new ``<|pad|>``."""
        if self.tokenizer.unk_token_id is not None and self.tokenizer.unk_token_id != self.eos_id:
            self.tokenizer.pad_token = self.tokenizer.unk_token
        else:
            self.tokenizer.add_special_tokens({"pad_token": "<|pad|>"})

    def _adds_space(self) -> bool:
        """Whether a text that follows another one gets a space by the tokenizer itself, and a second one of ours."""
        probes = [(f"{first} {second}", first, second, f" {second}") for first, second in FOLLOWING]
        encoded = [self.tokenizer(list(texts), add_special_tokens=False)["input_ids"] for texts in probes]
        return any(first + bare == joint != first + spaced for joint, first, bare, spaced in encoded)

    def converse(self, system: str | None = None, *, key: str = "model") -> None:
        """Take prompts for conversations from now on, also when the tokenizer is saved and loaded again.

        Args:
            system: what a conversation begins with, by the role of that name; None for nothing.
            key: the group to name in an error.

        Raises:
            UserError: there is no chat template, or it refuses a system message.
        """
        if not getattr(self.tokenizer, "chat_template", None):
            rule = "needs a tokenizer with a chat template"
            raise UserError(f"{key}.chat", True, rule, "name a model that has one, or leave it out")
        self.chat = self.tokenizer.init_kwargs[CHAT] = {"system": system}
        if system is not None:
            messages = [{"role": "system", "content": system}, {"role": "user", "content": "a"}]
            if system not in self.conversation(messages, key=key):
                raise UserError(f"{key}.system", system, "does not appear in the chat template's text", "leave it out")

    def stop_at(self, ids: Iterable[int]) -> None:
        """Let these tokens end a response like EOS, also when the tokenizer is saved and loaded again.

        Args:
            ids: of which those that are special tokens count: others are part of a text.
        """
        special = self._special_ids()
        others = list(dict.fromkeys(int(id) for id in ids if id != self.eos_id and id in special))
        self.stop_ids = (self.eos_id, *others)
        self.tokenizer.init_kwargs.pop(STOPS, None)
        if others:
            self.tokenizer.init_kwargs[STOPS] = others

    def _special_ids(self) -> set[int]:
        added = self.tokenizer.added_tokens_decoder.items()
        return {*self.tokenizer.all_special_ids, *(id for id, token in added if token.special)}

    def ended(self, ids: Sequence[int]) -> bool:
        """Whether a response ends in EOS, or in another token that ends one."""
        return len(ids) > 0 and ids[-1] in self.stop_ids

    def closed(self, ids: Sequence[int]) -> list[int]:
        """A response with EOS in the place of whatever ended it, as others read it."""
        return [*ids[:-1], self.eos_id] if self.ended(ids) else list(ids)

    def follow(self, other: Codec) -> None:
        """Word prompts as another codec with the same tokens does, and take responses for ended where it does."""
        self.stop_at([*self.stop_ids, *other.stop_ids])
        if other.chat is not None:
            self.tokenizer.chat_template = other.tokenizer.chat_template
            self.chat = self.tokenizer.init_kwargs[CHAT] = other.chat

    def conversation(self, messages: Sequence[Mapping[str, str]], *, key: str = "model") -> str:
        """A conversation as the chat template writes it, up to where the answer begins.

        Raises:
            UserError: the template refuses these roles in this order.
        """
        from jinja2 import TemplateError

        try:
            text: str = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            rule = f"has a chat template that refuses the roles {roles} ({error})"
            raise UserError(f"{key}.chat", True, rule, "leave out what it refuses, or the chat") from None
        return text

    def __len__(self) -> int:
        return len(self.tokenizer)

    def encode_prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Prompt ids. They are kept for the next time, and forgotten where there would be more than ``REMEMBERED``."""
        kept = self._prompts[self.chat is not None]
        found = {text: kept[text] for text in texts if text in kept}
        if new := [text for text in dict.fromkeys(texts) if text not in found]:
            marks = {"add_special_tokens": self.chat is None}  # a template writes BOS itself
            plain = [self._guarded.get(text, text) for text in new]
            encoded: list[list[int]] = self.tokenizer(plain, truncation=False, verbose=False, **marks)["input_ids"]
            for place, text in enumerate(plain):
                if GUARD in text:
                    encoded[place] = self._encode_guarded(text)
            for text, ids in zip(new, encoded, strict=True):
                found[text] = ids[:-1] if not self.apart and ids and ids[-1] == self.eos_id else ids
            if len(kept) + len(new) > REMEMBERED:
                kept.clear()
            if len(new) <= REMEMBERED:
                kept.update((text, found[text]) for text in new)
        return [list(found[text]) for text in texts]

    def guard(self, prompts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The fields of prompts, texts or lists of them, in which what reads like a special token stays text.

        A prompt that is made of them can be counted and encoded; ``unguard`` gives the text that it stands for. Fields
        that hold nothing of the kind are the very ones that were given.
        """
        words, special = self._special_words, self._special

        def is_special(value: Any) -> bool:
            if isinstance(value, list):
                return any(map(is_special, value))
            return isinstance(value, str) and special.search(value) is not None

        def guarded(value: Any) -> Any:
            if isinstance(value, list):
                return [guarded(each) for each in value]
            if isinstance(value, str):
                for word in words:
                    value = value.replace(word, f"{word[0]}{GUARD}{word[1:]}")
            return value

        return [
            {name: guarded(value) for name, value in fields.items()}
            if any(map(is_special, fields.values()))
            else fields
            for fields in prompts
        ]

    def unguard(self, prompt: str) -> str:
        """The text of a prompt with guarded fields; ``encode_prompts`` remembers what in it is no special token."""
        if GUARD not in prompt:
            return prompt
        text = prompt.replace(GUARD, "")
        self._guarded[text] = prompt
        for kept in self._prompts.values():
            kept.pop(text, None)
        return text

    @property
    def _special_words(self) -> list[str]:
        """Special tokens as they are written, longer ones first; one of a single character cannot be told from text."""
        added = self.tokenizer.added_tokens_decoder.values()
        words = {*self.tokenizer.all_special_tokens, *(str(token) for token in added if token.special)}
        return sorted((word for word in words if len(word) > 1), key=lambda word: (-len(word), word))

    @property
    def _special(self) -> re.Pattern[str]:
        """Finds them in a text, each as its one group."""
        return re.compile(f"({'|'.join(map(re.escape, self._special_words)) or '(?!)'})")

    def _encode_guarded(self, prompt: str) -> list[int]:
        """Ids of a prompt whose own special tokens are such, and the guarded ones text."""
        texts = self._special.split(prompt)  # text, token, text, ...
        ids: list[int] = []
        spaced = self._has_space_after_tokens()
        for place, text in enumerate(texts):
            if place % 2:
                ids.append(self.tokenizer.convert_tokens_to_ids(text))
            elif place and not spaced:
                for part in text.split(GUARD):
                    ids += self.tokenizer(f"{texts[1]}{part}", add_special_tokens=False, verbose=False)["input_ids"][1:]
            elif text:
                ids += self._encode_text([text.replace(GUARD, "")], "text")[0]
        if self.chat is not None:
            return ids
        bare, marked = (self.tokenizer("a", add_special_tokens=marks)["input_ids"] for marks in (False, True))
        start = next(at for at in range(len(marked)) if marked[at : at + len(bare)] == bare)
        return [*marked[:start], *ids, *marked[start + len(bare) :]]

    def _has_space_after_tokens(self) -> bool:
        """Whether text is encoded after a special token as it is alone: some tokenizers put a space before all text,
        some before what begins a text alone.
        """
        alone = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        after = self.tokenizer(f"{self.tokenizer.eos_token}a", add_special_tokens=False)["input_ids"]
        return bool(after[1:] == alone)

    def encode_responses(
        self, texts: Sequence[str], *, max_tokens: int | None = None, ended: Sequence[bool] | None = None
    ) -> list[list[int]]:
        """Response ids, EOS included; one longer than ``max_tokens`` is cut there and has no EOS.

        What reads like a special token is encoded as the text that it is.

        Args:
            texts: N responses.
            max_tokens: the length limit, EOS included; None for no limit.
            ended: (N,) False where no EOS is to follow; None: it follows everywhere.
        """
        if not texts:
            return []
        space = self._space if self.chat is None else ""
        where = "text_target" if self.apart else "text"
        encoded = self._encode_text([f"{space}{text}" if text else "" for text in texts], where)
        ends = [True] * len(texts) if ended is None else ended
        full = [[*ids, self.eos_id] if end else list(ids) for ids, end in zip(encoded, ends, strict=True)]
        return full if max_tokens is None else [ids[:max_tokens] for ids in full]

    def _encode_text(self, texts: list[str], where: str) -> list[list[int]]:
        """Ids of texts, none of them a control token's; ``where`` is the tokenizer's argument.

        Unigram models, T5's among them, find their control tokens in any text. There such a word is encoded in two.
        """
        how = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        encoded: list[list[int]] = self.tokenizer(**{where: texts}, **how)["input_ids"]
        control = self._special_ids() - {self.tokenizer.unk_token_id}
        if found := [row for row, ids in enumerate(encoded) if not control.isdisjoint(ids)]:
            words = self.tokenizer.convert_ids_to_tokens(sorted(control))
            inside = "|".join(f"(?<={re.escape(word[0])})(?={re.escape(word[1:])})" for word in words if len(word) > 1)
            for row in found:
                parts = self.tokenizer(**{where: re.split(inside, texts[row])}, **how)["input_ids"]
                encoded[row] = [id for ids in parts for id in ids]
        return encoded

    def cut_responses(self, texts: Sequence[str], max_tokens: int) -> tuple[list[list[int]], float]:
        """Response ids of at most ``max_tokens``, as ``encode_responses`` cuts them, and the share that was cut."""
        whole = self.encode_responses(texts)
        return [ids[:max_tokens] for ids in whole], sum(len(ids) > max_tokens for ids in whole) / max(len(whole), 1)

    def decode(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """Texts without special tokens, stripped."""
        if not tokens:
            return []
        return [
            text.strip()
            for text in self.tokenizer.batch_decode([list(ids) for ids in tokens], skip_special_tokens=True)
        ]

    def count(self, text: str) -> int:
        return len(self.encode_prompts([text])[0])

    def between(self) -> list[int]:
        """What the tokenizer puts between two texts that it encodes as a pair, besides each one's own marks.

        BART's puts one more EOS there, T5's nothing.
        """
        pair = self.tokenizer("a", "b", verbose=False)["input_ids"]
        (first,), (second,) = self.encode_prompts(["a"]), self.encode_responses(["b"])
        alike = pair[: len(first)] == first and pair[-len(second) :] == second
        return list(pair[len(first) : -len(second)]) if alike and len(pair) >= len(first) + len(second) else []


PROBE = "Answer in 12 words: Ünïcode, (tabs)\tand\nnew lines?"


def same_tokens(first: Codec, second: Codec) -> bool:
    """Whether two tokenizers give texts the same ids.

    Tokens that only one of them was given afterwards (a pad token, marks of a chat) make no difference: a trainer adds
    them to what it saves. Nor does it whether prompts are conversations, which are texts of these tokens like others.
    """
    first, second = copy.copy(first), copy.copy(second)
    first.chat = second.chat = None
    one, other = (codec.tokenizer.get_vocab() for codec in (first, second))
    added = {*first.tokenizer.get_added_vocab(), *second.tokenizer.get_added_vocab()}
    if not one.keys() ^ other.keys() <= added or any(one[token] != other[token] for token in one.keys() & other.keys()):
        return False
    if first.encode_responses([PROBE]) != second.encode_responses([PROBE]):
        return False
    return first.encode_prompts([PROBE]) == second.encode_prompts([PROBE])
