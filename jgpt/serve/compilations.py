"""How many programs this process has compiled: a server that is ready compiles none.

Owns the one count that never ends; importing this module starts it.
"""

from jgpt.compiled import Programs

_programs = Programs().__enter__()


def compilations() -> int:
    """Return the number of programs compiled since this module was imported."""
    return _programs.count
