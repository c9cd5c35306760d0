"""What a path of the user's is: looked up in suffixes and content, read by the reader of its format, and split.

Owns `read_path`, the order in which formats are tried, and every complaint about what a path stands for. Refuses to read
a format itself. `SPLIT_NAMES` of `inputs` bring a split of their own; else `splitting` draws one that does not leak.
"""

import difflib
import json
import os
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

from jgpt.check import listed, require
from jgpt.config import COLUMNS, DataConfig
from jgpt.data.columns import check_columns
from jgpt.data.decoding import decode_records, decode_text
from jgpt.data.examples import Splits
from jgpt.data.files import read_texts, read_tokens
from jgpt.data.inputs import InputFile, entries_of, files_below, is_never_data, list_inputs, own_splits, split_of
from jgpt.data.picture_captions import could_be_captions
from jgpt.data.picture_files import PICTURE_SUFFIXES, is_pictures
from jgpt.data.quiz import is_quiz, read_index, read_quiz
from jgpt.data.read_log import KnownIds, OtherKind, ReadLog
from jgpt.data.splitting import NAMES, kind_of, splits_of, without_held_out
from jgpt.data.squad import is_squad, read_squad
from jgpt.data.tables import SEPARATED, TABLES, parse_json, read_table
from jgpt.data.trivia import is_trivia, read_trivia

CAPTIONS: Final = (".json", *TABLES)
BABI: Final = re.compile(r"qa\d+_.*_(train|test|valid)\.txt")
ABOUT_DATA: Final = re.compile(r"(readme|changelog|changes|citation|authors|credits|index)([._-].*)?", re.IGNORECASE)
Examples = Iterator[tuple[Any, Hashable]]


@dataclass(frozen=True)
class Reading:
    """What the readers need to know.

    Attributes:
        kind: of the task, or "auto".
        data: the user's choices.
        index: of quiz files: names of the fields by file.
        log: gets bad records and counts.
    """

    kind: str
    data: DataConfig
    index: Mapping[str, list[str]]
    log: ReadLog


def read_path(path: str, *, kind: str, data: DataConfig, validation_fraction: float | None, seed: int) -> Splits:
    """Recognise a file, folder or archive and read it as training and held-out examples.

    - Text: a file is one document, whose last `validation_fraction` [characters] is held out; a folder is one document
      a file, below it at any depth, in order of path. Hidden and empty files and licences are left out, equal
      documents count once, and a seeded share of the documents is held out.
    - Records: JSON lines, a JSON list, CSV and TSV with named columns (see `columns`), SQuAD JSON, OpenTriviaQA,
      quiz(6), bAbI. Held out is a seeded share that neither repeats a question nor shares a context with training.
    - Ids: `.npy` (1-D integers) and `.bin` (uint16, as nanoGPT writes); the tail is held out.
    - Pictures: see `picture_files`.
    - Any of the text formats also as .gz, .xz, .bz2, .zip or .tar, which are read in memory.
    - Files, archives or folders (the topmost counts) named train and valid, validation, val, dev or test bring a split.

    Args:
        path: the file or folder; `~` is the home folder.
        kind: of the task; "auto" takes what is recognised.
        data: encoding, columns, and what is done about bad records.
        validation_fraction: share to hold out; None = everything is, whatever the files are called, and as it lies.
        seed: of the draw of held-out examples.

    Returns:
        `Splits` with its kind, what was recognised, and notes.

    Raises:
        FileNotFoundError: nothing is at `path`, or the folder holds no files.
        ValueError: what is there is not of the task's kind, or a file or record breaks a rule of its format.
    """
    where = Path(path).expanduser()
    if not where.exists():
        raise FileNotFoundError(_missing(path, where))
    pictures = _pictures(where, kind, data)
    if pictures is not None:
        _check_kind(path, "image", kind, "pictures")
        from jgpt.data.picture_files import read_pictures

        splits = read_pictures(pictures, data=data, validation_fraction=validation_fraction, seed=seed)
        return replace(splits, kind="image", recognised=splits.recognised or "pictures")
    tokens = read_tokens(where, validation_fraction)
    if tokens is not None:
        _check_kind(path, "text", kind, tokens.recognised)
        check_columns(data, (), tokens.recognised)
        return tokens
    files, left_out = list_inputs(where)
    if not files:
        raise FileNotFoundError(
            f"the folder {path!r} holds no files (hidden and empty ones are left out): put a text file into it."
        )
    require(
        2 * sum(file.suffix in PICTURE_SUFFIXES for file in files) <= len(files),
        f"data.path {path!r} is, or holds, an archive of pictures, and those are read from a folder: unpack it and pass "
        "the folder with --data.path.",
    )
    log = ReadLog(data.on_bad_record)
    data_files = [file for file in files if not _is_about_data(file)]
    babi = [file for file in data_files if BABI.fullmatch(PurePosixPath(file.name).name)]
    if babi and len(babi) == len(data_files):
        _check_kind(path, "qa", kind, "bAbI")
        check_columns(data, (), "bAbI")
        from jgpt.data.babi import read_babi

        splits = read_babi(_babi_texts(path, babi, data.encoding), log, whole=validation_fraction is None)
        notes = splits.notes + _left_out_note([*left_out, *(file.name for file in files if file not in babi)])
        recognised = splits.recognised or f"bAbI, {len(babi)} files"
        return replace(splits, kind="qa", recognised=recognised, notes=notes)
    splits = _read_files(path, where, files, left_out, kind, data, validation_fraction, seed, log)
    return replace(splits, skipped=tuple(log.skipped))


