import numpy as np
import pytest

from jgpt.batch import Batch, Document
from jgpt.data.examples import Conversation, Message, Picture, QuestionAnswer
from jgpt.data.loader import eval_batches
from jgpt.data.packing import pack
from jgpt.show.rules import ENDS, RULES, Rows, check
from jgpt.tasks.chat import ChatTask
from jgpt.tasks.image import ImageTask
from jgpt.tasks.qa import QATask
from jgpt.tasks.text import TextTask
from jgpt.tokenizers.image import Palette
from jgpt.tokenizers.text import ByteTokenizer
from jgpt.tokenizers.vocabulary import Vocabulary

VOCABULARY = Vocabulary("bytes", ByteTokenizer(), Palette.grey(4))
QUESTIONS = [
    QuestionAnswer("2+3=", "5", more=(QuestionAnswer("and 1?", "6"),)),
    QuestionAnswer("Where?", "here", context="It is here."),
    QuestionAnswer("a", "b"),
]

TURNS = [
    ("system", "Be kind."),
    ("user", "2+3="),
    ("assistant", "5"),
    ("user", "thanks"),
    ("assistant", "You're welcome"),
]
CONVERSATIONS = [  # the third ends with the user's turn
    Conversation(tuple(Message(*turn) for turn in turns)) for turns in (TURNS[1:3], TURNS[:3], TURNS[1:4], TURNS[3:])
]


def rows(kind: str, length: int = 40) -> Rows:
    """Return good rows of a task; the last has padding."""
    if kind == "text":
        task, examples = TextTask(VOCABULARY), ["hello there", "x", "and so on and so forth" * 3]
    elif kind == "qa":
        task, examples = QATask(VOCABULARY, 9), QUESTIONS
    elif kind == "chat":
        task, examples = ChatTask(VOCABULARY, 9, True), CONVERSATIONS
    else:
        task = ImageTask(VOCABULARY, (2, 3), ("a",))
        examples = [Picture(np.zeros((2, 3), np.uint8), "a")] * 7
    packed = pack([task.encode(example) for example in examples], task.packing, length, 2.0)
    return Rows(next(eval_batches(packed, batch_size=len(packed))), VOCABULARY, kind, task.packing)


def broken(found) -> set[str]:
    return {finding.rule for finding in found if finding.problem is not None}


@pytest.mark.parametrize("kind", ["text", "qa", "chat", "image"])
def test_good_rows_break_no_rule(kind):
    assert not broken(check(rows(kind)))


def change(field: str, row: int, at: int, value: float):
    def apply(good: Rows) -> Rows:
        arrays = {name: array.copy() for name, array in good.batch._asdict().items()}
        arrays[field][row, at] = value
        return Rows(Batch(**arrays), good.vocabulary, good.kind, good.packing)

    return apply


def first(good: Rows, where: np.ndarray) -> tuple[int, int]:
    row, at = np.argwhere(where)[0]
    return int(row), int(at)


@pytest.mark.parametrize("kind", ["text", "qa", "chat", "image"])
def test_every_rule_can_fail(kind):
    good = rows(kind)
    batch, segments = good.batch, good.batch.segments_BS
    trained = (batch.weights_BS > 0) & (segments > 0)
    inner = np.zeros_like(trained)
    inner[:, 1:-1] = (
        (segments[:, 1:-1] == segments[:, 2:]) & (segments[:, 1:-1] == segments[:, :-2]) & (segments[:, 1:-1] > 0)
    )
    end = ENDS[kind]
    cases = {
        "ids below the vocabulary's size": change("tokens_BS", *first(good, inner), VOCABULARY.size),
        "documents numbered in order, padding last": change("segments_BS", *first(good, inner), 0),
        "positions count from 0 in each document": change("positions_BS", *first(good, inner), 99),
        "targets are the next token": change(
            "targets_BS", *first(good, inner & trained), VOCABULARY.text_ids.start + 7
        ),
        "padding carries no weight": change("weights_BS", *first(good, segments == 0), 1.0),
        "every document's end is trained": change(
            "weights_BS", *first(good, trained & (batch.targets_BS == VOCABULARY.special(end))), 0.0
        ),
        "answers are trained": change("weights_BS", *first(good, inner & trained), 0.0),
    }
    if kind != "text":
        cases["prompts are not trained"] = change("weights_BS", *first(good, (segments > 0) & ~trained), 1.0)
    for rule, breach in cases.items():
        assert rule in broken(check(breach(good))), rule
    empty = Rows(batch._replace(weights_BS=batch.weights_BS * 0), VOCABULARY, kind, good.packing)
    assert "no row without weight" in broken(check(empty))
    assert set(cases) | {"no row without weight", "prompts are not trained"} == set(RULES)


def test_a_document_without_its_end_is_found():
    cut = Document(np.array([VOCABULARY.special("<|question|>"), 20, VOCABULARY.special("<|answer|>"), 21], np.int32))
    cut = cut._replace(weights=np.array([0, 0, 0, 1], np.float32))
    packed = pack([cut], "whole", 8)
    batch = next(eval_batches(packed, batch_size=len(packed)))
    found = check(Rows(batch, VOCABULARY, "qa", "whole"))
    assert broken(found) == {"every document's end is trained"}
    assert "row 0, place 2" in next(f.problem for f in found if f.problem)


def test_ids_encoded_elsewhere_need_no_markers():
    packed = pack([Document(np.arange(20, 30, dtype=np.int32))] * 3, "stream", 6)
    batch = next(eval_batches(packed, batch_size=len(packed)))
    assert "every document's end is trained" in broken(check(Rows(batch, VOCABULARY, "text", "stream")))
    assert not broken(check(Rows(batch, VOCABULARY, "text", "stream", own_markers=False)))
