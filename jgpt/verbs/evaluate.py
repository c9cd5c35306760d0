"""`jgpt evaluate RUN`: score a run on its held-out data. Imports no jax before the command line is parsed."""

import argparse
import json
import sys
from typing import Final

from jgpt.runtime import configure

HELP: Final = "score a run on its held-out data"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("run", help="folder of the run, e.g. runs/trio")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object, last on stdout; the table goes to stderr"
    )
    parser.add_argument("--step", type=int, help="checkpoint to score (default: the newest)")
    parser.add_argument(
        "--draw",
        type=int,
        metavar="N",
        help="draw N pictures of each class and count those that a small classifier takes for what they were drawn for",
    )


def run(arguments: argparse.Namespace) -> None:
    """Print a table of scores; with --json one object, last on stdout."""
    configure()
    import jax
    from rich.console import Console

    import jgpt
    from jgpt import evaluate, picture_scores, sharding, step
    from jgpt.config import MeshConfig
    from jgpt.report import score_table
    from jgpt.tasks import mixture

    model = jgpt.load(arguments.run, step=arguments.step)
    data = mixture.build(model.config)
    mesh = sharding.make_mesh(MeshConfig(data=1))
    eval_step = step.compile_eval_step(model.model, model.config.train, mesh)
    rows = model.config.eval.batch_size or model.config.train.batch_size
    scores, _ = evaluate.final_scores(model, data, eval_step, mesh, rows)
    if arguments.draw is not None:
        scores |= picture_scores.consistencies(model, data.tasks, per_class=arguments.draw)
    table = Console(file=sys.stderr if arguments.json else sys.stdout, highlight=False)
    table.print(f"{arguments.run}, step {model.step}, on {jax.devices()[0].device_kind}")
    table.print(score_table(scores))
    if arguments.json:
        print(json.dumps({"run": arguments.run, "step": model.step, **scores}))
