"""What to change: where a step does not fit, the cheapest changes that would; and the best mesh for a machine.

Owns the candidates and their order by a rough estimate; every one that is reported was compiled.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

from jgpt.config import Config, MeshConfig, ModelConfig
from jgpt.loss import logits_at_once
from jgpt.metrics import flops_per_token
from jgpt.plan.compiling import Step
from jgpt.plan.devices import Machine
from jgpt.plan.roofline import Times

REMATS: Final = ("none", "dots", "weights", "full")
# Bytes kept for the backward pass of one layer and token, in multiples of the width, bf16: all activations; the results of
# matrix products; those of products with weights; the input of the block alone. Rough: they only order the candidates.
KEPT: Final = {"none": 80.0, "dots": 48.0, "weights": 20.0, "full": 4.0}
# bytes of each score that attention without a kernel keeps
SCORES: Final = {"none": 8.0, "dots": 4.0, "weights": 0.0, "full": 0.0}
LOSS_CHUNKS: Final = 8  # into which the logits that stand at once are cut, where they are too many
ENOUGH: Final = 2  # candidates that fit; as many are compiled at once
ROOM: Final = 1.5  # candidates whose estimate exceeds the memory by more are not compiled

Compile = Callable[[Config, ModelConfig], tuple[Step, Times]]


class Candidate(NamedTuple):
    """A config to try, in words what was changed, and the bytes that it might need; 0 = not estimated."""

    words: str
    config: Config
    model: ModelConfig
    bytes: float = 0.0


class Tried(NamedTuple):
    """A candidate that was compiled."""

    candidate: Candidate
    step: Step
    times: Times


def remedies(config: Config, model: ModelConfig, devices: int, platform: str) -> Iterator[Candidate]:
    """Yield changes that need less memory, those that cost least first; none changes what is computed.

    Args:
        config: that does not fit.
        model: resolved.
        devices: on which it does not.
        platform: of theirs.
    """
    mesh, train = config.mesh, config.train
    together = train.batch_size // train.accumulation_steps * model.context_length
    chunk = train.loss_chunk_tokens or logits_at_once(platform, devices) // (model.vocab_size or 1)
    if min(chunk, together) >= LOSS_CHUNKS * devices:
        tokens = min(chunk, together) // LOSS_CHUNKS
        changed = dataclasses.replace(config, train=dataclasses.replace(train, loss_chunk_tokens=tokens))
        yield Candidate(f"--train.loss-chunk-tokens {tokens}", changed, model)
    devices = devices // (mesh.tensor * _given(mesh))
    possible = [fsdp for fsdp in _divisors(devices) if model.embed_dim % fsdp == 0]
    most = possible[-1]
    for fsdp in possible:
        if fsdp > mesh.fsdp and fsdp >= most // 4:
            changed = dataclasses.replace(config, mesh=_mesh(mesh, devices, fsdp))
            yield Candidate(_words(changed.mesh), changed, model)
    widest = dataclasses.replace(config, mesh=_mesh(mesh, devices, most))
    spread = _words(widest.mesh)
    for remat in REMATS[REMATS.index(model.remat) + 1 :] if model.remat in REMATS else ("full",):
        for base in (config, widest) if mesh.fsdp < most else (config,):
            more = "" if base is config else f"{spread} "
            yield _with_remat(base, model, remat, f"{more}--model.remat {remat}")
    for steps in _divisors(config.train.batch_size // (devices * mesh.slice * mesh.expert)):
        if steps > train.accumulation_steps:
            finer = dataclasses.replace(train, accumulation_steps=steps)
            more = f"{spread} " if mesh.fsdp < most else ""
            words = f"{more}--model.remat full --train.accumulation-steps {steps}"
            yield _with_remat(dataclasses.replace(widest, train=finer), model, "full", words)


def meshes(config: Config, model: ModelConfig, machine: Machine, parameters: float) -> list[Candidate]:
    """Return meshes, remat policies and micro-batches that a machine allows, those that should be fastest first.

    Slices, expert and context stay as the config has them.

    Args:
        config: of the run; its batch stays.
        model: resolved.
        machine: to lay it over.
        parameters: bytes of the whole model.
    """
    found: list[tuple[float, int, Candidate]] = []
    free, rows = machine.size // _given(config.mesh), config.mesh.slice * config.mesh.expert
    for tensor in _divisors(free):
        if model.num_heads % tensor or model.kv_heads % tensor or tensor > 16:
            continue
        for fsdp in _divisors(free // tensor):
            data = free // tensor // fsdp
            if config.train.batch_size % (data * fsdp * rows) or model.embed_dim % fsdp:
                continue
            for steps in _divisors(config.train.batch_size // (data * fsdp * rows)):
                for remat in REMATS:
                    train = dataclasses.replace(config.train, accumulation_steps=steps)
                    mesh = dataclasses.replace(config.mesh, data=data, fsdp=fsdp, tensor=tensor)
                    words = f"{_words(mesh)} --mesh.tensor {tensor} --model.remat {remat}"
                    words += f" --train.accumulation-steps {steps}" if steps > 1 else ""
                    candidate = _with_remat(dataclasses.replace(config, mesh=mesh, train=train), model, remat, words)
                    seconds, state, kept = _estimate(candidate, machine, parameters)
                    room = machine.device.memory
                    if state <= room and state + kept <= ROOM * room:
                        found.append((seconds, len(found), candidate._replace(bytes=state + kept)))
    return [candidate for _, _, candidate in sorted(found)]


def best(
    candidates: list[Candidate], compile_step: Compile, *, compiles: int, say: Callable[[str], Any]
) -> tuple[Tried | None, list[Tried]]:
    """Return the fastest of those that fit, and all that were tried; several are compiled at once, each in one thread.

    Args:
        candidates: in the order to try them.
        compile_step: returns a candidate's step and times.
        compiles: to try at most; fewer where `ENOUGH` fit.
        say: called with a line about each.
    """
    tried: list[Tried] = []
    off: dict[str, float] = {}  # remat policy -> smallest estimate of one that did not fit
    waiting = list(candidates)
    with ThreadPoolExecutor(ENOUGH) as pool:
        while room := min(ENOUGH - sum(each.step.fits for each in tried), compiles - len(tried)):
            # passed over: one that should need less did not fit
            waiting = [c for c in waiting if c.bytes <= off.get(c.model.remat, math.inf)]
            together, waiting = waiting[:room], waiting[room:]
            if not together:
                break
            compiled = pool.map(lambda candidate: compile_step(candidate.config, candidate.model), together)
            for candidate, (step, times) in zip(together, compiled, strict=True):
                tried.append(Tried(candidate, step, times))
                if not step.fits and candidate.bytes:
                    off[candidate.model.remat] = min(off.get(candidate.model.remat, math.inf), candidate.bytes)
                fits = "fits" if step.fits else "does not fit"
                say(
                    f"  {candidate.words}: {fits}, {step.memory.total / 2**30:.1f} GiB, at least {times.bound * 1e3:.0f} ms"
                )
    fitting = [each for each in tried if each.step.fits]
    return min(fitting, key=lambda each: each.times.without_overlap, default=None), tried


def first_that_fits(
    candidates: Iterator[Candidate], compile_step: Compile, *, compiles: int, say: Callable[[str], Any]
) -> Tried | None:
    """Return the first candidate that fits, None where none does.

    At most three are compiled before the others: the first; the last that leaves the micro-batches as they are; and the last,
    since summing over micro-batches takes memory of its own. The latter two are taken to need least of their kind: what lies
    before one that does not fit is passed over. The first half of the `compiles` go to candidates in their order; with the
    rest the earliest that fits is sought by halves.
    """
    several = list(candidates)
    if not several:
        return None
    steps = [candidate.config.train.accumulation_steps for candidate in several]
    ends = sorted({0, len(steps) - 1 - steps[::-1].index(steps[0]), len(steps) - 1})
    _, tried = best([several[at] for at in ends], compile_step, compiles=min(compiles, len(ends)), say=say)
    found = next(((number, each) for number, each in enumerate(tried) if each.step.fits), None)
    if found is None:
        return None
    number, fitting = found
    low, high = ends[number - 1] + 1 if number else 0, ends[number]  # the first that fits is one of these
    for done in range(len(tried), compiles):
        if low == high:
            break
        at = low if done < compiles // 2 else (low + high) // 2
        earlier, _ = best([several[at]], compile_step, compiles=1, say=say)
        low, high, fitting = (at + 1, high, fitting) if earlier is None else (low, at, earlier)
    return fitting


def _with_remat(config: Config, model: ModelConfig, remat: Any, words: str) -> Candidate:
    changed = dataclasses.replace(config, model=dataclasses.replace(config.model, remat=remat))
    return Candidate(words, changed, dataclasses.replace(model, remat=remat))


def _mesh(mesh: MeshConfig, devices: int, fsdp: int) -> MeshConfig:
    """Return a mesh with so many devices over data and fsdp together."""
    return dataclasses.replace(mesh, data=devices // fsdp, fsdp=fsdp)


def _given(mesh: MeshConfig) -> int:
    """Return the devices along axes that are not searched: what lies over them, the config says."""
    return mesh.slice * mesh.expert * mesh.context


def _words(mesh: MeshConfig) -> str:
    return f"--mesh.data {mesh.data} --mesh.fsdp {mesh.fsdp}"


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _estimate(candidate: Candidate, machine: Machine, parameters: float) -> tuple[float, float, float]:
    """Return seconds and bytes, roughly: what a device computes and exchanges, its state with gradients, and what it keeps."""
    config, model, device = candidate.config, candidate.model, machine.device
    mesh, micro = config.mesh, config.train.accumulation_steps
    shards = mesh.row_shards * mesh.context
    tokens = config.train.batch_size * model.context_length / shards  # of a device, tensor parallel or not
    flops = flops_per_token(model) * tokens / mesh.tensor * (4 / 3 if model.remat == "full" else 1)
    own = (parameters - _of_experts(model) * (1 - 1 / mesh.expert)) / mesh.tensor
    gathered = 2 * own / mesh.fsdp if (mesh.data or 1) > 1 else 0.0  # gradients, in f32, once a step
    if mesh.fsdp > 1:  # weights forward and backward, and once more where blocks are computed again; gradients
        gathered += (4 if model.remat == "full" else 3) * micro * own / 2
    if mesh.tensor > 1:
        gathered += 8 * model.depth * tokens * model.embed_dim * 2
    blocked = model.attention == "cudnn" or mesh.context > 1
    scores = 0.0 if blocked else SCORES[model.remat] * model.num_heads * model.context_length
    kept = (KEPT[model.remat] * model.embed_dim + scores) * model.depth * tokens / micro / mesh.tensor
    state = 4 * own / mesh.fsdp  # parameters, two moments, gradients
    between = 4 * own / mesh.fsdp if mesh.slice > 1 else 0.0  # gradients, in f32
    return flops / device.flops + gathered / device.link + between / (device.network or device.link), state, kept


def _of_experts(model: ModelConfig) -> float:
    """Return the bytes of all experts, f32."""
    matrices = 3 if model.mlp == "swiglu" else 2
    return 4.0 * model.num_layers * (model.num_experts or 0) * matrices * model.embed_dim * model.hidden_dim
