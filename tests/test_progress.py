"""What training says where output goes to a file: time left by the steps that were measured, compiling left out."""

import pytest

from jgpt import progress


def test_the_time_left_counts_measured_steps_alone(monkeypatch: pytest.MonkeyPatch):
    clock, said = [1000.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(progress, "say", said.append)
    with progress.TrainProgress(100, 200) as shown:
        for seconds, step in ((60.0, 101), (20.0, 111), (1.0, 112), (19.0, 121), (158.0, 200)):  # compiling took 60
            clock[0] += seconds
            shown.update(step, 2.0, 50.0, None)
    assert [line.split("tok/s")[1].strip() for line in said] == ["", "178 s left", "158 s left", "0 s left"]


def test_what_utf8_cannot_express_is_said_as_an_escape(capsys: pytest.CaptureFixture):
    progress.say("caf\udce9.txt")
    assert capsys.readouterr().out == "caf\\udce9.txt\n"
