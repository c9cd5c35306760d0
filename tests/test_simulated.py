"""Processes on one machine: their lines, their ends, and mistakes that are said once. Whole runs: test_distributed."""

import signal
import time
from typing import Any

import pytest

from jgpt import cli
from jgpt.simulated import Simulation, ending, simulate


def test_a_mistake_is_said_by_each_and_the_status_is_theirs() -> None:
    said: list[str] = []
    assert simulate(["configs/nowhere.py"], 2, 1, grace=30, say=said.append) == 2
    for number in (0, 1):
        assert any(line.startswith(f"[{number}] error: unknown config file 'configs/nowhere.py'") for line in said), (
            said
        )
    assert said[-1] == "process 0 ended with status 2; process 1 ended with status 2"


def test_who_does_not_end_is_killed_and_named() -> None:
    said: list[str] = []
    with Simulation(["configs/trio.py", "--run.dir", "/nonexistent/x"], 2, 1, said.append) as simulation:
        simulation.children[1].process.send_signal(signal.SIGSTOP)  # alive, and deaf
        simulation.children[0].process.send_signal(signal.SIGKILL)
        assert simulation.wait(grace=0.5) == 128 + signal.SIGKILL
    assert "process 0 was killed by SIGKILL" in said
    assert "process 1 did not end within 0.5 s and must be killed" in said


@pytest.mark.parametrize("name", ["processes", "devices-per-process"])
def test_numbers_are_checked(name: str, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("sys.argv", ["jgpt", "simulate", "configs/trio.py", f"--{name}", "0"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2 and f"{name} is 0: must be at least 1" in capsys.readouterr().err


def test_the_place_of_a_process_is_not_the_users(monkeypatch, capsys: pytest.CaptureFixture) -> None:
    words = ["jgpt", "simulate", "configs/trio.py", "--distributed.process-id", "1"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit):
        cli.main()
    assert "--distributed.process-id: simulate gives each process its place" in capsys.readouterr().err


def test_endings_in_words() -> None:
    assert [ending(s) for s in (0, 75, -9)] == ["is done", "ended with status 75", "was killed by SIGKILL"]


def test_processes_that_were_started_end_where_another_cannot_be(monkeypatch) -> None:
    started, simulation = [], Simulation(["configs/trio.py"], 2, 1, [].append)
    start = simulation._start

    def fails(number: int, port: int) -> Any:
        if number == 1:
            raise OSError(11, "Resource temporarily unavailable")
        started.append(start(number, port))
        return started[-1]

    monkeypatch.setattr(simulation, "_start", fails)
    with pytest.raises(OSError, match="Resource"), simulation:
        pass
    assert started[0].process.wait(10) == -signal.SIGKILL


def test_who_goes_on_when_the_others_are_done_is_killed_and_named() -> None:
    said: list[str] = []
    with Simulation(["configs/trio.py", "--help"], 2, 1, said.append) as simulation:
        simulation.children[1].process.send_signal(signal.SIGSTOP)
        assert simulation.wait(grace=0.5) == 128 + signal.SIGKILL
    assert "process 1 did not end within 0.5 s and must be killed" in said


def test_where_nobody_hears_the_processes_are_stopped_and_none_waits_for_its_pipe() -> None:
    def closed(line: str) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    simulation = Simulation(["configs/trio.py"], 2, 1, closed)
    lines = iter(f"line {i}" for i in range(1000))
    simulation._pass_on(0, lines)
    assert next(lines, None) is None and simulation.unheard.is_set()
    begun = time.monotonic()
    with Simulation(["configs/trio.py", "--run.dir", "/nonexistent/x"], 2, 1, closed) as simulation:
        assert simulation.wait(grace=20) != 0
    assert time.monotonic() - begun < 40
