"""Collectives read off HLO: kind, axes, bytes and loops; and what the train step exchanges on each mesh, no more."""

import math
from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jgpt import presets, sharding
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


def planned(model: ModelConfig = MODEL, **mesh: int) -> Step:
    config = replace(CONFIG, model=model, mesh=MeshConfig(**{"data": 1} | mesh))
    model = gpt.resolve(model, vocab_size=VOCAB, backend="cpu")
    return compile_step(config, model, jax.devices()[: math.prod(mesh.values())])


def weights() -> list[int]:
    """Return the bytes of every parameter, one layer's where they are stacked."""
    model = gpt.resolve(MODEL, vocab_size=VOCAB, backend="cpu")
    shapes = jax.eval_shape(lambda: gpt.init(model, jax.random.key(0)))
    stacked = jax.tree.leaves(shapes["blocks"])
    return [math.prod(leaf.shape[1:]) * 4 for leaf in stacked] + [
        math.prod(leaf.shape) * 4 for name in ("embedding", "head") for leaf in jax.tree.leaves(shapes[name])
    ]


@needs_eight
@pytest.mark.parametrize(
    ("shape", "kinds"),
    [
        (dict(data=8), {"all-reduce"}),  # gradients, loss
        (dict(slice=2, data=4), {"all-reduce"}),
        (dict(fsdp=8), {"all-gather", "all-reduce", "reduce-scatter"}),  # weights where they are used; gradients
        (
            dict(context=8),
            {"all-gather", "all-reduce", "reduce-scatter"},
        ),  # keys and values; their gradients, all gradients
        (dict(tensor=8), {"all-reduce", "all-gather", "collective-permute", "all-to-all"}),
        (
            dict(data=2, fsdp=2, tensor=2),
            {"all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all"},
        ),
        (
            dict(fsdp=2, context=2, tensor=2),
            {"all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all"},
        ),
    ],
    ids=["data", "slices", "fsdp", "context", "tensor", "all", "all that cut"],
)
def test_a_step_exchanges_weights_and_gradients_but_no_rows_and_no_logits(shape: dict, kinds: set) -> None:
    """No array that is made by a collective is larger than a weight; a whole batch's activations or logits would be."""
    step = planned(**shape)
    assert {each.kind for each in step.collectives} <= kinds
    stream = ROWS * MODEL.context_length * MODEL.embed_dim * 4
    assert max(weights()) < stream < ROWS * MODEL.context_length * VOCAB * 4
    moved = [each for each in step.collectives if each.kind not in ("all-reduce", "reduce-scatter")]  # these are sums
    keys = KEYS // shape.get("fsdp", 1) // shape.get("tensor", 1)  # or values, of the rows that a device computes
    assert all(each.largest <= (keys if each.axes == ("context",) else max(weights())) for each in moved), moved
    if shape == dict(data=8):
        sent = sum(each.sent for each in step.collectives)
        everything = step.memory.parameters
        assert 2 * everything * 7 / 8 <= sent <= 1.05 * 2 * everything * 7 / 8 + 1000


@needs_eight
def test_rows_that_are_cut_exchange_keys_and_values_alone() -> None:
    """Per layer, forward and backward gather keys and values; the backward pass scatters their gradients."""
    step = planned(context=8)
    sent = {each.kind: each.sent for each in step.collectives}
    assert sent["all-gather"] == MODEL.num_layers * 2 * 2 * KEYS * 7 / 8
    assert sent["reduce-scatter"] == MODEL.num_layers * 2 * KEYS * 7 / 8


@needs_eight
def test_muon_leaves_experts_where_they_are() -> None:
    mixture = replace(MODEL, num_experts=8)
    config = replace(CONFIG, model=mixture, mesh=MeshConfig(data=1, expert=8), optim=OptimConfig(warmup_steps=1))
    step = compile_step(config, gpt.resolve(mixture, vocab_size=VOCAB, backend="cpu"), jax.devices())
    assert {each.kind for each in step.collectives} == {"all-to-all", "all-reduce"}


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
