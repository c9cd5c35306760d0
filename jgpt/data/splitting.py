"""Training and held-out shares that never leak, for texts, questions and conversations alike.

Owns what belongs together: questions that are equal, share a context or a group of their file (an article), and
conversations that open alike stay on one side; equal texts count once. Refuses files.
"""

import unicodedata
from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np

from jgpt.check import require
from jgpt.data.examples import Conversation, QuestionAnswer, Splits
from jgpt.data.holdout import tail_start

KINDS: Final = {str: "text", QuestionAnswer: "qa", Conversation: "chat"}
NAMES: Final = {"text": "texts", "qa": "questions", "chat": "conversations"}
Key = tuple[str, Hashable]  # what ties examples, with its kind
# Ties that are given up, in this order, where they hold too much together: (kind, kind that must be left to tie by, note)
LOOSER: Final = (
    ("later", "first", "turns that open some examples come later in many: such are no reason to stand on one side"),
    ("first", "context", "the same questions are asked of many contexts: split by context alone"),
    ("first", "turns", "many conversations open alike: those stay on one side that are alike in all turns of the user"),
)


def kind_of(examples: Sequence[Any]) -> str:
    """Return the kind of task that examples are for.

    Raises:
        ValueError: they are of several kinds, of none, or there are none.
    """
    require(len(examples) > 0, "there are no examples: give at least two.")
    types = {str if isinstance(example, str) else type(example) for example in examples}
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
            return Splits([examples[0][:cut]], [examples[0][cut:]], kind=kind, notes=notes, own_share=True)
    keys = _ties(examples, groups or [None] * len(examples))
    components = connected(keys)
    for weak, instead, note in LOOSER:
        if max(np.bincount(components)) <= len(examples) * (1 - validation_fraction):
            break
        looser = [_without(weak, instead, of) for of in keys]
        if looser != keys:
            keys, components = looser, connected(looser)
            notes += (note,)
    train, held = hold_out_groups(components, validation_fraction, seed, NAMES[kind])
    parts = [examples[i] for i in train], [examples[i] for i in held]
    return Splits(*parts, kind=kind, notes=notes, own_share=True)


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


def without_held_out(train: Sequence[Any], held: Sequence[Any]) -> tuple[list[Any], tuple[str, ...]]:
    """Return the training examples of a given split that are not held out as well, and what a user should know.

    A question is where one of its turns is scored, about the same context; a conversation is by all turns of the user.

    Raises:
        ValueError: all of them are held out.
    """
    known = {_asked(example)[0] for example in held}
    kept = [example for example in train if not any(asked in known for asked in _asked(example))]
    lost = f"{len(train) - len(kept):,} of {len(train):,} training {NAMES[kind_of(train)]}"
    require(bool(kept), f"{lost} are held out too: nothing is left to train on. Give each its own examples.")
    notes = []
    if len(kept) < len(train):
        notes.append(f"{lost} equal to a held-out one were left out of training: they would leak")
    about = set().union(*map(_contexts, held))
    shared = sum(not about.isdisjoint(_contexts(example)) for example in kept)
    if shared:
        notes.append(
            f"{shared:,} of {len(kept):,} training questions ask about the context of a held-out one: kept, as the split is "
            "given"
        )
    return kept, tuple(notes)


def _contexts(example: Any) -> set[str]:
    """Return what an example gives to read, as it is compared; nothing of what is no question."""
    turns = (example, *example.more) if isinstance(example, QuestionAnswer) else ()
    return {plain for turn in turns if (plain := _plain(turn.context))}


def _asked(example: Any) -> list[Hashable]:
    """Return what is asked: question by question with its context, or all turns of the user at once; a text however spaced."""
    if isinstance(example, QuestionAnswer):
        turns = (example, *example.more)
        return [(_plain(turn.context or example.context), _plain(turn.question)) for turn in turns]
    return [_user_turns(example) if isinstance(example, Conversation) else _spaced(example)]


def _ties(examples: Sequence[Any], groups: Sequence[Hashable]) -> list[list[Key]]:
    """Return what ties each example to others.

    Kinds: its group; a text, however it is spaced; its contexts; what is asked first; all turns of a conversation; and what
    is asked first in one example and later in another ("later"), which is learned there though it is not what opens it.
    """
    asked = [_turns(example) for example in examples]
    first = {turns[0] for turns in asked if turns}
    later = first & {turn for turns in asked for turn in turns[1:]}
    keys: list[list[Key]] = []
    for example, group, turns in zip(examples, groups, asked, strict=True):
        own: list[Key] = [] if group is None else [("group", group)]
        own += [("first", turn) for turn in turns[:1]]
        own += [("later", turn) for turn in turns if turn in later]
        own += [("context", context) for context in sorted(_contexts(example))]
        if isinstance(example, Conversation):
            own.append(("turns", turns))
        elif isinstance(example, str):
            own.append(("text", _spaced(example)))
        keys.append(own)
    return keys


def _turns(example: Any) -> tuple[str, ...]:
    """Return what is asked in an example, without contexts; nothing of a text."""
    if isinstance(example, QuestionAnswer):
        return tuple(_plain(turn.question) for turn in (example, *example.more))
    return _user_turns(example) if isinstance(example, Conversation) else ()


def _user_turns(example: Conversation) -> tuple[str, ...]:
    """Return what the user says, turn by turn; the first message where that is nothing."""
    users = [message for message in example.messages if message.role == "user"]
    return tuple(_plain(message.content) for message in users or example.messages[:1])


def _without(weak: str, instead: str, keys: list[Key]) -> list[Key]:
    """Return the keys without those of a kind where one of the kind `instead` is left to tie by."""
    return [key for key in keys if key[0] != weak] if any(key[0] == instead for key in keys) else keys


def _spaced(text: str) -> int:
    """Return what is the same of texts that differ in white space alone; a number, since texts may be long."""
    return hash(" ".join(text.split()))


@lru_cache(1024)  # questions of one context follow each other
def _plain(text: str) -> str:
    """Return a text as it is compared: whatever its case, its white space, and how its characters are composed (NFC)."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())
