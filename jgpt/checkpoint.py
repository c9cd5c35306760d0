"""Steps of a run on disk: saved in the background, restored only when every byte is as it was written.

Owns the folder `<run>/checkpoints/`: one subfolder a step, written by Orbax under a temporary name and renamed when
whole, then sealed by a manifest (`jgpt/manifest.py`). Also owns which steps are kept and which are fallen back to.
Refuses to know what a state is: any tree of arrays goes in, and comes out on the shardings the caller asks for, so a
checkpoint moves between meshes. The list of steps is always read from the disk and never cached.

Orbax's `training.Checkpointer` is not used: it caches that list, may not be waited for from a second thread, fails to
open a folder in which one step's metrics are damaged, and reports one failed save once a thread. Its building block
`save_checkpointables_async` has one future for each save, and so one place where a failure shows.
"""

import json
import logging
import math
import shutil
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from jgpt import manifest
from jgpt.check import require

_STATE, _RECORD = "state", "record"
_RECORD_FILE = f"{_RECORD}/data.json"  # where Orbax's JsonHandler puts it
_PARTIAL, _DELETED = ".orbax-checkpoint-tmp", ".deleted"
_SHOWN_DIFFERENCES = 5

# Orbax reports through absl's logger, at every level and about every save. Whatever matters here it also raises.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)


class Restored(NamedTuple):
    """One step as it was saved.

    Attributes:
        step: number of the step.
        state: the tree, with the structure and on the shardings of the abstract state.
        position: where the data stood, as given to `save`.
        config: the run's configuration, as given to `save`.
        tokenizer: the tokenizer's files, name -> text.
        validation_loss: [nats], None where the step was saved without one.
    """

    step: int
    state: Any
    position: dict[str, Any]
    config: dict[str, Any]
    tokenizer: dict[str, str]
    validation_loss: float | None


