"""What is looked at after an installation or an upgrade: does the release work?"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence

from chrek.checks import agents, report, rollout, settings, webhook
from chrek.kube import workstation

POLL_SECONDS = 0.5


def wait(
    cluster: workstation.Cluster,
    config: settings.ReleaseConfig,
    *,
    reader: agents.Reader | None = None,
    poll_seconds: float = POLL_SECONDS,
) -> list[report.Outcome]:
    """Look until everything is ready or the time is over, then ask the agents.

    Args:
        cluster: the connection.
        config: of the release; it says how long is waited.
        reader: asks an agent; by default at its pod's address.
        poll_seconds: from one look to the next.
    """
    deadline = time.monotonic() + config.timeoutSeconds
    while True:
        started = time.monotonic()
        found = _Sight(cluster, config, last=started >= deadline)
        if found.settled or started >= deadline:
            return found.outcomes(reader)
        # Of a large cluster a look costs the API server something.
        time.sleep(max(poll_seconds, time.monotonic() - started))


def look(
    cluster: workstation.Cluster,
    config: settings.ReleaseConfig,
    *,
    reader: agents.Reader | None = None,
    parallel: int = agents.PARALLEL,
    attempt: report.Attempt = report.plainly,
) -> list[report.Outcome]:
    """How the release is now; nothing is waited for.

    Args:
        cluster: the connection.
        config: of the release.
        reader: asks an agent; by default at its pod's address.
        parallel: how many agents are asked at once.
        attempt: runs each check.
    """
    return _Sight(cluster, config, last=True, attempt=attempt).outcomes(reader, parallel=parallel)


class _Sight:
    """A release at one moment.

    Attributes:
        settled: nothing more is to be waited for.
    """

    def __init__(
        self,
        cluster: workstation.Cluster,
        config: settings.ReleaseConfig,
        *,
        last: bool,
        attempt: report.Attempt = report.plainly,
    ) -> None:
        self._cluster, self._config = cluster, config
        self._nodes: list[rollout.Node] | None = []
        self._services: list[report.Outcome] = []
        self._unseen: Sequence[report.Outcome] = []
        if config.agentName:
            self._unseen = attempt("agents", self._see_nodes)
        if config.operatorName:
            self._services += attempt("operator", lambda: [rollout.operator(cluster, config)])
        works = not report.failures(self._services)
        ready = works and not report.failures(self._of_agents())
        # A node that is NotReady may stay so; one that is Ready gets its time.
        ready = ready and all(node.ready or not node.healthy for node in self._nodes or [])
        if config.operatorName and works and (ready or last):
            # A webhook that nobody reaches takes seconds to say so: it is asked at the end.
            self._services += attempt(webhook.NAME, lambda: [webhook.webhook(cluster, config)])
        elif config.operatorName:
            self._services.append(webhook.not_asked())
        self.settled = ready and not report.failures(self._services)

    def outcomes(
        self, reader: agents.Reader | None, *, parallel: int = agents.PARALLEL
    ) -> list[report.Outcome]:
        """Everything, with what the agents say."""
        if self._nodes:
            self._nodes = rollout.warned(self._cluster, self._config, self._nodes)
        ask = reader or functools.partial(agents.direct, default_port=self._config.agentHttpPort)
        running = [node.pod for node in self._nodes or [] if agents.runs(node.pod)]
        answers = agents.read(running, ask, parallel=parallel)
        return [*self._of_agents(answers), *self._services]

    def _see_nodes(self) -> Sequence[report.Outcome]:
        self._nodes = rollout.nodes(self._cluster, self._config)
        return []

    def _of_agents(
        self, answers: dict[str, agents.Answer] | None = None
    ) -> Sequence[report.Outcome]:
        if self._unseen or not self._config.agentName:
            return self._unseen
        return rollout.agents(self._nodes, self._config, answers)
