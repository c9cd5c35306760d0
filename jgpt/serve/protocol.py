"""What clients may send: OpenAI's requests, field by field, with jgpt's own extras beside them.

Owns their form. A field that is known but not implemented is refused by name unless it has a value that asks for nothing; an
unknown one is refused as well. Nothing is ever ignored. Refuses to know runs.
"""

import json
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from jgpt.data.examples import Message
from jgpt.sampling import Sampling
from jgpt.serve.errors import RefusedError, broken_rule
from jgpt.serve.planning import Order
from jgpt.serve.slots import TOP

MAX_SAMPLES: Final = 128  # OpenAI's bound of n
MAX_STOPS: Final = 4  # OpenAI's bound of stop
MAX_STOP_LENGTH: Final = 1000  # characters
LARGEST_INT: Final = 2**31 - 1

Request = TypeVar("Request", bound="_Request")
Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=LARGEST_INT)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class StreamOptions(_Strict):
    """What a stream tells beside its text."""

    include_usage: bool = False


class _Request(_Strict):
    """What all requests share.

    Attributes:
        NEUTRAL: fields that are known and not implemented, with the values that ask for nothing.
    """

    NEUTRAL: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    model: str
    n: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] | None = None
    stream: bool | None = None
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] | None = None
    temperature: Number | None = None
    top_p: Number | None = None
    top_k: Count | None = None
    min_p: Number | None = None

    @property
    def samples(self) -> int:
        """Number of samples asked for."""
        return self.n or 1

    def the_seed(self) -> int:
        """Return the seed, a random one where none is given."""
        return secrets.randbits(32) if self.seed is None else self.seed


class _TextRequest(_Request):
    """What completions and replies share; the fields below the blank line are jgpt's own."""

    max_tokens: Count | None = None
    stop: str | list[str] | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None
    logit_bias: dict[str, Number] | None = None
    stream_options: StreamOptions | None = None

    typical_p: Number | None = None
    repetition_penalty: Number | None = None
    min_tokens: Annotated[int, Field(ge=0, le=LARGEST_INT)] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def order(self, *, temperature: float, max_tokens: int | None, top: int) -> Order:
        """Return what is asked for.

        Args:
            temperature: where the request names none.
            max_tokens: longest result, as the request names it.
            top: most probable ids to report.

        Raises:
            RefusedError: a value is out of range (400).
        """
        _check_stops(self.stops)
        if self.stream_options is not None and not self.stream:
            raise RefusedError(400, "stream_options needs stream: true; leave it out.", param="stream_options")
        return Order(
            sampling=sampling_of(
                temperature=temperature if self.temperature is None else self.temperature,
                top_k=self.top_k,
                top_p=self.top_p,
                min_p=self.min_p,
                typical_p=self.typical_p,
                repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
                presence_penalty=self.presence_penalty or 0.0,
                frequency_penalty=self.frequency_penalty or 0.0,
                logit_bias=_biases(self.logit_bias or {}),
                min_new_tokens=self.min_tokens or 0,
            ),
            n=self.samples,
            seed=self.the_seed(),
            max_tokens=max_tokens,
            stops=self.stops,
            top=top,
        )


class CompletionRequest(_TextRequest):
    """`/v1/completions`: go on with a text, or with each of several."""

    NEUTRAL: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "best_of": (1,),
        "echo": (False,),
        "suffix": ("",),
        "user": (),
    }

    prompt: Annotated[str | list[str], Field(min_length=0)]
    logprobs: Annotated[int, Field(ge=0, le=TOP)] | None = None

    @property
    def prompts(self) -> list[str]:
        """The texts."""
        return [self.prompt] if isinstance(self.prompt, str) else list(self.prompt)


