"""Requests to the sampler: checked, and laid out as the arrays that its compiled functions take.

Owns the rules of `sampler.sample`'s arguments and the shapes that are compiled: sizes are rounded up to buckets. Knows
no model and never computes; all arrays are NumPy's.

Here T counts generated tokens, G groups of allowed ids, M states of automata, P different prompts, and R rows of the model:
as many as B samples, or twice as many where samples are guided, the second half being the same samples without their
condition.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Int, UInt32

from jgpt import filters
from jgpt.automaton import MAX_BYTES, Automaton
from jgpt.check import require
from jgpt.filters import Knobs
from jgpt.sampling import Allowed, Sampling

SMALLEST_BUCKET: Final = 16  # tokens; shorter prompts and answers share one compiled shape


class Prompts(NamedTuple):
    """The prompts of one batch, each once.

    Attributes:
        tokens_PS: prompts, padded at their ends.
        lengths_P: length of each prompt [tokens].
        source_R: prompt of each row; where P = R, row r has prompt r.
    """

    tokens_PS: Int[Array | np.ndarray, "P S"]
    lengths_P: Int[Array | np.ndarray, " P"]
    source_R: Int[Array | np.ndarray, " R"]


class Work(NamedTuple):
    """One batch as the compiled functions take it, whatever its prompts.

    Attributes:
        lengths_R: length of each row's prompt [tokens].
        live_B: false where a sample only pads the batch.
        seeds_B: seed of each sample.
        rows_B: what is folded into the key of the seed.
        table_GV: ids of each group that may be generated.
        group_BT: group of each generated token.
        stop_V: ids that end a sample.
        steps_B: tokens to generate at most.
        pad: id that is fed where a sample has none.
        knobs: how each sample is drawn.
        next_MV: next state of the automata at each id, -1 where it may not follow; None where no sample follows one.
        start_B: state in which each sample begins.
    """

    lengths_R: Int[Array | np.ndarray, " R"]
    live_B: Bool[Array | np.ndarray, " B"]
    seeds_B: UInt32[Array | np.ndarray, " B"]
    rows_B: UInt32[Array | np.ndarray, " B"]
    table_GV: Bool[Array | np.ndarray, "G V"]
    group_BT: Int[Array | np.ndarray, "B T"]
    stop_V: Bool[Array | np.ndarray, " V"]
    steps_B: Int[Array | np.ndarray, " B"]
    pad: Array | np.int32
    knobs: Knobs
    next_MV: Int[Array | np.ndarray, "M V"] | None = None
    start_B: Int[Array | np.ndarray, " B"] | None = None


@dataclass(frozen=True)
class Requests:
    """All that one call of `sample` asks for, as checked by `check`.

    Attributes:
        prompts: ids of each.
        unconditional: ids of each without its condition; None where no sample is guided.
        seeds: seed of each, and what is folded into its key.
        samplings: how each is drawn.
        max_new_tokens: longest answer to each [tokens].
        stop_ids: ids that end an answer.
        allowed: ids that may be generated; None = all.
        pad_id: id fed where a sample has none.
        top: most probable ids to report at each token.
        prefill_chunk: tokens of the prompts that are fed at once; None = all.
        automata: that each answer follows; None where it may hold anything.
    """

    prompts: list[np.ndarray]
    unconditional: list[np.ndarray] | None
    seeds: list[tuple[int, int]]
    samplings: list[Sampling]
    max_new_tokens: list[int]
    stop_ids: Sequence[int]
    allowed: Allowed | None
    pad_id: int
    top: int = 0
    prefill_chunk: int | None = None
    automata: Sequence[Automaton | None] = ()


def bucket(size: int, smallest: int, largest: int) -> int:
    """Return the next power of two from `smallest` up, or `largest` where that is less."""
    return min(max(smallest, 1 << (size - 1).bit_length()), largest)


def lay_out(
    requests: Requests, chunk: list[int], *, vocab_size: int, num_ids: int, context_length: int, max_samples: int
) -> tuple[Prompts, Work]:
    """Return the requests named by `chunk`, padded to buckets.

    Args:
        requests: of the call.
        chunk: which of them.
        vocab_size: width of the logits.
        num_ids: ids that mean something.
        context_length: largest bucket [tokens].
        max_samples: largest batch.
    """
    B = bucket(len(chunk), 1, max_samples)
    T = bucket(max(requests.max_new_tokens), SMALLEST_BUCKET, context_length)
    padded = chunk + [chunk[0]] * (B - len(chunk))  # a copy of a real row is always a valid one
    rows = [requests.prompts[i] for i in padded]
    if requests.unconditional is not None:
        rows += [requests.unconditional[i] for i in padded]
    S = bucket(max(row.size for row in rows), SMALLEST_BUCKET, context_length)
    numbers: dict[bytes, int] = {}  # of different prompts
    source_R = np.array([numbers.setdefault(row.astype(np.int64).tobytes(), len(numbers)) for row in rows], np.int32)
    P = bucket(len(numbers), 1, len(rows))
    if P == len(rows):  # too few are equal for a smaller shape
        source_R = np.arange(P, dtype=np.int32)
    tokens_PS, lengths_P = np.full((P, S), requests.pad_id, np.int32), np.ones(P, np.int32)
    for slot, row in zip(source_R, rows, strict=True):
        tokens_PS[slot, : row.size], lengths_P[slot] = row, row.size
    allowed = requests.allowed
    if allowed is None:
        allowed = Allowed(np.ones((1, num_ids), bool), np.zeros((1, 1), np.int32))
    groups, known = allowed.table_GV.shape
    table_GV = np.zeros((bucket(groups, 1, 2**30), vocab_size), bool)
    table_GV[:groups, :known] = allowed.table_GV
    group_BT = allowed.group_BT[padded if allowed.group_BT.shape[0] > 1 else [0] * B, :T]
    group_BT = np.pad(group_BT, ((0, 0), (0, T - group_BT.shape[1])), mode="edge")
    stop_V = np.zeros(vocab_size, bool)
    stop_V[list(requests.stop_ids)] = True
    next_MV, start_B = _join([requests.automata[i] for i in padded] if requests.automata else [], vocab_size, num_ids)
    return Prompts(tokens_PS, lengths_P, source_R), Work(
        lengths_R=lengths_P[source_R],
        live_B=np.arange(B) < len(chunk),
        seeds_B=np.array([requests.seeds[i][0] for i in padded], np.uint32),
        rows_B=np.array([requests.seeds[i][1] for i in padded], np.uint32),
        table_GV=table_GV,
        group_BT=group_BT.astype(np.int32),
        stop_V=stop_V,
        steps_B=np.array([requests.max_new_tokens[i] for i in padded], np.int32),
        pad=np.int32(requests.pad_id),
        knobs=filters.knobs_of([requests.samplings[i] for i in padded]),
        next_MV=next_MV,
        start_B=start_B,
    )


def _join(
    automata: Sequence[Automaton | None], vocab_size: int, num_ids: int
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return (next_MV, start_B) of `Work`: tables one below the other, and first a state that allows all for ever.

    Raises:
        ValueError: the tables together are too large.
    """
    if not any(automata):
        return None, None
    starts: dict[int, int] = {}  # of different automata
    tables, size = [], 1
    for automaton in automata:
        if automaton is not None and id(automaton) not in starts:
            starts[id(automaton)] = size
            tables.append(np.where(automaton.next_MV < 0, -1, automaton.next_MV + size))
            size += len(automaton.next_MV)
    states = bucket(size, SMALLEST_BUCKET, 2**30)
    require(
        states * vocab_size * 4 <= 2 * MAX_BYTES,
        f"{len(tables)} automata of {size - 1:,} states together over {vocab_size:,} ids need more than "
        f"{2 * MAX_BYTES >> 20} MiB: give fewer or smaller patterns in one call.",
    )
    next_MV = np.full((states, vocab_size), -1, np.int32)
    next_MV[0, :num_ids] = 0
    for start, table in zip(starts.values(), tables, strict=True):
        next_MV[start : start + len(table), : table.shape[1]] = table
    return next_MV, np.array([0 if a is None else starts[id(a)] for a in automata], np.int32)


