"""`jgpt decompress RUN FILE.jgz`: what `jgpt compress` made, back again. Imports no jax before the command line is parsed."""

import argparse
from pathlib import Path
from typing import Final

from jgpt.runtime import configure
from jgpt.verbs.compress import refuse_existing

HELP: Final = "bring back a file that `jgpt compress` made"
DESCRIPTION: Final = """\
Needs the run and the checkpoint that compressed the file, on the same kind of device with the same version of jax: elsewhere
the model may round otherwise, and the checksum refuses the result.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("run", help="folder of the run that compressed it")
    parser.add_argument("file", help="compressed file")
    parser.add_argument("--out", help="file to write (default: the name without .jgz)")
    parser.add_argument("--overwrite", action="store_true", help="replace the output where it exists")


def run(arguments: argparse.Namespace) -> None:
    """Decompress and write."""
    from jgpt.compression import container

    path = Path(arguments.file)
    file = container.read(path)
    if arguments.out is None and path.suffix != ".jgz":
        raise ValueError(f"{path} is not named .jgz, so the output has no name: give --out FILE.")
    out = Path(arguments.out) if arguments.out else path.with_suffix("")
    refuse_existing(out, arguments.overwrite)
    configure()
    import numpy as np

    import jgpt
    from jgpt.compression import codec, originals
    from jgpt.progress import Counter, say

    try:
        model = jgpt.load(arguments.run, step=file.step)
    except ValueError as error:
        raise ValueError(
            f"{error} {path} comes back by that checkpoint of the run that compressed it alone; more training may have removed "
            "it."
        ) from None
    with Counter("ids decoded", None) as counter:
        value = codec.decompress(model, file, counter.reach)
    if isinstance(value, np.ndarray):
        originals.save_pictures(out, file.kind, value)
    else:
        out.write_bytes(value)
    say(f"{out}: as it was (crc32 {file.checksum:08x})")
