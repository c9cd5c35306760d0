"""The decoder-only transformer as pure functions: `init`, `features`, `logits`, `apply`.

Owns the order of the parts and the layout of the parameters: one plain nested dict, with the blocks stacked along a
leading `layers` axis whether or not the layers are scanned, so that checkpoints do not depend on how a run was compiled.
The rest of jgpt sees no Flax.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jgpt.check import require
from jgpt.config import ModelConfig, PictureGrid
from jgpt.model import context
from jgpt.model.attention import choose_attention
from jgpt.model.cache import Cache
from jgpt.model.embedding import Embedding
from jgpt.model.experts import PRODUCT, Routing
from jgpt.model.layers import GPT2_INIT_STD, Block, Norm
from jgpt.model.matrices import Stored, multiply, parameter
from jgpt.model.rotary import rotary
from jgpt.model.visibility import Pattern, Visibility

Params = dict[str, Any]  # a nested dict of arrays


def _either(one: Callable[..., Any], other: Callable[..., Any]) -> Callable[..., Any]:
    """Return the policy of `jax.checkpoint` that keeps what either keeps."""

    def policy(*arguments: Any, **options: Any) -> Any:
        return one(*arguments, **options) or other(*arguments, **options)

    return policy


_OF_EXPERTS = jax.checkpoint_policies.save_only_these_names(PRODUCT)  # policies do not see that these are products
REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": _either(jax.checkpoint_policies.dots_saveable, _OF_EXPERTS),
    "weights": _either(jax.checkpoint_policies.dots_with_no_batch_dims_saveable, _OF_EXPERTS),
    "offload": _either(
        jax.checkpoint_policies.offload_dot_with_no_batch_dims("device", "pinned_host"),
        jax.checkpoint_policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=[PRODUCT],
            offload_src="device",
            offload_dst="pinned_host",
        ),
    ),
}


def resolve(
    cfg: ModelConfig,
    *,
    vocab_size: int,
    backend: str,
    text_end: int | None = None,
    pictures: Mapping[str, PictureGrid] = MappingProxyType({}),
) -> ModelConfig:
    """Return `cfg` with everything that depends on the run filled in: vocabulary, pictures, type of compute, attention.

    Args:
        cfg: as the user wrote it.
        vocab_size: ids that mean something; rounded up to `vocab_multiple`.
        backend: `jax.default_backend()`: cpu, gpu or tpu.
        text_end: the id after the last that stands for text; None = all do.
        pictures: how the pictures of each image task lie in the tokens, by the task's name.

    Raises:
        ValueError: the backend cannot compute the attention asked for, `cfg` gives another vocabulary, or it needs one
            shape of pictures and there are none or several.
    """
    dtype = cfg.compute_dtype
    if dtype == "auto":
        dtype = "float32" if backend == "cpu" else "bfloat16"
    attention = choose_attention(
        cfg.attention,
        backend=backend,
        softcap=cfg.attention_softcap,
        dtype=dtype,
        length=cfg.context_length,
        width=cfg.width_of_head,
    )
    padded = -(-vocab_size // cfg.vocab_multiple) * cfg.vocab_multiple
    if cfg.vocab_size not in (None, padded):
        raise ValueError(f"model.vocab_size is {cfg.vocab_size}, the tokenizer needs {padded}: leave it out.")
    ngram_ids = text_end if cfg.ngram_ids is None else cfg.ngram_ids
    cfg = dataclasses.replace(cfg, vocab_size=padded, compute_dtype=dtype, attention=attention, ngram_ids=ngram_ids)
    if cfg.positions == "rotary_2d":
        cfg = _with_picture(cfg, pictures)
    if cfg.is_sparse and cfg.pattern_stride is None:
        grid = cfg.picture or _only("model.pattern_stride", "give the stride [tokens]", pictures)
        cfg = dataclasses.replace(cfg, pattern_stride=grid.width * grid.tokens_per_cell)
    return cfg


def _with_picture(cfg: ModelConfig, pictures: Mapping[str, PictureGrid]) -> ModelConfig:
    """Return `cfg` with the fields that say how pictures lie in the tokens."""
    if cfg.picture is not None and not pictures:
        return cfg
    grid = _only("model.positions 'rotary_2d'", "use 'rotary'", pictures)
    fields = dict(
        image_start_id=grid.start_id,
        picture_width=grid.width,
        picture_cells=grid.cells,
        tokens_per_cell=grid.tokens_per_cell,
    )
    for name, value in fields.items():
        given = getattr(cfg, name)
        require(given in (None, value), f"model.{name} is {given}, the run's pictures have {value}: leave it out.")
    return dataclasses.replace(cfg, **fields)


def _only(who: str, instead: str, pictures: Mapping[str, PictureGrid]) -> PictureGrid:
    """Return the one grid of all pictures; raise ValueError where there are none or several."""
    require(bool(pictures), f"{who} follows the rows of pictures, and this run has no image task: {instead}.")
    shapes = {name: f"{g.width} x {g.cells // g.width} cells of {g.tokens_per_cell}" for name, g in pictures.items()}
    require(
        len(set(pictures.values())) == 1,
        f"{who} follows the rows of pictures, and the image tasks have different ones ({shapes}): bring them to one size "
        f"with --data.image-size, or {instead}.",
    )
    return next(iter(pictures.values()))


class Head(nn.Module):
    """Final norm and, where it is not tied to the embedding, the output matrix."""

    cfg: ModelConfig

    def setup(self) -> None:
        """Declare the norm and the matrix."""
        cfg = self.cfg
        self.norm = Norm(cfg.norm, cfg.norm_epsilon, cfg.use_bias, cfg.compute_dtype)
        if not cfg.tie_embeddings:
            std = nn.initializers.normal(GPT2_INIT_STD) if cfg.init == "gpt2" else nn.initializers.zeros_init()
            kernel = nn.with_partitioning(std, ("embed", "vocab"))
            self.kernel = parameter(self, "kernel", kernel, (cfg.embed_dim, cfg.vocab_size))

    def __call__(self, x_BSD: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        """Return the normalised residual stream."""
        return self.norm(x_BSD)


def _boxed(cfg: ModelConfig, key: PRNGKeyArray) -> tuple[Params, Params, Params]:
    """Initialise (embedding, head, one block a layer), leaves boxed with their logical axes by Flax."""
    tokens_BS = jnp.zeros((1, 1), jnp.int32)
    x_BSD = jnp.zeros((1, 1, cfg.embed_dim), cfg.compute_dtype)
    embed_key, head_key, block_key = jax.random.split(key, 3)
    embedding = Embedding(cfg).init(embed_key, tokens_BS, tokens_BS)["params"]
    head = Head(cfg).init(head_key, x_BSD)["params"]
    visible = Visibility(tokens_BS, tokens_BS)

    def block(key: PRNGKeyArray) -> Params:
        return Block(dataclasses.replace(cfg, attention="einsum")).init(
            key, x_BSD, x_BSD, visible, rotary(cfg, tokens_BS, tokens_BS), None, False
        )["params"]

    return embedding, head, jax.vmap(block)(jax.random.split(block_key, cfg.num_layers))


def _is_box(leaf: Any) -> bool:
    return isinstance(leaf, nn.Partitioned)


def init(cfg: ModelConfig, key: PRNGKeyArray) -> Params:
    """Return freshly drawn f32 parameters: {"embedding", "blocks" (stacked over layers), "head"}."""
    embedding, head, blocks = nn.meta.unbox(_boxed(cfg, key))
    return {"embedding": embedding, "blocks": blocks, "head": head}


def param_axes(cfg: ModelConfig) -> Params:
    """Return a tree like `init`'s whose leaves are the logical names of each parameter's axes, as tuples."""
    embedding, head, blocks = jax.eval_shape(partial(_boxed, cfg), jax.random.key(0))
    stacked = jax.tree.map(lambda box: ("layers", *box.names), blocks, is_leaf=_is_box)
    plain = [jax.tree.map(lambda box: tuple(box.names), part, is_leaf=_is_box) for part in (embedding, head)]
    return {"embedding": plain[0], "blocks": stacked, "head": plain[1]}


def unstack(params: Params) -> Params:
    """Return `params` with the blocks as a tuple of L separate dicts, which decoding reads without copying slices."""
    blocks = params["blocks"]
    if isinstance(blocks, tuple):
        return params
    leaves, treedef = jax.tree.flatten(blocks)
    layers = zip(*(_slices(leaf) for leaf in leaves), strict=True)
    return {**params, "blocks": tuple(jax.tree.unflatten(treedef, layer) for layer in layers)}


@jax.custom_vjp
def _slices(stacked: Array) -> tuple[Array, ...]:
    """Return the entries along the first axis; their gradients are stacked, where differentiation would add up L paddings."""
    return tuple(stacked[i] for i in range(stacked.shape[0]))


_slices.defvjp(lambda stacked: (_slices(stacked), None), lambda _, slopes: (jnp.stack(slopes),))


def features(
    cfg: ModelConfig,
    params: Params,
    tokens_BS: Int[Array, "B S"],
    positions_BS: Int[Array, "B S"],
    segments_BS: Int[Array, "B S"] | None = None,
    cache: Cache | None = None,
    dropout_key: PRNGKeyArray | None = None,
    fresh: bool = False,
    last_B: Int[Array, " B"] | None = None,
    max_documents: int | None = None,
) -> tuple[Float[Array, "B S D"], Cache | None, Routing | None]:
    """Return the normalised residual stream after the last block, the updated cache, and how experts were chosen.

    The latter is the mean over the layers, None where there are no experts. Where a mesh cuts rows over devices, arguments
    are as they stand in the row and the result is in the order of `context.spread`.

    Args:
        cfg: a resolved config (see `resolve`).
        params: from `init`, stacked or unstacked.
        tokens_BS: input ids.
        positions_BS: position of each token in its document.
        segments_BS: document of each token within the row; None where every row is one document.
        cache: keys and values of earlier tokens; None in training. A row's positions go on where they ended, or begin
            again at 0; see `jgpt.model.cache` for how far back they may go.
        dropout_key: draws dropout; None switches dropout off.
        fresh: the cache is empty and the tokens stand at positions 0 to S - 1: they attend to each other, not to the cache.
        last_B: with a cache: the last token of each row, of those that are fed; what follows only pads the row and is not
            remembered. Negative where the whole row does; None where no row is padded.
        max_documents: that a row of segments_BS holds, which spares a GPU the scores between documents; None = not known.
    """
    train = dropout_key is not None and cfg.dropout > 0
    kv_positions_BT, cached_BT = positions_BS, None
    if cache is not None:
        rows_B1 = jnp.arange(tokens_BS.shape[0])[:, None]
        cached_BT = cache.tokens_BT.at[rows_B1, positions_BS].set(tokens_BS, mode="drop")
        if not fresh:
            kv_positions_BT = jnp.broadcast_to(jnp.arange(cached_BT.shape[1])[None, :], cached_BT.shape)
    x_BSD = Embedding(cfg).apply({"params": params["embedding"]}, tokens_BS, positions_BS, cached_BT)
    real_BS = None if last_B is None else jnp.arange(tokens_BS.shape[1])[None, :] <= last_B[:, None]
    if cached_BT is not None and not fresh:  # proposals past the end of a row are nothing to remember
        inside_BS = positions_BS < cached_BT.shape[1]
        real_BS = inside_BS if real_BS is None else real_BS & inside_BS
    visible = Visibility(
        context.spread(positions_BS),
        kv_positions_BT,
        None if segments_BS is None else context.spread(segments_BS),
        segments_BS,
        q_real_BS=real_BS,
        documents=max_documents,
    )
    turn = rotary(cfg, positions_BS, tokens_BS, cached_BT)
    if train:
        embed_key, *keys = jax.random.split(dropout_key, cfg.depth + 1)
        x_BSD = nn.Dropout(cfg.dropout, deterministic=False).apply({}, x_BSD, rngs={"dropout": embed_key})
    embedded_BSD = x_BSD

    def block(layer_params: Params, x_BSD: Array, layer: int, layer_cache: Any, key: Any) -> tuple[Array, Any, Any]:
        rngs = {"dropout": key} if train else {}
        seen = visible._replace(window=cfg.window_of(layer), pattern=pattern_of(cfg, layer))
        inputs = x_BSD, embedded_BSD, seen, turn, layer_cache, train, fresh
        return Block(cfg).apply({"params": layer_params}, *inputs, rngs=rngs)

    if REMAT[cfg.remat] is not None:
        block = jax.checkpoint(block, policy=REMAT[cfg.remat], static_argnums=(2,))

    routings: list[Routing | None] = []
    if cfg.scan_layers and cache is None and not isinstance(params["blocks"], tuple):
        period = math.lcm(len(cfg.windows), len(cfg.patterns))
        period = period if cfg.num_layers % period == 0 else cfg.num_layers
        turns = cfg.num_layers // period

        def body(first: int, x_BSD: Array, xs: tuple) -> tuple[Array, list[Routing | None]]:
            own = []
            for i in range(period):  # a whole period a turn, so that windows and patterns stay constants
                layer_params, key = jax.tree.map(lambda a: a[i], xs)  # noqa: B023 - used at once
                x_BSD, _, routing = block(layer_params, x_BSD, first + i, None, key)
                own.append(routing)
            return x_BSD, own

        def grouped(tree: Any) -> Any:
            return jax.tree.map(lambda a: a.reshape(turns, period, *a.shape[1:]), tree)

        for first in range(0, cfg.depth, cfg.num_layers):
            own = jnp.stack(keys[first : first + cfg.num_layers]) if train else None
            x_BSD, some = jax.lax.scan(partial(body, first), x_BSD, (grouped(params["blocks"]), grouped(own)))
            routings += some
        new_cache = None
    else:
        layers, caches = unstack(params)["blocks"], []
        for i, layer_params in enumerate(layers * cfg.loops):
            layer_cache = None if cache is None else cache.layers[i]
            key = keys[i] if train else None
            x_BSD, layer_cache, routing = block(layer_params, x_BSD, i, layer_cache, key)
            caches.append(layer_cache)
            routings.append(routing)
        new_cache = None if cached_BT is None else Cache(cached_BT, tuple(caches))
    mean = None
    if cfg.num_experts is not None:
        mean = jax.tree.map(lambda *values: jnp.mean(jnp.stack(values)), *routings)
    return Head(cfg).apply({"params": params["head"]}, x_BSD), new_cache, mean


def pattern_of(cfg: ModelConfig, layer: int) -> Pattern | None:
    """Return the sparse pattern of a layer, None where it sees everything in its window."""
    kind = cfg.patterns[layer % len(cfg.patterns)]
    if kind == "full":
        return None
    require(
        cfg.pattern_stride is not None,
        f"model.pattern_stride is None in a layer of pattern {kind!r}: pass the config through gpt.resolve first.",
    )
    return Pattern(kind, cfg.pattern_stride or 1, cfg.pattern_summary)


def output_matrix(cfg: ModelConfig, params: Params) -> Float[Array, "D V"]:
    """Return the matrix that maps features to logits: the head's own, or the embedding transposed where they are tied."""
    stored = stored_output(cfg, params)
    return stored.dense() if isinstance(stored, Stored) else stored


