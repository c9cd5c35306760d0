"""Generated questions: complete, right by an independent reader, and held out without leaks."""

import collections
import re

import pytest

from jgpt.data.examples import QuestionAnswer, Splits
from jgpt.data.generated import NAMES, NUM_STORIES, PLACES, make_addition, make_stories

LUCK = 0.25  # share of one answer that a model could always give; even answers over six places would be 0.17


@pytest.fixture(scope="module")
def stories() -> Splits:
    return make_stories(0, 0.025)


def summands(example: QuestionAnswer) -> tuple[int, int]:
    a, b = re.fullmatch(r"(\d\d)\+(\d\d)=", example.question).groups()
    return int(a), int(b)


@pytest.mark.parametrize("seed", [0, 1])
def test_addition_holds_every_sum_once_and_right(seed: int):
    splits = make_addition(seed, 0.2)
    examples = [*splits.train, *splits.validation]
    pairs = [summands(example) for example in examples]
    assert sorted(pairs) == [(a, b) for a in range(10, 100) for b in range(10, 100)]
    assert all(example.answer == str(a + b) for example, (a, b) in zip(examples, pairs, strict=True))


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5])
def test_swapped_summands_are_held_out_together(fraction: float):
    splits = make_addition(0, fraction)
    held = {summands(example) for example in splits.validation}
    assert held == {(b, a) for a, b in held}
    assert abs(len(held) - 8_100 * fraction) <= 1  # a pair is not torn apart to hit the number
    assert not held & {summands(example) for example in splits.train}


def test_addition_depends_on_the_seed_alone():
    assert make_addition(3, 0.2) == make_addition(3, 0.2)
    assert set(make_addition(3, 0.2).validation) != set(make_addition(4, 0.2).validation)


def read(question: str) -> str:
    """Answer a story as a human would: go through the sentences and remember who is where."""
    *moves, asked = re.split(r"(?<=[.?]) ", question)
    where = {}
    for move in moves:
        name, place = re.fullmatch(r"(\w+) (?:went|moved|walked|ran) to the (\w+)\.", move).groups()
        assert name in NAMES and place in PLACES
        where[name] = place
    return where[re.fullmatch(r"Where is (\w+)\?", asked)[1]]


def story_of(example: QuestionAnswer) -> str:
    return example.question.partition(" Where is")[0]


def test_stories_are_answered_by_reading_them(stories: Splits):
    for example in [*stories.train, *stories.validation]:
        for question, answer in ((turn.question, turn.answer) for turn in (example, *example.more)):
            asked = question if question == example.question else f"{story_of(example)} {question}"
            assert read(asked) == answer


def test_follow_up_questions_ask_for_other_people_and_in_training_alone(stories: Splits):
    for example in stories.train:
        asked = re.findall(r"Where is (\w+)", " ".join((example.question, *(turn.question for turn in example.more))))
        people = set(re.findall(r"(\w+) \w+ to the", example.question))
        assert len(set(asked)) == len(asked) >= min(2, len(people)) and set(asked) <= people
    assert not any(example.more for example in stories.validation)


def test_stories_are_distinct_and_held_out_apart(stories: Splits):
    train, held = ({story_of(example) for example in part} for part in (stories.train, stories.validation))
    assert len(train) == len(stories.train) and len(held) == len(stories.validation) == 500
    assert not train & held and len(train | held) == NUM_STORIES


def test_stories_cannot_be_guessed_without_reading(stories: Splits):
    held = stories.validation
    common = collections.Counter(example.answer for example in held).most_common(1)[0][1]
    last = sum(re.findall(r"the (\w+)\.", example.question)[-1] == example.answer for example in held)
    assert common / len(held) < LUCK
    assert 0.2 < last / len(held) < 0.7  # neither always the last place nor never
    moved_again = [e for e in held if e.question.count(re.search(r"is (\w+)", e.question)[1]) > 2]
    assert len(moved_again) > len(held) / 20  # order counts in some: the person asked for has moved twice
