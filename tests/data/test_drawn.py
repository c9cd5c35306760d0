"""Pictures drawn in black and white: by their brightness, held-out ones the same for all, training ones anew every epoch."""

import dataclasses

import numpy as np
import pytest

from jgpt.config import DataConfig, TaskConfig
from jgpt.data import sources
from jgpt.data.drawn import draw, drawn
from jgpt.data.examples import Picture, Splits
from jgpt.tasks.image import ImageTask
from jgpt.tokenizers.image_palette import Palette
from jgpt.tokenizers.text import ByteTokenizer
from jgpt.tokenizers.vocabulary import Vocabulary

DRAWS = 4000
FIVE_SIGMA = 5 * 0.5 / DRAWS**0.5


def test_a_pixel_is_white_as_often_as_it_is_bright():
    brightness = np.array([[0, 1, 64, 128, 254, 255]], np.uint8)
    random = np.random.default_rng(0)
    pictures = np.stack([draw(brightness, random) for _ in range(DRAWS)])
    assert pictures.dtype == np.uint8 and set(np.unique(pictures)) == {0, 255}
    np.testing.assert_allclose(pictures.mean(0) / 255, brightness / 255, atol=FIVE_SIGMA)
    assert not pictures[:, 0, 0].any() and pictures[:, 0, 5].all()


def greys() -> Splits:
    random = np.random.default_rng(1)
    pictures = [Picture(random.integers(0, 256, (6, 5), np.uint8), "x") for _ in range(4)]
    return Splits(train=[*pictures[:2], "a text"], validation=pictures[2:], baselines={"of_the_greys": 1.0})


def test_every_picture_has_one_draw_for_all_runs():
    one, other = drawn(greys()), drawn(greys())
    for a, b, grey in zip(
        [*one.train[:2], *one.validation],
        [*other.train[:2], *other.validation],
        [*greys().train[:2], *greys().validation],
        strict=True,
    ):
        np.testing.assert_array_equal(a.pixels, b.pixels)
        np.testing.assert_array_equal(a.brightness, grey.pixels)
        assert a.caption == "x"
    assert one.train[2] == "a text" and one.baselines == {}
    assert (one.train[0].pixels != one.validation[0].pixels).any()


def test_training_pictures_are_drawn_anew_every_epoch_and_again_the_same_in_each():
    splits = drawn(greys())
    pictures = splits.train[:2]
    vocabulary = Vocabulary("bytes", ByteTokenizer(), Palette.grey(2))
    task = ImageTask.fit(vocabulary, pictures)
    vary = task.variation(pictures, name="p", config=DataConfig().augment, condition_dropout=0.0, seed=0)
    assert vary is not None
    epochs = [vary(0, epoch).tokens for epoch in range(3)]
    assert all((a != b).any() for a, b in zip(epochs, epochs[1:], strict=False))
    np.testing.assert_array_equal(vary(0, 1).tokens, epochs[1])
    assert len({len(tokens) for tokens in epochs}) == 1
    plain = [dataclasses.replace(picture, brightness=None) for picture in pictures]
    assert task.variation(plain, name="p", config=DataConfig().augment, condition_dropout=0.0, seed=0) is None


def test_random_reaches_the_pictures_of_a_source():
    task = TaskConfig(kind="image", source="sklearn_digits")
    splits = sources.read(task, DataConfig(image_threshold="random"), seed=0)
    grey = sources.read(task, DataConfig(), seed=0)
    assert set(np.unique(splits.validation[0].pixels)) == {0, 255}
    np.testing.assert_array_equal(splits.validation[0].brightness, grey.validation[0].pixels)
    assert sources.read(
        TaskConfig(kind="text", source="python_english"), DataConfig(image_threshold="random"), seed=0
    ).train
    with pytest.raises(ValueError, match="data.image_threshold is 0: .* or be 'random'"):
        DataConfig(image_threshold=0)
