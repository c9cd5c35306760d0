import argparse

import pytest

import jgpt
from jgpt import cli
from jgpt.compression import codec
from jgpt.compression.codec import Measured
from jgpt.compression.container import Container
from jgpt.config import Config, ModelConfig
from jgpt.loaded import GPT
from jgpt.tasks.image import ImageTask
from jgpt.tasks.text import TextTask
from jgpt.tokenizers.image import Palette
from jgpt.tokenizers.text import ByteTokenizer
from jgpt.tokenizers.vocabulary import Vocabulary

VOCABULARY = Vocabulary("bytes", ByteTokenizer(), Palette.grey(4))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Stand in for the run: a folder, a model that is never asked, and the means to put both in place."""
    tasks = {"prose": TextTask(VOCABULARY), "digits": ImageTask(VOCABULARY, (2, 3), ("a",))}
    model = GPT({}, Config(), ModelConfig(), VOCABULARY, tasks, 1)
    return tmp_path, model, monkeypatch


def call(folder, *arguments: str, **measured: float) -> None:
    path, model, monkeypatch = folder
    values = {"forward_bits": 8000.0, "stepped_bits": 8000.0, "code_bits": 8032, "overhead_bits": 64.0} | measured
    result = Measured(**values, tokens=9, units=8, seconds=1.0, rounding=2e-4)
    file = Container("text", "prose", b"12345678", 1, 2, 3, 9, "", b"code")
    monkeypatch.setattr(jgpt, "load", lambda *args, **named: model)
    monkeypatch.setattr(codec, "compress", lambda *args: (file, result))
    parsed, _ = cli.parser().parse_known_args(["compress", "run", *arguments])
    assert isinstance(parsed, argparse.Namespace)
    parsed.call(parsed)


def test_sizes_are_printed_and_the_file_written(folder, capsys):
    source = folder[0] / "a.txt"
    source.write_text("some text")
    call(folder, str(source))
    printed = capsys.readouterr().out
    assert "forward pass claims" in printed and "code / forward pass: 1.0040" in printed and "zlib -9" in printed
    assert (folder[0] / "a.txt.jgz").read_bytes().startswith(b"JGZ")
    with pytest.raises(FileExistsError, match="--overwrite"):
        call(folder, str(source))
    call(folder, str(source), "--overwrite")


@pytest.mark.parametrize("measured", [{"code_bits": 8160}, {"code_bits": 7800}, {"stepped_bits": 8003.0}])
def test_bits_that_disagree_warn_and_leave_with_one(folder, capsys, measured):
    source = folder[0] / "a.txt"
    source.write_text("some text")
    with pytest.raises(SystemExit) as left:
        call(folder, str(source), **measured)
    assert left.value.code == 1 and "do not trust" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.txt", ["--caption", "a"], "belongs to pictures"),
        ("a.png", [], "give --caption"),
        ("a.txt", ["--task", "digits", "--caption", "a"], "neither a picture"),
        ("a.txt", ["--task", "absent"], "no task 'absent'"),
    ],
)
def test_what_does_not_fit_is_refused(folder, name, options, message):
    (folder[0] / name).write_text("some text")
    with pytest.raises(ValueError, match=message):
        call(folder, str(folder[0] / name), *options)
    assert not (folder[0] / f"{name}.jgz").exists()


def test_both_ways_name_the_run_first():
    for verb in ("compress", "decompress"):
        parsed, _ = cli.parser().parse_known_args([verb, "runs/trio", "a.txt"])
        assert (parsed.run, parsed.file) == ("runs/trio", "a.txt")


def test_overrides_belong_to_the_verbs_that_read_a_config(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["jgpt", "compress", "run", "file", "--model.num-layers", "3"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2 and "--model.num-layers" in capsys.readouterr().err
