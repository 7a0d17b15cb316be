"""Fresh nodes are tainted until their agent is ready: `agent.startupTaint`."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from e2e import place
from showcase import cluster, pods, setup

NAMESPACE = "tainted-team"
TAINT = "chrek.test/agent-not-ready"
OTHER = "chrek.test/something-else"


def taints(live: cluster.Cluster, node: str) -> list[str]:
    found = live.get(f"/api/v1/nodes/{node}") or {}
    return sorted(taint["key"] for taint in found["spec"].get("taints") or [])


@pytest.fixture(scope="module")
def tainted(here: place.Place) -> Iterator[cluster.Cluster]:
    """A release of its own; node n2 had the taint when it was installed."""
    live = here.live
    live.kubectl("taint", "nodes", "n2", f"{TAINT}=:NoSchedule", f"{OTHER}=:PreferNoSchedule")
    try:
        setup.install(
            live,
            namespace=NAMESPACE,
            values={"storage.pvc.size": '"1Gi"', "agent.startupTaint": json.dumps(TAINT)},
        )
        yield live
    finally:
        for key in (TAINT, OTHER):
            live.kubectl("taint", "nodes", "--all", f"{key}-", check=False)
        live.helm("uninstall", setup.RELEASE, f"--namespace={NAMESPACE}", "--wait", check=False)
        live.kubectl("delete", "namespace", NAMESPACE, "--timeout=60s")


def test_a_ready_agent_takes_the_taint_off(tainted: cluster.Cluster) -> None:
    """And leaves others alone."""
    cluster.wait_until(
        lambda: TAINT not in taints(tainted, "n2"),
        lambda: f"n2 has {taints(tainted, 'n2')}",
        timeout=30,
    )
    assert OTHER in taints(tainted, "n2")


def test_an_agent_may_write_to_its_own_node_and_for_that_alone(tainted: cluster.Cluster) -> None:
    agents = tainted.items(
        f"{pods.path(NAMESPACE)}?labelSelector=app.kubernetes.io%2Fcomponent%3Dagent"
    )
    pod = next(agent for agent in agents if agent["spec"]["nodeName"] == "n1")
    token = tainted.kubectl(
        "create", "token", "chrek-agent", f"--namespace={NAMESPACE}", "--bound-object-kind=Pod",
        f"--bound-object-name={pod['metadata']['name']}",
    ).strip()  # fmt: skip

    def patch(node: str, operations: list[dict[str, object]]) -> str:
        # Without the client certificate of the kubeconfig, which would count first.
        server = tainted.kubectl("config", "view", "-o", "jsonpath={.clusters[0].cluster.server}")
        return tainted.kubectl(
            "patch", "node", node, "--type=json", f"--patch={json.dumps(operations)}",
            f"--token={token}", f"--server={server}", "--insecure-skip-tls-verify",
            "--kubeconfig=/dev/null", "--dry-run=server", check=False,
        )  # fmt: skip

    label = [{"op": "add", "path": "/metadata/labels/chrek.test~1stolen", "value": "yes"}]
    assert "leaves everything but that taint as it is" in patch("n1", label)
    cordon = [{"op": "add", "path": "/spec/unschedulable", "value": True}]
    assert "leaves everything but that taint as it is" in patch("n1", cordon)
    others = [{"op": "add", "path": "/spec/taints", "value": [{"key": "a", "effect": "NoExecute"}]}]
    assert f"takes off the taint {TAINT} and no other" in patch("n1", others)
    assert "may write to its own node only" in patch("n2", label)
    assert "patched" in patch("n1", [])
