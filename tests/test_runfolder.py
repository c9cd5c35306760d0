"""A run's folder: never touched when it is not a run, resumed only by the same config, extended only forwards."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from jgpt import configio, runfolder
from jgpt.config import Config, RunConfig, TrainConfig


def config(folder: Path, on_existing: Any = "resume", **train: Any) -> Config:
    return Config(run=RunConfig(dir=str(folder), on_existing=on_existing), train=TrainConfig(**train))


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return the folder of a run that has a metrics file and a report."""
    folder = tmp_path / "runs" / "one"
    runfolder.prepare(config(folder, steps=100))
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    (folder / "report.json").write_text("{}")
    return folder


def test_new_folder_holds_the_config_alone(tmp_path: Path):
    wanted = config(tmp_path / "a" / "b")
    folder = runfolder.prepare(wanted)
    assert list(files(folder.root)) == ["config.json"]
    assert configio.load(folder.config) == wanted
    assert runfolder.open_existing(folder.root) == (folder, wanted)


def test_empty_folder_is_taken(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    assert runfolder.prepare(config(tmp_path / "empty")).config.is_file()


def test_same_config_resumes_and_keeps_everything(run: Path):
    before = files(run)
    runfolder.prepare(config(run, steps=100))
    assert files(run) == before


@pytest.mark.parametrize("on_existing", ["resume", "extend"])
def test_changed_config_is_refused_naming_old_and_new(run: Path, on_existing: str):
    before = files(run)
    with pytest.raises(ValueError) as caught:
        runfolder.prepare(config(run, on_existing, steps=100, seed=7, batch_size=8))
    for word in ("train.seed was 0, now 7", "train.batch_size was 16, now 8", "--run.dir", "extend", "overwrite"):
        assert word in str(caught.value)
    assert files(run) == before


def test_more_steps_need_extend(run: Path):
    with pytest.raises(ValueError, match="train.steps was 100, now 200.*--run.on-existing extend"):
        runfolder.prepare(config(run, steps=200))
    assert (run / "report.json").exists()
    runfolder.prepare(config(run, "extend", steps=200))
    assert not (run / "report.json").exists()  # no longer complete
    assert (run / "metrics.jsonl").exists()
    assert configio.load(run / "config.json").train.steps == 200
    runfolder.prepare(config(run, steps=200))  # from here on it is a run of 200 steps, resumed as usual


def test_extend_cannot_go_back(run: Path):
    before = files(run)
    with pytest.raises(ValueError, match="train.steps 50 is below the run's 100"):
        runfolder.prepare(config(run, "extend", steps=50))
    assert files(run) == before


def test_overwrite_empties_the_folder_once(run: Path):
    runfolder.prepare(config(run, "overwrite", steps=100, seed=7))
    assert list(files(run)) == ["config.json"]
    saved = configio.load(run / "config.json")
    assert saved.train.seed == 7
    assert saved.run.on_existing == "resume"  # a run that is started again from its own config must not delete itself


def test_overwrite_keeps_a_link_to_another_disk(run: Path, tmp_path: Path):
    run.rename(tmp_path / "scratch")
    run.symlink_to(tmp_path / "scratch")
    runfolder.prepare(config(run, "overwrite", steps=100, seed=7))
    assert run.is_symlink() and list(files(tmp_path / "scratch")) == ["config.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs", "scratch"]


@pytest.mark.parametrize("on_existing", ["resume", "overwrite", "extend"])
def test_folder_that_is_no_run_is_never_touched(tmp_path: Path, on_existing: str):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError) as caught:
        runfolder.prepare(config(tmp_path, on_existing))
    assert all(word in str(caught.value) for word in (repr(str(tmp_path)), "config.json", "choose another --run.dir"))
    assert files(tmp_path) == {"thesis.txt": "years of work"}


@pytest.mark.parametrize("on_existing", ["resume", "overwrite", "extend"])
def test_config_json_of_another_program_is_never_touched(tmp_path: Path, on_existing: str):
    (tmp_path / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}')
    (tmp_path / "model.safetensors").write_text("weights")
    before = files(tmp_path)
    with pytest.raises(ValueError, match="architectures|not a run"):
        runfolder.prepare(config(tmp_path, on_existing))
    assert files(tmp_path) == before


def test_file_in_place_of_the_folder_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(ValueError, match="run.dir .*file' is a file: choose another --run.dir"):
        runfolder.prepare(config(tmp_path / "file"))


