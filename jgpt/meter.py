"""What a run measures of its steps: collected on the device, read together, and refused where training has diverged.

Owns the clock behind the rate; the files and the terminal that numbers go to belong to `metrics` and `progress`.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from jgpt import metrics, sharding
from jgpt.progress import TrainProgress
from jgpt.step import Metrics


class Meter:
    """Collects the metrics of steps on the device and reads them together, so that reading them holds no step back.

    Args:
        tokens: of a step.
        flops: of a token.
        mesh: of the run.
        writer: takes records.
        progress: shows them.

    Attributes:
        due: the step up to which a record is to be written, the newest when it is set; None where there is none. A run that
            ends in an error meanwhile leaves it unwritten, and comes to it again from its checkpoint.
    """

    def __init__(
        self, tokens: int, flops: float, mesh: Mesh, writer: metrics.NoWriter, progress: TrainProgress
    ) -> None:
        """Start the clock."""
        self.due: int | None = None
        self._tokens, self._flops = tokens, flops
        peak = metrics.peak_flops(mesh.devices.flat[0].device_kind)
        self._peak = None if peak is None else peak * mesh.size
        self._writer, self._progress = writer, progress
        self._begun = self._since = time.monotonic()
        self._pending: list[Metrics] = []
        self._norm = jax.jit(optax.tree.norm, out_shardings=sharding.replicated(mesh))

    def add(self, measured: Metrics) -> None:
        """Take the metrics of one step, still on the device; those of steps that are due must be written before."""
        self._pending.append(measured)

    def write_due(self) -> None:
        """Write and show the record that is due, if one is: the means since the last; waits for the device.

        Raises:
            FloatingPointError: as `check`.
        """
        if self.due is None:
            return
        at, self.due = self.due, None
        losses = self.check(at)
        now = time.monotonic()
        values = self._pending
        rate = len(values) * self._tokens / max(now - self._since, 1e-9)
        out = {
            "loss": sum(losses) / len(losses),
            "grad_norm": float(values[-1]["grad_norm"]),
            "tokens_per_second": rate,
            "seconds": now - self._begun,
        }
        if "load_balance" in values[-1]:
            out["load_balance"] = float(values[-1]["load_balance"])
        if self._peak is not None:
            out["mfu"] = rate * self._flops / self._peak
        self._pending, self._since = [], now
        self._writer.write(at, out)
        self._progress.update(at, out["loss"], rate, out.get("mfu"))

    def check(self, at: int, params: Any = None) -> list[float]:
        """Return the losses since the last record; waits for the device.

        Args:
            at: the newest step.
            params: as it left them, to be looked at too; the losses and gradients are of the parameters before each step.

        Raises:
            FloatingPointError: a loss or a gradient is not finite, or the norm of the parameters is not.
        """
        self._pending = jax.device_get(self._pending)
        for back, measured in enumerate(reversed(self._pending)):
            for name, what in (("loss", "the loss"), ("grad_norm", "the norm of the gradients")):
                _require_finite(float(measured[name]), what, at - back)
        if params is not None:
            _require_finite(float(jax.device_get(self._norm(params))), "the norm of the parameters", at)
        return [float(measured["loss"]) for measured in self._pending]

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave what is done within out of the rate: it is not training. The steps before it are done: see `check`."""
        begun = time.monotonic()
        yield
        self._since += time.monotonic() - begun


def _require_finite(value: float, what: str, step: int) -> None:
    """Refuse what shows that training has diverged. Raises FloatingPointError."""
    if not math.isfinite(value):
        raise FloatingPointError(
            f"{what} of step {step} is {value}: training has diverged. Lower optim.peak_lr (and optim.adam_lr), "
            "lengthen optim.warmup_steps, or set optim.clip_norm; the last checkpoint is kept."
        )
