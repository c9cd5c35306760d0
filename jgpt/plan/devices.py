"""What is known of devices: memory, arithmetic, and how fast bytes move. The constants that a plan rests on.

Owns the table and the names by which users ask for machines. Imports no jax.
"""

import math
import os
from dataclasses import dataclass
from typing import Final

from jgpt.check import require, unknown_name

GIB: Final = 2**30


@dataclass(frozen=True)
class Device:
    """One device as jax counts them.

    Attributes:
        name: as in `--device`.
        memory: bytes.
        flops: dense bf16 products [FLOP/s].
        bandwidth: of its memory [bytes/s].
        link: what a device takes in along one dimension of the network, both directions of a ring together [bytes/s].
        network: what it takes in from other hosts, or from other slices of TPUs [bytes/s]; None = not known.
        platform: of jax.
        source: of the numbers.
        per_chip: devices of a chip; layouts count chips.
        reached: shares of flops and bandwidth that large products and simple kernels were seen to reach.
        launch: that a kernel takes at least [s].
        cache: bytes up to which what a kernel touches comes from a cache.
        cache_bandwidth: of that cache [bytes/s]; 0 = there is none.
    """

    name: str
    memory: float
    flops: float
    bandwidth: float
    link: float
    network: float | None
    platform: str
    source: str
    per_chip: int = 1
    reached: tuple[float, float] = (1.0, 1.0)
    launch: float = 0.0
    cache: float = 0.0
    cache_bandwidth: float = 0.0


# Of an H200, read off one step's profile (bench/results/nvidia-h200/explored.json): GPT-2's head ran at 790 TFLOP/s, the
# largest kernel that only moves bytes at 4.0 TB/s, the smallest kernels of a captured graph took about 2 microseconds.
HOPPER_REACHED: Final = (0.8, 0.84)
HOPPER_LAUNCH: Final = 2e-6

LAYOUTS: Final = {  # that are rented, to name; libtpu 0.0.52 compiles for more
    "v5e": "2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16",
    "v6e": "2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16",
    "v5p": "2x2x1, 2x2x2, 2x2x4, 2x4x4, 4x4x4, 4x4x8, 4x8x8, 8x8x8, 8x8x16",
    "tpu7x": "2x2x1, 2x2x2, 2x2x4, 2x4x4, 4x4x4, 4x4x8, 4x8x8, 8x8x8, 8x8x16",
}

# Vendors' pages, read in November 2026. ICI per chip is given there in both directions over all links (4 in a 2-D torus, 6
# in a 3-D one): a dimension of the torus is two links, and a device takes in half of what they carry. Of the data centre's
# network the pages say 6.4 and 25.6 Tb/s for a pod of 256 v5e and v6e, and 50 Gb/s a chip for v5p.
DEVICES: Final = {
    d.name: d
    for d in (
        Device("v5e", 16 * GIB, 197e12, 819e9, 100e9, 3.125e9, "tpu", "cloud.google.com/tpu/docs/v5e: 400 GB/s ICI, DCN"),
        Device("v5p", 95 * GIB, 459e12, 2765e9, 200e9, 6.25e9, "tpu", "cloud.google.com/tpu/docs/v5p: 1200 GB/s ICI, DCN"),
        Device("v6e", 32 * GIB, 918e12, 1638e9, 200e9, 12.5e9, "tpu", "cloud.google.com/tpu/docs/v6e: 800 GB/s ICI, DCN"),
        Device(
            "tpu7x", 96 * GIB, 1153.5e12, 3690e9, 100e9, None, "tpu",
            "docs.cloud.google.com/tpu/docs/tpu7x: 192 GiB, 2307 TFLOP/s, 7380 GB/s and 1200 GB/s ICI a chip of two devices", 2,
        ),
        Device(
            "h100", 80e9, 989e12, 3350e9, 450e9, 50e9, "gpu", "H100 SXM data sheet: NVLink 900 GB/s; 400 Gb/s beyond",
            reached=HOPPER_REACHED, launch=HOPPER_LAUNCH,
        ),
        Device(
            "h200", 141e9, 989e12, 4800e9, 450e9, 50e9, "gpu", "H200 SXM data sheet: NVLink 900 GB/s; 400 Gb/s beyond",
            reached=HOPPER_REACHED, launch=HOPPER_LAUNCH,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """Devices of one kind, and how they are laid out.

    Attributes:
        device: each of them.
        shape: of the torus, or (devices,) where each reaches each alike.
        slices: such layouts, with the slow network between them.
    """

    device: Device
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def size(self) -> int:
        """Devices in all."""
        return math.prod(self.shape) * self.device.per_chip * self.slices

    @property
    def usable(self) -> float:
        """Bytes of a device that a program may take: jax takes a share of a GPU's at the start, and lends from it."""
        share = (
            float(os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.75")) if self.device.platform == "gpu" else 1.0
        )
        return share * self.device.memory

    @property
    def name(self) -> str:
        """The machine in words."""
        one = f"{self.device.name} {self.topology}"
        return one if self.slices == 1 else f"{self.slices} slices of {one}"

    @property
    def topology(self) -> str:
        """The layout as it is written, "16x16"."""
        return "x".join(map(str, self.shape))


def parse(text: str, slices: int = 1) -> Machine:
    """Return what `--device` names: v5e:16x16, v5p:8x8x8, h100x8. `this` is the caller's business.

    Args:
        text: as the user wrote it.
        slices: of TPUs, each laid out so.

    Raises:
        ValueError: the kind is not known, the layout is no list of numbers, or several slices cannot be planned.
    """
    name, separator, layout = text.partition(":")
    if not separator:
        name, _, layout = text.rpartition("x")
    if name not in DEVICES:
        known = [
            f"{d.name}:{LAYOUTS[d.name].split(', ')[2]}" if d.platform == "tpu" else f"{d.name}x8"
            for d in DEVICES.values()
        ]
        raise ValueError(unknown_name("device", text, [*known, "this"]))
    sizes = layout.split("x")
    require(
        all(size.isdecimal() and int(size) > 0 for size in sizes),
        f"--device {text!r}: the layout must be numbers, such as v5e:16x16, v5p:4x4x4 or h100x8.",
    )
    shape = tuple(map(int, sizes))
    device = DEVICES[name]
    dimensions = {"v5e": 2, "v6e": 2, "h100": 1, "h200": 1}.get(name, 3)
    require(
        len(shape) == dimensions,
        f"--device {text!r}: {name} has {dimensions} dimension{'s' if dimensions > 1 else ''}, {len(shape)} are given.",
    )
    require(
        slices == 1 or (device.platform == "tpu" and device.network is not None),
        f"--slices is {slices}, and {name} has no slices, or a network between them that is not known: leave it out "
        "(v5e, v5p and v6e have).",
    )
    return Machine(device, shape, slices)
