"""Proof that a run's sampler is right in every mode, on that checkpoint.

Owns the comparisons and their bounds. The reference is one forward pass without a cache over each finished row; against it
stand the cached loop, one row alone, a stream, a prefill in pieces, and the slots of the server. Refuses to change the sampler
itself.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jgpt import sampler
from jgpt.check import require
from jgpt.compiled import Programs
from jgpt.config import ModelConfig
from jgpt.decoder import Decoder, decoder_for
from jgpt.loaded import GPT
from jgpt.model import gpt
from jgpt.sampler import Samples
from jgpt.sampling import Sampling
from jgpt.serve.engine import Engine
from jgpt.serve.job import Job, Update
from jgpt.serve.slots import Row, Slots

# Sums in another order, at logits of order 10: f32 keeps 7 digits and bfloat16 between 2 and 3. On the trio run the worst of
# 1,300 log-probabilities a type was 4e-6 and 0.03; the bounds leave room for larger models and logits.
BOUNDS: Final = {"float32": 1e-4, "bfloat16": 0.1}
GREEDY: Final = Sampling(temperature=0.0)
SLOTS: Final = 2  # of the server: so few that rows join and leave while others run


@dataclass(frozen=True)
class Finding:
    """One mode against the reference.

    Attributes:
        mode: what was compared.
        rows: compared.
        tokens: compared.
        other_ids: tokens whose id differs although no two ids tie within the bound.
        ties: tokens whose id differs where they tie: either is right.
        worst: largest difference of a token's log-probability [nats].
        bound: largest one allowed [nats].
    """

    mode: str
    rows: int
    tokens: int
    other_ids: int
    ties: int
    worst: float
    bound: float

    @property
    def passed(self) -> bool:
        """No id differs and all log-probabilities lie within the bound."""
        return self.other_ids == 0 and self.worst <= self.bound


def check_sampler(
    model: GPT, *, rows: int = 6, new_tokens: int = 48, seed: int = 0, bound: float | None = None
) -> list[Finding]:
    """Return how each mode compares on random prompts of different lengths.

    Args:
        model: to check.
        rows: prompts.
        new_tokens: drawn behind each [tokens]; fewer where the context is short.
        seed: of prompts and samples.
        bound: largest difference of a log-probability [nats]; None = `BOUNDS` of the run's type of compute.

    Raises:
        ValueError: there are no rows or no tokens to compare.
    """
    require(rows >= 2, f"rows is {rows}: compare at least 2, so that one stands beside another.")
    require(new_tokens >= 1, f"new_tokens is {new_tokens}: draw at least 1.")
    cfg, ids = model.model, model.tokenizer.size
    decoder = decoder_for(cfg, ids, model.cache)
    params = decoder.prepare(model.params)
    prompts = random_prompts(cfg.context_length, ids, rows, seed)
    new_tokens = min(new_tokens, cfg.context_length - max(map(len, prompts)))
    bound = BOUNDS[str(cfg.compute_dtype)] if bound is None else bound
    draw = partial(sampler.sample, decoder, params, max_new_tokens=new_tokens)
    greedy, drawn = draw(prompts, sampling=GREEDY), draw(prompts, seeds=[seed + i for i in range(rows)])
    of_greedy, of_drawn = (forward_logprobs(cfg, params, ids, prompts, samples) for samples in (greedy, drawn))
    alone = _joined([draw([prompt], sampling=GREEDY) for prompt in prompts])
    drawn_alone = _joined([draw([prompt], seeds=[seed + i]) for i, prompt in enumerate(prompts)])
    *_, streamed = sampler.stream(decoder, params, prompts, max_new_tokens=new_tokens, sampling=GREEDY)
    pieces = draw(prompts, sampling=GREEDY, prefill_chunk=max(1, max(map(len, prompts)) // 3))
    # two rows of each prompt: then so few are different that they share a prefill
    shared = draw([prompt for prompt in prompts for _ in range(2)], sampling=GREEDY)
    through = served(decoder, params, prompts, new_tokens)
    return [
        against_forward("cached = uncached, greedy", of_greedy, greedy, bound, greedy=True),
        against_forward("cached = uncached, drawn", of_drawn, drawn, bound, greedy=False),
        against("alone = in a batch, greedy", of_greedy, greedy, alone, bound),
        against("alone = in a batch, drawn", of_drawn, drawn, drawn_alone, bound),
        against("streamed = whole", of_greedy, greedy, streamed, bound),
        against("prefill in pieces = in one", of_greedy, greedy, pieces, bound),
        against("through the server = in a batch", of_greedy, greedy, through, bound),
        against("shared prefill = own", of_greedy, greedy, Samples(*(field[1::2] for field in shared)), bound),
    ]


def programs_in_steady_state(model: GPT, *, rows: int = 6, new_tokens: int = 48, seed: int = 0) -> int:
    """Return how many programs other prompts, lengths, seeds and temperatures compile once their sizes have been seen.

    Arguments as in `check_sampler`.
    """
    cfg, ids = model.model, model.tokenizer.size
    decoder = decoder_for(cfg, ids, model.cache)
    params = decoder.prepare(model.params)
    programs = Programs()
    for again in range(2):
        prompts = random_prompts(cfg.context_length, ids, rows, seed + again)
        # the longest sets the size of the batch; lengths of one or two tokens stay, since equal prompts are fed once
        prompts[:-1] = [prompt[again:] if len(prompt) > 2 else prompt for prompt in prompts[:-1]]
        new = min(new_tokens, cfg.context_length - len(prompts[-1]))
        draw = Sampling(temperature=1.0 + again / 2)
        programs = Programs()
        with programs:
            sampler.sample(decoder, params, prompts, max_new_tokens=new, sampling=draw, seeds=seed + again)
    return programs.count


def served(decoder: Decoder, params: Any, prompts: Sequence[np.ndarray], new_tokens: int) -> Samples:
    """Return the greedy rows as the server's engine decodes them: they join few slots, and leave them, one by one."""
    everything = np.ones((1, decoder.ids), bool)
    slots = Slots(decoder, params, SLOTS, table_GV=everything, stop_ids=(), pad_id=0)
    rows: list[list[Update]] = [[] for _ in prompts]
    groups_T = np.zeros(decoder.context_length, np.int32)
    done = threading.Semaphore(0)

    def take(index: int, update: Update) -> None:
        rows[index].append(update)
        if update.last:
            done.release()

    with Engine(slots, queue=len(prompts)) as engine:
        engine.submit(
            [
                Job(Row(prompt, groups_T, GREEDY, 0, 0, new_tokens), partial(take, index))
                for index, prompt in enumerate(prompts)
            ]
        )
        for _ in prompts:
            done.acquire()
    for updates in rows:
        if updates[-1].error is not None:
            raise updates[-1].error
    return Samples(
        [np.array([token for update in updates for token in update.ids], np.int32) for updates in rows],
        [updates[-1].finished for updates in rows],
        [np.array([value for update in updates for value in update.logprobs]) for updates in rows],
        [(np.zeros((0, 0), np.int32), np.zeros((0, 0)))] * len(rows),
    )


