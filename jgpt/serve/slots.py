"""Fixed slots on the device: a request joins one while the others go on, and leaves it when it is done.

Owns the state of B rows and everything that is compiled for it: prefill in a few bucketed lengths, one program with which a
row joins, one in which all rows advance for each of `profiles`, and one that reads what they wrote. Nothing else is ever
compiled, whatever requests come. Refuses to know requests and text. Not for several threads at once.

B is the number of slots, T the context, N the most probable ids that are reported, W a window of generated tokens, C a
piece of a long prompt.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jgpt import decode_loop, filters
from jgpt.decode_loop import State
from jgpt.decoder import Decoder
from jgpt.filters import Stages, Written
from jgpt.sampler_batch import SMALLEST_BUCKET, Prompts, Work
from jgpt.sampling import Sampling

MOST_STEPS: Final = 8  # tokens a row between two looks
PIECE: Final = 256  # tokens of a prompt that are fed at once: so long do the other rows wait
BIASES: Final = 32  # logit biases of a request
TOP: Final = 20  # most probable ids at each token: as many as OpenAI's API allows
GROWTH: Final = 4  # of one bucket of prompt lengths over the one before


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


class Seen(NamedTuple):
    """What the rows wrote since the last look, as NumPy arrays.

    Attributes:
        step_B: tokens generated so far, a stop id included.
        done_B: nothing more is generated.
        stopped_B: a stop id ended the row.
        tokens_BW: ids from the start of the look.
        logprobs_BW: their log-probabilities [nats].
        top_ids_BWN: most probable ids at each; meaningless where no row asked for them.
        top_logprobs_BWN: their log-probabilities [nats].
    """

    step_B: Int[Array | np.ndarray, " B"]
    done_B: Bool[Array | np.ndarray, " B"]
    stopped_B: Bool[Array | np.ndarray, " B"]
    tokens_BW: Int[Array | np.ndarray, "B W"]
    logprobs_BW: Float[Array | np.ndarray, "B W"]
    top_ids_BWN: Int[Array | np.ndarray, "B W N"]
    top_logprobs_BWN: Float[Array | np.ndarray, "B W N"]


@partial(jax.jit, static_argnums=(0, 1, 2))
def _empty(decoder: Decoder, slots: int, top: int) -> State:
    """Return the state of slots in which nothing runs."""
    B, T, V = slots, decoder.context_length, decoder.vocab_size
    return State(
        step_B=jnp.zeros(B, jnp.int32),
        token_B=jnp.zeros(B, jnp.int32),
        done_B=jnp.ones(B, bool),
        stopped_B=jnp.zeros(B, bool),
        tokens_BT=jnp.zeros((B, T), jnp.int32),
        logprobs_BT=jnp.zeros((B, T), jnp.float32),
        top_ids_BTN=jnp.zeros((B, T, top), jnp.int32),
        top_logprobs_BTN=jnp.zeros((B, T, top), jnp.float32),
        written=Written(jnp.zeros((B, V), bool), jnp.zeros((B, V), jnp.int32)),
        cache=decoder.init_cache(B, T),
    )


@partial(jax.jit, static_argnums=(0,), donate_argnums=(3,))
def _feed(
    decoder: Decoder, params: Any, tokens_PC: Int[Array, "P C"], cache: Any, start: Int[Array, ""]
) -> tuple[Float[Array, "P V"], Any]:
    """Return the logits after a further piece of a prompt, and the cache that holds it."""
    positions_PC = jnp.broadcast_to(jnp.arange(tokens_PC.shape[1], dtype=jnp.int32)[None, :] + start, tokens_PC.shape)
    last_P = jnp.full(tokens_PC.shape[0], tokens_PC.shape[1] - 1, jnp.int32)
    return decoder.apply(params, tokens_PC, positions_PC, cache, last_P)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2,))
def _join(
    decoder: Decoder,
    stages: Stages,
    state: State,
    slot: Int[Array, ""],
    prompts: Prompts,
    work: Work,
    logits_PV: Float[Array, "P V"],
    cache: Any,
) -> State:
    """Return the state with the first token of a new row in its slot."""
    row = decode_loop.begin(decoder, stages, prompts, work, logits_PV, cache)
    return jax.tree.map(lambda rows, new: jax.lax.dynamic_update_slice_in_dim(rows, new, slot, 0), state, row)


@jax.jit
def _halt(done_B: Bool[Array, " B"], halted_B: Bool[Array, " B"]) -> Bool[Array, " B"]:
    return done_B | halted_B


@jax.jit
def _look(state: State, start_B: Int[Array, " B"]) -> Seen:
    """Return MOST_STEPS tokens of each row from its `start_B` on."""
    places_BW = start_B[:, None] + jnp.arange(MOST_STEPS, dtype=jnp.int32)[None, :]
    rows_B1 = jnp.arange(start_B.shape[0])[:, None]

    def window(values: Array) -> Array:
        return values.at[rows_B1, places_BW].get(mode="clip")

    return Seen(
        state.step_B,
        state.done_B,
        state.stopped_B,
        window(state.tokens_BT),
        window(state.logprobs_BT),
        window(state.top_ids_BTN),
        window(state.top_logprobs_BTN),
    )


class Prefill:
    """A prompt on its way into a cache of its own, piece by piece.

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
        slots, prompt = self._slots, self._prompt
        if self.cache is None:
            first = prompt[: slots.piece]
            size = next(n for n in slots.buckets if n >= len(first))
            self.logits, self.cache = slots.prefill(first, size)
            self.rest -= len(first)
        else:
            # the last piece reaches back over tokens that the cache holds, rather than past the end
            start = min(len(prompt) - self.rest, len(prompt) - slots.piece)
            piece = jax.device_put((prompt[None, start : start + slots.piece].astype(np.int32), np.int32(start)))
            self.logits, self.cache = _feed(slots.decoder, slots.params, piece[0], self.cache, piece[1])
            self.rest = len(prompt) - start - slots.piece


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
        self.buckets = _buckets(self.piece)
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
        return plain, reported, sort, sort._replace(penalty=True, typical=True)

    def clear(self) -> None:
        """Empty all slots, whatever became of their state."""
        free = Row(np.zeros(1, np.int32), np.zeros(self.decoder.context_length, np.int32), Sampling(), 0, 0, 0)
        self._rows = [free] * self.size
        self._stages: list[Stages | None] = [None] * self.size
        self.start_B = np.zeros(self.size, np.int32)
        self._state: State = _empty(self.decoder, self.size, self.top)
        self._work: Work | None = None

    def prefill(self, prompt: np.ndarray, bucket: int) -> tuple[Any, Any]:
        """Return the logits after a prompt or its first piece, and a cache of the whole context that holds it."""
        prompts = jax.device_put(_prompts(prompt, bucket))
        return decode_loop.prefill(self.decoder, self.decoder.context_length, None, self.params, prompts)

    def join(self, slot: int, row: Row, prefilled: Prefill, *, top: int = 0) -> None:
        """Put a request into a free slot, and draw its first token.

        Args:
            slot: to take.
            row: the request.
            prefilled: its prompt; it may serve several rows.
            top: most probable ids that are wanted at each token.
        """
        self._rows[slot], self._work = row, None
        self._stages[slot] = filters.stages_of([row.sampling], top)
        self.start_B[slot] = 0
        given = jax.device_put((np.int32(slot), _prompts(row.prompt, self.decoder.context_length), self._lay_out([row])))
        self._state = _join(
            self.decoder, self.profiles[-1], self._state, *given, prefilled.logits, prefilled.cache
        )

    def leave(self, slots: Sequence[int]) -> None:
        """Free slots; what runs in them ends."""
        if not slots:
            return
        halted_B = np.zeros(self.size, bool)
        halted_B[list(slots)] = True
        self._state = self._state._replace(done_B=_halt(self._state.done_B, jax.device_put(halted_B)))
        self.forget(slots)

    def forget(self, slots: Sequence[int]) -> None:
        """Free slots whose rows have ended by themselves."""
        for slot in slots:
            self._stages[slot] = None

    def advance(self, most: int) -> None:
        """Draw at most `most` more tokens a row, MOST_STEPS at the most."""
        if self._work is None:
            self._work = jax.device_put(self._lay_out(self._rows))
        steps = jax.device_put(np.int32(min(most, MOST_STEPS)))
        self._state = decode_loop.advance(
            self.decoder, self.profile(), self.params, self._work, self._state, steps
        )

    def profile(self) -> Stages:
        """Return the cheapest profile that does what the running rows need."""
        wanted = [stages for stages in self._stages if stages is not None]
        return next(
            profile
            for profile in self.profiles
            if all(stage <= have for stages in wanted for stage, have in zip(stages, profile, strict=True))
        )

    def look(self) -> Seen:
        """Return what was written since the last look, and wait for it."""
        seen = jax.device_get(_look(self._state, jax.device_put(self.start_B.copy())))
        self.start_B = np.minimum(seen.step_B, self.start_B + MOST_STEPS).astype(np.int32)
        return seen

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
        yield "a row that joins"
        row = self._rows[0]._replace(steps=2)
        for sampling, top in (
            (Sampling(temperature=0.0), 0),
            (Sampling(), 1),
            (Sampling(top_k=2), 1),
            (Sampling(presence_penalty=1.0), 1),
        ):
            self.join(0, row._replace(sampling=sampling), prefilled, top=top)
            self.look()
            yield f"{self.size} rows that advance {_words(self.profile())}"
            self.advance(1)
            self.look()
        self.leave([0])
        self.clear()

    def _lay_out(self, rows: Sequence[Row]) -> Work:
        """Return the rows as the compiled functions take them."""
        biases = [row.sampling.logit_bias for row in rows]
        knobs = filters.knobs_of([row.sampling for row in rows])
        ids_BN = np.full((len(rows), BIASES), filters.NO_ID, np.int32)
        biases_BN = np.zeros((len(rows), BIASES), np.float32)
        for b, pairs in enumerate(biases):
            for n, (i, bias) in enumerate(pairs):
                ids_BN[b, n], biases_BN[b, n] = i, bias
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
            knobs=knobs._replace(bias_ids_BN=ids_BN, biases_BN=biases_BN),
        )


def _buckets(piece: int) -> tuple[int, ...]:
    """Return the lengths of prompts that are compiled, in rising order: the last is `piece`."""
    sizes = [min(SMALLEST_BUCKET, piece)]
    while sizes[-1] < piece:
        sizes.append(min(sizes[-1] * GROWTH, piece))
    return tuple(sizes)


def _prompts(prompt: np.ndarray, size: int) -> Prompts:
    """Return one prompt, padded."""
    tokens_PS = np.zeros((1, size), np.int32)
    tokens_PS[0, : len(prompt)] = prompt
    return Prompts(tokens_PS, np.array([len(prompt)], np.int32), np.zeros(1, np.int32))


def _words(profile: Stages) -> str:
    return "by " + (", ".join(name for name, on in profile._asdict().items() if on) or "the most probable token")
