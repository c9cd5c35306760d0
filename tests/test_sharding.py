"""The mesh and its rules: what is refused, and with which words."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jgpt import axes, layout, presets, sharding
from jgpt.batch import Batch
from jgpt.config import MeshConfig
from jgpt.model import gpt

needs_eight = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")


def test_unknown_logical_axis_is_an_error():
    with pytest.raises(ValueError, match="unknown logical axis 'embedd'. Did you mean 'embed'.*RULES"):
        layout.spec_of(("layers", "embedd"))


def test_rules_name_known_axes_alone():
    assert set(layout.RULES) <= set(axes.AXES)
    for rule in layout.RULES.values():
        assert rule is None or set(np.atleast_1d(rule)) <= set(layout.MESH_AXES)


def test_rows_lie_over_all_axes_but_those_that_cut_them():
    where = sharding.batch_sharding(sharding.make_mesh(MeshConfig(data=1)))
    assert where.spec == PartitionSpec(("slice", "data", "fsdp", "expert"), None)
    assert layout.spec_of(("batch", "seq")) == PartitionSpec(("fsdp", "expert"), "context")  # of one copy


@pytest.mark.parametrize(
    ("shape", "devices", "shares"),
    [
        (dict(data=4, fsdp=2), 2, [(0, 4), (1, 4), (2, 4), (3, 4)]),
        (dict(data=2, tensor=4), 2, [(0, 2), (0, 2), (1, 2), (1, 2)]),  # two processes compute parts of the same rows
        (dict(expert=2, context=2, tensor=2), 4, [(0, 2), (1, 2)]),
        (dict(context=8), 2, [(0, 1)] * 4),
        (dict(slice=2, data=2, tensor=2), 2, [(0, 4), (1, 4), (2, 4), (3, 4)]),
    ],
)
def test_processes_that_compute_on_the_same_rows_read_the_same(shape: dict, devices: int, shares: list):
    sizes = [shape.get(name, 1) for name in layout.MESH_AXES]
    found = sharding.shares_of(np.arange(8).reshape(sizes) // devices)
    assert [found[process] for process in range(8 // devices)] == shares


def test_processes_whose_rows_overlap_in_part_are_refused():
    with pytest.raises(ValueError, match=r"rows that overlap in part.*multiple or a divisor of the devices"):
        sharding.shares_of(np.arange(12).reshape(1, 4, 1, 1, 3, 1) // 4)


@needs_eight
def test_data_takes_the_devices_that_are_left():
    mesh = sharding.make_mesh(MeshConfig(fsdp=2, tensor=2))
    assert tuple(mesh.shape) == layout.MESH_AXES
    assert {name: size for name, size in mesh.shape.items() if size > 1} == {"data": 2, "fsdp": 2, "tensor": 2}
    assert sharding.make_mesh(MeshConfig(data=1)).devices.size == 1


@needs_eight
def test_mesh_larger_than_the_devices_is_refused():
    with pytest.raises(ValueError, match=r"mesh.data 1 x mesh.fsdp 16 = 16 devices.*sees 8.*lower an axis"):
        sharding.make_mesh(MeshConfig(fsdp=16))
    with pytest.raises(ValueError, match="mesh.fsdp 3"):
        sharding.make_mesh(MeshConfig(fsdp=3))


@needs_eight
def test_axis_that_cannot_be_split_is_refused():
    cfg = gpt.resolve(
        presets.llama(num_layers=1, embed_dim=32, num_heads=4, num_kv_heads=1), vocab_size=8, backend="cpu"
    )
    shapes = jax.eval_shape(lambda: gpt.init(cfg, jax.random.key(0)))
    mesh = sharding.make_mesh(MeshConfig(tensor=2))
    with pytest.raises(ValueError, match="has 1 kv_heads, which cannot be split over mesh.tensor = 2.*multiples"):
        sharding.param_shardings(mesh, gpt.param_axes(cfg), shapes)


@needs_eight
@pytest.mark.parametrize("mesh", [MeshConfig(data=1), MeshConfig(data=2, fsdp=2, tensor=2)])
def test_a_batch_comes_to_the_devices_as_it_was(mesh: MeshConfig):
    devices = sharding.make_mesh(mesh)
    batch = Batch(*(np.arange(i, 32 + i, dtype=np.float32 if i == 2 else np.int32).reshape(8, 4) for i in range(5)))
    where = sharding.batch_sharding(devices)
    placed = sharding.shard_batch(batch, devices)
    if devices.size == 1 and jax.default_backend() == "cpu":
        assert placed is batch  # compiled steps take it
        return
    for given, array in zip(batch, placed, strict=True):
        assert array.sharding == where and array.dtype == given.dtype
        np.testing.assert_array_equal(np.asarray(array), given)


@needs_eight
def test_rows_that_cannot_be_split_are_refused():
    batch = Batch(*(np.zeros((6, 4), np.int32),) * 5)
    with pytest.raises(
        ValueError, match="gives 6 rows, which cannot be split over mesh.data x mesh.fsdp = 8 devices.*multiple of 8"
    ):
        sharding.shard_batch(batch, sharding.make_mesh(MeshConfig(fsdp=2)))
