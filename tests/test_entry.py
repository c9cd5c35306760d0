"""Entry points: help is instant and opens no accelerator; a user's mistake is one line, what to do, and exit code 2."""

import errno
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from jgpt.entry import user_errors

REPOSITORY = Path(__file__).parents[1]
HELP_SECONDS = 2.0  # of processor time, so that other work on the machine does not count; jax alone takes longer
HEAVY = ("jax", "flax", "optax", "orbax", "grain", "matplotlib", "sklearn", "tensorflow_datasets")
PROBE = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("LOADED", *sorted({name.partition(".")[0] for name in sys.modules}))
"""


def command(*words: str, cwd: Path = REPOSITORY, probe: bool = False) -> subprocess.CompletedProcess:
    first = [sys.executable, "-c", PROBE] if probe else [sys.executable]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}
    return subprocess.run(
        [*first, str(REPOSITORY / words[0]), *words[1:]], cwd=cwd, env=environment, capture_output=True, text=True
    )


def said(result: subprocess.CompletedProcess) -> str:
    """Return what was printed to stderr as one line, without the boxes that tyro draws."""
    return " ".join(re.sub("[│─╭╮╰╯]", " ", result.stderr).split())


@pytest.mark.parametrize(
    "words", [["train.py"], ["sample.py"], ["jgpt/cli.py"], ["jgpt/cli.py", "evaluate"]], ids=" ".join
)
def test_help_is_instant_and_loads_nothing_heavy(words: list[str]):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = command(*words, "--help", probe=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0 and "usage" in result.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < HELP_SECONDS
    loaded = result.stdout.rpartition("LOADED")[2].split()
    assert "argparse" in loaded and not set(HEAVY) & set(loaded)


def test_train_help_shows_every_section_and_the_config_s_own_defaults():
    shown = command("train.py", "--help").stdout
    for flag in ("--run.dir", "--model.num-layers", "--tokenizer.text", "--data.tasks.text.weight", "--mesh.fsdp"):
        assert flag in shown
    assert "runs/trio" in shown


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--train.stepz", "5"], ["--train.stepz", "--train.steps"]),
        (["--model.num_layer", "5"], ["--model.num", "--model.num-layers"]),
        (["--train.steps", "0"], ["train.steps is 0", "at least 1"]),
        (["--train.steps", "many"], ["--train.steps", "'many'"]),
        (["--model.norm", "batchnorm"], ["--model.norm", "'batchnorm'", "'rmsnorm'"]),
        (["--data.tasks.text.weight", "0"], ["weight is 0.0", "drop the task"]),
        (["--optim.warmup-steps", "5000"], ["optim.warmup_steps 5000", "train.steps", "lower optim.warmup_steps"]),
        (["configs/trioo.py"], ["error: unknown config file 'configs/trioo.py'", "Did you mean 'configs/trio.py'"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_mistakes_in_training_leave_with_2_before_jax(words: list[str], expected: list[str]):
    result = command("train.py", *words, probe=True)
    assert result.returncode == 2
    assert all(word in said(result) for word in expected), said(result)
    assert "Traceback" not in result.stderr
    assert "jax" not in result.stdout.rpartition("LOADED")[2].split()


def test_config_is_found_from_any_folder(tmp_path: Path):
    assert command("train.py", "--help", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--text", "hi", "--temperature", "-1"], ["error: temperature is -1.0", "--temperature 0"]),
        (["--text", "hi", "--top-p", "1.5"], ["error: top_p is 1.5", "--top-p"]),
        (["--text", "hi", "-n", "0"], ["error: -n is 0", "at least 1"]),
        (
            ["--image", "3", "--max-new-tokens", "4"],
            ["error: --max-new-tokens does not apply to --image", "leave it out"],
        ),
        (["--text", "hi", "--question", "why?"], ["error: argument --question: not allowed with argument --text"]),
        ([], ["error: one of the arguments --text --question --chat --interactive --image --score is required"]),
        (["--text", "hi", "--system", "Be."], ["error: --system does not apply to --text: leave it out"]),
        (["--chat", "hi", "--context", "x"], ["error: --context does not apply to --chat"]),
        (["--score", "hi", "--seed", "3"], ["error: --seed does not apply to --score"]),
        (["--question", "hi", "-n", "2", "--choices", "a", "b"], ["error: -n does not apply to --choices"]),
        (["--chat", "hi", "--chat", "you", "-n", "2"], ["error: -n is 2 and --chat has 2 turns"]),
    ],
    ids=lambda value: " ".join(value[:3]),
)
def test_mistakes_in_sampling_leave_with_2_before_jax(words: list[str], expected: list[str]):
    result = command("sample.py", "nowhere", *words, probe=True)
    assert result.returncode == 2
    assert all(word in said(result) for word in expected), said(result)
    assert "Traceback" not in result.stderr
    assert "jax" not in result.stdout.rpartition("LOADED")[2].split()


@pytest.mark.parametrize("error", [ValueError, FileNotFoundError, OSError, FloatingPointError, ModuleNotFoundError])
def test_errors_a_user_can_mend_become_one_line(error: type[Exception], capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as caught, user_errors():
        raise error("the loss is nan: lower optim.peak_lr.")
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: the loss is nan: lower optim.peak_lr.\n"


@pytest.mark.parametrize("error", [TypeError, KeyError, ZeroDivisionError])
def test_our_own_bugs_keep_their_traceback(error: type[BaseException]):
    with pytest.raises(error), user_errors():
        raise error("a bug")


def test_interrupting_where_nothing_is_in_progress_is_one_line(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as caught, user_errors():
        raise KeyboardInterrupt
    assert caught.value.code == 130
    assert capsys.readouterr().err.startswith("interrupted; what was saved before stays")


def test_traceback_can_be_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JGPT_TRACEBACK", "1")
    with pytest.raises(ValueError, match="where did it arise"), user_errors():
        raise ValueError("where did it arise?")


def test_a_full_disk_says_what_to_do(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit), user_errors():
        raise OSError(errno.ENOSPC, "No space left on device", "runs/trio/metrics.jsonl")
    said = capsys.readouterr().err
    assert "runs/trio/metrics.jsonl" in said and "free some space" in said
