"""`jgpt show-batch CONFIG`: packed rows as the model sees them, and their rules. No jax before the command line is parsed."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jgpt.runtime import configure

if TYPE_CHECKING:
    from collections.abc import Callable

    from jgpt.batch import Batch
    from jgpt.config import Config
    from jgpt.show.rules import Finding
    from jgpt.tasks.mixture import Mixture

HELP: Final = "draw packed rows of a config and check their rules"
DESCRIPTION: Final = """\
Draws rows of every task: each token with its target, loss weight, position and document. The rules are checked on a batch
of real rows, and any that is broken gives the exit code 1. --check also asks a freshly initialised model whether documents
see each other or tokens their future. Any field of the config can be overridden after it, as with train.py:
--section.field value.
"""
TAKES_CONFIG: Final = True
CHECKED_ROWS: Final = 64  # of each task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("config", help="file with get_config(), e.g. configs/trio.py, before any --section.field value")
    parser.add_argument(
        "--rows", type=int, default=2, help="rows to draw of each task (default %(default)s; 0 draws none)"
    )
    parser.add_argument("--html", help="also write the rows as one page to this file")
    parser.add_argument("--check", action="store_true", help="also check a freshly initialised model for leaks")


def run(arguments: argparse.Namespace) -> None:
    """Draw, check, and leave with 1 where a rule is broken."""
    from jgpt.check import require
    from jgpt.configio import from_arguments

    shown = arguments.rows
    require(shown >= 0, f"--rows is {shown}: must not be negative; 0 draws none.")
    page_name = (arguments.html or ".html").lower()
    require(page_name.endswith((".html", ".htm")), f"--html {arguments.html!r}: use a name that ends in .html.")
    config = from_arguments(arguments.config, arguments.overrides, f"python train.py {arguments.config}", DESCRIPTION)
    configure()
    from rich.console import Console
    from rich.text import Text

    from jgpt import opening
    from jgpt.data.examples import TokenStream
    from jgpt.data.loader import train_batches
    from jgpt.show import drawn, rules, terminal
    from jgpt.show.page import Section, page
    from jgpt.tasks import mixture

    console = Console(highlight=False)
    data = mixture.build(config)
    probe = _probe(config, data) if arguments.check else None
    sections, broken, batches = [], 0, {}
    for name, task_data in data.tasks.items():
        console.print(
            f"{name}: {len(task_data.splits.train):,} examples, held out {len(task_data.splits.validation):,}"
        )
        for line in opening.lines(task_data, data.vocabulary, terminal=console.is_terminal):
            console.print(line, markup=False, soft_wrap=True)
        task = task_data.task
        size = max(shown, min(CHECKED_ROWS, len(task_data.train)))
        stream = train_batches(
            {name: task_data.train}, {name: 1.0}, batch_size=size, seed=config.train.seed, prefetch=1
        )
        batch = batches[name] = next(stream)
        about = f"{task.kind}, packed {'end to end' if task.packing == 'stream' else 'whole'}: {len(task_data.train):,} rows"
        own = not isinstance(task_data.splits.train[0], TokenStream)
        found = rules.check(rules.Rows(batch, data.vocabulary, task.kind, task.packing, own))
        if probe is not None:
            found += probe(batch)
        grid = getattr(task, "grid", None)
        rows = [(drawn.summary(batch, r), drawn.documents(data.vocabulary, batch, r)) for r in range(shown)]
        sections.append(Section(name, about, grid, found, rows))
        broken += sum(finding.problem is not None for finding in found)
        for number, (words, documents) in enumerate(rows):
            console.print(Text(f"{name}, row {number}: {words}", style="bold"))
            for document in documents:
                console.print(Text(f"document {document.segment}", style="dim"))
                for line in terminal.rows_of(document, grid, console.width):
                    console.print(line)
    for section in sections:
        terminal.findings(section.name, section.found, console)
    model = "" if arguments.check else "; --check asks a model for leaks too"
    console.print(f"checked {', '.join(f'{len(b.tokens_BS)} rows of {n}' for n, b in batches.items())}{model}")
    if arguments.html:
        where = Path(arguments.html)
        where.parent.mkdir(parents=True, exist_ok=True)
        words = f"{config.run.dir}: context {config.model.context_length}, vocabulary of {data.vocabulary.size} ids"
        where.write_text(page(f"Packed rows of {arguments.config}", words, sections), encoding="utf-8")
        console.print(f"page: {where}")
    if broken:
        raise SystemExit(1)


def _probe(config: "Config", data: "Mixture") -> "Callable[[Batch], list[Finding]]":
    """Return what asks a fresh model of the config about leaks."""
    import jax

    from jgpt.model import gpt
    from jgpt.show import leaks

    ids = data.vocabulary
    model = gpt.resolve(config.model, backend=jax.default_backend(), **data.ids_for_model())
    params = leaks.disturbed(model, config.train.seed)
    return lambda batch: leaks.probe(model, params, batch, ids.size, config.train.seed)
