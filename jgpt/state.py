"""The train state and its sharded birth: no parameter ever stands whole on one device.

Owns what a checkpoint must hold of the optimisation.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int, UInt32

from jgpt import sharding
from jgpt.config import ModelConfig
from jgpt.model import gpt


class TrainState(NamedTuple):
    """Everything that a step reads and writes.

    Attributes:
        step: optimizer steps done.
        params: parameters, f32.
        opt_state: of the optax transformation.
        key_data: base PRNG key as raw words; a step's own key is folded from it and `step`.
        ema: moving average of the parameters, None where the config has none.
    """

    step: Int[Array, ""]
    params: gpt.Params
    opt_state: Any
    key_data: UInt32[Array, "2"]
    ema: gpt.Params | None

    def eval_params(self) -> gpt.Params:
        """Return the parameters to evaluate and sample with: the average where there is one."""
        return self.params if self.ema is None else self.ema


def _birth(cfg: ModelConfig, tx: optax.GradientTransformation, seed: int, ema: bool) -> TrainState:
    init_key, base_key = jax.random.split(jax.random.key(seed))
    params = gpt.init(cfg, init_key)
    average = jax.tree.map(jnp.copy, params) if ema else None
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), jax.random.key_data(base_key), average)


def _is_masked(leaf: Any) -> bool:
    return isinstance(leaf, optax.MaskedNode)  # stands where another part of a partitioned optimizer has the moments


def abstract_state(cfg: ModelConfig, tx: optax.GradientTransformation, mesh: Mesh, *, ema: bool = False) -> TrainState:
    """Return the state as `jax.ShapeDtypeStruct`s that carry their shardings; nothing is allocated.

    Args:
        cfg: a resolved model config.
        tx: the optimizer.
        mesh: devices.
        ema: keep a moving average of the parameters.

    Raises:
        ValueError: a parameter cannot be split over the mesh, or has an axis that no rule names.
    """
    shapes = jax.eval_shape(lambda: _birth(cfg, tx, 0, ema))
    params = sharding.param_shardings(mesh, gpt.param_axes(cfg), shapes.params)
    whole = sharding.replicated(mesh)
    opt_state = optax.tree.map_params(
        tx,
        lambda moment, where: moment if _is_masked(moment) else where,
        shapes.opt_state,
        params,
        transform_non_params=lambda _: whole,
        is_leaf=_is_masked,
    )
    shardings = TrainState(whole, params, opt_state, whole, params if ema else None)
    return jax.tree.map(lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), shapes, shardings)


def shardings_of(state: TrainState) -> TrainState:
    """Return the sharding of every leaf of a state, concrete or abstract."""
    return jax.tree.map(lambda leaf: leaf.sharding, state)


def create(
    cfg: ModelConfig, tx: optax.GradientTransformation, mesh: Mesh, *, seed: int, ema: bool = False
) -> TrainState:
    """Return a fresh state, born on its devices. Arguments and errors as in `abstract_state`, and the seed."""
    where = shardings_of(abstract_state(cfg, tx, mesh, ema=ema))
    return jax.jit(lambda: _birth(cfg, tx, seed, ema), out_shardings=where)()
