"""Signals: the first one asks, the second one ends the process at once, and afterwards they are given back."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jgpt.interrupt import Interrupt

REPOSITORY = Path(__file__).parents[1]
PATIENCE_SECONDS = 20.0  # the child sleeps three times as long: whoever ends earlier was ended by the signal
CHILD = f"""
import time
from jgpt.interrupt import Interrupt
with Interrupt() as interrupt:
    print("ready", interrupt.signum, flush=True)
    end = time.monotonic() + {3 * PATIENCE_SECONDS}
    while not interrupt.signum and time.monotonic() < end:
        time.sleep(0.01)
    print("asked", interrupt.signum, flush=True)
    try:
        time.sleep({3 * PATIENCE_SECONDS})
    finally:
        print("cleaned up", flush=True)
"""


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_first_signal_asks_and_second_ends_at_once(first: signal.Signals, second: signal.Signals):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout.readline() == "ready 0\n"
        child.send_signal(first)
        assert child.stdout.readline() == f"asked {int(first)}\n"
        assert child.poll() is None
        child.send_signal(second)
        out, err = child.communicate(timeout=PATIENCE_SECONDS)
    finally:
        child.kill()
    assert child.returncode == 128 + second
    assert out == ""  # no clean-up ran: the process was ended where it stood
    assert (
        "saving a checkpoint" in err and "again to leave at once" in err and "last complete checkpoint is kept" in err
    )


def test_signals_are_given_back():
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        end = time.monotonic() + PATIENCE_SECONDS
        while not interrupt.signum and time.monotonic() < end:
            time.sleep(0.001)
    assert interrupt.signum == signal.SIGTERM
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == before
