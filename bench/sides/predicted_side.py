"""Worker: a training step as `jgpt plan` sees it, and as it runs. See bench/predicted.py for the calls and the spec."""

import ctypes
import gc
import os
import statistics
import threading
import time

from harness import serve, spec

SPEC = spec()
if SPEC["allocator"]:  # as a run sets it; it never gives pages back, so that growth is seen without it
    from jgpt.runtime import configure

    configure()
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from jgpt import optim, presets, sharding, state, step  # noqa: E402
from jgpt.batch import RowLimits  # noqa: E402
from jgpt.config import Config, MeshConfig, OptimConfig, TrainConfig  # noqa: E402
from jgpt.model import gpt  # noqa: E402
from jgpt.plan import compiling, here, roofline  # noqa: E402

CONFIG = Config(
    model=presets.PRESETS[SPEC["preset"]](
        num_layers=SPEC["layers"], embed_dim=SPEC["width"], num_heads=SPEC["heads"], context_length=SPEC["context"]
    ),
    optim=OptimConfig(name="muon" if SPEC["preset"] == "modern" else "adamw"),
    train=TrainConfig(steps=1000, batch_size=SPEC["rows"]),
    mesh=MeshConfig(data=1),
)
MODEL = gpt.resolve(CONFIG.model, vocab_size=SPEC["vocab"], backend=jax.default_backend())
ONE = RowLimits(documents=1)


def predict() -> dict:
    """Return the plan's bytes of a device, seconds of a step, and their bound."""
    planned = compiling.compile_step(CONFIG, MODEL, jax.devices()[:1], ONE)
    times = roofline.times(planned, here.machine(CONFIG), accumulation_steps=1)
    seconds = here.seconds_by_depth(CONFIG, MODEL, ONE, expected=0.0)  # however long they take
    figures = {"seconds": seconds, "kernels": times.kernels, "bound": times.bound}
    return {"bytes": planned.memory.total, **figures, **vars(planned.memory)}


def resident() -> int:
    """Return the bytes of this process that are in memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(steps: int) -> dict:
    """Return the bytes that state and steps take, and the median seconds of a step."""
    mesh = sharding.make_mesh(CONFIG.mesh)
    tx = optim.make_optimizer(CONFIG.optim, 1000, gpt.param_axes(MODEL))
    abstract = state.abstract_state(MODEL, tx, mesh)
    batch = here.random_batch(SPEC["rows"], MODEL)
    compiled = step.compile_train_step(CONFIG, MODEL, tx, abstract, mesh, ONE)
    lowered = compiled.lower(abstract, sharding.shard_batch(batch, mesh)).compile()
    blank = jax.jit(lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract))
    make = (lambda: state.create(MODEL, tx, mesh, seed=0)) if SPEC["allocator"] else blank  # blank compiles once
    for _ in range(2):  # programs, and what the first step sets up, are no part of what is predicted
        train_state, metrics = lowered(make(), sharding.shard_batch(batch, mesh))
        float(metrics["loss"])
        del train_state, metrics
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what compiling has left
    except (OSError, AttributeError):
        pass
    before, most, done = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.001):
            most = max(most, resident())

    threading.Thread(target=watch, daemon=True).start()
    train_state = make()
    seconds: list[float] = []
    for _ in range(steps + 2):
        begun = time.perf_counter()
        train_state, metrics = lowered(train_state, sharding.shard_batch(batch, mesh))
        float(metrics["loss"])
        seconds.append(time.perf_counter() - begun)
    done.set()
    stats = jax.local_devices()[0].memory_stats() or {}
    taken = stats.get("peak_bytes_in_use", most - before)
    return {"bytes": taken, "seconds": statistics.median(seconds[2:])}


serve({"predict": predict, "measure": measure})
