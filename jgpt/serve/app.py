"""The addresses: OpenAI's endpoints, health, metrics, and the page.

Owns which request goes where, who may ask, and what limits hold. Refuses to plan and to decode.
"""

import hmac
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jgpt.serve.answers import CHAT, COMPLETION, Answer
from jgpt.serve.drawing import Drawing
from jgpt.serve.engine import Engine
from jgpt.serve.errors import RefusedError
from jgpt.serve.job import Job
from jgpt.serve.metrics import Metrics
from jgpt.serve.pieces import Pieces
from jgpt.serve.planning import Planner
from jgpt.serve.protocol import ChatRequest, CompletionRequest, ImageRequest, parse
from jgpt.serve.wire import Build, Mailbox, Reply, read_body

LOG: Final = logging.getLogger("jgpt.serve")
OPEN: Final = ("/", "/healthz")  # without a token
# The page brings its own script and style, and talks to its own server alone.
POLICY: Final = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request may take.

    Attributes:
        body: bytes of its body.
        seconds: until its answer is complete.
        token: that clients must show; None = anyone may ask.
    """

    body: int = 2**20
    seconds: float = 120.0
    token: str | None = None


class Service:
    """A run's endpoints.

    Args:
        planner: of the run.
        engine: that decodes; it must be running.
        limits: of requests.
        step: of the run's checkpoint.
    """

    def __init__(self, planner: Planner, engine: Engine, limits: Limits, *, step: int) -> None:
        self.planner, self.engine, self.limits = planner, engine, limits
        self.metrics = Metrics(engine)
        self.pieces = Pieces(planner.model.tokenizer)
        self.draining = False
        self._fingerprint, self._created = f"step-{step}", int(time.time())

    def app(self) -> ASGIApp:
        """Return the application."""
        routes = [
            Route("/", self.page),
            Route("/healthz", self.health),
            Route("/metrics", self.tell_metrics),
            Route("/v1/models", self.models),
            Route("/v1/models/{name:path}", self.one_model),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/images/generations", self.images, methods=["POST"]),
        ]
        handlers: Any = {RefusedError: refuse, HTTPException: refuse_http, ClientDisconnect: nobody, Exception: fail}
        return Guard(Starlette(routes=routes, exception_handlers=handlers), self, [route.path for route in routes])

    async def page(self, request: Request) -> Response:
        """Return the page."""
        del request
        text = resources.files("jgpt.serve").joinpath("page.html").read_text(encoding="utf-8")
        return HTMLResponse(text, headers={"content-security-policy": POLICY, "x-content-type-options": "nosniff"})

    async def health(self, request: Request) -> Response:
        """Return 200 where requests are taken, else 503."""
        del request
        well = self.engine.alive and not self.draining
        return JSONResponse(
            {"status": "ok" if well else "stopping" if self.draining else "failed"}, 200 if well else 503
        )

    async def tell_metrics(self, request: Request) -> Response:
        """Return the metrics."""
        del request
        return PlainTextResponse(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def models(self, request: Request) -> Response:
        """List the one model."""
        del request
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def one_model(self, request: Request) -> Response:
        """Describe the model."""
        self.planner.check_model(request.path_params["name"])
        return JSONResponse(self._model())

    async def completions(self, request: Request) -> Response:
        """Go on with texts."""
        asked = parse(CompletionRequest, await read_body(request, self.limits.body))
        self.planner.check_model(asked.model)
        prompts, mailbox = asked.prompts, self._mailbox()
        self._require_room(len(prompts), asked.samples)
        n, jobs = asked.samples, []
        for at, prompt in enumerate(prompts):  # where no seed is asked for, each draws one of its own
            order = asked.order(temperature=1.0, max_tokens=asked.max_tokens, top=asked.logprobs or 0)
            jobs += self.planner.complete(prompt, order, partial(_put, mailbox, at * n))
        answer = self._answer(COMPLETION, jobs, n, asked, logprobs=asked.logprobs is not None)
        return self._reply(jobs, mailbox, answer, stream=bool(asked.stream), done="[DONE]")

    async def chat(self, request: Request) -> Response:
        """Answer a conversation, or a question."""
        asked = parse(ChatRequest, await read_body(request, self.limits.body))
        self.planner.check_model(asked.model)
        mailbox = self._mailbox()
        order = asked.order(temperature=0.0, max_tokens=asked.longest, top=asked.top)
        self._require_room(1, order.n)
        jobs = self.planner.reply([turn.message for turn in asked.messages], order, mailbox.put)
        answer = self._answer(CHAT, jobs, order.n, asked, logprobs=bool(asked.logprobs))
        return self._reply(jobs, mailbox, answer, stream=bool(asked.stream), done="[DONE]")

    async def images(self, request: Request) -> Response:
        """Draw pictures."""
        asked = parse(ImageRequest, await read_body(request, self.limits.body))
        self.planner.check_model(asked.model)
        mailbox, order = self._mailbox(), asked.order()
        self._require_room(1, order.n)
        task = self.planner.image_task()
        jobs = self.planner.draw(asked.prompt, order, mailbox.put)
        drawing = Drawing(task, order.n, len(jobs[0].row.prompt), asked.partial_images)
        drawing.check_size(asked.size)
        return self._reply(jobs, mailbox, drawing, stream=bool(asked.stream), named=True)

    def _require_room(self, prompts: int, samples: int) -> None:
        """Refuse what would not fit an idle server: it must not be told to try again."""
        room = self.engine.slots.size + self.engine.queue
        if not 0 < prompts * samples <= room:
            raise RefusedError(
                400,
                f"{prompts} prompt{'' if prompts == 1 else 's'} with {samples} samples each are asked for: this server takes 1 "
                f"to {room} samples at once.",
                param="n" if 0 < prompts <= room else "prompt",
            )

    def _model(self) -> dict[str, Any]:
        """Return what there is to know of the model; `jgpt` holds what the page needs."""
        tasks = self.planner.model.tasks.values()
        kinds = sorted({task.kind for task in tasks})
        captions = next((list(task.captions) for task in tasks if task.kind == "image" and not task.free), None)  # pyright: ignore
        return {
            "id": self.planner.name,
            "object": "model",
            "created": self._created,
            "owned_by": "jgpt",
            "jgpt": {"tasks": kinds, "context_length": self.planner.context, "captions": captions},
        }

    def _mailbox(self) -> Mailbox:
        if self.draining:
            raise RefusedError(503, "the server is stopping.", code="stopping", retry_after=1)
        return Mailbox(self.metrics.first.observe)

    def _answer(self, kind: tuple[str, str, str], jobs: Sequence[Job], n: int, asked: Any, *, logprobs: bool) -> Answer:
        options = asked.stream_options
        return Answer(
            kind,
            self.planner.name,
            len(jobs),
            sum(len(job.row.prompt) for job in jobs[::n]),
            self.pieces,
            self._fingerprint,
            logprobs=logprobs,
            usage=bool(options and options.include_usage),
        )

    def _reply(self, jobs: Sequence[Job], mailbox: Mailbox, build: Build, **options: Any) -> Reply:
        deadline = time.monotonic() + self.limits.seconds
        for job in jobs:
            job.deadline = deadline
        self.engine.submit(jobs)
        return Reply(jobs, mailbox, build, seconds=self.limits.seconds, **options)


class Guard:
    """Lets in who may ask, and counts what is answered."""

    def __init__(self, app: ASGIApp, service: Service, paths: Sequence[str]) -> None:
        self._app, self._service, self._paths = app, service, set(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "other"
        metrics, began = self._service.metrics, time.monotonic()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                metrics.requests.labels(path, message["status"]).inc()
            await send(message)

        if scope["path"] not in OPEN and not self._allowed(scope):
            error = RefusedError(
                401, "the token is missing or wrong: send it as Authorization: Bearer TOKEN.", code="invalid_api_key"
            )
            await answer_refusal(error)(scope, receive, counted)
        else:
            await self._app(scope, receive, counted)
        metrics.seconds.labels(path).observe(time.monotonic() - began)

    def _allowed(self, scope: Scope) -> bool:
        """Return whether the request shows the token; how long this takes tells nothing about it."""
        if self._service.limits.token is None:
            return True
        shown = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        wanted = f"Bearer {self._service.limits.token}".encode()
        return hmac.compare_digest(shown, wanted)


def answer_refusal(error: RefusedError) -> Response:
    """Return the answer that says an error."""
    headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error.body, error.status, headers=headers)


async def refuse(request: Request, error: RefusedError) -> Response:
    """Answer with a refusal."""
    del request
    return answer_refusal(error)


async def refuse_http(request: Request, error: HTTPException) -> Response:
    """Answer an unknown address or method."""
    if error.status_code == 404:
        refused = RefusedError(404, f"there is nothing at {request.url.path}.", code="unknown_url")
    elif error.status_code == 405:
        refused = RefusedError(405, f"{request.method} is not for {request.url.path}.", code="method_not_allowed")
    else:
        refused = RefusedError(error.status_code, str(error.detail))
    answer = answer_refusal(refused)
    answer.headers.update(error.headers or {})
    return answer


async def nobody(request: Request, error: ClientDisconnect) -> Response:
    """Answer a client that left while it was asking: it will not be read."""
    del request, error
    return answer_refusal(RefusedError(400, "the client has left."))


async def fail(request: Request, error: Exception) -> Response:
    """Answer an error of the server's own; what it is stands in the log."""
    LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return answer_refusal(
        RefusedError(500, "the server has made a mistake; its log says which.", code="internal_error")
    )


def _put(mailbox: Mailbox, first: int, index: int, update: Any) -> None:
    mailbox.put(first + index, update)
