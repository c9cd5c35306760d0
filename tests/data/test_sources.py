"""The registry of sources: what is refused and how, and what every entry promises."""

import math
from collections.abc import Iterator
from typing import Any

import pytest

from jgpt.config import DataConfig, TaskConfig
from jgpt.data import embedded, generated, sources
from jgpt.data.examples import Picture, Splits

FRACTION = 0.1
STORIES = 1_000  # instead of 20,000, whose making takes seconds
EVERY = 10  # read one module of the standard library in ten, for the same reason
TOLERANCE = 0.01  # of the share held out: sources round to whole examples, and addition to whole pairs


def task(source: str, **fields: Any) -> TaskConfig:
    return TaskConfig(kind="text", source=source, **fields)


@pytest.fixture(scope="module", params=sources.SOURCES)
def source(request: pytest.FixtureRequest) -> Iterator[tuple[str, Splits]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generated, "NUM_STORIES", STORIES)
        every_source = embedded._sources
        patch.setattr(embedded, "_sources", lambda library: every_source(library)[::EVERY])
        yield request.param, sources.SOURCES[request.param](0, FRACTION)


def identity(example: Any) -> Any:
    return (example.caption, example.pixels.tobytes()) if isinstance(example, Picture) else example


def keys(splits: Splits) -> tuple[list, list]:
    return [identity(e) for e in splits.train], [identity(e) for e in splits.validation]


def test_splits_are_apart_and_of_the_size_asked_for(source: tuple[str, Splits]):
    train, held = keys(source[1])
    assert train and held and not set(train) & set(held)
    assert len(held) / (len(train) + len(held)) == pytest.approx(FRACTION, abs=TOLERANCE)


def test_same_seed_gives_the_same_examples_in_the_same_order(source: tuple[str, Splits]):
    name, splits = source
    again = sources.read(task(name, validation_fraction=FRACTION), DataConfig(), 0)
    assert keys(again) == keys(splits) and again.baselines == splits.baselines


def test_another_seed_holds_out_others(source: tuple[str, Splits]):
    name, splits = source
    assert set(keys(sources.SOURCES[name](1, FRACTION))[1]) != set(keys(splits)[1])


def test_baselines_are_positive_numbers(source: tuple[str, Splits]):
    assert all(math.isfinite(value) and value > 0 for value in source[1].baselines.values())


@pytest.mark.parametrize(
    ("name", "near"),
    [("python_englsh", "python_english"), ("addtion", "addition"), ("sklearn_digit", "sklearn_digits")],
)
def test_unknown_source_is_named_with_the_nearest_and_all(name: str, near: str):
    with pytest.raises(ValueError) as caught:
        sources.read(task(name), DataConfig(), 0)
    assert f"{name!r}" in str(caught.value) and f"Did you mean {near!r}?" in str(caught.value)
    assert all(known in str(caught.value) for known in [*sources.SOURCES, "path", "tfds:NAME"])


def test_source_path_without_a_path_says_how_to_give_one():
    with pytest.raises(ValueError, match="--data.path"):
        sources.read(task("path"), DataConfig(), 0)


def test_a_path_replaces_the_source(tmp_path: Any):
    (tmp_path / "mine.txt").write_bytes("0123456789".encode("utf-16"))
    fields = dict(path=str(tmp_path / "mine.txt"), validation_fraction=0.2)
    splits = sources.read(task("python_english", **fields), DataConfig(encoding="utf-16"), 0)
    assert (splits.train, splits.validation) == (["01234567"], ["89"])
