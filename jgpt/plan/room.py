"""Whether a run has room on its devices: before the first step, and what to change where it has none.

Owns the comparison, its words and the advice; what a step needs is `compiling`'s, which changes help is `search`'s.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import jax
from jax.sharding import Mesh

from jgpt import sharding, simulated
from jgpt.config import Config, ModelConfig
from jgpt.plan.compiling import Memory, validation_bytes
from jgpt.plan.devices import GIB
from jgpt.plan.search import remedies

NAMED = 6  # changes that are named
EXHAUSTED = "RESOURCE_EXHAUSTED"  # how XLA begins when memory runs out, compiling and running


def available(mesh: Mesh) -> float | None:
    """Return the bytes that a program may take on one of this process's devices; None where nobody says.

    On a CPU: its share of what the system could give now; the processes of `jgpt simulate` are all on this one.
    """
    device = mesh.local_devices[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return float(stats["bytes_limit"])
    free = [room for room in (_system(), _container()) if room is not None]
    sharing = mesh.size if simulated.COMMAND in os.environ else len(mesh.local_devices)
    return min(free) / sharing if device.platform == "cpu" and free else None


def _system() -> float | None:
    """Return the bytes that Linux could give now, None elsewhere."""
    try:
        with open("/proc/meminfo", encoding="ascii") as info:
            return next(float(line.split()[1]) * 1024 for line in info if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None


def _container(folder: str = "/sys/fs/cgroup") -> float | None:
    """Return the bytes that this process's control group (version 2) has left, None where it has no limit."""
    try:
        limit, used = ((Path(folder) / name).read_text() for name in ("memory.max", "memory.current"))
        return max(float(limit) - float(used), 0.0)  # "max" is no number
    except (OSError, ValueError):
        return None


def _platform(mesh: Mesh) -> str:
    return mesh.local_devices[0].platform


def words(memory: Memory, room: float | None) -> str:
    """Return what a step takes on each device, in one line."""
    parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in vars(memory).items() if size >= 0.005 * GIB)
    of = "" if room is None else f" of {room / GIB:.1f}"
    return f"memory of each device: {memory.total / GIB:.2f}{of} GiB" + (f" ({parts})" if parts else "")


def advice(config: Config, model: ModelConfig, mesh: Mesh, config_path: str) -> str:
    """Return the changes that need less memory, the cheapest first, and the command that tries them."""
    found = remedies(config, model, mesh.size, _platform(mesh))
    named = [candidate.words for candidate in islice(found, NAMED)]
    named.append("a smaller --train.batch-size, --model.context-length or model; or a larger device")
    last = f"`jgpt plan {config_path} ...` says what each takes. A run that has begun needs another --run.dir for it."
    return "\n".join(["What needs less, the cheapest change first:", *(f"  {words}" for words in named), last])


@contextmanager
def advised(config: Config, model: ModelConfig, mesh: Mesh, config_path: str) -> Iterator[None]:
    """Turn XLA's end of memory into an error with advice.

    Raises:
        ValueError: a program needs more memory than a device has.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if EXHAUSTED not in str(error):
            raise
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"out of memory: {first}\n{advice(config, model, mesh, config_path)}") from error


def checked(memory: Memory, config: Config, model: ModelConfig, mesh: Mesh, config_path: str) -> str:
    """Return what a step takes, in words; with a warning and advice where a CPU has less.

    Raises:
        ValueError: an accelerator has less.
    """
    room = available(mesh)
    said = words(memory, room)
    validation = validation_bytes(config, model, memory, sharding.owners(mesh).ravel().tolist())
    if room is not None and memory.total <= room < validation and _platform(mesh) != "cpu":
        raise ValueError(
            f"{said}; but {validation / GIB:.2f} while it samples at a validation, from copies of the model: it does not fit. "
            "Add --eval.no-samples, and sample from its checkpoints elsewhere."
        )
    if room is None or memory.total <= room:
        return said
    if _platform(mesh) == "cpu":  # which may still find some, in swap or from others
        return f"{said}: MORE THAN IS FREE\n{advice(config, model, mesh, config_path)}"
    raise ValueError(f"{said}: it does not fit.\n{advice(config, model, mesh, config_path)}")
