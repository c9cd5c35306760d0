"""Ids as people read them: text as it stands, special tokens by name, pixels as colours.

Owns the readable form of an id and of a whole document; refuses colours of a terminal or a page, which belong to those who
print. NumPy alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from jgpt.batch import Document
from jgpt.tokenizers.vocabulary import Vocabulary

CUT: Final = "…"
VISIBLE: Final = {"\n": "⏎", "\t": "⇥", "\r": "␍"}


@dataclass(frozen=True)
class Piece:
    """One id.

    Attributes:
        text: what it stands for, control characters made visible.
        kind: of id; "unused" where it only pads the model's embedding.
        colour: of a pixel, red, green and blue.
    """

    text: str
    kind: Literal["special", "text", "pixel", "unused"]
    colour: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Span:
    """Neighbouring ids of a document that share their fate.

    Attributes:
        text: readable.
        trained: whether they carry loss weight.
    """

    text: str
    trained: bool


def piece(vocabulary: Vocabulary, token: int) -> Piece:
    """Return the readable form of one id."""
    if 0 <= token < len(vocabulary.specials):
        return Piece(vocabulary.specials[token], "special")
    if token in vocabulary.text_ids:
        return Piece(_text(vocabulary, token - vocabulary.text_ids.start), "text")
    if token in vocabulary.image_ids:
        code = token - vocabulary.image_ids.start
        return Piece(str(code), "pixel", _colour(vocabulary, code))
    return Piece(f"id {token}", "unused")


def pieces(vocabulary: Vocabulary, ids: Sequence[int] | np.ndarray) -> list[Piece]:
    """Return the readable forms of `ids`."""
    known = {token: piece(vocabulary, token) for token in np.unique(np.asarray(ids)).tolist()}
    return [known[int(token)] for token in ids]


def spans(vocabulary: Vocabulary, document: Document, limit: int = 240) -> list[Span]:
    """Return a document as readable text, trained and given stretches apart; stretches of pixels are counted, not listed.

    Args:
        vocabulary: of the ids.
        document: whole.
        limit: characters to show, about; the middle of a longer one is left out.
    """
    n = len(document.tokens)
    weights = np.ones(n) if document.weights is None else np.asarray(document.weights)
    trained = (weights > 0) & (np.arange(n) > 0)  # nothing predicts the first
    half = limit // 2
    head, tail = np.arange(min(n, half)), np.arange(max(half, n - half), n)
    if _is_picture(vocabulary, document):
        head, tail = np.arange(n), np.arange(0)
    parts = _join(vocabulary, document, head, trained)
    if len(tail):
        rest = _join(vocabulary, document, tail, trained)
        parts += [Span(CUT, rest[0].trained), *rest] if tail[0] > head[-1] + 1 else rest
    return _shorten(_merge(parts), limit)


def marked(parts: Sequence[Span]) -> str:
    """Return spans as plain text with what is trained in square brackets."""
    return "".join(f"[{part.text}]" if part.trained else part.text for part in parts)


def _is_picture(vocabulary: Vocabulary, document: Document) -> bool:
    image = vocabulary.image_ids
    return bool(len(image)) and bool(np.any(np.asarray(document.tokens[:4096]) + document.offset >= image.start))


def _join(vocabulary: Vocabulary, document: Document, at: np.ndarray, trained: np.ndarray) -> list[Span]:
    """Return one span a change of fate or of kind."""
    ids = np.asarray(document.tokens[at], np.int64) + document.offset
    out: list[Span] = []
    begin = 0
    pixel = (ids >= vocabulary.image_ids.start) & (ids < vocabulary.image_ids.stop)
    for end in range(1, len(ids) + 1):
        if end == len(ids) or pixel[end] != pixel[begin] or trained[at[end]] != trained[at[begin]]:
            out.append(Span(_plain(vocabulary, ids[begin:end], bool(pixel[begin])), bool(trained[at[begin]])))
            begin = end
    return out


def _plain(vocabulary: Vocabulary, ids: np.ndarray, pixel: bool) -> str:
    if pixel:
        return f" {len(ids)} pixels "
    text, run = "", []
    for token in [*ids.tolist(), -1]:
        if token in vocabulary.text_ids:
            run.append(token)
            continue
        if run:  # together, so that characters of several ids are whole
            text, run = text + visible(vocabulary.decode_text(run)), []
        text += piece(vocabulary, token).text if token >= 0 else ""
    return text


def _merge(parts: Sequence[Span]) -> list[Span]:
    out: list[Span] = []
    for part in parts:
        if out and out[-1].trained == part.trained:
            out[-1] = Span(out[-1].text + part.text, part.trained)
        else:
            out.append(part)
    return out


def _shorten(parts: list[Span], limit: int) -> list[Span]:
    """Return spans of at most `limit` characters in all, each cut in its middle by its share."""
    total = sum(len(part.text) for part in parts)
    if total <= limit:
        return parts
    out = []
    for part in parts:
        room = max(24, limit * len(part.text) // total)
        text = part.text
        if len(text) > room:
            text = text[: room // 2] + CUT + text[len(text) - room // 2 :]
        out.append(Span(text, part.trained))
    return out


def visible(text: str) -> str:
    """Return text on one line: line ends and tabs as signs, other control characters by their number."""
    return "".join(VISIBLE.get(c, c if c.isprintable() else f"\\x{ord(c):02x}") for c in text)


def _text(vocabulary: Vocabulary, index: int) -> str:
    text = vocabulary.text.decode([index])
    if "\ufffd" in text or not text:  # a part of a character
        return f"\\x{index:02x}" if vocabulary.text_name == "bytes" else f"#{index}"
    return "␣" * len(text) if text.isspace() and not text.strip(" ") else visible(text)


def _colour(vocabulary: Vocabulary, code: int) -> tuple[int, int, int]:
    """Return a pixel's colour, or the part of it that an id of one channel gives; else a grey by the id's number."""
    colours = getattr(vocabulary.image, "colours", None)
    if colours is not None:
        values = [int(value) for value in colours[code]]
        return (values[0],) * 3 if len(values) == 1 else (values[0], values[1], values[2])
    channels = vocabulary.code.cycle
    if len(channels) == 3:  # ids of red, green and blue, each its own
        red, green, blue = (_share(code, ids) if code in ids else 0 for ids in channels)
        return red, green, blue
    return (_share(code, range(vocabulary.code.size)),) * 3


def _share(number: int, of: range) -> int:
    """Return how far into a range of ids a number lies, 0 to 255."""
    return round(255 * (number - of.start) / max(len(of) - 1, 1))
