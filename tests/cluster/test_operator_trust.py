"""Certificates on a real API server: replicas race, things are deleted and damaged."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator

import msgspec
import pytest

from chrek import config, errors
from chrek.kube import api, credentials
from chrek.operator import certificates, trust
from cluster import kube
from fakes import operator

pytestmark = pytest.mark.cluster
NAME = "chrek-trust-test"
SECRET = operator.SETTINGS.certificateSecretName


@pytest.fixture(scope="module")
def place(namespaced: kube.Kube) -> Iterator[kube.Kube]:
    service = {"name": "chrek-webhook", "namespace": namespaced.namespace}
    webhook = {
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Ignore",
        "clientConfig": {"service": service},
        "namespaceSelector": {"matchLabels": {"no": "namespace"}},
    }
    namespaced.apply(
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": NAME},
            "webhooks": [{**webhook, "name": f"{name}.chrek.test"} for name in ("one", "two")],
        }
    )
    make_secret(namespaced)
    yield namespaced
    namespaced.kubectl("delete", "mutatingwebhookconfiguration", NAME)


def make_secret(place: kube.Kube) -> None:
    """As the chart does."""
    place.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}})


def ensure(place: kube.Kube, replicas: int = 1) -> None:
    """All replicas look at once, each with its own connection and memory."""
    settings: config.OperatorConfig = msgspec.structs.replace(operator.SETTINGS, webhookName=NAME)
    found = credentials.from_kubeconfig(place.where.kubeconfig)

    async def one() -> None:
        async with api.Client(found) as client:
            await trust.Trust(client, settings, namespace=place.namespace).ensure()

    async def every() -> None:
        await asyncio.gather(*(one() for _ in range(replicas)))

    asyncio.run(every())


def bundle(place: kube.Kube) -> certificates.Bundle:
    found = certificates.from_data(place.get("secret", SECRET)["data"])
    assert found is not None
    return found


def trusted(place: kube.Kube) -> set[bytes]:
    webhooks = place.get("mutatingwebhookconfiguration", NAME)["webhooks"]
    return {base64.b64decode(w["clientConfig"].get("caBundle", "")) for w in webhooks}


def test_replicas_that_race_agree(place: kube.Kube) -> None:
    ensure(place, replicas=5)
    assert trusted(place) == {bundle(place).authorities}


def test_nothing_is_written_when_nothing_is_due(place: kube.Kube) -> None:
    ensure(place)
    before = place.get("secret", SECRET)["metadata"]["resourceVersion"]
    configuration = place.get("mutatingwebhookconfiguration", NAME)["metadata"]["resourceVersion"]
    ensure(place, replicas=3)
    assert place.get("secret", SECRET)["metadata"]["resourceVersion"] == before
    after = place.get("mutatingwebhookconfiguration", NAME)["metadata"]["resourceVersion"]
    assert after == configuration


def test_a_deleted_secret_is_asked_for_and_filled_again(place: kube.Kube) -> None:
    ensure(place)
    before = bundle(place)
    place.kubectl("delete", "secret", SECRET)
    with pytest.raises(errors.ApiError, match=f"Secret {SECRET} .* is missing .*helm upgrade"):
        ensure(place)
    make_secret(place)
    ensure(place, replicas=3)
    assert bundle(place) != before
    assert trusted(place) == {bundle(place).authorities}


def test_a_damaged_secret_is_replaced(place: kube.Kube) -> None:
    ensure(place)
    damaged = json.dumps({"data": {"tls.crt": "Z2FyYmFnZQ=="}})
    place.kubectl("patch", "secret", SECRET, "--type=merge", "-p", damaged)
    ensure(place, replicas=3)
    assert trusted(place) == {bundle(place).authorities}


def test_an_overwritten_bundle_is_written_again(place: kube.Kube) -> None:
    ensure(place)
    patch = [{"op": "remove", "path": "/webhooks/1/clientConfig/caBundle"}]
    words = ["patch", "mutatingwebhookconfiguration", NAME, "--type=json", "-p", json.dumps(patch)]
    place.kubectl(*words)
    ensure(place)
    assert trusted(place) == {bundle(place).authorities}
