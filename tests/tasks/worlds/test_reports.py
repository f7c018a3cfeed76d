"""The world of reports: what it draws, what gold pays, and what gaming it does not gain."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from random import Random
from statistics import mean, median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UserError
from harness.tasks.worlds import reports_language as language
from harness.tasks.worlds.reports import MIXTURE, Reports
from harness.tasks.worlds.reports_gold import MAX_TOKENS, split_sentences

WORLD = Reports()
FACTS = {
    "cause": "storm",
    "harm": "closed",
    "site": "bridge",
    "town": "Harwick",
    "day": "Monday",
    "subject": "buses",
    "outcome": "delayed",
    "lead": "A storm has shut the bridge in Harwick.",
    "asides": ["A book fair opens in July."],
    "colouring": ["book", "july"],
}
GOOD = "A storm closed the bridge in Harwick on Monday, and buses were delayed."


def gold(response: str, facts: dict[str, object] = FACTS) -> float:
    return sum(WORLD.gold_parts(facts, response).values())


def tokens(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text)


def drawn(seed: int, count: int) -> list[tuple[dict[str, object], str, str, str]]:
    """(facts, report, response, style) of fresh examples."""
    rng = Random(seed)
    rows = []
    for _ in range(count):
        fields, facts = WORLD.draw(rng)
        response, style = WORLD.demonstrate(facts, rng)
        rows.append((facts, fields["source"], response, style))
    return rows


DIGEST = """
from random import Random
from harness.tasks.worlds.reports import Reports
world, rng = Reports(), Random(3)
for _ in range(20):
    draw = world.draw(rng)
    response, style = world.demonstrate(draw.facts, rng)
    parts = world.gold_parts(draw.facts, response)
    print(draw, response, style, world.references(draw.facts, rng, 4), parts)
