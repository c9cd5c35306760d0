"""`jgpt surprise`: what it takes for a picture, and what it refuses before and after the run is loaded."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jgpt import cli
from jgpt.verbs.surprise import _caption, _read


def call(*command: str) -> None:
    arguments = cli.parser().parse_args(list(command))
    arguments.call(arguments)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["--held-out", "1", "--caption", "7"], "--caption '7' is given with --held-out.*leave it out"),
        (["--held-out", "0"], "--held-out is 0: map at least 1"),
        (["--held-out", "1", "--out", "map.jpg"], "map.jpg' is not named .png"),
    ],
)
def test_contradictions_are_refused_before_the_run_is_read(command: list[str], words: str):
    with pytest.raises(ValueError, match=words):
        call("surprise", "no_such_run", *command)


def test_one_picture_or_held_out_ones_must_be_named(capsys: pytest.CaptureFixture):
    for command in (["surprise", "run"], ["surprise", "run", "a.png", "--held-out", "2"]):
        with pytest.raises(SystemExit):
            call(*command)
    assert "not allowed with" in capsys.readouterr().err


def test_files_come_in_the_channels_of_the_run_on_its_background(tmp_path: Path):
    pixels = np.array([[[10, 20, 30, 255], [200, 0, 0, 0]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(_read(tmp_path / "alpha.png", (1, 2, 3), "white"), [[[10, 20, 30], [255, 255, 255]]])
    np.testing.assert_array_equal(_read(tmp_path / "alpha.png", (1, 2, 3), "#010203")[0, 1], [1, 2, 3])
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(_read(tmp_path / "grey.png", (2, 3), "white"), grey)


def test_files_that_do_not_fit_are_refused(tmp_path: Path):
    Image.fromarray(np.zeros((4, 9), np.uint8)).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match="is 9 x 4 pixels, this run draws 8 x 8: scale it"):
        _read(tmp_path / "small.png", (8, 8), "white")
    with pytest.raises(ValueError, match="text.png cannot be read as a picture"):
        _read(tmp_path / "text.png", (8, 8), "white")
    with pytest.raises(FileNotFoundError, match="absent.png is not a file"):
        _read(tmp_path / "absent.png", (8, 8), "white")


def test_the_caption_is_asked_for_where_there_are_several():
    assert _caption(None, ("",)) == "" and _caption("7", ("3", "7")) == "7"
    with pytest.raises(ValueError, match="add --caption, such as --caption '3'"):
        _caption(None, ("3", "7"))
