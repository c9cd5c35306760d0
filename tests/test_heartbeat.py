"""The heartbeat: as long as all beat nobody leaves; who is silent, failed or unreachable is named, and the others leave."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jax.errors import JaxRuntimeError

from jgpt.heartbeat import LOST, OTHER_FAILED, SCORES, SLOW_STEPS, Heartbeat

BEAT, SILENCE = 0.02, 0.4  # seconds


class Store:
    """The coordinator's key-value store; a process in `dead` no longer reaches it."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.dead: set[int] = set()
        self.gone = False

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        if self.gone:
            raise RuntimeError("UNAVAILABLE: failed to connect")
        if int(key.rpartition("/")[2]) not in self.dead:
            self.values[key] = value

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        if self.gone:
            raise RuntimeError("UNAVAILABLE: failed to connect")
        return [(name, value) for name, value in self.values.items() if name.startswith(key)]


def beating(store: Store, number: int, left: list[int], processes: int = 3) -> Heartbeat:
    return Heartbeat(store, number, processes, SILENCE, leave=left.append, beat_seconds=BEAT)


def until(condition, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_while_all_beat_nobody_leaves_and_who_is_done_may_be_silent() -> None:
    store, left = Store(), []
    with beating(store, 0, left), beating(store, 2, left):
        with beating(store, 1, left):
            time.sleep(2 * SILENCE)
        time.sleep(2 * SILENCE)  # 1 is done
    assert left == []


def test_who_is_silent_is_named_with_the_last_steps(capsys: pytest.CaptureFixture) -> None:
    store, left = Store(), []
    with beating(store, 0, left) as zero, beating(store, 1, []) as one, beating(store, 2, []) as two:
        for beat, step in ((zero, 8), (one, 7), (two, 8)):
            beat.reach(step, "trains")
        until(lambda: all("\t8\t" in store.values.get(f"jgpt/beat/{i}", "") for i in (0, 2)))
        until(lambda: "\t7\t" in store.values.get("jgpt/beat/1", ""))
        begun = time.monotonic()
        store.dead.add(1)
        until(lambda: left == [LOST])
        assert time.monotonic() - begun < SILENCE + 0.3
    said = capsys.readouterr().err
    assert (
        "error: process 1 said nothing for" in said
        and "0: 8, 1: 7, 2: 8" in said
        and "goes on from the newest checkpoint" in said
    )


def test_who_fails_is_named_with_its_reason(capsys: pytest.CaptureFixture) -> None:
    store, left = Store(), []
    with beating(store, 0, left, 2):
        with pytest.raises(OSError, match="No space"), beating(store, 1, [], 2):
            raise OSError("No space left\ton device\nand more")
        until(lambda: left == [OTHER_FAILED])
    assert "process 1 failed: No space left on device.\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [JaxRuntimeError("INTERNAL: Gloo: closed by peer"), OSError("a barrier of Orbax broke")]
)
def test_an_error_that_a_dead_process_has_caused_waits_for_its_name(
    error: Exception, capsys: pytest.CaptureFixture
) -> None:
    store, left = Store(), []
    store.dead.add(1)
    store.values["jgpt/beat/1"] = "7\t3\ttrains\t0.000\tgoing\t"  # its last beat, not yet seen when the error comes
    with pytest.raises(type(error)), beating(store, 0, left, 2):
        raise error
    assert left == [LOST] and "process 1 said nothing" in capsys.readouterr().err


@pytest.mark.parametrize("first", [0, 1, 2])
def test_whoever_fails_the_store_lasts_until_all_have_read_why(first: int, capsys: pytest.CaptureFixture) -> None:
    """The store ends with process 0, as jax's coordinator does."""
    store, left = Store(), {}

    def part(i: int, status: int) -> None:
        left[i] = status
        store.gone = store.gone or i == 0

    def leave(i: int):
        return lambda status: part(i, status)

    others = [
        Heartbeat(store, i, 3, SILENCE, leave=leave(i), beat_seconds=BEAT * (1 + i)) for i in range(3) if i != first
    ]
    with others[0], others[1]:
        with pytest.raises(OSError), Heartbeat(store, first, 3, SILENCE, leave=leave(first), beat_seconds=BEAT):
            raise OSError("No space left on device")
        part(first, -1)
        until(lambda: len(left) == 3)
    assert left == {i: -1 if i == first else OTHER_FAILED for i in range(3)}
    assert capsys.readouterr().err.count(f"process {first} failed: No space left on device") == 2


