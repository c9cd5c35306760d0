"""Training: the only place where the clock, the disk and the device meet.

Owns the order of things: data, state, steps, validation, checkpoints, report. Each of them is made elsewhere.
"""

import base64
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from jgpt import distributed, evaluate, metrics, optim, report, runfolder, sharding, state, step
from jgpt.batch import RowLimits, require_weight
from jgpt.checkpoint import Checkpoints
from jgpt.config import Config, DistributedConfig, ModelConfig
from jgpt.configio import to_dict
from jgpt.data.loader import train_batches
from jgpt.heartbeat import SCORES, Heartbeat
from jgpt.interrupt import Interrupt
from jgpt.loaded import GPT
from jgpt.meter import Meter
from jgpt.model import gpt
from jgpt.pace import Pace
from jgpt.plan import compiling, room
from jgpt.progress import TrainProgress, say
from jgpt.reading import discard, read_once
from jgpt.tasks import mixture


@dataclass(frozen=True)
class Parts:
    """What stays the same through a run.

    Attributes:
        config: of the run.
        folder: of the run.
        data: read, encoded and packed.
        limits: of the rows to train on, as the step uses them.
        model: resolved model config.
        mesh: devices.
        heartbeat: of this process among several, None where it is alone.
        train_step: compiled optimizer step.
        temporaries: bytes that a step takes in this process beside what it is given.
        eval_step: compiled loss sums.
    """

    config: Config
    folder: runfolder.RunFolder
    data: mixture.Mixture
    limits: RowLimits
    model: ModelConfig
    mesh: Mesh
    heartbeat: Heartbeat | None
    train_step: Any
    temporaries: float
    eval_step: evaluate.EvalStep

    @property
    def eval_rows(self) -> int:
        """Rows of an evaluation batch."""
        return self.config.eval.batch_size or self.config.train.batch_size

    def reach(self, at: int, doing: str) -> None:
        """Let the other processes know what this one does."""
        if self.heartbeat is not None:
            self.heartbeat.reach(at, doing)

    def sampled(self, train_state: state.TrainState) -> GPT | None:
        """Return the model as it stands, ready to be sampled by this process alone; all must call it together.

        None where the config asks for no samples.
        """
        if not self.config.eval.samples:
            return None
        tasks = {name: data.task for name, data in self.data.tasks.items()}
        at = int(train_state.step)
        params = distributed.own_copy(train_state.eval_params(), self.mesh)
        return GPT(params, self.config, self.model, self.data.vocabulary, tasks, at)


def train(config: Config, config_path: str) -> None:
    """Train `config` to its end, or go on with it; print and write what was reached.

    Args:
        config: of the run.
        config_path: the file it came from, for the commands that are printed.

    Raises:
        ValueError: the config, the data or the run folder break a rule; nothing earlier is lost.
        FileNotFoundError: data is missing.
        FloatingPointError: training has diverged: a loss, a gradient or the parameters are no longer finite.
        OSError: a checkpoint could not be written, or processes are missing.
        Stopped: a signal asked to stop; everything is saved.
    """
    with distributed.joined(config.distributed) as heartbeat:
        _train(config, config_path, heartbeat)


