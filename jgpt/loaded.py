"""A trained model with everything it needs to write, answer and draw: what `jgpt.load` returns.

Owns the calls of scripts and notebooks; `completion` turns their requests into results. Refuses to train, and prints nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jgpt import completion, optim, sharding, state
from jgpt.batch import Document
from jgpt.check import require
from jgpt.checkpoint import Checkpoints
from jgpt.choices import Choice, choose
from jgpt.completion import DEFAULT_NEW_TOKENS, Completion
from jgpt.config import Config, MeshConfig, ModelConfig
from jgpt.data.examples import Message, Picture, QuestionAnswer
from jgpt.data.picture_rows import top_rows
from jgpt.data.sliding import SlidingRows
from jgpt.decoder import decoder_for
from jgpt.likelihood import Score, token_nats
from jgpt.model import gpt
from jgpt.model.matrices import quantise_params
from jgpt.pictures import Pictures
from jgpt.runfolder import open_existing
from jgpt.sampler import EVERY
from jgpt.sampling import Sampling
from jgpt.tasks import mixture
from jgpt.tasks.task import Task
from jgpt.tokenizers.vocabulary import Vocabulary

ROWS_AT_ONCE = 8  # of a long text that is scored


@dataclass(frozen=True)
class GPT:
    """A model ready to be sampled.

    Attributes:
        params: parameters to sample with (the moving average where the run keeps one).
        config: of the run.
        model: the resolved model config.
        tokenizer: the run's joint vocabulary.
        tasks: by the names they have in the config.
        step: optimizer steps behind the parameters.
        cache: type in which sampling keeps keys and values, "int8"; None = the type of compute.
    """

    params: gpt.Params
    config: Config
    model: ModelConfig
    tokenizer: Vocabulary
    tasks: dict[str, Task]
    step: int
    cache: str | None = None

    def __repr__(self) -> str:
        layers, width = self.model.num_layers, self.model.embed_dim
        return (
            f"GPT of {self.config.run.dir!r} at step {self.step}: {layers} layers of width {width}, {self.tokenizer.size} ids, "
            f"tasks {', '.join(map(repr, self.tasks))}"
        )

    @cached_property
    def prepared(self) -> gpt.Params:
        """The parameters in the form that decoding reads fastest, made at the first use: floats are then held twice."""
        return decoder_for(self.model, self.tokenizer.size, self.cache).prepare(self.params)

    def complete(
        self,
        task: str,
        requests: Sequence[Any],
        *,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        seed: int = 0,
        max_new_tokens: int | None = None,
        stop: Sequence[str] = (),
        top: int = 0,
        pattern: str | None = None,
        schema: Mapping[str, Any] | None = None,
        draft: "GPT | None" = None,
        lookup: int | None = None,
        ahead: int | None = None,
        beams: int | None = None,
        length_penalty: float | None = None,
    ) -> Completion:
        """Return what the model makes of each request; request i is drawn with `fold_in(key(seed), i)`.

        Args:
            task: name in `tasks`.
            requests: texts to continue, questions, captions, or `Picture`s with a caption and their top rows, which are
                completed; in one call all have as many rows.
            sampling: how to draw. Guidance is for pictures of runs that also saw some without their captions.
            seed: fixes the result.
            max_new_tokens: longest result; None = what the task needs, or DEFAULT_NEW_TOKENS as far as the context goes.
            stop: strings that end a text and are not part of it.
            top: most probable ids to report at each token.
            pattern: regular expression that each text matches as a whole, unless it ends by its length.
            schema: JSON schema; each text is JSON that it accepts, unless it ends by its length.
            draft: a smaller model of the same vocabulary that proposes tokens, which the model accepts or not: fewer passes
                of the model, the same distribution, and the same ids where the most probable one is taken.
            lookup: propose what followed when the last `lookup` tokens stood in the text before, instead of a draft.
            ahead: tokens proposed at once; None = 4. What came of it stands in `samples.passes`.
            beams: find the most probable texts instead of drawing, by keeping this many beginnings at every step; of equal
                requests the first gets the best text, the next the second best.
            length_penalty: exponent by which beams favour longer texts; None = 0, no penalty.

        Raises:
            ValueError: a request does not fit the task or the context, or a pattern or schema cannot be followed.
        """
        options: dict[str, Any] = dict(sampling=sampling, seed=seed, max_new_tokens=max_new_tokens, stop=stop, top=top)
        options |= dict(pattern=pattern, schema=schema, draft=draft, lookup=lookup, ahead=ahead)
        return completion.complete(self, task, requests, beams=beams, alpha=length_penalty, **options)

    def stream(
        self,
        request: Any,
        kind: str = "text",
        *,
        sampling: Sampling | None = None,
        seed: int = 0,
        max_new_tokens: int | None = None,
        stop: Sequence[str] = (),
        every: int = EVERY,
        pattern: str | None = None,
        schema: Mapping[str, Any] | None = None,
        draft: "GPT | None" = None,
        lookup: int | None = None,
        ahead: int | None = None,
    ) -> Iterator[str]:
        """Yield pieces of a text, an answer or a turn as it is made; together they are what `complete` returns.

        Args:
            request: a text to continue, a question, or what the user says, as for the method of that kind.
            kind: "text", "qa" or "chat".
            sampling: how to draw; None = from the model's own distribution for text, else the most probable token.
            seed: fixes the result.
            max_new_tokens: longest result; None as in `complete`, or `reply` for answers and turns.
            stop: as in `complete`.
            every: tokens between two pieces; fewer answer sooner and take longer in all.
            pattern: as in `complete`.
            schema: as in `complete`.
            draft: as in `complete`; `every` then counts passes of the model.
            lookup: as in `complete`.
            ahead: as in `complete`.
        """
        task = self.task_of_kind(kind)
        if kind != "text" and max_new_tokens is None:
            max_new_tokens = self._room(task, [request], pattern is not None or schema is not None)
        options: dict[str, Any] = dict(seed=seed, max_new_tokens=max_new_tokens, stop=stop, top=0, every=every)
        options |= dict(pattern=pattern, schema=schema, draft=draft, lookup=lookup, ahead=ahead)
        sampling = sampling or Sampling(temperature=1.0 if kind == "text" else 0.0)
        for (new,), _ in completion.stream(self, task, [request], sampling=sampling, **options):
            if new:
                yield new

    def task_of_kind(self, kind: str) -> str:
        """Return the name of the first task of a kind ("text", "qa", "chat", "image").

        Raises:
            ValueError: the run has none.
        """
        for name, task in self.tasks.items():
            if task.kind == kind:
                return name
        kinds = ", ".join(f"{name} ({task.kind})" for name, task in self.tasks.items())
        raise ValueError(f"this run has no task of kind {kind!r}; it was trained on {kinds}.")

    def generate(self, text: str, n: int = 1, **options: Any) -> list[str]:
        """Return n continuations of `text`; options as in `complete`."""
        return self.complete(self.task_of_kind("text"), [text] * n, **options).values

    def draw(
        self,
        caption: str | int,
        n: int = 1,
        *,
        complete: np.ndarray | None = None,
        keep_rows: int | None = None,
        **options: Any,
    ) -> Pictures:
        """Return n pictures of `caption`, as PIL images; their pixels are `array`, and a notebook shows them as a grid.

        Args:
            caption: words, or the label of a class; "" draws without any, where the run learned to.
            n: pictures.
            complete: the top rows of a picture of the run's width, or a whole one; the rest is drawn.
            keep_rows: rows of `complete` that are kept; None = all, or the upper half of a whole picture.
            options: as in `complete`.

        Raises:
            ValueError: the run has no such caption, or the given rows do not fit it.
        """
        name = self.task_of_kind("image")
        require(
            keep_rows is None or complete is not None,
            f"keep_rows is {keep_rows}, but no picture is given to complete: pass `complete`, or leave keep_rows out.",
        )
        request: Any = str(caption)
        if complete is not None:
            task: Any = self.tasks[name]
            request = Picture(top_rows(complete, task.shape[0], keep_rows), str(caption))
        return Pictures(np.stack(self.complete(name, [request] * n, **options).values))

    def answer(
        self, question: str, context: str | None = None, choices: Sequence[str] | None = None, **options: Any
    ) -> str:
        """Return the answer to a question, token by token the most probable one unless `sampling` says otherwise.

        Args:
            question: to answer.
            context: what the answer is to be found in; None = closed book.
            choices: answers to choose from; the one with the highest summed likelihood is returned (see `choose`).
            options: as in `complete`; there are none where `choices` are given, since nothing is drawn.

        Raises:
            ValueError: the run has no task of questions, or the question does not fit it or the context.
        """
        if choices is not None:
            require(not options, f"choices are compared, not drawn: leave out {', '.join(options)}.")
            return choices[self.choose(question, choices, context).summed]
        request = QuestionAnswer(question, "", context=context or "")
        return self.reply(self.task_of_kind("qa"), [request], **options)[0]

    def choose(self, question: str, choices: Sequence[str], context: str | None = None) -> Choice:
        """Return how probable each of `choices` is as the answer, by the exact forward pass.

        Raises:
            ValueError: there are fewer than two choices, an empty one, or all are too long for the context.
        """
        name = self.task_of_kind("qa")
        example = QuestionAnswer(question, "", context=context or "", choices=tuple(choices))
        task: Any = self.tasks[name]
        (found,) = choose(self.model, self.params, task, [example], batch_size=1)
        require(
            min(found.nats) < np.inf,
            f"with no choice does the question fit model.context_length {self.model.context_length}: shorten its context.",
        )
        return found

    def chat(self, messages: str | Sequence[Message | Mapping[str, str]], **options: Any) -> str:
        """Return the assistant's next turn, token by token the most probable one unless `sampling` says otherwise.

        Args:
            messages: what the user says, or the turns so far, the user's last: `Message`s, or mappings with "role" and
                "content".
            options: as in `complete`.

        Raises:
            ValueError: the run has no task of dialogue, or the turns do not fit it or the context.
        """
        return self.reply(self.task_of_kind("chat"), [messages], **options)[0]

    def reply(
        self, task: str, requests: Sequence[Any], *, max_new_tokens: int | None = None, **options: Any
    ) -> list[str]:
        """Return an answer or a turn to each request: as `complete`, but no longer than the context leaves room for.

        Args:
            task: name of a task of questions or dialogue.
            requests: questions, or conversations.
            max_new_tokens: longest answer; None = as long as the longest of training (DEFAULT_NEW_TOKENS where it has to follow
                a pattern or schema), and as the context allows.
            options: as in `complete`; without `sampling`, the most probable token is taken each time.
        """
        return self._reply(task, requests, max_new_tokens, **options).values

    def reason(self, question: str, context: str | None = None, **options: Any) -> tuple[list[str], str]:
        """Return what leads to the answer, step by step, and the answer itself, as `answer` does.

        Args:
            question: to answer.
            context: what the answer is to be found in; None = closed book.
            options: as in `complete`.

        Raises:
            ValueError: the run was not trained to say steps (`data.tasks.NAME.steps`), or see `answer`.
        """
        name = self.task_of_kind("qa")
        task: Any = self.tasks[name]
        require(
            task.step is not None,
            f"task {name!r} was trained to answer at once: ask `answer`, or train with --data.tasks.{name}.steps.",
        )
        found = self._reply(name, [QuestionAnswer(question, "", context=context or "")], **options)
        return task.steps(found.samples.tokens[0]), found.values[0]

    def _reply(
        self, task: str, requests: Sequence[Any], max_new_tokens: int | None = None, **options: Any
    ) -> Completion:
        if max_new_tokens is None:
            max_new_tokens = self._room(task, requests, any(options.get(name) for name in ("pattern", "schema")))
        options = {"sampling": Sampling(temperature=0.0)} | options
        return self.complete(task, requests, max_new_tokens=max_new_tokens, **options)

    def _room(self, task: str, requests: Sequence[Any], formed: bool) -> int:
        """Return the longest answer that training and context allow [tokens]; one of a given form must not end within it."""
        prompts = [self.tasks[task].prompt(request) for request in requests]
        room = self.model.context_length - max((len(prompt.tokens) for prompt in prompts), default=0)
        longest = max((prompt.max_new_tokens or DEFAULT_NEW_TOKENS for prompt in prompts), default=1)
        longest = max(longest, DEFAULT_NEW_TOKENS) if formed else longest
        return max(1, min(longest, room))  # without room `complete` says by how much it is too long

    def score(self, text: str, *, stride: int | None = None) -> Score:
        """Return how probable `text` is, by the exact forward pass, with every token's share.

        The text stands after its start marker; its end is not scored, since a piece of text seldom is a whole document.

        Args:
            text: to score.
            stride: of the windows in which a text longer than the context is scored [tokens]; None = `eval.stride` of the
                run, or half of the context.

        Raises:
            ValueError: the text is empty, or the run has no task of text.
        """
        task: Any = self.tasks[self.task_of_kind("text")]
        require(bool(text), f"the text is {text!r}: it must hold something to score.")
        ids = task.prompt(text).tokens
        length = self.model.context_length
        stride = (self.config.eval.stride or max(1, length // 2)) if stride is None else stride
        rows = SlidingRows([Document(ids)], length, stride)
        (nats,) = token_nats(self.model, self.params, rows, batch_size=min(len(rows), ROWS_AT_ONCE))
        words = [self.tokenizer.decode_text([i]) for i in ids[1:].tolist()]
        per_token = list(zip(words, map(float, nats), strict=True))
        return Score(float(nats.sum(dtype=np.float64)), len(nats), len(text.encode("utf-8")), per_token)


def load(
    run: str | Path,
    *,
    step: int | None = None,
    mesh: MeshConfig | None = None,
    weights: str | None = None,
    cache: str | None = None,
) -> GPT:
    """Return the model of a run.

    Args:
        run: the run's folder.
        step: a checkpoint's step; None = the newest whole one.
        mesh: how to lay it over devices; None = one device.
        weights: "int8" rounds every matrix to 255 levels with a scale an output, a quarter of the bytes; None = as trained.
        cache: "int8" keeps keys and values of sampling so, with a scale a token and head; None = in the type of compute.

    Raises:
        FileNotFoundError: there is no such run, or it has no checkpoint yet.
        ValueError: the folder is not a run, its checkpoints are damaged, or there is no such type of weights or cache, or
            not for mixtures of experts.
    """
    for name, value in (("weights", weights), ("cache", cache)):
        require(value in (None, "int8"), f"{name} is {value!r}: use 'int8', or leave it out.")
    folder, config = open_existing(run)
    require(
        weights is None or config.model.num_experts is None,
        f"weights is {weights!r}, and {run} has model.num_experts {config.model.num_experts}: experts, which are most of the "
        "weights, are kept as trained only; leave it out.",
    )
    vocabulary, tasks = mixture.load(folder.tokenizer)
    devices = sharding.make_mesh(mesh or MeshConfig(data=1))
    model = gpt.resolve(config.model, backend=jax.default_backend(), **mixture.ids_for_model(vocabulary, tasks))
    tx = optim.make_optimizer(config.optim, config.train.steps, gpt.param_axes(model))
    abstract = state.abstract_state(model, tx, devices, ema=config.optim.ema_decay is not None)
    part = {"params": abstract.params} if abstract.ema is None else {"ema": abstract.ema}
    settings = config.checkpoint
    with Checkpoints(
        folder.checkpoints,
        every_steps=settings.every_steps,
        keep_latest=settings.keep_latest,
        keep_best=settings.keep_best,
    ) as checkpoints:
        restored = checkpoints.restore(part, step=step, partial=True, required=True)
    if restored is None:
        raise FileNotFoundError(f"{run} holds no checkpoint yet: let it train until the first one.")
    (params,) = restored.state.values()
    if weights == "int8":  # layer by layer, as decoding reads them, so that they are not held twice
        params = jax.jit(lambda params: quantise_params(gpt.unstack(params)))(params)
    return GPT(params, config, model, vocabulary, tasks, restored.step, cache)
