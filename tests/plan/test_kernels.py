"""Kernels read off compiled programs: FLOPs of products, bytes that are really touched, loops counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgpt.plan import kernels
from jgpt.plan.devices import Device

F32 = 4


def compiled(function, *shapes: tuple[int, ...]) -> list[kernels.Kernel]:
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return kernels.kernels(jax.jit(function).lower(*arguments).compile().as_text())


def flops(found: list[kernels.Kernel]) -> float:
    return sum(k.times * k.flops for k in found)


def moved(found: list[kernels.Kernel]) -> float:
    return sum(k.times * k.bytes for k in found)


def test_a_product_counts_its_flops_and_its_three_arrays():
    found = compiled(jnp.matmul, (64, 32), (32, 48))
    assert flops(found) == 2 * 64 * 32 * 48
    assert moved(found) == F32 * (64 * 32 + 32 * 48 + 64 * 48)


def test_products_over_several_axes():
    found = compiled(lambda a, b: jnp.einsum("bik,bkj->bij", a, b), (3, 8, 16), (3, 16, 24))
    assert flops(found) == 2 * 3 * 8 * 16 * 24


def test_a_loop_counts_as_often_as_it_turns():
    def looped(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    found = compiled(looped, (64, 32), (7, 32, 32))
    assert flops(found) == 7 * 2 * 64 * 32 * 32
    stack = F32 * 7 * 32 * 32  # each turn reads its own slice of the stack, not all of it
    assert moved(found) < 3 * stack + 7 * 6 * F32 * 64 * 32


def test_elementwise_work_moves_what_goes_in_and_out():
    found = compiled(lambda a, b: jnp.exp(a) * b + 1, (128, 64), (128, 64))
    assert flops(found) == 0
    assert moved(found) == 3 * F32 * 128 * 64


def test_a_slice_reads_what_it_returns():
    found = compiled(lambda a: a[2:4] * 2, (1000, 64))
    assert moved(found) == 2 * F32 * 2 * 64


def test_a_step_computes_what_its_model_says():
    """6 FLOPs a weight and token, without attention's scores and what XLA adds: within 10 % at a size where they are small."""
    weights = [np.ones((256, 256), np.float32) for _ in range(3)]

    def loss(weights, x):
        for w in weights:
            x = jnp.maximum(x @ w, 0)
        return x.sum()

    text = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(weights, np.ones((512, 256), np.float32)).compile().as_text()
    assert flops(kernels.kernels(text)) == pytest.approx(6 * 3 * 256 * 256 * 512, rel=1e-6)


ATTENTION = (
    'custom_call_target="__cudnn$fmhaSoftmax", backend_config={"cudnn_fmha_backend_config":{"mask_type":"MASK"}}'
)
DIMENSIONS = '"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}'
PRODUCT = f'custom_call_target="__cublas$lt$matmul", backend_config={{"gemm_backend_config":{{{DIMENSIONS}}}}}'
CUDNN = f"""HloModule m

ENTRY %main (q: bf16[2,64,4,8], k: bf16[2,64,2,8]) -> bf16[2,4,64,8] {{
  %q = bf16[2,64,4,8]{{3,2,1,0}} parameter(0)
  %k = bf16[2,64,2,8]{{3,2,1,0}} parameter(1)
  %a = (bf16[2,4,64,8]{{3,1,2,0}}, f32[2,4,64]{{2,1,0}}, u8[0]{{0}}) custom-call(%q, %k, %k), {ATTENTION}
  %p = (bf16[128,16]{{1,0}}, s8[1024]{{0}}) custom-call(%q, %k), {PRODUCT}
  ROOT %o = bf16[2,4,64,8]{{3,1,2,0}} get-tuple-element(%a), index=0
}}
"""


@pytest.mark.parametrize("mask, share", [("NO_MASK", 1.0), ("CAUSAL", 0.5), ("PADDING_CAUSAL", 0.5)])
def test_attention_of_cudnn_counts_what_its_mask_leaves(mask, share):
    attention, product = kernels.kernels(CUDNN.replace('"MASK"', f'"{mask}"'))
    assert attention.operation == "__cudnn$fmhaSoftmax"
    assert attention.flops == 2 * 2 * 2 * 4 * 64 * 64 * 8 * share
    assert product.flops == 2 * (128 * 16) * 64


def test_kernels_take_as_long_as_the_slower_of_both():
    device = Device(
        "x", 1e9, 1e12, 1e9, 1, None, "gpu", "", reached=(0.5, 0.25), launch=1e-6, cache=100, cache_bandwidth=1e10
    )
    found = [
        kernels.Kernel("dot", 2, 1e9, 1000),
        kernels.Kernel("fusion", 1, 0, 1e6),
        kernels.Kernel("fusion", 3, 0, 100),
    ]
    assert kernels.seconds(found, device) == pytest.approx(2 * 2e-3 + 4e-3 + 3e-6)
