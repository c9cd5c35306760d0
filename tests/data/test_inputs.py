"""Files behind a path: archives read in memory, bombs refused, splits by name, and what is never data."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jgpt.config import DataConfig
from jgpt.data import inputs
from jgpt.data.examples import Splits
from jgpt.data.inputs import is_never_data, list_inputs, split_of
from jgpt.data.recognise import read_path

FILES = {"b/one.txt": "first text", "a.txt": "second text", ".hidden": "x", "__MACOSX/a.txt": "y", "empty.txt": ""}
COMPRESS = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}


def read(path: Path, data: DataConfig = DataConfig()) -> Splits:  # noqa: B008 - frozen
    return read_path(str(path), kind="auto", data=data, validation_fraction=0.5, seed=0)


def archive(path: Path, files: dict[str, str] = FILES) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, text in files.items():
                packed.writestr(name, text)
        return path
    with tarfile.open(path, {".tar": "w", ".gz": "w:gz", ".tgz": "w:gz", ".xz": "w:xz"}[path.suffix]) as packed:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            packed.addfile(member, io.BytesIO(text.encode()))
    return path


@pytest.mark.parametrize("suffix", COMPRESS)
@settings(max_examples=50, deadline=None)  # a shared machine has slow moments
@given(content=st.binary(max_size=200))
def test_compressed_files_are_read_as_what_is_in_them(
    content: bytes, suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("x") / f"a.txt{suffix}"
    path.write_bytes(COMPRESS[suffix](content))
    ((file,), _) = list_inputs(path)
    assert file.load() == content and file.name == "a.txt" and file.suffix == ".txt"


@pytest.mark.parametrize("name", ["t.tar", "t.tar.gz", "t.tgz", "t.tar.xz", "t.zip"])
def test_archives_are_folders(name: str, tmp_path: Path) -> None:
    splits = read(archive(tmp_path / name))
    assert sorted([*splits.train, *splits.validation]) == ["first text", "second text"]
    assert [path.name for path in tmp_path.iterdir()] == [name], "nothing is written to disk"


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.xz", "t.tar.xz", "t.zip"])
def test_bombs_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "EXPANDED_BYTES", 1000)
    path, text = tmp_path / name, "0" * 1001
    if name.startswith("a"):
        path.write_bytes(COMPRESS[path.suffix](text.encode()))
    else:
        archive(path, {"a.txt": text})
    with pytest.raises(ValueError, match=rf"{name}' expands to more than 1,000 bytes.*unpack it yourself"):
        read(path)


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.xz", "t.tar.xz", "t.tar.gz", "t.zip"])
def test_damaged_archives_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.startswith("a"):
        path.write_bytes(COMPRESS[path.suffix](bytes(range(256)) * 20))
    else:
        archive(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"{name}' cannot be decompressed .*cut off or damaged"):
        read(path)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl", "train"),
        ("Train-v1.1.json", "train"),
        ("qa1_one_train.txt", "train"),
        ("trivia_dev.csv", "validation"),
        ("valid", "validation"),
        ("val/a.txt", "validation"),
        ("test/part/a.txt", "test"),
        ("contest.txt", None),
        ("training_notes_old.txt", "train"),
        ("a/train_of_thought", "train"),
        ("corpus/test/train.txt", "test"),
        ("aclImdb/train/pos/0_9.txt", "train"),
        ("wiki-test-00000.jsonl", "test"),
        ("wiki_train-00001-of-00003.jsonl", "train"),
        ("dev.zip/a.txt", "validation"),
        ("corpus-train.tar.gz/1.txt", "train"),
        ("evaluation.txt", None),
    ],
)
def test_splits_are_named_by_file_or_folder(name: str, split: str | None) -> None:
    assert split_of(name) == split


@pytest.mark.parametrize("name", ["LICENCE.txt", "LICENSE", "license-mit.md", "COPYING", "a/NOTICE"])
def test_licences_are_never_data(name: str) -> None:
    assert is_never_data(name) and not is_never_data("licensed_works.txt")


def test_a_damaged_zip_of_lzma_and_an_encoding_that_is_none_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive_file:
        archive_file.writestr("a.txt", bytes(range(256)) * 20)
    raw = bytearray(path.read_bytes())
    raw[60:80] = bytes(20)
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="t.zip' cannot be decompressed"):
        read(path)
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(ValueError, match="data.encoding 'rot13' is no encoding of text"):
        read(tmp_path / "a.txt", data=DataConfig(encoding="rot13"))