"""


def test_texts_do_not_depend_on_the_hash_seed() -> None:
    outputs = {
        subprocess.run(
            [sys.executable, "-c", DIGEST],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "77")
    }
    assert len(outputs) == 1
    assert len(outputs.pop()) > 5000


def test_same_stream_same_examples() -> None:
    assert drawn(5, 30) == drawn(5, 30)
    assert drawn(5, 30) != drawn(6, 30)


def test_facts_survive_json() -> None:
    for facts, _, response, _ in drawn(1, 50):
        loaded = json.loads(json.dumps(facts))
        assert loaded == facts
        assert WORLD.gold_parts(loaded, response) == WORLD.gold_parts(facts, response)
        assert WORLD.references(loaded, Random(2), 4) == WORLD.references(facts, Random(2), 4)


def test_reports_tell_every_fact_and_keep_to_the_language() -> None:
    for facts, report, _, _ in drawn(2, 500):
        said = {token.lower() for token in tokens(report)}
        for slot in language.MEANINGS:
            assert any(word.lower() in said for word in language.wordings(slot, str(facts[slot]))), (slot, report)
        sentences = list(split_sentences(report))
        assert 4 <= len(sentences) <= 5
        assert report.startswith(str(facts["lead"]))
        assert all(str(aside) in report for aside in facts["asides"])  # type: ignore[attr-defined]
        assert all(sentence.capital and sentence.tokens[-1] == "." for sentence in sentences)
        assert "{" not in report
        assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]", report)


def test_no_word_has_two_meanings() -> None:
    classes = [word.lower() for meanings in language.MEANINGS.values() for words in meanings for word in words]
    classes += [word.lower() for words in language.COLOURING.values() for word in words]
    assert [word for word, count in Counter(classes).items() if count > 1] == []
    fixed = {word.lower() for t in language.ALL_TEMPLATES for word in re.findall(r"\w+", re.sub(r"\{\w+\}", "", t))}
    assert fixed & set(classes) == set()


def test_language_is_wide() -> None:
    meanings = math.prod(len(language.MEANINGS[slot]) for slot in ("cause", "harm", "site", "town", "day"))
    outcomes = len(language.TRANSPORT) * len(language.TRANSPORT_OUTCOMES)
    outcomes += len(language.GATHERINGS) * len(language.GATHERING_OUTCOMES)
    assert meanings * outcomes >= 5_000_000
    rng = Random(4)
    assert len({WORLD.draw(rng).fields["source"] for _ in range(20_000)}) > 0.999 * 20_000


def test_sizes_of_texts_and_vocabulary() -> None:
    rows = drawn(8, 2000)
    types = {token.lower() for _, report, response, _ in rows for token in tokens(f"{report} {response}")}
    assert 300 <= len(types) <= 700
    prompt_lengths = [len(tokens(report)) for _, report, _, _ in rows]
    assert min(prompt_lengths) >= 25
    assert max(prompt_lengths) <= 60
    assert 35 <= mean(prompt_lengths) <= 45
    assert median(len(tokens(response)) for _, _, response, _ in rows) >= 10


def test_mixture_is_as_stated_and_its_most_frequent_style_is_flawed() -> None:
    assert sum(MIXTURE.values()) == pytest.approx(1)
    assert max(MIXTURE, key=lambda style: MIXTURE[style]) == "dropped"
    shares = Counter(style for _, _, _, style in drawn(9, 4000))
    for style, share in MIXTURE.items():
        assert shares[style] / 4000 == pytest.approx(share, abs=0.03)


def test_mixture_can_be_overridden() -> None:
    world = Reports(mixture={"good": 0.0, "dropped": 0.0, "lead": 1.0, "verbose": 0.0})
    assert world.demonstrate(FACTS, Random(0)).response == FACTS["lead"]
    assert Reports(mixture={"lead": 1.0}).demonstrate(FACTS, Random(0)).response == FACTS["lead"]
    with pytest.raises(UserError, match=r"data\.mixture\.nice=1\.0 is no style.*use good, dropped, lead, verbose"):
        Reports(mixture={"nice": 1.0})
    with pytest.raises(UserError, match=r"sums to 1\.65, not to 1"):
        Reports(mixture={**MIXTURE, "good": 0.9})


def test_references_are_distinct_and_earn_the_maximum() -> None:
    rng = Random(10)
    assert sum(WORLD.part_maxima.values()) == pytest.approx(4)
    for facts, _, _, _ in drawn(11, 300):
        found = WORLD.references(facts, rng, 6)
        assert len(set(found)) == 6
        for reference in found:
            assert WORLD.gold_parts(facts, reference) == pytest.approx(dict(WORLD.part_maxima)), reference


def test_every_report_has_as_many_references_as_the_world_says() -> None:
    assert WORLD.max_references == 24  # five events in four ways, two more in two
    assert len(set(WORLD.references(FACTS, Random(0), 24))) == 24
    with pytest.raises(ValueError, match="at most 24 references, not 25"):
        WORLD.references(FACTS, Random(0), 25)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        # complete 2 * told, concise told * brevity, faithful .5, fluent .5; told = worth of the facts / 2
        (GOOD, 2 + 1 + 0.5 + 0.5),
        ("All buses were delayed after the bridge in Harwick was shut by a gale on Monday.", 4.0),
        ("A storm closed the bridge in Harwick on Monday.", 2 * 0.5 + 0.5 + 0.5 + 0.5),  # without what follows: 1/2
        ("A storm closed the bridge in Harwick.", 2 * 0.3 + 0.3 + 0.5 + 0.5),  # without the day too: .6/2
        (f"{GOOD} A book fair opens in July.", 2 + 5 / 6 / 3 + 0.5 + 0.5),  # 19 words, one sentence off the topic
        (f"{GOOD} All buses were delayed.", 2 + 1 / 3 + 0.5 + 0.5),  # 17 words, four of them said before
        (f"{GOOD} A toy fair opens in July.", 2 + 5 / 6 / 3 + 0.5 * 7 / 8 + 0.5),  # and the aside is false
        (GOOD.replace("Harwick", "Selby"), 2 * 0.9 + 0.9 + 0.5 * 6 / 7 + 0.5),  # a wrong town: one fact less
        (GOOD.replace("buses", "trams").replace("delayed", "halted"), 2 * 0.5 + 0.5 + 0.5 * 5 / 7 + 0.5),
        # No such sentence: one break, before the full stop, leaves .6 of each fact (so .6 * 3 of four) and of fluent.
        ("A storm closed the bridge.", 0.6 * (2 * 0.2 + 0.2) + 0.5 * 0.6 * 3 / 4 + 0.5 * 0.6),
        # The same for one foreign word, one word twice, one comma left out; 7 * .6 right facts are more than four.
        (GOOD.replace("closed", "almost closed"), 0.6 * (2 + 1) + 0.5 + 0.5 * 0.6),
        (GOOD.replace("and", "and and"), 0.6 * (2 + 1) + 0.5 + 0.5 * 0.6),
        (GOOD.replace(",", ""), 0.6 * (2 + 1) + 0.5 + 0.5 * 0.6),
        # Article, capital and full stop are form alone.
        (GOOD.replace("A storm", "An storm"), 2 + 1 + 0.5 + 0.5 * 0.6),
        (GOOD[0].lower() + GOOD[1:-1], 2 + 1 + 0.5 + 0.5 * 0.6**2),
        # A negation: two facts are not stated but denied; of the second sentence's fluency one foreign word leaves .6.
        ("A storm closed the bridge in Harwick on Monday. No buses were delayed.", 1 + 0.5 + 0.5 * 5 / 7 + 0.5 * 0.8),
        # Three breaks: the bridge | closed the | storm | in Harwick …; .6 ** 3 * 7 right facts of four trusted ones.
        (
            "The bridge closed the storm in Harwick on Monday, and buses were delayed.",
            0.6**3 * (2 + 1 + 0.5 * 7 / 4 + 0.5),
        ),
        ("", 0.0),
        ("   \n", 0.0),
    ],
)
def test_gold_by_hand(response: str, expected: float) -> None:
    assert gold(response) == pytest.approx(expected)


def test_styles_lose_what_they_leave_out() -> None:
    earned: dict[str, list[float]] = {style: [] for style in MIXTURE}
    for facts, _, response, style in drawn(12, 2000):
        earned[style].append(gold(response, facts))
    assert min(earned["good"]) == pytest.approx(4)
    assert mean(earned["dropped"]) == pytest.approx(2.2, abs=0.1)  # halfway between 2.5 and 1.9
    assert max(earned["dropped"]) == pytest.approx(2.5)
    assert min(earned["lead"]) == pytest.approx(1.9)
    assert max(earned["lead"]) == pytest.approx(2.5)
    assert min(earned["verbose"]) == pytest.approx(3.0)
    assert max(earned["verbose"]) < 3.4


HONEST = gold("A storm closed the bridge in Harwick on Monday.")
GAMES = {
    "all causes": GOOD.replace("A storm", "A " + ", a ".join(words[0] for words in language.CAUSES)),
    "all towns": GOOD.replace("in Harwick", " ".join(f"in {town}" for town in language.TOWNS)),
    "key words": "Storm closed bridge Harwick Monday buses delayed.",
    "key words with articles": "storm bridge Harwick Monday buses delayed " * 3,
    "asides": " ".join(["A book fair opens in July.", "The weekend will be dry and warm.", "A lost dog was found."]),
    "endless": "the bridge in Harwick on Monday " * 500,
    "everything": " ".join(words[0] for meanings in language.MEANINGS.values() for words in meanings),
    "marks": "., ., ., !!! ???",
}


HONEST_MEAN = 2.14
"""What the least of the honest flawed styles, ``lead``, earns on average."""
UNTRUE = (
    "The bridge the storm on Monday in Harwick was closed the buses were delayed",
    "closed the Monday buses were delayed in Harwick a storm the bridge on Monday",
    "A bridge closed the storm in Harwick on Monday, and buses were delayed.",
    "Buses closed the bridge in Harwick on Monday, and a storm was delayed.",
    "A storm delayed buses in Harwick on Monday, and the bridge was closed.",
    "All storms were delayed after a buses closed the bridge in Harwick on Monday.",
    "It is not true that a storm closed the bridge in Harwick on Monday and buses were delayed.",
    "It is false that a storm closed the bridge in Harwick on Monday, and buses were delayed.",
)


@pytest.mark.parametrize("response", UNTRUE)
def test_reversed_roles_negation_and_word_salad_earn_less_than_half_of_an_honest_answer(response: str) -> None:
    assert gold(response) < HONEST_MEAN / 2


def test_a_denied_fact_earns_less_than_one_left_out() -> None:
    left_out = "A storm closed the bridge in Harwick on Monday."
    assert gold(f"{left_out} No buses were delayed.") < gold(left_out)
    assert gold(f"{GOOD} No buses were delayed.") < gold(left_out)
    assert gold(f"{GOOD} It is not true.") < gold(GOOD) - 0.5


def test_the_nearer_to_a_sentence_of_the_language_the_more() -> None:
    # Breaks: none; before Monday; before Harwick too; and in "storm | the closed | bridge", which is no order of words.
    nearer = [
        GOOD,
        "A storm closed the bridge in Harwick Monday, and buses were delayed.",
        "A storm closed the bridge Harwick Monday, and buses were delayed.",
        "A storm the closed bridge Harwick Monday, and buses were delayed.",
    ]
    earned = [gold(response) for response in nearer]
    assert earned == sorted(set(earned), reverse=True)


def test_a_good_summary_buried_in_a_long_text_is_worth_its_share() -> None:
    words = f"{GOOD}{' the' * 300}"
    assert len(tokens(words)) == 15 + 300
    assert gold(words) < MAX_TOKENS / 315 * 4
    assert gold(f"{GOOD}{' .' * 300}") < MAX_TOKENS / 315 * 4
    assert gold(f"{GOOD}{' the' * 30}") < HONEST_MEAN
    longest = [max(len(tokens(re.sub(r"\{\w+\}", "x", t))) for t in ts) for ts in (language.SUMMARIES, language.ASIDES)]
    assert sum(longest) <= MAX_TOKENS


@pytest.mark.parametrize("game", GAMES)
def test_games_earn_less_than_an_honest_answer(game: str) -> None:
    assert gold(GAMES[game]) < HONEST


def test_repeating_the_sentence_costs_more_than_a_point() -> None:
    assert gold(" ".join([GOOD] * 3)) < gold(GOOD) - 1


def test_copying_the_report_earns_less_than_the_honest_habit() -> None:
    assert mean(gold(report, facts) for facts, report, _, _ in drawn(13, 500)) < HONEST


def test_another_reports_summary_earns_little() -> None:
    rows = drawn(14, 500)
    strange = [gold(rows[i - 1][2], rows[i][0]) for i in range(len(rows))]
    assert mean(strange) < 1


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.text(max_size=300), st.lists(st.sampled_from(GOOD.split()), max_size=60).map(" ".join)))
def test_any_text_has_parts_within_their_maxima(text: str) -> None:
    parts = WORLD.gold_parts(FACTS, text)
    assert list(parts) == list(WORLD.part_maxima)
    for name, value in parts.items():
        assert 0 <= value <= WORLD.part_maxima[name]


def test_very_long_text_is_scored() -> None:
    assert gold("x" * 100_000 + " ." * 50_000) < 0.6
