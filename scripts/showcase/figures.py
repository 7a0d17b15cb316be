"""The arithmetic of `scripts/bench operator`: from what was counted to what is reported."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from showcase import scrape

Object = dict[str, Any]

REQUESTS = "chrek_operator_api_requests_total"
RECONCILE = "chrek_operator_reconcile_seconds"
WRITING = ("create", "update", "patch", "delete")
LEASES = "leases"
AIMS = {
    "writes_per_checkpoint_life": 10,
    "writes_at_rest": 0,
    "peak_mebibytes": 150,
    "reconcile_median_milliseconds": 50,
}
"""What issue and design ask for, at 1,000 checkpoints and 200 graphs: at most so much."""
OF_GRAPHS = ("deployments", "dynamographdeployments", "dynamographdeployments/status")
KINDS_OF_GRAPHS = ("DynamoGraphDeployment", "Deployment")


def writes(added: scrape.Scrape) -> dict[str, int]:
    """Requests that write, by `verb resource`."""
    found = added.by(REQUESTS, "verb", "resource")
    return {
        f"{verb} {resource}": int(count)
        for (verb, resource), count in sorted(found.items())
        if verb in WRITING
    }


def of_objects(counts: Mapping[str, int]) -> dict[str, int]:
    """Writes but those of the operator's own Lease, which stand for time that passes."""
    return {key: count for key, count in counts.items() if key.split(" ")[1] != LEASES}


def per_object(
    counts: Mapping[str, int], *, events: Mapping[str, int], checkpoints: int, graphs: int
) -> Object:
    """Writes for each checkpoint and for each graph.

    Args:
        counts: by `verb resource`.
        events: number of Events by the kind of object that they are about.
        checkpoints: how many there are.
        graphs: how many there are.
    """
    of_graphs = sum(events.get(kind, 0) for kind in KINDS_OF_GRAPHS)
    of_checkpoints = 0
    for key, count in of_objects(counts).items():
        resource = key.split(" ")[1]
        if resource in OF_GRAPHS:
            of_graphs += count
        elif resource == "events":
            of_checkpoints += count - sum(events.get(kind, 0) for kind in KINDS_OF_GRAPHS)
        else:
            of_checkpoints += count
    return {
        "per_checkpoint": round(of_checkpoints / checkpoints, 2) if checkpoints else None,
        "per_graph": round(of_graphs / graphs, 2) if graphs else None,
        "by_request": of_objects(counts),
        "events_by_kind": dict(events),
    }


def spread(values: Sequence[float]) -> Object:
    """Median, 95th percentile and largest of seconds."""
    if not values:
        return {"count": 0}
    ordered = sorted(values)
    return {
        "count": len(ordered),
        "median": round(statistics.median(ordered), 4),
        "p95": round(ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 4),
        "largest": round(ordered[-1], 4),
    }


def reconciles(added: scrape.Scrape) -> Object:
    """Time to handle one object, by kind and of all; quantiles as far as the buckets tell."""
    kinds = sorted(kind for (kind,) in added.by(f"{RECONCILE}_count", "kind"))
    made = {kind: _distribution(added.histogram(RECONCILE, kind=kind)) for kind in kinds}
    return {"all": _distribution(added.histogram(RECONCILE)), **made}


def reconciled(found: scrape.Scrape) -> int:
    """How many times an object was handled."""
    return int(found.histogram(RECONCILE).count)


def _distribution(found: scrape.Histogram) -> Object:
    median, p95 = found.quantile(0.5), found.quantile(0.95)
    return {
        "count": int(found.count),
        "mean": round(found.seconds / found.count, 5) if found.count else None,
        "median": None if median is None else round(median, 5),
        "p95": None if p95 is None else round(p95, 5),
    }


def headline(report: Mapping[str, Any]) -> Object:
    """The figures that matter."""
    converged, rest, floor = report["converged"], report["rest"], report["floor"]
    reconcile, restart = converged["reconcile_seconds"]["all"], report["restart"]
    total = sum(report["writes"]["by_request"].values())
    until_ready = report["writes"]["per_checkpoint"]
    deletion = report["deletion"]["writes_per_checkpoint"]
    api_seconds = total / floor["api_writes_per_second"]
    return {
        "checkpoints": report["load"]["checkpoints"],
        "graphs": report["load"]["graphs"],
        "converge_seconds": converged["seconds"],
        "converge_of_bare_loop": round(converged["seconds"] / floor["seconds"], 2),
        "all_jobs_created_seconds": converged["jobs_created_seconds"],
        "all_writes_of_bare_loop_seconds": round(api_seconds, 2),
        "ready_after_pod_succeeded_median_seconds": converged["ready_after_pod_succeeded_seconds"][
            "median"
        ],
        "operator_cpu_seconds": converged["cpu_seconds"],
        "operator_cpu_milliseconds_per_write": round(1000 * converged["cpu_seconds"] / total, 2),
        "peak_mebibytes": _mebibytes(max(converged["peak_bytes"], restart["peak_bytes"])),
        "converge_peak_mebibytes": _mebibytes(converged["peak_bytes"]),
        "restart_peak_mebibytes": _mebibytes(restart["peak_bytes"]),
        "at_rest_mebibytes": _mebibytes(rest["resident_bytes"]),
        "writes_per_checkpoint_life": round(until_ready + deletion, 2),
        "writes_per_checkpoint_until_ready": until_ready,
        "writes_per_checkpoint_deletion": deletion,
        "writes_per_graph": report["writes"]["per_graph"],
        "writes_at_rest": sum(rest["writes"].values()),
        "cpu_at_rest_percent": round(100 * rest["cpu_seconds"] / rest["seconds"], 2),
        "reconcile_median_milliseconds": round(1000 * reconcile["median"], 2),
        "reconcile_p95_milliseconds": round(1000 * reconcile["p95"], 2),
        "status_after_create_median_milliseconds": round(
            1000 * report["reaction"]["first_status_after_create_seconds"]["median"], 1
        ),
    }


def aims(figures: Mapping[str, Any]) -> Object:
    """Each aim, what came out and whether that is within it."""
    return {
        name: {"aim": most, "found": figures[name], "met": figures[name] <= most}
        for name, most in AIMS.items()
    }


def _mebibytes(size: int) -> float:
    return round(size / (1 << 20), 1)
