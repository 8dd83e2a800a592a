"""Counters in Prometheus' text format (its exposition format 0.0.4), written by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """What the HTTP side counts. Used by one thread, the event loop's."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.paths: dict[Any, str] = {}  # pattern of each endpoint
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._seconds: Counter[str] = Counter()

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """One request came to its end. ``route`` is a pattern like /v1/files/{file_id}: there are few of them."""
        self._requests[method, route, status] += 1
        self._seconds[route] += seconds  # type: ignore[assignment]

    def render(self, engine: Mapping[str, Any], store: Mapping[str, float]) -> str:
        """The text of /metrics: the HTTP side's counters, the engine's and the disk's."""
        lines = ["# TYPE timeexpert_http_requests_total counter"]
        for (method, route, status), count in sorted(self._requests.items()):
            labels = f'method="{method}",path="{_escaped(route)}",status="{status}"'
            lines.append(f"timeexpert_http_requests_total{{{labels}}} {count}")
        lines.append("# TYPE timeexpert_http_request_seconds_total counter")
        for route, seconds in sorted(self._seconds.items()):
            lines.append(f'timeexpert_http_request_seconds_total{{path="{_escaped(route)}"}} {seconds:.6f}')
        lines += ["# TYPE timeexpert_http_in_flight gauge", f"timeexpert_http_in_flight {self.in_flight}"]
        for part, values in (("store", store), ("engine", engine)):
            for name, value in values.items():
                lines += _samples(f"timeexpert_{part}_{name}", value)
        return "\n".join(lines) + "\n"


def _samples(name: str, value: Any) -> Iterator[str]:
    """A number, or numbers by key (how many batches had which size)."""
    if isinstance(value, Mapping):
        yield f"# TYPE {name} untyped"
        for key, number in value.items():
            yield f'{name}{{key="{_escaped(str(key))}"}} {float(number):g}'
    elif isinstance(value, (int, float)):
        yield f"# TYPE {name} untyped"
        yield f"{name} {float(value):.10g}"


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
