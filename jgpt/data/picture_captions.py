"""Captions files: JSON, JSON lines, CSV or TSV that say what each picture of a folder shows.

Owns which files count as captions, which of their fields are read, and how an entry finds its picture. Refuses pixels.
Four forms, after the file's ending:

- `.json`, a list of objects: `[{"file": "a.png", "caption": "a cat"}, ...]`
- `.json`, a mapping: `{"a.png": "a cat"}`, also by name without ending, in any case: `{"A": "a cat"}`
- `.jsonl`, one object a line
- `.csv`, `.tsv`, with a header: `file,caption`; a caption with a comma in it stands in quotes
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from jgpt.check import require
from jgpt.config import DataConfig
from jgpt.data.decoding import check_characters, decode_records
from jgpt.data.read_log import BadRecord
from jgpt.data.tables import LINES, TABLES, names_of, parse_json, rows_of

SUFFIXES: Final = (".json", ".jsonl", ".csv", ".tsv")
NAMES: Final = ("captions", "labels", "metadata", "annotations")  # looked for beside a folder too
FILE_FIELDS: Final = ("file", "file_name", "filename", "image", "picture", "path")
CAPTION_FIELDS: Final = ("caption", "text", "title", "label", "class", "description", "name")


@dataclass(frozen=True)
class Entry:
    """What one entry says: a picture's name, its caption, and where that stands, for messages."""

    file: str
    caption: str
    where: str


@dataclass(frozen=True)
class Captions:
    """A captions file.

    Attributes:
        path: the file.
        form: in words, such as "JSON list (file, caption)".
        entries: what it says, in order; a picture may have several.
        broken: (place, complaint) of entries that say nothing usable.
    """

    path: Path
    form: str
    entries: tuple[Entry, ...]
    broken: tuple[tuple[str, str], ...]


def find_captions(
    folder: Path, stems: set[str], columns: Mapping[str, str], encoding: str
) -> tuple[Captions | None, dict[str, str]]:
    """Return the captions file in a folder, else one beside it that is named captions, labels, ... or after it.

    A file named so must be readable as captions. Any other JSON or CSV in the folder counts where it is, and a mapping
    only where it names one of the pictures.

    Args:
        folder: of the pictures.
        stems: lower-case names of the pictures, without endings.
        columns: the user's names for "file" and "caption".
        encoding: of the file.

    Returns:
        The captions, and of other files in the folder that could not be read as such the name and why.

    Raises:
        ValueError: several files are captions, or one that is named like captions is not.
    """
    inside = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    beside = [
        path
        for path in sorted(folder.absolute().parent.iterdir())
        if path.suffix.lower() in SUFFIXES and path.stem.lower() in (*NAMES, folder.absolute().name.lower())
    ]
    unread: dict[str, str] = {}
    for candidates in (inside, beside):
        found = []
        for path in candidates:
            try:
                captions = read_captions(path, columns, encoding)
            except ValueError as error:
                if path.stem.lower() in NAMES:
                    raise
                if candidates is inside:
                    unread[path.name] = str(error)
                continue
            if path.stem.lower() in NAMES or any(Path(e.file).stem.lower() in stems for e in captions.entries):
                found.append(captions)
        require(
            len(found) <= 1,
            f"{str(folder)!r} has {len(found)} captions files ({', '.join(c.path.name for c in found)}): keep one, or "
            "name the one to use instead of the folder.",
        )
        if found:
            return found[0], unread
    return None, unread


def could_be_captions(path: Path, data: DataConfig) -> bool:
    """Return whether a file is named as captions are, or can be read as such; a table of questions cannot."""
    if path.stem.lower() in NAMES:
        return True
    try:
        read_captions(path, data.columns, data.encoding)
    except ValueError:
        return False
    return True


