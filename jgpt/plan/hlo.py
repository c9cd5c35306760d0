"""Reading compiled programs as text: computations, what calls what, how often loops turn, shapes.

Owns the grammar of HLO that both `collectives` and `kernels` read. Imports no jax: HLO is text.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

BYTES: Final = {
    "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4,
    "f64": 8, "s64": 8, "u64": 8, "c64": 8, "c128": 16, "token": 0,
}  # fmt: skip

RUNS_KERNELS: Final = ("while", "conditional", "call", "async-start", "fusion-start")

_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_LINE = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLS = re.compile(r"(?:calls|to_apply|body|(?:branch|called|true|false)_computations?)=(\{[^}]*\}|%?[\w.\-]+)")
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_CONSTANT = re.compile(r"= s32\[\]\S* constant\((\d+)\)")


class Line(NamedTuple):
    """One instruction.

    Attributes:
        name: of its result.
        shape: as it is written, "f32[2,3]{1,0}" or a tuple of such.
        operation: "dot", "fusion".
        rest: operands and attributes, as they are written.
    """

    name: str
    shape: str
    operation: str
    rest: str


def parse(line: str) -> Line | None:
    """Return a line as an instruction, None where it is none."""
    match = _LINE.match(line)
    return Line(*match.group(1, 2, 3, 4)) if match else None


def arrays(shape: str) -> list[tuple[str, tuple[int, ...]]]:
    """Return (type, dimensions) of each array in a shape."""
    return [(kind, tuple(int(n) for n in dims.split(",") if n)) for kind, dims in _ARRAY.findall(shape)]


def sizes(shape: str) -> list[float]:
    """Return the bytes of each array in a shape; 8-bit floats have many names."""
    return [math.prod(dims) * BYTES.get(kind, 1.0) for kind, dims in arrays(shape)]


def computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    """Return the lines of each computation, and the name of the entry."""
    bodies: dict[str, list[str]] = {}
    entry, current = "", None
    for line in hlo.splitlines():
        head = _HEAD.match(line)
        if head and not line.startswith(" ") and not line.startswith("HloModule"):
            current = head.group(1)
            bodies[current] = []
            entry = current if line.startswith("ENTRY") else entry
        elif line.startswith("}"):
            current = None
        elif current is not None:
            bodies[current].append(line)
    return bodies, entry


def executions(bodies: Mapping[str, list[str]], entry: str, *, fusions: bool) -> dict[str, int]:
    """Return how often each computation runs in one execution of the program.

    Args:
        bodies: from `computations`.
        entry: likewise.
        fusions: also follow what kernels are made of; else only what runs kernels (loops, branches, calls).
    """
    turns: dict[str, int] = defaultdict(int)

    def visit(name: str, times: int) -> None:
        turns[name] += times
        for line in bodies.get(name, ()):
            if not fusions and not any(f" {word}(" in line for word in RUNS_KERNELS):
                continue
            turning = _turns(line, bodies)
            for called in called_by(line):
                if called in bodies:
                    visit(called, times * turning)

    visit(entry, 1)
    return turns


def called_by(line: str) -> Iterator[str]:
    """Yield the computations that a line runs."""
    for group in _CALLS.findall(line):
        yield from re.findall(r"[\w.\-]+", group)


def _turns(line: str, bodies: Mapping[str, list[str]]) -> int:
    """Return how often a loop's body runs; 1 for what is no loop, or ends by what it computes.

    XLA:CPU and XLA:GPU write it beside the loop. XLA:TPU does not; there the condition compares the counter of a scan, which
    starts at 0, with its only constant.
    """
    if " while(" not in line:
        return 1
    if written := _TURNS.search(line):
        return int(written.group(1))
    condition = _CONDITION.search(line)
    body = bodies.get(condition.group(1), []) if condition else []
    constants = [int(n) for each in body for n in _CONSTANT.findall(each)]
    return constants[0] if len(constants) == 1 and any("direction=LT" in each for each in body) else 1
