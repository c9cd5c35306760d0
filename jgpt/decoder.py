"""A language model as the sampler sees it: two functions and a cache, whatever computes them.

Owns `Decoder`, and how a GPT becomes one. Refuses to draw.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jgpt.check import require
from jgpt.config import ModelConfig
from jgpt.model import gpt
from jgpt.model.cache import SLACK, init_cache
from jgpt.model.matrices import is_stored, outputs_first


@dataclass(frozen=True)
class Decoder:
    """A language model as the sampler sees it. Compiled functions are kept for as long as the same object is used.

    Attributes:
        apply: `(params, tokens_BS, positions_BS, cache, index_B) -> (logits_BV, cache)`: feed S tokens a row and return
            the f32 logits that follow the token at `index_B` of each row. Tokens behind it only pad the row, and so do all
            where it is negative: the cache need not remember them, and the logits mean nothing.
        init_cache: `(batch, length) -> cache`: an empty cache of `length` tokens, whose arrays have the rows first.
        vocab_size: width of the logits.
        context_length: longest prompt plus answer [tokens].
        num_ids: ids that mean something, None = vocab_size. The rest only pads the logits and is never generated.
        prepare: called on the parameters once a call of `sample`, in the form that decoding reads fastest; `GPT.prepared`
            keeps it.
        begin: as `apply`, for prompts that are fed at once, at positions 0 to S - 1 of an empty cache; None = `apply`.
        verify: `(params, tokens_BS, positions_BS, cache) -> (logits_BSV, cache)`: as `apply`, with the logits after every
            token; None = there is no such function, and no speculative decoding.
        rewind: tokens that were fed at once and may be taken back by feeding others in their place; None = any number.
    """

    apply: Callable[..., tuple[Array, Any]]
    init_cache: Callable[[int, int], Any]
    vocab_size: int
    context_length: int
    num_ids: int | None = None
    prepare: Callable[[Any], Any] = lambda params: params
    begin: Callable[..., tuple[Array, Any]] | None = None
    verify: Callable[..., tuple[Array, Any]] | None = None
    rewind: int | None = None

    @property
    def ids(self) -> int:
        """Number of ids that may be generated."""
        return self.vocab_size if self.num_ids is None else self.num_ids


@cache
def decoder_for(cfg: ModelConfig, num_ids: int | None = None, cache_dtype: str | None = None) -> Decoder:
    """Return the decoder of a resolved config; equal arguments share one decoder and what was compiled for it.

    Args:
        cfg: from `gpt.resolve`.
        num_ids: `Vocabulary.size`, which `cfg.vocab_size` rounds up.
        cache_dtype: type in which keys and values are kept, e.g. "int8"; None = the type of compute.

    Raises:
        ValueError: `cfg` is not resolved, or knows fewer ids than `num_ids`.
    """
    require(
        cfg.vocab_size is not None and cfg.compute_dtype != "auto",
        f"model.vocab_size is {cfg.vocab_size} and model.compute_dtype {cfg.compute_dtype!r}: pass the config through "
        "gpt.resolve first.",
    )
    require(
        num_ids is None or 1 <= num_ids <= (cfg.vocab_size or 0),
        f"num_ids is {num_ids}: must lie between 1 and model.vocab_size {cfg.vocab_size}; pass Vocabulary.size.",
    )

    def feed(
        fresh: bool,
        params: Any,
        tokens_BS: Int[Array, "B S"],
        positions_BS: Int[Array, "B S"],
        cache: Any,
        index_B: Int[Array, " B"],
    ) -> tuple[Float[Array, "B V"], Any]:
        x_BSD, cache, _ = gpt.features(cfg, params, tokens_BS, positions_BS, cache=cache, fresh=fresh, last_B=index_B)
        x_BD = jnp.take_along_axis(x_BSD, jnp.maximum(index_B, 0)[:, None, None], axis=1)[:, 0]
        return gpt.logits(cfg, x_BD, gpt.stored_output(cfg, params)), cache

    def verify(
        params: Any, tokens_BS: Int[Array, "B S"], positions_BS: Int[Array, "B S"], cache: Any
    ) -> tuple[Float[Array, "B S V"], Any]:
        return gpt.apply(cfg, params, tokens_BS, positions_BS, cache=cache)

    return Decoder(
        apply=lambda *arguments: feed(False, *arguments),
        init_cache=lambda batch, length: init_cache(cfg, batch, length, cache_dtype or cfg.compute_dtype),
        vocab_size=cfg.vocab_size,
        context_length=cfg.context_length,
        num_ids=num_ids,
        prepare=_prepare,
        begin=lambda *arguments: feed(True, *arguments),
        verify=verify,
        rewind=SLACK if any(cfg.window_of(layer) is not None for layer in range(cfg.depth)) else None,
    )


def _prepare(params: gpt.Params) -> gpt.Params:
    """Return separate layers, on a CPU with outputs first; what is so already stays as it is."""
    blocks = params["blocks"]
    if jax.default_backend() != "cpu":
        return params if isinstance(blocks, tuple) else _unstack(params)
    ready = isinstance(blocks, tuple) and is_stored(params["embedding"]["tokens"])
    return params if ready else _outputs_first(params)


_unstack = jax.jit(gpt.unstack)
_outputs_first = jax.jit(lambda params: outputs_first(gpt.unstack(params)))
