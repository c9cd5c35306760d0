"""The compressed file: what stands before the code, and how damage is told from a wrong run.

Owns the bytes of the format. Layout: magic, then the fields of `Container` in order (numbers as LEB128, strings and the
code with their length before them), then the crc32 of all that came before.
"""

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jgpt.check import require

MAGIC: Final = b"JGZ\x02"  # the last byte is the version: another order of sums in decoding is another one too
KINDS: Final = ("text", "picture", "stack")


@dataclass(frozen=True)
class Container:
    """A compressed file.

    Attributes:
        kind: "text" (bytes of a file), "picture", or "stack" (an array of pictures).
        task: name of the task in the run.
        fingerprint: 8 bytes of a hash over parameters, tokenizer and task; see `codec.fingerprint`.
        step: of the checkpoint.
        environment: crc32 of what else decides the logits: library, device, shapes of the model's compute.
        checksum: crc32 of the original: the file's bytes, or the pictures' pixels.
        count: ids of a text, or pictures.
        caption: of pictures; empty for text.
        code: from `RangeWriter`.
    """

    kind: str
    task: str
    fingerprint: bytes
    step: int
    environment: int
    checksum: int
    count: int
    caption: str
    code: bytes

    def to_bytes(self) -> bytes:
        """Return the file's content."""
        head = MAGIC + bytes([KINDS.index(self.kind)]) + _string(self.task.encode()) + self.fingerprint
        head += _number(self.step) + struct.pack("<II", self.environment, self.checksum) + _number(self.count)
        head += _string(self.caption.encode()) + _string(self.code)
        return head + struct.pack("<I", zlib.crc32(head))


def parse(content: bytes, name: str) -> Container:
    """Return what `to_bytes` wrote.

    Args:
        content: of the file.
        name: of the file, for messages.

    Raises:
        ValueError: it is no such file, of another version, cut short, or damaged.
    """
    require(
        content[:3] == MAGIC[:3], f"{name} is no file that `jgpt compress` made: it does not begin with {MAGIC[:3]!r}."
    )
    version = content[3] if len(content) > 3 else None
    require(
        version == MAGIC[3],
        f"{name} has format version {version}, this jgpt reads {MAGIC[3]}: decompress it with the jgpt that made it.",
    )
    whole = len(content) > 8 and struct.unpack("<I", content[-4:])[0] == zlib.crc32(content[:-4])
    require(whole, f"{name} ({len(content)} bytes) is damaged or cut short: its crc32 differs. Copy it anew.")
    reader = _Reader(content, len(MAGIC))
    kind, task, fingerprint, step = reader.take(1)[0], reader.string(), reader.take(8), reader.number()
    environment, checksum = struct.unpack("<II", reader.take(8))
    return Container(
        KINDS[kind],
        task.decode(),
        fingerprint,
        step,
        environment,
        checksum,
        reader.number(),
        reader.string().decode(),
        reader.string(),
    )


def read(path: Path) -> Container:
    """Read a compressed file. Raises FileNotFoundError and ValueError as `parse`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: name a file that `jgpt compress` made.")
    return parse(path.read_bytes(), str(path))


class _Reader:
    def __init__(self, content: bytes, at: int) -> None:
        self._content, self._at = content, at

    def take(self, size: int) -> bytes:
        self._at += size
        return self._content[self._at - size : self._at]

    def number(self) -> int:
        value, shift = 0, 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def string(self) -> bytes:
        return self.take(self.number())


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _string(value: bytes) -> bytes:
    return _number(len(value)) + value
