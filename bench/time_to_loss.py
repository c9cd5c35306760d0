"""Seconds from process start until tiny Shakespeare's validation loss, over the whole last tenth, is below 1.88.

    python bench/time_to_loss.py --data shakespeare.txt

Ours: train.py with configs/shakespeare_char_fast.py, first with nothing compiled, then again; it counts until the
validation that is below the target stands in metrics.jsonl. Peer: nanoGPT's published CPU recipe in PyTorch; its imports,
and its validations before the last, are not counted.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import BENCH, Worker, arguments, paired_ratio, publish, say, summary, without

ROOT = BENCH.parent


def ours(config: str, data: str, target: float, cache: Path, seed: int) -> dict[str, Any]:
    """Return seconds until the target was reached, and the loss."""
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "run" / "metrics.jsonl"
        command = [sys.executable, str(ROOT / "train.py"), str(ROOT / config), "--data.path", data,
                   "--run.dir", f"{folder}/run", "--train.seed", str(seed)]  # fmt: skip
        begun = time.perf_counter()
        environment = {**without(os.environ, "JAX_COMPILATION_CACHE_DIR"), "XDG_CACHE_HOME": str(cache)}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        try:
            while process.poll() is None:
                for line in metrics.read_text().splitlines() if metrics.is_file() else []:
                    record = json.loads(line)
                    if record.get("text/nats_per_token", 9) < target:
                        seconds = time.perf_counter() - begun
                        return {"seconds": seconds, "step": record["step"], "loss": record["text/nats_per_token"]}
                time.sleep(0.02)
        finally:
            process.kill()
            process.wait()
    return {"seconds": float("inf"), "step": None, "loss": None}


def main() -> None:
    """Measure and write the table."""
    options = arguments(
        __doc__ or "",
        data={"required": True, "help": "tiny Shakespeare as a text file"},
        config={"default": "configs/shakespeare_char_fast.py", "help": "our recipe"},
        target={"type": float, "default": 1.88, "help": "[nats]"},
    )
    data = str(Path(options.data).resolve())
    sides: dict[str, list[dict[str, Any]]] = {"jgpt, cold": [], "jgpt, second start": [], "nanoGPT's recipe": []}
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        for seed in range(options.rounds):
            shutil.rmtree(cache, ignore_errors=True)
            for name in ("jgpt, cold", "jgpt, second start"):
                sides[name].append(ours(options.config, data, options.target, cache, seed))
            with Worker("torch_nanogpt.py", {"data": data, "seed": seed, "allocator": "mallopt"}) as peer:
                run = peer.call("run", target=options.target)
            step, loss = run["seen"][-1]
            sides["nanoGPT's recipe"].append({"seconds": run["seconds"], "step": step, "loss": loss})
            say(f"seed {seed}: " + "; ".join(f"{name} {runs[-1]}" for name, runs in sides.items()))
    seconds = {name: [run["seconds"] for run in runs] for name, runs in sides.items()}
    peer_name = "nanoGPT's recipe"
    rows = [("side", "seconds", "quartiles", "steps", "loss", "times faster")]
    ratios = {}
    for name, runs in sides.items():
        r, ratio = summary(seconds[name]), paired_ratio(seconds[peer_name], seconds[name])
        ratios[name] = ratio["median"]
        losses = ", ".join("not reached" if run["loss"] is None else f"{run['loss']:.3f}" for run in runs)
        steps = ", ".join(str(run["step"]) for run in runs)
        rows.append(
            (name, f"{r['median']:.1f}", f"{r['low']:.1f} to {r['high']:.1f}", steps, losses, f"{ratio['median']:.2f}")
        )
    headline = {f"{name}: times faster": value for name, value in ratios.items() if name != peer_name}
    publish("time_to_loss", {"headline": headline, "target": options.target, "runs": sides}, rows)


if __name__ == "__main__":
    main()