def _babi_texts(path: str, files: Sequence[InputFile], encoding: str) -> dict[str, str]:
    """Return the texts of bAbI files by name. Raises ValueError where two folders hold a file of the same name."""
    named: dict[str, InputFile] = {}
    for file in files:
        name = PurePosixPath(file.name).name
        first = named.setdefault(name, file)
        folders = " and ".join(repr(str(PurePosixPath(of.name).parent)) for of in (first, file))
        require(
            first is file,
            f"data.path {path!r} holds {name!r} in two folders, {folders}: they are two editions of bAbI, such as en and "
            "shuffled; pass one of them.",
        )
    return {name: decode_text(file.load(), file.where, encoding) for name, file in named.items()}


def _left_out_note(names: Sequence[str]) -> tuple[str, ...]:
    return (f"left out, as no data: {', '.join(names[:10])}",) if names else ()


def _read_files(
    path: str,
    where: Path,
    files: list[InputFile],
    left_out: list[str],
    kind: str,
    data: DataConfig,
    fraction: float | None,
    seed: int,
    log: ReadLog,
) -> Splits:
    """Read files of one format and split them."""
    index = _quiz_index(where, files)
    formats = {file.name: _format(file, kind, index, data.encoding) for file in files}
    if len(set(formats.values())) > 1 and kind == "text":
        formats = dict.fromkeys(formats, "text")  # a folder of sources holds tables too: all are texts
    elif len(set(formats.values())) > 1:
        about = [file.name for file in files if formats[file.name] == "text" and _is_about_data(file)]
        files = [file for file in files if file.name not in about]
        left_out = [*left_out, *about]
        formats = {file.name: formats[file.name] for file in files}
        found = {name: next(file for file in formats if formats[file] == name) for name in formats.values()}
        require(
            len(found) == 1,
            f"the folder {path!r} holds files of several formats ("
            + ", ".join(f"{FORMATS[name].words}: {file!r}" for name, file in found.items())
            + "): pass one of them, or move the others elsewhere.",
        )
    form = FORMATS[next(iter(formats.values()))]
    if form.kind is not None:
        _check_kind(path, form.kind, kind, form.words)
    reading = Reading(kind, data, index, log)
    parts = own_splits([file for file in files if not _is_about_data(file)]) if fraction is not None else None
    if parts is not None:
        named = {file.name for of in parts.values() for file in of}
        left_out = [*left_out, *(file.name for file in files if file.name not in named)]
        files = [file for file in files if file.name in named]
    read = {part: list(form.read(of, reading)) for part, of in (parts or {"": files}).items()}
    examples = [example for of in read.values() for example, _ in of]
    require(
        bool(examples),
        f"data.path {path!r}: of {form.words} no record is left to learn from: "
        f"{'; '.join(log.notes())[:400] or 'there is a header and nothing below it'}.",
    )
    try:
        found_kind = kind_of(examples)
    except ValueError as error:
        raise ValueError(f"data.path {path!r}: {error}") from None
    words = form.words if form.words != "records" else _table_words(files, found_kind)
    alone = found_kind == "text" and len(examples) == 1
    amount = f"{len(examples[0]):,} characters" if alone else f"{len(examples):,} {NAMES[found_kind]}"
    recognised = f"{words}, {amount} in {len(files)} file{'s' * (len(files) > 1)}"
    _check_kind(path, found_kind, kind, recognised)
    check_columns(data, COLUMNS[found_kind] if form.kind is None else (), words)
    by_chance = [file.name for file in files if split_of(file.name)] if fraction is not None and parts is None else []
    notes = log.notes() + _left_out_note(left_out)
    if by_chance and len(files) > 1:
        names = listed(by_chance, 5)
        notes += (f"named like parts of a split, and read as any other (most are not, or a part is missing): {names}",)
    if fraction is None:
        return Splits([], examples, kind=found_kind, recognised=recognised, notes=notes)
    if parts is not None:
        return _given(path, read, found_kind, recognised, notes)
    try:
        splits = splits_of(examples, fraction, seed, [group for _, group in read[""]])
    except ValueError as error:
        raise ValueError(f"data.path {path!r}: {error}") from None
    return replace(splits, recognised=recognised, notes=notes + splits.notes)


