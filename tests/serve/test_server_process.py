"""The process: SIGTERM finishes what runs and leaves with 0, a port that is taken is told, tokens come from safe places."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from jgpt.cli import parser
from jgpt.serve import patience
from jgpt.serve.server import listen
from jgpt.verbs import serve as verb

REPOSITORY = Path(__file__).parents[2]


def test_a_token_comes_from_the_environment_or_a_file(tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "token"
    file.write_text("  a-long-secret\n")
    monkeypatch.delenv(verb.TOKEN, raising=False)
    assert verb.read_token(None) is None
    assert verb.read_token(str(file)) == "a-long-secret"
    monkeypatch.setenv(verb.TOKEN, "another-secret")
    assert verb.read_token(None) == "another-secret"
    with pytest.raises(ValueError, match="both --token-file and JGPT_TOKEN"):
        verb.read_token(str(file))
    monkeypatch.setenv(verb.TOKEN, "short")
    with pytest.raises(ValueError, match="the token has 5 characters: use at least 8"):
        verb.read_token(None)


def test_without_the_extra_the_way_to_install_it_is_told(monkeypatch) -> None:
    monkeypatch.setattr(verb, "NEEDED", ("starlette", "not_there"))
    with pytest.raises(ValueError, match=r"needs not_there: pip install 'jgpt\[serve\]'"):
        verb.run(parser().parse_args(["serve", "RUN"]))


def test_an_address_that_is_taken_is_told() -> None:
    with listen("127.0.0.1", 0) as first:
        first.listen()
        with pytest.raises(ValueError, match=r"cannot listen on 127.0.0.1 port \d+: .*another --host or --port"):
            listen("127.0.0.1", first.getsockname()[1])
    with pytest.raises(ValueError, match="port is 70000"):
        listen("127.0.0.1", 70000)


def test_who_sends_no_whole_head_or_reads_nothing_is_hung_up_on_and_who_asks_is_not(monkeypatch) -> None:
    monkeypatch.setattr(patience, "HEAD_SECONDS", 0.6)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(1.5)  # an answer may take longer
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok" * (size[0] // 2)})

    size = [2**25]  # bytes, more than a socket takes
    server = uvicorn.Server(
        uvicorn.Config(app, http=patience.PatientProtocol, log_level="error", lifespan="off", timeout_keep_alive=1)
    )
    with listen("127.0.0.1", 0) as listener:
        address = listener.getsockname()[:2]
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            for begun in (b"", b"GET / HTTP/1.1\r\nHost: x\r\nA: "):
                with socket.create_connection(address, timeout=10) as client:
                    client.sendall(begun)
                    since = time.monotonic()
                    assert client.recv(100) == b"" and 0.5 < time.monotonic() - since < 3
            with socket.create_connection(address, timeout=10) as client:  # what nobody reads is dropped
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                while not server.server_state.connections:
                    time.sleep(0.01)
                since = time.monotonic()
                while server.server_state.connections and time.monotonic() - since < 10:
                    time.sleep(0.05)
                assert 1.5 < time.monotonic() - since < 6
            size[0] = 2
            with httpx.Client(base_url=f"http://127.0.0.1:{address[1]}", timeout=10) as client:
                assert client.get("/").text == client.get("/").text == "ok"
        finally:
            server.should_exit = True
            thread.join(10)


@pytest.mark.slow
@pytest.mark.parametrize(("grace", "finishes"), [("60", True), ("0", False)])
def test_sigterm_ends_well(grace: str, finishes: bool) -> None:
    """An answer under way is finished within the grace, or told that it will not be; then the process leaves with 0."""
    script = str(Path(__file__).parent / "tiny_server.py")
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    process: Any = subprocess.Popen(
        [sys.executable, script, "0", grace], env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        address = None
        for line in process.stderr:
            if found := re.search(r"ready: (http\S+)/", line):
                address = found[1]
                break
        assert address
        body = {"model": "tiny", "prompt": "a", "n": 40, "stream": True, "max_tokens": 60, "logit_bias": {"2": -100}}
        with httpx.stream("POST", f"{address}/v1/completions", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("data: ")
            process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert (rest[-1] == "data: [DONE]") == finishes
        assert finishes or '"code": "stopping"' in rest[-1]
        watchdog = threading.Timer(60, process.kill)
        watchdog.start()
        assert process.wait() == 0
        watchdog.cancel()
    finally:
        process.kill()
        process.stderr.close()
