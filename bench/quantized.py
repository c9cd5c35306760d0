"""Weights and cache in int8: what they lose in nats, and what they cost or gain in time and bytes.

    python bench/quantized.py --run runs/trio
    python bench/quantized.py --rows 1 8 --layers 2 --width 128 --heads 4 --vocab 512 --rounds 3

Speed is that of the GPT-2 124M shape with random weights: a token's time is (time of N new tokens - time of 1) / (N - 1).
Loss is that of held-out documents of a run, in nats per trained target of each task; without --run it is left out.
"""

from typing import Any

from harness import Worker, alternate, arguments, paired_ratio, publish, say, summary

PLAIN = "as trained"


def times(side: Worker, settings: list[str], rows: int, options: Any) -> dict[str, list[float]]:
    """Return the seconds a token of each setting, turn by turn."""

    def token(setting: str) -> float:
        seconds = [side.call("generate", setting=setting, rows=rows, prompt=options.prompt, new=new) for new in
                   (1, options.new)]  # fmt: skip
        return (seconds[1] - seconds[0]) / (options.new - 1)

    for setting in settings:  # compiles
        token(setting)
    return alternate({setting: lambda setting=setting: token(setting) for setting in settings}, options.rounds)


def main() -> None:
    """Measure and write the table."""
    number = {"type": int}
    options = arguments(
        __doc__ or "",
        run={"help": "folder of a run whose loss is measured"},
        documents={**number, "default": 256, "help": "held-out documents of each task"},
        rows={**number, "nargs": "+", "default": [1, 8]},
        prompt={**number, "default": 128},
        new={**number, "default": 64},
        layers={**number, "default": 12},
        width={**number, "default": 768},
        heads={**number, "default": 12},
        context={**number, "default": 1024},
        vocab={**number, "default": 50257},
    )
    sizes = {name: getattr(options, name) for name in ("layers", "width", "heads", "context", "vocab")}
    with Worker("quantised_side.py", sizes) as side:
        about = side.call("about")
        settings = list(about["settings"])
        results: dict[str, Any] = {name: dict(about["settings"][name]) for name in settings}
        for rows in options.rows:
            say(f"{rows} rows")
            measured = times(side, settings, rows, options)
            for name in settings:
                results[name][f"{rows} rows"] = {
                    "token_seconds": summary(measured[name]),
                    "tokens_per_second": rows / summary(measured[name])["median"],
                    "speedup": paired_ratio(measured[PLAIN], measured[name]),
                }
        if options.run is not None:
            losses = side.call("losses", run=options.run, documents=options.documents)
            for name in settings:
                results[name]["nats"] = losses[name]
                results[name]["nats_lost"] = {task: losses[name][task] - losses[PLAIN][task] for task in losses[name]}
    table = [
        ("setting", "weights MB", "cache of a row MB", *(f"{rows} rows: tokens/s, speedup" for rows in options.rows))
    ]
    tasks = list(results[PLAIN].get("nats", {}))
    table[0] += tuple(f"{task}: nats a token, lost" for task in tasks)
    for name in settings:
        r = results[name]
        speeds = [r[f"{rows} rows"] for rows in options.rows]
        table.append(
            (
                name,
                f"{r['weight_bytes'] / 1e6:.1f}",
                f"{r['cache_bytes'] / 1e6:.2f}",
                *(f"{s['tokens_per_second']:.1f}, {s['speedup']['median']:.2f}" for s in speeds),
                *(f"{r['nats'][task]:.4f}, {r['nats_lost'][task]:+.4f}" for task in tasks),
            )
        )
    headline = {f"{name}, {rows} rows, speedup": results[name][f"{rows} rows"]["speedup"]["median"]
                for name in settings[1:] for rows in options.rows}  # fmt: skip
    headline |= {
        f"{name}, {task}, nats lost": results[name]["nats_lost"][task] for name in settings[1:] for task in tasks
    }
    publish(
        "quantized",
        {"headline": headline, "settings": results, "dtype": about["dtype"], "run": options.run, **sizes},
        table,
        None if about["platform"] == "cpu" else about["device"],
    )


if __name__ == "__main__":
    main()
