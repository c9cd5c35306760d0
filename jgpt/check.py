"""Helpers for rules a user can break: the message is the value, the rule and the fix.

Owns how a broken rule is raised, how the nearest known name is suggested and how counts and names are said; refuses to
know any rule itself.
"""

import difflib
import os
from collections.abc import Iterable, Sequence


def require(holds: bool, message: str) -> None:
    """Raise `ValueError(message)` unless `holds`.

    Raises:
        ValueError: a rule of the configuration or of an argument is broken.
    """
    if not holds:
        raise ValueError(message)


def same_file(path: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Return whether two paths are one file that exists."""
    return os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other)


def counted(number: int, what: str) -> str:
    """Return "1 picture" or "1,200 pictures"."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def listed(names: Sequence[str], most: int = 10) -> str:
    """Return names in quotes, the first few of many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Return a message for an unknown name, with the nearest known one and the whole list."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {name!r}.{hint} Known: {', '.join(names)}."
