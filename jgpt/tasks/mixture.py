"""The mixture of a run: sources read, vocabulary built, tasks fitted, examples encoded and packed.

Owns `TASKS` and what is saved of vocabulary and tasks with a run, so that sampling never reads training data again.
"""

import itertools
import json
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from jgpt.batch import Document, RowLimits
from jgpt.check import require, unknown_name
from jgpt.config import Config, DataConfig, PictureGrid, TaskConfig, TokenizerConfig
from jgpt.data.augment import changes
from jgpt.data.examples import Conversation, Picture, QuestionAnswer, Splits
from jgpt.data.packing import PackedRows, pack
from jgpt.tasks.chat import ChatTask
from jgpt.tasks.encoding import encode_split
from jgpt.tasks.image import ImageTask
from jgpt.tasks.qa import QATask
from jgpt.tasks.task import Task
from jgpt.tasks.text import TextTask
from jgpt.tasks.used import read_used, seen_by_code, unknown_captions
from jgpt.tokenizers.image import make_code
from jgpt.tokenizers.text import tokenizer_class
from jgpt.tokenizers.vocabulary import Vocabulary

TASKS: Final[dict[str, type[Task]]] = {"text": TextTask, "qa": QATask, "chat": ChatTask, "image": ImageTask}


@dataclass(frozen=True)
class TaskData:
    """One task of a run with its data.

    Attributes:
        task: encodes, prompts and decodes.
        splits: the examples.
        train: packed training rows.
        validation: packed held-out rows; every held-out target appears once.
        dimensions: bytes, or pixels times channels, of all held-out examples (`Task.dimensions`); None where one has none.
        left_out: reason -> held-out examples that cannot be used for it, see `Encoded.left_out`.
    """

    task: Task
    splits: Splits
    train: PackedRows
    validation: PackedRows
    dimensions: int | None
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Mixture:
    """Everything that a run reads: one vocabulary, and the tasks by name."""

    vocabulary: Vocabulary
    tasks: dict[str, TaskData]

    def ids_for_model(self) -> dict[str, Any]:
        """Return the arguments of `gpt.resolve` that say which ids there are."""
        return ids_for_model(self.vocabulary, {name: data.task for name, data in self.tasks.items()})

    def limits(self) -> RowLimits:
        """Return what a training row of any task holds at most."""
        rows = [data.train for data in self.tasks.values()]
        return RowLimits(max(of.max_documents() for of in rows), max(of.max_targets() for of in rows))

    def held_out_limits(self) -> RowLimits:
        """Return what a held-out row of any task holds at most, however its documents are laid into rows."""
        return RowLimits(targets=max(data.validation.max_targets() for data in self.tasks.values()))


def build(config: Config) -> Mixture:
    """Read, encode and pack everything that `config` trains on.

    Raises:
        ValueError: a source is empty, too short or broken, or an example does not fit the context.
        FileNotFoundError: a path or a prepared data set is missing.
    """
    configs = config.task_configs()
    require(bool(configs), "data.tasks is empty: give the config at least one task.")
    _same_split(configs)
    splits = {name: read_used(name, task, config) for name, task in configs.items()}
    vocabulary = make_vocabulary(config.tokenizer, list(splits.values()), config.train.seed)
    tasks = {name: _task_data(name, task, config, vocabulary, splits[name]) for name, task in configs.items()}
    require(
        not changes(config.data.augment) or any(isinstance(data.task, ImageTask) for data in tasks.values()),
        f"data.augment is {config.data.augment}, but no task of the config has pictures: leave it at its default.",
    )
    _refuse_unused(config, {data.task.kind for data in tasks.values()})
    return Mixture(vocabulary, tasks)


