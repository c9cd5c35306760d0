"""What a task uses of its data: its own categories, and captions and steps only where its config trains them.

Owns the notes on what is there and is not used. Refuses formats: what a source is, and how it is read, `jgpt.data` knows.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jgpt.check import counted, listed, require, unknown_name
from jgpt.config import Config, TaskConfig
from jgpt.data import sources
from jgpt.data.examples import Conversation, Picture, QuestionAnswer, Splits
from jgpt.tasks.image import ImageTask
from jgpt.tokenizers.image_learned import Learned, marks


def read_used(name: str, options: TaskConfig, config: Config) -> Splits:
    """Return the examples that a task uses, without what its config does not: captions of pictures, steps to answers.

    Args:
        name: of the task.
        options: of the task.
        config: of the run.

    Raises:
        ValueError: what was read breaks a rule, or the task asks for categories or captions that are not there.
        FileNotFoundError: a path or a prepared data set is missing.
    """
    splits = _of_categories(name, options, sources.read(options, config.data, config.train.seed))
    splits = _without_steps(name, options, splits)
    splits = replace(splits, notes=(*splits.notes, *_unanswered(splits)))
    if options.condition == "caption":
        return splits
    pictures = [[*part] for part in (splits.train, splits.validation)]
    require(
        all(isinstance(example, Picture) for part in pictures for example in part),
        f"data.tasks.{name}.condition is 'none', but its examples are no pictures: leave it at 'caption'.",
    )
    train, held = ([replace(example, caption="") for example in part] for part in pictures)
    return replace(splits, train=train, validation=held)


def _of_categories(name: str, options: TaskConfig, splits: Splits) -> Splits:
    """Return the examples of the categories that the config names, each on the side where the whole split has it."""
    if not options.categories:
        return splits

    def category(example: Any) -> str:
        return example.category if isinstance(example, QuestionAnswer) else ""

    found = {category(example) for part in (splits.train, splits.validation) for example in part} - {""}
    require(
        bool(found),
        f"data.tasks.{name}.categories is {options.categories}, but the examples have no categories: give the data a "
        "column of them, or leave it out.",
    )
    for wanted in options.categories:
        require(wanted in found, unknown_name(f"category in data.tasks.{name}.categories", wanted, found))
    before = splits.train, splits.validation
    train, held = ([example for example in part if category(example) in options.categories] for part in before)
    note = (
        f"of {len(options.categories)} of {len(found)} categories: {len(train):,} of {len(before[0]):,} examples to train, "
        f"{len(held):,} of {len(before[1]):,} held out"
    )
    return replace(splits, train=train, validation=held, notes=(*splits.notes, note))


def _without_steps(name: str, options: TaskConfig, splits: Splits) -> Splits:
    """Return the examples with their steps where the config trains those, else without them and with a note."""

    def has_steps(example: Any) -> bool:
        return isinstance(example, QuestionAnswer) and any(turn.steps for turn in (example, *example.more))

    def bare(example: Any) -> Any:
        return replace(example, steps=(), more=tuple(map(bare, example.more))) if has_steps(example) else example

    count = sum(map(has_steps, splits.train))
    if options.steps and any(isinstance(e, QuestionAnswer) and e.choices for e in splits.validation):
        note = "choices are compared without the steps, a form that answers with steps do not have in training"
        splits = replace(splits, notes=(*splits.notes, note))
    if options.steps or not (count or any(map(has_steps, splits.validation))):
        return splits
    train, held = ([bare(example) for example in part] for part in (splits.train, splits.validation))
    note = f"{count:,} of {len(train):,} answers have steps, which are not used: --data.tasks.{name}.steps trains them"
    return replace(splits, train=train, validation=held, notes=(*splits.notes, note))


def unknown_captions(task: Any, held_out: Sequence[Any]) -> tuple[str, ...]:
    """Return a note on held-out pictures of captions that training lacks, where there are some."""
    if not isinstance(task, ImageTask):
        return ()
    found = [example.caption for example in held_out if not task.knows(example.caption)]
    words = f"{counted(len(found), 'held-out picture')} of captions that training lacks, scored all the same: "
    return (words + listed(sorted(set(found)), 5),) if found else ()


def seen_by_code(task: Any, held_out: Sequence[Any]) -> tuple[str, ...]:
    """Return a note on held-out pictures that a learned image code was trained on, where there are some or none can tell."""
    code = task.vocabulary.image
    if not isinstance(code, Learned):
        return ()
    if code.fitted_to is None:
        return ("which pictures the learned image code was trained on is not known: those held out may be among them",)
    count = int(np.isin(marks(example.pixels for example in held_out), code.fitted_to).sum())
    words = (
        f"{count:,} of {counted(len(held_out), 'held-out picture')} are among those that the learned image code was trained "
        "on, so that scores of pictures flatter: give --train.seed and validation_fraction as `jgpt fit-image-tokenizer` said"
    )
    return (words,) if count else ()


def _unanswered(splits: Splits) -> tuple[str, ...]:
    """Return a note on conversations whose last turns are cut, where there are some."""
    count = sum(
        any(turn.role != "assistant" for turn in example.messages[-1:])
        for part in (splits.train, splits.validation)
        if len(part) and isinstance(part[0], Conversation)
        for example in part
    )
    words = f"{count:,} conversations end with turns that nobody answers: those train nothing, and are left out"
    return (words,) if count else ()
