"""How long a compiled step must take at least: by its arithmetic, its memory's traffic or its network.

Owns the model of time. The largest of the three is a bound that no device beats; a real step takes longer, and where nothing
overlaps, as long as all of them together.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from jgpt.plan.collectives import Collective
from jgpt.plan.compiling import Step
from jgpt.plan.devices import Machine
from jgpt.plan.kernels import seconds


@dataclass(frozen=True)
class Times:
    """Seconds of a step, by what they are spent on.

    Attributes:
        compute: products at the device's peak.
        memory: state, gradients, activations and weights through its memory.
        network: mesh axes -> their collectives.
        kernels: one kernel after the other, at the rates that were seen to be reached; 0 where they are not known.
        run: told from steps that were run, where the machine is here.
    """

    compute: float
    memory: float
    network: dict[tuple[str, ...], float]
    kernels: float = 0.0
    run: float | None = None

    @property
    def bound(self) -> float:
        """At least this."""
        return max(self.compute, self.memory, sum(self.network.values()))

    @property
    def without_overlap(self) -> float:
        """If products and exchanges wait for each other."""
        return max(self.compute, self.memory) + sum(self.network.values())

    @property
    def expected(self) -> float:
        """As steps of it ran; else one kernel after the other, then the network, and not below the bound."""
        return self.run if self.run is not None else max(self.bound, self.kernels + sum(self.network.values()))

    @property
    def limit(self) -> str:
        """What the bound comes from."""
        parts = {"compute": self.compute, "memory": self.memory, "network": sum(self.network.values())}
        return max(parts, key=lambda name: parts[name])


def times(step: Step, machine: Machine, *, accumulation_steps: int) -> Times:
    """Return the bounds of a step.

    Memory: the optimizer reads and writes parameters and moments once and reads gradients, which were written once; what is
    temporary is written and read once; every micro-batch reads the weights that a device multiplies by three times, in bf16
    on accelerators: forward, and for the two products of the backward pass.

    Args:
        step: compiled.
        machine: that it runs on.
        accumulation_steps: micro-batches.
    """
    device, memory = machine.device, step.memory
    state = memory.parameters + memory.optimizer
    weights = memory.parameters * step.mesh.get("fsdp", 1) * (1.0 if device.platform == "cpu" else 0.5)
    traffic = 2 * state + 2 * memory.gradients + 2 * memory.activations + 3 * accumulation_steps * weights
    exchanged = network(step.collectives, step.mesh, step.spans, machine)
    run = seconds(step.kernels, device)
    return Times(step.flops / machine.size / device.flops, traffic / device.bandwidth, exchanged, run)


def network(
    found: list[Collective], mesh: Mapping[str, int], spans: Mapping[str, int], machine: Machine
) -> dict[tuple[str, ...], float]:
    """Return the seconds of collectives by the mesh axes that they run over.

    Args:
        found: of one execution.
        mesh: axis -> devices.
        spans: mesh axis -> dimensions of the network that it lies along.
        machine: whose network it is.
    """
    out: dict[tuple[str, ...], float] = {}
    for collective in found:
        taken = collective.sent / rate(collective, mesh, spans, machine)
        out[collective.axes] = out.get(collective.axes, 0.0) + taken
    return out


def rate(collective: Collective, mesh: Mapping[str, int], spans: Mapping[str, int], machine: Machine) -> float:
    """Return the bytes per second that a device takes in during a collective.

    On a torus: a ring along each dimension that its mesh axes span; half where the ring is not closed, since then bytes
    come from one side only. Between slices: over the data centre's network. On GPUs: within a host of 8 over its switch,
    beyond over the hosts' network.
    """
    device = machine.device
    if device.platform != "tpu":
        inside = 8 if machine.size > 8 else machine.size
        near = device.network is None or (collective.devices <= inside and _inner(collective, mesh, inside))
        return device.link if near else device.network or device.link
    if "slice" in collective.axes and machine.slices > 1:
        return device.network or device.link
    dimensions = max(1, min(len(machine.shape), sum(spans.get(axis, 1) for axis in collective.axes)))
    closed = min(machine.shape) >= (16 if len(machine.shape) == 2 else 4)
    return device.link * dimensions * (1.0 if closed else 0.5)


def _inner(collective: Collective, mesh: Mapping[str, int], inside: int) -> bool:
    """Return whether the axes of a collective are the last ones of the mesh, which lie within a host."""
    stride = 1
    for axis in reversed(list(mesh)):
        if stride * mesh[axis] > inside and axis in collective.axes:
            return False
        stride *= mesh[axis]
    return True
