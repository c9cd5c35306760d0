"""Drawings beside real pictures: the held-out ones of the same caption, and the training picture nearest to each.

Owns the choice of captions, what stands beside what, and the distances that show copying. Scores of other kinds are
`picture_scores`', the layout is `sheet`'s.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from jgpt import sheet
from jgpt.check import require, unknown_name
from jgpt.config import AugmentConfig
from jgpt.data.augment import number_of_views, views
from jgpt.data.examples import Picture
from jgpt.loaded import GPT
from jgpt.neighbours import nearest
from jgpt.picture_scores import as_coded
from jgpt.sampling import Sampling
from jgpt.tasks.image import ImageTask
from jgpt.tasks.mixture import TaskData

if TYPE_CHECKING:
    from PIL import Image

MAX_ROWS: Final = 16
UNCAPTIONED_ROWS: Final = 4  # where every picture has the same caption
MAX_COMPARED: Final = 1000  # held-out pictures whose distance to the training pictures is taken
LEAST_COMPARED: Final = 100  # of them, where augmentation gives every training picture many views
SAMPLING: Final = Sampling(temperature=1.0)  # the model's own distribution: no flattering


@dataclass(frozen=True)
class Entry:
    """One caption with what was drawn for it.

    Attributes:
        caption: asked for.
        drawn: pictures by the model.
        nearest: of each drawn one, the training picture nearest by pixels, moved and mirrored as in training where that is
            nearer, as it was before the codes.
        held_out: real pictures of this caption, none where no held-out picture has it.
    """

    caption: str
    drawn: tuple[np.ndarray, ...]
    nearest: tuple[np.ndarray, ...]
    held_out: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Gallery:
    """Drawings with their neighbours.

    Attributes:
        entries: one a caption.
        distances: mean distance of drawn and of held-out pictures to their nearest training picture, all as the codes show
            them [root mean square, grey levels], their ratio, how many are identical to one, and how many were counted.
        unseen: what training made of its pictures that was not compared, in words; empty where that is nothing.
    """

    entries: tuple[Entry, ...]
    distances: dict[str, float | int | None]
    unseen: str = ""

    def sheet(self) -> "Image.Image":
        """Return the sheet: one caption a row."""
        rows = [sheet.Row(e.caption, (e.drawn, e.nearest, e.held_out)) for e in self.entries]
        labels = ("drawn", "nearest training picture of each", "held out")
        if max(len(e.drawn) for e in self.entries) == 1:
            labels = ("drawn", "nearest in training", "held out")
        return sheet.sheet(labels, rows)

    def words(self) -> str:
        """Return what the distances say."""
        found = self.distances
        drawn, held_out, ratio = (found[key] for key in ("drawn_to_training", "held_out_to_training", "ratio"))
        text = f"mean distance to the nearest training picture: drawn {drawn:.1f}"
        if held_out is not None:
            text += f", held out {held_out:.1f} grey levels"
        if ratio is not None:
            text += f", ratio {ratio:.2f} (well below 1 would be copying)"
        text += f"; identical to a training picture: {found['drawn_identical']} of {found['drawn']} drawn"
        return f"{text} ({self.unseen})" if self.unseen else text


def image_task(model: GPT, name: str | None) -> str:
    """Return the name of the task to draw: `name`, or the first one that draws.

    Raises:
        ValueError: the run has no such task, or it draws nothing.
    """
    if name is None:
        return model.task_of_kind("image")
    if name not in model.tasks:
        raise ValueError(unknown_name("task", name, model.tasks))
    kind = model.tasks[name].kind
    require(kind == "image", f"task {name!r} is of kind {kind!r}: only pictures are drawn; name another --task.")
    return name


def captions_to_draw(task: TaskData, most: int) -> list[str]:
    """Return up to `most` distinct held-out captions, spread evenly: classes in order, or names never seen in training.

    Classes that training lacks are left out; where nothing remains, captions are taken from training. Where every picture
    has the same caption, such as none, it is returned `UNCAPTIONED_ROWS` times.
    """
    held = dict.fromkeys(example.caption for example in task.splits.validation)
    captions = [caption for caption in held if task.task.knows(caption)] or list(task.task.captions)
    if len(captions) == 1:
        return captions * min(UNCAPTIONED_ROWS, most)
    if len(captions) <= most:
        return sorted(captions)
    return [captions[i] for i in np.linspace(0, len(captions) - 1, most).round().astype(int)]


def draw(
    model: GPT,
    name: str,
    data: TaskData,
    captions: Sequence[str],
    *,
    n: int,
    seed: int = 0,
    sampling: Sampling = SAMPLING,
) -> Gallery:
    """Draw `n` pictures of each caption and find what they resemble.

    Args:
        model: to draw with.
        name: of the task.
        data: of the task, with its training and held-out pictures.
        captions: to draw; a caption may stand several times.
        n: pictures of each, and at most as many real ones beside them.
        seed: of the drawings.
        sampling: how to draw.

    Raises:
        ValueError: nothing is to be drawn, or a caption cannot be.
    """
    if not isinstance(data.task, ImageTask):
        raise ValueError(f"task {name!r} is of kind {data.task.kind!r}: only pictures are drawn.")
    require(len(captions) > 0, "no caption was given: name at least one.")
    require(n >= 1, f"-n is {n}: draw at least 1 picture of each caption.")
    requests = [caption for caption in captions for _ in range(n)]
    drawn = model.complete(name, requests, sampling=sampling, seed=seed).values
    real = _held_out(data, set(captions))
    augmented = model.config.data.augment
    most = max(LEAST_COMPARED, MAX_COMPARED // number_of_views(augmented))
    compared = [as_coded(data.task, example) for example in spread(real, most)]
    where, distances = nearest([*drawn, *compared], _training(data, augmented))
    by_caption = defaultdict(list)
    for example in real:
        by_caption[example.caption].append(example.pixels)
    entries = []
    for row, caption in enumerate(captions):
        mine = slice(row * n, (row + 1) * n)
        neighbours = tuple(_view(data, augmented, int(i)) for i in where[mine])
        beside, by_caption[caption] = by_caption[caption][:n], by_caption[caption][n:]
        entries.append(Entry(caption, tuple(drawn[mine]), neighbours, tuple(beside)))
    summary = _summary(distances[: len(drawn)], distances[len(drawn) :], len(data.splits.train))
    return Gallery(tuple(entries), summary, _unseen(data, augmented))


def _training(data: TaskData, augmented: AugmentConfig) -> Iterator[np.ndarray]:
    """Yield the training pictures in all their views, as the run's codes show them: what was learned, and may be copied."""
    for example in data.splits.train:
        for pixels in views(_seen(example), augmented):
            yield pixels if data.task.exact else as_coded(data.task, replace(example, pixels=pixels))


