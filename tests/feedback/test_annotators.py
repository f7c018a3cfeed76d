from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest

from harness.errors import UserError
from harness.feedback.annotators import Annotator, gold_utility, metric_utility
from harness.types import Example


def nothing(example: Any, responses: Any) -> list[float]:
    raise AssertionError("a verdict is drawn from utilities that are given")


def share(annotator: Annotator, utilities: tuple[float, float], texts: tuple[str, str] = ("a", "a"), n: int = 20_000):
    rng = Random(5)
    return sum(annotator.judge(texts, utilities, rng).first_preferred for _ in range(n)) / n


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("options", "utilities", "texts", "expected"),
    [
        ({}, (1.0, 0.0), ("a", "a"), sigmoid(1.0)),
        ({}, (0.0, 2.0), ("a", "a"), sigmoid(-2.0)),
        ({"temperature": 4.0}, (2.0, 0.0), ("a", "a"), sigmoid(0.5)),
        ({"temperature": 0.1}, (1.0, 0.0), ("a", "a"), sigmoid(10.0)),
        # 5 words against 2, at 0.3 each; the bias is not divided by the temperature.
        ({"length_bias": 0.3}, (0.0, 0.0), ("a b c d e", "a b"), sigmoid(0.9)),
        ({"length_bias": 0.3, "temperature": 2.0}, (0.0, 1.0), ("a b c d e", "a b"), sigmoid(-0.5 + 0.9)),
        # A share of labels is flipped whatever the difference.
        ({"noise": 0.2}, (1.0, 0.0), ("a", "a"), 0.8 * sigmoid(1.0) + 0.2 * sigmoid(-1.0)),
        ({"noise": 0.1}, (50.0, 0.0), ("a", "a"), 0.9),
        ({"noise": 1.0}, (50.0, 0.0), ("a", "a"), 0.0),
    ],
)
def test_label_frequencies_are_those_of_bradley_and_terry(options, utilities, texts, expected):
    measured = share(Annotator(nothing, **options), utilities, texts)
    assert measured == pytest.approx(expected, abs=4 * math.sqrt(0.25 / 20_000))


def test_differences_beyond_any_float_are_certain():
    for difference in (1e4, -1e4):
        assert share(Annotator(nothing), (difference, 0.0), n=50) == (difference > 0)


def test_agreement_is_with_the_utility_and_not_with_the_bias():
    annotator, rng = Annotator(nothing, length_bias=100.0), Random(0)
    verdict = annotator.judge(("a b c", "a"), (0.0, 1.0), rng)
    assert (verdict.first_preferred, verdict.agrees_with_utility) == (True, 0.0)
    verdict = annotator.judge(("a", "a b c"), (0.0, 1.0), rng)
    assert (verdict.first_preferred, verdict.agrees_with_utility) == (False, 1.0)
    assert annotator.judge(("a", "a b c"), (1.0, 1.0), rng).agrees_with_utility == 0.5


@pytest.mark.parametrize(
    ("options", "utilities", "texts", "tie"),
    [
        ({}, (0.1 + 0.2, 0.3), ("a", "a b"), True),
        ({}, (0.3001, 0.3), ("a", "a"), False),
        ({"indifference": 0.5}, (1.5, 1.0), ("a", "a"), True),
        ({"indifference": 0.5}, (1.6, 1.0), ("a", "a"), False),
        # 3 words more at 2 * 0.1 each: 0.6 of utility, which is noticed, and makes up for a lead of as much.
        ({"indifference": 0.5, "length_bias": 0.1, "temperature": 2.0}, (1.0, 1.0), ("a b c d", "a"), False),
        ({"indifference": 0.5, "length_bias": 0.1, "temperature": 2.0}, (1.0, 1.6), ("a b c d", "a"), True),
        ({"indifference": 0.5, "length_bias": 0.1, "temperature": 2.0}, (1.0, 1.6), ("a", "a"), False),
    ],
)
def test_a_tie_is_a_difference_that_is_not_perceived(options, utilities, texts, tie):
    assert Annotator(nothing, **options).ties(texts, utilities) == tie


def test_the_stream_moves_on_by_the_same_amount_whatever_the_verdict():
    """So that noise or bias changes labels, and not which pair gets which random number."""
    after = []
    for options in ({}, {"noise": 0.5}, {"length_bias": 9.0}):
        rng = Random(1)
        for _ in range(7):
            Annotator(nothing, **options).judge(("a b", "a"), (0.3, 0.0), rng)
        after.append(rng.random())
    assert len(set(after)) == 1


EXAMPLE = Example(id="x", fields={}, response="the cat sat", references=["the cat sat down", "a dog ran"], facts=None)


