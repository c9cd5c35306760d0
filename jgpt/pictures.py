"""Pictures of a run: grids of drawn and real images, and the loss plot. Writes PNG files, decides nothing."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from jgpt.check import require

GRID_GAP: Final = 2  # source pixels between pictures
GRID_SIDE: Final = 48  # each picture is enlarged to about this many screen pixels
GRID_GREY: Final = 96
GRID_COLUMNS: Final = 8


def grid(rows: Sequence[Sequence[np.ndarray]], split: int | None = None) -> np.ndarray:
    """Return pictures laid out in rows, enlarged without smoothing, uint8 [height, width, 3].

    Args:
        rows: pictures [height, width] or [height, width, channel] of one shape, the same number in every row.
        split: column before which a wider gap stands, to part two halves.
    """
    height, width = rows[0][0].shape[:2]
    columns = len(rows[0])
    extra = 3 * GRID_GAP if split is not None else 0
    canvas = np.full(
        (len(rows) * (height + GRID_GAP) + GRID_GAP, columns * (width + GRID_GAP) + GRID_GAP + extra, 3),
        GRID_GREY,
        np.uint8,
    )
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            top = GRID_GAP + r * (height + GRID_GAP)
            left = GRID_GAP + c * (width + GRID_GAP) + (extra if split is not None and c >= split else 0)
            pixels = picture.reshape(height, width, -1)
            canvas[top : top + height, left : left + width] = np.broadcast_to(pixels, (height, width, 3))
    scale = max(1, round(GRID_SIDE / max(height, width)))
    return canvas.repeat(scale, axis=0).repeat(scale, axis=1)


def check_name(path: Path) -> None:
    """Refuse a picture file that is not named .png. Raises ValueError."""
    require(path.suffix.lower() == ".png", f"the picture file {str(path)!r} is not named .png: use NAME.png.")


def save_grid(path: Path, rows: Sequence[Sequence[np.ndarray]], split: int | None = None) -> Path:
    """Write `grid` as a PNG and return its path."""
    check_name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grid(rows, split)).save(path)
    return path


class Pictures(Sequence[Image.Image]):
    """Drawn pictures as PIL images; a notebook shows them as one grid.

    Attributes:
        array: uint8 [n, height, width] or [n, height, width, channel].
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: Any) -> Any:
        """Return one image, or the `Pictures` of a slice."""
        return Pictures(self.array[index]) if isinstance(index, slice) else Image.fromarray(self.array[index])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return the pixels, so that NumPy takes pictures as an array."""
        return np.array(self.array, dtype=dtype, copy=copy)

    def save(self, path: str | Path) -> Path:
        """Write the grid as a PNG and return its path. Raises ValueError where there are no pictures."""
        require(len(self) > 0, f"there are no pictures to write to {str(path)!r}: draw or choose some.")
        return save_grid(Path(path), self._rows())

    def _repr_png_(self) -> bytes | None:
        if not len(self):
            return None  # no picture to show
        buffer = io.BytesIO()
        Image.fromarray(grid(self._rows())).save(buffer, "png")
        return buffer.getvalue()

    def _rows(self) -> list[list[np.ndarray]]:
        """Return the pictures in rows of one length, filled up with black ones."""
        columns = min(len(self), GRID_COLUMNS)
        filled = [*self.array, *[self.array[0] * 0] * (-len(self) % columns)]
        return [filled[i : i + columns] for i in range(0, len(filled), columns)]


def loss_plot(path: Path, records: Sequence[dict[str, Any]], title: str) -> Path:
    """Write training and validation losses over steps as a PNG and return its path.

    Args:
        path: to write to.
        records: lines of metrics.jsonl.
        title: above the plot.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), dpi=120)
    train = [(r["step"], r["loss"]) for r in records if "loss" in r]
    if train:
        axes.plot(*zip(*train, strict=True), color="0.6", linewidth=1, label="training, all tasks")
    names = sorted({name for r in records for name in r if name.endswith("/nats_per_token")})
    for name in names:
        points = [(r["step"], r[name]) for r in records if name in r]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=f"held out: {name.split('/')[0]}")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss [nats per trained token]")
    axes.set_title(title)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)
    return path
