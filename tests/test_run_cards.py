"""Run cards: every one loads, says what a card says, and those of pictures leave room to train on one and to draw one."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from jgpt.configio import load_config_file
from jgpt.data.examples import Picture
from jgpt.tasks.image import ImageTask
from jgpt.tokenizers.image import make_code
from jgpt.tokenizers.text import ByteTokenizer
from jgpt.tokenizers.vocabulary import Vocabulary

CARDS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))
SHAPES = {"mnist": (28, 28), "mnist_binary": (28, 28), "cifar10": (32, 32, 3), "emoji": (16, 16, 3)}


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_a_card_loads_and_says_what_command_time_and_score(path: Path):
    config = load_config_file(path)
    assert config.run.dir == f"runs/{path.stem}" and config.data.tasks
    text = path.read_text(encoding="utf-8")
    for word in ("What: ", "Command: python train.py", "Time: ", "Score: "):
        assert word in text


@pytest.mark.parametrize("name", SHAPES)
def test_a_picture_can_be_trained_on_and_drawn(name: str):
    config = load_config_file(CARDS[0].parent / f"{name}.py")
    (options,) = config.data.tasks.values()
    picture = np.random.default_rng(0).integers(0, 256, SHAPES[name], np.uint8)
    vocabulary = Vocabulary("bytes", ByteTokenizer(), make_code(config.tokenizer, [picture], 0))
    example = Picture(picture, "" if options.condition == "none" else "7")
    task = ImageTask.fit(vocabulary, [example] * 20, options)
    prompt, context = task.prompt(example.caption), config.model.context_length
    assert len(task.encode(example).tokens) <= context + 1
    assert len(prompt.tokens) + prompt.max_new_tokens <= context + 1


def test_arrays_of_a_tokenizer_go_into_a_checkpoint_as_text(tmp_path: Path):
    from jgpt.loop import _tokenizer_files

    (tmp_path / "image.json").write_text('{"é": 1}', encoding="utf-8")
    np.savez(tmp_path / "image.npz", weights=np.arange(300, dtype=np.float32))
    files = _tokenizer_files(tmp_path)
    assert files["image.json"] == '{"é": 1}'
    assert base64.b64decode(files["image.npz"]) == (tmp_path / "image.npz").read_bytes()
    json.dumps(files)
