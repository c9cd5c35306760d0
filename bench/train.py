"""Training step of jgpt's gpt2 preset against GPT-2 in PyTorch: same weights, same batches, in alternation.

    python bench/train.py                       # sizes for this device, results in bench/results/
    python bench/train.py --sizes small --rounds 21

Every setting of each side runs a few turns first (where there are several); the fastest of each side then meet, turn by turn,
and the roof (matrix products of the same type) is measured between them. Both must give the same losses over the first steps.
"""

import ctypes.util
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from harness import Worker, alternate, arguments, paired_ratio, publish, say, summary

LOSS_TOLERANCE = {
    "float32": 1e-4,
    "bfloat16": 2e-3,
}  # of the mean over a batch; without the mask the second's is 0.02 off
CHECKED_STEPS = 3
TURN_SECONDS = 1.0


@dataclass(frozen=True)
class Size:
    """What is trained, and which settings of jgpt are tried: of its model, and the type in which logits wait."""

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


ROUNDED = {"logits_dtype": "bfloat16"}  # as PyTorch's autocast leaves them
DEEP = [ROUNDED, *({**ROUNDED, "scan_layers": True, "remat": kept} for kept in ("dots", "full"))]
SIZES = {
    "small": Size(4, 128, 4, 64, 12, 65),
    "large": Size(6, 384, 6, 256, 16, 65),
    "124M": Size(12, 768, 12, 1024, 16, 50304, [ROUNDED, {"logits_dtype": "float32"}]),
    "350M": Size(24, 1024, 16, 1024, 16, 50304, DEEP),
    "1.5B": Size(48, 1600, 25, 1024, 8, 50304, DEEP),
}
ON = {"cpu": ["small", "large"], "gpu": ["124M", "350M", "1.5B"]}


def tcmalloc() -> str | None:
    """Return the library to preload, None where it is not installed (Debian: libtcmalloc-minimal4)."""
    return ctypes.util.find_library("tcmalloc_minimal")


def settings(device: str, size: Size, without: Sequence[str]) -> dict[str, tuple[str, dict[str, Any], dict[str, str]]]:
    """Return (script, additions to the spec, environment) of every setting of both sides, by name, but those `without`."""
    allocators: dict[str, dict[str, str]] = {"mallopt": {}}
    if device == "cpu" and tcmalloc():
        allocators["tcmalloc"] = {"LD_PRELOAD": str(tcmalloc())}
    out = {}
    for allocator, environment in allocators.items():
        for options in size.options:
            name = " ".join(["jgpt", allocator, *(f"{k}={v}" for k, v in options.items())])
            model = {k: v for k, v in options.items() if k != "logits_dtype"}
            extra = {"allocator": allocator, "options": model, "logits_dtype": options.get("logits_dtype", "float32")}
            out[name] = ("jgpt_train.py", extra, environment)
    modes = ["default", "max-autotune-no-cudagraphs"] if device == "gpu" else ["default"]
    for allocator, environment in ({"default": {}} | allocators if device == "cpu" else {"default": {}}).items():
        for mode in ["eager", *modes]:
            compiled = {"compile": mode != "eager", "compile_mode": mode}
            name = f"torch {allocator} {mode if mode == 'eager' else 'compiled ' + mode}"
            out[name] = ("torch_train.py", {"allocator": allocator, **compiled}, environment)
    return {name: setting for name, setting in out.items() if not any(part in name for part in without)}


def check(workers: dict[str, Worker], folder: Path, dtype: str) -> dict[str, list[float]]:
    """Give all sides the same weights and return their losses over the first steps, which they take, and compile, at once.

    Raises:
        SystemExit: they differ; nothing is timed then.
    """
    first = next(name for name in workers if name.startswith("jgpt"))
    weights = str(folder / "weights.npz")
    workers[first].call("save", weights=weights)
    for name, worker in workers.items():
        if name.startswith("torch"):
            worker.call("load", weights=weights)
    with ThreadPoolExecutor() as pool:
        taken = pool.map(lambda worker: worker.call("steps", count=CHECKED_STEPS)["losses"], workers.values())
        losses = dict(zip(workers, taken, strict=True))
    for name, values in losses.items():
        if not np.allclose(values, losses[first], atol=LOSS_TOLERANCE[dtype], rtol=0):
            raise SystemExit(f"{name} computes another function: losses {values} against {losses[first]} of {first}")
    return losses


def steps_a_turn(worker: Worker) -> int:
    """Return how many steps make a turn."""
    return max(1, round(TURN_SECONDS / (worker.call("steps", count=2)["seconds"] / 2)))


