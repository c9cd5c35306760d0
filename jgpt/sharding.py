"""Where arrays live: the mesh, and the shardings of state and batch by the rules of `layout`."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jgpt.batch import Batch
from jgpt.config import MeshConfig
from jgpt.layout import MESH_AXES, spec_of


def make_mesh(cfg: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Return a mesh of shape (data, fsdp, tensor) over `devices` (all by default).

    Raises:
        ValueError: the axes multiply to another number than there are devices.
    """
    devices = jax.devices() if devices is None else devices
    inner = cfg.fsdp * cfg.tensor
    data = cfg.data if cfg.data is not None else max(len(devices) // inner, 1)
    if data * inner > len(devices) or (cfg.data is None and len(devices) % inner):
        raise ValueError(
            f"mesh.data {data} x mesh.fsdp {cfg.fsdp} x mesh.tensor {cfg.tensor} = {data * inner} devices, and this "
            f"process sees {len(devices)} ({devices[0].platform}): lower an axis, or on CPU start with "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={max(data * inner, 2)}."
        )
    if data * inner < len(devices) and jax.process_count() > 1:
        raise ValueError(
            f"the mesh uses {data * inner} of {len(devices)} devices: with several processes all must take part; "
            "leave mesh.data unset."
        )
    shape = (data, cfg.fsdp, cfg.tensor)
    if devices[0].platform == "tpu" and data * inner == len(devices):  # axes along the dimensions of the torus
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    else:
        grid = np.asarray(devices[: data * inner]).reshape(shape)
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


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
            parts = 1 if split is None else int(np.prod([mesh.shape[axis] for axis in np.atleast_1d(split)]))
            if size % parts:
                raise ValueError(
                    f"parameter {jax.tree_util.keystr(path)} has {size} {name}, which cannot be split over mesh.{split} "
                    f"= {parts} devices: choose sizes that are multiples, or lower mesh.{split}."
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(one, axes, shapes, is_leaf=lambda leaf: isinstance(leaf, tuple))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of [B, S] arrays: rows over data and fsdp."""
    return NamedSharding(mesh, spec_of(("batch", "seq")))


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
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if rows % shards:
        raise ValueError(
            f"{name} gives {rows} rows, which cannot be split over mesh.data x mesh.fsdp = {shards} devices: use a "
            f"multiple of {shards}."
        )


def shard_batch(batch: Batch, mesh: Mesh) -> Batch:
    """Return this process's rows as global arrays on the devices of `mesh`.

    Raises:
        ValueError: the rows cannot be split evenly over the devices.
    """
    check_rows(batch.tokens_BS.shape[0] * jax.process_count(), mesh, "the batch")
    sharding = batch_sharding(mesh)
    return Batch(*(jax.make_array_from_process_local_data(sharding, array) for array in batch))
