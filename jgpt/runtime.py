"""What the process must set before jax loads: the allocator, the cache of compiled programs, what libraries may print.

Owns these settings for the entry points (`train.py`, `sample.py`, `jgpt`), and what the allocator says of itself; notebooks
call `configure()` themselves, first thing. Refuses to import jax.
"""

import ctypes
import functools
import glob
import mmap
import os
import platform
import sys
import zlib
from collections.abc import Callable
from typing import Final

# glibc mallopt parameters (malloc.h); XLA:CPU takes and frees its temporaries at every execution, and by default glibc
# hands the pages back each time and faults them in again, which costs a quarter of a training step.
_M_TRIM_THRESHOLD: Final = -1
_M_TOP_PAD: Final = -2
_M_MMAP_MAX: Final = -4
_M_ARENA_MAX: Final = -8
_NEVER: Final = -1
_MADV_HUGEPAGE: Final = 14  # asm-generic/mman-common.h
_HUGE_PAGE: Final = 2**21
_HUGE_BYTES: Final = 2**32  # of the heap; address space alone, no memory until it is used

# What libtpu (the extra [plan]) asks the network for, in vain and at length, where there is no TPU.
NO_TPU: Final = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "127.0.0.1",  # not "localhost": of a real one `launchers` must know
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}


def configure() -> bool:
    """Keep freed pages in the process, in huge pages, keep compiled programs on disk, and quieten the libraries.

    Must run before jax is imported: it allocates from the first line on. On systems without glibc the allocator is left as it
    is. What stands in the environment already is respected: JAX_COMPILATION_CACHE_DIR moves the compiled programs,
    JAX_ENABLE_COMPILATION_CACHE=false does without.

    Returns:
        Whether the allocator took its settings.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("ABSL_MIN_LOG_LEVEL", "2")
    if not (glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")):  # where chips would be
        for name, value in NO_TPU.items():
            os.environ.setdefault(name, value)
    _keep_compiled()
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6", use_errno=True)
        mallopt = libc.mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, 2**26))
    return all(mallopt(parameter, value) == 1 for parameter, value in settings) and _huge_pages(libc)


class _Mallinfo2(ctypes.Structure):
    """What glibc's mallinfo2 returns (malloc.h, from 2.33 on)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


def allocated() -> int | None:
    """Return the bytes that glibc has given out, in its heap and beside it; None where the C library does not say.

    Another allocator that was preloaded is not asked: little is counted then.
    """
    mallinfo2 = _mallinfo2()
    if mallinfo2 is None:
        return None
    found = mallinfo2()
    return found.uordblks + found.hblkhd


@functools.cache
def _mallinfo2() -> Callable[[], _Mallinfo2] | None:
    try:
        mallinfo2 = ctypes.CDLL("libc.so.6").mallinfo2
    except (OSError, AttributeError):
        return None
    mallinfo2.restype = _Mallinfo2
    return mallinfo2


def _keep_compiled() -> None:
    """Have jax keep what takes long to compile, in the user's cache folder; where none can be made, it compiles anew.

    The folder bears the processor's features: homes are shared between machines, machine code is not.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            features = next((line for line in info if line.startswith(("flags", "Features"))), "")
    except OSError:
        features = platform.processor()
    folder = os.path.join(home, "jgpt", f"compiled-{zlib.crc32(features.encode()):08x}")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", folder)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")


def _huge_pages(libc: ctypes.CDLL) -> bool:
    """Have the heap's next `_HUGE_BYTES` backed by pages of 2 MiB, of which a step touches hundreds instead of 100,000.

    Returns:
        Whether the kernel agreed; where it does not, nothing is lost.
    """
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    heap = libc.malloc(_HUGE_BYTES)  # grows the heap; freed at once, the room stays at its top
    if not heap:
        return False
    begin = -(-heap // mmap.PAGESIZE) * mmap.PAGESIZE
    agreed = libc.madvise(begin, _HUGE_BYTES - _HUGE_PAGE, _MADV_HUGEPAGE) == 0
    libc.free(heap)
    return agreed
