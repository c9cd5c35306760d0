"""Documents and examples laid down in a folder once, and mapped into memory by whoever needs some of them.

Owns these files, which live as long as a run has several processes (`tasks.shared`): reading one document or example touches
the pages it lies on. Files of ids that were there before are pointed to, never copied.
"""

import dataclasses
import json
import mmap
import socket
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from jgpt.batch import Document
from jgpt.check import require
from jgpt.data.examples import Conversation, Message, Picture, QuestionAnswer, TokenStream
from jgpt.data.token_files import open_tokens

NARROW: Final = np.iinfo(np.uint16).max  # ids up to here take two bytes
MARKS: Final = 256  # ids by which a file is known again


def write_documents(folder: Path, documents: Sequence[Document], examples: Sequence[Any]) -> None:
    """Lay down the encoded examples of one split.

    Args:
        folder: new.
        documents: at least one.
        examples: what they are encoded from, one each.
    """
    folder.mkdir(parents=True)
    if all(isinstance(example, TokenStream) and example.file is not None for example in examples):
        streams = [_pointer(stream, one.offset) for stream, one in zip(examples, documents, strict=True)]
        (folder / "streams.json").write_text(json.dumps(streams))
        return
    lengths = lengths_of(documents)
    for name, counts in (("lengths", lengths), ("trained", trained_of(documents))):
        _write(folder / f"{name}.npy", counts.dtype, counts.shape, [counts])
    top = max(int(document.tokens.max()) + document.offset for document in documents)
    narrow = np.dtype(np.uint16 if top <= NARROW else np.int32)
    ids = (document.tokens.astype(np.int32) + document.offset for document in documents)
    size = int(lengths.sum())
    _write(folder / "tokens.npy", narrow, (size,), ids)
    if all(document.weights is None for document in documents):
        return
    given = (document.weights for document in documents if document.weights is not None)
    marks = all(np.isin(weights, (0, 1)).all() for weights in given)  # the usual case takes a byte a token
    weights = (
        np.ones(len(document.tokens)) if document.weights is None else document.weights for document in documents
    )
    _write(folder / "weights.npy", np.dtype(np.uint8 if marks else np.float32), (size,), weights)


def open_documents(folder: Path) -> Sequence[Document]:
    """Return the documents that `write_documents` laid down; none is read before it is asked for.

    Raises:
        ValueError: a file of ids is another one here than where they were laid down.
        FileNotFoundError: it is not here.
    """
    streams = folder / "streams.json"
    if not streams.is_file():
        return StoredDocuments(folder)
    return [_follow(stream) for stream in json.loads(streams.read_text())]


class StoredDocuments(Sequence[Document]):
    """Documents in files.

    Args:
        folder: as `write_documents` has left it.
    """

    def __init__(self, folder: Path) -> None:
        self.lengths = np.load(folder / "lengths.npy", allow_pickle=False)
        self.trained = np.load(folder / "trained.npy", allow_pickle=False)
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self._tokens = np.load(folder / "tokens.npy", mmap_mode="r", allow_pickle=False)
        weights = folder / "weights.npy"
        self._weights = np.load(weights, mmap_mode="r", allow_pickle=False) if weights.is_file() else None

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Document:  # type: ignore[override]  # slices are never asked for
        at = range(len(self))[index]
        where = slice(self._starts[at], self._starts[at + 1])
        weights = None if self._weights is None else self._weights[where].astype(np.float32)
        return Document(self._tokens[where], weights)


def lengths_of(documents: Sequence[Document]) -> np.ndarray:
    """Return the tokens of each document, [documents]; stored ones are not read for it."""
    if isinstance(documents, StoredDocuments):
        return documents.lengths
    return np.array([len(document.tokens) for document in documents], np.int64)


def trained_of(documents: Sequence[Document]) -> np.ndarray:
    """Return how many targets of each document carry weight, [documents]; stored ones are not read for it."""
    if isinstance(documents, StoredDocuments):
        return documents.trained
    return np.array(
        [
            len(document.tokens) - 1 if document.weights is None else np.count_nonzero(document.weights[1:])
            for document in documents
        ],
        np.int64,
    )


def _pointer(stream: TokenStream, offset: int) -> dict[str, Any]:
    """Return where the ids of a stream lie, and what they are known by without reading all of them."""
    return {
        "file": str(Path(stream.file or "").absolute()),
        "first": stream.first,
        "count": len(stream.ids),
        "offset": offset,
        "mark": _mark(stream.ids),
    }


def _follow(pointer: dict[str, Any]) -> Document:
    file, first, count = Path(pointer["file"]), pointer["first"], pointer["count"]
    where = f"{str(file)!r} on {socket.gethostname()}"
    if not file.is_file():
        raise FileNotFoundError(
            f"{where} does not exist, where process 0 has found ids: every process maps them, so that they must lie on a file "
            "system that all share, or be copied to the same place of each host."
        )
    ids = open_tokens(file)[first : first + count]
    require(
        len(ids) == count and _mark(ids) == pointer["mark"],
        f"{where} holds other ids than on the host of process 0: every process maps them; copy the same file to each host.",
    )
    return Document(ids, None, offset=pointer["offset"])


def _mark(ids: np.ndarray) -> int:
    """Return a checksum of ids at even distances, the first and the last among them; few pages are read."""
    return zlib.crc32(ids[np.linspace(0, len(ids) - 1, MARKS).astype(np.int64)].astype(np.int64).tobytes())


def write_examples(folder: Path, examples: Sequence[Any]) -> None:
    """Lay down examples: pictures of one shape, or texts, questions and conversations, a line of JSON each.

    Args:
        folder: new.
        examples: of one kind.
    """
    folder.mkdir(parents=True)
    if isinstance(examples[0], Picture):
        shape, byte = (len(examples), *examples[0].pixels.shape), np.dtype(np.uint8)
        _write(folder / "pixels.npy", byte, shape, (picture.pixels for picture in examples))
        if examples[0].brightness is not None:
            _write(folder / "brightness.npy", byte, shape, (picture.brightness for picture in examples))
        lines = [picture.caption for picture in examples]
    else:
        lines = [
            text if isinstance(text, str) else {type(text).__name__: dataclasses.asdict(text)} for text in examples
        ]
    starts = [0]
    with open(folder / "lines.jsonl", "wb") as file:
        for line in lines:
            starts.append(starts[-1] + file.write(json.dumps(line).encode("ascii") + b"\n"))
    _write(folder / "starts.npy", np.dtype(np.int64), (len(starts),), [np.array(starts)])


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


def _question(fields: dict[str, Any]) -> QuestionAnswer:
    lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    return QuestionAnswer(**fields | lists | {"more": tuple(map(_question, fields["more"]))})


def _conversation(fields: dict[str, Any]) -> Conversation:
    return Conversation(tuple(Message(**message) for message in fields["messages"]), fields["place"])


def _write(path: Path, dtype: np.dtype, shape: tuple[int, ...], parts: Iterable[np.ndarray]) -> None:
    """Write an array part by part, so that it need not fit into memory twice.

    Neither through a mapping, where a full disk ends the process by a signal (SIGBUS) without a word, nor by `numpy.save`,
    whose error then does not say that it is full.
    """
    with open(path, "wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype).tobytes())
