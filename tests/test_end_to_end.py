"""Whole runs on real input: resumed = unbroken to the bit, killed at any moment, sampled and scored by the commands."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import jgpt
from jgpt import cli, loop, runfolder, sampler, sampler_check
from jgpt.checkpoint import Checkpoints
from jgpt.config import MeshConfig, TokenizerConfig
from jgpt.configio import load_config_file
from jgpt.sampler_check import check_sampler, programs_in_steady_state
from jgpt.sampling import Sampling

ROOT = Path(__file__).parent.parent
STEPS = 12
CARD = f"""
from jgpt import presets
from jgpt.config import *

def get_config():
    return Config(
        run=RunConfig(dir="RUN"),
        model=presets.modern(num_layers=2, embed_dim=32, num_heads=2, context_length=134, ngrams=(2,), ngram_rows=64),
        tokenizer=TokenizerConfig(image="grey", image_levels=17),
        data=DataConfig(tasks={{
            "text": TaskConfig(kind="text", source="path", path="TEXT", weight=2),
            "addition": TaskConfig(kind="qa", source="addition", validation_fraction=0.2),
            "digits": TaskConfig(kind="image", source="sklearn_digits", validation_fraction=0.2),
        }}),
        train=TrainConfig(steps={STEPS}, batch_size=8, log_every_steps=2),
        optim=OptimConfig(warmup_steps=2, ema_decay=0.9),
        eval=EvalConfig(every_steps=6, max_questions=8),
        checkpoint=CheckpointConfig(every_steps=3),
        mesh=MeshConfig(data=1),
    )
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Return a text file: the tests' own sources."""
    path = tmp_path_factory.mktemp("data") / "text.txt"
    path.write_text("\n".join(p.read_text() for p in sorted(Path(__file__).parent.glob("test_*.py"))))
    return path


def card(folder, text):
    path = folder / "card.py"
    path.write_text(CARD.replace("RUN", str(folder / "run")).replace("TEXT", str(text)))
    return path


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, text):
    """Train without a break; return the run folder."""
    path = card(tmp_path_factory.mktemp("unbroken"), text)
    config = load_config_file(path)
    loop.train(config, str(path))
    return Path(config.run.dir)


def assert_same_parameters(one, other):
    a, b = jgpt.load(one), jgpt.load(other)
    assert a.step == b.step == STEPS
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)


def test_a_run_leaves_what_it_promises(unbroken):
    records = runfolder.read_metrics(unbroken / "metrics.jsonl")
    assert [r["step"] for r in records if "loss" in r] == [1, 2, 4, 6, 8, 10, 12]
    assert all(r["tokens_per_second"] > 0 for r in records if "loss" in r)
    scores = json.loads((unbroken / "report.json").read_text())["scores"]
    assert {"text/bits_per_byte", "addition/exact_match", "digits/bits_per_dim"} <= set(scores)
    for name in ("config.json", "plots/loss.png", "plots/digits.png", "tokenizer/tokenizer.json", "tensorboard"):
        assert (unbroken / name).exists(), name


def text_alone(folder, text, **sections):
    """Return the card's config with its text alone, sections changed."""
    config = load_config_file(card(folder, text))
    data = dataclasses.replace(config.data, tasks={"text": config.data.tasks["text"]})
    changed = {name: dataclasses.replace(getattr(config, name), **fields) for name, fields in sections.items()}
    return dataclasses.replace(config, data=data, tokenizer=TokenizerConfig(), **changed)


def checkpoints_of(config):
    """Return the complete steps of a run."""
    folder = runfolder.RunFolder(Path(config.run.dir)).checkpoints
    return Checkpoints(folder, every_steps=1, keep_latest=1, keep_best=0).steps()


def test_every_step_that_is_validated_can_be_the_best(tmp_path, text):
    config = text_alone(
        tmp_path,
        text,
        eval=dict(every_steps=5, samples=False),
        checkpoint=dict(every_steps=9, keep_latest=9, keep_best=9),
    )
    loop.train(config, "card.py")
    assert checkpoints_of(config) == [5, 9, 10, 12]


