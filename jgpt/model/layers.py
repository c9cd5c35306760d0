"""The parts of a block: dense layers, norms, MLP, attention, and the block itself.

Linen modules hold no arrays; every parameter carries the logical names of its axes (`jgpt.axes`), from which
`jgpt.layout` says where it lives.
"""

import math
from collections.abc import Callable
from typing import Any, Final

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jgpt.batch import PADDING_SEGMENT
from jgpt.config import ModelConfig
from jgpt.layout import RULES, flatten, place, unflatten
from jgpt.model import context
from jgpt.model.attention import ATTENTION, cached_attention
from jgpt.model.cache import Int8LayerCache, LayerCache, recall
from jgpt.model.experts import Experts, Routing
from jgpt.model.fused import gelu, normalise, squared_relu, swiglu
from jgpt.model.matrices import Stored, multiply, parameter
from jgpt.model.rotary import Rotary, rotate
from jgpt.model.visibility import Visibility

GPT2_INIT_STD: Final = 0.02  # GPT-2's released code; the residual outputs are scaled further, GPT-2 paper, section 2.3

GATE_INPUTS: Final = 16  # channels that a head's gate reads; modded-nanogpt takes the first 12


def hidden_init(cfg: ModelConfig, fan_in: int) -> Callable:
    """Return the initializer of a matrix that reads the residual stream."""
    return nn.initializers.normal(GPT2_INIT_STD if cfg.init == "gpt2" else fan_in**-0.5)


def residual_init(cfg: ModelConfig) -> Callable:
    """Return the initializer of a matrix that writes to the residual stream."""
    if cfg.init == "gpt2":
        return nn.initializers.normal(GPT2_INIT_STD * (2 * cfg.depth) ** -0.5)
    return nn.initializers.normal(0.5 * cfg.embed_dim**-0.5) if cfg.init == "half" else nn.initializers.zeros_init()


class Dense(nn.Module):
    """A matrix product over the last `contract` axes of the input, as one product over flattened tokens.

    XLA:CPU computes the gradient of [B S D] x [D F] twice as slowly as that of [(B S) D] x [D F].

    Attributes:
        shape: of the weight, contracted axes first.
        axes: logical name of each weight axis.
        contract: number of contracted axes.
        kernel_init: initializer of the weight.
        use_bias: add a bias over the output axes.
        dtype: type of the computation.
    """

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    contract: int
    kernel_init: Callable
    use_bias: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "B S *I"]) -> Float[Array, "B S *O"]:
        """Return x times the weight, plus the bias where there is one."""
        kernel = parameter(self, "kernel", nn.with_partitioning(self.kernel_init, self.axes), self.shape)
        outputs = self.shape[self.contract :]
        rows, columns = math.prod(self.shape[: self.contract]), math.prod(outputs)
        flat = flatten(x).reshape(-1, rows).astype(self.dtype)
        if isinstance(kernel, Stored):
            y = multiply(flat, kernel).astype(self.dtype)
        else:
            # rounded where it lies, then gathered over what splits its inputs
            kernel = place(kernel.astype(self.dtype), *self.axes)
            used = (None if axis == "embed" else axis for axis in self.axes)
            kernel = place(kernel, *used)
            if len(outputs) > 1 and RULES[self.axes[self.contract]] is None:
                # a split axis behind a whole one cannot be merged with it: XLA would gather the result
                y = jax.lax.dot_general(flat, kernel.reshape(rows, *outputs), (((1,), (0,)), ((), ())))
            else:
                y = flat @ kernel.reshape(rows, columns)
        if self.use_bias:
            # a bias lies along the output axes; one that adds to the residual stream is never sharded
            axes = tuple("norm" if axis == "embed" else axis for axis in self.axes[self.contract :])
            bias = self.param("bias", nn.with_partitioning(nn.initializers.zeros_init(), axes), outputs)
            y = y + bias.reshape(1, *y.shape[1:]).astype(self.dtype)
        return unflatten(y.reshape(-1, *outputs), x.shape[0])


