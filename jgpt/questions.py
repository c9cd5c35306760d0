"""Held-out questions asked of a model, many at once, and what its answers score.

Owns the order in which they are asked (few compiled shapes, bounded memory) and the scores of one question; what counts as
right is said in `grading`, what a choice's likelihood is in `choices`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import jax
import numpy as np

from jgpt import grading
from jgpt.choices import Choice, choose
from jgpt.config import ModelConfig
from jgpt.data.examples import QuestionAnswer
from jgpt.decoder import decoder_for
from jgpt.loaded import GPT
from jgpt.progress import CountProgress
from jgpt.sampler import MAX_ROWS, sample
from jgpt.sampling import Allowed, Sampling
from jgpt.tasks.qa import QATask

# Attention scores and cached keys and values that stand in memory at once [numbers]: a quarter of a gigabyte in f32 on a CPU.
NUMBERS_AT_ONCE: Final = {"cpu": 2**26}
NUMBERS_ON_ACCELERATORS: Final = 2**30


@dataclass(frozen=True)
class Answered:
    """A held-out question with what the model said.

    Attributes:
        example: question and expected answer.
        answer: the model's.
        correct: whether it is one of the references after normalisation (`grading.exact_match`).
        choice: likelihoods of the choices, where the question has some.
        scores: of this question, by name.
    """

    example: QuestionAnswer
    answer: str
    correct: bool
    choice: Choice | None = None
    scores: dict[str, float] = field(default_factory=dict)


def judge(example: QuestionAnswer, answer: str, choice: Choice | None) -> Answered:
    """Return an answer with its scores: exact_match and f1, and for choices accuracy and accuracy_length_normalised."""
    references = (example.answer, *example.references)
    values = {"exact_match": grading.exact_match(answer, references), "f1": grading.f1(answer, references)}
    if choice is not None:
        right = {example.answer, *example.references}
        values["accuracy"] = float(example.choices[choice.summed] in right)
        values["accuracy_length_normalised"] = float(example.choices[choice.normalised] in right)
    return Answered(example, answer, values["exact_match"] == 1, choice, values)


def ask(model: GPT, name: str, examples: Sequence[QuestionAnswer], *, batch_size: int) -> list[Answered]:
    """Return the model's most probable answer to every question of task `name`, token by token, and its choice.

    Args:
        model: to ask.
        name: of a task of questions.
        examples: questions that fit the context with their answers.
        batch_size: rows a batch where choices are compared.
    """
    task = model.tasks[name]
    if not isinstance(task, QATask):
        raise ValueError(f"task {name!r} is of kind {task.kind!r}: only questions ('qa') can be asked.")
    with CountProgress(f"{name}: answering", len(examples)) as progress:
        answers = _greedy(model, task, examples, progress.advance)
    several = [i for i, example in enumerate(examples) if len(example.choices) >= 2]
    chosen: dict[int, Choice] = {}
    if several:
        with CountProgress(f"{name}: comparing choices", len(several)) as progress:
            some = [examples[i] for i in several]
            found = choose(model.model, model.params, task, some, batch_size=batch_size, advance=progress.advance)
            chosen = dict(zip(several, found, strict=True))
    return [judge(example, answers[i], chosen.get(i)) for i, example in enumerate(examples)]


def _greedy(
    model: GPT,
    task: QATask,
    examples: Sequence[QuestionAnswer],
    advance: Callable[[int], None],
) -> list[str]:
    """Return the most probable answer to each question, token by token."""
    cfg, num_ids = model.model, model.tokenizer.size
    decoder = decoder_for(cfg, num_ids, model.cache)
    params = model.prepared
    prompts = [task.prompt(example) for example in examples]
    sizes = [len(prompt.tokens) for prompt in prompts]
    allowed = Allowed.phases([(phase.ids, phase.count) for phase in task.phases], num_ids)
    out = [""] * len(prompts)
    for turn in turns(sizes, task.max_new_tokens, cfg, _numbers_at_once()):
        samples = sample(
            decoder,
            params,
            [prompts[i].tokens for i in turn],
            max_new_tokens=[min(task.max_new_tokens, cfg.context_length - sizes[i]) for i in turn],
            sampling=Sampling(temperature=0.0),
            stop_ids=(task.end,),
            allowed=allowed,
        )
        for i, ids in zip(turn, samples.tokens, strict=True):
            out[i] = task.decode(ids.tolist())
        advance(len(turn))
    return out


def turns(sizes: Sequence[int], max_new: int, cfg: ModelConfig, numbers: int) -> Iterator[list[int]]:
    """Yield prompts that are asked together, every prompt once.

    The longest come first, so that memory runs out at once or never. Prompts of one turn have about one length, which the
    sampler rounds up to a power of two, and as many are taken as that leaves room for: so there are few shapes, however many
    questions.

    Args:
        sizes: of the prompts [tokens], each below the context.
        max_new: longest answer [tokens].
        cfg: of the model.
        numbers: attention scores and cached keys and values that may stand in memory at once.
    """
    context = cfg.context_length
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    at = 0
    while at < len(order):
        longest = sizes[order[at]]
        width = min(1 << (longest - 1).bit_length(), context)
        length = min(width + max_new, context)
        row = cfg.num_heads * width * length + 2 * cfg.depth * length * cfg.kv_heads * cfg.width_of_head
        rows = min(1 << (max(numbers // row, 1).bit_length() - 1), MAX_ROWS)
        yield order[at : at + rows]
        at += rows


def _numbers_at_once() -> int:
    return NUMBERS_AT_ONCE.get(jax.default_backend(), NUMBERS_ON_ACCELERATORS)


def drawn(examples: Sequence[QuestionAnswer], count: int | None, seed: int) -> list[QuestionAnswer]:
    """Return `count` of the questions, drawn by `seed` from all of them and in their order; None = all."""
    if count is None or count >= len(examples):
        return list(examples)
    return [examples[i] for i in sorted(np.random.default_rng(seed).permutation(len(examples))[:count])]
