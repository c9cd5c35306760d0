import html
import re

import numpy as np
from rich.console import Console

from jgpt.data.examples import Picture, QuestionAnswer
from jgpt.data.loader import eval_batches
from jgpt.data.packing import pack
from jgpt.show import drawn, page, terminal
from jgpt.show.rules import Finding
from jgpt.tasks.image import ImageTask
from jgpt.tasks.qa import QATask
from jgpt.tokenizers.image import Palette
from jgpt.tokenizers.image_learned import Learned, init
from jgpt.tokenizers.image_rgb import RGB
from jgpt.tokenizers.text import ByteTokenizer
from jgpt.tokenizers.vocabulary import Vocabulary

VOCABULARY = Vocabulary("bytes", ByteTokenizer(), Palette.grey(3))


def row(task, examples, length=40):
    packed = pack([task.encode(example) for example in examples], task.packing, length, 2.0)
    batch = next(eval_batches(packed, batch_size=len(packed)))
    return batch, drawn.documents(VOCABULARY, batch, 0)


QUESTIONS = row(QATask(VOCABULARY, 9), [QuestionAnswer("<b>&", "x"), QuestionAnswer("2+3=", "5")])
PICTURES = row(ImageTask(VOCABULARY, (2, 3), ("a",)), [Picture(np.array([[0, 128, 255]] * 2, np.uint8), "a")])


def test_a_row_is_taken_apart_without_loss():
    batch, documents = QUESTIONS
    filled = batch.segments_BS[0] > 0
    cells = [cell for document in documents for cell in document.cells]
    for field, array in (
        ("token_id", batch.tokens_BS),
        ("target_id", batch.targets_BS),
        ("weight", batch.weights_BS),
        ("position", batch.positions_BS),
    ):
        assert [getattr(cell, field) for cell in cells] == array[0][filled].tolist()
    assert [document.segment for document in documents] == [1, 2]
    assert drawn.summary(batch, 0) == "2 documents, 14 of 40 places filled, 4 trained"


def test_columns_of_pictures():
    assert drawn.columns_of((2, 3, 1), 6) == 3
    assert drawn.columns_of((2, 3, 3), 18) == 9  # one id a channel
    assert drawn.columns_of(None, 16) == 4


def test_a_terminal_shows_every_token_with_target_weight_and_position():
    lines = [line.plain for document in QUESTIONS[1] for line in terminal.rows_of(document, None, 60)]
    assert max(map(len, lines)) <= 60
    merged = {
        label: " ".join(line for line in lines if line.startswith(f"  {label}")).split() for label in terminal.LABELS
    }
    cells = [cell for document in QUESTIONS[1] for cell in document.cells]
    labels = set(terminal.LABELS)
    assert [w for w in merged["token"] if w not in labels] == [cell.token.text for cell in cells]
    assert [w for w in merged["target"] if w not in labels] == [cell.target.text for cell in cells]
    assert [w for w in merged["weight"] if w not in labels] == [f"{cell.weight:g}" for cell in cells]
    assert [w for w in merged["position"] if w not in labels] == [str(cell.position) for cell in cells]


def test_a_terminal_draws_pictures():
    lines = list(terminal.rows_of(PICTURES[1][0], (2, 3, 1), 60))
    blocks = [line for line in lines if "▀" in line.plain]
    assert len(blocks) == 1 and blocks[0].plain.count("▀") == 3
    assert "rgb(128,128,128) on rgb(128,128,128)" in {str(span.style) for span in blocks[0].spans}


def test_codes_of_blocks_stand_in_their_own_grid_and_ids_of_channels_in_their_colour():
    learned = Learned(init(2, 1, (8, 6, 5), 4, 1, 0), 2, 1, (8, 6, 5))
    words = Vocabulary("bytes", ByteTokenizer(), learned)
    task = ImageTask(words, (4, 8), ("a",))
    packed = pack([task.encode(Picture(np.zeros((4, 8), np.uint8), "a"))], task.packing, 40, 2.0)
    batch = next(eval_batches(packed, batch_size=len(packed)))
    lines = list(terminal.rows_of(drawn.documents(words, batch, 0)[0], task.grid, 60))
    assert [line.plain.count("▀") for line in lines if "▀" in line.plain] == [4]  # two rows of four cells

    words = Vocabulary("bytes", ByteTokenizer(), RGB())
    task = ImageTask(words, (1, 1, 3), ("a",))
    packed = pack([task.encode(Picture(np.array([[[7, 0, 255]]], np.uint8), "a"))], task.packing, 40, 2.0)
    batch = next(eval_batches(packed, batch_size=len(packed)))
    cells = drawn.documents(words, batch, 0)[0].cells
    colours = [cell.token.colour for cell in cells if cell.token.kind == "pixel"]
    assert colours == [(7, 0, 0), (0, 0, 0), (0, 0, 255)]
    assert drawn.columns_of(task.grid, 3) == 3


def test_findings_are_printed():
    console = Console(record=True, width=100)
    terminal.findings("qa", [Finding("one"), Finding("two", "row 3"), Finding("three", untried="none")], console)
    assert console.export_text().splitlines() == [
        "  ok     qa: one",
        "  FAILED qa: two: row 3",
        "  -      qa: three: not tried, none",
    ]


def test_the_page_escapes_data_and_shows_everything():
    section = page.Section("q", "qa", None, [Finding("one"), Finding("two", "at <3>")], [("s", QUESTIONS[1])])
    pictures = page.Section("p", "image", (2, 3, 1), [], [("s", PICTURES[1])])
    text = page.page("T & <i>", "a", [section, pictures])
    assert "<script" not in text and "<b>&" not in text and "T &amp; &lt;i&gt;" in text
    assert 'class="bad">two: at &lt;3&gt;' in text
    titles = re.findall(r'class="t [^"]*" title="([^"]*)"', text)
    cells = [c for _, documents in (QUESTIONS, PICTURES) for d in documents for c in d.cells if c.token.kind != "pixel"]
    assert len(titles) == len(cells)
    for title, cell in zip(titles, cells, strict=True):
        assert f"position {cell.position}, weight {cell.weight:g}" in html.unescape(title)
    assert re.findall(r"background:rgb\((\d+), ", text) == ["0", "128", "255"] * 2
    assert "repeat(3," in text