def test_opening_what_is_no_run_says_what_to_do(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist: train it first, e.g. python train.py"):
        runfolder.open_existing(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="not a run folder .*config.json.*train.py"):
        runfolder.open_existing(tmp_path)


def test_names_in_a_run_are_distinct(tmp_path: Path):
    folder = runfolder.RunFolder(tmp_path)
    names = [name for name, value in vars(runfolder.RunFolder).items() if isinstance(value, property)]
    paths = {getattr(folder, name) for name in names}
    assert len(paths) == len(names) and all(path.parent == tmp_path for path in paths)
    assert dataclasses.fields(folder)[0].name == "root"


def write_metrics(path: Path, steps: list[int], tail: str = "") -> None:
    path.write_text("".join(json.dumps({"step": step, "loss": step / 10}) + "\n" for step in steps) + tail)


@pytest.mark.parametrize("tail", ["", '{"step": 2', '{"step": 2, "loss": 0.', "{", '"'])
def test_resuming_drops_later_records_and_a_half_line(tail: str, tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    write_metrics(path, [1, 10, 10, 20, 30], tail)
    runfolder.truncate_metrics(path, 20)
    assert [record["step"] for record in runfolder.read_metrics(path)] == [1, 10, 10, 20]
    assert path.read_text().endswith("\n")  # the next record begins its own line
    before = path.read_text()
    runfolder.truncate_metrics(path, 20)
    assert path.read_text() == before


def test_a_run_without_checkpoint_starts_with_empty_metrics(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    runfolder.truncate_metrics(path, 0)
    assert not path.exists() and runfolder.read_metrics(path) == []
    write_metrics(path, [1, 2])
    runfolder.truncate_metrics(path, 0)
    assert path.read_text() == ""


@pytest.mark.parametrize("on_existing", ["resume", "overwrite", "extend"])
def test_checking_changes_nothing(tmp_path, on_existing):
    run = tmp_path / "run"
    runfolder.prepare(config(run, steps=100))
    (run / "report.json").write_text("{}")
    before = {path: path.read_bytes() for path in run.iterdir()}
    runfolder.check(config(run, on_existing, steps=100))
    runfolder.check(config(tmp_path / "new", on_existing, steps=100))
    assert {path: path.read_bytes() for path in run.iterdir()} == before and not (tmp_path / "new").exists()


@pytest.mark.parametrize("content", ["", "[]", '{"model": 3}', '{"name": "x"}', '{"architectures": ["GPT2"]}'])
@pytest.mark.parametrize("on_existing", ["resume", "overwrite", "extend"])
def test_folder_with_a_foreign_or_broken_config_is_named_and_kept(run: Path, content: str, on_existing: str):
    (run / "config.json").write_text(content)
    before = files(run)
    for use in (lambda: runfolder.prepare(config(run, on_existing, steps=100)), lambda: runfolder.open_existing(run)):
        with pytest.raises(ValueError, match="is not a run folder .*name another folder"):
            use()
    assert files(run) == before


def test_run_that_was_killed_while_it_made_its_folder_starts_again(tmp_path: Path):
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "config.tmp").write_text('{"ru')
    runfolder.prepare(config(folder))
    assert list(files(folder)) == ["config.json"]


def test_overwriting_leaves_nothing_behind(run: Path):
    runfolder.prepare(config(run, "overwrite", steps=50))
    assert [path.name for path in run.parent.iterdir()] == ["one"]
    assert list(files(run)) == ["config.json"]


def test_data_laid_down_for_the_other_processes_are_no_run_and_survive_an_overwriting(run: Path, tmp_path: Path):
    early = runfolder.RunFolder(tmp_path / "early")
    early.shared_data.mkdir(parents=True)
    runfolder.check(config(early.root, steps=50))  # a run that was killed before it began
    shared = runfolder.RunFolder(run).shared_data
    shared.mkdir()
    (shared / "mapped").write_text("by others")
    runfolder.prepare(config(run, "overwrite", steps=50))
    assert sorted(files(run)) == ["config.json", "data-of-all/mapped"]
    assert [path.name for path in run.parent.iterdir() if path.name.startswith(".")] == []


def test_processes_know_by_its_signature_that_they_see_the_same_folder(run: Path, tmp_path: Path):
    number = runfolder.sign(run)
    runfolder.require_signed(run, number)
    own = tmp_path / "of another host"
    shutil.copytree(run, own)
    (own / runfolder.SIGNATURE).write_text(str(number ^ 1))  # from a run of its own
    for elsewhere in (tmp_path / "none", own):
        with pytest.raises(ValueError, match="is not the folder that process 0 has prepared"):
            runfolder.require_signed(elsewhere, number, seconds=0.01)
    runfolder.require_same(config(run, steps=100), config(run, steps=100))
    with pytest.raises(ValueError, match="train.steps is 100 on process 0 and 70 here.*the same command"):
        runfolder.require_same(config(run, steps=100), config(run, steps=70))
