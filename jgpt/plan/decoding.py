"""The sampler's step, compiled for devices that may not be here: weights and cache of each, and how fast tokens come.

Owns the way from a config and rows to figures of one token a row; what prompts cost is left out: it depends on their lengths.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jgpt import sharding
from jgpt.check import require
from jgpt.config import Config, ModelConfig
from jgpt.decoder import decoder_for
from jgpt.layout import ROW_AXES, each_copy, on_mesh, spec_of
from jgpt.model import gpt
from jgpt.model.cache import Cache
from jgpt.plan.collectives import Collective, collectives, to_json
from jgpt.plan.compiling import compiled_text, needed, shard_bytes, spans_of, temporary_bytes
from jgpt.plan.devices import Machine
from jgpt.plan.kernels import Kernel, kernels, seconds
from jgpt.plan.kernels import to_json as kernels_to_json
from jgpt.plan.roofline import network


@dataclass(frozen=True)
class DecodeStep:
    """One token of every row, as it was compiled.

    Attributes:
        rows: over all devices.
        length: tokens that the cache has room for.
        weights: bytes of a device, f32, as checkpoints hold them.
        cache: bytes of a device: keys and values in the type of compute, and the ids.
        read: bytes of the weights that every token needs; tables that are looked up are not among them.
        temporaries: bytes of a device beside them, the program included.
        collectives: of one step.
        kernels: of one step on one device.
        fits: the compiler found room; True where it does not ask.
        spans: mesh axis -> dimensions of the network that it lies along.
        mesh: axis -> devices.
        seconds: that compiling took.
    """

    rows: int
    length: int
    weights: float
    cache: float
    read: float
    temporaries: float
    collectives: list[Collective]
    kernels: list[Kernel]
    fits: bool
    spans: dict[str, int]
    mesh: dict[str, int]
    seconds: float

    @property
    def total(self) -> float:
        """Bytes of a device."""
        return self.weights + self.cache + self.temporaries

    def bound(self, machine: Machine) -> float:
        """Return the seconds of a step in which f32 weights and cache are read once."""
        return (self.read + self.cache) / machine.device.bandwidth

    def expected(self, machine: Machine) -> float:
        """Return the seconds of a step, one kernel after the other, then the network; not below the bound."""
        exchanged = sum(network(self.collectives, self.mesh, self.spans, machine).values())
        return max(self.bound(machine), seconds(self.kernels, machine.device) + exchanged)


def compile_decode(
    config: Config,
    model: ModelConfig,
    devices: Sequence[Any],
    *,
    rows: int,
    length: int,
    cache_dtype: str | None = None,
) -> DecodeStep:
    """Return one step of the sampler on devices, compiled and measured by its text.

    Args:
        config: of the run; its mesh counts.
        model: resolved for the devices' platform.
        devices: real ones, or of `compiling.devices_of`.
        rows: decoded at once, over all devices.
        length: of prompt and answer together [tokens].
        cache_dtype: "int8"; None = the type of compute.

    Raises:
        ValueError: rows or parameters cannot be laid over the mesh.
    """
    begun = time.monotonic()
    laid = config.mesh
    require(
        laid.slice == laid.context == laid.expert == 1,
        f"the sampler lies over mesh.data, fsdp and tensor, and the config has mesh.slice {laid.slice}, mesh.expert "
        f"{laid.expert} and mesh.context {laid.context}: set them to 1.",
    )
    mesh = sharding.make_mesh(config.mesh, devices)
    sharding.check_rows(rows, mesh, "--sampler")
    decoder = decoder_for(model, cache_dtype=cache_dtype)
    params = _params(model, mesh)
    cache = _cache(jax.eval_shape(partial(decoder.init_cache, rows, length)), mesh)
    ids = jax.ShapeDtypeStruct((rows, 1), jnp.int32, sharding=sharding.batch_sharding(mesh))
    last = jax.ShapeDtypeStruct((rows,), jnp.int32, sharding=_by_rows(mesh))
    step = jax.jit(on_mesh(mesh, each_copy(decoder.apply)), donate_argnums=3)
    lowered, held = step.lower(params, ids, ids, cache, last), shard_bytes((params, cache))
    found, run = [], []
    try:
        compiled, text = compiled_text(lowered, mesh)
    except jax.errors.JaxRuntimeError as error:
        fits, temporaries = False, needed(error, held)
    else:
        analysis = compiled.memory_analysis()
        fits, temporaries = True, temporary_bytes(analysis) + analysis.generated_code_size_in_bytes
        found, run = collectives(text, dict(mesh.shape)), kernels(text)
    looked_up = {} if model.tie_embeddings else params["embedding"]
    return DecodeStep(
        rows=rows,
        length=length,
        weights=shard_bytes(params),
        cache=shard_bytes(cache),
        read=shard_bytes(params) - shard_bytes(looked_up),
        temporaries=temporaries,
        collectives=found,
        kernels=run,
        fits=fits,
        spans=spans_of(mesh),
        mesh=dict(mesh.shape),
        seconds=time.monotonic() - begun,
    )


def _params(model: ModelConfig, mesh: Mesh) -> Any:
    """Return the parameters as decoding reads them, layers apart, abstract and laid over the mesh."""
    shapes = jax.eval_shape(lambda: gpt.init(model, jax.random.key(0)))
    where = sharding.param_shardings(mesh, gpt.param_axes(model), shapes)

    def leaf(shape: Any, place: NamedSharding, lead: int) -> jax.ShapeDtypeStruct:
        spec = NamedSharding(mesh, PartitionSpec(*place.spec[lead:]))
        return jax.ShapeDtypeStruct(shape.shape[lead:], shape.dtype, sharding=spec)

    layer = jax.tree.map(partial(leaf, lead=1), shapes["blocks"], where["blocks"])
    parts = {name: jax.tree.map(partial(leaf, lead=0), shapes[name], where[name]) for name in ("embedding", "head")}
    params = {**parts, "blocks": (layer,) * model.num_layers}
    if mesh.devices.flat[0].platform != "cpu":
        return params
    whole = sharding.replicated(mesh)
    stored = jax.eval_shape(decoder_for(model).prepare, params)  # outputs first
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), stored)


def _cache(cache: Cache, mesh: Mesh) -> Cache:
    """Return an abstract cache, rows over data and fsdp, heads over tensor."""

    def leaf(x: Any) -> jax.ShapeDtypeStruct:
        axes = ("kv_heads", None, None) if x.ndim > 2 else (None,)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=_by_rows(mesh, *axes[: x.ndim - 1]))

    return jax.tree.map(leaf, cache)


def _by_rows(mesh: Mesh, *axes: str | None) -> NamedSharding:
    """Return how an array by rows lies, with the names of its further axes."""
    return NamedSharding(mesh, PartitionSpec(ROW_AXES, *spec_of(axes)))


def to_dict(step: DecodeStep, machine: Machine) -> dict[str, Any]:
    """Return a step as JSON values: bytes of each device, seconds a token."""
    return {
        "rows": step.rows,
        "length": step.length,
        "mesh": step.mesh,
        "memory": {"weights": step.weights, "cache": step.cache, "temporaries": step.temporaries, "total": step.total},
        "of": machine.usable,
        "fits": step.fits and bool(step.total <= machine.usable),
        "seconds": {"bound": step.bound(machine), "expected": step.expected(machine)},
        "tokens_per_second": {
            "bound": step.rows / step.bound(machine),
            "expected": step.rows / step.expected(machine),
        },
        "collectives": to_json(step.collectives),
        "kernels": kernels_to_json(step.kernels),
        "compile_seconds": step.seconds,
    }
