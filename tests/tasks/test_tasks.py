"""The contract of every task: both directions agree, only known targets are trained, and wrong examples are refused."""

import dataclasses
import json
import re
from typing import Any

import numpy as np
import pytest

from jgpt.config import TaskConfig
from jgpt.data.examples import Conversation, Message, Picture, QuestionAnswer, TokenStream
from jgpt.tasks.mixture import TASKS
from jgpt.tasks.task import Prompt, Task
from jgpt.tokenizers.image import Palette
from jgpt.tokenizers.text import TOKENIZERS
from jgpt.tokenizers.vocabulary import SPECIALS, Vocabulary

GREY = Palette.grey(4)
PIXELS = GREY.colours[np.array([[0, 3, 1], [2, 2, 0]])][:, :, 0]


@dataclasses.dataclass(frozen=True)
class Case:
    """An example of a task, the request that asks for it, and what a perfect model would return."""

    kind: str
    example: Any
    request: Any
    answer: Any
    dimensions: int | None


CASES = [
    Case("text", "Hi.", "", "Hi.", 3),
    Case("text", "naïve 漢字\n<|endoftext|>", "", "naïve 漢字\n<|endoftext|>", 27),
    Case("qa", QuestionAnswer("2+3=", "5"), "2+3=", "5", None),
    Case("qa", QuestionAnswer("Où est <|answer|>?", "là\nbas"), "Où est <|answer|>?", "là\nbas", None),
    Case(
        "qa", QuestionAnswer("2+3=", "5", choices=("4", "5")), QuestionAnswer("2+3=", "", choices=("4", "5")), "5", None
    ),
    Case("qa", QuestionAnswer("who?", "I", context="I am."), QuestionAnswer("who?", "", context="I am."), "I", None),
    Case("chat", Conversation((Message("user", "2+3="), Message("assistant", "5"))), "2+3=", "5", 1),
    Case("image", Picture(PIXELS, "a seven"), "a seven", PIXELS, 6),
    Case("image", Picture(PIXELS, ""), "", PIXELS, 6),
]


def vocabulary(name: str) -> Vocabulary:
    texts = [text for case in CASES for text in texts_of(case)]
    return Vocabulary(name, TOKENIZERS[name].train(texts, 300), GREY)


def texts_of(case: Case) -> list[str]:
    if isinstance(case.example, QuestionAnswer):
        return [case.example.context, case.example.question, case.example.answer, *case.example.choices]
    if isinstance(case.example, Conversation):
        return [message.content for message in case.example.messages]
    return [case.example.caption if isinstance(case.example, Picture) else case.example]


@pytest.fixture(scope="module", params=TOKENIZERS)
def words(request: pytest.FixtureRequest) -> Vocabulary:
    return vocabulary(request.param)


@pytest.fixture(params=CASES, ids=lambda case: f"{case.kind}-{case.request or 'bare'}")
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture
def task(words: Vocabulary, case: Case) -> Task:
    return TASKS[case.kind].fit(words, [case.example])


def test_every_kind_of_task_has_a_case():
    assert {case.kind for case in CASES} == set(TASKS)


def test_what_is_encoded_is_decoded(task: Task, case: Case):
    tokens, prompt = task.encode(case.example).tokens, task.prompt(case.request)
    np.testing.assert_array_equal(tokens[: len(prompt.tokens)], prompt.tokens)  # the prompt is a prefix
    answer = tokens[len(prompt.tokens) : -1].tolist()
    np.testing.assert_array_equal(task.decode(answer), case.answer)


def test_only_what_follows_the_prompt_is_trained_and_its_end_too(task: Task, case: Case):
    document, prompt = task.encode(case.example), task.prompt(case.request)
    weights = np.ones(len(document.tokens)) if document.weights is None else document.weights
    given = len(prompt.tokens)
    np.testing.assert_array_equal(weights[1:], np.arange(1, len(weights)) >= given)
    assert int(document.tokens[-1]) in prompt.stop_ids and weights[-1] == 1
    assert not set(document.tokens[:-1].tolist()) & set(prompt.stop_ids)


def test_ids_lie_below_the_size_of_the_vocabulary(task: Task, case: Case, words: Vocabulary):
    document, prompt = task.encode(case.example), task.prompt(case.request)
    allowed = {id_ for phase in prompt.phases for id_ in phase.ids}
    for ids in (document.tokens.tolist(), allowed, prompt.stop_ids):
        assert 0 <= min(ids) and max(ids) < words.size
    assert words.special("<|pad|>") not in {*document.tokens.tolist(), *allowed}


def allowed_at(prompt: Prompt, index: int) -> set[int]:
    """Return the ids that may stand at a generated position."""
    for phase in prompt.phases:
        if phase.count is None or index < phase.count:
            return set(phase.ids)
        index -= phase.count
    raise IndexError("past the last phase")


def test_the_true_answer_may_be_generated_and_no_other_marker(task: Task, case: Case):
    tokens, prompt = task.encode(case.example).tokens, task.prompt(case.request)
    answer = tokens[len(prompt.tokens) :].tolist()
    assert all(id_ in allowed_at(prompt, index) for index, id_ in enumerate(answer))
    assert prompt.max_new_tokens is None or len(answer) <= prompt.max_new_tokens
    everything = {id_ for phase in prompt.phases for id_ in phase.ids}
    assert everything & set(range(len(SPECIALS))) == set(prompt.stop_ids)


