"""`jgpt compress RUN FILE`: a file to the bits the model claims it has. Imports no jax before the command line is parsed."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jgpt.runtime import configure

if TYPE_CHECKING:
    from jgpt.compression.codec import Measured
    from jgpt.compression.originals import Original

HELP: Final = "compress a text or a picture with a run, and prove its likelihood"
DESCRIPTION: Final = """\
An arithmetic coder driven by the model. The file comes back bit for bit (a picture: pixel for pixel) with `jgpt decompress`,
and its size is compared with the bits that training's forward pass claims for it: they must agree within 1 %, else the exit
code is 1. A model that sees the future, or a wrong mask, shows here.

Decompress with the same run and checkpoint, on the same kind of device with the same version of jax: elsewhere the model may
round otherwise, which the checksum tells.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("run", help="folder of the run, e.g. runs/trio")
    parser.add_argument(
        "file",
        help="text (any bytes, where the tokenizer is one of bytes), a picture, or .npy: uint8 [count, ...shape]",
    )
    parser.add_argument("--out", help="file to write (default: FILE.jgz)")
    parser.add_argument("--overwrite", action="store_true", help="replace the output where it exists")
    parser.add_argument("--task", help="task of the run to compress with (default: the first that suits the file)")
    parser.add_argument("--caption", help="of pictures; kept in the file (default: none)")
    parser.add_argument("--step", type=int, help="checkpoint to use (default: the newest)")


def run(arguments: argparse.Namespace) -> None:
    """Compress, write, and print sizes and their agreement; leave with 1 where they disagree."""
    path = Path(arguments.file)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file: name one file to compress.")
    out = Path(arguments.out or f"{path}.jgz")
    refuse_existing(out, arguments.overwrite)
    configure()
    import jgpt
    from jgpt.compression import codec, originals
    from jgpt.progress import Counter
    from jgpt.tasks.text import TextTask

    model = jgpt.load(arguments.run, step=arguments.step)
    kind = originals.kind_of(path)
    if arguments.task is None and kind != "text" and all(task.kind != "image" for task in model.tasks.values()):
        kind = "text"  # to a run of text, a picture file is bytes
    name, task = codec.task_for(model, arguments.task, kind)
    raw = path.read_bytes()
    if isinstance(task, TextTask):
        if arguments.caption is not None:
            raise ValueError(f"--caption {arguments.caption!r} belongs to pictures, and {name!r} is a task of text.")
        original = originals.read_text(task, raw, str(path))
    else:
        if kind == "text":
            raise ValueError(f"{path} is neither a picture ({', '.join(originals.PICTURE_SUFFIXES)}) nor a .npy stack.")
        if arguments.caption is None and "" not in task.captions:
            known = ", ".join([*task.captions[:20], *(["..."] if len(task.captions) > 20 else [])])
            raise ValueError(
                f"task {name!r} draws after a caption: give --caption WORDS (known: {known}), or --caption '' for none."
            )
        read = originals.read_picture if kind == "picture" else originals.read_stack
        original = read(task, raw, str(path), arguments.caption or "")
    total = sum(len(document.tokens) for document in original.documents)
    with Counter("ids coded", total) as counter:
        file, measured = codec.compress(model, name, original, arguments.caption or "", counter.reach)
    content = file.to_bytes()
    out.write_bytes(content)
    _report(str(path), len(raw), original, content, str(out), measured, model.step)
    if not measured.agrees:
        print(
            f"warning: the code has {measured.ratio:.2%} of the bits that the forward pass claims, and the steps that drove it "
            f"claim {measured.stepped_bits / measured.forward_bits:.3%} of them; allowed are {codec.TOLERANCE:.0%} besides "
            f"{measured.overhead_bits:.0f} bits, and {measured.rounding:.2%}. The forward pass sees what it should not, or "
            "decoding computes another model: do not trust the likelihoods of this run. `jgpt show-batch CONFIG --check` "
            "looks for the leak.",
            file=sys.stderr,
        )
        raise SystemExit(1)


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise FileExistsError where `path` is taken and may not be replaced."""
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: name another file with --out, or give --overwrite.")


def _report(
    name: str, size: int, original: "Original", content: bytes, out: str, measured: "Measured", step: int
) -> None:
    """Print the table."""
    import lzma
    import zlib

    from rich.table import Table

    from jgpt.progress import console

    raw = original.raw
    per = "byte" if original.kind == "text" else "dim"
    table = Table("", "bytes", f"bits per {per}", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"

    def row(what: str, bits: float) -> None:
        rate = f"{bits / original.units:.4f}" if original.units else "-"
        table.add_row(what, f"{bits / 8:,.1f}".removesuffix(".0"), rate)

    row("forward pass claims", measured.forward_bits)
    row("steps of the coder claim", measured.stepped_bits)
    row("code", measured.code_bits)
    row(f"code and {len(content) - measured.code_bits // 8} bytes of header", 8 * len(content))
    row("zlib -9" if per == "byte" else "zlib -9 of the pixels", 8 * len(zlib.compress(raw, 9)))
    row("xz" if per == "byte" else "xz of the pixels", 8 * len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)))
    if per == "dim":
        row("the file itself", 8 * size)
    console.print(f"{name}: {size:,} bytes, {measured.tokens:,} ids", markup=False)
    console.print(table)
    console.print(
        f"code / forward pass: {measured.ratio:.4f} "
        f"(of the code up to {measured.overhead_bits / 8:.0f} bytes are ends and starts of the stream)\n"
        f"{measured.tokens / measured.seconds:,.0f} ids/s, {measured.seconds:.1f} s\n"
        f"{out}: comes back by this run's checkpoint of step {step} alone, which more training may remove",
        markup=False,
    )
