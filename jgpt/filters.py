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
NO_ID: Final = 2**31 - 1  # no id either: what is scattered there is dropped


class Knobs(NamedTuple):
    """The values of `Sampling` as arrays, one entry a row; a filter that is off has the value that changes nothing."""

    temperature_B: Float[Array | np.ndarray, " B"]
    top_k_B: Int[Array | np.ndarray, " B"]
    top_p_B: Float[Array | np.ndarray, " B"]
    min_p_B: Float[Array | np.ndarray, " B"]
    typical_p_B: Float[Array | np.ndarray, " B"]
    penalty_B: Float[Array | np.ndarray, " B"]
    presence_B: Float[Array | np.ndarray, " B"]
    frequency_B: Float[Array | np.ndarray, " B"]
    bias_ids_BN: Int[Array | np.ndarray, "B N"]
    biases_BN: Float[Array | np.ndarray, "B N"]
    min_new_B: Int[Array | np.ndarray, " B"]
    guidance_B: Float[Array | np.ndarray, " B"]
    schedule_B: Int[Array | np.ndarray, " B"]


class Stages(NamedTuple):
    """Which costly work any row of the batch needs. Static: a change compiles again.

    Attributes:
        penalty: remember the ids seen by each row.
        sort: sort the vocabulary, for top-k and top-p.
        noise: draw random numbers; false where all rows are greedy.
        guidance: compute each sample without its condition as well.
        typical: sort it by surprise, for typical-p.
        top: most probable ids to report at each token, with their log-probabilities.
    """

    penalty: bool
    sort: bool
    noise: bool
    guidance: bool = False
    typical: bool = False
    top: int = 0


class Written(NamedTuple):
    """What the penalties look at.

    Attributes:
        prompt_BV: whether an id stands in the prompt.
        uses_BV: how often it stands in the output so far.
    """

    prompt_BV: Bool[Array, "B V"]
    uses_BV: Int[Array, "B V"]


def knobs_of(samplings: Sequence[Sampling], biases: int | None = None) -> Knobs:
    """Return the values of one `Sampling` a row as NumPy arrays.

    Args:
        samplings: of the rows.
        biases: N, room for the biases of a row; None = for the most of any, rounded up to a power of two.
    """
    most = max((len(s.logit_bias) for s in samplings), default=0)
    if biases is None:
        biases = 1 << (most - 1).bit_length() if most else 0
    bias_ids_BN = np.full((len(samplings), biases), NO_ID, np.int32)
    biases_BN = np.zeros(bias_ids_BN.shape, np.float32)
    for row, s in enumerate(samplings):
        for slot, (i, bias) in enumerate(s.logit_bias):
            bias_ids_BN[row, slot], biases_BN[row, slot] = i, bias
    return Knobs(
        temperature_B=np.array([s.temperature for s in samplings], np.float32),
        top_k_B=np.array([min(s.top_k or OFF_TOP_K, OFF_TOP_K) for s in samplings], np.int32),
        top_p_B=np.array([1.0 if s.top_p is None else s.top_p for s in samplings], np.float32),
        min_p_B=np.array([s.min_p or 0.0 for s in samplings], np.float32),
        typical_p_B=np.array([1.0 if s.typical_p is None else s.typical_p for s in samplings], np.float32),
        penalty_B=np.array([s.repetition_penalty for s in samplings], np.float32),
        presence_B=np.array([s.presence_penalty for s in samplings], np.float32),
        frequency_B=np.array([s.frequency_penalty for s in samplings], np.float32),
        bias_ids_BN=bias_ids_BN,
        biases_BN=biases_BN,
        min_new_B=np.array([s.min_new_tokens for s in samplings], np.int32),
        guidance_B=np.array([s.guidance for s in samplings], np.float32),
        schedule_B=np.array([GUIDANCE_SCHEDULES.index(s.guidance_schedule) for s in samplings], np.int32),
    )


def stages_of(samplings: Sequence[Sampling], top: int = 0) -> Stages:
    """Return the work that at least one of `samplings` needs; a greedy row needs neither noise nor sorting.

    Args:
        samplings: of the rows.
        top: most probable ids to report at each token.
    """
    drawn = [s for s in samplings if s.temperature > 0]
    return Stages(
        penalty=any(
            (s.repetition_penalty, s.presence_penalty, s.frequency_penalty) != (1.0, 0.0, 0.0) for s in samplings
        ),
        sort=any(s.top_k is not None or (s.top_p is not None and s.top_p < 1) for s in drawn),
        noise=bool(drawn),
        guidance=any(s.guidance != 1.0 for s in samplings),
        typical=any(s.typical_p is not None and s.typical_p < 1 for s in drawn),
        top=top,
    )


def guidance_scale(knobs: Knobs, step_B: Int[Array, " B"], steps_B: Int[Array, " B"]) -> Float[Array, " B"]:
    """Return the scale of guidance at a step: constant, or rising from 1 at the first to the row's scale at the last.

    Rising along a line after Muse (Chang et al. 2023, section 2.7), so that the first tokens, which decide the most, keep
    the model's own variety; along half a cosine it stays low for longer and is steepest midway.

    Args:
        knobs: scale and schedule of each row.
        step_B: of the token to draw, from 0.
        steps_B: tokens to be drawn.
    """
    share_B = step_B.astype(jnp.float32) / jnp.maximum(steps_B - 1, 1)
    shares_BC = jnp.stack([jnp.ones_like(share_B), share_B, (1 - jnp.cos(jnp.pi * share_B)) / 2], axis=1)
    return 1 + (knobs.guidance_B - 1) * jnp.take_along_axis(shares_BC, knobs.schedule_B[:, None], axis=1)[:, 0]


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


