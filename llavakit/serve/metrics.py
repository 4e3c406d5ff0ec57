"""What is counted, in Prometheus's format. Each server has its own registry."""

from collections.abc import Callable, Iterator

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from llavakit.engine.engine import Stats

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
CONTENT_TYPE = CONTENT_TYPE_LATEST
# Of Stats: its field, what it means, and whether it only ever grows.
ENGINE = (
    ("waiting", "Requests that wait for the engine.", False),
    ("running", "Sequences that the engine runs.", False),
    ("kv_tokens", "Tokens that keys and values have memory for.", False),
    ("kv_budget", "Tokens that keys and values may take.", False),
    ("prompt_tokens", "Prompt tokens, known ones included.", True),
    ("copied_tokens", "Prompt tokens that were known already.", True),
    ("answer_tokens", "Tokens said.", True),
    ("preemptions", "Sequences that had to give their memory back.", True),
    ("tower_tiles", "Tiles that the vision tower ran on.", True),
)


class Metrics:
    """Counters of the HTTP side; the engine's are read when somebody looks."""

    def __init__(self, stats: Callable[[], Stats]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "llavakit_http_requests", "Requests answered.", ("route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "llavakit_http_request_seconds", "From the first byte to the last.", ("route",),
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.first_token = Histogram(
            "llavakit_time_to_first_token_seconds", "From the request to its first text.",
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.in_flight = Gauge("llavakit_requests_in_flight", "Chat requests now.", registry=self.registry)
        self.registry.register(_EngineStats(stats))

    def render(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self.registry)


class _EngineStats:
    def __init__(self, stats: Callable[[], Stats]) -> None:
        self.stats = stats

    def collect(self) -> Iterator[Metric]:
        values = vars(self.stats())
        for field, meaning, grows in ENGINE:
            kind = CounterMetricFamily if grows else GaugeMetricFamily
            yield kind(f"llavakit_engine_{field}", meaning, value=values[field])
