"""The joint vocabulary: special ids first, then text ids, then image ids.

Owns where each kind of id begins and how the vocabulary is saved with a run; refuses to know any task.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, SupportsIndex

import numpy as np
from jaxtyping import Int32

from jgpt.check import unknown_name
from jgpt.tokenizers.image import load_code, save_code
from jgpt.tokenizers.image_code import ImageCode
from jgpt.tokenizers.text import TextTokenizer, tokenizer_class

# Start and end markers are distinct ids, so that each end can be trained and recognised by itself.
SPECIALS: Final = (
    "<|pad|>",
    "<|text|>",
    "<|endoftext|>",
    "<|question|>",
    "<|answer|>",
    "<|endofanswer|>",
    "<|caption|>",
    "<|image|>",
    "<|endofimage|>",
    "<|context|>",
    "<|choice|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|endofturn|>",
    "<|step|>",
)
OLDEST_SPECIALS: Final = SPECIALS[:9]  # of runs that were saved before the list was saved with them


@dataclass(frozen=True)
class Vocabulary:
    """Every id a run knows.

    Attributes:
        text_name: registered name of the text tokenizer.
        text: the text tokenizer.
        image: the code of pictures, None where the run has no pictures.
        specials: special tokens, first in the vocabulary.
    """

    text_name: str
    text: TextTokenizer
    image: ImageCode | None = None
    specials: tuple[str, ...] = SPECIALS

    @property
    def text_ids(self) -> range:
        """Ids that stand for text."""
        return range(len(self.specials), len(self.specials) + self.text.size)

    @property
    def image_ids(self) -> range:
        """Ids that stand for pixels; empty where the run has no pictures."""
        start = self.text_ids.stop
        return range(start, start + (self.image.size if self.image else 0))

    @property
    def size(self) -> int:
        """Number of ids that mean something; the model may pad its embedding beyond it."""
        return self.image_ids.stop

    def special(self, name: str) -> int:
        """Return the id of a special token such as `<|pad|>`.

        Raises:
            ValueError: there is no such special token.
        """
        if name not in self.specials:
            raise ValueError(unknown_name("special token", name, self.specials))
        return self.specials.index(name)

    def encode_text(self, text: str) -> Int32[np.ndarray, " n"]:
        """Return the joint ids of `text`. Raises ValueError where no id can express a part of it."""
        return self.text.encode(text) + np.int32(self.text_ids.start)

    def decode_text(self, ids: Iterable[SupportsIndex]) -> str:
        """Return the text of `ids`; ids that stand for no text are left out."""
        text = self.text_ids
        # int() first: `in` of a range takes linear time for NumPy's integers
        return self.text.decode([i - text.start for i in map(int, ids) if i in text])

    def encode_image(self, picture: np.ndarray) -> Int32[np.ndarray, " n"]:
        """Return the joint ids of a picture, in raster order.

        Raises:
            ValueError: the run has no image ids, or the picture does not fit its code.
        """
        return self.code.encode(picture) + np.int32(self.image_ids.start)

    def decode_image(self, ids: Iterable[SupportsIndex], shape: tuple[int, ...]) -> np.ndarray:
        """Return the picture of exactly as many image ids as it has. Raises ValueError for any other ids or number."""
        codes = np.asarray([int(i) for i in ids]) - self.image_ids.start
        if codes.size and not (0 <= codes.min() and codes.max() < self.code.size):
            raise ValueError(f"ids outside the image ids {self.image_ids} cannot be decoded as a picture.")
        return self.code.decode(codes, shape)

    def save(self, folder: Path) -> None:
        """Write the vocabulary into `folder`: one JSON file a part."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "text_type.txt").write_text(self.text_name + "\n", encoding="utf-8")
        (folder / "specials.json").write_text(json.dumps(self.specials), encoding="utf-8")
        (folder / "tokenizer.json").write_text(self.text.to_json(), encoding="utf-8")
        save_code(self.image, folder)

    @classmethod
    def load(cls, folder: Path) -> "Vocabulary":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: `folder` holds no vocabulary.
        """
        if not (folder / "text_type.txt").is_file():
            raise FileNotFoundError(f"{folder} holds no tokenizer: train the run with `python train.py` first.")
        name = (folder / "text_type.txt").read_text(encoding="utf-8").strip()
        specials = folder / "specials.json"
        return cls(
            text_name=name,
            text=tokenizer_class(name).from_json((folder / "tokenizer.json").read_text(encoding="utf-8")),
            image=load_code(folder),
            specials=tuple(json.loads(specials.read_text(encoding="utf-8"))) if specials.is_file() else OLDEST_SPECIALS,
        )

    @property
    def code(self) -> ImageCode:
        """The code of pictures. Raises ValueError where the run has none."""
        if self.image is None:
            raise ValueError(
                "this run has no image ids: set tokenizer.image to 'grey' or 'palette' and train it ('rgb' loses nothing, "
                "'learned' is for larger pictures)."
            )
        return self.image
