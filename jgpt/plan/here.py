"""The machine that the plan runs on: its memory and, where no data sheet says it, how fast it is.

Owns the measuring, a second or so.
"""

import os
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from jgpt.config import Config
from jgpt.plan.devices import DEVICES, Device, Machine

# jax's device_kind, as a pattern, and the name in the table; the first match counts
KINDS: Final = (
    (r"v5 ?lite|v5e", "v5e"), (r"v5", "v5p"), (r"v6", "v6e"), (r"TPU ?7x", "tpu7x"), (r"\bH100", "h100"), (r"\bH200", "h200"),
)  # fmt: skip
ROUNDS: Final = 5
READ_BYTES: Final = 2**29


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
    tokens = config.train.batch_size // config.train.accumulation_steps * config.model.context_length
    flops, bandwidth = _products(tokens, D, F), _reading()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    source = f"measured now: f32 products of {tokens} x {D} x {F}, reading {READ_BYTES >> 20} MiB"
    link = bandwidth / count  # devices of one process exchange through its memory
    return Machine(
        Device(device.platform, memory / count, flops / count, bandwidth / count, link, None, device.platform, source),
        (count,),
    )


def _products(tokens: int, inner: int, outer: int) -> float:
    """Return the rate of an f32 product [FLOP/s], the best of `ROUNDS`."""
    x, w = jnp.ones((tokens, inner)), jnp.ones((inner, outer))
    product = jax.jit(jnp.matmul)
    return 2 * tokens * inner * outer / _best(lambda: product(x, w).block_until_ready())


def _reading() -> float:
    """Return the bytes per second of reading memory, the best of `ROUNDS`."""
    x = jnp.asarray(np.ones(READ_BYTES // 4, np.float32))
    total = jax.jit(jnp.sum)
    return READ_BYTES / _best(lambda: total(x).block_until_ready())


def _best(call: Callable[[], Any]) -> float:
    call()
    seconds = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)
