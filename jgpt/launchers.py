"""How a process of many finds its place: told by hand, or by whoever launched it.

Slurm, Open MPI, Kubernetes and TPU pods set variables by which they are recognised here; where process 0 is to be found, jax
knows of each. Owns the place; refuses to meet anybody (`jgpt.distributed`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from jgpt import rollcall
from jgpt.check import require
from jgpt.config import DistributedConfig
from jgpt.runtime import NO_TPU

# name: (variables that only this launcher sets, number of processes, this process's number); the first that fits
LAUNCHERS: Final = {
    "Slurm": (("SLURM_JOB_ID", "SLURM_STEP_NODELIST"), "SLURM_NTASKS", "SLURM_PROCID"),
    "Open MPI": (("OMPI_COMM_WORLD_SIZE",), "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    "TPU pod": (("TPU_WORKER_HOSTNAMES",), None, "TPU_WORKER_ID"),
    "Kubernetes": (("KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"), None, "JOB_COMPLETION_INDEX"),
}
NEEDS: Final = {"Kubernetes": "pip install 'jax[k8s]', or "}  # for jax to find process 0


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


class Settled(NamedTuple):
    """A place of which everything is known; `devices`: of its host that the process takes, None = all."""

    coordinator: str
    processes: int
    process: int
    devices: Sequence[int] | None


def find(cfg: DistributedConfig, environment: Mapping[str, str]) -> Place | None:
    """Return this process's place by config, by JGPT_* variables or by its launcher's; None where it is alone.

    Raises:
        ValueError: only a part of it is known, or a variable is no number.
    """
    environment = {name: value for name, value in environment.items() if NO_TPU.get(name) != value}
    told = (
        cfg.coordinator or environment.get("JGPT_COORDINATOR"),
        _number(cfg.num_processes, environment, "JGPT_NUM_PROCESSES"),
        _number(cfg.process_id, environment, "JGPT_PROCESS_ID"),
    )
    for name, (marks, count, number) in LAUNCHERS.items():
        if all(mark in environment for mark in marks):
            processes, process = _number(told[1], environment, count), _number(told[2], environment, number)
            if name == "TPU pod":
                processes, process = _over_slices(environment, processes, process, told[2] is None)
            require(
                processes is None or process is None or process < processes,
                f"this process has number {process} of {processes} ({name}): numbers begin at 0; see JGPT_PROCESS_ID and "
                "JGPT_NUM_PROCESSES, or --distributed.process-id and --distributed.num-processes.",
            )
            return None if processes == 1 else Place(name, told[0], processes, process)
    if told == (None, None, None):
        return None
    rollcall.check_place(*told)
    checked = replace(cfg, coordinator=told[0], num_processes=told[1], process_id=told[2])  # holds the rules
    return Place(None, checked.coordinator, checked.num_processes, checked.process_id)


def _over_slices(
    environment: Mapping[str, str], processes: int | None, process: int | None, within: bool
) -> tuple[int, int | None]:
    """Return the processes of all slices, and this one's number among them; `within`: that given is of its own slice."""
    hosts = environment["TPU_WORKER_HOSTNAMES"].count(",") + 1
    slices = _number(None, environment, "MEGASCALE_NUM_SLICES") or 1
    before = (_number(None, environment, "MEGASCALE_SLICE_ID") or 0) * hosts
    return (
        hosts * slices if processes is None else processes,
        process if process is None or not within else process + before,
    )


def _number(given: int | None, environment: Mapping[str, str], name: str | None) -> int | None:
    text = environment.get(name) if name is not None and given is None else None
    require(text is None or text.isdecimal(), f"the variable {name} is {text!r}: must be a number.")
    return given if text is None else int(text)


def settle(place: Place, seconds: int) -> Settled:
    """Return a place with what was left to find, as jax finds it from the launcher.

    Args:
        place: of `find`.
        seconds: to wait for the name of process 0's host to be known.

    Raises:
        ValueError: jax does not find it either; the message says what is missing.
    """
    found, why = (place.coordinator, place.processes, place.process, None), ""
    if place.launcher is not None:
        from jax._src.clusters import ClusterEnv  # what jax.distributed.initialize asks; it tells nobody what it found

        try:
            found = ClusterEnv.auto_detect_unset_distributed_params(*found[:3], None, None, seconds)
        except (RuntimeError, OSError, ValueError, KeyError) as error:  # whatever the launcher did not provide
            why = f" ({error})"
    coordinator, processes, process, devices = found
    if coordinator is not None and processes is not None and process is not None:
        return Settled(coordinator, processes, process, devices)
    names = {"coordinator": coordinator, "num-processes": processes, "process-id": process}
    lacking = [name for name, value in names.items() if value is None]
    marks = LAUNCHERS[place.launcher][0] if place.launcher else ()
    raise ValueError(
        f"{place.launcher} was recognised by {', '.join(marks)}, but jax finds no {', '.join(lacking)}{why}: "
        f"{NEEDS.get(place.launcher or '', '')}give {' '.join(f'--distributed.{name}' for name in lacking)}; unset these "
        "variables to train alone."
    )
