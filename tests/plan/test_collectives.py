"""Collectives read off HLO: kind, axes, bytes and loops; and what the train step exchanges on each mesh, no more."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jgpt import loss, presets, sharding
from jgpt.batch import ANY_ROWS, RowLimits
from jgpt.config import Config, MeshConfig, ModelConfig, OptimConfig, TrainConfig
from jgpt.model import gpt
from jgpt.plan.collectives import Collective, collectives
from jgpt.plan.compiling import Step, compile_step

needs_eight = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
TURNS = 5


def mesh_of(data: int, fsdp: int, tensor: int) -> jax.sharding.Mesh:
    return sharding.make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor))


def compiled(mesh: jax.sharding.Mesh, function: Callable, specs: list, out: tuple, *shapes: tuple) -> list[Collective]:
    """Return the collectives of a function of the devices' own parts."""
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=tuple(PartitionSpec(*s) for s in specs), out_specs=PartitionSpec(*out)
    )
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return collectives(jax.jit(mapped).lower(*given).compile().as_text(), dict(mesh.shape))


@needs_eight
def test_sums_and_gathers_have_their_axes_and_bytes() -> None:
    mesh, specs = mesh_of(2, 4, 1), [(("data", "fsdp"), None)]

    def gather(x: jax.Array) -> jax.Array:
        return jax.lax.all_gather(x, "fsdp", tiled=True) * 2

    (found,) = compiled(mesh, gather, specs, (("data", "fsdp"), None), (64, 32))
    assert found == Collective("all-gather", ("fsdp",), 4, 1, 32 * 32 * 4 * 3 / 4, 32 * 32 * 4)
    (found,) = compiled(mesh, lambda x: jax.lax.psum(x, ("data", "fsdp")), specs, (None, None), (64, 32))
    assert found == Collective("all-reduce", ("data", "fsdp"), 8, 1, 2 * 8 * 32 * 4 * 7 / 8, 8 * 32 * 4)
    (found,) = compiled(
        mesh, lambda x: jax.lax.psum_scatter(x, "fsdp", tiled=True), specs, (("data", "fsdp"), None), (64, 32)
    )
    assert found == Collective("reduce-scatter", ("fsdp",), 4, 1, 8 * 32 * 4 * 3 / 4, 2 * 32 * 4)


@needs_eight
def test_what_stands_in_a_loop_counts_as_often_as_it_turns() -> None:
    mesh = mesh_of(1, 1, 8)

    def layers(x_BD: jax.Array, w_LdD: jax.Array) -> jax.Array:
        """Multiply by matrices whose inputs are split: each product is summed over the devices."""

        def layer(x_BD: jax.Array, w_dD: jax.Array) -> tuple[jax.Array, None]:
            own = jax.lax.dynamic_slice_in_dim(x_BD, jax.lax.axis_index("tensor") * 8, 8, 1)
            return jnp.tanh(jax.lax.psum(own @ w_dD, "tensor")), None

        return jax.lax.scan(layer, x_BD, w_LdD)[0]

    found = compiled(mesh, layers, [(None, None), (None, "tensor", None)], (None, None), (4, 64), (TURNS, 64, 64))
    (summed,) = [each for each in found if each.kind == "all-reduce"]
    assert summed.count == TURNS and summed.axes == ("tensor",)
    assert summed.sent == TURNS * 2 * 4 * 64 * 4 * 7 / 8


def test_a_loop_whose_turns_stand_in_its_condition_alone_counts_too() -> None:
    hlo = """HloModule m
%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[]{:T(128)}, f32[8]{0:T(8)S(1)}) parameter(0)
  %x = f32[8]{0:T(8)S(1)} get-tuple-element(%p), index=1
  %r = f32[8]{0:T(8)S(1)} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add
}

%condition (p: (s32[], f32[8])) -> pred[] {
  %n = s32[]{:T(128)} constant(6)
  ROOT %lt = pred[]{:T(512)} compare(%i, %n), direction=LT
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %w = (s32[]{:T(128)}, f32[8]{0:T(8)S(1)}) while(%t), condition=%condition, body=%body
}
"""
    (found,) = collectives(hlo, {"data": 2})
    assert found == Collective("all-reduce", ("data",), 2, 6, 6 * 32, 32)