def try_all(
    table: Iterable[str], start: Callable[[str], Worker], folder: Path, dtype: str
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Return seconds a step and first losses of every setting that runs, one after the other: on a GPU two would not fit."""
    seconds: dict[str, float] = {}
    losses: dict[str, list[float]] = {}
    names = list(table)
    reference = start(names[0])
    try:
        for setting in names:
            try:
                with start(setting) as worker:
                    if setting.startswith("torch"):
                        losses[setting] = check({"jgpt": reference, setting: worker}, folder, dtype)[setting]
                        reference.close()
                        reference = start(names[0])
                        reference.call("about")  # it has loaded and compiled, and waits
                    else:
                        worker.call("steps", count=CHECKED_STEPS)
                    count = steps_a_turn(worker)
                    seconds[setting] = min(worker.call("steps", count=count)["seconds"] / count for _ in range(3))
            except RuntimeError as error:  # out of memory, or a compiler that is missing
                say(f"  {setting}: {error}")
                continue
            say(f"  {setting}: {seconds[setting] * 1e3:.1f} ms a step")
    finally:
        reference.close()
    return seconds, losses


def prepared(size: Size, device: str, dtype: str, folder: Path) -> dict[str, Any]:
    """Write the batches of a size to `folder` and return what every side's spec has."""
    tokens = np.random.default_rng(0).integers(0, size.vocab, (8, size.rows, size.context + 1)).astype(np.int32)
    np.save(folder / "batches.npy", tokens)
    return {
        "layers": size.layers, "width": size.width, "heads": size.heads, "context": size.context, "rows": size.rows,
        "vocab": size.vocab, "dtype": dtype, "device": device, "batches": str(folder / "batches.npy"),
        "rate": 3e-4, "decay": 0.1, "b1": 0.9, "b2": 0.95, "clip": 1.0,
    }  # fmt: skip


def measure(size: Size, device: str, dtype: str, rounds: int, folder: Path, without: Sequence[str]) -> dict[str, Any]:
    """Return the results of one size."""
    common = prepared(size, device, dtype, folder)
    table = settings(device, size, without)

    def start(setting: str) -> Worker:
        script, extra, environment = table[setting]
        return Worker(script, {**common, **extra}, environment)

    sides = {side: [setting for setting in table if setting.startswith(side)] for side in ("jgpt", "torch")}
    tried, losses = try_all(table, start, folder, dtype) if any(len(own) > 1 for own in sides.values()) else ({}, {})
    chosen: dict[str, str] = {}
    for side, own in sides.items():
        ran = [setting for setting in own if setting in tried or not tried]
        if not ran:
            raise SystemExit(f"no setting of {side} ran: see above")
        chosen[side] = min(ran, key=lambda setting: tried.get(setting, 0.0))

    with start(chosen["jgpt"]) as ours, start(chosen["torch"]) as theirs, Worker("roof.py", {}) as roof:
        losses |= check({"jgpt": ours, chosen["torch"]: theirs}, folder, dtype)
        count, their_count = steps_a_turn(ours), steps_a_turn(theirs)
        shapes = [[4096, size.width, 4 * size.width], [2048, 2048, 2048]]
        if device != "cpu":  # a small product would not fill it
            shapes = [[8192, 8192, 8192]]
        blas = {f"blas {s}": lambda s=s: roof.call("blas_matmul", shape=s) for s in shapes if device == "cpu"}
        products = blas | {
            str(shape): lambda shape=shape: roof.call("matmul", dtype=dtype, shape=shape) for shape in shapes
        }
        measured = alternate(
            {
                "jgpt": lambda: ours.call("steps", count=count)["seconds"] / count,
                "torch": lambda: theirs.call("steps", count=their_count)["seconds"] / their_count,
                **products,
            },
            rounds,
        )
        about = ours.call("about")
        memory = {"jgpt": ours.call("memory"), "torch": theirs.call("memory")}
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
        "mfu": None if about["peak"] is None else summary([rate / about["peak"] for rate in rates]),
        "peak_flops_per_second": about["peak"],
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
    options = arguments(
        __doc__ or "",
        sizes={"nargs": "*", "choices": list(SIZES), "help": "default: the device's"},
        without={"nargs": "*", "default": [], "help": "leave out settings whose names hold one of these, e.g. eager"},
    )
    with Worker("roof.py", {}) as probe:
        about = probe.call("about")
    device = about["platform"]
    dtype = "float32" if device == "cpu" else "bfloat16"
    results: dict[str, Any] = {}
    rows = [
        (
            "size",
            "jgpt ms",
            "torch ms",
            "speedup",
            "jgpt tokens/s",
            "of the roof",
            "torch of the roof",
            "MFU",
            "settings",
        )
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name in options.sizes or ON[device]:
            say(f"{name}: {SIZES[name]}")
            size = SIZES[name]
            r = results[name] = measure(size, device, dtype, options.rounds, Path(folder), options.without)
            rows.append(
                (
                    name,
                    f"{r['seconds']['jgpt']['median'] * 1e3:.1f}",
                    f"{r['seconds']['torch']['median'] * 1e3:.1f}",
                    f"{r['speedup']['median']:.2f} ({r['speedup']['low']:.2f} to {r['speedup']['high']:.2f})",
                    f"{r['tokens_per_second']['jgpt']:.0f}",
                    f"{r['share_of_roof']['jgpt']['median']:.0%}",
                    f"{r['share_of_roof']['torch']['median']:.0%}",
                    f"{r['mfu']['median']:.1%}" if r["mfu"] else "-",
                    " | ".join(r["chosen"].values()),
                )
            )
            headline = {f"{name} speedup": r["speedup"]["median"] for name, r in results.items()}
            headline |= {f"{name} share of roof": r["share_of_roof"]["jgpt"]["median"] for name, r in results.items()}
            found = {"headline": headline, "left_out": options.without, "sizes": results}
            publish("train", found, rows, None if device == "cpu" else about["device"])


if __name__ == "__main__":
    main()
