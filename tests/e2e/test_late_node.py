"""A node that joins after everything else: its pod waits for its agent and is warm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e import place, tiny
from showcase import cluster, commands, pods, setup

NODE = "n3"


@pytest.fixture
def late(here: place.Place) -> Iterator[str]:
    """A third node, started in the test and gone afterwards."""
    script = setup.SCRIPTS / "cluster"
    here.live.kubectl("delete", "node", NODE, "--ignore-not-found")
    try:
        yield NODE
    finally:
        commands.run([script, "stop", NODE], check=False)
        here.live.kubectl("delete", "node", NODE, "--ignore-not-found")


def test_pod_and_agent_start_together_and_the_pod_is_warm(
    here: place.Place, counter: tiny.Worker, late: str
) -> None:
    # The pod waits for the node before there is one.
    with here.created(counter.pod("late", node=late)) as name:
        commands.run([setup.SCRIPTS / "cluster", "start", late], timeout=120)
        pod = pods.wait_ready(here.live, here.namespace, name, timeout=90)
        place.assert_warm(here.live, pod)
        assert pods.node(pod) == late
        assert pods.container(pod)["restartCount"] == 0
        agents = here.live.items(
            f"{pods.path(here.namespace)}?labelSelector=app.kubernetes.io%2Fcomponent%3Dagent"
        )
        started = [pods.container(one, "agent") for one in agents if pods.node(one) == late]
        assert len(started) == 1
        cluster.wait_until(
            lambda: all(pods.is_ready(pods.reload(here.live, one)) for one in agents),
            "all agents are ready",
            timeout=60,
        )
