"""The train step compiled for TPUs that are not here: what crosses which network, and meshes that follow it."""

import importlib.util
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from jgpt import presets, sharding
from jgpt.batch import RowLimits
from jgpt.config import Config, MeshConfig, OptimConfig, TrainConfig
from jgpt.model import gpt
from jgpt.plan.compiling import Step, compile_step, devices_of
from jgpt.plan.devices import parse

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the extra [plan]"),
    pytest.mark.timeout(600),
]
VOCAB, ROWS = 1024, 32
CONFIG = Config(
    model=presets.llama(num_layers=2, embed_dim=512, num_heads=4, mlp_dim=1024, context_length=128, scan_layers=True),
    train=TrainConfig(batch_size=ROWS, steps=10),
    optim=OptimConfig(name="adamw", warmup_steps=1),
)
MODEL = gpt.resolve(CONFIG.model, vocab_size=VOCAB, backend="tpu")
SMALL = 16384  # bytes: norms, and numbers beside the arrays


@pytest.fixture(autouse=True, scope="module")
def not_cached():
    """Programs for other devices are not looked for among those of this one."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", before)


def planned(device: str, slices: int = 1, **mesh: Any) -> Step:
    config = replace(CONFIG, mesh=MeshConfig(**mesh))
    return compile_step(config, MODEL, devices_of(parse(device, slices)), limits=RowLimits(documents=1))


def test_layouts_that_exist_are_named_where_one_does_not():
    with pytest.raises(
        ValueError, match=r"cannot compile for v5e:3x5 here: layouts that exist are 2x2, 2x4, .*INVALID"
    ):
        devices_of(parse("v5e:3x5"))


def matrices() -> float:
    """Return the bytes of all matrices, f32."""
    leaves = jax.tree.leaves(jax.eval_shape(lambda: gpt.init(MODEL, jax.random.key(0))))
    return 4.0 * sum(leaf.size for leaf in leaves if leaf.ndim > 1 and leaf.shape != (2, 512))


def sent_over(step: Step, *axes: str) -> float:
    return sum(each.sent for each in step.collectives if each.axes == axes)


@pytest.mark.slow
def test_copies_sum_the_shards_of_their_gradients_alone() -> None:
    step = planned("v5e:2x2", data=2, fsdp=2)
    assert {each.axes for each in step.collectives} == {("data",), ("fsdp",)}
    assert sent_over(step, "data") == pytest.approx(2 / 2 * matrices() / 2, abs=SMALL)


@pytest.mark.slow
def test_what_crosses_slices_is_the_gradients_and_half_of_it_in_bfloat16() -> None:
    plain = planned("v5e:2x2", 2, slice=2, data=1, fsdp=4)
    narrow = planned("v5e:2x2", 2, slice=2, data=1, fsdp=4, slice_reduction="bfloat16")
    assert sent_over(plain, "slice") == pytest.approx(2 / 2 * matrices() / 4, abs=SMALL)
    assert sent_over(narrow, "slice") == pytest.approx(sent_over(plain, "slice") / 2, abs=SMALL)
    assert all(each.axes in (("slice",), ("fsdp",)) for each in plain.collectives)


def test_axes_follow_the_torus_and_slices_the_network_between_them() -> None:
    devices = devices_of(parse("v5e:4x4", 2))
    mesh = sharding.make_mesh(MeshConfig(slice=2, data=4, tensor=4), devices).devices.reshape(2, 4, 4)
    for i, one in enumerate(mesh):
        assert {device.slice_index for device in one.flat} == {i}
    for line in mesh.reshape(-1, 4):  # neighbours along tensor are neighbours in the torus
        places = np.array([device.coords for device in line])
        steps = np.abs(np.diff(places, axis=0)).sum(1)
        assert (steps == 1).all() or sorted(steps) == [1, 1, 3], places  # 3: round the ring
    with pytest.raises(ValueError, match="mesh.slice is 1, and the devices stand in 2 slices"):
        sharding.make_mesh(MeshConfig(data=32), devices)
