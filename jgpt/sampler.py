"""Generation: what the model writes after each of many prompts, whole or as it is made.

Owns the calls `sample` and `stream`, and which requests share a batch; `sampler_batch` lays requests out and `decode_loop`
runs them. Refuses to know models and tasks: it takes a `Decoder`, ids, and masks of ids (`Allowed`). Sizes are rounded up to
buckets and everything else is data, so that another prompt, seed, temperature or length compiles nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import jax
import numpy as np

from jgpt import decode_loop, filters, speculative
from jgpt.automaton import Automaton
from jgpt.check import require
from jgpt.decoder import Decoder
from jgpt.filters import Stages
from jgpt.sampler_batch import Prompts, Requests, Work, check, lay_out
from jgpt.sampling import Allowed, Sampling
from jgpt.speculative import Speculation

MAX_ROWS: Final = 256  # rows decoded at once: the cache grows with rows x length
EVERY: Final = 8  # tokens between two looks at what a batch has written


class Passes(NamedTuple):
    """What a row cost.

    Attributes:
        count: passes of the model after the prefill.
        tested: proposals of speculative decoding that were put to the test.
        accepted: those that were accepted.
    """

    count: int
    tested: int
    accepted: int


Row = tuple[np.ndarray, str, np.ndarray, tuple[np.ndarray, np.ndarray], Passes]


class Samples(NamedTuple):
    """What was generated, in the order of the prompts.

    Attributes:
        tokens: ids of each row, without the prompt and without the stop id.
        finished: "stop" where a stop id or `until` ended the row, "length" where `max_new_tokens` did, "" where it goes on.
        logprobs: log-probability [nats] of each of `tokens` among the allowed ids, at temperature 1 and before guidance
            and filters: the conditional model's own.
        top: (ids [T, N], log-probabilities [T, N]) of the N most probable ids at each token of a row, in falling order.
        passes: what each row cost.
    """

    tokens: list[np.ndarray]
    finished: list[str]
    logprobs: list[np.ndarray]
    top: list[tuple[np.ndarray, np.ndarray]]
    passes: Sequence[Passes] = ()

    def accepted_share(self) -> float:
        """Return the share of tested proposals that was accepted; 0 where none was."""
        return sum(row.accepted for row in self.passes) / max(1, sum(row.tested for row in self.passes))


class Batch:
    """Requests that are decoded together, in progress."""

    def __init__(
        self,
        decoder: Decoder,
        params: Any,
        prompts: Prompts,
        work: Work,
        stages: Stages,
        chunk: int | None = None,
        speculation: Speculation | None = None,
    ) -> None:
        """Prefill and draw the first token of each row.

        Args:
            decoder: the model.
            params: as `decoder.prepare` returns them.
            prompts: of the requests.
            work: the requests.
            stages: what they need.
            chunk: tokens of the prompts that are fed at once; None = all.
            speculation: who proposes tokens; its parameters as the draft's `prepare` returns them. None = nobody.
        """
        self.decoder, self.params, self.stages = decoder, params, stages
        self.live_B = np.asarray(work.live_B)
        self.halted_B = np.zeros_like(self.live_B)
        length = min(prompts.tokens_PS.shape[1] + work.group_BT.shape[1], decoder.context_length)
        prompts, self.work = jax.device_put((prompts, work))  # explicit: the loop may forbid implicit transfers
        self.prompts, self.speculation = prompts, speculation
        if speculation is not None:
            cache = None
            if speculation.draft is not None:
                own = min(length, speculation.draft.context_length)
                _, cache = decode_loop.prefill(speculation.draft, own, chunk, speculation.draft_params, prompts)
            self.guessing = speculative.start(cache, self.live_B.size)
        logits_RV, cache = decode_loop.prefill(decoder, length, chunk, params, prompts)
        self.state = decode_loop.begin(decoder, stages, prompts, self.work, logits_RV, cache)

    def advance(self, most: int) -> None:
        """Draw at most `most` more tokens a row, or as many passes with proposals."""
        steps = jax.device_put(np.int32(most))
        if self.speculation is not None:
            self.state, self.guessing = speculative.advance(
                self.decoder,
                self.stages,
                self.speculation.proposer,
                (self.params, self.speculation.draft_params),
                self.prompts,
                self.work,
                self.state,
                self.guessing,
                steps,
            )
            return
        self.state = decode_loop.advance(self.decoder, self.stages, self.params, self.work, self.state, steps)

    def halt(self, row: int) -> None:
        """End a row as if a stop id had ended it."""
        self.halted_B[row] = True
        halted_B = jax.device_put(self.halted_B)
        self.state = self.state._replace(done_B=self.state.done_B | halted_B)

    def rows(self) -> list[Row]:
        """Return the fields of `Samples` of every row so far, those that only pad the batch included.

        Raises:
            FloatingPointError: logits are not finite.
        """
        state = jax.device_get(self.state._replace(cache=None, written=None))
        counts = None if self.speculation is None else jax.device_get(self.guessing._replace(cache=None))
        bad_B = np.isnan(state.logprobs_BT).any(-1)  # NaN and +inf logits both make log_softmax NaN
        if bad_B.any():
            raise FloatingPointError(
                f"logits of {bad_B.sum()} of {self.live_B.sum()} rows are not finite: the parameters hold NaN or infinity; "
                "sample an earlier checkpoint."
            )
        out: list[Row] = []
        for b, n in enumerate(state.step_B - state.stopped_B):
            stopped = state.stopped_B[b] or self.halted_B[b]
            finished = "stop" if stopped else "length" if state.done_B[b] else ""
            top = (state.top_ids_BTN[b, :n].copy(), state.top_logprobs_BTN[b, :n].copy())
            cost = Passes(max(0, int(state.step_B[b]) - 1), 0, 0)
            if counts is not None:
                cost = Passes(*(int(count_B[b]) for count_B in counts[1:]))
            out.append((state.tokens_BT[b, :n].copy(), finished, state.logprobs_BT[b, :n].copy(), top, cost))
        return out


def sample(
    decoder: Decoder,
    params: Any,
    prompts: Sequence[Sequence[int] | np.ndarray],
    *,
    max_new_tokens: int | np.integer | Sequence[int],
    sampling: Sampling | Sequence[Sampling] = Sampling(),  # noqa: B008 - frozen
    unconditional: Sequence[Sequence[int] | np.ndarray] | None = None,
    seeds: int | np.integer | Sequence[int] = 0,
    stop_ids: Sequence[int] = (),
    until: Callable[[int, np.ndarray], bool] | None = None,
    allowed: Allowed | None = None,
    top: int = 0,
    pad_id: int = 0,
    max_rows: int = MAX_ROWS,
    prefill_chunk: int | None = None,
    automata: Automaton | Sequence[Automaton | None] | None = None,
    speculation: Speculation | None = None,
) -> Samples:
    """Return what the model writes after each prompt.

    A row's tokens depend on its prompt, its `Sampling` and its seed alone, not on the other rows, except where two ids
    tie within rounding: sums in another shape may round differently. Equal prompts share one prefill.

    Args:
        decoder: the model, see `decoder_for`.
        params: its parameters. Here they are brought into the form that decoding reads fastest: call `decoder.prepare` once
            yourself to sample often.
        prompts: ids of each row, of any lengths.
        max_new_tokens: longest answer [tokens], its stop id included; one for all rows, or one a row.
        sampling: one for all rows, or one a row.
        unconditional: each prompt without its condition, for `Sampling.guidance`; each sample then takes two rows of the
            model. Needed where any row is guided, refused where none is.
        seeds: one seed a row; a single one for all draws row i with `fold_in(key(seed), i)`, and a row's own seed draws
            as if it were row 0.
        stop_ids: ids that end a row.
        until: `(number of the prompt, ids so far) -> whether the row ends here`, asked every few tokens; ids that were
            drawn since it became true are returned too.
        allowed: ids that may be generated, and where; None = all.
        top: most probable ids to report at each token.
        pad_id: id fed to the model where a row has none; it changes no result.
        max_rows: rows of the model decoded at once; more prompts are sorted by length and taken in turns.
        prefill_chunk: tokens of the prompts that are fed at once, for long ones where memory is short; None = all.
        automata: one that all rows follow, or one a row; None = none. Log-probabilities are then among the ids it allows.
        speculation: who proposes tokens, so that the model needs fewer passes; the distribution stays the same, the draws of
            a seed do not, except for greedy rows. None = one token a pass.

    Raises:
        ValueError: a prompt, number or id is out of range; the message says which.
        FloatingPointError: the model's logits are not finite.
    """
    requests = _requests(
        prompts, unconditional, seeds, sampling, max_new_tokens, stop_ids, allowed, pad_id, top, prefill_chunk, automata
    )
    check(requests, num_ids=decoder.ids, context_length=decoder.context_length, max_rows=max_rows)
    speculation = _prepared(speculation, decoder, requests)
    params, stages = decoder.prepare(params), filters.stages_of(requests.samplings, top)
    out: list[Any] = [None] * len(prompts)
    for chunk, laid in _batches(decoder, requests, stages, max_rows):
        batch = Batch(decoder, params, *laid, stages, prefill_chunk, speculation)
        batch.advance(max(requests.max_new_tokens) if until is None else EVERY)
        rows = batch.rows()[: len(chunk)]
        while until is not None and not all(row[1] for row in rows):
            for slot, (i, row) in enumerate(zip(chunk, rows, strict=True)):
                if not row[1] and until(i, row[0]):
                    batch.halt(slot)
            batch.advance(EVERY)
            rows = batch.rows()[: len(chunk)]
        for i, row in zip(chunk, rows, strict=True):
            out[i] = row
    return _samples(out)


def stream(
    decoder: Decoder,
    params: Any,
    prompts: Sequence[Sequence[int] | np.ndarray],
    *,
    max_new_tokens: int,
    sampling: Sampling | Sequence[Sampling] = Sampling(),  # noqa: B008 - frozen
    seeds: int | np.integer | Sequence[int] = 0,
    stop_ids: Sequence[int] = (),
    allowed: Allowed | None = None,
    top: int = 0,
    pad_id: int = 0,
    every: int = EVERY,
    automata: Automaton | Sequence[Automaton | None] | None = None,
    speculation: Speculation | None = None,
) -> Iterator[Samples]:
    """Yield what the model has written so far: after the first token, after every few more, and at the end.

    The last value equals what `sample` returns. All prompts stand in one batch.

    Args:
        decoder: this and the rest: as in `sample`.
        params: of the model.
        prompts: ids of each row.
        max_new_tokens: longest answer [tokens].
        sampling: how to draw.
        seeds: of the rows.
        stop_ids: ids that end a row.
        allowed: ids that may be generated.
        top: most probable ids to report.
        pad_id: fed where a row has none.
        every: tokens between two values; fewer answer sooner and take longer in all.
        automata: that the rows follow.
        speculation: who proposes tokens.
    """
    require(every >= 1, f"every is {every}: must be at least 1 token.")
    require(0 < len(prompts) <= MAX_ROWS, f"{len(prompts)} prompts are to be streamed: give 1 to {MAX_ROWS}.")
    requests = _requests(prompts, None, seeds, sampling, max_new_tokens, stop_ids, allowed, pad_id, top, None, automata)
    check(requests, num_ids=decoder.ids, context_length=decoder.context_length, max_rows=MAX_ROWS)
    speculation = _prepared(speculation, decoder, requests)
    stages = filters.stages_of(requests.samplings, top)
    ((chunk, laid),) = _batches(decoder, requests, stages, MAX_ROWS)
    batch = Batch(decoder, decoder.prepare(params), *laid, stages, None, speculation)
    while True:
        rows: list[Any] = [None] * len(prompts)
        for i, row in zip(chunk, batch.rows(), strict=False):
            rows[i] = row
        yield _samples(rows)
        if all(row[1] for row in rows):
            return
        batch.advance(every)


def _prepared(speculation: Speculation | None, decoder: Decoder, requests: Requests) -> Speculation | None:
    """Return the speculation, checked, with the draft's parameters in the order in which they are read fastest."""
    if speculation is None:
        return None
    speculative.check(speculation, decoder, requests)
    if speculation.draft is None:
        return speculation
    return replace(speculation, draft_params=speculation.draft.prepare(speculation.draft_params))


