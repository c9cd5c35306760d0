"""What a run says: the command that goes on is one that can be typed."""

import pytest

from jgpt import report, simulated
from jgpt.config import Config

PLACE = ["--distributed.coordinator", "a:1", "--distributed.num_processes", "2"]


@pytest.mark.parametrize(
    ("given", "simulates", "expected"),
    [
        (
            ["--run.on-existing=overwrite", "--optim.peak-lr", "1e-3"],
            False,
            "python train.py c.py --optim.peak-lr 1e-3",
        ),
        # each process has its own number, which the user fills in
        (
            [*PLACE, "--distributed.process-id", "1"],
            False,
            f"python train.py c.py {' '.join(PLACE)} --distributed.process-id I",
        ),
        # jgpt simulate gives each its place
        ([*PLACE, "--distributed.process-id", "1", "--run.dir", "a b"], True, "jgpt simulate c.py --run.dir 'a b'"),
    ],
)
def test_the_command_that_goes_on_can_be_typed(given: list[str], simulates: bool, expected: str, monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py", "c.py", *given, "--train.steps", "3"])
    if simulates:
        monkeypatch.setenv(simulated.COMMAND, "jgpt simulate")
    else:
        monkeypatch.delenv(simulated.COMMAND, raising=False)
    words = report.command("c.py").replace(" --train.steps 3", "")
    assert words == expected
    on = report.continue_command(Config(), "c.py")
    assert on.count("--train.steps") == 1 and on.endswith(
        f"--train.steps {2 * Config().train.steps} --run.on-existing extend"
    )


def test_a_run_started_from_python_goes_on_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["kernel", "--f=1"])
    words = report.complete_message(Config(), report.IN_PYTHON)
    assert "run.on_existing='extend'" in words
    assert not any(word in words for word in ("CONFIG", "--f=1", "train.py"))
