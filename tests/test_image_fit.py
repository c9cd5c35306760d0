"""The learned image code in training: one network in jax and NumPy, gradients through rounding, a loss that falls."""

import argparse
import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jgpt import image_fit
from jgpt.config import Config, DataConfig, ModelConfig, TaskConfig, TokenizerConfig, TrainConfig
from jgpt.image_fit import FitConfig
from jgpt.tasks import mixture
from jgpt.tokenizers import image_learned
from jgpt.tokenizers.image import MARKS, load_code
from jgpt.tokenizers.image_learned import LEVELS
from jgpt.verbs import fit_image_tokenizer

FORWARD_TOLERANCE = 1e-4  # f32 products in another order
RANDOM = np.random.default_rng(0)
# Pictures with something to learn: a bright square somewhere on grey.
PICTURES = []
for top, left in RANDOM.integers(0, 5, (24, 2)):
    picture = np.full((8, 8, 3), 90, np.uint8)
    picture[top : top + 4, left : left + 4] = (250, 20, 60)
    PICTURES.append(picture)
SMALL = FitConfig(stride=4, codes=240, width=16, blocks=1, steps=50, batch_size=8, learning_rate=2e-2)


def test_jax_and_numpy_run_the_same_network():
    levels = LEVELS[1000]
    weights = image_learned.init(4, 3, levels, width=16, blocks=2, seed=1)
    pixels = RANDOM.uniform(-1, 1, (2, 8, 12, 3)).astype(np.float32)
    traced = {name: jnp.asarray(array) for name, array in weights.items()}
    numbers = image_learned.bounded(np, image_learned.latents(np, weights, pixels, 4), levels)
    again = jax.jit(lambda w, p: image_learned.bounded(jnp, image_learned.latents(jnp, w, p, 4), levels))(
        traced, pixels
    )
    np.testing.assert_allclose(again, numbers, atol=FORWARD_TOLERANCE)
    rounded = np.rint(numbers)
    drawn = image_learned.pictures(np, weights, rounded, levels, 4)
    again = jax.jit(lambda w, r: image_learned.pictures(jnp, w, r, levels, 4))(traced, rounded)
    np.testing.assert_allclose(again, drawn, atol=FORWARD_TOLERANCE)
    assert drawn.shape == pixels.shape


def test_convolution_is_the_one_of_jax():
    weights = {"c/w": RANDOM.standard_normal((9 * 3, 5)).astype(np.float32), "c/b": np.arange(5, dtype=np.float32)}
    x = RANDOM.standard_normal((2, 4, 6, 3)).astype(np.float32)
    dimensions = ("NHWC", "HWIO", "NHWC")
    reference = jax.lax.conv_general_dilated(
        x, weights["c/w"].reshape(3, 3, 3, 5), (1, 1), "SAME", dimension_numbers=dimensions
    )
    np.testing.assert_allclose(
        image_learned._convolution(np, weights, "c", x), np.asarray(reference) + weights["c/b"], atol=FORWARD_TOLERANCE
    )


def test_gradients_pass_through_rounding_to_every_weight():
    levels = LEVELS[240]
    weights = {k: jnp.asarray(v) for k, v in image_learned.init(4, 3, levels, 8, 1, 0).items()}
    pixels = jnp.asarray(np.stack(PICTURES[:4]).astype(np.float32) / 127.5 - 1)
    gradients = jax.jit(jax.grad(lambda w: image_fit.loss_of(w, pixels, levels, 4)))(weights)
    assert all(float(jnp.abs(gradient).max()) > 0 for gradient in gradients.values())


