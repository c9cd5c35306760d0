"""Every way of attending that this device has: how far from plain attention in f32, and how fast.

    python bench/attention.py                   # error of values and gradients, milliseconds forward and backward

Errors are ||got - expected|| / ||expected||, padding left out. It ends with 1 where one is above what its type
explains: a fast path with a wrong number is no fast path.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from harness import alternate, arguments, publish, say, summary

ERROR = {"float32": 1e-4, "bfloat16": 1e-2}  # bf16 keeps 8 bits; a wrong mask is off by more than 0.1
GROUPED = "up to 4 documents, 4 queries' heads a key's"
SIZES = {"cpu": (4, 256, 4, 64, 0.05), "gpu": (16, 1024, 12, 64, 0.2), "tpu": (16, 1024, 12, 64, 0.2)}


def packed(rows: int, length: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return segments and positions of rows with 1 to `most` documents; every other row ends in padding."""
    random = np.random.default_rng(0)
    segments, positions = np.zeros((rows, length), np.int32), np.zeros((rows, length), np.int32)
    for row in range(rows):
        count = int(random.integers(1, most + 1))
        end = length if row % 2 == 0 else length - length // 8
        cuts = [0, *np.sort(random.choice(np.arange(1, end), count - 1, replace=False)).tolist(), end]
        for number, (first, stop) in enumerate(zip(cuts, cuts[1:], strict=False), start=1):
            segments[row, first:stop] = number
            positions[row, first:stop] = np.arange(stop - first)
    return segments, positions


def main() -> int:
    """Measure, write the table, and return the exit status."""
    options = arguments(__doc__ or "")
    from jgpt.runtime import configure

    configure()
    import jax
    import jax.numpy as jnp

    from jgpt.model.attention import ATTENTION, einsum_attention
    from jgpt.model.visibility import Visibility

    platform = jax.default_backend()
    dtype = "float32" if platform == "cpu" else "bfloat16"
    B, S, H, K, seconds = SIZES[platform]
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v, pull = (jax.random.normal(key, (B, S, H, K), dtype) for key in keys)

    def visibility(most: int | None, **fields: Any) -> Visibility:
        if most is None:
            positions = jnp.broadcast_to(jnp.arange(S)[None, :], (B, S))
            return Visibility(positions, positions, **fields)
        segments, positions = (jnp.asarray(a) for a in packed(B, S, most))
        return Visibility(positions, positions, segments, segments, **fields)

    cases: dict[str, Visibility] = {
        "one document": visibility(None),
        "one document, window 128": visibility(None, window=128),
        "up to 4 documents": visibility(4, documents=4),
        "up to 16 documents": visibility(16, documents=16),
        "up to 4 documents, number unknown": visibility(4),
        GROUPED: visibility(4, documents=4),
    }
    names = [name for name in ATTENTION if name != "einsum" and (name != "cudnn" or platform == "gpu")]

    def gradients(attend: Callable[..., Any], visible: Visibility, q: Any, k: Any, v: Any, pull: Any) -> Any:
        def total(q: Any, k: Any, v: Any) -> tuple[Any, Any]:
            out = attend(q, k, v, visible, None).astype(jnp.float32)
            if visible.q_segments_BS is not None:
                out = jnp.where((visible.q_segments_BS > 0)[:, :, None, None], out, 0)
            return jnp.sum(out * pull), out

        slopes, out = jax.grad(total, argnums=(0, 1, 2), has_aux=True)(q, k, v)
        return (out, *slopes)

    def error(got: Any, expected: Any) -> float:
        return float(jnp.linalg.norm(got.astype(jnp.float32) - expected) / jnp.linalg.norm(expected))

    results: dict[str, Any] = {}
    rows = [("what", "attention", "error of values", "of gradients", "ms", "quartiles")]
    for case, visible in cases.items():
        own = H // 4 if case == GROUPED else H  # heads of keys and values
        arguments_of = (q, k[:, :, :own], v[:, :, :own], pull)
        with jax.default_matmul_precision("highest"):
            exact = [a.astype(jnp.float32) for a in arguments_of]
            expected = jax.jit(partial(gradients, einsum_attention, visible))(*exact)
        runs = {name: jax.jit(partial(gradients, ATTENTION[name], visible)) for name in [*names, "einsum"]}
        found = {  # compiles
            name: [error(got, want) for got, want in zip(run(*arguments_of), expected, strict=True)]
            for name, run in runs.items()
        }

        def turn(run: Callable[..., Any], given: Any = arguments_of) -> float:
            begun, count = time.perf_counter(), 0
            while time.perf_counter() - begun < seconds:
                out = run(*given)
                count += 1
                if count % 8 == 0 or platform == "cpu":
                    jax.block_until_ready(out)
            jax.block_until_ready(out)
            return (time.perf_counter() - begun) / count * 1e3

        for name, times in alternate({name: partial(turn, run) for name, run in runs.items()}, options.rounds).items():
            t, errors = summary(times), found[name]
            results[f"{case}, {name}"] = {"errors": errors, "ms": t}
            rows.append(
                (
                    case,
                    name,
                    f"{errors[0]:.1e}",
                    f"{max(errors[1:]):.1e}",
                    f"{t['median']:.3f}",
                    f"{t['low']:.3f} to {t['high']:.3f}",
                )
            )
            say(f"  {' '.join(rows[-1])}")
    wrong = [name for name, r in results.items() if not max(r["errors"]) < ERROR[dtype]]  # a NaN is wrong too
    headline = {f"{name} ms": r["ms"]["median"] for name, r in results.items()}
    device = None if platform == "cpu" else jax.devices()[0].device_kind
    publish(
        "attention", {"headline": headline, "shape": [B, S, H, K], "dtype": dtype, "figures": results}, rows, device
    )
    if wrong:
        say(f"wrong: {', '.join(wrong)}")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
