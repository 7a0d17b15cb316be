"""The operator's metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import prometheus_client

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

VERBS = {
    "POST": "create",
    "PUT": "update",
    "PATCH": "patch",
    "DELETE": "delete",
    "WATCH": "watch",
    "DRY-RUN": "dry-run",
}


def reconciled(kind: str, seconds: float, failed: bool) -> None:
    """Count one handled object."""
    RECONCILES.labels(kind, "error" if failed else "ok").inc()
    RECONCILE_SECONDS.labels(kind).observe(seconds)


def requested(method: str, path: str) -> None:
    """Count one request to the API server.

    Args:
        method: of HTTP, or `WATCH`, or `DRY-RUN` for what the server only checks.
        path: of the URL.
    """
    resource, named = _resource(path)
    verb = VERBS.get(method) or ("get" if named else "list")
    API_REQUESTS.labels(verb, resource).inc()


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


def _resource(path: str) -> tuple[str, bool]:
    """`pods` or `pods/status`, and whether the path names one object."""
    parts = path.strip("/").split("/")
    parts = parts[2 if parts[0] == "api" else 3 :]
    if parts[:1] == ["namespaces"] and len(parts) > 2:
        parts = parts[2:]
    return "/".join([*parts[:1], *parts[2:3]]), len(parts) > 1


def text() -> bytes:
    """All metrics in Prometheus' text format."""
    return prometheus_client.generate_latest(REGISTRY)