def _given(
    path: str, read: dict[str, list[tuple[Any, Hashable]]], kind: str, recognised: str, notes: tuple[str, ...]
) -> Splits:
    """Return the split that files named after splits bring with them."""
    parts = {part: [example for example, _ in of] for part, of in read.items()}
    held = "validation" if "validation" in parts else "test"
    for part in ("train", held):
        require(bool(parts[part]), f"data.path {path!r}: its {part} files hold no record: add some, or take them out.")
    train, leaks = without_held_out(parts["train"], parts[held])
    notes += (
        f"split by file names: training on train ({len(train):,}), held out {held} ({len(parts[held]):,})",
        *leaks,
    )
    if held == "validation" and "test" in parts:
        notes += (f"not read in training or validation: test ({len(parts['test']):,} {NAMES[kind]})",)
    return Splits(train, parts[held], kind=kind, recognised=recognised, notes=notes)


@dataclass(frozen=True)
class Format:
    """A way in which files are written.

    Attributes:
        words: what a user calls it.
        kind: of its examples; None where the content decides.
        read: yields the examples of files, each with the group it belongs to, None for no group.
    """

    words: str
    kind: str | None
    read: Callable[[Sequence[InputFile], Reading], Examples]


def _read_text_files(files: Sequence[InputFile], reading: Reading) -> Examples:
    for text in read_texts(files, reading.data.encoding, reading.log):
        yield text, None


def _read_tables(files: Sequence[InputFile], reading: Reading) -> Examples:
    seen = KnownIds()
    for file in files:
        _, examples = read_table(
            file,
            kind=reading.kind,
            columns=reading.data.columns,
            encoding=reading.data.encoding,
            log=reading.log,
            seen=seen,
        )
        for example in examples:
            yield example, None


def _read_squads(files: Sequence[InputFile], reading: Reading) -> Examples:
    seen = KnownIds()
    for file in files:
        text = decode_records(file.load(), file.where, reading.data.encoding)
        yield from read_squad(parse_json(text), text, file, reading.log, seen)


def _read_trivias(files: Sequence[InputFile], reading: Reading) -> Examples:
    for file in files:
        for example in read_trivia(file, reading.data.encoding, reading.log):
            yield example, None


def _read_quizzes(files: Sequence[InputFile], reading: Reading) -> Examples:
    for file in files:
        for example in read_quiz(file, reading.data.encoding, reading.index, reading.log):
            yield example, None


FORMATS: Final[dict[str, Format]] = {
    "text": Format("text", "text", _read_text_files),
    "table": Format("records", None, _read_tables),
    "squad": Format("SQuAD JSON", "qa", _read_squads),
    "trivia": Format("OpenTriviaQA", "qa", _read_trivias),
    "quiz": Format("quiz(6)", "qa", _read_quizzes),
}


def _format(file: InputFile, kind: str, index: Mapping[str, list[str]], encoding: str) -> str:
    """Return the name of a file's format in `FORMATS`."""
    if file.suffix in TABLES:
        return "table"
    if file.suffix == ".json":
        text = decode_records(file.load(), file.where, encoding)
        if text.lstrip().startswith("["):
            return "table"
        try:
            content = parse_json(text)
        except ValueError as error:
            if kind == "text":
                return "text"
            line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
            fix = "name it .jsonl, if it holds an object a line" if "Extra data" in str(error) else "correct the file"
            raise ValueError(f"{file.where}{line}: is no JSON ({error}): {fix}.") from None
        require(
            is_squad(content) or kind == "text",
            f"{file.where!r} is JSON of no known layout: write a list of objects, SQuAD's "
            '{"data": [{"paragraphs": ...}]}, or one object a line in a .jsonl file; to read it as plain text, set '
            "--data.tasks.NAME.kind text.",
        )
        return "squad" if is_squad(content) else "text"
    if PurePosixPath(file.name).name in index:
        return "quiz"
    if is_trivia(file.load()):
        return "trivia"
    return "quiz" if index and not _is_about_data(file) and is_quiz(file.load()) else "text"


