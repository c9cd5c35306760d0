"""bAbI (Weston et al. 2015): twenty kinds of questions about short stories, a file a kind and split.

Owns the format. A file holds numbered lines; a line with tabs is a question with its answer and the lines that support
it, any other a fact, and number 1 begins a new story:

    1 Mary moved to the bathroom.
    2 John went to the hallway.
    3 Where is Mary?        bathroom        1

The lines that support an answer become its steps.

Refuses archives and folders, which `jgpt.data.recognise` opens.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from jgpt.check import require
from jgpt.data.examples import QuestionAnswer, Splits
from jgpt.data.read_log import BadRecord, ReadLog

NAME: Final = re.compile(r"qa(\d+)_([\w-]+)_(train|test|valid)\.txt$")
VALID: Final = "valid"  # of the edition en-valid, cut off its training files


class Line(NamedTuple):
    """A fact, or a question with its answer and the numbers of the facts that support it; `at`: line of the file, from 1."""

    at: int
    number: int
    text: str
    answer: str = ""
    support: tuple[int, ...] = ()


def read_babi(files: Mapping[str, str], log: ReadLog | None = None, *, whole: bool = False) -> Splits:
    """Return the stories of all files: 'train' files to learn from, 'test' files held out.

    Every question is asked as the benchmark asks it: after the facts before it alone, without the questions and answers
    that stand between them. The facts that support its answer are its steps, in the order of the file.

    With `whole` every question of every file is held out and asked so, and any kind of file will do.

    Args:
        files: text of each file by its name; names that are not bAbI's are ignored, and valid files noted as left out.
        log: gets stories that cannot be used; None stops at the first.
        whole: everything is there to be scored.

    Raises:
        ValueError: a line breaks the format and the log stops at it; file and line are named. There is no
            training file, or no test file.
    """
    log = log or ReadLog("error")
    train: list[QuestionAnswer] = []
    held: list[QuestionAnswer] = []
    kinds: dict[str, set[str]] = {"train": set(), "test": set()}
    for name in sorted(files, key=_number):
        match = NAME.search(name)
        if match is None or (match[3] == VALID and not whole):
            continue
        category = f"{int(match[1]):02d} {match[2].replace('-', ' ')}"
        kinds.setdefault(match[3], set()).add(category)
        for where, story in _stories(name, files[name], log):
            if not any(line.answer for line in story):
                log.bad(where, f"the story asks nothing: {' '.join(line.text for line in story)[:80]!r}")
            part = train if match[3] == "train" and not whole else held
            part += _questions(name, story, category)
    if whole:
        require(
            bool(held), f"no question is in {', '.join(sorted(files)) or 'nothing'}: pass files of bAbI's questions."
        )
        words = f"bAbI stories, {len(set().union(*kinds.values()))} kinds of questions"
        return Splits([], held, kind="qa", recognised=words, notes=log.notes(), skipped=tuple(log.skipped))
    for part, found in kinds.items():
        require(bool(found), f"no bAbI file qa*_{part}.txt is among {', '.join(sorted(files)) or 'nothing'}: add them.")
    notes = []
    valid = sorted(name for name in files if (match := NAME.search(name)) and match[3] == VALID)
    if valid:
        notes.append(f"left out, since test is what is held out: {len(valid)} valid files, such as {valid[0]}")
    learned = {(example.context, example.question) for example in train}
    again = sum((example.context, example.question) in learned for example in held)
    if again:
        notes.append(
            f"{again:,} of {len(held):,} test questions stand in the training files too, with the same facts: kept, since "
            "the benchmark has them so"
        )
    for missing, there, what in (("train", "test", "scored untrained"), ("test", "train", "trained, not scored")):
        alone = sorted(kinds[there] - kinds[missing])
        if alone:
            notes.append(f"no {missing} file of {', '.join(alone)}: {what}")
    return Splits(
        train,
        held,
        kind="qa",
        recognised=f"bAbI stories, {len(kinds['train'] | kinds['test'])} kinds of questions",
        notes=(*log.notes(), *notes),
        skipped=tuple(log.skipped),
    )


def _number(name: str) -> tuple[int, str]:
    match = NAME.search(name)
    return (int(match[1]) if match else 0, name)


def _stories(name: str, text: str, log: ReadLog) -> Iterator[tuple[str, list[Line]]]:
    """Yield (place, story) in order.

    A story with a broken line is left out whole: its later questions may rest on that line.
    """
    story: list[Line] = []
    facts: set[int] = set()  # numbers of those in the story
    where, whole = "", True
    for at, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        number, _, rest = line.partition(" ")
        if number == "1":
            if story and whole:
                yield where, story
            story, facts, whole = [], set(), True
        where = where if story else f"{name}, line {at}"
        try:
            story.append(_parse(at, number, rest, line, facts))
            facts |= set() if story[-1].answer else {story[-1].number}
        except BadRecord as error:
            if whole:
                log.bad(f"{name}, line {at}", str(error))
            whole = False
    if story and whole:
        yield where, story


def _parse(at: int, number: str, rest: str, line: str, facts: set[int]) -> Line:
    """Return what a line says. Raises BadRecord where it is neither fact nor question, or rests on a fact that is not there."""
    if not number.isdecimal() or not rest.strip():
        raise BadRecord(f"{line[:60]!r} does not begin with a number and a text, as every line of bAbI does")
    question, *answer = rest.split("\t")
    if not answer:
        return Line(at, int(number), rest.strip())
    if not question.strip() or not answer[0].strip():
        raise BadRecord(f"a question needs question, tab, answer; found {rest[:60]!r}")
    support = answer[1].split() if len(answer) > 1 else []
    missing = [number for number in support if not number.isdecimal() or int(number) not in facts]
    if missing:
        raise BadRecord(f"{rest[:60]!r} rests on {', '.join(missing)}, which is no number of a fact before it")
    return Line(at, int(number), question.strip(), answer[0].strip(), tuple(map(int, support)))


def _questions(name: str, story: list[Line], category: str) -> Iterator[QuestionAnswer]:
    """Yield each question of a story with all facts before it."""
    facts: dict[int, str] = {}
    for line in story:
        if line.answer:
            steps = tuple(facts[number] for number in line.support)
            yield QuestionAnswer(
                line.text,
                line.answer,
                context=" ".join(facts.values()),
                category=category,
                steps=steps,
                place=f"{name}, line {line.at}",
            )
        else:
            facts[line.number] = line.text
