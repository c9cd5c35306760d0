"""Scores of pictures: the codes' error by hand, and a classifier that knows right drawings from wrong ones."""

import dataclasses
import math

import numpy as np
import pytest
from test_gallery import fake, task_data

from jgpt import picture_scores
from jgpt.data.examples import Picture
from jgpt.tokenizers.image import Palette

RANDOM = np.random.default_rng(1)


def square(caption: str) -> Picture:
    """Return a picture that is bright on the left for "l", on the right for "r", with noise."""
    pixels = RANDOM.integers(0, 60, (3, 2))
    pixels[:, "lr".index(caption)] += 150
    return Picture(pixels.astype(np.uint8), caption)


def test_exact_codes_have_no_error_and_lossy_ones_the_one_by_hand():
    data = task_data([square("l")], [Picture(np.array([[0, 10], [20, 250], [255, 128]], np.uint8), "l")])
    assert picture_scores.code_error("p", data) == {}
    data.task.vocabulary = dataclasses.replace(data.task.vocabulary, image=Palette.grey(2))
    squares = 0 + 10**2 + 20**2 + 5**2 + 0 + 127**2  # every pixel to the nearer of 0 and 255
    scores = picture_scores.code_error("p", data)
    assert scores["p/code_rmse"] == pytest.approx(math.sqrt(squares / 6))
    assert scores["p/code_psnr"] == pytest.approx(20 * math.log10(255 / math.sqrt(squares / 6)))


@pytest.mark.parametrize("per_class", [1, 4])
def test_consistency_counts_the_drawings_of_the_right_class(per_class: int):
    data = task_data([square("lr"[i % 2]) for i in range(60)], [square("lr"[i % 2]) for i in range(20)])
    for shown, share in (("lr", 1.0), ("rl", 0.0), ("ll", 0.5)):
        drawn = [square(caption).pixels for caption in shown for _ in range(per_class)]
        model = fake(data, drawn)
        scores = picture_scores.consistencies(model, {"p": data}, per_class=per_class)
        assert scores == {"p/classifier_accuracy": 1.0, "p/class_consistency": share}
        assert model.asked == ["l"] * per_class + ["r"] * per_class


def test_the_choice_of_training_pictures_is_seeded_and_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(picture_scores, "MAX_TRAINING", 12)
    data = task_data([square("lr"[i % 2]) for i in range(40)], [square("l")])
    first, again, other = (picture_scores._real(data.task, data.splits.train, seed) for seed in (0, 0, 1))
    assert first[0].shape == (12, 6)
    np.testing.assert_array_equal(first[0], again[0])
    assert not np.array_equal(first[0], other[0])


def test_only_captions_that_are_classes_have_classes():
    def classes(*captions: str) -> tuple[str, ...] | None:
        return picture_scores.classes_of(
            task_data([Picture(np.zeros((3, 2), np.uint8), c) for c in captions], [square("l")])
        )

    assert classes(*["a", "b"] * 10) == ("a", "b")
    assert classes(*["a"] * 30) is None
    assert classes(*["a"] * 30, *["b"] * 9) is None
    assert classes(*(f"name {i}" for i in range(101))) is None


def test_free_captions_are_refused_with_the_fix():
    data = task_data([square("l")], [square("l")])
    model = fake(data, [square("l").pixels])
    with pytest.raises(ValueError, match="no task of this run draws from 2 to 100 captions.*leave it out"):
        picture_scores.consistencies(model, {"p": data}, per_class=1)
    rare = task_data([square("lr"[i == 0]) for i in range(30)], [square("l")])
    with pytest.raises(ValueError, match="p: too few have 'r'"):
        picture_scores.consistencies(model, {"p": rare}, per_class=1)
    with pytest.raises(ValueError, match="captions of task 'p' are no classes.*leave --draw out"):
        picture_scores.class_consistency(model, "p", data, per_class=1)
