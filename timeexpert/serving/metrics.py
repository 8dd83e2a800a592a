"""What /metrics says, through Prometheus' own client library."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
# of the engine and the disk: what may fall again, all else only grows; and what the keys of numbers by key are
GAUGES = ("queue_length", "cache_bytes", "cached_videos", "cached_prefixes", "bytes", "uploads", "upload_bytes")
KEYS = {"steps": "rows", "seconds": "phase"}

Stats = Callable[[], Mapping[str, Mapping[str, Any]]]


class Metrics:
    """Counters of the HTTP side, and ``stats()`` of other parts, read when somebody asks.

    ``stats`` gives {part: {name: a number, or numbers by a key of ``KEYS``}}; the metric is ``timeexpert_PART_NAME``.
    """

    def __init__(self, stats: Stats) -> None:
        self.paths: dict[Any, str] = {}  # pattern of each endpoint
        self._registry = CollectorRegistry()
        http = "timeexpert_http_"
        self._requests = Counter(
            http + "requests", "Requests that ended.", ["method", "path", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            http + "request_seconds",
            "From a request's head to the end of its answer.",
            ["path"],
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self.open_requests = 0  # on the event loop's thread; a stopping server waits until there is none
        in_flight = Gauge(http + "in_flight", "Requests that are being answered.", registry=self._registry)
        in_flight.set_function(lambda: self.open_requests)
        self._registry.register(_Parts(stats))

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """One request came to its end. ``route`` is a pattern like /v1/files/{file_id}: there are few of them."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def render(self) -> bytes:
        """The text of /metrics."""
        return generate_latest(self._registry)


class _Parts(Collector):
    def __init__(self, stats: Stats) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """The numbers as they are now."""
        for part, values in self._stats().items():
            for name, value in values.items():
                family = GaugeMetricFamily if name in GAUGES else CounterMetricFamily
                words = f"{name.replace('_', ' ').capitalize()} of the {part}."
                if isinstance(value, Mapping):
                    metric = family(f"timeexpert_{part}_{name}", words, labels=[KEYS[name]])
                    for key, number in value.items():
                        metric.add_metric([str(key)], float(number))
                else:
                    metric = family(f"timeexpert_{part}_{name}", words, value=float(value))
                yield metric