def _same_split(tasks: Mapping[str, TaskConfig]) -> None:
    """Refuse tasks that hold out different shares of one source: one would train on what the other scores. ValueError."""
    first: dict[str, tuple[str, TaskConfig]] = {}
    for name, task in tasks.items():
        source = task.path or task.source
        place = str(Path(task.path).expanduser().resolve()) if task.path else task.source
        other, known = first.setdefault(place, (name, task))
        require(
            task.validation_fraction == known.validation_fraction,
            f"data.tasks.{other} and data.tasks.{name} read {source!r} with validation_fraction "
            f"{known.validation_fraction} and {task.validation_fraction}: one would train on what the other scores; give both "
            "the same.",
        )


def _refuse_unused(config: Config, kinds: Collection[str]) -> None:
    """Refuse what the user set for kinds of tasks that the run has none of. Raises ValueError."""
    require(
        config.eval.stride is None or "text" in kinds,
        f"eval.stride is {config.eval.stride}, but no task of the run has text, which alone is scored in sliding windows: "
        "leave it (--eval.stride, or --stride of jgpt evaluate) out.",
    )
    require(
        config.tokenizer.image in ("auto", "none") or "image" in kinds,
        f"tokenizer.image is {config.tokenizer.image!r}, but no task of the config has pictures: leave it at 'auto'.",
    )
    for name in ("image_mode", "image_background", "image_threshold"):
        value, default = getattr(config.data, name), getattr(DataConfig(), name)
        require(
            value == default or "image" in kinds,
            f"data.{name} is {value!r}, but no task of the run has pictures: leave it at {default!r}.",
        )


def _task_data(name: str, options: TaskConfig, config: Config, vocabulary: Vocabulary, splits: Splits) -> TaskData:
    """Fit one task to its training examples, encode and pack them. Raises ValueError where they break a rule."""
    where, source = f"data.tasks.{name}", options.path or options.source
    kind = splits.kind if options.kind == "auto" else options.kind
    if kind not in TASKS:
        raise ValueError(unknown_name(f"{where}.kind", str(kind), TASKS))
    for part in ("train", "validation"):
        require(
            len(getattr(splits, part)) > 0,
            f"{where}: the {part} split of {source!r} is empty: give more data, or change validation_fraction.",
        )
    task, dropout = TASKS[kind].fit(vocabulary, splits.train, options), options.condition_dropout
    require(
        dropout == 0 or isinstance(task, ImageTask),
        f"{where}.condition_dropout is {dropout}, but the task is of kind {kind!r}: only pictures are drawn with guidance; "
        "leave it at 0.",
    )
    require(
        options.show_choices or isinstance(task, QATask),
        f"{where}.show_choices is off, but the task is of kind {kind!r}: only questions have choices; leave it on.",
    )
    require(
        not options.steps or isinstance(task, QATask),
        f"{where}.steps is on, but the task is of kind {kind!r}: only answers are led to in steps; leave it off.",
    )
    length = config.model.context_length
    train, held = (
        encode_split(
            f"{where}, {part} split", task, getattr(splits, part), length, options.on_long, config.data.on_bad_record
        )
        for part in ("train", "validation")
    )
    notes = (*train.notes, *held.notes)
    if train.too_long or held.too_long:
        notes += (
            f"longer than model.context_length {length} and left out: {len(train.too_long):,} of {len(splits.train):,} "
            f"examples to train, {len(held.too_long):,} of {len(splits.validation):,} held out",
        )
    if train.left_out or held.left_out:
        splits = replace(
            splits,
            train=[splits.train[i] for i in train.kept],
            validation=[splits.validation[i] for i in held.kept],
            notes=(*splits.notes, *notes),
            skipped=(*splits.skipped, *train.listed, *held.listed),
        )
    if isinstance(task, ImageTask):
        task.unconditional = task.unconditional or dropout > 0
        held_out = splits.validation
        splits = replace(
            splits, notes=(*splits.notes, *unknown_captions(task, held_out), *seen_by_code(task, held_out))
        )
    pairs = sum(len(document.tokens) - 1 for document in train.documents)
    require(
        task.packing != "stream" or pairs >= length,
        f"{where}: {source!r} holds {pairs} training tokens, fewer than one window of model.context_length {length}: lower "
        "--model.context-length or give more text.",
    )
    dimensions = _dimensions(task, splits.validation)
    documents = train.documents, held.documents
    return packed(name, options, config, task, splits, documents, dimensions=dimensions, left_out=held.left_out)


