"""Optimizers and schedules, by name, as optax transformations.

Owns which parameters are decayed and which of them Muon updates; both are read off the logical axes, not off names.
"""

from collections.abc import Callable
from typing import Any, Final

import jax
import jax.numpy as jnp
import optax

from jgpt.check import unknown_name
from jgpt.config import OptimConfig
from jgpt.muon import scale_by_muon


def _is_axes(leaf: Any) -> bool:
    return isinstance(leaf, tuple)


def decay_mask(axes: Any) -> Any:
    """Return true for matrices and tables of the residual stream; false for norms, biases, gates of heads, convolutions.

    Args:
        axes: tree of tuples of logical axis names (`gpt.param_axes`).
    """

    def is_matrix(names: tuple[str, ...]) -> bool:
        return "embed" in names

    return jax.tree.map(is_matrix, axes, is_leaf=_is_axes)


def muon_labels(axes: Any) -> Any:
    """Return "muon" for the hidden matrices (stacked over layers), "adam" for the rest, routers among them."""

    def label(names: tuple[str, ...]) -> str:
        return "muon" if "layers" in names and "embed" in names and "choice" not in names else "adam"

    return jax.tree.map(label, axes, is_leaf=_is_axes)


def _tail(cfg: OptimConfig) -> Callable[[jax.Array], jax.Array]:
    """Return the factor after warmup as a function of progress in [0, 1]."""
    final = cfg.final_lr_fraction
    shapes: dict[str, Callable[[jax.Array], jax.Array]] = {
        "constant": lambda p: jnp.ones_like(p),
        "linear": lambda p: 1 - (1 - final) * p,
        "cosine": lambda p: final + (1 - final) * 0.5 * (1 + jnp.cos(jnp.pi * p)),
        "wsd": lambda p: 1 - (1 - final) * jnp.clip((p - 1 + cfg.decay_fraction) / cfg.decay_fraction, 0, 1),
    }
    if cfg.schedule not in shapes:
        raise ValueError(unknown_name("optim.schedule", cfg.schedule, SCHEDULES))
    return shapes[cfg.schedule]


SCHEDULES: Final = ("constant", "linear", "cosine", "wsd")


def make_schedule(cfg: OptimConfig, steps: int) -> optax.Schedule:
    """Return the learning rate as a share of the peak: linear warmup from 1 / warmup_steps, then the named shape.

    wsd is warmup-stable-decay (Hu et al. 2024, MiniCPM): constant, then linear over the last `decay_fraction`.

    Args:
        cfg: schedule and its parameters.
        steps: optimizer steps of the whole run.
    """
    tail = _tail(cfg)

    def factor(count: jax.typing.ArrayLike) -> jax.Array:
        count = jnp.asarray(count, jnp.float32)
        warm = (count + 1) / max(cfg.warmup_steps, 1)
        progress = jnp.clip((count - cfg.warmup_steps) / max(steps - cfg.warmup_steps, 1), 0, 1)
        return jnp.where(count < cfg.warmup_steps, warm, tail(progress))

    return factor


def _adamw(cfg: OptimConfig, lr: optax.Schedule, axes: Any, peak: float) -> optax.GradientTransformation:
    return optax.chain(
        optax.scale_by_adam(b1=cfg.b1, b2=cfg.b2, eps=cfg.epsilon),
        optax.add_decayed_weights(cfg.weight_decay, mask=decay_mask(axes)) if cfg.weight_decay else optax.identity(),
        optax.scale_by_learning_rate(lambda count: peak * lr(count)),
    )


def adamw(cfg: OptimConfig, lr: optax.Schedule, axes: Any) -> optax.GradientTransformation:
    """Return AdamW (Loshchilov and Hutter 2019): decoupled decay, on matrices alone."""
    return _adamw(cfg, lr, axes, cfg.peak_lr)


def muon(cfg: OptimConfig, lr: optax.Schedule, axes: Any) -> optax.GradientTransformation:
    """Return Muon for the hidden matrices and AdamW, at its own rate, for embeddings, head, norms and biases."""
    labels = muon_labels(axes)

    def only(label: str) -> Any:
        masked = optax.MaskedNode()
        return jax.tree.map(lambda names, mine: names if mine == label else masked, axes, labels, is_leaf=_is_axes)

    hidden = optax.chain(
        scale_by_muon(only("muon"), cfg.momentum, cfg.newton_schulz_steps),
        optax.add_decayed_weights(cfg.weight_decay) if cfg.weight_decay else optax.identity(),
        optax.scale_by_learning_rate(lambda count: cfg.peak_lr * lr(count)),
    )
    rest = _adamw(cfg, lr, only("adam"), cfg.adam_lr)
    return optax.partition({"muon": hidden, "adam": rest}, labels)


OPTIMIZERS: Final = {"adamw": adamw, "muon": muon}


def make_optimizer(cfg: OptimConfig, steps: int, axes: Any) -> optax.GradientTransformation:
    """Return the configured optimizer, behind clipping by the global norm.

    Args:
        cfg: optimizer and schedule.
        steps: optimizer steps of the whole run.
        axes: tree of tuples of logical axis names (`gpt.param_axes`).

    Raises:
        ValueError: optimizer or schedule is unknown.
    """
    if cfg.name not in OPTIMIZERS:
        raise ValueError(unknown_name("optim.name", cfg.name, OPTIMIZERS))
    tx = OPTIMIZERS[cfg.name](cfg, make_schedule(cfg, steps), axes)
    return tx if cfg.clip_norm is None else optax.chain(optax.clip_by_global_norm(cfg.clip_norm), tx)
