"""`jgpt surprise RUN`: what each pixel costs under the model, as a map. Imports no jax before parsing."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jgpt.check import counted, require, same_file
from jgpt.config import DataConfig
from jgpt.runtime import configure

if TYPE_CHECKING:
    import numpy as np

HELP: Final = "map how many bits each pixel of a picture costs under the model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("run", help="folder of the run, e.g. runs/trio")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("picture", nargs="?", help="picture file; brought into form as those of training were")
    what.add_argument("--held-out", type=int, metavar="N", help="N of the run's held-out pictures, evenly spread")
    parser.add_argument("--caption", help="what the picture shows, where the run draws from captions")
    parser.add_argument("--task", help="image task to ask (default: the first one)")
    parser.add_argument("--out", default="surprise.png", help="PNG to write (default %(default)s)")
    parser.add_argument("--step", type=int, help="checkpoint to load (default: the newest)")


def run(arguments: argparse.Namespace) -> None:
    """Write the map beside the picture, and print the mean bits per dim, or per token where the code is lossy."""
    require(
        arguments.picture is not None or arguments.caption is None,
        f"--caption {arguments.caption!r} is given with --held-out: held-out pictures have their own captions; leave it out.",
    )
    require(
        arguments.held_out is None or arguments.held_out >= 1,
        f"--held-out is {arguments.held_out}: map at least 1 picture.",
    )
    from jgpt.pictures import check_name

    out = Path(arguments.out)
    check_name(out)
    require(
        arguments.picture is None or not same_file(out, arguments.picture),
        f"--out {arguments.out!r} is the picture itself, which would be lost: use another name.",
    )
    configure()
    import jgpt
    from jgpt import gallery, surprise
    from jgpt.data.examples import Picture
    from jgpt.tasks import mixture

    model = jgpt.load(arguments.run, step=arguments.step)
    name = gallery.image_task(model, arguments.task)
    if arguments.picture is not None:
        task: Any = model.tasks[name]
        caption = _caption(arguments.caption, task.captions)
        task.prompt(caption)  # which refuses one that training lacks
        pixels, done = _read(Path(arguments.picture), task.shape, model.config.data)
        for words in done:
            print(f"{arguments.picture}: {words}", file=sys.stderr)
        pictures = [Picture(pixels, caption)]
    else:
        held_out = mixture.build(model.config).tasks[name].splits.validation
        pictures = gallery.spread(held_out, arguments.held_out)
    found = surprise.surprise(model, name, pictures)
    out.parent.mkdir(parents=True, exist_ok=True)
    surprise.sheet_of(pictures, found).save(out)
    value, unit = surprise.mean(found)
    print(f"{value:.4f} {unit} over {counted(len(found), 'picture')}: {out}")
    if unit != "bits per dim":
        print(
            "the image code is lossy: these are bits of the picture as coded, and bits per dim would say nothing of it"
        )


def _caption(given: str | None, known: tuple[str, ...]) -> str:
    """Return the caption given, or the only one of training."""
    if given is not None:
        return given
    require(
        len(known) == 1,
        "the run draws from captions, so what a pixel costs depends on what the picture shows: add --caption, such as "
        f"--caption {known[0]!r}."
        if known
        else "add --caption: what the picture shows.",
    )
    return known[0]


def _read(path: Path, shape: tuple[int, ...], data: DataConfig) -> "tuple[np.ndarray, list[str]]":
    """Return a picture file as uint8 of `shape`, read as those of training are, and in words what was done to it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no picture, a damaged or an animated one, or has another size, and the run scales none.
    """
    from jgpt.data.picture_decode import PictureRules, decode_alone, words_for

    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file: give a picture, or --held-out N.")
    rules = dataclasses.replace(PictureRules.of(data), mode="grey" if len(shape) == 2 else "rgb")
    pixels, done = decode_alone(path.read_bytes(), str(path), rules)
    height, width = shape[:2]
    require(
        pixels.shape[:2] == (height, width),
        f"{path} is {pixels.shape[1]} x {pixels.shape[0]} pixels, this run draws {width} x {height} and was trained without "
        "--data.image-size: scale it first.",
    )
    return pixels, [words_for(step, rules) for step in sorted(done)]