class TextPart(_Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(_Strict):
    """A turn of a conversation; answers that come back from a client bring fields that say nothing."""

    role: Literal["system", "user", "assistant"]
    content: str | list[TextPart]
    refusal: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None

    @property
    def message(self) -> Message:
        """The turn as tasks take it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message(self.role, text)


class ChatRequest(_TextRequest):
    """`/v1/chat/completions`: answer the last turn."""

    NEUTRAL: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "audio": (),
        "function_call": ("none",),
        "functions": ([],),
        "metadata": ({},),
        "modalities": (["text"],),
        "moderation": (),
        "parallel_tool_calls": (),
        "prediction": (),
        "prompt_cache_key": (),
        "prompt_cache_options": (),
        "prompt_cache_retention": (),
        "reasoning_effort": ("none",),
        "response_format": ({"type": "text"},),
        "safety_identifier": (),
        "service_tier": ("auto", "default"),
        "store": (False,),
        "tool_choice": ("none",),
        "tools": ([],),
        "user": (),
        "verbosity": (),
        "web_search_options": (),
    }

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=TOP)] | None = None

    @property
    def longest(self) -> int | None:
        """Longest answer, by either of its names. Raises RefusedError (400) where they disagree."""
        given = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(given) > 1:
            raise RefusedError(
                400,
                f"max_tokens is {self.max_tokens} and max_completion_tokens {self.max_completion_tokens}: give one of them.",
                param="max_tokens",
            )
        return next(iter(given), None)

    @property
    def top(self) -> int:
        """Most probable tokens to report. Raises RefusedError (400) where they are asked for without logprobs."""
        if self.top_logprobs and not self.logprobs:
            raise RefusedError(400, "top_logprobs needs logprobs: true.", param="top_logprobs")
        return self.top_logprobs or 0


class ImageRequest(_Request):
    """`/v1/images/generations`: draw a caption."""

    NEUTRAL: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "background": ("auto",),
        "complexity": (),
        "frame_count": (),
        "frame_duration_ms": (),
        "moderation": ("auto",),
        "output_compression": (),
        "output_format": ("png",),
        "quality": ("auto",),
        "response_format": ("b64_json",),
        "safety_identifier": (),
        "style": (),
        "svg": (),
        "user": (),
    }

    model: str | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    prompt: str
    size: str | None = None
    partial_images: Annotated[int, Field(ge=0)] | None = None

    def order(self) -> Order:
        """Return what is asked for. Raises RefusedError (400) where a value is out of range."""
        if self.partial_images is not None and not self.stream:
            raise RefusedError(400, "partial_images needs stream: true; leave it out.", param="partial_images")
        return Order(
            sampling=sampling_of(
                temperature=1.0 if self.temperature is None else self.temperature,
                top_k=self.top_k,
                top_p=self.top_p,
                min_p=self.min_p,
            ),
            n=self.samples,
            seed=self.the_seed(),
        )


def sampling_of(**values: Any) -> Sampling:
    """Return how to draw. Raises RefusedError (400) where a value is out of range."""
    try:
        return Sampling(**values)
    except ValueError as error:
        name = str(error).partition(" ")[0]
        param = {"min_new_tokens": "min_tokens"}.get(name, name)
        raise broken_rule(error, param if name in values else None) from None


def parse(kind: type[Request], body: bytes) -> Request:
    """Return the request that a body holds.

    Raises:
        RefusedError: it is no such request (400); the message names the field.
    """
    values = _json(body)
    if not isinstance(values, dict):
        raise RefusedError(
            400, f"the body is a JSON {type(values).__name__}: it must be an object.", code="invalid_json"
        )
    _check_text(values)
    for name, neutral in kind.NEUTRAL.items():
        value = values.pop(name, None)
        if value is not None and not any(type(value) is type(each) and value == each for each in neutral):
            told = (
                f"; leave it out, or give {' or '.join(json.dumps(each) for each in neutral)}"
                if neutral
                else "; leave it out"
            )
            raise RefusedError(
                400, f"{name} is not implemented by this server{told}.", param=name, code="unsupported_parameter"
            )
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = ".".join(str(part) for part in first["loc"] if not _of_pydantic(part)) or None
        said = first["msg"]
        code = None
        if first["type"] == "extra_forbidden":
            said, code = "this server knows no such parameter; leave it out", "unknown_parameter"
        elif first["type"] == "missing":
            said, code = "it is required", "missing_required_parameter"
        raise RefusedError(400, f"{param}: {said}.", param=param, code=code) from None


def _of_pydantic(part: str | int) -> bool:
    """Return whether a part of a place names a branch of a union rather than a field."""
    return isinstance(part, str) and ("[" in part or part in ("str", "TextPart", "constrained-int"))


def _json(body: bytes) -> Any:
    """Return the value of a JSON text. Raises RefusedError (400) where it is none."""
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise RefusedError(400, f"the body is no UTF-8 at byte {error.start}.", code="invalid_json") from None
    except RecursionError:
        raise RefusedError(400, "the body is nested too deeply.", code="invalid_json") from None
    except ValueError as error:  # a number of thousands of digits as well
        raise RefusedError(400, f"the body is no JSON: {error}.", code="invalid_json") from None


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _check_text(value: Any) -> None:
    """Refuse half of a surrogate pair, which JSON can spell and UTF-8 cannot."""
    pending = [value]
    while pending:
        each = pending.pop()
        if isinstance(each, str):
            try:
                each.encode("utf-8")
            except UnicodeEncodeError as error:
                raise RefusedError(
                    400, f"a text holds {each[error.start]!r}, half of a surrogate pair: send both halves, or neither."
                ) from None
        elif isinstance(each, dict):
            pending += [*each.keys(), *each.values()]
        elif isinstance(each, list):
            pending += each


def _check_stops(stops: tuple[str, ...]) -> None:
    if len(stops) > MAX_STOPS or any(not 0 < len(stop) <= MAX_STOP_LENGTH for stop in stops):
        raise RefusedError(
            400,
            f"stop has {len(stops)} strings of {[len(stop) for stop in stops[: MAX_STOPS + 1]]} characters: give at most "
            f"{MAX_STOPS} of 1 to {MAX_STOP_LENGTH}.",
            param="stop",
        )


def _biases(biases: Mapping[str, float]) -> tuple[tuple[int, float], ...]:
    """Return the biases by id. Raises RefusedError (400) where a key is no id."""
    bad = [name for name in biases if not (name.isascii() and name.isdigit() and len(name) < 10)]
    if bad:
        raise RefusedError(
            400, f'logit_bias has the key {bad[0][:40]!r}: keys are ids, such as "17".', param="logit_bias"
        )
    return tuple((int(name), bias) for name, bias in biases.items())
