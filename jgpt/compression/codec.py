"""A model drives the range coder: files to code and back, with the bits that training's forward pass claims beside it.

Owns the one compiled step that both directions run. Logits differ in their last bits between shapes and programs, so the
encoder does not use the full forward pass: it feeds known ids through the very function, at the very shapes, with which
the decoder will feed decoded ones. The full forward pass then scores the same rows by itself; if it saw a future, or a mask
were wrong, the two would disagree. All ids of the vocabulary can be coded at every place, as in the loss.
"""

import hashlib
import math
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jgpt import sharding, step
from jgpt.check import require
from jgpt.compression import lanes as layout
from jgpt.compression import originals
from jgpt.compression.container import Container
from jgpt.compression.lanes import Lanes
from jgpt.compression.originals import Original
from jgpt.compression.ranges import FLUSH_BITS, RangeReader, RangeWriter, uniform
from jgpt.config import MeshConfig, ModelConfig
from jgpt.data.loader import eval_batches
from jgpt.data.packing import pack
from jgpt.decoder import Decoder, decoder_for
from jgpt.loaded import GPT
from jgpt.pace import in_turn
from jgpt.tasks.image import ImageTask
from jgpt.tasks.text import TextTask

TOLERANCE: Final = 0.01  # of the forward pass's bits: what the code may be longer or shorter
# What the steps may claim otherwise than the forward pass. In f32 on a CPU they differ in the seventh digit; accelerators
# multiply in bf16 or TF32.
STEP_TOLERANCE_F32_CPU: Final = 2e-4
STEP_TOLERANCE: Final = 5e-3
# Choosing kernels by racing them would let two processes compute other logits on a GPU.
SAME_KERNELS: Final = {"xla_gpu_autotune_level": 0, "xla_gpu_deterministic_ops": True}


@dataclass(frozen=True)
class Measured:
    """What a compression reached.

    Attributes:
        forward_bits: -log2 of the likelihood, by the forward pass of training over the same rows.
        stepped_bits: the same sum by the steps that drove the coder.
        code_bits: length of the code.
        overhead_bits: of `code_bits`, what may be spent besides: the ends of the stream and the starts of lanes.
        tokens: ids coded.
        units: bytes, or pixels times channels.
        seconds: of the coding steps, compilation included.
        rounding: share of the bits by which `stepped_bits` may differ from `forward_bits`.
    """

    forward_bits: float
    stepped_bits: float
    code_bits: int
    overhead_bits: float
    tokens: int
    units: int
    seconds: float
    rounding: float = STEP_TOLERANCE

    @property
    def ratio(self) -> float:
        """Return the code's length over the forward pass's bits."""
        return self.code_bits / self.forward_bits

    @property
    def agrees(self) -> bool:
        """Return whether code and forward pass agree within `TOLERANCE` and the overhead, and the steps within `rounding`."""
        coded = abs(self.code_bits - self.forward_bits) <= TOLERANCE * self.forward_bits + self.overhead_bits
        return coded and abs(self.stepped_bits - self.forward_bits) <= self.rounding * self.forward_bits + 0.5


def task_for(model: GPT, name: str | None, kind: str) -> tuple[str, Any]:
    """Return name and task that a file is compressed with.

    Args:
        model: of the run.
        name: of the task; None = the first that suits `kind`.
        kind: as in `Container`.

    Raises:
        ValueError: there is none, or it models only a part of its documents.
    """
    if name is None:
        name = model.task_of_kind("text" if kind == "text" else "image")
    require(name in model.tasks, f"this run has no task {name!r}; it has {', '.join(model.tasks)}.")
    task = model.tasks[name]
    require(
        isinstance(task, TextTask | ImageTask),
        f"task {name!r} is of kind {task.kind!r}: only text and pictures are predicted whole, so only they are compressed.",
    )
    return name, task


