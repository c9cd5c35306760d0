"""Scores of a run on its held-out data: exact likelihoods over whole splits, and answers through the sampler.

Owns the names and units of the scores: `TASK/nats_per_token`, `TASK/perplexity`, `TASK/bits_per_byte`, `TASK/bits_per_dim`,
the same with `_sliding` where windows slide, `TASK/exact_match`, `TASK/f1`, `TASK/accuracy`,
`TASK/accuracy_length_normalised`, and each source's baselines beside them. What the last four mean is said in `grading` and
`choices`; with `_category_mean` every category of questions counts alike. `TASK/questions` counts the questions behind
them (`TASK/questions_held_out`: those they were drawn from), `TASK/left_out_*` held-out examples that cannot be used.
Bytes are those of the text as read, in UTF-8: of one with CRLF or a byte order mark the file has more (`TextTask.dimensions`).
"""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np
from jax.sharding import Mesh

from jgpt import distributed, grading, picture_scores, sharding
from jgpt.batch import Batch
from jgpt.check import counted, listed, require, unknown_name
from jgpt.choices import Choice
from jgpt.config import EvalConfig
from jgpt.data import sources
from jgpt.data.examples import QuestionAnswer, Splits
from jgpt.data.loader import eval_batches
from jgpt.data.packing import PackedRows
from jgpt.data.read_log import OtherKind
from jgpt.data.sliding import SlidingRows
from jgpt.loaded import GPT
from jgpt.loss import LossSums
from jgpt.model import gpt
from jgpt.pace import in_turn
from jgpt.questions import Answered, ask, drawn, judge
from jgpt.tasks import mixture
from jgpt.tasks.image import ImageTask
from jgpt.tasks.mixture import Mixture, TaskData
from jgpt.tasks.qa import QATask
from jgpt.tasks.text import TextTask

EvalStep = Callable[[gpt.Params, Any], LossSums]
WITH_PERPLEXITY: Final = ("text", "chat")  # kinds that are written freely


def likelihoods(
    params: gpt.Params, eval_step: EvalStep, data: Mixture, mesh: Mesh, batch_size: int
) -> dict[str, float]:
    """Return nats per token of every task, and bits per byte or dimension where the task counts them.

    Every held-out target is scored exactly once, the end of each document included, so that bits per byte and per
    dimension are the length of a complete code.

    Args:
        params: to evaluate.
        eval_step: from `step.compile_eval_step`.
        data: the run's mixture.
        mesh: of the params.
        batch_size: rows a batch, over all processes.
    """
    scores = {}
    for name, task_data in data.tasks.items():
        values = _likelihood(params, eval_step, task_data, task_data.validation, mesh, batch_size)
        scores |= {f"{name}/{score}": value for score, value in values.items()}
    return scores


def sliding_likelihoods(
    params: gpt.Params, eval_step: EvalStep, data: Mixture, mesh: Mesh, batch_size: int, stride: int
) -> dict[str, float]:
    """Return the likelihoods of texts in windows that move on by `stride` tokens, each with `_sliding` behind its name.

    Other arguments as in `likelihoods`; the windows are as long as the rows of the mixture.
    """
    scores = {}
    for name, task_data in data.tasks.items():
        if isinstance(task_data.task, TextTask):
            plain = task_data.validation
            rows = SlidingRows(plain.documents, plain.length, stride)
            values = _likelihood(params, eval_step, task_data, rows, mesh, batch_size)
            scores |= {f"{name}/{score}_sliding": value for score, value in values.items()}
    return scores


def _likelihood(
    params: gpt.Params, eval_step: EvalStep, task_data: TaskData, rows: PackedRows, mesh: Mesh, batch_size: int
) -> dict[str, float]:
    """Return the likelihoods of one task's held-out examples, packed as `rows`, without its name."""
    weights = []
    share = sharding.share_of_rows(mesh)

    def summed(batch: Batch) -> LossSums:
        weights.append(float(batch.weights_BS.sum()))
        return eval_step(params, sharding.shard_batch(batch, mesh))

    batches = eval_batches(rows, batch_size=batch_size, part=share.index, of_parts=share.count)
    sums = jax.device_get(in_turn(summed, batches, mesh.devices.flat[0].platform))
    require(
        share.count > 1 or np.allclose([s.weight for s in sums], weights, rtol=1e-5),
        "a step has scored other targets than its rows hold: it was compiled for fewer (`step.compile_eval_step`, limits).",
    )
    nats = math.fsum(float(s.nats) for s in sums)
    scores = {"nats_per_token": nats / math.fsum(float(s.weight) for s in sums)}
    if task_data.task.kind in WITH_PERPLEXITY:
        scores["perplexity"] = math.exp(min(scores["nats_per_token"], 700.0))  # beyond, a float has no room
    if task_data.task.score_name is not None and task_data.dimensions is not None:
        scores[task_data.task.score_name] = nats / math.log(2) / task_data.dimensions
    return scores