def _train(config: Config, config_path: str, heartbeat: Heartbeat | None) -> None:
    mesh = sharding.make_mesh(config.mesh)
    micro_batch = config.train.batch_size // config.train.accumulation_steps
    sharding.check_rows(micro_batch, mesh, "train.batch_size / train.accumulation_steps")
    sharding.check_rows(config.eval.batch_size or config.train.batch_size, mesh, "eval.batch_size")
    folder = runfolder.check(config)
    if distributed.is_first():
        discard(folder)  # of several processes that were killed
    if distributed.from_first(folder.report.is_file() and config.run.on_existing == "resume"):
        say(report.complete_message(config, config_path))
        return
    say(f"{config.run.dir}: reading data")
    data = read_once(config, folder, heartbeat)
    resolved = gpt.resolve(config.model, backend=jax.default_backend(), **data.ids_for_model())
    limits = step.limits_on(mesh, data.limits())
    tx = optim.make_optimizer(config.optim, config.train.steps, gpt.param_axes(resolved))
    abstract = state.abstract_state(resolved, tx, mesh, ema=config.optim.ema_decay is not None)
    saved = config.run.on_existing != "overwrite" and mixture.check_saved(data, folder.tokenizer)
    if distributed.is_first():
        for line in report.describe(config, data, resolved, mesh, abstract.params):
            say(line)
    with room.advised(config, resolved, mesh, config_path):
        batch = sharding.abstract_batch(config.train.batch_size, config.model.context_length, mesh)
        train_step = step.compile_train_step(config, resolved, tx, abstract, mesh, limits)
        compiled = train_step.lower(abstract, batch).compile()
        say(room.checked(compiling.memory_of(compiled, abstract, batch), config, resolved, mesh, config_path))
    distributed.wait("all have looked at the run's folder")
    if distributed.is_first():
        runfolder.prepare(config)
        if not saved:
            mixture.save(data, folder.tokenizer)
        mixture.list_skipped(data, folder.skipped)
    if jax.process_count() > 1:
        signed = distributed.from_first(runfolder.sign(folder.root) if distributed.is_first() else 0)
        runfolder.require_signed(folder.root, signed)
        distributed.wait("all see the run's folder")
        if distributed.is_first():
            (folder.root / runfolder.SIGNATURE).unlink()
    parts = Parts(
        config=config,
        folder=folder,
        data=data,
        limits=limits,
        model=resolved,
        mesh=mesh,
        heartbeat=heartbeat,
        train_step=compiled,
        temporaries=compiling.temporary_bytes(compiled.memory_analysis()) * len(mesh.local_devices),
        eval_step=step.compile_eval_step(resolved, config.train, mesh, data.held_out_limits()),
    )
    share = sharding.share_of_rows(mesh)
    batches = train_batches(
        {name: task.train for name, task in data.tasks.items()},
        {name: task.weight for name, task in config.task_configs().items()},
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        start_steps={name: round(task.start * config.train.steps) for name, task in config.task_configs().items()},
        part=share.index,
        of_parts=share.count,
        prefetch=config.data.prefetch_batches,
    )
    kept = config.checkpoint
    with (
        room.advised(config, resolved, mesh, config_path),
        Checkpoints(
            folder.checkpoints, every_steps=kept.every_steps, keep_latest=kept.keep_latest, keep_best=kept.keep_best
        ) as checkpoints,
    ):
        restored = checkpoints.restore(abstract)
        if restored is None:
            ema = config.optim.ema_decay is not None
            train_state = state.create(resolved, tx, mesh, seed=config.train.seed, ema=ema)
        else:
            train_state = restored.state
            batches.set_state(restored.position)
            say(f"continuing from step {restored.step}")
        with _writer(folder, int(train_state.step)) as writer:
            train_state, likelihoods = _run_steps(parts, train_state, batches, checkpoints, writer, config_path)
            say("scoring the held-out data")
            parts.reach(config.train.steps, SCORES)
            model = parts.sampled(train_state)
            scores, answered = evaluate.final_scores(
                train_state.eval_params(),
                parts.eval_step,
                data,
                mesh,
                parts.eval_rows,
                config.eval,
                model,
                likelihoods,
            )
            writer.write(config.train.steps, scores)
    if distributed.is_first():
        report.finish(config, data, scores, answered, folder, config_path, model)


def _writer(folder: runfolder.RunFolder, steps_done: int) -> metrics.NoWriter:
    """Return what takes this process's records; what an interrupted run wrote behind the last checkpoint is dropped."""
    if not distributed.is_first():
        return metrics.NoWriter()
    runfolder.truncate_metrics(folder.metrics, steps_done)
    return metrics.MetricsWriter(folder.metrics, folder.tensorboard, steps_done + 1)


