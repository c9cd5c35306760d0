"""Packing: every target once and with its own weight, no document in another, and padding that trains nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jgpt.batch import PADDING_SEGMENT, Batch, Document, require_weight
from jgpt.data.packing import PACKINGS, PackedRows, pack

APART = 1000  # between the first ids of two documents, so that every id says where it comes from
OFFSET = 7
LOSS_WEIGHT = 0.5


def make(sizes: list[int]) -> list[Document]:
    """Return documents of distinct ids; every third trains all targets, the rest have distinct weights."""
    documents = []
    for index, size in enumerate(sizes):
        tokens = np.arange(size, dtype=np.int32) + index * APART
        weights = None if index % 3 == 0 else (tokens + 1).astype(np.float32)
        documents.append(Document(tokens, weights, offset=OFFSET if index % 2 else 0))
    return documents


def pieces(rows: PackedRows) -> list[tuple[int, Batch]]:
    """Return (row, the part of it in one segment) for every segment of every row."""
    found = []
    for number in range(len(rows)):
        row = rows[number]
        for segment in np.unique(row.segments_BS[row.segments_BS != PADDING_SEGMENT]):
            here = row.segments_BS == segment
            found.append((number, Batch(*(array[here] for array in row))))
    return found


documents_and_length = st.tuples(
    st.lists(st.integers(1, 20), min_size=1, max_size=12), st.integers(19, 40)
) | st.tuples(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(59, 70))


@pytest.mark.parametrize("packing", PACKINGS)
@given(documents_and_length)
@settings(deadline=None, max_examples=60)
def test_every_target_stands_once_behind_its_own_input(packing: str, drawn: tuple[list[int], int]):
    sizes, length = drawn
    documents = make(sizes)
    rows = pack(documents, packing, length, LOSS_WEIGHT)
    seen = []
    for _, part in pieces(rows):
        index = int(part.tokens_BS[0]) // APART
        document = documents[index]
        np.testing.assert_array_equal(part.targets_BS, part.tokens_BS + 1)  # the next id of the same document
        assert set(part.tokens_BS // APART) == {index}
        np.testing.assert_array_equal(part.positions_BS, np.arange(len(part.positions_BS)))
        at = part.targets_BS - document.offset - index * APART
        weights = np.ones(len(at)) if document.weights is None else document.weights[at]
        np.testing.assert_array_equal(part.weights_BS, weights * LOSS_WEIGHT)
        seen += part.targets_BS.tolist()
    expected = [int(token) + document.offset for document in documents for token in document.tokens[1:]]
    assert sorted(seen) == sorted(expected)


@pytest.mark.parametrize("packing", PACKINGS)
@given(documents_and_length)
@settings(deadline=None, max_examples=30)
def test_rows_are_filled_from_the_front_and_padding_is_empty(packing: str, drawn: tuple[list[int], int]):
    sizes, length = drawn
    rows = pack(make(sizes), packing, length)
    used = 0
    for row in rows:
        assert [array.shape for array in row] == [(length,)] * 5
        assert [array.dtype for array in row] == [np.int32, np.int32, np.float32, np.int32, np.int32]
        padding = row.segments_BS == PADDING_SEGMENT
        assert np.all(np.diff(padding.astype(int)) >= 0)  # behind the documents, never between them
        assert np.all(np.diff(row.segments_BS[~padding]) >= 0)
        assert not any(array[padding].any() for array in row)
        used += int((~padding).sum())
    assert rows.fill() == pytest.approx(used / max(len(rows) * length, 1))


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(1, 20))
@settings(deadline=None, max_examples=60)
def test_stream_wastes_nothing_but_the_end_of_the_last_row(sizes: list[int], length: int):
    rows = pack(make(sizes), "stream", length)
    assert len(rows) == -(-sum(size - 1 for size in sizes) // length)
    assert all((row.segments_BS != PADDING_SEGMENT).all() for row in list(rows)[:-1])


@given(documents_and_length)
@settings(deadline=None, max_examples=60)
def test_whole_documents_stay_whole(drawn: tuple[list[int], int]):
    sizes, length = drawn
    parts = pieces(pack(make(sizes), "whole", length))
    assert sorted(len(part.tokens_BS) + 1 for _, part in parts) == sorted(size for size in sizes if size > 1)


@given(st.lists(st.integers(2, 60), min_size=1, max_size=8), st.integers(1, 20), st.integers(0, 100))
@settings(deadline=None, max_examples=60)
def test_shifted_stream_holds_the_same_targets(sizes: list[int], length: int, shift: int):
    rows = pack(make(sizes), "stream", length)
    shifted = [rows.at(number, shift) for number in range(len(rows))]

    def trained(made: list[Batch]) -> list[int]:
        return sorted(np.concatenate([row.targets_BS[row.segments_BS != PADDING_SEGMENT] for row in made]).tolist())

    assert trained(shifted) == trained(list(rows))
    first = rows.at(0, shift % length)
    if sizes[0] > shift % length + 1:
        assert first.tokens_BS[0] == shift % length  # the first document's ids count from 0


def test_whole_packing_fills_rows():
    sizes = [int(n) for n in np.random.default_rng(0).integers(2, 30, 500)]
    rows = pack(make(sizes), "whole", 64)
    assert rows.fill() > 0.98  # best fit of many small documents; one document a row would fill a quarter


def test_document_that_fits_exactly_is_taken_and_one_more_token_is_refused():
    assert len(pack(make([11]), "whole", 10)) == 1
    with pytest.raises(ValueError) as caught:
        pack(make([3, 12, 5]), "whole", 10)
    for word in ("example 1", "12 tokens", "a row holds 11", "raise model.context_length", "shorten"):
        assert word in str(caught.value)


@pytest.mark.parametrize("dtype", ["<u2", np.uint8, np.int8, np.int64])
def test_offset_does_not_wrap_around_in_narrow_ids(dtype: str | type):
    top = np.iinfo(dtype).max if np.dtype(dtype).itemsize < 8 else 70_000
    rows = pack([Document(np.array([top, top - 1, top], dtype), None, offset=9)], "stream", 2)
    np.testing.assert_array_equal(rows[0].targets_BS, [top - 1 + 9, top + 9])
    np.testing.assert_array_equal(rows[0].tokens_BS, [top + 9, top - 1 + 9])


def test_batch_without_weight_is_refused():
    batch = Batch(*(np.stack([array]) for array in pack(make([1, 5]), "stream", 8)[0]))
    assert require_weight(batch) is require_weight(batch, 4) is batch
    with pytest.raises(ValueError, match="a row has 4 targets that carry weight, and the step was compiled for 3"):
        require_weight(batch, 3)
    empty = batch._replace(weights_BS=np.zeros_like(batch.weights_BS))
    with pytest.raises(ValueError, match="all 8 loss weights.*rows 1, positions 8.*loss_weight"):
        require_weight(empty)


def test_documents_that_vary_are_made_anew_for_an_epoch_and_may_be_shorter():
    documents = [Document(np.full(4, i, np.int32)) for i in range(3)]
    rows = pack(
        documents, "whole", 9, refresh=lambda index, epoch: Document(np.full(4 - epoch % 2, 10 * index + epoch))
    )
    np.testing.assert_array_equal(rows[0].tokens_BS, pack(documents, "whole", 9)[0].tokens_BS)  # as they lie
    even, odd = rows.at(0, 0, epoch=2), rows.at(0, 0, epoch=1)
    assert even.tokens_BS.tolist() == [2, 2, 2, 12, 12, 12, 22, 22, 22]
    assert odd.tokens_BS.tolist() == [1, 1, 11, 11, 21, 21, 0, 0, 0]
    assert odd.segments_BS.tolist() == [1, 1, 2, 2, 3, 3, 0, 0, 0] and odd.weights_BS.tolist() == [1.0] * 6 + [0.0] * 3
    assert odd.positions_BS.tolist() == [0, 1, 0, 1, 0, 1, 0, 0, 0]


def test_documents_may_not_grow_nor_vary_where_they_are_cut():
    documents = [Document(np.arange(4))]
    rows = pack(documents, "whole", 9, refresh=lambda index, epoch: Document(np.arange(5)))
    with pytest.raises(ValueError, match="document 0 has 5 tokens in epoch 0 and 4 as it lies"):
        rows.at(0, 0, epoch=0)
    with pytest.raises(ValueError, match="pack them whole"):
        pack(documents, "stream", 2, refresh=lambda index, epoch: documents[0])


@pytest.mark.parametrize("packing", PACKINGS)
@given(documents_and_length, st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_no_row_holds_more_targets_than_are_promised(packing: str, drawn: tuple[list[int], int], seed: int):
    sizes, length = drawn
    if sum(sizes) == len(sizes):
        return  # no targets, no rows
    rng = np.random.default_rng(seed)
    weights = [rng.choice([0.0, 0.5, 1.0], size).astype(np.float32) for size in sizes]
    documents = [
        document._replace(weights=None if of.sum() == 0 else of)
        for document, of in zip(make(sizes), weights, strict=True)
    ]
    rows = pack(documents, packing, length, loss_weight=0.5)
    shifts = range(length) if packing == "stream" else [0]
    most = max(np.count_nonzero(rows.at(row, shift).weights_BS) for row in range(len(rows)) for shift in shifts)
    assert most <= rows.max_targets() <= length
    if packing == "whole":
        assert most == rows.max_targets()
        assert pack(documents, "whole", length, refresh=lambda index, epoch: documents[index]).max_targets() == length


@pytest.mark.parametrize("packing", PACKINGS)
@given(documents_and_length)
@settings(deadline=None, max_examples=60)
def test_no_row_holds_more_documents_than_are_promised(packing: str, drawn: tuple[list[int], int]):
    sizes, length = drawn
    if sum(sizes) == len(sizes):
        return  # no targets, no rows
    rows = pack(make(sizes), packing, length)
    shifts = range(length) if packing == "stream" else [0]
    most = max(int(rows.at(row, shift).segments_BS.max()) for row in range(len(rows)) for shift in shifts)
    assert most <= rows.max_documents()
    if any(size == 1 for size in sizes):
        return  # documents without a target may stand where two meet, or not
    if packing == "stream":  # a full row may begin anywhere on the ring, though in one this short not all do
        ring = np.concatenate([np.arange(size - 1) == 0 for size in sizes])
        span = min(length, len(ring))
        most = max(1 + int(np.roll(ring, -begin)[1:span].sum()) for begin in range(len(ring)))
    assert rows.max_documents() == most
