"""Records with named columns: every way to write them, and what is said of those that cannot be used."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jgpt.config import DataConfig
from jgpt.data.examples import Conversation, Message, QuestionAnswer, Splits
from jgpt.data.inputs import InputFile
from jgpt.data.read_log import KnownIds, ReadLog
from jgpt.data.recognise import read_path
from jgpt.data.tables import read_table

CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip)
Q, A = {"question": "Capital of France?", "answer": "Paris"}, QuestionAnswer("Capital of France?", "Paris")


def table(content: str | bytes, name: str = "a.jsonl", policy: str = "error", **options: Any) -> tuple[list, ReadLog]:
    log = ReadLog(policy)
    raw = content.encode() if isinstance(content, str) else content
    options = {"kind": "auto", "columns": {}, "encoding": "utf-8"} | options
    return read_table(InputFile(name, name, lambda: raw), log=log, seen=KnownIds(), **options)[1], log


def lines(*records: Any) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


@pytest.mark.parametrize(
    ("record", "example"),
    [
        (Q, A),
        ({"prompt": "Capital of France?", "completion": "Paris"}, A),
        ({"Instruction": "Capital of France?", "output": "Paris"}, A),
        ({"input": "Capital of France?", "target": "Paris"}, A),
        ({"question": "q", "answer": "a", "rationale": "b"}, QuestionAnswer("q", "a", steps=("b",))),
        ({"question": "q", "answer": "a", "steps": ["b", "c"]}, QuestionAnswer("q", "a", steps=("b", "c"))),
        ({"question": "q", "answers": ["a", "b"]}, QuestionAnswer("q", "a", references=("a", "b"))),
        (
            {"question": "q", "answers": {"text": ["a"], "answer_start": [3]}},
            QuestionAnswer("q", "a", references=("a",)),
        ),
        ({"instruction": "q", "input": "c", "output": "a"}, QuestionAnswer("q", "a", context="c")),
        ({**Q, "context": None, "category": "capitals"}, QuestionAnswer(A.question, "Paris", category="capitals")),
        ({**Q, "choices": ["Rome", "Paris"]}, QuestionAnswer(A.question, "Paris", choices=("Rome", "Paris"))),
        ({"question": "q", "answer": 1, "options": ["x", "y"]}, QuestionAnswer("q", "y", choices=("x", "y"))),
        ({"question": "q", "answer": "B", "choices": ["x", "y"]}, QuestionAnswer("q", "y", choices=("x", "y"))),
        ({**Q, "more": [Q]}, QuestionAnswer(A.question, "Paris", more=(A,))),
        ({"text": " as it stands\n"}, " as it stands\n"),
        (
            {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]},
            Conversation((Message("user", "hi"), Message("assistant", "ho"))),
        ),
        (
            {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]},
            Conversation((Message("user", "hi"), Message("assistant", "ho"))),
        ),
    ],
)
def test_records_become_examples(record: dict, example: Any) -> None:
    assert table(lines(record))[0] == [example]
    assert table(json.dumps([record, record], indent=1), "a.json")[0] == [example, example]


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.csv", ";"), ("a.tsv", "\t")])
@settings(max_examples=50, deadline=None)  # a shared machine has slow moments
@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5), mark=st.sampled_from(["", "\ufeff"]))
def test_csv_reads_back_what_was_written(name: str, separator: str, rows: list, mark: str) -> None:
    """Quotes, separators and line breaks in cells, of which any kind is one newline, with and without a byte order mark."""
    written = io.StringIO(newline="")
    writer = csv.writer(written, delimiter=separator)
    writer.writerows([("question", "answer"), *rows])
    found, _ = table(mark + written.getvalue(), name)
    plain = [tuple(cell.replace("\r\n", "\n").replace("\r", "\n") for cell in row) for row in rows]
    assert [(example.question, example.answer) for example in found] == plain


def test_lists_in_cells() -> None:
    found, _ = table('question,answer,choices,references\nq,a,a|b,"[""a"", ""A|""]"\n', "a.csv")
    assert found == [QuestionAnswer("q", "a", choices=("a", "b"), references=("a", "A|"))]


def test_columns_name_the_users_own() -> None:
    columns = {"question": "frage", "answer": "antwort"}
    found, _ = table(lines({"frage": "q", "antwort": "a", "question": "other"}), columns=columns)
    assert found == [QuestionAnswer("q", "a")]


@pytest.mark.parametrize(
    ("columns", "options", "said"),
    [
        ({"question": "frege"}, {}, "no column 'frege'.*'frage', 'antwort'.*Did you mean 'frage'"),
        ({"question": "frage", "answer": "antwort", "category": "fach"}, {"kind": "qa"}, "no column 'fach'"),
        ({}, {}, "'frage', 'antwort'.*question and answer.*--data.columns"),
        ({}, {"kind": "qa"}, "no column 'question'.*'frage'.*--data.columns"),
    ],
)
def test_a_missing_column_lists_those_there_are(columns: dict, options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        table(lines({"frage": "q", "antwort": "a"}), columns=columns, **options)


BAD = [
    ('{"question": "q", ', "no JSON .* at column"),
    ('{"question": "q", "answer": NaN}', "NaN is no JSON"),
    ('{"question": "q", "answer": ' + "[" * 100_000, "no JSON .nested too deeply"),
    ('{"question": "q", "answer": "a", "answer": "b"}', "'answer' stands twice in one object"),
    ('{"question": "q", "answer": "a", "choices": ["a", " ", "b"]}', "one of the choices .* is empty"),
    ('{"question": "q", "answer": 1, "choices": ["1", "2", "3"]}', "the answer 1 may be the choice '1' or the number"),
    ('{"question": "q", "answer": "1", "choices": ["a", "b"]}', "'1' is not among the choices .*; a choice's number"),
    ('{"question": "q", "answer": "a", "choices": ["a", 3]}', r"one of 'choices' is a number \(3\)"),
    ('["q", "a"]', "no object"),
    ('{"question": "q"}', "has no 'answer'"),
    ('{"question": "q", "answer": null}', "'answer' is null"),
    ('{"question": "q", "answer": " "}', "'answer' is empty"),
    ('{"question": "", "answer": "a"}', "'question' is empty"),
    ('{"question": "q", "answer": 42}', r"'answer' is a number \(42\): must be text"),
    ('{"question": ["q"], "answer": "a"}', "'question' is a list"),
    ('{"question": "q", "answer": "c", "choices": ["a", "b"]}', "'c' is not among the choices"),
    ('{"question": "q", "answer": "a", "choices": ["a"]}', "at least two"),
    ('{"question": "q", "answer": 2, "choices": ["a", "b"]}', "number of no choice"),
    ('{"question": "q", "answer": "a", "choices": 3}', "'choices' is a number: must be a list"),
    ('{"question": "q", "answer": "a", "steps": ["b", " "]}', "one of the steps is empty"),
    ('{"question": "q", "answer": "a", "references": [1]}', "'references' is a number"),
    ('{"question": "q", "answer": "a\\u0000"}', "'answer': holds a NUL"),
    ('{"question": "q", "answer": "\\ud800"}', "surrogate"),
    ('{"question": "q", "answer": "a", "id": 1}', "id '1' stands already on line 1"),
    (
        '{"question": "q", "answer": "a", "more": [{"question": "r", "answer": ""}]}',
        "'more', follow-up 1: 'answer' is empty",
    ),
    (
        '{"question": "q", "answer": "a", "more": [{"question": "r", "answer": "b", "more": [{"question": "s"}]}]}',
        "'more', follow-up 1: it has follow-ups of its own",
    ),
]


@pytest.mark.parametrize(("line", "said"), BAD)
def test_bad_lines_stop_or_are_counted(line: str, said: str) -> None:
    good = lines({**Q, "id": 1, "choices": None, "references": None})
    with pytest.raises(ValueError, match=f"a.jsonl, line 3: .*{said}.*--data.on-bad-record skip"):
        table(f"{good}\n{line}\n")
    found, log = table(f"{good}\n{line}\n{lines(Q)}", policy="skip")
    assert found == [A, A] and log.notes()[0].startswith("1 bad record(s)") and "a.jsonl, line 3" in log.notes()[1]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([{"role": "wizard", "content": "x"}], "role 'wizard': use system, user or assistant"),
        ([{"role": "user", "content": "x"}], "no message is the assistant's"),
        ([{"role": "assistant", "content": ""}], r"message 1 \(assistant\) is empty"),
        ([{"role": "assistant"}], "message 1 .* has no content"),
        ([], "must be a list of objects"),
        ("hello", "is no JSON"),
        ([{"role": "assistant", "content": 3}], "'messages' is a number"),
    ],
)
def test_bad_conversations_are_refused(messages: Any, said: str) -> None:
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    with pytest.raises(ValueError, match=f"line 2: .*{said}"):
        table(lines(good, {"messages": messages}))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('question,answer\nq,a\n"a\nb",c\nq,a,b\n', "line 5: has 3 cells, and the header has 2"),
        ('question,answer\nq,"a\n', "line 2: is no row .*unexpected end"),
        ('question,answer\nq,"a"b\n', "line 2: is no row"),
        ("question,question\nq,a\n", r"line 1: the column.s. \['question'\] stand twice"),
        ("\n \n", "is empty"),
    ],
)
def test_broken_csv_names_its_line(content: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        table(content, "a.csv")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_mixed_encodings_name_the_line_and_the_option(name: str) -> None:
    rows = (
        lines(Q, {**Q, "answer": "Zürich"}, {**Q, "answer": "Köln"})
        if name == "a.jsonl"
        else ("question,answer\nq,Zürich\nq,Köln\n")
    )
    head, _, tail = rows.rpartition("\n")[0].rpartition("\n")
    raw = head.encode() + b"\n" + tail.encode("latin-1") + b"\n"
    with pytest.raises(ValueError, match=f"{name}, line 3: .*byte 0xf6 is no utf-8.*--data.encoding latin-1"):
        table(raw, name)
    found, log = table(raw, name, "skip")
    assert found[-1].answer == "Zürich" and len(log.skipped) == 1
    assert table(raw, name, encoding="latin-1")[0][-1].answer == "Köln"


def test_utf_16_is_named_and_read() -> None:
    raw = lines(Q).encode("utf-16")
    with pytest.raises(ValueError, match="--data.encoding utf-16"):
        table(raw)
    assert table(raw, encoding="utf-16")[0] == [A]


def test_columns_of_another_task_of_the_mixture_may_be_missing() -> None:
    assert table(lines({"inhalt": "x"}), kind="text", columns={"text": "inhalt", "question": "frage"})[0] == ["x"]


def test_identical_records_of_one_id_count_once() -> None:
    found, log = table(lines({**Q, "id": "x"}, {**Q, "id": "x"}, Q, Q))
    assert len(found) == 3 and log.notes() == ("1 record(s) left out that repeat another of the same id",)


def test_only_the_first_ten_bad_records_are_listed() -> None:
    _, log = table(lines(Q) + "{\n" * 25, policy="skip")
    assert len(log.skipped) == 25 and len(log.notes()) == 12 and log.notes()[-1] == "skipped: and 15 more"


def test_a_broken_json_list_names_its_line() -> None:
    with pytest.raises(ValueError, match="a.json, line 3: is no JSON"):
        table('[\n{"text": "a"},\n{"text": }\n]', "a.json")


def read(path: Path, **changes: Any) -> Splits:
    arguments = {"kind": "auto", "data": DataConfig(), "validation_fraction": 0.25, "seed": 0} | changes
    return read_path(str(path), **arguments)


@pytest.mark.parametrize("kind", ["auto", "text"])
def test_a_text_column_gives_documents(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines(*({"text": f"document {i}", "n": i} for i in range(8))))
    splits = read(tmp_path / "a.jsonl", kind=kind)
    assert (len(splits.train), len(splits.validation), splits.kind) == (6, 2, "text")
    assert splits.recognised == "JSON lines of texts, 8 texts in 1 file"


def test_a_quote_that_nobody_closes_costs_one_row() -> None:
    rows = [f"q{i},a{i}" for i in range(10)]
    rows[2] = 'q2,"a2'
    content = "\n".join(["question,answer", *rows])
    with pytest.raises(ValueError, match=r"a.csv, line 4: is no row of a table .*reaches to line 11"):
        table(content, "a.csv")
    examples, log = table(content, "a.csv", "skip")
    assert [example.question for example in examples] == [f"q{i}" for i in range(10) if i != 2]
    assert len(log.skipped) == 1


@pytest.mark.parametrize("behind", ["[]", "garbage", "]"])
def test_what_follows_a_json_list_is_refused(behind: str) -> None:
    content = json.dumps([Q]) + "\n\n" + behind
    with pytest.raises(ValueError, match="a.json, line 3: something follows the list"):
        table(content, "a.json")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[{"text": "a"}\n {"text": "b"}]', 2),
        ('[{"text": "a"},,\n {"text": "b"}]', 1),
        ('[,{"text": "a"}]', 1),
        ('[{"text": "a"},\n]', 2),
    ],
)
def test_commas_of_a_list_are_kept(text: str, line: int) -> None:
    with pytest.raises(ValueError, match=f"line {line}: is no JSON"):
        table(text, "a.json")


def test_optional_cells_of_white_space_are_empty() -> None:
    assert table("question,answer,context,category\nq,a,  , \n", "a.csv")[0] == [QuestionAnswer("q", "a")]
