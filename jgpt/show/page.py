"""Packed rows as one static page: no script, no file besides, light and dark.

Owns the look; what is shown comes from `drawn`. Everything that comes from data is escaped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Final

from jgpt.show.drawn import Cell, Drawn, columns_of
from jgpt.show.rules import Finding

STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c1f26; --soft: #667085; --faint: #76808f; --paper: #fbfbfa; --card: #fff;
  --line: #e4e5e7; --train: #0b6bcb; --wash: #e3effb; --mark: #8a3ffc; --good: #1a7f4b; --bad: #c4320a; --badwash: #fdeae4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e7ea; --soft: #9aa1ad; --faint: #8b93a1; --paper: #14161a;
  --card: #1b1e24; --line: #2d3139; --train: #76b7ff; --wash: #17314d; --mark: #c4a1ff; --good: #55c98a; --bad: #ff8a65;
  --badwash: #46211a; } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1180px; padding: 40px 28px 80px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { font-size: 24px; font-weight: 650; margin: 0 0 4px } h2 { font-size: 18px; font-weight: 650; margin: 44px 0 2px }
p { margin: 0 0 14px; color: var(--soft); max-width: 80ch }
code, .t, .p { font-family: ui-monospace, "SF Mono", "Cascadia Mono", Menlo, "DejaVu Sans Mono", monospace }
.key { display: flex; flex-wrap: wrap; gap: 6px 22px; align-items: center; margin: 14px 0 0; color: var(--soft);
  font-size: 13px }
.key > span { display: inline-flex; gap: 8px; align-items: center }
.rules { list-style: none; margin: 10px 0 18px; padding: 0; display: grid; gap: 2px 24px; font-size: 14px;
  grid-template-columns: repeat(auto-fill, minmax(310px, 1fr)) }
.rules li::before { content: "✓"; color: var(--good); font-weight: 700; margin-right: 8px }
.rules li.bad { grid-column: 1 / -1; background: var(--badwash); border-radius: 6px; padding: 4px 8px }
.rules li.untried::before { content: "–"; color: inherit }
.rules li.bad::before { content: "✗"; color: var(--bad) }
.row { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px 18px 18px; margin: 0 0 16px }
.row h3 { font-size: 14px; font-weight: 600; margin: 0 0 10px }
.row h3 small { font-weight: 400; color: var(--soft); margin-left: 8px }
.map { display: flex; gap: 2px; height: 6px; margin: 0 0 14px }
.map i { background: var(--line); border-radius: 3px; overflow: hidden; display: flex }
.map b { background: var(--train) }
.doc { display: grid; grid-template-columns: 30px 1fr; border-top: 1px solid var(--line); padding: 10px 0 6px }
.doc:first-of-type { border-top: 0 } .doc > b { color: var(--faint); font-weight: 500; font-size: 13px; padding-top: 3px }
.flow { display: flex; flex-wrap: wrap; gap: 4px 3px; align-items: flex-start }
.t { display: inline-grid; justify-items: center; padding: 2px 5px 1px; border-radius: 5px; border: 1px solid var(--line);
  font-size: 14px; line-height: 1.35; min-width: 28px; white-space: pre }
.t s { text-decoration: none; font-size: 12px; color: var(--faint) }
.t u { text-decoration: none; font-size: 11px; color: var(--faint) }
.t.on { background: var(--wash); border-color: transparent } .t.on s { color: var(--train); font-weight: 600 }
.t.special > span { color: var(--mark) } .t.unused > span { color: var(--bad) }
.pic { display: grid; gap: 1px; padding: 4px; border: 1px solid var(--line); border-radius: 6px; margin: 0 6px }
.pic.on { background: var(--wash); border-color: transparent } .pic i { display: block }
@media print { body { max-width: none } .row { break-inside: avoid } }
"""


@dataclass(frozen=True)
class Section:
    """What the page says of one task.

    Attributes:
        name: of the task.
        about: a line below its name.
        grid: (rows, columns, ids of a cell) of its pictures; None where it has none.
        found: what became of the rules.
        rows: (summary, documents) of each row.
    """

    name: str
    about: str
    grid: tuple[int, int, int] | None
    found: Sequence[Finding]
    rows: Sequence[tuple[str, Sequence[Drawn]]]