class Checkpoints:
    """The checkpoints of one run. `save` returns quickly; `close` (or leaving `with`) waits for the last one.

    One save is under way at a time, and none is ever skipped: a second one waits for the first. In a run of several
    processes all of them call the same methods in the same order; process 0 verifies, seals and deletes.
    """

    def __init__(self, folder: Path, *, every_steps: int, keep_latest: int, keep_best: int) -> None:
        """Take the settings; nothing is created, read or deleted before the first save, so readers are harmless.

        Args:
            folder: `<run>/checkpoints`, made by the first save.
            every_steps: distance of the steps for which `due` holds, validated or not.
            keep_latest: newest steps kept.
            keep_best: steps of lowest validation loss kept as well.
        """
        self.folder = Path(folder).absolute()
        self.every_steps = every_steps
        self.keep_latest = keep_latest
        self.keep_best = keep_best
        self._sealer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._saving: tuple[int, Future[None]] | None = None
        self._damaged: set[int] = set()
        self._tidy = False

    def due(self, step: int, validated: bool = False) -> bool:
        """Return whether `step` is saved during the run: one of every so many, or one that may be among the best."""
        return step % self.every_steps == 0 or (validated and self.keep_best > 0)

    def steps(self) -> list[int]:
        """Return the complete steps on disk, oldest first, without reading their arrays."""
        return [step for step in self._found() if manifest.exists(self._path(step))]

    def save(
        self,
        step: int,
        state: Any,
        *,
        position: dict[str, Any],
        config: dict[str, Any],
        tokenizer: dict[str, str],
        validation_loss: float | None = None,
    ) -> None:
        """Start saving a step, and return once the device's arrays may be donated.

        A step that is there already and whole is left as it is; one that is damaged is replaced.

        Raises:
            OSError: this or the *previous* save failed, a full disk for instance.
            ValueError: position, config or tokenizer are not JSON.
        """
        self.wait()
        record = {
            "step": int(step),
            "validation_loss": None if validation_loss is None else float(validation_loss),
            "position": position,
            "config": config,
            "tokenizer": tokenizer,
        }
        try:
            record = json.loads(json.dumps(record))  # a copy: the loop may change its position during the write
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"position, config and tokenizer of step {step} must be JSON: {error}. Keep to numbers, text, lists "
                "and dicts; arrays belong into the state."
            ) from error
        try:
            if _from_first(self._clear_the_way(step) if jax.process_index() == 0 else False):
                return
            with _context(), jax.transfer_guard("allow"):  # the copy to the host is meant, whatever the loop forbids
                response = ocp.save_checkpointables_async(
                    self._path(step), {_STATE: _as_dicts(state), _RECORD: record}, overwrite=True
                )
        except OSError as error:
            raise self._failed(step, error) from error
        self._saving = step, self._sealer.submit(self._finish, step, response)

    def restore(
        self, abstract_state: Any, *, step: int | None = None, partial: bool = False, required: bool = False
    ) -> Restored | None:
        """Return the newest whole step, or None where there is none and the run starts from the beginning.

        Every file of a step is compared with its manifest first. A damaged step is skipped with a warning.

        Args:
            abstract_state: tree of `jax.ShapeDtypeStruct` with shardings (without one: the first local device).
            step: load this one and no other.
            partial: `abstract_state` names only a part, `{"params": ...}` for instance; nothing else is read.
            required: raise where there is nothing to load, as sampling needs.

        Raises:
            FileNotFoundError: `required`, and no step was ever saved.
            ValueError: the checkpoint is of another config; `required`, and every step is damaged; or `step` is
                damaged or not there.
        """
        self.wait()
        found, asked = self._found(), step
        if step is None:
            step = _from_first(self._newest_whole() if jax.process_index() == 0 else -1)
        else:
            require(step in found, f"no checkpoint of step {step} in {self.folder}: there are {found or 'none'}.")
            problem = manifest.damage(self._path(step))
            require(problem is None, f"checkpoint {self._path(step)} is damaged: {problem}. There are {found}.")
        if step < 0:
            if not required:
                return None
            if found:
                raise ValueError(
                    f"every checkpoint in {self.folder} is damaged, or the first is not complete (steps {found}; see the "
                    "warnings): wait if the run is in training; else train it again, from the beginning, or name another."
                )
            raise FileNotFoundError(
                f"no checkpoint in {self.folder}: train first (python train.py configs/NAME.py), or name another run."
            )
        path = self._path(step)
        try:
            state = _load(path, abstract_state, partial)
            record = _read_record(path)
        except (OSError, ValueError, LookupError):  # as Orbax and tensorstore raise in a folder that vanishes
            if path.exists():
                raise
            # A training that runs beside this reader has deleted the step meanwhile, having saved newer ones. The step
            # that was asked for is not replaced by another: the next turn says that it is gone.
            return self.restore(abstract_state, step=asked, partial=partial, required=required)
        return Restored(state=state, **record)

    def wait(self) -> None:
        """Wait until the save under way is complete and sealed.

        Raises:
            OSError: it failed; said once.
        """
        if self._saving is None:
            return
        step, future = self._saving
        error = future.exception()
        self._saving = None
        if error is not None:
            raise self._failed(step, error) from error

    def close(self) -> None:
        """Finish the last save, as `wait` does; without this call its failure would go unseen."""
        try:
            self.wait()
        finally:
            self._sealer.shutdown()

    def __enter__(self) -> "Checkpoints":
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish the last save; an error already on its way is not replaced by the save's, which becomes a warning."""
        try:
            self.close()
        except OSError as error:
            if kind is None:
                raise
            warnings.warn(str(error), RuntimeWarning, stacklevel=2)

    def _path(self, step: int) -> Path:
        return self.folder / str(step)

    def _found(self) -> list[int]:
        """Return every step with a folder, complete or not, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdecimal() and path.is_dir())

    def _clear_the_way(self, step: int) -> bool:
        """Return whether `step` is saved already; else remove what would be in its way."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._tidy:  # left by a process that was killed
            for path in [*self.folder.glob(f"*{_PARTIAL}*"), *self.folder.glob(f"*{_DELETED}")]:
                shutil.rmtree(path, ignore_errors=True)
            self._tidy = True
        path = self._path(step)
        if not path.exists():
            return False
        if step not in self._damaged and manifest.damage(path) is None:
            return True
        self._delete(step)
        return False

    def _finish(self, step: int, response: Any) -> None:
        """Seal the step once Orbax has renamed it, then delete what need not be kept. Runs in a thread of its own."""
        try:
            response.result()
            if jax.process_index() == 0:
                manifest.write(self._path(step))
                self._delete_unkept(step)
        finally:
            if jax.process_index() == 0:  # there is one only where the save failed: it would fill the disk further
                shutil.rmtree(self.folder / f"{step}{_PARTIAL}", ignore_errors=True)

    def _failed(self, step: int, error: BaseException) -> OSError:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        if isinstance(error, FileNotFoundError) and jax.process_count() > 1:
            reason += " (perhaps process 0 failed first, and removed what was begun: see what it says, and its disk)"
        return OSError(
            f"the checkpoint of step {step} could not be written to {self.folder}: {reason}. Complete there: "
            f"{self.steps() or 'none'}; nothing earlier is lost. Free space or restore access to that folder and run "
            "the same command again: it continues from the newest complete step."
        )

    def _delete_unkept(self, newest: int) -> None:
        """Delete what neither is among the newest nor the best, and steps that were found damaged."""
        losses = {step: _validation_loss(self._path(step)) for step in self.steps() if step not in self._damaged}
        keep = kept(losses, latest=self.keep_latest, best=self.keep_best) | {newest}
        for step in (self._damaged | set(losses)) - keep:
            self._delete(step)
        self._damaged.clear()

    def _delete(self, step: int) -> None:
        """Delete a step by a rename first, so that a half-deleted one is never taken for a damaged one."""
        aside = self.folder / f"{step}{_DELETED}"
        shutil.rmtree(aside, ignore_errors=True)
        if self._path(step).exists():
            self._path(step).rename(aside)
        shutil.rmtree(aside, ignore_errors=True)

    def _newest_whole(self) -> int:
        """Return the newest step whose bytes are as written, -1 for none; warn about each one skipped."""
        found, problems, chosen = self._found(), {}, -1
        for step in reversed(found):
            problem = manifest.damage(self._path(step))
            if problem is None:
                chosen = step
                break
            problems[step] = problem
        if problems and found != self._found():  # a training beside this reader has replaced what it looked at
            return self._newest_whole()
        self._damaged = set(problems)
        instead = f"continuing from step {chosen} instead" if chosen >= 0 else "no older step is whole: starting anew"
        for step, problem in problems.items():
            warnings.warn(f"checkpoint {self._path(step)} is skipped: {problem}; {instead}.", stacklevel=3)
        return chosen


