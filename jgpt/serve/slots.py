"""Fixed slots on the device: a request joins one while the others go on, and leaves it when it is done.

Owns the state of up to `size` rows and everything that is compiled for it: prefill in a few bucketed lengths, and for each of a
few widths and lengths of the cache how a row joins, how all rows advance in each of `profiles`, and how what they wrote is
read. Nothing else is ever compiled, whatever requests come. Where few slots are taken, few rows are computed: one row alone is
several times as fast as it is among sixteen. Where all that runs is short, the cache is short: every token reads all of it.
Refuses to know requests and text. Not for several threads at once.

B is the number of rows at present, T the context, N the most probable ids that are reported, S a window of generated
tokens, C a piece of a long prompt.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool

from jgpt import decode_loop, filters
from jgpt.decode_loop import State
from jgpt.decoder import Decoder
from jgpt.filters import Stages
from jgpt.sampler_batch import SMALLEST_BUCKET, Work
from jgpt.sampling import Sampling
from jgpt.serve import programs
from jgpt.serve.programs import MOST_STEPS, Seen

PIECE: Final = 256  # tokens of a prompt that are fed at once: so long do the other rows wait
SHORTEST: Final = 256  # tokens of the shortest cache
BIASES: Final = 32  # logit biases of a request
TOP: Final = 20  # most probable ids at each token: as many as OpenAI's API allows
GROWTH: Final = 4  # of a compiled size over the one before
PATIENCE: Final = 8  # segments before less is computed: rows come and go, and fewer rows or a shorter cache are a copy
SMALL_VOCABULARY: Final = 4096  # ids; sorting so few costs next to nothing, so that two profiles are enough


class Row(NamedTuple):
    """A request as a slot takes it.

    Attributes:
        prompt: ids.
        groups_T: group of ids, a row of the table, that each generated token is from.
        sampling: how to draw; at most BIASES biases, no guidance.
        seed: of the row.
        number: folded into the key of the seed.
        steps: tokens to generate at most.
    """

    prompt: np.ndarray
    groups_T: np.ndarray
    sampling: Sampling
    seed: int
    number: int
    steps: int


class Wrote(NamedTuple):
    """What a row wrote since the last look.

    Attributes:
        tokens: ids, without the stop id.
        logprobs: their log-probabilities [nats].
        top_ids: most probable ids at each, [tokens, N]; meaningless where the row did not ask for them.
        top_logprobs: their log-probabilities [nats].
        finished: "stop" where a stop id ended the row, "length" where its steps are over, "" where it goes on.
    """

    tokens: np.ndarray
    logprobs: np.ndarray
    top_ids: np.ndarray
    top_logprobs: np.ndarray
    finished: str


class Prefill:
    """A prompt on its way into a cache of its own, piece by piece.

    The first piece takes what the others leave, and is padded to a bucket; all others are whole.

    Attributes:
        logits: after the prompt; of use once `rest` is 0.
        cache: of one row.
        rest: tokens that are still to be fed.
    """

    def __init__(self, slots: "Slots", prompt: np.ndarray) -> None:
        self._slots, self._prompt = slots, prompt
        self.logits: Any = None
        self.cache: Any = None
        self.rest = len(prompt)

    def feed(self) -> None:
        """Feed the next piece."""
        slots = self._slots
        if self.cache is None:
            first = self._prompt[: (self.rest - 1) % slots.piece + 1]
            size = next(n for n in slots.buckets if n >= len(first))
            prompts = jax.device_put(programs.one_prompt(first, size))
            self.logits, self.cache = decode_loop.prefill(
                slots.decoder, slots.decoder.context_length, None, slots.params, prompts
            )
            self.rest -= len(first)
        else:
            start = len(self._prompt) - self.rest
            piece = self._prompt[None, start : start + slots.piece].astype(np.int32)
            tokens_PC, at = jax.device_put((piece, np.int32(start)))
            self.logits, self.cache = programs.feed_piece(slots.decoder, slots.params, tokens_PC, self.cache, at)
            self.rest -= slots.piece


class Slots:
    """B rows that are decoded together, each with a request of its own.

    Args:
        decoder: the model.
        params: as `decoder.prepare` returns them.
        size: number of slots.
        table_GV: ids of each group that may be generated.
        stop_ids: ids that end a row, where its group allows them.
        pad_id: fed where a row has none.
    """

    def __init__(
        self,
        decoder: Decoder,
        params: Any,
        size: int,
        *,
        table_GV: Bool[np.ndarray, "G V"],
        stop_ids: Sequence[int],
        pad_id: int,
    ) -> None:
        self.decoder, self.params, self.size = decoder, params, size
        self.top = min(TOP, decoder.ids)
        self.piece = min(PIECE, decoder.context_length)
        self.buckets = _sizes(min(SMALLEST_BUCKET, self.piece), self.piece)
        self.widths = _sizes(1, size)
        self.lengths = _sizes(min(SHORTEST, decoder.context_length), decoder.context_length)
        stop_V = np.zeros(decoder.vocab_size, bool)
        stop_V[list(stop_ids)] = True
        wide_GV = np.zeros((len(table_GV), decoder.vocab_size), bool)
        wide_GV[:, : table_GV.shape[1]] = table_GV
        self._table_GV, self._stop_V, self._pad = jax.device_put((wide_GV, stop_V, np.int32(pad_id)))
        self.clear()

    @property
    def profiles(self) -> tuple[Stages, ...]:
        """The sets of stages that are compiled, from the cheapest to the one that can do everything."""
        plain = Stages(penalty=False, sort=False, noise=False)
        reported = plain._replace(noise=True, top=self.top)
        sort = reported._replace(sort=True)
        full = sort._replace(penalty=True, typical=True)
        return (plain, full) if self.decoder.vocab_size <= SMALL_VOCABULARY else (plain, reported, sort, full)

    @property
    def width(self) -> int:
        """Rows that are computed at present."""
        return len(self._rows)

    def clear(self) -> None:
        """Empty all slots, whatever became of their state."""
        self._rows: list[Row] = [self._free_row()] * self.widths[0]
        self._slots: list[int | None] = [None] * self.widths[0]  # whose row it is
        self._stages: dict[int, Stages] = {}  # of the slots that are taken
        self._start_B = np.zeros(self.widths[0], np.int32)
        self._narrow = 0  # segments since less would do
        self.length = self.lengths[0]  # of the cache at present
        self._state: State = programs.empty(self.decoder, self.widths[0], self.top, self.length)
        self._work: Work | None = None

    def join(self, slot: int, row: Row, prefilled: Prefill, *, top: int = 0) -> None:
        """Put a request into a free slot, and draw its first token.

        Args:
            slot: to take, below `size`.
            row: the request.
            prefilled: its prompt; it may serve several rows.
            top: most probable ids that are wanted at each token.
        """
        if None not in self._slots:
            self._resize(next(width for width in self.widths if width > self.width))
        if _needs(row) > self.length:
            self._lengthen(next(length for length in self.lengths if length >= _needs(row)))
        place = self._slots.index(None)
        self._slots[place], self._rows[place], self._work, self._narrow = slot, row, None, 0
        self._stages[slot] = filters.stages_of([row.sampling], top)
        self._start_B[place] = 0
        given = (np.int32(place), programs.one_prompt(row.prompt, self.decoder.context_length), self._lay_out([row]))
        self._state = programs.add_row(
            self.decoder, self.profiles[-1], self._state, *jax.device_put(given), prefilled.logits, prefilled.cache
        )

    def leave(self, slots: Sequence[int]) -> None:
        """Free slots; what runs in them ends."""
        halted_B = np.array([slot in slots for slot in self._slots])
        if halted_B.any():
            self._state = self._state._replace(done_B=programs.halt(self._state.done_B, jax.device_put(halted_B)))
        for place in np.flatnonzero(halted_B):
            del self._stages[self._slots[place]]  # pyright: ignore[reportArgumentType]
            self._slots[place] = None

    def advance(self, most: int) -> None:
        """Draw at most `most` more tokens a row, MOST_STEPS at the most."""
        fewer = max((width for width in self.widths if width < self.width), default=0)
        shorter = max((length for length in self.lengths if length < self.length), default=0)
        few = len(self._stages) <= fewer
        taken = (row for row, slot in zip(self._rows, self._slots, strict=True) if slot is not None)
        short = shorter > 0 and all(_needs(row) <= shorter for row in taken)
        self._narrow = self._narrow + 1 if few or short else 0
        if self._narrow > PATIENCE:
            if short:
                self._lengthen(shorter)
            if few:
                self._resize(fewer)
        if self._work is None:
            self._work = jax.device_put(self._lay_out(self._rows))
        steps = jax.device_put(np.int32(min(most, MOST_STEPS)))
        self._state = decode_loop.advance(self.decoder, self.profile(), self.params, self._work, self._state, steps)

    def profile(self) -> Stages:
        """Return the cheapest profile that does what the running rows need."""
        return next(
            profile for profile in self.profiles if all(_covers(profile, stages) for stages in self._stages.values())
        )

    def look(self) -> dict[int, Wrote]:
        """Return what was written since the last look, by slot, and wait for it; a slot whose row has ended stays taken."""
        seen: Seen = jax.device_get(programs.look(self._state, jax.device_put(self._start_B.copy())))
        out = {}
        for b, slot in enumerate(self._slots):
            if slot is not None:
                new = int(seen.step_B[b] - seen.stopped_B[b] - self._start_B[b])
                finished = "" if not seen.done_B[b] else "stop" if seen.stopped_B[b] else "length"
                out[slot] = Wrote(
                    np.asarray(seen.tokens_BS)[b, :new],
                    np.asarray(seen.logprobs_BS)[b, :new],
                    np.asarray(seen.top_ids_BSN)[b, :new],
                    np.asarray(seen.top_logprobs_BSN)[b, :new],
                    finished,
                )
        self._start_B = (seen.step_B - seen.stopped_B).astype(np.int32)
        return out

    def warm_up(self) -> Iterator[str]:
        """Compile everything that will ever be needed, and yield what is about to be compiled."""
        for size in self.buckets:
            yield f"prompts of up to {size} tokens"
            prefilled = Prefill(self, np.zeros(size, np.int32))
            prefilled.feed()
        if self.piece < self.decoder.context_length:
            yield f"further pieces of {self.piece} tokens"
            prefilled = Prefill(self, np.zeros(self.piece + 1, np.int32))
            while prefilled.rest:
                prefilled.feed()
        for length, width in itertools.product(self.lengths, self.widths):
            yield f"rows that join {width - 1} others, of up to {length} tokens"
            if width == self.widths[0]:
                self._lengthen(length)
            while self.width < width:
                self._resize(width)
            row, seen = self._free_row()._replace(steps=3), set()
            for sampling, top in _EACH_STAGE:
                profile = next(p for p in self.profiles if _covers(p, filters.stages_of([sampling], top)))
                if profile in seen:
                    continue
                seen.add(profile)
                yield f"{width} rows that advance {_words(profile)}"
                self.join(0, row._replace(sampling=sampling), prefilled, top=top)
                self.advance(1)
                self.look()
                self.leave([0])
            for other in self.lengths:
                self._lengthen(other)
                self._lengthen(length)
            if width == self.size:
                for fewer in reversed(self.widths[:-1]):
                    self._resize(fewer)
        self.clear()

    def _resize(self, width: int) -> None:
        """Compute so many rows from now on; those that are taken must fit."""
        kept = [place for place, slot in enumerate(self._slots) if slot is not None]
        source = np.array((kept + [0] * width)[:width], np.int32)
        free = np.arange(width) >= len(kept)
        self._state = programs.move(self._state, *jax.device_put((source, free)))
        self._slots = [None if gone else self._slots[place] for place, gone in zip(source, free, strict=True)]
        self._rows = [self._rows[place] for place in source]
        self._start_B, self._work, self._narrow = self._start_B[source], None, 0

    def _lengthen(self, length: int) -> None:
        """Keep so many tokens a row from now on; those that run must fit."""
        self._state, self.length = programs.fit(self.decoder, self._state, length), length
        self._narrow = 0

    def _free_row(self) -> Row:
        return Row(np.zeros(1, np.int32), np.zeros(self.decoder.context_length, np.int32), Sampling(), 0, 0, 0)

    def _lay_out(self, rows: Sequence[Row]) -> Work:
        """Return the rows as the compiled functions take them."""
        return Work(
            lengths_R=np.array([len(row.prompt) for row in rows], np.int32),
            live_B=np.ones(len(rows), bool),
            seeds_B=np.array([row.seed for row in rows], np.uint32),
            rows_B=np.array([row.number for row in rows], np.uint32),
            table_GV=self._table_GV,
            group_BT=np.stack([row.groups_T for row in rows]).astype(np.int32),
            stop_V=self._stop_V,
            steps_B=np.array([row.steps for row in rows], np.int32),
            pad=self._pad,
            knobs=filters.knobs_of([row.sampling for row in rows], BIASES),
        )


def _needs(row: Row) -> int:
    """Return the tokens of a row that the cache may come to hold: the last one that is drawn is not fed."""
    return len(row.prompt) + row.steps - 1


def _sizes(smallest: int, largest: int) -> tuple[int, ...]:
    """Return sizes that grow by GROWTH up to `largest`."""
    sizes = [smallest]
    while sizes[-1] < largest:
        sizes.append(min(sizes[-1] * GROWTH, largest))
    return tuple(sizes)


# What needs each profile in turn.
_EACH_STAGE: Final = (
    (Sampling(temperature=0.0), 0),
    (Sampling(), 1),
    (Sampling(top_k=2), 1),
    (Sampling(presence_penalty=1.0), 1),
)


def _covers(profile: Stages, wanted: Stages) -> bool:
    """Return whether a profile does all the work that is wanted."""
    return all(stage <= have for stage, have in zip(wanted, profile, strict=True))


def _words(profile: Stages) -> str:
    return "by " + (", ".join(name for name, on in profile._asdict().items() if on) or "the most probable token")
