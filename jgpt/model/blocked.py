"""Attention by blocks, for CPUs: what no query of a block can see is never computed, and the backward pass is written out.

Owns how queries and keys are cut. Keys must stand in the order of the queries, and documents in one piece (S = T, no
cache). Scores are held keys first, [T S], so that all products but two small ones read their operands as they lie in
memory. The backward pass computes the scores again from the log-normaliser (Dao et al. 2022, algorithm 4) and passes over
them twice, where automatic differentiation passes over them many times.

Q stands for the queries of all heads that share a key-value head, (R, block). The dots are further batch axes.
"""

from functools import partial
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jgpt.model.visibility import MASKED, Visibility

QUERY_BLOCK: Final = 64  # queries a block, about: the fastest of 25 to 100 for 134 to 256 tokens on two CPU cores
MAX_BLOCKS: Final = 16  # each block is compiled on its own
NEVER: Final = 1 << 30  # position of a key that only pads: later than every query


def attend(
    q_BSHK: Float[Array, "B S H K"],
    k_BTGK: Float[Array, "B T G K"],
    v_BTGK: Float[Array, "B T G K"],
    visible: Visibility,
    softcap: float | None,
) -> Float[Array, "B S H K"]:
    """Attend query block by query block, each to the keys it can reach; strided patterns by row and by column."""
    B, S, H, K = q_BSHK.shape
    G = k_BTGK.shape[2]
    R = H // G
    q_BSGRK = q_BSHK.reshape(B, S, G, R, K) * K**-0.5
    k_BGTK, v_BGKT = k_BTGK.swapaxes(1, 2), v_BTGK.transpose(0, 2, 3, 1)
    if visible.pattern is not None and visible.pattern.kind == "strided":
        q_BGKRS = q_BSGRK.transpose(0, 2, 4, 3, 1)
        out_BGKRS = _attend_strided(q_BGKRS, k_BGTK, v_BGKT, visible, visible.pattern.stride, softcap)
        return out_BGKRS.transpose(0, 4, 1, 3, 2).reshape(B, S, H, K)
    outs = []
    for first, start, stop in block_bounds(S, visible.window):
        q_BGKQ = q_BSGRK[:, start:stop].transpose(0, 2, 4, 3, 1).reshape(B, G, K, -1)
        mask_B1TQ = keys_first(cut(visible, slice(start, stop), slice(first, stop)).mask(), R)
        out_BGKQ = _core(q_BGKQ, k_BGTK[:, :, first:stop], v_BGKT[..., first:stop], mask_B1TQ, softcap)
        outs.append(out_BGKQ.reshape(B, G, K, R, stop - start))
    return jnp.concatenate(outs, axis=-1).transpose(0, 4, 1, 3, 2).reshape(B, S, H, K)


