"""Training from Python: `jgpt.train(config, qa=examples)`, for data that stand in memory, as in a notebook.

Owns where such examples are kept: as JSON lines beside the run, so that resuming, `jgpt evaluate` and a colleague read the
same data from the run's config. Refuses what a reader of files would refuse.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jgpt.check import require, unknown_name
from jgpt.config import Config
from jgpt.data.lists import write_jsonl
from jgpt.loaded import GPT, load
from jgpt.loop import train as train_config
from jgpt.report import IN_PYTHON


def train(config: Config, **examples: Sequence[Any]) -> GPT:
    """Train `config` to its end, or go on with it, and return the model.

    Args:
        config: of the run, such as `get_config()` of a run card, changed with `dataclasses.replace`.
        examples: of tasks of the config by their names: texts (`str`), `QuestionAnswer` (see `jgpt.tasks.qa.from_lists`)
            or `Conversation`. They replace the task's source and are kept in `RUN.data/NAME.jsonl` beside the run.

    Raises:
        ValueError: a name is no task of the config, its examples break a rule, or the run has others.
        Others: as `jgpt.loop.train`.
    """
    tasks = dict(config.data.tasks)
    folder = Path(f"{config.run.dir.rstrip('/')}.data")
    for name, values in examples.items():
        if name not in tasks:
            raise ValueError(unknown_name("task of the config", name, tasks))
        require(len(values) > 0, f"the examples of task {name!r} are empty: give at least two.")
        folder.mkdir(parents=True, exist_ok=True)
        path, new = folder / f"{name}.jsonl", folder / f".{name}.new"
        write_jsonl(values, new)
        same = not path.is_file() or path.read_bytes() == new.read_bytes()
        if not same and config.run.on_existing != "overwrite" and Path(config.run.dir).exists():
            new.unlink()
            raise ValueError(
                f"{path} holds other examples than the {len(values)} given for task {name!r}: the run in {config.run.dir!r} "
                "was trained on them. Use another run.dir, or run.on_existing='overwrite' to start over."
            )
        new.replace(path)
        tasks[name] = replace(tasks[name], source="path", path=str(path))
    config = replace(config, data=replace(config.data, tasks=tasks))
    train_config(config, IN_PYTHON)
    return load(config.run.dir)
