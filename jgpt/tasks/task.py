"""What a task is: both directions between examples and ids, in one object, so that they cannot drift.

Owns the protocol and `Prompt`; refuses any particular task.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from jgpt.batch import Document
from jgpt.config import TaskConfig
from jgpt.tokenizers.vocabulary import Vocabulary


@dataclass(frozen=True)
class Phase:
    """A stretch of generated tokens and the ids allowed in it.

    Attributes:
        ids: allowed joint ids.
        count: length of the stretch [tokens]; None for all that follow.
    """

    ids: tuple[int, ...]
    count: int | None = None


@dataclass(frozen=True)
class Prompt:
    """What the sampler needs in order to answer one request.

    Attributes:
        tokens: the ids given to the model: a prefix of the encoding of a whole example.
        stop_ids: ids that end the answer; they are not part of it.
        phases: which ids may be generated, in order.
        max_new_tokens: longest answer [tokens], the end marker included; None leaves it to the caller.
        begun: tokens at the end of `tokens` that are part of the answer already, as the given half of a picture.
    """

    tokens: np.ndarray
    stop_ids: tuple[int, ...]
    phases: tuple[Phase, ...]
    max_new_tokens: int | None = None
    begun: int = 0


@runtime_checkable
class Task(Protocol):
    """One kind of work, as the mixture, the evaluation and `sample.py` see it.

    Attributes:
        kind: registered name.
        packing: "stream" if examples may be cut into windows, "whole" if not.
        score_name: what the likelihood is reported as, e.g. bits_per_byte.
    """

    kind: ClassVar[str]
    packing: ClassVar[str]
    score_name: ClassVar[str | None]

    @classmethod
    def fit(cls, vocabulary: Vocabulary, examples: Sequence[Any], options: TaskConfig | None = None) -> "Task":
        """Return the task with what it needs to know of its training examples and of its config; None = defaults."""
        ...

    @classmethod
    def from_json(cls, vocabulary: Vocabulary, state: dict[str, Any]) -> "Task":
        """Rebuild from `to_json`."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` needs, as JSON values."""
        ...

    def encode(self, example: Any) -> Document:
        """Return the ids and loss weights of one example."""
        ...

    def prompt(self, request: Any) -> Prompt:
        """Return what to give the model for a request (a text to continue, a question, a caption)."""
        ...

    def decode(self, ids: Sequence[int] | np.ndarray) -> Any:
        """Return what generated ids stand for."""
        ...

    def dimensions(self, example: Any) -> int | None:
        """Return the number of units over which bits are averaged: bytes, or pixels times channels. None if unknown."""
        ...
