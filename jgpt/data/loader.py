"""Batches from packed rows: an endless seeded mixture for training, one exact pass for evaluation.

Owns the order of rows and its state; refuses devices (each process makes the numpy rows that its devices will hold).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import grain.python as grain
import numpy as np

from jgpt.batch import Batch, padding
from jgpt.data.interleave import Interleaving
from jgpt.data.packing import PackedRows


class _Place(NamedTuple):
    """A row that is still to be cut: `row` of `rows`, all cuts `shift` pairs further on, as `epoch` sees its documents."""

    rows: PackedRows
    row: int
    shift: int = 0
    epoch: int | None = None


def _cut(places: Sequence[_Place]) -> Batch:
    """Return the rows at one place or more, all of one length, as a batch [B, S]."""
    return _write(places, padding(len(places), places[0].rows.length))


def _write(places: Sequence[_Place], into: Batch) -> Batch:
    """Write rows into a batch [B, S] of padding, from its first row on, and return it."""
    for number, (rows, row, shift, epoch) in enumerate(places):
        rows.write(Batch(*(array_BS[number] for array_BS in into)), row, shift, epoch)
    return into


def train_batches(
    rows: Mapping[str, PackedRows],
    weights: Mapping[str, float],
    *,
    batch_size: int,
    seed: int,
    start_steps: Mapping[str, int] | None = None,
    part: int = 0,
    of_parts: int = 1,
    prefetch: int = 4,
) -> grain.DatasetIterator:
    """Return an endless iterator of batches, whose `get_state` and `set_state` name the exact position.

    Each task is shuffled anew every epoch and seen whole before anything comes again; text is cut at other places every
    epoch. Tasks are interleaved by weight.

    Args:
        rows: packed rows of each task.
        weights: share of each task in the rows.
        batch_size: rows a step over all parts.
        seed: of the order.
        start_steps: steps done before each task joins, at least one 0; None = all join at once.
        part: of every batch that is read: every of_parts-th row, beginning with the part's own index.
        of_parts: into which processes split a batch; those that compute on the same rows read the same part.
        prefetch: batches made ahead by a thread.

    Raises:
        ValueError: the rows of a batch cannot be split evenly.
    """
    _check("train.batch_size", batch_size, of_parts)
    seeds = np.random.SeedSequence(seed).generate_state(len(rows))
    tasks = [
        grain.MapDataset.range(len(task_rows))
        .seed(int(task_seed))
        .shuffle()
        .repeat(None)
        .map_with_index(_Places(task_rows, int(task_seed)))
        for task_rows, task_seed in zip(rows.values(), seeds, strict=True)
    ]
    starts = [batch_size * (start_steps or {}).get(name, 0) for name in rows]
    mixed = grain.MapDataset.select_from_datasets(tasks, Interleaving([weights[name] for name in rows], starts))
    mine = mixed[part::of_parts] if of_parts > 1 else mixed
    batches = mine.batch(batch_size // of_parts, drop_remainder=True, batch_fn=_cut)
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=prefetch)))


class _Places(grain.MapWithIndexTransform):
    """Says where rows are cut in their epoch.

    Text is cut at other places in each, so that no token always stands at the same place of a row; documents that vary
    (`PackedRows.refresh`) are made anew.
    """

    def __init__(self, rows: PackedRows, seed: int) -> None:
        self._rows, self._seed = rows, seed
        self._newest = (0, 0)  # epoch, its shift

    def map_with_index(self, index: int, element: int) -> _Place:
        """Return the place of row `element` of the epoch that `index` lies in."""
        epoch = index // len(self._rows)
        at, shift = self._newest
        if at != epoch:
            shift = int(np.random.default_rng((self._seed, epoch)).integers(self._rows.length)) if epoch else 0
            self._newest = epoch, shift  # both at once: other threads may ask
        return _Place(self._rows, element, shift, epoch)


def eval_batches(rows: PackedRows, *, batch_size: int, part: int = 0, of_parts: int = 1) -> Iterator[Batch]:
    """Yield every row exactly once; the last batch is filled up with padding rows, whose weights are zero.

    Every part yields the same number of batches of batch_size / of_parts rows; see `train_batches`.

    Raises:
        ValueError: the rows of a batch cannot be split evenly.
    """
    _check("eval.batch_size", batch_size, of_parts)
    local = batch_size // of_parts
    for begin in range(0, len(rows), batch_size):
        own = range(begin + part * local, begin + (part + 1) * local)
        yield _write([_Place(rows, i) for i in own if i < len(rows)], padding(local, rows.length))


def _check(name: str, batch_size: int, of_parts: int) -> None:
    if batch_size % of_parts:
        raise ValueError(
            f"{name} {batch_size} is not divisible by the {of_parts} parts that processes read: use a multiple."
        )