def block_bounds(length: int, window: int | None) -> list[tuple[int, int, int]]:
    """Return (first key, first query, query after the last) of each block; its keys end where its queries end.

    Worked example, 6 tokens in blocks of 3 with a window of 2: (0, 0, 3), (2, 3, 6).
    """
    size = QUERY_BLOCK if window is None else min(QUERY_BLOCK, max(window, QUERY_BLOCK // 2))
    size = -(-length // min(max(1, round(length / size)), MAX_BLOCKS))
    starts = range(0, length, size)
    return [(0 if window is None else max(0, a - window + 1), a, min(a + size, length)) for a in starts]


def cut(visible: Visibility, queries: slice, keys: slice) -> Visibility:
    """Return the rule for a stretch of queries and one of keys."""
    q_segments_BS, kv_segments_BT = visible.q_segments_BS, visible.kv_segments_BT
    return visible._replace(
        q_positions_BS=visible.q_positions_BS[:, queries],
        kv_positions_BT=visible.kv_positions_BT[:, keys],
        q_segments_BS=None if q_segments_BS is None else q_segments_BS[:, queries],
        kv_segments_BT=None if kv_segments_BT is None else kv_segments_BT[:, keys],
    )


def keys_first(mask_BST: Bool[Array, "B S T"], groups: int) -> Array:
    """Return the mask as [B 1 T Q], the same for each of the `groups` query heads in Q."""
    return jnp.tile(mask_BST.swapaxes(1, 2), (1, 1, groups))[:, None]


class Sums(NamedTuple):
    """What a stretch of keys adds to each query's softmax: the weighted values, the normaliser, and its exponent."""

    weighted: Array  # [... K Q]
    total: Array  # [... 1 Q]
    largest: Array  # [... 1 Q]

    def plus(self, other: "Sums") -> "Sums":
        """Return the sums over both stretches."""
        largest = jnp.maximum(self.largest, other.largest)
        mine, theirs = jnp.exp(self.largest - largest), jnp.exp(other.largest - largest)
        return Sums(self.weighted * mine + other.weighted * theirs, self.total * mine + other.total * theirs, largest)

    def result(self, dtype: jnp.dtype) -> tuple[Array, Array]:
        """Return the attended values [... K Q] and the log-normaliser [... 1 Q]."""
        return (self.weighted / self.total).astype(dtype), self.largest + jnp.log(self.total)


def _scores(q: Array, k: Array, softcap: float | None) -> Array:
    scores = jnp.einsum("...tk,...kq->...tq", k, q, preferred_element_type=jnp.float32)
    return scores if softcap is None else softcap * jnp.tanh(scores / softcap)


def sums(q: Array, k: Array, v: Array, mask: Array, softcap: float | None) -> Sums:
    """Return the sums of queries [... K Q] over keys [... T K] with values [... K T] where mask [... T Q] is true."""
    scores = jnp.where(mask, _scores(q, k, softcap), MASKED)
    largest = scores.max(-2, keepdims=True)
    weights = jnp.exp(scores - largest)
    total = weights.sum(-2, keepdims=True)
    weighted = jnp.einsum("...kt,...tq->...kq", v, weights.astype(v.dtype), preferred_element_type=jnp.float32)
    return Sums(weighted, total, largest)


def pull(
    q: Array, k: Array, v: Array, mask: Array, softcap: float | None, log_z: Array, delta: Array, dout: Array
) -> tuple[Array, Array, Array]:
    """Return the gradients of q, k and v through these keys.

    Args:
        q: queries [... K Q]; k, v and mask as in `sums`.
        k: keys.
        v: values.
        mask: of what is seen.
        softcap: of the scores.
        log_z: log-normaliser over all keys of a query, these and others [... 1 Q].
        delta: gradient of the output times the output, summed over channels [... 1 Q].
        dout: gradient of the output [... K Q].
    """
    dtype = q.dtype
    # transposed copies of the small operands: XLA:CPU multiplies transposed ones in place, but outside its fast kernels
    v_rows, k_columns = jax.lax.optimization_barrier((v.swapaxes(-2, -1), k.swapaxes(-2, -1)))
    scores = _scores(q, k, softcap)
    weights = jnp.where(mask, jnp.exp(scores - log_z), 0.0)
    dv_rows = jnp.einsum("...tq,...kq->...tk", weights.astype(dtype), dout)
    dweights = jnp.einsum("...tk,...kq->...tq", v_rows, dout, preferred_element_type=jnp.float32)
    dscores = weights * (dweights - delta)
    if softcap is not None:
        dscores = dscores * (1 - jnp.square(scores / softcap))
    dscores = dscores.astype(dtype)
    dq = jnp.einsum("...kt,...tq->...kq", k_columns, dscores)
    dk = jnp.einsum("...tq,...kq->...tk", dscores, q)
    return dq, dk, dv_rows.swapaxes(-2, -1)


def delta(dout: Array, out: Array, axis: int = 2) -> Array:
    """Return the sum of dout * out over the channels."""
    return jnp.sum(dout.astype(jnp.float32) * out.astype(jnp.float32), axis=axis, keepdims=True)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _core(q_BGKQ: Array, k_BGTK: Array, v_BGKT: Array, mask_B1TQ: Array, softcap: float | None) -> Array:
    return _core_forward(q_BGKQ, k_BGTK, v_BGKT, mask_B1TQ, softcap)[0]


def _core_forward(
    q_BGKQ: Array, k_BGTK: Array, v_BGKT: Array, mask_B1TQ: Array, softcap: float | None
) -> tuple[Array, tuple]:
    out_BGKQ, log_z_BG1Q = sums(q_BGKQ, k_BGTK, v_BGKT, mask_B1TQ, softcap).result(q_BGKQ.dtype)
    return out_BGKQ, (q_BGKQ, k_BGTK, v_BGKT, mask_B1TQ, out_BGKQ, log_z_BG1Q)


def _core_backward(softcap: float | None, saved: tuple, dout_BGKQ: Array) -> tuple[Array, Array, Array, None]:
    q_BGKQ, k_BGTK, v_BGKT, mask_B1TQ, out_BGKQ, log_z_BG1Q = saved
    delta_BG1Q = delta(dout_BGKQ, out_BGKQ)
    return *pull(q_BGKQ, k_BGTK, v_BGKT, mask_B1TQ, softcap, log_z_BG1Q, delta_BG1Q, dout_BGKQ), None


_core.defvjp(_core_forward, _core_backward)


class _Columns(NamedTuple):
    """A row of S tokens as C = stride columns of n tokens each, the columns being a further batch axis behind G.

    Attributes:
        stride: number of columns.
        length: S; the last row of columns may be padded.
    """

    stride: int
    length: int

    @property
    def rows(self) -> int:
        """Tokens of a column, n."""
        return -(-self.length // self.stride)

    def split(self, x: Array, axis: int, fill: int = 0) -> Array:
        """Return x with its axis S cut into n, and C moved to axis 2 (to 1 where that is the axis S)."""
        pads = [(0, 0)] * x.ndim
        pads[axis] = (0, self.rows * self.stride - self.length)
        x = jnp.pad(x, pads, constant_values=fill)
        x = x.reshape(*x.shape[:axis], self.rows, self.stride, *x.shape[axis + 1 :])
        return jnp.moveaxis(x, axis + 1, min(2, axis))

    def join(self, x: Array, axis: int) -> Array:
        """Undo `split`, whose `axis` this is as well."""
        x = jnp.moveaxis(x, 2, axis + 1)
        x = x.reshape(*x.shape[:axis], self.rows * self.stride, *x.shape[axis + 2 :])
        return jax.lax.slice_in_dim(x, 0, self.length, axis=axis)

    def mask(self, visible: Visibility, groups: int) -> Bool[Array, "B 1 C T Q"]:
        """Return which keys of a column a query of the column sees: those a stride or more before it."""
        B, n = visible.q_positions_BS.shape[0], self.rows

        def columns(x_BS: Array, fill: int) -> Array:
            return self.split(x_BS, 1, fill).reshape(B * self.stride, n)

        q_segments_BS, kv_segments_BT = visible.q_segments_BS, visible.kv_segments_BT
        seen = Visibility(
            columns(visible.q_positions_BS - self.stride, 0),
            columns(visible.kv_positions_BT, NEVER),
            None if q_segments_BS is None else columns(q_segments_BS, 0),
            None if kv_segments_BT is None else columns(kv_segments_BT, 0),
        )
        return keys_first(seen.mask(), groups).reshape(B, 1, self.stride, n, groups * n)


def _attend_strided(
    q_BGKRS: Array, k_BGTK: Array, v_BGKT: Array, visible: Visibility, stride: int, softcap: float | None
) -> Array:
    """Attend to the row that leads up to a query block by block, and to the column above it column by column.

    A query then reaches about `stride` + S / stride keys instead of S. Both parts end in sums that are added before they
    are divided; keys in the part of both are left to the row.
    """
    S, R = q_BGKRS.shape[-1], q_BGKRS.shape[3]
    near = visible._replace(pattern=None, window=stride)
    masks = [
        keys_first(cut(near, slice(start, stop), slice(first, stop)).mask(), R)
        for first, start, stop in block_bounds(S, stride)
    ]
    return _strided(q_BGKRS, k_BGTK, v_BGKT, masks, _Columns(stride, S).mask(visible, R), stride, softcap)


@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _strided(
    q_BGKRS: Array, k_BGTK: Array, v_BGKT: Array, near: list[Array], far: Array, stride: int, softcap: float | None
) -> Array:
    return _strided_forward(q_BGKRS, k_BGTK, v_BGKT, near, far, stride, softcap)[0]


def _strided_forward(
    q_BGKRS: Array, k_BGTK: Array, v_BGKT: Array, near: list[Array], far: Array, stride: int, softcap: float | None
) -> tuple[Array, tuple]:
    B, G, K, R, S = q_BGKRS.shape
    columns = _Columns(stride, S)
    n = columns.rows
    q_BGCKQ = columns.split(q_BGKRS, 4).reshape(B, G, stride, K, R * n)
    above = sums(q_BGCKQ, columns.split(k_BGTK, 2), columns.split(v_BGKT, 3), far, softcap)
    above = [columns.join(x.reshape(B, G, stride, -1, R, n), 4) for x in above]
    outs, logs = [], []
    for (first, start, stop), mask in zip(block_bounds(S, stride), near, strict=True):
        q_BGKQ = q_BGKRS[..., start:stop].reshape(B, G, K, -1)
        row = sums(q_BGKQ, k_BGTK[:, :, first:stop], v_BGKT[..., first:stop], mask, softcap)
        both = row.plus(Sums(*(x[..., start:stop].reshape(B, G, x.shape[2], -1) for x in above)))
        out, log_z = (x.reshape(B, G, -1, R, stop - start) for x in both.result(q_BGKRS.dtype))
        outs.append(out)
        logs.append(log_z)
    out_BGKRS, log_z_BG1RS = jnp.concatenate(outs, -1), jnp.concatenate(logs, -1)
    return out_BGKRS, (q_BGKRS, k_BGTK, v_BGKT, near, far, out_BGKRS, log_z_BG1RS)


def _strided_backward(stride: int, softcap: float | None, saved: tuple, dout_BGKRS: Array) -> tuple:
    q_BGKRS, k_BGTK, v_BGKT, near, far, out_BGKRS, log_z_BG1RS = saved
    B, G, K, R, S = q_BGKRS.shape
    delta_BG1RS = delta(dout_BGKRS, out_BGKRS)
    columns = _Columns(stride, S)

    def queries(x: Array) -> Array:
        return columns.split(x, 4).reshape(B, G, stride, x.shape[2], -1)

    dq, dk, dv = pull(
        queries(q_BGKRS),
        columns.split(k_BGTK, 2),
        columns.split(v_BGKT, 3),
        far,
        softcap,
        queries(log_z_BG1RS),
        queries(delta_BG1RS),
        queries(dout_BGKRS),
    )
    dq = columns.join(dq.reshape(B, G, stride, K, R, -1), 4)
    dk, dv = columns.join(dk, 2), columns.join(dv, 3)
    for (first, start, stop), mask in zip(block_bounds(S, stride), near, strict=True):
        block = [
            x[..., start:stop].reshape(B, G, x.shape[2], -1) for x in (q_BGKRS, log_z_BG1RS, delta_BG1RS, dout_BGKRS)
        ]
        q, log_z, own_delta, dout = block
        k, v = k_BGTK[:, :, first:stop], v_BGKT[..., first:stop]
        dq_block, dk_block, dv_block = pull(q, k, v, mask, softcap, log_z, own_delta, dout)
        dq = dq.at[..., start:stop].add(dq_block.reshape(B, G, K, R, stop - start))
        dk, dv = dk.at[:, :, first:stop].add(dk_block), dv.at[..., first:stop].add(dv_block)
    return dq, dk, dv, [None] * len(near), None


_strided.defvjp(_strided_forward, _strided_backward)
