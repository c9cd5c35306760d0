"""What the server tells Prometheus of itself.

Owns the names; refuses to compute anything that the engine does not count.
"""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from jgpt.serve.engine import Engine

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class _Of(Collector):
    """What the engine counts, read when it is asked for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """Yield the engine's gauges and counters."""
        engine = self._engine
        for name, what, value in (
            ("slots", "Rows that can be decoded at once.", engine.slots.size),
            ("slots_busy", "Rows that are taken.", engine.busy),
            ("rows_computed", "Rows that are computed at present.", engine.slots.width),
            ("queue_limit", "Samples that may wait.", engine.queue),
            ("queue_waiting", "Samples that wait.", engine.waiting),
            ("up", "Whether samples are taken.", float(engine.alive)),
        ):
            yield GaugeMetricFamily(f"jgpt_{name}", what, value=value)
        counts = engine.counts
        tokens = CounterMetricFamily("jgpt_tokens", "Tokens of prompts read and of answers written.", labels=["kind"])
        for kind in ("prompt", "generated"):
            tokens.add_metric([kind], counts[f"{kind}_tokens"])
        yield tokens
        samples = CounterMetricFamily("jgpt_samples", "Samples, by how they ended.", labels=["end"])
        for end in ("finished", "cancelled", "timed_out", "failed", "refused"):
            samples.add_metric([end], counts[end])
        yield samples
        yield CounterMetricFamily("jgpt_segments", "Stretches of decoding between two looks.", value=counts["segments"])
        yield CounterMetricFamily(
            "jgpt_compilations",
            "Programs compiled since the server was ready; there should be none.",
            value=engine.programs.count,
        )


class Metrics:
    """The server's metrics, in a registry of its own.

    Attributes:
        requests: answered, by path and status.
        first: seconds from a request's arrival to its first token.
        seconds: that requests took, by path.
    """

    def __init__(self, engine: Engine) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Of(engine))
        ProcessCollector(registry=self._registry)
        self.requests = Counter("jgpt_requests", "Requests answered.", ["path", "status"], registry=self._registry)
        self.first = Histogram(
            "jgpt_first_token_seconds", "Seconds to a first token.", buckets=SECONDS, registry=self._registry
        )
        self.seconds = Histogram(
            "jgpt_request_seconds", "Seconds that requests took.", ["path"], buckets=SECONDS, registry=self._registry
        )

    def text(self) -> bytes:
        """Return all of it in Prometheus's text format."""
        return generate_latest(self._registry)