def check(requests: Requests, *, num_ids: int, context_length: int, max_rows: int) -> None:
    """Raise ValueError for the first argument of `sample` that breaks a rule."""
    allowed, count = requests.allowed, len(requests.prompts)
    for what, values in (
        ("sampling", requests.samplings),
        ("seeds", requests.seeds),
        ("max_new_tokens", requests.max_new_tokens),
    ):
        require(len(values) == count, f"{what} has {len(values)} entries for {count} prompts: give one, or one a row.")
    for new in requests.max_new_tokens:
        require(new >= 1, f"max_new_tokens is {new}: must be at least 1; raise --max-new-tokens.")
    require(max_rows >= 1, f"max_rows is {max_rows}: must be at least 1.")
    require(
        0 <= requests.top <= num_ids, f"top is {requests.top}: the vocabulary has {num_ids} ids, use 0 to {num_ids}."
    )
    chunk = requests.prefill_chunk
    require(
        chunk is None or chunk >= 1, f"prefill_chunk is {chunk}: must be at least 1 token, or None for all at once."
    )
    for sampling, new in zip(requests.samplings, requests.max_new_tokens, strict=True):
        far = [i for i, _ in sampling.logit_bias if i >= num_ids]
        require(not far, f"logit_bias names id {far}: the vocabulary has {num_ids} ids, use 0 to {num_ids - 1}.")
        require(
            sampling.min_new_tokens <= new,
            f"min_new_tokens is {sampling.min_new_tokens}, max_new_tokens {new}: the least cannot be above the most.",
        )
    for name, value in (("pad_id", requests.pad_id), *(("stop_ids", stop) for stop in requests.stop_ids)):
        require(
            0 <= value < num_ids, f"{name} holds {value}: the vocabulary has {num_ids} ids, use 0 to {num_ids - 1}."
        )
    for i, (row, new) in enumerate(zip(requests.prompts, requests.max_new_tokens, strict=True)):
        _check_prompt(f"prompt {i}", row, new, num_ids, context_length)
    for seed, _ in requests.seeds:
        require(0 <= seed < 2**32, f"seed is {seed}: must lie between 0 and 2**32 - 1; use another --seed.")
    guided = any(sampling.guidance != 1.0 for sampling in requests.samplings)
    if requests.unconditional is None:
        require(
            not guided,
            "guidance mixes two distributions, and only one is given: pass the prompts without their condition as "
            "`unconditional`, or leave guidance at 1.",
        )
    else:
        require(
            guided or count == 0,
            "unconditional prompts are given, but guidance is 1 in every row, which ignores them: set guidance, or "
            "leave them out.",
        )
        require(
            len(requests.unconditional) == count,
            f"unconditional has {len(requests.unconditional)} entries for {count} prompts: give one a prompt.",
        )
        for i, (row, new) in enumerate(zip(requests.unconditional, requests.max_new_tokens, strict=True)):
            _check_prompt(f"unconditional prompt {i}", row, new, num_ids, context_length)
    if requests.automata:
        _check_automata(requests, num_ids)
    if allowed is not None:
        width, groups = allowed.table_GV.shape[1], allowed.group_BT.shape[0]
        require(
            width == num_ids,
            f"allowed.table_GV is {width} ids wide, the vocabulary has {num_ids}: build it for {num_ids} ids.",
        )
        require(
            groups in (1, count),
            f"allowed.group_BT has {groups} rows for {count} prompts: give one, or one a prompt.",
        )


