"""`jgpt evaluate RUN`: score a run on its held-out data. Imports no jax before the command line is parsed."""

import argparse
import dataclasses
import json
import sys
from typing import Final

from jgpt.check import require
from jgpt.config import DataConfig, EvalConfig, MeshConfig
from jgpt.runtime import configure

HELP: Final = "score a run on its held-out data"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("run", help="folder of the run, e.g. runs/trio")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object, last on stdout; the table goes to stderr"
    )
    parser.add_argument("--step", type=int, help="checkpoint to score (default: the newest)")
    parser.add_argument("--weights", choices=("int8",), help="load the weights so, in a quarter of the bytes")
    parser.add_argument(
        "--draw",
        type=int,
        metavar="N",
        help="draw N pictures of each class and count those that a small classifier takes for what they were drawn for",
    )
    parser.add_argument(
        "--stride", type=int, help="score texts also in windows of the whole context that move on by this many tokens"
    )
    parser.add_argument(
        "--all-questions",
        action="store_true",
        help="answer every held-out question, where the run answered eval.max_questions of a task",
    )
    parser.add_argument("--path", help="score this file or folder instead, all of it, as one task's held-out data")
    parser.add_argument("--task", help="task that reads --path (default: the run's only one)")
    parser.add_argument(
        *("--on-bad-record", "--data.on-bad-record"),
        choices=("error", "skip"),
        help="what to do with bad records of --path (default: as in the run)",
    )
    parser.add_argument(
        *("--columns", "--data.columns"),
        nargs="+",
        metavar="NAME",
        help="columns of --path in pairs, ours and yours: --columns question FRAGE answer ANTWORT (default: as in the run)",
    )


def chosen(settings: EvalConfig, arguments: argparse.Namespace) -> EvalConfig:
    """Return how a run is scored, with what the command line says otherwise."""
    if arguments.stride is not None:
        settings = dataclasses.replace(settings, stride=arguments.stride)
    return dataclasses.replace(settings, max_questions=None) if arguments.all_questions else settings


def reading(data: DataConfig, arguments: argparse.Namespace) -> DataConfig:
    """Return how --path is read, with what the command line says otherwise.

    Raises:
        ValueError: it says so without --path, or names a column without its pair.
    """
    columns = arguments.columns or []
    require(
        arguments.path is not None or (arguments.on_bad_record is None and not columns),
        "--on-bad-record and --columns are for the records of --path: give --path as well.",
    )
    require(len(columns) % 2 == 0, f"--columns has {len(columns)} names: give pairs, ours and yours.")
    if columns:
        data = dataclasses.replace(data, columns=dict(zip(columns[::2], columns[1::2], strict=True)))
    return data if arguments.on_bad_record is None else dataclasses.replace(data, on_bad_record=arguments.on_bad_record)


def run(arguments: argparse.Namespace) -> None:
    """Print a table of scores; with --json one object, last on stdout."""
    require(
        arguments.path is not None or arguments.task is None,
        f"--task {arguments.task!r} says which task reads --path: give --path as well.",
    )
    require(
        arguments.path is None or arguments.draw is None,
        f"--draw {arguments.draw} judges drawings by a classifier of the run's own training pictures, and --path has none: "
        "give one of them.",
    )
    configure()
    import jax
    from rich.console import Console

    import jgpt
    from jgpt import evaluate, picture_scores, sharding, step
    from jgpt.report import category_table, score_table
    from jgpt.tasks import mixture

    model = jgpt.load(arguments.run, step=arguments.step, weights=arguments.weights)
    settings = chosen(model.config.eval, arguments)
    config = dataclasses.replace(model.config, eval=settings, data=reading(model.config.data, arguments))
    model = dataclasses.replace(model, config=config)
    if arguments.path is not None:
        data = evaluate.from_path(model, arguments.path, arguments.task)
        for task in data.tasks.values():
            print(f"{arguments.path}: {task.splits.recognised}", *task.splits.notes, sep="\n  ", file=sys.stderr)
    else:
        data = mixture.build(model.config)
    require(
        arguments.stride is None or any(task.task.kind == "text" for task in data.tasks.values()),
        f"--stride {arguments.stride} scores texts in sliding windows, and there are none here: leave it out.",
    )
    mesh = sharding.make_mesh(MeshConfig(data=1))
    eval_step = step.compile_eval_step(model.model, model.config.train, mesh, data.held_out_limits())
    rows = model.config.eval.batch_size or model.config.train.batch_size
    scores, answered = evaluate.final_scores(model.params, eval_step, data, mesh, rows, model.config.eval, model)
    if arguments.draw is not None:
        scores |= picture_scores.consistencies(model, data.tasks, per_class=arguments.draw)
    table = Console(file=sys.stderr if arguments.json else sys.stdout, highlight=False)
    how = f", weights {arguments.weights}" if arguments.weights else ""
    table.print(f"{arguments.run}, step {model.step}{how}, on {jax.devices()[0].device_kind}")
    table.print(score_table(scores))
    tables = evaluate.by_category(answered)
    for name, categories in tables.items():
        table.print(category_table(name, categories))
    if arguments.json:
        about = {"run": arguments.run, "step": model.step, "weights": arguments.weights}
        print(json.dumps({**about, **scores, "by_category": tables}))
