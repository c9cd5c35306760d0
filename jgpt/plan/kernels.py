"""What a compiled program's kernels compute and move, one by one, and how long they take together at a device's rates.

Owns the cost of a kernel: its products' FLOPs, and the bytes that it reads and writes in the device's memory. Each kernel takes
as long as the larger of the two, and kernels follow one another: so sums come out longer than `roofline`'s bound, which lets
everything overlap. On a CPU small arrays come from its caches, elsewhere all are counted as if they came from memory.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from jgpt.plan import hlo
from jgpt.plan.collectives import KINDS
from jgpt.plan.devices import Device

# instructions that run nothing of their own
FREE: Final = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all", "iota",
    "opt-barrier", "optimization-barrier", "partition-id", "replica-id", "async-start", "fusion-start",
}  # fmt: skip
SLICES: Final = {"dynamic-slice", "slice", "gather"}  # read what they return of their first operand
FORWARD_PRODUCTS: Final = 2  # of attention, each 2 FLOPs a score and channel
# cuDNN reached a quarter of the peak of an H200: 1.07 ms forward and 3.46 backward for 12 layers of 16 x 1,024 tokens, 12 heads
# of 64 (bench/results/nvidia-h200/explored.json); its work is counted as so much more of products at their rate.
ATTENTION_SHARE: Final = 0.25 / 0.8
BACKWARD_PRODUCTS: Final = 5  # the scores once more, and four gradients; Dao 2023, FlashAttention-2, section 3.1

_OPERAND = re.compile(r"%([\w.\-]+)")
_CONTRACTED = re.compile(r"lhs_contracting_dim(?:s=\{|ensions\":\[)([\d,\"]*)[\]}]")
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")


@dataclass(frozen=True)
class Kernel:
    """A kernel of one execution of the program.

    Attributes:
        operation: "fusion", "dot", the target of a custom call.
        times: executions.
        flops: of its products, once.
        bytes: that it reads and writes, once.
        share: of the rate of products at which its FLOPs run.
    """

    operation: str
    times: int
    flops: float
    bytes: float
    share: float = 1.0


def kernels(text: str) -> list[Kernel]:
    """Return the kernels of a program in its optimised text; collectives are `collectives`'."""
    bodies, entry = hlo.computations(text)
    parsed = {name: [line for raw in lines if (line := hlo.parse(raw))] for name, lines in bodies.items()}
    found = []
    for name, times in hlo.executions(bodies, entry, fusions=False).items():
        shapes = {line.name: line.shape for line in parsed[name]}
        for line in parsed[name]:
            kind = line.operation.removesuffix("-start")
            if line.operation in FREE or kind in KINDS or line.operation.endswith("-done"):
                continue
            called = [c for c in hlo.called_by(line.rest) if c in parsed] if line.operation == "fusion" else []
            inner = parsed[called[0]] if called else None
            flops = _flops(line, shapes) if inner is None else _flops_within(inner)
            target = re.search(r'custom_call_target="([^"]*)"', line.rest)
            moved = _moved(line, shapes, inner)
            name_of = target.group(1) if target else line.operation
            share = ATTENTION_SHARE if name_of.startswith("__cudnn$fmha") else 1.0
            found.append(Kernel(name_of, times, flops, moved, share))
    return found


def seconds(found: list[Kernel], device: Device) -> float:
    """Return how long kernels take on a device, one after the other, at the rates that it was seen to reach."""
    flops, bandwidth = device.reached[0] * device.flops, device.reached[1] * device.bandwidth

    def one(k: Kernel) -> float:
        moving = k.bytes / (device.cache_bandwidth if 0 < k.bytes <= device.cache else bandwidth)
        return max(k.flops / k.share / flops, moving, device.launch)

    return math.fsum(k.times * one(k) for k in found)


def _operands(line: hlo.Line) -> list[str]:
    return _OPERAND.findall(line.rest.split("), ")[0])


