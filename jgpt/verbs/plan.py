"""`jgpt plan CONFIG --device v5e:16x16`: what a run takes, before the machine is rented. No jax before parsing."""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jgpt.runtime import configure

if TYPE_CHECKING:
    from jgpt.batch import RowLimits
    from jgpt.config import Config, ModelConfig
    from jgpt.plan.devices import Machine
    from jgpt.plan.search import Tried

HELP: Final = "compile the train step for a machine that is not here: does it fit, how fast, what does it exchange"
DESCRIPTION: Final = """\
Compiles the real train step ahead of time and prints memory by kind, FLOPs, collectives by mesh axis with their bytes, and
the time that a step takes at least. Machines: v5e:16x16, v5p:8x8x8, v6e:8x8, tpu7x:4x4x4 (need the extra [plan]), h100x8,
h200x8 (need jax's cuda plugin), this. Where a step does not fit, changes that would make it fit are compiled and named.
Without --vocab-size the config's data are read. Any field of the config can be overridden: --section.field value.
"""
TAKES_CONFIG: Final = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "config", help="file with get_config(), e.g. configs/text_1b.py, before any --section.field value"
    )
    parser.add_argument("--device", default="this", help="machine to plan for (default: %(default)s)")
    parser.add_argument("--slices", type=int, default=1, help="of TPUs, each of that layout, with --mesh.slice as many")
    parser.add_argument("--vocab-size", type=int, help="ids of the tokenizer, where the data are not at hand")
    parser.add_argument(
        "--search",
        action="store_true",
        help="order meshes, remat policies and micro-batches by an estimate and compile the first, until two fit: the faster",
    )
    parser.add_argument("--compiles", type=int, default=12, help="candidates to compile at most (default %(default)s)")
    parser.add_argument("--sampler", type=int, metavar="ROWS", help="plan the sampler instead, so many rows at once")
    parser.add_argument(
        "--length", type=int, help="of prompt and answer together, with --sampler (default: the context)"
    )
    parser.add_argument(
        "--cache", choices=["int8"], help="type of the cache, with --sampler (default: that of compute)"
    )
    parser.add_argument("--tokens", type=float, help="to train on: how long does it take")
    parser.add_argument("--price", type=float, help="of a device and hour, in any currency: what do --tokens cost")
    parser.add_argument("--json", metavar="FILE", help="also write the plan to this file")


def run(arguments: argparse.Namespace) -> None:
    """Print the plan, and leave with 1 where the step does not fit."""
    from jgpt.check import require
    from jgpt.configio import from_arguments
    from jgpt.plan.devices import parse

    for name in ("compiles", "slices", "tokens", "price", "vocab_size", "sampler", "length"):
        value = getattr(arguments, name)
        require(value is None or value > 0, f"--{name.replace('_', '-')} is {value}: must be above 0.")
    folder = Path(arguments.json or ".").parent
    require(folder.is_dir(), f"--json {arguments.json}: there is no folder {folder}; make it first.")
    require(arguments.price is None or arguments.tokens is not None, "--price needs --tokens: say how many.")
    require(
        arguments.sampler is None or not (arguments.search or arguments.tokens or arguments.price),
        "--sampler plans sampling: --search, --tokens and --price are of training; leave them out.",
    )
    require(
        arguments.sampler is None or arguments.slices == 1,
        "--slices are of training: slices that sample have nothing to do with each other; plan one of them.",
    )
    for name in ("length", "cache"):
        value = getattr(arguments, name)
        require(value is None or arguments.sampler is not None, f"--{name} is of the sampler: say --sampler ROWS too.")
    config = from_arguments(arguments.config, arguments.overrides, f"python train.py {arguments.config}", DESCRIPTION)
    require(arguments.device != "this" or arguments.slices == 1, "--slices are of TPUs: name them with --device.")
    machine = None if arguments.device == "this" else parse(arguments.device, arguments.slices)
    if machine is not None:
        os.environ["JAX_PLATFORMS"] = "cpu"  # plugins compile; they must not look for chips
    configure()
    if machine is not None:
        import jax

        jax.config.update("jax_enable_compilation_cache", False)  # it would be read for devices that are not here
    from rich.console import Console

    from jgpt.plan import compiling, here, roofline, search, words

    console = Console(highlight=False, soft_wrap=True)
    devices = here.devices() if machine is None else compiling.devices_of(machine)
    machine = here.machine(config) if machine is None else machine
    model, limits = _resolve(config, machine, arguments.vocab_size)

    if arguments.sampler is not None:
        _plan_sampler(arguments, config, model, devices, machine, console)
        return

    def compile_step(config: "Config", model: "ModelConfig") -> Any:
        step = compiling.compile_step(config, model, devices, limits)
        step = replace(step, fits=step.fits and step.memory.total <= machine.usable)
        return step, roofline.times(step, machine, accumulation_steps=config.train.accumulation_steps)

    chosen, tried = None, []
    if arguments.search:
        parameters = compiling.parameter_bytes(model)
        candidates = search.meshes(config, model, machine, parameters)
        console.print(f"{len(candidates)} candidates; compiling those that should be fastest")
        chosen, tried = search.best(candidates, compile_step, compiles=arguments.compiles, say=console.print)
        if chosen is None:
            _write({"fits": False, "tried": [_tried(each) for each in tried]}, arguments.json)
            raise ValueError("none of them fits: try more with --compiles, a smaller batch, or a larger machine.")
        step, times, words_of = chosen.step, chosen.times, chosen.candidate.words
        console.print(f"best: {words_of}\n")
    else:
        step, times = compile_step(config, model)
    if arguments.device == "this" and step.fits and not arguments.search:
        times = replace(times, run=here.seconds_by_depth(config, model, limits, times.expected))
    shape = ", ".join(f"{axis} {size}" for axis, size in step.mesh.items() if size > 1) or "of one"
    console.print(
        f"{arguments.config} on {machine.name}: {machine.size} devices (mesh {shape}), compiled in {step.seconds:.0f} s"
    )
    for table in words.tables(step, times, machine, arguments.price, arguments.tokens):
        console.print(table)
        console.print()
    console.print(_constants(machine))
    plan = words.to_dict(step, times, machine, arguments.price, arguments.tokens)
    if step.fits and step.validation <= machine.usable:
        console.print("It fits.")
    elif step.fits:
        plan |= {"fits": False, "remedy": "--eval.no-samples"}
        console.print(
            "A step fits, but NOT a validation, where every process samples from copies of the model on its own devices: add "
            "--eval.no-samples, and sample from its checkpoints elsewhere."
        )
    else:
        console.print("It does NOT fit. What needs less, the cheapest change first:")
        found = search.first_that_fits(
            search.remedies(config, model, machine.size, machine.device.platform),
            compile_step,
            compiles=arguments.compiles,
            say=console.print,
        )
        console.print(f"add {found.candidate.words}" if found else "none of these; try --search, or a larger machine.")
        plan["remedy"] = None if found is None else found.candidate.words
    plan["tried"] = [_tried(each) for each in tried]
    _end(plan, arguments.json)


