"""How logical axes lie over the mesh: one small table, for parameters and activations alike.

Owns `RULES` and the constraints that keep activations where their rows are. Without them XLA may follow a weight that is split
over `fsdp` instead, gather the rows of the whole batch on every device and split their channels: correct, and many times the
memory. A logical axis that no rule names is an error: silent replication is how memory is lost unnoticed.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Shaped

from jgpt.check import unknown_name

# from the slowest network to the fastest: neighbours along the last axis exchange most
MESH_AXES: Final = ("slice", "data", "fsdp", "expert", "context", "tensor")
ROW_AXES: Final = ("slice", "data", "fsdp", "expert")  # over which the rows of a batch lie
SLICES: Final = "slices"  # that `over_slices` maps over

RULES: Final[dict[str, str | tuple[str, ...] | None]] = {
    "batch": ROW_AXES[1:],  # of one slice: see `over_slices`
    "seq": "context",
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
    "experts": "expert",
    "choice": None,
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


def mesh_axes() -> dict[str, int]:
    """Return mesh axis -> devices of `on_mesh`; empty where there is no mesh."""
    return dict(jax.sharding.get_abstract_mesh().shape)


def over_slices(function: Callable[..., Any], dtype: str = "float32") -> Callable[..., Any]:
    """Return `function` (params, batch, key) of the rows of each slice by itself, with its results summed over the slices.

    Left to XLA, the gradients of every micro-batch would cross the slow network between slices; so they do once, in `dtype`
    (numbers in f32 all the same). Within, `batch` are the rows of one slice. Where there is one slice alone, `function` itself.
    """
    slices = mesh_axes().get("slice", 1)
    if slices == 1:
        return function

    def summed(params: Any, batch: Any, key: Array) -> Any:
        own = jax.tree.map(lambda a: a.reshape(slices, a.shape[0] // slices, *a.shape[1:]), batch)
        of_each = jax.vmap(function, (None, 0, 0), axis_name=SLICES, spmd_axis_name="slice")
        return jax.tree.map(add, of_each(params, own, jax.random.split(key, slices)))

    def add(each: Array) -> Array:
        rest = [PartitionSpec.UNCONSTRAINED] * (each.ndim - 1)
        narrow = dtype if each.ndim > 1 else "float32"
        each = jax.lax.with_sharding_constraint(each.astype(narrow), PartitionSpec("slice", *rest))
        # lax.reduce: jnp.sum would add bfloat16 up in f32, and send that
        zero = jnp.zeros((), each.dtype)
        return jax.lax.reduce(each, zero, jax.lax.add, (0,)).astype(jnp.float32)

    return summed


def sum_over_slices(x: Shaped[Array, "*A"]) -> Shaped[Array, "*A"]:
    """Return x of one slice summed over all of them, within `over_slices`; x itself where there is one."""
    return jax.lax.psum(x, SLICES) if mesh_axes().get("slice", 1) > 1 else x


def parts(axis: str, mesh: Mapping[str, int] | None = None) -> int:
    """Return into how many parts a logical axis is cut over a mesh: axis -> devices; None = the one of `on_mesh`."""
    mesh = mesh_axes() if mesh is None else mesh
    return int(np.prod([mesh.get(name, 1) for name in _names(spec_of((axis,))[0])], dtype=int))


def _names(split: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if split is None else (split,) if isinstance(split, str) else split


def flatten(x_BS: Shaped[Array, "B S *A"]) -> Shaped[Array, "N *A"]:
    """Return tokens along one axis, each device's own in one piece: row after row where rows are not cut.

    Rows that are cut over devices cannot be laid one behind the other without gathering them; the parts of each device can.
    """
    B, S, *rest = x_BS.shape
    cut = parts("seq")
    if cut == 1:
        return x_BS.reshape(B * S, *rest)
    rows = parts("batch")
    return place_tokens(x_BS.reshape(rows, B // rows, cut, S // cut, *rest).swapaxes(1, 2).reshape(B * S, *rest))


def unflatten(x_N: Shaped[Array, "N *A"], batch: int) -> Shaped[Array, "B S *A"]:
    """Undo `flatten` of `batch` rows."""
    N, *rest = x_N.shape
    cut = parts("seq")
    if cut == 1:
        return x_N.reshape(batch, N // batch, *rest)
    rows = parts("batch")
    x_N = place_tokens(x_N)
    return x_N.reshape(rows, cut, batch // rows, N // batch // cut, *rest).swapaxes(1, 2).reshape(batch, -1, *rest)


def token_axes() -> tuple[str, ...]:
    """Return the mesh axes over which the tokens of `flatten` lie."""
    return (*_names(RULES["batch"]), *_names(RULES["seq"]))


def place_tokens(x_N: Shaped[Array, "N *A"], *axes: str | None) -> Shaped[Array, "N *A"]:
    """Return x with its first axis over the devices that have the tokens (see `flatten`), and the others as in `place`.

    Args:
        x_N: by tokens.
        axes: one name for each further axis; none at all = as XLA finds best.
    """
    others = [*spec_of(axes)] or [PartitionSpec.UNCONSTRAINED] * (x_N.ndim - 1)
    return jax.lax.with_sharding_constraint(x_N, PartitionSpec(token_axes(), *others)) if mesh_axes() else x_N
