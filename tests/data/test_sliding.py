"""Sliding windows: every target once, with the past that is promised, and the plain rows where documents are short."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jgpt.batch import Document
from jgpt.data.packing import WholeRows
from jgpt.data.sliding import SlidingRows


def documents(sizes: list[int], weighted: bool = False) -> list[Document]:
    """Return documents whose ids tell which token of which document each is: 1000 x document + place."""
    out = []
    for index, size in enumerate(sizes):
        tokens = 1000 * (index + 1) + np.arange(size, dtype=np.int32)
        out.append(Document(tokens, (np.arange(size) % 3 > 0).astype(np.float32) if weighted else None))
    return out


def scored(rows: SlidingRows) -> dict[int, tuple[float, int]]:
    """Return target -> (weight, earlier tokens of its document in the row), of every target that carries weight."""
    found: dict[int, tuple[float, int]] = {}
    for row in rows:
        for target, weight, position, token in zip(
            row.targets_BS, row.weights_BS, row.positions_BS, row.tokens_BS, strict=True
        ):
            if weight:
                assert int(target) not in found, "a target carries weight twice"
                assert token == target - 1
                found[int(target)] = (float(weight), int(position) + 1)
    return found


SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=5)


@given(SIZES, st.integers(1, 20), st.data(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_every_target_once_with_the_past_it_was_promised(sizes: list[int], length: int, data: st.DataObject, weighted):
    stride = data.draw(st.integers(1, length))
    docs = documents(sizes, weighted)
    found = scored(SlidingRows(docs, length, stride))
    expected = {}
    for document in docs:
        weights = np.ones(len(document.tokens)) if document.weights is None else document.weights
        for place in range(1, len(document.tokens)):
            if weights[place]:
                expected[int(document.tokens[place])] = place
    assert found.keys() == expected.keys()
    for target, place in expected.items():
        past = found[target][1]
        assert past == place if place <= length else past > length - stride
        assert past <= length


def test_the_example_of_the_docstring():
    rows = list(SlidingRows(documents([8]), 4, 2))
    assert [row.tokens_BS.tolist() for row in rows] == [
        [1000, 1001, 1002, 1003],
        [1002, 1003, 1004, 1005],
        [1003, 1004, 1005, 1006],
    ]
    assert [row.weights_BS.tolist() for row in rows] == [[1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]]


def test_short_documents_share_the_rows_of_training():
    docs = documents([3, 9, 2, 5, 4], weighted=True)
    for got, wanted in zip(SlidingRows(docs, 8, 3), WholeRows(docs, 8), strict=True):
        for a, b in zip(got, wanted, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_whole_stride_cuts_without_overlap():
    rows = list(SlidingRows(documents([13]), 4, 4))
    assert len(rows) == 3 and sum(float(row.weights_BS.sum()) for row in rows) == 12


def fake_nats(rows: SlidingRows) -> float:
    """Return what a model loses that predicts better the more it has seen: 1 / tokens seen."""
    return sum(float((row.weights_BS / (row.positions_BS + 1.0)).sum()) for row in rows)


@pytest.mark.parametrize("stride", [1, 4, 8])
def test_more_past_never_costs_a_model_that_uses_it(stride: int):
    docs = documents([40, 5, 23])
    plain, sliding = (fake_nats(SlidingRows(docs, 8, s)) for s in (8, stride))
    assert sliding <= plain + 1e-6
    assert stride == 8 or sliding < plain


@pytest.mark.parametrize("stride", [0, 9])
def test_a_stride_out_of_range_is_refused(stride: int):
    with pytest.raises(ValueError, match=f"eval.stride is {stride}: windows of model.context_length 8.*1 to 8"):
        SlidingRows(documents([4]), 8, stride)