def test_json_rebuilds_the_same_task(task: Task, case: Case, words: Vocabulary):
    again = TASKS[case.kind].from_json(words, json.loads(json.dumps(task.to_json())))
    assert again.to_json() == task.to_json()
    for old, new in zip(task.encode(case.example), again.encode(case.example), strict=True):
        np.testing.assert_array_equal(new, old)
    assert repr(again.prompt(case.request)) == repr(task.prompt(case.request))


def test_dimensions_are_what_bits_are_averaged_over(task: Task, case: Case):
    assert task.dimensions(case.example) == case.dimensions
    assert (task.score_name is None) == (case.dimensions is None)


def test_stop_ids_are_distinct_per_task():
    words = vocabulary("bytes")
    stops = {case.kind: TASKS[case.kind].fit(words, [case.example]).prompt(case.request).stop_ids for case in CASES}
    ids = [id_ for stop in stops.values() for id_ in stop]
    assert len(ids) == len(set(ids)) == len(TASKS)


def test_kinds_are_registered_under_their_own_names():
    for name, kind in TASKS.items():
        assert kind.kind == name and isinstance(kind.__new__(kind), Task)
        TaskConfig(kind=name, source="x")


def test_text_prompt_begins_the_document():
    words = vocabulary("bytes")
    task = TASKS["text"](words)
    np.testing.assert_array_equal(task.prompt("Hi").tokens, task.encode("Hi there").tokens[:3])


def test_every_answer_of_a_conversation_is_trained_and_its_questions_are_not():
    words = vocabulary("bytes")
    turns = [("a?", "1"), ("and b?", "22"), ("c?", "3")]
    talk = QuestionAnswer(*turns[0], more=tuple(QuestionAnswer(*turn) for turn in turns[1:]))
    task = TASKS["qa"].fit(words, [talk])
    document = task.encode(talk)
    single = [task.encode(QuestionAnswer(question, answer)) for question, answer in turns]
    np.testing.assert_array_equal(document.tokens, np.concatenate([turn.tokens for turn in single]))
    np.testing.assert_array_equal(document.weights, np.concatenate([turn.weights for turn in single]))
    assert task.prompt("a?").max_new_tokens == 3  # any of the answers may be asked for
    with pytest.raises(ValueError, match="the question 'b\\?' has an empty answer"):
        task.encode(dataclasses.replace(talk, more=(QuestionAnswer("b?", " "),)))


def test_answers_may_become_as_long_as_the_longest_of_training():
    words = vocabulary("bytes")
    task = TASKS["qa"].fit(words, [QuestionAnswer("a", "1"), QuestionAnswer("b", "12345")])
    assert task.prompt("a").max_new_tokens == 6  # with the end marker


def test_colour_pictures_come_back_in_colour():
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 9]], np.uint8)
    pixels = colours[np.array([[0, 1], [2, 1]])]
    task = TASKS["image"].fit(dataclasses.replace(vocabulary("bytes"), image=Palette(colours)), [Picture(pixels, "x")])
    tokens = task.encode(Picture(pixels, "x")).tokens
    np.testing.assert_array_equal(task.decode(tokens[-5:-1].tolist()), pixels)
    assert task.dimensions(Picture(pixels, "x")) == 12


def test_ids_from_elsewhere_are_used_where_they_lie():
    words = vocabulary("bytes")
    ids = np.array([0, 255, 7], np.uint16)
    document = TASKS["text"](words).encode(TokenStream(ids, num_bytes=11))
    assert document.tokens is ids and document.weights is None
    assert [int(i) + document.offset for i in ids] == [words.text_ids.start, words.text_ids.stop - 1, words.text_ids[7]]
    assert TASKS["text"](words).dimensions(TokenStream(ids, num_bytes=11)) == 11
    assert TASKS["text"](words).dimensions(TokenStream(ids)) is None


@pytest.mark.parametrize("blank", ["", " \n"])
def test_empty_questions_and_answers_are_refused(blank: str):
    task = TASKS["qa"].fit(vocabulary("bytes"), [QuestionAnswer("why?", "so")])
    with pytest.raises(ValueError, match="the question 'why\\?' has an empty answer.*leave it out"):
        task.encode(QuestionAnswer("why?", blank))
    for ask in (lambda: task.encode(QuestionAnswer(blank, "so")), lambda: task.prompt(blank)):
        with pytest.raises(ValueError, match=f"the question is {re.escape(repr(blank))}: it must hold something"):
            ask()


@pytest.mark.parametrize(
    "pixels", [PIXELS.T, PIXELS[:, :2], np.stack([PIXELS] * 3, -1), PIXELS.astype(np.int32), PIXELS / 255]
)
def test_pictures_of_another_shape_or_type_are_refused(pixels: np.ndarray):
    task = TASKS["image"].fit(vocabulary("bytes"), [Picture(PIXELS, "7")])
    with pytest.raises(ValueError) as caught:
        task.encode(Picture(pixels, "7"))
    for word in ("'7'", str(pixels.dtype), str(pixels.shape), "uint8 of shape (2, 3)", "--data.image-size"):
        assert word in str(caught.value)


def test_unknown_caption_is_refused_with_the_known_ones():
    task = TASKS["image"].fit(vocabulary("bytes"), [Picture(PIXELS, "7"), Picture(PIXELS, "3")] * 2)
    with pytest.raises(ValueError, match="'seven' in training.*Known: 3, 7"):
        task.prompt("seven")


def test_run_without_pictures_cannot_draw():
    task = TASKS["image"](dataclasses.replace(vocabulary("bytes"), image=None), (2, 3), ("7",))
    with pytest.raises(ValueError, match="tokenizer.image to 'grey' or 'palette'"):
        task.encode(Picture(PIXELS, "7"))
