"""The registry of sources: a name to a function that returns training and held-out examples.

Owns `SOURCES` and the dispatch over names, paths and TFDS; each reader stands in its own file.
"""

from collections.abc import Callable
from typing import Final

from jgpt.check import unknown_name
from jgpt.config import DataConfig, TaskConfig
from jgpt.data.columns import check_columns
from jgpt.data.digits import read_digits
from jgpt.data.drawn import drawn
from jgpt.data.embedded import read_english
from jgpt.data.examples import Picture, Splits
from jgpt.data.generated import make_addition, make_stories
from jgpt.data.picture_decode import PictureRules, in_form
from jgpt.data.recognise import read_path
from jgpt.data.tfds_source import read_tfds

SOURCES: Final[dict[str, Callable[[int, float], Splits]]] = {
    "python_english": read_english,
    "addition": make_addition,
    "stories": make_stories,
    "sklearn_digits": read_digits,
}


def read_whole(path: str, kind: str, data: DataConfig) -> Splits:
    """Return everything at a path as held out, nothing to train on: what a run is to be scored on.

    Args:
        path: file or folder of the user's.
        kind: of the task that reads it.
        data: how it is read.

    Raises:
        ValueError: what is there is not of the kind, or breaks a rule of its format.
        FileNotFoundError: nothing is at `path`.
    """
    return _in_black_and_white(read_path(path, kind=kind, data=data, validation_fraction=None, seed=0), data)


def _in_black_and_white(splits: Splits, data: DataConfig) -> Splits:
    """Return splits with their pictures drawn in black and white where the config says so."""
    pictures = any(isinstance(example, Picture) for example in (*splits.train[:1], *splits.validation[:1]))
    return drawn(splits) if data.image_threshold == "random" and pictures else splits


def read(task: TaskConfig, data: DataConfig, seed: int) -> Splits:
    """Return the examples of a task: from its path, from TFDS (`tfds:NAME`), or from `SOURCES`.

    Raises:
        ValueError: the source is unknown, or what it read breaks a rule.
        FileNotFoundError: the path or the prepared TFDS folder is missing.
    """
    return _in_black_and_white(_read(task, data, seed), data)


def _read(task: TaskConfig, data: DataConfig, seed: int) -> Splits:
    if task.path is not None:
        return read_path(task.path, kind=task.kind, data=data, validation_fraction=task.validation_fraction, seed=seed)
    if task.source.startswith("tfds:"):
        name = task.source.removeprefix("tfds:")
        return read_tfds(
            name,
            kind=task.kind,
            data_dir=data.tfds_dir,
            seed=seed,
            validation_fraction=task.validation_fraction,
            data=data,
        )
    if task.source == "path":
        raise ValueError("this task reads the user's own data: say where it is, with --data.path FILE_OR_FOLDER.")
    if task.source not in SOURCES:
        raise ValueError(unknown_name("data source", task.source, [*SOURCES, "path", "tfds:NAME"]))
    check_columns(data, (), f"the source {task.source!r}")
    return in_form(SOURCES[task.source](seed, task.validation_fraction), PictureRules.of(data))
