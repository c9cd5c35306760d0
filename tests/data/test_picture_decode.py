"""Single pictures: every format arrives as the same upright bytes, and what cannot be used is named with its fix."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jgpt.config import DataConfig
from jgpt.data.picture_decode import ALPHA, CMYK, DEEP, TURNED, BadPicture, PictureRules, agree, colour, decode, square

AS_IS = PictureRules()
COLOURS = np.random.default_rng(0).integers(0, 256, (6, 4, 3)).astype(np.uint8)


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes) -> bytes:
    """Return a PNG written by hand: Pillow writes no 16-bit colour and no empty picture."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))]
    parts += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunk = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})])
def test_lossless_formats_keep_every_pixel(kind: str, options: dict):
    pixels, done = decode(saved(Image.fromarray(COLOURS), kind, **options), AS_IS)
    np.testing.assert_array_equal(pixels, COLOURS)
    assert not done


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_has_no_channel_axis(mode: str):
    grey = Image.fromarray(COLOURS[..., 0]).convert(mode)
    pixels, _ = decode(saved(grey), AS_IS)
    np.testing.assert_array_equal(pixels, np.asarray(grey.convert("L")))


def test_colour_that_all_channels_agree_on_is_grey_unless_rgb_is_asked_for():
    raw = saved(Image.fromarray(np.repeat(COLOURS[..., :1], 3, -1)))
    assert decode(raw, AS_IS)[0].shape == (6, 4)
    assert decode(raw, PictureRules(mode="rgb"))[0].shape == (6, 4, 3)
    red = saved(Image.fromarray(np.full((2, 2, 3), (255, 0, 0), np.uint8)))
    assert (decode(red, PictureRules(mode="grey"))[0] == 76).all()  # 0.299 * 255


def test_alpha_is_laid_on_the_background():
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = 0, 255, 51  # black, 20 % opaque in the last
    pixels, done = decode(saved(Image.fromarray(rgba)), PictureRules(background=(255, 0, 100)))
    assert pixels.tolist() == [[[255, 0, 100], [0, 0, 0], [204, 0, 80]]] and done == {ALPHA}


def test_a_palette_with_transparency_is_laid_on_the_background():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    pixels, done = decode(saved(image, transparency=1), PictureRules(background=(1, 2, 3)))
    assert pixels.tolist() == [[[10, 20, 30], [1, 2, 3]]] and done == {ALPHA}


def test_sixteen_bits_are_scaled_and_not_cut_off():
    deep = np.array([[0, 128, 257 * 100, 65535]], np.uint16)
    pixels, done = decode(saved(Image.fromarray(deep)), AS_IS)
    assert pixels.tolist() == [[0, 0, 100, 255]] and done == {DEEP}
    row = b"\0" + struct.pack(">3H", 65535, 0, 257 * 7)
    pixels, done = decode(png(1, 1, 16, 2, row), AS_IS)
    assert pixels.tolist() == [[[255, 0, 7]]] and done == {DEEP}


def test_cmyk_becomes_rgb():
    pixels, done = decode(saved(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG", quality=100), AS_IS)
    assert np.abs(pixels.astype(int) - (0, 255, 255)).max() <= 4 and done == {CMYK}


def test_exif_turns_pictures_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side: turn by 270 degrees
    pixels, done = decode(saved(Image.fromarray(COLOURS), exif=exif), AS_IS)
    np.testing.assert_array_equal(pixels, np.rot90(COLOURS, -1))
    assert done == {TURNED}


def frames() -> bytes:
    images = [Image.new("L", (4, 4), value) for value in (0, 200)]
    return saved(images[0], "GIF", save_all=True, append_images=images[1:])


BAD = {
    "is empty": b"",
    "it is no picture": b"no picture at all",
    "truncated": saved(Image.fromarray(np.resize(COLOURS, (64, 64, 3))))[:300],
    r"animated \(2 frames\)": frames(),
    "no picture, whatever its name": png(0, 3, 8, 2, b""),  # Pillow does not open a PNG without pixels
    "MAX_IMAGE_PIXELS": png(20_000, 20_000, 8, 0, b""),
    "89,478,485 pixels": png(10_000, 10_000, 8, 0, b""),  # Pillow itself only warns below twice its limit
    "32 bits": saved(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_used_is_named_with_its_fix(what: str):
    with pytest.raises(BadPicture, match=what) as caught:
        decode(BAD[what], AS_IS)
    assert str(caught.value).startswith("it ") and not str(caught.value).endswith(".")  # the caller names the file


def test_shrinking_averages_by_area():
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4) * 10
    assert square(pixels, 2).tolist() == [[25, 45], [105, 125]]
    thirds = square(np.array([[0, 0, 90]] * 3, np.uint8), 2)  # one and a half pixels each
    assert thirds.tolist() == [[0, 60], [0, 60]]


def test_the_middle_square_is_kept():
    wide = np.zeros((2, 6), np.uint8)
    wide[:, 2:4] = 255
    assert (square(wide, 1) == 255).all() and (square(wide.T, 2) == 255).all()


def test_enlarging_keeps_flat_areas_flat():
    assert (square(np.full((3, 3, 3), 77, np.uint8), 8) == 77).all()


def test_a_threshold_leaves_two_values():
    pixels, _ = decode(saved(Image.fromarray(np.array([[0, 99, 100, 255]], np.uint8))), PictureRules(threshold=100))
    assert pixels.tolist() == [[0, 0, 255, 255]]
    with pytest.raises(ValueError, match=r"data.image_threshold is 0: must lie between 1 and 255"):
        DataConfig(image_threshold=0)


def test_one_coloured_picture_gives_all_three_channels():
    grey = COLOURS[..., 0]
    assert [p.shape for p in agree([grey, grey])] == [(6, 4)] * 2
    both = agree([grey, COLOURS])
    np.testing.assert_array_equal(both[0], np.stack([grey] * 3, -1))


def test_background_is_a_name_or_a_number():
    assert colour("white") == (255, 255, 255) and colour("#0a0B0c") == (10, 11, 12)
    for wrong in ("wite", "#12", "#11223344"):
        with pytest.raises(ValueError, match=f"data.image_background '{wrong}'.*#rrggbb"):
            PictureRules.of(DataConfig(image_background=wrong))
