"""The files that a path stands for: itself, those below a folder, those inside an archive.

Owns walking, decompression (gzip, xz, bzip2, tar, zip), which files are never data (licences), and which belong to the
train, validation or test split by name. Refuses to write to disk, and to expand more than `EXPANDED_BYTES`.
"""

import bz2
import gzip
import io
import lzma
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final, NoReturn

from jgpt.check import require

EXPANDED_BYTES: Final = 1 << 30  # of one compressed file or archive; they are read into memory
OPENERS: Final[dict[str, Callable[[IO[bytes]], io.BufferedIOBase]]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".xz": lambda file: lzma.LZMAFile(file),
    ".bz2": lambda file: bz2.BZ2File(file),
}
ARCHIVE: Final = re.compile(r"\.(tar|tar\.gz|tgz|tar\.xz|txz|tar\.bz2|tbz2?|zip)$", re.IGNORECASE)
NEVER_DATA: Final = re.compile(r"(licen[cs]e|copying|copyright|notice)([._-].*)?", re.IGNORECASE)
PART_NUMBER: Final = re.compile(r"\d+[^a-z]*of[^a-z]*\d+$")  # "00001-of-00003"
SPLIT_NAMES: Final = {
    "train": "train",
    "training": "train",
    "valid": "validation",
    "validation": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class InputFile:
    """One file to read, wherever it lies.

    Attributes:
        name: path below the folder or archive, without the suffix of a compression: "part/qa.jsonl".
        where: what a message calls it.
        load: returns its bytes.
    """

    name: str
    where: str
    load: Callable[[], bytes]

    @property
    def suffix(self) -> str:
        """Suffix in lower case, such as ".csv"; empty where there is none."""
        return PurePosixPath(self.name).suffix.lower()

    @property
    def stem(self) -> str:
        """Name without folder and suffix."""
        return PurePosixPath(self.name).stem


def list_inputs(path: Path) -> tuple[list[InputFile], list[str]]:
    """Return the data files of a file, folder or archive in order of path, and what is left out: licences, empty files.

    Raises:
        ValueError: an archive is broken, encrypted or expands to more than `EXPANDED_BYTES`; or files come in splits, and one
            of them is empty.
    """
    if path.is_file():
        return _expand(path, path.name, alone=True), []
    names = {file: file.relative_to(path).as_posix() for file in files_below(path)}
    sizes = {file: file.stat().st_size for file in names}
    found = [file for file in names if sizes[file]]
    empty = next((file for file in names if not sizes[file] and split_of(names[file])), None)
    require(  # else a share of the others would be held out instead
        empty is None or not _come_in_splits([split_of(name) for name in names.values()]),
        f"{str(empty)!r} is empty, though named after its split: fill it, or take it away.",
    )
    inputs = [entry for file in found for entry in _expand(file, names[file], alone=False)]
    data = [entry for entry in inputs if not is_never_data(entry.name)]
    hollow = [f"{name} (empty)" for file, name in names.items() if not sizes[file]]
    if not data:  # a folder of licences is what the user has
        return inputs, hollow
    return data, [entry.name for entry in inputs if is_never_data(entry.name)] + hollow


def files_below(folder: Path) -> list[Path]:
    """Return the files at any depth in order of path; hidden ones are left out, and linked folders entered once."""
    found: list[Path] = []
    entered: set[str] = set()
    for name, folders, files in os.walk(folder, followlinks=True, onerror=_unreadable):
        real = os.path.realpath(name)
        folders[:] = [] if real in entered else sorted(below for below in folders if not below.startswith("."))
        if real not in entered:
            found += [Path(name) / file for file in files if not file.startswith(".")]
        entered.add(real)
    return sorted((file for file in found if file.is_file()), key=lambda file: file.relative_to(folder).parts)


def entries_of(folder: Path) -> list[Path]:
    """Return what lies in a folder in order; nothing where it may not be read: it need not be the user's own."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _unreadable(error: OSError) -> NoReturn:
    raise ValueError(
        f"the folder {error.filename!r} cannot be read ({error.strerror}): allow it, or move it away."
    ) from None


def is_never_data(name: str) -> bool:
    """Return whether a file is a licence or the like, which lies beside data and is none."""
    return NEVER_DATA.fullmatch(PurePosixPath(name).name) is not None


def split_of(name: str) -> str | None:
    """Return "train", "validation" or "test" where a folder, an archive or the file is named so, the topmost first, else None.

    "train.jsonl", "train-v1.1.json", "trivia_dev.csv", "wiki-test-00001-of-00003.jsonl", "corpus/test/a.txt" and
    "dev.zip/a.txt" are; "contest.txt" is not.
    """
    *folders, file = PurePosixPath(name.lower()).parts
    for folder in folders:
        word = _split_word(ARCHIVE.sub("", folder)) if ARCHIVE.search(folder) else folder
        if word in SPLIT_NAMES:
            return SPLIT_NAMES[word]
    return SPLIT_NAMES.get(_split_word(file.removesuffix(PurePosixPath(file).suffix)))


def _split_word(stem: str) -> str:
    """Return the first or the last word of a file's name, the one that names a split; numbers behind it are of its parts."""
    words = [word for word in re.split(r"[^a-z]+", PART_NUMBER.sub("", stem)) if word]
    return next((word for word in (*words[:1], *words[-1:]) if word in SPLIT_NAMES), "")


def own_splits(files: Sequence[InputFile]) -> dict[str, list[InputFile]] | None:
    """Return the files by split where they are named after splits, and some are for training; else None.

    Where most are not, as among the pages of a manual, the others have such a name by chance.

    Raises:
        ValueError: most are named after splits, and some are not.
    """
    splits = [split_of(file.name) for file in files]
    if not _come_in_splits(splits):
        return None
    parts: dict[str, list[InputFile]] = {}
    for split, file in zip(splits, files, strict=True):
        parts.setdefault(split or "", []).append(file)
    strange = parts.pop("", [])
    if strange:
        named = len(files) - len(strange)
        names = ", ".join(sorted(of[0].name for of in parts.values()))
        raise ValueError(
            f"{named} files are named after their split ({names}), and {len(strange)} are not, such as "
            f"{strange[0].where!r}: name it after the part that it belongs to, or move it away."
        )
    return parts


def _come_in_splits(splits: Sequence[str | None]) -> bool:
    """Return whether files of these splits are named after them: most are, some for training and some not."""
    named = [split for split in splits if split]
    return "train" in named and len(set(named)) > 1 and 2 * len(named) > len(splits)


def _expand(file: Path, name: str, *, alone: bool) -> list[InputFile]:
    """Return a file as it is, decompressed when loaded, or the files inside it where it is an archive."""
    if ARCHIVE.search(name):
        members = _zip_members(file) if name.lower().endswith(".zip") else _tar_members(file)
        inside = "" if alone else f"{name}/"
        return [
            InputFile(f"{inside}{member}", f"{file}/{member}", lambda content=content: content)
            for member, content in members
        ]
    opener = OPENERS.get(file.suffix.lower())
    if opener is None:
        return [InputFile(name, str(file), file.read_bytes)]
    return [InputFile(name[: -len(file.suffix)], str(file), lambda: _decompress(file, opener))]


def _decompress(file: Path, opener: Callable[[IO[bytes]], io.BufferedIOBase]) -> bytes:
    try:
        with open(file, "rb") as raw, opener(raw) as expanded:
            content = expanded.read(EXPANDED_BYTES + 1)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(_broken(file, error)) from None
    require(len(content) <= EXPANDED_BYTES, _too_large(file))
    return content


def _tar_members(file: Path) -> list[tuple[str, bytes]]:
    members: list[tuple[str, bytes]] = []
    total = 0
    try:
        with tarfile.open(file) as archive:
            for member in archive:
                total += member.size if member.isfile() else 0
                require(total <= EXPANDED_BYTES, _too_large(file))
                content = archive.extractfile(member) if member.isfile() else None
                if content is not None and member.size:
                    members.append((member.name, content.read()))
    except (tarfile.TarError, OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(_broken(file, error)) from None
    return _visible(file, members)


def _zip_members(file: Path) -> list[tuple[str, bytes]]:
    members: list[tuple[str, bytes]] = []
    left = EXPANDED_BYTES
    try:
        with zipfile.ZipFile(io.BytesIO(file.read_bytes())) as archive:
            for member in archive.infolist():
                if member.is_dir():
                    continue
                with archive.open(member) as content:  # what its header says of its size need not be true
                    read = content.read(left + 1)
                left -= len(read)
                require(left >= 0, _too_large(file))
                if read:
                    members.append((member.filename, read))
    except (
        zipfile.BadZipFile,
        RuntimeError,
        NotImplementedError,
        OSError,
        EOFError,
        lzma.LZMAError,
        zlib.error,
    ) as error:
        raise ValueError(_broken(file, error)) from None
    return _visible(file, members)


def _visible(file: Path, members: Iterable[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Return members in order of path without hidden ones, such as those of __MACOSX."""
    kept = [
        (str(PurePosixPath(name)), content)
        for name, content in members
        if not any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)
    ]
    require(bool(kept), f"the archive {str(file)!r} holds no files: pack data into it, or pass another path.")
    return sorted(kept, key=lambda member: PurePosixPath(member[0]).parts)


def _broken(file: Path, error: Exception) -> str:
    return f"{str(file)!r} cannot be decompressed ({error}): it is cut off or damaged; get it again, or unpack it."


def _too_large(file: Path) -> str:
    return (
        f"{str(file)!r} expands to more than {EXPANDED_BYTES:,} bytes, the most that is read from one compressed file "
        "(a small file may be made to fill a disk): unpack it yourself and pass the folder with --data.path."
    )
