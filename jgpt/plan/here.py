"""The machine that the plan runs on: its memory and, where no data sheet says it, how fast it is.

Owns the measuring, a second or so; and steps of a shallow model, which take longer.
"""

import dataclasses
import math
import os
import re
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from jgpt import optim, sharding, state, step
from jgpt.batch import Batch, RowLimits
from jgpt.config import Config, ModelConfig
from jgpt.model import gpt
from jgpt.plan.devices import DEVICES, Device, Machine

# jax's device_kind, as a pattern, and the name in the table; the first match counts
KINDS: Final = (
    (r"v5 ?lite|v5e", "v5e"), (r"v5", "v5p"), (r"v6", "v6e"), (r"TPU ?7x", "tpu7x"), (r"\bH100", "h100"), (r"\bH200", "h200"),
)  # fmt: skip
ROUNDS: Final = 5
MOST_SECONDS: Final = 30.0  # that steps are run for a plan
PRODUCT_ROWS: Final = 4096  # at most, of a measured product: more take longer, at the same rate
READ_BYTES: Final = 2**29
CACHE_BYTES: Final = 2**24  # a share of the last cache of today's servers


def devices() -> Sequence[Any]:
    """Return the devices of this machine."""
    return jax.devices()


def machine(config: Config) -> Machine:
    """Return this machine: known accelerators by their data sheets, others as measured.

    On a CPU the devices share the machine: each has its share of memory, products and bandwidth.

    Args:
        config: of the run; products are measured at its widths.
    """
    device, count = jax.devices()[0], jax.device_count()
    if device.platform != "cpu":
        known = next((DEVICES[name] for kind, name in KINDS if re.search(kind, device.device_kind)), None)
        if known is None:
            raise ValueError(
                f"the device {device.device_kind!r} is not in the table of jgpt/plan/devices.py: name one that is like it "
                f"with --device ({', '.join(DEVICES)})."
            )
        return Machine(known, (count // known.per_chip,))
    D, F = config.model.embed_dim, config.model.mlp_dim or 4 * config.model.embed_dim
    tokens = min(PRODUCT_ROWS, config.train.batch_size // config.train.accumulation_steps * config.model.context_length)
    flops, bandwidth, near = _products(tokens, D, F), _reading(READ_BYTES), _reading(CACHE_BYTES)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    source = f"measured now: f32 products of {tokens} x {D} x {F}, reading {READ_BYTES >> 20} MiB"
    link = bandwidth / count  # devices of one process exchange through its memory
    return Machine(
        Device(
            device.platform,
            memory / count,
            flops / count,
            bandwidth / count,
            link,
            None,
            device.platform,
            source,
            cache=CACHE_BYTES,
            cache_bandwidth=near / count,
        ),
        (count,),
    )


def seconds_by_depth(config: Config, model: ModelConfig, limits: RowLimits, expected: float) -> float | None:
    """Return the seconds of a step, told from steps of one and two layers that are run here.

    Layers are alike, so that every further one takes what the second did. Where windows or patterns alternate, a layer is a
    whole period of them. None where there are fewer than two of these, two took no longer than one, or running them would take
    longer than `MOST_SECONDS`.

    Args:
        config: of the run.
        model: resolved for this machine.
        limits: what a row of the data holds at most.
        expected: of a step of all layers, by its roofline [seconds].
    """
    period = math.lcm(len(model.windows), len(model.patterns))
    if model.num_layers % period or model.num_layers < 2 * period:
        return None
    if (ROUNDS + 1) * 3 * period / model.num_layers * expected > MOST_SECONDS:
        return None
    one, two = (_step_seconds(config, dataclasses.replace(model, num_layers=n * period), limits) for n in (1, 2))
    return None if two <= one else one + (model.num_layers // period - 1) * (two - one)


def _step_seconds(config: Config, model: ModelConfig, limits: RowLimits) -> float:
    """Return the median seconds of a step on random ids."""
    mesh = sharding.make_mesh(config.mesh)
    tx = optim.make_optimizer(config.optim, config.train.steps, gpt.param_axes(model))
    train_state = state.create(model, tx, mesh, seed=0, ema=config.optim.ema_decay is not None)
    train_step = step.compile_train_step(config, model, tx, train_state, mesh, limits)
    batch = sharding.shard_batch(random_batch(config.train.batch_size, model), mesh)
    seconds = []
    for _ in range(ROUNDS + 1):
        begun = time.perf_counter()
        train_state, measured = train_step(train_state, batch)
        jax.block_until_ready(measured)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[1:])


def random_batch(rows: int, model: ModelConfig) -> Batch:
    """Return rows of random ids, each one document."""
    length = model.context_length
    ids = np.random.default_rng(0).integers(0, model.vocab_size or 1, (rows, length + 1)).astype(np.int32)
    whole = np.ones((rows, length), np.int32)
    places = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    return Batch(ids[:, :-1], ids[:, 1:], whole.astype(np.float32), whole, places)


def _products(tokens: int, inner: int, outer: int) -> float:
    """Return the rate of an f32 product [FLOP/s], the best of `ROUNDS`."""
    x, w = jnp.ones((tokens, inner)), jnp.ones((inner, outer))
    product = jax.jit(jnp.matmul)
    return 2 * tokens * inner * outer / _best(lambda: product(x, w).block_until_ready())


def _reading(size: int) -> float:
    """Return the bytes per second of reading so many, again and again, the best of `ROUNDS`."""
    x = jnp.asarray(np.ones(size // 4, np.float32))
    total = jax.jit(jnp.sum)
    return size / _best(lambda: total(x).block_until_ready())


def _best(call: Callable[[], Any]) -> float:
    call()
    seconds = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)