def read_captions(path: Path, columns: Mapping[str, str], encoding: str) -> Captions:
    """Read a captions file.

    Args:
        path: the file; its ending says which form it has.
        columns: the user's names for "file" and "caption"; else the first of FILE_FIELDS and CAPTION_FIELDS there is.
        encoding: of the file.

    Raises:
        ValueError: it has none of the forms, or lacks a field.
    """
    text, suffix = decode_records(path.read_bytes(), str(path), encoding), path.suffix.lower()
    if suffix in TABLES:
        names, rows = rows_of(text, suffix, str(path), encoding)
        form = "JSON lines" if suffix in LINES else suffix[1:].upper()
        return _from_rows(path, form, names, [(row, f"line {line}") for line, row in rows], columns, encoding)
    try:
        value = parse_json(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{str(path)!r}, line {error.lineno}, column {error.colno}: no JSON ({error.msg}); correct it there."
        ) from None
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is no JSON ({error}): correct the file.") from None
    plain = isinstance(value, dict) and not any(isinstance(of, dict | list) for of in value.values())
    if plain and any(isinstance(caption, str) for caption in value.values()):
        pairs = [({"key": key, "value": caption}, f"key {key!r}") for key, caption in value.items()]
        found = _from_rows(path, "", ["key", "value"], pairs, {"file": "key", "caption": "value"}, encoding)
        return replace(found, form="JSON mapping")
    require(
        isinstance(value, list) and bool(value),
        f"{str(path)!r} is no captions file: it must hold a list of objects such as "
        '{"file": "a.png", "caption": "a cat"}, or a mapping {"a.png": "a cat"}.',
    )
    entries = [(row, f"entry {i}") for i, row in enumerate(value, 1)]
    return _from_rows(path, "JSON list", names_of(value), entries, columns, encoding)


def _from_rows(
    path: Path,
    form: str,
    fields: Sequence[str],
    rows: Sequence[tuple[Any, str]],
    columns: Mapping[str, str],
    encoding: str,
) -> Captions:
    """Return the captions of rows of fields, each a record or a BadRecord with the place it stands at."""
    names = {
        ours: _field(path, ours, fields, columns, known)
        for ours, known in (("file", FILE_FIELDS), ("caption", CAPTION_FIELDS))
    }
    entries, complaints = [], []
    for row, where in rows:
        file = row.get(names["file"]) if isinstance(row, dict) else None
        caption = _words(row.get(names["caption"])) if isinstance(row, dict) else None
        try:
            if isinstance(row, BadRecord):
                raise row
            if not isinstance(file, str) or not file.strip() or caption is None:
                raise BadRecord(f"there is no usable {names['file']!r} and {names['caption']!r}")
            for value in (file, caption):
                check_characters(value, encoding)
        except BadRecord as error:
            complaints.append((f"{str(path)!r}, {where}", str(error)))
        else:
            entries.append(Entry(file.strip(), caption, where))
    return Captions(path, f"{form} ({names['file']}, {names['caption']})", tuple(entries), tuple(complaints))


def _field(path: Path, ours: str, fields: Sequence[str], columns: Mapping[str, str], known: Sequence[str]) -> str:
    """Return the user's name of a field. Raises ValueError where there is none."""
    wanted = [columns[ours]] if ours in columns else list(known)
    found = next((name for name in wanted if name in fields), None)
    if found is None:
        raise ValueError(
            f"{str(path)!r} has no field {' or '.join(map(repr, wanted))} for the {ours}; its fields: "
            f"{', '.join(fields) or 'none'}. Name yours: --data.columns {ours} YOUR_NAME."
        )
    return found


def _words(value: Any) -> str | None:
    """Return a caption as text, parts of a list joined by commas; None for what is no text."""
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return ", ".join(value).strip()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value.strip() if isinstance(value, str) else None


class Index:
    """Pictures of a folder, found by what a captions file calls them.

    Tried in this order: the path below the folder, the file's name, the name without ending, and the same in any case. A
    path names a picture by the end alone only where one of the two is the end of the other.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._forms: list[dict[str, list[int]]] = [{} for _ in range(6)]
        self._folders = [_folders(path) for path in paths]
        for number, path in enumerate(paths):
            for form, key in zip(self._forms, _keys(path), strict=True):
                form.setdefault(key, []).append(number)

    def find(self, file: str) -> list[int]:
        """Return the numbers of the pictures that `file` may mean, under the first form that fits any."""
        keys = _keys(file)
        # A name without ending has itself as its stem; a path that does not exist as such may still name a file.
        own = _folders(file)
        for form, key in zip(self._forms, keys, strict=True):
            found = [number for number in form.get(key, ()) if _one_ends_other(own, self._folders[number])]
            if found:
                return found
        return []


def _folders(path: str) -> list[str]:
    return _keys(path)[3].split("/")[:-1]


def _one_ends_other(a: list[str], b: list[str]) -> bool:
    shared = min(len(a), len(b))
    return a[len(a) - shared :] == b[len(b) - shared :]


def _keys(path: str) -> tuple[str, ...]:
    path = path.replace("\\", "/").removeprefix("./")
    name = path.rpartition("/")[2]
    stem = name.rpartition(".")[0] or name
    return path, name, stem, path.lower(), name.lower(), stem.lower()
