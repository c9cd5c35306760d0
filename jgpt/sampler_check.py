"""Proof that a run's sampler is right in every mode, on that checkpoint.

Owns the comparisons and their bounds. The reference is one forward pass without a cache over each finished row; against it
stand the cached loop, one row alone, a stream, a prefill in pieces, speculation, and the slots of the server. Refuses to
change the sampler itself.
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
from jgpt.model.quantised import Int8Rows
from jgpt.sampler import Samples
from jgpt.sampling import Sampling
from jgpt.serve.engine import Engine
from jgpt.serve.job import Job, Update
from jgpt.serve.slots import Row, Slots
from jgpt.speculative import Speculation

# Sums in another order, at logits of order 10: f32 keeps 7 digits, bfloat16 between 2 and 3, and products with int8 weights
# round inputs to 15 bits. Keys and values in int8 are other numbers than those of the forward pass. Measured on a trio run
# of 120 steps, 1,300 log-probabilities a line: at worst 4e-6, 0.03, 6e-4 and 7e-3. The rest is for larger models.
BOUNDS: Final = {"float32": 1e-4, "bfloat16": 0.1, "int8 weights": 3e-3, "int8 cache": 0.05}
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
        bound: largest difference of a log-probability [nats]; None = of `bound_of`.

    Raises:
        ValueError: there are no rows or no tokens to compare.
    """
    require(rows >= 2, f"rows is {rows}: compare at least 2, so that one stands beside another.")
    require(new_tokens >= 1, f"new_tokens is {new_tokens}: draw at least 1.")
    cfg, ids = model.model, model.tokenizer.size
    decoder = decoder_for(cfg, ids, model.cache)
    params = model.prepared
    prompts = random_prompts(cfg.context_length, ids, rows, seed)
    new_tokens = min(new_tokens, cfg.context_length - max(map(len, prompts)))
    bound = bound_of(model) if bound is None else bound
    draw = partial(sampler.sample, decoder, params, max_new_tokens=new_tokens)
    seeds = [seed + i for i in range(rows)]
    greedy, drawn = draw(prompts, sampling=GREEDY), draw(prompts, seeds=seeds)
    of_greedy, of_drawn = (forward_logprobs(cfg, params, ids, prompts, samples) for samples in (greedy, drawn))
    of_noise = with_noise(of_drawn, seeds, decoder.vocab_size)
    alone = _joined([draw([prompt], sampling=GREEDY) for prompt in prompts])
    drawn_alone = _joined([draw([prompt], seeds=[own]) for own, prompt in zip(seeds, prompts, strict=True)])
    *_, streamed = sampler.stream(decoder, params, prompts, max_new_tokens=new_tokens, sampling=GREEDY)
    pieces = draw(prompts, sampling=GREEDY, prefill_chunk=max(1, max(map(len, prompts)) // 3))
    # two rows of each prompt: then so few are different that they share a prefill
    shared = draw([prompt for prompt in prompts for _ in range(2)], sampling=GREEDY)
    # a look-up's proposals are rejected most often, the model's own never
    proposers = Speculation(lookup=1), Speculation(draft=decoder, draft_params=params)
    looked_up, drafted = (draw(prompts, sampling=GREEDY, speculation=proposer) for proposer in proposers)
    through = served(decoder, params, prompts, new_tokens)
    return [
        against_forward("cached = uncached, greedy", of_greedy, of_greedy, greedy, bound),
        against_forward("cached = uncached, drawn", of_drawn, of_noise, drawn, bound),
        against("alone = in a batch, greedy", of_greedy, greedy, alone, bound),
        against("alone = in a batch, drawn", of_noise, drawn, drawn_alone, bound),
        against("streamed = whole", of_greedy, greedy, streamed, bound),
        against("prefill in pieces = in one", of_greedy, greedy, pieces, bound),
        against("speculative by look-up = plain", of_greedy, greedy, looked_up, bound),
        against("speculative by a draft = plain", of_greedy, greedy, drafted, bound),
        against("through the server = in a batch", of_greedy, greedy, through, bound),
        against("shared prefill = own", of_greedy, greedy, Samples(*(field[1::2] for field in shared)), bound),
    ]


def bound_of(model: GPT) -> float:
    """Return the largest of the `BOUNDS` that apply to a model."""
    leaves = jax.tree.leaves(model.params, is_leaf=lambda leaf: isinstance(leaf, Int8Rows))
    weights = ["int8 weights"] if any(isinstance(leaf, Int8Rows) for leaf in leaves) else []
    cache = [] if model.cache is None else [f"{model.cache} cache"]
    return max(BOUNDS[name] for name in (str(model.model.compute_dtype), *weights, *cache))


def programs_in_steady_state(model: GPT, *, rows: int = 6, new_tokens: int = 48, seed: int = 0) -> int:
    """Return how many programs other prompts, lengths, seeds and temperatures compile once their sizes have been seen.

    Arguments as in `check_sampler`.
    """
    cfg, ids = model.model, model.tokenizer.size
    decoder = decoder_for(cfg, ids, model.cache)
    params = model.prepared
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


def with_noise(expected: Sequence[np.ndarray], seeds: Sequence[int], vocab_size: int) -> list[np.ndarray]:
    """Return what a row drawn at temperature 1 takes the largest of: log-probabilities and the noise of its seed.

    A draw is the largest of logits and Gumbel noise (Gumbel 1954), which here follows from the seed and the step alone.

    Args:
        expected: of `forward_logprobs`.
        seeds: of the rows.
        vocab_size: ids that the noise is drawn for, those that only pad the logits included.
    """
    out = []
    for expected_TV, seed in zip(expected, seeds, strict=True):
        row = jax.random.fold_in(jax.random.key(seed), 0)
        steps, ids = expected_TV.shape
        keys = jax.vmap(lambda step, row=row: jax.random.fold_in(row, step))(jnp.arange(steps))
        noise_TV = jax.vmap(lambda key: jax.random.gumbel(key, (vocab_size,)))(keys)
        out.append(expected_TV + np.asarray(noise_TV)[:, :ids])
    return out


def against_forward(
    mode: str, expected: Sequence[np.ndarray], scores: Sequence[np.ndarray], samples: Samples, bound: float
) -> Finding:
    """Compare log-probabilities with the forward pass, and ids with those that it would choose.

    Args:
        mode: name of the comparison.
        expected: of `forward_logprobs`.
        scores: the id chosen has the largest one: `expected` for greedy rows, of `with_noise` for drawn ones.
        samples: chosen.
        bound: largest difference allowed [nats].
    """
    worst, other, ties = 0.0, 0, 0
    for expected_TV, score_TV, tokens, got in zip(expected, scores, samples.tokens, samples.logprobs, strict=True):
        logprobs, chosen = (np.take_along_axis(a, tokens[:, None], axis=1)[:, 0] for a in (expected_TV, score_TV))
        worst = max(worst, float(np.abs(logprobs - got).max()))
        short = score_TV.max(-1) - chosen
        other += int((short > bound).sum())
        ties += int(((short > 0) & (short <= bound)).sum())
    return Finding(mode, len(expected), sum(map(len, samples.tokens)), other, ties, worst, bound)


def against(mode: str, scores: Sequence[np.ndarray], wanted: Samples, got: Samples, bound: float) -> Finding:
    """Compare two ways to draw the same rows, each up to the first id where they part.

    Args:
        mode: name of the comparison.
        scores: as in `against_forward`, for `wanted`; they tell whether two ids tie.
        wanted: one way.
        got: the other.
        bound: largest difference allowed [nats].
    """
    worst, other, ties, compared = 0.0, 0, 0, 0
    rows = zip(wanted.tokens, got.tokens, wanted.logprobs, got.logprobs, scores, strict=True)
    for a, b, p, q, score_TV in rows:
        n = min(len(a), len(b))
        differs = np.flatnonzero(a[:n] != b[:n])
        same = int(differs[0]) if len(differs) else n
        compared += same
        worst = max(worst, float(np.abs(p[:same] - q[:same]).max(initial=0.0)))
        if same < n:  # behind it the rows are other texts
            gap = abs(score_TV[same, a[same]] - score_TV[same, b[same]])
            ties, other = (ties + 1, other) if gap <= bound else (ties, other + 1)
        elif len(a) != len(b):
            other += 1
    return Finding(mode, len(scores), compared, other, ties, worst, bound)
