"""Norms and activations with gradients written by hand, so that each saves its input alone and passes over it once.

Automatic differentiation saves several arrays of the size of the activations for each, and the step then waits for memory.
Owns the formulas; refuses parameters, which belong to `layers`.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_GELU_SLOPE = (2 / jnp.pi) ** 0.5  # of GELU's tanh form, Hendrycks and Gimpel 2016, section 2
_GELU_CUBE = 0.044715
# Elements that leave a processor's cache. On two cores, from 2**22.6 on a step is as fast and needs less memory with gates that
# are computed again; at 2**18.6 it was 1 to 2 % slower.
_BEYOND_CACHE = 2**21


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def normalise(
    centred: bool,
    epsilon: float,
    x: Float[Array, "*A U"],
    scale_U: Float[Array, "U"],
    bias_U: Float[Array, "U"] | None,
) -> Float[Array, "*A U"]:
    """Return x over its root mean square along the last axis, times `scale_U` plus `bias_U`; computed in f32.

    Args:
        centred: subtract the mean first (LayerNorm, Ba et al. 2016); else RMSNorm (Zhang and Sennrich 2019).
        epsilon: added to the mean square.
        x: input; the result has its type.
        scale_U: factor a channel.
        bias_U: addend a channel, None for none.
    """
    return _normalise_forward(centred, epsilon, x, scale_U, bias_U)[0]


def _normalise_forward(
    centred: bool, epsilon: float, x: Array, scale_U: Array, bias_U: Array | None
) -> tuple[Array, tuple]:
    x32 = x.astype(jnp.float32)
    mean = x32.mean(-1, keepdims=True) if centred else jnp.zeros((*x.shape[:-1], 1), jnp.float32)
    inverse = jax.lax.rsqrt(jnp.square(x32 - mean).mean(-1, keepdims=True) + epsilon)
    # On GPUs XLA would compute both once more in the backward pass, in kernels of their own that write f32 activations.
    mean, inverse = jax.lax.platform_dependent(mean, inverse, cuda=_kept, default=_as_they_are)
    y = (x32 - mean) * inverse * _along(scale_U, x)
    y = y if bias_U is None else y + _along(bias_U, x)
    return y.astype(x.dtype), (x, mean, inverse, scale_U, bias_U)


def _kept(*values: Array) -> tuple[Array, ...]:
    """Return values that XLA must hold as they are computed here."""
    return jax.lax.optimization_barrier(values)


def _as_they_are(*values: Array) -> tuple[Array, ...]:
    return values


def _normalise_backward(centred: bool, epsilon: float, saved: tuple, slope: Array) -> tuple:
    del epsilon
    x, mean, inverse, scale_U, bias_U = saved
    x32, slope = x.astype(jnp.float32), slope.astype(jnp.float32)
    unit = (x32 - mean) * inverse
    lead = tuple(range(x.ndim - 1))
    pull = slope * _along(scale_U, x)
    dx = pull - unit * jnp.mean(pull * unit, axis=-1, keepdims=True)
    if centred:
        dx = dx - jnp.mean(pull, axis=-1, keepdims=True)
    dscale_U = jnp.sum(slope * unit, axis=lead)
    return (dx * inverse).astype(x.dtype), dscale_U, None if bias_U is None else jnp.sum(slope, axis=lead)


normalise.defvjp(_normalise_forward, _normalise_backward)


def _along(values_N: Array, x: Array) -> Array:
    return values_N.reshape((1,) * (x.ndim - 1) + values_N.shape)


def _gate(x: Array) -> Array:
    """Return (1 + tanh u) / 2 for GELU's u, as the logistic function of 2u, which needs one exponential."""
    return jax.nn.sigmoid(2 * _GELU_SLOPE * x * (1 + _GELU_CUBE * jnp.square(x)))


@jax.custom_vjp
def gelu(x: Float[Array, "*A"]) -> Float[Array, "*A"]:
    """Return GELU in its tanh form, GPT-2's."""
    return x * _gate(x)


def _gelu_backward(x: Array, slope: Array) -> tuple[Array]:
    if x.size >= _BEYOND_CACHE:
        # XLA:CPU would keep the gates of the forward pass for this one: as much memory again as the inputs.
        (x,) = jax.lax.platform_dependent(x, cpu=_kept, default=_as_they_are)
    gate = _gate(x)
    inner = 2 * _GELU_SLOPE * (1 + 3 * _GELU_CUBE * jnp.square(x))
    return (slope * (gate + x * gate * (1 - gate) * inner),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


@jax.custom_vjp
def squared_relu(x: Float[Array, "*A"]) -> Float[Array, "*A"]:
    """Return max(x, 0)^2 (So et al. 2021)."""
    return jnp.square(jnp.maximum(x, 0))


squared_relu.defvjp(lambda x: (squared_relu(x), x), lambda x, slope: (2 * slope * jnp.maximum(x, 0),))


@jax.custom_vjp
def swiglu(gate: Float[Array, "*A"], up: Float[Array, "*A"]) -> Float[Array, "*A"]:
    """Return silu(gate) * up (Shazeer 2020, equation 6)."""
    return gate * jax.nn.sigmoid(gate) * up


def _swiglu_backward(saved: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    gate, up = saved
    share = jax.nn.sigmoid(gate)
    return slope * up * share * (1 + gate * (1 - share)), slope * gate * share


swiglu.defvjp(lambda gate, up: (swiglu(gate, up), (gate, up)), _swiglu_backward)
