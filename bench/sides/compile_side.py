"""Worker: time to trace and compile a training step by depth. See bench/start.py."""

import os
import time

from harness import serve, spec

SPEC = spec()
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
from jgpt.runtime import configure  # noqa: E402

configure()
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from jgpt import optim, presets, sharding, state, step  # noqa: E402
from jgpt.batch import Batch  # noqa: E402
from jgpt.config import Config, MeshConfig, TrainConfig  # noqa: E402
from jgpt.model import gpt  # noqa: E402

ROWS, CONTEXT = 8, 256


def compile_step(layers: int, scan: bool) -> float:
    """Return the seconds to trace and compile the modern preset's step, width 256."""
    cfg = presets.modern(num_layers=layers, embed_dim=256, num_heads=4, context_length=CONTEXT, scan_layers=scan)
    config = Config(model=cfg, train=TrainConfig(steps=1000, batch_size=ROWS))
    model = gpt.resolve(cfg, vocab_size=512, backend=jax.default_backend())
    tx = optim.make_optimizer(config.optim, 1000, gpt.param_axes(model))
    mesh = sharding.make_mesh(MeshConfig(data=1))
    abstract = state.abstract_state(model, tx, mesh)
    ids = jax.ShapeDtypeStruct((ROWS, CONTEXT), jnp.int32)
    batch = Batch(ids, ids, jax.ShapeDtypeStruct(ids.shape, jnp.float32), ids, ids)
    begun = time.perf_counter()
    step.compile_train_step(config, model, tx, abstract, mesh).lower(abstract, batch).compile()
    return time.perf_counter() - begun


serve(
    {
        "compile": compile_step,
        "about": lambda: {"device": jax.devices()[0].device_kind, "platform": jax.default_backend()},
    }
)
