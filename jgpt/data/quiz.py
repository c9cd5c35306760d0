r"""Files of the game quiz(6): `question:answer` on a line, with alternatives, and an index that names the fields.

Owns the pattern language: `a|b` alternatives, `[a|b]` a group of them, `{a}` optional, `\c` the character c itself, and
a backslash at the end of a line continues it. Example: `{The }Gambia:Banjul|Bathurst`. A record of more than two
fields asks for each of them by the name that the index gives it: `H: number` -> `1`.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, Final

from jgpt.data.columns import check_question
from jgpt.data.decoding import check_characters, decode_records
from jgpt.data.examples import QuestionAnswer, placed
from jgpt.data.inputs import InputFile
from jgpt.data.read_log import BadRecord, ReadLog

EXPANSIONS: Final = 64  # answers that count as right; patterns may stand for any number
FIELD: Final = re.compile(r"((?:[^\\:]|\\.)*)(?::|\Z)", re.DOTALL)
OPENING: Final = "[{"  # the files of the game hold one that is closed by the other kind, so either closes
OVERSTRIKE: Final = "\b"  # accents are written for a typewriter: e, back, '

# A pattern is a list of alternatives, each a sequence of characters and of patterns in brackets.
Pattern = list[list[Any]]


def read_index(text: str) -> dict[str, list[str]]:
    """Return the names of the fields by file, from lines `FOLDER/FILE:NAME:NAME`; nothing where a line is none such."""
    names: dict[str, list[str]] = {}
    for line in text.split("\n"):
        if not line.strip():
            continue
        fields = split_fields(line)
        if len(fields) < 3:
            return {}
        try:
            names[PurePosixPath(fields[0]).name] = [next(expand(field), "") for field in fields[1:]]
        except BadRecord:
            return {}
    return names


def is_quiz(raw: bytes) -> bool:
    """Return whether every record of a file has a colon: for a file that its index has forgotten."""
    records = raw.replace(b"\\\n", b"").split(b"\n")
    return b"\0" not in raw and all(b":" in record for record in records if record.strip())


def read_quiz(file: InputFile, encoding: str, index: Mapping[str, list[str]], log: ReadLog) -> Iterator[QuestionAnswer]:
    """Yield the questions of a file; their category is its name.

    Args:
        file: the file.
        encoding: Python name of the encoding.
        index: from `read_index`; a file that is not in it is asked for its second field alone.
        log: gets records that cannot be used.
    """
    lines = decode_records(file.load(), file.where, encoding).replace("\r\n", "\n").split("\n")
    names = index.get(file.name.rpartition("/")[2], [])
    record = ""
    start = 1
    for number, line in enumerate(lines, 1):
        start = start if record else number
        continued = len(line) - len(line.rstrip("\\"))
        if continued % 2:
            record += line[:-1]
            continue
        record += line
        if record.strip():
            place = f"{file.where}, line {start}"
            try:
                check_characters(record, encoding)
                yield from (placed(example, place) for example in _questions(record, names, file.stem, log))
            except BadRecord as error:
                log.bad(place, str(error))
        record = ""
    if record:
        log.bad(f"{file.where}, line {start}", "the last line ends in a backslash, and none follows: take it out")


def _questions(record: str, names: list[str], category: str, log: ReadLog) -> list[QuestionAnswer]:
    """Return the questions of a record: one of two fields, else one for each further field that is not empty."""
    fields = split_fields(record)
    if len(fields) < 2:
        raise BadRecord("has no colon: write question:answer")
    subject = next(_readable(fields[0]), "")
    if len(fields) == 2:
        asked = [(subject, fields[1])]
    elif names:
        asked = [
            (f"{subject}: {name}", field) for name, field in zip(names[1:], fields[1:], strict=False) if field.strip()
        ]
    else:
        asked = [(subject, fields[1])]
        log.count("record(s) with more than two fields and no index that names them: the first two were read")
    found = []
    for question, field in asked if subject.strip() else [("", fields[1])]:
        answers = tuple(answer for answer in dict.fromkeys(_readable(field)) if answer)
        example = QuestionAnswer(question, answers[0] if answers else "", references=answers, category=category)
        check_question(example)
        found.append(example)
    if not found:
        raise BadRecord("all its answers are empty: write one")
    return found


def split_fields(record: str) -> list[str]:
    """Split a record at its colons, escaped ones aside."""
    fields: list[str] = []
    at = 0
    while True:
        match = FIELD.match(record, at)
        if match is None:  # a backslash at the very end
            return [*fields, record[at:]]
        fields.append(match[1])
        at = match.end()
        if record[at - 1 : at] != ":" or match.end(1) == at:
            return fields


def expand(pattern: str) -> Iterator[str]:
    """Yield the texts a pattern stands for, the first alternatives and optional parts first.

    `{The }Gambia` yields "The Gambia", then "Gambia".

    Raises:
        BadRecord: a bracket has no partner, or too many stand in each other.
    """
    try:
        parsed, end = _parse(pattern, 0)
    except RecursionError:
        raise BadRecord(f"brackets in {pattern[:60]!r} stand too deep in each other: leave it out") from None
    if end < len(pattern):
        raise BadRecord(f"{pattern[end]!r} closes no bracket in {pattern!r}: write \\{pattern[end]} for the character")
    yield from _texts(parsed)


def _readable(pattern: str) -> Iterator[str]:
    """Yield at most `EXPANSIONS` texts, white space trimmed; those with accents made by overstriking only if all are."""
    texts = [" ".join(text.split(" ")).strip() for text in islice(expand(pattern), 8 * EXPANSIONS)]
    plain = [text for text in texts if OVERSTRIKE not in text]
    yield from islice(plain or (text.replace(OVERSTRIKE, "") for text in texts), EXPANSIONS)


def _parse(pattern: str, at: int) -> tuple[Pattern, int]:
    """Parse alternatives up to a closing bracket, or to the end; return them and where they end."""
    alternatives: Pattern = [[]]
    while at < len(pattern) and pattern[at] not in "]}":
        character = pattern[at]
        at += 1
        if character == "|":
            alternatives.append([])
        elif character in OPENING:
            inner, at = _parse(pattern, at)
            if at == len(pattern):
                raise BadRecord(f"a {character!r} is not closed in {pattern!r}: write \\{character} for the character")
            at += 1
            alternatives[-1].append([*inner, []] if character == "{" else inner)
        else:
            if character == "\\" and at < len(pattern):
                character = pattern[at]
                at += 1
            alternatives[-1].append(character)
    return alternatives, at


def _texts(pattern: Pattern) -> Iterator[str]:
    for sequence in pattern:
        yield from _sequence(sequence)


def _sequence(sequence: list[Any]) -> Iterator[str]:
    at = next((i for i, part in enumerate(sequence) if not isinstance(part, str)), len(sequence))
    head = "".join(part for part in sequence[:at] if isinstance(part, str))
    if at == len(sequence):
        yield head
        return
    group = sequence[at]
    for choice in _texts(group if isinstance(group, list) else []):
        for rest in _sequence(sequence[at + 1 :]):
            yield head + choice + rest