def packed(
    name: str,
    options: TaskConfig,
    config: Config,
    task: Task,
    splits: Splits,
    documents: tuple[Sequence[Document], Sequence[Document]],
    *,
    dimensions: int | None,
    left_out: Mapping[str, int],
) -> TaskData:
    """Return the data of a fitted task, in rows.

    Args:
        name: of the task.
        options: of the task.
        config: of the run.
        task: fitted.
        splits: examples.
        documents: the encoded examples of (train, validation).
        dimensions: as in `TaskData`.
        left_out: as in `TaskData`.

    Raises:
        ValueError: a document must stay whole and is longer than a row.
    """
    length, refresh = config.model.context_length, None
    if isinstance(task, ImageTask):
        refresh = task.variation(
            splits.train,
            name=name,
            config=config.data.augment,
            condition_dropout=options.condition_dropout,
            seed=config.train.seed,
        )
    train, held = documents
    try:
        rows = pack(train, task.packing, length, options.loss_weight, refresh), pack(held, task.packing, length)
    except ValueError as error:
        raise ValueError(f"data.tasks.{name}: {error}") from None
    return TaskData(task, splits, *rows, dimensions, left_out)


def _dimensions(task: Task, examples: Sequence[Any]) -> int | None:
    """Return the dimensions of all examples together, None where one has none."""
    found = [task.dimensions(example) for example in examples]
    return None if None in found else sum(d for d in found if d is not None)


def held_out(name: str, task: Task, splits: Splits, length: int, on_long: str, on_bad_record: str) -> TaskData:
    """Return the data of a fitted task that has none to train on.

    Args:
        name: of the task.
        task: encodes.
        splits: their validation examples alone count.
        length: context [tokens].
        on_long: as in `TaskConfig`.
        on_bad_record: as in `DataConfig`.

    Raises:
        ValueError: an example cannot be encoded or is too long, under "error", or none is left.
    """
    where = f"data.tasks.{name}, data to score"
    held = encode_split(where, task, splits.validation, length, on_long, on_bad_record)
    rows = pack(held.documents, task.packing, length)
    kept = [splits.validation[i] for i in held.kept]
    notes = (*splits.notes, *held.notes)
    if held.too_long:
        of = len(splits.validation)
        notes += (f"longer than model.context_length {length} and left out: {len(held.too_long):,} of {of:,} examples",)
    notes += unknown_captions(task, kept)
    splits = replace(splits, validation=kept, notes=notes, skipped=(*splits.skipped, *held.listed))
    return TaskData(task, splits, rows, rows, _dimensions(task, kept), held.left_out)


def make_vocabulary(config: TokenizerConfig, splits: Sequence[Splits], seed: int) -> Vocabulary:
    """Return the joint vocabulary: tokenizers that must be trained learn from the training splits alone.

    Raises:
        ValueError: the training pictures are missing or have fewer colours than the palette asks for.
    """
    train = [example for split in splits for example in split.train]
    if config.path is not None:
        path = Path(config.path)
        if not path.is_file():
            raise FileNotFoundError(f"tokenizer.path {config.path!r} is not a file: give a tokenizer.json.")
        try:
            text = tokenizer_class("bpe").from_json(path.read_text())
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"tokenizer.path {config.path!r} is not a tokenizer.json of a BPE: {error}.") from None
        try:
            text.check_exact()
        except ValueError as error:
            raise ValueError(f"tokenizer.path {config.path!r} cannot be used: {error}.") from None
    else:
        text = tokenizer_class(config.text).train(_once(_texts(train)), config.bpe_vocab_size, config.bpe_across_words)
    pictures = [example.pixels for example in train if isinstance(example, Picture)]
    return Vocabulary(config.text, text, make_code(config, pictures, seed))


