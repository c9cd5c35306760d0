"""TFDS data sets that stand prepared on disk, read without TensorFlow (array_record files).

Owns the choice of splits and features and how an example of TFDS becomes one of ours; `tfds_folder` finds the data set.
Refuses to import TensorFlow.
"""

import dataclasses
import difflib
import functools
import io
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from jgpt.check import require
from jgpt.config import COLUMNS, DataConfig
from jgpt.data.columns import check_columns
from jgpt.data.examples import Picture, QuestionAnswer, Splits
from jgpt.data.holdout import tail_start
from jgpt.data.picture_decode import PictureRules, fit
from jgpt.data.picture_split import are_classes, hold_out_pictures, without_held_out_pictures
from jgpt.data.read_log import ReadLog
from jgpt.data.splitting import splits_of, without_held_out
from jgpt.data.tfds_folder import base_name, how_to_get, open_builder
from jgpt.data.tfds_questions import QUESTION_FEATURES, parts_of, questions

TEXT_FEATURES: Final = {  # where it is not "text", as in lm1b, wiki40b, wikipedia, c4, imdb_reviews, billsum
    "aeslc": "email_body",
    "ag_news_subset": "description",
    "big_patent": "description",
    "cnn_dailymail": "article",
    "gigaword": "document",
    "lambada": "passage",
    "multi_news": "document",
    "pg19": "book_text",
    "reddit": "content",
    "scientific_papers": "article",
    "xsum": "document",
}
# One document cut at 90 and 95 %: joined again, so that the held-out tail is the last 10 % of the text file.
JOINED_SPLITS: Final = {"tiny_shakespeare": ("validation", "test")}
EAGER_BYTES: Final = 1 << 28  # pixels decoded ahead: a data set of this size is read several times and fits in memory
MODES: Final = {1: "L", 3: "RGB", 4: "RGBA"}


def read_tfds(
    name: str, *, kind: str, data_dir: str | None, seed: int, validation_fraction: float, data: DataConfig | None = None
) -> Splits:
    """Read a prepared TFDS data set as training and held-out examples.

    Held out is the split 'validation', else 'test', else the tail of the training split. TFDS shuffles when it
    prepares, so that tail is a fair share; questions and small pictures without a second split are drawn with `seed`, so
    that none that belong together are parted.

    Args:
        name: as in `tfds.builder`: `mnist`, `lm1b`, `wikipedia/20230601.en:1.0.0`.
        kind: 'text' (yields `str`), 'qa' (`QuestionAnswer`), 'image' (`Picture`, captioned with the name of its
            class), or 'auto' for the one its features are for.
        data_dir: folder of prepared data sets; None is $TFDS_DATA_DIR, then `~/tensorflow_datasets`.
        seed: of the draw of held-out questions.
        validation_fraction: share held out where there is no second split.
        data: names of the features of a set (`columns`), what is done about bad records, and the form of pictures; mode
            auto keeps the channels of the data set, alpha is laid on colour.

    Raises:
        ValueError: the name is unknown, or the data set has no feature of this kind.
        FileNotFoundError: the data set is not prepared, and one short attempt did not get it.
        ModuleNotFoundError: tensorflow_datasets, or for pictures pillow, is not installed.
    """
    data = data or DataConfig()
    require(
        kind in ("auto", "text", "qa", "image"),
        f"source 'tfds:{name}' is given to a task of kind {kind!r}: TFDS is read for 'text', 'qa' and 'image'; set "
        "--data.tasks.NAME.kind, or use another source.",
    )
    folder = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    with _quiet():
        builder = open_builder(name, Path(folder).expanduser())
        kind = _kind_of(builder, name, data.columns) if kind == "auto" else kind
        usable = {"text": ("text",), "qa": COLUMNS["qa"], "image": ("image", "caption")}
        check_columns(data, usable[kind], f"tfds:{name}, read as {kind}")
        try:
            if kind == "qa":
                return _read_questions(builder, name, data, validation_fraction, seed)
            splits, convert = (
                _pictures(builder, name, data.columns, PictureRules.of(data))
                if kind == "image"
                else _texts(builder, name, data.columns)
            )
        except NotImplementedError:
            raise FileNotFoundError(
                f"tfds:{name} is prepared in {builder.data_path} as {builder.info.file_format.value}, which only "
                f"TensorFlow reads: prepare it as array_record in another folder. {how_to_get(name, 'NEW_FOLDER')}"
            ) from None
        return replace(
            _split(name, splits, convert, validation_fraction, seed), kind=kind, recognised=f"TFDS {name}, {kind}"
        )


