"""Packed rows in a terminal: four lines a stripe - token, target, weight, position - and pictures as blocks.

Owns the look; what is shown comes from `drawn`.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from jgpt.show.drawn import Cell, Drawn, columns_of
from jgpt.show.rules import Finding

STYLES: Final = {"special": "magenta", "text": "", "pixel": "cyan", "unused": "red"}
LABELS: Final = ("token", "target", "weight", "position")
MARGIN: Final = 11  # columns before a stripe


def rows_of(document: Drawn, grid: tuple[int, int, int] | None, width: int) -> Iterator[Text]:
    """Yield the lines of one document.

    Args:
        document: of a row.
        grid: (rows, columns, ids of a cell) of the task's pictures; None where it has none.
        width: of the terminal [columns].
    """
    for pixels, cells in document.parts():
        if pixels:
            yield from _picture(cells, columns_of(grid, len(cells)))
        else:
            yield from _stripes(cells, width - MARGIN)


def _stripes(cells: Sequence[Cell], width: int) -> Iterator[Text]:
    stripe: list[tuple[Cell, tuple[str, str, str, str], int]] = []
    used = 0
    for cell in cells:
        words = (cell.token.text, cell.target.text, f"{cell.weight:g}", str(cell.position))
        wide = max(map(cell_len, words)) + 1
        if stripe and used + wide > width:
            yield from _stripe(stripe)
            stripe, used = [], 0
        stripe.append((cell, words, wide))
        used += wide
    yield from _stripe(stripe)


def _stripe(stripe: Sequence[tuple[Cell, tuple[str, str, str, str], int]]) -> Iterator[Text]:
    for line, label in enumerate(LABELS):
        text = Text(f"  {label:<{MARGIN - 2}}", style="dim")
        for cell, words, wide in stripe:
            trained = cell.weight > 0
            if line == 0:
                style = STYLES[cell.token.kind]
            elif line == 1:
                style = f"bold underline {STYLES[cell.target.kind]}" if trained else "dim"
            else:
                style = "" if line == 2 and trained else "dim"
            text.append(words[line], style=style or "default not dim")
            text.append(" " * (wide - cell_len(words[line])))
        yield text
    yield Text()


def _picture(cells: Sequence[Cell], columns: int) -> Iterator[Text]:
    """Yield two rows of pixels a line, as half blocks in their colours."""
    weights = sorted({cell.weight for cell in cells})
    yield Text(
        f"  {'pixels':<{MARGIN - 2}}{len(cells)} ids, positions {cells[0].position} to {cells[-1].position}, weight "
        f"{' and '.join(f'{weight:g}' for weight in weights)}",
        style="dim",
    )
    for top in range(0, len(cells), 2 * columns):
        text = Text(" " * MARGIN)
        for at in range(top, min(top + columns, len(cells))):
            below = at + columns
            lower = f" on rgb({_rgb(cells[below])})" if below < len(cells) else ""
            text.append("▀", style=f"rgb({_rgb(cells[at])}){lower}")
        yield text
    yield Text()


def _rgb(cell: Cell) -> str:
    return ",".join(map(str, cell.token.colour or (0, 0, 0)))


def findings(task: str, found: Sequence[Finding], console: Console) -> None:
    """Print what became of each rule."""
    for finding in found:
        said = finding.problem or finding.untried
        mark = Text("ok    ", style="green") if said is None else Text("-     ", style="dim")
        mark = mark if finding.problem is None else Text("FAILED", style="bold red")
        text = Text("  ").append(mark).append(f" {task}: {finding.rule}")
        if said is not None:
            text.append(f": {'' if finding.problem else 'not tried, '}{said}")
        console.print(text)
