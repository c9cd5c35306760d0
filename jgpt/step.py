"""One optimizer step and one evaluation step: pure functions that know no task, no file and no clock.

Owns gradients, accumulation and the compiled step; refuses everything that happens between steps.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, PRNGKeyArray

from jgpt import layout, sharding
from jgpt.batch import ANY_ROWS, Batch, RowLimits
from jgpt.config import Config, ModelConfig, TrainConfig
from jgpt.layout import copies, on_mesh, over_copies, place, place_tokens
from jgpt.loss import LossPlan, LossSums, cross_entropy, logits_at_once, weighed
from jgpt.model import context, gpt
from jgpt.model.experts import Routing
from jgpt.state import TrainState, shardings_of

Metrics = dict[str, Array]


class StepSums(NamedTuple):
    """What a batch sums up to: the loss, and how evenly experts were chosen, times the weight of the targets."""

    loss: LossSums
    balance: Array


def loss_sums(
    cfg: ModelConfig,
    params: gpt.Params,
    batch: Batch,
    plan: LossPlan,
    dropout_key: PRNGKeyArray | None = None,
    limits: RowLimits = ANY_ROWS,
) -> tuple[Array, LossSums]:
    """Return the objective of a batch and the loss sums behind it; `dropout_key` None switches dropout off."""
    objective, sums, _ = _objective(cfg, params, batch, plan, dropout_key, limits)
    return objective, sums


def _objective(
    cfg: ModelConfig,
    params: gpt.Params,
    batch: Batch,
    plan: LossPlan,
    dropout_key: PRNGKeyArray | None,
    limits: RowLimits,
) -> tuple[Array, LossSums, Routing | None]:
    """Return the objective of the targets, its sums, and how experts were chosen."""
    x_BSD, _, routing = gpt.features(
        cfg,
        params,
        batch.tokens_BS,
        batch.positions_BS,
        batch.segments_BS,
        dropout_key=dropout_key,
        max_documents=limits.documents,
    )
    output_DV = place(gpt.output_matrix(cfg, params), None, "vocab")  # gathered once, for all pieces of the loss
    to_logits = partial(_placed_logits, cfg, plan.logits_dtype)
    targets_BS, weights_BS = context.spread(batch.targets_BS), context.spread(batch.weights_BS)
    trained = weighed(x_BSD, targets_BS, weights_BS, limits.targets)
    return *cross_entropy(to_logits, trained[0], output_DV, *trained[1:], plan), routing


def _placed_logits(cfg: ModelConfig, dtype: str, x_ND: Array, output_DV: Array) -> Array:
    return place_tokens(gpt.logits(cfg, x_ND, output_DV, dtype), "vocab")


def gradients(
    cfg: Config,
    model: ModelConfig,
    params: gpt.Params,
    batch: Batch,
    key: PRNGKeyArray,
    plan: LossPlan,
    limits: RowLimits = ANY_ROWS,
) -> tuple[gpt.Params, StepSums]:
    """Return the gradient of the mean loss over the batch's targets, and the sums.

    Micro-batches add up gradients of sums and divide once by the whole weight, so that the result does not depend on
    how the rows were cut; but for the balance of experts, which is that of each micro-batch.
    """
    M = cfg.train.accumulation_steps
    zero = jnp.zeros((), jnp.float32)

    def total(params: gpt.Params, part: Batch, key: PRNGKeyArray) -> tuple[Array, StepSums]:
        dropout_key = key if model.dropout > 0 else None
        objective, sums, routing = _objective(model, params, part, plan, dropout_key, limits)
        if routing is None:
            return objective, StepSums(sums, zero)
        extra = cfg.train.load_balance_loss * routing.balance + cfg.train.router_z_loss * routing.squared_log_z
        balance = jax.lax.stop_gradient(routing.balance)
        return objective + sums.weight * extra, StepSums(sums, sums.weight * balance)

    gradient = jax.grad(total, has_aux=True)

    def added(params: gpt.Params, batch: Batch, key: PRNGKeyArray) -> tuple[gpt.Params, StepSums]:
        if M == 1:
            return gradient(params, batch, key)
        # rows are dealt out in turn, so that each device's rows stay on it
        parts = jax.tree.map(lambda a: a.reshape(a.shape[0] // M, M, *a.shape[1:]).swapaxes(0, 1), batch)

        def body(carry: tuple, xs: tuple) -> tuple[tuple, None]:
            part, part_key = xs
            return jax.tree.map(jnp.add, carry, gradient(params, part, part_key)), None

        start = (jax.tree.map(jnp.zeros_like, params), StepSums(LossSums(zero, zero, zero), zero))
        return jax.lax.scan(body, start, (parts, jax.random.split(key, M)))[0]

    grads, sums = over_copies(added, cfg.mesh.slice_reduction)(params, batch, key)
    return jax.tree.map(lambda g: g / jnp.maximum(sums.loss.weight, 1e-9), grads), sums


def loss_plan(train: TrainConfig, mesh: Mesh) -> LossPlan:
    """Return how the loss is computed on this mesh, by each copy of the model for itself (`layout.over_copies`)."""
    platform = mesh.devices.flat[0].platform
    split = mesh.size == 1 and platform == "cpu"
    count, tokens = copies(mesh.shape), train.loss_chunk_tokens
    return LossPlan(
        None if tokens is None else max(1, tokens // count),
        train.z_loss,
        split,
        at_once=logits_at_once(platform, mesh.size // count),
        online=platform == "gpu",
        logits_dtype=train.logits_dtype,
    )


def limits_on(mesh: Mesh, limits: RowLimits) -> RowLimits:
    """Return the limits that steps on this mesh use: where rows are cut over devices, targets stay where they are."""
    return dataclasses.replace(limits, targets=None) if layout.parts("seq", mesh.shape) > 1 else limits


def train_step(
    cfg: Config,
    model: ModelConfig,
    tx: optax.GradientTransformation,
    plan: LossPlan,
    limits: RowLimits,
    state: TrainState,
    batch: Batch,
) -> tuple[TrainState, Metrics]:
    """Return the state after one optimizer step, and {"loss" [nats], "grad_norm", "weight"} before it.

    With experts also "load_balance": 1 where all are chosen alike, up to their number where one has everything.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key_data), state.step)
    grads, sums = gradients(cfg, model, state.params, batch, key, plan, limits)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
        # early on the average follows faster, so that it does not remember the random start
        decay = jnp.minimum(cfg.optim.ema_decay, (1 + state.step) / (10 + state.step))
        ema = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, ema, params)
    weight = jnp.maximum(sums.loss.weight, 1e-9)
    metrics = {"loss": sums.loss.nats / weight, "grad_norm": optax.tree.norm(grads), "weight": sums.loss.weight}
    if model.num_experts is not None:
        metrics["load_balance"] = sums.balance / weight
    return TrainState(state.step + 1, params, opt_state, state.key_data, ema), metrics


