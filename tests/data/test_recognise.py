"""What a path stands for: every format by suffix and content, splits by name, pictures handed on, kinds that differ."""

import json
import os
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jgpt.config import COLUMNS, Config, DataConfig, ModelConfig, TaskConfig, TokenizerConfig
from jgpt.data.columns import SYNONYMS
from jgpt.data.examples import Picture, QuestionAnswer, Splits
from jgpt.data.recognise import read_path
from jgpt.tasks import mixture

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not here: it is no part of the project")
TRIVIA = "".join(f"#Q Number {i}?\n^ {i}\nA {i}\nB no\n\n" for i in range(10))
STORY = "1 Ann is here.\n2 Where is Ann?\there\t1\n"
INDEX = "/games/capitals:country:capital\n/games/elements:symbol:number:name\n"


def read(path: Path, **changes: Any) -> Splits:
    arguments = {"kind": "auto", "data": DataConfig(), "validation_fraction": 0.2, "seed": 0} | changes
    return read_path(str(path), **arguments)


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def records(*numbers: int) -> str:
    return "".join(json.dumps({"question": f"q{i}", "answer": "a"}) + "\n" for i in numbers)


@pytest.mark.parametrize(
    ("files", "recognised", "kind"),
    [
        ({"a.txt": "x" * 1500}, "text, 1,500 characters in 1 file", "text"),
        ({"a.txt": "x", "b.md": "y"}, "text, 2 texts in 2 files", "text"),
        ({"a.jsonl": records(1, 2)}, "JSON lines of questions, 2 questions in 1 file", "qa"),
        ({"a.jsonl": records(1), "b.csv": "question,answer\nq,a\n"}, "CSV and JSON lines of questions, 2 ", "qa"),
        ({"a.jsonl": records(1, 2), "README.md": "about"}, "JSON lines of questions, 2 ", "qa"),
        ({"animals": TRIVIA, "LICENCE.txt": "free"}, "OpenTriviaQA, 10 questions in 1 file", "qa"),
        ({"capitals": "a:b\nc:d\n", "elements": "H:1:x\n", "index": INDEX}, "quiz(6), 4 questions in 2 files", "qa"),
        ({"capitals": "a:b\nc:d\n", "new": "e:f\n", "index": INDEX}, "quiz(6), 3 questions in 2 files", "qa"),
    ],
)
def test_a_folder_is_recognised(files: dict, recognised: str, kind: str, tmp_path: Path) -> None:
    splits = read(write(tmp_path, files))
    assert splits.recognised.startswith(recognised) and splits.kind == kind
    assert splits == read(tmp_path, kind=kind)
    if len(files) == 1:
        (file,) = files
        assert (read(tmp_path / file).train, read(tmp_path / file).recognised) == (splits.train, splits.recognised)


@pytest.mark.parametrize(
    ("name", "content", "places"),
    [
        ("a.jsonl", "\n" + records(1) + "\n" + records(2), ["line 2", "line 4"]),
        ("a.csv", 'question,answer\n"a\nb",c\nd,e\n', ["line 2", "line 4"]),
        ("a.json", '[\n{"question": "q", "answer": "a"},\n{"question": "r", "answer": "a"}]', ["line 2", "line 3"]),
        ("chat.jsonl", '{"messages": [{"role": "assistant", "content": "hello"}]}\n', ["line 1"]),
        ("trivia", TRIVIA[: TRIVIA.index("#Q Number 2")], ["line 1", "line 6"]),
        ("texts.jsonl", '{"text": "a"}\n\n{"text": "b"}\n', ["line 1", "line 3"]),
    ],
)
def test_an_example_knows_where_it_stands(name: str, content: str, places: list[str], tmp_path: Path) -> None:
    splits = read(write(tmp_path, {name: content}) / name, validation_fraction=None)
    assert [example.place for example in splits.validation] == [f"{tmp_path / name}, {place}" for place in places]


def test_single_turns_are_not_taken_for_texts(tmp_path: Path) -> None:
    write(tmp_path, {"a.jsonl": '{"role": "user", "content": "hi"}\n{"role": "assistant", "content": "ho"}\n'})
    with pytest.raises(ValueError, match=r"single turns \(role, content\).*messages"):
        read(tmp_path)
    assert len(read(tmp_path, kind="text").train) == 1
    assert len(read(tmp_path, data=DataConfig(columns={"text": "content"})).train) == 1
    write(tmp_path, {"a.jsonl": '{"role": "user", "content": "hi", "text": "x"}\n{"text": "y"}\n'})
    assert {*read(tmp_path).train, *read(tmp_path).validation} == {"x", "y"}


