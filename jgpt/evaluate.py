"""Scores of a run on its held-out data: exact likelihoods over whole splits, and answers through the sampler.

Owns the names and units of the scores: `TASK/nats_per_token`, `TASK/bits_per_byte`, `TASK/bits_per_dim`,
`TASK/exact_match`, and each source's baselines beside them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from jgpt import picture_scores, sharding
from jgpt.data.examples import QuestionAnswer
from jgpt.data.loader import eval_batches
from jgpt.loaded import GPT
from jgpt.loss import LossSums
from jgpt.model import gpt
from jgpt.sampling import Sampling
from jgpt.tasks.mixture import Mixture
from jgpt.tasks.qa import QATask

EvalStep = Callable[[gpt.Params, Any], LossSums]


@dataclass(frozen=True)
class Answered:
    """A held-out question with what the model said.

    Attributes:
        example: question and expected answer.
        answer: the model's.
        correct: whether it matches exactly.
    """

    example: QuestionAnswer
    answer: str
    correct: bool


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
        pending = []
        for batch in eval_batches(
            task_data.validation,
            batch_size=batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        ):
            pending.append(eval_step(params, sharding.shard_batch(batch, mesh)))
        sums = jax.device_get(pending)
        nats = math.fsum(float(s.nats) for s in sums)
        scores[f"{name}/nats_per_token"] = nats / math.fsum(float(s.weight) for s in sums)
        dimensions = [task_data.task.dimensions(example) for example in task_data.splits.validation]
        if task_data.task.score_name is not None and all(d is not None for d in dimensions):
            total = sum(d for d in dimensions if d is not None)
            scores[f"{name}/{task_data.task.score_name}"] = nats / math.log(2) / total
    return scores


def mean_loss(scores: dict[str, float]) -> float:
    """Return the mean of the tasks' nats per token, by which the best checkpoint is chosen."""
    losses = [value for name, value in scores.items() if name.endswith("/nats_per_token")]
    return sum(losses) / len(losses)


def answer_held_out(model: GPT, data: Mixture, max_questions: int | None) -> dict[str, list[Answered]]:
    """Return the model's greedy answers to the held-out questions of every QA task, by task.

    Args:
        model: to ask.
        data: the run's mixture.
        max_questions: questions a task; None = all.
    """
    answered = {}
    for name, task_data in data.tasks.items():
        if not isinstance(task_data.task, QATask):
            continue
        examples = list(task_data.splits.validation)[:max_questions]
        answers = model.complete(name, examples, sampling=Sampling(temperature=0.0)).values
        answered[name] = [
            Answered(example, answer, task_data.task.exact_match(answer, example))
            for example, answer in zip(examples, answers, strict=True)
        ]
    return answered


def final_scores(
    model: GPT,
    data: Mixture,
    eval_step: EvalStep,
    mesh: Mesh,
    batch_size: int,
    known: dict[str, float] | None = None,
) -> tuple[dict[str, float], dict[str, list[Answered]]]:
    """Return every score of the run, task by task, and the answers behind them.

    Arguments as in `likelihoods`; `known` are the likelihoods where they have been computed for these parameters.
    """
    scores = known or likelihoods(model.params, eval_step, data, mesh, batch_size)
    answered = answer_held_out(model, data, model.config.eval.max_questions)
    ordered = {}
    for name, task_data in data.tasks.items():
        ordered |= {key: value for key, value in scores.items() if key.startswith(f"{name}/")}
        if name in answered:
            ordered[f"{name}/exact_match"] = sum(a.correct for a in answered[name]) / len(answered[name])
        ordered |= picture_scores.code_error(name, task_data)
        ordered |= {f"{name}/{baseline}": value for baseline, value in task_data.splits.baselines.items()}
    return ordered, answered
