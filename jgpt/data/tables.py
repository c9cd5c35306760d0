"""Files of records with named columns: JSON lines, a JSON list, CSV and TSV.

Owns their syntax and the line each record stands on, ids that come twice, and the choice of a layout for a file.
`columns` makes examples of the records. Examples: `{"question": "2+3", "answer": "5"}` on a line; or a first line
`question,answer` and below it `2+3,5`.
"""

import csv
import io
import json
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Final, NoReturn

from jgpt.check import require
from jgpt.data.columns import Layout, example_of, layout_of
from jgpt.data.decoding import check_characters, decode_records
from jgpt.data.examples import placed
from jgpt.data.inputs import InputFile
from jgpt.data.read_log import BadRecord, KnownIds, ReadLog

LINES: Final = (".jsonl", ".ndjson")
SEPARATED: Final = {".csv": ",", ".tsv": "\t"}
TABLES: Final = (*LINES, *SEPARATED)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON: write null or a number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the fields of an object, none of which may stand twice: the first would be lost."""
    out = dict(pairs)
    if len(out) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"{twice!r} stands twice in one object: keep one of them")
    return out


DECODER: Final = json.JSONDecoder(  # made once: json.loads makes one a call
    parse_constant=_refuse, object_pairs_hook=_once
)
Row = tuple[int, Any]  # line in the file, from 1, and the record or the BadRecord that stands there


def read_table(
    file: InputFile, *, kind: str, columns: dict[str, str], encoding: str, log: ReadLog, seen: KnownIds
) -> tuple[Layout, list[Any]]:
    """Read the examples of a file in order.

    Args:
        file: with a suffix of `TABLES`, or `.json`.
        kind: "auto", or the kind of examples that are wanted.
        columns: `data.columns`.
        encoding: Python name of the encoding.
        log: gets the records that cannot be used.
        seen: ids of the files before.

    Raises:
        ValueError: a column is missing, the file is broken as a whole, or a record is bad and the log stops at it.
    """
    text = decode_records(file.load(), file.where, encoding)
    names, rows = rows_of(text, file.suffix, file.where, encoding)
    if not names:  # no record is an object: say why, before that no column is known
        rows = list(rows)
        for line, record in rows:
            if isinstance(record, BadRecord):
                log.bad(f"{file.where}, line {line}", str(record))
    layout = layout_of(names, where=file.where, kind=kind, columns=columns)
    examples: list[Any] = []
    for line, record in rows:
        place = f"{file.where}, line {line}"
        try:
            if isinstance(record, BadRecord):
                raise record
            example = placed(example_of(record, layout, encoding), place)
            if not _is_repeated(record.get(layout.columns.get("id", "")), line, example, file, seen, log):
                examples.append(example)
        except BadRecord as error:
            log.bad(place, str(error))
    return layout, examples


def rows_of(text: str, suffix: str, where: str, encoding: str) -> tuple[list[str], Iterable[Row]]:
    """Return the names of the columns of a file of records, and its rows.

    Args:
        text: of the file, as `decode_records` returns it.
        suffix: of `TABLES`; any other is a JSON list.
        where: the file, for messages.
        encoding: that it is in, for messages.

    Raises:
        ValueError: it is empty, its header is broken, or it is no JSON list.
    """
    require(bool(text.strip()), f"{where!r} is empty: put records into it, or pass another file.")
    if suffix in SEPARATED:
        return _separated(text, SEPARATED[suffix], where)
    rows = list(_lines(text, encoding) if suffix in LINES else _json_list(text, where))
    require(bool(rows), f"{where!r} holds an empty list: put records into it, or pass another file.")
    return names_of(record for _, record in rows), rows


def names_of(records: Iterable[Any]) -> list[str]:
    """Return the names of the fields of all records that are objects, each once, in order."""
    return list(dict.fromkeys(key for record in records if isinstance(record, dict) for key in record))


def parse_json(text: str) -> Any:
    """Parse JSON, which knows no NaN, and here no field twice in an object. Raises ValueError."""
    try:
        return DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _is_repeated(key: Any, line: int, example: Any, file: InputFile, seen: KnownIds, log: ReadLog) -> bool:
    """Return whether a record repeats an earlier one of its id. Raises BadRecord where they differ."""
    if key is None or key == "":
        return False
    if not isinstance(key, str | int):
        raise BadRecord(f"the id is {key!r}: use text or a whole number")
    return seen.repeats(str(key), example, file.where, f"on line {line}", log)


def _lines(text: str, encoding: str) -> Iterator[Row]:
    """Yield the records of JSON lines."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            check_characters(line, encoding)
            record = parse_json(line)
        except BadRecord as error:
            record = error
        except json.JSONDecodeError as error:
            record = BadRecord(f"is no JSON ({error.msg} at column {error.colno}): keep one whole object on every line")
        except ValueError as error:
            record = BadRecord(f"is no JSON ({error})")
        if not isinstance(record, dict | BadRecord):
            record = BadRecord('is JSON but no object: write {"name": value, ...} on every line')
        yield number, record


