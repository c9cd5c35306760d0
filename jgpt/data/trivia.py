"""OpenTriviaQA: multiple-choice questions as plain text, one category a file.

Owns the format, of which an example is

    #Q Three of these animals hibernate. Which one does not?
    ^ Sloth
    A Mouse
    B Sloth
    C Frog
    D Snake

where a question may run over several lines. Its files mix UTF-8 and Windows-1252 line by line.
"""

import re
from collections.abc import Iterator
from typing import Final

from jgpt.data.columns import check_question
from jgpt.data.decoding import check_characters, decode_mixed
from jgpt.data.examples import QuestionAnswer, placed
from jgpt.data.inputs import InputFile
from jgpt.data.read_log import BadRecord, ReadLog

SNIFFED: Final = 1 << 16  # bytes in which the first question has to stand
OPENING: Final = re.compile(rb"\A(?:\xef\xbb\xbf)?\s*#Q[ \t]")
CHOICES: Final = "ABCDEFGH"


def is_trivia(raw: bytes) -> bool:
    """Return whether a file begins with a question and has an answer."""
    return OPENING.match(raw[:SNIFFED]) is not None and b"\n^" in raw[:SNIFFED]


def read_trivia(file: InputFile, encoding: str, log: ReadLog) -> Iterator[QuestionAnswer]:
    """Yield the questions of a file; their category is its name."""
    text, others = decode_mixed(file.load(), file.where, encoding)
    log.count("line(s) that are no UTF-8, read as Windows-1252 or latin-1", others)
    block: list[str] = []
    start = 1
    for number, line in enumerate([*text.split("\n"), "#Q"], 1):
        if re.match(r"#Q(\s|$)", line):
            if any(part.strip() for part in block):
                place = f"{file.where}, line {start}"
                try:
                    yield placed(_question(block, file.stem, log), place)
                except BadRecord as error:
                    log.bad(place, str(error))
            block, start = [], number
        block.append(line)


def _question(lines: list[str], category: str, log: ReadLog) -> QuestionAnswer:
    """Return the question of the lines of one record."""
    for line in lines:
        check_characters(line, "utf-8")
    if not lines[0].startswith("#Q"):
        raise BadRecord(f"{lines[0][:40]!r} stands before the first question: begin it with '#Q '")
    at = next((i for i, line in enumerate(lines) if line.startswith("^")), None)
    if at is None:
        raise BadRecord("the question has no answer: write a line '^ ANSWER' below it")
    question = "\n".join(line.strip() for line in (lines[0][2:], *lines[1:at])).strip()
    parts = [lines[at][1:].strip()]  # the answer, then the choices; each may run over several lines
    for line in lines[at + 1 :]:
        letter = CHOICES[len(parts) - 1 : len(parts)]
        if letter and re.match(rf"{letter}(\s|$)", line):
            parts.append(line[1:].strip())
        elif line.strip():
            parts[-1] = f"{parts[-1]}\n{line.strip()}".strip()
    answer, *choices = parts
    if not choices:
        raise BadRecord("the question has no choices: write lines 'A CHOICE', 'B CHOICE', ...")
    if not all(choices):
        raise BadRecord(f"choice {CHOICES[choices.index('')]} is empty: write it, or leave the question out")
    distinct = tuple(dict.fromkeys(choices))
    example = QuestionAnswer(question, answer, choices=distinct, category=category)
    check_question(example)
    log.count("question(s) with a choice that stands twice, which was taken once", int(len(distinct) < len(choices)))
    return example
