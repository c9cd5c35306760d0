"""Many processes as one run: how this process finds its place, and what is shared.

jax.distributed is the engine. Owns what it is told, the order of the start (place, roll call, jax, heartbeat), and how
sharded parameters come to every process for sampling. Refuses to launch processes: schedulers do (`docs/scale.md`).
"""

import importlib.metadata
import os
import signal
import socket
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jgpt import entry, rollcall
from jgpt.check import require
from jgpt.config import DistributedConfig
from jgpt.heartbeat import Heartbeat
from jgpt.progress import console

# name: (variables that only this launcher sets, number of processes, this process's number); those that jax recognises
LAUNCHERS: Final = {
    "Slurm": (("SLURM_JOB_ID", "SLURM_STEP_NODELIST"), "SLURM_NTASKS", "SLURM_PROCID"),
    "Open MPI": (("OMPI_COMM_WORLD_SIZE",), "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    "Kubernetes": (("KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"), None, "JOB_COMPLETION_INDEX"),
    "TPU pod": (("TPU_WORKER_HOSTNAMES",), None, "TPU_WORKER_ID"),
}


@dataclass(frozen=True)
class Place:
    """Where a process stands among the others.

    Attributes:
        launcher: who started it, None where it was told by hand.
        coordinator: HOST:PORT of process 0; None = jax finds it.
        processes: of the run; None = jax finds it.
        process: this one's number; None = jax finds it.
    """

    launcher: str | None
    coordinator: str | None
    processes: int | None
    process: int | None


def find(cfg: DistributedConfig, environment: Mapping[str, str]) -> Place | None:
    """Return this process's place by config, by JGPT_* variables or by its launcher's; None where it is alone.

    Raises:
        ValueError: only a part of it is known, or a variable is no number.
    """
    told = (
        cfg.coordinator or environment.get("JGPT_COORDINATOR"),
        _number(cfg.num_processes, environment, "JGPT_NUM_PROCESSES"),
        _number(cfg.process_id, environment, "JGPT_PROCESS_ID"),
    )
    for name, (marks, count, number) in LAUNCHERS.items():
        if all(mark in environment for mark in marks):
            processes = told[1] if told[1] is not None else _number(None, environment, count)
            if name == "TPU pod" and processes is None:
                processes = environment["TPU_WORKER_HOSTNAMES"].count(",") + 1
            if processes == 1:
                return None
            process = told[2] if told[2] is not None else _number(None, environment, number)
            return Place(name, told[0], processes, process)
    if told == (None, None, None):
        return None
    rollcall.check_place(*told)
    checked = replace(cfg, coordinator=told[0], num_processes=told[1], process_id=told[2])  # holds the rules
    return Place(None, checked.coordinator, checked.num_processes, checked.process_id)


def _number(given: int | None, environment: Mapping[str, str], name: str | None) -> int | None:
    text = environment.get(name) if name is not None and given is None else None
    require(text is None or text.isdecimal(), f"the variable {name} is {text!r}: must be a number.")
    return given if text is None else int(text)


@contextmanager
def joined(cfg: DistributedConfig) -> Iterator[Heartbeat | None]:
    """Be one of the run's processes; yields its heartbeat, None where the process is alone.

    What the run says then comes from process 0. A process that loses another one ends with status 75.

    Raises:
        ValueError: the processes do not fit each other.
        TimeoutError: some did not come in time; the message says which.
    """
    place = None if jax.distributed.is_initialized() else find(cfg, os.environ)
    if place is None:
        yield None
        return
    try:
        _start(place, cfg)
    except RuntimeError as error:  # jax's own words for what a launcher did not provide
        raise ValueError(
            f"{place.launcher or 'the coordinator'} was recognised, but jax could not join its processes: {error}. Give "
            "--distributed.coordinator HOST:PORT, or unset the launcher's variables to train alone."
        ) from None
    from jax._src import distributed  # the public interface has no key-value store; Orbax uses this one too

    client: Any = distributed.global_state.client
    before, console.quiet = console.quiet, jax.process_index() > 0
    stopped: SystemExit | None = None
    try:
        with Heartbeat(client, jax.process_index(), jax.process_count(), cfg.heartbeat_seconds) as heartbeat:
            try:
                yield heartbeat
            except SystemExit as error:  # all were asked to stop, and do so together
                stopped = error
            wait("the end")
        jax.distributed.shutdown()
    except (Exception, KeyboardInterrupt) as error:
        _leave(error)
    finally:
        console.quiet = before
    if stopped is not None:
        raise stopped


def _leave(error: BaseException) -> None:
    """Say what went wrong and end at once: at an ordinary exit jax and Orbax would wait for the others, who do not come."""
    mendable = isinstance(error, entry.MENDABLE) and os.environ.get("JGPT_TRACEBACK") != "1"
    if mendable:
        entry.say_error(error)
    else:
        traceback.print_exception(error)
    sys.stdout.flush()
    os._exit(2 if mendable else 1)


def _start(place: Place, cfg: DistributedConfig) -> None:
    """Meet the others, and start jax's runtime."""
    of = f"process {place.process} of {place.processes}" if place.processes else "one of several processes"
    by = f" ({place.launcher})" if place.launcher else ""
    print(
        f"{of}{by} on {socket.gethostname()}: waits up to {cfg.start_seconds} s for all to come to "
        f"{place.coordinator or 'the address that jax finds'}",
        file=sys.stderr,
        flush=True,
    )
    if place.coordinator is not None and place.processes is not None and place.process is not None:
        about = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
        rollcall.attend(place.coordinator, place.process, place.processes, cfg.start_seconds, about)
    jax.distributed.initialize(
        coordinator_address=place.coordinator,
        num_processes=place.processes,
        process_id=place.process,
        initialization_timeout=cfg.start_seconds,
        heartbeat_timeout_seconds=2 * cfg.heartbeat_seconds,  # jax's own watch stands behind ours
    )
    print(
        f"process {jax.process_index()} of {jax.process_count()}: all are there; {jax.device_count()} devices "
        f"({jax.devices()[0].platform}), {jax.local_device_count()} of them here",
        file=sys.stderr,
        flush=True,
    )


def is_first() -> bool:
    """Return whether this process writes the run's files and speaks for it."""
    return jax.process_index() == 0


def wait(what: str) -> None:
    """Wait until every process has come to the same place; at once where there is one."""
    if jax.process_count() > 1:
        with jax.transfer_guard("allow"):
            multihost_utils.sync_global_devices(what)


def stop_asked(step: int, signum: int) -> int:
    """Return the signal at which to stop after `step`, the same on all processes; 0 = go on.

    Args:
        step: done.
        signum: what this process was asked; with several, jax hears SIGTERM itself and settles on one step for all.
    """
    if jax.process_count() == 1:
        return signum
    return signal.SIGTERM if multihost_utils.reached_preemption_sync_point(step) else 0


def own_copy(params: Any, mesh: Mesh) -> Any:
    """Return sharded parameters on this process's own devices, so that it can sample without the others.

    All processes must call it together. Each array is split over the process's devices along the first axis that they divide,
    and whole on each where none is.
    """
    if jax.process_count() == 1:
        return params
    ours = jax.local_devices()
    grid = np.array(sorted(mesh.devices.flat, key=lambda device: (device.process_index, device.id)))
    grid = grid.reshape(jax.process_count(), len(ours))
    everywhere = Mesh(grid, ("process", "local"), axis_types=(AxisType.Auto,) * 2)
    here = Mesh(grid[jax.process_index()], ("local",), axis_types=(AxisType.Auto,))

    def spec(leaf: Any) -> PartitionSpec:
        split = next((i for i, size in enumerate(leaf.shape) if size % len(ours) == 0), None)
        return PartitionSpec() if split is None else PartitionSpec(*[None] * split, "local")

    target = jax.tree.map(lambda leaf: NamedSharding(everywhere, spec(leaf)), params)
    with jax.transfer_guard("allow"):
        moved = jax.jit(lambda tree: tree, out_shardings=target)(params)

    def localise(leaf: jax.Array) -> jax.Array:
        pieces = [shard.data for shard in leaf.addressable_shards]
        return jax.make_array_from_single_device_arrays(leaf.shape, NamedSharding(here, spec(leaf)), pieces)

    return jax.tree.map(localise, moved)