def mean_loss(scores: dict[str, float]) -> float:
    """Return the mean of the tasks' nats per token, by which the best checkpoint is chosen."""
    losses = [value for name, value in scores.items() if name.endswith("/nats_per_token")]
    return sum(losses) / len(losses)


def answer_held_out(
    model: GPT, data: Mixture, max_questions: int | None, *, batch_size: int
) -> dict[str, list[Answered]]:
    """Return the model's most probable answers to the held-out questions of every QA task, by task.

    Several processes each ask their share and know all answers in the end, so all must call it together.

    Args:
        model: to ask.
        data: the run's mixture.
        max_questions: questions a task, drawn by the run's seed; None = all.
        batch_size: rows a batch where choices are compared.
    """
    seed, answered = model.config.train.seed, {}
    for name, task_data in data.tasks.items():
        if isinstance(task_data.task, QATask):
            questions = drawn(task_data.splits.validation, max_questions, seed)
            mine = questions[jax.process_index() :: jax.process_count()]
            answered[name] = _of_all(questions, ask(model, name, mine, batch_size=batch_size))
    return answered


def _of_all(questions: Sequence[QuestionAnswer], mine: list[Answered]) -> list[Answered]:
    """Return the answers of all processes, each of which asked every so-many-th question."""
    if jax.process_count() == 1:
        return mine
    said = json.dumps([(item.answer, item.choice and dataclasses.astuple(item.choice)) for item in mine])
    out: list[Any] = [None] * len(questions)
    for process, theirs in enumerate(map(json.loads, distributed.gathered(said))):
        asked = questions[process :: jax.process_count()]
        out[process :: jax.process_count()] = [
            judge(question, answer, choice and Choice(*map(tuple, choice)))
            for question, (answer, choice) in zip(asked, theirs, strict=True)
        ]
    return out


def by_category(answered: dict[str, list[Answered]]) -> dict[str, dict[str, dict[str, float]]]:
    """Return task -> category -> scores and number of questions, of the tasks whose questions have categories."""
    tables = {
        name: grading.by_category([(item.example.category, item.scores) for item in items])
        for name, items in answered.items()
    }
    return {name: table for name, table in tables.items() if table}


def final_scores(
    params: gpt.Params,
    eval_step: EvalStep,
    data: Mixture,
    mesh: Mesh,
    batch_size: int,
    settings: EvalConfig,
    model: GPT | None,
    known: dict[str, float] | None = None,
) -> tuple[dict[str, float], dict[str, list[Answered]]]:
    """Return every score of the run, task by task, and the answers behind them.

    Args:
        params: on the mesh.
        eval_step: as in `likelihoods`.
        data: whose held-out splits are scored.
        mesh: of the parameters.
        batch_size: rows of each evaluation batch.
        settings: of the run.
        model: that answers questions, with its own copy of the parameters where there are several processes; None = no answers.
        known: the likelihoods, where they have been computed for these parameters.
    """
    scores = known or likelihoods(params, eval_step, data, mesh, batch_size)
    if settings.stride is not None:
        scores = scores | sliding_likelihoods(params, eval_step, data, mesh, batch_size, settings.stride)
    answered = {} if model is None else answer_held_out(model, data, settings.max_questions, batch_size=batch_size)
    tables = by_category(answered)
    ordered = {}
    for name, task_data in data.tasks.items():
        ordered |= {key: value for key, value in scores.items() if key.startswith(f"{name}/")}
        values = grading.means([item.scores for item in answered.get(name, [])])
        if len(tables.get(name, {})) > 1:
            overall = grading.means(list(tables[name].values()))
            values |= {f"{score}_category_mean": overall[score] for score in values if score in overall}
        ordered |= {f"{name}/{score}": value for score, value in values.items()}
        if name in answered:
            ordered[f"{name}/questions"] = float(len(answered[name]))
            if len(answered[name]) < len(task_data.splits.validation):
                ordered[f"{name}/questions_held_out"] = float(len(task_data.splits.validation))
        if distributed.is_first():  # which alone writes scores; it looks at every held-out picture
            ordered |= picture_scores.code_error(name, task_data)
        ordered |= {f"{name}/{reason}": float(count) for reason, count in task_data.left_out.items()}
        ordered |= {f"{name}/{baseline}": value for baseline, value in task_data.splits.baselines.items()}
    return ordered, answered