def _check_automata(requests: Requests, num_ids: int) -> None:
    """Raise ValueError where an automaton does not fit the vocabulary, the number of prompts, or what is allowed."""
    count, allowed = len(requests.prompts), requests.allowed
    require(
        len(requests.automata) == count,
        f"automata has {len(requests.automata)} entries for {count} prompts: give one, or one a prompt.",
    )
    for automaton in {id(a): a for a in requests.automata if a is not None}.values():
        width = automaton.next_MV.shape[1]
        require(
            width == num_ids,
            f"automaton.next_MV is {width} ids wide, the vocabulary has {num_ids}: build it for {num_ids} ids.",
        )
        if allowed is not None:
            used_V = (automaton.next_MV >= 0).any(0)
            free = bool((allowed.table_GV | ~used_V[None, :])[np.unique(allowed.group_BT)].all())
            require(
                free,
                "an automaton goes on with ids that `allowed` rules out, so that at some step nothing could be drawn: "
                "allow all ids that the automaton uses.",
            )


def _check_prompt(name: str, row: np.ndarray, new: int, num_ids: int, context: int) -> None:
    """Raise ValueError where a prompt is none, holds unknown ids, or leaves no room for `new` tokens."""
    require(
        row.ndim == 1, f"{name} has {row.ndim} dimensions: prompts is a list of lists of ids; put one prompt in []."
    )
    n = row.size
    require(n > 0, f"{name} has 0 tokens: give at least one, such as the id that begins a document.")
    require(
        np.issubdtype(row.dtype, np.integer),
        f"{name} has type {row.dtype}: ids are whole numbers; encode it first.",
    )
    require(
        bool(0 <= row.min() and row.max() < num_ids),
        f"{name} holds ids {row.min()} to {row.max()}: the vocabulary has {num_ids}, use ids 0 to {num_ids - 1}; "
        "encode it with the run's own tokenizer.",
    )
    require(
        n < context,
        f"{name} has {n} tokens, model.context_length is {context}: shorten the prompt by at least {n - context + 1} "
        "tokens, so that a new one fits behind it.",
    )
    require(
        n + new <= context + 1,  # the last token is drawn, and never fed
        f"{name} has {n} tokens and max_new_tokens is {new}, together {n + new}: model.context_length is {context}, and one "
        f"more can be drawn; use --max-new-tokens {context + 1 - n} at most, or shorten the prompt by "
        f"{n + new - context - 1} tokens.",
    )
