"""Where a TFDS data set stands prepared on disk, and what to tell a user for whom it does not.

Owns looking, one short attempt to get what is missing, and the message with the three ways out. Refuses to download for
long: the attempt runs in a process of its own for `ATTEMPT_SECONDS`, where TFDS, left alone, retries without a network
for 205 s.
"""

import difflib
import logging
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

ATTEMPT_SECONDS: Final = 6.0
PREPARE: Final = (
    "import sys, tensorflow_datasets as tfds; "
    "tfds.builder(sys.argv[1], data_dir=sys.argv[2], file_format='array_record').download_and_prepare()"
)


def open_builder(name: str, folder: Path) -> Any:
    """Return the TFDS builder of a data set prepared in `folder`, after one attempt to get it where it is missing.

    Raises:
        ValueError: the name, configuration or version is unknown.
        FileNotFoundError: the data set is not prepared, and the attempt did not get it.
        ModuleNotFoundError: tensorflow_datasets is not installed.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ModuleNotFoundError(
            f"source 'tfds:{name}' needs TFDS ({error}): run `pip install tensorflow-datasets importlib_resources "
            "pillow` (TensorFlow is not needed), or use --data.path FILE."
        ) from None
    try:
        builder = tfds.builder(name, data_dir=folder)
    except (ValueError, AssertionError) as error:
        known = set(tfds.list_builders(with_community_datasets=False)) | _subfolders(folder)
        if base_name(name) in known:
            reason = str(error).strip().splitlines()[0].split('": ')[-1].split(" Here are ")[0]
            raise ValueError(
                f"tfds:{name} cannot be opened: {reason} Correct the part after the name, or leave it out."
            ) from None
        near = difflib.get_close_matches(base_name(name), sorted(known), n=3)
        hint = f"Did you mean {', '.join(repr(other) for other in near)}?" if near else "No name is similar."
        raise ValueError(
            f"unknown TFDS data set {base_name(name)!r}. {hint} {len(known)} are known: see "
            "https://www.tensorflow.org/datasets/catalog, or use --data.path FILE."
        ) from None
    if builder.is_prepared():
        return builder
    reason = _attempt(name, folder)
    builder = tfds.builder(name, data_dir=folder)
    if builder.is_prepared():
        return builder
    others = sorted(_subfolders(folder / base_name(name)))
    there = f" (it holds {', '.join(others)})" if others else "" if folder.is_dir() else " (this folder does not exist)"
    raise FileNotFoundError(
        f"tfds:{name} is not prepared in {folder}{there}, and an attempt to get it failed: {reason}. "
        f"{how_to_get(name, str(folder))}"
    )


def _attempt(name: str, folder: Path) -> str:
    """Try for `ATTEMPT_SECONDS` to download and prepare into `folder`; return why not, or nothing on success.

    It happens in a scratch folder, so that an attempt that is cut off leaves nothing behind.
    """
    said = f"tfds:{name} is not in {folder}: trying to get it for {ATTEMPT_SECONDS:g} s."
    logging.getLogger(__name__).warning(said)
    with tempfile.TemporaryDirectory(prefix="jgpt-tfds-") as scratch, open(Path(scratch, "log"), "w+b") as log:
        data = Path(scratch, "data")
        command = [sys.executable, "-c", PREPARE, name, str(data)]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=ATTEMPT_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            log.seek(0)
            offline = b"NameResolutionError" in log.read()
            return f"it was stopped after {ATTEMPT_SECONDS:g} s" + (" without a network" if offline else "")
        if done.returncode == 0:
            shutil.copytree(data, folder, ignore=shutil.ignore_patterns("downloads"), dirs_exist_ok=True)
            return ""
        log.seek(0)
        lines = [line for line in log.read().decode("utf-8", "replace").splitlines() if line.strip(" *")]
        return lines[-1].strip()[:200] if lines else f"exit status {done.returncode}"


def how_to_get(name: str, folder: str) -> str:
    """Return the three ways out for a user whose data set is missing."""
    return (
        "Where there is a network, run\n"
        f'  python -c "import tensorflow_datasets as tfds; tfds.builder({name!r}, data_dir={folder!r}, '
        "file_format='array_record').download_and_prepare()\"\n"
        "(should it ask for TensorFlow, as for mnist, cifar10 and tiny_shakespeare: `pip install tensorflow` for this "
        "one command). If it stands prepared elsewhere, say where with --data.tfds-dir FOLDER or TFDS_DATA_DIR=FOLDER. "
        "Or train on a file of yours with --data.path FILE."
    )


def base_name(name: str) -> str:
    """Return the name of the data set without its configuration and version."""
    return re.split("[/:]", name)[0]


def _subfolders(folder: Path) -> set[str]:
    """Return the names of the folders in `folder`; none where it does not exist."""
    return {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()
