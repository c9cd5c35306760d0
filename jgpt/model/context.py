"""Rows cut over the devices of mesh.context: which device has which stretch of a row, and attention across them.

Owns the order of a row that is cut, and the exchange. Everything but attention, n-grams and the convolution of embeddings looks
at one token alone, and does not know. A row of 2c stretches is dealt to c devices so that device i has stretches i and
2c - 1 - i: a stretch early in the row, whose queries see few keys, with a late one that sees many, so that all devices compute
the same (zigzag; Llama 3 report, Grattafiori et al. 2024, section 3.3.2, which also gathers keys and values instead of passing
them round a ring: with grouped heads they are small beside the queries).

Windows and sparse patterns are masks here: what they hide is computed all the same.

Worked example, 8 tokens over 2 devices: stretches 01 23 45 67, device 0 has 01 67, device 1 has 23 45.
"""

from functools import partial
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from jgpt.layout import mesh_axes, parts, place, spec_of
from jgpt.model import blocked
from jgpt.model.visibility import MASKED, Pattern, Visibility

QUERIES_AT_ONCE: Final = 1024  # of a row: their scores with one stretch of keys stand in memory


def is_cut() -> bool:
    """Return whether rows are cut over devices here."""
    return parts("seq") > 1


def spread(x_BS: Shaped[Array, "B S *A"]) -> Shaped[Array, "B S *A"]:
    """Return what belongs to the tokens of whole rows in the order in which rows are cut; x itself where they are not."""
    devices = parts("seq")
    if devices == 1:
        return x_BS
    order = [stretch for i in range(devices) for stretch in (i, 2 * devices - 1 - i)]
    B, S, *rest = x_BS.shape
    stretches = x_BS.reshape(B, 2 * devices, S // (2 * devices), *rest)
    return place(stretches[:, jnp.array(order)].reshape(x_BS.shape), "batch", "seq", *(None for _ in rest))


def attend(
    q_BSHK: Float[Array, "B S H K"],
    k_BSGK: Float[Array, "B S G K"],
    v_BSGK: Float[Array, "B S G K"],
    visible: Visibility,
    softcap: float | None,
) -> Float[Array, "B S H K"]:
    """Return the attention of tokens to each other, all in the order of `spread`.

    Args:
        q_BSHK: queries.
        k_BSGK: keys.
        v_BSGK: values.
        visible: with queries in the order of `spread`, and keys as they stand in the row.
        softcap: of the scores.
    """
    mesh = mesh_axes()
    rule = _Rule(visible.window, visible.pattern, softcap, mesh["context"])
    queries, whole = spec_of(("batch", "seq")), spec_of(("batch", None))
    segments = None if visible.q_segments_BS is None else (visible.q_segments_BS, visible.kv_segments_BT)
    return jax.shard_map(
        partial(_on_device, rule),
        in_specs=(
            spec_of(("batch", "seq", "heads", None)),
            *(spec_of(("batch", "seq", "kv_heads", None)),) * 2,
            (queries, whole),
            None if segments is None else (queries, whole),
        ),
        out_specs=spec_of(("batch", "seq", "heads", None)),
        axis_names=set(mesh),
        check_vma=False,
    )(q_BSHK, k_BSGK, v_BSGK, (visible.q_positions_BS, visible.kv_positions_BT), segments)


class _Rule(NamedTuple):
    """What is known of the attention before anything is computed; `devices`: over which a row is cut."""

    window: int | None
    pattern: Pattern | None
    softcap: float | None
    devices: int


class _Where(NamedTuple):
    """Positions and segments of this device's queries and of all keys, and the device's place in the row."""

    positions: tuple[Int[Array, "B s"], Int[Array, "B T"]]
    segments: tuple[Int[Array, "B s"], Int[Array, "B T"]] | None
    device: Int[Array, ""]


def _on_device(rule: _Rule, q_BsHK: Array, k_BsGK: Array, v_BsGK: Array, positions: tuple, segments: tuple) -> Array:
    """Return the attention of a device's queries to the keys of the whole row."""
    B, s, H, K = q_BsHK.shape
    G = k_BsGK.shape[2]
    n = _pieces(s // 2)
    q_BuqGRK = (q_BsHK * K**-0.5).reshape(B, 2 * n, s // 2 // n, G, H // G, K)
    q_uBGKQ = q_BuqGRK.transpose(1, 0, 3, 5, 4, 2).reshape(2 * n, B, G, K, -1)  # Q as in `blocked`
    k_tBGTK = k_BsGK.reshape(B, 2, s // 2, G, K).transpose(1, 0, 3, 2, 4)
    v_tBGKT = v_BsGK.reshape(B, 2, s // 2, G, K).transpose(1, 0, 3, 4, 2)
    where = _Where(positions, segments, jax.lax.axis_index("context"))
    out_uBGKQ = _core(rule, q_uBGKQ, k_tBGTK, v_tBGKT, where)
    out_uBGKRq = out_uBGKQ.reshape(2 * n, B, G, K, H // G, -1)
    return out_uBGKRq.transpose(1, 0, 5, 2, 4, 3).reshape(B, s, H, K)


def _pieces(queries: int) -> int:
    """Return into how many equal pieces a stretch of queries is cut; one where only many small ones are equal."""
    most = next(size for size in range(min(queries, QUERIES_AT_ONCE), 0, -1) if queries % size == 0)
    return queries // most if most >= QUERIES_AT_ONCE // 8 else 1


def _gathered(x_tBG: Array) -> Array:
    """Return the stretches of keys or values of all devices, in the order of `spread`."""
    return jax.lax.all_gather(x_tBG, "context", axis=0, tiled=True)


class _Pair(NamedTuple):
    """A piece of a device's queries and a stretch of keys that it may see.

    Attributes:
        piece: of the device's queries.
        stretch: of the keys, in the order of `spread`.
        mask_B1TQ: true where the query sees the key.
    """

    piece: Array
    stretch: Array
    mask_B1TQ: Array


def _pairs(rule: _Rule, pieces: int, groups: int, where: _Where, turn: Array) -> _Pair:
    """Return pair `turn` of the (2c + 1) n that a device computes, where each stretch of queries has n pieces.

    Stretch i of the queries sees stretches 0 to i of the keys, and stretch 2c - 1 - i sees 0 to 2c - 1 - i: on each device
    2c + 1 pairs together, so that all of them are done at the same time.
    """
    n, c = pieces // 2, rule.devices
    pair, i = turn // n, where.device
    early = pair <= i
    piece = jnp.where(early, 0, n) + turn % n
    key = jnp.where(early, pair, pair - i - 1)  # in the row
    gathered = jnp.where(key < c, 2 * key, 2 * (2 * c - 1 - key) + 1)

    def cut(x: tuple[Array, Array]) -> tuple[Array, Array]:
        queries, keys = x[0].shape[1] // pieces, x[1].shape[1] // (2 * c)
        return (
            jax.lax.dynamic_slice_in_dim(x[0], piece * queries, queries, 1),
            jax.lax.dynamic_slice_in_dim(x[1], key * keys, keys, 1),
        )

    segments = (None, None) if where.segments is None else cut(where.segments)
    seen = Visibility(*cut(where.positions), *segments, window=rule.window, pattern=rule.pattern)
    return _Pair(piece, gathered, blocked.keys_first(seen.mask(), groups))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _core(rule: _Rule, q_uBGKQ: Array, k_tBGTK: Array, v_tBGKT: Array, where: _Where) -> Array:
    return _core_forward(rule, q_uBGKQ, k_tBGTK, v_tBGKT, where)[0]


def _turns(rule: _Rule, q_uBGKQ: Array, where: _Where) -> tuple[Array, partial]:
    """Return the numbers of the pairs, and what makes a pair of one."""
    pieces, groups = len(q_uBGKQ), q_uBGKQ.shape[-1] * len(q_uBGKQ) // where.positions[0].shape[1]
    return jnp.arange((2 * rule.devices + 1) * pieces // 2), partial(_pairs, rule, pieces, groups, where)


def _core_forward(rule: _Rule, q_uBGKQ: Array, k_tBGTK: Array, v_tBGKT: Array, where: _Where) -> tuple[Array, tuple]:
    turns, pair_of = _turns(rule, q_uBGKQ, where)
    u, B, G, K, Q = q_uBGKQ.shape
    none = blocked.Sums(
        jnp.zeros((u, B, G, K, Q), jnp.float32),
        jnp.zeros((u, B, G, 1, Q), jnp.float32),
        jnp.full((u, B, G, 1, Q), MASKED, jnp.float32),
    )

    keys, values = _gathered(k_tBGTK), _gathered(v_tBGKT)

    def body(sums: blocked.Sums, turn: Array) -> tuple[blocked.Sums, None]:
        pair = pair_of(turn)
        k, v = keys[pair.stretch], values[pair.stretch]
        new = blocked.sums(q_uBGKQ[pair.piece], k, v, pair.mask_B1TQ, rule.softcap)
        both = blocked.Sums(*(x[pair.piece] for x in sums)).plus(new)
        return blocked.Sums(*(x.at[pair.piece].set(y) for x, y in zip(sums, both, strict=True))), None

    out_uBGKQ, log_z_uBG1Q = jax.lax.scan(body, none, turns)[0].result(q_uBGKQ.dtype)
    return out_uBGKQ, (q_uBGKQ, k_tBGTK, v_tBGKT, where, out_uBGKQ, log_z_uBG1Q)


def _core_backward(rule: _Rule, saved: tuple, dout_uBGKQ: Array) -> tuple[Array, Array, Array, None]:
    q_uBGKQ, k_tBGTK, v_tBGKT, where, out_uBGKQ, log_z_uBG1Q = saved
    turns, pair_of = _turns(rule, q_uBGKQ, where)
    delta_uBG1Q = blocked.delta(dout_uBGKQ, out_uBGKQ, axis=3)
    keys, values = _gathered(k_tBGTK), _gathered(v_tBGKT)  # once more: kept, they would take whole rows on every device

    def body(slopes: tuple, turn: Array) -> tuple[tuple, None]:
        dq, dk, dv = slopes
        pair = pair_of(turn)
        at, to = pair.piece, pair.stretch
        new = blocked.pull(
            q_uBGKQ[at],
            keys[to],
            values[to],
            pair.mask_B1TQ,
            rule.softcap,
            log_z_uBG1Q[at],
            delta_uBG1Q[at],
            dout_uBGKQ[at],
        )
        return (dq.at[at].add(new[0]), dk.at[to].add(new[1]), dv.at[to].add(new[2])), None

    start = tuple(jnp.zeros(x.shape, jnp.float32) for x in (q_uBGKQ, keys, values))
    (dq, *others), _ = jax.lax.scan(body, start, turns)
    dk, dv = (jax.lax.psum_scatter(x.astype(keys.dtype), "context", scatter_dimension=0, tiled=True) for x in others)
    return dq.astype(q_uBGKQ.dtype), dk, dv, None


_core.defvjp(_core_forward, _core_backward)
