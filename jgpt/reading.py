"""The data of a run: read once, by process 0, and mapped by all others, so that each reads its own rows alone.

Owns who reads, and that all were given one config; what is laid down for the others is said in `tasks.shared`, where in
`runfolder`.
"""

import contextlib
import shutil

import jax

from jgpt import configio, distributed, runfolder
from jgpt.config import Config
from jgpt.heartbeat import Heartbeat
from jgpt.runfolder import RunFolder
from jgpt.tasks import mixture, shared

CONFIG, DATA = "config.json", "data"


def read_once(config: Config, folder: RunFolder, heartbeat: Heartbeat | None) -> mixture.Mixture:
    """Return the mixture of `config`; with several processes its files lie in `folder` until all have ended.

    Where process 0 is killed, or the caller has joined the processes and there is no heartbeat, they are left; `discard`
    removes them at the next start.

    Raises:
        ValueError: as `mixture.build`, on process 0; or this process sees another folder or was given another config.
        FileNotFoundError: data is missing, on process 0.
    """
    if jax.process_count() == 1:
        return mixture.build(config)
    built: list[mixture.Mixture] = []
    where = folder.shared_data

    def sign() -> int:
        where.mkdir(parents=True)
        if heartbeat is not None:
            heartbeat.at_end(lambda: discard(folder))
        configio.save(config, where / CONFIG)
        return runfolder.sign(where)

    def lay_down() -> int:
        built.append(mixture.build(config))
        try:
            shared.lay_down(built[0], where / DATA)
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(where)) from error
        return 0

    signed = distributed.made_by_first("config", sign)  # before the data, which may take long
    if not distributed.is_first():
        runfolder.require_signed(where, signed)
        runfolder.require_same(configio.load(where / CONFIG), config)
    distributed.made_by_first("data", lay_down)
    return built[0] if distributed.is_first() else shared.take_up(config, where / DATA)


def discard(folder: RunFolder) -> None:
    """Remove what process 0 has laid down, and the folder where it holds nothing else: the run has not begun."""
    if folder.shared_data.is_dir():
        shutil.rmtree(folder.shared_data, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.root.rmdir()
