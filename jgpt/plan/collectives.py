"""What a compiled program sends between devices: read off its text (`hlo`), by mesh axis, with loops counted.

Owns collectives and their groups. A collective's groups of devices say which mesh axes it runs over; a loop's body counts as
often as the loop turns. Imports no jax: HLO is text.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from jgpt.plan import hlo

KINDS: Final = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}")
_BETWEEN_SLICES = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_AXIS = re.compile(r"'(\w+)'(?::\((\d+)\)(\d+))?(?:=(\d+))?")
_LISTED = re.compile(r"replica_groups=\{(\{[\d,{}]*\})\}")
_PAIRS = re.compile(r"source_target_pairs=\{(\{[\d,{}]*\})\}")


@dataclass(frozen=True)
class Collective:
    """Collectives of one kind over the same mesh axes, in one execution of the program.

    Attributes:
        kind: of `KINDS`.
        axes: mesh axes over which devices exchange.
        devices: in a group.
        count: executions.
        sent: bytes that a device takes in over all of them, by the best known ring.
        largest: bytes of the largest array that one of them makes.
    """

    kind: str
    axes: tuple[str, ...]
    devices: int
    count: int
    sent: float
    largest: float


def collectives(text: str, mesh: Mapping[str, int]) -> list[Collective]:
    """Return what a program exchanges, the most bytes first.

    Args:
        text: of the optimised module.
        mesh: axis -> devices, in the order of the mesh's devices.
    """
    bodies, entry = hlo.computations(text)
    turns = hlo.executions(bodies, entry, fusions=True)
    kernels = hlo.executions(bodies, entry, fusions=False)  # the rest are fusions
    once: dict[Any, tuple[int, str, str]] = {}  # executions, computation, line
    for name, times in turns.items():
        for at, line in enumerate(bodies[name]):
            if _kind(line) is None:
                continue
            channel = _CHANNEL.search(line)
            # XLA:TPU writes a gather that runs beside products into every fusion that it runs beside. Elsewhere a channel
            # says nothing: all that `jax.shard_map` exchanges has the same.
            key = channel.group(1) if channel and name not in kernels else (name, at)
            if times > once.get(key, (0,))[0]:
                once[key] = times, name, line
    found: dict[tuple, list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    for times, name, line in once.values():
        kind = _kind(line) or ""
        if _BETWEEN_SLICES.search(line):
            axes, size = ("slice",), mesh.get("slice", 1)
        else:
            groups = _groups(line)
            axes, size = _axes(groups, mesh), len(groups[0]) if groups else math.prod(mesh.values())
        if size < 2:
            continue
        made = _made(line, kind)
        if name.startswith("all-reduce-scatter"):  # how XLA:TPU writes a reduce-scatter: a fusion that keeps a part
            kind, made = "reduce-scatter", made / size
        total = found[kind, axes, size]
        total[0] += times
        total[1] += times * _sent(kind, made, size)
        total[2] = max(total[2], made)
    out = [
        Collective(kind, axes, size, int(count), sent, largest)
        for (kind, axes, size), (count, sent, largest) in found.items()
    ]
    return sorted(out, key=lambda collective: -collective.sent)


def _kind(line: str) -> str | None:
    """Return the kind of collective that a line begins, None where it is none.

    XLA:TPU leaves what crosses slices to a runtime on the hosts, to which a program sends its part.
    """
    found = hlo.parse(line)
    kind = found.operation.removesuffix("-start") if found else ""
    between = _BETWEEN_SLICES.search(line) if kind == "send" else None
    if between is not None:
        kind = between.group(1).lower().replace("_", "-")
        return kind if kind in KINDS else "collective-permute"
    return kind if kind in KINDS else None


def _made(line: str, kind: str) -> float:
    """Return the bytes of what a collective makes; one that is only started lists what it takes as well."""
    found = hlo.parse(line)
    made = hlo.sizes(found.shape) if found else []
    if found and found.operation == "send":
        return made[0]
    if found and found.operation.endswith("-start") and len(made) > 1 and kind != "all-reduce":
        return sum(made[len(made) // 2 :]) if kind == "all-gather" else made[1]
    return sum(made)


def _sent(kind: str, made: float, size: int) -> float:
    """Return the bytes that a device takes in, where `made` bytes stand on it afterwards."""
    share = (size - 1) / size
    match kind:
        case "all-reduce":
            return 2 * share * made
        case "reduce-scatter":
            return share * made * size
        case "all-gather" | "all-to-all" | "collective-broadcast":
            return share * made
    return made


def _groups(line: str) -> list[list[int]]:
    """Return the groups of devices that exchange; empty where all do."""
    if iota := _IOTA.search(line):
        return _ordered(*iota.group(2, 3)).reshape(_numbers(iota.group(1))).tolist()
    if named := _MESH.search(line):
        return _named_groups(*named.groups())
    if listed := _LISTED.search(line) or _PAIRS.search(line):
        return [[int(n) for n in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", listed.group(1))]
    if "replica_groups=" in line and "replica_groups={}" not in line:
        raise ValueError(f"a collective's groups are written in a form that is not known here: {line.strip()[:300]}")
    return []


def _numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",")]


def _ordered(dims: str, order: str | None) -> np.ndarray:
    """Return the devices as `[8,2]T(1,0)` orders them: counted along the dimensions, which are then swapped."""
    devices = np.arange(math.prod(_numbers(dims))).reshape(_numbers(dims))
    return devices if order is None else devices.transpose(_numbers(order))


def _named_groups(mesh: str, dims: str | None, order: str | None, used: str) -> list[list[int]]:
    """Return the groups of `mesh['a'=8,'b'=2] {'b'}`; `'a':(2)4` is the part of size 4 of axis a behind one of size 2."""
    sizes = {name: int(size) for name, _, _, size in _AXIS.findall(mesh)}
    parts = {name: (int(before or 1), int(size or sizes[name])) for name, before, size, _ in _AXIS.findall(used)}
    shape, exchanging = [], []
    for name, size in sizes.items():
        before, own = parts.get(name, (size, 1))
        exchanging += [len(shape) + 1] if name in parts else []
        shape += [before, own, size // before // own]
    places = _ordered(dims or str(math.prod(shape)), order).reshape(shape)
    members = math.prod(size for _, size in parts.values())
    return np.moveaxis(places, exchanging, range(-len(exchanging), 0)).reshape(-1, members).tolist()


def _axes(groups: list[list[int]], mesh: Mapping[str, int]) -> tuple[str, ...]:
    """Return the mesh axes along which the devices of a group differ."""
    if not groups:
        return tuple(name for name, size in mesh.items() if size > 1)
    places = np.array(np.unravel_index(np.array(groups), tuple(mesh.values())))  # [axis, group, member]
    differs = (places != places[:, :, :1]).any((1, 2))
    return tuple(name for name, differ in zip(mesh, differs, strict=True) if differ)


def to_json(found: list[Collective]) -> list[dict]:
    """Return collectives as JSON values."""
    return json.loads(json.dumps([vars(collective) for collective in found]))
