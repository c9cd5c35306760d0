import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jgpt.compression.container import KINDS, Container, parse, read

FILE = Container("picture", "digits", b"12345678", 1440, 7, 2**32 - 1, 3, "a seven, ÿ", b"\0code")

files = st.builds(
    Container,
    kind=st.sampled_from(KINDS),
    task=st.text(max_size=200),
    fingerprint=st.binary(min_size=8, max_size=8),
    step=st.integers(0, 2**40),
    environment=st.integers(0, 2**32 - 1),
    checksum=st.integers(0, 2**32 - 1),
    count=st.integers(0, 2**50),
    caption=st.text(max_size=20),
    code=st.binary(max_size=300),
)


@given(files)
def test_round_trip(file):
    assert parse(file.to_bytes(), "f") == file


@given(st.integers(4, len(FILE.to_bytes()) - 1), st.integers(1, 255))
def test_every_flipped_byte_is_found(at, flip):
    content = bytearray(FILE.to_bytes())
    content[at] ^= flip
    with pytest.raises(ValueError, match="damaged or cut short"):
        parse(bytes(content), "f")


@pytest.mark.parametrize("size", range(4, len(FILE.to_bytes())))
def test_every_truncation_is_found(size):
    with pytest.raises(ValueError, match="damaged or cut short"):
        parse(FILE.to_bytes()[:size], "f")


def test_another_file_and_another_version_are_told_apart():
    with pytest.raises(ValueError, match="no file that `jgpt compress` made"):
        parse(b"\x1f\x8b\x08rest", "f.gz")
    with pytest.raises(ValueError, match="version 9"):
        parse(b"JGZ\x09" + FILE.to_bytes()[4:], "f")


def test_the_header_is_small():
    bare = dataclasses.replace(FILE, task="text", caption="", code=b"")
    assert len(bare.to_bytes()) < 40


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.jgz"):
        read(tmp_path / "absent.jgz")
