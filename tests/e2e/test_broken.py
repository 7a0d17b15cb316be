"""What goes wrong on a node, at the store or between the components, and what its user reads.

What a cluster or a namespace lacks before an installation is in tests/chart/broken.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import pytest

from e2e import documented, place, servers
from showcase import cluster, commands, setup

NAMESPACE = "broken-team"
HERE = f"--namespace={NAMESPACE}"
FAILED_CHECKS = 3

Object = dict[str, Any]


def doctor(live: cluster.Cluster, namespace: str = NAMESPACE) -> tuple[int, str]:
    """Exit status and output of `chrek doctor`."""
    program = [sys.executable, "-c", "from chrek.cli import main; main()", "doctor"]
    done = commands.run(
        [*program, "-n", namespace],
        check=False,
        timeout=120,
        environment={"KUBECONFIG": os.fspath(live.kubeconfig)},
    )
    return done.returncode, done.stdout + done.stderr


def wait_said(live: cluster.Cluster, *words: str, timeout: float = 60) -> str:
    """The output of `chrek doctor` once it fails and says all of this."""
    last = [""]

    def said() -> bool:
        status, last[0] = doctor(live)
        return status == FAILED_CHECKS and all(word in last[0] for word in words)

    cluster.wait_until(said, lambda: f"{words}\n{last[0]}", timeout=timeout)
    return last[0]


def wait_well(live: cluster.Cluster) -> None:
    last = [""]

    def well() -> bool:
        status, last[0] = doctor(live)
        return status == 0

    cluster.wait_until(well, lambda: last[0], timeout=90)


def install(live: cluster.Cluster, namespace: str, *options: str) -> str:
    """What helm says to an installation that does not come up."""
    return live.helm(
        "install", setup.RELEASE, str(setup.CHART), f"--namespace={namespace}",
        "--create-namespace", "--timeout=3m", "--set=hooks.timeoutSeconds=20",
        "--set=storage.pvc.size=1Gi", *setup.chart_images(), *options, check=False,
    )  # fmt: skip


@contextlib.contextmanager
def gone_afterwards(live: cluster.Cluster, namespace: str) -> Iterator[None]:
    try:
        yield
    finally:
        live.helm("uninstall", setup.RELEASE, f"--namespace={namespace}", "--wait", check=False)
        live.kubectl("delete", "namespace", namespace, "--timeout=60s")


@pytest.fixture(scope="module")
def release(here: place.Place) -> Iterator[cluster.Cluster]:
    """A release of its own, for tests to break."""
    with gone_afterwards(here.live, NAMESPACE):
        setup.install(here.live, namespace=NAMESPACE, values={"storage.pvc.size": '"1Gi"'})
        wait_well(here.live)
        yield here.live


def test_the_api_server_does_not_reach_the_webhook(release: cluster.Cluster) -> None:
    service = f"/api/v1/namespaces/{NAMESPACE}/services/chrek-webhook"
    before = (release.get(service) or {})["spec"]["selector"]
    release.merge(service, {"spec": {"selector": {"no": "operator"}}})
    try:
        # The API server keeps a connection that it has.
        release.kubectl("rollout", "restart", "deployment/chrek-operator", HERE)
        release.kubectl("rollout", "status", "deployment/chrek-operator", HERE, "--timeout=90s")
        said = wait_said(release, "fail  webhook", "does not reach the webhook: a pod in broken-te")
        assert "let the API server connect to TCP port 9443 of the operator's pods" in said
    finally:
        release.merge(service, {"spec": {"selector": {**before, "no": None}}})
    wait_well(release)


@pytest.mark.heavy
def test_an_image_that_no_node_can_pull(release: cluster.Cluster) -> None:
    release.kubectl("set", "image", "daemonset/chrek-agent", "agent=chrek:none", HERE)
    try:
        said = wait_said(release, "fail  agents", "ImagePull")
        assert "an older agent still runs" in said, said
    finally:
        release.kubectl("rollout", "undo", "daemonset/chrek-agent", HERE)
    release.kubectl("rollout", "status", "daemonset/chrek-agent", HERE, "--timeout=90s")
    wait_well(release)


def test_a_store_that_cannot_be_written(release: cluster.Cluster) -> None:
    volume = place.Place(release, NAMESPACE).volume()
    commands.run(["chattr", "+i", volume])
    try:
        release.kubectl("delete", "pods", HERE, "-l", "app.kubernetes.io/component=agent")
        said = wait_said(release, "fail  agents", "store: mkdir /checkpoints/.preflight-n1-")
        assert "EPERM: Operation not permitted" in said
        assert "let root of the nodes write there" in said
    finally:
        commands.run(["chattr", "-i", volume])
    # Agents look again by themselves.
    wait_well(release)


def a_file_as_signal_path(live: cluster.Cluster) -> str:
    namespace, path = "broken-node", "/var/lib/chrek-broken"
    on_node = [setup.SCRIPTS / "cluster", "exec", "n2", "--"]
    commands.run([*on_node, "touch", path])
    try:
        with gone_afterwards(live, namespace):
            try:
                return install(
                    live, namespace,
                    f"--set=dynamo-operator.checkpoint.storage.signalHostPath={path}/signals",
                )  # fmt: skip
            finally:
                commands.run([*on_node, "rm", path])
    finally:
        # As soon as there was no file, the kubelet made the folder.
        commands.run([*on_node, "rm", "-rf", path])


def no_such_storage_class(live: cluster.Cluster) -> tuple[str, str, Object]:
    namespace = "broken-words"
    with gone_afterwards(live, namespace):
        said = install(live, namespace, "--set=storage.pvc.storageClassName=none-such")
        (pod,) = live.items(
            f"/api/v1/namespaces/{namespace}/pods?labelSelector=app.kubernetes.io%2Fcomponent%3Dhooks"
        )
        with tempfile.TemporaryDirectory() as folder:
            desk = documented.Desk.of(live, namespace, Path(folder))
            command = documented.one("kubectl logs job/<fullname>-pre-install")
            log = desk.filled(**{"<fullname>": setup.RELEASE}).type(command)
        return said, log, pod["status"]["containerStatuses"][0]["state"]["terminated"]


@pytest.fixture(scope="module", autouse=True)
def attempts(
    live: cluster.Cluster, request: pytest.FixtureRequest
) -> Iterator[dict[str, futures.Future[Any]]]:
    """Installations that come to nothing, each in its namespace, while other tests wait."""
    begun = {
        test_a_signal_path_that_is_a_file.__name__: a_file_as_signal_path,
        test_the_word_of_a_hook_is_left_where_it_can_be_found.__name__: no_such_storage_class,
    }
    wanted = {item.name for item in request.session.items if item.path.name == "test_broken.py"}
    with futures.ThreadPoolExecutor(len(begun)) as pool:
        yield {name: pool.submit(one, live) for name, one in begun.items() if name in wanted}


def test_a_signal_path_that_is_a_file(attempts: dict[str, futures.Future[str]]) -> None:
    """On one node of two: helm names it, with what the kubelet says."""
    said = attempts[test_a_signal_path_that_is_a_file.__name__].result()
    assert "1 of 2 nodes have a ready agent; n2: " in said, said
    assert 'MountVolume.SetUp failed for volume "signals"' in said
    assert re.search(r"mkdir /var/lib/chrek-broken: not a directory|is not a directory", said)
    assert "mend the agent on n2" in said


def test_the_word_of_a_hook_is_left_where_it_can_be_found(
    attempts: dict[str, futures.Future[tuple[str, str, Object]]],
) -> None:
    """The last line is the pod's termination message, for when helm's output is gone."""
    name = test_the_word_of_a_hook_is_left_where_it_can_be_found.__name__
    said, log, ended = attempts[name].result()
    assert "pre-install: storage failed: StorageClass 'none-such': not found" in said, said
    assert "pre-install: storage failed: StorageClass 'none-such': not found" in log, log
    assert ended["exitCode"] == FAILED_CHECKS
    assert ended["message"].startswith("pre-install: storage failed: StorageClass 'none-such'")


@pytest.mark.heavy
def test_credentials_that_the_server_does_not_take(live: cluster.Cluster) -> None:
    """The Secret is there, with the keys that are needed: only an agent can tell."""
    namespace = "broken-store"
    servers.load(live)
    live.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        namespace="default",
    )
    with gone_afterwards(live, namespace):
        for item in servers.s3("my-bucket"):
            live.apply(item, namespace=namespace)
        keys = {"AWS_ACCESS_KEY_ID": servers.KEY_ID, "AWS_SECRET_ACCESS_KEY": "wrong"}
        live.apply(servers.secret("s3-creds", keys), namespace=namespace)
        live.kubectl(
            "wait", f"--namespace={namespace}", "pod/s3", "--for=condition=Ready", "--timeout=60s"
        )
        uri = f"s3://s3.{namespace}.svc.cluster.local:{servers.S3_PORT}/my-bucket/checkpoints"
        store = {
            "type": "s3",
            "s3": {"uri": uri, "credentialsSecretRef": "s3-creds", "plainHttp": True},
        }
        said = install(
            live, namespace, f"--set-json=dynamo-operator.checkpoint.storage={json.dumps(store)}"
        )
        assert "0 of 2 nodes have a ready agent; n1: store: " in said, said
        assert "my-bucket" in said
        status, told = doctor(live, namespace)
        assert status == FAILED_CHECKS
        assert "store: " in told
