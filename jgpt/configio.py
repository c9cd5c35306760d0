"""Configs in and out: run cards from Python files, JSON beside a run, and the fields in which two configs differ.

Owns the file formats of a config; the fields and their rules stand in `jgpt.config`. Imports no jax.
"""

import dataclasses
import importlib.util
import json
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jgpt.check import require, unknown_name
from jgpt.config import Config


def load_config_file(path: str | Path) -> Config:
    """Return `get_config()` of a Python file.

    Raises:
        FileNotFoundError: there is no such file; the message lists its neighbours.
        ValueError: the file has no `get_config`, or it returns something else than a `Config`.
    """
    path = Path(path)
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path("configs")
        known = [str(p) for p in folder.glob("*.py")]
        raise FileNotFoundError(unknown_name("config file", str(path), known))
    spec = importlib.util.spec_from_file_location(f"jgpt_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"config file {path} is not a Python file: name it NAME.py.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise ValueError(f"config file {path}, line {error.lineno}: {error.msg}.") from None
    require(
        hasattr(module, "get_config"), f"config file {path} defines no get_config(): add one that returns a Config."
    )
    try:
        config = module.get_config()
    except TypeError as error:  # a field that does not exist; Python names the section and the nearest is in --help
        raise ValueError(f"config file {path}: {error}. All fields are in jgpt/config/.") from None
    require(
        isinstance(config, Config), f"get_config() of {path} returned {type(config).__name__}: it must be a Config."
    )
    return config


def from_arguments(path: str | Path, arguments: Sequence[str], program: str, description: str) -> Config:
    """Return the config of a file with the overrides of a command line, `--section.field value`, applied.

    Args:
        path: Python file with `get_config()`.
        arguments: of the command line, without the path.
        program: the command as it was called, for `--help`.
        description: for `--help`.

    Raises:
        FileNotFoundError: as `load_config_file`.
        ValueError: as `load_config_file`, or a rule of the config is broken.
        SystemExit: an argument names no field, or `--help` was asked for.
    """
    import tyro

    return tyro.cli(Config, default=load_config_file(path), args=list(arguments), prog=program, description=description)


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config as nested dicts of JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: dict[str, Any], kind: Any = Config, where: str = "") -> Any:
    """Rebuild a config from `to_dict`; fields that are missing take their defaults.

    Raises:
        ValueError: a field is unknown, with the nearest known name.
    """
    hints = typing.get_type_hints(kind)
    built = {}
    for name, value in values.items():
        if name not in hints:
            raise ValueError(unknown_name("config field", f"{where}{name}", [f"{where}{known}" for known in hints]))
        built[name] = _from_json(value, hints[name], f"{where}{name}.")
    return kind(**built)


def _from_json(value: Any, hint: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_dict(value, hint, where)
    origin = typing.get_origin(hint)
    if origin is dict:
        return {key: _from_json(item, typing.get_args(hint)[1], f"{where}{key}.") for key, item in value.items()}
    if origin is tuple:
        return tuple(value)
    if origin in (typing.Union, types.UnionType) and value is not None:
        inner = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        return _from_json(value, inner[0], where)
    return value


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dicts as one, keys joined by dots."""
    out = {}
    for key, value in values.items():
        out |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return out


def changed_fields(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Return dotted field -> (old, new) for every difference that changes what a run computes.

    Where it lives (`run`) and what computes it (`mesh`, `distributed`) do not: on another mesh sums are rounded otherwise.
    """
    a, b = flatten(to_dict(old)), flatten(to_dict(new))
    names = [name for name in {**a, **b} if name.split(".")[0] not in ("run", "mesh", "distributed")]
    return {name: (a.get(name), b.get(name)) for name in names if a.get(name) != b.get(name)}


def save(config: Config, path: Path) -> None:
    """Write a config as JSON."""
    path.write_text(json.dumps(to_dict(config), indent=1) + "\n")


def load(path: Path) -> Config:
    """Read a config written by `save`. Raises ValueError for an unknown field or a broken rule."""
    return from_dict(json.loads(path.read_text()))
