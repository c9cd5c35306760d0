"""The joint vocabulary: kinds of ids lie apart, both directions agree, and it survives on disk."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jgpt.tokenizers.image import Palette
from jgpt.tokenizers.text import TOKENIZERS
from jgpt.tokenizers.vocabulary import SPECIALS, Vocabulary

TEXT = "Ein Text, a text: ça va. " * 10
every_tokenizer = pytest.mark.parametrize("name", list(TOKENIZERS))


def build(name: str = "bytes", image: Palette | None = None) -> Vocabulary:
    return Vocabulary(name, TOKENIZERS[name].train([TEXT], 300), image)


WITH_IMAGES = build("bytes", Palette.grey(16))


@every_tokenizer
@pytest.mark.parametrize("image", [None, Palette.grey(5)])
def test_kinds_of_ids_are_apart_and_fill_the_vocabulary(name: str, image: Palette | None) -> None:
    vocabulary = build(name, image)
    specials = [vocabulary.special(special) for special in SPECIALS]
    kinds = [*specials, *vocabulary.text_ids, *vocabulary.image_ids]
    assert kinds == list(range(vocabulary.size))
    assert len(vocabulary.image_ids) == (5 if image else 0)


@given(st.text(), st.integers(0, len(SPECIALS) - 1), st.integers(0, 15))
def test_text_survives_and_other_ids_are_left_out(text: str, special: int, code: int) -> None:
    ids = WITH_IMAGES.encode_text(text)
    assert ids.dtype == np.int32 and all(int(i) in WITH_IMAGES.text_ids for i in ids)
    assert WITH_IMAGES.decode_text(ids) == text
    assert WITH_IMAGES.decode_text([special, *ids, WITH_IMAGES.image_ids[code]]) == text


def test_pictures_survive() -> None:
    picture = Palette.grey(16).colours.reshape(2, 8)
    ids = WITH_IMAGES.encode_image(picture)
    assert ids.dtype == np.int32 and ids.tolist() == list(WITH_IMAGES.image_ids)
    np.testing.assert_array_equal(WITH_IMAGES.decode_image(ids, (2, 8)), picture)


@every_tokenizer
def test_saved_vocabulary_gives_the_same_ids(name: str, tmp_path: Path) -> None:
    for image in (Palette(np.arange(12, dtype=np.uint8).reshape(4, 3)), None):  # the second save takes the image away
        vocabulary = build(name, image)
        vocabulary.save(tmp_path / "run")
        again = Vocabulary.load(tmp_path / "run")
        assert (again.text_name, again.size, again.image_ids) == (name, vocabulary.size, vocabulary.image_ids)
        np.testing.assert_array_equal(again.encode_text(TEXT), vocabulary.encode_text(TEXT))
        assert again.decode_text(again.encode_text(TEXT)) == TEXT


def test_a_folder_without_a_vocabulary_names_the_fix(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no tokenizer: train the run"):
        Vocabulary.load(tmp_path)


def test_refusals_name_the_value_and_the_fix() -> None:
    with pytest.raises(ValueError, match=r"'<\|end\|>'.*Known: .*<\|endoftext\|>"):
        build().special("<|end|>")
    with pytest.raises(ValueError, match=r"no image ids: set tokenizer.image"):
        build().encode_image(np.zeros((2, 2), np.uint8))
    with pytest.raises(ValueError, match=r"no image ids"):
        build().decode_image([], (0, 0))
    with pytest.raises(ValueError, match=r"outside the image ids range\(272, 288\)"):
        WITH_IMAGES.decode_image([272, 272, 272, 3], (2, 2))
    with pytest.raises(ValueError, match=r"2 image ids cannot fill a picture of 2 x 2"):
        WITH_IMAGES.decode_image([272, 272], (2, 2))
