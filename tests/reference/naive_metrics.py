"""Metrics the slow way: one text at a time, whole corpora rebuilt for every resample. Independent of the harness."""

from __future__ import annotations

from collections.abc import Sequence

PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"


def squad_words(text: str) -> list[str]:
    kept = "".join(character for character in text.lower() if character not in PUNCTUATION)
    words = []
    for word in kept.split():
        # \b splits words where letters meet other signs, so an article between such signs goes too
        pieces, piece = [], ""
        for character in word:
            if character.isalnum() or character == "_":
                piece += character
            else:
                pieces += [piece, character]
                piece = ""
        pieces.append(piece)
        words += "".join(" " if piece in ("a", "an", "the") else piece for piece in pieces).split()
    return words


def squad_exact_match(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    hits = 0
    for output, refs in zip(outputs, references, strict=True):
        hits += any(squad_words(output) == squad_words(ref) for ref in refs)
    return 100 * hits / len(outputs)


def squad_f1(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    total = 0.0
    for output, refs in zip(outputs, references, strict=True):
        best = 0.0
        for ref in refs:
            ours, theirs = squad_words(output), squad_words(ref)
            if not ours or not theirs:
                best = max(best, 1.0 if ours == theirs else 0.0)
                continue
            left, common = list(theirs), 0
            for word in ours:
                if word in left:
                    left.remove(word)
                    common += 1
            if common:
                precision, recall = common / len(ours), common / len(theirs)
                best = max(best, 2 * precision * recall / (precision + recall))
        total += best
    return 100 * total / len(outputs)


def words_and_signs(text: str) -> list[str]:
    tokens: list[str] = []
    inside_word = False
    for character in text.lower():
        is_word = character.isalnum() or character == "_"
        if is_word and inside_word:
            tokens[-1] += character
        elif not character.isspace():
            tokens.append(character)
        inside_word = is_word
    return tokens


def distinct(outputs: Sequence[str], order: int) -> float:
    seen: list[str] = []
    count = 0
    for output in outputs:
        tokens = words_and_signs(output)
        for start in range(len(tokens) - order + 1):
            ngram = "\x00".join(tokens[start : start + order])
            count += 1
            if ngram not in seen:
                seen.append(ngram)
    return 100 * len(seen) / count if count else 0.0
