"""Pictures: `<|caption|>` caption `<|image|>` pixels `<|endofimage|>`; pixels and end are trained, the caption is given.

Example: a 2x2 picture of a 7 -> <|caption|> 7 <|image|> p00 p01 p10 p11 <|endofimage|>, weights 0 0 0 1 1 1 1 1.
Without its caption, as one drawn on nothing is asked for: <|caption|> <|image|> p00 p01 p10 p11 <|endofimage|>.
"""

import difflib
import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

import numpy as np

from jgpt.batch import Document
from jgpt.check import require
from jgpt.config import AugmentConfig, TaskConfig
from jgpt.data.augment import augment, changes
from jgpt.data.drawn import draw
from jgpt.data.examples import Picture
from jgpt.tasks.task import Phase, Prompt
from jgpt.tokenizers.image_code import is_exact
from jgpt.tokenizers.vocabulary import Vocabulary

MAX_CAPTIONS: Final = 1000  # distinct captions kept; a set with more has free text, not classes
PER_CLASS: Final = 10  # pictures a caption from which on captions of several words are names of classes too
SHOWN: Final = 20  # known captions that an error lists


class ImageTask:
    """Pictures of one shape, drawn token by token, cell by cell in raster order, after their caption.

    Args:
        vocabulary: of the run, with image ids.
        shape: [height, width] or [height, width, channels].
        captions: distinct captions of training, at most MAX_CAPTIONS, for messages and default requests.
        free: captions are free text, so that any may be asked for; else they are names of classes.
        unconditional: pictures without a caption were trained, so that nothing may be asked for.
        exact: the image code loses nothing on the training pictures, so that bits per dimension mean something.
    """

    kind: ClassVar[str] = "image"
    packing: ClassVar[str] = "whole"
    score_name: ClassVar[str | None] = "bits_per_dim"

    def __init__(
        self,
        vocabulary: Vocabulary,
        shape: tuple[int, ...],
        captions: tuple[str, ...],
        *,
        free: bool = False,
        unconditional: bool = False,
        exact: bool = True,
    ) -> None:
        self.vocabulary = vocabulary
        self.shape = shape
        self.captions = captions
        self.free, self.unconditional, self.exact = free, unconditional, exact
        self.score_name = "bits_per_dim" if exact else None  # a lossy code would be one of other pictures than these
        names = ("<|caption|>", "<|image|>", "<|endofimage|>")
        self.caption, self.image, self.end = (vocabulary.special(name) for name in names)
        self._weights: dict[int, np.ndarray] = {}  # one array for all pictures whose captions are as long

    @classmethod
    def fit(cls, vocabulary: Vocabulary, examples: Sequence[Picture], options: TaskConfig | None = None) -> "ImageTask":
        """Return the task for pictures shaped like the first of `examples`.

        Captions are free text where there are more than MAX_CAPTIONS of them, or where they hardly repeat: fewer than
        PER_CLASS pictures each if some have several words, else fewer than two.
        """
        del options
        found = {example.caption for example in examples}
        words = any(len(caption.split()) > 1 for caption in found)
        code = vocabulary.code
        return cls(
            vocabulary,
            examples[0].pixels.shape,
            tuple(sorted(found)[:MAX_CAPTIONS]),
            free=len(found) > MAX_CAPTIONS or len(examples) < (PER_CLASS if words else 2) * len(found),
            unconditional="" in found,
            exact=all(is_exact(code, example.pixels) for example in examples),  # ends at the first loss
        )

    @classmethod
    def from_json(cls, vocabulary: Vocabulary, state: dict[str, Any]) -> "ImageTask":
        """Rebuild from `to_json`; runs of before keep to the captions they list."""
        captions = tuple(state["captions"])
        return cls(
            vocabulary,
            tuple(state["shape"]),
            captions,
            free=state.get("free", len(captions) >= MAX_CAPTIONS),
            unconditional=state.get("unconditional", "" in captions),
            exact=state.get("exact", True),
        )

    def to_json(self) -> dict[str, Any]:
        """Return all that the constructor needs beside the vocabulary."""
        return {
            "shape": list(self.shape),
            "captions": list(self.captions),
            "free": self.free,
            "unconditional": self.unconditional,
            "exact": self.exact,
        }

    @property
    def grid(self) -> tuple[int, int, int]:
        """(rows, columns, tokens of a cell) of a picture's tokens."""
        return self.vocabulary.code.grid(self.shape)

    def encode(self, example: Picture) -> Document:
        """Return the document of a picture.

        Raises:
            ValueError: the picture is not uint8, or not of the task's shape.
        """
        pixels = example.pixels
        if pixels.dtype != np.uint8 or pixels.shape != self.shape:
            raise ValueError(
                f"a picture captioned {example.caption!r} is {pixels.dtype} of shape {pixels.shape}, this run draws "
                f"uint8 of shape {self.shape}: bring it to that form, by --data.image-size and --data.image-mode."
            )
        return self._document(example.caption, self.vocabulary.encode_image(pixels))

    def knows(self, caption: str) -> bool:
        """Return whether pictures of this caption can be asked for."""
        return self.unconditional if not caption else self.free or caption in self.captions

    def prompt(self, request: str | Picture | None) -> Prompt:
        """Return the prompt that draws `request`: exactly the tokens of a picture may follow, then the end.

        Args:
            request: a caption; None or "" draws on nothing. A picture with fewer rows: see `prompt_from`.

        Raises:
            ValueError: captions are classes and this is none of them, or nothing is asked for and was never trained.
        """
        if isinstance(request, Picture):
            return self.prompt_from(request.caption, request.pixels)
        request = request or ""
        require(
            bool(request) or self.unconditional,
            "the caption is empty, and this run never saw a picture without its caption: ask for one, such as "
            f"{self.captions[0]!r}, or train with --data.tasks.NAME.condition-dropout 0.1.",
        )
        if request and not self.free and request not in self.captions:
            near = difflib.get_close_matches(request, self.captions, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            more = f" and {len(self.captions) - SHOWN} more" if len(self.captions) > SHOWN else ""
            raise ValueError(
                f"no picture was captioned {request!r} in training.{hint} Known: {', '.join(self.captions[:SHOWN])}{more}."
            )
        start, cycle = self.vocabulary.image_ids.start, self.vocabulary.code.cycle
        kinds = [tuple(range(start + ids.start, start + ids.stop)) for ids in cycle]
        count = math.prod(self.grid)
        if len(kinds) == 1:
            pixels = [Phase(kinds[0], count)]
        else:
            pixels = [Phase(kinds[i % len(kinds)], 1) for i in range(count)]
        return Prompt(self._given(request), (self.end,), (*pixels, Phase((self.end,), None)), count + 1)

    def decode(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the picture of generated ids, uint8 of the task's shape."""
        return self.vocabulary.decode_image(ids, self.shape)

    def dimensions(self, example: Picture) -> int | None:
        """Return pixels times channels, over which bits are averaged; None where the image code loses any of it."""
        if not self.exact or not is_exact(self.vocabulary.code, example.pixels):
            return None
        return int(np.prod(example.pixels.shape))

    def variation(
        self,
        examples: Sequence[Picture],
        *,
        name: str,
        config: AugmentConfig,
        condition_dropout: float,
        seed: int,
    ) -> Callable[[int, int], Document] | None:
        """Return how training pictures vary: (index, epoch) to a document; None where nothing is switched on.

        The result depends on the arguments, the index and the epoch alone. Never is it longer than `encode` gives.

        Args:
            examples: of the training split.
            name: of the task.
            config: changes to the pixels.
            condition_dropout: share of the pictures that are shown without their caption.
            seed: of the run.
        """
        if not changes(config) and condition_dropout == 0 and all(e.brightness is None for e in examples):
            return None
        stream = zlib.crc32(name.encode())

        def document(index: int, epoch: int) -> Document:
            random = np.random.default_rng((seed, stream, epoch, index))
            alone = random.random() < condition_dropout
            example = examples[index]
            if example.brightness is None:
                pixels = augment(example.pixels, config, random)
            else:
                pixels = draw(augment(example.brightness, config, random), random)
            return self._document("" if alone else example.caption, self.vocabulary.encode_image(pixels))

        return document

    def _document(self, caption: str, codes: np.ndarray) -> Document:
        given = self._given(caption)
        tokens = np.concatenate([given, codes, [self.end]]).astype(np.int32)
        if len(given) not in self._weights:
            self._weights[len(given)] = np.repeat(np.array([0, 1], np.float32), [len(given), len(tokens) - len(given)])
        return Document(tokens, self._weights[len(given)])

    def _given(self, caption: str) -> np.ndarray:
        ids = self.vocabulary.encode_text(caption)
        return np.concatenate([[self.caption], ids, [self.image]]).astype(np.int32)

    def prompt_from(self, caption: str | None, rows: np.ndarray) -> Prompt:
        """Return the prompt that goes on with a picture: as `prompt`, with the tokens of its top rows given.

        Codes whose cells are higher than a pixel see the given rows as if the lowest went on to the bottom.

        Args:
            caption: as `prompt` takes it.
            rows: the top rows, uint8 of the task's width and channels.

        Raises:
            ValueError: the rows are none, all or too many, of another width, or end within a row of cells.
        """
        height, (cell_rows, columns, per_cell) = self.shape[0], self.grid
        require(
            rows.dtype == np.uint8 and rows.ndim == len(self.shape) and rows.shape[1:] == self.shape[1:],
            f"the given rows are {rows.dtype} of shape {rows.shape}, this run draws uint8 of shape {self.shape}: give "
            "fewer rows of the same width and channels.",
        )
        side = height // cell_rows
        require(
            0 < len(rows) < height and len(rows) % side == 0,
            f"{len(rows)} rows are given of pictures of {height} rows: give {side} to {height - side}"
            + (f", a multiple of {side}, since the image code has cells of {side} rows." if side > 1 else "."),
        )
        whole = np.concatenate([rows, np.repeat(rows[-1:], height - len(rows), axis=0)])
        begun = len(rows) // side * columns * per_cell
        plain, phases, left = self.prompt(caption), [], begun
        for phase in plain.phases:
            taken = left if phase.count is None else min(left, phase.count)
            left -= taken
            if phase.count is None or taken < phase.count:
                phases.append(Phase(phase.ids, None if phase.count is None else phase.count - taken))
        return Prompt(
            tokens=np.concatenate([plain.tokens, self.vocabulary.encode_image(whole)[:begun]]).astype(np.int32),
            stop_ids=plain.stop_ids,
            phases=tuple(phases),
            max_new_tokens=math.prod(self.grid) + 1 - begun,
            begun=begun,
        )
