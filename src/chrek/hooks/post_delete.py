"""After an uninstallation: what the release left in directories of nodes is removed.

Agents keep a journal there and, with a store on a server, copies of artifacts: the memory of
workers, secrets included. Nothing of the release is left that could remove them, so this makes a
DaemonSet with a pod on each node that agents were for, and takes it away again. The scheduler keeps
these pods off nodes whose agent still finishes what it had begun. A node that cannot be cleaned is
told, with the command for it, and is no failure: the release is gone. Idempotent; every wait is
bounded.
"""

from __future__ import annotations

import copy
import dataclasses
import shlex
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from chrek import errors
from chrek.checks import nodes, report, rollout, settings
from chrek.hooks import program
from chrek.kube import workstation

MANIFEST = "clean-up.yaml"
"""The DaemonSet, as the chart renders it."""
CONTAINER = "clean-up"
"""Its init container, which does the work; the other one only waits."""

DEADLINE_SECONDS = 220.0
"""Of all nodes; the Job's own is a little longer, and so is Helm's patience (five minutes)."""
AGENT_SECONDS = 120.0
"""An agent has as a rule nothing to finish; one that dumps may need half an hour."""
EXPIRY_SECONDS = 30.0
"""After the deadline nothing is removed any more, whatever becomes of the DaemonSet."""
START_SECONDS = 15.0
"""Tools other than Helm make Job and rights at once, and rights count a moment later."""
GONE_SECONDS = 20.0
POLL_SECONDS = 0.5

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
Object = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Node:
    """A node and how far its clean-up is.

    Attributes:
        name: of the node.
        detail: what was removed, or why nothing was.
        done: whether everything is gone.
        final: whether there is nothing to wait for.
        when: what comes before the command by hand.
    """

    name: str
    detail: str
    done: bool = False
    final: bool = True
    when: str = ""

    def outcome(self, paths: Sequence[str]) -> report.Outcome:
        where = f"node {self.name}"
        if self.done:
            return report.ok(where, self.detail)
        return report.warning(where, self.detail, f"{self.when}run there: {by_hand(paths)}")


@dataclasses.dataclass(frozen=True)
class Look:
    """What one look at the cluster found.

    Attributes:
        nodes: those that have a pod of the DaemonSet, or an agent.
        missing: pods that its controller has yet to make; `None` while it has not counted them.
    """

    nodes: list[Node]
    missing: int | None

    @property
    def settled(self) -> bool:
        return self.missing == 0 and all(node.final for node in self.nodes)


