"""Examples made in Python, such as two lists in a notebook, and how they are kept in a file.

Owns `from_lists` and `write_jsonl`, whose file `recognise.read_path` reads back equal. Refuses what a reader would
refuse, at once.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jgpt.check import require
from jgpt.data.columns import check_conversation, check_question
from jgpt.data.decoding import check_characters
from jgpt.data.examples import Conversation, QuestionAnswer
from jgpt.data.read_log import BadRecord
from jgpt.data.splitting import kind_of


def from_lists(
    questions: Sequence[Any],
    answers: Sequence[Any],
    *,
    contexts: Sequence[str] | None = None,
    choices: Sequence[Sequence[str]] | None = None,
    references: Sequence[Sequence[str]] | None = None,
    categories: Sequence[str] | None = None,
) -> list[QuestionAnswer]:
    """Return the questions of parallel lists: the i-th answer answers the i-th question.

    Args:
        questions: what is asked; texts, which is checked, since columns of a data frame may hold NaN.
        answers: what is expected; texts.
        contexts: of each question what its answer is to be found in, "" for nothing.
        choices: of each question what may be answered, the answer among them, () where it is free.
        references: of each question every answer that counts as right, () where it is the answer alone.
        categories: of each question the row of the score table it belongs to.

    Raises:
        ValueError: the lists differ in length, or an element is no text, empty, or no choice.
    """
    lists = {
        "questions": questions,
        "answers": answers,
        "contexts": contexts,
        "choices": choices,
        "references": references,
        "categories": categories,
    }
    given = {name: values for name, values in lists.items() if values is not None}
    for name, values in given.items():
        require(not isinstance(values, str), f"{name} is a text ({values!r:.60}): give a list, one element a question.")
        require(
            len(values) == len(questions),
            f"{name} has {len(values)} elements and questions {len(questions)}: give one for each question.",
        )
    given = {name: list(values) for name, values in given.items()}  # in order, whatever their labels in a data frame
    require(len(questions) > 0, "questions is empty: give at least two, one to train on and one to score on.")
    examples = []
    for i in range(len(questions)):
        row: dict[str, Any] = {name: values[i] for name, values in given.items()}
        for name in ("choices", "references"):
            row[name] = _tuple(row.get(name, ()), name, i)
        try:
            _check_texts(value for value in row.values() if not isinstance(value, tuple))
            _check_texts([*row["choices"], *row["references"]])
            example = QuestionAnswer(
                row["questions"],
                row["answers"],
                context=row.get("contexts", ""),
                references=row["references"],
                choices=row["choices"],
                category=row.get("categories", ""),
            )
            check_question(example)
        except BadRecord as error:
            raise ValueError(f"element {i} of the lists (question {row['questions']!r:.60}): {error}.") from None
        examples.append(example)
    return examples


def write_jsonl(examples: Iterable[Any], path: Path) -> None:
    """Write texts, questions or conversations as JSON lines, which `read_path` reads back equal.

    Raises:
        ValueError: the examples are of several kinds, or one is what a reader refuses, such as an empty answer.
    """
    examples = list(examples)
    kind_of(examples)
    records = []
    for i, example in enumerate(examples):
        try:
            _check(example)
        except BadRecord as error:
            raise ValueError(f"example {i} cannot be written to {str(path)!r}: {error}.") from None
        records.append(_record(example))
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")


def _record(example: Any) -> dict[str, Any]:
    if isinstance(example, str):
        return {"text": example}
    if isinstance(example, Conversation):
        return {"messages": [{"role": message.role, "content": message.content} for message in example.messages]}
    record: dict[str, Any] = {"question": example.question, "answer": example.answer}
    optional = {
        "context": example.context,
        "references": list(example.references),
        "choices": list(example.choices),
        "steps": list(example.steps),
        "category": example.category,
        "more": [_record(turn) for turn in example.more],
    }
    return record | {name: value for name, value in optional.items() if value}


def _check(example: Any) -> None:
    """Raise BadRecord for an example that a reader would refuse."""
    _check_texts(_texts(example))
    if isinstance(example, str):
        if not example.strip():
            raise BadRecord("the text is empty: leave it out")
    elif isinstance(example, Conversation):
        check_conversation(example)
    else:
        check_question(example)


def _check_texts(values: Iterable[Any]) -> None:
    for value in values:
        if not isinstance(value, str):
            raise BadRecord(f"{value!r:.60} is {type(value).__name__}: must be text")
        check_characters(value, "utf-8")


def _texts(example: Any) -> list[Any]:
    """Return every text of an example."""
    if isinstance(example, Conversation):
        return [text for message in example.messages for text in (message.role, message.content)]
    if isinstance(example, QuestionAnswer):
        own = [example.question, example.answer, example.context, example.category]
        own += [*example.references, *example.choices, *example.steps]
        return [*own, *(text for turn in example.more for text in _texts(turn))]
    return [example]


def _tuple(values: Sequence[Any], name: str, i: int) -> tuple[str, ...]:
    require(
        not isinstance(values, str),
        f"{name}[{i}] is the text {values!r:.60}: give a list of texts, even for a single one.",
    )
    return tuple(values)
