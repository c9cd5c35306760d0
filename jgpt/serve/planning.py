"""From a request to jobs: which task answers it, what its prompt is, and whether it fits the run.

Owns the rules that a request must keep beyond its form, and the groups of ids that all tasks of a run allow. Refuses HTTP and
devices.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from jgpt.check import require
from jgpt.completion import DEFAULT_NEW_TOKENS, Model
from jgpt.data.examples import Message
from jgpt.decoder import Decoder, decoder_for
from jgpt.growing import UNFINISHED, check_stops
from jgpt.sampler_batch import Requests, check
from jgpt.sampling import Allowed, Sampling
from jgpt.serve.errors import RefusedError, broken_rule
from jgpt.serve.job import Job, Update
from jgpt.serve.slots import BIASES, Row, Slots
from jgpt.tasks.image import ImageTask
from jgpt.tasks.task import Prompt, Task
from jgpt.tokenizers.vocabulary import Vocabulary

DEFAULT_COMPLETION: Final = 16  # tokens: OpenAI's default for completions


@dataclass(frozen=True)
class Order:
    """What a request asks for, after its form was checked.

    Attributes:
        sampling: how to draw.
        n: samples.
        seed: of the samples; sample i folds i into its key, as `GPT.complete` does.
        max_tokens: longest result; None = as long as the task needs.
        stops: strings that end a text.
        top: most probable ids to report at each token; 0 = none.
    """

    sampling: Sampling
    n: int = 1
    seed: int = 0
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()
    top: int = 0


class Planner:
    """A run, as requests see it.

    Args:
        model: to serve.
        name: by which clients know it.
        longest_output: tokens that a request may ask for; None = as the context allows.
    """

    def __init__(self, model: Model, name: str, longest_output: int | None = None) -> None:
        self.model, self.name, self.longest_output = model, name, longest_output
        self.context: int = model.model.context_length
        self.decoder: Decoder = decoder_for(model.model, model.tokenizer.size, model.cache)
        self._groups: dict[tuple[int, ...], int] = {}
        self._stops: set[int] = set()
        for task in model.tasks.values():
            prompt = task.prompt(_probe(task))
            self._stops.update(prompt.stop_ids)
            for phase in prompt.phases:
                self._groups.setdefault(phase.ids, len(self._groups))

    def make_slots(self, size: int) -> Slots:
        """Return the slots in which the run's jobs are decoded."""
        require(size >= 1, f"slots is {size}: decode at least 1 row at once; use --slots 1 or more.")
        table = Allowed.phases([(ids, 1) for ids in self._groups], self.model.tokenizer.size)
        return Slots(
            self.decoder,
            self.model.prepared,
            size,
            table_GV=table.table_GV,
            stop_ids=sorted(self._stops),
            pad_id=self.model.tokenizer.special("<|pad|>"),
        )

    def task_of_kind(self, *kinds: str) -> tuple[str, Task]:
        """Return name and task of the first of `kinds` that the run has.

        Raises:
            RefusedError: it has none (400).
        """
        for kind in kinds:
            for name, task in self.model.tasks.items():
                if task.kind == kind:
                    return name, task
        have = ", ".join(f"{name} ({task.kind})" for name, task in self.model.tasks.items())
        raise RefusedError(
            400,
            f"model {self.name!r} has no task of kind {' or '.join(map(repr, kinds))}: it was trained on {have}.",
            param="model",
            code="unsupported_task",
        )

    def check_model(self, name: str | None) -> None:
        """Raise RefusedError (404) where another model is asked for."""
        if name is not None and name != self.name:
            raise RefusedError(
                404,
                f"the model {name!r} does not exist: this server has {self.name!r}.",
                param="model",
                code="model_not_found",
            )

    def complete(self, text: str, order: Order, deliver: Callable[[int, Update], None]) -> list[Job]:
        """Return the jobs that go on with a text; `deliver` gets the number of the sample with each update."""
        _, task = self.task_of_kind("text")
        prompt = _asked(task, text, "prompt")
        longest = order.max_tokens or self._room(prompt, DEFAULT_COMPLETION)
        return self._jobs(task, prompt, order, longest, deliver, "prompt")

    def reply(self, messages: Sequence[Message], order: Order, deliver: Callable[[int, Update], None]) -> list[Job]:
        """Return the jobs that answer the last turn: by the task of dialogue, else a single turn as a question."""
        _, task = self.task_of_kind("chat", "qa")
        request: Any = messages
        if task.kind == "qa":
            if len(messages) != 1 or messages[0].role != "user":
                raise RefusedError(
                    400,
                    f"there are {len(messages)} messages, the last by {messages[-1].role!r}: model {self.name!r} answers "
                    "single questions, so send exactly one message of the role user.",
                    param="messages",
                )
            request = messages[0].content
        prompt = _asked(task, request, "messages")
        longest = order.max_tokens or self._room(prompt, prompt.max_new_tokens or DEFAULT_NEW_TOKENS)
        return self._jobs(task, prompt, order, longest, deliver, "messages")

    def draw(self, caption: str, order: Order, deliver: Callable[[int, Update], None]) -> list[Job]:
        """Return the jobs that draw pictures of a caption."""
        task = self.image_task()
        prompt = _asked(task, caption, "prompt")
        if prompt.max_new_tokens is None:
            raise RefusedError(500, "the task of pictures does not say how many tokens a picture has.")
        return self._jobs(task, prompt, order, prompt.max_new_tokens, deliver, "prompt")

    def image_task(self) -> ImageTask:
        """Return the run's first task of pictures. Raises RefusedError (400) where it has none."""
        task = self.task_of_kind("image")[1]
        if not isinstance(task, ImageTask):
            raise RefusedError(400, f"the task of pictures is a {type(task).__name__}, which cannot be served.")
        return task

    def _room(self, prompt: Prompt, wanted: int) -> int:
        """Return how many of the tokens that nobody asked for in numbers fit; at least one, which may be refused."""
        return max(1, min(wanted, self.context + 1 - len(prompt.tokens), self.longest_output or self.context))

    def _jobs(
        self,
        task: Task,
        prompt: Prompt,
        order: Order,
        longest: int,
        deliver: Callable[[int, Update], None],
        param: str,
    ) -> list[Job]:
        """Return one job a sample. Raises RefusedError (400) where prompt and numbers do not fit the run."""
        size = len(prompt.tokens)
        if size >= self.context or size + longest > self.context + 1:
            raise RefusedError(
                400,
                f"the {param} has {size} tokens and {longest} are asked for, together {size + longest}: the context of model "
                f"{self.name!r} is {self.context} tokens, of which the {param} must leave one, and one more can be drawn; "
                f"shorten the {param}, or ask for fewer.",
                param=param,
                code="context_length_exceeded",
            )
        if self.longest_output is not None and order.max_tokens is not None and longest > self.longest_output:
            raise RefusedError(
                400,
                f"{longest} tokens are asked for: this server writes at most {self.longest_output} a request.",
                param="max_tokens",
            )
        if order.sampling.min_new_tokens > longest:
            raise RefusedError(
                400,
                f"min_tokens is {order.sampling.min_new_tokens}, and at most {longest} are drawn: ask for fewer.",
                param="min_tokens",
            )
        if len(order.sampling.logit_bias) > BIASES:
            raise RefusedError(
                400,
                f"logit_bias names {len(order.sampling.logit_bias)} ids: this server takes at most {BIASES}.",
                param="logit_bias",
            )
        try:
            check_stops(order.stops)
            check(
                Requests(
                    prompts=[prompt.tokens],
                    unconditional=None,
                    seeds=[(order.seed, 0)],
                    samplings=[order.sampling],
                    max_new_tokens=[longest],
                    stop_ids=prompt.stop_ids,
                    allowed=None,
                    pad_id=0,
                    top=order.top,
                ),
                num_ids=self.decoder.ids,
                context_length=self.context,
                max_rows=1,
            )
        except ValueError as error:
            raise broken_rule(error) from None
        groups: list[int] = []
        for phase in prompt.phases:
            groups += [self._groups[phase.ids]] * (phase.count or 1)
        groups_T = np.array((groups + groups[-1:] * self.context)[: self.context], np.int32)
        tokens = prompt.tokens
        return [
            Job(
                Row(tokens, groups_T, order.sampling, order.seed, i, longest),
                lambda update, i=i: deliver(i, update),
                top=order.top,
                decode=None if isinstance(task, ImageTask) else task.decode,
                stops=order.stops,
            )
            for i in range(order.n)
        ]


def _probe(task: Task) -> Any:
    """Return a request that the task certainly takes."""
    if isinstance(task, ImageTask):
        return task.captions[0] if task.captions else ""
    vocabulary: Vocabulary = task.vocabulary
    texts = (vocabulary.decode_text([i]) for i in vocabulary.text_ids)
    return next(text for text in texts if text.strip() and UNFINISHED not in text)


def _asked(task: Task, request: Any, param: str) -> Prompt:
    """Return the task's prompt. Raises RefusedError (400) where it refuses the request."""
    try:
        return task.prompt(request)
    except ValueError as error:
        raise broken_rule(error, param) from None
