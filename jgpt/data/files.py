"""The user's own files: a text file, a folder of text files, or ids that were encoded elsewhere.

Owns what a path means and every complaint about a text file (`token_files` owns those about ids). Refuses to write, to
download and to guess an encoding: bytes that do not decode are an error that names the first of them.
"""

import codecs
import difflib
import os
from pathlib import Path
from typing import Final

from jgpt.check import require
from jgpt.data.examples import Splits, TokenStream
from jgpt.data.holdout import hold_out, tail_start
from jgpt.data.token_files import TOKEN_SUFFIXES, map_tokens, token_pair

CONTROL: Final = bytes({*range(32), 127} - {*b"\t\n\v\f\r\x1b"})  # bytes that text of any encoding in use avoids


def read_path(path: str, *, kind: str, encoding: str, validation_fraction: float, seed: int) -> Splits:
    """Read a file or folder as training and held-out examples.

    - A text file is one document; its last `validation_fraction` [characters] is held out. A byte order mark is dropped
      and line ends become a single newline, as Python reads text.
    - A folder is one document a file, below it at any depth, in order of path; hidden and empty files are left out,
      equal documents count once, and a seeded share of the documents is held out. With one file it is that file.
    - `.npy` (a 1-D array of integers) and `.bin` (uint16, little-endian, as nanoGPT writes) are ids; the tail is held
      out. A folder with `train.bin` and `val.bin`, or `train.npy` and `val.npy`, brings its own split.

    Args:
        path: the file or folder; `~` is the home folder.
        kind: kind of the task; only 'text' is read by path so far.
        encoding: Python name of the encoding of text files.
        validation_fraction: share to hold out.
        seed: of the draw of held-out documents.

    Returns:
        `Splits` of `str`, or of one `TokenStream` on each side.

    Raises:
        FileNotFoundError: nothing is at `path`, or the folder holds no files.
        ValueError: the kind is not 'text', or a file is empty, binary, in another encoding or no 1-D array of ids.
    """
    require(
        kind == "text",
        f"data.path {path!r} is given to a task of kind {kind!r}, and only 'text' is read by path so far: set "
        "--data.tasks.NAME.kind text, or drop the path and name a source with --data.tasks.NAME.source.",
    )
    where = Path(path).expanduser()
    if not where.exists():
        raise FileNotFoundError(_missing(path, where))
    if where.is_file():
        return _read_file(where, encoding, validation_fraction)
    pair = token_pair(where)
    if pair is not None:
        return Splits([TokenStream(map_tokens(pair[0]))], [TokenStream(map_tokens(pair[1]))])
    files = [file for file in _files_below(where) if file.stat().st_size]
    if not files:
        raise FileNotFoundError(
            f"the folder {path!r} holds no files (hidden and empty ones are left out): put a text file into it."
        )
    if len(files) == 1:
        return _read_file(files[0], encoding, validation_fraction)
    for file in files:
        require(
            file.suffix not in TOKEN_SUFFIXES,
            f"the folder {path!r} holds {len(files)} files, with ids in {file.name!r} among them: pass that file "
            f"itself, or name two files of ids train{file.suffix} and val{file.suffix}.",
        )
    documents = list(dict.fromkeys(_read_text(file, encoding) for file in files))
    if len(documents) == 1:
        return _cut(documents[0], validation_fraction)
    train, held = hold_out(len(documents), validation_fraction, seed)
    return Splits([documents[i] for i in train], [documents[i] for i in held])


def _read_file(file: Path, encoding: str, fraction: float) -> Splits:
    """Split one file at its tail, by characters or by ids."""
    if file.suffix in TOKEN_SUFFIXES:
        ids = map_tokens(file)
        require(len(ids) >= 2, f"{str(file)!r} holds {len(ids)} id: at least two are needed to split; add text.")
        cut = tail_start(len(ids), fraction)
        return Splits([TokenStream(ids[:cut])], [TokenStream(ids[cut:])])
    text = _read_text(file, encoding)
    require(len(text) >= 2, f"{str(file)!r} holds {len(text)} character: at least two are needed to split; add text.")
    return _cut(text, fraction)


def _cut(text: str, fraction: float) -> Splits:
    """Split one document at its tail [characters]."""
    cut = tail_start(len(text), fraction)
    return Splits([text[:cut]], [text[cut:]])


def _files_below(folder: Path) -> list[Path]:
    """Return the files at any depth in order of path; hidden ones are left out, and linked folders entered once."""
    found: list[Path] = []
    entered: set[str] = set()
    for name, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(name)
        folders[:] = [] if real in entered else [below for below in folders if not below.startswith(".")]
        if real not in entered:
            found += [Path(name) / file for file in files if not file.startswith(".")]
        entered.add(real)
    return sorted((file for file in found if file.is_file()), key=lambda file: file.relative_to(folder).parts)


def _read_text(file: Path, encoding: str) -> str:
    """Decode a whole file. Raises ValueError where it is empty, binary or in another encoding."""
    try:
        codecs.lookup(encoding)
    except LookupError:
        raise ValueError(
            f"data.encoding {encoding!r} is no encoding Python knows: use a name such as utf-8, latin-1 or utf-16."
        ) from None
    raw = file.read_bytes()
    require(bool(raw), f"{str(file)!r} is empty (0 bytes): put text into it, or pass another file with --data.path.")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            fix = "it begins with the byte order mark of UTF-16, so read it with --data.encoding utf-16."
        elif _looks_binary(raw):
            raise ValueError(_binary(file)) from None
        else:
            fix = "if it comes from an older system, read it with --data.encoding latin-1; else save it as UTF-8."
        raise ValueError(
            f"{str(file)!r} is no {encoding} text: the byte 0x{raw[error.start]:02x} at offset {error.start} of "
            f"{len(raw)} cannot be decoded ({error.reason}); {fix}"
        ) from None
    require(not _looks_binary(text.encode("utf-8", "replace")), _binary(file))
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    require(bool(text), f"{str(file)!r} is empty but for its byte order mark: put text into it, or pass another file.")
    return text


def _looks_binary(raw: bytes) -> bool:
    """Return whether `raw` holds a NUL, or more control characters than one byte in twenty."""
    return b"\0" in raw or len(raw) - len(raw.translate(None, CONTROL)) > len(raw) / 20


def _missing(path: str, where: Path) -> str:
    """Return the message for a path where nothing is, with the nearest name in its folder."""
    names = os.listdir(where.parent) if where.parent.is_dir() else []
    near = difflib.get_close_matches(where.name, names, n=1)
    hint = f" Did you mean {str(where.parent / near[0])!r}?" if near else ""
    return (
        f"data.path {path!r} does not exist (looked at {where.absolute()}).{hint} Pass an existing text file, folder "
        "of text files, .npy or .bin with --data.path."
    )


def _binary(file: Path) -> str:
    """Return the message for a file that is no text."""
    return (
        f"{str(file)!r} is a binary file, not text: unpack archives and export documents as plain text first, take it "
        "out of the folder, or save ids as .npy or .bin."
    )
