"""Text: write on from a beginning. A document is `<|text|>` text `<|endoftext|>`, and every target is trained.

Example: "Hi." in bytes -> ids of <|text|> H i . <|endoftext|>, weights 0 1 1 1 1.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from jgpt.batch import Document
from jgpt.check import require
from jgpt.config import TaskConfig
from jgpt.data.examples import TokenStream
from jgpt.tasks.task import Phase, Prompt
from jgpt.tokenizers.vocabulary import Vocabulary


class TextTask:
    """Free text, cut into windows for training.

    Args:
        vocabulary: of the run.
    """

    kind: ClassVar[str] = "text"
    packing: ClassVar[str] = "stream"
    score_name: ClassVar[str | None] = "bits_per_byte"

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.start, self.end = vocabulary.special("<|text|>"), vocabulary.special("<|endoftext|>")
        self.phases = (Phase((*vocabulary.text_ids, self.end)),)

    @classmethod
    def fit(cls, vocabulary: Vocabulary, examples: Sequence[Any], options: TaskConfig | None = None) -> "TextTask":
        """Return the task; text needs to know nothing of its examples."""
        del examples, options
        return cls(vocabulary)

    @classmethod
    def from_json(cls, vocabulary: Vocabulary, state: dict[str, Any]) -> "TextTask":
        """Rebuild from `to_json`."""
        del state
        return cls(vocabulary)

    def to_json(self) -> dict[str, Any]:
        """Return nothing: there is no state."""
        return {}

    def encode(self, example: str | TokenStream) -> Document:
        """Return the document of a text, or of a file of ids as it lies (it brings its own markers, or none)."""
        if isinstance(example, TokenStream):
            top, size = int(example.ids.max()) if len(example.ids) else 0, self.vocabulary.text.size
            require(
                top < size,
                f"the ids go up to {top}, and the tokenizer {self.vocabulary.text_name!r} has {size}: "
                "name the tokenizer that wrote them with --tokenizer.text bpe --tokenizer.path tokenizer.json.",
            )
            return Document(example.ids, None, offset=self.vocabulary.text_ids.start)
        ids = self.vocabulary.encode_text(example)
        return Document(np.concatenate([[self.start], ids, [self.end]]).astype(np.int32))

    def prompt(self, request: str) -> Prompt:
        """Return the prompt that continues `request`; only text and the end may follow."""
        tokens = np.concatenate([[self.start], self.vocabulary.encode_text(request)]).astype(np.int32)
        return Prompt(tokens, (self.end,), self.phases)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Return the text of generated ids."""
        return self.vocabulary.decode_text(ids)

    def dimensions(self, example: str | TokenStream) -> int | None:
        """Return the bytes of the text as read, in UTF-8; None for a file of ids that does not say.

        Line ends are one newline by then and a byte order mark is gone (`decode_text`): a file with either has more bytes.
        """
        return example.num_bytes if isinstance(example, TokenStream) else len(example.encode("utf-8"))
