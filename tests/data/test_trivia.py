"""OpenTriviaQA: records over several lines, two encodings in one file, and what is wrong with a record."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jgpt.config import DataConfig
from jgpt.data.examples import QuestionAnswer
from jgpt.data.inputs import InputFile
from jgpt.data.read_log import ReadLog
from jgpt.data.recognise import read_path
from jgpt.data.trivia import is_trivia, read_trivia

REAL = Path(__file__).parents[3] / "shared" / "data" / "qa" / "trivia"
GOOD = "#Q Which sleeps?\n^ Sloth\nA Mouse\nB Sloth\n\n"


def questions(raw: str | bytes, policy: str = "error") -> tuple[list[QuestionAnswer], ReadLog]:
    log = ReadLog(policy)
    content = raw.encode() if isinstance(raw, str) else raw
    assert is_trivia(content)
    return list(read_trivia(InputFile("all/animals", "all/animals", lambda: content), "utf-8", log)), log


LINES = (
    st.text("abcd éñ?!^#Q", min_size=1, max_size=10).map(str.strip).filter(lambda line: line[:1] not in ("", "^", "#"))
)
RECORDS = st.tuples(LINES, st.lists(LINES, min_size=2, max_size=4, unique=True), st.integers(0, 3))


@settings(max_examples=60, deadline=None)  # a shared machine has slow moments
@given(st.lists(RECORDS, min_size=1, max_size=4), st.sampled_from(["\n", "\r\n"]))
def test_what_is_written_reads_back_equal(records: list[tuple[str, list[str], int]], end: str) -> None:
    lines, expected = [], []
    for asked, choices, right in records:
        answer = choices[right % len(choices)]
        choosable = [f"{letter} {choice}" for letter, choice in zip("ABCD", choices, strict=False)]
        lines += [f"#Q {asked}", f"^ {answer}", *choosable, ""]
        expected.append(QuestionAnswer(asked, answer, choices=tuple(choices), category="animals"))
    assert questions(end.join(lines))[0] == expected


def test_a_record_becomes_a_question_with_choices() -> None:
    found, log = questions(GOOD)
    assert found == [QuestionAnswer("Which sleeps?", "Sloth", choices=("Mouse", "Sloth"), category="animals")]
    assert log.notes() == ()


def test_questions_and_choices_may_run_over_lines() -> None:
    text = "#Q \nA poem:\nB is here\n\n^ two\r\nlines\nA one\nB two\nlines\n\nC \n three\n"
    (example,), _ = questions(text)
    assert example.question == "A poem:\nB is here"
    assert example.answer == "two\nlines" and example.choices == ("one", "two\nlines", "three")


def test_lines_of_two_encodings_are_counted() -> None:
    raw = "#Q Où?\n^ ici\nA ici\n".encode() + "B là – bas\n".encode("cp1252")
    (example,), log = questions(raw)
    assert example.question == "Où?" and example.choices == ("ici", "là – bas")
    assert log.notes() == ("1 line(s) that are no UTF-8, read as Windows-1252 or latin-1",)


def test_a_choice_that_stands_twice_is_taken_once() -> None:
    (example,), log = questions("#Q q?\n^ a\nA a\nB b\nC b\n")
    assert example.choices == ("a", "b") and "stands twice" in log.notes()[0]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ("#Q q?\n^ c\nA a\nB b\n", "'c' is not among the choices"),
        ("#Q q?\nA a\nB b\n", "no answer"),
        ("#Q q?\n^ a\n", "no choices"),
        ("#Q q?\n^ a\nA a\nB \n", "choice B is empty"),
        ("#Q\n^ a\nA a\nB b\n", "question is empty"),
        ("#Q q\0?\n^ a\nA a\nB b\n", "NUL"),
    ],
)
def test_bad_records_name_their_line(record: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"all/animals, line 6: .*{said}.*--data.on-bad-record skip"):
        questions(GOOD + record)
    found, log = questions(GOOD + record + GOOD, "skip")
    assert len(found) == 2 and len(log.skipped) == 1


@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is not here: it is no part of the project")
def test_the_real_files_are_read_whole() -> None:
    data = DataConfig(on_bad_record="skip")
    splits = read_path(str(REAL), kind="auto", data=data, validation_fraction=0.1, seed=0)
    assert len(splits.train) + len(splits.validation) == 49_716 - 4 and splits.kind == "qa"
    assert "4 bad record(s)" in " ".join(splits.notes) and len({e.category for e in splits.train}) == 22
    assert all(example.answer in example.choices for example in splits.train)
