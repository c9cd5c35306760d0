"""Rotary positions in two dimensions: where tokens stand, what turns by what, and that text notices nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgpt.config import ModelConfig, PictureGrid
from jgpt.model import gpt
from jgpt.model.rotary import plane, rotary

MARKER = 9
TOLERANCE = 2e-5  # f32 logits of two layers of width 32
CFG = gpt.resolve(
    ModelConfig(num_layers=2, embed_dim=32, num_heads=2, context_length=24, positions="rotary_2d", init="gpt2"),
    vocab_size=16,
    backend="cpu",
    pictures={"digits": PictureGrid(start_id=MARKER, width=3, cells=6)},
)


def numpy_plane(tokens, positions, grid):
    """Walk along one row of packed documents."""
    rows, columns, first = [], [], None
    for token, position in zip(tokens, positions, strict=True):
        if position == 0:
            first = None
        inside = first is not None and token != grid.start_id
        cell = (position - first) // grid.tokens_per_cell if inside else -1
        if 0 <= cell < grid.cells:
            rows.append(first + cell // grid.width)
            columns.append(first + cell % grid.width)
        else:
            rows.append(position)
            columns.append(position)
        if token == grid.start_id:
            first = position + 1
    return rows, columns


def test_the_worked_example() -> None:
    """A caption of one token, a picture of 2 x 2 and its end."""
    grid = PictureGrid(start_id=MARKER, width=2, cells=4)
    tokens = jnp.asarray([[1, 7, MARKER, 4, 4, 4, 4, 2]])
    row, column = plane(grid, jnp.arange(8)[None], tokens)
    assert row[0].tolist() == [0, 1, 2, 3, 3, 4, 4, 7]
    assert column[0].tolist() == [0, 1, 2, 3, 4, 3, 4, 7]


@pytest.mark.parametrize("per_cell", [1, 3])
def test_places_equal_a_walk_along_packed_rows(per_cell: int) -> None:
    """Documents of any length with markers anywhere, pictures cut off by the end of their document included."""
    grid = PictureGrid(start_id=MARKER, width=3, cells=6, tokens_per_cell=per_cell)
    rng = np.random.default_rng(per_cell)
    for _ in range(20):
        tokens = rng.choice([1, 2, MARKER], p=[0.5, 0.42, 0.08], size=60)
        positions = np.concatenate([np.arange(n) for n in rng.integers(1, 30, 20)])[:60]
        row, column = plane(grid, jnp.asarray(positions)[None], jnp.asarray(tokens)[None])
        expected = numpy_plane(tokens.tolist(), positions.tolist(), grid)
        assert (row[0].tolist(), column[0].tolist()) == expected


def test_cached_places_equal_those_of_the_whole_row() -> None:
    """Whatever part of a row is fed, and whatever stale ids lie in the slots behind it."""
    grid = PictureGrid(start_id=MARKER, width=3, cells=6)
    tokens = jnp.asarray([[1, MARKER, 5, 5, 5, 5, 5, 5, 2, 1], [1, 3, 3, MARKER, 5, 5, 5, 5, 5, 5]])
    positions = jnp.tile(jnp.arange(10)[None], (2, 1))
    whole = plane(grid, positions, tokens)
    stale = jnp.concatenate([tokens, jnp.full((2, 4), MARKER)], axis=1)
    for cut in (slice(0, 4), slice(4, 5), slice(5, 10)):
        for part, expected in zip(plane(grid, positions[:, cut], tokens[:, cut], stale), whole, strict=True):
            np.testing.assert_array_equal(part, expected[:, cut])


def test_even_pairs_turn_by_row_and_odd_ones_by_column() -> None:
    """Angles equal a NumPy reference with the frequencies of one dimension."""
    tokens = jnp.asarray([[1, MARKER, *[5] * 6, 2]])
    positions = jnp.arange(9)[None]
    turn = rotary(CFG, positions, tokens)
    assert turn is not None and CFG.picture is not None
    places = np.array(numpy_plane(tokens[0].tolist(), range(9), CFG.picture))  # [2 S]
    angles = places[np.arange(8) % 2].T * 10_000.0 ** (-np.arange(8) / 8)
    np.testing.assert_allclose(turn.cos_BS1k[0, :, 0], np.cos(angles), atol=1e-6)
    np.testing.assert_allclose(turn.sin_BS1k[0, :, 0], np.sin(angles), atol=1e-6)


def test_without_pictures_it_is_rotary() -> None:
    """The turns of text are the same to the bit; those of a picture are not."""
    plain = dataclasses.replace(
        CFG, positions="rotary", image_start_id=None, picture_width=None, picture_cells=None, tokens_per_cell=None
    )
    text, picture = jnp.asarray([[1, 2, 3, 4, 5, 6]]), jnp.asarray([[1, MARKER, 3, 4, 5, 6]])
    positions = jnp.arange(6)[None]
    jax.tree.map(np.testing.assert_array_equal, rotary(CFG, positions, text), rotary(plain, positions, text))
    ours, theirs = rotary(CFG, positions, picture), rotary(plain, positions, picture)
    assert ours is not None and theirs is not None
    assert np.abs(np.asarray(ours.sin_BS1k - theirs.sin_BS1k)).max() > 0.1


def test_moving_a_document_within_its_row_changes_nothing() -> None:
    """A picture behind another document, another picture or padding has the logits it has at the start of the row."""
    params = jax.jit(gpt.init, static_argnums=0)(CFG, jax.random.key(0))
    params = jax.tree.map(lambda a: a + 0.1 * jax.random.normal(jax.random.key(a.size), a.shape), params)
    document = [1, MARKER, 3, 4, 5, 6, 7, 8, 2]
    apply = jax.jit(lambda *batch: gpt.apply(CFG, params, *batch)[0])

    def logits(before: list[int]) -> np.ndarray:
        n, rest = len(before), 20 - len(before) - 9
        tokens = jnp.asarray([before + document + [0] * rest])
        positions = jnp.asarray([[*range(n), *range(9), *[0] * rest]])
        segments = jnp.asarray([[1] * n + [2] * 9 + [0] * rest])
        return np.asarray(apply(tokens, positions, segments)[0, n : n + 9])

    for before in ([1, 2], [MARKER], document, [1, MARKER, 3]):
        np.testing.assert_allclose(logits(before), logits([]), atol=TOLERANCE, rtol=0)


def test_resolve_takes_the_shape_of_the_runs_pictures() -> None:
    """One grid fills the fields, and a stride of sparse attention is a row of it; none and several are errors."""
    grid, other = (
        PictureGrid(start_id=7, width=4, cells=8, tokens_per_cell=3),
        PictureGrid(start_id=7, width=5, cells=25),
    )

    def resolve(pictures, **fields):
        return gpt.resolve(ModelConfig(**fields), vocab_size=16, backend="cpu", pictures=pictures)

    assert resolve({"a": grid, "b": grid}, positions="rotary_2d").picture == grid
    assert resolve({"a": grid}, patterns=("full", "strided")).pattern_stride == 12
    assert resolve({}, patterns=("strided",), pattern_stride=5).pattern_stride == 5
    assert resolve({"a": grid, "b": other}).picture is None
    with pytest.raises(ValueError, match="'rotary_2d' follows the rows.*no image task: use 'rotary'"):
        resolve({}, positions="rotary_2d")
    with pytest.raises(ValueError, match="different ones.*5 x 5 cells.*--data.image-size"):
        resolve({"a": grid, "b": other}, positions="rotary_2d")
    with pytest.raises(ValueError, match="pattern_stride follows the rows.*give the stride"):
        resolve({}, patterns=("fixed",))
    with pytest.raises(ValueError, match="model.picture_width is 6, the run's pictures have 4: leave it out"):
        resolve({"a": grid}, positions="rotary_2d", picture_width=6)
