"""The agent's Prometheus metrics."""

from __future__ import annotations

from collections.abc import Mapping

import prometheus_client as prometheus

STARTS = prometheus.Counter(
    "chrek_starts_total", "Container starts by outcome and Reason.", ["outcome", "reason"]
)
UNHEALTHY = prometheus.Counter(
    "chrek_unhealthy_total", "Restored workers that died or never got ready.", ["reason"]
)
CAPTURES = prometheus.Counter(
    "chrek_captures_total", "Captures by outcome and Reason.", ["outcome", "reason"]
)
STEP_SECONDS = prometheus.Histogram(
    "chrek_step_seconds",
    "Seconds of each step of a checkpoint or a restore.",
    ["operation", "step"],
    buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300),
)
IN_FLIGHT = prometheus.Gauge("chrek_connections", "Connected chrek-init processes.")

TRANSFER_BYTES = prometheus.Counter(
    "chrek_transfer_bytes_total",
    "Bytes sent to a store on a server (up) or read from it (down).",
    ["direction"],
)
TRANSFER_SECONDS = prometheus.Histogram(
    "chrek_transfer_seconds",
    "Seconds of an upload to a store on a server, or of a download.",
    ["direction"],
    buckets=(0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 900),
)
PREFLIGHT_FAILED = prometheus.Gauge(
    "chrek_preflight_failed", "1 for each check of this node that failed, else 0.", ["check"]
)
CACHE_BYTES = prometheus.Gauge(
    "chrek_cache_bytes", "Size of what this node keeps of artifacts that are on a server."
)


def transferred(direction: str, size: int, seconds: float) -> None:
    """Count an upload or a download."""
    TRANSFER_BYTES.labels(direction=direction).inc(size)
    TRANSFER_SECONDS.labels(direction=direction).observe(seconds)


def observe(operation: str, seconds: Mapping[str, float]) -> None:
    """Count the steps of one operation."""
    for step, elapsed in seconds.items():
        STEP_SECONDS.labels(operation=operation, step=step).observe(elapsed)
