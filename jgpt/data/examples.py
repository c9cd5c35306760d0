"""What sources yield, before any token: texts (plain `str`), questions with answers, pictures with captions.

Owns the example types and `Splits`; refuses ids, which belong to the tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class QuestionAnswer:
    """A question, its answer, and what may be asked after it.

    Attributes:
        question: with everything that is needed to answer it.
        answer: expected.
        more: further questions with their answers, in the same conversation; trained, not scored.
    """

    question: str
    answer: str
    more: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Picture:
    """A picture and what it shows.

    Attributes:
        pixels: uint8 [height, width] or [height, width, channel].
        caption: class name or words; empty for none.
    """

    pixels: np.ndarray
    caption: str = ""


@dataclass(frozen=True)
class TokenStream:
    """Ids that were encoded elsewhere (a memmap), with the number of bytes of text they stand for where it is known."""

    ids: np.ndarray
    num_bytes: int | None = None


@dataclass(frozen=True)
class Splits:
    """Training and held-out examples of one source; no document stands in both.

    Attributes:
        train: examples to learn from.
        validation: examples to score on.
        baselines: figures to print beside the scores, such as the bits per byte of zlib.
    """

    train: Sequence[Any]
    validation: Sequence[Any]
    baselines: dict[str, float] = field(default_factory=dict)
