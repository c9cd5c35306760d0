"""Questions made on the spot: two-digit addition, and short stories with a question about them.

Owns the two generators and what they hold out; the same seed gives the same problems on every machine.
"""

from dataclasses import replace
from typing import Final

import numpy as np

from jgpt.data.examples import QuestionAnswer, Splits

NAMES: Final = ("Mary", "John", "Daniel", "Sandra", "Emily", "Peter")
PLACES: Final = ("garden", "kitchen", "office", "bedroom", "hallway", "park")
VERBS: Final = ("went to", "moved to", "walked to", "ran to")
NUM_STORIES: Final = 20_000
MIN_SENTENCES: Final = 2
MAX_SENTENCES: Final = 4
MAX_QUESTIONS: Final = 3


def make_addition(seed: int, validation_fraction: float) -> Splits:
    """Return all 8,100 sums of two two-digit numbers, such as "37+45=" -> "82".

    a+b and b+a are held out together: a model that has learned to swap the summands has seen no held-out answer.
    """
    pairs = [(a, b) for a in range(10, 100) for b in range(a, 100)]
    order = np.random.default_rng(seed).permutation(len(pairs))
    split: dict[bool, list[QuestionAnswer]] = {True: [], False: []}
    target, held = round(8_100 * validation_fraction), 0
    for i in order:
        a, b = pairs[i]
        hold = held < target
        for x, y in dict.fromkeys(((a, b), (b, a))):
            split[hold].append(QuestionAnswer(f"{x}+{y}=", str(x + y)))
            held += hold
    return Splits(train=split[False], validation=split[True])


def make_stories(seed: int, validation_fraction: float) -> Splits:
    """Return 20,000 distinct stories of people who move, each with the question where one of them is.

    "Mary went to the garden. John moved to the office. Mary moved to the park. Where is Mary?" -> "park". The last move
    counts, so the answer must be looked up by the person and by the order of the sentences. In training others are
    asked for as well, in turn; held-out stories ask one question, of a story that training has never seen.
    """
    rng = np.random.default_rng(seed)
    stories: dict[str, tuple[str, dict[str, str]]] = {}
    while len(stories) < NUM_STORIES:
        sentences, where = [], {}
        count = rng.integers(MIN_SENTENCES, MAX_SENTENCES + 1)
        for who, how, to in rng.integers(0, (len(NAMES), len(VERBS), len(PLACES)), (count, 3)):
            name, verb, place = NAMES[who], VERBS[how], PLACES[to]
            sentences.append(f"{name} {verb} the {place}.")
            where[name] = place
        story = " ".join(sentences)
        stories[story] = (story, where)
    examples = []
    for story, where in stories.values():
        asked = [
            QuestionAnswer(f"Where is {name}?", where[name]) for name in rng.permutation(sorted(where))[:MAX_QUESTIONS]
        ]
        examples.append(QuestionAnswer(f"{story} {asked[0].question}", asked[0].answer, tuple(asked[1:])))
    held = round(len(examples) * validation_fraction)
    return Splits(train=examples[held:], validation=[replace(example, more=()) for example in examples[:held]])
