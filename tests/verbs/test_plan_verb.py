"""`jgpt plan` from end to end on this machine's devices: a table, JSON, and what would fit where a step does not."""

import json
import re
from pathlib import Path

import jax
import pytest

from jgpt import cli
from jgpt.plan import here
from jgpt.plan.devices import Device, Machine
from jgpt.plan.search import ENOUGH

CARD = """
from jgpt import presets
from jgpt.config import *

def get_config():
    return Config(
        model=presets.llama(num_layers=2, embed_dim=64, num_heads=8, context_length=64),
        train=TrainConfig(steps=10, batch_size=16),
        optim=OptimConfig(name="adamw", warmup_steps=1),
    )
"""
pytestmark = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")


def machine_of(memory: float) -> Machine:
    return Machine(Device("fake", memory, 1e12, 1e11, 1e10, None, "cpu", "a test"), (8,))


def plan(monkeypatch: pytest.MonkeyPatch, folder: Path, memory: float, *words: str) -> int:
    """Return the exit status of a plan on eight fake devices of that memory each."""
    (folder / "card.py").write_text(CARD)
    monkeypatch.setattr(here, "machine", lambda config: machine_of(memory))
    return said(monkeypatch, folder, "--vocab-size", "500", "--json", str(folder / "plan.json"), *words)


def said(monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> int:
    """Return the exit status of `jgpt plan` of the card with these words."""
    monkeypatch.setattr("sys.argv", ["jgpt", "plan", str(folder / "card.py"), *words])
    try:
        cli.main()
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def test_what_fits_is_said_with_its_figures(monkeypatch, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert plan(monkeypatch, tmp_path, 1e9, "--tokens", "1e6", "--price", "3") == 0
    out = capsys.readouterr().out
    assert "It fits." in out and "8 devices (mesh data 8)" in out and "at 3 a device and hour" in out
    found = json.loads((tmp_path / "plan.json").read_text())
    assert (
        found["memory"]["parameters"] > 4 * 2 * 504 * 64 and found["fits"] is True
    )  # embedding and head, and the blocks
    assert found["memory"]["optimizer"] == pytest.approx(2 * found["memory"]["parameters"], rel=1e-3)
    assert found["memory"]["total"] == pytest.approx(sum(found["memory"][k] for k in ("parameters", "optimizer", "gradients",
                                                     "activations", "batch", "program")))  # fmt: skip
    assert {each["kind"] for each in found["collectives"]} == {"all-reduce"} and found["tokens"] == 16 * 64
    assert found["seconds"]["compute"] == pytest.approx(found["flops"] / 8 / 1e12)
    assert found["memory"]["left"] == 1e9 - found["memory"]["total"] and found["limit"] in (
        "compute",
        "memory",
        "network",
    )
    least = found["run"]["least"]
    assert least["hours"] == pytest.approx(1e6 / 1024 * found["seconds"]["bound"] / 3600)
    assert least["cost"] == pytest.approx(3 * 8 * least["hours"])


@pytest.mark.slow
def test_what_does_not_fit_gets_a_remedy_that_was_compiled(
    monkeypatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert plan(monkeypatch, tmp_path, 1e9) == 0
    needed = json.loads((tmp_path / "plan.json").read_text())["memory"]["total"]
    capsys.readouterr()
    assert plan(monkeypatch, tmp_path, 0.7 * needed) == 1
    out = capsys.readouterr().out
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["fits"] is False and found["remedy"].startswith("--mesh.data") and f"add {found['remedy']}" in out
    assert plan(monkeypatch, tmp_path, 0.7 * needed, *found["remedy"].split()) == 0
    assert "--train.loss-chunk-tokens 128: does not fit" in out  # costs less, and was tried first


def test_where_no_mesh_fits_what_was_tried_is_written(monkeypatch, tmp_path: Path, capsys) -> None:
    assert plan(monkeypatch, tmp_path, 1.1e6, "--search", "--compiles", "1") == 2
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["fits"] is False and len(found["tried"]) == 1 and "none of them fits" in capsys.readouterr().err


def test_the_sampler_has_a_plan_of_its_own(monkeypatch, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert plan(monkeypatch, tmp_path, 1e9, "--sampler", "16", "--length", "32", "--cache", "int8") == 0
    out = capsys.readouterr().out
    assert "sampling 16 rows of 32 tokens" in out and "tokens/s" in out and "It fits." in out
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["rows"] == 16 and found["length"] == 32
    assert found["tokens_per_second"]["bound"] == pytest.approx(16 / found["seconds"]["bound"])
    assert plan(monkeypatch, tmp_path, 1e4, "--sampler", "16") == 1
    assert "does NOT fit" in capsys.readouterr().out


@pytest.mark.slow
def test_search_lays_it_over_the_devices(monkeypatch, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert plan(monkeypatch, tmp_path, 1e9, "--search", "--compiles", "3") == 0
    found = json.loads((tmp_path / "plan.json").read_text())
    assert len(found["tried"]) == ENOUGH and all(each["fits"] for each in found["tried"])
    assert re.search("best: --mesh.data", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--price", "3"], "--price needs --tokens"),
        (["--tokens", "-1"], "--tokens is -1.0: must be above 0"),
        (["--length", "32"], "--length is of the sampler: say --sampler ROWS too"),
        (["--sampler", "0"], "--sampler is 0: must be above 0"),
        (["--sampler", "8", "--device", "v5e:2x2", "--slices", "2"], "--slices are of training"),
        (["--device", "v9:2x2"], "unknown device 'v9:2x2'"),
    ],
)
def test_mistakes_are_said(
    monkeypatch, tmp_path: Path, capsys: pytest.CaptureFixture, words: list, message: str
) -> None:
    assert plan(monkeypatch, tmp_path, 1e9, *words) == 2
    assert message in capsys.readouterr().err


def test_where_the_data_are_not_at_hand_the_way_without_them_is_said(monkeypatch, tmp_path: Path, capsys) -> None:
    data = "data=DataConfig(tasks={'text': TaskConfig(kind='text', source='path')}), train="
    (tmp_path / "card.py").write_text(CARD.replace("train=", data))
    monkeypatch.setattr(here, "machine", lambda config: machine_of(1e9))
    assert said(monkeypatch, tmp_path) == 2
    assert "Or say --vocab-size N" in capsys.readouterr().err
