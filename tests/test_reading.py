"""Who reads: process 0 alone, and the others map what it has laid down for as long as the run lasts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_heartbeat import Store, beating

from jgpt import reading, runfolder
from jgpt.config import Config, DataConfig, ModelConfig, RunConfig, TaskConfig
from jgpt.runfolder import RunFolder


@pytest.fixture
def config(tmp_path: Path) -> Config:
    text = tmp_path / "text.txt"
    text.write_text("a sentence, and another one. " * 20)
    return Config(
        run=RunConfig(dir=str(tmp_path / "runs" / "one")),
        model=ModelConfig(context_length=8, windows=(None,)),
        data=DataConfig(tasks={"text": TaskConfig(kind="text", source="path", path=str(text))}),
    )


class Two:
    """Plays process 0 or 1 of two."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.number = 0
        self.made: dict[str, int] = {}
        monkeypatch.setattr(reading.jax, "process_count", lambda: 2)
        monkeypatch.setattr(reading.distributed, "is_first", lambda: self.number == 0)
        monkeypatch.setattr(reading.distributed, "made_by_first", self.made_by_first)

    def made_by_first(self, name: str, make: Callable[[], int]) -> int:
        if self.number == 0:
            self.made[name] = make()
        return self.made[name]


def test_the_first_reads_and_the_other_maps_until_all_have_ended(config: Config, monkeypatch) -> None:
    two, folder = Two(monkeypatch), RunFolder(Path(config.run.dir))
    with beating(Store(), 0, [], processes=1) as heartbeat:
        read = reading.read_once(config, folder, heartbeat)
        Path(config.data.tasks["text"].path or "").unlink()  # the other host has no data
        two.number = 1
        mapped = reading.read_once(config, folder, None)
        for row in range(len(read.tasks["text"].train)):
            for one, other in zip(read.tasks["text"].train[row], mapped.tasks["text"].train[row], strict=True):
                np.testing.assert_array_equal(one, other)
        assert folder.shared_data.is_dir()
    assert not folder.root.exists(), "a run that has not begun leaves no folder"


def test_another_config_or_folder_is_said_as_such(config: Config, tmp_path: Path, monkeypatch) -> None:
    two, folder = Two(monkeypatch), RunFolder(Path(config.run.dir))
    reading.read_once(config, folder, None)
    two.number = 1
    renamed = replace(config, data=replace(config.data, tasks={"book": config.data.tasks["text"]}))
    with pytest.raises(
        ValueError, match="data.tasks.* on process 0 and .* here.*start all processes with the same command"
    ):
        reading.read_once(renamed, folder, None)
    monkeypatch.setattr(runfolder, "SEEN_SECONDS", 0.01)
    with pytest.raises(ValueError, match="must lie on a file system that all processes share"):
        reading.read_once(config, RunFolder(tmp_path / "elsewhere"), None)


def test_what_a_killed_run_left_is_discarded_and_a_run_is_kept(config: Config, monkeypatch) -> None:
    Two(monkeypatch)
    folder = RunFolder(Path(config.run.dir))
    for _ in range(2):  # the second time over what the first left
        reading.discard(folder)
        reading.read_once(config, folder, None)
    runfolder.prepare(config)
    reading.discard(folder)
    assert [path.name for path in folder.root.iterdir()] == ["config.json"]


def test_bad_data_leave_nothing(config: Config, monkeypatch) -> None:
    Two(monkeypatch)
    Path(config.data.tasks["text"].path or "").write_text("")
    with beating(Store(), 0, [], processes=1) as heartbeat, pytest.raises(ValueError, match="text.txt"):
        reading.read_once(config, RunFolder(Path(config.run.dir)), heartbeat)
    assert not Path(config.run.dir).exists()
