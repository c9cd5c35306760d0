"""From requests to pictures: completion keeps what is given, guidance needs pictures without captions."""

import dataclasses

import jax
import numpy as np
import pytest

from jgpt.config import Config, ModelConfig
from jgpt.data.examples import Picture
from jgpt.loaded import GPT
from jgpt.model import gpt
from jgpt.sampling import Sampling
from jgpt.tasks.image import ImageTask
from jgpt.tasks.mixture import picture_grids
from jgpt.tasks.text import TextTask
from jgpt.tokenizers.image_palette import Palette
from jgpt.tokenizers.image_rgb import RGB
from jgpt.tokenizers.text import tokenizer_class
from jgpt.tokenizers.vocabulary import Vocabulary

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 4, (6, 5)).astype(np.uint8) * 85
COLOUR = RNG.integers(0, 256, (3, 2, 3)).astype(np.uint8)


def image_task(picture: np.ndarray, code: Palette | RGB, **options) -> ImageTask:
    words = Vocabulary("bytes", tokenizer_class("bytes").train([], 0), code)
    return ImageTask(words, picture.shape, ("7", "8"), **options)


@pytest.fixture(scope="module")
def model() -> GPT:
    """Return a random model that draws pictures of 6 x 5 in four grey levels and also writes text."""
    task = image_task(GREY, Palette.grey(4), unconditional=True)
    tasks = {"digits": task, "prose": TextTask(task.vocabulary)}
    cfg = gpt.resolve(
        ModelConfig(num_layers=1, embed_dim=16, num_heads=2, context_length=40, positions="rotary_2d", init="gpt2"),
        vocab_size=task.vocabulary.size,
        backend="cpu",
        pictures=picture_grids(task.vocabulary, tasks),
    )
    params = jax.tree.map(
        lambda a: 20 * a, jax.jit(gpt.init, static_argnums=0)(cfg, jax.random.key(0))
    )  # so wide that captions matter
    return GPT(params, Config(), cfg, task.vocabulary, tasks, 0)


def test_the_model_finds_the_grid_of_its_pictures(model: GPT) -> None:
    assert model.model.picture is not None
    assert (model.model.picture.width, model.model.picture.cells, model.model.picture.tokens_per_cell) == (5, 30, 1)
    assert model.model.picture.start_id == model.tokenizer.special("<|image|>")


@pytest.mark.parametrize(("picture", "code"), [(GREY, Palette.grey(4)), (COLOUR, RGB())], ids=["grey", "rgb"])
@pytest.mark.parametrize("kept", [1, 2])
def test_a_begun_picture_is_a_prefix_and_the_phases_cover_the_rest(picture, code, kept: int) -> None:
    """Prompt and rest are the encoding of the whole; each of the rest is allowed where it stands."""
    task = image_task(picture, code)
    whole = task.encode(Picture(picture, "7")).tokens
    prompt = task.prompt(Picture(picture[:kept], "7"))
    rest = whole[len(prompt.tokens) :]
    np.testing.assert_array_equal(prompt.tokens, whole[: len(prompt.tokens)])
    assert prompt.begun == kept * picture[0].size and prompt.max_new_tokens == len(rest)
    assert [phase.count for phase in prompt.phases].count(None) == 1 and prompt.phases[-1].ids == (task.end,)
    places = [phase.ids for phase in prompt.phases[:-1] for _ in range(phase.count or 0)]
    assert len(places) == len(rest) - 1
    assert all(token in ids for token, ids in zip(rest.tolist(), places, strict=False))


def test_drawing_goes_on_below_the_given_rows(model: GPT) -> None:
    """The given rows come back as they were, and the rest differs from sample to sample."""
    pictures = model.draw("7", 3, complete=GREY, keep_rows=2, seed=1)
    drawn = np.asarray(pictures)
    assert drawn.shape == (3, *GREY.shape) and pictures[0].size == GREY.shape[::-1]
    assert (drawn[:, :2] == GREY[:2]).all()
    assert (drawn[0, 2:] != drawn[1, 2:]).any()


@pytest.mark.slow
def test_half_of_the_rows_are_kept_unless_told_otherwise(model: GPT) -> None:
    half = np.asarray(model.draw("7", 1, complete=GREY))
    assert (half[0, :3] == GREY[:3]).all()
    np.testing.assert_array_equal(model.draw("7", 1, complete=GREY[:3]), half)


@pytest.mark.slow
def test_without_weight_on_the_condition_guidance_draws_the_unconditional_picture(model: GPT) -> None:
    """A scale of 0 with a caption gives what no caption gives."""
    bare, plain = (np.asarray(model.draw(caption, 1, seed=3)) for caption in ("", "7"))
    np.testing.assert_array_equal(model.draw("7", 1, seed=3, sampling=Sampling(guidance=0.0)), bare)
    assert (bare != plain).any()


@pytest.mark.slow
def test_strong_guidance_draws_another_picture_and_keeps_the_given_rows(model: GPT) -> None:
    plain = np.asarray(model.draw("7", 1, seed=3))
    strong = np.asarray(model.draw("7", 1, seed=3, sampling=Sampling(guidance=6.0, guidance_schedule="cosine")))
    assert (strong != plain).any()
    begun = np.asarray(model.draw("7", 1, complete=GREY, sampling=Sampling(guidance=6.0)))
    assert (begun[0, :3] == GREY[:3]).all()


def test_mistakes_name_value_and_fix(model: GPT) -> None:
    guided = Sampling(guidance=2.0)
    with pytest.raises(ValueError, match="'prose' of kind 'text'.*leave --guidance at 1"):
        model.complete("prose", ["a"], sampling=guided)
    with pytest.raises(ValueError, match=r"6 rows are given of pictures of 6: keep 1 to 5.*--keep-rows 3"):
        model.draw("7", complete=GREY, keep_rows=6)
    with pytest.raises(ValueError, match="first 4 rows.*has 2"):
        model.draw("7", complete=GREY[:2], keep_rows=4)
    with pytest.raises(ValueError, match=r"shape \(2, 4\).*same width"):
        model.draw("7", complete=GREY[:2, :4])
    with pytest.raises(ValueError, match="keep_rows is 2, but no picture"):
        model.draw("7", keep_rows=2)
    with pytest.raises(ValueError, match=r"begin with \[5, 10\] tokens: complete those with as many rows"):
        model.complete("digits", [Picture(GREY[:1], "7"), Picture(GREY[:2], "7")])
    blind = dataclasses.replace(model, tasks={"digits": image_task(GREY, Palette.grey(4))})
    with pytest.raises(ValueError, match="saw none: train with --data.tasks.digits.condition-dropout 0.1"):
        blind.draw("7", sampling=guided)
