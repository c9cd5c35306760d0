import io

import numpy as np
import pytest
from PIL import Image

from jgpt.compression import originals
from jgpt.tasks.image import ImageTask
from jgpt.tasks.text import TextTask
from jgpt.tokenizers.image import Palette
from jgpt.tokenizers.text import BPETokenizer, ByteTokenizer, CharacterTokenizer
from jgpt.tokenizers.vocabulary import Vocabulary

BYTES = Vocabulary("bytes", ByteTokenizer(), Palette.grey(256))
GREY = ImageTask(BYTES, (2, 3), ("a",))
PIXELS = np.arange(0, 240, 40, dtype=np.uint8).reshape(2, 3)


def encoded(image: Image.Image, form: str = "png", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def text_task(name, tokenizer) -> TextTask:
    return TextTask(Vocabulary(name, tokenizer))


@pytest.mark.parametrize("raw", [b"", b"plain", b"\xff\xfe\0\r\n", bytes(range(256))])
def test_bytes_go_to_ids_and_back(raw):
    task = TextTask(BYTES)
    original = originals.read_text(task, raw, "f")
    assert originals.text_bytes(task, original.documents[0].tokens[1:]) == raw
    assert original.checksum == originals.crc_of(raw)


@pytest.mark.parametrize("text", ["", "line\r\nline", "héé ⏎ 🎈"])
def test_text_goes_to_ids_and_back(text):
    for name, tokenizer in (
        ("characters", CharacterTokenizer("\r\nline hé⏎🎈")),
        ("bpe", BPETokenizer.train(["some text of letters " * 20], 300)),
    ):
        task = text_task(name, tokenizer)
        original = originals.read_text(task, text.encode(), "f")
        assert originals.text_bytes(task, original.documents[0].tokens[1:]) == text.encode()


def test_what_a_tokenizer_cannot_express_is_named():
    task = text_task("characters", CharacterTokenizer("abc"))
    with pytest.raises(ValueError, match=r"notes.txt cannot be expressed .*'d' \(U\+0064\)"):
        originals.read_text(task, b"abcd", "notes.txt")
    with pytest.raises(ValueError, match="0xff at offset 2 .* --tokenizer.text bytes"):
        originals.read_text(task, b"ab\xff", "notes.txt")


def test_a_tokenizer_that_changes_the_text_is_refused():
    class Lower(CharacterTokenizer):
        def encode(self, text):
            return super().encode(text.lower())

    with pytest.raises(ValueError, match="it changes the text"):
        originals.read_text(text_task("characters", Lower("abc")), b"aBc", "f")


@pytest.mark.parametrize("form", ["png", "bmp", "tiff", "ppm"])
def test_pictures_go_to_ids_and_back(form, tmp_path):
    original = originals.read_picture(GREY, encoded(Image.fromarray(PIXELS), form), "f", "")
    (document,) = original.documents
    back = originals.picture_of(GREY, document)
    assert (back == PIXELS).all() and original.units == 6
    originals.save_pictures(tmp_path / "out.png", "picture", back[None])
    assert (np.asarray(Image.open(tmp_path / "out.png")) == PIXELS).all()


def test_a_lossy_palette_is_refused_with_the_reason():
    task = ImageTask(Vocabulary("bytes", ByteTokenizer(), Palette.grey(4)), (2, 3), ("a",))
    with pytest.raises(ValueError, match="lossy and change 5 of 6 values, by up to 40 of 255"):
        originals.read_picture(task, encoded(Image.fromarray(PIXELS)), "f", "a")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"no picture", "cannot be read as a picture"),
        (encoded(Image.fromarray(PIXELS))[:40], "cannot be read as a picture"),
        (encoded(Image.new("RGB", (3, 2))), "mode 'RGB'"),
        (encoded(Image.new("LA", (3, 2))), "mode 'LA'"),
        (encoded(Image.new("I;16", (3, 2))), "mode 'I;16'"),
        (encoded(Image.new("L", (3, 2)), transparency=0), "without transparency"),
        (encoded(Image.new("L", (4, 2))), "2 x 4, this run draws 2 x 3"),
        (
            encoded(Image.new("L", (3, 2)), "tiff", save_all=True, append_images=[Image.new("L", (3, 2), 9)]),
            "animated",
        ),
    ],
)
def test_pictures_that_would_not_come_back_are_refused(raw, message):
    with pytest.raises(ValueError, match=message):
        originals.read_picture(GREY, raw, "f.png", "a")


def test_stacks(tmp_path):
    stack = np.stack([PIXELS, PIXELS[::-1]])
    np.save(tmp_path / "in.npy", stack)
    raw = (tmp_path / "in.npy").read_bytes()
    original = originals.read_stack(GREY, raw, "f", "a")
    assert len(original.documents) == 2 and original.units == 12
    originals.save_pictures(tmp_path / "out.npy", "stack", stack)
    assert (tmp_path / "out.npy").read_bytes() == raw
    originals.save_pictures(tmp_path / "OUT.NPY", "stack", stack)
    assert (tmp_path / "OUT.NPY").read_bytes() == raw and not (tmp_path / "OUT.NPY.npy").exists()
    for bad in (stack.astype(np.int32), PIXELS, stack[:0]):
        np.save(tmp_path / "bad.npy", bad)
        with pytest.raises(ValueError, match="a stack of this run's pictures"):
            originals.read_stack(GREY, (tmp_path / "bad.npy").read_bytes(), "f", "a")
    with pytest.raises(ValueError, match="no .npy array"):
        originals.read_stack(GREY, b"nonsense", "f", "a")


def test_outputs_are_named_after_what_they_hold(tmp_path):
    with pytest.raises(ValueError, match="name it NAME.png"):
        originals.save_pictures(tmp_path / "out.jpg", "picture", PIXELS[None])
    with pytest.raises(ValueError, match="name it NAME.npy"):
        originals.save_pictures(tmp_path / "out.png", "stack", PIXELS[None])


@pytest.mark.parametrize(("name", "kind"), [("a.PNG", "picture"), ("a.npy", "stack"), ("a.txt", "text"), ("a", "text")])
def test_names_say_what_a_file_holds(name, kind):
    from pathlib import Path

    assert originals.kind_of(Path(name)) == kind
