"""jgpt: one GPT in JAX and Flax for text, questions and pictures.

`jgpt.load(run)` returns a trained model. Importing the package imports no jax, so that configs can be read anywhere.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jgpt.loaded import GPT, load

__all__ = ["GPT", "load"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from jgpt import loaded

        return getattr(loaded, name)
    raise AttributeError(f"module 'jgpt' has no attribute {name!r}")
