"""Cross-entropy at a large vocabulary: memory and time of the loss in pieces against all logits at once.

    python bench/loss.py

Gradient with respect to features and output matrix, vocabulary 50,304, 2,048 tokens. Temporaries are XLA's own count.
"""

from typing import Any

from harness import Worker, alternate, arguments, paired_ratio, publish, summary


def main() -> None:
    """Measure and write the table."""
    options = arguments(__doc__ or "")
    spec: dict[str, Any] = {"vocab": 50_304, "width": 768, "rows": 2, "context": 1024}
    with Worker("loss_side.py", spec) as side:
        about = side.call("about")
        turns = {name: lambda name=name: side.call("run", name=name) for name in about["variants"]}
        measured = alternate(turns, options.rounds)
        values = side.call("values")
    reference = "whole logits"
    rows = [("variant", "ms", "time against whole", "temporaries MB", "memory against whole", "loss")]
    results = {}
    for name, seconds in measured.items():
        r = results[name] = {
            "seconds": summary(seconds),
            "time_ratio": paired_ratio(seconds, measured[reference]),
            "temporary_bytes": about["variants"][name],
            "memory_ratio": about["variants"][name] / about["variants"][reference],
            "loss": values[name],
        }
        rows.append(
            (
                name,
                f"{r['seconds']['median'] * 1e3:.0f}",
                f"{r['time_ratio']['median']:.2f} ({r['time_ratio']['low']:.2f} to {r['time_ratio']['high']:.2f})",
                f"{r['temporary_bytes'] / 1e6:.0f}",
                f"{r['memory_ratio']:.3f}",
                f"{r['loss']['nats']:.6f}, gradient off by {r['loss']['gradient_error']:.1e}",
            )
        )
    headline = {f"{name} {what}": r[key]["median"] if key == "time_ratio" else r[key] for name, r in results.items()
                for what, key in (("time ratio", "time_ratio"), ("memory ratio", "memory_ratio"))}  # fmt: skip
    publish(
        "loss",
        {"headline": headline, "variants": results, **spec},
        rows,
        None if about["platform"] == "cpu" else about["device"],
    )


if __name__ == "__main__":
    main()
