"""What single ids look like to clients: their bytes, and a readable form of them.

Owns both; refuses to know requests.
"""

from jgpt.growing import UNFINISHED
from jgpt.tokenizers.text import BPETokenizer, ByteTokenizer, byte_letters
from jgpt.tokenizers.vocabulary import Vocabulary


class Pieces:
    """Ids of a vocabulary as bytes and as text; each is looked up once.

    Args:
        vocabulary: of the run.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._known: dict[int, tuple[str, list[int]]] = {}

    def __call__(self, token: int) -> tuple[str, list[int]]:
        r"""Return (text, bytes) of an id; bytes that are no whole characters are spelt out, as `bytes:\xe2\x82`."""
        if token not in self._known:
            raw = self._bytes(token)
            text = raw.decode("utf-8", errors="replace")
            if UNFINISHED in text and raw != UNFINISHED.encode():
                text = "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
            self._known[token] = (text, list(raw))
        return self._known[token]

    def _bytes(self, token: int) -> bytes:
        words = self._vocabulary
        if token < words.text_ids.start:
            return words.specials[token].encode()
        if token >= words.text_ids.stop:
            return f"<|image:{token - words.text_ids.stop}|>".encode()
        own = token - words.text_ids.start
        if isinstance(words.text, ByteTokenizer):
            return bytes([own])
        if isinstance(words.text, BPETokenizer):
            letters, spelt = byte_letters(), words.text.model.id_to_token(own)
            if all(letter in letters for letter in spelt):
                return bytes(letters[letter] for letter in spelt)
        return words.decode_text([token]).encode("utf-8")
