"""How long a user waits before the first step: help, cold start, second start, and compilation by depth.

    python bench/start.py

Cold: nothing compiled is kept (files are in the page cache); second: the same command again. The first step counts as
taken when its loss stands in metrics.jsonl; the process is ended there.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import BENCH, Worker, alternate, arguments, kind_of_machine, publish, summary, without

ROOT = BENCH.parent
DEPTHS = (4, 12, 24)


def help_seconds() -> float:
    """Return the seconds of `train.py --help`."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, str(ROOT / "train.py"), "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def first_step_seconds(cache: Path) -> float:
    """Return the seconds from the start of train.py on configs/trio.py until the loss of its first step is written."""
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "run" / "metrics.jsonl"
        command = [
            sys.executable,
            str(ROOT / "train.py"),
            str(ROOT / "configs" / "trio.py"),
            "--run.dir",
            f"{folder}/run",
        ]
        begun = time.perf_counter()
        process = subprocess.Popen(
            command,
            env={**without(os.environ, "JAX_COMPILATION_CACHE_DIR"), "XDG_CACHE_HOME": str(cache)},
            stdout=subprocess.DEVNULL,
            cwd=folder,
        )
        try:
            while process.poll() is None:
                if metrics.is_file() and any("loss" in json.loads(line) for line in metrics.read_text().splitlines()):
                    return time.perf_counter() - begun
                time.sleep(0.02)
        finally:
            process.kill()
            process.wait()
    raise SystemExit("train.py ended before its first step: run it to see why")


def main() -> None:
    """Measure and write the table."""
    options = arguments(__doc__ or "")
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"

        def cold() -> float:
            shutil.rmtree(cache, ignore_errors=True)
            return first_step_seconds(cache)

        turns = {"help": help_seconds, "trio, cold": cold, "trio, second start": lambda: first_step_seconds(cache)}
        measured = alternate(turns, options.rounds)
    with Worker("compile_side.py", {"depths": DEPTHS}) as side:
        device = side.call("about")
        depth = {}
        for layers in DEPTHS:
            for scan in (False, True):
                name = f"compile {layers} layers{', scanned' if scan else ''}"
                depth[name] = [side.call("compile", layers=layers, scan=scan) for _ in range(3)]
    results = {name: summary(values) for name, values in (measured | depth).items()}
    rows = [("what", "seconds", "quartiles")]
    rows += [(name, f"{r['median']:.2f}", f"{r['low']:.2f} to {r['high']:.2f}") for name, r in results.items()]
    ratio = summary([a / b for a, b in zip(measured["trio, second start"], measured["trio, cold"], strict=True)])
    rows.append(("second start against cold", f"{ratio['median']:.2f}", f"{ratio['low']:.2f} to {ratio['high']:.2f}"))
    headline = {name: r["median"] for name, r in results.items()} | {"second against cold": ratio["median"]}
    on = None if device["platform"] == "cpu" else device["device"]
    publish("start", {"headline": headline, "seconds": results, "kind": kind_of_machine(on)}, rows, on)


if __name__ == "__main__":
    main()
