"""Muon: momentum whose update is orthogonalised, for the hidden matrices.

Owns which axes of a parameter form a matrix and the Newton-Schulz iteration; learning rate, decay and what Adam updates
belong to `optim`. Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)  # of the quintic iteration; Jordan et al. 2024
# Each entry along these is a matrix of its own. Experts first: they may be split over devices, and stay there where they lead.
BATCH_AXES: Final = ("experts", "layers", "gate")


class MuonState(NamedTuple):
    """Momentum of every matrix, shaped like the parameters."""

    momentum: Any


def orthogonalise(x_NRC: Float[Array, "N R C"], steps: int) -> Float[Array, "N R C"]:
    """Return matrices with the same singular vectors as `x_NRC` and singular values near 1; R must not exceed C.

    The iteration X <- (a I + b A + c A^2) X with A = X X^T multiplies from the left by polynomials of the first A alone,
    so it is run on the small square [R, R] matrices and applied to X once at the end. It multiplies what rounding leaves of
    A's small eigenvalues by a^2 a step, so that products must be those of f32, which accelerators compute only where asked.
    """
    a, b, c = COEFFICIENTS
    multiply = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    x_NRC = x_NRC / (jnp.sqrt(jnp.sum(jnp.square(x_NRC), axis=(1, 2), keepdims=True)) + 1e-7)
    gram_NRR = multiply(x_NRC, x_NRC.swapaxes(1, 2))
    identity_NRR = jnp.broadcast_to(jnp.eye(gram_NRR.shape[-1])[None], gram_NRR.shape)
    total_NRR = identity_NRR
    for step in range(steps):
        poly_NRR = a * identity_NRR + b * gram_NRR + c * multiply(gram_NRR, gram_NRR)
        total_NRR = poly_NRR if step == 0 else multiply(poly_NRR, total_NRR)
        if step < steps - 1:
            gram_NRR = multiply(multiply(poly_NRR, gram_NRR), poly_NRR)
    return multiply(total_NRR, x_NRC)


def _as_matrices(leaf: Array, axes: tuple[str, ...]) -> tuple[Array, Callable[[Array], Array], float]:
    """Return (matrices [N, R, C] with R <= C, the way back, sqrt(max(1, outputs / inputs)))."""
    batch = [axes.index(name) for name in BATCH_AXES if name in axes]
    embed = [i for i, name in enumerate(axes) if name == "embed"]
    other = [i for i in range(leaf.ndim) if i not in batch and i not in embed]
    order = (*batch, *embed, *other)
    moved = leaf.transpose(order)
    n = math.prod(leaf.shape[i] for i in batch)
    width = leaf.shape[embed[0]]
    x_NRC = moved.reshape(n, width, -1)
    swap = x_NRC.shape[1] > x_NRC.shape[2]
    if swap:
        x_NRC = x_NRC.swapaxes(1, 2)
    inverse = tuple(order.index(i) for i in range(leaf.ndim))

    def back(y_NRC: Array) -> Array:
        y = y_NRC.swapaxes(1, 2) if swap else y_NRC
        return y.reshape(moved.shape).transpose(inverse)

    rest = leaf.size // (n * width)
    reads_embed = embed[0] < other[0]
    outputs, inputs = (rest, width) if reads_embed else (width, rest)
    return x_NRC, back, max(1.0, outputs / inputs) ** 0.5


def scale_by_muon(axes: Any, momentum: float, steps: int) -> optax.GradientTransformation:
    """Return Muon's direction: Nesterov momentum, orthogonalised, times sqrt(max(1, outputs / inputs)).

    Matrices of the same shape, from any layer or projection, are stacked and iterated together; experts by themselves.

    Args:
        axes: tree of tuples of logical axis names, like the parameters; each must hold "embed" once.
        momentum: decay of the running gradient.
        steps: Newton-Schulz iterations.
    """

    def init(params: Any) -> MuonState:
        return MuonState(jax.tree.map(jnp.zeros_like, params))

    def update(grads: Any, state: MuonState, params: Any = None) -> tuple[Any, MuonState]:
        del params
        running = jax.tree.map(lambda m, g: momentum * m + (1 - momentum) * g, state.momentum, grads)
        ahead = jax.tree.map(lambda m, g: momentum * m + (1 - momentum) * g, running, grads)
        leaves, treedef = jax.tree.flatten(ahead)
        names = treedef.flatten_up_to(axes)
        parts = [_as_matrices(leaf, name) for leaf, name in zip(leaves, names, strict=True)]
        done: list[Array] = [leaf for leaf in leaves]
        # experts that lie on several devices would be gathered to be stacked with others
        alone = [i if "experts" in own else -1 for i, own in enumerate(names)]
        kinds = [(part[0].shape[1:], own) for part, own in zip(parts, alone, strict=True)]
        for kind in sorted(set(kinds)):
            group = [i for i, own in enumerate(kinds) if own == kind]
            stacked = orthogonalise(jnp.concatenate([parts[i][0] for i in group]), steps)
            at = 0
            for i in group:
                matrices, back, scale = parts[i]
                done[i] = back(stacked[at : at + len(matrices)]) * scale
                at += len(matrices)
        return jax.tree.unflatten(treedef, done), MuonState(running)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]
