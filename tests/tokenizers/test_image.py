"""Image codes: round trips, where ids may stand, what is lost, and the saved form, over every code there is."""

import math
from pathlib import Path

import numpy as np
import pytest

from jgpt.config import TokenizerConfig
from jgpt.tokenizers import image_learned
from jgpt.tokenizers.image import IMAGE_CODES, ImageCode, Palette, load_code, make_code, save_code
from jgpt.tokenizers.image_code import is_exact, loses, tokens
from jgpt.tokenizers.image_learned import LEVELS, Learned
from jgpt.tokenizers.image_rgb import RGB

RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (8, 12, 3)).astype(np.uint8)
GREY = COLOUR[..., 0]


def learned(channels: int = 3, codes: int = 240, stride: int = 4) -> Learned:
    weights = image_learned.init(stride, channels, LEVELS[codes], width=8, blocks=1, seed=0)
    return Learned({k: 3 * w for k, w in weights.items()}, stride, channels, LEVELS[codes])


CODES = {
    "grey": (Palette.grey(16), GREY),
    "palette": (Palette.fit([COLOUR], 20, seed=0), COLOUR),
    "rgb": (RGB(), COLOUR),
    "learned": (learned(), COLOUR),
    "learned grey": (learned(1), GREY),
}


@pytest.fixture(params=CODES)
def case(request: pytest.FixtureRequest) -> tuple[ImageCode, np.ndarray]:
    return CODES[request.param]


def test_every_code_has_a_case():
    assert {type(code) for code, _ in CODES.values()} == {kind for kind in IMAGE_CODES.values() if kind}


def test_ids_stand_where_the_cycle_says_and_fill_the_grid(case: tuple[ImageCode, np.ndarray]):
    code, picture = case
    ids = code.encode(picture)
    assert isinstance(code, ImageCode) and ids.dtype == np.int32
    assert len(ids) == tokens(code, picture.shape) == math.prod(code.grid(picture.shape))
    assert all(int(id_) in code.cycle[i % len(code.cycle)] for i, id_ in enumerate(ids))
    assert len(code.cycle) == code.grid(picture.shape)[2]
    assert max(ids_.stop for ids_ in code.cycle) == code.size
    again = code.decode(ids, picture.shape)
    assert again.shape == picture.shape and again.dtype == np.uint8


def test_the_saved_form_gives_the_same_ids_and_pictures(case: tuple[ImageCode, np.ndarray], tmp_path: Path):
    code, picture = case
    save_code(learned(), tmp_path)  # what lay there before is taken away
    save_code(code, tmp_path)
    again = load_code(tmp_path)
    assert again is not None and again.size == code.size
    np.testing.assert_array_equal(again.encode(picture), code.encode(picture))
    ids = code.encode(picture)
    np.testing.assert_array_equal(again.decode(ids, picture.shape), code.decode(ids, picture.shape))
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    save_code(again, tmp_path)
    assert first == {path.name: path.read_bytes() for path in tmp_path.iterdir()}  # a run that goes on compares them
    save_code(None, tmp_path)
    assert load_code(tmp_path) is None and not list(tmp_path.iterdir())


def test_rgb_loses_nothing_and_its_ids_are_the_bytes():
    code = RGB()
    assert code.encode(np.array([[[7, 0, 255]]], np.uint8)).tolist() == [7, 256, 767]
    np.testing.assert_array_equal(code.decode(code.encode(COLOUR), COLOUR.shape), COLOUR)
    assert loses(code, [COLOUR]) == (0.0, math.inf) and is_exact(code, COLOUR)


def test_what_is_lost_is_measured_by_hand():
    two = Palette.grey(2)  # 0 and 255
    picture = np.array([[0, 10, 245, 255]], np.uint8)
    loss = loses(two, [picture, picture])
    assert loss.rmse == pytest.approx(math.sqrt((0 + 100 + 100 + 0) / 4))
    assert loss.psnr == pytest.approx(10 * math.log10(255**2 / 50))
    assert not is_exact(two, picture) and is_exact(two, picture[:, [0, 3]])
    with pytest.raises(ValueError, match="0 pictures"):
        loses(two, [])