class World:
    """Gold is the number of words that the facts name, and one point for a full stop."""

    def gold_parts(self, facts: Any, response: str) -> dict[str, float]:
        words = response.split()
        return {"named": float(sum(word in facts["words"] for word in words)), "ends": float(response.endswith("."))}


def test_gold_utility_is_the_sum_of_the_parts():
    example = Example(id="x", fields={}, response="", references=[], facts={"words": ["cat", "sat"]})
    assert gold_utility(World())(example, ["the cat sat .", "cat", ""]) == [3.0, 1.0, 0.0]


def test_gold_needs_a_world():
    with pytest.raises(UserError, match=r"feedback\.kind=gold needs a controlled world"):
        gold_utility(World())(EXAMPLE, ["a"])


def test_metric_utility_f1_is_in_tens_of_points_against_the_best_reference():
    """Articles fall away by SQuAD's rule. "cat sat": 2 of 2 and 2 of 3 right, F1 0.8; "dog": 1 of 1 and 1 of 2, 2/3."""
    values = metric_utility("f1")(EXAMPLE, ["the cat sat", "dog", "blue", "the cat sat down", ""])
    assert values == pytest.approx([8.0, 20 / 3, 0.0, 10.0, 0.0])


def test_metric_utility_chrf_is_sacrebleus_sentence_score():
    from sacrebleu import sentence_chrf

    responses = ["the cat sat", "dog", "the cat sat down"]
    expected = [sentence_chrf(text, EXAMPLE.references).score / 10 for text in responses]
    assert metric_utility("chrf")(EXAMPLE, responses) == pytest.approx(expected)
    assert expected[2] == pytest.approx(10.0)


def test_metric_utility_bleu_is_sacrebleus_sentence_score():
    from sacrebleu import sentence_bleu

    responses = ["the cat sat", "dog", "the cat sat down", ""]
    expected = [sentence_bleu(text, EXAMPLE.references).score / 10 for text in responses]
    assert metric_utility("bleu")(EXAMPLE, responses) == pytest.approx(expected)
    assert expected[2] == pytest.approx(10.0)


def test_metric_utility_gleu_is_the_smaller_of_precision_and_recall():
    """All 6 n-grams of "the cat sat" are among the 10 of "the cat sat down": 6/10, and the same the other way round.

    Of the 6 of "a dog dog", three (a, dog, a dog) are among the 6 of "a dog ran".
    """
    example = Example(id="x", fields={}, response="", references=["the cat sat down", "a dog ran"], facts=None)
    values = metric_utility("gleu")(example, ["the cat sat", "the cat sat down", "a dog dog", "blue", ""])
    assert values == pytest.approx([6.0, 10.0, 5.0, 0.0, 0.0])
    longer = Example(id="x", fields={}, response="", references=["the cat sat"], facts=None)
    assert metric_utility("gleu")(longer, ["the cat sat down"]) == pytest.approx([6.0])


def test_metric_utility_of_several_is_their_mean():
    responses = ["the cat sat", "dog", "the cat sat down", ""]
    chrf, gleu = metric_utility("chrf")(EXAMPLE, responses), metric_utility("gleu")(EXAMPLE, responses)
    expected = [(one + other) / 2 for one, other in zip(chrf, gleu, strict=True)]
    assert metric_utility("chrf+gleu")(EXAMPLE, responses) == pytest.approx(expected)
    assert max(abs(one - other) for one, other in zip(chrf, gleu, strict=True)) > 0.5


def test_metric_utility_rouge_is_rouge_scores_best_f1():
    """Stems of "cats sat": 2 of 2 in order, of 4: F1 2/3; "a dog": 2 of 2, of 3: 0.8."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    responses = ["cats sat", "a dog", "blue", ""]
    best = [max(scorer.score(each, text)["rougeL"].fmeasure for each in EXAMPLE.references) for text in responses]
    assert best == pytest.approx([2 / 3, 0.8, 0.0, 0.0])
    assert metric_utility("rougeL")(EXAMPLE, responses) == pytest.approx([10 * value for value in best])


def test_without_references_the_demonstration_is_compared_with():
    example = Example(id="x", fields={}, response="cat sat", references=[], facts=None)
    assert metric_utility("f1")(example, ["the cat sat"]) == [10.0]


def test_an_unknown_metric_is_refused():
    with pytest.raises(UserError, match=r"feedback\.metric=meteor is no smooth sentence metric"):
        metric_utility("meteor")
    with pytest.raises(UserError, match=r"feedback\.metric=chrf\+meteor is no smooth sentence metric"):
        metric_utility("chrf+meteor")
