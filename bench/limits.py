"""The roof: what this device does at best in matrix products, reading memory and launching programs.

    python bench/limits.py

The other benchmarks are held against these figures; bench/train.py measures the products again beside its steps.
"""

from harness import Worker, alternate, arguments, publish, summary

SHAPES = {
    "cpu": [[2048, 2048, 2048], [4096, 384, 1536], [768, 128, 512]],
    "gpu": [[8192, 8192, 8192], [16384, 768, 3072]],
}
TYPES = ("float32", "bfloat16")


def main() -> None:
    """Measure and write the table."""
    options = arguments(__doc__ or "")
    with Worker("roof.py", {}) as roof:
        about = roof.call("about")
        device, shapes = about["platform"], SHAPES["cpu" if about["platform"] == "cpu" else "gpu"]

        def product(dtype: str, shape: list[int]) -> float:
            return roof.call("matmul", dtype=dtype, shape=shape)

        turns = {f"{t} {shape} FLOP/s": lambda t=t, s=shape: product(t, s) for t in TYPES for shape in shapes}
        if device == "cpu":
            for shape in shapes:
                turns[f"numpy float32 {shape} FLOP/s"] = lambda s=shape: roof.call("blas_matmul", shape=s)
        turns["read bytes/s"] = lambda: roof.call("read", gibibytes=0.5 if device == "cpu" else 4)
        turns["launch s"] = lambda: roof.call("launch")
        results = {name: summary(values) for name, values in alternate(turns, options.rounds).items()}
    rows = [("what", "median", "quartiles")]
    for name, r in results.items():
        scale, unit = (1e6, "us") if name.endswith(" s") else (1e-9, "G" + name.rpartition(" ")[2])
        rows.append((name, f"{r['median'] * scale:.1f} {unit}", f"{r['low'] * scale:.1f} to {r['high'] * scale:.1f}"))
    headline = {name: r["median"] for name, r in results.items()}
    publish("limits", {"headline": headline, "figures": results}, rows, None if device == "cpu" else about["device"])


if __name__ == "__main__":
    main()
