"""Which examples are held out where a source brings no split of its own.

Owns the two rules: a seeded share of separate documents, and the tail of one long text. Refuses the examples
themselves, so that the same rules serve texts, tokens, pictures and questions.
"""

from fractions import Fraction

import numpy as np

from jgpt.check import require


def hold_out(count: int, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Return the training and the held-out indices of `count` examples, each ascending.

    Held out are round(count * fraction) examples, at least one, and at least one is left to train on.

    Args:
        count: number of examples.
        fraction: share to hold out, strictly between 0 and 1.
        seed: the same seed holds out the same examples.

    Raises:
        ValueError: fewer than two examples, or a share outside (0, 1).
    """
    _check(count, fraction)
    held = min(max(round(count * fraction), 1), count - 1)
    order = np.random.default_rng(seed).permutation(count)
    return sorted(order[held:].tolist()), sorted(order[:held].tolist())


def tail_start(count: int, fraction: float) -> int:
    """Return where the held-out tail of `count` characters, tokens or examples begins: floor(count * (1 - fraction)).

    The share is taken as the decimal the user wrote. In floating point 10 * (1 - 0.9) is below 1, and would move the
    border of the split by one.

    Raises:
        ValueError: fewer than two elements, or a share outside (0, 1).
    """
    _check(count, fraction)
    return min(max(int(count * (1 - Fraction(str(fraction)))), 1), count - 1)


def _check(count: int, fraction: float) -> None:
    """Raise ValueError where there is nothing to split or no share to split by."""
    require(0 < fraction < 1, f"validation_fraction is {fraction}: must lie strictly between 0 and 1.")
    require(count >= 2, f"{count} example(s) cannot be split: one is needed to train on and one to score on.")
