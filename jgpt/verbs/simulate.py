"""`jgpt simulate CONFIG`: a run in several real processes on this machine. No jax before the command line is parsed."""

import argparse
from typing import Final

HELP: Final = "train a config in several processes on this machine's CPU, as on a cluster"
DESCRIPTION: Final = """\
Starts processes of train.py that find each other over this machine's network, with the mesh and the split of the data that
a cluster of that shape would have. Lines bear the number of their process. Kill one (kill -9) and see the others notice; run
the same command again and it goes on. Any field of the config can be overridden after it: --section.field value.
"""
TAKES_CONFIG: Final = True
NOTICE_SECONDS: Final = 15  # beyond the heartbeat, in which the others must have ended


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("config", help="file with get_config(), e.g. configs/trio.py, before any --section.field value")
    parser.add_argument("--processes", type=int, default=2, help="to start (default %(default)s)")
    parser.add_argument("--devices-per-process", type=int, default=1, help="fake ones (default %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Run to the end and leave with the processes' exit status."""
    from jgpt.check import require
    from jgpt.configio import from_arguments
    from jgpt.simulated import simulate

    own = ("--distributed.coordinator", "--distributed.num-processes", "--distributed.process-id")
    given = [word for word in arguments.overrides if word.split("=")[0].replace("_", "-") in own]
    require(not given, f"{', '.join(given)}: simulate gives each process its place; leave it out.")
    # parsed here too, so that a mistake is said once
    config = from_arguments(arguments.config, arguments.overrides, f"python train.py {arguments.config}", DESCRIPTION)
    words = [arguments.config, *arguments.overrides]
    grace = config.distributed.heartbeat_seconds + NOTICE_SECONDS
    status = simulate(words, arguments.processes, arguments.devices_per_process, grace=grace)
    if status:
        raise SystemExit(status)
