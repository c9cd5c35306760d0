"""Multiple choice: which of the given answers a model holds most probable, by the exact forward pass.

Owns the two readings of "most probable": the summed log-likelihood of a choice as the answer, its end marker included, and
the same per byte of the choice's text, which does not favour short ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from jgpt.config import ModelConfig
from jgpt.data.examples import QuestionAnswer
from jgpt.data.packing import WholeRows
from jgpt.likelihood import token_nats, weighted_nats
from jgpt.tasks.qa import QATask

AT_ONCE: Final = 512  # questions whose documents stand in memory together; enough to fill the rows well


@dataclass(frozen=True)
class Choice:
    """What a model makes of the choices of one question.

    Attributes:
        nats: negative log-likelihood of each choice as the answer, its end included [nats]; inf where it does not fit the
            context.
        num_bytes: of each choice in UTF-8.
    """

    nats: tuple[float, ...]
    num_bytes: tuple[int, ...]

    @property
    def summed(self) -> int:
        """Index of the choice with the highest log-likelihood; the first of equals."""
        return int(np.argmin(self.nats))

    @property
    def normalised(self) -> int:
        """Index of the choice with the highest log-likelihood per byte; the first of equals."""
        return int(np.argmin(np.array(self.nats) / np.array(self.num_bytes)))


def choose(
    cfg: ModelConfig,
    params: Any,
    task: QATask,
    examples: Sequence[QuestionAnswer],
    *,
    batch_size: int,
    advance: Callable[[int], None] = lambda questions: None,
) -> list[Choice]:
    """Return what the model makes of the choices of every question.

    Args:
        cfg: from `gpt.resolve`.
        params: from `gpt.init`.
        task: encodes the questions.
        examples: questions with at least two choices each.
        batch_size: rows a batch, each as long as the context; short questions share a row and do not see each other.
        advance: called with the number of questions done since the last call.

    Raises:
        ValueError: a question has fewer than two choices, or an empty one.
    """
    out: list[Choice] = []
    for first in range(0, len(examples), AT_ONCE):
        some = examples[first : first + AT_ONCE]
        documents = [task.candidates(example) for example in some]
        flat = [document for candidates in documents for document in candidates]
        fits = [len(document.tokens) - 1 <= cfg.context_length for document in flat]
        rows = WholeRows([document for document, good in zip(flat, fits, strict=True) if good], cfg.context_length)
        nats = np.full(len(flat), np.inf)
        if len(rows):
            nats[fits] = weighted_nats(rows, token_nats(cfg, params, rows, batch_size=batch_size))
        ends = np.cumsum([len(candidates) for candidates in documents])
        for example, values in zip(some, np.split(nats, ends[:-1]), strict=True):
            sizes = tuple(len(choice.encode("utf-8")) for choice in example.choices)
            out.append(Choice(tuple(values.tolist()), sizes))
        advance(len(some))
    return out
