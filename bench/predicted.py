"""What `jgpt plan` predicts for this machine against what a run takes: memory and seconds of a training step.

    python bench/predicted.py --rounds 5        # sizes for this device, results in bench/results/

Each size in processes of its own. Predicted: bytes of the state, of the batch and of what the compiler keeps beside them;
seconds from steps of one and two layers. Measured: the median of `--steps` steps, in turn with what is predicted; by how much a
process grows that makes a state and takes steps once it has done so before and given everything back (on a GPU: the most that
its allocator held).
"""

import statistics
from typing import Any

from harness import Worker, arguments, publish, say

FIELDS = ("preset", "layers", "width", "heads", "context", "rows", "vocab")
SIZES: dict[str, dict[str, Any]] = {
    name: dict(zip(FIELDS, values, strict=True))
    for name, values in {
        "modern 4L/128, 12 x 64": ("modern", 4, 128, 4, 64, 12, 72),
        "gpt2 6L/384, 16 x 256": ("gpt2", 6, 384, 6, 256, 16, 72),
        "llama 8L/256, 8 x 256": ("llama", 8, 256, 4, 256, 8, 4096),
        "gpt2 124M, 16 x 1,024": ("gpt2", 12, 768, 12, 1024, 16, 50304),
        "gpt2 350M, 16 x 1,024": ("gpt2", 24, 1024, 16, 1024, 16, 50304),
    }.items()
}
ON = {"cpu": list(SIZES)[:3], "gpu": list(SIZES)[3:], "tpu": list(SIZES)[3:]}
MEMORY, TIME = 0.10, 0.25  # what the figures may be off


def main() -> None:
    """Measure every size and write the table."""
    options = arguments(
        __doc__ or "",
        steps={"type": int, "default": 20, "help": "steps that are timed"},
        sizes={"nargs": "*", "choices": list(SIZES), "help": "default: the device's"},
    )
    with Worker("roof.py", {}) as probe:
        about = probe.call("about")
    results: dict[str, Any] = {}
    rows = [("size", "MiB predicted", "measured", "off", "ms predicted", "measured", "off", "bound")]
    for name in options.sizes or ON[about["platform"]]:
        with Worker("predicted_side.py", {**SIZES[name], "allocator": True}) as side:
            turns = [(side.call("predict"), side.call("measure", steps=options.steps)) for _ in range(options.rounds)]
        predicted, measured = turns[-1]
        for part, values in (
            (predicted, [p["seconds"] for p, _ in turns if p["seconds"] is not None]),  # None: lost in noise
            (measured, [m["seconds"] for _, m in turns]),
        ):
            part["turns"], part["seconds"] = values, statistics.median(values)
        if about["platform"] == "cpu":
            with Worker("predicted_side.py", {**SIZES[name], "allocator": False}) as side:
                measured["bytes"] = side.call("measure", steps=2)["bytes"]
        off = {key: predicted[key] / measured[key] - 1 for key in ("bytes", "seconds")}
        results[name] = {"predicted": predicted, "measured": measured, "off": off}
        rows.append(
            (
                name,
                *(f"{side['bytes'] / 2**20:,.0f}" for side in (predicted, measured)),
                f"{off['bytes']:+.0%}{'' if abs(off['bytes']) <= MEMORY else ' !'}",
                *(f"{side['seconds'] * 1e3:,.1f}" for side in (predicted, measured)),
                f"{off['seconds']:+.0%}{'' if abs(off['seconds']) <= TIME else ' !'}",
                f"{predicted['bound'] * 1e3:,.1f}",
            )
        )
        say("  ".join(rows[-1]))
    headline = {f"{name}: {what} off": r["off"][what] for name, r in results.items() for what in ("bytes", "seconds")}
    publish(
        "predicted",
        {"headline": headline, "sizes": results},
        rows,
        None if about["platform"] == "cpu" else about["device"],
    )


if __name__ == "__main__":
    main()
