"""Quiz files: the pattern language against hand-expanded cases, and records of two and of more fields."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jgpt.data.examples import QuestionAnswer
from jgpt.data.inputs import InputFile
from jgpt.data.quiz import EXPANSIONS, expand, read_index, read_quiz, split_fields
from jgpt.data.read_log import BadRecord, ReadLog


def questions(text: str, index: str = "", policy: str = "error") -> tuple[list[QuestionAnswer], ReadLog]:
    log = ReadLog(policy)
    file = InputFile("folder/topic", "folder/topic", text.encode)
    return list(read_quiz(file, "utf-8", read_index(index), log)), log


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        ("Paris", ["Paris"]),
        ("Banjul|Bathurst", ["Banjul", "Bathurst"]),
        ("{The }Gambia", ["The Gambia", "Gambia"]),
        ("Bra[z|s]il", ["Brazil", "Brasil"]),
        ("{Rep{ublic} of }X", ["Republic of X", "Rep of X", "X"]),
        ("M[iddle{-}Earth|E]", ["Middle-Earth", "MiddleEarth", "ME"]),
        (r"be{\:}", ["be:", "be"]),
        (r"\[a\|b\]", ["[a|b]"]),
        ("W[illia|]m", ["William", "Wm"]),
        ("{.,|;}x", [".,x", ";x", "x"]),
    ],
)
def test_patterns_stand_for_their_texts(pattern: str, texts: list[str]) -> None:
    assert list(expand(pattern)) == texts


def test_either_bracket_closes() -> None:
    assert list(expand("[Squares|n[**|^]2} base 8")) == ["Squares base 8", "n**2 base 8", "n^2 base 8"]
    with pytest.raises(BadRecord, match="closes no bracket"):
        list(expand("a}b"))


@settings(max_examples=50, deadline=None)  # a shared machine has slow moments
@given(st.lists(st.lists(st.text("ab", max_size=2), min_size=1, max_size=3), max_size=4))
def test_groups_multiply(groups: list[list[str]]) -> None:
    pattern = "".join("[" + "|".join(group) + "]" for group in groups)
    assert list(expand(pattern)) == ["".join(parts) for parts in itertools.product(*groups)]


@settings(max_examples=50, deadline=None)  # a shared machine has slow moments
@given(st.lists(st.text(r":\ab", max_size=4), min_size=1, max_size=4))
def test_escaped_colons_do_not_split(fields: list[str]) -> None:
    escaped = [field.replace("\\", "\\\\").replace(":", "\\:") for field in fields]
    assert [next(expand(field)) for field in split_fields(":".join(escaped))] == fields


def test_two_fields_are_question_and_answer() -> None:
    found, _ = questions("Africa{n}:{The }Cape|Kap\nLine one:\\\nanswer\n\n")
    assert found[0] == QuestionAnswer("African", "The Cape", references=("The Cape", "Cape", "Kap"), category="topic")
    assert (found[1].question, found[1].answer) == ("Line one", "answer")


def test_more_fields_are_asked_by_their_name() -> None:
    found, _ = questions("H:1:Hydrogen\nHe:2:\n", "/usr/share/topic:symbol:number:element{s}\n")
    asked = [(example.question, example.answer) for example in found]
    assert asked == [("H: number", "1"), ("H: elements", "Hydrogen"), ("He: number", "2")]


def test_without_an_index_the_first_two_are_read_and_that_is_said() -> None:
    found, log = questions("H:1:Hydrogen\n")
    assert [(e.question, e.answer) for e in found] == [("H", "1")] and "no index" in log.notes()[0]


def test_accents_by_overstriking_give_way_to_plain_letters() -> None:
    found, _ = questions("Cameroon:Yaound['\be|e\b'|e]\n")
    assert found[0].answer == "Yaounde" and found[0].references == ("Yaounde",)


def test_expansions_are_bounded() -> None:
    found, _ = questions("q:" + "[a|b]" * 40 + "\n")
    assert len(found[0].references) <= EXPANSIONS and found[0].answer == "a" * 40


@pytest.mark.parametrize(
    ("line", "said"),
    [("no colon", "no colon"), ("q:", "answer is empty"), (":a", "question is empty"), ("q:[a", "not closed")],
)
def test_bad_records_name_their_line(line: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"folder/topic, line 3: .*{said}.*--data.on-bad-record skip"):
        questions(f"a:b\nc:d\n{line}\n")
    found, log = questions(f"a:b\nc:d\n{line}\n", policy="skip")
    assert len(found) == 2 and len(log.skipped) == 1 and "line 3" in log.notes()[1]


@pytest.mark.parametrize("text", ["just words\n", "two:fields\n", "a/b:{open:c\n"])
def test_what_is_no_index_is_none(text: str) -> None:
    assert read_index(text) == {}


def test_brackets_too_deep_are_named() -> None:
    with pytest.raises(BadRecord, match="too deep"):
        list(expand("[" * 3000 + "]" * 3000))