@pytest.mark.parametrize(
    ("groups", "axes", "devices"),
    [
        ("mesh['axis_0'=8,'axis_1'=2] {'axis_1'}", ("tensor",), 2),
        ("mesh['axis_0'=8,'axis_1'=2] {'axis_0'}", ("data", "fsdp"), 8),
        ("mesh['axis_0'=2,'axis_1'=4,'axis_2'=2] {'axis_0','axis_2'}", ("data", "tensor"), 4),
        ("mesh['axis_0'=16] {'axis_0':(2)4}", ("fsdp",), 4),
        ("mesh['axis_0'=2,'axis_1'=1,'axis_2'=8], device_ids=([8,2]T(1,0)) {'axis_0'}", ("tensor",), 2),
        ("[2,8]<=[8,2]T(1,0)", ("data", "fsdp"), 8),
        ("{{0,2,4,6},{8,10,12,14},{1,3,5,7},{9,11,13,15}}", ("fsdp",), 4),
        ("{}", ("data", "fsdp", "tensor"), 16),
    ],
)
def test_groups_are_read_in_every_form(groups: str, axes: tuple, devices: int) -> None:
    line = f"  %r = f32[16]{{0}} all-reduce(%d), channel_id=1, replica_groups={groups}, to_apply=%add"
    hlo = f"HloModule m\nENTRY %main (p: f32[8]) -> f32[64] {{\n{line}\n}}\n"
    (found,) = collectives(hlo, {"data": 2, "fsdp": 4, "tensor": 2})
    assert (found.axes, found.devices) == (axes, devices)


def test_groups_in_a_form_that_is_not_known_are_refused() -> None:
    hlo = "HloModule m\nENTRY %main (p: f32[8]) -> f32[8] {\n  %r = f32[8] all-reduce(%d), replica_groups=new[3]\n}\n"
    with pytest.raises(ValueError, match="not known here"):
        collectives(hlo, {"data": 2})


def test_what_is_written_into_several_fusions_is_sent_once() -> None:
    gather = "all-gather(%p), channel_id=7, replica_groups={{0,1}}, dimensions={0}"
    hlo = f"""HloModule m
%one (p: f32[8]) -> f32[16] {{
  ROOT %a = f32[16]{{0}} {gather}
}}

%two (p: f32[8]) -> f32[16] {{
  ROOT %b = f32[16]{{0}} {gather}
}}

ENTRY %main (p: f32[8]) -> f32[16] {{
  %x = f32[16]{{0}} fusion(%p), kind=kCustom, calls=%one
  %y = f32[16]{{0}} fusion(%p), kind=kCustom, calls=%two
  ROOT %c = f32[16]{{0}} all-reduce(%y), channel_id=8, replica_groups={{{{0,1}}}}, to_apply=%add
}}
"""
    found = {each.kind: each.count for each in collectives(hlo, {"data": 2})}
    assert found == {"all-gather": 1, "all-reduce": 1}


def test_groups_in_both_forms_and_starts_without_dones() -> None:
    hlo = """HloModule m
ENTRY %main (p: f32[8]) -> f32[64] {
  %p = f32[8]{0} parameter(0)
  %s = (f32[8]{0}, bf16[32,2]{1,0}) all-gather-start(%p), replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}
  %d = bf16[32,2]{1,0} all-gather-done(%s)
  %r = f32[16]{0} all-reduce(%d), replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
  ROOT %c = f32[16]{0} collective-permute(%r), source_target_pairs={{0,2},{2,4},{4,6},{6,0}}
}
"""
    found = {each.kind: each for each in collectives(hlo, {"data": 4, "tensor": 2})}
    assert found["all-gather"] == Collective("all-gather", ("data",), 4, 1, 128 * 3 / 4, 128)
    assert found["all-reduce"].axes == ("tensor",) and found["all-reduce"].sent == 2 * 64 / 2
    assert found["collective-permute"].axes == ("data",) and found["collective-permute"].sent == 64


