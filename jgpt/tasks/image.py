"""Pictures: `<|caption|>` caption `<|image|>` pixels `<|endofimage|>`; pixels and end are trained, the caption is given.

Example: a 2x2 picture of a 7 -> <|caption|> 7 <|image|> p00 p01 p10 p11 <|endofimage|>, weights 0 0 0 1 1 1 1 1.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from jgpt.batch import Document
from jgpt.config import TaskConfig
from jgpt.data.examples import Picture
from jgpt.tasks.task import Phase, Prompt
from jgpt.tokenizers.vocabulary import Vocabulary


class ImageTask:
    """Pictures of one shape, drawn pixel by pixel in raster order after their caption.

    Args:
        vocabulary: of the run, with image ids.
        shape: [height, width] or [height, width, channels].
        captions: distinct captions of training, at most 1,000, for messages and default requests.
    """

    kind: ClassVar[str] = "image"
    packing: ClassVar[str] = "whole"
    score_name: ClassVar[str | None] = "bits_per_dim"

    def __init__(self, vocabulary: Vocabulary, shape: tuple[int, ...], captions: tuple[str, ...]) -> None:
        self.vocabulary = vocabulary
        self.shape = shape
        self.captions = captions
        names = ("<|caption|>", "<|image|>", "<|endofimage|>")
        self.caption, self.image, self.end = (vocabulary.special(name) for name in names)

    @classmethod
    def fit(cls, vocabulary: Vocabulary, examples: Sequence[Picture], options: TaskConfig | None = None) -> "ImageTask":
        """Return the task for pictures shaped like the first of `examples`."""
        del options
        captions = sorted({example.caption for example in examples})[:1000]
        return cls(vocabulary, examples[0].pixels.shape, tuple(captions))

    @classmethod
    def from_json(cls, vocabulary: Vocabulary, state: dict[str, Any]) -> "ImageTask":
        """Rebuild from `to_json`."""
        return cls(vocabulary, tuple(state["shape"]), tuple(state["captions"]))

    def to_json(self) -> dict[str, Any]:
        """Return the shape and the captions."""
        return {"shape": list(self.shape), "captions": list(self.captions)}

    def encode(self, example: Picture) -> Document:
        """Return the document of a picture.

        Raises:
            ValueError: the picture is not uint8, or not of the task's shape.
        """
        pixels = example.pixels
        if pixels.dtype != np.uint8 or pixels.shape != self.shape:
            raise ValueError(
                f"a picture captioned {example.caption!r} is {pixels.dtype} of shape {pixels.shape}, this run draws "
                f"uint8 of shape {self.shape}: resize and convert it."
            )
        given = self._given(example.caption)
        trained = np.concatenate([self.vocabulary.encode_image(pixels), [self.end]])
        weights = np.repeat(np.array([0, 1], np.float32), [len(given), len(trained)])
        return Document(np.concatenate([given, trained]).astype(np.int32), weights)

    def prompt(self, request: str) -> Prompt:
        """Return the prompt that draws `request`: exactly height x width image ids may follow, then the end.

        Raises:
            ValueError: no training picture had this caption.
        """
        if request not in self.captions and len(self.captions) < 1000:
            raise ValueError(f"no picture was captioned {request!r} in training; known: {', '.join(self.captions)}.")
        pixels = self.shape[0] * self.shape[1]
        phases = (Phase(tuple(self.vocabulary.image_ids), pixels), Phase((self.end,), None))
        return Prompt(self._given(request), (self.end,), phases, pixels + 1)

    def decode(self, ids: Sequence[int]) -> np.ndarray:
        """Return the picture of generated ids, uint8 of the task's shape."""
        return self.vocabulary.decode_image(ids, self.shape)

    def dimensions(self, example: Picture) -> int | None:
        """Return pixels times channels."""
        return int(np.prod(example.pixels.shape))

    def _given(self, caption: str) -> np.ndarray:
        ids = self.vocabulary.encode_text(caption)
        return np.concatenate([[self.caption], ids, [self.image]]).astype(np.int32)
