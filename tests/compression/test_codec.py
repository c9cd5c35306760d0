import dataclasses

import jax
import numpy as np
import pytest

from jgpt.compression import codec, originals
from jgpt.config import Config, ModelConfig, TrainConfig
from jgpt.loaded import GPT
from jgpt.model import gpt
from jgpt.model.attention import Visibility
from jgpt.show.leaks import disturbed
from jgpt.tasks.image import ImageTask
from jgpt.tasks.qa import QATask
from jgpt.tasks.text import TextTask
from jgpt.tokenizers.image import Palette
from jgpt.tokenizers.image_rgb import RGB
from jgpt.tokenizers.text import ByteTokenizer
from jgpt.tokenizers.vocabulary import Vocabulary

ENGLISH = b"It was the best of times,\r\nit was the worst of times. \xff\xfe\0 "


def model(*, context=32, seed=0, code=None, shape=(4, 5), **fields) -> GPT:
    """Return a model nobody trained, with texts and pictures of `shape`."""
    cfg = ModelConfig(num_layers=1, embed_dim=16, num_heads=2, context_length=context, **fields)
    vocabulary = Vocabulary("bytes", ByteTokenizer(), code or Palette.grey(4))
    resolved = gpt.resolve(cfg, vocab_size=vocabulary.size, backend="cpu", text_end=vocabulary.text_ids.stop)
    tasks = {
        "prose": TextTask(vocabulary),
        "digits": ImageTask(vocabulary, shape, ("one", "two")),
        "quiz": QATask(vocabulary, 4),
    }
    params = jax.tree.map(lambda a: 2 * a, disturbed(resolved, seed))
    config = Config(model=cfg, train=TrainConfig(batch_size=4))
    return GPT(params, config, resolved, vocabulary, tasks, step=7)


@pytest.fixture(scope="module")
def tiny() -> GPT:
    return model(ngrams=(2,), ngram_rows=64, windows=(8,), embedding_conv=3)


def text_of(tiny: GPT, raw: bytes) -> originals.Original:
    return originals.read_text(tiny.tasks["prose"], raw, "f")


@pytest.mark.parametrize("raw", [b"", b"a", ENGLISH, bytes(range(256)) * 9], ids=["empty", "one", "bytes", "lanes"])
def test_any_bytes_come_back_and_their_size_is_what_the_forward_pass_says(tiny, raw):
    file, measured = codec.compress(tiny, "prose", text_of(tiny, raw))
    assert codec.decompress(tiny, file) == raw
    assert measured.tokens == len(raw) + 1 and measured.units == len(raw)
    assert measured.agrees
    # far closer than the coder's 1 %: the same sum, computed by steps and at once
    assert measured.stepped_bits == pytest.approx(measured.forward_bits, rel=1e-4)
    assert 8 * len(file.code) == measured.code_bits


def test_long_text_costs_less_than_one_percent_more(tiny):
    raw = ENGLISH * 60
    _, measured = codec.compress(tiny, "prose", text_of(tiny, raw))
    assert abs(measured.ratio - 1) < codec.TOLERANCE


@pytest.mark.parametrize("count", [1, 5])
def test_pictures_come_back(tiny, count):
    levels = tiny.tokenizer.image.colours[:, 0]
    stack = levels[np.random.default_rng(0).integers(0, 4, (count, 4, 5))]
    original = originals._pictures(tiny.tasks["digits"], stack, "f", "one", "stack")
    file, measured = codec.compress(tiny, "digits", original, "one")
    assert (codec.decompress(tiny, file) == stack).all()
    assert measured.tokens == count * 21 and measured.agrees
    # packed several a row by the forward pass, coded one a lane
    assert measured.stepped_bits == pytest.approx(measured.forward_bits, rel=1e-4)


