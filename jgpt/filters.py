"""The filters that turn logits into the distribution that is drawn from.

Owns one pure function a filter and their order. Refuses to know prompts, caches and loops. Every value is an array
with one entry a row, so that other values compile nothing and one batch can mix requests; only `Stages`, which says
what work is needed at all, is static. An id that is ruled out has the logit -inf.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jgpt.sampling import GUIDANCE_SCHEDULES, Sampling

OFF_TOP_K: Final = 2**31 - 1  # int32's largest: more ids than any vocabulary has


class Knobs(NamedTuple):
    """The values of `Sampling` as arrays, one entry a row; a filter that is off has the value that changes nothing."""

    temperature_B: Float[Array | np.ndarray, " B"]
    top_k_B: Int[Array | np.ndarray, " B"]
    top_p_B: Float[Array | np.ndarray, " B"]
    min_p_B: Float[Array | np.ndarray, " B"]
    penalty_B: Float[Array | np.ndarray, " B"]
    guidance_B: Float[Array | np.ndarray, " B"]
    schedule_B: Int[Array | np.ndarray, " B"]


class Stages(NamedTuple):
    """Which costly work any row of the batch needs. Static: a change compiles again.

    Attributes:
        penalty: remember the ids seen by each row.
        sort: sort the vocabulary, for top-k and top-p.
        noise: draw random numbers; false where all rows are greedy.
        guidance: compute each sample without its condition as well.
    """

    penalty: bool
    sort: bool
    noise: bool
    guidance: bool = False


def knobs_of(samplings: Sequence[Sampling]) -> Knobs:
    """Return the values of one `Sampling` a row as NumPy arrays."""
    return Knobs(
        temperature_B=np.array([s.temperature for s in samplings], np.float32),
        top_k_B=np.array([min(s.top_k or OFF_TOP_K, OFF_TOP_K) for s in samplings], np.int32),
        top_p_B=np.array([1.0 if s.top_p is None else s.top_p for s in samplings], np.float32),
        min_p_B=np.array([s.min_p or 0.0 for s in samplings], np.float32),
        penalty_B=np.array([s.repetition_penalty for s in samplings], np.float32),
        guidance_B=np.array([s.guidance for s in samplings], np.float32),
        schedule_B=np.array([GUIDANCE_SCHEDULES.index(s.guidance_schedule) for s in samplings], np.int32),
    )


def stages_of(samplings: Sequence[Sampling]) -> Stages:
    """Return the work that at least one of `samplings` needs; a greedy row needs neither noise nor sorting."""
    drawn = [s for s in samplings if s.temperature > 0]
    return Stages(
        penalty=any(s.repetition_penalty != 1.0 for s in samplings),
        sort=any(s.top_k is not None or (s.top_p is not None and s.top_p < 1) for s in drawn),
        noise=bool(drawn),
        guidance=any(s.guidance != 1.0 for s in samplings),
    )


def guidance_scale(knobs: Knobs, step: Int[Array, ""], steps: Int[Array, ""] | int) -> Float[Array, " B"]:
    """Return the scale of guidance at a step: constant, or rising from 1 at the first to the row's scale at the last.

    Rising along a line after Muse (Chang et al. 2023, section 2.7), so that the first tokens, which decide the most, keep
    the model's own variety; along half a cosine it stays low for longer and is steepest midway.

    Args:
        knobs: scale and schedule of each row.
        step: of the token to draw, from 0.
        steps: tokens to be drawn.
    """
    share = step.astype(jnp.float32) / jnp.maximum(steps - 1, 1)
    shares_C = jnp.stack([jnp.ones_like(share), share, (1 - jnp.cos(jnp.pi * share)) / 2])
    return 1 + (knobs.guidance_B - 1) * shares_C[knobs.schedule_B]


def guide(
    logits_BV: Float[Array, "B V"], without_BV: Float[Array, "B V"], scale_B: Float[Array, " B"]
) -> Float[Array, "B V"]:
    """Return u + scale (c - u), c with and u without the condition (Ho and Salimans 2022, equation 6, scale = 1 + w).

    The paper moves scores, the gradients of log-densities; for tokens the logits stand in their place (Sanchez et al.
    2023, equation 7): the constants by which they differ from log-probabilities cancel in the softmax. A scale of 1 gives c
    to the bit, 0 gives u.
    """
    scale_B1 = scale_B[:, None]
    return jnp.where(scale_B1 == 1.0, logits_BV, without_BV + scale_B1 * (logits_BV - without_BV))


def repetition_penalty(
    logits_BV: Float[Array, "B V"], seen_BV: Bool[Array, "B V"], penalty_B: Float[Array, " B"]
) -> Float[Array, "B V"]:
    """Divide positive logits of seen ids by the penalty and multiply negative ones (Keskar et al. 2019, section 4.1).

    The paper's equation divides every logit, which would favour seen ids whose logit is negative: hence the sign rule.
    An id counts once, however often it was seen.
    """
    penalty_B1 = penalty_B[:, None]
    penalised_BV = jnp.where(logits_BV > 0, logits_BV / penalty_B1, logits_BV * penalty_B1)
    return jnp.where(seen_BV, penalised_BV, logits_BV)


def temperature(logits_BV: Float[Array, "B V"], temperature_B: Float[Array, " B"]) -> Float[Array, "B V"]:
    """Divide logits by the temperature after moving the largest to 0, so that no temperature overflows.

    Greedy rows (see `is_greedy`) are only moved.
    """
    divisor_B = jnp.where(is_greedy(temperature_B), 1.0, temperature_B)
    moved_BV = logits_BV - logits_BV.max(-1, keepdims=True)
    return jnp.where(jnp.isneginf(logits_BV), -jnp.inf, moved_BV / divisor_B[:, None])


def is_greedy(temperature_B: Float[Array, " B"]) -> Bool[Array, " B"]:
    """Return true where the temperature is 0, or so small that devices flush it to 0."""
    return temperature_B < jnp.finfo(jnp.float32).tiny


def top_k_threshold(sorted_BV: Float[Array, "B V"], k_B: Int[Array, " B"]) -> Float[Array, " B"]:
    """Return the k-th largest logit of each row (top-k sampling, Fan et al. 2018).

    Args:
        sorted_BV: logits in falling order.
        k_B: ids to keep; more than V keeps all.
    """
    last_B = jnp.minimum(k_B, sorted_BV.shape[-1]) - 1
    return jnp.take_along_axis(sorted_BV, last_B[:, None], axis=-1)[:, 0]


def top_p_threshold(sorted_BV: Float[Array, "B V"], p_B: Float[Array, " B"]) -> Float[Array, " B"]:
    """Return the smallest logit of the nucleus, the fewest ids that hold probability p.

    Nucleus sampling, Holtzman et al. 2020, section 3.1. The id that crosses p belongs to the nucleus, so it is never
    empty. p = 1 keeps all, whatever the sum rounds to.

    Args:
        sorted_BV: logits in falling order.
        p_B: probability to keep, in (0, 1].
    """
    probability_BV = jax.nn.softmax(sorted_BV, axis=-1)
    before_BV = jnp.cumsum(probability_BV, axis=-1) - probability_BV
    first_1V = jnp.arange(sorted_BV.shape[-1])[None, :] == 0
    p_B1 = p_B[:, None]
    inside_BV = (before_BV < p_B1) | (p_B1 >= 1.0) | first_1V
    return jnp.where(inside_BV, sorted_BV, jnp.inf).min(-1)


def min_p_threshold(logits_BV: Float[Array, "B V"], min_p_B: Float[Array, " B"]) -> Float[Array, " B"]:
    """Return the logit of an id that is `min_p` times as probable as the best one (Nguyen et al. 2024)."""
    return logits_BV.max(-1) + jnp.log(min_p_B)


def keep_from(logits_BV: Float[Array, "B V"], threshold_B: Float[Array, " B"]) -> Float[Array, "B V"]:
    """Return logits with those below the row's threshold ruled out.

    Ids that tie with the threshold all stay, so top-k may keep more than k and top-p more than p: a choice among equals
    would otherwise depend on their order in the vocabulary.
    """
    return jnp.where(logits_BV >= threshold_B[:, None], logits_BV, -jnp.inf)


def filter_logits(
    logits_BV: Float[Array, "B V"], knobs: Knobs, seen_BV: Bool[Array, "B V"] | None, stages: Stages
) -> Float[Array, "B V"]:
    """Return the logits of the distribution to draw from: penalty, temperature, top-k, top-p, min-p.

    Args:
        logits_BV: of the next token, -inf where an id is not allowed; each row allows at least one.
        knobs: values of the filters.
        seen_BV: ids in each row's prompt or output; None where no row has a penalty.
        stages: what `knobs` needs; a filter whose stage is off must be off in every row.
    """
    if stages.penalty and seen_BV is not None:
        logits_BV = repetition_penalty(logits_BV, seen_BV, knobs.penalty_B)
    logits_BV = temperature(logits_BV, knobs.temperature_B)
    if stages.sort:
        sorted_BV = -jnp.sort(-logits_BV, axis=-1)
        top_k_B = top_k_threshold(sorted_BV, knobs.top_k_B)
        top_p_B = top_p_threshold(keep_from(sorted_BV, top_k_B), knobs.top_p_B)
        logits_BV = keep_from(logits_BV, jnp.maximum(top_k_B, top_p_B))
    return keep_from(logits_BV, min_p_threshold(logits_BV, knobs.min_p_B))


def draw(
    logits_BV: Float[Array, "B V"],
    keys_B: Key[Array, " B"],
    knobs: Knobs,
    seen_BV: Bool[Array, "B V"] | None,
    stages: Stages,
) -> Int[Array, " B"]:
    """Return one id a row: drawn with the row's own key, or the most probable one where the row is greedy.

    Among equally probable ids a greedy row takes the smallest. Arguments as in `filter_logits`.
    """
    filtered_BV = filter_logits(logits_BV, knobs, seen_BV, stages)
    best_B = jnp.argmax(filtered_BV, axis=-1)
    if not stages.noise:
        return best_B
    drawn_B = jax.vmap(jax.random.categorical)(keys_B, filtered_BV)
    return jnp.where(is_greedy(knobs.temperature_B), best_B, drawn_B)
