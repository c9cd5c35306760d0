"""What clients get: OpenAI's objects for texts and replies, whole or as the pieces of a stream.

Owns their shape; refuses to decode ids into anything but what `Pieces` says, and to know connections.
"""

import codecs
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from jgpt.serve.job import Update
from jgpt.serve.pieces import Pieces

# prefix of ids, name of the whole object, name of a piece
COMPLETION: Final = ("cmpl", "text_completion", "text_completion")
CHAT: Final = ("chatcmpl", "chat.completion", "chat.completion.chunk")


@dataclass
class Sample:
    """One choice, as far as it is written.

    Attributes:
        text: certain so far.
        finished: "stop" or "length", "" while it goes on.
        tokens: number of ids.
    """

    text: str = ""
    finished: str = ""
    tokens: int = 0
    update: Update = field(default_factory=Update)
    _chars: int = 0
    _decoder: Any = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))

    def add(self, update: Update) -> None:
        """Take what is new."""
        whole = self.update
        self.update = Update(whole.ids + update.ids, whole.logprobs + update.logprobs, whole.top + update.top)
        self.text += update.text
        self.finished = update.finished
        self.tokens += len(update.ids)

    def offsets(self, ids: Sequence[int], pieces: Pieces) -> list[int]:
        """Return in which character of the text each further id begins."""
        out = []
        for token in ids:
            out.append(self._chars)
            self._chars += len(self._decoder.decode(bytes(pieces(token)[1])))
        return out


class Answer:
    """One request's answer on its way.

    Args:
        kind: `COMPLETION` or `CHAT`.
        model: name of the model.
        samples: number of choices.
        prompt_tokens: of all prompts.
        pieces: what ids look like.
        fingerprint: of the model's parameters.
        logprobs: report log-probabilities.
        usage: count the tokens in a stream.
    """

    def __init__(
        self,
        kind: tuple[str, str, str],
        model: str,
        samples: int,
        prompt_tokens: int,
        pieces: Pieces,
        fingerprint: str,
        *,
        logprobs: bool,
        usage: bool = False,
    ) -> None:
        self.kind, self.logprobs, self.with_usage, self.pieces = kind, logprobs, usage, pieces
        self.samples = [Sample() for _ in range(samples)]
        self.prompt_tokens = prompt_tokens
        self._head = {
            "id": f"{kind[0]}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    @property
    def usage(self) -> dict[str, int]:
        """Tokens of prompts and answers."""
        written = sum(sample.tokens for sample in self.samples)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": written,
            "total_tokens": self.prompt_tokens + written,
        }

    def add(self, index: int, update: Update) -> None:
        """Take what is new of a choice."""
        self.samples[index].add(update)

    def whole(self) -> dict[str, Any]:
        """Return the finished answer."""
        choices = []
        for index, sample in enumerate(self.samples):
            choice: dict[str, Any] = {"index": index, "finish_reason": sample.finished}
            if self.kind is CHAT:
                choice["message"] = {"role": "assistant", "content": sample.text, "refusal": None}
            else:
                choice["text"] = sample.text
            choice["logprobs"] = self._logprobs(sample, sample.update)
            choices.append(choice)
        return self._head | {"object": self.kind[1], "choices": choices, "usage": self.usage}

    def begin(self) -> Iterator[dict[str, Any]]:
        """Yield what a stream begins with."""
        if self.kind is CHAT:
            for index in range(len(self.samples)):
                yield self._piece(index, {"delta": {"role": "assistant", "content": ""}, "logprobs": None}, "")

    def next(self, index: int, update: Update) -> Iterator[dict[str, Any]]:
        """Take what is new of a choice, and yield its pieces."""
        sample = self.samples[index]
        sample.add(update)
        if update.text or (self.logprobs and update.ids):
            said = {"delta": {"content": update.text}} if self.kind is CHAT else {"text": update.text}
            finished = "" if self.kind is CHAT else update.finished
            yield self._piece(index, said | {"logprobs": self._logprobs(sample, update)}, finished)
            if self.kind is not CHAT:
                return
        if update.finished:
            nothing = {"delta": {}} if self.kind is CHAT else {"text": ""}
            yield self._piece(index, nothing | {"logprobs": None}, update.finished)

    def end(self) -> Iterator[dict[str, Any]]:
        """Yield what a stream ends with."""
        if self.with_usage:
            yield self._head | {"object": self.kind[2], "choices": [], "usage": self.usage}

    def _piece(self, index: int, said: dict[str, Any], finished: str) -> dict[str, Any]:
        piece = {"object": self.kind[2], "choices": [{"index": index, **said, "finish_reason": finished or None}]}
        return self._head | piece | ({"usage": None} if self.with_usage else {})

    def _logprobs(self, sample: Sample, update: Update) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        rows = list(zip(update.ids, update.logprobs, update.top or [([], [])] * len(update.ids), strict=True))
        if self.kind is CHAT:
            return {
                "content": [
                    self._spelt(token, logprob) | {"top_logprobs": [self._spelt(*each) for each in _possible(top)]}
                    for token, logprob, top in rows
                ],
                "refusal": None,
            }
        return {
            "tokens": [self.pieces(token)[0] for token in update.ids],
            "token_logprobs": update.logprobs,
            "top_logprobs": [
                {self.pieces(each)[0]: value for each, value in [(token, logprob), *_possible(top)]}
                for token, logprob, top in rows
            ],
            "text_offset": sample.offsets(update.ids, self.pieces),
        }

    def _spelt(self, token: int, logprob: float) -> dict[str, Any]:
        text, raw = self.pieces(token)
        return {"token": text, "logprob": logprob, "bytes": raw}


def _possible(top: tuple[list[int], list[float]]) -> list[tuple[int, float]]:
    """Return the pairs of (id, log-probability), without ids that were not allowed at all: JSON knows no -inf."""
    return [(token, value) for token, value in zip(*top, strict=True) if np.isfinite(value)]
