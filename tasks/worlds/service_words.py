"""The words of the customer service world: who asks, for what, in which phrases, and how a desk may answer."""

from __future__ import annotations

from typing import NamedTuple


def _split(line: str) -> tuple[str, ...]:
    return tuple(line.split())


NAMES = _split(
    "Anna Bruno Carla David Elena Felix Greta Henry Ingrid James Karin Lucas Maria Nina Oscar Paula Ralph Sofia Thomas "
    "Ursula Victor Wendy Yusuf Zoe Alice Boris Clara Daniel Emma Frank Helen Igor Julia Kevin Laura Martin Nora Olga "
    "Peter Rita Simon Tara Vera Walter Amir Diana Erik Fatima"
)
PLACES = _split(
    "Boston Leeds Oxford Dublin Vienna Geneva Lisbon Madrid Prague Warsaw Athens Berlin Bergen Bristol Calgary Cardiff "
    "Chicago Denver Dover Florence Galway Hamburg Helsinki London Lyon Milan Munich Naples Oslo Paris Porto Rome "
    "Seattle Toronto Utrecht Zurich"
)
DAYS = _split("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
CODEWORDS = _split(
    "Falcon Maple River Comet Tulip Anchor Badger Canyon Dolphin Ember Forest Glacier Harbor Island Jasmine Koala "
    "Lemon Meadow Nectar Orchid Panther Quartz Raven Saffron"
)
RELATIVES = _split("mother father sister brother daughter son aunt uncle grandmother cousin")


class Desk(NamedTuple):
    """One business: its name, what it offers, the acts and rules of ``ACTS`` and ``RULES`` it knows, its next steps."""

    title: str
    items: tuple[str, ...]
    acts: tuple[str, ...]
    rules: tuple[str, ...]
    steps: tuple[str, ...]


BOOKING_ACTS = ("book", "move", "refund", "again")
BOOKING_RULES = ("late", "receipt", "privacy", "code", "notice")
DESKS = {
    "hotel": Desk(
        "Park Hotel",
        ("room", "suite", "studio", "cottage", "cabin"),
        BOOKING_ACTS,
        BOOKING_RULES,
        ("Check-in (opens|starts) at noon", "Please show your passport (on arrival|at the door)"),
    ),
    "railway": Desk(
        "railway office",
        ("ticket", "seat", "sleeper", "compartment", "carriage"),
        BOOKING_ACTS,
        BOOKING_RULES,
        ("Please be at the platform (early|in good time)", "You will find the platform (number|details) in our app"),
    ),
    "restaurant": Desk(
        "Garden Restaurant",
        ("table", "booth", "terrace", "balcony", "buffet"),
        BOOKING_ACTS,
        BOOKING_RULES,
        ("Please tell us about (any|your) allergies", "Please (call|ring) us if you are late"),
    ),
    "museum": Desk(
        "city museum",
        ("tour", "workshop", "lecture", "concert", "class"),
        BOOKING_ACTS,
        BOOKING_RULES,
        ("Please (come to|use) the main entrance", "Please leave large bags (at home|in the hall)"),
    ),
    "shop": Desk(
        "online shop",
        ("lamp", "kettle", "jacket", "camera", "radio", "blanket", "mirror", "clock", "carpet", "toaster", "helmet"),
        ("collect", "deliver", "refund", "replace"),
        ("late", "receipt", "privacy", "code", "accident", "notice"),
        ("You can follow the parcel (online|on our website)", "Please (check|open) the parcel at once"),
    ),
    "library": Desk(
        "town library",
        ("novel", "biography", "dictionary", "cookbook", "guidebook", "magazine", "songbook"),
        ("collect", "deliver", "replace"),
        ("privacy", "accident", "notice"),
        ("Please bring your library card( with you|)", "You will find us on the (first|second) floor"),
    ),
    "garage": Desk(
        "garage",
        ("car", "van", "scooter", "truck", "motorcycle", "trailer"),
        ("collect", "deliver", "repair"),
        ("privacy", "code", "notice"),
        ("Please bring the (keys|papers)( with you|)", "Our mechanic will (call|ring) you before the work"),
    ),
    "tailor": Desk(
        "tailor",
        ("dress", "coat", "suit", "gown", "shirt", "uniform"),
        ("collect", "deliver", "refund", "repair"),
        ("late", "receipt", "privacy", "code", "accident", "notice"),
        ("Please come for a (short|quick) fitting", "Please bring the (right|matching) shoes"),
    ),
}
ITEMS = tuple(item for desk in DESKS.values() for item in desk.items)
STEPS = (
    "A confirmation (will follow|is on its way) by (email|post)",
    "You will (get|receive) a message( from us|) soon",
)
REFUND_STEPS = ("Please bring the receipt( with you|)", "You will (get|receive) the money within a week")
"""Next steps: ``STEPS`` fit everywhere, ``REFUND_STEPS`` a refund, those of a ``Desk`` what else it grants."""

HELLOS = ("Hello", "Good morning", "Good afternoon", "Good evening", "Hi there", "Good day")
SIGNATURES = ("(Kind|Best|Warm) regards from {place}, {name}.", "(Many greetings|Greetings) from {place}, {name}.")
LEAD_INS = ("Can you help me?", "I have a (question|request).", "Do you have a moment?")
AGENT_OPENINGS = (
    "(Welcome to|You have reached) the {title}. (How can I help you|What can I do for you)?",
    "This is the {title}. (How can I help you|What can I do for you)?",
)
CODEWORD_REMARKS = ("My reference is {codeword}.", "You will find me under the reference {codeword}.")
BOOKING_REMARKS = ("There will be (two|three|four|five) of us.", "I am coming with my {relative}.")
GOODS_REMARKS = ("I need it for my {relative}.", "My {relative} is waiting for it.")


class Act(NamedTuple):
    """What a customer may ask for within the rules: the requests, and the sentences that grant it."""

    requests: tuple[str, ...]
    answers: tuple[str, ...]


DEFECTS = (
    "The {item} that I got from you is (damaged|not right). Can you see to it on {day}?",
    "There is a (fault|problem) with the {item} that you gave me. Can you solve it on {day}?",
    "I am not happy, because your {item} was (faulty|damaged). Please see to it on {day}.",
)
ACTS = {
    "book": Act(
        (
            "I would like to (book|reserve) a {item} for {day}.",
            "Could you please (book|reserve) a {item} for {day}?",
            "I am looking for a {item} on {day}.",
            "Is there still a free {item} on {day}?",
        ),
        (
            "(The|Your) {item} (is|has been) (booked|reserved) for {day}",
            "We have (booked|reserved) (the|your) {item} for {day}",
            "For {day}, we have (booked|reserved) (the|your) {item}",
        ),
    ),
    "move": Act(
        (
            "I would like to (move|change) my {item} to {day}.",
            "Could you please (move|change) my {item} to {day}?",
            "I already have a {item}, but I can only come on {day}.",
        ),
        (
            "(The|Your) {item} (is|has been) (moved|changed) to {day}",
            "We have (moved|changed) (the|your) {item} to {day}",
        ),
    ),
    "collect": Act(
        (
            "I would like to (collect|pick up) my {item} on {day}.",
            "Could I please (collect|pick up) the {item} on {day}?",
            "When is my {item} ready? I have time on {day}.",
        ),
        (
            "(The|Your) {item} will be (ready|waiting) for you on {day}",
            "You can (collect|pick up) (the|your) {item} on {day}",
            "On {day}, (the|your) {item} will be (ready|waiting)",
        ),
    ),
    "deliver": Act(
        (
            "Could you please (deliver|bring) the {item} on {day}?",
            "I would like you to (deliver|bring) my {item} on {day}.",
            "I am at home on {day}. Please (deliver|bring) the {item} then.",
        ),
        (
            "We will (deliver|bring) (the|your) {item} on {day}",
            "(The|Your) {item} will (be delivered|arrive) on {day}",
            "On {day}, we will (deliver|bring) (the|your) {item}",
        ),
    ),
    "refund": Act(
        (
            "Please refund the {item} on {day}. I paid (yesterday|last week) and kept the receipt.",
            "I would like a refund for the {item} on {day}. I have the receipt and paid (yesterday|last week).",
        ),
        (
            "We will (refund|pay back) (the|your) {item} on {day}",
            "On {day}, we will (refund|pay back) (the|your) {item}",
            "(The|Your) {item} will be refunded on {day}",
        ),
    ),
    "again": Act(
        (
            "My last {item} was a (disappointment|disaster). Can I have another one on {day}?",
            "I am not happy, because my {item} was too (loud|cold). I want another one on {day}.",
        ),
        (
            "You will (get|receive) (another|a better) {item} on {day}",
            "On {day}, you will (get|receive) (another|a better) {item}",
            "We have (booked|reserved) (another|a better) {item} for you on {day}",
        ),
    ),
    "replace": Act(
        DEFECTS,
        (
            "We will (replace|exchange) (the|your) {item} on {day}",
            "On {day}, we will (replace|exchange) (the|your) {item}",
            "(The|Your) {item} will be (replaced|exchanged) on {day}",
        ),
    ),
    "repair": Act(
        DEFECTS,
        (
            "We will (repair|mend) (the|your) {item} on {day}",
            "On {day}, we will (repair|mend) (the|your) {item}",
            "(The|Your) {item} will be (repaired|mended) on {day}",
        ),
    ),
}
COMPLAINTS = ("again", "replace", "repair")
"""Acts that begin with a fault of the house, for which it apologises."""
DAY_REMARKS = ("I can come by on {day}.", "Please answer before {day}.")


class Rule(NamedTuple):
    """A rule of the house and how a customer runs into it.

    Args:
        requests: the customer's words, from which it can be read that the rule is broken.
        refusals: sentences that decline and name the rule.
        alternatives: what the desk can do instead.
        promises: sentences that grant the request all the same, which no agent may.
    """

    requests: tuple[str, ...]
    refusals: tuple[str, ...]
    alternatives: tuple[str, ...]
    promises: tuple[str, ...]


REFUND = "I (would like|want) (a refund|my money back) for the {item}."
RULES = {
    "late": Rule(
        (f"{REFUND} I paid for it (two|three) years ago.", f"{REFUND} I paid for it (last|the other) year."),
        (
            "We cannot (refund|pay back) the {item} after (so long|thirty days)",
            "After (so long|thirty days), we cannot (refund|pay back) the {item}",
            "A refund for the {item} is not possible after (so long|thirty days)",
        ),
        ("We can (offer|give) you a voucher instead", "You could choose (a voucher|store credit) instead"),
        ("We will (refund|pay back) the {item} in full",),
    ),
    "receipt": Rule(
        (f"{REFUND} Sadly, I (lost|cannot find) the receipt.", f"{REFUND} I (threw away|never kept) the receipt."),
        (
            "We cannot (refund|pay back) the {item} without (a|the) receipt",
            "Without (a|the) receipt, we cannot (refund|pay back) the {item}",
            "A refund for the {item} is not possible without (a|the) receipt",
        ),
        ("A bank statement would (help us|be enough)", "Please (send|show) us a bank statement instead"),
        ("We will (refund|pay back) the {item} in full",),
    ),
    "privacy": Rule(
        (
            "My (neighbour|boss|friend) got a {item} from you. Please tell me (the price|all about it).",
            "I want to know who paid for the {item} of my (neighbour|boss|friend).",
        ),
        (
            "We cannot (share|discuss) the {item} of another customer",
            "The {item} of another customer (is|must stay) private",
        ),
        ("Please ask the other person to (call|contact) us", "The other person is welcome to (call|contact) us"),
        ("We will (send|tell) you all the details of the {item}",),
    ),
    "code": Rule(
        (
            "I want the {item} at half price. My discount code (expired|ran out) last month.",
            "I have an (old|expired) discount code. Please use it for the {item}.",
        ),
        (
            "We cannot (use|accept) an (old|expired) code for the {item}",
            "An (old|expired) code is not valid for the {item}",
            "For the {item}, we cannot (use|accept) an (old|expired) code",
        ),
        ("Our club (offers|has) new discounts", "You can (get|find) a new discount in our newsletter"),
        ("You will (get|receive) the {item} at half price",),
    ),
    "accident": Rule(
        (
            "I dropped the {item} (at home|on the stairs) myself. I want a new one for free.",
            "I broke the {item} myself. Please give me (another|a new) one for free.",
        ),
        (
            "We cannot (replace|exchange) a broken {item} for free",
            "After an accident, we cannot (replace|exchange) the {item}",
            "A new {item} is not possible after an accident",
        ),
        ("We can (mend|repair) it for a small fee", "Our people can (mend|repair) it cheaply"),
        ("We will give you a new {item}",),
    ),
    "notice": Rule(
        (
            "I need a {item} (in ten minutes|within the hour).",
            "Get me a {item} right now, I am (standing outside|already here).",
        ),
        (
            "We cannot (arrange|prepare) the {item} at such short notice",
            "At such short notice, we cannot (arrange|prepare) the {item}",
            "The {item} is not possible at such short notice",
        ),
        ("We can put you on the waiting list", "You can (come|try) again on a later day"),
        ("The {item} will be ready in (ten minutes|no time)",),
    ),
}
THANKS = (
    "Thank you( very much| for your message| for asking|)",
    "Many thanks( for your message| for asking|)",
    "With( great|) pleasure",
    "It is good to hear from you",
)
APOLOGIES = (
    "I am( very| truly|) sorry",
    "Our (apologies|sincere apologies)",
    "Please (accept our apologies|forgive us)",
)
CLOSING_THANKS = ("Thank you for (your message|asking|choosing us)",)
CLOSING_APOLOGIES = ("We are( very| truly|) sorry( about this|)",)

FREE_PROMISES = ("It (is|will be) (all|completely) free of charge", "You (do not have to|will not) pay anything")
VAGUE_GRANTS = ("We will take care of (it|everything)", "Your request is (in good hands|important to us)")
VAGUE_REFUSALS = ("This is (not easy|rather difficult) for us", "We will see what we can do")
WISHES = ("We wish you a (pleasant|lovely) day", "Have a (pleasant|lovely) day")
FILLERS = (
    "We have been here for (many|thirty) years",
    "Our whole team (works|has worked) hard every week",
    "A lot of people (write to|call) us these days",
    "Everyone here really loves this (work|job)",
)