def test_who_is_lost_is_named_by_all_that_are_left(capsys: pytest.CaptureFixture) -> None:
    store, left = Store(), []

    def leave_first(status: int) -> None:
        left.append(status)
        store.gone = True

    zero = Heartbeat(store, 0, 3, SILENCE, leave=leave_first, beat_seconds=BEAT / 4)
    with zero, beating(store, 1, left), beating(store, 2, []):
        until(lambda: len(store.values) == 3)
        store.dead.add(2)
        until(lambda: len(left) == 2)
    assert left == [LOST, LOST] and capsys.readouterr().err.count("error: process 2 said nothing") == 2


def test_where_nobody_gets_on_all_end_and_say_what_they_are_at(capsys: pytest.CaptureFixture) -> None:
    store, left = Store(), []
    long = dict(leave=left.append, beat_seconds=BEAT, stalled_seconds=2 * SILENCE)
    with Heartbeat(store, 0, 2, SILENCE, **long) as zero, Heartbeat(store, 1, 2, SILENCE, **long) as one:
        begun = time.monotonic()
        for step in range(5):  # one alone gets on
            one.reach(step, "trains")
            time.sleep(SILENCE)
        assert not left and time.monotonic() - begun > 4 * SILENCE
        zero.reach(5, SCORES)
        one.reach(5, SCORES)
        time.sleep(3 * SILENCE)  # which may take any time
        assert not left
        zero.reach(5, "reads data")
        one.reach(4, "trains")
        until(lambda: left == [LOST, LOST])
    assert "begun anything new for 0.8 s: process 0: reads data; process 1: trains.\n" in capsys.readouterr().err


def test_who_keeps_the_others_waiting_is_named_once(capsys: pytest.CaptureFixture) -> None:
    store, left = Store(), []
    with beating(store, 0, left) as zero, beating(store, 1, left) as one, beating(store, 2, left) as two:
        for step in range(2 * SLOW_STEPS):
            for beat, waited in ((zero, 0.001), (one, 0.0), (two, 0.02)):
                beat.reach(step, "trains")
                beat.took(waited)
            time.sleep(0.02)
        time.sleep(5 * BEAT)
    said = capsys.readouterr().err
    assert said.count("process 2 waits 0.02 s a step for its data, the others 0.00 s") == 1 and left == []


def test_an_error_of_ones_own_waits_for_nobody() -> None:
    store, left = Store(), []
    with beating(store, 1, [], 2), pytest.raises(ValueError):
        begun = time.monotonic()
        with beating(store, 0, left, 2):
            raise ValueError("a mistake")
    assert left == [] and time.monotonic() - begun < SILENCE


def test_the_last_word_is_ours_where_a_thread_aborts() -> None:
    """As jax does when the coordinator is gone, from a thread that Python knows nothing of."""
    script = """
import ctypes, threading, time
from test_heartbeat import Store
from jgpt.heartbeat import Heartbeat
with Heartbeat(Store(), 1, 2, 20) as beat:
    beat.reach(7, "trains")
    pthread = ctypes.CDLL(None)
    thread = ctypes.c_ulong()
    abort = ctypes.cast(pthread.abort, ctypes.c_void_p)
    pthread.pthread_create(ctypes.byref(thread), None, abort, None)
    time.sleep(30)
"""
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{here}:{here.parent}"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == LOST, done
    assert "process 0, which coordinates, is lost" in done.stderr and "0: -, 1: 7" in done.stderr


def test_a_coordinator_that_is_gone_is_named(capsys: pytest.CaptureFixture) -> None:
    store, left = Store(), []
    with beating(store, 1, left):
        store.gone = True
        until(lambda: left == [LOST])
    assert "process 0, which coordinates, cannot be reached: UNAVAILABLE" in capsys.readouterr().err


def test_what_is_to_be_done_at_the_end_is_done_however_it_comes(capsys: pytest.CaptureFixture) -> None:
    """Once the others know: when all are done, when this process fails, and when another one does."""
    done: list[str] = []
    for how in ("done", "fails", "another fails"):
        store, left = Store(), []
        zero, one = beating(store, 0, left, processes=2), beating(store, 1, [], processes=2)
        zero.at_end(lambda how=how, store=store: done.append(f"{how} {store.values['jgpt/beat/0'].split(chr(9))[4]}"))
        if how == "done":
            with one, zero:
                pass
        elif how == "fails":
            with one, pytest.raises(OSError), zero:
                raise OSError("full")
        else:
            with zero:
                with pytest.raises(OSError), one:
                    until(lambda store=store: len(store.values) == 2)
                    raise OSError("full")
                until(lambda left=left: left == [OTHER_FAILED])
    assert done[:3] == ["done done", "fails failed", "another fails left"], done
    capsys.readouterr()
