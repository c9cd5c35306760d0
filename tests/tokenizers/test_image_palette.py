"""Palettes: the nearest colour exactly, round trips of the palette's own colours, clear refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jgpt.config import TokenizerConfig
from jgpt.tokenizers import image_palette
from jgpt.tokenizers.image import make_code
from jgpt.tokenizers.image_palette import Palette

pixels_of = {1: hnp.arrays(np.uint8, (3, 5)), 3: hnp.arrays(np.uint8, (3, 5, 3)), 4: hnp.arrays(np.uint8, (2, 2, 4))}


def brute_force(palette: Palette, picture: np.ndarray) -> np.ndarray:
    """Return the nearest colour of each pixel by whole numbers, the first one where several are as near."""
    pixels = picture.reshape(-1, 1, palette.channels).astype(np.int64)
    return ((pixels - palette.colours.astype(np.int64)) ** 2).sum(-1).argmin(-1)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from([1, 3, 4]))
def test_the_nearest_colour_is_exact(data: st.DataObject, channels: int) -> None:
    palette = Palette(data.draw(hnp.arrays(np.uint8, (7, channels), unique=False)))
    picture = data.draw(pixels_of[channels])
    ids = palette.encode(picture)
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, brute_force(palette, picture))


def test_blocks_of_a_large_picture_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    palette = Palette(random.integers(0, 256, (50, 3)).astype(np.uint8))
    picture = random.integers(0, 256, (31, 17, 3)).astype(np.uint8)
    whole = palette.encode(picture)
    monkeypatch.setattr(image_palette, "MAX_DISTANCES", 1000)
    np.testing.assert_array_equal(palette.encode(picture), whole)


@given(st.integers(2, 256))
def test_greys_are_even_distinct_and_survive(levels: int) -> None:
    palette = Palette.grey(levels)
    greys = palette.colours[:, 0].astype(int)
    assert greys[0] == 0 and greys[-1] == 255 and np.ptp(np.diff(greys)) <= 1 and np.all(np.diff(greys) > 0)
    picture = palette.colours.reshape(1, levels)
    np.testing.assert_array_equal(palette.decode(palette.encode(picture), (1, levels)), picture)


def test_256_greys_lose_nothing() -> None:
    picture = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(Palette.grey(256).encode(picture), np.arange(256))


def test_a_fitted_palette_is_seeded_and_close() -> None:
    random = np.random.default_rng(0)
    centres = np.array([[10, 20, 30], [40, 220, 60], [200, 30, 40], [240, 240, 250]])
    noisy = centres[random.integers(0, 4, (10, 12, 12))] + random.integers(-4, 5, (10, 12, 12, 3))
    pictures = list(noisy.astype(np.uint8))
    palette = Palette.fit(pictures, 4, seed=0)
    np.testing.assert_array_equal(palette.colours, Palette.fit(pictures, 4, seed=0).colours)
    assert np.abs(palette.colours.astype(int) - centres).max() <= 2
    again = palette.decode(palette.encode(pictures[0]), (12, 12, 3))
    assert np.abs(again.astype(int) - pictures[0]).max() <= 6


def test_as_many_colours_as_there_are_lose_nothing() -> None:
    picture = np.array([[[9, 9, 9], [1, 2, 3]], [[255, 0, 0], [9, 9, 9]]], np.uint8)
    palette = Palette.fit([picture], 3, seed=0)
    np.testing.assert_array_equal(palette.decode(palette.encode(picture), (2, 2, 3)), picture)


def test_the_saved_form_brings_back_the_same_palette() -> None:
    for palette in (Palette.grey(5), Palette(np.arange(12, dtype=np.uint8).reshape(4, 3))):
        again = Palette.from_json(palette.to_json())
        assert again.colours.dtype == np.uint8 and (again.size, again.channels) == (palette.size, palette.channels)
        np.testing.assert_array_equal(again.colours, palette.colours)


def test_refusals_name_the_value_and_the_fix() -> None:
    grey, colour = Palette.grey(4), Palette(np.zeros((4, 3), np.uint8))
    with pytest.raises(ValueError, match=r"image_levels is 300.*palette"):
        Palette.grey(300)
    with pytest.raises(ValueError, match=r"\(2, 2, 3\) has 3 channels, the palette has 1: convert"):
        grey.encode(np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(ValueError, match=r"float64: must be uint8.*convert"):
        grey.encode(np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"3 image ids cannot fill a picture of 2 x 2"):
        grey.decode([0, 1, 2], (2, 2))
    with pytest.raises(ValueError, match=r"\(2, 2\) has 1 channels, the palette has 3"):
        colour.decode([0, 1, 2, 3], (2, 2))
    with pytest.raises(ValueError, match=r"1 distinct colours, fewer than tokenizer.image_levels 4: lower it"):
        Palette.fit([np.zeros((2, 2), np.uint8)], 4, seed=0)


def test_auto_takes_no_more_colours_than_there_are() -> None:
    flags = [np.array([[[9, 9, 9], [1, 2, 3]], [[255, 0, 0], [9, 9, 9]]], np.uint8)]
    code = make_code(TokenizerConfig(), flags, seed=0)
    assert isinstance(code, Palette) and code.size == 3
    np.testing.assert_array_equal(code.decode(code.encode(flags[0]), (2, 2, 3)), flags[0])
    with pytest.raises(ValueError, match="3 distinct colours, fewer than tokenizer.image_levels 16"):
        make_code(TokenizerConfig(image="palette"), flags, seed=0)
    one = make_code(TokenizerConfig(), [np.zeros((2, 2, 3), np.uint8)], seed=0)
    assert isinstance(one, Palette) and one.size == 1


def test_colours_are_counted_in_all_pixels() -> None:
    """Two rare colours among more pixels than k-means takes: the palette holds them, and nothing is lost."""
    pictures = [np.zeros((100, 100, 3), np.uint8) for _ in range(30)]
    pictures[1][:, 50:] = (255, 0, 0)
    pictures[7][3, 4], pictures[29][5, 6] = (0, 0, 255), (0, 255, 0)
    palette = Palette.fit(pictures, 16, seed=0, fewer=True)
    assert palette.size == 4
    for picture in pictures:
        np.testing.assert_array_equal(palette.decode(palette.encode(picture), picture.shape), picture)
    assert Palette.fit(pictures, 4, seed=0).size == 4
    with pytest.raises(ValueError, match="hold 4 distinct colours, fewer than tokenizer.image_levels 5"):
        Palette.fit(pictures, 5, seed=0)
