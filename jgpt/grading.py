"""Scores of a written answer against the expected ones: exact match and F1 after SQuAD's normalisation.

Owns what counts as right (Rajpurkar et al. 2016, section 6.1). Pure text: imports no array library and no model.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

_ARTICLES: Final = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)
MEAN: Final = "_category_mean"  # ends the names of scores that count every category alike


def normalise(answer: str) -> str:
    """Return `answer` in lower case, without punctuation and articles, words parted by single spaces.

    "The Eiffel Tower." -> "eiffel tower". Punctuation is ASCII's and is dropped, not replaced by a space: "3.5" -> "35",
    "milk,football" -> "milkfootball". Unlike SQuAD's script, an answer of which nothing would be left ("the", "+") keeps
    its words and signs, else "+" and "-" would be the same answer.
    """
    lowered = answer.lower()
    words = _ARTICLES.sub(" ", lowered.translate(_PUNCTUATION)).split()
    return " ".join(words or lowered.split())


def exact_match(answer: str, references: Iterable[str]) -> float:
    """Return 1.0 where `answer` is one of `references` after normalisation, else 0.0."""
    return _best(_same, answer, references)


def f1(answer: str, references: Iterable[str]) -> float:
    """Return the harmonic mean of precision and recall of the normalised words, at the reference where it is largest.

    Worked example: "in the red house" against "red house on a hill": 2 words in common ("red", "house"), 3 given, 4
    expected; precision 2/3, recall 2/4, F1 4/7.
    """
    return _best(_overlap, answer, references)


def _best(score: Callable[[str, str], float], answer: str, references: Iterable[str]) -> float:
    given = normalise(answer)
    return max((score(given, normalise(reference)) for reference in references), default=0.0)


def _same(given: str, expected: str) -> float:
    return float(given == expected)


def _overlap(given: str, expected: str) -> float:
    words, wanted = given.split(), expected.split()
    common = (Counter(words) & Counter(wanted)).total()
    return 2 * common / (len(words) + len(wanted)) if common else float(given == expected)


def means(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each score over those of `values` that have it, in order of first appearance."""
    names = dict.fromkeys(name for value in values for name in value)
    out = {}
    for name in names:
        present = [value[name] for value in values if name in value]
        out[name] = sum(present) / len(present)
    return out


def by_category(values: Sequence[tuple[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Return category -> {"questions": number of them, score: mean}, categories in natural order ("qa2" before "qa10").

    Values without a category ("") are left out.
    """
    groups: dict[str, list[Mapping[str, float]]] = {}
    for category, value in values:
        if category:
            groups.setdefault(category, []).append(value)
    return {name: {"questions": len(groups[name]), **means(groups[name])} for name in sorted(groups, key=_natural)}


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key that orders numbers within names by value."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
