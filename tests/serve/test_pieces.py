"""Single ids as clients see them: their bytes add up to those of the text, whatever the tokenizer."""

import pytest

from jgpt.serve.pieces import Pieces
from jgpt.tokenizers.text import tokenizer_class
from jgpt.tokenizers.vocabulary import Vocabulary

TEXT = "Ein Würfel kostet 3 €.\n\tΩmega � and \x00 too"


@pytest.mark.parametrize("name", ["bytes", "characters", "bpe"])
def test_bytes_of_tokens_add_up_to_the_text(name: str) -> None:
    words = Vocabulary(name, tokenizer_class(name).train([TEXT] * 3, 280))
    pieces = Pieces(words)
    ids = words.encode_text(TEXT).tolist()
    assert b"".join(bytes(pieces(token)[1]) for token in ids).decode() == TEXT
    for token in ids:
        text, raw = pieces(token)
        assert text.encode() == bytes(raw) or text == "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def test_half_characters_are_spelt_out_and_markers_named() -> None:
    words = Vocabulary("bytes", tokenizer_class("bytes").train([], 0))
    pieces = Pieces(words)
    assert pieces(words.text_ids.start + 0xE2) == ("bytes:\\xe2", [0xE2])
    assert pieces(words.special("<|endoftext|>"))[0] == "<|endoftext|>"
