"""What a run says about itself: at its start, while it trains, and at its end.

Owns the words and the files of the report; scores come from `evaluate`, pictures from `pictures`.
"""

import json
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from rich.table import Table
from rich.text import Text

from jgpt import gallery, grading, opening, pictures, runfolder, simulated
from jgpt.check import counted
from jgpt.config import Config, ModelConfig, TaskConfig
from jgpt.data.examples import Conversation, QuestionAnswer
from jgpt.evaluate import by_category
from jgpt.loaded import GPT
from jgpt.progress import console, say
from jgpt.questions import Answered
from jgpt.sampling import Sampling
from jgpt.tasks.chat import ChatTask
from jgpt.tasks.encoding import LEFT_OUT
from jgpt.tasks.image import ImageTask
from jgpt.tasks.mixture import Mixture, TaskData
from jgpt.tasks.qa import QATask
from jgpt.tasks.text import TextTask

TEXT_START = "The "  # what the text samples of reports go on from
FINAL_TEXT_TOKENS = 300
COUNTS = (*LEFT_OUT, "questions", "questions_held_out")
SHARES = ("exact_match", "f1", "accuracy", "classifier_accuracy", "class_consistency")  # printed in per cent
NUMBER = "distributed.process-id"
IN_PYTHON = "CONFIG"  # instead of a config's path: the run was started from Python
PLACE = ("distributed.coordinator", "distributed.num-processes", NUMBER)
DRAWN_AT_MOST = 80  # pictures of the final report
SHOWN_CONTEXT = 160  # characters of a question's context
REPORT_SAMPLING = Sampling(temperature=0.8, top_p=0.95)
PICTURE_SAMPLING = Sampling(temperature=1.0)  # the model's own distribution: no flattering


def command(config_path: str, *extra: str) -> str:
    """Return the command that trains on, with the overrides the user gave; of a run started from Python, in words."""
    if config_path == IN_PYTHON:
        return " ".join(["jgpt.train with the same config", *(["and", *extra] if extra else [])])
    return f"{_program()} {shlex.join([*_given_again(config_path), *extra])}"


def continue_command(config: Config, config_path: str) -> str:
    """Return the command that goes on with a complete run for as many steps again."""
    if config_path == IN_PYTHON:
        return f"jgpt.train with train.steps={2 * config.train.steps} and run.on_existing='extend'"
    extra = ["--train.steps", str(2 * config.train.steps), "--run.on-existing", "extend"]
    return f"{_program()} {shlex.join([*_given_again(config_path, 'train.steps'), *extra])}"


def _given_again(config_path: str, *dropped: str) -> list[str]:
    """Return the arguments of this run for the next: overwriting again would lose it, and each process has its own number.

    A process that `jgpt simulate` started gets its place from there.
    """
    given = [argument for argument in sys.argv[1:] if argument != config_path]
    simulates = simulated.COMMAND in os.environ
    kept = _without(given, "run.on-existing", *dropped, *(PLACE if simulates else (NUMBER,)))
    numbered = not simulates and _without(given, NUMBER) != given
    return [config_path, *kept, *([f"--{NUMBER}", "I"] if numbered else [])]


def _without(arguments: list[str], *fields: str) -> list[str]:
    """Return arguments without those that set one of `fields`, such as "run.on-existing"."""
    flags, kept, skip = tuple(f"--{field}" for field in fields), [], False
    for argument in arguments:
        name = argument.split("=", 1)[0].replace("_", "-")
        if skip:
            skip = False
        elif name in flags:
            skip = "=" not in argument
        else:
            kept.append(argument)
    return kept


def _program() -> str:
    """Return what started this run: `train.py`, or what started that."""
    return os.environ.get(simulated.COMMAND, "python train.py")


def complete_message(config: Config, config_path: str) -> str:
    """Return what to say of a run that needs no more training."""
    return (
        f"{config.run.dir} is complete: {config.train.steps} steps are done.\n"
        f"  sample:     python sample.py {config.run.dir} --help\n"
        f"  scores:     jgpt evaluate {config.run.dir}\n"
        f"  go on:      {continue_command(config, config_path)}\n"
        f"  start over: {command(config_path, '--run.on-existing', 'overwrite')}"
    )


def _of_share(options: TaskConfig, data: TaskData) -> str:
    """Return what share of the examples is wanted held out where the source brings no split."""
    wanted = f" (no split is given: validation_fraction {options.validation_fraction:g})"
    return wanted if data.splits.own_share else ""


