"""Proof that a run's sampler is right in every mode, on that checkpoint.

Owns the comparisons and their bounds. The reference is one forward pass without a cache over each finished row; against it
stand the cached loop, one row alone, a stream, and a prefill in pieces. Refuses to change the sampler's settings.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jgpt import sampler
from jgpt.check import require
from jgpt.config import ModelConfig
from jgpt.decoder import decoder_for
from jgpt.loaded import GPT
from jgpt.model import gpt
from jgpt.sampler import Samples
from jgpt.sampling import Sampling

# Sums in another order, at logits of order 10: f32 keeps 7 digits and bfloat16 between 2 and 3.
BOUNDS: Final = {"float32": 1e-4, "bfloat16": 0.15}
GREEDY: Final = Sampling(temperature=0.0)


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
    decoder = decoder_for(cfg, ids)
    params = decoder.prepare(model.params)
    prompts = random_prompts(cfg.context_length, ids, rows, seed)
    new_tokens = min(new_tokens, cfg.context_length - max(map(len, prompts)))
    bound = BOUNDS[str(cfg.compute_dtype)] if bound is None else bound
    draw = partial(sampler.sample, decoder, params, max_new_tokens=new_tokens)
    greedy, drawn = draw(prompts, sampling=GREEDY), draw(prompts, seeds=[seed + i for i in range(rows)])
    found = []
    for name, samples in (("cached = uncached, greedy", greedy), ("cached = uncached, drawn", drawn)):
        found.append(_against_forward(name, cfg, params, ids, prompts, samples, bound, greedy=samples is greedy))

    def compare(mode: str, wanted: Samples, got: Samples) -> None:
        found.append(_against(mode, cfg, params, ids, prompts, wanted, got, bound))

    compare("alone = in a batch, greedy", greedy, _alone(draw, prompts, sampling=GREEDY))
    alone = [draw([prompt], seeds=[seed + i]) for i, prompt in enumerate(prompts)]
    compare("alone = in a batch, drawn", drawn, _joined(alone))
    streamed = list(sampler.stream(decoder, params, prompts, max_new_tokens=new_tokens, sampling=GREEDY))[-1]
    compare("streamed = whole", greedy, streamed)
    pieces = max(1, max(map(len, prompts)) // 3)
    compare("prefill in pieces = in one", greedy, draw(prompts, sampling=GREEDY, prefill_chunk=pieces))
    again = draw([*prompts, prompts[0]], sampling=GREEDY)
    compare("shared prefill = own", greedy, Samples(*(field[:rows] for field in again)))
    return found


def random_prompts(context: int, ids: int, rows: int, seed: int) -> list[np.ndarray]:
    """Return prompts of random ids, from one token to half of the context, no two of one length where there is room."""
    rng = np.random.default_rng(seed)
    lengths = np.linspace(1, max(1, context // 2), rows).astype(int)
    return [rng.integers(0, ids, n).astype(np.int32) for n in lengths]


def _alone(draw: Callable[..., Samples], prompts: Sequence[np.ndarray], **options: Any) -> Samples:
    return _joined([draw([prompt], **options) for prompt in prompts])


def _joined(parts: Sequence[Samples]) -> Samples:
    return Samples(*([value for part in parts for value in part[field]] for field in range(4)))


@partial(jax.jit, static_argnums=(0,))
def _forward(cfg: ModelConfig, params: Any, tokens_BS: Int[Array, "B S"]) -> Float[Array, "B S V"]:
    """Return the logits of whole rows, without a cache."""
    positions_BS = jnp.broadcast_to(jnp.arange(tokens_BS.shape[1])[None, :], tokens_BS.shape)
    return gpt.apply(cfg, params, tokens_BS, positions_BS)[0]


def _logprobs(
    cfg: ModelConfig, params: Any, ids: int, prompts: Sequence[np.ndarray], samples: Samples
) -> list[np.ndarray]:
    """Return the log-probabilities [T, ids] of each row's generated positions, by the forward pass."""
    rows_BS = np.zeros((len(prompts), cfg.context_length), np.int32)
    for row, prompt, new in zip(rows_BS, prompts, samples.tokens, strict=True):
        row[: len(prompt)] = prompt
        row[len(prompt) : len(prompt) + len(new)] = new
    out = []
    for row, prompt, new in zip(rows_BS, prompts, samples.tokens, strict=True):
        logits_SV = np.asarray(_forward(cfg, params, jnp.asarray(row[None])))[0, :, :ids].astype(np.float64)
        logits_TV = logits_SV[len(prompt) - 1 : len(prompt) - 1 + len(new)]
        top_T1 = logits_TV.max(-1, keepdims=True)
        out.append(logits_TV - top_T1 - np.log(np.exp(logits_TV - top_T1).sum(-1, keepdims=True)))
    return out


def _against_forward(
    mode: str,
    cfg: ModelConfig,
    params: Any,
    ids: int,
    prompts: Sequence[np.ndarray],
    samples: Samples,
    bound: float,
    *,
    greedy: bool,
) -> Finding:
    """Compare log-probabilities with the forward pass, and greedy ids with its most probable ones."""
    worst, other, ties = 0.0, 0, 0
    for expected_TV, tokens, got in zip(
        _logprobs(cfg, params, ids, prompts, samples), samples.tokens, samples.logprobs, strict=True
    ):
        chosen = np.take_along_axis(expected_TV, tokens[:, None], axis=1)[:, 0]
        worst = max(worst, float(np.abs(chosen - got).max()))
        if greedy:
            short = expected_TV.max(-1) - chosen
            other += int((short > bound).sum())
            ties += int(((short > 0) & (short <= bound)).sum())
    return Finding(mode, len(prompts), sum(map(len, samples.tokens)), other, ties, worst, bound)


def _against(
    mode: str,
    cfg: ModelConfig,
    params: Any,
    ids: int,
    prompts: Sequence[np.ndarray],
    wanted: Samples,
    got: Samples,
    bound: float,
) -> Finding:
    """Compare two ways to draw the same rows, each up to the first id where they part."""
    worst, other, ties, compared = 0.0, 0, 0, 0
    expected = _logprobs(cfg, params, ids, prompts, wanted)
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
    return Finding(mode, len(prompts), compared, other, ties, worst, bound)
