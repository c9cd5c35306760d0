"""The user's own pictures: a folder of files with classes or captions, or NumPy arrays.

Owns what a path of pictures means: which files count, where their captions come from, which are held out, what is
said of all that. Refuses text. Single pictures are `picture_decode`'s, captions files `picture_captions`', arrays
`picture_arrays`', splits `picture_split`'s.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from jgpt.check import counted, listed, require
from jgpt.config import DataConfig
from jgpt.data.columns import check_columns
from jgpt.data.examples import Picture, Splits
from jgpt.data.inputs import SPLIT_NAMES, files_below
from jgpt.data.picture_arrays import is_picture_array, read_arrays
from jgpt.data.picture_captions import SUFFIXES, Captions, Index, find_captions, read_captions
from jgpt.data.picture_decode import BadPicture, PictureRules, agree, decode, words_for
from jgpt.data.picture_split import are_classes, hold_out_pictures, without_held_out_pictures
from jgpt.data.read_log import ReadLog

PICTURE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


class Wanted(NamedTuple):
    """A picture that is to be read: its number among the files, its caption, and where that stands, for messages."""

    number: int
    caption: str
    place: str


def is_pictures(path: Path) -> bool:
    """Return whether a path holds pictures: a folder with picture files in it, a `.npz`, or a `.npy` of pictures."""
    if path.is_dir():
        return any(_is_picture(file) for file in files_below(path))
    suffix = path.suffix.lower()
    return suffix == ".npz" or (suffix == ".npy" and is_picture_array(path))


def read_pictures(path: Path, *, data: DataConfig, validation_fraction: float | None, seed: int) -> Splits:
    """Read pictures as training and held-out examples.

    - A folder: every picture below it. Captions come from a captions file in it or beside it, else from the names of
      subfolders (classes), else they are empty. Subfolders train and val (or test) are the split.
    - A captions file (`.json`, `.jsonl`, `.csv`, `.tsv`): the pictures of its folder.
    - `.npz` or `.npy`: arrays of uint8, see `picture_arrays`.

    Args:
        path: the folder or file.
        data: how pictures are scaled, coloured and captioned, and what becomes of bad ones.
        validation_fraction: share to hold out where no split is given; None = everything is held out, and `path` may be
            a single picture, which has the caption that a captions file beside it gives, or none.
        seed: of the draw of held-out pictures.

    Returns:
        `Splits` of `Picture` of one shape, kind "image".

    Raises:
        FileNotFoundError: nothing is at `path`, or no picture is in it.
        ValueError: a picture or a caption is bad and data.on_bad_record is 'error', or the shapes differ.
    """
    rules = PictureRules.of(data)
    if not path.exists():
        raise FileNotFoundError(f"{str(path)!r} does not exist: give a folder of pictures, or a .npz file.")
    if path.suffix.lower() in (".npz", ".npy"):
        parts, recognised = read_arrays(path, data.columns, rules)
        check_columns(data, ("file", "caption"), recognised)
        by_class = are_classes([p.caption for pictures in parts.values() for p in pictures])
        return _splits(parts, by_class, validation_fraction, seed, recognised, ())
    captions = None
    if path.is_file() and _is_picture(path) and validation_fraction is None:
        return _read_folder(path.parent, None, data, rules, None, seed, only=path.name)
    if path.is_file():
        require(
            path.suffix.lower() in SUFFIXES,
            f"{str(path)!r} is one file: give the folder of pictures, a captions file ({', '.join(SUFFIXES)}), or a "
            ".npz.",
        )
        captions = read_captions(path, data.columns, data.encoding)
        path = path.parent
    return _read_folder(path, captions, data, rules, validation_fraction, seed)


def _read_folder(
    folder: Path,
    captions: Captions | None,
    data: DataConfig,
    rules: PictureRules,
    fraction: float | None,
    seed: int,
    only: str | None = None,
) -> Splits:
    """Read the pictures of a folder, or `only` the one of this name in it."""
    files = list(files_below(folder))
    names = [file.relative_to(folder).as_posix() for file in files if _is_picture(file)]
    if not names:
        arrays = next((str(file) for file in files if file.suffix.lower() in (".npz", ".npy")), None)
        other = "another folder" if arrays is None else f"for the arrays in it the file itself, {arrays!r}"
        raise FileNotFoundError(
            f"the folder {str(folder)!r} holds no pictures ({', '.join(PICTURE_SUFFIXES)}; hidden files are left out): "
            f"name {other}."
        )
    unread: dict[str, str] = {}
    if captions is None:
        stems = {Path(name).stem.lower() for name in names}
        captions, unread = find_captions(folder, stems, data.columns, data.encoding)
    log = ReadLog(data.on_bad_record)
    folders = _below_common([Path(name).parts[:-1] for name in names])
    part_of = _parts(folders, folder) if only is None else None
    if captions is not None:
        wanted = _captioned(captions, names, log, only)
        recognised = f"pictures with captions from {captions.path.name}, a {captions.form}"
    else:
        given = part_of is not None
        classes = ["/".join(parts[1:] if given else parts) for parts in folders]
        wanted = [Wanted(i, of, str(folder / names[i])) for i, of in enumerate(classes)]
        count = len(set(classes))
        recognised = f"pictures in {count} classes (folders)" if count > 1 else "pictures without captions"
    check_columns(data, ("file", "caption") if captions is not None else (), recognised)
    if only is not None:
        recognised, wanted = "one picture", [of for of in wanted if names[of.number] == only]
    read, notes = _decode_all(folder, names, wanted, rules, log)
    others = [f for f in files if not _is_picture(f) and not (captions and f.samefile(captions.path))]
    if others and only is None:
        shown = listed([f.relative_to(folder).as_posix() for f in others], 5)
        below = captions is None and any(f.suffix.lower() in (".csv", ".tsv", ".json", ".jsonl") for f in others)
        hint = " (captions are read from one file at the top of the folder)" * below
        notes.append(f"other files in the folder, left out: {shown}{hint}")
    if unread and only is None:
        name, reason = next(iter(unread.items()))
        more = f", as {len(unread) - 1} more," if len(unread) > 1 else ""
        notes.append(f"{name!r}{more} is not read as captions: {reason}")
    empty = sum(not of.caption for of in wanted)
    if captions is not None and empty:
        notes.append(f"{counted(empty, 'empty caption')} among {len(wanted):,}: drawn on nothing")
    if only is None and captions is None and "" in classes and len(set(classes)) > 1:
        notes.append(f"{counted(empty, 'picture')} beside the class folders: drawn on nothing")
    parts: dict[str, list[Picture]] = {}
    for number, picture in read:
        parts.setdefault(part_of[number] if part_of else "", []).append(picture)
    _same_shape([(names[number], picture.pixels.shape) for number, picture in read])
    by_class = len(set(classes)) > 1 if captions is None else are_classes([picture.caption for _, picture in read])
    return _splits(parts, by_class, fraction, seed, recognised, (*log.notes(), *notes), log.skipped)


def _splits(
    parts: dict[str, list[Picture]],
    by_class: bool,
    fraction: float | None,
    seed: int,
    recognised: str,
    notes: Sequence[str],
    skipped: Sequence[str] = (),
) -> Splits:
    """Return the split that was given, else one that is drawn; without a fraction all is held out."""
    said = list(notes)
    if fraction is None:
        halves = [], [picture for pictures in parts.values() for picture in pictures]
    elif "" in parts:
        pictures = parts[""]
        train, held, more = hold_out_pictures(pictures, fraction, seed, by_class=by_class)
        said += more
        halves = [pictures[i] for i in train], [pictures[i] for i in held]
    else:
        held_part = "validation" if "validation" in parts else "test"
        require(
            "train" in parts and held_part in parts,
            f"the pictures come with {' and '.join(parts)} alone: add the other part, or put all together to have a "
            "share held out.",
        )
        if held_part == "validation" and "test" in parts:
            said.append(f"test ({counted(len(parts['test']), 'picture')}) is left alone: validation is what is scored")
        train_pictures, more = without_held_out_pictures(parts["train"], parts[held_part])
        count, held_count = len(train_pictures), len(parts[held_part])
        said.append(f"split by folders: training on train ({count:,}), held out {held_part} ({held_count:,})")
        said += more
        halves = train_pictures, parts[held_part]
    first = halves[0][0] if halves[0] else halves[1][0]
    shape = " x ".join(map(str, first.pixels.shape[:2]))
    form = f"{recognised}, {shape} {'grey' if first.pixels.ndim == 2 else 'RGB'}"
    return Splits(
        *halves,
        kind="image",
        recognised=form,
        notes=tuple(said),
        skipped=tuple(skipped),
        own_share="" in parts and fraction is not None,
    )


def _captioned(captions: Captions, names: Sequence[str], log: ReadLog, only: str | None) -> list[Wanted]:
    """Return what every entry of a captions file asks for, in order of the pictures; of one `only`, others are not judged."""
    index, found = Index(names), []
    if only is not None:
        number = names.index(only)
        entries = [entry for entry in captions.entries if index.find(entry.file) == [number]]
        found = [Wanted(number, entry.caption, f"{captions.path}, {entry.where}") for entry in entries]
        return found or [Wanted(number, "", str(captions.path.parent / only))]
    for place, complaint in captions.broken:
        log.bad(place, complaint)
    for entry in captions.entries:
        numbers = index.find(entry.file)
        where = f"{str(captions.path)!r}, {entry.where}"
        if len(numbers) == 1:
            found.append(Wanted(numbers[0], entry.caption, f"{captions.path}, {entry.where}"))
        elif numbers:
            same = " and ".join(repr(names[i]) for i in numbers[:2])
            log.bad(where, f"{entry.file!r} may be {same}; write the path below the folder")
        else:
            log.bad(where, f"the picture {entry.file!r} is not there: add the file, or take the entry out")
    with_caption = {wanted.number for wanted in found}
    for number, name in enumerate(names):
        if number not in with_caption:
            log.bad(repr(str(captions.path)), f"the picture {name!r} has no caption: add one, or take the picture out")
    return sorted(found, key=lambda wanted: wanted.number)


def _decode_all(
    folder: Path, names: Sequence[str], wanted: Sequence[Wanted], rules: PictureRules, log: ReadLog
) -> tuple[list[tuple[int, Picture]], list[str]]:
    """Return (number, picture) of everything wanted and usable, and notes on what was done to it."""
    done: Counter[str] = Counter()
    decoded: dict[int, np.ndarray] = {}
    for number in dict.fromkeys(number for number, _, _ in wanted):
        try:
            pixels, steps = decode((folder / names[number]).read_bytes(), rules)
        except BadPicture as error:
            log.bad(repr(str(folder / names[number])), str(error))
            continue
        decoded[number] = pixels
        done.update(steps)
    require(
        bool(decoded),
        f"none of the {len(names)} pictures in {str(folder)!r} can be used; the first complaint: "
        f"{log.skipped[0] if log.skipped else 'no caption names any of them'}",
    )
    if rules.mode == "auto":
        decoded = dict(zip(decoded, agree(list(decoded.values())), strict=True))
    read = [(n, Picture(decoded[n], caption, place=place)) for n, caption, place in wanted if n in decoded]
    return read, [f"{counted(count, 'picture')}: {words_for(step, rules)}" for step, count in sorted(done.items())]


def _same_shape(shapes: Sequence[tuple[str, tuple[int, ...]]]) -> None:
    """Refuse pictures of differing shape, given by name. Raises ValueError."""
    first, a = shapes[0]
    for other, b in shapes:
        require(
            a == b,
            f"pictures differ in shape: {first!r} is {a[1]} x {a[0]} pixels and {other!r} is {b[1]} x {b[0]}; bring all "
            "to one square with --data.image-size, such as --data.image-size 32.",
        )


def _parts(folders: Sequence[tuple[str, ...]], folder: Path) -> list[str] | None:
    """Return the part ("train", "validation" or "test") of each picture; None where folders are no split."""
    tops = {parts[0].lower() if parts else "" for parts in folders}
    kinds = {SPLIT_NAMES.get(top, "") for top in tops}
    if "train" not in kinds or not kinds & {"validation", "test"}:
        return None
    strange = sorted(top for top in tops if top not in SPLIT_NAMES)
    require(
        not strange,
        f"{str(folder)!r} has folders {', '.join(sorted(tops - set(strange)))} as a split, and pictures outside of them "
        f"too ({listed(strange)}): move those into one of the parts, or out of the folder.",
    )
    return [SPLIT_NAMES[parts[0].lower()] for parts in folders]


def _below_common(folders: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return the folders below the deepest one that all pictures share."""
    shared = 0
    while all(len(parts) > shared for parts in folders) and len({parts[shared] for parts in folders}) == 1:
        shared += 1
    return [parts[shared:] for parts in folders]


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in PICTURE_SUFFIXES
