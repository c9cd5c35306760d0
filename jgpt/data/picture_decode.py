"""One picture: from the bytes of a file to uint8 pixels of the wanted size and channels.

Owns every complaint about a single picture, and what is done to it on the way (turned upright, laid on a background,
brought to 8 bits, scaled, cut square, made black and white). Refuses captions, folders and splits.
"""

import dataclasses
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal

import numpy as np

from jgpt.check import require
from jgpt.config import DataConfig
from jgpt.data.examples import Picture, Splits
from jgpt.tokenizers.image_code import one_thread

TOO_DEEP: Final = "it holds 32 bits a channel: save it with 8 or 16"
TURNED, DEEP, CMYK, ALPHA = "turned upright by EXIF", "16 bits a channel brought to 8", "CMYK made RGB", "alpha"
SCALED: Final = "cut square and scaled to --data.image-size"


class BadPicture(ValueError):
    """A picture that cannot be used; the message says what is wrong and what to do, the caller adds the file."""


@dataclass(frozen=True)
class PictureRules:
    """How pictures are brought into form.

    Attributes:
        size: side of the square they are cut and scaled to [pixels]; None = as they are.
        mode: channels; auto = rgb where any picture has colour.
        background: red, green and blue behind transparent pixels.
        threshold: pixels at or above become 255, others 0; None = left alone.
    """

    size: int | None = None
    mode: Literal["auto", "grey", "rgb"] = "auto"
    background: tuple[int, int, int] = (255, 255, 255)
    threshold: int | None = None

    @classmethod
    def of(cls, data: DataConfig) -> "PictureRules":
        """Return the rules of a config.

        Raises:
            ValueError: the background is no colour.
        """
        threshold = None if data.image_threshold == "random" else data.image_threshold  # drawn once all are read
        return cls(data.image_size, data.image_mode, colour(data.image_background), threshold)

    def is_free(self) -> bool:
        """Return whether opaque pictures stay as they are."""
        return self.size is None and self.mode == "auto" and self.threshold is None


def colour(name: str) -> tuple[int, int, int]:
    """Return red, green and blue of a colour's name or #rrggbb.

    Raises:
        ValueError: it is neither.
    """
    from PIL import ImageColor

    try:
        channels = ImageColor.getrgb(name)
    except ValueError:
        raise ValueError(
            f"data.image_background {name!r} is no colour: use a name such as white, black or grey, or #rrggbb."
        ) from None
    require(len(channels) == 3, f"data.image_background {name!r} is itself transparent: use a name, or #rrggbb.")
    return channels[0], channels[1], channels[2]


def decode(raw: bytes, rules: PictureRules) -> tuple[np.ndarray, frozenset[str]]:
    """Return the pixels of a picture file, [h, w] where it is grey and [h, w, 3] where not, and what was done to it.

    Args:
        raw: the whole file.
        rules: how to bring it into form.

    Returns:
        Pixels, and those of TURNED, DEEP, CMYK, ALPHA and SCALED that applied.

    Raises:
        BadPicture: the file is empty, no picture, damaged, animated, too deep or too large.
    """
    from PIL import Image

    if not raw:
        raise BadPicture("it is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # only said once a process otherwise
            with Image.open(io.BytesIO(raw)) as image:
                _check(image)
                deep = _is_deep(image)
                image.load()
                pixels, done = _flat(image, rules.background)
    except BadPicture:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise BadPicture(
            f"it has more than {Image.MAX_IMAGE_PIXELS:,} pixels (Pillow's MAX_IMAGE_PIXELS), which a small file can claim in "
            "order to fill the memory: scale it down with a program you trust it to"
        ) from None
    except Image.UnidentifiedImageError:
        raise BadPicture(f"it is no picture, whatever its name says ({len(raw):,} bytes)") from None
    except Exception as error:  # Pillow's readers raise whatever a damaged file makes them trip over
        raise BadPicture(
            f"it cannot be decoded ({str(error) or type(error).__name__}; {len(raw):,} bytes): it is truncated or damaged; "
            "save it again"
        ) from None
    scaled = rules.size is not None and pixels.shape[:2] != (rules.size, rules.size)
    return fit(pixels, rules), frozenset(done | ({DEEP} if deep else set()) | ({SCALED} if scaled else set()))


def words_for(step: str, rules: PictureRules) -> str:
    """Return in words what one of the steps that `decode` returns did."""
    behind = "#{:02x}{:02x}{:02x}".format(*rules.background)
    return f"laid on the background {behind}, having transparent pixels" if step == ALPHA else step


def decode_alone(raw: bytes, name: str, rules: PictureRules) -> tuple[np.ndarray, frozenset[str]]:
    """Return what `decode` does of a picture that was asked for by name.

    Raises:
        BadPicture: as `decode`, with the name.
    """
    try:
        return decode(raw, rules)
    except BadPicture as error:
        raise BadPicture(f"{name!r}: {error}. Correct it, or give another picture.") from None


def fit(pixels: np.ndarray, rules: PictureRules) -> np.ndarray:
    """Return uint8 pixels of the wanted size and channels; colour that all channels agree on is grey.

    Args:
        pixels: uint8 [h, w], [h, w, 3], or [h, w, 4] with alpha last.
        rules: how to bring it into form; mode auto keeps what the picture has.
    """
    if pixels.ndim == 3 and pixels.shape[-1] == 4:
        pixels = composite(pixels, rules.background)
    if rules.size is not None:
        pixels = square(pixels, rules.size)
    if rules.mode == "grey" and pixels.ndim == 3:
        pixels = grey(pixels)
    if rules.threshold is not None:
        pixels = np.where(pixels >= rules.threshold, np.uint8(255), np.uint8(0))
    if rules.mode == "rgb" and pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, -1)
    if rules.mode == "auto" and pixels.ndim == 3 and bool((pixels == pixels[..., :1]).all()):
        return np.ascontiguousarray(pixels[..., 0])
    return pixels


