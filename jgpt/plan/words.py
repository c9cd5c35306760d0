"""A plan as a table and as JSON. Owns the words and units."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from jgpt.plan.collectives import Collective, to_json
from jgpt.plan.compiling import Step
from jgpt.plan.decoding import DecodeStep
from jgpt.plan.devices import GIB, Machine
from jgpt.plan.kernels import to_json as kernels_to_json
from jgpt.plan.roofline import Times


def tables(step: Step, times: Times, machine: Machine, price: float | None, tokens: float | None) -> list[Table]:
    """Return a plan as tables: memory, time, collectives.

    Args:
        step: compiled.
        times: its bounds.
        machine: for which.
        price: of a device and hour; None = not asked.
        tokens: to train on; None = not asked.
    """
    memory = _memory(vars(step.memory), machine)
    memory.add_row("between steps, while it validates", f"{step.validation / GIB:.3f}")
    time = Table("one step of all devices", "", box=None, pad_edge=False)
    time.add_row("tokens", f"{step.tokens:,}")
    time.add_row("FLOPs of the model", f"{step.model_flops:.3e}")
    time.add_row("FLOPs computed", f"{step.flops:.3e}")
    time.add_row("compute, at the peak", _seconds(times.compute))
    time.add_row("memory, its traffic", _seconds(times.memory))
    for axes, seconds in times.network.items():
        time.add_row(f"network over {' x '.join(axes) or 'all'}", _seconds(seconds))
    time.add_row(f"at least ({times.limit})", _seconds(times.bound))
    time.add_row("where nothing overlaps", _seconds(times.without_overlap))
    if times.kernels:
        how = "kernel after kernel" if times.run is None else "by steps of 1 and 2 layers here"
        time.add_row(f"expected: {how}", _seconds(times.expected))
    time.add_row("tokens/s, at most", f"{step.tokens / times.bound:,.0f}")
    if times.kernels:
        time.add_row("tokens/s, as expected", f"{step.tokens / times.expected:,.0f}")
    time.add_row("MFU, at most", f"{_mfu(step, times, machine):.1%}")
    if tokens is not None:
        least, slow = _run(step, times, machine, price, tokens)
        time.add_row(f"{tokens:.3g} tokens", f"{least['hours']:,.2f} to {slow['hours']:,.2f} hours")
        if price is not None:
            time.add_row(f"at {price:g} a device and hour", f"{least['cost']:,.0f} to {slow['cost']:,.0f}")
    return [memory, time, *_traffic(step.collectives)]


def _mfu(step: Step, times: Times, machine: Machine) -> float:
    return step.model_flops / times.bound / machine.size / machine.device.flops


def _run(step: Step, times: Times, machine: Machine, price: float | None, tokens: float) -> list[dict[str, float]]:
    """Return hours and cost of a whole run, at the least time of a step and where nothing overlaps."""
    hours = (tokens / step.tokens * seconds / 3600 for seconds in (times.bound, times.without_overlap))
    return [{"hours": h} | ({} if price is None else {"cost": h * machine.size * price}) for h in hours]


def _traffic(found: Sequence[Collective]) -> list[Table]:
    """Return the table of what is exchanged, by kind and mesh axes; none where nothing is."""
    table = Table("collective", "over", "devices", "times", "GiB in", "largest MiB", box=None, pad_edge=False)
    for each in found:
        size = f"{each.sent / GIB:.4f}", f"{each.largest / 2**20:.2f}"
        table.add_row(each.kind, " x ".join(each.axes), str(each.devices), str(each.count), *size)
    return [table] if found else []


def decode_tables(step: DecodeStep, machine: Machine) -> list[Table]:
    """Return a plan of the sampler as tables: memory, time, collectives."""
    memory = _memory({name: getattr(step, name) for name in ("weights", "cache", "temporaries")}, machine)
    time = Table("one token of every row", "", "tokens/s", box=None, pad_edge=False)
    for name, seconds in (
        ("at least: weights and cache read once", step.bound(machine)),
        ("expected: kernel after kernel", step.expected(machine)),
    ):
        time.add_row(name, _seconds(seconds), f"{step.rows / seconds:,.0f}")
    return [memory, time, *_traffic(step.collectives)]


def _memory(parts: Mapping[str, float], machine: Machine) -> Table:
    """Return the bytes of a device by kind, and what its memory has left."""
    table = Table("memory of each device", "GiB", box=None, pad_edge=False)
    total = sum(parts.values())
    left = machine.usable - total
    for name, size in (*parts.items(), ("all together", total)):
        table.add_row(name, f"{size / GIB:.3f}")
    table.add_row(f"of {machine.usable / GIB:.1f}: {'left' if left >= 0 else 'MISSING'}", f"{abs(left) / GIB:.3f}")
    return table


def to_dict(
    step: Step, times: Times, machine: Machine, price: float | None = None, tokens: float | None = None
) -> dict[str, Any]:
    """Return a plan as JSON values: bytes of each device, seconds and FLOPs of a step. Arguments as in `tables`."""
    run = None
    if tokens is not None:
        run = {"tokens": tokens} | dict(
            zip(("least", "without_overlap"), _run(step, times, machine, price, tokens), strict=True)
        )
    return {
        "device": vars(machine.device)
        | {"layout": machine.topology, "slices": machine.slices, "devices": machine.size},
        "mesh": step.mesh,
        "fits": step.fits,
        "memory": vars(step.memory)
        | {
            "total": step.memory.total,
            "of": machine.usable,
            "left": machine.usable - step.memory.total,
            "validation": step.validation,
        },
        "tokens": step.tokens,
        "model_flops": step.model_flops,
        "flops": step.flops,
        "seconds": {
            "compute": times.compute,
            "memory": times.memory,
            "network": {"+".join(axes): seconds for axes, seconds in times.network.items()},
            "bound": times.bound,
            "without_overlap": times.without_overlap,
            "expected": times.expected,
        },
        "limit": times.limit,
        "mfu": _mfu(step, times, machine),
        "run": run,
        "tokens_per_second": step.tokens / times.bound,
        "collectives": to_json(step.collectives),
        "kernels": kernels_to_json(step.kernels),
        "compile_seconds": step.seconds,
    }


def _seconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f} ms" if seconds >= 0.1 else f"{seconds * 1e3:.3g} ms"
