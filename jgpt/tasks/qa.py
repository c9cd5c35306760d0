"""Questions and answers: `<|question|>` question `<|answer|>` answer `<|endofanswer|>`; only answer and end are trained.

Example: "2+3=" -> "5" in bytes: <|question|> 2 + 3 = <|answer|> 5 <|endofanswer|>, weights 0 0 0 0 0 0 1 1. Further
questions of the same conversation follow in the same way, and see what came before them.

A context stands before the question, and the choices after it, each after its own marker and in their own order:

    <|context|> It is red. <|question|> Which colour? <|choice|> blue <|choice|> red <|answer|> red <|endofanswer|>

What is answered is a choice's own words, never its letter or number, so that its likelihood can be compared with that
of the other choices. With `data.tasks.NAME.show_choices` off the choices are left out, and the question is asked closed-book.

With `data.tasks.NAME.steps` on, the model says what leads to the answer before it (Wei et al. 2022; in bAbI the supporting
facts, Weston et al. 2015), and a second marker tells them apart; all behind the first is trained:

    <|context|> Al has it. Al is out. Bo is in. <|question|> Where is it?
    <|answer|> <|step|> Al has it. <|step|> Al is out. <|answer|> out <|endofanswer|>
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from jgpt.batch import Document
from jgpt.check import require
from jgpt.config import TaskConfig
from jgpt.data.examples import QuestionAnswer
from jgpt.data.lists import from_lists as from_lists
from jgpt.tasks.task import Phase, Prompt
from jgpt.tokenizers.vocabulary import Vocabulary


class QATask:
    """Questions, closed-book or with context and choices, kept whole in a row.

    Args:
        vocabulary: of the run.
        max_new_tokens: tokens of the longest answer in training, its end included.
        show_choices: list the choices of a question that has some before the answer.
        steps: say what leads to the answer before it.
    """

    kind: ClassVar[str] = "qa"
    packing: ClassVar[str] = "whole"
    score_name: ClassVar[str | None] = None

    def __init__(
        self, vocabulary: Vocabulary, max_new_tokens: int, show_choices: bool = False, steps: bool = False
    ) -> None:
        self.vocabulary = vocabulary
        self.max_new_tokens = max_new_tokens
        self.show_choices = show_choices
        names = ("<|question|>", "<|answer|>", "<|endofanswer|>")
        self.question, self.answer, self.end = (vocabulary.special(name) for name in names)
        self.step = vocabulary.special("<|step|>") if steps else None
        markers = (self.end,) if self.step is None else (self.end, self.answer, self.step)
        self.phases = (Phase((*vocabulary.text_ids, *markers)),)

    @classmethod
    def fit(
        cls, vocabulary: Vocabulary, examples: Sequence[QuestionAnswer], options: TaskConfig | None = None
    ) -> "QATask":
        """Return the task; its answers may become as long as the longest of `examples`.

        Raises:
            ValueError: steps are asked for, and no example has any.
        """
        options = options or TaskConfig(kind="qa")
        turns = [turn for example in examples for turn in (example, *example.more)]
        require(
            not options.steps or any(turn.steps for turn in turns),
            "data.tasks.*.steps is on, but no training example has steps: give the data a column of them, or leave it off.",
        )
        task = cls(vocabulary, 1, options.show_choices and any(turn.choices for turn in turns), options.steps)
        task.max_new_tokens = max(len(task._trained(turn)) for turn in turns)
        return task

    @classmethod
    def from_json(cls, vocabulary: Vocabulary, state: dict[str, Any]) -> "QATask":
        """Rebuild from `to_json`; runs saved before choices were known list none."""
        return cls(vocabulary, state["max_new_tokens"], state.get("show_choices", False), state.get("steps", False))

    def to_json(self) -> dict[str, Any]:
        """Return the length of the longest answer, whether choices are listed, and whether steps are said."""
        return {
            "max_new_tokens": self.max_new_tokens,
            "show_choices": self.show_choices,
            "steps": self.step is not None,
        }

    def encode(self, example: QuestionAnswer) -> Document:
        """Return the document of a question and its answer.

        Raises:
            ValueError: question or answer is empty, or the answer is not one of the choices.
        """
        tokens, weights = [], []
        for turn in (example, *example.more):
            require(
                bool(turn.answer.strip()),
                f"the question {turn.question!r} has an empty answer: nothing could be trained or scored; leave it out.",
            )
            require(
                not turn.choices or turn.answer in turn.choices,
                f"the question {turn.question!r} has the answer {turn.answer!r}, which is none of its choices "
                f"{list(turn.choices)}: give the answer word for word as among the choices, or leave them out.",
            )
            given, trained = self._given(turn), self._trained(turn)
            tokens += [given, trained]
            weights += [np.zeros(len(given), np.float32), np.ones(len(trained), np.float32)]
        return Document(np.concatenate(tokens).astype(np.int32), np.concatenate(weights))

    def room(self, example: QuestionAnswer, document: Document) -> int:
        """Return the length of the longest document that training and scoring make of a question [tokens].

        Args:
            example: whose choices are compared, each as the answer.
            document: of the question with its own answer.

        Raises:
            ValueError: a choice holds what no token expresses.
        """
        given = 0 if document.weights is None else int(np.flatnonzero(document.weights)[0])
        bare = (replace(example, answer=choice, steps=()) for choice in example.choices)
        return max([len(document.tokens), *(given + len(self._trained(turn)) for turn in bare)])

    def candidates(self, example: QuestionAnswer) -> list[Document]:
        """Return the document of each choice as the answer, in the order of the choices; weights as in `encode`.

        Raises:
            ValueError: there are no two choices, or one of them is empty.
        """
        require(
            len(example.choices) >= 2,
            f"the question {example.question!r} has {len(example.choices)} choices: give at least two to choose from.",
        )
        return [self.encode(replace(example, answer=choice, more=(), steps=())) for choice in example.choices]

    def prompt(self, request: str | QuestionAnswer) -> Prompt:
        """Return the prompt that answers a question, with its context and choices. Raises ValueError where it is empty."""
        example = QuestionAnswer(request, "") if isinstance(request, str) else request
        return Prompt(self._given(example), (self.end,), self.phases, self.max_new_tokens)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Return the answer that generated ids stand for: what follows the steps, "" where none follows."""
        if self.step is not None:
            places = np.flatnonzero(np.asarray(ids) == self.answer)
            ids = ids[places[0] :] if len(places) else []
        return self.vocabulary.decode_text(ids)

    def steps(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """Return the steps that generated ids hold before the answer."""
        if self.step is None:
            return []
        spoken: list[list[int]] = []
        for i in map(int, ids):
            if i == self.answer:
                break
            if i == self.step:
                spoken.append([])
            elif spoken:
                spoken[-1].append(i)
        return [self.vocabulary.decode_text(step) for step in spoken]

    def dimensions(self, example: QuestionAnswer) -> int | None:
        """Return None: answers are scored by what they say, not by bits."""
        del example
        return None

    def _given(self, turn: QuestionAnswer) -> np.ndarray:
        """Return the ids before the answer and what leads to it, the marker of the answer included."""
        require(bool(turn.question.strip()), f"the question is {turn.question!r}: it must hold something to answer.")
        parts = [("<|question|>", turn.question)]
        if turn.context:
            parts.insert(0, ("<|context|>", turn.context))
        if self.show_choices:
            parts += [("<|choice|>", choice) for choice in turn.choices]
        ids = [
            ids
            for marker, text in parts
            for ids in ([self.vocabulary.special(marker)], self.vocabulary.encode_text(text))
        ]
        return np.concatenate([*ids, [self.answer]]).astype(np.int32)

    def _trained(self, turn: QuestionAnswer) -> np.ndarray:
        """Return the ids of steps and answer, and their end."""
        ids = [] if self.step is None else [[self.answer]]
        if self.step is not None:
            ids = [part for step in turn.steps for part in ([self.step], self.vocabulary.encode_text(step))] + ids
        return np.concatenate([*ids, self.vocabulary.encode_text(turn.answer), [self.end]]).astype(np.int32)
