"""How many programs jax compiles: the sampler promises none once it has seen the sizes that a caller uses.

Owns the count; refuses to say which programs they are (JAX_LOG_COMPILES=1 does).
"""

from types import TracebackType
from typing import Any, Final

EVENT: Final = "/jax/core/compile/backend_compile_duration"  # once a program, also where the cache on disk holds it


class Programs:
    """Counts the programs that are compiled while it is entered, in all threads.

    Attributes:
        count: programs so far; those that come from the cache on disk are counted too.
    """

    def __init__(self) -> None:
        self.count = 0

    def _hear(self, event: str, duration_secs: float, **_: Any) -> None:
        self.count += event == EVENT

    def __enter__(self) -> "Programs":
        from jax import monitoring  # the command line is parsed before jax is loaded

        monitoring.register_event_duration_secs_listener(self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from jax import monitoring

        monitoring.unregister_event_duration_listener(self._hear)

    def __str__(self) -> str:
        return f"compiled {self.count} program{'' if self.count == 1 else 's'}"
