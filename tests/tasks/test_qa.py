"""Questions with contexts and choices: what stands where, what is shown, and which answers are refused."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from jgpt.config import TaskConfig
from jgpt.data.examples import QuestionAnswer
from jgpt.tasks.qa import QATask
from jgpt.tokenizers.text import ByteTokenizer
from jgpt.tokenizers.vocabulary import OLDEST_SPECIALS, Vocabulary

WORDS = Vocabulary("bytes", ByteTokenizer())
COLOUR = QuestionAnswer("which?", "red", context="It is.", choices=("blue", "red"))


def spelled(ids: np.ndarray, words: Vocabulary = WORDS) -> str:
    """Return ids as text, markers by their names."""
    return "".join(words.specials[i] if i < len(words.specials) else words.decode_text([i]) for i in ids.tolist())


def test_the_example_of_the_module():
    task = QATask.fit(WORDS, [COLOUR])
    document = task.encode(COLOUR)
    assert spelled(document.tokens) == (
        "<|context|>It is.<|question|>which?<|choice|>blue<|choice|>red<|answer|>red<|endofanswer|>"
    )
    assert document.weights is not None and spelled(document.tokens[document.weights == 1]) == "red<|endofanswer|>"


def test_choices_are_hidden_where_the_config_says_so_and_that_is_saved():
    hidden = QATask.fit(WORDS, [COLOUR], TaskConfig(kind="qa", show_choices=False))
    assert spelled(hidden.prompt(COLOUR).tokens) == "<|context|>It is.<|question|>which?<|answer|>"
    for task in (hidden, QATask.fit(WORDS, [COLOUR], TaskConfig(kind="qa"))):
        again = QATask.from_json(WORDS, json.loads(json.dumps(task.to_json())))
        np.testing.assert_array_equal(again.prompt(COLOUR).tokens, task.prompt(COLOUR).tokens)


def test_candidates_differ_in_what_is_trained_alone():
    task = QATask.fit(WORDS, [COLOUR])
    blue, red = task.candidates(COLOUR)
    given = len(task.prompt(COLOUR).tokens)
    np.testing.assert_array_equal(blue.tokens[:given], red.tokens[:given])
    assert spelled(blue.tokens[given:]) == "blue<|endofanswer|>"
    np.testing.assert_array_equal(red.tokens, task.encode(COLOUR).tokens)
    for document in (blue, red):
        assert document.weights is not None
        np.testing.assert_array_equal(document.weights, np.arange(len(document.tokens)) >= given)
    with pytest.raises(ValueError, match="'which\\?' has 1 choices: give at least two"):
        task.candidates(dataclasses.replace(COLOUR, choices=("red",)))


def test_an_answer_that_is_no_choice_is_refused():
    task = QATask.fit(WORDS, [COLOUR])
    with pytest.raises(ValueError, match="'Red', which is none of its choices \\['blue', 'red'\\].*word for word"):
        task.encode(dataclasses.replace(COLOUR, answer="Red"))


HOLDS = QuestionAnswer(
    "Where is it?", "out", context="Al has it. Al is out. Bo is in.", steps=("Al has it.", "Al is out.")
)
LED = TaskConfig(kind="qa", steps=True)


def test_steps_stand_before_the_answer_and_are_trained():
    task = QATask.fit(WORDS, [HOLDS], LED)
    document, given = task.encode(HOLDS), task.prompt(HOLDS).tokens
    assert spelled(given) == "<|context|>Al has it. Al is out. Bo is in.<|question|>Where is it?<|answer|>"
    assert spelled(document.tokens[len(given) :]) == (
        "<|step|>Al has it.<|step|>Al is out.<|answer|>out<|endofanswer|>"
    )
    np.testing.assert_array_equal(document.weights, np.arange(len(document.tokens)) >= len(given))
    assert task.max_new_tokens == len(document.tokens) - len(given)
    at_once = QATask.fit(WORDS, [HOLDS]).encode(HOLDS)
    assert spelled(at_once.tokens[len(given) :]) == "out<|endofanswer|>"


def test_what_was_said_is_taken_apart_into_steps_and_answer_however_much_of_it_is_there():
    task = QATask.from_json(WORDS, json.loads(json.dumps(QATask.fit(WORDS, [HOLDS], LED).to_json())))
    said = task.encode(HOLDS).tokens[len(task.prompt(HOLDS).tokens) : -1]
    assert task.decode(said) == "out" and task.steps(said) == list(HOLDS.steps)
    shown = [task.decode(said[:n]) for n in range(len(said) + 1)]
    assert all(after.startswith(before) for before, after in itertools.pairwise(shown))
    assert task.decode(said[:-4]) == "" and task.steps(said[: len("Al has it.") + 1]) == ["Al has it."]
    assert {task.step, task.answer, task.end} <= set(task.phases[0].ids)
    assert QATask.fit(WORDS, [HOLDS]).steps(said) == []


def test_choices_are_compared_without_steps():
    task = QATask.fit(WORDS, [HOLDS], LED)
    chosen = dataclasses.replace(HOLDS, choices=("out", "in"))
    out, other = task.candidates(chosen)
    given = len(task.prompt(chosen).tokens)
    assert spelled(out.tokens[given:]) == "<|answer|>out<|endofanswer|>"
    assert spelled(other.tokens[given:]) == "<|answer|>in<|endofanswer|>"


@pytest.mark.parametrize("options", [LED, TaskConfig(kind="qa"), TaskConfig(kind="qa", show_choices=False)])
def test_the_room_of_a_question_is_that_of_its_longest_choice(options: TaskConfig):
    chosen = dataclasses.replace(HOLDS, choices=("out", "in the house", "in"))
    task = QATask.fit(WORDS, [chosen], options)
    answered = task.encode(chosen)
    longest = max(len(document.tokens) for document in [answered, *task.candidates(chosen)])
    assert task.room(chosen, answered) == longest and longest > len(
        task.encode(dataclasses.replace(chosen, steps=())).tokens
    )
    alone = dataclasses.replace(chosen, choices=())
    assert task.room(alone, task.encode(alone)) == len(task.encode(alone).tokens)


def test_steps_that_nobody_has_are_refused():
    with pytest.raises(ValueError, match="steps is on, but no training example has steps.*column"):
        QATask.fit(WORDS, [COLOUR], LED)


def test_text_that_spells_a_marker_is_text():
    task = QATask.fit(WORDS, [QuestionAnswer("q", "a")])
    tokens = task.prompt("why <|answer|> <|choice|>?").tokens
    assert [i for i in tokens.tolist() if i < len(WORDS.specials)] == [task.question, task.answer]
    assert WORDS.decode_text(tokens) == "why <|answer|> <|choice|>?"


def test_runs_saved_before_there_were_choices_answer_as_before():
    old = Vocabulary("bytes", ByteTokenizer(), specials=OLDEST_SPECIALS)
    task = QATask.from_json(old, {"max_new_tokens": 3})
    assert spelled(task.prompt(dataclasses.replace(COLOUR, context="")).tokens, old) == "<|question|>which?<|answer|>"


def test_prompts_share_their_allowed_ids():
    task = QATask.fit(WORDS, [QuestionAnswer("q", "a")])
    assert task.prompt("one").phases is task.prompt("two").phases  # 20,000 copies of 50,000 ids would fill the memory
