"""From a record with named fields to an example: which column plays which part, and what a cell may hold.

Owns the table of synonyms, `data.columns`, and the rules of a record. Refuses files: a record comes as a dict, from
JSON or from a row of CSV. An example: {"question": "Capital of France?", "answer": "Paris"}.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from jgpt.check import require
from jgpt.config import DataConfig
from jgpt.data.decoding import check_characters
from jgpt.data.examples import Conversation, Message, QuestionAnswer
from jgpt.data.read_log import BadRecord

# Ours -> names in common use, the first that is there wins. "input" is the context where "instruction" is the question.
SYNONYMS: Final[dict[str, tuple[str, ...]]] = {
    "question": ("question", "prompt", "instruction", "query", "input", "q"),
    "answer": ("answer", "completion", "response", "output", "target", "a"),
    "references": ("references", "answers", "aliases", "reference_answers"),
    "context": ("context", "passage", "paragraph", "story", "background", "input"),
    "choices": ("choices", "options"),
    "category": ("category", "subject", "topic"),
    "messages": ("messages", "conversations", "conversation", "dialogue", "dialog", "turns"),
    "text": ("text", "content", "document", "article", "body"),
    "more": ("more",),
    "steps": ("steps", "rationale"),
    "id": ("id", "_id", "uid", "qid"),
}
NEEDED: Final = {"chat": ("messages",), "qa": ("question", "answer"), "text": ("text",)}
ROLES: Final = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
SEPARATOR: Final = "|"  # of several answers or choices in one cell of a CSV file


@dataclass(frozen=True)
class Layout:
    """Which columns of a file play which part.

    Attributes:
        kind: of the examples: "text", "qa" or "chat".
        columns: ours -> the file's.
    """

    kind: str
    columns: dict[str, str]


def check_columns(data: DataConfig, usable: Sequence[str], recognised: str) -> None:
    """Raise ValueError where the user names a column that plays no part in what was read.

    In a mixture it may be another task's, and is not judged.

    Args:
        data: with the columns that the user names.
        usable: our names of those that play a part.
        recognised: what was read, in words.
    """
    idle = [ours for ours in data.columns if ours not in usable]
    names = f"only {', '.join(usable)} can be named there" if usable else "it has no columns to name"
    require(
        not idle or len(data.tasks) > 1,
        f"data.columns names {', '.join(map(repr, idle))}, which plays no part in {recognised}: {names}; take the others "
        "out of --data.columns.",
    )


def layout_of(names: Sequence[str], *, where: str, kind: str, columns: Mapping[str, str]) -> Layout:
    """Return the layout of a file with the columns `names`.

    Args:
        names: of the columns or fields there are.
        where: the file, for messages.
        kind: "auto", or the kind of the task: only its columns are looked for then.
        columns: `data.columns`, ours -> the user's.

    Raises:
        ValueError: a column that is needed or that the user named is not there.
    """
    found = {ours: theirs for ours, theirs in columns.items() if ours in SYNONYMS and theirs in names}
    kinds = [kind] if kind in NEEDED else list(NEEDED)
    missing = [ours for ours in columns if ours in SYNONYMS and ours not in found and _serves(ours, kind)]
    if missing:
        raise ValueError(f"{where}: {_no_column(columns[missing[0]], names, missing[0])}")
    taken = set(found.values())
    lower = {name.strip().lower(): name for name in reversed(names)}
    for ours, synonyms in SYNONYMS.items():
        theirs = next((lower[name] for name in synonyms if name in lower and lower[name] not in taken), None)
        if ours not in columns and theirs is not None:
            found[ours] = theirs
            taken.add(theirs)
    for candidate in kinds:
        needed = NEEDED[candidate]
        if all(ours in found or (ours == "answer" and "references" in found) for ours in needed):
            single = candidate == "text" and "role" in lower and found["text"] == lower.get("content")
            require(
                not single or kind == "text" or "text" in columns,
                f"{where}: its records are single turns (role, content): put those of a conversation into one record, "
                '{"messages": [{"role": ..., "content": ...}, ...]}; to read each content as a text, set '
                "--data.tasks.NAME.kind text.",
            )
            return Layout(candidate, found)
    if kind in NEEDED:
        absent = next(ours for ours in NEEDED[kind] if ours not in found)
        raise ValueError(f"{where}: {_no_column(absent, names, absent)}")
    raise ValueError(
        f"{where}: its columns are {_listed(names)}, and none of these sets is there: question and answer; prompt and "
        "completion; messages; text. Say which is which, such as --data.columns question QUESTION answer ANSWER, with "
        "names of yours in capitals."
    )


def _serves(ours: str, kind: str) -> bool:
    """Return whether a column plays a part in examples of a kind; in a mixture, others' columns may be missing."""
    if kind not in NEEDED or ours == "id":
        return True
    others = {name for other, needed in NEEDED.items() if other != kind for name in needed}
    return ours in NEEDED[kind] or (kind == "qa" and ours not in others)


