"""The image codes by name: which there are, how a run makes its own, and how one is saved.

Owns `IMAGE_CODES`; each code stands in its own file, and `image_code` says what a code is.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import UInt64

from jgpt.check import require, unknown_name
from jgpt.config import TokenizerConfig
from jgpt.tokenizers.image_code import ImageCode
from jgpt.tokenizers.image_learned import Learned
from jgpt.tokenizers.image_palette import Palette
from jgpt.tokenizers.image_rgb import RGB

__all__ = ["IMAGE_CODES", "ImageCode", "Palette", "load_code", "load_marks", "make_code", "save_code", "save_marks"]

MARKS: Final = "fitted_to.npy"
IMAGE_CODES: Final[dict[str, Any]] = {"none": None, "grey": Palette, "palette": Palette, "rgb": RGB, "learned": Learned}


def make_code(config: TokenizerConfig, pictures: Sequence[np.ndarray], seed: int) -> ImageCode | None:
    """Return the code that a config asks for; a palette learns its colours from the training pictures.

    Args:
        config: names the code.
        pictures: of the training split, uint8.
        seed: of k-means.

    Raises:
        ValueError: the pictures are missing or have fewer colours than the palette asks for; under auto it takes
            just those.
        FileNotFoundError: tokenizer.image_path holds no learned code.
    """
    name = config.image
    if name == "auto":
        name = "none" if not pictures else "grey" if all(pixels.ndim == 2 for pixels in pictures) else "palette"
    if name == "none":
        return None
    if name == "grey":
        return Palette.grey(config.image_levels)
    if name == "rgb":
        return RGB()
    if name == "learned":
        code = load_code(Path(config.image_path or "").expanduser())
        if not isinstance(code, Learned):
            raise FileNotFoundError(
                f"tokenizer.image_path {config.image_path!r} holds no learned tokenizer: make one with "
                "`jgpt fit-image-tokenizer PATH --out FOLDER`."
            )
        code.fitted_to = load_marks(Path(config.image_path or "").expanduser())
        return code
    require(bool(pictures), "tokenizer.image is 'palette', but no task of the config has pictures to fit it to.")
    return Palette.fit(pictures, config.image_levels, seed, fewer=config.image == "auto")


def save_code(code: ImageCode | None, folder: Path) -> None:
    """Write a code into `folder`: image.json, and image.npz where it has arrays. None takes away what lies there."""
    for name in ("image.json", "image.npz"):
        (folder / name).unlink(missing_ok=True)
    if code is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "image.json").write_text(code.to_json(), encoding="utf-8")
    if code.arrays:
        np.savez(folder / "image.npz", **code.arrays)


def load_code(folder: Path) -> ImageCode | None:
    """Read what `save_code` wrote. Raises ValueError where the type is unknown."""
    path, arrays = folder / "image.json", {}
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8")
    if (folder / "image.npz").is_file():
        with np.load(folder / "image.npz", allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in saved}
    name = json.loads(text)["type"]
    if IMAGE_CODES.get(name) is None:
        raise ValueError(unknown_name(f"image code in {path}", name, [n for n in IMAGE_CODES if IMAGE_CODES[n]]))
    return IMAGE_CODES[name].from_json(text, arrays)


def save_marks(marks: UInt64[np.ndarray, " n"], folder: Path) -> None:
    """Write which pictures a learned code was fitted to, beside it; a run's own copy of the code needs that no more."""
    np.save(folder / MARKS, marks)


def load_marks(folder: Path) -> UInt64[np.ndarray, " n"] | None:
    """Read what `save_marks` wrote; None where there is nothing."""
    return np.load(folder / MARKS, allow_pickle=False) if (folder / MARKS).is_file() else None
