"""Where the time of a training step goes: jgpt's gpt2 preset at the sizes of train.py, by a profile.

    python bench/where.py                       # sizes for this device, results in bench/results/
    python bench/where.py --sizes small --rounds 40

Each moment of a step is divided among the instructions that run in it; loops and calls are assumed absent, since they would be
counted beside what they run. Products that XLA:CPU leaves to Eigen are seen only while they are started: what they take
beside others goes to those, and alone to "not seen", as do the moments between two steps.
"""

import gzip
import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

from harness import Worker, arguments, publish, say

from jgpt.plan import hlo
from train import ON, SIZES, Size, prepared, settings

PRODUCTS: Final = ("dot", "custom-call")
# Parts of the model by what their operations are called, the first that fits.
PARTS: Final = {
    "norms": r"norm\b",
    "projections of attention": r"attention/(query|key|value|out)\b",
    "attention": r"\battention\b",
    "MLP": r"\bmlp\b",
}
OTHER: Final = "embedding, loss, optimizer"
UNSEEN: Final = "not seen"


class Event(NamedTuple):
    """One run of one instruction [microseconds]."""

    instruction: str
    begin: float
    end: float


def events(folder: Path) -> list[Event]:
    """Return what ran, from the one trace under a folder."""
    (path,) = folder.rglob("*.trace.json.gz")
    with gzip.open(path) as trace:
        seen = [e for e in json.load(trace)["traceEvents"] if e.get("ph") == "X" and "hlo_op" in e.get("args", {})]
    return [Event(e["args"]["hlo_op"], e["ts"], e["ts"] + e["dur"]) for e in seen]


def shares(ran: Iterable[Event]) -> tuple[dict[str, float], float]:
    """Return the microseconds of each instruction, each moment divided among those that run, and those in which any does.

    Worked example, a from 0 to 4 and b from 2 to 6: a has 3, b has 3, any 6.
    """
    edges = sorted([(e.begin, 1, e.instruction) for e in ran] + [(e.end, -1, e.instruction) for e in ran])
    running: dict[str, int] = defaultdict(int)
    out: dict[str, float] = defaultdict(float)
    last, total = 0.0, 0.0
    for at, change, instruction in edges:
        count = sum(running.values())
        if count:
            total += at - last
            for name, times in running.items():
                out[name] += (at - last) * times / count
        last = at
        running[instruction] += change
        if not running[instruction]:
            del running[instruction]
    return dict(out), total


def parts(text: str) -> dict[str, str]:
    """Return, of each instruction of a compiled program, the part of the model that it belongs to and what it does there.

    What a kernel multiplies says more of it than what it does behind.
    """
    bodies, _ = hlo.computations(text)
    multiplies = {name: next(filter(_is_product, map(hlo.parse, body)), None) for name, body in bodies.items()}
    out = {}
    for line in text.splitlines():
        found = hlo.parse(line)
        if found is None:
            continue
        inside = next((multiplies[name] for name in hlo.called_by(line) if multiplies.get(name)), None)
        product = found if _is_product(found) else inside
        what = _source(product or found)
        part = next((part for part, pattern in PARTS.items() if re.search(pattern, what)), OTHER)
        way = "backward" if "transpose(" in what else "forward"
        out[found.name] = OTHER if part == OTHER else f"{part}, {way}, {'products' if product else 'the rest'}"
    return out


def _is_product(line: hlo.Line | None) -> bool:
    return line is not None and line.operation in PRODUCTS


def _source(line: hlo.Line) -> str:
    """Return the path of the operation in the model that an instruction comes from, empty where it does not say."""
    name = re.search(r'op_name="([^"]*)"', line.rest)
    return name.group(1) if name else ""


def table(ran: list[Event], text: str, steps: int) -> dict[str, float]:
    """Return the milliseconds of a step by part, the most first, and those of which nothing is seen."""
    own, seen = shares(ran)
    of = parts(text)
    sums: dict[str, float] = defaultdict(float)
    for instruction, microseconds in own.items():
        sums[of.get(instruction, OTHER)] += microseconds / steps / 1e3
    ordered = dict(sorted(sums.items(), key=lambda item: -item[1]))
    span = max(e.end for e in ran) - min(e.begin for e in ran)
    return {**ordered, UNSEEN: (span - seen) / steps / 1e3}


def profiled(size: Size, device: str, steps: int) -> dict[str, Any]:
    """Return the `table` of one size, and the setting it was taken with: the first of jgpt's in train.py."""
    setting, (script, extra, environment) = next(iter(settings(device, size, ()).items()))
    dtype = "float32" if device == "cpu" else "bfloat16"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Worker(script, {**prepared(size, device, dtype, folder), **extra}, environment) as worker:
            worker.call("steps", count=5)
            # what a profile keeps can make the heap grow, and steps on new pages were up to a third slower
            with tempfile.TemporaryDirectory() as unread:
                worker.call("profile", folder=unread, count=steps)
            text = worker.call("profile", folder=name, count=steps)
        return {"setting": setting, "ms": table(events(folder), text, steps)}


def main() -> None:
    """Profile every size and write the table."""
    options = arguments(__doc__ or "", sizes={"nargs": "*", "choices": list(SIZES), "help": "default: the device's"})
    with Worker("roof.py", {}) as probe:
        about = probe.call("about")
    device = about["platform"]
    results: dict[str, Any] = {}
    rows = [("size", "part", "ms a step", "share")]
    for name in options.sizes or ON[device]:
        say(f"{name}: {SIZES[name]}")
        results[name] = profiled(SIZES[name], device, options.rounds)
        total = sum(results[name]["ms"].values())
        rows += [(name, part, f"{ms:.2f}", f"{ms / total:.1%}") for part, ms in results[name]["ms"].items()]
        headline = {f"{size} {part} ms": ms for size, one in results.items() for part, ms in one["ms"].items()}
        record = {"headline": headline, "steps": options.rounds, "sizes": results}
        publish("where", record, rows, None if device == "cpu" else about["device"])


if __name__ == "__main__":
    main()
