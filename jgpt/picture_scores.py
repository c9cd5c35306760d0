"""Scores of pictures beyond their likelihood: what the codes lose, and whether drawings are what they were asked for.

Owns `TASK/code_rmse` [grey levels] and `TASK/code_psnr` [dB] of codes that lose something, and
`TASK/classifier_accuracy` beside `TASK/class_consistency`. Refuses likelihoods, which are `evaluate`'s.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from jgpt.check import counted, listed, require
from jgpt.data.examples import Picture
from jgpt.loaded import GPT
from jgpt.sampling import Sampling
from jgpt.tasks.image import ImageTask
from jgpt.tasks.mixture import TaskData
from jgpt.tokenizers.image_code import loses

MAX_TRAINING: Final = 10_000  # pictures that the classifier learns from, and is scored on
MIN_PER_CLASS: Final = 10
MAX_CLASSES: Final = 100
COMPONENTS: Final = 64  # principal components that the classifier sees


def image_codes(task: ImageTask, example: Picture) -> np.ndarray:
    """Return the joint ids of the pixels of a picture: what is trained, without the end."""
    document = task.encode(example)
    trained = document.tokens if document.weights is None else document.tokens[document.weights > 0]
    return trained[:-1]


def as_coded(task: ImageTask, example: Picture) -> np.ndarray:
    """Return a picture as the run's codes show it: encoded and decoded again."""
    return task.decode(image_codes(task, example).tolist())


def code_error(name: str, data: TaskData) -> dict[str, float]:
    """Return what the codes lose on the held-out pictures; nothing where they lose nothing.

    The peak of the signal to noise ratio is 255.
    """
    if not isinstance(data.task, ImageTask):
        return {}
    lost = loses(data.task.vocabulary.code, (example.pixels for example in data.splits.validation))
    return {f"{name}/code_rmse": lost.rmse, f"{name}/code_psnr": lost.psnr} if lost.rmse else {}


def classes_of(data: TaskData) -> tuple[str, ...] | None:
    """Return the captions where they are classes: 2 to `MAX_CLASSES`, each of `MIN_PER_CLASS` training pictures or more."""
    counts = _counts(data)
    if len(counts) not in range(2, MAX_CLASSES + 1) or min(counts.values()) < MIN_PER_CLASS:
        return None
    return tuple(sorted(counts))


def _counts(data: TaskData) -> Counter[str]:
    """Return how many training pictures each caption has; no more is counted than tells that they are too many."""
    counts: Counter[str] = Counter()
    for example in data.splits.train:
        counts[example.caption] += 1
        if len(counts) > MAX_CLASSES:
            break
    return counts


def _why_none(data: TaskData) -> str:
    """Return what keeps the captions of a task from being classes, in words."""
    counts = _counts(data)
    if len(counts) > MAX_CLASSES:
        return "it has more captions"
    few = sorted(caption for caption, count in counts.items() if count < MIN_PER_CLASS)
    return f"too few have {listed(few, 5)}" if few else f"it has {counted(len(counts), 'caption')}"


def class_consistency(model: GPT, name: str, data: TaskData, *, per_class: int, seed: int = 0) -> dict[str, float]:
    """Return the accuracy of a small classifier on held-out pictures, and the share of drawings it calls what they are for.

    The classifier (principal components, then a support vector machine) learns from at most `MAX_TRAINING` real training
    pictures as the codes show them. Pictures are drawn from the model's own distribution. A share of drawings above the
    accuracy on real ones means drawings that are plainer than real pictures, not better.

    Args:
        model: to draw with.
        name: of the task.
        data: of the task.
        per_class: pictures to draw of each class.
        seed: of the drawings and of the choice of training pictures.

    Raises:
        ValueError: the captions are no classes.
    """
    classes = classes_of(data)
    if classes is None or not isinstance(data.task, ImageTask):
        raise ValueError(
            f"the captions of task {name!r} are no classes: class consistency needs 2 to {MAX_CLASSES} captions with at "
            f"least {MIN_PER_CLASS} training pictures each ({_why_none(data)}); leave --draw out."
        )
    require(per_class >= 1, f"--draw is {per_class}: draw at least 1 picture of each class.")
    classifier = _classifier(*_real(data.task, data.splits.train, seed), seed)
    pixels, captions = _real(data.task, data.splits.validation, seed)
    known = np.isin(captions, classes)
    require(
        bool(known.any()), f"no held-out picture of task {name!r} has a caption of training: nothing to compare with."
    )
    wanted = [caption for caption in classes for _ in range(per_class)]
    drawn = model.complete(name, wanted, sampling=Sampling(temperature=1.0), seed=seed).values
    return {
        f"{name}/classifier_accuracy": float(np.mean(classifier.predict(pixels[known]) == captions[known])),
        f"{name}/class_consistency": float(np.mean(classifier.predict(_features(drawn)) == np.array(wanted))),
    }


def consistencies(model: GPT, data: dict[str, TaskData], *, per_class: int, seed: int = 0) -> dict[str, float]:
    """Return `class_consistency` of every task whose captions are classes.

    Raises:
        ValueError: no task has such captions.
    """
    tasks = {name: task for name, task in data.items() if isinstance(task.task, ImageTask)}
    names = [name for name, task in tasks.items() if classes_of(task) is not None]
    reasons = ", ".join(f"{name}: {_why_none(task)}" for name, task in tasks.items())
    require(
        bool(names),
        f"--draw counts how many drawings show their class, and no task of this run draws from 2 to {MAX_CLASSES} captions "
        f"with at least {MIN_PER_CLASS} training pictures each ({reasons or 'none draws pictures'}): leave it out, or give "
        "the data more pictures.",
    )
    scores: dict[str, float] = {}
    for name in names:
        scores |= class_consistency(model, name, data[name], per_class=per_class, seed=seed)
    return scores


def _real(task: ImageTask, examples: Sequence[Picture], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features and captions of at most `MAX_TRAINING` pictures, a seeded choice of more."""
    count = len(examples)
    chosen = np.arange(count)
    if count > MAX_TRAINING:
        chosen = np.sort(np.random.default_rng(seed).choice(count, MAX_TRAINING, replace=False))
    real = [examples[int(i)] for i in chosen]
    return _features([as_coded(task, example) for example in real]), np.array([example.caption for example in real])


def _features(pictures: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack(pictures).reshape(len(pictures), -1).astype(np.float32) / 255


def _classifier(features: np.ndarray, captions: np.ndarray, seed: int) -> Any:
    """Return a classifier fitted to pictures: it takes seconds for 10,000 of them."""
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import SVC

    components = min(COMPONENTS, *features.shape)
    classifier = make_pipeline(PCA(components, svd_solver="randomized", random_state=seed), SVC(C=10.0))
    return classifier.fit(features, captions)
