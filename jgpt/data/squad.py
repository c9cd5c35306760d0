"""SQuAD JSON, v1.1 and v2 (Rajpurkar et al. 2016, 2018): questions on paragraphs of articles, with several answers.

Owns the format: {"data": [{"title": ..., "paragraphs": [{"context": ..., "qas": [{"id": ..., "question": ...,
"answers": [{"text": ..., "answer_start": ...}]}]}]}]}. The group of a question is its article, so that no article, and
with it no paragraph, stands on both sides of a split. Questions of v2 without an answer are counted and left out.
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from jgpt.data.columns import check_question
from jgpt.data.decoding import check_characters
from jgpt.data.examples import QuestionAnswer, placed
from jgpt.data.inputs import InputFile
from jgpt.data.read_log import BadRecord, KnownIds, ReadLog


def is_squad(content: Any) -> bool:
    """Return whether parsed JSON is laid out as SQuAD."""
    data = content.get("data") if isinstance(content, dict) else None
    return isinstance(data, list) and bool(data) and isinstance(data[0], dict) and "paragraphs" in data[0]


def read_squad(
    content: dict[str, Any], text: str, file: InputFile, log: ReadLog, seen: KnownIds
) -> Iterator[tuple[QuestionAnswer, str]]:
    """Yield the questions of a file with their article.

    Args:
        content: the parsed file.
        text: the file itself, in which the line of a bad record is looked up.
        file: for messages.
        log: gets bad records, and the count of questions without an answer.
        seen: ids of the files before.
    """
    times: Counter[Any] = Counter()  # that an id has come
    for number, article in enumerate(content["data"]):
        title = article.get("title") if isinstance(article, dict) else None
        group = title if isinstance(title, str) and title.strip() else f"{file.name}, article {number}"
        try:
            paragraphs = _list(article, "paragraphs")
        except BadRecord as error:
            log.bad(f"{file.where}, data[{number}]", str(error))
            continue
        for index, paragraph in enumerate(paragraphs):
            try:
                qas, context = _list(paragraph, "qas"), _text(paragraph, "context")
            except BadRecord as error:
                log.bad(f"{file.where}, data[{number}].paragraphs[{index}]", str(error))
                continue
            for i, entry in enumerate(qas):
                where = f"{file.where}, data[{number}].paragraphs[{index}].qas[{i}]"
                key = entry.get("id") if isinstance(entry, dict) else None
                times.update([key] if isinstance(key, str | int) else [])
                try:
                    example = _question(entry, context, log)
                    if example is None:
                        continue
                    if key is None or not seen.repeats(str(key), example, file.where, "on another question", log):
                        yield placed(example, where), group
                except BadRecord as error:
                    found = _line(text, key, times[key]) if isinstance(key, str | int) else ""
                    log.bad(where + found, str(error))


def _question(entry: Any, context: str, log: ReadLog) -> QuestionAnswer | None:
    """Return a question, None for one that is marked as having no answer in its paragraph."""
    question = _text(entry, "question")
    answers = _list(entry, "answers")
    if not answers and entry.get("is_impossible") is True:
        log.count("question(s) without an answer in their paragraph left out (SQuAD v2)")
        return None
    if not answers:
        raise BadRecord("'answers' is empty: write one, or mark the question with \"is_impossible\": true")
    references = tuple(dict.fromkeys(_text(answer, "text") for answer in answers))
    example = QuestionAnswer(question, references[0], context=context, references=references)
    check_question(example)
    return example


def _list(record: Any, name: str) -> list[Any]:
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, list):
        raise BadRecord(f"has no list {name!r}")
    return value


def _text(record: Any, name: str) -> str:
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, str):
        raise BadRecord(f"has no text {name!r}")
    if not value.strip():
        raise BadRecord(f"{name!r} is empty: write it, or leave the record out")
    check_characters(value, "utf-8")
    return value


def _line(text: str, key: str | int, times: int) -> str:
    """Return " (line N)" of the question that has an id, as the n-th of those that have it; nothing where it is not found."""
    forms = "|".join(re.escape(json.dumps(key, ensure_ascii=ascii_only)) for ascii_only in (True, False))
    found = next(itertools.islice(re.finditer(rf'"id"\s*:\s*(?:{forms})(?!\d)', text), times - 1, None), None)
    return "" if found is None else f" (line {text.count(chr(10), 0, found.end()) + 1})"
