"""From rows to examples and pairs: what the columns hold in the task's terms, and what is wrong with a row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

from harness.config import CleaningConfig
from harness.data.cleaning import SHOWN, Cleaner, Tally
from harness.data.columns import BadRow, Columns, Empty, column_names
from harness.data.conversations import ASSISTANT, context_of, is_messages, is_transcript, split_reply, turns_of
from harness.data.rows import Row, no_rows
from harness.errors import UserError
from harness.types import Example, PairExample


class Made(NamedTuple):
    """What one row gives: an example, or one per turn of a dialogue, and its pair where it has one."""

    examples: list[Example]
    pair: PairExample | None


class Reader:
    """The examples and pairs of one split's rows, made one row at a time; what is found is counted in ``tally``.

    Args:
        rows: the rows, bad ones included.
        columns: which column holds what.
        label: split's name; starts every id.
        name: what the rows come from, for messages.
        max_bad_rows: rows that may be unusable (not JSON, a column missing, no text, an id twice).
        max_turns: most turns of context, where whole dialogues are taken apart (``dialog``).
        cleaning: what is dropped or set right, and counted, without being a bad row.
        speakers: the names in transcripts, the answering side's second.

    Iterating raises UserError where a mapped column is in no row, too many rows are bad, or none is left. Reading stops
    as soon as it is clear that too many are bad and enough of them can be shown.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        columns: Columns,
        *,
        label: str,
        name: str,
        max_bad_rows: int,
        max_turns: int = 5,
        cleaning: CleaningConfig | None = None,
        speakers: tuple[str, str] = ("Human", "Assistant"),
    ) -> None:
        self.rows, self.columns, self.label, self.name = rows, columns, label, name
        self.max_bad_rows, self.max_turns, self.speakers = max_bad_rows, max_turns, speakers
        self.cleaner = Cleaner(cleaning or CleaningConfig())
        self.tally = Tally()

    def __iter__(self) -> Iterator[Made]:
        seen_ids: set[bytes] = set()
        seen_columns: dict[str, None] = {}
        tally, good = self.tally, 0
        for row in self.rows:
            tally.rows += 1
            self.cleaner.changed = False
            try:
                made, identity = self._make(row)
                if identity is not None:
                    # 16 bytes stand for an id of any length: with a billion rows a false repeat is out of the question.
                    key = blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=16).digest()
                    if key in seen_ids:
                        raise BadRow(f"repeats the id {identity!r}")
                    seen_ids.add(key)
            except BadRow as problem:
                tally.add(row.place, problem, drop_empty=self.cleaner.config.drop_empty)
                if not good and row.values is not None and tally.rows <= 1000:
                    seen_columns.update(dict.fromkeys(column_names(row.values)))
                if tally.bad > self.max_bad_rows and len(tally.shown) == SHOWN:
                    break
                continue
            good += 1
            tally.normalised += self.cleaner.changed
            yield made
        self._judge(good, list(seen_columns))

    def _judge(self, good: int, columns: list[str]) -> None:
        """Raise the error that explains most: no rows, a column that no row has, too many bad rows, none left."""
        tally = self.tally
        if not tally.rows:
            raise no_rows(self.name)
        unmapped = self.columns.never_seen(columns) if columns and not good else None
        if unmapped:
            raise unmapped
        if tally.bad > self.max_bad_rows:
            shown = "; ".join(tally.shown)
            rule = f"is less than the {tally.bad} of {tally.rows} rows that cannot be used ({shown})"
            raise UserError("data.max_bad_rows", self.max_bad_rows, rule, "correct them, or allow so many bad rows")
        if not good:
            shown = (tally.shown + tally.shown_dropped)[0]
            raise UserError(self.name, None, f"has no row that can be used ({shown})", "correct the file")

    def _make(self, row: Row) -> tuple[Made, str | None]:
        """What a row gives, and its own id where ids are mapped."""
        if row.values is None:
            raise BadRow(row.problem)
        own = self._own_id(row.values)
        identity = f"{self.label}:{self.tally.rows if own is None else own}"
        whole = self._whole_pair(row.values, identity) if self.columns.whole_pairs else None
        pair = whole
        if whole is None and "rejected" in self.columns.mapping:
            pair = self._pair(row.values, identity)
        if self.columns.pairs_only:
            return Made([], pair), own
        if whole is not None and "dialog" not in self.columns.mapping:
            return Made([Example(identity, whole.fields, whole.chosen, [whole.chosen])], pair), own
        return Made(self._examples(row.values, identity), pair), own

    def _own_id(self, values: Mapping[str, Any]) -> str | None:
        if "id" not in self.columns.mapping:
            return None
        value = self.columns.get(values, "id")
        if value == "":
            raise BadRow("has an empty id")
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise BadRow(f"has an id of type {type(value).__name__}, not text or integer")
        return str(value)

    def _examples(self, values: Mapping[str, Any], identity: str) -> list[Example]:
        """The examples of one row: one, or one per turn of a whole dialogue."""
        mapped = self.columns.mapping
        if "dialog" in mapped:
            return self._dialogue(self.columns.get(values, "dialog"), identity)
        fields = self._fields(values)
        references = self._references(values) if "references" in mapped else []
        if "response" in mapped:
            response = self._reply(self.columns.get(values, "response"), "response")
        else:
            response = references[0] if references else self._reply(self.columns.get(values, "chosen"), "chosen")
        self._check_lengths(fields, [response, *references])
        return [Example(identity, fields, response, references or [response])]

    def _dialogue(self, value: Any, identity: str) -> list[Example]:
        """An example per turn after the first; where the turns have roles, per turn of the assistant's."""
        if isinstance(value, str) or is_messages(value):
            turns = turns_of(value, "dialog", self.speakers)
            texts = [self._text(turn.text, "dialog") for turn in turns]
            answers = [t for t, turn in enumerate(turns) if t and turn.role == ASSISTANT]
            if not answers:
                raise BadRow("has a dialog without a reply of the assistant")
        else:
            texts = self._texts(value, "dialog", least=2)
            answers = list(range(1, len(texts)))
        made = []
        for t in answers:
            context = texts[max(0, t - self.max_turns) : t]
            self.cleaner.check_lengths(context, [texts[t]])
            made.append(Example(f"{identity}-{t}", {"turns": context}, texts[t], [texts[t]]))
        return made

    def _whole_pair(self, values: Mapping[str, Any], identity: str) -> PairExample:
        """The pair of two conversations that are equal up to their last turn."""
        read = {}
        for name in ("chosen", "rejected"):
            context, reply = split_reply(turns_of(self.columns.get(values, name), name, self.speakers), name)
            read[name] = [self._text(turn, name) for turn in context], self._text(reply, name)
        (turns, chosen), (other, rejected) = read["chosen"], read["rejected"]
        if turns != other:
            raise BadRow("has chosen and rejected that differ before the last turn")
        fields = {"turns": turns, **self._fields(values, besides="turns")}
        return self._checked_pair(PairExample(identity, fields, chosen, rejected))

    def _pair(self, values: Mapping[str, Any], identity: str) -> PairExample:
        chosen, rejected = (self._reply(self.columns.get(values, name), name) for name in ("chosen", "rejected"))
        return self._checked_pair(PairExample(identity, self._fields(values), chosen, rejected))

    def _checked_pair(self, pair: PairExample) -> PairExample:
        if pair.chosen == pair.rejected:
            raise BadRow("has equal chosen and rejected responses")
        self._check_lengths(pair.fields, [pair.chosen, pair.rejected])
        return pair

    def _check_lengths(self, fields: Mapping[str, Any], responses: list[str]) -> None:
        parts = [part for value in fields.values() for part in (value if isinstance(value, list) else [value])]
        self.cleaner.check_lengths(parts, responses)

    def _fields(self, values: Mapping[str, Any], besides: str = "") -> dict[str, Any]:
        needed = [name for name in self.columns.required_fields if name != besides]
        read = {name: self.columns.get(values, name) for name in needed}
        return {
            name: self._context(value) if name == "turns" else self._text(value, name) for name, value in read.items()
        }

    def _context(self, value: Any) -> list[str]:
        if isinstance(value, str) and not is_transcript(value, self.speakers):
            return [self._text(value, "turns")]
        if isinstance(value, str) or is_messages(value):
            turns = context_of(turns_of(value, "turns", self.speakers), "turns")
            return [self._text(turn, "turns") for turn in turns]
        return self._texts(value, "turns")

    def _reply(self, value: Any, name: str) -> str:
        """A response: a text, or a list of messages that ends with it."""
        if not is_messages(value):
            return self._text(value, name)
        turns = turns_of(value, name, self.speakers)
        if not turns or turns[-1].role != ASSISTANT:
            raise BadRow(f"has {name} that does not end with the assistant's message")
        return self._text(turns[-1].text, name)

    def _references(self, values: Mapping[str, Any]) -> list[str]:
        value = self.columns.get(values, "references")
        if isinstance(value, list) and not is_messages(value):
            return self._texts(value, "references")
        return [self._reply(value, "references")]

    def _texts(self, value: Any, name: str, *, least: int = 1) -> list[str]:
        if value is None:
            raise Empty(f"has no {name} (null)")
        if not isinstance(value, list):
            raise BadRow(f"has {name} of type {type(value).__name__}, not a list")
        if len(value) < least:
            raise Empty(f"has {len(value)} of {name}, fewer than {least}")
        return [self._text(part, name) for part in value]

    def _text(self, value: Any, name: str) -> str:
        if value is None:
            raise Empty(f"has no {name} (null)")
        if not isinstance(value, str):
            raise BadRow(f"has {name} of type {type(value).__name__}, not text")
        return self.cleaner.text(value, name)
