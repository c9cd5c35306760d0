"""A mixture of experts in place of the MLP: every token is computed by a few of many, which a router chooses.

Owns routing, the exchange of tokens over the devices of mesh.expert, and what keeps experts evenly used; refuses to drop tokens
unless `expert_capacity` says so. Shazeer et al. 2017; softmax over the chosen experts alone as in Mixtral (Jiang et al. 2024,
section 2.1); tokens sorted by expert so that products have no padding (Gale et al. 2023, MegaBlocks).

X stands for the experts that a token is sent to, n for the tokens of a device, M for (token, expert) pairs by expert.
"""

from functools import partial
from typing import Final, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float

from jgpt.config import ModelConfig
from jgpt.layout import flatten, mesh_axes, place, place_tokens, spec_of, sum_over_copies, token_axes, unflatten
from jgpt.model.fused import gelu, squared_relu, swiglu
from jgpt.model.grouped import grouped_product

PRODUCT: Final = "product of an expert"  # by which `gpt.REMAT` keeps them


class Routing(NamedTuple):
    """How a layer's router did, over all tokens that are not padding.

    Attributes:
        balance: E sum_e f_e p_e, with f_e the share of the choices that fell on expert e and p_e its mean probability: 1 where
            all are chosen alike (Fedus et al. 2022, Switch Transformer, equation 4).
        squared_log_z: mean square of the router's log-normaliser (Zoph et al. 2022, ST-MoE, equation 5).
    """

    balance: Float[Array, ""]
    squared_log_z: Float[Array, ""]


class Experts(nn.Module):
    """`num_experts` MLPs without biases, of which each token is computed by `experts_per_token`."""

    cfg: ModelConfig
    read_init: nn.initializers.Initializer
    write_init: nn.initializers.Initializer

    @nn.compact
    def __call__(
        self, x_BSD: Float[Array, "B S D"], real_BS: Bool[Array, "B S"] | None
    ) -> tuple[Float[Array, "B S D"], Routing]:
        """Return what the experts make of each token, and how they were chosen. `real_BS`: false for padding; None = none."""
        cfg = self.cfg
        D, F, E = cfg.embed_dim, cfg.hidden_dim, cfg.num_experts or 1

        def matrix(name: str, init: nn.initializers.Initializer, shape: tuple[int, ...], *axes: str) -> Array:
            return self.param(name, nn.with_partitioning(init, axes), shape)

        router_DE = matrix("router", self.read_init, (D, E), "embed", "choice")
        if cfg.mlp == "swiglu":
            up = matrix("up", self.read_init, (E, D, 2, F), "experts", "embed", "gate", "mlp")
        else:
            up = matrix("up", self.read_init, (E, D, F), "experts", "embed", "mlp")
        down_EFD = matrix("down", self.write_init, (E, F, D), "experts", "mlp", "embed")
        if self.is_initializing():
            return x_BSD, Routing(jnp.ones(()), jnp.zeros(()))
        x_ND = flatten(x_BSD).astype(cfg.compute_dtype)
        # in f32, on accelerators too: small differences decide (Fedus et al. 2022, section 2.4)
        router_DE = place(router_DE, None, None)
        logits_NE = jnp.matmul(x_ND.astype(jnp.float32), router_DE, precision=jax.lax.Precision.HIGHEST)
        logits_NE = place_tokens(logits_NE, None)
        real_N = jnp.ones(len(x_ND), bool) if real_BS is None else flatten(real_BS)
        y_ND, chosen_NE = _mixture(cfg, x_ND, logits_NE, real_N, up, down_EFD)
        return unflatten(y_ND, len(x_BSD)), _routing(logits_NE, chosen_NE, real_N)


def _routing(logits_NE: Array, chosen_NE: Array, real_N: Array) -> Routing:
    """Return how evenly experts were chosen; the gradient flows through the probabilities alone."""
    E = logits_NE.shape[1]
    weights_N = real_N.astype(jnp.float32)
    tokens = jnp.maximum(sum_over_copies(weights_N.sum()), 1.0)
    share_E = sum_over_copies(weights_N @ chosen_NE.astype(jnp.float32))
    share_E = jax.lax.stop_gradient(share_E / jnp.maximum(share_E.sum(), 1.0))
    mean_E = sum_over_copies(weights_N @ jax.nn.softmax(logits_NE, axis=-1)) / tokens
    squares = sum_over_copies(weights_N @ jnp.square(jax.nn.logsumexp(logits_NE, axis=-1)))
    return Routing(E * jnp.sum(share_E * mean_E), squares / tokens)


def _mixture(
    cfg: ModelConfig, x_ND: Array, logits_NE: Array, real_N: Array, up: Array, down_EFD: Array
) -> tuple[Array, Array]:
    """Return what the experts make of tokens, 0 of padding, and true where one was chosen.

    Tokens stay on their devices, or come back there.
    """
    mesh = mesh_axes()
    if not mesh:
        return _on_device(cfg, {}, x_ND, logits_NE, real_N, up, down_EFD)
    tokens = PartitionSpec(token_axes())
    gate = (None,) * (up.ndim - 3)
    return jax.shard_map(
        partial(_on_device, cfg, mesh),
        in_specs=(
            tokens,
            tokens,
            tokens,
            spec_of(("experts", "embed", *gate, "mlp")),
            spec_of(("experts", "mlp", "embed")),
        ),
        out_specs=(tokens, tokens),
        axis_names=set(mesh),
        check_vma=False,
    )(x_ND, logits_NE, real_N, up, down_EFD)


