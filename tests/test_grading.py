"""Scores of answers: hand-computed cases, and an independent reference written after SQuAD's description."""

import string
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jgpt import grading


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("The Eiffel Tower.", "eiffel tower"),
        ("  an   Apple\ta day ", "apple day"),
        ("U.S.A.", "usa"),
        ("milk,football", "milkfootball"),
        ("theatre and anatomy", "theatre and anatomy"),  # articles are whole words
        ("«the» end", "« » end"),  # and end at any sign; SQuAD's script drops ASCII's signs alone
        ("the’s", "’s"),
        ("a–b the…", "–b …"),
        ("Émile's «thé»", "émiles «thé»"),
        ("82", "82"),
        ("", ""),
        ("The", "the"),  # nothing would be left: kept
        (" + ", "+"),
    ],
)
def test_answers_are_normalised(answer: str, normal: str):
    assert grading.normalise(answer) == normal


@pytest.mark.parametrize(
    ("answer", "references", "exact", "f1"),
    [
        ("Denver Broncos", ["Denver Broncos"], 1, 1),
        ("the Broncos", ["Denver Broncos"], 0, 2 / 3),
        ("in the red house", ["red house on a hill"], 0, 4 / 7),
        ("red red", ["red"], 0, 2 / 3),  # words count as often as they stand there
        ("blue", ["red", "the Blue!"], 1, 1),  # the best of the references
        ("blue sky", ["red", "blue", "a blue sea tonight"], 0, 2 / 3),
        ("", ["red"], 0, 0),
        ("+", ["-"], 0, 0),
        ("+", ["+"], 1, 1),
        ("red", [], 0, 0),
    ],
)
def test_exact_match_and_f1_by_hand(answer: str, references: list[str], exact: float, f1: float):
    assert grading.exact_match(answer, references) == exact
    assert grading.f1(answer, references) == pytest.approx(f1)


def squad_words(text: str) -> list[str]:
    """Return the words SQuAD compares, character by character and word by word."""
    kept = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return [word for word in kept.split() if word not in ("a", "an", "the")]


def squad_f1(answer: str, reference: str) -> float:
    given_words, wanted = squad_words(answer), squad_words(reference)
    left, common = list(wanted), 0
    for word in given_words:
        if word in left:
            left.remove(word)
            common += 1
    if common == 0:
        return 0.0
    precision, recall = common / len(given_words), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


WORDS = st.lists(st.sampled_from(["the", "a", "An", "red", "Red,", "house", "u.s.", "42", "naïve", "-"]), max_size=6)


@given(WORDS, st.lists(WORDS, min_size=1, max_size=3))
def test_equals_the_reference_wherever_words_are_left(answer: list[str], references: list[list[str]]):
    said, expected = " ".join(answer), [" ".join(reference) for reference in references]
    if not squad_words(said) or not all(squad_words(reference) for reference in expected):
        return
    matches = [squad_words(said) == squad_words(reference) for reference in expected]
    assert grading.exact_match(said, expected) == max(matches)
    assert grading.f1(said, expected) == pytest.approx(max(squad_f1(said, reference) for reference in expected))


def test_means_are_over_the_values_that_have_a_score():
    values = [{"exact_match": 1.0, "accuracy": 0.0}, {"exact_match": 0.0}, {"exact_match": 0.5, "accuracy": 1.0}]
    assert grading.means(values) == {"exact_match": 0.5, "accuracy": 0.5}
    assert grading.means([]) == {}


def test_categories_stand_in_natural_order_and_count_their_questions():
    values = [("qa10", {"f1": 1.0}), ("qa2", {"f1": 0.0}), ("", {"f1": 0.0}), ("qa10", {"f1": 0.0}), ("b", {"f1": 1.0})]
    table = grading.by_category(values)
    assert list(table) == ["b", "qa2", "qa10"]
    assert table["qa10"] == {"questions": 2, "f1": 0.5} and table["qa2"] == {"questions": 1, "f1": 0.0}


@pytest.mark.slow  # PyTorch is slow to import
def test_exact_match_and_f1_are_those_of_squads_own_script():
    """As torchmetrics has it; but an answer of articles or signs alone stays as it is here, and is nothing there."""
    metric = pytest.importorskip("torchmetrics.text").SQuAD()
    words = ["red", "The", "a", "house.", "Red", "on-hill", "U.S.", "émile", "82", "an"]
    random = Random(0)
    for _ in range(300):
        answer, *references = (" ".join(random.choices(words, k=random.randint(1, 4))) for _ in range(3))
        if not all(squad_words(text) for text in (answer, *references)):
            continue
        target = {"answers": {"text": references, "answer_start": [0, 0]}, "id": "q"}
        metric.reset()
        metric.update([{"prediction_text": answer, "id": "q"}], [target])
        official = {name: float(value) / 100 for name, value in metric.compute().items()}
        assert grading.exact_match(answer, references) == official["exact_match"]
        assert grading.f1(answer, references) == pytest.approx(official["f1"], abs=1e-6)
