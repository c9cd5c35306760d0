"""What a run says of each task before it trains: what the data were taken for, how much they hold, the first example.

Owns these lines; counting reads every example once and encodes one.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from rich.text import Text

from jgpt.check import counted
from jgpt.data.examples import Conversation, Picture, QuestionAnswer, TokenStream
from jgpt.render import marked, spans
from jgpt.tasks.mixture import TaskData
from jgpt.tokenizers.vocabulary import Vocabulary

INDENT: Final = "    "
EXAMPLE_CHARACTERS: Final = 200  # about two lines
PICTURE_COLUMNS: Final = 32  # a larger one is drawn from every n-th pixel


def lines(data: TaskData, vocabulary: Vocabulary, *, terminal: bool) -> Iterator[str | Text]:
    """Yield the lines of one task.

    Args:
        data: of the task.
        vocabulary: of the run.
        terminal: whether bold letters and colours can be shown; else what is trained stands in square brackets.
    """
    splits = data.splits
    recognised = f"{splits.recognised}: " if splits.recognised else ""
    yield f"{INDENT}{recognised}{volume(splits.train)} to train, {volume(splits.validation)} held out"
    for note in splits.notes:
        yield f"{INDENT}note: {note}"
    first = splits.train[0]
    parts = spans(vocabulary, data.task.encode(first), EXAMPLE_CHARACTERS)
    if not terminal:
        yield f"{INDENT}first, trained in brackets: {marked(parts)}"
        return
    text = Text(f"{INDENT}first, trained underlined: ", style="dim")
    for part in parts:
        text.append(part.text, style="bold underline not dim" if part.trained else "not dim")
    yield text
    if isinstance(first, Picture):
        yield _blocks(first.pixels)


def volume(examples: Sequence[Any]) -> str:
    """Return how much examples hold: bytes of text by their part, ids, or pictures by their shape."""
    sizes: dict[str, int] = {}

    def add(what: str, size: int | None) -> None:
        if size:
            sizes[what] = sizes.get(what, 0) + size

    shapes: set[tuple[int, ...]] = set()
    for example in examples:
        if isinstance(example, str):
            add("bytes of text", _bytes(example))
        elif isinstance(example, QuestionAnswer):
            for turn in (example, *example.more):
                add("bytes of contexts", _bytes(turn.context))
                add("bytes of questions", _bytes(turn.question))
                add("bytes of choices", sum(map(_bytes, turn.choices)))
                add("bytes of steps", sum(map(_bytes, turn.steps)))
                add("bytes of answers", _bytes(turn.answer))
        elif isinstance(example, Conversation):
            for message in example.messages:
                add(f"bytes by the {message.role}", _bytes(message.content))
        elif isinstance(example, TokenStream):
            add("ids", len(example.ids))
            add("bytes of text", example.num_bytes)
        elif isinstance(example, Picture):
            shapes.add(example.pixels.shape)
            add("bytes of captions", _bytes(example.caption))
    words = [f"{size:,} {what}" for what, size in sizes.items()]
    if shapes:
        shown = " and ".join(" x ".join(map(str, shape)) for shape in sorted(shapes)[:3])
        words.insert(
            0, f"{counted(len(examples), 'picture')} of {shown}{' and other sizes' if len(shapes) > 3 else ''}"
        )
    return ", ".join(words) or counted(len(examples), "example")


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _blocks(pixels: np.ndarray) -> Text:
    """Return a picture as half blocks in its colours, two rows of pixels a line."""
    step = -(-pixels.shape[1] // PICTURE_COLUMNS)
    small = pixels[::step, ::step]
    rgb = np.broadcast_to(small.reshape(*small.shape[:2], -1), (*small.shape[:2], 3)).astype(int)
    text = Text()
    for top in range(0, len(rgb), 2):
        text.append(INDENT if not top else f"\n{INDENT}")
        for column in range(rgb.shape[1]):
            upper = f"rgb({','.join(map(str, rgb[top, column]))})"
            lower = f" on rgb({','.join(map(str, rgb[top + 1, column]))})" if top + 1 < len(rgb) else ""
            text.append("▀", style=f"{upper}{lower}")
    return text
