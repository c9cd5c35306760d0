"""Training step of jgpt's gpt2 preset against GPT-2 in PyTorch: same weights, same batches, in alternation.

    python bench/train.py                       # sizes for this device, results in bench/results/
    python bench/train.py --sizes small --rounds 21

Every setting of each side runs a few turns first; the fastest of each side then meet, turn by turn, and the roof (matrix
products of the same type) is measured between them. Both must give the same losses over the first steps.
"""

import ctypes.util
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from harness import Worker, alternate, arguments, paired_ratio, publish, say, summary

LOSS_TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}  # bf16 keeps 8 bits
CHECKED_STEPS = 3
TURN_SECONDS = 1.0


@dataclass(frozen=True)
class Size:
    """What is trained, and which settings of jgpt's model are tried."""

    layers: int
    width: int
    heads: int
    context: int
    rows: int
    vocab: int
    options: list[dict[str, Any]] = field(default_factory=lambda: [{}])

    @property
    def tokens(self) -> int:
        """Tokens a step."""
        return self.rows * self.context


DEEP = [{}, {"scan_layers": True, "remat": "dots"}, {"scan_layers": True, "remat": "full"}]
SIZES = {
    "small": Size(4, 128, 4, 64, 12, 65),
    "large": Size(6, 384, 6, 256, 16, 65),
    "124M": Size(12, 768, 12, 1024, 16, 50304),
    "350M": Size(24, 1024, 16, 1024, 16, 50304, DEEP),
    "1.5B": Size(48, 1600, 25, 1024, 8, 50304, DEEP),
}
ON = {"cpu": ["small", "large"], "gpu": ["124M", "350M", "1.5B"]}


def tcmalloc() -> str | None:
    """Return the library to preload, None where it is not installed (Debian: libtcmalloc-minimal4)."""
    return ctypes.util.find_library("tcmalloc_minimal")


def settings(device: str, size: Size) -> dict[str, tuple[str, dict[str, Any], dict[str, str]]]:
    """Return (script, additions to the spec, environment) of every setting of both sides, by name."""
    allocators: dict[str, dict[str, str]] = {"mallopt": {}}
    if device == "cpu" and tcmalloc():
        allocators["tcmalloc"] = {"LD_PRELOAD": str(tcmalloc())}
    out = {}
    for allocator, environment in allocators.items():
        for options in size.options:
            name = " ".join(["jgpt", allocator, *(f"{k}={v}" for k, v in options.items())])
            out[name] = ("jgpt_train.py", {"allocator": allocator, "options": options}, environment)
    modes = ["default", "max-autotune-no-cudagraphs"] if device == "gpu" else ["default"]
    for allocator, environment in ({"default": {}} | allocators if device == "cpu" else {"default": {}}).items():
        for mode in ["eager", *modes]:
            compiled = {"compile": mode != "eager", "compile_mode": mode}
            name = f"torch {allocator} {mode if mode == 'eager' else 'compiled ' + mode}"
            out[name] = ("torch_train.py", {"allocator": allocator, **compiled}, environment)
    return out


def check(workers: dict[str, Worker], folder: Path, dtype: str) -> dict[str, list[float]]:
    """Give all sides the same weights and return their losses over the first steps.

    Raises:
        SystemExit: they differ; nothing is timed then.
    """
    first = next(name for name in workers if name.startswith("jgpt"))
    weights = str(folder / "weights.npz")
    workers[first].call("save", weights=weights)
    for name, worker in workers.items():
        if name.startswith("torch"):
            worker.call("load", weights=weights)
    losses = {name: worker.call("steps", count=CHECKED_STEPS)["losses"] for name, worker in workers.items()}
    for name, values in losses.items():
        if not np.allclose(values, losses[first], atol=LOSS_TOLERANCE[dtype], rtol=0):
            raise SystemExit(f"{name} computes another function: losses {values} against {losses[first]} of {first}")
    return losses


