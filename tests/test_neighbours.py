"""Nearest pictures: exact against whole numbers, whatever the blocks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jgpt import neighbours
from jgpt.neighbours import nearest


def brute_force(queries: np.ndarray, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return index and root mean square by whole numbers, the first one where several are as near."""
    differences = queries[:, None].astype(np.int64) - pictures[None].astype(np.int64)
    squares = (differences**2).reshape(len(queries), len(pictures), -1).sum(-1)
    return squares.argmin(1), np.sqrt(squares.min(1) / queries[0].size)


shapes = st.sampled_from([(3, 2), (2, 2, 3)])


@settings(max_examples=40, deadline=None)
@given(st.data(), shapes, st.integers(1, 5), st.integers(1, 9), st.sampled_from([1, 40, 1 << 22]))
def test_the_nearest_is_exact_in_any_blocks(
    data: st.DataObject, shape: tuple[int, ...], queries: int, pictures: int, block: int
) -> None:
    few = st.sampled_from([0, 1, 254, 255])  # ties are frequent
    asked = data.draw(hnp.arrays(np.uint8, (queries, *shape), elements=few))
    among = data.draw(hnp.arrays(np.uint8, (pictures, *shape), elements=few))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "BLOCK_NUMBERS", block)
        index, distance = nearest(asked, iter(among))
    expected = brute_force(asked, among)
    np.testing.assert_array_equal(index, expected[0])
    np.testing.assert_array_equal(distance, expected[1])


def test_a_difference_of_one_grey_level_in_a_large_picture_counts() -> None:
    white = np.full((64, 64, 3), 255, np.uint8)  # squares add up to 8e8, where float32 tells only 64 apart
    near, far = white.copy(), white.copy()
    near[0, 0, 0], far[0, 0, 0] = 254, 253
    index, distance = nearest([white], [far, near])
    assert index.tolist() == [1] and distance[0] ** 2 * white.size == pytest.approx(1)
    index, distance = nearest([white], [near, white, far])
    assert index.tolist() == [1] and distance.tolist() == [0]


def test_refusals_name_the_fix() -> None:
    picture = np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match="no picture was given.*at least one"):
        nearest([], [picture])
    with pytest.raises(ValueError, match="no picture to search among.*at least one"):
        nearest([picture], [])
    with pytest.raises(ValueError, match=r"\(2, 3\) is compared with one of \(2, 2\): resize"):
        nearest([picture], [np.zeros((2, 3), np.uint8)])