def kept(losses: dict[int, float | None], *, latest: int, best: int) -> set[int]:
    """Return the steps to keep: the newest, and those of lowest validation loss (of equal ones the newer).

    `losses` is step -> validation loss [nats]; None or a number that is not finite is never among the best.
    """
    newest = sorted(losses)[-latest:] if latest else []
    rated = sorted((loss, -step) for step, loss in losses.items() if loss is not None and math.isfinite(loss))
    return set(newest) | {-negative for _, negative in rated[:best]}


def _context(partial: bool = False) -> ocp.Context:
    """Return Orbax's options: the record is plain JSON, and `partial` reads only what the abstract tree names.

    No compression: zstd takes 8 % off float32 weights, and for 300 MB 1.8 s of the host's time instead of 0.7 s.
    """
    registry = ocp.handlers.local_registry()
    registry.add(ocp.handlers.JsonHandler, checkpointable_name=_RECORD)
    context = ocp.Context()
    context.checkpointables.registry = registry
    context.pytree.loading.partial_load = partial
    context.array.saving.use_compression = False
    return context


def _load(path: Path, abstract_state: Any, partial: bool) -> Any:
    """Return the state of a verified step in the structure and on the shardings of `abstract_state`."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or here), abstract_state
    )
    with _context(partial), jax.transfer_guard("allow"):
        saved = ocp.checkpointables_metadata(path).metadata[_STATE]
        _require_same(path, _by_name(saved), _by_name(abstract), partial)
        loaded = _by_name(ocp.load(path, _as_dicts(abstract), checkpointable_name=_STATE))
    return jax.tree.unflatten(jax.tree.structure(abstract), [loaded[name] for name in _by_name(abstract)])


def _require_same(path: Path, saved: dict[str, Any], wanted: dict[str, Any], partial: bool) -> None:
    """Refuse a checkpoint of another config, naming the first leaves that differ with both shapes.

    Raises:
        ValueError: a leaf is missing, left over, or has another shape or type.
    """

    def show(leaf: Any) -> str:
        return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}" if leaf is not None else "nothing"

    names = list(wanted) if partial else list(wanted | saved)
    pairs = [(name, show(saved.get(name)), show(wanted.get(name))) for name in names]
    differing = [f"{name}: saved {old}, config asks for {new}" for name, old, new in pairs if old != new]
    more = f"; and {len(differing) - _SHOWN_DIFFERENCES} more" if len(differing) > _SHOWN_DIFFERENCES else ""
    require(
        not differing,
        f"{path} is a checkpoint of another config: {len(differing)} of {len(names)} arrays differ. "
        f"{'; '.join(differing[:_SHOWN_DIFFERENCES])}{more}. Use the config saved with the run, or another run.dir.",
    )


def _as_dicts(tree: Any) -> dict[str, Any]:
    """Return the tree as nested dicts, so that no class (of optax, say) is needed to read a checkpoint."""
    nested: dict[str, Any] = {}
    for name, leaf in _by_name(tree).items():
        *parents, last = name.split("/")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return nested


def _by_name(tree: Any) -> dict[str, Any]:
    """Return the leaves by name, in the tree's order: `opt_state/0/mu/embed`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(_key_text(key) for key in keys): leaf for keys, leaf in leaves}


def _key_text(key: Any) -> str:
    for attribute in ("name", "key", "idx"):  # of a field, a dict's entry, a sequence's entry
        if hasattr(key, attribute):
            return str(getattr(key, attribute)).replace("/", "\\")
    return str(key)


def _read_record(path: Path) -> dict[str, Any]:
    return json.loads((path / _RECORD_FILE).read_text(encoding="utf-8"))


def _validation_loss(path: Path) -> float | None:
    """Return the loss saved with a step; an unreadable one is None: deleting must not fail because a step is bad."""
    try:
        loss = _read_record(path)["validation_loss"]
        return None if loss is None else float(loss)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _from_first(value: int) -> int:
    """Return process 0's value on every process: what one decides from the disk, all must do."""
    if jax.process_count() == 1:
        return value
    with jax.transfer_guard("allow"):
        return int(multihost_utils.broadcast_one_to_all(np.int32(value)))
