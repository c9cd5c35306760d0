"""`jgpt check-sampler RUN`: proof that the run's sampler is right in every mode. Imports no jax before parsing."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final

from jgpt.runtime import configure

HELP: Final = "prove on a checkpoint that cached = uncached = alone = streamed, and keep the proof beside the run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("run", help="folder of the run, e.g. runs/trio")
    parser.add_argument("--step", type=int, help="checkpoint to load (default: the newest)")
    parser.add_argument("--weights", choices=("int8",), help="load the weights so, in a quarter of the bytes")
    parser.add_argument("--cache", choices=("int8",), help="keep keys and values so, in a quarter of the bytes")
    parser.add_argument("--rows", type=int, default=6, help="prompts to compare (default %(default)s)")
    parser.add_argument("--new-tokens", type=int, default=48, help="tokens drawn behind each (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of prompts and samples (default %(default)s)")
    parser.add_argument("--bound", type=float, help="largest difference [nats] (default: by the type of compute)")


def run(arguments: argparse.Namespace) -> None:
    """Print a line a mode, write `RUN/sampler-STEP.json`, and leave with status 1 where one fails."""
    configure()
    import jgpt
    from jgpt.compiled import Programs
    from jgpt.sampler_check import check_sampler, programs_in_steady_state

    model = jgpt.load(arguments.run, step=arguments.step, weights=arguments.weights, cache=arguments.cache)
    sizes = {"rows": arguments.rows, "new_tokens": arguments.new_tokens, "seed": arguments.seed}
    with Programs() as programs:
        found = check_sampler(model, bound=arguments.bound, **sizes)
    steady = programs_in_steady_state(model, **sizes)
    print(f"{'mode':32} {'tokens':>7} {'other ids':>9} {'ties':>5} {'worst [nats]':>13} {'bound':>8}")
    for each in found:
        verdict = "ok" if each.passed else "FAILED"
        print(
            f"{each.mode:32} {each.tokens:7,} {each.other_ids:9} {each.ties:5} {each.worst:13.2e} {each.bound:8.1e}  {verdict}"
        )
    print(f"{programs}; {steady} more for other prompts of the same sizes")
    passed = all(each.passed for each in found) and steady == 0
    how = {name: getattr(arguments, name) for name in ("weights", "cache")}
    small = "".join(f"-{value}-{name}" for name, value in how.items() if value)
    path = Path(arguments.run) / f"sampler-{model.step}{small}.json"
    record = {"step": model.step, "passed": passed, "seed": arguments.seed, **how, "programs": programs.count,
              "programs_in_steady_state": steady, "modes": [asdict(each) for each in found]}  # fmt: skip
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    agree = "all modes agree" if all(each.passed for each in found) else "not all modes agree"
    print(f"{agree if steady == 0 else agree + ', and sizes seen before are compiled again'}: {path}")
    if not passed:
        sys.exit(1)
