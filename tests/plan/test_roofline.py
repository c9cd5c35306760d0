"""The bounds of a step: each by hand, and which one counts."""

import dataclasses

import pytest

from jgpt.plan.collectives import Collective
from jgpt.plan.compiling import Memory, Step
from jgpt.plan.devices import DEVICES, Machine
from jgpt.plan.roofline import rate, times

V5E = Machine(DEVICES["v5e"], (16, 16))
MESH = {"data": 1, "fsdp": 16, "tensor": 16}


def step(collectives: list[Collective], mesh: dict = MESH, spans: dict | None = None) -> Step:
    memory = Memory(parameters=4e8, optimizer=8e8, gradients=4e8, activations=1e9, batch=1e6, program=0)
    spans = spans or dict.fromkeys(mesh, 1)
    return Step(mesh, memory, 197e12 * 256 * 0.1, 1e14, 1000, collectives, [], spans, 0.0, True, 1.0)


def rate_of(collective: Collective, step: Step, machine: Machine) -> float:
    return rate(collective, step.mesh, step.spans, machine)


def gather(axes: tuple[str, ...], sent: float, devices: int = 16) -> Collective:
    return Collective("all-gather", axes, devices, 1, sent, sent)


def test_each_bound_is_what_it_says() -> None:
    found = times(
        step([gather(("fsdp",), 1e9), gather(("tensor",), 2e9), gather(("fsdp",), 1e9)]), V5E, accumulation_steps=2
    )
    assert found.compute == pytest.approx(0.1)
    traffic = 2 * (4e8 + 8e8) + 2 * 4e8 + 2 * 1e9 + 3 * 2 * 4e8 * 16 / 2
    assert found.memory == pytest.approx(traffic / 819e9)
    assert found.network == {("fsdp",): pytest.approx(0.02), ("tensor",): pytest.approx(0.02)}
    assert found.bound == pytest.approx(0.1) and found.limit == "compute"
    assert found.without_overlap == pytest.approx(0.14)
    slow = times(step([gather(("fsdp",), 5e10)]), V5E, accumulation_steps=1)
    assert slow.limit == "network" and slow.bound == pytest.approx(0.5)
    assert found.expected == found.bound  # without kernels nothing better is known
    assert dataclasses.replace(found, kernels=0.3).expected == pytest.approx(0.34)
    assert dataclasses.replace(found, kernels=0.3, run=0.5).expected == 0.5


def test_a_ring_that_is_not_closed_is_half_as_fast_and_two_dimensions_twice() -> None:
    one = gather(("fsdp",), 1.0)
    assert rate_of(one, step([one]), V5E) == 100e9
    assert rate_of(one, step([one]), Machine(DEVICES["v5e"], (8, 16))) == 50e9
    assert rate_of(one, step([one], spans={"data": 1, "fsdp": 2, "tensor": 1}), V5E) == 200e9
    assert rate_of(one, step([one]), Machine(DEVICES["v5p"], (4, 4, 4))) == 200e9


def test_gpus_meet_over_the_switch_within_a_host_and_over_the_network_beyond() -> None:
    hosts = Machine(DEVICES["h100"], (16,))
    mesh = {"data": 2, "fsdp": 8, "tensor": 1}
    inner, outer = gather(("fsdp",), 1.0, 8), gather(("data",), 1.0, 2)
    assert rate_of(inner, step([], mesh), hosts) == 450e9
    assert rate_of(outer, step([], mesh), hosts) == 50e9