class Norm(nn.Module):
    """LayerNorm (Ba et al. 2016) or RMSNorm (Zhang and Sennrich 2019) over the last axis, computed in f32."""

    kind: str
    epsilon: float
    use_bias: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "*A U"]) -> Float[Array, "*A U"]:
        """Return x normalised and scaled."""
        width = x.shape[-1]
        scale_U = self.param("scale", nn.with_partitioning(nn.initializers.ones_init(), ("norm",)), (width,))
        bias_U = None
        if self.use_bias:
            bias_U = self.param("bias", nn.with_partitioning(nn.initializers.zeros_init(), ("norm",)), (width,))
        return normalise(self.kind == "layernorm", self.epsilon, x, scale_U, bias_U).astype(self.dtype)


class Attention(nn.Module):
    """Multi-head, grouped-query or multi-query causal self-attention."""

    cfg: ModelConfig

    @nn.compact
    def __call__(
        self,
        x_BSD: Float[Array, "B S D"],
        visible: Visibility,
        turn: Rotary | None,
        cache: LayerCache | Int8LayerCache | None,
        fresh: bool = False,
    ) -> tuple[Float[Array, "B S D"], LayerCache | Int8LayerCache | None]:
        """Return what the tokens gather, and the cache with their keys and values in it, which was empty where `fresh`."""
        cfg = self.cfg
        D, H, G, K = cfg.embed_dim, cfg.num_heads, cfg.kv_heads, cfg.width_of_head

        def project(name: str, heads: int, axis: str) -> Float[Array, "B S h K"]:
            axes = ("embed", axis, "head_dim")
            dense = Dense((D, heads, K), axes, 1, hidden_init(cfg, D), cfg.use_bias, cfg.compute_dtype, name=name)
            return place(dense(x_BSD), "batch", "seq", axis, "head_dim")

        q_BSHK, k_BSGK = project("query", H, "heads"), project("key", G, "kv_heads")
        v_BSGK = project("value", G, "kv_heads")
        if cfg.qk_norm:  # Henry et al. 2020, with RMSNorm and a learned scale a channel
            q_BSHK = Norm("rmsnorm", cfg.norm_epsilon, False, cfg.compute_dtype, name="query_norm")(q_BSHK)
            k_BSGK = Norm("rmsnorm", cfg.norm_epsilon, False, cfg.compute_dtype, name="key_norm")(k_BSGK)
        if turn is not None:
            q_BSHK, k_BSGK = rotate(q_BSHK, turn), rotate(k_BSGK, turn)
        if cache is not None:
            k_BGTK, v_BGTK, visible, cache = recall(cache, k_BSGK, v_BSGK, visible, fresh)
            if fresh:
                k_BSGK, v_BSGK = jnp.swapaxes(k_BGTK, 1, 2), jnp.swapaxes(v_BGTK, 1, 2)
        if cache is None and context.is_cut():
            out_BSHK = context.attend(q_BSHK, k_BSGK, v_BSGK, visible, cfg.attention_softcap)
        elif cache is None or fresh:
            out_BSHK = ATTENTION[cfg.attention](q_BSHK, k_BSGK, v_BSGK, visible, cfg.attention_softcap)
        else:
            out_BSHK = cached_attention(q_BSHK, k_BGTK, v_BGTK, visible, cfg.attention_softcap)
        if cfg.attention_gates:
            inputs_BSI = x_BSD[:, :, :GATE_INPUTS]
            shape, zeros = (inputs_BSI.shape[-1], H), nn.initializers.zeros_init()
            gate = Dense(shape, ("gate_input", "heads"), 1, zeros, False, cfg.compute_dtype, name="gate")
            out_BSHK = out_BSHK * (2 * jax.nn.sigmoid(gate(inputs_BSI)))[:, :, :, None]
        axes = ("heads", "head_dim", "embed")
        out = Dense((H, K, D), axes, 2, residual_init(cfg), cfg.use_bias, cfg.compute_dtype, name="out")
        return place(out(out_BSHK), "batch", "seq", None), cache


