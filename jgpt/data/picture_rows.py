"""The part of a picture that is given when the rest is to be drawn: its top rows, brought into a run's form.

Owns how a file of any size becomes rows of the run's width and channels; refuses to draw.
"""

import numpy as np

from jgpt.check import require
from jgpt.data.picture_decode import PictureRules, decode_alone, fit


def top_rows(pixels: np.ndarray, height: int, keep_rows: int | None = None) -> np.ndarray:
    """Return the rows of a picture that are given, fewer than `height`.

    Args:
        pixels: the whole picture or its top, uint8 [h, w] or [h, w, channel].
        height: of the run's pictures.
        keep_rows: rows to keep; None = all there are, or the upper half where that is the whole picture.

    Raises:
        ValueError: no row is left, none is left to draw, or the picture has fewer.
    """
    if keep_rows is None:
        keep_rows = len(pixels) if len(pixels) < height else height // 2
    require(
        1 <= keep_rows < height,
        f"{keep_rows} rows are given of pictures of {height}: keep 1 to {height - 1}, such as --keep-rows {height // 2}.",
    )
    require(
        keep_rows <= len(pixels),
        f"the first {keep_rows} rows are to be kept, and the picture has {len(pixels)}: lower --keep-rows.",
    )
    return pixels[:keep_rows]


def read(raw: bytes, name: str, shape: tuple[int, ...], rules: PictureRules) -> np.ndarray:
    """Return the pixels of a picture file, scaled to a run's width and with its channels.

    Heights keep their proportion to widths, so that the upper half of a picture stays its upper half.

    Args:
        raw: the whole file.
        name: of the file, for messages.
        shape: of the run's pictures.
        rules: the run's; their size and channels give way to `shape`.

    Raises:
        BadPicture: the file cannot be used.
    """
    mode = "grey" if len(shape) == 2 else "rgb"
    pixels, _ = decode_alone(raw, name, PictureRules(None, mode, rules.background))
    height, width = pixels.shape[:2]
    if width != shape[1]:
        from PIL import Image

        size = (shape[1], max(1, round(height * shape[1] / width)))
        kind = Image.Resampling.BOX if width > shape[1] else Image.Resampling.BICUBIC
        pixels = np.asarray(Image.fromarray(pixels).resize(size, kind))
    return fit(pixels, PictureRules(None, mode, rules.background, rules.threshold))
