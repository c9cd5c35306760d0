"""Galleries: captions chosen from the held-out ones, copies found, everything beside its own caption."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from jgpt import gallery
from jgpt.config import AugmentConfig, Config, DataConfig, ModelConfig
from jgpt.data.augment import augment
from jgpt.data.examples import Picture, Splits
from jgpt.data.packing import pack
from jgpt.loaded import GPT, Completion
from jgpt.picture_scores import as_coded
from jgpt.sampler import Samples
from jgpt.sampling import Sampling
from jgpt.tasks.image import ImageTask
from jgpt.tasks.mixture import TaskData
from jgpt.tokenizers.image import Palette
from jgpt.tokenizers.text import TOKENIZERS
from jgpt.tokenizers.vocabulary import Vocabulary

RANDOM = np.random.default_rng(0)


def picture(caption: str) -> Picture:
    return Picture(RANDOM.integers(0, 256, (3, 2)).astype(np.uint8), caption)


def task_data(train: list[Picture], validation: list[Picture], levels: int = 256) -> TaskData:
    words = Vocabulary("bytes", TOKENIZERS["bytes"].train([], 0), Palette.grey(levels))
    task = ImageTask.fit(words, train)
    rows = [pack([task.encode(example) for example in part], "whole", 64) for part in (train, validation)]
    sizes = [task.dimensions(example) for example in validation]
    return TaskData(task, Splits(train, validation), *rows, None if None in sizes else sum(filter(None, sizes)))


@dataclasses.dataclass(frozen=True)
class Fake(GPT):
    """Draws what it is told to, in turn; `asked` keeps the captions, `options` how they were drawn."""

    pictures: tuple[np.ndarray, ...] = ()
    asked: list[Any] = dataclasses.field(default_factory=list)
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def complete(self, task: str, requests: Any, **options: Any) -> Completion:
        self.asked.extend(requests)
        self.options.update(options)
        return Completion(
            [self.pictures[i % len(self.pictures)] for i in range(len(requests))], Samples([], [], [], [])
        )


def fake(data: TaskData, pictures: list[np.ndarray]) -> Fake:
    tasks = {"p": data.task}
    return Fake({}, Config(), ModelConfig(), data.task.vocabulary, tasks, 3, pictures=tuple(pictures))


def test_classes_come_in_order_and_many_captions_evenly():
    classes = task_data([picture("0")], [picture(str(i % 10)) for i in (3, 1, 4, 1, 5, 9)])
    assert gallery.captions_to_draw(classes, 16) == ["1", "3", "4", "5", "9"]
    names = task_data([picture("x")], [picture(f"name {i}") for i in range(41)])
    assert gallery.captions_to_draw(names, 5) == ["name 0", "name 10", "name 20", "name 30", "name 40"]
    bare = task_data([picture("")], [picture("") for _ in range(9)])
    assert gallery.captions_to_draw(bare, 16) == [""] * gallery.UNCAPTIONED_ROWS
    assert gallery.captions_to_draw(bare, 1) == [""]


def test_copies_are_found_beside_their_originals():
    train, held = [picture(str(i % 2)) for i in range(20)], [picture(str(i % 2)) for i in range(8)]
    data = task_data(train, held)
    copied = [train[i].pixels for i in (7, 2, 11, 4)]
    model = fake(data, copied)
    made = gallery.draw(model, "p", data, ["0", "1"], n=2, seed=3, sampling=Sampling(guidance=2.0))
    assert model.asked == ["0", "0", "1", "1"]
    assert model.options == {"seed": 3, "sampling": Sampling(guidance=2.0)}
    for entry, originals in zip(made.entries, (copied[:2], copied[2:]), strict=True):
        np.testing.assert_array_equal(np.stack(entry.drawn), np.stack(originals))
        np.testing.assert_array_equal(np.stack(entry.nearest), np.stack(originals))
    assert made.distances["drawn_to_training"] == made.distances["ratio"] == 0
    assert made.distances["drawn_identical"] == 4 and made.distances["held_out_identical"] == 0
    assert (made.distances["drawn"], made.distances["held_out"], made.distances["training"]) == (4, 8, 20)
    assert "ratio 0.00" in made.words() and "4 of 4 drawn" in made.words()


def test_a_copy_in_the_colours_of_a_lossy_code_is_a_copy():
    train = [picture("a") for _ in range(9)]
    data = task_data(train, [picture("a")], levels=3)
    copies = [as_coded(data.task, train[i]) for i in (5, 2)]
    made = gallery.draw(fake(data, copies), "p", data, ["a"], n=2)
    assert made.distances["drawn_to_training"] == 0 and made.distances["drawn_identical"] == 2
    for shown, i in zip(made.entries[0].nearest, (5, 2), strict=True):
        np.testing.assert_array_equal(shown, train[i].pixels)  # as it was, not as it was coded


@pytest.mark.parametrize("levels", [256, 3])
def test_a_copy_of_a_picture_as_augmentation_showed_it_is_a_copy(levels: int):
    train = [picture("a") for _ in range(9)]
    data = task_data(train, [picture("a")], levels=levels)
    config = AugmentConfig(crop=1, flip=True)
    shown = [augment(train[i].pixels, config, RANDOM) for i in (5, 2, 7)]
    drawn = [as_coded(data.task, Picture(pixels, "a")) for pixels in shown]
    plain = fake(data, drawn)
    assert gallery.draw(plain, "p", data, ["a"], n=3).distances["drawn_identical"] < 3
    model = dataclasses.replace(plain, config=Config(data=DataConfig(augment=config)))
    made = gallery.draw(model, "p", data, ["a"], n=3)
    assert made.distances["drawn_identical"] == 3 and made.distances["ratio"] == 0 and not made.unseen
    found = [as_coded(data.task, Picture(pixels, "a")) for pixels in made.entries[0].nearest]
    np.testing.assert_array_equal(np.stack(found), np.stack(drawn))
    larger = dataclasses.replace(plain, config=Config(data=DataConfig(augment=AugmentConfig(scale=0.5))))
    assert "enlarged copies were not looked for" in gallery.draw(larger, "p", data, ["a"], n=1).words()


def test_a_picture_that_is_drawn_anew_every_epoch_is_compared_by_its_brightness():
    train = [
        dataclasses.replace(picture("a"), brightness=RANDOM.integers(0, 256, (3, 2)).astype(np.uint8)) for _ in "abc"
    ]
    data = task_data(train, [picture("a")])
    made = gallery.draw(fake(data, [train[1].brightness]), "p", data, ["a"], n=1)
    assert made.distances["drawn_to_training"] == 0 and "drawn anew every epoch" in made.words()


def test_held_out_pictures_drawn_again_have_a_ratio_of_one():
    train, held = [picture("a") for _ in range(6)], [picture("a") for _ in range(4)]
    data = task_data(train, held)
    made = gallery.draw(fake(data, [example.pixels for example in held]), "p", data, ["a"], n=4)
    assert made.distances["ratio"] == pytest.approx(1)
    by_hand = [
        min(np.sqrt(((h.pixels.astype(float) - t.pixels.astype(float)) ** 2).mean()) for t in train) for h in held
    ]
    assert made.distances["held_out_to_training"] == pytest.approx(np.mean(by_hand))


def test_rows_of_one_caption_show_different_held_out_pictures():
    held = [picture("") for _ in range(6)]
    data = task_data([picture("")], held)
    made = gallery.draw(fake(data, [held[0].pixels]), "p", data, ["", ""], n=2)
    shown = [pixels for entry in made.entries for pixels in entry.held_out]
    np.testing.assert_array_equal(np.stack(shown), np.stack([example.pixels for example in held[:4]]))


def test_a_caption_that_nobody_held_out_has_nothing_beside_it():
    data = task_data([picture("a"), picture("b")], [picture("b")])
    made = gallery.draw(fake(data, [picture("a").pixels]), "p", data, ["a"], n=2)
    assert made.entries[0].held_out == () and made.distances["held_out_to_training"] is None
    assert "held out" not in made.words() and made.sheet().width > 100


def test_refusals_name_the_fix():
    data = task_data([picture("a")], [picture("a")])
    model = fake(data, [picture("a").pixels])
    assert gallery.image_task(model, None) == gallery.image_task(model, "p") == "p"
    with pytest.raises(ValueError, match="unknown task 'q'.*Known: p"):
        gallery.image_task(model, "q")
    with pytest.raises(ValueError, match="-n is 0: draw at least 1"):
        gallery.draw(model, "p", data, ["a"], n=0)
    with pytest.raises(ValueError, match="no caption was given"):
        gallery.draw(model, "p", data, [], n=1)
