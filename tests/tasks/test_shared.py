"""What one process has read, the others train on: the same rows and examples, without the data and without reading them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jgpt.config import AugmentConfig, Config, DataConfig, ModelConfig, TaskConfig, TokenizerConfig
from jgpt.data import sources
from jgpt.data.examples import Conversation, Message, Picture, QuestionAnswer, Splits
from jgpt.data.packing import PackedRows
from jgpt.tasks import mixture, shared
from jgpt.tasks.mixture import Mixture

RNG = np.random.default_rng(0)
PICTURES = [Picture(RNG.integers(0, 256, (6, 5), np.uint8), name) for name in ("a", "b", "a b", "b")]
COLOURED = [Picture(RNG.integers(0, 256, (3, 2, 3), np.uint8), name) for name in "ab"]
QUESTIONS = [
    QuestionAnswer("is it?", "no", references=("nein",), choices=("no", "yes"), category="short"),
    QuestionAnswer(
        "a?", "b", more=(QuestionAnswer("then?", "ü", steps=("so",)),), context="It is b.", steps=("because",)
    ),
]
TALK = Conversation((Message("user", "hi"), Message("assistant", "ho\n")))
CASES: dict[str, tuple[Splits, dict[str, Any], DataConfig]] = {
    "text": (Splits(["a sentence, and another one. " * 3, "short 🙂 é"], ["sentence another"]), {}, DataConfig()),
    "qa": (Splits(QUESTIONS, QUESTIONS[::-1]), {"steps": True, "loss_weight": 0.5}, DataConfig()),
    "chat": (Splits([TALK, TALK], [TALK]), {}, DataConfig()),
    "image": (
        Splits(PICTURES, PICTURES[:2]),
        {"condition_dropout": 0.5},
        DataConfig(augment=AugmentConfig(flip=True)),
    ),
    "drawn": (
        Splits(PICTURES, PICTURES[:2]),
        {},
        DataConfig(image_threshold="random", augment=AugmentConfig(flip=True)),
    ),
    "colours": (Splits(COLOURED, COLOURED[:1]), {}, DataConfig()),
    "pieces": (Splits(["a sentence, and another one. " * 9], ["sentence another"]), {}, DataConfig()),
}
KINDS = {"drawn": "image", "colours": "image", "pieces": "text"}
TOKENIZERS = {"colours": {"image": "palette", "image_levels": 4}, "pieces": {"text": "bpe", "bpe_vocab_size": 270}}


def config(data: DataConfig, name: str, **task: Any) -> Config:
    options = TaskConfig(**{"kind": KINDS.get(name, name), "source": name} | task)
    return Config(
        model=ModelConfig(context_length=48, windows=(None,)),
        tokenizer=TokenizerConfig(**TOKENIZERS.get(name, {"image_levels": 4})),
        data=dataclasses.replace(data, tasks={name: options}),
    )


def rows(packed: PackedRows) -> list[np.ndarray]:
    """Return every array of every row, as it lies and as two epochs see it."""
    places = [(row, shift, epoch) for row in range(len(packed)) for shift, epoch in ((0, None), (0, 0), (7, 1))]
    return [array for place in places for array in packed.at(*place)]


def require_same(one: Mixture, other: Mixture) -> None:
    assert one.vocabulary.size == other.vocabulary.size and one.tasks.keys() == other.tasks.keys()
    for a, b in ((one.tasks[name], other.tasks[name]) for name in one.tasks):
        assert (a.dimensions, a.left_out, a.task.to_json()) == (b.dimensions, b.left_out, b.task.to_json())
        for split in ("train", "validation"):
            for most in ("max_documents", "max_targets"):
                assert getattr(getattr(a, split), most)() == getattr(getattr(b, split), most)()
            mine, theirs = rows(getattr(a, split)), rows(getattr(b, split))
            assert len(mine) == len(theirs) > 0
            for array, same in zip(mine, theirs, strict=True):
                np.testing.assert_array_equal(same, array, strict=True)


@pytest.mark.parametrize("name", CASES)
def test_rows_and_held_out_examples_are_those_that_were_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    splits, task, data = CASES[name]
    monkeypatch.setitem(sources.SOURCES, name, lambda seed, fraction: splits)
    cfg = config(data, name, **task)
    read = mixture.build(cfg)
    shared.lay_down(read, tmp_path / "shared")
    monkeypatch.delitem(sources.SOURCES, name)  # nobody reads the source again
    mapped = shared.take_up(cfg, tmp_path / "shared")
    require_same(read, mapped)
    mine, theirs = (data.tasks[name].splits.validation for data in (read, mapped))
    assert len(mine) == len(theirs) and type(mine[0]) is type(theirs[-1])
    for one, other in zip(mine, theirs, strict=True):
        if isinstance(one, Picture):
            assert one.caption == other.caption
            np.testing.assert_array_equal(other.pixels, one.pixels)
        else:
            assert one == other
    with pytest.raises(IndexError):
        theirs[len(theirs)]


def test_a_weight_between_none_and_one_survives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    splits, task, data = CASES["qa"]
    monkeypatch.setitem(sources.SOURCES, "qa", lambda seed, fraction: splits)
    cfg = config(data, "qa", **task)
    read = mixture.build(cfg)
    documents = read.tasks["qa"].train.documents
    documents[0] = documents[0]._replace(weights=documents[0].weights * np.float32(0.3))
    documents[1] = documents[1]._replace(weights=None)
    shared.lay_down(read, tmp_path / "shared")
    require_same(read, shared.take_up(cfg, tmp_path / "shared"))


@pytest.mark.parametrize("suffix", [".npy", ".bin"])
def test_files_of_ids_are_mapped_where_they_lie(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / f"ids{suffix}"
    ids = RNG.integers(0, 256, 2000)
    np.save(file, ids) if suffix == ".npy" else ids.astype("<u2").tofile(file)
    cfg = config(DataConfig(), "text", path=str(file.relative_to(tmp_path)), source="path")
    monkeypatch.chdir(tmp_path)
    read = mixture.build(cfg)
    shared.lay_down(read, tmp_path / "shared")
    monkeypatch.chdir("/")  # another process may have been started elsewhere
    mapped = shared.take_up(cfg, tmp_path / "shared")
    require_same(read, mapped)
    written = [path for path in (tmp_path / "shared").rglob("*") if path.suffix == ".npy"]
    assert not written, "nothing of such a file is copied"
    streams = [json.loads(path.read_text()) for path in (tmp_path / "shared").rglob("streams.json")]
    assert sum(stream["count"] for (stream,) in streams) == 2000
    assert isinstance(mapped.tasks["text"].train.documents[0].tokens, np.memmap), "and nothing of it read"
    ids[-1] ^= 1  # an earlier one of the same size lies on another host
    np.save(file, ids) if suffix == ".npy" else ids.astype("<u2").tofile(file)
    with pytest.raises(ValueError, match="holds other ids than on the host of process 0"):
        shared.take_up(cfg, tmp_path / "shared")
    file.unlink()
    with pytest.raises(FileNotFoundError, match="every process maps them"):
        shared.take_up(cfg, tmp_path / "shared")
