"""`jgpt VERB`: what is done with a run besides training and sampling.

Owns the list of verbs; each verb's command line and work stand in its own file in `jgpt.verbs`. Imports no jax before
parsing.
"""

import argparse
from types import ModuleType
from typing import Final

from jgpt.entry import user_errors
from jgpt.verbs import evaluate, fit_image_tokenizer

VERBS: Final[dict[str, ModuleType]] = {"evaluate": evaluate, "fit-image-tokenizer": fit_image_tokenizer}


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    out = argparse.ArgumentParser("jgpt", description="Work with runs that train.py made.")
    verbs = out.add_subparsers(dest="verb", required=True)
    for name, verb in VERBS.items():
        sub = verbs.add_parser(name, help=verb.HELP)
        verb.add_arguments(sub)
        sub.set_defaults(call=verb.run)
    return out


def main() -> None:
    """Run a verb."""
    arguments = parser().parse_args()
    with user_errors():
        arguments.call(arguments)


if __name__ == "__main__":
    main()