def _moved(line: hlo.Line, shapes: Mapping[str, str], inner: list[hlo.Line] | None) -> float:
    """Return the bytes that a kernel reads and writes."""
    operands = _operands(line)
    read = [sum(hlo.sizes(shapes.get(operand, ""))) for operand in operands]
    made = sum(hlo.sizes(line.shape))
    if inner is None:
        if line.operation in SLICES:
            return 2 * made
        if line.operation == "dynamic-update-slice":
            return 2 * read[1]
        return made + sum(read)
    own = {each.name: each.shape for each in inner}
    place = {each.name: int(each.rest.split(")")[0]) for each in inner if each.operation == "parameter"}
    same = dict(zip(place, place, strict=True))  # a result that is a parameter in another form -> the parameter
    uses: dict[str, list[hlo.Line]] = {name: [] for name in place}
    for each in inner:
        took = _operands(each)
        if each.operation == "bitcast" and took and took[0] in same:
            same[each.name] = same[took[0]]
            continue
        for operand in took:
            if operand in same:
                uses[same[operand]].append(each)
    for name, number in place.items():
        if number >= len(read) or not uses[name]:
            continue
        if all(each.operation in SLICES and same.get(_operands(each)[0]) == name for each in uses[name]):
            read[number] = min(read[number], sum(sum(hlo.sizes(each.shape)) for each in uses[name]))
        elif all(
            each.operation == "dynamic-update-slice" and same.get(_operands(each)[0]) == name for each in uses[name]
        ):
            updates = sum(sum(hlo.sizes(own.get(_operands(each)[1], ""))) for each in uses[name])
            made, read[number] = made - read[number] + updates, 0.0  # written in place
    return max(made, 0.0) + sum(read)


def _flops_within(inner: list[hlo.Line]) -> float:
    shapes = {each.name: each.shape for each in inner}
    return sum(_flops(each, shapes) for each in inner)


def _flops(line: hlo.Line, shapes: Mapping[str, str]) -> float:
    """Return the FLOPs of a product, 0 of what is none."""
    if line.operation not in ("dot", "convolution", "custom-call"):
        return 0.0
    made = [dims for kind, dims in hlo.arrays(line.shape) if kind not in ("u8", "s8")]
    sides = [dims for name in _operands(line)[:2] for _, dims in hlo.arrays(shapes.get(name, ""))[:1]]
    if not made or len(sides) < 2:
        return 0.0
    if '"__cudnn$fmha' in line.rest:
        return _attention(line.rest, *sides)
    if line.operation == "convolution":  # how XLA:TPU writes products
        labels = _LABELS.search(line.rest)
        return 2.0 * math.prod(made[0]) * (sides[1][labels.group(2).index("i")] if labels else 1)
    contracted = _CONTRACTED.search(line.rest)
    if contracted is None:
        return 0.0
    axes = [int(n) for n in contracted.group(1).replace('"', "").split(",") if n]
    return 2.0 * math.prod(made[0]) * math.prod(sides[0][axis] for axis in axes)


def _attention(rest: str, query: tuple[int, ...], key: tuple[int, ...]) -> float:
    """Return the FLOPs of cuDNN's attention, whose operands lie [B S H K]; half of them where it is causal."""
    B, S, H, K = query
    products = BACKWARD_PRODUCTS if "Backward" in rest else FORWARD_PRODUCTS
    seen = 0.5 if "CAUSAL" in rest else 1.0
    return products * 2.0 * B * H * S * key[1] * K * seen


def to_json(found: list[Kernel]) -> list[dict[str, Any]]:
    """Return kernels of one operation together, those that move most first."""
    out: dict[str, dict[str, Any]] = {}
    for k in found:
        one = out.setdefault(k.operation, {"operation": k.operation, "times": 0, "flops": 0.0, "bytes": 0.0})
        one["times"] += k.times
        one["flops"] += k.times * k.flops
        one["bytes"] += k.times * k.bytes
    return sorted(out.values(), key=lambda one: -one["bytes"])
