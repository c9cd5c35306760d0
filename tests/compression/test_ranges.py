import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jgpt.compression.ranges import FLUSH_BITS, PRECISION_BITS, RangeReader, RangeWriter, uniform


@st.composite
def messages(draw):
    """Rows of distributions, from flat to extreme, zeros among them, and a symbol for each."""
    seed = draw(st.integers(0, 2**32 - 1))
    rows, symbols = draw(st.integers(1, 80)), draw(st.integers(2, 300))
    sharpness = draw(st.sampled_from([0.0, 1.0, 10.0, 100.0, 700.0]))
    random = np.random.default_rng(seed)
    logits = random.normal(size=(rows, symbols)) * sharpness
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    likely = draw(st.booleans())
    chosen = [random.choice(symbols, p=p) for p in probabilities] if likely else random.integers(0, symbols, rows)
    return np.array(chosen, np.int32), probabilities


@settings(max_examples=60, deadline=None)
@given(messages(), st.integers(1, 7))
def test_what_was_put_is_taken_and_takes_no_more_bits_than_it_must(message, at_once):
    symbols, probabilities = message
    writer = RangeWriter()
    for i in range(0, len(symbols), at_once):
        writer.put(symbols[i : i + at_once], probabilities[i : i + at_once])
    code = writer.to_bytes()
    reader = RangeReader(code)
    # the reader may take them in other portions than they were put
    back = np.concatenate([reader.take(row[None]) for row in probabilities])
    assert (back == symbols).all()
    smallest = 2.0**-PRECISION_BITS
    ideal = -np.log2(np.maximum(probabilities[np.arange(len(symbols)), symbols], smallest)).sum()
    share = probabilities.shape[1] * smallest  # what the least part for every symbol takes from the others
    assert 8 * len(code) <= ideal + FLUSH_BITS + len(symbols) * (0.01 + 2 * share)
    assert 8 * len(code) >= ideal - 1 - len(symbols) * 0.01 - FLUSH_BITS / 2


def test_certain_symbols_cost_nothing():
    writer = RangeWriter()
    sure = np.zeros((5000, 4))
    sure[:, 2] = 1.0
    writer.put(np.full(5000, 2, np.int32), sure)
    assert 8 * len(writer.to_bytes()) <= FLUSH_BITS


def test_an_impossible_symbol_can_still_be_coded():
    sure = np.array([[1.0, 0.0, 0.0]] * 3)
    writer = RangeWriter()
    writer.put(np.array([2, 0, 1], np.int32), sure)
    assert RangeReader(writer.to_bytes()).take(sure).tolist() == [2, 0, 1]


def test_other_distributions_read_other_symbols():
    random = np.random.default_rng(0)
    symbols = random.integers(0, 8, 200).astype(np.int32)
    writer = RangeWriter()
    writer.put(symbols, uniform(200, 8))
    wrong = random.dirichlet(np.ones(8), 200)
    assert (RangeReader(writer.to_bytes()).take(wrong) != symbols).any()


@pytest.mark.parametrize(
    ("symbols", "probabilities", "message"),
    [
        ([3], [[0.5, 0.5]], "from 0 to 3"),
        ([-1], [[0.5, 0.5]], "from -1 to 0"),
        ([0], [[np.nan, 1.0]], "no distribution"),
        ([0], [[-0.1, 1.0]], "no distribution"),
        ([0], [[0.0, 0.0]], "no distribution"),
        ([0], [[1.0]], "1 symbols"),
    ],
)
def test_what_cannot_be_coded_is_refused(symbols, probabilities, message):
    with pytest.raises(ValueError, match=message):
        RangeWriter().put(np.array(symbols, np.int32), np.array(probabilities))


def test_a_code_of_broken_words_is_refused():
    with pytest.raises(ValueError, match="5 bytes"):
        RangeReader(b"12345")
