"""The rules of packed rows, checked on real batches.

Owns each rule with its name and what a breach looks like; refuses models (`leaks` asks those). NumPy alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from jgpt.batch import PADDING_SEGMENT, Batch
from jgpt.tokenizers.vocabulary import Vocabulary

# What opens a trained stretch of a document in each kind of task, and what ends it; None = all is trained.
OPENS: Final = {"text": None, "qa": "<|answer|>", "chat": "<|assistant|>", "image": "<|image|>"}
ENDS: Final = {"text": "<|endoftext|>", "qa": "<|endofanswer|>", "chat": "<|endofturn|>", "image": "<|endofimage|>"}


@dataclass(frozen=True)
class Finding:
    """What became of one rule.

    Attributes:
        rule: in words.
        problem: where and how it is broken; None where it holds.
        untried: why nothing could be tried; None where something was.
    """

    rule: str
    problem: str | None = None
    untried: str | None = None


@dataclass(frozen=True)
class Rows:
    """Rows of one task, with what the rules need to know of it.

    Attributes:
        batch: [B, S].
        vocabulary: of the run.
        kind: of the task.
        packing: of the task.
        own_markers: whether documents were encoded here, and so begin and end with jgpt's markers.
    """

    batch: Batch
    vocabulary: Vocabulary
    kind: str
    packing: str
    own_markers: bool = True


def check(rows: Rows) -> list[Finding]:
    """Return what became of every rule."""
    return [Finding(name, rule(rows)) for name, rule in RULES.items()]


def _where(wrong_BS: np.ndarray, say: Callable[[int, int], str]) -> str | None:
    """Return the first wrong place with its message, and how many there are."""
    if not wrong_BS.any():
        return None
    row, at = (int(index) for index in np.argwhere(wrong_BS)[0])
    count = int(wrong_BS.sum())
    more = f" ({count} such places)" if count > 1 else ""
    return f"row {row}, place {at}: {say(row, at)}{more}"


def _ids(rows: Rows) -> str | None:
    batch, size = rows.batch, rows.vocabulary.size
    for what, ids_BS in (("token", batch.tokens_BS), ("target", batch.targets_BS)):
        found = _where(
            (ids_BS < 0) | (ids_BS >= size), lambda r, s, w=what, i=ids_BS: f"{w} {i[r, s]}, vocabulary of {size}"
        )
        if found:
            return found
    return None


def _numbering(rows: Rows) -> str | None:
    segments_BS = rows.batch.segments_BS
    before_BS = np.concatenate([np.zeros_like(segments_BS[:, :1]), segments_BS[:, :-1]], axis=1)
    step_BS, inner = segments_BS - before_BS, np.arange(segments_BS.shape[1])[None, :] > 0
    wrong_BS = (segments_BS != PADDING_SEGMENT) & (
        ((step_BS != 0) & (step_BS != 1)) | (inner & (before_BS == PADDING_SEGMENT))
    )
    return _where(wrong_BS, lambda r, s: f"document {segments_BS[r, s]} follows {before_BS[r, s]}")


def _starts(rows: Rows) -> np.ndarray:
    segments_BS = rows.batch.segments_BS
    starts_BS = np.ones_like(segments_BS, bool)
    starts_BS[:, 1:] = segments_BS[:, 1:] != segments_BS[:, :-1]
    return starts_BS & (segments_BS != PADDING_SEGMENT)


def _positions(rows: Rows) -> str | None:
    batch, starts_BS = rows.batch, _starts(rows)
    expected_BS = np.zeros_like(batch.positions_BS)
    for s in range(batch.positions_BS.shape[1]):
        before = expected_BS[:, s - 1] + 1 if s else 0
        expected_BS[:, s] = np.where(starts_BS[:, s], 0, before)
    wrong_BS = (batch.positions_BS != expected_BS) & (batch.segments_BS != PADDING_SEGMENT)
    return _where(wrong_BS, lambda r, s: f"position {batch.positions_BS[r, s]}, expected {expected_BS[r, s]}")


def _targets(rows: Rows) -> str | None:
    batch = rows.batch
    inside_BS = np.zeros_like(batch.tokens_BS, bool)
    inside_BS[:, :-1] = (batch.segments_BS[:, 1:] == batch.segments_BS[:, :-1]) & (batch.segments_BS[:, :-1] > 0)
    next_BS = np.roll(batch.tokens_BS, -1, axis=1)
    return _where(
        inside_BS & (batch.targets_BS != next_BS),
        lambda r, s: f"target {batch.targets_BS[r, s]}, and the next token is {next_BS[r, s]}",
    )


def _padding(rows: Rows) -> str | None:
    batch = rows.batch
    wrong_BS = (batch.segments_BS == PADDING_SEGMENT) & (batch.weights_BS != 0)
    return _where(wrong_BS, lambda r, s: f"padding has weight {batch.weights_BS[r, s]:g}")


def _some_weight(rows: Rows) -> str | None:
    empty = np.flatnonzero(~(rows.batch.weights_BS > 0).any(axis=1))
    return f"row {empty[0]} trains nothing ({len(empty)} such rows)" if len(empty) else None


def _ends(rows: Rows) -> str | None:
    if not rows.own_markers:
        return None  # ids that were encoded elsewhere end as they please
    batch, end = rows.batch, rows.vocabulary.special(ENDS[rows.kind])
    last_BS = np.zeros_like(batch.tokens_BS, bool)
    last_BS[:, :-1] = batch.segments_BS[:, 1:] != batch.segments_BS[:, :-1]
    last_BS[:, -1] = True
    last_BS &= batch.segments_BS != PADDING_SEGMENT
    if rows.packing == "stream":
        last_BS[:, -1] = False  # a text may be cut by the end of its row
        following = np.zeros_like(last_BS)
        following[:, :-1] = batch.segments_BS[:, 1:] != PADDING_SEGMENT
        last_BS &= following | (batch.targets_BS == end)
        untrained_BS = (batch.targets_BS == end) & (batch.weights_BS == 0) & (batch.segments_BS != PADDING_SEGMENT)
    else:
        untrained_BS = last_BS & (batch.weights_BS == 0)
    name = ENDS[rows.kind]
    return _where(
        last_BS & (batch.targets_BS != end),
        lambda r, s: f"a document ends with id {batch.targets_BS[r, s]}, not {name}",
    ) or _where(untrained_BS, lambda r, s: f"the end {name} has no weight, so the model never learns to stop")


def _open(rows: Rows) -> np.ndarray:
    """Return where the next token is the task's to predict."""
    opens = OPENS[rows.kind]
    documents_BS = rows.batch.segments_BS != PADDING_SEGMENT
    if opens is None:
        return documents_BS
    opener, end = rows.vocabulary.special(opens), rows.vocabulary.special(ENDS[rows.kind])
    tokens_BS, starts_BS = rows.batch.tokens_BS, _starts(rows)
    open_BS = np.zeros_like(documents_BS)
    state = np.zeros(len(tokens_BS), bool)
    for s in range(tokens_BS.shape[1]):
        state = np.where(starts_BS[:, s] | (tokens_BS[:, s] == end), False, state) | (tokens_BS[:, s] == opener)
        open_BS[:, s] = state
    return open_BS & documents_BS


def _given(rows: Rows) -> str | None:
    batch = rows.batch
    wrong_BS = ~_open(rows) & (batch.weights_BS != 0) & (batch.segments_BS != PADDING_SEGMENT)
    return _where(
        wrong_BS, lambda r, s: f"target {batch.targets_BS[r, s]} is given, and has weight {batch.weights_BS[r, s]:g}"
    )


def _asked(rows: Rows) -> str | None:
    batch = rows.batch
    wrong_BS = _open(rows) & (batch.weights_BS == 0)
    return _where(wrong_BS, lambda r, s: f"target {batch.targets_BS[r, s]} is to be predicted, and has no weight")


RULES: Final[dict[str, Callable[[Rows], str | None]]] = {
    "ids below the vocabulary's size": _ids,
    "documents numbered in order, padding last": _numbering,
    "positions count from 0 in each document": _positions,
    "targets are the next token": _targets,
    "padding carries no weight": _padding,
    "no row without weight": _some_weight,
    "every document's end is trained": _ends,
    "prompts are not trained": _given,
    "answers are trained": _asked,
}
