"""How logical axes lie over the mesh: one small table, for parameters and activations alike.

Owns `RULES` and the constraints that keep activations where their rows are. Without them XLA may follow a weight that is split
over `fsdp` instead, gather the rows of the whole batch on every device and split their channels: correct, and many times the
memory. A logical axis that no rule names is an error: silent replication is how memory is lost unnoticed.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Final

import jax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Shaped

from jgpt.check import unknown_name

MESH_AXES: Final = ("data", "fsdp", "tensor")

RULES: Final[dict[str, str | tuple[str, ...] | None]] = {
    "batch": ("data", "fsdp"),
    "seq": None,
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "vocab": "tensor",
    "layers": None,
    "norm": None,
    "position": None,
    "gate": None,
    "ngram": "tensor",
}


def spec_of(axes: Sequence[str | None]) -> PartitionSpec:
    """Return the mesh axes of an array from the logical names of its axes; None = whole on every device.

    Raises:
        ValueError: no rule names an axis.
    """
    for axis in axes:
        if axis is not None and axis not in RULES:
            raise ValueError(unknown_name("logical axis", axis, RULES) + " Add a rule to jgpt.layout.RULES.")
    return PartitionSpec(*(None if axis is None else RULES[axis] for axis in axes))


def on_mesh(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` with `place` in effect for `mesh` while it is traced; on one device it stays as it is."""
    if mesh.size == 1:
        return function

    @wraps(function)
    def traced(*arguments: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments)

    return traced


def place(x: Shaped[Array, "*A"], *axes: str | None) -> Shaped[Array, "*A"]:
    """Return x, laid over the mesh of `on_mesh` by the logical names of its axes; x itself where there is no mesh.

    The width of the residual stream is None here, whole on every device: "embed" is the axis of a weight, which is gathered
    where it is used.

    Args:
        x: an activation, or a weight.
        axes: one name an axis.

    Raises:
        ValueError: no rule names an axis.
    """
    spec = spec_of(axes)
    return x if jax.sharding.get_abstract_mesh().empty else jax.lax.with_sharding_constraint(x, spec)
