"""Many processes as one run: how this process finds its place, and what is shared.

jax.distributed is the engine. Owns what it is told, the order of the start (place, roll call, jax, heartbeat), and how
sharded parameters come to every process for sampling. Refuses to launch processes: schedulers do (`docs/scale.md`).
"""

import faulthandler
import importlib.metadata
import itertools
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jgpt import entry, launchers, rollcall
from jgpt.check import require
from jgpt.config import DistributedConfig
from jgpt.heartbeat import Heartbeat
from jgpt.launchers import Place
from jgpt.progress import console

POLL_MILLISECONDS: Final = 5_000  # after which a wait for process 0 lets signals through
_made = itertools.count()  # all processes make the same things in the same order


class Stopped(SystemExit):
    """All processes were asked to stop, and do so together."""


@contextmanager
def joined(cfg: DistributedConfig) -> Iterator[Heartbeat | None]:
    """Be one of the run's processes; yields its heartbeat, None where the process is alone.

    What the run says then comes from process 0. A process that loses another one ends with status 75. At SIGUSR1 each says
    where all its threads are.

    Raises:
        ValueError: the processes do not fit each other.
        TimeoutError: some did not come in time; the message says which.
    """
    begun = jax.distributed.is_initialized()
    place = None if begun else launchers.find(cfg, os.environ)
    if place is None:
        require(
            begun or jax.process_count() == 1,
            f"this is one of {jax.process_count()} processes (a pod of TPU VMs?), and does not know where the others are, so "
            "that none would notice when one is lost: start as docs/launch/tpu_vm.sh does, or give --distributed.coordinator, "
            "--distributed.num-processes and --distributed.process-id.",
        )
        yield None
        return
    process, processes = _start(place, cfg)
    if hasattr(faulthandler, "register"):  # not on Windows
        faulthandler.register(signal.SIGUSR1, all_threads=True)
    before, console.quiet = console.quiet, process > 0
    stopped: Stopped | None = None
    try:
        with Heartbeat(
            _store(), process, processes, cfg.heartbeat_seconds, stalled_seconds=cfg.stall_seconds
        ) as heartbeat:
            _say_devices()  # here jax opens them, which may fail on one host alone
            try:
                yield heartbeat
            except Stopped as error:
                stopped = error
            except SystemExit as error:  # of this process alone: the others must not be waited for
                raise OSError(f"ended with status {error.code}; is what it prints to a closed pipe?") from error
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
    if isinstance(error, KeyboardInterrupt):
        print("interrupted; what was saved before stays", file=sys.stderr, flush=True)
        os._exit(128 + signal.SIGINT)
    mendable = isinstance(error, entry.MENDABLE) and os.environ.get("JGPT_TRACEBACK") != "1"
    if mendable:
        entry.say_error(error)
    else:
        traceback.print_exception(error)
    sys.stdout.flush()
    os._exit(2 if mendable else 1)


def _start(place: Place, cfg: DistributedConfig) -> tuple[int, int]:
    """Meet the others, and start jax's runtime; return this process's number and how many there are."""
    of = f"process {place.process} of {place.processes}" if place.processes else "one of several processes"
    by = f" ({place.launcher})" if place.launcher else ""
    print(
        f"{of}{by} on {socket.gethostname()}: waits up to {cfg.start_seconds} s for all to come to "
        f"{place.coordinator or 'the address that jax finds'}",
        file=sys.stderr,
        flush=True,
    )
    known = launchers.settle(place, cfg.start_seconds)
    about = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
    rollcall.attend(known.coordinator, known.process, known.processes, cfg.start_seconds, about)
    jax.distributed.initialize(
        coordinator_address=known.coordinator,
        num_processes=known.processes,
        process_id=known.process,
        local_device_ids=known.devices,
        initialization_timeout=cfg.start_seconds,
        heartbeat_timeout_seconds=2 * cfg.heartbeat_seconds,  # jax's own watch stands behind ours
    )
    return known.process, known.processes


def _say_devices() -> None:
    print(
        f"process {jax.process_index()} of {jax.process_count()}: all are there; {jax.device_count()} devices "
        f"({jax.devices()[0].platform}), {jax.local_device_count()} of them here",
        file=sys.stderr,
        flush=True,
    )


def _store() -> Any:
    """Return the client of jax's coordinator."""
    from jax._src import distributed  # the public interface has no key-value store; Orbax uses this one too

    return distributed.global_state.client


def is_first() -> bool:
    """Return whether this process writes the run's files and speaks for it."""
    return jax.process_index() == 0


def wait(what: str) -> None:
    """Wait until every process has come to the same place; at once where there is one."""
    if jax.process_count() > 1:
        with jax.transfer_guard("allow"):
            multihost_utils.sync_global_devices(what)


def from_first(value: int) -> int:
    """Return what process 0 has, on every process."""
    if jax.process_count() == 1:
        return value
    with jax.transfer_guard("allow"):
        return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def made_by_first(name: str, make: Callable[[], int]) -> int:
    """Return what `make` returns on process 0; the others wait for it, however long it takes, and do not call it.

    A collective would not wait for hours. Where process 0 fails or dies meanwhile, the heartbeat ends all; where there is none,
    jax's own watch does once process 0 is gone.

    Args:
        name: of what is made, for whoever looks into the store.
        make: called on process 0 alone.
    """
    key = f"jgpt/made/{name}/{next(_made)}"
    if is_first():
        value = make()
        _store().key_value_set(key, str(value))
        return value
    while True:
        try:
            return int(_store().blocking_key_value_get(key, POLL_MILLISECONDS))
        except RuntimeError as error:  # jax's errors of the network
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


def gathered(text: str) -> list[str]:
    """Return what every process has to say, in their order; all must call it together."""
    if jax.process_count() == 1:
        return [text]
    own = np.frombuffer(text.encode(), np.uint8)
    with jax.transfer_guard("allow"):
        sizes = np.ravel(multihost_utils.process_allgather(np.int32(len(own))))
        padded = np.pad(own, (0, int(sizes.max()) - len(own)))
        rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(sizes), -1)
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]


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
