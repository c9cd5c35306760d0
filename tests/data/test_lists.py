"""Examples from lists, and files of examples that read back equal."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jgpt.config import DataConfig
from jgpt.data.examples import Conversation, Message, QuestionAnswer
from jgpt.data.lists import from_lists, write_jsonl
from jgpt.data.recognise import read_path
from jgpt.tasks import qa

ANY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
TEXTS = ANY.filter(str.strip)


@st.composite
def questions(draw: st.DrawFn, depth: int = 1) -> QuestionAnswer:
    choices = draw(st.lists(TEXTS, max_size=4, unique=True))
    choices = choices if len(choices) > 1 else []
    return QuestionAnswer(
        draw(TEXTS),
        draw(st.sampled_from(choices)) if choices else draw(TEXTS),
        more=tuple(draw(st.lists(questions(depth=0), max_size=2))) if depth else (),
        context=draw(st.just("") | TEXTS),
        references=tuple(draw(st.lists(TEXTS, max_size=3))),
        steps=tuple(draw(st.lists(TEXTS, max_size=2))),
        choices=tuple(choices),
        category=draw(st.just("") | TEXTS),
    )


MESSAGES = st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), TEXTS), max_size=3)
TALKS = MESSAGES.map(lambda before: Conversation((*before, Message("assistant", "yes"))))


@pytest.mark.parametrize("examples", [questions(), TALKS, TEXTS], ids=["questions", "conversations", "texts"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_what_is_written_reads_back_equal(
    data: st.DataObject, examples: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    written = data.draw(st.lists(examples, min_size=2, max_size=4, unique=True))
    path = tmp_path_factory.mktemp("run") / "own.jsonl"
    write_jsonl(written, path)
    splits = read_path(str(path), kind="auto", data=DataConfig(), validation_fraction=None, seed=0)
    assert list(splits.validation) == written and not splits.train


def test_lists_become_questions() -> None:
    assert qa.from_lists(["q", "r"], ["a", "b"]) == [QuestionAnswer("q", "a"), QuestionAnswer("r", "b")]
    (example,) = from_lists(
        ["q"], ["a"], contexts=["c"], choices=[["a", "b"]], references=[["a", "A"]], categories=["k"]
    )
    assert example == QuestionAnswer("q", "a", context="c", choices=("a", "b"), references=("a", "A"), category="k")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((["q"], ["a", "b"]), "answers has 2 elements and questions 1"),
        (("q", ["a"]), "questions is a text"),
        (([], []), "questions is empty"),
        ((["q", " "], ["a", "b"]), "element 1 .*question is empty"),
        ((["q", "r"], ["a", ""]), "element 1 .*question 'r'.*answer is empty"),
        ((["q"], [float("nan")]), "element 0 .*nan is float: must be text"),
        ((["q"], ["a\0"]), "element 0 .*NUL"),
    ],
)
def test_lists_that_are_wrong_say_where(arguments: tuple, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        from_lists(*arguments)


def test_choices_are_checked() -> None:
    with pytest.raises(ValueError, match="element 0 .*'c' is not among the choices"):
        from_lists(["q"], ["c"], choices=[["a", "b"]])
    with pytest.raises(ValueError, match=r"choices\[0\] is the text 'ab'"):
        from_lists(["q"], ["a"], choices=["ab"])


@pytest.mark.parametrize(
    "example", [" ", QuestionAnswer("q", ""), Conversation((Message("user", "x"),)), QuestionAnswer("q", "\ud800")]
)
def test_what_no_reader_takes_is_not_written(example: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="example 0 cannot be written"):
        write_jsonl([example], tmp_path / "a.jsonl")
    assert not list(tmp_path.iterdir())


def test_follow_ups_of_follow_ups_and_blank_parts_are_refused_before_they_are_written(tmp_path: Path) -> None:
    deep = QuestionAnswer("a", "b", more=(QuestionAnswer("c", "d", more=(QuestionAnswer("e", "f"),)),))
    for example, words in (
        (deep, "follow-ups of its own"),
        (QuestionAnswer("a", "b", context=" "), "the context is blank"),
    ):
        with pytest.raises(ValueError, match=f"example 0 cannot be written .*{words}"):
            write_jsonl([example], tmp_path / "a.jsonl")
