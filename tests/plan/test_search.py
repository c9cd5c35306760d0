"""What to change: candidates are valid and change nothing that is computed; the first that fits is taken."""

import dataclasses

import pytest

from jgpt import presets
from jgpt.config import Config, MeshConfig, OptimConfig, TrainConfig
from jgpt.model import gpt
from jgpt.plan import search
from jgpt.plan.compiling import Memory, Step
from jgpt.plan.devices import DEVICES, Machine
from jgpt.plan.roofline import Times

MACHINE = Machine(DEVICES["v5e"], (4, 4))
CONFIG = Config(
    model=presets.llama(num_layers=4, embed_dim=512, num_heads=8, num_kv_heads=4, context_length=256),
    train=TrainConfig(batch_size=64, steps=10),
    optim=OptimConfig(warmup_steps=1),
)
MODEL = gpt.resolve(CONFIG.model, vocab_size=1024, backend="tpu")


def fake(size: float, fits: bool, seconds: float) -> tuple[Step, Times]:
    memory = Memory(size, 0, 0, 0, 0, 0)
    return Step({}, memory, 1, 1, 1, [], [], {}, 0.0, fits, 0.0), Times(seconds, 0.0, {})


def test_remedies_need_less_and_compute_the_same() -> None:
    found = list(search.remedies(CONFIG, MODEL, MACHINE.size, "tpu"))
    assert found[0].words == f"--train.loss-chunk-tokens {64 * 256 // 8}"
    assert [c.words for c in found[1:4]] == [f"--mesh.data {16 // n} --mesh.fsdp {n}" for n in (4, 8, 16)]
    assert found[-1].words == "--mesh.data 1 --mesh.fsdp 16 --model.remat full --train.accumulation-steps 4"
    narrow = dataclasses.replace(MODEL, embed_dim=24, head_dim=2)  # cannot be split over 16
    assert all(c.config.mesh.fsdp <= 8 for c in search.remedies(CONFIG, narrow, MACHINE.size, "tpu"))
    for candidate in found:
        assert candidate.config.train.batch_size == 64 and candidate.model.num_layers == 4
        assert candidate.config != CONFIG


def test_every_mesh_that_is_tried_can_be_laid_over_the_model() -> None:
    found = search.meshes(CONFIG, MODEL, MACHINE, 1e8)
    assert len({candidate.words for candidate in found}) == len(found) > 20
    for candidate in found:
        mesh, train = candidate.config.mesh, candidate.config.train
        assert (mesh.data or 0) * mesh.fsdp * mesh.tensor == 16 and MODEL.kv_heads % mesh.tensor == 0
        assert train.batch_size // train.accumulation_steps % ((mesh.data or 1) * mesh.fsdp) == 0


def test_what_cannot_fit_is_not_compiled() -> None:
    giant = 16e9 * 100.0  # bytes of parameters: even split over all devices they are too large
    assert search.meshes(CONFIG, MODEL, MACHINE, giant) == []


def test_the_first_that_fits_and_the_fastest_are_found() -> None:
    calls: list[str] = []

    def compile_step(config: Config, model: object) -> tuple[Step, Times]:
        calls.append(str(config.mesh.fsdp))
        return fake(1e9, config.mesh.fsdp >= 8, 1 / config.mesh.fsdp)

    candidates = [
        search.Candidate(f"{n}", dataclasses.replace(CONFIG, mesh=MeshConfig(fsdp=n)), MODEL) for n in (4, 8, 16, 32)
    ]
    said: list[str] = []
    first = search.first_that_fits(iter(candidates), compile_step, compiles=6, say=said.append)
    assert first is not None and first.candidate.words == "8" and sorted(calls[:2]) == ["32", "4"]
    assert calls[2:] == ["8"]
    assert search.first_that_fits(iter(candidates[:1]), compile_step, compiles=1, say=said.append) is None
    fastest, tried = search.best(candidates, compile_step, compiles=3, say=said.append)
    assert fastest is not None and fastest.candidate.words == "16" and len(tried) == 3
    assert "does not fit" in said[0]


@pytest.mark.parametrize("fits_from", [1, 5, 14, 19, 20])
def test_of_more_than_may_be_compiled_the_one_that_needs_least_is_tried_before_giving_up(fits_from: int) -> None:
    calls: list[int] = []

    def compile_step(config: Config, model: object) -> tuple[Step, Times]:
        calls.append(config.train.seed)
        return fake(1e9, config.train.seed > fits_from, 1.0)

    candidates = [
        search.Candidate(str(n), dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, seed=n)), MODEL)
        for n in range(1, 21)
    ]
    found = search.first_that_fits(iter(candidates), compile_step, compiles=12, say=lambda line: None)
    assert len(calls) == len(set(calls)) <= 12 and set(calls[:2]) == {1, 20}
    if fits_from == 20:
        assert found is None and len(calls) == 2
    else:
        assert found is not None and found.candidate.words == str(fits_from + 1)


@pytest.mark.parametrize(("room", "taken"), [(800, 0), (550, 1), (510, 2), (450, 5), (390, None)])
def test_micro_batches_that_need_more_than_what_comes_before_them_hide_nothing(room: int, taken: int | None) -> None:
    """Summing over micro-batches takes a second set of gradients; the first five sizes are compiled ones."""
    sizes, steps = (746, 529, 505, 505, 579, 400), (1, 1, 1, 1, 2, 4)

    def compile_step(config: Config, model: object) -> tuple[Step, Times]:
        return fake(1e9, sizes[config.train.seed] <= room, 1.0)

    candidates = [
        search.Candidate(
            str(n),
            dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, seed=n, accumulation_steps=of)),
            MODEL,
        )
        for n, of in enumerate(steps)
    ]
    found = search.first_that_fits(iter(candidates), compile_step, compiles=12, say=lambda line: None)
    assert (found and int(found.candidate.words)) == taken


def test_where_no_compiles_are_left_what_fits_is_named() -> None:
    candidates = [
        search.Candidate(str(n), dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, seed=n)), MODEL)
        for n in range(40)
    ]
    found = search.first_that_fits(
        iter(candidates),
        lambda config, _: fake(1e9, config.train.seed >= 20, 1.0),
        compiles=4,
        say=lambda line: None,
    )
    assert found is not None and found.candidate.words == "20"
    assert search.first_that_fits(iter([]), lambda *_: fake(1e9, True, 1.0), compiles=4, say=lambda line: None) is None


def test_one_device_is_given_no_mesh() -> None:
    assert not [found.words for found in search.remedies(CONFIG, MODEL, 1, "gpu") if "mesh" in found.words]
