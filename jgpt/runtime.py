"""What the process must set before jax loads: the allocator, and which lines the libraries may print.

Owns these settings for the entry points (`train.py`, `sample.py`, `jgpt`); notebooks call `configure()` themselves,
first thing. Refuses to import jax.
"""

import ctypes
import os
import sys
from typing import Final

# glibc mallopt parameters (malloc.h); XLA:CPU takes and frees its temporaries at every execution, and by default glibc
# hands the pages back each time and faults them in again, which costs a quarter of a training step.
_M_TRIM_THRESHOLD: Final = -1
_M_TOP_PAD: Final = -2
_M_MMAP_MAX: Final = -4
_M_ARENA_MAX: Final = -8
_KEEP_BYTES: Final = 2**30


def configure() -> bool:
    """Keep freed pages in the process and quieten the libraries; return whether the allocator took the settings.

    Must run before jax is imported: it allocates from the first line on. On systems without glibc nothing is changed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("ABSL_MIN_LOG_LEVEL", "2")
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _KEEP_BYTES), (_M_TOP_PAD, 2**26))
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)
