"""SQuAD: several references, questions without an answer, ids, and articles that stay whole."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jgpt.config import DataConfig
from jgpt.data.examples import QuestionAnswer, Splits
from jgpt.data.inputs import InputFile
from jgpt.data.read_log import KnownIds, ReadLog
from jgpt.data.recognise import read_path
from jgpt.data.squad import read_squad

REAL = Path(__file__).parents[3] / "shared" / "data" / "qa" / "squad"


def question(key: str, *answers: str, **more: Any) -> dict[str, Any]:
    found = [{"text": answer, "answer_start": 0} for answer in answers]
    return {"id": key, "question": f"What is {key}?", "answers": found, **more}


def squad(folder: Path, articles: dict[str, list[list[dict]]]) -> Path:
    data = [
        {"title": title, "paragraphs": [{"context": f"{title} {i}", "qas": qas} for i, qas in enumerate(paragraphs)]}
        for title, paragraphs in articles.items()
    ]
    path = folder / "squad.json"
    path.write_text(json.dumps({"version": "1.1", "data": data}, indent=1))
    return path


def read(path: Path, policy: str = "error", **changes: Any) -> Splits:
    arguments = {"kind": "auto", "validation_fraction": 0.2, "seed": 0} | changes
    return read_path(str(path), data=DataConfig(on_bad_record=policy), **arguments)


WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=8).filter(
    str.strip
)
QUESTIONS = st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=3)), min_size=1, max_size=3)
PARAGRAPHS = st.lists(st.tuples(WORDS, QUESTIONS), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None)  # a shared machine has slow moments
@given(st.lists(PARAGRAPHS, min_size=1, max_size=3), st.booleans(), st.sampled_from([None, 1]))
def test_what_is_written_reads_back_equal(articles: list[Any], ascii_only: bool, indent: int | None) -> None:
    data = [
        {
            "title": f"t{i}",
            "paragraphs": [
                {"context": text, "qas": [{"question": q, "answers": [{"text": a} for a in of]} for q, of in asked]}
                for text, asked in paragraphs
            ],
        }
        for i, paragraphs in enumerate(articles)
    ]
    text = json.dumps({"data": data}, ensure_ascii=ascii_only, indent=indent)
    file = InputFile("a.json", "a.json", text.encode)
    found = list(read_squad(json.loads(text), text, file, ReadLog("error"), KnownIds()))
    assert found == [
        (QuestionAnswer(q, of[0], context=context, references=tuple(dict.fromkeys(of))), f"t{i}")
        for i, paragraphs in enumerate(articles)
        for context, asked in paragraphs
        for q, of in asked
    ]


def test_references_context_and_articles(tmp_path: Path) -> None:
    articles = {f"t{i}": [[question(f"{i}a", "x", "y", "x")], [question(f"{i}b", "z")]] for i in range(5)}
    splits = read(squad(tmp_path, articles))
    assert (len(splits.train), len(splits.validation), splits.kind) == (8, 2, "qa")
    assert splits.recognised == "SQuAD JSON, 10 questions in 1 file"
    first = splits.train[0]
    assert (first.answer, first.references) == ("x", ("x", "y")) and first.context.endswith(" 0")
    sides = [{example.context.split()[0] for example in part} for part in (splits.train, splits.validation)]
    assert not sides[0] & sides[1]


def test_unanswerable_and_repeated_questions_are_counted(tmp_path: Path) -> None:
    articles = {
        "a": [[question("1", "x"), question("1", "x"), question("2", is_impossible=True)]],
        "b": [[question("3", "y")]],
    }
    splits = read(squad(tmp_path, articles))
    assert len(splits.train) + len(splits.validation) == 2
    assert any(note.startswith("1 question(s) without an answer") for note in splits.notes)
    assert any(note.startswith("1 record(s) left out that repeat") for note in splits.notes)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (question("bad"), "'answers' is empty"),
        (question("bad", ""), "'text' is empty"),
        (question("bad", "x") | {"question": " "}, "'question' is empty"),
        (question("bad", "x") | {"question": 3}, "no text 'question'"),
        (question("0", "other"), "id '0' stands already"),
    ],
)
def test_bad_questions_name_their_place_and_line(bad: dict, said: str, tmp_path: Path) -> None:
    path = squad(tmp_path, {f"t{i}": [[question(str(i), "x")]] for i in range(4)} | {"t": [[bad]]})
    line = [n for n, words in enumerate(path.read_text().split("\n"), 1) if '"id"' in words][-1]
    with pytest.raises(ValueError, match=rf"squad.json, data\[4\].paragraphs\[0\].qas\[0\] \(line {line}\): .*{said}"):
        read(path)
    splits = read(path, "skip")
    assert len(splits.train) + len(splits.validation) == 4 and "1 bad record(s)" in splits.notes[0]


def test_one_article_cannot_be_split(tmp_path: Path) -> None:
    path = squad(tmp_path, {"only": [[question("1", "x"), question("2", "y")]]})
    with pytest.raises(ValueError, match=r"squad.json.*2 questions cannot be split"):
        read(path)


def test_a_text_task_is_told_what_it_got(tmp_path: Path) -> None:
    path = squad(tmp_path, {"a": [[question("1", "x")]], "b": [[question("2", "x")]]})
    with pytest.raises(ValueError, match=r"recognised as SQuAD JSON.*kind 'text'.*kind qa \(or auto\)"):
        read(path, kind="text")


@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is not here: it is no part of the project")
def test_the_real_file_is_read_whole() -> None:
    splits = read(REAL, validation_fraction=0.1)
    assert len(splits.train) + len(splits.validation) == 1190
    assert not {e.context for e in splits.train} & {e.context for e in splits.validation}