def _seen(example: Picture) -> np.ndarray:
    """Return what training shows of a picture: itself, or what it is drawn from anew in every epoch."""
    return example.pixels if example.brightness is None else example.brightness


def _view(data: TaskData, augmented: AugmentConfig, number: int) -> np.ndarray:
    """Return one of the pictures that `_training` yields, before the codes."""
    example, each = divmod(number, number_of_views(augmented))
    return next(islice(views(_seen(data.splits.train[example]), augmented), each, None))


def _unseen(data: TaskData, augmented: AugmentConfig) -> str:
    """Return what training made of its pictures besides the views."""
    words = ["enlarged copies were not looked for"] if augmented.scale else []
    if data.splits.train[0].brightness is not None:
        words.append(
            "training pictures are drawn anew every epoch: compared is their brightness, to which none is identical"
        )
    return "; ".join(words)


def _held_out(data: TaskData, captions: set[str]) -> list[Picture]:
    return [example for example in data.splits.validation if example.caption in captions]


def spread(examples: Sequence[Any], most: int) -> list[Any]:
    """Return at most `most` of the examples, evenly spread."""
    if len(examples) <= most:
        return list(examples)
    return [examples[i] for i in np.linspace(0, len(examples) - 1, most).round().astype(int)]


def _summary(drawn: np.ndarray, held_out: np.ndarray, training: int) -> dict[str, float | int | None]:
    """Return the distances in short; those of held-out pictures are None where none has a caption that was drawn."""
    of_drawn = float(drawn.mean())
    of_held_out = float(held_out.mean()) if len(held_out) else None
    return {
        "drawn_to_training": of_drawn,
        "held_out_to_training": of_held_out,
        "ratio": of_drawn / of_held_out if of_held_out else None,
        "drawn_identical": int((drawn == 0).sum()),
        "held_out_identical": int((held_out == 0).sum()),
        "drawn": len(drawn),
        "held_out": len(held_out),
        "training": training,
    }