def describe(config: Config, data: Mixture, model: ModelConfig, mesh: Mesh, params: Any) -> Iterator[str | Text]:
    """Yield the lines that open a run: tasks with their first example as the model sees it, model, devices."""
    tasks = config.task_configs()
    weights = {name: task.weight for name, task in tasks.items()}
    for name, task_data in data.tasks.items():
        share = weights[name] / sum(weights.values())
        since = f" from step {round(tasks[name].start * config.train.steps):,} on" if tasks[name].start else ""
        tokens = sum(len(document.tokens) for document in task_data.train.documents)
        yield (
            f"  {name}: {counted(len(task_data.splits.train), 'example')}, {tokens:,} tokens, "
            f"{counted(len(task_data.train), 'row')} ({task_data.train.fill():.1%} full), {share:.0%} of the rows"
            f"{since}; held out {len(task_data.splits.validation):,}{_of_share(tasks[name], task_data)}"
        )
        yield from opening.lines(task_data, data.vocabulary, terminal=console.is_terminal)
        if task_data.splits.skipped:
            yield f"{opening.INDENT}every record that was skipped: {runfolder.RunFolder(Path(config.run.dir)).skipped}"
    vocabulary = data.vocabulary
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
    yield (
        f"  vocabulary: {vocabulary.size} ids ({vocabulary.text.size} {vocabulary.text_name}, "
        f"{len(vocabulary.image_ids)} image, {vocabulary.text_ids.start} special)"
    )
    shape = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1) or "one device"
    attention = model.attention if mesh.shape["context"] == 1 else "over mesh.context"
    experts = f", {model.experts_per_token} of {model.num_experts} experts a token" if model.num_experts else ""
    loops = f", run {model.loops} times" if model.loops > 1 else ""
    yield (
        f"  model: {count:,} parameters, {model.num_layers} layer{'s' * (model.num_layers > 1)} of width {model.embed_dim}"
        f"{loops}, context {model.context_length}, {model.compute_dtype}, attention {attention}{experts}"
    )
    yield f"  devices: {mesh.devices.size} x {mesh.devices.flat[0].device_kind} (mesh {shape})"


def samples_while_training(model: GPT, data: Mixture) -> dict[str, Any]:
    """Return one short sample a task: text and answers as strings, pictures as grids."""
    out: dict[str, Any] = {}
    for name, task_data in data.tasks.items():
        task = task_data.task
        if isinstance(task, QATask):
            example = task_data.splits.validation[0]
            (got,) = model.reply(name, [example])
            out[name] = f"{_asked(example)} -> {got!r} (expected {example.answer!r})"
        elif isinstance(task, ChatTask):
            out[name] = _dialogue(model, name, task_data.splits.validation[0])
        elif isinstance(task, ImageTask):
            wanted = gallery.captions_to_draw(task_data, pictures.GRID_COLUMNS)
            out[name] = pictures.grid([model.complete(name, wanted, sampling=PICTURE_SAMPLING).values])
        else:
            new = min(80, model.model.context_length - 8)
            text = model.complete(name, [_start(model)], sampling=REPORT_SAMPLING, max_new_tokens=new).values[0]
            out[name] = repr(_start(model) + text)
    return out


def _start(model: GPT) -> str:
    """Return the beginning of the text samples, nothing where the tokenizer cannot express it."""
    try:
        model.tokenizer.encode_text(TEXT_START)
    except ValueError:
        return ""
    return TEXT_START


def score_table(scores: dict[str, float]) -> Table:
    """Return scores as a table: one row a score, baselines below the score they belong to."""
    table = Table("task", "score", "value", box=None, pad_edge=False)
    for name, value in scores.items():
        task, score = name.split("/", 1)
        table.add_row(task, score, _shown(score, value))
    return table


def category_table(task: str, categories: dict[str, dict[str, float]]) -> Table:
    """Return the scores of one task's categories: one row each, and their mean where there are several."""
    scores = [score for score in grading.means(list(categories.values())) if score != "questions"]
    headers = (score.replace("_", " ") for score in scores)  # narrow terminals break them there
    table = Table(task, "questions", *headers, box=None, pad_edge=False)
    for name, values in categories.items():
        cells = [_shown(score, values[score]) if score in values else "" for score in scores]
        table.add_row(name, f"{values['questions']:,}", *cells)
    if len(categories) > 1:
        mean, total = grading.means(list(categories.values())), sum(c["questions"] for c in categories.values())
        row = [f"mean of {len(categories)}", f"{total:,}", *(_shown(score, mean[score]) for score in scores)]
        table.add_row(*row, style="bold")
    return table


