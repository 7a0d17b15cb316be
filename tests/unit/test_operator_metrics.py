"""What the operator counts."""

import prometheus_client
import pytest

from chrek.operator import metrics


def count(verb, resource):
    labels = {"verb": verb, "resource": resource}
    return metrics.REGISTRY.get_sample_value("chrek_operator_api_requests_total", labels) or 0.0


@pytest.mark.parametrize(
    ("method", "path", "verb", "resource"),
    [
        ("GET", "/api/v1/namespaces/ns/pods", "list", "pods"),
        ("GET", "/api/v1/namespaces/ns/pods/p", "get", "pods"),
        ("WATCH", "/api/v1/pods", "watch", "pods"),
        ("DRY-RUN", "/api/v1/namespaces/ns/pods", "dry-run", "pods"),
        ("GET", "/api/v1/namespaces/ns", "get", "namespaces"),
        ("POST", "/apis/batch/v1/namespaces/ns/jobs", "create", "jobs"),
        ("DELETE", "/apis/batch/v1/namespaces/ns/jobs/j", "delete", "jobs"),
        (
            "PATCH",
            "/apis/nvidia.com/v1alpha1/namespaces/ns/dynamocheckpoints/c/status",
            "patch",
            "dynamocheckpoints/status",
        ),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/ns/leases/l", "update", "leases"),
        (
            "PATCH",
            "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/w",
            "patch",
            "mutatingwebhookconfigurations",
        ),
    ],
)
def test_requests_by_verb_and_resource(method, path, verb, resource):
    before = count(verb, resource)
    metrics.requested(method, path, None if method == "WATCH" else 0.02)
    assert count(verb, resource) == before + 1


def test_reconciles_by_kind_and_result():
    metrics.reconciled("thing", 0.02, failed=True)
    metrics.reconciled("thing", 0.02, failed=False)
    text = metrics.text().decode()
    for line in (
        'chrek_operator_reconciles_total{kind="thing",result="error"} 1.0',
        'chrek_operator_reconciles_total{kind="thing",result="ok"} 1.0',
        'chrek_operator_reconcile_seconds_bucket{kind="thing",le="0.01"} 0.0',
        'chrek_operator_reconcile_seconds_bucket{kind="thing",le="0.025"} 2.0',
    ):
        assert line in text


def sample(name, **labels):
    return metrics.REGISTRY.get_sample_value(f"chrek_operator_store_{name}", labels)


def test_what_the_store_holds():
    metrics.stored({"a": [1, 2], "b": [4]}, quota=10, over=0)
    metrics.stored({"a": [1]}, quota=3, over=2)
    assert (sample("bytes", namespace="a"), sample("artifacts", namespace="a")) == (1, 1)
    assert sample("bytes", namespace="b") is None
    assert (sample("quota_bytes"), sample("over_quota_bytes")) == (3, 2)


def test_latencies_of_the_api_server():
    text = "chrek_operator_api_request_seconds_count"
    before = metrics.REGISTRY.get_sample_value(text, {"verb": "delete"}) or 0.0
    metrics.requested("DELETE", "/api/v1/namespaces/ns/pods/p", 0.3)
    metrics.requested("WATCH", "/api/v1/pods", None)
    assert metrics.REGISTRY.get_sample_value(text, {"verb": "delete"}) == before + 1
    assert metrics.REGISTRY.get_sample_value(text, {"verb": "watch"}) is None


def listed(namespace, phase, *variants):
    return {
        "metadata": {"namespace": namespace},
        "status": {"phase": phase, "variants": list(variants)},
    }


def test_the_checkpoints_that_there_are():
    old = {"createdAt": "2026-01-01T00:00:00Z", "suspect": True}
    new = {"createdAt": "2026-01-02T00:00:00Z"}
    bare = {"metadata": {"namespace": "b"}}
    strange = listed("b", "Sideways", {"createdAt": "yesterday"})
    metrics.listed([listed("a", "Ready", old, new), listed("a", "Failed", old), bare, strange])

    def told(name, **labels):
        return metrics.REGISTRY.get_sample_value(f"chrek_operator_{name}", labels)

    phases = ("Pending", "Creating", "Ready", "Failed")
    assert [told("checkpoints", namespace="a", phase=one) for one in phases] == [0, 0, 1, 1]
    assert [told("checkpoints", namespace="b", phase=one) for one in phases] == [1, 0, 0, 0]
    assert told("checkpoints", namespace="b", phase="Sideways") is None
    assert [told("suspect_checkpoints", namespace=one) for one in "ab"] == [2, 0]
    oldest = told("oldest_artifact_timestamp_seconds", namespace="a")
    assert told("newest_artifact_timestamp_seconds", namespace="a") - oldest == 86400
    assert told("oldest_artifact_timestamp_seconds", namespace="b") is None
    metrics.listed([])
    assert told("suspect_checkpoints", namespace="a") is None


def test_a_scrape_has_no_series_of_when_another_began():
    metrics.requested("GET", "/api/v1/namespaces/ns/pods/p", 0.3)
    text = prometheus_client.generate_latest(metrics.REGISTRY).decode()
    assert "chrek_operator_api_request_seconds_bucket" in text
    assert "_created" not in text
