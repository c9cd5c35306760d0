"""`jgpt fit-image-tokenizer PATH --out FOLDER`: learn a code for larger pictures. Imports no jax before parsing."""

import argparse
import time
from pathlib import Path
from typing import Final

from jgpt.check import require
from jgpt.runtime import configure

HELP: Final = "learn an image code for larger pictures, for --tokenizer.image learned"
HELD_OUT: Final = 0.1  # share of the pictures that the code is measured on
SHOWN: Final = 16  # held-out pictures in the grid, eight a row
SECONDS: Final = 10.0  # between two lines while training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("path", help="folder of pictures, captions file, .npz, or tfds:NAME")
    parser.add_argument(
        "--out", required=True, help="folder for image.json, image.npz, fitted_to.npy and reconstruction.png"
    )
    parser.add_argument("--size", type=int, default=64, help="side of the pictures [pixels] (default %(default)s)")
    parser.add_argument(
        "--mode", choices=("auto", "grey", "rgb"), default="auto", help="channels (default %(default)s)"
    )
    parser.add_argument("--background", default="white", help="colour behind transparent pixels (default %(default)s)")
    parser.add_argument(
        *("--on-bad-record", "--data.on-bad-record"),
        choices=("error", "skip"),
        default="error",
        help="what to do with bad pictures (%(default)s)",
    )
    parser.add_argument(
        "--stride",
        type=int,
        default=4,
        help="pixels to a token, each way: 64 pixels at 4 are 16 x 16 tokens (%(default)s)",
    )
    parser.add_argument("--codes", type=int, default=1000, help="ids: 240, 1000, 4375 or 15360 (default %(default)s)")
    parser.add_argument("--width", type=int, default=64, help="channels inside the network (default %(default)s)")
    parser.add_argument("--steps", type=int, default=1000, help="training steps of 32 pictures (default %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=4e-3, help="at its peak (default %(default)s)")
    parser.add_argument("--no-flip", action="store_true", help="do not mirror half of the pictures left to right")
    parser.add_argument("--seed", type=int, default=0, help="of weights, batches and held-out pictures")


def run(arguments: argparse.Namespace) -> None:
    """Read, train, measure on held-out pictures, and write the code and a grid of real above reconstructed ones."""
    from jgpt.config import DataConfig, TaskConfig
    from jgpt.data import sources
    from jgpt.data.picture_files import read_pictures

    folder = Path(arguments.out).expanduser()
    require(
        not (folder / "image.json").exists(),
        f"--out {arguments.out!r} holds an image tokenizer already, and runs may depend on it: use another folder.",
    )
    data = DataConfig(
        image_size=arguments.size,
        image_mode=arguments.mode,
        image_background=arguments.background,
        on_bad_record=arguments.on_bad_record,
    )
    if arguments.path.startswith("tfds:"):
        splits = sources.read(TaskConfig(kind="image", source=arguments.path), data, arguments.seed)
    else:
        path = Path(arguments.path).expanduser()
        splits = read_pictures(path, data=data, validation_fraction=HELD_OUT, seed=arguments.seed)
    train, held = ([example.pixels for example in part] for part in (splits.train, splits.validation))
    print(f"{splits.recognised or arguments.path}: {len(train)} to train on, {len(held)} held out", flush=True)
    for note in splits.notes:
        print(f"  {note}")

    configure()
    from jgpt import image_fit
    from jgpt.pictures import save_grid
    from jgpt.tokenizers.image import save_code, save_marks

    config = image_fit.FitConfig(
        stride=arguments.stride,
        codes=arguments.codes,
        width=arguments.width,
        steps=arguments.steps,
        learning_rate=arguments.learning_rate,
        flip=not arguments.no_flip,
        seed=arguments.seed,
    )
    begun, said, recent = time.monotonic(), time.monotonic(), []

    def say(step: int, loss: float) -> None:
        nonlocal said, recent
        recent.append(loss)
        if time.monotonic() - said > SECONDS or step in (1, config.steps):
            mean, seconds = sum(recent) / len(recent), time.monotonic() - begun
            print(f"step {step}/{config.steps}  loss {mean:.5f}  {seconds:.0f} s", flush=True)
            said, recent = time.monotonic(), []

    code = image_fit.fit(train, config, say)
    save_code(code, folder)
    save_marks(code.fitted_to, folder)
    measured = image_fit.measure(code, held)
    rows, columns, _ = code.grid(held[0].shape)
    print(
        f"held out: PSNR {measured.loss.psnr:.2f} dB, RMSE {measured.loss.rmse:.2f} grey levels, "
        f"{measured.used:.0%} of {code.size} codes in use, {rows} x {columns} tokens a picture"
    )
    shown = held[:: max(len(held) // SHOWN, 1)][:SHOWN]
    again = [code.decode(code.encode(picture), picture.shape) for picture in shown]
    width = min(8, len(shown))
    grid = []
    for at in range(0, len(shown) - width + 1, width):
        grid += [shown[at : at + width], again[at : at + width]]
    print(f"real above reconstructed: {save_grid(folder / 'reconstruction.png', grid)}")
    print(
        f"use it with: --tokenizer.image learned --tokenizer.image-path {folder} --data.image-size {arguments.size} "
        f"--train.seed {arguments.seed} (which, with a validation_fraction of {HELD_OUT}, holds out the same pictures)"
    )
