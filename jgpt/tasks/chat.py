"""Dialogue: turns after the marker of who speaks; the assistant's turns and their ends are trained, the others are given.

Example: user "Hi", assistant "Yo", user "2+3=", assistant "5" in bytes, with the weight of each target below:

    <|user|> H i <|assistant|> Y o <|endofturn|> <|user|> 2 + 3 = <|assistant|> 5 <|endofturn|>
       -     0 0       0       1 1       1           0    0 0 0 0       0       1       1

A turn of the system or the user ends where the next marker stands; the assistant's own turn ends in `<|endofturn|>`, which
the model learns to write and at which sampling stops. Markers are ids of their own: text that spells "<|assistant|>" is
encoded as the characters it holds, so nobody can speak in another's name.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np

from jgpt.batch import Document
from jgpt.check import require, unknown_name
from jgpt.config import TaskConfig
from jgpt.data.examples import Conversation, Message
from jgpt.tasks.task import Phase, Prompt
from jgpt.tokenizers.vocabulary import Vocabulary

MARKERS: Final = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}
END: Final = "<|endofturn|>"

Messages = str | Conversation | Sequence[Message | Mapping[str, str]]


def messages_of(request: Messages) -> tuple[Message, ...]:
    """Return the turns of a request: a `str` is the user's only turn, mappings have the keys "role" and "content".

    Raises:
        ValueError: a mapping has other keys.
    """
    if isinstance(request, str):
        return (Message("user", request),)
    if isinstance(request, Conversation):
        return request.messages
    out = []
    for index, message in enumerate(request):
        if isinstance(message, Message):
            out.append(message)
            continue
        require(
            set(message) == {"role", "content"},
            f"message {index} has the keys {', '.join(map(str, message)) or '(none)'}: it must have exactly role and content.",
        )
        out.append(Message(message["role"], message["content"]))
    return tuple(out)


class ChatTask:
    """Conversations, kept whole in a row.

    Args:
        vocabulary: of the run.
        max_new_tokens: tokens of the assistant's longest turn in training, its end included.
        system_seen: a training conversation had a system turn.
        markers: special token of each role.
        end: special token that ends the assistant's turns.
    """

    kind: ClassVar[str] = "chat"
    packing: ClassVar[str] = "whole"
    score_name: ClassVar[str | None] = "bits_per_byte"

    def __init__(
        self,
        vocabulary: Vocabulary,
        max_new_tokens: int,
        system_seen: bool,
        markers: Mapping[str, str] = MARKERS,
        end: str = END,
    ) -> None:
        self.vocabulary = vocabulary
        self.max_new_tokens = max_new_tokens
        self.system_seen = system_seen
        self.markers = dict(markers)
        self.end_marker = end
        self.roles = {role: vocabulary.special(marker) for role, marker in markers.items()}
        self.end = vocabulary.special(end)
        self.phases = (Phase((*vocabulary.text_ids, self.end)),)

    @classmethod
    def fit(
        cls, vocabulary: Vocabulary, examples: Sequence[Conversation], options: TaskConfig | None = None
    ) -> "ChatTask":
        """Return the task; its answers may become as long as the longest of `examples`."""
        del options
        turns = [message for example in examples for message in example.messages]
        answers = [message.content for message in turns if message.role == "assistant"]
        longest = max((len(vocabulary.encode_text(answer)) for answer in answers), default=0) + 1
        return cls(vocabulary, longest, any(message.role == "system" for message in turns))

    @classmethod
    def from_json(cls, vocabulary: Vocabulary, state: dict[str, Any]) -> "ChatTask":
        """Rebuild from `to_json`."""
        return cls(vocabulary, state["max_new_tokens"], state["system_seen"], state["markers"], state["end"])

    def to_json(self) -> dict[str, Any]:
        """Return the template (the markers), the length of the longest answer, and whether there were system turns."""
        return {
            "markers": self.markers,
            "end": self.end_marker,
            "max_new_tokens": self.max_new_tokens,
            "system_seen": self.system_seen,
        }

    def encode(self, example: Conversation) -> Document:
        """Return the document of a conversation, up to the assistant's last turn: what follows would train nothing.

        Raises:
            ValueError: nobody answers, a role is unknown, or a turn is empty.
        """
        require(
            any(message.role == "assistant" for message in example.messages),
            f"the conversation that begins {_beginning(example.messages)} has no turn of the assistant: nothing could be "
            "trained; leave it out.",
        )
        turns = [(message.role == "assistant", self._turn(message)) for message in example.messages]
        while not turns[-1][0]:
            turns.pop()
        weights = [np.full(len(ids), trained, np.float32) for trained, ids in turns]
        for each in weights:
            each[0] = 0  # a marker of a role is given, never written by the model
        return Document(np.concatenate([ids for _, ids in turns]), np.concatenate(weights))

    def prompt(self, request: Messages) -> Prompt:
        """Return the prompt that answers the user's last turn: the conversation so far, then the assistant's marker.

        Raises:
            ValueError: the last turn is not the user's, a turn is empty, or the system speaks to a run without system turns.
        """
        messages = messages_of(request)
        last = messages[-1].role if messages else "(nobody)"
        require(last == "user", f"the last turn is by {last!r}: a conversation is answered after a turn of the user.")
        require(
            self.system_seen or all(message.role != "system" for message in messages),
            "the conversation has a system turn, and this run has seen none in training: it would not know what to make "
            "of it; leave it out.",
        )
        tokens = np.concatenate([*(self._turn(message) for message in messages), [self.roles["assistant"]]])
        return Prompt(tokens.astype(np.int32), (self.end,), self.phases, self.max_new_tokens)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Return the assistant's turn that generated ids stand for."""
        return self.vocabulary.decode_text(ids)

    def dimensions(self, example: Conversation) -> int | None:
        """Return the bytes of the assistant's turns, in UTF-8; the ends of turns, which are scored too, count for none."""
        return sum(len(turn.content.encode("utf-8")) for turn in example.messages if turn.role == "assistant")

    def _turn(self, message: Message) -> np.ndarray:
        """Return the ids of a turn: the marker, what is said, and the end of the assistant's own turns."""
        if message.role not in self.roles:
            raise ValueError(unknown_name("role", message.role, self.roles))
        require(
            bool(message.content.strip()),
            f"a turn of the {message.role} is {message.content!r}: it must say something; leave it out.",
        )
        said = self.vocabulary.encode_text(message.content)
        end = [self.end] if message.role == "assistant" else []
        return np.concatenate([[self.roles[message.role]], said, end]).astype(np.int32)


def _beginning(messages: Sequence[Message]) -> str:
    return repr(messages[0].content[:60]) if messages else "with nothing"
