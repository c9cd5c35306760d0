"""From bytes to characters: whole texts, files of records, and files whose lines were written in two encodings.

Owns every complaint about an encoding; refuses to guess one. Only OpenTriviaQA, which is known to be mixed, is decoded
line by line.
"""

import codecs
import re
from typing import Final

from jgpt.check import require
from jgpt.data.read_log import BadRecord

CONTROL: Final = bytes({*range(32), 127} - {*b"\t\n\v\f\r\x1b"})  # bytes that text of any encoding in use avoids
SURROGATE: Final = re.compile("[\ud800-\udfff]")
WIDE_MARKS: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def decode_text(raw: bytes, where: str, encoding: str) -> str:
    """Decode a whole text; a byte order mark is dropped and line ends become a single newline.

    Args:
        raw: the bytes of the file.
        where: the file, for messages.
        encoding: Python name of the encoding.

    Raises:
        ValueError: the file is empty, binary or in another encoding, or Python knows no such encoding.
    """
    _check_encoding(encoding)
    require(bool(raw), f"{where!r} is empty (0 bytes): put text into it, or pass another file with --data.path.")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        if not raw.startswith(WIDE_MARKS) and looks_binary(raw):
            raise ValueError(_binary(where)) from None
        raise ValueError(_undecodable(raw, where, encoding, error)) from None
    require(not looks_binary(text.encode("utf-8", "replace")), _binary(where))
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    require(bool(text), f"{where!r} is empty but for its byte order mark: put text into it, or pass another file.")
    return text


def decode_records(raw: bytes, where: str, encoding: str) -> str:
    """Decode a file of records; a byte order mark is dropped, line ends stay as they are.

    Bytes that do not decode become surrogates, so that `check_characters` can find the record that holds them.

    Raises:
        ValueError: the file is in UTF-16 and `encoding` is not, or Python knows no such encoding.
    """
    _check_encoding(encoding)
    try:
        wide = raw.startswith(WIDE_MARKS) and not encoding.lower().startswith(("utf-16", "utf16", "utf_16"))
        text = raw.decode(encoding, "strict" if wide else "surrogateescape")
    except UnicodeDecodeError as error:
        raise ValueError(_undecodable(raw, where, encoding, error)) from None
    return text.removeprefix("\ufeff")


def decode_mixed(raw: bytes, where: str, encoding: str) -> tuple[str, int]:
    """Decode a file line by line: UTF-8 where a line is that, else Windows-1252, else latin-1.

    Windows-1252 is latin-1 with letters and quotes at 0x80 to 0x9f, where latin-1 has control characters. An
    `encoding` other than UTF-8 is the user's word and holds for the whole file.

    Returns:
        the text with single newlines, and the number of lines that were no UTF-8.
    """
    if codecs.lookup(encoding).name not in ("utf-8", "utf-8-sig"):
        return decode_text(raw, where, encoding), 0
    lines: list[str] = []
    others = 0
    for line in raw.removeprefix(codecs.BOM_UTF8).split(b"\n"):
        line = line.rstrip(b"\r")
        try:
            lines.append(line.decode())
        except UnicodeDecodeError:
            others += 1
            try:
                lines.append(line.decode("cp1252"))
            except UnicodeDecodeError:
                lines.append(line.decode("latin-1"))
    return "\n".join(lines), others


def check_characters(value: str, encoding: str) -> None:
    """Raise BadRecord where `value` holds a NUL, a byte that did not decode, or half of a surrogate pair."""
    if "\0" in value:
        raise BadRecord("holds a NUL character (0x00): take it out")
    found = None if value.isascii() else SURROGATE.search(value)
    if found is None:
        return
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:
        raise BadRecord(
            f"the byte 0x{code - 0xDC00:02x} is no {encoding}: save the file in one encoding, or name the one it is in, "
            "such as --data.encoding latin-1"
        )
    raise BadRecord(f"holds half of a surrogate pair (\\u{code:04x}): write the whole character")


def looks_binary(raw: bytes) -> bool:
    """Return whether `raw` holds a NUL, or more control characters than one byte in twenty."""
    return b"\0" in raw or len(raw) - len(raw.translate(None, CONTROL)) > len(raw) / 20


def _check_encoding(encoding: str) -> None:
    try:
        "".encode(encoding)
    except LookupError:
        raise ValueError(
            f"data.encoding {encoding!r} is no encoding of text that Python knows: use a name such as utf-8, latin-1 or utf-16."
        ) from None


def _undecodable(raw: bytes, where: str, encoding: str, error: UnicodeDecodeError) -> str:
    if raw.startswith(WIDE_MARKS):
        fix = "it begins with the byte order mark of UTF-16, so read it with --data.encoding utf-16."
    else:
        fix = "if it comes from an older system, read it with --data.encoding latin-1; else save it as UTF-8."
    line = raw.count(b"\n", 0, error.start) + 1
    return (
        f"{where!r} is no {encoding} text: the byte 0x{raw[error.start]:02x} at offset {error.start} of {len(raw)} "
        f"(line {line}) cannot be decoded ({error.reason}); {fix}"
    )


def _binary(where: str) -> str:
    """Return the message for a file that is no text."""
    if where.lower().endswith((".parquet", ".arrow", ".feather", ".xlsx", ".xls", ".sqlite", ".db")):
        return (
            f"{where!r} is a binary table: write it as .csv or .jsonl first, as pandas does with to_json(lines=True)."
        )
    return (
        f"{where!r} is a binary file, not text: export documents as plain text first, take it out of the folder, or "
        "save ids as .npy or .bin."
    )
