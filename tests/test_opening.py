import numpy as np
import pytest
from rich.text import Text

from jgpt import opening
from jgpt.data.examples import Conversation, Message, Picture, QuestionAnswer, Splits, TokenStream
from jgpt.data.packing import pack
from jgpt.tasks.image import ImageTask
from jgpt.tasks.mixture import TaskData
from jgpt.tasks.text import TextTask
from jgpt.tokenizers.image import Palette
from jgpt.tokenizers.text import ByteTokenizer
from jgpt.tokenizers.vocabulary import Vocabulary

VOCABULARY = Vocabulary("bytes", ByteTokenizer(), Palette.grey(3))


def data(task, examples, **fields) -> TaskData:
    rows = pack([task.encode(example) for example in examples], task.packing, 16)
    return TaskData(task, Splits(examples, examples[:1], **fields), rows, rows, None)


@pytest.mark.parametrize(
    ("examples", "want"),
    [
        (["é", "ab"], "4 bytes of text"),
        (
            [QuestionAnswer("ab", "c", context="ddd", choices=("c", "ee"), more=(QuestionAnswer("f", "g"),))],
            "3 bytes of contexts, 3 bytes of questions, 3 bytes of choices, 2 bytes of answers",
        ),
        (
            [Conversation((Message("user", "hi"), Message("assistant", "ho!")))],
            "2 bytes by the user, 3 bytes by the assistant",
        ),
        ([TokenStream(np.arange(1200), 5000)], "1,200 ids, 5,000 bytes of text"),
        ([TokenStream(np.arange(3))], "3 ids"),
        ([Picture(np.zeros((2, 3), np.uint8))] * 2, "2 pictures of 2 x 3"),
        (
            [Picture(np.zeros((n, 3), np.uint8), "a") for n in (1, 2, 4, 5)],
            "4 pictures of 1 x 3 and 2 x 3 and 4 x 3 and",
        ),
    ],
)
def test_volumes(examples, want):
    assert opening.volume(examples).startswith(want)


def test_plain_lines_say_what_was_recognised_and_show_the_first_example():
    text = data(
        TextTask(VOCABULARY), ["first", "second"], recognised="a folder of 2 text files", notes=("1 was empty",)
    )
    assert list(opening.lines(text, VOCABULARY, terminal=False)) == [
        "    a folder of 2 text files: 11 bytes of text to train, 5 bytes of text held out",
        "    note: 1 was empty",
        "    first, trained in brackets: <|text|>[first<|endoftext|>]",
    ]


def test_a_terminal_shows_the_first_picture():
    task = ImageTask(VOCABULARY, (3, 2), ("a",))
    pictures = data(task, [Picture(np.array([[0, 128], [255, 0], [128, 255]], np.uint8), "a")])
    *_, first, blocks = opening.lines(pictures, VOCABULARY, terminal=True)
    assert isinstance(first, Text) and first.plain.endswith("<|caption|>a<|image|> 6 pixels <|endofimage|>")
    trained = [
        first.plain[span.start : span.end] for span in first.spans if "underline" in str(span.style).split(" not")[0]
    ]
    assert trained == [" 6 pixels <|endofimage|>"]
    assert isinstance(blocks, Text) and blocks.plain.count("▀") == 4  # two rows a line, the last alone
    assert "rgb(0,0,0) on rgb(255,255,255)" in {str(span.style) for span in blocks.spans}


def test_a_large_picture_is_drawn_small():
    blocks = opening._blocks(np.zeros((100, 300, 3), np.uint8))
    assert max(len(line) for line in blocks.plain.splitlines()) <= opening.PICTURE_COLUMNS + 4
