"""From a request to a decoded result: what the sampler is asked for, and what its ids stand for.

Owns the rules that one call's requests share (context, length, stop strings, guidance) for `GPT.complete` and
`GPT.stream`, which document them. Refuses to load runs, and prints nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np

from jgpt import beam, sampler
from jgpt.automaton import automaton_for
from jgpt.check import require
from jgpt.config import ModelConfig
from jgpt.data.examples import Picture
from jgpt.decoder import decoder_for
from jgpt.growing import GrowingText, check_stops, find, tokens_before
from jgpt.sampler import Samples
from jgpt.sampling import Allowed, Sampling
from jgpt.speculative import AHEAD, Speculation
from jgpt.tasks.image import ImageTask
from jgpt.tasks.task import Prompt, Task
from jgpt.tokenizers.vocabulary import Vocabulary

DEFAULT_NEW_TOKENS: Final = 200  # one token of a text may be many; a continuation this long fills a terminal


@runtime_checkable
class Model(Protocol):
    """What is asked of a `GPT` here."""

    @property
    def prepared(self) -> Any:
        """Parameters as `Decoder.prepare` returns them."""

    @property
    def model(self) -> ModelConfig:
        """The resolved model config."""
        ...

    @property
    def tokenizer(self) -> Vocabulary:
        """The joint vocabulary."""
        ...

    @property
    def tasks(self) -> dict[str, Task]:
        """Tasks by name."""
        ...

    @property
    def cache(self) -> str | None:
        """Type in which keys and values are kept; None = the type of compute."""
        ...


@dataclass(frozen=True)
class Completion:
    """Decoded results of one call, in the order of the requests.

    Attributes:
        values: strings, or uint8 pictures.
        samples: ids, endings and log-probabilities behind them.
    """

    values: list[Any]
    samples: Samples


def complete(
    model: Model,
    task: str,
    requests: Sequence[Any],
    *,
    stop: Sequence[str],
    beams: int | None = None,
    alpha: float | None = None,
    **options: Any,
) -> Completion:
    """Return what `GPT.complete` does."""
    prompts, arguments = _plan(model, task, requests, stop=stop, **options)
    require(
        beams is not None or alpha is None,
        f"length_penalty is {alpha}, but beams is not given: set it, or leave both out.",
    )
    decode = model.tasks[task].decode
    until = (lambda _, ids: find(decode(ids), stop) is not None) if stop else None
    unconditional = None
    if arguments["sampling"].guidance != 1.0:
        unconditional = _without_condition(model, task, requests)
    if beams is None:
        samples = sampler.sample(**arguments, until=until, unconditional=unconditional)
    else:
        samples = _search(arguments, stop, beams, alpha or 0.0)
    if stop:
        samples = _cut(samples, [tokens_before(ids, decode, stop) for ids in samples.tokens])
    begun = [prompt.tokens[len(prompt.tokens) - prompt.begun :] for prompt in prompts]
    ids = [[*given.tolist(), *new.tolist()] for given, new in zip(begun, samples.tokens, strict=True)]
    values = [model.tasks[task].decode(row) for row in ids]
    if stop:
        ended = [find(text, stop) for text in values]
        values = [text[:place] for text, place in zip(values, ended, strict=True)]
        finished = ["stop" if place is not None else was for place, was in zip(ended, samples.finished, strict=True)]
        samples = samples._replace(finished=finished)
    return Completion(values, samples)


def stream(
    model: Model, task: str, requests: Sequence[Any], *, stop: Sequence[str], every: int, **options: Any
) -> Iterator[tuple[list[str], Samples]]:
    """Yield (new text of each request, everything drawn so far) as `GPT.stream` does; the texts add up to `complete`'s."""
    _, arguments = _plan(model, task, requests, stop=stop, **options)
    require(
        not isinstance(model.tasks[task], ImageTask),
        f"task {task!r} draws pictures, which are no text to be streamed: use `complete`.",
    )
    texts = [GrowingText(model.tasks[task].decode, stop) for _ in requests]
    for samples in sampler.stream(**arguments, every=every):
        new = [
            text.feed(ids, final=bool(end))
            for text, ids, end in zip(texts, samples.tokens, samples.finished, strict=True)
        ]
        finished = ["stop" if text.stopped else end for text, end in zip(texts, samples.finished, strict=True)]
        yield new, samples._replace(finished=finished)
        if all(finished):
            return


