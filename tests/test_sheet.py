"""Sheets: every picture stands whole in its place, text keeps off the pictures."""

import numpy as np
import pytest
from PIL import ImageFont

from jgpt import sheet
from jgpt.sheet import PAGE, Row


def places(page: np.ndarray, picture: np.ndarray, scale: int) -> list[tuple[int, int]]:
    """Return where an enlarged picture stands on a page."""
    height, width = picture.shape[:2]
    pixels = np.broadcast_to(picture.reshape(height, width, -1), (height, width, 3))
    wanted = pixels.repeat(scale, 0).repeat(scale, 1)
    first = (page == wanted[0, 0]).all(-1)
    starts = np.argwhere(first[: len(page) - len(wanted) + 1, : page.shape[1] - wanted.shape[1] + 1])
    return [(y, x) for y, x in starts if (page[y : y + len(wanted), x : x + wanted.shape[1]] == wanted).all()]


def distinct(count: int, shape: tuple[int, ...] = (4, 4, 3)) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, shape).astype(np.uint8) for _ in range(count)]


def test_every_picture_stands_in_its_group_and_row():
    a, b, c, d, e = distinct(5)
    rows = [Row("first", ((a, b), (c,))), Row("second", ((d,), (e,)))]
    page = np.array(sheet.sheet(("drawn", "real"), rows, side=12))
    found = [places(page, picture, 3) for picture in (a, b, c, d, e)]
    assert [len(where) for where in found] == [1] * 5
    (a_at,), (b_at,), (c_at,), (d_at,), (e_at,) = found
    assert a_at[0] == b_at[0] == c_at[0] < d_at[0] == e_at[0]
    assert a_at[1] == d_at[1] < b_at[1] < c_at[1] == e_at[1]


def test_grey_and_colour_are_shown_alike():
    (grey,) = distinct(1, (4, 4))
    page = np.array(sheet.sheet(("",), [Row("", ((grey,),))], side=4))
    assert places(page, grey, 1)


@pytest.mark.parametrize("caption", ["word " * 60, "unbroken" * 40, "two\nlines\nand\na\nthird\nand\nmore"])
def test_long_captions_keep_off_the_pictures_and_off_the_next_row(caption: str):
    pictures = distinct(2)
    page = np.array(sheet.sheet(("a",), [Row(caption, ((picture,),)) for picture in pictures], side=48))
    (first,), (second,) = (places(page, picture, 12) for picture in pictures)
    assert first[1] <= sheet.CAPTION_WIDTH + 3 * sheet.MARGIN
    assert (page[:, first[1] - sheet.GAP : first[1]] == PAGE).all()  # nothing between text and pictures
    between = page[first[0] + 48 : second[0], : first[1]]
    assert between.size and (between == PAGE).all()


def test_what_is_cut_ends_in_dots_and_what_fits_does_not():
    font = ImageFont.load_default(sheet.FONT_SIZE)
    assert sheet._wrapped("a short one", font, 1) == ["a short one"]
    assert sheet._wrapped("", font, 3) == []
    lines = sheet._wrapped("many words " * 30, font, 2)
    assert len(lines) == 2 and lines[1].endswith("...") and not lines[0].endswith("...")
    assert all(font.getlength(line) <= sheet.CAPTION_WIDTH for line in lines)


def test_colours_run_from_low_to_high():
    made = sheet.colours(np.array([[0.0, 1.0, 2.0, 9.0]]), 0, 2)
    assert made.shape == (1, 4, 3) and made.dtype == np.uint8
    assert made[0, 0].sum() < made[0, 1].sum() < made[0, 2].sum()
    np.testing.assert_array_equal(made[0, 2], made[0, 3])


def test_a_colour_bar_stands_below_the_page_with_both_its_ends():
    page = sheet.sheet(("",), [Row("", ((distinct(1)[0],),))])
    out = np.array(sheet.with_colour_bar(page, 0, 5, "bits per pixel"))
    np.testing.assert_array_equal(out[: page.height, : page.width], np.array(page))
    below = out[page.height :]
    for end in (0.0, 5.0):
        assert (below == sheet.colours(np.array([[end]]), 0, 5)[0, 0]).all(-1).any()


def test_wrong_rows_are_refused():
    with pytest.raises(ValueError, match="'x' has 1 groups of pictures for 2 labels"):
        sheet.sheet(("a", "b"), [Row("x", ((),))])
    with pytest.raises(ValueError, match="no picture"):
        sheet.sheet(("a",), [Row("x", ((),))])
