"""Weights of the gpt2 preset by the names and shapes of Hugging Face's GPT-2, both ways, as plain numpy arrays.

Owns the mapping alone; refuses files and downloads. GPT-2's `Conv1D` weights lie [inputs, outputs], as ours do; query, key and
value stand side by side in one of them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jgpt import presets
from jgpt.check import require
from jgpt.config import ModelConfig

_NORMS = {"attention_norm": "ln_1", "mlp_norm": "ln_2"}
_PROJECTIONS = ("query", "key", "value")
# What else the model computes or holds follows from its sizes, but for norm_epsilon, which no tensor tells: GPT-2's config
# has it (layer_norm_epsilon). Biases are there or not.
_MUST_BE_GPT2S = (
    "loops", "norm", "positions", "embedding_conv", "ngrams", "mlp", "num_experts", "qk_norm", "attention_gates",
    "embedding_skips", "windows", "patterns", "attention_softcap", "logit_softcap", "tie_embeddings",
)  # fmt: skip


def from_gpt2(cfg: ModelConfig, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters stacked over layers from GPT-2's tensors; gradients, whose shapes are the same, convert alike.

    Args:
        cfg: a gpt2 preset of the tensors' sizes.
        tensors: by name, with or without the prefix `transformer.`.

    Raises:
        ValueError: a tensor is missing, or the model has parts that GPT-2 has not.
    """
    _check_parts(cfg)
    flat = {name.removeprefix("transformer."): np.asarray(value) for name, value in tensors.items()}
    D, H, K = cfg.embed_dim, cfg.num_heads, cfg.width_of_head

    def get(name: str) -> np.ndarray:
        require(name in flat, f"GPT-2's tensor {name!r} is missing: it must be there for {cfg.num_layers} layers.")
        return flat[name]

    def stack(name: str, convert: Callable[[np.ndarray], np.ndarray] = lambda a: a) -> np.ndarray:
        return np.stack([convert(get(f"h.{layer}.{name}")) for layer in range(cfg.num_layers)])

    def dense(name: str, convert: Callable[[np.ndarray], np.ndarray] = lambda a: a) -> dict[str, np.ndarray]:
        biases = {"bias": stack(f"{name}.bias")} if cfg.use_bias else {}
        return {"kernel": stack(f"{name}.weight", convert), **biases}

    def projection(part: int) -> dict[str, np.ndarray]:
        cut = slice(part * D, (part + 1) * D)
        biases = {"bias": stack("attn.c_attn.bias", lambda a: a[cut].reshape(H, K))} if cfg.use_bias else {}
        return {"kernel": stack("attn.c_attn.weight", lambda a: a[:, cut].reshape(D, H, K)), **biases}

    def norm(scale: np.ndarray, bias: Callable[[], np.ndarray]) -> dict[str, np.ndarray]:
        return {"scale": scale, "bias": bias()} if cfg.use_bias else {"scale": scale}

    attention = {name: projection(part) for part, name in enumerate(_PROJECTIONS)}
    attention["out"] = dense("attn.c_proj", lambda a: a.reshape(H, K, D))
    blocks: dict[str, Any] = {"attention": attention, "mlp": {"up": dense("mlp.c_fc"), "down": dense("mlp.c_proj")}}
    for ours, theirs in _NORMS.items():
        blocks[ours] = norm(stack(f"{theirs}.weight"), lambda name=theirs: stack(f"{name}.bias"))
    return {
        "embedding": {"tokens": get("wte.weight"), "positions": get("wpe.weight")},
        "blocks": blocks,
        "head": {"norm": norm(get("ln_f.weight"), lambda: get("ln_f.bias"))},
    }


def to_gpt2(cfg: ModelConfig, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return GPT-2's tensors by name, with the prefix `transformer.`, from parameters stacked over layers.

    Args:
        cfg: a gpt2 preset.
        params: as `gpt.init` makes them.

    Raises:
        ValueError: the model has parts that GPT-2 has not.
    """
    _check_parts(cfg)
    D, blocks = cfg.embed_dim, params["blocks"]
    out = {"wte.weight": params["embedding"]["tokens"], "wpe.weight": params["embedding"]["positions"]}
    out |= _named("ln_f", params["head"]["norm"])
    for layer in range(cfg.num_layers):

        def of(part: Mapping[str, Any], layer: int = layer) -> dict[str, np.ndarray]:
            return {name: np.asarray(value[layer]) for name, value in part.items()}

        parts = [of(blocks["attention"][name]) for name in _PROJECTIONS]
        joint = {"kernel": np.concatenate([part["kernel"].reshape(D, -1) for part in parts], axis=1)}
        if cfg.use_bias:
            joint["bias"] = np.concatenate([part["bias"].reshape(-1) for part in parts])
        out |= _named(f"h.{layer}.attn.c_attn", joint)
        merged = of(blocks["attention"]["out"])
        out |= _named(f"h.{layer}.attn.c_proj", merged | {"kernel": merged["kernel"].reshape(-1, D)})
        out |= _named(f"h.{layer}.mlp.c_fc", of(blocks["mlp"]["up"]))
        out |= _named(f"h.{layer}.mlp.c_proj", of(blocks["mlp"]["down"]))
        for ours, theirs in _NORMS.items():
            out |= _named(f"h.{layer}.{theirs}", of(blocks[ours]))
    return {f"transformer.{name}": np.asarray(value) for name, value in out.items()}


def _named(name: str, part: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{name}.{'bias' if key == 'bias' else 'weight'}": value for key, value in part.items()}


def _check_parts(cfg: ModelConfig) -> None:
    gpt2 = presets.gpt2()
    for name in _MUST_BE_GPT2S:
        value, theirs = getattr(cfg, name), getattr(gpt2, name)
        require(
            value == theirs,
            f"model.{name} is {value}: GPT-2's is {theirs}, and the rest has no place among its tensors; convert a model that "
            "has the same.",
        )
    require(
        cfg.kv_heads == cfg.num_heads,
        f"model.num_kv_heads is {cfg.num_kv_heads}: each of GPT-2's {cfg.num_heads} heads has keys and values of its own; "
        "leave it out.",
    )
    width = cfg.num_heads * cfg.width_of_head
    require(
        width == cfg.embed_dim,
        f"model.head_dim is {cfg.head_dim}: GPT-2's heads are together as wide as the model, {cfg.embed_dim}, not {width}; "
        "leave it out.",
    )