def _on_device(
    cfg: ModelConfig, mesh: dict[str, int], x_nD: Array, logits_nE: Array, real_n: Array, up: Array, down_EFD: Array
) -> tuple[Array, Array]:
    """Return `_mixture` of a device's tokens, whose experts may stand on others along mesh.expert."""
    X, E = cfg.experts_per_token, logits_nE.shape[1]
    top_nX, choice_nX = jax.lax.top_k(logits_nE, X)
    share_nX = jax.nn.softmax(top_nX, axis=-1)
    choice_nX = jnp.where(real_n[:, None], choice_nX, E)  # an expert that is nowhere
    up, down_EFD = (
        jax.lax.all_gather(w.astype(x_nD.dtype), "fsdp", axis=axis, tiled=True) if mesh.get("fsdp", 1) > 1 else w
        for w, axis in ((up, 1), (down_EFD, 2))
    )
    experts = partial(_experts, cfg, up.astype(x_nD.dtype), down_EFD.astype(x_nD.dtype))
    order_M = jnp.argsort(choice_nX.reshape(-1), stable=True)  # pairs, those of the first expert first
    expert_M = choice_nX.reshape(-1)[order_M]
    devices = mesh.get("expert", 1)
    if devices == 1:
        y_MD = experts(x_nD[order_M // X], expert_M)
    else:
        y_MD = _exchanged(cfg, devices, experts, x_nD, order_M, expert_M, E // devices)
    y_nXD = y_MD[jnp.argsort(order_M)].reshape(*choice_nX.shape, -1)
    y_nD = jnp.einsum("nx,nxd->nd", share_nX.astype(y_nXD.dtype), y_nXD)
    if mesh.get("tensor", 1) > 1:  # each device had a part of the hidden width
        y_nD = jax.lax.psum(y_nD, "tensor")
    return y_nD, jax.nn.one_hot(choice_nX, E, dtype=bool).any(1)


def _experts(cfg: ModelConfig, up: Array, down_EFD: Array, x_MD: Array, expert_M: Array) -> Array:
    """Return each row from its expert; rows are sorted by it, and those of an expert that is not here come last and give 0."""
    E, D = len(up), x_MD.shape[1]
    sizes_E = jnp.sum(expert_M[:, None] == jnp.arange(E)[None, :], axis=0, dtype=jnp.int32)
    h_MF = checkpoint_name(grouped_product(x_MD, up.reshape(E, D, -1), sizes_E), PRODUCT)
    if cfg.mlp == "swiglu":
        h_MF = swiglu(*jnp.split(h_MF, 2, axis=-1))
    else:
        h_MF = gelu(h_MF) if cfg.mlp == "gelu" else squared_relu(h_MF)
    return checkpoint_name(grouped_product(h_MF, down_EFD, sizes_E), PRODUCT)


def _exchanged(
    cfg: ModelConfig,
    devices: int,
    experts: partial,
    x_nD: Array,
    order_M: Array,
    expert_M: Array,
    own: int,
) -> Array:
    """Send rows to the devices that have their experts, compute there, and return the results as the pairs are sorted.

    Each device has as many places for the rows of each other one as those could send at most, or as `expert_capacity` allows;
    rows beyond get 0.
    """
    n, X = len(x_nD), cfg.experts_per_token
    places = n * min(X, own)
    if cfg.expert_capacity is not None:
        places = min(places, max(1, round(cfg.expert_capacity * n * X / devices)))
    to_M = expert_M // own
    sent_d = jnp.sum(to_M[:, None] == jnp.arange(devices)[None, :], axis=0)
    first_d = jnp.cumsum(sent_d) - sent_d
    source_dp = first_d[:, None] + jnp.arange(places)[None, :]
    full_dp = jnp.arange(places)[None, :] < sent_d[:, None]
    source_dp = jnp.where(full_dp, source_dp, n * X)

    def swap(x_dp: Array) -> Array:
        return jax.lax.all_to_all(x_dp, "expert", 0, 0, tiled=True)

    rows_MD = x_nD[order_M // X]
    here_MD = swap(rows_MD.at[source_dp].get(mode="fill", fill_value=0)).reshape(-1, x_nD.shape[1])
    here_M = swap(jnp.where(full_dp, (expert_M % own).at[source_dp].get(mode="clip"), own)).reshape(-1)
    by_expert_M = jnp.argsort(here_M, stable=True)
    y_MD = experts(here_MD[by_expert_M], here_M[by_expert_M])[jnp.argsort(by_expert_M)]
    back_dpD = swap(y_MD.reshape(devices, places, -1))
    place_M = jnp.arange(n * X) - first_d[to_M]
    found_MD = back_dpD[to_M, jnp.minimum(place_M, places - 1)]
    return jnp.where((place_M < places)[:, None], found_MD, 0)