def stored_output(cfg: ModelConfig, params: Params) -> Float[Array, "D V"] | Stored:
    """Return `output_matrix` as it is stored, which is faster where few tokens are multiplied."""
    if not cfg.tie_embeddings:
        return params["head"]["kernel"]
    tokens = params["embedding"]["tokens"]
    return tokens if isinstance(tokens, Stored) else tokens.T


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _logit_product(dtype: str, x_ND: Array, w_DV: Array) -> Array:
    """Return the product, computed in the type of x, summed in f32 and rounded to `dtype`.

    So are its gradients, but that of w stays in f32.
    """
    return jnp.matmul(x_ND, w_DV.astype(x_ND.dtype), preferred_element_type=jnp.dtype(dtype))


def _logit_product_forward(dtype: str, x_ND: Array, w_DV: Array) -> tuple[Array, tuple[Array, Array]]:
    return _logit_product(dtype, x_ND, w_DV), (x_ND, w_DV)


def _logit_product_backward(dtype: str, saved: tuple[Array, Array], slope_NV: Array) -> tuple[Array, Array]:
    del dtype
    x_ND, w_DV = saved
    slope_NV = slope_NV.astype(x_ND.dtype)  # automatic differentiation would multiply f32 by bf16, in f32
    dx_ND = jnp.matmul(slope_NV, w_DV.astype(x_ND.dtype).T, preferred_element_type=jnp.float32)
    dw_DV = jnp.matmul(x_ND.T, slope_NV, preferred_element_type=jnp.float32)
    return dx_ND.astype(x_ND.dtype), dw_DV.astype(w_DV.dtype)


