"""The built-in metrics against the libraries that define them, naive loops, and hand arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import zip_longest
from types import ModuleType

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from harness.errors import UserError
from harness.evaluation.metrics.rouge import sentence_lines
from harness.evaluation.metrics.squad import normalise, token_f1
from harness.types import Metric

Metrics = dict[str, Metric]
Corpus = tuple[list[str], list[list[str]]]


def one(metrics: Metrics, column: str, outputs: list[str], references: list[list[str]]) -> float:
    metric = next(metric for metric in metrics.values() if column in metric.columns)
    return float(metric.scored(outputs, references)[column].score()[0])


def draws(size: int, count: int, seed: int) -> tuple[list[list[int]], np.ndarray]:
    indices = np.random.default_rng(seed).integers(0, size, size=(count, size))
    weights = np.stack([np.bincount(row, minlength=size) for row in indices])
    return indices.tolist(), weights


SIX = "the small cat sat down quietly"


@pytest.mark.parametrize(
    ("column", "output", "references", "expected"),
    [
        ("bleu", SIX, [SIX], 100.0),
        ("bleu", "", [SIX], 0.0),
        ("bleu", "zebra", [SIX], 0.0),
        ("bleu", "cat", ["cat"], 0.0),  # no 4-gram in the corpus: undefined, reported as 0
        # 6/6, 5/5, 4/4, 3/3 of 6 words against 8: only the brevity penalty exp(1 - 8/6)
        ("bleu", SIX, [SIX + " and slept"], 100 * math.exp(1 - 8 / 6)),
        # 5/6 words, 4/5, 3/4, 2/3
        ("bleu", "the small cat sat down loudly", [SIX], 100 * (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25),
        # 4/4 words, 1/3 bigrams, no trigram of 2 (1/2 of one), no 4-gram of 1 (1/4 of one)
        ("bleu", "sat down the small", ["the cat small sat down"], 100 * math.exp(1 - 5 / 4) * (1 / 3 / 4 / 4) ** 0.25),
        ("chrf", "abc", ["abc"], 100.0),
        ("chrf", "", ["abc"], 0.0),
        ("chrf", "xyz", ["abc"], 0.0),
        ("chrf", "a", ["a"], 100.0),
        # precision (2/2 + 1/1) / 2 = 1, recall (2/4 + 1/3) / 2 = 5/12; F2 = 5PR / (4P + R)
        ("chrf", "ab", ["abcd"], 100 * 5 * (5 / 12) / (4 + 5 / 12)),
        ("rouge1", "", ["the cat"], 0.0),
        ("rouge1", "dog", ["the cat"], 0.0),
        ("rouge1", "cat", ["cat"], 100.0),
        ("rouge2", "cat", ["cat"], 0.0),  # a single token has no bigram
        ("rougeL", "cat", ["cat"], 100.0),
        ("rouge1", "running cats", ["the running cat"], 80.0),  # stemmed: 2 of 2, 2 of 3
        ("rouge1", "cat", ["dog", "cat sat"], 100 * 2 / 3),  # the better reference
        ("rougeL", "cat the sat", ["the cat sat"], 100 * 2 / 3),
        ("rougeLsum", "One two. Three four.", ["Three four. One two."], 100.0),
        ("rougeL", "One two. Three four.", ["Three four. One two."], 50.0),
        ("exact_match", "The cat!", ["cat"], 100.0),
        ("exact_match", "", ["cat"], 0.0),
        ("exact_match", "an", ["the"], 100.0),  # nothing is left of either
        ("f1", "an", ["the"], 100.0),
        ("f1", "", ["cat"], 0.0),
        ("f1", "cat", [""], 0.0),
        ("f1", "dog", ["cat"], 0.0),
        ("f1", "black cat", ["the cat"], 100 * 2 / 3),  # P 1/2, R 1
        ("f1", "cat cat dog", ["cat cat cat", "fish"], 100 * 2 / 3),  # P 2/3, R 2/3
        ("distinct1", "", [], 0.0),
        ("distinct1", "a a b A", [], 50.0),
        ("distinct2", "a", [], 0.0),
        ("distinct2", "a b a b", [], 100 * 2 / 3),
    ],
)
def test_hand_computed_values(
    metrics: Metrics, column: str, output: str, references: list[str], expected: float
) -> None:
    assert one(metrics, column, [output], [references]) == pytest.approx(expected, abs=1e-9)


def test_distinct_counts_over_the_whole_set(metrics: Metrics) -> None:
    scored = metrics["distinct"].scored(["a b", "a b", "a c"], [[], [], []])
    assert scored["distinct1"].score()[0] == pytest.approx(50.0)  # a b c of 6
    assert scored["distinct2"].score()[0] == pytest.approx(100 * 2 / 3)  # ab ac of 3
    assert scored["distinct1"].per_example.tolist() == [100.0, 100.0, 100.0]
    assert scored["distinct1"].score(np.array([[3, 0, 0], [1, 0, 2]])) == pytest.approx([100 * 2 / 6, 50.0])


@pytest.mark.parametrize("references", [1, 2, None])
def test_bleu_and_chrf_equal_sacrebleu_on_every_resample(
    metrics: Metrics, corpus: Callable[..., Corpus], references: int | None
) -> None:
    outputs, refs = corpus(references or 7, 40, references)
    indices, weights = draws(40, 25, seed=3)
    bleu, chrf = metrics["bleu"].scored(outputs, refs)["bleu"], metrics["chrf"].scored(outputs, refs)["chrf"]
    for row, by_bleu, by_chrf in zip(indices, bleu.score(weights), chrf.score(weights), strict=True):
        drawn, streams = [outputs[i] for i in row], list(zip_longest(*(refs[i] for i in row)))
        assert by_bleu == pytest.approx(sacrebleu.corpus_bleu(drawn, streams).score, abs=1e-9)
        assert by_chrf == pytest.approx(sacrebleu.corpus_chrf(drawn, streams).score, abs=1e-9)
    streams = list(zip_longest(*refs))
    assert bleu.score()[0] == pytest.approx(sacrebleu.corpus_bleu(outputs, streams).score, abs=1e-9)
    assert chrf.score()[0] == pytest.approx(sacrebleu.corpus_chrf(outputs, streams).score, abs=1e-9)
    for output, row, by_bleu, by_chrf in zip(outputs, refs, bleu.per_example, chrf.per_example, strict=True):
        assert by_bleu == pytest.approx(sacrebleu.sentence_bleu(output, row).score, abs=1e-9)
        assert by_chrf == pytest.approx(sacrebleu.sentence_chrf(output, row).score, abs=1e-9)


def test_signatures_are_sacrebleus(metrics: Metrics, corpus: Callable[..., Corpus]) -> None:
    for references, shown in ((2, "nrefs:2"), (None, "nrefs:var")):
        outputs, refs = corpus(1, 20, references)
        bleu, chrf = sacrebleu.BLEU(), sacrebleu.CHRF()
        streams = list(zip_longest(*refs))
        bleu.corpus_score(outputs, streams)
        chrf.corpus_score(outputs, streams)
        assert metrics["bleu"].scored(outputs, refs)["bleu"].signature == str(bleu.get_signature())
        assert metrics["chrf"].scored(outputs, refs)["chrf"].signature == str(chrf.get_signature())
        assert shown in str(bleu.get_signature())
    assert "stemmer:yes" in metrics["rouge"].scored(outputs, refs)["rougeL"].signature


def test_rouge_equals_rouge_score_on_every_resample(metrics: Metrics, corpus: Callable[..., Corpus]) -> None:
    outputs, refs = corpus(11, 30)
    indices, weights = draws(30, 10, seed=4)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True)
    rows = [
        scorer.score_multi([sentence_lines(ref) for ref in row], sentence_lines(output))
        for output, row in zip(outputs, refs, strict=True)
    ]
    for name, scored in metrics["rouge"].scored(outputs, refs).items():
        for row, value in zip(indices, scored.score(weights), strict=True):
            assert value == pytest.approx(100 * sum(rows[i][name].fmeasure for i in row) / 30, abs=1e-9)
        alone = [max(scorer.score(sentence_lines(ref), sentence_lines(outputs[5]))[name].fmeasure for ref in refs[5])]
        assert scored.per_example[5] == pytest.approx(100 * alone[0], abs=1e-9)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", ""),
        ("One", "One"),
        ("One. Two", "One.\nTwo"),
        ("One.\n\n Two", "One.\nTwo"),
        ('He said "Go!" Then left.', 'He said "Go!\nThen left.'),
        ("It is 3.5 or e.g.this", "It is 3.5 or e.g.this"),
        ("\nOne\n", "One"),
    ],
)
def test_sentences_are_split_as_stated(text: str, lines: str) -> None:
    assert sentence_lines(text) == lines


def test_squad_equals_the_naive_loop_on_every_resample(
    metrics: Metrics, corpus: Callable[..., Corpus], naive_metrics: ModuleType
) -> None:
    outputs, refs = corpus(5, 40)
    scored = metrics["squad"].scored(outputs, refs)
    indices, weights = draws(40, 10, seed=5)
    exact, f1 = scored["exact_match"].score(weights), scored["f1"].score(weights)
    assert scored["exact_match"].score()[0] == pytest.approx(naive_metrics.squad_exact_match(outputs, refs))
    for row, by_exact, by_f1 in zip(indices, exact, f1, strict=True):
        drawn = [outputs[i] for i in row], [refs[i] for i in row]
        assert by_exact == pytest.approx(naive_metrics.squad_exact_match(*drawn), abs=1e-9)
        assert by_f1 == pytest.approx(naive_metrics.squad_f1(*drawn), abs=1e-9)


def test_distinct_equals_the_naive_loop_on_every_resample(
    metrics: Metrics, corpus: Callable[..., Corpus], naive_metrics: ModuleType
) -> None:
    outputs, refs = corpus(6, 40)
    indices, weights = draws(40, 10, seed=6)
    for order in (1, 2):
        scored = metrics["distinct"].scored(outputs, refs)[f"distinct{order}"]
        assert scored.score()[0] == pytest.approx(naive_metrics.distinct(outputs, order), abs=1e-9)
        for row, value in zip(indices, scored.score(weights), strict=True):
            assert value == pytest.approx(naive_metrics.distinct([outputs[i] for i in row], order), abs=1e-9)


def test_distinct_in_small_blocks_is_the_same(
    metrics: Metrics, corpus: Callable[..., Corpus], monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs, refs = corpus(8, 25)
    _, weights = draws(25, 9, seed=7)
    whole = metrics["distinct"].scored(outputs, refs)["distinct2"].score(weights)
    monkeypatch.setattr("harness.evaluation.metrics.distinct.PRESENCE_AT_ONCE", 1)
    np.testing.assert_array_equal(metrics["distinct"].scored(outputs, refs)["distinct2"].score(weights), whole)


def test_all_values_lie_on_the_tables_scale(metrics: Metrics, corpus: Callable[..., Corpus]) -> None:
    outputs, refs = corpus(9, 60)
    for metric in metrics.values():
        scored = metric.scored(outputs, refs)
        assert tuple(scored) == metric.columns
        for name, verdict in scored.items():
            assert verdict.name == name
            assert verdict.per_example.shape == (60,)
            assert verdict.score().shape == (1,)
            assert verdict.per_example.min() >= 0
            assert verdict.per_example.max() <= 100 + 1e-9


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="aAbnteh T.,!- \n", max_size=20), st.text(alphabet="aAbnteh T.,!- \n", max_size=20))
def test_squad_f1_is_symmetric_bounded_and_one_for_equal_answers(first: str, second: str) -> None:
    assert token_f1(first, second) == token_f1(second, first)
    assert 0 <= token_f1(first, second) <= 1
    assert token_f1(first, first.upper() + "!") == 1
    assert normalise(normalise(first)) == normalise(first)


@pytest.mark.parametrize("module", ["bleu", "chrf", "rouge", "squad"])
def test_an_example_without_references_is_refused(metrics: Metrics, module: str) -> None:
    with pytest.raises(UserError, match=r"data\.references=\[\] \(example 1\)"):
        metrics[module].scored(["cat", "dog"], [["cat"], []])


@pytest.mark.parametrize("module", ["bleu", "chrf", "rouge", "squad", "distinct"])
def test_what_does_not_pair_up_is_refused(metrics: Metrics, module: str) -> None:
    with pytest.raises(ValueError, match="no outputs"):
        metrics[module].scored([], [])
    with pytest.raises(ValueError, match="2 outputs but 1"):
        metrics[module].scored(["cat", "dog"], [["cat"]])
    with pytest.raises(ValueError, match="not one string"):
        metrics[module].scored(["cat"], ["cat"])