def test_pictures_of_an_id_a_channel_come_back():
    colourful = model(code=RGB(), shape=(2, 3, 3))
    stack = np.random.default_rng(0).integers(0, 256, (2, 2, 3, 3)).astype(np.uint8)
    original = originals._pictures(colourful.tasks["digits"], stack, "f", "two", "stack")
    file, measured = codec.compress(colourful, "digits", original, "two")
    assert (codec.decompress(colourful, file) == stack).all()
    assert measured.tokens == 2 * 19 and measured.agrees


def test_a_forward_pass_that_sees_the_future_breaks_the_ratio(tiny, monkeypatch):
    raw = ENGLISH * 12
    louder = jax.tree.map(lambda a: 2.0 * a, tiny.params["blocks"])  # so that what is attended to matters
    tiny = dataclasses.replace(tiny, params={**tiny.params, "blocks": louder})
    honest = codec.compress(tiny, "prose", text_of(tiny, raw))[1]

    def leaky(self: Visibility) -> jax.Array:
        mask_BST = original(self)
        return mask_BST | mask_BST.swapaxes(1, 2) if mask_BST.shape[1] == mask_BST.shape[2] else mask_BST

    original = Visibility.mask
    tiny = dataclasses.replace(tiny, model=dataclasses.replace(tiny.model, attention="einsum"))
    monkeypatch.setattr(Visibility, "mask", leaky)
    file, measured = codec.compress(tiny, "prose", text_of(tiny, raw))
    assert honest.agrees and not measured.agrees
    assert abs(measured.ratio - 1) > codec.TOLERANCE
    assert codec.decompress(tiny, file) == raw  # the coder itself sees no future


@pytest.mark.slow
def test_documents_that_see_each_other_break_the_ratio(monkeypatch):
    long = model(context=80)
    stack = long.tokenizer.image.colours[:, 0][np.random.default_rng(0).integers(0, 4, (40, 4, 5))]
    original = originals._pictures(long.tasks["digits"], stack, "f", "one", "stack")
    assert codec.compress(long, "digits", original, "one")[1].agrees
    inner = gpt.features

    def blind(cfg, params, tokens_BS, positions_BS, segments_BS=None, *rest, **named):
        return inner(cfg, params, tokens_BS, positions_BS, None, *rest, **named)

    monkeypatch.setattr(gpt, "features", blind)
    assert not codec.compress(long, "digits", original, "one")[1].agrees


def test_another_run_and_another_step_are_refused(tiny):
    file, _ = codec.compress(tiny, "prose", text_of(tiny, b"hello"))
    with pytest.raises(ValueError, match="step 7 of a run with fingerprint"):
        codec.decompress(model(seed=1, ngrams=(2,), ngram_rows=64, windows=(8,), embedding_conv=3), file)
    with pytest.raises(ValueError, match="another run"):
        codec.decompress(tiny, dataclasses.replace(file, task="absent"))


def test_other_probabilities_are_noticed(tiny):
    file, _ = codec.compress(tiny, "prose", text_of(tiny, ENGLISH))
    with pytest.raises(ValueError, match="the same library and device"):
        codec.decompress(tiny, dataclasses.replace(file, checksum=file.checksum ^ 1))
    with pytest.raises(ValueError, match="another device or version"):
        codec.decompress(tiny, dataclasses.replace(file, checksum=file.checksum ^ 1, environment=file.environment ^ 1))


def test_tasks_that_predict_a_part_are_refused(tiny):
    with pytest.raises(ValueError, match="kind 'qa'"):
        codec.task_for(tiny, "quiz", "text")
    with pytest.raises(ValueError, match="no task 'absent'"):
        codec.task_for(tiny, "absent", "text")
    assert codec.task_for(tiny, None, "text")[0] == "prose" and codec.task_for(tiny, None, "stack")[0] == "digits"


def test_parameters_that_are_not_finite_are_named(tiny):
    broken = dataclasses.replace(tiny, params=jax.tree.map(lambda a: a * np.nan, tiny.params))
    with pytest.raises(FloatingPointError, match="NaN"):
        codec.compress(broken, "prose", text_of(tiny, b"hello"))
