import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jgpt.batch import Document
from jgpt.compression.lanes import LANE_TOKENS, MAX_LANES, fill_text, picture_lanes, text_lanes, text_of, text_starts
from jgpt.data.packing import pack


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9000), st.sampled_from([29, 64, 201, 1024]))
def test_lanes_hold_the_rows_of_training(pairs, length):
    tokens = np.random.default_rng(pairs).integers(0, 300, pairs + 1).astype(np.int32)
    width, first, steps = text_starts(pairs, length)
    assert width <= MAX_LANES and len(first) <= width and (width == 1 or pairs >= width * LANE_TOKENS)
    lanes = fill_text(text_lanes(pairs, length, tokens[first]), tokens)
    assert (text_of(lanes) == tokens[1:]).all()
    # the inputs, row by row, are those that packing cuts
    coded = lanes.coded_BN
    got = np.stack([lanes.tokens_BM[:, :-1][coded], np.broadcast_to(lanes.positions_N, coded.shape)[coded]])
    rows = list(pack([Document(tokens)], "stream", length))
    filled = [row.segments_BS > 0 for row in rows]
    want = [
        np.concatenate([getattr(row, field)[at] for row, at in zip(rows, filled, strict=True)])
        for field in ("tokens_BS", "positions_BS")
    ]
    assert (got == np.stack(want)).all()


def test_pictures_go_one_a_lane_and_their_captions_are_given():
    documents = [
        Document(np.array([5, 1, 10 + i, 11, 6], np.int32), np.array([0, 0, 1, 1, 1], np.float32))
        for i in range(MAX_LANES + 3)
    ]
    groups = list(picture_lanes(documents))
    assert [part.stop - part.start for part, _ in groups] == [MAX_LANES, 3]
    for part, lanes in groups:
        assert lanes.coded_BN.shape == (MAX_LANES, 4)  # one shape for all
        live = part.stop - part.start
        assert lanes.coded_BN[:live].tolist() == [[False, True, True, True]] * live
        assert not lanes.coded_BN[live:].any()
        assert (lanes.tokens_BM[:live, 2] == 10 + np.arange(part.start, part.stop)).all()


@pytest.mark.parametrize(("count", "lanes"), [(1, 1), (2, 2), (3, 4), (33, 32)])
def test_few_pictures_take_few_lanes(count, lanes):
    document = Document(np.zeros(3, np.int32))
    assert next(picture_lanes([document] * count))[1].tokens_BM.shape[0] == lanes
