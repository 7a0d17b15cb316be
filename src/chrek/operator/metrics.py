"""The operator's metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import prometheus_client

from chrek import names
from chrek.kube import verbs
from chrek.operator import conditions

# Of each counter and histogram a further series that nobody asks for.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

REGISTRY = prometheus_client.CollectorRegistry()

LEADING = prometheus_client.Gauge(
    "chrek_operator_leading", "1 on the replica that reconciles.", registry=REGISTRY
)
RECONCILES = prometheus_client.Counter(
    "chrek_operator_reconciles",
    "Objects looked at.",
    ["kind", "result"],
    registry=REGISTRY,
)
RECONCILE_SECONDS = prometheus_client.Histogram(
    "chrek_operator_reconcile_seconds",
    "Time to handle one object.",
    ["kind"],
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0),
    registry=REGISTRY,
)
ADMISSIONS = prometheus_client.Counter(
    "chrek_operator_admissions",
    "Pods reviewed, by what became of them: injected, unchanged or the reason.",
    ["outcome"],
    registry=REGISTRY,
)
ADMISSION_SECONDS = prometheus_client.Histogram(
    "chrek_operator_admission_seconds",
    "Time to review one pod.",
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0),
    registry=REGISTRY,
)

API_REQUESTS = prometheus_client.Counter(
    "chrek_operator_api_requests",
    "Requests sent to the API server, those that are tried again and failed ones too.",
    ["verb", "resource"],
    registry=REGISTRY,
)

API_SECONDS = prometheus_client.Histogram(
    "chrek_operator_api_request_seconds",
    "Seconds until the API server answered the operator, failed requests too; no watches.",
    ["verb"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
    registry=REGISTRY,
)

CHECKPOINTS = prometheus_client.Gauge(
    "chrek_operator_checkpoints",
    "DynamoCheckpoints by phase.",
    ["namespace", "phase"],
    registry=REGISTRY,
)
SUSPECT = prometheus_client.Gauge(
    "chrek_operator_suspect_checkpoints",
    "DynamoCheckpoints with an artifact that is Suspect.",
    ["namespace"],
    registry=REGISTRY,
)
OLDEST = prometheus_client.Gauge(
    "chrek_operator_oldest_artifact_timestamp_seconds",
    "When the oldest artifact that is listed was captured.",
    ["namespace"],
    registry=REGISTRY,
)
NEWEST = prometheus_client.Gauge(
    "chrek_operator_newest_artifact_timestamp_seconds",
    "When the newest artifact that is listed was captured.",
    ["namespace"],
    registry=REGISTRY,
)

STORE_BYTES = prometheus_client.Gauge(
    "chrek_operator_store_bytes",
    "Size of the artifacts that the DynamoCheckpoints of a namespace list.",
    ["namespace"],
    registry=REGISTRY,
)
STORE_ARTIFACTS = prometheus_client.Gauge(
    "chrek_operator_store_artifacts", "How many they are.", ["namespace"], registry=REGISTRY
)
STORE_QUOTA_BYTES = prometheus_client.Gauge(
    "chrek_operator_store_quota_bytes",
    "What all of them together may take; 0 without a quota.",
    registry=REGISTRY,
)
STORE_OVER_BYTES = prometheus_client.Gauge(
    "chrek_operator_store_over_quota_bytes",
    "What the quota is passed by and may not go.",
    registry=REGISTRY,
)
PRUNED = prometheus_client.Counter(
    "chrek_operator_pruned_artifacts",
    "Artifacts that housekeeping took out, by why: unused or quota.",
    ["reason"],
    registry=REGISTRY,
)


def reconciled(kind: str, seconds: float, failed: bool) -> None:
    """Count one handled object."""
    RECONCILES.labels(kind, "error" if failed else "ok").inc()
    RECONCILE_SECONDS.labels(kind).observe(seconds)


def requested(method: str, path: str, seconds: float | None) -> None:
    """Count one request to the API server.

    Args:
        method: of HTTP, or `WATCH`, or `DRY-RUN` for what the server only checks.
        path: of the URL.
        seconds: that it took; None for a watch.
    """
    verb, resource = verbs.of(method, path)
    API_REQUESTS.labels(verb, resource).inc()
    if seconds is not None:
        API_SECONDS.labels(verb).observe(seconds)


def stored(by_namespace: Mapping[str, Sequence[int]], *, quota: int, over: int) -> None:
    """Tell what the store holds.

    Args:
        by_namespace: sizes of the artifacts in bytes.
        quota: of all, in bytes; 0 for none.
        over: bytes beyond it that may not go.
    """
    STORE_BYTES.clear()
    STORE_ARTIFACTS.clear()
    for namespace, sizes in by_namespace.items():
        STORE_BYTES.labels(namespace).set(sum(sizes))
        STORE_ARTIFACTS.labels(namespace).set(len(sizes))
    STORE_QUOTA_BYTES.set(quota)
    STORE_OVER_BYTES.set(over)


def listed(checkpoints: Iterable[Mapping[str, Any]]) -> None:
    """Tell of the DynamoCheckpoints that there are."""
    for gauge in (CHECKPOINTS, SUSPECT, OLDEST, NEWEST):
        gauge.clear()
    made: dict[str, list[float]] = {}
    for item in checkpoints:
        namespace, status = item["metadata"]["namespace"], item.get("status") or {}
        if namespace not in made:
            made[namespace] = []
            SUSPECT.labels(namespace).set(0)
            for phase in names.Phase:
                CHECKPOINTS.labels(namespace, phase).set(0)
        phase = status.get("phase") or names.Phase.PENDING
        if phase in list(names.Phase):
            CHECKPOINTS.labels(namespace, phase).inc()
        variants = status.get("variants") or []
        SUSPECT.labels(namespace).inc(any(one.get("suspect") for one in variants))
        ages = (conditions.parse(one.get("createdAt")) for one in variants)
        made[namespace] += [at.timestamp() for at in ages if at]
    for namespace, times in made.items():
        if times:
            OLDEST.labels(namespace).set(min(times))
            NEWEST.labels(namespace).set(max(times))


def text() -> bytes:
    """All metrics in Prometheus' text format."""
    return prometheus_client.generate_latest(REGISTRY)