def _plan(
    model: Model,
    task: str,
    requests: Sequence[Any],
    *,
    sampling: Sampling,
    seed: int,
    max_new_tokens: int | None,
    top: int,
    stop: Sequence[str],
    pattern: str | None,
    schema: Mapping[str, Any] | None,
    draft: Model | None,
    lookup: int | None,
    ahead: int | None,
) -> tuple[list[Prompt], dict[str, Any]]:
    """Return the prompts, and the sampler's arguments. Raises ValueError where they do not fit each other or the context."""
    prompts = [model.tasks[task].prompt(request) for request in requests]
    require(bool(prompts), f"no request was given for task {task!r}: give at least one.")
    require(
        not stop or not isinstance(model.tasks[task], ImageTask),
        f"stop strings {list(stop)} were given to task {task!r}, which draws pictures: leave them out.",
    )
    check_stops(stop)
    for name, form in (("pattern", pattern), ("schema", schema)):
        require(
            form is None or not isinstance(model.tasks[task], ImageTask),
            f"a {name} was given to task {task!r}, which draws pictures: leave it out.",
        )
        require(
            form is None or not stop,
            f"stop strings {list(stop)} would cut a text that is to match the {name}: leave one of them out.",
        )
        require(
            form is None or getattr(model.tasks[task], "step", None) is None,
            f"a {name} was given to task {task!r}, which says steps before its answer: leave it out, or train without "
            f"--data.tasks.{task}.steps.",
        )
    context = model.model.context_length
    longest = max(len(prompt.tokens) for prompt in prompts)
    require(
        longest < context,
        f"the prompt has {longest} tokens, model.context_length is {context}: shorten it by at least "
        f"{longest - context + 1} tokens, or train with a longer --model.context-length.",
    )
    first = prompts[0]
    require(
        all(prompt.begun == first.begun for prompt in prompts),
        f"the given pictures begin with {sorted({prompt.begun for prompt in prompts})} tokens: complete those with as "
        "many rows in one call, and others in the next.",
    )
    new = next(n for n in (max_new_tokens, first.max_new_tokens, DEFAULT_NEW_TOKENS) if n is not None)
    if max_new_tokens is None and first.max_new_tokens is None:
        new = min(new, context - longest)  # an open end goes as far as the context; a picture must fit whole
    arguments = dict(
        decoder=decoder_for(model.model, model.tokenizer.size, model.cache),
        params=model.prepared,
        prompts=[prompt.tokens for prompt in prompts],
        max_new_tokens=new,
        sampling=sampling,
        seeds=seed,
        stop_ids=first.stop_ids,
        allowed=Allowed.phases([(phase.ids, phase.count) for phase in first.phases], model.tokenizer.size),
        top=top,
        pad_id=model.tokenizer.special("<|pad|>"),
        automata=automaton_for(model.tokenizer, first.stop_ids, pattern=pattern, schema=schema),
        speculation=_speculation(model, draft, lookup, ahead),
    )
    return prompts, arguments


def _search(arguments: dict[str, Any], stop: Sequence[str], beams: int, alpha: float) -> Samples:
    """Return what beam search finds. Raises ValueError for options that have no meaning there."""
    idle = {"a draft or lookup": arguments["speculation"], "top": arguments["top"], "stop strings": stop}
    for name, value in idle.items():
        require(not value, f"beam search does not go together with {name}: leave out one of them.")
    names = ("decoder", "params", "prompts", "max_new_tokens", "sampling", "stop_ids", "allowed", "pad_id", "automata")
    return beam.search(**{name: arguments[name] for name in names}, beams=beams, alpha=alpha)


def _speculation(model: Model, draft: Model | None, lookup: int | None, ahead: int | None) -> Speculation | None:
    """Return who proposes tokens. Raises ValueError where a draft has another vocabulary, or nobody is to propose."""
    if draft is None and lookup is None:
        require(ahead is None, f"ahead is {ahead}, but nobody proposes: give a draft or a lookup, or leave it out.")
        return None
    require(
        draft is None or lookup is None,
        f"a draft and lookup {lookup} are given: only one of them can propose, leave the other out.",
    )
    number = AHEAD if ahead is None else ahead
    if draft is None:
        return Speculation(number, lookup=lookup)
    ours, theirs = model.tokenizer, draft.tokenizer
    require(
        ours.specials == theirs.specials
        and ours.text_name == theirs.text_name
        and ours.text.to_json() == theirs.text.to_json()
        and ours.image_ids == theirs.image_ids,
        f"the draft's vocabulary ({theirs.text_name}, {theirs.size} ids) is not the model's ({ours.text_name}, {ours.size} "
        "ids): train the draft on the same data with the same tokenizer.",
    )
    return Speculation(number, draft=decoder_for(draft.model, theirs.size, draft.cache), draft_params=draft.prepared)


def _cut(samples: Samples, sizes: Sequence[int]) -> Samples:
    """Return the first `sizes` tokens of each row."""
    return samples._replace(
        tokens=[ids[:n] for ids, n in zip(samples.tokens, sizes, strict=True)],
        logprobs=[values[:n] for values, n in zip(samples.logprobs, sizes, strict=True)],
        top=[(ids[:n], values[:n]) for (ids, values), n in zip(samples.top, sizes, strict=True)],
    )


def _without_condition(model: Model, name: str, requests: Sequence[Any]) -> list[np.ndarray]:
    """Return the prompts of the same pictures without captions. Raises ValueError where the run knows none."""
    task = model.tasks[name]
    require(
        isinstance(task, ImageTask),
        f"guidance was asked of task {name!r} of kind {task.kind!r}: only pictures are drawn with it; leave --guidance "
        "at 1.",
    )
    require(
        getattr(task, "unconditional", False),
        f"guidance needs pictures without captions in training, and task {name!r} saw none: train with "
        f"--data.tasks.{name}.condition-dropout 0.1, or leave --guidance at 1.",
    )
    bare = [replace(request, caption="") if isinstance(request, Picture) else "" for request in requests]
    return [task.prompt(request).tokens for request in bare]