@pytest.mark.parametrize("levels", LEVELS.values(), ids=str)
def test_every_cell_has_an_id_of_its_own_and_back(levels: tuple[int, ...]):
    code = Learned(image_learned.init(2, 1, levels, 4, 0, 0), 2, 1, levels)
    wide = np.float32(50 * RANDOM.standard_normal((1, 1, 4000, len(levels))))
    rounded = np.rint(image_learned.bounded(np, wide, levels))
    low, high = rounded[0, 0].min(0), rounded[0, 0].max(0)
    for count, a, b in zip(levels, low, high, strict=True):
        assert (a, b) == (-(count // 2), (count - 1) // 2)  # each number takes exactly its levels
    assert code.size == math.prod(levels) and code.size in LEVELS
    zero = np.rint(image_learned.bounded(np, np.zeros((1, 1, 1, len(levels)), np.float32), levels))
    assert not zero.any()


def test_the_id_of_a_learned_code_spells_its_levels():
    code = learned()
    ids = np.arange(code.size)[:6]
    digits = ids[:, None] // np.array([1, 8, 48]) % np.array([8, 6, 5])
    assert (digits @ np.array([1, 8, 48]) == ids).all()
    picture = code.decode(ids, (8, 12, 3))
    rounded = (digits - np.array([4, 3, 2])).astype(np.float32).reshape(1, 2, 3, 3)
    pixels = image_learned.pictures(np, code.weights, rounded, code.levels, code.stride)
    np.testing.assert_array_equal(picture, np.rint((pixels[0] + 1) * 127.5).clip(0, 255).astype(np.uint8))


def test_a_cell_sees_the_pixels_of_its_own_patch():
    code, changed = learned(), COLOUR.copy()
    changed[4:, 8:] = 255 - changed[4:, 8:]  # the last of 2 x 3 cells
    before, after = (
        image_learned.latents(np, code.weights, p[None].astype(np.float32) / 127.5 - 1, 4)[0] for p in (COLOUR, changed)
    )
    moved = np.abs(after - before).max(-1) > 1e-6
    assert moved[1, 2] and not moved[:, 0].any()  # one 3 x 3 convolution reaches the neighbours and no further


def test_names_in_the_config_make_their_codes(tmp_path: Path):
    make = lambda pictures=(COLOUR,), **fields: make_code(TokenizerConfig(**fields), pictures, 0)  # noqa: E731
    assert make(image="none") is None and make(()) is None
    assert make([GREY]).size == 16 and make([GREY]).channels == 1 and make().channels == 3
    assert isinstance(make(image="rgb"), RGB)
    with pytest.raises(FileNotFoundError, match=r"holds no learned tokenizer.*jgpt fit-image-tokenizer"):
        make(image="learned", image_path=str(tmp_path))
    save_code(learned(), tmp_path)
    assert make(image="learned", image_path=str(tmp_path)).size == 240
    with pytest.raises(ValueError, match=r"names no folder.*fit-image-tokenizer"):
        TokenizerConfig(image="learned")
    with pytest.raises(ValueError, match=r"use --tokenizer.image learned"):
        TokenizerConfig(image="grey", image_path="x")
    with pytest.raises(ValueError, match="no task of the config has pictures"):
        make((), image="palette")


def test_refusals_name_the_value_and_the_fix(tmp_path: Path):
    with pytest.raises(ValueError, match=r"\(8, 12\) has no three channels.*--tokenizer.image-levels 256"):
        RGB().encode(GREY)
    with pytest.raises(ValueError, match=r"5 image ids cannot fill a picture of 1 x 2 pixels with 3"):
        RGB().decode(np.zeros(5, int), (1, 2, 3))
    with pytest.raises(ValueError, match=r"image ids of another channel"):
        RGB().decode([0, 1, 600], (1, 1, 3))
    with pytest.raises(ValueError, match=r"8 x 10 pixels has no whole number of cells of 4 x 4"):
        learned().encode(COLOUR[:, :10])
    with pytest.raises(ValueError, match=r"has 1 channels, the learned tokenizer 3: use --data.image-mode rgb"):
        learned().encode(GREY)
    with pytest.raises(ValueError, match=r"5 image ids cannot fill .* in 2 x 3 cells"):
        learned().decode([0] * 5, (8, 12, 3))
    (tmp_path / "image.json").write_text('{"type": "palete"}')
    with pytest.raises(ValueError, match=r"Did you mean 'palette'"):
        load_code(tmp_path)
