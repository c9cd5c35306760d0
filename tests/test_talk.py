"""Talking in the terminal: turns pile up, an empty line or the end of input ends it, the oldest turns go where all is full."""

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import sample
from jgpt.sampling import Sampling


class Echo:
    """A model that answers how many messages it was given; a message is one token, and an answer at most one more."""

    def __init__(self, context: int, silent: bool = False) -> None:
        self.model = SimpleNamespace(context_length=context)
        self.tasks = {"chat": self, "qa": self}
        self.max_new_tokens, self.silent = 1, silent
        self.asked: list[Any] = []
        self.step = None

    def task_of_kind(self, kind: str) -> str:
        return kind

    def prompt(self, messages: list) -> SimpleNamespace:
        return SimpleNamespace(tokens=np.zeros(len(messages), np.int32))

    def stream(self, request: Any, kind: str, **options):
        self.asked.append(list(request) if kind == "chat" else request)
        count = len(request) if kind == "chat" else 1
        yield from [] if self.silent else ["n", str(count)]


def talk(monkeypatch, model: Echo, said: str, *flags: str) -> None:
    """Say lines to the model."""
    monkeypatch.setattr("sys.stdin", io.StringIO(said))
    sample.talk(model, sample.parser().parse_args(["RUN", "--interactive", *flags]), Sampling())


def test_each_answer_sees_the_turns_before_it(monkeypatch, capsys: pytest.CaptureFixture) -> None:
    model = Echo(context=100)
    talk(monkeypatch, model, "a\nb\n\nnever\n", "--system", "S")
    assert capsys.readouterr().out == "assistant: n2\nassistant: n4\n"
    assert [message["content"] for message in model.asked[1]] == ["S", "a", "n2", "b"]
    assert [message["role"] for message in model.asked[1]] == ["system", "user", "assistant", "user"]


def test_the_oldest_exchange_goes_where_the_context_is_full(monkeypatch, capsys: pytest.CaptureFixture) -> None:
    model = Echo(context=5)
    talk(monkeypatch, model, "a\nb\nc", "--system", "S")
    assert [message["content"] for message in model.asked[2]] == ["S", "b", "n4", "c"]
    assert "1 of the oldest exchanges" in capsys.readouterr().out


def test_a_turn_without_an_answer_is_forgotten(monkeypatch) -> None:
    model = Echo(context=100, silent=True)
    talk(monkeypatch, model, "a\nb")
    assert [message["content"] for message in model.asked[1]] == ["b"]


def test_single_replies_appear_as_they_are_made_and_later_turns_see_them(capsys: pytest.CaptureFixture) -> None:
    model = Echo(context=100)
    sample.chat(model, sample.parser().parse_args(["RUN", "--chat", "a", "--chat", "b"]), Sampling())
    assert capsys.readouterr().out == "user: a\nassistant: n1\nuser: b\nassistant: n3\n"
    assert [message["content"] for message in model.asked[1]] == ["a", "n1", "b"]
    sample.answer(model, sample.parser().parse_args(["RUN", "--question", "37+45="]), Sampling())
    assert model.asked[2].question == "37+45=" and capsys.readouterr().out == "n1\n"
