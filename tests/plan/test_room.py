"""Room for a run: said before the first step, refused or warned of where there is too little, and advice when it ends."""

import dataclasses

import jax
import pytest

from jgpt import presets, sharding
from jgpt.config import Config, MeshConfig, TrainConfig
from jgpt.model import gpt
from jgpt.plan import compiling, room
from jgpt.plan.compiling import Memory
from jgpt.plan.devices import GIB

CONFIG = Config(
    model=presets.modern(num_layers=2, embed_dim=32, num_heads=2), train=TrainConfig(steps=50, batch_size=8)
)
MODEL = gpt.resolve(CONFIG.model, vocab_size=64, backend="cpu")
MESH = sharding.make_mesh(MeshConfig(data=1), jax.devices()[:1])
NEED = Memory(parameters=1 * GIB, optimizer=2 * GIB, gradients=1 * GIB, activations=3.5 * GIB, batch=10, program=0)


@pytest.fixture
def elsewhere(monkeypatch):
    """Return what pretends that the devices are of another platform and have so much memory."""

    def pretend(platform: str, has: float | None):
        monkeypatch.setattr(room, "available", lambda mesh: has)
        monkeypatch.setattr(room, "_platform", lambda mesh: platform)
        return sharding.make_mesh(MeshConfig(data=4), jax.devices()[:4])

    return pretend


def test_what_fits_is_said_in_one_line(elsewhere):
    said = room.checked(NEED, CONFIG, MODEL, elsewhere("gpu", 80 * GIB), "card.py")
    assert said == (
        "memory of each device: 7.50 of 80.0 GiB (parameters 1.00, optimizer 2.00, gradients 1.00, activations 3.50)"
    )
    assert "\n" not in room.checked(NEED, CONFIG, MODEL, elsewhere("tpu", None), "card.py")


def test_what_does_not_fit_an_accelerator_is_refused_with_the_cheapest_changes_first(elsewhere):
    with pytest.raises(ValueError, match=r"7.50 of 4.0 GiB .*it does not fit") as caught:
        room.checked(NEED, CONFIG, MODEL, elsewhere("gpu", 4 * GIB), "card.py")
    lines = str(caught.value).splitlines()
    assert lines[2] == "  --train.loss-chunk-tokens 256"  # 8 rows of 256: costs least
    assert "--mesh.fsdp" in lines[3]  # what is split computes the same
    assert any("--model.remat" in line for line in lines) and "jgpt plan card.py" in lines[-1]


def test_where_every_change_was_made_something_is_still_said():
    train = dataclasses.replace(CONFIG.train, loss_chunk_tokens=1, accumulation_steps=8)
    config = dataclasses.replace(CONFIG, train=train)
    said = room.advice(config, dataclasses.replace(MODEL, remat="full"), MESH, "card.py").splitlines()
    assert len(said) == 3 and "a smaller --train.batch-size" in said[1]


def test_a_container_has_its_own_limit(tmp_path):
    assert room._container(str(tmp_path)) is None
    (tmp_path / "memory.current").write_text("300\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert room._container(str(tmp_path)) is None
    (tmp_path / "memory.max").write_text("1000\n")
    assert room._container(str(tmp_path)) == 700


def test_a_cpu_is_warned_and_goes_on(elsewhere):
    said = room.checked(NEED, CONFIG, MODEL, elsewhere("cpu", 4 * GIB), "card.py")
    assert "MORE THAN IS FREE" in said and "--model.remat" in said


def test_the_end_of_memory_comes_with_advice():
    with pytest.raises(
        ValueError, match="out of memory: RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes"
    ) as caught:
        with room.advised(CONFIG, MODEL, MESH, "card.py"):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes.\nmore")
    assert "--model.remat dots" in str(caught.value) and "more" not in str(caught.value).splitlines()[0]
    with pytest.raises(jax.errors.JaxRuntimeError), room.advised(CONFIG, MODEL, MESH, "card.py"):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


def test_a_cpu_has_what_the_system_could_give():
    has = room.available(MESH)
    assert has is not None and 2**26 < has < 2**46
    two = dataclasses.replace(CONFIG.mesh, data=2)
    assert room.available(sharding.make_mesh(two, jax.devices()[:2])) == pytest.approx(has / 2, rel=0.2)


def test_copies_to_sample_with_need_room_too(elsewhere):
    large = dataclasses.replace(NEED, optimizer=3.4 * GIB, gradients=0, activations=0)
    with pytest.raises(ValueError, match="5.40 while it samples at a validation.*--eval.no-samples"):
        room.checked(large, CONFIG, MODEL, elsewhere("gpu", 5 * GIB), "card.py")
    without = dataclasses.replace(CONFIG, eval=dataclasses.replace(CONFIG.eval, samples=False))
    assert "4.40 of 5.0" in room.checked(large, without, MODEL, elsewhere("gpu", 5 * GIB), "card.py")


def test_every_process_has_copies_of_the_whole_model():
    memory = Memory(parameters=4, optimizer=8, gradients=0, activations=0, batch=0, program=0)
    whole = compiling.parameter_bytes(MODEL)
    assert compiling.validation_bytes(CONFIG, MODEL, memory, [0, 0, 1, 1]) == 12 + 2 * whole / 2
    assert compiling.validation_bytes(CONFIG, MODEL, memory, [0, 0, 0, 0]) == 12 + 4
