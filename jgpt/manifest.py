"""The size and crc32 of every file of a folder, so that damage is found before it is loaded.

Owns how a manifest is written, atomically and last, and how a folder is checked against it. Refuses to know what the
files mean: Orbax loads a flipped byte of array data silently as another number, and this file is what notices.
"""

import json
import os
import zlib
from pathlib import Path

NAME = "manifest.json"
_CHUNK = 1 << 20  # [bytes] read at once: large enough for crc32 to let other threads run, small beside any state


def write(folder: Path) -> None:
    """Write the manifest of `folder`, which from then on counts as whole.

    The file appears under its name only when it is complete and on the disk, so a process killed at any moment leaves
    either a manifest to trust or none.

    Raises:
        OSError: a file cannot be read, or the manifest cannot be written.
    """
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "crc32": _crc32(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(NAME)
    }
    partial = folder / f"{NAME}.tmp"
    with partial.open("w", encoding="utf-8") as file:
        json.dump({"files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, folder / NAME)
    descriptor = os.open(folder, os.O_RDONLY)  # the new name is durable once the folder itself is on the disk
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def exists(folder: Path) -> bool:
    """Return whether `folder` was completed, without reading its files."""
    return (folder / NAME).is_file()


def damage(folder: Path) -> str | None:
    """Return what is wrong with `folder`, naming the first bad file, or None where every byte is as written.

    Sizes are compared before any content is read, so a truncated file costs nothing to find.
    """
    try:
        files = json.loads((folder / NAME).read_text(encoding="utf-8"))["files"]
        expected = {name: (int(entry["size"]), int(entry["crc32"])) for name, entry in files.items()}
    except FileNotFoundError:
        return f"{NAME} is missing (the process was stopped before the step was complete, or is completing it)"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{NAME} cannot be read ({type(error).__name__}: {error})"
    try:
        for name, (size, _) in expected.items():
            found = (folder / name).stat().st_size
            if found != size:
                return f"{name} has {found} bytes and not {size}"
        for name, (_, crc32) in expected.items():
            if _crc32(folder / name) != crc32:
                return f"{name} holds other bytes than were written (crc32 differs)"
    except FileNotFoundError:
        return f"{name} is missing"
    except (OSError, ValueError) as error:
        return f"{name} cannot be read ({error})"
    return None


def _crc32(path: Path) -> int:
    """Return the crc32 of a file's content."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return value