def example_of(record: Mapping[str, Any], layout: Layout, encoding: str = "utf-8") -> Any:
    """Return the `str`, `QuestionAnswer` or `Conversation` of a record.

    Raises:
        BadRecord: a field is missing, empty or of a wrong type, or breaks another rule of its kind.
    """
    reader = _Fields(record, layout.columns, encoding)
    if layout.kind == "text":
        return reader.text("text")
    if layout.kind == "chat":
        return _conversation(reader)
    return _question(reader)


def check_question(example: QuestionAnswer) -> None:
    """Raise BadRecord where question or answer is empty, or the answer is not among the choices."""
    if any(turn.more for turn in example.more):
        raise BadRecord("a follow-up has follow-ups of its own: put all of them behind the first question")
    for turn in (example, *example.more):
        for name in ("question", "answer"):
            if not getattr(turn, name).strip():
                raise BadRecord(f"the {name} is empty: write it")
        for name in ("context", "category"):
            if getattr(turn, name) and not getattr(turn, name).strip():
                raise BadRecord(f"the {name} is blank: write it, or leave it empty")
        if not all(reference.strip() for reference in turn.references):
            raise BadRecord("one of the references is empty: leave it out")
        if not all(step.strip() for step in turn.steps):
            raise BadRecord("one of the steps is empty: leave it out")
        if not turn.choices:
            continue
        if not all(choice.strip() for choice in turn.choices):
            raise BadRecord(f"one of the choices {list(turn.choices)} is empty: write it, or leave it out")
        if len(set(turn.choices)) < max(2, len(turn.choices)):
            raise BadRecord(f"the choices are {list(turn.choices)}: at least two, all different, are needed")
        if turn.answer not in turn.choices:
            raise BadRecord(f"the answer {turn.answer!r} is not among the choices {list(turn.choices)}")


def check_conversation(example: Conversation) -> None:
    """Raise BadRecord for an unknown role, an empty turn, or a conversation in which the assistant never speaks."""
    for number, message in enumerate(example.messages, 1):
        if message.role not in ("system", "user", "assistant"):
            raise BadRecord(f"message {number} has the role {message.role!r}: use system, user or assistant")
        if not message.content.strip():
            raise BadRecord(f"message {number} ({message.role}) is empty: write it, or leave it out")
    if all(message.role != "assistant" for message in example.messages):
        raise BadRecord("no message is the assistant's: nothing could be learned")


class _Fields:
    """A record seen through a layout; every complaint names the user's own column."""

    def __init__(self, record: Mapping[str, Any], columns: Mapping[str, str], encoding: str) -> None:
        self.record = record
        self.columns = columns
        self.encoding = encoding

    def value(self, ours: str) -> Any:
        """Return the raw value of a column, None where the record or the file has none."""
        return self.record.get(self.columns[ours]) if ours in self.columns else None

    def named(self, ours: str) -> str:
        """Return the user's name of a column."""
        return self.columns.get(ours, ours)

    def text(self, ours: str, *, optional: bool = False) -> str:
        """Return a string that is not blank; "" for an optional one that is missing or blank."""
        value = self.value(ours)
        if value is None and not optional:
            raise BadRecord(
                f"has no {self.named(ours)!r}"
                if self.named(ours) not in self.record
                else f"{self.named(ours)!r} is null: write text"
            )
        value = "" if value is None else self.string(value, ours)
        if not value.strip() and not optional:
            raise BadRecord(f"{self.named(ours)!r} is empty: write it, or leave the record out")
        return value if value.strip() else ""

    def string(self, value: Any, ours: str, *, one_of: bool = False) -> str:
        """Return `value`, or one of several values of a column, which must be a string of whole characters."""
        if not isinstance(value, str):
            shown = json.dumps(value, ensure_ascii=False)[:60]
            raise BadRecord(
                f"{'one of ' if one_of else ''}{self.named(ours)!r} is {_type_name(value)} ({shown}): must be text, in quotes"
            )
        try:
            check_characters(value, self.encoding)
        except BadRecord as error:
            raise BadRecord(f"{self.named(ours)!r}: {error}") from None
        return value

    def strings(self, ours: str) -> tuple[str, ...]:
        """Return a list of strings: a JSON list, a cell "a|b" or '["a", "b"]', or {"text": [...]} as in SQuAD."""
        value = self.value(ours)
        if value is None or value == "":
            return ()
        if isinstance(value, str):
            value = _json_cell(value, self.named(ours)) if value.startswith("[") else value.split(SEPARATOR)
        if isinstance(value, Mapping) and isinstance(value.get("text"), list):
            value = value["text"]
        if not isinstance(value, list):
            raise BadRecord(f"{self.named(ours)!r} is {_type_name(value)}: must be a list of texts")
        return tuple(self.string(entry, ours, one_of=True) for entry in value)


