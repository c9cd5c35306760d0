"""Which pictures are held out: equal ones stay together, and classes are held out in proportion.

Owns the split of pictures; refuses files.
"""

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from jgpt.check import counted, listed, require
from jgpt.data.examples import Picture


def fingerprint(pixels: np.ndarray) -> Hashable:
    """Return what two pictures share exactly when they have the same shape and pixels."""
    return pixels.shape, pixels.tobytes()


def are_classes(captions: Sequence[str]) -> bool:
    """Return whether captions are classes: several, and seldom different; else they describe."""
    return 1 < len(set(captions)) <= len(captions) / 2


def hold_out_pictures(
    pictures: Sequence[Picture], fraction: float, seed: int, *, by_class: bool
) -> tuple[list[int], list[int], tuple[str, ...]]:
    """Return the training and the held-out indices, each ascending, and what a user should know of it.

    Equal pictures, whatever their captions, stand on one side. By class, every class gives about the same share: the
    pictures of each are shuffled and spread evenly over [0, 1), and the first `fraction` of all is held out. A class
    always keeps one picture to train on, so that one with a single picture is never held out; of equal pictures in several
    classes this holds for each of these.

    Args:
        pictures: all of them.
        fraction: share to hold out, strictly between 0 and 1.
        seed: the same seed holds out the same pictures.
        by_class: captions are classes; otherwise the share is drawn from all pictures alike.

    Raises:
        ValueError: fewer than two different pictures, or a share outside (0, 1).
    """
    require(0 < fraction < 1, f"validation_fraction is {fraction}: must lie strictly between 0 and 1.")
    groups: dict[Hashable, list[int]] = {}
    for index, picture in enumerate(pictures):
        groups.setdefault(fingerprint(picture.pixels), []).append(index)
    members = list(groups.values())
    require(
        len(members) >= 2,
        f"{len(pictures)} picture(s), {len(members)} of them different, cannot be split: one is needed to train on and "
        "another to score on; add pictures.",
    )
    random = np.random.default_rng(seed)
    classes: dict[str, list[int]] = {}
    captions = [sorted({pictures[i].caption if by_class else "" for i in indices}) for indices in members]
    for group, (first, *_) in enumerate(captions):
        classes.setdefault(first, []).append(group)
    places: list[tuple[float, int]] = []
    for of_class in classes.values():
        order, start = random.permutation(of_class), random.random()
        places += [((rank + start) / len(order), int(group)) for rank, group in enumerate(order[:-1])]
    left = Counter(caption for of_group in captions for caption in of_group)
    single = sorted(name for name, count in left.items() if count == 1)
    count = max(round(len(members) * fraction), 1)
    chosen: set[int] = set()
    for _, group in sorted(places):
        if len(chosen) < count and all(left[caption] > 1 for caption in captions[group]):
            chosen.add(group)
            left.subtract(captions[group])
    require(
        bool(chosen),
        f"each of the {len(classes)} classes has one picture: none could be held out and still be trained; add "
        "pictures, or give them a folder train and a folder val.",
    )
    held = sorted(i for group in chosen for i in members[group])
    train = sorted(i for group, indices in enumerate(members) if group not in chosen for i in indices)
    notes = []
    repeated = sum(len(indices) for indices in members if len(indices) > 1)
    if repeated:
        notes.append(
            f"{repeated} pictures are equal to another one in every pixel: equal ones stand on one side of the split"
        )
    if single:
        notes.append(f"classes with a single picture, which is trained and never held out: {listed(single)}")
    return train, held, tuple(notes)


def without_held_out_pictures(
    train: Sequence[Picture], held: Sequence[Picture]
) -> tuple[list[Picture], tuple[str, ...]]:
    """Return the training pictures of a given split that are not held out as well, and what a user should know."""
    known = {fingerprint(picture.pixels) for picture in held}
    kept = [picture for picture in train if fingerprint(picture.pixels) not in known]
    lost = len(train) - len(kept)
    require(
        bool(kept),
        f"all {counted(lost, 'training picture')} are held out too: nothing is left to train on. Give each part its own.",
    )
    note = f"left out of training, where they would leak: {counted(lost, 'picture')} equal to a held-out one"
    return kept, (note,) if lost else ()
