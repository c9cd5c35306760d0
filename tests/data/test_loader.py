"""The loader: one order a seed, exact resuming, shards that partition a batch, every held-out target scored."""

import itertools
import json
from collections import Counter
from typing import Any

import numpy as np
import pytest

from jgpt.batch import PADDING_SEGMENT, Batch, Document
from jgpt.data.loader import eval_batches, train_batches
from jgpt.data.packing import PackedRows, pack

LENGTH = 4


def numbered(count: int, start: int = 0) -> PackedRows:
    """Return rows that each hold one document, whose first id is the row's number from `start`."""
    return pack([Document(np.full(LENGTH + 1, start + i, np.int32)) for i in range(count)], "whole", LENGTH)


ROWS = {"small": numbered(12), "large": numbered(50, start=100)}
WEIGHTS = {"small": 1.0, "large": 3.0}


def batches(rows: dict[str, PackedRows] = ROWS, weights: dict[str, float] = WEIGHTS, **options: Any) -> Any:
    return train_batches(rows, weights, **({"batch_size": 8, "seed": 0} | options))


def numbers(iterator: Any, count: int) -> list[list[int]]:
    """Return the numbers of the rows in each of the next batches."""
    return [batch.tokens_BS[:, 0].tolist() for batch in itertools.islice(iterator, count)]


@pytest.mark.parametrize("done", [0, 1, 7, 30])
@pytest.mark.parametrize("prefetch", [1, 8])
def test_resuming_continues_exactly(done: int, prefetch: int):
    first = batches(prefetch=prefetch)
    whole = numbers(first, done)
    state = json.loads(json.dumps(first.get_state()))  # as a checkpoint keeps it
    expected = numbers(first, 20)  # batches made ahead before get_state must not be skipped
    second = batches(prefetch=prefetch)
    second.set_state(state)
    assert numbers(second, 20) == expected
    assert numbers(batches(prefetch=prefetch), done + 20) == whole + expected


def test_resuming_also_goes_back():
    iterator = batches()
    state = iterator.get_state()
    expected = numbers(iterator, 9)
    iterator.set_state(state)
    assert numbers(iterator, 9) == expected


def test_order_depends_on_the_seed_alone():
    assert numbers(batches(), 10) == numbers(batches(prefetch=1), 10)
    assert numbers(batches(), 10) != numbers(batches(seed=1), 10)


