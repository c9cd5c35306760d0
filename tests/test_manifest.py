"""A manifest finds every kind of damage to a folder, names the file, and never appears half-written."""

import json
import os
from pathlib import Path

import pytest

from jgpt import manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of three files, one empty and one in a subfolder, with its manifest."""
    (tmp_path / "arrays").mkdir()
    (tmp_path / "arrays" / "data").write_bytes(bytes(range(256)) * 8)
    (tmp_path / "text.json").write_text('{"a": 1}')
    (tmp_path / "empty").touch()
    manifest.write(tmp_path)
    return tmp_path


def test_untouched_folder_is_whole(folder: Path) -> None:
    assert manifest.exists(folder)
    assert manifest.damage(folder) is None
    assert set(json.loads((folder / manifest.NAME).read_text())["files"]) == {"arrays/data", "text.json", "empty"}


def test_files_added_later_are_no_damage(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    assert manifest.damage(folder) is None


@pytest.mark.parametrize("position", [0, 1, 255, 256, 1024, 2046, 2047])
def test_flipped_bit_is_found(folder: Path, position: int) -> None:
    data = bytearray((folder / "arrays" / "data").read_bytes())
    data[position] ^= 1
    (folder / "arrays" / "data").write_bytes(data)
    assert "arrays/data holds other bytes" in (manifest.damage(folder) or "")


def test_truncated_and_missing_files_are_named_with_their_sizes(folder: Path) -> None:
    os.truncate(folder / "arrays" / "data", 100)
    assert manifest.damage(folder) == "arrays/data has 100 bytes and not 2048"
    (folder / "arrays" / "data").unlink()
    assert manifest.damage(folder) == "arrays/data is missing"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"files": 3}', '{"files": {"text.json": {"size": "x"}}}', "\x00"])
def test_unreadable_manifest_is_damage(folder: Path, content: str) -> None:
    (folder / manifest.NAME).write_text(content)
    assert "manifest.json cannot be read" in (manifest.damage(folder) or "")


def test_folder_without_manifest_is_not_whole(folder: Path) -> None:
    (folder / manifest.NAME).unlink()
    assert not manifest.exists(folder)
    assert "manifest.json is missing" in (manifest.damage(folder) or "")


def test_failed_write_leaves_no_manifest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / manifest.NAME).unlink()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        manifest.write(folder)
    assert not manifest.exists(folder)
    monkeypatch.undo()
    manifest.write(folder)  # what the failed one left is neither in the way nor part of the new one
    assert manifest.damage(folder) is None
