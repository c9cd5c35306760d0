"""Train a config: `python train.py [configs/NAME.py] [--section.field value ...]`; configs/trio.py without arguments."""

import sys
from pathlib import Path

from jgpt.entry import user_errors
from jgpt.runtime import configure

DEFAULT_CONFIG = "configs/trio.py"


def main() -> None:
    """Parse the command line before jax is loaded, then train."""
    with user_errors():
        from jgpt.configio import from_arguments

        arguments = sys.argv[1:]
        named = bool(arguments) and not arguments[0].startswith("-")
        default = Path(DEFAULT_CONFIG) if Path(DEFAULT_CONFIG).is_file() else Path(__file__).parent / DEFAULT_CONFIG
        path = arguments[0] if named else str(default)
        config = from_arguments(
            path,
            arguments[named:],
            f"train.py {path}",
            "Train one GPT. Every field of the config can be overridden; defaults are those of the file.",
        )
        configure()
        from jgpt.loop import train

        train(config, path)


if __name__ == "__main__":
    main()
