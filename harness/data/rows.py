"""Rows of a data file on disk, whatever its format, each with the place that an error message can name."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from harness.data.files import format_of
from harness.errors import UserError

_DECODER = json.JSONDecoder()
_BLOCK = 1 << 16
_SPACE = re.compile(r"[ \t\r\n]*")


class Row(NamedTuple):
    """A row as the file has it, or the reason why it cannot be read.

    Args:
        place: file and line (or row, in files without lines), for messages.
        values: column -> value; None for a bad row.
        problem: why the row is bad; empty for a good one.
    """

    place: str
    values: dict[str, Any] | None
    problem: str = ""


def no_rows(name: str) -> UserError:
    """What to raise of a file, or another source of rows, that is empty."""
    return UserError(name, None, "has no rows", "give a file with data in it")


def read_rows(path: Path) -> Iterator[Row]:
    """All rows of a file, bad ones included.

    json holds a list of objects or one object per line, jsonl one object per line, csv a header and UTF-8 text (a cell
    with a JSON list of strings and nulls, the empty one too, is read as that list), arrow either of Arrow's two forms.

    Raises:
        UserError: where the file as a whole cannot be read.
    """
    ending = (format_of(path) or "").removesuffix(".gz")
    try:
        if ending in ("parquet", "arrow"):
            yield from _table_rows(path, ending)
            return
        with _open(path) as stream:
            yield from _csv_rows(path, stream) if ending == "csv" else _json_rows(path, stream, ending)
    except (OSError, EOFError, zlib.error, csv.Error, UnicodeDecodeError) as error:
        rule = f"cannot be read: {type(error).__name__}: {error}"
        raise UserError(
            str(path), None, rule, "check that the file is whole and has the format that its name says"
        ) from None


def _open(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _json_rows(path: Path, stream: IO[bytes], ending: str) -> Iterator[Row]:
    start = cast(io.BufferedReader, stream).peek(64)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(str(path), None, "is UTF-16 text", "save it as UTF-8")
    if ending == "json" and start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        yield from _json_list_rows(path, stream)
        return
    for number, line in enumerate(stream, 1):
        if line.strip():
            yield _checked(f"{path.name}:{number}", line)


def _checked(place: str, line: bytes) -> Row:
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return Row(place, None, f"is not UTF-8 text (byte {error.start + 1} of the line)")
    except (ValueError, RecursionError) as error:
        return Row(place, None, f"is not JSON ({error})")
    return _object(place, value)


def _object(place: str, value: Any) -> Row:
    return Row(place, value) if isinstance(value, dict) else Row(place, None, "is not a JSON object")


def _json_list_rows(path: Path, stream: IO[bytes]) -> Iterator[Row]:
    """The elements of one JSON list, one at a time: the list need not fit into memory."""
    text = _JsonText(stream)
    try:
        text.take()
        sign = "]" if text.peek() == "]" else ","
        while sign == ",":
            text.peek()
            place = f"{path.name}:{text.line}"
            yield _object(place, text.value())
            sign = text.peek()
            if sign == ",":
                text.take()
            elif sign != "]":
                raise ValueError(f"{sign!r} stands where a comma or the end must be" if sign else "it has no end")
        text.take()
        if rest := text.peek():
            raise ValueError(f"{rest!r} stands after its end")
    except (ValueError, RecursionError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise
        rule = f"is not a JSON list (near line {text.line}: {error})"
        raise UserError(str(path), None, rule, "correct it, or write one object per line (jsonl)") from None


class _JsonText:
    """JSON text, read from a stream as far as it is needed; ``line`` is the number of the line that was reached."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.line = 1
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._at = "", 0

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self._advance(space.end() if space else self._at)
            if self._at < len(self._text) or not self._read():
                return self._text[self._at : self._at + 1]

    def take(self) -> None:
        """Go past the next character that is not white space."""
        if self.peek():
            self._advance(self._at + 1)

    def value(self) -> Any:
        """The next value; raises ValueError or RecursionError where there is none."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # A value that is cut short fails at the end of what was read, or in a text that does not end.
                cut_short = error.pos > len(self._text) - 16 or error.msg.startswith("Unterminated string")
                if not cut_short or not self._read():
                    raise ValueError(error.msg) from None
                continue
            # A number may go on in what is not read yet.
            if end < len(self._text) or not self._read():
                self._advance(end)
                return value

    def _advance(self, to: int) -> None:
        self.line += self._text.count("\n", self._at, to)
        self._at = to

    def _read(self) -> bool:
        """Read as much again as is left, so that a value of any length is tried a few times at most."""
        rest = self._text[self._at :]
        block = self._stream.read(max(_BLOCK, len(rest)))
        self._text, self._at = rest + self._decoder.decode(block, final=not block), 0
        return bool(block)


def _csv_rows(path: Path, stream: IO[bytes]) -> Iterator[Row]:
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        reader = csv.reader(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""), strict=True)
        header = next(reader, [])
        _check_header(path, header)
        while True:
            line = reader.line_num + 1
            place = f"{path.name}:{line}"
            try:
                cells = next(reader, None)
            except csv.Error as error:
                # Only a quote that is left open reaches the end: all rows behind it would be one cell.
                if "unexpected end" in str(error):
                    rule = f"has a row, of line {line}, with a quote that is never closed"
                    raise UserError(
                        str(path), None, rule, "close it; a quote inside a quoted cell is doubled"
                    ) from None
                lines = f", up to line {reader.line_num}" if reader.line_num > line else ""
                yield Row(place, None, f"is not CSV ({error}{lines})")
                continue
            if cells is None:
                return
            if not cells:
                continue
            if len(cells) != len(header):
                yield Row(place, None, f"has {len(cells)} cells where the header has {len(header)}")
            else:
                yield Row(place, {name: _cell(cell) for name, cell in zip(header, cells, strict=True)})
    finally:
        csv.field_size_limit(before)


def _check_header(path: Path, header: Sequence[str]) -> None:
    """Columns without a name may be several: a table's program leaves empty ones behind."""
    for place, name in enumerate(header):
        if name and name in header[:place]:
            raise UserError(str(path), None, f"has two columns {name!r}", "give each a name of its own")


def _cell(text: str) -> str | list[str | None]:
    if text.startswith("[") and text.endswith("]"):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return text
        if all(part is None or isinstance(part, str) for part in value):
            return value  # type: ignore[no-any-return]
    return text


def _table_rows(path: Path, ending: str) -> Iterator[Row]:
    import pyarrow as pa  # type: ignore[import-untyped]

    number = 0
    try:
        for batch in _batches(path, ending):
            for values in batch.to_pylist():
                number += 1
                yield Row(f"{path.name} row {number}", values)
    except pa.ArrowException as error:
        raise OSError(error) from error


def _batches(path: Path, ending: str) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet  # type: ignore[import-untyped]

    if ending == "parquet":
        with pyarrow.parquet.ParquetFile(path) as table:
            yield from table.iter_batches(batch_size=1024)
        return
    with pa.memory_map(str(path)) as source:
        whole_file = source.read(6) == b"ARROW1"
        source.seek(0)
        if whole_file:
            reader = pa.ipc.open_file(source)
            yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            yield from pa.ipc.open_stream(source)
