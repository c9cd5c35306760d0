"""The digits: what the pictures are, that the split is apart and seeded, that the baseline is a true code length."""

import importlib.util
import math
import subprocess
import sys

import numpy as np
import pytest

from jgpt.data.digits import LEVELS, histogram_bits, read_digits
from jgpt.data.examples import Splits
from jgpt.tokenizers.image import Palette


@pytest.fixture(scope="module")
def splits() -> Splits:
    return read_digits(0, 0.1)


def test_pictures_are_grey_bytes_captioned_by_their_digit(splits: Splits) -> None:
    pictures = [*splits.train, *splits.validation]
    assert len(pictures) == 1797
    assert {picture.caption for picture in pictures} == set("0123456789")
    assert all(picture.pixels.shape == (8, 8) and picture.pixels.dtype == np.uint8 for picture in pictures)


def test_seventeen_greys_code_the_digits_without_loss(splits: Splits) -> None:
    palette = Palette.grey(LEVELS)
    for picture in splits.validation:
        np.testing.assert_array_equal(palette.decode(palette.encode(picture.pixels), (8, 8)), picture.pixels)


@pytest.mark.parametrize("fraction", [0.1, 0.25])
def test_held_out_share_is_exact_apart_and_seeded(fraction: float) -> None:
    first, again, other = read_digits(3, fraction), read_digits(3, fraction), read_digits(4, fraction)
    assert len(first.validation) == round(1797 * fraction)
    keys = [[picture.pixels.tobytes() for picture in splits.validation] for splits in (first, again, other)]
    assert keys[0] == keys[1] != keys[2]
    assert len(first.train) + len(first.validation) == 1797
    assert not {picture.pixels.tobytes() for picture in first.train} & set(keys[0])


def test_baselines_are_the_known_figures(splits: Splits) -> None:
    assert splits.baselines["bits_per_dim_uniform"] == pytest.approx(math.log2(17))
    assert 2.1 < splits.baselines["bits_per_dim_histogram"] < 2.25


def test_histogram_of_noise_costs_what_noise_costs() -> None:
    """Uniform grey values hold log2 17 bits, and no histogram of them does better on others."""
    random = np.random.default_rng(0)
    values, labels = random.integers(0, LEVELS, (4000, 4)), random.integers(0, 10, 4000)
    bits = histogram_bits(values[:3000], labels[:3000], values[3000:], labels[3000:])
    assert math.log2(17) <= bits < math.log2(17) + 0.1


def test_missing_scikit_learn_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="scikit-learn is not installed.*pip install scikit-learn"):
        read_digits(0, 0.1)


def test_reading_imports_neither_scikit_learn_nor_jax() -> None:
    code = (
        "import sys; from jgpt.data.digits import read_digits; read_digits(0, 0.1); "
        "sys.exit(any(name in sys.modules for name in ('sklearn', 'jax', 'tensorflow')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
