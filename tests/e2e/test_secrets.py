"""A Secret's value is in the artifact's memory, and in nothing that is written or shown."""

from __future__ import annotations

import base64
import secrets

from e2e import place, tiny
from showcase import cluster, pods

SECRET = "hf-token"


def with_token(spec: tiny.Object) -> tiny.Object:
    source = {"secretKeyRef": {"name": SECRET, "key": "token"}}
    spec["containers"][0]["env"].append({"name": "TOKEN", "valueFrom": source})
    return spec


def pod(worker: tiny.Worker, name: str) -> tiny.Object:
    made = worker.pod(name, node="n2")
    with_token(made["spec"])
    return made


def told(here: place.Place) -> str:
    """Everything about the namespace that a person or a collector would read."""
    kinds = "events,pods,jobs,dynamocheckpoints,leases,configmaps"
    said = here.live.kubectl("get", kinds, f"--namespace={here.namespace}", "-o", "json")
    for one in here.live.items(pods.path(here.namespace)):
        said += here.live.kubectl(
            "logs", f"--namespace={here.namespace}", pods.name(one), "--all-containers", check=False
        )
    return said


def test_no_event_status_or_log_has_a_secrets_value(here: place.Place) -> None:
    """Of a capture, a warm start and a refused one, after the Secret has changed."""
    first, second = (f"canary-{secrets.token_hex(12)}" for _ in range(2))
    worker = tiny.Worker("tiny/secret")

    def set_token(value: str) -> None:
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}}
        here.live.apply({**secret, "stringData": {"token": value}}, namespace=here.namespace)

    set_token(first)
    checkpoint = worker.checkpoint(node="n1")
    with_token(checkpoint["spec"]["job"]["podTemplateSpec"]["spec"])
    here.live.apply(checkpoint, namespace=here.namespace)
    here.wait_phase(worker.hash, "Ready")
    with here.pod(pod(worker, "secret-warm")) as warm:
        place.assert_warm(here.live, warm)
        assert first in here.exec(warm, "sh", "-c", "cat /proc/[0-9]*/environ")
        set_token(second)
        with here.pod(pod(worker, "secret-cold")) as cold:
            place.assert_cold(here.live, cold, {"SecretDiffers"})
            cluster.wait_until(
                lambda: "SecretDiffers" in {e["reason"] for e in pods.events(here.live, cold)},
                "its Event",
                timeout=20,
            )
            said = told(here)
    artifact = here.artifact(worker.hash)
    written = b"".join(p.read_bytes() for p in artifact.rglob("*.json"))
    written += b"".join(p.read_bytes() for p in artifact.rglob("*.log"))
    memory = b"".join(p.read_bytes() for p in artifact.glob("criu/pages-*.img"))
    for value in (first, second):
        for form in (value, base64.b64encode(value.encode()).decode()):
            assert form not in said
            assert form.encode() not in written
    assert first.encode() in memory, "it was never in the worker: this test shows nothing"
    assert "secret-warm" in said
    assert "SecretDiffers" in said
    here.forget(worker)
    here.remove(f"secret/{SECRET}")
