"""The real train step, compiled for devices that may not be here: what it holds, computes and exchanges.

Owns the way from a config and devices to figures. Nothing is allocated on them. Refuses to know how fast they are
(`roofline`) and what to change where they are too small (`search`).
"""

import importlib.util
import os
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np
from jax.sharding import Mesh

from jgpt import metrics, optim, sharding, state, step
from jgpt.batch import ANY_ROWS, Batch, RowLimits
from jgpt.check import require
from jgpt.config import Config, ModelConfig
from jgpt.model import gpt
from jgpt.plan.collectives import Collective, collectives
from jgpt.plan.devices import LAYOUTS, Machine
from jgpt.plan.gpus import target
from jgpt.plan.kernels import Kernel, kernels
from jgpt.runtime import NO_TPU

# how libtpu says that a program does not fit: all that it needs, or its temporaries alone
_USED: Final = re.compile(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm")
_TEMPORARY: Final = re.compile(r"HLO temporaries \(([\d.]+)([KMGT]?)\)")
_UNITS: Final = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Memory:
    """Bytes on each device during a step.

    Attributes:
        parameters: f32.
        optimizer: its moments, and the moving average where there is one.
        gradients: as large as the parameters; the compiler may keep less of them at once.
        activations: everything else that is temporary: what the backward pass needs, buffers of collectives, the loss.
        batch: ids, targets and weights of the rows.
        program: the code.
    """

    parameters: float
    optimizer: float
    gradients: float
    activations: float
    batch: float
    program: float

    @property
    def total(self) -> float:
        """All together."""
        return sum(vars(self).values())


@dataclass(frozen=True)
class Step:
    """A train step as it was compiled.

    Attributes:
        mesh: axis -> devices.
        memory: by kind.
        flops: of one step over all devices, recomputation included.
        model_flops: without recomputation, as MFU counts.
        tokens: of one step.
        collectives: of one step.
        kernels: of one step on one device; empty where it does not fit.
        spans: mesh axis -> dimensions of the network that it lies along.
        validation: bytes on each device while it samples, as `validation_bytes` counts them.
        fits: the compiler found room; True where it does not ask.
        seconds: that compiling took.
    """

    mesh: dict[str, int]
    memory: Memory
    flops: float
    model_flops: float
    tokens: int
    collectives: list[Collective]
    kernels: list[Kernel]
    spans: dict[str, int]
    validation: float
    fits: bool
    seconds: float


def devices_of(machine: Machine) -> Sequence[Any]:
    """Return descriptions of a machine's devices, for which programs can be compiled.

    Raises:
        ValueError: jax cannot compile for them here.
    """
    from jax.experimental import topologies

    device = machine.device
    if device.platform == "tpu":
        for variable, value in NO_TPU.items():
            os.environ.setdefault(variable, value)
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        options: dict[str, Any] = {"num_slices": machine.slices} if machine.slices > 1 else {}
    else:
        hosts = -(-machine.size // 8)
        options = {"topology": f"1x{hosts}x{machine.size // hosts}", "target_config": target(device)}
    platform = "tpu" if device.platform == "tpu" else "cuda"
    name = f"{device.name}:{machine.topology}" if platform == "tpu" else ""
    try:
        devices = topologies.get_topology_desc(platform=platform, topology_name=name, **options).devices
    except Exception as error:  # whatever a plugin raises
        first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        if platform == "cuda":
            need = "it needs jax's cuda plugin (pip install 'jax[cuda13]')"
        elif importlib.util.find_spec("libtpu") is None:
            need = "it needs pip install 'jgpt[plan]'"
        else:
            need = f"layouts that exist are {LAYOUTS[device.name]}, and more"
        raise ValueError(f"jax cannot compile for {device.name}:{machine.topology} here: {need} ({first}).") from None
    require(
        len(devices) == machine.size,
        f"{device.name} {machine.topology} has {machine.size} devices, and jax compiles for {len(devices)}: use hosts of 8.",
    )
    return devices


def compile_step(config: Config, model: ModelConfig, devices: Sequence[Any], limits: RowLimits = ANY_ROWS) -> Step:
    """Return the train step of a config on devices, compiled and measured by its text.

    Args:
        config: of the run.
        model: resolved for the devices' platform.
        devices: real ones, or of `devices_of`.
        limits: what a row of the data holds at most.

    Raises:
        ValueError: the config cannot be laid over the devices.
    """
    begun = time.monotonic()
    mesh = sharding.make_mesh(config.mesh, devices)
    require(
        mesh.size == len(devices),
        f"the mesh {dict(mesh.shape)} uses {mesh.size} of {len(devices)} devices: a plan is for all; leave mesh.data unset.",
    )
    rows, length = config.train.batch_size, model.context_length
    sharding.check_rows(rows // config.train.accumulation_steps, mesh, "train.batch_size / train.accumulation_steps")
    tx = optim.make_optimizer(config.optim, config.train.steps, gpt.param_axes(model))
    abstract = state.abstract_state(model, tx, mesh, ema=config.optim.ema_decay is not None)
    batch = sharding.abstract_batch(rows, length, mesh)
    lowered = step.compile_train_step(config, model, tx, abstract, mesh, limits).lower(abstract, batch)
    fits, found, run = True, [], []
    try:
        compiled, text = compiled_text(lowered, mesh)
    except jax.errors.JaxRuntimeError as error:
        fits, memory = False, _memory(abstract, batch, None, error)
    else:
        memory = memory_of(compiled, abstract, batch)
        found, run = collectives(text, dict(mesh.shape)), kernels(text)
    flops = metrics.flops_per_token(model, step.limits_on(mesh, limits)) * rows * length
    return Step(
        mesh=dict(mesh.shape),
        memory=memory,
        flops=flops * _recomputed(model),
        model_flops=flops,
        tokens=rows * length,
        collectives=found,
        kernels=run,
        spans=spans_of(mesh),
        validation=validation_bytes(config, model, memory, sharding.owners(mesh).ravel().tolist()),
        fits=fits,
        seconds=time.monotonic() - begun,
    )


def validation_bytes(config: Config, model: ModelConfig, memory: Memory, owners: Sequence[int]) -> float:
    """Return the bytes on each device between two steps, while the run samples: the state, and what sampling copies.

    Decoding reads a form of its own. Several processes sample each by itself, from a copy on its own devices.

    Args:
        config: of the run.
        model: resolved.
        memory: of a step.
        owners: process of each device, as many for all.
    """
    state_bytes = memory.parameters + memory.optimizer
    if not config.eval.samples:
        return state_bytes
    if len(set(owners)) == 1:
        return state_bytes + memory.parameters
    return state_bytes + 2 * parameter_bytes(model) / owners.count(owners[0])


def compiled_text(lowered: Any, mesh: Mesh) -> tuple[Any, str]:
    """Return a compiled program and its HLO as text.

    libtpu may be newer than jaxlib, which then cannot read the program back; so libtpu writes the text itself.
    """
    if mesh.devices.flat[0].platform != "tpu":
        compiled = lowered.compile()
        return compiled, compiled.as_text()
    with tempfile.TemporaryDirectory() as folder:
        compiled = lowered.compile(compiler_options={"xla_dump_to": folder, "xla_dump_hlo_as_text": True})
        (path,) = Path(folder).glob("*.after_optimizations.txt")
        return compiled, path.read_text()


def memory_of(compiled: Any, abstract: state.TrainState, batch: Batch) -> Memory:
    """Return what a compiled train step takes on each device.

    Args:
        compiled: by `jax.jit(...).lower(...).compile()`.
        abstract: the state, from `state.abstract_state`.
        batch: from `sharding.abstract_batch`.
    """
    return _memory(abstract, batch, compiled.memory_analysis(), None)


def _memory(abstract: state.TrainState, batch: Batch, analysis: Any, error: Exception | None) -> Memory:
    """Return the memory of a program by the compiler's analysis, or by its error where it does not fit."""
    held = [shard_bytes(part) for part in (abstract.params, (abstract.opt_state, abstract.ema), batch)]
    if error is not None:
        temporary, program = needed(error, sum(held)), 0.0
    else:
        temporary = temporary_bytes(analysis)
        program = analysis.generated_code_size_in_bytes
    gradients = min(held[0], temporary)
    return Memory(held[0], held[1], gradients, temporary - gradients, held[2], program)


def temporary_bytes(analysis: Any) -> float:
    """Return what a program takes beside its arguments and code, by the compiler's analysis; results in place cost nothing."""
    return analysis.temp_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes


def needed(error: Exception, held: float) -> float:
    """Return the bytes of the temporaries of a program that does not fit; what is held beside them is known."""
    temporary, used = _TEMPORARY.search(str(error)), _USED.search(str(error))
    if temporary is not None:
        return float(temporary.group(1)) * _UNITS[temporary.group(2)]
    if used is None:
        raise error
    return float(used.group(1)) * _UNITS[used.group(2)] - held


def parameter_bytes(model: ModelConfig) -> float:
    """Return the bytes of the whole model's parameters, f32."""
    shapes = jax.eval_shape(lambda: gpt.init(model, jax.random.key(0)))
    return float(sum(np.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)))


def _recomputed(model: ModelConfig) -> float:
    """Return by how much remat multiplies the work: the whole forward pass of the blocks is a third of a step."""
    return 4 / 3 if model.remat == "full" else 1.0


def shard_bytes(tree: Any) -> float:
    """Return the bytes of a tree's leaves on one device."""
    sizes = (np.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
    return float(sum(sizes))


def spans_of(mesh: Mesh) -> dict[str, int]:
    """Return mesh axis -> dimensions of the network that its devices lie along."""
    return {axis: _span(mesh.devices, i) for i, axis in enumerate(mesh.shape)}


def _span(devices: np.ndarray, axis: int) -> int:
    """Return along how many dimensions of the network the devices of a mesh axis lie; 1 where devices have no place."""
    line = np.moveaxis(devices, axis, 0).reshape(devices.shape[axis], -1)[:, 0]
    if len(line) < 2 or not hasattr(line[0], "coords"):
        return 1
    places = np.array([device.coords for device in line])
    return max(1, int((places != places[:1]).any(0).sum()))