def test_lines_of_json_under_another_name_are_told_from_broken_ones(tmp_path: Path) -> None:
    write(tmp_path, {"a.json": '{"question": "q", "answer": "a"}\n{"question": "r", "answer": "a"}\n'})
    with pytest.raises(ValueError, match="Extra data.*name it .jsonl"):
        read(tmp_path)


def test_empty_files_are_named(tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": "one", "b.txt": "two", "c.txt": ""})
    assert "left out, as no data: c.txt (empty)" in read(tmp_path).notes
    write(tmp_path, {"d.txt": "  \n\t\n"})
    splits = read(tmp_path)
    assert sorted([*splits.train, *splits.validation]) == ["one", "two"]
    assert "1 file(s) of white space alone left out" in splits.notes
    write(tmp_path / "list", {"e.json": "[]"})
    with pytest.raises(ValueError, match="e.json' holds an empty list"):
        read(tmp_path / "list" / "e.json")
    write(tmp_path / "blank", {"a.txt": " \n"})
    with pytest.raises(ValueError, match="a.txt' holds white space alone"):
        read(tmp_path / "blank" / "a.txt")


def test_a_text_that_no_token_expresses_is_named_by_its_file(tmp_path: Path) -> None:
    texts = {"train/a.txt": "aaaa", "train/b.txt": "aa", "test/c.txt": "aaa", "test/d.txt": "aaé"}
    tasks = {"t": TaskConfig(kind="text")}
    config = Config(
        model=ModelConfig(num_layers=1, embed_dim=32, num_heads=2, context_length=4),
        tokenizer=TokenizerConfig(text="characters"),
        data=DataConfig(path=str(write(tmp_path, texts)), tasks=tasks),
    )
    with pytest.raises(ValueError, match="test/d.txt, the example that begins 'aaé'"):
        mixture.build(config)


def test_questions_of_squad_quiz_and_babi_know_where_they_stand(tmp_path: Path) -> None:
    squad, quiz, babi = (tmp_path / name for name in ("a.json", "quiz", "babi"))
    squad.write_text(squad_of(("a", "q"), ("b", "r")))
    write(quiz, {"capitals": "\na\\\n:b\nc:d\n", "index": INDEX})
    write(babi, {"qa1_a_test.txt": STORY * 2})
    for path, found in (
        (squad, [f"{squad}, data[0].paragraphs[0].qas[{i}]" for i in (0, 1)]),
        (quiz, [f"{quiz / 'capitals'}, line {line}" for line in (2, 4)]),
        (babi, [f"qa1_a_test.txt, line {line}" for line in (2, 4)]),
    ):
        assert [example.place for example in read(path, validation_fraction=None).validation] == found


def test_what_is_no_data_is_named(tmp_path: Path) -> None:
    files = {"a.jsonl": records(1, 2), "README.md": "about", "LICENCE.txt": "free"}
    assert read(write(tmp_path, files)).notes == ("left out, as no data: LICENCE.txt, README.md",)


def test_a_quiz_file_finds_the_index_beside_it(tmp_path: Path) -> None:
    write(tmp_path, {"elements": "H:1:Hydrogen\n", "index": INDEX})
    splits = read(tmp_path / "elements")
    assert {e.question for e in (*splits.train, *splits.validation)} == {"H: number", "H: name"}


@pytest.mark.parametrize(
    ("files", "kind", "said"),
    [
        ({"a.jsonl": records(1, 2)}, "text", "no column 'text'.*'question', 'answer'"),
        ({"a.jsonl": records(1, 2)}, "chat", "no column 'messages'.*'question', 'answer'"),
        ({"a.txt": "some text"}, "qa", "recognised as text.*kind 'text'.*kind 'qa': set --data.tasks.NAME.kind text"),
        ({"a.txt": "some text"}, "image", "recognised as text.*kind 'image'"),
        ({"animals": TRIVIA}, "text", "OpenTriviaQA.*kind qa .or auto."),
        ({"qa1_x_train.txt": "1 x\n", "qa1_x_test.txt": "1 x\n"}, "text", "bAbI.*kind qa"),
        ({"a.png": b"\x89PNG", "b.png": b"\x89PNG"}, "text", "recognised as pictures.*kind image"),
    ],
)
def test_a_kind_that_differs_is_refused(files: dict, kind: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        read(write(tmp_path, files), kind=kind)


def test_a_text_task_reads_a_folder_of_sources_as_it_did(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "print()", "b.csv": "x,y\n", "c.json": "{}", "d.md": "# d"})
    splits = read(tmp_path, kind="text")
    assert sorted([*splits.train, *splits.validation]) == ["# d", "print()", "x,y\n", "{}"]
    with pytest.raises(ValueError, match="several formats|no known layout"):
        read(tmp_path)


def test_formats_are_not_mixed(tmp_path: Path) -> None:
    write(tmp_path, {"a.jsonl": records(1), "b.txt": "text"})
    with pytest.raises(ValueError, match=r"several formats \(records: 'a.jsonl', text: 'b.txt'\)"):
        read(tmp_path)
    write(tmp_path, {"b.txt": "", "c.jsonl": '{"text": "x"}\n'})
    with pytest.raises(ValueError, match="questions, texts.*its own task"):
        read(tmp_path)


@pytest.mark.parametrize("valid", ["valid", "validation", "val", "dev"])
def test_files_named_after_splits_bring_their_own(valid: str, tmp_path: Path) -> None:
    write(tmp_path, {"train.jsonl": records(1, 2, 3), f"{valid}.jsonl": records(3, 4), "test.jsonl": records(5)})
    splits = read(tmp_path)
    asked = [[example.question for example in part] for part in (splits.train, splits.validation)]
    assert asked == [["q1", "q2"], ["q3", "q4"]]
    assert "training on train (2), held out validation (2)" in splits.notes[0]
    assert splits.notes[1].startswith("1 of 3 training questions equal to a held-out one were left out")
    assert "test (1 questions)" in splits.notes[2]


def test_an_empty_split_is_refused_rather_than_drawn_from_the_others(tmp_path: Path) -> None:
    write(tmp_path, {"train.jsonl": records(1, 2, 3), "valid.jsonl": "", "notes.txt": ""})
    with pytest.raises(ValueError, match="valid.jsonl' is empty, though named after its split"):
        read(tmp_path)
    sources = write(tmp_path / "code", {"train.py": "x", "a.py": "y", "b.py": "z", "test/__init__.py": ""})
    assert len(read(sources).train) == 2  # such a name by chance


def test_test_is_held_out_where_there_is_no_validation(tmp_path: Path) -> None:
    write(tmp_path, {"train/a.txt": "one", "train/b.txt": "two", "test/a.txt": "three"})
    splits = read(tmp_path)
    assert (splits.train, splits.validation) == (["one", "two"], ["three"]) and not splits.own_share
    write(tmp_path / "plain", {"a.txt": "one", "b.txt": "two"})
    assert read(tmp_path / "plain").own_share and not read(tmp_path / "plain", validation_fraction=None).own_share


def test_a_file_beside_splits_is_named_unless_it_is_about_them(tmp_path: Path) -> None:
    write(tmp_path, {"train.txt": "one", "test.txt": "two", "README.md": "about"})
    splits = read(tmp_path)
    assert (splits.train, splits.validation) == (["one"], ["two"])
    assert "left out, as no data: README.md" in " ".join(splits.notes)
    write(tmp_path, {"other.txt": "three"})
    with pytest.raises(ValueError, match=r"2 files are named after their split \(test.txt, train.txt\).*other.txt'"):
        read(tmp_path)


def test_pages_that_are_called_as_splits_are_by_chance_are_pages(tmp_path: Path) -> None:
    write(tmp_path, {"train-a-model.md": "one", "test.md": "two", "install.md": "three", "serve.md": "four"})
    splits = read(tmp_path)
    assert sorted([*splits.train, *splits.validation]) == ["four", "one", "three", "two"]
    assert (
        splits.notes[-1].startswith("named like parts of a split, and read as any other")
        and "'test.md'" in splits.notes[-1]
    )


def test_a_set_of_tfds_is_no_path() -> None:
    with pytest.raises(FileNotFoundError, match="--data.tasks.NAME.source tfds:mnist"):
        read(Path("tfds:mnist"))


def test_too_few_records_name_the_path(tmp_path: Path) -> None:
    write(tmp_path, {"a.jsonl": records(1, 1)})
    with pytest.raises(ValueError, match=r"a.jsonl.*2 questions cannot be split.*Give more data"):
        read(tmp_path / "a.jsonl")
    write(tmp_path, {"a.jsonl": "{\n"})
    with pytest.raises(ValueError, match="its columns are"):
        read(tmp_path / "a.jsonl", data=DataConfig(on_bad_record="skip"))


def test_a_binary_table_says_how_to_bring_it(tmp_path: Path) -> None:
    write(tmp_path, {"a.parquet": b"PAR1\0\0"})
    with pytest.raises(ValueError, match=r"a.parquet' is a binary table: write it as .csv or .jsonl"):
        read(tmp_path / "a.parquet")


def test_unknown_json_says_what_is_read(tmp_path: Path) -> None:
    write(tmp_path, {"a.json": '{"x": 1}', "b.json": '{\n"x": }'})
    with pytest.raises(ValueError, match="no known layout.*SQuAD"):
        read(tmp_path / "a.json")
    with pytest.raises(ValueError, match="b.json, line 2: is no JSON"):
        read(tmp_path / "b.json")
    assert read(tmp_path / "a.json", kind="text").kind == "text"


def test_a_bad_text_among_many_can_be_skipped(tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": "one", "b.txt": "two", "c.txt": b"\xff\xfe\xfa"})
    with pytest.raises(ValueError, match="c.txt.*--data.on-bad-record skip"):
        read(tmp_path)
    splits = read(tmp_path, data=DataConfig(on_bad_record="skip"))
    assert len(splits.train) == 1 and "c.txt" in splits.notes[1]


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stand in for the readers of pictures and of bAbI; holds what they were given."""
    got: dict[str, Any] = {}

    def read_pictures(path: Path, **options: Any) -> Splits:
        got.update(path=path, **options)
        return Splits([Picture(np.zeros((2, 2), np.uint8))], [], recognised="a folder of pictures")

    def read_babi(files: dict[str, str], log: Any, *, whole: bool) -> Splits:
        got.update(files=files, whole=whole)
        return Splits([QuestionAnswer("q", "a")], [QuestionAnswer("r", "b")])

    for name, function in (("picture_files", read_pictures), ("babi", read_babi)):
        module = types.ModuleType(f"jgpt.data.{name}")
        setattr(module, function.__name__, function)
        monkeypatch.setitem(sys.modules, f"jgpt.data.{name}", module)
    return got


PNG = {"png/ad.png": b"\x89PNG", "png/ae.png": b"\x89PNG"}


@pytest.mark.parametrize(
    ("files", "path"),
    [
        (PNG, "."),
        (PNG | {"captions.json": '[{"file": "ad.png", "name": "x"}, {"file": "ae.png"}]', "LICENCE.txt": "x"}, "."),
        (PNG | {"captions.json": '[{"file": "ad.png", "name": "x"}, {"file": "ae.png"}]'}, "captions.json"),
        (PNG | {"names.json": '{"AD": "Andorra", "AE": "Emirates"}'}, "names.json"),
        (PNG | {"names.csv": "file,caption\nad.png,Andorra\nae.png,x\n"}, "names.csv"),
    ],
)
def test_pictures_are_handed_on_with_the_path_given(files: dict, path: str, handed: dict, tmp_path: Path) -> None:
    splits = read(write(tmp_path, files) / path)
    assert handed["path"] == tmp_path / path and handed["seed"] == 0 and handed["validation_fraction"] == 0.2
    assert splits.kind == "image" and splits.recognised == "a folder of pictures"


@pytest.mark.parametrize("shape", [(3, 2, 2), (3, 2, 2, 3)])
def test_arrays_of_pictures_are_handed_on(shape: tuple, handed: dict, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
    np.savez(tmp_path / "b.npz", images=np.zeros(shape, np.uint8))
    for name in ("a.npy", "b.npz"):
        assert read(tmp_path / name).kind == "image" and handed["path"] == tmp_path / name


def test_a_table_beside_pictures_it_does_not_name_is_a_table(handed: dict, tmp_path: Path) -> None:
    write(tmp_path, PNG | {"qa.jsonl": records(1, 2)})
    assert read(tmp_path / "qa.jsonl").kind == "qa" and not handed


def test_of_two_captions_files_the_one_given_is_read(tmp_path: Path) -> None:
    for name in "ab":
        Image.new("L", (2, 2), ord(name)).save(tmp_path / f"{name}.png")
    write(tmp_path, {f"{name}.json": f'{{"a.png": "{name}", "b.png": "{name}"}}' for name in ("short", "long")})
    with pytest.raises(ValueError, match="2 captions files"):
        read(tmp_path)
    splits = read(tmp_path / "long.json")
    assert [picture.caption for picture in (*splits.train, *splits.validation)] == ["long", "long"]


def test_babi_is_handed_on_by_file_name(handed: dict, tmp_path: Path) -> None:
    files = {"en/qa1_a-b_train.txt": "1 x\n", "en/qa1_a-b_test.txt": "1 y\n", "README.txt": "about"}
    splits = read(write(tmp_path, files), kind="qa")
    assert handed["files"] == {"qa1_a-b_train.txt": "1 x\n", "qa1_a-b_test.txt": "1 y\n"}
    assert splits.kind == "qa" and splits.recognised == "bAbI, 2 files"


@needs_shared
def test_real_folders_are_recognised(handed: dict) -> None:
    assert read(SHARED / "qa" / "quiz").recognised == "quiz(6), 2,358 questions in 33 files"
    assert read(SHARED / "qa" / "babi" / "babi_en10k.tar.xz").kind == "qa" and len(handed["files"]) == 39
    for folder in ("emoji", "flags"):
        assert read(SHARED / "images" / folder).kind == "image" and handed["path"] == SHARED / "images" / folder


def test_two_editions_of_babi_are_refused_rather_than_mixed(tmp_path: Path) -> None:
    names = [f"{folder}/qa1_k_{part}.txt" for folder in ("en", "shuffled") for part in ("train", "test")]
    write(tmp_path, dict.fromkeys(names, STORY))
    with pytest.raises(ValueError, match=r"'qa1_k_test.txt' in two folders, 'en' and 'shuffled'.*pass one"):
        read(tmp_path)
    assert len(read(tmp_path / "en").train) == 1


def test_what_babi_leaves_out_is_noted(tmp_path: Path) -> None:
    names = [f"qa1_k_{part}.txt" for part in ("train", "test", "valid")]
    splits = read(write(tmp_path, dict.fromkeys(names, STORY) | {"LICENSE": "free"}))
    assert splits.notes[0] == "left out, since test is what is held out: 1 valid files, such as qa1_k_valid.txt"
    assert splits.notes[-1] == "left out, as no data: LICENSE"


def test_the_names_of_ours_are_those_that_have_synonyms() -> None:
    assert {name for kind in ("text", "qa", "chat") for name in COLUMNS[kind]} == set(SYNONYMS)
    with pytest.raises(ValueError, match=r"unknown name of ours in data.columns 'queston'.*'question'"):
        DataConfig(columns={"queston": "frage"})


@pytest.mark.parametrize(
    ("files", "ours", "said"),
    [
        ({"a.txt": "some text"}, "text", "plays no part in text: it has no columns to name"),
        ({"animals": TRIVIA}, "question", "plays no part in OpenTriviaQA"),
        ({f"qa1_k_{part}.txt": STORY for part in ("train", "test")}, "question", "no part in bAbI"),
        ({"a.jsonl": records(1, 2)}, "caption", "no part in JSON lines of questions: only question, answer"),
        ({"a.bin": bytes(40)}, "text", "no columns to name"),
    ],
)
def test_a_column_that_plays_no_part_is_refused_unless_another_task_may_need_it(
    files: dict, ours: str, said: str, tmp_path: Path
) -> None:
    write(tmp_path, files)
    path = tmp_path / next(iter(files)) if len(files) == 1 else tmp_path
    with pytest.raises(ValueError, match=said):
        read(path, data=DataConfig(columns={ours: "spalte"}))
    tasks = {name: TaskConfig(kind="auto") for name in "ab"}
    assert read(path, data=DataConfig(columns={ours: "spalte"}, tasks=tasks)).train


def squad_of(*questions: tuple[str, str]) -> str:
    qas = [{"id": key, "question": text, "answers": [{"text": "a"}]} for key, text in questions]
    return json.dumps({"data": [{"title": "t", "paragraphs": [{"context": c, "qas": qas}]} for c in "c"]})


def table_of(*questions: tuple[str, str]) -> str:
    return "".join(json.dumps({"id": key, "question": text, "answer": "a"}) + "\n" for key, text in questions)


@pytest.mark.parametrize(("form", "suffix"), [(squad_of, "json"), (table_of, "jsonl")])
def test_a_record_that_another_file_repeats_counts_once(form: Any, suffix: str, tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        f"a.{suffix}": form(("1", "one"), ("2", "two")),
        f"b.{suffix}": form(("2", "two"), ("1", "a second one"), ("3", "three")),
    }
    if suffix == "json":  # articles stay whole: another one is needed to hold out
        files[f"c.{suffix}"] = form(("4", "four")).replace('"c"', '"d"').replace('"t"', '"u"')
    splits = read(write(tmp_path, files))
    found = [example.question for example in (*splits.train, *splits.validation)]
    assert sorted(set(found) - {"four"}) == ["a second one", "one", "three", "two"] and len(set(found)) == len(found)
    assert "1 record(s) left out that repeat another of the same id" in splits.notes
    assert "1 record(s) with an id that another file gives to other content: kept" in splits.notes


@pytest.mark.parametrize("kind", ["auto", "image"])
def test_an_archive_of_pictures_says_to_unpack_it(kind: str, tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name in ("x/0.png", "x/1.png"):
            archive.write(tmp_path / "a.png", name)
        archive.writestr("captions.csv", "file,caption\n")
    (tmp_path / "a.png").unlink()
    for path in (tmp_path / "all.zip", tmp_path):
        with pytest.raises(ValueError, match=r"holds, an archive of pictures.*unpack it.*--data.path"):
            read(path, kind=kind)


def test_a_table_of_questions_beside_pictures_is_no_captions_file(tmp_path: Path) -> None:
    """Names of pictures such as 1.png stand in any table of numbers."""
    from PIL import Image

    (tmp_path / "a").mkdir()
    for i in range(3):
        Image.new("L", (4, 4), i * 50).save(tmp_path / "a" / f"{i}.png")
    write(
        tmp_path,
        {"sums.csv": "question,answer\n" + "".join(f"{i} + {j}?,{i + j}\n" for i in range(3) for j in range(3))},
    )
    assert read(tmp_path / "sums.csv").kind == "qa"
    write(tmp_path, {"words.csv": "file,caption\n" + "".join(f"{i}.png,number {i}\n" for i in range(3))})
    assert read(tmp_path / "words.csv").kind == "image"


def test_a_header_alone_says_so(tmp_path: Path) -> None:
    write(tmp_path, {"a.csv": "question,answer\n"})
    with pytest.raises(ValueError, match="there is a header and nothing below it"):
        read(tmp_path / "a.csv")


def test_a_split_below_other_folders_or_in_an_archive_is_found(tmp_path: Path) -> None:
    """As the movie reviews of Maas et al. are packed; equal to what a folder with the split at its top gives."""
    files = {
        f"aclImdb/{part}/{mood}/{i}.txt": f"{part} {mood} {i}"
        for part in ("train", "test")
        for mood in "ab"
        for i in (1, 2)
    }
    with zipfile.ZipFile(tmp_path / "reviews.zip", "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    packed, unpacked = read(tmp_path / "reviews.zip"), read(write(tmp_path / "folder", files))
    assert packed.train == unpacked.train == read(tmp_path / "folder" / "aclImdb").train
    assert all(text.startswith("train") for text in packed.train) and len(packed.train) == len(packed.validation) == 4


@pytest.mark.skipif(os.name != "posix", reason="other systems hide folders otherwise")
def test_folders_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a file they are somebody else's; within the data they are missed."""
    write(tmp_path, {"qa.jsonl": records(1, 2), "other/a.txt": "x"})
    listed, scanned = Path.iterdir, os.scandir  # whoever runs this may be allowed to read all

    def refuse(path: Any, call: Any) -> Any:
        if Path(path).name == "other":
            raise PermissionError(13, "Permission denied", str(path))
        return call(path)

    monkeypatch.setattr(Path, "iterdir", lambda path: refuse(path, listed))
    monkeypatch.setattr(os, "scandir", lambda path: refuse(path, scanned))
    assert len(read(tmp_path / "qa.jsonl").train) == 1
    with pytest.raises(ValueError, match="the folder '.*other' cannot be read .Permission denied.: allow it, or move"):
        read(tmp_path)