def from_path(model: GPT, path: str, name: str | None) -> Mixture:
    """Return everything at `path` as the held-out data of one task of a run; nothing of it is kept back for training.

    Args:
        model: of the run.
        path: file or folder, read as the task's data were.
        name: of the task; None where the run has a single one.

    Raises:
        ValueError: the task is unknown or must be named, or the data break a rule.
        FileNotFoundError: nothing is at `path`.
    """
    require(
        name is not None or len(model.tasks) == 1,
        f"this run has {len(model.tasks)} tasks ({', '.join(model.tasks)}): say which one reads {path!r}, with --task NAME.",
    )
    name = name or next(iter(model.tasks))
    if name not in model.tasks:
        raise ValueError(unknown_name("task of this run", name, model.tasks))
    task = model.tasks[name]
    config = model.config
    colour = isinstance(task, ImageTask) and len(task.shape) == 3 and config.data.image_mode == "auto"
    data = dataclasses.replace(config.data, image_mode="rgb") if colour else config.data  # grey ones lose nothing
    try:
        splits = sources.read_whole(path, task.kind, data)
    except OtherKind as error:
        kinds = ", ".join(f"{name} ({task.kind})" for name, task in model.tasks.items())
        raise ValueError(
            f"{error.what}, but the task {name!r} of this run is of kind {task.kind!r}: score another path, or have another "
            f"task read it with --task NAME; there are {kinds}."
        ) from None
    if isinstance(task, ImageTask) and not task.unconditional:
        splits = _with_captions(splits, path, task, skip=config.data.on_bad_record == "skip")
    options, length = config.task_configs()[name], model.model.context_length
    if options.categories:
        note = f"every category is scored, where the task trains on {listed(options.categories)} alone"
        splits = dataclasses.replace(splits, notes=(*splits.notes, note))
    return Mixture(
        model.tokenizer,
        {name: mixture.held_out(name, task, splits, length, options.on_long, config.data.on_bad_record)},
    )


def _with_captions(splits: Splits, path: str, task: ImageTask, *, skip: bool) -> Splits:
    """Return pictures, those without a caption with the name of their folder where that is a class of the run.

    Raises:
        ValueError: others have no caption and are not to be skipped, or all have none: the run saw no picture without.
    """
    where = Path(path).expanduser().absolute()
    folder = where.name if where.is_dir() else where.parent.name
    if not task.free and folder in task.captions:
        named = [
            picture if picture.caption else dataclasses.replace(picture, caption=folder)
            for picture in splits.validation
        ]
        return dataclasses.replace(splits, validation=named)
    bare = [picture for picture in splits.validation if not picture.caption]
    draws = f"draws classes ({', '.join(sorted(task.captions)[:10])})" if not task.free else "draws from captions"
    to_do = (
        "give them captions" if task.free else "put them into folders named after their class, or give them captions"
    )
    require(
        not bare or (skip and len(bare) < len(splits.validation)),
        f"{path!r} has {len(bare)} of {len(splits.validation)} pictures without a caption, such as "
        f"{bare[0].place if bare else ''}, and this run {draws}: {to_do}, or leave them out with --on-bad-record skip.",
    )
    kept = [picture for picture in splits.validation if picture.caption]
    notes = (f"left out, having no caption: {counted(len(bare), 'picture')}",) if bare else ()
    return dataclasses.replace(
        splits,
        validation=kept,
        notes=(*splits.notes, *notes),
        skipped=(*splits.skipped, *(f"{picture.place}: no caption" for picture in bare)),
    )
