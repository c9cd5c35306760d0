"""TFDS: toy data sets prepared here, the real ones where they are, and what is said where nothing is."""

import io
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jgpt.config import DataConfig
from jgpt.data import tfds_folder, tfds_questions, tfds_source
from jgpt.data.examples import QuestionAnswer, Splits
from jgpt.data.read_log import ReadLog
from jgpt.data.tfds_source import read_tfds

tfds = pytest.importorskip("tensorflow_datasets", reason="tensorflow-datasets is not installed")
Image = pytest.importorskip("PIL.Image", reason="pillow is not installed")

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(
    not (SHARED / "tfds").is_dir(), reason=f"{SHARED / 'tfds'} is not here: it is no part of the project"
)
FIRST_LINES = "one two three four five six seven eight nine ten"


class ToyTexts(tfds.core.GeneratorBasedBuilder):
    """Twenty texts in a single split."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"line": tfds.features.Text()}))

    def _split_generators(self, downloads: object) -> dict[str, Iterator]:
        return {"train": ((i, {"line": f"text {i} ü"}) for i in range(20))}

    def _generate_examples(self) -> Iterator:
        raise NotImplementedError


class ToyNovel(ToyTexts):
    """One long text in a single split."""

    def _split_generators(self, downloads: object) -> dict[str, Iterator]:
        return {"train": iter([(0, {"line": FIRST_LINES})])}


class ToyPictures(ToyTexts):
    """Grey pictures with classes, already encoded as PNG, in two splits."""

    def _info(self) -> tfds.core.DatasetInfo:
        label = tfds.features.ClassLabel(names=["cat", "dog"])
        features = {"image": tfds.features.Image(shape=(4, 6, 1)), "label": label}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, downloads: object) -> dict[str, Iterator]:
        return {"train": self._pictures(range(12)), "test": self._pictures(range(12, 15))}

    def _pictures(self, values: range) -> Iterator:
        for value in values:
            file = io.BytesIO()
            Image.fromarray(np.full((4, 6), value, np.uint8)).save(file, "PNG")
            file.seek(0)
            yield value, {"image": file, "label": value % 2}


class Squad(ToyTexts):
    """Questions laid out as in SQuAD v2, one of them without an answer; its name is that of the real set."""

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "id": tfds.features.Text(),
            "title": tfds.features.Text(),
            "context": tfds.features.Text(),
            "question": tfds.features.Text(),
            "answers": tfds.features.Sequence({"text": tfds.features.Text(), "answer_start": np.int32}),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, downloads: object) -> dict[str, Iterator]:
        return {"train": self._questions(range(4)), "validation": self._questions(range(4, 6))}

    def _questions(self, numbers: range) -> Iterator:
        for i in numbers:
            texts = [] if i == 3 else [f"a{i}", f"A{i}"]
            yield (
                i,
                {
                    "id": str(i),
                    "title": f"article {i}",
                    "context": f"story {i}",
                    "question": f"Where is q{i}?",
                    "answers": [{"text": text, "answer_start": 0} for text in texts],
                },
            )


class Ai2Arc(ToyTexts):
    """Multiple choice laid out as in ARC, in a single split; its name is that of the real set."""

    def _info(self) -> tfds.core.DatasetInfo:
        label = tfds.features.ClassLabel(names=["A", "B", "C", "D", "E"])
        features = {
            "question": tfds.features.Text(),
            "choices": tfds.features.Sequence({"text": tfds.features.Text(), "label": label}),
            "answerKey": label,
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, downloads: object) -> dict[str, Iterator]:
        choices = [{"text": text, "label": key} for text, key in zip(("ice", "snow", "rain"), "BCA", strict=True)]
        keys = "BCAB"
        return {
            "train": ((i, {"question": f"q{i}", "choices": choices, "answerKey": keys[i]}) for i in range(len(keys)))
        }


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("tfds"))
    for name in ("toy_texts", "toy_novel", "toy_pictures"):
        tfds.builder(name, data_dir=folder, file_format="array_record").download_and_prepare()
    for cls in (Squad, Ai2Arc):
        cls(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def read(name: str, kind: str, data_dir: str | None, fraction: float = 0.1) -> Splits:
    return read_tfds(name, kind=kind, data_dir=data_dir, seed=0, validation_fraction=fraction)


def complaint(error: type[Exception], name: str, kind: str, data_dir: str | None) -> str:
    with pytest.raises(error) as caught:
        read(name, kind, data_dir)
    return str(caught.value)


def test_texts_without_a_second_split_hold_out_their_tail(prepared: str) -> None:
    splits = read("toy_texts", "text", prepared)
    assert (len(splits.train), len(splits.validation)) == (18, 2)
    texts = [*splits.train, *splits.validation]
    assert sorted(texts) == sorted(f"text {i} ü" for i in range(20))
    assert splits.train[-1] == texts[17] and splits.train[3:5] == texts[3:5] and splits.train[5:5] == []
    assert list(pickle.loads(pickle.dumps(splits.validation))) == texts[18:]
    with pytest.raises(IndexError):
        splits.train[18]


def test_one_long_text_is_cut_at_its_tail(prepared: str) -> None:
    splits = read("toy_novel", "text", prepared, 0.25)
    assert len(splits.train[0]) == int(0.75 * len(FIRST_LINES))
    assert splits.train[0] + splits.validation[0] == FIRST_LINES


@pytest.mark.parametrize("eager_bytes", [0, 1 << 20])
def test_pictures_are_grey_bytes_captioned_by_class(
    prepared: str, eager_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tfds_source, "EAGER_BYTES", eager_bytes)
    splits = read("toy_pictures", "image", prepared)
    assert isinstance(splits.train, list) == (eager_bytes > 0)
    assert splits.notes == ("held out: its split test",) and not splits.own_share
    for pictures, values in ((splits.train, range(12)), (splits.validation, range(12, 15))):
        assert sorted(int(picture.pixels[0, 0]) for picture in pictures) == list(values)
        for picture in pictures:
            assert picture.pixels.shape == (4, 6) and picture.pixels.dtype == np.uint8
            assert picture.caption == ["cat", "dog"][picture.pixels[0, 0] % 2]


def test_the_environment_names_the_folder(prepared: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", prepared)
    assert len(read("toy_texts", "text", None).train) == 18


@needs_shared
def test_tiny_shakespeare_is_split_like_the_text_file() -> None:
    text = (SHARED / "text" / "tinyshakespeare.txt").read_text()
    splits = read("tiny_shakespeare", "text", str(SHARED / "tfds"))
    assert splits.train == [text[:1_003_854]] and splits.validation == [text[1_003_854:]]


@needs_shared
def test_mnist_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfds_source, "EAGER_BYTES", 0)  # the whole takes 8 s
    splits = read("mnist", "image", str(SHARED / "tfds"))
    assert (len(splits.train), len(splits.validation)) == (60_000, 10_000)
    assert {picture.caption for picture in splits.validation[:200]} == set("0123456789")
    assert splits.train[59_999].pixels.shape == (28, 28)


@needs_shared
def test_reading_never_imports_tensorflow_or_jax() -> None:
    folder = str(SHARED / "tfds")
    code = (
        "import sys; from jgpt.data.tfds_source import read_tfds; "
        f"read_tfds('tiny_shakespeare', kind='text', data_dir={folder!r}, seed=0, validation_fraction=0.1); "
        "sys.exit(any(name in sys.modules for name in ('tensorflow', 'jax')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_unknown_names_get_their_neighbour(tmp_path: Path) -> None:
    said = complaint(ValueError, "fashion_mnits", "image", str(tmp_path))
    assert "'fashion_mnits'" in said and "'fashion_mnist'" in said and "catalog" in said and "--data.path" in said


def test_unknown_versions_name_the_known_one(prepared: str) -> None:
    assert "only: 1.0.0" in complaint(ValueError, "toy_texts:9.9.9", "text", prepared)


def test_missing_features_are_listed(prepared: str) -> None:
    said = complaint(ValueError, "toy_pictures", "text", prepared)
    assert "'text'" in said and "image, label" in said and "--data.path" in said
    assert "line" in complaint(ValueError, "toy_texts", "image", prepared)


def test_questions_are_read_by_the_table_of_features(prepared: str) -> None:
    splits = read("squad", "qa", prepared)
    assert (len(splits.train), len(splits.validation), splits.kind) == (3, 2, "qa")
    first = next(example for example in splits.train if example.question == "Where is q0?")
    assert (first.answer, first.references, first.context) == ("a0", ("a0", "A0"), "story 0")
    assert splits.notes == ("1 question(s) without an answer left out",)


WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=8).filter(
    str.strip
)


@settings(max_examples=60, deadline=None)  # a shared machine has slow moments
@given(st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=3), WORDS), min_size=1, max_size=4))
def test_questions_of_squad_and_of_choices_read_back_equal(asked: list[tuple[str, list[str], str]]) -> None:
    squad = [
        {"question": q.encode(), "context": c.encode(), "answers": {"text": [a.encode() for a in of]}}
        for q, of, c in asked
    ]
    parts = tfds_questions.parts_of("squad", ["question", "context", "answers/text"], {})
    found = tfds_questions.questions(squad, parts, "here", ReadLog("error"))
    assert found == [
        (QuestionAnswer(q, of[0], context=c, references=tuple(dict.fromkeys(of))), None) for q, of, c in asked
    ]
    assert [example.place for example, _ in found] == [f"here, example {i}" for i in range(len(asked))]
    piqa = [
        {"goal": q.encode(), "sol1": b"yes" + c.encode(), "sol2": b"no", "label": len(of) % 2} for q, of, c in asked
    ]
    parts = tfds_questions.parts_of("piqa", ["goal", "sol1", "sol2", "label"], {})
    for (example, _), (q, of, c) in zip(
        tfds_questions.questions(piqa, parts, "", ReadLog("error")), asked, strict=True
    ):
        assert example == QuestionAnswer(q, "no" if len(of) % 2 else f"yes{c}", choices=(f"yes{c}", "no"))


def test_choices_are_found_by_their_label(prepared: str) -> None:
    splits = read("ai2_arc", "auto", prepared, 0.5)
    assert splits.kind == "qa" and len(splits.train) == len(splits.validation) == 2
    for example in (*splits.train, *splits.validation):
        assert example.choices == ("ice", "snow", "rain")
        assert example.answer == {"q0": "ice", "q1": "snow", "q2": "rain", "q3": "ice"}[example.question]


def test_columns_name_the_features_of_any_other_set(prepared: str) -> None:
    data = DataConfig(columns={"question": "line", "answer": "line"})
    splits = read_tfds("toy_texts", kind="qa", data_dir=prepared, seed=0, validation_fraction=0.1, data=data)
    assert len(splits.train) == 18 and all(example.question == example.answer for example in splits.train)
    said = complaint(ValueError, "toy_texts", "qa", prepared)
    assert "'question'" in said and "'line'" in said and "--data.columns" in said


@pytest.mark.parametrize("name", [*tfds_questions.QUESTION_FEATURES, *tfds_source.TEXT_FEATURES])
def test_the_tables_name_features_that_tfds_knows(name: str, tmp_path: Path) -> None:
    try:
        features = tfds_source._paths(tfds.builder(name, data_dir=tmp_path).info.features)
    except tfds.core.registered.DatasetNotFoundError:
        pytest.skip(f"this release of TFDS does not register {name}")
    parts = tfds_questions.QUESTION_FEATURES.get(name, {"text": tfds_source.TEXT_FEATURES.get(name, "")})
    for path in parts.values():
        assert set(path if isinstance(path, tuple) else [path]) <= set(features)


def test_a_missing_data_set_says_how_to_get_it_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that hangs, as without a network, is stopped; nothing of it is left."""
    monkeypatch.setattr(tfds_folder, "PREPARE", "import time; time.sleep(60)")
    monkeypatch.setattr(tfds_folder, "ATTEMPT_SECONDS", 0.3)
    folder = tmp_path / "none"
    start = time.monotonic()
    said = complaint(FileNotFoundError, "toy_texts", "text", str(folder))
    assert time.monotonic() - start < 10 - 6
    assert "tfds:toy_texts" in said and str(folder) in said and "stopped after 0.3 s" in said
    assert "download_and_prepare()" in said and "array_record" in said and "pip install tensorflow" in said
    assert "--data.tfds-dir" in said and "TFDS_DATA_DIR" in said and "--data.path" in said
    assert not folder.exists()