def random_prompts(context: int, ids: int, rows: int, seed: int) -> list[np.ndarray]:
    """Return prompts of random ids, from one token to half of the context, no two of one length where there is room."""
    rng = np.random.default_rng(seed)
    lengths = np.linspace(1, max(1, context // 2), rows).astype(int)
    return [rng.integers(0, ids, n).astype(np.int32) for n in lengths]


def _joined(parts: Sequence[Samples]) -> Samples:
    return Samples(*([value for part in parts for value in part[field]] for field in range(len(Samples._fields))))


@partial(jax.jit, static_argnums=(0,))
def _forward(cfg: ModelConfig, params: Any, tokens_BS: Int[Array, "B S"]) -> Float[Array, "B S V"]:
    """Return the logits of whole rows, without a cache."""
    positions_BS = jnp.broadcast_to(jnp.arange(tokens_BS.shape[1])[None, :], tokens_BS.shape)
    return gpt.apply(cfg, params, tokens_BS, positions_BS)[0]


def forward_logprobs(
    cfg: ModelConfig, params: Any, ids: int, prompts: Sequence[np.ndarray], samples: Samples
) -> list[np.ndarray]:
    """Return the log-probabilities [T, ids] of each row's generated positions, by the forward pass."""
    rows_BS = np.zeros((len(prompts), cfg.context_length), np.int32)
    for row, prompt, new in zip(rows_BS, prompts, samples.tokens, strict=True):
        row[: len(prompt)] = prompt
        row[len(prompt) : len(prompt) + len(new)] = new
    out = []
    for row, prompt, new in zip(rows_BS, prompts, samples.tokens, strict=True):
        steps = slice(len(prompt) - 1, len(prompt) - 1 + len(new))
        logits_TV = np.asarray(_forward(cfg, params, jnp.asarray(row[None]))[0, steps, :ids]).astype(np.float64)
        top_T1 = logits_TV.max(-1, keepdims=True)
        out.append(logits_TV - top_T1 - np.log(np.exp(logits_TV - top_T1).sum(-1, keepdims=True)))
    return out


def against_forward(
    mode: str, expected: Sequence[np.ndarray], samples: Samples, bound: float, *, greedy: bool
) -> Finding:
    """Compare log-probabilities with the forward pass, and greedy ids with its most probable ones.

    Args:
        mode: name of the comparison.
        expected: of `forward_logprobs`.
        samples: drawn.
        bound: largest difference allowed [nats].
        greedy: each id should be the most probable one.
    """
    worst, other, ties = 0.0, 0, 0
    for expected_TV, tokens, got in zip(expected, samples.tokens, samples.logprobs, strict=True):
        chosen = np.take_along_axis(expected_TV, tokens[:, None], axis=1)[:, 0]
        worst = max(worst, float(np.abs(chosen - got).max()))
        if greedy:
            short = expected_TV.max(-1) - chosen
            other += int((short > bound).sum())
            ties += int(((short > 0) & (short <= bound)).sum())
    return Finding(mode, len(expected), sum(map(len, samples.tokens)), other, ties, worst, bound)


def against(mode: str, expected: Sequence[np.ndarray], wanted: Samples, got: Samples, bound: float) -> Finding:
    """Compare two ways to draw the same rows, each up to the first id where they part.

    Args:
        mode: name of the comparison.
        expected: of `forward_logprobs` for `wanted`; tells whether two ids tie.
        wanted: one way.
        got: the other.
        bound: largest difference allowed [nats].
    """
    worst, other, ties, compared = 0.0, 0, 0, 0
    rows = zip(wanted.tokens, got.tokens, wanted.logprobs, got.logprobs, expected, strict=True)
    for a, b, p, q, expected_TV in rows:
        n = min(len(a), len(b))
        differs = np.flatnonzero(a[:n] != b[:n])
        same = int(differs[0]) if len(differs) else n
        compared += same
        worst = max(worst, float(np.abs(p[:same] - q[:same]).max(initial=0.0)))
        if same < n:  # behind it the rows are other texts
            gap = abs(expected_TV[same, a[same]] - expected_TV[same, b[same]])
            ties, other = (ties + 1, other) if gap <= bound else (ties, other + 1)
        elif len(a) != len(b):
            other += 1
    return Finding(mode, len(expected), compared, other, ties, worst, bound)
