"""Real handwritten digits without a download: the 1,797 pictures of 8x8 pixels that scikit-learn carries.

Owns reading that file and the baselines a model of it has to beat. Refuses to import scikit-learn (3 to 7 s): only its
folder is looked up. Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI (1998), the test
part. A row of the file is 64 grey values of 0 to 16 and the digit, such as `0,0,5,13,9,1,...,0`.
"""

import gzip
import importlib.util
import math
from pathlib import Path
from typing import Final

import numpy as np

from jgpt.data.examples import Picture, Splits
from jgpt.data.holdout import hold_out

SIDE: Final = 8
LEVELS: Final = 17
CLASSES: Final = 10
SMOOTHING_GRID: Final = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)


def read_digits(seed: int, validation_fraction: float) -> Splits:
    """Read the digits as 8x8 grey pictures whose caption is the digit, with a seeded share held out.

    The 17 grey values become `round(value * 255 / 16)`, which are exactly the colours of `Palette.grey(17)`.

    Args:
        seed: of the draw of held-out pictures.
        validation_fraction: share of the pictures to hold out.

    Returns:
        `Splits` of `Picture`, with the baselines `bits_per_dim_uniform` and `bits_per_dim_histogram` [bits per pixel],
        the latter given the digit.

    Raises:
        FileNotFoundError: scikit-learn is not installed, or its file of digits is missing.
    """
    table = _read_table()
    values, labels = table[:, :-1], table[:, -1]
    train, held = hold_out(len(table), validation_fraction, seed)
    pixels = np.rint(values * (255 / (LEVELS - 1))).astype(np.uint8).reshape(-1, SIDE, SIDE)
    pictures = [Picture(picture, str(label)) for picture, label in zip(pixels, labels, strict=True)]
    return Splits(
        train=[pictures[i] for i in train],
        validation=[pictures[i] for i in held],
        baselines={
            "bits_per_dim_uniform": math.log2(LEVELS),
            "bits_per_dim_histogram": histogram_bits(values[train], labels[train], values[held], labels[held]),
        },
    )


def histogram_bits(values: np.ndarray, labels: np.ndarray, held_values: np.ndarray, held_labels: np.ndarray) -> float:
    """Return the code length of held-out pixels under one smoothed histogram per class and pixel [bits per pixel].

    The count added to every value is the one of `SMOOTHING_GRID` that codes the training pixels best when each is left
    out of its own histogram, so the held-out pixels have no say in it.

    Args:
        values: [pictures, pixels] integers below `LEVELS` to count.
        labels: [pictures] class of each.
        held_values: the pixels to code.
        held_labels: their classes.
    """
    pixel = np.arange(values.shape[1])
    counts = np.zeros((CLASSES, values.shape[1], LEVELS))
    np.add.at(counts, (labels[:, None], pixel, values), 1)
    totals = counts.sum(-1)
    own, total = counts[labels[:, None], pixel, values], totals[labels]

    def bits(count: np.ndarray, of: np.ndarray, added: float) -> float:
        return float(-np.log2((count + added) / (of + added * LEVELS)).mean())

    best = min(SMOOTHING_GRID, key=lambda added: bits(own - 1, total - 1, added))
    return bits(counts[held_labels[:, None], pixel, held_values], totals[held_labels], best)


def _read_table() -> np.ndarray:
    """Read the [1797, 65] integers of scikit-learn's file. Raises FileNotFoundError where it is missing."""
    spec = importlib.util.find_spec("sklearn")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            with gzip.open(path, "rt", encoding="ascii") as file:
                return np.loadtxt(file, delimiter=",").astype(np.int64)
    found = f"{folders[0]} holds no datasets/data/digits.csv.gz" if folders else "scikit-learn is not installed"
    raise FileNotFoundError(
        f"the digits are read from a file that scikit-learn carries, and {found}: run `pip install scikit-learn`, or "
        "use another source, such as --data.tasks.NAME.source tfds:mnist."
    )
