"""Pictures for clients: PNG files in base64, whole or as far as they are drawn.

Owns their form and OpenAI's objects around them; refuses to know connections.
"""

import base64
import io
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from jgpt.serve.errors import RefusedError
from jgpt.serve.job import Update
from jgpt.tasks.image import ImageTask


class Drawing:
    """One request's pictures on their way.

    Args:
        task: that draws them.
        samples: number of pictures.
        prompt_tokens: of the caption.
        partial: pictures to show before each is complete; None = one for every row.
    """

    def __init__(self, task: ImageTask, samples: int, prompt_tokens: int, partial: int | None = None) -> None:
        self.task, self.prompt_tokens = task, prompt_tokens
        rows = task.grid[0]
        steps = rows - 1 if partial is None else min(partial, rows - 1)
        self._shown_at = [round((i + 1) * rows / (steps + 1)) for i in range(steps)]  # rows
        self._shown = [0] * samples  # how many of them
        self._ids: list[list[int]] = [[] for _ in range(samples)]
        self._created = int(time.time())

    @property
    def size(self) -> str:
        """Width x height, as OpenAI writes it."""
        return f"{self.task.shape[1]}x{self.task.shape[0]}"

    def check_size(self, size: str | None) -> None:
        """Raise RefusedError (400) where another size is asked for."""
        if size not in (None, "auto", self.size):
            raise RefusedError(
                400, f"size is {size!r}: this model draws {self.size}; give that, or auto.", param="size"
            )

    @property
    def usage(self) -> dict[str, Any]:
        """Tokens of caption and pictures."""
        drawn = sum(map(len, self._ids))
        return {
            "input_tokens": self.prompt_tokens,
            "output_tokens": drawn,
            "total_tokens": self.prompt_tokens + drawn,
            "input_tokens_details": {"text_tokens": self.prompt_tokens, "image_tokens": 0},
        }

    def add(self, index: int, update: Update) -> None:
        """Take what is new of a picture."""
        self._ids[index] += update.ids

    def whole(self) -> dict[str, Any]:
        """Return all pictures."""
        data = [{"b64_json": png(self.task.decode(ids))} for ids in self._ids]
        return self._head() | {"created": self._created, "data": data, "usage": self.usage}

    def begin(self) -> Iterator[dict[str, Any]]:
        """Yield nothing: a stream of pictures begins with one."""
        yield from ()

    def next(self, index: int, update: Update) -> Iterator[dict[str, Any]]:
        """Take what is new of a picture, and yield what there is to see."""
        self.add(index, update)
        all_rows, columns, per_cell = self.task.grid
        rows = len(self._ids[index]) // (columns * per_cell)
        due = sum(at <= rows for at in self._shown_at)
        if due > self._shown[index] and rows < all_rows and not update.finished:  # a whole one comes as the completed
            self._shown[index] = due
            yield self._event(
                "partial_image", index, png(self._partial(index, rows)), partial_image_index=self._shown[index] - 1
            )
        if update.finished:
            yield self._event("completed", index, png(self.task.decode(self._ids[index])), usage=self.usage)

    def end(self) -> Iterator[dict[str, Any]]:
        """Yield nothing: the last picture ends a stream."""
        yield from ()

    def _head(self) -> dict[str, Any]:
        return {"background": "opaque", "output_format": "png", "quality": "auto", "size": self.size}

    def _event(self, what: str, index: int, picture: str, **more: Any) -> dict[str, Any]:
        """Return an event; `index` is jgpt's own: which of several pictures it is."""
        head = {"type": f"image_generation.{what}", "b64_json": picture, "created_at": self._created, "index": index}
        return head | self._head() | more

    def _partial(self, index: int, rows: int) -> np.ndarray:
        """Return a picture of which so many rows of tokens are drawn; the rest is transparent."""
        (all_rows, columns, per_cell), ids = self.task.grid, self._ids[index]
        ids = ids[: rows * columns * per_cell]
        start, cycle = self.task.vocabulary.image_ids.start, self.task.vocabulary.code.cycle
        rest = [start + cycle[i % len(cycle)].start for i in range(len(ids), all_rows * columns * per_cell)]
        pixels = self.task.decode([*ids, *rest])
        height, width = pixels.shape[:2]
        colours = np.broadcast_to(pixels.reshape(height, width, -1)[:, :, :3], (height, width, 3))
        drawn = np.zeros((height, width, 1), np.uint8)
        drawn[: rows * (height // all_rows)] = 255
        return np.concatenate([colours, drawn], axis=2)


def png(pixels: np.ndarray) -> str:
    """Return a picture, uint8 [height, width] or [height, width, channel], as a PNG file in base64."""
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return base64.b64encode(buffer.getvalue()).decode()
