"""What every benchmark shares: workers in processes of their own, turns in alternation, medians, and results as JSON.

A worker is a script that answers calls on its standard input. Peers in one process would share an allocator and spin in each
other's threads; in processes of their own, one waits on a pipe while the other computes.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

BENCH: Final = Path(__file__).resolve().parent
RESULTS: Final = Path(os.environ.get("JGPT_BENCH_RESULTS", BENCH / "results"))
_BEFORE: dict[Path, Any] = {}  # results of earlier runs, as this process found them
# On a GPU jax would take three quarters of the memory at once, or grow to it, and leave its peer without.
BESIDE_PEERS: Final = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.48"}
# The last that a processor has stands in the name of its folder of results.
VECTOR_UNITS: Final = ("avx2", "avx512f", "avx512_bf16", "avx512_vp2intersect", "amx_bf16")
PACKAGES: Final = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "transformers")


class Worker:
    """A benchmark's side in a process of its own.

    Args:
        script: file in bench/sides.
        spec: JSON values, given to the script as its one argument.
        environment: variables to set in the process.
    """

    def __init__(self, script: str, spec: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, str(BENCH / "sides" / script), json.dumps(spec)]
        path = os.pathsep.join([str(BENCH), str(BENCH.parent), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**BESIDE_PEERS, **os.environ, "PYTHONPATH": path, **(environment or {})},
        )
        self.name = script

    def call(self, what: str, **arguments: Any) -> Any:
        """Return the worker's answer.

        Raises:
            RuntimeError: the worker has died; what it said stands on stderr.
        """
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps({"what": what, "arguments": arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the reading below says so
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self._process.wait()} in {what!r}: see above")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(handlers: Mapping[str, Callable[..., Any]]) -> None:
    """Answer calls until the standard input ends; what the handlers print goes to stderr."""
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        request = json.loads(line)
        answer = handlers[request["what"]](**request["arguments"])
        print(json.dumps(answer), file=answers, flush=True)


def spec() -> dict[str, Any]:
    """Return what a worker was started with."""
    return json.loads(sys.argv[1])


def alternate(turns: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Return what each turn measured, round by round: A B A B ..., so that a drift of the machine meets all alike."""
    measured: dict[str, list[float]] = {name: [] for name in turns}
    for at in range(rounds):
        for name, turn in turns.items():
            measured[name].append(turn())
        say(
            f"  round {at + 1} of {rounds}: "
            + "  ".join(f"{name} {values[-1]:.4g}" for name, values in measured.items())
        )
    return measured


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return median and quartiles."""
    ordered = sorted(values)
    low, _, high = statistics.quantiles(ordered, n=4, method="inclusive") if len(ordered) > 1 else (ordered[0],) * 3
    return {"median": statistics.median(ordered), "low": low, "high": high, "rounds": len(ordered)}


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, float]:
    """Return the summary of the ratios round by round, from which a drift of the machine drops out."""
    return summary([a / b for a, b in zip(numerators, denominators, strict=True)])


def machine() -> dict[str, Any]:
    """Return what the figures depend on: processor, memory, versions."""
    info = Path("/proc/cpuinfo")
    model, flags = platform.processor(), ""
    if info.is_file():
        fields = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        fields = {name.strip(): value.strip() for name, value in fields.items()}
        model, flags = fields.get("model name", model), fields.get("flags", "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "processor": model,
        "vector_units": [unit for unit in VECTOR_UNITS if unit in flags.split()],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": versions,
    }


def kind_of_machine(device: str | None = None) -> str:
    """Return the folder of results for machines like this one, e.g. `amd-epyc-2-cores` or `nvidia-h200`."""
    about = machine()
    units = "-".join(about["vector_units"][-1:])
    text = device or f"{about['processor']} {units} {about['cores']} cores"
    return "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def say(text: str) -> None:
    """Print to stderr: stdout is for the table."""
    print(text, file=sys.stderr, flush=True)


def without(environment: Mapping[str, str], *names: str) -> dict[str, str]:
    """Return the variables but those named."""
    return {name: value for name, value in environment.items() if name not in names}


def publish(name: str, results: Mapping[str, Any], rows: Iterable[Sequence[str]], device: str | None = None) -> None:
    """Write results/<machine>/<name>.json and print the table; say what changed since the last time.

    A long benchmark calls this after every part, each time with all that it has.

    Args:
        name: of the benchmark.
        results: JSON values; those under "headline" are compared with the last ones.
        rows: of the table, the header first.
        device: accelerator, None for the CPU.
    """
    from rich.console import Console
    from rich.table import Table

    folder = RESULTS / kind_of_machine(device)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    if path not in _BEFORE:
        _BEFORE[path] = json.loads(path.read_text()) if path.is_file() else None
    before = _BEFORE[path]
    header, *body = rows
    table = Table(*header, title=f"{name}, {device or machine()['processor']}")
    for row in body:
        table.add_row(*row)
    console = Console(width=160 if not sys.stdout.isatty() else None)
    console.print(table)
    if before is not None:
        for key, value in results.get("headline", {}).items():
            if key in before.get("headline", {}):
                console.print(f"{key}: {value:.4g}, before ({before['date']}): {before['headline'][key]:.4g}")
    record = {"date": datetime.date.today().isoformat(), "machine": machine(), **results}
    path.write_text(json.dumps(record, indent=1) + "\n")
    console.print(f"written: {path}", soft_wrap=True)


def arguments(description: str, **options: Mapping[str, Any]) -> argparse.Namespace:
    """Return the parsed command line: `--rounds N` and the options given, e.g. `sizes={"nargs": "+"}`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=9, help="turns of each side")
    for name, option in options.items():
        parser.add_argument("--" + name.replace("_", "-"), **option)
    return parser.parse_args()
