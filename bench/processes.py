"""What several processes cost: steps per second of two processes of one device against one process of two, on the same cores.

    python bench/processes.py

Both train the same rows by `jgpt simulate`'s processes, in turns; the rate is the median of what metrics.jsonl says after the
first steps, which compile. Two processes have as many threads as there are cores for each, one process has all.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path

from harness import BENCH, alternate, arguments, paired_ratio, publish, summary

sys.path.insert(0, str(BENCH.parent))

from jgpt.simulated import Simulation

CARD = str(BENCH.parent / "configs" / "trio.py")
COMPILING = 10  # steps
STEPS = 60
OPTIONS = (
    f"--train.steps {STEPS} --train.log-every-steps 5 --eval.every-steps {STEPS} --checkpoint.every-steps {STEPS} "
    "--eval.max-questions 8 --optim.warmup-steps 5 --mesh.data 2"
)


def steps_per_second(processes: int, devices: int) -> float:
    """Return the rate of a run in so many processes of so many devices each."""
    with tempfile.TemporaryDirectory() as folder:
        run, said = Path(folder) / "run", []
        with Simulation([CARD, *OPTIONS.split(), "--run.dir", str(run)], processes, devices, said.append) as simulation:
            if simulation.wait(60):
                raise SystemExit("\n".join(said))
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        config = json.loads((run / "config.json").read_text())
    tokens = config["train"]["batch_size"] * config["model"]["context_length"]
    rates = [r["tokens_per_second"] / tokens for r in records if "tokens_per_second" in r and r["step"] > COMPILING]
    return statistics.median(rates)


def main() -> None:
    """Measure and write the table."""
    options = arguments(__doc__ or "")
    turns = {
        "2 processes x 1 device": lambda: steps_per_second(2, 1),
        "1 process x 2 devices": lambda: steps_per_second(1, 2),
    }
    measured = alternate(turns, options.rounds)
    ratio = paired_ratio(*measured.values())
    results = {name: summary(values) for name, values in measured.items()}
    rows = [("what", "steps/s", "quartiles")]
    rows += [(name, f"{r['median']:.2f}", f"{r['low']:.2f} to {r['high']:.2f}") for name, r in results.items()]
    rows.append(("two processes against one", f"{ratio['median']:.2f}", f"{ratio['low']:.2f} to {ratio['high']:.2f}"))
    publish("processes", {"headline": {"ratio": ratio["median"]}, "measured": results, "ratio": ratio}, rows)


if __name__ == "__main__":
    main()
