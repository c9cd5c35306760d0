"""The text every Python carries: clean, whole by module, apart, the same under one seed."""

import sys
import zlib
from pathlib import Path

import pytest

from jgpt.data import embedded
from jgpt.data.embedded import MIN_CHARACTERS, read_english, zlib_bits_per_byte
from jgpt.data.examples import Splits


@pytest.fixture(scope="module")
def splits() -> Splits:
    return read_english(0, 0.1)


def test_there_is_english_enough_to_learn_from(splits: Splits) -> None:
    documents = [*splits.train, *splits.validation]
    text = "\n".join(documents)
    assert len(text) > 1_500_000
    assert text.count(" the ") > 10_000
    assert all(len(document) >= MIN_CHARACTERS and document == document.strip() for document in documents)
    text.encode("utf-8")


def test_nothing_held_out_was_trained_on(splits: Splits) -> None:
    trained = {part for document in splits.train for part in document.split("\n\n")}
    shared = trained & {part for document in splits.validation for part in document.split("\n\n")}
    assert not set(splits.train) & set(splits.validation)
    assert all(len(part) < embedded.SHARED_CHARACTERS for part in shared)


def test_both_kinds_are_held_out_by_document(splits: Splits) -> None:
    topics = set(embedded._distinct(embedded._topics(), set()))
    assert len(topics & set(splits.validation)) == round(0.1 * len(topics))
    modules = len(splits.train) + len(splits.validation) - len(topics)
    assert len(set(splits.validation) - topics) == round(0.1 * modules)


def test_a_seed_fixes_the_split(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [f"{number} ".ljust(300, "x") for number in range(50)]
    monkeypatch.setattr(embedded, "_topics", list)
    monkeypatch.setattr(embedded, "_modules", lambda library: iter(documents))
    first, again, other = read_english(1, 0.2), read_english(1, 0.2), read_english(2, 0.2)
    assert first.validation == again.validation != other.validation
    assert sorted([*first.train, *first.validation]) == sorted([*other.train, *other.validation])


def test_baseline_is_zlib_over_the_held_out_text(splits: Splits) -> None:
    raw = "\n".join(splits.validation).encode()
    assert splits.baselines == {"bits_per_byte_zlib": pytest.approx(8 * len(zlib.compress(raw, 9)) / len(raw))}
    assert zlib_bits_per_byte(["a" * 10_000]) < 0.1


def test_docstrings_are_read_without_running_the_module(tmp_path: Path) -> None:
    body = "word " * 60
    (tmp_path / "a.py").write_text(
        f'"""Module {body}"""\nraise SystemExit\nif x:\n    class C:\n        """Class.\n\n        Indented."""\n'
        '        async def f(self):\n            """Method."""\n            "not a docstring"\n'
    )
    (tmp_path / "b.py").write_text(f'"""Module {body}"""\ndef g():\n    """Own {body}"""\n')  # its first is a's
    (tmp_path / "c.py").write_text('"""Too short."""\n')
    (tmp_path / "d.py").write_text('"""Broken""" (\n')
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "e.py").write_text(f'"""Skipped {body}"""\n')
    module = f"Module {body}".strip()
    first, second = f"{module}\n\nClass.\n\n        Indented.\n\nMethod.", f"Own {body}".strip()
    assert list(embedded._modules(tmp_path)) == [first, second, "Too short."]
    assert embedded._distinct(embedded._modules(tmp_path), set()) == [first, second]


def test_paragraphs_stand_in_one_document_only() -> None:
    long, new, other = "shared " * 20, "new " * 60, "other " * 50
    documents = [f"{long}\n\n{new}", f"{long}\n\nshort\n\n{other}", f"{new}\n\n{long}\n\n{'left ' * 41}", new]
    assert embedded._distinct(documents, set()) == [documents[0].strip(), f"short\n\n{other}".strip()]


def test_control_characters_and_surrogates_are_junk() -> None:
    assert embedded._is_clean("A line.\n\tÜber\u00a0alles \u4e2d")
    assert not embedded._is_clean("bell \a")
    assert not embedded._is_clean("half \ud800")


def test_missing_topics_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    monkeypatch.setattr(embedded, "_modules", lambda library: iter(["a" * 300, "b" * 300]))
    with pytest.warns(UserWarning, match="docstrings alone"):
        splits = read_english(0, 0.5)
    assert len(splits.train) == len(splits.validation) == 1


def test_no_text_at_all_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_topics", list)
    monkeypatch.setattr(embedded, "_modules", lambda library: iter(()))
    with pytest.raises(FileNotFoundError, match="--data.path"):
        read_english(0, 0.1)
