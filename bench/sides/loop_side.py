"""Worker: the real training loop, timed from outside, with bare steps between its stretches. See bench/input.py."""

import collections
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import BENCH, serve, spec

SPEC = spec()
from jgpt.runtime import configure  # noqa: E402

configure()
import dataclasses  # noqa: E402

import jax  # noqa: E402

from jgpt import checkpoint, configio, evaluate, loop, metrics, sharding  # noqa: E402

SPENT: dict[str, float] = {}
COUNTED: dict[str, float] = {}  # of it, what was spent in the stretches that count
STRETCHES: dict[str, list[list[float]]] = {"loop": [], "bare": []}  # seconds a step, by the clock and of all cores


def clocks() -> tuple[float, float]:
    """Return the seconds of the clock, and those that all cores have spent on this process."""
    return time.perf_counter(), time.process_time()


def timed(what: str, call: Callable) -> Callable:
    """Return `call`, whose time on the main thread is added to SPENT."""

    def wrapped(*arguments: Any, **options: Any) -> Any:
        begun = time.perf_counter()
        try:
            return call(*arguments, **options)
        finally:
            SPENT[what] = SPENT.get(what, 0.0) + time.perf_counter() - begun

    return wrapped


class Batches:
    """The loader, timed."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.get_state, self.set_state = inner.get_state, inner.set_state
        self._next = timed("data", inner.__next__)

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Any:
        return self._next()


def bare_between(compiled: Callable) -> Callable:
    """Return the step; after every stretch of the loop it takes the stretch's batches again, bare, and times both."""
    begun, taken = clocks(), SPEC["stretch"] // 2  # saves, in the middle, are written before the bare steps
    batches: collections.deque = collections.deque(maxlen=SPEC["stretch"])

    def one(state: Any, batch: Any) -> tuple:
        nonlocal begun, taken
        if taken == SPEC["stretch"]:
            jax.block_until_ready(state)
            now = clocks()
            if STRETCHES["bare"]:  # the first stretch warms up
                STRETCHES["loop"].append([(b - a) / taken for a, b in zip(begun, now, strict=True)])
            else:
                SPENT.clear()
            for again in batches:
                state, _ = compiled(state, again)
            jax.block_until_ready(state)
            if len(STRETCHES["loop"]) == 2 * SPEC["rounds"]:  # what comes after is no stretch
                COUNTED.update(SPENT)
            begun = clocks()
            STRETCHES["bare"].append([(b - a) / len(batches) for a, b in zip(now, begun, strict=True)])
            taken = 0
        taken += 1
        batches.append(batch)
        return compiled(state, batch)

    return one


def run() -> dict:
    """Train; return seconds a step in the loop and bare, in turns, and those of the main thread in each activity."""
    stretches = 2 * SPEC["rounds"]  # with a save in every second
    steps = SPEC["stretch"] * (stretches + 1) + 1
    config = configio.load_config_file(BENCH.parent / "configs" / "shakespeare_char.py")
    with tempfile.TemporaryDirectory() as folder:
        config = dataclasses.replace(
            config,
            run=dataclasses.replace(config.run, dir=str(Path(folder) / "run")),
            data=dataclasses.replace(config.data, path=SPEC["data"]),
            train=dataclasses.replace(config.train, steps=steps),
            model=dataclasses.replace(config.model, embed_dim=SPEC["width"]),
            eval=dataclasses.replace(config.eval, every_steps=steps),
            checkpoint=dataclasses.replace(config.checkpoint, every_steps=2 * SPEC["stretch"]),
        )
        run_steps, make_batches = loop._run_steps, loop.train_batches
        loop._run_steps = lambda parts, *arguments: run_steps(
            dataclasses.replace(parts, train_step=bare_between(parts.train_step)), *arguments
        )
        loop.train_batches = lambda *arguments, **options: Batches(make_batches(*arguments, **options))
        checkpoint.Checkpoints.save = timed("checkpoints", checkpoint.Checkpoints.save)
        loop.Checkpoints.save = checkpoint.Checkpoints.save
        metrics.MetricsWriter.write = timed("logging", metrics.MetricsWriter.write)
        loop.TrainProgress.update = timed("progress bar", loop.TrainProgress.update)
        loop.sharding.shard_batch = timed("batches to the device", sharding.shard_batch)
        loop.evaluate.likelihoods = timed("evaluation", evaluate.likelihoods)
        loop.report.finish = lambda *arguments: None
        loop.train(config, "configs/shakespeare_char.py")
    counted = SPEC["stretch"] * len(STRETCHES["loop"])
    evaluation, saves = SPENT.pop("evaluation"), COUNTED.pop("checkpoints")
    return {
        **STRETCHES,
        "spent_per_step": {what: seconds / counted for what, seconds in COUNTED.items()},
        "save_seconds": saves / SPEC["rounds"],
        "evaluation_seconds": evaluation,
    }


serve({"run": run, "about": lambda: {"device": jax.devices()[0].device_kind, "platform": jax.default_backend()}})