def test_what_crosses_slices_is_read_off_what_is_sent_to_the_hosts() -> None:
    sent = '_xla_host_transfer_rendezvous="all-reduce.8_0",_xla_megascale_transfer_type="ALL_REDUCE"'
    hlo = f"""HloModule m
ENTRY %main (p: f32[8]) -> f32[8] {{
  %p = f32[8]{{0}} parameter(0)
  %s = (f32[8]{{0}}, u32[]{{:S(2)}}, token[]) send(%p, %a), channel_id=2, is_host_transfer=true, frontend_attributes={{{sent}}}
  %r = (f32[8]{{0}}, u32[]{{:S(2)}}, token[]) recv(%a), channel_id=1, is_host_transfer=true, frontend_attributes={{{sent}}}
  ROOT %d = f32[8]{{0}} recv-done(%r), channel_id=1
}}
"""
    assert collectives(hlo, {"slice": 4, "fsdp": 2}) == [Collective("all-reduce", ("slice",), 4, 1, 2 * 32 * 3 / 4, 32)]


# Widths apart, so that an array is known by its size: a weight, the logits, the residual stream.
MODEL = presets.llama(num_layers=3, embed_dim=64, num_heads=8, mlp_dim=192, context_length=32, scan_layers=True)
VOCAB, ROWS = 1024, 64
CONFIG = Config(
    model=MODEL, train=TrainConfig(batch_size=ROWS, steps=10), optim=OptimConfig(name="adamw", warmup_steps=1)
)
KEYS = ROWS * MODEL.context_length * MODEL.kv_heads * MODEL.width_of_head * 4  # bytes of one layer's


def planned(model: ModelConfig = MODEL, limits: RowLimits = ANY_ROWS, **mesh: int) -> Step:
    config = replace(CONFIG, model=model, mesh=MeshConfig(**{"data": 1} | mesh))
    model = gpt.resolve(model, vocab_size=VOCAB, backend="cpu")
    return compile_step(config, model, jax.devices()[: math.prod(mesh.values())], limits)


def parameter_bytes() -> tuple[float, float, float]:
    """Return the bytes of all parameters, of the matrices among them, and of the embedding, which the head is as large as."""
    model = gpt.resolve(MODEL, vocab_size=VOCAB, backend="cpu")
    leaves = jax.tree.leaves(jax.eval_shape(lambda: gpt.init(model, jax.random.key(0))))
    norms = sum(leaf.size for leaf in leaves if leaf.ndim == 1 or leaf.shape == (MODEL.num_layers, MODEL.embed_dim))
    whole = sum(leaf.size for leaf in leaves)
    return 4.0 * whole, 4.0 * (whole - norms), 4.0 * VOCAB * MODEL.embed_dim


ALL, MATRICES, TABLE = parameter_bytes()
NORMS = ALL - MATRICES
TOKENS = ROWS * MODEL.context_length
STREAM = 4.0 * TOKENS * MODEL.embed_dim
# A layer's sums over `tensor`: forward what attention and MLP give, backward what q, k, v and the MLP's input send back. Beside
# the layers: the rows of the embedding, and what the head sends back; of the loss three numbers a token.
SUMS = (6 * MODEL.num_layers + 2) * STREAM + 3 * 4 * TOKENS
SMALL = 4096  # bytes: numbers beside the arrays; the smallest matrix has four times as many
ROWS_CUT = dict(fsdp=2, context=2, tensor=2)


