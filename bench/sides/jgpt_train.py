"""Worker: training steps of jgpt's gpt2 preset. See bench/train.py for the calls and the spec."""

import os
import resource
import time

import numpy as np
from harness import serve, spec

SPEC = spec()
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # the memory is that of a first run
if SPEC["allocator"] == "mallopt":
    from jgpt.runtime import configure

    configure()

import jax  # noqa: E402

from jgpt import optim, presets, sharding, state, step  # noqa: E402
from jgpt.batch import Batch, RowLimits  # noqa: E402
from jgpt.config import Config, MeshConfig, OptimConfig, TrainConfig  # noqa: E402
from jgpt.interop import to_gpt2  # noqa: E402
from jgpt.metrics import flops_per_token, peak_flops  # noqa: E402
from jgpt.model import gpt  # noqa: E402
from jgpt.pace import Pace  # noqa: E402
from jgpt.plan.compiling import temporary_bytes  # noqa: E402

CONFIG = Config(
    model=presets.gpt2(
        num_layers=SPEC["layers"],
        embed_dim=SPEC["width"],
        num_heads=SPEC["heads"],
        context_length=SPEC["context"],
        compute_dtype=SPEC["dtype"],
        vocab_multiple=1,
        **SPEC.get("options", {}),
    ),
    optim=OptimConfig(
        name="adamw",
        peak_lr=SPEC["rate"],
        weight_decay=SPEC["decay"],
        b1=SPEC["b1"],
        b2=SPEC["b2"],
        clip_norm=SPEC["clip"],
        schedule="constant",
        warmup_steps=0,
    ),
    train=TrainConfig(steps=1000, batch_size=SPEC["rows"], logits_dtype=SPEC.get("logits_dtype", "float32")),
)
MESH = sharding.make_mesh(MeshConfig(data=1))
MODEL = gpt.resolve(CONFIG.model, vocab_size=SPEC["vocab"], backend=jax.default_backend())
TX = optim.make_optimizer(CONFIG.optim, CONFIG.train.steps, gpt.param_axes(MODEL))
STATE = state.create(MODEL, TX, MESH, seed=0)
STEP = step.compile_train_step(CONFIG, MODEL, TX, STATE, MESH, limits=RowLimits(documents=1))
AT = 0


def batches() -> list[Batch]:
    """Return the spec's batches as the loader would give them."""
    out = []
    for tokens in np.load(SPEC["batches"]):
        positions = np.tile(np.arange(SPEC["context"], dtype=np.int32), (SPEC["rows"], 1))
        ones = np.ones(positions.shape)
        out.append(Batch(tokens[:, :-1], tokens[:, 1:], ones.astype(np.float32), ones.astype(np.int32), positions))
    return out


BATCHES = batches()
STEP = STEP.lower(STATE, sharding.shard_batch(BATCHES[0], MESH)).compile()
PACE = Pace(SPEC["device"], temporary_bytes(STEP.memory_analysis()))


def save(weights: str) -> None:
    """Write the weights for the other side."""
    np.savez(weights, **to_gpt2(MODEL, jax.device_get(STATE.params)))


def steps(count: int) -> dict:
    """Take steps as the loop does; return their losses and the seconds they took."""
    global STATE, AT
    begun = time.perf_counter()
    measured = []
    for _ in range(count):
        batch = sharding.shard_batch(BATCHES[AT % len(BATCHES)], MESH)
        PACE.settle(measured[-1] if measured else None)
        STATE, metrics = STEP(STATE, batch)
        measured.append(metrics["loss"])
        AT += 1
    values = [float(loss) for loss in measured]
    return {"seconds": time.perf_counter() - begun, "losses": values}


def memory() -> float:
    """Return the peak [bytes]: of the device, or of this process."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def about() -> dict:
    """Return the device and the model FLOPs of a step."""
    tokens = SPEC["rows"] * SPEC["context"]
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "flops": flops_per_token(MODEL) * tokens,
        "peak": peak_flops(device.device_kind),
    }


def profile(folder: str, count: int) -> str:
    """Write a trace of some steps, and return the compiled step as text."""
    with jax.profiler.trace(folder):
        steps(count)
    return STEP.as_text()


serve({"save": save, "steps": steps, "memory": memory, "about": about, "profile": profile})
