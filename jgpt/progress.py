"""What training shows in the terminal: a live bar where there is one, plain lines where output goes to a file.

Owns the look; numbers come from the loop.
"""

import time
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

console: Final = Console(highlight=False, soft_wrap=True)
PLAIN_SECONDS: Final = 10.0  # between two plain lines


class TrainProgress:
    """A bar over optimizer steps with loss, tokens/s, time left and, where the device's peak is known, MFU.

    Args:
        first: steps done already.
        steps: of the whole run.
    """

    def __init__(self, first: int, steps: int) -> None:
        self._steps = steps
        self._first: tuple[int, float] | None = None  # step and time of the first numbers, from which speed is measured
        self._last_plain = 0.0
        columns = [TextColumn("step {task.completed:>5}/{task.total}"), BarColumn(None), TaskProgressColumn()]
        columns += [TextColumn("{task.fields[numbers]}"), TimeRemainingColumn(), TextColumn("left")]
        self._bar = Progress(*columns, console=console, speed_estimate_period=120) if console.is_terminal else None
        self._task = (
            self._bar.add_task("train", total=steps, completed=first, numbers="compiling") if self._bar else None
        )

    def __enter__(self) -> "TrainProgress":
        """Show the bar."""
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar down."""
        if self._bar:
            self._bar.stop()

    def update(self, step: int, loss: float, tokens_per_second: float, mfu: float | None) -> None:
        """Show the numbers of a step."""
        numbers = f"loss {loss:.3f}  {tokens_per_second:,.0f} tok/s" + (f"  MFU {mfu:.1%}" if mfu is not None else "")
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=step, numbers=numbers)
            return
        now = time.monotonic()
        since, begun = self._first = self._first or (step, now)
        if now - self._last_plain >= PLAIN_SECONDS or step == self._steps:
            self._last_plain = now
            left = (now - begun) / (step - since) * (self._steps - step) if step > since else None
            say(f"step {step}/{self._steps}  {numbers}" + (f"  {left:.0f} s left" if left is not None else ""))


class Counter:
    """A bar that counts up to a total; nothing where output goes to a file.

    Args:
        what: is counted.
        total: None where it is not known.
    """

    def __init__(self, what: str, total: int | None) -> None:
        columns = [TextColumn(what), BarColumn(), TextColumn("{task.completed:,}"), TimeRemainingColumn()]
        self._bar = Progress(*columns, console=console, transient=True) if console.is_terminal else None
        self._task = self._bar.add_task(what, total=total) if self._bar else None

    def __enter__(self) -> "Counter":
        """Show the bar."""
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar down."""
        if self._bar:
            self._bar.stop()

    def reach(self, count: int) -> None:
        """Show how far it is."""
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=count)


def say(text: str | Text) -> None:
    """Print a line above the bar; what UTF-8 cannot express, such as a byte of a file's name, as an escape."""
    text = text.encode("utf-8", "backslashreplace").decode() if isinstance(text, str) else text
    console.print(text, markup=False)


class CountProgress:
    """A bar over things that are done one after another, on stderr; plain lines where it is no terminal.

    Args:
        what: is done, for instance "questions: answering".
        total: things to do.
    """

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._last_plain = time.monotonic()
        to = Console(stderr=True, highlight=False, soft_wrap=True)
        self._console = to
        columns = [TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.completed:,}/{task.total:,}")]
        self._bar = Progress(*columns, TimeRemainingColumn(), console=to, transient=True) if to.is_terminal else None
        self._task = self._bar.add_task(what, total=total) if self._bar else None

    def __enter__(self) -> "CountProgress":
        """Show the bar."""
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar down."""
        if self._bar:
            self._bar.stop()

    def advance(self, count: int) -> None:
        """Count `count` more as done."""
        self._done += count
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=self._done)
            return
        now = time.monotonic()
        if now - self._last_plain >= PLAIN_SECONDS:
            self._last_plain = now
            self._console.print(f"{self._what}: {self._done:,} of {self._total:,}", markup=False)
