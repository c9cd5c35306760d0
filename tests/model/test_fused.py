"""Hand-written gradients equal automatic differentiation of the plain formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgpt.model import fused
from jgpt.model.fused import gelu, normalise, squared_relu, swiglu

TOLERANCE = 1e-5  # f32, sums over 24 channels in another order


def layer_norm(x, scale, bias):
    x = x - x.mean(-1, keepdims=True)
    return x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5) * scale[None, None] + bias[None, None]


def rms_norm(x, scale):
    return x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5) * scale[None, None]


def arrays(count):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(1, 2, shape), jnp.float32) for shape in ((2, 5, 24), (24,), (24,))[:count]]


CASES = {
    "layernorm": (lambda x, s, b: normalise(True, 1e-5, x, s, b), layer_norm, arrays(3)),
    "rmsnorm": (lambda x, s: normalise(False, 1e-5, x, s, None), rms_norm, arrays(2)),
    "gelu": (gelu, lambda x: jax.nn.gelu(x, approximate=True), arrays(1)),
    "squared relu": (squared_relu, lambda x: jnp.square(jax.nn.relu(x)), arrays(1)),
    "swiglu": (lambda x: swiglu(x, x[::-1]), lambda x: jax.nn.silu(x) * x[::-1], arrays(1)),
}


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients_equal_the_plain_formula(name):
    fast, plain, inputs = CASES[name]

    def both(f):
        return jax.value_and_grad(lambda *a: jnp.sum(jnp.sin(f(*a))), tuple(range(len(inputs))))(*inputs)

    np.testing.assert_allclose(fast(*inputs), plain(*inputs), atol=TOLERANCE, rtol=TOLERANCE)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=TOLERANCE, rtol=1e-4), both(fast), both(plain))


def test_gates_that_are_computed_again_are_the_same(monkeypatch):
    """The branch for inputs beyond a processor's cache."""
    (x,) = arrays(1)

    def slopes():
        return jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(gelu(x)))))(x)

    kept = slopes()
    monkeypatch.setattr(fused, "_BEYOND_CACHE", 1)
    jax.clear_caches()
    np.testing.assert_allclose(slopes(), kept, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_goes_in_and_comes_out(name):
    fast, plain, inputs = CASES[name]
    x, *rest = inputs
    half = x.astype(jnp.bfloat16)
    out, pull = jax.vjp(lambda x: fast(x, *rest), half)
    assert out.dtype == jnp.bfloat16 and pull(out)[0].dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), plain(half.astype(jnp.float32), *rest), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", CASES)
def test_little_is_saved(name):
    fast, _, inputs = CASES[name]
    saved = jax.tree.leaves(jax.vjp(fast, *inputs)[1])
    large = [leaf for leaf in saved if leaf.size >= inputs[0].size]
    assert len(large) <= (2 if name == "swiglu" else 1)


def test_extreme_inputs_stay_finite():
    x = jnp.asarray([-1e4, -100.0, 0.0, 100.0, 1e4])
    value, slope = jax.vmap(jax.value_and_grad(gelu))(x)
    np.testing.assert_allclose(value, [0, 0, 0, 100, 1e4], atol=1e-6)
    np.testing.assert_allclose(slope, [0, 0, 0.5, 1, 1], atol=1e-6)


def test_a_scale_of_another_width_is_refused():
    """It would be broadcast."""
    with pytest.raises(TypeError, match="scale_U"):
        normalise(False, 1e-5, jnp.ones((2, 8)), jnp.ones(1), None)
