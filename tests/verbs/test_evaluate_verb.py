"""What the command line of `jgpt evaluate` changes of a run's settings."""

import argparse

import pytest

from jgpt.config import DataConfig, EvalConfig
from jgpt.verbs import evaluate


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    return parser.parse_args(["runs/a", *words])


def chosen(*words: str) -> EvalConfig:
    return evaluate.chosen(EvalConfig(stride=8, max_questions=2), parsed(*words))


def test_a_run_is_scored_as_it_was_unless_the_command_line_says_otherwise():
    assert chosen() == EvalConfig(stride=8, max_questions=2)
    assert chosen("--all-questions") == EvalConfig(stride=8)
    assert chosen("--stride", "4") == EvalConfig(stride=4, max_questions=2)


@pytest.mark.parametrize("prefix", ["--", "--data."])
def test_another_file_is_read_as_the_command_line_says(prefix: str) -> None:
    """Also as the errors of reading spell the options."""
    as_run = DataConfig(columns={"question": "q"}, image_size=8)
    assert evaluate.reading(as_run, parsed("--path", "a.csv")) == as_run
    changed = evaluate.reading(
        as_run, parsed("--path", "a.csv", f"{prefix}columns", "answer", "reply", f"{prefix}on-bad-record", "skip")
    )
    assert changed == DataConfig(columns={"answer": "reply"}, on_bad_record="skip", image_size=8)
    with pytest.raises(ValueError, match="give --path as well"):
        evaluate.reading(as_run, parsed(f"{prefix}columns", "answer", "reply"))
    with pytest.raises(ValueError, match="3 names: give pairs"):
        evaluate.reading(as_run, parsed("--path", "a.csv", f"{prefix}columns", "answer", "reply", "question"))