def page(title: str, about: str, sections: Sequence[Section]) -> str:
    """Return the whole page."""
    body = "".join(map(_section, sections))
    key = (
        '<div class="key"><span><span class="t"><span>a</span><s>b</s><u>3 · 0</u></span>token, target below, position · '
        'weight: given, not trained</span><span><span class="t on"><span>a</span><s>b</s><u>3 · 1</u></span>trained</span>'
        '<span><span class="t special"><span>&lt;|text|&gt;</span></span>special token</span></div>'
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, '
        f'initial-scale=1"><title>{escape(title)}</title><style>{STYLE}</style><body><h1>{escape(title)}</h1>'
        f"<p>{escape(about)}</p>{key}{body}</body></html>\n"
    )


def _section(section: Section) -> str:
    rules = "".join(
        f'<li class="bad">{escape(finding.rule)}: {escape(finding.problem)}</li>'
        if finding.problem is not None
        else f'<li class="untried">{escape(finding.rule)}: not tried, {escape(finding.untried)}</li>'
        if finding.untried is not None
        else f"<li>{escape(finding.rule)}</li>"
        for finding in section.found
    )
    rows = "".join(
        f'<div class="row"><h3>row {number}<small>{escape(about)}</small></h3>{_map(drawn)}'
        + "".join(_document(document, section.grid) for document in drawn)
        + "</div>"
        for number, (about, drawn) in enumerate(section.rows)
    )
    head = f"<h2>{escape(section.name)}</h2><p>{escape(section.about)}</p>"
    return f'<section>{head}<ul class="rules">{rules}</ul>{rows}</section>'


def _map(drawn: Sequence[Drawn]) -> str:
    """Return a bar: one stretch a document, as long as it is, blue where it is trained."""
    bars = "".join(
        f'<i style="flex:{len(d.cells)}" title="document {d.segment}: {len(d.cells)} places">{_runs(d)}</i>'
        for d in drawn
    )
    return f'<div class="map">{bars}</div>'


def _runs(document: Drawn) -> str:
    """Return the trained and the given stretches of a document, each as wide as it is long."""
    runs = [(on, len(list(cells))) for on, cells in groupby(document.cells, key=lambda cell: cell.weight > 0)]
    return "".join(f'<{"b" if on else "em"} style="flex:{size}"></{"b" if on else "em"}>' for on, size in runs)


def _document(document: Drawn, grid: tuple[int, int, int] | None) -> str:
    parts = "".join(
        _picture(document.segment, cells, columns_of(grid, len(cells)))
        if pixels
        else "".join(_token(document.segment, cell) for cell in cells)
        for pixels, cells in document.parts()
    )
    return f'<div class="doc"><b title="segment">{document.segment}</b><div class="flow">{parts}</div></div>'


def _title(segment: int, cell: Cell) -> str:
    return escape(
        f"{cell.token.text} (id {cell.token_id}) -> {cell.target.text} (id {cell.target_id})\nsegment {segment}, position "
        f"{cell.position}, weight {cell.weight:g}",
        quote=True,
    )


def _token(segment: int, cell: Cell) -> str:
    on = " on" if cell.weight > 0 else ""
    return (
        f'<span class="t {cell.token.kind}{on}" title="{_title(segment, cell)}"><span>{escape(cell.token.text)}</span>'
        f"<s>{escape(cell.target.text)}</s><u>{cell.position} · {cell.weight:g}</u></span>"
    )


def _picture(segment: int, cells: Sequence[Cell], columns: int) -> str:
    side = max(4, min(16, 192 // columns))
    pixels = "".join(
        f'<i style="background:rgb{cell.token.colour or (0, 0, 0)}" title="{_title(segment, cell)}"></i>'
        for cell in cells
    )
    on = " on" if any(cell.weight > 0 for cell in cells) else ""
    grid = f"grid-template-columns:repeat({columns},{side}px);grid-auto-rows:{side}px"
    return f'<span class="pic{on}" style="{grid}">{pixels}</span>'
