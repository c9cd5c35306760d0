"""Ids that were encoded elsewhere: .npy arrays and the raw .bin files of nanoGPT, mapped into memory.

Owns the formats and every complaint about them. Refuses to read a file whole, and to know the vocabulary the ids belong
to.
"""

from pathlib import Path
from typing import Final

import numpy as np

from jgpt.check import require

TOKEN_SUFFIXES: Final = (".bin", ".npy")
SCAN_IDS: Final = 1 << 24  # ids checked at a time: 128 MiB of int64


def token_pair(folder: Path) -> tuple[Path, Path] | None:
    """Return the files of ids of a folder that brings its own split, None for any other folder."""
    pairs = [(folder / f"train{suffix}", folder / f"val{suffix}") for suffix in TOKEN_SUFFIXES]
    pairs = [pair for pair in pairs if pair[0].is_file() and pair[1].is_file()]
    require(
        len(pairs) < 2,
        f"the folder {str(folder)!r} holds train and val both as .bin and as .npy: move one pair elsewhere.",
    )
    return pairs[0] if pairs else None


def open_tokens(file: Path) -> np.ndarray:
    """Map a file that `map_tokens` has found to be right, [tokens]; nothing of it is read."""
    return (
        np.memmap(file, "<u2", mode="r") if file.suffix == ".bin" else np.load(file, mmap_mode="r", allow_pickle=False)
    )


def map_tokens(file: Path) -> np.ndarray:
    """Map a file of ids into memory, [tokens]. Raises ValueError where it is no 1-D array of ids from 0."""
    size = file.stat().st_size
    require(size > 0, f"{str(file)!r} is empty (0 bytes): write ids into it, or pass another file with --data.path.")
    if file.suffix == ".bin":
        require(
            size % 2 == 0,
            f"{str(file)!r} has {size} bytes, an odd number: a .bin file is uint16 ids of 2 bytes each, as nanoGPT "
            "writes it; write it again, or save other types with numpy.save as .npy.",
        )
        return open_tokens(file)
    try:
        ids = open_tokens(file)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"{str(file)!r} cannot be read as a .npy array ({error}): write 1-D integers with numpy.save."
        ) from None
    require(
        ids.ndim == 1 and np.issubdtype(ids.dtype, np.integer),
        f"{str(file)!r} holds an array of {ids.dtype} with shape {ids.shape}: ids are a 1-D array of integers; save "
        "ids.reshape(-1).astype(numpy.int32).",
    )
    require(len(ids) > 0, f"{str(file)!r} holds 0 ids: write ids into it, or pass another file with --data.path.")
    if np.issubdtype(ids.dtype, np.signedinteger):
        for start in range(0, len(ids), SCAN_IDS):
            part = ids[start : start + SCAN_IDS]
            at = int(np.argmin(part))
            require(
                bool(part[at] >= 0),
                f"{str(file)!r} holds the id {part[at]} at position {start + at}: ids count from 0; leave out markers "
                "such as -1 or -100 before saving.",
            )
    return ids
