"""Files of the user: what each kind of path means, and that every complaint names the value and the fix."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jgpt.config import DataConfig
from jgpt.data.examples import Splits
from jgpt.data.holdout import hold_out, tail_start
from jgpt.data.recognise import read_path

SHAKESPEARE = Path(__file__).parents[3] / "shared" / "data" / "text" / "tinyshakespeare.txt"


def read(path: Path, **changes: object) -> Splits:
    data = DataConfig(encoding=str(changes.pop("encoding", "utf-8")))
    arguments = {"kind": "text", "data": data, "validation_fraction": 0.1, "seed": 0} | changes
    return read_path(str(path), **arguments)


def complaint(path: Path, error: type[Exception] = ValueError, **changes: object) -> str:
    with pytest.raises(error) as caught:
        read(path, **changes)
    return str(caught.value)


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@given(st.integers(2, 2000), st.floats(0.01, 0.99), st.integers(0, 5))
def test_hold_out_is_a_partition(count: int, fraction: float, seed: int) -> None:
    train, held = hold_out(count, fraction, seed)
    assert sorted(train + held) == list(range(count)) and train and held
    assert abs(len(held) - count * fraction) <= 1
    assert (train, held) == hold_out(count, fraction, seed)


@pytest.mark.parametrize(
    ("count", "fraction", "cut"),
    [(1_115_394, 0.1, 1_003_854), (10, 0.9, 1), (10, 0.7, 3), (100, 0.29, 71), (2, 0.01, 1), (2, 0.99, 1)],
)
def test_tail_begins_where_decimals_say(count: int, fraction: float, cut: int) -> None:
    assert tail_start(count, fraction) == cut


@pytest.mark.parametrize(("count", "fraction"), [(1, 0.1), (10, 0.0), (10, 1.0)])
def test_impossible_shares_are_refused(count: int, fraction: float) -> None:
    for rule in (lambda: tail_start(count, fraction), lambda: hold_out(count, fraction, 0)):
        with pytest.raises(ValueError, match="cannot be split|strictly between"):
            rule()


def test_a_text_file_is_one_document_with_its_tail_held_out(tmp_path: Path) -> None:
    text = "".join(chr(97 + i % 26) for i in range(99)) + "é"
    for name in ("a.txt", "a.md", "LICENSE", "a.py"):
        splits = read(write(tmp_path / name, text))
        assert (splits.train, splits.validation) == ([text[:90]], [text[90:]])


def test_byte_order_mark_and_line_ends_are_read_as_python_does(tmp_path: Path) -> None:
    splits = read(write(tmp_path / "windows.txt", b"\xef\xbb\xbfone\r\ntwo\r\n"), validation_fraction=0.5)
    assert splits.train[0] + splits.validation[0] == "one\ntwo\n"


@pytest.mark.skipif(not SHAKESPEARE.is_file(), reason=f"{SHAKESPEARE} is not here: it is no part of the project")
def test_tiny_shakespeare_splits_as_in_nanogpt() -> None:
    splits = read(SHAKESPEARE)
    assert (len(splits.train[0]), len(splits.validation[0])) == (1_003_854, 111_540)
    assert splits.train[0] + splits.validation[0] == SHAKESPEARE.read_text()


def test_a_folder_is_one_document_a_file(tmp_path: Path) -> None:
    for number in range(20):
        write(tmp_path / f"part{number % 3}" / f"{number:02}.txt", f"document {number}")
    write(tmp_path / ".hidden", b"\0\0")
    write(tmp_path / ".git" / "config", b"\0\0")
    write(tmp_path / "empty.txt", b"")
    write(tmp_path / "twin.txt", "document 3")
    (tmp_path / "part0" / "loop").symlink_to(tmp_path)
    first, again, other = read(tmp_path), read(tmp_path), read(tmp_path, seed=1)
    assert first == again and first.validation != other.validation
    assert (len(first.train), len(first.validation)) == (18, 2)
    assert sorted([*first.train, *first.validation]) == sorted(f"document {number}" for number in range(20))


def test_a_folder_with_one_file_is_that_file(tmp_path: Path) -> None:
    file = write(tmp_path / "in" / "a.txt", "0123456789")
    assert read(tmp_path / "in") == read(file)
    write(tmp_path / "in" / "b.txt", "0123456789")
    twins = read(tmp_path / "in")
    assert (twins.train, twins.validation) == (read(file).train, read(file).validation)
    assert twins.notes == ("1 text(s) equal to another left out",)


@pytest.mark.parametrize("dtype", ["uint16", "int32", ">u4", "int64"])
def test_npy_is_mapped_and_its_tail_held_out(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "ids.npy", np.arange(1000).astype(dtype))
    splits = read(tmp_path / "ids.npy")
    (train,), (held,) = splits.train, splits.validation
    assert isinstance(train.ids, np.memmap) and isinstance(held.ids, np.memmap)
    np.testing.assert_array_equal(train.ids, np.arange(900))
    np.testing.assert_array_equal(held.ids, np.arange(900, 1000))


@settings(max_examples=40, deadline=None)  # a shared machine has slow moments
@given(st.lists(st.integers(0, 65535), min_size=4, max_size=50), st.sampled_from([".bin", ".npy"]), st.booleans())
def test_ids_read_back_equal(ids: list[int], suffix: str, whole: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"ids{suffix}"
        array = np.array(ids, "<u2")
        file.write_bytes(array.tobytes()) if suffix == ".bin" else np.save(file, array)
        splits = read(file, validation_fraction=None if whole else 0.25)
        assert [i for part in (splits.train, splits.validation) for stream in part for i in stream.ids.tolist()] == ids


def test_bin_is_little_endian_uint16(tmp_path: Path) -> None:
    file = write(tmp_path / "ids.bin", np.arange(300, 320, dtype="<u2").tobytes())
    splits = read(file)
    assert isinstance(splits.train[0].ids, np.memmap)
    assert splits.train[0].ids.tolist() == list(range(300, 318)) and splits.validation[0].ids.tolist() == [318, 319]
    assert read(tmp_path).train[0].ids.tolist() == splits.train[0].ids.tolist()


@pytest.mark.parametrize("suffix", [".bin", ".npy"])
def test_a_folder_of_nanogpt_brings_its_own_split(tmp_path: Path, suffix: str) -> None:
    parts = {"train": np.arange(70, dtype="<u2"), "val": np.arange(50, dtype="<u2")}
    for name, ids in parts.items():
        if suffix == ".npy":
            np.save(tmp_path / f"{name}.npy", ids)
        else:
            write(tmp_path / f"{name}.bin", ids.tobytes())
    write(tmp_path / "meta.pkl", b"\0")
    splits = read(tmp_path)
    assert splits.train[0].ids.tolist() == list(range(70)) and splits.validation[0].ids.tolist() == list(range(50))


def test_missing_path_names_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path / "novel.txt", "text")
    said = complaint(tmp_path / "novle.txt", FileNotFoundError)
    assert "novle.txt" in said and "Did you mean" in said and "novel.txt'" in said and "--data.path" in said


def test_other_kinds_than_text_are_refused(tmp_path: Path) -> None:
    said = complaint(write(tmp_path / "a.txt", "text"), kind="image")
    assert "'image'" in said and "kind text" in said


@pytest.mark.parametrize("name", ["a.txt", "a.bin", "a.npy"])
def test_empty_files_are_refused(tmp_path: Path, name: str) -> None:
    said = complaint(write(tmp_path / name, b""))
    assert name in said and "0 bytes" in said and "--data.path" in said


@pytest.mark.parametrize(("name", "content"), [("a.txt", b"x"), ("a.bin", b"xx"), ("b.txt", b"\xef\xbb\xbf")])
def test_files_too_short_to_split_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    said = complaint(write(tmp_path / name, content))
    assert name in said and ("at least two" in said or "byte order mark" in said)


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    said = complaint(tmp_path, FileNotFoundError)
    assert str(tmp_path) in said and "text file" in said


def test_wrong_encoding_names_file_byte_offset_and_fix(tmp_path: Path) -> None:
    file = write(tmp_path / "old.txt", "Straße und Müller".encode("latin-1"))
    said = complaint(file)
    assert "old.txt" in said and "0xdf at offset 4 of 17" in said and "--data.encoding latin-1" in said
    splits = read(file, encoding="latin-1")
    assert splits.train[0] + splits.validation[0] == "Straße und Müller"


def test_utf_16_is_recognised(tmp_path: Path) -> None:
    file = write(tmp_path / "wide.txt", "wide text".encode("utf-16"))
    assert "--data.encoding utf-16" in complaint(file)
    splits = read(file, encoding="utf-16")
    assert splits.train[0] + splits.validation[0] == "wide text"


def test_unknown_encoding_is_refused(tmp_path: Path) -> None:
    said = complaint(write(tmp_path / "a.txt", "text"), encoding="utf-9")
    assert "'utf-9'" in said and "latin-1" in said


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_binary_files_are_refused(tmp_path: Path, encoding: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, 3000).astype(np.uint8).tobytes()
    write(tmp_path / "notes.txt", "text")
    for content in (noise, b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"text\0text"):
        file = write(tmp_path / "photo.dat", content)
        for path in (file, tmp_path):
            said = complaint(path, encoding=encoding)
            assert "photo.dat" in said and "binary" in said and "plain text" in said


def test_odd_bin_is_refused(tmp_path: Path) -> None:
    said = complaint(write(tmp_path / "a.bin", b"abc"))
    assert "a.bin" in said and "3 bytes" in said and "uint16" in said and "numpy.save" in said


@pytest.mark.parametrize(
    ("ids", "value"),
    [
        (np.zeros(10), "float64"),
        (np.zeros((2, 5), np.int32), r"(2, 5)"),
        (np.array([3, 1, -100, 2]), "id -100 at position 2"),
        (np.zeros(0, np.int32), "0 ids"),
        (np.array([None, 1]), "cannot be read"),
    ],
)
def test_npy_that_holds_no_ids_is_refused(tmp_path: Path, ids: np.ndarray, value: str) -> None:
    np.save(tmp_path / "a.npy", ids)
    said = complaint(tmp_path / "a.npy")
    assert "a.npy" in said and value in said and ("sav" in said or "--data.path" in said)


def test_ids_among_texts_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "text")
    write(tmp_path / "b.bin", b"xxxx")
    said = complaint(tmp_path)
    assert "b.bin" in said and "train.bin" in said


def test_two_pairs_of_ids_are_ambiguous(tmp_path: Path) -> None:
    for name in ("train", "val"):
        write(tmp_path / f"{name}.bin", b"xxxx")
        np.save(tmp_path / f"{name}.npy", np.arange(4))
    assert "move one pair" in complaint(tmp_path)