def _once(texts: Sequence[str]) -> list[str]:
    """Return each text that begins no other, once: a context that many questions share counts no more than one that none do."""
    return [text for text, after in itertools.pairwise([*sorted(set(texts)), ""]) if not after.startswith(text)]


def _texts(examples: Sequence[Any]) -> list[str]:
    texts = []
    for example in examples:
        if isinstance(example, str):
            texts.append(example)
        elif isinstance(example, QuestionAnswer):
            for turn in (example, *example.more):
                texts += [turn.context, turn.question, turn.answer, *turn.choices, *turn.steps]
        elif isinstance(example, Conversation):
            texts += [message.content for message in example.messages]
        elif isinstance(example, Picture):
            texts.append(example.caption)
    return texts


def ids_for_model(vocabulary: Vocabulary, tasks: Mapping[str, Task]) -> dict[str, Any]:
    """Return the arguments of `gpt.resolve` that say which ids there are: how many, where text ends, how pictures lie."""
    return {
        "vocab_size": vocabulary.size,
        "text_end": vocabulary.text_ids.stop,
        "pictures": picture_grids(vocabulary, tasks),
    }


def picture_grids(vocabulary: Vocabulary, tasks: Mapping[str, Task]) -> dict[str, PictureGrid]:
    """Return how the tokens of pictures lie behind their marker, by the name of each image task."""
    start, grids = vocabulary.special("<|image|>"), {}
    for name, task in tasks.items():
        if isinstance(task, ImageTask):
            rows, columns, per_cell = task.grid
            grids[name] = PictureGrid(start_id=start, width=columns, cells=rows * columns, tokens_per_cell=per_cell)
    return grids


def save(mixture: Mixture, folder: Path) -> None:
    """Write vocabulary and tasks, all that sampling needs of the data, into `folder`: whole, or where it fails nothing."""
    partial = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    mixture.vocabulary.save(partial)
    state = {name: {"kind": data.task.kind, "state": data.task.to_json()} for name, data in mixture.tasks.items()}
    (partial / "tasks.json").write_text(json.dumps(state, indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def list_skipped(mixture: Mixture, file: Path) -> None:
    """Write a line for every record that was left out as bad; where there is none, no file."""
    lines = [f"{name}: {entry}\n" for name, data in mixture.tasks.items() for entry in data.splits.skipped]
    file.unlink(missing_ok=True)  # of the run's earlier start, whose data may have been mended since
    if lines:
        file.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")


def check_saved(mixture: Mixture, folder: Path) -> bool:
    """Refuse to go on with a run whose data now give another vocabulary: its ids would mean something else.

    Returns:
        Whether `folder` holds what `save` would write; else it holds nothing.

    Raises:
        ValueError: what `save` would write differs from what lies in `folder`.
    """
    if not (folder / "tasks.json").is_file():
        return False
    with tempfile.TemporaryDirectory() as temporary:
        anew = Path(temporary) / "tokenizer"
        save(mixture, anew)
        for new in sorted(anew.iterdir()):
            old = folder / new.name
            require(
                old.is_file() and old.read_bytes() == new.read_bytes(),
                f"{old} differs from what the data give now: the data have changed since the run began, and its ids would "
                "stand for other texts or pictures. Bring the data back, or use another --run.dir.",
            )
    return True


def load(folder: Path) -> tuple[Vocabulary, dict[str, Task]]:
    """Read vocabulary and tasks as `save` wrote them.

    Raises:
        FileNotFoundError: the folder holds none.
    """
    vocabulary = Vocabulary.load(folder)
    state = json.loads((folder / "tasks.json").read_text())
    return vocabulary, {name: TASKS[s["kind"]].from_json(vocabulary, s["state"]) for name, s in state.items()}