def _plan_sampler(
    arguments: argparse.Namespace,
    config: "Config",
    model: "ModelConfig",
    devices: Any,
    machine: "Machine",
    console: Any,
) -> None:
    """Print the plan of one token a row, and leave with 1 where it does not fit."""
    from jgpt.check import require
    from jgpt.plan import decoding, words

    length = arguments.length or model.context_length
    require(
        length <= model.context_length,
        f"--length is {length}, longer than model.context_length {model.context_length}: raise that, or lower it.",
    )
    step = decoding.compile_decode(
        config, model, devices, rows=arguments.sampler, length=length, cache_dtype=arguments.cache
    )
    console.print(
        f"{arguments.config}, sampling {step.rows} rows of {length} tokens on {machine.name}, "
        f"compiled in {step.seconds:.0f} s"
    )
    for table in words.decode_tables(step, machine):
        console.print(table)
        console.print()
    console.print(_constants(machine))
    plan = decoding.to_dict(step, machine)
    console.print(
        "It fits." if plan["fits"] else "It does NOT fit: fewer rows, --length, --cache int8 or --mesh.tensor."
    )
    _end(plan, arguments.json)


def _end(plan: dict[str, Any], file: str | None) -> None:
    """Write a plan where it is asked for, and leave with 1 where it does not fit."""
    _write(plan, file)
    if not plan["fits"]:
        raise SystemExit(1)


def _write(plan: dict[str, Any], file: str | None) -> None:
    if file is not None:
        Path(file).write_text(json.dumps(plan, indent=1, allow_nan=False) + "\n")


def _tried(each: "Tried") -> dict[str, Any]:
    return {"options": each.candidate.words, "fits": each.step.fits, "bound": each.times.bound}


def _resolve(config: "Config", machine: "Machine", vocab_size: int | None) -> "tuple[ModelConfig, RowLimits]":
    """Return the model for the machine's platform, and what a row holds at most.

    The data are read where nothing else says how many ids there are; else rows are taken to be one document each, and all of
    its targets to carry weight.
    """
    from jgpt.batch import RowLimits
    from jgpt.model import gpt

    platform = machine.device.platform
    if vocab_size is not None:
        return gpt.resolve(config.model, vocab_size=vocab_size, backend=platform), RowLimits(documents=1)
    from jgpt.tasks import mixture

    try:
        data = mixture.build(config)
    except (ValueError, FileNotFoundError) as error:
        words = f"{error} Or say --vocab-size N, the ids of its tokenizer: a plan needs nothing else of the data."
        raise type(error)(words) from None
    model = gpt.resolve(config.model, backend=platform, **data.ids_for_model())
    return model, data.limits()


def _constants(machine: "Machine") -> str:
    device = machine.device
    between = device.network is not None and (device.platform != "tpu" or machine.slices > 1)
    beyond = f" and {device.network / 1e9:,.4g} GB/s beyond" if between and device.network else ""
    return (
        f"constants: {device.flops / 1e12:,.4g} TFLOP/s, memory {device.bandwidth / 1e9:,.4g} GB/s, network "
        f"{device.link / 1e9:,.4g} GB/s in along a dimension{beyond} ({device.source})"
    )
