"""What a cluster of two nodes must offer to what runs on it, and to this machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import subprocess
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from cluster import kube, toolbox
from devcluster import addresses, cache

pytestmark = pytest.mark.cluster

PORT = 8080


def pod(name: str, node: str, script: str, image: str = toolbox.REFERENCE) -> kube.Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "main",
                    "image": image,
                    "command": ["/bin/sh", "-c", script],
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                }
            ],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        },
    }


def claim(name: str) -> kube.Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }


@pytest.fixture(scope="module")
def cluster(namespaced: kube.Kube) -> kube.Kube:
    """Pods a on n1 and b on n2 that serve their own folder, a claim both have, a service of a."""
    serve = (
        "mkdir -p /www && echo {0} >/www/who && echo {0} started && exec httpd -f -p {1} -h /www"
    )
    namespaced.apply(
        claim("data"),
        pod("a", "n1", serve.format("a", PORT)),
        pod("b", "n2", serve.format("b", PORT)),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {"selector": {"app": "a"}, "ports": [{"port": 80, "targetPort": PORT}]},
        },
    )
    namespaced.ready("a", "b")
    return namespaced


def service_address(cluster: kube.Kube) -> str:
    address: str = cluster.get("service", "web")["spec"]["clusterIP"]
    return address


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  # an address of our own
        text: str = answer.read().decode()
    return text.strip()


def test_status_says_that_all_is_well(running: kube.Kube, command: Path) -> None:
    done = subprocess.run([command, "status"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "node n2" in done.stdout


def test_up_again_changes_nothing(running: kube.Kube, command: Path) -> None:
    before = {path.name: path.read_text() for path in running.where.run.iterdir()}
    subprocess.run([command, "up"], check=True)
    assert {path.name: path.read_text() for path in running.where.run.iterdir()} == before


@pytest.mark.parametrize(("client", "server"), [("a", "b"), ("b", "a")])
def test_pods_reach_each_other_across_nodes(cluster: kube.Kube, client: str, server: str) -> None:
    url = f"http://{cluster.address(server)}:{PORT}/who"
    assert cluster.inside(client, "wget", "-qO-", url).strip() == server


def test_pod_keeps_its_address_on_the_way_to_another_node(cluster: kube.Kube) -> None:
    # The connection stays open on the server while its peer is looked at.
    script = f"sleep 3 | nc {cluster.address('b')} {PORT}"
    with subprocess.Popen(cluster.argv("exec", "a", "--", "sh", "-c", script)) as client:
        peer = "".join(f"{int(part):02X}" for part in reversed(cluster.address("a").split(".")))
        cluster.wait(
            lambda: (
                f"0000000000000000FFFF0000{peer}" in cluster.inside("b", "cat", "/proc/net/tcp6")
            ),
            "b sees a's own address",
            seconds=5,
        )
        client.wait(timeout=20)


@pytest.mark.parametrize("client", ["a", "b"])
def test_service_is_reached_from_both_nodes_and_from_its_own_pod(
    cluster: kube.Kube, client: str
) -> None:
    url = f"http://{service_address(cluster)}/who"
    assert cluster.inside(client, "wget", "-qO-", url).strip() == "a"


def test_host_reaches_pods_and_services(cluster: kube.Kube) -> None:
    assert fetch(f"http://{cluster.address('b')}:{PORT}/who") == "b"
    assert fetch(f"http://{service_address(cluster)}/who") == "a"


@pytest.mark.parametrize("client", ["a", "b"])
def test_pods_resolve_services_by_every_name(cluster: kube.Kube, client: str) -> None:
    name = f"web.{cluster.namespace}.svc.{addresses.CLUSTER_DOMAIN}"
    assert service_address(cluster) in cluster.inside(client, "nslookup", name)
    assert cluster.inside(client, "wget", "-qO-", "http://web/who").strip() == "a"
    assert addresses.HOST in cluster.inside(client, "nslookup", addresses.REGISTRY_NAME)


def test_api_server_reaches_a_pod_through_its_service(cluster: kube.Kube) -> None:
    path = f"/api/v1/namespaces/{cluster.namespace}/services/web:80/proxy/who"
    assert cluster.kubectl("get", "--raw", path).strip() == "a"


def test_api_server_calls_a_webhook_in_a_pod(cluster: kube.Kube) -> None:
    name = f"{cluster.namespace}.chrek.test"
    cluster.apply(
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": name},
            "webhooks": [
                {
                    "name": name,
                    "sideEffects": "None",
                    "admissionReviewVersions": ["v1"],
                    "failurePolicy": "Fail",
                    "timeoutSeconds": 5,
                    "clientConfig": {
                        "service": {"namespace": cluster.namespace, "name": "web", "port": 80}
                    },
                    "objectSelector": {"matchLabels": {"webhook": "please"}},
                    "rules": [
                        {
                            "apiGroups": [""],
                            "apiVersions": ["v1"],
                            "operations": ["CREATE"],
                            "resources": ["configmaps"],
                        }
                    ],
                }
            ],
        }
    )
    wanted = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "asked", "labels": {"webhook": "please"}},
    }

    def refusal() -> str:
        try:
            cluster.kubectl("create", "-f", "-", text=json.dumps(wanted))
        except kube.RefusedError as err:
            return str(err)
        cluster.kubectl("delete", "configmap", "asked")
        return ""

    try:
        # The pod speaks no TLS: that it says so shows that the call arrived there.
        cluster.wait(
            lambda: "server gave HTTP response to HTTPS client" in refusal(), "the pod was called"
        )
    finally:
        cluster.kubectl("delete", "validatingwebhookconfiguration", name)


def test_logs(cluster: kube.Kube) -> None:
    assert cluster.kubectl("logs", "a").strip() == "a started"
    assert cluster.kubectl("logs", "b").strip() == "b started"


def test_exec_passes_input_and_exit_status(cluster: kube.Kube) -> None:
    assert cluster.kubectl("exec", "-i", "b", "--", "cat", text="through") == "through"
    with pytest.raises(kube.RefusedError, match="exit code 7"):
        cluster.inside("b", "sh", "-c", "exit 7")


def test_port_forward(cluster: kube.Kube) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = cluster.argv("port-forward", "pod/b", f"{port}:{PORT}")
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as forward:
        try:

            def answers() -> bool:
                with contextlib.suppress(urllib.error.URLError):
                    return fetch(f"http://127.0.0.1:{port}/who") == "b"
                return False

            cluster.wait(answers, "the forwarded port answers", seconds=10)
        finally:
            forward.terminate()


def test_volume_is_shared_by_the_nodes_and_the_host(cluster: kube.Kube) -> None:
    cluster.inside("a", "sh", "-c", "echo from-a >/data/note")
    assert cluster.inside("b", "cat", "/data/note").strip() == "from-a"
    volume = cluster.get("pvc", "data")["spec"]["volumeName"]
    assert (cluster.where.volumes / volume / "note").read_text().strip() == "from-a"
    assert cluster.get("pvc", "data")["spec"]["storageClassName"] == "shared"


def test_volume_goes_with_its_claim(cluster: kube.Kube) -> None:
    cluster.apply(claim("passing"))
    cluster.wait(
        lambda: cluster.get("pvc", "passing")["status"]["phase"] == "Bound", "the claim is bound"
    )
    volume = cluster.get("pvc", "passing")["spec"]["volumeName"]
    assert (cluster.where.volumes / volume).is_dir()
    cluster.kubectl("delete", "pvc", "passing")
    cluster.wait(lambda: not (cluster.where.volumes / volume).exists(), "the folder is gone")
    cluster.wait(
        lambda: volume not in cluster.kubectl("get", "pv", "-o", "name"), "the volume is gone"
    )


def test_block_volume_is_refused_with_a_reason(cluster: kube.Kube) -> None:
    wanted = claim("block")
    wanted["spec"]["volumeMode"] = "Block"
    cluster.apply(wanted)
    try:
        cluster.wait(
            lambda: (
                "volumeMode Block is not supported" in cluster.kubectl("describe", "pvc", "block")
            ),
            "an event says why",
        )
    finally:
        cluster.kubectl("delete", "pvc", "block")


def test_service_account_token_names_the_node(cluster: kube.Kube) -> None:
    cluster.inside("a", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
    token = cluster.inside("a", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token")
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token},
    }
    path = "/apis/authentication.k8s.io/v1/tokenreviews"
    answer = json.loads(
        cluster.kubectl("create", "--raw", path, "-f", "-", text=json.dumps(review))
    )
    assert answer["status"]["user"]["extra"]["authentication.kubernetes.io/node-name"] == ["n1"]


def test_node_measures_its_disks(cluster: kube.Kube) -> None:
    summary = json.loads(cluster.kubectl("get", "--raw", "/api/v1/nodes/n1/proxy/stats/summary"))
    assert summary["node"]["fs"]["capacityBytes"] > 0


def push(archive: Path, name: str) -> None:
    """Put an archive of one layer into the registry."""
    registry = f"http://{addresses.HOST}:{addresses.REGISTRY_PORT}"

    def send(method: str, url: str, body: bytes, kind: str) -> str:
        request = urllib.request.Request(url, body, {"Content-Type": kind}, method=method)  # noqa: S310
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            location: str = answer.headers.get("Location", "")
        return location

    def blob(content: bytes, kind: str) -> kube.Object:
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        location = send("POST", f"{registry}/v2/{name}/blobs/uploads/", b"", kind)
        joint = "&" if "?" in location else "?"
        send("PUT", f"{location}{joint}digest={digest}", content, "application/octet-stream")
        return {"mediaType": kind, "size": len(content), "digest": digest}

    with tarfile.open(archive) as tar:

        def part(member: str) -> bytes:
            content = tar.extractfile(member)
            assert content is not None
            return content.read()

        entry = json.loads(part("manifest.json"))[0]
        docker = "application/vnd.docker"
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{docker}.distribution.manifest.v2+json",
            "config": blob(part(entry["Config"]), f"{docker}.container.image.v1+json"),
            "layers": [
                blob(part(layer), f"{docker}.image.rootfs.diff.tar") for layer in entry["Layers"]
            ],
        }
    kind = f"{docker}.distribution.manifest.v2+json"
    send("PUT", f"{registry}/v2/{name}/manifests/1", json.dumps(manifest).encode(), kind)


def test_nodes_pull_from_the_registry(
    cluster: kube.Kube, where: cache.Cache, tmp_path: Path
) -> None:
    push(toolbox.write(where, tmp_path / "toolbox.tar"), "pulled")
    image = f"{addresses.REGISTRY_NAME}:{addresses.REGISTRY_PORT}/pulled:1"
    wanted = pod("pulled", "n2", "exec sleep 600", image)
    wanted["spec"]["containers"][0]["imagePullPolicy"] = "Always"
    cluster.apply(wanted)
    cluster.ready("pulled")


def test_exec_enters_a_node(running: kube.Kube, command: Path) -> None:
    argv = [f"{command}", "exec", "n2", "--", "hostname"]
    assert subprocess.check_output(argv, text=True).strip() == "n2"
