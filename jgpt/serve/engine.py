"""The thread that owns the device: jobs wait in line, join free slots, and are told what they wrote.

Owns the order: first come, first served. Between two segments of decoding it feeds at most one piece of a prompt, or as many
short prompts as fit into `PAUSE`, so that those who run go on and those who come get their first token soon. Refuses HTTP.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from jgpt.check import require
from jgpt.compiled import Programs
from jgpt.serve.errors import RefusedError
from jgpt.serve.job import Job
from jgpt.serve.programs import MOST_STEPS
from jgpt.serve.slots import Prefill, Slots

SEGMENT: Final = 0.02  # seconds of decoding between two looks: a request that comes waits for half of it on average
PAUSE: Final = 0.02  # seconds of prefilling after which those who run go on
SMOOTHING: Final = 0.2  # weight of the newest measurement


class Engine:
    """Jobs over slots. Start it with `with`.

    Attributes:
        counts: what happened so far, by name.
        programs: compiled while it runs, which should be none: the slots were warm.
        failure: why the engine can no longer work; None while it can.
    """

    def __init__(self, slots: Slots, *, queue: int = 64) -> None:
        """Start nothing yet.

        Args:
            slots: on the device; only the engine's thread may touch them from now on.
            queue: jobs that may wait while all slots are taken.
        """
        require(queue >= 1, f"queue is {queue}: let at least 1 request wait; use --queue 1 or more.")
        self.slots, self.queue = slots, queue
        self.programs = Programs()
        self.failure: BaseException | None = None
        self.counts = dict.fromkeys(
            (
                "prompt_tokens",
                "generated_tokens",
                "finished",
                "cancelled",
                "timed_out",
                "failed",
                "refused",
                "segments",
            ),
            0,
        )
        self._running: list[Job | None] = [None] * slots.size
        self._waiting: deque[Job] = deque()
        self._entering: tuple[Job, Prefill] | None = None
        self._shared: tuple[Any, Prefill] | None = None  # the prompt that was prefilled last
        self._change = threading.Condition()
        self._stop: RefusedError | None = None
        self._closed = False
        self._step_seconds: dict[tuple[int, int], float] = {}  # by width and length of the cache
        self._job_seconds = 1.0
        self._thread = threading.Thread(target=self._work, name="jgpt-device", daemon=True)

    def __enter__(self) -> "Engine":
        """Start the thread."""
        self.programs.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End all jobs, and the thread."""
        self.abort("the server has stopped.")
        with self._change:
            self._closed = True
            self._change.notify_all()
        self._thread.join()
        self.programs.__exit__(None, None, None)

    @property
    def busy(self) -> int:
        """Number of slots that are taken."""
        return sum(job is not None for job in self._running) + (self._entering is not None)

    @property
    def waiting(self) -> int:
        """Number of jobs in line."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether jobs can be taken."""
        return self.failure is None and self._stop is None and self._thread.is_alive()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Put jobs in line, all or none.

        Raises:
            RefusedError: the line is full (429), or the engine takes no jobs any more (503).
        """
        with self._change:
            if self._stop is not None:
                raise self._stop
            if self.failure is not None:
                raise RefusedError(503, f"the device has failed: {self.failure}", code="device_failed")
            room = self.queue + self.slots.size - self.busy - len(self._waiting)
            if len(jobs) > room:
                self.counts["refused"] += len(jobs)
                wait = min(60, max(1, round(self._job_seconds * (len(self._waiting) + 1) / self.slots.size)))
                raise RefusedError(
                    429,
                    f"{len(self._waiting)} samples are waiting, and {self.queue} may: try again in about {wait} s.",
                    code="queue_full",
                    retry_after=wait,
                )
            self._waiting.extend(jobs)
            self._change.notify_all()

    def abort(self, why: str) -> None:
        """End all jobs, waiting and running, with a 503, and take no more."""
        with self._change:
            self._stop = RefusedError(503, why, code="stopping", retry_after=1)
            self._change.notify_all()

    def _work(self) -> None:
        """Serve until closed."""
        while True:
            with self._change:
                while not (self._closed or self._waiting or self.busy):
                    self._change.wait()
                if self._closed and not self._waiting and not self.busy:
                    return
            try:
                self._weed()
                self._admit()
                self._segment()
            except Exception as error:
                self._recover(error)

    def _weed(self) -> None:
        """Let go of jobs that nobody waits for any more, and of those whose time is over."""
        with self._change:
            over = [job for job in self._waiting if self._over(job)]
            for job in over:
                self._waiting.remove(job)
        if self._entering is not None and self._over(self._entering[0]):
            self._entering = None
        gone = [slot for slot, job in enumerate(self._running) if job is not None and self._over(job)]
        self.slots.leave(gone)
        for slot in gone:
            self._running[slot] = None

    def _over(self, job: Job) -> bool:
        """Return whether a job must end without a result; it is told so."""
        if self._stop is not None:
            self.counts["failed"] += 1
            job.fail(self._stop)
        elif job.cancelled:
            self.counts["cancelled"] += 1
            job.fail(RefusedError(400, "the client has left.", code="cancelled"))
        elif job.late:
            self.counts["timed_out"] += 1
            job.fail(
                RefusedError(
                    504,
                    f"the answer was not complete in time, after {len(job.ids)} of at most {job.row.steps} tokens: ask for "
                    "fewer tokens, or start the server with a longer --timeout.",
                    code="timeout",
                )
            )
        else:
            return False
        return True

    def _admit(self) -> None:
        """Feed the next prompts for as long as the others may wait, and let those join that are fed."""
        began = time.monotonic()
        while self._entering is not None or self._next():
            job, prefilled = self._entering  # pyright: ignore[reportGeneralTypeIssues]
            if prefilled.rest:
                try:
                    prefilled.feed()
                except Exception as error:
                    self._entering = self._shared = None
                    self.counts["failed"] += 1
                    job.fail(_device_error(error))
                    continue
            if not prefilled.rest:
                slot = self._running.index(None)
                self._running[slot], self._entering = job, None
                job.joined = time.monotonic()
                self.slots.join(slot, job.row, prefilled, top=job.top)
                self.counts["prompt_tokens"] += len(job.row.prompt)
                if not (self._waiting and self._waiting[0].row.prompt is job.row.prompt):
                    self._shared = None  # a cache of the whole context is large
                self._tell()  # the first token
            if time.monotonic() - began > PAUSE:
                return

    def _next(self) -> bool:
        """Take the next job out of the line, where there is one and a slot for it."""
        if None not in self._running:
            return False
        with self._change:
            if not self._waiting:
                return False
            job = self._waiting.popleft()
            shared = self._shared if self._shared is not None and self._shared[0] is job.row.prompt else None
            self._shared = shared or (job.row.prompt, Prefill(self.slots, job.row.prompt))
            self._entering = (job, self._shared[1])
        return True

    def _segment(self) -> None:
        """Decode for a while, and tell the jobs."""
        if not any(job is not None for job in self._running):
            return
        known = self._step_seconds.get((self.slots.width, self.slots.length))
        steps = MOST_STEPS if known is None else min(max(int(SEGMENT / known), 1), MOST_STEPS)
        began = time.monotonic()
        self.slots.advance(steps)
        size, made = (self.slots.width, self.slots.length), self._tell()  # it may have become less
        known = self._step_seconds.get(size)
        if made:
            seconds = (time.monotonic() - began) / made
            self._step_seconds[size] = seconds if known is None else known + (seconds - known) * SMOOTHING
        self.counts["segments"] += 1

    def _tell(self) -> int:
        """Deliver what was written since the last look, free the slots of those who are done; return the longest row's."""
        longest, done = 0, []
        for slot, wrote in self.slots.look().items():
            job, new = self._running[slot], len(wrote.tokens)
            if job is None:
                continue
            longest = max(longest, new)
            if not np.isfinite(wrote.logprobs).all():
                self.counts["failed"] += 1
                job.fail(
                    RefusedError(
                        500,
                        "the model's logits are not finite: its parameters hold NaN or infinity.",
                        code="not_finite",
                    )
                )
            else:
                ids, values = wrote.top_ids[:, : job.top].tolist(), wrote.top_logprobs[:, : job.top].tolist()
                top = list(zip(ids, values, strict=True)) if job.top else []
                job.write(wrote.tokens.tolist(), wrote.logprobs.tolist(), top, wrote.finished)
                self.counts["generated_tokens"] += new
                self.counts["finished"] += job.ended
            if job.ended:
                done.append(slot)
                self._job_seconds += (time.monotonic() - job.joined - self._job_seconds) * SMOOTHING
                self._running[slot] = None
        self.slots.leave(done)
        return longest

    def _recover(self, error: Exception) -> None:
        """Fail what runs, and begin with empty slots: after an error nobody knows what their state holds."""
        jobs = [job for job in self._running if job is not None]
        jobs += [self._entering[0]] if self._entering is not None else []
        self._running, self._entering, self._shared = [None] * self.slots.size, None, None
        self.counts["failed"] += len(jobs)
        for job in jobs:
            if not job.ended:
                job.fail(_device_error(error))
        try:
            self.slots.clear()
        except Exception as failure:
            with self._change:
                self.failure, waiting = failure, list(self._waiting)
                self._waiting.clear()
            for job in waiting:
                job.fail(_device_error(failure))


def _device_error(error: BaseException) -> RefusedError:
    return RefusedError(
        500, f"the device has failed at this request: {type(error).__name__}: {error}", code="device_failed"
    )