def _kind_of(builder: Any, name: str, columns: Mapping[str, str]) -> str:
    """Return the kind of task that the features of a data set are for."""
    from tensorflow_datasets.core.features import Image

    features = dict(builder.info.features.items())
    if base_name(name) in QUESTION_FEATURES or "question" in {*features, *columns}:
        return "qa"
    return "image" if isinstance(features.get(columns.get("image", "image")), Image) else "text"


def _read_questions(builder: Any, name: str, data: DataConfig, fraction: float, seed: int) -> Splits:
    """Read the questions of a data set whole: they are few, and must be seen to be split."""
    parts = parts_of(base_name(name), _paths(builder.info.features), data.columns)
    sources = builder.as_data_source()
    require("train" in sources, f"tfds:{name} has no split 'train' but {', '.join(sources)}: choose another set.")
    log = ReadLog(data.on_bad_record)
    held_name = next((split for split in ("validation", "test") if len(sources.get(split, ()))), None)

    def read(split: str) -> list[tuple[QuestionAnswer, str | None]]:
        source = sources[split]
        return questions(_Lazy(source, range(len(source)), dict), parts, f"tfds:{name}, split {split}", log)

    train = read("train")
    require(bool(train), f"tfds:{name}: no question of the split 'train' can be used: {'; '.join(log.notes())[:400]}.")
    if held_name is None:
        splits = splits_of([example for example, _ in train], fraction, seed, [group for _, group in train])
    else:
        held = read(held_name)
        require(bool(held), f"tfds:{name}: no question of the split {held_name!r} has an answer: choose another set.")
        held_out = [example for example, _ in held]
        kept, notes = without_held_out([example for example, _ in train], held_out)
        splits = Splits(kept, held_out, kind="qa", notes=notes)
    words = f"TFDS {name}, {len(splits.train) + len(splits.validation):,} questions"
    return replace(splits, recognised=words, notes=log.notes() + splits.notes, skipped=tuple(log.skipped))


def _paths(features: Any, prefix: str = "") -> list[str]:
    """Return the paths of all features, nested ones with "/"."""
    paths: list[str] = []
    for name, feature in features.items():
        inner = getattr(feature, "feature", feature)  # of a sequence
        below = _paths(inner, f"{prefix}{name}/") if hasattr(inner, "items") else []
        paths += below or [prefix + name]
    return paths


@dataclass(frozen=True)
class _Lazy(Sequence):
    """Examples that are read and decoded when asked for.

    Attributes:
        source: the random-access split of TFDS.
        indices: which of its examples.
        convert: from a TFDS example to ours.
    """

    source: Any
    indices: range
    convert: Callable[[dict[str, Any]], Any]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int | slice) -> Any:
        chosen = self.indices[index]
        if isinstance(chosen, range):
            return [self.convert(example) for example in self.source.__getitems__(list(chosen))] if chosen else []
        return self.convert(self.source[chosen])

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), 1024):  # reading in blocks is faster than one by one
            yield from self[start : start + 1024]


def _split(name: str, splits: dict[str, Any], convert: Callable, fraction: float, seed: int) -> Splits:
    """Choose training and held-out examples among the splits of a data set."""
    if "train" not in splits:
        require(
            len(splits) == 1,
            f"tfds:{name} has no split 'train' but {', '.join(splits)}: choose one with 'train' or with one split.",
        )
        splits = {"train": next(iter(splits.values()))}
    parts = {split: _Lazy(source, range(len(source)), convert) for split, source in splits.items()}
    train = parts["train"]
    joined = JOINED_SPLITS.get(base_name(name), ())
    if joined:
        missing = [part for part in joined if part not in parts]
        require(not missing, f"tfds:{name} lacks the split {missing} (found {', '.join(parts)}): prepare it again.")
        return Splits(list(train), ["".join(text for part in joined for text in parts[part])])
    for held in ("validation", "test"):
        if len(parts.get(held, ())):
            read, held_out, notes = _read_ahead(train), _read_ahead(parts[held]), (f"held out: its split {held}",)
            if isinstance(read, list):  # all of them are seen
                read, more = without_held_out_pictures(read, held_out)
                notes += more
            return Splits(read, held_out, notes=notes)
    if len(train) == 1 and isinstance(train[0], str):
        cut = tail_start(len(train[0]), fraction)
        return Splits([train[0][:cut]], [train[0][cut:]], own_share=True)
    pictures = _read_ahead(train)
    if isinstance(pictures, list):  # all of them are seen, so that equal ones can be kept together
        by_class = are_classes([picture.caption for picture in pictures])
        kept, held, notes = hold_out_pictures(pictures, fraction, seed, by_class=by_class)
        return Splits([pictures[i] for i in kept], [pictures[i] for i in held], notes=notes, own_share=True)
    cut = tail_start(len(train), fraction)
    halves = [_Lazy(train.source, rows, convert) for rows in (train.indices[:cut], train.indices[cut:])]
    return Splits(halves[0], halves[1], own_share=True)


