import numpy as np
import pytest

from jgpt.batch import Document
from jgpt.data.examples import Picture, QuestionAnswer
from jgpt.render import marked, piece, pieces, spans
from jgpt.tasks.image import ImageTask
from jgpt.tasks.qa import QATask
from jgpt.tasks.text import TextTask
from jgpt.tokenizers.image import Palette
from jgpt.tokenizers.text import BPETokenizer, ByteTokenizer, CharacterTokenizer
from jgpt.tokenizers.vocabulary import Vocabulary

BYTES = Vocabulary("bytes", ByteTokenizer(), Palette.grey(3))


def test_every_kind_of_id_has_a_form():
    text, image = BYTES.text_ids.start, BYTES.image_ids.start
    ids = [
        BYTES.special("<|text|>"),
        text + ord("a"),
        text + ord(" "),
        text + ord("\n"),
        text + 0xC3,
        image + 1,
        BYTES.size,
    ]
    got = [(p.text, p.kind, p.colour) for p in pieces(BYTES, ids)]
    assert got == [
        ("<|text|>", "special", None),
        ("a", "text", None),
        ("␣", "text", None),
        ("⏎", "text", None),
        ("\\xc3", "text", None),
        ("1", "pixel", (128, 128, 128)),
        (f"id {BYTES.size}", "unused", None),
    ]


def test_every_id_of_every_tokenizer_is_one_printable_line():
    bpe = BPETokenizer.train(["the cat sat on the mat, não é " * 20], 290)
    for name, text in (("bytes", ByteTokenizer()), ("bpe", bpe), ("characters", CharacterTokenizer("\0\t\n aé"))):
        vocabulary = Vocabulary(name, text, Palette(np.array([[1, 2, 3], [4, 5, 6]], np.uint8)))
        for token in range(vocabulary.size):
            form = piece(vocabulary, token).text
            assert form and form.isprintable(), (name, token, form)


@pytest.mark.parametrize(
    ("document", "want"),
    [
        (TextTask(BYTES).encode("Hi é\n."), "<|text|>[Hi é⏎.<|endoftext|>]"),
        (QATask(BYTES, 9).encode(QuestionAnswer("2+3=", "5")), "<|question|>2+3=<|answer|>[5<|endofanswer|>]"),
        (
            ImageTask(BYTES, (2, 2), ("a",)).encode(Picture(np.zeros((2, 2), np.uint8), "a")),
            "<|caption|>a<|image|>[ 4 pixels <|endofimage|>]",
        ),
        (Document(np.array([72, 105]), None, offset=BYTES.text_ids.start), "H[i]"),
    ],
)
def test_what_is_trained_stands_in_brackets(document, want):
    assert marked(spans(BYTES, document)) == want


def test_a_long_document_is_shown_from_both_ends():
    text = marked(spans(BYTES, TextTask(BYTES).encode("begin " + "x" * 10_000 + " end"), 60))
    assert len(text) < 80 and "begin" in text and "end<|endoftext|>" in text and "…" in text


def test_an_answer_after_a_long_context_is_seen():
    example = QuestionAnswer("Where?", "there", context="word " * 3000)
    text = marked(spans(BYTES, QATask(BYTES, 9).encode(example), 200))
    assert "Where?" in text and "[there<|endofanswer|>]" in text and len(text) < 230