def _quiz_index(where: Path, files: Sequence[InputFile]) -> dict[str, list[str]]:
    """Return the index of a folder of quiz files, or of the folder of a single one; nothing where there is none."""
    indices = [file for file in files if PurePosixPath(file.name).name == "index"]
    if indices:
        raw = indices[0].load()
    elif where.is_file() and (where.parent / "index").is_file() and where.name != "index":
        raw = (where.parent / "index").read_bytes()
    else:
        return {}
    names = read_index(raw.decode("latin-1"))
    return names if any(PurePosixPath(file.name).name in names for file in files) else {}


def _is_about_data(file: InputFile) -> bool:
    return ABOUT_DATA.fullmatch(PurePosixPath(file.name).name) is not None


def _pictures(where: Path, kind: str, data: DataConfig) -> Path | None:
    """Return the path that `picture_files` is to read, None where there are no pictures.

    A captions file beside its pictures stands for the pictures of its folder, with the captions in it and no other's.
    """
    if where.is_file():
        if where.suffix.lower() in PICTURE_SUFFIXES or is_pictures(where):
            return where
        captions = kind in ("auto", "image") and where.suffix.lower() in CAPTIONS
        return where if captions and _names_pictures(where) and could_be_captions(where, data) else None
    files = [file for file in files_below(where) if file.stat().st_size and not is_never_data(file.name)]
    pictures = sum(file.suffix.lower() in PICTURE_SUFFIXES or is_pictures(file) for file in files)
    others = sum(file.suffix.lower() not in (*PICTURE_SUFFIXES, *CAPTIONS) and not is_pictures(file) for file in files)
    return where if pictures > others or (pictures and kind == "image") else None


def _names_pictures(file: Path) -> bool:
    """Return whether pictures lie beside a file, or in folders beside it, and most of them are named in it."""
    beside = entries_of(file.parent)
    found = [*beside, *(entry for folder in beside if folder.is_dir() for entry in entries_of(folder))]
    found = [entry for entry in found if entry.suffix.lower() in PICTURE_SUFFIXES][:20]
    if not found:
        return False
    text = file.read_bytes().decode("utf-8", "replace").lower()
    words = set(re.split(r"[\s\"',;:\[\]{}]+", text))
    named = sum(entry.name.lower() in text or entry.stem.lower() in words for entry in found)
    return named > len(found) / 2


def _table_words(files: Sequence[InputFile], kind: str) -> str:
    suffixes = {file.suffix for file in files}
    names = {**{suffix: suffix[1:].upper() for suffix in SEPARATED}, ".json": "JSON list"}
    written = " and ".join(sorted({names.get(suffix, "JSON lines") for suffix in suffixes}))
    return f"{written} of {NAMES[kind]}"


def _check_kind(path: str, found: str, kind: str, recognised: str) -> None:
    """Raise OtherKind where the task is of another kind than what is there."""
    if kind not in ("auto", found):
        raise OtherKind(path, recognised, found, kind)


def _missing(path: str, where: Path) -> str:
    """Return the message for a path where nothing is, with the nearest name in its folder."""
    if path.startswith("tfds:"):
        return (
            f"data.path {path!r} is no file, but names a TFDS data set, which is a task's source: instead of --data.path use "
            f"--data.tasks.NAME.source {path}, with the config's own NAME of the task ('own' in configs/own.py)."
        )
    names = os.listdir(where.parent) if where.parent.is_dir() else []
    near = difflib.get_close_matches(where.name, names, n=1)
    hint = f" Did you mean {str(where.parent / near[0])!r}?" if near else ""
    return (
        f"data.path {path!r} does not exist (looked at {where.absolute()}).{hint} Pass an existing text file, folder "
        "of text files, file of records (.jsonl, .csv), folder of pictures, .npy or .bin with --data.path."
    )
