"""The folder of a run: what lies where, and whether a config may use it.

Owns the names inside `runs/NAME/` and the rules of resuming, overwriting and extending. Imports no jax.
"""

import json
import secrets
import shutil
import socket
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from jgpt import configio
from jgpt.check import require
from jgpt.config import Config, DistributedConfig

SIGNATURE: Final = "seen-by-all"  # of process 0, in a folder that all must see
SEEN_SECONDS: Final = 60.0  # within which a shared file system shows what another host has written


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a run.

    Attributes:
        root: the folder itself.
    """

    root: Path

    @property
    def config(self) -> Path:
        """The resolved config as JSON."""
        return self.root / "config.json"

    @property
    def metrics(self) -> Path:
        """One JSON object a line."""
        return self.root / "metrics.jsonl"

    @property
    def tokenizer(self) -> Path:
        """Vocabulary and tasks."""
        return self.root / "tokenizer"

    @property
    def skipped(self) -> Path:
        """Every record of the data that was left out as bad, a line each."""
        return self.root / "skipped.txt"

    @property
    def checkpoints(self) -> Path:
        """Steps written by `jgpt.checkpoint`."""
        return self.root / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """Event files."""
        return self.root / "tensorboard"

    @property
    def plots(self) -> Path:
        """PNG files: loss and drawn pictures."""
        return self.root / "plots"

    @property
    def report(self) -> Path:
        """Final scores; its presence says that the run is complete."""
        return self.root / "report.json"

    @property
    def shared_data(self) -> Path:
        """While several processes train: what process 0 has read of the data, for the others."""
        return self.root / "data-of-all"


def open_existing(path: str | Path) -> tuple[RunFolder, Config]:
    """Return the folder and config of a run.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the folder is not a run.
    """
    folder = RunFolder(Path(path))
    if not folder.root.exists():
        raise FileNotFoundError(f"{path} does not exist: train it first, e.g. python train.py configs/trio.py.")
    if not folder.config.is_file():
        raise ValueError(f"{path} is not a run folder (it holds no config.json): name one that train.py made.")
    _check_ours(folder, str(path))
    return folder, configio.load(folder.config)


def check(config: Config) -> RunFolder:
    """Return the folder of `config` if it may be used as `run.on_existing` says; nothing is changed.

    Raises:
        ValueError: the folder is not a run, or the run in it has another config; the message names the fields.
    """
    folder = RunFolder(Path(config.run.dir))
    if folder.root.exists() and not folder.root.is_dir():
        raise ValueError(f"run.dir {config.run.dir!r} is a file: choose another --run.dir.")
    passing = (folder.config.with_suffix(".tmp"), folder.shared_data)  # left by a run that was killed before it began
    occupied = folder.root.is_dir() and any(path not in passing for path in folder.root.iterdir())
    if occupied and not folder.config.is_file():
        raise ValueError(
            f"run.dir {config.run.dir!r} holds files but no config.json, so it is not a run and nothing in it is touched: "
            "choose another --run.dir, or empty it."
        )
    if occupied:
        _check_ours(folder, config.run.dir)
    if occupied and config.run.on_existing != "overwrite":
        _check_same(config, configio.load(folder.config))
    return folder


def prepare(config: Config) -> RunFolder:
    """Return the folder of `config`, new, emptied or to be continued as `run.on_existing` says, with its config written.

    Called once everything else is known to be right, so that a mistake neither deletes a run nor leaves half of one.

    Raises:
        ValueError: as `check`.
    """
    folder = check(config)
    if folder.root.is_dir() and config.run.on_existing == "overwrite":
        root = folder.root.resolve()  # a link to another disk stays
        aside = root.with_name(f".{root.name}.deleted")  # so that a kill leaves no half of a run
        shutil.rmtree(aside, ignore_errors=True)
        root.rename(aside)
        root.mkdir()
        kept_data = aside / folder.shared_data.name  # of this run already, and mapped by its other processes
        if kept_data.is_dir():
            kept_data.rename(folder.shared_data)
        shutil.rmtree(aside)
    if config.run.on_existing == "extend":
        folder.report.unlink(missing_ok=True)
    folder.root.mkdir(parents=True, exist_ok=True)
    temporary = folder.config.with_suffix(".tmp")
    kept = replace(config, run=replace(config.run, on_existing="resume"), distributed=DistributedConfig())
    configio.save(kept, temporary)
    temporary.replace(folder.config)
    return folder


def sign(folder: Path) -> int:
    """Write a number into a folder by which other processes know it (`require_signed`), and return it; below 2 ** 31."""
    number = secrets.randbits(31)
    (folder / SIGNATURE).write_text(str(number))
    return number


def require_signed(folder: Path, signed: int, seconds: float | None = None) -> None:
    """Refuse to go on where the folder that process 0 has signed is not seen, but none or another one.

    Args:
        folder: by its name.
        signed: what `sign` returned there.
        seconds: to wait for it to be seen; None = SEEN_SECONDS.

    Raises:
        ValueError: this host has another file system.
    """
    seconds = SEEN_SECONDS if seconds is None else seconds
    end = time.monotonic() + seconds
    if not _signed(folder, signed):
        print(f"waits up to {seconds:g} s to see in {folder} what process 0 has written", file=sys.stderr, flush=True)
    while not _signed(folder, signed) and time.monotonic() < end:
        time.sleep(min(0.1, seconds))
    require(
        _signed(folder, signed),
        f"{folder.absolute()} on {socket.gethostname()} is not the folder that process 0 has prepared: run.dir must lie "
        "on a file system that all processes share.",
    )


def require_same(first: Config, config: Config) -> None:
    """Refuse a config that is not process 0's.

    Args:
        first: what process 0 was given.
        config: what this one was given.
    """
    changed = configio.changed_fields(first, config)
    if first.mesh != config.mesh:
        changed["mesh"] = (first.mesh, config.mesh)
    fields = "; ".join(f"{name} is {was!r} on process 0 and {now!r} here" for name, (was, now) in changed.items())
    require(not changed, f"{fields} ({socket.gethostname()}): start all processes with the same command.")


def _signed(folder: Path, number: int) -> bool:
    try:
        return (folder / SIGNATURE).read_text() == str(number)
    except OSError:
        return False


def _check_ours(folder: RunFolder, name: str) -> None:
    """Refuse a folder whose config.json is broken or was written by another program."""
    try:
        found = json.loads(folder.config.read_text())
    except ValueError:
        found = None
    if not isinstance(found, dict) or not {"run", "model", "train"} <= found.keys():
        raise ValueError(
            f"{name!r} is not a run folder (its config.json is broken or another program's), so nothing in it is "
            "touched: name another folder, or empty it."
        )


def _check_same(new: Config, old: Config) -> None:
    changed = configio.changed_fields(old, new)
    if new.run.on_existing == "extend":
        steps = changed.pop("train.steps", None)
        if steps is not None and steps[1] < steps[0]:
            raise ValueError(
                f"train.steps {steps[1]} is below the run's {steps[0]}: extend goes on, it cannot go back."
            )
    if changed:
        fields = "; ".join(f"{name} was {was!r}, now {now!r}" for name, (was, now) in changed.items())
        raise ValueError(
            f"run.dir {new.run.dir!r} holds a run with another config: {fields}. Use another --run.dir, go back to the "
            "old values to resume, --run.on-existing extend to go on with more --train.steps, or --run.on-existing "
            "overwrite to delete it and start over."
        )


def truncate_metrics(path: Path, last_step: int) -> None:
    """Drop the lines after `last_step`, which a resumed run will write again, and a half-written last line."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # cut off when the process was killed
        if record["step"] <= last_step:
            kept.append(line)
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(line + "\n" for line in kept))
    temporary.replace(path)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of a metrics file, oldest first; empty where there is none."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
