"""Worker: gradients of the loss, with all logits at once and in pieces. See bench/loss.py."""

import time

from harness import serve, spec

SPEC = spec()
from jgpt.runtime import configure  # noqa: E402

configure()
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402

from jgpt.loss import LossPlan, cross_entropy  # noqa: E402

B, S, D, V = SPEC["rows"], SPEC["context"], SPEC["width"], SPEC["vocab"]
ON_CPU = jax.default_backend() == "cpu"
DTYPE = jnp.float32 if ON_CPU else jnp.bfloat16
X = jax.random.normal(jax.random.key(0), (B, S, D), DTYPE)
W = 0.02 * jax.random.normal(jax.random.key(1), (D, V), jnp.float32)
TARGETS = jax.random.randint(jax.random.key(2), (B, S), 0, V)
ONES = jnp.ones((B, S))


def to_logits(x_ND: jax.Array, w_DV: jax.Array) -> jax.Array:
    """Return f32 logits."""
    return jnp.matmul(x_ND, w_DV.astype(x_ND.dtype), preferred_element_type=jnp.float32)


def optax_loss(x: jax.Array, w: jax.Array) -> jax.Array:
    """Return the mean by optax, the plain way."""
    logits = to_logits(x.reshape(-1, D), w)
    return optax.softmax_cross_entropy_with_integer_labels(logits, TARGETS.reshape(-1)).mean()


def ours(chunk_tokens: int | None):
    """Return the mean by jgpt, with at most this many tokens' logits at once."""
    return lambda x, w: (
        cross_entropy(to_logits, x, w, TARGETS, ONES, LossPlan(chunk_tokens, split_vocab=ON_CPU))[0] / (B * S)
    )


LOSSES = {
    "whole logits": optax_loss,
    "jgpt default": ours(None),
    "jgpt 128 tokens": ours(128),
    "jgpt 512 tokens": ours(512),
}
COMPILED = {name: jax.jit(jax.value_and_grad(f, (0, 1))).lower(X, W).compile() for name, f in LOSSES.items()}


def about() -> dict:
    """Return temporaries [bytes] of each variant, and the device."""
    sizes = {name: c.memory_analysis().temp_size_in_bytes for name, c in COMPILED.items()}
    return {"variants": sizes, "platform": jax.default_backend(), "device": jax.devices()[0].device_kind}


def run(name: str) -> float:
    """Return the seconds of one gradient."""
    begun = time.perf_counter()
    jax.block_until_ready(COMPILED[name](X, W))
    return time.perf_counter() - begun


def values() -> dict:
    """Return each variant's loss, and how far its gradient is from the plain one, relative to its norm."""
    out, reference = {}, COMPILED["whole logits"](X, W)[1]
    for name, compiled in COMPILED.items():
        loss, gradient = compiled(X, W)
        error = optax.tree.norm(optax.tree.sub(gradient, reference)) / optax.tree.norm(reference)
        out[name] = {"nats": float(loss), "gradient_error": float(error)}
    return out


serve({"about": about, "run": run, "values": values})
