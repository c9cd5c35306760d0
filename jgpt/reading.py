"""The data of a run: read once, by process 0, and mapped by all others, so that each reads its own rows alone.

Owns who reads; what is laid down for the others is said in `tasks.shared`, where in `runfolder`.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from jgpt import distributed, runfolder
from jgpt.config import Config
from jgpt.runfolder import RunFolder
from jgpt.tasks import mixture, shared


@contextmanager
def read_once(config: Config, folder: RunFolder) -> Iterator[mixture.Mixture]:
    """Yield the mixture of `config`; with several processes its files lie beside `folder` for as long as it is entered.

    Raises:
        ValueError: as `mixture.build`, on process 0; or this host does not see the folder that process 0 writes.
        FileNotFoundError: data is missing, on process 0.
    """
    if jax.process_count() == 1:
        yield mixture.build(config)
        return
    where = folder.shared_data
    built: list[mixture.Mixture] = []

    def lay_down() -> int:
        built.append(mixture.build(config))
        shutil.rmtree(where, ignore_errors=True)  # of a run that was killed
        where.mkdir(parents=True)
        shared.lay_down(built[0], where)
        return runfolder.sign(where)

    try:
        signed = distributed.made_by_first("data", lay_down)
        if distributed.is_first():
            yield built[0]
        else:
            runfolder.require_signed(where, signed)
            yield shared.take_up(config, where)
    finally:
        if distributed.is_first():
            shutil.rmtree(where, ignore_errors=True)
