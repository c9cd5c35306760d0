"""What a task uses of its data: the categories that its config names, each on its own side of the split."""

from typing import Any

import pytest

from jgpt.config import Config, TaskConfig
from jgpt.data import sources
from jgpt.data.examples import QuestionAnswer, Splits
from jgpt.tasks.used import read_used

TRAIN = [QuestionAnswer(f"{i}?", "a", category=("x", "y", "z", "")[i % 4]) for i in range(40)]
HELD = [QuestionAnswer(f"{i}!", "a", category=("x", "y", "new")[i % 3]) for i in range(12)]


def read(monkeypatch: pytest.MonkeyPatch, splits: Splits, **options: Any) -> Splits:
    monkeypatch.setitem(sources.SOURCES, "given", lambda seed, fraction: splits)
    return read_used("own", TaskConfig(kind="qa", source="given", **options), Config())


def test_a_task_takes_the_categories_that_its_config_names_and_leaves_the_split_as_it_is(monkeypatch):
    whole, some = (read(monkeypatch, Splits(TRAIN, HELD), categories=of) for of in ((), ("y", "x")))
    assert (whole.train, whole.validation, whole.notes) == (TRAIN, HELD, ())
    assert some.train == [example for example in TRAIN if example.category in ("x", "y")]
    assert some.validation == [example for example in HELD if example.category in ("x", "y")]
    assert some.notes == ("of 2 of 4 categories: 20 of 40 examples to train, 8 of 12 held out",)


def test_categories_that_are_not_there_are_refused(monkeypatch):
    unknown = "unknown category in data.tasks.own.categories 'nev'. Did you mean 'new'.*x, y, z"
    with pytest.raises(ValueError, match=unknown):
        read(monkeypatch, Splits(TRAIN, HELD), categories=("x", "nev"))
    plain = Splits([QuestionAnswer("a", "b")], [QuestionAnswer("c", "b")])
    with pytest.raises(ValueError, match=r"data.tasks.own.categories is \('x',\), but the examples have no categories"):
        read(monkeypatch, plain, categories=("x",))


def test_choices_beside_steps_are_said_to_be_compared_without(monkeypatch):
    led = [QuestionAnswer("a", "b", choices=("b", "c"), steps=("so",))]
    (note,) = read(monkeypatch, Splits(led, led), steps=True).notes
    assert note.startswith("choices are compared without the steps")
    assert read(monkeypatch, Splits(HELD, HELD), steps=True).notes == ()


def test_categories_are_of_questions_and_each_is_named_once():
    with pytest.raises(ValueError, match=r"categories is \('x',\) in a task of kind 'text': only questions have"):
        TaskConfig(kind="text", categories=("x",))
    with pytest.raises(ValueError, match=r"categories is \('x', 'x'\): name each once"):
        TaskConfig(kind="qa", categories=("x", "x"))
