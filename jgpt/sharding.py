"""Where arrays live: the mesh, and the shardings of state and batch by the rules of `layout`."""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jgpt.batch import Batch
from jgpt.config import MeshConfig
from jgpt.layout import MESH_AXES, ROW_AXES, parts, spec_of


def make_mesh(cfg: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Return a mesh with all `layout.MESH_AXES` over `devices` (all by default).

    Raises:
        ValueError: the axes multiply to another number than there are devices, or slices of a TPU are cut.
    """
    devices = jax.devices() if devices is None else devices
    given = {name: getattr(cfg, name) for name in MESH_AXES}
    inner = math.prod(size for size in given.values() if size is not None)
    data = cfg.data if cfg.data is not None else max(len(devices) // inner, 1)
    sizes = given | {"data": data}
    used = math.prod(sizes.values())
    if used > len(devices) or (cfg.data is None and len(devices) % inner):
        product = " x ".join(f"mesh.{name} {size}" for name, size in sizes.items() if size > 1 or name == "data")
        raise ValueError(
            f"{product} = {used} devices, and this process sees {len(devices)} ({devices[0].platform}): lower an axis, or "
            f"on CPU start with XLA_FLAGS=--xla_force_host_platform_device_count={max(used, 2)}."
        )
    if used < len(devices) and jax.process_count() > 1:
        raise ValueError(
            f"the mesh uses {used} of {len(devices)} devices: with several processes all must take part; "
            "leave mesh.data unset."
        )
    shape = tuple(sizes.values())
    if devices[0].platform == "tpu" and used == len(devices):
        grid = _along_the_network(shape, devices)
    else:
        grid = np.asarray(devices[:used]).reshape(shape)
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def _along_the_network(shape: tuple[int, ...], devices: Sequence[Any]) -> np.ndarray:
    """Return TPUs in the shape of the mesh: axes along the dimensions of the torus, slices along the first.

    Raises:
        ValueError: there are several slices, and mesh.slice is another number.
    """
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices != shape[0] and slices > 1:
        raise ValueError(
            f"mesh.slice is {shape[0]}, and the devices stand in {slices} slices, between which the network is slow: set "
            f"mesh.slice to {slices}."
        )
    if slices > 1:
        inside, across = (1, *shape[1:]), (slices, *(1 for _ in shape[1:]))
        return mesh_utils.create_hybrid_device_mesh(inside, across, devices, allow_split_physical_axes=True)
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)


def param_shardings(mesh: Mesh, axes: Any, shapes: Any) -> Any:
    """Return the sharding of every parameter.

    Args:
        mesh: from `make_mesh`.
        axes: tree of tuples of logical names (`gpt.param_axes`).
        shapes: tree of arrays or `jax.ShapeDtypeStruct`, alike.

    Raises:
        ValueError: an axis is not divisible by the mesh axis it is split over.
    """

    def one(path: tuple, names: tuple[str, ...], leaf: Any) -> NamedSharding:
        spec = spec_of(names)
        for name, size, split in zip(names, leaf.shape, spec, strict=True):
            shards = parts(name, mesh.shape)
            if size % shards:
                raise ValueError(
                    f"parameter {jax.tree_util.keystr(path)} has {size} {name}, which cannot be split over mesh.{split} "
                    f"= {shards} devices: choose sizes that are multiples, or lower mesh.{split}."
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(one, axes, shapes, is_leaf=lambda leaf: isinstance(leaf, tuple))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of [B, S] arrays: each row whole on every device that computes a part of it."""
    return NamedSharding(mesh, PartitionSpec(ROW_AXES, None))


def abstract_batch(rows: int, length: int, mesh: Mesh) -> Batch:
    """Return a batch as `jax.ShapeDtypeStruct`s that carry their shardings; nothing is allocated."""
    where = batch_sharding(mesh)
    types = (np.int32, np.int32, np.float32, np.int32, np.int32)
    return Batch(*(jax.ShapeDtypeStruct((rows, length), kind, sharding=where) for kind in types))  # pyright: ignore


def check_rows(rows: int, mesh: Mesh, name: str) -> None:
    """Refuse a batch whose rows cannot be split evenly over the devices.

    Raises:
        ValueError: with `name`, the field that sets the rows.
    """
    shards = math.prod(mesh.shape[name] for name in ROW_AXES)
    if rows % shards:
        over = " x ".join(f"mesh.{name}" for name in ROW_AXES if mesh.shape[name] > 1)
        raise ValueError(
            f"{name} gives {rows} rows, which cannot be split over {over} = {shards} devices: use a multiple of {shards}."
        )


class Share(NamedTuple):
    """The rows of every batch that a process holds: part `index` of `count` equal ones."""

    index: int
    count: int


@cache
def share_of_rows(mesh: Mesh) -> Share:
    """Return which rows of every batch this process holds; processes that compute parts of the same rows share them.

    Raises:
        ValueError: processes hold rows that overlap in part.
    """
    return shares_of(owners(mesh))[jax.process_index()]


def owners(mesh: Mesh) -> np.ndarray:
    """Return the process of each device of a mesh, in its shape."""
    return np.vectorize(lambda device: device.process_index, otypes=[int])(mesh.devices)


def shares_of(owners: np.ndarray) -> dict[int, Share]:
    """Return the share of each process.

    Args:
        owners: process of each device of a mesh, in the shape of the mesh.

    Raises:
        ValueError: processes hold rows that overlap in part.
    """
    over = [MESH_AXES.index(name) for name in ROW_AXES]
    rows = math.prod(owners.shape[axis] for axis in over)
    held: dict[int, list[int]] = {}  # process -> rows, of a batch that has one for every shard
    for row, devices in enumerate(np.moveaxis(owners, over, range(len(over))).reshape(rows, -1)):
        for owner in set(devices.tolist()):
            held.setdefault(owner, []).append(row)
    groups = sorted({tuple(own) for own in held.values()})
    if sum(map(len, groups)) != rows:
        raise ValueError(
            f"a mesh of {dict(zip(MESH_AXES, owners.shape, strict=True))} gives {len(held)} processes rows that overlap in "
            f"part ({groups} of {rows}): let mesh.context x mesh.tensor be a multiple or a divisor of the devices of a process."
        )
    return {process: Share(groups.index(tuple(own)), len(groups)) for process, own in held.items()}


def shard_batch(batch: Batch, mesh: Mesh) -> Batch:
    """Return this process's rows as a compiled step takes them: global arrays on the devices of `mesh`.

    For a single CPU that is `batch` itself, which a step takes in 5 us; arrays on the device take 110 us, and ten times as long
    while all cores compute. On CPUs the memory may be shared: it must not be written to afterwards.

    Raises:
        ValueError: the rows cannot be split evenly over the devices.
    """
    rows, length = batch.tokens_BS.shape
    rows *= share_of_rows(mesh).count if jax.process_count() > 1 else 1
    check_rows(rows, mesh, "the batch")
    if mesh.size == jax.process_count() == 1 and mesh.devices.flat[0].platform == "cpu":
        return batch
    sharding = batch_sharding(mesh)
    if jax.process_count() == 1:  # all five arrays in one call take little more than half the time
        return jax.device_put(batch, sharding)
    return Batch(*(jax.make_array_from_process_local_data(sharding, array, (rows, length)) for array in batch))
