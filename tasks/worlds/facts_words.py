"""The kinds of fact that the question-answering world can state, with their words and their wordings.

A fact has a head and two modifiers: ``pre`` stands before the head ("small" bakery), ``post`` says more about it (in
"Lindow"). Every slot word is one token and belongs to one class of one kind, so that a small model can learn to copy it
by attention.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple


class Frame(NamedTuple):
    """How a kind of fact is stated of a person and asked about: the verb with its complements, and the question."""

    verb: str
    question: str


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fact.

    Args:
        name: key of the kind in the latent facts.
        frames: statements and the questions that belong to them.
        phrases: the valid wordings of the answer; the first also completes the verb in the context. What stands in
            square brackets goes with ``{post}`` and is left out together with it.
        pre: modifiers before the head.
        head: what the question asks for.
        post: modifiers after the head.
    """

    name: str
    frames: tuple[Frame, ...]
    phrases: tuple[str, ...]
    pre: tuple[str, ...]
    head: tuple[str, ...]
    post: tuple[str, ...]


def skeleton(phrase: str, *, pre: bool, post: bool) -> tuple[str, ...]:
    """The tokens of a wording with its modifiers kept or left out, slots still open.

    >>> skeleton("a {pre} {head}[ in {post}]", pre=True, post=False)
    ('a', '{pre}', '{head}')
    """
    kept = re.sub(r"\[([^]]*)\]", r"\1" if post else "", phrase)
    return tuple(token for token in kept.split() if pre or token != "{pre}")


def fill(tokens: tuple[str, ...], slots: dict[str, str]) -> str:
    """The text of a skeleton with the slots' words put in."""
    return " ".join(tokens).format(**slots).replace(" ,", ",")


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


WOMEN = _words(
    "Maria Anna Clara Julia Sofia Emma Greta Helen Nora Lena Ruth Martha Paula Irene Vera Alice Judith Frida Olga Rosa"
)
MEN = _words(
    "Peter Jonas Paul Simon Victor Martin Oscar David Hugo Thomas Anton Karl Leon Philip Ralph Stefan Walter Arthur "
    "Emil Nils"
)
SURNAMES = _words(
    "Brandt Keller Moreau Novak Lindgren Rossi Fischer Murphy Santos Weber Hansen Costa Turner Visser Kovacs "
    "Berger Olsen Dubois Walsh Meyer"
)

KINDS: tuple[Kind, ...] = (
    Kind(
        "business",
        (
            Frame("runs", "What does {name} run?"),
            Frame("owns", "What does {name} own?"),
            Frame("manages", "What does {name} manage?"),
        ),
        (
            "a {pre} {head}[ in {post}]",
            "a {pre} {head}[ located in {post}]",
            "a {pre}[ {post}] {head}",
            "[in {post} , ]a {pre} {head}",
            "a {pre} {head}[ based in {post}]",
        ),
        _words("small busy quiet cosy modern famous tidy narrow"),
        _words("bakery bookshop pharmacy cinema hotel laundry gallery restaurant nursery garage tavern florist"),
        _words("Lindow Bremen Leeds Porto Ghent Krakow Bergen Turin Lyon Cork Malmo Basel"),
    ),
    Kind(
        "date",
        (
            Frame("moved abroad", "When did {name} move abroad?"),
            Frame("got married", "When did {name} get married?"),
            Frame("left school", "When did {name} leave school?"),
            Frame("joined the navy", "When did {name} join the navy?"),
        ),
        (
            "in[ the] {pre}[ {post} of] {head}",
            "in {pre}[ {post}] {head}",
            "[the] {pre}[ {post} of] {head}",
            "{pre}[ in the {post} of] {head}",
            "{pre}[ {post}] {head}",
        ),
        _words("early late"),
        tuple(str(year) for year in range(1976, 2000)),
        _words("spring summer autumn winter"),
    ),
    Kind(
        "home",
        (
            Frame("lives", "Where does {name} live?"),
            Frame("spends every weekend", "Where does {name} spend every weekend?"),
        ),
        (
            "in a {pre} {head}[ near the {post}]",
            "in a {pre} {head}[ close to the {post}]",
            "a {pre} {head}[ near the {post}]",
            "[near the {post} , ]in a {pre} {head}",
            "in a {pre} {head}[ by the {post}]",
        ),
        _words("yellow red white blue green grey brown pink"),
        _words("cottage house flat farmhouse cabin villa bungalow caravan houseboat hut"),
        _words("harbour station lake market forest river church park beach bridge castle"),
    ),
    Kind(
        "pet",
        (
            Frame("has", "What pet does {name} have?"),
            Frame("looks after", "What pet does {name} look after?"),
        ),
        (
            "a {pre} {head}[ called {post}]",
            "a {pre} {head}[ named {post}]",
            "[{post} , ]a {pre} {head}",
            "a {pre} {head}[ by the name of {post}]",
            "a {pre} {head}[ whose name is {post}]",
        ),
        _words("shy lazy playful clever fat noisy gentle curious greedy"),
        _words("cat dog parrot rabbit pony hamster goat donkey turtle canary"),
        _words("Momo Rex Luna Pepper Biscuit Bella Toffee Felix Misty Rusty"),
    ),
    Kind(
        "dish",
        (
            Frame("often cooks", "What does {name} often cook?"),
            Frame("likes to eat", "What does {name} like to eat?"),
        ),
        (
            "{pre} {head}[ with {post}]",
            "some {pre} {head}[ with {post}]",
            "{pre} {head}[ made with {post}]",
            "{pre} {head}[ and {post}]",
            "{pre} {head}[ that contains {post}]",
        ),
        _words("spicy creamy hot sour sweet salty thick crisp"),
        _words("soup stew rice pasta porridge curry salad bread pizza cake"),
        _words("ginger garlic lemon mushrooms cheese mint honey nuts spinach tomatoes"),
    ),
    Kind(
        "instrument",
        (
            Frame("plays", "What does {name} play?"),
            Frame("practises", "What does {name} practise?"),
        ),
        (
            "a {pre} {head}[ in the {post}]",
            "the {pre} {head}[ in the {post}]",
            "a {pre} {head}[ with the {post}]",
            "[in the {post} , ]a {pre} {head}",
            "a {pre} {head}[ as part of the {post}]",
        ),
        _words("borrowed wooden rented precious battered replica baroque"),
        _words("violin flute trumpet cello guitar drum clarinet harp banjo trombone"),
        _words("orchestra band choir quartet circus opera parade trio"),
    ),
)
