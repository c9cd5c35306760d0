"""Worker: what the device can do at best: matrix products, reading memory, launching a program. See bench/limits.py."""

import time
from collections.abc import Callable
from functools import partial

import numpy as np
from harness import serve, spec

SPEC = spec()
from jgpt.runtime import configure  # noqa: E402

configure()
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

MADE: dict = {}


def _timed(call: Callable[[], jax.Array], flops_or_bytes: float, seconds: float) -> float:
    """Return units a second over at least `seconds`."""
    call().block_until_ready()
    begun, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - begun) < seconds:
        out = call()
        count += 1
        if count % 8 == 0 or jax.default_backend() == "cpu":
            out.block_until_ready()
    out.block_until_ready()
    passed = time.perf_counter() - begun
    return count * flops_or_bytes / passed


def matmul(dtype: str, shape: list[int], seconds: float = 0.5) -> float:
    """Return the rate of [m, k] x [k, n] [FLOP/s]."""
    m, k, n = shape
    key = ("matmul", dtype, *shape)
    if key not in MADE:
        a, b = (jax.random.normal(jax.random.key(i), s, dtype) for i, s in enumerate(((m, k), (k, n))))
        precision = (
            "highest" if dtype == "float32" else None
        )  # accelerators round the factors of f32 products otherwise
        MADE[key] = (jax.jit(partial(jnp.matmul, precision=precision)), a, b)
    product, a, b = MADE[key]
    return _timed(lambda: product(a, b), 2.0 * m * k * n, seconds)


def blas_matmul(shape: list[int], seconds: float = 0.5) -> float:
    """Return the rate of numpy's f32 product [FLOP/s], a second opinion on the processor."""
    m, k, n = shape
    a, b = (np.random.default_rng(0).standard_normal(s).astype(np.float32) for s in ((m, k), (k, n)))
    out = a @ b
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        np.matmul(a, b, out=out)
        count += 1
    return 2.0 * m * k * n * count / (time.perf_counter() - begun)


def read(gibibytes: float = 0.5, seconds: float = 0.5) -> float:
    """Return the rate of reading memory once [bytes/s]: the largest value of each column of an array larger than any cache."""
    key = ("read", gibibytes)
    if key not in MADE:
        x = jnp.ones(int(gibibytes * 2**28), jnp.float32).reshape(-1, 1024)
        MADE[key] = (jax.jit(lambda a: jnp.max(a, axis=0)), x)
    total, x = MADE[key]
    return _timed(lambda: total(x), x.nbytes, seconds)


def launch(count: int = 300) -> float:
    """Return the seconds from calling a trivial program until its result is there."""
    if "launch" not in MADE:
        MADE["launch"] = (jax.jit(lambda a: a + 1), jnp.zeros(()))
    add, x = MADE["launch"]
    x = add(x).block_until_ready()
    begun = time.perf_counter()
    for _ in range(count):
        x = add(x).block_until_ready()
    return (time.perf_counter() - begun) / count


serve({"matmul": matmul, "blas_matmul": blas_matmul, "read": read, "launch": launch, "about": lambda: {
    "device": jax.devices()[0].device_kind, "platform": jax.devices()[0].platform}})  # fmt: skip
