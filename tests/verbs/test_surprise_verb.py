"""`jgpt surprise`: what it takes for a picture, and what it refuses before and after the run is loaded."""

from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from test_gallery import picture, task_data

import jgpt
from jgpt import cli
from jgpt.config import Config, DataConfig, ModelConfig
from jgpt.loaded import GPT
from jgpt.model import gpt
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


def test_the_map_does_not_replace_the_picture(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"a picture")
    with pytest.raises(ValueError, match="is the picture itself, which would be lost"):
        call("surprise", "no_such_run", str(tmp_path / "a.png"), "--out", str(tmp_path / "." / "a.png"))


def test_one_picture_or_held_out_ones_must_be_named(capsys: pytest.CaptureFixture):
    for command in (["surprise", "run"], ["surprise", "run", "a.png", "--held-out", "2"]):
        with pytest.raises(SystemExit):
            call(*command)
    assert "not allowed with" in capsys.readouterr().err


def test_files_come_in_the_channels_of_the_run_on_its_background(tmp_path: Path):
    pixels = np.array([[[10, 20, 30, 255], [200, 0, 0, 0]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "alpha.png")
    on_white, done = _read(tmp_path / "alpha.png", (1, 2, 3), DataConfig())
    np.testing.assert_array_equal(on_white, [[[10, 20, 30], [255, 255, 255]]])
    assert done == ["laid on the background #ffffff, having transparent pixels"]
    on_blue, _ = _read(tmp_path / "alpha.png", (1, 2, 3), DataConfig(image_background="#010203"))
    np.testing.assert_array_equal(on_blue[0, 1], [1, 2, 3])
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(_read(tmp_path / "grey.png", (2, 3), DataConfig())[0], grey)


def test_deep_and_turned_files_are_read_as_in_training(tmp_path: Path):
    Image.fromarray(np.array([[0, 257, 65535]], np.uint16)).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(_read(tmp_path / "deep.png", (1, 3), DataConfig())[0], [[0, 1, 255]])
    turned = Image.fromarray(np.array([[10, 200]], np.uint8))
    turned.getexif()[0x0112] = 6  # shown a quarter turn clockwise
    turned.save(tmp_path / "turned.png", exif=turned.getexif())
    np.testing.assert_array_equal(_read(tmp_path / "turned.png", (2, 1), DataConfig())[0], [[10], [200]])


def test_files_are_cut_and_scaled_where_those_of_training_were(tmp_path: Path):
    Image.fromarray(np.repeat(np.array([[0, 40, 80, 120, 160, 200]], np.uint8), 4, 0)).save(tmp_path / "wide.png")
    pixels, done = _read(tmp_path / "wide.png", (2, 2), DataConfig(image_size=2))
    np.testing.assert_array_equal(pixels, [[60, 140]] * 2)  # the four columns in the middle, two by two
    assert done == ["cut square and scaled to --data.image-size"]
    pixels, _ = _read(tmp_path / "wide.png", (2, 2), DataConfig(image_size=2, image_threshold=100))
    np.testing.assert_array_equal(pixels, [[0, 255]] * 2)


def test_files_that_do_not_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Image.fromarray(np.zeros((4, 9), np.uint8)).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(
        ValueError, match="9 x 4 pixels, this run draws 8 x 8 and was .* without --data.image-size: scale it"
    ):
        _read(tmp_path / "small.png", (8, 8), DataConfig())
    with pytest.raises(ValueError, match="text.png': it is no picture"):
        _read(tmp_path / "text.png", (8, 8), DataConfig())
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (0, 255)]
    frames[0].save(tmp_path / "moves.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="moves.gif': it is animated"):
        _read(tmp_path / "moves.gif", (8, 8), DataConfig())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(ValueError, match="small.png': it has more than 20 pixels"):
        _read(tmp_path / "small.png", (4, 9), DataConfig())
    with pytest.raises(FileNotFoundError, match="absent.png is not a file"):
        _read(tmp_path / "absent.png", (8, 8), DataConfig())


def test_the_caption_is_asked_for_where_there_are_several():
    assert _caption(None, ("",)) == "" and _caption("7", ("3", "7")) == "7"
    with pytest.raises(ValueError, match="add --caption, such as --caption '3'"):
        _caption(None, ("3", "7"))


@pytest.mark.slow
def test_bits_of_a_lossy_code_are_counted_per_token(tmp_path: Path, monkeypatch, capsys):
    data = task_data([picture("a"), picture("a")], [picture("a")], levels=3)
    config = ModelConfig(num_layers=1, embed_dim=16, num_heads=2, context_length=16)
    cfg = gpt.resolve(config, vocab_size=data.task.vocabulary.size, backend="cpu", text_end=260)
    model = GPT(gpt.init(cfg, jax.random.key(0)), Config(), cfg, data.task.vocabulary, {"p": data.task}, 0)
    monkeypatch.setattr(jgpt, "load", lambda *args, **named: model)
    Image.fromarray(picture("a").pixels).save(tmp_path / "lossy.png")
    call("surprise", "run", str(tmp_path / "lossy.png"), "--out", str(tmp_path / "map.png"))
    printed = capsys.readouterr().out
    assert "bits per token over 1 picture" in printed and "the image code is lossy" in printed
    assert "bits per dim over" not in printed
    with pytest.raises(ValueError, match="no picture was captioned 'b' in training"):
        call("surprise", "run", str(tmp_path / "lossy.png"), "--caption", "b")