@pytest.mark.parametrize(
    ("rate", "what"),
    [(1e30, "the norm of the parameters of step 1 is inf"), (1e12, "of step [2-9] is (nan|inf)")],
)
def test_a_state_that_has_diverged_is_neither_scored_nor_saved(rate, what, tmp_path, text):
    config = text_alone(
        tmp_path,
        text,
        optim=dict(name="adamw", peak_lr=rate, warmup_steps=0),
        eval=dict(every_steps=1),
        checkpoint=dict(every_steps=1),
        train=dict(log_every_steps=9),
    )
    with pytest.raises(FloatingPointError, match=what):
        loop.train(config, "card.py")
    scored = {r["step"] for r in runfolder.read_metrics(Path(config.run.dir) / "metrics.jsonl") if "loss" not in r}
    assert scored == set(checkpoints_of(config))
    for at in checkpoints_of(config):
        params = jgpt.load(config.run.dir, step=at).params
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_a_complete_run_says_so(unbroken, text, capsys):
    path = unbroken.parent / "card.py"
    loop.train(load_config_file(path), str(path))
    out = capsys.readouterr().out
    assert "is complete" in out and "--run.on-existing extend" in out and "jgpt evaluate" in out


def test_interrupted_and_resumed_equals_unbroken(unbroken, tmp_path, text, monkeypatch, capsys):
    path = card(tmp_path, text)

    class AfterSeven:
        """Ask to stop in the seventh step, as SIGTERM would."""

        steps = 0

        def __init__(self, together):
            assert not together

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        @property
        def signum(self):
            AfterSeven.steps += 1
            return signal.SIGTERM if AfterSeven.steps >= 7 else 0

    with monkeypatch.context() as patch:
        patch.setattr(loop, "Interrupt", AfterSeven)
        with pytest.raises(SystemExit) as left:
            loop.train(load_config_file(path), str(path))
    assert left.value.code == 128 + signal.SIGTERM and "To continue" in capsys.readouterr().out
    assert not (tmp_path / "run" / "report.json").exists()
    loop.train(load_config_file(path), str(path))
    assert_same_parameters(unbroken, tmp_path / "run")
    losses = [[r["loss"] for r in runfolder.read_metrics(run / "metrics.jsonl") if r["step"] == STEPS and "loss" in r]
              for run in (unbroken, tmp_path / "run")]  # fmt: skip
    assert losses[0] == losses[1]


def test_samples_have_their_form_and_their_seed(unbroken):
    model = jgpt.load(unbroken)
    first, again, other = (model.generate("import ", n=2, seed=s, max_new_tokens=20) for s in (1, 1, 2))
    assert first == again != other
    assert isinstance(model.answer("37+45="), str)
    pictures = model.draw("7", n=3).array
    assert pictures.shape == (3, 8, 8) and set(np.unique(pictures)) <= set(np.rint(np.arange(17) * 255 / 16))


