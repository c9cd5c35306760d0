"""Architectures by the name of the paper they follow. Each returns a `ModelConfig`; arguments override any field.

Owns which options make up an architecture; sizes are the caller's.
"""

from collections.abc import Callable
from typing import Any, Final

from jgpt.config import ModelConfig


def gpt2(**sizes: Any) -> ModelConfig:
    """Return GPT-2 (Radford et al. 2019): LayerNorm, learned positions, GELU, biases, tied embeddings."""
    options: dict[str, Any] = dict(
        norm="layernorm",
        positions="learned",
        mlp="gelu",
        use_bias=True,
        qk_norm=False,
        tie_embeddings=True,
        init="gpt2",
    )
    return ModelConfig(**(options | sizes))


def llama(**sizes: Any) -> ModelConfig:
    """Return Llama (Touvron et al. 2023): RMSNorm, rotary positions, SwiGLU, no biases, untied head."""
    options: dict[str, Any] = dict(
        norm="rmsnorm",
        positions="rotary",
        mlp="swiglu",
        use_bias=False,
        qk_norm=False,
        tie_embeddings=False,
        init="gpt2",
    )
    return ModelConfig(**(options | sizes))


def mixtral(**sizes: Any) -> ModelConfig:
    """Return Mixtral (Jiang et al. 2024): Llama with eight experts in place of the MLP, of which a token is computed by two."""
    options: dict[str, Any] = dict(num_experts=8, experts_per_token=2)
    return llama(**(options | sizes))


def modern(**sizes: Any) -> ModelConfig:
    """Return the small-scale speedrun recipe (Jordan et al. 2024, modded-nanogpt): rotary, QK-norm, squared ReLU, zero init."""
    options: dict[str, Any] = dict(
        norm="rmsnorm", positions="rotary", mlp="relu2", use_bias=False, qk_norm=True, tie_embeddings=False, init="zero"
    )
    return ModelConfig(**(options | sizes))


PRESETS: Final[dict[str, Callable[..., ModelConfig]]] = {
    "gpt2": gpt2,
    "llama": llama,
    "mixtral": mixtral,
    "modern": modern,
}
