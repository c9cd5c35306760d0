"""Machines by name: what is understood, and what is refused with the nearest that is known."""

import pytest

from jgpt.plan.devices import DEVICES, parse


@pytest.mark.parametrize(
    ("text", "size", "shape"),
    [("v5e:16x16", 256, (16, 16)), ("v5p:8x8x8", 512, (8, 8, 8)), ("h100x8", 8, (8,)), ("tpu7x:4x4x4", 128, (4, 4, 4))],
)
def test_a_machine_has_its_devices(text: str, size: int, shape: tuple) -> None:
    machine = parse(text)
    assert machine.size == size and machine.shape == shape and text.startswith(machine.device.name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("v5:16x16", "unknown device 'v5:16x16'"),
        ("v5e", "unknown device 'v5e'"),
        ("v5e:16x", "layout must be numbers"),
        ("v5e:4x4x4", "v5e has 2 dimensions, 3 are given"),
        ("h100:8x8", "h100 has 1 dimension, 2 are given"),
        ("h100x0", "layout must be numbers"),
    ],
)
def test_what_is_no_machine_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse(text)


def test_every_constant_has_a_source_and_a_sane_size() -> None:
    for device in DEVICES.values():
        assert device.source and 8e9 < device.memory < 1e12 and 1e14 < device.flops < 1e16
        assert device.link < device.bandwidth < device.flops
