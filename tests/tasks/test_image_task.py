"""Pictures as a task: what may be asked for, which codes give bits per dimension, and how training pictures vary."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from jgpt.config import AugmentConfig
from jgpt.data.examples import Picture
from jgpt.sampling import Allowed
from jgpt.tasks.image import ImageTask
from jgpt.tokenizers.image import Palette
from jgpt.tokenizers.image_rgb import RGB
from jgpt.tokenizers.text import TOKENIZERS
from jgpt.tokenizers.vocabulary import Vocabulary

GREY = Palette.grey(4)
PIXELS = GREY.colours[np.array([[0, 3, 1], [2, 2, 0]])][:, :, 0]


def vocabulary(name: str) -> Vocabulary:
    return Vocabulary(name, TOKENIZERS[name].train([], 300), GREY)


def free_task(count: int = 4, **fields: Any) -> ImageTask:
    examples = [Picture(PIXELS, f"picture number {i}") for i in range(count)]
    task = ImageTask.fit(dataclasses.replace(vocabulary("bytes"), **fields), examples)
    return task


def test_free_captions_may_be_anything_and_class_names_of_several_words_may_not():
    assert free_task().free
    np.testing.assert_array_equal(
        free_task().prompt("never seen").tokens[1:-1], vocabulary("bytes").encode_text("never seen")
    )
    boots = ImageTask.fit(vocabulary("bytes"), [Picture(PIXELS, name) for name in ("ankle boot", "coat")] * 20)
    assert not boots.free
    with pytest.raises(ValueError, match="'ankle boots' in training. Did you mean 'ankle boot'?"):
        boots.prompt("ankle boots")
    many = ImageTask.fit(vocabulary("bytes"), [Picture(PIXELS, str(i)) for i in range(1001)])
    assert many.free and len(many.captions) == 1000


def test_drawing_on_nothing_needs_pictures_that_were_trained_so():
    task = free_task()
    for nothing in ("", None):
        with pytest.raises(ValueError, match="never saw a picture without its caption.*condition-dropout"):
            task.prompt(nothing)
    task.unconditional = True
    expected = [task.caption, task.image]
    assert task.prompt("").tokens.tolist() == task.prompt(None).tokens.tolist() == expected
    again = ImageTask.from_json(task.vocabulary, json.loads(json.dumps(task.to_json())))
    assert again.prompt("").tokens.tolist() == expected and again.free


def test_colours_take_turns_and_share_three_rows_of_the_mask():
    words = dataclasses.replace(vocabulary("bytes"), image=RGB())
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    task = ImageTask.fit(words, [Picture(pixels, "x")])
    assert task.grid == (4, 5, 3) and task.score_name == "bits_per_dim" and task.dimensions(Picture(pixels, "x")) == 60
    prompt = task.prompt("x")
    allowed = Allowed.phases([(phase.ids, phase.count) for phase in prompt.phases], words.size)
    assert allowed.table_GV.shape == (4, words.size) and allowed.group_BT.shape == (1, 61)
    answer = task.encode(Picture(pixels, "x")).tokens[len(prompt.tokens) :]
    assert allowed.table_GV[allowed.group_BT[0], answer].all()
    assert allowed.table_GV.sum(1).tolist() == [256, 256, 256, 1]
    np.testing.assert_array_equal(task.decode(answer[:-1].tolist()), pixels)


def test_codes_that_lose_something_report_no_bits_per_dimension():
    between = PIXELS.copy()
    between[0, 0] += 1  # no level of the palette
    task = ImageTask.fit(vocabulary("bytes"), [Picture(PIXELS, "x"), Picture(between, "x")])
    assert task.score_name is None and task.dimensions(Picture(PIXELS, "x")) is None
    task = ImageTask.fit(vocabulary("bytes"), [Picture(PIXELS, "x")])
    assert task.dimensions(Picture(PIXELS, "x")) == 6
    assert task.dimensions(Picture(between, "x")) is None  # held out, and not what the code can express


def varied(condition_dropout: float = 0.0, seed: int = 0, name: str = "emoji", **augment: Any) -> Any:
    task = free_task()
    examples = [Picture(PIXELS, f"picture number {i}") for i in range(4)]
    options = {"config": AugmentConfig(**augment), "condition_dropout": condition_dropout}
    return task, examples, task.variation(examples, name=name, seed=seed, **options)


def test_variation_is_off_by_default_and_a_function_of_seed_task_epoch_and_index():
    assert varied()[2] is None
    draws = {
        key: tuple(tuple(make(i, epoch).tokens.tolist()) for i in range(4) for epoch in range(10))
        for key, make in {
            "once": varied(0.3, crop=1)[2],
            "again": varied(0.3, crop=1)[2],
            "seed": varied(0.3, 1, crop=1)[2],
            "task": varied(0.3, name="flags", crop=1)[2],
        }.items()
    }
    assert draws["once"] == draws["again"] and len(set(draws.values())) == 3
    assert len(set(draws["once"])) > 10


def test_the_right_share_loses_its_caption_and_nothing_else():
    task, examples, make = varied(0.25)
    whole = [task.encode(example) for example in examples]
    alone = task.encode(Picture(PIXELS, ""))
    dropped = 0
    for index in range(4):
        for epoch in range(200):
            document = make(index, epoch)
            expected = alone if len(document.tokens) == len(alone.tokens) else whole[index]
            dropped += expected is alone
            np.testing.assert_array_equal(document.tokens, expected.tokens)
            np.testing.assert_array_equal(document.weights, expected.weights)
    assert 160 <= dropped <= 240  # 200 expected, 12 of standard deviation


def test_mirroring_in_training_reaches_the_ids():
    task, _, make = varied(flip=True)
    mirrored = task.encode(Picture(PIXELS[:, ::-1], "picture number 0")).tokens.tolist()
    seen = {tuple(make(0, epoch).tokens.tolist()) for epoch in range(20)}
    assert seen == {tuple(mirrored), tuple(task.encode(Picture(PIXELS, "picture number 0")).tokens.tolist())}
