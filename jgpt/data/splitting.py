"""Training and held-out shares that never leak, for texts, questions and conversations alike.

Owns what belongs together: questions that are equal, share a context or a group of their file (an article), and
conversations that open alike stay on one side; equal texts count once. Refuses files.
"""

from collections.abc import Hashable, Iterable, Sequence, Set
from typing import Any, Final

import numpy as np

from jgpt.check import require
from jgpt.data.examples import Conversation, QuestionAnswer, Splits
from jgpt.data.holdout import tail_start

KINDS: Final = {str: "text", QuestionAnswer: "qa", Conversation: "chat"}
NAMES: Final = {"text": "texts", "qa": "questions", "chat": "conversations"}


def kind_of(examples: Sequence[Any]) -> str:
    """Return the kind of task that examples are for.

    Raises:
        ValueError: they are of several kinds, of none, or there are none.
    """
    require(len(examples) > 0, "there are no examples: give at least two.")
    types = {type(example) for example in examples}
    unknown = [kind.__name__ for kind in types if kind not in KINDS]
    require(not unknown, f"examples are {unknown}: give str, QuestionAnswer or Conversation.")
    require(
        len(types) == 1,
        f"examples are of several kinds ({', '.join(sorted(NAMES[KINDS[kind]] for kind in types))}): give each its own "
        "task.",
    )
    return KINDS[types.pop()]


def splits_of(
    examples: Sequence[Any], validation_fraction: float, seed: int, groups: Sequence[Hashable] = ()
) -> Splits:
    """Hold out a seeded share of `examples` so that nothing held out was seen in training.

    Args:
        examples: all `str`, all `QuestionAnswer` or all `Conversation`.
        validation_fraction: share to hold out, strictly between 0 and 1; whole groups are held out, so it is met as
            nearly as they allow.
        seed: of the draw.
        groups: of each example what it must not be parted from, such as the title of its article; None for nothing.

    Returns:
        `Splits` in the order of `examples`. A single text is cut at its tail.

    Raises:
        ValueError: the examples are of several kinds, or too few or too alike to split.
    """
    kind = kind_of(examples)
    notes: tuple[str, ...] = ()
    if kind == "text":
        first = dict(zip(reversed(examples), reversed(groups or [None] * len(examples)), strict=True))
        distinct = list(dict.fromkeys(examples))
        if len(distinct) < len(examples):
            notes = (f"{len(examples) - len(distinct):,} text(s) equal to another left out",)
        examples, groups = distinct, [first[text] for text in distinct]
        if len(examples) == 1:
            require(len(examples[0]) >= 2, f"the only text is {examples[0]!r}: at least two characters are needed.")
            cut = tail_start(len(examples[0]), validation_fraction)
            return Splits([examples[0][:cut]], [examples[0][cut:]], kind=kind, notes=notes)
    scored = {_plain(example.question) for example in examples if isinstance(example, QuestionAnswer)}
    pairs = zip(examples, groups or [None] * len(examples), strict=True)
    keys = [_keys(example, group, scored) for example, group in pairs]
    components = connected(keys)
    if max(np.bincount(components)) > len(examples) * (1 - validation_fraction):
        # Such as "Where is Mary?", asked of every story: the context tells such questions apart.
        looser = [_without_question(of) for of in keys]
        if looser != keys:
            components = connected(looser)
            notes += ("the same questions are asked of many contexts: split by context alone",)
    train, held = hold_out_groups(components, validation_fraction, seed, NAMES[kind])
    return Splits([examples[i] for i in train], [examples[i] for i in held], kind=kind, notes=notes)


def connected(keys: Sequence[Iterable[Hashable]]) -> list[int]:
    """Return for each element the number of its component; elements that share a key, directly or by others, share one.

    Components are numbered in order of their first element (union-find).
    """
    parent = list(range(len(keys)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[Hashable, int] = {}
    for i, of in enumerate(keys):
        for key in of:
            a, b = root(first.setdefault(key, i)), root(i)
            parent[max(a, b)] = min(a, b)
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(i), len(numbers)) for i in range(len(keys))]


def hold_out_groups(components: Sequence[int], fraction: float, seed: int, what: str) -> tuple[list[int], list[int]]:
    """Return the training and the held-out indices, each ascending; no component stands on both sides.

    Components are drawn in a seeded order, and one is held out where that brings their share nearer to `fraction`.
    Where each is an element of its own, this is `holdout.hold_out`.

    Raises:
        ValueError: fewer than two components, or a share outside (0, 1).
    """
    require(0 < fraction < 1, f"validation_fraction is {fraction}: must lie strictly between 0 and 1.")
    sizes = np.bincount(components)
    require(
        len(sizes) >= 2,
        f"{len(components)} {what} cannot be split: one is needed to train on and one to score on, and equal or related "
        "ones stay on one side. Give more data, or a folder with files train and validation.",
    )
    count = len(components)
    target = min(max(round(count * fraction), 1), count - 1)
    held: set[int] = set()
    total = 0
    for number in np.random.default_rng(seed).permutation(len(sizes)):
        after = total + int(sizes[number])
        if after < count and abs(after - target) < abs(total - target):
            held.add(int(number))
            total = after
    if not held:
        held = {int(np.argmin(sizes))}
    parts: tuple[list[int], list[int]] = ([], [])
    for i, number in enumerate(components):
        parts[number in held].append(i)
    return parts


def shared(train: Sequence[Any], held: Sequence[Any]) -> int:
    """Return how many held-out examples equal a training one by what is asked (question with context, or opening)."""
    seen = {asked for example in train for asked in _identities(example)}
    return sum(_identities(example)[0] in seen for example in held)


def _identities(example: Any) -> list[Hashable]:
    """Return what is asked: first what is scored, then what follows it and is trained alone."""
    if isinstance(example, QuestionAnswer):
        turns = (example, *example.more)
        return [(_plain(turn.context or example.context), _plain(turn.question)) for turn in turns]
    return [_opening(example) if isinstance(example, Conversation) else example]


def _keys(example: Any, group: Hashable, scored: Set[str]) -> list[tuple[str, Hashable]]:
    """Return what ties an example to others; follow-ups do where they are `scored` questions elsewhere, not "Why?" alone."""
    keys: list[tuple[str, Hashable]] = [] if group is None else [("group", group)]
    if isinstance(example, QuestionAnswer):
        turns = (example, *example.more)
        keys += [("question", asked) for asked in (_plain(turn.question) for turn in turns) if asked in scored]
        keys += [("context", context) for context in (_plain(turn.context) for turn in turns) if context]
    elif isinstance(example, Conversation):
        keys.append(("opening", _opening(example)))
    return keys


def _without_question(keys: list[tuple[str, Hashable]]) -> list[tuple[str, Hashable]]:
    """Return the keys without the question where a context is left to tie by."""
    return [key for key in keys if key[0] != "question"] if any(key[0] == "context" for key in keys) else keys


def _opening(example: Conversation) -> str:
    users = [message.content for message in example.messages if message.role == "user"]
    return _plain(users[0] if users else example.messages[0].content)


def _plain(text: str) -> str:
    return text.strip().lower()
