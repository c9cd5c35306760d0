"""The examples of a split, encoded by their task: what is said of one that cannot be, or that is too long, and what it costs.

Refuses to pack (`data.packing`), and to read.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from jgpt.batch import Document
from jgpt.check import require
from jgpt.data.examples import Conversation, Picture, QuestionAnswer
from jgpt.tasks.qa import QATask
from jgpt.tasks.task import Task

LEFT_OUT: Final = ("left_out_too_long", "left_out_not_encodable")  # names of scores, too


class Encoded(NamedTuple):
    """The examples of one split that can be used, encoded.

    Attributes:
        documents: of them.
        kept: which examples they are of.
        too_long: which examples are longer than the context, in words.
        skipped: what cannot be encoded, and why.
    """

    documents: list[Document]
    kept: list[int]
    too_long: tuple[str, ...]
    skipped: tuple[str, ...]

    @property
    def left_out(self) -> dict[str, int]:
        """Why examples are left out (a name of `LEFT_OUT`) -> how many, of the reasons that there are."""
        counts = dict(zip(LEFT_OUT, (len(self.too_long), len(self.skipped)), strict=True))
        return {reason: count for reason, count in counts.items() if count}

    @property
    def listed(self) -> tuple[str, ...]:
        """Every example that is left out, and why."""
        return self.skipped + self.too_long

    @property
    def notes(self) -> tuple[str, ...]:
        """What is said of those that cannot be encoded."""
        count = len(self.skipped)
        return (f"{count:,} bad record(s) skipped that cannot be encoded, such as {self.skipped[0]}",) if count else ()


def encode_split(
    where: str, task: Task, examples: Sequence[Any], length: int, on_long: str, on_bad_record: str
) -> Encoded:
    """Encode the examples of one split.

    Args:
        where: the task and the split, for messages.
        task: encodes.
        examples: of the split.
        length: context [tokens].
        on_long: as in `TaskConfig`.
        on_bad_record: as in `DataConfig`.

    Raises:
        ValueError: an example cannot be encoded or is too long, and such are not to be skipped; or none is left.
    """
    documents: list[Document] = []
    kept: list[int] = []
    too_long: list[str] = []
    bad: list[str] = []
    for i, example in enumerate(examples):
        try:
            document = task.encode(example)
            size = task.room(example, document) if isinstance(task, QATask) else len(document.tokens)
        except ValueError as error:
            complaint = f"{where}, {_which(example)}: {error}"
            if on_bad_record != "skip":
                raise ValueError(f"{complaint} Or leave such examples out with --data.on-bad-record skip.") from None
            bad.append(complaint)
            continue
        if task.packing == "whole" and size > length + 1:
            complaint = (
                f"{where}, {_which(example)}: it has {size} tokens and must stay whole, but a row holds {length + 1}"
            )
            require(
                on_long == "skip",
                f"{complaint}: raise model.context_length to {size - 1} or more, shorten it, or leave such "
                "examples out with on_long 'skip' (--data.tasks.NAME.on-long skip).",
            )
            too_long.append(complaint)
            continue
        documents.append(document)
        kept.append(i)
    require(
        sum(len(document.tokens) - 1 for document in documents) > 0,
        f"{where} holds no target to predict ({len(too_long)} of {len(examples)} examples are longer than model.context_length "
        f"{length}{f', {len(bad)} cannot be encoded' if bad else ''}): give it more data, or raise model.context_length.",
    )
    return Encoded(documents, kept, tuple(too_long), tuple(bad))


def _which(example: Any) -> str:
    """Return words that say which example is meant: where it stands, where it knows that, and how it begins."""
    place = getattr(example, "place", "")
    return f"{place}, {_beginning(example)}" if place else _beginning(example)


def _beginning(example: Any) -> str:
    if isinstance(example, Conversation):
        example = example.messages[0].content if example.messages else ""
    text = {QuestionAnswer: "question", Picture: "caption"}.get(type(example))
    words = getattr(example, text) if text else example
    return f"the example that begins {words[:60]!r}" if isinstance(words, str) else "an example of ids"
