"""Who is there: the processes of a run meet at the coordinator's address before jax does.

jax waits for all processes too, but where one is missing it ends the process without saying which. So process 0 first
listens there itself: the others give their number, what they expect and their versions, and all are told the same verdict.
Owns these few lines of JSON over TCP. Imports no jax.
"""

import json
import socket
import time
from collections.abc import Iterable
from typing import Any, Final

from jgpt.check import require

LONGEST_LINE: Final = 4096  # bytes; what is longer is not one of ours
RETRY_SECONDS: Final = 0.3
ANSWER_SECONDS: Final = 5.0  # for a line that should come at once


def attend(address: str, process: int, processes: int, seconds: float, about: dict[str, Any]) -> None:
    """Return once all processes have come to `address`, on each of them.

    Args:
        address: HOST:PORT; process 0 listens there.
        process: this one's number.
        processes: expected.
        seconds: to wait in all.
        about: what must be equal on all, such as versions.

    Raises:
        ValueError: two processes have one number, or they disagree about `processes` or `about`.
        TimeoutError: some are missing; the message says which.
    """
    if processes == 1:
        return
    host, _, port = address.rpartition(":")
    card = {"process": process, "processes": processes, "about": about, "host": socket.gethostname()}
    deadline = time.monotonic() + seconds
    problem = (
        _call(host.strip("[]"), int(port), card, deadline, seconds)
        if process == 0
        else _answer(host.strip("[]"), int(port), card, deadline, seconds)
    )
    if problem is None:
        return
    kind, text = problem
    raise TimeoutError(text) if kind == "missing" else ValueError(text)


def names(numbers: Iterable[int]) -> str:
    """Return numbers as words: "process 2", "processes 1, 3 to 5"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    words = [str(a) if a == b else f"{a} to {b}" for a, b in runs]
    return f"process{'' if len(runs) == 1 and runs[0][0] == runs[0][1] else 'es'} {', '.join(words)}"


Problem = tuple[str, str] | None


def _call(host: str, port: int, card: dict[str, Any], deadline: float, seconds: float) -> Problem:
    """Take the others' cards, and tell each the verdict."""
    local = host in ("localhost", "127.0.0.1", "::1")
    try:
        if not local and socket.has_dualstack_ipv6():
            server = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        else:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            server = socket.create_server((host if local else "", port), family=family)
    except OSError as error:
        why = f"process 0 cannot listen on {host}:{port}: {error.strerror or error}"
        return "wrong", f"{why}; choose another port, or end a second process 0."
    there: dict[int, tuple[socket.socket, dict[str, Any]]] = {}
    problem: Problem = None
    with server:
        while problem is None:
            there = {number: other for number, other in there.items() if _waits(other[0])}
            if len(there) == card["processes"] - 1:
                break
            left = deadline - time.monotonic()
            if left <= 0:
                missing = names(set(range(1, card["processes"])) - there.keys())
                problem = "missing", _missing(missing, card["processes"], host, port, seconds)
                break
            server.settimeout(left)
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            other = _read(connection, min(ANSWER_SECONDS, left))
            if not isinstance(other, dict) or not isinstance(other.get("process"), int):
                connection.close()  # a port scanner, or a check of the network's health
                continue
            there = {number: known for number, known in there.items() if _waits(known[0])}
            problem = _disagreement(card, other, there)
            there[other["process"] if problem is None else -1] = connection, other
        for connection, _ in there.values():
            _write(connection, {"problem": problem})
            connection.close()
    return problem


def _disagreement(card: dict[str, Any], other: dict[str, Any], there: dict[int, Any]) -> Problem:
    """Return what is wrong with a card, None where nothing is."""
    number, host = other["process"], other.get("host")
    if other.get("processes") != card["processes"]:
        return "wrong", (
            f"process {number} on {host} expects {other.get('processes')} processes, and process 0 expects "
            f"{card['processes']}: start all with the same distributed.num_processes."
        )
    if not 0 <= number < card["processes"]:
        return "wrong", (
            f"process {number} on {host} is none of {card['processes']} processes: distributed.process_id begins at 0; correct "
            "it, or distributed.num_processes on all."
        )
    if number == 0 or number in there:
        first = card["host"] if number == 0 else there[number][1].get("host")
        return "wrong", (
            f"two processes have distributed.process_id {number}, on {first} and {host}: give each its own, 0 to "
            f"{card['processes'] - 1}."
        )
    for name, value in card["about"].items():
        if other.get("about", {}).get(name) != value:
            return "wrong", (
                f"process {number} on {host} has {name} {other.get('about', {}).get(name)}, and process 0 has {value}: all "
                "must run the same."
            )
    return None


def _answer(host: str, port: int, card: dict[str, Any], deadline: float, seconds: float) -> Problem:
    """Give this process's card to process 0, and return its verdict."""
    reached = False
    while time.monotonic() < deadline:
        try:
            connection = socket.create_connection((host, port), timeout=max(0.1, deadline - time.monotonic()))
        except OSError:  # not there yet
            time.sleep(RETRY_SECONDS)
            continue
        reached = True
        with connection:
            _write(connection, card)
            verdict = _read(
                connection, seconds + ANSWER_SECONDS
            )  # process 0 may have begun to wait later than this one
        if isinstance(verdict, dict) and "problem" in verdict:
            problem = verdict["problem"]
            return None if problem is None else (str(problem[0]), str(problem[1]))
        time.sleep(RETRY_SECONDS)  # it was another process, or process 0 has left
    if reached:
        return "missing", (
            f"something listens on {host}:{port} and did not call the roll within {seconds:g} s: a run that has begun, or "
            f"another program. See whether another process has distributed.process_id {card['process']} too, or choose "
            "another port."
        )
    return "missing", _missing("process 0, which coordinates,", card["processes"], host, port, seconds)


def _missing(who: str, processes: int, host: str, port: int, seconds: float) -> str:
    return (
        f"{who} of {processes} did not come to {host}:{port} within {seconds:g} s: see whether it was started and can reach "
        "that address, or wait longer with --distributed.start-seconds."
    )


def _waits(connection: socket.socket) -> bool:
    """Return whether a process that gave its card still waits for the verdict."""
    try:
        connection.setblocking(False)
        return connection.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True  # connected, and silent as it should be
    except OSError:
        return False


def _read(connection: socket.socket, seconds: float) -> Any:
    """Return the JSON of a line, None where none comes."""
    line, deadline = b"", time.monotonic() + seconds
    try:
        while not line.endswith(b"\n") and len(line) <= LONGEST_LINE:
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            piece = connection.recv(LONGEST_LINE)
            if not piece:
                return None
            line += piece
        return json.loads(line)
    except (OSError, ValueError, RecursionError):
        return None


def _write(connection: socket.socket, value: Any) -> None:
    try:
        connection.settimeout(ANSWER_SECONDS)
        connection.sendall(json.dumps(value).encode() + b"\n")
    except OSError:
        pass  # it has left; its own message says why


def check_place(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Raise ValueError where some but not all of a process's place are known."""
    known = {"coordinator": coordinator, "num_processes": processes, "process_id": process}
    lacking = [name for name, value in known.items() if value is None]
    require(
        not lacking,
        f"distributed.{', '.join(lacking)} is not known, but the rest is: give --distributed.coordinator HOST:PORT, "
        "--distributed.num-processes N and --distributed.process-id I together, or set JGPT_COORDINATOR, "
        "JGPT_NUM_PROCESSES and JGPT_PROCESS_ID.",
    )