class Sweep:
    """One clean-up of all nodes."""

    def __init__(
        self, cluster: workstation.Cluster, config: settings.ReleaseConfig, manifest: Object
    ) -> None:
        """Prepare; `manifest` is the DaemonSet as the chart renders it."""
        self._cluster = cluster
        self._config = config
        self._manifest = manifest
        self._labels: dict[str, str] = manifest["spec"]["selector"]["matchLabels"]
        self._sets = workstation.path("apps/v1", "daemonsets", config.namespace)
        self._path = f"{self._sets}/{manifest['metadata']['name']}"
        self._pods = workstation.path("v1", "pods", config.namespace)
        self._begin = time.monotonic()
        self._away: frozenset[str] = frozenset()
        self._uid = ""
        self._done: dict[str, Node] = {}

    def run(self) -> list[report.Outcome]:
        """Do it.

        Raises:
            ApiError: the API server refused to be asked, or did not answer.
        """
        self._patiently(self._ask, also=403)
        try:
            # Conflict: one that somebody deletes in the foreground is there until its pods are not.
            self._patiently(self._create, also=409)
        except errors.ApiError as err:
            if _passing(err):
                raise
            hint = f"run on each node that had an agent: {by_hand(self._config.nodePaths)}"
            return [report.warning("nodes", f"no clean-up is admitted: {err.message}", hint)]
        try:
            found = self._wait()
        finally:
            self._cluster.delete(self._path)
        rows = [node.outcome(self._config.nodePaths) for node in found.nodes]
        return [*rows, self._summary(found), self._gone()]

    def _patiently(self, action: Callable[[], None], *, also: int) -> None:
        """Act; again and again while the answer, or the status `also`, may be of the moment."""
        while True:
            try:
                return action()
            except errors.ApiError as err:
                passing = err.status == also or _passing(err)
                if not passing or self._elapsed() >= START_SECONDS:
                    raise
            time.sleep(POLL_SECONDS)

    def _ask(self) -> None:
        """Learn which nodes are not Ready, and whether cluster and namespace give the rights."""
        every = nodes.every(self._cluster)
        self._away = frozenset(
            node["metadata"]["name"] for node in every if not workstation.is_true(node, "Ready")
        )
        self._agents()

    def _create(self) -> None:
        """Make the DaemonSet, in place of one that a run before this one left.

        Raises:
            ApiError: it, or a pod of it, is not admitted.
        """
        pod = {"apiVersion": "v1", "kind": "Pod", **self._manifest["spec"]["template"]}
        metadata = {**pod["metadata"], "generateName": "chrek-clean-up-"}
        # The controller of DaemonSets would keep to itself why it cannot make pods.
        self._cluster.create(self._pods, {**pod, "metadata": metadata}, dry_run=True)
        expires = time.time() + DEADLINE_SECONDS - self._elapsed() + EXPIRY_SECONDS
        wanted = order(
            self._manifest, self._config.agentLabels, expires=expires, owner=program.own_pod()
        )
        self._cluster.delete(self._path)
        self._uid = str(self._cluster.create(self._sets, wanted)["metadata"]["uid"])

    def _wait(self) -> Look:
        """Look until every node is done, or is not worth waiting for, or the time is over."""
        seen = Look([], None)
        while True:
            over = self._elapsed() >= DEADLINE_SECONDS
            try:
                now = self._look()
            except errors.ApiError as err:
                if over or not _passing(err):
                    raise
            else:
                if now is None:
                    # Somebody deleted the DaemonSet: the namespace may be about to go.
                    return seen
                seen = now
            if over or seen.settled:
                return seen
            time.sleep(POLL_SECONDS)

    def _look(self) -> Look | None:
        """How it is now; `None` when the DaemonSet is gone."""
        daemon_set = self._cluster.get(self._path)
        if daemon_set is None:
            return None
        pods = {rollout.node_of(pod): pod for pod in self._own_pods()}
        agents = self._agents()
        now = {
            name: self._node(name, pods.get(name), agents.get(name, ""))
            for name in {*pods, *agents}
        }
        # What is clean stays so, whatever becomes of its pod.
        self._done |= {name: node for name, node in now.items() if node.done}
        now |= self._done
        status = daemon_set.get("status") or {}
        missing = None
        if status.get("observedGeneration", 0) >= daemon_set["metadata"]["generation"]:
            wanted = status.get("desiredNumberScheduled", 0)
            missing = max(0, wanted - len({*pods, *self._done}))
        return Look([now[name] for name in sorted(now)], missing)

    def _node(self, name: str, pod: Object | None, agent: str) -> Node:
        ended = _ended(pod) if pod else None
        if ended is not None:
            code = ended.get("exitCode", 0)
            said = str(ended.get("message") or "").strip().rpartition("\n")[2]
            detail = said or f"{ended.get('reason', 'ended')} (exit code {code})"
            return Node(name, detail, done=code == 0)
        if name in self._away:
            return Node(name, "the node is NotReady", when="when it is back, ")
        if agent:
            final = self._elapsed() >= AGENT_SECONDS
            detail = f"agent {agent} has not ended"
            return Node(name, detail, final=final, when="when it has, ")
        return Node(name, _problem(pod or {}), final=False)

    def _agents(self) -> dict[str, str]:
        """Node -> name of the agent's pod that is still there."""
        found = self._cluster.find(self._pods, labels=self._config.agentLabels)
        return {
            name: str(pod["metadata"]["name"]) for pod in found if (name := rollout.node_of(pod))
        }

    def _own_pods(self) -> list[Object]:
        """Pods of the DaemonSet, and not of one before it that had its name."""
        found = self._cluster.find(self._pods, labels=self._labels)
        return [
            pod
            for pod in found
            if any(one["uid"] == self._uid for one in pod["metadata"].get("ownerReferences") or [])
        ]

    def _summary(self, found: Look) -> report.Outcome:
        name, done = "nodes", sum(node.done for node in found.nodes)
        if found.missing != 0:
            return report.warning(
                name,
                f"{done} cleaned; the DaemonSet has not made all its pods",
                "run on each node that had an agent and is not named here: "
                f"{by_hand(self._config.nodePaths)}",
            )
        if not found.nodes:
            return report.ok(name, "agents were for none")
        return report.ok(name, f"{done} of {len(found.nodes)} cleaned")

    def _gone(self) -> report.Outcome:
        """Wait until the pods are gone."""
        name, deadline = "clean-up", time.monotonic() + GONE_SECONDS
        while True:
            over = time.monotonic() >= deadline
            try:
                left = self._cluster.find(self._pods, labels=self._labels)
            except errors.ApiError as err:
                if over or not _passing(err):
                    raise
            else:
                if not left:
                    return report.ok(name, "its DaemonSet and pods are gone")
                if over:
                    told = nodes.named(sorted(str(pod["metadata"]["name"]) for pod in left))
                    hint = "nothing: they go when their nodes are Ready, or deleted"
                    return report.warning(name, f"pods are still there: {told}", hint)
            time.sleep(POLL_SECONDS)

    def _elapsed(self) -> float:
        return time.monotonic() - self._begin


