"""Questions and answers: `<|question|>` question `<|answer|>` answer `<|endofanswer|>`; only answer and end are trained.

Example: "2+3=" -> "5" in bytes: <|question|> 2 + 3 = <|answer|> 5 <|endofanswer|>, weights 0 0 0 0 0 0 1 1. Further
questions of the same conversation follow in the same way, and see what came before them.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from jgpt.batch import Document
from jgpt.check import require
from jgpt.data.examples import QuestionAnswer
from jgpt.data.lists import from_lists as from_lists
from jgpt.tasks.task import Phase, Prompt
from jgpt.tokenizers.vocabulary import Vocabulary


class QATask:
    """Closed questions, kept whole in a row.

    Args:
        vocabulary: of the run.
        max_new_tokens: tokens of the longest answer in training, its end included.
    """

    kind: ClassVar[str] = "qa"
    packing: ClassVar[str] = "whole"
    score_name: ClassVar[str | None] = None

    def __init__(self, vocabulary: Vocabulary, max_new_tokens: int) -> None:
        self.vocabulary = vocabulary
        self.max_new_tokens = max_new_tokens
        names = ("<|question|>", "<|answer|>", "<|endofanswer|>")
        self.question, self.answer, self.end = (vocabulary.special(name) for name in names)

    @classmethod
    def fit(cls, vocabulary: Vocabulary, examples: Sequence[QuestionAnswer]) -> "QATask":
        """Return the task; its answers may become as long as the longest of `examples`."""
        answers = [turn.answer for example in examples for turn in (example, *example.more)]
        return cls(vocabulary, max(len(vocabulary.encode_text(answer)) for answer in answers) + 1)

    @classmethod
    def from_json(cls, vocabulary: Vocabulary, state: dict[str, Any]) -> "QATask":
        """Rebuild from `to_json`."""
        return cls(vocabulary, state["max_new_tokens"])

    def to_json(self) -> dict[str, Any]:
        """Return the length of the longest answer."""
        return {"max_new_tokens": self.max_new_tokens}

    def encode(self, example: QuestionAnswer) -> Document:
        """Return the document of a question and its answer.

        Raises:
            ValueError: question or answer is empty.
        """
        tokens, weights = [], []
        for turn in (example, *example.more):
            require(
                bool(turn.answer.strip()),
                f"the question {turn.question!r} has an empty answer: nothing could be trained or scored; leave it out.",
            )
            given = self._given(turn)
            trained = np.concatenate([self.vocabulary.encode_text(turn.answer), [self.end]])
            tokens += [given, trained]
            weights += [np.zeros(len(given), np.float32), np.ones(len(trained), np.float32)]
        return Document(np.concatenate(tokens).astype(np.int32), np.concatenate(weights))

    def prompt(self, request: str | QuestionAnswer) -> Prompt:
        """Return the prompt that answers a question, with its context where it has one. Raises ValueError where it is empty."""
        phases = (Phase((*self.vocabulary.text_ids, self.end)),)
        example = QuestionAnswer(request, "") if isinstance(request, str) else request
        return Prompt(self._given(example), (self.end,), phases, self.max_new_tokens)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the answer that generated ids stand for."""
        return self.vocabulary.decode_text(ids)

    def dimensions(self, example: QuestionAnswer) -> int | None:
        """Return None: answers are scored by exact match, not by bits."""
        del example
        return None

    def exact_match(self, answer: str, example: QuestionAnswer) -> bool:
        """Return whether `answer` is the expected one, white space at its ends aside."""
        return answer.strip() == example.answer.strip()

    def _given(self, turn: QuestionAnswer) -> np.ndarray:
        require(bool(turn.question.strip()), f"the question is {turn.question!r}: it must hold something to answer.")
        ids = [[self.question], self.vocabulary.encode_text(turn.question), [self.answer]]
        if turn.context:
            ids = [[self.vocabulary.special("<|context|>")], self.vocabulary.encode_text(turn.context), *ids]
        return np.concatenate(ids).astype(np.int32)
