"""Matrices as decoding reads them: outputs first, in floats or in int8.

Owns `OutputsFirst`, which parameters are stored in another form and how tokens are multiplied by them. Training keeps
matrices inputs first, as they are initialised. Norms, biases, learned positions and the convolution of embeddings stay as they
are: they are small, and every channel has its own. Here V counts the outputs of any matrix and D its inputs.
"""

import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jgpt.model import quantised
from jgpt.model.quantised import Int8Rows, quantise

# Tokens up to which the weights are the left factor. XLA:CPU (Eigen) then streams them and keeps the tokens in cache, where
# as the right factor it would copy every block of weights first. Milliseconds for 12 matrices of 768 x 3,072, f32, two cores
# of an AMD EPYC, inputs first / outputs first on the right / on the left: 1 token 7.8 / 8.0 / 7.7, 4: 21 / 17 / 10,
# 8: 26 / 19 / 12, 16: 27 / 20 / 11, 32: 40 / 33 / 21, 64: 49 / 48 / 39, 128: 78 / 69 / 74.
FEW_TOKENS: Final = 64


class OutputsFirst(NamedTuple):
    """A matrix that is stored with its outputs first, which is how a CPU multiplies it by few tokens fastest.

    Attributes:
        weights: a matrix [V, D], perhaps a stack of them.
    """

    weights: Float[Array, "*A V D"]

    def dense(self) -> Float[Array, "D V"]:
        """Return the one matrix by which inputs are multiplied."""
        return self.weights.T


Stored = OutputsFirst | Int8Rows


def is_stored(leaf: Any) -> bool:
    """Return whether a part of a tree of parameters is a matrix in another form than it was initialised."""
    return isinstance(leaf, Stored)


def outputs_first(params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of `gpt.init` with every matrix outputs first; blocks may be stacked or not.

    What is stored in another form stays as it is.
    """
    return _convert(params, lambda matrix: OutputsFirst(jnp.swapaxes(matrix, -1, -2)))


def quantise_params(params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of `gpt.init` with every matrix and table in int8; blocks may be stacked or not.

    Matrices of experts stay as they are.
    """
    return _convert(params, quantise)


def _convert(params: dict[str, Any], form: Callable[[Array], Stored]) -> dict[str, Any]:
    """Return parameters with `form` of every matrix, [..., D, V]."""

    def convert(path: tuple[Any, ...], leaf: Any) -> Any:
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        if is_stored(leaf):
            return leaf
        if names[0] == "embedding":
            return leaf if names[1] in ("positions", "conv") else form(leaf.T)
        if names[-1] != "kernel":
            return leaf
        if names[0] == "head":
            return form(leaf)
        lead = leaf.shape[: int(not isinstance(params["blocks"], tuple))]  # layers
        inputs = leaf.ndim - 1 if names[-2] in ("out", "down") else len(lead) + 1  # first axis of the outputs
        return form(leaf.reshape(*lead, math.prod(leaf.shape[len(lead) : inputs]), -1))

    return jax.tree_util.tree_map_with_path(convert, params, is_leaf=is_stored)


def parameter(module: nn.Module, name: str, init: Any, shape: tuple[int, ...]) -> Array | Stored:
    """Return a module's parameter, declared by `init` and `shape`, which may be stored in another form since."""
    if module.has_variable("params", name):
        found = module.get_variable("params", name)
        if is_stored(found):
            return found
    return module.param(name, init, shape)


def take(table_VD: Float[Array, "V D"] | Stored, ids_BS: Int[Array, "B S"]) -> Float[Array, "B S D"]:
    """Return the rows of a table that ids name."""
    if isinstance(table_VD, Int8Rows):
        return table_VD.levels[ids_BS].astype(jnp.float32) * table_VD.scale[ids_BS][:, :, None]
    return (table_VD.weights if isinstance(table_VD, OutputsFirst) else table_VD)[ids_BS]


def multiply(x_ND: Float[Array, "N D"], matrix: Stored) -> Float[Array, "N V"]:
    """Return x times a stored matrix, summed in f32 or exactly."""
    if isinstance(matrix, Int8Rows):
        return quantised.multiply(x_ND, matrix)
    weights_VD = matrix.weights.astype(x_ND.dtype)
    if x_ND.shape[0] > FEW_TOKENS:
        contract = (((1,), (1,)), ((), ()))
        return jax.lax.dot_general(x_ND, weights_VD, contract, preferred_element_type=jnp.float32)
    product_VN = jnp.matmul(weights_VD, x_ND.T, preferred_element_type=jnp.float32)
    return jax.lax.optimization_barrier(product_VN).T  # without the barrier XLA swaps the factors
