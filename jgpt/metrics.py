"""Numbers of a run: throughput, model FLOPs utilisation, and the files they are written to.

Owns the peaks of known devices and the two sinks, metrics.jsonl and TensorBoard; what is shown in the terminal belongs to
`progress`.
"""

import json
import re
from pathlib import Path
from typing import Any, Final

from jgpt.batch import ANY_ROWS, RowLimits
from jgpt.config import ModelConfig
from jgpt.loss import kept_targets

# Dense bf16 peak of one device of jax's [FLOP/s], from the vendors' data sheets, by whole words of its device_kind. The first
# match counts.
PEAK_FLOPS: Final = (
    ("GH200", 989e12),
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("L4", 121e12),
    ("TPU v6", 918e12),
    ("TPU7x", 1153.5e12),  # of a chip's two devices
    ("TPU v5p", 459e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5", 459e12),
    ("TPU v4", 275e12),
)


def flops_per_token(cfg: ModelConfig, limits: RowLimits = ANY_ROWS) -> float:
    """Return the model FLOPs of one trained token, forward and backward: 6 a matrix weight, plus causal attention.

    Of experts, those that a token is sent to count.

    The count of Kaplan et al. 2020 (appendix of PaLM, Chowdhery et al. 2022), with attention scores counted half, since
    half of them are masked, windows counted at their width, and sparse patterns at the keys they let a query see. The
    embedding look-up costs nothing, and its convolution and the gates of heads, far below 1 %, are left out; the head
    counts at the targets whose logits are computed.

    Args:
        cfg: a resolved config.
        limits: what a row holds at most.
    """
    D, F, K = cfg.embed_dim, cfg.hidden_dim, cfg.width_of_head
    mlp = D * F * (3 if cfg.mlp == "swiglu" else 2)
    if cfg.num_experts is not None:
        mlp = mlp * cfg.experts_per_token + D * cfg.num_experts
    attention = D * K * (2 * cfg.num_heads + 2 * cfg.kv_heads)
    head = D * (cfg.vocab_size or 0) * kept_targets(cfg.context_length, limits.targets) / cfg.context_length
    weights = cfg.depth * (mlp + attention) + head
    seen = sum(_keys_seen(cfg, layer) for layer in range(cfg.depth))
    return 6.0 * weights + 12.0 * cfg.num_heads * K * seen


def _keys_seen(cfg: ModelConfig, layer: int) -> float:
    """Return the keys that a query of a layer sees, about, in a row that is one document."""
    half, stride = cfg.context_length / 2, cfg.pattern_stride or cfg.context_length
    match cfg.patterns[layer % len(cfg.patterns)]:
        case "strided":
            return min(stride + half / stride, half)
        case "fixed":
            return min(stride / 2 + cfg.pattern_summary * half / stride, half)
    return min(cfg.window_of(layer) or cfg.context_length, half)


def peak_flops(device_kind: str) -> float | None:
    """Return the dense bf16 peak of a device [FLOP/s], None where it is not known (a CPU, a new chip)."""
    return next((peak for name, peak in PEAK_FLOPS if re.search(rf"\b{name}\b", device_kind)), None)


class NoWriter:
    """Takes records and drops them: of several processes one alone writes."""

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Drop a record."""

    def write_picture(self, step: int, name: str, picture: Any) -> None:
        """Drop a picture."""

    def __enter__(self) -> "NoWriter":
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""


class MetricsWriter(NoWriter):
    """Appends records to metrics.jsonl and to TensorBoard; numbers alone go to the latter.

    Args:
        jsonl: file to append to.
        tensorboard: folder of event files.
        first_step: step of the first record to come; what an interrupted run showed from there on is hidden.
    """

    def __init__(self, jsonl: Path, tensorboard: Path, first_step: int = 0) -> None:
        from tensorboardX import SummaryWriter

        self._file = jsonl.open("a", buffering=1)  # by line: a killed run leaves whole lines
        self._board = SummaryWriter(str(tensorboard), purge_step=first_step)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append one record."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            if isinstance(value, int | float):
                self._board.add_scalar(name, value, step)
            elif isinstance(value, str):
                self._board.add_text(name, value, step)

    def write_picture(self, step: int, name: str, picture: Any) -> None:
        """Append a picture [height, width] or [height, width, channel] to TensorBoard."""
        self._board.add_image(name, picture, step, dataformats="HW" if picture.ndim == 2 else "HWC")

    def __enter__(self) -> "MetricsWriter":
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Flush and close both files."""
        self._file.close()
        self._board.close()
