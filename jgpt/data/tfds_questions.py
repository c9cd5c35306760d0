"""Questions of TFDS data sets: which feature of a set plays which part, and how an example becomes a question.

Owns the table for sets whose features are nested or named in their own way; others are read by the synonyms and the
`data.columns` of `columns`, with "/" between the names of nested features. Refuses to open a data set.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from jgpt.data.columns import SYNONYMS, Layout, check_question, layout_of
from jgpt.data.decoding import check_characters
from jgpt.data.examples import QuestionAnswer, placed
from jgpt.data.read_log import BadRecord, ReadLog

Parts = Mapping[str, str | tuple[str, ...]]  # ours -> path of a feature; choices may be one feature each

_SQUAD: Final = {"question": "question", "references": "answers/text", "context": "context", "group": "title"}
_BY_LETTER: Final = {
    "question": "question",
    "choices": "choices/text",
    "labels": "choices/label",
    "answer": "answerKey",
}
QUESTION_FEATURES: Final[dict[str, Parts]] = {
    "squad": _SQUAD,
    "tydi_qa": _SQUAD,
    "natural_questions_open": {"question": "question", "references": "answer"},
    "trivia_qa": {"question": "question", "answer": "answer/value", "references": "answer/aliases"},
    "web_questions": {"question": "question", "references": "answers"},
    "bool_q": {"question": "question", "answer": "answer", "context": "passage"},
    "ai2_arc": _BY_LETTER,
    "qasc": _BY_LETTER,
    "openbookqa": {
        "question": "question/stem",
        "choices": tuple(f"question/choice_{letter}" for letter in "ABCD"),
        "answer": "answerKey",
    },
    "piqa": {"question": "goal", "choices": ("sol1", "sol2"), "answer": "label"},
    "cosmos_qa": {
        "question": "question",
        "context": "context",
        "choices": tuple(f"answer{i}" for i in range(4)),
        "answer": "label",
    },
    "math_dataset": {"question": "question", "answer": "answer"},
    "databricks_dolly": {
        "question": "instruction",
        "context": "context",
        "answer": "response",
        "category": "category",
    },
}
YES_NO: Final = ("no", "yes")  # in the order of False and True


def parts_of(name: str, features: Iterable[str], columns: Mapping[str, str]) -> Parts:
    """Return which feature of a data set plays which part; what the user names comes before the table.

    Args:
        name: base name of the data set.
        features: paths of its features, nested ones with "/".
        columns: `data.columns`.

    Raises:
        ValueError: the features of a question are not there.
    """
    names = list(features)
    table = QUESTION_FEATURES.get(name, {})
    own = {ours: theirs for ours, theirs in columns.items() if ours in SYNONYMS}
    if own or not table:
        layout: Layout = layout_of(names, where=f"tfds:{name}", kind="qa", columns={**_single(table), **own})
        table = {**table, **layout.columns}
    return {ours: theirs for ours, theirs in table.items() if ours != "group" or theirs in names}


def questions(
    examples: Iterable[Mapping[str, Any]], parts: Parts, where: str, log: ReadLog
) -> list[tuple[QuestionAnswer, str | None]]:
    """Return the questions of examples of TFDS, each with the article it belongs to.

    Those without any answer, as in SQuAD v2, are counted and left out.

    Args:
        examples: of one split.
        parts: from `parts_of`.
        where: the split, for messages.
        log: gets what cannot be used.
    """
    found: list[tuple[QuestionAnswer, str | None]] = []
    for number, example in enumerate(examples):
        place = f"{where}, example {number}"
        try:
            question = _question(example, parts)
        except BadRecord as error:
            log.bad(place, str(error))
            continue
        if question is None:
            log.count("question(s) without an answer left out")
            continue
        group = _text(_at(example, str(parts["group"]))) if "group" in parts else None
        found.append((placed(question, place), group or None))
    return found


def _question(example: Mapping[str, Any], parts: Parts) -> QuestionAnswer | None:
    """Return a question, None for one without any answer."""
    references = tuple(dict.fromkeys(_texts(_at(example, parts.get("references")))))
    choices = tuple(_texts(_at(example, parts.get("choices"))))
    answer = _at(example, parts.get("answer"))
    if answer is None:
        if not references:
            return None
        text = references[0]
    elif type(answer).__name__ in ("bool", "bool_"):
        choices, text = YES_NO, YES_NO[int(answer)]
    elif choices:
        labels = _at(example, parts.get("labels"))
        text = _chosen(answer, choices, list(range(len(choices))) if labels is None else list(labels))
    else:
        text = _text(answer)
    question = QuestionAnswer(
        _text(_at(example, parts["question"])),
        text,
        context=_text(_at(example, parts.get("context"))),
        references=references,
        choices=choices,
        category=_text(_at(example, parts.get("category"))),
    )
    for part in (question.question, question.answer, question.context, *references, *choices):
        check_characters(part, "utf-8")
    check_question(question)
    return question


def _chosen(answer: Any, choices: tuple[str, ...], labels: list[Any]) -> str:
    """Return the choice an answer stands for: by its label or number, else the answer itself."""
    if answer in labels:
        return choices[labels.index(answer)]
    if isinstance(answer, bytes | str):
        return _text(answer)
    raise BadRecord(f"the answer {answer} is none of the labels {labels}")


def _at(example: Any, path: str | tuple[str, ...] | None) -> Any:
    """Return the value of a feature, None where there is no such part."""
    if path is None:
        return None
    if isinstance(path, tuple):
        return [_at(example, each) for each in path]
    for name in path.split("/"):
        example = example[name]
    return example


def _text(value: Any) -> str:
    """Return one text; bytes that are no valid UTF-8 become U+FFFD, and a missing part is empty."""
    if value is None:
        return ""
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)


def _texts(value: Any) -> list[str]:
    return [] if value is None else [_text(each) for each in value]


def _single(table: Parts) -> dict[str, str]:
    """Return the parts of the table that are one feature each, as `data.columns` would name them."""
    return {ours: theirs for ours, theirs in table.items() if isinstance(theirs, str) and ours in SYNONYMS}
