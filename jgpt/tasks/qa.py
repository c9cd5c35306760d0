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
        answers = [answer for e in examples for answer in (e.answer, *(later for _, later in e.more))]
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
        for question, answer in ((example.question, example.answer), *example.more):
            require(
                bool(answer.strip()),
                f"the question {question!r} has an empty answer: nothing could be trained or scored; leave it out.",
            )
            given = self._given(question)
            trained = np.concatenate([self.vocabulary.encode_text(answer), [self.end]])
            tokens += [given, trained]
            weights += [np.zeros(len(given), np.float32), np.ones(len(trained), np.float32)]
        return Document(np.concatenate(tokens).astype(np.int32), np.concatenate(weights))

    def prompt(self, request: str) -> Prompt:
        """Return the prompt that answers the question `request`. Raises ValueError where it is empty."""
        phases = (Phase((*self.vocabulary.text_ids, self.end)),)
        return Prompt(self._given(request), (self.end,), phases, self.max_new_tokens)

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

    def _given(self, question: str) -> np.ndarray:
        require(bool(question.strip()), f"the question is {question!r}: it must hold something to answer.")
        ids = self.vocabulary.encode_text(question)
        return np.concatenate([[self.question], ids, [self.answer]]).astype(np.int32)