@pytest.mark.slow
@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
def test_a_run_laid_over_devices_scores_and_samples_as_on_one(unbroken):
    one, laid = jgpt.load(unbroken), jgpt.load(unbroken, mesh=MeshConfig(data=2, fsdp=2, tensor=2))
    kernel = laid.params["blocks"]["mlp"]["up"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 4
    text = "The import statement"
    np.testing.assert_allclose(laid.score(text).nats, one.score(text).nats, rtol=1e-5)
    greedy = {"sampling": Sampling(temperature=0), "max_new_tokens": 20, "n": 2}
    assert laid.generate(text, **greedy) == one.generate(text, **greedy)


@pytest.mark.slow
def test_a_run_without_samples_is_scored_by_likelihood(tmp_path, text, unbroken):
    path = card(tmp_path, text)
    path.write_text(path.read_text().replace("max_questions=8", "max_questions=8, samples=False"))
    config = load_config_file(path)
    loop.train(config, str(path))
    full, without = (json.loads((Path(run) / "report.json").read_text()) for run in (unbroken, config.run.dir))
    assert without["scores"].items() < full["scores"].items()
    left = full["scores"].keys() - without["scores"].keys()
    assert left == {f"addition/{name}" for name in ("exact_match", "f1", "questions", "questions_held_out")}
    kinds = {key for record in runfolder.read_metrics(Path(config.run.dir) / "metrics.jsonl") for key in record}
    assert not any("sample" in key for key in kinds) and "text/nats_per_token" in kinds


def test_a_stream_adds_up_and_stop_strings_end_texts(unbroken):
    model = jgpt.load(unbroken)
    options = {"sampling": Sampling(temperature=1.0), "seed": 4, "max_new_tokens": 40}
    (whole,) = model.generate("import ", **options)
    assert "".join(model.stream("import ", **options)) == whole and len(whole) > 10
    stop = whole[5:7]
    (cut,) = model.generate("import ", stop=[stop], **options)
    assert cut == whole[: whole.index(stop)] == "".join(model.stream("import ", stop=[stop], every=3, **options))
    done = model.complete("text", ["import "], stop=[stop], top=3, **options)
    assert done.samples.finished == ["stop"]
    assert len(done.samples.tokens[0]) == len(done.samples.logprobs[0]) == len(done.samples.top[0][0])
    assert "".join(model.stream("37+45=", "qa")) == model.answer("37+45=")
    with pytest.raises(ValueError, match="draws pictures"):
        model.complete("digits", ["7"], stop=["x"])


@pytest.mark.slow  # .ci/run proves the sampler of another run as well
def test_the_sampler_is_proved_on_the_run_and_a_wrong_one_is_found(unbroken):
    """All modes agree on the trained model; likelihoods or ids that are not its own are found."""
    model = jgpt.load(unbroken)
    found = check_sampler(model, rows=3, new_tokens=8)
    assert len(found) == 10 and all(each.passed for each in found)
    assert all(each.tokens > 0 for each in found)
    assert programs_in_steady_state(model, rows=3, new_tokens=8) == 0
    wrong = sampler.Samples([np.array([5, 100])], ["length"], [np.array([-0.1, -0.1])], [])
    prompts = [np.array([1, 2, 3])]
    expected = sampler_check.forward_logprobs(model.model, model.params, model.tokenizer.size, prompts, wrong)
    assert not sampler_check.against_forward("m", expected, expected, wrong, 1e-4).passed
    other = wrong._replace(tokens=[np.array([5, 120])])
    assert not sampler_check.against("m", expected, wrong, other, 1e-9).passed
    less = wrong._replace(logprobs=[np.array([-0.1, -0.2])])
    assert not sampler_check.against("m", expected, wrong, less, 1e-3).passed


@pytest.mark.slow
def test_in_int8_scores_are_near_and_texts_are_written(unbroken):
    plain, small = jgpt.load(unbroken), jgpt.load(unbroken, weights="int8", cache="int8")
    sizes = [sum(leaf.nbytes for leaf in jax.tree.leaves(model.params)) for model in (plain, small)]
    assert sizes[1] < 0.3 * sizes[0]
    assert all(a is b for a, b in zip(jax.tree.leaves(small.prepared), jax.tree.leaves(small.params), strict=True))
    nats = [model.score("The import statement finds a module.").nats for model in (plain, small)]
    assert nats[0] != nats[1] and abs(nats[0] - nats[1]) < 0.02 * nats[0]
    (text,) = small.generate("import ", max_new_tokens=20)
    assert text == small.generate("import ", max_new_tokens=20)[0] != ""
    with pytest.raises(ValueError, match="cache is 'int4': use 'int8'"):
        jgpt.load(unbroken, cache="int4")


def train(path, *extra, devices=1):
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(ROOT / "train.py"), str(path), *extra]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def last_step(metrics):
    """Return the last step whose loss stands in the file."""
    records = runfolder.read_metrics(metrics) if metrics.is_file() else []
    return max((r["step"] for r in records if "loss" in r), default=0)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_any_moment_equals_unbroken(tmp_path, text):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    whole, broken = card(tmp_path / "a", text), card(tmp_path / "b", text)
    process = train(whole)
    assert process.wait() == 0, process.stdout.read()
    metrics, rng, kills = tmp_path / "b" / "run" / "metrics.jsonl", random.Random(0), 0
    for reached in (2, 6, 10):  # by progress, not by the clock: a second start takes a fraction of the first's time
        process = train(broken)
        while process.poll() is None and last_step(metrics) < reached:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.3))  # in a step, a save, a validation
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    process = train(broken)
    assert process.wait() == 0, process.stdout.read()
    assert kills
    assert_same_parameters(tmp_path / "a" / "run", tmp_path / "b" / "run")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sigterm_saves_and_the_same_command_goes_on(tmp_path, text, unbroken):
    path = card(tmp_path, text)
    process = train(path)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while last_step(metrics) < 1:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out = process.communicate()[0]
    assert process.returncode == 128 + signal.SIGTERM and f"of {STEPS}. To continue: " in out, out
    process = train(path)
    out = process.communicate()[0]
    assert process.returncode == 0 and "continuing from step" in out, out
    assert jgpt.load(tmp_path / "run").step == STEPS


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_whole_run_on_a_mesh_equals_one_device(tmp_path, text):
    losses = []
    for name, options, devices in (("one", [], 1), ("mesh", ["--mesh.fsdp", "4", "--mesh.tensor", "2"], 8)):
        (tmp_path / name).mkdir()
        process = train(card(tmp_path / name, text), *options, devices=devices)
        out = process.communicate()[0]
        assert process.returncode == 0, out
        records = runfolder.read_metrics(tmp_path / name / "run" / "metrics.jsonl")
        losses.append([r["loss"] for r in records if "loss" in r])
    assert len(losses[0]) == 7
    np.testing.assert_allclose(losses[0], losses[1], atol=2e-4)  # f32 in another order, amplified over 12 steps of Muon


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_commands_of_the_readme(unbroken, tmp_path):
    def call(*command):
        environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
        return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, cwd=ROOT)

    out = call(
        "sample.py", str(unbroken), "--text", "def ", "-n", "2", "--temperature", "0.8", "--top-k", "40", "--seed", "1"
    )
    assert out.returncode == 0 and out.stdout.count("def ") >= 2, out.stderr
    out = call("sample.py", str(unbroken), "--image", "7", "-n", "5", "--out", str(tmp_path / "x" / "sevens.png"))
    assert out.returncode == 0 and (tmp_path / "x" / "sevens.png").stat().st_size > 100, out.stderr
    out = call("-m", "jgpt.cli", "evaluate", str(unbroken), "--json")
    scores = json.loads(out.stdout.splitlines()[-1])
    saved = json.loads((unbroken / "report.json").read_text())["scores"]
    assert scores["text/bits_per_byte"] == pytest.approx(saved["text/bits_per_byte"], abs=1e-6)
    assert scores["addition/exact_match"] == saved["addition/exact_match"]
    out = call("sample.py", str(unbroken), "--question", "37+45=", "--temperature", "-1")
    assert out.returncode == 2 and "temperature is -1" in out.stderr
    out = call("sample.py", str(tmp_path), "--question", "37+45=")
    assert out.returncode == 2 and "is not a run folder" in out.stderr
    out = call("sample.py", str(unbroken), "--text", "x" * 500)
    assert out.returncode == 2 and "model.context_length is 134" in out.stderr


@pytest.mark.slow
def test_drawings_are_compared_and_pixels_mapped(unbroken, tmp_path, capsys):
    def call(*command):
        arguments = cli.parser().parse_args([str(word) for word in command])
        arguments.call(arguments)
        return capsys.readouterr().out

    out = call("draw", unbroken, "--captions", "7", "3", "-n", "2", "--out", tmp_path / "new", "--temperature", "0.9")
    distances = json.loads((tmp_path / "new" / "digits_drawn.json").read_text())
    assert distances["captions"] == ["7", "3"] and distances["drawn"] == 4 and distances["ratio"] > 0
    assert (distances["temperature"], distances["guidance"]) == (0.9, 1.0)
    assert "4 pictures of 2 captions" in out and f"ratio {distances['ratio']:.2f}" in out
    assert (tmp_path / "new" / "digits_drawn.png").stat().st_size > 1000
    out = call("surprise", unbroken, "--held-out", "3", "--out", tmp_path / "map.png")
    assert "bits per dim over 3 pictures" in out and (tmp_path / "map.png").stat().st_size > 1000
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "black.png")
    out = call("surprise", unbroken, tmp_path / "black.png", "--caption", "7", "--out", tmp_path / "map.png")
    assert "bits per dim over 1 picture:" in out
