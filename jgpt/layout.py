"""How logical axes lie over the mesh: one small table, for parameters and activations alike.

Owns `RULES` and the constraints that keep activations where their rows are. Without them XLA may follow a weight that is split
over `fsdp` instead, gather the rows of the whole batch on every device and split their channels: correct, and many times the
memory. A logical axis that no rule names is an error: silent replication is how memory is lost unnoticed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from typing import Any, Final

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Shaped

from jgpt.check import unknown_name

# from the slowest network to the fastest: neighbours along the last axis exchange most
MESH_AXES: Final = ("slice", "data", "fsdp", "expert", "context", "tensor")
ROW_AXES: Final = ("slice", "data", "fsdp", "expert")  # over which the rows of a batch lie
COPY_AXES: Final = ROW_AXES[:2]  # over which the model is copied
COPIES: Final = "copies"  # that `over_copies` and `each_copy` map over

RULES: Final[dict[str, str | tuple[str, ...] | None]] = {
    "batch": ROW_AXES[len(COPY_AXES) :],  # of one copy of the model: see `over_copies`
    "seq": "context",
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "vocab": "tensor",
    "layers": None,
    "norm": None,
    "back": None,
    "gate_input": None,
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


def copies(mesh: Mapping[str, int] | None = None) -> int:
    """Return how many copies of the model there are on a mesh: axis -> devices; None = the one of `on_mesh`."""
    mesh = mesh_axes() if mesh is None else mesh
    return math.prod(mesh.get(name, 1) for name in COPY_AXES)


def over_copies(function: Callable[..., Any], between_slices: str = "float32") -> Callable[..., Any]:
    """Return `function` (params, batch, key) of the rows of each copy by itself, with its results summed over the copies.

    Left to XLA, the gradients of every micro-batch would be summed over all copies, each as soon as it is there and some before
    they are scattered over `fsdp`; so each array is summed once a step, in f32, and between slices in the type that is named
    (numbers in f32 all the same). Within, `batch` are the rows of one copy. Where there is one copy alone, `function` itself.
    """
    count = copies()
    if count == 1:
        return function

    def summed(params: Any, batch: Any, key: Array) -> Any:
        of_each = jax.vmap(function, (None, 0, 0), axis_name=COPIES, spmd_axis_name=COPY_AXES)
        each = of_each(params, _dealt(batch, count), jax.random.split(key, count))
        return jax.tree.map(partial(_sum, between_slices), each)

    return summed


def each_copy(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` (params, *arrays by rows), of which each copy computes its own rows; what it returns is by rows too."""

    def joined(params: Any, *rows: Any) -> Any:
        count = copies()
        if count == 1:
            return function(params, *rows)
        of_each = jax.vmap(partial(function, params), axis_name=COPIES, spmd_axis_name=COPY_AXES)
        return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), of_each(*_dealt(rows, count)))

    return joined


def across_copies(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` (*arrays by rows), whose results are by rows too, for use within `over_copies` and `each_copy`.

    There it is called once with the rows of all copies, one copy's behind the other's, where vmap would ask for batching rules
    of what is within. It has no gradient; see `jax.custom_vjp`.
    """
    mapped = jax.custom_batching.custom_vmap(function)

    @mapped.def_vmap
    def joined(count: int, of_copies: Sequence[bool], *arrays: Array) -> tuple[Any, Any]:
        each = (a if own else jnp.broadcast_to(a, (count, *a.shape)) for a, own in zip(arrays, of_copies, strict=True))
        out = mapped(*(_all_rows(a.reshape(-1, *a.shape[2:])) for a in each))
        return _dealt(out, count), jax.tree.map(lambda _: True, out)

    return mapped


def _all_rows(x: Shaped[Array, "R *A"]) -> Shaped[Array, "R *A"]:
    """Return x with the rows of all copies where they are, and the other axes as XLA finds best."""
    spec = PartitionSpec(ROW_AXES, *[PartitionSpec.UNCONSTRAINED] * (x.ndim - 1))
    return jax.lax.with_sharding_constraint(x, spec) if mesh_axes() else x


def _dealt(rows: Any, count: int) -> Any:
    return jax.tree.map(lambda a: a.reshape(count, a.shape[0] // count, *a.shape[1:]), rows)


def _sum(between_slices: str, each: Shaped[Array, "C *A"]) -> Shaped[Array, "*A"]:
    """Return the sum of what each copy has."""
    slices = mesh_axes().get("slice", 1)
    if between_slices == "float32" or each.ndim == 1:
        return _added(each.astype(jnp.float32), COPY_AXES)
    within = _added(each.astype(jnp.float32).reshape(slices, -1, *each.shape[1:]).swapaxes(0, 1), ("data",), "slice")
    return _added(within.astype(between_slices), ("slice",)).astype(jnp.float32)


def _added(each: Shaped[Array, "C *A"], over: tuple[str, ...], *then: str) -> Shaped[Array, "*A"]:
    """Return the sum over the first axis, which lies over the axes of a mesh; `then`: over what the next axes lie."""
    rest = [PartitionSpec.UNCONSTRAINED] * (each.ndim - 1 - len(then))
    each = jax.lax.with_sharding_constraint(each, PartitionSpec(over, *then, *rest))
    # lax.reduce: jnp.sum would add bfloat16 up in f32, and send that
    return jax.lax.reduce(each, jnp.zeros((), each.dtype), jax.lax.add, (0,))


def sum_over_copies(x: Shaped[Array, "*A"]) -> Shaped[Array, "*A"]:
    """Return x of one copy summed over all of them, within `over_copies`; x itself where there is one."""
    return jax.lax.psum(x, COPIES) if copies() > 1 else x


def parts(axis: str, mesh: Mapping[str, int] | None = None) -> int:
    """Return into how many parts a logical axis is cut over a mesh: axis -> devices; None = the one of `on_mesh`."""
    mesh = mesh_axes() if mesh is None else mesh
    return math.prod(mesh.get(name, 1) for name in _names(spec_of((axis,))[0]))


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