def compile_train_step(
    cfg: Config,
    model: ModelConfig,
    tx: optax.GradientTransformation,
    state: TrainState,
    mesh: Mesh,
    limits: RowLimits = ANY_ROWS,
) -> Any:
    """Return `train_step` jitted for the shardings of `state`, which may be abstract; the state given is consumed.

    `limits`: what a row of the batches holds at most.
    """
    where = shardings_of(state)
    return jax.jit(
        on_mesh(mesh, partial(train_step, cfg, model, tx, loss_plan(cfg.train, mesh), limits_on(mesh, limits))),
        in_shardings=(where, sharding.batch_sharding(mesh)),
        out_shardings=(where, sharding.replicated(mesh)),
        donate_argnums=0,
        compiler_options=_compiler_options(mesh),
    )


def compile_eval_step(
    model: ModelConfig, train: TrainConfig, mesh: Mesh, limits: RowLimits = ANY_ROWS
) -> Callable[[Any, Batch], LossSums]:
    """Return the jitted loss sums of a batch without dropout, replicated on every device; `limits`: of its rows."""
    plan = dataclasses.replace(loss_plan(train, mesh), logits_dtype="float32")

    def sums(params: gpt.Params, batch: Batch) -> LossSums:
        def own(params: gpt.Params, batch: Batch, _: PRNGKeyArray) -> LossSums:
            return loss_sums(model, params, batch, plan, limits=limits_on(mesh, limits))[1]

        return over_copies(own)(params, batch, jax.random.key(0))

    return jax.jit(
        on_mesh(mesh, sums),
        out_shardings=sharding.replicated(mesh),
        compiler_options=_compiler_options(mesh),
    )


def _compiler_options(mesh: Mesh) -> dict[str, bool | int] | None:
    """Return what XLA is told beside the program: on GPUs, to leave products to cuBLAS, and each product as it is.

    Triton's kernels are compiled and raced against it one by one. GPT-2's 124M step on an H200, other compilers beside it,
    took 38 s to compile with them and 29 without, and was no faster for it: 34.7 and 34.5 ms. Products of one input, as of
    query, key and value, would be merged, then copied apart in the forward pass and together in the backward pass.
    """
    if mesh.devices.flat[0].platform != "gpu":
        return None
    return {"xla_gpu_enable_triton_gemm": False, "xla_gpu_dot_merger_threshold_mb": 0}
