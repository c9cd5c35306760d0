"""`jgpt VERB`: what is done with a run besides training and sampling.

Owns the verbs and their command lines; each verb's work stands in its own module. Imports no jax before parsing.
"""

import argparse
import json
import sys

from jgpt.entry import user_errors
from jgpt.runtime import configure


def evaluate_run(arguments: argparse.Namespace) -> None:
    """Score a run on its held-out data and print a table; with --json one object, last on stdout."""
    configure()
    import jax
    from rich.console import Console

    import jgpt
    from jgpt import evaluate, sharding, step
    from jgpt.config import MeshConfig
    from jgpt.report import score_table
    from jgpt.tasks import mixture

    model = jgpt.load(arguments.run, step=arguments.step)
    data = mixture.build(model.config)
    mesh = sharding.make_mesh(MeshConfig(data=1))
    eval_step = step.compile_eval_step(model.model, model.config.train, mesh)
    rows = model.config.eval.batch_size or model.config.train.batch_size
    scores, _ = evaluate.final_scores(model, data, eval_step, mesh, rows)
    table = Console(file=sys.stderr if arguments.json else sys.stdout, highlight=False)
    table.print(f"{arguments.run}, step {model.step}, on {jax.devices()[0].device_kind}")
    table.print(score_table(scores))
    if arguments.json:
        print(json.dumps({"run": arguments.run, "step": model.step, **scores}))


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    out = argparse.ArgumentParser("jgpt", description="Work with runs that train.py made.")
    verbs = out.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("evaluate", help="score a run on its held-out data")
    verb.add_argument("run", help="folder of the run, e.g. runs/trio")
    verb.add_argument(
        "--json", action="store_true", help="print one JSON object, last on stdout; the table goes to stderr"
    )
    verb.add_argument("--step", type=int, help="checkpoint to score (default: the newest)")
    verb.set_defaults(call=evaluate_run)
    return out


def main() -> None:
    """Run a verb."""
    arguments = parser().parse_args()
    with user_errors():
        arguments.call(arguments)


if __name__ == "__main__":
    main()