def in_form(splits: Splits, rules: PictureRules) -> Splits:
    """Return the pictures of splits in form; what changes them makes figures of the source's own meaningless."""
    before = [*splits.train, *splits.validation]
    if rules.is_free() or not all(isinstance(example, Picture) for example in before):
        return splits
    pixels = [fit(example.pixels, rules) for example in before]
    after = [Picture(p, e.caption, place=e.place) for p, e in zip(agree(pixels), before, strict=True)]
    cut = len(splits.train)
    return dataclasses.replace(splits, train=after[:cut], validation=after[cut:], baselines={})


def agree(pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the pictures with three channels each where any of them has colour."""
    if all(pixels.ndim == 2 for pixels in pictures):
        return list(pictures)
    return [pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, -1) for pixels in pictures]


def grey(pixels: np.ndarray) -> np.ndarray:
    """Return the luma of [h, w, 3] after ITU-R BT.601: 0.299 red + 0.587 green + 0.114 blue."""
    return np.rint(pixels @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)


def composite(pixels: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    """Return [h, w, 3]: a picture with alpha, [h, w, 4], laid on a background."""
    alpha = pixels[..., 3:].astype(np.float32) / 255
    behind = np.array(background, np.float32)
    return np.rint(pixels[..., :3] * alpha + behind * (1 - alpha)).astype(np.uint8)


def square(pixels: np.ndarray, size: int) -> np.ndarray:
    """Return the square in the middle, scaled to `size`: by area where it shrinks, bicubic where it grows.

    By area, every source pixel counts by how much of it lies in a new one: nothing rings and nothing is left out.
    """
    side = min(pixels.shape[:2])
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    pixels = pixels[top : top + side, left : left + side]
    if side == size:
        return pixels
    if side < size:
        from PIL import Image

        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize((size, size), Image.Resampling.BICUBIC))
    share = _area(side, size)
    with one_thread():
        rows = np.tensordot(share, pixels.astype(np.float32), (1, 0))
        both = np.moveaxis(np.tensordot(share, rows, (1, 1)), 0, 1)
    return np.rint(both).clip(0, 255).astype(np.uint8)


@cache
def _area(side: int, size: int) -> np.ndarray:
    """Return [size, side]: the share that each source pixel has in each new one, rows summing to 1."""
    edge = np.arange(size + 1) * (side / size)
    source = np.arange(side)
    overlap = np.minimum(edge[1:, None], source + 1) - np.maximum(edge[:-1, None], source)
    return (overlap.clip(0) * (size / side)).astype(np.float32)


def _check(image: Any) -> None:
    """Refuse a picture without pixels, one with several frames, and one of 32 bits a channel."""
    if 0 in image.size:
        raise BadPicture(f"it is {image.width} x {image.height} pixels: there is nothing to see")
    # an MPO is a photo with previews behind it, as many cameras write
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise BadPicture(f"it is animated ({image.n_frames} frames): save one frame as a picture")
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        raise BadPicture(TOO_DEEP)


def _is_deep(image: Any) -> bool:
    """Return whether the file holds 16 bits a channel; Pillow says so of grey in the mode, of colour in the tile."""
    raw_modes = [tile[3] if isinstance(tile[3], str) else str(tile[3][0]) for tile in image.tile if tile[3]]
    return image.mode.startswith("I") or any(";16" in mode for mode in raw_modes)


def _flat(image: Any, background: tuple[int, int, int]) -> tuple[np.ndarray, set[str]]:
    """Return [h, w] or [h, w, 3] of a loaded picture: upright, 8 bits, no palette, no alpha."""
    from PIL import ImageOps

    done: set[str] = set()
    if 2 <= image.getexif().get(0x0112, 1) <= 8:
        image = ImageOps.exif_transpose(image)
        done.add(TURNED)
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.int64)
        if deep.max(initial=0) > 0xFFFF:
            raise BadPicture(TOO_DEEP)
        pixels = np.rint(deep / 257).astype(np.uint8)  # 65,535 / 255
        clear = image.info.get("transparency")
        if clear is None:
            return pixels, done
        alpha = np.where(deep == clear, 0, 255).astype(np.uint8)
        return composite(np.stack([pixels, pixels, pixels, alpha], -1), background), done | {ALPHA}
    if image.has_transparency_data:
        return composite(np.asarray(image.convert("RGBA")), background), done | {ALPHA}
    if image.mode == "CMYK":
        done.add(CMYK)
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L")), done
    return np.asarray(image.convert("RGB")), done