def _samples(rows: Sequence[Row]) -> Samples:
    return Samples(*([row[field] for row in rows] for field in range(len(Samples._fields))))


def _requests(
    prompts: Any,
    unconditional: Any,
    seeds: int | np.integer | Sequence[int],
    sampling: Sampling | Sequence[Sampling],
    max_new_tokens: int | np.integer | Sequence[int],
    stop_ids: Sequence[int],
    allowed: Allowed | None,
    pad_id: int,
    top: int,
    prefill_chunk: int | None,
    automata: Automaton | Sequence[Automaton | None] | None,
) -> Requests:
    """Return the arguments of a call, with one entry a prompt."""
    count = len(prompts)
    if isinstance(automata, Automaton):
        automata = [automata] * count
    if isinstance(max_new_tokens, int | np.integer):
        max_new_tokens = [int(max_new_tokens)] * count
    one_seed = isinstance(seeds, int | np.integer)
    return Requests(
        prompts=[np.asarray(prompt) for prompt in prompts],
        unconditional=None if unconditional is None else [np.asarray(prompt) for prompt in unconditional],
        seeds=[(int(seeds), i) for i in range(count)] if one_seed else [(seed, 0) for seed in seeds],
        samplings=[sampling] * count if isinstance(sampling, Sampling) else list(sampling),
        max_new_tokens=list(max_new_tokens),
        stop_ids=stop_ids,
        allowed=allowed,
        pad_id=pad_id,
        top=top,
        prefill_chunk=prefill_chunk,
        automata=automata or (),
    )


def _batches(
    decoder: Decoder, requests: Requests, stages: Stages, max_rows: int
) -> Iterator[tuple[list[int], tuple[Prompts, Work]]]:
    """Yield batches of prompts of similar length: (their numbers, their arrays)."""
    max_samples = max(max_rows // 2, 1) if stages.guidance else max_rows
    order = sorted(range(len(requests.prompts)), key=lambda i: requests.prompts[i].size)
    for start in range(0, len(order), max_samples):
        chunk = order[start : start + max_samples]
        yield (
            chunk,
            lay_out(
                requests,
                chunk,
                vocab_size=decoder.vocab_size,
                num_ids=decoder.ids,
                context_length=decoder.context_length,
                max_samples=max_samples,
            ),
        )
