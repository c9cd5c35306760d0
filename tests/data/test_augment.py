"""Augmentation: shapes and types stay, each switch does what it says, and the generator alone decides."""

import numpy as np
import pytest

from jgpt.config import AugmentConfig
from jgpt.data.augment import augment, changes, number_of_views, views

PICTURES = [np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8) for shape in ((6, 8), (6, 8, 3), (1, 1))]
ALL = AugmentConfig(scale=0.5, crop=2, flip=True)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("pixels", PICTURES, ids=str)
@pytest.mark.parametrize("config", [ALL, AugmentConfig(scale=4.0), AugmentConfig(crop=9), AugmentConfig(flip=True)])
def test_shape_and_type_stay_and_the_same_generator_gives_the_same(pixels: np.ndarray, config: AugmentConfig):
    before = pixels.copy()
    once, again = augment(pixels, config, rng()), augment(pixels, config, rng())
    assert once.shape == pixels.shape and once.dtype == np.uint8
    np.testing.assert_array_equal(once, again)
    np.testing.assert_array_equal(pixels, before)


def test_off_is_untouched_and_draws_nothing():
    random = rng()
    assert augment(PICTURES[0], AugmentConfig(), random) is PICTURES[0]
    assert random.random() == rng().random()
    assert not changes(AugmentConfig())
    assert changes(AugmentConfig(scale=0.1)) and changes(AugmentConfig(crop=1)) and changes(AugmentConfig(flip=True))


def test_half_of_the_pictures_are_mirrored():
    random, pixels = rng(), PICTURES[1]
    results = [augment(pixels, AugmentConfig(flip=True), random) for _ in range(400)]
    mirrored = sum(np.array_equal(result, pixels[:, ::-1]) for result in results)
    assert mirrored + sum(np.array_equal(result, pixels) for result in results) == 400
    assert 160 < mirrored < 240


def test_crop_moves_by_every_offset_and_repeats_the_edge():
    ramp = np.arange(5, dtype=np.uint8)[None, :].repeat(5, 0)
    random = rng()
    seen = {tuple(augment(ramp, AugmentConfig(crop=1), random)[0].tolist()) for _ in range(60)}
    assert seen == {(0, 0, 1, 2, 3), (0, 1, 2, 3, 4), (1, 2, 3, 4, 4)}


@pytest.mark.parametrize("pixels", PICTURES[:2], ids=str)
@pytest.mark.parametrize("config", [AugmentConfig(), AugmentConfig(crop=1), AugmentConfig(crop=1, flip=True)])
def test_views_are_all_that_moving_and_mirroring_give(pixels: np.ndarray, config: AugmentConfig):
    random = rng()
    drawn = {augment(pixels, config, random).tobytes() for _ in range(400)}
    found = list(views(pixels, config))
    np.testing.assert_array_equal(found[0], pixels)
    assert {view.tobytes() for view in found} == drawn and len(found) == len(drawn) == number_of_views(config)


def test_scale_keeps_a_ramp_a_ramp_within_its_window():
    ramp = (np.arange(32) * 8).astype(np.uint8)[None, :].repeat(32, 0)
    random = rng()
    for _ in range(20):
        row = augment(ramp, AugmentConfig(scale=1.0), random)[7].astype(int)
        slope = np.diff(row)[2:-2].mean() / 8  # 1 / factor of the enlargement
        assert 0.5 <= slope <= 1.0 and np.all(np.diff(row) >= 0)
