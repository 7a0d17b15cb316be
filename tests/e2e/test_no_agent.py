"""A node without an agent, as a taint that the agent does not tolerate makes one."""

from __future__ import annotations

from e2e import fault, place, tiny


def test_the_node_has_no_agent(here: place.Place, counter: tiny.Worker) -> None:
    with fault.without_agent(here, "n2"):
        wanted = counter.pod("no-agent", node="n2", tolerations=[fault.TOLERATION])
        place.serves_cold(here, wanted, {"AgentUnavailable"}, timeout=90)