@pytest.mark.parametrize("count", [2, 4])
def test_processes_partition_every_batch(count: int):
    shards = [numbers(batches(part=i, of_parts=count), 15) for i in range(count)]
    for whole, parts in zip(numbers(batches(), 15), zip(*shards, strict=True), strict=True):
        assert all(len(part) == 8 // count for part in parts)
        assert Counter(itertools.chain(*parts)) == Counter(whole)


def test_batch_that_processes_cannot_share_is_refused():
    with pytest.raises(
        ValueError, match="train.batch_size 8 is not divisible by the 3 parts that processes read: use a multiple"
    ):
        batches(of_parts=3)


def test_every_row_comes_once_an_epoch_in_a_new_order():
    flat = list(itertools.chain(*numbers(batches({"small": ROWS["small"]}, {"small": 1.0}), 9)))  # 72 rows, six epochs
    epochs = [flat[i : i + 12] for i in range(0, 72, 12)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_tasks_share_the_rows_by_weight_and_each_is_seen_whole_first():
    flat = list(itertools.chain(*numbers(batches(), 100)))
    small = [number for number in flat if number < 100]
    large = [number for number in flat if number >= 100]
    assert abs(len(small) - len(flat) / 4) <= 1  # the interleaving is exact, not drawn
    assert sorted(small[:12]) == list(range(12)) and sorted(large[:50]) == list(range(100, 150))
    window = flat[:40]
    assert abs(sum(number < 100 for number in window) - 10) <= 1  # and even from the start


def test_fewer_rows_than_a_batch_are_enough():
    assert Counter(numbers(batches({"one": numbered(3)}, {"one": 1.0}), 1)[0]) <= Counter({0: 3, 1: 3, 2: 3})


def scored(made: list[Batch]) -> Counter:
    return Counter(itertools.chain(*(batch.tokens_BS[batch.weights_BS > 0].tolist() for batch in made)))


@pytest.mark.parametrize("rows", [1, 7, 8, 12])
@pytest.mark.parametrize("processes", [1, 2])
def test_evaluation_scores_every_target_once(rows: int, processes: int):
    packed = numbered(rows, start=1)
    made = [list(eval_batches(packed, batch_size=4, part=i, of_parts=processes)) for i in range(processes)]
    assert {len(own) for own in made} == {-(-rows // 4)}  # every process takes part in every batch
    flat = list(itertools.chain(*made))
    assert all(batch.tokens_BS.shape == (4 // processes, LENGTH) for batch in flat)
    assert scored(flat) == {number: LENGTH for number in range(1, rows + 1)}
    filled = sum(int((~batch.segments_BS.any(-1)).sum()) for batch in flat)
    assert filled == -rows % 4


def test_evaluation_refuses_a_batch_that_processes_cannot_share():
    with pytest.raises(ValueError, match="eval.batch_size 5 is not divisible by the 2 parts that processes read"):
        list(eval_batches(numbered(10), batch_size=5, of_parts=2))


def test_task_that_starts_later_joins_at_its_step_and_no_row_is_lost_or_repeated():
    flat = list(itertools.chain(*numbers(batches(start_steps={"small": 0, "large": 1}), 9)))  # 8 rows a step
    assert all(number < 100 for number in flat[:8])
    small = [number for number in flat if number < 100]
    large = [number for number in flat if number >= 100]
    assert sorted(small[:12]) == list(range(12)) and sorted(large[:48]) == sorted(set(large[:48]))
    assert abs(len(large) - 0.75 * 64) <= 1


def test_tasks_are_shuffled_apart_from_each_other_and_from_other_seeds():
    twins = {"one": numbered(50), "two": numbered(50)}
    orders = []
    for seed in (0, 1):
        flat = list(itertools.chain(*numbers(batches(twins, {"one": 1.0, "two": 1.0}, seed=seed), 10)))
        orders += [tuple(flat[0::2]), tuple(flat[1::2])]
    assert len(set(orders)) == 4


def test_text_is_cut_elsewhere_every_epoch_and_still_seen_whole():
    text = pack([Document(np.arange(1, 82, dtype=np.int32))], "stream", LENGTH)  # 80 targets, 20 rows
    made = list(itertools.islice(batches({"text": text}, {"text": 1.0}, batch_size=20), 4))
    for batch in made:
        assert sorted(batch.targets_BS[batch.segments_BS != PADDING_SEGMENT].tolist()) == list(range(2, 82))
    assert len({int(batch.tokens_BS[:, 0].min()) + 100 * int(batch.tokens_BS[:, 0].max()) for batch in made}) > 1


def test_documents_vary_by_epoch_and_a_resumed_run_sees_the_same():
    documents = [Document(np.full(LENGTH + 1, i, np.int32)) for i in range(6)]

    def refresh(index: int, epoch: int) -> Document:
        return Document(np.full(LENGTH + 1, 100 * epoch + index, np.int32))

    rows = {"pictures": pack(documents, "whole", LENGTH, refresh=refresh)}
    weights = {"pictures": 1.0}
    iterator = batches(rows, weights, batch_size=3)
    seen = numbers(iterator, 4)
    for epoch in (0, 1):
        both = sorted(seen[2 * epoch] + seen[2 * epoch + 1])
        assert both == [100 * epoch + index for index in range(6)]
    state = json.loads(json.dumps(iterator.get_state()))
    expected = numbers(iterator, 5)
    again = batches(rows, weights, batch_size=3)
    again.set_state(state)
    assert numbers(again, 5) == expected
    halves = [numbers(batches(rows, weights, batch_size=6, part=i, of_parts=2), 3) for i in (0, 1)]
    whole = numbers(batches(rows, weights, batch_size=6), 3)
    assert [sorted(a + b) for a, b in zip(*halves, strict=True)] == [sorted(batch) for batch in whole]
