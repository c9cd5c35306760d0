"""A plan as a table and as JSON. Owns the words and units."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from jgpt.plan.collectives import to_json
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
    rate = step.tokens / times.bound
    time.add_row("tokens/s, at most", f"{rate:,.0f}")
    time.add_row("MFU, at most", f"{step.model_flops / times.bound / machine.size / machine.device.flops:.1%}")
    if tokens is not None:
        slow = tokens / step.tokens * times.without_overlap
        time.add_row(f"{tokens:.3g} tokens", f"{tokens / rate / 3600:,.2f} to {slow / 3600:,.2f} hours")
        if price is not None:
            costs = (seconds / 3600 * machine.size * price for seconds in (tokens / rate, slow))
            time.add_row(f"at {price:g} a device and hour", " to ".join(f"{cost:,.0f}" for cost in costs))
    traffic = Table("collective", "over", "devices", "times", "GiB in", "largest MiB", box=None, pad_edge=False)
    for each in step.collectives:
        size = f"{each.sent / GIB:.4f}", f"{each.largest / 2**20:.2f}"
        traffic.add_row(each.kind, " x ".join(each.axes), str(each.devices), str(each.count), *size)
    return [memory, time, traffic]


def decode_tables(step: DecodeStep, machine: Machine) -> list[Table]:
    """Return a plan of the sampler as tables: memory, time."""
    memory = _memory({name: getattr(step, name) for name in ("weights", "cache", "temporaries")}, machine)
    time = Table("one token of every row", "", "tokens/s", box=None, pad_edge=False)
    for name, seconds in (
        ("at least: weights and cache read once", step.bound(machine)),
        ("expected: kernel after kernel", step.expected(machine)),
    ):
        time.add_row(name, _seconds(seconds), f"{step.rows / seconds:,.0f}")
    return [memory, time]


def _memory(parts: Mapping[str, float], machine: Machine) -> Table:
    """Return the bytes of a device by kind, and what its memory has left."""
    table = Table("memory of each device", "GiB", box=None, pad_edge=False)
    total = sum(parts.values())
    left = machine.usable - total
    for name, size in (*parts.items(), ("all together", total)):
        table.add_row(name, f"{size / GIB:.3f}")
    table.add_row(f"of {machine.usable / GIB:.1f}: {'left' if left >= 0 else 'MISSING'}", f"{abs(left) / GIB:.3f}")
    return table


def to_dict(step: Step, times: Times, machine: Machine) -> dict[str, Any]:
    """Return a plan as JSON values: bytes of each device, seconds and FLOPs of a step."""
    return {
        "device": vars(machine.device)
        | {"layout": machine.topology, "slices": machine.slices, "devices": machine.size},
        "mesh": step.mesh,
        "fits": step.fits,
        "memory": vars(step.memory) | {"total": step.memory.total, "of": machine.usable},
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
        "tokens_per_second": step.tokens / times.bound,
        "collectives": to_json(step.collectives),
        "kernels": kernels_to_json(step.kernels),
        "compile_seconds": step.seconds,
    }


def _seconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.3g} ms"