def compress(
    model: GPT, name: str, original: Original, caption: str = "", tick: Callable[[int], None] = lambda coded: None
) -> tuple[Container, Measured]:
    """Return the compressed file and what was measured.

    Args:
        model: drives the coder.
        name: of the task.
        original: from `originals`.
        caption: of pictures.
        tick: told how many ids were coded, again and again.

    Raises:
        ValueError: a document is longer than the context.
        FloatingPointError: the model's logits are not finite.
    """
    begun = time.monotonic()
    writer, spent = RangeWriter(), [0.0, 0]
    length, ids = model.model.context_length, model.tokenizer.size
    require(
        original.kind == "text" or len(original.documents[0].tokens) - 1 <= length,
        f"a picture has {len(original.documents[0].tokens)} ids with its caption, and the context {length}: shorten it.",
    )

    def put(logprobs_NV: np.ndarray, targets_N: np.ndarray) -> np.ndarray:
        spent[0] -= float(np.take_along_axis(logprobs_NV, targets_N[:, None], axis=1).sum()) / math.log(2)
        spent[1] += len(targets_N)
        writer.put(targets_N, np.exp(logprobs_NV))
        tick(spent[1])
        return targets_N

    overhead = float(FLUSH_BITS)
    if original.kind == "text":
        (document,) = original.documents
        pairs = len(document.tokens) - 1
        starts = document.tokens[layout.text_starts(pairs, length)[1]]
        if len(starts) > 1:
            writer.put(starts[1:], uniform(len(starts) - 1, ids))
            overhead += (len(starts) - 1) * math.log2(ids)
        lanes = layout.fill_text(layout.text_lanes(pairs, length, starts), document.tokens)
        _drive(model, lanes, put)
        count = pairs + 1
    else:
        for _, lanes in layout.picture_lanes(original.documents):
            _drive(model, lanes, put)
        count = len(original.documents)
    code, seconds = writer.to_bytes(), time.monotonic() - begun
    forward, weight = forward_bits(model, name, original)
    require(
        weight == spent[1],
        f"{spent[1]} ids were coded, and the forward pass scored {weight}: the two do not speak of the same rows.",
    )
    exact = jax.default_backend() == "cpu" and model.model.compute_dtype == "float32"
    rounding = STEP_TOLERANCE_F32_CPU if exact else STEP_TOLERANCE
    out = Container(
        original.kind,
        name,
        fingerprint(model, name),
        model.step,
        environment(),
        original.checksum,
        count,
        caption,
        code,
    )
    return out, Measured(forward, spent[0], 8 * len(code), overhead, spent[1], original.units, seconds, rounding)


def decompress(model: GPT, file: Container, tick: Callable[[int], None] = lambda coded: None) -> bytes | np.ndarray:
    """Return the bytes of a text, or pictures as uint8 [count, ...shape].

    Args:
        model: the one that compressed the file.
        file: compressed.
        tick: told how many ids were decoded, again and again.

    Raises:
        ValueError: the run is another, or what was decoded is not what was compressed.
    """
    require(
        file.task in model.tasks,
        f"the file was compressed with a task {file.task!r}, and this run has {', '.join(model.tasks)}: it is another run.",
    )
    task = task_for(model, file.task, file.kind)[1]
    found = fingerprint(model, file.task)
    require(
        found == file.fingerprint,
        f"the file was compressed by step {file.step} of a run with fingerprint {file.fingerprint.hex()}, and this is step "
        f"{model.step} of one with {found.hex()}: parameters, tokenizer and task must be the very same. Name that run.",
    )
    reader, done = RangeReader(file.code), [0]

    def take(logprobs_NV: np.ndarray, targets_N: np.ndarray) -> np.ndarray:
        done[0] += len(targets_N)
        tick(done[0])
        return reader.take(np.exp(logprobs_NV))

    try:
        value = _decode(model, file, task, reader, take)
        problem = None if originals.crc_of(value) == file.checksum else "its crc32 differs"
    except (ValueError, IndexError) as error:  # ids out of place are the same finding in another form
        value, problem = b"", str(error)
    if problem is not None:
        same = "the same library and device as then" if file.environment == environment() else _OTHER
        raise ValueError(
            f"what was decoded is not what was compressed ({problem}), though file and run are whole and fit each other: the "
            f"model computed other probabilities than when it compressed. This is {same}."
        )
    return value


_OTHER: Final = "another device or version of jax, and these may round otherwise: decompress where it was compressed"


def _decode(model: GPT, file: Container, task: Any, reader: RangeReader, take: Callable) -> bytes | np.ndarray:
    length, ids = model.model.context_length, model.tokenizer.size
    if file.kind == "text":
        pairs = file.count - 1
        others = len(layout.text_starts(pairs, length)[1]) - 1
        told = reader.take(uniform(others, ids)) if others else np.zeros(0, np.int32)
        lanes = _drive(model, layout.text_lanes(pairs, length, np.array([task.start, *told])), take)
        return originals.text_bytes(task, layout.text_of(lanes))
    blank = originals.Picture(np.zeros(task.shape, np.uint8), file.caption)  # only its markers and caption are used
    document, stack = task.encode(blank), []
    for part, lanes in layout.picture_lanes([document] * file.count):
        lanes = _drive(model, lanes, take)
        stack += [
            originals.picture_of(task, document._replace(tokens=lanes.tokens_BM[lane]))
            for lane in range(part.stop - part.start)
        ]
    return np.stack(stack)