@needs_eight
@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (dict(data=8), {("all-reduce", "data"): 2 * 7 / 8 * ALL}),  # gradients
        (dict(slice=8), {("all-reduce", "slice"): 2 * 7 / 8 * ALL}),
        (dict(slice=2, data=4), {("all-reduce", "slice data"): 2 * 7 / 8 * ALL}),
        # every matrix once, where it is used; XLA:CPU sums gradients whole, TPUs and GPUs scatter them
        (dict(fsdp=8), {("all-gather", "fsdp"): 7 / 8 * MATRICES, ("all-reduce", "fsdp"): 2 * 7 / 8 * ALL}),
        (
            dict(data=2, fsdp=4),  # copies sum the shards of their gradients
            {
                ("all-gather", "fsdp"): 3 / 4 * MATRICES,
                ("all-reduce", "fsdp"): 2 * 3 / 4 * ALL,
                ("all-reduce", "data"): 2 / 2 * (MATRICES / 4 + NORMS),
            },
        ),
        (
            dict(context=8),  # keys and values, forward and backward, and their gradients
            {
                ("all-gather", "context"): 7 / 8 * MODEL.num_layers * 2 * 2 * KEYS,
                ("reduce-scatter", "context"): 7 / 8 * MODEL.num_layers * 2 * KEYS,
                ("all-reduce", "context"): 2 * 7 / 8 * ALL,
            },
        ),
        (dict(tensor=8), {("all-reduce", "tensor"): 2 * 7 / 8 * SUMS}),
        (
            dict(data=2, fsdp=2, tensor=2),
            {
                ("all-gather", "fsdp"): 1 / 2 * MATRICES / 2,
                ("all-reduce", "fsdp"): 2 / 2 * (MATRICES / 2 + NORMS),
                ("all-reduce", "data"): 2 / 2 * (MATRICES / 4 + NORMS),
                ("all-reduce", "tensor"): 2 / 2 * SUMS / 4,  # of the rows of a device
            },
        ),
        (
            ROWS_CUT,
            {
                ("all-gather", "fsdp"): 1 / 2 * MATRICES / 2,
                ("all-gather", "context"): 1 / 2 * MODEL.num_layers * 2 * 2 * KEYS / 4,
                ("reduce-scatter", "context"): 1 / 2 * MODEL.num_layers * 2 * KEYS / 4,
                ("all-reduce", "tensor"): 2 / 2 * SUMS / 4,
                ("all-reduce", "fsdp context"): 2 * 3 / 4 * (MATRICES - TABLE) / 2,
                ("all-reduce", "fsdp"): 2 / 2 * TABLE / 2,  # one of the tables over one axis after the other
                ("all-reduce", "context"): 2 / 2 * TABLE / 2,
            },
        ),
    ],
    ids=lambda value: " ".join(value) if all(isinstance(key, str) for key in value) else "bytes",
)
def test_a_step_exchanges_what_its_mesh_must_and_nothing_else(shape: dict, expected: dict) -> None:
    """To the matrix: no row, no logit and no weight goes anywhere beside what arithmetic says."""
    assert sent(planned(**shape)) == pytest.approx(expected, abs=SMALL)


def sent(step: Step) -> dict[tuple[str, str], float]:
    """Return (kind, axes) -> bytes."""
    found: dict[tuple[str, str], float] = {}
    for each in step.collectives:
        key = each.kind, " ".join(each.axes)
        found[key] = found.get(key, 0.0) + each.sent
    return found


@needs_eight
def test_targets_are_picked_where_their_rows_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "TARGETS_STEP", 8)
    mesh = dict(data=2, fsdp=2, tensor=2)
    whole, picked = sent(planned(**mesh)), sent(planned(limits=RowLimits(targets=7), **mesh))
    tensor = "all-reduce", "tensor"
    head = (STREAM + 3 * 4 * TOKENS) / 4  # of the rows of a device; a quarter of it where 8 targets of 32 are picked
    assert picked == pytest.approx(whole | {tensor: whole[tensor] - 3 / 4 * head}, abs=SMALL)


@needs_eight
@pytest.mark.parametrize("reduction", ["float32", "bfloat16"])
def test_micro_batches_cross_slices_once_a_step_in_the_type_that_is_asked_for(reduction: Any) -> None:
    train = replace(CONFIG.train, accumulation_steps=4)
    config = replace(CONFIG, train=train, mesh=MeshConfig(slice=2, data=2, fsdp=2, slice_reduction=reduction))
    model = gpt.resolve(MODEL, vocab_size=VOCAB, backend="cpu")
    found = compile_step(config, model, jax.devices()).collectives
    between = sum(each.sent for each in found if "slice" in each.axes)
    shard = MATRICES / 2 + NORMS
    if reduction == "float32":  # over slices and data together, once
        assert between == pytest.approx(2 * 3 / 4 * shard, abs=SMALL)
    else:  # first over data, in f32; XLA:CPU sums bfloat16 in f32 as well, TPUs do not (test_tpu.py)
        assert between == pytest.approx(2 / 2 * shard, abs=SMALL)
    within = sum(each.sent for each in found if each.axes == ("fsdp",) and each.kind == "all-reduce")
    assert within == pytest.approx(4 * 2 / 2 * ALL, rel=0.01)  # every micro-batch


