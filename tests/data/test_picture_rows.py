"""The given part of a picture: which rows are kept, and how a file becomes rows of the run's width."""

import io

import numpy as np
import pytest
from PIL import Image

from jgpt.data.picture_decode import PictureRules
from jgpt.data.picture_rows import read, top_rows


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def test_rows_of_a_part_are_kept_and_of_a_whole_the_upper_half() -> None:
    picture = np.arange(40, dtype=np.uint8).reshape(8, 5)
    assert len(top_rows(picture, 8)) == 4 and len(top_rows(picture[:3], 8)) == 3
    np.testing.assert_array_equal(top_rows(picture, 8, 6), picture[:6])
    for keep, pixels in ((8, picture), (0, picture), (4, picture[:2])):
        with pytest.raises(ValueError, match="--keep-rows"):
            top_rows(pixels, 8, keep)


def test_a_file_is_brought_to_the_width_and_channels_of_the_run() -> None:
    """Enlarged four times and shrunk again it is the same; its height goes with its width."""
    half = np.random.default_rng(0).integers(0, 256, (4, 6)).astype(np.uint8)
    large = half.repeat(4, 0).repeat(4, 1)
    np.testing.assert_array_equal(read(png(large), "half.png", (8, 6), PictureRules()), half)
    assert read(png(large), "half.png", (8, 6, 3), PictureRules()).shape == (4, 6, 3)
    assert read(png(half), "half.png", (24, 12), PictureRules()).shape == (8, 12)


def test_the_threshold_of_the_run_is_applied_after_scaling() -> None:
    half = np.tile(np.array([[0, 255]], np.uint8), (2, 2))
    assert set(np.unique(read(png(half), "half.png", (4, 3), PictureRules(threshold=128)))) <= {0, 255}


def test_a_file_that_is_no_picture_is_named_with_its_fix() -> None:
    with pytest.raises(ValueError, match=r"'half.png': it is no picture.* give another picture\.$") as caught:
        read(b"no picture at all", "half.png", (4, 3), PictureRules())
    assert "--data." not in str(caught.value)  # an option of training
