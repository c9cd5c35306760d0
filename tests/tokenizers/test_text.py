"""Text tokenizers: exact round trips, ids in range, the saved form, and clear refusals."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jgpt.tokenizers.text import (
    TOKENIZERS,
    BPETokenizer,
    ByteTokenizer,
    CharacterTokenizer,
    TextTokenizer,
    tokenizer_class,
)

TRAINING = ["The quick brown fox jumps over the lazy dog. " * 20, "Zwölf Boxkämpfer jagen Viktor übers Feld.\n" * 20]
ACROSS = BPETokenizer.train(TRAINING, 330, across_words=True)
LETTERS = "".join(sorted(set("".join(TRAINING))))
BUILT = {name: kind.train(TRAINING, 300) for name, kind in TOKENIZERS.items()}
AWKWARD = ["", " ", "\r\n\t ", "  two  spaces  ", "<|endoftext|>", "\0", "e\u0301 é", "👩\u200d👧 中文", "\ufeff"]
every_tokenizer = pytest.mark.parametrize("name", list(TOKENIZERS))


def check_round_trip(tokenizer: TextTokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32 and ids.ndim == 1
    assert not len(ids) or (ids.min() >= 0 and ids.max() < tokenizer.size)
    assert tokenizer.decode(ids) == tokenizer.decode(ids.tolist()) == tokenizer.decode(iter(ids)) == text


@given(st.text())
def test_bytes_and_bpe_express_every_text(text: str) -> None:
    check_round_trip(BUILT["bytes"], text)
    check_round_trip(BUILT["bpe"], text)
    check_round_trip(ACROSS, text)


@given(st.text(LETTERS))
def test_characters_express_what_they_saw(text: str) -> None:
    check_round_trip(BUILT["characters"], text)


@every_tokenizer
@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_texts_survive(name: str, text: str) -> None:
    check_round_trip(TOKENIZERS[name].train([*TRAINING, text], 300), text)


@every_tokenizer
def test_saved_form_brings_back_the_same_ids(name: str) -> None:
    again = TOKENIZERS[name].from_json(BUILT[name].to_json())
    assert again.size == BUILT[name].size
    np.testing.assert_array_equal(again.encode(TRAINING[1]), BUILT[name].encode(TRAINING[1]))
    assert isinstance(json.loads(BUILT[name].to_json()), dict)


@every_tokenizer
def test_training_twice_gives_the_same_tokenizer(name: str) -> None:
    assert TOKENIZERS[name].train(TRAINING, 300).to_json() == BUILT[name].to_json()


def test_sizes() -> None:
    assert ByteTokenizer.size == 256
    assert BUILT["characters"].size == len(LETTERS)
    assert BUILT["bpe"].size == 300
    assert len(BUILT["bpe"].encode(TRAINING[0])) < len(TRAINING[0]) / 2


def test_byte_ids_are_the_bytes() -> None:
    assert BUILT["bytes"].encode("aé").tolist() == [97, 0xC3, 0xA9]
    assert BUILT["bytes"].decode([97, 0xC3]) == "a\ufffd"


@pytest.mark.parametrize("kind", [ByteTokenizer, BPETokenizer])
def test_a_lone_surrogate_is_refused(kind: type[TextTokenizer]) -> None:
    tokenizer = kind.train(TRAINING, 300)
    with pytest.raises(ValueError, match=r"'\\udc80' at character 2.*lone surrogate.*remove it"):
        tokenizer.encode("ab\udc80")


def test_entries_across_words_end_with_their_sentence() -> None:
    pieces = [ACROSS.decode([i]) for i in ACROSS.encode(TRAINING[0])]
    assert any(" " in piece.strip() for piece in pieces)
    assert all("." not in piece[:-1] for piece in pieces)
    assert len(pieces) < len(BUILT["bpe"].encode(TRAINING[0]))


@given(st.lists(st.sampled_from(["a", "fox ", "lazy dog.", "?", "!", "\n", "\r", "é", "π"]), max_size=12).map("".join))
def test_sentences_that_are_encoded_one_by_one_are_those_of_the_library(text: str) -> None:
    assert ACROSS.encode(text).tolist() == ACROSS.model.encode(text, add_special_tokens=False).ids
    assert ACROSS.encode(text).tolist() == BPETokenizer.from_json(ACROSS.to_json()).encode(text).tolist()


def test_an_unknown_character_names_itself_and_the_fix() -> None:
    with pytest.raises(ValueError, match=r"'π' \(U\+03C0\).*--tokenizer.text bytes"):
        BUILT["characters"].encode("a π")


def test_an_unknown_tokenizer_names_its_neighbour() -> None:
    with pytest.raises(ValueError, match="'byte'.*Did you mean 'bytes'.*bpe, bytes, characters"):
        tokenizer_class("byte")


def test_short_texts_train_a_smaller_bpe() -> None:
    tokenizer = BPETokenizer.train(["ab"], 4096)
    assert 256 <= tokenizer.size < 4096
    check_round_trip(tokenizer, "other words")


def test_character_ids_follow_code_points() -> None:
    assert CharacterTokenizer.train(["cab"], 0).encode("abc").tolist() == [0, 1, 2]


@every_tokenizer
def test_the_bytes_of_ids_in_a_row_are_the_text(name: str) -> None:
    text = TRAINING[1]
    parts = BUILT[name].token_bytes()
    assert len(parts) == BUILT[name].size
    assert b"".join(parts[i] for i in BUILT[name].encode(text)) == text.encode()


def test_a_tokenizer_that_changes_texts_is_refused() -> None:
    """Bits per byte under it would be those of other texts."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    BUILT["bpe"].check_exact()
    for normalizer in (normalizers.Lowercase(), normalizers.NFC(), normalizers.Strip()):
        changing = BPETokenizer.from_json(BUILT["bpe"].to_json())
        changing.model.normalizer = normalizer
        with pytest.raises(ValueError, match="it changes texts: .* comes back as"):
            changing.check_exact()
    eating = BPETokenizer.from_json(BUILT["bpe"].to_json())
    eating.model.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    with pytest.raises(ValueError, match="it changes texts: 'a  <mask>  b' comes back as 'a<mask>  b'"):
        eating.check_exact()
    without_bytes = Tokenizer(models.BPE(vocab={"A": 0, "a": 1}, merges=[]))
    without_bytes.pre_tokenizer, without_bytes.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    with pytest.raises(ValueError, match="it changes texts"):
        BPETokenizer(without_bytes).check_exact()


def test_a_bpe_of_other_letters_has_no_bytes() -> None:
    """A tokenizer whose entries are letters themselves, without byte-level ones, is refused instead of misread."""
    from tokenizers import Tokenizer, models

    plain = BPETokenizer(Tokenizer(models.BPE(vocab={"ü": 0, "\u0120": 1}, merges=[])))
    with pytest.raises(ValueError, match="byte-level BPE"):
        plain.token_bytes()
