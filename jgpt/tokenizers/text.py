"""Text tokenizers: bytes, characters, byte-level BPE. Each turns a string into ids from 0 and back.

Owns the two directions and the JSON form of each; refuses special tokens and offsets, which belong to the vocabulary.
"""

import json
import re
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Any, Final, Protocol, SupportsIndex, runtime_checkable

import numpy as np
from jaxtyping import Int32

from jgpt.check import unknown_name


@runtime_checkable
class TextTokenizer(Protocol):
    """What the vocabulary needs of a tokenizer.

    Attributes:
        size: number of ids; every id lies in [0, size).
    """

    size: int

    def encode(self, text: str) -> Int32[np.ndarray, " n"]:
        """Return the ids of `text`. Raises ValueError where no id can express a part of it."""
        ...

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Return the text of `ids`; the inverse of `encode`."""
        ...

    def token_bytes(self) -> list[bytes]:
        """Return the UTF-8 that each id stands for; that of a text is its ids' in a row."""
        ...

    def to_json(self) -> str:
        """Return everything `from_json` needs, as JSON text."""
        ...


class ByteTokenizer:
    """UTF-8 bytes as ids: 256 ids, nothing to train, nothing it cannot express."""

    size = 256

    @classmethod
    def train(cls, texts: Iterable[str], size: int, across_words: bool = False) -> "ByteTokenizer":
        """Return the tokenizer; bytes need no training."""
        del texts, size, across_words
        return cls()

    @classmethod
    def from_json(cls, text: str) -> "ByteTokenizer":
        """Rebuild from `to_json`."""
        del text
        return cls()

    def encode(self, text: str) -> Int32[np.ndarray, " n"]:
        """Return one id per UTF-8 byte. A lone surrogate, which UTF-8 cannot express, raises ValueError."""
        return np.frombuffer(_utf8(text), np.uint8).astype(np.int32)

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Return the text; bytes that are no valid UTF-8 become U+FFFD."""
        # list(): bytes(array of int32) would be the array's memory, four bytes an id
        return bytes(list(ids)).decode("utf-8", errors="replace")

    def token_bytes(self) -> list[bytes]:
        """Return each byte."""
        return [bytes([i]) for i in range(self.size)]

    def to_json(self) -> str:
        """Return the JSON form."""
        return json.dumps({"type": "bytes"})


class CharacterTokenizer:
    """One id per distinct character of the training text, in order of code point.

    Args:
        characters: the known characters, each once.
    """

    def __init__(self, characters: str) -> None:
        self.characters = characters
        self.size = len(characters)
        self._ids = {character: index for index, character in enumerate(characters)}

    @classmethod
    def train(cls, texts: Iterable[str], size: int, across_words: bool = False) -> "CharacterTokenizer":
        """Collect the characters of `texts`. `size` and `across_words` belong to BPE and have no meaning here."""
        del size, across_words
        found: set[str] = set()
        for text in texts:
            found.update(text)
        return cls("".join(sorted(found)))

    @classmethod
    def from_json(cls, text: str) -> "CharacterTokenizer":
        """Rebuild from `to_json`."""
        return cls(json.loads(text)["characters"])

    def encode(self, text: str) -> Int32[np.ndarray, " n"]:
        """Return one id per character.

        Raises:
            ValueError: a character was not in the training text.
        """
        try:
            return np.fromiter((self._ids[c] for c in text), np.int32, len(text))
        except KeyError as error:
            character = error.args[0]
            raise ValueError(
                f"character {character!r} (U+{ord(character):04X}) is not among the {self.size} characters of the "
                "training text: leave it out, or train with --tokenizer.text bytes, which can express every text."
            ) from None

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Return the text."""
        return "".join(self.characters[i] for i in ids)

    def token_bytes(self) -> list[bytes]:
        """Return the UTF-8 of each character; a lone surrogate, which UTF-8 cannot express, has none."""
        return [c.encode("utf-8", errors="ignore") for c in self.characters]

    def to_json(self) -> str:
        """Return the JSON form."""
        return json.dumps({"type": "characters", "characters": self.characters})


SENTENCE: Final = r"[^.?!\n]*[.?!\n]+"
# Texts that a tokenizer made elsewhere may change: letters, composed and not, white space, what no ASCII expresses; and
# characters in whose UTF-8 every byte stands that can.
MUST_COME_BACK: Final = (
    *("Aa", " b", "c  d\t\r\n", "\u00e9", "e\u0301", "\ufb01", "\u65e5\u672c"),
    *(chr(i) for i in (*range(0x100), *range(0x100, 0x800, 0x40), *range(0x800, 0xD800, 0x800), 0xF000)),
    *(chr(i) for i in (0x10000, 0x40000, 0x80000, 0xC0000, 0x100000)),
)
SENTENCES_KEPT: Final = 65_536  # of a text whose entries may span words; where few phrases make it up, most come again