_logit_product.defvjp(_logit_product_forward, _logit_product_backward)


def logits(
    cfg: ModelConfig,
    x_ND: Float[Array, "N D"],
    output_DV: Float[Array, "D V"] | Stored,
    dtype: str = "float32",
) -> Float[Array, "N V"]:
    """Return logits of N tokens from their features, soft-capped where the config says so, rounded to `dtype`."""
    x_ND = x_ND.astype(cfg.compute_dtype)
    out_NV: Any  # custom_vjp hides the type
    if isinstance(output_DV, Stored):
        out_NV = multiply(x_ND, output_DV)
    else:
        # the cap comes before the rounding
        out_NV = _logit_product(dtype if cfg.logit_softcap is None else "float32", x_ND, output_DV)
    if cfg.logit_softcap is not None:
        out_NV = cfg.logit_softcap * jnp.tanh(out_NV / cfg.logit_softcap)
    return out_NV.astype(dtype)


def apply(
    cfg: ModelConfig,
    params: Params,
    tokens_BS: Int[Array, "B S"],
    positions_BS: Int[Array, "B S"],
    segments_BS: Int[Array, "B S"] | None = None,
    cache: Cache | None = None,
) -> tuple[Float[Array, "B S V"], Cache | None]:
    """Return f32 logits of every position, and the updated cache. Arguments as in `features`."""
    x_BSD, cache, _ = features(cfg, params, tokens_BS, positions_BS, segments_BS, cache)
    B, S, D = x_BSD.shape
    return logits(cfg, x_BSD.reshape(B * S, D), stored_output(cfg, params)).reshape(B, S, -1), cache
