"""What sources yield, before any token: texts (plain `str`), questions with answers, pictures with captions.

Owns the example types and `Splits`; refuses ids, which belong to the tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class QuestionAnswer:
    """A question, its answer, and what may be asked after it.

    Attributes:
        question: the question itself.
        answer: expected, and trained.
        more: further questions of the same conversation; trained, not scored. Each sees all that came before it.
        context: what the answer is to be found in; empty where there is none (closed book).
        references: every answer that counts as right; empty = `answer` alone.
        choices: of a multiple-choice question, `answer` among them; empty where the answer is free.
        category: the row of the score table it belongs to; empty for none.
        steps: what leads to the answer, in order, such as the facts that support it; said before the answer and trained
            where the run's `data.tasks.NAME.steps` is on, never given.
        place: where it stands, for messages, such as "qa.jsonl, line 3"; empty where it was made in memory.
    """

    question: str
    answer: str
    more: tuple["QuestionAnswer", ...] = ()
    context: str = ""
    references: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    category: str = ""
    steps: tuple[str, ...] = ()
    place: str = field(default="", compare=False)


@dataclass(frozen=True)
class Message:
    """One turn of a conversation: who speaks ("system", "user" or "assistant"), and what is said."""

    role: str
    content: str


@dataclass(frozen=True)
class Conversation:
    """A dialogue; the assistant's turns are trained. `place` as of a question."""

    messages: tuple[Message, ...]
    place: str = field(default="", compare=False)


@dataclass(frozen=True)
class Picture:
    """A picture and what it shows.

    Attributes:
        pixels: uint8 [height, width] or [height, width, channel].
        caption: class name or words; empty for none.
        brightness: what the pixels were drawn from at random (`drawn`), like them; None where they were not.
        place: as of a question.
    """

    pixels: np.ndarray
    caption: str = ""
    brightness: np.ndarray | None = None
    place: str = field(default="", compare=False)


class PlacedText(str):
    """A text of several that knows where it stands; equal to the same text anywhere else."""

    place: str = ""


def placed(example: Any, place: str) -> Any:
    """Return an example that knows where it stands."""
    if isinstance(example, str):
        example = PlacedText(example)
        example.place = place
        return example
    return replace(example, place=place)


@dataclass(frozen=True)
class TokenStream:
    """Ids that were encoded elsewhere.

    Attributes:
        ids: mapped into memory.
        num_bytes: of the text they stand for; None where nobody says.
        file: they lie in; None = in memory.
        first: index of the first of them in `file`.
    """

    ids: np.ndarray
    num_bytes: int | None = None
    file: Path | None = None
    first: int = 0


@dataclass(frozen=True)
class Splits:
    """Training and held-out examples of one source; no document stands in both.

    Attributes:
        train: examples to learn from.
        validation: examples to score on.
        baselines: figures to print beside the scores, such as the bits per byte of zlib.
        kind: of the task these examples are for ("text", "qa", "chat", "image"); None where the source serves one alone.
        recognised: what the source took its input for, in words, such as "SQuAD JSON".
        notes: what a user should know of the reading, such as what was skipped and why.
        skipped: every record that was bad and left out: where it stands, and why.
        own_share: the source brings no split, so that a share of it is held out.
    """

    train: Sequence[Any]
    validation: Sequence[Any]
    baselines: dict[str, float] = field(default_factory=dict)
    kind: str | None = None
    recognised: str = ""
    notes: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    own_share: bool = False