def measure(name: str, size: Size, device: str, dtype: str, rounds: int, folder: Path) -> dict[str, Any]:
    """Return the results of one size."""
    tokens = np.random.default_rng(0).integers(0, size.vocab, (8, size.rows, size.context + 1)).astype(np.int32)
    np.save(folder / "batches.npy", tokens)
    common = {
        "layers": size.layers, "width": size.width, "heads": size.heads, "context": size.context, "rows": size.rows,
        "vocab": size.vocab, "dtype": dtype, "device": device, "batches": str(folder / "batches.npy"),
        "rate": 3e-4, "decay": 0.1, "b1": 0.9, "b2": 0.95, "clip": 1.0,
    }  # fmt: skip
    chosen: dict[str, str] = {}
    tried: dict[str, float] = {}
    losses: dict[str, list[float]] = {}
    table = settings(device, size)

    def start(setting: str) -> Worker:
        script, extra, environment = table[setting]
        return Worker(script, {**common, **extra}, environment)

    reference = start(next(iter(table)))
    try:
        for setting in table:  # one at a time: on a GPU two would not fit
            try:
                with start(setting) as worker:
                    if setting.startswith("torch"):
                        reference_losses = check({"jgpt": reference, setting: worker}, folder, dtype)
                        losses[setting] = reference_losses[setting]
                        reference.close()
                        reference = start(next(iter(table)))
                    else:
                        worker.call("steps", count=CHECKED_STEPS)
                    count = max(1, round(TURN_SECONDS / (worker.call("steps", count=2)["seconds"] / 2)))
                    tried[setting] = min(worker.call("steps", count=count)["seconds"] / count for _ in range(3))
            except RuntimeError as error:  # out of memory, or a compiler that is missing
                say(f"  {setting}: {error}")
                continue
            say(f"  {name} {setting}: {tried[setting] * 1e3:.1f} ms a step")
    finally:
        reference.close()
    for side in ("jgpt", "torch"):
        mine = {setting: seconds for setting, seconds in tried.items() if setting.startswith(side)}
        if not mine:
            raise SystemExit(f"no setting of {side} ran: see above")
        chosen[side] = min(mine, key=lambda setting: mine[setting])

    with start(chosen["jgpt"]) as ours, start(chosen["torch"]) as theirs, Worker("roof.py", {}) as roof:
        losses |= check({"jgpt": ours, chosen["torch"]: theirs}, folder, dtype)
        counts = {side: max(1, round(TURN_SECONDS / tried[chosen[side]])) for side in chosen}
        shapes = [[4096, size.width, 4 * size.width], [2048, 2048, 2048]]
        blas = {f"blas {s}": lambda s=s: roof.call("blas_matmul", shape=s) for s in shapes if device == "cpu"}
        products = blas | {
            str(shape): lambda shape=shape: roof.call("matmul", dtype=dtype, shape=shape) for shape in shapes
        }
        measured = alternate(
            {
                "jgpt": lambda: ours.call("steps", count=counts["jgpt"])["seconds"] / counts["jgpt"],
                "torch": lambda: theirs.call("steps", count=counts["torch"])["seconds"] / counts["torch"],
                **products,
            },
            rounds,
        )
        about = ours.call("about")
        memory = {"jgpt": ours.call("memory"), "torch": theirs.call("memory")}
        trace = os.environ.get("JGPT_BENCH_TRACE")  # a folder for a profile
        if trace:
            ours.call("profile", folder=trace, count=5)
    # the fastest product by its median: the maximum of each turn would be the luckiest, not the roof
    best = measured[max(products, key=lambda product: summary(measured[product])["median"])]
    rates = [about["flops"] / seconds for seconds in measured["jgpt"]]
    return {
        "settings": tried,
        "chosen": chosen,
        "seconds": {side: summary(measured[side]) for side in chosen},
        "tokens_per_second": {side: size.tokens / summary(measured[side])["median"] for side in chosen},
        "speedup": paired_ratio(measured["torch"], measured["jgpt"]),
        "flops_per_step": about["flops"],
        "roof_flops_per_second": summary(best),
        "share_of_roof": {
            "jgpt": paired_ratio(rates, best),
            "torch": paired_ratio([about["flops"] / seconds for seconds in measured["torch"]], best),
        },
        "peak_bytes": memory,
        "first_losses": losses,
        "device": about["device"],
    }


def main() -> None:
    """Measure every size and write the table."""
    options = arguments(__doc__ or "", sizes={"nargs": "*", "choices": list(SIZES), "help": "default: the device's"})
    with Worker("roof.py", {}) as probe:
        about = probe.call("about")
    device = about["platform"]
    dtype = "float32" if device == "cpu" else "bfloat16"
    results: dict[str, Any] = {}
    rows = [("size", "jgpt ms", "torch ms", "speedup", "jgpt tokens/s", "of the roof", "torch of the roof", "settings")]
    with tempfile.TemporaryDirectory() as folder:
        for name in options.sizes or ON[device]:
            say(f"{name}: {SIZES[name]}")
            r = results[name] = measure(name, SIZES[name], device, dtype, options.rounds, Path(folder))
            rows.append(
                (
                    name,
                    f"{r['seconds']['jgpt']['median'] * 1e3:.1f}",
                    f"{r['seconds']['torch']['median'] * 1e3:.1f}",
                    f"{r['speedup']['median']:.2f} ({r['speedup']['low']:.2f} to {r['speedup']['high']:.2f})",
                    f"{r['tokens_per_second']['jgpt']:.0f}",
                    f"{r['share_of_roof']['jgpt']['median']:.0%}",
                    f"{r['share_of_roof']['torch']['median']:.0%}",
                    " | ".join(r["chosen"].values()),
                )
            )
    headline = {f"{name} speedup": r["speedup"]["median"] for name, r in results.items()}
    headline |= {f"{name} share of roof": r["share_of_roof"]["jgpt"]["median"] for name, r in results.items()}
    publish("train", {"headline": headline, "sizes": results}, rows, None if device == "cpu" else about["device"])


if __name__ == "__main__":
    main()
