"""The agent's Prometheus metrics."""

from __future__ import annotations

from collections.abc import Mapping

import prometheus_client as prometheus

from chrek import names
from chrek.kube import verbs

# Of each counter and histogram a further series that nobody asks for.
prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]

STARTS = prometheus.Counter(
    "chrek_starts_total", "Container starts by outcome and Reason.", ["outcome", "reason"]
)
COLD_DESPITE_READY = prometheus.Counter(
    "chrek_cold_despite_ready_total",
    "Cold starts by Reason although the DynamoCheckpoint was Ready.",
    ["reason"],
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
RESTORED_BYTES = prometheus.Counter(
    "chrek_restored_bytes_total", "Size of the artifacts that workers were restored from."
)
CAPTURED_BYTES = prometheus.Counter(
    "chrek_captured_bytes_total", "Size of the artifacts that were captured."
)
IN_FLIGHT = prometheus.Gauge("chrek_connections", "Connected chrek-init processes.")
WAITING = prometheus.Gauge(
    "chrek_operations_waiting", "Dumps and restores that wait for their turn.", ["operation"]
)
RUNNING = prometheus.Gauge(
    "chrek_operations_running", "Dumps and restores that are under way.", ["operation"]
)
READY = prometheus.Gauge("chrek_agent_ready", "1 when this agent can restore and capture, else 0.")

STORE_ERRORS = prometheus.Counter(
    "chrek_store_errors_total",
    "Times that the store, or an artifact in it, could not be used, by what it was used for: "
    "open, restore, capture or prewarm.",
    ["operation", "reason"],
)
STORE_RETRIES = prometheus.Counter(
    "chrek_store_retries_total",
    "Requests to a store on a server that chrek sent once more, by kind: get, list, put or delete.",
    ["operation"],
)
API_SECONDS = prometheus.Histogram(
    "chrek_api_request_seconds",
    "Seconds until the API server answered the agent, failed requests too; no watches.",
    ["verb"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)

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


_REASONS = frozenset(map(str, names.Reason))
_STORE_REASONS = names.LOST_ARTIFACT | {
    names.Reason.STORE_FAILED,
    names.Reason.STORE_DENIED,
    names.Reason.STORE_UNREACHABLE,
    names.Reason.NOT_ENOUGH_SPACE,
}


def known(reason: str) -> str:
    """A Reason, so that a label has no more values than there are of them."""
    return reason if reason in _REASONS else names.Reason.INTERNAL_ERROR.value


def went_cold(reason: str, *, ready: bool, artifact: bool = False) -> None:
    """Count a cold start.

    Args:
        ready: what the pod names was Ready.
        artifact: an artifact was chosen before.
    """
    STARTS.labels(outcome="cold", reason=known(reason)).inc()
    if ready:
        COLD_DESPITE_READY.labels(reason=known(reason)).inc()
    if artifact:
        store_failed("open", reason)


def restored(size: int, seconds: Mapping[str, float]) -> None:
    """Count a warm start."""
    STARTS.labels(outcome="restored", reason=names.Reason.RESTORED).inc()
    RESTORED_BYTES.inc(size)
    observe("restore", seconds)


def restore_failed(reason: str) -> None:
    """Count a start whose restore failed."""
    STARTS.labels(outcome="failed", reason=known(reason)).inc()
    store_failed("restore", reason)


def captured(size: int, seconds: Mapping[str, float]) -> None:
    """Count a capture."""
    CAPTURES.labels(outcome="captured", reason=names.Reason.CHECKPOINTED).inc()
    CAPTURED_BYTES.inc(size)
    observe("checkpoint", seconds)


def store_failed(operation: str, reason: str) -> None:
    """Count a failure, if it is one of the store."""
    if reason in _STORE_REASONS:
        STORE_ERRORS.labels(operation=operation, reason=reason).inc()


def retried(operation: str) -> None:
    """Count a request to a store that is sent again."""
    STORE_RETRIES.labels(operation=operation).inc()


def requested(method: str, path: str, seconds: float | None) -> None:
    """Count a request to the API server; see `kube.client`."""
    if seconds is not None:
        API_SECONDS.labels(verb=verbs.of(method, path)[0]).observe(seconds)


def transferred(direction: str, size: int, seconds: float) -> None:
    """Count an upload or a download."""
    TRANSFER_BYTES.labels(direction=direction).inc(size)
    TRANSFER_SECONDS.labels(direction=direction).observe(seconds)


def observe(operation: str, seconds: Mapping[str, float]) -> None:
    """Count the steps of one operation."""
    for step, elapsed in seconds.items():
        STEP_SECONDS.labels(operation=operation, step=step).observe(elapsed)