class MLP(nn.Module):
    """GELU (GPT-2's tanh form), SwiGLU (Shazeer 2020, equation 6) or squared ReLU (So et al. 2021)."""

    cfg: ModelConfig

    @nn.compact
    def __call__(self, x_BSD: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        """Return the MLP of each token."""
        cfg = self.cfg
        D, F = cfg.embed_dim, cfg.hidden_dim
        if cfg.mlp == "swiglu":
            axes = ("embed", "gate", "mlp")
            up = Dense((D, 2, F), axes, 1, hidden_init(cfg, D), cfg.use_bias, cfg.compute_dtype, name="up")
            h_BSCF = place(up(x_BSD), "batch", "seq", "gate", "mlp")
            h_BSF = swiglu(h_BSCF[:, :, 0], h_BSCF[:, :, 1])
        else:
            axes = ("embed", "mlp")
            up = Dense((D, F), axes, 1, hidden_init(cfg, D), cfg.use_bias, cfg.compute_dtype, name="up")
            h_BSF = place(up(x_BSD), "batch", "seq", "mlp")
            h_BSF = gelu(h_BSF) if cfg.mlp == "gelu" else squared_relu(h_BSF)
        axes = ("mlp", "embed")
        down = Dense((F, D), axes, 1, residual_init(cfg), cfg.use_bias, cfg.compute_dtype, name="down")
        return place(down(h_BSF), "batch", "seq", None)


class Block(nn.Module):
    """One pre-norm decoder block: x + attention(norm(x)), then x + mlp(norm(x)), or experts in place of the MLP."""

    cfg: ModelConfig

    @nn.compact
    def __call__(
        self,
        x_BSD: Float[Array, "B S D"],
        embedded_BSD: Float[Array, "B S D"],
        visible: Visibility,
        turn: Rotary | None,
        cache: LayerCache | Int8LayerCache | None,
        train: bool,
        fresh: bool = False,
    ) -> tuple[Float[Array, "B S D"], LayerCache | Int8LayerCache | None, Routing | None]:
        """Return the residual stream after the block, the updated cache, and how experts were chosen, where there are some.

        `embedded_BSD` is the residual stream before the first block, `train` switches dropout on; see `Attention` for the rest.
        """
        cfg = self.cfg
        if cfg.embedding_skips:
            zero = nn.with_partitioning(nn.initializers.zeros_init(), ())
            kept: Any = self.param("kept", zero, ())
            again: Any = self.param("again", zero, ())
            x_BSD = ((1 + kept) * x_BSD + again * embedded_BSD).astype(cfg.compute_dtype)

        def norm(name: str) -> Norm:
            return Norm(cfg.norm, cfg.norm_epsilon, cfg.use_bias, cfg.compute_dtype, name=name)

        dropout = nn.Dropout(cfg.dropout, deterministic=not train)
        y_BSD, cache = Attention(cfg, name="attention")(norm("attention_norm")(x_BSD), visible, turn, cache, fresh)
        x_BSD = x_BSD + dropout(y_BSD)
        y_BSD, routing = norm("mlp_norm")(x_BSD), None
        if cfg.num_experts is None:
            y_BSD = MLP(cfg, name="mlp")(y_BSD)
        else:
            segments_BS = visible.q_segments_BS
            real_BS = None if segments_BS is None else segments_BS != PADDING_SEGMENT
            init = hidden_init(cfg, cfg.embed_dim), residual_init(cfg)
            y_BSD, routing = Experts(cfg, *init, name="experts")(y_BSD, real_BS)
        return x_BSD + dropout(y_BSD), cache, routing
