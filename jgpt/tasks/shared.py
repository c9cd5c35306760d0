"""A mixture that one process has read, laid down in a folder for the others, which read nothing but the rows they train on.

Owns what is in the folder: vocabulary and tasks, the documents of both splits, and those examples that more than the first
process looks at: the held-out ones, which all answer, and training pictures, which change from epoch to epoch.
"""

import json
from pathlib import Path
from typing import Any, Final

from jgpt.config import Config
from jgpt.data.examples import Picture, Splits, TokenStream
from jgpt.data.stored import open_documents, open_examples, write_documents, write_examples
from jgpt.tasks import mixture
from jgpt.tasks.mixture import Mixture

SPLITS: Final = ("train", "validation")


def lay_down(data: Mixture, folder: Path) -> None:
    """Write `data` into `folder`, which is new, for `take_up`."""
    mixture.save(data, folder / "tokenizer")
    about = {}
    for name, task in data.tasks.items():
        for split in SPLITS:
            examples = getattr(task.splits, split)
            write_documents(folder / name / split / "documents", getattr(task, split).documents, examples)
            if _needed(examples[0], split):
                write_examples(folder / name / split / "examples", examples)
        about[name] = {"dimensions": task.dimensions, "left_out": task.left_out}
    (folder / "about.json").write_text(json.dumps(about))


def take_up(config: Config, folder: Path) -> Mixture:
    """Return the mixture that `lay_down` wrote into `folder`, with rows as `mixture.build` makes them.

    Examples that no process but the first looks at are left out, and what was noted of them.
    """
    vocabulary, tasks = mixture.load(folder / "tokenizer")
    about, data = json.loads((folder / "about.json").read_text()), {}
    for name, options in config.task_configs().items():
        examples = {}
        for split in SPLITS:
            stored = folder / name / split / "examples"
            examples[split] = open_examples(stored) if stored.is_dir() else ()
        train, held = (open_documents(folder / name / split / "documents") for split in SPLITS)
        data[name] = mixture.packed(
            name,
            options,
            config,
            tasks[name],
            Splits(**examples),
            (train, held),
            dimensions=about[name]["dimensions"],
            left_out=about[name]["left_out"],
        )
    return Mixture(vocabulary, data)


def _needed(example: Any, split: str) -> bool:
    return isinstance(example, Picture) or (split == "validation" and not isinstance(example, TokenStream))