def _read_ahead(examples: _Lazy) -> Sequence[Any]:
    """Return small pictures as a list, since decoding them again for every pass is slow; the rest as it is."""
    first = examples[0]
    small = isinstance(first, Picture) and first.pixels.nbytes * len(examples) <= EAGER_BYTES
    return list(examples) if small else examples


def _texts(builder: Any, name: str, columns: Mapping[str, str]) -> tuple[dict[str, Any], Callable]:
    """Return the splits of a text data set and how an example becomes a string."""
    from tensorflow_datasets.core.features import Text

    features = dict(builder.info.features.items())
    of_text = [key for key in features if isinstance(features[key], Text)]
    wanted = columns.get("text", TEXT_FEATURES.get(base_name(name), "text"))
    if wanted not in of_text and len(of_text) == 1 and "text" not in columns:
        wanted = of_text[0]
    require(
        wanted in of_text,
        f"tfds:{name} has no text feature {wanted!r}; its features: {', '.join(features)}. Name the one to "
        "read with --data.columns text FEATURE, or export the texts to a folder for --data.path FOLDER.",
    )
    return builder.as_data_source(), functools.partial(_to_text, wanted)


def _pictures(
    builder: Any, name: str, columns: Mapping[str, str], rules: PictureRules
) -> tuple[dict[str, Any], Callable]:
    """Return the splits of an image data set and how an example becomes a `Picture`."""
    try:
        import PIL  # noqa: F401 - asked for here, so that it is missed before anything is read
    except ImportError:
        raise ModuleNotFoundError(
            f"tfds:{name} is read as pictures, and pillow is not installed: run `pip install pillow`."
        ) from None
    from tensorflow_datasets import decode
    from tensorflow_datasets.core.features import ClassLabel, Image, Text

    features: dict[str, Any] = dict(builder.info.features.items())
    of_image, of_caption = columns.get("image", "image"), columns.get("caption", "label")
    image, label = features.get(of_image), features.get(of_caption)
    is_picture = isinstance(image, Image) and image.np_dtype == np.uint8
    require(
        is_picture,
        f"tfds:{name} has no uint8 feature {of_image!r}; its features: {', '.join(features)}. Name the one with the "
        "pictures with --data.columns image FEATURE, or choose another data set, such as mnist or cifar10.",
    )
    if "caption" in columns:
        near = difflib.get_close_matches(of_caption, features, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        require(
            label is not None,
            f"tfds:{name} has no feature {of_caption!r}; its features: {', '.join(features)}.{hint} Name the one with "
            "the captions with --data.columns caption FEATURE.",
        )
        require(
            isinstance(label, ClassLabel | Text),
            f"the feature {of_caption!r} of tfds:{name} is neither a class nor a text: name another with "
            "--data.columns caption FEATURE.",
        )
    names = tuple(label.names) if isinstance(label, ClassLabel) and label.names else ()
    # TFDS's own decoding takes about twice as long as pillow alone.
    splits = builder.as_data_source(decoders={of_image: decode.SkipDecoding()})
    mode = MODES.get(features[of_image].shape[-1], "RGB")
    if rules.mode == "auto":  # decided once: a grey picture among coloured ones keeps three channels
        rules = dataclasses.replace(rules, mode="grey" if mode == "L" else "rgb")
    return splits, functools.partial(_to_picture, (of_image, of_caption), mode, names, rules)


def _to_text(feature: str, example: dict[str, Any]) -> str:
    """Return one text; bytes that are no valid UTF-8 become U+FFFD."""
    value = example[feature]
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)


def _to_picture(
    features: tuple[str, str], mode: str, names: tuple[str, ...], rules: PictureRules, example: dict[str, Any]
) -> Picture:
    """Decode one picture: uint8 [height, width] where it is grey, else [height, width, channel]."""
    from PIL import Image

    raw, label = example[features[0]], example.get(features[1], "")

    try:
        with Image.open(io.BytesIO(raw)) as image:
            pixels = np.array(image if image.mode == mode else image.convert(mode))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow names neither data set nor way out
        reason = str(error).split(" <")[0]
        raise ValueError(
            f"a picture of the prepared data set cannot be decoded ({reason}; caption {label}, "
            f"{len(raw)} bytes): prepare the data set again."
        ) from None
    pixels = fit(pixels, rules)
    if names:
        return Picture(pixels, names[int(label)])
    return Picture(pixels, label.decode("utf-8", errors="replace") if isinstance(label, bytes) else str(label))


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back TFDS's warnings: that a data set we are about to prepare is missing, and that OpenCV is."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