@cache
def byte_letters() -> dict[str, int]:
    """Return the byte that each letter of a byte-level entry stands for: `bytes_to_unicode` of GPT-2, turned round."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]  # stand for themselves
    others = [i for i in range(256) if i not in printable]
    return {chr(i): i for i in printable} | {chr(256 + n): i for n, i in enumerate(others)}


class BPETokenizer:
    """Byte-level byte-pair encoding (Sennrich et al. 2016; bytes as in GPT-2), by Hugging Face `tokenizers`.

    Args:
        model: a `tokenizers.Tokenizer` with byte-level pre-tokenizer and decoder.
    """

    def __init__(self, model: Any) -> None:  # the library is imported only where BPE is used
        self.model = model
        self.size = model.get_vocab_size()
        self._sentence = lru_cache(SENTENCES_KEPT)(self._encode) if _splits_sentences(model) else None

    @classmethod
    def train(cls, texts: Iterable[str], size: int, across_words: bool = False) -> "BPETokenizer":
        """Learn `size` entries (fewer where `texts` are too short), the 256 bytes among them.

        Args:
            texts: to learn from.
            size: entries.
            across_words: let an entry span words up to the end of a sentence, as in SuperBPE (Liu et al. 2025): where
                few phrases make up a text, it becomes several times shorter.
        """
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

        model = Tokenizer(models.BPE())
        model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not across_words)
        if across_words:
            sentences = pre_tokenizers.Split(Regex(SENTENCE), "isolated")
            model.pre_tokenizer = pre_tokenizers.Sequence([sentences, model.pre_tokenizer])
        model.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        model.train_from_iterator(
            texts, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
        )
        return cls(model)

    @classmethod
    def from_json(cls, text: str) -> "BPETokenizer":
        """Rebuild from `to_json` (the library's own tokenizer.json)."""
        from tokenizers import Tokenizer

        return cls(Tokenizer.from_str(text))

    def check_exact(self) -> None:
        """Refuse a tokenizer under which texts do not come back: bits per byte would be those of other texts.

        Raises:
            ValueError: it folds case, composes characters, adds spaces or has no ids for some bytes; the first text that it
                changes is named.
        """
        added = [
            entry.content for entry in self.model.get_added_tokens_decoder().values()
        ]  # may take spaces around them
        for text in (*MUST_COME_BACK, *(f"a  {content}  b" for content in added)):
            if (back := self.decode(self.encode(text))) != text:
                raise ValueError(
                    f"it changes texts: {text!r} comes back as {back!r}. Use one of bytes, without normalizer and prefix space"
                )

    def encode(self, text: str) -> Int32[np.ndarray, " n"]:
        """Return the ids; all bytes are entries, so only a lone surrogate cannot be expressed and raises ValueError."""
        _utf8(text)
        if self._sentence is None:
            return np.asarray(self._encode(text), np.int32)
        parts = re.findall(f"{SENTENCE}|[^.?!\n]+\\Z", text)
        return np.asarray([i for part in parts for i in self._sentence(part)], np.int32)

    def _encode(self, text: str) -> list[int]:
        return self.model.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Return the text."""
        return self.model.decode(list(map(int, ids)), skip_special_tokens=False)

    def token_bytes(self) -> list[bytes]:
        """Return the bytes of each entry, from the letters that stand for them.

        Raises:
            ValueError: an entry stands for other text than its bytes.
        """
        letters, out = byte_letters(), []
        for i in range(self.size):
            entry = self.model.id_to_token(i) or ""
            found = bytes(letters[c] for c in entry) if all(c in letters for c in entry) else entry.encode("utf-8")
            if found.decode("utf-8", errors="replace") != self.decode([i]):
                raise ValueError(
                    f"entry {i} of the tokenizer is {entry!r} and stands for {self.decode([i])!r}: only byte-level BPE as "
                    "trained by jgpt or GPT-2's can follow a pattern."
                )
            out.append(found)
        return out

    def to_json(self) -> str:
        """Return the library's tokenizer.json."""
        return self.model.to_str()


def _splits_sentences(model: Any) -> bool:
    """Return whether a model encodes every sentence by itself, as those do that `BPETokenizer.train` lets span words."""
    form = json.loads(model.to_str())
    before = form["pre_tokenizer"] or {}
    splits = [part.get("pattern") for part in before.get("pretokenizers", [])[:1]]
    return splits == [{"Regex": SENTENCE}] and not form["normalizer"] and not form["added_tokens"]


TOKENIZERS: Final = {"bytes": ByteTokenizer, "characters": CharacterTokenizer, "bpe": BPETokenizer}


def tokenizer_class(name: str) -> type[ByteTokenizer] | type[CharacterTokenizer] | type[BPETokenizer]:
    """Return the class registered as `name`.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in TOKENIZERS:
        raise ValueError(unknown_name("tokenizer.text", name, TOKENIZERS))
    return TOKENIZERS[name]


def _utf8(text: str) -> bytes:
    """Return the UTF-8 bytes of `text`. Raises ValueError where it holds a lone surrogate."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text holds {text[error.start]!r} at character {error.start}, which UTF-8 cannot express "
            "(a lone surrogate): remove it, or decode the source with its own encoding."
        ) from None