def count_penalties(
    logits_BV: Float[Array, "B V"],
    uses_BV: Int[Array, "B V"],
    presence_B: Float[Array, " B"],
    frequency_B: Float[Array, " B"],
) -> Float[Array, "B V"]:
    """Subtract the frequency penalty for every use of an id in the output, and the presence penalty if there is any.

    OpenAI's rule: logit - uses x frequency - (uses > 0) x presence. Ids of the prompt do not count.
    """
    return logits_BV - uses_BV * frequency_B[:, None] - (uses_BV > 0) * presence_B[:, None]


def add_biases(
    logits_BV: Float[Array, "B V"], bias_ids_BN: Int[Array, "B N"], biases_BN: Float[Array, "B N"]
) -> Float[Array, "B V"]:
    """Add each bias to the logit of its id; ids outside the vocabulary are dropped."""
    rows_B1 = jnp.arange(logits_BV.shape[0])[:, None]
    return logits_BV.at[rows_B1, bias_ids_BN].add(biases_BN, mode="drop")


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


def keep_typical(logits_BV: Float[Array, "B V"], p_B: Float[Array, " B"]) -> Float[Array, "B V"]:
    """Return logits with the ids ruled out that are least typical (Meister et al. 2022, equation 10).

    Ids stay in order of |-log p(id) - H|, H the entropy of the distribution, until they hold the probability `p_B`; the
    one that crosses it stays, and so do those that tie with it. p = 1 keeps all.
    """
    log_BV = jax.nn.log_softmax(logits_BV, axis=-1)
    entropy_B1 = -jnp.where(jnp.isneginf(log_BV), 0.0, jnp.exp(log_BV) * log_BV).sum(-1, keepdims=True)
    far_BV = jnp.abs(-log_BV - entropy_B1)  # +inf where an id is ruled out
    order_BV = jnp.argsort(far_BV, axis=-1)
    sorted_BV = jnp.take_along_axis(jnp.exp(log_BV), order_BV, axis=-1)
    before_BV = jnp.cumsum(sorted_BV, axis=-1) - sorted_BV
    p_B1 = p_B[:, None]
    first_1V = jnp.arange(logits_BV.shape[-1])[None, :] == 0
    inside_BV = (before_BV < p_B1) | (p_B1 >= 1.0) | first_1V
    farthest_B1 = jnp.where(inside_BV, jnp.take_along_axis(far_BV, order_BV, axis=-1), -jnp.inf).max(-1, keepdims=True)
    return jnp.where(far_BV <= farthest_B1, logits_BV, -jnp.inf)


def keep_from(logits_BV: Float[Array, "B V"], threshold_B: Float[Array, " B"]) -> Float[Array, "B V"]:
    """Return logits with those below the row's threshold ruled out.

    Ids that tie with the threshold all stay, so top-k may keep more than k and top-p more than p: a choice among equals
    would otherwise depend on their order in the vocabulary.
    """
    return jnp.where(logits_BV >= threshold_B[:, None], logits_BV, -jnp.inf)


def filter_logits(
    logits_BV: Float[Array, "B V"], knobs: Knobs, written: Written | None, stages: Stages
) -> Float[Array, "B V"]:
    """Return the logits of the distribution to draw from: penalties, biases, temperature, top-k, top-p, min-p, typical-p.

    Args:
        logits_BV: of the next token, -inf where an id is not allowed; each row allows at least one.
        knobs: values of the filters.
        written: ids in each row's prompt and output; None where no row has a penalty.
        stages: what `knobs` needs; a filter whose stage is off must be off in every row.
    """
    if stages.penalty and written is not None:
        seen_BV = written.prompt_BV | (written.uses_BV > 0)
        logits_BV = repetition_penalty(logits_BV, seen_BV, knobs.penalty_B)
        logits_BV = count_penalties(logits_BV, written.uses_BV, knobs.presence_B, knobs.frequency_B)
    if knobs.bias_ids_BN.shape[1]:
        logits_BV = add_biases(logits_BV, knobs.bias_ids_BN, knobs.biases_BN)
    logits_BV = temperature(logits_BV, knobs.temperature_B)
    if stages.sort:
        sorted_BV = -jnp.sort(-logits_BV, axis=-1)
        top_k_B = top_k_threshold(sorted_BV, knobs.top_k_B)
        top_p_B = top_p_threshold(keep_from(sorted_BV, top_k_B), knobs.top_p_B)
        logits_BV = keep_from(logits_BV, jnp.maximum(top_k_B, top_p_B))
    logits_BV = keep_from(logits_BV, min_p_threshold(logits_BV, knobs.min_p_B))
    return keep_typical(logits_BV, knobs.typical_p_B) if stages.typical else logits_BV


def draw(
    logits_BV: Float[Array, "B V"],
    keys_B: Key[Array, " B"],
    knobs: Knobs,
    written: Written | None,
    stages: Stages,
) -> Int[Array, " B"]:
    """Return one id a row: drawn with the row's own key, or the most probable one where the row is greedy.

    Among equally probable ids a greedy row takes the smallest. Arguments as in `filter_logits`.
    """
    filtered_BV = filter_logits(logits_BV, knobs, written, stages)
    best_B = jnp.argmax(filtered_BV, axis=-1)
    if not stages.noise:
        return best_B
    drawn_B = jax.vmap(jax.random.categorical)(keys_B, filtered_BV)
    return jnp.where(is_greedy(knobs.temperature_B), best_B, drawn_B)