def _question(fields: _Fields) -> QuestionAnswer:
    """Return the question of a record. The answer may be one of the choices, its letter, or its number from 0."""
    question = fields.text("question")
    choices = fields.strings("choices")
    references = fields.strings("references")
    answer = fields.value("answer")
    if "answer" not in fields.columns:
        if not references:
            raise BadRecord(f"{fields.named('references')!r} holds no answer: write one, or leave the record out")
        answer = references[0]
    elif choices and isinstance(answer, int) and not isinstance(answer, bool):
        if str(answer) in choices and choices[answer : answer + 1] != (str(answer),):
            raise BadRecord(
                f"the answer {answer} may be the choice {str(answer)!r} or the number of one, from 0: write it in quotes"
            )
        if not 0 <= answer < len(choices):
            raise BadRecord(f"the answer {answer} is the number of no choice: {len(choices)} are numbered from 0")
        answer = choices[answer]
    else:
        answer = fields.text("answer")
        if choices and answer not in choices and len(answer) == 1 and 0 <= ord(answer) - ord("A") < len(choices):
            answer = choices[ord(answer) - ord("A")]
        if choices and answer not in choices and answer.strip().isdecimal():
            raise BadRecord(
                f"the answer {answer!r} is not among the choices {list(choices)}; a choice's number, from 0, is read where it "
                "is one (in JSON, without quotes), else write the choice or its letter"
            )
    example = QuestionAnswer(
        question,
        answer,
        more=tuple(_more(fields)),
        context=fields.text("context", optional=True),
        references=references,
        choices=choices,
        category=fields.text("category", optional=True),
        steps=fields.strings("steps"),
    )
    check_question(example)
    return example


def _more(fields: _Fields) -> list[QuestionAnswer]:
    """Return the further questions of the conversation, written as a list of records with our own names."""
    value = fields.value("more")
    if value is None or value == "":
        return []
    if isinstance(value, str):
        value = _json_cell(value, fields.named("more"))
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise BadRecord(f"{fields.named('more')!r} must be a list of objects with question and answer")
    own = {ours: ours for ours in SYNONYMS if ours != "more"}
    found = []
    for number, turn in enumerate(value, 1):
        try:
            if turn.get("more"):
                raise BadRecord("it has follow-ups of its own: list all of them, in order, in the first question's")
            found.append(_question(_Fields(turn, own, fields.encoding)))
        except BadRecord as error:
            raise BadRecord(f"{fields.named('more')!r}, follow-up {number}: {error}") from None
    return found


def _conversation(fields: _Fields) -> Conversation:
    value = fields.value("messages")
    if isinstance(value, str):
        value = _json_cell(value, fields.named("messages"))
    if not isinstance(value, list) or not value or not all(isinstance(message, dict) for message in value):
        raise BadRecord(f"{fields.named('messages')!r} must be a list of objects with role and content, and not empty")
    messages = []
    for number, message in enumerate(value, 1):
        role = message.get("role", message.get("from"))
        content = message.get("content", message.get("value"))
        if isinstance(content, list) and all(
            isinstance(part, dict) and isinstance(part.get("text"), str) for part in content
        ):
            content = "".join(part["text"] for part in content)
        if not isinstance(role, str) or role not in ROLES:
            raise BadRecord(f"message {number} has the role {role!r}: use system, user or assistant")
        if content is None:
            raise BadRecord(f"message {number} ({role}) has no content: write text, or leave the record out")
        messages.append(Message(ROLES[role], fields.string(content, "messages")))
    example = Conversation(tuple(messages))
    check_conversation(example)
    return example


def _json_cell(cell: str, name: str) -> Any:
    """Parse JSON that stands in a cell of a table."""
    try:
        return json.loads(cell)
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"{name!r} is no JSON ({error}): write a list in brackets") from None


def _no_column(name: str, names: Sequence[str], ours: str) -> str:
    """Return what is wrong where a column, `ours` by our name, is missing, with the nearest name and all there are."""
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return (
        f"there is no column {name!r}; the columns are {_listed(names)}.{hint} Say which one it is with "
        f"--data.columns OURS YOURS, such as --data.columns {ours} {names[0] if names else 'NAME'!r}."
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:30]) + (", ..." if len(names) > 30 else "")


def _type_name(value: Any) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), "null" if value is None else type(value).__name__)
