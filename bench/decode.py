"""Prefill and decoding of GPT-2 against transformers' generate: same weights, same prompts, greedy, in alternation.

    python bench/decode.py
    python bench/decode.py --shape 1.5b --rows 1 8 64 256 --rounds 9

A token's time is (time of N new tokens - time of 1) / (N - 1), prefill is the time of one new token. The share of memory
bandwidth is the weights' bytes, read once a step, over the bandwidth measured between the turns.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from harness import Worker, alternate, arguments, paired_ratio, publish, say, summary

SHAPES = {  # GPT-2's smallest and largest, Radford et al. 2019, table 2
    "124m": {"layers": 12, "width": 768, "heads": 12},
    "1.5b": {"layers": 48, "width": 1600, "heads": 25},
}
PROMPT, NEW, AGREED = 128, 64, 8  # tokens; greedy ids must agree at least this far


def settings(device: str) -> dict[str, dict[str, Any]]:
    """Return additions to the peer's spec, by name."""
    out = {"dynamic cache": {"allocator": "default", "static": False}}
    if device == "cpu":
        out["dynamic cache, mallopt"] = {"allocator": "mallopt", "static": False}
    else:
        out["static cache, compiled"] = {"allocator": "default", "static": True}
    return out


def measure(rows: int, ours: Worker, theirs: Worker, roof: Worker, rounds: int, weight_bytes: int) -> dict[str, Any]:
    """Return the results for a number of rows.

    Raises:
        SystemExit: the two sides do not write the same.
    """
    ids = [side.call("generate", rows=rows, new=NEW)["ids"] for side in (ours, theirs)]
    same = [
        next((i for i, (a, b) in enumerate(zip(*pair, strict=True)) if a != b), NEW) for pair in zip(*ids, strict=True)
    ]
    if min(same) < AGREED:
        raise SystemExit(f"{rows} rows: greedy ids part after {same} tokens: another function is computed")
    for side in (ours, theirs):
        side.call("generate", rows=rows, new=1)

    def seconds(side: Worker, new: int) -> float:
        return side.call("generate", rows=rows, new=new)["seconds"]

    turns = {
        "jgpt prefill": lambda: seconds(ours, 1),
        "transformers prefill": lambda: seconds(theirs, 1),
        "jgpt whole": lambda: seconds(ours, NEW),
        "transformers whole": lambda: seconds(theirs, NEW),
        "read bytes/s": lambda: roof.call("read", gibibytes=0.5, seconds=0.3),
    }
    measured = alternate(turns, rounds)
    token = {
        side: [
            (whole - first) / (NEW - 1)
            for whole, first in zip(measured[f"{side} whole"], measured[f"{side} prefill"], strict=True)
        ]
        for side in ("jgpt", "transformers")
    }
    return {
        "prefill_seconds": {side: summary(measured[f"{side} prefill"]) for side in token},
        "token_seconds": {side: summary(values) for side, values in token.items()},
        "prefill_speedup": paired_ratio(measured["transformers prefill"], measured["jgpt prefill"]),
        "decode_speedup": paired_ratio(token["transformers"], token["jgpt"]),
        "tokens_per_second": {side: rows / summary(values)["median"] for side, values in token.items()},
        "share_of_bandwidth": {
            side: summary([weight_bytes / t / r for t, r in zip(values, measured["read bytes/s"], strict=True)])
            for side, values in token.items()
        },
        "agreed_tokens": same,
    }  # fmt: skip


def main() -> None:
    """Measure each number of rows and write the table."""
    shape = {"choices": list(SHAPES), "default": "124m"}
    options = arguments(__doc__ or "", rows={"nargs": "+", "type": int, "default": [1, 8]}, shape=shape)
    with Worker("roof.py", {}) as probe:
        about = probe.call("about")
    device = about["platform"]
    common = SHAPES[options.shape] | {"context": 1024, "vocab": 50257, "device": device}
    common["dtype"] = "float32" if device == "cpu" else "bfloat16"
    results: dict[str, Any] = {}
    table = [
        ("rows", "prefill ms", "speedup", "ms a token", "speedup", "tokens/s", "of the bandwidth", "transformers'")
    ]
    with tempfile.TemporaryDirectory() as folder:
        weights, prompts = str(Path(folder) / "weights.npz"), str(Path(folder) / "prompts.npy")
        np.save(
            prompts, np.random.default_rng(0).integers(0, common["vocab"], (max(options.rows), PROMPT)).astype(np.int32)
        )
        common["prompts"] = prompts
        with Worker("jgpt_decode.py", common) as ours, Worker("roof.py", {}) as roof:
            ours.call("save", weights=weights)
            weight_bytes = ours.call("about")["weight_bytes"]
            for rows in options.rows:
                say(f"{rows} rows")
                best = {}
                for name, extra in settings(device).items():
                    with Worker("torch_decode.py", {**common, **extra}) as theirs:
                        theirs.call("load", weights=weights)
                        tried = [theirs.call("generate", rows=rows, new=NEW)["seconds"] for _ in range(3)]
                        best[name] = min(tried)
                        say(f"transformers, {name}: {best[name] / NEW * 1e3:.1f} ms a token")
                chosen = min(best, key=lambda name: best[name])
                with Worker("torch_decode.py", {**common, **settings(device)[chosen]}) as theirs:
                    theirs.call("load", weights=weights)
                    r = measure(rows, ours, theirs, roof, options.rounds, weight_bytes)
                    results[str(rows)] = r | {"peer": chosen, "tried_seconds": best}
                    table.append(
                        (
                            str(rows),
                            f"{r['prefill_seconds']['jgpt']['median'] * 1e3:.1f}",
                            f"{r['prefill_speedup']['median']:.2f}",
                            f"{r['token_seconds']['jgpt']['median'] * 1e3:.2f}",
                            "{median:.2f} ({low:.2f} to {high:.2f})".format(**r["decode_speedup"]),
                            f"{r['tokens_per_second']['jgpt']:.1f}",
                            f"{r['share_of_bandwidth']['jgpt']['median']:.0%}",
                            f"{r['share_of_bandwidth']['transformers']['median']:.0%}",
                        )
                    )
    headline = {f"{rows} rows {what}": r[what]["median"] for rows, r in results.items()
                for what in ("prefill_speedup", "decode_speedup")}  # fmt: skip
    publish(
        "decode" if options.shape == "124m" else f"decode_{options.shape}",
        {"headline": headline, "rows": results},
        table,
        None if device == "cpu" else about["device"],
    )


if __name__ == "__main__":
    main()