def clean_up(context: program.Context) -> Sequence[report.Outcome]:
    """Remove what the release left on nodes."""
    path = context.directory / MANIFEST
    manifest = settings.load_pod(path)
    if manifest is None:
        raise errors.ConfigError(f"{path}: not found", hint="the chart writes this file")
    # The first process of a container would not hear of it, and leave the DaemonSet to its owner.
    before = signal.signal(signal.SIGTERM, _end)
    try:
        return Sweep(context.cluster, context.config, manifest).run()
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def order(
    manifest: Object, agent_labels: Mapping[str, str], *, expires: float, owner: Object | None
) -> Object:
    """The DaemonSet with what only this run knows.

    Args:
        manifest: as the chart renders it.
        agent_labels: of the agents' pods; on a node that has one nothing is removed.
        expires: time of day (seconds) after which nothing is removed any more.
        owner: with this object the DaemonSet goes, however the run ends.
    """
    made = copy.deepcopy(manifest)
    if owner:
        made["metadata"]["ownerReferences"] = [owner]
    spec = made["spec"]["template"]["spec"]
    spec["initContainers"][0]["args"] = [f"--until={expires:.0f}"]
    apart = {
        "labelSelector": {"matchLabels": dict(agent_labels)},
        "topologyKey": "kubernetes.io/hostname",
    }
    affinity = spec.setdefault("affinity", {})
    affinity.setdefault("podAntiAffinity", {}).setdefault(REQUIRED, []).append(apart)
    return made


def by_hand(paths: Sequence[str]) -> str:
    return shlex.join(["rm", "-rf", *paths])


def _ended(pod: Object) -> Object | None:
    """How the container that does the work ended, the last time; `None` before it has."""
    state = _container(pod)
    for key in ("state", "lastState"):
        ended: Object | None = (state.get(key) or {}).get("terminated")
        if ended:
            return ended
    return None


def _problem(pod: Object) -> str:
    """Why that container has not ended."""
    waiting = (_container(pod).get("state") or {}).get("waiting") or {}
    if waiting.get("reason", "PodInitializing") != "PodInitializing":
        return ": ".join(filter(None, [waiting["reason"], waiting.get("message", "")]))
    return rollout.unscheduled(pod) or "its pod has not come so far"


def _container(pod: Object) -> Object:
    statuses: list[Object] = (pod.get("status") or {}).get("initContainerStatuses") or []
    return next((status for status in statuses if status["name"] == CONTAINER), {})


def _passing(err: errors.ApiError) -> bool:
    """Whether the API server may answer otherwise in a moment."""
    return err.status in (0, 429) or err.status >= 500


main = program.command(
    clean_up,
    title="post-delete",
    again="remove by hand what is named above, or install {release} -n {namespace} and uninstall "
    "it again",
)