def _run_steps(
    parts: Parts,
    train_state: state.TrainState,
    batches: Any,
    checkpoints: Checkpoints,
    writer: metrics.NoWriter,
    config_path: str,
) -> tuple[state.TrainState, dict[str, float] | None]:
    """Take the steps that remain, with logs, validation and checkpoints at their intervals.

    Returns:
        The state, and the held-out likelihoods at the last step; None where no step remained.
    """
    config = parts.config
    first, last = int(train_state.step), config.train.steps
    tokens = config.train.batch_size * config.model.context_length
    files = _tokenizer_files(parts.folder.tokenizer)
    pace = Pace(parts.mesh.devices.flat[0].platform, parts.temporaries)
    measured, scores = None, None
    with Interrupt(jax.process_count() > 1) as interrupt, TrainProgress(first, last) as progress:
        meter = Meter(tokens, metrics.flops_per_token(parts.model, parts.limits), parts.mesh, writer, progress)
        for at in range(first + 1, last + 1):
            parts.reach(at, "reads data")
            begun = time.monotonic()
            batch = require_weight(next(batches), parts.limits.targets)
            waited = time.monotonic() - begun
            parts.reach(at, "trains")
            placed = sharding.shard_batch(batch, parts.mesh)
            pace.settle(measured)
            train_state, measured = parts.train_step(train_state, placed)
            if parts.heartbeat is not None:
                parts.heartbeat.took(waited)
            meter.write_due()  # a step late, while the device has another to compute
            meter.add(measured)
            stop = distributed.stop_asked(at, interrupt.signum)  # read once: it may change at any moment
            validates = at % config.eval.every_steps == 0 or at == last
            saves = checkpoints.due(at, validates) or at == last or stop
            if at % config.train.log_every_steps == 0 or at in (first + 1, last):
                meter.due = at
            validation_loss = None
            if validates or saves:
                meter.write_due()
                meter.check(at, train_state.params)  # what has diverged is neither scored nor saved
            if validates:
                parts.reach(at, "validates")
                with meter.paused():
                    scores = _validate(parts, train_state, writer, at)
                validation_loss = evaluate.mean_loss(scores)
            if saves:
                parts.reach(at, "saves")
                checkpoints.save(
                    at,
                    train_state,
                    position=batches.get_state(),
                    config=to_dict(replace(config, distributed=DistributedConfig())),
                    tokenizer=files,
                    validation_loss=validation_loss,
                )
            if stop:
                checkpoints.wait()
                say(f"saved step {at} of {last}. To continue: {report.command(config_path)}")
                raise distributed.Stopped(128 + stop)
    return train_state, scores


def _validate(parts: Parts, train_state: state.TrainState, writer: metrics.NoWriter, at: int) -> dict[str, float]:
    """Score the whole held-out splits, log a sample of each task, and return the scores."""
    model = parts.sampled(train_state)
    scores = evaluate.likelihoods(train_state.eval_params(), parts.eval_step, parts.data, parts.mesh, parts.eval_rows)
    writer.write(at, scores)
    say(f"step {at} held out: " + "  ".join(f"{name} {value:.3f}" for name, value in scores.items()))
    shows = model is not None and distributed.is_first()
    for name, value in (report.samples_while_training(model, parts.data) if shows else {}).items():
        if isinstance(value, str):
            writer.write(at, {f"{name}/sample": value})
            say(f"  {name}: {value}")
        else:
            writer.write_picture(at, f"{name}/sample", value)
    return scores


def _tokenizer_files(folder: Path) -> dict[str, str]:
    """Return the files of a tokenizer as text, for the checkpoint's JSON; those of arrays in base64."""
    return {
        path.name: base64.b64encode(path.read_bytes()).decode() if path.suffix == ".npz" else path.read_text("utf-8")
        for path in sorted(folder.iterdir())
    }
