"""What every entry point does first and last: set up the process, parse, and turn a user's mistake into one clear line.

Owns the exit codes (2: a mistake or a missing thing, with what to do). Imports no jax: `--help` must be instant.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

MENDABLE: Final = (ValueError, OSError, FloatingPointError, ModuleNotFoundError)


def say_error(error: BaseException) -> None:
    """Print what went wrong, and what to do where that is known."""
    hint = ": free some space; what was saved before stays" if getattr(error, "errno", 0) == errno.ENOSPC else ""
    print(f"error: {error}{hint}", file=sys.stderr, flush=True)


@contextmanager
def user_errors() -> Iterator[None]:
    """Print errors that a user can mend as `error: ...` and leave with 2; JGPT_TRACEBACK=1 shows where they arose."""
    try:
        yield
    except MENDABLE as error:
        if os.environ.get("JGPT_TRACEBACK") == "1":
            raise
        say_error(error)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        if os.environ.get("JGPT_TRACEBACK") == "1":
            raise
        print("interrupted; what was saved before stays, and the same command goes on from there", file=sys.stderr)
        raise SystemExit(130) from None