@needs_eight
def test_rows_that_are_cut_exchange_keys_and_values_alone() -> None:
    """Per layer, forward and backward gather keys and values; the backward pass scatters their gradients."""
    step = planned(context=8)
    sent = {each.kind: each.sent for each in step.collectives}
    assert sent["all-gather"] == MODEL.num_layers * 2 * 2 * KEYS * 7 / 8
    assert sent["reduce-scatter"] == MODEL.num_layers * 2 * KEYS * 7 / 8


@pytest.mark.slow
@needs_eight
def test_muon_leaves_experts_where_they_are() -> None:
    mixture = replace(MODEL, num_experts=8)
    config = replace(CONFIG, model=mixture, mesh=MeshConfig(data=1, expert=8), optim=OptimConfig(warmup_steps=1))
    step = compile_step(config, gpt.resolve(mixture, vocab_size=VOCAB, backend="cpu"), jax.devices())
    assert {each.kind for each in step.collectives} == {"all-to-all", "all-reduce"}


@pytest.mark.slow
@needs_eight
def test_tokens_go_to_their_experts_and_back_and_nothing_of_experts_is_gathered() -> None:
    """Per layer: tokens there and back, forward and backward, with the numbers of their experts; experts stay in place."""
    mixture = replace(MODEL, num_experts=8)
    one, step = planned(mixture), planned(mixture, expert=8)
    assert {each.kind for each in step.collectives} == {"all-to-all", "all-reduce"}
    places = ROWS * MODEL.context_length // 8 * min(mixture.experts_per_token, 8 // 8)  # for the tokens of one device
    token = 8 * places * MODEL.embed_dim * 4 * 7 / 8
    sent = sum(each.sent for each in step.collectives if each.kind == "all-to-all")
    assert sent == MODEL.num_layers * (4 * token + 8 * places * 4 * 7 / 8)
    assert step.memory.parameters < one.memory.parameters / 3.5  # attention, embedding and head are whole on each


@needs_eight
def test_bytes_on_each_device_fall_as_they_should() -> None:
    one, fsdp, tensor, context = planned(), planned(fsdp=8), planned(tensor=8), planned(context=8)
    for split in (fsdp, tensor):
        assert split.memory.parameters < one.memory.parameters / 7  # norms are whole on each
        assert split.memory.optimizer < one.memory.optimizer / 7
    assert fsdp.memory.batch == one.memory.batch / 8 and tensor.memory.batch == one.memory.batch
    assert fsdp.memory.activations < one.memory.activations / 4  # rows are split, gathered weights are not
    assert context.memory.batch == one.memory.batch  # a few bytes a token, whole on every device
    assert context.memory.activations < one.memory.activations / 4  # rows are cut, the keys of one layer are not
    data = planned(data=8)
    assert data.memory.parameters == one.memory.parameters and data.memory.activations < one.memory.activations / 4
    assert one.collectives == [] and np.isclose(one.flops, fsdp.flops)


@pytest.mark.slow
def test_bytes_fall_where_axes_meet() -> None:
    """A slice is a copy; within it fsdp and tensor both split matrices, and context the activations."""
    one, alone = planned(), planned(slice=8)
    assert alone.memory.parameters == one.memory.parameters and alone.memory.batch == one.memory.batch / 8
    assert alone.memory.activations < one.memory.activations / 4
    for mesh, share in (
        (dict(slice=2, fsdp=2, tensor=2), 4),
        (dict(fsdp=2, context=2, tensor=2), 4),
        (dict(data=2, fsdp=4), 4),
    ):
        split = planned(**mesh)
        assert one.memory.parameters / share <= split.memory.parameters < 1.1 * one.memory.parameters / share, mesh
        assert one.memory.optimizer / share <= split.memory.optimizer < 1.1 * one.memory.optimizer / share, mesh
        assert split.memory.activations < one.memory.activations / 3, mesh
