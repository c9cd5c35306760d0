"""Faults: a random process of several is killed again and again; do the others end, and does the run resume exactly?

    python bench/kills.py --times 20

A small trio run in two processes is killed `--times` times at random moments, in steps, in saves and in validations, and
each time started again by the same command. A clean end: the other process names the dead one and ends with status 75
within the heartbeat and 4 s. Exact: once the run is complete, every logged loss and every parameter equals that of a run
that nobody killed.
"""

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import BENCH, publish, say, summary

sys.path.insert(0, str(BENCH.parent))

from jgpt.heartbeat import LOST
from jgpt.simulated import Simulation

CARD = str(BENCH.parent / "configs" / "trio.py")
SMALL = "--model.num-layers 1 --model.embed-dim 32 --model.num-heads 2 --model.ngram-rows 64 --optim.warmup-steps 2"
OFTEN = "--train.log-every-steps 1 --checkpoint.every-steps 3 --eval.max-questions 8"
MARGIN = 4.0  # seconds beyond the heartbeat


def losses(run: Path) -> dict[int, float]:
    """Return step -> loss of what a run has logged."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    records = []
    for line in lines:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # half-written
    return {record["step"]: record["loss"] for record in records if "loss" in record}


def main() -> None:
    """Kill, resume, compare, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20, help="kills")
    parser.add_argument("--steps-between", type=int, default=3, help="steps from one kill to the next, about")
    parser.add_argument("--heartbeat", type=int, default=20, help="seconds")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims")
    options = parser.parse_args()
    steps = options.steps_between * (options.times + 2)
    words = [CARD, *SMALL.split(), *OFTEN.split(), "--train.steps", str(steps), "--eval.every-steps", str(steps // 4)]
    words += ["--distributed.heartbeat-seconds", str(options.heartbeat)]
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, broken = Path(folder) / "whole", Path(folder) / "broken"
        say("the run that nobody kills")
        finish([*words, "--run.dir", str(whole)])
        ends = []
        for at in range(options.times):
            ends.append(
                kill(
                    [*words, "--run.dir", str(broken)], broken, (at + 1) * options.steps_between, rng, options.heartbeat
                )
            )
            say(f"kill {at + 1} of {options.times}: {ends[-1]}")
        say("the end of the run that was killed")
        finish([*words, "--run.dir", str(broken)])
        same_losses = losses(whole) == losses(broken) and len(losses(whole)) == steps
        same_parameters = equal_parameters(whole, broken)
    clean = sum(end["clean"] for end in ends)
    seconds = summary([end["seconds"] for end in ends])
    rows = [
        ("what", "result"),
        ("kills", str(len(ends))),
        ("clean ends", str(clean)),
        (
            "seconds until the other process had ended",
            f"{seconds['median']:.1f}, at most {max(e['seconds'] for e in ends):.1f}",
        ),
        (f"losses of {steps} steps equal those of the unbroken run", "all" if same_losses else "NO"),
        ("parameters equal to the bit", "all" if same_parameters else "NO"),
    ]
    results: dict[str, Any] = {"headline": {"clean_ends": clean, "exact": float(same_losses and same_parameters)}}
    publish("kills", results | {"ends": ends, "heartbeat": options.heartbeat, "steps": steps}, rows)
    if clean < len(ends) or not (same_losses and same_parameters):
        raise SystemExit(1)


def finish(words: list[str]) -> None:
    """Run two processes to the end."""
    said: list[str] = []
    with Simulation(words, 2, 1, said.append) as simulation:
        status = simulation.wait(60)
    if status:
        raise SystemExit("\n".join([*said, f"the run ended with status {status}"]))


def kill(words: list[str], run: Path, step: int, rng: random.Random, heartbeat: float) -> dict[str, Any]:
    """Kill one of two processes when `step` is reached, and return how the other one ended."""
    said: list[str] = []
    victim, before = rng.randrange(2), inode(run)
    with Simulation(words, 2, 1, said.append) as simulation:
        # the file is replaced once the run goes on: what the life before has logged behind its checkpoint does not count
        while inode(run) == before or max(losses(run), default=0) < step:
            if any(child.process.poll() is not None for child in simulation.children):
                raise SystemExit("\n".join([*said, "the run ended before it could be killed"]))
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.5))
        simulation.children[victim].process.send_signal(signal.SIGKILL)
        killed_at = time.monotonic()
        simulation.wait(3 * heartbeat)
        seconds = time.monotonic() - killed_at
        status = simulation.children[1 - victim].process.returncode
    named = any(f"error: process {victim}" in line for line in said)
    clean = status == LOST and named and seconds <= heartbeat + MARGIN
    return {
        "victim": victim,
        "step": step,
        "status": status,
        "named": named,
        "seconds": round(seconds, 2),
        "clean": clean,
    }


def inode(run: Path) -> int | None:
    """Return which file the metrics of a run are, None where there is none yet."""
    path = run / "metrics.jsonl"
    return path.stat().st_ino if path.is_file() else None


def equal_parameters(one: Path, other: Path) -> bool:
    """Return whether two runs ended with the same parameters, to the bit."""
    import jax
    import numpy as np

    import jgpt

    pairs = zip(*(jax.tree.leaves(jgpt.load(run).params) for run in (one, other)), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


if __name__ == "__main__":
    main()
