"""The pace of training on CPUs: one step at a time, whose temporaries the next one uses again."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from jgpt.pace import LARGE, MOST_AT_ONCE, Pace
from jgpt.runtime import allocated

STEPS = """
from jgpt.runtime import configure
configure()
import jax
import numpy as np
from jgpt import optim, presets, sharding, state, step
from jgpt.batch import Batch
from jgpt.config import Config, MeshConfig, TrainConfig
from jgpt.model import gpt
from jgpt.pace import LARGE, Pace

ROWS, LENGTH = 128, 64
shape = presets.gpt2(num_layers=2, embed_dim=128, num_heads=4, context_length=LENGTH)
config = Config(model=shape, train=TrainConfig(steps=20))
mesh = sharding.make_mesh(MeshConfig(data=1))
model = gpt.resolve(config.model, vocab_size=64, backend="cpu")
tx = optim.make_optimizer(config.optim, config.train.steps, gpt.param_axes(model))
now = state.create(model, tx, mesh, seed=0)
zeros, ones = np.zeros((ROWS, LENGTH), np.int32), np.ones((ROWS, LENGTH), np.int32)
batch = sharding.shard_batch(Batch(zeros, zeros, ones.astype(np.float32), ones, np.cumsum(ones, 1) - 1), mesh)
run = step.compile_train_step(config, model, tx, now, mesh).lower(now, batch).compile()
temporaries = run.memory_analysis().temp_size_in_bytes
assert temporaries >= LARGE

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

pace, measured, before = Pace("cpu", temporaries), None, peak()
for _ in range(20):
    pace.settle(measured)
    now, measured = run(now, batch)
jax.block_until_ready(measured)
print((peak() - before) / temporaries)
"""


def busy(x: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, 300, lambda _, x: jnp.tanh(x @ x), x)


on_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="what takes long there is soon done here")


@on_cpu
@pytest.mark.parametrize(("share", "calls"), [(1, 1), (2, 2), (100, MOST_AT_ONCE)])
def test_small_steps_wait_once_in_as_many_as_hold_the_memory_of_a_large_one(
    share: int, calls: int, monkeypatch
) -> None:
    waited = []
    monkeypatch.setattr("jgpt.pace.jax.block_until_ready", waited.append)
    pace = Pace("cpu", LARGE // share - 1)
    for step in range(3 * calls + 1):
        pace.settle(step)
    assert waited == [None, 0, calls, 2 * calls]  # for the step before the group before this one


@on_cpu
@pytest.mark.parametrize(
    ("platform", "temporaries", "ready"),
    [("cpu", LARGE, [True, True]), ("cpu", LARGE - 1, [True, False]), ("gpu", LARGE, [False, False])],
)
def test_cpus_wait_for_steps_that_run(platform: str, temporaries: int, ready: list[bool]) -> None:
    """Large steps wait for the last one, others for the one before it, accelerators for none."""
    x = jnp.full((512, 512), 1e-3)
    run = jax.jit(busy).lower(x).compile()
    pace, steps = Pace(platform, temporaries), []
    pace.settle(None)
    for _ in range(2):
        x = run(x)
        steps.append(x)
        pace.settle(x)
    assert [step.is_ready() for step in steps] == ready


@pytest.mark.skipif(allocated() is None, reason="the C library does not say what it has given out")
def test_steps_use_the_same_temporaries() -> None:
    """Twenty steps need the temporaries of about one; called ahead, they had those of three to five."""
    own = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # one device, as users have
    done = subprocess.run(
        [sys.executable, "-c", STEPS], capture_output=True, text=True, env={**own, "JAX_PLATFORMS": "cpu"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert float(done.stdout) < 2.5


@on_cpu
def test_memory_that_is_not_freed_holds_a_step_back_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    x = jnp.full((512, 512), 1e-3)
    run = jax.jit(busy).lower(x).compile()
    looks = []
    monkeypatch.setattr("jgpt.pace.allocated", lambda: looks.append(0) or LARGE)
    Pace("cpu", LARGE).settle(run(x))
    assert len(looks) > 2
    looks.clear()
    monkeypatch.setattr("jgpt.pace.allocated", lambda: looks.append(0) or (LARGE if len(looks) < 3 else 0))
    Pace("cpu", LARGE).settle(run(x))
    assert len(looks) == 3  # while the step ran, after it, and when it was free


MANY = """
import os
os.environ |= {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "NPROC": "1", "JAX_PLATFORMS": "cpu"}
from functools import partial
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jgpt.pace import in_turn

mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
split = NamedSharding(mesh, PartitionSpec("x"))
w = jax.device_put(np.ones((256, 256), np.float32), split)

@jax.jit
def summed(w, x):
    for _ in range(4):
        x = jax.numpy.tanh(x @ w)
    return x.sum()

for _ in range(10):
    placed = (jax.device_put(np.full((64, 256), i, np.float32), split) for i in range(300))
    sums = [float(value) for value in in_turn(partial(summed, w), placed, "cpu")]
    assert sums[0] == 0 and len(sums) == 300 and all(value == 64 * 256 for value in sums[1:]), sums
"""


def test_many_calls_on_several_devices_come_to_their_end() -> None:
    """Called without a wait between them they stop for ever: no thread is left for the collective that all wait for."""
    subprocess.run([sys.executable, "-c", MANY], timeout=90, check=True)
