"""Weak scaling by compiled cost: the same rows on every device, from 4 to 1,024 chips that are not here.

    pip install -e '.[plan]' && python bench/weak_scaling.py

For each mesh the train step is compiled for TPU v5p and read: FLOPs and bytes of the kernels of one device, which must stay the
same within 5 %, and bytes of the exchanges, held against arithmetic. Over `data` gradients are summed in f32, 2 (n - 1) / n of
the bytes of a shard. Over `fsdp` they are scattered, (k - 1) / k of the bytes, those of blocks in bf16 and those of the two
tables (embedding and head) in f32; the weights of blocks are gathered twice and the head's once, in bf16, and the rows that the
embedding gives are gathered instead of its table.
"""

import os
from typing import Any

from harness import arguments, publish, say

LAYOUTS = {4: "2x2x1", 16: "2x2x4", 64: "4x4x4", 256: "4x8x8", 1024: "8x8x16"}
ROWS, LAYERS, WIDTH, HEADS, CONTEXT, VOCAB = 2, 4, 512, 8, 1024, 32768  # rows of one device
FSDP = 4
CONSTANT = 0.05


def main() -> None:
    """Compile for every layout and write the table."""
    options = arguments(__doc__ or "", chips={"nargs": "*", "type": int, "default": list(LAYOUTS)})
    os.environ["JAX_PLATFORMS"] = "cpu"  # libtpu compiles; it must not look for chips
    from jgpt.runtime import configure

    configure()
    import jax

    jax.config.update("jax_enable_compilation_cache", False)
    from jgpt import presets
    from jgpt.batch import RowLimits
    from jgpt.config import Config, MeshConfig, OptimConfig, TrainConfig
    from jgpt.model import gpt
    from jgpt.plan import compiling, devices

    results: dict[str, Any] = {}
    rows = [("mesh", "chips", "TFLOP", "GB moved", "GB exchanged", "by arithmetic", "off", "compiled in")]
    model = presets.modern(
        num_layers=LAYERS, embed_dim=WIDTH, num_heads=HEADS, context_length=CONTEXT, scan_layers=True
    )
    model = gpt.resolve(model, vocab_size=VOCAB, backend="tpu")
    table = model.vocab_size * WIDTH  # embedding and head: one each
    blocks = compiling.parameter_bytes(model) / 4 - 2 * table
    gradients = 2 * blocks + 4 * 2 * table
    for fsdp in (1, FSDP):
        for chips in options.chips:
            machine = devices.parse(f"v5p:{LAYOUTS[chips]}")
            config = Config(
                model=model,
                optim=OptimConfig(name="adamw"),
                train=TrainConfig(steps=1000, batch_size=ROWS * chips),
                mesh=MeshConfig(data=chips // fsdp, fsdp=fsdp),
            )
            step = compiling.compile_step(config, model, compiling.devices_of(machine), limits=RowLimits(documents=1))
            flops = sum(k.times * k.flops for k in step.kernels)
            moved = sum(k.times * k.bytes for k in step.kernels)
            sent = sum(c.sent for c in step.collectives)
            data, own = chips // fsdp, (fsdp - 1) / fsdp
            expected = 2 * (data - 1) / data * 4 * (blocks + 2 * table) / fsdp
            expected += own * (gradients + 2 * 2 * blocks + 2 * table + 2 * fsdp * ROWS * CONTEXT * WIDTH)
            name = f"data {data}, fsdp {fsdp}"
            results[name] = {
                "flops": flops, "bytes": moved, "exchanged": sent, "by_arithmetic": expected,
                "collectives": [vars(c) for c in step.collectives], "seconds": step.seconds,
            }  # fmt: skip
            rows.append(
                (name, str(chips), f"{flops / 1e12:.4f}", f"{moved / 1e9:.3f}", f"{sent / 1e9:.4f}", f"{expected / 1e9:.4f}",
                 f"{sent / expected - 1:+.1%}", f"{step.seconds:.0f} s")
            )  # fmt: skip
            say("  ".join(rows[-1]))
    spread = {}
    for fsdp in (1, FSDP):
        for what in ("flops", "bytes"):
            values = [r[what] for name, r in results.items() if name.endswith(f" {fsdp}")]
            spread[f"fsdp {fsdp}: {what} of a device, largest over smallest"] = max(values) / min(values)
    for name, value in spread.items():
        say(f"{name}: {value:.4f}{'' if value <= 1 + CONSTANT else ' !'}")
    publish("weak_scaling", {"headline": spread, "meshes": results}, rows, "tpu v5p compiled")


if __name__ == "__main__":
    main()
