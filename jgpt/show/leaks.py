"""Whether a model sees what it must not: other documents of its row, or the future of its own.

Owns the experiment: tokens are changed, and every place that may not know of it must stay exactly as it was, to the last bit.
The model is that of the config, freshly initialised and then disturbed, since layers that begin at zero would hide a leak.
"""

from functools import partial
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jgpt.batch import PADDING_SEGMENT, Batch
from jgpt.check import require
from jgpt.config import ModelConfig
from jgpt.model import gpt
from jgpt.show.rules import Finding

TRIALS: Final = 8  # changes tried, each in a row of its own
NOISE: Final = 0.1  # on every parameter: enough that no path through the model is silent

APART: Final = "documents do not see each other"
PAST_ONLY: Final = "no token sees its future"
OWN: Final = "a document sees its own past"


def disturbed(cfg: ModelConfig, seed: int) -> gpt.Params:
    """Return fresh parameters of a resolved config, with noise on each."""
    return _disturbed(cfg, jax.random.key(seed))


@partial(jax.jit, static_argnums=0)
def _disturbed(cfg: ModelConfig, key: PRNGKeyArray) -> gpt.Params:
    init_key, noise_key = jax.random.split(key)
    leaves, treedef = jax.tree.flatten(gpt.init(cfg, init_key))
    # one draw for all: a draw for each parameter takes several times as long to compile
    noise = NOISE * jax.random.normal(noise_key, (sum(leaf.size for leaf in leaves),))
    ends = np.cumsum([leaf.size for leaf in leaves])
    parts = jnp.split(noise, ends[:-1].tolist())
    return jax.tree.unflatten(treedef, [leaf + p.reshape(leaf.shape) for leaf, p in zip(leaves, parts, strict=True)])


@partial(jax.jit, static_argnums=0)
def _features(
    cfg: ModelConfig,
    params: gpt.Params,
    tokens_BS: Int[Array, "B S"],
    positions_BS: Int[Array, "B S"],
    segments_BS: Int[Array, "B S"],
) -> Float[Array, "B S D"]:
    return gpt.features(cfg, params, tokens_BS, positions_BS, segments_BS)[0]


def probe(cfg: ModelConfig, params: gpt.Params, batch: Batch, num_ids: int, seed: int = 0) -> list[Finding]:
    """Return what became of the three rules.

    Compared are the features before the output matrix, of which the logits of each place are a function.

    Args:
        cfg: resolved.
        params: from `disturbed`.
        batch: real rows.
        num_ids: ids that mean something.
        seed: of the changes.

    Raises:
        ValueError: no row holds a document of two tokens.
    """
    random = np.random.default_rng(seed)
    trials = _trials(batch, random)
    rows = np.array([row for row, _, _, _ in trials])
    # the same shape and the same place in it, before and after: then even rounding is the same
    tokens_BS, positions_BS, segments_BS = (a[rows] for a in (batch.tokens_BS, batch.positions_BS, batch.segments_BS))
    onward_BS, single_BS = tokens_BS.copy(), tokens_BS.copy()
    for trial, (_, _, at, stop) in enumerate(trials):
        shift = random.integers(1, num_ids, stop - at)
        onward_BS[trial, at:stop] = (onward_BS[trial, at:stop] + shift) % num_ids
        single_BS[trial, at] = onward_BS[trial, at]

    def features(tokens_BS: np.ndarray) -> np.ndarray:
        return np.asarray(_features(cfg, params, tokens_BS, positions_BS, segments_BS), np.float32)

    before_BSD = features(tokens_BS)
    onward_change_BS = (features(onward_BS) != before_BSD).any(-1)
    single_change_BS = (features(single_BS) != before_BSD).any(-1)
    require(bool(np.isfinite(before_BSD).all()), "a freshly initialised model of this config gives NaN or infinity.")
    others = future = own = None
    for trial, (row, start, at, stop) in enumerate(trials):
        changed = np.flatnonzero(onward_change_BS[trial])
        number = segments_BS[trial, at]
        outside = changed[(changed < start) | (changed >= stop)]
        outside = outside[segments_BS[trial, outside] != PADDING_SEGMENT]
        early = changed[(changed >= start) & (changed < at)]
        if len(outside) and others is None:
            others = (
                f"row {row}: a change in document {number} moved {len(outside)} places of others, first {outside[0]}"
            )
        if len(early) and future is None:
            future = f"row {row}, document {number}: a change at place {at} moved place {early[0]} before it"
        if not onward_change_BS[trial, at] and own is None:
            own = f"row {row}, document {number}: a change at place {at} did not move the place itself"
        if at + 1 < stop and not single_change_BS[trial, at + 1 : stop].any() and own is None:
            own = f"row {row}, document {number}: a change at place {at} moved none of the {stop - at - 1} places after it"
    several = [row for row, _, _, _ in trials if batch.segments_BS[row].max() > 1]
    apart = Finding(APART, others) if several else Finding(APART, untried="every row holds one document")
    return [apart, Finding(PAST_ONLY, future), Finding(OWN, own)]


def _trials(batch: Batch, random: np.random.Generator) -> list[tuple[int, int, int, int]]:
    """Return `TRIALS` of (row, first place of a document, place of the change, place after the last).

    Rows with several documents come first: only they can leak between documents.
    """
    documents = [
        (row, places[0], places[-1] + 1)
        for row in range(len(batch.segments_BS))
        for number in range(1, int(batch.segments_BS[row].max(initial=0)) + 1)
        if len(places := np.flatnonzero(batch.segments_BS[row] == number)) >= 2
    ]
    require(bool(documents), "no row holds a document of two tokens or more: there is nothing to try.")
    alone = {row: sum(other == row for other, _, _ in documents) == 1 for row, _, _ in documents}
    order = sorted(random.permutation(len(documents)), key=lambda i: alone[documents[i][0]])
    chosen = [documents[order[i % len(order)]] for i in range(TRIALS)]
    out = []
    for trial, (row, start, stop) in enumerate(chosen):
        # the first trials change whole documents, the others from some place on
        at = start if trial % 2 == 0 else int(random.integers(start + 1, stop))
        out.append((row, int(start), int(at), int(stop)))
    return out
