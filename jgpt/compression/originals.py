"""What is compressed: files of text and pictures, to documents of ids and back, or refused with the reason.

Owns reading and writing the originals. Whatever the ids cannot give back exactly is refused before anything is coded.
"""

import io
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from jgpt.batch import Document
from jgpt.check import require
from jgpt.data.examples import Picture
from jgpt.tasks.image import ImageTask
from jgpt.tasks.text import TextTask

PICTURE_SUFFIXES: Final = (".png", ".bmp", ".tif", ".tiff", ".pgm", ".ppm")  # formats that keep every pixel
STACK_SUFFIX: Final = ".npy"


@dataclass(frozen=True)
class Original:
    """A file as documents.

    Attributes:
        kind: as in `Container`.
        documents: what the model is to predict.
        checksum: crc32 of what comes back.
        units: bytes, or pixels times channels.
        raw: the bytes that other compressors are given: the file's, or the pixels'.
    """

    kind: str
    documents: list[Document]
    checksum: int
    units: int
    raw: bytes


def kind_of(path: Path) -> str:
    """Return what the name of a file says it holds; whatever is no picture is text."""
    suffix = path.suffix.lower()
    return "picture" if suffix in PICTURE_SUFFIXES else "stack" if suffix == STACK_SUFFIX else "text"


def read_text(task: TextTask, raw: bytes, name: str) -> Original:
    """Return a file of text, or of any bytes where the tokenizer is one of bytes.

    Raises:
        ValueError: it is no UTF-8, or the tokenizer cannot give it back exactly.
    """
    vocabulary = task.vocabulary
    if vocabulary.text_name == "bytes":
        ids = np.frombuffer(raw, np.uint8).astype(np.int32) + np.int32(vocabulary.text_ids.start)
    else:
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{name} is no UTF-8 text: the byte 0x{raw[error.start]:02x} at offset {error.start} cannot be decoded, and "
                f"this run's tokenizer ({vocabulary.text_name}) knows text alone. A run with --tokenizer.text bytes "
                "compresses any file."
            ) from None
        try:
            ids = vocabulary.encode_text(text)
        except ValueError as error:
            raise ValueError(f"{name} cannot be expressed by this run's tokenizer: {error}") from None
        require(
            vocabulary.decode_text(ids) == text,
            f"{name} does not come back from this run's tokenizer ({vocabulary.text_name}) as it was: it changes the text. "
            "Use a run with --tokenizer.text bytes.",
        )
    document = Document(np.concatenate([[task.start], ids, [task.end]]).astype(np.int32))
    return Original("text", [document], zlib.crc32(raw), len(raw), raw)


def text_bytes(task: TextTask, ids: np.ndarray) -> bytes:
    """Return the bytes of decoded ids, the end marker last."""
    vocabulary = task.vocabulary
    if vocabulary.text_name == "bytes":
        codes = ids[:-1] - vocabulary.text_ids.start
        return codes.astype(np.uint8).tobytes()
    return vocabulary.decode_text(ids[:-1]).encode("utf-8")


def read_picture(task: ImageTask, raw: bytes, name: str, caption: str) -> Original:
    """Return a picture file.

    Raises:
        ValueError: it is no lossless picture of the task's shape, or its colours are not exactly those of the run's ids.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(raw)) as image:
            image.load()
    except Exception as error:  # Pillow raises many kinds for a broken file
        raise ValueError(f"{name} cannot be read as a picture: {error}.") from None
    require(getattr(image, "n_frames", 1) == 1, f"{name} is animated: compress its frames one by one.")
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode == "P" and "transparency" not in image.info:
        image = image.convert("RGB")
    grey = len(task.shape) == 2
    require(
        image.mode == ("L" if grey else "RGB") and "transparency" not in image.info,
        f"{name} has Pillow's mode {image.mode!r}; this run draws {'grey (L)' if grey else 'RGB'} pictures of 8 bits "
        "without transparency: convert it first, which is not undone by decompressing.",
    )
    return _pictures(task, np.asarray(image)[None], name, caption, "picture")


def read_stack(task: ImageTask, raw: bytes, name: str, caption: str) -> Original:
    """Return an array of pictures, uint8 [count, ...shape] as `.npy`. Raises ValueError as `read_picture`."""
    try:
        stack = np.load(io.BytesIO(raw), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{name} is no .npy array: {error}.") from None
    require(
        isinstance(stack, np.ndarray)
        and stack.dtype == np.uint8
        and stack.ndim == len(task.shape) + 1
        and len(stack) > 0,
        f"{name} is {stack.dtype} of shape {stack.shape}: a stack of this run's pictures is uint8 "
        f"[count, {', '.join(map(str, task.shape))}].",
    )
    return _pictures(task, stack, name, caption, "stack")


def _pictures(task: ImageTask, stack: np.ndarray, name: str, caption: str, kind: str) -> Original:
    require(
        stack.shape[1:] == tuple(task.shape),
        f"{name} is {' x '.join(map(str, stack.shape[1:]))}, this run draws {' x '.join(map(str, task.shape))}: cut or "
        "scale it first, which is not undone by decompressing.",
    )
    documents = [task.encode(Picture(pixels, caption)) for pixels in stack]
    back = np.stack([picture_of(task, document) for document in documents])
    wrong = back != stack
    require(
        not wrong.any(),
        f"{name} cannot come back exactly: this run's image ids are lossy and change {wrong.sum()} of {wrong.size} values, by "
        f"up to {np.abs(back.astype(int) - stack.astype(int)).max()} of 255. Only a run whose ids tell all its colours apart "
        "(--tokenizer.image grey with all levels, or one id a channel) compresses pictures.",
    )
    raw = np.ascontiguousarray(stack).tobytes()
    return Original(kind, documents, zlib.crc32(raw), stack.size, raw)


def picture_of(task: ImageTask, document: Document) -> np.ndarray:
    """Return the picture of a whole document: what stands between `<|image|>` and the end."""
    begin = int(np.flatnonzero(document.tokens == task.image)[0]) + 1
    return task.decode(document.tokens[begin:-1].tolist())


def save_pictures(path: Path, kind: str, stack: np.ndarray) -> None:
    """Write decoded pictures: one as a lossless picture file, a stack as `.npy`. Raises ValueError for another name."""
    if kind == "stack":
        require(path.suffix.lower() == STACK_SUFFIX, f"the output {str(path)!r} holds a stack: name it NAME.npy.")
        with path.open("wb") as file:  # a name would get another ending where it has .NPY
            np.save(file, stack)
        return
    from PIL import Image

    require(
        path.suffix.lower() in PICTURE_SUFFIXES,
        f"the output {str(path)!r} is no lossless picture file: name it NAME.png ({', '.join(PICTURE_SUFFIXES)}).",
    )
    Image.fromarray(stack[0]).save(path)


def crc_of(value: Any) -> int:
    """Return the crc32 of bytes, or of an array's values."""
    return zlib.crc32(value if isinstance(value, bytes) else np.ascontiguousarray(value).tobytes())
