"""Documents and examples laid down in a folder once, and mapped into memory by whoever needs some of them.

Owns these files, which live as long as a run has several processes (`tasks.shared`): reading one document or example touches
the pages it lies on. Files of ids that were there before are pointed to, never copied.
"""

import dataclasses
import json
import mmap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from jgpt.batch import Document
from jgpt.data.examples import Conversation, Message, Picture, QuestionAnswer, TokenStream
from jgpt.data.token_files import open_tokens

NARROW: Final = np.iinfo(np.uint16).max  # ids up to here take two bytes


def write_documents(folder: Path, documents: Sequence[Document], examples: Sequence[Any]) -> None:
    """Lay down the encoded examples of one split.

    Args:
        folder: new.
        documents: at least one.
        examples: what they are encoded from, one each.
    """
    folder.mkdir(parents=True)
    if all(isinstance(example, TokenStream) and example.file is not None for example in examples):
        streams = [
            {"file": str(stream.file.absolute()), "first": stream.first, "count": len(stream.ids), "offset": one.offset}
            for stream, one in zip(examples, documents, strict=True)
        ]
        (folder / "streams.json").write_text(json.dumps(streams))
        return
    starts = np.cumsum([0, *(len(document.tokens) for document in documents)])
    top = max(int(document.tokens.max()) + document.offset for document in documents)
    np.save(folder / "starts.npy", starts)
    tokens = _new(folder / "tokens.npy", np.dtype(np.uint16 if top <= NARROW else np.int32), (int(starts[-1]),))
    for start, stop, document in zip(starts[:-1], starts[1:], documents, strict=True):
        tokens[start:stop] = document.tokens.astype(np.int32) + document.offset
    tokens.flush()
    if all(document.weights is None for document in documents):
        return
    given = [document.weights for document in documents if document.weights is not None]
    marks = all(np.isin(weights, (0, 1)).all() for weights in given)  # the usual case takes a byte a token
    weights = _new(folder / "weights.npy", np.dtype(np.uint8 if marks else np.float32), (int(starts[-1]),))
    for start, stop, document in zip(starts[:-1], starts[1:], documents, strict=True):
        weights[start:stop] = 1 if document.weights is None else document.weights
    weights.flush()


def open_documents(folder: Path) -> Sequence[Document]:
    """Return the documents that `write_documents` laid down; none is read before it is asked for."""
    streams = folder / "streams.json"
    if not streams.is_file():
        return _Documents(folder)
    found = []
    for stream in json.loads(streams.read_text()):
        ids = open_tokens(Path(stream["file"]))[stream["first"] : stream["first"] + stream["count"]]
        found.append(Document(ids, None, offset=stream["offset"]))
    return found


class _Documents(Sequence[Document]):
    def __init__(self, folder: Path) -> None:
        self._starts = np.load(folder / "starts.npy", allow_pickle=False)
        self._tokens = np.load(folder / "tokens.npy", mmap_mode="r", allow_pickle=False)
        weights = folder / "weights.npy"
        self._weights = np.load(weights, mmap_mode="r", allow_pickle=False) if weights.is_file() else None

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> Document:  # type: ignore[override]  # slices are never asked for
        where = slice(*self._starts[range(len(self))[index] :][:2])
        weights = None if self._weights is None else self._weights[where].astype(np.float32)
        return Document(self._tokens[where], weights)


def write_examples(folder: Path, examples: Sequence[Any]) -> None:
    """Lay down examples: pictures of one shape, or texts, questions and conversations, a line of JSON each.

    Args:
        folder: new.
        examples: of one kind.
    """
    folder.mkdir(parents=True)
    if isinstance(examples[0], Picture):
        _stack(folder / "pixels.npy", (picture.pixels for picture in examples), len(examples))
        if examples[0].brightness is not None:
            _stack(folder / "brightness.npy", (picture.brightness for picture in examples), len(examples))
        lines = [picture.caption for picture in examples]
    else:
        lines = [
            text if isinstance(text, str) else {type(text).__name__: dataclasses.asdict(text)} for text in examples
        ]
    starts = [0]
    with open(folder / "lines.jsonl", "wb") as file:
        for line in lines:
            starts.append(starts[-1] + file.write(json.dumps(line).encode("ascii") + b"\n"))
    np.save(folder / "starts.npy", np.array(starts, np.int64))


def open_examples(folder: Path) -> Sequence[Any]:
    """Return the examples that `write_examples` laid down; none is read before it is asked for."""
    return _Examples(folder)


class _Examples(Sequence[Any]):
    def __init__(self, folder: Path) -> None:
        def mapped(name: str) -> np.ndarray | None:
            file = folder / name
            return np.load(file, mmap_mode="r", allow_pickle=False) if file.is_file() else None

        self._starts = np.load(folder / "starts.npy", allow_pickle=False)
        with open(folder / "lines.jsonl", "rb") as file:
            self._lines = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._pixels, self._brightness = mapped("pixels.npy"), mapped("brightness.npy")

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> Any:  # type: ignore[override]  # slices are never asked for
        at = range(len(self))[index]
        value = json.loads(self._lines[self._starts[at] : self._starts[at + 1]])
        if self._pixels is not None:
            return Picture(self._pixels[at], value, None if self._brightness is None else self._brightness[at])
        if isinstance(value, str):
            return value
        ((kind, fields),) = value.items()
        return _question(fields) if kind == QuestionAnswer.__name__ else _conversation(fields)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))


def _question(fields: dict[str, Any]) -> QuestionAnswer:
    lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    return QuestionAnswer(**fields | lists | {"more": tuple(map(_question, fields["more"]))})


def _conversation(fields: dict[str, Any]) -> Conversation:
    return Conversation(tuple(Message(**message) for message in fields["messages"]))


def _new(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.memmap:
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def _stack(path: Path, arrays: Iterable[np.ndarray | None], count: int) -> None:
    """Write arrays of one shape and type one by one; they need not fit into memory twice."""
    out: np.memmap | None = None
    for i, array in enumerate(arrays):
        values = np.asarray(array)
        out = _new(path, values.dtype, (count, *values.shape)) if out is None else out
        out[i] = values
    if out is not None:
        out.flush()
