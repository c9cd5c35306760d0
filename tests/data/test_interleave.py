"""Interleaving: exact shares at every place, rows in order, tasks that join later."""

from collections import Counter

import pytest

from jgpt.data.interleave import Interleaving


@pytest.mark.parametrize("weights", [(1.0,), (2.0, 1.0), (7.5, 2.2, 2.0, 2.0), (1.0, 1000.0)])
@pytest.mark.parametrize("late", [0, 7, 100])
def test_rows_come_in_order_and_by_share(weights: tuple[float, ...], late: int):
    starts = [0] + [late] * (len(weights) - 1)
    places = [Interleaving(weights, starts)[k] for k in range(late + 500)]
    for task in range(len(weights)):
        assert [row for t, row in places if t == task] == list(range(sum(t == task for t, _ in places)))
    assert all(task == 0 for task, _ in places[:late])
    for end in range(late + 1, late + 500, 37):
        counts = Counter(task for task, _ in places[late:end])
        for task, weight in enumerate(weights):
            share = (end - late) * weight / sum(weights)
            assert abs(counts[task] - share) <= len(weights)  # rounding adds up over the nested splits


def test_a_place_does_not_depend_on_what_was_asked_before():
    mapping = Interleaving((3.0, 1.0), (0, 5))
    assert [mapping[k] for k in (99, 3, 50)] == [Interleaving((3.0, 1.0), (0, 5))[k] for k in (99, 3, 50)]