def test_training_lowers_the_loss_and_is_seeded():
    losses: list[float] = []
    code = image_fit.fit(PICTURES, SMALL, lambda step, loss: losses.append(loss))
    assert len(losses) == SMALL.steps and np.mean(losses[-5:]) < 0.6 * losses[0]
    measured = image_fit.measure(code, PICTURES)
    flat = 20 * math.log10(255 / np.std(np.stack(PICTURES).reshape(-1, 3), axis=0).mean())  # the mean colour everywhere
    assert measured.loss.psnr > flat + 1 and 0 < measured.used <= 1
    first: list[float] = []
    image_fit.fit(PICTURES, dataclasses.replace(SMALL, steps=2), lambda step, loss: first.append(loss))
    assert first[0] == losses[0]


def test_one_step_and_pictures_of_one_row_are_fitted():
    rows = [picture[:1] for picture in PICTURES]
    code = image_fit.fit(rows, FitConfig(stride=1, codes=240, width=16, blocks=1, steps=1, batch_size=2))
    assert code.decode(code.encode(rows[0]), rows[0].shape).shape == rows[0].shape


def test_refusals_name_the_value_and_the_fix():
    with pytest.raises(ValueError, match=r"codes is 999: use one of 240, 1000"):
        FitConfig(codes=999)
    with pytest.raises(ValueError, match=r"steps is 0"):
        FitConfig(steps=0)
    with pytest.raises(ValueError, match=r"8 x 8 pixels has no whole number of cells of 3 x 3"):
        image_fit.fit(PICTURES, FitConfig(stride=3))


def fit_by_verb(folder: Path) -> argparse.Namespace:
    """Write PICTURES into folder/set, no two alike, fit a code to them into folder/out, and return what was asked."""
    (folder / "set").mkdir()
    for i, picture in enumerate(PICTURES):
        picture[0, 0] = i
        Image.fromarray(picture).save(folder / "set" / f"{i}.png")
    parser = argparse.ArgumentParser()
    fit_image_tokenizer.add_arguments(parser)
    asked = parser.parse_args(
        f"{folder / 'set'} --out {folder / 'out'} --size 8 --width 8 --steps 3 --codes 240".split()
    )
    fit_image_tokenizer.run(asked)
    return asked


def test_the_verb_writes_a_code_that_runs_can_use(tmp_path: Path, capsys: pytest.CaptureFixture):
    asked = fit_by_verb(tmp_path)
    said = capsys.readouterr().out
    for part in (
        "22 to train on, 2 held out",
        "step 3/3",
        "PSNR",
        "of 240 codes in use, 2 x 2 tokens",
        "--tokenizer.image",
    ):
        assert part in said
    code = load_code(tmp_path / "out")
    assert code is not None and code.size == 240
    assert Image.open(tmp_path / "out" / "reconstruction.png").width > 16
    with pytest.raises(ValueError, match="holds an image tokenizer already"):
        fit_image_tokenizer.run(asked)


def test_held_out_pictures_that_the_code_was_trained_on_are_counted(tmp_path: Path):
    """The verb's own seed and share hold out what it held out; other seeds do not, and codes of before cannot tell."""
    fit_by_verb(tmp_path)

    def held_out(seed: int) -> tuple[set[bytes], set[bytes], list[str]]:
        config = Config(
            model=ModelConfig(context_length=16),
            tokenizer=TokenizerConfig(image="learned", image_path=str(tmp_path / "out")),
            data=DataConfig(tasks={"set": TaskConfig(kind="image", path=str(tmp_path / "set"))}, image_size=8),
            train=TrainConfig(seed=seed),
        )
        splits = mixture.build(config).tasks["set"].splits
        train, held = ({example.pixels.tobytes() for example in part} for part in (splits.train, splits.validation))
        return train, held, [note for note in splits.notes if "learned image code" in note]

    train, held, notes = held_out(0)
    assert len(train) == 22 and not notes
    counts = set()
    for seed in (1, 2, 3):
        _, others, notes = held_out(seed)
        common = len(others & train)
        assert [note.split()[0] for note in notes] == ([str(common)] if common else [])
        counts.add(common)
    assert max(counts) > 0
    (tmp_path / "out" / MARKS).unlink()  # as versions left it that kept none
    assert "is not known" in held_out(0)[2][0]
