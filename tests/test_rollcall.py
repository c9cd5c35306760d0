"""The roll call: all come and all go on; who is missing, doubled or different is named to everybody."""

import socket
import threading
import time
from collections.abc import Sequence

import pytest

from jgpt import rollcall
from jgpt.simulated import free_port

ABOUT = {"jax": "1.2.3"}


def meet(
    cards: Sequence[tuple[int, int, dict]], seconds: float = 5.0, port: int | None = None
) -> list[Exception | None]:
    """Return what each process of (number, expected, about) met with: an error, or None where it may go on."""
    address = f"127.0.0.1:{port or free_port()}"
    met: list[Exception | None] = [None] * len(cards)

    def attend(place: int, number: int, expected: int, about: dict) -> None:
        try:
            rollcall.attend(address, number, expected, seconds, about)
        except Exception as error:
            met[place] = error

    threads = [threading.Thread(target=attend, args=(place, *card)) for place, card in enumerate(cards)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return met


def test_all_come_and_go_on() -> None:
    assert meet([(2, 3, ABOUT), (0, 3, ABOUT), (1, 3, ABOUT)]) == [None] * 3
    assert meet([(0, 1, ABOUT)]) == [None]  # alone there is nobody to wait for


def test_who_is_missing_is_named_to_all() -> None:
    begun = time.monotonic()
    met = meet([(0, 5, ABOUT), (3, 5, ABOUT)], seconds=1.0)
    assert time.monotonic() - begun < 4
    assert all(isinstance(error, TimeoutError) for error in met)
    assert {str(error).split(" did not come")[0] for error in met} == {"processes 1 to 2, 4 of 5"}


def test_without_the_coordinator_the_others_say_so() -> None:
    (error,) = meet([(1, 2, ABOUT)], seconds=0.6)
    assert isinstance(error, TimeoutError) and "process 0, which coordinates, of 2 did not come to 127.0.0.1:" in str(
        error
    )


def test_a_second_process_of_a_number_that_comes_late_says_so(monkeypatch) -> None:
    monkeypatch.setattr(rollcall, "ANSWER_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as server:  # as jax listens there once the roll has been called
        (error,) = meet([(1, 2, ABOUT)], seconds=0.6, port=server.getsockname()[1])
    assert "another process has distributed.process_id 1 too" in str(error)


@pytest.mark.parametrize(
    ("cards", "words"),
    [
        ([(0, 3, ABOUT), (1, 3, ABOUT), (1, 3, ABOUT)], "two processes have distributed.process_id 1"),
        ([(0, 2, ABOUT), (1, 3, ABOUT)], "expects 3 processes, and process 0 expects 2"),
        ([(0, 2, ABOUT), (1, 2, {"jax": "9"})], "has jax 9, and process 0 has 1.2.3"),
    ],
)
def test_who_does_not_fit_is_named(cards: list, words: str) -> None:
    met = meet(cards, seconds=2.0)
    assert isinstance(met[0], ValueError) and words in str(met[0])
    assert any(isinstance(error, ValueError) and words in str(error) for error in met[1:])


def test_strangers_at_the_door_are_ignored() -> None:
    port, stop = free_port(), threading.Event()

    def knock() -> None:
        while not stop.is_set():
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1) as stranger:
                    stranger.sendall(b"GET / HTTP/1.1\r\n\r\n\n" if time.monotonic() % 0.02 < 0.01 else b"")
            except OSError:
                pass
            time.sleep(0.01)

    thread = threading.Thread(target=knock)
    thread.start()
    met = meet([(0, 3, ABOUT), (1, 3, ABOUT), (2, 3, ABOUT)], port=port)
    stop.set()
    thread.join()
    assert met == [None] * 3


def test_a_process_that_died_while_waiting_may_come_again() -> None:
    port, met = free_port(), []
    zero = threading.Thread(target=lambda: met.append(rollcall.attend(f"127.0.0.1:{port}", 0, 3, 10.0, ABOUT)))
    zero.start()
    while True:
        try:
            first = socket.create_connection(("127.0.0.1", port), timeout=1)
            break
        except OSError:
            time.sleep(0.01)
    first.sendall(b'{"process": 1, "processes": 3, "about": {"jax": "1.2.3"}, "host": "x"}\n')
    time.sleep(0.1)
    first.close()  # killed; process 2 comes, and they may not go on yet
    two = threading.Thread(target=rollcall.attend, args=(f"127.0.0.1:{port}", 2, 3, 10.0, ABOUT))
    two.start()
    two.join(0.5)
    assert two.is_alive() and not met
    rollcall.attend(f"127.0.0.1:{port}", 1, 3, 10.0, ABOUT)
    zero.join(10), two.join(10)
    assert met == [None] and not two.is_alive()


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_an_address_may_be_ipv6() -> None:
    port = free_port()
    other = threading.Thread(target=rollcall.attend, args=(f"[::1]:{port}", 1, 2, 5.0, ABOUT))
    other.start()
    rollcall.attend(f"[::1]:{port}", 0, 2, 5.0, ABOUT)
    other.join(5)
    assert not other.is_alive()


def test_a_taken_port_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"cannot listen on 127.0.0.1:{port}.*choose another port"):
            rollcall.attend(f"127.0.0.1:{port}", 0, 2, 1.0, ABOUT)


def test_numbers_in_words() -> None:
    assert rollcall.names([2]) == "process 2" and rollcall.names([5, 1, 2, 3]) == "processes 1 to 3, 5"


def test_half_a_place_is_refused() -> None:
    with pytest.raises(ValueError, match="distributed.process_id is not known.*JGPT_PROCESS_ID"):
        rollcall.check_place("a:1", 2, None)
    rollcall.check_place("a:1", 2, 0)


def test_numbers_that_no_process_has_are_named_to_all() -> None:
    met = meet([(0, 3, ABOUT), (7, 3, ABOUT)])
    assert all(isinstance(error, ValueError) and "process 7 on" in str(error) for error in met)
    assert "is none of 3 processes" in str(met[0])
