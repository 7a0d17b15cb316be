"""Captured on one node and restored on the other, with no volume that both mount."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e import documented, node, place, servers, tiny
from showcase import cluster, commands, pods, setup


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of store and what it is installed with."""

    name: str
    port: int
    settings: dict[str, object]
    location: str

    @property
    def server(self) -> str:
        """Name of its pod and service."""
        return "s3" if self.name == "s3" else "registry"


def kinds() -> list[Kind]:
    """As the guide prints them, but for the host, and that it speaks plain HTTP."""
    s3 = f"s3://s3.stores-s3.svc.cluster.local:{servers.S3_PORT}/my-bucket/checkpoints"
    oci = f"oci://registry.stores-oci.svc.cluster.local:{servers.REGISTRY_PORT}/checkpoints"
    return [
        Kind(
            "s3",
            servers.S3_PORT,
            {
                "type": "s3",
                "s3": {"uri": s3, "credentialsSecretRef": "s3-creds", "plainHttp": True},
            },
            s3,
        ),
        Kind(
            "oci",
            servers.REGISTRY_PORT,
            {
                "type": "oci",
                "oci": {"uri": oci, "credentialsSecretRef": "registry-creds", "plainHttp": True},
                "encryption": {"keySecretRef": "store-key"},
            },
            oci,
        ),
    ]


@dataclasses.dataclass(frozen=True)
class Site:
    """A release with a store of one kind."""

    at: place.Place
    kind: Kind


def serve(live: cluster.Cluster, kind: Kind, namespace: str) -> None:
    """Start the server, empty, and wait until it answers."""
    host = f"registry.{namespace}.svc.cluster.local:{kind.port}"
    objects = servers.s3("my-bucket") if kind.name == "s3" else servers.registry(host)
    for item in objects:
        live.apply(item, namespace=namespace)
    live.kubectl(
        "wait", f"--namespace={namespace}", f"pod/{kind.server}", "--for=condition=Ready",
        "--timeout=60s",
    )  # fmt: skip


@pytest.fixture(scope="module", params=kinds(), ids=lambda kind: kind.name)
def site(live: cluster.Cluster, request: pytest.FixtureRequest) -> Iterator[Site]:
    kind: Kind = request.param
    namespace = f"stores-{kind.name}"
    servers.load(live)
    live.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        namespace="default",
    )
    key = base64.b64encode(os.urandom(32)).decode()
    live.apply(servers.secret("store-key", {"key": key}), namespace=namespace)
    serve(live, kind, namespace)
    values = {"dynamo-operator.checkpoint.storage": json.dumps(kind.settings)}
    setup.install(live, namespace=namespace, values=values)
    yield Site(place.Place(live, namespace, values), kind)
    live.helm("uninstall", setup.RELEASE, f"--namespace={namespace}", "--wait")
    live.kubectl("delete", "namespace", namespace, "--timeout=60s")
    for name in ("n1", "n2"):
        look = [setup.SCRIPTS / "cluster", "exec", name, "--", "ls", "/var/lib/chrek/cache"]
        caches = commands.run(look).stdout.split()
        assert f"{namespace}-{setup.RELEASE}" not in caches, "an uninstallation leaves its cache"


def cached(site: Site, on: str) -> list[Path]:
    """Manifests in the cache of a node's agent."""
    pid = node.agent_pid(node.agent(site.at.live, site.at.namespace, on))
    return sorted(Path(f"/proc/{pid}/root/var/lib/chrek/cache").rglob("manifest.json"))


def test_captured_here_and_restored_there(site: Site) -> None:
    here = site.at
    claims = here.live.items(f"/api/v1/namespaces/{here.namespace}/persistentvolumeclaims")
    assert claims == []
    worker = tiny.Worker("tiny/remote", ballast=32)
    made = here.capture(worker, node="n1")
    status = made["status"]
    assert status["storageType"] == site.kind.name
    assert status["location"] == f"{site.kind.location}/{worker.hash}"
    with here.pod(worker.pod("there", node="n2")) as pod:
        place.assert_warm(here.live, pod)
        env = here.live.kubectl(
            "exec", f"--namespace={here.namespace}", pods.name(pod), "--", "env"
        )
        assert f"DYN_CHECKPOINT_STORAGE_TYPE={site.kind.name}" in env
        assert f"DYN_CHECKPOINT_LOCATION={status['location']}" in env
    assert len(cached(site, "n1")) == len(cached(site, "n2")) == 1
    # Also after the server has gone: both nodes have it.
    here.live.kubectl("delete", f"--namespace={here.namespace}", f"service/{site.kind.server}")
    with here.pod(worker.pod("there-again", node="n2")) as pod:
        place.assert_warm(here.live, pod)
    service = servers.service(site.kind.server, site.kind.port)
    here.live.apply(service, namespace=here.namespace)
    here.forget(worker)
    with here.pod(worker.pod("cold", node="n2")) as pod:
        place.assert_cold(here.live, pod, {"CheckpointNotFound"})


def test_what_was_deleted_on_the_server_is_missed(site: Site) -> None:
    """And not restored from nothing: the pod starts cold and says so."""
    here = site.at
    worker = tiny.Worker("tiny/remote-lost")
    here.capture(worker, node="n1")
    here.live.kubectl("delete", f"--namespace={here.namespace}", f"pod/{site.kind.server}")
    serve(here.live, site.kind, here.namespace)
    with here.pod(worker.pod("lost", node="n2")) as pod:
        place.assert_cold(here.live, pod, {"ArtifactMissing"})
    here.forget(worker)


def test_what_is_marked_is_fetched_ahead(site: Site, tmp_path: Path) -> None:
    here = site.at
    worker = tiny.Worker("tiny/remote-prewarm")
    made = here.capture(worker, node="n1")
    uuid = str(made["status"]["variants"][0]["uuid"])
    desk = documented.Desk.of(here.live, here.namespace, tmp_path / "desk", NAME=worker.hash)
    desk.type(documented.one("kubectl annotate dckpt NAME chrek.nvidia.com/prewarm=true"))
    cluster.wait_until(
        lambda: any(uuid in str(path) for path in cached(site, "n2")),
        lambda: f"{uuid} is in the cache of n2: {cached(site, 'n2')}",
        timeout=30,
    )
    here.forget(worker)


def test_the_store_gets_another_key(site: Site, tmp_path: Path) -> None:
    """While agents go on that had the old one in memory."""
    here = site.at
    worker = tiny.Worker("tiny/remote-rekey")
    made = here.capture(worker, node="n1")["status"]["variants"][0]
    desk = documented.Desk.of(here.live, here.namespace, tmp_path / "desk")
    rekey = documented.one("kubectl exec --namespace my-team ds/chrek-agent --container agent*")
    if "encryption" in site.kind.settings:
        path = f"{worker.hash}/{made['name']}/{made['uuid']}"
        lines = desk.type(rekey).splitlines()
        assert f"{path} is sealed with the new key" in lines
        assert "the older key is gone" in lines
    else:
        assert "the store is not encrypted" in desk.run(rekey).stderr
    with here.pod(worker.pod("rekeyed", node="n2")) as pod:
        place.assert_warm(here.live, pod)
    here.forget(worker)


def test_helm_test_reads_from_the_server(site: Site) -> None:
    """On the node that did not capture, where no cache can have it."""
    said = site.at.live.helm(
        "test", setup.RELEASE, f"--namespace={site.at.namespace}", "--logs", "--timeout=4m",
        timeout=300,
    )  # fmt: skip
    assert "Succeeded" in said, said
    assert "fetched from the server" in said, said
