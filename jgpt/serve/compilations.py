"""How many programs this process has compiled: a server that is ready compiles none.

Owns the one listener that counts them; importing this module starts it.
"""

from typing import Any

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"  # also where the program came from the cache on disk
_count = 0


def compilations() -> int:
    """Return the number of programs compiled since this module was imported."""
    return _count


def _listen(event: str, seconds: float, **_: Any) -> None:
    global _count
    del seconds
    _count += event == _EVENT


jax.monitoring.register_event_duration_secs_listener(_listen)