def test_a_failed_attempt_gives_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfds_folder, "PREPARE", "import tensorflow_of_another_world")
    said = complaint(FileNotFoundError, "toy_texts", "text", str(tmp_path))
    assert "No module named 'tensorflow_of_another_world'" in said


def test_the_attempt_is_used_where_it_succeeds(prepared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = f"import shutil, sys; shutil.copytree({prepared!r}, sys.argv[2])"
    monkeypatch.setattr(tfds_folder, "PREPARE", copy)
    assert len(read("toy_texts", "text", str(tmp_path / "new")).train) == 18
    monkeypatch.setattr(tfds_folder, "PREPARE", "raise SystemExit('not again')")
    assert len(read("toy_texts", "text", str(tmp_path / "new")).train) == 18


def test_a_data_set_only_tensorflow_can_read_is_refused(prepared: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object, **options: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(tfds.core.DatasetBuilder, "as_data_source", refuse)
    said = complaint(FileNotFoundError, "toy_texts", "text", prepared)
    assert "only TensorFlow reads" in said and "file_format='array_record'" in said


def test_missing_tfds_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert "pip install tensorflow-datasets" in complaint(ModuleNotFoundError, "mnist", "image", None)


class ToyPhotos(ToyTexts):
    """Pictures with a caption in words under names of their own, in a single split, each twice."""

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "photo": tfds.features.Image(shape=(4, 6, 1)),
            "words": tfds.features.Text(),
            "box": tfds.features.Tensor(shape=(2,), dtype=np.int32),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, downloads: object) -> dict[str, Iterator]:
        return {"train": self._photos()}

    def _photos(self) -> Iterator:
        for i in range(20):
            file = io.BytesIO()
            Image.fromarray(np.full((4, 6), i % 10, np.uint8)).save(file, "PNG")
            file.seek(0)
            yield i, {"photo": file, "words": f"photo {i}", "box": np.zeros(2, np.int32)}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("photos"))
    ToyPhotos(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_columns_name_the_picture_and_its_caption(photos: str) -> None:
    def read_photos(kind: str = "auto", **columns: str) -> Splits:
        data = DataConfig(columns=columns)
        return read_tfds("toy_photos", kind=kind, data_dir=photos, seed=0, validation_fraction=0.2, data=data)

    splits = read_photos(image="photo", caption="words")
    assert splits.kind == "image"
    found = [*splits.train, *splits.validation]
    assert {picture.caption for picture in found} == {f"photo {i}" for i in range(20)}
    assert all(int(picture.caption.split()[1]) % 10 == picture.pixels[0, 0] for picture in found)
    for columns, said in (
        ({"image": "photo", "caption": "wrods"}, "no feature 'wrods'.*Did you mean 'words'"),
        ({"image": "photo", "caption": "box"}, "'box' .*neither a class nor a text"),
        ({"image": "words"}, "no uint8 feature 'words'"),
        ({"file": "photo", "image": "photo"}, "'file', which plays no part"),
    ):
        with pytest.raises(ValueError, match=said):
            read_photos("image", **columns)


def test_equal_pictures_of_a_single_split_stand_on_one_side(photos: str) -> None:
    data = DataConfig(columns={"image": "photo"})
    splits = read_tfds("toy_photos", kind="image", data_dir=photos, seed=0, validation_fraction=0.2, data=data)
    train, held = ({int(picture.pixels[0, 0]) for picture in part} for part in (splits.train, splits.validation))
    assert len(splits.validation) == 4 and not train & held
    assert splits.notes[0].startswith("20 pictures are equal to another one")