def _drive(model: GPT, lanes: Lanes, code: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Lanes:
    """Step through `lanes`, and return them with the ids that `code` returned.

    Args:
        model: predicts.
        lanes: known so far.
        code: `(log-probabilities [n, vocabulary] in f64, ids as they stand in the lanes [n]) -> ids [n]`, one a live lane.
    """
    decoder = decoder_for(model.model, model.tokenizer.size)
    params = model.prepared
    tokens_BM = lanes.tokens_BM.copy()
    B, N = lanes.coded_BN.shape
    cache = jax.jit(lambda: decoder.init_cache(B, decoder.context_length))()
    for n in range(N):
        positions_B = np.full(B, lanes.positions_N[n], np.int32)
        logprobs_BV, cache = _step(decoder, params, tokens_BM[:, n], positions_B, cache)
        live = lanes.coded_BN[:, n]
        if not live.any():
            continue
        logprobs_NV = np.asarray(logprobs_BV)[live].astype(np.float64)
        if np.isnan(logprobs_NV).any():
            raise FloatingPointError(
                f"the logits at step {n} are not finite: the parameters hold NaN or infinity; use an earlier --step."
            )
        tokens_BM[live, n + 1] = code(logprobs_NV, tokens_BM[live, n + 1])
    return lanes._replace(tokens_BM=tokens_BM)


@partial(
    jax.jit,
    static_argnums=(0,),
    donate_argnums=(4,),
    compiler_options=SAME_KERNELS,
)
def _step(
    decoder: Decoder, params: Any, tokens_B: Int[Array, " B"], positions_B: Int[Array, " B"], cache: Any
) -> tuple[Float[Array, "B V"], Any]:
    """Return the log-probabilities that follow one token a lane, and the cache."""
    index_B = jnp.zeros_like(tokens_B)
    logits_BV, cache = decoder.apply(params, tokens_B[:, None], positions_B[:, None], cache, index_B)
    return jax.nn.log_softmax(logits_BV), cache


def forward_bits(model: GPT, name: str, original: Original) -> tuple[float, int]:
    """Return the bits of the documents by the pass that training and evaluation run, and the number of targets scored.

    Rows are packed as training packs them, several pictures to a row, and nothing is cached.
    """
    rows = pack(original.documents, model.tasks[name].packing, model.model.context_length)
    mesh = sharding.make_mesh(MeshConfig(data=1))
    eval_step = step.compile_eval_step(model.model, model.config.train, mesh)
    size = min(model.config.eval.batch_size or model.config.train.batch_size, 1 << (len(rows) - 1).bit_length())
    placed = (sharding.shard_batch(batch, mesh) for batch in eval_batches(rows, batch_size=size))
    sums = jax.device_get(in_turn(partial(eval_step, model.params), placed, mesh.devices.flat[0].platform))
    nats = math.fsum(float(s.nats) for s in sums)
    return nats / math.log(2), round(math.fsum(float(s.weight) for s in sums))


def fingerprint(model: GPT, name: str) -> bytes:
    """Return 8 bytes of a hash over all that decides the code: parameters, architecture, vocabulary, task."""
    vocabulary = model.tokenizer
    digest = hashlib.sha256()
    image = "" if vocabulary.image is None else vocabulary.image.to_json()
    # what is left at its default is left out, so that files outlive new options
    default = vars(ModelConfig())
    architecture = {name: value for name, value in vars(model.model).items() if value != default[name]}
    for part in (architecture, vocabulary.specials, vocabulary.text.to_json(), image, model.tasks[name].to_json()):
        digest.update(repr(part).encode())
    for path, leaf in sorted((jax.tree_util.keystr(path), leaf) for path, leaf in _leaves(model.params)):
        digest.update(f"{path} {leaf.shape} {leaf.dtype}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.digest()[:8]


def _leaves(params: Any) -> Sequence[tuple[Any, np.ndarray]]:
    return [(path, np.asarray(leaf)) for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]]


def environment() -> int:
    """Return the crc32 of what else decides how logits round: the versions of jax and its compiler, and the device."""
    return zlib.crc32(f"{jax.__version__} {version('jaxlib')} {jax.devices()[0].device_kind}".encode())
