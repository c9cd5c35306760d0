"""bAbI: every question after the facts of its story, with the facts that support it; broken lines are named."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jgpt.data.babi import read_babi
from jgpt.data.examples import QuestionAnswer
from jgpt.data.read_log import ReadLog

TRAIN = """1 Mary moved to the bathroom.
2 John went to the hallway.
3 Where is Mary? \tbathroom\t1
4 Mary took the milk.
5 What is Mary carrying?\tmilk\t4
1 Sandra went to the office.
2 Where is Sandra?\toffice\t1
"""
TEST = "1 Ann is here.\n2 Where is Ann?\there\t1\n3 Bob left.\n4 Who left?\tBob\t3\n"
FILES = {"qa1_one-fact_train.txt": TRAIN, "qa1_one-fact_test.txt": TEST, "readme.txt": "not bAbI"}


def test_a_question_sees_all_facts_before_it_and_its_steps_are_those_that_support_it():
    first, last, second = read_babi(FILES).train
    assert (first.context, first.question, first.answer, first.steps) == (
        "Mary moved to the bathroom. John went to the hallway.",
        "Where is Mary?",
        "bathroom",
        ("Mary moved to the bathroom.",),
    )
    assert (last.question, last.answer, last.steps) == ("What is Mary carrying?", "milk", ("Mary took the milk.",))
    assert last.context == f"{first.context} Mary took the milk."
    assert (second.context, second.answer) == ("Sandra went to the office.", "office")
    assert first.category == "01 one fact" and first.more == last.more == ()


WORDS = st.text("abc XY.", min_size=1, max_size=8).map(str.strip).filter(bool)
LINES = st.lists(st.one_of(WORDS, st.tuples(WORDS, WORDS, st.sets(st.integers(0, 9)))), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)  # a shared machine has slow moments
@given(st.lists(LINES, min_size=1, max_size=4))
def test_what_is_written_reads_back_equal(stories: list[list]):
    text, expected = "", []
    for story in stories:
        facts: dict[int, str] = {}
        for number, line in enumerate([*story, ("q", "a", set())], 1):
            if isinstance(line, str):
                facts[number] = line
                text += f"{number} {line}\n"
                continue
            support = sorted(line[2] & set(facts))
            text += f"{number} {line[0]}\t{line[1]}\t{' '.join(map(str, support))}\n"
            steps = tuple(facts[n] for n in support)
            expected.append(
                QuestionAnswer(line[0], line[1], context=" ".join(facts.values()), category="01 k", steps=steps)
            )
    assert read_babi({"qa1_k_test.txt": text}, whole=True).validation == expected


def test_steps_stand_in_the_order_of_the_file():
    story = "1 A is b.\n2 B is c.\n3 Is A c?\tyes\t2 1\n"
    (example,) = read_babi({"qa1_k_train.txt": story, "qa1_k_test.txt": TEST}).train
    assert example.steps == ("B is c.", "A is b.")


def test_a_held_out_question_sees_all_facts_and_no_other_question():
    held = read_babi(FILES).validation
    assert [(e.context, e.question, e.answer, e.more) for e in held] == [
        ("Ann is here.", "Where is Ann?", "here", ()),
        ("Ann is here. Bob left.", "Who left?", "Bob", ()),
    ]


def test_kinds_stand_in_the_order_of_their_numbers_and_lonely_files_are_noted():
    files = {f"qa{n}_k_{part}.txt": TEST for n in (10, 2) for part in ("train", "test")}
    files["qa3_k_test.txt"] = TEST
    splits = read_babi(files)
    assert [e.category for e in splits.validation][::2] == ["02 k", "03 k", "10 k"]
    again, alone = splits.notes
    assert alone == "no train file of 03 k: scored untrained"
    assert again.startswith("6 of 6 test questions stand in the training files too, with the same facts")
    files["qa3_k_test.txt"] = "1 A new fact.\n2 Who?\tI\t1\n"
    assert read_babi(files).notes[0].startswith("4 of 5 test questions")


def test_the_files_of_a_third_split_are_left_out_unless_all_is_to_be_scored():
    files = {f"qa1_k_{part}.txt": TEST for part in ("train", "test", "valid")}
    splits = read_babi(files)
    assert (len(splits.train), len(splits.validation)) == (2, 2)
    assert splits.notes[0] == "left out, since test is what is held out: 1 valid files, such as qa1_k_valid.txt"
    assert len(read_babi(files, whole=True).validation) == 6
    assert len(read_babi({"qa1_k_valid.txt": TEST}, whole=True).validation) == 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("Mary moved.", ["line 2", "'Mary moved.'", "number"]),
        ("2 Where is Mary?\t\t1", ["line 2", "question, tab, answer"]),
        ("2", ["line 2", "number and a text"]),
        ("2 Where is Mary?\there\t1 7", ["line 2", "rests on 7", "no number of a fact before it"]),
        ("2 Where is Mary?\there\tx", ["line 2", "rests on x"]),
    ],
)
def test_a_broken_line_is_named(line: str, words: list[str]):
    with pytest.raises(ValueError) as error:
        read_babi({"qa1_k_train.txt": f"1 A fact.\n{line}\n", "qa1_k_test.txt": TEST})
    for word in ["qa1_k_train.txt", *words]:
        assert word in str(error.value)


def test_a_story_without_a_question_and_a_missing_split_are_refused():
    with pytest.raises(ValueError, match="asks nothing: 'A fact"):
        read_babi({"qa1_k_train.txt": "1 A fact.\n", "qa1_k_test.txt": TEST})
    with pytest.raises(ValueError, match=r"no bAbI file qa\*_train.txt"):
        read_babi({"qa1_k_test.txt": TEST})


def test_a_bad_story_is_skipped_whole_and_noted():
    bad = "1 A fact.\nno number\n3 Where?\tthere\t1\n1 Only a fact.\n"
    log = ReadLog("skip")
    splits = read_babi({"qa1_k_train.txt": bad + TRAIN, "qa1_k_test.txt": TEST}, log)
    assert splits.train == read_babi({"qa1_k_train.txt": TRAIN, "qa1_k_test.txt": TEST}).train
    assert len(log.skipped) == 2 and splits.notes[0].startswith("2 bad record(s) skipped")
    assert (
        "qa1_k_train.txt, line 2: 'no number'" in splits.notes[1]
        and "line 4: the story asks nothing" in splits.notes[2]
    )


def test_digits_that_are_no_numbers_are_no_line_numbers() -> None:
    with pytest.raises(ValueError, match="does not begin with a number"):
        read_babi(
            {
                "qa1_one_train.txt": "\u00b2 Ann is here.\n",
                "qa1_one_test.txt": "1 Ann is here.\n2 Where is Ann?\there\t1\n",
            },
            ReadLog("error"),
        )