def _json_list(text: str, where: str) -> Iterator[Row]:
    """Yield the records of a JSON list of objects; one that does not parse makes the file unreadable."""
    at, line = text.index("[") + 1, text.count("\n", 0, text.index("[")) + 1
    between, first = re.compile(r"[ \t\r\n]*(,?)[ \t\r\n]*"), True
    while True:
        start = at
        match = between.match(text, at)
        at = match.end() if match else at
        line += text.count("\n", start, at)
        comma = bool(match and match[1])
        if text[at : at + 1] == "]":
            require(not comma, f"{where}, line {line}: is no JSON (a comma too many before the end): take it out.")
            rest = text[at + 1 :].lstrip()
            behind = line + text.count("\n", at, len(text) - len(rest))
            require(not rest, f"{where}, line {behind}: something follows the list: keep one list in a file.")
            return
        require(
            comma != first,
            f"{where}, line {line}: is no JSON (a comma {'too many' if comma else 'is missing'} before this).",
        )
        start, first = at, False
        try:
            record, at = DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}, line {line}: is no JSON ({error}): correct the file.") from None
        yield line, record if isinstance(record, dict) else BadRecord("is no object: write {...} for every record")
        line += text.count("\n", start, at)


def _separated(text: str, separator: str, where: str) -> tuple[list[str], Iterator[Row]]:
    """Return the names of the header and the rows below it; line ends, within cells too, are one newline."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    header = text.partition("\n")[0]
    if separator == "," and "," not in header and ";" in header:
        separator = ";"  # as spreadsheets write where the comma parts decimals
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # 131,072 characters by default: less than an article
    rows = _rows(text, separator)
    line, names = next(rows)
    if isinstance(names, BadRecord):
        raise ValueError(f"{where}, line {line}: {names}.")
    names = [name.strip() for name in names]
    double = sorted({name for name in names if names.count(name) > 1})
    require(not double, f"{where}, line {line}: the column(s) {double} stand twice in the header: rename one.")
    return names, _named(names, rows)


def _rows(text: str, separator: str) -> Iterator[Row]:
    """Yield the cells of every row with the line it begins on; empty lines are passed over."""
    lines = list(io.StringIO(text, newline=""))
    first = 0  # of the reader's lines, from 0
    reader = csv.reader(lines, delimiter=separator, strict=True)
    while True:
        line = first + reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            last = first + reader.line_num
            reach = f", in a quoted cell that reaches to line {last}" if last > line else ""
            yield line, BadRecord(f"is no row of a table ({error}{reach}): write quotes within a cell twice")
            first = line  # a quote that nobody closes has swallowed the lines below: read those again
            reader = csv.reader((lines[i] for i in range(first, len(lines))), delimiter=separator, strict=True)
            continue
        if cells:
            yield line, cells


def _named(names: list[str], rows: Iterator[Row]) -> Iterator[Row]:
    """Yield rows as records; one with more or fewer cells than the header is bad."""
    for line, cells in rows:
        if isinstance(cells, BadRecord):
            yield line, cells
        elif len(cells) != len(names):
            yield (
                line,
                BadRecord(
                    f"has {len(cells)} cells, and the header has {len(names)}: put cells that hold the separator in quotes"
                ),
            )
        else:
            yield line, dict(zip(names, cells, strict=True))
