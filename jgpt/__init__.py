"""jgpt: one GPT in JAX and Flax for text, questions and pictures.

`jgpt.load(run)` returns a trained model, `jgpt.train(config, qa=examples)` makes one. Importing the package imports no jax,
so that configs can be read anywhere.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jgpt.loaded import GPT, load
    from jgpt.notebook import train

__all__ = ["GPT", "load", "train"]


def __getattr__(name: str) -> Any:
    if name == "train":
        from jgpt import notebook

        return notebook.train
    if name in __all__:
        from jgpt import loaded

        return getattr(loaded, name)
    raise AttributeError(f"module 'jgpt' has no attribute {name!r}")
