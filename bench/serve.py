"""The server under load: many clients at once, a first token among long answers, and minutes of everything.

    python bench/serve.py                                # GPT-2's 124M shape, random weights
    python bench/serve.py --run runs/trio --minutes 10

One after another: the same requests to the same server, which computes a single row when it has a single request. Every
answer must be the greedy text that `GPT.complete` gives. `--minutes` sends whole and streamed requests, pictures where the run
draws any, clients that vanish and malformed requests, and restarts the server halfway; memory is read once a second.
"""

import contextlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx
from harness import BENCH, alternate, arguments, paired_ratio, publish, say, summary

WORDS: Final = "the import statement of a module and its names are found in every file that was read before".split()
CLIENTS: Final = 16
CANDIDATES: Final = 64  # prompts, of which those are used whose greedy ids are clear
LONG: Final = 8  # long answers that run beside a short request
FIRSTS: Final = 15  # first tokens that are timed in each turn
SETTLED: Final = 0.2  # share of a process's life after which its memory is compared


class Served:
    """A server in a process of its own."""

    def __init__(self, spec: dict[str, Any]) -> None:
        path = os.pathsep.join([str(BENCH), str(BENCH.parent), os.environ.get("PYTHONPATH", "")])
        self.url = f"http://127.0.0.1:{spec['port']}"
        self.process = subprocess.Popen(
            [sys.executable, str(BENCH / "sides" / "serve_side.py"), json.dumps(spec)],
            env={**os.environ, "PYTHONPATH": path},
        )
        while self.process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/healthz").status_code == 200:
                    break
            time.sleep(0.2)
        else:
            raise SystemExit("the server ended before it was ready: see above")

    def metric(self, name: str) -> float:
        """Return a metric without labels."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + " "))

    def resident(self) -> float:
        """Return the resident memory [MiB]."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def stop(self) -> int:
        """Ask the server to leave, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=120)


class Client:
    """Requests whose answers are known.

    Args:
        served: the server.
        expected: greedy texts by prompt and length.
    """

    def __init__(self, served: Served, expected: dict[tuple[str, int], str]) -> None:
        self.served, self.expected = served, expected

    def body(self, prompt: str, new: int, **more: Any) -> dict[str, Any]:
        """Return a request."""
        return {"model": "bench", "prompt": prompt, "max_tokens": new, "temperature": 0, **more}

    def whole(self, http: httpx.Client, prompt: str, new: int) -> int:
        """Return the tokens of an answer. Raises SystemExit where it is another than expected."""
        answer = http.post(f"{self.served.url}/v1/completions", json=self.body(prompt, new))
        answer.raise_for_status()
        if answer.json()["choices"][0]["text"] != self.expected[prompt, new]:
            raise SystemExit(f"{prompt!r} got another text than GPT.complete gives")
        return answer.json()["usage"]["completion_tokens"]

    def first(self, http: httpx.Client, prompt: str, new: int) -> float:
        """Return the seconds to the first token; the rest is read as well."""
        begun = time.perf_counter()
        with http.stream(
            "POST", f"{self.served.url}/v1/completions", json=self.body(prompt, new, stream=True)
        ) as answer:
            lines = answer.iter_lines()
            next(lines)
            seconds = time.perf_counter() - begun
            for _ in lines:
                pass
        return seconds


def throughput(client: Client, prompts: list[str], new: int, at_once: int) -> float:
    """Return the tokens a second of all requests together."""
    with ThreadPoolExecutor(at_once) as pool, httpx.Client(timeout=600) as http:
        begun = time.perf_counter()
        tokens = sum(pool.map(lambda prompt: client.whole(http, prompt, new), prompts))
        return tokens / (time.perf_counter() - begun)


def first_token(client: Client, prompt: str, new: int, long: int, beside: int) -> float:
    """Return the median seconds to the first token of short requests, while so many long ones run."""
    stop = threading.Event()

    def keep() -> None:
        with httpx.Client(timeout=600) as http:
            while not stop.is_set():
                body = client.body(prompt, long, stream=True)
                with http.stream("POST", f"{client.served.url}/v1/completions", json=body) as answer:
                    for _ in answer.iter_lines():
                        if stop.is_set():
                            break

    threads = [threading.Thread(target=keep) for _ in range(beside)]
    for thread in threads:
        thread.start()
    with httpx.Client(timeout=600) as http:
        if beside:
            time.sleep(1.0)
        seconds = []
        for _ in range(FIRSTS):
            seconds.append(client.first(http, prompt, new))
            time.sleep(random.uniform(0, 0.05))
    stop.set()
    for thread in threads:
        thread.join()
    return statistics.median(seconds)


MALFORMED: Final = (
    b"{",
    b"\xff",
    b'{"model": "bench", "prompt": "a", "temperature": NaN}',
    b'{"model": "other", "prompt": "a"}',
    b'{"model": "bench", "prompt": 3}',
    b'{"model": "bench", "prompt": "a", "max_tokens": 1000000000000}',
    b'{"model": "bench", "prompt": "a", "unknown": 1}',
    b"[" * 100_000,
)


class Mixed:
    """Minutes of everything at once."""

    def __init__(self, client: Client, captions: list[str], news: list[int]) -> None:
        self.client, self.captions, self.news = client, captions, news
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.restarting, self.stop = threading.Event(), threading.Event()
        self._lock = threading.Lock()

    def count(self, what: str) -> None:
        """Count an event."""
        with self._lock:
            self.counts[what] += 1

    def check(self, holds: bool, what: str) -> None:
        """Note a wrong answer."""
        if not holds:
            with self._lock:
                self.wrong.append(what)

    def work(self, seed: int) -> None:
        """Send requests until told to stop."""
        rng = random.Random(seed)
        actions = (
            [self.whole] * 4
            + [self.stream] * 4
            + [self.vanish] * 2
            + [self.malformed]
            + [self.draw] * bool(self.captions)
        )
        with httpx.Client(timeout=300) as http:
            while not self.stop.is_set():
                try:
                    rng.choice(actions)(http, rng)
                except httpx.ConnectError as error:
                    self.check(self.restarting.is_set(), f"nobody listened: {error!r}")
                    self.count("turned away while restarting")
                    time.sleep(0.3)
                except httpx.TransportError as error:  # a request that was accepted, or a connection that idled
                    self.check(self.restarting.is_set(), f"connection broke: {error!r}")
                    self.count(f"broken while restarting: {type(error).__name__}")
                    time.sleep(0.3)

    def refused(self, answer: httpx.Response) -> bool:
        """Return whether an answer is a clean refusal, and wait as long as it says."""
        if answer.status_code not in (429, 503):
            return False
        self.count(f"refused with {answer.status_code}")
        time.sleep(min(2.0, float(answer.headers.get("retry-after", "1"))))
        return True

    def request(self, rng: random.Random, **more: Any) -> tuple[tuple[str, int], dict[str, Any]]:
        """Return what is expected, and a request for it."""
        key = rng.choice(list(self.client.expected))
        return key, self.client.body(*key, **more)

    def whole(self, http: httpx.Client, rng: random.Random) -> None:
        """Ask for a whole answer."""
        key, body = self.request(rng)
        answer = http.post(f"{self.client.served.url}/v1/completions", json=body)
        if self.refused(answer):
            return
        self.check(
            answer.status_code == 200 and answer.json()["choices"][0]["text"] == self.client.expected[key],
            f"whole {key}",
        )
        self.count("whole answers")

    def stream(self, http: httpx.Client, rng: random.Random) -> None:
        """Ask for a streamed answer."""
        key, body = self.request(rng, stream=True)
        with http.stream("POST", f"{self.client.served.url}/v1/completions", json=body) as answer:
            if self.refused(answer):
                return
            lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
        text = "".join(json.loads(line)["choices"][0]["text"] for line in lines if line.startswith('{"id"'))
        if lines[-1] == "[DONE]":
            self.check(text == self.client.expected[key], f"streamed {key}")
            self.count("streamed answers")
        else:
            self.check(self.restarting.is_set() and '"error"' in lines[-1], f"a stream ended with {lines[-1][:200]}")
            self.count("streams ended by the restart")

    def vanish(self, http: httpx.Client, rng: random.Random) -> None:
        """Leave in the middle of an answer."""
        _, body = self.request(rng, stream=True)
        with http.stream("POST", f"{self.client.served.url}/v1/completions", json=body) as answer:
            if self.refused(answer):
                return
            for at, _ in enumerate(answer.iter_lines()):
                if at >= rng.randrange(6):
                    break
        self.count("clients that vanished")

    def malformed(self, http: httpx.Client, rng: random.Random) -> None:
        """Send what is no request."""
        body = rng.choice(MALFORMED)
        answer = http.post(
            f"{self.client.served.url}/v1/completions", content=body, headers={"content-type": "application/json"}
        )
        self.check(
            400 <= answer.status_code < 500 and "error" in answer.json(), f"{body[:60]!r} got {answer.status_code}"
        )
        self.count("malformed requests refused")

    def draw(self, http: httpx.Client, rng: random.Random) -> None:
        """Ask for a picture; the same seed must draw the same."""
        body = {"prompt": self.captions[0], "seed": 1, "n": rng.choice((1, 2))}
        answer = http.post(f"{self.client.served.url}/v1/images/generations", json=body)
        if self.refused(answer):
            return
        picture = answer.json()["data"][0]["b64_json"] if answer.status_code == 200 else str(answer.status_code)
        with self._lock:
            wanted = self.__dict__.setdefault("_picture", picture)
        self.check(picture == wanted, "a picture")
        self.count("pictures")


def mixed_load(
    client: Client, spec: dict[str, Any], captions: list[str], news: list[int], minutes: float
) -> dict[str, Any]:
    """Return counts, wrong answers and memory over the minutes."""
    load = Mixed(client, captions, news)
    threads = [threading.Thread(target=load.work, args=(seed,)) for seed in range(CLIENTS + 8)]
    for thread in threads:
        thread.start()
    lives: list[list[float]] = []
    compiled: list[float] = []
    for life in range(2):
        end, memory = time.monotonic() + minutes * 30, []
        while time.monotonic() < end:
            time.sleep(1.0)
            memory.append(client.served.resident())
        lives.append(memory)
        compiled.append(client.served.metric("jgpt_compilations_total"))
        if life == 0:
            say("  restart")
            load.restarting.set()
            load.check(client.served.stop() == 0, "the server left with another code than 0")
            client.served = Served(spec)
            time.sleep(1.0)  # who was turned away last may still be about to say so
            load.restarting.clear()
    load.stop.set()
    for thread in threads:
        thread.join()
    growth = []
    for memory in lives:
        settled = memory[int(len(memory) * SETTLED) :]
        part = max(1, len(settled) // 10)
        growth.append(statistics.mean(settled[-part:]) / statistics.mean(settled[:part]) - 1)
    time.sleep(1.0)
    return {
        "minutes": minutes,
        "counts": dict(load.counts),
        "wrong": load.wrong[:20],
        "wrong_answers": len(load.wrong),
        "memory_growth": growth,
        "memory_mib": [[round(value, 1) for value in memory[:: max(1, len(memory) // 60)]] for memory in lives],
        "compiled_after_ready": compiled,
        "slots_busy_at_the_end": client.served.metric("jgpt_slots_busy"),
    }


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> None:
    """Measure and write the table."""
    options = arguments(
        __doc__ or "",
        run={"help": "folder of a run (default: random weights)"},
        layers={"type": int, "default": 12},
        width={"type": int, "default": 768},
        heads={"type": int, "default": 12},
        context={"type": int, "default": 1024},
        vocab={"type": int, "default": 20000, "help": "characters, at most 20,000 are known"},
        new={"type": int, "default": 96, "help": "tokens of an answer"},
        long={"type": int, "default": 160, "help": "tokens of a long one"},
        minutes={"type": float, "default": 0.0, "help": "of mixed load"},
    )
    rng = random.Random(0)
    prompts = [" ".join(rng.sample(WORDS, rng.randint(1, 5))) for _ in range(CANDIDATES)]
    news = sorted({8, options.new})
    with tempfile.TemporaryDirectory() as folder:
        spec = {
            "run": options.run, "layers": options.layers, "width": options.width, "heads": options.heads,
            "context": options.context, "vocab": options.vocab, "slots": CLIENTS, "port": free_port(),
            "prompts": prompts, "new": news, "expected": str(Path(folder) / "expected.json"),
        }  # fmt: skip
        served = Served(spec)
        known = json.loads(Path(spec["expected"]).read_text())
        expected = {(prompt, int(new)): text for new, texts in known["texts"].items() for prompt, text in texts.items()}
        prompts = sorted({prompt for prompt, _ in expected})
        client, about = Client(served, expected), known["about"]
        throughput(client, prompts, 8, CLIENTS)  # every path once
        turns = {
            "one after another, tokens/s": lambda: throughput(client, prompts, options.new, 1),
            f"{CLIENTS} at once, tokens/s": lambda: throughput(client, prompts, options.new, CLIENTS),
            "first token alone, s": lambda: first_token(client, prompts[0], 8, options.long, 0),
            f"first token beside {LONG} long ones, s": lambda: first_token(client, prompts[0], 8, options.long, LONG),
        }
        try:
            measured = alternate(turns, options.rounds)
            mixed = mixed_load(client, spec, known["captions"], news, options.minutes) if options.minutes else None
        finally:
            code = client.served.stop()
    one, many, alone, beside = measured.values()
    speedup, delay = paired_ratio(many, one), paired_ratio(beside, alone)
    rows = [("what", "median", "quartiles")]
    for name, values in measured.items():
        r = summary(values)
        rows.append((name, f"{r['median']:.4g}", f"{r['low']:.4g} to {r['high']:.4g}"))
    for name, r in (
        (f"{CLIENTS} at once against one after another", speedup),
        ("first token, long ones beside it against alone", delay),
    ):
        rows.append((name, f"{r['median']:.2f}", f"{r['low']:.2f} to {r['high']:.2f}"))
    headline = {
        "at once against one after another": speedup["median"],
        "first token beside against alone": delay["median"],
    }
    if mixed is not None:
        rows.append(
            (f"wrong answers in {options.minutes:g} minutes", str(mixed["wrong_answers"]), str(mixed["counts"]))
        )
        rows.append(
            ("growth of memory in each life", f"{max(mixed['memory_growth']):.1%}", str(mixed["memory_growth"]))
        )
        headline |= {"wrong answers": mixed["wrong_answers"], "memory growth": max(mixed["memory_growth"])}
    of = Path(options.run).name if options.run else f"random, {options.layers} layers, width {options.width}"
    results = {
        "headline": headline, "of": of, "margin": about["margin"], "options": vars(options),
        "measured": {name: summary(values) for name, values in measured.items()},
        "speedup": speedup, "delay": delay, "mixed": mixed, "exit_code": code,
    }  # fmt: skip
    publish(
        "serve" if options.run is None else "serve_run",
        results,
        rows,
        None if about["platform"] == "cpu" else about["device"],
    )


if __name__ == "__main__":
    main()