def _shown(score: str, value: float) -> str:
    """Return a score as it is printed: shares of questions in percent."""
    if score in COUNTS:
        return f"{value:,.0f}"
    return f"{value:.1%}" if score.startswith(SHARES) else f"{value:.4f}"


def finish(
    config: Config,
    data: Mixture,
    scores: dict[str, float],
    answered: dict[str, list[Answered]],
    folder: runfolder.RunFolder,
    config_path: str,
    model: GPT | None,
) -> None:
    """Print the report, write plots and report.json; without samples where there is no `model` for them."""
    console.print(score_table(scores))
    tables = by_category(answered)
    for name, categories in tables.items():
        console.print()
        console.print(category_table(name, categories))
    if model is not None:
        _show_samples(model, data, folder)
    shown = _five(answered)
    if shown:
        say("\nheld-out questions:")
        for item in shown:
            mark = "right" if item.correct else f"wrong, expected {item.example.answer!r}"
            say(f"  {_asked(item.example)}  ->  {item.answer!r}  {mark}")
    records = runfolder.read_metrics(folder.metrics)
    plot = pictures.loss_plot(folder.plots / "loss.png", records, config.run.dir)
    say(f"\nloss plot: {plot}")
    temporary = folder.report.with_suffix(".tmp")
    temporary.write_text(
        json.dumps({"step": config.train.steps, "scores": scores, "by_category": tables}, indent=1) + "\n"
    )
    temporary.replace(folder.report)
    say(f"sample:   python sample.py {config.run.dir} --help")
    say(f"go on:    {continue_command(config, config_path)}")


def _show_samples(model: GPT, data: Mixture, folder: runfolder.RunFolder) -> None:
    """Show a text, pictures or a dialogue of each task."""
    for name, task_data in data.tasks.items():
        task = task_data.task
        if isinstance(task, TextTask):
            start = _start(model)
            new = max(1, min(FINAL_TEXT_TOKENS, model.model.context_length - len(task.prompt(start).tokens)))
            text = model.complete(name, [start], sampling=REPORT_SAMPLING, max_new_tokens=new).values[0]
            say(f"\n{name}, written from {start!r}:\n{start}{text}")
        elif isinstance(task, ImageTask):
            say(f"\n{name}, drawn, nearest in training, held out: {_gallery(model, data, name, folder)}")
        elif isinstance(task, ChatTask):
            say(f"\n{name}, held out: {_dialogue(model, name, task_data.splits.validation[0])}")


def _asked(example: QuestionAnswer) -> str:
    """Return a question on one line, the end of its context before it and its choices behind it."""
    context = " ".join(example.context.split())
    parts = [f"...{context[-SHOWN_CONTEXT:]}" if len(context) > SHOWN_CONTEXT else context, example.question.strip()]
    if example.choices:
        parts.append(f"({' | '.join(example.choices)})")
    return " ".join(part for part in parts if part)


def _dialogue(model: GPT, name: str, example: Conversation) -> str:
    """Return the last turn of a user in a held-out conversation that was answered, and what the model says to it."""
    task = model.tasks[name]
    system = isinstance(task, ChatTask) and task.system_seen
    turns = [turn for turn in example.messages if system or turn.role != "system"]
    answered = (i for i, turn in enumerate(turns[1:]) if (turns[i].role, turn.role) == ("user", "assistant"))
    last = max(answered, default=None)
    if last is None:
        return "(no turn of the assistant follows one of a user)"
    (got,) = model.reply(name, [turns[: last + 1]])
    return f"{turns[last].content!r} -> {got!r} (expected {turns[last + 1].content!r})"


def _five(answered: dict[str, list[Answered]]) -> list[Answered]:
    """Return five answered questions, taken from the tasks in turn."""
    shown, at = [], 0
    while len(shown) < 5 and any(at < len(answers) for answers in answered.values()):
        for answers in answered.values():
            if at < len(answers) and all(answers[at].example != item.example for item in shown):  # tasks may share some
                shown.append(answers[at])
        at += 1
    return shown[:5]


def _gallery(model: GPT, data: Mixture, name: str, folder: runfolder.RunFolder) -> str:
    """Write drawings beside their nearest training pictures and held-out ones; return the path and what distances say."""
    captions = gallery.captions_to_draw(data.tasks[name], gallery.MAX_ROWS)
    n = max(1, min(pictures.GRID_COLUMNS, DRAWN_AT_MOST // len(captions)))
    drawn = gallery.draw(model, name, data.tasks[name], captions, n=n)
    path = folder.plots / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.sheet().save(path)
    return f"{path}\n  {drawn.words()}"
