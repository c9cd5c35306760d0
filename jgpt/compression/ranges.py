"""The range coder: symbols and their distributions to bytes, and back.

Owns how distributions become integers: `constriction` (Bamler 2022) scales each to 2^24 parts and gives every symbol at
least one, identically on both sides. Refuses to know models: it takes rows of probabilities.
"""

from typing import Any, Final

import numpy as np
from jaxtyping import Float, Int

from jgpt.check import require

# Without "perfect" quantisation one division a symbol is enough; both sides must say the same.
PRECISION_BITS: Final = 24
FLUSH_BITS: Final = 64  # at most, to end a stream: two words


def _family() -> Any:
    import constriction

    return constriction.stream.model.Categorical(perfect=False)


class RangeWriter:
    """Collects symbols; `to_bytes` returns their code, which is within a few bits of the sum of -log2 p."""

    def __init__(self) -> None:
        import constriction

        self._coder, self._family = constriction.stream.queue.RangeEncoder(), _family()

    def put(self, symbols: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, "n v"]) -> None:
        """Append one symbol a row.

        Raises:
            ValueError: a symbol is none of the v, or a row is no distribution.
        """
        _check(probabilities)
        low, high = int(symbols.min(initial=0)), int(symbols.max(initial=0))
        require(
            0 <= low and high < probabilities.shape[1],
            f"symbols run from {low} to {high}: the distributions know 0 to {probabilities.shape[1] - 1}.",
        )
        self._coder.encode(
            np.ascontiguousarray(symbols, np.int32), self._family, np.ascontiguousarray(probabilities, np.float64)
        )

    def to_bytes(self) -> bytes:
        """Return the code of everything so far: words of four bytes, little-endian."""
        return self._coder.get_compressed().astype("<u4").tobytes()


class RangeReader:
    """Reads what a `RangeWriter` wrote, given the same distributions in the same order."""

    def __init__(self, code: bytes) -> None:
        """Begin at the first symbol. Raises ValueError where `code` is not made of whole words."""
        import constriction

        require(len(code) % 4 == 0, f"the code has {len(code)} bytes: it is made of words of 4, so it is not whole.")
        words = np.frombuffer(code, "<u4").astype(np.uint32)
        self._coder, self._family = constriction.stream.queue.RangeDecoder(words), _family()

    def take(self, probabilities: Float[np.ndarray, "n v"]) -> Int[np.ndarray, " n"]:
        """Return the next symbols, one a row.

        Raises:
            ValueError: a row is no distribution, or the code was written with other distributions.
        """
        _check(probabilities)
        try:
            return self._coder.decode(self._family, np.ascontiguousarray(probabilities, np.float64))
        except AssertionError as error:  # the library's word for an impossible state
            raise ValueError(f"the code does not fit these distributions: {error}.") from None


def uniform(rows: int, symbols: int) -> Float[np.ndarray, "n v"]:
    """Return `rows` flat distributions over `symbols` symbols."""
    return np.full((rows, symbols), 1.0 / symbols)


def _check(probabilities: np.ndarray) -> None:
    require(
        bool(np.isfinite(probabilities).all() and (probabilities >= 0).all() and (probabilities.sum(1) > 0).all()),
        "a row of probabilities is no distribution: all must be finite and not negative, and some positive.",
    )
    require(
        2 <= probabilities.shape[1] < 2**PRECISION_BITS,
        f"a distribution over {probabilities.shape[1]} symbols cannot be coded: from 2 to {2**PRECISION_BITS - 1} can.",
    )
