"""Sheets of pictures to look at: rows with their captions, groups of columns with their labels, and colour bars.

Owns the layout; draws what it is given and decides nothing. Pictures are enlarged by whole factors without smoothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import UInt8

from jgpt.check import require

if TYPE_CHECKING:
    from PIL import Image, ImageFont

PAGE: Final = (238, 238, 235)
INK: Final = (25, 25, 25)
FONT_SIZE: Final = 14  # screen pixels
LINE: Final = 17
MARGIN: Final = 10
GAP: Final = 4  # between pictures
GROUP_GAP: Final = 22  # between groups of columns
CAPTION_WIDTH: Final = 190  # at most; longer captions are broken into lines, and cut where the row is full


@dataclass(frozen=True)
class Row:
    """One row of a sheet.

    Attributes:
        caption: text on the left; line breaks are kept.
        groups: pictures of each group of columns, uint8 [height, width] or [height, width, channel]; a group may hold fewer
            than its columns.
    """

    caption: str
    groups: tuple[tuple[np.ndarray, ...], ...]


def sheet(labels: Sequence[str], rows: Sequence[Row], side: int = 48) -> "Image.Image":
    """Return rows of pictures under labelled groups of columns, captions on the left.

    Args:
        labels: one a group.
        rows: at least one, each with as many groups as there are labels.
        side: screen pixels that the longer side of the largest picture is enlarged to, about.

    Raises:
        ValueError: a row has more or fewer groups than there are labels, or there is no picture.
    """
    from PIL import Image, ImageDraw

    for row in rows:
        require(
            len(row.groups) == len(labels),
            f"the row {row.caption!r} has {len(row.groups)} groups of pictures for {len(labels)} labels: give one each.",
        )
    pictures = [picture for row in rows for group in row.groups for picture in group]
    require(bool(pictures), "the sheet holds no picture: give at least one.")
    longest = max(max(picture.shape[:2]) for picture in pictures)
    scale = max(1, round(side / longest))
    height, width = (scale * max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    font = _font()
    lines = [_wrapped(row.caption, font, max(1, (height + GAP) // LINE)) for row in rows]
    texts = max((font.getlength(line) for row in lines for line in row), default=0)
    left = MARGIN + (int(texts) + 12 if texts else 0)
    columns = [max(len(row.groups[g]) for row in rows) for g in range(len(labels))]
    widths = [
        max(n * (width + GAP) - GAP, int(font.getlength(label))) for n, label in zip(columns, labels, strict=True)
    ]
    starts = [left + sum(widths[:g]) + g * GROUP_GAP for g in range(len(labels))]
    step = max(height + GAP, max(len(row) for row in lines) * LINE)
    top = MARGIN + (LINE + 4 if any(labels) else 0)
    size = (starts[-1] + widths[-1] + MARGIN, top + len(rows) * step - (step - height) + MARGIN)
    page = Image.new("RGB", size, PAGE)
    pen = ImageDraw.Draw(page)
    for start, label in zip(starts, labels, strict=True):
        pen.text((start, MARGIN - 2), label, INK, font)
    for r, row in enumerate(rows):
        y = top + r * step
        for at, line in enumerate(lines[r]):
            pen.text((MARGIN, y + (height - LINE * len(lines[r])) // 2 + at * LINE), line, INK, font)
        for start, group in zip(starts, row.groups, strict=True):
            for column, picture in enumerate(group):
                page.paste(Image.fromarray(_enlarged(picture, scale)), (start + column * (width + GAP), y))
    return page


def colours(values: np.ndarray, low: float, high: float, name: str = "magma") -> UInt8[np.ndarray, "height width 3"]:
    """Return values [height, width] as colours of matplotlib's map `name`, from `low` to `high`."""
    from matplotlib import colormaps

    shares = np.clip((np.asarray(values) - low) / max(high - low, 1e-12), 0, 1)
    return np.rint(colormaps[name](shares)[..., :3] * 255).astype(np.uint8)


def with_colour_bar(page: "Image.Image", low: float, high: float, unit: str, name: str = "magma") -> "Image.Image":
    """Return `page` with a scale of colours below it, labelled at both ends and in the middle."""
    from PIL import Image, ImageDraw

    font = _font()
    width = max(page.width, int(font.getlength(unit)) + 260)
    out = Image.new("RGB", (width, page.height + 56), PAGE)
    out.paste(page, (0, 0))
    pen = ImageDraw.Draw(out)
    y = page.height + 4
    pen.text((MARGIN, y), unit, INK, font)
    begin = MARGIN + int(font.getlength(unit)) + 16
    end = min(width - MARGIN - 16, begin + 420)
    bar = colours(np.linspace(low, high, end - begin)[None, :], low, high, name)
    out.paste(Image.fromarray(bar.repeat(16, axis=0)), (begin, y))
    for share in (0.0, 0.5, 1.0):
        value = f"{low + share * (high - low):.3g}"
        x = begin + share * (end - begin)
        pen.line([(x, y + 16), (x, y + 20)], INK)
        pen.text((x - font.getlength(value) / 2, y + 22), value, INK, font)
    return out


def _font() -> "ImageFont.FreeTypeFont | ImageFont.ImageFont":
    from PIL import ImageFont

    return ImageFont.load_default(FONT_SIZE)


def _wrapped(text: str, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont", most: int) -> list[str]:
    """Return `text` in at most `most` lines that fit the caption column, the last one cut with dots where it must be."""
    lines: list[str] = []
    for paragraph in text.split("\n") if text else []:
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > CAPTION_WIDTH:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    cut = len(lines) > most
    lines = lines[:most]
    for i, line in enumerate(lines):
        dotted = cut and i == len(lines) - 1
        while line and font.getlength(line + ("..." if dotted else "")) > CAPTION_WIDTH:
            line, dotted = line[:-1], True
        lines[i] = line.rstrip() + "..." if dotted else line
    return lines


def _enlarged(picture: np.ndarray, scale: int) -> UInt8[np.ndarray, "height width 3"]:
    height, width = picture.shape[:2]
    pixels = np.broadcast_to(picture.reshape(height, width, -1)[..., :3], (height, width, 3))
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)
