"""Pictures in NumPy files: `.npz` with images and labels, `.npy` with images alone.

Owns the names that arrays go by and every complaint about them; refuses object arrays, which would run code.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from jgpt.check import require
from jgpt.data.examples import Picture
from jgpt.data.picture_decode import PictureRules, agree, fit

IMAGES: Final = ("images", "image", "x", "pictures", "data")
LABELS: Final = ("labels", "label", "y", "captions", "caption", "classes")
PARTS: Final = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}


def is_picture_array(path: Path) -> bool:
    """Return whether a `.npy` holds uint8 of three or four axes; ids, the other use of `.npy`, have one axis."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError):
        return False
    return array.ndim in (3, 4)


def read_arrays(path: Path, columns: Mapping[str, str], rules: PictureRules) -> tuple[dict[str, list[Picture]], str]:
    """Return the pictures of a NumPy file by part, and what it was recognised as.

    Args:
        path: `.npy`, or `.npz` with images (or x) and labels (or y), each also as train_images, x_test and so on.
        columns: the user's names for "file" (images) and "caption" (labels).
        rules: how to bring the pictures into form.

    Returns:
        Pictures under "train", "validation" and "test", or all under "".

    Raises:
        ValueError: the file is damaged, lacks images, or has an array of another type or shape.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = {"images": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{str(path)!r} cannot be read as NumPy arrays ({error}): save uint8 arrays with numpy.savez(FILE, "
            "images=..., labels=...); arrays of Python objects are not read."
        ) from None
    parts: dict[str, list[Picture]] = {}
    used: list[str] = []
    captioned = False
    for part, words in {"": ("",), **PARTS}.items():
        images = _find(arrays, "file", IMAGES, words, columns)
        if images is None:
            continue
        labels = _find(arrays, "caption", LABELS, words, columns)
        captioned = captioned or labels is not None
        used += [name for name in (images, labels) if name is not None]
        parts[part] = _pictures(path, images, arrays[images], labels, arrays.get(labels or ""), rules)
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
    require(
        bool(parts),
        f"{str(path)!r} has no array of images; it holds {shapes or 'nothing'}. Call it images or x, with labels or y "
        "beside it, or name yours: --data.columns file IMAGES caption LABELS.",
    )
    require(
        "" not in parts or len(parts) == 1,
        f"{str(path)!r} holds images both with and without a part ({', '.join(used)}): keep one of the two.",
    )
    require(
        "caption" not in columns or captioned,
        f"{str(path)!r} has no array {columns.get('caption')!r}; it holds {shapes}. Name the one with the labels: "
        "--data.columns caption LABELS.",
    )
    together = agree([picture.pixels for pictures in parts.values() for picture in pictures])
    at = 0
    for part, pictures in parts.items():
        ends = at + len(pictures)
        parts[part] = [replace(old, pixels=p) for p, old in zip(together[at:ends], pictures, strict=True)]
        at = ends
    return parts, f"NumPy arrays {', '.join(used)}"


def _find(
    arrays: Mapping[str, Any], ours: str, known: tuple[str, ...], words: tuple[str, ...], columns: Mapping[str, str]
) -> str | None:
    """Return the name of the array that holds `ours` of a part, None where there is none."""
    names = (columns[ours],) if ours in columns else known
    for word in words:
        for name in names:
            for spelt in (name,) if not word else (f"{word}_{name}", f"{name}_{word}"):
                if spelt in arrays:
                    return spelt
    return None


def _pictures(
    path: Path, name: str, images: np.ndarray, label_name: str | None, labels: np.ndarray | None, rules: PictureRules
) -> list[Picture]:
    """Return the pictures of one array with their captions."""
    what = f"{name!r} of {str(path)!r} is {images.dtype} of shape {images.shape}"
    require(
        images.dtype == np.uint8,
        f"{what}: pictures are uint8, 0 to 255; scale and convert them, such as (x * 255).round().astype('uint8').",
    )
    require(
        images.ndim in (3, 4) and images.size > 0,
        f"{what}: pictures are [n, height, width] or [n, height, width, channel], at least one pixel each; reshape them.",
    )
    if images.ndim == 4:
        hint = "move the channels last" if images.shape[1] in (1, 3, 4) else "save grey, RGB or RGBA"
        require(images.shape[-1] in (1, 3, 4), f"{what}: {images.shape[-1]} channels cannot be shown; {hint}.")
        images = images[..., 0] if images.shape[-1] == 1 else images
    captions = [""] * len(images)
    if labels is not None:
        require(
            labels.size == len(images),
            f"{label_name!r} of {str(path)!r} has shape {labels.shape} for {len(images)} pictures: give one label each.",
        )
        require(
            labels.dtype.kind in "iuUS",
            f"{label_name!r} of {str(path)!r} is {labels.dtype}: labels are whole numbers or strings; convert them.",
        )
        try:
            captions = [x.decode() if isinstance(x, bytes) else str(x) for x in labels.reshape(-1).tolist()]
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{label_name!r} of {str(path)!r} holds {error.object!r}, which is no UTF-8: save str."
            ) from None
    pairs = enumerate(zip(images, captions, strict=True))
    return [Picture(fit(pixels, rules), caption, place=f"{path}, {name}[{i}]") for i, (pixels, caption) in pairs]
