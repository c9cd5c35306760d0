"""Questions made on the spot: two-digit addition, and short stories with a question about them.

Owns the two generators and what they hold out; the same seed gives the same problems on every machine.
"""

from typing import Final

import numpy as np

from jgpt.data.examples import QuestionAnswer, Splits

NAMES: Final = ("Mary", "John", "Daniel", "Sandra", "Emily", "Peter")
PLACES: Final = ("garden", "kitchen", "office", "bedroom", "hallway", "park")
VERBS: Final = ("went to", "moved to", "walked to", "travelled to")
NUM_STORIES: Final = 20_000
MAX_SENTENCES: Final = 5


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
        for x, y in {(a, b), (b, a)}:
            split[hold].append(QuestionAnswer(f"{x}+{y}=", str(x + y), "addition"))
            held += hold
    return Splits(train=split[False], validation=split[True])


def make_stories(seed: int, validation_fraction: float) -> Splits:
    """Return 20,000 distinct stories of people who move, each with the question where one of them is.

    "Mary went to the garden. John moved to the office. Mary walked to the park. Where is Mary?" -> "park". The last move
    counts, so the answer must be looked up by the person and by the order of the sentences.
    """
    rng = np.random.default_rng(seed)
    stories: dict[str, QuestionAnswer] = {}
    while len(stories) < NUM_STORIES:
        sentences, where = [], {}
        for _ in range(rng.integers(2, MAX_SENTENCES + 1)):
            name, verb, place = (str(rng.choice(words)) for words in (NAMES, VERBS, PLACES))
            sentences.append(f"{name} {verb} the {place}.")
            where[name] = place
        asked = str(rng.choice(sorted(where)))
        question = f"{' '.join(sentences)} Where is {asked}?"
        stories[question] = QuestionAnswer(question, where[asked], "stories")
    examples = list(stories.values())
    held = round(len(examples) * validation_fraction)
    return Splits(train=examples[held:], validation=examples[:held])
