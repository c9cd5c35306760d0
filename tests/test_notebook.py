"""Training from Python: two lists become a run that resumes, scores and answers like any other."""

import dataclasses
from pathlib import Path

import pytest

import jgpt
from jgpt import presets
from jgpt.config import Config, DataConfig, EvalConfig, RunConfig, TaskConfig, TrainConfig
from jgpt.data import sources
from jgpt.data.examples import QuestionAnswer
from jgpt.tasks.qa import from_lists

QUESTIONS, ANSWERS = [f"{i}?" for i in range(12)], ["yes" if i % 2 else "no" for i in range(12)]


def config(folder: Path) -> Config:
    return Config(
        run=RunConfig(dir=str(folder / "run")),
        model=presets.modern(num_layers=1, embed_dim=16, num_heads=2, context_length=16),
        data=DataConfig(tasks={"qa": TaskConfig(kind="qa")}),
        optim=dataclasses.replace(Config().optim, warmup_steps=1),
        train=TrainConfig(steps=2, batch_size=8),
        eval=EvalConfig(every_steps=2),
    )


@pytest.mark.slow
def test_lists_train_a_model_whose_data_stay_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.argv", ["notebook"])
    model = jgpt.train(config(tmp_path), qa=from_lists(QUESTIONS, ANSWERS))
    assert model.step == 2 and isinstance(model.answer("1?"), str)
    kept = sources.read(model.config.data.tasks["qa"], model.config.data, model.config.train.seed)
    assert {e.question for e in (*kept.train, *kept.validation)} == set(QUESTIONS)
    assert jgpt.train(config(tmp_path), qa=from_lists(QUESTIONS, ANSWERS)).step == 2  # complete: nothing is trained


def test_other_examples_do_not_replace_those_of_a_run(tmp_path: Path):
    kept = tmp_path / "run.data" / "qa.jsonl"
    kept.parent.mkdir()
    kept.write_text("earlier ones")
    (tmp_path / "run").mkdir()
    with pytest.raises(ValueError, match="holds other examples than the 12 given.*Use another run.dir"):
        jgpt.train(config(tmp_path), qa=from_lists(QUESTIONS, ANSWERS))
    assert kept.read_text() == "earlier ones" and [path.name for path in kept.parent.iterdir()] == ["qa.jsonl"]


def test_examples_of_a_run_that_never_began_are_replaced(tmp_path: Path):
    with pytest.raises(ValueError, match="1 questions cannot be split"):
        jgpt.train(config(tmp_path), qa=from_lists(QUESTIONS[:1], ANSWERS[:1]))
    with pytest.raises(ValueError, match="begins '(long|also).* must stay whole"):  # of these, not of the first
        jgpt.train(config(tmp_path), qa=from_lists(["long" * 20 + "?", "also" * 20 + "?"], ANSWERS[:2]))


def test_mistakes_are_named_before_anything_is_written(tmp_path: Path):
    with pytest.raises(ValueError, match="unknown task of the config 'q'.*'qa'"):
        jgpt.train(config(tmp_path), q=[QuestionAnswer("a?", "b")])
    with pytest.raises(ValueError, match="examples of task 'qa' are empty"):
        jgpt.train(config(tmp_path), qa=[])
    assert not any(tmp_path.iterdir())
