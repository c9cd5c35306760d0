"""Configs in and out: JSON loses nothing, a wrong file or field is named, and every difference is found."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from jgpt import configio
from jgpt.config import (
    Config,
    DataConfig,
    DistributedConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TaskConfig,
    TokenizerConfig,
    TrainConfig,
)
from jgpt.presets import PRESETS

REPOSITORY = Path(__file__).parents[1]
FULL = Config(
    run=RunConfig(dir="runs/ü"),
    model=ModelConfig(windows=(64, None), num_kv_heads=2, logit_softcap=15.0),
    tokenizer=TokenizerConfig(image="palette"),
    data=DataConfig(
        tasks={
            "a": TaskConfig(kind="text", source="path", path="x.txt", weight=2.5),
            "b": TaskConfig(kind="image", source="sklearn_digits"),
        }
    ),
    optim=OptimConfig(clip_norm=None, ema_decay=0.9),
)


@pytest.mark.parametrize(
    "config", [Config(), FULL, *(Config(model=preset()) for preset in PRESETS.values())], ids=lambda c: c.run.dir
)
def test_json_gives_back_the_same_config(config: Config, tmp_path: Path):
    configio.save(config, tmp_path / "config.json")
    loaded = configio.load(tmp_path / "config.json")
    assert loaded == config
    assert hash(loaded.model) == hash(config.model)  # compiled functions are kept by the model config


def test_fields_that_are_missing_take_their_defaults():
    values = configio.to_dict(FULL)
    del values["mesh"], values["model"]["qk_norm"], values["data"]["tasks"]["a"]["loss_weight"]
    assert configio.from_dict(values) == FULL


@pytest.mark.parametrize(
    ("where", "wrong", "near"),
    [
        ((), "modle", "'model'"),
        (("model",), "num_layer", "'model.num_layers'"),
        (("data", "tasks", "a"), "weigth", "'data.tasks.a.weight'"),
    ],
)
def test_unknown_field_is_named_with_the_nearest(where: tuple[str, ...], wrong: str, near: str):
    values = inner = configio.to_dict(FULL)
    for name in where:
        inner = inner[name]
    inner[wrong] = 1
    with pytest.raises(ValueError) as caught:
        configio.from_dict(values)
    assert f"{'.'.join((*where, wrong))!r}" in str(caught.value)
    assert f"Did you mean {near}?" in str(caught.value)


def test_values_read_from_json_obey_the_rules():
    values = configio.to_dict(FULL)
    values["train"]["steps"] = 0
    with pytest.raises(ValueError, match="train.steps is 0"):
        configio.from_dict(values)


def other(value: Any, field: dataclasses.Field) -> Any:
    """Return another value that the rules allow; None where this test knows none."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int) and field.name not in ("num_heads", "num_kv_heads", "embed_dim", "batch_size"):
        return value + 1
    return value / 2 if isinstance(value, float) and value else None


def test_every_change_is_found_under_its_dotted_name():
    seen = 0
    for section in dataclasses.fields(FULL):
        for field in dataclasses.fields(getattr(FULL, section.name)):
            old = getattr(getattr(FULL, section.name), field.name)
            new = other(old, field)
            if new is None or section.name in ("run", "mesh", "distributed"):
                continue
            try:
                changed = dataclasses.replace(getattr(FULL, section.name), **{field.name: new})
                config = dataclasses.replace(FULL, **{section.name: changed})
            except ValueError:  # a field that means nothing beside the values of others
                continue
            assert configio.changed_fields(FULL, config) == {f"{section.name}.{field.name}": (old, new)}
            seen += 1
    assert seen > 25  # nearly every number and switch


def test_another_mesh_and_other_processes_are_the_same_run():
    moved = dataclasses.replace(FULL, mesh=MeshConfig(fsdp=2), distributed=DistributedConfig(heartbeat_seconds=9))
    assert moved != FULL and configio.changed_fields(FULL, moved) == {}


def test_added_and_removed_tasks_are_changes():
    one = dataclasses.replace(FULL, data=DataConfig(tasks={"a": FULL.data.tasks["a"]}))
    assert configio.changed_fields(FULL, one)["data.tasks.b.source"] == ("sklearn_digits", None)
    assert configio.changed_fields(one, FULL)["data.tasks.b.source"] == (None, "sklearn_digits")


def test_no_change_and_another_folder_are_no_difference():
    assert configio.changed_fields(FULL, configio.from_dict(configio.to_dict(FULL))) == {}
    assert configio.changed_fields(FULL, dataclasses.replace(FULL, run=RunConfig(dir="elsewhere"))) == {}


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.py")), ids=lambda path: path.stem)
def test_run_cards_load_and_survive_json(path: Path):
    config = configio.load_config_file(path)
    assert configio.from_dict(configio.to_dict(config)) == config
    assert config.run.dir == f"runs/{path.stem}"  # two cards must not share a folder


def test_missing_config_file_lists_its_neighbours(tmp_path: Path):
    (tmp_path / "tiny.py").write_text("")
    with pytest.raises(FileNotFoundError) as caught:
        configio.load_config_file(tmp_path / "tinny.py")
    assert "tinny.py" in str(caught.value) and f"Did you mean '{tmp_path / 'tiny.py'}'?" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", ["defines no get_config()", "add one that returns a Config"]),
        ("def get_config(): return {}", ["returned dict", "must be a Config"]),
        ("def get_config(: return", ["line 1", "invalid syntax"]),
        (
            "from jgpt.config import TrainConfig\ndef get_config(): return TrainConfig(stepps=3)",
            ["'stepps'", "jgpt/config/"],
        ),
    ],
)
def test_config_file_without_a_config_is_refused(text: str, words: list[str], tmp_path: Path):
    path = tmp_path / "card.py"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        configio.load_config_file(path)
    assert all(word in str(caught.value) for word in [str(path), *words])


def test_file_that_is_no_python_is_refused(tmp_path: Path):
    path = tmp_path / "card.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match="card.json is not a Python file: name it NAME.py"):
        configio.load_config_file(path)


def test_json_is_plain_values(tmp_path: Path):
    configio.save(FULL, tmp_path / "config.json")
    values = json.loads((tmp_path / "config.json").read_text())
    assert values == configio.to_dict(FULL)
    assert values["model"]["windows"] == [64, None] and values["train"] == dataclasses.asdict(TrainConfig())
