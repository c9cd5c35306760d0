"""What the command line of `jgpt evaluate` changes of a run's settings."""

import argparse

from jgpt.config import EvalConfig
from jgpt.verbs import evaluate


def chosen(*words: str) -> EvalConfig:
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    return evaluate.chosen(EvalConfig(stride=8, max_questions=2), parser.parse_args(["runs/a", *words]))


def test_a_run_is_scored_as_it_was_unless_the_command_line_says_otherwise():
    assert chosen() == EvalConfig(stride=8, max_questions=2)
    assert chosen("--all-questions") == EvalConfig(stride=8)
    assert chosen("--stride", "4") == EvalConfig(stride=4, max_questions=2)
