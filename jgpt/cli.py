"""`jgpt VERB`: what is done with a run besides training and sampling.

Owns the list of verbs; each verb's command line and work stand in its own file in `jgpt.verbs`. Imports no jax before
parsing.
"""

import argparse
from types import ModuleType
from typing import Final

from jgpt.entry import user_errors
from jgpt.verbs import (
    check_sampler,
    compress,
    decompress,
    draw,
    evaluate,
    fit_image_tokenizer,
    plan,
    serve,
    show_batch,
    simulate,
    surprise,
)

VERBS: Final[dict[str, ModuleType]] = {
    "check-sampler": check_sampler,
    "compress": compress,
    "decompress": decompress,
    "draw": draw,
    "evaluate": evaluate,
    "fit-image-tokenizer": fit_image_tokenizer,
    "plan": plan,
    "serve": serve,
    "show-batch": show_batch,
    "simulate": simulate,
    "surprise": surprise,
}


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    out = argparse.ArgumentParser("jgpt", description="Work with runs that train.py made.")
    verbs = out.add_subparsers(dest="verb", required=True)
    for name, verb in VERBS.items():
        sub = verbs.add_parser(name, help=verb.HELP, allow_abbrev=False)
        verb.add_arguments(sub)
        sub.set_defaults(call=verb.run, takes_config=getattr(verb, "TAKES_CONFIG", False))
    return out


def main() -> None:
    """Run a verb."""
    command = parser()
    arguments, rest = command.parse_known_args()
    if rest and not arguments.takes_config:
        command.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.overrides = rest  # --section.field value, for the verbs that read a config
    with user_errors():
        arguments.call(arguments)


if __name__ == "__main__":
    main()
